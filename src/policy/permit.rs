//! The witness that policy permitted exactly one request. Fields and constructor are private to
//! this file, so that no engine and no other floor can make one up.
//!
//! ```compile_fail,E0451
//! use dayfly::model::decision::{Grounds, Obligations};
//! use dayfly::policy::{AccessRequest, permit::Permit};
//!
//! fn forge(request: AccessRequest, grounds: Grounds, obligations: Obligations) -> Permit {
//!     Permit { request, grounds, obligations }
//! }
//! ```

use super::{AccessRequest, PolicyEngine};
use crate::model::decision::{Decision, Grounds, Obligations};
use crate::model::name::Role;

/// Policy permitted this request, the only one that it is good for. Writing a lease down, or writing
/// down that one lives on, uses it up.
#[derive(Debug)]
#[must_use = "a permit that is not used was decided for nothing"]
pub struct Permit {
    request: AccessRequest,
    grounds: Grounds,
    obligations: Obligations,
}

/// Policy did not permit the request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Denial {
    /// Why, for the record.
    pub grounds: Grounds,
    /// Why, in words for the agent.
    pub reason: String,
    /// Policy would permit it once somebody in this role approved.
    pub approval: Option<Role>,
}

impl Permit {
    /// The only way to a permit: the engine decides. A permit that demands an approval is a denial
    /// that says so, for as long as nobody has approved.
    pub fn obtain(engine: &dyn PolicyEngine, request: AccessRequest) -> Result<Self, Denial> {
        match engine.decide(&request) {
            Decision::Permit { grounds, obligations } => match obligations.approval {
                None => Ok(Self {
                    request,
                    grounds,
                    obligations,
                }),
                Some(role) => Err(Denial {
                    grounds,
                    reason: format!("this needs the approval of `{role}`"),
                    approval: Some(role),
                }),
            },
            Decision::Deny { grounds, reason } => Err(Denial {
                grounds,
                reason,
                approval: None,
            }),
        }
    }

    /// What was permitted.
    pub fn request(&self) -> &AccessRequest {
        &self.request
    }

    /// Why.
    pub fn grounds(&self) -> &Grounds {
        &self.grounds
    }

    /// On which terms.
    pub fn obligations(&self) -> &Obligations {
        &self.obligations
    }
}
