//! Logs and metrics: where they go, and what the metrics mean.
//!
//! Logs go to standard error, one event a line. Metrics are held until they are scraped; labels come
//! from closed sets, so nobody outside can make them grow.

pub mod catalogue;
pub mod otlp;
pub mod process;
pub mod traces;

use std::collections::HashMap;
use std::io::IsTerminal as _;
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::Duration;

use metrics::{Counter, Histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tracing::level_filters::LevelFilter;
use tracing::{Metadata, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{FilterExt as _, FilterFn, ParseError, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::broker::measure;
use crate::model::time::Timestamp;
use crate::trace;

use traces::Traces;

/// Requests answered, by route, method and class of status.
pub const HTTP_REQUESTS: &str = "dayfly_http_requests_total";
/// Seconds from the headers of a request to those of its answer, by route.
pub const HTTP_SECONDS: &str = "dayfly_http_request_duration_seconds";

/// 1, with the version as its label.
pub const BUILD: &str = "dayfly_build_info";
/// For how many seconds the oldest record without a signed checkpoint has been without.
pub const CHECKPOINT_AGE: &str = "dayfly_journal_checkpoint_age_seconds";
/// The part of the file system of the journal that is free.
pub const DISK_FREE: &str = "dayfly_journal_disk_free_ratio";
/// How many seconds ago the keys of an authority were last had.
pub const KEYS_AGE: &str = "dayfly_evidence_keys_age_seconds";
/// When a certificate expires, in seconds since 1970, by what it is used for.
pub const CERTIFICATE_EXPIRY: &str = "dayfly_certificate_expiry_timestamp_seconds";
/// TLS handshakes that came to nothing, by listener and reason.
pub const HANDSHAKES_FAILED: &str = "dayfly_tls_handshakes_failed_total";

/// Bounds of the histograms of durations, in seconds: issuing takes microseconds with an embedded
/// ledger, and long polls take half a minute.
const SECONDS: [f64; 16] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
    30.0,
];
/// Bounds of the histograms of lags, in seconds: retries take minutes.
const LAG_SECONDS: [f64; 14] = [
    0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0,
];
/// What is a lag.
const LAGS: [&str; 4] = [
    measure::REVOCATION_LAG,
    measure::SIGNAL_LAG,
    measure::RECHECK_LAG,
    measure::TIME_TO_DENY,
];

/// How logs look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For machines: one JSON object a line.
    Json,
}

/// Why there are no logs or no metrics.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter cannot be read.
    #[error("the log filter cannot be read: write levels such as `info` or `dayfly=debug,info`")]
    Filter(#[source] ParseError),
    /// Something else in this process takes the logs.
    #[error("logging was set up before")]
    Logging(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Something else in this process takes the metrics.
    #[error("metrics were set up before")]
    Metrics(#[source] BuildError),
}

/// Sends logs to standard error, and spans to whoever collects them. Once in a process.
pub fn init_logging(format: LogFormat, filter: &str, traces: Option<Traces>) -> Result<(), TelemetryError> {
    // Colour codes in a file or a pipe are noise.
    subscriber(
        format,
        filter,
        std::io::stderr,
        std::io::stderr().is_terminal(),
        traces,
    )?
    .try_init()
    .map_err(|error| TelemetryError::Logging(error.into()))
}

/// What takes logs and spans. Without `traces` no spans are made but that of a request, which log lines name.
pub fn subscriber<W>(
    format: LogFormat,
    filter: &str,
    writer: W,
    colours: bool,
    traces: Option<Traces>,
) -> Result<impl Subscriber + Send + Sync, TelemetryError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let filter = EnvFilter::try_new(filter).map_err(TelemetryError::Filter)?;
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(colours)
        .with_writer(writer);
    let lines = match format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let heard = filter_fn(Traces::hears as fn(&Metadata<'_>) -> bool).with_max_level_hint(LevelFilter::INFO);
    Ok(tracing_subscriber::registry()
        .with(lines.with_filter(filter.and(discreet())))
        .with(traces.map(|traces| traces.with_filter(heard))))
}

/// Below `info` only what Dayfly says itself: clients of databases and clouds write whole statements and
/// headers there, secrets among them.
fn discreet() -> FilterFn<fn(&Metadata<'_>) -> bool> {
    let told: fn(&Metadata<'_>) -> bool = |event| {
        let ours = event.target().split("::").next() == Some(env!("CARGO_CRATE_NAME"));
        let for_traces = event.target() == trace::TARGET;
        !for_traces && (ours || *event.level() <= LevelFilter::INFO)
    };
    // Without the hint every call site of every crate would be asked, at every level.
    filter_fn(told).with_max_level_hint(LevelFilter::TRACE)
}

/// Collects the metrics of the process. Whoever asks again gets the same.
pub fn init_metrics() -> Result<PrometheusHandle, TelemetryError> {
    static COLLECTED: Mutex<Option<PrometheusHandle>> = Mutex::new(None);
    let mut collected = COLLECTED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(handle) = &*collected {
        return Ok(handle.clone());
    }
    let installed = builder().and_then(PrometheusBuilder::install_recorder);
    let handle = installed.map_err(TelemetryError::Metrics)?;
    catalogue::describe();
    metrics::gauge!(BUILD, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    *collected = Some(handle.clone());
    Ok(handle)
}

/// Says until when the certificate is good that is used for this.
pub fn certificate_expires(used_for: &'static str, at: Timestamp) {
    let seconds = Duration::from_secs(at.as_secs()).as_secs_f64();
    metrics::gauge!(CERTIFICATE_EXPIRY, "use" => used_for).set(seconds);
}

/// A handshake on a listener came to nothing. The reason is one of a closed set.
pub(crate) fn handshake_failed(listener: &'static str, reason: &'static str) {
    metrics::counter!(HANDSHAKES_FAILED, "listener" => listener, "reason" => reason).increment(1);
}

/// What waits for a signed checkpoint has waited so long.
pub(crate) fn checkpoint_age(age: Duration) {
    metrics::gauge!(CHECKPOINT_AGE).set(age.as_secs_f64());
}

/// This part of the file system of the journal is free.
pub(crate) fn disk_free(ratio: f64) {
    metrics::gauge!(DISK_FREE).set(ratio);
}

/// The keys of a configured authority were had so long ago.
pub(crate) fn keys_age(authority: &str, age: Duration) {
    metrics::gauge!(KEYS_AGE, "authority" => authority.to_owned()).set(age.as_secs_f64());
}

fn builder() -> Result<PrometheusBuilder, BuildError> {
    let builder = PrometheusBuilder::new().set_buckets(&SECONDS)?;
    LAGS.iter().try_fold(builder, |builder, lag| {
        builder.set_buckets_for_metric(Matcher::Full((*lag).into()), &LAG_SECONDS)
    })
}

/// Counts answers. What a route counts with is looked up once and kept: a look-up takes as long as a
/// policy. Bounded, as routes, methods and classes are closed sets.
#[derive(Default)]
pub(crate) struct Answers {
    routes: RwLock<HashMap<String, Route>>,
}

/// What one route counts with.
struct Route {
    seconds: Histogram,
    answers: Vec<(&'static str, &'static str, Counter)>,
}

impl Answers {
    /// Counts one. The route is its pattern, never the path.
    pub(crate) fn count(&self, route: &str, method: &'static str, class: &'static str, took: Duration) {
        let count = |known: &Route| {
            let mut answers = known.answers.iter();
            let kept = answers.find(|kept| (kept.0, kept.1) == (method, class));
            kept.map(|(_, _, counter)| {
                known.seconds.record(took.as_secs_f64());
                counter.increment(1);
            })
        };
        let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        if routes.get(route).and_then(count).is_some() {
            return;
        }
        drop(routes);
        let mut routes = self.routes.write().unwrap_or_else(PoisonError::into_inner);
        let known = routes.entry(route.to_owned()).or_insert_with(|| Route {
            seconds: metrics::histogram!(HTTP_SECONDS, "route" => route.to_owned()),
            answers: Vec::new(),
        });
        if count(known).is_none() {
            let counter = metrics::counter!(HTTP_REQUESTS, "route" => route.to_owned(), "method" => method, "status" => class);
            known.answers.push((method, class, counter));
            count(known);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_have_buckets_and_descriptions() {
        let recorder = builder().unwrap().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            catalogue::describe();
            let answers = Answers::default();
            for (method, class) in [("POST", "2xx"), ("POST", "4xx"), ("POST", "2xx")] {
                answers.count("/v1/tasks", method, class, Duration::from_millis(3));
            }
        });
        let text = handle.render();
        assert!(
            text.contains(&format!("# HELP {HTTP_REQUESTS} requests that were answered")),
            "{text}"
        );
        let bucket = r#"dayfly_http_request_duration_seconds_bucket{route="/v1/tasks",le="0.005"} 3"#;
        assert!(text.contains(bucket), "{text}");
        let counter = r#"dayfly_http_requests_total{route="/v1/tasks",method="POST",status="2xx"} 2"#;
        assert!(text.contains(counter), "{text}");
    }

    #[test]
    fn below_info_only_dayfly_speaks() {
        for format in [LogFormat::Text, LogFormat::Json] {
            let heard = tempfile::NamedTempFile::new().unwrap();
            let logs = subscriber(format, "trace", heard.reopen().unwrap(), false, None).unwrap();
            tracing::subscriber::with_default(logs, || {
                tracing::trace!(target: "dayfly::broker", "said within");
                tracing::debug!(target: "dayfly", "said by the whole");
                tracing::info!(target: "tokio_postgres", "connected");
                tracing::debug!(target: "tokio_postgres::simple_query", "CREATE ROLE … PASSWORD 'verifier'");
                tracing::trace!(target: "dayflyer", "a name that begins alike");
            });
            let heard = std::fs::read_to_string(heard.path()).unwrap();
            for (word, told) in [
                ("said within", true),
                ("said by the whole", true),
                ("connected", true),
                ("verifier", false),
                ("a name that begins alike", false),
            ] {
                assert_eq!(heard.contains(word), told, "{word}: {heard}");
            }
        }
    }

    #[test]
    fn a_bad_filter_is_refused_before_anything_is_set_up() {
        let refused = init_logging(LogFormat::Json, "dayfly=loud", None);
        assert!(matches!(refused, Err(TelemetryError::Filter(_))));
    }
}
