//! `load`: policies, agents and tools are read anew and put in force as one revision. What is out and might
//! not be issued under the new rules is decided anew.
//!
//! Before anything changes it is known which live leases would end. A set that would end more of them than
//! the guard allows changes nothing until somebody accepts that number.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use crate::journal::record::{Record, Result as Outcome, Verb};
use crate::model::cutoff::Selector;
use crate::model::decision::Revision;
use crate::model::ids::{LeaseId, RequestId};
use crate::model::lease::{Cause, Lease};
use crate::model::recheck::Work;
use crate::model::time::Timestamp;
use crate::policy::affected::affected;
use crate::registry::Caller;

use super::blast::Blast;
use super::error::{BrokerError, chain};
use super::recheck::today::Today;
use super::records::Fill;
use super::rules::Ruleset;
use super::walk::Walk;
use super::{Broker, measure};

/// How many leases a preview names.
const MOST_NAMED: usize = 20;
/// Under which name the ledger keeps what all live leases were decided by.
const MARK: &str = "revision";
/// What it keeps there between two revisions. Whoever starts then decides everything anew.
const BETWEEN: &[u8] = b"";

/// What the mark says: by which revision all live leases are decided, or will be, and since when.
fn settled(mark: &[u8]) -> Option<(&str, Timestamp)> {
    let (revision, since) = std::str::from_utf8(mark).ok()?.rsplit_once(' ')?;
    Some((revision, Timestamp::from_millis(since.parse().ok()?)))
}

/// Where rules come from.
#[async_trait]
pub trait Source: Send + Sync + 'static {
    /// The rules as they are there now, or as somebody sent them: checked whole.
    async fn load(&self, given: Option<Vec<Given>>) -> Result<Ruleset, Unloadable>;
    /// Changes whenever the rules there do, and costs little. `None` where they cannot be looked at now.
    async fn fingerprint(&self) -> Option<Fingerprint>;
}

/// What tells one state of the files from another.
pub type Fingerprint = [u8; 32];

/// A file that somebody sent to see what it would do.
#[derive(Clone, Debug)]
pub struct Given {
    /// `agents/….toml`, `tools/….toml` or `policies/….cedar`.
    pub path: String,
    /// What it holds.
    pub text: String,
}

/// Why a set of rules is none: every problem, with its place.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unloadable(pub String);

/// What a set of rules would do to what is out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Preview {
    /// The revision that it is.
    pub revision: Revision,
    /// How many live leases were decided anew: those that the difference can concern.
    pub looked_at: u64,
    /// Which of them would end.
    pub blast: Blast,
    /// Why they would: how many by each cause.
    pub causes: BTreeMap<&'static str, u64>,
    /// How many would be given less time.
    pub shortened: u64,
    /// How many would wait for an approval, with the task that they belong to.
    pub suspended: u64,
    /// Some of those that would change, with the reason.
    pub examples: Vec<(LeaseId, String)>,
}

impl Preview {
    fn of(revision: Revision) -> Self {
        Self {
            revision,
            looked_at: 0,
            blast: Blast::default(),
            causes: BTreeMap::new(),
            shortened: 0,
            suspended: 0,
            examples: Vec::new(),
        }
    }

    /// How many live leases would end or wait.
    pub fn ended(&self) -> u64 {
        self.blast.leases + self.suspended
    }
}

/// What came of loading.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Loaded {
    /// It is what was in force already.
    Unchanged(Revision),
    /// It is in force.
    InForce(Preview),
}

impl Broker {
    /// Reads the rules anew and puts them in force. Takes a permit for `dayfly:reload`.
    pub async fn reload(
        &self,
        caller: &Caller,
        accept: Option<u64>,
        request: RequestId,
    ) -> Result<Loaded, BrokerError> {
        let record = self.may(caller, Verb::Load, "reload", None, request).await?;
        self.load(accept, record).await
    }

    /// The same by itself: a signal of the system, or a file that changed.
    pub async fn reload_by_itself(&self) -> Result<Loaded, BrokerError> {
        self.load(None, Record::new(Verb::Load, Outcome::Permitted, self.now()))
            .await
    }

    /// What rules would do that are on disk, or that somebody sent. Takes a permit for `dayfly:reload`.
    pub async fn preview_rules(
        &self,
        caller: &Caller,
        given: Option<Vec<Given>>,
        request: RequestId,
    ) -> Result<Preview, BrokerError> {
        let record = self.may(caller, Verb::Inspect, "reload", None, request).await?;
        self.record(record.reason("what other rules would do")).await?;
        let next = self.parts.rules.read(given).await?;
        self.preview(&next).await.map(|(preview, _)| preview)
    }

    /// Looks from time to time whether the rules changed where they come from, and puts them in force.
    pub async fn watch_rules(self: Arc<Self>, stop: CancellationToken) {
        let Some(every) = self.parts.settings.watch_rules else {
            return;
        };
        let (mut loaded, mut before) = (None, None);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(every) => {}
            }
            let found = self.parts.rules.fingerprint().await;
            // Twice the same: whoever writes them is done.
            if found != loaded && found == before {
                loaded.clone_from(&found);
                match self.reload_by_itself().await {
                    Ok(Loaded::Unchanged(_)) => {}
                    Ok(Loaded::InForce(_)) => {
                        tracing::info!("policies, agents and tools changed and were loaded anew");
                    }
                    Err(error) => {
                        tracing::error!(error = %chain(&error), "policies, agents or tools changed");
                    }
                }
            }
            before = found;
        }
    }

    /// Other rules come in force first, and then what they concern is ordered to be decided anew. So whatever is
    /// decided by those of before either is written down before the recheck begins, and found by it, or finds
    /// out at its end ([`Broker::keep_up`]). Whoever dies between the two leaves a mark that no revision has; who
    /// could not order all of it goes on later.
    async fn load(&self, accept: Option<u64>, record: Record) -> Result<Loaded, BrokerError> {
        let loaded = self.try_load(accept, record).await;
        measure::reloaded(match &loaded {
            Ok(Loaded::Unchanged(_)) => "unchanged",
            Ok(Loaded::InForce(_)) => "in_force",
            Err(BrokerError::Unloadable(_) | BrokerError::BlastRadius { .. }) => "refused",
            Err(_) => "failed",
        });
        loaded
    }

    async fn try_load(&self, accept: Option<u64>, record: Record) -> Result<Loaded, BrokerError> {
        let mut owed = self.loading.lock().await;
        let next = match self.parts.rules.read(None).await {
            Ok(next) => next,
            Err(problems) => return Err(self.not_loaded(record, problems.into()).await),
        };
        let revision = next.revision.clone();
        if revision == self.parts.rules.current().revision {
            self.order_all(&mut owed).await?;
            return Ok(Loaded::Unchanged(revision));
        }
        let (preview, whom) = self.preview(&next).await?;
        let most = accept.unwrap_or(self.parts.settings.blast_radius);
        if preview.ended() > most {
            let error = BrokerError::BlastRadius {
                would_end: preview.ended(),
                most,
            };
            return Err(self.not_loaded(record, error).await);
        }
        self.set_between().await?;
        // On record before it decides anything.
        let record = Record {
            revision: Some(revision.clone()),
            ..record
        };
        self.record(record).await?;
        measure::decided(Verb::Load, Outcome::Permitted);
        self.parts.rules.replace(next);
        owed.get_or_insert_default().extend(whom);
        self.order_all(&mut owed).await?;
        Ok(Loaded::InForce(preview))
    }

    /// Records that nothing was changed.
    async fn not_loaded(&self, record: Record, error: BrokerError) -> BrokerError {
        measure::decided(Verb::Load, Outcome::Failed);
        let reason: String = error.to_string().chars().take(1000).collect();
        let record = Record {
            result: Outcome::Failed,
            ..record.reason(reason)
        };
        self.record(record).await.err().unwrap_or(error)
    }

    /// At the start: what was decided by other rules than those that are in force is decided anew. Another broker
    /// may have given out by those of before until now, while one after the other takes up new ones: so everything
    /// is, until that is longer ago than a task lives.
    pub async fn settle_rules(&self) -> Result<(), BrokerError> {
        let mut owed = self.loading.lock().await;
        let revision = self.parts.rules.current().revision.clone();
        let mark = self.parts.ledger.mark(MARK).await?;
        let whom = owed.get_or_insert_default();
        let long_ago = self
            .now()
            .minus(self.parts.settings.longest_task_life.as_duration());
        let settled = mark.as_deref().and_then(settled);
        if settled.is_none_or(|(by, since)| *by != *revision.0 || since > long_ago) {
            // Or nobody knows by which.
            whom.push(Selector::All);
        }
        self.order_all(&mut owed).await
    }

    /// Orders what could not be ordered when rules were loaded.
    pub(super) async fn order_owed(&self) -> Result<(), BrokerError> {
        match self.loading.try_lock() {
            Ok(mut owed) => self.order_all(&mut owed).await,
            // Whoever loads orders it.
            Err(_) => Ok(()),
        }
    }

    /// Orders that what the rules in force concern is decided anew, and what waits for others: they are not in
    /// force any more. What fails is owed, all of it.
    async fn order_all(&self, owed: &mut Option<Vec<Selector>>) -> Result<(), BrokerError> {
        let Some(whom) = owed else { return Ok(()) };
        let revision = self.parts.rules.current().revision.clone();
        for selector in whom.iter() {
            let work = Work::Decide {
                revision: Some(revision.clone()),
            };
            self.order_recheck(selector.clone(), work, "other rules are in force")
                .await?;
        }
        self.overtake(&revision).await?;
        self.remember_rules(&revision).await?;
        *owed = None;
        Ok(())
    }

    pub(super) async fn remember_rules(&self, revision: &Revision) -> Result<(), BrokerError> {
        let before = self.parts.ledger.mark(MARK).await?;
        let settled = before.as_deref().and_then(settled);
        if settled.is_none_or(|(by, _)| *by != *revision.0) {
            let value = format!("{revision} {}", self.now().as_millis());
            // Whoever comes second has ordered its own.
            self.parts
                .ledger
                .set_mark(MARK, value.as_bytes(), before.as_deref())
                .await?;
        }
        Ok(())
    }

    /// Says that rules are being changed: whoever starts after this one died begins with everything.
    async fn set_between(&self) -> Result<(), BrokerError> {
        let before = self.parts.ledger.mark(MARK).await?;
        self.parts
            .ledger
            .set_mark(MARK, BETWEEN, before.as_deref())
            .await?;
        Ok(())
    }

    /// Decides by other rules whatever they can concern, and changes nothing.
    async fn preview(&self, next: &Ruleset) -> Result<(Preview, Vec<Selector>), BrokerError> {
        self.catch_up().await?;
        let current = self.parts.rules.current();
        let whom = affected(current.in_force(), next.in_force()).selectors();
        let mut preview = Preview::of(next.revision.clone());
        let mut seen = BTreeSet::new();
        for selector in &whom {
            let mut walk = Walk::new(&*self.parts.ledger, selector);
            while let Some(leases) = walk.next().await? {
                for lease in leases {
                    // An agent and a tool may both have changed.
                    if whom.len() == 1 || seen.insert(lease.id) {
                        self.foresee(next, &lease, &mut preview).await?;
                    }
                }
            }
        }
        Ok((preview, whom))
    }

    async fn foresee(&self, next: &Ruleset, lease: &Lease, preview: &mut Preview) -> Result<(), BrokerError> {
        let now = self.now();
        let today = match self.today(next, lease, now).await {
            Ok(today) => today,
            Err(BrokerError::NoTask) => return Ok(()),
            Err(error) => return Err(error),
        };
        preview.looked_at += 1;
        let (cause, why) = match today {
            Today::Stands => return Ok(()),
            Today::Over(cause, why) => (Some(cause), why),
            Today::Less(until, why) if until <= now => (Some(Cause::Shortened), why),
            Today::Less(_, why) => {
                preview.shortened += 1;
                (None, why)
            }
            Today::Waits(_, why) => {
                preview.suspended += 1;
                (None, why)
            }
        };
        if let Some(cause) = cause {
            preview.blast.count(&next.registry, lease);
            *preview.causes.entry(cause.as_str()).or_default() += 1;
        }
        if preview.examples.len() < MOST_NAMED {
            preview.examples.push((lease.id, why.reason));
        }
        Ok(())
    }
}
