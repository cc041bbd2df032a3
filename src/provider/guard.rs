//! What stands around every configured provider, so that one that hangs or is down costs nobody else
//! anything: a time-out on each call, bounded places, apart for issuing and for ending, and a
//! breaker that lets calls fail at once while the provider is down.

mod breaker;

use std::future::Future;
use std::num::NonZeroUsize;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use metrics::Counter;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::Instrument as _;

use super::{Minted, Presence, Promise, Provider, ProviderError, Renewed};
use crate::ledger::reservation::{Prepared, Reservation};
use crate::model::access::Access;
use crate::model::ids::LeaseId;
use crate::model::lease::{Handle, Held};
use crate::model::name::ProviderName;
use crate::model::tool::Tool;
use crate::trace;

use breaker::Breaker;
pub use breaker::Patience;

/// Calls to providers, by provider, call and result.
pub const CALLS: &str = "dayfly_provider_calls_total";
/// Whether a provider is down: 1 while its breaker is open.
pub const DOWN: &str = "dayfly_provider_down";

/// Bounds on what one provider can cost.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long a call may take. Who finds no place waits half as long for one.
    pub call: Duration,
    /// How long a list of all that is there may take.
    pub list: Duration,
    /// Calls at a time that make or prolong credentials.
    pub issuing: NonZeroUsize,
    /// Calls at a time that end credentials or look for them.
    pub ending: NonZeroUsize,
    /// When the breaker opens, and for how long.
    pub patience: Patience,
}

impl Default for Limits {
    fn default() -> Self {
        let places = NonZeroUsize::MIN.saturating_add(63);
        Self {
            call: Duration::from_secs(10),
            list: Duration::from_secs(60),
            issuing: places,
            // More than the reaper uses by itself: others end things too.
            ending: places.saturating_add(64),
            patience: Patience::default(),
        }
    }
}

/// A provider with its bounds.
pub struct Guard {
    name: ProviderName,
    /// The name once more, as metrics take it without a copy.
    label: Arc<str>,
    inner: Arc<dyn Provider>,
    limits: Limits,
    issuing: Semaphore,
    ending: Semaphore,
    breaker: Breaker,
    /// What every credential is counted with, looked up once.
    minted: OnceLock<Counter>,
}

impl Guard {
    /// Stands around this provider.
    pub fn new(name: ProviderName, inner: Arc<dyn Provider>, limits: Limits) -> Self {
        let places = |count: NonZeroUsize| Semaphore::new(count.get().min(Semaphore::MAX_PERMITS));
        Self {
            label: name.as_str().into(),
            inner,
            issuing: places(limits.issuing),
            ending: places(limits.ending),
            breaker: Breaker::new(limits.patience),
            minted: OnceLock::new(),
            name,
            limits,
        }
    }

    /// Waits for a place, asks the breaker, and gives the call its time.
    async fn call<T>(
        &self,
        what: &'static str,
        places: Option<&Semaphore>,
        limit: Duration,
        call: impl Future<Output = Result<T, ProviderError>> + Send,
    ) -> Result<T, ProviderError> {
        let _place = match places {
            Some(places) => match timeout(limit / 2, places.acquire()).await {
                Ok(place) => place.ok(),
                Err(_) => return Err(self.counted(what, "crowded", full())),
            },
            None => None,
        };
        let pass = match self.breaker.enter() {
            Ok(pass) => pass,
            Err(down) => return Err(self.counted(what, "down", down)),
        };
        let span =
            tracing::info_span!(target: trace::TARGET, "provider", provider = &*self.label, call = what);
        let answer = timeout(limit, call.instrument(span)).await.unwrap_or_else(|_| {
            let seconds = limit.as_secs();
            Err(ProviderError::Unavailable(format!(
                "no answer within {seconds} s"
            )))
        });
        match &answer {
            Err(ProviderError::Unavailable(reason)) => {
                if pass.failed(reason) {
                    metrics::gauge!(DOWN, "provider" => Arc::clone(&self.label)).set(1.0);
                    tracing::error!(provider = %self.name, %reason, "a provider is down, and is left alone for a while");
                }
            }
            // Too much to do says nothing about whether it works.
            Err(ProviderError::Throttled { .. } | ProviderError::Down { .. }) => drop(pass),
            Ok(_) | Err(ProviderError::Unfit { .. } | ProviderError::Refused(_)) => {
                if pass.answered() {
                    metrics::gauge!(DOWN, "provider" => Arc::clone(&self.label)).set(0.0);
                    tracing::info!(provider = %self.name, "a provider answers again");
                }
            }
        }
        match answer {
            Ok(answer) => {
                self.count(what, "ok");
                Ok(answer)
            }
            Err(error) => {
                let result = match error {
                    ProviderError::Unavailable(_) => "unavailable",
                    ProviderError::Throttled { .. } => "throttled",
                    ProviderError::Down { .. } => "down",
                    ProviderError::Unfit { .. } => "unfit",
                    ProviderError::Refused(_) => "refused",
                };
                Err(self.counted(what, result, error))
            }
        }
    }

    fn counted(&self, what: &'static str, result: &'static str, error: ProviderError) -> ProviderError {
        self.count(what, result);
        error
    }

    fn count(&self, what: &'static str, result: &'static str) {
        let counter = || {
            let provider = Arc::clone(&self.label);
            metrics::counter!(CALLS, "provider" => provider, "call" => what, "result" => result)
        };
        match (what, result) {
            ("mint", "ok") => self.minted.get_or_init(counter).increment(1),
            _ => counter().increment(1),
        }
    }
}

/// Every place is taken. The step had no effect.
fn full() -> ProviderError {
    ProviderError::Throttled {
        after: Duration::from_secs(1),
        reason: "as many calls are under way as may be".into(),
    }
}

#[async_trait]
impl Provider for Guard {
    fn kind(&self) -> &'static str {
        self.inner.kind()
    }

    fn promise(&self, tool: &Tool) -> Promise {
        self.inner.promise(tool)
    }

    fn accepts(&self, tool: &Tool) -> Result<(), ProviderError> {
        self.inner.accepts(tool)
    }

    fn explain(&self, tool: &Tool, access: &Access) -> Result<Option<serde_json::Value>, ProviderError> {
        self.inner.explain(tool, access)
    }

    fn lists(&self) -> bool {
        self.inner.lists()
    }

    fn handle(&self, lease: LeaseId) -> Option<Handle> {
        self.inner.handle(lease)
    }

    async fn prepare(&self, reservation: &Reservation) -> Result<Prepared, ProviderError> {
        let call = self.inner.prepare(reservation);
        self.call("prepare", Some(&self.issuing), self.limits.call, call)
            .await
    }

    async fn mint(&self, reservation: &Reservation) -> Result<Minted, ProviderError> {
        let call = self.inner.mint(reservation);
        self.call("mint", Some(&self.issuing), self.limits.call, call)
            .await
    }

    async fn renew(&self, reservation: &Reservation) -> Result<Renewed, ProviderError> {
        let call = self.inner.renew(reservation);
        self.call("renew", Some(&self.issuing), self.limits.call, call)
            .await
    }

    async fn revoke(&self, held: &Held) -> Result<(), ProviderError> {
        let call = self.inner.revoke(held);
        self.call("revoke", Some(&self.ending), self.limits.call, call)
            .await
    }

    async fn probe(&self, held: &Held) -> Result<Presence, ProviderError> {
        let call = self.inner.probe(held);
        self.call("probe", Some(&self.ending), self.limits.call, call)
            .await
    }

    async fn inventory(&self) -> Result<Vec<Held>, ProviderError> {
        let call = self.inner.inventory();
        self.call("inventory", None, self.limits.list, call).await
    }

    /// Asked whatever the breaker says: it is how somebody finds out.
    async fn preflight(&self) -> Result<(), ProviderError> {
        let answer = timeout(self.limits.call, self.inner.preflight()).await;
        answer.unwrap_or_else(|_| Err(ProviderError::Unavailable("no answer in time".into())))
    }

    async fn look(&self) -> Result<(), ProviderError> {
        let answer = timeout(self.limits.call, self.inner.look()).await;
        answer.unwrap_or_else(|_| Err(ProviderError::Unavailable("no answer in time".into())))
    }
}

#[cfg(test)]
mod tests;
