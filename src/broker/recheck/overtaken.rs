//! What other rules overtake: a credential that is being given out.
//!
//! A recheck under new rules finds what is written down when it comes by. What was decided by the rules of before,
//! and is written down behind its back, orders a recheck of its own before anybody is answered.

use std::sync::Arc;

use crate::model::cutoff::Selector;
use crate::model::decision::Revision;
use crate::model::ids::LeaseId;
use crate::model::recheck::Work;

use super::super::Broker;
use super::super::error::BrokerError;
use super::super::rules::Ruleset;

impl Broker {
    /// Where other rules came in force since a request began, orders that its lease is decided anew. Costs one
    /// comparison of pointers where none did. After an error the lease must not live.
    pub(in super::super) async fn keep_up(
        &self,
        lease: LeaseId,
        began: &Arc<Ruleset>,
    ) -> Result<(), BrokerError> {
        let mut by = Arc::clone(began);
        // A revision that is overtaken while it is being ordered may be nobody's by then.
        while !self.parts.rules.is_in_force(&by) {
            by = self.parts.rules.current();
            let why = "other rules came in force while it was given out";
            self.order_recheck(Selector::Lease(lease), by_revision(&by.revision), why)
                .await?;
        }
        Ok(())
    }
}

fn by_revision(revision: &Revision) -> Work {
    Work::Decide {
        revision: Some(revision.clone()),
    }
}
