//! The ledger from its configuration.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;

use crate::config::ledger::{LedgerConfig, LedgerKind, RedisConfig, RedisMode};
use crate::ledger::Ledger;
use crate::ledger::embedded::{self, Embedded};
use crate::ledger::lineage::{Memory, Writer};
use crate::ledger::measured::Measured;
use crate::ledger::redis::survey::Survey;
use crate::ledger::redis::{self, Mode, RedisLedger};
use crate::model::secret::Secret;

/// Opens or reaches the ledger, for a writer that remembers so much of it.
pub async fn open(config: &LedgerConfig, writer: Writer, memory: Memory) -> anyhow::Result<Arc<dyn Ledger>> {
    match &config.kind {
        LedgerKind::Embedded { path } => {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
            }
            let settings = embedded::Config {
                retention: config.retention,
                writer,
                memory,
                ..embedded::Config::default()
            };
            let opened = Embedded::open(path, settings);
            let opened = opened.with_context(|| format!("the ledger {}", path.display()))?;
            Ok(Arc::new(Measured::new(Arc::new(opened))))
        }
        LedgerKind::Redis(redis) => {
            let settings = redis::RedisConfig {
                writer,
                memory,
                ..settings(config, redis)?
            };
            let connected = RedisLedger::connect(&settings).await?;
            Ok(Arc::new(Measured::new(Arc::new(connected))))
        }
    }
}

/// What the Redis of this configuration says of itself.
pub async fn survey(config: &LedgerConfig, redis: &RedisConfig) -> anyhow::Result<Survey> {
    Ok(Survey::of(&settings(config, redis)?).await?)
}

fn settings(config: &LedgerConfig, redis: &RedisConfig) -> anyhow::Result<redis::RedisConfig> {
    Ok(redis::RedisConfig {
        prefix: redis.prefix.clone(),
        shards: redis.shards,
        retention: config.retention,
        root_certificates: redis.ca_file.as_deref().map(read).transpose()?,
        ..redis::RedisConfig::new(mode(redis)?)
    })
}

fn mode(config: &RedisConfig) -> anyhow::Result<Mode> {
    let password = config.password_file.as_deref().map(secret).transpose()?;
    let urls = config
        .urls
        .iter()
        .map(|url| with_login(url, config.username.as_deref(), password.as_ref()));
    let urls: Vec<Secret> = urls.collect();
    Ok(match &config.mode {
        RedisMode::Single => {
            let url = urls.into_iter().next().context("`ledger.urls` names no server")?;
            Mode::Single { url }
        }
        RedisMode::Sentinel { master } => {
            let nodes = urls.first().cloned();
            Mode::Sentinel {
                urls,
                master: master.clone(),
                nodes,
            }
        }
        RedisMode::Cluster => Mode::Cluster { urls },
    })
}

/// The URL with user and password in their place, percent-encoded.
fn with_login(url: &str, username: Option<&str>, password: Option<&Secret>) -> Secret {
    let (scheme, rest) = url.split_once("://").unwrap_or(("redis", url));
    match (username, password) {
        (None, None) => Secret::new(url),
        (user, password) => {
            let user = escape(user.unwrap_or_default());
            let password = password.map(|secret| escape(secret.expose())).unwrap_or_default();
            Secret::new(format!("{scheme}://{user}:{password}@{rest}"))
        }
    }
}

fn escape(text: &str) -> String {
    let keep = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes()
        .map(|b| {
            if keep(b) {
                char::from(b).to_string()
            } else {
                format!("%{b:02X}")
            }
        })
        .collect()
}

fn secret(path: &Path) -> anyhow::Result<Secret> {
    let bytes = read(path)?;
    let text = String::from_utf8(bytes).with_context(|| format!("{} is not text", path.display()))?;
    Ok(Secret::new(text.trim_end_matches(['\r', '\n'])))
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_with_any_character_reaches_redis_whole() {
        let url = with_login("rediss://a:6379/0", Some("day"), Some(&Secret::new("p@ss:/w%rd")));
        assert_eq!(url.expose(), "rediss://day:p%40ss%3A%2Fw%25rd@a:6379/0");
        assert_eq!(with_login("redis://a", None, None).expose(), "redis://a");
    }
}
