//! `recheck`: a live lease is looked at once more, because something about its context changed.
//!
//! What is to be looked at is an order in the ledger ([`Recheck`]): written with the change itself, worked
//! off a page at a time by whichever broker comes to it, and gone when it is done. A broker that dies in
//! the middle leaves the rest to another. Pages are paced, so that deciding anew never takes
//! more of a broker than issuing leaves it.

pub(super) mod overtaken;
pub(super) mod owed;
pub(super) mod today;
pub(super) mod untold;

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::journal::record::{Record, Result as Outcome, Verb};
use crate::ledger::{LedgerError, Page, Refusal};
use crate::model::cutoff::Selector;
use crate::model::ids::RequestId;
use crate::model::lease::{Cause, Curtailed, Lease};
use crate::model::recheck::{Progress, Recheck, Work};
use crate::model::task::TaskChange;
use crate::model::time::Timestamp;
use crate::registry::Caller;

use super::error::{BrokerError, chain};
use super::records::{Fill, delegation};
use super::rules::Ruleset;
use super::walk::page_of;
use super::{Broker, measure};
use today::{Today, Why};

/// How many leases are looked at before progress is written down.
const PAGE: usize = Page::MOST;
/// How many of them at a time.
const SIDE_BY_SIDE: usize = 16;
/// How long a page may take before another broker takes over.
const HOLD: Duration = Duration::from_secs(30);
/// How soon a broker looks for orders that others gave.
const LOOK: Duration = Duration::from_millis(200);
/// Under which name the ledger keeps up to when reviews were looked at.
const REVIEWS: &str = "reviews";
/// How often they are.
const REVIEW: Duration = Duration::from_secs(30);
/// How soon what rules make due is looked at again after a fault.
const SOON: Duration = Duration::from_secs(5);
/// How long a broker rests after a fault.
const REST: Duration = Duration::from_secs(1);

/// What became of one lease.
enum Done {
    Left,
    Ended,
    Shortened,
    Suspended,
}

impl Broker {
    /// Works off rechecks until told to stop.
    pub async fn recheck_regularly(self: Arc<Self>, stop: CancellationToken) {
        let mut look = Instant::now();
        while !stop.is_cancelled() {
            let began = Instant::now();
            if look <= began {
                look = began + REVIEW;
                if let Err(error) = self.look_at_reviews().await {
                    tracing::warn!(error = %chain(&error), "could not look for overdue reviews");
                }
                if let Err(error) = self.look_after_rules().await {
                    look = began + SOON;
                    tracing::warn!(error = %chain(&error), "could not order what other rules make due");
                }
            }
            let pause = match self.recheck().await {
                // As much rest as work: half of the time is for whoever asks for something. A kill order denies before
                // it is answered, and what it turns to its end with the answer is a page already.
                Ok(true) => began.elapsed(),
                Ok(false) => LOOK,
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "a recheck could not go on; it will be taken up again");
                    REST
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.ordered.notified(), if pause >= LOOK => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Orders what could not be ordered when rules were loaded, and takes over what waits for rules that nobody
    /// has in force.
    pub async fn look_after_rules(&self) -> Result<(), BrokerError> {
        self.order_owed().await?;
        self.look_at_others().await
    }

    /// Looks at one page of leases of the recheck that is next. Answers whether there was one.
    pub async fn recheck(&self) -> Result<bool, BrokerError> {
        self.tell_untold().await;
        // A fault there keeps nothing else waiting.
        let made_up = self.make_up().await;
        if let Ok(true) = made_up {
            return Ok(true);
        }
        let rules = self.parts.rules.current();
        let ledger = &*self.parts.ledger;
        let hold = HOLD.min(self.parts.settings.reaper.hold);
        let Some(claim) = ledger.claim_recheck(self.now(), hold, &rules.revision).await? else {
            return made_up;
        };
        let worked = async {
            // An order comes with the change that it is about.
            self.catch_up().await?;
            self.recheck_page(&rules, &claim.recheck).await
        };
        let (settled, outcome) = match worked.await {
            Ok((progress, done)) => {
                let settled = ledger.settle_recheck(&claim, progress, done).await;
                if done && settled.is_ok() {
                    measure::rechecked(self.now().since(claim.recheck.ordered_at));
                }
                (settled, Ok(true))
            }
            // Given back at once: another broker may be able to.
            Err(error) => {
                let progress = claim.recheck.progress;
                (ledger.settle_recheck(&claim, progress, false).await, Err(error))
            }
        };
        match settled {
            // Ordered anew meanwhile, or somebody else is at it.
            Ok(()) | Err(LedgerError::Refused(Refusal::ClaimLost)) => outcome,
            Err(error) => outcome.and(Err(error.into())),
        }
    }

    async fn recheck_page(
        &self,
        rules: &Ruleset,
        recheck: &Recheck,
    ) -> Result<(Progress, bool), BrokerError> {
        let Recheck {
            whom, work, progress, ..
        } = recheck;
        if let (Work::Cut { cutoff }, None) = (work, progress.after) {
            self.parts.ledger.cut(cutoff).await?;
        }
        let page = Page {
            after: progress.after,
            limit: NonZeroUsize::new(PAGE).unwrap_or(NonZeroUsize::MIN),
        };
        let leases = page_of(&*self.parts.ledger, whom, &page).await?;
        let last = leases.last().map(|lease| lease.id);
        let full = leases.len() == PAGE;
        let fitting: Vec<Lease> = leases.into_iter().filter(|lease| lease.fits(whom)).collect();
        let mut progress = Progress {
            after: last.or(progress.after),
            looked_at: progress.looked_at + u64::try_from(fitting.len()).unwrap_or(u64::MAX),
            ..*progress
        };
        // The order is on record; the end of each lease will be too.
        if let Work::Cut { cutoff } = work {
            let turned = self.end_cut(cutoff, &fitting).await?;
            progress.ended += u64::try_from(turned).unwrap_or(u64::MAX);
            return Ok((progress, !full));
        }
        // All of the page, whatever becomes of one.
        let mut done: Vec<Result<Done, BrokerError>> = Vec::with_capacity(fitting.len());
        for leases in fitting.chunks(SIDE_BY_SIDE) {
            let looks = leases
                .iter()
                .map(|lease| self.recheck_lease(rules, recheck, lease));
            done.extend(join_all(looks).await);
            // Deciding waits for nothing, and others have to have their turn.
            tokio::task::yield_now().await;
        }
        self.due.notify_one();
        for done in done.into_iter().collect::<Result<Vec<Done>, BrokerError>>()? {
            match done {
                Done::Left => {}
                Done::Ended => progress.ended += 1,
                Done::Shortened => progress.shortened += 1,
                Done::Suspended => progress.suspended += 1,
            }
        }
        Ok((progress, !full))
    }

    async fn recheck_lease(
        &self,
        rules: &Ruleset,
        recheck: &Recheck,
        lease: &Lease,
    ) -> Result<Done, BrokerError> {
        // What was over by another broker's clock is over.
        let now = self.now().max(recheck.ordered_at);
        let done = match &recheck.work {
            Work::Distrust { key } if lease.rests_on(*key, &recheck.whom, now) => {
                let ended = self.end(lease, Cause::AttestationRevoked).await;
                if ended.is_ok() {
                    self.told(lease, Cause::AttestationRevoked, None, &recheck.why, now)
                        .await?;
                }
                ended
            }
            Work::Cut { .. } | Work::Distrust { .. } => Ok(Done::Left),
            Work::Decide { .. } => self.decide_again(rules, recheck, lease, now).await,
        };
        match done {
            // It ended, or its task did, since it was found.
            Err(BrokerError::NoLease | BrokerError::NoTask | BrokerError::Refused(_)) => Ok(Done::Left),
            done => done,
        }
    }

    async fn decide_again(
        &self,
        rules: &Ruleset,
        recheck: &Recheck,
        lease: &Lease,
        now: Timestamp,
    ) -> Result<Done, BrokerError> {
        let today = self.today(rules, lease, now).await?;
        let (done, cause, why) = match today {
            Today::Stands => return Ok(Done::Left),
            Today::Over(cause, why) => (self.end(lease, cause).await?, cause, why),
            Today::Less(until, why) => {
                let done = match until <= now {
                    true => self.end(lease, Cause::Shortened).await?,
                    false => self.curtail(lease, until, now).await?,
                };
                (done, Cause::Shortened, why)
            }
            Today::Waits(_, why) => {
                let ledger = &self.parts.ledger;
                ledger.advance(lease.task, TaskChange::Suspend, now).await?;
                self.due.notify_one();
                (Done::Suspended, Cause::TaskSuspended, why)
            }
        };
        let changed = format!("{}: {}", recheck.why, why.reason);
        self.told(lease, cause, Some(&why), &changed, now).await?;
        Ok(done)
    }

    async fn end(&self, lease: &Lease, cause: Cause) -> Result<Done, BrokerError> {
        self.parts.ledger.revoke(lease.id, cause, self.now()).await?;
        self.due.notify_one();
        Ok(Done::Ended)
    }

    async fn curtail(&self, lease: &Lease, until: Timestamp, now: Timestamp) -> Result<Done, BrokerError> {
        let curtailed = Curtailed {
            at: until,
            cause: Cause::Shortened,
        };
        self.parts.ledger.curtail(lease.id, curtailed, now).await?;
        Ok(Done::Shortened)
    }

    /// Records what became of a lease. It is done already: ending access is never held back by the journal. What
    /// cannot be recorded now is recorded later ([`Untold`]).
    async fn told(
        &self,
        lease: &Lease,
        cause: Cause,
        why: Option<&Why>,
        reason: &str,
        now: Timestamp,
    ) -> Result<(), BrokerError> {
        measure::decided(Verb::Recheck, Outcome::Denied);
        let record = Record {
            agent: Some(lease.agent.clone()),
            cause: Some(cause.as_str().to_owned()),
            decision: Some(self.decision_id(now)?),
            delegation: delegation(&lease.delegators),
            lease: Some(lease.id),
            on_behalf_of: lease.on_behalf_of.clone(),
            task: Some(lease.task),
            tool: Some(lease.tool.clone()),
            ..Record::new(Verb::Recheck, Outcome::Denied, now).reason(reason)
        };
        let record = match why {
            Some(why) => record.grounds(&why.grounds),
            None => record,
        };
        if let Err(error) = self.record(record.clone()).await {
            self.untold.keep(record);
            tracing::error!(error = %chain(&error), lease = %lease.id, "what became of a lease is recorded once the journal works");
        }
        Ok(())
    }

    /// Orders a look at what agents hold whose review has fallen due since this was looked at last, by
    /// whichever broker.
    pub async fn look_at_reviews(&self) -> Result<(), BrokerError> {
        let ledger = &self.parts.ledger;
        let now = self.now();
        let before = ledger.mark(REVIEWS).await?;
        let since = before.as_deref().and_then(|mark| std::str::from_utf8(mark).ok());
        let since = since
            .and_then(|mark| mark.parse().ok())
            .map_or(now, Timestamp::from_millis);
        let rules = self.parts.rules.current();
        let overdue = rules
            .registry
            .agents()
            .filter(|agent| since < agent.review_by && agent.review_by <= now);
        for agent in overdue {
            let work = Work::Decide { revision: None };
            let whom = Selector::Agent(agent.name.clone());
            self.order_recheck(whom, work, "the review of its agent is overdue")
                .await?;
        }
        // Whoever comes second looked at the same.
        let mark = now.as_millis().to_string();
        ledger
            .set_mark(REVIEWS, mark.as_bytes(), before.as_deref())
            .await?;
        Ok(())
    }

    /// The orders that are not done. Takes a permit for `dayfly:inspect`.
    pub async fn inspect_rechecks(
        &self,
        caller: &Caller,
        request: RequestId,
    ) -> Result<Vec<Recheck>, BrokerError> {
        self.look(caller, "inspect", None, request).await?;
        Ok(self.parts.ledger.rechecks().await?)
    }

    /// Orders a look at every live lease that a selector fits.
    pub(super) async fn order_recheck(
        &self,
        whom: Selector,
        work: Work,
        why: impl Into<String>,
    ) -> Result<(), BrokerError> {
        self.give_order(&self.order_of(whom, work, why)).await
    }

    pub(super) fn order_of(&self, whom: Selector, work: Work, why: impl Into<String>) -> Recheck {
        Recheck {
            whom,
            work,
            why: why.into(),
            ordered_at: self.now(),
            progress: Progress::default(),
        }
    }

    pub(super) async fn give_order(&self, recheck: &Recheck) -> Result<(), BrokerError> {
        self.parts.ledger.order_recheck(recheck).await?;
        self.ordered.notify_one();
        Ok(())
    }
}
