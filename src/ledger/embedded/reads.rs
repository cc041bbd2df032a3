//! Reads, all of one snapshot: what the latest commit left.

use redb::{
    AccessGuard, Range, ReadOnlyTable, ReadTransaction, ReadableTable as _, ReadableTableMetadata as _,
};

use super::layout::{
    CUTOFFS, DUE, EPOCH, FEED, FORGET, INDEX, Id, LEASES, META, PUBLISHED, Property, TASKS, damaged, fallen,
    instant_of,
};
use super::store::Store;
use super::tables::read_lease;
use crate::ledger::record::{decode_cutoff, decode_task, encode_selector};
use crate::ledger::{Changes, Cursor, Filter, LedgerError, Page, Refusal, StateName, rules};
use crate::model::cutoff::{Cutoff, Selector};
use crate::model::ids::{LeaseId, TaskId};
use crate::model::lease::Lease;
use crate::model::task::Task;
use crate::model::time::Timestamp;

pub(super) struct Snapshot(pub(super) ReadTransaction);

pub(super) struct Numbers(ReadOnlyTable<&'static str, u64>);

impl Numbers {
    pub(super) fn get(&self, name: &str) -> Result<Option<u64>, LedgerError> {
        Ok(self.0.get(name)?.map(|number| number.value()))
    }
}

impl Snapshot {
    pub(super) fn of(store: &Store) -> Result<Self, LedgerError> {
        store.read().map(Self)
    }

    pub(super) fn task(&self, id: TaskId) -> Result<Option<Task>, LedgerError> {
        let row = self.0.open_table(TASKS)?.get(&id.to_bytes())?;
        row.map(|row| decode_task(row.value().1)).transpose()
    }

    pub(super) fn below(&self, id: TaskId) -> Result<Vec<Task>, LedgerError> {
        let tasks = self.0.open_table(TASKS)?;
        let task = |id| match tasks.get(&id)? {
            Some(row) => decode_task(row.value().1),
            None => Err(damaged("the index of sub-tasks")),
        };
        let ids = Property::below(id).all(&self.0.open_table(INDEX)?)?;
        ids.into_iter().map(task).collect()
    }

    pub(super) fn lease(&self, id: LeaseId) -> Result<Option<Lease>, LedgerError> {
        let row = self.0.open_table(LEASES)?.get(&id.to_bytes())?;
        row.map(|row| stored(&row)).transpose()
    }

    pub(super) fn live(&self, id: LeaseId, now: Timestamp) -> Result<Lease, LedgerError> {
        let lease = self.lease(id)?.ok_or(Refusal::NoLease)?;
        rules::live_at(&lease, now)?;
        let task = self.task(lease.task)?.ok_or(Refusal::NoTask)?;
        rules::open_at(&task, now)?;
        for above in &task.charter.delegators {
            let above = self.task(above.task)?.ok_or(Refusal::NoTask)?;
            rules::open_above(&above, now)?;
        }
        let cutoffs = self.0.open_table(CUTOFFS)?;
        if cutoffs.is_empty()? {
            return Ok(lease);
        }
        for selector in rules::selectors(&lease) {
            let stored = cutoffs.get(encode_selector(&selector)?.as_slice())?;
            let cutoff = stored.map(|record| decode_cutoff(record.value())).transpose()?;
            if cutoff.is_some_and(|cutoff| lease.is_cut_by(&cutoff)) {
                return Err(Refusal::Cut(selector).into());
            }
        }
        Ok(lease)
    }

    /// The numbers of the ledger, for who looks at several: to open their table takes longer than to read one.
    pub(super) fn numbers(&self) -> Result<Numbers, LedgerError> {
        Ok(Numbers(self.0.open_table(META)?))
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, LedgerError> {
        self.numbers()?.get(name)
    }

    /// Since when the longest due has waited.
    pub(super) fn first_due(&self, now: Timestamp) -> Result<Option<Timestamp>, LedgerError> {
        let due = self.0.open_table(DUE)?;
        let from = rules::between(now).as_millis().to_be_bytes();
        let first = |mut entries: Range<'_, &[u8], ()>| {
            let entry = entries.next().transpose()?;
            entry.map(|(key, _)| instant_of(key.value())).transpose()
        };
        let (ordered, by_itself) = (first(due.iter()?)?, first(due.range(from.as_slice()..)?)?);
        Ok(rules::waits_since(ordered, by_itself, now))
    }

    /// Whether a claim would find anything to hand out or to forget.
    pub(super) fn anything_due(&self, now: Timestamp) -> Result<bool, LedgerError> {
        let due = !fallen(&self.0.open_table(DUE)?, now, 1)?.is_empty();
        let old = !fallen(&self.0.open_table(FORGET)?, now, 1)?.is_empty();
        Ok(due || old || self.any_hour_over(now)?)
    }

    pub(super) fn cutoffs(&self) -> Result<Vec<Cutoff>, LedgerError> {
        let mut cutoffs = Vec::new();
        for entry in self.0.open_table(CUTOFFS)?.range::<&[u8]>(..)? {
            let cutoff = decode_cutoff(entry?.1.value())?;
            if !matches!(cutoff.selector, Selector::Lease(_) | Selector::Task(_)) {
                cutoffs.push(cutoff);
            }
        }
        Ok(cutoffs)
    }

    pub(super) fn find(&self, filter: &Filter, page: &Page) -> Result<Vec<Lease>, LedgerError> {
        let limit = page.limit.get().min(Page::MOST);
        let Some(from) = page.after.map_or(Some([0; 16]), |after| next(after.to_bytes())) else {
            return Ok(Vec::new());
        };
        let mut properties: Vec<_> = [
            filter.task.map(Property::task),
            filter.user.as_ref().map(|user| Property::user(user.as_str())),
            filter.agent.as_ref().map(|agent| Property::agent(agent.as_str())),
            filter.tool.as_ref().map(|tool| Property::tool(tool.as_str())),
            filter.state.map(Property::state),
        ]
        .into_iter()
        .flatten()
        .collect();

        let table = self.0.open_table(LEASES)?;
        if properties.is_empty() && !filter.live {
            let rows = table.range::<&Id>(&from..)?.take(limit);
            return rows.map(|row| stored(&row?.1)).collect();
        }
        let index = self.0.open_table(INDEX)?;
        let mut ids = Vec::new();
        if filter.live {
            // Each state has an index of its own; the first of both together are those of the union.
            for state in [StateName::Reserved, StateName::Active] {
                properties.push(Property::state(state));
                ids.extend(with_all(&index, &properties, from, limit)?);
                properties.pop();
            }
            ids.sort_unstable();
            ids.truncate(limit);
        } else {
            ids = with_all(&index, &properties, from, limit)?;
        }
        let lease = |id: Id| match table.get(&id)? {
            Some(row) => stored(&row),
            None => Err(damaged("the index of leases")),
        };
        ids.into_iter().map(lease).collect()
    }

    pub(super) fn changes(&self, since: &Cursor) -> Result<Changes, LedgerError> {
        let meta = self.0.open_table(META)?;
        let number = |name| Ok::<_, LedgerError>(meta.get(name)?.map_or(0, |number| number.value()));
        let (epoch, published) = (number(EPOCH)?, number(PUBLISHED)?);
        // A cursor of a ledger that was lost, or rolled back, says nothing about this one.
        let since = match since.0.as_slice() {
            [theirs, read] if *theirs == epoch && *read <= published => *read,
            _ => 0,
        };
        let (mut cutoffs, mut last, mut more) = (Vec::new(), published, false);
        for entry in self.0.open_table(FEED)?.range(since + 1..)? {
            if cutoffs.len() == rules::MOST_CHANGES {
                more = true;
                break;
            }
            let (number, record) = entry?;
            cutoffs.push(decode_cutoff(record.value())?);
            last = number.value();
        }
        let next = Cursor(vec![epoch, last]);
        Ok(Changes { cutoffs, next, more })
    }
}

fn stored(row: &AccessGuard<'_, (u64, u64, &'static [u8])>) -> Result<Lease, LedgerError> {
    let (due, _, record) = row.value();
    read_lease(due, record)
}

/// The id that follows this one.
fn next(id: Id) -> Option<Id> {
    u128::from_be_bytes(id).checked_add(1).map(u128::to_be_bytes)
}

/// The first `limit` leases at or after `from` that have every property. Each index sorts by id, so
/// they are walked side by side, each jumping to where the others already are.
fn with_all(
    index: &ReadOnlyTable<&'static [u8], ()>,
    properties: &[Property],
    from: Id,
    limit: usize,
) -> Result<Vec<Id>, LedgerError> {
    let mut found = Vec::new();
    let (mut candidate, mut agreeing) = (from, 0);
    for property in properties.iter().cycle() {
        match property.seek(index, candidate)? {
            None => break,
            Some(id) if id == candidate => agreeing += 1,
            Some(id) => (candidate, agreeing) = (id, 1),
        }
        if agreeing < properties.len() {
            continue;
        }
        found.push(candidate);
        agreeing = 0;
        match next(candidate) {
            Some(id) if found.len() < limit => candidate = id,
            _ => break,
        }
    }
    Ok(found)
}
