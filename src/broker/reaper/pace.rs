//! How much the reaper takes of what it shares: the processors, the ledger, the disk.
//!
//! What is left to do about an end waits for nobody: the credential is refused or gone already. So whoever asks for
//! something goes first. That somebody does shows in how long the reaper's own work takes: several times as long as it
//! could, and something waits. It then rests, the longer the slower it went, as a sender does whose packets are delayed
//! (Brakmo, O'Malley and Peterson, "TCP Vegas", 1994). Alone, it seldom rests.

use std::time::Duration;

use tokio::time::Instant;

/// Of fewer leases, what they have in common says more than how long each took.
const TELLING: u32 = 16;
/// So many times as long as it could take is no sign of anybody.
const FREELY: f64 = 6.0;
/// How long it rests, in times of the work, for each time that this took longer than that.
const YIELDING: f64 = 2.0;
/// The longest rest.
const LONGEST: Duration = Duration::from_millis(50);
/// What the least time is raised by with each group, so that a ledger that grew is not taken for a crowd for ever.
const FORGETTING: f64 = 1.0003;

/// When it goes on.
pub(super) struct Pace {
    /// The least that a lease took of a group, in seconds.
    least: f64,
    rests_until: Instant,
    hurries: bool,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self {
            least: f64::INFINITY,
            rests_until: Instant::now(),
            hurries: false,
        }
    }

    /// A group of so many leases took so long.
    pub(super) fn took(&mut self, leases: usize, took: Duration) {
        let Some(leases) = u32::try_from(leases).ok().filter(|leases| *leases >= TELLING) else {
            return;
        };
        if self.hurries {
            return;
        }
        let each = took.as_secs_f64() / f64::from(leases);
        self.least = (self.least * FORGETTING).min(each).max(f64::MIN_POSITIVE);
        let slower = (each / self.least - FREELY).max(0.0);
        let rest = (took.as_secs_f64() * slower * YIELDING).min(LONGEST.as_secs_f64());
        self.rests_until = self
            .rests_until
            .max(Instant::now() + Duration::from_secs_f64(rest));
    }

    /// Until when it rests; what is past is no rest.
    pub(super) fn rests_until(&self) -> Instant {
        self.rests_until
    }

    pub(super) fn is_resting(&self) -> bool {
        self.rests_until > Instant::now()
    }

    /// Has no more rest: somebody waits for the end.
    pub(super) fn hurry(&mut self) {
        self.hurries = true;
        self.rests_until = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: usize = 32;

    fn rest_after(pace: &mut Pace, leases: usize, millis: u64) -> Duration {
        pace.took(leases, Duration::from_millis(millis));
        pace.rests_until().saturating_duration_since(Instant::now())
    }

    #[tokio::test(start_paused = true)]
    async fn rests_the_longer_the_slower_it_went() {
        let mut pace = Pace::new();
        assert_eq!(rest_after(&mut pace, GROUP, 10), Duration::ZERO);
        assert_eq!(rest_after(&mut pace, GROUP, 50), Duration::ZERO, "that is nobody");
        let some = rest_after(&mut pace, GROUP, 62);
        assert!(
            some > Duration::from_millis(10) && some < Duration::from_millis(30),
            "{some:?}"
        );
        tokio::time::advance(some).await;
        assert!(!pace.is_resting());
        let more = rest_after(&mut pace, GROUP, 64);
        assert!(more > some, "{more:?}");
        tokio::time::advance(more).await;
        assert_eq!(rest_after(&mut pace, GROUP, 60_000), LONGEST);
    }

    #[tokio::test(start_paused = true)]
    async fn few_leases_say_nothing() {
        let mut pace = Pace::new();
        pace.took(GROUP, Duration::from_millis(10));
        assert_eq!(rest_after(&mut pace, 1, 1000), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn who_hurries_has_no_rest() {
        let mut pace = Pace::new();
        pace.took(GROUP, Duration::from_millis(10));
        assert_eq!(rest_after(&mut pace, GROUP, 60_000), LONGEST);
        pace.hurry();
        assert!(!pace.is_resting());
        assert_eq!(rest_after(&mut pace, GROUP, 60_000), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_always_slow_is_not_a_crowd_for_ever() {
        let mut pace = Pace::new();
        pace.took(GROUP, Duration::from_millis(10));
        let mut groups = 0;
        while rest_after(&mut pace, GROUP, 80) > Duration::ZERO {
            tokio::time::advance(LONGEST).await;
            groups += 1;
            assert!(groups < 1000);
        }
    }
}
