//! Rechecks: the queue of orders to look at leases again, and who is at them.

use redb::{ReadableTable as _, ReadableTableMetadata as _};

use super::Circumstances;
use crate::ledger::context::{self, DECIDES, MOST_RECHECKS, RecheckClaim};
use crate::ledger::embedded::layout::{QUEUE, RECHECKS, SEQUENCE, damaged};
use crate::ledger::embedded::reads::Snapshot;
use crate::ledger::record::{decode_recheck, encode_recheck, recheck_key};
use crate::ledger::{LedgerError, Refusal};
use crate::model::cutoff::Selector;
use crate::model::decision::Revision;
use crate::model::recheck::{Progress, Recheck, Work};
use crate::model::time::Timestamp;

/// Where decisions stand in the queue: behind all ends.
const DECISIONS: u64 = 1 << 63;

/// An order that waits.
struct Pending {
    recheck: Recheck,
    place: u64,
    hold: u64,
    until: u64,
}

impl Circumstances<'_, '_> {
    fn pending(&self, key: &[u8]) -> Result<Option<Pending>, LedgerError> {
        let Some(row) = self.rechecks.get(key)? else {
            return Ok(None);
        };
        let (place, hold, until, record) = row.value();
        Ok(Some(Pending {
            recheck: decode_recheck(record)?,
            place,
            hold,
            until,
        }))
    }

    fn next_number(&mut self) -> Result<u64, LedgerError> {
        let next = self.tables.number(SEQUENCE)?.unwrap_or_default() + 1;
        self.tables.set_number(SEQUENCE, next)?;
        Ok(next)
    }

    /// The last place in the queue of this key's kind of work.
    fn last_place(&mut self, key: &[u8]) -> Result<u64, LedgerError> {
        let number = self.next_number()?;
        Ok(match key.first() {
            Some(&DECIDES) => DECISIONS | number,
            _ => number,
        })
    }

    pub(super) fn order(&mut self, recheck: &Recheck) -> Result<(), LedgerError> {
        let mut recheck = context::kept(recheck);
        let key = recheck_key(&recheck)?;
        let all = context::decide_everything(&recheck);
        let standing = self.pending(&key)?;
        let many = self.rechecks.len()? >= u64::try_from(MOST_RECHECKS).unwrap_or(u64::MAX);
        let full = many && standing.is_none();
        let decides = key.first() == Some(&DECIDES);
        if decides && (full || recheck.whom == Selector::All) {
            return self.put_everything(all, full);
        }
        if full {
            if self.queue.range(DECISIONS..)?.take(2).count() < 2 {
                return Err(Refusal::TooManyRechecks.into());
            }
            self.put_everything(all, true)?;
        }
        let place = match &standing {
            Some(standing) if context::reach(&standing.recheck.work) > context::reach(&recheck.work) => {
                return Ok(());
            }
            Some(standing) => {
                keep_revision(&mut recheck, &standing.recheck);
                standing.place
            }
            None => self.last_place(&key)?,
        };
        self.put_recheck(&key, &recheck, place, 0, 0)
    }

    /// Puts the order to decide everything anew into the place of all narrower ones: of those that wait for a
    /// revision only if it does too, or if they have to go.
    fn put_everything(&mut self, mut all: Recheck, have_to_go: bool) -> Result<(), LedgerError> {
        let key = recheck_key(&all)?;
        let standing = self.pending(&key)?;
        if let Some(standing) = &standing {
            keep_revision(&mut all, &standing.recheck);
        }
        let mut narrower = Vec::new();
        for entry in self.rechecks.range::<&[u8]>([DECIDES].as_slice()..)? {
            let (other, row) = entry?;
            let other = other.value();
            if other != key.as_slice() && other.first() == Some(&DECIDES) {
                let (place, _, _, record) = row.value();
                narrower.push((other.to_vec(), place, decode_recheck(record)?));
            }
        }
        for (other, place, order) in narrower {
            if have_to_go {
                keep_revision(&mut all, &order);
            }
            if order.work.revision().is_none() || all.work.revision().is_some() {
                self.rechecks.remove(other.as_slice())?;
                self.queue.remove(place)?;
            }
        }
        let place = match standing {
            Some(standing) => standing.place,
            None => self.last_place(&key)?,
        };
        self.put_recheck(&key, &all, place, 0, 0)
    }

    fn put_recheck(
        &mut self,
        key: &[u8],
        recheck: &Recheck,
        place: u64,
        hold: u64,
        until: u64,
    ) -> Result<(), LedgerError> {
        self.tables.dirty = true;
        let record = encode_recheck(recheck)?;
        self.rechecks
            .insert(key, (place, hold, until, record.as_slice()))?;
        self.queue.insert(place, key)?;
        Ok(())
    }

    pub(super) fn claim(
        &mut self,
        now: Timestamp,
        until: Timestamp,
        revision: &Revision,
    ) -> Result<Option<RecheckClaim>, LedgerError> {
        self.lapse(now)?;
        let mut next = None;
        for entry in self.queue.range(0..)? {
            let key = entry?.1.value().to_vec();
            let pending = self
                .pending(&key)?
                .ok_or_else(|| damaged("the queue of rechecks"))?;
            let free = pending.hold == 0 || pending.until <= now.as_millis();
            let mine = pending
                .recheck
                .work
                .revision()
                .is_none_or(|wanted| wanted == revision);
            if free && mine {
                next = Some((key, pending));
                break;
            }
        }
        let Some((key, Pending { recheck, place, .. })) = next else {
            return Ok(None);
        };
        let hold = self.next_number()?;
        self.put_recheck(&key, &recheck, place, hold, until.as_millis())?;
        Ok(Some(RecheckClaim { recheck, hold }))
    }

    pub(super) fn settle(
        &mut self,
        claim: &RecheckClaim,
        progress: Progress,
        done: bool,
    ) -> Result<(), LedgerError> {
        let key = recheck_key(&claim.recheck)?;
        let held = self.pending(&key)?.filter(|pending| pending.hold == claim.hold);
        let Pending { recheck, place, .. } = held.ok_or(Refusal::ClaimLost)?;
        self.tables.dirty = true;
        self.queue.remove(place)?;
        if done {
            self.rechecks.remove(key.as_slice())?;
            return Ok(());
        }
        let place = self.last_place(&key)?;
        self.put_recheck(&key, &Recheck { progress, ..recheck }, place, 0, 0)
    }
}

/// An order without a revision keeps the one of the order that it replaces.
fn keep_revision(recheck: &mut Recheck, before: &Recheck) {
    if let (Work::Decide { revision }, Some(kept)) = (&mut recheck.work, before.work.revision())
        && revision.is_none()
    {
        *revision = Some(kept.clone());
    }
}

impl Snapshot {
    /// Whether a claim might find an order.
    pub(super) fn anything_waits(&self) -> Result<bool, LedgerError> {
        Ok(!self.0.open_table(QUEUE)?.is_empty()?)
    }

    pub(super) fn rechecks(&self) -> Result<Vec<Recheck>, LedgerError> {
        let rechecks = self.0.open_table(RECHECKS)?;
        let queue = self.0.open_table(QUEUE)?;
        let read = |key: &[u8]| match rechecks.get(key)? {
            Some(row) => decode_recheck(row.value().3),
            None => Err(damaged("the queue of rechecks")),
        };
        queue.range(0..)?.map(|entry| read(entry?.1.value())).collect()
    }
}
