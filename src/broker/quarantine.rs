//! Quarantine: the ledger was lost, and until it is recovered everything is ended and nothing given out.
//!
//! The ledger itself refuses ([`crate::ledger::lineage`]); here it is looked at, told, recorded, and
//! taken into use again. At the start the newest records are held against it too: they find what was
//! lost since its mark was kept.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};

use crate::journal::record::{Record, Result as Outcome, Verb};
use crate::journal::unfinished::Unfinished;
use crate::ledger::LedgerError;
use crate::ledger::lineage::{Loss, Mark, Watched};
use crate::model::cutoff::{Cutoff, Selector};
use crate::model::lease::Cause;
use crate::model::time::Timestamp;
use crate::model::ttl::Ttl;

use super::error::{BrokerError, chain};
use super::records::Fill;
use super::{Broker, measure};

/// How many of the newest tasks, and of the newest leases, are looked for at the start.
const LOOKED_FOR: (usize, usize) = (16, 256);
/// A lease on record that the ledger does not know was under way when the process died, unless its
/// record is older than the newest one by this, which no request takes.
const UNDER_WAY: Duration = Duration::from_secs(60);

impl Broker {
    /// Why nothing is given out, if so.
    pub fn quarantine(&self) -> Option<Loss> {
        self.parts.ledger.loss()
    }

    /// Refuses in quarantine: before anything is decided, so that nothing permitted is recorded.
    pub(super) fn outside_quarantine(&self) -> Result<(), BrokerError> {
        match self.parts.ledger.loss() {
            None => Ok(()),
            Some(loss) => Err(BrokerError::Ledger(LedgerError::Lost(loss))),
        }
    }

    /// Looks at the whole ledger: goes into quarantine when it was lost and comes back when it was
    /// recovered. Answers what to remember of it.
    pub async fn look_at_ledger(&self) -> Result<Option<Mark>, BrokerError> {
        match self.parts.ledger.watch().await? {
            Watched::Whole(mark) => {
                measure::quarantine(false);
                Ok(Some(mark))
            }
            Watched::Lost(loss) => {
                self.enter_quarantine(loss).await?;
                Ok(None)
            }
            Watched::Recovered => {
                if let Some(loss) = self.parts.ledger.loss() {
                    self.enter_quarantine(loss).await?;
                }
                self.leave_quarantine().await
            }
        }
    }

    /// Says so once.
    async fn enter_quarantine(&self, loss: Loss) -> Result<(), BrokerError> {
        measure::quarantine(true);
        if self.quarantined.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        tracing::error!(
            %loss,
            "the ledger was lost: credentials are ended and none are given out until `dayfly recover` was run"
        );
        self.record(recovery(
            Outcome::Failed,
            self.now(),
            format!("the ledger was lost: {loss}"),
        ))
        .await
    }

    async fn leave_quarantine(&self) -> Result<Option<Mark>, BrokerError> {
        self.record(recovery(
            Outcome::Permitted,
            self.now(),
            "the ledger was recovered",
        ))
        .await?;
        // What no journal and no ledger knows is found at the providers, before anything new is there.
        self.compare().await;
        self.parts.ledger.rejoin().await?;
        self.charters.invalidate_all(); // tasks of before are over
        self.quarantined.store(false, Ordering::Release);
        measure::quarantine(false);
        tracing::warn!("the ledger was recovered: credentials are given out again");
        self.due.notify_one();
        match self.parts.ledger.watch().await? {
            Watched::Whole(mark) => Ok(Some(mark)),
            Watched::Lost(_) | Watched::Recovered => Ok(None),
        }
    }

    /// Holds the newest records against the ledger. Whatever was lost of what they tell is a loss of
    /// the ledger; but a request that was under way when the process died has a record and no lease,
    /// and what it may have handed out ends now.
    pub async fn compare_with_journal(
        &self,
        newest: &[String],
        retention: Duration,
    ) -> Result<(), BrokerError> {
        let records: Vec<Record> = newest
            .iter()
            .map(|line| Record::from_line(line))
            .collect::<Result<_, _>>()?;
        let ledger = &self.parts.ledger;
        // What is older than the retention may have ended and been forgotten, and what is older than a
        // recovery is not in the new ledger. The cutoff of a recovery stands for the longest life.
        let kept = retention.min(Ttl::MAX.as_duration());
        let recovered = ledger.cutoffs().await?.into_iter();
        let recovered = recovered.filter(|cutoff| cutoff.selector == Selector::All);
        let recovered = recovered.map(|cutoff| cutoff.up_to).max().unwrap_or_default();
        let forgotten = self.now().minus(kept).max(recovered);
        // A task is written down before its record is.
        let opened = records.iter().rev().filter(|record| record.verb == Verb::Open);
        let opened = opened.filter_map(|record| record.task).take(LOOKED_FOR.0);
        for task in opened.filter(|task| task.made_at() > forgotten) {
            if ledger.task(task).await?.is_none() {
                return Ok(ledger.condemn(Loss::Behind).await?);
            }
        }
        let (now, mut unfinished) = (self.now(), Unfinished::default());
        records.iter().for_each(|record| unfinished.take(record));
        let latest = unfinished.latest();
        let leases = unfinished.leases(now);
        let newest = leases.into_iter().rev().take(LOOKED_FOR.1);
        let newest = newest.filter(|lease| lease.issued_at > forgotten);
        let missing: Vec<_> = stream::iter(newest)
            .map(async |lease| Ok::<_, LedgerError>((ledger.lease(lease.id).await?.is_none(), lease)))
            .buffer_unordered(32)
            .try_filter_map(async |(missing, lease)| Ok(missing.then_some(lease)))
            .try_collect()
            .await?;
        if missing
            .iter()
            .any(|lease| lease.issued_at < latest.minus(UNDER_WAY))
        {
            return Ok(ledger.condemn(Loss::Behind).await?);
        }
        for lease in missing {
            tracing::warn!(lease = %lease.id, "a credential is on record and not in the ledger: it ends");
            let cutoff = Cutoff {
                selector: Selector::Lease(lease.id),
                up_to: Timestamp::MAX,
                at: now,
                cause: Cause::Recovered,
            };
            ledger.cut(&cutoff).await?;
            if let Err(error) = ledger.adopt(&lease).await {
                tracing::warn!(lease = %lease.id, error = %chain(&error), "it could not be written down");
                return Err(error.into());
            }
        }
        Ok(())
    }
}

fn recovery(result: Outcome, at: Timestamp, reason: impl Into<String>) -> Record {
    Record::new(Verb::Recover, result, at).reason(reason)
}
