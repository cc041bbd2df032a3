//! Kill orders that could not be written down. Access is denied already, by the cutoff; what is out has to end
//! all the same, so this broker goes on by itself until the ledger takes the order, or all of it is done.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::model::recheck::{Progress, Recheck, Work};
use crate::model::time::Timestamp;

use super::super::Broker;
use super::super::error::BrokerError;

/// The most that one broker owes: whoever gives more is told that nobody goes on with it.
const MOST: usize = 1000;

/// What is owed, the oldest first.
#[derive(Debug, Default)]
pub(in super::super) struct Owed(Mutex<VecDeque<Recheck>>);

impl Owed {
    fn held(&self) -> MutexGuard<'_, VecDeque<Recheck>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there was room. One about the same leases that nobody began is replaced, by one that reaches further.
    fn push(&self, recheck: Recheck) -> bool {
        let mut owed = self.held();
        let full = owed.len() >= MOST;
        let same = |other: &&mut Recheck| other.whom == recheck.whom && other.progress == Progress::default();
        match owed.iter_mut().find(same) {
            Some(other) if reach(other) < reach(&recheck) => *other = recheck,
            Some(_) => {}
            None if full => return false,
            None => owed.push_back(recheck),
        }
        true
    }
}

/// Up to when a lease has to be made that it ends.
fn reach(recheck: &Recheck) -> Option<Timestamp> {
    match &recheck.work {
        Work::Cut { cutoff } => Some(cutoff.up_to),
        Work::Distrust { .. } | Work::Decide { .. } => None,
    }
}

impl Broker {
    /// Goes on with an order that could not be written down: whether it does.
    pub(in super::super) fn owe(&self, recheck: Recheck) -> bool {
        let owes = self.owed.push(recheck);
        self.ordered.notify_one();
        owes
    }

    /// Writes down one order that is owed, or works off a page of it where that still fails: whether it did the
    /// latter.
    pub(super) async fn make_up(&self) -> Result<bool, BrokerError> {
        let Some(mut recheck) = self.owed.held().pop_front() else {
            return Ok(false);
        };
        let mut owing = Owing {
            owed: &self.owed,
            recheck: Some(recheck.clone()),
        };
        let order = Recheck {
            progress: Progress::default(),
            ..recheck.clone()
        };
        if self.parts.ledger.order_recheck(&order).await.is_ok() {
            owing.recheck = None;
            return Ok(false);
        }
        let rules = self.parts.rules.current();
        let (progress, done) = self.recheck_page(&rules, &recheck).await?;
        recheck.progress = progress;
        owing.recheck = (!done).then_some(recheck);
        Ok(true)
    }
}

/// Is owed still when whoever works at it is dropped.
struct Owing<'a> {
    owed: &'a Owed,
    recheck: Option<Recheck>,
}

impl Drop for Owing<'_> {
    fn drop(&mut self) {
        if let Some(recheck) = self.recheck.take() {
            self.owed.held().push_back(recheck);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::cutoff::{Cutoff, Selector};
    use crate::model::lease::Cause;

    fn cut(user: usize, up_to: u64) -> Recheck {
        let selector = Selector::User(format!("user-{user}").parse().unwrap());
        let cutoff = Cutoff {
            selector: selector.clone(),
            up_to: Timestamp::from_secs(up_to),
            at: Timestamp::EPOCH,
            cause: Cause::Cutoff,
        };
        Recheck {
            whom: selector,
            work: Work::Cut { cutoff },
            why: "because".into(),
            ordered_at: Timestamp::EPOCH,
            progress: Progress::default(),
        }
    }

    #[test]
    fn what_is_owed_is_bounded_and_each_once() {
        let owed = Owed::default();
        for user in 0..MOST {
            assert!(owed.push(cut(user, 5)));
        }
        assert!(!owed.push(cut(MOST, 5)));
        assert!(owed.push(cut(0, 7)) && owed.push(cut(0, 6)));
        assert_eq!(owed.held().len(), MOST);
        assert_eq!(owed.held().front(), Some(&cut(0, 7)));
    }

    #[test]
    fn it_stays_owed_when_whoever_is_at_it_goes() {
        let owed = Owed::default();
        owed.push(cut(0, 5));
        let recheck = owed.held().pop_front();
        let owing = Owing { owed: &owed, recheck };
        assert_eq!(owed.held().len(), 0);
        drop(owing);
        assert_eq!(owed.held().len(), 1);
    }
}
