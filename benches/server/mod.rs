//! How benchmarks reach the Redis that the environment names.

use std::time::Duration;

use dayfly::entropy::{OsEntropy, draw};
use dayfly::ledger::redis::{Mode, RedisConfig};

/// A ledger of its own there, which waits as long as filling it may take.
pub(crate) fn fresh(mode: Mode) -> RedisConfig {
    let random: [u8; 8] = draw(&OsEntropy::new()).unwrap();
    RedisConfig {
        prefix: format!("bench-{:016x}", u64::from_be_bytes(random)),
        response_timeout: Duration::from_secs(20),
        ..RedisConfig::new(mode)
    }
}
