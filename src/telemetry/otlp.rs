//! Sends spans to a collector: OTLP over HTTP, in protobuf (opentelemetry-proto 1.x, `ExportTraceServiceRequest`).
//!
//! Written out here: it is one message that never changes, and a library for it would bring forty crates. What a
//! collector does not take is dropped and counted, whether it says so of all or of some; there is always more of it,
//! and nobody waits.

use std::pin::pin;
use std::time::Duration;

use metrics::Counter;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Response, Url, redirect};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::traces::{Finished, Value, dropped};

/// How many spans are sent at once.
const BATCH: usize = 512;
/// How long spans wait for others at most.
const GATHER: Duration = Duration::from_secs(1);
/// How long a collector may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long what is left may take when Dayfly stops.
const FLUSH: Duration = Duration::from_secs(3);

/// The longest answer that is read, in bytes.
const LONGEST_ANSWER: usize = 16 * 1024;

/// Where spans go.
#[derive(Clone)]
pub struct Collector {
    /// The base URL; spans go to `v1/traces` below it.
    pub endpoint: Url,
    /// Headers of each request. Their values are secret.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

/// Sends what comes out of the queue.
pub struct Exporter {
    client: Client,
    url: Url,
    finished: mpsc::Receiver<Finished>,
    dropped: Counter,
    failing: bool,
}

impl Exporter {
    /// Sends to this collector. Fails where no client can be made.
    pub fn new(collector: Collector, finished: mpsc::Receiver<Finished>) -> Result<Self, reqwest::Error> {
        let mut url = collector.endpoint;
        url.set_path(&format!("{}/v1/traces", url.path().trim_end_matches('/')));
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        for (name, mut value) in collector.headers {
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        let builder = Client::builder()
            .redirect(redirect::Policy::none())
            .no_proxy()
            .referer(false)
            .connect_timeout(PATIENCE)
            .timeout(PATIENCE)
            .default_headers(headers)
            .user_agent(concat!("dayfly/", env!("CARGO_PKG_VERSION")));
        let client = match url.scheme() {
            "https" => builder.https_only(true),
            // Plain HTTP needs no authorities, and a machine may have none.
            _ => builder.tls_certs_only([]),
        };
        Ok(Self {
            client: client.build()?,
            url,
            finished,
            dropped: dropped("not_taken"),
            failing: false,
        })
    }

    /// Sends until told to stop, and then what is left, for a bounded time.
    pub async fn run(mut self, stop: CancellationToken) {
        let (mut batch, mut ends) = (Vec::with_capacity(BATCH), None);
        while !stop.is_cancelled() {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                came = self.finished.recv_many(&mut batch, BATCH) => if came == 0 { return },
            }
            let gathering = async {
                while batch.len() < BATCH {
                    let room = BATCH - batch.len();
                    if self.finished.recv_many(&mut batch, room).await == 0 {
                        break;
                    }
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                _ = timeout(GATHER, gathering) => {}
            }
            {
                let sending = send(&self.client, &self.url, &self.dropped, &mut self.failing, &batch);
                let mut sending = pin!(sending);
                tokio::select! {
                    () = &mut sending => {}
                    () = stop.cancelled() => {
                        // What is on its way is not sent again: the collector would have it twice.
                        let end = *ends.insert(Instant::now() + FLUSH);
                        if timeout_at(end, sending).await.is_err() {
                            self.dropped.increment(count(batch.len()));
                        }
                    }
                }
            }
            batch.clear();
        }
        let end = ends.unwrap_or_else(|| Instant::now() + FLUSH);
        self.finished.close();
        let flushing = async {
            loop {
                if !batch.is_empty() {
                    send(&self.client, &self.url, &self.dropped, &mut self.failing, &batch).await;
                    batch.clear();
                }
                if self.finished.recv_many(&mut batch, BATCH).await == 0 {
                    return;
                }
            }
        };
        if timeout_at(end, flushing).await.is_err() {
            self.dropped.increment(count(batch.len() + self.finished.len()));
            tracing::warn!("the last spans could not be sent in time");
        }
    }
}

async fn send(client: &Client, url: &Url, dropped: &Counter, failing: &mut bool, batch: &[Finished]) {
    let sent = client.post(url.clone()).body(request(batch)).send().await;
    // The error of the client names the URL, which may hold a key.
    let fault = match sent {
        Ok(answer) if answer.status().is_success() => match rejected(answer).await.min(count(batch.len())) {
            0 => None,
            some => return refused(some, dropped, failing),
        },
        Ok(answer) => Some(format!("it answers {}", answer.status().as_u16())),
        Err(error) if error.is_timeout() => Some("no answer in time".to_owned()),
        Err(_) => Some("it cannot be reached".to_owned()),
    };
    match fault {
        None => {
            if std::mem::take(failing) {
                tracing::info!("the collector takes spans again");
            }
        }
        Some(reason) => {
            dropped.increment(count(batch.len()));
            if !std::mem::replace(failing, true) {
                tracing::warn!(
                    reason,
                    "the collector takes no spans; they are dropped until it does"
                );
            }
        }
    }
}

/// The collector took the others.
fn refused(spans: u64, dropped: &Counter, failing: &mut bool) {
    dropped.increment(spans);
    if !std::mem::replace(failing, true) {
        tracing::warn!(spans, "the collector refuses some of the spans");
    }
}

fn count(spans: usize) -> u64 {
    u64::try_from(spans).unwrap_or_default()
}

/// How many spans a collector refused though it took the request: `partial_success.rejected_spans` in an
/// `ExportTraceServiceResponse`. What cannot be read says nothing.
async fn rejected(mut answer: Response) -> u64 {
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = answer.chunk().await {
        body.extend_from_slice(&chunk);
        if body.len() > LONGEST_ANSWER {
            return 0;
        }
    }
    let partial = match field(&body, 1) {
        Some(Field::Bytes(partial)) => partial,
        _ => return 0,
    };
    match field(partial, 1) {
        Some(Field::Number(rejected)) => rejected,
        _ => 0,
    }
}

/// What a field of a message holds.
enum Field<'m> {
    Number(u64),
    Bytes(&'m [u8]),
}

/// The first of the fields with this number, where all before it can be read.
fn field(mut message: &[u8], wanted: u64) -> Option<Field<'_>> {
    loop {
        let tag = varint(&mut message)?;
        let held = match u32::try_from(tag & 7).ok()? {
            Message::VARINT => Field::Number(varint(&mut message)?),
            kind => {
                let length = match kind {
                    Message::FIXED_64 => 8,
                    Message::LENGTH => usize::try_from(varint(&mut message)?).ok()?,
                    Message::FIXED_32 => 4,
                    _ => return None,
                };
                let (held, rest) = message.split_at_checked(length)?;
                message = rest;
                Field::Bytes(held)
            }
        };
        if tag >> 3 == wanted {
            return Some(held);
        }
    }
}

fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = message.split_first()?;
        *message = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// The body: `ExportTraceServiceRequest`.
pub fn request(spans: &[Finished]) -> Vec<u8> {
    let resource = Message::default()
        .message(1, attribute("service.name", &Value::Text("dayfly".into())))
        .message(
            1,
            attribute("service.version", &Value::Text(env!("CARGO_PKG_VERSION").into())),
        );
    let scope = Message::default()
        .text(1, "dayfly")
        .text(2, env!("CARGO_PKG_VERSION"));
    let scoped = spans
        .iter()
        .fold(Message::default().message(1, scope), |all, one| {
            all.message(2, span(one))
        });
    let of_resource = Message::default().message(1, resource).message(2, scoped);
    Message::default().message(1, of_resource).0
}

/// `trace.v1.Span`.
fn span(of: &Finished) -> Message {
    const SERVER: u64 = 2;
    const INTERNAL: u64 = 1;
    const ERROR: u64 = 2;
    let mut span = Message::default()
        .bytes(1, &of.trace.to_be_bytes())
        .bytes(2, &of.span.to_be_bytes())
        .text(3, of.state.as_deref().unwrap_or_default());
    if of.parent != 0 {
        span = span.bytes(4, &of.parent.to_be_bytes());
    }
    span = span
        .text(5, &of.name)
        .number(6, if of.of_request { SERVER } else { INTERNAL })
        .fixed64(7, of.from)
        .fixed64(8, of.until);
    for (name, value) in &of.attributes {
        span = span.message(9, attribute(name, value));
    }
    let broken = of
        .attributes
        .iter()
        .any(|(name, value)| *name == "http.response.status_code" && matches!(value, Value::Number(500..)));
    if broken {
        span = span.message(15, Message::default().number(3, ERROR));
    }
    // Sampled, and the parent of a request is somebody else's (flags 0x1, 0x100 and 0x200).
    let flags = 0x101 | if of.of_request && of.parent != 0 { 0x200 } else { 0 };
    span.fixed32(16, flags)
}

/// `common.v1.KeyValue`.
fn attribute(name: &str, value: &Value) -> Message {
    let value = match value {
        Value::Text(text) => Message::default().bytes(1, text.as_bytes()),
        Value::Number(number) => Message::default().number(3, *number),
    };
    Message::default().text(1, name).message(2, value)
}

/// A message as it is written: tag, and what it holds, one field after the other.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    const VARINT: u32 = 0;
    const FIXED_64: u32 = 1;
    const LENGTH: u32 = 2;
    const FIXED_32: u32 = 5;

    fn varint(mut self, mut value: u64) -> Self {
        loop {
            let [low, ..] = value.to_le_bytes();
            value >>= 7;
            if value == 0 {
                self.0.push(low & 0x7f);
                return self;
            }
            self.0.push(low | 0x80);
        }
    }

    fn tag(self, field: u32, kind: u32) -> Self {
        self.varint(u64::from((field << 3) | kind))
    }

    fn bytes(self, field: u32, bytes: &[u8]) -> Self {
        let length = u64::try_from(bytes.len()).unwrap_or_default();
        let mut message = self.tag(field, Self::LENGTH).varint(length);
        message.0.extend_from_slice(bytes);
        message
    }

    /// One that is empty need not be written.
    fn text(self, field: u32, text: &str) -> Self {
        match text {
            "" => self,
            text => self.bytes(field, text.as_bytes()),
        }
    }

    fn message(self, field: u32, inner: Self) -> Self {
        self.bytes(field, &inner.0)
    }

    fn number(self, field: u32, value: u64) -> Self {
        self.tag(field, Self::VARINT).varint(value)
    }

    fn fixed64(self, field: u32, value: u64) -> Self {
        let mut message = self.tag(field, Self::FIXED_64);
        message.0.extend_from_slice(&value.to_le_bytes());
        message
    }

    fn fixed32(self, field: u32, value: u32) -> Self {
        let mut message = self.tag(field, Self::FIXED_32);
        message.0.extend_from_slice(&value.to_le_bytes());
        message
    }
}
