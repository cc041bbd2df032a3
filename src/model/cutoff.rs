//! Cutoffs: one record that ends everything matching a selector issued up to an instant.
//!
//! The revocation feed consists of nothing else. The end of a lease and the end of a task are
//! cutoffs too, so a resource server has one rule to apply.

use serde::{Deserialize, Serialize};

use super::ids::{LeaseId, TaskId};
use super::lease::Cause;
use super::name::{AgentName, Environment, ToolName, UserId};
use super::spiffe::TrustDomain;
use super::time::Timestamp;

/// What a cutoff ends.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", content = "id")]
pub enum Selector {
    /// One lease.
    Lease(LeaseId),
    /// Every lease of a task.
    Task(TaskId),
    /// Every lease of an agent.
    Agent(AgentName),
    /// Every lease for a tool.
    Tool(ToolName),
    /// Every lease of tasks on behalf of a user.
    User(UserId),
    /// Every lease of agents in an environment.
    Environment(Environment),
    /// Every lease of workloads that a trust domain vouched for, and of what they handed on.
    TrustDomain(TrustDomain),
    /// Every lease.
    All,
}

/// One cutoff.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Cutoff {
    /// What it ends.
    pub selector: Selector,
    /// Leases made at or before this instant are ended; [`Timestamp::MAX`] where nothing may follow.
    pub up_to: Timestamp,
    /// When it was recorded.
    pub at: Timestamp,
    /// Why.
    pub cause: Cause,
}
