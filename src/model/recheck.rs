//! Rechecks: orders to look once more at every live lease that a selector fits, because something about
//! its context changed. They are kept in the ledger until they are done, so that a broker that dies in
//! the middle of one leaves the rest of it to another.

use serde::{Deserialize, Serialize};

use super::cutoff::{Cutoff, Selector};
use super::decision::Revision;
use super::ids::LeaseId;
use super::lease::VouchingKey;
use super::time::Timestamp;

/// One order.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Recheck {
    /// Which leases.
    pub whom: Selector,
    /// What to do about each of them.
    pub work: Work,
    /// What changed, in words, at most 256 bytes.
    pub why: String,
    /// When it was ordered.
    pub ordered_at: Timestamp,
    /// How far it has come.
    pub progress: Progress,
}

/// What a recheck does about each live lease that it comes to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Work {
    /// Ends it: a cutoff was recorded that matches it.
    Cut {
        /// The cutoff. Recorded first, if it was not yet.
        cutoff: Cutoff,
    },
    /// Ends it if this key vouched for its workload, or for whoever handed the work on, with evidence that would
    /// still hold.
    Distrust {
        /// The key that is not trusted any more.
        key: VouchingKey,
    },
    /// Decides it anew.
    Decide {
        /// By which revision; whichever is in force where there is none.
        revision: Option<Revision>,
    },
}

impl Work {
    /// The revision that it waits for.
    pub const fn revision(&self) -> Option<&Revision> {
        match self {
            Self::Decide { revision } => revision.as_ref(),
            Self::Cut { .. } | Self::Distrust { .. } => None,
        }
    }

    /// What is denied already goes before what has yet to be decided, which has its turn all the same.
    pub const fn is_urgent(&self) -> bool {
        matches!(self, Self::Cut { .. } | Self::Distrust { .. })
    }
}

/// How far a recheck has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Progress {
    /// The last lease that was looked at.
    pub after: Option<LeaseId>,
    /// How many live leases were looked at.
    pub looked_at: u64,
    /// How many of them were turned to their end.
    pub ended: u64,
    /// How many were given less time.
    pub shortened: u64,
    /// How many tasks were suspended, because an approval is needed now.
    pub suspended: u64,
}
