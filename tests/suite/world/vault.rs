//! A twin of a Vault server, from its public HTTP API: tokens with parents and accessors, leases that
//! hang on tokens, policies that are looked at, the login methods, and some engines. It has the clock
//! that it is given.

mod auth;
mod engines;
mod policies;
mod tokens;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State as Extract;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use dayfly::clock::Clock;
use dayfly::entropy::{OsEntropy, draw};
use dayfly::keys::key_ring::KeyRing;
use dayfly::model::time::Timestamp;
use serde_json::{Map, Value, json};

use policies::Policy;
use tokens::Token;

/// What goes wrong: the status, and what stands in `errors`.
type Refused = (u16, Vec<String>);
type Answered = Result<Value, Refused>;

fn refused<T>(status: u16, text: &str) -> Result<T, Refused> {
    Err((status, vec![text.to_owned()]))
}

/// What a running twin knows.
pub(crate) struct Inside {
    clock: Arc<dyn Clock>,
    /// Every request is answered with this status.
    pub(crate) down: Option<u16>,
    pub(crate) namespace: Option<String>,
    tokens: BTreeMap<String, Token>,
    leases: BTreeMap<String, Lease>,
    pub(crate) policies: BTreeMap<String, Policy>,
    pub(crate) token_roles: BTreeMap<String, Value>,
    pub(crate) logins: auth::Logins,
    /// `username:password` of each login that the database knows.
    pub(crate) users: BTreeSet<String>,
    /// `default_ttl` and `max_ttl` of the roles of the database, in seconds.
    pub(crate) database_roles: BTreeMap<String, (u64, u64)>,
    pub(crate) kv: BTreeMap<String, Map<String, Value>>,
    /// The engine makes the next secret and then breaks.
    pub(crate) jam: bool,
    /// Method and path of each request.
    pub(crate) requests: Vec<(String, String)>,
}

/// What the server will end.
struct Lease {
    token: String,
    issued: Timestamp,
    expires: Timestamp,
    longest: Duration,
    renewable: bool,
    user: Option<String>,
}

/// A twin that listens.
#[derive(Clone)]
pub(crate) struct VaultTwin {
    inside: Arc<Mutex<Inside>>,
    pub(crate) address: String,
}

/// The token that may do everything.
pub(crate) const ROOT: &str = "hvs.root";

fn random() -> String {
    let bytes: [u8; 12] = draw(&OsEntropy::new()).unwrap();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl VaultTwin {
    /// Begins to listen.
    pub(crate) async fn start(clock: Arc<dyn Clock>, keys: Arc<KeyRing>) -> Self {
        let now = clock.now();
        let mut inside = Inside {
            clock,
            down: None,
            namespace: None,
            tokens: BTreeMap::new(),
            leases: BTreeMap::new(),
            policies: BTreeMap::new(),
            token_roles: BTreeMap::new(),
            logins: auth::Logins::new(keys),
            users: BTreeSet::new(),
            database_roles: BTreeMap::new(),
            kv: BTreeMap::new(),
            jam: false,
            requests: Vec::new(),
        };
        inside.tokens.insert(ROOT.into(), Token::root(now));
        let inside = Arc::new(Mutex::new(inside));
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        let router = Router::new().fallback(answer).with_state(Arc::clone(&inside));
        #[expect(clippy::disallowed_methods, reason = "it ends with the runtime of the test")]
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self {
            inside,
            address: format!("http://{address}"),
        }
    }

    /// What it knows.
    pub(crate) fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap()
    }
}

async fn answer(
    Extract(inside): Extract<Arc<Mutex<Inside>>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let header = |name: &str| Some(headers.get(name)?.to_str().unwrap().to_owned());
    let request = Request {
        method: method.as_str().to_owned(),
        path: uri.path().to_owned(),
        token: header("x-vault-token"),
        namespace: header("x-vault-namespace"),
        wrap: header("x-vault-wrap-ttl"),
        body,
    };
    let answered = inside.lock().unwrap().serve(&request);
    match answered {
        Ok(Value::Null) => StatusCode::NO_CONTENT.into_response(),
        Ok(body) => axum::Json(body).into_response(),
        Err((status, errors)) => {
            let status = StatusCode::from_u16(status).unwrap();
            (status, axum::Json(json!({ "errors": errors }))).into_response()
        }
    }
}

struct Request {
    method: String,
    path: String,
    token: Option<String>,
    namespace: Option<String>,
    wrap: Option<String>,
    body: Bytes,
}

impl Request {
    /// The body, where there has to be one.
    fn json(&self) -> Result<Value, Refused> {
        if self.body.is_empty() {
            return Ok(json!({}));
        }
        serde_json::from_slice(&self.body).or_else(|_| refused(400, "failed to parse JSON input"))
    }
}

/// An answer as the server writes it.
fn envelope(data: Value) -> Map<String, Value> {
    let whole = json!({
        "request_id": random(), "lease_id": "", "renewable": false, "lease_duration": 0,
        "data": data, "wrap_info": null, "warnings": null, "auth": null,
    });
    match whole {
        Value::Object(whole) => whole,
        _ => Map::new(),
    }
}

fn data(data: Value) -> Answered {
    Ok(Value::Object(envelope(data)))
}

/// Seconds, as a number or as a text like `90` or `90s`.
fn seconds(value: &Value) -> u64 {
    match value {
        Value::Number(number) => number.as_u64().unwrap(),
        Value::String(text) => text
            .parse::<dayfly::model::ttl::Ttl>()
            .map_or(0, |ttl| ttl.as_secs().into()),
        _ => 0,
    }
}

impl Inside {
    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn serve(&mut self, request: &Request) -> Answered {
        let path = request.path.strip_prefix("/v1/").unwrap_or("").to_owned();
        self.requests.push((request.method.clone(), path.clone()));
        match self.down {
            Some(503) => return refused(503, "Vault is sealed"),
            Some(status) => return Err((status, Vec::new())),
            None => {}
        }
        if request.namespace != self.namespace {
            return refused(403, "1 error occurred:\n\t* permission denied\n\n");
        }
        self.pass_time();
        if let Some(mount) = path
            .strip_prefix("auth/")
            .and_then(|rest| rest.strip_suffix("/login"))
        {
            return self.log_in(mount, &request.json()?);
        }
        if path == "sys/wrapping/unwrap" {
            return self.unwrap(request);
        }
        let Some(token) = request
            .token
            .clone()
            .filter(|token| self.tokens.contains_key(token))
        else {
            return refused(403, "permission denied");
        };
        let operation = match request.method.as_str() {
            "GET" => "read",
            "LIST" => "list",
            "DELETE" => "delete",
            _ => "update",
        };
        let may = self.capabilities(&token, &path);
        let sudo = path != "auth/token/accessors" || may.contains("sudo");
        let allowed = may.contains("root") || (may.contains(operation) && sudo);
        if !allowed {
            return refused(403, "1 error occurred:\n\t* permission denied\n\n");
        }
        let answer = self.route(operation, &path, &token, request)?;
        match &request.wrap {
            Some(ttl) => Ok(self.wrap(answer, &path, seconds(&Value::String(ttl.clone())))),
            None => Ok(answer),
        }
    }

    fn route(&mut self, operation: &str, path: &str, token: &str, request: &Request) -> Answered {
        let body = request.json()?;
        if let Some(rest) = path.strip_prefix("auth/token/") {
            return self.token_store(operation, rest, token, &body);
        }
        match path {
            "sys/capabilities-self" => {
                let paths = body["paths"].as_array().unwrap();
                let found = paths.iter().map(|path| {
                    let path = path.as_str().unwrap();
                    (path.to_owned(), json!(self.capabilities(token, path)))
                });
                data(Value::Object(found.collect()))
            }
            "sys/wrapping/wrap" => data(body),
            "sys/leases/lookup" | "sys/leases/renew" | "sys/leases/revoke" => {
                self.leases(path.rsplit('/').next().unwrap(), &body)
            }
            _ => match path.rsplit_once('/') {
                Some(("sys/policies/acl", name)) if operation == "update" => {
                    let policy = policies::parse(body["policy"].as_str().unwrap());
                    self.policies.insert(name.to_owned(), policy);
                    Ok(Value::Null)
                }
                _ => self.engine(operation, path, token, &body),
            },
        }
    }

    /// Ends what has to end by now.
    fn pass_time(&mut self) {
        let now = self.now();
        let over: Vec<String> = self
            .tokens
            .iter()
            .filter(|(_, token)| token.expires.is_some_and(|at| at <= now))
            .map(|(id, _)| id.clone())
            .collect();
        for id in over {
            self.end_token(&id);
        }
        let over: Vec<String> = self
            .leases
            .iter()
            .filter(|(_, lease)| lease.expires <= now)
            .map(|(id, _)| id.clone())
            .collect();
        for id in over {
            self.end_lease(&id);
        }
    }

    /// Whether the database lets this login in now.
    pub(crate) fn lets_in(&mut self, username: &str, password: &str) -> bool {
        self.pass_time();
        self.users.contains(&format!("{username}:{password}"))
    }

    /// How many tokens and leases there are.
    pub(crate) fn counts(&mut self) -> (usize, usize) {
        self.pass_time();
        (self.tokens.len(), self.leases.len())
    }
}
