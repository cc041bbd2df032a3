//! How long `dayfly serve` takes until it is ready, and how much memory it takes when it has nothing to do,
//! with so many live leases. The aims are a second with 1,000,000 leases in Redis, and 40 MiB.
//!
//! `eval "$(integration/redis env)"; cargo bench --bench start -- [LEASES] [BINARY]`. Redis gets all of
//! the leases, and the embedded ledger a fifth of them; both are filled first, which takes a while.

#![expect(clippy::unwrap_used, reason = "a benchmark has nobody to report to")]
#![expect(clippy::print_stdout, reason = "this is how it reports")]
#![expect(
    clippy::disallowed_methods,
    reason = "a benchmark measures the real time, against the server that the environment names"
)]

#[path = "start/child.rs"]
mod child;
mod leases;
mod server;

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dayfly::clock::{Clock as _, SystemClock};
use dayfly::dev::estate::Estate;
use dayfly::entropy::OsEntropy;
use dayfly::ledger::Ledger;
use dayfly::ledger::embedded::{self, Embedded};
use dayfly::ledger::redis::{Mode, RedisLedger};
use dayfly::model::secret::Secret;
use tempfile::TempDir;

use child::Started;

const STARTS: usize = 7;

async fn fill(ledger: Arc<dyn Ledger>, count: usize) {
    let tasks = leases::open_tasks(&*ledger, SystemClock::new().now(), count, leases::AGENTS).await;
    leases::reserve(&ledger, tasks, count).await;
}

async fn measure(what: &str, binary: &str, configuration: &Path, address: SocketAddr) {
    let Started { ready, resident, own } =
        child::measure(binary, configuration, address, STARTS, Duration::from_secs(2)).await;
    println!("{what}: ready after {ready:.0?}, at rest {resident} KiB resident, {own} KiB of them its own");
}

#[tokio::main]
async fn main() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut arguments = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'));
    let count: usize = arguments
        .next()
        .map_or(100_000, |argument| argument.parse().unwrap());
    let binary = arguments
        .next()
        .unwrap_or_else(|| env!("CARGO_BIN_EXE_dayfly").to_owned());

    let folder = TempDir::new().unwrap();
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let estate = Estate::lay_out(folder.path(), address, &OsEntropy::new()).unwrap();
    let configuration = estate.configuration();
    measure("empty", &binary, &configuration, address).await;

    let path = folder.path().join("data/ledger.redb");
    let ledger = Embedded::open(&path, embedded::Config::default()).unwrap();
    fill(Arc::new(ledger), count / 5).await;
    let what = format!("embedded, {} leases", count / 5);
    measure(&what, &binary, &configuration, address).await;

    let Ok(url) = std::env::var("DAYFLY_TEST_REDIS") else {
        println!("DAYFLY_TEST_REDIS is not set: nothing is measured with Redis");
        return;
    };
    let config = server::fresh(Mode::Single {
        url: Secret::new(url.clone()),
    });
    fill(Arc::new(RedisLedger::connect(&config).await.unwrap()), count).await;
    let text = fs::read_to_string(&configuration).unwrap();
    let text = text.replace("kind = \"embedded\"", "kind = \"redis\"");
    let redis = format!(
        "\n[ledger.redis]\nurls = [\"{url}\"]\nprefix = \"{}\"\n",
        config.prefix
    );
    fs::write(&configuration, text + &redis).unwrap();
    measure(
        &format!("Redis, {count} leases"),
        &binary,
        &configuration,
        address,
    )
    .await;
}
