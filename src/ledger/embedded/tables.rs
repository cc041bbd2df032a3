//! The tables of one write transaction, and the writes that keep a record and its indexes together.

use std::time::Duration;

use redb::{ReadableTable as _, ReadableTableMetadata as _, Table, WriteTransaction};

use super::counts::Counts;
use super::layout::{
    COUNTS, CUTOFFS, DUE, EPOCH, Entry, FACTS_FROM, FACTS_VERSION, FEED, FORGET, INDEX, Id, KEYS, Kind,
    LEASES, LOST, META, NEVER, PUBLISHED, Property, TASKS, TOUCHED, Use, WRITER, at, damaged, fallen,
};
use super::places::Places;
use crate::ledger::record::{
    decode_cutoff, decode_lease, decode_task, encode_cutoff, encode_lease, encode_selector, encode_task,
};
use crate::ledger::{IdempotencyKey, LedgerError, Refusal, rules};
use crate::model::cutoff::{Cutoff, Selector};
use crate::model::fact::FactsVersion;
use crate::model::ids::{LeaseId, TaskId};
use crate::model::lease::{Lease, LeaseState};
use crate::model::name::AgentName;
use crate::model::status_list::{Hour, Listing, Place};
use crate::model::task::{Task, TaskState};
use crate::model::time::Timestamp;

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
    pub(super) transaction: &'t WriteTransaction,
    tasks: Table<'t, &'static Id, (u64, &'static [u8])>,
    leases: Table<'t, &'static Id, (u64, u64, &'static [u8])>,
    due: Table<'t, &'static [u8], ()>,
    forget: Table<'t, &'static [u8], ()>,
    index: Table<'t, &'static [u8], ()>,
    counts: Counts<'t>,
    keys: Table<'t, &'static [u8], (&'static [u8; 32], &'static Id)>,
    cutoffs: Table<'t, &'static [u8], &'static [u8]>,
    feed: Table<'t, u64, &'static [u8]>,
    places: Places<'t>,
    meta: Table<'t, &'static str, u64>,
}

impl<'t> Tables<'t> {
    pub(super) fn of(transaction: &'t WriteTransaction, retention: Duration) -> Result<Self, LedgerError> {
        Ok(Self {
            retention,
            dirty: false,
            transaction,
            tasks: transaction.open_table(TASKS)?,
            leases: transaction.open_table(LEASES)?,
            due: transaction.open_table(DUE)?,
            forget: transaction.open_table(FORGET)?,
            index: transaction.open_table(INDEX)?,
            counts: Counts::of(transaction.open_table(COUNTS)?),
            keys: transaction.open_table(KEYS)?,
            cutoffs: transaction.open_table(CUTOFFS)?,
            feed: transaction.open_table(FEED)?,
            places: Places::of(transaction)?,
            meta: transaction.open_table(META)?,
        })
    }

    /// The end of the transaction's steps: nothing is written after it.
    pub(super) fn finish(self) -> Result<(), LedgerError> {
        self.counts.write()
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, LedgerError> {
        Ok(self.meta.get(name)?.map(|number| number.value()))
    }

    pub(super) fn set_number(&mut self, name: &str, number: u64) -> Result<(), LedgerError> {
        self.dirty = true;
        self.meta.insert(name, number)?;
        Ok(())
    }

    /// Takes out everything that says which ledger this is and who may use it; its count goes on.
    pub(super) fn forget_lineage(&mut self) -> Result<(), LedgerError> {
        self.dirty = true;
        self.meta.remove(EPOCH)?;
        self.meta.remove(LOST)?;
        self.meta.remove(FACTS_FROM)?; // who knew the facts of before begins afresh
        self.meta.retain(|name, _| !name.starts_with(WRITER))?;
        Ok(())
    }

    /// Writes something, to prove that it can be done.
    pub(super) fn touch(&mut self) -> Result<(), LedgerError> {
        let touched = self.number(TOUCHED)?.unwrap_or_default();
        self.set_number(TOUCHED, touched.wrapping_add(1))
    }

    pub(super) fn count(&self, property: &Property) -> Result<u32, LedgerError> {
        self.counts.get(property)
    }

    pub(super) fn count_up(&mut self, property: Property) -> Result<(), LedgerError> {
        self.counts.up(property)
    }

    pub(super) fn count_down(&mut self, property: Property) -> Result<(), LedgerError> {
        self.counts.down(property)
    }

    /// Refuses what was decided on facts of before.
    pub(super) fn check_facts(&self, known: FactsVersion) -> Result<(), LedgerError> {
        match self.number(FACTS_VERSION)? {
            Some(version) if known.0 < version => Err(Refusal::StaleFacts.into()),
            _ => Ok(()),
        }
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

    /// How many tasks of the agent have not ended.
    pub(super) fn open_tasks(&self, agent: &AgentName) -> Result<u32, LedgerError> {
        self.counts.get(&Property::open_tasks(agent.as_str()))
    }

    /// Writes a task, new or changed, next due at `due`: at no time once it has ended.
    pub(super) fn put_task(&mut self, task: &Task, due: Option<Timestamp>) -> Result<(), LedgerError> {
        self.dirty = true;
        let (id, due) = (task.charter.id.to_bytes(), millis(due));
        let before = self
            .tasks
            .insert(&id, (due, encode_task(task)?.as_slice()))?
            .map_or(NEVER, |row| row.value().0);
        let open = Property::open_tasks(task.charter.agent.as_str());
        let above = task.charter.delegators.iter();
        let below = above.map(|above| Property::below(above.task).of(id));
        match (before, due) {
            (NEVER, NEVER) => {}
            (NEVER, _) => {
                self.counts.up(open)?;
                for key in below {
                    self.index.insert(key.as_slice(), ())?;
                }
            }
            (_, NEVER) => {
                self.counts.down(open)?;
                for key in below {
                    self.index.remove(key.as_slice())?;
                }
            }
            _ => {}
        }
        self.schedule(before, due, Kind::Task, &id)
    }

    /// The sub-tasks below a task that have not ended, oldest first.
    pub(super) fn below(&self, id: TaskId) -> Result<Vec<Task>, LedgerError> {
        let ids = Property::below(id).all(&self.index)?;
        let task = |id| {
            let row = self.tasks.get(&id)?;
            row.map(|row| decode_task(row.value().1))
                .transpose()?
                .ok_or_else(|| damaged("the index of sub-tasks"))
        };
        ids.into_iter().map(task).collect()
    }

    /// The tasks that are not over among `limit` from an id on, and where to go on.
    pub(super) fn unfinished_tasks(
        &self,
        from: Id,
        limit: usize,
    ) -> Result<(Vec<TaskId>, Option<Id>), LedgerError> {
        let (mut open, mut last) = (Vec::new(), None);
        for entry in self.tasks.range::<&Id>(&from..)?.take(limit) {
            let (id, row) = entry?;
            let task = decode_task(row.value().1)?;
            if !matches!(task.state, TaskState::Ended { .. }) {
                open.push(task.charter.id);
            }
            last = u128::from_be_bytes(*id.value()).checked_add(1);
        }
        Ok((open, last.map(u128::to_be_bytes)))
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
        let lease = read_lease(due, record)?;
        Ok(Some(Row { lease, hold, due }))
    }

    pub(super) fn insert_lease(&mut self, lease: &Lease) -> Result<(), LedgerError> {
        self.insert_lease_due(lease, rules::due_at(lease))
    }

    /// Writes a new lease, next due at `due`.
    pub(super) fn insert_lease_due(
        &mut self,
        lease: &Lease,
        due: Option<Timestamp>,
    ) -> Result<(), LedgerError> {
        self.dirty = true;
        let (id, due) = (lease.id.to_bytes(), millis(due));
        self.leases
            .insert(&id, (due, 0, encode_lease(lease)?.as_slice()))?;
        self.schedule(NEVER, due, Kind::Lease, &id)?;
        let now_so = lease.tasks().map(Property::live);
        let now_so = now_so.chain([Property::state_of(lease)]);
        for property in Property::lasting(lease).chain(now_so) {
            self.index.insert(property.of(id).as_slice(), ())?;
        }
        for property in Property::counted(lease) {
            self.counts.up(property)?;
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
            for task in lease.tasks() {
                self.index.remove(Property::live(task).of(id).as_slice())?;
            }
            for property in Property::counted(lease) {
                self.counts.down(property)?;
            }
            self.forget_at(at.plus(self.retention), Kind::Lease, &id)?;
        }
        Ok(())
    }

    /// Gives the lease a place on the status lists of its task's last hour, where it wants one.
    pub(super) fn place(&mut self, lease: &Lease, task: &Task) -> Result<Option<Place>, LedgerError> {
        match lease.listing {
            Listing::Wanted => {
                let hour = Hour::of(task.charter.deadline);
                self.places.take(hour, lease.id).map(Some)
            }
            Listing::Unlisted | Listing::At(_) => Ok(None),
        }
    }

    /// Strikes the place of a lease that is about to be turned.
    pub(super) fn strike(&mut self, lease: &Lease) -> Result<(), LedgerError> {
        match lease.listing {
            Listing::At(place) => self.places.strike(place),
            Listing::Unlisted | Listing::Wanted => Ok(()),
        }
    }

    /// How many live leases share the task, the agent and the tool of this one.
    pub(super) fn counts(&self, lease: &Lease) -> Result<[u32; 3], LedgerError> {
        let [task, agent, tool] = Property::counted(lease);
        Ok([
            self.counts.get(&task)?,
            self.counts.get(&agent)?,
            self.counts.get(&tool)?,
        ])
    }

    /// The leases of a task, and of what is below it, that have not ended, oldest first.
    pub(super) fn live(&self, task: TaskId) -> Result<Vec<Row>, LedgerError> {
        let row = |id| self.row(&id)?.ok_or_else(|| damaged("the index of live leases"));
        Property::live(task)
            .all(&self.index)?
            .into_iter()
            .map(row)
            .collect()
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
        key: &IdempotencyKey,
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
            let until = rules::in_force_until(cutoff, self.retention);
            self.forget_at(until, Kind::Cutoff, &key)?;
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
        self.dirty |= self.places.retire(now)?;
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
        let over = |cutoff: &Cutoff| {
            cutoff.up_to < Timestamp::MAX && rules::in_force_until(cutoff, self.retention) <= now
        };
        if stored.as_ref().is_some_and(over) {
            self.cutoffs.remove(key)?;
        }
        Ok(())
    }
}

/// A lease as it is stored: when it is due next, and its record.
pub(super) fn read_lease(due: u64, record: &[u8]) -> Result<Lease, LedgerError> {
    Ok(rules::next_due(
        decode_lease(record)?,
        Timestamp::from_millis(due),
    ))
}

fn millis(due: Option<Timestamp>) -> u64 {
    due.map_or(NEVER, Timestamp::as_millis)
}
