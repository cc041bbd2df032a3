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

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use dayfly::entropy::{OsEntropy, draw};
use dayfly::ledger::redis::{Mode, RedisConfig, RedisLedger};
use dayfly::ledger::{Budgets, Ledger as _};
use dayfly::model::access::{Access, Scope};
use dayfly::model::ids::{DecisionId, LeaseId, TaskId};
use dayfly::model::lease::{Ending, Handle, Lease, LeaseState};
use dayfly::model::secret::Secret;
use dayfly::model::task::{Charter, Task, TaskState};
use dayfly::model::time::Timestamp;
use dayfly::model::ttl::Bound;
use tokio::task::JoinSet;

const START: Timestamp = Timestamp::from_millis(1_795_329_000_250);
const CALLERS: usize = 64;
const LEASES_OF_A_TASK: usize = 20;
const AGENTS: usize = 200;
const TOOLS: usize = 20;
const USERS: usize = 1000;

/// Every second task is on behalf of a user.
fn task(number: usize) -> Task {
    let access = Access::new(tool(0), ["read".parse().unwrap()].into(), [].into()).unwrap();
    Task {
        charter: Charter {
            id: TaskId::new(START, draw(&OsEntropy::new()).unwrap()),
            agent: format!("support-bot-{}", number % AGENTS).parse().unwrap(),
            environment: "production".parse().unwrap(),
            trust_domain: Some("example.org".parse().unwrap()),
            subject: "spiffe://example.org/ns/support/sa/bot".to_owned(),
            purpose: "answer the ticket of a customer".parse().unwrap(),
            scope: Scope::new(vec![access]).unwrap(),
            on_behalf_of: number
                .is_multiple_of(2)
                .then(|| format!("user-{}", number % USERS).parse().unwrap()),
            opened_at: START,
            deadline: START.plus(Duration::from_secs(3600)),
            heartbeat: None,
        },
        state: TaskState::Open,
        beat_at: START,
    }
}

fn tool<T: std::str::FromStr<Err: std::fmt::Debug>>(number: usize) -> T {
    format!("tool-{}", number % TOOLS).parse().unwrap()
}

fn lease(task: &Charter, number: usize) -> Lease {
    let issued_at = START.plus(Duration::from_millis(u64::try_from(number / 10).unwrap()));
    let id = LeaseId::new(task.id, issued_at, draw(&OsEntropy::new()).unwrap());
    Lease {
        id,
        task: task.id,
        agent: task.agent.clone(),
        environment: task.environment.clone(),
        trust_domain: task.trust_domain.clone(),
        on_behalf_of: task.on_behalf_of.clone(),
        tool: tool(number),
        actions: ["read".parse().unwrap()].into(),
        resources: ["customers/42".parse().unwrap()].into(),
        provider: "jwt".parse().unwrap(),
        handle: Some(Handle(id.to_string())),
        ending: Ending::DenyListed,
        decision: DecisionId::new(issued_at, draw(&OsEntropy::new()).unwrap()),
        issued_at,
        expires_at: issued_at.plus(Duration::from_secs(300)),
        bounded_by: Bound::Policy,
        state: LeaseState::Active,
    }
}

fn used_memory(url: &str) -> usize {
    let mut connection = redis::Client::open(url).unwrap().get_connection().unwrap();
    let info: redis::InfoDict = redis::cmd("INFO").arg("memory").query(&mut connection).unwrap();
    info.get("used_memory").unwrap()
}

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
    let random: [u8; 8] = draw(&OsEntropy::new()).unwrap();
    let config = RedisConfig {
        prefix: format!("bench-{:016x}", u64::from_be_bytes(random)),
        response_timeout: Duration::from_secs(20),
        ..RedisConfig::new(Mode::Single {
            url: Secret::new(url.clone()),
        })
    };
    let ledger = Arc::new(RedisLedger::connect(&config).await.unwrap());

    let empty = used_memory(&url);
    let tasks: Vec<Task> = (0..count / LEASES_OF_A_TASK).map(task).collect();
    for some in tasks.chunks(CALLERS) {
        let opened = some.iter().map(|task| ledger.open(task, None));
        futures_util::future::try_join_all(opened).await.unwrap();
    }
    let opened = used_memory(&url);

    let (tasks, next) = (Arc::new(tasks), Arc::new(AtomicUsize::new(0)));
    let begun = Instant::now();
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let (ledger, tasks, next) = (Arc::clone(&ledger), Arc::clone(&tasks), Arc::clone(&next));
        callers.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return;
                }
                let task = tasks.get(number % tasks.len()).unwrap();
                let lease = lease(&task.charter, number);
                ledger.reserve(&lease, &Budgets::default(), None).await.unwrap();
            }
        });
    }
    callers.join_all().await;
    let took = begun.elapsed();
    let reserved = used_memory(&url);

    println!(
        "{} tasks: {} bytes each",
        tasks.len(),
        (opened - empty) / tasks.len()
    );
    println!(
        "{count} leases: {} bytes each, all indexes included",
        (reserved - opened) / count
    );
    println!(
        "{CALLERS} callers reserve {:.0} leases a second",
        f64::from(u32::try_from(count).unwrap()) / took.as_secs_f64()
    );
}
