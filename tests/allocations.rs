//! How often one request asks for heap memory, and for how many bytes: no more than is recorded here. Times say little
//! on a machine that others use; this is the same in every run, so a regression shows at once.
//!
//! The requests go to the router of `dayfly serve`, with its layers, its metrics and its logs, and on to the broker:
//! the example agents, tools and policies, evidence that was verified before, the JWT provider, a journal on disk, an
//! embedded ledger in memory. Counted is what the thread does that serves the request. The threads of ledger and
//! journal, which work for many requests at a time, are not; nor is the connection. A buffer that grows counts each
//! time, with its new size. Optimised code allocates a little less.
//!
//! `cargo test --test allocations -- --nocapture` prints a table.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "in a test that is how it fails"
)]

use std::sync::Arc;

use allocation_counter::{AllocationInfo, measure};
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, header};
use dayfly::app::{identity, journal, providers, rules};
use dayfly::broker::rules::Rules;
use dayfly::broker::{Broker, Parts, Settings};
use dayfly::clock::ManualClock;
use dayfly::config;
use dayfly::dev::estate::Estate;
use dayfly::entropy::OsEntropy;
use dayfly::http::{HttpState, Limits, router};
use dayfly::keys::issuer::Issuer;
use dayfly::ledger::embedded::{self, Embedded};
use dayfly::ledger::measured::Measured;
use dayfly::model::time::Timestamp;
use dayfly::telemetry;
use serde_json::{Value, json};
use tokio::runtime::{self, Runtime};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

/// What a request took when that was last recorded: its name, allocations, bytes. Lower it with what you save. Raise it
/// for what is worth it alone, and say in the commit what that is.
const RECORDED: [(&str, u64, u64); 5] = [
    ("open", 80, 17539),
    ("issue", 108, 31978),
    ("introspect", 167, 19795),
    ("renew", 130, 29552),
    ("complete", 70, 16451),
];
/// How much more than recorded a request may take, and how much less, in percent: compilers and libraries differ.
const SLACK: (u64, u64) = (5, 10);

/// How often each request is made before anything counts: caches fill, and what is made once is made.
const WARM_UP: usize = 20;
/// How often it is made then. What all of them take counts, the least: now and then one tidies up for others.
const TIMES: usize = 100;

/// A Sunday morning, within the hours of the example policies.
const MORNING: Timestamp = Timestamp::from_secs(1_795_338_000);
const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";

struct World {
    runtime: Runtime,
    router: Router,
    broker: Arc<Broker>,
    agent: String,
    tool: String,
    _files: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let logs = telemetry::subscriber(
            telemetry::LogFormat::default(),
            "info",
            std::io::sink,
            false,
            None,
        );
        tracing::subscriber::set_global_default(logs.unwrap()).unwrap();
        let metrics = telemetry::init_metrics().unwrap();
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.unwrap();

        let files = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let entropy = OsEntropy::new();
        let estate = Estate::lay_out(files.path(), ([127, 0, 0, 1], 8440).into(), &entropy).unwrap();
        let config = config::load(&estate.configuration()).unwrap();
        let issuer = config.server.public_url.clone();
        let clock = Arc::new(ManualClock::at(MORNING));
        let keys = Arc::new(providers::open_keys(&config, &entropy, MORNING).unwrap());
        let ambient = providers::Ambient {
            clock: clock.clone(),
            entropy: Arc::new(entropy.clone()),
            keys: Arc::clone(&keys),
        };
        let providers = providers::build(&config, &ambient).unwrap();
        let (journal, receipts) = journal::open(&config.journal, &issuer, &entropy).unwrap();
        let ledger = Embedded::in_memory(embedded::Config::default()).unwrap();
        let broker = Arc::new(Broker::new(Parts {
            clock,
            entropy: Arc::new(entropy),
            verifiers: Arc::new(identity::build(&config.identity, None).unwrap()),
            rules: Arc::new(Rules::new(rules::load(&config, &providers).unwrap().0)),
            ledger: Arc::new(Measured::new(Arc::new(ledger))),
            providers,
            issuer: Arc::new(Issuer::new(issuer.clone(), Arc::clone(&keys))),
            journal: Arc::new(journal),
            receipts,
            settings: Settings::default(),
        }));
        let state = HttpState {
            broker: Arc::clone(&broker),
            streams: Arc::default(),
            jwks: Arc::new(move || keys.jwks()),
            issuer,
            metrics,
            tracker: TaskTracker::new(),
            stop: CancellationToken::new(),
        };
        let limits = Limits {
            body: config.server.body_limit,
            concurrency: config.server.max_concurrent_requests,
            request: config.server.request_timeout,
            drain: config.server.drain_timeout,
        };
        let evidence = |agent| {
            let evidence = runtime.block_on(estate.evidence(agent, MORNING)).unwrap();
            format!("Bearer {evidence}")
        };
        Self {
            agent: evidence("support-bot"),
            tool: evidence("crm-server"),
            router: router(state, &limits),
            broker,
            runtime,
            _files: files,
        }
    }

    /// Makes a request, and says what that took and what the answer was.
    fn ask(&self, who: &str, path: &str, media: &str, body: String) -> (AllocationInfo, Value) {
        let request = Request::post(path)
            .header(header::AUTHORIZATION, who)
            .header(header::CONTENT_TYPE, media)
            .body(Body::from(body))
            .unwrap();
        let (router, mut answer) = (self.router.clone(), None);
        let took = measure(|| answer = Some(self.runtime.block_on(router.oneshot(request))));
        let answer = answer.unwrap().unwrap();
        let status = answer.status();
        let body = self.runtime.block_on(to_bytes(answer.into_body(), usize::MAX));
        let body: Value = serde_json::from_slice(&body.unwrap()).unwrap();
        assert!(status.is_success(), "{path}: {body}");
        (took, body)
    }

    /// The life of a credential from the task to its end: what each request took, in the order of [`RECORDED`].
    fn live(&self) -> [AllocationInfo; RECORDED.len()] {
        let access = json!({"tool": "crm", "actions": ["read"], "resources": ["customers/42"]});
        let order = json!({"purpose": "answer ticket 4711", "scope": [access]});
        let (opened, task) = self.ask(&self.agent, "/v1/tasks", JSON, order.to_string());
        let task = format!("/v1/tasks/{}", task["id"].as_str().unwrap());

        let issue = format!("{task}/credentials");
        let order = json!({"tool": "crm", "actions": ["read"], "resources": ["customers/42"], "ttl": "5m"});
        let (issued, answer) = self.ask(&self.agent, &issue, JSON, order.to_string());
        let token = format!("token={}", answer["credential"]["token"].as_str().unwrap());
        let (introspected, found) = self.ask(&self.tool, "/oauth2/introspect", FORM, token);
        assert_eq!(found["active"], true);

        let renew = format!("/v1/leases/{}/renew", answer["lease"]["id"].as_str().unwrap());
        let (renewed, _) = self.ask(&self.agent, &renew, JSON, json!({"ttl": "5m"}).to_string());
        let complete = format!("{task}/complete");
        let order = json!({"outcome": "completed"});
        let (completed, _) = self.ask(&self.agent, &complete, JSON, order.to_string());
        // The reaper's work, so that the ledger does not fill up with what waits for it.
        while self.runtime.block_on(self.broker.sweep()).unwrap().claimed > 0 {}
        [opened, issued, introspected, renewed, completed]
    }
}

/// What is to be done about what was seen, where anything is.
fn verdict(what: &str, unit: &str, seen: u64, recorded: u64) -> Option<String> {
    let (more, less) = SLACK;
    if seen * 100 > recorded * (100 + more) {
        Some(format!(
            "{what}: {seen} {unit}, which is more than {recorded} and {more} %. Find out where they come from \
             (docs/reference/performance.md says how) and do without them, or record {seen}"
        ))
    } else if seen * 100 < recorded * (100 - less) {
        Some(format!(
            "{what}: {seen} {unit}, which is less than {recorded} by more than {less} %. Well done: record {seen}, so \
             that it stays"
        ))
    } else {
        None
    }
}

fn spread(mut seen: Vec<u64>) -> [u64; 3] {
    seen.sort_unstable();
    [seen[0], seen[seen.len() / 2], seen[seen.len() - 1]]
}

#[test]
fn a_request_takes_no_more_memory_than_is_recorded() {
    let world = World::new();
    let nothing = measure(|| world.runtime.block_on(async {}));
    assert_eq!(nothing.count_total, 0, "waiting itself is not free");
    for _ in 0..WARM_UP {
        world.live();
    }
    let lives: Vec<_> = (0..TIMES).map(|_| world.live()).collect();

    let mut wrong = Vec::new();
    println!("{:10} {:>56} {:>56}", "", "ALLOCATIONS", "BYTES");
    for (place, (what, allocations, bytes)) in RECORDED.into_iter().enumerate() {
        let of =
            |part: fn(&AllocationInfo) -> u64| spread(lives.iter().map(|took| part(&took[place])).collect());
        let mut row = format!("{what:10}");
        for (unit, [least, median, most], recorded) in [
            ("allocations", of(|took| took.count_total), allocations),
            ("bytes", of(|took| took.bytes_total), bytes),
        ] {
            row += &format!(
                " {:>56}",
                format!("{least} (median {median}, most {most}; recorded {recorded})")
            );
            wrong.extend(verdict(what, unit, least, recorded));
        }
        println!("{row}");
    }
    assert!(
        wrong.is_empty(),
        "in `RECORDED` of tests/allocations.rs:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn more_than_the_slack_is_told_either_way() {
    assert_eq!(verdict("issue", "bytes", 105, 100), None);
    assert_eq!(verdict("issue", "bytes", 90, 100), None);
    assert!(
        verdict("issue", "bytes", 106, 100)
            .unwrap()
            .contains("record 106")
    );
    assert!(verdict("issue", "bytes", 89, 100).unwrap().contains("record 89"));
}
