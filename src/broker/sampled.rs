//! What is looked at from time to time because nobody passes by it: how long the longest due has waited, and how
//! much is to be decided anew. Costs the same however many leases there are.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::ledger::LedgerError;
use crate::model::time::Timestamp;

use super::error::chain;
use super::{Broker, measure};

/// How often it is looked at.
const EVERY: Duration = Duration::from_secs(15);

impl Broker {
    /// Looks at once and then regularly, until told to stop. Every replica sees the same.
    pub async fn sample_regularly(self: Arc<Self>, stop: CancellationToken) {
        loop {
            if let Err(error) = self.sample().await {
                tracing::warn!(error = %chain(&error), "could not look at how much waits");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(EVERY) => {}
            }
        }
    }

    /// Looks now. What cannot be told is no number: the last one would say that all is as it was.
    pub async fn sample(&self) -> Result<(), LedgerError> {
        let ledger = &self.parts.ledger;
        let now = self.now();
        let since = ledger.due_since(now).await;
        let waits = |since: &Option<Timestamp>| since.map_or(Duration::ZERO, |since| now.since(since));
        measure::due_oldest(since.as_ref().ok().map(waits));
        // Their number is bounded by the ledger.
        let waiting = ledger.rechecks().await.map(|rechecks| rechecks.len());
        measure::rechecks_waiting(waiting.as_ref().ok().copied());
        since.and(waiting).map(drop)
    }
}
