//! Keeps a resource server up to date: reads the broker's keys, and long-polls its feed of cutoffs.
//!
//! What was read counts as of the moment of asking, not of the answer, so waiting makes nothing look
//! fresher than it is. An answer that cannot be read, or that does not fit, is a failure: the follower
//! backs off, asks again, and in the meantime the resource server becomes stale.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use reqwest::{Client, StatusCode, Url, header, redirect};
use serde::Deserialize;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{InvalidSettings, ResourceServer, Settings};
use crate::entropy::{Entropy, draw};
use crate::keys::jwk::{KeySet, KeyUse};
use crate::model::cutoff::Cutoff;

/// The longest answer of the feed: 8 MiB.
const LONGEST_ANSWER: usize = 8 << 20;
/// How long the broker may let us wait when there is nothing new.
const WAIT: Duration = Duration::from_secs(20);
/// How long an answer may take beyond that.
const PATIENCE: Duration = Duration::from_secs(10);
/// The feed is asked no more often than this when it has nothing to say.
const PAUSE: Duration = Duration::from_secs(1);
/// Keys are read again after this time even when nothing asks for them: some may be gone.
const KEYS_AGE: Duration = Duration::from_secs(300);
/// The longest pause after a failure.
const LONGEST_BACKOFF: Duration = Duration::from_secs(15);

/// Where keys and cutoffs come from.
pub(super) struct Source {
    client: Client,
    jwks: Url,
    feed: Url,
    evidence: Option<PathBuf>,
    /// When the keys were last read, or could not be: one reads for all, and to the end, whoever asked for
    /// it and went away.
    keys_asked: watch::Sender<Option<Instant>>,
    keys_wanted: Notify,
}

#[derive(Deserialize)]
struct Feed {
    cutoffs: Vec<Cutoff>,
    cursor: String,
    more: bool,
}

/// What went wrong, for the log.
type Failure = String;

impl Source {
    pub(super) fn new(settings: &Settings) -> Result<Self, InvalidSettings> {
        let url = |text: &str| {
            Url::parse(text)
                .ok()
                .filter(|url| matches!(url.scheme(), "https" | "http"))
                .ok_or_else(|| InvalidSettings(format!("`{text}` is no https or http URL")))
        };
        // Only the first one counts: a process that has chosen its TLS provider keeps it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .connect_timeout(Duration::from_secs(5))
            .redirect(redirect::Policy::none())
            .build()
            .map_err(|e| InvalidSettings(format!("no HTTP client can be made: {e}")))?;
        Ok(Self {
            client,
            jwks: url(&settings.jwks)?,
            feed: url(&settings.feed)?,
            evidence: settings.evidence.clone(),
            keys_asked: watch::Sender::new(None),
            keys_wanted: Notify::new(),
        })
    }

    async fn get(&self, url: Url, longest: usize, patience: Duration) -> Result<Vec<u8>, Outcome> {
        let mut request = self.client.get(url);
        if let Some(path) = &self.evidence {
            let evidence = tokio::fs::read_to_string(path)
                .await
                .map_err(|e| Outcome::Failed(format!("`{}`: {e}", path.display())))?;
            let mut value = header::HeaderValue::try_from(format!("Bearer {}", evidence.trim()))
                .map_err(|_| Outcome::Failed(format!("`{}` holds no token", path.display())))?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        let read = async {
            let mut response = request.send().await?;
            let status = response.status();
            let mut body = Vec::new();
            while let Some(chunk) = response.chunk().await? {
                if body.len() + chunk.len() > longest {
                    return Ok((status, None));
                }
                body.extend_from_slice(&chunk);
            }
            Ok::<_, reqwest::Error>((status, Some(body)))
        };
        match timeout(patience, read).await {
            Err(_) => Err(Outcome::Failed("no answer in time".into())),
            Ok(Err(e)) => Err(Outcome::Failed(e.without_url().to_string())),
            Ok(Ok((StatusCode::OK, Some(body)))) => Ok(body),
            Ok(Ok((StatusCode::OK, None))) => Err(Outcome::Failed("the answer is too long".into())),
            Ok(Ok((status, _))) => Err(Outcome::Status(status)),
        }
    }
}

enum Outcome {
    Failed(Failure),
    Status(StatusCode),
}

impl From<Outcome> for Failure {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Failed(failure) => failure,
            Outcome::Status(status) => format!("it answered {status}"),
        }
    }
}

impl ResourceServer {
    /// Has the keys read because a token names one that is not known, unless they were a moment ago: what
    /// tokens name is up to whoever sends them. Answers whether to look again.
    pub(super) async fn look_for_keys(&self) -> bool {
        let mut asked = self.source.keys_asked.subscribe();
        if !self.may_ask_for_keys() {
            return false;
        }
        self.source.keys_wanted.notify_one();
        timeout(PATIENCE, asked.changed()).await.is_ok()
    }

    fn may_ask_for_keys(&self) -> bool {
        let last = *self.source.keys_asked.borrow();
        last.is_none_or(|last| last.elapsed() >= self.settings.between_key_fetches)
    }

    async fn read_keys(&self) -> Result<(), Failure> {
        let source = &self.source;
        let read = source.get(source.jwks.clone(), KeySet::LONGEST, PATIENCE).await;
        let parsed = read
            .map_err(Failure::from)
            .and_then(|json| KeySet::parse(&json, KeyUse::Signature).map_err(|e| e.to_string()));
        let outcome = parsed.map(|keys| self.keys.store(Arc::new(keys)));
        source.keys_asked.send_replace(Some(Instant::now()));
        outcome
    }

    /// Reads the keys whenever somebody wants them.
    async fn read_keys_when_wanted(&self) {
        loop {
            self.source.keys_wanted.notified().await;
            if self.may_ask_for_keys()
                && let Err(failure) = self.read_keys().await
            {
                tracing::warn!(%failure, "the broker's keys cannot be read");
            }
        }
    }

    /// One question to the feed, and what its answer changes. Answers whether to pause before the next.
    async fn read_feed(&self, cursor: &mut Option<String>) -> Result<bool, Failure> {
        // The first question wants to know how things stand, not what comes next. After it, what an
        // answer says is as old as its question, and the next answer comes two waits after it.
        let first = cursor.is_none();
        let wait = match first {
            true => Duration::ZERO,
            false => WAIT.min(self.settings.max_staleness / 4),
        };
        let mut url = self.source.feed.clone();
        {
            let mut query = url.query_pairs_mut();
            if let Some(cursor) = cursor.as_deref() {
                query.append_pair("cursor", cursor);
            }
            query.append_pair("wait", &wait.as_secs().to_string());
        }
        let asked_at = self.clock.now();
        let started = Instant::now();
        let body = match self.source.get(url, LONGEST_ANSWER, wait + PATIENCE).await {
            // The ledger behind the feed is not the one of before: its cursors mean nothing now.
            Err(Outcome::Status(StatusCode::BAD_REQUEST | StatusCode::GONE)) if cursor.is_some() => {
                *cursor = None;
                return Ok(true);
            }
            answer => answer?,
        };
        let feed: Feed =
            serde_json::from_slice(&body).map_err(|e| format!("its answer cannot be read: {e}"))?;
        {
            let mut denied = self.denied.write().unwrap_or_else(PoisonError::into_inner);
            denied.forget(asked_at);
            for cutoff in &feed.cutoffs {
                denied.apply(cutoff, asked_at).map_err(|e| e.to_string())?;
            }
        }
        *cursor = Some(feed.cursor);
        if !feed.more {
            self.as_of.send_replace(Some(asked_at));
        }
        Ok(!first && !feed.more && feed.cutoffs.is_empty() && started.elapsed() < PAUSE)
    }
}

/// Follows the broker until it is told to stop.
pub(super) async fn run(server: Arc<ResourceServer>, entropy: Arc<dyn Entropy>, stop: CancellationToken) {
    let follow = async {
        let mut cursor = None;
        let mut keys_read: Option<Instant> = None;
        let mut failures = 0;
        loop {
            let step = async {
                // Keys first: without them nothing can be accepted, and a feed that was read would
                // claim a readiness that is not there.
                if keys_read.is_none_or(|at| at.elapsed() >= KEYS_AGE) {
                    match server.read_keys().await {
                        Ok(()) => keys_read = Some(Instant::now()),
                        Err(failure) if keys_read.is_none() => return Err(failure),
                        Err(failure) => tracing::warn!(%failure, "the broker's keys cannot be read"),
                    }
                }
                server.read_feed(&mut cursor).await
            };
            match step.await {
                Ok(pause) => {
                    failures = 0;
                    if pause {
                        sleep(PAUSE).await;
                    }
                }
                Err(failure) => {
                    let pause = backoff(failures, &*entropy);
                    tracing::warn!(%failure, failures, ?pause, "the broker's keys and revocations cannot be read");
                    failures += 1;
                    sleep(pause).await;
                }
            }
        }
    };
    let both = async { tokio::join!(follow, server.read_keys_when_wanted()) };
    stop.run_until_cancelled(both).await;
}

/// Twice as long after each failure, up to a limit, and anywhere within it, so that many followers
/// do not come back at the same instant.
fn backoff(failures: u32, entropy: &dyn Entropy) -> Duration {
    let most = Duration::from_millis(250)
        .saturating_mul(1 << failures.min(16))
        .min(LONGEST_BACKOFF);
    let part = draw::<1>(entropy).map_or(u8::MAX, |[part]| part);
    most / 2 + most / 2 * u32::from(part) / 255
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex as StdMutex;

    use axum::Router;
    use axum::extract::{Query, State};
    use axum::http::HeaderMap;
    use axum::response::{IntoResponse as _, Response};
    use axum::routing::get;
    use serde_json::{Value, json};
    use tokio::sync::Notify;
    use tokio_util::task::TaskTracker;

    use super::super::tests::{AUDIENCE, ISSUER, START, claims_of, key};
    use super::super::{Refusal, Settings};
    use super::*;
    use crate::clock::ManualClock;
    use crate::entropy::OsEntropy;
    use crate::keys::Signer as _;
    use crate::keys::jose::{JoseError, sign};
    use crate::keys::ring_keys::RingSigner;
    use crate::model::token::TYP;

    /// A broker that answers what it is told to, and otherwise lets everybody wait.
    #[derive(Default)]
    struct Broker {
        answers: StdMutex<VecDeque<(u16, Value)>>,
        told: Notify,
        questions: StdMutex<Vec<(Option<String>, Option<String>)>>,
        keys: StdMutex<KeySet>,
        key_fetches: StdMutex<usize>,
    }

    impl Broker {
        fn tell(&self, status: u16, answer: Value) {
            self.answers.lock().unwrap().push_back((status, answer));
            self.told.notify_one();
        }

        fn cut(&self, agent: &str, cursor: &str, more: bool) {
            let cutoff = json!({"selector": {"kind": "agent", "id": agent}, "up_to": START, "at": START, "cause": "revoked"});
            self.tell(200, json!({"cutoffs": [cutoff], "cursor": cursor, "more": more}));
        }

        fn publish(&self, keys: &[&RingSigner]) {
            *self.keys.lock().unwrap() = KeySet::of(keys.iter().map(|key| key.public_key().clone()));
        }
    }

    #[derive(Deserialize)]
    struct Question {
        cursor: Option<String>,
        wait: u64,
    }

    async fn feed(
        State(broker): State<Arc<Broker>>,
        headers: HeaderMap,
        Query(question): Query<Question>,
    ) -> Response {
        let waits = if question.cursor.is_some() { 15 } else { 0 };
        assert_eq!(question.wait, waits, "the first question wants an answer at once");
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
        server: Arc<ResourceServer>,
        clock: Arc<ManualClock>,
        key: RingSigner,
        stop: CancellationToken,
        tracker: TaskTracker,
    }

    async fn world(change: impl FnOnce(&mut Settings)) -> World {
        let broker = Arc::new(Broker::default());
        let key = key();
        broker.publish(&[&key]);
        let router = Router::new()
            .route("/v1/revocations", get(feed))
            .route(
                "/.well-known/jwks.json",
                get(async |State(broker): State<Arc<Broker>>| {
                    *broker.key_fetches.lock().unwrap() += 1;
                    broker.keys.lock().unwrap().to_json()
                }),
            )
            .with_state(broker.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = format!("http://{}", listener.local_addr().unwrap());
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let closing = stop.clone();
        tracker.spawn(async move {
            let serve = async { axum::serve(listener, router).await.unwrap() };
            closing.run_until_cancelled(serve).await;
        });
        let mut settings = Settings::new(at, AUDIENCE);
        settings.issuer = ISSUER.into();
        change(&mut settings);
        let clock = Arc::new(ManualClock::at(START));
        let entropy = Arc::new(OsEntropy::new());
        let server =
            ResourceServer::follow(settings, clock.clone(), entropy, &tracker, stop.clone()).unwrap();
        World {
            broker,
            server,
            clock,
            key,
            stop,
            tracker,
        }
    }

    impl World {
        async fn verify(&self, key: &RingSigner) -> Result<(), Refusal> {
            let token = sign(key, TYP, &claims_of("support-bot", START, 1)).await.unwrap();
            self.server.verify(&token).await.map(|_| ())
        }

        /// Waits until the server has read the feed to its end once more.
        async fn after(&self, tell: impl FnOnce(&Broker)) {
            let mut as_of = self.server.as_of.subscribe();
            as_of.mark_unchanged();
            tell(&self.broker);
            as_of.changed().await.unwrap();
        }

        async fn end(self) {
            self.stop.cancel();
            self.tracker.close();
            self.tracker.wait().await;
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
        world.server.ready().await;
        assert_eq!(world.verify(&world.key).await, Ok(()));
        assert_eq!(world.server.cutoffs(), 1);
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
        world.end().await;
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
        {
            let mut gone = Box::pin(world.verify(&next));
            assert!(futures_util::poll!(&mut gone).is_pending());
        }
        assert_eq!(world.verify(&next).await, Ok(()));
        world.end().await;
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
        world.end().await;
    }

    #[tokio::test]
    async fn a_silent_broker_makes_it_stale_and_an_answer_makes_it_fresh_again() {
        let world = world(|_| {}).await;
        world.after(|broker| broker.cut("billing-bot", "1", false)).await;
        assert_eq!(world.verify(&world.key).await, Ok(()));
        world.clock.advance(Duration::from_secs(61));
        assert_eq!(world.verify(&world.key).await, Err(Refusal::Stale));
        // The question that is open was asked before; what its answer says is as old as the question.
        world.after(|broker| broker.cut("billing-bot", "2", false)).await;
        assert_eq!(world.verify(&world.key).await, Err(Refusal::Stale));
        world.after(|broker| broker.cut("billing-bot", "3", false)).await;
        assert_eq!(world.verify(&world.key).await, Ok(()));
        world.end().await;
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
        assert_eq!(world.server.cutoffs(), 2, "what was known stays known");
        assert_eq!(world.broker.questions.lock().unwrap()[2].0, None);
        world.end().await;
    }

    #[tokio::test]
    async fn an_answer_that_it_cannot_read_changes_nothing() {
        let world = world(|_| {}).await;
        world
            .broker
            .tell(200, json!({"cutoffs": [{"selector": {"kind": "planet", "id": "earth"}, "up_to": START, "at": START, "cause": "revoked"}], "cursor": "1", "more": false}));
        world.after(|broker| broker.cut("billing-bot", "2", false)).await;
        let questions = world.broker.questions.lock().unwrap().clone();
        assert_eq!(questions[1].0, None, "it asked again from where it was");
        world.end().await;
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
            Err(Refusal::Token(JoseError::NoKey))
        );
        assert_eq!(*world.broker.key_fetches.lock().unwrap(), 3);
        world.end().await;

        let world = self::world(|settings| settings.between_key_fetches = Duration::from_secs(3600)).await;
        world.after(|broker| broker.cut("billing-bot", "1", false)).await;
        for _ in 0..5 {
            assert_eq!(
                world.verify(&stranger).await,
                Err(Refusal::Token(JoseError::NoKey))
            );
        }
        assert_eq!(*world.broker.key_fetches.lock().unwrap(), 1);
        world.end().await;
    }

    #[tokio::test]
    async fn shows_its_evidence_where_it_has_some() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("token");
        std::fs::write(&path, "some-evidence\n").unwrap();
        let world = world(|settings| settings.evidence = Some(path)).await;
        world.after(|broker| broker.cut("billing-bot", "1", false)).await;
        let bearer = world.broker.questions.lock().unwrap()[0].1.clone();
        assert_eq!(bearer.as_deref(), Some("Bearer some-evidence"));
        world.end().await;
    }

    #[test]
    fn backs_off_longer_and_longer_but_never_too_long() {
        let entropy = OsEntropy::new();
        for failures in 0..40 {
            let pause = backoff(failures, &entropy);
            assert!(pause <= LONGEST_BACKOFF);
            assert!(pause >= Duration::from_millis(125));
            assert!(failures < 7 || pause >= LONGEST_BACKOFF / 2);
        }
    }
}
