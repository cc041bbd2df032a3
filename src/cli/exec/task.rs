//! The task that a program runs for, and its credentials, as the broker's API has them. The only file of
//! `exec` and of the helpers that knows the API.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::cli::answer::{field, list, without_nulls};
use crate::cli::client::{CallError, Client};
use crate::http::wire::credentials::CredentialAnswer;
use crate::model::access::{Access, Scope};
use crate::model::credential::Credential;
use crate::model::name::{Purpose, UserId};
use crate::model::origin::Origin;
use crate::model::secret::Secret;
use crate::model::time::Timestamp;
use crate::model::ttl::Ttl;

/// How long the end of a task waits for the proofs.
const PROOFS: Duration = Duration::from_secs(5);

/// How many live leases are looked at: more than one program has.
const MOST_LIVE: &str = "500";

/// What a task is opened with.
#[derive(Debug)]
pub(in crate::cli) struct Order {
    /// Why.
    pub(in crate::cli) purpose: Purpose,
    /// What it may ask for.
    pub(in crate::cli) scope: Scope,
    /// On whose behalf.
    pub(in crate::cli) on_behalf_of: Option<UserId>,
    /// How long, at most.
    pub(in crate::cli) ttl: Option<Ttl>,
    /// How long it may be silent.
    pub(in crate::cli) heartbeat: Option<Ttl>,
}

/// An open task.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Task {
    client: Client,
    id: Arc<str>,
    deadline: Timestamp,
}

/// What a sign of life was answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sign {
    /// It goes on.
    Open,
    /// Nothing is issued until somebody resumes it.
    Suspended,
    /// It is over, for this reason.
    Ended(String),
}

/// How a task ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// How many leases it had.
    pub(super) leases: usize,
    /// How many of them have not ended yet.
    pub(super) pending: usize,
    /// Each kind of proof, with how many leases it ended.
    pub(super) proofs: BTreeMap<String, usize>,
}

/// A credential and what is to be known about it. Its secrets do not print.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Issued {
    /// Its lease.
    pub(in crate::cli) lease: String,
    /// When it ends by itself.
    pub(in crate::cli) expires_at: Timestamp,
    /// Where it may be sent.
    pub(in crate::cli) origins: Vec<Origin>,
    /// The credential.
    pub(in crate::cli) credential: Credential,
}

impl Task {
    /// Opens a task.
    pub(in crate::cli) async fn open(client: Client, order: &Order) -> anyhow::Result<Self> {
        let body = without_nulls(json!({
            "purpose": order.purpose,
            "scope": order.scope,
            "on_behalf_of": order.on_behalf_of,
            "ttl": order.ttl,
            "heartbeat": order.heartbeat,
        }));
        let task = client.post("/v1/tasks", body).await?;
        Self::read(client, &task)
    }

    /// A task that somebody opened.
    pub(in crate::cli) async fn find(client: Client, id: &str) -> anyhow::Result<Self> {
        let task = client.get(&format!("/v1/tasks/{id}")).await?;
        Self::read(client, &task)
    }

    fn read(client: Client, task: &Value) -> anyhow::Result<Self> {
        let deadline = field(task, "deadline").parse();
        Ok(Self {
            client,
            id: field(task, "id").into(),
            deadline: deadline.context("the broker's answer names no deadline of the task")?,
        })
    }

    /// A task of the broker at this address.
    #[cfg(test)]
    pub(super) fn at(broker: &str) -> Self {
        // The first one counts, and all are the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self {
            client: Client::new(broker, None).unwrap(),
            id: "tsk_1".into(),
            deadline: Timestamp::MAX,
        }
    }

    /// Its id.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// When it ends at the latest, and everything of it.
    pub(super) fn deadline(&self) -> Timestamp {
        self.deadline
    }

    /// A new credential.
    pub(in crate::cli) async fn issue(&self, access: &Access) -> anyhow::Result<Issued> {
        let path = format!("/v1/tasks/{}/credentials", self.id);
        let issued = self.client.post(&path, json!(access)).await?;
        Issued::read(&issued, None)
    }

    /// The same lease with a later expiry; `None` where its provider has no such thing.
    pub(super) async fn renew(&self, before: &Issued) -> anyhow::Result<Option<Issued>> {
        let path = format!("/v1/leases/{}/renew", before.lease);
        match self.client.post(&path, json!({})).await {
            Ok(issued) => Ok(Some(Issued::read(&issued, Some(before))?)),
            Err(error) if error.slug() == "not-renewable" => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Gives a lease back.
    pub(in crate::cli) async fn give_back(&self, lease: &str, why: &str) -> anyhow::Result<()> {
        let path = format!("/v1/leases/{lease}/revoke");
        self.client.post(&path, json!({ "reason": why })).await?;
        Ok(())
    }

    /// Sends a sign of life.
    pub(super) async fn beat(&self) -> Result<Sign, CallError> {
        let path = format!("/v1/tasks/{}", self.id);
        let beat = self.client.post(&format!("{path}/heartbeat"), json!({})).await;
        match beat {
            Ok(_) => return Ok(Sign::Open),
            Err(error) if error.slug() == "not-found" => {
                return Ok(Sign::Ended("it is not there any more".to_owned()));
            }
            Err(error) if error.slug() != "task-not-open" => return Err(error),
            Err(_) => {}
        }
        let task = self.client.get(&path).await?;
        Ok(match field(&task, "state").as_str() {
            "open" => Sign::Open,
            "suspended" => Sign::Suspended,
            _ => Sign::Ended(field(&task, "outcome").replace('_', " ")),
        })
    }

    /// Its leases that can be used; `None` where there are too many to tell.
    pub(super) async fn live(&self) -> Result<Option<BTreeSet<String>>, CallError> {
        let query = [
            ("task", self.id.to_string()),
            ("state", "active".to_owned()),
            ("limit", MOST_LIVE.to_owned()),
        ];
        let answer = self.client.list("/v1/leases", &query).await?;
        let live = || {
            list(&answer, "leases")
                .iter()
                .map(|lease| field(lease, "id"))
                .collect()
        };
        Ok(answer.get("next").is_none_or(Value::is_null).then(live))
    }

    /// Ends it: `completed`, `failed` or `cancelled`.
    pub(super) async fn complete(&self, outcome: &str) -> Result<Ended, CallError> {
        let wait = PROOFS.as_secs();
        let path = format!("/v1/tasks/{}/complete?wait={wait}s", self.id);
        let answer = self.client.post(&path, json!({ "outcome": outcome })).await?;
        let leases = list(&answer, "leases");
        let mut proofs = BTreeMap::new();
        for lease in leases.iter().filter(|lease| field(lease, "state") == "ended") {
            *proofs.entry(field(lease, "proof")).or_default() += 1;
        }
        let ended: usize = proofs.values().sum();
        Ok(Ended {
            leases: leases.len(),
            pending: leases.len().saturating_sub(ended),
            proofs,
        })
    }
}

impl Issued {
    /// Reads an answer of the broker, or of [`Self::write`]. A renewal may leave out the credential: then the one
    /// of before lives on.
    pub(in crate::cli) fn read(answer: &Value, before: Option<&Self>) -> anyhow::Result<Self> {
        let credential = match answer.get("credential").filter(|given| !given.is_null()) {
            Some(given) => credential(given)?,
            None => before
                .context("the broker's answer holds no credential")?
                .credential
                .clone(),
        };
        let expires_at = field(answer, "expires_at").parse();
        let origins = list(answer, "origins").iter().filter_map(Value::as_str);
        Ok(Self {
            lease: answer
                .pointer("/lease/id")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned(),
            expires_at: expires_at.context("the broker's answer names no expiry of the credential")?,
            origins: origins.filter_map(|origin| origin.parse().ok()).collect(),
            credential,
        })
    }

    /// The same as JSON, with the secrets in it: for the socket of `exec` alone.
    pub(super) fn write(&self) -> Value {
        json!({
            "credential": CredentialAnswer::from(self.credential.clone()),
            "lease": { "id": self.lease },
            "expires_at": self.expires_at,
            "origins": self.origins,
        })
    }

    /// Whether it may be sent to one of these.
    pub(in crate::cli) fn belongs_at(&self, origins: &[Origin]) -> bool {
        origins.iter().any(|origin| self.origins.contains(origin))
    }

    /// One part of the credential by its name in the API; without a name the token of a token.
    pub(super) fn part(&self, name: Option<&str>) -> Option<String> {
        let parts = json!(CredentialAnswer::from(self.credential.clone()));
        let found = match (name, parts.get("fields")) {
            (Some("type"), _) => None,
            (Some(name), Some(fields)) => fields.get(name),
            (Some(name), None) => parts.get(name),
            (None, _) => parts.get("token"),
        };
        found.map(crate::cli::answer::text)
    }
}

fn credential(given: &Value) -> anyhow::Result<Credential> {
    let text = |name: &str| {
        let found = given.get(name).and_then(Value::as_str);
        found
            .map(str::to_owned)
            .with_context(|| format!("the credential has no `{name}`"))
    };
    let secret = |name: &str| text(name).map(Secret::new);
    Ok(match field(given, "type").as_str() {
        "bearer_token" => Credential::Bearer(secret("token")?),
        "aws_session" => Credential::AwsSession {
            access_key_id: text("access_key_id")?,
            secret_access_key: secret("secret_access_key")?,
            session_token: secret("session_token")?,
            region: text("region").ok(),
        },
        "database_login" => Credential::DatabaseLogin {
            host: text("host")?,
            port: given
                .get("port")
                .and_then(Value::as_u64)
                .and_then(|port| u16::try_from(port).ok())
                .context("the credential has no `port`")?,
            database: text("database")?,
            username: text("username")?,
            password: secret("password")?,
        },
        "fields" => {
            let fields = given.get("fields").and_then(Value::as_object);
            let fields = fields.context("the credential has no `fields`")?;
            let value = |value: &Value| Secret::new(crate::cli::answer::text(value));
            Credential::Fields(
                fields
                    .iter()
                    .map(|(name, it)| (name.clone(), value(it)))
                    .collect(),
            )
        }
        kind => anyhow::bail!("a credential of the kind `{kind}` is not known here: use a newer `dayfly`"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(credential: Value) -> Value {
        json!({
            "credential": credential, "lease": {"id": "lse_1"}, "expires_at": "2026-11-22T10:00:00.000Z",
            "origins": ["https://crm.example.org"],
        })
    }

    #[test]
    fn every_kind_of_credential_is_read_as_it_was_written_and_prints_nothing() {
        for (credential, secret) in [
            (json!({"type": "bearer_token", "token": "hunter2"}), None),
            (
                json!({"type": "aws_session", "access_key_id": "AKIA", "secret_access_key": "hunter2",
                    "session_token": "t", "region": "eu-central-1"}),
                Some("secret_access_key"),
            ),
            (
                json!({"type": "database_login", "host": "db", "port": 5432, "database": "orders",
                    "username": "dayfly_1", "password": "hunter2"}),
                Some("password"),
            ),
            (
                json!({"type": "fields", "fields": {"key": "hunter2"}}),
                Some("key"),
            ),
        ] {
            let read = Issued::read(&answer(credential.clone()), None).unwrap();
            assert_eq!(read.write(), answer(credential));
            assert_eq!(read.part(secret).as_deref(), Some("hunter2"));
            assert_eq!(read.part(Some("nothing")), None);
            assert!(!format!("{read:?}").contains("hunter2"));
        }
    }

    #[test]
    fn a_renewal_without_a_credential_lets_the_one_of_before_live_on() {
        let first = Issued::read(&answer(json!({"type": "bearer_token", "token": "t"})), None).unwrap();
        let later =
            json!({"lease": {"id": "lse_1"}, "expires_at": "2026-11-22T11:00:00.000Z", "origins": []});
        let renewed = Issued::read(&later, Some(&first)).unwrap();
        assert_eq!(renewed.part(None).as_deref(), Some("t"));
        assert!(renewed.expires_at > first.expires_at);
        assert!(Issued::read(&later, None).is_err());
    }

    #[test]
    fn what_is_no_credential_is_refused_by_name() {
        let unknown = Issued::read(&answer(json!({"type": "certificate"})), None).unwrap_err();
        assert!(unknown.to_string().contains("`certificate`"), "{unknown}");
        let partial = Issued::read(&answer(json!({"type": "bearer_token"})), None).unwrap_err();
        assert!(partial.to_string().contains("no `token`"), "{partial}");
    }
}
