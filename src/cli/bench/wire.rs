//! Requests at the least cost to this process: a harness that works as hard as the broker takes the processor from it,
//! and makes every ratio look better than it is.
//!
//! Each worker has a connection of its own, and evidence is read once a second. Plain HTTP only; whatever else there
//! is goes through the client that everything else goes through.

use std::future::poll_fn;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;

use crate::cli::client::{CallError, Problem};

/// For how long evidence is taken to be what the file holds.
const FRESH: Duration = Duration::from_secs(1);
/// How long an answer may take, as in the client.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The longest answer that is read, in bytes.
const LONGEST: usize = 1 << 20;

/// The media type of most bodies.
pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// The media type of forms.
pub(super) const FORM: HeaderValue = HeaderValue::from_static("application/x-www-form-urlencoded");

/// What goes wrong below HTTP.
type Lost = Box<dyn std::error::Error + Send + Sync>;
/// A connection, until it breaks off.
type Line = tokio::sync::Mutex<Option<SendRequest<String>>>;

/// Connections to one server, by one caller.
pub(super) struct Wire {
    /// Where to connect: a host and a port.
    to: String,
    host: HeaderValue,
    evidence: Option<PathBuf>,
    bearer: Mutex<Option<(Instant, HeaderValue)>>,
    lines: Vec<Line>,
    tracker: TaskTracker,
}

impl Wire {
    /// So many connections, which are made when they are used. None to what is not spoken here.
    pub(super) fn new(address: &str, evidence: Option<PathBuf>, connections: usize) -> Option<Self> {
        let address: Uri = address.parse().ok()?;
        let authority = address.authority()?;
        let plain =
            address.scheme_str() == Some("http") && address.path() == "/" && address.query().is_none();
        if !plain || authority.as_str().contains('@') {
            return None;
        }
        Some(Self {
            to: format!("{}:{}", authority.host(), address.port_u16().unwrap_or(80)),
            host: HeaderValue::from_str(authority.as_str()).ok()?,
            evidence,
            bearer: Mutex::default(),
            lines: (0..connections).map(|_| Line::default()).collect(),
            tracker: TaskTracker::new(),
        })
    }

    /// Sends a body on one of the connections, once, and reads the answer.
    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        connection: usize,
        path: &str,
        kind: HeaderValue,
        body: String,
    ) -> Result<T, CallError> {
        let mut request = Request::post(path)
            .header(HOST, self.host.clone())
            .header(CONTENT_TYPE, kind)
            .body(body)
            .map_err(|error| lost(&error))?;
        if let Some(bearer) = self.bearer().map_err(|error| lost(&*error))? {
            request.headers_mut().insert(AUTHORIZATION, bearer);
        }
        let answered = timeout(TIMEOUT, self.exchange(connection, request)).await;
        let answered = answered.unwrap_or_else(|_| Err("it takes too long".into()));
        let (status, body) = answered.map_err(|error| lost(&*error))?;
        if !status.is_success() {
            let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
            return Err(refused(status, &body));
        }
        serde_json::from_slice(&body).map_err(|error| lost(&error))
    }

    async fn exchange(
        &self,
        connection: usize,
        mut request: Request<String>,
    ) -> Result<(StatusCode, Vec<u8>), Lost> {
        let line = self.lines.get(connection).ok_or("there are fewer connections")?;
        let mut line = line.lock().await;
        let mut reused = true;
        loop {
            let kept = line.take().filter(|kept| !kept.is_closed());
            let mut sender = match kept {
                Some(kept) => kept,
                None => {
                    reused = false;
                    self.connect().await?
                }
            };
            sender.ready().await?;
            match sender.try_send_request(request).await {
                Ok(response) => {
                    let read = read(response).await?;
                    *line = Some(sender);
                    return Ok(read);
                }
                Err(mut unsent) => {
                    // The other end let go of it before anything was asked.
                    match unsent.take_message().filter(|_| reused) {
                        Some(again) => request = again,
                        None => return Err(unsent.into_error().into()),
                    }
                }
            }
        }
    }

    async fn connect(&self) -> Result<SendRequest<String>, Lost> {
        let stream = TcpStream::connect(&self.to).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // Its end is told to whoever sends.
        self.tracker.spawn(async move { drop(connection.await) });
        Ok(sender)
    }

    /// `Authorization: Bearer …` with what the file held a moment ago.
    fn bearer(&self) -> Result<Option<HeaderValue>, Lost> {
        let Some(file) = &self.evidence else {
            return Ok(None);
        };
        let mut bearer = self.bearer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((read, value)) = &*bearer
            && read.elapsed() < FRESH
        {
            return Ok(Some(value.clone()));
        }
        let token = std::fs::read_to_string(file)?;
        let mut value = HeaderValue::from_str(&format!("Bearer {}", token.trim()))?;
        value.set_sensitive(true);
        *bearer = Some((Instant::now(), value.clone()));
        Ok(Some(value))
    }
}

async fn read(response: Response<Incoming>) -> Result<(StatusCode, Vec<u8>), Lost> {
    let status = response.status();
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        if let Ok(data) = frame?.into_data() {
            if bytes.len() + data.len() > LONGEST {
                return Err("the answer is longer than any".into());
            }
            bytes.extend_from_slice(&data);
        }
    }
    Ok((status, bytes))
}

/// What was answered, as the client has it.
fn refused(status: StatusCode, body: &Value) -> CallError {
    let text = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default();
    let mut problem = Problem::default();
    problem.status = Some(status.as_u16());
    // An OAuth error says what it is in `error_uri` (RFC 6749 §5.2).
    let kind = [text("type"), text("error_uri")].concat();
    problem.slug = kind.rsplit('/').next().unwrap_or_default().to_owned();
    CallError::Refused(Box::new(problem))
}

/// There was no answer, or none that can be read.
fn lost(why: &(dyn std::error::Error + 'static)) -> CallError {
    let mut problem = Problem::default();
    "no answer".clone_into(&mut problem.title);
    problem.detail = why.to_string();
    CallError::BrokerUnavailable(Box::new(problem))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_http_to_a_host_is_spoken() {
        for good in ["http://127.0.0.1:8440", "http://broker", "http://[::1]:8440/"] {
            assert!(Wire::new(good, None, 1).is_some(), "{good}");
        }
        assert_eq!(Wire::new("http://broker", None, 1).unwrap().to, "broker:80");
        assert_eq!(Wire::new("http://[::1]:8440", None, 1).unwrap().to, "[::1]:8440");
        for other in [
            "https://broker",
            "http://broker/below",
            "http://me@broker",
            "broker",
            "",
        ] {
            assert!(Wire::new(other, None, 1).is_none(), "{other}");
        }
    }

    #[test]
    fn a_refusal_is_of_the_kind_that_the_broker_names() {
        let body = serde_json::json!({"type": "https://dayfly.dev/problems/budget"});
        let refused = refused(StatusCode::TOO_MANY_REQUESTS, &body);
        let problem = refused.problem().unwrap();
        assert_eq!((problem.status, problem.slug.as_str()), (Some(429), "budget"));
    }
}
