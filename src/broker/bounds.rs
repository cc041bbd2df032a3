//! What bounds the life of a credential: the same when it is issued, renewed, and decided anew.

use crate::model::agent::Agent;
use crate::model::decision::Obligations;
use crate::model::time::Timestamp;
use crate::model::tool::Tool;
use crate::model::ttl::{Bound, Bounded, Ttl};
use crate::provider::Promise;

/// Everything that bounds a life that begins at `from`.
#[derive(Debug)]
pub(super) struct Bounds<'a> {
    pub(super) agent: &'a Agent,
    /// The shortest of what the registry leaves those who handed the work on.
    pub(super) above: Option<Ttl>,
    pub(super) tool: &'a Tool,
    pub(super) obligations: &'a Obligations,
    pub(super) promise: Promise,
    /// What the agent asked for.
    pub(super) asked: Option<Ttl>,
    pub(super) from: Timestamp,
    /// When its task ends.
    pub(super) deadline: Timestamp,
    /// When the evidence ends, where credentials are bound to it.
    pub(super) evidence: Option<Timestamp>,
}

impl Bounds<'_> {
    /// The shortest of them, and which it was; or why nothing is left.
    pub(super) fn shortest(&self) -> Result<Bounded, &'static str> {
        let Self { agent, tool, .. } = self;
        let left = |until: Timestamp| Ttl::from_duration(until.since(self.from));
        let task = left(self.deadline).ok_or("the task's time is up")?;
        let evidence = match self.evidence {
            Some(until) => Some(left(until).ok_or("the evidence is about to expire: present a new one")?),
            None => None,
        };
        let start = match self.asked {
            Some(ttl) => Bounded::new(ttl, Bound::Requested),
            None => Bounded::new(tool.default_ttl, Bound::Default),
        };
        Ok(start
            .at_most(self.obligations.max_ttl, Bound::Policy)
            .at_most(agent.ceilings.ttl, Bound::Agent)
            .at_most(self.above, Bound::Agent)
            .at_most(Some(tool.max_ttl), Bound::Tool)
            .at_most(Some(self.promise.most), Bound::Provider)
            .at_most(Some(task), Bound::Task)
            .at_most(evidence, Bound::Attestation))
    }
}
