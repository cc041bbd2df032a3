//! Providers and signing keys from their configuration.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::config::Config;
use crate::config::providers::ProviderKind;
use crate::entropy::{Entropy, OsEntropy};
use crate::keys::KeyError;
use crate::keys::key_ring::{KeyRing, Rotation};
use crate::model::time::Timestamp;
use crate::provider::guard::{Guard, Limits};
use crate::provider::jwt::JwtProvider;
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
    let rotation = Rotation {
        algorithm: config.tokens.algorithm,
        period: config.tokens.rotate_every,
        overlap: config.tokens.max_ttl.as_duration() + SKEW,
    };
    KeyRing::open(&config.tokens.keys, rotation, entropy, now)
}

/// Every configured provider, each behind a guard of its own.
pub fn build(config: &Config, ambient: &Ambient) -> Result<Providers, ProviderError> {
    let built = config.providers.iter().map(|provider| {
        let adapter: Arc<dyn Provider> = match &provider.kind {
            ProviderKind::Jwt => Arc::new(JwtProvider::new(
                &config.server.public_url,
                Arc::clone(&ambient.keys),
                config.tokens.max_ttl,
            )?),
        };
        let guarded: Arc<dyn Provider> =
            Arc::new(Guard::new(provider.name.clone(), adapter, Limits::default()));
        Ok((provider.name.clone(), guarded))
    });
    Ok(Providers::new(built.collect::<Result<Vec<_>, ProviderError>>()?))
}
