//! How long a credential can still be used after what it was for has ended, beside a load.
//!
//! Again and again a credential of its own is got, what it belongs to is ended, and introspection is asked, one
//! question after another, until it says no. That counts from the instant at which the end was asked for to the
//! first answer that denies, so that it is never less than what a thief would have had.

use std::sync::Arc;
use std::time::Duration;

use serde::de::IgnoredAny;
use serde_json::Value;
use tokio::time::Instant;

use super::tally::Tally;
use super::work::{Ready, reason};
use crate::cli::answer::text;

/// Whoever is not denied by then is not going to be.
const PATIENCE: Duration = Duration::from_secs(10);

/// How credentials are ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Cutoffs {
    /// How often.
    pub(super) every: Duration,
    /// By a kill order for all that the agent holds, and not by completing a task.
    pub(super) kill_orders: bool,
}

/// Looks at how fast ends take hold, for as long as a load lasts.
pub(super) struct Probes {
    work: Arc<Ready>,
    how: Cutoffs,
    began: Instant,
    until: Instant,
}

impl Probes {
    /// None where the load is about something else.
    pub(super) fn of(work: &Arc<Ready>, began: Instant, until: Instant) -> Option<Self> {
        Some(Self {
            work: Arc::clone(work),
            how: work.cutoffs()?,
            began,
            until,
        })
    }

    /// One after another.
    pub(super) async fn run(self) -> Tally {
        let mut tally = Tally::default();
        let mut at = self.began + self.how.every / 2;
        while at < self.until {
            tokio::time::sleep_until(at).await;
            if let Err(why) = self.once(&mut tally).await {
                tally.sum_up("denied", Duration::ZERO, Some(why));
            }
            // What one took too long for is left out.
            at = (at + self.how.every).max(Instant::now());
        }
        tally
    }

    async fn once(&self, tally: &mut Tally) -> Result<(), String> {
        let failed = |error| reason(&error);
        let work = &self.work;
        let task = work.open(None).await.map_err(failed)?;
        let answer = work.issue(None, 0, &task).await.map_err(failed)?;
        let text = |pointer| answer.pointer(pointer).map(text).unwrap_or_default();
        let (token, agent) = (text("/credential/token"), text("/lease/agent"));
        if !self.is_live(&token).await? {
            work.complete::<IgnoredAny>(None, &task).await.map_err(failed)?;
            return Err("it was denied before it was ended".to_owned());
        }
        let began = Instant::now();
        let ending = async {
            let ended = match self.how.kill_orders {
                true => work.kill(&agent).await,
                false => work.complete(None, &task).await,
            };
            (began.elapsed(), ended)
        };
        let ((took, ended), denied) = tokio::join!(ending, self.until_denied(&token, began));
        let what = match self.how.kill_orders {
            true => "kill order",
            false => "complete",
        };
        tally.note(what, took, ended.err().as_ref().map(reason));
        if self.how.kill_orders {
            work.complete::<IgnoredAny>(None, &task).await.map_err(failed)?;
        }
        tally.sum_up("denied", denied?, None);
        Ok(())
    }

    /// Asks until it is denied, and says after how long that was.
    async fn until_denied(&self, token: &str, began: Instant) -> Result<Duration, String> {
        while self.is_live(token).await? {
            if began.elapsed() > PATIENCE {
                return Err(format!("it was not denied within {}s", PATIENCE.as_secs()));
            }
        }
        Ok(began.elapsed())
    }

    async fn is_live(&self, token: &str) -> Result<bool, String> {
        let answer = self
            .work
            .introspect::<Value>(None, token)
            .await
            .map_err(|error| reason(&error))?;
        Ok(answer.get("active") == Some(&Value::Bool(true)))
    }
}
