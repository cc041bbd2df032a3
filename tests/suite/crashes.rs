//! No orphan: the process dies at each step of issuing and completing in turn. Whatever then exists
//! outside has a lease that will end it; whatever left the house has a record.

use std::sync::Arc;
use std::time::Duration;

use dayfly::broker::issue::IssueOrder;
use dayfly::journal::record::{Result as Outcome, Verb};
use dayfly::ledger::{Filter, Page};
use dayfly::model::lease::LeaseState;
use dayfly::model::task::Outcome as TaskOutcome;

use crate::world::gated::Gated;
use crate::world::tripwire::{Journaling, Providing, Tripwire};
use crate::world::vending::Vending;
use crate::world::{Plan, World, access};

struct Doomed {
    world: World,
    wire: Arc<Tripwire>,
    machine: Arc<Vending>,
}

fn doomed() -> Doomed {
    let (wire, machine) = (Arc::new(Tripwire::default()), Arc::new(Vending::default()));
    let (gate, around) = (wire.clone(), wire.clone());
    let world = World::of(Plan {
        ledger: Box::new(|ledger| Arc::new(Gated { ledger, gate })),
        journal: Box::new(|journal| Arc::new(Journaling(journal, around))),
        provider: Some(Arc::new(Providing(machine.clone(), wire.clone()))),
        ..Plan::default()
    });
    Doomed { world, wire, machine }
}

impl Doomed {
    /// After the process died: a new one reaps until nothing is left to do, for longer than anything lives.
    async fn aftermath(&self) {
        self.wire.arm(0);
        let broker = self.world.restarted(self.machine.clone());
        for _ in 0..30 {
            while broker.sweep().await.unwrap().claimed > 0 {}
            self.world.clock.advance(Duration::from_secs(60));
        }
        assert!(
            self.machine.outside().is_empty(),
            "an orphan: {:?}",
            self.machine.outside()
        );
        let all = Page {
            after: None,
            limit: std::num::NonZeroUsize::new(100).unwrap(),
        };
        for lease in self.world.ledger.find(&Filter::default(), &all).await.unwrap() {
            assert!(matches!(lease.state, LeaseState::Ended { .. }), "{lease:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn dying_at_any_step_of_an_issue_leaves_no_orphan() {
    let mut survived = false;
    for step in 1..40 {
        let doomed = doomed();
        let world = &doomed.world;
        let caller = world.caller("support-bot").await;
        let task = world.open("support-bot", &["crm:read"]).await.charter.id;
        doomed.wire.arm(step);
        let order = IssueOrder {
            task,
            access: access("crm:read"),
            ttl: None,
            key: None,
        };
        let issued = tokio::select! {
            issued = world.broker.issue(caller, order, world.request()) => Some(issued.unwrap()),
            () = doomed.wire.death() => None,
        };
        let permitted = world
            .records(Verb::Issue)
            .iter()
            .filter(|r| r.result == Outcome::Permitted)
            .count();
        if !doomed.machine.outside().is_empty() || issued.is_some() {
            assert_eq!(
                permitted, 1,
                "step {step}: something exists outside and no record says why"
            );
        }
        survived = issued.is_some();
        doomed.aftermath().await;
        if survived {
            assert!(step > 8, "reserve, record, mint and activate are eight passages");
            break;
        }
    }
    assert!(survived, "no step was the last");
}

#[tokio::test(start_paused = true)]
async fn dying_at_any_step_of_an_end_ends_it_all_the_same() {
    let mut survived = false;
    for step in 1..40 {
        let doomed = doomed();
        let world = &doomed.world;
        let caller = world.caller("support-bot").await;
        let task = world.open("support-bot", &["crm:read"]).await.charter.id;
        world.issue("support-bot", task, "crm:read").await.unwrap();
        doomed.wire.arm(step);
        let ending = async {
            world
                .broker
                .complete(
                    &caller,
                    task,
                    TaskOutcome::Completed,
                    Duration::ZERO,
                    world.request(),
                )
                .await
                .unwrap();
            world.reap().await;
        };
        survived = tokio::select! {
            () = ending => true,
            () = doomed.wire.death() => false,
        };
        doomed.aftermath().await;
        assert!(
            !world.records(Verb::End).is_empty(),
            "step {step}: the end is not on record"
        );
        if survived {
            break;
        }
    }
    assert!(survived, "no step was the last");
}
