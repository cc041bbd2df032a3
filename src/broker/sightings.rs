//! Which refused evidence was recorded already.
//!
//! Whoever can reach the port can send bad evidence without end, each time another. Each piece of it is
//! recorded once in a while, and few of all of them; the rest is counted in the metrics, so that nobody
//! fills the journal from outside.

use std::sync::Mutex;
use std::time::Duration;

use moka::sync::Cache;

use crate::model::time::Timestamp;

const AGAIN_AFTER: Duration = Duration::from_secs(300);
const REMEMBERED: u64 = 10_000;
/// How many are recorded at once. One more each second: 86,400 a day at most, some 40 MB.
const BURST: u64 = 20;

/// Decides whether a refusal is recorded.
pub(super) struct Sightings {
    seen: Cache<String, Timestamp>,
    /// How many may be recorded now, and in which second that was so.
    left: Mutex<(u64, u64)>,
}

impl Sightings {
    pub(super) fn new() -> Self {
        Self {
            seen: Cache::builder()
                .max_capacity(REMEMBERED)
                .time_to_live(AGAIN_AFTER)
                .build(),
            left: Mutex::new((0, 0)),
        }
    }

    /// True the first time in five minutes for this key, while there is room for it.
    pub(super) fn is_news(&self, key: &str, now: Timestamp) -> bool {
        if self.seen.get(key).is_some_and(|at| now.since(at) < AGAIN_AFTER) {
            return false;
        }
        let Ok(mut left) = self.left.lock() else {
            return false;
        };
        let (room, at) = *left;
        let room = BURST.min(room.saturating_add(now.as_secs().saturating_sub(at)));
        let Some(room) = room.checked_sub(1) else {
            return false;
        };
        *left = (room, now.as_secs());
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
        let flood = |at: Timestamp| {
            let pieces = (0..100).map(|n| format!("{at} {n}"));
            pieces.filter(|piece| sightings.is_news(piece, at)).count()
        };
        assert_eq!(flood(later), 19);
        assert_eq!(flood(later), 0);
        assert_eq!(
            flood(later.plus(Duration::from_secs(3))),
            3,
            "one more each second"
        );
        assert_eq!(flood(later.plus(AGAIN_AFTER)), 20);
    }
}
