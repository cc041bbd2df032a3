//! The chain of a sub-task, put together anew for each decision: everybody above is taken as it stands in the
//! registry now, and in the task that it handed on from.

use std::sync::Arc;

use crate::model::agent::Standing;
use crate::model::ids::TaskId;
use crate::model::lease::Cause;
use crate::model::name::AgentName;
use crate::model::task::Charter;
use crate::model::time::Timestamp;
use crate::policy::TaskContext;
use crate::policy::chain::Link;
use crate::registry::Registry;

use super::Broker;
use super::error::BrokerError;

/// Why a chain does not hold any more.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum Broken {
    /// An agent in it is not registered any more.
    #[error("`{0}`, which handed this on, is not registered any more")]
    Unregistered(AgentName),
    /// An agent in it gets nothing itself.
    #[error("`{0}`, which handed this on, gets nothing: {1}")]
    Standing(AgentName, Standing),
    /// An agent in it is in another environment by now.
    #[error("`{0}`, which handed this on, is in another environment now")]
    Elsewhere(AgentName),
    /// An agent in it may not act for the user any more.
    #[error(
        "`{0}`, which handed this on, may not act on behalf of this user: its registry entry names whom it may in `may_act_for`"
    )]
    NotFor(AgentName),
    /// Nothing is known of a task in it.
    #[error("nothing is known of the task `{0}` that this is part of")]
    Unknown(TaskId),
}

impl Broken {
    /// Why what was given out by way of it has to end.
    pub(crate) const fn cause(&self) -> Cause {
        match self {
            Self::Unregistered(_) => Cause::AgentUnregistered,
            Self::Standing(_, Standing::Unowned) => Cause::AgentUnowned,
            Self::Standing(_, Standing::Suspended) => Cause::AgentSuspended,
            Self::Standing(_, Standing::Retired) => Cause::AgentRetired,
            Self::Standing(_, Standing::ReviewOverdue) => Cause::ReviewOverdue,
            Self::Elsewhere(_) | Self::NotFor(_) | Self::Unknown(_) => Cause::NotPermitted,
        }
    }
}

/// Whom else policy has to be asked about, nearest first. `above` are the charters of the tasks in the chain.
pub(crate) fn links(
    registry: &Registry,
    charter: &Charter,
    above: &[Arc<Charter>],
    at: Timestamp,
) -> Result<Vec<Link>, Broken> {
    let link = |delegator: &crate::model::task::Delegator| {
        let name = || delegator.agent.clone();
        let task = above.iter().find(|task| task.id == delegator.task);
        let task = task.ok_or(Broken::Unknown(delegator.task))?;
        let agent = registry.agent(&delegator.agent);
        let agent = agent.ok_or_else(|| Broken::Unregistered(name()))?;
        agent
            .standing(at)
            .map_err(|standing| Broken::Standing(name(), standing))?;
        if agent.environment != charter.environment {
            return Err(Broken::Elsewhere(name()));
        }
        if charter
            .on_behalf_of
            .as_ref()
            .is_some_and(|user| !agent.may_act_for(user))
        {
            return Err(Broken::NotFor(name()));
        }
        Ok(Link {
            agent: agent.clone(),
            kind: delegator.kind,
            trust_domain: delegator.trust_domain.clone(),
            task: TaskContext::of(task),
        })
    };
    charter.delegators.iter().map(link).collect()
}

impl Broker {
    /// The charters of the tasks above one, nearest first; none for a task that is part of no other.
    pub(super) async fn above(&self, charter: &Charter) -> Result<Vec<Arc<Charter>>, BrokerError> {
        let mut above = Vec::with_capacity(charter.depth());
        for delegator in &charter.delegators {
            above.push(self.charter(delegator.task).await?);
        }
        Ok(above)
    }
}
