//! The tables, and the writes that keep a record and its indexes together.
//!
//! Keys are bytes that sort as wanted: numbers big-endian, names closed by a zero byte, which no name
//! contains, and the id last. An id sorts by the instant at which it was made.

use std::time::Duration;

use redb::{ReadableTable, ReadableTableMetadata as _, Table, TableDefinition, WriteTransaction};

use crate::ledger::record::{
    decode_cutoff, decode_lease, decode_task, encode_cutoff, encode_lease, encode_selector, encode_task,
};
use crate::ledger::{LedgerError, StateName, rules};
use crate::model::cutoff::{Cutoff, Selector};
use crate::model::ids::{LeaseId, TaskId};
use crate::model::lease::{Lease, LeaseState};
use crate::model::task::Task;
use crate::model::time::Timestamp;

/// The 16 bytes of a task id or a lease id.
pub(super) type Id = [u8; 16];

/// Task → when it is next due, and the record.
pub(super) const TASKS: TableDefinition<'_, &Id, (u64, &[u8])> = TableDefinition::new("tasks");
/// Lease → when it is next due, its hold, and the record.
pub(super) const LEASES: TableDefinition<'_, &Id, (u64, u64, &[u8])> = TableDefinition::new("leases");
/// Instant, kind and id of what falls due.
pub(super) const DUE: TableDefinition<'_, &[u8], ()> = TableDefinition::new("due");
/// Instant, kind and key of what is forgotten.
pub(super) const FORGET: TableDefinition<'_, &[u8], ()> = TableDefinition::new("forget");
/// A property of a lease and its id.
pub(super) const INDEX: TableDefinition<'_, &[u8], ()> = TableDefinition::new("index");
/// A property → how many live leases have it.
const COUNTS: TableDefinition<'_, &[u8], u32> = TableDefinition::new("counts");
/// What a key is for and the key → its content and the id that it made.
const KEYS: TableDefinition<'_, &[u8], (&[u8; 32], &Id)> = TableDefinition::new("keys");
/// Selector → the cutoff in force.
pub(super) const CUTOFFS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("cutoffs");
/// Number → the cutoff that was published under it.
pub(super) const FEED: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("feed");
/// Numbers of the ledger as a whole.
pub(super) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

/// The layout of the tables, in [`META`].
pub(super) const FORMAT: &str = "format";
/// Tells this ledger from one that was made anew, in [`META`].
pub(super) const EPOCH: &str = "epoch";
/// The number of the latest entry of the feed, in [`META`].
pub(super) const PUBLISHED: &str = "published";
/// How often the ledger was asked whether it can write, in [`META`].
const TOUCHED: &str = "touched";

/// Due at no time.
const NEVER: u64 = u64::MAX;

/// What an entry of [`DUE`] or [`FORGET`] is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Kind {
    Lease = b'l',
    Task = b't',
    Key = b'k',
    Cutoff = b'c',
    Entry = b'e',
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        [Self::Lease, Self::Task, Self::Key, Self::Cutoff, Self::Entry]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// What an idempotency key was used for; the same key can serve once for each.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(super) enum Use {
    Opening = b'o',
    Reserving = b'r',
}

/// A property of leases, as the first part of the keys of [`INDEX`].
pub(super) struct Property(Vec<u8>);

impl Property {
    pub(super) fn task(id: TaskId) -> Self {
        Self([b"t".as_slice(), &id.to_bytes()].concat())
    }

    /// Of this task and not yet ended.
    fn live(id: TaskId) -> Self {
        Self([b"l".as_slice(), &id.to_bytes()].concat())
    }

    pub(super) fn agent(name: &str) -> Self {
        Self::named(b"a", name)
    }

    pub(super) fn tool(name: &str) -> Self {
        Self::named(b"o", name)
    }

    pub(super) fn user(id: &str) -> Self {
        Self::named(b"u", id)
    }

    pub(super) fn state(state: StateName) -> Self {
        Self::named(b"s", state.as_str())
    }

    fn state_of(lease: &Lease) -> Self {
        Self::named(b"s", lease.state.as_str())
    }

    fn named(tag: &[u8; 1], name: &str) -> Self {
        Self([tag.as_slice(), name.as_bytes(), &[0]].concat())
    }

    /// What never changes about a lease.
    fn lasting(lease: &Lease) -> impl Iterator<Item = Self> {
        let user = lease.on_behalf_of.as_ref();
        [
            Some(Self::task(lease.task)),
            Some(Self::agent(lease.agent.as_str())),
            Some(Self::tool(lease.tool.as_str())),
            user.map(|user| Self::user(user.as_str())),
        ]
        .into_iter()
        .flatten()
    }

    /// The properties that budgets count.
    fn counted(lease: &Lease) -> [Self; 3] {
        [
            Self::task(lease.task),
            Self::agent(lease.agent.as_str()),
            Self::tool(lease.tool.as_str()),
        ]
    }

    /// The key of one lease.
    pub(super) fn of(&self, id: Id) -> Vec<u8> {
        [self.0.as_slice(), &id].concat()
    }

    /// The first lease at or after `from` that has the property.
    pub(super) fn seek(
        &self,
        index: &impl ReadableTable<&'static [u8], ()>,
        from: Id,
    ) -> Result<Option<Id>, LedgerError> {
        let (first, last) = (self.of(from), self.of([0xff; 16]));
        let mut range = index.range::<&[u8]>(first.as_slice()..=last.as_slice())?;
        let Some(entry) = range.next() else {
            return Ok(None);
        };
        let (key, _) = entry?;
        Ok(key.value().last_chunk().copied())
    }
}

/// A key of [`DUE`] or [`FORGET`].
fn at(instant: u64, kind: Kind, key: &[u8]) -> Vec<u8> {
    [&instant.to_be_bytes(), [kind as u8].as_slice(), key].concat()
}

/// An entry of [`DUE`] or [`FORGET`], read from its key.
pub(super) struct Entry {
    whole: Vec<u8>,
    pub(super) kind: Kind,
}

impl Entry {
    fn read(whole: &[u8]) -> Option<Self> {
        let kind = Kind::of(*whole.get(8)?)?;
        let whole = whole.to_vec();
        Some(Self { whole, kind })
    }

    /// What comes after the instant and the kind.
    pub(super) fn key(&self) -> &[u8] {
        self.whole.get(9..).unwrap_or_default()
    }

    /// The key, where it is an id.
    pub(super) fn id(&self) -> Result<Id, LedgerError> {
        self.key().try_into().map_err(|_| damaged("the schedule"))
    }
}

/// The first `limit` entries that are not later than `now`.
pub(super) fn fallen(
    table: &impl ReadableTable<&'static [u8], ()>,
    now: Timestamp,
    limit: usize,
) -> Result<Vec<Entry>, LedgerError> {
    let end = (now.as_millis() + 1).to_be_bytes();
    let mut fallen = Vec::new();
    for entry in table.range::<&[u8]>(..end.as_slice())?.take(limit) {
        let (key, _) = entry?;
        fallen.push(Entry::read(key.value()).ok_or_else(|| damaged("the schedule"))?);
    }
    Ok(fallen)
}

/// What two tables say does not agree.
pub(super) fn damaged(what: &str) -> LedgerError {
    LedgerError::Corrupt(format!("{what} does not agree with the rest"))
}

/// A lease with what the ledger keeps beside it.
pub(super) struct Row {
    pub(super) lease: Lease,
    /// Counts claims and settlements: odd while somebody holds the lease.
    pub(super) hold: u64,
    due: u64,
}

/// All tables, open in one write transaction.
pub(super) struct Tables<'t> {
    /// How long what is over is kept.
    pub(super) retention: Duration,
    /// Whether there is anything to commit.
    pub(super) dirty: bool,
    tasks: Table<'t, &'static Id, (u64, &'static [u8])>,
    leases: Table<'t, &'static Id, (u64, u64, &'static [u8])>,
    due: Table<'t, &'static [u8], ()>,
    forget: Table<'t, &'static [u8], ()>,
    index: Table<'t, &'static [u8], ()>,
    counts: Table<'t, &'static [u8], u32>,
    keys: Table<'t, &'static [u8], (&'static [u8; 32], &'static Id)>,
    cutoffs: Table<'t, &'static [u8], &'static [u8]>,
    feed: Table<'t, u64, &'static [u8]>,
    meta: Table<'t, &'static str, u64>,
}

impl<'t> Tables<'t> {
    pub(super) fn of(transaction: &'t WriteTransaction, retention: Duration) -> Result<Self, LedgerError> {
        Ok(Self {
            retention,
            dirty: false,
            tasks: transaction.open_table(TASKS)?,
            leases: transaction.open_table(LEASES)?,
            due: transaction.open_table(DUE)?,
            forget: transaction.open_table(FORGET)?,
            index: transaction.open_table(INDEX)?,
            counts: transaction.open_table(COUNTS)?,
            keys: transaction.open_table(KEYS)?,
            cutoffs: transaction.open_table(CUTOFFS)?,
            feed: transaction.open_table(FEED)?,
            meta: transaction.open_table(META)?,
        })
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, LedgerError> {
        Ok(self.meta.get(name)?.map(|number| number.value()))
    }

    pub(super) fn set_number(&mut self, name: &str, number: u64) -> Result<(), LedgerError> {
        self.dirty = true;
        self.meta.insert(name, number)?;
        Ok(())
    }

    /// Writes something, to prove that it can be done.
    pub(super) fn touch(&mut self) -> Result<(), LedgerError> {
        let touched = self.number(TOUCHED)?.unwrap_or_default();
        self.set_number(TOUCHED, touched.wrapping_add(1))
    }

    fn schedule(&mut self, before: u64, after: u64, kind: Kind, id: &Id) -> Result<(), LedgerError> {
        if before == after {
            return Ok(());
        }
        if before != NEVER {
            self.due.remove(at(before, kind, id).as_slice())?;
        }
        if after != NEVER {
            self.due.insert(at(after, kind, id).as_slice(), ())?;
        }
        Ok(())
    }

    fn forget_at(&mut self, instant: Timestamp, kind: Kind, key: &[u8]) -> Result<(), LedgerError> {
        self.forget
            .insert(at(instant.as_millis(), kind, key).as_slice(), ())?;
        Ok(())
    }

    // Tasks

    pub(super) fn task(&self, id: TaskId) -> Result<Option<Task>, LedgerError> {
        let row = self.tasks.get(&id.to_bytes())?;
        row.map(|row| decode_task(row.value().1)).transpose()
    }

    /// Writes a task, new or changed, next due at `due`.
    pub(super) fn put_task(&mut self, task: &Task, due: Option<Timestamp>) -> Result<(), LedgerError> {
        self.dirty = true;
        let (id, due) = (task.charter.id.to_bytes(), millis(due));
        let before = self
            .tasks
            .insert(&id, (due, encode_task(task)?.as_slice()))?
            .map_or(NEVER, |row| row.value().0);
        self.schedule(before, due, Kind::Task, &id)
    }

    pub(super) fn forget_task_at(&mut self, id: TaskId, instant: Timestamp) -> Result<(), LedgerError> {
        self.forget_at(instant, Kind::Task, &id.to_bytes())
    }

    // Leases

    pub(super) fn lease(&self, id: LeaseId) -> Result<Option<Row>, LedgerError> {
        self.row(&id.to_bytes())
    }

    pub(super) fn row(&self, id: &Id) -> Result<Option<Row>, LedgerError> {
        let Some(stored) = self.leases.get(id)? else {
            return Ok(None);
        };
        let (due, hold, record) = stored.value();
        let lease = decode_lease(record)?;
        Ok(Some(Row { lease, hold, due }))
    }

    pub(super) fn insert_lease(&mut self, lease: &Lease) -> Result<(), LedgerError> {
        self.dirty = true;
        let (id, due) = (lease.id.to_bytes(), millis(rules::due_at(lease)));
        self.leases
            .insert(&id, (due, 0, encode_lease(lease)?.as_slice()))?;
        self.schedule(NEVER, due, Kind::Lease, &id)?;
        let now_so = [Property::live(lease.task), Property::state_of(lease)];
        for property in Property::lasting(lease).chain(now_so) {
            self.index.insert(property.of(id).as_slice(), ())?;
        }
        for property in Property::counted(lease) {
            let count = self.count(&property)?;
            self.counts
                .insert(property.0.as_slice(), count.saturating_add(1))?;
        }
        Ok(())
    }

    /// Writes a lease that was `row` before. When it ends, it leaves the budgets and is forgotten later.
    pub(super) fn update_lease(
        &mut self,
        row: &Row,
        lease: &Lease,
        due: Option<Timestamp>,
        hold: u64,
    ) -> Result<(), LedgerError> {
        self.dirty = true;
        let (id, due) = (lease.id.to_bytes(), millis(due));
        self.leases
            .insert(&id, (due, hold, encode_lease(lease)?.as_slice()))?;
        self.schedule(row.due, due, Kind::Lease, &id)?;
        if row.lease.state.as_str() != lease.state.as_str() {
            self.index
                .remove(Property::state_of(&row.lease).of(id).as_slice())?;
            self.index
                .insert(Property::state_of(lease).of(id).as_slice(), ())?;
        }
        if let LeaseState::Ended { at, .. } = lease.state {
            self.index.remove(Property::live(lease.task).of(id).as_slice())?;
            for property in Property::counted(lease) {
                match self.count(&property)? {
                    0 | 1 => self.counts.remove(property.0.as_slice())?.is_some(),
                    count => self.counts.insert(property.0.as_slice(), count - 1)?.is_some(),
                };
            }
            self.forget_at(at.plus(self.retention), Kind::Lease, &id)?;
        }
        Ok(())
    }

    /// How many live leases have the property.
    fn count(&self, property: &Property) -> Result<u32, LedgerError> {
        Ok(self
            .counts
            .get(property.0.as_slice())?
            .map_or(0, |count| count.value()))
    }

    /// How many live leases share the task, the agent and the tool of this one.
    pub(super) fn counts(&self, lease: &Lease) -> Result<[u32; 3], LedgerError> {
        let [task, agent, tool] = Property::counted(lease);
        Ok([self.count(&task)?, self.count(&agent)?, self.count(&tool)?])
    }

    /// The leases of a task that have not ended, oldest first.
    pub(super) fn live(&self, task: TaskId) -> Result<Vec<Row>, LedgerError> {
        let property = Property::live(task);
        let (first, last) = (property.of([0; 16]), property.of([0xff; 16]));
        let mut rows = Vec::new();
        for entry in self.index.range::<&[u8]>(first.as_slice()..=last.as_slice())? {
            let (key, _) = entry?;
            let id = key.value().last_chunk().copied().unwrap_or_default();
            rows.push(
                self.row(&id)?
                    .ok_or_else(|| damaged("the index of live leases"))?,
            );
        }
        Ok(rows)
    }

    pub(super) fn fallen_due(&self, now: Timestamp, limit: usize) -> Result<Vec<Entry>, LedgerError> {
        fallen(&self.due, now, limit)
    }

    // Keys

    pub(super) fn key(&self, used: Use, key: &[u8; 32]) -> Result<Option<([u8; 32], Id)>, LedgerError> {
        let row = self
            .keys
            .get([&[used as u8], key.as_slice()].concat().as_slice())?;
        Ok(row.map(|row| {
            let (content, id) = row.value();
            (*content, *id)
        }))
    }

    /// Remembers a key from `now` on, for the retention.
    pub(super) fn insert_key(
        &mut self,
        used: Use,
        key: &crate::ledger::IdempotencyKey,
        id: Id,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        self.dirty = true;
        let name = [&[used as u8], key.key.as_slice()].concat();
        self.keys.insert(name.as_slice(), (&key.content, &id))?;
        self.forget_at(now.plus(self.retention), Kind::Key, &name)
    }

    // Cutoffs

    /// The selector of a cutoff that ends the lease, if there is one.
    pub(super) fn cut_by(&self, lease: &Lease) -> Result<Option<Selector>, LedgerError> {
        if self.cutoffs.is_empty()? {
            return Ok(None);
        }
        for selector in rules::selectors(lease) {
            if self
                .cutoff(&selector)?
                .is_some_and(|cutoff| lease.is_cut_by(&cutoff))
            {
                return Ok(Some(selector));
            }
        }
        Ok(None)
    }

    pub(super) fn cutoff(&self, selector: &Selector) -> Result<Option<Cutoff>, LedgerError> {
        let stored = self.cutoffs.get(encode_selector(selector)?.as_slice())?;
        stored.map(|record| decode_cutoff(record.value())).transpose()
    }

    pub(super) fn put_cutoff(&mut self, cutoff: &Cutoff) -> Result<(), LedgerError> {
        self.dirty = true;
        let key = encode_selector(&cutoff.selector)?;
        self.cutoffs
            .insert(key.as_slice(), encode_cutoff(cutoff)?.as_slice())?;
        if cutoff.up_to < Timestamp::MAX {
            self.forget_at(rules::in_force_until(cutoff), Kind::Cutoff, &key)?;
        }
        Ok(())
    }

    /// Puts a cutoff into the feed.
    pub(super) fn publish(&mut self, cutoff: &Cutoff) -> Result<(), LedgerError> {
        let number = self.number(PUBLISHED)?.unwrap_or_default() + 1;
        self.set_number(PUBLISHED, number)?;
        self.feed.insert(number, encode_cutoff(cutoff)?.as_slice())?;
        self.forget_at(cutoff.at.plus(self.retention), Kind::Entry, &number.to_be_bytes())
    }

    // Forgetting

    /// Forgets what is over for longer than the retention, at most `limit` things.
    pub(super) fn forget(&mut self, now: Timestamp, limit: usize) -> Result<(), LedgerError> {
        for entry in fallen(&self.forget, now, limit)? {
            self.dirty = true;
            match entry.kind {
                Kind::Task => drop(self.tasks.remove(&entry.id()?)?),
                Kind::Lease => self.forget_lease(&entry.id()?)?,
                Kind::Key => drop(self.keys.remove(entry.key())?),
                Kind::Cutoff => self.forget_cutoff(entry.key(), now)?,
                Kind::Entry => {
                    let number = entry.key().try_into().map_err(|_| damaged("the schedule"))?;
                    self.feed.remove(u64::from_be_bytes(number))?;
                }
            }
            self.forget.remove(entry.whole.as_slice())?;
        }
        Ok(())
    }

    fn forget_lease(&mut self, id: &Id) -> Result<(), LedgerError> {
        let Some(row) = self.row(id)? else { return Ok(()) };
        let state = Property::state_of(&row.lease);
        for property in Property::lasting(&row.lease).chain([state]) {
            self.index.remove(property.of(*id).as_slice())?;
        }
        self.leases.remove(id)?;
        Ok(())
    }

    /// One that reaches further may have come in the meantime, with an entry of its own.
    fn forget_cutoff(&mut self, key: &[u8], now: Timestamp) -> Result<(), LedgerError> {
        let stored = self
            .cutoffs
            .get(key)?
            .map(|record| decode_cutoff(record.value()))
            .transpose()?;
        let over = |cutoff: &Cutoff| cutoff.up_to < Timestamp::MAX && rules::in_force_until(cutoff) <= now;
        if stored.as_ref().is_some_and(over) {
            self.cutoffs.remove(key)?;
        }
        Ok(())
    }
}

fn millis(due: Option<Timestamp>) -> u64 {
    due.map_or(NEVER, Timestamp::as_millis)
}
