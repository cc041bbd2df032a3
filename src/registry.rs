//! The registry and the catalogue: which agents there are, which workloads map to them, which tools
//! there are. Files in Git, loaded as one immutable set.
//!
//! [`Registry::admit`] is the second step of every request: a proven workload becomes a [`Caller`],
//! or is refused and recorded as a sighting. Only this module can make a `Caller`.

pub mod builtin;
pub mod difference;
pub mod files;
pub mod matching;
pub mod revision;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::identity::Workload;
use crate::model::agent::{Agent, Standing};
use crate::model::name::{AgentName, ToolName};
use crate::model::spiffe::SpiffeId;
use crate::model::time::Timestamp;
use crate::model::tool::Tool;

use matching::MatchRule;

/// The name of the tool that stands for Dayfly itself: what callers may do here is a policy question
/// like any other, about actions such as `dayfly:revoke`.
pub const DAYFLY: &str = "dayfly";

/// A rule and the agent that it stands for.
type OwnedRule = (MatchRule, AgentName);

/// Agents, their match rules, and tools. The tool [`DAYFLY`] is always there.
#[derive(Debug)]
pub struct Registry {
    agents: BTreeMap<AgentName, Arc<Agent>>,
    /// Rules that name one subject whole, by that subject: the usual kind, found without a search.
    exact: HashMap<String, Vec<OwnedRule>>,
    /// All other rules.
    wide: Vec<OwnedRule>,
    tools: BTreeMap<ToolName, Arc<Tool>>,
}

/// Why agents, rules and tools are no registry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRegistry {
    /// Two agents of one name.
    #[error("the agent `{0}` is registered twice")]
    AgentTwice(AgentName),
    /// Two tools of one name.
    #[error("the tool `{0}` is catalogued twice")]
    ToolTwice(ToolName),
    /// A tool took the name that stands for Dayfly itself.
    #[error("the tool name `{DAYFLY}` stands for Dayfly itself: choose another")]
    Reserved,
    /// An agent is the resource server of a tool that is not there.
    #[error("the agent `{0}` serves the tool `{1}`, which is not in the catalogue")]
    UnknownTool(AgentName, ToolName),
    /// A rule for an agent that is not there.
    #[error("a match rule names the agent `{0}`, which is not registered")]
    UnknownAgent(AgentName),
    /// Whoever fits a rule of one agent fits a rule of the other, so it could never be admitted.
    #[error("every workload that is `{narrow}` by a match rule is `{wide}` too: nobody could say which")]
    Overlap {
        /// The agent with the narrower rule, or one of two with the same rule.
        narrow: AgentName,
        /// The agent whose rule covers it.
        wide: AgentName,
    },
}

/// A proven workload that is a registered agent in good standing. Only [`Registry::admit`] makes one.
#[derive(Clone, Debug)]
pub struct Caller {
    workload: Arc<Workload>,
    agent: Arc<Agent>,
}

impl Caller {
    /// The proven workload.
    pub fn workload(&self) -> &Workload {
        &self.workload
    }

    /// The agent that it is.
    pub fn agent(&self) -> &Arc<Agent> {
        &self.agent
    }
}

/// Why a proven workload gets nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAdmitted {
    /// No agent's match rule fits.
    #[error("this workload is not registered as an agent")]
    Unregistered,
    /// More than one agent's match rules fit, so nobody can say which one it is.
    #[error("this workload matches more than one agent: `{0}` and `{1}`")]
    Ambiguous(AgentName, AgentName),
    /// The agent is registered but may not be given anything.
    #[error("{standing}")]
    Standing {
        /// Which agent.
        agent: AgentName,
        /// Why not.
        standing: Standing,
    },
}

impl Default for Registry {
    fn default() -> Self {
        let dayfly = builtin::dayfly();
        Self {
            agents: BTreeMap::new(),
            exact: HashMap::new(),
            wide: Vec::new(),
            tools: BTreeMap::from([(dayfly.name.clone(), Arc::new(dayfly))]),
        }
    }
}

impl Registry {
    /// A registry in which every name is unique and no rule is swallowed by another agent's.
    pub fn new(
        agents: impl IntoIterator<Item = Agent>,
        rules: impl IntoIterator<Item = (MatchRule, AgentName)>,
        tools: impl IntoIterator<Item = Tool>,
    ) -> Result<Self, InvalidRegistry> {
        let registry = Self::build(agents, rules, tools)?;
        let overlap = registry.overlaps().next().map(|(narrow, wide)| {
            let (narrow, wide) = (narrow.1.clone(), wide.1.clone());
            InvalidRegistry::Overlap { narrow, wide }
        });
        overlap.map_or(Ok(registry), Err)
    }

    /// A registry whose rules may still overlap.
    fn build(
        agents: impl IntoIterator<Item = Agent>,
        rules: impl IntoIterator<Item = (MatchRule, AgentName)>,
        tools: impl IntoIterator<Item = Tool>,
    ) -> Result<Self, InvalidRegistry> {
        let mut registry = Self::default();
        for agent in agents {
            let name = agent.name.clone();
            if registry.agents.insert(name.clone(), Arc::new(agent)).is_some() {
                return Err(InvalidRegistry::AgentTwice(name));
            }
        }
        for tool in tools {
            let name = tool.name.clone();
            if name.as_str() == DAYFLY {
                return Err(InvalidRegistry::Reserved);
            }
            if registry.tools.insert(name.clone(), Arc::new(tool)).is_some() {
                return Err(InvalidRegistry::ToolTwice(name));
            }
        }
        for agent in registry.agents.values() {
            let unknown = |tool: &&ToolName| tool.as_str() == DAYFLY || !registry.tools.contains_key(*tool);
            if let Some(tool) = agent.serves.iter().find(unknown) {
                return Err(InvalidRegistry::UnknownTool(agent.name.clone(), tool.clone()));
            }
        }
        for (rule, agent) in rules {
            if !registry.agents.contains_key(&agent) {
                return Err(InvalidRegistry::UnknownAgent(agent));
            }
            match rule.exact_subject().map(str::to_owned) {
                Some(subject) => registry.exact.entry(subject).or_default().push((rule, agent)),
                None => registry.wide.push((rule, agent)),
            }
        }
        Ok(registry)
    }

    /// Pairs of rules of two agents of which the second covers the first.
    fn overlaps(&self) -> impl Iterator<Item = (&OwnedRule, &OwnedRule)> {
        self.rules()
            .flat_map(|narrow| {
                self.candidates(narrow.0.exact_subject())
                    .map(move |wide| (narrow, wide))
            })
            .filter(|(narrow, wide)| narrow.1 != wide.1 && wide.0.covers(&narrow.0))
    }

    /// The rules that can fit a subject.
    fn candidates<'a>(&'a self, subject: Option<&str>) -> impl Iterator<Item = &'a OwnedRule> + use<'a> {
        let exact = subject.and_then(|subject| self.exact.get(subject));
        exact.into_iter().flatten().chain(&self.wide)
    }

    /// Maps a workload to its agent and checks that the agent is in good standing.
    pub fn admit(&self, workload: Arc<Workload>, now: Timestamp) -> Result<Caller, NotAdmitted> {
        let attestation = workload.attestation();
        let mut matching = self
            .candidates(Some(&attestation.subject))
            .filter(|(rule, _)| rule.matches(attestation))
            .map(|(_, name)| name);
        let name = matching.next().ok_or(NotAdmitted::Unregistered)?;
        if let Some(other) = matching.find(|other| *other != name) {
            return Err(NotAdmitted::Ambiguous(name.clone(), other.clone()));
        }
        let agent = self.agents.get(name).ok_or(NotAdmitted::Unregistered)?.clone();
        agent.standing(now).map_err(|standing| NotAdmitted::Standing {
            agent: agent.name.clone(),
            standing,
        })?;
        Ok(Caller { workload, agent })
    }

    /// Admits a caller anew, as the agent that it was: since then the agent may have been suspended in
    /// a new revision, its review may have fallen due, or the workload may be another's now.
    pub fn readmit(&self, caller: &Caller, now: Timestamp) -> Result<Caller, NotAdmitted> {
        let again = self.admit(Arc::clone(&caller.workload), now)?;
        if again.agent.name == caller.agent.name {
            Ok(again)
        } else {
            Err(NotAdmitted::Unregistered)
        }
    }

    /// The agents that a workload with this SPIFFE ID may be: one, unless rules look at its claims too.
    pub fn agents_of(&self, id: &SpiffeId) -> Vec<&Arc<Agent>> {
        let fitting = self
            .candidates(Some(id.as_str()))
            .filter(|(rule, _)| rule.may_be(id));
        let names: BTreeSet<&AgentName> = fitting.map(|(_, name)| name).collect();
        names
            .into_iter()
            .filter_map(|name| self.agents.get(name))
            .collect()
    }

    /// The agent of that name.
    pub fn agent(&self, name: &AgentName) -> Option<&Arc<Agent>> {
        self.agents.get(name)
    }

    /// Every agent, by name.
    pub fn agents(&self) -> impl Iterator<Item = &Arc<Agent>> {
        self.agents.values()
    }

    /// Every match rule with the agent that it stands for, in no order.
    pub fn rules(&self) -> impl Iterator<Item = &(MatchRule, AgentName)> {
        self.exact.values().flatten().chain(&self.wide)
    }

    /// The tool of that name.
    pub fn tool(&self, name: &ToolName) -> Option<&Arc<Tool>> {
        self.tools.get(name)
    }

    /// Every tool, by name.
    pub fn tools(&self) -> impl Iterator<Item = &Arc<Tool>> {
        self.tools.values()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::model::agent::{AgentCeilings, AgentStatus, Autonomy};

    pub(super) fn agent(name: &str) -> Agent {
        Agent {
            name: name.parse().unwrap(),
            owner: None,
            purpose: String::new(),
            environment: "test".parse().unwrap(),
            autonomy: Autonomy::try_from(0).unwrap(),
            zone: "eu".parse().unwrap(),
            roles: BTreeSet::new(),
            status: AgentStatus::Active,
            review_by: Timestamp::MAX,
            may_act_for: Vec::new(),
            serves: BTreeSet::new(),
            ceilings: AgentCeilings::default(),
            facts: BTreeMap::new(),
        }
    }

    fn rule(path: &str, agent: &str) -> (MatchRule, AgentName) {
        let subject = format!("spiffe://example.org/{path}").parse().unwrap();
        let rule = MatchRule::new(
            crate::model::attestation::EvidenceKind::JwtSvid,
            None,
            Some(subject),
            BTreeMap::new(),
        );
        (rule.unwrap(), agent.parse().unwrap())
    }

    #[test]
    fn refuses_agents_that_nobody_could_tell_apart() {
        let build = |rules: Vec<_>| Registry::new([agent("a"), agent("b")], rules, []).map(|_| ());
        assert_eq!(
            build(vec![rule("x", "a"), rule("y", "b"), rule("z/*", "b")]),
            Ok(())
        );
        assert_eq!(
            build(vec![rule("x", "a"), rule("x", "a")]),
            Ok(()),
            "one agent twice"
        );
        for (wide, narrow) in [("x", "x"), ("x/*", "x/y"), ("x/*", "x/*"), ("x/*", "x/y/*")] {
            let refusal = build(vec![rule(narrow, "a"), rule(wide, "b")]);
            assert!(
                matches!(refusal, Err(InvalidRegistry::Overlap { .. })),
                "{wide} {narrow}"
            );
        }
    }

    #[test]
    fn refuses_names_that_are_taken_and_rules_for_nobody() {
        let twice = Registry::new([agent("a"), agent("a")], [], []);
        assert_eq!(
            twice.err(),
            Some(InvalidRegistry::AgentTwice("a".parse().unwrap()))
        );
        let nobody = Registry::new([agent("a")], [rule("x", "b")], []);
        assert_eq!(
            nobody.err(),
            Some(InvalidRegistry::UnknownAgent("b".parse().unwrap()))
        );
        for tool in ["crm", DAYFLY] {
            let server = Agent {
                serves: [tool.parse().unwrap()].into(),
                ..agent("a")
            };
            assert_eq!(
                Registry::new([server], [], []).err(),
                Some(InvalidRegistry::UnknownTool(
                    "a".parse().unwrap(),
                    tool.parse().unwrap()
                ))
            );
        }
        assert_eq!(
            Registry::new([], [], [builtin::dayfly()]).err(),
            Some(InvalidRegistry::Reserved)
        );
    }
}
