//! The token that a lease hangs on: made, found by its mark, looked up, ended.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::{Map, Value};

use super::VaultProvider;
use super::endpoints::{CreateToken, ListAccessors, LookUpAccessor, RevokeAccessor};
use super::fault::Fault;
use super::held::{Name, is_word};
use super::parameters::{Plan, Recipe};
use super::wire::{Answer, Auth};
use crate::ledger::reservation::Prepared;
use crate::model::ids::LeaseId;
use crate::model::lease::Lease;
use crate::model::time::Timestamp;
use crate::provider::ProviderError;

/// How many accessors are looked up side by side when the mark is all there is.
const LOOKS: usize = 8;
/// More accessors than this are not walked through.
const MOST_ACCESSORS: usize = 200_000;
const DEFAULT: &str = "default";

/// A token that bears our mark.
pub(super) struct Marked {
    pub(super) lease: LeaseId,
    pub(super) accessor: String,
    pub(super) expires_at: Option<Timestamp>,
}

/// A token that is asked for.
pub(super) struct Wanted<'a> {
    pub(super) policies: &'a [String],
    pub(super) seconds: u64,
    /// The longest that it can live by being renewed, if it can.
    pub(super) longest: Option<u64>,
    pub(super) display_name: String,
    pub(super) meta: BTreeMap<&'static str, String>,
}

impl VaultProvider {
    /// Where the tokens of leases are made.
    pub(super) fn creation_path(&self) -> String {
        match &self.token_role {
            Some(role) => format!("auth/token/create/{role}"),
            None => "auth/token/create-orphan".into(),
        }
    }

    /// Makes a token.
    pub(super) async fn create(&self, wanted: Wanted<'_>) -> Result<Auth, ProviderError> {
        let endpoint = CreateToken {
            path: self.creation_path(),
            policies: wanted.policies.to_vec(),
            no_default_policy: !wanted.policies.iter().any(|policy| policy == DEFAULT),
            ttl: format!("{}s", wanted.seconds),
            explicit_max_ttl: format!("{}s", wanted.longest.unwrap_or(wanted.seconds)),
            renewable: wanted.longest.is_some(),
            display_name: wanted.display_name,
            meta: wanted.meta,
        };
        let answer = self.session.send(&self.minting, &endpoint).await;
        let answer = answer.map_err(|fault| {
            let path = self.creation_path();
            let remedy = format!(
                "let Dayfly's policy update {path}, and let the token role allow the policies of the tool"
            );
            fault.into_error("making the token of the lease", &remedy)
        })?;
        answer.auth.ok_or_else(|| {
            ProviderError::Unavailable("making the token of the lease: the answer holds no token".into())
        })
    }

    /// Makes the token of a lease, and keeps it only if it is what was asked for.
    pub(super) async fn make_token(
        &self,
        plan: &Plan,
        recipe: &Recipe,
        lease: &Lease,
        now: Timestamp,
    ) -> Result<Prepared, ProviderError> {
        let margin = self.margin.as_secs();
        let seconds = self.seconds(lease, now).saturating_add(margin);
        let renewed = |ttl: crate::model::ttl::Ttl| u64::from(ttl.as_secs()).saturating_add(margin);
        let auth = self
            .create(Wanted {
                policies: &recipe.policies,
                seconds,
                longest: plan.renew_for.map(|ttl| renewed(ttl).max(seconds)),
                display_name: format!("dayfly-{}", lease.agent),
                meta: BTreeMap::from([
                    ("dayfly", self.issuer.clone()),
                    ("dayfly_lease", lease.id.to_string()),
                    ("dayfly_task", lease.task.to_string()),
                    ("dayfly_agent", lease.agent.to_string()),
                ]),
            })
            .await?;
        if let Some(reason) = mistake(&auth, &recipe.policies, seconds) {
            if is_word(&auth.accessor, 128) {
                self.revoke_token(&auth.accessor).await?;
            }
            return Err(ProviderError::Refused(reason.into()));
        }
        Ok(Prepared {
            handle: Name::before(&auth.accessor, plan.kind).handle(),
            expires_at: Some(now.plus(Duration::from_secs(auth.lease_duration))),
            secret: Some(auth.client_token),
        })
    }

    /// Ends a token, and all that was made with it. One that is not there is ended.
    pub(super) async fn revoke_token(&self, accessor: &str) -> Result<(), ProviderError> {
        let endpoint = RevokeAccessor {
            accessor: accessor.to_owned(),
        };
        match self.session.send(&self.ending, &endpoint).await {
            Err(fault) if !fault.is_absence() => {
                let remedy = "let Dayfly's policy update auth/token/revoke-accessor";
                Err(fault.into_error("ending the token of the lease", remedy))
            }
            _ => Ok(()),
        }
    }

    /// What the server knows of a token, if there is one.
    pub(super) async fn look_up(&self, accessor: &str) -> Result<Option<Map<String, Value>>, ProviderError> {
        let endpoint = LookUpAccessor {
            accessor: accessor.to_owned(),
        };
        match self.session.send(&self.ending, &endpoint).await {
            Ok(answer) => Ok(Some(answer.data.unwrap_or_default())),
            Err(fault) if fault.is_absence() => Ok(None),
            // A token that ends while it is looked up is answered like one that may not be looked up.
            Err(fault) if fault.is_denial() => Err(ProviderError::Unavailable(
                "looking for the token of the lease: Vault answered 403, permission denied: let Dayfly's policy update auth/token/lookup-accessor"
                    .into(),
            )),
            Err(fault) => Err(fault.into_error("looking for the token of the lease", "check the address")),
        }
    }

    /// Every token that bears the mark of Dayfly, or of this lease.
    pub(super) async fn marked(&self, lease: Option<LeaseId>) -> Result<Vec<Marked>, ProviderError> {
        let accessors = match self.session.send(&self.ending, &ListAccessors {}).await {
            Ok(answer) => keys(answer),
            // That is how an empty list is answered.
            Err(Fault::Said {
                status: 404,
                phrase: None,
                ..
            }) => Vec::new(),
            Err(fault) => {
                let remedy = "let Dayfly's policy list auth/token/accessors, with sudo";
                return Err(fault.into_error("listing tokens", remedy));
            }
        };
        if accessors.len() > MOST_ACCESSORS {
            return Err(ProviderError::Unavailable(format!(
                "listing tokens: there are more than {MOST_ACCESSORS}; give Dayfly a namespace of its own"
            )));
        }
        let looks = stream::iter(accessors).map(|accessor| async move {
            let found = match self.look_up(&accessor).await {
                // It may have ended just then: the second look finds nothing.
                Err(_) => self.look_up(&accessor).await?,
                Ok(found) => found,
            };
            Ok::<_, ProviderError>(found.and_then(|data| self.mark(accessor, &data)))
        });
        let found: Vec<Option<Marked>> = looks.buffer_unordered(LOOKS).try_collect().await?;
        let marked = found.into_iter().flatten();
        Ok(marked
            .filter(|token| lease.is_none_or(|lease| lease == token.lease))
            .collect())
    }

    fn mark(&self, accessor: String, data: &Map<String, Value>) -> Option<Marked> {
        let meta = data.get("meta")?;
        let text = |key: &str| meta.get(key)?.as_str();
        if text("dayfly") != Some(&self.issuer) {
            return None;
        }
        Some(Marked {
            lease: text("dayfly_lease")?.parse().ok()?,
            accessor,
            expires_at: data.get("expire_time").and_then(|at| at.as_str()?.parse().ok()),
        })
    }
}

/// What is wrong with a token, in view of what was asked for.
fn mistake(auth: &Auth, policies: &[String], seconds: u64) -> Option<&'static str> {
    let allowed = |policy: &String| policies.contains(policy);
    if !is_word(&auth.accessor, 128) {
        Some("the token role makes tokens that cannot be revoked: set its `token_type` to `service`")
    } else if auth.lease_duration == 0 || auth.lease_duration > seconds {
        Some("the token role makes tokens that live too long: it must not set `token_period`")
    } else if !auth.policies.iter().all(allowed) {
        Some("the token role adds policies of its own: set its `allowed_policies`")
    } else {
        None
    }
}

fn keys(answer: Answer) -> Vec<String> {
    let keys = answer.data.and_then(|mut data| data.remove("keys"));
    let Some(Value::Array(keys)) = keys else {
        return Vec::new();
    };
    let words = keys.into_iter().filter_map(|key| match key {
        Value::String(word) if is_word(&word, 128) => Some(word),
        _ => None,
    });
    words.collect()
}
