//! Lists of leases, in order of their ids, across shards.
//!
//! Of the filter's parts the most selective chooses the indexes; the state is looked at by the script
//! where it is no index; the rest is looked at here. A call of a script looks at a bounded number of
//! leases, and calls go on until the page is full or all was seen.

use std::collections::VecDeque;

use futures_util::future::try_join_all;

use super::RedisLedger;
use super::keys::Shard;
use super::packed::{lease_id, unpack_lease};
use super::script;
use crate::ledger::{Filter, LedgerError, Page, StateName};
use crate::model::ids::LeaseId;
use crate::model::lease::Lease;

/// The least and the most that one call looks at.
const LOOK: (usize, usize) = (16, 128);

/// How many shards a walk looks at side by side.
const SIDE_BY_SIDE: usize = 16;

/// The classes of an index: what lives, and what has ended.
const LIVE: &[u8] = b"0";
const ENDED: &[u8] = b"1";

/// How far one shard was read.
struct Shelf<'a> {
    shard: Shard<'a>,
    indexes: Vec<Vec<u8>>,
    after: Option<LeaseId>,
    found: VecDeque<Lease>,
    exhausted: bool,
}

impl RedisLedger {
    pub(super) async fn find_leases(&self, filter: &Filter, page: &Page) -> Result<Vec<Lease>, LedgerError> {
        let limit = page.limit.get().min(Page::MOST);
        if filter.live && filter.task.is_none() {
            return self.walk(filter, page.after, limit).await;
        }
        let shards: Vec<Shard<'_>> = match filter.task {
            Some(id) => vec![self.shards.of_task(id)],
            None => self.shards.all().collect(),
        };
        let look = (limit * 2 / shards.len() + 1).clamp(LOOK.0, LOOK.1);
        let shelves = shards.into_iter();
        let shelves = shelves.map(|shard| self.shelf(shard, filter, page.after));
        let mut shelves = try_join_all(shelves).await?;
        let classes = classes(filter);
        let mut leases = Vec::new();
        while leases.len() < limit {
            let empty = shelves
                .iter_mut()
                .filter(|shelf| shelf.found.is_empty() && !shelf.exhausted);
            try_join_all(empty.map(|shelf| self.fill(shelf, filter, &classes, look))).await?;
            if shelves
                .iter()
                .any(|shelf| shelf.found.is_empty() && !shelf.exhausted)
            {
                continue; // all that it looked at fell through the filter
            }
            let oldest = shelves
                .iter_mut()
                .filter(|shelf| !shelf.found.is_empty())
                .min_by_key(|shelf| shelf.found.front().map(|lease| lease.id));
            match oldest.and_then(|shelf| shelf.found.pop_front()) {
                Some(lease) => leases.push(lease),
                None => break,
            }
        }
        Ok(leases)
    }

    /// Leases in the order of shards, and in each of their ids: whoever means to see all of them has no use for
    /// another order, which would be gathered from all shards for each page. Shards that have few are looked at
    /// side by side; one that has many, alone.
    async fn walk(
        &self,
        filter: &Filter,
        mut after: Option<LeaseId>,
        limit: usize,
    ) -> Result<Vec<Lease>, LedgerError> {
        let classes = classes(filter);
        let shards: Vec<Shard<'_>> = self.shards.all().collect();
        let mut next = after.map_or(0, |after| self.shards.of_lease(after).number);
        let (mut leases, mut alone) = (Vec::new(), after.is_some());
        while leases.len() < limit {
            let width = if alone { 1 } else { SIDE_BY_SIDE };
            let group: Vec<Shard<'_>> = shards.iter().skip(next).take(width).copied().collect();
            if group.is_empty() {
                break;
            }
            let first = after.take();
            let look = (limit / width).clamp(LOOK.0, LOOK.1);
            let filled = group.iter().enumerate().map(|(place, shard)| {
                let classes = &classes;
                async move {
                    let after = first.filter(|_| place == 0);
                    let mut shelf = self.shelf(*shard, filter, after).await?;
                    self.fill(&mut shelf, filter, classes, look).await?;
                    Ok::<_, LedgerError>(shelf)
                }
            });
            alone = false;
            for shelf in try_join_all(filled).await? {
                leases.extend(shelf.found);
                if !shelf.exhausted {
                    (after, alone) = (shelf.after, true);
                    break;
                }
                next += 1;
            }
        }
        leases.truncate(limit);
        Ok(leases)
    }

    async fn shelf<'a>(
        &self,
        shard: Shard<'a>,
        filter: &Filter,
        after: Option<LeaseId>,
    ) -> Result<Shelf<'a>, LedgerError> {
        Ok(Shelf {
            shard,
            indexes: self.indexes_for(shard, filter).await?,
            after,
            found: VecDeque::new(),
            exhausted: false,
        })
    }

    async fn indexes_for(&self, shard: Shard<'_>, filter: &Filter) -> Result<Vec<Vec<u8>>, LedgerError> {
        Ok(match filter {
            Filter { task: Some(id), .. } => vec![shard.by_task(*id)],
            Filter { user: Some(user), .. } => vec![shard.by_user(user.as_str())],
            Filter {
                agent: Some(agent), ..
            } => vec![shard.by_agent(agent.as_str())],
            Filter { tool: Some(tool), .. } => vec![shard.by_tool(tool.as_str())],
            Filter { state, .. } if state.is_some_and(is_pending) => vec![shard.pending()],
            _ => {
                let names = redis::cmd("HKEYS").arg(shard.tools()).to_owned();
                let names: Vec<String> = self.reaping.query(&names).await?;
                names.iter().map(|name| shard.by_tool(name)).collect()
            }
        })
    }

    async fn fill(
        &self,
        shelf: &mut Shelf<'_>,
        filter: &Filter,
        classes: &[Vec<u8>],
        look: usize,
    ) -> Result<(), LedgerError> {
        if shelf.indexes.is_empty() {
            shelf.exhausted = true;
            return Ok(());
        }
        let mut keys = vec![shelf.shard.leases()];
        keys.extend(shelf.indexes.iter().cloned());
        let mut args = vec![
            shelf.after.map(|id| id.to_bytes().to_vec()).unwrap_or_default(),
            look.to_string().into_bytes(),
            letters(filter),
        ];
        args.extend(classes.iter().cloned());
        let mut reply = self.reaping.run(&script::FIND, &[&keys], &[&args]).await?;
        let up_to = reply.bytes()?;
        while let Some(mut part) = reply.part()? {
            let _id = part.bytes()?;
            let (lease, _) = unpack_lease(&part.bytes()?)?;
            if fits(filter, &lease) {
                shelf.found.push_back(lease);
            }
        }
        match up_to.is_empty() {
            true => shelf.exhausted = true,
            false => shelf.after = Some(lease_id(&up_to)?),
        }
        Ok(())
    }
}

/// The classes of the chosen index in which leases of this state are.
fn classes(filter: &Filter) -> Vec<Vec<u8>> {
    let indexed =
        filter.task.is_some() || filter.user.is_some() || filter.agent.is_some() || filter.tool.is_some();
    match filter.state {
        None if filter.live => vec![LIVE.to_vec()],
        None => vec![LIVE.to_vec(), ENDED.to_vec()],
        Some(StateName::Ended) => vec![ENDED.to_vec()],
        Some(_) if indexed => vec![LIVE.to_vec()],
        Some(StateName::Active) => vec![LIVE.to_vec()],
        Some(StateName::Reserved) => vec![b"0".to_vec()],
        Some(StateName::Revoking) => vec![b"1".to_vec()],
        Some(StateName::Stuck) => vec![b"2".to_vec()],
    }
}

/// Whether leases in this state have an index of their own.
fn is_pending(state: StateName) -> bool {
    matches!(
        state,
        StateName::Reserved | StateName::Revoking | StateName::Stuck
    )
}

/// The letters of the states that are wanted; none where all are.
fn letters(filter: &Filter) -> Vec<u8> {
    let live = [StateName::Reserved, StateName::Active];
    match (filter.live, filter.state) {
        (false, None) => Vec::new(),
        (true, None) => live.map(letter).to_vec(),
        (true, Some(state)) if !live.contains(&state) => vec![NONE],
        (_, Some(state)) => vec![letter(state)],
    }
}

/// The letter of no state.
const NONE: u8 = b'-';

fn letter(state: StateName) -> u8 {
    match state {
        StateName::Reserved => b'r',
        StateName::Active => b'a',
        StateName::Revoking => b'v',
        StateName::Stuck => b's',
        StateName::Ended => b'e',
    }
}

fn fits(filter: &Filter, lease: &Lease) -> bool {
    filter.task.is_none_or(|id| lease.tasks().any(|task| task == id))
        && filter
            .agent
            .as_ref()
            .is_none_or(|name| lease.agents().any(|agent| agent == name))
        && filter.tool.as_ref().is_none_or(|name| *name == lease.tool)
        && (filter.user.is_none() || filter.user == lease.on_behalf_of)
}
