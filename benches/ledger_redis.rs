//! What a lease takes in Redis, all indexes included, and how many are reserved in a second by 64 callers
//! at once. The aim is 600 bytes.
//!
//! `eval "$(integration/redis env)"; cargo bench --bench ledger_redis -- [LEASES]`. The server must be idle:
//! memory is what it says it uses before and after.

#![expect(clippy::unwrap_used, reason = "a benchmark has nobody to report to")]
#![expect(clippy::print_stdout, reason = "this is how it reports")]
#![expect(
    clippy::disallowed_methods,
    reason = "a benchmark measures the real time, against the server that the environment names"
)]

mod leases;
#[path = "ledger_redis/memory.rs"]
mod memory;
mod server;

use std::sync::Arc;
use std::time::Instant;

use dayfly::ledger::Ledger;
use dayfly::ledger::redis::{Mode, RedisLedger};
use dayfly::model::secret::Secret;
use dayfly::model::time::Timestamp;

use memory::used_memory;

const START: Timestamp = Timestamp::from_millis(1_795_329_000_250);

#[tokio::main]
async fn main() {
    let Ok(url) = std::env::var("DAYFLY_TEST_REDIS") else {
        println!("DAYFLY_TEST_REDIS is not set: nothing is measured");
        return;
    };
    let count = std::env::args()
        .skip(1)
        .find_map(|arg| arg.parse().ok())
        .unwrap_or(100_000);
    let config = server::fresh(Mode::Single {
        url: Secret::new(url.clone()),
    });
    let ledger: Arc<dyn Ledger> = Arc::new(RedisLedger::connect(&config).await.unwrap());

    let empty = used_memory(&url);
    let tasks = leases::open_tasks(&*ledger, START, count, leases::AGENTS).await;
    let (opened, of_tasks) = (used_memory(&url), tasks.len());

    let begun = Instant::now();
    leases::reserve(&ledger, tasks, count).await;
    let took = begun.elapsed();
    let reserved = used_memory(&url);

    println!("{of_tasks} tasks: {} bytes each", (opened - empty) / of_tasks);
    println!(
        "{count} leases: {} bytes each, all indexes included",
        (reserved - opened) / count
    );
    println!(
        "{} callers reserve {:.0} leases a second",
        leases::CALLERS,
        f64::from(u32::try_from(count).unwrap()) / took.as_secs_f64()
    );
}
