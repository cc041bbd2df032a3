//! Traces from their configuration: who listens to spans, and who sends them.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use reqwest::header::{HeaderName, HeaderValue};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::SystemClock;
use crate::config::telemetry::{TelemetryConfig, TracesConfig};
use crate::entropy::OsEntropy;
use crate::telemetry;
use crate::telemetry::otlp::{Collector, Exporter};
use crate::telemetry::traces::Traces;

/// The largest file of headers, in bytes.
const LARGEST: usize = 16 * 1024;

/// Logs and traces that were begun. To be ended after everything else.
#[must_use = "the last spans are sent when it is ended"]
pub struct Logging {
    stop: CancellationToken,
    tracker: TaskTracker,
}

impl Logging {
    /// Begins to log and to trace as the configuration says. Once a process, in a runtime.
    pub fn begin(config: &TelemetryConfig) -> anyhow::Result<Self> {
        // First, so that whatever is dropped is counted.
        telemetry::init_metrics()?;
        let (stop, tracker) = (CancellationToken::new(), TaskTracker::new());
        let traces = match &config.traces {
            None => None,
            Some(config) => {
                let (clock, entropy) = (Arc::new(SystemClock::new()), Arc::new(OsEntropy::new()));
                let (traces, finished) = Traces::new(config.sample.as_f64(), clock, entropy);
                let exporter = Exporter::new(collector(config)?, finished);
                let exporter = exporter.context("no client for the collector of traces can be made")?;
                tracker.spawn(exporter.run(stop.clone()));
                Some(traces)
            }
        };
        telemetry::init_logging(config.format, &config.level, traces)?;
        Ok(Self { stop, tracker })
    }

    /// Sends the last spans, for a bounded time.
    pub async fn end(self) {
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

fn collector(config: &TracesConfig) -> anyhow::Result<Collector> {
    Ok(Collector {
        endpoint: config.endpoint.clone(),
        headers: config
            .headers_file
            .as_deref()
            .map(headers)
            .transpose()?
            .unwrap_or_default(),
    })
}

/// The headers of a file. No message holds anything of it but the number of a line.
fn headers(path: &Path) -> anyhow::Result<Vec<(HeaderName, HeaderValue)>> {
    let place = || format!("{}, the headers for the collector of traces", path.display());
    let text = std::fs::read_to_string(path).with_context(place)?;
    if text.len() > LARGEST {
        bail!("{}: it is larger than {LARGEST} bytes", place());
    }
    let lines = text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty());
    let read = |(number, line): (usize, &str)| {
        let read = line.split_once(':').and_then(|(name, value)| {
            let name: HeaderName = name.trim().parse().ok()?;
            Some((name, HeaderValue::from_str(value.trim()).ok()?))
        });
        read.with_context(|| format!("{}: line {} is not `name: value`", place(), number + 1))
    };
    lines.map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_and_faults_show_nothing_of_them() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "Authorization: Bearer key:1\n\nx-scope: a\n").unwrap();
        let read = headers(file.path()).unwrap();
        let read: Vec<(&str, &str)> = read
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect();
        assert_eq!(read, [("authorization", "Bearer key:1"), ("x-scope", "a")]);
        std::fs::write(file.path(), "x-scope: a\nsecret\n").unwrap();
        let error = format!("{:#}", headers(file.path()).unwrap_err());
        assert!(error.contains("line 2") && !error.contains("secret"), "{error}");
    }
}
