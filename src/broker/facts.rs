//! Facts: what is known besides who asks for what. Every decision looks at the same snapshot of them from
//! its beginning to its end.

use arc_swap::ArcSwap;

use crate::model::fact::Facts;

use super::Broker;

/// The facts as this broker knows them, read without a lock, replaced whole.
#[derive(Debug, Default)]
pub(super) struct Known(ArcSwap<Facts>);

impl Broker {
    /// The facts that a decision looks at now.
    pub(super) fn facts(&self) -> Facts {
        Facts::clone(&self.known.0.load())
    }
}
