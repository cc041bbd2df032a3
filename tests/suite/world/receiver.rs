//! A receiver for webhooks that keeps the protocol to the letter, and lies when it is told to.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use dayfly::clock::{Clock, ManualClock};
use dayfly::entropy::{Entropy, OsEntropy, draw};
use dayfly::keys::Algorithm;
use dayfly::keys::jose::Unverified;
use dayfly::keys::key_ring::KeyRing;
use dayfly::keys::ring_keys::RingSigner;
use dayfly::model::lease::Ending;
use dayfly::model::secret::Secret;
use dayfly::model::time::Timestamp;
use dayfly::model::ttl::Ttl;
use dayfly::provider::webhook::{Settings, TICKET_LIFE, TYP, VERSION, Webhook};
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::{ISSUER, MORNING};

const HEADER: &str = "dayfly-webhook-version";
/// How many entries there are on a page, whatever was asked for.
const PAGE: usize = 7;

/// What a receiver does once instead of what it should.
pub(crate) enum Lie {
    /// Does it, and never says so.
    Silence,
    /// Does it, and answers this.
    Says(StatusCode, Vec<(&'static str, String)>, Vec<u8>),
    /// Answers this, and does nothing.
    Only(StatusCode, Vec<(&'static str, String)>, Vec<u8>),
    /// Does it, and changes what it answers.
    Changes(fn(&mut Value)),
}

/// One request, as it came.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) step: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Request {
    /// What the body says.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

#[derive(Default)]
struct Inside {
    seen: BTreeSet<String>,
    made: BTreeMap<String, (Secret, Timestamp)>,
    ended: BTreeSet<String>,
    requests: Vec<Request>,
    lies: VecDeque<(&'static str, Lie)>,
}

/// The receiver, with the provider's side of what both know.
pub(crate) struct Receiver {
    url: String,
    pub(crate) clock: Arc<ManualClock>,
    keys: Arc<KeyRing>,
    inside: Mutex<Inside>,
    /// Somebody waits for an answer that will not come.
    pub(crate) silent: Notify,
    _stop: DropGuard,
}

impl Receiver {
    /// A receiver on this machine.
    pub(crate) async fn start() -> Arc<Self> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let signer = RingSigner::generate(Algorithm::Es256, &OsEntropy::new()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stop = CancellationToken::new();
        let receiver = Arc::new(Self {
            url: format!("http://{}/dayfly", listener.local_addr().unwrap()),
            clock: Arc::new(ManualClock::at(MORNING)),
            keys: Arc::new(KeyRing::of(Arc::new(signer))),
            inside: Mutex::default(),
            silent: Notify::new(),
            _stop: stop.clone().drop_guard(),
        });
        let router = Router::new()
            .route("/dayfly/{step}", post(serve))
            .with_state(Arc::downgrade(&receiver));
        let tracker = TaskTracker::new();
        tracker.spawn(async move {
            let served = axum::serve(listener, router);
            tokio::select! { _ = served => {}, () = stop.cancelled() => {} }
        });
        receiver
    }

    /// What the provider is told about it.
    pub(crate) fn settings(&self) -> Settings {
        Settings {
            address: self.url.parse().unwrap(),
            roots: dayfly::identity::fetch::Roots::System,
            issuer: ISSUER.into(),
            ending: Ending::Immediate,
            least: Ttl::MIN,
            most: Ttl::from_secs(3600).unwrap(),
            renewable: true,
        }
    }

    pub(crate) fn provider(&self) -> Arc<Webhook> {
        let entropy = Arc::new(OsEntropy::new());
        let clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
        Arc::new(Webhook::new(&self.settings(), self.keys.clone(), clock, entropy).unwrap())
    }

    /// Where it is.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Lies the next time that it is asked for this step.
    pub(crate) fn lie(&self, step: &'static str, lie: Lie) {
        self.inside.lock().unwrap().lies.push_back((step, lie));
    }

    /// Every request so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.inside.lock().unwrap().requests.clone()
    }

    /// The names of what is there.
    pub(crate) fn made(&self) -> Vec<String> {
        self.inside.lock().unwrap().made.keys().cloned().collect()
    }

    /// Whether a key is good now.
    pub(crate) fn lets_in(&self, key: &Secret) -> bool {
        let now = self.clock.now();
        let inside = self.inside.lock().unwrap();
        inside
            .made
            .values()
            .any(|(made, until)| made == key && now < *until)
    }

    /// What is wrong with a request, if anything: the table of the guide, row by row.
    fn problem(&self, inside: &mut Inside, request: &Request) -> Option<&'static str> {
        let header = |name| request.headers.get(name).and_then(|value| value.to_str().ok());
        let Some(ticket) = header("authorization").and_then(|value| value.strip_prefix("Bearer ")) else {
            return Some("no ticket");
        };
        let Ok(ticket) = Unverified::parse(ticket, 4096) else {
            return Some("no JWS");
        };
        if header(HEADER) != Some(VERSION) || header("content-type") != Some("application/json") {
            return Some("headers");
        }
        if !ticket.header().is_typ(TYP) || ticket.header().algorithm != Algorithm::Es256 {
            return Some("type");
        }
        if ticket.verify_with(&self.keys.key_set()).is_err() {
            return Some("signature");
        }
        let claims: Value = ticket.claims().unwrap();
        let is = |name: &str, value: &str| claims[name].as_str() == Some(value);
        if !is("iss", ISSUER) || !is("aud", &self.url) {
            return Some("parties");
        }
        if !is("htm", "POST") || !is("htu", &format!("{}/{}", self.url, request.step)) {
            return Some("where it goes");
        }
        let now = self.clock.now().as_secs();
        let (iat, exp) = (claims["iat"].as_u64().unwrap(), claims["exp"].as_u64().unwrap());
        if iat > now + 30 || exp + 30 < now || exp - iat > TICKET_LIFE {
            return Some("time");
        }
        if !is("body_sha256", &BASE64URL.encode(digest(&SHA256, &request.body))) {
            return Some("body");
        }
        let once = claims["jti"].as_str().unwrap().to_owned();
        (!inside.seen.insert(once)).then_some("replayed")
    }

    fn act(&self, inside: &mut Inside, request: &Request) -> (StatusCode, Option<Value>) {
        let now = self.clock.now();
        inside.made.retain(|_, (_, until)| now < *until);
        let order = request.json();
        let handle = order["handle"].as_str().unwrap_or_default().to_owned();
        let until = order["expires_at"]
            .as_str()
            .map(|text| text.parse::<Timestamp>().unwrap());
        match request.step.as_str() {
            "mint" => {
                let key = request.headers.get("idempotency-key").unwrap();
                assert_eq!(key, order["lease"].as_str().unwrap());
                assert_eq!(format!("dayfly-{}", key.to_str().unwrap()), handle);
                if order["resources"][0]
                    .as_str()
                    .is_some_and(|path| path.starts_with("suppliers"))
                {
                    let problem = json!({"pointer": "/resources/0", "detail": "there are no suppliers"});
                    return (StatusCode::UNPROCESSABLE_ENTITY, Some(problem));
                }
                if inside.ended.contains(&handle) {
                    return (StatusCode::CONFLICT, None);
                }
                let random: [u8; 24] = draw(&OsEntropy::new() as &dyn Entropy).unwrap();
                let key = BASE64URL.encode(random);
                inside
                    .made
                    .insert(handle, (Secret::new(key.clone()), until.unwrap()));
                let credential = json!({"type": "bearer_token", "token": key, "scheme": "later"});
                let answer = json!({"credential": credential, "expires_at": until.unwrap(), "more": [1]});
                (StatusCode::CREATED, Some(answer))
            }
            "renew" => match inside.made.get_mut(&handle) {
                None => (StatusCode::CONFLICT, None),
                Some((_, before)) => {
                    *before = (*before).max(until.unwrap());
                    (StatusCode::OK, Some(json!({"expires_at": before})))
                }
            },
            "revoke" => {
                inside.ended.insert(handle.clone());
                match inside.made.remove(&handle) {
                    Some(_) => (StatusCode::NO_CONTENT, None),
                    None => (StatusCode::GONE, None),
                }
            }
            "probe" => {
                let there = inside.made.contains_key(&handle);
                let presence = if there { "present" } else { "absent" };
                (StatusCode::OK, Some(json!({"presence": presence})))
            }
            "inventory" => {
                let after = order["after"].as_str().unwrap_or_default();
                let mut names: Vec<&String> =
                    inside.made.keys().filter(|name| name.as_str() > after).collect();
                let more = names.len() > PAGE;
                names.truncate(PAGE);
                let next = names.last().filter(|_| more).copied();
                let held = |name: &&String| json!({"handle": name, "expires_at": inside.made[*name].1});
                let held: Vec<Value> = names.iter().map(held).collect();
                (StatusCode::OK, Some(json!({"held": held, "next": next})))
            }
            "preflight" => (StatusCode::NO_CONTENT, None),
            _ => (StatusCode::NOT_FOUND, None),
        }
    }
}

async fn serve(
    State(receiver): State<std::sync::Weak<Receiver>>,
    Path(step): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let Some(receiver) = receiver.upgrade() else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let request = Request {
        step,
        headers,
        body: body.to_vec(),
    };
    let (status, answer, lie) = {
        let mut inside = receiver.inside.lock().unwrap();
        inside.requests.push(request.clone());
        if let Some(problem) = receiver.problem(&mut inside, &request) {
            return reply(StatusCode::UNAUTHORIZED, Some(&json!({"detail": problem})));
        }
        let due = inside.lies.iter().position(|(step, _)| *step == request.step);
        let lie = due.and_then(|at| inside.lies.remove(at)).map(|(_, lie)| lie);
        if let Some(Lie::Only(status, headers, body)) = lie {
            return said(status, headers, body);
        }
        let (status, answer) = receiver.act(&mut inside, &request);
        (status, answer, lie)
    };
    match (lie, answer) {
        (Some(Lie::Silence), _) => {
            receiver.silent.notify_one();
            std::future::pending().await
        }
        (Some(Lie::Says(status, headers, body)), _) => said(status, headers, body),
        (Some(Lie::Changes(change)), Some(mut answer)) => {
            change(&mut answer);
            reply(status, Some(&answer))
        }
        (_, answer) => reply(status, answer.as_ref()),
    }
}

fn said(status: StatusCode, headers: Vec<(&'static str, String)>, body: Vec<u8>) -> Response {
    let mut response = (status, body).into_response();
    response.headers_mut().clear();
    for (name, value) in headers {
        response.headers_mut().insert(name, value.parse().unwrap());
    }
    response
}

fn reply(status: StatusCode, answer: Option<&Value>) -> Response {
    let kind = if status.is_client_error() {
        "application/problem+json"
    } else {
        "application/json; charset=utf-8"
    };
    let headers = vec![(HEADER, VERSION.to_owned()), ("content-type", kind.to_owned())];
    said(
        status,
        headers,
        answer.map(Value::to_string).unwrap_or_default().into_bytes(),
    )
}

/// The headers of an answer that keeps the protocol, with JSON.
pub(crate) fn proper() -> Vec<(&'static str, String)> {
    vec![
        (HEADER, VERSION.to_owned()),
        ("content-type", "application/json".to_owned()),
    ]
}
