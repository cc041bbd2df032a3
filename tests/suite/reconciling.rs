//! Providers compared with the ledger: what should not be there is ended, and what is gone is over.

use std::sync::Arc;
use std::time::Duration;

use dayfly::broker::error::BrokerError;
use dayfly::broker::reconciler::Compared;
use dayfly::journal::record::{Record, Result as Outcome, Verb};
use dayfly::model::ids::LeaseId;
use dayfly::model::lease::{Cause, LeaseState, Receipt};

use crate::world::vending::Vending;
use crate::world::{MORNING, Plan, World};

fn world() -> (Arc<Vending>, World) {
    let machine = Arc::new(Vending::default());
    let world = World::of(Plan {
        provider: Some(machine.clone()),
        ..Plan::default()
    });
    (machine, world)
}

async fn compare(world: &World) -> Compared {
    world.broker.compare().await.pop().unwrap()
}

fn counts(compared: &Compared) -> [usize; 6] {
    let Compared {
        listed,
        orphans,
        undead,
        ghosts,
        ended,
        failed,
        ..
    } = *compared;
    [listed, orphans, undead, ghosts, ended, failed]
}

fn found(world: &World) -> Vec<Record> {
    let mut records = world.records(Verb::Reconcile);
    records.retain(|record| record.cause.is_some());
    records
}

#[tokio::test]
async fn an_orphan_is_ended_and_what_is_known_is_left_alone() {
    let (machine, world) = world();
    let task = world.open("support-bot", &["crm:read"]).await.charter.id;
    let known = world.issue("support-bot", task, "crm:read").await.unwrap();
    let orphan = LeaseId::new(task, MORNING, [9; 10]);
    machine.smuggle(orphan);
    assert_eq!(counts(&compare(&world).await), [2, 1, 0, 0, 1, 0]);
    assert_eq!(machine.outside().len(), 1);
    assert!(machine.outside().contains(&known.lease.handle.unwrap().0));
    let records = found(&world);
    assert_eq!(records.len(), 1);
    assert_eq!(
        (records[0].lease, records[0].cause.as_deref()),
        (Some(orphan), Some("orphan"))
    );
    assert!(
        records[0]
            .proof
            .as_deref()
            .unwrap()
            .starts_with("verified_absent ")
    );
    assert_eq!(counts(&compare(&world).await), [1, 0, 0, 0, 0, 0]);
    assert_eq!(found(&world).len(), 1, "what is in order is not told");
}

#[tokio::test]
async fn an_orphan_that_cannot_be_ended_is_told_once_and_tried_at_every_pass() {
    let (machine, world) = world();
    let task = world.open("support-bot", &["crm:read"]).await.charter.id;
    machine.smuggle(LeaseId::new(task, MORNING, [9; 10]));
    machine.break_down(true);
    for _ in 0..3 {
        assert_eq!(counts(&compare(&world).await), [1, 1, 0, 0, 0, 1]);
    }
    let records = found(&world);
    assert_eq!((records.len(), records[0].result), (1, Outcome::Failed));
    machine.break_down(false);
    assert_eq!(counts(&compare(&world).await), [1, 1, 0, 0, 1, 0]);
    assert!(machine.outside().is_empty());
}

#[tokio::test]
async fn what_comes_back_after_its_end_is_ended_again() {
    let (machine, world) = world();
    let caller = world.caller("support-bot").await;
    let task = world.open("support-bot", &["crm:read"]).await.charter.id;
    let lease = world
        .issue("support-bot", task, "crm:read")
        .await
        .unwrap()
        .lease
        .id;
    world
        .broker
        .revoke(&caller, lease, "done", world.request())
        .await
        .unwrap();
    world.reap().await;
    assert!(machine.outside().is_empty());
    machine.smuggle(lease); // a late mint, for which nobody waited any more
    assert_eq!(counts(&compare(&world).await), [1, 0, 1, 0, 1, 0]);
    assert!(machine.outside().is_empty());
    let record = found(&world).pop().unwrap();
    assert_eq!(
        (record.cause.as_deref(), record.task),
        (Some("undead"), Some(task))
    );
}

#[tokio::test]
async fn a_lease_whose_credential_is_gone_is_over() {
    let (machine, world) = world();
    let task = world.open("support-bot", &["crm:read"]).await.charter.id;
    let gone = world.issue("support-bot", task, "crm:read").await.unwrap().lease;
    let there = world.issue("support-bot", task, "crm:read").await.unwrap().lease;
    machine.lose(gone.id);
    assert_eq!(
        counts(&compare(&world).await)[3],
        0,
        "it may be too new to be seen"
    );
    world.clock.advance(Duration::from_secs(61));
    let young = world.issue("support-bot", task, "crm:read").await.unwrap().lease;
    assert_eq!(counts(&compare(&world).await), [2, 0, 0, 1, 0, 0]);
    world.reap().await;
    let (there, young) = (there.id, young.id);
    let gone = world.ledger.lease(gone.id).await.unwrap().unwrap();
    assert_eq!(gone.state.as_str(), "ended", "the ghost is still active");
    let stated = world.receipt(&gone);
    assert_eq!(stated.cause, Cause::Vanished);
    assert!(matches!(stated.receipt, Receipt::VerifiedAbsent { .. }));
    assert_eq!(stated.handle, gone.handle);
    for id in [there, young] {
        let state = world.ledger.lease(id).await.unwrap().unwrap().state;
        assert_eq!(state, LeaseState::Active);
    }
}

#[tokio::test]
async fn comparing_takes_a_permit_and_is_on_record() {
    let (machine, world) = world();
    let task = world.open("support-bot", &["crm:read"]).await.charter.id;
    machine.smuggle(LeaseId::new(task, MORNING, [9; 10]));
    let agent = world.caller("support-bot").await;
    let refused = world.broker.reconcile(&agent, world.request()).await;
    assert!(matches!(refused, Err(BrokerError::Denied { .. })), "{refused:?}");
    assert_eq!(machine.outside().len(), 1, "a denial has no effect");
    let operator = world.caller("ops-console").await;
    let compared = world.broker.reconcile(&operator, world.request()).await.unwrap();
    assert_eq!(counts(&compared[0]), [1, 1, 0, 0, 1, 0]);
    let asked = world.records(Verb::Reconcile);
    let who: Vec<_> = asked.iter().filter(|record| record.attested.is_some()).collect();
    assert_eq!(who.len(), 2);
    assert_eq!(
        (who[0].result, who[1].result),
        (Outcome::Denied, Outcome::Permitted)
    );
}
