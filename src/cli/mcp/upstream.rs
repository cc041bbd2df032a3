//! The MCP server, over HTTP: each request with a token of its own moment, sent to the one URL and nowhere else.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION, WWW_AUTHENTICATE};
use reqwest::{Method, Response, StatusCode, Url};

use super::fault::{Fault, Kind, cause};
use super::message::{LARGEST, Message, Shape, Stated};
use super::task::Tool;

const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
const VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
const METHOD: HeaderName = HeaderName::from_static("mcp-method");
const NAME: HeaderName = HeaderName::from_static("mcp-name");
const LAST_EVENT: HeaderName = HeaderName::from_static("last-event-id");
const JSON: &str = "application/json";
const STREAM: &str = "text/event-stream";
/// The longest challenge that is passed on.
const LONGEST_CHALLENGE: usize = 1024;

/// What was settled with the server.
#[derive(Clone, Default)]
struct Session {
    id: Option<HeaderValue>,
    /// By `initialize`.
    version: Option<HeaderValue>,
    /// The last that a request said about itself, where requests do.
    stated: Option<HeaderValue>,
}

/// The server.
pub(super) struct Upstream {
    http: reqwest::Client,
    url: Url,
    tool: Arc<Tool>,
    session: Mutex<Session>,
}

/// How servers are reached: without redirects, and for as long as a stream may take.
pub(super) fn http(url: &Url) -> reqwest::Result<reqwest::Client> {
    let mut builder = reqwest::Client::builder()
        .connect_timeout(Duration::from_secs(10))
        .tcp_keepalive(Duration::from_secs(30))
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("dayfly/", env!("CARGO_PKG_VERSION")));
    // A proxy of the environment would read what is not encrypted.
    if url.scheme() != "https" {
        builder = builder.no_proxy();
    }
    builder.build()
}

/// What an answer is.
pub(super) enum Answer {
    /// One message, or a batch.
    Json(Vec<u8>),
    /// Events.
    Stream(Response),
    /// Nothing, which is what a notification gets.
    Accepted,
}

/// What became of a request.
pub(super) enum Failed {
    /// The server knows the session no more.
    SessionGone,
    /// The server refused it in the words of JSON-RPC.
    Told(Vec<u8>, Fault),
    /// Anything else.
    Otherwise(Fault),
}

impl From<Fault> for Failed {
    fn from(fault: Fault) -> Self {
        Self::Otherwise(fault)
    }
}

impl Upstream {
    /// The server at this URL, with tokens for this tool.
    pub(super) fn new(url: Url, http: reqwest::Client, tool: Arc<Tool>) -> Self {
        Self {
            http,
            url,
            tool,
            session: Mutex::default(),
        }
    }

    fn session(&self) -> Session {
        self.session
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn settle(&self, change: impl FnOnce(&mut Session)) {
        change(&mut self.session.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Whether requests say their version themselves: then there are no sessions and no streams beside.
    pub(super) fn is_stateless(&self) -> bool {
        self.session().stated.is_some()
    }

    /// Goes by the version that `initialize` settled on.
    pub(super) fn settle_version(&self, version: &str) {
        if let Ok(version) = HeaderValue::from_str(version) {
            self.settle(|session| session.version = Some(version));
        }
    }

    /// Sends a message.
    pub(super) async fn post(&self, message: &Message, stated: Option<&Stated>) -> Result<Answer, Failed> {
        let begins = matches!(&message.shape, Shape::Request { method, .. } if method == "initialize");
        if begins {
            self.settle(|session| *session = Session::default());
        }
        let headers = self.headers_of(message, stated)?;
        let response = self.send(Method::POST, headers, Some(&message.text)).await?;
        if begins && let Some(id) = response.headers().get(SESSION) {
            let mut id = id.clone();
            id.set_sensitive(true);
            self.settle(|session| session.id = Some(id));
        }
        self.read(response).await
    }

    /// Listens to what the server sends by itself, or to a stream that broke after the event with this id. Nothing
    /// where the server offers none.
    pub(super) async fn listen(&self, after: Option<&str>) -> Result<Option<Response>, Failed> {
        let mut headers = self.headers();
        headers.insert(ACCEPT, HeaderValue::from_static(STREAM));
        if let Some(id) = after {
            let id = HeaderValue::from_bytes(id.as_bytes());
            let id = id.map_err(|_| fault(Kind::Server, "the id of an event is no header"))?;
            headers.insert(LAST_EVENT, id);
        }
        let response = self.send(Method::GET, headers, None).await?;
        if response.status() == StatusCode::METHOD_NOT_ALLOWED {
            return Ok(None);
        }
        match self.read(response).await? {
            Answer::Stream(response) => Ok(Some(response)),
            _ => Err(fault(Kind::Server, "the server did not answer with a stream of events").into()),
        }
    }

    /// Ends the session, if there is one. A server that does not want that keeps it.
    pub(super) async fn leave(&self) -> Result<(), Fault> {
        if self.session().id.is_some() {
            self.send(Method::DELETE, self.headers(), None).await?;
        }
        Ok(())
    }

    /// What every request says of the session.
    fn headers(&self) -> HeaderMap {
        let session = self.session();
        let version = session.stated.or(session.version);
        let pairs = [(VERSION, version), (SESSION, session.id)];
        let pairs = pairs.into_iter().filter_map(|(name, value)| Some((name, value?)));
        pairs.collect()
    }

    fn headers_of(&self, message: &Message, stated: Option<&Stated>) -> Result<HeaderMap, Fault> {
        let mut headers = self.headers();
        headers.insert(
            ACCEPT,
            HeaderValue::from_static("application/json, text/event-stream"),
        );
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
        if let (Some(stated), Shape::Request { method, .. }) = (stated, &message.shape) {
            let value = |text: &str| {
                let unsendable = |_| fault(Kind::Invalid, "the version or the method is no header");
                HeaderValue::from_str(text).map_err(unsendable)
            };
            let version = value(&stated.version)?;
            headers.remove(SESSION);
            headers.insert(VERSION, version.clone());
            headers.insert(METHOD, value(method)?);
            if let Some(name) = &stated.name {
                headers.insert(NAME, value(name)?);
            }
            self.settle(|session| session.stated = Some(version));
        }
        Ok(headers)
    }

    async fn send(&self, method: Method, headers: HeaderMap, body: Option<&str>) -> Result<Response, Fault> {
        let mut request = self.http.request(method, self.url.clone()).headers(headers);
        if let Some(body) = body {
            request = request.body(body.to_owned());
        }
        let request = request.build().map_err(|error| broken(&error))?;
        self.tool.execute(request).await
    }

    async fn read(&self, response: Response) -> Result<Answer, Failed> {
        let (status, kind) = (response.status(), media_type(response.headers()));
        if status == StatusCode::NOT_FOUND && self.session().id.is_some() {
            return Err(Failed::SessionGone);
        }
        if status == StatusCode::ACCEPTED || status == StatusCode::NO_CONTENT {
            return Ok(Answer::Accepted);
        }
        if status.is_success() {
            return match kind.as_deref() {
                Some(JSON) => Ok(Answer::Json(whole(response).await?)),
                Some(STREAM) => Ok(Answer::Stream(response)),
                _ => Err(fault(Kind::Server, "the server answered with neither JSON nor events").into()),
            };
        }
        let refused = self.refused(&response);
        if kind.as_deref() == Some(JSON) {
            return Err(Failed::Told(whole(response).await?, refused));
        }
        Err(refused.into())
    }

    fn refused(&self, response: &Response) -> Fault {
        let status = response.status();
        if status.is_redirection() {
            let place = response
                .headers()
                .get(LOCATION)
                .and_then(|place| place.to_str().ok());
            let place = place.and_then(|place| self.url.join(place).ok());
            let place = place.map(|place| place.origin().ascii_serialization());
            let reason = format!(
                "the server redirects ({}) to {}, which is not followed: connect to where it really is",
                status.as_u16(),
                place.as_deref().unwrap_or("nowhere"),
            );
            return Fault::new(Kind::Server, reason).with("status", status.as_u16());
        }
        let reason = match status {
            StatusCode::UNAUTHORIZED => "the server refuses the token, and a new one as well",
            StatusCode::FORBIDDEN => "the server says that the token does not permit this",
            StatusCode::NOT_FOUND => "there is no MCP server at this URL",
            _ => "the server refuses the request",
        };
        let reason = format!("{reason} ({})", status.as_u16());
        let fault = Fault::new(Kind::Server, reason).with("status", status.as_u16());
        let challenge = response.headers().get(WWW_AUTHENTICATE);
        let challenge = challenge.and_then(|challenge| challenge.to_str().ok());
        let challenge = challenge.map(|challenge| self.tool.blot(challenge.to_owned()));
        match challenge.filter(|challenge| challenge.len() <= LONGEST_CHALLENGE) {
            Some(challenge) => fault.with("challenge", challenge),
            None => fault,
        }
    }
}

fn fault(kind: Kind, reason: &str) -> Fault {
    Fault::new(kind, reason)
}

/// Why there is no answer.
pub(super) fn broken(error: &reqwest::Error) -> Fault {
    Fault::new(Kind::Connection, cause(error))
}

fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    Some(value.split(';').next()?.trim().to_ascii_lowercase())
}

/// A body, if it is no larger than a message may be.
async fn whole(mut response: Response) -> Result<Vec<u8>, Fault> {
    let mut body = Vec::new();
    while let Some(bytes) = response.chunk().await.map_err(|error| broken(&error))? {
        if body.len() + bytes.len() > LARGEST {
            return Err(fault(Kind::Server, "the server's answer is larger than 4 MiB"));
        }
        body.extend_from_slice(&bytes);
    }
    Ok(body)
}
