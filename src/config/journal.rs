//! `[journal]`: where records are kept.

use std::path::PathBuf;
use std::time::Duration;

use crate::model::document::Section;

use super::read::{Base, duration_within, within};

/// Where records are kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JournalConfig {
    /// The directory. One Dayfly writes to it.
    pub dir: PathBuf,
    /// The log's name in its checkpoints (C2SP tlog-checkpoint): a URL without a scheme.
    pub origin: String,
    /// When a segment has at least this many bytes, the next one is begun.
    pub segment_bytes: u64,
    /// How long a record may be without a signed checkpoint.
    pub checkpoint_interval: Duration,
}

const MIB: u64 = 1 << 20;

pub(super) fn read(section: &mut Section<'_>, public_url: &str, base: Base<'_>) -> JournalConfig {
    let origin: String = section.optional("origin").unwrap_or_else(|| {
        let (_, host) = public_url.split_once("://").unwrap_or_default();
        format!("{host}/journal")
    });
    let plain = |c: char| !c.is_whitespace() && !c.is_control() && c != '+';
    if !(1..=256).contains(&origin.len()) || !origin.chars().all(plain) || origin.contains("://") {
        section.blame(
            "origin",
            "it cannot be the name of a log",
            "write a URL without its scheme: `origin = \"dayfly.example.org/journal\"`",
        );
    }
    JournalConfig {
        dir: base.path(section, "dir", "data/journal"),
        origin,
        segment_bytes: within(section, "segment_bytes", 64 * MIB, MIB, 4096 * MIB),
        checkpoint_interval: duration_within(section, "checkpoint_interval", 1, 3600),
    }
}
