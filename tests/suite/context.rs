//! A change of context ends what is out: facts, rules, registry, kill orders, decided anew in one broker.

mod causes;
mod meanwhile;
mod replicas;
mod rules;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;

use dayfly::broker::error::BrokerError;
use dayfly::broker::facts::FactOrder;
use dayfly::broker::issue::IssueOrder;
use dayfly::journal::record::{Result as Outcome, Verb};
use dayfly::ledger::context::Stated;
use dayfly::model::cutoff::Selector;
use dayfly::model::ids::LeaseId;
use dayfly::model::lease::{Cause, Lease, LeaseState};
use dayfly::model::recheck::{Progress, Recheck, Work};
use dayfly::model::task::TaskState;

use dayfly::identity::key_source::Origin;
use tokio::sync::Notify;

use crate::world::gated::{Counter, Gate, Gated};
use crate::world::tripwire::Tripwire;
use crate::world::vending::Vending;
use crate::world::{self, Plan, World, access};

async fn state(world: &World, about: &str, name: &str, value: Option<&str>) -> Stated {
    let order = FactOrder {
        about: about.parse().unwrap(),
        name: name.parse().unwrap(),
        value: value.map(|value| value.parse().unwrap()),
        at: None,
        expires_at: None,
        reason: None,
    };
    let operator = world.caller("ops-console").await;
    let stated = world.broker.state_fact(&operator, order, world.request()).await;
    stated.unwrap().1
}

async fn issued(world: &World) -> Lease {
    let task = world.open("support-bot", &["crm:read"]).await.charter.id;
    world.issue("support-bot", task, "crm:read").await.unwrap().lease
}

async fn order(world: &World, whom: Selector, work: Work) {
    let recheck = Recheck {
        whom,
        work,
        why: "because".into(),
        ordered_at: world.now(),
        progress: Progress::default(),
    };
    world.ledger.order_recheck(&recheck).await.unwrap();
}

/// Works off every recheck, and then all that is due.
async fn settle(world: &World) {
    while world.broker.recheck().await.unwrap() {}
    world.reap().await;
}

async fn now(world: &World, lease: &Lease) -> Lease {
    world.ledger.lease(lease.id).await.unwrap().unwrap()
}

#[track_caller]
fn cause(lease: &Lease) -> Option<Cause> {
    match &lease.state {
        LeaseState::Ended { cause, .. } => Some(*cause),
        _ => None,
    }
}

#[tokio::test(start_paused = true)]
async fn a_fact_denies_at_once_and_ends_what_is_out_and_nothing_else() {
    let world = World::new();
    let task = world.open("support-bot", &["crm:read"]).await.charter.id;
    let other = world.open("report-bot", &["reports:read"]).await.charter.id;
    let lease = world.issue("support-bot", task, "crm:read").await.unwrap().lease;
    let theirs = world
        .issue("report-bot", other, "reports:read")
        .await
        .unwrap()
        .lease;

    let stated = state(&world, "agent/support-bot", "incident", Some("open")).await;
    assert!(matches!(stated, Stated::New(_)), "{stated:?}");
    let denied = world.issue("support-bot", task, "crm:read").await.unwrap_err();
    assert!(
        denied.to_string().contains("part of an open incident"),
        "{denied}"
    );
    settle(&world).await;
    assert_eq!(cause(&now(&world, &lease).await), Some(Cause::NotPermitted));
    assert_eq!(cause(&now(&world, &theirs).await), None);

    let rechecks = world.records(Verb::Recheck);
    let [told] = rechecks.as_slice() else {
        panic!("{rechecks:?}")
    };
    assert_eq!((told.lease, told.result), (Some(lease.id), Outcome::Denied));
    assert_eq!(
        told.policies.iter().map(|id| id.0.as_ref()).collect::<Vec<_>>(),
        ["baseline-incident-agent"]
    );
    assert!(
        told.reason
            .as_ref()
            .unwrap()
            .starts_with("agent/support-bot incident=open: ")
    );

    let stated = state(&world, "agent/support-bot", "incident", Some("open")).await;
    assert!(matches!(stated, Stated::Unchanged), "{stated:?}");
    let stated = state(&world, "agent/support-bot", "incident", None).await;
    assert!(matches!(stated, Stated::New(_)), "{stated:?}");
    world.issue("support-bot", task, "crm:read").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_given_out_by_the_rules_of_before_is_decided_anew_when_the_next_broker_starts() {
    let world = World::new();
    let old = world.replica(Origin::Inline(world.trust_domain.bundle())).0;
    world.suspend(&["support-bot"]);
    world.broker.settle_rules().await.unwrap();
    settle(&world).await;

    // One that has not been replaced yet.
    let request = world.request();
    let evidence = world.evidence("support-bot").await;
    let caller = old.attest(&evidence, request).await.unwrap();
    let task = old
        .open(&caller, world::order(&["crm:read"]), request)
        .await
        .unwrap();
    let wanted = IssueOrder {
        task: task.charter.id,
        access: access("crm:read"),
        ttl: None,
        key: None,
    };
    let lease = old.issue(caller, wanted, request).await.unwrap().lease;
    settle(&world).await;
    assert_eq!(cause(&now(&world, &lease).await), None);

    // The start of the one in its place.
    world.broker.settle_rules().await.unwrap();
    settle(&world).await;
    assert_eq!(cause(&now(&world, &lease).await), Some(Cause::AgentSuspended));

    world.clock.advance(Duration::from_secs(25 * 3600));
    world.broker.settle_rules().await.unwrap();
    assert!(
        world.ledger.rechecks().await.unwrap().is_empty(),
        "that is long ago"
    );
}

/// At a broker that has not heard of it yet.
#[tokio::test(start_paused = true)]
async fn who_is_part_of_an_incident_does_not_take_it_back() {
    let world = World::new();
    let other = world.replica(Origin::Inline(world.trust_domain.bundle())).0;
    state(&world, "agent/ops-console", "incident", Some("open")).await;
    let request = world.request();
    let operator = other
        .attest(&world.evidence("ops-console").await, request)
        .await
        .unwrap();
    let order = FactOrder {
        about: "agent/ops-console".parse().unwrap(),
        name: "incident".parse().unwrap(),
        value: None,
        at: None,
        expires_at: None,
        reason: None,
    };
    let refused = other.state_fact(&operator, order, request).await;
    assert!(matches!(refused, Err(BrokerError::Denied { .. })), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn a_fact_that_runs_out_is_no_more() {
    let world = World::new();
    let task = world.open("support-bot", &["crm:read"]).await.charter.id;
    let order = FactOrder {
        about: "agent/support-bot".parse().unwrap(),
        name: "incident".parse().unwrap(),
        value: Some("open".parse().unwrap()),
        at: None,
        expires_at: Some(world.now().plus(Duration::from_secs(60))),
        reason: Some("incident 12".into()),
    };
    let operator = world.caller("ops-console").await;
    world
        .broker
        .state_fact(&operator, order, world.request())
        .await
        .unwrap();
    assert!(world.issue("support-bot", task, "crm:read").await.is_err());
    world.clock.advance(Duration::from_secs(61));
    world.issue("support-bot", task, "crm:read").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_may_not_state_facts_does_not() {
    let world = World::new();
    let order = FactOrder {
        about: "agent/report-bot".parse().unwrap(),
        name: "incident".parse().unwrap(),
        value: Some("open".parse().unwrap()),
        at: None,
        expires_at: None,
        reason: None,
    };
    let agent = world.caller("support-bot").await;
    let refused = world.broker.state_fact(&agent, order, world.request()).await;
    assert!(matches!(refused, Err(BrokerError::Denied { .. })), "{refused:?}");
    let told = world.records(Verb::Fact);
    assert_eq!((told.len(), told[0].result), (1, Outcome::Denied));
}

#[tokio::test(start_paused = true)]
async fn a_shorter_life_is_given_to_what_is_out_too() {
    let world = World::new();
    let task = world.open("support-bot", &["crm:read"]).await.charter.id;
    let lease = world.issue("support-bot", task, "crm:read").await.unwrap().lease;
    let life = lease.expires_at.since(lease.issued_at);
    assert!(life > Duration::from_secs(120), "{life:?}");
    world.rewrite("support-bot", |text| {
        text.replace("ttl = \"15m\"", "ttl = \"2m\"")
    });
    world.broker.settle_rules().await.unwrap();
    settle(&world).await;
    let curtailed = now(&world, &lease).await;
    assert_eq!(
        curtailed.ends_at(),
        lease.issued_at.plus(Duration::from_secs(120))
    );
    assert_eq!(curtailed.expires_at, lease.expires_at);
    world.clock.advance(Duration::from_secs(121));
    settle(&world).await;
    assert_eq!(cause(&now(&world, &lease).await), Some(Cause::Shortened));
}

#[tokio::test(start_paused = true)]
async fn an_approval_that_is_needed_now_suspends_the_task() {
    let world = World::new();
    let task = world.open("support-bot", &["crm:read"]).await.charter.id;
    let lease = world.issue("support-bot", task, "crm:read").await.unwrap().lease;
    world.rewrite_policies(|text| {
        text.replace(
            "@id(\"support-crm\")",
            "@id(\"support-crm\")\n@approval(\"data-steward\")",
        )
    });
    world.broker.settle_rules().await.unwrap();
    settle(&world).await;
    assert_eq!(cause(&now(&world, &lease).await), Some(Cause::TaskSuspended));
    let task = world.ledger.task(task).await.unwrap().unwrap();
    assert_eq!(task.state, TaskState::Suspended);
}

#[tokio::test(start_paused = true)]
async fn whatever_befalls_the_agent_has_a_cause_of_its_own() {
    for (change, expected) in [
        ("status = \"suspended\"", Cause::AgentSuspended),
        ("status = \"retired\"", Cause::AgentRetired),
        ("owner", Cause::AgentUnowned),
        ("review_by", Cause::ReviewOverdue),
        ("", Cause::AgentUnregistered),
    ] {
        let world = World::new();
        let task = world.open("support-bot", &["crm:read"]).await.charter.id;
        let lease = world.issue("support-bot", task, "crm:read").await.unwrap().lease;
        match change {
            "" => world.rename("support-bot"),
            "owner" => world.rewrite("support-bot", |text| {
                text.replace("owner = \"Support Platform\"", "")
            }),
            "review_by" => world.rewrite("support-bot", |text| text.replace("2027-12-31", "2026-01-01")),
            status => world.rewrite("support-bot", |text| format!("{status}\n{text}")),
        }
        world.broker.settle_rules().await.unwrap();
        settle(&world).await;
        assert_eq!(cause(&now(&world, &lease).await), Some(expected));
    }
}

#[tokio::test(start_paused = true)]
async fn a_review_date_that_passes_ends_what_is_out() {
    let world = World::new();
    world.rewrite("support-bot", |text| {
        text.replace("2027-12-31", &world.now().to_string()[..10])
    });
    world.broker.settle_rules().await.unwrap();
    let midnight = world.now().as_secs().next_multiple_of(86_400);
    world
        .clock
        .advance(Duration::from_secs(midnight - world.now().as_secs() - 60));
    let task = world.open("support-bot", &["crm:read"]).await.charter.id;
    let lease = world.issue("support-bot", task, "crm:read").await.unwrap().lease;
    world.broker.look_at_reviews().await.unwrap();
    settle(&world).await;
    assert_eq!(cause(&now(&world, &lease).await), None);
    world.clock.advance(Duration::from_secs(61));
    world.broker.look_at_reviews().await.unwrap();
    settle(&world).await;
    assert_eq!(cause(&now(&world, &lease).await), Some(Cause::ReviewOverdue));
}

#[tokio::test(start_paused = true)]
async fn a_kill_order_can_be_looked_at_first_and_ends_what_it_says() {
    let world = World::new();
    let task = world.open("support-bot", &["crm:read"]).await.charter.id;
    let other = world.open("report-bot", &["reports:read"]).await.charter.id;
    let mut mine = Vec::new();
    for _ in 0..3 {
        mine.push(world.issue("support-bot", task, "crm:read").await.unwrap().lease);
    }
    let theirs = world
        .issue("report-bot", other, "reports:read")
        .await
        .unwrap()
        .lease;
    let operator = world.caller("ops-console").await;
    let (tool, request) = (Selector::Tool("crm".parse().unwrap()), world.request());
    let blast = world
        .broker
        .preview_revocation(&operator, tool.clone(), request)
        .await
        .unwrap();
    assert_eq!(
        (blast.leases, blast.agents[&"support-bot".parse().unwrap()]),
        (3, 3)
    );
    assert!(now(&world, &mine[0]).await.is_live(world.now()));

    let revoked = world
        .broker
        .revoke_all(&operator, tool, "incident 12", request)
        .await
        .unwrap();
    assert_eq!(revoked.leases, 3);
    settle(&world).await;
    for lease in &mine {
        assert_eq!(cause(&now(&world, lease).await), Some(Cause::Cutoff));
    }
    assert_eq!(cause(&now(&world, &theirs).await), None);
    let all = world
        .broker
        .revoke_all(&operator, Selector::All, "all of it", request)
        .await
        .unwrap();
    assert_eq!(all.leases, 1);
    assert!(
        world
            .broker
            .inspect_rechecks(&operator, request)
            .await
            .unwrap()
            .len()
            <= 1
    );
    settle(&world).await;
    assert!(
        world
            .broker
            .inspect_rechecks(&operator, request)
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test(start_paused = true)]
async fn dying_at_any_step_of_a_recheck_leaves_the_rest_to_another() {
    let mut survived = false;
    for step in 1..60 {
        let (wire, machine) = (Arc::new(Tripwire::default()), Arc::new(Vending::default()));
        let gate = wire.clone();
        let world = World::of(Plan {
            ledger: Box::new(|ledger| Arc::new(Gated { ledger, gate })),
            provider: Some(machine.clone()),
            ..Plan::default()
        });
        let task = world.open("support-bot", &["crm:read"]).await.charter.id;
        let mut leases = Vec::new();
        for _ in 0..3 {
            leases.push(world.issue("support-bot", task, "crm:read").await.unwrap().lease);
        }
        state(&world, "agent/support-bot", "incident", Some("open")).await;
        wire.arm(step);
        survived = tokio::select! {
            () = async { while world.broker.recheck().await.unwrap() {} } => true,
            () = wire.death() => false,
        };
        wire.arm(0);
        let other = world.restarted(machine.clone());
        other.catch_up().await.unwrap();
        // As soon as the hold of the one that died has run out.
        world.clock.advance(Duration::from_secs(61));
        while other.recheck().await.unwrap() {}
        while other.sweep().await.unwrap().claimed > 0 {}
        for lease in &leases {
            assert_eq!(
                cause(&now(&world, lease).await),
                Some(Cause::NotPermitted),
                "step {step}"
            );
        }
        assert!(machine.outside().is_empty(), "step {step}");
        if survived {
            assert!(
                step > 8,
                "claiming, finding, ending three and settling are more passages"
            );
            break;
        }
    }
    assert!(survived, "no step was the last");
}

#[tokio::test(start_paused = true)]
async fn what_was_decided_on_facts_of_before_is_decided_again_and_never_given_out() {
    let reached = Arc::new(Notify::new());
    let gate = Arc::new(Meanwhile {
        reached: reached.clone(),
        go_on: Notify::new(),
        armed: AtomicBool::new(false),
    });
    let held = gate.clone();
    let world = World::of(Plan {
        ledger: Box::new(|ledger| Arc::new(Gated { ledger, gate: held })),
        ..Plan::default()
    });
    let task = world.open("support-bot", &["crm:read"]).await.charter.id;
    world.issue("support-bot", task, "crm:read").await.unwrap();
    gate.armed.store(true, Ordering::SeqCst);
    let issuing = world.issue("support-bot", task, "crm:read");
    let stating = async {
        reached.notified().await;
        // Another broker states it while this one has decided and is about to write the lease down.
        state(&world, "agent/support-bot", "incident", Some("open")).await;
        gate.go_on.notify_one();
    };
    let (issued, ()) = tokio::join!(issuing, stating);
    let denied = issued.unwrap_err().to_string();
    assert!(denied.contains("part of an open incident"), "{denied}");
}

#[tokio::test(start_paused = true)]
async fn one_lease_is_looked_up_and_not_looked_for() {
    let gate = Arc::new(Counter::default());
    let around = gate.clone();
    let world = World::of(Plan {
        ledger: Box::new(|ledger| Arc::new(Gated { ledger, gate: around })),
        ..Plan::default()
    });
    let (lease, other) = (issued(&world).await, issued(&world).await);
    world.suspend(&["support-bot"]);
    let by_any = || Work::Decide { revision: None };
    order(&world, Selector::Lease(lease.id), by_any()).await;
    gate.take();
    settle(&world).await;
    let calls = gate.take();
    assert!(calls.contains(&"lease") && !calls.contains(&"find"), "{calls:?}");
    assert_eq!(cause(&now(&world, &lease).await), Some(Cause::AgentSuspended));
    assert!(now(&world, &other).await.is_live(world.now()));

    // What has ended is not live, and what never was is not there.
    for id in [lease.id, LeaseId::new(other.task, world.now(), [0; 10])] {
        order(&world, Selector::Lease(id), by_any()).await;
        settle(&world).await;
    }
    assert_eq!(world.ledger.rechecks().await.unwrap(), []);
    let operator = world.caller("ops-console").await;
    gate.take();
    for (id, live) in [(lease.id, 0), (other.id, 1)] {
        let blast = world
            .broker
            .preview_revocation(&operator, Selector::Lease(id), world.request())
            .await;
        assert_eq!(blast.unwrap().leases, live);
    }
    assert!(!gate.take().contains(&"find"));
}

/// Holds the next reservation back until it is told to go on.
struct Meanwhile {
    reached: Arc<Notify>,
    go_on: Notify,
    armed: AtomicBool,
}

#[async_trait]
impl Gate for Meanwhile {
    async fn before(&self, step: &'static str) {
        if step == "reserve" && self.armed.swap(false, Ordering::SeqCst) {
            self.reached.notify_one();
            self.go_on.notified().await;
        }
    }

    async fn after(&self, _: &'static str) {}
}
