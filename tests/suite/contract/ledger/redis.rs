//! The Redis ledger against real servers, where there are any: `integration/redis start` starts some,
//! and `eval "$(integration/redis env)"` says where they are.

mod context;
mod faults;
mod losses;

use std::num::NonZeroU16;
use std::sync::Arc;

use async_trait::async_trait;
use dayfly::entropy::{OsEntropy, draw};
use dayfly::ledger::Ledger;
use dayfly::ledger::redis::{Mode, RedisConfig, RedisLedger};

use super::{Fixture, RETENTION};
use crate::redis_servers::{cluster, sentinel, single};

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

fn on(mode: Option<Mode>, shards: u16) -> Option<Servers> {
    mode.map(|mode| Servers(config(mode, shards)))
}

ledger_contract!(one_shard, super::on(super::single(), 1));
ledger_contract!(eight_shards, super::on(super::single(), 8));
ledger_contract!(many_shards, super::on(super::single(), 64));
ledger_contract!(cluster_of_eight, super::on(super::cluster(), 8));
ledger_contract!(cluster_of_many, super::on(super::cluster(), 64));
ledger_contract!(behind_sentinel, super::on(super::sentinel(), 8));
