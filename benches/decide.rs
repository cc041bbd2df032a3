//! What one decision costs, at 20 to 20,000 policies: one action on one resource, evidence already proven.
//!
//! The agent under test has two roles; ten policies concern it whatever the size of the set. The rest are about
//! other agents, roles, tools and customers, as in a real set. Aim: 12 µs, and the same at every size. Facts about
//! others cost next to nothing; a fact about the agent that policies look at costs entities of its own.

#![expect(
    clippy::unwrap_used,
    reason = "a benchmark that cannot be set up has nothing to measure"
)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput};

use dayfly::model::access::Access;
use dayfly::model::agent::{Agent, AgentCeilings, AgentStatus, Autonomy};
use dayfly::model::attestation::EvidenceKind;
use dayfly::model::decision::{Decision, Revision};
use dayfly::model::fact::{Fact, Facts, FactsVersion};
use dayfly::model::ids::TaskId;
use dayfly::model::time::Timestamp;
use dayfly::model::tool::{Binding, Effect, Risk, Sensitivity, Tool};
use dayfly::policy::cedar::{CedarEngine, PolicySource};
use dayfly::policy::{Attested, PolicyEngine as _, Question, TaskContext};
use dayfly::registry::Registry;

// As in the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SIZES: [usize; 4] = [20, 200, 2_000, 20_000];
const TOOLS: usize = 20;

fn agent(name: &str, roles: &[String]) -> Agent {
    Agent {
        name: name.parse().unwrap(),
        owner: Some("platform".parse().unwrap()),
        purpose: String::new(),
        environment: "production".parse().unwrap(),
        autonomy: Autonomy::try_from(3).unwrap(),
        zone: "eu".parse().unwrap(),
        roles: roles.iter().map(|role| role.parse().unwrap()).collect(),
        status: AgentStatus::Active,
        review_by: Timestamp::MAX,
        may_act_for: Vec::new(),
        serves: std::collections::BTreeSet::new(),
        ceilings: AgentCeilings::default(),
        facts: BTreeMap::from([("tier".into(), "gold".into())]),
    }
}

fn tool(name: &str) -> Tool {
    let actions = [
        ("read", Effect::Read),
        ("write", Effect::Write),
        ("delete", Effect::Delete),
        ("export", Effect::DataMovement),
    ];
    Tool {
        name: name.parse().unwrap(),
        description: String::new(),
        owner: "platform".parse().unwrap(),
        actions: actions
            .map(|(name, effect)| (name.parse().unwrap(), effect))
            .into(),
        risk: Risk::Medium,
        sensitivity: Sensitivity::Confidential,
        zone: "eu".parse().unwrap(),
        environment: "production".parse().unwrap(),
        audience: format!("https://{name}.example"),
        origins: [].into(),
        binding: Binding {
            provider: "jwt".parse().unwrap(),
            parameters: BTreeMap::new(),
        },
        max_ttl: "1h".parse().unwrap(),
        default_ttl: "5m".parse().unwrap(),
        live_credentials: None,
        facts: BTreeMap::new(),
    }
}

fn registry(size: usize) -> Registry {
    let others = (0..size.div_ceil(10)).map(|n| agent(&format!("bot-{n}"), &[format!("role-{n}")]));
    let tested = agent("tested", &["tested-a".into(), "tested-b".into()]);
    Registry::new(
        others.chain([tested]),
        [],
        (0..TOOLS).map(|n| tool(&format!("tool-{n}"))),
    )
    .unwrap()
}

/// What concerns the agent under test.
const OWN: &str = r#"
@id("env") forbid(principal, action, resource)
unless { principal.environment == resource.tool.environment || resource in Tool::"dayfly" };
@id("zone") forbid(principal, action, resource) when { context.crosses_zone };
@id("restricted") forbid(principal, action, resource)
when { resource.tool.sensitivity_rank >= 3 && principal.autonomy < 3 };
@id("incident") forbid(principal, action, resource)
when { resource.tool.hasTag("incident") && resource.tool.getTag("incident") == "open" };
@id("long") forbid(principal, action, resource)
when { resource.tool.risk_rank >= 2 && context.requested_ttl > 300 };
@id("read") @max_ttl("5m") permit(principal in Role::"tested-a", action in Action::"read", resource in Tool::"tool-0");
@id("both") permit(principal in Role::"tested-b", action in [Action::"tool-0:read", Action::"tool-0:write"], resource)
when { context.purpose != "" };
@id("own") permit(principal == Agent::"tested", action == Action::"tool-0:read", resource);
@id("path") permit(principal in Role::"tested-a", action, resource in Resource::"tool-0/customers");
@id("other") permit(principal in Role::"tested-a", action in Action::"read", resource) when { principal.autonomy > 3 };
"#;

fn policies(size: usize) -> String {
    let mut text = OWN.to_owned();
    for n in 10..size {
        let (role, tool) = (n / 10, n % TOOLS);
        let policy = match n % 4 {
            0 => format!(
                "permit(principal in Role::\"role-{role}\", action == Action::\"tool-{tool}:read\", resource);"
            ),
            1 => format!(
                "permit(principal == Agent::\"bot-{role}\", action in Action::\"write\", resource in Tool::\"tool-{tool}\") when {{ context.requested_ttl <= 600 }};"
            ),
            2 => format!("forbid(principal, action, resource in Resource::\"tool-0/customers/{n}\");"),
            _ => format!(
                "permit(principal in Role::\"role-{role}\", action, resource in Tool::\"tool-{tool}\") when {{ principal.zone == resource.tool.zone }};"
            ),
        };
        writeln!(text, "{policy}").unwrap();
    }
    text
}

/// That an incident is over: `incident` is what a policy here looks at.
fn fact(about: &str) -> Fact {
    Fact {
        about: about.parse().unwrap(),
        name: "incident".parse().unwrap(),
        value: Some("closed".parse().unwrap()),
        source: "bench".parse().unwrap(),
        at: Timestamp::from_millis(1_795_329_000_000),
        expires_at: None,
    }
}

fn engine(registry: &Registry, size: usize) -> CedarEngine {
    let source = PolicySource {
        name: "bench.cedar".into(),
        text: policies(size),
    };
    CedarEngine::load(&[source], registry, Revision("bench".into())).unwrap()
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let access = Access::new(
        "tool-0".parse().unwrap(),
        ["read".parse().unwrap()].into(),
        ["customers/1".parse().unwrap()].into(),
    )
    .unwrap();
    let now = Timestamp::from_millis(1_795_329_000_250);
    let task = TaskContext {
        id: TaskId::new(now, [1; 10]),
        purpose: "answer ticket 1234".parse().unwrap(),
        on_behalf_of: Some("u-1".parse().unwrap()),
        delegators: Vec::new(),
        opened_at: now,
    };
    let silence = Facts::default();
    let others = Facts::default().with(
        (0..1_000).map(|n| fact(&format!("user/u-{}", 2 + n))),
        FactsVersion(1),
    );
    let own = others.with(
        [
            fact("tool/tool-0"),
            fact("user/u-1"),
            fact("environment/production"),
        ],
        FactsVersion(2),
    );
    let domain = "prod.example.org".parse().unwrap();
    let mut group = criterion.benchmark_group("decide");
    for size in SIZES {
        let registry = registry(size);
        let engine = engine(&registry, size);
        let question = Question {
            agent: registry.agent(&"tested".parse().unwrap()).unwrap(),
            attested: Attested {
                kind: EvidenceKind::JwtSvid,
                trust_domain: Some(&domain),
            },
            tool: registry.tool(&"tool-0".parse().unwrap()).unwrap(),
            access: &access,
            task: Some(&task),
            ttl: None,
            facts: &silence,
            at: now,
        };
        assert!(matches!(engine.answer(&question), Decision::Permit { .. }));
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::new("one_thread", size), |bencher| {
            bencher.iter(|| black_box(engine.answer(black_box(&question))));
        });
        for (name, facts) in [("facts_about_others", &others), ("facts_about_these", &own)] {
            let question = Question { facts, ..question };
            assert!(matches!(engine.answer(&question), Decision::Permit { .. }));
            group.bench_function(BenchmarkId::new(name, size), |bencher| {
                bencher.iter(|| black_box(engine.answer(black_box(&question))));
            });
        }
        group.throughput(Throughput::Elements(2_000));
        group.bench_function(BenchmarkId::new("two_threads", size), |bencher| {
            bencher.iter(|| {
                std::thread::scope(|scope| {
                    for _ in 0..2 {
                        scope.spawn(|| {
                            for _ in 0..1_000 {
                                black_box(engine.answer(black_box(&question)));
                            }
                        });
                    }
                });
            });
        });
    }
    group.finish();
    criterion.final_summary();
}
