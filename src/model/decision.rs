//! What policy said, and why: grounds and obligations as values.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::fact::Subject;
use super::name::{FactName, FactValue, Role};
use super::ttl::Ttl;

/// The name of a policy: its `@id`, or its file and position.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PolicyId(pub std::sync::Arc<str>);

impl fmt::Display for PolicyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The digest of everything that decides: policies, agents and tools, as one revision (SHA-256, hex).
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(pub std::sync::Arc<str>);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A fact that a decision looked at, as `agent/support-bot risk=high`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FactUsed(std::sync::Arc<str>);

impl FactUsed {
    /// What was so about somebody.
    pub fn new(about: &Subject, name: &FactName, value: &FactValue) -> Self {
        Self(format!("{about} {name}={value}").into())
    }

    /// Whom it is about, its name and what was so.
    pub fn parts(&self) -> Option<(Subject, FactName, FactValue)> {
        // An id may have spaces, a name has none.
        self.0.match_indices(' ').find_map(|(at, _)| {
            let (about, rest) = self.0.split_at(at);
            let (name, value) = rest.get(1..)?.split_once('=')?;
            Some((about.parse().ok()?, name.parse().ok()?, value.parse().ok()?))
        })
    }
}

impl fmt::Display for FactUsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a decision is as it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Grounds {
    /// The policies that decided, sorted; empty when nothing permitted.
    pub policies: Vec<PolicyId>,
    /// The policies that could not be evaluated. One is enough for a denial.
    pub faults: Box<[PolicyId]>,
    /// The facts in force about those whom it concerns that these policies mention, 16 at most. What the
    /// registry says of them belongs to the revision.
    pub facts: Box<[FactUsed]>,
    /// What was in force.
    pub revision: Revision,
    /// What a set of policies that does not decide would have said otherwise: `denied: …`, or `permitted` with
    /// its terms.
    pub shadow: Option<Box<String>>,
}

/// What a permit demands. Of all matching permits the most restrictive holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Obligations {
    /// The longest life of the credential (`@max_ttl`).
    pub max_ttl: Option<Ttl>,
    /// Who has to approve before anything is issued (`@approval`).
    pub approval: Option<Role>,
}

/// The outcome of a decision.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decision {
    /// Permitted, with what the permit demands.
    Permit {
        /// Why.
        grounds: Grounds,
        /// On which terms.
        obligations: Obligations,
    },
    /// Denied.
    Deny {
        /// Why.
        grounds: Grounds,
        /// What the agent is told: the `@reason` of the forbids that decided, or a general word.
        reason: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fact_that_was_used_can_be_read_again() {
        for (about, name, value) in [
            ("agent/support-bot", "risk", "high"),
            ("user/user 42", "risk", "high, \"says\" the IdP = true"),
        ] {
            let (about, name, value) = (
                about.parse().unwrap(),
                name.parse().unwrap(),
                value.parse().unwrap(),
            );
            let used = FactUsed::new(&about, &name, &value);
            assert_eq!(used.parts(), Some((about, name, value)));
        }
    }
}
