//! Policies, agents and tools that are in force: one revision, read without a lock, replaced whole.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::model::decision::Revision;
use crate::policy::PolicyEngine;
use crate::registry::Registry;

/// One revision. The engine decides with the schema of this very registry.
pub struct Ruleset {
    /// Agents and tools.
    pub registry: Registry,
    /// The policies.
    pub engine: Box<dyn PolicyEngine>,
    /// The digest of it all.
    pub revision: Revision,
}

/// The revision that is in force.
pub struct Rules(ArcSwap<Ruleset>);

impl Rules {
    /// Starts with one revision.
    pub fn new(first: Ruleset) -> Self {
        Self(ArcSwap::from_pointee(first))
    }

    /// The revision in force. A request takes it once and keeps it to its end.
    pub fn current(&self) -> Arc<Ruleset> {
        self.0.load_full()
    }

    /// Replaces the revision whole. Requests under way end with the one that they began with.
    pub fn replace(&self, next: Ruleset) {
        self.0.store(Arc::new(next));
    }
}
