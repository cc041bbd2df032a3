//! For the tests of this seam: an authority that signs whatever it is told to, and a server for its documents.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::claims::{Audiences, Skew, Terms};
use super::fetch::Address;
use super::key_source::{Freshness, KeySource};
use super::{Evidence, IdentityError, Verifier, Workload};
use crate::entropy::OsEntropy;
use crate::keys::ring_keys::RingSigner;
use crate::keys::{Algorithm, Signer};
use crate::model::time::Timestamp;

/// The present, in every test of this seam.
pub(super) const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);
/// Our audience.
pub(super) const US: &str = "https://dayfly.example.org";

pub(super) fn terms() -> Terms {
    Terms {
        audiences: Audiences::new([US]).unwrap(),
        skew: Skew::default(),
        longest_life: Duration::from_secs(3600),
    }
}

/// The second that is `offset` away from [`NOW`].
pub(super) fn at(offset: i64) -> i64 {
    i64::try_from(NOW.as_secs()).unwrap() + offset
}

/// A key pair that vouches for anything.
pub(super) struct Authority(RingSigner);

impl Authority {
    pub(super) fn new() -> Self {
        Self::with(Algorithm::Es256)
    }

    pub(super) fn with(algorithm: Algorithm) -> Self {
        Self(RingSigner::generate(algorithm, &OsEntropy::new()).unwrap())
    }

    pub(super) fn kid(&self) -> &str {
        &self.0.key_id().0
    }

    /// The public key, for this `use`.
    pub(super) fn jwk(&self, purpose: &str) -> Value {
        let mut jwk = serde_json::to_value(self.0.public_key().to_jwk()).unwrap();
        jwk["use"] = purpose.into();
        jwk
    }

    /// A SPIFFE bundle with this key alone.
    pub(super) fn bundle(&self) -> String {
        json!({"keys": [self.jwk("jwt-svid")], "spiffe_sequence": 1}).to_string()
    }

    /// A JWK Set with this key alone.
    pub(super) fn jwks(&self) -> String {
        json!({"keys": [self.jwk("sig")]}).to_string()
    }

    pub(super) fn header(&self) -> Value {
        json!({"alg": self.0.algorithm().as_str(), "kid": self.kid(), "typ": "JWT"})
    }

    pub(super) async fn sign(&self, claims: &Value) -> Evidence {
        self.sign_with(&self.header(), claims).await
    }

    /// Signs under any header, sensible or not.
    pub(super) async fn sign_with(&self, header: &Value, claims: &Value) -> Evidence {
        let part = |value: &Value| BASE64URL.encode(value.to_string());
        let signed = format!("{}.{}", part(header), part(claims));
        let signature = self.0.sign(signed.as_bytes()).await.unwrap();
        Evidence::bearer(&format!("{signed}.{}", BASE64URL.encode(signature))).unwrap()
    }
}

/// Copies `value` with these members changed; `null` removes one.
pub(super) fn with(value: &Value, changes: Value) -> Value {
    let mut value = value.clone();
    let members = value.as_object_mut().unwrap();
    for (name, change) in changes.as_object().unwrap() {
        match change {
            Value::Null => members.remove(name),
            _ => members.insert(name.clone(), change.clone()),
        };
    }
    value
}

/// Asserts that the evidence is refused with a text that contains `says`.
pub(super) async fn refuses(verifier: &dyn Verifier, evidence: &Evidence, says: &str) -> IdentityError {
    let outcome: Result<Workload, _> = verifier.verify(evidence, NOW).await;
    let error = outcome.map(|w| w.attestation().clone()).expect_err(says);
    assert!(
        error.to_string().contains(says),
        "`{error}` does not say `{says}`"
    );
    error
}

/// A server on this machine whose answers a test sets.
pub(super) struct Server {
    at: SocketAddr,
    answers: Arc<Mutex<Answers>>,
    _stop: DropGuard,
}

#[derive(Default)]
struct Answers {
    set: BTreeMap<String, Answer>,
    hits: BTreeMap<String, usize>,
    last_bearer: Option<String>,
    last_body: Value,
}

#[derive(Clone)]
enum Answer {
    Json(String),
    Redirect(String),
}

impl Server {
    pub(super) async fn start() -> Self {
        // The first test that needs a client installs what `main` installs.
        let _present = rustls::crypto::ring::default_provider().install_default();
        let answers = Arc::new(Mutex::new(Answers::default()));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let router = Router::new().fallback(serve).with_state(Arc::clone(&answers));
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        TaskTracker::new().spawn(async move {
            tokio::select! {
                () = stopped.cancelled() => {}
                _ = axum::serve(listener, router) => {}
            }
        });
        Self {
            at,
            answers,
            _stop: stop.drop_guard(),
        }
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.at)
    }

    pub(super) fn address(&self, path: &str) -> Address {
        self.url(path).parse().unwrap()
    }

    pub(super) fn answer(&self, path: &str, body: &str) {
        self.set(path, Answer::Json(body.to_owned()));
    }

    pub(super) fn redirect(&self, path: &str, to: &str) {
        self.set(path, Answer::Redirect(to.to_owned()));
    }

    /// Answers 404 from now on.
    pub(super) fn forget(&self, path: &str) {
        self.answers.lock().unwrap().set.remove(path);
    }

    fn set(&self, path: &str, answer: Answer) {
        self.answers.lock().unwrap().set.insert(path.to_owned(), answer);
    }

    pub(super) fn hits(&self, path: &str) -> usize {
        self.answers.lock().unwrap().hits.get(path).copied().unwrap_or(0)
    }

    pub(super) fn last_bearer(&self) -> Option<String> {
        self.answers.lock().unwrap().last_bearer.clone()
    }

    pub(super) fn last_body(&self) -> Value {
        self.answers.lock().unwrap().last_body.clone()
    }
}

async fn serve(State(answers): State<Arc<Mutex<Answers>>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let mut answers = answers.lock().unwrap();
    let path = head.uri.path().to_owned();
    *answers.hits.entry(path.clone()).or_default() += 1;
    let bearer = head.headers.get("authorization").and_then(|v| v.to_str().ok());
    answers.last_bearer = bearer.and_then(|v| v.strip_prefix("Bearer ")).map(str::to_owned);
    answers.last_body = serde_json::from_slice(&body).unwrap_or_default();
    match answers.set.get(&path).cloned() {
        Some(Answer::Json(body)) => ([("content-type", "application/json")], body).into_response(),
        Some(Answer::Redirect(to)) => (StatusCode::FOUND, [("location", to)]).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

/// Runs the sources until the guard is dropped.
pub(super) fn keep_fresh<'a>(sources: impl IntoIterator<Item = &'a Arc<KeySource>>) -> DropGuard {
    let stop = CancellationToken::new();
    for source in sources {
        let run = Arc::clone(source).run(Arc::new(OsEntropy::new()), stop.clone());
        TaskTracker::new().spawn(run);
    }
    stop.drop_guard()
}

/// Moves the time that durations are measured by. Real time goes on afterwards, for the sockets.
pub(super) async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

/// Keys kept as freshly as tests like: no fetch by itself, unless an hour passes.
pub(super) fn slow() -> Freshness {
    Freshness {
        refresh: Duration::from_secs(3600),
        ..Freshness::default()
    }
}
