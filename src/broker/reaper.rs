//! The reaper ends what is due: leases whose time is up or whose task ended, reservations that never
//! became active, and tasks past their deadline or without heartbeats.
//!
//! One pass takes no input, is idempotent, and is safe beside other replicas: each due thing is
//! claimed for a while, and a claim that is not settled returns by itself. Retries live in the lease.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use tokio_util::sync::CancellationToken;

use crate::entropy::draw;
use crate::journal::record::{Record, Result as Outcome, Verb};
use crate::ledger::{Claim, LeaseClaim, LedgerError, Settlement};
use crate::model::lease::{Effort, Ending, Lease, LeaseState, Receipt};
use crate::model::task::{Outcome as TaskOutcome, Task, TaskChange};
use crate::provider::{Presence, ProviderError};

use super::error::{BrokerError, chain};
use super::records::{Fill, of_end};
use super::{Broker, measure};

/// How the reaper works.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The longest pause between two passes; it is woken earlier when something is known to be due.
    pub interval: Duration,
    /// How much one pass claims.
    pub batch: NonZeroUsize,
    /// How long a claim is its own.
    pub hold: Duration,
    /// How many ends are worked on side by side.
    pub concurrency: NonZeroUsize,
    /// The first pause after a failure; it doubles with each, with full jitter.
    pub first_retry: Duration,
    /// The longest pause between attempts.
    pub last_retry: Duration,
    /// After so many failures a lease is stuck: still retried, and somebody has to look.
    pub stuck_after: u32,
}

impl Default for Settings {
    fn default() -> Self {
        let count = |n| NonZeroUsize::new(n).unwrap_or(NonZeroUsize::MIN);
        Self {
            interval: Duration::from_millis(500),
            batch: count(256),
            hold: Duration::from_secs(60),
            concurrency: count(64),
            first_retry: Duration::from_secs(1),
            last_retry: Duration::from_secs(300),
            stuck_after: 10,
        }
    }
}

/// What one pass did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sweep {
    /// How much was due and claimed.
    pub claimed: usize,
    /// Leases that ended.
    pub ended: usize,
    /// Leases to be tried again.
    pub retried: usize,
    /// Leases that a person must look at.
    pub stuck: usize,
    /// Tasks that ended.
    pub tasks: usize,
}

enum Done {
    Ended,
    Retried,
    Stuck,
    Task,
    /// Not settled: the claim returns by itself.
    Left,
}

impl Broker {
    /// Sweeps until told to stop: when something became due, and otherwise at every interval.
    pub async fn reap(self: Arc<Self>, stop: CancellationToken) {
        self.drain_cutoffs().await;
        loop {
            let full = match self.sweep().await {
                Ok(sweep) => sweep.claimed >= self.parts.settings.reaper.batch.get(),
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "the reaper could not claim what is due");
                    false
                }
            };
            if full && !stop.is_cancelled() {
                continue;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.due.notified() => {}
                () = tokio::time::sleep(self.parts.settings.reaper.interval) => {}
            }
        }
    }

    /// One pass.
    pub async fn sweep(&self) -> Result<Sweep, LedgerError> {
        let settings = &self.parts.settings.reaper;
        let claims = self
            .parts
            .ledger
            .claim_due(self.now(), settings.hold, settings.batch)
            .await?;
        let mut sweep = Sweep {
            claimed: claims.len(),
            ..Sweep::default()
        };
        let mut work = stream::iter(claims)
            .map(|claim| self.work(claim))
            .buffer_unordered(settings.concurrency.get());
        while let Some(done) = work.next().await {
            match done {
                Done::Ended => sweep.ended += 1,
                Done::Retried => sweep.retried += 1,
                Done::Stuck => sweep.stuck += 1,
                Done::Task => sweep.tasks += 1,
                Done::Left => {}
            }
        }
        if sweep.claimed > 0 {
            self.settled.notify_waiters();
        }
        Ok(sweep)
    }

    async fn work(&self, claim: Claim) -> Done {
        let worked = match claim {
            Claim::Task(task, outcome) => self.end_task(&task, outcome).await,
            Claim::Lease(claim) => self.end_lease(&claim).await,
        };
        worked.unwrap_or_else(|error| {
            tracing::warn!(error = %chain(&error), "could not settle what is due; the claim returns");
            Done::Left
        })
    }

    async fn end_task(&self, task: &Task, outcome: TaskOutcome) -> Result<Done, BrokerError> {
        let now = self.now();
        self.parts
            .ledger
            .advance(task.charter.id, TaskChange::End(outcome), now)
            .await?;
        self.due.notify_one();
        let record = Record {
            agent: Some(task.charter.agent.clone()),
            cause: Some(outcome.as_str().to_owned()),
            ..Record::new(Verb::Complete, Outcome::Permitted, now).task(&task.charter)
        };
        self.record(record).await?;
        measure::decided(Verb::Complete, Outcome::Permitted);
        Ok(Done::Task)
    }

    /// Ends one lease at its provider, proves it, records the proof, and only then settles it.
    async fn end_lease(&self, claim: &LeaseClaim) -> Result<Done, BrokerError> {
        let lease = &claim.lease;
        let (LeaseState::Revoking(effort) | LeaseState::Stuck(effort)) = &lease.state else {
            return Ok(Done::Left);
        };
        match self.end_at_provider(lease, effort).await {
            Ok(receipt) => {
                let now = self.now();
                self.record(of_end(lease, effort.cause, receipt, now)).await?;
                self.parts
                    .ledger
                    .settle(claim, Settlement::Ended(receipt), now)
                    .await?;
                measure::ended(effort.cause, receipt, now.since(effort.since));
                Ok(Done::Ended)
            }
            Err(error) => self.retry(claim, effort, &error).await,
        }
    }

    async fn end_at_provider(&self, lease: &Lease, effort: &Effort) -> Result<Receipt, ProviderError> {
        let provider = self.parts.providers.get(&lease.provider)?;
        let held = lease.held();
        provider.revoke(&held).await?;
        let now = self.now();
        let expired = Receipt::ExpiresAt { at: lease.expires_at };
        match provider.probe(&held).await? {
            Presence::Absent => Ok(Receipt::VerifiedAbsent { at: now }),
            Presence::Present => Err(ProviderError::Unavailable(
                "it is still there after it was revoked".into(),
            )),
            // Neither an order nor time ends it.
            Presence::Unknown if lease.ending == Ending::Never => Ok(Receipt::Outlived { at: now }),
            Presence::Unknown if lease.expires_at <= now => Ok(expired),
            Presence::Unknown => match lease.ending {
                Ending::DenyListed => Ok(Receipt::DeniedAt { at: effort.since }),
                Ending::AtExpiry => Ok(expired),
                Ending::Immediate | Ending::Never => Err(ProviderError::Unavailable(
                    "nobody can say whether it is gone".into(),
                )),
            },
        }
    }

    async fn retry(
        &self,
        claim: &LeaseClaim,
        effort: &Effort,
        error: &ProviderError,
    ) -> Result<Done, BrokerError> {
        let settings = &self.parts.settings.reaper;
        let now = self.now();
        let attempts = effort.attempts.saturating_add(1);
        let again = now.plus(self.backoff(attempts));
        let message: String = error.to_string().chars().take(256).collect();
        let permanent = match error {
            ProviderError::Refused(_) | ProviderError::Unfit { .. } => true,
            ProviderError::Unavailable(_) | ProviderError::Throttled { .. } => false,
        };
        let stuck = permanent || attempts >= settings.stuck_after;
        let became_stuck = stuck && !matches!(claim.lease.state, LeaseState::Stuck(_));
        measure::end_failed(became_stuck);
        if became_stuck {
            tracing::error!(lease = %claim.lease.id, tool = %claim.lease.tool, error = %message, "a lease is stuck");
            let record = Record {
                agent: Some(claim.lease.agent.clone()),
                cause: Some(effort.cause.as_str().to_owned()),
                lease: Some(claim.lease.id),
                task: Some(claim.lease.task),
                tool: Some(claim.lease.tool.clone()),
                ..Record::new(Verb::End, Outcome::Failed, now).reason(&message)
            };
            self.record(record).await?;
        }
        let (settlement, done) = if stuck {
            (
                Settlement::Stuck(now.plus(settings.last_retry), message),
                Done::Stuck,
            )
        } else {
            (Settlement::RetryAt(again, message), Done::Retried)
        };
        self.parts.ledger.settle(claim, settlement, now).await?;
        Ok(done)
    }

    /// Exponential, with full jitter: a random part of the doubled pause.
    fn backoff(&self, attempts: u32) -> Duration {
        let settings = &self.parts.settings.reaper;
        let doubled = settings
            .first_retry
            .saturating_mul(1_u32.checked_shl(attempts.saturating_sub(1)).unwrap_or(u32::MAX));
        let longest = doubled.min(settings.last_retry);
        let part = draw::<2>(&*self.parts.entropy).map_or(u16::MAX, u16::from_be_bytes);
        longest
            .mul_f64(f64::from(part) / f64::from(u16::MAX))
            .max(Duration::from_millis(50))
    }

    /// Goes on with the drains that the last process did not end.
    async fn drain_cutoffs(&self) {
        let cutoffs = match self.parts.ledger.cutoffs().await {
            Ok(cutoffs) => cutoffs,
            Err(error) => {
                tracing::warn!(%error, "could not look for unfinished drains");
                return;
            }
        };
        for cutoff in cutoffs {
            if let Err(error) = self.drain(&cutoff).await {
                tracing::warn!(error = %chain(&error), "could not finish a drain");
            }
        }
    }
}
