//! `[telemetry]`: how logs are written, and where traces go.

use std::path::PathBuf;

use reqwest::Url;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::model::document::Section;
use crate::telemetry::LogFormat;

use super::read::{Base, is_loopback, is_plain};

/// How logs are written, to standard error.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TelemetryConfig {
    /// Their form.
    pub format: LogFormat,
    /// Which of them: a level, or a `tracing` filter such as `info,dayfly=debug`.
    pub level: String,
    /// `[telemetry.traces]`
    pub traces: Option<TracesConfig>,
}

/// Where traces go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TracesConfig {
    /// The base URL of a collector that takes OTLP over HTTP.
    pub endpoint: Url,
    /// Which part of all requests is traced at most.
    pub sample: Part,
    /// The file with headers of each request to the collector, `name: value` a line.
    pub headers_file: Option<PathBuf>,
}

/// A part of all, from 0 to 1.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Part(f64);

/// It is never NaN.
impl Eq for Part {}

impl Part {
    /// As a number.
    pub fn as_f64(self) -> f64 {
        self.0
    }
}

fn traces(section: &mut Section<'_>, base: Base<'_>) -> Option<TracesConfig> {
    let help = "write the base URL of a collector, such as \"http://collector:4318\"";
    let endpoint: String = section.required("endpoint", help)?;
    let sample: f64 = section.or("sample", 0.1);
    let headers_file = base.optional_path(section, "headers_file");
    let url = Url::parse(&endpoint).ok().filter(|url| {
        let host = url.host_str().is_some() && ["http", "https"].contains(&url.scheme());
        host && is_plain(url) && url.query().is_none()
    });
    if url.is_none() {
        section.blame("endpoint", format!("`{endpoint}` is no such URL"), help);
    }
    let safe = |url: &Url| url.scheme() == "https" || is_loopback(url);
    if headers_file.is_some() && url.as_ref().is_some_and(|url| !safe(url)) {
        let message = "the headers would be sent where others can read them";
        section.blame(
            "headers_file",
            message,
            "use https for `endpoint`, or leave this out",
        );
    }
    if !(0.0..=1.0).contains(&sample) {
        section.blame(
            "sample",
            format!("{sample} is no part of all"),
            "write a number from 0 to 1",
        );
    }
    Some(TracesConfig {
        endpoint: url?,
        sample: Part(sample.clamp(0.0, 1.0)),
        headers_file,
    })
}

pub(super) fn read(section: &mut Section<'_>, base: Base<'_>) -> TelemetryConfig {
    let level: String = section.or("level", "info".into());
    let help = "write `error`, `warn`, `info`, `debug`, or `info,dayfly=debug`";
    if let Err(error) = EnvFilter::builder().parse(&level) {
        section.blame("level", error, help);
    } else if let Some(word) = level.split(',').find(|part| !is_directive(part)) {
        section.blame("level", format!("`{word}` is no level"), help);
    }
    TelemetryConfig {
        format: section.or("format", LogFormat::Text),
        level,
        traces: match section.has("traces") {
            true => traces(&mut section.section("traces"), base),
            false => None,
        },
    }
}

/// A filter takes a word for the name of a target and is silent about everything else; here it is a level.
fn is_directive(part: &str) -> bool {
    part.contains(['=', '[']) || part.parse::<LevelFilter>().is_ok()
}
