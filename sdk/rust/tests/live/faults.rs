//! A broker that is slow, away, or not heard.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dayfly_client::{Error, Evidence};
use tokio::runtime::Handle;

use crate::way::{Fate, Way};
use crate::world::{READ, World, error};

fn busy(retry_after: u32) -> Fate {
    let body = format!(
        r#"{{"type":"https://dayfly.dev/problems/busy","title":"t","status":503,"detail":"d","retry_after":{retry_after}}}"#
    );
    Fate::Answered(503, "", body)
}

#[tokio::test]
async fn what_is_not_heard_is_said_again_and_done_once() {
    let world = World::start().await;
    let way = Way::to(&world.broker).await;
    let broker = world.builder("support-bot", &way.address).build().unwrap();
    way.next("POST /v1/tasks ", Fate::AnswerLost);
    way.next("POST /v1/tasks ", Fate::Lost);
    let task = broker.task("p", [READ]).open().await.unwrap();
    let opened = way.seen("POST /v1/tasks ");
    assert_eq!(opened.len(), 3);
    assert!(opened[0].header("idempotency-key").is_some());
    let keys: Vec<_> = opened.iter().map(|seen| seen.header("idempotency-key")).collect();
    assert!(keys.iter().all(|key| *key == keys[0]));

    let line = format!("POST /v1/tasks/{}/credentials", task.id());
    way.next(&line, Fate::AnswerLost);
    way.next(&line, busy(0));
    let credential = task.credential(READ).await.unwrap();
    assert_eq!(world.asked_with(credential.token().unwrap().reveal()).await, 200);
    assert_eq!(way.seen(&line).len(), 3);
    assert_eq!(
        world.live_leases("support-bot").await,
        1,
        "the unheard one was ended"
    );

    way.next(
        &format!("POST /v1/tasks/{}/complete", task.id()),
        Fate::AnswerLost,
    );
    assert!(task.complete().await.unwrap().settled);
}

#[tokio::test]
async fn a_caller_that_went_away_leaves_no_second_credential() {
    let world = World::start().await;
    let way = Way::to(&world.broker).await;
    let broker = world.builder("support-bot", &way.address).build().unwrap();
    let task = broker.task("p", [READ]).open().await.unwrap();
    let line = format!("POST /v1/tasks/{}/credentials", task.id());
    way.next(&line, Fate::AnswerLost);
    way.next(&line, Fate::Late(Duration::from_secs(30)));
    let asking = Handle::current().spawn({
        let task = (*task).clone();
        async move { task.credential(READ).await.map(|_| ()) }
    });
    crate::world::until("it was asked twice", async || {
        (way.seen(&line).len() == 2).then_some(())
    })
    .await;
    asking.abort();
    assert!(asking.await.is_err());
    task.credential(READ).await.unwrap();
    assert_eq!(world.live_leases("support-bot").await, 1);
    task.complete().await.unwrap();
}

#[tokio::test]
async fn gives_up_after_four_tries_and_says_when_to_come_again() {
    let world = World::start().await;
    let way = Way::to(&world.broker).await;
    let broker = world.builder("support-bot", &way.address).build().unwrap();
    way.rule(busy(0));
    let refused = error(broker.task("p", [READ]).open().await);
    assert!(matches!(refused, Error::BrokerUnavailable(_)), "{refused:?}");
    assert!(refused.retryable());
    assert_eq!(way.seen("POST /v1/tasks ").len(), 4);
    way.rule(busy(60));
    let refused = error(broker.task("p", [READ]).open().await);
    assert_eq!(
        refused.problem().unwrap().retry_after,
        Some(Duration::from_secs(60))
    );
    assert_eq!(
        way.seen("POST /v1/tasks ").len(),
        5,
        "a minute is too long to wait"
    );
    way.rule(Fate::Lost);
    let refused = error(broker.task("p", [READ]).open().await);
    assert!(matches!(refused, Error::BrokerUnavailable(_)), "{refused:?}");
    assert!(refused.to_string().contains("does not answer"), "{refused}");
    assert_eq!(way.seen("POST /v1/tasks ").len(), 9);
}

#[tokio::test]
async fn a_slow_broker_has_its_time() {
    let world = World::start().await;
    let way = Way::to(&world.broker).await;
    let broker = world
        .builder("support-bot", &way.address)
        .timeout(Duration::from_secs(4));
    let broker = broker.build().unwrap();
    way.next("POST /v1/tasks ", Fate::Late(Duration::from_secs(20)));
    let task = broker.task("p", [READ]).open().await.unwrap();
    assert_eq!(way.seen("POST /v1/tasks ").len(), 2);
    drop(task);
}

#[tokio::test]
async fn refused_evidence_is_fetched_anew_once() {
    let world = World::start().await;
    let way = Way::to(&world.broker).await;
    let asked = Arc::new(AtomicUsize::new(0));
    let (count, good) = (asked.clone(), world.evidence("support-bot"));
    let evidence = Evidence::from_fn(move || {
        let first = count.fetch_add(1, Ordering::Relaxed) == 0;
        let given = if first {
            "eyJhbGciOiJub25lIn0.e30.".to_owned()
        } else {
            good.clone()
        };
        std::future::ready(Ok::<_, Error>(given))
    });
    let broker = world
        .builder("support-bot", &way.address)
        .evidence(evidence)
        .build()
        .unwrap();
    let task = broker.task("p", [READ]).heartbeat(None).open().await.unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 2);
    task.cancel().await.unwrap();

    let bad = Evidence::text("eyJhbGciOiJub25lIn0.e30.");
    let broker = world
        .builder("support-bot", &way.address)
        .evidence(bad)
        .build()
        .unwrap();
    let before = way.seen("POST /v1/tasks ").len();
    assert!(matches!(
        error(broker.task("p", [READ]).open().await),
        Error::AttestationFailed(_)
    ));
    assert_eq!(
        way.seen("POST /v1/tasks ").len() - before,
        2,
        "once and once more"
    );
}

#[tokio::test]
async fn evidence_does_not_follow_a_redirect() {
    let world = World::start().await;
    let (way, elsewhere) = (Way::to(&world.broker).await, Way::to(&world.broker).await);
    let broker = world.builder("support-bot", &way.address).build().unwrap();
    let to: &'static str = format!("location: {}/v1/tasks\r\n", elsewhere.address).leak();
    way.rule(Fate::Answered(307, to, String::new()));
    let refused = error(broker.task("p", [READ]).open().await);
    assert_eq!(refused.status(), Some(307));
    assert!(elsewhere.seen("").is_empty());
}

#[tokio::test]
async fn evidence_goes_nowhere_but_below_the_address() {
    let world = World::start().await;
    let (way, elsewhere) = (Way::to(&world.broker).await, Way::to(&world.broker).await);
    let stranger = elsewhere.address.trim_start_matches("http://");
    let below = world
        .builder("support-bot", &format!("{}/below", way.address))
        .build()
        .unwrap();
    let at = world.builder("support-bot", &way.address).build().unwrap();
    let hosted = world.builder("support-bot", "http://localhost").build().unwrap();
    for (broker, path) in [
        (&at, format!("@{stranger}/v1/agents")),
        (&at, format!(":x@{stranger}/v1/agents")),
        (
            &hosted,
            stranger.trim_start_matches("127.0.0.1").to_owned() + "/v1/agents",
        ),
        (&at, "?v1/agents".to_owned()),
        (&below, "v1/agents".to_owned()),
        (&below, "/../v1/agents".to_owned()),
        (&below, "/v1/%2e%2e/../v1/agents".to_owned()),
    ] {
        let refused = error(broker.api().get(&path).await);
        assert!(matches!(refused, Error::InvalidRequest(_)), "{path}: {refused:?}");
    }
    assert!(elsewhere.seen("").is_empty() && way.seen("").is_empty());
    way.rule(Fate::Answered(200, "", "{}".to_owned()));
    below.api().get("/v1/agents").await.unwrap();
    assert_eq!(way.seen("GET /below/v1/agents ").len(), 1);
}

#[tokio::test]
async fn a_dropped_task_is_ended_though_the_broker_is_away_for_a_moment() {
    let world = World::start().await;
    let way = Way::to(&world.broker).await;
    let broker = world.builder("support-bot", &way.address).build().unwrap();
    let task = broker.task("p", [READ]).open().await.unwrap();
    let id = task.id().to_owned();
    for _ in 0..5 {
        way.next(&format!("POST /v1/tasks/{id}/complete"), Fate::Lost);
    }
    drop(task);
    broker.drain().await;
    assert_eq!(world.task(&id).await["outcome"], "cancelled");
}

#[tokio::test]
async fn no_error_tells_a_secret() {
    let world = World::start().await;
    let way = Way::to(&world.broker).await;
    let broker = world.builder("support-bot", &way.address).build().unwrap();
    world.place_crm(&["http://127.0.0.1:1"]).await;
    let task = broker.task("p", [READ]).heartbeat(None).open().await.unwrap();
    let token = task
        .credential(READ)
        .await
        .unwrap()
        .token()
        .unwrap()
        .reveal()
        .to_owned();
    let evidence = world.evidence("support-bot");
    way.rule(Fate::Lost);
    let mut errors = vec![error(task.credential(READ).uncached().await)];
    // An answer that cannot be read is not shown either.
    let body = format!(r#"{{"credential":{{"type":"bearer_token","token":"{token}"}},"granted":"{token}"}}"#);
    way.rule(Fate::Answered(200, "", body));
    errors.push(error(task.credential(READ).uncached().await));
    let crm = task.http(READ).unwrap().origins(["http://127.0.0.1:1"]).unwrap();
    errors.push(error(crm.get("http://127.0.0.1:1/").send().await));
    for error in errors {
        let shown = format!("{error} {error:?} {error:#?}");
        assert!(
            !shown.contains(&token) && !shown.contains(evidence.trim()),
            "{shown}"
        );
    }
}
