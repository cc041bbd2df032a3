//! What a live lease is worth today: the question of the day it was issued, put to the rules and facts of
//! now.

use std::sync::Arc;

use crate::model::access::Access;
use crate::model::agent::{Agent, Standing};
use crate::model::decision::{Decision, Grounds, Obligations};
use crate::model::fact::Facts;
use crate::model::lease::{Cause, Lease, Vouched};
use crate::model::name::Role;
use crate::model::task::Charter;
use crate::model::time::Timestamp;
use crate::model::tool::Tool;
use crate::policy::chain::{self as policy_chain, Link};
use crate::policy::{Attested, Question, TaskContext};
use crate::provider::Providers;

use super::super::Broker;
use super::super::bounds::Bounds;
use super::super::chain;
use super::super::error::BrokerError;
use super::super::permission::NOT_FOR_THEM;
use super::super::rules::Ruleset;

/// What becomes of a live lease that is decided anew.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Today {
    /// It would be issued today as it was.
    Stands,
    /// It would be issued for less time: under today's rules it ends at this instant.
    Less(Timestamp, Why),
    /// It would not be issued.
    Over(Cause, Why),
    /// It would be issued once somebody in this role approved.
    Waits(Role, Why),
}

/// Why, for the record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Why {
    /// What policy said. Nothing was asked of it where the registry alone decides.
    pub(crate) grounds: Grounds,
    /// In words.
    pub(crate) reason: String,
}

/// The lease and all that it is held against.
struct Held<'a> {
    rules: &'a Ruleset,
    facts: &'a Facts,
    providers: &'a Providers,
    charter: &'a Charter,
    /// The charters of the tasks above.
    above: &'a [Arc<Charter>],
    lease: &'a Lease,
    /// Whether credentials end with the evidence that they were issued on.
    bound_to_evidence: bool,
    now: Timestamp,
}

impl Broker {
    /// What becomes of a lease by these rules and the facts in force.
    pub(in super::super) async fn today(
        &self,
        rules: &Ruleset,
        lease: &Lease,
        now: Timestamp,
    ) -> Result<Today, BrokerError> {
        let charter = self.charter(lease.task).await?;
        let above = self.above(&charter).await?;
        let held = Held {
            rules,
            facts: &self.facts(),
            providers: &self.parts.providers,
            charter: &charter,
            above: &above,
            lease,
            bound_to_evidence: self.parts.settings.bind_to_attestation,
            now,
        };
        Ok(held.decide())
    }
}

impl Held<'_> {
    /// Decides anew. A fault anywhere is an end that names it, like any other denial.
    fn decide(&self) -> Today {
        let Self {
            rules,
            facts,
            charter,
            lease,
            now,
            ..
        } = *self;
        let over = |cause, reason: &str| Today::Over(cause, self.why(reason));
        let Some(agent) = rules.registry.agent(&lease.agent) else {
            return over(Cause::AgentUnregistered, "the agent is not registered any more");
        };
        if let Err(standing) = agent.standing(now) {
            return over(cause_of(standing), &standing.to_string());
        }
        if lease
            .on_behalf_of
            .as_ref()
            .is_some_and(|user| !agent.may_act_for(user))
        {
            return over(Cause::NotPermitted, NOT_FOR_THEM);
        }
        let Some(tool) = rules.registry.tool(&lease.tool) else {
            return over(Cause::ToolRemoved, "the tool is not catalogued any more");
        };
        if !lease
            .actions
            .iter()
            .all(|action| tool.actions.contains_key(action))
        {
            return over(
                Cause::ToolRemoved,
                "the tool does not have these actions any more",
            );
        }
        let Some(vouched) = lease.vouched else {
            return over(Cause::NotPermitted, "nothing is known of what stood behind it");
        };
        let Ok(access) = Access::new(lease.tool.clone(), lease.actions.clone(), lease.resources.clone())
        else {
            return over(
                Cause::NotPermitted,
                "what is written down is no access that can be put to policy",
            );
        };
        let links = match chain::links(&rules.registry, charter, self.above, now) {
            Ok(links) => links,
            Err(broken) => return over(broken.cause(), &broken.to_string()),
        };
        let task = TaskContext::of(charter);
        let question = Question {
            agent,
            attested: Attested {
                kind: vouched.kind,
                trust_domain: lease.trust_domain.as_ref(),
            },
            tool,
            access: &access,
            task: Some(&task),
            ttl: lease.requested,
            facts,
            at: now,
        };
        match policy_chain::answer(&*rules.engine, &question, &links) {
            Decision::Deny { grounds, reason } => Today::Over(Cause::NotPermitted, Why { grounds, reason }),
            Decision::Permit { grounds, obligations } => match &obligations.approval {
                Some(role) => {
                    let reason = format!("this needs the approval of `{role}` now");
                    Today::Waits(role.clone(), Why { grounds, reason })
                }
                None => self.shorter((agent, tool, vouched), &links, &obligations, grounds),
            },
        }
    }

    /// Whether the life that it would be given is over earlier. A life begins with the decision that gave it.
    fn shorter(
        &self,
        (agent, tool, vouched): (&Agent, &Tool, Vouched),
        links: &[Link],
        obligations: &Obligations,
        grounds: Grounds,
    ) -> Today {
        let lease = self.lease;
        let Ok(provider) = self.providers.get(&lease.provider) else {
            let reason = format!("its provider `{}` is not configured any more", lease.provider);
            return Today::Over(Cause::ToolRemoved, Why { grounds, reason });
        };
        let from = lease.decision.made_at();
        let bounds = Bounds {
            agent,
            above: policy_chain::ceiling(links),
            tool,
            obligations,
            promise: provider.promise(tool),
            asked: lease.requested,
            from,
            deadline: self.charter.deadline,
            evidence: self.bound_to_evidence.then_some(vouched.until),
        };
        let (until, reason) = match bounds.shortest() {
            Ok(bounded) => (
                from.plus(bounded.ttl.as_duration()),
                format!(
                    "it may live for {} now, bounded by {}",
                    bounded.ttl,
                    bounded.by.as_str()
                ),
            ),
            Err(reason) => (self.now, reason.to_owned()),
        };
        match until.plus(GRACE) < lease.ends_at() {
            true => Today::Less(until, Why { grounds, reason }),
            false => Today::Stands,
        }
    }

    fn why(&self, reason: &str) -> Why {
        Why {
            grounds: Grounds {
                policies: Vec::new(),
                faults: Box::default(),
                facts: Box::default(),
                revision: self.rules.revision.clone(),
                shadow: None,
            },
            reason: reason.to_owned(),
        }
    }
}

/// Providers may round the expiry that they were asked for up to a second, and decisions are a little older
/// than what they decide. That is no reason to touch a lease.
const GRACE: std::time::Duration = std::time::Duration::from_secs(5);

fn cause_of(standing: Standing) -> Cause {
    match standing {
        Standing::Unowned => Cause::AgentUnowned,
        Standing::Suspended => Cause::AgentSuspended,
        Standing::Retired => Cause::AgentRetired,
        Standing::ReviewOverdue => Cause::ReviewOverdue,
    }
}
