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
    let endpoint: Option<String> = section.required("endpoint", help);
    let sample: f64 = section.or("sample", 0.1);
    let headers_file = base.optional_path(section, "headers_file");
    if !(0.0..=1.0).contains(&sample) {
        section.blame(
            "sample",
            format!("{sample} is no part of all"),
            "write a number from 0 to 1",
        );
    }
    let url = Url::parse(endpoint.as_deref()?).ok().filter(|url| {
        let host = url.host_str().is_some() && ["http", "https"].contains(&url.scheme());
        host && is_plain(url) && url.query().is_none()
    });
    if url.is_none() {
        section.blame("endpoint", "it is no such URL", help);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::document::Document;
    use std::path::Path;

    fn read_traces(text: &str) -> Result<TelemetryConfig, String> {
        let document = Document::new("dayfly.toml", text);
        let config = document
            .root()
            .map(|mut root| read(&mut root, Base(Path::new("/etc/dayfly"))));
        document.finish(config).map_err(|problems| problems.to_string())
    }

    #[test]
    fn a_part_of_all_requests_is_traced_and_nothing_without_a_collector() {
        assert_eq!(read_traces("").unwrap().traces, None);
        let traces = read_traces("[traces]\nendpoint = 'http://collector:4318'")
            .unwrap()
            .traces;
        let traces = traces.unwrap();
        assert!((traces.sample.as_f64() - 0.1).abs() < f64::EPSILON);
        let all = read_traces("[traces]\nendpoint = 'http://collector:4318'\nsample = 1").unwrap();
        assert!((all.traces.unwrap().sample.as_f64() - 1.0).abs() < f64::EPSILON);
    }

    #[test]
    fn what_would_not_work_or_would_be_read_by_others_is_refused() {
        for (text, word) in [
            ("sample = 0.1", "endpoint"),
            ("endpoint = 'collector:4318'", "no such URL"),
            ("endpoint = 'ftp://collector'", "no such URL"),
            ("endpoint = 'http://user:word@collector'", "no such URL"),
            ("endpoint = 'http://collector'\nsample = 1.5", "no part of all"),
            (
                "endpoint = 'http://collector'\nheaders_file = 'h'",
                "others can read",
            ),
            ("endpoint = 'http://collector'\ninsecure = true", "unknown key"),
        ] {
            let error = read_traces(&format!("[traces]\n{text}")).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
        for text in [
            "endpoint = 'https://collector'\nheaders_file = 'h'",
            "endpoint = 'http://127.0.0.1:4318'\nheaders_file = 'h'",
        ] {
            assert!(read_traces(&format!("[traces]\n{text}")).is_ok(), "{text}");
        }
    }
}
