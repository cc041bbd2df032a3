//! A key leaves the bundle of its authority: what it vouched for ends, at whichever broker it was given out
//! and however late that one learns of it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dayfly::broker::Broker;
use dayfly::broker::delegate::DelegateOrder;
use dayfly::broker::error::BrokerError;
use dayfly::broker::issue::IssueOrder;
use dayfly::dev::trust_domain::DevTrustDomain;
use dayfly::entropy::OsEntropy;
use dayfly::identity::IdentityError;
use dayfly::identity::fetch::Endpoint;
use dayfly::identity::key_source::Origin;
use dayfly::identity::verifiers::Verifiers;
use dayfly::journal::record::{Result as Outcome, Verb};
use dayfly::keys::jwk::{KeySet, KeyUse};
use dayfly::ledger::Ledger;
use dayfly::model::ids::TaskId;
use dayfly::model::lease::{Cause, Lease, LeaseState, VouchingKey};
use dayfly::model::ttl::Ttl;
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::world::gated::{Gated, Slow};
use crate::world::{Plan, World, access, order};

/// How often somebody looks whether it has come so far. Time runs ahead of the ledger, so it is looked often.
const LOOKS: usize = 2000;

/// Two brokers on one ledger, each with a bundle of its own.
struct Pair {
    world: World,
    brokers: [Arc<Broker>; 2],
    bundles: [PathBuf; 2],
    verifiers: [Arc<Verifiers>; 2],
    _stop: DropGuard,
    _files: tempfile::TempDir,
}

impl Pair {
    fn new() -> Self {
        Self::of(Plan::default())
    }

    fn on(gated: impl FnOnce(Arc<dyn Ledger>) -> Arc<dyn Ledger> + 'static) -> Self {
        Self::of(Plan {
            ledger: Box::new(gated),
            ..Plan::default()
        })
    }

    fn of(plan: Plan) -> Self {
        let files = tempfile::tempdir().unwrap();
        let bundles = ["one", "two"].map(|name| files.path().join(name));
        // The key of the world's own trust domain is known once the world is there.
        for path in &bundles {
            std::fs::write(path, r#"{"keys": []}"#).unwrap();
        }
        let world = World::of(Plan {
            bundle: Some(Origin::File(bundles[0].clone())),
            ..plan
        });
        let (replica, verifiers) = world.replica(Origin::File(bundles[1].clone()));
        let brokers = [world.broker.clone(), replica];
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let verifiers = [world.verifiers.clone(), verifiers];
        for source in verifiers.iter().flat_map(|verifiers| verifiers.key_sources()) {
            let run = source.clone().run(Arc::new(OsEntropy::new()), stop.clone());
            tracker.spawn(run);
        }
        for broker in &brokers {
            tracker.spawn(broker.clone().watch_trust(stop.clone()));
        }
        Self {
            world,
            brokers,
            bundles,
            verifiers,
            _stop: stop.drop_guard(),
            _files: files,
        }
    }

    /// The bundle that one broker reads becomes this, and it is read.
    async fn trust(&self, broker: usize, keys: &[Value]) {
        std::fs::write(&self.bundles[broker], bundle(keys)).unwrap();
        let source = self.verifiers[broker].key_sources().next().unwrap();
        for _ in 0..LOOKS {
            if source.trusted().unwrap() == named(source.authority(), keys) {
                return;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        panic!("it was not read");
    }

    /// Whatever brokers do by themselves about it.
    async fn settle(&self) {
        tokio::time::sleep(Duration::from_secs(1)).await;
        while self.world.broker.recheck().await.unwrap() {}
        self.world.reap().await;
    }

    /// By what a lease ends, when it does.
    async fn ended(&self, lease: &Lease) -> Cause {
        for _ in 0..LOOKS {
            self.settle().await;
            if let Some(cause) = self.cause(lease).await {
                return cause;
            }
        }
        panic!("it lives on");
    }

    /// That a lease lives on.
    async fn stands(&self, lease: &Lease) {
        for _ in 0..20 {
            self.settle().await;
            assert_eq!(self.cause(lease).await, None);
        }
    }

    /// Both brokers know the key of the trust domain.
    async fn ready(&self) {
        for broker in 0..2 {
            self.trust(broker, &[self.key()]).await;
        }
        // Whoever starts next finds it out by this.
        while self
            .world
            .ledger
            .mark("vouching jwt_svid example.org")
            .await
            .unwrap()
            .is_none_or(|mark| mark.is_empty())
        {
            self.settle().await;
        }
        for _ in 0..20 {
            self.settle().await;
        }
    }

    async fn task(&self, broker: usize) -> TaskId {
        let broker = &self.brokers[broker];
        let request = broker.request_id().unwrap();
        let caller = broker
            .attest(&self.world.evidence("support-bot").await, request)
            .await
            .unwrap();
        let task = broker.open(&caller, order(&["crm:read"]), request).await.unwrap();
        task.charter.id
    }

    async fn issue(&self, broker: usize) -> Lease {
        let task = self.task(broker).await;
        let broker = &self.brokers[broker];
        let request = broker.request_id().unwrap();
        let caller = broker
            .attest(&self.world.evidence("support-bot").await, request)
            .await
            .unwrap();
        broker.issue(caller, wanted(task), request).await.unwrap().lease
    }

    /// The key leaves, and what it vouched for is looked for, while something slow is under way.
    async fn lose_the_key_during(&self, slow: &Slow) {
        slow.inside.acquire().await.unwrap().forget();
        self.trust(0, &[another_key()]).await;
        for _ in 0..20 {
            self.settle().await;
        }
        slow.released.add_permits(1);
    }

    async fn cause(&self, lease: &Lease) -> Option<Cause> {
        match self.world.ledger.lease(lease.id).await.unwrap().unwrap().state {
            LeaseState::Ended { cause, .. } => Some(cause),
            _ => None,
        }
    }

    fn key(&self) -> Value {
        key_of(&self.world.trust_domain)
    }
}

fn wanted(task: TaskId) -> IssueOrder {
    IssueOrder {
        task,
        access: access("crm:read"),
        ttl: Some(Ttl::from_secs(600).unwrap()),
        key: None,
    }
}

fn bundle(keys: &[Value]) -> String {
    json!({"keys": keys, "spiffe_sequence": 2, "spiffe_refresh_hint": 60}).to_string()
}

fn key_of(domain: &DevTrustDomain) -> Value {
    let bundle: Value = serde_json::from_str(&domain.bundle()).unwrap();
    bundle["keys"][0].clone()
}

/// What vouches for something by these keys remembers of them.
fn named(authority: &str, keys: &[Value]) -> BTreeSet<VouchingKey> {
    let set = KeySet::parse(bundle(keys).as_bytes(), KeyUse::JwtSvid).unwrap();
    let keys = set.keys().iter();
    keys.map(|key| VouchingKey::of(authority, &key.id().unwrap().0, &key.thumbprint()))
        .collect()
}

fn another_key() -> Value {
    let domain = DevTrustDomain::generate("example.org".parse().unwrap(), &OsEntropy::new());
    key_of(&domain.unwrap())
}

#[tokio::test(start_paused = true)]
async fn what_a_key_vouched_for_ends_when_it_leaves_its_bundle() {
    let pair = Pair::new();
    pair.ready().await;
    let (here, there) = (pair.issue(0).await, pair.issue(1).await);
    let next = another_key();
    pair.trust(0, &[pair.key(), next.clone()]).await;
    pair.stands(&here).await;
    pair.trust(0, &[next]).await;
    for lease in [&here, &there] {
        assert_eq!(pair.ended(lease).await, Cause::AttestationRevoked);
    }
    let told = pair.world.records(Verb::Recheck);
    assert_eq!(told.len(), 2);
    assert!(
        told.iter()
            .all(|record| record.cause.as_deref() == Some("attestation_revoked"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_learns_of_it_late_ends_what_it_gave_out_meanwhile() {
    let pair = Pair::new();
    pair.ready().await;
    let (early, next) = (pair.issue(1).await, another_key());
    pair.trust(0, std::slice::from_ref(&next)).await;
    assert_eq!(pair.ended(&early).await, Cause::AttestationRevoked);
    let late = pair.issue(1).await;
    pair.stands(&late).await;
    pair.trust(1, &[next]).await;
    assert_eq!(pair.ended(&late).await, Cause::AttestationRevoked);
}

#[tokio::test(start_paused = true)]
async fn other_material_under_the_name_of_a_key_is_another_key() {
    let pair = Pair::new();
    pair.ready().await;
    let lease = pair.issue(0).await;
    let mut other = another_key();
    other["kid"] = pair.key()["kid"].clone();
    pair.trust(0, &[other]).await;
    assert_eq!(pair.ended(&lease).await, Cause::AttestationRevoked);
}

/// Whoever has stolen the key says himself how long his evidence holds.
#[tokio::test(start_paused = true)]
async fn evidence_that_expired_since_is_no_way_out() {
    let pair = Pair::new();
    pair.ready().await;
    let lease = pair.issue(0).await;
    pair.world.clock.advance(Duration::from_secs(301));
    assert!(pair.world.now() < lease.expires_at, "it outlives its evidence");
    pair.trust(0, &[another_key()]).await;
    assert_eq!(pair.ended(&lease).await, Cause::AttestationRevoked);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_left_while_no_broker_ran_is_noticed_at_the_next_start() {
    let pair = Pair::new();
    pair.ready().await;
    let lease = pair.issue(0).await;
    let (next, _) = pair.world.replica(Origin::Inline(bundle(&[another_key()])));
    let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
    let _stop = stop.clone().drop_guard();
    tracker.spawn(next.watch_trust(stop));
    assert_eq!(pair.ended(&lease).await, Cause::AttestationRevoked);
}

/// Who has an agent beside him learns of each key at once, and looks once a second.
#[tokio::test(start_paused = true)]
async fn a_key_that_came_and_went_between_two_looks_is_noticed() {
    let files = tempfile::tempdir().unwrap();
    let path = files.path().join("bundle");
    std::fs::write(&path, bundle(&[another_key()])).unwrap();
    let world = World::of(Plan {
        bundle: Some(Origin::File(path.clone())),
        ..Plan::default()
    });
    let source = world.verifiers.key_sources().next().unwrap().clone();
    let trust = async |key: Value| {
        std::fs::write(&path, bundle(&[key])).unwrap();
        source.refresh().await.unwrap();
    };
    trust(key_of(&world.trust_domain)).await;
    let request = world.broker.request_id().unwrap();
    let caller = world.caller("support-bot").await;
    let task = world
        .broker
        .open(&caller, order(&["crm:read"]), request)
        .await
        .unwrap();
    let wanted = wanted(task.charter.id);
    let caller = world.caller("support-bot").await;
    let issued = world.broker.issue(caller, wanted, request).await.unwrap();
    trust(another_key()).await;

    let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
    let _stop = stop.clone().drop_guard();
    tracker.spawn(world.broker.clone().watch_trust(stop));
    for _ in 0..LOOKS {
        tokio::time::sleep(Duration::from_secs(1)).await;
        while world.broker.recheck().await.unwrap() {}
        world.reap().await;
        let lease = world.ledger.lease(issued.lease.id).await.unwrap().unwrap();
        if let LeaseState::Ended { cause, .. } = lease.state {
            assert_eq!(cause, Cause::AttestationRevoked);
            return;
        }
    }
    panic!("it lives on");
}

/// The evidence was looked at before the body came.
#[tokio::test(start_paused = true)]
async fn who_was_vouched_for_by_a_key_that_left_meanwhile_gets_nothing() {
    let pair = Pair::new();
    pair.ready().await;
    let task = pair.task(0).await;
    let caller = pair.world.caller("support-bot").await;
    pair.trust(0, &[another_key()]).await;
    let request = pair.world.request();
    let refused = pair.world.broker.issue(caller, wanted(task), request).await;
    let Err(BrokerError::Denied { reason, .. }) = refused else {
        panic!("{refused:?}")
    };
    assert!(reason.contains("not trusted any more"), "{reason}");
}

/// It was trusted when policy was asked, and what it had vouched for was looked for before the lease was there.
#[tokio::test(start_paused = true)]
async fn nothing_is_given_out_whose_key_left_meanwhile() {
    let slow = Slow::at("reserve");
    let gate = slow.clone();
    let pair = Pair::on(move |ledger| Arc::new(Gated { ledger, gate }));
    pair.ready().await;
    let task = pair.task(0).await;
    let caller = pair.world.caller("support-bot").await;
    let request = pair.world.request();
    let issuing = pair.world.broker.issue(caller, wanted(task), request);
    let (refused, ()) = tokio::join!(issuing, pair.lose_the_key_during(&slow));
    withheld(&pair, Verb::Issue, refused.map(|issued| issued.lease)).await;
}

#[tokio::test(start_paused = true)]
async fn nothing_lives_on_whose_key_left_meanwhile() {
    let slow = Slow::at("renew");
    let gate = slow.clone();
    let pair = Pair::on(move |ledger| Arc::new(Gated { ledger, gate }));
    pair.ready().await;
    let lease = pair.issue(0).await;
    let caller = pair.world.caller("support-bot").await;
    let request = pair.world.request();
    let renewing = pair.world.broker.renew(caller, lease.id, None, request);
    let (refused, ()) = tokio::join!(renewing, pair.lose_the_key_during(&slow));
    assert!(refused.is_err(), "{refused:?}");
    // By whichever came first: whoever takes back what the renewal made, or the recheck.
    let cause = pair.ended(&lease).await;
    assert!(
        matches!(cause, Cause::AttestationRevoked | Cause::Compensated),
        "{cause:?}"
    );
}

/// That a credential was not shown, and that its lease is over.
async fn withheld(pair: &Pair, verb: Verb, refused: Result<Lease, BrokerError>) {
    let Err(BrokerError::Denied { reason, .. }) = refused else {
        panic!("{refused:?}")
    };
    assert!(reason.contains("not trusted any more"), "{reason}");
    let recorded = pair.world.records(verb);
    let [permitted, failed] = recorded.as_slice() else {
        panic!("{recorded:?}")
    };
    assert_eq!((permitted.lease, failed.result), (failed.lease, Outcome::Failed));
    let lease = pair
        .world
        .ledger
        .lease(failed.lease.unwrap())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(pair.ended(&lease).await, Cause::Compensated);
}

/// An agent may be known by evidence of several trust domains; a lease is found by the one that it was issued in.
#[tokio::test(start_paused = true)]
async fn evidence_of_another_trust_domain_renews_nothing() {
    let pair = across(|ledger| ledger);
    pair.ready().await;
    pair.world.reload_agents(|agent, text| match agent {
        "report-bot" => {
            let (front, rule) = text.split_once("[[match]]").unwrap();
            let elsewhere = rule.replace("spiffe://example.org/", "spiffe://partner.example/");
            format!("{front}[[match]]{rule}\n[[match]]{elsewhere}")
        }
        _ => text,
    });
    let own = pair.world.open("report-bot", &["reports:read"]).await.charter.id;
    let lease = report(&pair, own).await.unwrap();
    let request = pair.world.request();
    let home = pair.world.evidence_of("/agents/report-bot").await;
    let caller = pair.world.broker.attest(&home, request).await.unwrap();
    let refused = pair.world.broker.renew(caller, lease.id, None, request).await;
    let Err(BrokerError::Denied { reason, .. }) = refused else {
        panic!("{refused:?}")
    };
    assert!(reason.contains("another trust domain"), "{reason}");
}

/// A task that support-bot handed on to report-bot, for whose workload another trust domain vouches.
async fn handed_on(pair: &Pair) -> TaskId {
    let world = &pair.world;
    world.hand_on_across();
    let root = world.open("support-bot", &["reports:read"]).await;
    let part = DelegateOrder {
        parent: root.charter.id,
        to: Some("report-bot".parse().unwrap()),
        purpose: "sum up".parse().unwrap(),
        scope: root.charter.scope,
        ttl: None,
        heartbeat: None,
        key: None,
    };
    let caller = world.caller("support-bot").await;
    let part = world
        .broker
        .delegate(&caller, part, world.request())
        .await
        .unwrap();
    part.charter.id
}

async fn report(pair: &Pair, task: TaskId) -> Result<Lease, BrokerError> {
    let world = &pair.world;
    let order = IssueOrder {
        access: access("reports:read"),
        ..wanted(task)
    };
    let issued = world
        .broker
        .issue(world.caller("report-bot").await, order, world.request());
    Ok(issued.await?.lease)
}

/// That nothing is issued in a task any more, because of a key by which it was handed on.
async fn gives_nothing(pair: &Pair, task: TaskId) {
    let refused = report(pair, task).await;
    let Err(BrokerError::Denied { reason, .. }) = refused else {
        panic!("{refused:?}")
    };
    let why = "the key that vouched for `support-bot`, which handed this on, is not trusted any more";
    assert!(reason.starts_with(why), "{reason}");
}

fn across(gated: impl FnOnce(Arc<dyn Ledger>) -> Arc<dyn Ledger> + 'static) -> Pair {
    Pair::of(Plan {
        ledger: Box::new(gated),
        partner: true,
        ..Plan::default()
    })
}

#[tokio::test(start_paused = true)]
async fn what_was_handed_on_by_a_key_that_leaves_ends_too() {
    let pair = across(|ledger| ledger);
    pair.ready().await;
    let part = handed_on(&pair).await;
    let lease = report(&pair, part).await.unwrap();
    let own = pair.world.open("report-bot", &["reports:read"]).await.charter.id;
    let alone = report(&pair, own).await.unwrap();
    let next = another_key();
    pair.trust(0, &[pair.key(), next.clone()]).await;
    pair.stands(&lease).await;
    pair.trust(0, &[next]).await;
    assert_eq!(pair.ended(&lease).await, Cause::AttestationRevoked);
    let told = pair.world.records(Verb::Recheck);
    assert_eq!((told.len(), told[0].lease), (1, Some(lease.id)));
    gives_nothing(&pair, part).await;
    pair.stands(&alone).await;
    pair.world.clock.advance(Duration::from_secs(301));
    gives_nothing(&pair, part).await;
    report(&pair, own).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn nothing_is_given_out_while_the_key_leaves_that_it_was_handed_on_by() {
    let slow = Slow::at("reserve");
    let gate = slow.clone();
    let pair = across(move |ledger| Arc::new(Gated { ledger, gate }));
    pair.ready().await;
    let part = handed_on(&pair).await;
    let (refused, ()) = tokio::join!(report(&pair, part), pair.lose_the_key_during(&slow));
    withheld(&pair, Verb::Issue, refused).await;
}

/// Keys that are not held at present say nothing about whoever asks.
#[tokio::test(start_paused = true)]
async fn a_sub_task_waits_while_the_keys_behind_it_are_not_known() {
    let pair = across(|ledger| ledger);
    pair.ready().await;
    let part = handed_on(&pair).await;
    let nowhere = Endpoint::open("https://127.0.0.1:9/".parse().unwrap());
    let (next, _) = pair.world.replica(Origin::Endpoint(nowhere));
    next.rules().replace(pair.world.across());
    let request = next.request_id().unwrap();
    let evidence = pair.world.evidence("report-bot").await;
    let caller = next.attest(&evidence, request).await.unwrap();
    let order = IssueOrder {
        access: access("reports:read"),
        ..wanted(part)
    };
    let refused = next.issue(caller, order, request).await;
    let unknown = matches!(
        refused,
        Err(BrokerError::Unidentified(IdentityError::Unavailable(_)))
    );
    assert!(unknown, "{refused:?}");
}
