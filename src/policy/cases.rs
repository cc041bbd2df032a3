//! Policy tests: cases beside policies, in the JSON of Cedar's own `run-tests`.
//!
//! ```json
//! [{ "name": "support reads customers",
//!    "request": { "principal": "Agent::\"support-bot\"", "action": "Action::\"crm:read\"",
//!                 "resource": "Resource::\"crm/customers/42\"", "context": { "requested_ttl": 300 } },
//!    "entities": [], "decision": "allow", "reason": ["support-crm"], "num_errors": 0 }]
//! ```
//!
//! Agents and tools come from the registry; `entities` adds to them or replaces them. `context` needs only what
//! matters to the case. `facts` are in force, as `{ "about": "user/u-17", "name": "risk", "value": "high" }`; `task`
//! alone is the task of the case. `reason` lists policies that have to be among those that decided. Beyond Cedar's format,
//! `facts` say what is so, and `max_ttl` and `approval` what the permit has to demand. The decision is Dayfly's: a policy that cannot
//! be evaluated denies.

use std::fmt;
use std::sync::Arc;

use cedar_policy::{Context, Entities, Entity, EntityUid, EvalResult, Request};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::model::access::ResourcePath;
use crate::model::agent::Agent;
use crate::model::attestation::EvidenceKind;
use crate::model::decision::{Decision, Grounds, Obligations};
use crate::model::fact::{Fact, Facts, FactsVersion, Subject};
use crate::model::ids::TaskId;
use crate::model::name::{Environment, FactName, FactValue, Operation, Role, ToolName, UserId, Zone};
use crate::model::time::Timestamp;
use crate::model::tool::Tool;
use crate::model::ttl::Ttl;

use super::Attested;
use super::cedar::{CedarEngine, Verdict};
use super::entities::{self, ActionEntity, ToolEntity, Unfit};
use super::live::{Live, Parties};

/// When a case happens unless it says otherwise: noon, on a Monday.
pub const DEFAULT_TIME: &str = "2026-01-05T12:00:00Z";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    request: Asked,
    #[serde(default)]
    entities: Value,
    #[serde(default)]
    facts: Vec<Stated>,
    decision: Expected,
    #[serde(default)]
    reason: Vec<String>,
    #[serde(default)]
    num_errors: usize,
    max_ttl: Option<Ttl>,
    approval: Option<Role>,
    #[serde(rename = "name")]
    _name: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    principal: String,
    action: String,
    resource: String,
    #[serde(default)]
    context: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stated {
    about: String,
    name: FactName,
    value: FactValue,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum Expected {
    Allow,
    Deny,
}

/// What became of one case.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CaseResult {
    /// Its name; its number, from 1, where it has none.
    pub name: String,
    /// What became of it.
    pub outcome: CaseOutcome,
}

/// What became of one case.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CaseOutcome {
    /// As expected.
    Passed,
    /// Decided otherwise: one line for each difference.
    Failed(Vec<String>),
    /// It could not be asked, and why.
    Invalid(String),
}

impl CaseResult {
    /// Whether the case came out as expected.
    pub fn passed(&self) -> bool {
        self.outcome == CaseOutcome::Passed
    }
}

impl fmt::Display for CaseResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.outcome {
            CaseOutcome::Passed => write!(f, "ok      {}", self.name),
            CaseOutcome::Failed(lines) => {
                write!(f, "FAILED  {}", self.name)?;
                lines.iter().try_for_each(|line| write!(f, "\n        {line}"))
            }
            CaseOutcome::Invalid(why) => write!(f, "INVALID {}\n        {why}", self.name),
        }
    }
}

/// A file of cases is not a JSON array.
#[derive(Debug, thiserror::Error)]
#[error("a file of policy tests is a JSON array of cases: {0}")]
pub struct NoCases(#[from] serde_json::Error);

/// Runs the cases of one file against the policies and the registry of an engine.
pub fn run(engine: &CedarEngine, json: &str) -> Result<Vec<CaseResult>, NoCases> {
    let cases: Vec<Value> = serde_json::from_str(json)?;
    // The whole set, unsliced: a case may give an agent roles that the index has not seen.
    let whole = engine.whole();
    let run = |(number, case): (usize, &Value)| {
        let name = case.get("name").and_then(Value::as_str).map(str::to_owned);
        let outcome = match whole.as_ref().map_err(ToString::to_string).and_then(|whole| {
            let case = Case::deserialize(case).map_err(|error| error.to_string())?;
            decide(engine, whole, &case)
                .map(|decision| compare(&case, &decision))
                .map_err(|error| error.to_string())
        }) {
            Ok(lines) if lines.is_empty() => CaseOutcome::Passed,
            Ok(lines) => CaseOutcome::Failed(lines),
            Err(why) => CaseOutcome::Invalid(why),
        };
        CaseResult {
            name: name.unwrap_or_else(|| format!("case {}", number + 1)),
            outcome,
        }
    };
    Ok(cases.iter().enumerate().map(run).collect())
}

fn invalid(error: impl fmt::Display) -> Unfit {
    Unfit(error.to_string())
}

/// The name in an entity reference, which has to be of this type.
fn named(text: &str, kind: &str) -> Result<(EntityUid, String), Unfit> {
    let uid: EntityUid = text
        .parse()
        .map_err(|error| Unfit(format!("`{text}` names no entity: {error}")))?;
    if uid.type_name().basename() != kind {
        return Err(Unfit(format!("`{text}` has to be of the type `{kind}`")));
    }
    let name: &str = uid.id().as_ref();
    let name = name.to_owned();
    Ok((uid, name))
}

fn decide(engine: &CedarEngine, whole: &cedar_policy::PolicySet, case: &Case) -> Result<Decision, Unfit> {
    let asked = &case.request;
    let (principal, agent) = named(&asked.principal, "Agent")?;
    let (action_uid, action) = named(&asked.action, "Action")?;
    let (resource_uid, resource) = named(&asked.resource, "Resource")?;
    let (tool, operation) = action.split_once(':').unwrap_or((&action, ""));
    let (of, path) = resource
        .split_once('/')
        .map_or((&*resource, None), |(of, path)| (of, Some(path)));
    if of != tool {
        return Err(Unfit(format!(
            "the action is of `{tool}` and the resource of `{of}`"
        )));
    }
    let tool: ToolName = tool.parse().map_err(invalid)?;
    let operation: Operation = operation.parse().map_err(invalid)?;
    let path: Option<ResourcePath> = path.map(str::parse).transpose().map_err(invalid)?;
    let tool = engine
        .catalogue
        .tool(&tool)
        .ok_or_else(|| Unfit(format!("no tool is named `{tool}`")))?;
    let action = tool
        .action(&operation)
        .ok_or_else(|| Unfit(format!("no action is named `{action}`")))?;

    let given = given(engine, &case.entities)?;
    let registered = engine.catalogue.agent(&agent);
    let environment = match (given.get(&principal), registered) {
        (Some(given), _) => environment(given)?,
        (None, Some(agent)) => agent.environment.clone(),
        (None, None) => {
            return Err(Unfit(format!(
                "no agent is named `{agent}`: register it or give it in `entities`"
            )));
        }
    };
    let context = context(
        asked,
        registered.map(|agent| &agent.zone),
        tool.source(),
        &environment,
    );
    let user = context.get("on_behalf_of").and_then(Value::as_str);
    let user: Option<UserId> = user.map(str::parse).transpose().map_err(invalid)?;
    let parties = Parties {
        agent: &agent.parse().map_err(invalid)?,
        tool: &tool.source().name,
        user: user.as_ref(),
        task: context.contains_key("task").then(task),
        environment: &environment,
    };
    let facts = stated(&case.facts, &parties)?;
    let live = Live::of(&facts, &parties, NOW);
    let entities = generated(registered, tool, action, path.as_ref(), &live)?;
    // A given entity stands as it is given.
    let replaced = live
        .about()
        .find(|about| given.get(&entities::uid_of(&about.subject)).is_some());
    if let Some(about) = replaced {
        let subject = &about.subject;
        return Err(Unfit(format!(
            "`{subject}` is given in `entities`: write its facts there, as its `tags`"
        )));
    }
    let entities = entities
        .upsert_entities(given.iter().cloned(), None)
        .map_err(invalid)?;

    let context = Value::Object(context);
    let context = Context::from_json_value(context, Some((&engine.schema, &action_uid))).map_err(invalid)?;
    let request =
        Request::new(principal, action_uid, resource_uid, context, Some(&engine.schema)).map_err(invalid)?;
    let mut verdict = Verdict::default();
    engine.judge(&request, whole, &entities, &mut verdict);
    Ok(engine.conclude(Ok(vec![verdict]), &live))
}

/// When the facts of cases were stated, and when they are looked at.
const NOW: Timestamp = Timestamp::from_millis(0);

/// The task of every case that has one.
fn task() -> TaskId {
    TaskId::new(NOW, [0; 10])
}

/// What the case says of the context, over what holds unless it says otherwise.
fn context(asked: &Asked, zone: Option<&Zone>, tool: &Tool, environment: &Environment) -> Map<String, Value> {
    let entity = |kind: &str, id: &str| json!({ "__entity": { "type": kind, "id": id } });
    let mut context = Map::new();
    for (name, value) in [
        ("has_task", json!(true)),
        ("purpose", json!("policy test")),
        ("task_age", json!(0)),
        ("task_depth", json!(0)),
        ("delegated_by", json!([])),
        ("time", json!(DEFAULT_TIME)),
        ("requested_ttl", json!(tool.default_ttl.as_secs())),
        ("crosses_zone", json!(zone.is_some_and(|zone| *zone != tool.zone))),
        ("environment", entity("Environment", environment.as_str())),
    ] {
        context.insert(name.to_owned(), value);
    }
    context.extend(asked.context.clone());
    if context.get("has_task") == Some(&json!(true)) {
        let task = entity("Task", &task().to_string());
        context.entry("task").or_insert(task);
    }
    if let Some(user) = context.get("on_behalf_of").and_then(Value::as_str) {
        let user = entity("User", user);
        context.entry("user").or_insert(user);
    }
    context
}

/// The facts of a case. One about nobody whom the case concerns would say nothing, so it is a mistake.
fn stated(stated: &[Stated], parties: &Parties<'_>) -> Result<Facts, Unfit> {
    let mut facts = Vec::with_capacity(stated.len());
    for Stated { about, name, value } in stated {
        let subject = match about.as_str() {
            "task" => Subject::Task(task()),
            about => about.parse().map_err(invalid)?,
        };
        if !parties.subjects().any(|party| party == subject) {
            return Err(Unfit(format!("the case does not concern `{about}`")));
        }
        facts.push(Fact {
            about: subject,
            name: name.clone(),
            value: Some(value.clone()),
            source: "policy test".parse().map_err(invalid)?,
            at: NOW,
            expires_at: None,
        });
    }
    Ok(Facts::default().with(facts, FactsVersion::default()))
}

/// The entities of the registry that a case concerns, with its facts.
fn generated(
    agent: Option<&Arc<Agent>>,
    tool: &ToolEntity,
    action: &ActionEntity,
    path: Option<&ResourcePath>,
    live: &Live<'_>,
) -> Result<Entities, Unfit> {
    let attested = Attested {
        kind: EvidenceKind::JwtSvid,
        trust_domain: None,
    };
    let (mut of_agent, mut of_tool, mut parties) = (&[][..], None, Vec::new());
    for about in live.about() {
        match &about.subject {
            Subject::Agent(_) => of_agent = &about.facts,
            Subject::Tool(_) => of_tool = Some(tool.told(&about.facts)?),
            Subject::User(_) | Subject::Task(_) | Subject::Environment(_) => {
                parties.push(entities::party(about)?);
            }
        }
    }
    let agent = agent.map(|agent| entities::agent(agent, attested, of_agent));
    let mut entities = entities::standing(agent.transpose()?, tool, of_tool, action)?;
    for resource in tool.resources(path.into_iter()) {
        entities = entities::joined(entities, tool, &resource, std::mem::take(&mut parties))?;
    }
    Ok(entities)
}

/// The entities that a case gives on top of the registry, without what the schema knows anyway.
fn given(engine: &CedarEngine, given: &Value) -> Result<Entities, Unfit> {
    match given {
        Value::Null => Ok(Entities::empty()),
        Value::Array(_) => {
            let given = Entities::from_json_value(given.clone(), Some(&engine.schema)).map_err(invalid)?;
            let known = engine.schema.action_entities().map_err(invalid)?;
            let given = given.iter().filter(|entity| known.get(&entity.uid()).is_none());
            Entities::from_entities(given.cloned(), None).map_err(invalid)
        }
        _ => Err(Unfit(
            "`entities` is an array: write the entities into the case itself".to_owned(),
        )),
    }
}

fn environment(agent: &Entity) -> Result<Environment, Unfit> {
    match agent.attr("environment") {
        Some(Ok(EvalResult::String(name))) => name.parse().map_err(invalid),
        _ => Err(Unfit("a given agent has an `environment`".to_owned())),
    }
}

fn compare(case: &Case, decision: &Decision) -> Vec<String> {
    let mut lines = Vec::new();
    let none = Obligations::default();
    let (got, grounds, obligations, said) = match decision {
        Decision::Permit { grounds, obligations } => (Expected::Allow, grounds, obligations, None),
        Decision::Deny { grounds, reason } => (Expected::Deny, grounds, &none, Some(reason)),
    };
    let Grounds { policies, faults, .. } = grounds;
    let list = |ids: &[crate::model::decision::PolicyId]| match ids {
        [] => "none".to_owned(),
        ids => ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    };
    match (case.decision, got, said) {
        (Expected::Allow, Expected::Deny, Some(said)) => {
            lines.push(format!("expected allow, got deny: {said}"))
        }
        (Expected::Deny, Expected::Allow, _) => lines.push("expected deny, got allow".to_owned()),
        _ => {}
    }
    let missing: Vec<&str> = case
        .reason
        .iter()
        .map(String::as_str)
        .filter(|id| policies.iter().all(|policy| *policy.0 != **id))
        .collect();
    if !missing.is_empty() {
        lines.push(format!(
            "expected to be decided by {}, was decided by {}",
            missing.join(", "),
            list(policies)
        ));
    } else if !lines.is_empty() {
        lines.push(format!("decided by {}", list(policies)));
    }
    if case.num_errors != faults.len() {
        lines.push(format!(
            "expected {} policies that cannot be evaluated, got {}: {}",
            case.num_errors,
            faults.len(),
            list(faults)
        ));
    }
    let shown = |value: Option<String>| value.unwrap_or_else(|| "none".to_owned());
    if case.max_ttl.is_some() && case.max_ttl != obligations.max_ttl {
        let (want, got) = (case.max_ttl, obligations.max_ttl);
        let [want, got] = [want, got].map(|ttl| shown(ttl.map(|ttl| ttl.to_string())));
        lines.push(format!("expected max_ttl {want}, got {got}"));
    }
    if case.approval.is_some() && case.approval != obligations.approval {
        let [want, got] =
            [&case.approval, &obligations.approval].map(|role| shown(role.as_ref().map(Role::to_string)));
        lines.push(format!("expected approval {want}, got {got}"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::cedar::PolicySource;
    use super::super::samples;
    use super::*;
    use crate::model::decision::Revision;

    const POLICIES: &str = r#"
        @id("support") @max_ttl("5m") permit(principal in Role::"support", action in Action::"read", resource in Tool::"crm");
        @id("night") @reason("not at night") forbid(principal, action, resource)
        when { context.time.toTime() < duration("6h") };
        @id("risky") forbid(principal, action, resource)
        when { (principal.hasTag("risk") && principal.getTag("risk") == "high")
            || (resource.tool.hasTag("risk") && resource.tool.getTag("risk") == "high")
            || (context has user && context.user.hasTag("risk") && context.user.getTag("risk") == "high")
            || (context has task && context.task.hasTag("risk") && context.task.getTag("risk") == "high")
            || (context.environment.hasTag("risk") && context.environment.getTag("risk") == "high") };
        @id("broken") forbid(principal, action, resource) when { context.task_age * 9223372036854775807 > 1 };
    "#;

    const PACK: [(&str, &str, &str); 4] = [
        (
            "00-baseline.cedar",
            include_str!("../../config/policies/00-baseline.cedar"),
            include_str!("../../config/policies/tests/00-baseline.json"),
        ),
        (
            "05-facts.cedar",
            include_str!("../../config/policies/05-facts.cedar"),
            include_str!("../../config/policies/tests/05-facts.json"),
        ),
        (
            "10-dayfly.cedar",
            include_str!("../../config/policies/10-dayfly.cedar"),
            include_str!("../../config/policies/tests/10-dayfly.json"),
        ),
        (
            "20-grants.cedar",
            include_str!("../../config/policies/20-grants.cedar"),
            include_str!("../../config/policies/tests/20-grants.json"),
        ),
    ];

    #[test]
    fn the_baseline_pack_passes_its_cases_and_each_policy_of_it_decides_one() {
        let sources = PACK.map(|(name, text, _)| PolicySource {
            name: name.into(),
            text: text.into(),
        });
        let engine = CedarEngine::load(&sources, &samples::registry(), Revision("r".into())).unwrap();
        assert_eq!(engine.warnings(), []);
        let mut decided: BTreeSet<String> = BTreeSet::new();
        for (name, _, cases) in PACK {
            for result in run(&engine, cases).unwrap() {
                assert!(result.passed(), "{name}: {result}");
            }
            let cases: Vec<Value> = serde_json::from_str(cases).unwrap();
            let reasons = cases.iter().flat_map(|case| case["reason"].as_array().unwrap());
            decided.extend(reasons.map(|id| id.as_str().unwrap().to_owned()));
        }
        let policies: BTreeSet<String> = engine
            .policies
            .iter()
            .map(|policy| policy.id.to_string())
            .collect();
        assert_eq!(policies, decided);
    }

    #[test]
    fn no_grant_of_the_pack_opens_an_irreversible_effect_by_its_group() {
        let sources = PACK.map(|(name, text, _)| PolicySource {
            name: name.into(),
            text: text.into(),
        });
        let engine = CedarEngine::load(&sources, &samples::registry(), Revision("r".into())).unwrap();
        let permits = engine
            .policies
            .iter()
            .filter(|policy| policy.effect == cedar_policy::Effect::Permit && !policy.terms.only);
        for policy in permits {
            let actions = match policy.policy.action_constraint() {
                cedar_policy::ActionConstraint::Any => panic!("{} permits any action", policy.id),
                cedar_policy::ActionConstraint::Eq(uid) => vec![uid],
                cedar_policy::ActionConstraint::In(uids) => uids,
            };
            for action in &actions {
                let name: &str = action.id().as_ref();
                assert!(
                    name.contains(':') || ["read", "write"].contains(&name),
                    "{}: {name}",
                    policy.id
                );
            }
        }
    }

    #[test]
    fn terms_bound_what_others_permit_and_permit_nothing_by_themselves() {
        let registry = samples::registry();
        let terms = r#"@id("terms") @terms_only @max_ttl("1m") permit(principal, action, resource);"#;
        let decide = |policies: &str| {
            let engine = samples::engine(&registry, policies);
            let case = serde_json::json!({
                "request": {
                    "principal": "Agent::\"support-bot\"", "action": "Action::\"crm:read\"",
                    "resource": "Resource::\"crm\"", "context": {}
                },
                "entities": [], "decision": "deny", "reason": [], "num_errors": 0,
            });
            run(&engine, &Value::Array(vec![case]).to_string())
                .unwrap()
                .remove(0)
        };
        assert!(decide(terms).passed());
        let permitted = decide(&format!("{POLICIES} {terms}")).to_string();
        assert!(
            permitted.contains("support") && permitted.contains("terms"),
            "{permitted}"
        );
    }

    fn run_one(case: Value) -> CaseResult {
        let registry = samples::registry();
        let engine = samples::engine(&registry, POLICIES);
        let mut results = run(&engine, &Value::Array(vec![case]).to_string()).unwrap();
        results.remove(0)
    }

    fn case(change: impl FnOnce(&mut Value)) -> CaseResult {
        let mut case = serde_json::json!({
            "name": "n", "entities": [], "decision": "allow", "reason": ["support"], "num_errors": 0,
            "request": { "principal": "Agent::\"support-bot\"", "action": "Action::\"crm:read\"",
                         "resource": "Resource::\"crm/customers/42\"", "context": {} },
        });
        change(&mut case);
        run_one(case)
    }

    fn failure(change: impl FnOnce(&mut Value)) -> String {
        let result = case(change);
        assert!(!result.passed());
        result.to_string()
    }

    #[test]
    fn a_case_as_expected_passes() {
        assert_eq!(case(|_| {}).to_string(), "ok      n");
        assert!(case(|case| case["max_ttl"] = "5m".into()).passed());
        assert!(
            case(|case| {
                case["request"]["context"]["time"] = "2026-01-05T03:00:00Z".into();
                case["decision"] = "deny".into();
                case["reason"] = serde_json::json!(["night"]);
            })
            .passed()
        );
        assert!(
            case(|case| {
                case["request"]["context"]["task_age"] = 3.into();
                case["decision"] = "deny".into();
                case["reason"] = serde_json::json!([]);
                case["num_errors"] = 1.into();
            })
            .passed()
        );
    }

    #[test]
    fn a_difference_is_told_in_words() {
        let text = failure(|case| case["decision"] = "deny".into());
        assert!(
            text.contains("expected deny, got allow") && text.contains("decided by support"),
            "{text}"
        );
        let text = failure(|case| case["request"]["context"]["time"] = "2026-01-05T03:00:00Z".into());
        assert!(text.contains("expected allow, got deny: not at night"), "{text}");
        let text = failure(|case| case["reason"] = serde_json::json!(["other"]));
        assert!(
            text.contains("decided by other, was decided by support"),
            "{text}"
        );
        let text = failure(|case| case["num_errors"] = 2.into());
        assert!(text.contains("expected 2"), "{text}");
        let text = failure(|case| case["max_ttl"] = "1m".into());
        assert!(text.contains("expected max_ttl 1m, got 5m"), "{text}");
        let text = failure(|case| case["approval"] = "lead".into());
        assert!(text.contains("expected approval lead, got none"), "{text}");
    }

    #[test]
    fn given_entities_add_to_the_registry_and_replace_it() {
        let agent = |name: &str, roles: &[&str]| {
            let parents: Vec<_> = roles
                .iter()
                .map(|role| serde_json::json!({"type": "Role", "id": role}))
                .collect();
            serde_json::json!([{ "uid": {"type": "Agent", "id": name}, "parents": parents, "attrs": {
                "owner": "o", "environment": "production", "autonomy": 1, "zone": "eu", "attestation": "oidc" } }])
        };
        assert!(
            case(|case| {
                case["request"]["principal"] = "Agent::\"new-bot\"".into();
                case["entities"] = agent("new-bot", &["support"]);
            })
            .passed()
        );
        let text = failure(|case| case["entities"] = agent("support-bot", &[]));
        assert!(text.contains("expected allow, got deny"), "{text}");
    }

    #[test]
    fn facts_of_a_case_are_in_force_about_whomever_it_concerns() {
        for about in [
            "agent/support-bot",
            "tool/crm",
            "user/u-17",
            "task",
            "environment/production",
        ] {
            let stated = |value: &str| {
                case(|case| {
                    case["request"]["context"]["on_behalf_of"] = "u-17".into();
                    case["facts"] = serde_json::json!([{ "about": about, "name": "risk", "value": value }]);
                    if value == "high" {
                        case["decision"] = "deny".into();
                        case["reason"] = serde_json::json!(["risky"]);
                    }
                })
            };
            for value in ["high", "low"] {
                assert!(stated(value).passed(), "{about}: {}", stated(value));
            }
        }
    }

    #[test]
    fn a_fact_that_would_change_nothing_is_a_mistake() {
        let stated = |about: &str| serde_json::json!([{ "about": about, "name": "risk", "value": "high" }]);
        for about in [
            "agent/report-bot",
            "tool/reports",
            "user/u-17",
            "environment/staging",
        ] {
            let text = failure(|case| case["facts"] = stated(about));
            assert!(
                text.contains(&format!("the case does not concern `{about}`")),
                "{text}"
            );
        }
        let text = failure(|case| {
            case["request"]["context"]["has_task"] = false.into();
            case["facts"] = stated("task");
        });
        assert!(text.contains("the case does not concern `task`"), "{text}");
        let text = failure(|case| {
            case["request"]["context"]["on_behalf_of"] = "u-17".into();
            case["entities"] = serde_json::json!([{ "uid": {"type": "User", "id": "u-17"}, "parents": [],
                "attrs": {}, "tags": {"risk": "low"} }]);
            case["facts"] = stated("user/u-17");
        });
        assert!(text.contains("`user/u-17` is given in `entities`"), "{text}");
    }

    #[test]
    fn a_case_that_cannot_be_asked_says_why() {
        for (part, value, words) in [
            ("principal", "Agent::\"nobody\"", "no agent is named `nobody`"),
            ("principal", "Role::\"support\"", "has to be of the type `Agent`"),
            ("principal", "support-bot", "names no entity"),
            ("action", "Action::\"crm:raed\"", "no action is named `crm:raed`"),
            (
                "action",
                "Action::\"payments:read\"",
                "the action is of `payments`",
            ),
            ("resource", "Resource::\"crm/..\"", "resource path"),
        ] {
            let text = failure(|case| case["request"][part] = value.into());
            assert!(text.starts_with("INVALID n") && text.contains(words), "{text}");
        }
        let text = failure(|case| case["request"]["context"]["purpse"] = "x".into());
        assert!(text.contains("purpse"), "{text}");
        let text = failure(|case| case["expected"] = "x".into());
        assert!(text.contains("unknown field"), "{text}");
        let text = failure(|case| case["entities"] = "entities.json".into());
        assert!(text.contains("into the case itself"), "{text}");
        assert!(run(&samples::engine(&samples::registry(), ""), "{}").is_err());
    }
}
