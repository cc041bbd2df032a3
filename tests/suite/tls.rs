//! TLS on the broker's own listener, through real sockets and the real binary.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use reqwest::tls::{self, TlsInfo};
use reqwest::{Certificate, Client, ClientBuilder, Identity, Version};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use dayfly::clock::{Clock as _, SystemClock};

use crate::process::{Installation, PATIENCE, Process, Site, dayfly, until};

/// An authority for servers and workloads.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    /// A pair for `localhost` and 127.0.0.1, in PEM.
    pub(crate) fn pair(&self) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let params = CertificateParams::new(names).unwrap();
        (
            params.signed_by(&key, &self.issuer).unwrap().pem(),
            key.serialize_pem(),
        )
    }

    /// An X.509-SVID with its key, that is good for so long.
    pub(crate) fn svid(&self, ids: &[&str], life: Duration) -> Identity {
        let (certificate, key) = self.certify(ids, life);
        let pem = certificate.pem() + &key.serialize_pem();
        Identity::from_pem(pem.as_bytes()).unwrap()
    }

    /// A certificate for these SPIFFE IDs, and for this machine, with its key.
    pub(crate) fn certify(&self, ids: &[&str], life: Duration) -> (rcgen::Certificate, KeyPair) {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(names).unwrap();
        let uri = |id: &&str| SanType::URI((*id).try_into().unwrap());
        params.subject_alt_names.extend(ids.iter().map(uri));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let now = Duration::from_secs(SystemClock::new().now().as_secs());
        params.not_before = rcgen::date_time_ymd(1970, 1, 1) + (now - Duration::from_secs(60));
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + (now + life);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    /// What a bundle says of it.
    fn entry(&self) -> Value {
        json!({"use": "x509-svid", "kty": "EC", "x5c": [BASE64.encode(self.der())]})
    }

    pub(crate) fn der(&self) -> Vec<u8> {
        let der = rustls::pki_types::pem::PemObject::from_pem_slice(self.pem.as_bytes());
        let der: rustls::pki_types::CertificateDer<'_> = der.unwrap();
        der.to_vec()
    }

    pub(crate) fn client(&self) -> ClientBuilder {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let certificate = Certificate::from_pem(self.pem.as_bytes()).unwrap();
        ClientBuilder::new()
            .timeout(PATIENCE)
            .tls_certs_only([certificate])
            .tls_info(true)
    }
}

/// A broker that speaks TLS.
struct Broker {
    files: Installation,
    site: Site,
    authority: Authority,
}

impl Broker {
    fn new() -> Self {
        let (files, authority) = (Installation::new(), Authority::new());
        let this = Self {
            site: files.broker(),
            files,
            authority,
        };
        this.write_pair(&this.authority.pair());
        fs::write(this.files.path("ca.pem"), &this.authority.pem).unwrap();
        this.files.change("dayfly.toml", |text| {
            text + "\n[server.tls]\ncert_file = \"tls.crt\"\nkey_file = \"tls.key\"\n"
        });
        this
    }

    fn write_pair(&self, (certificate, key): &(String, String)) {
        let key_file = self.files.path("tls.key");
        fs::write(self.files.path("tls.crt"), certificate).unwrap();
        fs::write(&key_file, key).unwrap();
        fs::set_permissions(&key_file, Permissions::from_mode(0o600)).unwrap();
    }

    fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.site.address)
    }

    async fn start(&self) -> Process {
        let mut process = self.site.launch();
        let client = self.authority.client().build().unwrap();
        until("it answers", async || {
            assert!(!process.has_ended(), "{}", process.log());
            client.get(self.url("/healthz")).send().await.ok()
        })
        .await;
        process
    }

    async fn metrics(&self) -> String {
        let client = self.authority.client().build().unwrap();
        let answer = client.get(self.url("/metrics")).send().await.unwrap();
        answer.text().await.unwrap()
    }

    /// The certificate that a new connection gets.
    async fn certificate(&self) -> Vec<u8> {
        let client = self.authority.client().build().unwrap();
        let answer = client.get(self.url("/healthz")).send().await.unwrap();
        let info = answer.extensions().get::<TlsInfo>().unwrap();
        info.peer_certificate().unwrap().to_vec()
    }

    async fn send(&self, client: &Client, agent: &str, path: &str, body: &Value) -> (u16, Value) {
        let evidence = self.files.evidence(agent).await;
        let request = client.post(self.url(path)).bearer_auth(evidence).json(body);
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_with_a_certificate_speaks_tls_and_nothing_else() {
    let broker = Broker::new();
    let process = broker.start().await;
    let both = broker.authority.client().build().unwrap();
    let old = broker.authority.client().http1_only().build().unwrap();
    for (client, version) in [(&both, Version::HTTP_2), (&old, Version::HTTP_11)] {
        let answer = client.get(broker.url("/healthz")).send().await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.version()), (200, version));
    }
    let task = json!({"purpose": "answer ticket 4711", "scope": [{"tool": "crm", "actions": ["read"]}]});
    let (status, task) = broker.send(&both, "support-bot", "/v1/tasks", &task).await;
    assert_eq!(status, 201, "{task}");

    let plain = reqwest::get(format!("http://{}/healthz", broker.site.address)).await;
    assert!(plain.is_err());
    let stranger = Authority::new().client().build().unwrap();
    assert!(stranger.get(broker.url("/healthz")).send().await.is_err());

    let metrics = broker.metrics().await;
    let gauge = "dayfly_certificate_expiry_timestamp_seconds{use=\"server\"} ";
    assert!(metrics.contains(gauge), "{metrics}");

    let (ca, evidence) = (
        broker.files.path("ca.pem"),
        broker.files.evidence_file("support-bot").await,
    );
    let url = broker.url("");
    let command = |more: &[&str]| {
        let all = [
            &["lease", "list", "--broker", &url, "--evidence"][..],
            &[evidence.to_str().unwrap()],
            more,
        ]
        .concat();
        let all: Vec<&std::ffi::OsStr> = all.iter().map(|word| (*word).as_ref()).collect();
        tokio::task::block_in_place(|| dayfly(&all))
    };
    let listed = command(&["--ca-file", ca.to_str().unwrap()]);
    assert!(listed.status.success(), "{listed:?}");
    assert_eq!(
        command(&[]).status.code(),
        Some(6),
        "nobody that is trusted vouches for it"
    );
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_pair_is_taken_into_use_and_a_broken_one_keeps_the_old_one() {
    let broker = Broker::new();
    let process = broker.start().await;
    let before = broker.certificate().await;
    let kept = broker.authority.client().build().unwrap();
    assert!(kept.get(broker.url("/healthz")).send().await.is_ok());

    broker.write_pair(&broker.authority.pair());
    process.hang_up();
    let after = until("the new pair is in use", async || {
        let now = broker.certificate().await;
        (now != before).then_some(now)
    })
    .await;
    let answer = kept.get(broker.url("/healthz")).send().await.unwrap();
    let info = answer.extensions().get::<TlsInfo>().unwrap();
    assert_eq!(info.peer_certificate().unwrap(), before, "what is open goes on");

    let (certificate, _) = broker.authority.pair();
    fs::write(broker.files.path("tls.crt"), certificate).unwrap();
    process.hang_up();
    until("it says so", async || {
        let log = process.log();
        log.contains("the key is not that of the certificate")
            .then_some(())
    })
    .await;
    assert_eq!(broker.certificate().await, after);
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_shake_hands_costs_nobody_else_anything() {
    let broker = Broker::new();
    let process = broker.start().await;
    let mut slow = Vec::new();
    for _ in 0..300 {
        let mut stream = TcpStream::connect(broker.site.address).await.unwrap();
        stream.write_all(b"\x16\x03\x01\x02\x00\x01").await.unwrap();
        slow.push(stream);
    }
    for _ in 0..20 {
        let client = broker.authority.client().timeout(Duration::from_secs(5));
        let answer = client.build().unwrap().get(broker.url("/healthz")).send().await;
        assert!(answer.is_ok(), "{answer:?}");
    }
    let mut stopping = process;
    stopping.terminate();
    let ended = tokio::time::timeout(Duration::from_secs(10), stopping.ended()).await;
    assert!(ended.unwrap().success(), "nor the shutdown");
    let mut rest = Vec::new();
    let _broken_off = slow[0].read_to_end(&mut rest).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_under_way_in_tls_is_finished_before_it_stops() {
    let broker = Broker::new();
    let mut process = broker.start().await;
    let client = broker.authority.client().build().unwrap();
    let following = client
        .get(broker.url("/v1/revocations"))
        .header("accept", "text/event-stream")
        .bearer_auth(broker.files.evidence("crm-server").await);
    // With the head of the answer it is under way, and stays so until Dayfly stops.
    let answer = following.send().await.unwrap();
    assert_eq!(answer.status(), 200);
    process.terminate();
    let rest = answer.bytes().await;
    assert!(rest.is_ok(), "it was cut off: {rest:?}");
    assert!(process.ended().await.success());
}

const BOT: &str = "spiffe://example.org/agents/support-bot";
const HOUR: Duration = Duration::from_secs(3600);

/// A broker that takes X.509-SVIDs of its trust domain, and the authority for them.
fn mutual() -> (Broker, Authority) {
    let (broker, svids) = (Broker::new(), Authority::new());
    broker.files.change("dayfly.toml", |text| {
        text.replace("key_file = ", "client_certificates = \"optional\"\nkey_file = ")
    });
    broker.files.change("agents/support-bot.toml", |text| {
        text + &format!("\n[[match]]\nkind = \"x509_svid\"\nsubject = \"{BOT}\"\n")
    });
    put_in_bundle(&broker, &[&svids], 2);
    (broker, svids)
}

fn put_in_bundle(broker: &Broker, authorities: &[&Authority], sequence: u64) {
    broker.files.change("bundle.json", |text| {
        let mut bundle: Value = serde_json::from_str(&text).unwrap();
        let keys = bundle["keys"].as_array_mut().unwrap();
        keys.retain(|key| key["use"] != "x509-svid");
        keys.extend(authorities.iter().map(|authority| authority.entry()));
        bundle["spiffe_sequence"] = sequence.into();
        bundle["spiffe_refresh_hint"] = 10.into();
        bundle.to_string()
    });
}

impl Broker {
    /// Opens a task, with the evidence of this agent if any.
    async fn open(&self, client: &Client, agent: Option<&str>) -> Result<(u16, Value), reqwest::Error> {
        let task = json!({"purpose": "answer ticket 4711", "scope": [{"tool": "crm", "actions": ["read"]}]});
        let mut request = client.post(self.url("/v1/tasks")).json(&task);
        if let Some(agent) = agent {
            request = request.bearer_auth(self.files.evidence(agent).await);
        }
        let answer = request.send().await?;
        Ok((answer.status().as_u16(), answer.json().await?))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_x509_svid_of_the_connection_is_evidence() {
    let (broker, svids) = mutual();
    let process = broker.start().await;
    let with = |identity: Identity| broker.authority.client().identity(identity);
    let bot = with(svids.svid(&[BOT], HOUR)).build().unwrap();
    let old = with(svids.svid(&[BOT], HOUR))
        .http1_only()
        .max_tls_version(tls::Version::TLS_1_2);
    for client in [&bot, &old.build().unwrap()] {
        let (status, task) = broker.open(client, None).await.unwrap();
        assert_eq!(status, 201, "{task}");
    }
    let records = broker.site.records();
    let attested = records.iter().map(|record| &record["attested"]);
    let attested = attested.filter(|attested| attested["kind"] == "x509_svid");
    assert!(attested.clone().count() >= 2, "{records:?}");
    assert!(attested.into_iter().all(|attested| attested["subject"] == BOT));

    // A token beside it has to say the same.
    assert_eq!(broker.open(&bot, Some("support-bot")).await.unwrap().0, 201);
    let (status, problem) = broker.open(&bot, Some("report-bot")).await.unwrap();
    assert_eq!(status, 401, "{problem}");
    assert!(
        problem["detail"].as_str().unwrap().contains("another workload"),
        "{problem}"
    );
    let nobody = broker.authority.client().build().unwrap();
    assert_eq!(broker.open(&nobody, None).await.unwrap().0, 401);
    assert_eq!(broker.open(&nobody, Some("report-bot")).await.unwrap().0, 201);
    let unregistered = with(svids.svid(&["spiffe://example.org/agents/nobody"], HOUR))
        .build()
        .unwrap();
    assert_eq!(broker.open(&unregistered, None).await.unwrap().0, 403);

    let other = Authority::new();
    for bad in [
        other.svid(&[BOT], HOUR),
        svids.svid(&[BOT, "spiffe://example.org/b"], HOUR),
        svids.svid(&["spiffe://other.org/a"], HOUR),
        svids.svid(&[], HOUR),
        svids.svid(&[BOT], Duration::ZERO),
        broker.authority.svid(&[BOT], HOUR),
    ] {
        let client = with(bad).build().unwrap();
        assert!(broker.open(&client, None).await.is_err(), "the handshake fails");
        assert!(client.get(broker.url("/healthz")).send().await.is_err());
    }
    let page = broker.metrics().await;
    for counted in [
        "dayfly_evidence_refused_total{reason=\"refused\"}",
        "dayfly_evidence_refused_total{reason=\"untimely\"}",
        "dayfly_tls_handshakes_failed_total{listener=\"server\",reason=\"refused\"}",
    ] {
        assert!(page.contains(counted), "{counted}: {page}");
    }
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_outlives_the_certificate_or_the_authority_of_it() {
    let (broker, svids) = mutual();
    let process = broker.start().await;
    let with = |identity: Identity| broker.authority.client().identity(identity).build().unwrap();
    let (short, long) = (
        with(svids.svid(&[BOT], Duration::from_secs(6))),
        with(svids.svid(&[BOT], HOUR)),
    );
    assert_eq!(broker.open(&short, None).await.unwrap().0, 201);
    let (status, task) = broker.open(&long, None).await.unwrap();
    assert_eq!(status, 201, "{task}");
    let path = format!("/v1/tasks/{}/credentials", task["id"].as_str().unwrap());
    let wanted = json!({"tool": "crm", "actions": ["read"], "resources": ["customers/42"]});
    let answer = long.post(broker.url(&path)).json(&wanted).send().await.unwrap();
    let issued: Value = answer.json().await.unwrap();
    let lease = broker.url(&format!("/v1/leases/{}", issued["lease"]["id"].as_str().unwrap()));
    // Busy as it is, the connection is closed, and another one does not come into being. So no more than the one request
    // that is under way at that instant is refused.
    let mut untimely = 0;
    until("its certificate has expired", async || {
        let opened = broker.open(&short, None).await;
        let status = opened.as_ref().map(|(status, _)| *status);
        assert!(matches!(status, Ok(201 | 401) | Err(_)), "{opened:?}");
        untimely += u32::from(status.is_ok_and(|status| status == 401));
        opened.err()
    })
    .await;
    assert!(untimely <= 1, "{untimely} were refused");
    put_in_bundle(&broker, &[&Authority::new()], 3);
    let mut refused = 0;
    until("its authority counts no more", async || {
        let opened = broker.open(&long, None).await;
        let status = opened.as_ref().map(|(status, _)| *status);
        assert!(matches!(status, Ok(201 | 401) | Err(_)), "{opened:?}");
        refused += u32::from(status.is_ok_and(|status| status == 401));
        opened.err()
    })
    .await;
    assert!(refused >= 1, "nobody knew before a request came");
    // What was given out by it ends.
    let operator = broker.authority.client().build().unwrap();
    let ended = until("the lease ended", async || {
        let evidence = broker.files.evidence("ops-console").await;
        let answer = operator.get(&lease).bearer_auth(evidence).send().await.unwrap();
        let lease: Value = answer.json().await.unwrap();
        (lease["state"] == "ended").then_some(lease)
    })
    .await;
    assert_eq!(ended["cause"], "attestation_revoked", "{ended}");
    process.stop().await;
}

/// The address that a listener got by itself, from the log.
async fn listener(process: &Process, whom: &str) -> String {
    until("it says where it listens", async || {
        let log = process.log();
        let line = log
            .lines()
            .find(|line| line.contains(&format!("{whom} have a listener")))?;
        let address = line.split("address=").nth(1)?;
        Some(address.split_whitespace().next()?.to_owned())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tools_and_operators_have_listeners_of_their_own() {
    let broker = Broker::new();
    broker.files.change("dayfly.toml", |text| {
        let (own, key) = (broker.files.path("own.crt"), broker.files.path("own.key"));
        let (certificate, private) = broker.authority.pair();
        fs::write(&own, certificate).unwrap();
        fs::write(&key, private).unwrap();
        fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
        text + &format!(
            "\n[server.tools]\nlisten = \"127.0.0.1:0\"\n\n[server.operators]\nlisten = \"127.0.0.1:0\"\n\n\
             [server.operators.tls]\ncert_file = {own:?}\nkey_file = {key:?}\n"
        )
    });
    let process = broker.start().await;
    let (tools, operators) = (
        listener(&process, "tools").await,
        listener(&process, "operators").await,
    );
    let main = broker.site.address.to_string();
    let client = broker.authority.client().build().unwrap();
    let evidence = broker.files.evidence("ops-console").await;
    for (path, at_main, at_tools, at_operators) in [
        ("/healthz", 200, 200, 200),
        ("/readyz", 200, 200, 200),
        ("/metrics", 404, 404, 200),
        ("/.well-known/jwks.json", 200, 200, 404),
        ("/v1/journal", 404, 404, 200),
        ("/v1/leases", 200, 404, 200),
        ("/v1/facts", 404, 404, 200),
    ] {
        for (address, expected) in [(&main, at_main), (&tools, at_tools), (&operators, at_operators)] {
            let request = client.get(format!("https://{address}{path}"));
            let answer = request.bearer_auth(&evidence).send().await.unwrap();
            assert_eq!(answer.status(), expected, "{path} at {address}");
        }
    }
    let certificate = async |address: &str| {
        let answer = client
            .get(format!("https://{address}/healthz"))
            .send()
            .await
            .unwrap();
        let info = answer.extensions().get::<TlsInfo>().unwrap();
        info.peer_certificate().unwrap().to_vec()
    };
    assert_eq!(certificate(&tools).await, certificate(&main).await);
    assert_ne!(certificate(&operators).await, certificate(&main).await);

    // Whoever does not trust ours, at the listener that has the certificate of another.
    let stranger = Authority::new().client().build().unwrap();
    let refused = stranger.get(format!("https://{tools}/healthz")).send().await;
    assert!(refused.is_err());
    let counted = [
        "dayfly_tls_handshakes_failed_total{listener=\"tools\",reason=\"other\"} ",
        "dayfly_certificate_expiry_timestamp_seconds{use=\"server\"} ",
        "dayfly_certificate_expiry_timestamp_seconds{use=\"operators\"} ",
    ];
    until("all of it is counted", async || {
        let answer = client.get(format!("https://{operators}/metrics")).send().await;
        let page = answer.unwrap().text().await.unwrap();
        counted.iter().all(|counted| page.contains(counted)).then_some(())
    })
    .await;
    process.stop().await;
}

#[test]
fn check_says_what_is_wrong_with_a_pair() {
    let broker = Broker::new();
    let configuration = broker.files.configuration();
    let check = || {
        let checked = dayfly(&["check".as_ref(), "--config".as_ref(), configuration.as_os_str()]);
        (
            checked.status.success(),
            String::from_utf8(checked.stdout).unwrap(),
        )
    };
    assert!(check().0, "{}", check().1);
    let key = broker.files.path("tls.key");
    fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
    let (valid, said) = check();
    assert!(
        !valid && said.contains("chmod 600") && said.contains("tls.key"),
        "{said}"
    );
    fs::remove_file(&key).unwrap();
    let (valid, said) = check();
    assert!(!valid && said.contains("tls.key"), "{said}");
}
