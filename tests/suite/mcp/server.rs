//! An MCP server over HTTP that says what a test wants it to, and remembers what it was sent.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use dayfly::clock::{Clock as _, SystemClock};
use dayfly::model::time::Timestamp;
use futures_util::{Stream, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// The session of the polite server.
pub(super) const SESSION: &str = "a-session-of-1";

/// A request.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) verb: Method,
    pub(super) headers: HeaderMap,
    pub(super) body: Value,
    /// When it came.
    pub(super) at: Timestamp,
}

impl Seen {
    /// What is asked, if anything is.
    pub(super) fn method(&self) -> &str {
        self.body["method"].as_str().unwrap_or_default()
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub(super) fn token(&self) -> String {
        let bearer = self.header("authorization").unwrap();
        bearer.strip_prefix("Bearer ").unwrap().to_owned()
    }

    /// When the token of the request expires, as it says itself.
    pub(super) fn token_expires_at(&self) -> Timestamp {
        let claims = self
            .token()
            .split('.')
            .nth(1)
            .map(|part| URL_SAFE_NO_PAD.decode(part).unwrap());
        let claims: Value = serde_json::from_slice(&claims.unwrap()).unwrap();
        Timestamp::from_secs(claims["exp"].as_u64().unwrap())
    }
}

type Script = dyn Fn(&Seen) -> Option<Response> + Send + Sync;

struct Inside {
    script: Box<Script>,
    seen: Mutex<Vec<Seen>>,
}

/// It serves until it is dropped.
pub(super) struct Server {
    pub(super) origin: String,
    inside: Arc<Inside>,
    _stop: DropGuard,
}

impl Server {
    /// One that answers by the script, and where that says nothing politely.
    pub(super) async fn start(script: impl Fn(&Seen) -> Option<Response> + Send + Sync + 'static) -> Self {
        let inside = Arc::new(Inside {
            script: Box::new(script),
            seen: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(serve).with_state(Arc::clone(&inside));
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        TaskTracker::new().spawn(async move {
            tokio::select! {
                _ = axum::serve(listener, router) => {}
                () = stopped.cancelled() => {}
            }
        });
        Self {
            origin,
            inside,
            _stop: stop.drop_guard(),
        }
    }

    pub(super) fn url(&self) -> String {
        format!("{}/mcp", self.origin)
    }

    /// All that came so far.
    pub(super) fn seen(&self) -> Vec<Seen> {
        self.inside.seen.lock().unwrap().clone()
    }

    /// The requests that asked this.
    pub(super) fn asked(&self, method: &str) -> Vec<Seen> {
        let seen = self.seen().into_iter();
        seen.filter(|seen| seen.method() == method).collect()
    }

    /// The requests with this verb.
    pub(super) fn with(&self, verb: &Method) -> Vec<Seen> {
        self.seen().into_iter().filter(|seen| seen.verb == verb).collect()
    }
}

async fn serve(State(inside): State<Arc<Inside>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    let seen = Seen {
        verb: parts.method,
        headers: parts.headers,
        at: SystemClock::new().now(),
        body: serde_json::from_slice(&body).unwrap_or(Value::Null),
    };
    inside.seen.lock().unwrap().push(seen.clone());
    (inside.script)(&seen).unwrap_or_else(|| polite(&seen))
}

fn polite(seen: &Seen) -> Response {
    match (&seen.verb, seen.method()) {
        (&Method::GET, _) => StatusCode::METHOD_NOT_ALLOWED.into_response(),
        (&Method::DELETE, _) => StatusCode::OK.into_response(),
        (_, "initialize") => {
            let version = seen.body["params"]["protocolVersion"].clone();
            let result = json!({"protocolVersion": version, "capabilities": {}, "serverInfo": {"name": "a", "version": "1"}});
            let mut response = result_of(seen, &result);
            response
                .headers_mut()
                .insert("mcp-session-id", SESSION.parse().unwrap());
            response
        }
        _ if seen.body.get("id").is_none() || seen.method().is_empty() => {
            StatusCode::ACCEPTED.into_response()
        }
        _ => result_of(seen, &json!({})),
    }
}

/// The answer to a request, as JSON.
pub(super) fn result_of(seen: &Seen, result: &Value) -> Response {
    as_json(200, &answer_to(seen, result).to_string())
}

pub(super) fn answer_to(seen: &Seen, result: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": seen.body["id"], "result": result})
}

pub(super) fn as_json(status: u16, body: &str) -> Response {
    let status = StatusCode::from_u16(status).unwrap();
    (
        status,
        [(header::CONTENT_TYPE, "application/json")],
        body.to_owned(),
    )
        .into_response()
}

pub(super) fn status(status: u16) -> Response {
    StatusCode::from_u16(status).unwrap().into_response()
}

/// Events as they are written here, after which the stream ends.
pub(super) fn events(text: impl Into<String>) -> Response {
    stream(tokio_stream::once(text.into()))
}

/// The same, after which the stream stays open and says nothing.
pub(super) fn open_events(text: impl Into<String>) -> Response {
    stream(tokio_stream::once(text.into()).chain(tokio_stream::pending()))
}

pub(super) fn stream(parts: impl Stream<Item = String> + Send + 'static) -> Response {
    let parts = parts.map(Ok::<_, Infallible>);
    (
        [(header::CONTENT_TYPE, "text/event-stream; charset=utf-8")],
        Body::from_stream(parts),
    )
        .into_response()
}

/// The same, after which the connection breaks. What is written before is sent first: the server sends when there is
/// nothing more for a moment.
pub(super) fn broken_events(text: impl Into<String>) -> Response {
    let text = text.into();
    let breaks = futures_util::stream::once(async {
        tokio::task::yield_now().await;
        Err(std::io::Error::other("broken"))
    });
    let body = Body::from_stream(tokio_stream::once(Ok(text)).chain(breaks));
    ([(header::CONTENT_TYPE, "text/event-stream")], body).into_response()
}
