//! `[ledger]`: where live state is kept.

use std::num::NonZeroU16;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;
use serde::Deserialize;

use crate::model::document::Section;
use crate::model::ids::Slot;

use super::read::{Base, duration};

/// Where live state is kept, and for how long after its end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LedgerConfig {
    /// Which ledger.
    pub kind: LedgerKind,
    /// How long what has ended is remembered, in the revocation feed too.
    pub retention: Duration,
}

/// Which ledger.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LedgerKind {
    /// A file on this machine, for one Dayfly.
    Embedded {
        /// The file.
        path: PathBuf,
    },
    /// Redis or Valkey, for any number of them.
    Redis(RedisConfig),
}

/// How Redis is reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RedisConfig {
    /// What kind of deployment it is.
    pub mode: RedisMode,
    /// `redis://host:port` or `rediss://host:port`, at least one; without a password.
    pub urls: Vec<String>,
    /// What every key starts with.
    pub prefix: String,
    /// Into how many shards tasks are spread. Fixed at first start.
    pub shards: NonZeroU16,
    /// The ACL user.
    pub username: Option<String>,
    /// The file with its password.
    pub password_file: Option<PathBuf>,
    /// The only authorities that may vouch for the servers; none means the system's.
    pub ca_file: Option<PathBuf>,
}

/// What kind of Redis deployment it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RedisMode {
    /// One node.
    Single,
    /// Sentinels, which know the master of this name.
    Sentinel {
        /// The name of the master set.
        master: String,
    },
    /// A cluster.
    Cluster,
}

#[derive(Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Embedded,
    Redis,
}

#[derive(Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Mode {
    Single,
    Sentinel,
    Cluster,
}

const URL: &str = "redis://127.0.0.1:6379";
const SHARDS: NonZeroU16 = NonZeroU16::MIN.saturating_add(63);

/// Both kinds may be written down; `kind` says which one counts, so that a file can hold both.
pub(super) fn read(section: &mut Section<'_>, base: Base<'_>) -> LedgerConfig {
    let kind = section.or("kind", Kind::Embedded);
    let retention = duration(section, "retention", 7 * 24 * 3600);
    let path = base.path(&mut section.section("embedded"), "path", "data/ledger.redb");
    let redis = redis(&mut section.section("redis"), base);
    LedgerConfig {
        kind: match kind {
            Kind::Embedded => LedgerKind::Embedded { path },
            Kind::Redis => LedgerKind::Redis(redis),
        },
        retention,
    }
}

fn redis(section: &mut Section<'_>, base: Base<'_>) -> RedisConfig {
    let mode = section.or("mode", Mode::Single);
    let urls: Vec<String> = section.list("urls").unwrap_or_else(|| vec![URL.into()]);
    check_urls(section, mode, &urls);
    let master: Option<String> = section.optional("master");
    if (mode == Mode::Sentinel) != master.is_some() {
        let message = "it is needed with `mode = \"sentinel\"`, and then only";
        section.blame(
            "master",
            message,
            "write the name of the master set, or another mode",
        );
    }
    let prefix: String = section.or("prefix", "dayfly".into());
    let letter = |b: u8| b.is_ascii_alphanumeric() || b"-_.:".contains(&b);
    if !(1..=64).contains(&prefix.len()) || !prefix.bytes().all(letter) {
        let help = "write 1 to 64 letters, digits, `-`, `_`, `.` or `:`";
        section.blame("prefix", "it cannot start a key", help);
    }
    let shards = section.or("shards", SHARDS);
    if shards.get() > Slot::COUNT {
        let help = format!("write a number from 1 to {}", Slot::COUNT);
        section.blame("shards", format!("{shards} is out of range"), &help);
    }
    RedisConfig {
        mode: match mode {
            Mode::Single => RedisMode::Single,
            Mode::Sentinel => RedisMode::Sentinel {
                master: master.unwrap_or_default(),
            },
            Mode::Cluster => RedisMode::Cluster,
        },
        urls,
        prefix,
        shards,
        username: section.optional("username"),
        password_file: base.optional_path(section, "password_file"),
        ca_file: base.optional_path(section, "ca_file"),
    }
}

fn check_urls(section: &Section<'_>, mode: Mode, urls: &[String]) {
    if urls.is_empty() || (mode == Mode::Single && urls.len() > 1) {
        let help = "write one URL, or `mode = \"sentinel\"` or `\"cluster\"` with several";
        section.blame("urls", format!("there are {}", urls.len()), help);
    }
    for text in urls {
        // A URL that is refused is not repeated: it may hold a password.
        let url = Url::parse(text).ok().filter(|url| url.host_str().is_some());
        match url {
            Some(url) if url.password().is_some() || !url.username().is_empty() => section.blame(
                "urls",
                "a URL holds a user or a password",
                "write them as `username` and `password_file`",
            ),
            Some(url) if matches!(url.scheme(), "redis" | "rediss") => {}
            _ => section.blame(
                "urls",
                "one is not a Redis URL",
                &format!("write `{URL}`, or `rediss://` for TLS"),
            ),
        }
    }
}
