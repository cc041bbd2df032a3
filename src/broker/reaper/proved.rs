//! What is left of an end once its provider has made it: a signed receipt, a record of it, and its settlement.
//!
//! All of these cost less for many at a time, so what its provider has ended waits for those who are at it, and then
//! goes together: nobody waits for company.

use std::num::NonZeroUsize;

use futures_util::future::join_all;

use crate::journal::record::Record;
use crate::ledger::{LeaseClaim, Settlement};
use crate::model::lease::{Cause, Receipt, ReceiptSignature};
use crate::model::time::Timestamp;

use super::super::error::BrokerError;
use super::super::records::of_end;
use super::super::{Broker, measure};
use super::{Done, left};

/// How many are recorded and settled together at most: more cost hardly less for each, and whoever asks for something
/// meanwhile has them all before it.
pub(super) const GROUP: usize = 32;
/// How many are signed in one go.
const TURN: usize = 4;
/// How many groups are under way at a time at most, however many processors there are.
const MOST_SIDE_BY_SIDE: usize = 4;
/// How many may wait for their group before no more are begun: few, since in its lane each is given back in time.
pub(super) const WAITING: usize = 8 * GROUP;

/// How many groups are under way at a time: one for two processors, so that what the journal and the ledger have of
/// them is left to whoever asks.
pub(super) fn side_by_side() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    (processors / 2).clamp(1, MOST_SIDE_BY_SIDE)
}

/// A lease that its provider has ended.
pub(super) struct Proved {
    pub(super) claim: LeaseClaim,
    pub(super) cause: Cause,
    /// Since when it had to end.
    pub(super) since: Timestamp,
    pub(super) receipt: Receipt,
}

impl Broker {
    /// Signs and records that these leases ended, and only then settles them. What cannot be recorded is not settled,
    /// whatever becomes of the others.
    pub(super) async fn close(&self, group: Vec<Proved>) -> Vec<Done> {
        let now = self.now();
        let (mut done, mut measures, mut settled) = (Vec::new(), Vec::new(), Vec::new());
        let mut signed = Vec::with_capacity(group.len());
        for (number, proved) in group.into_iter().enumerate() {
            // Signing waits for nothing, and others have to have their turn.
            if number.is_multiple_of(TURN) {
                tokio::task::yield_now().await;
            }
            match self.sign(&proved, now) {
                Ok((signature, record)) => signed.push((proved, signature, record)),
                Err(error) => done.push(left(error)),
            }
        }
        let recorded = signed.into_iter().map(|(proved, signature, record)| async move {
            self.record(record).await?;
            Ok::<_, BrokerError>((proved, signature))
        });
        for recorded in join_all(recorded).await {
            match recorded {
                Ok((proved, signature)) => {
                    measures.push((proved.cause, proved.receipt, now.since(proved.since)));
                    settled.push((proved.claim, Settlement::Ended(proved.receipt, signature)));
                }
                Err(error) => done.push(left(error)),
            }
        }
        let answers = self.parts.ledger.settle_all(&settled, now).await;
        done.extend(answers.into_iter().zip(measures).map(|(answer, measures)| {
            let (cause, receipt, lag) = measures;
            answer.map_or_else(
                |error| left(error.into()),
                |()| {
                    measure::ended(cause, receipt, lag);
                    Done::Ended
                },
            )
        }));
        done
    }

    fn sign(&self, proved: &Proved, now: Timestamp) -> Result<(ReceiptSignature, Record), BrokerError> {
        let Proved {
            claim,
            cause,
            receipt,
            ..
        } = proved;
        let signed = self.parts.receipts.sign(&claim.lease, *cause, *receipt, now)?;
        let record = of_end(&claim.lease, *cause, *receipt, signed.text, now);
        Ok((signed.signature, record))
    }
}
