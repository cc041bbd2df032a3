//! `recover`: a ledger that was lost is brought back from the journals.
//!
//! Everything of before ends: one cutoff denies every token at once, tasks end, and each lease without
//! an end on record is written down as one that has to end, for the reaper to end and prove. Each step
//! can be made again, and the last one lets brokers back in: a recovery that died begins anew.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;

use crate::journal::unfinished::Unfinished;
use crate::ledger::lineage::{Epoch, Writer};
use crate::ledger::{Filter, Ledger, LedgerError, Page};
use crate::model::cutoff::{Cutoff, Selector};
use crate::model::lease::{Cause, LeaseState};
use crate::model::time::Timestamp;

/// What a recovery did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Recovered {
    /// Tasks that the ledger had and that were not over.
    pub tasks: usize,
    /// Live leases that the ledger had, which now end.
    pub turned: usize,
    /// Leases that only the journals knew, which now end.
    pub adopted: usize,
    /// Leases that the journals and the ledger know.
    pub known: usize,
}

/// Brings a condemned ledger back. The caller has condemned it before it read the journals, so that
/// nothing was given out meanwhile; `writers` are those whose journals it read.
pub async fn recover(
    ledger: &dyn Ledger,
    unfinished: Unfinished,
    epoch: Epoch,
    writers: &BTreeSet<Writer>,
    now: Timestamp,
) -> Result<Recovered, LedgerError> {
    // The clock of a broker may be ahead of ours.
    let up_to = now.max(unfinished.latest());
    let cutoff = Cutoff {
        selector: Selector::All,
        up_to,
        at: now,
        cause: Cause::Recovered,
    };
    ledger.cut(&cutoff).await?;
    let mut done = Recovered {
        tasks: ledger.end_tasks(now).await?,
        turned: turn(ledger, now).await?,
        ..Recovered::default()
    };
    for lease in unfinished.leases(now) {
        match ledger.adopt(&lease).await? {
            true => done.adopted += 1,
            false => done.known += 1,
        }
    }
    ledger.begin_epoch(epoch, writers).await?;
    Ok(done)
}

/// Turns every live lease to its end, a page at a time.
async fn turn(ledger: &dyn Ledger, now: Timestamp) -> Result<usize, LedgerError> {
    let limit = NonZeroUsize::new(Page::MOST).unwrap_or(NonZeroUsize::MIN);
    let mut page = Page { after: None, limit };
    let mut turned = 0;
    loop {
        let leases = ledger.find(&Filter::default(), &page).await?;
        for lease in &leases {
            if matches!(lease.state, LeaseState::Reserved | LeaseState::Active) {
                ledger.revoke(lease.id, Cause::Recovered, now).await?;
                turned += 1;
            }
        }
        match leases.last() {
            Some(last) if leases.len() == limit.get() => page.after = Some(last.id),
            _ => return Ok(turned),
        }
    }
}
