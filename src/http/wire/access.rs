//! Accesses, and what policy would say to them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::broker::decide::{DecideOrder, Verdict};
use crate::model::access::{Access, Scope};
use crate::model::ids::DecisionId;
use crate::model::name::{Purpose, Role, UserId};
use crate::model::ttl::{Bound, Ttl};

/// One tool, at least one of its actions, and resources; no resource means the tool as a whole.
/// The schema alone: bodies are read as [`Access`].
#[derive(ToSchema)]
#[schema(as = Access)]
pub struct AccessSchema {
    /// The tool.
    #[schema(example = "crm")]
    pub tool: String,
    /// Between 1 and 16 of its actions.
    #[schema(min_items = 1, max_items = 16, example = json!(["read"]))]
    pub actions: Vec<String>,
    /// At most 16 paths. A path covers what lies below it.
    #[schema(max_items = 16, required = false, example = json!(["customers/42"]))]
    pub resources: Vec<String>,
}

/// What an agent would like to know before it begins.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AskDecisions {
    /// Why it would ask: 1 to 512 characters.
    #[schema(value_type = String, example = "answer ticket 4711")]
    pub purpose: Purpose,
    /// What it would ask for: 1 to 32 accesses.
    #[schema(value_type = Vec<AccessSchema>, min_items = 1, max_items = 32)]
    pub scope: Scope,
    /// On whose behalf.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub on_behalf_of: Option<UserId>,
    /// For how long each; the tool's default when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = super::length, required = false)]
    pub ttl: Option<Ttl>,
}

impl From<AskDecisions> for DecideOrder {
    fn from(body: AskDecisions) -> Self {
        Self {
            purpose: body.purpose,
            scope: body.scope,
            on_behalf_of: body.on_behalf_of,
            ttl: body.ttl,
        }
    }
}

/// What policy would say to each access, in the order of the scope.
#[derive(Debug, Serialize, ToSchema)]
pub struct Verdicts {
    /// One for each access.
    pub verdicts: Vec<VerdictAnswer>,
}

/// What policy would say to one access.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Verdict)]
pub struct VerdictAnswer {
    /// The access.
    #[schema(value_type = AccessSchema)]
    pub access: Access,
    /// The record of it.
    #[schema(value_type = String)]
    pub decision: DecisionId,
    /// Whether it would be issued.
    pub permitted: bool,
    /// The life that would be granted, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u32>)]
    pub granted: Option<Ttl>,
    /// What made it no longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = super::bound, required = false)]
    pub bounded_by: Option<Bound>,
    /// Why nothing would be granted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// It would be permitted once somebody in this role approved.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub approval: Option<Role>,
}

impl From<Vec<Verdict>> for Verdicts {
    fn from(verdicts: Vec<Verdict>) -> Self {
        Self {
            verdicts: verdicts.into_iter().map(VerdictAnswer::from).collect(),
        }
    }
}

impl From<Verdict> for VerdictAnswer {
    fn from(verdict: Verdict) -> Self {
        let (granted, refused) = match verdict.outcome {
            Ok(bounded) => (Some(bounded), None),
            Err(refused) => (None, Some(refused)),
        };
        Self {
            access: verdict.access,
            decision: verdict.decision,
            permitted: granted.is_some(),
            granted: granted.map(|bounded| bounded.ttl),
            bounded_by: granted.map(|bounded| bounded.by),
            approval: refused.as_ref().and_then(|refused| refused.approval.clone()),
            reason: refused.map(|refused| refused.reason),
        }
    }
}
