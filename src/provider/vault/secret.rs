//! The secret of a lease: read with the lease's token, measured, cut to what is handed out.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value};

use super::VaultProvider;
use super::endpoints::{ReadSecret, RenewLease, Wrap, WriteSecret};
use super::held::is_word;
use super::parameters::{Filled, Kind, Method, Plan, Recipe};
use super::template::Filling;
use super::wire::Answer;
use crate::model::credential::Credential;
use crate::model::lease::Lease;
use crate::model::secret::Secret;
use crate::model::time::Timestamp;
use crate::model::ttl::Ttl;
use crate::provider::ProviderError;

/// The most fields that are handed out.
const MOST_FIELDS: usize = 64;

/// A secret that was had.
pub(super) struct Got {
    /// What of it is handed out.
    pub(super) credential: Credential,
    /// The server's name for it.
    pub(super) lease_id: Option<String>,
    /// When it ends by itself, as far as the server says.
    pub(super) expires_at: Option<Timestamp>,
}

impl Got {
    /// The token of the lease, where that is the secret. A server takes it as a bearer token too.
    pub(super) fn token(token: &Secret) -> Self {
        Self {
            credential: Credential::Bearer(token.clone()),
            lease_id: None,
            expires_at: None,
        }
    }
}

impl VaultProvider {
    /// The recipe for the access of a lease, and its request.
    pub(super) fn filled<'p>(
        &self,
        plan: &'p Plan,
        lease: &Lease,
        now: Timestamp,
    ) -> Result<(&'p Recipe, Option<Filled>), ProviderError> {
        let (recipe, resource) = plan.recipe(&lease.actions, &lease.resources)?;
        let filling = Filling {
            lease,
            resource,
            seconds: self.seconds(lease, now),
        };
        Ok((recipe, recipe.fill(&filling)?))
    }

    /// Asks an engine. Whatever goes wrong here, the token of the lease is ended, and all with it.
    pub(super) async fn get(
        &self,
        plan: &Plan,
        recipe: &Recipe,
        filled: &Filled,
        lease: &Lease,
        token: &Secret,
        now: Timestamp,
    ) -> Result<Got, ProviderError> {
        let path = filled.path.clone();
        let answer = match filled.method {
            Method::Read => self.minting.send(&ReadSecret { path }, Some(token)).await,
            Method::Write => {
                let body = filled.body.clone();
                let endpoint = WriteSecret { path, body };
                self.minting.send(&endpoint, Some(token)).await
            }
        };
        let mut answer = answer.map_err(|fault| {
            let remedy = format!(
                "look at `path` and `method` of the tool {}, and let its policies allow them",
                lease.tool
            );
            fault.into_error(&format!("asking {} for the secret", filled.path), &remedy)
        })?;
        let data = answer.data.take().unwrap_or_default();
        let asked = self.seconds(lease, now);
        let (lease_id, expires_at) = match plan.kind {
            Kind::Leased => {
                let seconds = self.leased(&answer, asked).await?;
                (
                    Some(answer.lease_id),
                    Some(now.plus(Duration::from_secs(seconds))),
                )
            }
            Kind::Expiring => (None, self.expiry(recipe, &answer, &data, lease, now)?),
            Kind::Stored | Kind::Token => (None, None),
        };
        Ok(Got {
            credential: Credential::Fields(fields(recipe, data)?),
            lease_id,
            expires_at,
        })
    }

    /// How many seconds the server's lease has, cut down to what was asked for if it is longer.
    async fn leased(&self, answer: &Answer, asked: u64) -> Result<u64, ProviderError> {
        if !is_word(&answer.lease_id, 512) || !answer.lease_id.contains('/') {
            return Err(ProviderError::Refused(
                "Vault keeps no lease on this secret, so nothing would end it: write `kind = \"expiring\"` or `kind = \"stored\"`"
                    .into(),
            ));
        }
        let most = asked.saturating_add(self.margin.as_secs());
        if answer.lease_duration <= most {
            return Ok(answer.lease_duration);
        }
        if answer.renewable {
            // A lease is renewed for as long as one says, also for less than it had.
            let renew = RenewLease {
                lease_id: answer.lease_id.clone(),
                increment: asked,
            };
            let shorter = self.session.send(&self.minting, &renew).await.map_err(|fault| {
                let remedy =
                    "let Dayfly's policy update sys/leases/renew, or lower `default_ttl` of the role";
                fault.into_error("shortening the secret of the lease", remedy)
            })?;
            if shorter.lease_duration <= most {
                return Ok(shorter.lease_duration);
            }
        }
        Err(too_long(answer.lease_duration, asked))
    }

    /// When a secret ends that only time ends.
    fn expiry(
        &self,
        recipe: &Recipe,
        answer: &Answer,
        data: &Map<String, Value>,
        lease: &Lease,
        now: Timestamp,
    ) -> Result<Option<Timestamp>, ProviderError> {
        let said = match &recipe.expires {
            Some(field) => Some(instant(data.get(field)).ok_or_else(|| {
                ProviderError::Refused(format!(
                    "`expires`: the answer has no instant in `{field}`: neither seconds since 1970 nor RFC 3339"
                ))
            })?),
            None if answer.lease_duration > 0 => Some(now.plus(Duration::from_secs(answer.lease_duration))),
            // It was asked for that long, and engines give no more than they are asked for.
            None if recipe.asks_for_a_life() => None,
            None => {
                return Err(ProviderError::Refused(
                    "nobody says when this secret ends: name the field with `expires`, or ask for `{ttl}` in `body`"
                        .into(),
                ));
            }
        };
        match said {
            Some(at) if at > lease.expires_at.plus(self.margin + Duration::from_secs(1)) => {
                Err(too_long(at.since(now).as_secs(), self.seconds(lease, now)))
            }
            said => Ok(said),
        }
    }

    /// A token that fetches the secret once, in place of the secret.
    pub(super) async fn wrap(
        &self,
        credential: &Credential,
        ttl: Ttl,
        now: Timestamp,
    ) -> Result<Credential, ProviderError> {
        let plain: BTreeMap<&str, &str> = match credential {
            Credential::Fields(fields) => fields
                .iter()
                .map(|(name, secret)| (name.as_str(), secret.expose()))
                .collect(),
            Credential::Bearer(token) => BTreeMap::from([("token", token.expose())]),
            _ => BTreeMap::new(),
        };
        let data =
            serde_json::to_vec(&plain).map_err(|_| ProviderError::Refused("it cannot be wrapped".into()))?;
        let life = Some(format!("{}s", ttl.as_secs()));
        let answer = self
            .session
            .send_wrapped(&self.minting, &Wrap { data }, life)
            .await;
        let answer = answer.map_err(|fault| {
            fault.into_error(
                "wrapping the secret",
                "let Dayfly's policy update sys/wrapping/wrap",
            )
        })?;
        let wrapped = answer.wrap_info.ok_or_else(|| {
            ProviderError::Unavailable("wrapping the secret: the answer holds no token".into())
        })?;
        let until = now.plus(Duration::from_secs(wrapped.ttl));
        let mut fields = BTreeMap::from([
            ("wrapping_token".to_owned(), wrapped.token),
            ("unwrap_before".to_owned(), Secret::new(until.to_string())),
            ("address".to_owned(), Secret::new(self.address.as_str())),
        ]);
        if let Some(namespace) = &self.namespace {
            fields.insert("namespace".into(), Secret::new(namespace.as_str()));
        }
        Ok(Credential::Fields(fields))
    }
}

fn too_long(got: u64, asked: u64) -> ProviderError {
    ProviderError::Refused(format!(
        "the secret would live {got} s where {asked} s are permitted: lower the TTLs of its role, or ask for `{{ttl}}` in `body`"
    ))
}

/// The fields that are handed out.
fn fields(recipe: &Recipe, data: Map<String, Value>) -> Result<BTreeMap<String, Secret>, ProviderError> {
    let refused = |reason: String| ProviderError::Refused(reason);
    let mut data = Value::Object(data);
    let chosen = match &recipe.select {
        None => data,
        Some(pointer) => data
            .pointer_mut(pointer)
            .map(Value::take)
            .ok_or_else(|| refused(format!("`select`: the answer has nothing at `{pointer}`")))?,
    };
    let Value::Object(mut chosen) = chosen else {
        return Err(refused("`select`: what stands there has no fields".into()));
    };
    if !recipe.fields.is_empty() {
        if let Some(field) = recipe.fields.iter().find(|field| !chosen.contains_key(*field)) {
            return Err(refused(format!("`fields`: the answer has no `{field}`")));
        }
        chosen.retain(|name, _| recipe.fields.contains(name));
    }
    if chosen.is_empty() || chosen.len() > MOST_FIELDS {
        return Err(refused(format!(
            "the secret has {} fields; 1 to {MOST_FIELDS} can be handed out",
            chosen.len()
        )));
    }
    let named = chosen.into_iter().filter_map(|(name, value)| {
        let text = match value {
            Value::Null => return None,
            Value::String(text) => text,
            other => other.to_string(),
        };
        Some((name, Secret::new(text)))
    });
    Ok(named.collect())
}

fn instant(value: Option<&Value>) -> Option<Timestamp> {
    match value? {
        Value::Number(seconds) => seconds.as_u64().map(Timestamp::from_secs),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}
