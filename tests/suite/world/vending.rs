//! A provider with an outside: it keeps what it minted until it is revoked, like a database keeps roles.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use dayfly::ledger::reservation::Reservation;
use dayfly::model::credential::Credential;
use dayfly::model::ids::LeaseId;
use dayfly::model::lease::{Ending, Handle, Held};
use dayfly::model::secret::Secret;
use dayfly::model::tool::Tool;
use dayfly::model::ttl::Ttl;
use dayfly::provider::{Minted, Presence, Promise, Provider, ProviderError};

/// Mints what exists outside.
#[derive(Default)]
pub(crate) struct Vending {
    outside: Mutex<BTreeSet<String>>,
    broken: AtomicBool,
}

impl Vending {
    /// What exists outside now.
    pub(crate) fn outside(&self) -> BTreeSet<String> {
        self.outside.lock().unwrap().clone()
    }

    /// From now on ending fails, or works again.
    pub(crate) fn break_down(&self, broken: bool) {
        self.broken.store(broken, Ordering::Relaxed);
    }
}

#[async_trait]
impl Provider for Vending {
    fn kind(&self) -> &'static str {
        "vending"
    }

    fn promise(&self, _: &Tool) -> Promise {
        Promise {
            ending: Ending::Immediate,
            least: Ttl::from_secs(1).unwrap(),
            most: Ttl::from_secs(3600).unwrap(),
            self_contained: false,
            renewable: false,
        }
    }

    fn accepts(&self, _: &Tool) -> Result<(), ProviderError> {
        Ok(())
    }

    fn handle(&self, lease: LeaseId) -> Option<Handle> {
        Some(Handle(format!("v-{lease}")))
    }

    async fn mint(&self, reservation: &Reservation) -> Result<Minted, ProviderError> {
        let lease = reservation.lease();
        let handle = self.handle(lease.id).unwrap();
        self.outside.lock().unwrap().insert(handle.0.clone());
        Ok(Minted {
            credential: Credential::Bearer(Secret::new("s3cret")),
            handle,
            expires_at: lease.expires_at,
        })
    }

    async fn revoke(&self, held: &Held) -> Result<(), ProviderError> {
        if self.broken.load(Ordering::Relaxed) {
            return Err(ProviderError::Unavailable("the machine is out of order".into()));
        }
        self.outside
            .lock()
            .unwrap()
            .remove(&held.handle.as_ref().unwrap().0);
        Ok(())
    }

    async fn probe(&self, held: &Held) -> Result<Presence, ProviderError> {
        let there = self
            .outside
            .lock()
            .unwrap()
            .contains(&held.handle.as_ref().unwrap().0);
        Ok(if there {
            Presence::Present
        } else {
            Presence::Absent
        })
    }

    async fn inventory(&self) -> Result<Vec<Held>, ProviderError> {
        let held = |name: String| Held {
            lease: name.trim_start_matches("v-").parse().unwrap(),
            handle: Some(Handle(name)),
            expires_at: None,
        };
        Ok(self.outside().into_iter().map(held).collect())
    }

    async fn preflight(&self) -> Result<(), ProviderError> {
        Ok(())
    }
}
