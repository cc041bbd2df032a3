//! Providers: adapters that mint, end and verify one technology's credentials.

pub mod jwt;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;

use crate::ledger::reservation::Reservation;
use crate::model::credential::Credential;
use crate::model::ids::LeaseId;
use crate::model::lease::{Ending, Handle, Lease};
use crate::model::name::ProviderName;
use crate::model::time::Timestamp;
use crate::model::tool::Tool;
use crate::model::ttl::Ttl;

/// What a provider can and cannot do. Said to the caller, and used to bound and to end.
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
}

/// Mints, ends and verifies.
#[async_trait]
pub trait Provider: Send + Sync + 'static {
    /// A label for logs and metrics. No behaviour is switched on it.
    fn kind(&self) -> &'static str;
    /// What it can and cannot do.
    fn promise(&self) -> Promise;
    /// Checks, at load, that it can serve this tool with the tool's parameters.
    fn accepts(&self, tool: &Tool) -> Result<(), ProviderError>;
    /// The name that the credential of this lease will have, where the technology lets us choose.
    fn handle(&self, lease: LeaseId) -> Option<Handle>;
    /// Makes the credential that the reservation was written down for.
    async fn mint(&self, reservation: &Reservation) -> Result<Minted, ProviderError>;
    /// Ends it. Idempotent: what is not there is ended.
    async fn revoke(&self, lease: &Lease) -> Result<(), ProviderError>;
    /// Looks whether it is still there, for the receipt.
    async fn probe(&self, lease: &Lease) -> Result<Presence, ProviderError>;
    /// Everything there that bears our mark; empty where nothing is kept.
    async fn inventory(&self) -> Result<Vec<Handle>, ProviderError>;
    /// Whether it can mint and revoke with what it holds.
    async fn preflight(&self) -> Result<(), ProviderError>;
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
    /// It may work later.
    #[error("the provider is unavailable: {0}")]
    Unavailable(String),
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
