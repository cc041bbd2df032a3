//! Tasks.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::broker::complete::Completed;
use crate::broker::delegate::DelegateOrder;
use crate::broker::open::OpenOrder;
use crate::ledger::IdempotencyKey;
use crate::model::access::Scope;
use crate::model::ids::TaskId;
use crate::model::name::{AgentName, Purpose, UserId};
use crate::model::task::{Outcome, Task, TaskState};
use crate::model::time::Timestamp;
use crate::model::ttl::Ttl;

use super::access::AccessSchema;
use super::leases::LeaseAnswer;
use super::{Reason, Wait};

/// What an agent says about the work that it is about to do.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OpenTask {
    /// Why: 1 to 512 characters. It is kept in the journal and never put into a token.
    #[schema(value_type = String, example = "answer ticket 4711")]
    pub purpose: Purpose,
    /// What it may ask for at most: 1 to 32 accesses. It gives nothing by itself.
    #[schema(value_type = Vec<AccessSchema>, min_items = 1, max_items = 32)]
    pub scope: Scope,
    /// On whose behalf: the stable id of a person or a service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub on_behalf_of: Option<UserId>,
    /// How long it takes at most; the broker's default when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = super::length, required = false)]
    pub ttl: Option<Ttl>,
    /// The task ends when no heartbeat comes for this long; none is expected when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = super::length, required = false)]
    pub heartbeat: Option<Ttl>,
}

impl OpenTask {
    /// The order, with the key that makes it repeatable.
    pub fn order(self, key: Option<IdempotencyKey>) -> OpenOrder {
        OpenOrder {
            purpose: self.purpose,
            scope: self.scope,
            on_behalf_of: self.on_behalf_of,
            ttl: self.ttl,
            heartbeat: self.heartbeat,
            key,
        }
    }
}

/// What an agent says about work that it hands on. On whose behalf it runs does not change.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DelegateTask {
    /// Who is to do it: the name of a registered agent; the caller itself when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "report-bot")]
    pub agent: Option<AgentName>,
    /// Why: 1 to 512 characters. It is kept in the journal and never put into a token.
    #[schema(value_type = String, example = "look up the orders of ticket 4711")]
    pub purpose: Purpose,
    /// What it may ask for at most: each access within one of the task that it is part of.
    #[schema(value_type = Vec<AccessSchema>, min_items = 1, max_items = 32)]
    pub scope: Scope,
    /// How long it takes at most; the broker's default when absent. It ends with its parent in any case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = super::length, required = false)]
    pub ttl: Option<Ttl>,
    /// The sub-task ends when no heartbeat comes for this long; none is expected when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = super::length, required = false)]
    pub heartbeat: Option<Ttl>,
}

impl DelegateTask {
    /// The order to hand this on from a task, with the key that makes it repeatable.
    pub fn order(self, parent: TaskId, key: Option<IdempotencyKey>) -> DelegateOrder {
        DelegateOrder {
            parent,
            to: self.agent,
            purpose: self.purpose,
            scope: self.scope,
            ttl: self.ttl,
            heartbeat: self.heartbeat,
            key,
        }
    }
}

/// How a task ends.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CompleteTask {
    /// How.
    pub outcome: Ended,
}

/// What an agent may say about the end of its task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// The work is done.
    Completed,
    /// The work failed.
    Failed,
    /// The work was called off.
    Cancelled,
}

impl From<Ended> for Outcome {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Completed => Self::Completed,
            Ended::Failed => Self::Failed,
            Ended::Cancelled => Self::Cancelled,
        }
    }
}

/// Why a task is ended by somebody who may.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RevokeTask {
    /// Why: 1 to 512 characters, for the journal.
    #[schema(value_type = String, example = "it does what nobody asked for")]
    pub reason: Reason,
}

/// How long to wait.
#[derive(Clone, Copy, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Waiting {
    /// How long to wait for the receipts, at most 30 seconds; not at all when absent.
    #[serde(default)]
    #[param(schema_with = super::length, required = false)]
    pub wait: Wait,
}

/// A task.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Task)]
pub struct TaskAnswer {
    /// Its id.
    #[schema(value_type = String)]
    pub id: TaskId,
    /// Whose it is.
    #[schema(value_type = String)]
    pub agent: AgentName,
    /// Why it exists.
    #[schema(value_type = String)]
    pub purpose: Purpose,
    /// What it may ask for at most.
    #[schema(value_type = Vec<AccessSchema>)]
    pub scope: Scope,
    /// On whose behalf.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub on_behalf_of: Option<UserId>,
    /// The task that it is part of.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub parent: Option<TaskId>,
    /// How many tasks are above it.
    pub depth: usize,
    /// The agents of the tasks above, nearest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub delegated_by: Vec<AgentName>,
    /// When it was opened.
    #[schema(value_type = String, format = DateTime)]
    pub opened_at: Timestamp,
    /// When it ends at the latest.
    #[schema(value_type = String, format = DateTime)]
    pub deadline: Timestamp,
    /// It ends when no heartbeat comes for so many seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u32>)]
    pub heartbeat: Option<Ttl>,
    /// Its last sign of life.
    #[schema(value_type = String, format = DateTime)]
    pub beat_at: Timestamp,
    /// Where it stands.
    #[schema(schema_with = state)]
    pub state: &'static str,
    /// How it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = outcome, required = false)]
    pub outcome: Option<Outcome>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<Timestamp>,
}

fn state() -> utoipa::openapi::schema::Object {
    super::one_of(["open", "suspended", "ended"])
}

fn outcome() -> utoipa::openapi::schema::Object {
    super::one_of(Outcome::ALL.map(Outcome::as_str))
}

impl From<Task> for TaskAnswer {
    fn from(task: Task) -> Self {
        let (outcome, ended_at) = match task.state {
            TaskState::Ended { outcome, at } => (Some(outcome), Some(at)),
            TaskState::Open | TaskState::Suspended => (None, None),
        };
        let charter = task.charter;
        let (parent, depth) = (charter.parent(), charter.depth());
        Self {
            id: charter.id,
            agent: charter.agent,
            purpose: charter.purpose,
            scope: charter.scope,
            on_behalf_of: charter.on_behalf_of,
            parent,
            depth,
            delegated_by: charter.delegators.into_iter().map(|above| above.agent).collect(),
            opened_at: charter.opened_at,
            deadline: charter.deadline,
            heartbeat: charter.heartbeat,
            beat_at: task.beat_at,
            state: task.state.as_str(),
            outcome,
            ended_at,
        }
    }
}

/// The sub-tasks below a task.
#[derive(Debug, Serialize, ToSchema)]
pub struct SubTasks {
    /// Those that have not ended, at every depth, oldest first.
    pub tasks: Vec<TaskAnswer>,
}

impl From<Vec<Task>> for SubTasks {
    fn from(tasks: Vec<Task>) -> Self {
        Self {
            tasks: tasks.into_iter().map(TaskAnswer::from).collect(),
        }
    }
}

/// A task that ended, with what became of its leases so far.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = EndedTask)]
pub struct CompletedAnswer {
    /// The task.
    pub task: TaskAnswer,
    /// Its leases and those of what was below it, oldest first, at most 500. Each that has ended has its receipt.
    pub leases: Vec<LeaseAnswer>,
    /// Whether every lease listed has its receipt.
    pub settled: bool,
}

impl From<Completed> for CompletedAnswer {
    fn from(completed: Completed) -> Self {
        let leases: Vec<LeaseAnswer> = completed.leases.into_iter().map(LeaseAnswer::from).collect();
        Self {
            task: completed.task.into(),
            settled: leases.iter().all(|lease| lease.proof.is_some()),
            leases,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_cannot_say_that_its_task_expired() {
        for outcome in ["expired", "lost", "revoked"] {
            let json = format!(r#"{{"outcome":"{outcome}"}}"#);
            assert!(serde_json::from_str::<CompleteTask>(&json).is_err(), "{outcome}");
        }
    }

    #[test]
    fn a_body_means_the_same_in_any_order() {
        let a = r#"{"purpose":"p","scope":[{"tool":"t","actions":["b","a"]}],"ttl":"5m"}"#;
        let b = r#"{ "ttl":300, "scope":[{"actions":["a","b"],"resources":[],"tool":"t"}], "purpose":"p" }"#;
        let canonical =
            |text| serde_json::to_string(&serde_json::from_str::<OpenTask>(text).unwrap()).unwrap();
        assert_eq!(canonical(a), canonical(b));
    }
}
