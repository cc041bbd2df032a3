//! What this process knows of the past of its ledger, in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::{ArcSwap, ArcSwapOption};

use super::RedisConfig;
use crate::ledger::lineage::{Epoch, Loss, Mark, Memory, Writer};
use crate::model::fact::FactsVersion;

/// What this process knows of the ledger's past.
#[derive(Debug)]
pub(super) struct Past {
    writer: Writer,
    known: ArcSwap<Known>,
    loss: ArcSwapOption<Loss>,
}

/// What is known of one epoch. What is answered to a step that was sent in it is put down here, also when
/// the ledger was recovered meanwhile: counts begin anew in each.
#[derive(Debug)]
pub(super) struct Known {
    /// A mark once the ledger was joined; its numbers are in `seen`.
    memory: Memory,
    /// How far the count of this writer had come in each shard, as was answered.
    seen: Vec<AtomicU64>,
    /// The latest version of the facts that every shard knows.
    carried: AtomicU64,
}

impl Known {
    fn of(memory: Memory, progress: Vec<u64>) -> Self {
        Self {
            memory,
            seen: progress.into_iter().map(AtomicU64::new).collect(),
            carried: AtomicU64::new(0),
        }
    }

    pub(super) fn carried(&self) -> FactsVersion {
        FactsVersion(self.carried.load(Ordering::Acquire))
    }

    pub(super) fn carry(&self, version: FactsVersion) {
        self.carried.fetch_max(version.0, Ordering::AcqRel);
    }

    pub(super) fn seen(&self, shard: usize) -> u64 {
        self.seen
            .get(shard)
            .map_or(0, |seen| seen.load(Ordering::Acquire))
    }

    pub(super) fn saw(&self, shard: usize, progress: u64) {
        if let Some(seen) = self.seen.get(shard) {
            seen.fetch_max(progress, Ordering::AcqRel);
        }
    }

    /// The epoch that was joined.
    pub(super) fn epoch(&self) -> Option<Epoch> {
        match &self.memory {
            Memory::Mark(mark) => Some(mark.epoch),
            _ => None,
        }
    }

    /// What is remembered at this moment.
    pub(super) fn memory(&self) -> Memory {
        match &self.memory {
            Memory::Mark(mark) => Memory::Mark(Mark {
                epoch: mark.epoch,
                progress: self
                    .seen
                    .iter()
                    .map(|seen| seen.load(Ordering::Acquire))
                    .collect(),
            }),
            other => other.clone(),
        }
    }
}

impl Past {
    pub(super) fn new(config: &RedisConfig) -> Self {
        let mut progress = match &config.memory {
            Memory::Mark(mark) => mark.progress.clone(),
            _ => Vec::new(),
        };
        let shards = usize::from(config.shards.get()).max(progress.len());
        progress.resize(shards, 0);
        Self {
            writer: config.writer,
            known: ArcSwap::from_pointee(Known::of(config.memory.clone(), progress)),
            loss: ArcSwapOption::empty(),
        }
    }

    pub(super) fn writer(&self) -> Writer {
        self.writer
    }

    pub(super) fn loss(&self) -> Option<Loss> {
        self.loss.load().as_deref().copied()
    }

    /// Nothing is given out from now on.
    pub(super) fn latch(&self, loss: Loss) {
        self.loss.store(Some(Arc::new(loss)));
    }

    pub(super) fn known(&self) -> Arc<Known> {
        self.known.load_full()
    }

    /// Takes an epoch into use.
    pub(super) fn joined(&self, epoch: Epoch, progress: Vec<u64>) {
        let memory = Memory::Mark(Mark {
            epoch,
            progress: Vec::new(), // kept in `seen`
        });
        self.known.store(Arc::new(Known::of(memory, progress)));
        self.loss.store(None);
    }
}
