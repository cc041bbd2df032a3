//! Cutoffs: one record that ends everything matching a selector that was issued up to an instant. The revocation feed
//! consists of nothing else.

use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::time;

/// What a cutoff ends. A kind that is not known here cannot be read: an answer of the feed with one counts as none.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", content = "id")]
pub enum Selector {
    /// One lease.
    Lease(String),
    /// Every lease of a task, and of what is part of it.
    Task(String),
    /// Every lease of an agent, and of what it handed on.
    Agent(String),
    /// Every lease for a tool.
    Tool(String),
    /// Every lease of tasks on behalf of a user.
    User(String),
    /// Every lease of agents in an environment.
    Environment(String),
    /// Every lease of workloads that a trust domain vouched for, and of what they handed on.
    TrustDomain(String),
    /// Every lease.
    All,
}

/// One cutoff.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[non_exhaustive]
pub struct Cutoff {
    /// What it ends.
    pub selector: Selector,
    /// Leases made at or before this instant are ended.
    #[serde(deserialize_with = "time::read")]
    pub up_to: SystemTime,
    /// When it was recorded.
    #[serde(deserialize_with = "time::read")]
    pub at: SystemTime,
    /// Why, such as `task_completed`.
    pub cause: Arc<str>,
}
