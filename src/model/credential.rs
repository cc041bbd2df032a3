//! What the workload receives, once. Never stored.

use std::collections::BTreeMap;

use super::secret::Secret;

/// A credential for one tool. Its secrets do not print.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// A token for the `Authorization: Bearer` header (RFC 6750).
    Bearer(Secret),
    /// A session of AWS STS, for the SDKs' usual three settings.
    AwsSession {
        /// Names the key; no secret.
        access_key_id: String,
        /// Signs requests.
        secret_access_key: Secret,
        /// Goes with each request.
        session_token: Secret,
        /// Where to use it, if the tool says so.
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
        /// The login's name; no secret.
        username: String,
        /// Its password.
        password: Secret,
    },
    /// Whatever the provider's system gives, by name. What is no text there is JSON here.
    Fields(BTreeMap<String, Secret>),
}

impl Credential {
    /// The word that the API uses for this kind.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Bearer(_) => "bearer_token",
            Self::AwsSession { .. } => "aws_session",
            Self::DatabaseLogin { .. } => "database_login",
            Self::Fields(_) => "fields",
        }
    }
}
