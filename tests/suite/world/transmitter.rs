//! A transmitter of the Shared Signals Framework: it signs what it is told to, and keeps tokens until they
//! are fetched (RFC 8936).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use dayfly::entropy::OsEntropy;
use dayfly::keys::ring_keys::RingSigner;
use dayfly::keys::{Algorithm, Signer as _};
use dayfly::model::time::Timestamp;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::ISSUER;

/// Its `iss`.
pub(crate) const IDP: &str = "https://idp.example.org";
/// What it proves itself with when it pushes, and what has to come with a poll.
pub(crate) const BEARER: &str = "hunter2hunter2hunter2";

#[derive(Default)]
struct Inside {
    jwks: String,
    /// What has not been acknowledged.
    kept: BTreeMap<String, String>,
    /// What was said of tokens that were not taken.
    refused: BTreeMap<String, Value>,
    /// The bodies of all polls.
    polls: Vec<Value>,
    /// How many tokens go into one answer, whatever was asked for.
    page: usize,
    /// What is answered in place of tokens.
    fault: Option<StatusCode>,
    /// Keys are not answered.
    keyless: bool,
}

#[derive(Clone)]
struct Shared {
    inside: Arc<Mutex<Inside>>,
    changed: Arc<Notify>,
}

pub(crate) struct Transmitter {
    signer: RingSigner,
    url: String,
    shared: Shared,
    _stop: DropGuard,
}

impl Transmitter {
    /// One that signs with ES256.
    pub(crate) async fn start() -> Self {
        Self::with(RingSigner::generate(Algorithm::Es256, &OsEntropy::new()).unwrap()).await
    }

    /// One that signs with RS256 and a key of 2048 bits.
    #[cfg(feature = "josekit")]
    pub(crate) async fn rsa() -> Self {
        let pair = josekit::jws::RS256.generate_key_pair(2048).unwrap();
        let der = pair.to_der_private_key();
        Self::with(RingSigner::from_pkcs8(&der, &OsEntropy::new()).unwrap()).await
    }

    async fn with(signer: RingSigner) -> Self {
        let _present = rustls::crypto::ring::default_provider().install_default();
        let shared = Shared {
            inside: Arc::default(),
            changed: Arc::default(),
        };
        let router = Router::new()
            .route("/jwks.json", get(jwks))
            .route("/poll", post(poll))
            .with_state(shared.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        TaskTracker::new().spawn(async move {
            tokio::select! {
                () = stopped.cancelled() => {}
                _ = axum::serve(listener, router) => {}
            }
        });
        let this = Self {
            signer,
            url,
            shared,
            _stop: stop.drop_guard(),
        };
        let own = serde_json::to_value(this.signer.public_key().to_jwk()).unwrap();
        this.publish(&[own]);
        this.shared.inside.lock().unwrap().page = 100;
        this
    }

    /// Where something of it is.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    /// Publishes these keys in place of its own.
    pub(crate) fn publish(&self, keys: &[Value]) {
        self.shared.inside.lock().unwrap().jwks = json!({ "keys": keys }).to_string();
    }

    pub(crate) fn header(&self) -> Value {
        json!({"alg": self.signer.algorithm().as_str(), "kid": self.signer.key_id().0, "typ": "secevent+jwt"})
    }

    pub(crate) async fn sign(&self, claims: &Value) -> String {
        self.sign_with(&self.header(), claims).await
    }

    /// Signs under any header, sensible or not.
    pub(crate) async fn sign_with(&self, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| BASE64URL.encode(value.to_string());
        let signed = format!("{}.{}", part(header), part(claims));
        let signature = self.signer.sign(signed.as_bytes()).await.unwrap();
        format!("{signed}.{}", BASE64URL.encode(signature))
    }

    /// Keeps a token until it is fetched.
    pub(crate) fn keep(&self, jti: &str, set: String) {
        self.shared.inside.lock().unwrap().kept.insert(jti.into(), set);
        self.shared.changed.notify_waiters();
    }

    /// The names of the tokens that were not acknowledged.
    pub(crate) fn kept(&self) -> Vec<String> {
        self.shared.inside.lock().unwrap().kept.keys().cloned().collect()
    }

    /// What was said of a token that was not taken.
    pub(crate) fn refused(&self, jti: &str) -> Option<Value> {
        self.shared.inside.lock().unwrap().refused.get(jti).cloned()
    }

    /// The bodies of all polls.
    pub(crate) fn polls(&self) -> Vec<Value> {
        self.shared.inside.lock().unwrap().polls.clone()
    }

    /// How many tokens go into one answer from now on.
    pub(crate) fn page(&self, most: usize) {
        self.shared.inside.lock().unwrap().page = most;
    }

    /// Answers this to polls from now on, or tokens again.
    pub(crate) fn fail(&self, status: Option<StatusCode>) {
        self.shared.inside.lock().unwrap().fault = status;
    }

    /// Answers no keys any more.
    pub(crate) fn fail_keys(&self) {
        self.shared.inside.lock().unwrap().keyless = true;
    }

    /// Waits until something about the polls is so.
    pub(crate) async fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let wait = async {
            loop {
                let changed = self.shared.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if is_so(self) {
                    return;
                }
                changed.await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), wait)
            .await
            .unwrap_or_else(|_| panic!("{what}: {:?}", self.polls()));
    }
}

/// The claims of a token about an event at an instant, about this subject.
pub(crate) fn claims(jti: &str, subject: &Value, event: &str, body: Value, at: Timestamp) -> Value {
    let mut body = body;
    body["event_timestamp"] = at.as_secs().into();
    json!({
        "iss": IDP, "aud": ISSUER, "iat": at.as_secs(), "jti": jti, "sub_id": subject,
        "events": {event: body},
    })
}

/// The type of one of CAEP's events.
pub(crate) fn caep(name: &str) -> String {
    format!("https://schemas.openid.net/secevent/caep/event-type/{name}")
}

async fn jwks(State(shared): State<Shared>) -> Response {
    let inside = shared.inside.lock().unwrap();
    match inside.keyless {
        true => StatusCode::BAD_GATEWAY.into_response(),
        false => inside.jwks.clone().into_response(),
    }
}

async fn poll(State(shared): State<Shared>, headers: HeaderMap, body: String) -> Response {
    let bearer = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    if bearer != Some(&format!("Bearer {BEARER}")) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let asked: Value = serde_json::from_str(&body).unwrap();
    let waits = asked["returnImmediately"] == json!(false);
    {
        let mut inside = shared.inside.lock().unwrap();
        inside.polls.push(asked.clone());
        if inside.fault.is_none() {
            for jti in asked["ack"].as_array().into_iter().flatten() {
                inside.kept.remove(jti.as_str().unwrap());
            }
            for (jti, error) in asked["setErrs"].as_object().into_iter().flatten() {
                inside.kept.remove(jti);
                inside.refused.insert(jti.clone(), error.clone());
            }
        }
    }
    shared.changed.notify_waiters();
    loop {
        let changed = shared.changed.notified();
        {
            let inside = shared.inside.lock().unwrap();
            if let Some(status) = inside.fault {
                return status.into_response();
            }
            if !inside.kept.is_empty() || !waits {
                let most = inside
                    .page
                    .min(usize::try_from(asked["maxEvents"].as_u64().unwrap()).unwrap());
                let sets: BTreeMap<_, _> = inside.kept.iter().take(most).collect();
                let more = inside.kept.len() > sets.len();
                return axum::Json(json!({"sets": sets, "moreAvailable": more})).into_response();
            }
        }
        changed.await;
    }
}
