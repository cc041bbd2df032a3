//! Quarantine: the ledger was lost, and until it is recovered everything is ended and nothing given out.
//!
//! The ledger itself refuses ([`crate::ledger::lineage`]); here it is looked at, told, recorded, and
//! taken into use again. What was lost since its mark was kept, the newest records find
//! (`broker/behind.rs`).

use std::sync::atomic::Ordering;

use crate::journal::record::{Record, Result as Outcome, Verb};
use crate::ledger::LedgerError;
use crate::ledger::lineage::{Loss, Mark, Watched};
use crate::model::time::Timestamp;

use super::error::BrokerError;
use super::records::Fill;
use super::{Broker, measure};

impl Broker {
    /// Why nothing is given out, if so.
    pub fn quarantine(&self) -> Option<Loss> {
        self.parts.ledger.loss()
    }

    /// Refuses in quarantine: before anything is decided, so that nothing permitted is recorded.
    pub(super) fn outside_quarantine(&self) -> Result<(), BrokerError> {
        match self.parts.ledger.loss() {
            None => Ok(()),
            Some(loss) => Err(BrokerError::Ledger(LedgerError::Lost(loss))),
        }
    }

    /// Looks at the whole ledger: goes into quarantine when it was lost and comes back when it was
    /// recovered. Answers what to remember of it.
    pub async fn look_at_ledger(&self) -> Result<Option<Mark>, BrokerError> {
        match self.parts.ledger.watch().await? {
            Watched::Whole(mark) => {
                measure::quarantine(false);
                Ok(Some(mark))
            }
            Watched::Lost(loss) => {
                self.enter_quarantine(loss).await?;
                Ok(None)
            }
            Watched::Recovered => {
                if let Some(loss) = self.parts.ledger.loss() {
                    self.enter_quarantine(loss).await?;
                }
                self.leave_quarantine().await
            }
        }
    }

    /// Says so once.
    async fn enter_quarantine(&self, loss: Loss) -> Result<(), BrokerError> {
        measure::quarantine(true);
        if self.quarantined.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        tracing::error!(
            %loss,
            "the ledger was lost: credentials are ended and none are given out until `dayfly recover` was run"
        );
        self.record(recovery(
            Outcome::Failed,
            self.now(),
            format!("the ledger was lost: {loss}"),
        ))
        .await
    }

    async fn leave_quarantine(&self) -> Result<Option<Mark>, BrokerError> {
        self.record(recovery(
            Outcome::Permitted,
            self.now(),
            "the ledger was recovered",
        ))
        .await?;
        // What no journal and no ledger knows is found at the providers, before anything new is there.
        self.compare().await;
        self.parts.ledger.rejoin().await?;
        self.charters.invalidate_all(); // tasks of before are over
        self.quarantined.store(false, Ordering::Release);
        measure::quarantine(false);
        tracing::warn!("the ledger was recovered: credentials are given out again");
        self.due.notify_one();
        match self.parts.ledger.watch().await? {
            Watched::Whole(mark) => Ok(Some(mark)),
            Watched::Lost(_) | Watched::Recovered => Ok(None),
        }
    }
}

fn recovery(result: Outcome, at: Timestamp, reason: impl Into<String>) -> Record {
    Record::new(Verb::Recover, result, at).reason(reason)
}
