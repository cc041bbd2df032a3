//! What a request costs before anything is decided: reading its body, and finding who it is from, by how many agents
//! are registered.
//!
//! `cargo bench --bench request`. What evidence costs is in `identity`, a decision in `decide`, a token in `jose`, a
//! record in `journal`, a step of the ledger in `ledger` and `ledger_redis`, all of it together in `issue`.

#![expect(
    clippy::unwrap_used,
    reason = "a benchmark that cannot be set up has nothing to measure"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::hint::black_box;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion};

use dayfly::dev::trust_domain::DevTrustDomain;
use dayfly::entropy::OsEntropy;
use dayfly::http::wire::credentials::AskCredential;
use dayfly::http::wire::tasks::OpenTask;
use dayfly::identity::claims::{Audiences, Skew, Terms};
use dayfly::identity::jwt_svid::{JwtSvid, Trusted};
use dayfly::identity::key_source::{Freshness, Origin};
use dayfly::identity::verifiers::{CacheConfig, Verifiers};
use dayfly::identity::{Evidence, Workload};
use dayfly::model::agent::{Agent, AgentCeilings, AgentStatus, Autonomy};
use dayfly::model::ids::TaskId;
use dayfly::model::time::Timestamp;
use dayfly::model::ttl::Ttl;
use dayfly::registry::Registry;
use dayfly::registry::matching::MatchRule;

// As in the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);
const US: &str = "https://dayfly.example.org";

const ISSUE: &str = r#"{"tool":"crm","actions":["read","list"],"resources":["customers/42"],"ttl":"5m"}"#;
const OPEN: &str = r#"{"purpose":"answer ticket 4711","on_behalf_of":"user:4711","ttl":"15m",
    "scope":[{"tool":"crm","actions":["read","list"],"resources":["customers/42"]},
             {"tool":"payments","actions":["read"]}]}"#;

fn parse(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse");
    group.bench_function("issue", |bench| {
        bench.iter(|| {
            let body: AskCredential = serde_json::from_str(black_box(ISSUE)).unwrap();
            let task = TaskId::new(NOW, [1; 10]);
            body.order(task, None).unwrap()
        });
    });
    group.bench_function("open", |bench| {
        bench.iter(|| {
            let body: OpenTask = serde_json::from_str(black_box(OPEN)).unwrap();
            body.order(None)
        });
    });
    group.finish();
}

fn agent(number: usize) -> Agent {
    Agent {
        name: format!("bot-{number}").parse().unwrap(),
        owner: Some("platform".parse().unwrap()),
        purpose: String::new(),
        environment: "production".parse().unwrap(),
        autonomy: Autonomy::try_from(3).unwrap(),
        zone: "eu".parse().unwrap(),
        roles: BTreeSet::new(),
        status: AgentStatus::Active,
        review_by: Timestamp::MAX,
        may_act_for: Vec::new(),
        serves: BTreeSet::new(),
        ceilings: AgentCeilings::default(),
        facts: BTreeMap::new(),
    }
}

fn registry(size: usize) -> Registry {
    let rule = |number: usize| {
        let id = format!("spiffe://example.org/agents/bot-{number}");
        let name = format!("bot-{number}");
        (MatchRule::spiffe(&id.parse().unwrap()), name.parse().unwrap())
    };
    Registry::new((0..size).map(agent), (0..size).map(rule), []).unwrap()
}

/// A workload whose evidence was verified.
async fn workload() -> Arc<Workload> {
    let trust_domain = DevTrustDomain::generate("example.org".parse().unwrap(), &OsEntropy::new()).unwrap();
    let trusted = Trusted {
        trust_domain: trust_domain.name().clone(),
        bundle: Origin::Inline(trust_domain.bundle()),
        freshness: Freshness::default(),
    };
    let terms = Terms {
        audiences: Audiences::new([US]).unwrap(),
        skew: Skew::default(),
        longest_life: JwtSvid::LONGEST_LIFE,
    };
    let verifier = JwtSvid::new([trusted], terms).unwrap();
    let verifiers = Verifiers::new(vec![Arc::new(verifier)], CacheConfig::default());
    let life = Ttl::from_secs(300).unwrap();
    let svid = trust_domain.svid("/agents/bot-7", US, NOW, life).await.unwrap();
    let evidence = Evidence::bearer(&svid).unwrap();
    verifiers.appraise(&evidence, NOW).await.unwrap()
}

fn admit(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let workload = runtime.block_on(workload());
    let mut group = criterion.benchmark_group("admit");
    for size in [20, 2_000, 20_000] {
        let registry = registry(size);
        group.bench_function(BenchmarkId::from_parameter(size), |bench| {
            bench.iter(|| registry.admit(black_box(Arc::clone(&workload)), NOW).unwrap());
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    parse(&mut criterion);
    admit(&mut criterion);
    criterion.final_summary();
}
