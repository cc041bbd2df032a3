//! One provider's trouble is nobody else's: ends elsewhere and issues go on, and what was put off
//! because a provider is down is neither lost nor counted against it.

use std::num::NonZeroUsize;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use dayfly::broker::reaper;
use dayfly::ledger::{Budgets, Filter, Page, StateName};
use dayfly::model::fact::FactsVersion;
use dayfly::model::ids::LeaseId;
use dayfly::model::lease::{Lease, LeaseState};
use dayfly::provider::guard::{Guard, Limits};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::world::vending::Vending;
use crate::world::{Plan, World};

/// A world in which `payments` has a provider of its own, with an outside, behind a guard.
fn world() -> (Arc<Vending>, World) {
    let machine = Arc::new(Vending::default());
    let guard = Guard::new("other".parse().unwrap(), machine.clone(), Limits::default());
    let world = World::of(Plan {
        other: Some(Arc::new(guard)),
        ..Plan::default()
    });
    (machine, world)
}

/// Keeps paused time from running ahead while the ledger's own thread works: it moves only when told.
struct Still(mpsc::Sender<()>);

impl Still {
    fn hold() -> Self {
        let (release, held) = mpsc::channel();
        tokio::task::spawn_blocking(move || held.recv());
        Self(release)
    }
}

impl Drop for Still {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

/// Many leases like this one.
async fn many(world: &World, like: &Lease, count: u16) -> Vec<LeaseId> {
    let mut ids = Vec::new();
    for place in 0..count {
        let mut random = [7; 10];
        random[8..].copy_from_slice(&place.to_be_bytes());
        let lease = Lease {
            id: LeaseId::new(like.task, world.now(), random),
            state: LeaseState::Active,
            ..like.clone()
        };
        let budgets = Budgets::default();
        world
            .ledger
            .reserve(&lease, &budgets, None, FactsVersion::default())
            .await
            .unwrap();
        ids.push(lease.id);
    }
    ids
}

async fn in_state(world: &World, tool: &str, state: StateName) -> Vec<Lease> {
    let filter = Filter {
        tool: Some(tool.parse().unwrap()),
        state: Some(state),
        ..Filter::default()
    };
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let limit = NonZeroUsize::new(Page::MOST).unwrap();
        let page = world.ledger.find(&filter, &Page { after, limit }).await.unwrap();
        let Some(last) = page.last() else { return found };
        after = Some(last.id);
        found.extend(page);
    }
}

/// Lets time pass, in both of its senses, a step after the other, until it is so.
async fn pass(world: &World, step: Duration, most: Duration, so: impl AsyncFn() -> bool) -> bool {
    let mut passed = Duration::ZERO;
    while passed < most {
        for _ in 0..20 {
            world.ledger.ping().await.unwrap(); // lets the ledger's thread keep up
        }
        if so().await {
            return true;
        }
        world.clock.advance(step);
        tokio::time::advance(step).await;
        passed += step;
    }
    so().await
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_hangs_delays_no_end_elsewhere_and_no_issue() {
    let (machine, world) = world();
    let task = world
        .open("support-bot", &["crm:read", "payments:read"])
        .await
        .charter
        .id;
    let slow = world.issue("support-bot", task, "payments:read").await.unwrap();
    let fast = world.issue("support-bot", task, "crm:read").await.unwrap();
    many(&world, &slow.lease, 1000).await;
    world.clock.advance(Duration::from_millis(1));
    many(&world, &fast.lease, 50).await;
    machine.hang(true);
    world.clock.advance(Duration::from_secs(600));

    let _still = Still::hold();
    let watch = async {
        let second = Duration::from_secs(1);
        let done = pass(&world, Duration::from_millis(5), second, async || {
            in_state(&world, "crm", StateName::Ended).await.len() == 51
        });
        assert!(done.await, "the ends elsewhere waited");
        assert!(in_state(&world, "payments", StateName::Ended).await.is_empty());
        let other = world.open("report-bot", &["reports:read"]).await.charter.id;
        let begun = Instant::now();
        world.issue("report-bot", other, "reports:read").await.unwrap();
        assert_eq!(begun.elapsed(), Duration::ZERO, "an issue waited");

        machine.hang(false);
        let hour = Duration::from_secs(3600);
        let done = pass(&world, Duration::from_secs(1), hour, async || {
            in_state(&world, "payments", StateName::Ended).await.len() == 1001
        });
        assert!(done.await, "something was left behind");
        assert!(machine.outside().is_empty());
    };
    tokio::select! {
        () = world.broker.clone().reap(CancellationToken::new()) => unreachable!(),
        () = watch => {}
    }
}

#[tokio::test(start_paused = true)]
async fn what_waits_because_a_provider_is_down_does_not_become_stuck() {
    let (machine, world) = world();
    let task = world.open("support-bot", &["payments:read"]).await.charter.id;
    let one = world.issue("support-bot", task, "payments:read").await.unwrap();
    many(&world, &one.lease, 200).await;
    machine.break_down(true);
    world.clock.advance(Duration::from_secs(600));

    let _still = Still::hold();
    let watch = async {
        let quarter = Duration::from_secs(900);
        pass(&world, Duration::from_secs(1), quarter, async || false).await;
        let waiting = in_state(&world, "payments", StateName::Revoking).await;
        assert_eq!(waiting.len(), 201, "nothing is stuck");
        let attempts = waiting.iter().map(|lease| match &lease.state {
            LeaseState::Revoking(effort) => effort.attempts,
            other => panic!("{other:?}"),
        });
        let asked = u32::try_from(machine.asked()).unwrap();
        assert_eq!(attempts.sum::<u32>(), asked, "every attempt was one");
        assert!(asked < 150, "it was left alone: {asked}");

        machine.break_down(false);
        let done = pass(&world, Duration::from_secs(1), quarter, async || {
            in_state(&world, "payments", StateName::Ended).await.len() == 201
        });
        assert!(done.await);
    };
    tokio::select! {
        () = world.broker.clone().reap(CancellationToken::new()) => unreachable!(),
        () = watch => {}
    }
}

#[tokio::test]
async fn what_was_ordered_ends_before_what_expired() {
    let machine = Arc::new(Vending::default());
    let mut settings = dayfly::broker::Settings::default();
    settings.reaper = reaper::Settings {
        batch: NonZeroUsize::new(3).unwrap(),
        ..settings.reaper
    };
    let world = World::of(Plan {
        settings,
        provider: Some(machine.clone()),
        ..Plan::default()
    });
    let task = world.open("support-bot", &["crm:read"]).await.charter.id;
    let first = world.issue("support-bot", task, "crm:read").await.unwrap();
    many(&world, &first.lease, 20).await;
    world.clock.advance(Duration::from_secs(400));
    let ordered = world.issue("support-bot", task, "crm:read").await.unwrap();
    world.clock.advance(Duration::from_secs(1));
    let caller = world.caller("support-bot").await;
    world
        .broker
        .revoke(&caller, ordered.lease.id, "leaked", world.request())
        .await
        .unwrap();
    world.broker.sweep().await.unwrap();
    let lease = world.ledger.lease(ordered.lease.id).await.unwrap().unwrap();
    assert!(matches!(lease.state, LeaseState::Ended { .. }), "{lease:?}");
}
