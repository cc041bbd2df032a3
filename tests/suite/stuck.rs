//! What cannot be ended: what its lease and the journal tell of it, and what a person may do about it.

use std::sync::Arc;
use std::time::Duration;

use dayfly::broker::error::BrokerError;
use dayfly::broker::measure;
use dayfly::journal::record::{Record, Result as Recorded, Verb};
use dayfly::ledger::Refusal;
use dayfly::model::ids::LeaseId;
use dayfly::model::lease::{Cause, Effort, Lease, LeaseState, Receipt};
use metrics_exporter_prometheus::PrometheusBuilder;
use tokio_util::sync::CancellationToken;

use crate::world::vending::Vending;
use crate::world::{Plan, World};

fn world() -> (Arc<Vending>, World) {
    let machine = Arc::new(Vending::default());
    let world = World::of(Plan {
        provider: Some(machine.clone()),
        ..Plan::default()
    });
    (machine, world)
}

/// A lease of support-bot that it ordered to end.
async fn revoked(world: &World) -> LeaseId {
    let caller = world.caller("support-bot").await;
    let task = world.open("support-bot", &["crm:read"]).await.charter.id;
    let lease = world.issue("support-bot", task, "crm:read").await.unwrap().lease;
    world
        .broker
        .revoke(&caller, lease.id, "done", world.request())
        .await
        .unwrap();
    lease.id
}

/// A lease that the machine refuses to end.
async fn stuck(machine: &Vending, world: &World) -> LeaseId {
    machine.refuse(true);
    let lease = revoked(world).await;
    world.reap().await;
    assert_eq!(stored(world, lease).await.state.as_str(), "stuck");
    lease
}

async fn stored(world: &World, id: LeaseId) -> Lease {
    world.ledger.lease(id).await.unwrap().unwrap()
}

fn effort(lease: Lease) -> Effort {
    match lease.state {
        LeaseState::Revoking(effort) | LeaseState::Stuck(effort) => effort,
        other => panic!("it has not to end: {other:?}"),
    }
}

fn failures(world: &World) -> Vec<String> {
    let records = world.records(Verb::End);
    let failed = records
        .into_iter()
        .filter(|record| record.result == Recorded::Failed);
    failed.filter_map(|record| record.reason).collect()
}

#[tokio::test]
async fn a_lease_tells_of_its_attempts_and_the_journal_of_what_changed() {
    let (machine, world) = world();
    machine.break_down(true);
    let lease = revoked(&world).await;
    let ordered = world.now();
    world.reap().await;
    let first = effort(stored(&world, lease).await);
    assert_eq!((first.attempts, first.since), (1, ordered));
    assert!(first.next_at > world.now(), "{first:?}");
    assert!(first.last_error.unwrap().contains("out of order"));
    assert_eq!(failures(&world).len(), 1);

    for _ in 0..30 {
        world.clock.advance(Duration::from_secs(300));
        world.reap().await;
    }
    let lease = stored(&world, lease).await;
    assert_eq!(lease.state.as_str(), "stuck");
    let last = effort(lease);
    assert_eq!((last.attempts, last.since), (31, ordered));
    assert_eq!(last.next_at, world.now().plus(Duration::from_secs(300)));
    let told = failures(&world);
    assert_eq!(
        told.len(),
        2,
        "a retry that changes nothing is not told: {told:?}"
    );
    assert!(told[0].starts_with("attempt 1: "), "{told:?}");
    assert!(told[1].starts_with("stuck after attempt 10: "), "{told:?}");
}

#[tokio::test]
async fn what_is_stuck_stays_stuck_when_it_fails_otherwise() {
    let (machine, world) = world();
    let lease = stuck(&machine, &world).await;
    machine.refuse(false);
    machine.break_down(true);
    for _ in 0..3 {
        world.clock.advance(Duration::from_secs(300));
        world.reap().await;
        assert_eq!(stored(&world, lease).await.state.as_str(), "stuck");
    }
    assert_eq!(failures(&world).len(), 1);
}

#[tokio::test]
async fn what_was_repaired_ends_at_once_on_order() {
    let (machine, world) = world();
    let lease = stuck(&machine, &world).await;
    machine.refuse(false);
    world.reap().await;
    assert_eq!(machine.outside().len(), 1, "it waits for its next attempt");

    let operator = world.caller("ops-console").await;
    let retried = world
        .broker
        .retry(&operator, lease, world.request())
        .await
        .unwrap();
    assert_eq!(effort(retried).next_at, world.now());
    world.reap().await;
    let state = stored(&world, lease).await.state;
    let LeaseState::Ended { receipt, .. } = state else {
        panic!("{state:?}")
    };
    assert!(matches!(receipt, Receipt::VerifiedAbsent { .. }));
    assert!(machine.outside().is_empty());
    let record = world.records(Verb::Retry).pop().unwrap();
    assert_eq!(
        (record.agent.unwrap().as_str(), record.lease, record.result),
        ("ops-console", Some(lease), Recorded::Permitted)
    );
    assert_eq!(record.cause.as_deref(), Some("revoked"));
}

#[tokio::test]
async fn what_has_not_to_end_is_not_tried_again() {
    let (_, world) = world();
    let task = world.open("support-bot", &["crm:read"]).await.charter.id;
    let lease = world
        .issue("support-bot", task, "crm:read")
        .await
        .unwrap()
        .lease
        .id;
    let operator = world.caller("ops-console").await;
    let refused = world.broker.retry(&operator, lease, world.request()).await;
    assert!(matches!(
        refused,
        Err(BrokerError::Refused(Refusal::LeaseNotEnding("active")))
    ));
    assert_eq!(world.records(Verb::Retry).pop().unwrap().result, Recorded::Failed);
}

#[tokio::test]
async fn an_abandoned_lease_is_over_and_somebody_answers_for_it() {
    let (machine, world) = world();
    let lease = stuck(&machine, &world).await;
    let operator = world.caller("ops-console").await;
    let abandoned = world
        .broker
        .abandon(&operator, lease, "the machine was scrapped", world.request())
        .await
        .unwrap();
    let receipt = Receipt::Abandoned { at: world.now() };
    let stated = world.receipt(&abandoned);
    assert_eq!((stated.cause, stated.receipt), (Cause::Revoked, receipt));
    assert_eq!(stated.at, world.now());
    assert_eq!(stored(&world, lease).await, abandoned);
    let asked = machine.asked();
    world.clock.advance(Duration::from_secs(3600));
    world.reap().await;
    assert_eq!(machine.asked(), asked, "nobody goes on");

    let record = world.records(Verb::Abandon).pop().unwrap();
    let Record {
        agent,
        attested,
        proof,
        reason,
        result,
        ..
    } = record;
    assert_eq!(
        (agent.unwrap().as_str(), result),
        ("ops-console", Recorded::Permitted)
    );
    assert_eq!(reason.as_deref(), Some("the machine was scrapped"));
    assert!(attested.is_some());
    assert!(proof.unwrap().starts_with("abandoned "));
    assert_eq!(record.lease, Some(lease));
    assert!(!record.policies.is_empty());

    let operator = world.caller("ops-console").await;
    let again = world
        .broker
        .abandon(&operator, lease, "twice", world.request())
        .await;
    assert!(matches!(
        again,
        Err(BrokerError::Refused(Refusal::LeaseNotStuck("ended")))
    ));
}

#[tokio::test]
async fn only_a_stuck_lease_is_given_up() {
    let (machine, world) = world();
    machine.break_down(true);
    let lease = revoked(&world).await;
    world.reap().await;
    let operator = world.caller("ops-console").await;
    let refused = world
        .broker
        .abandon(&operator, lease, "too soon", world.request())
        .await;
    assert!(matches!(
        refused,
        Err(BrokerError::Refused(Refusal::LeaseNotStuck("revoking")))
    ));
    let records = world.records(Verb::Abandon);
    assert_eq!(records.len(), 1, "nothing permits what is not done");
    assert_eq!((records[0].result, &records[0].proof), (Recorded::Failed, &None));
}

#[tokio::test]
async fn nothing_is_given_up_without_a_record() {
    let (machine, world) = world();
    let lease = stuck(&machine, &world).await;
    let operator = world.caller("ops-console").await;
    world.journal.fail(true);
    let refused = world
        .broker
        .abandon(&operator, lease, "nobody knows", world.request())
        .await;
    assert!(matches!(refused, Err(BrokerError::Journal(_))));
    assert_eq!(stored(&world, lease).await.state.as_str(), "stuck");
}

#[tokio::test]
async fn both_take_a_permit_and_hide_what_is_anothers() {
    let (machine, world) = world();
    let lease = stuck(&machine, &world).await;
    let before = stored(&world, lease).await;
    for (agent, owns) in [
        ("support-bot", true),
        ("report-bot", false),
        ("crm-server", false),
    ] {
        let caller = world.caller(agent).await;
        let retried = world.broker.retry(&caller, lease, world.request()).await;
        let abandoned = world
            .broker
            .abandon(&caller, lease, "mine now", world.request())
            .await;
        for refused in [retried, abandoned] {
            match refused {
                Err(BrokerError::Denied { .. }) => assert!(owns, "{agent}"),
                Err(BrokerError::NoLease) => assert!(!owns, "{agent}"),
                other => panic!("{agent}: {other:?}"),
            }
        }
    }
    assert_eq!(stored(&world, lease).await, before);
    for verb in [Verb::Retry, Verb::Abandon] {
        let records = world.records(verb);
        assert_eq!(records.len(), 3);
        for record in records {
            assert_eq!((record.result, record.lease), (Recorded::Denied, Some(lease)));
        }
    }
}

#[tokio::test]
async fn what_was_abandoned_and_is_there_after_all_is_ended() {
    let (machine, world) = world();
    let lease = stuck(&machine, &world).await;
    let operator = world.caller("ops-console").await;
    world
        .broker
        .abandon(&operator, lease, "it was scrapped, they say", world.request())
        .await
        .unwrap();
    let failed = world.broker.compare().await.pop().unwrap();
    assert_eq!((failed.undead, failed.ended, failed.failed), (1, 0, 1));
    machine.refuse(false);
    let found = world.broker.compare().await.pop().unwrap();
    assert_eq!((found.undead, found.ended, found.failed), (1, 1, 0));
    assert!(machine.outside().is_empty());
}

#[tokio::test]
async fn what_is_stuck_is_counted_by_provider_for_an_alert() {
    let (machine, world) = world();
    let recorder = PrometheusBuilder::new().build_recorder();
    let _local = metrics::set_default_local_recorder(&recorder);
    let shown = async || {
        // Told to stop, it counts once.
        let stop = CancellationToken::new();
        stop.cancel();
        world.broker.clone().count_stuck_regularly(stop).await;
        let page = recorder.handle().render();
        let name = format!("{}{{provider=\"jwt\"}} ", measure::STUCK_NOW);
        let line = page.lines().find_map(|line| line.strip_prefix(&name));
        line.map(str::to_owned)
    };
    assert_eq!(
        shown().await.as_deref(),
        Some("0"),
        "shown before anything is stuck"
    );
    let lease = stuck(&machine, &world).await;
    stuck(&machine, &world).await;
    assert_eq!(shown().await.as_deref(), Some("2"));
    let operator = world.caller("ops-console").await;
    world
        .broker
        .abandon(&operator, lease, "scrapped", world.request())
        .await
        .unwrap();
    assert_eq!(shown().await.as_deref(), Some("1"));
}
