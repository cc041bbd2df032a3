//! Signals of an identity provider, from the wire to what follows: pushed and polled, good and forged, late,
//! twice, and too many.

mod ends;
mod meant;
mod polled;

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use dayfly::app;
use dayfly::config;
use dayfly::entropy::OsEntropy;
use dayfly::http::{self, HttpState, Limits};
use dayfly::journal::record::{Result as Outcome, Signalled, Verb};
use dayfly::model::cutoff::Cutoff;
use dayfly::model::fact::{Facts, FactsVersion};
use dayfly::model::lease::{Cause, Lease, LeaseState};
use dayfly::model::time::Timestamp;
use dayfly::telemetry;
use reqwest::header::{CONTENT_LANGUAGE, CONTENT_TYPE, WWW_AUTHENTICATE};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::world::gated::{Gate, Gated};
use crate::world::transmitter::{BEARER, IDP, Transmitter, caep, claims};
use crate::world::{ISSUER, Plan, World};

const SET: &str = "application/secevent+jwt";

/// Keeps what follows from being written down.
#[derive(Default)]
struct Outage(AtomicBool);

#[async_trait]
impl Gate for Outage {
    async fn before(&self, _: &'static str) {}

    async fn after(&self, _: &'static str) {}

    fn is_down(&self, call: &'static str) -> bool {
        self.0.load(Ordering::Acquire) && matches!(call, "state" | "cut" | "order_recheck")
    }
}

/// A broker that listens to one transmitter.
struct House {
    world: World,
    idp: Transmitter,
    outage: Arc<Outage>,
    polled: Vec<app::signals::Polled>,
    address: String,
    client: reqwest::Client,
    stop: CancellationToken,
    _stop: DropGuard,
    /// The bearer token is read for each poll.
    _folder: tempfile::TempDir,
}

impl House {
    async fn new() -> Self {
        Self::of(Transmitter::start().await, "delivery = 'push'").await
    }

    async fn polling() -> Self {
        let idp = Transmitter::start().await;
        let poll = format!(
            "delivery = 'poll'\npoll = {{ url = '{}', interval = '1s', wait = '20s' }}",
            idp.url("/poll")
        );
        Self::of(idp, &poll).await
    }

    async fn of(idp: Transmitter, delivery: &str) -> Self {
        let outage = Arc::new(Outage::default());
        let gate = Arc::clone(&outage);
        let world = World::of(Plan {
            ledger: Box::new(move |ledger| Arc::new(Gated { ledger, gate })),
            ..Plan::default()
        });
        let folder = tempfile::tempdir().unwrap();
        let token_file = folder.path().join("token");
        std::fs::write(&token_file, format!("{BEARER}\n")).unwrap();
        let stream = |name: &str| {
            format!(
                "[[signals.streams]]\nname = '{name}'\nissuer = '{IDP}'\naudiences = ['{ISSUER}']\njwks_url = '{}'\n\
                 token_file = '{}'\nuser_ids.iss_sub = 'user:{{sub}}'\nclaims = {{ department = 'dept' }}\n\
                 about = {{ users = ['user:*', '*@example.org'], agents = ['support-*'] }}\n",
                idp.url("/jwks.json"),
                token_file.display()
            )
        };
        let text = format!(
            "{}{delivery}\n{}delivery = 'push'\n[server]\npublic_url = '{ISSUER}'\n\
             [[provider]]\nname = 'jwt'\nkind = 'jwt'\n[[identity.trust_domain]]\nname = 'a'\nbundle_file = 'b'\n",
            stream("idp"),
            stream("other"),
        );
        let config = config::parse("dayfly.toml", std::path::Path::new(""), &text).unwrap();
        let (streams, polled) = app::signals::build(&config, world.now()).unwrap();
        let stop = CancellationToken::new();
        for stream in streams.iter() {
            let entropy = Arc::new(OsEntropy::new());
            TaskTracker::new().spawn(Arc::clone(stream.keys()).run(entropy, stop.clone()));
        }
        let keys = Arc::clone(&world.keys);
        let state = HttpState {
            broker: Arc::clone(&world.broker),
            streams: Arc::new(streams),
            jwks: Arc::new(move || keys.jwks()),
            issuer: ISSUER.into(),
            metrics: telemetry::init_metrics().unwrap(),
            tracker: TaskTracker::new(),
            stop: stop.clone(),
        };
        let limits = Limits {
            body: 65_536,
            concurrency: NonZeroUsize::new(64).unwrap(),
            request: Duration::from_secs(10),
            drain: Duration::from_secs(1),
        };
        let router = http::router(state, &limits);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let stopped = stop.clone();
        TaskTracker::new().spawn(async move {
            tokio::select! {
                () = stopped.cancelled() => {}
                _ = axum::serve(listener, router) => {}
            }
        });
        let client = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([])
            .build()
            .unwrap();
        Self {
            world,
            idp,
            outage,
            polled,
            address,
            client,
            _stop: stop.clone().drop_guard(),
            _folder: folder,
            stop,
        }
    }

    fn request(&self, stream: &str, set: impl Into<reqwest::Body>) -> reqwest::RequestBuilder {
        self.client
            .post(format!("http://{}/v1/signals/{stream}", self.address))
            .header(CONTENT_TYPE, SET)
            .bearer_auth(BEARER)
            .body(set)
    }

    /// Pushes a token, and reads what is answered.
    async fn push(&self, set: impl Into<reqwest::Body>) -> (u16, String) {
        let answer = self.request("idp", set).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// Pushes a token with these claims that is not taken, and says why: the word and the description.
    async fn refused(&self, claims: &Value) -> (String, String) {
        let (status, body) = self.push(self.idp.sign(claims).await).await;
        assert_eq!(status, 400, "{body}");
        let body: Value = serde_json::from_str(&body).unwrap();
        let text = |name: &str| body[name].as_str().unwrap().to_owned();
        (text("err"), text("description"))
    }

    /// Pushes a token about a subject that is taken.
    async fn tell(&self, jti: &str, subject: &Value, event: &str, body: Value, at: Timestamp) {
        let set = self.idp.sign(&claims(jti, subject, event, body, at)).await;
        assert_eq!(self.push(set).await, (202, String::new()), "{event}");
    }

    /// What is so, as `user/user:ann risk=high`.
    async fn facts(&self) -> Vec<String> {
        let stated = self
            .world
            .ledger
            .facts(FactsVersion(0), Duration::ZERO)
            .await
            .unwrap();
        let facts = Facts::default().with(stated.stated, stated.version);
        let stated = facts.in_force(self.world.now());
        let mut stated: Vec<_> = stated
            .map(|fact| format!("{} {}={}", fact.about, fact.name, fact.value.clone().unwrap()))
            .collect();
        stated.sort();
        stated
    }

    async fn cutoffs(&self) -> Vec<Cutoff> {
        self.world.ledger.cutoffs().await.unwrap()
    }

    /// Works off what was ordered, and then all that is due.
    async fn settle(&self) {
        while self.world.broker.recheck().await.unwrap() {}
        self.world.reap().await;
    }

    /// Why the lease ended, if it did.
    async fn cause(&self, lease: &Lease) -> Option<Cause> {
        match self.world.ledger.lease(lease.id).await.unwrap().unwrap().state {
            LeaseState::Ended { cause, .. } => Some(cause),
            LeaseState::Active => None,
            other => panic!("{other:?}"),
        }
    }

    /// The last record of a signal.
    fn told(&self) -> (Outcome, Signalled, Option<String>) {
        let record = self.world.records(Verb::Signal).pop().unwrap();
        (record.result, *record.signal.unwrap(), record.reason)
    }

    fn ago(&self, seconds: u64) -> Timestamp {
        self.world.now().minus(Duration::from_secs(seconds))
    }

    /// Polls as `app` does.
    fn poll(&self) {
        for (stream, transmitter) in &self.polled {
            let polling = Arc::clone(&self.world.broker).poll(
                Arc::clone(stream),
                Arc::clone(transmitter),
                self.stop.clone(),
            );
            TaskTracker::new().spawn(polling);
        }
    }
}

fn ann() -> Value {
    json!({"format": "iss_sub", "iss": IDP, "sub": "ann"})
}

fn high() -> Value {
    json!({"principal": "USER", "current_level": "HIGH"})
}

#[tokio::test]
async fn what_is_pushed_is_taken_once_whatever_it_is_signed_with() {
    let mut transmitters = vec![Transmitter::start().await];
    #[cfg(feature = "josekit")]
    transmitters.push(Transmitter::rsa().await);
    for idp in transmitters {
        let house = House::of(idp, "delivery = 'push'").await;
        let event = caep("risk-level-change");
        let set = house
            .idp
            .sign(&claims("set-1", &ann(), &event, high(), house.ago(5)))
            .await;
        for _ in 0..2 {
            assert_eq!(house.push(set.clone()).await, (202, String::new()));
        }
        assert_eq!(house.facts().await, ["user/user:ann risk=high"]);
        assert_eq!(
            house.world.records(Verb::Signal).len(),
            1,
            "it came twice and was taken once"
        );
        let (result, told, _) = house.told();
        let meant = Signalled {
            effects: vec!["user/user:ann risk=high".into()],
            event: Some(event),
            happened_at: Some(house.ago(5)),
            jti: Some("set-1".into()),
            stream: "idp".parse().unwrap(),
        };
        assert_eq!((result, told), (Outcome::Permitted, meant));
        let record = house.world.records(Verb::Signal).pop().unwrap();
        assert_eq!(record.on_behalf_of.unwrap().as_str(), "user:ann");
        assert!(record.request.is_some());
    }
}

#[tokio::test]
async fn what_the_transmitter_did_not_say_to_us_is_refused_as_rfc_8935_says() {
    let house = House::new().await;
    let good = claims("set-1", &ann(), &caep("session-revoked"), json!({}), house.ago(5));
    let with = |changes: Value| {
        let mut claims = good.clone();
        claims
            .as_object_mut()
            .unwrap()
            .extend(changes.as_object().unwrap().clone());
        claims
    };
    let later = house.world.now().plus(Duration::from_secs(31)).as_secs();
    let long_ago = house.ago(7 * 86_400 + 1).as_secs();
    for (changes, err) in [
        (json!({"iss": "https://evil.example"}), "invalid_issuer"),
        (json!({"aud": "https://other.example"}), "invalid_audience"),
        (json!({"iat": later}), "invalid_request"),
        (json!({"iat": long_ago}), "invalid_request"),
        (json!({"exp": later}), "invalid_request"),
        (json!({"sub": "ann"}), "invalid_request"),
        (json!({"events": {"urn:a": {}, "urn:b": {}}}), "invalid_request"),
        (json!({"jti": 7}), "invalid_request"),
        (json!({"sub_id": "ann"}), "invalid_request"),
    ] {
        assert_eq!(house.refused(&with(changes.clone())).await.0, err, "{changes}");
    }
    let other = Transmitter::start().await;
    let none = json!({"alg": "none", "typ": "secevent+jwt"});
    let forged = other.sign_with(&house.idp.header(), &good).await;
    let unsigned = house.idp.sign_with(&none, &good).await;
    let (unsigned, _) = unsigned.rsplit_once('.').unwrap();
    let access_token = json!({"alg": "ES256", "kid": house.idp.header()["kid"], "typ": "at+jwt"});
    for (set, err) in [
        (forged, "invalid_key"),
        (format!("{unsigned}."), "invalid_key"),
        (other.sign(&good).await, "invalid_key"),
        (house.idp.sign_with(&access_token, &good).await, "invalid_request"),
        ("x".into(), "invalid_request"),
        (String::new(), "invalid_request"),
        ("a".repeat(40_000), "invalid_request"),
        ("a".repeat(70_000), "invalid_request"),
    ] {
        let answer = house.request("idp", set).send().await.unwrap();
        assert_eq!(answer.status(), 400);
        assert_eq!(answer.headers()[CONTENT_TYPE], "application/json");
        assert_eq!(answer.headers()[CONTENT_LANGUAGE], "en");
        let body: Value = answer.json().await.unwrap();
        assert_eq!(body["err"], err);
        assert!(body["description"].as_str().is_some_and(|text| !text.is_empty()));
    }
    let plain = house
        .client
        .post(format!("http://{}/v1/signals/idp", house.address));
    let plain = plain.bearer_auth(BEARER).body(house.idp.sign(&good).await);
    assert_eq!(plain.send().await.unwrap().status(), 400);
    assert!(house.facts().await.is_empty() && house.cutoffs().await.is_empty());
    let records = house.world.records(Verb::Signal);
    assert!(
        records
            .iter()
            .all(|record| record.result == Outcome::Denied && record.reason.is_some())
    );
    // And the same token, unchanged, is taken.
    assert_eq!(house.push(house.idp.sign(&good).await).await.0, 202);
}

#[tokio::test]
async fn a_key_of_1024_bits_signs_nothing() {
    let house = House::new().await;
    let weak =
        json!({"kty": "RSA", "kid": "weak", "use": "sig", "e": "AQAB", "n": format!("{}", "v".repeat(171))});
    house.idp.publish(&[weak]);
    let header = json!({"alg": "RS256", "kid": "weak", "typ": "secevent+jwt"});
    let good = claims("set-1", &ann(), &caep("session-revoked"), json!({}), house.ago(5));
    let (status, body) = house.push(house.idp.sign_with(&header, &good).await).await;
    assert_eq!(status, 400);
    assert!(body.contains("invalid_key"), "{body}");
}

#[tokio::test]
async fn only_the_transmitter_of_a_stream_can_push_to_it() {
    let house = House::new().await;
    let good = claims("set-1", &ann(), &caep("session-revoked"), json!({}), house.ago(5));
    let set = house.idp.sign(&good).await;
    let to = |stream: &str| {
        let url = format!("http://{}/v1/signals/{stream}", house.address);
        house.client.post(url).header(CONTENT_TYPE, SET).body(set.clone())
    };
    for request in [
        to("idp"),
        to("idp").bearer_auth("hunter3hunter3hunter3"),
        to("idp").bearer_auth(""),
        to("idp").header("authorization", format!("Basic {BEARER}")),
        to("nobody").bearer_auth(BEARER),
        to("NOBODY").bearer_auth(BEARER),
    ] {
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 401);
        assert!(
            answer.headers()[WWW_AUTHENTICATE]
                .to_str()
                .unwrap()
                .starts_with("Bearer")
        );
        assert!(!answer.text().await.unwrap().contains("hunter"));
    }
    assert!(house.world.records(Verb::Signal).is_empty() && house.facts().await.is_empty());
    // What is polled takes no push.
    let house = House::polling().await;
    assert_eq!(house.request("idp", set).send().await.unwrap().status(), 401);
}

#[tokio::test]
async fn what_could_not_be_written_down_is_not_taken_and_comes_again() {
    use Outcome::{Failed, Permitted};
    let session = (
        caep("session-revoked"),
        json!({}),
        "session=revoked",
        vec![Failed, Permitted],
    );
    // A fact is on record before it is stated, a cutoff after.
    let risk = (
        caep("risk-level-change"),
        high(),
        "risk=high",
        vec![Permitted, Failed, Permitted],
    );
    for (event, body, fact, records) in [session, risk] {
        let house = House::new().await;
        let set = house
            .idp
            .sign(&claims("set-1", &ann(), &event, body, house.ago(5)))
            .await;
        house.outage.0.store(true, Ordering::Release);
        for _ in 0..3 {
            assert_eq!(house.push(set.clone()).await.0, 503);
        }
        house.outage.0.store(false, Ordering::Release);
        for _ in 0..2 {
            assert_eq!(house.push(set.clone()).await.0, 202);
        }
        let told = house.world.records(Verb::Signal).into_iter();
        assert_eq!(told.map(|record| record.result).collect::<Vec<_>>(), records);
        assert_eq!(house.facts().await, [format!("user/user:ann {fact}")]);
    }
}

#[tokio::test]
async fn keys_that_cannot_be_had_cost_no_signal() {
    let house = House::new().await;
    house.idp.publish(&[]);
    let house = House::of(house.idp, "delivery = 'push'").await;
    let good = claims("set-1", &ann(), &caep("session-revoked"), json!({}), house.ago(5));
    // A set without keys says so; keys that were never had are to be waited for.
    assert_eq!(house.refused(&good).await.0, "invalid_key");
    let text = "delivery = 'push'\nskew = 30";
    let gone = Transmitter::start().await;
    let set = gone.sign(&good).await;
    let house = House::of(gone, text).await;
    house.idp.fail_keys();
    let house = House::of(house.idp, text).await;
    assert_eq!(house.push(set).await.0, 503);
}

/// Tokens that never come to their end: the headers, and then nothing.
async fn dangling(house: &House, stream: &str) -> TcpStream {
    let mut connection = TcpStream::connect(&house.address).await.unwrap();
    let head = format!(
        "POST /v1/signals/{stream} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {BEARER}\r\n\
         content-type: {SET}\r\ncontent-length: 100\r\nexpect: 100-continue\r\n\r\n"
    );
    connection.write_all(head.as_bytes()).await.unwrap();
    connection
}

#[tokio::test]
async fn a_flood_of_one_stream_keeps_nobody_else_waiting() {
    let house = House::new().await;
    let mut flood = Vec::new();
    for _ in 0..16 {
        let mut connection = dangling(&house, "other").await;
        // It asks for the body: it has a place.
        let mut answer = [0; 12];
        connection.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 100");
        flood.push(connection);
    }
    let busy = house.request("other", "x").send().await.unwrap();
    assert_eq!(busy.status(), 503);
    assert_eq!(busy.headers()["retry-after"], "1");
    house
        .tell("set-1", &ann(), &caep("risk-level-change"), high(), house.ago(5))
        .await;
    let health = house.client.get(format!("http://{}/healthz", house.address));
    assert_eq!(health.send().await.unwrap().status(), 200);
    drop(flood);
}

#[tokio::test]
async fn noise_does_not_fill_the_journal() {
    let house = House::new().await;
    for n in 0..60 {
        let (status, _) = house.push(format!("{n}.x.y")).await;
        assert_eq!(status, 400);
    }
    assert_eq!(house.world.records(Verb::Signal).len(), 20);
    // And hides nothing of another stream.
    let other = house.request("other", "x.y.z").send().await.unwrap();
    assert_eq!(other.status(), 400);
    assert_eq!(house.told().1.stream.as_str(), "other");
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_keeps_silent_is_told_of() {
    let world = World::new();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("jwks"), r#"{"keys":[]}"#).unwrap();
    std::fs::write(folder.path().join("token"), BEARER).unwrap();
    let text = format!(
        "[[signals.streams]]\nname = 'quiet'\nissuer = '{IDP}'\njwks_file = 'jwks'\ntoken_file = 'token'\n\
         delivery = 'push'\nabout.users = ['user:*']\nsilence = '1h'\n\
         [[provider]]\nname = 'jwt'\nkind = 'jwt'\n[[identity.trust_domain]]\nname = 'a'\nbundle_file = 'b'\n"
    );
    let config = config::parse("dayfly.toml", folder.path(), &text).unwrap();
    let (streams, _) = app::signals::build(&config, world.now()).unwrap();
    let metrics = telemetry::init_metrics().unwrap();
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    let listening = Arc::clone(&world.broker).listen_for_silence(Arc::new(streams), stop);
    TaskTracker::new().spawn(listening);
    for (passes, silent) in [(0, 0), (3600, 0), (1, 1)] {
        world.clock.advance(Duration::from_secs(passes));
        tokio::time::sleep(Duration::from_secs(30)).await;
        let line = format!("dayfly_signal_stream_silent{{stream=\"quiet\"}} {silent}");
        assert!(metrics.render().contains(&line), "{passes}");
    }
}

#[test]
fn a_bearer_token_that_can_be_guessed_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("jwks"), r#"{"keys":[]}"#).unwrap();
    std::fs::write(folder.path().join("token"), "fifteen bytes..\n").unwrap();
    let text = format!(
        "[[signals.streams]]\nname = 'idp'\nissuer = '{IDP}'\njwks_file = 'jwks'\ntoken_file = 'token'\n\
         delivery = 'push'\nabout.users = ['user:*']\n\
         [[provider]]\nname = 'jwt'\nkind = 'jwt'\n[[identity.trust_domain]]\nname = 'a'\nbundle_file = 'b'\n"
    );
    let config = config::parse("dayfly.toml", folder.path(), &text).unwrap();
    let error = app::signals::build(&config, Timestamp::EPOCH).err().unwrap();
    assert!(
        format!("{error:#}").contains("shorter than 16 bytes"),
        "{error:#}"
    );
}
