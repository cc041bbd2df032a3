//! Recorded decisions, put to other rules: what would be decided otherwise.
//!
//! A record says who asked for what, attested how, for which purpose and how long; the id of its task says
//! since when that was open. So the question of that day can be put again, as of that day.

use std::sync::Arc;

use crate::model::access::Access;
use crate::model::attestation::EvidenceKind;
use crate::model::decision::Decision;
use crate::model::fact::{Fact, Facts, FactsVersion};
use crate::model::name::AgentName;
use crate::model::task::Delegator;
use crate::model::tool::Tool;
use crate::model::ttl::{Bound, Bounded, Ttl};
use crate::policy::chain::{self, Link};
use crate::policy::{Attested, PolicyEngine, Question, TaskContext};
use crate::registry::Registry;

use super::record::{Record, Result as Outcome, Verb};

/// What other rules say to a recorded decision.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Replayed {
    /// The same.
    Same,
    /// It was denied and would be permitted.
    Widened,
    /// It was permitted and would be denied.
    Narrowed {
        /// Why.
        reason: String,
    },
    /// It would be permitted for longer.
    Longer {
        /// For how long it was.
        was: Ttl,
        /// For how long it would be.
        now: Ttl,
    },
    /// It would be permitted for less time.
    Shorter {
        /// For how long it was.
        was: Ttl,
        /// For how long it would be.
        now: Ttl,
    },
}

impl Replayed {
    /// Whether more would be given out than was.
    pub fn is_wider(&self) -> bool {
        matches!(self, Self::Widened | Self::Longer { .. })
    }
}

/// Puts a recorded decision to other rules. `None` where the record is not the decision of a credential.
pub fn replay(record: &Record, registry: &Registry, engine: &dyn PolicyEngine) -> Option<Replayed> {
    if !matches!(record.verb, Verb::Issue | Verb::Renew) {
        return None;
    }
    let permitted = match record.result {
        Outcome::Permitted => true,
        Outcome::Denied => false,
        Outcome::Failed => return None,
    };
    let now = decide(record, registry, engine);
    Some(match (permitted, now) {
        (true, Err(reason)) => Replayed::Narrowed { reason },
        (false, Ok(_)) => Replayed::Widened,
        (false, Err(_)) => Replayed::Same,
        (true, Ok(now)) => match (record.granted, record.bounded_by) {
            (Some(was), _) if now.ttl < was => Replayed::Shorter { was, now: now.ttl },
            (Some(was), Some(Bound::Policy | Bound::Agent | Bound::Tool | Bound::Default))
                if now.ttl > was =>
            {
                Replayed::Longer { was, now: now.ttl }
            }
            _ => Replayed::Same,
        },
    })
}

/// For how long it would be permitted, by rules alone: providers, deadlines and evidence stay as they were.
fn decide(record: &Record, registry: &Registry, engine: &dyn PolicyEngine) -> Result<Bounded, String> {
    let name: &AgentName = record.agent.as_ref().ok_or("the record names no agent")?;
    let agent = registry.agent(name).ok_or("the agent is not registered")?;
    agent
        .standing(record.at)
        .map_err(|standing| standing.to_string())?;
    let name = record.tool.as_ref().ok_or("the record names no tool")?;
    let tool: &Arc<Tool> = registry.tool(name).ok_or("the tool is not catalogued")?;
    if !record
        .actions
        .iter()
        .all(|action| tool.actions.contains_key(action))
    {
        return Err("the tool does not have these actions".into());
    }
    if record
        .on_behalf_of
        .as_ref()
        .is_some_and(|user| !agent.may_act_for(user))
    {
        return Err("the agent may not act on behalf of this user".into());
    }
    let access = Access::new(name.clone(), record.actions.clone(), record.resources.clone());
    let access = access.map_err(|invalid| invalid.to_string())?;
    let attested = record.attested.as_ref();
    let kind = attested.and_then(|attested| EvidenceKind::of(&attested.kind));
    let kind = kind.ok_or("the record does not say how the workload was attested")?;
    let domain = match kind {
        EvidenceKind::JwtSvid | EvidenceKind::X509Svid => {
            attested.and_then(|attested| attested.authority.parse().ok())
        }
        EvidenceKind::Kubernetes | EvidenceKind::Oidc => None,
    };
    // The ids of tasks further up are not on record, and no policy knows them.
    let parent = record.delegation.as_ref().map(|delegation| delegation.parent);
    let by = record
        .delegation
        .as_ref()
        .map_or(&[][..], |delegation| &delegation.by);
    let above = |by: &[AgentName]| -> Vec<Delegator> {
        let above = by.iter().zip(parent.iter().cycle());
        let above = above.map(|(agent, task)| Delegator {
            task: *task,
            agent: agent.clone(),
            kind,
            trust_domain: domain.clone(),
            key: None, // nothing of it is distrusted
            until: record.at,
        });
        above.collect()
    };
    let task = record
        .task
        .zip(record.purpose.as_ref())
        .and_then(|(id, purpose)| {
            Some(TaskContext {
                id,
                purpose: purpose.parse().ok()?,
                on_behalf_of: record.on_behalf_of.clone(),
                delegators: above(by),
                opened_at: id.made_at(),
            })
        });
    // Those above are asked as if they were in this task, proven as its agent was: that is what is on record.
    let mut chain = Vec::with_capacity(by.len());
    if let Some(task) = &task {
        for (place, name) in by.iter().enumerate() {
            let agent = registry
                .agent(name)
                .ok_or("an agent that handed this on is not registered")?;
            agent
                .standing(record.at)
                .map_err(|standing| standing.to_string())?;
            let delegators = above(by.get(place + 1..).unwrap_or_default());
            chain.push(Link {
                agent: agent.clone(),
                kind,
                trust_domain: domain.clone(),
                task: TaskContext {
                    delegators,
                    ..task.clone()
                },
            });
        }
    }
    let facts = facts(record);
    let question = Question {
        agent,
        attested: Attested {
            kind,
            trust_domain: domain.as_ref(),
        },
        tool,
        access: &access,
        task: task.as_ref(),
        ttl: record.requested,
        facts: &facts,
        at: record.at,
    };
    match chain::answer(engine, &question, &chain) {
        Decision::Deny { reason, .. } => Err(reason),
        Decision::Permit { obligations, .. } => match obligations.approval {
            Some(role) => Err(format!("this needs the approval of `{role}`")),
            None => {
                let start = match record.requested {
                    Some(ttl) => Bounded::new(ttl, Bound::Requested),
                    None => Bounded::new(tool.default_ttl, Bound::Default),
                };
                Ok(start
                    .at_most(obligations.max_ttl, Bound::Policy)
                    .at_most(agent.ceilings.ttl, Bound::Agent)
                    .at_most(chain::ceiling(&chain), Bound::Agent)
                    .at_most(Some(tool.max_ttl), Bound::Tool))
            }
        },
    }
}

/// The facts that the record names: those that the policies which decided looked at. What others would have
/// looked at is not on record.
fn facts(record: &Record) -> Facts {
    let stated = record.facts.iter().filter_map(|used| {
        let (about, name, value) = used.parts()?;
        Some(Fact {
            about,
            name,
            value: Some(value),
            source: "journal".parse().ok()?,
            at: record.at,
            expires_at: None,
        })
    });
    Facts::default().with(stated, FactsVersion::default())
}
