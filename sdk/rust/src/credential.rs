//! A credential: what it is for, how long it lives, and its secret parts.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Deserialize;

use crate::access::Access;
use crate::api::segment;
use crate::error::Error;
use crate::secret::Secret;
use crate::wire::{Fields, Issued};

/// A credential for one access. It is in memory and nowhere else; a clone is the same one.
///
/// What it shows of itself has no secret in it.
#[derive(Clone)]
pub struct Credential(Arc<Parts>);

struct Parts {
    access: Access,
    lease_id: String,
    material: Arc<Material>,
    expires_at: SystemTime,
    granted: Duration,
    bounded_by: String,
    revocation: String,
    decision: String,
    origins: Vec<String>,
}

/// The secret parts, as they come.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Material {
    BearerToken { token: Secret },
    AwsSession(AwsSession),
    DatabaseLogin(DatabaseLogin),
    Fields { fields: Fields },
}

/// What kind of credential it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Kind {
    /// A token for the header `Authorization: Bearer`.
    BearerToken,
    /// A session of AWS.
    AwsSession,
    /// A login of a database.
    DatabaseLogin,
    /// Whatever the provider's system gives, by name.
    Fields,
}

/// A session of AWS STS.
#[derive(Clone, Debug, Deserialize)]
#[non_exhaustive]
pub struct AwsSession {
    /// `AWS_ACCESS_KEY_ID`.
    pub access_key_id: Secret,
    /// `AWS_SECRET_ACCESS_KEY`.
    pub secret_access_key: Secret,
    /// `AWS_SESSION_TOKEN`.
    pub session_token: Secret,
    /// `AWS_REGION`, where the tool says one.
    pub region: Option<String>,
}

/// A login of a database.
#[derive(Clone, Debug, Deserialize)]
#[non_exhaustive]
pub struct DatabaseLogin {
    /// The server's name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The database on it.
    pub database: String,
    /// The login's name.
    pub username: String,
    /// Its password.
    pub password: Secret,
}

impl DatabaseLogin {
    /// `postgresql://username:password@host:port/database`, as drivers take it.
    pub fn dsn(&self) -> Secret {
        let host = match self.host.contains(':') {
            true => format!("[{}]", self.host),
            false => self.host.clone(),
        };
        Secret::from(format!(
            "postgresql://{}:{}@{host}:{}/{}",
            segment(&self.username),
            segment(self.password.reveal()),
            self.port,
            segment(&self.database)
        ))
    }
}

impl Kind {
    /// As the broker says it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BearerToken => "bearer_token",
            Self::AwsSession => "aws_session",
            Self::DatabaseLogin => "database_login",
            Self::Fields => "fields",
        }
    }
}

impl Credential {
    /// What was issued. A renewal may leave the secret parts out: those of `before` live on then.
    pub(crate) fn issued(access: &Access, issued: Issued, before: Option<&Self>) -> Result<Self, Error> {
        let material = match (issued.credential, before) {
            (Some(material), _) => Arc::new(material),
            (None, Some(before)) => before.0.material.clone(),
            (None, None) => return Err(Error::invalid("the broker's answer has no credential")),
        };
        Ok(Self(Arc::new(Parts {
            access: access.clone(),
            lease_id: issued.lease.id,
            material,
            expires_at: issued.expires_at,
            granted: Duration::from_secs(issued.granted),
            bounded_by: issued.bounded_by,
            revocation: issued.revocation,
            decision: issued.decision,
            origins: issued.origins,
        })))
    }

    /// Whether both are one issue or renewal.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Its lease: the name of this credential in the broker's records.
    pub fn lease_id(&self) -> &str {
        &self.0.lease_id
    }

    /// What it permits.
    pub fn access(&self) -> &Access {
        &self.0.access
    }

    /// The tool that it is for.
    pub fn tool(&self) -> &str {
        self.0.access.tool()
    }

    /// The actions that it permits.
    pub fn actions(&self) -> impl Iterator<Item = &str> {
        self.0.access.actions()
    }

    /// The resources that it permits them on; none means the tool as a whole.
    pub fn resources(&self) -> impl Iterator<Item = &str> {
        self.0.access.resources()
    }

    /// When it ends by itself, by the broker's clock.
    pub fn expires_at(&self) -> SystemTime {
        self.0.expires_at
    }

    /// The life that was granted, counted from when it was issued or renewed; whole seconds.
    pub fn granted(&self) -> Duration {
        self.0.granted
    }

    /// What made its life no longer: `requested`, `default`, `policy`, `agent`, `tool`, `provider`, `task` or
    /// `attestation`.
    pub fn bounded_by(&self) -> &str {
        &self.0.bounded_by
    }

    /// How it can end before its expiry: `immediate`, `deny_listed`, `at_expiry` or `never`.
    pub fn revocation(&self) -> &str {
        &self.0.revocation
    }

    /// The record of why it exists.
    pub fn decision(&self) -> &str {
        &self.0.decision
    }

    /// The origins that it may be sent to, such as `https://crm.example.org`, as far as the broker says.
    pub fn origins(&self) -> &[String] {
        &self.0.origins
    }

    /// What kind it is, and so which of the methods below answers.
    pub fn kind(&self) -> Kind {
        match &*self.0.material {
            Material::BearerToken { .. } => Kind::BearerToken,
            Material::AwsSession(_) => Kind::AwsSession,
            Material::DatabaseLogin(_) => Kind::DatabaseLogin,
            Material::Fields { .. } => Kind::Fields,
        }
    }

    fn wrong(&self, wanted: Kind) -> Error {
        Error::invalid(format!(
            "the credential for `{}` is a `{}`, not a `{}`",
            self.tool(),
            self.kind().as_str(),
            wanted.as_str()
        ))
    }

    /// The token of a [`Kind::BearerToken`]; [`Error::InvalidRequest`] for another kind.
    pub fn token(&self) -> Result<&Secret, Error> {
        match &*self.0.material {
            Material::BearerToken { token } => Ok(token),
            _ => Err(self.wrong(Kind::BearerToken)),
        }
    }

    /// The session of a [`Kind::AwsSession`]; [`Error::InvalidRequest`] for another kind.
    pub fn aws_session(&self) -> Result<&AwsSession, Error> {
        match &*self.0.material {
            Material::AwsSession(session) => Ok(session),
            _ => Err(self.wrong(Kind::AwsSession)),
        }
    }

    /// The login of a [`Kind::DatabaseLogin`]; [`Error::InvalidRequest`] for another kind.
    pub fn database_login(&self) -> Result<&DatabaseLogin, Error> {
        match &*self.0.material {
            Material::DatabaseLogin(login) => Ok(login),
            _ => Err(self.wrong(Kind::DatabaseLogin)),
        }
    }

    /// The URL of a [`Kind::DatabaseLogin`]; [`Error::InvalidRequest`] for another kind.
    pub fn dsn(&self) -> Result<Secret, Error> {
        Ok(self.database_login()?.dsn())
    }

    /// The values of a [`Kind::Fields`]; [`Error::InvalidRequest`] for another kind.
    pub fn fields(&self) -> Result<&BTreeMap<String, Secret>, Error> {
        match &*self.0.material {
            Material::Fields { fields } => Ok(fields),
            _ => Err(self.wrong(Kind::Fields)),
        }
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("lease_id", &self.0.lease_id)
            .field("access", &self.0.access.to_string())
            .field("kind", &self.kind())
            .field("expires_at", &self.0.expires_at)
            .field("bounded_by", &self.0.bounded_by)
            .field("secret", &"<redacted>")
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn issued(credential: Value) -> Issued {
        serde_json::from_value(json!({
            "lease": {"id": "lse_1", "state": "active"}, "credential": credential, "requested": 300, "granted": 120,
            "bounded_by": "policy", "revocation": "deny_listed", "expires_at": "2026-11-22T08:10:29.000Z",
            "decision": "dec_1", "origins": ["https://crm.example.org"],
        }))
        .unwrap()
    }

    fn credential(material: Value) -> Credential {
        Credential::issued(&"crm:read".parse().unwrap(), issued(material), None).unwrap()
    }

    #[test]
    fn each_kind_gives_its_own_parts_and_says_what_it_is_not() {
        let token = credential(json!({"type": "bearer_token", "token": "hunter2"}));
        assert_eq!(token.token().unwrap().reveal(), "hunter2");
        assert_eq!(token.granted(), Duration::from_secs(120));
        let error = token.dsn().unwrap_err();
        assert!(
            error
                .detail()
                .contains("is a `bearer_token`, not a `database_login`"),
            "{error}"
        );

        let login = credential(json!({
            "type": "database_login", "host": "db", "port": 5432, "database": "orders", "username": "dayfly_01",
            "password": "hunter2/@",
        }));
        let dsn = login.dsn().unwrap();
        assert_eq!(
            dsn.reveal(),
            "postgresql://dayfly_01:hunter2%2F%40@db:5432/orders"
        );

        let session = credential(json!({
            "type": "aws_session", "access_key_id": "hunter2", "secret_access_key": "hunter2",
            "session_token": "hunter2", "region": null,
        }));
        assert_eq!(session.aws_session().unwrap().region, None);
        let fields = credential(json!({"type": "fields", "fields": {"api_key": "hunter2"}}));
        assert_eq!(fields.fields().unwrap()["api_key"].reveal(), "hunter2");

        for shown in [&token, &login, &session, &fields] {
            let parts = format!("{:?} {:?}", shown.aws_session(), shown.database_login());
            let shown = format!("{shown:?} {shown:#?} {parts}");
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }

    #[test]
    fn a_renewal_without_secret_parts_keeps_those_of_before() {
        let before = credential(json!({"type": "fields", "fields": {"api_key": "k"}}));
        let mut renewed = issued(Value::Null);
        renewed.granted = 240;
        let renewed = Credential::issued(before.access(), renewed, Some(&before)).unwrap();
        assert_eq!(renewed.fields().unwrap()["api_key"].reveal(), "k");
        assert_eq!(renewed.granted(), Duration::from_secs(240));
        assert!(!renewed.is(&before));
        assert!(Credential::issued(before.access(), issued(Value::Null), None).is_err());
    }
}
