//! Tasks: the unit of delegated work. A credential lives no longer than its task.

use serde::{Deserialize, Serialize};

use super::access::Scope;
use super::attestation::EvidenceKind;
use super::cutoff::Selector;
use super::ids::TaskId;
use super::lease::VouchingKey;
use super::name::{AgentName, Environment, Purpose, UserId};
use super::spiffe::TrustDomain;
use super::time::Timestamp;
use super::ttl::Ttl;

/// How a task ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The agent said that the work is done.
    Completed,
    /// The agent said that the work failed.
    Failed,
    /// The agent, or somebody who may, called it off.
    Cancelled,
    /// Its deadline passed.
    Expired,
    /// Its heartbeats stopped.
    Lost,
    /// Somebody who may ended it.
    Revoked,
    /// The task that it was part of ended.
    ParentEnded,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Self; 7] = [
        Self::Completed,
        Self::Failed,
        Self::Cancelled,
        Self::Expired,
        Self::Lost,
        Self::Revoked,
        Self::ParentEnded,
    ];

    /// The word that the API, records and metrics use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::Lost => "lost",
            Self::Revoked => "revoked",
            Self::ParentEnded => "parent_ended",
        }
    }
}

/// Where a task stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// Credentials may be issued.
    Open,
    /// Waiting, for example for a person: nothing is live and nothing is issued until it resumes.
    Suspended,
    /// Over, for good.
    Ended {
        /// How.
        outcome: Outcome,
        /// When.
        at: Timestamp,
    },
}

impl TaskState {
    /// The word for the state alone.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Suspended => "suspended",
            Self::Ended { .. } => "ended",
        }
    }
}

/// One link of the chain above a sub-task: a task, and the agent that handed work of it on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Delegator {
    /// The task that the work is part of.
    pub task: TaskId,
    /// Whose task that is.
    pub agent: AgentName,
    /// Which kind of evidence proved that agent when it handed the work on.
    pub kind: EvidenceKind,
    /// The trust domain that vouched for it then, where there was one.
    pub trust_domain: Option<TrustDomain>,
    /// The key that signed that evidence; none where it was handed on before this was kept.
    pub key: Option<VouchingKey>,
    /// Until when the withdrawal of that key is about this: while that evidence holds, and for
    /// [`WITHDRAWAL_REACHES`](super::lease::WITHDRAWAL_REACHES).
    pub until: Timestamp,
}

impl Delegator {
    /// Whether work was handed on by evidence that this key signed, so lately that its withdrawal is about it. Where
    /// the key of that evidence is not known, it may have been any of its trust domain. `whom` says whose key it is, as far
    /// as that is known.
    pub fn rests_on(&self, key: VouchingKey, whom: &Selector, now: Timestamp) -> bool {
        let signed = match (self.key, whom) {
            (Some(signed), _) => signed == key,
            (None, Selector::TrustDomain(domain)) => self.trust_domain.as_ref() == Some(domain),
            (None, _) => false,
        };
        signed && now < self.until
    }
}

/// What never changes about a task: what was asked for when it was opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Charter {
    /// Its id.
    pub id: TaskId,
    /// Whose task it is; nobody else may use it.
    pub agent: AgentName,
    /// The environment of the agent when the task was opened.
    pub environment: Environment,
    /// The trust domain that vouched for the workload that opened it, where there was one.
    pub trust_domain: Option<TrustDomain>,
    /// Who that workload was, in the words of its attestation.
    pub subject: String,
    /// The chain of a sub-task: the task that it is part of, then the one above that, up to the root. Empty
    /// for a task that is part of no other.
    pub delegators: Vec<Delegator>,
    /// Why it exists.
    pub purpose: Purpose,
    /// What it may ask for at most.
    pub scope: Scope,
    /// On whose behalf it runs.
    pub on_behalf_of: Option<UserId>,
    /// When it was opened.
    pub opened_at: Timestamp,
    /// When it ends at the latest.
    pub deadline: Timestamp,
    /// It ends when no heartbeat comes for this long; none means that none is expected.
    pub heartbeat: Option<Ttl>,
}

impl Charter {
    /// How many tasks may stand above one at most, whatever the configuration says.
    pub const DEEPEST: usize = 8;

    /// The task that this one is part of.
    pub fn parent(&self) -> Option<TaskId> {
        self.delegators.first().map(|above| above.task)
    }

    /// The task at the top of the tree: itself, where it is part of no other.
    pub fn root(&self) -> TaskId {
        self.delegators.last().map_or(self.id, |above| above.task)
    }

    /// How many tasks stand above it.
    pub fn depth(&self) -> usize {
        self.delegators.len()
    }

    /// Whether this agent handed the work on, directly or further up.
    pub fn is_delegated_by(&self, agent: &AgentName) -> bool {
        self.delegators.iter().any(|above| above.agent == *agent)
    }
}

/// A task as it stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Task {
    /// What never changes.
    pub charter: Charter,
    /// Where it stands.
    pub state: TaskState,
    /// The last sign of life: its opening, a heartbeat, or its resumption.
    pub beat_at: Timestamp,
}

impl Task {
    /// When the task ends by itself unless something happens, and how; `None` once it has ended.
    /// A suspended task sends no heartbeats, so only its deadline counts.
    pub fn due(&self) -> Option<(Timestamp, Outcome)> {
        let deadline = (self.charter.deadline, Outcome::Expired);
        match (self.state, self.charter.heartbeat) {
            (TaskState::Ended { .. }, _) => None,
            (TaskState::Open, Some(every)) => {
                let lost = (self.beat_at.plus(every.as_duration()), Outcome::Lost);
                Some(if lost.0 < deadline.0 { lost } else { deadline })
            }
            (TaskState::Open, None) | (TaskState::Suspended, _) => Some(deadline),
        }
    }
}

/// A step in the life of a task.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TaskChange {
    /// A sign of life. Refused unless the task is open.
    Beat,
    /// Ends what is live and issues nothing until the task resumes. Suspending twice is no error.
    Suspend,
    /// Open again. Resuming an open task is no error.
    Resume,
    /// The end. Ending an ended task again changes nothing and is no error.
    End(Outcome),
}
