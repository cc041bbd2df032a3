//! The broker's answers, as far as they are read here. Members that are not known are ignored.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::access::Access;
use crate::api::segment;
use crate::credential::Material;
use crate::time;

/// A task.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Task {
    pub(crate) id: String,
    pub(crate) agent: String,
    pub(crate) purpose: String,
    pub(crate) scope: Vec<Access>,
    pub(crate) on_behalf_of: Option<String>,
    pub(crate) parent: Option<String>,
    #[serde(deserialize_with = "time::read")]
    pub(crate) deadline: SystemTime,
    /// Seconds.
    #[serde(default, deserialize_with = "time::read_optional_seconds")]
    pub(crate) heartbeat: Option<u64>,
    pub(crate) state: State,
    pub(crate) outcome: Option<Outcome>,
}

/// The path of a task in the API.
pub(crate) fn path(task: &str) -> String {
    format!("/v1/tasks/{}", segment(task))
}

/// What a task does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    Open,
    Suspended,
    Ended,
}

/// How a task ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Outcome {
    /// Its agent says that the work is done.
    Completed,
    /// Its agent says that the work failed.
    Failed,
    /// Its agent, or one above, called it off.
    Cancelled,
    /// Its deadline passed.
    Expired,
    /// Its heartbeats stopped.
    Lost,
    /// Somebody who may ended it.
    Revoked,
    /// The task that it was part of ended.
    ParentEnded,
    /// In a way that this version does not know.
    #[serde(other)]
    Unknown,
}

impl Outcome {
    /// As the broker says it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::Lost => "lost",
            Self::Revoked => "revoked",
            Self::ParentEnded => "parent_ended",
            Self::Unknown => "unknown",
        }
    }
}

/// A credential that was just issued or renewed.
#[derive(Deserialize)]
pub(crate) struct Issued {
    pub(crate) lease: LeaseId,
    /// Absent where a renewal lets the one of before live on.
    pub(crate) credential: Option<Material>,
    /// Seconds.
    #[serde(deserialize_with = "time::read_seconds")]
    pub(crate) granted: u64,
    pub(crate) bounded_by: String,
    pub(crate) revocation: String,
    #[serde(deserialize_with = "time::read")]
    pub(crate) expires_at: SystemTime,
    pub(crate) decision: String,
    #[serde(default)]
    pub(crate) origins: Vec<String>,
}

/// The part of a lease that a credential needs.
#[derive(Deserialize)]
pub(crate) struct LeaseId {
    pub(crate) id: String,
}

/// How a task ended, and what became of its credentials while the end waited for them.
#[derive(Clone, Debug, Default, Deserialize)]
#[non_exhaustive]
pub struct Conclusion {
    /// Whether every lease has its proof.
    pub settled: bool,
    /// Its leases and those of its sub-tasks, oldest first, at most 500.
    #[serde(default)]
    pub leases: Vec<EndedLease>,
}

/// What became of one lease.
#[derive(Clone, Debug, Deserialize)]
#[non_exhaustive]
pub struct EndedLease {
    /// Its id.
    pub id: String,
    /// The tool.
    pub tool: String,
    /// `ended` once the end is proven, `revoking` or `stuck` before.
    pub state: String,
    /// Why it ended, such as `task_completed`.
    pub cause: Option<String>,
    /// How the end is known, such as `denied_at` or `verified_absent`.
    pub proof: Option<String>,
    /// Since when it is known.
    #[serde(default, deserialize_with = "time::read_optional")]
    pub proven_at: Option<SystemTime>,
    /// The broker's signed statement of the end: a compact JWS.
    pub receipt: Option<String>,
}

/// What policy says to one access.
#[derive(Clone, Debug, Deserialize)]
#[non_exhaustive]
pub struct Verdict {
    /// The access.
    pub access: Access,
    /// Whether a credential would be issued.
    pub permitted: bool,
    /// Why not.
    pub reason: Option<String>,
    /// The role that would have to approve.
    pub approval: Option<String>,
    /// The life that would be granted, in seconds.
    pub granted: Option<u64>,
    /// What would make its life no longer, such as `policy`.
    pub bounded_by: Option<String>,
    /// The record of the decision.
    pub decision: String,
}

/// One for each access that was asked about.
#[derive(Deserialize)]
pub(crate) struct Verdicts {
    pub(crate) verdicts: Vec<Verdict>,
}

/// The members of a `fields` credential.
pub(crate) type Fields = BTreeMap<String, crate::secret::Secret>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_a_newer_broker_says() {
        let task: Task = serde_json::from_value(serde_json::json!({
            "id": "tsk_1", "agent": "support-bot", "purpose": "p", "scope": [{"tool": "crm", "actions": ["read"]}],
            "depth": 0, "opened_at": "2026-11-22T07:49:41.253Z", "deadline": "2026-11-22T08:49:41.253Z",
            "beat_at": "2026-11-22T07:49:41.253Z", "state": "ended", "outcome": "evaporated", "moon": "full",
        }))
        .unwrap();
        assert_eq!(task.outcome, Some(Outcome::Unknown));
        assert_eq!(task.state, State::Ended);
    }

    #[test]
    fn no_length_of_time_is_too_long_to_count_with() {
        let task = |heartbeat: u64| -> Task {
            serde_json::from_value(serde_json::json!({
                "id": "tsk_1", "agent": "support-bot", "purpose": "p", "scope": [], "state": "open",
                "deadline": "2026-11-22T08:49:41.253Z", "heartbeat": heartbeat,
            }))
            .unwrap()
        };
        assert_eq!(task(30).heartbeat, Some(30));
        let longest = std::time::Duration::from_secs(task(u64::MAX).heartbeat.unwrap());
        assert!(tokio::time::Instant::now().checked_add(longest * 2).is_some());
    }

    #[test]
    fn outcomes_are_said_as_they_are_read() {
        for outcome in [Outcome::Completed, Outcome::Lost, Outcome::ParentEnded] {
            assert_eq!(serde_json::to_value(outcome).unwrap(), outcome.as_str());
        }
    }
}
