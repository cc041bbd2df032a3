//! Credentials: asked for, and shown once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::broker::issue::{IssueOrder, Issued};
use crate::ledger::IdempotencyKey;
use crate::model::access::{Access, InvalidAccess, ResourcePath};
use crate::model::credential::Credential;
use crate::model::ids::{DecisionId, TaskId};
use crate::model::lease::Ending;
use crate::model::name::{Operation, ToolName};
use crate::model::origin::Origin;
use crate::model::time::Timestamp;
use crate::model::ttl::{Bound, Ttl};

use super::leases::LeaseAnswer;

/// One access of a task, and for how long.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AskCredential {
    /// The tool.
    #[schema(value_type = String, example = "crm")]
    pub tool: ToolName,
    /// Between 1 and 16 of its actions.
    #[schema(value_type = Vec<String>, min_items = 1, max_items = 16, example = json!(["read"]))]
    pub actions: BTreeSet<Operation>,
    /// At most 16 paths; none means the tool as a whole.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    #[schema(value_type = Vec<String>, max_items = 16, required = false, example = json!(["customers/42"]))]
    pub resources: BTreeSet<ResourcePath>,
    /// For how long; the tool's default when absent. Less may be granted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = super::length, required = false)]
    pub ttl: Option<Ttl>,
}

impl AskCredential {
    /// The order, with the key that makes it repeatable.
    pub fn order(self, task: TaskId, key: Option<IdempotencyKey>) -> Result<IssueOrder, InvalidAccess> {
        Ok(IssueOrder {
            task,
            access: Access::new(self.tool, self.actions, self.resources)?,
            ttl: self.ttl,
            key,
        })
    }
}

/// For how long a credential should live on.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RenewLease {
    /// From now; the tool's default when absent. Less may be granted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = super::length, required = false)]
    pub ttl: Option<Ttl>,
}

/// A credential and what is to be known about it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = IssuedCredential)]
pub struct IssuedAnswer {
    /// The credential. It is shown once and kept nowhere. A renewal may leave it out: then the one of
    /// before lives on.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub credential: Option<CredentialAnswer>,
    /// Its lease.
    pub lease: LeaseAnswer,
    /// The life that was asked for, or the tool's default, in seconds.
    #[schema(value_type = u32)]
    pub requested: Ttl,
    /// The life that was granted, in seconds.
    #[schema(value_type = u32)]
    pub granted: Ttl,
    /// What made it no longer.
    #[schema(schema_with = super::bound)]
    pub bounded_by: Bound,
    /// How it can end before its expiry.
    #[schema(schema_with = super::ending)]
    pub revocation: Ending,
    /// When it ends by itself.
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
    /// The record of why it exists.
    #[schema(value_type = String)]
    pub decision: DecisionId,
    /// Where the credential may be sent: schemes, hosts and ports, such as `https://crm.example.org`. It is for
    /// whoever holds it to send it nowhere else.
    #[schema(value_type = Vec<String>)]
    pub origins: Arc<[Origin]>,
}

/// A credential, by kind. In clear here, on its way to the wire, so it does not print.
#[derive(Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[schema(as = Credential)]
pub enum CredentialAnswer {
    /// A token for the `Authorization: Bearer` header.
    BearerToken {
        /// The token.
        token: String,
    },
    /// A session of AWS STS.
    AwsSession {
        /// `AWS_ACCESS_KEY_ID`.
        access_key_id: String,
        /// `AWS_SECRET_ACCESS_KEY`.
        secret_access_key: String,
        /// `AWS_SESSION_TOKEN`.
        session_token: String,
        /// `AWS_REGION`, if the tool says where.
        #[serde(skip_serializing_if = "Option::is_none")]
        region: Option<String>,
    },
    /// A login of a database.
    DatabaseLogin {
        /// The server's name or address.
        host: String,
        /// Its port.
        port: u16,
        /// The database on it.
        database: String,
        /// The login's name.
        username: String,
        /// Its password.
        password: String,
    },
    /// Whatever the provider's system gives, by name.
    Fields {
        /// The values. What is no text there is JSON here.
        fields: BTreeMap<String, String>,
    },
}

impl std::fmt::Debug for CredentialAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

impl From<Credential> for CredentialAnswer {
    fn from(credential: Credential) -> Self {
        match credential {
            Credential::Bearer(secret) => Self::BearerToken {
                token: secret.expose().to_owned(),
            },
            Credential::AwsSession {
                access_key_id,
                secret_access_key,
                session_token,
                region,
            } => Self::AwsSession {
                access_key_id,
                secret_access_key: secret_access_key.expose().to_owned(),
                session_token: session_token.expose().to_owned(),
                region,
            },
            Credential::DatabaseLogin {
                host,
                port,
                database,
                username,
                password,
            } => Self::DatabaseLogin {
                host,
                port,
                database,
                username,
                password: password.expose().to_owned(),
            },
            Credential::Fields(fields) => Self::Fields {
                fields: fields
                    .into_iter()
                    .map(|(name, value)| (name, value.expose().to_owned()))
                    .collect(),
            },
        }
    }
}

impl From<Issued> for IssuedAnswer {
    fn from(issued: Issued) -> Self {
        Self {
            credential: issued.credential.map(Into::into),
            requested: issued.requested,
            granted: issued.granted.ttl,
            bounded_by: issued.granted.by,
            revocation: issued.lease.ending,
            expires_at: issued.lease.expires_at,
            decision: issued.lease.decision,
            origins: issued.origins,
            lease: issued.lease.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::secret::Secret;

    #[test]
    fn a_credential_is_written_and_never_printed() {
        let credential = Credential::Bearer(Secret::new("eyJ.x.y"));
        let kind = credential.kind();
        let answer = CredentialAnswer::from(credential);
        assert!(!format!("{answer:?}").contains("eyJ"));
        let json = serde_json::to_value(&answer).unwrap();
        assert_eq!(json, serde_json::json!({"type": kind, "token": "eyJ.x.y"}));
    }
}
