//! The layout of the file: the tables and how their keys sort.
//!
//! Keys are bytes: numbers big-endian, names closed by a zero byte, which no name contains, and the id
//! last. An id sorts by the instant at which it was made.

use redb::{ReadableTable, TableDefinition};

use super::context::{FactRow, RecheckRow};
use crate::ledger::lineage::Writer;
use crate::ledger::{LedgerError, StateName};
use crate::model::fact::Subject;
use crate::model::ids::TaskId;
use crate::model::lease::Lease;
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
/// A property of a lease, or of a sub-task, and its id.
pub(super) const INDEX: TableDefinition<'_, &[u8], ()> = TableDefinition::new("index");
/// A property → how many live leases, open tasks, or facts in force, have it.
pub(super) const COUNTS: TableDefinition<'_, &[u8], u32> = TableDefinition::new("counts");
/// What a key is for and the key → its content and the id that it made.
pub(super) const KEYS: TableDefinition<'_, &[u8], (&[u8; 32], &Id)> = TableDefinition::new("keys");
/// Selector → the cutoff in force.
pub(super) const CUTOFFS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("cutoffs");
/// Number → the cutoff that was published under it.
pub(super) const FEED: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("feed");
/// Subject and name → the number of the statement, whether it is in force, when that ends or it is forgotten,
/// and the record of the fact.
pub(super) const FACTS: TableDefinition<'_, &[u8], FactRow> = TableDefinition::new("facts");
/// Number → the subject and name that were stated under it last.
pub(super) const TOLD: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("told");
/// Instant, subject and name of the facts that expire or are forgotten.
pub(super) const LAPSES: TableDefinition<'_, &[u8], ()> = TableDefinition::new("lapses");
/// Whom and what for → the place in the queue, who holds it, until when, and the record of the recheck.
pub(super) const RECHECKS: TableDefinition<'_, &[u8], RecheckRow> = TableDefinition::new("rechecks");
/// Whom and what for → the recheck that is due once the one under way is done.
pub(super) const AGAIN: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("rechecks again");
/// Place → whom and what for: ends first, then decisions.
pub(super) const QUEUE: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("queue");
/// Name → what all replicas agree on.
pub(super) const MARKS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("marks");
/// Numbers of the ledger as a whole.
pub(super) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

/// The layout of the tables, in [`META`].
pub(super) const FORMAT: &str = "format";
/// Tells this ledger from one that was made anew, in [`META`].
pub(super) const EPOCH: &str = "epoch";
/// How many commits there were, in [`META`].
pub(super) const PROGRESS: &str = "progress";
/// Set once the ledger was found lost, in [`META`].
pub(super) const LOST: &str = "lost";
/// The number of the latest entry of the feed, in [`META`].
pub(super) const PUBLISHED: &str = "published";
/// The number of the latest statement, in [`META`].
pub(super) const FACTS_VERSION: &str = "facts";
/// Statements of higher numbers are all there, in [`META`].
pub(super) const FACTS_FROM: &str = "facts from";
/// Grows with each place in the queue of rechecks and each hold, in [`META`].
pub(super) const SEQUENCE: &str = "sequence";
/// How many ends were claimed in a row while a decision waited, in [`META`].
pub(super) const ENDS: &str = "ends";
/// How often the ledger was asked whether it can write, in [`META`].
pub(super) const TOUCHED: &str = "touched";

/// How the names of writers start that are entered in [`META`].
pub(super) const WRITER: &str = "writer ";

/// Says in [`META`] that a writer is entered.
pub(super) fn entered(writer: Writer) -> String {
    format!("{WRITER}{writer}")
}

/// Due at no time.
pub(super) const NEVER: u64 = u64::MAX;

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

/// A property of leases, or of sub-tasks, as the first part of the keys of [`INDEX`].
pub(super) struct Property(pub(super) Vec<u8>);

impl Property {
    pub(super) fn task(id: TaskId) -> Self {
        Self([b"t".as_slice(), &id.to_bytes()].concat())
    }

    /// Of this task and not yet ended.
    pub(super) fn live(id: TaskId) -> Self {
        Self([b"l".as_slice(), &id.to_bytes()].concat())
    }

    /// Sub-tasks below this task that have not ended: a property of tasks.
    pub(super) fn below(id: TaskId) -> Self {
        Self([b"b".as_slice(), &id.to_bytes()].concat())
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

    pub(super) fn state_of(lease: &Lease) -> Self {
        Self::named(b"s", lease.state.as_str())
    }

    fn named(tag: &[u8; 1], name: &str) -> Self {
        Self([tag.as_slice(), name.as_bytes(), &[0]].concat())
    }

    /// What never changes about a lease.
    pub(super) fn lasting(lease: &Lease) -> impl Iterator<Item = Self> {
        let user = lease.on_behalf_of.as_ref();
        [
            Some(Self::tool(lease.tool.as_str())),
            user.map(|user| Self::user(user.as_str())),
        ]
        .into_iter()
        .flatten()
        .chain(lease.tasks().map(Self::task))
        .chain(lease.agents().map(|agent| Self::agent(agent.as_str())))
    }

    /// The properties that budgets count.
    pub(super) fn counted(lease: &Lease) -> [Self; 3] {
        [
            Self::task(lease.task),
            Self::agent(lease.agent.as_str()),
            Self::tool(lease.tool.as_str()),
        ]
    }

    /// Tasks of this agent that have not ended: a property of tasks, and counted alone.
    pub(super) fn open_tasks(agent: &str) -> Self {
        Self::named(b"w", agent)
    }

    /// Facts in force about this subject: a property of facts, and counted alone.
    pub(super) fn facts_of(subject: &Subject) -> Self {
        Self::named(b"f", &subject.to_string())
    }

    /// All facts in force.
    pub(super) fn facts() -> Self {
        Self::named(b"f", "")
    }

    /// The key of one lease.
    pub(super) fn of(&self, id: Id) -> Vec<u8> {
        [self.0.as_slice(), &id].concat()
    }

    /// All that have the property, oldest first.
    pub(super) fn all(&self, index: &impl ReadableTable<&'static [u8], ()>) -> Result<Vec<Id>, LedgerError> {
        let (first, last) = (self.of([0; 16]), self.of([0xff; 16]));
        let mut ids = Vec::new();
        for entry in index.range::<&[u8]>(first.as_slice()..=last.as_slice())? {
            let (key, _) = entry?;
            ids.push(key.value().last_chunk().copied().unwrap_or_default());
        }
        Ok(ids)
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
pub(super) fn at(instant: u64, kind: Kind, key: &[u8]) -> Vec<u8> {
    [&instant.to_be_bytes(), [kind as u8].as_slice(), key].concat()
}

/// An entry of [`DUE`] or [`FORGET`], read from its key.
pub(super) struct Entry {
    pub(super) whole: Vec<u8>,
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

/// The instant that an entry of a schedule begins with.
pub(super) fn instant_of(entry: &[u8]) -> Result<Timestamp, LedgerError> {
    let millis = entry.first_chunk().ok_or_else(|| damaged("the schedule"))?;
    Ok(Timestamp::from_millis(u64::from_be_bytes(*millis)))
}

/// What two tables say does not agree.
pub(super) fn damaged(what: &str) -> LedgerError {
    LedgerError::Corrupt(format!("{what} does not agree with the rest"))
}
