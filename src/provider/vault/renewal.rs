//! A secret lives on: first the token that it hangs on, then the secret itself.

use std::time::Duration;

use serde_json::{Map, Value};

use super::VaultProvider;
use super::endpoints::{RenewAccessor, RenewLease};
use super::held::{Name, Rest};
use crate::model::lease::Lease;
use crate::model::time::Timestamp;
use crate::provider::ProviderError;

const REMEDY: &str = "let Dayfly's policy update auth/token/renew-accessor and sys/leases/renew, and let the token role make renewable tokens";

impl VaultProvider {
    /// Lets it live until the lease expires, and says when it ends now. Never shortens it.
    pub(super) async fn extend(
        &self,
        name: &Name,
        lease: &Lease,
        now: Timestamp,
    ) -> Result<Timestamp, ProviderError> {
        let ended = || ProviderError::Refused("it has ended at Vault: ask for a new one".into());
        let token = self.look_up(&name.accessor).await?.ok_or_else(ended)?;
        let token_before = expiry(&token).minus(self.margin);
        let (id, secret_before) = match &name.rest {
            Rest::Lease(id) => {
                let found = self.look_up_lease(id.clone()).await?.ok_or_else(ended)?;
                (Some(id), expiry(&found))
            }
            _ => (None, Timestamp::MAX),
        };
        let token_after = match token_before < lease.expires_at {
            false => token_before,
            true => self.extend_token(name, lease, now).await?,
        };
        let secret_after = match id {
            Some(id) if secret_before < lease.expires_at => self.extend_secret(id, lease, now).await?,
            _ => secret_before,
        };
        let before = token_before.min(secret_before);
        let after = token_after.min(secret_after);
        Ok(after.min(lease.expires_at.max(before)))
    }

    async fn extend_token(
        &self,
        name: &Name,
        lease: &Lease,
        now: Timestamp,
    ) -> Result<Timestamp, ProviderError> {
        let asked = self.seconds(lease, now).saturating_add(self.margin.as_secs());
        let endpoint = RenewAccessor {
            accessor: name.accessor.clone(),
            increment: format!("{asked}s"),
        };
        let answer = self.session.send(&self.minting, &endpoint).await;
        let answer = answer.map_err(|fault| fault.into_error("renewing the token of the lease", REMEDY))?;
        let got = answer.auth.map_or(0, |auth| auth.lease_duration);
        measured(got, asked)?;
        Ok(now.plus(Duration::from_secs(got)).minus(self.margin))
    }

    async fn extend_secret(
        &self,
        id: &str,
        lease: &Lease,
        now: Timestamp,
    ) -> Result<Timestamp, ProviderError> {
        let asked = self.seconds(lease, now);
        let endpoint = RenewLease {
            lease_id: id.to_owned(),
            increment: asked,
        };
        let answer = self.session.send(&self.minting, &endpoint).await;
        let answer = answer.map_err(|fault| fault.into_error("renewing the secret of the lease", REMEDY))?;
        measured(answer.lease_duration, asked.saturating_add(self.margin.as_secs()))?;
        Ok(now.plus(Duration::from_secs(answer.lease_duration)))
    }
}

fn measured(got: u64, most: u64) -> Result<(), ProviderError> {
    match got <= most {
        true => Ok(()),
        false => Err(ProviderError::Refused(format!(
            "Vault renewed for {got} s where {most} s were asked for: the role must not set a period"
        ))),
    }
}

/// When a token or a lease ends. One that never ends is none that Dayfly made.
fn expiry(found: &Map<String, Value>) -> Timestamp {
    let at = found.get("expire_time").and_then(|at| at.as_str()?.parse().ok());
    at.unwrap_or(Timestamp::EPOCH)
}
