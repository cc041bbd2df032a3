//! Agents: the registered principals that workloads map to, each with an owner and a status.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::acting::UserPattern;
use super::name::{AgentName, Environment, Owner, Role, ToolName, UserId, Zone};
use super::time::Timestamp;
use super::ttl::Ttl;

/// How much an agent may do without a person, from 0 (a person confirms each step) to 5 (alone).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "u8")]
pub struct Autonomy(u8);

impl Autonomy {
    /// The level as a number from 0 to 5.
    pub const fn level(self) -> u8 {
        self.0
    }
}

impl TryFrom<u8> for Autonomy {
    type Error = &'static str;

    fn try_from(level: u8) -> Result<Self, Self::Error> {
        if level <= 5 {
            Ok(Self(level))
        } else {
            Err("an autonomy level is a number from 0 to 5")
        }
    }
}

/// What the owner says about the agent as a whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentStatus {
    /// In service.
    #[default]
    Active,
    /// Out of service for now.
    Suspended,
    /// Out of service for good; the entry stays so that the name is not reused.
    Retired,
}

/// Upper limits that hold for an agent whatever policy says.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentCeilings {
    /// The longest life of one of its credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Ttl>,
    /// How many of its credentials may be live at the same time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live_credentials: Option<u32>,
    /// How many of its tasks may be open, or suspended, at the same time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_tasks: Option<u32>,
}

/// A registered agent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Agent {
    /// Its name, unique in the registry.
    pub name: AgentName,
    /// Who answers for it. An agent without an owner gets nothing.
    pub owner: Option<Owner>,
    /// What it is for, for people.
    pub purpose: String,
    /// Where it runs.
    pub environment: Environment,
    /// How much it may do alone.
    pub autonomy: Autonomy,
    /// Its network or data zone.
    pub zone: Zone,
    /// The roles that policies name.
    pub roles: BTreeSet<Role>,
    /// In service or not.
    pub status: AgentStatus,
    /// After this instant it gets nothing until somebody reviewed it.
    pub review_by: Timestamp,
    /// On whose behalf it may open tasks; nobody's, unless somebody is named.
    pub may_act_for: Vec<UserPattern>,
    /// The tools for which it is the resource server: only of tokens for these is it told whether they hold.
    pub serves: BTreeSet<ToolName>,
    /// Limits that hold whatever policy says.
    pub ceilings: AgentCeilings,
    /// Facts that its owner states about it; policies see them as tags.
    pub facts: BTreeMap<String, String>,
}

/// Why a registered agent gets nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Nobody answers for it.
    #[error("the agent has no owner: name one in its registry entry")]
    Unowned,
    /// Suspended by its owner.
    #[error("the agent is suspended: its owner can set `status = \"active\"`")]
    Suspended,
    /// Retired.
    #[error("the agent is retired: register a new one")]
    Retired,
    /// Its review date has passed.
    #[error("the agent's review is overdue: its owner reviews it and moves `review_by`")]
    ReviewOverdue,
}

impl Agent {
    /// Whether it may act on behalf of this user.
    pub fn may_act_for(&self, user: &UserId) -> bool {
        self.may_act_for.iter().any(|pattern| pattern.matches(user))
    }

    /// Whether the agent may be given anything at all at this instant.
    pub fn standing(&self, now: Timestamp) -> Result<(), Standing> {
        match self.status {
            AgentStatus::Suspended => Err(Standing::Suspended),
            AgentStatus::Retired => Err(Standing::Retired),
            AgentStatus::Active if self.owner.is_none() => Err(Standing::Unowned),
            AgentStatus::Active if self.review_by <= now => Err(Standing::ReviewOverdue),
            AgentStatus::Active => Ok(()),
        }
    }
}
