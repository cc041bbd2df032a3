//! Logs and metrics: where they go, and what the metrics mean.
//!
//! Logs go to standard error, one event a line. Metrics are held until they are scraped; labels come
//! from closed sets, so nobody outside can make them grow.

use std::collections::HashMap;
use std::io::IsTerminal as _;
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::Duration;

use metrics::{Counter, Histogram, Unit, describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tokio_util::sync::CancellationToken;
use tracing::level_filters::LevelFilter;
use tracing::{Metadata, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{FilterExt as _, FilterFn, ParseError, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::broker::measure;
use crate::model::time::Timestamp;

/// Requests answered, by route, method and class of status.
pub const HTTP_REQUESTS: &str = "dayfly_http_requests_total";
/// Seconds from the headers of a request to those of its answer, by route.
pub const HTTP_SECONDS: &str = "dayfly_http_request_duration_seconds";

/// When a certificate of ours expires, in seconds since 1970, by what it is used for.
pub const CERTIFICATE_EXPIRY: &str = "dayfly_certificate_expiry_timestamp_seconds";

/// Bounds of the histograms of durations, in seconds: issuing takes microseconds with an embedded
/// ledger, and long polls take half a minute.
const SECONDS: [f64; 16] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
    30.0,
];
/// Bounds of the histogram of revocation lag, in seconds: retries take minutes.
const LAG_SECONDS: [f64; 12] = [
    0.001, 0.01, 0.1, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0,
];
/// How often histograms are condensed when nobody scrapes.
const UPKEEP: Duration = Duration::from_secs(5);

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

/// Sends logs to standard error. Once in a process.
pub fn init_logging(format: LogFormat, filter: &str) -> Result<(), TelemetryError> {
    // Colour codes in a file or a pipe are noise.
    logs(format, filter, std::io::stderr, std::io::stderr().is_terminal())?
        .try_init()
        .map_err(|error| TelemetryError::Logging(error.into()))
}

fn logs<W>(
    format: LogFormat,
    filter: &str,
    writer: W,
    colours: bool,
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
    Ok(tracing_subscriber::registry().with(lines.with_filter(filter.and(discreet()))))
}

/// Below `info` only what Dayfly says itself: clients of databases and clouds write whole statements and
/// headers there, secrets among them.
fn discreet() -> FilterFn<fn(&Metadata<'_>) -> bool> {
    let told: fn(&Metadata<'_>) -> bool = |event| {
        let ours = event.target().split("::").next() == Some(env!("CARGO_CRATE_NAME"));
        ours || *event.level() <= LevelFilter::INFO
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
    describe();
    *collected = Some(handle.clone());
    Ok(handle)
}

/// Says until when the certificate is good that is used for this.
pub fn certificate_expires(used_for: &'static str, at: Timestamp) {
    let seconds = Duration::from_secs(at.as_secs()).as_secs_f64();
    metrics::gauge!(CERTIFICATE_EXPIRY, "use" => used_for).set(seconds);
}

/// Condenses histograms until told to stop, so that they do not grow when nobody scrapes.
pub async fn upkeep(handle: PrometheusHandle, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(UPKEEP) => handle.run_upkeep(),
        }
    }
}

fn builder() -> Result<PrometheusBuilder, BuildError> {
    PrometheusBuilder::new()
        .set_buckets(&SECONDS)?
        .set_buckets_for_metric(Matcher::Full(measure::REVOCATION_LAG.into()), &LAG_SECONDS)
}

fn describe() {
    describe_counter!(
        HTTP_REQUESTS,
        "requests answered, by route, method and class of status"
    );
    describe_histogram!(
        HTTP_SECONDS,
        Unit::Seconds,
        "time from a request's headers to its answer's"
    );
    describe_gauge!(
        CERTIFICATE_EXPIRY,
        Unit::Seconds,
        "when a certificate of ours expires, since 1970, by what it is used for"
    );
    describe_counter!(measure::DECISIONS, "decisions, by verb and result");
    describe_counter!(measure::REFUSED_EVIDENCE, "evidence that was refused, by reason");
    describe_counter!(measure::ENDED, "leases that ended, by cause and proof");
    describe_counter!(measure::END_FAILURES, "attempts to end a lease that failed");
    describe_counter!(measure::STUCK, "leases that became stuck: somebody has to look");
    describe_gauge!(
        measure::STUCK_NOW,
        "leases that cannot be ended, by provider: somebody has to look"
    );
    describe_histogram!(
        measure::REVOCATION_LAG,
        Unit::Seconds,
        "time from the instant that a lease had to end to its proof"
    );
    describe_histogram!(
        measure::ISSUE_SECONDS,
        Unit::Seconds,
        "time that an issue took inside the broker"
    );
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
            describe();
            let answers = Answers::default();
            for (method, class) in [("POST", "2xx"), ("POST", "4xx"), ("POST", "2xx")] {
                answers.count("/v1/tasks", method, class, Duration::from_millis(3));
            }
        });
        let text = handle.render();
        assert!(
            text.contains(&format!("# HELP {HTTP_REQUESTS} requests answered")),
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
            let logs = logs(format, "trace", heard.reopen().unwrap(), false).unwrap();
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
        let refused = init_logging(LogFormat::Json, "dayfly=loud");
        assert!(matches!(refused, Err(TelemetryError::Filter(_))));
    }
}
