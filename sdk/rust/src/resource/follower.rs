//! Keeps a verifier up to date: reads the broker's keys, and long-polls its feed of cutoffs.
//!
//! What was read counts as of the moment of asking, not of the answer, so waiting makes nothing look fresher than it is. An
//! answer that cannot be read, or that does not fit, is a failure: the follower backs off, asks again, and in the meantime
//! the verifier becomes stale.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use reqwest::{Client, StatusCode, Url, header};
use serde::Deserialize;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

use super::cutoff::Cutoff;
use super::jws::Keys;
use super::{InvalidSettings, Settings, State};
use crate::ambient;
use crate::api::bearer;
use crate::evidence::{Evidence, Surroundings, discover};
use crate::transport;

/// The longest answer of the feed: 8 MiB.
const LONGEST_ANSWER: usize = 8 << 20;
/// How long the broker may let us wait when there is nothing new.
const WAIT: Duration = Duration::from_secs(20);
/// How long an answer may take beyond that at most.
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
    evidence: Evidence,
    /// The evidence was refused: what is kept of it is not good.
    refused: AtomicBool,
    /// When the keys were last read, or could not be: one reads for all, and to the end, whoever asked for it and went
    /// away.
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
            let url = Url::parse(text).ok();
            let url = url.filter(|url| matches!(url.scheme(), "https" | "http"));
            url.ok_or_else(|| InvalidSettings(format!("`{text}` is no https or http URL")))
        };
        let (jwks, feed) = (url(&settings.jwks)?, url(&settings.feed)?);
        // Whoever is on the way could give out keys of their own, and keep revocations back.
        let plain = |url: &&Url| url.scheme() == "http" && !transport::is_loopback(url);
        if let Some(plain) = [&jwks, &feed].into_iter().find(plain)
            && !settings.allow_plain_http
        {
            return Err(InvalidSettings(format!(
                "keys and revocations are not read over plain HTTP: write `https` for {plain}, or allow it"
            )));
        }
        let wrong = |error: crate::Error| InvalidSettings(error.to_string());
        let evidence = match &settings.evidence {
            Some(evidence) => evidence.clone(),
            None => discover(&Surroundings {
                variable: Surroundings::PROCESS,
                address: settings.issuer.trim_end_matches('/'),
                broker: &feed,
            })
            .map_err(wrong)?,
        };
        Ok(Self {
            client: transport::for_broker(&feed, WAIT + 2 * PATIENCE, true, transport::ca_file().as_deref())
                .map_err(wrong)?,
            jwks,
            feed,
            evidence,
            refused: AtomicBool::new(false),
            keys_asked: watch::Sender::new(None),
            keys_wanted: Notify::new(),
        })
    }

    /// Reads what is there. Only the feed wants a proof: the keys are for everybody, wherever they are.
    async fn get(
        &self,
        url: Url,
        proves: bool,
        longest: usize,
        patience: Duration,
    ) -> Result<Vec<u8>, Outcome> {
        let read = async {
            let mut request = self.client.get(url);
            if proves {
                let anew = self.refused.swap(false, Ordering::Relaxed);
                let failed = |error: crate::Error| Outcome::Failed(error.to_string());
                if let Some(evidence) = self.evidence.fetch(anew).await.map_err(failed)? {
                    request = request.header(header::AUTHORIZATION, bearer(&evidence).map_err(failed)?);
                }
            }
            let lost = |error| Outcome::Failed(transport::cause(error));
            let mut response = request.send().await.map_err(lost)?;
            let status = response.status();
            let mut body = Vec::new();
            while let Some(chunk) = response.chunk().await.map_err(lost)? {
                if body.len() + chunk.len() > longest {
                    return Ok((status, None));
                }
                body.extend_from_slice(&chunk);
            }
            Ok((status, Some(body)))
        };
        match timeout(patience, read).await {
            Err(_) => Err(Outcome::Failed("no answer in time".into())),
            Ok(Err(failed)) => Err(failed),
            Ok(Ok((StatusCode::OK, Some(body)))) => Ok(body),
            Ok(Ok((StatusCode::OK, None))) => Err(Outcome::Failed("the answer is too long".into())),
            Ok(Ok((status, _))) => {
                if status == StatusCode::UNAUTHORIZED {
                    self.refused.store(true, Ordering::Relaxed);
                }
                Err(Outcome::Status(status))
            }
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

impl State {
    /// Has the keys read because a token names one that is not known, unless they were a moment ago: what tokens name is
    /// up to whoever sends them. Answers whether to look again.
    pub(super) async fn look_for_keys(&self) -> bool {
        let mut asked = self.source.keys_asked.subscribe();
        if !self.may_ask_for_keys() {
            return false;
        }
        self.source.keys_wanted.notify_one();
        timeout(PATIENCE, asked.changed()).await.is_ok()
    }

    /// How long an answer may take before it counts as lost. Two that are lost one after the other make nothing stale; who
    /// has heard nothing yet has nothing to lose, and may wait for longer.
    fn patience(&self) -> Duration {
        match self.as_of.borrow().is_none() {
            true => PATIENCE,
            false => PATIENCE.min(self.settings.max_staleness / 4),
        }
    }

    fn may_ask_for_keys(&self) -> bool {
        let last = *self.source.keys_asked.borrow();
        last.is_none_or(|last| last.elapsed() >= self.settings.between_key_fetches)
    }

    async fn read_keys(&self) -> Result<(), Failure> {
        let source = &self.source;
        // Nothing comes from the feed while these are waited for.
        let read = source.get(source.jwks.clone(), false, Keys::LONGEST, self.patience());
        let read = read.await;
        let parsed = read.map_err(Failure::from);
        let parsed = parsed.and_then(|json| Keys::parse(&json).map_err(|error| error.to_string()));
        let outcome = parsed.map(|keys| {
            *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
        });
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
        // The first question wants to know how things stand, not what comes next. After it, what an answer says is as old
        // as its question, and the next answer comes two waits after it.
        let first = cursor.is_none();
        let wait = match first {
            true => Duration::ZERO,
            // As the broker is told, in whole seconds.
            false => Duration::from_secs(WAIT.min(self.settings.max_staleness / 4).as_secs()),
        };
        let mut url = self.source.feed.clone();
        {
            let mut query = url.query_pairs_mut();
            if let Some(cursor) = cursor.as_deref() {
                query.append_pair("cursor", cursor);
            }
            query.append_pair("wait", &wait.as_secs().to_string());
        }
        let asked_at = self.now();
        let started = Instant::now();
        let patience = wait + self.patience();
        let body = match self.source.get(url, true, LONGEST_ANSWER, patience).await {
            // The ledger behind the feed is not the one of before: its cursors mean nothing now.
            Err(Outcome::Status(StatusCode::BAD_REQUEST | StatusCode::GONE)) if cursor.is_some() => {
                *cursor = None;
                return Ok(true);
            }
            answer => answer?,
        };
        let feed: Feed =
            serde_json::from_slice(&body).map_err(|error| format!("its answer cannot be read: {error}"))?;
        {
            let mut denied = self.denied.write().unwrap_or_else(PoisonError::into_inner);
            denied.forget(asked_at);
            for cutoff in &feed.cutoffs {
                denied.apply(cutoff, asked_at).map_err(|full| full.to_string())?;
            }
        }
        *cursor = Some(feed.cursor);
        if !feed.more {
            self.as_of.send_replace(Some(asked_at));
        }
        Ok(!first && !feed.more && feed.cutoffs.is_empty() && started.elapsed() < PAUSE)
    }

    /// Follows the broker for ever.
    pub(super) async fn follow(self: Arc<Self>) {
        let follow = async {
            let mut cursor = None;
            let mut keys_read: Option<Instant> = None;
            let mut failures = 0;
            loop {
                let step = async {
                    // Keys first: without them nothing can be accepted, and a feed that was read would claim a readiness
                    // that is not there.
                    if keys_read.is_none_or(|at| at.elapsed() >= KEYS_AGE) {
                        match self.read_keys().await {
                            Ok(()) => keys_read = Some(Instant::now()),
                            Err(failure) if keys_read.is_none() => return Err(failure),
                            Err(failure) => tracing::warn!(%failure, "the broker's keys cannot be read"),
                        }
                    }
                    self.read_feed(&mut cursor).await
                };
                match step.await {
                    Ok(pause) => {
                        failures = 0;
                        if pause {
                            sleep(PAUSE).await;
                        }
                    }
                    Err(failure) => {
                        let pause = backoff(failures);
                        tracing::warn!(%failure, failures, ?pause, "the broker's keys and revocations cannot be read");
                        failures += 1;
                        sleep(pause).await;
                    }
                }
            }
        };
        tokio::join!(follow, self.read_keys_when_wanted());
    }
}

/// Twice as long after each failure, up to a limit, and anywhere within it, so that many followers do not come back at the
/// same instant.
fn backoff(failures: u32) -> Duration {
    let most = Duration::from_millis(250).saturating_mul(1 << failures.min(16));
    let most = most.min(LONGEST_BACKOFF);
    most / 2 + ambient::jitter(most / 2)
}

#[cfg(test)]
mod tests;
