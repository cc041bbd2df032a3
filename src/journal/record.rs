//! One record: who, for whom, why, what, which policies, what came of it, and how it ended.
//!
//! Keys are sorted and numbers are integers, so that serde's output is the canonical form of
//! RFC 8785. No field can hold a secret: evidence appears as its digest, credentials not at all.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::model::access::ResourcePath;
use crate::model::decision::{PolicyId, Revision};
use crate::model::ids::{DecisionId, LeaseId, RequestId, TaskId};
use crate::model::name::{AgentName, Operation, ToolName, UserId};
use crate::model::time::Timestamp;
use crate::model::ttl::{Bound, Ttl};

/// What happened. The same words as the broker's methods, the metric labels and the command line.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// Evidence was refused, or a workload that is no agent was seen.
    Attest,
    /// A task was opened.
    Open,
    /// A task sent a sign of life. Not recorded one by one.
    Beat,
    /// A task was suspended.
    Suspend,
    /// A task was resumed.
    Resume,
    /// A task ended.
    Complete,
    /// A credential was asked for.
    Issue,
    /// A longer life was asked for.
    Renew,
    /// An end was asked for.
    Revoke,
    /// A lease ended, with its receipt.
    End,
    /// A decision was asked for without effect.
    Decide,
    /// Something was looked at.
    Inspect,
    /// Policies, agents and tools were loaded.
    Load,
    /// The broker started or stopped.
    Serve,
}

/// What came of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Result {
    /// Permitted, and about to be done or done.
    Permitted,
    /// Denied: by policy, by the registry, or because the evidence proves nothing.
    Denied,
    /// Permitted and then not done.
    Failed,
}

/// One line of the journal. Fields in the order of their names; absent ones are left out.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// What was to be done with the tool.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub actions: BTreeSet<Operation>,
    /// The agent that acted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentName>,
    /// When, by the broker's clock.
    pub at: Timestamp,
    /// How the workload was attested: kind, authority, and digest of the evidence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attested: Option<Attested>,
    /// What bounded the life.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bounded_by: Option<Bound>,
    /// Why something ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// The decision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<DecisionId>,
    /// The policies that could not be evaluated.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<PolicyId>,
    /// The life that was granted, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub granted: Option<Ttl>,
    /// The lease.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseId>,
    /// On whose behalf.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_behalf_of: Option<UserId>,
    /// The policies that decided.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<PolicyId>,
    /// What proves the end, as `kind instant`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<String>,
    /// Why, in the words of the agent that opened the task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purpose: Option<String>,
    /// Why, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<RequestId>,
    /// The life that was asked for, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested: Option<Ttl>,
    /// The resources.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub resources: BTreeSet<ResourcePath>,
    /// What came of it.
    pub result: Result,
    /// Which policies, agents and tools were in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Revision>,
    /// The task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
    /// The tool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<ToolName>,
    /// What happened.
    pub verb: Verb,
}

/// How a workload was attested.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attested {
    /// Who vouched.
    pub authority: String,
    /// SHA-256 of the evidence, in hex.
    pub digest: String,
    /// Which kind of evidence.
    pub kind: String,
    /// Who the workload is.
    pub subject: String,
}

impl Record {
    /// A record with nothing but what happened, what came of it and when.
    pub fn new(verb: Verb, result: Result, at: Timestamp) -> Self {
        Self {
            actions: BTreeSet::new(),
            agent: None,
            at,
            attested: None,
            bounded_by: None,
            cause: None,
            decision: None,
            faults: Vec::new(),
            granted: None,
            lease: None,
            on_behalf_of: None,
            policies: Vec::new(),
            proof: None,
            purpose: None,
            reason: None,
            request: None,
            requested: None,
            resources: BTreeSet::new(),
            result,
            revision: None,
            task: None,
            tool: None,
            verb,
        }
    }
}
