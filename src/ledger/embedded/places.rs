//! Status lists: their places, in pages, and what is read of them.

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::ops::RangeInclusive;

use async_trait::async_trait;
use redb::{ReadableTable, Table, TableDefinition};

use super::Embedded;
use super::layout::damaged;
use super::reads::Snapshot;
use crate::ledger::LedgerError;
use crate::ledger::lineage::Memory;
use crate::ledger::status_lists::{NUMBERS, Naming, PAGE, StatusLists, capacity, draw, earliest};
use crate::model::ids::LeaseId;
use crate::model::status_list::{Hour, Place};
use crate::model::time::Timestamp;

/// There is one shard.
const SHARDS: NonZeroU16 = NonZeroU16::MIN;
/// The bytes of a page that say which places are taken; as many that say which are struck follow.
const HALF: usize = 32;

type Bytes = [u8; 2 * HALF];

/// Hour → how many places on its status lists were given out.
const HOURS: TableDefinition<'_, u32, u32> = TableDefinition::new("hours");
/// Hour and page → which of its places are taken, and which struck, the first in the lowest bit.
const PLACES: TableDefinition<'_, (u32, u32), &Bytes> = TableDefinition::new("places");

/// Where a place is kept.
struct Spot {
    page: (u32, u32),
    byte: usize,
    mask: u8,
}

impl Spot {
    fn of(place: Place) -> Self {
        let within = place.number % PAGE;
        Self {
            page: (place.hour.0, place.number / PAGE),
            byte: usize::try_from(within / 8).unwrap_or_default(),
            mask: 1 << (within % 8),
        }
    }
}

/// The pages of one hour and part.
fn pages(hour: Hour, part: u32) -> RangeInclusive<(u32, u32)> {
    let count = capacity(SHARDS) / PAGE;
    let first = part.saturating_mul(count);
    (hour.0, first)..=(hour.0, first.saturating_add(count - 1))
}

/// The tables, in one write transaction.
pub(super) struct Places<'t> {
    hours: Table<'t, u32, u32>,
    pages: Table<'t, (u32, u32), &'static Bytes>,
}

impl<'t> Places<'t> {
    pub(super) fn of(transaction: &'t redb::WriteTransaction) -> Result<Self, LedgerError> {
        Ok(Self {
            hours: transaction.open_table(HOURS)?,
            pages: transaction.open_table(PLACES)?,
        })
    }

    /// Gives out the next free place from the drawn one on, in the part of the hour that has room.
    pub(super) fn take(&mut self, hour: Hour, lease: LeaseId) -> Result<Place, LedgerError> {
        let capacity = capacity(SHARDS);
        let given = self.hours.get(hour.0)?.map_or(0, |given| given.value());
        let part = given / (capacity / 2);
        if part >= NUMBERS / capacity {
            return Err(damaged("the count of places on status lists"));
        }
        self.hours.insert(hour.0, given + 1)?;
        let drawn = draw(lease, capacity);
        for step in 0..capacity {
            let number = part * capacity + (drawn + step) % capacity;
            let place = Place { hour, number };
            if self.set(place, 0, true)? {
                return Ok(place);
            }
        }
        Err(damaged("the count of places on status lists"))
    }

    /// Strikes a place, unless its list is over.
    pub(super) fn strike(&mut self, place: Place) -> Result<(), LedgerError> {
        self.set(place, HALF, false).map(drop)
    }

    /// Sets the bit of a place in one half of its page, which may be new. Whether it was not set.
    fn set(&mut self, place: Place, half: usize, new: bool) -> Result<bool, LedgerError> {
        let spot = Spot::of(place);
        let stored = self.pages.get(spot.page)?.map(|page| *page.value());
        let Some(mut page) = stored.or(new.then_some([0; 2 * HALF])) else {
            return Ok(false);
        };
        let Some(byte) = page.get_mut(half + spot.byte) else {
            return Ok(false);
        };
        if *byte & spot.mask != 0 {
            return Ok(false);
        }
        *byte |= spot.mask;
        self.pages.insert(spot.page, &page)?;
        Ok(true)
    }

    /// Forgets the first hour whose tokens are all over. Whether there was one.
    pub(super) fn retire(&mut self, now: Timestamp) -> Result<bool, LedgerError> {
        let Some(hour) = over(&self.hours, now)? else {
            return Ok(false);
        };
        self.pages.retain_in((hour, 0)..=(hour, u32::MAX), |_, _| false)?;
        self.hours.remove(hour)?;
        Ok(true)
    }
}

/// The first hour that is over.
fn over(hours: &impl ReadableTable<u32, u32>, now: Timestamp) -> Result<Option<u32>, LedgerError> {
    let first = hours.first()?.map(|(hour, _)| hour.value());
    Ok(first.filter(|hour| Hour(*hour) < earliest(now)))
}

impl Snapshot {
    pub(super) fn any_hour_over(&self, now: Timestamp) -> Result<bool, LedgerError> {
        Ok(over(&self.0.open_table(HOURS)?, now)?.is_some())
    }

    fn parts(&self) -> Result<BTreeMap<Hour, u32>, LedgerError> {
        let half = capacity(SHARDS) / 2;
        let hours = self.0.open_table(HOURS)?;
        let mut parts = BTreeMap::new();
        for entry in hours.iter()? {
            let (hour, given) = entry?;
            parts.insert(Hour(hour.value()), given.value().div_ceil(half));
        }
        Ok(parts)
    }

    fn struck(&self, hour: Hour, part: u32) -> Result<Vec<u8>, LedgerError> {
        let table = self.0.open_table(PLACES)?;
        let range = pages(hour, part);
        let (first, last) = (range.start().1, range.end().1);
        let mut struck = Vec::new();
        let mut stored = table.range(range)?.peekable();
        for page in first..=last {
            let here = stored.next_if(|entry| match entry {
                Ok((key, _)) => key.value().1 == page,
                Err(_) => true,
            });
            match here.transpose()? {
                Some((_, bytes)) => struck.extend(bytes.value().iter().skip(HALF)),
                None => struck.extend([0; HALF]),
            }
        }
        Ok(struck)
    }
}

#[async_trait]
impl StatusLists for Embedded {
    fn naming(&self) -> Option<Naming> {
        match self.past.memory() {
            Memory::Mark(mark) => Some(Naming {
                epoch: mark.epoch,
                shards: SHARDS,
            }),
            Memory::Nothing | Memory::Journal | Memory::Observer => None,
        }
    }

    async fn parts(&self) -> Result<BTreeMap<Hour, u32>, LedgerError> {
        self.guarded_look(Snapshot::parts)
    }

    async fn struck(&self, hour: Hour, part: u32) -> Result<Vec<u8>, LedgerError> {
        self.guarded_look(|snapshot| snapshot.struck(hour, part))
    }
}
