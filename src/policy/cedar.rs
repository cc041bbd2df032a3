//! The policy engine on Cedar.
//!
//! Each action of an access is asked about each of its resources; the access is permitted only if each of them
//! is, on the most restrictive terms of all permits that match. Cedar skips a policy that cannot be evaluated,
//! a `forbid` too; here one such policy is a denial that names it.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use cedar_policy::{AuthorizationError, Authorizer, Effect, Entities, PolicySet, Request, Schema};

use crate::model::decision::{Decision, Grounds, Obligations, PolicyId, Revision};
use crate::model::name::Role;
use crate::registry::Registry;

use super::affected::Outline;
use super::entities::{ActionEntity, Catalogue, ResourceEntity, Unfit};
use super::index::{AgentKey, HeadIndex, Heading, Kept, Presence, Slice, SliceKey};
use super::live::Live;
pub use super::load::PolicySource;
use super::load::{self, Loaded, index_of};
use super::prepared::Prepared;
use super::problem::{PolicyProblems, Position, Problem};
use super::reads::{Mentions, View};
use super::schema::{Names, schema};
use super::{PolicyEngine, Question};

/// What the agent is told when no forbid said anything else.
pub const NO_PERMIT: &str = "no policy permits this";
/// What the agent is told when a policy could not be evaluated.
pub const FAULT: &str =
    "a policy could not be evaluated, so this is denied: tell the people who keep the policies";

/// The most reasons that an agent is told at once.
const MOST_REASONS: usize = 4;
/// The most pairs of an agent, attested in one way, and an action whose entities are kept in one generation.
const MOST_STANDINGS: usize = 4096;
/// The most policies that the slices of one generation refer to.
const MOST_REFERENCES: usize = 32_768;
/// What policies can see of the context whose answer is kept.
const FIXED: View = View {
    time: false,
    parties: true,
};

/// A set of policies and the registry that they are about, as one revision. Immutable; a new revision is a new
/// engine.
pub struct CedarEngine {
    pub(super) policies: Vec<Loaded>,
    warnings: Vec<Problem>,
    pub(super) schema: Schema,
    pub(super) catalogue: Catalogue,
    pub(super) index: HeadIndex,
    /// The facts that some policy looks at.
    pub(super) mentions: Mentions,
    slices: Kept<SliceKey, Slice>,
    pub(super) standings: Kept<(AgentKey, Arc<str>), Entities>,
    authorizer: Authorizer,
    revision: Revision,
}

impl fmt::Debug for CedarEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CedarEngine")
            .field("policies", &self.policies.len())
            .field("revision", &self.revision)
            .finish_non_exhaustive()
    }
}

/// What the policies said about one action on one resource: their places in the set.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Verdict {
    pub(super) permits: BTreeSet<usize>,
    /// Permits that only set terms (`@terms_only`).
    pub(super) terms: BTreeSet<usize>,
    pub(super) forbids: BTreeSet<usize>,
    pub(super) faults: BTreeSet<usize>,
}

impl Verdict {
    pub(super) fn permitted(&self) -> bool {
        self.faults.is_empty() && self.forbids.is_empty() && !self.permits.is_empty()
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.permits.extend(&other.permits);
        self.terms.extend(&other.terms);
        self.forbids.extend(&other.forbids);
        self.faults.extend(&other.faults);
    }
}

impl CedarEngine {
    /// Checks the policies against the registry and makes them ready. Either all of them hold or none.
    pub fn load(
        sources: &[PolicySource],
        registry: &Registry,
        revision: Revision,
    ) -> Result<Self, PolicyProblems> {
        let schema = schema(registry);
        let (policies, warnings) = load::load(sources, &schema, &Names::of(registry))?;
        let catalogue = Catalogue::of(registry).map_err(|error| {
            let at = Position::of(&"registry".into(), "", 0);
            PolicyProblems(vec![Problem {
                at,
                message: error.to_string(),
                help: None,
            }])
        })?;
        Ok(Self {
            index: HeadIndex::of(&policies),
            mentions: Mentions::of(policies.iter().map(|loaded| &loaded.reads.facts)),
            policies,
            warnings,
            schema,
            catalogue,
            slices: Kept::new(MOST_REFERENCES),
            standings: Kept::new(MOST_STANDINGS),
            authorizer: Authorizer::new(),
            revision,
        })
    }

    /// What is odd in the policies but no reason to refuse them.
    pub fn warnings(&self) -> &[Problem] {
        &self.warnings
    }

    /// What is in force.
    pub fn revision(&self) -> &Revision {
        &self.revision
    }

    /// How many policies there are.
    pub fn policy_count(&self) -> usize {
        self.policies.len()
    }

    fn verdict(
        &self,
        prepared: &Prepared<'_>,
        action: &ActionEntity,
        resource: &ResourceEntity,
    ) -> Result<Verdict, Unfit> {
        let mut verdict = Verdict::default();
        let mut entities = [None, None];
        let paths = self.index.paths(&resource.name).map(Some);
        for path in std::iter::once(None).chain(paths) {
            let slice = self.slice(prepared, action, resource, path)?;
            verdict.add(&slice.fixed);
            let told = prepared.live.touches(&slice.mentions);
            if !told {
                verdict.add(&slice.untold);
            }
            let tagged = slice.tagged.as_ref().filter(|_| told);
            for (set, view) in [(slice.open.as_ref(), slice.view), (tagged, FIXED)] {
                let Some(set) = set else { continue };
                let [without, with] = &mut entities;
                let place = if told { with } else { without };
                let entities = match place {
                    Some(entities) => entities,
                    None => place.insert(self.entities(prepared, action, resource, told)?),
                };
                let request = prepared.request(action, resource, view)?;
                self.judge(&request, set, entities, &mut verdict);
            }
        }
        Ok(verdict)
    }

    /// Adds to a verdict what these policies say, and returns the words of the first fault.
    pub(super) fn judge(
        &self,
        request: &Request,
        set: &PolicySet,
        entities: &Entities,
        verdict: &mut Verdict,
    ) -> Option<String> {
        let response = self.authorizer.is_authorized(request, set, entities);
        let reasons = response.diagnostics().reason().filter_map(index_of);
        match response.decision() {
            cedar_policy::Decision::Allow => {
                let (terms, permits): (BTreeSet<_>, BTreeSet<_>) = reasons
                    .partition(|number| self.policies.get(*number).is_some_and(|loaded| loaded.terms.only));
                verdict.terms.extend(terms);
                verdict.permits.extend(permits);
            }
            cedar_policy::Decision::Deny => verdict.forbids.extend(reasons),
        }
        let faults = || {
            response
                .diagnostics()
                .errors()
                .map(|AuthorizationError::PolicyEvaluationError(error)| error)
        };
        verdict
            .faults
            .extend(faults().filter_map(|error| index_of(error.policy_id())));
        faults().next().map(|error| error.inner().to_string())
    }

    fn slice(
        &self,
        prepared: &Prepared<'_>,
        action: &ActionEntity,
        resource: &ResourceEntity,
        path: Option<&Arc<str>>,
    ) -> Result<Arc<Slice>, Unfit> {
        let make = || self.cut(prepared, action, resource, path.map(|path| &**path));
        match &prepared.key {
            Some(agent) => {
                let presence = Presence::of(&prepared.question);
                let key = (agent.clone(), action.name.clone(), path.cloned(), presence);
                self.slices.get(key, |slice| 1 + slice.policies, make)
            }
            None => make(),
        }
    }

    /// Makes a slice, and asks the policies that say the same each time.
    fn cut(
        &self,
        prepared: &Prepared<'_>,
        action: &ActionEntity,
        resource: &ResourceEntity,
        path: Option<&str>,
    ) -> Result<Arc<Slice>, Unfit> {
        let numbers = self.matching(prepared, action, path);
        let (open, same): (Vec<_>, Vec<_>) = self.loaded(&numbers).partition(|loaded| loaded.reads.request);
        let (tagged, fixed): (Vec<_>, Vec<_>) = same
            .into_iter()
            .partition(|loaded| !loaded.reads.facts.is_empty());
        let readers = open.iter().chain(&tagged).map(|loaded| &loaded.reads.facts);
        let mut slice = Slice {
            policies: numbers.len(),
            mentions: Mentions::of(readers),
            view: open
                .iter()
                .fold(View::default(), |view, loaded| view.and(loaded.reads.view)),
            open: set_of(&open)?,
            tagged: set_of(&tagged)?,
            ..Slice::default()
        };
        for (set, verdict) in [
            (set_of(&fixed)?.as_ref(), &mut slice.fixed),
            (slice.tagged.as_ref(), &mut slice.untold),
        ] {
            let Some(set) = set else { continue };
            let request = prepared.request(action, resource, FIXED)?;
            let entities = self.entities(prepared, action, resource, false)?;
            self.judge(&request, set, &entities, verdict);
        }
        Ok(Arc::new(slice))
    }

    pub(super) fn matching(
        &self,
        prepared: &Prepared<'_>,
        action: &ActionEntity,
        path: Option<&str>,
    ) -> BTreeSet<usize> {
        let agent = prepared.question.agent;
        let heading = Heading {
            agent: agent.name.as_str(),
            action: &action.name,
            group: action.effect.as_str(),
            tool: prepared.question.tool.name.as_str(),
            path,
        };
        self.index.matching(heading, agent.roles.iter().map(Role::as_str))
    }

    /// One decision out of what was said about each action and resource.
    pub(super) fn conclude(&self, verdicts: Result<Vec<Verdict>, Unfit>, live: &Live<'_>) -> Decision {
        let (verdicts, mut reason) = match verdicts {
            Ok(verdicts) => (verdicts, None),
            Err(Unfit(why)) => (Vec::new(), Some(why)),
        };
        let permitted = !verdicts.is_empty() && verdicts.iter().all(Verdict::permitted);
        let whole = verdicts.into_iter().reduce(|mut whole, verdict| {
            whole.add(&verdict);
            whole
        });
        let Verdict {
            mut permits,
            terms,
            forbids,
            faults,
        } = whole.unwrap_or_default();
        permits.extend(terms);
        let mut approvals = BTreeSet::new();
        if permitted {
            let mut max_ttl = None;
            for policy in self.loaded(&permits) {
                let terms = &policy.terms.obligations;
                max_ttl = [max_ttl, terms.max_ttl].into_iter().flatten().min();
                approvals.extend(&terms.approval);
            }
            if approvals.len() <= 1 {
                let approval = approvals.first().map(|role| Role::clone(role));
                return Decision::Permit {
                    grounds: self.grounds(&permits, &faults, live),
                    obligations: Obligations { max_ttl, approval },
                };
            }
            let roles: Vec<String> = approvals.iter().map(|role| format!("`{role}`")).collect();
            reason = Some(format!(
                "this needs the approvals of {}: ask for one action at a time",
                roles.join(" and ")
            ));
        }
        let decided = if permitted { &permits } else { &forbids };
        let said: BTreeSet<&str> = self
            .loaded(&forbids)
            .filter_map(|policy| policy.terms.reason.as_deref())
            .collect();
        let reason = match reason {
            Some(reason) => reason,
            None if !said.is_empty() => said.into_iter().take(MOST_REASONS).collect::<Vec<_>>().join("; "),
            None if !faults.is_empty() => FAULT.to_owned(),
            None => NO_PERMIT.to_owned(),
        };
        Decision::Deny {
            grounds: self.grounds(decided, &faults, live),
            reason,
        }
    }

    fn loaded<'a>(&'a self, numbers: &'a BTreeSet<usize>) -> impl Iterator<Item = &'a Loaded> {
        numbers.iter().filter_map(|number| self.policies.get(*number))
    }

    fn grounds(&self, policies: &BTreeSet<usize>, faults: &BTreeSet<usize>, live: &Live<'_>) -> Grounds {
        let ids = |numbers| {
            let mut ids: Vec<PolicyId> = self.loaded(numbers).map(|policy| policy.id.clone()).collect();
            ids.sort();
            ids
        };
        Grounds {
            policies: ids(policies),
            faults: ids(faults).into(),
            facts: if live.is_empty() {
                Box::default()
            } else {
                let decided = self.loaded(policies).chain(self.loaded(faults));
                live.used(&Mentions::of(decided.map(|loaded| &loaded.reads.facts)))
            },
            revision: self.revision.clone(),
            shadow: None,
        }
    }

    /// Every policy as one set.
    pub(super) fn whole(&self) -> Result<PolicySet, Unfit> {
        let policies = self.policies.iter().map(|loaded| loaded.policy.clone());
        PolicySet::from_policies(policies).map_err(|error| Unfit(error.to_string()))
    }
}

fn set_of(policies: &[&Loaded]) -> Result<Option<PolicySet>, Unfit> {
    if policies.is_empty() {
        return Ok(None);
    }
    let policies = policies.iter().map(|loaded| loaded.policy.clone());
    let set = PolicySet::from_policies(policies).map_err(|error| Unfit(error.to_string()))?;
    Ok(Some(set))
}

impl PolicyEngine for CedarEngine {
    fn answer(&self, question: &Question<'_>) -> Decision {
        match self.prepare(question) {
            Ok(prepared) => {
                let pairs = prepared.pairs();
                let verdicts = pairs.map(|(action, resource)| self.verdict(&prepared, action, resource));
                self.conclude(verdicts.collect(), &prepared.live)
            }
            Err(unfit) => self.conclude(Err(unfit), &Live::default()),
        }
    }

    fn outline(&self) -> Option<Outline<'_>> {
        Some(Outline::of(&self.policies))
    }
}

/// Whether a policy permits or forbids, as a word.
pub(super) fn effect_word(effect: Effect) -> &'static str {
    match effect {
        Effect::Permit => "permit",
        Effect::Forbid => "forbid",
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::samples::{self, Asked, engine};
    use super::*;

    fn decide(text: &str, agent: &str, what: &str, paths: &[&str]) -> Decision {
        let registry = samples::registry();
        let asked = Asked::new(&registry, agent, what, paths);
        engine(&registry, text).answer(&asked.question())
    }

    fn denial(decision: Decision) -> (Grounds, String) {
        match decision {
            Decision::Deny { grounds, reason } => (grounds, reason),
            Decision::Permit { .. } => panic!("permitted"),
        }
    }

    fn ids(policies: &[PolicyId]) -> Vec<&str> {
        policies.iter().map(|id| &*id.0).collect()
    }

    const SUPPORT: &str = r#"
        @id("read") @max_ttl("10m") permit(principal in Role::"support", action == Action::"crm:read", resource);
        @id("all") @max_ttl("5m") @approval("lead")
        permit(principal == Agent::"support-bot", action in [Action::"write"], resource in Tool::"crm");
        @id("vip") @reason("customer 7 is handled by people")
        forbid(principal, action, resource in Resource::"crm/customers/7");
    "#;

    #[test]
    fn without_a_permit_everything_is_denied() {
        let (grounds, reason) = denial(decide("", "support-bot", "crm:read", &[]));
        assert!(grounds.policies.is_empty() && grounds.faults.is_empty());
        assert_eq!(reason, NO_PERMIT);
    }

    #[test]
    fn the_most_restrictive_terms_of_all_actions_hold() {
        let decision = decide(SUPPORT, "support-bot", "crm:read,comment", &["customers/42"]);
        let Decision::Permit { grounds, obligations } = decision else {
            panic!("{decision:?}")
        };
        assert_eq!(ids(&grounds.policies), ["all", "read"]);
        assert_eq!(obligations.max_ttl, Some("5m".parse().unwrap()));
        assert_eq!(obligations.approval, Some("lead".parse().unwrap()));
        let decision = decide(SUPPORT, "support-bot", "crm:read", &[]);
        let Decision::Permit { obligations, .. } = decision else {
            panic!("{decision:?}")
        };
        assert_eq!(
            obligations,
            Obligations {
                max_ttl: Some("10m".parse().unwrap()),
                approval: None
            }
        );
    }

    #[test]
    fn one_action_or_resource_that_is_not_permitted_denies_the_whole() {
        let (grounds, reason) = denial(decide(
            SUPPORT,
            "support-bot",
            "crm:read,delete",
            &["customers/42"],
        ));
        assert!(grounds.policies.is_empty());
        assert_eq!(reason, NO_PERMIT);
        let paths = ["customers/42", "customers/7/notes"];
        let (grounds, reason) = denial(decide(SUPPORT, "support-bot", "crm:read", &paths));
        assert_eq!(ids(&grounds.policies), ["vip"]);
        assert_eq!(reason, "customer 7 is handled by people");
        assert!(matches!(
            decide(SUPPORT, "support-bot", "crm:read", &["customers/77"]),
            Decision::Permit { .. }
        ));
    }

    #[test]
    fn a_policy_that_cannot_be_evaluated_denies_and_is_named() {
        for effect in ["permit", "forbid"] {
            let text = format!(
                r#"@id("ok") permit(principal, action, resource);
                   @id("broken") {effect}(principal, action, resource)
                   when {{ context.requested_ttl * 9223372036854775807 > 0 }};"#
            );
            let (grounds, reason) = denial(decide(&text, "support-bot", "crm:read", &[]));
            assert_eq!(ids(&grounds.faults), ["broken"], "{effect}");
            assert!(grounds.policies.is_empty());
            assert_eq!(reason, FAULT);
        }
    }

    #[test]
    fn approvals_of_two_roles_cannot_be_given_at_once() {
        let text = r#"
            @id("a") @approval("lead") permit(principal, action == Action::"crm:read", resource);
            @id("b") @approval("oncall") permit(principal, action == Action::"crm:delete", resource);"#;
        let (grounds, reason) = denial(decide(text, "support-bot", "crm:read,delete", &[]));
        assert_eq!(ids(&grounds.policies), ["a", "b"]);
        assert!(reason.contains("`lead` and `oncall`"), "{reason}");
    }

    #[test]
    fn an_action_that_the_tool_lacks_looks_like_one_that_nobody_permits() {
        let text = "permit(principal, action, resource);";
        let (grounds, reason) = denial(decide(text, "support-bot", "crm:explode", &[]));
        assert!(grounds.policies.is_empty());
        assert_eq!(reason, NO_PERMIT);
    }

    #[test]
    fn policies_see_everything_that_the_schema_promises() {
        let registry = samples::registry();
        let text = r#"permit(principal, action, resource) when {
            principal.owner == "team" && principal.environment == "production" && principal.autonomy == 3
            && principal.zone == "eu" && principal.attestation == "jwt_svid"
            && principal has trust_domain && principal.trust_domain == "prod.example.org"
            && principal.hasTag("risk") && principal.getTag("risk") == "low"
            && resource.path == "customers/42" && resource.tool == Tool::"crm" && resource.tool.owner == "team"
            && resource.tool.environment == "production" && resource.tool.zone == "eu"
            && resource.tool.risk == "medium" && resource.tool.risk_rank == 1
            && resource.tool.sensitivity == "confidential" && resource.tool.sensitivity_rank == 2
            && !resource.tool.hasTag("incident") && resource in Resource::"crm" && resource in Resource::"crm/customers"
            && context.has_task && context.purpose == "answer a ticket" && context.on_behalf_of == "u-1"
            && context.task_age == 0 && context.requested_ttl == 300 && !context.crosses_zone
            && context has user && context.user == User::"u-1" && !context.user.hasTag("risk")
            && context has task && context.environment == Environment::"production"
            && context.time == datetime("2026-11-22T06:30:00.250Z") };"#
            .replace("context.on_behalf_of ==", "context has on_behalf_of && context.on_behalf_of ==");
        let mut asked = Asked::new(&registry, "support-bot", "crm:read", &["customers/42"]);
        asked.agent.facts.insert("risk".into(), "low".into());
        asked.task.on_behalf_of = Some("u-1".parse().unwrap());
        let engine = engine(&registry, &text);
        let explanation = engine.explain(&asked.question());
        assert!(
            matches!(explanation.decision, Decision::Permit { .. }),
            "{explanation}"
        );
        asked.ttl = Some("301s".parse().unwrap());
        assert!(matches!(engine.answer(&asked.question()), Decision::Deny { .. }));
    }

    /// Everybody whom the sample question concerns.
    const EVERYBODY: [&str; 5] = [
        "agent/support-bot",
        "tool/crm",
        "user/u-1",
        samples::TASK,
        "environment/production",
    ];

    #[test]
    fn policies_see_the_facts_that_are_in_force_about_everybody_concerned() {
        let registry = samples::registry();
        let mut asked = Asked::new(&registry, "support-bot", "crm:read", &["customers/42"]);
        asked.task.on_behalf_of = Some("u-1".parse().unwrap());
        let name = "support-bot".parse().unwrap();
        let whose = [
            "principal",
            "resource.tool",
            "context.user",
            "context.task",
            "context.environment",
        ];
        for (about, whose) in EVERYBODY.into_iter().zip(whose) {
            let has = match whose.strip_prefix("context.") {
                Some(party) => format!("context has {party} &&"),
                None => String::new(),
            };
            let text = format!(
                r#"@id("ok") permit(principal, action, resource);
                @id("no") forbid(principal, action, resource)
                when {{ {has} {whose}.hasTag("risk") && {whose}.getTag("risk") == "high" }};"#
            );
            let engine = engine(&registry, &text);
            let decide = |facts: &[(&str, &str, &str)]| {
                let facts = samples::facts(facts);
                let question = Question {
                    agent: registry.agent(&name).unwrap(),
                    facts: &facts,
                    ..asked.question()
                };
                engine.answer(&question)
            };
            for _ in 0..2 {
                let (grounds, _) = denial(decide(&[(about, "risk", "high"), (about, "tier", "gold")]));
                assert_eq!(ids(&grounds.policies), ["no"]);
                let used: Vec<_> = grounds.facts.iter().map(ToString::to_string).collect();
                assert_eq!(used, [format!("{about} risk=high")]);
                for others in [
                    &[][..],
                    &[(about, "risk", "low")],
                    &[(about, "tier", "high")],
                    &[(about, "risk", "high"), (about, "risk", "")],
                    &[
                        ("agent/report-bot", "risk", "high"),
                        ("tool/reports", "risk", "high"),
                    ],
                    &[
                        ("user/u-2", "risk", "high"),
                        ("environment/staging", "risk", "high"),
                    ],
                ] {
                    let Decision::Permit { grounds, .. } = decide(others) else {
                        panic!("{whose}: {others:?}")
                    };
                    assert_eq!(*grounds.facts, [], "the permit looks at none");
                }
            }
        }
    }

    #[test]
    fn whether_there_are_a_task_and_a_user_is_looked_at_each_time() {
        let registry = samples::registry();
        let mut asked = Asked::new(&registry, "support-bot", "crm:read", &[]);
        let nobody = asked.task.clone();
        asked.task.on_behalf_of = Some("u-1".parse().unwrap());
        for (condition, expected) in [
            ("context.has_task", [false, true, true]),
            ("context has task", [false, true, true]),
            ("context has user", [false, false, true]),
            ("context has on_behalf_of", [false, false, true]),
        ] {
            let text = format!("permit(principal, action, resource) when {{ {condition} }};");
            let engine = engine(&registry, &text);
            let tasks = [None, Some(&nobody), Some(&asked.task)];
            for (task, expected) in tasks.into_iter().zip(expected).cycle().take(7) {
                let question = Question {
                    agent: registry.agent(&asked.agent.name).unwrap(),
                    task,
                    ..asked.question()
                };
                let permitted = matches!(engine.answer(&question), Decision::Permit { .. });
                assert_eq!(permitted, expected, "{condition}");
            }
        }
    }

    #[test]
    fn a_fact_that_is_in_force_goes_before_that_of_the_registry() {
        let mut changed = samples::agent("support-bot", &["support"], 3);
        changed.facts.insert("risk".into(), "low".into());
        let crm = [("read", crate::model::tool::Effect::Read)];
        let (risk, sensitivity) = (
            crate::model::tool::Risk::Low,
            crate::model::tool::Sensitivity::Public,
        );
        let crm = samples::tool("crm", &crm, risk, sensitivity);
        let registry = Registry::new([changed], [], [crm]).unwrap();
        let text = r#"permit(principal, action, resource)
            when { principal.hasTag("risk") && principal.getTag("risk") == "low" };"#;
        let engine = engine(&registry, text);
        let asked = Asked::new(&registry, "support-bot", "crm:read", &[]);
        let permits = |facts: &[(&str, &str, &str)]| {
            let facts = samples::facts(facts);
            let question = Question {
                agent: registry.agent(&asked.agent.name).unwrap(),
                facts: &facts,
                ..asked.question()
            };
            matches!(engine.answer(&question), Decision::Permit { .. })
        };
        assert!(permits(&[]));
        assert!(!permits(&[("agent/support-bot", "risk", "high")]));
        let taken_back = [
            ("agent/support-bot", "risk", "high"),
            ("agent/support-bot", "risk", ""),
        ];
        assert!(permits(&taken_back));
    }

    #[test]
    fn grounds_name_sixteen_facts_at_most() {
        let registry = samples::registry();
        let text = r#"permit(principal, action, resource) when { !principal.hasTag(principal.owner) };"#;
        let mut asked = Asked::new(&registry, "support-bot", "crm:read", &[]);
        let names: Vec<String> = (0..20).map(|n| format!("f-{n:02}")).collect();
        let facts: Vec<_> = names
            .iter()
            .map(|name| ("agent/support-bot", name.as_str(), "x"))
            .collect();
        asked.facts = samples::facts(&facts);
        let decision = engine(&registry, text).answer(&asked.question());
        let Decision::Permit { grounds, .. } = decision else {
            panic!("{decision:?}")
        };
        assert_eq!(grounds.facts.len(), 16);
        assert_eq!(grounds.facts[0].to_string(), "agent/support-bot f-00=x");
    }

    #[test]
    fn entities_and_context_conform_to_the_schema() {
        let registry = samples::registry();
        let mut asked = Asked::new(
            &registry,
            "support-bot",
            "crm:read,delete",
            &["customers/42", "notes"],
        );
        asked.task.on_behalf_of = Some("u-1".parse().unwrap());
        asked.facts = samples::facts(&EVERYBODY.map(|about| (about, "risk", "high")));
        let engine = engine(
            &registry,
            r#"permit(principal, action, resource) when { principal.hasTag("risk") };"#,
        );
        let question = asked.question();
        let prepared = engine.prepare(&question).unwrap();
        let known = engine.schema.action_entities().unwrap();
        assert_eq!(prepared.live.about().count(), EVERYBODY.len());
        for (action, resource) in prepared.pairs() {
            let entities = engine.entities(&prepared, action, resource, true).unwrap();
            let entities = entities
                .iter()
                .filter(|entity| known.get(&entity.uid()).is_none());
            Entities::from_entities(entities.cloned(), Some(&engine.schema)).unwrap();
            let context = prepared.context(View::WHOLE).unwrap().clone();
            context.validate(&engine.schema, &action.uid).unwrap();
        }
    }

    #[test]
    fn an_agent_that_only_has_the_name_of_a_registered_one_is_judged_by_its_own_roles() {
        let registry = samples::registry();
        let engine = engine(&registry, SUPPORT);
        let name = "support-bot".parse().unwrap();
        let registered = registry.agent(&name).unwrap();
        let asked = Asked::new(&registry, "support-bot", "crm:read", &[]);
        let question = Question {
            agent: registered,
            ..asked.question()
        };
        assert!(matches!(engine.answer(&question), Decision::Permit { .. }));
        let mut other = (**registered).clone();
        other.roles.clear();
        let question = Question {
            agent: &other,
            ..asked.question()
        };
        assert!(matches!(engine.answer(&question), Decision::Deny { .. }));
        let question = Question {
            agent: registered,
            ..asked.question()
        };
        assert!(matches!(engine.answer(&question), Decision::Permit { .. }));
    }

    #[test]
    fn a_tool_that_only_has_the_name_of_a_registered_one_is_judged_by_its_own_facts() {
        let registry = samples::registry();
        let text = "permit(principal, action, resource) when { resource.tool.risk_rank <= 1 };";
        let engine = engine(&registry, text);
        let asked = Asked::new(&registry, "support-bot", "crm:read", &[]);
        let question = Question {
            agent: registry.agent(&"support-bot".parse().unwrap()).unwrap(),
            ..asked.question()
        };
        let mut other = (*asked.tool).clone();
        other.risk = crate::model::tool::Risk::Critical;
        let about_other = Question {
            tool: &other,
            ..question
        };
        for _ in 0..2 {
            assert!(matches!(engine.answer(&question), Decision::Permit { .. }));
            assert!(matches!(engine.answer(&about_other), Decision::Deny { .. }));
        }
    }

    pub(in super::super) mod slicing {
        use proptest::prelude::*;

        use super::*;

        fn head() -> impl Strategy<Value = String> {
            let principal = prop::sample::select(vec![
                "principal",
                r#"principal == Agent::"support-bot""#,
                r#"principal == Agent::"report-bot""#,
                r#"principal in Agent::"support-bot""#,
                r#"principal in Role::"support""#,
                r#"principal in Role::"reporting""#,
                "principal is Agent",
                r#"principal is Agent in Role::"support""#,
            ]);
            let action = prop::sample::select(vec![
                "action",
                r#"action == Action::"crm:read""#,
                r#"action == Action::"reports:read""#,
                r#"action in Action::"read""#,
                r#"action in [Action::"crm:read", Action::"write"]"#,
                r#"action in [Action::"read", Action::"crm:read"]"#,
                r#"action in Action::"crm:delete""#,
            ]);
            let resource = prop::sample::select(vec![
                "resource",
                r#"resource == Resource::"crm""#,
                r#"resource == Resource::"crm/customers/42""#,
                r#"resource in Resource::"crm""#,
                r#"resource in Resource::"crm/customers""#,
                r#"resource in Resource::"reports/daily""#,
                r#"resource in Tool::"crm""#,
                "resource is Resource",
                r#"resource is Resource in Tool::"crm""#,
                r#"resource is Resource in Resource::"crm/customers/42""#,
            ]);
            (principal, action, resource).prop_map(|(p, a, r)| format!("({p}, {a}, {r})"))
        }

        pub(in super::super::super) fn policy() -> impl Strategy<Value = String> {
            let effect = prop::sample::select(vec!["permit", "permit", "forbid"]);
            let condition = prop::sample::select(vec![
                "",
                "",
                "when { context.requested_ttl <= 300 }",
                "unless { principal.autonomy > 2 }",
                "when { context.requested_ttl * 9223372036854775807 > 0 }",
                "unless { principal.autonomy * 9223372036854775807 > 0 }",
                "when { resource.path like \"customers*\" }",
                "when { resource.tool.risk_rank > 0 || resource in Tool::\"reports\" }",
                "when { resource in Resource::\"crm/customers\" }",
                "when { Resource::\"crm/customers/42\".path == \"customers/42\" }",
                "unless { context.time < datetime(\"2026-01-01\") }",
                "when { principal.attestation == \"kubernetes\" }",
                "when { context.has_task }",
                "when { context has user }",
                "unless { context.has_task && context has on_behalf_of }",
                "when { context has on_behalf_of && context.on_behalf_of == \"u-1\" }",
                "when { context has user && context.user == User::\"u-1\" }",
                "when { context.task_depth > 0 }",
                "unless { context.delegated_by.contains(Agent::\"report-bot\") }",
            ]);
            let tags = (
                prop::sample::select(vec!["when", "unless"]),
                prop::sample::select(vec![
                    "principal",
                    "resource.tool",
                    "context.user",
                    "context.task",
                    "context.environment",
                    "{a: context}.a.environment",
                    "Environment::\"production\"",
                    "(if context.has_task then principal else Agent::\"report-bot\")",
                ]),
                prop::sample::select(vec!["\"risk\"", "\"incident\"", "principal.owner"]),
                prop::sample::select(vec!["", "hasTag", "has"]),
                prop::sample::select(vec!["", "|| context.requested_ttl > 300"]),
            );
            let tags = tags.prop_map(|(when, whose, name, guard, more)| {
                let party = whose.strip_prefix("context.").filter(|_| guard == "has");
                let has = party.map_or(String::new(), |party| format!("context has {party} &&"));
                // Without the look before, an absent tag is a fault.
                let has = match guard {
                    "" => has,
                    _ => format!("{has} {whose}.hasTag({name}) &&"),
                };
                format!("{when} {{ ({has} {whose}.getTag({name}) == \"high\") {more} }}")
            });
            let condition = prop_oneof![condition.prop_map(str::to_owned), tags];
            (effect, head(), condition)
                .prop_map(|(effect, head, condition)| format!("{effect} {head} {condition};"))
        }

        /// About whom, the name, the value.
        pub(in super::super::super) type Statement = (&'static str, &'static str, &'static str);

        /// Facts at three instants: what is so at one of them need not be so at the next.
        pub(in super::super::super) fn stated() -> impl Strategy<Value = [Vec<Statement>; 3]> {
            let about = prop::sample::select(vec![
                "agent/support-bot",
                "agent/report-bot",
                "tool/crm",
                "user/u-1",
                "user/u-2",
                samples::TASK,
                "environment/production",
                "environment/staging",
            ]);
            // The sample agents are owned by `team`.
            let name = prop::sample::select(vec!["risk", "incident", "team", "other"]);
            let value = prop::sample::select(vec!["high", "low"]);
            prop::array::uniform3(prop::collection::vec((about, name, value), 0..5))
        }

        proptest! {
            #![proptest_config(ProptestConfig::with_cases(96))]

            #[test]
            fn a_sliced_decision_is_the_full_decision(
                policies in prop::collection::vec(policy(), 0..12),
                agent in prop::sample::select(vec!["support-bot", "report-bot", "ops-console"]),
                what in prop::sample::select(vec!["crm:read", "crm:read,comment", "crm:delete", "reports:read,publish"]),
                paths in prop::sample::subsequence(vec!["customers/42", "customers/42/notes", "customers", "daily"], 0..3),
                ttl in 299u32..302,
                user in prop::sample::select(vec![None, Some("u-1"), Some("u-2")]),
                above in prop::collection::vec(prop::sample::select(vec!["support-bot", "report-bot"]), 0..3),
                with_task in any::<bool>(),
                stated in stated(),
            ) {
                let registry = samples::registry();
                let name = agent.parse().unwrap();
                let mut asked = Asked::new(&registry, agent, what, &paths);
                asked.ttl = Ttl::from_secs(ttl);
                asked.task.on_behalf_of = user.map(|user| user.parse().unwrap());
                asked.hand_on(&above);
                // The policies may be impossible, which the loader would refuse; the index has to cope with them.
                let policies: Vec<_> = (0..).map(|n: usize| n.to_string()).zip(policies).collect();
                let engine = samples::unchecked(&registry, &policies);

                let whole = engine.whole().unwrap();
                let full = |question: &Question<'_>| {
                    let prepared = engine.prepare(question).unwrap();
                    let verdicts = prepared.pairs().map(|(action, resource)| {
                        let mut verdict = Verdict::default();
                        let request = prepared.request(action, resource, View::WHOLE).unwrap();
                        let entities = engine.entities(&prepared, action, resource, true).unwrap();
                        engine.judge(&request, &whole, &entities, &mut verdict);
                        Ok(verdict)
                    });
                    engine.conclude(verdicts.collect(), &prepared.live)
                };
                let facts = stated.map(|facts| samples::facts(&facts));
                let question = asked.question();
                let question = Question { task: question.task.filter(|_| with_task), ..question };
                let root = Access::new(question.tool.name.clone(), asked.access.actions().clone(), [].into()).unwrap();
                prop_assert_eq!(engine.answer(&question), full(&question));
                for facts in &facts {
                    let question = Question { facts, ..question };
                    let explanation = engine.explain(&question);
                    let permitted = matches!(explanation.decision, Decision::Permit { .. });
                    prop_assert_eq!(explanation.parts.iter().all(|part| part.permitted), permitted);
                }
                // The registered agent goes through what is kept: once made, once found, for each attestation, with
                // a task and without, while facts come and go.
                let registered = Question { agent: registry.agent(&name).unwrap(), ..question };
                let silence = Facts::default();
                for facts in [&silence, &facts[0], &facts[1], &silence, &facts[2], &facts[0]] {
                    for kind in [EvidenceKind::JwtSvid, EvidenceKind::Kubernetes, EvidenceKind::JwtSvid] {
                        let attested = Attested { kind, ..registered.attested };
                        let question = Question { attested, facts, ..registered };
                        prop_assert_eq!(engine.answer(&question), full(&question));
                        let elsewhere = Question { access: &root, ..question };
                        prop_assert_eq!(engine.answer(&elsewhere), full(&elsewhere));
                        let unbidden = Question { task: None, ..question };
                        prop_assert_eq!(engine.answer(&unbidden), full(&unbidden));
                    }
                }
            }
        }

        use crate::model::access::Access;
        use crate::model::attestation::EvidenceKind;
        use crate::model::fact::Facts;
        use crate::model::ttl::Ttl;
        use crate::policy::Attested;
    }
}
