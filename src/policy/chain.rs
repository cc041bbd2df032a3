//! Work that was handed on: an agent gets for a sub-task what it may get, and what everybody above it in the
//! chain may get too. Nobody hands on what it could not have itself, so the agent with more rights is of no
//! more use to the one with less than it is by itself.

use std::sync::Arc;

use super::{Attested, PolicyEngine, Question, TaskContext};
use crate::model::agent::Agent;
use crate::model::attestation::EvidenceKind;
use crate::model::decision::{Decision, Grounds};
use crate::model::spiffe::TrustDomain;
use crate::model::ttl::Ttl;

/// The most facts that grounds name.
const MOST_USED: usize = 16;

/// One agent above, as it would ask for itself in its own task.
#[derive(Clone, Debug)]
pub struct Link {
    /// The agent, from the registry of the same revision that decides.
    pub agent: Arc<Agent>,
    /// How it was proven when it handed the work on: the kind of evidence.
    pub kind: EvidenceKind,
    /// The trust domain that vouched for it then, where there was one.
    pub trust_domain: Option<TrustDomain>,
    /// Its task.
    pub task: TaskContext,
}

impl Link {
    fn question<'a>(&'a self, asked: &Question<'a>) -> Question<'a> {
        Question {
            agent: &self.agent,
            attested: Attested {
                kind: self.kind,
                trust_domain: self.trust_domain.as_ref(),
            },
            task: Some(&self.task),
            ..*asked
        }
    }
}

/// The shortest of the lives that the registry leaves those above.
pub fn ceiling(chain: &[Link]) -> Option<Ttl> {
    chain.iter().filter_map(|link| link.agent.ceilings.ttl).min()
}

/// Asks about the agent itself, and then about each above. The first denial is the answer; of all permits the
/// most restrictive terms hold.
pub fn answer<E: PolicyEngine + ?Sized>(engine: &E, asked: &Question<'_>, chain: &[Link]) -> Decision {
    let mut decision = engine.answer(asked);
    for link in chain {
        decision = match decision {
            Decision::Deny { .. } => return decision,
            permit @ Decision::Permit { .. } => both(permit, engine.answer(&link.question(asked)), link),
        };
    }
    decision
}

/// What two permits come to, or the denial.
fn both(permit: Decision, above: Decision, link: &Link) -> Decision {
    let name = &link.agent.name;
    let (mut grounds, mut obligations, theirs, terms) = match (permit, above) {
        (
            Decision::Permit { grounds, obligations },
            Decision::Permit {
                grounds: theirs,
                obligations: terms,
            },
        ) => (grounds, obligations, theirs, terms),
        (_, Decision::Deny { grounds, reason }) => {
            let reason = format!("`{name}`, which handed this on, is not permitted it: {reason}");
            return Decision::Deny { grounds, reason };
        }
        (denied @ Decision::Deny { .. }, _) => return denied,
    };
    grounds = merged(grounds, theirs);
    obligations.max_ttl = [obligations.max_ttl, terms.max_ttl].into_iter().flatten().min();
    obligations.approval = match (obligations.approval, terms.approval) {
        (Some(one), Some(other)) if one != other => {
            let reason = format!("this needs the approvals of `{one}` and `{other}`");
            return Decision::Deny { grounds, reason };
        }
        (one, other) => one.or(other),
    };
    Decision::Permit { grounds, obligations }
}

fn merged(mut grounds: Grounds, theirs: Grounds) -> Grounds {
    grounds.policies.extend(theirs.policies);
    grounds.policies.sort();
    grounds.policies.dedup();
    for fact in theirs.facts {
        if grounds.facts.len() < MOST_USED && !grounds.facts.contains(&fact) {
            let mut facts = grounds.facts.into_vec();
            facts.push(fact);
            grounds.facts = facts.into();
        }
    }
    grounds.shadow = grounds.shadow.or(theirs.shadow);
    grounds
}

#[cfg(test)]
mod tests {
    use super::super::samples::{self, Asked, engine};
    use super::*;

    /// What is said to an agent in a task that another handed on.
    fn handed_on(policies: &str, from: &str, to: &str) -> Decision {
        let registry = samples::registry();
        let mut asked = Asked::new(&registry, to, "crm:read", &["customers/42"]);
        let above = asked.task.clone();
        asked.hand_on(&[from]);
        let link = Link {
            agent: registry.agent(&from.parse().unwrap()).unwrap().clone(),
            kind: EvidenceKind::JwtSvid,
            trust_domain: Some(asked.domain.clone()),
            task: above,
        };
        answer(&engine(&registry, policies), &asked.question(), &[link])
    }

    const READ: &str = r#"action == Action::"crm:read", resource"#;

    #[test]
    fn nobody_gets_for_another_what_that_one_could_not_have() {
        let one = format!(r#"@id("one") permit (principal == Agent::"support-bot", {READ});"#);
        let other = format!(r#"@id("other") permit (principal == Agent::"report-bot", {READ});"#);
        let Decision::Deny { reason, .. } = handed_on(&one, "report-bot", "support-bot") else {
            panic!("a confused deputy")
        };
        assert_eq!(
            reason,
            "`report-bot`, which handed this on, is not permitted it: no policy permits this"
        );
        let Decision::Deny { reason, .. } = handed_on(&other, "report-bot", "support-bot") else {
            panic!("nobody permits it to the agent itself")
        };
        assert_eq!(reason, "no policy permits this");
        let Decision::Permit { grounds, .. } = handed_on(&(one + &other), "report-bot", "support-bot") else {
            panic!("both may")
        };
        let policies: Vec<&str> = grounds.policies.iter().map(|id| &*id.0).collect();
        assert_eq!(policies, ["one", "other"]);
    }

    #[test]
    fn of_all_terms_the_most_restrictive_hold() {
        let terms = |agent: &str, terms: &str| {
            format!(r#"@id("{agent}") {terms} permit (principal == Agent::"{agent}", {READ});"#)
        };
        let both = terms("support-bot", r#"@max_ttl("10m") @approval("support-lead")"#)
            + &terms("report-bot", r#"@max_ttl("2m")"#);
        for (from, to) in [("support-bot", "report-bot"), ("report-bot", "support-bot")] {
            let Decision::Permit { obligations, .. } = handed_on(&both, from, to) else {
                panic!("both may")
            };
            assert_eq!(obligations.max_ttl, Ttl::from_secs(120));
            assert_eq!(obligations.approval, Some("support-lead".parse().unwrap()));
        }
        let apart = both.replace(r#"@max_ttl("2m")"#, r#"@approval("finance")"#);
        let decision = handed_on(&apart, "support-bot", "report-bot");
        assert!(matches!(decision, Decision::Deny { .. }), "{decision:?}");
    }

    #[test]
    fn policies_know_how_deep_a_task_is_and_who_handed_it_on() {
        let everybody = format!("permit (principal, {READ});");
        let when = |condition: &str| {
            format!(
                r#"{everybody} @id("deep") @reason("deep") forbid (principal, {READ}) when {{ {condition} }};"#
            )
        };
        for (condition, denied) in [
            ("context.task_depth > 0", true),
            ("context.task_depth > 1", false),
            (r#"context.delegated_by.contains(Agent::"report-bot")"#, true),
            (r#"context.delegated_by.contains(Agent::"support-bot")"#, false),
        ] {
            let decision = handed_on(&when(condition), "report-bot", "support-bot");
            let said = match decision {
                Decision::Deny { reason, .. } => reason,
                Decision::Permit { .. } => String::new(),
            };
            assert_eq!(said, if denied { "deep" } else { "" }, "{condition}");
        }
    }
}
