//! How fast a change of context takes hold, with so many live leases in Redis and agents that go on asking
//! meanwhile: a kill order about a tenth of them, a fact about some, other policies for all.
//!
//! `eval "$(integration/redis env)"; cargo bench --bench context -- [LEASES] [RATE]`. Redis, the broker and who
//! asks share the machine. Agents ask RATE times a second, at instants that do not wait for answers, so
//! that a broker that stops for a while is not asked the less for it; what one waits counts from when
//! it would have asked.

#![expect(clippy::unwrap_used, reason = "a benchmark has nobody to report to")]
#![expect(clippy::print_stdout, reason = "this is how it reports")]
#![expect(
    clippy::disallowed_methods,
    reason = "a benchmark measures the real time, against the server that the environment names"
)]

#[path = "context/asking.rs"]
mod asking;
#[path = "context/estate.rs"]
mod estate;
mod leases;
mod server;

use std::sync::Arc;
use std::time::{Duration, Instant};

use dayfly::broker::facts::FactOrder;
use dayfly::clock::{Clock as _, SystemClock};
use dayfly::ledger::Ledger;
use dayfly::ledger::redis::{Mode, RedisLedger};
use dayfly::model::cutoff::Selector;
use dayfly::model::fact::Subject;
use dayfly::model::secret::Secret;
use dayfly::registry::Caller;
use tokio_util::sync::CancellationToken;

use asking::{ASKED, Asking, cpu};
use estate::{Estate, reading};
use leases::{AGENTS, TOOLS, USERS};

// As in the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How many tools are ended with a kill order each.
const ORDERS: usize = 5;
/// How long agents ask while nothing else goes on.
const QUIET: Duration = Duration::from_secs(10);

/// Waits until every recheck is done.
async fn settled(ledger: &dyn Ledger) {
    while !ledger.rechecks().await.unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn state(estate: &Estate, operator: &Caller, about: &str, value: Option<&str>) {
    let order = FactOrder {
        about: about.parse::<Subject>().unwrap(),
        name: "incident".parse().unwrap(),
        value: value.map(|value| value.parse().unwrap()),
        at: None,
        expires_at: None,
        reason: None,
    };
    let request = estate.broker.request_id().unwrap();
    estate.broker.state_fact(operator, order, request).await.unwrap();
}

#[expect(clippy::cast_precision_loss, reason = "counts of leases are far below that")]
fn rate(count: u64, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
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
    let config = server::fresh(Mode::Single {
        url: Secret::new(url),
    });
    let ledger: Arc<dyn Ledger> = Arc::new(RedisLedger::connect(&config).await.unwrap());
    let began = Instant::now();
    let tasks = leases::open_tasks(&*ledger, SystemClock::new().now(), count, AGENTS).await;
    leases::reserve(&ledger, tasks, count).await;
    println!(
        "{count} live leases, filled in {:.0?}; {pace} issues a second beside everything",
        began.elapsed()
    );

    let estate = Arc::new(Estate::new(Arc::clone(&ledger), AGENTS));
    let stop = CancellationToken::new();
    estate.broker.settle_rules().await.unwrap();
    settled_by_hand(&estate).await;
    for loops in [
        tokio::spawn(Arc::clone(&estate.broker).recheck_regularly(stop.clone())),
        tokio::spawn(Arc::clone(&estate.broker).follow_facts(stop.clone())),
    ] {
        drop(loops);
    }
    let asking = Asking::start(&estate, pace).await;
    let operator = estate.caller("ops/console").await;

    tokio::time::sleep(Duration::from_secs(2)).await;
    asking.since();
    tokio::time::sleep(QUIET).await;
    let [p50, idle] = asking.since();
    println!("\n| what | leases | took | a second | CPU a lease | issue p50 | issue p99 | p99 to quiet |");
    println!("|---|---|---|---|---|---|---|---|");
    println!("| quiet | | | | | {p50:.2?} | {idle:.2?} | 1 |");
    let row = |what: &str, leases: u64, took: Duration, spent: Duration| {
        let [p50, p99] = asking.since();
        println!(
            "| {what} | {leases} | {took:.1?} | {:.0} | {:.1?} | {p50:.2?} | {p99:.2?} | {:.1} |",
            rate(leases, took),
            spent
                .checked_div(u32::try_from(leases.max(1)).unwrap())
                .unwrap_or_default(),
            p99.as_secs_f64() / idle.as_secs_f64(),
        );
    };

    // Facts first: they look at what is there and end little of it.
    let part = |of: usize| u64::try_from(count / of).unwrap();
    let [user, agent] = ["user/user:2", "agent/support-bot-7"];
    for (what, about, value, leases) in [
        ("a fact about a user, nothing ends", user, "none", part(USERS)),
        ("a fact about an agent, nothing ends", agent, "none", part(AGENTS)),
        ("a fact about an agent, all end", agent, "open", part(AGENTS)),
    ] {
        let (began, before) = (Instant::now(), cpu());
        state(&estate, &operator, about, Some(value)).await;
        settled(&*ledger).await;
        row(what, leases, began.elapsed(), cpu().saturating_sub(before));
    }

    let (began, before) = (Instant::now(), cpu());
    estate.broker.rules().replace(estate.other_rules("never"));
    estate.broker.settle_rules().await.unwrap();
    settled(&*ledger).await;
    row(
        "other policies, nothing ends",
        part(1),
        began.elapsed(),
        cpu().saturating_sub(before),
    );

    let mut denied = Vec::new();
    // The last is about the tool that agents ask for meanwhile.
    for number in (0..ORDERS).map(|order| order * 2).chain([ASKED]) {
        // Anew each time: what proved them expires.
        let tool = estate.caller("tools/all").await;
        let agent = estate.caller("agents/support-bot-3").await;
        let task = estate.open(&agent, &reading(number)).await;
        let token = estate.issue(&agent, task, &reading(number)).await;
        let active = async || {
            let request = estate.broker.request_id().unwrap();
            let asked = estate.broker.introspect(&tool, &token, request);
            asked.await.unwrap().is_some()
        };
        assert!(active().await);
        asking.since();
        let (began, before) = (Instant::now(), cpu());
        let order = {
            let (broker, operator) = (Arc::clone(&estate.broker), operator.clone());
            let request = broker.request_id().unwrap();
            let whom = Selector::Tool(format!("tool-{number}").parse().unwrap());
            let order = async move { broker.revoke_all(&operator, whom, "a benchmark", request).await };
            tokio::spawn(order)
        };
        while active().await {
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
        denied.push(began.elapsed());
        order.await.unwrap().unwrap();
        settled(&*ledger).await;
        row(
            match number {
                ASKED => "a kill order for the tool that is asked for",
                _ => "a kill order for a tool",
            },
            part(TOOLS),
            began.elapsed(),
            cpu().saturating_sub(before),
        );
    }
    denied.sort_unstable();
    println!("\nkill orders: denied at introspection after {denied:.1?}");
    asking.end().await;
    stop.cancel();
}

/// What the first start orders is about a ledger that nobody decided by any rules.
async fn settled_by_hand(estate: &Estate) {
    while estate.broker.recheck().await.unwrap() {}
}
