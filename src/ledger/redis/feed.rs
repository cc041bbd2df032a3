//! Cutoffs: recording them in every shard, and the feed that tells of them.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use tokio::sync::{Mutex, Notify};
use tokio::time::Instant;

use super::keys::Shard;
use super::packed::{unpack_cutoff, unpack_entry};
use super::{RedisLedger, instant, number, script};
use crate::ledger::{Changes, Cursor, LedgerError, record, rules};
use crate::model::cutoff::{Cutoff, Selector};

/// How soon the writes of another replica are looked for at first, and how rarely in the end.
pub(super) const POLL: (Duration, Duration) = (Duration::from_millis(25), Duration::from_millis(250));

/// Where the feed of each shard ends, as last seen: however many wait, one looks.
#[derive(Debug, Default)]
pub(super) struct Heads {
    seen: Mutex<Option<(Instant, Vec<u64>)>>,
    published: Notify,
}

impl Heads {
    /// This replica has published something: whoever waits looks at once.
    pub(super) fn published(&self) {
        self.published.notify_waiters();
    }
}

/// Into how many shards one step writes a cutoff at most: it keeps the server for about a millisecond.
const SHARDS_AT_ONCE: usize = 64;

impl RedisLedger {
    /// A cutoff stands in every shard, and is told of in one: the shard of its task or lease, or the
    /// first. A selector that names a task or a lease can match in that shard only.
    pub(super) async fn record_cutoff(&self, cutoff: &Cutoff) -> Result<(), LedgerError> {
        let selector = record::encode_selector(&cutoff.selector)?;
        let stored = record::encode_cutoff(cutoff)?;
        let home = match cutoff.selector {
            Selector::Task(id) => Some(self.shards.of_task(id)),
            Selector::Lease(id) => Some(self.shards.of_lease(id)),
            _ => None,
        };
        let targets: Vec<Shard<'_>> = match home {
            Some(shard) => vec![shard],
            None => self.shards.all().collect(),
        };
        // In a cluster a step reaches one shard and no other.
        let at_once = if self.requests.is_one_node() {
            SHARDS_AT_ONCE
        } else {
            1
        };
        let writes = targets.chunks(at_once).enumerate().map(|(number, shards)| {
            let args = vec![
                selector.clone(),
                instant(cutoff.up_to),
                stored.clone(),
                instant(cutoff.at),
            ];
            self.cut_in(shards, args, number == 0)
        });
        // All are waited for: what can be cut is cut, also when one shard is down.
        let outcome: Result<Vec<()>, LedgerError> = join_all(writes).await.into_iter().collect();
        self.heads.published();
        outcome.map(drop)
    }

    pub(super) async fn standing_cutoffs(&self) -> Result<Vec<Cutoff>, LedgerError> {
        let reads = self.shards.all().map(|shard| {
            let all = redis::cmd("HVALS").arg(shard.cutoffs()).to_owned();
            async move { self.reaping.query::<Vec<Vec<u8>>>(&all).await }
        });
        let mut standing = HashMap::<Selector, Cutoff>::new();
        for stored in try_join_all(reads).await?.into_iter().flatten() {
            let Some(cutoff) = unpack_cutoff(&stored)? else {
                continue;
            };
            if matches!(cutoff.selector, Selector::Task(_) | Selector::Lease(_)) {
                continue;
            }
            let other = standing.get(&cutoff.selector);
            if other.is_none_or(|other| !rules::adds_nothing(&cutoff, other)) {
                standing.insert(cutoff.selector.clone(), cutoff);
            }
        }
        Ok(standing.into_values().collect())
    }

    pub(super) async fn read_feed(&self, since: &Cursor, wait: Duration) -> Result<Changes, LedgerError> {
        // A cursor of another ledger means nothing here: from the start.
        let mut since = match since.0.len() == self.shards.len() {
            true => since.0.clone(),
            false => vec![0; self.shards.len()],
        };
        let deadline = Instant::now() + wait;
        let (mut poll, slowest) = POLL;
        let mut fresh = true;
        loop {
            let published = self.heads.published.notified();
            tokio::pin!(published);
            published.as_mut().enable();
            let heads = self.feed_heads(fresh).await?;
            let moved: Vec<bool> = heads
                .iter()
                .zip(&since)
                .map(|(head, read)| head != read)
                .collect();
            if moved.contains(&true) {
                let changes = self.read_moved(&since, &moved).await?;
                if !changes.cutoffs.is_empty() || Instant::now() >= deadline {
                    return Ok(changes);
                }
                since = changes.next.0; // all that was new is forgotten already
            } else if Instant::now() >= deadline {
                return Ok(Changes {
                    cutoffs: Vec::new(),
                    next: Cursor(since),
                    more: false,
                });
            }
            let pause = poll.min(deadline.saturating_duration_since(Instant::now()));
            fresh = tokio::select! {
                () = &mut published => true,
                () = tokio::time::sleep(pause) => false,
            };
            poll = (poll * 2).min(slowest);
        }
    }

    /// Where the feeds end. Those who do not need it fresh share one look.
    async fn feed_heads(&self, fresh: bool) -> Result<Vec<u64>, LedgerError> {
        let asked = Instant::now();
        let mut seen = self.heads.seen.lock().await;
        if let Some((at, heads)) = seen.as_ref()
            && (*at >= asked || (!fresh && at.elapsed() < POLL.0 / 2))
        {
            return Ok(heads.clone());
        }
        let at = Instant::now();
        let mut get = redis::cmd("MGET"); // a cluster connection splits it by slots
        for shard in self.shards.all() {
            get.arg(shard.seq());
        }
        let heads: Vec<Option<u64>> = self.reaping.query(&get).await?;
        let heads: Vec<u64> = heads.into_iter().map(Option::unwrap_or_default).collect();
        *seen = Some((at, heads.clone()));
        Ok(heads)
    }

    async fn read_moved(&self, since: &[u64], moved: &[bool]) -> Result<Changes, LedgerError> {
        let count = moved.iter().filter(|moved| **moved).count();
        let most = (rules::MOST_CHANGES / count.max(1)).max(1);
        let shards = self.shards.all().zip(since.iter().zip(moved));
        let reads = shards.map(|(shard, (since, moved))| async move {
            match moved {
                true => self.read_shard(shard, *since, most).await,
                false => Ok((Vec::new(), *since, false)),
            }
        });
        let mut cutoffs = Vec::new();
        let mut next = Vec::new();
        let mut any_more = false;
        let mut told = HashSet::new();
        for (entries, last, more) in try_join_all(reads).await? {
            let entries = entries.into_iter();
            cutoffs.extend(
                entries.filter(|cutoff| told.insert((cutoff.selector.clone(), cutoff.up_to, cutoff.at))),
            );
            next.push(last);
            any_more |= more;
        }
        Ok(Changes {
            cutoffs,
            next: Cursor(next),
            more: any_more,
        })
    }

    /// What a shard tells after `since`, how far it was read, and whether there is more.
    async fn read_shard(
        &self,
        shard: Shard<'_>,
        since: u64,
        most: usize,
    ) -> Result<(Vec<Cutoff>, u64, bool), LedgerError> {
        let keys = [shard.feed(), shard.seq()];
        let args = [number(since), most.to_string().into_bytes()];
        let mut reply = self.reaping.run(&script::FEED, &[&keys], &[&args]).await?;
        let end = reply.number()?;
        let (mut cutoffs, mut last) = (Vec::new(), end);
        while let Some(mut entry) = reply.part()? {
            last = entry.number()?;
            cutoffs.push(unpack_entry(&entry.bytes()?, &entry.bytes()?)?);
        }
        match cutoffs.len() == most && last < end {
            true => Ok((cutoffs, last, true)),
            false => Ok((cutoffs, end, false)),
        }
    }
}
