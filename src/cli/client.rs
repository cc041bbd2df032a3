//! The API from the outside: what the commands and the demo use, over HTTP like everybody else.

use std::path::PathBuf;
use std::time::Duration;

use reqwest::{Method, StatusCode, header};
use serde_json::Value;

use super::exit::Exit;

/// Where the workload's evidence comes from.
#[derive(Clone, Debug)]
pub enum Evidence {
    /// A file, read anew for each request, since whoever writes it rotates it.
    File(PathBuf),
    /// A text that the caller holds.
    Text(crate::model::secret::Secret),
}

/// A caller of one broker.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    evidence: Option<Evidence>,
}

/// What a request carries.
enum Body<'a> {
    None,
    Json(Value),
    Form(&'a [(&'a str, &'a str)]),
}

/// Why a call did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The evidence cannot be read.
    #[error("the evidence `{0}` cannot be read: {1}")]
    Evidence(PathBuf, std::io::Error),
    /// The broker did not answer.
    #[error("the broker at {0} does not answer: {1}")]
    Unreachable(String, reqwest::Error),
    /// The broker said no.
    #[error("{}", .0.message())]
    Problem(Box<Problem>),
}

/// A problem (RFC 9457) as the broker told it.
#[derive(Debug)]
pub struct Problem {
    /// The HTTP status.
    pub status: StatusCode,
    /// The body; null when it was no JSON.
    pub body: Value,
}

impl Problem {
    fn text(&self, field: &str) -> Option<&str> {
        self.body.get(field).and_then(Value::as_str)
    }

    /// The last segment of the type, which OAuth calls otherwise.
    pub fn slug(&self) -> &str {
        self.text("type")
            .or_else(|| self.text("error_uri"))
            .and_then(|uri| uri.rsplit('/').next())
            .unwrap_or_default()
    }

    fn message(&self) -> String {
        let title = self.text("title").or_else(|| self.text("error"));
        let title = title.unwrap_or("the broker refused");
        let mut text = format!("{title} ({})", self.status.as_u16());
        for (before, field) in [
            (": ", "detail"),
            (": ", "error_description"),
            ("; field ", "pointer"),
            ("; decision ", "decision"),
            ("; request ", "request_id"),
        ] {
            if let Some(value) = self.text(field) {
                text.push_str(before);
                text.push_str(value);
            }
        }
        text
    }
}

impl CallError {
    /// The exit code for it.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Evidence(..) => Exit::Failed,
            Self::Unreachable(..) => Exit::Unreachable,
            Self::Problem(problem) => match problem.status {
                _ if problem.slug() == "approval-required" => Exit::Pending,
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Exit::Denied,
                StatusCode::NOT_FOUND => Exit::NotFound,
                StatusCode::SERVICE_UNAVAILABLE | StatusCode::BAD_GATEWAY => Exit::Unreachable,
                _ => Exit::Failed,
            },
        }
    }
}

impl Client {
    /// A caller of the broker at `base`, such as `http://127.0.0.1:8440`.
    pub fn new(base: &str, evidence: Option<Evidence>) -> Result<Self, CallError> {
        let base = base.trim_end_matches('/').to_owned();
        let built = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(5))
            .timeout(Duration::from_secs(60))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .user_agent(concat!("dayfly/", env!("CARGO_PKG_VERSION")))
            .build();
        let http = built.map_err(|error| CallError::Unreachable(base.clone(), error))?;
        Ok(Self { http, base, evidence })
    }

    /// The same broker, as somebody else.
    #[must_use]
    pub fn with(&self, evidence: Evidence) -> Self {
        Self {
            evidence: Some(evidence),
            ..self.clone()
        }
    }

    /// Reads.
    pub async fn get(&self, path: &str) -> Result<Value, CallError> {
        self.call(Method::GET, path, &[], Body::None).await
    }

    /// Reads what fits a query.
    pub async fn list(&self, path: &str, query: &[(&str, String)]) -> Result<Value, CallError> {
        self.call(Method::GET, path, query, Body::None).await
    }

    /// Writes.
    pub async fn post(&self, path: &str, body: Value) -> Result<Value, CallError> {
        self.call(Method::POST, path, &[], Body::Json(body)).await
    }

    /// Sends a form, as OAuth has it.
    pub async fn form(&self, path: &str, form: &[(&str, &str)]) -> Result<Value, CallError> {
        self.call(Method::POST, path, &[], Body::Form(form)).await
    }

    /// States.
    pub async fn put(&self, path: &str, body: Value) -> Result<Value, CallError> {
        self.call(Method::PUT, path, &[], Body::Json(body)).await
    }

    /// Takes back.
    pub async fn delete(&self, path: &str, body: Value) -> Result<Value, CallError> {
        self.call(Method::DELETE, path, &[], Body::Json(body)).await
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, String)],
        body: Body<'_>,
    ) -> Result<Value, CallError> {
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        if !query.is_empty() {
            request = request.query(query);
        }
        if let Some(evidence) = &self.evidence {
            let mut value =
                header::HeaderValue::from_str(&format!("Bearer {}", evidence.read()?)).map_err(|_| {
                    let unusable = std::io::Error::other("it is not the text of one token");
                    CallError::Evidence(evidence.name(), unusable)
                })?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        request = match body {
            Body::None => request,
            Body::Json(body) => request.json(&body),
            Body::Form(form) => request.form(form),
        };
        let unreachable =
            |error: reqwest::Error| CallError::Unreachable(self.base.clone(), error.without_url());
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        let bytes = response.bytes().await.map_err(unreachable)?;
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        if status.is_success() {
            Ok(body)
        } else {
            Err(CallError::Problem(Box::new(Problem { status, body })))
        }
    }
}

/// A text as one segment of a path (RFC 3986 §3.3).
pub(super) fn segment(text: &str) -> String {
    let mut segment = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => segment.push(byte.into()),
            _ => segment.push_str(&format!("%{byte:02X}")),
        }
    }
    segment
}

impl Evidence {
    fn read(&self) -> Result<String, CallError> {
        match self {
            Self::Text(text) => Ok(text.expose().to_owned()),
            Self::File(path) => match std::fs::read_to_string(path) {
                Ok(text) => Ok(text.trim().to_owned()),
                Err(error) => Err(CallError::Evidence(path.clone(), error)),
            },
        }
    }

    fn name(&self) -> PathBuf {
        match self {
            Self::File(path) => path.clone(),
            Self::Text(_) => PathBuf::from("given"),
        }
    }
}
