//! The Redis ledger against real servers, where there are any: `integration/redis start` starts some,
//! and `eval "$(integration/redis env)"` says where they are.

mod faults;

use std::io::Write as _;
use std::num::NonZeroU16;
use std::sync::{Arc, Once};

use async_trait::async_trait;
use dayfly::entropy::{OsEntropy, draw};
use dayfly::ledger::Ledger;
use dayfly::ledger::redis::{Mode, RedisConfig, RedisLedger};
use dayfly::model::secret::Secret;

use super::{Fixture, RETENTION};

/// Servers to test against, and how many shards to use there.
struct Servers(RedisConfig);

#[async_trait]
impl Fixture for Servers {
    async fn ledger(&self) -> Arc<dyn Ledger> {
        Arc::new(RedisLedger::connect(&self.0).await.unwrap())
    }
}

/// A ledger that nobody used before. Each has a prefix of its own, so tests share a server.
fn config(mode: Mode, shards: u16) -> RedisConfig {
    let random: [u8; 8] = draw(&OsEntropy::new()).unwrap();
    RedisConfig {
        prefix: format!("test-{:016x}", u64::from_be_bytes(random)),
        shards: NonZeroU16::new(shards).unwrap(),
        retention: RETENTION,
        ..RedisConfig::new(mode)
    }
}

/// Where the servers are, or nothing, said once and past the test harness, which would swallow it.
fn urls(variable: &str, said: &Once) -> Option<Vec<Secret>> {
    #[expect(
        clippy::disallowed_methods,
        reason = "the only thing that tells where servers are"
    )]
    let urls = std::env::var(variable).ok();
    if urls.is_none() {
        said.call_once(|| {
            let line = format!("{variable} is not set: its tests of the Redis ledger are skipped\n");
            std::io::stderr().write_all(line.as_bytes()).unwrap();
        });
    }
    Some(urls?.split(',').map(Secret::new).collect())
}

fn single() -> Option<Mode> {
    static SAID: Once = Once::new();
    let url = urls("DAYFLY_TEST_REDIS", &SAID)?.remove(0);
    Some(Mode::Single { url })
}

fn cluster() -> Option<Mode> {
    static SAID: Once = Once::new();
    let urls = urls("DAYFLY_TEST_REDIS_CLUSTER", &SAID)?;
    Some(Mode::Cluster { urls })
}

fn sentinel() -> Option<Mode> {
    static SAID: Once = Once::new();
    let urls = urls("DAYFLY_TEST_REDIS_SENTINEL", &SAID)?;
    let (master, nodes) = ("dayfly".to_owned(), None);
    Some(Mode::Sentinel { urls, master, nodes })
}

fn on(mode: Option<Mode>, shards: u16) -> Option<Servers> {
    mode.map(|mode| Servers(config(mode, shards)))
}

ledger_contract!(one_shard, super::on(super::single(), 1));
ledger_contract!(eight_shards, super::on(super::single(), 8));
ledger_contract!(many_shards, super::on(super::single(), 64));
ledger_contract!(cluster_of_eight, super::on(super::cluster(), 8));
ledger_contract!(cluster_of_many, super::on(super::cluster(), 64));
ledger_contract!(behind_sentinel, super::on(super::sentinel(), 8));
