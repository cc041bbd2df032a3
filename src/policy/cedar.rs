//! The policy engine on Cedar.
//!
//! Each action of an access is asked about each of its resources; the access is permitted only if each of them
//! is, on the most restrictive terms of all permits that match. Cedar skips a policy that cannot be evaluated,
//! a `forbid` too; here one such policy is a denial that names it.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use cedar_policy::{
    AuthorizationError, Authorizer, Context, Effect, Entities, EntityUid, PolicySet, Request, Schema,
};

use crate::model::decision::{Decision, Grounds, Obligations, PolicyId, Revision};
use crate::model::name::Role;
use crate::registry::Registry;

use super::entities::{self, ActionEntity, Catalogue, ResourceEntity, ToolEntity, Unfit};
use super::index::{AgentKey, HeadIndex, Heading, Kept, Slice, SliceKey};
pub use super::load::PolicySource;
use super::load::{self, Loaded, index_of};
use super::problem::{PolicyProblems, Position, Problem};
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

/// A set of policies and the registry that they are about, as one revision. Immutable; a new revision is a new
/// engine.
pub struct CedarEngine {
    pub(super) policies: Vec<Loaded>,
    warnings: Vec<Problem>,
    pub(super) schema: Schema,
    pub(super) catalogue: Catalogue,
    pub(super) index: HeadIndex,
    slices: Kept<SliceKey, Slice>,
    standings: Kept<(AgentKey, Arc<str>), Entities>,
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

/// A question as Cedar sees it.
pub(super) struct Prepared<'q> {
    question: Question<'q>,
    /// Of the registry's own agent about the registry's own tool: what is made for them may be kept.
    key: Option<AgentKey>,
    tool: Arc<ToolEntity>,
    resources: Vec<ResourceEntity>,
    principal: EntityUid,
    /// Made when a policy looks at it: without the instant, and with it.
    contexts: [OnceCell<Context>; 2],
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

    pub(super) fn prepare<'q>(&self, question: &Question<'q>) -> Result<Prepared<'q>, Unfit> {
        let (access, tool) = (question.access, question.tool);
        if access.tool() != &tool.name {
            return Err(Unfit(format!(
                "the access is about `{}` and not about `{}`",
                access.tool(),
                tool.name
            )));
        }
        let tool = self.catalogue.tool_entity(tool)?;
        if !access.actions().iter().all(|name| tool.action(name).is_some()) {
            // To the caller an action that does not exist looks like one that nobody permits.
            return Err(Unfit(NO_PERMIT.to_owned()));
        }
        Ok(Prepared {
            question: *question,
            key: self.key(question, &tool),
            resources: tool.resources(access.resources().iter()),
            tool,
            principal: entities::agent_uid(question.agent.name.as_str()),
            contexts: Default::default(),
        })
    }

    fn key(&self, question: &Question<'_>, tool: &ToolEntity) -> Option<AgentKey> {
        let (agent, attested) = (question.agent, question.attested);
        let name = self.catalogue.registered(agent)?;
        self.catalogue
            .tool(&question.tool.name)
            .filter(|known| std::ptr::eq(&raw const ***known, tool))?;
        Some((name.clone(), attested.kind, attested.trust_domain.cloned()))
    }

    /// The entities of one action on one resource.
    pub(super) fn entities(
        &self,
        prepared: &Prepared<'_>,
        action: &ActionEntity,
        resource: &ResourceEntity,
    ) -> Result<Entities, Unfit> {
        let Prepared { question, tool, .. } = prepared;
        let make = || {
            let agent = entities::agent(question.agent, question.attested)?;
            entities::standing(Some(agent), tool, action).map(Arc::new)
        };
        let standing = match &prepared.key {
            Some(agent) => self
                .standings
                .get((agent.clone(), action.name.clone()), |_| 1, make)?,
            None => make()?,
        };
        entities::joined(Arc::unwrap_or_clone(standing), tool, resource)
    }

    fn verdict(
        &self,
        prepared: &Prepared<'_>,
        action: &ActionEntity,
        resource: &ResourceEntity,
    ) -> Result<Verdict, Unfit> {
        let mut verdict = Verdict::default();
        let mut entities = None;
        let paths = self.index.paths(&resource.name).map(Some);
        for path in std::iter::once(None).chain(paths) {
            let slice = self.slice(prepared, action, resource, path)?;
            verdict.add(&slice.fixed);
            if let Some(open) = &slice.open {
                let entities = match &entities {
                    Some(entities) => entities,
                    None => entities.insert(self.entities(prepared, action, resource)?),
                };
                let request = prepared.request(action, resource, slice.time)?;
                self.judge(&request, open, entities, &mut verdict);
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
                let key = (agent.clone(), action.name.clone(), path.cloned());
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
        let (open, fixed): (Vec<_>, Vec<_>) = self.loaded(&numbers).partition(|loaded| loaded.reads.request);
        let mut slice = Slice {
            policies: numbers.len(),
            time: open.iter().any(|loaded| loaded.reads.time),
            ..Slice::default()
        };
        if let Some(fixed) = set_of(&fixed)? {
            let request = prepared.request(action, resource, false)?;
            let entities = self.entities(prepared, action, resource)?;
            self.judge(&request, &fixed, &entities, &mut slice.fixed);
        }
        slice.open = set_of(&open)?;
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
    pub(super) fn conclude(&self, verdicts: Result<Vec<Verdict>, Unfit>) -> Decision {
        let (verdicts, mut reason) = match verdicts {
            Ok(verdicts) => (verdicts, None),
            Err(Unfit(why)) => (Vec::new(), Some(why)),
        };
        let faults: BTreeSet<usize> = verdicts
            .iter()
            .flat_map(|verdict| &verdict.faults)
            .copied()
            .collect();
        let permits: BTreeSet<usize> = verdicts
            .iter()
            .flat_map(|verdict| verdict.permits.union(&verdict.terms))
            .copied()
            .collect();
        let forbids: BTreeSet<usize> = verdicts
            .iter()
            .flat_map(|verdict| &verdict.forbids)
            .copied()
            .collect();
        let permitted = !verdicts.is_empty() && verdicts.iter().all(Verdict::permitted);
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
                    grounds: self.grounds(&permits, &faults),
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
            grounds: self.grounds(decided, &faults),
            reason,
        }
    }

    fn loaded<'a>(&'a self, numbers: &'a BTreeSet<usize>) -> impl Iterator<Item = &'a Loaded> {
        numbers.iter().filter_map(|number| self.policies.get(*number))
    }

    fn grounds(&self, policies: &BTreeSet<usize>, faults: &BTreeSet<usize>) -> Grounds {
        let ids = |numbers| {
            let mut ids: Vec<PolicyId> = self.loaded(numbers).map(|policy| policy.id.clone()).collect();
            ids.sort();
            ids
        };
        Grounds {
            policies: ids(policies),
            faults: ids(faults),
            revision: self.revision.clone(),
        }
    }

    /// Every policy as one set.
    pub(super) fn whole(&self) -> Result<PolicySet, Unfit> {
        let policies = self.policies.iter().map(|loaded| loaded.policy.clone());
        PolicySet::from_policies(policies).map_err(|error| Unfit(error.to_string()))
    }
}

impl Prepared<'_> {
    /// Each action with each resource.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (&ActionEntity, &ResourceEntity)> {
        let actions = self
            .question
            .access
            .actions()
            .iter()
            .filter_map(|name| self.tool.action(name));
        actions.flat_map(|action| self.resources.iter().map(move |resource| (action, resource)))
    }

    /// What Cedar is asked about one action on one resource; `time`: with the instant.
    pub(super) fn request(
        &self,
        action: &ActionEntity,
        resource: &ResourceEntity,
        time: bool,
    ) -> Result<Request, Unfit> {
        let context = self.context(time)?.clone();
        let uids = (self.principal.clone(), action.uid.clone(), resource.uid.clone());
        // Everything here was made from the registry by the same rules as the schema: nothing is left to check.
        Request::new(uids.0, uids.1, uids.2, context, None).map_err(|error| Unfit(error.to_string()))
    }

    fn context(&self, time: bool) -> Result<&Context, Unfit> {
        let [without, with] = &self.contexts;
        let context = if time { with } else { without };
        match context.get() {
            Some(made) => Ok(made),
            None => {
                let made = entities::context(&self.question, time)?;
                Ok(context.get_or_init(|| made))
            }
        }
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
        let verdicts = self.prepare(question).and_then(|prepared| {
            let pairs = prepared.pairs();
            pairs
                .map(|(action, resource)| self.verdict(&prepared, action, resource))
                .collect()
        });
        self.conclude(verdicts)
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
mod tests {
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

    #[test]
    fn entities_and_context_conform_to_the_schema() {
        let registry = samples::registry();
        let asked = Asked::new(
            &registry,
            "support-bot",
            "crm:read,delete",
            &["customers/42", "notes"],
        );
        let engine = engine(&registry, "");
        let question = asked.question();
        let prepared = engine.prepare(&question).unwrap();
        let known = engine.schema.action_entities().unwrap();
        for (action, resource) in prepared.pairs() {
            let entities = engine.entities(&prepared, action, resource).unwrap();
            let entities = entities
                .iter()
                .filter(|entity| known.get(&entity.uid()).is_none());
            Entities::from_entities(entities.cloned(), Some(&engine.schema)).unwrap();
            let context = prepared.context(true).unwrap().clone();
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

    mod slicing {
        use proptest::prelude::*;

        use super::super::super::reads::Reads;
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

        fn policy() -> impl Strategy<Value = String> {
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
            ]);
            (effect, head(), condition)
                .prop_map(|(effect, head, condition)| format!("{effect} {head} {condition};"))
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
            ) {
                let registry = samples::registry();
                let name = agent.parse().unwrap();
                let mut asked = Asked::new(&registry, agent, what, &paths);
                asked.ttl = Ttl::from_secs(ttl);
                // The policies may be impossible, which the loader would refuse; the index has to cope with them.
                let loaded = policies.iter().enumerate().map(|(number, text)| {
                    let id = cedar_policy::PolicyId::new(number.to_string());
                    let policy = cedar_policy::Policy::parse(Some(id), text).unwrap();
                    Loaded {
                        id: PolicyId(number.to_string().into()),
                        at: Position::of(&"a".into(), "", 0),
                        effect: policy.effect(),
                        terms: Default::default(),
                        reads: Reads::of(&policy),
                        policy,
                    }
                });
                let mut engine = engine(&registry, "");
                engine.policies = loaded.collect();
                engine.index = HeadIndex::of(&engine.policies);

                let whole = engine.whole().unwrap();
                let full = |question: &Question<'_>| {
                    let prepared = engine.prepare(question).unwrap();
                    let verdicts = prepared.pairs().map(|(action, resource)| {
                        let mut verdict = Verdict::default();
                        let request = prepared.request(action, resource, true).unwrap();
                        let entities = engine.entities(&prepared, action, resource).unwrap();
                        engine.judge(&request, &whole, &entities, &mut verdict);
                        Ok(verdict)
                    });
                    engine.conclude(verdicts.collect())
                };
                let question = asked.question();
                let root = Access::new(question.tool.name.clone(), asked.access.actions().clone(), [].into()).unwrap();
                prop_assert_eq!(engine.answer(&question), full(&question));
                let explanation = engine.explain(&question);
                let permitted = matches!(explanation.decision, Decision::Permit { .. });
                prop_assert_eq!(explanation.parts.iter().all(|part| part.permitted), permitted);
                // The registered agent goes through what is kept: once made, once found, for each attestation.
                let registered = Question { agent: registry.agent(&name).unwrap(), ..question };
                for kind in [EvidenceKind::JwtSvid, EvidenceKind::Kubernetes, EvidenceKind::JwtSvid] {
                    let attested = Attested { kind, ..registered.attested };
                    let question = Question { attested, ..registered };
                    prop_assert_eq!(engine.answer(&question), full(&question));
                    let elsewhere = Question { access: &root, ..question };
                    prop_assert_eq!(engine.answer(&elsewhere), full(&elsewhere));
                }
            }
        }

        use crate::model::access::Access;
        use crate::model::attestation::EvidenceKind;
        use crate::model::ttl::Ttl;
        use crate::policy::Attested;
    }
}
