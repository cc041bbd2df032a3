//! A way to a provider that can lose an answer: what was asked for happened, and nobody hears of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use dayfly::ledger::reservation::{Prepared, Reservation};
use dayfly::model::ids::LeaseId;
use dayfly::model::lease::{Handle, Held};
use dayfly::model::tool::Tool;
use dayfly::provider::{Minted, Presence, Promise, Provider, ProviderError, Renewed};

/// A provider whose next mint may be lost on the way back.
pub(in crate::contract) struct Lossy {
    inner: Arc<dyn Provider>,
    lost: AtomicBool,
}

impl Lossy {
    pub(in crate::contract) fn new(inner: Arc<dyn Provider>) -> Arc<Self> {
        let lost = AtomicBool::new(false);
        Arc::new(Self { inner, lost })
    }

    /// The next mint is lost.
    pub(in crate::contract) fn lose(&self) {
        self.lost.store(true, Ordering::Relaxed);
    }
}

#[async_trait]
impl Provider for Lossy {
    fn kind(&self) -> &'static str {
        self.inner.kind()
    }

    fn promise(&self, tool: &Tool) -> Promise {
        self.inner.promise(tool)
    }

    fn accepts(&self, tool: &Tool) -> Result<(), ProviderError> {
        self.inner.accepts(tool)
    }

    fn handle(&self, lease: LeaseId) -> Option<Handle> {
        self.inner.handle(lease)
    }

    async fn prepare(&self, reservation: &Reservation) -> Result<Prepared, ProviderError> {
        self.inner.prepare(reservation).await
    }

    async fn mint(&self, reservation: &Reservation) -> Result<Minted, ProviderError> {
        let minted = self.inner.mint(reservation).await?;
        if self.lost.swap(false, Ordering::Relaxed) {
            return Err(ProviderError::Unavailable("the answer was lost".into()));
        }
        Ok(minted)
    }

    async fn renew(&self, reservation: &Reservation) -> Result<Renewed, ProviderError> {
        self.inner.renew(reservation).await
    }

    async fn revoke(&self, held: &Held) -> Result<(), ProviderError> {
        self.inner.revoke(held).await
    }

    async fn probe(&self, held: &Held) -> Result<Presence, ProviderError> {
        self.inner.probe(held).await
    }

    async fn inventory(&self) -> Result<Vec<Held>, ProviderError> {
        self.inner.inventory().await
    }

    async fn preflight(&self) -> Result<(), ProviderError> {
        self.inner.preflight().await
    }
}
