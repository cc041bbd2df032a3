//! Policies, agents and tools that are in force: one revision, read without a lock, replaced whole.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::model::decision::Revision;
use crate::policy::PolicyEngine;
use crate::policy::affected::InForce;
use crate::registry::Registry;

use super::load::{Fingerprint, Given, Source, Unloadable};

/// One revision. The engine decides with the schema of this very registry.
pub struct Ruleset {
    /// Agents and tools.
    pub registry: Registry,
    /// The policies.
    pub engine: Box<dyn PolicyEngine>,
    /// The digest of it all.
    pub revision: Revision,
}

impl Ruleset {
    /// What decides.
    pub fn in_force(&self) -> InForce<'_> {
        InForce {
            engine: &*self.engine,
            registry: &self.registry,
        }
    }
}

/// The revision that is in force, and where the next one comes from.
pub struct Rules {
    current: ArcSwap<Ruleset>,
    source: Option<Arc<dyn Source>>,
}

impl Rules {
    /// Starts with one revision.
    pub fn new(first: Ruleset) -> Self {
        Self {
            current: ArcSwap::from_pointee(first),
            source: None,
        }
    }

    /// The same, and later ones are read from here.
    pub fn from_source(first: Ruleset, source: Arc<dyn Source>) -> Self {
        Self {
            source: Some(source),
            ..Self::new(first)
        }
    }

    /// The revision in force. A request takes it once and keeps it to its end.
    pub fn current(&self) -> Arc<Ruleset> {
        self.current.load_full()
    }

    /// Whether these are still the rules in force.
    pub(super) fn is_in_force(&self, rules: &Arc<Ruleset>) -> bool {
        Arc::ptr_eq(rules, &self.current.load())
    }

    /// Replaces the revision whole. Requests under way end with the one that they began with.
    pub fn replace(&self, next: Ruleset) {
        self.current.store(Arc::new(next));
    }

    /// The rules as they are where they come from, or as somebody sent them. Nothing is put in force.
    pub(super) async fn read(&self, given: Option<Vec<Given>>) -> Result<Ruleset, Unloadable> {
        match &self.source {
            Some(source) => source.load(given).await,
            None => Err(Unloadable(
                "these rules come from nowhere that can be read again".into(),
            )),
        }
    }

    /// What tells one state of the files from another.
    pub(super) async fn fingerprint(&self) -> Option<Fingerprint> {
        match &self.source {
            Some(source) => source.fingerprint().await,
            None => None,
        }
    }
}
