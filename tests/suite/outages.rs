//! When a part fails, nothing is issued, and what was begun is undone.

use std::sync::Arc;

use dayfly::broker::error::BrokerError;
use dayfly::broker::facts::FactOrder;
use dayfly::identity::{Evidence, IdentityError};
use dayfly::journal::record::Verb;
use dayfly::ledger::{Filter, Page};
use dayfly::model::cutoff::Selector;
use dayfly::model::lease::LeaseState;
use dayfly::registry::NotAdmitted;

use crate::world::vending::Vending;
use crate::world::{Plan, World};

#[tokio::test]
async fn without_the_journal_nothing_is_issued() {
    for outside in [false, true] {
        let machine = Arc::new(Vending::default());
        let provider = outside.then(|| machine.clone() as Arc<dyn dayfly::provider::Provider>);
        let world = World::of(Plan {
            provider,
            ..Plan::default()
        });
        let task = world.open("support-bot", &["crm:read"]).await.charter.id;
        world.journal.fail(true);
        let refused = world.issue("support-bot", task, "crm:read").await;
        assert!(matches!(refused, Err(BrokerError::Journal(_))), "{refused:?}");
        assert!(machine.outside().is_empty());
        world.journal.fail(false);
        world.reap().await;
        let all = Page {
            after: None,
            limit: std::num::NonZeroUsize::new(10).unwrap(),
        };
        for lease in world.ledger.find(&Filter::default(), &all).await.unwrap() {
            assert!(matches!(lease.state, LeaseState::Ended { .. }), "{lease:?}");
        }
        assert!(
            world.issue("support-bot", task, "crm:read").await.is_ok(),
            "it goes on when the journal does"
        );
    }
}

#[tokio::test]
async fn without_the_journal_a_kill_order_still_ends_everything() {
    let machine = Arc::new(Vending::default());
    let world = World::of(Plan {
        provider: Some(machine.clone()),
        ..Plan::default()
    });
    let operator = world.caller("ops-console").await;
    let task = world.open("support-bot", &["crm:read"]).await.charter.id;
    world.issue("support-bot", task, "crm:read").await.unwrap();
    assert_eq!(machine.outside().len(), 1);
    world.journal.fail(true);
    let agent = "support-bot".parse().unwrap();
    let told = world
        .broker
        .revoke_all(&operator, Selector::Agent(agent), "incident 12", world.request())
        .await;
    assert!(matches!(told, Err(BrokerError::Journal(_))), "{told:?}");
    world.broker.sweep().await.unwrap();
    assert!(
        machine.outside().is_empty(),
        "the order was given and something is still alive"
    );
}

#[tokio::test]
async fn without_the_journal_what_is_not_permitted_any_more_ends_and_is_told_of_later() {
    let machine = Arc::new(Vending::default());
    let world = World::of(Plan {
        provider: Some(machine.clone()),
        ..Plan::default()
    });
    let operator = world.caller("ops-console").await;
    let task = world.open("support-bot", &["crm:read"]).await.charter.id;
    for _ in 0..20 {
        world.issue("support-bot", task, "crm:read").await.unwrap();
    }
    let order = FactOrder {
        about: "agent/support-bot".parse().unwrap(),
        name: "incident".parse().unwrap(),
        value: Some("open".parse().unwrap()),
        at: None,
        expires_at: None,
        reason: None,
    };
    let stated = world.broker.state_fact(&operator, order, world.request());
    stated.await.unwrap();
    world.journal.fail(true);
    while world.broker.recheck().await.unwrap() {}
    world.broker.sweep().await.unwrap();
    assert!(machine.outside().is_empty(), "the journal held ends back");
    assert!(world.records(Verb::Recheck).is_empty());

    world.journal.fail(false);
    world.broker.recheck().await.unwrap();
    let told = world.records(Verb::Recheck);
    assert_eq!(told.len(), 20);
    assert!(told.iter().all(|record| {
        record.cause.as_deref() == Some("not_permitted")
            && record
                .policies
                .iter()
                .any(|id| &*id.0 == "baseline-incident-agent")
    }));
}

#[tokio::test]
async fn a_denial_that_cannot_be_recorded_is_no_answer() {
    let world = World::new();
    let task = world.open("report-bot", &["crm:read"]).await.charter.id;
    world.journal.fail(true);
    assert!(matches!(
        world.issue("report-bot", task, "crm:read").await,
        Err(BrokerError::Journal(_))
    ));
}

#[tokio::test]
async fn who_is_not_registered_gets_nothing_and_is_seen() {
    let world = World::new();
    let stranger = world.evidence_of("agents/stranger").await;
    for _ in 0..5 {
        let refused = world.broker.attest(&stranger, world.request()).await;
        assert!(matches!(
            refused,
            Err(BrokerError::NotAdmitted(NotAdmitted::Unregistered))
        ));
    }
    let sightings = world.records(Verb::Attest);
    assert_eq!(sightings.len(), 1, "one sighting is enough for a while");
    assert_eq!(
        *sightings[0].attested.as_ref().unwrap().subject,
        *"spiffe://example.org/agents/stranger"
    );
}

#[tokio::test]
async fn evidence_that_proves_nothing_is_refused_and_recorded() {
    let world = World::new();
    let good = world.evidence("support-bot").await;
    let (head, _) = good.expose().rsplit_once('.').unwrap();
    let forged = Evidence::bearer(&format!("{head}.{}", "A".repeat(86))).unwrap();
    let refused = world.broker.attest(&forged, world.request()).await;
    assert!(
        matches!(refused, Err(BrokerError::Unidentified(IdentityError::Refused(_)))),
        "{refused:?}"
    );
    assert_eq!(world.records(Verb::Attest).len(), 1);
    let lines = world.journal.lines().join("\n");
    assert!(
        !lines.contains(forged.expose()) && !lines.contains(good.expose()),
        "evidence never reaches the journal"
    );
}

#[tokio::test]
async fn an_agent_whose_review_is_overdue_gets_nothing() {
    let world = World::new();
    world.clock.set("2028-01-01T00:00:00Z".parse().unwrap());
    let refused = world
        .broker
        .attest(&world.evidence("support-bot").await, world.request())
        .await;
    assert!(
        matches!(
            refused,
            Err(BrokerError::NotAdmitted(NotAdmitted::Standing { .. }))
        ),
        "{refused:?}"
    );
    assert_eq!(
        world.records(Verb::Attest)[0].agent.as_ref().unwrap().as_str(),
        "support-bot"
    );
}

#[tokio::test]
async fn reading_the_journal_does_not_fill_it() {
    let world = World::new();
    let auditor = world.caller("ops-console").await;
    for _ in 0..5 {
        world
            .broker
            .inspect_journal(&auditor, 0, 100, world.request())
            .await
            .unwrap();
    }
    assert_eq!(
        world.records(Verb::Inspect).len(),
        1,
        "one look is on record, not each page of it"
    );
    let intruder = world.caller("support-bot").await;
    for _ in 0..2 {
        let denied = world
            .broker
            .inspect_journal(&intruder, 0, 100, world.request())
            .await;
        assert!(matches!(denied, Err(BrokerError::Denied { .. })));
    }
    assert_eq!(world.records(Verb::Inspect).len(), 3, "each denial is");
}
