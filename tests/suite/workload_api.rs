//! SPIFFE's Workload API as the source of the broker's own certificate and of the keys that it trusts, with an
//! agent of our own at the other end of the socket.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dayfly::app::certificate::ServerCertificate;
use dayfly::clock::SystemClock;
use dayfly::config::tls::{CertificateAt, ClientCertificates, TlsConfig};
use h2::server::SendResponse;
use http::{HeaderMap, Request, Response};
use reqwest::tls::TlsInfo;
use reqwest::{Client, Identity};
use serde_json::{Value, json};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::process::{Installation, Process, Site, dayfly, until};
use crate::tls::Authority;

const HOUR: Duration = Duration::from_secs(3600);
const BOT: &str = "spiffe://example.org/agents/support-bot";
const OURS: &str = "spiffe://example.org/dayfly";

/// What an agent says to whoever asks.
#[derive(Clone, Default)]
struct Says {
    /// SPIFFE ID, certificate, key.
    svid: Option<(String, Vec<u8>, Vec<u8>)>,
    x509: BTreeMap<String, Vec<u8>>,
    jwt: BTreeMap<String, Vec<u8>>,
}

/// An agent with a socket.
struct Agent {
    path: PathBuf,
    says: Arc<watch::Sender<Says>>,
    running: Option<DropGuard>,
}

impl Agent {
    fn start(path: PathBuf, says: Says) -> Self {
        let mut this = Self {
            path,
            says: Arc::new(watch::Sender::new(says)),
            running: None,
        };
        this.restart();
        this
    }

    /// Ends all connections, and nobody listens.
    fn stop(&mut self) {
        self.running = None;
        std::fs::remove_file(&self.path).unwrap();
    }

    fn restart(&mut self) {
        let listener = UnixListener::bind(&self.path).unwrap();
        let (stop, says) = (CancellationToken::new(), self.says.clone());
        let (stopped, tracker) = (stop.clone(), TaskTracker::new());
        TaskTracker::new().spawn(async move {
            let accepting = async {
                loop {
                    let (socket, _) = listener.accept().await.unwrap();
                    let serving = stopped
                        .clone()
                        .run_until_cancelled_owned(serve(socket, says.clone()));
                    tracker.spawn(serving);
                }
            };
            stopped.run_until_cancelled(accepting).await
        });
        self.running = Some(stop.drop_guard());
    }

    fn say(&self, change: impl FnOnce(&mut Says)) {
        self.says.send_modify(change);
    }
}

impl Says {
    fn svid_of(&mut self, authority: &Authority) {
        let (certificate, key) = authority.certify(&[OURS], HOUR);
        self.svid = Some((OURS.to_owned(), certificate.der().to_vec(), key.serialize_der()));
    }

    fn vouches(&mut self, domain: &str, authorities: &[&Authority]) {
        let der = authorities.iter().flat_map(|authority| authority.der());
        self.x509.insert(format!("spiffe://{domain}"), der.collect());
    }

    /// The next message of a call, or the status by which it ends.
    fn message(&self, path: &str) -> Result<Vec<u8>, &'static str> {
        let map = |place, map: &BTreeMap<String, Vec<u8>>| -> Vec<u8> {
            let entries = map.iter();
            let entry = |(name, value): (&String, &Vec<u8>)| {
                field(place, &[field(1, name.as_bytes()), field(2, value)].concat())
            };
            entries.flat_map(entry).collect()
        };
        match (path, &self.svid) {
            ("/SpiffeWorkloadAPI/FetchX509SVID", Some((id, chain, key))) => {
                let fields = [
                    field(1, id.as_bytes()),
                    field(2, chain),
                    field(3, key),
                    field(4, chain),
                ];
                Ok(field(1, &fields.concat()))
            }
            ("/SpiffeWorkloadAPI/FetchX509SVID", None) => Err("7"),
            ("/SpiffeWorkloadAPI/FetchX509Bundles", _) => Ok(map(2, &self.x509)),
            ("/SpiffeWorkloadAPI/FetchJWTBundles", _) => Ok(map(1, &self.jwt)),
            _ => Err("12"),
        }
    }
}

fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut field = vec![(number << 3) | 2];
    let mut length = content.len();
    while length > 0x7f {
        field.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
        length >>= 7;
    }
    field.push(u8::try_from(length).unwrap());
    field.extend_from_slice(content);
    field
}

async fn serve(socket: UnixStream, says: Arc<watch::Sender<Says>>) {
    let mut connection = h2::server::handshake(socket).await.unwrap();
    let (tracker, mut calls) = (TaskTracker::new(), Vec::new());
    while let Some(Ok((request, respond))) = connection.accept().await {
        let call = answer(request, respond, says.subscribe());
        let stop = CancellationToken::new();
        tracker.spawn(stop.clone().run_until_cancelled_owned(call));
        calls.push(stop.drop_guard());
    }
}

async fn answer(
    request: Request<h2::RecvStream>,
    mut respond: SendResponse<axum::body::Bytes>,
    mut says: watch::Receiver<Says>,
) {
    let head = Response::builder().header("content-type", "application/grpc");
    let marked = request.headers().get("workload.spiffe.io");
    let first = says.borrow_and_update().message(request.uri().path());
    let first = first.and_then(|first| marked.map(|_| first).ok_or("3"));
    let mut message = match first {
        Ok(first) => first,
        Err(status) => {
            let head = head
                .header("grpc-status", status)
                .header("grpc-message", "no identity issued");
            respond.send_response(head.body(()).unwrap(), true).unwrap();
            return;
        }
    };
    let mut sending = respond.send_response(head.body(()).unwrap(), false).unwrap();
    loop {
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        let framed = [&[0], &length[..], &message].concat();
        if sending.send_data(framed.into(), false).is_err() || says.changed().await.is_err() {
            return;
        }
        message = match says.borrow_and_update().message(request.uri().path()) {
            Ok(message) => message,
            Err(status) => {
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", status.parse().unwrap());
                let _gone = sending.send_trailers(trailers);
                return;
            }
        };
    }
}

/// A broker that has all of its identity from an agent, and the authority of its trust domain.
struct Broker {
    files: Installation,
    site: Site,
    authority: Authority,
    agent: Agent,
}

impl Broker {
    fn new() -> Self {
        let (files, authority) = (Installation::new(), Authority::new());
        let socket = files.path("agent.sock");
        files.change("dayfly.toml", |text| {
            let line = text
                .lines()
                .find(|line| line.starts_with("bundle_file = "))
                .unwrap()
                .to_owned();
            text.replace(&line, &format!("workload_api = \"unix://{}\"", socket.display()))
                + &format!(
                    "\n[server.tls]\nworkload_api = \"unix://{}\"\nclient_certificates = \"optional\"\n",
                    socket.display()
                )
        });
        files.change("agents/support-bot.toml", |text| {
            text + &format!("\n[[match]]\nkind = \"x509_svid\"\nsubject = \"{BOT}\"\n")
        });
        let mut says = Says::default();
        says.svid_of(&authority);
        says.vouches("example.org", &[&authority]);
        let bundle = std::fs::read_to_string(files.path("bundle.json")).unwrap();
        // As SPIRE has it: a plain JWK Set.
        let mut bundle: Value = serde_json::from_str(&bundle).unwrap();
        for key in bundle["keys"].as_array_mut().unwrap() {
            key.as_object_mut().unwrap().remove("use").unwrap();
        }
        let jwks = json!({ "keys": bundle["keys"] }).to_string();
        says.jwt.insert("spiffe://example.org".to_owned(), jwks.into());
        Self {
            site: files.broker(),
            files,
            authority,
            agent: Agent::start(socket, says),
        }
    }

    fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.site.address)
    }

    async fn start(&self) -> Process {
        let mut process = self.site.launch();
        until("it answers", async || {
            assert!(!process.has_ended(), "{}", process.log());
            let answer = self.client(None).get(self.url("/readyz")).send().await.ok()?;
            answer.status().is_success().then_some(())
        })
        .await;
        process
    }

    fn client(&self, identity: Option<Identity>) -> Client {
        let client = self.authority.client();
        match identity {
            Some(identity) => client.identity(identity).build().unwrap(),
            None => client.build().unwrap(),
        }
    }

    /// The certificate that a new connection gets.
    async fn certificate(&self) -> Vec<u8> {
        let answer = self.client(None).get(self.url("/healthz")).send().await.unwrap();
        let info = answer.extensions().get::<TlsInfo>().unwrap();
        info.peer_certificate().unwrap().to_vec()
    }

    async fn post(&self, client: &Client, path: &str, body: &Value) -> Result<(u16, Value), reqwest::Error> {
        let answer = client.post(self.url(path)).json(body).send().await?;
        Ok((answer.status().as_u16(), answer.json().await?))
    }

    /// Opens a task by the certificate of the connection.
    async fn open(&self, client: &Client) -> Result<(u16, Value), reqwest::Error> {
        let task = json!({"purpose": "answer ticket 4711", "scope": [{"tool": "crm", "actions": ["read"]}]});
        self.post(client, "/v1/tasks", &task).await
    }

    /// A lease by the certificate of the connection.
    async fn lease(&self, client: &Client) -> String {
        let (status, task) = self.open(client).await.unwrap();
        assert_eq!(status, 201, "{task}");
        let path = format!("/v1/tasks/{}/credentials", task["id"].as_str().unwrap());
        let wanted = json!({"tool": "crm", "actions": ["read"], "resources": ["customers/42"]});
        let (status, issued) = self.post(client, &path, &wanted).await.unwrap();
        assert_eq!(status, 201, "{issued}");
        issued["lease"]["id"].as_str().unwrap().to_owned()
    }

    /// How it stands with a lease, asked with a token.
    async fn look_at(&self, lease: &str) -> Value {
        let request = self.client(None).get(self.url(&format!("/v1/leases/{lease}")));
        let evidence = self.files.evidence("ops-console").await;
        let answer = request.bearer_auth(evidence).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.json().await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_svid_is_served_to_new_connections_and_the_old_one_while_there_is_none() {
    let mut broker = Broker::new();
    let process = broker.start().await;
    let first = broker.certificate().await;
    assert_eq!(
        Some(&first),
        broker.agent.says.borrow().svid.as_ref().map(|svid| &svid.1)
    );
    let kept = broker.client(None);
    assert!(kept.get(broker.url("/healthz")).send().await.is_ok());

    broker.agent.say(|says| says.svid_of(&broker.authority));
    let second = until("the new one is served", async || {
        let now = broker.certificate().await;
        (now != first).then_some(now)
    })
    .await;
    let answer = kept.get(broker.url("/healthz")).send().await.unwrap();
    let info = answer.extensions().get::<TlsInfo>().unwrap();
    assert_eq!(info.peer_certificate().unwrap(), first, "what is open goes on");
    let metrics = kept.get(broker.url("/metrics")).send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    let gauge = "dayfly_certificate_expiry_timestamp_seconds{use=\"server\"} ";
    assert!(metrics.contains(gauge), "{metrics}");

    // A key of another certificate, none at all, nobody there.
    let (_, key) = broker.authority.certify(&[OURS], HOUR);
    broker
        .agent
        .say(|says| says.svid.as_mut().unwrap().2 = key.serialize_der());
    let says = async |what: &str| until(what, async || process.log().contains(what).then_some(())).await;
    says("is not that of the certificate").await;
    broker.agent.say(|says| says.svid = None);
    says("register the broker").await;
    broker.agent.stop();
    says("No such file").await;
    assert_eq!(broker.certificate().await, second);
    broker.agent.say(|says| says.svid_of(&broker.authority));
    broker.agent.restart();
    until("the agent is found again", async || {
        (broker.certificate().await != second).then_some(())
    })
    .await;
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_keys_of_a_trust_domain_come_and_go_with_what_they_vouched_for() {
    let mut broker = Broker::new();
    let (other, next) = (Authority::new(), Authority::new());
    broker.agent.say(|says| says.vouches("other.org", &[&other]));
    let process = broker.start().await;
    let configuration = broker.files.configuration();
    let words = ["doctor", "--config"].map(std::ffi::OsStr::new);
    let seen = tokio::task::block_in_place(|| dayfly(&[words[0], words[1], configuration.as_os_str()]));
    let seen = String::from_utf8(seen.stdout).unwrap();
    assert!(
        seen.contains(&format!("{OURS}, until")) && seen.contains("1 keys were read"),
        "{seen}"
    );

    let bot = broker.client(Some(broker.authority.svid(&[BOT], HOUR)));
    let lease = broker.lease(&bot).await;
    assert_eq!(broker.look_at(&lease).await["state"], "active");
    for foreign in [
        other.svid(&[BOT], HOUR),
        other.svid(&["spiffe://other.org/agents/support-bot"], HOUR),
    ] {
        let client = broker.client(Some(foreign));
        assert!(broker.open(&client).await.is_err(), "the handshake fails");
    }

    // What is said no more is used no more, and no key was taken back by that.
    broker
        .agent
        .say(|says| drop(says.x509.remove("spiffe://example.org")));
    until("nobody vouches for it", async || {
        let (status, answer) = broker.open(&bot).await.unwrap();
        assert!([201, 503].contains(&status), "{answer}");
        (status == 503).then_some(())
    })
    .await;
    assert!(
        process.log().contains("has no bundle of `example.org`"),
        "{}",
        process.log()
    );
    assert_eq!(broker.look_at(&lease).await["state"], "active");
    broker
        .agent
        .say(|says| says.vouches("example.org", &[&broker.authority]));
    until("it is back", async || {
        let (status, _) = broker.open(&bot).await.unwrap();
        (status == 201).then_some(())
    })
    .await;
    assert_eq!(broker.look_at(&lease).await["state"], "active");

    // It leaves while the agent starts anew.
    broker.agent.stop();
    broker.agent.say(|says| says.vouches("example.org", &[&next]));
    broker.agent.restart();
    let ended = until("it ended", async || {
        let lease = broker.look_at(&lease).await;
        (lease["state"] == "ended").then_some(lease)
    })
    .await;
    assert_eq!(ended["cause"], "attestation_revoked", "{ended}");
    let new = broker.client(Some(next.svid(&[BOT], HOUR)));
    assert_eq!(broker.open(&new).await.unwrap().0, 201);
    let refused = broker.open(&bot).await.map(|(status, _)| status);
    assert!(matches!(refused, Ok(401) | Err(_)), "{refused:?}");
    process.stop().await;
}

/// Why a listener has no certificate, after how long.
async fn refused(socket: &Path) -> (String, Duration) {
    let api = format!("unix://{}", socket.display()).parse().unwrap();
    let config = TlsConfig {
        certificate: CertificateAt::WorkloadApi(api),
        client_certificates: ClientCertificates::None,
    };
    let before = tokio::time::Instant::now();
    let opened = ServerCertificate::open(&config, "server", Arc::new(SystemClock::new())).await;
    (format!("{:#}", opened.err().unwrap()), before.elapsed())
}

#[tokio::test(start_paused = true)]
async fn without_an_svid_it_does_not_start_and_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let (none, silent, strange) = (
        folder.path().join("none.sock"),
        folder.path().join("silent.sock"),
        folder.path().join("strange.sock"),
    );
    let _silent = UnixListener::bind(&silent).unwrap();
    let _strange = Agent::start(strange.clone(), Says::default());
    for (socket, says) in [
        (none, "No such file"),
        (silent, "did not answer in time"),
        (strange, "register the broker with the agent's server"),
    ] {
        let (error, after) = refused(&socket).await;
        assert!(
            error.contains("start the SPIFFE agent") && error.contains(says),
            "{error}"
        );
        assert!(error.contains(socket.to_str().unwrap()), "{error}");
        let bounds = Duration::from_secs(10)..=Duration::from_secs(15);
        assert!(bounds.contains(&after), "{after:?}");
    }
}
