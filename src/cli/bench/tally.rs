//! What came of a load: how long it took, what failed, and what it cost the processor.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::telemetry::process;

/// The longest time that is told from longer ones, in microseconds.
const LONGEST: u64 = 120_000_000;
/// Digits of a time that are kept.
const DIGITS: u8 = 3;

/// Times, in microseconds.
#[derive(Clone, Debug, Default)]
pub(super) struct Times(Option<Histogram<u64>>);

impl Times {
    pub(super) fn record(&mut self, took: Duration) {
        let micros = u64::try_from(took.as_micros())
            .unwrap_or(LONGEST)
            .clamp(1, LONGEST);
        if self.0.is_none() {
            self.0 = Histogram::new_with_bounds(1, LONGEST, DIGITS).ok();
        }
        if let Some(times) = &mut self.0 {
            times.saturating_record(micros);
        }
    }

    fn add(&mut self, other: &Self) {
        match (&mut self.0, &other.0) {
            (Some(times), Some(more)) => {
                // They have the same bounds.
                let _ = times.add(more);
            }
            (none @ None, more) => none.clone_from(more),
            (Some(_), None) => {}
        }
    }

    /// Forgets them, and keeps their room.
    pub(super) fn clear(&mut self) {
        if let Some(times) = &mut self.0 {
            times.reset();
        }
    }

    /// How many there are.
    pub(super) fn count(&self) -> u64 {
        self.0.as_ref().map_or(0, Histogram::len)
    }

    /// The time within which so many of a hundred were answered.
    pub(super) fn percentile(&self, percent: f64) -> Duration {
        let times = self.0.as_ref();
        Duration::from_micros(times.map_or(0, |times| times.value_at_quantile(percent / 100.0)))
    }

    /// The longest.
    pub(super) fn longest(&self) -> Duration {
        Duration::from_micros(self.0.as_ref().map_or(0, Histogram::max))
    }
}

/// What one kind of request did.
#[derive(Clone, Debug, Default)]
pub(super) struct Asked {
    /// From when it was due to the answer, of those that count.
    pub(super) took: Times,
    /// What went wrong how often.
    pub(super) failed: BTreeMap<String, u64>,
}

impl Asked {
    /// How many failed.
    pub(super) fn failures(&self) -> u64 {
        self.failed.values().sum()
    }
}

/// What came of a load, or of a part of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    /// By kind of request.
    pub(super) asked: BTreeMap<String, Asked>,
    /// Requests that were sent, whatever came of them: some kinds above are several in one.
    pub(super) sent: u64,
    /// How much later than due it was begun, for want of a connection or of this process's own speed.
    pub(super) late: Times,
    /// How long all that counts took.
    pub(super) took: Duration,
    /// What it cost.
    pub(super) spent: Spent,
}

impl Tally {
    /// Takes note of one request.
    pub(super) fn note(&mut self, what: &str, took: Duration, failure: Option<String>) {
        self.sent += 1;
        self.sum_up(what, took, failure);
    }

    /// Takes note of what is no request itself: several of them, or none.
    pub(super) fn sum_up(&mut self, what: &str, took: Duration, failure: Option<String>) {
        let asked = match self.asked.get_mut(what) {
            Some(asked) => asked,
            None => self.asked.entry(what.to_owned()).or_default(),
        };
        match failure {
            None => asked.took.record(took),
            Some(why) => *asked.failed.entry(why).or_default() += 1,
        }
    }

    /// Adds another part.
    pub(super) fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.late.add(&other.late);
        self.took += other.took;
        self.spent = self.spent.plus(other.spent);
        for (what, more) in &other.asked {
            let asked = self.asked.entry(what.clone()).or_default();
            asked.took.add(&more.took);
            for (why, times) in &more.failed {
                *asked.failed.entry(why.clone()).or_default() += times;
            }
        }
    }

    /// How many failed.
    pub(super) fn failed(&self) -> u64 {
        self.asked.values().map(Asked::failures).sum()
    }
}

/// Processor time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Spent {
    /// Of this process.
    pub(super) harness: Option<Duration>,
    /// Of the server, where it is known which process that is.
    pub(super) server: Option<Duration>,
}

impl Spent {
    /// What was spent until now, by this process and by that of the server.
    pub(super) fn so_far(server: Option<u32>) -> Self {
        Self {
            harness: process::cpu_time(std::process::id()),
            server: server.and_then(process::cpu_time),
        }
    }

    /// What was spent since.
    pub(super) fn since(self, before: Self) -> Self {
        let since = |now: Option<Duration>, then: Option<Duration>| Some(now?.saturating_sub(then?));
        Self {
            harness: since(self.harness, before.harness),
            server: since(self.server, before.server),
        }
    }

    fn plus(self, other: Self) -> Self {
        let sum = |one: Option<Duration>, other: Option<Duration>| match (one, other) {
            (None, None) => None,
            (one, other) => Some(one.unwrap_or_default() + other.unwrap_or_default()),
        };
        Self {
            harness: sum(self.harness, other.harness),
            server: sum(self.server, other.server),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up_to_the_whole() {
        let mut whole = Tally::default();
        for millis in [1, 3] {
            let mut part = Tally {
                took: Duration::from_secs(2),
                ..Tally::default()
            };
            part.note("issue", Duration::from_millis(millis), None);
            part.note("issue", Duration::ZERO, Some("no answer".to_owned()));
            part.sum_up("all three", Duration::from_millis(millis), None);
            whole.add(&part);
        }
        assert_eq!((whole.sent, whole.failed(), whole.took.as_secs()), (4, 2, 4));
        let issue = whole.asked.get("issue").unwrap();
        assert_eq!((issue.took.count(), issue.failures()), (2, 2));
        assert!(issue.took.percentile(50.0) < Duration::from_micros(1010));
        assert!(issue.took.longest() >= Duration::from_millis(3));
    }

    #[test]
    fn what_a_process_spent_is_known_and_grows() {
        let before = Spent::so_far(Some(std::process::id()));
        let mut number = 0_u64;
        let spent = loop {
            number = std::hint::black_box(number.wrapping_mul(31).wrapping_add(1));
            let spent = Spent::so_far(Some(std::process::id())).since(before);
            if spent.harness.is_none() || spent.harness > Some(Duration::ZERO) {
                break spent;
            }
        };
        assert_eq!(spent.harness.is_some(), cfg!(target_os = "linux"));
        assert_eq!(Spent::so_far(None).server, None);
    }
}
