//! `complete` and its lesser siblings: a task beats, waits, goes on, or ends.
//!
//! Ending a task closes it in one atomic step, after which nothing can be issued for it. Then its
//! leases are drained; whoever wants to see that done waits for the receipts.

use std::num::NonZeroUsize;
use std::time::Duration;

use crate::journal::record::{Record, Result as Outcome, Verb};
use crate::ledger::{Filter, Page, Refusal};
use crate::model::ids::{RequestId, TaskId};
use crate::model::lease::{Lease, LeaseState};
use crate::model::task::{Outcome as TaskOutcome, Task, TaskChange, TaskState};
use crate::registry::Caller;

use super::error::BrokerError;
use super::records::{Fill, of_caller};
use super::{Broker, measure};

/// The longest that anybody may wait for receipts.
pub const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// A task that ended, with what became of its leases so far.
#[derive(Debug)]
pub struct Completed {
    /// The task.
    pub task: Task,
    /// Its leases, and those of what was below it, oldest first, at most a page of them.
    pub leases: Vec<Lease>,
}

impl Broker {
    /// A sign of life.
    pub async fn beat(&self, caller: &Caller, id: TaskId) -> Result<Task, BrokerError> {
        self.own_charter(caller, id).await?;
        Ok(self
            .parts
            .ledger
            .advance(id, TaskChange::Beat, self.now())
            .await?)
    }

    /// Ends what is live and issues nothing until the task resumes.
    pub async fn suspend(
        &self,
        caller: &Caller,
        id: TaskId,
        request: RequestId,
    ) -> Result<Task, BrokerError> {
        self.own_charter(caller, id).await?;
        self.advance(caller, id, TaskChange::Suspend, Verb::Suspend, request)
            .await
    }

    /// Open again.
    pub async fn resume(&self, caller: &Caller, id: TaskId, request: RequestId) -> Result<Task, BrokerError> {
        self.outside_quarantine()?;
        self.own_charter(caller, id).await?;
        self.advance(caller, id, TaskChange::Resume, Verb::Resume, request)
            .await
    }

    /// Ends a task of the caller's own, or calls one off that it handed on, and waits up to `wait` until its leases are settled. Ending it
    /// again in the same way is no error.
    pub async fn complete(
        &self,
        caller: &Caller,
        id: TaskId,
        outcome: TaskOutcome,
        wait: Duration,
        request: RequestId,
    ) -> Result<Completed, BrokerError> {
        let charter = self.charter(id).await?;
        let name = &caller.agent().name;
        match (charter.agent == *name, charter.is_delegated_by(name)) {
            (true, _) => {}
            (false, true) if outcome == TaskOutcome::Cancelled => {}
            (false, true) => {
                return Err(BrokerError::OutOfBounds {
                    pointer: "/outcome".into(),
                    reason: format!(
                        "this was handed on, and `{}` says how it went: you can call it `cancelled`",
                        charter.agent
                    ),
                });
            }
            (false, false) => return Err(BrokerError::NoTask),
        }
        let task = self
            .advance(caller, id, TaskChange::End(outcome), Verb::Complete, request)
            .await?;
        match task.state {
            TaskState::Ended { outcome: first, .. } if first != outcome => {
                Err(BrokerError::Refused(Refusal::TaskNotOpen(task.state)))
            }
            _ => self.drained(task, wait).await,
        }
    }

    /// Moves a task and records it. What has become due is the reaper's.
    pub(super) async fn advance(
        &self,
        caller: &Caller,
        id: TaskId,
        change: TaskChange,
        verb: Verb,
        request: RequestId,
    ) -> Result<Task, BrokerError> {
        let now = self.now();
        let task = self.parts.ledger.advance(id, change, now).await?;
        if task.state != TaskState::Open {
            self.denies_since(Some(request));
        }
        self.due.notify_one();
        let record = Record {
            cause: match task.state {
                TaskState::Ended { outcome, .. } => Some(outcome.as_str().to_owned()),
                TaskState::Open | TaskState::Suspended => None,
            },
            ..of_caller(verb, Outcome::Permitted, now, caller, request).task(&task.charter)
        };
        // Ending access is never held back by the journal: it is done already, and says so here.
        self.record(record).await?;
        measure::decided(verb, Outcome::Permitted);
        Ok(task)
    }

    /// Waits until every lease of the task is settled, or until the time is up.
    pub(super) async fn drained(&self, task: Task, wait: Duration) -> Result<Completed, BrokerError> {
        let filter = Filter {
            task: Some(task.charter.id),
            ..Filter::default()
        };
        let page = Page {
            after: None,
            limit: NonZeroUsize::new(Page::MOST).unwrap_or(NonZeroUsize::MIN),
        };
        let give_up = tokio::time::Instant::now() + wait.min(LONGEST_WAIT);
        loop {
            let settled = self.settled.notified();
            tokio::pin!(settled);
            settled.as_mut().enable();
            let leases = self.parts.ledger.find(&filter, &page).await?;
            let pending = leases
                .iter()
                .any(|lease| !matches!(lease.state, LeaseState::Ended { .. }));
            let now = tokio::time::Instant::now();
            if !pending || now >= give_up {
                return Ok(Completed { task, leases });
            }
            // What another replica settles wakes nobody here, so look again at every interval.
            let look = give_up.min(now + self.parts.settings.reaper.interval);
            let _woken_or_not = tokio::time::timeout_at(look, settled).await;
        }
    }
}
