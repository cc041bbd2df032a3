//! Rechecks: the queue of orders to look at leases again, and who is at them.

use redb::{ReadableTable as _, ReadableTableMetadata as _};

use super::Circumstances;
use crate::ledger::context::{self, DECIDES, MOST_ENDS, MOST_RECHECKS, RecheckClaim};
use crate::ledger::embedded::layout::{ENDS, QUEUE, RECHECKS, SEQUENCE, damaged};
use crate::ledger::embedded::reads::Snapshot;
use crate::ledger::record::{decode_recheck, encode_recheck, encode_selector, recheck_key};
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
    /// Who has it; nobody: 0.
    hold: u64,
    /// Until when, or until when somebody had it last; nobody began yet: 0.
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
            Some(kind) if DECIDES.contains(kind) => DECISIONS | number,
            _ => number,
        })
    }

    pub(super) fn order(&mut self, recheck: &Recheck) -> Result<(), LedgerError> {
        let recheck = context::kept(recheck);
        let key = recheck_key(&recheck)?;
        let standing = self.pending(&key)?;
        let full = standing.is_none() && self.is_full()?;
        let decision = key.first().copied().filter(|kind| DECIDES.contains(kind));
        if let Some(kind) = decision
            && (full || recheck.whom == Selector::All)
        {
            return self.put_everything(kind, context::decide_everything(&recheck), true);
        }
        if full {
            if self.queue.range(DECISIONS..)?.take(2).count() < 2 {
                return Err(Refusal::TooManyRechecks.into());
            }
            for kind in DECIDES {
                self.put_everything(kind, context::decide_everything(&recheck), false)?;
            }
            if self.is_full()? {
                return Err(Refusal::TooManyRechecks.into());
            }
        }
        let further =
            |standing: &Pending| context::reach(&standing.recheck.work) > context::reach(&recheck.work);
        if standing.as_ref().is_some_and(further) {
            return Ok(());
        }
        self.put_in_place(&key, &recheck, standing)
    }

    fn is_full(&self) -> Result<bool, LedgerError> {
        Ok(self.rechecks.len()? >= u64::try_from(MOST_RECHECKS).unwrap_or(u64::MAX))
    }

    /// Puts the order to decide everything anew into the place of all narrower ones of a kind. Without a revision
    /// it takes one of theirs. Where it was not ordered, only if there are several.
    fn put_everything(&mut self, kind: u8, mut all: Recheck, ordered: bool) -> Result<(), LedgerError> {
        let key = [[kind].as_slice(), &encode_selector(&all.whom)?].concat();
        let standing = self.pending(&key)?;
        let mut narrower = Vec::new();
        for entry in self.rechecks.range::<&[u8]>([kind].as_slice()..)? {
            let (other, row) = entry?;
            let other = other.value();
            if other.first() != Some(&kind) {
                break;
            }
            if other != key.as_slice() {
                let (place, _, _, record) = row.value();
                narrower.push((other.to_vec(), place, decode_recheck(record)?));
            }
        }
        if !ordered && narrower.len() + usize::from(standing.is_some()) < 2 {
            return Ok(());
        }
        let before = standing.iter().map(|standing| &standing.recheck);
        let before = before.chain(narrower.iter().map(|(_, _, order)| order));
        let theirs = before.filter_map(|order| order.work.revision()).next();
        if let (Work::Decide { revision }, Some(theirs)) = (&mut all.work, theirs) {
            revision.get_or_insert(theirs.clone());
        }
        for (other, place, _) in narrower {
            self.rechecks.remove(other.as_slice())?;
            self.again.remove(other.as_slice())?;
            self.queue.remove(place)?;
        }
        self.put_in_place(&key, &all, standing)
    }

    /// Puts an order into the place of the one that stands under its key, if any does. A walk that somebody began
    /// comes to its end first, unless it is by another revision.
    fn put_in_place(
        &mut self,
        key: &[u8],
        recheck: &Recheck,
        standing: Option<Pending>,
    ) -> Result<(), LedgerError> {
        let Some(standing) = standing else {
            let place = self.last_place(key)?;
            return self.put_recheck(key, recheck, place, 0, 0);
        };
        if standing.until == 0 || standing.recheck.work.revision() != recheck.work.revision() {
            self.again.remove(key)?;
            return self.put_recheck(key, recheck, standing.place, 0, 0);
        }
        let due = match self.again.get(key)? {
            Some(due) => Some(context::reach(&decode_recheck(due.value())?.work)),
            None => None,
        };
        if due.is_none_or(|due| due <= context::reach(&recheck.work)) {
            self.tables.dirty = true;
            self.again.insert(key, encode_recheck(recheck)?.as_slice())?;
        }
        Ok(())
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

    /// The first order, from a place on, that nobody holds and that waits for no other revision.
    fn first_from(
        &self,
        place: u64,
        now: Timestamp,
        revision: &Revision,
    ) -> Result<Option<(Vec<u8>, Pending)>, LedgerError> {
        for entry in self.queue.range(place..)? {
            let key = entry?.1.value().to_vec();
            let pending = self
                .pending(&key)?
                .ok_or_else(|| damaged("the queue of rechecks"))?;
            let free = pending.hold == 0 || pending.until <= now.as_millis();
            let wanted = pending.recheck.work.revision();
            if free && wanted.is_none_or(|wanted| wanted == revision) {
                return Ok(Some((key, pending)));
            }
        }
        Ok(None)
    }

    pub(super) fn claim(
        &mut self,
        now: Timestamp,
        until: Timestamp,
        revision: &Revision,
    ) -> Result<Option<RecheckClaim>, LedgerError> {
        self.lapse(now)?;
        let mut ends = self.tables.number(ENDS)?.unwrap_or_default();
        let mut next = match ends >= MOST_ENDS {
            true => self.first_from(DECISIONS, now, revision)?,
            false => None,
        };
        if next.is_none() {
            // Where none could take its turn, looking for one is not paid for again at each end.
            ends = if ends >= MOST_ENDS { 0 } else { ends };
            next = self.first_from(0, now, revision)?;
        }
        let Some((key, Pending { recheck, place, .. })) = next else {
            return Ok(None);
        };
        let kept_waiting = place < DECISIONS && self.queue.range(DECISIONS..)?.next().is_some();
        self.tables
            .set_number(ENDS, if kept_waiting { ends + 1 } else { 0 })?;
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
        let Pending {
            recheck,
            place,
            until,
            ..
        } = held.ok_or(Refusal::ClaimLost)?;
        self.tables.dirty = true;
        self.queue.remove(place)?;
        let (next, until) = match done {
            false => (Recheck { progress, ..recheck }, until),
            true => {
                let due = self.again.remove(key.as_slice())?;
                let due = due.map(|due| decode_recheck(due.value())).transpose()?;
                let Some(due) = due else {
                    self.rechecks.remove(key.as_slice())?;
                    return Ok(());
                };
                (due, 0)
            }
        };
        let place = self.last_place(&key)?;
        self.put_recheck(&key, &next, place, 0, until)
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
