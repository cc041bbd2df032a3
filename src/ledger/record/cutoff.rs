//! The mirrors of cutoffs and selectors.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::state::StoredCause;
use crate::model::cutoff::{Cutoff, Selector};
use crate::model::ids::{LeaseId, TaskId};
use crate::model::lease::Cause;
use crate::model::name::{AgentName, Environment, ToolName, UserId};
use crate::model::spiffe::TrustDomain;
use crate::model::time::Timestamp;

#[derive(Serialize, Deserialize)]
pub(super) struct StoredCutoff<'a> {
    selector: StoredSelector<'a>,
    up_to: Timestamp,
    at: Timestamp,
    #[serde(with = "StoredCause")]
    cause: Cause,
}

impl<'a> StoredCutoff<'a> {
    pub(super) fn of(cutoff: &'a Cutoff) -> Self {
        Self {
            selector: StoredSelector::of(&cutoff.selector),
            up_to: cutoff.up_to,
            at: cutoff.at,
            cause: cutoff.cause,
        }
    }

    pub(super) fn into_cutoff(self) -> Cutoff {
        Cutoff {
            selector: self.selector.into_selector(),
            up_to: self.up_to,
            at: self.at,
            cause: self.cause,
        }
    }
}

#[derive(Serialize, Deserialize)]
pub(super) enum StoredSelector<'a> {
    Lease(LeaseId),
    Task(TaskId),
    Agent(Cow<'a, AgentName>),
    Tool(Cow<'a, ToolName>),
    User(Cow<'a, UserId>),
    Environment(Cow<'a, Environment>),
    TrustDomain(Cow<'a, TrustDomain>),
    All,
}

impl<'a> StoredSelector<'a> {
    pub(super) fn of(selector: &'a Selector) -> Self {
        match selector {
            Selector::Lease(id) => Self::Lease(*id),
            Selector::Task(id) => Self::Task(*id),
            Selector::Agent(name) => Self::Agent(Cow::Borrowed(name)),
            Selector::Tool(name) => Self::Tool(Cow::Borrowed(name)),
            Selector::User(id) => Self::User(Cow::Borrowed(id)),
            Selector::Environment(name) => Self::Environment(Cow::Borrowed(name)),
            Selector::TrustDomain(name) => Self::TrustDomain(Cow::Borrowed(name)),
            Selector::All => Self::All,
        }
    }

    pub(super) fn into_selector(self) -> Selector {
        match self {
            Self::Lease(id) => Selector::Lease(id),
            Self::Task(id) => Selector::Task(id),
            Self::Agent(name) => Selector::Agent(name.into_owned()),
            Self::Tool(name) => Selector::Tool(name.into_owned()),
            Self::User(id) => Selector::User(id.into_owned()),
            Self::Environment(name) => Selector::Environment(name.into_owned()),
            Self::TrustDomain(name) => Selector::TrustDomain(name.into_owned()),
            Self::All => Selector::All,
        }
    }
}
