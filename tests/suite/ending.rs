//! How tasks and credentials end: at once for everybody, then at the provider, then with a proof.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use dayfly::broker::error::BrokerError;
use dayfly::broker::open::OpenOrder;
use dayfly::broker::{Settings, reaper};
use dayfly::journal::record::{Result as Recorded, Verb};
use dayfly::ledger::{Claim, Cursor, Filter, Ledger, Page, Refusal, Settlement};
use dayfly::model::cutoff::Selector;
use dayfly::model::lease::{Cause, LeaseState, Receipt, ReceiptSignature};
use dayfly::model::task::{Outcome, TaskState};
use dayfly::model::ttl::Ttl;
use dayfly::provider::jwt::JwtProvider;
use tokio_util::sync::CancellationToken;

use crate::world::gated::{Gate, Gated};
use crate::world::vending::Vending;
use crate::world::{ISSUER, MORNING, Plan, World, order};

fn ended(state: &LeaseState) -> (Cause, Receipt) {
    match state {
        LeaseState::Ended { cause, receipt, .. } => (*cause, *receipt),
        other => panic!("not ended: {other:?}"),
    }
}

async fn feed(world: &World) -> Vec<Selector> {
    let changes = world
        .ledger
        .changes(&Cursor::default(), Duration::ZERO)
        .await
        .unwrap();
    changes
        .cutoffs
        .into_iter()
        .map(|cutoff| cutoff.selector)
        .collect()
}

#[tokio::test]
async fn completing_a_task_ends_its_credentials_with_proofs() {
    let world = World::new();
    let caller = world.caller("support-bot").await;
    let task = world.open("support-bot", &["crm:read"]).await.charter.id;
    for _ in 0..3 {
        world.issue("support-bot", task, "crm:read").await.unwrap();
    }
    let request = world.request();
    let completing =
        world
            .broker
            .complete(&caller, task, Outcome::Completed, Duration::from_secs(5), request);
    let completed = tokio::select! {
        completed = completing => completed.unwrap(),
        () = world.broker.clone().reap(CancellationToken::new()) => unreachable!(),
    };
    assert!(matches!(
        completed.task.state,
        TaskState::Ended {
            outcome: Outcome::Completed,
            ..
        }
    ));
    assert_eq!(completed.leases.len(), 3);
    for lease in &completed.leases {
        let (cause, receipt) = ended(&lease.state);
        assert_eq!(cause, Cause::TaskEnded(Outcome::Completed));
        assert_eq!(receipt, Receipt::DeniedAt { at: world.now() });
        let stated = world.receipt(lease);
        assert_eq!((stated.cause, stated.receipt), (cause, receipt));
        assert_eq!((stated.lease, stated.task), (lease.id, task));
        assert_eq!((stated.issuer.as_str(), stated.at), (ISSUER, world.now()));
    }
    assert!(feed(&world).await.contains(&Selector::Task(task)));
    assert_eq!(world.records(Verb::End).len(), 3);

    let late = world.issue("support-bot", task, "crm:read").await;
    assert!(matches!(late, Err(BrokerError::Refused(Refusal::TaskNotOpen(_)))));
    let again = world
        .broker
        .complete(&caller, task, Outcome::Completed, Duration::ZERO, world.request())
        .await;
    assert!(again.is_ok(), "ending it again in the same way is no error");
    let other = world
        .broker
        .complete(&caller, task, Outcome::Failed, Duration::ZERO, world.request())
        .await;
    assert!(matches!(
        other,
        Err(BrokerError::Refused(Refusal::TaskNotOpen(_)))
    ));
}

#[tokio::test]
async fn suspending_ends_what_is_live_and_resuming_begins_anew() {
    let world = World::new();
    let caller = world.caller("support-bot").await;
    let task = world.open("support-bot", &["crm:read"]).await.charter.id;
    let issued = world.issue("support-bot", task, "crm:read").await.unwrap();
    world
        .broker
        .suspend(&caller, task, world.request())
        .await
        .unwrap();
    assert!(feed(&world).await.contains(&Selector::Lease(issued.lease.id)));
    let waiting = world.issue("support-bot", task, "crm:read").await;
    assert!(matches!(
        waiting,
        Err(BrokerError::Refused(Refusal::TaskNotOpen(TaskState::Suspended)))
    ));
    world.broker.resume(&caller, task, world.request()).await.unwrap();
    world.issue("support-bot", task, "crm:read").await.unwrap();
    world.reap().await;
    let first = world.ledger.lease(issued.lease.id).await.unwrap().unwrap();
    assert_eq!(ended(&first.state).0, Cause::TaskSuspended);
}

#[tokio::test]
async fn a_task_ends_at_its_deadline_and_without_heartbeats() {
    let world = World::new();
    let caller = world.caller("support-bot").await;
    let life = Some(Ttl::from_secs(600).unwrap());
    let silent = OpenOrder {
        ttl: life,
        heartbeat: Ttl::from_secs(60),
        ..order(&["crm:read"])
    };
    let silent = world
        .broker
        .open(&caller, silent, world.request())
        .await
        .unwrap()
        .charter
        .id;
    let alive = OpenOrder {
        ttl: life,
        heartbeat: Ttl::from_secs(60),
        ..order(&["crm:read"])
    };
    let alive = world
        .broker
        .open(&caller, alive, world.request())
        .await
        .unwrap()
        .charter
        .id;
    let lease = world
        .issue("support-bot", silent, "crm:read")
        .await
        .unwrap()
        .lease
        .id;

    world.clock.advance(Duration::from_secs(59));
    world.broker.beat(&caller, alive).await.unwrap();
    world.clock.advance(Duration::from_secs(2));
    world.reap().await;
    let ledger = &world.ledger;
    let state = |id| async move { ledger.task(id).await.unwrap().unwrap().state };
    assert!(matches!(
        state(silent).await,
        TaskState::Ended {
            outcome: Outcome::Lost,
            ..
        }
    ));
    assert_eq!(state(alive).await, TaskState::Open);
    let lease = world.ledger.lease(lease).await.unwrap().unwrap();
    assert_eq!(ended(&lease.state).0, Cause::TaskEnded(Outcome::Lost));

    for _ in 0..18 {
        world.clock.advance(Duration::from_secs(30));
        let _ = world.broker.beat(&caller, alive).await;
        world.reap().await;
    }
    assert!(matches!(
        state(alive).await,
        TaskState::Ended {
            outcome: Outcome::Expired,
            ..
        }
    ));
}

#[tokio::test]
async fn a_credential_ends_at_its_own_time() {
    let world = World::new();
    let task = world.open("support-bot", &["crm:read"]).await.charter.id;
    let issued = world.issue("support-bot", task, "crm:read").await.unwrap();
    world.clock.advance(Duration::from_secs(301));
    world.reap().await;
    let lease = world.ledger.lease(issued.lease.id).await.unwrap().unwrap();
    assert_eq!(
        ended(&lease.state),
        (
            Cause::Expired,
            Receipt::ExpiresAt {
                at: issued.lease.expires_at
            }
        )
    );
    assert!(feed(&world).await.is_empty(), "what expired needs no cutoff");
}

#[tokio::test]
async fn an_operator_ends_all_of_an_agent_and_others_may_not() {
    let world = World::new();
    let task = world.open("support-bot", &["crm:read"]).await.charter.id;
    let issued = world.issue("support-bot", task, "crm:read").await.unwrap();
    let intruder = world.caller("report-bot").await;
    let agent = "support-bot".parse().unwrap();
    let refused = world
        .broker
        .revoke_all(&intruder, Selector::Agent(agent), "because", world.request())
        .await;
    assert!(matches!(refused, Err(BrokerError::Denied { .. })));
    let hidden = world
        .broker
        .revoke(&intruder, issued.lease.id, "because", world.request())
        .await;
    assert!(
        matches!(hidden, Err(BrokerError::NoLease)),
        "what is not the caller's to see does not exist"
    );

    let operator = world.caller("ops-console").await;
    let agent = "support-bot".parse().unwrap();
    let revoked = world
        .broker
        .revoke_all(&operator, Selector::Agent(agent), "incident 12", world.request())
        .await
        .unwrap();
    assert_eq!(revoked.leases, 1);
    world.reap().await;
    let lease = world.ledger.lease(issued.lease.id).await.unwrap().unwrap();
    assert_eq!(ended(&lease.state).0, Cause::Cutoff);
    let record = world.records(Verb::Revoke).pop().unwrap();
    assert_eq!(record.reason.as_deref(), Some("incident 12"));

    world.clock.advance(Duration::from_millis(1));
    assert!(
        world.issue("support-bot", task, "crm:read").await.is_ok(),
        "a cutoff ends what was, not what comes"
    );
}

#[tokio::test]
async fn an_order_against_what_is_anothers_is_hidden_and_on_record_each_time() {
    let world = World::new();
    let task = world.open("support-bot", &["crm:read"]).await.charter.id;
    let lease = world
        .issue("support-bot", task, "crm:read")
        .await
        .unwrap()
        .lease
        .id;
    let intruder = world.caller("report-bot").await;
    for _ in 0..2 {
        let refused = world.broker.revoke(&intruder, lease, "mine now", world.request());
        assert!(matches!(refused.await, Err(BrokerError::NoLease)));
    }
    let refused = world
        .broker
        .revoke_task(&intruder, task, "mine now", Duration::ZERO, world.request());
    assert!(matches!(refused.await, Err(BrokerError::NoTask)));

    let records = world.records(Verb::Revoke);
    let about: Vec<_> = records.iter().map(|record| (record.lease, record.task)).collect();
    assert_eq!(
        about,
        [
            (Some(lease), Some(task)),
            (Some(lease), Some(task)),
            (None, Some(task))
        ]
    );
    for record in records {
        assert_eq!(record.result, Recorded::Denied);
        assert_eq!(record.agent.unwrap().as_str(), "report-bot");
        assert_eq!(
            record.reason.as_deref(),
            Some("this takes a role on Dayfly itself: operator, auditor, resource-server or delegator")
        );
    }
    let untouched = world.ledger.lease(lease).await.unwrap().unwrap();
    assert_eq!(untouched.state, LeaseState::Active);
}

/// Another replica that ends and forgets the first lease that is about to be revoked.
struct Faster {
    ledger: Arc<dyn Ledger>,
    done: AtomicBool,
}

#[async_trait]
impl Gate for Faster {
    async fn before(&self, call: &'static str) {
        if call != "revoke_all" || self.done.swap(true, Ordering::SeqCst) {
            return;
        }
        let page = Page {
            after: None,
            limit: NonZeroUsize::MIN,
        };
        let first = self
            .ledger
            .find(&Filter::default(), &page)
            .await
            .unwrap()
            .remove(0);
        let claim = async || {
            let hold = Duration::from_secs(1);
            self.ledger.claim_due(MORNING, hold, NonZeroUsize::MIN).await
        };
        self.ledger
            .revoke(first.id, Cause::Revoked, MORNING)
            .await
            .unwrap();
        let Claim::Lease(claimed) = claim().await.unwrap().remove(0) else {
            panic!("a lease is due");
        };
        let longer_ago_than_the_retention = MORNING.minus(Duration::from_secs(30 * 24 * 3600));
        let signature = ReceiptSignature {
            issuer: ISSUER.to_owned(),
            key: [0; 4],
            bytes: Box::new([0; 64]),
        };
        let ended = Settlement::Ended(Receipt::DeniedAt { at: MORNING }, signature);
        self.ledger
            .settle(&claimed, ended, longer_ago_than_the_retention)
            .await
            .unwrap();
        assert_eq!(claim().await.unwrap(), []);
        assert_eq!(self.ledger.lease(first.id).await.unwrap(), None);
    }

    async fn after(&self, _: &'static str) {}
}

#[tokio::test]
async fn a_kill_order_goes_on_past_a_lease_that_is_forgotten_meanwhile() {
    let world = World::of(Plan {
        ledger: Box::new(|ledger| {
            let gate = Arc::new(Faster {
                ledger: ledger.clone(),
                done: AtomicBool::new(false),
            });
            Arc::new(Gated { ledger, gate })
        }),
        ..Plan::default()
    });
    let task = world.open("support-bot", &["crm:read"]).await.charter.id;
    let mut leases = Vec::new();
    for _ in 0..3 {
        leases.push(
            world
                .issue("support-bot", task, "crm:read")
                .await
                .unwrap()
                .lease
                .id,
        );
    }
    let operator = world.caller("ops-console").await;
    let agent = "support-bot".parse().unwrap();
    let revoked = world
        .broker
        .revoke_all(&operator, Selector::Agent(agent), "incident 12", world.request())
        .await
        .unwrap();
    assert_eq!(revoked.leases, 2, "and one was gone already");
    for lease in leases {
        let left = world.ledger.lease(lease).await.unwrap();
        assert!(
            left.is_none_or(|lease| matches!(lease.state, LeaseState::Revoking(_))),
            "{lease}"
        );
    }
}

#[tokio::test]
async fn an_agent_ends_its_own_lease() {
    let world = World::new();
    let caller = world.caller("support-bot").await;
    let task = world.open("support-bot", &["crm:read"]).await.charter.id;
    let issued = world.issue("support-bot", task, "crm:read").await.unwrap();
    world
        .broker
        .revoke(&caller, issued.lease.id, "done with it", world.request())
        .await
        .unwrap();
    world.reap().await;
    let filter = Filter {
        task: Some(task),
        ..Filter::default()
    };
    let page = Page {
        after: None,
        limit: NonZeroUsize::MIN,
    };
    let found = world
        .broker
        .inspect_leases(
            &caller,
            Filter {
                agent: Some("support-bot".parse().unwrap()),
                ..filter
            },
            page,
            world.request(),
        )
        .await;
    assert_eq!(ended(&found.unwrap()[0].state).0, Cause::Revoked);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_ended_is_retried_then_stuck_and_never_dropped() {
    let machine = Arc::new(Vending::default());
    let world = World::of(Plan {
        provider: Some(machine.clone()),
        ..Plan::default()
    });
    let caller = world.caller("support-bot").await;
    let task = world.open("support-bot", &["crm:read"]).await.charter.id;
    let lease = world
        .issue("support-bot", task, "crm:read")
        .await
        .unwrap()
        .lease
        .id;
    machine.break_down(true);
    world
        .broker
        .complete(&caller, task, Outcome::Completed, Duration::ZERO, world.request())
        .await
        .unwrap();
    let mut stuck = false;
    for _ in 0..40 {
        world.reap().await;
        let state = world.ledger.lease(lease).await.unwrap().unwrap().state;
        stuck |= matches!(state, LeaseState::Stuck(_));
        assert!(
            !matches!(state, LeaseState::Ended { .. }),
            "nothing closes it but proof"
        );
        world.clock.advance(Duration::from_secs(60));
    }
    assert!(stuck);
    assert_eq!(machine.outside().len(), 1);
    machine.break_down(false);
    world.clock.advance(Duration::from_secs(300));
    world.reap().await;
    let state = world.ledger.lease(lease).await.unwrap().unwrap().state;
    assert!(matches!(ended(&state).1, Receipt::VerifiedAbsent { .. }));
    assert!(machine.outside().is_empty());
}

#[tokio::test]
async fn whoever_waits_sees_what_another_replica_settled() {
    let world = World::of(Plan {
        settings: Settings {
            reaper: reaper::Settings {
                interval: Duration::from_millis(10),
                ..reaper::Settings::default()
            },
            ..Settings::default()
        },
        ..Plan::default()
    });
    let jwt = JwtProvider::new(ISSUER, world.keys.clone(), Ttl::from_secs(3600).unwrap()).unwrap();
    let replica = world.restarted(Arc::new(jwt));
    let caller = world.caller("support-bot").await;
    let task = world.open("support-bot", &["crm:read"]).await.charter.id;
    world.issue("support-bot", task, "crm:read").await.unwrap();
    let (request, begun) = (world.request(), tokio::time::Instant::now());
    let wait = Duration::from_secs(20);
    let completing = world
        .broker
        .complete(&caller, task, Outcome::Completed, wait, request);
    let completed = tokio::select! {
        completed = completing => completed.unwrap(),
        () = replica.reap(CancellationToken::new()) => unreachable!(),
    };
    for lease in &completed.leases {
        ended(&lease.state);
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn nothing_that_ended_comes_back_when_the_clock_steps_back() {
    let world = World::new();
    let caller = world.caller("support-bot").await;
    let completed = world.open("support-bot", &["crm:read"]).await.charter.id;
    let expiring = world.open("support-bot", &["crm:read"]).await.charter.id;
    let mut leases = Vec::new();
    for task in [completed, expiring] {
        leases.push(world.issue("support-bot", task, "crm:read").await.unwrap().lease);
    }
    world
        .broker
        .complete(
            &caller,
            completed,
            Outcome::Completed,
            Duration::ZERO,
            world.request(),
        )
        .await
        .unwrap();
    world.reap().await;
    world.clock.set(leases[1].expires_at);
    world.reap().await;

    // To before anything began, as after a restart on a machine whose clock is wrong.
    world.clock.set(MORNING.minus(Duration::from_secs(60)));
    world.reap().await;
    for lease in &leases {
        let now = world.ledger.lease(lease.id).await.unwrap().unwrap();
        ended(&now.state);
        let caller = world.caller("support-bot").await;
        let renewed = world.broker.renew(caller, lease.id, None, world.request()).await;
        assert!(matches!(renewed, Err(BrokerError::Refused(_))), "{renewed:?}");
    }
    let late = world.issue("support-bot", completed, "crm:read").await;
    assert!(
        matches!(late, Err(BrokerError::Refused(Refusal::TaskNotOpen(_)))),
        "{late:?}"
    );
    assert!(feed(&world).await.contains(&Selector::Task(completed)));
}
