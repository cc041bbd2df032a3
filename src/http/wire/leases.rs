//! Leases, receipts and revocations.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::broker::blast::Blast;
use crate::broker::revoke::Revoked;
use crate::journal::receipt;
use crate::ledger::{Changes, Cursor, Filter, Page, StateName};
use crate::model::access::ResourcePath;
use crate::model::cutoff::{Cutoff, Selector};
use crate::model::ids::{DecisionId, LeaseId, TaskId};
use crate::model::lease::{Cause, Ending, Handle, Lease, LeaseState, Receipt};
use crate::model::name::{AgentName, Environment, Operation, Owner, ProviderName, ToolName, UserId};
use crate::model::spiffe::TrustDomain;
use crate::model::time::Timestamp;
use crate::model::ttl::Bound;

use super::{Reason, Wait};

/// The word that stands for every agent in a query.
const EVERY_AGENT: &str = "*";
/// How many leases are listed when nobody says.
const PAGE: NonZeroUsize = NonZeroUsize::MIN.saturating_add(99);

/// Which leases. All that is named has to fit.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct WhichLeases {
    /// Of this agent; the caller's own when absent. `*` is every agent. All but one's own take a permit.
    #[param(value_type = Option<String>)]
    pub agent: Option<WhichAgent>,
    /// For this tool.
    #[param(value_type = Option<String>)]
    pub tool: Option<ToolName>,
    /// Of this task.
    #[param(value_type = Option<String>)]
    pub task: Option<TaskId>,
    /// On behalf of this user.
    #[param(value_type = Option<String>)]
    pub user: Option<UserId>,
    /// In this state.
    #[param(schema_with = state, required = false)]
    pub state: Option<StateName>,
    /// How many at most, 1 to 500; 100 when absent.
    #[param(value_type = Option<u16>, minimum = 1, maximum = 500)]
    pub limit: Option<NonZeroUsize>,
    /// Only what comes after this lease: the `next` of the answer before.
    #[param(value_type = Option<String>)]
    pub after: Option<LeaseId>,
}

/// One agent, or every agent.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum WhichAgent {
    /// This one.
    Named(AgentName),
    /// Every one.
    Every,
}

impl TryFrom<String> for WhichAgent {
    type Error = crate::model::name::InvalidName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        match text.as_str() {
            EVERY_AGENT => Ok(Self::Every),
            name => name.parse().map(Self::Named),
        }
    }
}

impl WhichLeases {
    /// The filter and the page, for this caller.
    pub fn filter(self, own: &AgentName) -> (Filter, Page) {
        let most = NonZeroUsize::new(Page::MOST).unwrap_or(NonZeroUsize::MIN);
        let page = Page {
            after: self.after,
            limit: self.limit.unwrap_or(PAGE).min(most),
        };
        let filter = Filter {
            task: self.task,
            agent: match self.agent {
                None => Some(own.clone()),
                Some(WhichAgent::Named(name)) => Some(name),
                Some(WhichAgent::Every) => None,
            },
            tool: self.tool,
            user: self.user,
            state: self.state,
            live: false,
        };
        (filter, page)
    }
}

/// A part of a list of leases, oldest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct Leases {
    /// The leases.
    pub leases: Vec<LeaseAnswer>,
    /// The `after` of the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub next: Option<LeaseId>,
}

impl Leases {
    /// What was found, of at most `limit`.
    pub fn new(leases: Vec<Lease>, limit: NonZeroUsize) -> Self {
        let next = leases.last().map(|lease| lease.id);
        Self {
            next: next.filter(|_| leases.len() >= limit.get()),
            leases: leases.into_iter().map(LeaseAnswer::from).collect(),
        }
    }
}

/// Why a lease is ended.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RevokeLease {
    /// Why: 1 to 512 characters, for the journal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub reason: Option<Reason>,
}

/// Why nobody goes on ending a lease.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AbandonLease {
    /// Why: 1 to 512 characters, for the journal.
    #[schema(value_type = String, example = "the database was deleted with everything in it")]
    pub reason: Reason,
}

/// A lease: what is known about a credential that is, or may be, out.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Lease)]
pub struct LeaseAnswer {
    /// Its id; the `jti` of a token.
    #[schema(value_type = String)]
    pub id: LeaseId,
    /// Its task.
    #[schema(value_type = String)]
    pub task: TaskId,
    /// Whose it is.
    #[schema(value_type = String)]
    pub agent: AgentName,
    /// On whose behalf.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub on_behalf_of: Option<UserId>,
    /// What it is for.
    #[schema(value_type = String)]
    pub tool: ToolName,
    /// The permitted actions.
    #[schema(value_type = Vec<String>)]
    pub actions: BTreeSet<Operation>,
    /// The permitted resources; none means the tool as a whole.
    #[schema(value_type = Vec<String>)]
    pub resources: BTreeSet<ResourcePath>,
    /// Who minted it.
    #[schema(value_type = String)]
    pub provider: ProviderName,
    /// The provider's name for it. Never a secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub handle: Option<Handle>,
    /// How it can end before its expiry.
    #[schema(schema_with = super::ending)]
    pub revocation: Ending,
    /// The record of why it exists.
    #[schema(value_type = String)]
    pub decision: DecisionId,
    /// When it was issued.
    #[schema(value_type = String, format = DateTime)]
    pub issued_at: Timestamp,
    /// When it ends by itself.
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
    /// What made its life no longer.
    #[schema(schema_with = super::bound)]
    pub bounded_by: Bound,
    /// Where it stands.
    #[schema(schema_with = state)]
    pub state: &'static str,
    /// Why it ended or has to end.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = cause, required = false)]
    pub cause: Option<&'static str>,
    /// From when it has to end, or when its end was settled.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub since: Option<Timestamp>,
    /// How often ending it has failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    /// What went wrong the last time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// When it is tried next: from then on, as soon as Dayfly comes to it. While it is being tried, when
    /// another replica may.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub next_attempt_at: Option<Timestamp>,
    /// The proof of its end. `verified_absent`: the provider was asked afterwards and has it no more.
    /// `denied_at`: resource servers are told to refuse it. `expires_at`: nothing can recall it; it
    /// ends by itself. `outlived`: nothing ended it; only the lease is over. `abandoned`: nobody says
    /// that it is gone; somebody gave up ending it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = proof, required = false)]
    pub proof: Option<&'static str>,
    /// The instant that the proof names.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub proven_at: Option<Timestamp>,
    /// What the broker states about the end, signed with its audit key: a compact JWS of type
    /// `dayfly-receipt+jwt`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receipt: Option<String>,
}

fn state() -> utoipa::openapi::schema::Object {
    let all = [
        StateName::Reserved,
        StateName::Active,
        StateName::Revoking,
        StateName::Stuck,
        StateName::Ended,
    ];
    super::one_of(all.map(StateName::as_str))
}

fn cause() -> utoipa::openapi::schema::Object {
    super::one_of(Cause::ALL.map(Cause::as_str))
}

fn proof() -> utoipa::openapi::schema::Object {
    let at = Timestamp::EPOCH;
    let all = [
        Receipt::VerifiedAbsent { at },
        Receipt::DeniedAt { at },
        Receipt::ExpiresAt { at },
        Receipt::Outlived { at },
        Receipt::Abandoned { at },
    ];
    super::one_of(all.map(Receipt::as_str))
}

impl From<Lease> for LeaseAnswer {
    fn from(lease: Lease) -> Self {
        let state = lease.state.as_str();
        let signed = receipt::compact(&lease);
        let (cause, since, effort, receipt) = match lease.state {
            LeaseState::Reserved | LeaseState::Active => (None, None, None, None),
            LeaseState::Revoking(effort) | LeaseState::Stuck(effort) => {
                (Some(effort.cause), Some(effort.since), Some(effort), None)
            }
            LeaseState::Ended {
                cause, at, receipt, ..
            } => (Some(cause), Some(at), None, Some(receipt)),
        };
        Self {
            id: lease.id,
            task: lease.task,
            agent: lease.agent,
            on_behalf_of: lease.on_behalf_of,
            tool: lease.tool,
            actions: lease.actions,
            resources: lease.resources,
            provider: lease.provider,
            handle: lease.handle,
            revocation: lease.ending,
            decision: lease.decision,
            issued_at: lease.issued_at,
            expires_at: lease.expires_at,
            bounded_by: lease.bounded_by,
            state,
            cause: cause.map(Cause::as_str),
            since,
            attempts: effort.as_ref().map(|effort| effort.attempts),
            next_attempt_at: effort.as_ref().map(|effort| effort.next_at),
            last_error: effort.and_then(|effort| effort.last_error),
            proof: receipt.map(Receipt::as_str),
            proven_at: receipt.map(Receipt::at),
            receipt: signed,
        }
    }
}

/// Ends everything that was issued up to now to an agent, for a tool, on behalf of a user, in an environment or
/// under a trust domain; or all there is. Name one of them.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Revoke {
    /// The agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub agent: Option<AgentName>,
    /// The tool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub tool: Option<ToolName>,
    /// The user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub user: Option<UserId>,
    /// The environment of the agents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub environment: Option<Environment>,
    /// The trust domain that vouched for the workloads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub trust_domain: Option<TrustDomain>,
    /// Everything.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
    /// Why: 1 to 512 characters, for the journal.
    #[schema(value_type = String, example = "its key leaked")]
    pub reason: Reason,
    /// Only say what it would end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub preview: bool,
}

impl Revoke {
    /// What is named, if it is exactly one.
    pub fn selector(&self) -> Option<Selector> {
        let mut named = [
            self.agent.clone().map(Selector::Agent),
            self.tool.clone().map(Selector::Tool),
            self.user.clone().map(Selector::User),
            self.environment.clone().map(Selector::Environment),
            self.trust_domain.clone().map(Selector::TrustDomain),
            self.all.then_some(Selector::All),
        ]
        .into_iter()
        .flatten();
        let first = named.next();
        first.filter(|_| named.next().is_none())
    }
}

/// What a revocation did, or would do.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum RevocationAnswer {
    /// Done.
    Done(RevokedAnswer),
    /// What it would end.
    Preview(BlastAnswer),
}

/// How many live leases would end, and whose.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Blast)]
pub struct BlastAnswer {
    /// All of them.
    pub leases: u64,
    /// By agent.
    #[schema(value_type = BTreeMap<String, u64>)]
    pub agents: BTreeMap<AgentName, u64>,
    /// By tool.
    #[schema(value_type = BTreeMap<String, u64>)]
    pub tools: BTreeMap<ToolName, u64>,
    /// By who answers for the agent.
    #[schema(value_type = BTreeMap<String, u64>)]
    pub owners: BTreeMap<Owner, u64>,
}

impl From<Blast> for BlastAnswer {
    fn from(blast: Blast) -> Self {
        let Blast {
            leases,
            agents,
            tools,
            owners,
        } = blast;
        Self {
            leases,
            agents,
            tools,
            owners,
        }
    }
}

/// What a revocation did.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Revoked)]
pub struct RevokedAnswer {
    /// The record that denies at once.
    #[serde(flatten)]
    pub cutoff: CutoffAnswer,
    /// How many live leases were turned to their end so far.
    pub leases: usize,
    /// Whether those were all. If not, the rest is denied already and on its way: look at `/v1/rechecks`.
    pub drained: bool,
}

impl From<Revoked> for RevokedAnswer {
    fn from(revoked: Revoked) -> Self {
        Self {
            cutoff: revoked.cutoff.into(),
            leases: revoked.leases,
            drained: revoked.drained,
        }
    }
}

/// One record that ends everything matching a selector that was issued up to an instant.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Cutoff)]
pub struct CutoffAnswer {
    /// What it ends.
    #[schema(value_type = SelectorSchema)]
    pub selector: Selector,
    /// What was issued at or before this instant is ended.
    #[schema(value_type = String, format = DateTime)]
    pub up_to: Timestamp,
    /// When it was recorded.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Why.
    #[schema(schema_with = cause)]
    pub cause: Cause,
}

/// What a cutoff ends: everything of this kind with this id. The schema alone.
#[derive(ToSchema)]
#[schema(as = Selector)]
pub struct SelectorSchema {
    /// Of what kind.
    #[schema(schema_with = selector_kind)]
    pub kind: String,
    /// The id or the name; absent for `all`.
    pub id: Option<String>,
}

fn selector_kind() -> utoipa::openapi::schema::Object {
    super::one_of([
        "lease",
        "task",
        "agent",
        "tool",
        "user",
        "environment",
        "trust_domain",
        "all",
    ])
}

impl From<Cutoff> for CutoffAnswer {
    fn from(cutoff: Cutoff) -> Self {
        Self {
            selector: cutoff.selector,
            up_to: cutoff.up_to,
            at: cutoff.at,
            cause: cutoff.cause,
        }
    }
}

/// From where to follow the feed, and how long to wait for news.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Following {
    /// The `cursor` of the answer before; from the start of what is retained when absent.
    #[serde(default)]
    pub cursor: Option<String>,
    /// How long to wait for news, at most 30 seconds; not at all when absent. A stream does not look at it.
    #[serde(default)]
    #[param(schema_with = super::length, required = false)]
    pub wait: Wait,
}

/// A part of the feed.
#[derive(Debug, Serialize, ToSchema)]
pub struct Feed {
    /// The cutoffs. Some may come again; none goes missing while it is retained.
    pub cutoffs: Vec<CutoffAnswer>,
    /// Where to go on.
    pub cursor: String,
    /// More can be had at once.
    pub more: bool,
}

impl From<Changes> for Feed {
    fn from(changes: Changes) -> Self {
        let Changes { cutoffs, next, more } = changes;
        Self {
            cutoffs: cutoffs.into_iter().map(CutoffAnswer::from).collect(),
            cursor: Cursor::to_string(&next),
            more,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_of_ones_own_unless_it_says_otherwise() {
        let own: AgentName = "support-bot".parse().unwrap();
        let of = |agent: Option<&str>| {
            let agent = agent.map(|agent| agent.to_owned().try_into().unwrap());
            let which = WhichLeases {
                agent,
                ..WhichLeases::default()
            };
            which.filter(&own).0.agent
        };
        assert_eq!(of(None), Some(own.clone()));
        assert_eq!(of(Some("other")), Some("other".parse().unwrap()));
        assert_eq!(of(Some("*")), None);
        assert!(WhichAgent::try_from("Support Bot".to_owned()).is_err());
    }

    #[test]
    fn a_page_is_never_longer_than_the_ledger_gives() {
        let own: AgentName = "a".parse().unwrap();
        let limit = |limit| {
            let which = WhichLeases {
                limit: NonZeroUsize::new(limit),
                ..WhichLeases::default()
            };
            which.filter(&own).1.limit.get()
        };
        assert_eq!((limit(0), limit(7), limit(10_000)), (100, 7, 500));
    }

    #[test]
    fn selectors_are_written_as_their_schema_says() {
        let json = serde_json::to_value(Selector::All).unwrap();
        assert_eq!(json, serde_json::json!({"kind": "all"}));
        let json = serde_json::to_value(Selector::Agent("a".parse().unwrap())).unwrap();
        assert_eq!(json, serde_json::json!({"kind": "agent", "id": "a"}));
    }
}
