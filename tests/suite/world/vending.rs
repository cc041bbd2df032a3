//! A provider with an outside: it keeps what it minted until it is revoked, like a database keeps roles.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use dayfly::ledger::reservation::Reservation;
use dayfly::model::credential::Credential;
use dayfly::model::ids::LeaseId;
use dayfly::model::lease::{Ending, Handle, Held};
use dayfly::model::secret::Secret;
use dayfly::model::time::Timestamp;
use dayfly::model::tool::Tool;
use dayfly::model::ttl::Ttl;
use dayfly::provider::{Minted, Presence, Promise, Provider, ProviderError, Renewed};

use super::MORNING;

/// Mints what exists outside: a slot with a name, which opens for one coin until its time is up.
#[derive(Default)]
pub(crate) struct Vending {
    slots: Mutex<BTreeMap<String, Slot>>,
    waited: Mutex<Duration>,
    broken: AtomicBool,
    refusing: AtomicBool,
    jammed: AtomicBool,
    hanging: AtomicBool,
    asked: AtomicUsize,
}

struct Slot {
    coin: String,
    until: Timestamp,
}

impl Vending {
    /// What exists outside now.
    pub(crate) fn outside(&self) -> BTreeSet<String> {
        self.slots.lock().unwrap().keys().cloned().collect()
    }

    /// Something is there that nobody has minted.
    pub(crate) fn smuggle(&self, lease: LeaseId) {
        let slot = Slot {
            coin: "found".into(),
            until: Timestamp::MAX,
        };
        self.slots.lock().unwrap().insert(format!("v-{lease}"), slot);
    }

    /// Somebody takes it away behind our back.
    pub(crate) fn lose(&self, lease: LeaseId) {
        self.slots.lock().unwrap().remove(&format!("v-{lease}"));
    }

    /// How often it was asked to end something.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    /// From now on ending hangs, or works again.
    pub(crate) fn hang(&self, hanging: bool) {
        self.hanging.store(hanging, Ordering::Relaxed);
    }

    /// From now on ending fails, or works again.
    pub(crate) fn break_down(&self, broken: bool) {
        self.broken.store(broken, Ordering::Relaxed);
    }

    /// From now on ending is refused for good, or works again.
    pub(crate) fn refuse(&self, refusing: bool) {
        self.refusing.store(refusing, Ordering::Relaxed);
    }

    /// The next mint fails when the slot is there already.
    pub(crate) fn jam(&self) {
        self.jammed.store(true, Ordering::Relaxed);
    }

    /// Lets its own clock, which stands at [`MORNING`], go on.
    pub(crate) fn wait(&self, by: Duration) {
        *self.waited.lock().unwrap() += by;
    }

    /// Whether a slot opens for this coin.
    pub(crate) fn takes(&self, coin: &Secret) -> bool {
        let now = MORNING.plus(*self.waited.lock().unwrap());
        let slots = self.slots.lock().unwrap();
        slots
            .values()
            .any(|slot| slot.coin == coin.expose() && now < slot.until)
    }
}

fn name(held: &Held) -> String {
    let named = held.handle.clone();
    named.map_or_else(|| format!("v-{}", held.lease), |handle| handle.0)
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
            renewable: true,
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
        if lease
            .resources
            .iter()
            .any(|slot| slot.as_str() == "slots/sold-out")
        {
            return Err(ProviderError::Unfit {
                pointer: "/resources",
                reason: "this slot is sold out: choose another".into(),
            });
        }
        let handle = self.handle(lease.id).unwrap();
        let slot = Slot {
            coin: format!("coin-of-{}", lease.id),
            until: lease.expires_at,
        };
        let credential = Credential::Bearer(Secret::new(slot.coin.clone()));
        self.slots.lock().unwrap().insert(handle.0.clone(), slot);
        if self.jammed.swap(false, Ordering::Relaxed) {
            return Err(ProviderError::Unavailable("the machine is jammed".into()));
        }
        Ok(Minted {
            credential,
            handle,
            expires_at: lease.expires_at,
        })
    }

    async fn renew(&self, reservation: &Reservation) -> Result<Renewed, ProviderError> {
        let lease = reservation.lease();
        let mut slots = self.slots.lock().unwrap();
        let Some(slot) = slots.get_mut(&name(&lease.held())) else {
            return Err(ProviderError::Refused("there is no such slot".into()));
        };
        slot.until = slot.until.max(lease.expires_at);
        Ok(Renewed {
            credential: None,
            expires_at: slot.until,
        })
    }

    async fn revoke(&self, held: &Held) -> Result<(), ProviderError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if self.hanging.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_secs(30)).await;
        }
        if self.broken.load(Ordering::Relaxed) {
            return Err(ProviderError::Unavailable("the machine is out of order".into()));
        }
        if self.refusing.load(Ordering::Relaxed) {
            return Err(ProviderError::Refused(
                "the machine takes no orders from us".into(),
            ));
        }
        self.slots.lock().unwrap().remove(&name(held));
        Ok(())
    }

    async fn probe(&self, held: &Held) -> Result<Presence, ProviderError> {
        let there = self.slots.lock().unwrap().contains_key(&name(held));
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
