//! Why a question is answered as it is: every policy whose head fits, what it said, and on which terms.

use std::fmt;

use cedar_policy::PolicySet;
use serde::Serialize;

use crate::model::decision::{Decision, FactUsed, Obligations, PolicyId};

use super::cedar::{CedarEngine, Verdict, effect_word};
use super::entities::Unfit;
use super::problem::Position;
use super::reads::View;
use super::{PolicyEngine as _, Question};

/// Why a decision is as it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Explanation {
    /// The decision, with its grounds and obligations.
    pub decision: Decision,
    /// What was said about each action on each resource.
    pub parts: Vec<Part>,
}

/// What was said about one action on one resource.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Part {
    /// Such as `crm:read`.
    pub action: String,
    /// Such as `crm/customers/42`, or `crm` for the tool as a whole.
    pub resource: String,
    /// Whether this part alone would be permitted.
    pub permitted: bool,
    /// The policies whose head fits, in the order of the text.
    pub findings: Vec<Finding>,
}

/// What one policy said.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// Which policy.
    pub policy: PolicyId,
    /// Where it stands.
    pub at: Position,
    /// `permit`, `forbid`, or `terms` for a permit that only sets terms.
    pub effect: &'static str,
    /// What came of it.
    pub outcome: Outcome,
    /// The facts in force that it looks at, 16 at most.
    #[serde(skip_serializing_if = "<[FactUsed]>::is_empty")]
    pub facts: Box<[FactUsed]>,
    /// `@max_ttl`, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_ttl: Option<String>,
    /// `@approval`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approval: Option<String>,
    /// `@reason`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What came of a policy whose head fits.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It matched, so it counts.
    Matched,
    /// Its conditions did not hold. For a permit: a near miss.
    ConditionFalse,
    /// It could not be evaluated, which denies the whole.
    Fault(String),
}

impl CedarEngine {
    /// Answers a question and says why. Slower than [`PolicyEngine::answer`](super::PolicyEngine::answer): each policy is asked alone.
    pub fn explain(&self, question: &Question<'_>) -> Explanation {
        let decision = self.answer(question);
        // Where no part can be asked about, the decision says why.
        let parts = self.parts(question).unwrap_or_default();
        Explanation { decision, parts }
    }

    fn parts(&self, question: &Question<'_>) -> Result<Vec<Part>, Unfit> {
        let prepared = self.prepare(question)?;
        let mut parts = Vec::new();
        for (action, resource) in prepared.pairs() {
            let request = prepared.request(action, resource, View::WHOLE)?;
            let entities = self.entities(&prepared, action, resource, true)?;
            let mut numbers = self.matching(&prepared, action, None);
            for path in self.index.paths(&resource.name) {
                numbers.extend(self.matching(&prepared, action, Some(path)));
            }
            let mut whole = Verdict::default();
            let mut findings = Vec::new();
            for (number, loaded) in numbers.iter().filter_map(|n| Some((n, self.policies.get(*n)?))) {
                let mut verdict = Verdict::default();
                let alone =
                    PolicySet::from_policies([loaded.policy.clone()]).map_err(|e| Unfit(e.to_string()))?;
                let fault = self.judge(&request, &alone, &entities, &mut verdict);
                let outcome = if let Some(fault) = fault {
                    Outcome::Fault(fault)
                } else if [&verdict.permits, &verdict.terms, &verdict.forbids]
                    .iter()
                    .any(|said| said.contains(number))
                {
                    Outcome::Matched
                } else {
                    Outcome::ConditionFalse
                };
                whole.add(&verdict);
                let Obligations { max_ttl, approval } = &loaded.terms.obligations;
                findings.push(Finding {
                    policy: loaded.id.clone(),
                    at: loaded.at.clone(),
                    effect: if loaded.terms.only {
                        "terms"
                    } else {
                        effect_word(loaded.effect)
                    },
                    outcome,
                    facts: prepared.live.used(&loaded.reads.facts),
                    max_ttl: max_ttl.map(|ttl| ttl.to_string()),
                    approval: approval.as_ref().map(ToString::to_string),
                    reason: loaded.terms.reason.clone(),
                });
            }
            parts.push(Part {
                action: action.name.to_string(),
                resource: resource.name.to_string(),
                permitted: whole.permitted(),
                findings,
            });
        }
        Ok(parts)
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.decision {
            Decision::Permit { obligations, .. } => {
                f.write_str("permit")?;
                if let Some(ttl) = obligations.max_ttl {
                    write!(f, ", for {ttl} at most")?;
                }
                if let Some(role) = &obligations.approval {
                    write!(f, ", once `{role}` approved")?;
                }
            }
            Decision::Deny { reason, .. } => write!(f, "deny: {reason}")?,
        }
        for part in &self.parts {
            let word = if part.permitted { "permit" } else { "deny" };
            write!(f, "\n{} on {}: {word}", part.action, part.resource)?;
            if part.findings.is_empty() {
                f.write_str("\n  no policy is about this")?;
            }
            for finding in &part.findings {
                write!(f, "\n  {finding}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Matched => f.write_str("matched"),
            Self::ConditionFalse => f.write_str("its conditions do not hold"),
            Self::Fault(why) => write!(f, "could not be evaluated: {why}"),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            effect, policy, at, ..
        } = self;
        write!(f, "{effect} {policy} ({at}): {}", self.outcome)?;
        for (place, fact) in self.facts.iter().enumerate() {
            write!(f, "{} {fact}", if place == 0 { "; it looked at" } else { "," })?;
        }
        for (name, value) in [
            ("max_ttl", &self.max_ttl),
            ("approval", &self.approval),
            ("reason", &self.reason),
        ] {
            if let (Some(value), Outcome::Matched) = (value, &self.outcome) {
                write!(f, " @{name}({value:?})")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{self, Asked};

    const POLICIES: &str = r#"@id("day") @max_ttl("5m")
permit(principal in Role::"support", action, resource in Tool::"crm") when { context.requested_ttl <= 300 };
@id("vip") @reason("people handle this one") forbid(principal, action, resource in Resource::"crm/customers/7");
@id("sum") forbid(principal, action == Action::"crm:comment", resource)
when { context.requested_ttl * 9223372036854775807 > 0 };
@id("other") permit(principal in Role::"reporting", action, resource);"#;

    fn explain(what: &str, paths: &[&str], ttl: &str) -> String {
        let registry = samples::registry();
        let mut asked = Asked::new(&registry, "support-bot", what, paths);
        asked.ttl = Some(ttl.parse().unwrap());
        samples::engine(&registry, POLICIES)
            .explain(&asked.question())
            .to_string()
    }

    #[test]
    fn names_each_policy_whose_head_fits_and_what_it_said() {
        assert_eq!(
            explain("crm:read", &["customers/42", "customers/7"], "5m"),
            "deny: people handle this one\n\
             crm:read on crm/customers/42: permit\n\
             \u{20} permit day (a.cedar:1:1): matched @max_ttl(\"5m\")\n\
             crm:read on crm/customers/7: deny\n\
             \u{20} permit day (a.cedar:1:1): matched @max_ttl(\"5m\")\n\
             \u{20} forbid vip (a.cedar:3:1): matched @reason(\"people handle this one\")"
        );
    }

    #[test]
    fn shows_near_misses_and_faults() {
        let near = explain("crm:read", &[], "6m");
        assert!(
            near.contains("permit day (a.cedar:1:1): its conditions do not hold"),
            "{near}"
        );
        let fault = explain("crm:comment", &[], "5m");
        assert!(
            fault.contains("forbid sum (a.cedar:4:1): could not be evaluated: integer overflow"),
            "{fault}"
        );
        assert!(fault.contains("crm:comment on crm: deny"), "{fault}");
        assert!(explain("crm:read", &[], "5m").starts_with("permit, for 5m at most\n"));
    }

    #[test]
    fn shows_the_facts_that_a_policy_looks_at() {
        let registry = samples::registry();
        let mut asked = Asked::new(&registry, "support-bot", "crm:read", &[]);
        asked.facts = samples::facts(&[
            ("agent/support-bot", "risk", "low"),
            ("agent/support-bot", "tier", "gold"),
        ]);
        let risky = r#"@id("risky") forbid(principal, action, resource)
            when { principal.hasTag("risk") && principal.getTag("risk") == "high" };"#;
        let explanation = samples::engine(&registry, risky).explain(&asked.question());
        assert!(
            explanation.to_string().ends_with(
                "forbid risky (a.cedar:1:1): its conditions do not hold; it looked at agent/support-bot risk=low"
            ),
            "{explanation}"
        );
    }

    #[test]
    fn says_when_no_policy_is_about_it() {
        let registry = samples::registry();
        let asked = Asked::new(&registry, "ops-console", "reports:read", &[]);
        let explanation = samples::engine(&registry, POLICIES).explain(&asked.question());
        assert!(
            explanation.to_string().ends_with("\n  no policy is about this"),
            "{explanation}"
        );
    }
}
