//! What a credential is, what bounds it, and what it takes to get one.

use std::sync::Arc;
use std::time::Duration;

use dayfly::broker::Settings;
use dayfly::broker::decide::DecideOrder;
use dayfly::broker::error::BrokerError;
use dayfly::broker::issue::IssueOrder;
use dayfly::broker::open::OpenOrder;
use dayfly::journal::record::{Record, Result as Outcome, Verb};
use dayfly::keys::jose::Unverified;
use dayfly::ledger::{Budget, Cursor, IdempotencyKey, Refusal};
use dayfly::model::cutoff::Selector;
use dayfly::model::lease::{Cause, Ending, LeaseState};
use dayfly::model::task::Outcome as TaskOutcome;
use dayfly::model::token::AccessToken;
use dayfly::model::ttl::{Bound, Ttl};
use dayfly_client::resource::Claims;

use crate::world::gated::{Counter, Gated};
use crate::world::{ISSUER, Plan, World, access, order, token};

fn ttl(seconds: u32) -> Ttl {
    Ttl::from_secs(seconds).unwrap()
}

#[tokio::test]
async fn a_permitted_access_becomes_a_token_for_one_tool() {
    let world = World::new();
    let task = world
        .open("support-bot", &["crm:read,comment@customers/42"])
        .await;
    let issued = world
        .issue("support-bot", task.charter.id, "crm:read@customers/42")
        .await
        .unwrap();

    let jws = Unverified::parse(token(&issued), 8192).unwrap();
    jws.verify_with(&world.keys.key_set()).unwrap();
    assert!(jws.header().is_typ("at+jwt"));
    let claims: AccessToken = jws.claims().unwrap();
    assert_eq!(
        (claims.iss.as_str(), claims.aud.as_str()),
        (ISSUER, "https://crm.example.org")
    );
    let read: Claims = jws.claims().unwrap();
    assert!(read.permits("read", Some("customers/42")));
    assert!(!read.permits("comment", Some("customers/42")));
    assert!(!read.permits("read", Some("customers/43")));
    assert!(
        !token(&issued).contains("ticket"),
        "the purpose stays in the journal"
    );
    assert_eq!(issued.lease.ending, Ending::DenyListed);

    let record = world.records(Verb::Issue).pop().unwrap();
    assert_eq!(record.result, Outcome::Permitted);
    assert_eq!(record.lease, Some(issued.lease.id));
    assert_eq!(record.purpose.as_deref(), Some("answer ticket 4711"));
    assert_eq!(record.policies.len(), 1, "{:?}", record.policies);
    assert!(record.revision.is_some() && record.attested.is_some() && record.request.is_some());
}

#[tokio::test]
async fn one_issue_is_one_round_trip_to_the_ledger() {
    let counter = Arc::new(Counter::default());
    let gate = counter.clone();
    let world = World::of(Plan {
        ledger: Box::new(|ledger| Arc::new(Gated { ledger, gate })),
        ..Plan::default()
    });
    let task = world.open("support-bot", &["crm:read"]).await;
    counter.take();
    world
        .issue("support-bot", task.charter.id, "crm:read")
        .await
        .unwrap();
    assert_eq!(counter.take(), ["reserve"]);
}

/// Futures are moved on their way to where they run, and an issue is the busiest of them.
#[tokio::test]
async fn an_issue_under_way_takes_little_memory() {
    let world = World::new();
    let task = world.open("support-bot", &["crm:read"]).await.charter.id;
    let caller = world.caller("support-bot").await;
    let order = IssueOrder {
        task,
        access: access("crm:read"),
        ttl: None,
        key: None,
    };
    let issuing = world.broker.issue(caller, order, world.request());
    let bytes = std::mem::size_of_val(&issuing);
    assert!(bytes <= 8 * 1024, "{bytes}");
}

#[tokio::test]
async fn the_shortest_bound_is_granted_and_named() {
    let world = World::new();
    let caller = world.caller("support-bot").await;
    let open = |life: u32| OpenOrder {
        ttl: Some(ttl(life)),
        ..order(&["crm:read", "payments:read"])
    };
    let long = world
        .broker
        .open(&caller, open(7200), world.request())
        .await
        .unwrap()
        .charter
        .id;
    let short = world
        .broker
        .open(&caller, open(90), world.request())
        .await
        .unwrap()
        .charter
        .id;
    for (task, wanted, asked, granted, by) in [
        (long, "crm:read", Some(60), 60, Bound::Requested),
        (long, "crm:read", None, 300, Bound::Default),
        (long, "crm:read", Some(86_400), 600, Bound::Policy),
        (long, "payments:read", Some(86_400), 300, Bound::Policy),
        (short, "crm:read", Some(3600), 90, Bound::Task),
    ] {
        let order = IssueOrder {
            task,
            access: access(wanted),
            ttl: asked.map(ttl),
            key: None,
        };
        let issued = world
            .broker
            .issue(caller.clone(), order, world.request())
            .await
            .unwrap();
        assert_eq!(
            (issued.granted.ttl, issued.granted.by),
            (ttl(granted), by),
            "{wanted} for {asked:?}"
        );
        assert_eq!(
            issued.lease.expires_at,
            world.now().plus(Duration::from_secs(granted.into()))
        );
        if let Some(asked) = asked {
            assert_eq!(
                issued.requested,
                ttl(asked),
                "what was asked for is never silently cut"
            );
        }
    }
}

#[tokio::test]
async fn a_credential_can_be_bound_to_the_evidence() {
    let settings = dayfly::broker::Settings {
        bind_to_attestation: true,
        ..Default::default()
    };
    let world = World::of(Plan {
        settings,
        ..Plan::default()
    });
    let caller = world.caller("support-bot").await;
    let task = world.open("support-bot", &["crm:read"]).await.charter.id;
    world.clock.advance(Duration::from_secs(200));
    let order = IssueOrder {
        task,
        access: access("crm:read"),
        ttl: None,
        key: None,
    };
    let issued = world.broker.issue(caller, order, world.request()).await.unwrap();
    assert_eq!(
        (issued.granted.ttl, issued.granted.by),
        (ttl(100), Bound::Attestation)
    );
}

#[tokio::test]
async fn denials_say_why_and_are_on_record() {
    let world = World::new();
    let task = world
        .open(
            "report-bot",
            &["payments:read", "crm:read", "nothing:read", "reports:erase"],
        )
        .await
        .charter
        .id;
    for (wanted, reason) in [
        (
            "payments:read",
            "restricted data takes an agent of autonomy level 3 or higher",
        ),
        ("crm:read", "no policy permits this"),
        ("nothing:read", "no policy permits this"),
        ("reports:erase", "no policy permits this"),
        ("reports:read", "this is outside the scope of the task"),
    ] {
        let before = world.records(Verb::Issue).len();
        let Err(BrokerError::Denied {
            decision,
            reason: told,
            approval,
        }) = world.issue("report-bot", task, wanted).await
        else {
            panic!("{wanted} was not denied");
        };
        assert_eq!((told.as_str(), approval), (reason, None), "{wanted}");
        let records = world.records(Verb::Issue);
        assert_eq!(records.len(), before + 1);
        let record = records.last().unwrap();
        assert_eq!(
            (record.result, record.decision),
            (Outcome::Denied, Some(decision))
        );
        assert_eq!(record.reason.as_deref(), Some(reason));
    }
}

#[tokio::test]
async fn there_is_no_credential_for_dayfly_itself() {
    let world = World::new();
    let task = world.open("ops-console", &["dayfly:inspect"]).await.charter.id;
    let denied = world.issue("ops-console", task, "dayfly:inspect").await;
    assert!(matches!(denied, Err(BrokerError::Denied { reason, .. }) if reason == "no policy permits this"));
    assert_eq!(world.records(Verb::Issue).len(), 1);
}

#[tokio::test]
async fn what_needs_an_approval_is_not_issued_without_one() {
    let world = World::new();
    let task = world
        .open("support-bot", &["crm:export@customers"])
        .await
        .charter
        .id;
    let denied = world.issue("support-bot", task, "crm:export@customers").await;
    assert!(
        matches!(denied, Err(BrokerError::Denied { approval: Some(role), .. }) if role.as_str() == "data-steward")
    );
}

#[tokio::test]
async fn an_agent_that_opens_tasks_in_a_loop_is_stopped_and_on_record_once() {
    let world = World::of(Plan {
        settings: Settings {
            open_tasks_per_agent: Some(3),
            ..Settings::default()
        },
        ..Plan::default()
    });
    let caller = world.caller("report-bot").await;
    let mut tasks = Vec::new();
    for _ in 0..3 {
        tasks.push(world.open("report-bot", &["crm:read"]).await.charter.id);
    }
    for _ in 0..5 {
        let refused = world.broker.open(&caller, order(&["crm:read"]), world.request());
        let Err(BrokerError::Refused(refusal)) = refused.await else {
            panic!("not refused");
        };
        let budget = Budget::OpenTasks;
        assert_eq!(refusal, Refusal::Budget { budget, limit: 3 });
    }
    let failed = |record: &Record| record.result == Outcome::Failed;
    let mut records = world.records(Verb::Open);
    records.retain(failed);
    assert_eq!(records.len(), 1, "{records:?}");
    assert_eq!(records[0].task, None, "there is none");
    assert_eq!(
        records[0].reason.as_deref(),
        Some("the agent has 3 open tasks, as many as it may have")
    );
    let wait = Duration::ZERO;
    world
        .broker
        .complete(&caller, tasks[0], TaskOutcome::Completed, wait, world.request())
        .await
        .unwrap();
    world.open("report-bot", &["crm:read"]).await;
}

fn on_behalf_of(user: &str) -> OpenOrder {
    OpenOrder {
        on_behalf_of: Some(user.parse().unwrap()),
        ..order(&["crm:read"])
    }
}

#[tokio::test]
async fn an_agent_acts_for_nobody_whom_its_entry_does_not_name() {
    let world = World::new();
    for (agent, user, may) in [
        ("support-bot", "user:17", true),
        ("support-bot", "customer-service", true),
        ("support-bot", "the-chief", false),
        ("report-bot", "user:17", false),
    ] {
        let caller = world.caller(agent).await;
        let opened = world
            .broker
            .open(&caller, on_behalf_of(user), world.request())
            .await;
        let record = world.records(Verb::Open).pop().unwrap();
        assert_eq!(record.on_behalf_of.unwrap().as_str(), user);
        if may {
            let task = opened.unwrap().charter.id;
            let issued = world.issue(agent, task, "crm:read").await.unwrap();
            assert_eq!(issued.lease.on_behalf_of.unwrap().as_str(), user);
            continue;
        }
        let Err(BrokerError::Denied {
            decision,
            reason,
            approval: None,
        }) = opened
        else {
            panic!("{agent} for {user}: {opened:?}");
        };
        assert!(
            reason.contains("`may_act_for`") && !reason.contains(user),
            "{reason}"
        );
        assert_eq!(record.result, Outcome::Denied);
        assert_eq!((record.decision, record.task), (Some(decision), None));
        assert_eq!(record.reason, Some(reason));
    }
}

#[tokio::test]
async fn a_preflight_for_somebody_else_is_denied() {
    let world = World::new();
    let caller = world.caller("support-bot").await;
    for (user, may) in [("user:17", true), ("the-chief", false)] {
        let asked = on_behalf_of(user);
        let asked = DecideOrder {
            purpose: asked.purpose,
            scope: asked.scope,
            on_behalf_of: asked.on_behalf_of,
            ttl: None,
        };
        let verdicts = world
            .broker
            .decide(&caller, asked, world.request())
            .await
            .unwrap();
        assert_eq!(verdicts[0].outcome.is_ok(), may, "{verdicts:?}");
        if let Err(refused) = &verdicts[0].outcome {
            assert!(refused.reason.contains("`may_act_for`"), "{refused:?}");
        }
        let record = world.records(Verb::Decide).pop().unwrap();
        assert_eq!(record.result == Outcome::Permitted, may);
    }
}

#[tokio::test]
async fn what_an_owner_takes_from_an_agent_is_gone_for_its_open_tasks_too() {
    let world = World::new();
    let caller = world.caller("support-bot").await;
    let opened = world
        .broker
        .open(&caller, on_behalf_of("user:17"), world.request())
        .await;
    let task = opened.unwrap().charter.id;
    world.issue("support-bot", task, "crm:read").await.unwrap();
    world.rewrite("support-bot", |text| text.replace("\"user:*\"", "\"user:9\""));
    let refused = world.issue("support-bot", task, "crm:read").await;
    assert!(matches!(refused, Err(BrokerError::Denied { .. })), "{refused:?}");
}

#[tokio::test]
async fn another_agents_task_does_not_exist() {
    let world = World::new();
    let task = world.open("support-bot", &["crm:read"]).await.charter.id;
    let caller = world.caller("report-bot").await;
    assert!(matches!(
        world.issue("report-bot", task, "crm:read").await,
        Err(BrokerError::NoTask)
    ));
    assert!(matches!(
        world.broker.beat(&caller, task).await,
        Err(BrokerError::NoTask)
    ));
    assert!(matches!(
        world.broker.inspect_task(&caller, task, world.request()).await,
        Err(BrokerError::NoTask)
    ));
    let ended = world
        .broker
        .complete(
            &caller,
            task,
            TaskOutcome::Failed,
            Duration::ZERO,
            world.request(),
        )
        .await;
    assert!(matches!(ended, Err(BrokerError::NoTask)));
    assert!(world.issue("support-bot", task, "crm:read").await.is_ok());
}

#[tokio::test]
async fn a_repeated_order_ends_the_credential_that_nobody_got() {
    let world = World::new();
    let caller = world.caller("support-bot").await;
    let task = world.open("support-bot", &["crm:read"]).await.charter.id;
    let key = IdempotencyKey::new(&caller.agent().name, "attempt-1", b"crm:read");
    let order = IssueOrder {
        task,
        access: access("crm:read"),
        ttl: None,
        key: Some(key),
    };
    let mut last = None;
    for _ in 0..8 {
        let issued = world
            .broker
            .issue(caller.clone(), order.clone(), world.request())
            .await
            .unwrap();
        if let Some(before) = last.replace(issued.lease.id) {
            let before = world.ledger.lease(before).await.unwrap().unwrap();
            assert!(
                matches!(before.state, LeaseState::Revoking(effort) if effort.cause == Cause::Superseded)
            );
        }
    }
    let exhausted = world.broker.issue(caller.clone(), order.clone(), world.request());
    assert!(matches!(exhausted.await, Err(BrokerError::KeyExhausted)));
    let other = IdempotencyKey::new(&caller.agent().name, "attempt-1", b"crm:comment");
    let order = IssueOrder {
        key: Some(other),
        ..order
    };
    let refused = world.broker.issue(caller, order, world.request()).await;
    assert!(matches!(
        refused,
        Err(BrokerError::Refused(dayfly::ledger::Refusal::KeyReused))
    ));
}

#[tokio::test]
async fn renewing_is_deciding_anew() {
    let world = World::new();
    let caller = world.caller("support-bot").await;
    let task = world.open("support-bot", &["crm:read"]).await.charter.id;
    let issued = world.issue("support-bot", task, "crm:read").await.unwrap();
    world.clock.advance(Duration::from_secs(240));
    let caller_now = world.caller("support-bot").await;
    let renewed = world
        .broker
        .renew(caller_now, issued.lease.id, None, world.request())
        .await
        .unwrap();
    assert_eq!(renewed.lease.id, issued.lease.id);
    assert_eq!(
        renewed.lease.expires_at,
        world.now().plus(Duration::from_secs(300))
    );
    let records = world.records(Verb::Renew);
    assert_eq!(records.len(), 1);
    let stored = world.ledger.lease(issued.lease.id).await.unwrap().unwrap();
    assert_eq!(stored, renewed.lease, "what is shown is what was given");
    assert_eq!(Some(stored.decision), records[0].decision);
    assert_ne!(stored.decision, issued.lease.decision);

    let foreign = world.caller("report-bot").await;
    assert!(matches!(
        world
            .broker
            .renew(foreign, issued.lease.id, None, world.request())
            .await,
        Err(BrokerError::NoLease)
    ));
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
    let late = world
        .broker
        .renew(caller, issued.lease.id, None, world.request())
        .await;
    assert!(matches!(late, Err(BrokerError::Refused(_))), "{late:?}");
    let results: Vec<Outcome> = world
        .records(Verb::Renew)
        .iter()
        .map(|record| record.result)
        .collect();
    let expected = [Outcome::Permitted, Outcome::Permitted, Outcome::Failed];
    assert_eq!(results, expected, "a permit without effect says so");
}

#[tokio::test]
async fn a_short_renewal_leaves_no_token_behind_that_nobody_can_end() {
    let world = World::new();
    let task = world.open("support-bot", &["crm:read"]).await.charter.id;
    let issued = world.issue("support-bot", task, "crm:read").await.unwrap();
    let caller = world.caller("support-bot").await;
    let renewed = world
        .broker
        .renew(caller.clone(), issued.lease.id, Some(ttl(1)), world.request())
        .await
        .unwrap();
    let claims: AccessToken = Unverified::parse(token(&renewed), 8192)
        .unwrap()
        .claims()
        .unwrap();
    assert_eq!(
        claims.exp,
        world.now().as_secs() + 1,
        "no longer than was granted"
    );

    world.clock.advance(Duration::from_secs(2));
    world.reap().await;
    let lease = world.ledger.lease(issued.lease.id).await.unwrap().unwrap();
    assert!(lease.is_live(world.now()), "the first token still is: {lease:?}");
    world
        .broker
        .revoke(&caller, lease.id, "found in a log", world.request())
        .await
        .unwrap();
    let told = world
        .ledger
        .changes(&Cursor::default(), Duration::ZERO)
        .await
        .unwrap();
    assert!(
        told.cutoffs
            .iter()
            .any(|cutoff| cutoff.selector == Selector::Lease(lease.id))
    );
}

#[tokio::test]
async fn who_is_suspended_or_unproven_by_the_time_of_the_decision_gets_nothing() {
    let world = World::new();
    let task = world.open("support-bot", &["crm:read"]).await.charter.id;
    let issued = world.issue("support-bot", task, "crm:read").await.unwrap();
    // Who called is known from the headers of a request; its body may take its time.
    let (caller, follower) = (
        world.caller("support-bot").await,
        world.caller("crm-server").await,
    );
    let ask = async |expected: &str| {
        let order = IssueOrder {
            task,
            access: access("crm:read"),
            ttl: None,
            key: None,
        };
        let asked = world
            .broker
            .issue(caller.clone(), order, world.request())
            .await
            .map(drop);
        let renewing = world
            .broker
            .renew(caller.clone(), issued.lease.id, None, world.request());
        let since = Cursor::default();
        let following = world
            .broker
            .follow(&follower, &since, Duration::ZERO, world.request());
        for answer in [asked, renewing.await.map(drop), following.await.map(drop)] {
            let Err(BrokerError::Denied { reason, .. }) = answer else {
                panic!("{answer:?} is not denied");
            };
            assert!(reason.contains(expected), "{reason}");
        }
    };
    world.suspend(&["support-bot", "crm-server"]);
    ask("suspended").await;
    world.suspend(&[]);
    world.clock.advance(Duration::from_secs(299));
    world
        .broker
        .follow(&follower, &Cursor::default(), Duration::ZERO, world.request())
        .await
        .unwrap();
    world.clock.advance(Duration::from_secs(1));
    ask("the evidence has expired").await;
}

#[tokio::test]
async fn a_preflight_tells_and_does_nothing() {
    let world = World::new();
    let caller = world.caller("support-bot").await;
    let order = dayfly::broker::decide::DecideOrder {
        purpose: "look ahead".parse().unwrap(),
        scope: order(&["crm:read", "crm:delete", "crm:export@customers"]).scope,
        on_behalf_of: None,
        ttl: None,
    };
    let verdicts = world
        .broker
        .decide(&caller, order, world.request())
        .await
        .unwrap();
    let outcomes: Vec<_> = verdicts
        .iter()
        .map(|verdict| verdict.outcome.as_ref().map(|bounded| bounded.ttl))
        .collect();
    assert_eq!(outcomes[0], Ok(ttl(300)));
    assert_eq!(outcomes[1].as_ref().unwrap_err().reason, "no policy permits this");
    assert_eq!(
        outcomes[2]
            .as_ref()
            .unwrap_err()
            .approval
            .as_ref()
            .unwrap()
            .as_str(),
        "data-steward"
    );
    assert_eq!(world.records(Verb::Decide).len(), 3);
    assert!(world.records(Verb::Issue).is_empty() && world.records(Verb::Open).is_empty());
}
