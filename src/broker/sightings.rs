//! Which refused evidence was recorded already.
//!
//! Whoever can reach the port can send bad evidence without end. Each kind of it is recorded once in
//! a while; the rest is counted in the metrics, so that nobody fills the journal from outside.

use std::sync::Mutex;
use std::time::Duration;

use moka::sync::Cache;

use crate::model::time::Timestamp;

const AGAIN_AFTER: Duration = Duration::from_secs(300);
const REMEMBERED: u64 = 10_000;
const PER_SECOND: u32 = 20;

/// Decides whether a refusal is recorded.
pub(super) struct Sightings {
    seen: Cache<String, Timestamp>,
    window: Mutex<(u64, u32)>,
}

impl Sightings {
    pub(super) fn new() -> Self {
        Self {
            seen: Cache::builder()
                .max_capacity(REMEMBERED)
                .time_to_live(AGAIN_AFTER)
                .build(),
            window: Mutex::new((0, 0)),
        }
    }

    /// True the first time in five minutes for this key, and at most twenty times a second in all.
    pub(super) fn is_news(&self, key: &str, now: Timestamp) -> bool {
        if self.seen.get(key).is_some_and(|at| now.since(at) < AGAIN_AFTER) {
            return false;
        }
        let Ok(mut window) = self.window.lock() else {
            return false;
        };
        if window.0 != now.as_secs() {
            *window = (now.as_secs(), 0);
        }
        if window.1 >= PER_SECOND {
            return false;
        }
        window.1 += 1;
        self.seen.insert(key.to_owned(), now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_each_refusal_once_in_a_while_and_few_in_all() {
        let sightings = Sightings::new();
        let now = Timestamp::from_secs(1_795_329_000);
        assert!(sightings.is_news("a", now));
        assert!(!sightings.is_news("a", now));
        let later = now.plus(AGAIN_AFTER);
        assert!(sightings.is_news("a", later));
        let recorded = (0..100)
            .filter(|n| sightings.is_news(&format!("flood {n}"), later))
            .count();
        assert_eq!(recorded, 19);
    }
}
