//! The reaper ends what is due: leases whose time is up or whose task ended, reservations that never
//! became active, and tasks past their deadline or without heartbeats.
//!
//! It takes no input, is idempotent, and is safe beside other replicas: each due thing is claimed for
//! a while, and a claim that is not settled returns by itself. Retries live in the lease.
//!
//! What is claimed is worked on (`reaper/work.rs`) lane by lane, one for each provider (`reaper/lanes.rs`), while the
//! next is claimed already: nothing waits for a provider that hangs but what has to end there. What its provider has
//! ended is recorded and settled in groups (`reaper/proved.rs`), small and few enough to leave room for whoever asks for
//! something.

mod lanes;
mod proved;
mod work;

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::entropy::draw;
use crate::journal::record::{Record, Result as Outcome, Verb};
use crate::ledger::{Claim, LeaseClaim, LedgerError, Settlement};
use crate::model::lease::{Effort, Ending, Lease, LeaseState, Receipt};
use crate::model::task::{Outcome as TaskOutcome, Task, TaskChange};
use crate::provider::{Presence, ProviderError};

use super::error::{BrokerError, chain};
use super::records::{Fill, of_failure};
use super::{Broker, measure};
use proved::Proved;
use work::Work;

/// How the reaper works.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The longest pause between two passes; it is woken earlier when something is known to be due.
    pub interval: Duration,
    /// How much one pass claims at most. A ledger of many shards gives a part of it from each, and steps about several
    /// leases of a shard cost it less.
    pub batch: NonZeroUsize,
    /// How long a claim is its own.
    pub hold: Duration,
    /// How many ends are worked on side by side at each provider.
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
            batch: count(1024),
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
    /// Leases whose turn did not come, or whose provider is down.
    pub put_off: usize,
    /// Leases that a person must look at.
    pub stuck: usize,
    /// Tasks that ended.
    pub tasks: usize,
}

/// What became of a claim.
enum Done {
    /// Over at its provider; what is left is done for many at a time.
    Proved(Box<Proved>),
    Ended,
    Retried,
    PutOff,
    Stuck,
    Task,
    /// Not settled: the claim returns by itself.
    Left,
}

fn left(error: BrokerError) -> Done {
    tracing::warn!(error = %chain(&error), "could not settle what is due; the claim returns");
    Done::Left
}

impl Broker {
    /// Ends what is due until told to stop: when something became due, and otherwise at every interval.
    pub async fn reap(self: Arc<Self>, stop: CancellationToken) {
        let mut work = Work::new(&self);
        while !stop.is_cancelled() {
            let full = work.claim().await.unwrap_or_else(|error| {
                tracing::warn!(error = %chain(&error), "the reaper could not claim what is due");
                false
            });
            match (full, work.is_crowded()) {
                (true, false) => continue,
                (true, true) => work.make_room(&stop).await,
                (false, _) => {
                    let rest = async {
                        tokio::select! {
                            () = stop.cancelled() => {}
                            () = self.due.notified() => {}
                            () = tokio::time::sleep(self.parts.settings.reaper.interval) => {}
                        }
                    };
                    work.alongside(rest).await;
                }
            }
        }
        work.hand_back().await;
    }

    /// One pass: claims once, and ends all of it.
    pub async fn sweep(&self) -> Result<Sweep, LedgerError> {
        let mut work = Work::new(self);
        work.claim().await?;
        Ok(work.finish().await)
    }

    async fn work(&self, claim: Claim) -> Done {
        let worked = match claim {
            Claim::Task(task, outcome) => self.end_task(&task, outcome).await,
            Claim::Lease(claim) => self.end_lease(claim).await,
        };
        worked.unwrap_or_else(left)
    }

    /// Comes back to a claim later. Nobody tried, so it counts as no attempt.
    async fn put_off(&self, claim: &LeaseClaim, pause: Duration) -> Done {
        let now = self.now();
        let settled = self
            .parts
            .ledger
            .settle(claim, Settlement::PutOff(now.plus(pause)), now)
            .await;
        settled.map_or_else(|error| left(error.into()), |()| Done::PutOff)
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

    /// Ends one lease at its provider, and proves it. It is over once that is on record and settled.
    async fn end_lease(&self, claim: Box<LeaseClaim>) -> Result<Done, BrokerError> {
        let lease = &claim.lease;
        let (LeaseState::Revoking(effort) | LeaseState::Stuck(effort)) = &lease.state else {
            return Ok(Done::Left);
        };
        match self.end_at_provider(lease, effort).await {
            // It works until its time is up, so until then its lease is not over.
            Ok(None) => Ok(self.put_off(&claim, lease.expires_at.since(self.now())).await),
            Ok(Some(receipt)) => {
                let (cause, since) = (effort.cause, effort.since);
                Ok(Done::Proved(Box::new(Proved {
                    claim: *claim,
                    cause,
                    since,
                    receipt,
                })))
            }
            Err(error) => self.failed(&claim, effort, &error).await,
        }
    }

    /// The proof that it ended; `None` while nothing can end it but its expiry.
    async fn end_at_provider(
        &self,
        lease: &Lease,
        effort: &Effort,
    ) -> Result<Option<Receipt>, ProviderError> {
        let provider = self.parts.providers.get(&lease.provider)?;
        let held = lease.held();
        provider.revoke(&held).await?;
        let now = self.now();
        let receipt = match provider.probe(&held).await? {
            Presence::Absent => Receipt::VerifiedAbsent { at: now },
            Presence::Present => {
                return Err(ProviderError::Unavailable(
                    "it is still there after it was revoked".into(),
                ));
            }
            Presence::Unknown => match lease.ending {
                // Neither an order nor time ends it.
                Ending::Never => Receipt::Outlived { at: now },
                _ if lease.expires_at <= now => Receipt::ExpiresAt { at: lease.expires_at },
                Ending::DenyListed => Receipt::DeniedAt { at: effort.since },
                Ending::AtExpiry => return Ok(None),
                Ending::Immediate => {
                    return Err(ProviderError::Unavailable(
                        "nobody can say whether it is gone".into(),
                    ));
                }
            },
        };
        Ok(Some(receipt))
    }

    async fn failed(
        &self,
        claim: &LeaseClaim,
        effort: &Effort,
        error: &ProviderError,
    ) -> Result<Done, BrokerError> {
        let settings = &self.parts.settings.reaper;
        let now = self.now();
        let attempts = effort.attempts.saturating_add(1);
        let (permanent, not_before) = match error {
            ProviderError::Down { after, .. } => {
                // Spread, or all of them would come at once when it is asked again.
                let spread = self.jitter((*after).max(settings.first_retry));
                return Ok(self.put_off(claim, *after + spread).await);
            }
            ProviderError::Refused(_) | ProviderError::Unfit { .. } => (true, Duration::ZERO),
            ProviderError::Unavailable(_) => (false, Duration::ZERO),
            ProviderError::Throttled { after, .. } => (false, *after),
        };
        let again = now.plus(self.backoff(attempts).max(not_before));
        let message: String = error.to_string().chars().take(256).collect();
        let was_stuck = matches!(claim.lease.state, LeaseState::Stuck(_));
        // Another failure than the one it is stuck by takes nothing back.
        let stuck = was_stuck || permanent || attempts >= settings.stuck_after;
        let became_stuck = stuck && !was_stuck;
        measure::end_failed(became_stuck);
        // The first failure and becoming stuck are on record; the lease itself tells of those between.
        if became_stuck {
            tracing::error!(lease = %claim.lease.id, tool = %claim.lease.tool, error = %message, "a lease is stuck");
            let reason = format!("stuck after attempt {attempts}: {message}");
            self.record(of_failure(&claim.lease, effort.cause, reason, now))
                .await?;
        } else if attempts == 1 {
            let reason = format!("attempt 1: {message}");
            self.record(of_failure(&claim.lease, effort.cause, reason, now))
                .await?;
        }
        let (settlement, done) = if stuck {
            let again = now.plus(settings.last_retry.max(not_before));
            (Settlement::Stuck(again, message), Done::Stuck)
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
        self.jitter(longest).max(Duration::from_millis(50))
    }

    /// A random part of a time.
    pub(super) fn jitter(&self, most: Duration) -> Duration {
        let part = draw::<2>(&*self.parts.entropy).map_or(u16::MAX, u16::from_be_bytes);
        most.mul_f64(f64::from(part) / f64::from(u16::MAX))
    }
}
