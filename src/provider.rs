//! Providers: adapters that mint, end and verify one technology's credentials.

#[cfg(feature = "aws")]
pub mod aws_sts;
pub mod guard;
pub mod jwt;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "vault")]
pub mod vault;
pub mod webhook;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::ledger::reservation::{Prepared, Reservation};
use crate::model::access::Access;
use crate::model::credential::Credential;
use crate::model::ids::LeaseId;
use crate::model::lease::{Ending, Handle, Held};
use crate::model::name::ProviderName;
use crate::model::time::Timestamp;
use crate::model::tool::Tool;
use crate::model::ttl::Ttl;

/// What a provider can and cannot do for a tool. Said to the caller, and used to bound and to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Promise {
    /// How its credentials can end before their expiry.
    pub ending: Ending,
    /// The shortest life that it can give.
    pub least: Ttl,
    /// The longest life that it can give.
    pub most: Ttl,
    /// Nothing exists outside until the credential is handed out: no compensation, no activation.
    pub self_contained: bool,
    /// A credential can live on past its first expiry.
    pub renewable: bool,
}

/// Mints, ends and verifies.
#[async_trait]
pub trait Provider: Send + Sync + 'static {
    /// A label for logs and metrics. No behaviour is switched on it.
    fn kind(&self) -> &'static str;
    /// What it can and cannot do for this tool.
    fn promise(&self, tool: &Tool) -> Promise;
    /// Checks, at load, that it can serve this tool with the tool's parameters.
    fn accepts(&self, tool: &Tool) -> Result<(), ProviderError>;
    /// What a credential for this access would be allowed outside, in the technology's own words, for
    /// people who check it. `None` where there is nothing to add to the access itself.
    fn explain(&self, _tool: &Tool, _access: &Access) -> Result<Option<serde_json::Value>, ProviderError> {
        Ok(None)
    }
    /// Whether its credentials name an entry of a status list, by which tools learn that they were revoked.
    fn lists(&self) -> bool {
        false
    }
    /// The name that the credential of this lease will have, where the technology lets us choose.
    fn handle(&self, lease: LeaseId) -> Option<Handle>;
    /// Where the technology chooses the name: makes what the credential will hang on, bearing the mark
    /// of the lease and without anything for the workload yet, and says its name. The name is written
    /// down before [`Provider::mint`], which finds all of it in the reservation.
    async fn prepare(&self, reservation: &Reservation) -> Result<Prepared, ProviderError> {
        let lease = reservation.lease().id;
        self.handle(lease)
            .map(Prepared::from)
            .ok_or_else(|| ProviderError::Refused(format!("nobody knows the name of {lease}")))
    }
    /// Makes the credential that the reservation was written down for. The reservation's lease has its
    /// handle by now.
    async fn mint(&self, reservation: &Reservation) -> Result<Minted, ProviderError>;
    /// Lets the credential live until the reservation's lease expires; never shortens it. Asked only
    /// of those that promise it.
    async fn renew(&self, _: &Reservation) -> Result<Renewed, ProviderError> {
        Err(ProviderError::Refused(
            "its credentials cannot be renewed: ask for a new one".into(),
        ))
    }
    /// Ends it. Idempotent: what is not there is ended. Without a handle, whatever bears the mark of
    /// the lease is ended.
    async fn revoke(&self, held: &Held) -> Result<(), ProviderError>;
    /// Looks whether it is still there, for the receipt.
    async fn probe(&self, held: &Held) -> Result<Presence, ProviderError>;
    /// Everything there that bears our mark and is not known to be ended; empty where nothing is kept.
    async fn inventory(&self) -> Result<Vec<Held>, ProviderError>;
    /// Whether it can mint and revoke with what it holds.
    async fn preflight(&self) -> Result<(), ProviderError>;
    /// The same, as far as it shows without anything being changed or made: for whoever looks beside brokers that
    /// are at work.
    async fn look(&self) -> Result<(), ProviderError> {
        self.preflight().await
    }
}

/// A new credential.
#[derive(Debug)]
pub struct Minted {
    /// For the workload, once.
    pub credential: Credential,
    /// The provider's name for it.
    pub handle: Handle,
    /// When it ends by itself.
    pub expires_at: Timestamp,
}

/// A credential that lives on.
#[derive(Debug)]
pub struct Renewed {
    /// The new credential, where the one of before does not live on itself.
    pub credential: Option<Credential>,
    /// When it ends by itself now.
    pub expires_at: Timestamp,
}

/// Whether a credential is still there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Presence {
    /// It was looked for and is not there.
    Absent,
    /// It is there.
    Present,
    /// Nothing can be asked: the credential carries itself.
    Unknown,
}

/// What can go wrong at a provider. The texts never contain a credential.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// It may work later. Whether the step had an effect is unknown.
    #[error("the provider is unavailable: {0}")]
    Unavailable(String),
    /// It has too much to do. The step had no effect.
    #[error("the provider has too much to do: {reason}")]
    Throttled {
        /// When to come again.
        after: Duration,
        /// What it said.
        reason: String,
    },
    /// It did not answer lately and is left alone for a while. Nothing was sent.
    #[error("the provider is down, and is asked again in {} s: {reason}", after.as_secs())]
    Down {
        /// When it is asked again.
        after: Duration,
        /// What went wrong last.
        reason: String,
    },
    /// This access cannot be put into a credential. Nothing was sent; the caller can ask for less.
    #[error("{reason}")]
    Unfit {
        /// The part of the access, as a JSON pointer.
        pointer: &'static str,
        /// What is wrong with it, and what to ask for instead.
        reason: String,
    },
    /// It will not work until somebody changes something.
    #[error("the provider refuses: {0}")]
    Refused(String),
}

/// The configured providers, by name.
#[derive(Clone, Default)]
pub struct Providers(BTreeMap<ProviderName, Arc<dyn Provider>>);

impl Providers {
    /// A set of named providers.
    pub fn new(providers: impl IntoIterator<Item = (ProviderName, Arc<dyn Provider>)>) -> Self {
        Self(providers.into_iter().collect())
    }

    /// The provider of that name.
    pub fn get(&self, name: &ProviderName) -> Result<&Arc<dyn Provider>, ProviderError> {
        self.0
            .get(name)
            .ok_or_else(|| ProviderError::Refused(format!("no provider `{name}` is configured")))
    }

    /// Every provider, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&ProviderName, &Arc<dyn Provider>)> {
        self.0.iter()
    }
}
