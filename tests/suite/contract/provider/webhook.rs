//! The webhook provider with two receivers: one that keeps the protocol to the letter, and the example
//! of the guide, where there is a Python to run it.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use dayfly::clock::{Clock as _, SystemClock};
use dayfly::entropy::OsEntropy;
use dayfly::identity::fetch::Roots;
use dayfly::keys::Algorithm;
use dayfly::keys::jose;
use dayfly::keys::key_ring::KeyRing;
use dayfly::keys::ring_keys::RingSigner;
use dayfly::model::access::Access;
use dayfly::model::credential::Credential;
use dayfly::model::lease::Ending;
use dayfly::model::time::Timestamp;
use dayfly::model::tool::Tool;
use dayfly::model::ttl::Ttl;
use dayfly::provider::Provider;
use dayfly::provider::webhook::{Settings, TYP, VERSION, Webhook};
use ring::digest::{SHA256, digest};
use tempfile::TempDir;

use super::{LIFE, Lab, Subject, a_tool};
use crate::world::receiver::{Lie, Receiver};
use crate::world::{ISSUER, access};

fn tool() -> Tool {
    a_tool("webhook", serde_json::json!({"plan": "small", "tags": ["a"]}))
}

#[async_trait]
impl Subject for Arc<Receiver> {
    fn provider(&self) -> Arc<dyn Provider> {
        Receiver::provider(self)
    }

    fn tool(&self) -> Tool {
        tool()
    }

    fn access(&self) -> Access {
        access("orders:read@customers/42")
    }

    fn unfit(&self) -> Option<Access> {
        Some(access("orders:read@suppliers/7"))
    }

    async fn works(&self, credential: &Credential) -> bool {
        let Credential::Bearer(key) = credential else {
            return false;
        };
        self.lets_in(key)
    }

    async fn pass(&self, by: Duration) -> bool {
        self.clock.advance(by);
        true
    }

    async fn fail_half_way(&self) -> bool {
        self.lie("mint", Lie::Says(StatusCode::BAD_GATEWAY, Vec::new(), Vec::new()));
        true
    }
}

provider_contract!(
    webhook,
    Some(async { crate::world::receiver::Receiver::start().await })
);

/// The example of the guide, run as it stands there.
struct Example {
    process: Child,
    url: String,
    keys: Arc<KeyRing>,
    provider: Arc<Webhook>,
    began: Timestamp,
    _folder: TempDir,
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn python() -> bool {
    let version = Command::new("python3")
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    version.is_ok_and(|status| status.success())
}

impl Example {
    fn start() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let guide = include_str!("../../../../docs/guides/webhook.md");
        let source = guide.split("\n```python\n").nth(1).unwrap();
        let source = source.split("\n```\n").next().unwrap();
        let signer = RingSigner::generate(Algorithm::Es256, &OsEntropy::new()).unwrap();
        let keys = Arc::new(KeyRing::of(Arc::new(signer)));
        let folder = tempfile::tempdir().unwrap();
        let (script, jwks) = (folder.path().join("receiver.py"), folder.path().join("jwks.json"));
        std::fs::write(&script, source).unwrap();
        std::fs::write(&jwks, &*keys.jwks()).unwrap();
        let mut process = Command::new("python3")
            .arg(&script)
            .args(["--issuer", ISSUER, "--port", "0", "--jwks"])
            .arg(format!("file://{}", jwks.display()))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut url = String::new();
        let mut told = BufReader::new(process.stdout.take().unwrap());
        told.read_line(&mut url).unwrap();
        let url = url.trim().to_owned();
        let clock = Arc::new(SystemClock::new());
        let settings = Settings {
            address: url.parse().unwrap(),
            roots: Roots::System,
            issuer: ISSUER.into(),
            ending: Ending::Immediate,
            // By a clock that nobody holds: enough for the slowest machine to come to its question.
            least: Ttl::from_secs(300).unwrap(),
            most: Ttl::from_secs(3600).unwrap(),
            renewable: true,
        };
        let entropy = Arc::new(OsEntropy::new());
        Self {
            process,
            url,
            began: clock.now(),
            provider: Arc::new(Webhook::new(&settings, keys.clone(), clock, entropy).unwrap()),
            keys,
            _folder: folder,
        }
    }
}

#[async_trait]
impl Subject for Example {
    fn provider(&self) -> Arc<dyn Provider> {
        self.provider.clone()
    }

    fn tool(&self) -> Tool {
        tool()
    }

    fn access(&self) -> Access {
        access("orders:read@customers/42")
    }

    fn unfit(&self) -> Option<Access> {
        Some(access("orders:read@suppliers/7"))
    }

    async fn works(&self, credential: &Credential) -> bool {
        let Credential::Bearer(key) = credential else {
            return false;
        };
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let hello = client.get(format!("{}/hello", self.url));
        hello
            .bearer_auth(key.expose())
            .send()
            .await
            .unwrap()
            .status()
            .is_success()
    }

    fn begins_at(&self) -> Timestamp {
        self.began
    }
}

provider_contract!(
    webhook_example,
    super::python().then_some(async { super::Example::start() })
);

/// A mint that was held up on its way can arrive after the end that was to undo it.
async fn what_was_ended_before_it_began_is_not_made(lab: Lab) {
    let reservation = lab.named(lab.subject.access(), LIFE).await;
    lab.provider.revoke(&reservation.lease().held()).await.unwrap();
    let error = lab.provider.mint(&reservation).await.unwrap_err();
    assert!(error.to_string().contains("this lease is over"), "{error}");
    lab.is_gone(&reservation.lease().held()).await;
}

#[tokio::test]
async fn a_mint_that_comes_after_its_end_makes_nothing() {
    what_was_ended_before_it_began_is_not_made(Lab::new(Receiver::start().await).await).await;
    if python() {
        what_was_ended_before_it_began_is_not_made(Lab::new(Example::start()).await).await;
    }
}

/// What anybody on the way could do with what they saw.
#[tokio::test]
async fn the_example_takes_an_order_once_and_whole() {
    if !python() {
        return;
    }
    let example = Example::start();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let claims = |body: &[u8], step: &str, jti: &str, life: u64| {
        let now = SystemClock::new().now().as_secs();
        serde_json::json!({
            "iss": ISSUER, "aud": example.url, "iat": now, "exp": now + life, "jti": jti,
            "htm": "POST", "htu": format!("{}/{step}", example.url),
            "body_sha256": BASE64URL.encode(digest(&SHA256, body)),
        })
    };
    let send = async |typ: &str, claims: &serde_json::Value, step: &str, body: &'static str| {
        let ticket = jose::sign(&*example.keys.current(), typ, claims).await.unwrap();
        let request = client.post(format!("{}/{step}", example.url)).bearer_auth(ticket);
        let request = request.header("dayfly-webhook-version", VERSION).body(body);
        request.send().await.unwrap().status().as_u16()
    };
    let good = claims(b"{}", "preflight", "1", 60);
    assert_eq!(send(TYP, &good, "preflight", "{}").await, 204);
    assert_eq!(send(TYP, &good, "preflight", "{}").await, 401, "again");
    let order = |jti, life| claims(b"{}", "preflight", jti, life);
    assert_eq!(
        send(TYP, &order("2", 60), "preflight", "{ }").await,
        401,
        "another body"
    );
    assert_eq!(
        send(TYP, &order("3", 60), "inventory", "{}").await,
        401,
        "another step"
    );
    assert_eq!(
        send("at+jwt", &order("4", 60), "preflight", "{}").await,
        401,
        "another type"
    );
    assert_eq!(
        send(TYP, &order("5", 61), "preflight", "{}").await,
        401,
        "too long"
    );
    for (claim, value) in [
        ("iss", "https://other.example.org"),
        ("aud", "http://127.0.0.1:1"),
        ("htm", "GET"),
    ] {
        let mut changed = order(claim, 60);
        changed[claim] = value.into();
        assert_eq!(
            send(TYP, &changed, "preflight", "{}").await,
            401,
            "another {claim}"
        );
    }
    for (name, by) in [("iat", 40), ("exp", -100)] {
        let mut changed = order(name, 60);
        let at = changed[name].as_i64().unwrap();
        changed[name] = (at + by).into();
        assert_eq!(
            send(TYP, &changed, "preflight", "{}").await,
            401,
            "another {name}"
        );
    }
    let mut before = order("6", 60);
    before["iat"] = (before["iat"].as_u64().unwrap() - 30).into();
    before["exp"] = (before["exp"].as_u64().unwrap() - 30).into();
    assert_eq!(
        send(TYP, &before, "preflight", "{}").await,
        503,
        "from before its start"
    );
    let stranger = RingSigner::generate(Algorithm::Es256, &OsEntropy::new()).unwrap();
    let ticket = jose::sign(&stranger, TYP, &order("7", 60)).await.unwrap();
    let [head, said, _] = ticket.split('.').collect::<Vec<_>>().try_into().unwrap();
    let ours = jose::sign(&*example.keys.current(), TYP, &order("7", 60))
        .await
        .unwrap();
    let mixed = format!(
        "{}.{said}.{}",
        ours.split('.').next().unwrap(),
        ticket.rsplit('.').next().unwrap()
    );
    for forged in [
        ticket.clone(),
        mixed,
        format!("{head}.{said}."),
        "a.b.c".into(),
        String::new(),
    ] {
        let request = client
            .post(format!("{}/preflight", example.url))
            .bearer_auth(forged);
        let request = request.header("dayfly-webhook-version", VERSION).body("{}");
        assert_eq!(request.send().await.unwrap().status().as_u16(), 401);
    }
}
