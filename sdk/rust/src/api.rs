//! The HTTP API itself, for what has no name of its own here: any path, with the evidence, the time-outs and the
//! retries that everything else has.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Method, RequestBuilder, StatusCode, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::Instant;

use crate::ambient;
use crate::error::{Error, Problem};
use crate::evidence::Evidence;
use crate::secret::Secret;
use crate::transport;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// How often a request is made at most.
const MOST_TRIES: u32 = 4;
/// How long after the first try the last one begins at the latest.
const LONGEST: Duration = Duration::from_secs(10);
/// The longest answer that is read: 64 MiB, more than any page has.
const LONGEST_ANSWER: usize = 64 << 20;
/// The longest pause before the second try; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The broker's HTTP API. A clone is the same caller.
#[derive(Clone)]
pub struct Api(Arc<Inner>);

struct Inner {
    http: reqwest::Client,
    /// Without a trailing slash.
    address: String,
    url: Url,
    evidence: Evidence,
    timeout: Duration,
    proxies: bool,
    ca_file: Option<PathBuf>,
}

/// A request under way. Send it with [`send`](Self::send).
#[must_use = "nothing is sent before `send`"]
pub struct Call {
    api: Api,
    request: RequestBuilder,
    tries: u32,
    /// Whether its path begins with a `/`. What does not would go on with the name of the host, or its port.
    rooted: bool,
}

/// What came, or why nothing did.
struct Answer {
    status: StatusCode,
    retry_after: Option<Duration>,
    body: Vec<u8>,
}

impl Api {
    pub(crate) fn new(
        address: &str,
        url: Url,
        evidence: Evidence,
        timeout: Duration,
        proxies: bool,
        ca_file: Option<PathBuf>,
    ) -> Result<Self, Error> {
        Ok(Self(Arc::new(Inner {
            http: transport::for_broker(&url, timeout, proxies, ca_file.as_deref())?,
            address: address.to_owned(),
            url,
            evidence,
            timeout,
            proxies,
            ca_file,
        })))
    }

    /// The same caller with connections of its own, for another runtime: connections die with the runtime on which
    /// they were made.
    pub(crate) fn twin(&self) -> Result<Self, Error> {
        let inner = &self.0;
        let evidence = inner.evidence.clone();
        Self::new(
            &inner.address,
            inner.url.clone(),
            evidence,
            inner.timeout,
            inner.proxies,
            inner.ca_file.clone(),
        )
    }

    /// The broker's address as it was given, without a trailing slash.
    pub fn address(&self) -> &str {
        &self.0.address
    }

    /// A request to a path below the broker's address, such as `/v1/agents`. For what leads elsewhere, sending it is
    /// [`Error::InvalidRequest`], and no evidence goes there.
    pub fn request(&self, method: Method, path: &str) -> Call {
        Call {
            request: self.0.http.request(method, format!("{}{path}", self.0.address)),
            api: self.clone(),
            tries: MOST_TRIES,
            rooted: path.starts_with('/'),
        }
    }

    /// A request that writes, without an idempotency key.
    pub fn posting(&self, path: &str) -> Call {
        self.request(Method::POST, path)
    }

    /// Reads.
    pub async fn get(&self, path: &str) -> Result<Value, Error> {
        self.request(Method::GET, path).send().await
    }

    /// Reads what fits a query.
    pub async fn list(&self, path: &str, query: &[(&str, String)]) -> Result<Value, Error> {
        self.request(Method::GET, path).query(query).send().await
    }

    /// Writes. It carries an idempotency key, so that a repetition after a lost answer does nothing twice.
    pub async fn post(&self, path: &str, body: &impl Serialize) -> Result<Value, Error> {
        let call = self.request(Method::POST, path).json(body);
        call.key(&ambient::idempotency_key()?).send().await
    }

    /// Sends a form, as OAuth has it.
    pub async fn form(&self, path: &str, form: &[(&str, &str)]) -> Result<Value, Error> {
        self.request(Method::POST, path).form(form).send().await
    }

    /// States.
    pub async fn put(&self, path: &str, body: &impl Serialize) -> Result<Value, Error> {
        self.request(Method::PUT, path).json(body).send().await
    }

    /// Takes back.
    pub async fn delete(&self, path: &str, body: &impl Serialize) -> Result<Value, Error> {
        self.request(Method::DELETE, path).json(body).send().await
    }

    fn unreachable(&self, detail: String) -> Error {
        let title = format!("the broker at {} does not answer", self.0.address);
        Error::BrokerUnavailable(Problem::here("unreachable", title, detail))
    }

    /// One try.
    async fn attempt(
        &self,
        mut request: reqwest::Request,
        evidence: Option<&Secret>,
    ) -> Result<Answer, Error> {
        if let Some(evidence) = evidence {
            request.headers_mut().insert(AUTHORIZATION, bearer(evidence)?);
        }
        let lost = |error| self.unreachable(transport::cause(error));
        let mut response = self.0.http.execute(request).await.map_err(lost)?;
        let seconds = response.headers().get(RETRY_AFTER);
        let seconds = seconds.and_then(|value| value.to_str().ok()?.parse().ok());
        let retry_after = seconds.map(Duration::from_secs);
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(lost)? {
            if body.len() + chunk.len() > LONGEST_ANSWER {
                let title = "the broker's answer cannot be read";
                let problem = Problem::here("unreadable", title, "it is longer than 64 MiB");
                return Err(Error::Refused(problem));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Answer {
            status: response.status(),
            retry_after,
            body,
        })
    }
}

/// `Authorization: Bearer …`, which no log shows.
pub(crate) fn bearer(token: &Secret) -> Result<HeaderValue, Error> {
    let value = HeaderValue::from_str(&format!("Bearer {}", token.reveal()));
    let mut value = value.map_err(|_| Error::invalid("the token is no text for a header"))?;
    value.set_sensitive(true);
    Ok(value)
}

impl Call {
    /// With a query.
    pub fn query(mut self, query: &[(&str, String)]) -> Self {
        if !query.is_empty() {
            self.request = self.request.query(query);
        }
        self
    }

    /// With a body.
    pub fn json(mut self, body: &impl Serialize) -> Self {
        self.request = self.request.json(body);
        self
    }

    /// With a form.
    pub fn form(mut self, form: &[(&str, &str)]) -> Self {
        self.request = self.request.form(form);
        self
    }

    /// With this `Idempotency-Key`, 1 to 128 printable ASCII characters.
    pub fn key(mut self, key: &str) -> Self {
        self.request = self.request.header(IDEMPOTENCY_KEY, key);
        self
    }

    /// Tried once, whatever happens.
    pub fn once(mut self) -> Self {
        self.tries = 1;
        self
    }

    /// Sends it, again where that may help, and reads the answer. An empty answer reads as `null`.
    pub async fn send<T: DeserializeOwned>(self) -> Result<T, Error> {
        let body = self.exchange().await?;
        let text: &[u8] = if body.is_empty() { b"null" } else { &body };
        serde_json::from_slice(text).map_err(|error| {
            // Where it went wrong, and not what stood there.
            let detail = format!("line {}, column {}", error.line(), error.column());
            Error::Refused(Problem::here(
                "unreadable",
                "the broker's answer cannot be read",
                detail,
            ))
        })
    }

    async fn exchange(self) -> Result<Vec<u8>, Error> {
        let api = &self.api;
        let wrong = |error| Error::invalid(transport::cause(error));
        let request = self.request.build().map_err(wrong)?;
        if !self.rooted || !is_below(request.url(), &api.0.url) {
            return Err(Error::invalid(
                "a path of the API begins with `/` and stays below the broker's address",
            ));
        }
        let began = Instant::now();
        let (mut tries, mut refused) = (0, false);
        let mut evidence = api.0.evidence.fetch(false).await?;
        loop {
            tries += 1;
            // Bodies of this API are in memory, so that a request can always be made again.
            let again = request.try_clone();
            let again = again.ok_or_else(|| Error::invalid("the body cannot be sent again"))?;
            let error = match api.attempt(again, evidence.as_ref()).await {
                Ok(answer) if answer.status.is_success() => return Ok(answer.body),
                Ok(answer) => {
                    let body = serde_json::from_slice(&answer.body).unwrap_or(Value::Null);
                    Error::told(Problem::told(answer.status.as_u16(), answer.retry_after, body))
                }
                Err(error) => error,
            };
            if error.status() == Some(401) && !refused && evidence.is_some() {
                // It may have expired, or been rotated, on its way.
                refused = true;
                evidence = api.0.evidence.fetch(true).await?;
                continue;
            }
            let Some(pause) = pause(&error, tries, self.tries, began.elapsed()) else {
                return Err(error);
            };
            tokio::time::sleep(pause).await;
            evidence = api.0.evidence.fetch(false).await?;
        }
    }
}

/// Whether a URL is of the broker's origin, and below its path where the address has one.
fn is_below(url: &Url, address: &Url) -> bool {
    let rest = url.path().strip_prefix(address.path().trim_end_matches('/'));
    url.origin() == address.origin()
        && url.username().is_empty()
        && url.password().is_none()
        && rest.is_some_and(|rest| rest.starts_with('/'))
}

/// How long to wait before the next try; none where there is to be none.
fn pause(error: &Error, tries: u32, most: u32, elapsed: Duration) -> Option<Duration> {
    if !error.retryable() || tries >= most {
        return None;
    }
    let longest = FIRST_PAUSE
        .saturating_mul(1 << (tries - 1).min(10))
        .min(LONGEST_PAUSE);
    let asked = error
        .problem()
        .and_then(|problem| problem.retry_after)
        .unwrap_or_default();
    let pause = ambient::jitter(longest).saturating_add(asked);
    (elapsed.saturating_add(pause) <= LONGEST).then_some(pause)
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api")
            .field("address", &self.0.address)
            .field("evidence", &self.0.evidence)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("api", &self.api)
            .finish_non_exhaustive()
    }
}

/// A text as one segment of a path (RFC 3986 §3.3).
pub fn segment(text: &str) -> String {
    let mut segment = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => segment.push(byte.into()),
            _ => segment.push_str(&format!("%{byte:02X}")),
        }
    }
    segment
}

#[cfg(test)]
mod tests {
    use super::*;

    fn busy(retry_after: Option<u64>) -> Error {
        Error::told(Problem::told(
            503,
            retry_after.map(Duration::from_secs),
            Value::Null,
        ))
    }

    #[test]
    fn pauses_grow_and_end() {
        for _ in 0..50 {
            for (tries, longest) in [(1, 100), (2, 200), (3, 400)] {
                let pause = pause(&busy(None), tries, MOST_TRIES, Duration::ZERO).unwrap();
                assert!(pause <= Duration::from_millis(longest), "{pause:?}");
            }
        }
        assert_eq!(pause(&busy(None), MOST_TRIES, MOST_TRIES, Duration::ZERO), None);
        assert_eq!(pause(&busy(None), 1, 1, Duration::ZERO), None, "once");
    }

    #[test]
    fn the_broker_says_when_as_long_as_that_is_soon() {
        let asked = pause(&busy(Some(3)), 1, MOST_TRIES, Duration::ZERO).unwrap();
        assert!(asked >= Duration::from_secs(3) && asked <= Duration::from_millis(3100));
        assert_eq!(pause(&busy(Some(3)), 1, MOST_TRIES, Duration::from_secs(8)), None);
        assert_eq!(pause(&busy(Some(60)), 1, MOST_TRIES, Duration::ZERO), None);
        assert_eq!(pause(&busy(Some(u64::MAX)), 1, MOST_TRIES, Duration::ZERO), None);
    }

    #[test]
    fn what_was_refused_is_not_tried_again() {
        for status in [400, 401, 403, 404, 409, 422, 500] {
            let error = Error::told(Problem::told(status, None, Value::Null));
            assert_eq!(pause(&error, 1, MOST_TRIES, Duration::ZERO), None, "{status}");
        }
    }

    #[test]
    fn a_segment_stays_one() {
        assert_eq!(
            segment("user:alice@example.org/a b"),
            "user%3Aalice%40example.org%2Fa%20b"
        );
    }

    #[test]
    fn a_bearer_header_is_not_shown() {
        let header = bearer(&"hunter2".into()).unwrap();
        assert!(!format!("{header:?}").contains("hunter2"));
        assert!(bearer(&"two\nlines".into()).is_err());
    }
}
