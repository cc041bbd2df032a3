//! The embedded ledger: one redb file, one process, one shard.
//!
//! Every step runs on one writer thread, which applies as many waiting steps as there are in one
//! transaction, makes them durable with one flush to disk, and only then answers (`writer`). So
//! an answered step survives a crash at any instruction, and many callers share the price of a flush.
//! Reads take a snapshot on the caller's side and wait for nobody.
//!
//! Start-up reads the head of the file and nothing else: what is due is found as it falls due.

mod context;
mod counts;
mod layout;
mod lineage;
mod places;
mod reads;
mod steps;
mod store;
mod tables;
mod writer;

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use self::lineage::Past;
use self::reads::Snapshot;
use self::store::Store;
use self::tables::Tables;
use self::writer::Writer;
use super::lineage::{Memory, Writer as Author};
use super::{
    Budgets, Changes, Claim, Cursor, Filter, IdempotencyKey, LeaseClaim, Ledger, LedgerError, Opened, Page,
    Renewal, Settlement,
};
use crate::model::cutoff::Cutoff;
use crate::model::fact::FactsVersion;
use crate::model::ids::{LeaseId, TaskId};
use crate::model::lease::{Cause, Handle, Lease, ReceiptSignature};
use crate::model::status_list::Place;
use crate::model::task::{Task, TaskChange};
use crate::model::time::Timestamp;

/// The longest that anybody waits for changes.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// How many leases one step turns or settles at most: others who wait for the same commit are not to wait longer for it
/// than for the disk.
const AT_ONCE: usize = 64;

/// What an embedded ledger can be told.
#[derive(Clone, Debug)]
pub struct Config {
    /// How long ended tasks and leases, idempotency keys and entries of the feed are kept. No shorter
    /// than the longest life of a credential, so that whoever follows the feed from its start knows
    /// of every cutoff that still matters.
    pub retention: Duration,
    /// Memory for pages of the file, in bytes.
    pub cache: usize,
    /// Who writes here.
    pub writer: Author,
    /// What is remembered of this ledger.
    pub memory: Memory,
}

impl Default for Config {
    /// A week, and 64 MiB.
    fn default() -> Self {
        Self {
            retention: Duration::from_secs(7 * 24 * 3600),
            cache: 64 << 20,
            writer: Author::default(),
            memory: Memory::Nothing,
        }
    }
}

/// A ledger in a file. Dropping it finishes the steps that were handed in and closes the file.
#[derive(Debug)]
pub struct Embedded {
    store: Arc<Store>,
    writer: Writer,
    past: Arc<Past>,
}

impl Embedded {
    /// Opens the ledger in this file, or makes a new one. One process at a time can have it open. A
    /// ledger that was lost is opened all the same, for what ends: see
    /// [`Lineage::loss`](super::lineage::Lineage::loss).
    pub fn open(path: &Path, config: Config) -> Result<Self, LedgerError> {
        Self::on(Store::file(path, config.cache)?, &config)
    }

    /// A ledger that ends with its value, for development and tests.
    pub fn in_memory(config: Config) -> Result<Self, LedgerError> {
        Self::on(Store::memory(config.cache)?, &config)
    }

    fn on(store: Store, config: &Config) -> Result<Self, LedgerError> {
        let store = Arc::new(store);
        let writer = Writer::start(Arc::clone(&store), config.retention)?;
        let past = Arc::new(Past::find_place(&store, config)?);
        Ok(Self { store, writer, past })
    }

    /// Makes one step, durably, and answers.
    async fn step<T: Send + 'static>(
        &self,
        step: impl FnMut(&mut Tables<'_>) -> Result<T, LedgerError> + Send + 'static,
    ) -> Result<T, LedgerError> {
        self.writer.step(step).await
    }

    fn snapshot(&self) -> Result<Snapshot, LedgerError> {
        Snapshot::of(&self.store)
    }
}

#[async_trait]
impl Ledger for Embedded {
    async fn open(
        &self,
        task: &Task,
        most: Option<u32>,
        key: Option<&IdempotencyKey>,
    ) -> Result<Opened, LedgerError> {
        let (task, key) = (task.clone(), key.cloned());
        self.guarded(move |tables| steps::open(tables, &task, most, key.as_ref()))
            .await
    }

    async fn task(&self, id: TaskId) -> Result<Option<Task>, LedgerError> {
        self.snapshot()?.task(id)
    }

    async fn below(&self, id: TaskId) -> Result<Vec<Task>, LedgerError> {
        self.snapshot()?.below(id)
    }

    async fn advance(&self, id: TaskId, change: TaskChange, now: Timestamp) -> Result<Task, LedgerError> {
        self.step(move |tables| steps::advance(tables, id, change, now))
            .await
    }

    async fn reserve(
        &self,
        lease: &Lease,
        budgets: &Budgets,
        key: Option<&IdempotencyKey>,
        facts: FactsVersion,
    ) -> Result<Option<Place>, LedgerError> {
        let (lease, budgets, key) = (lease.clone(), *budgets, key.cloned());
        self.guarded(move |tables| steps::reserve(tables, &lease, &budgets, key.as_ref(), facts))
            .await
    }

    async fn name(&self, id: LeaseId, handle: &Handle) -> Result<(), LedgerError> {
        let handle = handle.clone();
        self.guarded(move |tables| steps::name(tables, id, &handle)).await
    }

    async fn activate(&self, id: LeaseId, handle: &Handle, expires_at: Timestamp) -> Result<(), LedgerError> {
        let handle = handle.clone();
        self.guarded(move |tables| steps::activate(tables, id, &handle, expires_at))
            .await
    }

    async fn renew(&self, id: LeaseId, terms: Renewal, now: Timestamp) -> Result<Lease, LedgerError> {
        self.guarded(move |tables| steps::renew(tables, id, terms, now))
            .await
    }

    async fn lease(&self, id: LeaseId) -> Result<Option<Lease>, LedgerError> {
        self.snapshot()?.lease(id)
    }

    async fn live(&self, id: LeaseId, now: Timestamp) -> Result<Lease, LedgerError> {
        self.guarded_look(|snapshot| snapshot.live(id, now))
    }

    async fn revoke(&self, id: LeaseId, cause: Cause, now: Timestamp) -> Result<Lease, LedgerError> {
        self.step(move |tables| steps::revoke(tables, id, cause, now))
            .await
    }

    async fn revoke_all(&self, ids: &[LeaseId], cause: Cause, now: Timestamp) -> Result<usize, LedgerError> {
        let mut turned = 0;
        for some in ids.chunks(AT_ONCE) {
            let some = some.to_vec();
            turned += self
                .step(move |tables| steps::revoke_all(tables, &some, cause, now))
                .await?;
        }
        Ok(turned)
    }

    async fn claim_due(
        &self,
        now: Timestamp,
        hold: Duration,
        limit: NonZeroUsize,
    ) -> Result<Vec<Claim>, LedgerError> {
        // The reaper asks often and mostly in vain, and a question need not cost a flush.
        if !self.snapshot()?.anything_due(now)? {
            return Ok(Vec::new());
        }
        self.step(move |tables| steps::claim_due(tables, now, hold, limit))
            .await
    }

    async fn due_since(&self, now: Timestamp) -> Result<Option<Timestamp>, LedgerError> {
        self.snapshot()?.first_due(now)
    }

    async fn settle(
        &self,
        claim: &LeaseClaim,
        settlement: Settlement,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        let (id, hold) = (claim.lease.id, claim.hold);
        self.step(move |tables| steps::settle(tables, id, hold, &settlement, now))
            .await
    }

    async fn settle_all(
        &self,
        settled: &[(LeaseClaim, Settlement)],
        now: Timestamp,
    ) -> Vec<Result<(), LedgerError>> {
        let mut answers = Vec::with_capacity(settled.len());
        for some in settled.chunks(AT_ONCE) {
            let words = some
                .iter()
                .map(|(claim, settlement)| (claim.lease.id, claim.hold, settlement.clone()));
            let words: Vec<_> = words.collect();
            let made = self
                .step(move |tables| steps::settle_all(tables, &words, now))
                .await;
            match made {
                Ok(each) => answers.extend(each.into_iter().map(|answer| answer.map_err(LedgerError::from))),
                Err(error) => answers.extend(some.iter().map(|_| Err(error.clone()))),
            }
        }
        answers
    }

    async fn retry(&self, id: LeaseId, now: Timestamp) -> Result<Lease, LedgerError> {
        self.step(move |tables| steps::retry(tables, id, now)).await
    }

    async fn abandon(
        &self,
        lease: &Lease,
        signature: &ReceiptSignature,
        now: Timestamp,
    ) -> Result<Lease, LedgerError> {
        let id = lease.id;
        let signature = signature.clone();
        self.step(move |tables| steps::abandon(tables, id, &signature, now))
            .await
    }

    async fn cut(&self, cutoff: &Cutoff) -> Result<(), LedgerError> {
        let cutoff = cutoff.clone();
        self.step(move |tables| steps::cut(tables, &cutoff)).await
    }

    async fn cutoffs(&self) -> Result<Vec<Cutoff>, LedgerError> {
        self.snapshot()?.cutoffs()
    }

    async fn find(&self, filter: &Filter, page: &Page) -> Result<Vec<Lease>, LedgerError> {
        // A page can take many reads, so it does not hold up a worker.
        let (snapshot, filter, page) = (self.snapshot()?, filter.clone(), *page);
        tokio::task::spawn_blocking(move || snapshot.find(&filter, &page))
            .await
            .map_err(|error| LedgerError::Unavailable(error.to_string()))?
    }

    async fn changes(&self, since: &Cursor, wait: Duration) -> Result<Changes, LedgerError> {
        let deadline = tokio::time::Instant::now() + wait.min(LONGEST_WAIT);
        let mut published = self.writer.published();
        loop {
            published.borrow_and_update(); // before looking, so that nothing slips in between
            let changes = self.snapshot()?.changes(since)?;
            if !changes.cutoffs.is_empty() {
                return Ok(changes);
            }
            match tokio::time::timeout_at(deadline, published.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(writer::stopped()),
                Err(_) => return Ok(changes),
            }
        }
    }

    async fn ping(&self) -> Result<(), LedgerError> {
        self.step(|tables| tables.touch()).await
    }
}

#[cfg(test)]
mod tests;
