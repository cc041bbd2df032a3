//! Providers and signing keys from their configuration.

#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "vault")]
mod vault;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;

use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::config::providers::ProviderKind;
use crate::config::providers::aws_sts::AwsStsConfig;
use crate::config::providers::webhook::WebhookConfig;
use crate::entropy::{Entropy, OsEntropy};
use crate::identity::fetch::Roots;
use crate::keys::key_ring::{KeyRing, Rotation};
use crate::keys::ring_keys::RingSigner;
use crate::keys::{Algorithm, KeyError};
use crate::model::name::{InvalidName, ProviderName};
use crate::model::time::Timestamp;
use crate::provider::guard::{Guard, Limits};
use crate::provider::jwt::JwtProvider;
use crate::provider::webhook::{self, Webhook};
use crate::provider::{Provider, ProviderError, Providers};

/// How far the clock of whoever verifies may be behind ours.
const SKEW: Duration = Duration::from_secs(60);

/// What providers are given besides their configuration.
pub struct Ambient {
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Randomness for what they make.
    pub entropy: Arc<dyn Entropy>,
    /// The keys that sign tokens, and Dayfly's own way in where others trust them.
    pub keys: Arc<KeyRing>,
}

/// The keys that sign tokens. Begins a ring where there is none.
pub fn open_keys(config: &Config, entropy: &OsEntropy, now: Timestamp) -> Result<KeyRing, KeyError> {
    KeyRing::open(&config.tokens.keys, rotation(config), entropy, now)
}

/// The same as they stand, for who changes nothing. `None` where there are none.
pub fn look_at_keys(config: &Config, entropy: &OsEntropy) -> Result<Option<KeyRing>, KeyError> {
    KeyRing::look(&config.tokens.keys, rotation(config), entropy)
}

fn rotation(config: &Config) -> Rotation {
    Rotation {
        algorithm: config.tokens.algorithm,
        period: config.tokens.rotate_every,
        overlap: config.tokens.max_ttl.as_duration() + SKEW,
    }
}

/// Every configured provider, each behind a guard of its own.
pub fn build(config: &Config, ambient: &Ambient) -> Result<Providers, ProviderError> {
    let built = config.providers.iter().map(|provider| {
        let adapter = one(config, &provider.kind, ambient)?;
        let guarded: Arc<dyn Provider> =
            Arc::new(Guard::new(provider.name.clone(), adapter, Limits::default()));
        Ok((provider.name.clone(), guarded))
    });
    Ok(Providers::new(built.collect::<Result<Vec<_>, ProviderError>>()?))
}

/// The provider of that name alone, with a signing key that nobody knows: it can explain, and nothing
/// outside would take what it makes.
pub fn build_offline(
    config: &Config,
    name: &ProviderName,
    entropy: &OsEntropy,
) -> anyhow::Result<Arc<dyn Provider>> {
    let provider = config.providers.iter().find(|provider| provider.name == *name);
    let provider = provider.with_context(|| format!("no provider `{name}` is configured"))?;
    let key = RingSigner::generate(Algorithm::Es256, entropy)?;
    let ambient = Ambient {
        clock: Arc::new(SystemClock::new()),
        entropy: Arc::new(entropy.clone()),
        keys: Arc::new(KeyRing::of(Arc::new(key))),
    };
    Ok(one(config, &provider.kind, &ambient)?)
}

fn one(config: &Config, kind: &ProviderKind, ambient: &Ambient) -> Result<Arc<dyn Provider>, ProviderError> {
    Ok(match kind {
        ProviderKind::Jwt => {
            let (issuer, keys) = (&config.server.public_url, Arc::clone(&ambient.keys));
            let jwt = JwtProvider::new(issuer, keys, config.tokens.max_ttl)?;
            match config.status_lists.ttl {
                Some(_) => Arc::new(jwt),
                None => Arc::new(jwt.without_status_lists()),
            }
        }
        ProviderKind::AwsSts(settings) => aws_sts(config, settings, ambient)?,
        #[cfg(feature = "postgres")]
        ProviderKind::Postgres(settings) => Arc::new(postgres::build(settings, ambient)?),
        #[cfg(not(feature = "postgres"))]
        ProviderKind::Postgres(_) => return Err(left_out("postgres")),
        #[cfg(feature = "vault")]
        ProviderKind::Vault(settings) => Arc::new(vault::build(config, settings, ambient)?),
        #[cfg(not(feature = "vault"))]
        ProviderKind::Vault(_) => return Err(left_out("vault")),
        ProviderKind::Webhook(settings) => Arc::new(webhook(config, settings, ambient)?),
    })
}

#[cfg(feature = "aws")]
fn aws_sts(
    config: &Config,
    settings: &AwsStsConfig,
    ambient: &Ambient,
) -> Result<Arc<dyn Provider>, ProviderError> {
    use crate::config::providers::aws_sts::AwsCredentials;
    use crate::provider::aws_sts::{AwsSts, DenySlot, Settings, WayIn};

    let way_in = match settings.credentials.clone() {
        AwsCredentials::Default => WayIn::Chain,
        AwsCredentials::Static {
            access_key_id_file,
            secret_access_key_file,
        } => WayIn::Static {
            access_key_id: access_key_id_file,
            secret_access_key: secret_access_key_file,
        },
        AwsCredentials::WebIdentity { .. } if config.tokens.algorithm == Algorithm::EdDsa => {
            return Err(ProviderError::Refused(
                "AWS takes no tokens that are signed with EdDSA: set `algorithm` in [tokens] to ES256 or RS256, \
                 or `credentials` to another way in"
                    .into(),
            ));
        }
        AwsCredentials::WebIdentity { role, subject } => WayIn::WebIdentity {
            role,
            issuer: config.server.public_url.clone(),
            subject,
        },
    };
    let settings = Settings {
        region: settings.region.clone(),
        endpoint_url: settings.endpoint_url.clone(),
        roles: settings.roles.clone(),
        deny_slot: settings.deny_slot.then_some(DenySlot {
            role_wide_when_full: settings.deny_role_wide_when_full,
        }),
        max_session: settings.max_session,
        way_in,
    };
    let (clock, entropy) = (Arc::clone(&ambient.clock), Arc::clone(&ambient.entropy));
    Ok(Arc::new(AwsSts::new(
        settings,
        clock,
        entropy,
        Arc::clone(&ambient.keys),
    )))
}

/// The configuration refused it already.
#[cfg(not(feature = "aws"))]
fn aws_sts(_: &Config, _: &AwsStsConfig, _: &Ambient) -> Result<Arc<dyn Provider>, ProviderError> {
    Err(ProviderError::Refused(
        "this Dayfly was built without `aws_sts`".into(),
    ))
}

fn webhook(config: &Config, settings: &WebhookConfig, ambient: &Ambient) -> Result<Webhook, ProviderError> {
    let invalid = |e: InvalidName| ProviderError::Refused(e.to_string());
    let settings = webhook::Settings {
        address: settings.url.parse().map_err(invalid)?,
        roots: settings.ca_file.clone().map_or(Roots::System, Roots::File),
        issuer: config.server.public_url.clone(),
        ending: settings.ending,
        least: settings.min_ttl,
        most: settings.max_ttl.min(config.tokens.max_ttl),
        renewable: settings.renewable,
    };
    let (clock, entropy) = (Arc::clone(&ambient.clock), Arc::clone(&ambient.entropy));
    Webhook::new(&settings, Arc::clone(&ambient.keys), clock, entropy)
}

/// The configuration refused it already.
#[cfg(not(all(feature = "postgres", feature = "vault")))]
fn left_out(kind: &str) -> ProviderError {
    ProviderError::Refused(format!("this Dayfly was built without `{kind}`"))
}
