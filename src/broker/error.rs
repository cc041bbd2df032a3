//! Why the broker did not do what was asked. One enum for the whole floor: `http/problem.rs` maps it,
//! exhaustively.

use std::borrow::Cow;
use std::error::Error;

use super::load::Unloadable;
use crate::entropy::NoEntropy;
use crate::identity::IdentityError;
use crate::journal::JournalError;
use crate::ledger::{LedgerError, Refusal};
use crate::model::ids::DecisionId;
use crate::model::name::Role;
use crate::provider::ProviderError;
use crate::registry::NotAdmitted;
use crate::signal::SignalError;

/// Why the broker did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The evidence proves nothing.
    #[error(transparent)]
    Unidentified(#[from] IdentityError),
    /// What somebody outside told is not taken.
    #[error(transparent)]
    Signal(#[from] SignalError),
    /// The workload is proven and gets nothing.
    #[error(transparent)]
    NotAdmitted(#[from] NotAdmitted),
    /// There is no such task, or it is not the caller's to see.
    #[error("there is no such task, or it is another agent's")]
    NoTask,
    /// There is no such lease, or it is not the caller's to see.
    #[error("there is no such lease, or it is another agent's")]
    NoLease,
    /// There is no such status list, or not yet.
    #[error("there is no such status list: its address stands in the `status` of a token")]
    NoStatusList,
    /// All tokens of a status list are over: expired, or from before the ledger was lost.
    #[error("every token of this status list is over")]
    StatusListOver,
    /// More has to end than is looked at for a status list.
    #[error("a revocation is still coming to the leases that it ends: try again")]
    Draining,
    /// There is no such agent, or it is not the caller's to see.
    #[error("there is no such agent, or it is not yours to see")]
    NoAgent,
    /// There is no such tool, or it is not the caller's to see.
    #[error("there is no such tool, or it is not yours to see")]
    NoTool,
    /// Policy, or the scope of the task, does not allow it. Recorded under the decision id.
    #[error("{reason}")]
    Denied {
        /// The record to look for.
        decision: DecisionId,
        /// What the agent may know.
        reason: String,
        /// It would be permitted once somebody in this role approved.
        approval: Option<Role>,
    },
    /// A value that was asked for is out of its bounds.
    #[error("{reason}")]
    OutOfBounds {
        /// The field, as a JSON pointer (RFC 6901).
        pointer: Cow<'static, str>,
        /// Which bound, and what to do.
        reason: String,
    },
    /// The rules that were to be loaded are none. What was in force stays in force.
    #[error("nothing was changed: {0}")]
    Unloadable(#[from] Unloadable),
    /// The rules that were to be loaded would end too much at once. What was in force stays in force.
    #[error(
        "nothing was changed: {would_end} live leases would end or wait, and {most} may without somebody accepting \
         it: look with `dayfly policy diff --live`, then `dayfly reload --accept-blast-radius {would_end}`"
    )]
    BlastRadius {
        /// How many live leases would end or wait for an approval.
        would_end: u64,
        /// How many may.
        most: u64,
    },
    /// Access is denied, and what is out may not have ended yet: the order to end it could not be written down.
    #[error(
        "access is denied from now on, but the order to end what is out could not be written down: {}repeat it",
        if *.owed { "this broker ends it while it runs; in case it stops, " } else { "" }
    )]
    Undrained {
        /// Whether this broker goes on with it.
        owed: bool,
        /// Why it could not.
        #[source]
        source: Box<BrokerError>,
    },
    /// The ledger says no.
    #[error(transparent)]
    Refused(Refusal),
    /// The idempotency key brought as many credentials in place of the last as it may.
    #[error("this idempotency key was repeated too often: use a new one")]
    KeyExhausted,
    /// The tool's provider cannot let the credential live on.
    #[error("this credential cannot be renewed: ask for a new one")]
    NotRenewable,
    /// What is written down, or built in, is no access that can be put to policy. A fault of ours.
    #[error("an access cannot be put to policy")]
    BadAccess(#[source] Box<dyn Error + Send + Sync>),
    /// The ledger does not work. Nothing was issued.
    #[error("the ledger does not work")]
    Ledger(#[source] LedgerError),
    /// The journal does not work. Nothing was issued.
    #[error("the journal does not work")]
    Journal(#[from] JournalError),
    /// The provider does not work. Nothing was issued.
    #[error("the provider does not work")]
    Provider(#[from] ProviderError),
    /// There is no randomness. Nothing was issued.
    #[error(transparent)]
    Entropy(#[from] NoEntropy),
}

impl From<LedgerError> for BrokerError {
    fn from(error: LedgerError) -> Self {
        match error {
            LedgerError::Refused(Refusal::NoTask) => Self::NoTask,
            LedgerError::Refused(Refusal::NoLease) => Self::NoLease,
            LedgerError::Refused(refusal) => Self::Refused(refusal),
            broken => Self::Ledger(broken),
        }
    }
}

/// An error with everything that caused it, for the log.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
