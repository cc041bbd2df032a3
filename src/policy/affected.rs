//! Whom a new set of policies, agents and tools can concern: told from what differs, without a decision.
//!
//! A policy that was added, removed or changed can matter only to requests that its head fits, and an entry
//! only to requests of this agent or about this tool. What cannot be told counts as everything: to decide
//! anew for nothing is never wrong.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::model::cutoff::Selector;
use crate::model::decision::PolicyId;
use crate::model::name::{AgentName, ToolName};
use crate::registry::Registry;

use super::PolicyEngine;
use super::index::{self, What, Where, Who};
use super::load::Loaded;

/// The most names that are told apart; more are everything.
const MOST_NAMES: usize = 64;

/// The policies of a set, to be compared with those of another.
#[derive(Debug)]
pub struct Outline<'a>(HashMap<&'a PolicyId, &'a Loaded>);

impl<'a> Outline<'a> {
    pub(super) fn of(policies: &'a [Loaded]) -> Self {
        Self(policies.iter().map(|loaded| (&loaded.id, loaded)).collect())
    }

    /// The policies of both that are not the same in both.
    fn differing<'b>(&'b self, other: &'b Self) -> impl Iterator<Item = &'b Loaded> {
        let without = |one: &'b Self, two: &'b Self| {
            let differs = |(id, loaded): &(&&PolicyId, &&'b Loaded)| {
                two.0.get(**id).is_none_or(|other| !same(loaded, other))
            };
            one.0.iter().filter(differs).map(|(_, loaded)| *loaded)
        };
        without(self, other).chain(without(other, self))
    }
}

fn same(one: &Loaded, two: &Loaded) -> bool {
    one.terms == two.terms && one.policy.to_string() == two.policy.to_string()
}

/// What decides: an engine and the registry that it decides about.
#[derive(Clone, Copy)]
pub struct InForce<'a> {
    /// Policies.
    pub engine: &'a dyn PolicyEngine,
    /// Agents and tools.
    pub registry: &'a Registry,
}

/// Whom a difference can concern.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Affected {
    /// Whomever.
    Everything,
    /// Requests of these agents, and requests about these tools. All others are answered as before, but
    /// for the revision.
    Only {
        /// These agents.
        agents: BTreeSet<AgentName>,
        /// These tools.
        tools: BTreeSet<ToolName>,
    },
}

impl Affected {
    /// Whether a request of this agent about this tool may be answered otherwise than before.
    pub fn concerns(&self, agent: &AgentName, tool: &ToolName) -> bool {
        match self {
            Self::Everything => true,
            Self::Only { agents, tools } => agents.contains(agent) || tools.contains(tool),
        }
    }

    /// The leases that are to be decided anew: those that any of these fits. None when nothing is affected.
    pub fn selectors(&self) -> Vec<Selector> {
        match self {
            Self::Everything => vec![Selector::All],
            Self::Only { agents, tools } => {
                let agents = agents.iter().cloned().map(Selector::Agent);
                agents.chain(tools.iter().cloned().map(Selector::Tool)).collect()
            }
        }
    }
}

/// Whom the difference between what was and what is in force can concern: at most 64 names, or everything.
pub fn affected(before: InForce<'_>, after: InForce<'_>) -> Affected {
    let (Some(old), Some(new)) = (before.engine.outline(), after.engine.outline()) else {
        return Affected::Everything;
    };
    let difference = before.registry.difference(after.registry);
    let (mut agents, mut tools) = (difference.agents, difference.tools);
    let registries = [before.registry, after.registry];
    for loaded in old.differing(&new) {
        if agents.len() + tools.len() > MOST_NAMES {
            break;
        }
        match reach(loaded, registries) {
            Reach::Everything => return Affected::Everything,
            Reach::Agents(more) => agents.extend(more),
            Reach::Tools(more) => tools.extend(more),
        }
    }
    if agents.len() + tools.len() > MOST_NAMES {
        return Affected::Everything;
    }
    Affected::Only { agents, tools }
}

/// The requests that the head of one policy can fit.
enum Reach {
    Everything,
    Agents(HashSet<AgentName>),
    Tools(HashSet<ToolName>),
}

/// By agents or by tools, whichever are fewer: each alone covers every request that the head fits.
fn reach(loaded: &Loaded, registries: [&Registry; 2]) -> Reach {
    match (agents(loaded, registries), tools(loaded, registries)) {
        (None, None) => Reach::Everything,
        (Some(agents), Some(tools)) if tools.len() < agents.len() => Reach::Tools(tools),
        (Some(agents), _) => Reach::Agents(agents),
        (None, Some(tools)) => Reach::Tools(tools),
    }
}

/// The agents that a head is about; `None` for any.
fn agents(loaded: &Loaded, registries: [&Registry; 2]) -> Option<HashSet<AgentName>> {
    match index::who(&loaded.policy) {
        Who::Anyone => None,
        Who::Agent(name) => Some(name.parse().into_iter().collect()),
        Who::Role(role) => {
            let all = registries.into_iter().flat_map(Registry::agents);
            let holders = all.filter(|agent| agent.roles.iter().any(|held| held.as_str() == role));
            Some(holders.map(|agent| agent.name.clone()).collect())
        }
    }
}

/// The tools that a head is about: those of its resource that are also of its actions; `None` for any.
fn tools(loaded: &Loaded, registries: [&Registry; 2]) -> Option<HashSet<ToolName>> {
    let place = match index::place(&loaded.policy) {
        Where::Anywhere => None,
        Where::Tool(name) => Some(name),
        Where::Path(path) => Some(path.split('/').next().unwrap_or_default().to_owned()),
    };
    let place: Option<HashSet<ToolName>> = place.map(|name| name.parse().into_iter().collect());
    let whats = index::what(&loaded.policy);
    let of_actions: Option<Vec<_>> = whats.iter().map(|what| tools_of(what, registries)).collect();
    let of_actions: Option<HashSet<ToolName>> = of_actions.map(|each| each.into_iter().flatten().collect());
    match (place, of_actions) {
        (Some(place), Some(of_actions)) => Some(place.intersection(&of_actions).cloned().collect()),
        (place, of_actions) => place.or(of_actions),
    }
}

/// The tools that have such an action; `None` for any.
fn tools_of(what: &What, registries: [&Registry; 2]) -> Option<HashSet<ToolName>> {
    let What::Action(name) = what else { return None };
    if let Some((tool, _)) = name.split_once(':') {
        return Some(tool.parse().into_iter().collect());
    }
    let all = registries.into_iter().flat_map(Registry::tools);
    let having = all.filter(|tool| tool.actions.values().any(|effect| effect.as_str() == name));
    Some(having.map(|tool| tool.name.clone()).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::cedar::CedarEngine;
    use super::super::cedar::tests::slicing;
    use super::super::samples::{self, Asked};
    use super::super::{Question, TaskContext};
    use super::*;
    use crate::model::agent::Agent;
    use crate::model::decision::Decision;
    use crate::model::tool::{Effect, Risk, Tool};

    fn names<T: std::str::FromStr + Ord>(names: &[&str]) -> BTreeSet<T>
    where
        T::Err: std::fmt::Debug,
    {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    fn only(agents: &[&str], tools: &[&str]) -> Affected {
        Affected::Only {
            agents: names(agents),
            tools: names(tools),
        }
    }

    fn between(before: &str, after: &str) -> Affected {
        let registry = samples::registry();
        let [before, after] = [before, after].map(|text| samples::engine(&registry, text));
        let [before, after] = [&before, &after].map(|engine| InForce {
            engine,
            registry: &registry,
        });
        affected(before, after)
    }

    const BASE: &str = r#"@id("base") permit(principal, action, resource);"#;

    #[test]
    fn a_policy_concerns_those_whom_its_head_fits() {
        for (head, expected) in [
            ("principal, action, resource", Affected::Everything),
            (
                r#"principal == Agent::"report-bot", action, resource"#,
                only(&["report-bot"], &[]),
            ),
            (
                r#"principal in Role::"support", action, resource"#,
                only(&["support-bot"], &[]),
            ),
            (
                r#"principal, action, resource in Tool::"crm""#,
                only(&[], &["crm"]),
            ),
            (
                r#"principal, action, resource in Resource::"crm/customers/7""#,
                only(&[], &["crm"]),
            ),
            (
                r#"principal, action == Action::"crm:read", resource"#,
                only(&[], &["crm"]),
            ),
            (
                r#"principal, action in Action::"payment", resource"#,
                only(&[], &["payments"]),
            ),
            (
                r#"principal in Role::"resource-server", action, resource in Tool::"crm""#,
                only(&["crm-server"], &[]),
            ),
        ] {
            let forbid = format!("{BASE} forbid({head}) when {{ context.requested_ttl > 60 }};");
            assert_eq!(between(BASE, &forbid), expected, "{head}");
            assert_eq!(between(&forbid, BASE), expected, "{head}");
        }
        let action = r#"@id("a") permit(principal, action == Action::"crm:read", resource);"#;
        for changed in [
            action.replace("@id(\"a\")", "@id(\"a\") @max_ttl(\"5m\")"),
            action.replace("crm:read", "crm:delete"),
            action.replace("@id(\"a\")", "@id(\"b\")"),
            action.replace("resource);", "resource) when { context.has_task };"),
        ] {
            assert_eq!(between(action, &changed), only(&[], &["crm"]), "{changed}");
        }
    }

    #[test]
    fn the_same_policies_in_another_order_and_place_concern_nobody() {
        let other = r#"@id("other") forbid(principal, action, resource in Tool::"crm");"#;
        let moved = format!("// a comment\n\n{other}\n{BASE}");
        let same = between(&format!("{BASE}{other}"), &moved);
        assert_eq!(same, only(&[], &[]));
        assert_eq!(same.selectors(), []);
    }

    #[test]
    fn more_than_a_list_of_names_is_everything() {
        let agents = |count| (0..count).map(|n| samples::agent(&format!("bot-{n}"), &["bots"], 1));
        let registry = |count| Registry::new(agents(count), [], []).unwrap();
        let text = r#"permit(principal in Role::"bots", action, resource);"#;
        for (count, everything) in [(64, false), (65, true)] {
            let registry = registry(count);
            let [before, after] = ["", text].map(|text| samples::engine(&registry, text));
            let [before, after] = [&before, &after].map(|engine| InForce {
                engine,
                registry: &registry,
            });
            assert_eq!(affected(before, after) == Affected::Everything, everything);
        }
    }

    #[derive(Clone, Copy, Debug)]
    enum Change {
        Nothing,
        Roles,
        Autonomy,
        Owner,
        Environment,
        AgentFact,
        Risk,
        Zone,
        Action,
        ToolFact,
    }

    fn change() -> impl Strategy<Value = Change> {
        prop::sample::select(vec![
            Change::Nothing,
            Change::Roles,
            Change::Autonomy,
            Change::Owner,
            Change::Environment,
            Change::AgentFact,
            Change::Risk,
            Change::Zone,
            Change::Action,
            Change::ToolFact,
        ])
    }

    /// The sample registry with one entry changed.
    fn changed(change: Change, name: &str, tool: &str) -> Registry {
        let registry = samples::registry();
        let mut agents: Vec<Agent> = registry.agents().map(|agent| (**agent).clone()).collect();
        let mut tools: Vec<Tool> = registry
            .tools()
            .filter(|tool| tool.name.as_str() != "dayfly")
            .map(|tool| (**tool).clone())
            .collect();
        let agent = agents
            .iter_mut()
            .find(|agent| agent.name.as_str() == name)
            .unwrap();
        let tool = tools
            .iter_mut()
            .find(|found| found.name.as_str() == tool)
            .unwrap();
        match change {
            Change::Nothing => {}
            Change::Roles => agent.roles = names(&["support", "reporting"]),
            Change::Autonomy => agent.autonomy = 1.try_into().unwrap(),
            Change::Owner => agent.owner = Some("risk".parse().unwrap()),
            Change::Environment => agent.environment = "staging".parse().unwrap(),
            Change::AgentFact => drop(agent.facts.insert("risk".into(), "high".into())),
            Change::Risk => tool.risk = Risk::High,
            Change::Zone => tool.zone = "us".parse().unwrap(),
            Change::Action => drop(tool.actions.insert("read".parse().unwrap(), Effect::Write)),
            Change::ToolFact => drop(tool.facts.insert("incident".into(), "high".into())),
        }
        Registry::new(agents, [], tools).unwrap()
    }

    fn policies() -> impl Strategy<Value = Vec<(String, String)>> {
        let terms = prop::sample::select(vec!["", "@max_ttl(\"5m\")", "@approval(\"lead\")"]);
        let policy =
            (terms, slicing::policy()).prop_map(|(terms, policy)| match policy.strip_prefix("forbid") {
                Some(_) => policy,
                None => format!("{terms} {policy}"),
            });
        prop::collection::vec(policy, 0..8)
            .prop_map(|texts| (0..).map(|n: usize| n.to_string()).zip(texts).collect())
    }

    /// Policies with some of them replaced, removed or moved.
    fn edited() -> impl Strategy<Value = [Vec<(String, String)>; 2]> {
        let kept = prop::collection::vec(0..4_u8, 8);
        (policies(), policies(), kept).prop_map(|(before, other, kept)| {
            let after = before
                .iter()
                .zip(kept)
                .enumerate()
                .filter_map(|(n, (policy, kept))| match kept {
                    0 => other.get(n).cloned(),
                    _ => Some(policy.clone()),
                });
            let after = after.rev().collect();
            [before, after]
        })
    }

    fn answer(
        engine: &CedarEngine,
        registry: &Registry,
        asked: &Asked,
        task: Option<&TaskContext>,
    ) -> Decision {
        let question = Question {
            agent: registry.agent(&asked.agent.name).unwrap(),
            tool: registry.tool(&asked.tool.name).unwrap(),
            task,
            ..asked.question()
        };
        engine.answer(&question)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn whoever_is_not_affected_is_answered_as_before(
            [before, after] in edited(),
            change in change(),
            whose in prop::sample::select(vec!["support-bot", "report-bot"]),
            which in prop::sample::select(vec!["crm", "reports"]),
            facts in slicing::stated(),
        ) {
            let old = samples::registry();
            let new = changed(change, whose, which);
            let engines = [samples::unchecked(&old, &before), samples::unchecked(&new, &after)];
            let affected = affected(
                InForce { engine: &engines[0], registry: &old },
                InForce { engine: &engines[1], registry: &new },
            );
            for agent in ["support-bot", "report-bot", "ops-console"] {
                for (what, paths) in [
                    ("crm:read", &["customers/42"][..]),
                    ("crm:read,comment", &[]),
                    ("crm:delete", &["customers"]),
                    ("reports:read,publish", &["daily"]),
                    ("payments:read", &[]),
                ] {
                    let mut asked = Asked::new(&old, agent, what, paths);
                    asked.task.on_behalf_of = Some("u-1".parse().unwrap());
                    if affected.concerns(&asked.agent.name, &asked.tool.name) {
                        continue;
                    }
                    for facts in &facts {
                        asked.facts = samples::facts(facts);
                        for task in [None, Some(&asked.task)] {
                            let before = answer(&engines[0], &old, &asked, task);
                            let after = answer(&engines[1], &new, &asked, task);
                            prop_assert_eq!(before, after, "{} {}", agent, what);
                        }
                    }
                }
            }
        }
    }
}
