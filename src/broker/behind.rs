//! Whether the ledger is behind the journal: at the start the newest records are held against it. They find
//! what was lost since its mark was kept.
//!
//! What is written down before its record, and is not there, was lost: a task, and every end. The record of a
//! credential and of its longer life comes before or beside, so that one may be missing because the process
//! died: then what it may have handed out ends now.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};

use crate::journal::record::{Record, Result as Outcome, Verb};
use crate::journal::unfinished::Unfinished;
use crate::ledger::LedgerError;
use crate::ledger::lineage::Loss;
use crate::model::cutoff::{Cutoff, Selector};
use crate::model::ids::LeaseId;
use crate::model::lease::{Cause, Lease, LeaseState};
use crate::model::task::TaskState;
use crate::model::time::Timestamp;
use crate::model::ttl::Ttl;

use super::Broker;
use super::error::{BrokerError, chain};

/// How many of the newest tasks, and of the newest leases, are looked for. Whatever was lost, the newest was.
const LOOKED_FOR: (usize, usize) = (16, 256);
/// How many are looked for side by side.
const AT_ONCE: usize = 32;
/// A lease on record that the ledger does not know was under way when the process died, unless its
/// record is older than the newest one by this, which no request takes.
const UNDER_WAY: Duration = Duration::from_secs(60);
/// How far the clocks of brokers may be apart.
const SKEW: Duration = Duration::from_secs(120);

impl Broker {
    /// Holds the newest records against the ledger. Whatever was lost of what they tell is a loss of
    /// the ledger; but a request that was under way when the process died has a record and no effect,
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
        let cutoffs = ledger.cutoffs().await?;
        // What is older than the retention may have ended and been forgotten, by another broker's clock a little
        // sooner, and what is older than a recovery is not in the new ledger. The cutoff of a recovery stands for
        // the longest life.
        let kept = retention.min(Ttl::MAX.as_duration());
        let kept = kept - SKEW.min(kept / 2);
        let recovered = cutoffs.iter().filter(|cutoff| cutoff.selector == Selector::All);
        let recovered = recovered.map(|cutoff| cutoff.up_to).max().unwrap_or_default();
        let forgotten = self.now().minus(kept).max(recovered);
        if self.forgot(&records, &cutoffs, forgotten).await? {
            return Ok(ledger.condemn(Loss::Behind).await?);
        }
        let (missing, latest) = self.missing(&records, forgotten).await?;
        let short = self.short(&records).await?;
        let old = latest.minus(UNDER_WAY);
        let since = |(_, at): &(LeaseId, Timestamp)| *at < old;
        if missing.iter().any(|lease| lease.issued_at < old) || short.iter().any(since) {
            return Ok(ledger.condemn(Loss::Behind).await?);
        }
        let now = self.now();
        for (id, _) in short {
            tracing::warn!(lease = %id, "a renewal is on record and not in the ledger: it ends");
            ledger.revoke(id, Cause::Recovered, now).await?;
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

    /// Whether the ledger does not know what it had answered before it was recorded.
    async fn forgot(
        &self,
        records: &[Record],
        cutoffs: &[Cutoff],
        forgotten: Timestamp,
    ) -> Result<bool, LedgerError> {
        let ledger = &self.parts.ledger;
        let permitted = |record: &&Record| record.result == Outcome::Permitted;
        let permitted = || records.iter().rev().filter(permitted);
        let opened = permitted().filter(|record| matches!(record.verb, Verb::Open | Verb::Delegate));
        let opened = opened.filter_map(|record| record.task).take(LOOKED_FOR.0);
        for task in opened.filter(|task| task.made_at() > forgotten) {
            if ledger.task(task).await?.is_none() {
                return Ok(true);
            }
        }
        let over = permitted().filter(|record| match record.verb {
            Verb::Complete => true,
            Verb::Revoke => record.lease.is_none(),
            _ => false,
        });
        for task in over.filter_map(|record| record.task).take(LOOKED_FOR.0) {
            let state = ledger.task(task).await?.map(|task| task.state);
            if matches!(state, Some(TaskState::Open | TaskState::Suspended)) {
                return Ok(true);
            }
        }
        // An order about all of an agent, or all for a tool, is one cutoff.
        let order = permitted()
            .find(|record| record.verb == Verb::Revoke && record.lease.is_none() && record.task.is_none());
        if let Some(order) = order.filter(|order| order.at > forgotten)
            && !cutoffs.iter().any(|cutoff| cutoff.at >= order.at)
        {
            return Ok(true);
        }
        // A lease is on its way to its end before that is recorded.
        let ends = [Verb::End, Verb::Revoke, Verb::Abandon];
        let ended = permitted().filter(|record| ends.contains(&record.verb));
        let live = stream::iter(ended.filter_map(|record| record.lease).take(LOOKED_FOR.1))
            .map(async |id| {
                let state = ledger.lease(id).await?.map(|lease| lease.state);
                Ok::<_, LedgerError>(matches!(state, Some(LeaseState::Reserved | LeaseState::Active)))
            })
            .buffer_unordered(AT_ONCE)
            .try_any(async |live| live);
        live.await
    }

    /// The leases without an end on record that the ledger does not know, and when the newest record is of.
    async fn missing(
        &self,
        records: &[Record],
        forgotten: Timestamp,
    ) -> Result<(Vec<Lease>, Timestamp), LedgerError> {
        let ledger = &self.parts.ledger;
        let mut unfinished = Unfinished::default();
        records.iter().for_each(|record| unfinished.take(record));
        let latest = unfinished.latest();
        let leases = unfinished.leases(self.now());
        let newest = leases.into_iter().rev().take(LOOKED_FOR.1);
        let newest = newest.filter(|lease| lease.issued_at > forgotten);
        let missing = stream::iter(newest)
            .map(async |lease| Ok::<_, LedgerError>((ledger.lease(lease.id).await?.is_none(), lease)))
            .buffer_unordered(AT_ONCE)
            .try_filter_map(async |(missing, lease)| Ok(missing.then_some(lease)))
            .try_collect()
            .await?;
        Ok((missing, latest))
    }

    /// The leases that live on by a record, and not so long in the ledger; and when that was recorded.
    async fn short(&self, records: &[Record]) -> Result<Vec<(LeaseId, Timestamp)>, LedgerError> {
        let ledger = &self.parts.ledger;
        let mut renewed = HashMap::new();
        for record in records.iter().filter(|record| record.verb == Verb::Renew) {
            match (record.lease, record.granted, record.result) {
                (Some(id), Some(granted), Outcome::Permitted) => {
                    renewed.insert(id, (record.at, record.at.plus(granted.as_duration())));
                }
                (Some(id), _, Outcome::Failed) => {
                    renewed.remove(&id);
                }
                _ => {}
            }
        }
        let mut newest: Vec<_> = renewed.into_iter().collect();
        newest.sort_by_key(|(_, (at, _))| std::cmp::Reverse(*at));
        stream::iter(newest.into_iter().take(LOOKED_FOR.1))
            .map(async |(id, (at, until))| {
                let lease = ledger.lease(id).await?;
                let lease = lease.filter(|lease| lease.state == LeaseState::Active);
                let short = lease.is_some_and(|lease| lease.expires_at < until);
                Ok::<_, LedgerError>(short.then_some((id, at)))
            })
            .buffer_unordered(AT_ONCE)
            .try_filter_map(async |short| Ok(short))
            .try_collect()
            .await
    }
}
