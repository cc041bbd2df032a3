//! Dayfly's own way into AWS.
//!
//! The best of the three holds no AWS key at all: Dayfly signs a token of its own, which the account
//! trusts because Dayfly's address is one of its identity providers.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::provider_config::ProviderConfig;
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, future};
use serde::Serialize;
use tokio::io::AsyncReadExt as _;
use tokio::sync::OnceCell;

use super::super::ProviderError;
use super::faults::{Call, WayInFault};
use crate::clock::Clock;
use crate::keys::jose;
use crate::keys::key_ring::KeyRing;
use crate::model::aws::RoleArn;

/// The audience that AWS knows itself by.
const AUDIENCE: &str = "sts.amazonaws.com";
/// How long a token of our own lives; it is used at once.
const TOKEN_LIFE: Duration = Duration::from_secs(300);
/// No access key has more bytes, nor a file with one.
const LARGEST: u64 = 4096;

/// Where Dayfly's own credentials come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WayIn {
    /// The SDK's chain: environment, profile, container, instance.
    Chain,
    /// Files with an access key, read anew whenever credentials are loaded.
    Static {
        /// The file with its id.
        access_key_id: PathBuf,
        /// The file with its secret.
        secret_access_key: PathBuf,
    },
    /// A token of Dayfly's own for `AssumeRoleWithWebIdentity`.
    WebIdentity {
        /// The role to come in as.
        role: RoleArn,
        /// The `iss`: where AWS finds our keys.
        issuer: String,
        /// The `sub`.
        subject: String,
    },
}

/// Loads them. The SDK keeps what is loaded until shortly before it expires.
pub(super) struct Loader {
    source: Source,
}

enum Source {
    Chain {
        config: Box<ProviderConfig>,
        chain: Box<OnceCell<DefaultCredentialsChain>>,
    },
    Static {
        access_key_id: PathBuf,
        secret_access_key: PathBuf,
    },
    WebIdentity(Box<WebIdentity>),
}

struct WebIdentity {
    role: RoleArn,
    issuer: String,
    subject: String,
    keys: Arc<KeyRing>,
    clock: Arc<dyn Clock>,
    sts: aws_sdk_sts::Client,
}

/// OpenID Connect Core §2.
#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'static str,
    iat: u64,
    exp: u64,
}

impl Loader {
    /// `anonymous` needs no credentials for what it is used for.
    pub(super) fn new(
        way_in: WayIn,
        config: ProviderConfig,
        anonymous: aws_sdk_sts::Client,
        keys: Arc<KeyRing>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let source = match way_in {
            WayIn::Chain => Source::Chain {
                config: Box::new(config),
                chain: Box::default(),
            },
            WayIn::Static {
                access_key_id,
                secret_access_key,
            } => Source::Static {
                access_key_id,
                secret_access_key,
            },
            WayIn::WebIdentity {
                role,
                issuer,
                subject,
            } => Source::WebIdentity(Box::new(WebIdentity {
                role,
                issuer,
                subject,
                keys,
                clock,
                sts: anonymous,
            })),
        };
        Self { source }
    }

    async fn load(&self) -> Result<Credentials, CredentialsError> {
        let fault = |error| CredentialsError::provider_error(WayInFault(error));
        match &self.source {
            Source::Chain { config, chain } => {
                let build = || {
                    DefaultCredentialsChain::builder()
                        .configure(ProviderConfig::clone(config))
                        .build()
                };
                chain.get_or_init(build).await.provide_credentials().await
            }
            Source::Static {
                access_key_id,
                secret_access_key,
            } => {
                let (id, secret) = tokio::join!(read(access_key_id), read(secret_access_key));
                let (id, secret) = (id.map_err(fault)?, secret.map_err(fault)?);
                Ok(Credentials::new(id, secret, None, None, "dayfly"))
            }
            Source::WebIdentity(identity) => identity.load().await.map_err(fault),
        }
    }
}

impl WebIdentity {
    async fn load(&self) -> Result<Credentials, ProviderError> {
        let now = self.clock.now();
        let claims = Claims {
            iss: &self.issuer,
            sub: &self.subject,
            aud: AUDIENCE,
            iat: now.as_secs(),
            exp: now.plus(TOKEN_LIFE).as_secs(),
        };
        let token = jose::sign(&*self.keys.current(), "JWT", &claims)
            .await
            .map_err(|error| ProviderError::Unavailable(error.to_string()))?;
        let call = Call {
            action: "sts:AssumeRoleWithWebIdentity",
            on: self.role.as_str(),
            grant: "let its trust policy allow Dayfly's identity provider, with this `aud` and `sub`",
        };
        let answer = self
            .sts
            .assume_role_with_web_identity()
            .role_arn(self.role.as_str())
            .role_session_name("dayfly")
            .web_identity_token(token)
            .send()
            .await
            .map_err(|error| call.failed(&error))?;
        let credentials = answer.credentials.ok_or_else(|| {
            ProviderError::Unavailable(format!("{}: AWS answered without credentials", call.action))
        })?;
        let expiry = SystemTime::try_from(credentials.expiration).ok();
        Ok(Credentials::new(
            credentials.access_key_id,
            credentials.secret_access_key,
            Some(credentials.session_token),
            expiry,
            "dayfly",
        ))
    }
}

/// The one word in a file.
async fn read(path: &Path) -> Result<String, ProviderError> {
    let wrong = |reason: &str| {
        let path = path.display();
        ProviderError::Refused(format!("the file {path} with Dayfly's AWS key {reason}"))
    };
    let file = tokio::fs::File::open(path).await;
    let file = file.map_err(|error| wrong(&format!("cannot be read: {}", error.kind())))?;
    let mut text = String::new();
    let read = file.take(LARGEST).read_to_string(&mut text).await;
    read.map_err(|error| wrong(&format!("cannot be read: {}", error.kind())))?;
    let word = text.trim();
    if word.is_empty() || word.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(wrong("has to hold the key and nothing else"));
    }
    Ok(word.to_owned())
}

impl ProvideCredentials for Loader {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.load())
    }
}

impl fmt::Debug for Loader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.source {
            Source::Chain { .. } => "Chain",
            Source::Static { .. } => "Static",
            Source::WebIdentity(_) => "WebIdentity",
        })
    }
}
