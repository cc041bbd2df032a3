//! The names of the keys. All keys of a shard carry its hash tag, so that each step is one script in
//! one slot of a cluster.

use std::num::NonZeroU16;

use crate::model::ids::{LeaseId, Slot, TaskId};
use crate::model::lease::Lease;

/// The shards of a ledger.
#[derive(Clone, Debug)]
pub(super) struct Shards {
    tags: Vec<String>,
    count: NonZeroU16,
}

impl Shards {
    pub(super) fn new(prefix: &str, count: NonZeroU16) -> Self {
        let tags = (0..count.get())
            .map(|shard| format!("{{{prefix}:{shard}}}"))
            .collect();
        Self { tags, count }
    }

    pub(super) fn len(&self) -> usize {
        self.tags.len()
    }

    pub(super) fn count(&self) -> NonZeroU16 {
        self.count
    }

    /// All of them, in order.
    pub(super) fn all(&self) -> impl Iterator<Item = Shard<'_>> {
        let numbered = self.tags.iter().enumerate();
        numbered.map(|(number, tag)| Shard { number, tag })
    }

    /// The one with this number; numbers go round.
    pub(super) fn nth(&self, number: usize) -> Shard<'_> {
        let number = number % self.tags.len().max(1);
        let tag = self.tags.get(number);
        Shard {
            number,
            tag: tag.map_or("", String::as_str),
        }
    }

    pub(super) fn of_task(&self, id: TaskId) -> Shard<'_> {
        self.of_slot(id.slot())
    }

    pub(super) fn of_lease(&self, id: LeaseId) -> Shard<'_> {
        self.of_slot(id.slot())
    }

    fn of_slot(&self, slot: Slot) -> Shard<'_> {
        self.nth(usize::from(slot.shard(self.count)))
    }
}

/// One shard, and the names in it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shard<'a> {
    /// Its place among them.
    pub(super) number: usize,
    tag: &'a str,
}

impl Shard<'_> {
    fn key(self, name: &str) -> Vec<u8> {
        [self.tag.as_bytes(), name.as_bytes()].concat()
    }

    fn index(self, kind: u8, name: &[u8]) -> Vec<u8> {
        [self.tag.as_bytes(), b":", &[kind], b":", name].concat()
    }

    /// Hash: `epoch`, and the count of each writer; `lost` once somebody found that it is.
    pub(super) fn lineage(self) -> Vec<u8> {
        self.key(":lineage")
    }

    /// Hash: task id to task.
    pub(super) fn tasks(self) -> Vec<u8> {
        self.key(":tasks")
    }

    /// Hash: lease id to lease.
    pub(super) fn leases(self) -> Vec<u8> {
        self.key(":leases")
    }

    /// Hash: sub-task that has not ended to the ids of the tasks above it, nearest first.
    pub(super) fn above(self) -> Vec<u8> {
        self.key(":above")
    }

    /// Sorted set, by members alone: a task and a sub-task below it that has not ended, as one.
    pub(super) fn below(self) -> Vec<u8> {
        self.key(":below")
    }

    /// Sorted set: what falls due when.
    pub(super) fn due(self) -> Vec<u8> {
        self.key(":due")
    }

    /// Sorted set: what ended when, to be forgotten.
    pub(super) fn forget(self) -> Vec<u8> {
        self.key(":forget")
    }

    /// Sorted set: leases that are reserved, revoking or stuck, by state and id. Few at any time.
    pub(super) fn pending(self) -> Vec<u8> {
        self.key(":pending")
    }

    /// Hash: how many leases that have not ended each task, agent and tool has, and how many tasks each agent.
    pub(super) fn counts(self) -> Vec<u8> {
        self.key(":counts")
    }

    /// Hash: how many leases there are of each tool, ended ones too: the names of the tool indexes.
    pub(super) fn tools(self) -> Vec<u8> {
        self.key(":tools")
    }

    /// Hash: hour to how many places on its status lists were given out.
    pub(super) fn hours(self) -> Vec<u8> {
        self.key(":hours")
    }

    /// Hash: hour and number of a page to which of its places are taken, and which struck.
    pub(super) fn places(self) -> Vec<u8> {
        self.key(":places")
    }

    /// Hash, in the first shard: `v` the version of the facts, `f` the version after which all statements are
    /// there, `n` how many facts are in force, `q` a number for each place in the queue and each hold.
    pub(super) fn context(self) -> Vec<u8> {
        self.key(":context")
    }

    /// Hash, in the first shard: subject and name to what was stated last.
    pub(super) fn facts(self) -> Vec<u8> {
        self.key(":facts")
    }

    /// Sorted set, in the first shard: subject and name by the version of the statement.
    pub(super) fn told(self) -> Vec<u8> {
        self.key(":told")
    }

    /// Sorted set, in the first shard: subject and name by when the fact expires or is forgotten.
    pub(super) fn lapses(self) -> Vec<u8> {
        self.key(":lapses")
    }

    /// Hash, in the first shard: how many facts are in force about each subject.
    pub(super) fn subjects(self) -> Vec<u8> {
        self.key(":subjects")
    }

    /// Hash, in the first shard: whom and what for to recheck.
    pub(super) fn rechecks(self) -> Vec<u8> {
        self.key(":rechecks")
    }

    /// Sorted set, in the first shard: rechecks in the order of their turn.
    pub(super) fn queue(self) -> Vec<u8> {
        self.key(":queue")
    }

    /// Hash, in the first shard: what all replicas agree on.
    pub(super) fn marks(self) -> Vec<u8> {
        self.key(":marks")
    }

    /// Hash: selector to cutoff; `!` is how far the furthest of them reaches, `#` as of which version of the
    /// facts is decided what is given out.
    pub(super) fn cutoffs(self) -> Vec<u8> {
        self.key(":cutoffs")
    }

    /// Stream: the feed.
    pub(super) fn feed(self) -> Vec<u8> {
        self.key(":feed")
    }

    /// String: the number of the last entry of the feed.
    pub(super) fn seq(self) -> Vec<u8> {
        self.key(":seq")
    }

    /// String: written to see whether it can be.
    pub(super) fn ping(self) -> Vec<u8> {
        self.key(":ping")
    }

    /// String: what an idempotency key stands for.
    pub(super) fn idempotency(self, key: &[u8; 32]) -> Vec<u8> {
        self.index(b'k', key)
    }

    /// Sorted set: the leases of a task and of what is below it, live ones first, by id.
    pub(super) fn by_task(self, id: TaskId) -> Vec<u8> {
        self.index(b't', &id.to_bytes())
    }

    /// Sorted set: the leases of an agent, and of sub-tasks that it handed on.
    pub(super) fn by_agent(self, name: &str) -> Vec<u8> {
        self.index(b'a', name.as_bytes())
    }

    /// Sorted set: the leases for a tool.
    pub(super) fn by_tool(self, name: &str) -> Vec<u8> {
        self.index(b'c', name.as_bytes())
    }

    /// Sorted set: the leases on behalf of a user.
    pub(super) fn by_user(self, name: &str) -> Vec<u8> {
        self.index(b'u', name.as_bytes())
    }

    /// Every index that a lease is in.
    pub(super) fn indexes(self, lease: &Lease) -> impl Iterator<Item = Vec<u8>> {
        let user = lease.on_behalf_of.as_ref();
        [
            Some(self.by_tool(lease.tool.as_str())),
            user.map(|user| self.by_user(user.as_str())),
        ]
        .into_iter()
        .flatten()
        .chain(lease.tasks().map(move |task| self.by_task(task)))
        .chain(lease.agents().map(move |agent| self.by_agent(agent.as_str())))
    }
}
