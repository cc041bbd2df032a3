//! Death at a chosen step: the n-th passage through any gate never comes back, and nothing after it
//! happens. Half of the passages are before the effect, half after it and before its answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use dayfly::journal::record::Record;
use dayfly::journal::{Journal, JournalError};
use dayfly::ledger::reservation::{Prepared, Reservation};
use dayfly::model::ids::LeaseId;
use dayfly::model::lease::{Handle, Held};
use dayfly::model::tool::Tool;
use dayfly::provider::{Minted, Presence, Promise, Provider, ProviderError, Renewed};

use super::gated::Gate;

/// Counts passages, and keeps the one that was chosen.
#[derive(Default)]
pub(crate) struct Tripwire {
    passed: AtomicUsize,
    fatal: AtomicUsize,
    dead: tokio::sync::Notify,
    yields: bool,
}

impl Tripwire {
    /// Never kills; each passage is a point to wait at.
    pub(crate) fn yielding() -> Self {
        Self {
            yields: true,
            ..Self::default()
        }
    }

    /// From now on the `step`-th passage is the last.
    pub(crate) fn arm(&self, step: usize) {
        self.passed.store(0, Ordering::Relaxed);
        self.fatal.store(step, Ordering::Relaxed);
    }

    /// Returns when somebody died.
    pub(crate) async fn death(&self) {
        self.dead.notified().await;
    }

    async fn pass(&self) {
        if self.yields {
            tokio::task::yield_now().await;
        }
        let passed = self.passed.fetch_add(1, Ordering::Relaxed) + 1;
        let fatal = self.fatal.load(Ordering::Relaxed);
        if fatal != 0 && passed >= fatal {
            self.dead.notify_one();
            std::future::pending::<()>().await;
        }
    }
}

#[async_trait]
impl Gate for Tripwire {
    async fn before(&self, _: &'static str) {
        self.pass().await;
    }

    async fn after(&self, _: &'static str) {
        self.pass().await;
    }
}

/// A journal behind the wire.
pub(crate) struct Journaling(pub(crate) Arc<dyn Journal>, pub(crate) Arc<Tripwire>);

#[async_trait]
impl Journal for Journaling {
    async fn append(&self, record: Arc<Record>) -> Result<u64, JournalError> {
        self.1.pass().await;
        let answer = self.0.append(record).await;
        self.1.pass().await;
        answer
    }

    async fn read(&self, from: u64, limit: usize) -> Result<Vec<String>, JournalError> {
        self.0.read(from, limit).await
    }

    async fn checkpoint(&self) -> Result<String, JournalError> {
        self.0.checkpoint().await
    }
}

/// A provider behind the wire.
pub(crate) struct Providing(pub(crate) Arc<dyn Provider>, pub(crate) Arc<Tripwire>);

#[async_trait]
impl Provider for Providing {
    fn kind(&self) -> &'static str {
        self.0.kind()
    }

    fn promise(&self, tool: &Tool) -> Promise {
        self.0.promise(tool)
    }

    fn accepts(&self, tool: &Tool) -> Result<(), ProviderError> {
        self.0.accepts(tool)
    }

    fn handle(&self, lease: LeaseId) -> Option<Handle> {
        self.0.handle(lease)
    }

    async fn mint(&self, reservation: &Reservation) -> Result<Minted, ProviderError> {
        self.1.pass().await;
        let answer = self.0.mint(reservation).await;
        self.1.pass().await;
        answer
    }

    async fn prepare(&self, reservation: &Reservation) -> Result<Prepared, ProviderError> {
        self.1.pass().await;
        let answer = self.0.prepare(reservation).await;
        self.1.pass().await;
        answer
    }

    async fn renew(&self, reservation: &Reservation) -> Result<Renewed, ProviderError> {
        self.1.pass().await;
        let answer = self.0.renew(reservation).await;
        self.1.pass().await;
        answer
    }

    async fn revoke(&self, held: &Held) -> Result<(), ProviderError> {
        self.1.pass().await;
        let answer = self.0.revoke(held).await;
        self.1.pass().await;
        answer
    }

    async fn probe(&self, held: &Held) -> Result<Presence, ProviderError> {
        self.0.probe(held).await
    }

    async fn inventory(&self) -> Result<Vec<Held>, ProviderError> {
        self.0.inventory().await
    }

    async fn preflight(&self) -> Result<(), ProviderError> {
        self.0.preflight().await
    }

    async fn look(&self) -> Result<(), ProviderError> {
        self.0.look().await
    }
}
