//! What a ledger of a million live leases costs, and what it still does as fast as an empty one: memory, issuing, ends by
//! time and by order, lists, and starts.
//!
//! `eval "$(integration/redis env)"; cargo bench --bench scale -- [LEASES] [LEDGER] [AGENTS]`, with 100,000 leases
//! without a number, for 10,000 agents. LEDGER is `redis`, on the server of `DAYFLY_TEST_REDIS`; `embedded`, in a file in
//! the build folder; or `cluster`, on that of `DAYFLY_TEST_REDIS_CLUSTER`, which is filled by two brokers and compared
//! with that one server. Servers must be idle: memory is what they say they use before and after. With
//! `DAYFLY_TEST_POSTGRES`, its logins are made and dropped, too. The aims are 600 bytes a lease, a second until
//! a broker is ready, and 200 MiB for it.

#![expect(clippy::unwrap_used, reason = "a benchmark has nobody to report to")]
#![expect(clippy::print_stdout, reason = "this is how it reports")]
#![expect(
    clippy::disallowed_methods,
    reason = "a benchmark measures the real time, against the servers that the environment names"
)]

#[path = "scale/broker.rs"]
mod broker;
#[path = "start/child.rs"]
mod child;
#[path = "scale/cluster.rs"]
mod cluster;
#[path = "scale/ending.rs"]
mod ending;
#[expect(dead_code, reason = "another benchmark loads other rules, too")]
#[path = "context/estate.rs"]
mod estate;
#[path = "scale/issuing.rs"]
mod issuing;
mod leases;
#[path = "scale/logins.rs"]
mod logins;
#[path = "ledger_redis/memory.rs"]
mod memory;
#[path = "scale/place.rs"]
mod place;
#[expect(
    dead_code,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "written for tests, which do more with their databases"
)]
#[path = "../tests/suite/postgres_server.rs"]
mod postgres_server;
mod server;
#[path = "scale/table.rs"]
mod table;

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dayfly::clock::{Clock as _, SystemClock};
use dayfly::ledger::{Filter, Ledger, Page};
use dayfly::model::ids::LeaseId;
use dayfly::model::time::Timestamp;
use tempfile::TempDir;

use broker::Broker;
use child::median;
use place::Place;
use table::{rate, row};

// As in the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const LEASES: usize = 100_000;
const AGENTS: usize = 10_000;
/// How often the ledger is opened.
const OPENINGS: usize = 7;
/// How many agents are asked for.
const LISTS: usize = 200;

fn variable(name: &str) -> Option<String> {
    let value = std::env::var(name).ok();
    if value.is_none() {
        println!("{name} is not set: nothing is measured");
    }
    value
}

/// Memory of this process in KiB.
fn resident() -> u64 {
    child::memory(std::process::id(), "VmRSS")
}

/// Fills the ledger, and says what each lease takes in it.
async fn fill(place: &Place, ledger: &Arc<dyn Ledger>, start: Timestamp, count: usize, agents: usize) {
    let (before, held) = (place.bytes(), resident());
    let tasks = leases::open_tasks(&**ledger, start, count, agents).await;
    let (opened, of_tasks) = (place.bytes(), tasks.len());
    let began = Instant::now();
    leases::reserve(ledger, tasks, count).await;
    let took = began.elapsed();
    let filled = place.bytes();
    row(
        "bytes a lease",
        filled.saturating_sub(opened) / count,
        "all indexes included, beside its task",
    );
    row(
        "bytes a lease with its share of the tasks",
        filled.saturating_sub(before) / count,
        &format!("{of_tasks} tasks, {} MiB in all", (filled - before) >> 20),
    );
    row(
        "filled",
        format!("{:.0} a second", rate(count, took)),
        &format!("in one step each, {} callers", leases::CALLERS),
    );
    let more = resident().saturating_sub(held) >> 10;
    row(
        "memory of the process that filled it",
        format!("{more} MiB more"),
        "with what it needed for that",
    );
}

/// The first page of several agents' leases. Answers one of them.
async fn list(ledger: &dyn Ledger, agents: usize) -> LeaseId {
    let page = Page {
        after: None,
        limit: NonZeroUsize::new(100).unwrap(),
    };
    let (mut took, mut found, mut known) = (Vec::new(), 0, None);
    for number in 0..LISTS {
        let filter = Filter {
            agent: Some(
                format!("support-bot-{}", number * agents / LISTS)
                    .parse()
                    .unwrap(),
            ),
            ..Filter::default()
        };
        let began = Instant::now();
        let leases = ledger.find(&filter, &page).await.unwrap();
        took.push(began.elapsed());
        found += leases.len();
        known = known.or(leases.first().map(|lease| lease.id));
    }
    took.sort();
    let at = |part: usize| *took.get(took.len() * part / 100).unwrap();
    row(
        "list by agent, the first 100",
        format!("p50 {:.2?}, p99 {:.2?}", at(50), at(99)),
        &format!("of {LISTS}; {} leases each", found / LISTS),
    );
    known.unwrap()
}

/// Until the ledger answers its first read.
async fn reopen(place: &Place, known: LeaseId) {
    let mut took = Vec::new();
    for _ in 0..OPENINGS {
        let began = Instant::now();
        let ledger = place.open().await;
        assert!(ledger.lease(known).await.unwrap().is_some());
        took.push(began.elapsed());
    }
    row(
        "opened until the first read is answered",
        format!("{:.1?}", median(took)),
        &format!("median of {OPENINGS}"),
    );
}

async fn measure(place: Place, count: usize, agents: usize) {
    let small = Broker::new(&place.beside(), leases::AGENTS);
    small
        .measure(&format!("nothing there, {} agents", leases::AGENTS))
        .await;
    let broker = Broker::new(&place, agents);
    broker.measure(&format!("nothing there, {agents} agents")).await;

    let (round, part) = ((count / 50).clamp(1000, 10_000), (count / 10).clamp(1000, 50_000));
    let ledger = place.open().await;
    row(
        "issued, before it was filled",
        format!("{:.0} a second", issuing::round(&ledger, round, agents).await),
        &format!("reserved and activated, {} callers, {round}", leases::CALLERS),
    );
    let start = SystemClock::new().now();
    fill(&place, &ledger, start, count, agents).await;
    let empty = place.beside().open().await;
    let there = format!("{count} there");
    issuing::in_turns([&empty, &ledger], ["empty", &there], round, agents).await;
    drop(empty);
    let known = list(&*ledger, agents).await;
    ending::by_order(&ledger, part).await;
    ending::by_time(&*ledger, start, part).await;
    broker::age_rules(&*ledger).await;

    // One process at a time can have an embedded ledger open.
    drop(ledger);
    reopen(&place, known).await;
    broker.measure(&format!("{there}, {agents} agents")).await;
    logins::measure(place.open().await, agents).await;
}

#[tokio::main]
async fn main() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let mut numbers = arguments.iter().filter_map(|argument| argument.parse().ok());
    let count: usize = numbers.next().unwrap_or(LEASES);
    let agents: usize = numbers.next().unwrap_or(AGENTS);
    let words: Vec<&str> = arguments
        .iter()
        .map(String::as_str)
        .filter(|argument| argument.parse::<usize>().is_err())
        .collect();
    let began = Instant::now();
    match words.as_slice() {
        [] | ["redis"] => {
            let Some(url) = variable("DAYFLY_TEST_REDIS") else {
                return;
            };
            table::head(["Redis", &format!("{count} leases, {agents} agents"), "how"]);
            measure(Place::redis(&url), count, agents).await;
        }
        ["embedded"] => {
            let folder = TempDir::new_in(Path::new(env!("CARGO_TARGET_TMPDIR"))).unwrap();
            table::head(["embedded", &format!("{count} leases, {agents} agents"), "how"]);
            measure(Place::Embedded(folder.path().join("ledger.redb")), count, agents).await;
        }
        ["cluster"] => {
            let (Some(urls), Some(url)) = (
                variable("DAYFLY_TEST_REDIS_CLUSTER"),
                variable("DAYFLY_TEST_REDIS"),
            ) else {
                return;
            };
            table::head(["cluster", &format!("{count} leases, {agents} agents"), "how"]);
            cluster::measure(&urls, &url, count, agents).await;
        }
        other => println!("{other:?} is no ledger: redis, embedded or cluster"),
    }
    println!("\nin {:.0?}", Duration::from_secs(began.elapsed().as_secs()));
}
