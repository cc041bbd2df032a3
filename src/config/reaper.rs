//! `[reaper]`: how what is due is ended.

use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use crate::model::document::Section;
use crate::model::ttl::Ttl;

use super::read::{duration_within, ordered, seconds};

/// How what is due is ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReaperConfig {
    /// How often to look for what is due, unless woken earlier.
    pub interval: Duration,
    /// How many leases to claim at a time. A ledger of many shards gives a part of it from each.
    pub batch: NonZeroUsize,
    /// How long a claim keeps other replicas away: what a process claimed before it crashed waits as long for
    /// its receipts. An end that outlasts its hold is not settled and is made again, so this is as long as
    /// an end may take. It begins within half of it; then two calls of at most 10 s, and 5 s of waiting for
    /// a place for each.
    pub hold: Duration,
    /// How many revocations to have under way at a time, at each provider.
    pub concurrency: NonZeroUsize,
    /// The longest wait before the first retry; it doubles with each attempt.
    pub retry_least: Duration,
    /// The longest wait before any retry.
    pub retry_most: Duration,
    /// After how many failed attempts a lease is stuck: still retried, and a person must look.
    pub stuck_after: NonZeroU32,
}

const BATCH: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1023);
const CONCURRENCY: NonZeroUsize = NonZeroUsize::MIN.saturating_add(63);
const ATTEMPTS: NonZeroU32 = NonZeroU32::MIN.saturating_add(9);

pub(super) fn read(section: &mut Section<'_>) -> ReaperConfig {
    let least: Ttl = section.or("retry_least", seconds(1));
    let most: Ttl = section.or("retry_most", seconds(300));
    ordered(section, ("retry_least", least), ("retry_most", most));
    ReaperConfig {
        interval: duration_within(section, "interval", 1, 60),
        batch: section.or("batch", BATCH),
        hold: duration_within(section, "hold", 60, 3600),
        concurrency: section.or("concurrency", CONCURRENCY),
        retry_least: least.as_duration(),
        retry_most: most.as_duration(),
        stuck_after: section.or("stuck_after", ATTEMPTS),
    }
}
