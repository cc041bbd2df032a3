//! The registry and the catalogue: which agents there are, which workloads map to them, which tools
//! there are. Files in Git, loaded as one immutable set.
//!
//! [`Registry::admit`] is the second step of every request: a proven workload becomes a [`Caller`],
//! or is refused and recorded as a sighting. Only this module can make a `Caller`.

pub mod files;
pub mod matching;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::identity::Workload;
use crate::model::agent::{Agent, Standing};
use crate::model::name::{AgentName, ToolName};
use crate::model::time::Timestamp;
use crate::model::tool::Tool;

use matching::MatchRule;

/// The name of the tool that stands for Dayfly itself: what callers may do here is a policy question
/// like any other, about actions such as `dayfly:revoke`.
pub const DAYFLY: &str = "dayfly";

/// Agents, their match rules, and tools.
#[derive(Debug, Default)]
pub struct Registry {
    agents: BTreeMap<AgentName, Arc<Agent>>,
    rules: Vec<(MatchRule, AgentName)>,
    tools: BTreeMap<ToolName, Arc<Tool>>,
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

impl Registry {
    /// Maps a workload to its agent and checks that the agent is in good standing.
    pub fn admit(&self, workload: Arc<Workload>, now: Timestamp) -> Result<Caller, NotAdmitted> {
        let attestation = workload.attestation();
        let mut matching = self
            .rules
            .iter()
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

    /// The agent of that name.
    pub fn agent(&self, name: &AgentName) -> Option<&Arc<Agent>> {
        self.agents.get(name)
    }

    /// Every agent, by name.
    pub fn agents(&self) -> impl Iterator<Item = &Arc<Agent>> {
        self.agents.values()
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
