//! Tools: the catalogued systems that credentials are for, with their risk and their provider.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::name::{Environment, Operation, Owner, ProviderName, ToolName, Zone};
use super::origin::Origin;
use super::ttl::Ttl;

/// What an action does to the world. Policies permit or forbid by effect.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Looks.
    Read,
    /// Changes.
    Write,
    /// Removes.
    Delete,
    /// Changes infrastructure: deploys, scales, reconfigures.
    Infrastructure,
    /// Moves data across a border: exports, sends, shares.
    DataMovement,
    /// Moves money.
    Payment,
}

impl Effect {
    /// Every effect, mildest first.
    pub const ALL: [Self; 6] = [
        Self::Read,
        Self::Write,
        Self::Delete,
        Self::Infrastructure,
        Self::DataMovement,
        Self::Payment,
    ];

    /// The word that policies and records use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Delete => "delete",
            Self::Infrastructure => "infrastructure",
            Self::DataMovement => "data_movement",
            Self::Payment => "payment",
        }
    }
}

/// How much harm a tool can do. Ordered; policies see the rank, 0 to 3, beside the word.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Risk {
    /// Little.
    Low,
    /// Some.
    Medium,
    /// Much.
    High,
    /// The business itself.
    Critical,
}

impl Risk {
    /// The word that policies and records use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

/// How sensitive the data behind a tool is. Ordered; policies see the rank, 0 to 3, beside the word.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sensitivity {
    /// Anybody may see it.
    Public,
    /// Staff may see it.
    Internal,
    /// Some may see it.
    Confidential,
    /// Few may see it, and it is said who.
    Restricted,
}

impl Sensitivity {
    /// The word that policies and records use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Internal => "internal",
            Self::Confidential => "confidential",
            Self::Restricted => "restricted",
        }
    }
}

/// Which provider mints for a tool, and with which parameters.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Binding {
    /// The provider's configured name.
    pub provider: ProviderName,
    /// What the provider needs to know about this tool; the provider parses it at load.
    pub parameters: BTreeMap<String, serde_json::Value>,
}

/// A catalogued tool.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tool {
    /// Its name, unique in the catalogue.
    pub name: ToolName,
    /// What it is, for people.
    pub description: String,
    /// Who answers for it.
    pub owner: Owner,
    /// What can be done with it, and what each action does to the world.
    pub actions: BTreeMap<Operation, Effect>,
    /// How much harm it can do.
    pub risk: Risk,
    /// How sensitive the data behind it is.
    pub sensitivity: Sensitivity,
    /// Its network or data zone.
    pub zone: Zone,
    /// Where it runs.
    pub environment: Environment,
    /// The one `aud` of tokens for it: an absolute URI (RFC 8707 §2).
    pub audience: String,
    /// Where its credentials may be sent. Who holds one asks this before each request; the broker enforces
    /// nothing by it.
    pub origins: Arc<[Origin]>,
    /// Who mints for it.
    pub binding: Binding,
    /// The longest life of a credential for it.
    pub max_ttl: Ttl,
    /// The life of a credential when the agent asks for none.
    pub default_ttl: Ttl,
    /// How many of its credentials may be live at the same time.
    pub live_credentials: Option<u32>,
    /// Facts that its owner states about it; policies see them as tags.
    pub facts: BTreeMap<String, String>,
}
