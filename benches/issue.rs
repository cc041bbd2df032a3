//! What one issue costs in process, from the evidence (which was verified before and is remembered) to the
//! signed credential: the example policies, a real ledger, a real journal.
//!
//! `cargo bench --bench issue`. The criterion figures are wall times and tell how long an agent waits; on a
//! machine that others use they say little about cost. So each world also reports the CPU time of one issue,
//! all threads together. What an introspection costs, the other way of that credential, is measured beside it. With `DAYFLY_TEST_REDIS` set to the URL of a server, Redis is measured too.

#![expect(
    clippy::unwrap_used,
    reason = "a benchmark that cannot be set up has nothing to measure"
)]
#![expect(clippy::print_stdout, reason = "this is how it reports the CPU time")]
#![expect(
    clippy::disallowed_methods,
    reason = "the environment names the server that is measured"
)]

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use criterion::{Criterion, Throughput};
use futures_util::future::join_all;

use dayfly::app::rules;
use dayfly::broker::issue::IssueOrder;
use dayfly::broker::open::OpenOrder;
use dayfly::broker::rules::Rules;
use dayfly::broker::{Broker, Parts, Settings};
use dayfly::clock::{Clock as _, SystemClock};
use dayfly::config;
use dayfly::dev::trust_domain::DevTrustDomain;
use dayfly::entropy::{OsEntropy, draw};
use dayfly::identity::Evidence;
use dayfly::identity::claims::{Audiences, Skew, Terms};
use dayfly::identity::jwt_svid::{JwtSvid, Trusted};
use dayfly::identity::key_source::{Freshness, Origin};
use dayfly::identity::verifiers::{CacheConfig, Verifiers};
use dayfly::journal::Journal;
use dayfly::journal::file::{FileJournal, Options};
use dayfly::journal::memory::MemoryJournal;
use dayfly::journal::note::NoteSigner;
use dayfly::journal::receipt::ReceiptSigner;
use dayfly::keys::Algorithm;
use dayfly::keys::issuer::Issuer;
use dayfly::keys::key_ring::KeyRing;
use dayfly::keys::ring_keys::RingSigner;
use dayfly::ledger::Ledger;
use dayfly::ledger::embedded::{self, Embedded};
use dayfly::ledger::redis::{Mode, RedisConfig, RedisLedger};
use dayfly::model::access::{Access, Scope};
use dayfly::model::credential::Credential;
use dayfly::model::ids::TaskId;
use dayfly::model::secret::Secret;
use dayfly::model::ttl::Ttl;
use dayfly::provider::jwt::JwtProvider;
use dayfly::provider::{Provider, Providers};

// As in the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ISSUER: &str = "https://dayfly.example.org";

struct World {
    broker: Broker,
    evidence: Evidence,
    task: TaskId,
    access: Access,
    /// A token for a tool, and the evidence of that tool.
    shown: (Secret, Evidence),
}

impl World {
    async fn new(ledger: Arc<dyn Ledger>, journal: Arc<dyn Journal>) -> Self {
        let entropy = OsEntropy::new();
        let trust_domain = DevTrustDomain::generate("example.org".parse().unwrap(), &entropy).unwrap();
        let signer = RingSigner::generate(Algorithm::Es256, &entropy).unwrap();
        let keys = Arc::new(KeyRing::of(Arc::new(signer)));
        let life = Ttl::from_secs(3600).unwrap();
        let provider: Arc<dyn Provider> =
            Arc::new(JwtProvider::new(ISSUER, Arc::clone(&keys), life).unwrap());
        let providers = Providers::new([("jwt".parse().unwrap(), provider)]);
        let (ruleset, _) = rules::load(&configuration(), &providers).unwrap();
        let broker = Broker::new(Parts {
            clock: Arc::new(SystemClock::new()),
            entropy: Arc::new(entropy),
            verifiers: Arc::new(verifiers(&trust_domain)),
            rules: Arc::new(Rules::new(ruleset)),
            ledger,
            providers,
            issuer: Arc::new(Issuer::new(ISSUER, keys)),
            journal,
            receipts: ReceiptSigner::new(ISSUER, audit_key()),
            settings: Settings {
                live_credentials_per_task: None,
                open_tasks_per_agent: None,
                ..Settings::default()
            },
        });
        let now = SystemClock::new().now();
        let life = Ttl::from_secs(300).unwrap();
        let proof = async |path| {
            let svid = trust_domain.svid(path, ISSUER, now, life).await;
            Evidence::bearer(&svid.unwrap()).unwrap()
        };
        let shown = shown(&broker, &proof("agents/support-bot").await).await;
        let tool = proof("tools/crm").await;
        let evidence = proof("agents/report-bot").await;
        let request = broker.request_id().unwrap();
        let caller = broker.attest(&evidence, request).await.unwrap();
        let access = Access::new(
            "reports".parse().unwrap(),
            ["read".parse().unwrap()].into(),
            ["daily/2026-11-22".parse().unwrap()].into(),
        )
        .unwrap();
        let order = OpenOrder {
            purpose: "answer ticket 4711".parse().unwrap(),
            scope: Scope::new(vec![access.clone()]).unwrap(),
            on_behalf_of: None,
            ttl: None,
            heartbeat: None,
            key: None,
        };
        let task = broker.open(&caller, order, request).await.unwrap();
        Self {
            broker,
            evidence,
            task: task.charter.id,
            access,
            shown: (shown, tool),
        }
    }

    async fn issue(&self) {
        let request = self.broker.request_id().unwrap();
        let caller = self.broker.attest(&self.evidence, request).await.unwrap();
        let order = IssueOrder {
            task: self.task,
            access: self.access.clone(),
            ttl: None,
            key: None,
        };
        self.broker.issue(caller, order, request).await.unwrap();
    }

    /// What a tool asks about each request that it gets.
    async fn introspect(&self) {
        let (token, tool) = &self.shown;
        let request = self.broker.request_id().unwrap();
        let caller = self.broker.attest(tool, request).await.unwrap();
        let found = self.broker.introspect(&caller, token, request).await.unwrap();
        assert!(found.is_some());
    }
}

/// A token for the CRM.
async fn shown(broker: &Broker, evidence: &Evidence) -> Secret {
    let request = broker.request_id().unwrap();
    let caller = broker.attest(evidence, request).await.unwrap();
    let access = Access::new(
        "crm".parse().unwrap(),
        ["read".parse().unwrap()].into(),
        [].into(),
    )
    .unwrap();
    let order = OpenOrder {
        purpose: "answer ticket 4711".parse().unwrap(),
        scope: Scope::new(vec![access.clone()]).unwrap(),
        on_behalf_of: None,
        ttl: None,
        heartbeat: None,
        key: None,
    };
    let task = broker.open(&caller, order, request).await.unwrap().charter.id;
    let order = IssueOrder {
        task,
        access,
        ttl: None,
        key: None,
    };
    let issued = broker.issue(caller, order, request).await.unwrap();
    let token = issued.credential.and_then(|credential| match credential {
        Credential::Bearer(token) => Some(token),
        _ => None,
    });
    token.unwrap()
}

fn verifiers(trust_domain: &DevTrustDomain) -> Verifiers {
    let trusted = Trusted {
        trust_domain: trust_domain.name().clone(),
        bundle: Origin::Inline(trust_domain.bundle()),
        freshness: Freshness::default(),
    };
    let terms = Terms {
        audiences: Audiences::new([ISSUER]).unwrap(),
        skew: Skew::default(),
        longest_life: JwtSvid::LONGEST_LIFE,
    };
    let verifier = JwtSvid::new([trusted], terms).unwrap();
    Verifiers::new(vec![Arc::new(verifier)], CacheConfig::default())
}

/// The example policies, agents and tools.
fn configuration() -> config::Config {
    let text = "[[identity.trust_domain]]\nname = \"example.org\"\nbundle_file = \"unused.json\"\n";
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    config::parse("dayfly.toml", &base, text).unwrap()
}

fn audit_key() -> NoteSigner {
    NoteSigner::from_seed("dayfly.test/journal", &[7; 32]).unwrap()
}

/// CPU time of this process so far in milliseconds, all threads: in user space and in the kernel, as
/// the kernel counts it, in hundredths of a second.
fn cpu() -> [f64; 2] {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let (_, after_name) = stat.rsplit_once(')').unwrap_or_default();
    let mut ticks = after_name
        .split_whitespace()
        .skip(11)
        .map_while(|field| field.parse().ok());
    [(); 2].map(|()| ticks.next().unwrap_or(0.0_f64) * 10.0)
}

fn measure(criterion: &mut Criterion, name: &str, runtime: &tokio::runtime::Runtime, world: &World) {
    let mut group = criterion.benchmark_group(format!("issue/{name}"));
    for callers in [1_u32, 64] {
        group.throughput(Throughput::Elements(callers.into()));
        group.bench_function(format!("{callers}"), |bencher| {
            bencher
                .to_async(runtime)
                .iter(|| join_all((0..callers).map(|_| world.issue())));
        });
        let rounds = 12_800 / callers / if callers == 1 { 4 } else { 1 };
        let before = cpu();
        for _ in 0..rounds {
            runtime.block_on(join_all((0..callers).map(|_| world.issue())));
        }
        let [user, system] = [0, 1].map(|part: usize| {
            let spent =
                cpu().get(part).copied().unwrap_or_default() - before.get(part).copied().unwrap_or_default();
            spent * 1000.0 / f64::from(rounds * callers)
        });
        println!("issue/{name}/{callers}: CPU per issue: user {user:.0} us, system {system:.0} us");
    }
    group.finish();
}

/// How long one introspection after another takes.
fn measure_introspection(name: &str, runtime: &tokio::runtime::Runtime, world: &World) {
    let took = runtime.block_on(async {
        let mut took = Vec::new();
        for _ in 0..4000 {
            let began = Instant::now();
            world.introspect().await;
            took.push(began.elapsed());
        }
        took.sort_unstable();
        took
    });
    let at = |part: usize| {
        took.get(took.len() * part / 100)
            .map_or(0.0, |took| took.as_secs_f64() * 1e6)
    };
    let (p50, p99) = (at(50), at(99));
    println!("introspect/{name}: p50 {p50:.0} us, p99 {p99:.0} us");
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let runtime = tokio::runtime::Runtime::new().unwrap();

    let ledger = Arc::new(Embedded::in_memory(embedded::Config::default()).unwrap());
    let world = runtime.block_on(World::new(ledger, Arc::new(MemoryJournal::new(audit_key()))));
    measure_introspection("memory", &runtime, &world);
    measure(&mut criterion, "memory", &runtime, &world);
    drop(world);

    let dir = tempfile::tempdir_in(Path::new(env!("CARGO_TARGET_TMPDIR"))).unwrap();
    let ledger = Embedded::open(&dir.path().join("ledger"), embedded::Config::default()).unwrap();
    let journal = FileJournal::open(&dir.path().join("journal"), Options::default(), audit_key()).unwrap();
    let journal = Arc::new(journal);
    let world = runtime.block_on(World::new(Arc::new(ledger), journal.clone()));
    measure_introspection("file", &runtime, &world);
    measure(&mut criterion, "file", &runtime, &world);
    drop(world);

    if let Ok(url) = std::env::var("DAYFLY_TEST_REDIS") {
        let random: [u8; 8] = draw(&OsEntropy::new()).unwrap();
        let config = RedisConfig {
            prefix: format!("bench-{:016x}", u64::from_be_bytes(random)),
            ..RedisConfig::new(Mode::Single {
                url: Secret::new(url),
            })
        };
        let ledger = runtime.block_on(RedisLedger::connect(&config)).unwrap();
        let world = runtime.block_on(World::new(Arc::new(ledger), journal));
        measure_introspection("redis", &runtime, &world);
        measure(&mut criterion, "redis", &runtime, &world);
    } else {
        println!("DAYFLY_TEST_REDIS is not set: Redis is not measured");
    }
    criterion.final_summary();
}
