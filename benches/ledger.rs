//! Reserving on the embedded ledger, each reservation durable before it is answered, by how many
//! callers there are at once. The time is what one caller waits; the throughput is that of all.
//!
//! `cargo bench --bench ledger`; the file lies in the build folder, on whatever disk that is.

#![expect(clippy::unwrap_used, reason = "a benchmark has nobody to report to")]
#![expect(clippy::disallowed_methods, reason = "a benchmark measures the real time")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dayfly::ledger::embedded::{Config, Embedded};
use dayfly::ledger::{Budgets, Ledger as _};
use dayfly::model::access::{Access, Scope};
use dayfly::model::attestation::EvidenceKind;
use dayfly::model::fact::FactsVersion;
use dayfly::model::ids::{DecisionId, LeaseId, Randomness, TaskId};
use dayfly::model::lease::{Ending, Handle, Lease, LeaseState, Vouched, VouchingKey};
use dayfly::model::task::{Charter, Task, TaskState};
use dayfly::model::time::Timestamp;
use dayfly::model::ttl::{Bound, Ttl};
use tokio::task::JoinSet;

const START: Timestamp = Timestamp::from_millis(1_795_329_000_250);

fn random() -> Randomness {
    static DRAWN: AtomicU64 = AtomicU64::new(0);
    let drawn = DRAWN.fetch_add(1, Ordering::Relaxed);
    let [a, b, ..] = drawn.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
    let [c, d, e, f, g, h, i, j] = drawn.to_be_bytes();
    [a, b, c, d, e, f, g, h, i, j]
}

fn task() -> Task {
    let access = Access::new(
        "crm".parse().unwrap(),
        ["read".parse().unwrap()].into(),
        [].into(),
    )
    .unwrap();
    Task {
        charter: Charter {
            id: TaskId::new(START, random()),
            agent: "support-bot".parse().unwrap(),
            environment: "production".parse().unwrap(),
            trust_domain: Some("example.org".parse().unwrap()),
            subject: "spiffe://example.org/support".to_owned(),
            delegators: Vec::new(),
            purpose: "answer a ticket".parse().unwrap(),
            scope: Scope::new(vec![access]).unwrap(),
            on_behalf_of: Some("user-4711".parse().unwrap()),
            opened_at: START,
            deadline: START.plus(Duration::from_secs(3600)),
            heartbeat: None,
        },
        state: TaskState::Open,
        beat_at: START,
    }
}

/// What stands behind each lease.
const VOUCHED: Vouched = Vouched {
    kind: EvidenceKind::JwtSvid,
    key: Some(VouchingKey([0xe5, 0xfe, 0x50, 0x59, 0xdb, 0x69, 0x7d, 0xf8])),
    until: Timestamp::from_millis(1_795_332_600_250),
};

fn lease(task: &Charter) -> Lease {
    let id = LeaseId::new(task.id, START, random());
    Lease {
        id,
        task: task.id,
        agent: task.agent.clone(),
        environment: task.environment.clone(),
        trust_domain: task.trust_domain.clone(),
        on_behalf_of: task.on_behalf_of.clone(),
        delegators: Vec::new(),
        tool: "crm".parse().unwrap(),
        actions: ["read".parse().unwrap()].into(),
        resources: ["customers/42".parse().unwrap()].into(),
        provider: "jwt".parse().unwrap(),
        handle: Some(Handle(id.to_string())),
        ending: Ending::DenyListed,
        decision: DecisionId::new(START, random()),
        issued_at: START,
        expires_at: START.plus(Duration::from_secs(300)),
        bounded_by: Bound::Policy,
        requested: Ttl::from_secs(300),
        vouched: Some(VOUCHED),
        curtailed: None,
        listing: Default::default(),
        state: LeaseState::Active,
    }
}

/// `count` reservations by each of the callers.
async fn reserve(ledger: &Arc<Embedded>, callers: u64, count: u64) -> Duration {
    let mut tasks = Vec::new();
    for _ in 0..callers {
        let task = task();
        ledger.open(&task, None, None).await.unwrap();
        tasks.push(task.charter);
    }
    let start = Instant::now();
    let mut running = JoinSet::new();
    for task in tasks {
        let ledger = Arc::clone(ledger);
        running.spawn(async move {
            for _ in 0..count {
                ledger
                    .reserve(&lease(&task), &Budgets::default(), None, FactsVersion::default())
                    .await
                    .unwrap();
            }
        });
    }
    running.join_all().await;
    start.elapsed()
}

fn reserving(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let mut group = criterion.benchmark_group("reserve");
    for callers in [1, 16, 64] {
        group.throughput(Throughput::Elements(callers));
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let ledger = Embedded::open(&folder.path().join("ledger.redb"), Config::default()).unwrap();
        let ledger = Arc::new(ledger);
        group.bench_function(BenchmarkId::from_parameter(callers), |bencher| {
            bencher.iter_custom(|count| runtime.block_on(reserve(&ledger, callers, count)));
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3));
    targets = reserving
}
criterion_main!(benches);
