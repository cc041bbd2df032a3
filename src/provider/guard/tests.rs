//! What one provider can cost its callers, with a provider that does what it is told.

use std::num::NonZeroU32;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use tokio::time::Instant;

use super::*;
use crate::model::ids::TaskId;
use crate::model::time::Timestamp;

const AT: Timestamp = Timestamp::from_secs(1_795_329_000);

/// Answers, fails, refuses, or does not answer, as it is told.
#[derive(Clone, Copy, PartialEq)]
enum Mood {
    Works,
    Fails,
    Refuses,
    Throttles,
    Hangs,
}

struct Moody {
    mood: Mutex<Mood>,
    asked: AtomicUsize,
}

impl Moody {
    fn set(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl Provider for Moody {
    fn kind(&self) -> &'static str {
        "moody"
    }

    fn promise(&self, _: &Tool) -> Promise {
        panic!("not asked here")
    }

    fn accepts(&self, _: &Tool) -> Result<(), ProviderError> {
        Ok(())
    }

    fn handle(&self, _: LeaseId) -> Option<Handle> {
        None
    }

    async fn mint(&self, _: &Reservation) -> Result<Minted, ProviderError> {
        panic!("not asked here")
    }

    async fn revoke(&self, _: &Held) -> Result<(), ProviderError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let mood = *self.mood.lock().unwrap();
        match mood {
            Mood::Works => Ok(()),
            Mood::Fails => Err(ProviderError::Unavailable("connection refused".into())),
            Mood::Refuses => Err(ProviderError::Refused("no right to".into())),
            Mood::Throttles => Err(full()),
            Mood::Hangs => std::future::pending().await,
        }
    }

    async fn probe(&self, _: &Held) -> Result<Presence, ProviderError> {
        Ok(Presence::Absent)
    }

    async fn inventory(&self) -> Result<Vec<Held>, ProviderError> {
        std::future::pending().await
    }

    async fn preflight(&self) -> Result<(), ProviderError> {
        Ok(())
    }
}

fn guarded(mood: Mood) -> (Arc<Moody>, Guard) {
    let moody = Arc::new(Moody {
        mood: Mutex::new(mood),
        asked: AtomicUsize::new(0),
    });
    let limits = Limits {
        ending: NonZeroUsize::new(2).unwrap(),
        patience: Patience {
            failures: NonZeroU32::new(3).unwrap(),
            ..Patience::default()
        },
        ..Limits::default()
    };
    let guard = Guard::new("vending".parse().unwrap(), moody.clone(), limits);
    (moody, guard)
}

fn held() -> Held {
    Held {
        lease: LeaseId::new(TaskId::new(AT, [1; 10]), AT, [2; 10]),
        handle: None,
        expires_at: None,
    }
}

fn word(answer: &Result<(), ProviderError>) -> &'static str {
    match answer {
        Ok(()) => "ok",
        Err(ProviderError::Unavailable(_)) => "unavailable",
        Err(ProviderError::Throttled { .. }) => "throttled",
        Err(ProviderError::Down { .. }) => "down",
        Err(ProviderError::Unfit { .. } | ProviderError::Refused(_)) => "refused",
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_has_its_time_and_no_more() {
    let (_, guard) = guarded(Mood::Hangs);
    let begun = Instant::now();
    assert_eq!(word(&guard.revoke(&held()).await), "unavailable");
    assert_eq!(begun.elapsed().as_secs(), 10);
    assert!(guard.inventory().await.is_err());
    assert_eq!(begun.elapsed().as_secs(), 70, "a list may take longer");
}

#[tokio::test(start_paused = true)]
async fn who_finds_no_place_does_not_wait_for_long() {
    let (moody, guard) = guarded(Mood::Hangs);
    let (begun, held) = (Instant::now(), held());
    let answers = join_all((0..5).map(|_| guard.revoke(&held))).await;
    let words: Vec<_> = answers.iter().map(word).collect();
    assert_eq!(words.iter().filter(|word| **word == "unavailable").count(), 2);
    assert_eq!(words.iter().filter(|word| **word == "throttled").count(), 3);
    assert_eq!((begun.elapsed().as_secs(), moody.asked()), (10, 2));
}

#[tokio::test(start_paused = true)]
async fn one_that_is_down_is_left_alone_and_then_tried_by_one_call() {
    let (moody, guard) = guarded(Mood::Fails);
    for _ in 0..3 {
        assert_eq!(word(&guard.revoke(&held()).await), "unavailable");
    }
    for _ in 0..100 {
        assert_eq!(word(&guard.revoke(&held()).await), "down");
    }
    assert_eq!(moody.asked(), 3);

    tokio::time::advance(Duration::from_secs(5)).await;
    assert_eq!(word(&guard.revoke(&held()).await), "unavailable", "the trial");
    assert_eq!(word(&guard.revoke(&held()).await), "down");
    tokio::time::advance(Duration::from_secs(5)).await;
    assert_eq!(word(&guard.revoke(&held()).await), "down", "it rests longer");
    tokio::time::advance(Duration::from_secs(5)).await;

    moody.set(Mood::Hangs);
    let held = held();
    let trial = guard.revoke(&held);
    tokio::pin!(trial);
    tokio::select! {
        biased;
        _ = &mut trial => panic!("it hangs"),
        other = guard.revoke(&held) => assert_eq!(word(&other), "down", "one tries, not all"),
    }
    moody.set(Mood::Works);
    assert_eq!(word(&trial.await), "unavailable");
    tokio::time::advance(Duration::from_secs(20)).await;
    assert_eq!(word(&guard.revoke(&held).await), "ok");
    assert_eq!(word(&guard.revoke(&held).await), "ok", "and all are let in again");
}

#[tokio::test(start_paused = true)]
async fn a_trial_that_nobody_waits_for_any_more_is_left_to_the_next() {
    let (moody, guard) = guarded(Mood::Fails);
    for _ in 0..3 {
        let _ = guard.revoke(&held()).await;
    }
    tokio::time::advance(Duration::from_secs(5)).await;
    moody.set(Mood::Hangs);
    let short = tokio::time::timeout(Duration::from_secs(1), guard.revoke(&held())).await;
    assert!(short.is_err());
    moody.set(Mood::Works);
    assert_eq!(word(&guard.revoke(&held()).await), "ok");
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_a_sign_of_life_even_when_it_is_no() {
    let (moody, guard) = guarded(Mood::Fails);
    for mood in [Mood::Fails, Mood::Fails, Mood::Refuses, Mood::Fails, Mood::Fails] {
        moody.set(mood);
        let _ = guard.revoke(&held()).await;
    }
    moody.set(Mood::Throttles);
    assert_eq!(word(&guard.revoke(&held()).await), "throttled");
    moody.set(Mood::Fails);
    assert_eq!(word(&guard.revoke(&held()).await), "unavailable");
    assert_eq!(
        word(&guard.revoke(&held()).await),
        "down",
        "having much to do is no sign"
    );
}
