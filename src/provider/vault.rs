//! The Vault provider, for OpenBao and HashiCorp Vault: whatever a secrets engine makes, by path.
//!
//! Each lease has a token of its own at the server, which may do what the tool needs and nothing else,
//! lives little longer than the lease, and bears its mark. The token's accessor is written down before
//! any secret is read, and the secret is read with that token, so it hangs on it: ending the accessor
//! ends the secret, whatever crashed in between. Nothing hangs on Dayfly's own token.

mod endpoints;
mod fault;
mod held;
mod lease_token;
mod parameters;
mod preflight;
mod renewal;
mod secret;
mod session;
mod template;
#[cfg(test)]
mod testing;
mod wire;

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value, json};

use super::{Minted, Presence, Promise, Provider, ProviderError, Renewed};
use crate::clock::Clock;
use crate::ledger::reservation::{Prepared, Reservation};
use crate::model::access::Access;
use crate::model::ids::LeaseId;
use crate::model::lease::{Ending, Handle, Held, Lease};
use crate::model::time::Timestamp;
use crate::model::tool::Tool;
use crate::model::ttl::Ttl;

use endpoints::{LookUpLease, RevokeLease};
use held::{Name, Rest};
use parameters::{Method, Plan};
use secret::Got;
use session::Session;
use wire::Lane;

pub use session::Login;

/// How the server is reached.
pub struct Reach {
    /// `https://host:port`, or `http` on this machine.
    pub address: String,
    /// The only certificate authorities that may vouch for it, as PEM; the system's if nothing is said.
    pub authorities: Option<Vec<u8>>,
    /// The namespace that everything is in.
    pub namespace: Option<String>,
    /// How long a request may take.
    pub timeout: Duration,
    /// How many requests may be under way: so many to mint, and as many again to end.
    pub concurrency: NonZeroUsize,
}

/// What a provider does with its server.
pub struct Settings {
    /// How the server is reached.
    pub reach: Reach,
    /// How Dayfly shows who it is.
    pub login: Login,
    /// Marks what is Dayfly's, so that two of them can share a server: its public URL.
    pub issuer: String,
    /// The token role by which the tokens of leases are made; without one they are made as orphans.
    pub token_role: Option<String>,
    /// How much longer than its lease a secret may live at the server.
    pub margin: Duration,
    /// The longest life of a credential.
    pub most: Ttl,
}

/// Mints at a Vault or OpenBao server.
pub struct VaultProvider {
    address: String,
    namespace: Option<String>,
    issuer: String,
    token_role: Option<String>,
    margin: Duration,
    most: Ttl,
    clock: Arc<dyn Clock>,
    session: Session,
    /// Ending has a way of its own, so that neither stands in the way of the other.
    minting: Lane,
    ending: Lane,
}

impl VaultProvider {
    /// A provider of this server. Nothing is sent yet.
    pub fn new(settings: Settings, clock: Arc<dyn Clock>) -> Result<Self, ProviderError> {
        let Settings {
            reach,
            login,
            issuer,
            token_role,
            margin,
            most,
        } = settings;
        Ok(Self {
            minting: Lane::new(&reach)?,
            ending: Lane::new(&reach)?,
            address: reach.address,
            namespace: reach.namespace,
            issuer,
            token_role,
            margin,
            most,
            session: Session::new(login, Arc::clone(&clock)),
            clock,
        })
    }

    /// The life that a lease has left, in seconds, rounded up: what the server is asked for.
    fn seconds(&self, lease: &Lease, now: Timestamp) -> u64 {
        lease
            .expires_at
            .since(now)
            .as_millis()
            .div_ceil(1000)
            .try_into()
            .unwrap_or(u64::MAX)
    }

    /// Ends what a handle names. What is not there is ended.
    async fn end(&self, name: &Name) -> Result<(), ProviderError> {
        // First the token, so that nothing more is made with it.
        self.revoke_token(&name.accessor).await?;
        let Rest::Lease(id) = &name.rest else {
            return Ok(());
        };
        // The server ends it behind the token anyway; this waits until the engine has.
        let revoke = RevokeLease {
            lease_id: id.clone(),
            sync: true,
        };
        match self.session.send(&self.ending, &revoke).await {
            Err(fault) if !fault.is_absence() => {
                let remedy = "let Dayfly's policy update sys/leases/revoke";
                Err(fault.into_error("ending the secret of the lease", remedy))
            }
            _ => Ok(()),
        }
    }

    async fn look(&self, name: &Name) -> Result<Presence, ProviderError> {
        if self.look_up(&name.accessor).await?.is_some() {
            return Ok(Presence::Present);
        }
        let id = match &name.rest {
            Rest::Token => return Ok(Presence::Absent),
            Rest::Expiring | Rest::Stored => return Ok(Presence::Unknown),
            Rest::Lease(id) => id.clone(),
        };
        match self.look_up_lease(id).await? {
            Some(_) => Ok(Presence::Present),
            None => Ok(Presence::Absent),
        }
    }

    /// What the server knows of a lease of its own, if there is one.
    async fn look_up_lease(&self, id: String) -> Result<Option<Map<String, Value>>, ProviderError> {
        let endpoint = LookUpLease { lease_id: id };
        match self.session.send(&self.ending, &endpoint).await {
            Ok(answer) => Ok(Some(answer.data.unwrap_or_default())),
            Err(fault) if fault.is_absence() => Ok(None),
            Err(fault) => {
                let remedy = "let Dayfly's policy update sys/leases/lookup";
                Err(fault.into_error("looking for the secret of the lease", remedy))
            }
        }
    }
}

#[async_trait]
impl Provider for VaultProvider {
    fn kind(&self) -> &'static str {
        "vault"
    }

    fn promise(&self, tool: &Tool) -> Promise {
        let plan = Plan::of(tool).ok();
        let renewable = plan.as_ref().is_some_and(|plan| plan.renew_for.is_some());
        let least = plan.as_ref().and_then(|plan| plan.least_ttl);
        Promise {
            // Parameters were checked at load; of what cannot be read nothing is promised.
            ending: plan.map_or(Ending::Never, |plan| plan.kind.ending()),
            least: least.unwrap_or(Ttl::MIN),
            most: self.most,
            self_contained: false,
            renewable,
        }
    }

    fn accepts(&self, tool: &Tool) -> Result<(), ProviderError> {
        Plan::of(tool).map(drop)
    }

    fn explain(&self, tool: &Tool, access: &Access) -> Result<Option<Value>, ProviderError> {
        let plan = Plan::of(tool)?;
        let recipe = plan.recipe(access.actions(), access.resources())?.0;
        Ok(Some(json!({
            "policies": recipe.policies,
            "path": recipe.path.as_ref().map(ToString::to_string),
            "method": match recipe.method {
                Method::Read => "read",
                Method::Write => "write",
            },
            "kind": plan.kind.as_str(),
        })))
    }

    fn handle(&self, _: LeaseId) -> Option<Handle> {
        None
    }

    /// Makes the token of the lease.
    async fn prepare(&self, reservation: &Reservation) -> Result<Prepared, ProviderError> {
        let tool = &reservation.permit().request().tool;
        let plan = Plan::of(tool)?;
        let lease = reservation.lease();
        let now = self.clock.now();
        // Whatever does not fit is said before anything is sent.
        let (recipe, _) = self.filled(&plan, lease, now)?;
        self.make_token(&plan, recipe, lease, now).await
    }

    /// Reads the secret with the token of the lease.
    async fn mint(&self, reservation: &Reservation) -> Result<Minted, ProviderError> {
        let tool = &reservation.permit().request().tool;
        let plan = Plan::of(tool)?;
        let lease = reservation.lease();
        let prepared = reservation.prepared();
        let (Some(prepared), Some(token)) = (prepared, prepared.and_then(|made| made.secret.as_ref())) else {
            return Err(ProviderError::Refused(format!(
                "{} has no token to mint with",
                lease.id
            )));
        };
        let now = self.clock.now();
        let (recipe, filled) = self.filled(&plan, lease, now)?;
        let name = Name::of(&prepared.handle);
        let got = match filled {
            None => Got::token(token),
            Some(filled) => self.get(&plan, recipe, &filled, lease, token, now).await?,
        };
        let credential = match plan.wrap_ttl {
            None => got.credential,
            Some(ttl) => self.wrap(&got.credential, ttl, now).await?,
        };
        let ends = [prepared.expires_at, got.expires_at];
        let expires_at = ends.into_iter().flatten().fold(lease.expires_at, Ord::min);
        let handle = match got.lease_id {
            None => prepared.handle.clone(),
            Some(id) => Name {
                rest: Rest::Lease(id),
                ..name
            }
            .handle(),
        };
        Ok(Minted {
            credential,
            handle,
            expires_at,
        })
    }

    async fn renew(&self, reservation: &Reservation) -> Result<Renewed, ProviderError> {
        let lease = reservation.lease();
        let plan = Plan::of(&reservation.permit().request().tool)?;
        let handle = lease.handle.as_ref().filter(|_| plan.renew_for.is_some());
        let handle = handle.ok_or_else(|| {
            ProviderError::Refused("its credentials cannot be renewed: ask for a new one".into())
        })?;
        let expires_at = self.extend(&Name::of(handle), lease, self.clock.now()).await?;
        Ok(Renewed {
            credential: None,
            expires_at,
        })
    }

    async fn revoke(&self, held: &Held) -> Result<(), ProviderError> {
        if let Some(handle) = &held.handle {
            return self.end(&Name::of(handle)).await;
        }
        for token in self.marked(Some(held.lease)).await? {
            self.revoke_token(&token.accessor).await?;
        }
        Ok(())
    }

    async fn probe(&self, held: &Held) -> Result<Presence, ProviderError> {
        if let Some(handle) = &held.handle {
            return self.look(&Name::of(handle)).await;
        }
        match self.marked(Some(held.lease)).await?.is_empty() {
            true => Ok(Presence::Absent),
            false => Ok(Presence::Present),
        }
    }

    async fn inventory(&self) -> Result<Vec<Held>, ProviderError> {
        let tokens = self.marked(None).await?;
        let held = tokens.into_iter().map(|token| Held {
            lease: token.lease,
            handle: Some(Handle(token.accessor)),
            expires_at: token.expires_at,
        });
        Ok(held.collect())
    }

    async fn preflight(&self) -> Result<(), ProviderError> {
        self.check().await
    }

    /// What it may do, without the token that a preflight makes.
    async fn look(&self) -> Result<(), ProviderError> {
        self.check_permits().await
    }
}

impl fmt::Debug for VaultProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VaultProvider")
            .field("address", &self.address)
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}
