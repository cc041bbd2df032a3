//! Tasks from their opening to their end, however that comes.

use std::time::Duration;

use dayfly_client::{Error, Outcome, TaskHandle};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::way::{Fate, Way};
use crate::world::{PATIENCE, READ, World, error, until};

#[tokio::test]
async fn work_that_is_done_completes_the_task_and_its_token_is_dead() {
    let world = World::start().await;
    let broker = world.agent("support-bot");
    let task = broker.task("answer ticket 4711", ["crm:read,comment@customers/42"]);
    let (id, token) = task
        .ttl(Duration::from_secs(600))
        .run(async |task| {
            assert_eq!(task.agent(), "support-bot");
            assert_eq!(task.purpose(), "answer ticket 4711");
            assert!(task.deadline() > std::time::UNIX_EPOCH);
            let crm = task.http(READ)?;
            let answer = crm.get(world.customer(42)).send().await?;
            assert_eq!(answer.status(), 200);
            assert!(answer.text().await?.contains("Harbour Books"));
            let credential = task.credential(READ).await?;
            Ok::<_, Error>((task.id().to_owned(), credential.token()?.clone()))
        })
        .await
        .unwrap();
    assert_eq!(world.outcome(&id).await, "completed");
    world.until_dead(token.reveal()).await;
}

#[tokio::test]
async fn the_end_says_what_became_of_the_credentials() {
    let world = World::start().await;
    let broker = world.agent("support-bot");
    let task = broker.task("p", [READ]).open().await.unwrap();
    let lease = task.credential(READ).await.unwrap().lease_id().to_owned();
    let conclusion = task.complete().await.unwrap();
    assert!(conclusion.settled);
    let [ended] = &conclusion.leases[..] else {
        panic!("{conclusion:?}");
    };
    assert_eq!((ended.id.as_str(), ended.tool.as_str()), (lease.as_str(), "crm"));
    assert_eq!(ended.cause.as_deref(), Some("task_completed"));
    assert_eq!(ended.proof.as_deref(), Some("denied_at"));
    assert!(ended.proven_at.is_some() && ended.receipt.is_some());
}

#[tokio::test]
async fn an_error_of_the_work_fails_the_task_and_comes_out_as_it_was() {
    #[derive(Debug)]
    enum Mine {
        Broken,
        Dayfly,
    }
    impl From<Error> for Mine {
        fn from(_: Error) -> Self {
            Self::Dayfly
        }
    }
    let world = World::start().await;
    let way = Way::to(&world.broker).await;
    let broker = world.builder("support-bot", &way.address).build().unwrap();
    let mut id = String::new();
    let work = async |task: dayfly_client::Task| {
        id = task.id().to_owned();
        Err::<(), _>(Mine::Broken)
    };
    let outcome = broker.task("p", [READ]).run(work).await;
    assert!(matches!(outcome, Err(Mine::Broken)));
    assert_eq!(world.outcome(&id).await, "failed");
    // Also when the end does not come through.
    way.next("POST /v1/tasks/", Fate::Answered(500, "", String::new()));
    let outcome = broker
        .task("p", [READ])
        .run(async |_| Err::<(), _>(Mine::Broken))
        .await;
    assert!(matches!(outcome, Err(Mine::Broken)));
    assert_eq!(way.seen("POST /v1/tasks/").len(), 2);
    let _ = Mine::Dayfly;
}

#[tokio::test]
async fn a_dropped_future_cancels_the_task() {
    let world = World::start().await;
    let broker = world.agent("support-bot");
    let (begun, beginning) = oneshot::channel();
    // That it can be spawned is part of the test: the future is `Send`.
    let running = Handle::current().spawn({
        let broker = broker.clone();
        async move {
            let task = broker.task("p", [READ]);
            task.run(async |task| {
                let token = task.credential(READ).await?.token()?.clone();
                begun.send((task.id().to_owned(), token)).unwrap();
                std::future::pending::<Result<(), Error>>().await
            })
            .await
        }
    });
    let (id, token) = beginning.await.unwrap();
    running.abort();
    assert!(running.await.unwrap_err().is_cancelled());
    broker.drain().await;
    assert_eq!(world.task(&id).await["outcome"], "cancelled");
    world.until_dead(token.reveal()).await;
}

#[tokio::test]
async fn what_is_opened_for_nobody_is_cancelled() {
    let world = World::start().await;
    let way = Way::to(&world.broker).await;
    let broker = world.builder("support-bot", &way.address).build().unwrap();
    let task = broker.task("whole", [READ]).open().await.unwrap();
    let parts = format!("POST /v1/tasks/{}/tasks", task.id());
    for (purpose, line) in [("alone", "POST /v1/tasks "), ("part", &parts)] {
        let before = way.seen(line).len();
        way.next(line, Fate::AnswerLate(Duration::from_millis(300)));
        let opening = Handle::current().spawn({
            let (broker, task) = (broker.clone(), (*task).clone());
            async move {
                match purpose {
                    "alone" => broker.task(purpose, [READ]).open().await.map(drop),
                    _ => task.delegate(purpose, [READ]).open().await.map(drop),
                }
            }
        });
        until("it is asked for", async || {
            (way.seen(line).len() > before).then_some(())
        })
        .await;
        opening.abort();
        assert!(opening.await.unwrap_err().is_cancelled());
        broker.drain().await;
        let mut ended = way.seen("POST /v1/tasks/").into_iter().filter_map(|seen| {
            let path = seen.line.strip_prefix("POST /v1/tasks/")?;
            Some(path.strip_suffix("/complete HTTP/1.1")?.to_owned())
        });
        let told = world.task(&ended.next_back().expect("its end was told")).await;
        assert_eq!(
            (&told["purpose"], &told["outcome"]),
            (&purpose.into(), &"cancelled".into())
        );
    }
    task.ensure_open().unwrap();
    task.complete().await.unwrap();
}

#[tokio::test]
async fn a_panic_fails_the_task() {
    let world = World::start().await;
    let broker = world.agent("support-bot");
    let (begun, beginning) = oneshot::channel();
    let working = broker.clone();
    let running = Handle::current().spawn(async move {
        let task = working.task("p", [READ]);
        task.run(async |task| {
            begun.send(task.id().to_owned()).unwrap();
            if task.id().starts_with("tsk_") {
                panic!("for the test");
            }
            Ok::<_, Error>(())
        })
        .await
    });
    let id = beginning.await.unwrap();
    assert!(running.await.unwrap_err().is_panic());
    broker.drain().await;
    assert_eq!(world.task(&id).await["outcome"], "failed");
}

#[tokio::test]
async fn the_last_owner_waits_for_what_was_dropped() {
    let world = World::start().await;
    let broker = world.agent("support-bot");
    let task = broker.task("p", [READ]).open().await.unwrap();
    let id = task.id().to_owned();
    let rest = (*task).clone();
    drop(broker);
    drop(task);
    assert!(matches!(rest.ensure_open(), Err(Error::TaskEnded { .. })));
    tokio::task::spawn_blocking(move || drop(rest)).await.unwrap();
    assert_eq!(world.task(&id).await["outcome"], "cancelled");
}

#[tokio::test]
async fn a_task_that_somebody_ended_says_so_everywhere() {
    let world = World::start().await;
    let broker = world.agent("support-bot");
    let task = broker.task("p", [READ]);
    let task = task.heartbeat(Duration::from_secs(10)).open().await.unwrap();
    task.credential(READ).await.unwrap();
    world.revoke(task.id()).await;
    // By the next heartbeat.
    let ended = tokio::time::timeout(PATIENCE, task.ended()).await.unwrap();
    assert_eq!((ended.state, ended.outcome), ("ended", Some(Outcome::Revoked)));
    let refused = error(task.credential(READ).await);
    let Error::TaskEnded { ended, .. } = &refused else {
        panic!("{refused:?}");
    };
    assert_eq!(ended.outcome, Some(Outcome::Revoked));
    assert!(matches!(error(task.complete().await), Error::TaskEnded { .. }));
}

#[tokio::test]
async fn an_end_is_noticed_by_the_next_call_too() {
    let world = World::start().await;
    let broker = world.agent("support-bot");
    let task = broker.task("p", [READ]).heartbeat(None).open().await.unwrap();
    world.revoke(task.id()).await;
    let refused = error(task.credential(READ).await);
    assert!(matches!(refused, Error::TaskEnded { .. }), "{refused:?}");
    assert_eq!(refused.status(), Some(409));
    assert_eq!(task.ended().await.outcome, Some(Outcome::Revoked));
}

#[tokio::test]
async fn one_worker_beats_for_all_tasks_and_a_lost_one_is_noticed() {
    let world = World::start().await;
    let way = Way::to(&world.broker).await;
    let broker = world.builder("support-bot", &way.address).build().unwrap();
    let mut tasks = Vec::new();
    for _ in 0..3 {
        let task = broker.task("p", [READ]).heartbeat(Duration::from_secs(6));
        tasks.push(task.open().await.unwrap());
    }
    until("every task beat twice", async || {
        let beats = |task: &dayfly_client::OpenTask| {
            way.seen(&format!("POST /v1/tasks/{}/heartbeat", task.id())).len()
        };
        tasks.iter().all(|task| beats(task) >= 2).then_some(())
    })
    .await;
    // Nobody hears them any more, and then somebody does.
    way.rule(Fate::Lost);
    assert_eq!(world.outcome(tasks[0].id()).await, "lost");
    way.rule(Fate::Passed);
    assert_eq!(tasks[0].ended().await.outcome, Some(Outcome::Lost));
}

#[tokio::test]
async fn heartbeats_do_not_wait_for_renewals() {
    // As many as are made at once, and more.
    const MANY: u32 = 40;
    let world = World::start().await;
    let way = Way::to(&world.broker).await;
    let broker = world.builder("support-bot", &way.address).build().unwrap();
    let task = broker
        .task("p", ["crm:read@customers"])
        .heartbeat(Duration::from_secs(12));
    let task = task.open().await.unwrap();
    let access = |number: u32| format!("crm:read@customers/{number}");
    for number in 0..MANY {
        let credential = task.credential(access(number)).ttl(Duration::from_secs(24));
        credential.await.unwrap();
        way.next("POST /v1/leases/", Fate::Late(Duration::from_secs(60)));
    }
    let renewals = || way.seen("POST /v1/leases/").len();
    until("the renewals are under way", async || {
        for number in 0..MANY {
            // Whoever asks for one that is good orders its renewal, and waits for nothing. None is waited for here.
            tokio::select! {
                biased;
                credential = task.credential(access(number)) => drop(credential.unwrap()),
                () = std::future::ready(()) => {}
            }
        }
        (renewals() >= 32).then_some(())
    })
    .await;
    let beats = || way.seen(&format!("POST /v1/tasks/{}/heartbeat", task.id())).len();
    let before = beats();
    until("it beats on", async || (beats() >= before + 2).then_some(())).await;
    assert_eq!(world.task(task.id()).await["state"], "open");
    task.cancel().await.unwrap();
}

#[tokio::test]
async fn a_suspended_task_rests_and_goes_on_elsewhere() {
    let world = World::start().await;
    let way = Way::to(&world.broker).await;
    let broker = world.builder("support-bot", &way.address).build().unwrap();
    let task = broker.task("p", [READ]).heartbeat(Duration::from_secs(6));
    let (handle, token) = task
        .run(async |task| {
            let token = task.credential(READ).await?.token()?.clone();
            let handle = task.suspend().await?.to_string();
            assert!(matches!(
                task.credential(READ).await,
                Err(Error::TaskSuspended(_))
            ));
            Ok::<_, Error>((handle, token))
        })
        .await
        .unwrap();
    world.until_dead(token.reveal()).await;
    assert!(
        !handle.contains(token.reveal()) && !handle.contains("eyJ"),
        "{handle}"
    );
    let handle: TaskHandle = handle.parse().unwrap();
    assert_eq!(handle.broker(), way.address);
    // Longer than its heartbeat: it does not need one now.
    let beats = way
        .seen(&format!("POST /v1/tasks/{}/heartbeat", handle.task_id()))
        .len();
    tokio::time::sleep(Duration::from_millis(6500)).await;
    assert_eq!(
        way.seen(&format!("POST /v1/tasks/{}/heartbeat", handle.task_id()))
            .len(),
        beats
    );
    assert_eq!(world.task(handle.task_id()).await["state"], "suspended");

    let at_the_same = |agent| world.builder(agent, &way.address).build().unwrap();
    let stranger = at_the_same("report-bot");
    assert!(matches!(
        error(stranger.resume(&handle).await),
        Error::NotFound(_)
    ));
    let another = world.agent("support-bot");
    let refused = error(another.resume(&handle).await);
    assert!(matches!(refused, Error::InvalidRequest(_)), "{refused:?}");
    assert_eq!(world.task(handle.task_id()).await["state"], "suspended");
    let elsewhere = at_the_same("support-bot");
    let task = elsewhere.resume(&handle).await.unwrap();
    assert_eq!(task.purpose(), "p");
    let next = task.credential(READ).await.unwrap();
    assert_ne!(next.token().unwrap(), &token);
    task.complete().await.unwrap();
    assert_eq!(world.outcome(handle.task_id()).await, "completed");
}

#[tokio::test]
async fn whoever_is_on_behalf_of_and_what_would_be_permitted() {
    let world = World::start().await;
    let broker = world.agent("support-bot");
    let verdicts = broker.decide("p", [READ, "crm:delete@customers/42", "crm:export@customers"]);
    let verdicts = verdicts.on_behalf_of("customer-service").await.unwrap();
    let said: Vec<_> = verdicts.iter().map(|verdict| verdict.permitted).collect();
    assert_eq!(said, [true, false, false]);
    assert_eq!(verdicts[2].approval.as_deref(), Some("data-steward"));
    assert!(verdicts[0].granted.is_some() && verdicts[1].reason.is_some());
    let task = broker
        .task("p", [READ])
        .on_behalf_of("customer-service")
        .open()
        .await
        .unwrap();
    assert_eq!(task.on_behalf_of(), Some("customer-service"));
    task.cancel().await.unwrap();
}

#[tokio::test]
async fn a_late_answer_to_a_heartbeat_does_not_wake_a_suspended_task() {
    let world = World::start().await;
    let way = Way::to(&world.broker).await;
    let broker = world.builder("support-bot", &way.address).build().unwrap();
    let task = broker.task("p", [READ]).heartbeat(Duration::from_secs(12));
    let task = task.open().await.unwrap();
    let line = format!("POST /v1/tasks/{}/heartbeat", task.id());
    // Less than a third of the heartbeat, after which nobody would wait for the answer.
    let delay = Duration::from_secs(3);
    way.next(&line, Fate::AnswerLate(delay));
    until("it beat", async || (!way.seen(&line).is_empty()).then_some(())).await;
    let rest = (*task).clone();
    // The broker said that it is open, and nobody has heard that yet.
    tokio::time::sleep(delay / 6).await;
    let handle = task.suspend().await.unwrap();
    tokio::time::sleep(delay).await;
    assert!(matches!(rest.ensure_open(), Err(Error::TaskSuspended(_))));
    assert_eq!(world.task(handle.task_id()).await["state"], "suspended");
    let task = broker.resume(&handle).await.unwrap();
    task.cancel().await.unwrap();
}
