//! What differs between two registries, as far as decisions and the bounds of credentials look at it.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::agent::Agent;
use crate::model::name::{AgentName, ToolName};
use crate::model::tool::Tool;

use super::Registry;
use super::matching::MatchRule;

/// Whose entries differ.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Difference {
    /// Agents that are only in one of them, or of which an entry or a match rule differs.
    pub agents: BTreeSet<AgentName>,
    /// Tools that are only in one of them, or of which the entry differs.
    pub tools: BTreeSet<ToolName>,
}

impl Registry {
    /// What differs from another. What entries say only to people (purpose, description) does not count.
    pub fn difference(&self, other: &Self) -> Difference {
        let mut agents = differing(&self.agents, &other.agents, |one, two| same_agent(one, two));
        let (rules, others) = (self.rules_by_agent(), other.rules_by_agent());
        agents.extend(differing(&rules, &others, same_rules).into_iter().cloned());
        Difference {
            agents,
            tools: differing(&self.tools, &other.tools, |one, two| same_tool(one, two)),
        }
    }

    fn rules_by_agent(&self) -> BTreeMap<&AgentName, Vec<&MatchRule>> {
        let mut rules: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (rule, agent) in self.rules() {
            rules.entry(agent).or_default().push(rule);
        }
        rules
    }
}

/// The keys of which the values are not the same in both.
fn differing<K: Ord + Clone, V>(
    one: &BTreeMap<K, V>,
    two: &BTreeMap<K, V>,
    same: impl Fn(&V, &V) -> bool,
) -> BTreeSet<K> {
    let keys = one.keys().chain(two.keys());
    let differs = |key: &&K| match (one.get(key), two.get(key)) {
        (Some(one), Some(two)) => !same(one, two),
        _ => true,
    };
    keys.filter(differs).cloned().collect()
}

// Everything counts but what is named here, so that a new field does.

fn same_agent(one: &Agent, two: &Agent) -> bool {
    let said = |agent: &Agent| Agent {
        purpose: String::new(),
        ..agent.clone()
    };
    one == two || said(one) == said(two)
}

fn same_tool(one: &Tool, two: &Tool) -> bool {
    let said = |tool: &Tool| Tool {
        description: String::new(),
        origins: [].into(),
        ..tool.clone()
    };
    one == two || said(one) == said(two)
}

/// Rules are in no order.
fn same_rules(one: &Vec<&MatchRule>, two: &Vec<&MatchRule>) -> bool {
    one.len() == two.len()
        && one.iter().all(|rule| two.contains(rule))
        && two.iter().all(|rule| one.contains(rule))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::attestation::EvidenceKind;
    use crate::registry::{builtin, tests};

    fn with(change: impl FnOnce(&mut Agent, &mut Tool), subject: &str) -> Registry {
        let mut agent = tests::agent("a");
        let mut tool = Tool {
            name: "t".parse().unwrap(),
            ..builtin::dayfly()
        };
        change(&mut agent, &mut tool);
        let subject = format!("spiffe://example.org/{subject}").parse().unwrap();
        let rule = MatchRule::new(EvidenceKind::JwtSvid, None, Some(subject), BTreeMap::new()).unwrap();
        let name = agent.name.clone();
        Registry::new([agent], [(rule, name)], [tool]).unwrap()
    }

    fn difference(change: impl FnOnce(&mut Agent, &mut Tool)) -> (usize, usize) {
        let found = with(|_, _| {}, "a").difference(&with(change, "a"));
        (found.agents.len(), found.tools.len())
    }

    #[test]
    fn what_decisions_or_bounds_look_at_counts_and_words_for_people_do_not() {
        assert_eq!(difference(|_, _| {}), (0, 0));
        assert_eq!(
            difference(|agent, tool| {
                agent.purpose = "another".into();
                tool.description = "another".into();
                tool.origins = ["https://a.example".parse().unwrap()].into();
            }),
            (0, 0)
        );
        assert_eq!(
            difference(|agent, _| agent.roles.extend(["r".parse().unwrap()])),
            (1, 0)
        );
        assert_eq!(
            difference(|agent, _| agent.ceilings.live_credentials = Some(1)),
            (1, 0)
        );
        assert_eq!(difference(|_, tool| tool.max_ttl = "2m".parse().unwrap()), (0, 1));
        assert_eq!(
            difference(|_, tool| drop(tool.facts.insert("a".into(), "b".into()))),
            (0, 1)
        );
    }

    #[test]
    fn who_is_only_in_one_and_whose_rules_changed_is_found() {
        let found = with(|_, _| {}, "a").difference(&with(|_, _| {}, "b"));
        assert_eq!((found.agents.len(), found.tools.len()), (1, 0));
        let renamed = with(
            |agent, tool| {
                agent.name = "b".parse().unwrap();
                tool.name = "u".parse().unwrap();
            },
            "a",
        );
        let found = with(|_, _| {}, "a").difference(&renamed);
        assert_eq!((found.agents.len(), found.tools.len()), (2, 2));
    }
}
