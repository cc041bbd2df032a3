//! The ledger: tasks, leases, cutoffs and facts as they stand now. Live state, shared by all replicas.
//!
//! Each method is one atomic step and one round trip; those about many leases are a step for each of them, and fewer
//! round trips. Every adapter passes the same contract suite
//! (`tests/suite/contract/ledger.rs`), which is the finer print of what the methods promise.
//!
//! A ledger consists of shards; everything of a task lives in the shard of its slot
//! ([`crate::model::ids::Slot`]), so a step never needs two of them.

pub mod context;
mod cursor;
pub mod embedded;
pub mod lineage;
pub mod measured;
pub mod record;
pub mod redis;
pub mod reservation;
pub mod rules;
pub mod status_lists;

use std::num::NonZeroUsize;
use std::time::Duration;

use async_trait::async_trait;
use ring::digest;

use self::context::{Context, MOST_FACTS, MOST_RECHECKS};
use self::lineage::{Lineage, Loss};
use self::status_lists::StatusLists;
use crate::model::cutoff::{Cutoff, Selector};
use crate::model::fact::{FactsVersion, MOST_OF_ONE};
use crate::model::ids::{DecisionId, LeaseId, TaskId};
use crate::model::lease::{Cause, Handle, Lease, Receipt, ReceiptSignature, Vouched};
use crate::model::name::{AgentName, ToolName, UserId};
use crate::model::status_list::Place;
use crate::model::task::{Outcome, Task, TaskChange, TaskState};
use crate::model::time::Timestamp;
use crate::model::ttl::{Bound, Ttl};

/// Live state. What was given out is never given back: [`Lineage`] finds out when a ledger was lost or
/// rolled back.
#[async_trait]
pub trait Ledger: Lineage + Context + StatusLists {
    /// Writes down a new task. With a key that was used before for the same content, answers the
    /// task of the first time; with other content it refuses with [`Refusal::KeyReused`].
    /// Refuses with [`Refusal::Budget`] when its agent has `most` tasks that have not ended; a suspended
    /// one has not. See [`reserve`](Self::reserve) for how exact that is.
    ///
    /// A sub-task falls into the slot of its root, and is refused unless every task above it is open at its
    /// opening, and where its root has [`rules::MOST_SUB_TASKS`] below it that have not ended.
    async fn open(
        &self,
        task: &Task,
        most: Option<u32>,
        key: Option<&IdempotencyKey>,
    ) -> Result<Opened, LedgerError>;

    /// The task as it stands.
    async fn task(&self, id: TaskId) -> Result<Option<Task>, LedgerError>;

    /// Moves a task. Suspending or ending it turns each of its reserved and active leases to
    /// `revoking`, due at once, and strikes their places on the status lists, all in the same step. Ending it
    /// publishes one cutoff on the task, suspending it one on each of those leases. Answers the task as it then stands.
    ///
    /// All of that reaches what is below it in the same step: the leases of its sub-tasks are turned too, and
    /// with a task every sub-task below ends as [`Outcome::ParentEnded`], with a cutoff of its own. A suspended
    /// task holds up what is below it, and its sub-tasks stay as they are.
    ///
    /// A task past its due instant counts as ended since then: it can be ended, which says how, and
    /// everything else refuses with [`Refusal::TaskNotOpen`].
    async fn advance(&self, id: TaskId, change: TaskChange, now: Timestamp) -> Result<Task, LedgerError>;

    /// The sub-tasks below a task that have not ended, oldest first, all of them.
    async fn below(&self, id: TaskId) -> Result<Vec<Task>, LedgerError>;

    /// Writes a lease down, `reserved` or, for self-contained credentials, `active` at once.
    /// Refuses unless its task, and each task above, is open and not past its due instant at `lease.issued_at`, no fact was
    /// stated since it was decided ([`Refusal::StaleFacts`]), no cutoff ends the lease, every budget has room,
    /// and the key, if any, is new.
    /// A key that was used before refuses with [`Refusal::Repeated`] or [`Refusal::KeyReused`], before
    /// anything else is looked at. What refuses leaves no trace: the key stays new.
    ///
    /// The budget of a task is exact. Those of agents and tools are exact in a ledger of one shard. Where
    /// many shards share them, steps that several brokers make at the same instant may pass them by as
    /// many as there are brokers, and they may be found used up once half of them is used, if that half
    /// is crowded in few shards.
    ///
    /// A lease that wants one ([`Listing::Wanted`](crate::model::status_list::Listing)) gets a place on the status
    /// lists, and that is the answer.
    async fn reserve(
        &self,
        lease: &Lease,
        budgets: &Budgets,
        key: Option<&IdempotencyKey>,
        facts: FactsVersion,
    ) -> Result<Option<Place>, LedgerError>;

    /// Writes down how the provider named what a reserved lease will hang on, before there is anything
    /// to hand out. Refuses with [`Refusal::LeaseNotOpen`] when the lease is no longer reserved.
    async fn name(&self, id: LeaseId, handle: &Handle) -> Result<(), LedgerError>;

    /// A reserved lease becomes active, with the handle and expiry that the provider gave. Refuses
    /// with [`Refusal::LeaseNotOpen`] when the lease is no longer reserved, and with [`Refusal::Cut`]
    /// when a cutoff ends it.
    async fn activate(&self, id: LeaseId, handle: &Handle, expires_at: Timestamp) -> Result<(), LedgerError>;

    /// An active lease lives on until `terms.expires_at`, and says which decision let it and what bounded
    /// it; or it stays as it was where that is longer: the credential of before is still out. An earlier end
    /// ([`Lease::curtailed`]) moves with it, and is gone once that credential ends first. Refuses when it is not active at `now`, its task
    /// or one above is not open, something was stated since it was decided, or a cutoff ends it. An active lease whose time is up is refused as `expired`.
    async fn renew(&self, id: LeaseId, terms: Renewal, now: Timestamp) -> Result<Lease, LedgerError>;

    /// The lease as it stands.
    async fn lease(&self, id: LeaseId) -> Result<Option<Lease>, LedgerError>;

    /// The lease, whose credential may be used at `now`: it is active, its task and each above is open, and no cutoff ends
    /// it, also one that has not come to the lease yet. Otherwise refuses as [`renew`](Self::renew) does, in
    /// a lost ledger too. Changes nothing.
    async fn live(&self, id: LeaseId, now: Timestamp) -> Result<Lease, LedgerError>;

    /// A reserved or active lease turns to `revoking`, due at once, its cutoff is published and its place on the
    /// status lists struck.
    /// One that is revoking, stuck or ended stays as it is. Refuses with [`Refusal::NoLease`] when
    /// there is none. Answers the lease as it then stands.
    async fn revoke(&self, id: LeaseId, cause: Cause, now: Timestamp) -> Result<Lease, LedgerError>;

    /// Does to each of these leases what [`revoke`](Self::revoke) does to one, each in a step of its own to whoever
    /// looks. Passes over those that there are none of. Answers how many it turned. An error may have left some as
    /// they were, and to ask again does no harm.
    async fn revoke_all(&self, ids: &[LeaseId], cause: Cause, now: Timestamp) -> Result<usize, LedgerError>;

    /// Claims what is due, for `hold`: nobody else is given it until then. What is due is a lease
    /// that has to end or whose time is up (it turns to `revoking` in the same step), a reservation
    /// that was not activated within [`rules::MINT_TIME`] or its own life, and a task past its due
    /// instant. In each shard what somebody ordered to end ([`rules::is_ordered`]) comes before what fell
    /// due by itself, and then the longest due. A claim that is not settled, or a task
    /// that is not ended, returns when the hold runs out. A reservation that falls due while its
    /// credential may be alive publishes its cutoff, and so does a lease that ends before its credential;
    /// the expiry of a lease publishes nothing. What publishes is struck. No claims mean that nothing is due, and fewer than both
    /// the limit and [`rules::MANY_DUE`] that there was no more.
    ///
    /// Also forgets, a part at a time, what ended longer ago than the retention, and keys, cutoffs,
    /// entries of the feed and status lists when their time is up.
    async fn claim_due(
        &self,
        now: Timestamp,
        hold: Duration,
        limit: NonZeroUsize,
    ) -> Result<Vec<Claim>, LedgerError>;

    /// Since when that has waited which [`claim_due`](Self::claim_due) would find and which is due longest; `None`
    /// where nothing is due. What is claimed does not wait, until its hold runs out, and neither does what is to be
    /// tried again later. Costs the same however much there is. Right for what waits up to three days.
    async fn due_since(&self, now: Timestamp) -> Result<Option<Timestamp>, LedgerError>;

    /// Says what became of a claimed lease; each failure counts as one attempt, and being put off as none.
    /// Refuses with
    /// [`Refusal::ClaimLost`] when the hold ran out and somebody else has it, or had it and settled,
    /// and when it was settled before. A hold that ran out while nobody else came still settles.
    /// An end frees the budgets.
    async fn settle(
        &self,
        claim: &LeaseClaim,
        settlement: Settlement,
        now: Timestamp,
    ) -> Result<(), LedgerError>;

    /// Says what became of several claimed leases: to each happens what [`settle`](Self::settle) does, and is answered
    /// in its place, whatever becomes of the others.
    async fn settle_all(
        &self,
        settled: &[(LeaseClaim, Settlement)],
        now: Timestamp,
    ) -> Vec<Result<(), LedgerError>>;

    /// Makes a lease that has to end due at `now`, where it was to wait longer. One that somebody is at is
    /// left to them: it stays theirs until the hold runs out. Refuses with [`Refusal::LeaseNotEnding`] when
    /// it has not to end, or has ended. Answers the lease as it then stands.
    async fn retry(&self, id: LeaseId, now: Timestamp) -> Result<Lease, LedgerError>;

    /// Ends a stuck lease, as it was read, with [`Receipt::Abandoned`] at `now` and this signature on it, whoever is at it: their claim is lost.
    /// Refuses with [`Refusal::LeaseNotStuck`] when it is not stuck by now. An end frees the budgets.
    /// Answers the lease as it then stands.
    async fn abandon(
        &self,
        lease: &Lease,
        signature: &ReceiptSignature,
        now: Timestamp,
    ) -> Result<Lease, LedgerError>;

    /// Records a cutoff in every shard: from the answer on, nothing that it matches is reserved or
    /// renewed, and it is in the feed. Leases are turned to `revoking` by [`Ledger::find`] and
    /// [`Ledger::revoke`] afterwards. Recording the same cutoff again is no error. Of two cutoffs on
    /// one selector the one that reaches further holds.
    async fn cut(&self, cutoff: &Cutoff) -> Result<(), LedgerError>;

    /// The cutoffs on agents, tools, users, environments, trust domains and everything that are in force.
    async fn cutoffs(&self) -> Result<Vec<Cutoff>, LedgerError>;

    /// Leases that fit the filter, oldest first, after `page.after`; ended ones too until they are
    /// forgotten. Where only live ones are wanted, in an order of the ledger's own, the same at each call: a page
    /// that is not full is the last.
    async fn find(&self, filter: &Filter, page: &Page) -> Result<Vec<Lease>, LedgerError>;

    /// What was published after the cursor; waits up to `wait` when there is nothing yet, and then
    /// answers without entries. A cursor of the start, or one that this ledger did not give, gets all
    /// that is retained. Entries may come again; they never go missing while they are retained, which
    /// is at least for the retention. At most [`rules::MOST_CHANGES`] at a time.
    async fn changes(&self, since: &Cursor, wait: Duration) -> Result<Changes, LedgerError>;

    /// Proves that the ledger can be written now: the readiness of the broker.
    async fn ping(&self) -> Result<(), LedgerError>;
}

/// What a renewal changes about a lease.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Renewal {
    /// When it ends by itself from now on.
    pub expires_at: Timestamp,
    /// The decision that lets it.
    pub decision: DecisionId,
    /// What bounded its life this time.
    pub bounded_by: Bound,
    /// The life that was asked for this time.
    pub requested: Option<Ttl>,
    /// What stands behind it this time.
    pub vouched: Option<Vouched>,
    /// As of when the facts were known by which it was decided.
    pub facts: FactsVersion,
}

/// What came of opening a task.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Opened {
    /// It is new.
    New,
    /// The same request came before; this is its task.
    Repeated(Box<Task>),
}

/// Names one write, so that a repeated request is known. Bounded in life by the ledger's retention.
/// A task that is opened and a lease that is reserved under the same key do not meet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IdempotencyKey {
    /// SHA-256 of the agent and the key that it chose.
    pub key: [u8; 32],
    /// SHA-256 of what it asked for.
    pub content: [u8; 32],
}

impl IdempotencyKey {
    /// The key of one caller's write: the caller, the key that it chose, and what it asked for.
    pub fn new(agent: &AgentName, chosen: &str, content: &[u8]) -> Self {
        let mut key = digest::Context::new(&digest::SHA256);
        key.update(agent.as_str().as_bytes());
        key.update(&[0]);
        key.update(chosen.as_bytes());
        Self {
            key: bytes(key.finish()),
            content: bytes(digest::digest(&digest::SHA256, content)),
        }
    }

    /// The key for the next attempt after the one that made `lease`.
    #[must_use]
    pub fn after(&self, lease: LeaseId) -> Self {
        let mut key = digest::Context::new(&digest::SHA256);
        key.update(&self.key);
        key.update(&lease.to_bytes());
        Self {
            key: bytes(key.finish()),
            content: self.content,
        }
    }
}

fn bytes(digest: digest::Digest) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes
        .iter_mut()
        .zip(digest.as_ref())
        .for_each(|(to, from)| *to = *from);
    bytes
}

/// How many live leases (reserved, active, revoking or stuck) there may be. `None` is no limit.
///
/// Agent and tool budgets are counted per shard against an equal share, rounded up, so they hold
/// approximately in a ledger of several shards; the task budget is exact.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Budgets {
    /// For the task.
    pub task: Option<u32>,
    /// For the agent.
    pub agent: Option<u32>,
    /// For the tool.
    pub tool: Option<u32>,
}

/// Which budget was used up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Budget {
    /// The task's.
    Task,
    /// The agent's.
    Agent,
    /// The tool's.
    Tool,
    /// The agent's, of tasks.
    OpenTasks,
    /// That of the tree that a sub-task is to be part of.
    SubTasks,
}

impl Budget {
    /// The word that answers and records use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Task => "task",
            Self::Agent => "agent",
            Self::Tool => "tool",
            Self::OpenTasks => "open_tasks",
            Self::SubTasks => "sub_tasks",
        }
    }

    const fn whose(self) -> &'static str {
        match self {
            Self::Task | Self::SubTasks => "task",
            Self::Agent | Self::OpenTasks => "agent",
            Self::Tool => "tool",
        }
    }

    const fn what(self) -> &'static str {
        match self {
            Self::Task | Self::Agent | Self::Tool => "live credentials",
            Self::OpenTasks => "open tasks",
            Self::SubTasks => "sub-tasks below its root that have not ended",
        }
    }
}

/// What is due.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Claim {
    /// A lease to end. Its state is `revoking` or `stuck`.
    Lease(Box<LeaseClaim>),
    /// A task to end, and how.
    Task(Box<Task>, Outcome),
}

/// A lease that the holder, and for now nobody else, works at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeaseClaim {
    /// The lease.
    pub lease: Lease,
    /// Tells this hold from a later one.
    pub hold: u64,
}

/// What became of a claimed lease.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Settlement {
    /// It is over, with this proof, and the signature on it.
    Ended(Receipt, ReceiptSignature),
    /// It did not work; again at that instant.
    RetryAt(Timestamp, String),
    /// It keeps failing; a person must look. Again at that instant all the same.
    Stuck(Timestamp, String),
    /// Nobody tried. Again at that instant; nothing else changes, and it counts as no attempt.
    PutOff(Timestamp),
}

/// Which leases. All that is named has to fit.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Filter {
    /// Of this task, or of a sub-task below it.
    pub task: Option<TaskId>,
    /// Of this agent, or of a sub-task that it handed on.
    pub agent: Option<AgentName>,
    /// For this tool.
    pub tool: Option<ToolName>,
    /// On behalf of this user.
    pub user: Option<UserId>,
    /// In this state ([`crate::model::lease::LeaseState::as_str`]).
    pub state: Option<StateName>,
    /// Only reserved and active ones, in an order that may be the ledger's own.
    pub live: bool,
}

impl Filter {
    /// The live leases that a selector can match; for those without an index of their own, all live ones.
    pub fn of(selector: &Selector) -> Self {
        let all = Self {
            live: true,
            ..Self::default()
        };
        match selector {
            Selector::Task(id) => Self {
                task: Some(*id),
                ..all
            },
            Selector::Agent(name) => Self {
                agent: Some(name.clone()),
                ..all
            },
            Selector::Tool(name) => Self {
                tool: Some(name.clone()),
                ..all
            },
            Selector::User(id) => Self {
                user: Some(id.clone()),
                ..all
            },
            Selector::Lease(_) | Selector::Environment(_) | Selector::TrustDomain(_) | Selector::All => all,
        }
    }
}

/// The names of the lease states.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StateName {
    /// Reserved.
    Reserved,
    /// Active.
    Active,
    /// Revoking.
    Revoking,
    /// Stuck.
    Stuck,
    /// Ended.
    Ended,
}

impl StateName {
    /// The word for it, the same as [`crate::model::lease::LeaseState::as_str`].
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reserved => "reserved",
            Self::Active => "active",
            Self::Revoking => "revoking",
            Self::Stuck => "stuck",
            Self::Ended => "ended",
        }
    }
}

/// A part of a list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Page {
    /// Only what comes after this lease, by id.
    pub after: Option<LeaseId>,
    /// How many at most, between 1 and [`Page::MOST`].
    pub limit: NonZeroUsize,
}

impl Page {
    /// The most that one page holds.
    pub const MOST: usize = 500;
}

/// A place in the feed of cutoffs: how far each shard was read. Opaque to everybody but the ledger.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Cursor(pub Vec<u64>);

/// A part of the feed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Changes {
    /// The cutoffs, oldest first within each shard.
    pub cutoffs: Vec<Cutoff>,
    /// Where to go on.
    pub next: Cursor,
    /// More can be had at once.
    pub more: bool,
}

/// Why a step was not made although the ledger works.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// There is no such task.
    #[error("there is no such task")]
    NoTask,
    /// There is no such lease.
    #[error("there is no such lease")]
    NoLease,
    /// An id is taken. Ids are random, so this is a fault.
    #[error("the id is taken")]
    Exists,
    /// The task is not open, or its time is up.
    #[error("the task is {}", .0.as_str())]
    TaskNotOpen(TaskState),
    /// The lease is not in the state that the step needs.
    #[error("the lease is {0}")]
    LeaseNotOpen(&'static str),
    /// Nobody has to end the lease, or it has ended.
    #[error("the lease is {0}: only one that is revoking or stuck is tried again")]
    LeaseNotEnding(&'static str),
    /// Ending the lease does not keep failing.
    #[error("the lease is {0}: only one that is stuck can be abandoned")]
    LeaseNotStuck(&'static str),
    /// Something was stated since it was decided.
    #[error("it was decided on facts that have changed since")]
    StaleFacts,
    /// There are as many facts as there may be.
    #[error("there are as many facts as there may be: {MOST_OF_ONE} about one subject, {MOST_FACTS} in all")]
    TooManyFacts,
    /// There are as many rechecks as there may be.
    #[error("{MOST_RECHECKS} rechecks wait, as many as there may be")]
    TooManyRechecks,
    /// A cutoff ends it.
    #[error("a cutoff is in force")]
    Cut(Selector),
    /// There are as many live credentials, or open tasks, as there may be.
    #[error("the {} has {limit} {}, as many as it may have", .budget.whose(), .budget.what())]
    Budget {
        /// Which budget.
        budget: Budget,
        /// The limit.
        limit: u32,
    },
    /// The idempotency key was used for other content.
    #[error("the idempotency key was used before with other content")]
    KeyReused,
    /// The same request made this lease before.
    #[error("the same request was answered before")]
    Repeated(LeaseId),
    /// Somebody else has the claim by now.
    #[error("the claim was lost: its hold ran out")]
    ClaimLost,
}

/// What can go wrong with the ledger.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LedgerError {
    /// The ledger works and says no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The ledger cannot be reached or cannot be written. Whether the step was made is unknown.
    #[error("the ledger is unavailable: {0}")]
    Unavailable(String),
    /// The ledger is not what it was. Nothing is given out before it was recovered.
    #[error("the ledger was lost: {0}")]
    Lost(Loss),
    /// What is stored cannot be read. Nobody guesses.
    #[error("the ledger holds something that cannot be read: {0}")]
    Corrupt(String),
}
