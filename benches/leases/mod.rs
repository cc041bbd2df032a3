//! Tasks and leases as agents of all kinds would have them, for benchmarks that fill a ledger.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dayfly::entropy::{OsEntropy, draw};
use dayfly::ledger::{Budgets, Ledger};
use dayfly::model::access::{Access, Scope};
use dayfly::model::attestation::EvidenceKind;
use dayfly::model::fact::FactsVersion;
use dayfly::model::ids::{DecisionId, LeaseId, TaskId};
use dayfly::model::lease::{Ending, Handle, Lease, LeaseState, Vouched, VouchingKey};
use dayfly::model::status_list::Listing;
use dayfly::model::task::{Charter, Task, TaskState};
use dayfly::model::time::Timestamp;
use dayfly::model::ttl::{Bound, Ttl};
use tokio::task::JoinSet;

/// How many reserve at the same time.
pub(crate) const CALLERS: usize = 64;
/// How many leases each task has.
const LEASES_OF_A_TASK: usize = 20;
/// How many agents the leases of most benchmarks are for.
pub(crate) const AGENTS: usize = 200;
/// A tenth of the leases are for each.
pub(crate) const TOOLS: usize = 10;
pub(crate) const USERS: usize = 1000;

/// Every second task is on behalf of a user.
fn task(start: Timestamp, number: usize, agents: usize) -> Task {
    let access = Access::new(tool(0), ["read".parse().unwrap()].into(), [].into()).unwrap();
    Task {
        charter: Charter {
            id: TaskId::new(start, draw(&OsEntropy::new()).unwrap()),
            agent: format!("support-bot-{}", number % agents).parse().unwrap(),
            environment: "production".parse().unwrap(),
            trust_domain: Some("example.org".parse().unwrap()),
            subject: "spiffe://example.org/ns/support/sa/bot".to_owned(),
            delegators: Vec::new(),
            purpose: "answer the ticket of a customer".parse().unwrap(),
            scope: Scope::new(vec![access]).unwrap(),
            on_behalf_of: number
                .is_multiple_of(2)
                .then(|| format!("user:{}", number % USERS).parse().unwrap()),
            opened_at: start,
            // After the end of each of its leases.
            deadline: start.plus(Duration::from_secs(7200)),
            heartbeat: None,
        },
        state: TaskState::Open,
        beat_at: start,
    }
}

fn tool<T: std::str::FromStr<Err: std::fmt::Debug>>(number: usize) -> T {
    format!("tool-{}", number % TOOLS).parse().unwrap()
}

/// What stands behind each lease.
const VOUCHED: Vouched = Vouched {
    kind: EvidenceKind::JwtSvid,
    key: Some(VouchingKey([0xe5, 0xfe, 0x50, 0x59, 0xdb, 0x69, 0x7d, 0xf8])),
    until: Timestamp::from_millis(1_795_332_600_250),
};

/// Issued one after the other, ten in a millisecond, for an hour.
fn lease(task: &Charter, number: usize) -> Lease {
    let issued_at = task
        .opened_at
        .plus(Duration::from_millis(u64::try_from(number / 10).unwrap()));
    let id = LeaseId::new(task.id, issued_at, draw(&OsEntropy::new()).unwrap());
    Lease {
        id,
        task: task.id,
        agent: task.agent.clone(),
        environment: task.environment.clone(),
        trust_domain: task.trust_domain.clone(),
        on_behalf_of: task.on_behalf_of.clone(),
        delegators: Vec::new(),
        tool: tool(number),
        actions: ["read".parse().unwrap()].into(),
        resources: ["customers/42".parse().unwrap()].into(),
        provider: "jwt".parse().unwrap(),
        handle: Some(Handle(id.to_string())),
        ending: Ending::DenyListed,
        decision: DecisionId::new(issued_at, draw(&OsEntropy::new()).unwrap()),
        issued_at,
        expires_at: issued_at.plus(Duration::from_secs(3600)),
        bounded_by: Bound::Policy,
        requested: Ttl::from_secs(300),
        vouched: Some(VOUCHED),
        curtailed: None,
        listing: Listing::Wanted, // as tokens do
        state: LeaseState::Active,
    }
}

/// Opens the tasks of so many leases for so many agents.
pub(crate) async fn open_tasks(
    ledger: &dyn Ledger,
    start: Timestamp,
    leases: usize,
    agents: usize,
) -> Vec<Task> {
    let tasks: Vec<Task> = (0..leases.div_ceil(LEASES_OF_A_TASK))
        .map(|number| task(start, number, agents))
        .collect();
    for some in tasks.chunks(CALLERS) {
        let opened = some.iter().map(|task| ledger.open(task, None, None));
        futures_util::future::try_join_all(opened).await.unwrap();
    }
    tasks
}

/// Reserves so many leases of these tasks, by many callers at the same time.
pub(crate) async fn reserve(ledger: &Arc<dyn Ledger>, tasks: Vec<Task>, leases: usize) {
    each(ledger, tasks, leases, reserve_one).await;
}

async fn reserve_one(ledger: Arc<dyn Ledger>, lease: Lease) {
    let (none, facts) = (Budgets::default(), FactsVersion::default());
    ledger.reserve(&lease, &none, None, facts).await.unwrap();
}

/// Does this with so many leases of these tasks, by many callers at the same time.
pub(crate) async fn each<S: Future<Output = ()> + Send + 'static>(
    ledger: &Arc<dyn Ledger>,
    tasks: Vec<Task>,
    leases: usize,
    step: fn(Arc<dyn Ledger>, Lease) -> S,
) {
    let (tasks, next) = (Arc::new(tasks), Arc::new(AtomicUsize::new(0)));
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let (ledger, tasks, next) = (Arc::clone(ledger), Arc::clone(&tasks), Arc::clone(&next));
        callers.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= leases {
                    return;
                }
                let task = tasks.get(number % tasks.len()).unwrap();
                let lease = lease(&task.charter, number);
                step(Arc::clone(&ledger), lease).await;
            }
        });
    }
    callers.join_all().await;
}
