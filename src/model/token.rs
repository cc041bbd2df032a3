//! The claims of an access token (RFC 9068), as they are written. How tools read them, and by which rules, is the
//! client crate's (`dayfly_client::resource`).
//!
//! What a token permits stands in `authorization_details` (RFC 9396); `scope` is a projection for
//! tools that know nothing else. No purpose, no prompt and no name of a person is ever in a token.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::access::ResourcePath;
use super::ids::{DecisionId, LeaseId, TaskId};
use super::name::{AgentName, Environment, Operation, ToolName};
use super::spiffe::TrustDomain;
use super::status_list::Status;

/// The `typ` of an access token (RFC 9068 §2.1).
pub const TYP: &str = "at+jwt";

/// The claims of one access token. Instants are whole seconds (`NumericDate`).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AccessToken {
    /// Who issued it: the URL of the broker.
    pub iss: String,
    /// For whom the agent acts: the user of the task, or the agent itself.
    pub sub: String,
    /// What kind of thing `sub` is.
    pub sub_profile: Profile,
    /// The one tool that it is for (RFC 8707).
    pub aud: String,
    /// The agent that got it.
    pub client_id: AgentName,
    /// When it was issued.
    pub iat: u64,
    /// From when it is valid.
    pub nbf: u64,
    /// When it ends.
    pub exp: u64,
    /// Its lease.
    pub jti: LeaseId,
    /// The task, the same in every token, record and event of it (RFC 8417 §2.2).
    pub txn: TaskId,
    /// What it permits, as `tool:action` words, without the resources.
    pub scope: String,
    /// What it permits. This counts.
    pub authorization_details: Vec<Detail>,
    /// Who acts, when that is not `sub`, and in it who handed the work on (RFC 8693 §4.1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub act: Option<Actor>,
    /// What the presenter has to prove, for a token that is no bearer token (RFC 7800).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cnf: Option<serde_json::Value>,
    /// Where to look whether it was revoked (Token Status List §6.1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    /// What Dayfly knows it by.
    #[serde(rename = "https://dayfly.dev/claims")]
    pub marks: Marks,
}

/// What kind of thing a subject is (OAuth Actor Profile).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// An agent.
    AiAgent,
    /// A person or a service on whose behalf an agent acts.
    User,
}

/// Who acts for the subject.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Actor {
    /// The agent.
    pub sub: AgentName,
    /// Who says so.
    pub iss: String,
    /// What kind of thing it is.
    pub sub_profile: Profile,
    /// Who handed the work on to it: an actor of before, who acts no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub act: Option<Box<Actor>>,
}

/// What a token permits at one tool. A field that a reader does not know could narrow it, so there is none.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Detail {
    /// The kind of detail.
    #[serde(rename = "type")]
    pub kind: DetailKind,
    /// Where: the audience of the tool.
    pub locations: Vec<String>,
    /// The permitted actions.
    pub actions: BTreeSet<Operation>,
    /// The permitted resources; none means the tool as a whole.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub resources: BTreeSet<ResourcePath>,
}

/// The kinds of details that exist.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DetailKind {
    /// Actions on resources of one tool.
    DayflyAccess,
}

/// What Dayfly knows a token by, for records, and for cutoffs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Marks {
    /// Its task.
    pub task: TaskId,
    /// The tasks that its task is part of, nearest first: the first is its parent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parents: Vec<TaskId>,
    /// Its lease.
    pub lease: LeaseId,
    /// The agent.
    pub agent: AgentName,
    /// The tool.
    pub tool: ToolName,
    /// The environment of the agent.
    pub environment: Environment,
    /// The trust domain that vouched for the workload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust_domain: Option<TrustDomain>,
    /// The other trust domains that vouched for whoever handed the work on, nearest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parent_trust_domains: Vec<TrustDomain>,
    /// The decision that permitted it.
    pub decision: DecisionId,
}
