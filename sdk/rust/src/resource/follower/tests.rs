//! Against a feed that answers what it is told to.

use std::collections::VecDeque;
use std::sync::Mutex as StdMutex;

use axum::Router;
use axum::extract::{Query, State as Shared};
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::super::claims::TYP;
use super::super::testing::{AUDIENCE, ISSUER, ManualClock, SigningKey, claims_of, jwks, key, later, start};
use super::super::{InvalidToken, Refusal, Settings, Verifier};
use super::*;

/// When everything here begins, as the feed says it.
const AT: &str = "2026-11-22T06:30:00.000Z";

/// A broker that answers what it is told to, and otherwise lets everybody wait.
#[derive(Default)]
struct Broker {
    answers: StdMutex<VecDeque<(u16, Value)>>,
    told: Notify,
    questions: StdMutex<Vec<(Option<String>, Option<String>)>>,
    keys: StdMutex<String>,
    key_fetches: StdMutex<usize>,
}

impl Broker {
    fn tell(&self, status: u16, answer: Value) {
        self.answers.lock().unwrap().push_back((status, answer));
        self.told.notify_one();
    }

    fn cut(&self, agent: &str, cursor: &str, more: bool) {
        let cutoff =
            json!({"selector": {"kind": "agent", "id": agent}, "up_to": AT, "at": AT, "cause": "revoked"});
        self.tell(200, json!({"cutoffs": [cutoff], "cursor": cursor, "more": more}));
    }

    fn publish(&self, keys: &[&SigningKey]) {
        *self.keys.lock().unwrap() = jwks(keys);
    }
}

#[derive(Deserialize)]
struct Question {
    cursor: Option<String>,
    wait: u64,
}

async fn feed(
    Shared(broker): Shared<Arc<Broker>>,
    headers: HeaderMap,
    Query(question): Query<Question>,
) -> Response {
    let waits: &[u64] = if question.cursor.is_some() { &[2, 15] } else { &[0] };
    assert!(
        waits.contains(&question.wait),
        "the first question wants an answer at once"
    );
    let bearer = headers
        .get("authorization")
        .map(|v| v.to_str().unwrap().to_owned());
    broker.questions.lock().unwrap().push((question.cursor, bearer));
    loop {
        let told = broker.told.notified();
        let answer = broker.answers.lock().unwrap().pop_front();
        if let Some((status, answer)) = answer {
            return (StatusCode::from_u16(status).unwrap(), axum::Json(answer)).into_response();
        }
        told.await;
    }
}

struct World {
    broker: Arc<Broker>,
    verifier: Verifier,
    clock: ManualClock,
    key: SigningKey,
    _serving: JoinSet<()>,
}

async fn world(change: impl FnOnce(&mut Settings)) -> World {
    let broker = Arc::new(Broker::default());
    let key = key();
    broker.publish(&[&key]);
    let router = Router::new()
        .route("/v1/revocations", get(feed))
        .route(
            "/.well-known/jwks.json",
            get(async |Shared(broker): Shared<Arc<Broker>>| {
                *broker.key_fetches.lock().unwrap() += 1;
                broker.keys.lock().unwrap().clone()
            }),
        )
        .with_state(broker.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = format!("http://{}", listener.local_addr().unwrap());
    let mut serving = JoinSet::new();
    serving.spawn(async { axum::serve(listener, router).await.unwrap() });
    let mut settings = Settings {
        evidence: Some(Evidence::none()),
        max_staleness: Duration::from_secs(60),
        ..Settings::new(at, AUDIENCE)
    };
    settings.issuer = ISSUER.into();
    change(&mut settings);
    let clock = ManualClock::at(start());
    let read = clock.clone();
    let verifier = Verifier::follow_by(settings, move || read.now()).unwrap();
    World {
        broker,
        verifier,
        clock,
        key,
        _serving: serving,
    }
}

impl World {
    async fn verify(&self, key: &SigningKey) -> Result<(), Refusal> {
        let token = key.sign(TYP, &claims_of("support-bot", start(), 1));
        self.verifier.verify(&token).await.map(|_| ())
    }

    /// Waits until the server has read the feed to its end once more.
    async fn after(&self, tell: impl FnOnce(&Broker)) {
        let mut as_of = self.verifier.0.state.as_of.subscribe();
        as_of.mark_unchanged();
        tell(&self.broker);
        as_of.changed().await.unwrap();
    }
}

#[tokio::test]
async fn is_ready_once_it_read_everything_and_refuses_what_the_feed_names() {
    let world = world(|_| {}).await;
    assert_eq!(world.verify(&world.key).await, Err(Refusal::Stale));
    world
        .after(|broker| {
            broker.cut("billing-bot", "1", true);
            broker.cut("billing-bot", "2", false);
        })
        .await;
    world.verifier.ready().await;
    assert_eq!(world.verify(&world.key).await, Ok(()));
    assert_eq!(world.verifier.cutoffs(), 1);
    world.after(|broker| broker.cut("support-bot", "3", false)).await;
    assert!(matches!(world.verify(&world.key).await, Err(Refusal::Revoked(_))));
    let cursors: Vec<_> = world
        .broker
        .questions
        .lock()
        .unwrap()
        .iter()
        .map(|q| q.0.clone())
        .collect();
    assert_eq!(cursors[..3], [None, Some("1".into()), Some("2".into())]);
}

#[tokio::test]
async fn one_poll_that_is_lost_makes_nothing_stale() {
    let usual = Settings::new("https://dayfly.example.org", AUDIENCE).max_staleness;
    let world = world(|settings| settings.max_staleness = usual).await;
    let asked = async |number| {
        while world.broker.questions.lock().unwrap().len() < number {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    world.after(|broker| broker.cut("billing-bot", "1", false)).await;
    asked(2).await;
    let lost = Instant::now();
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(5)).await;
    tokio::time::resume();
    asked(3).await;
    // The one of before was asked a wait earlier, and the answer to this one takes another: two seconds each.
    assert!(
        lost.elapsed() + Duration::from_secs(4) < usual,
        "{:?}",
        lost.elapsed()
    );
}

#[tokio::test]
async fn keys_and_revocations_come_by_https_and_the_evidence_goes_to_the_feed_alone() {
    let settings = |jwks: &str, feed: &str, allowed| Settings {
        jwks: jwks.to_owned(),
        feed: feed.to_owned(),
        allow_plain_http: allowed,
        evidence: Some(Evidence::none()),
        ..Settings::new("http://127.0.0.1:1", AUDIENCE)
    };
    let (plain, tls) = ("http://dayfly.example.org/x", "https://dayfly.example.org/x");
    for (jwks, feed) in [(plain, tls), (tls, plain), (plain, "http://127.0.0.1:1")] {
        let refused = Source::new(&settings(jwks, feed, false)).map(|_| ()).unwrap_err();
        assert!(refused.to_string().contains("plain HTTP"), "{refused}");
        assert!(Source::new(&settings(jwks, feed, true)).is_ok());
    }
    assert!(Source::new(&settings("http://localhost:1/x", "http://127.0.0.1:1/x", false)).is_ok());

    // The keys lie elsewhere, under the path of the feed.
    let seen = Arc::new(StdMutex::new(Vec::new()));
    let note = seen.clone();
    let router = Router::new().fallback(async move |headers: HeaderMap| {
        note.lock().unwrap().push(headers.contains_key("authorization"));
        jwks(&[&key()])
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = format!("http://{}/v1/revocations", listener.local_addr().unwrap());
    let mut serving = JoinSet::new();
    serving.spawn(async { axum::serve(listener, router).await.unwrap() });
    let world = world(|settings| {
        settings.jwks = at;
        settings.evidence = Some(Evidence::text("hunter2"));
    })
    .await;
    world.after(|broker| broker.cut("billing-bot", "1", false)).await;
    assert_eq!(*seen.lock().unwrap(), [false]);
    let asked = world.broker.questions.lock().unwrap()[0].1.clone();
    assert_eq!(asked.as_deref(), Some("Bearer hunter2"));
}

#[tokio::test]
async fn keys_are_read_to_the_end_when_whoever_asked_went_away() {
    let world = world(|_| {}).await;
    world.after(|broker| broker.cut("billing-bot", "1", false)).await;
    let next = key();
    world.broker.publish(&[&world.key, &next]);
    // Past the least time between two readings.
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(11)).await;
    tokio::time::resume();
    tokio::select! {
        biased;
        verified = world.verify(&next) => panic!("it waits for the keys: {verified:?}"),
        // Whoever asked goes away at once.
        () = std::future::ready(()) => {}
    }
    assert_eq!(world.verify(&next).await, Ok(()));
}

#[tokio::test]
async fn part_of_the_feed_is_no_readiness() {
    let world = world(|_| {}).await;
    world.broker.cut("billing-bot", "1", true);
    world.broker.tell(500, json!({}));
    while world.broker.questions.lock().unwrap().len() < 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(world.verify(&world.key).await, Err(Refusal::Stale));
}

#[tokio::test]
async fn a_silent_broker_makes_it_stale_and_an_answer_makes_it_fresh_again() {
    let world = world(|_| {}).await;
    world.after(|broker| broker.cut("billing-bot", "1", false)).await;
    assert_eq!(world.verify(&world.key).await, Ok(()));
    world.clock.set(later(61));
    assert_eq!(world.verify(&world.key).await, Err(Refusal::Stale));
    // The question that is open was asked before; what its answer says is as old as the question.
    world.after(|broker| broker.cut("billing-bot", "2", false)).await;
    assert_eq!(world.verify(&world.key).await, Err(Refusal::Stale));
    world.after(|broker| broker.cut("billing-bot", "3", false)).await;
    assert_eq!(world.verify(&world.key).await, Ok(()));
}

#[tokio::test]
async fn starts_again_when_its_cursor_means_nothing_any_more() {
    let world = world(|_| {}).await;
    world
        .after(|broker| broker.cut("billing-bot", "old", false))
        .await;
    world
        .after(|broker| {
            broker.tell(410, json!({}));
            broker.cut("support-bot", "new", false);
        })
        .await;
    assert!(matches!(world.verify(&world.key).await, Err(Refusal::Revoked(_))));
    assert_eq!(world.verifier.cutoffs(), 2, "what was known stays known");
    assert_eq!(world.broker.questions.lock().unwrap()[2].0, None);
}

#[tokio::test]
async fn an_answer_that_it_cannot_read_changes_nothing() {
    let world = world(|_| {}).await;
    world
        .broker
        .tell(200, json!({"cutoffs": [{"selector": {"kind": "planet", "id": "earth"}, "up_to": AT, "at": AT, "cause": "revoked"}], "cursor": "1", "more": false}));
    world.after(|broker| broker.cut("billing-bot", "2", false)).await;
    let questions = world.broker.questions.lock().unwrap().clone();
    assert_eq!(questions[1].0, None, "it asked again from where it was");
}

#[tokio::test]
async fn looks_for_new_keys_when_a_token_names_one_and_not_too_often() {
    let world = world(|settings| settings.between_key_fetches = Duration::ZERO).await;
    world.after(|broker| broker.cut("billing-bot", "1", false)).await;
    let (new, stranger) = (key(), key());
    world.broker.publish(&[&world.key, &new]);
    assert_eq!(world.verify(&new).await, Ok(()));
    assert_eq!(
        world.verify(&stranger).await,
        Err(Refusal::Token(InvalidToken::NoKey))
    );
    assert_eq!(*world.broker.key_fetches.lock().unwrap(), 3);

    let world = self::world(|settings| settings.between_key_fetches = Duration::from_secs(3600)).await;
    world.after(|broker| broker.cut("billing-bot", "1", false)).await;
    for _ in 0..5 {
        assert_eq!(
            world.verify(&stranger).await,
            Err(Refusal::Token(InvalidToken::NoKey))
        );
    }
    assert_eq!(*world.broker.key_fetches.lock().unwrap(), 1);
}

#[tokio::test]
async fn shows_its_evidence_where_it_has_some() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("token");
    std::fs::write(&path, "some-evidence\n").unwrap();
    let world = world(|settings| settings.evidence = Some(Evidence::file(path))).await;
    world.after(|broker| broker.cut("billing-bot", "1", false)).await;
    let bearer = world.broker.questions.lock().unwrap()[0].1.clone();
    assert_eq!(bearer.as_deref(), Some("Bearer some-evidence"));
}

#[test]
fn backs_off_longer_and_longer_but_never_too_long() {
    for failures in 0..40 {
        let pause = backoff(failures);
        assert!(pause <= LONGEST_BACKOFF);
        assert!(pause >= Duration::from_millis(125));
        assert!(failures < 7 || pause >= LONGEST_BACKOFF / 2);
    }
}
