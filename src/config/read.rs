//! What the readers of several sections need.

use std::fmt::Display;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Url;

use crate::model::document::Section;
use crate::model::ttl::Ttl;

/// The directory of the configuration file, which relative paths are below.
#[derive(Clone, Copy)]
pub(super) struct Base<'p>(pub(super) &'p Path);

impl Base<'_> {
    pub(super) fn join(self, path: &Path) -> PathBuf {
        self.0.join(path)
    }

    pub(super) fn path(self, section: &mut Section<'_>, key: &'static str, default: &str) -> PathBuf {
        self.optional_path(section, key)
            .unwrap_or_else(|| self.join(Path::new(default)))
    }

    pub(super) fn optional_path(self, section: &mut Section<'_>, key: &'static str) -> Option<PathBuf> {
        let path: PathBuf = section.optional(key)?;
        if path.as_os_str().is_empty() {
            section.blame(key, "it is empty", "write a path, or leave the key out");
        }
        Some(self.join(&path))
    }
}

/// A length of time for defaults; they are all far below the most that there can be.
pub(super) const fn seconds(seconds: u32) -> Ttl {
    match Ttl::from_secs(seconds) {
        Some(ttl) => ttl,
        None => Ttl::MAX,
    }
}

/// A length of time, by default so many seconds.
pub(super) fn duration(section: &mut Section<'_>, key: &'static str, default: u32) -> Duration {
    section.or(key, seconds(default)).as_duration()
}

/// A number within limits.
pub(super) fn within<T>(section: &mut Section<'_>, key: &'static str, default: T, least: T, most: T) -> T
where
    T: serde::de::DeserializeOwned + PartialOrd + Display,
{
    let value = section.or(key, default);
    if value < least || value > most {
        section.blame(
            key,
            format!("{value} is out of range"),
            &format!("write a number from {least} to {most}"),
        );
    }
    value
}

/// A length of time within limits.
pub(super) fn duration_within(
    section: &mut Section<'_>,
    key: &'static str,
    default: u32,
    most: u32,
) -> Duration {
    let value = section.or(key, seconds(default));
    bounded(section, key, value, most)
}

/// A length of time within limits, or none at all.
pub(super) fn optional_within(section: &mut Section<'_>, key: &'static str, most: u32) -> Option<Duration> {
    let value = section.optional(key)?;
    Some(bounded(section, key, value, most))
}

fn bounded(section: &mut Section<'_>, key: &'static str, value: Ttl, most: u32) -> Duration {
    let most = seconds(most);
    if value > most {
        section.blame(
            key,
            format!("{value} is too long"),
            &format!("write at most `{key} = \"{most}\"`"),
        );
    }
    value.as_duration()
}

/// Refuses a pair of lengths in which the first is longer than the second.
pub(super) fn ordered<T: PartialOrd + Display>(
    section: &Section<'_>,
    (shorter, a): (&'static str, T),
    (longer, b): (&'static str, T),
) {
    if a > b {
        section.blame(
            shorter,
            format!("{a} is more than `{longer}`, {b}"),
            &format!("lower `{shorter}` or raise `{longer}`"),
        );
    }
}

/// An address that may be fetched: `https`, or `http` on this machine; no user, password or fragment.
pub(super) fn is_address(text: &str) -> bool {
    Url::parse(text).is_ok_and(|url| {
        is_plain(&url) && (url.scheme() == "https" || (url.scheme() == "http" && is_loopback(&url)))
    })
}

/// Whether a URL has a host, and nothing in it that would be sent or lost.
pub(super) fn is_plain(url: &Url) -> bool {
    url.host_str().is_some()
        && url.username().is_empty()
        && url.password().is_none()
        && url.fragment().is_none()
}

/// Whether the host of a URL is this machine.
pub(super) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// A key with an address that may be fetched.
pub(super) fn address(section: &mut Section<'_>, key: &'static str) -> Option<String> {
    let text: String = section.optional(key)?;
    if !is_address(&text) {
        section.blame(
            key,
            "it is not an address that may be fetched",
            "write `https://host/path` without user, password or fragment; `http` only to this machine",
        );
    }
    Some(text)
}
