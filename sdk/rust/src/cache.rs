//! The credentials of a task, in memory only: one request for all who ask at once, and a new one in good time.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::access::Access;
use crate::ambient;
use crate::api::Api;
use crate::credential::Credential;
use crate::error::Error;
use crate::task::State;

/// A renewal that failed is not tried again for so long.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// The credentials of one task by access.
#[derive(Default)]
pub(crate) struct Cache(Mutex<HashMap<Access, Arc<Slot>>>);

/// The place of one credential.
pub(crate) struct Slot {
    access: Access,
    held: Mutex<Option<Held>>,
    /// Whoever asks the broker holds it. Inside is what has to be said again if the answer was not heard.
    asking: tokio::sync::Mutex<Option<Unheard>>,
    /// A renewal has been ordered.
    renewing: AtomicBool,
}

struct Held {
    credential: Credential,
    renew_at: Instant,
    good_until: Instant,
}

/// A renewal under way. However it ends, even by a panic in what fetches evidence, the next one may be ordered.
struct Ordered<'s>(&'s AtomicBool);

impl Drop for Ordered<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// A request whose answer nobody has heard yet.
pub(crate) struct Unheard {
    key: String,
    ttl: Option<Duration>,
}

/// What to do about a credential.
enum Found {
    Good(Credential),
    /// Good, and it is time for the next.
    Ripe(Credential),
    None,
}

impl Cache {
    /// The place for an access.
    pub(crate) fn slot(&self, access: &Access) -> Arc<Slot> {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = slots.entry(access.clone()).or_insert_with(|| {
            Arc::new(Slot {
                access: access.clone(),
                held: Mutex::default(),
                asking: tokio::sync::Mutex::default(),
                renewing: AtomicBool::new(false),
            })
        });
        slot.clone()
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) {
        let slots = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        for slot in slots.values() {
            slot.put(None);
        }
    }
}

impl Slot {
    /// The credential, from here while it is good.
    pub(crate) async fn get(
        self: &Arc<Self>,
        task: &Arc<State>,
        ttl: Option<Duration>,
    ) -> Result<Credential, Error> {
        match self.find() {
            Found::Good(credential) => return Ok(credential),
            Found::Ripe(credential) => {
                task.order_renewal(self);
                return Ok(credential);
            }
            Found::None => {}
        }
        let mut asking = self.asking.lock().await;
        match self.find() {
            Found::Good(credential) | Found::Ripe(credential) => Ok(credential),
            Found::None => self.issue(task, task.api(), ttl, &mut asking).await,
        }
    }

    /// Another credential than this one, which somebody refused. A lease that nobody takes is not left alive.
    pub(crate) async fn another(&self, task: &Arc<State>, refused: &Credential) -> Result<Credential, Error> {
        let mut asking = self.asking.lock().await;
        match self.find() {
            Found::Good(credential) | Found::Ripe(credential) if !credential.is(refused) => Ok(credential),
            _ => {
                let next = self.issue(task, task.api(), None, &mut asking).await?;
                if next.lease_id() != refused.lease_id() {
                    task.hand_back(refused, "its tool refuses it");
                }
                Ok(next)
            }
        }
    }

    /// Forgets this credential, if it is the one here.
    pub(crate) fn forget(&self, credential: &Credential) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.as_ref().is_some_and(|held| held.credential.is(credential)) {
            *held = None;
        }
    }

    /// Gets the next one, while the one of before is good still: the same lease with a later expiry, where that can be.
    pub(crate) async fn renew(&self, task: &Arc<State>, api: &Api) {
        let _ordered = Ordered(&self.renewing);
        let mut asking = self.asking.lock().await;
        let Found::Ripe(before) = self.find() else {
            return;
        };
        let began = Instant::now();
        let next = match task.renew(api, &before).await {
            Ok(credential) => {
                self.hold(&credential, began);
                Ok(credential)
            }
            // Not renewable, or not by policy: a new one is decided by itself.
            Err(error) if !error.retryable() => self.issue(task, api, None, &mut asking).await,
            Err(error) => Err(error),
        };
        if next.is_err()
            && let Some(held) = &mut *self.held.lock().unwrap_or_else(PoisonError::into_inner)
        {
            held.renew_at = Instant::now() + AFTER_FAILURE;
        }
    }

    /// Whether the caller is the one to order the renewal.
    pub(crate) fn may_order_renewal(&self) -> bool {
        !self.renewing.swap(true, Ordering::AcqRel)
    }

    async fn issue(
        &self,
        task: &Arc<State>,
        api: &Api,
        ttl: Option<Duration>,
        unheard: &mut Option<Unheard>,
    ) -> Result<Credential, Error> {
        // A caller that went away before the answer came left its key: with it the broker ends what it may have issued.
        if unheard.as_ref().is_none_or(|unheard| unheard.ttl != ttl) {
            let key = ambient::idempotency_key()?;
            *unheard = Some(Unheard { key, ttl });
        }
        let key = unheard
            .as_ref()
            .map(|unheard| unheard.key.clone())
            .unwrap_or_default();
        let began = Instant::now();
        let issued = task.issue(api, &self.access, ttl, &key).await;
        if !issued.as_ref().is_err_and(Error::retryable) {
            *unheard = None;
        }
        let credential = issued?;
        self.hold(&credential, began);
        Ok(credential)
    }

    fn find(&self) -> Found {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        match &*held {
            Some(held) if now < held.renew_at => Found::Good(held.credential.clone()),
            Some(held) if now < held.good_until => Found::Ripe(held.credential.clone()),
            _ => Found::None,
        }
    }

    /// Keeps a credential that was asked for at `began`: its life began no sooner.
    fn hold(&self, credential: &Credential, began: Instant) {
        let life = credential.granted();
        // Two thirds, a tenth of that sooner or later, so that not all come at once; and no use on the last stretch,
        // which the way to the tool may take.
        let renew_after = life.mul_f64(0.6) + ambient::jitter(life.mul_f64(2.0 / 15.0));
        let margin = (life / 10).min(Duration::from_secs(5));
        self.put(Some(Held {
            credential: credential.clone(),
            renew_at: began + renew_after,
            good_until: began + life.saturating_sub(margin),
        }));
    }

    fn put(&self, held: Option<Held>) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = held;
    }
}
