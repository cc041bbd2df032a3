//! Policy: an access request becomes a **permit** or a **denial**, with grounds.
//!
//! Deciding is synchronous and total: it can do no I/O, and it has no error that a caller could wave
//! through. A fault is a denial. The one door to a [`permit::Permit`] is [`permit::Permit::obtain`].

pub mod affected;
pub mod cases;
pub mod cedar;
pub mod chain;
pub mod explain;
pub mod permit;
pub mod problem;
pub mod schema;

mod annotations;
mod entities;
mod index;
mod live;
mod load;
mod prepared;
mod reads;
#[cfg(test)]
mod samples;
pub mod shadow;

use std::sync::Arc;

use crate::model::access::Access;
use crate::model::agent::Agent;
use crate::model::attestation::EvidenceKind;
use crate::model::decision::Decision;
use crate::model::fact::Facts;
use crate::model::ids::TaskId;
use crate::model::name::{Purpose, UserId};
use crate::model::spiffe::TrustDomain;
use crate::model::task::{Charter, Delegator};
use crate::model::time::Timestamp;
use crate::model::tool::Tool;
use crate::model::ttl::Ttl;
use crate::registry::Caller;

use affected::Outline;
use chain::Link;

/// Who asks, for which access to which tool, and in which circumstances.
#[derive(Clone, Debug)]
pub struct AccessRequest {
    /// Who asks.
    pub caller: Caller,
    /// The tool, from the catalogue of the same revision that decides.
    pub tool: Arc<Tool>,
    /// What is asked for. Each action on each resource has to be permitted.
    pub access: Access,
    /// The task it is for; none for what callers do on Dayfly itself.
    pub task: Option<TaskContext>,
    /// The chain of a sub-task, nearest first: each of these has to be permitted the same.
    pub chain: Vec<Link>,
    /// The life that is asked for.
    pub ttl: Option<Ttl>,
    /// What is known besides: about the agent, the tool, the user, the task and the environment.
    pub facts: Facts,
    /// When.
    pub at: Timestamp,
}

/// What policies may know about a task.
#[derive(Clone, Debug)]
pub struct TaskContext {
    /// Its id.
    pub id: TaskId,
    /// Why it exists.
    pub purpose: Purpose,
    /// On whose behalf it runs.
    pub on_behalf_of: Option<UserId>,
    /// The chain of a sub-task: who handed it on, nearest first.
    pub delegators: Vec<Delegator>,
    /// When it was opened.
    pub opened_at: Timestamp,
}

impl TaskContext {
    /// What policies may know about this task.
    pub fn of(charter: &Charter) -> Self {
        Self {
            id: charter.id,
            purpose: charter.purpose.clone(),
            on_behalf_of: charter.on_behalf_of.clone(),
            delegators: charter.delegators.clone(),
            opened_at: charter.opened_at,
        }
    }
}

/// How the agent's workload was proven, as far as policies may know.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Attested<'a> {
    /// By which kind of evidence.
    pub kind: EvidenceKind,
    /// By which trust domain, where there was one.
    pub trust_domain: Option<&'a TrustDomain>,
}

/// An access request without the proof behind it: what policies are asked. Anybody can make one up, so that
/// tests and `policy explain` can ask "what if"; nothing is issued on the answer.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Who would ask.
    pub agent: &'a Agent,
    /// How that would be proven.
    pub attested: Attested<'a>,
    /// The tool that `access` names.
    pub tool: &'a Tool,
    /// What would be asked for.
    pub access: &'a Access,
    /// The task it would be for.
    pub task: Option<&'a TaskContext>,
    /// The life that would be asked for.
    pub ttl: Option<Ttl>,
    /// What would be known besides.
    pub facts: &'a Facts,
    /// When.
    pub at: Timestamp,
}

impl AccessRequest {
    /// What policies are asked about this request.
    pub fn question(&self) -> Question<'_> {
        let attestation = self.caller.workload().attestation();
        Question {
            agent: self.caller.agent(),
            attested: Attested {
                kind: attestation.kind,
                trust_domain: attestation.trust_domain.as_ref(),
            },
            tool: &self.tool,
            access: &self.access,
            task: self.task.as_ref(),
            ttl: self.ttl,
            facts: &self.facts,
            at: self.at,
        }
    }
}

/// Decides.
pub trait PolicyEngine: Send + Sync + 'static {
    /// Permit or denial. A fault anywhere is a denial that names it. For a sub-task everybody above it in the
    /// chain is asked too ([`chain::answer`]).
    fn decide(&self, request: &AccessRequest) -> Decision {
        chain::answer(self, &request.question(), &request.chain)
    }

    /// The same without a proof that somebody asks. What was permitted before is asked again this way;
    /// nothing is issued on the answer.
    fn answer(&self, question: &Question<'_>) -> Decision;

    /// The policies that decide, to be compared with those of another engine; none where it cannot tell.
    fn outline(&self) -> Option<Outline<'_>> {
        None
    }
}
