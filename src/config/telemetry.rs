//! `[telemetry]`: how logs are written.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::model::document::Section;
use crate::telemetry::LogFormat;

/// How logs are written, to standard error.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TelemetryConfig {
    /// Their form.
    pub format: LogFormat,
    /// Which of them: a level, or a `tracing` filter such as `info,dayfly=debug`.
    pub level: String,
}

pub(super) fn read(section: &mut Section<'_>) -> TelemetryConfig {
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
    }
}

/// A filter takes a word for the name of a target and is silent about everything else; here it is a level.
fn is_directive(part: &str) -> bool {
    part.contains(['=', '[']) || part.parse::<LevelFilter>().is_ok()
}
