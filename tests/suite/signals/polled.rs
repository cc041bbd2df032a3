//! Tokens that are fetched: by one, by several, and when something fails.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use dayfly::signal::{Batch, Outcomes, PollError, Transmitter};
use serde_json::json;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::{House, ann, high};
use crate::world::transmitter::{caep, claims};

/// A transmitter that sends the same whatever it is told, and what time it was when it was asked.
struct Forgetful {
    set: String,
    asked: Mutex<Vec<Instant>>,
}

#[async_trait]
impl Transmitter for Forgetful {
    async fn poll(&self, _: &Outcomes) -> Result<Batch, PollError> {
        self.asked.lock().unwrap().push(Instant::now());
        Ok(Batch {
            sets: vec![("set-1".to_owned(), self.set.clone())],
            more: false,
        })
    }

    fn interval(&self) -> Duration {
        Duration::from_millis(200)
    }
}

#[tokio::test]
async fn a_transmitter_that_forgets_what_it_was_told_is_not_asked_the_faster() {
    let house = House::polling().await;
    let event = caep("risk-level-change");
    let set = claims("set-1", &ann(), &event, high(), house.ago(5));
    let forgetful = Arc::new(Forgetful {
        set: house.idp.sign(&set).await,
        asked: Mutex::default(),
    });
    let (stream, _) = &house.polled[0];
    let polling =
        Arc::clone(&house.world.broker).poll(Arc::clone(stream), forgetful.clone(), house.stop.clone());
    TaskTracker::new().spawn(polling);
    while forgetful.asked.lock().unwrap().len() < 4 {
        tokio::task::yield_now().await;
    }
    let asked = forgetful.asked.lock().unwrap().clone();
    assert!(asked[3] - asked[2] >= Duration::from_millis(190), "{asked:?}");
}

#[tokio::test]
async fn what_is_polled_is_acknowledged_when_it_is_written_down() {
    let house = House::polling().await;
    let event = caep("risk-level-change");
    for n in 0..3 {
        let jti = format!("set-{n}");
        let set = house
            .idp
            .sign(&claims(&jti, &ann(), &event, high(), house.ago(5 + n)))
            .await;
        house.idp.keep(&jti, set);
    }
    let foreign = claims(
        "foreign",
        &json!({"format": "opaque", "id": "root"}),
        &event,
        high(),
        house.ago(5),
    );
    house.idp.keep("foreign", house.idp.sign(&foreign).await);
    let other = claims("set-9", &ann(), &event, high(), house.ago(5));
    house.idp.keep("misnamed", house.idp.sign(&other).await);
    house.idp.keep("broken", "x.y.z".into());
    house.idp.page(2);
    house.poll();
    house
        .idp
        .until("all are said something of", |idp| idp.kept().is_empty())
        .await;
    assert_eq!(house.facts().await, ["user/user:ann risk=high"]);
    assert_eq!(house.idp.refused("foreign").unwrap()["err"], "access_denied");
    assert_eq!(house.idp.refused("misnamed").unwrap()["err"], "invalid_request");
    assert_eq!(house.idp.refused("broken").unwrap()["err"], "invalid_request");
    assert_eq!(house.idp.polls()[0]["maxEvents"], 20);
    // Then it waits for news, and takes them as they come.
    house
        .idp
        .until("a poll that waits", |idp| {
            idp.polls().last().unwrap()["returnImmediately"] == false
        })
        .await;
    let low = json!({"principal": "USER", "current_level": "LOW"});
    let late = claims("late", &ann(), &event, low, house.ago(1));
    house.idp.keep("late", house.idp.sign(&late).await);
    house
        .idp
        .until("the news are taken", |idp| idp.kept().is_empty())
        .await;
    assert_eq!(house.facts().await, ["user/user:ann risk=low"]);
}

#[tokio::test]
async fn a_transmitter_or_a_ledger_that_fails_costs_no_signal() {
    let house = House::polling().await;
    let set = claims("set-1", &ann(), &caep("risk-level-change"), high(), house.ago(5));
    house.idp.keep("set-1", house.idp.sign(&set).await);
    house.idp.fail(Some(axum::http::StatusCode::BAD_GATEWAY));
    house.outage.0.store(true, Ordering::Release);
    house.poll();
    house
        .idp
        .until("a poll fails", |idp| !idp.polls().is_empty())
        .await;
    house.idp.fail(None);
    let after = house.idp.polls().len();
    house
        .idp
        .until("a poll goes through", |idp| idp.polls().len() > after + 1)
        .await;
    assert_eq!(house.idp.kept(), ["set-1"], "it was not written down");
    assert!(house.idp.polls().iter().all(|poll| poll["ack"].is_null()));
    house.outage.0.store(false, Ordering::Release);
    house.idp.until("it is taken", |idp| idp.kept().is_empty()).await;
    assert_eq!(house.facts().await, ["user/user:ann risk=high"]);
}

#[tokio::test]
async fn several_pollers_are_harmless() {
    let house = House::polling().await;
    for _ in 0..3 {
        house.poll();
    }
    for n in 0..10 {
        let jti = format!("set-{n}");
        let level = if n == 9 { "HIGH" } else { "LOW" };
        let body = json!({"principal": "USER", "current_level": level});
        let at = house.ago(100 - n);
        let set = house
            .idp
            .sign(&claims(&jti, &ann(), &caep("risk-level-change"), body, at))
            .await;
        house.idp.keep(&jti, set);
    }
    house
        .idp
        .until("all are taken", |idp| idp.kept().is_empty())
        .await;
    assert_eq!(house.facts().await, ["user/user:ann risk=high"]);
}
