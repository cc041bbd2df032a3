//! Agents and tools as the registry and the catalogue have them, and the journal.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use crate::model::agent::{Agent, AgentStatus};
use crate::model::name::{AgentName, Environment, Operation, Owner, ProviderName, Role, ToolName, Zone};
use crate::model::origin::Origin;
use crate::model::time::Timestamp;
use crate::model::tool::{Effect, Risk, Sensitivity, Tool};
use crate::model::ttl::Ttl;

/// A registered agent.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Agent)]
pub struct AgentAnswer {
    /// Its name.
    #[schema(value_type = String)]
    pub name: AgentName,
    /// Who answers for it.
    #[schema(value_type = Option<String>)]
    pub owner: Option<Owner>,
    /// What it is for.
    pub purpose: String,
    /// Where it runs.
    #[schema(value_type = String)]
    pub environment: Environment,
    /// How much it may do alone, from 0 to 5.
    pub autonomy: u8,
    /// Its zone.
    #[schema(value_type = String)]
    pub zone: Zone,
    /// The roles that policies name.
    #[schema(value_type = Vec<String>)]
    pub roles: BTreeSet<Role>,
    /// In service or not: `active`, `suspended` or `retired`.
    #[schema(value_type = String)]
    pub status: AgentStatus,
    /// After the end of this day (UTC) it gets nothing until somebody reviewed it.
    #[schema(format = Date)]
    pub review_by: String,
    /// On whose behalf it may open tasks: user ids, and patterns of them with one `*`.
    pub may_act_for: Vec<String>,
    /// The tools whose tokens it may introspect: those for which it is the resource server.
    #[schema(value_type = Vec<String>)]
    pub serves: BTreeSet<ToolName>,
    /// The longest life of one of its credentials, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u32>)]
    pub max_ttl: Option<Ttl>,
    /// How many of its credentials may be live at the same time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub live_credentials: Option<u32>,
    /// How many of its tasks may be open at the same time; absent, as many as the configuration says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open_tasks: Option<u32>,
    /// Facts that its owner states about it.
    pub facts: BTreeMap<String, String>,
    /// Why it gets nothing; absent when it is in good standing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

impl AgentAnswer {
    /// The agent, as it stands at this instant.
    pub fn of(agent: &Agent, now: Timestamp) -> Self {
        Self {
            name: agent.name.clone(),
            owner: agent.owner.clone(),
            purpose: agent.purpose.clone(),
            environment: agent.environment.clone(),
            autonomy: agent.autonomy.level(),
            zone: agent.zone.clone(),
            roles: agent.roles.clone(),
            status: agent.status,
            review_by: last_day_before(agent.review_by),
            may_act_for: agent.may_act_for.iter().map(ToString::to_string).collect(),
            serves: agent.serves.clone(),
            max_ttl: agent.ceilings.ttl,
            live_credentials: agent.ceilings.live_credentials,
            open_tasks: agent.ceilings.open_tasks,
            facts: agent.facts.clone(),
            refused: agent.standing(now).err().map(|standing| standing.to_string()),
        }
    }
}

/// The day that the file names: the one that ends at this instant.
fn last_day_before(end: Timestamp) -> String {
    let last = end.minus(Duration::from_millis(1)).to_string();
    last.split_once('T')
        .map_or(last.clone(), |(day, _)| day.to_owned())
}

/// The registered agents, by name.
#[derive(Debug, Serialize, ToSchema)]
pub struct Agents {
    /// The agents.
    pub agents: Vec<AgentAnswer>,
}

/// A catalogued tool. What its provider needs to know about it is not shown.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Tool)]
pub struct ToolAnswer {
    /// Its name.
    #[schema(value_type = String)]
    pub name: ToolName,
    /// What it is.
    pub description: String,
    /// Who answers for it.
    #[schema(value_type = String)]
    pub owner: Owner,
    /// What can be done with it, and what each action does to the world.
    #[schema(value_type = BTreeMap<String, String>)]
    pub actions: BTreeMap<Operation, Effect>,
    /// How much harm it can do: `low`, `medium`, `high` or `critical`.
    #[schema(value_type = String)]
    pub risk: Risk,
    /// How sensitive its data is: `public`, `internal`, `confidential` or `restricted`.
    #[schema(value_type = String)]
    pub sensitivity: Sensitivity,
    /// Its zone.
    #[schema(value_type = String)]
    pub zone: Zone,
    /// Where it runs.
    #[schema(value_type = String)]
    pub environment: Environment,
    /// The `aud` of tokens for it.
    pub audience: String,
    /// Where its credentials may be sent.
    #[schema(value_type = Vec<String>)]
    pub origins: Arc<[Origin]>,
    /// Who mints for it.
    #[schema(value_type = String)]
    pub provider: ProviderName,
    /// The longest life of a credential for it, in seconds.
    #[schema(value_type = u32)]
    pub max_ttl: Ttl,
    /// The life of a credential when the agent asks for none, in seconds.
    #[schema(value_type = u32)]
    pub default_ttl: Ttl,
    /// How many of its credentials may be live at the same time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub live_credentials: Option<u32>,
    /// Facts that its owner states about it.
    pub facts: BTreeMap<String, String>,
}

impl From<&Tool> for ToolAnswer {
    fn from(tool: &Tool) -> Self {
        Self {
            name: tool.name.clone(),
            description: tool.description.clone(),
            owner: tool.owner.clone(),
            actions: tool.actions.clone(),
            risk: tool.risk,
            sensitivity: tool.sensitivity,
            zone: tool.zone.clone(),
            environment: tool.environment.clone(),
            audience: tool.audience.clone(),
            origins: tool.origins.clone(),
            provider: tool.binding.provider.clone(),
            max_ttl: tool.max_ttl,
            default_ttl: tool.default_ttl,
            live_credentials: tool.live_credentials,
            facts: tool.facts.clone(),
        }
    }
}

/// The catalogued tools, by name.
#[derive(Debug, Serialize, ToSchema)]
pub struct Tools {
    /// The tools.
    pub tools: Vec<ToolAnswer>,
}

/// Which records.
#[derive(Clone, Copy, Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct WhichRecords {
    /// The first, counted from 0.
    #[serde(default)]
    pub from: u64,
    /// How many at most, 1 to 1000; 100 when absent.
    #[serde(default = "usual")]
    #[param(minimum = 1, maximum = 1000)]
    pub limit: usize,
}

/// The most records in one answer.
pub const MOST_RECORDS: usize = 1000;

fn usual() -> usize {
    100
}

/// A part of the journal.
#[derive(Debug, Serialize, ToSchema)]
pub struct Records {
    /// The records, byte for byte as they were written: canonical JSON (RFC 8785), one leaf each.
    #[schema(value_type = Vec<Object>)]
    pub records: Vec<Box<RawValue>>,
    /// The `from` of the next part.
    pub next: u64,
    /// The newest signed checkpoint (C2SP tlog-checkpoint). It covers all of these.
    pub checkpoint: String,
}

impl Records {
    /// The lines from `from` on, as they were written.
    pub fn new(from: u64, lines: Vec<String>, checkpoint: String) -> Result<Self, serde_json::Error> {
        let records: Vec<Box<RawValue>> = lines
            .into_iter()
            .map(RawValue::from_string)
            .collect::<Result<_, _>>()?;
        let count = u64::try_from(records.len()).unwrap_or(u64::MAX);
        Ok(Self {
            records,
            next: from.saturating_add(count),
            checkpoint,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_leave_as_they_were_written() {
        let lines = vec![
            r#"{"at":1,"verb":"open"}"#.to_owned(),
            r#"{"b":2,"a":1}"#.to_owned(),
        ];
        let records = Records::new(40, lines, "cp".into()).unwrap();
        assert_eq!(records.next, 42);
        let text = serde_json::to_string(&records).unwrap();
        assert!(
            text.contains(r#"[{"at":1,"verb":"open"},{"b":2,"a":1}]"#),
            "{text}"
        );
        assert!(Records::new(0, vec!["{".into()], String::new()).is_err());
    }
}
