//! The blast radius: which live leases an order or a change of rules would end, before it is given.

use std::collections::BTreeMap;

use crate::model::lease::Lease;
use crate::model::name::{AgentName, Owner, ToolName};
use crate::registry::Registry;

/// How many live leases would end, and whose.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Blast {
    /// All of them.
    pub leases: u64,
    /// By the agent that holds them.
    pub agents: BTreeMap<AgentName, u64>,
    /// By what they are for.
    pub tools: BTreeMap<ToolName, u64>,
    /// By who answers for the agent; those of agents without an owner are in none.
    pub owners: BTreeMap<Owner, u64>,
}

impl Blast {
    /// Counts one lease.
    pub(super) fn count(&mut self, registry: &Registry, lease: &Lease) {
        self.leases += 1;
        *self.agents.entry(lease.agent.clone()).or_default() += 1;
        *self.tools.entry(lease.tool.clone()).or_default() += 1;
        let owner = registry.agent(&lease.agent).and_then(|agent| agent.owner.clone());
        if let Some(owner) = owner {
            *self.owners.entry(owner).or_default() += 1;
        }
    }
}
