//! Floor 3, the broker: the use-cases. Knows traits, no technology.
//!
//! One file a verb: [`open`], [`delegate`], [`issue`], [`renew`], [`revoke`], [`complete`] (with its lesser
//! siblings), [`decide`], [`inspect`], [`introspect`]. Each starts from a [`Caller`], which only
//! [`Broker::attest`] can obtain, and each decision is recorded before its effect leaves the house.
//! The [`reaper`] ends what is due, a person looks after what it cannot end ([`stuck`]), and the [`reconciler`] compares providers with the ledger. When the
//! ledger was lost, [`quarantine`] keeps to ending until [`recover`] has brought it back.

pub mod attest;
mod behind;
pub mod blast;
mod bounds;
mod chain;
pub mod complete;
pub mod decide;
pub mod delegate;
pub mod error;
pub mod facts;
pub mod inspect;
pub mod introspect;
pub mod issue;
pub mod load;
pub mod measure;
pub mod open;
mod permission;
pub mod quarantine;
pub mod ready;
pub mod reaper;
pub mod recheck;
pub mod reconciler;
mod records;
pub mod recover;
pub mod renew;
pub mod revoke;
pub mod rules;
mod sampled;
mod sightings;
pub mod signals;
pub mod status_lists;
pub mod streams;
pub mod stuck;
mod trust;
mod walk;

use std::future::Future;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use moka::sync::Cache;
use tokio::sync::Notify;
use tracing::field::display;

use crate::clock::Clock;
use crate::entropy::{Entropy, Stock};
use crate::identity::verifiers::Verifiers;
use crate::journal::Journal;
use crate::journal::receipt::ReceiptSigner;
use crate::journal::record::Record;
use crate::keys::issuer::Issuer;
use crate::ledger::Ledger;
use crate::model::cutoff::Selector;
use crate::model::ids::{DecisionId, LeaseId, RequestId, TaskId};
use crate::model::name::{AgentName, StreamName, ToolName};
use crate::model::task::{Charter, Task};
use crate::model::time::Timestamp;
use crate::model::ttl::Ttl;
use crate::provider::Providers;
use crate::registry::Caller;
use crate::trace;

use error::BrokerError;
use facts::Known;
use recheck::overtaken::Others;
use recheck::owed::Owed;
use recheck::untold::Untold;
use rules::Rules;
use sightings::Sightings;

/// What a broker is made of.
pub struct Parts {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// Appraises evidence.
    pub verifiers: Arc<Verifiers>,
    /// Policies, agents and tools: one revision, replaced whole.
    pub rules: Arc<Rules>,
    /// Live state.
    pub ledger: Arc<dyn Ledger>,
    /// Who mints.
    pub providers: Providers,
    /// In whose name tokens are issued: what it signed is known again.
    pub issuer: Arc<Issuer>,
    /// The record.
    pub journal: Arc<dyn Journal>,
    /// Signs what is stated about an end.
    pub receipts: ReceiptSigner,
    /// Limits.
    pub settings: Settings,
}

/// Limits that hold for every task and credential.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long a task lives when its agent names no deadline.
    pub default_task_life: Ttl,
    /// How long a task may live.
    pub longest_task_life: Ttl,
    /// Heartbeats are expected this often when the agent says nothing; none means not at all.
    pub default_heartbeat: Option<Ttl>,
    /// How far apart heartbeats may be.
    pub longest_heartbeat: Ttl,
    /// How many live credentials a task may have.
    pub live_credentials_per_task: Option<u32>,
    /// How many open tasks an agent may have whose registry entry does not say.
    pub open_tasks_per_agent: Option<u32>,
    /// How many tasks may be above one; none where nobody hands work on. At most [`Charter::DEEPEST`].
    pub deepest_task: usize,
    /// No credential outlives the evidence that it was issued on.
    pub bind_to_attestation: bool,
    /// How many open tasks are remembered, to spare the ledger a read.
    pub remembered_tasks: NonZeroUsize,
    /// How many live leases other rules may end without somebody accepting it.
    pub blast_radius: u64,
    /// How often the files of the rules are looked at; not at all when absent.
    pub watch_rules: Option<Duration>,
    /// After how long whoever read a status list reads it anew; there are none when absent.
    pub status_list_ttl: Option<Ttl>,
    /// How the reaper works.
    pub reaper: reaper::Settings,
    /// How the reconciler works.
    pub reconciler: reconciler::Settings,
}

impl Default for Settings {
    fn default() -> Self {
        let hours = |hours: u32| Ttl::from_secs(hours * 3600).unwrap_or(Ttl::MAX);
        Self {
            default_task_life: hours(1),
            longest_task_life: hours(24),
            default_heartbeat: None,
            longest_heartbeat: hours(1),
            live_credentials_per_task: Some(100),
            open_tasks_per_agent: Some(100),
            deepest_task: 3,
            bind_to_attestation: false,
            remembered_tasks: NonZeroUsize::new(100_000).unwrap_or(NonZeroUsize::MIN),
            blast_radius: 1000,
            watch_rules: None,
            status_list_ttl: Ttl::from_secs(15),
            reaper: reaper::Settings::default(),
            reconciler: reconciler::Settings::default(),
        }
    }
}

/// The use-cases over the seams.
pub struct Broker {
    parts: Parts,
    /// What is counted for every credential.
    measures: measure::Measures,
    /// What ids are made of.
    names: Stock,
    /// Charters never change, so remembering them needs no invalidation.
    charters: Cache<TaskId, Arc<Charter>>,
    /// The facts that decisions look at.
    known: Known,
    /// Evidence that proves nothing: anybody can send it.
    forgeries: Sightings,
    /// Proven workloads that are not admitted. Apart, so that no flood of forgeries hides them.
    strangers: Sightings,
    /// Signals that are not taken. Apart for each stream, so that no noise in one hides what is wrong with another.
    noise: Cache<StreamName, Arc<Sightings>>,
    /// Signals that came lately, by their marks.
    heard: Cache<String, signals::Heard>,
    /// What was recorded lately, and is not again for a while: looks, and agents whose tasks are too many.
    looks: Cache<String, ()>,
    /// What the reconciler could not end and has told of lately.
    mismatches: Cache<LeaseId, ()>,
    /// Held by whoever puts other rules in force: whom they concern, while that is not ordered yet.
    loading: tokio::sync::Mutex<Option<Vec<Selector>>>,
    /// Held by the pass of the reconciler that is under way.
    comparing: tokio::sync::Mutex<()>,
    /// What waits for rules that this broker does not have.
    others: tokio::sync::Mutex<Others>,
    /// Kill orders that could not be written down.
    owed: Owed,
    /// What rechecks did and the journal did not take yet.
    untold: Untold,
    /// Wakes the recheck when something was ordered.
    ordered: Notify,
    /// Wakes the reaper when something became due.
    due: Notify,
    /// Wakes those who wait for receipts.
    settled: Notify,
    /// Whether it was said that the ledger is lost.
    quarantined: AtomicBool,
}

impl Broker {
    /// A broker of these parts.
    pub fn new(parts: Parts) -> Self {
        let remembered = u64::try_from(parts.settings.remembered_tasks.get()).unwrap_or(u64::MAX);
        let charters = Cache::builder()
            .max_capacity(remembered)
            .time_to_idle(Duration::from_secs(3600))
            .build();
        let looks = Cache::builder()
            .max_capacity(10_000)
            .time_to_live(Duration::from_secs(300))
            .build();
        let heard = Cache::builder()
            .max_capacity(100_000)
            .time_to_live(Duration::from_secs(24 * 3600))
            .build();
        let mismatches = Cache::builder()
            .max_capacity(10_000)
            .time_to_live(Duration::from_secs(24 * 3600))
            .build();
        Self {
            parts,
            measures: measure::Measures::new(),
            names: Stock::default(),
            charters,
            known: Known::default(),
            forgeries: Sightings::new(),
            strangers: Sightings::new(),
            noise: Cache::new(1000),
            heard,
            looks,
            mismatches,
            loading: tokio::sync::Mutex::new(None),
            comparing: tokio::sync::Mutex::new(()),
            others: tokio::sync::Mutex::default(),
            owed: Owed::default(),
            untold: Untold::default(),
            ordered: Notify::new(),
            due: Notify::new(),
            settled: Notify::new(),
            quarantined: AtomicBool::new(false),
        }
    }

    /// The present instant.
    pub fn now(&self) -> Timestamp {
        self.parts.clock.now()
    }

    /// An id for a request.
    pub fn request_id(&self) -> Result<RequestId, BrokerError> {
        Ok(RequestId::new(self.now(), self.draw()?))
    }

    /// Policies, agents and tools as they are in force.
    pub fn rules(&self) -> &Rules {
        &self.parts.rules
    }

    fn draw(&self) -> Result<[u8; 10], BrokerError> {
        Ok(self.names.draw(&*self.parts.entropy)?)
    }

    fn decision_id(&self, now: Timestamp) -> Result<DecisionId, BrokerError> {
        Ok(DecisionId::new(now, self.draw()?))
    }

    /// The charter of one of the caller's own tasks. Another agent's task does not exist for it.
    async fn own_charter(&self, caller: &Caller, id: TaskId) -> Result<Arc<Charter>, BrokerError> {
        let charter = self.charter(id).await?;
        if charter.agent == caller.agent().name {
            Ok(charter)
        } else {
            Err(BrokerError::NoTask)
        }
    }

    /// The charter of a task.
    async fn charter(&self, id: TaskId) -> Result<Arc<Charter>, BrokerError> {
        match self.charters.get(&id) {
            Some(charter) => Ok(charter),
            None => {
                let task = self.parts.ledger.task(id).await?.ok_or(BrokerError::NoTask)?;
                Ok(self.remember(task))
            }
        }
    }

    fn remember(&self, task: Task) -> Arc<Charter> {
        let charter = Arc::new(task.charter);
        self.charters.insert(charter.id, charter.clone());
        charter
    }

    /// Appends to the journal. The record lies on the heap from here on: a use-case that held it itself would be
    /// several times as large, and is moved around.
    fn record(&self, record: impl Into<Arc<Record>>) -> impl Future<Output = Result<(), BrokerError>> + Send {
        let record = record.into();
        let appended = self.parts.journal.append(Arc::clone(&record));
        async move {
            appended.await?;
            tell(&record);
            Ok(())
        }
    }
}

/// Says what is on record to logs and traces: names and ids, never words of anybody.
fn tell(record: &Record) {
    let (verb, result) = (record.verb.as_str(), record.result.as_str());
    let agent = record.agent.as_ref().map(AgentName::as_str);
    let tool = record.tool.as_ref().map(ToolName::as_str);
    let (task, lease) = (
        record.task.as_ref().map(display),
        record.lease.as_ref().map(display),
    );
    let decision = record.decision.as_ref().map(display);
    tracing::info!(target: trace::TARGET, verb, result, agent, task, lease, decision, tool, "recorded");
    tracing::debug!(verb, result, agent, task, lease, decision, tool, "recorded");
}
