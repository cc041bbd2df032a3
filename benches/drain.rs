//! How fast a kill order ends what is out, to the last receipt: so many live leases in Redis that end as tokens do, the
//! reaper running, a journal in a file, and agents that go on asking meanwhile. The aim is 20,000 leases a second, and
//! twice the p99 of a quiet broker at most for who asks.
//!
//! `eval "$(integration/redis env)"; cargo bench --bench drain -- [LEASES] [RATE]`. Redis, the broker and who asks share
//! the machine, and the server has nothing else to do: its CPU time and its count of scripts are taken as this one's.

#![expect(clippy::unwrap_used, reason = "a benchmark has nobody to report to")]
#![expect(clippy::print_stdout, reason = "this is how it reports")]
#![expect(
    clippy::disallowed_methods,
    reason = "a benchmark measures the real time, against the server that the environment names"
)]

#[path = "context/asking.rs"]
mod asking;
#[expect(dead_code, reason = "another benchmark loads other rules, too")]
#[path = "context/estate.rs"]
mod estate;
mod leases;
mod server;

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dayfly::clock::{Clock as _, SystemClock};
use dayfly::ledger::redis::{Mode, RedisLedger};
use dayfly::ledger::{Filter, Ledger, Page, StateName};
use dayfly::model::cutoff::Selector;
use dayfly::model::secret::Secret;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio_util::sync::CancellationToken;

use asking::{Asking, cpu};
use estate::{Estate, reading};
use leases::AGENTS;

// As in the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long agents ask while nothing else goes on.
const QUIET: Duration = Duration::from_secs(10);

/// What something cost until now.
#[derive(Clone, Copy)]
struct Spent {
    at: Instant,
    broker: Duration,
    redis: Duration,
    scripts: u64,
    in_scripts: Duration,
}

impl Spent {
    fn now(url: &str) -> Self {
        let mut connection = redis::Client::open(url).unwrap().get_connection().unwrap();
        let mut info =
            |section: &str| -> String { redis::cmd("INFO").arg(section).query(&mut connection).unwrap() };
        let (used, stats) = (info("cpu"), info("commandstats"));
        let seconds = |field: &str| {
            let value = used
                .lines()
                .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
            Duration::from_secs_f64(value.unwrap().trim().parse().unwrap())
        };
        let scripts = stats
            .lines()
            .find_map(|line| line.strip_prefix("cmdstat_evalsha:"));
        let number = |field: &str| -> u64 {
            let mut fields = scripts.unwrap().split(',');
            let value = fields.find_map(|said| said.strip_prefix(field)?.strip_prefix('='));
            value.unwrap().parse().unwrap()
        };
        Self {
            at: Instant::now(),
            broker: cpu(),
            redis: seconds("used_cpu_user") + seconds("used_cpu_sys"),
            scripts: number("calls"),
            in_scripts: Duration::from_micros(number("usec")),
        }
    }
}

/// How many leases ended so far.
fn ended(metrics: &PrometheusHandle) -> u64 {
    let page = metrics.render();
    let lines = page
        .lines()
        .filter(|line| line.starts_with("dayfly_leases_ended_total{"));
    lines
        .map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap())
        .sum()
}

/// Waits until nothing has to end any more.
async fn drained(ledger: &dyn Ledger, metrics: &PrometheusHandle, count: u64) {
    let page = Page {
        after: None,
        limit: NonZeroUsize::MIN,
    };
    let revoking = Filter {
        state: Some(StateName::Revoking),
        ..Filter::default()
    };
    while ended(metrics) < count
        || !ledger.rechecks().await.unwrap().is_empty()
        || !ledger.find(&revoking, &page).await.unwrap().is_empty()
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of leases are far below that")]
fn each(spent: Duration, count: u64) -> f64 {
    spent.as_secs_f64() * 1e6 / count as f64
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .map(|argument| argument.parse::<usize>().unwrap());
    let count = arguments.next().unwrap_or(100_000);
    let pace = u32::try_from(arguments.next().unwrap_or(500)).unwrap();
    let Ok(url) = std::env::var("DAYFLY_TEST_REDIS") else {
        println!("DAYFLY_TEST_REDIS is not set: nothing is measured");
        return;
    };
    let metrics = PrometheusBuilder::new().install_recorder().unwrap();
    let config = server::fresh(Mode::Single {
        url: Secret::new(url.clone()),
    });
    let ledger: Arc<dyn Ledger> = Arc::new(RedisLedger::connect(&config).await.unwrap());
    let tasks = leases::open_tasks(&*ledger, SystemClock::new().now(), count, AGENTS).await;
    leases::reserve(&ledger, tasks, count).await;

    let estate = Arc::new(Estate::new(Arc::clone(&ledger), AGENTS));
    let stop = CancellationToken::new();
    estate.broker.settle_rules().await.unwrap();
    while estate.broker.recheck().await.unwrap() {}
    for working in [
        tokio::spawn(Arc::clone(&estate.broker).recheck_regularly(stop.clone())),
        tokio::spawn(Arc::clone(&estate.broker).follow_facts(stop.clone())),
        tokio::spawn(Arc::clone(&estate.broker).reap(stop.clone())),
    ] {
        drop(working);
    }
    let operator = estate.caller("ops/console").await;
    let asking = Asking::start(&estate, pace).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    asking.since();
    let before = Spent::now(&url);
    tokio::time::sleep(QUIET).await;
    let quiet = Spent::now(&url);
    let idle = asking.since();

    let request = estate.broker.request_id().unwrap();
    let began = Spent::now(&url);
    let order = estate
        .broker
        .revoke_all(&operator, Selector::All, "a benchmark", request);
    order.await.unwrap();
    let answered = began.at.elapsed();
    drained(&*ledger, &metrics, u64::try_from(count).unwrap()).await;
    let over = Spent::now(&url);
    let beside = asking.since();
    let (many, took) = (ended(&metrics), over.at - began.at);

    // What the agents beside take is not the drain's.
    let share = took.as_secs_f64() / (quiet.at - before.at).as_secs_f64();
    let own = |of: fn(&Spent) -> Duration| {
        let quiet = (of(&quiet) - of(&before)).mul_f64(share);
        (of(&over) - of(&began)).saturating_sub(quiet)
    };
    println!("{many} leases, {pace} issues a second beside; the order was answered after {answered:.0?}");
    println!(
        "\n| took | a second | broker, CPU a lease | Redis, CPU a lease | in scripts | scripts a lease |"
    );
    println!("|---|---|---|---|---|---|");
    println!(
        "| {took:.2?} | {:.0} | {:.1} µs | {:.1} µs | {:.1} µs | {:.2} |",
        1e6 / each(took, many),
        each(own(|spent| spent.broker), many),
        each(own(|spent| spent.redis), many),
        each(own(|spent| spent.in_scripts), many),
        each(own(|spent| Duration::from_micros(spent.scripts)), many),
    );
    println!("\n| | issue p50 | issue p99 | p99 to quiet |");
    println!("|---|---|---|---|");
    for (what, [p50, p99]) in [("quiet", idle), ("beside the drain", beside)] {
        let ratio = p99.as_secs_f64() / idle[1].as_secs_f64();
        println!("| {what} | {p50:.2?} | {p99:.2?} | {ratio:.1} |");
    }
    let agent = estate.caller("agents/support-bot-3").await;
    let task = estate.open(&agent, &reading(1)).await;
    estate.issue(&agent, task, &reading(1)).await; // who asks anew is not concerned
    asking.end().await;
    stop.cancel();
}
