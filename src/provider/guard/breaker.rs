//! The circuit breaker: closed while the provider answers; open, so that nobody asks, after it failed
//! several times in a row; and then one call at a time tries whether it is back.

use std::num::NonZeroU32;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::provider::ProviderError;

/// When a breaker opens, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// So many failures in a row open it.
    pub failures: NonZeroU32,
    /// How long it stays open at first; twice as long after each trial that failed,
    pub rest: Duration,
    /// up to this.
    pub longest_rest: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            failures: NonZeroU32::MIN.saturating_add(4),
            rest: Duration::from_secs(5),
            longest_rest: Duration::from_secs(60),
        }
    }
}

/// How long somebody waits who comes while the trial is under way.
const TRIAL: Duration = Duration::from_secs(1);

pub(super) struct Breaker {
    patience: Patience,
    state: Mutex<State>,
}

enum State {
    /// It answers; this many failures in a row so far.
    Closed(u32),
    /// Nobody asks until then. Then one does: the trial.
    Open {
        until: Instant,
        rest: Duration,
        trial: bool,
        reason: String,
    },
}

impl Breaker {
    pub(super) fn new(patience: Patience) -> Self {
        Self {
            patience,
            state: Mutex::new(State::Closed(0)),
        }
    }

    /// Asks whether a call may be made. Whoever gets a pass says what came of it.
    pub(super) fn enter(&self) -> Result<Pass<'_>, ProviderError> {
        let now = Instant::now();
        let trial = match &mut *self.lock() {
            State::Closed(_) => false,
            State::Open { until, trial, .. } if *until <= now && !*trial => {
                *trial = true;
                true
            }
            State::Open {
                until, trial, reason, ..
            } => {
                let left = until.saturating_duration_since(now);
                return Err(ProviderError::Down {
                    after: if *trial { TRIAL } else { left },
                    reason: reason.clone(),
                });
            }
        };
        Ok(Pass { breaker: self, trial })
    }

    /// Nothing is ever left half-done under this lock, so a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One call. Dropped without a word, it says nothing about the provider.
pub(super) struct Pass<'b> {
    breaker: &'b Breaker,
    trial: bool,
}

impl Pass<'_> {
    /// The provider gave an answer. Answers whether that closed the breaker.
    pub(super) fn answered(mut self) -> bool {
        let mut state = self.breaker.lock();
        match &*state {
            // One that was under way when the breaker opened proves nothing about now.
            State::Open { .. } if !self.trial => false,
            State::Open { .. } => {
                self.trial = false;
                *state = State::Closed(0);
                true
            }
            State::Closed(0) => false,
            State::Closed(_) => {
                *state = State::Closed(0);
                false
            }
        }
    }

    /// The provider gave none. Answers whether that opened the breaker.
    pub(super) fn failed(mut self, reason: &str) -> bool {
        let patience = self.breaker.patience;
        let mut state = self.breaker.lock();
        let (rest, opened) = match &*state {
            State::Closed(before) if before.saturating_add(1) < patience.failures.get() => {
                *state = State::Closed(before.saturating_add(1));
                return false;
            }
            State::Closed(_) => (patience.rest, true),
            State::Open { .. } if !self.trial => return false,
            State::Open { rest, .. } => (rest.saturating_mul(2).min(patience.longest_rest), false),
        };
        self.trial = false;
        *state = State::Open {
            until: Instant::now() + rest,
            rest,
            trial: false,
            reason: reason.to_owned(),
        };
        opened
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if self.trial
            && let State::Open { trial, .. } = &mut *self.breaker.lock()
        {
            *trial = false; // somebody else tries
        }
    }
}
