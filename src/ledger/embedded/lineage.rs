//! The lineage of the ledger in a file: one shard, whose count is that of its commits.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::{ArcSwap, ArcSwapOption};
use async_trait::async_trait;

use super::layout::{EPOCH, LOST, PROGRESS, entered};
use super::reads::Snapshot;
use super::store::Store;
use super::tables::Tables;
use super::{Config, Embedded, steps};
use crate::ledger::lineage::{self, Epoch, Lineage, Loss, Mark, Memory, Stand, Standing, Watched, Writer};
use crate::ledger::{LedgerError, rules};
use crate::model::lease::Lease;
use crate::model::task::{Outcome, TaskChange};
use crate::model::time::Timestamp;

/// How many tasks end in one transaction.
const TASKS_AT_ONCE: usize = 500;

/// What this process knows of the ledger's past.
#[derive(Debug)]
pub(super) struct Past {
    writer: Writer,
    memory: ArcSwap<Memory>,
    seen: AtomicU64,
    loss: ArcSwapOption<Loss>,
}

impl Past {
    /// Joins the ledger, or finds that it was lost: as the memory of this writer has it.
    pub(super) fn find_place(store: &Store, config: &Config) -> Result<Self, LedgerError> {
        let past = Self {
            writer: config.writer,
            memory: ArcSwap::from_pointee(config.memory.clone()),
            seen: AtomicU64::new(0),
            loss: ArcSwapOption::empty(),
        };
        if config.memory == Memory::Observer {
            past.latch(Loss::Told);
            return Ok(past);
        }
        let transaction = store.write()?;
        let mut tables = Tables::of(&transaction, config.retention)?;
        match past.judge(&tables)? {
            Standing::Whole(_) | Standing::Recovered(_) => past.enter(&mut tables)?,
            Standing::Lost(loss) => past.found(loss, &mut tables)?,
            Standing::New => past.latch(Loss::Emptied), // it has an epoch from its making on
        }
        tables.finish()?;
        transaction.commit()?;
        Ok(past)
    }

    fn loss(&self) -> Option<Loss> {
        self.loss.load().as_deref().copied()
    }

    /// Keeps in the ledger too that it was rolled back: it goes on ending, and each of those steps counts, so
    /// that by its count alone it would soon look whole again.
    fn found(&self, loss: Loss, tables: &mut Tables<'_>) -> Result<(), LedgerError> {
        self.latch(loss);
        if loss == Loss::RolledBack && tables.number(LOST)?.is_none() {
            tables.set_number(LOST, 1)?;
        }
        Ok(())
    }

    fn latch(&self, loss: Loss) {
        self.loss.store(Some(Arc::new(loss)));
    }

    pub(super) fn memory(&self) -> Memory {
        match &**self.memory.load() {
            Memory::Mark(mark) => Memory::Mark(Mark {
                epoch: mark.epoch,
                progress: vec![
                    self.seen
                        .load(Ordering::Acquire)
                        .max(mark.progress.first().copied().unwrap_or_default()),
                ],
            }),
            other => other.clone(),
        }
    }

    fn judge(&self, tables: &Tables<'_>) -> Result<Standing, LedgerError> {
        let memory = self.memory();
        Ok(lineage::judge(
            &[stand(|name| tables.number(name), self.writer)?],
            &memory,
        ))
    }

    fn enter(&self, tables: &mut Tables<'_>) -> Result<(), LedgerError> {
        let stood = stand(|name| tables.number(name), self.writer)?;
        let Some(epoch) = stood.epoch else { return Ok(()) };
        if stood.progress.is_none() {
            tables.set_number(&entered(self.writer), 1)?;
        }
        let progress = tables.number(PROGRESS)?.unwrap_or_default();
        self.seen.store(progress, Ordering::Release);
        let progress = vec![progress];
        self.memory
            .store(Arc::new(Memory::Mark(Mark { epoch, progress })));
        self.loss.store(None);
        Ok(())
    }

    /// Refuses when these are not the tables that were joined: the file is opened anew after a fault.
    fn check(
        &self,
        number: impl Fn(&str) -> Result<Option<u64>, LedgerError>,
        memory: &Memory,
    ) -> Result<(), LedgerError> {
        match lineage::judge(&[stand(&number, self.writer)?], memory) {
            Standing::Whole(_) => {
                let progress = number(PROGRESS)?.unwrap_or_default();
                self.seen.fetch_max(progress, Ordering::AcqRel);
                Ok(())
            }
            Standing::Lost(loss) => Err(LedgerError::Lost(loss)),
            Standing::New | Standing::Recovered(_) => Err(LedgerError::Lost(Loss::Replaced)),
        }
    }
}

/// What the numbers of the ledger say to a writer.
fn stand(
    number: impl Fn(&str) -> Result<Option<u64>, LedgerError>,
    writer: Writer,
) -> Result<Stand, LedgerError> {
    let progress = number(PROGRESS)?.unwrap_or_default();
    Ok(Stand {
        epoch: number(EPOCH)?.map(Epoch),
        lost: number(LOST)?.is_some(),
        progress: number(&entered(writer))?.map(|_| progress),
    })
}

impl Embedded {
    /// Makes a step that gives something out.
    pub(super) async fn guarded<T: Send + 'static>(
        &self,
        mut step: impl FnMut(&mut Tables<'_>) -> Result<T, LedgerError> + Send + 'static,
    ) -> Result<T, LedgerError> {
        if let Some(loss) = self.past.loss() {
            return Err(LedgerError::Lost(loss));
        }
        let past = Arc::clone(&self.past);
        let answer = self.step(move |tables| {
            past.check(|name| tables.number(name), &past.memory())?;
            step(tables)
        });
        let answer = answer.await;
        if let Err(LedgerError::Lost(loss)) = &answer {
            self.past.latch(*loss);
        }
        answer
    }

    /// Looks at what somebody relies on: at a snapshot, which hands nothing in and waits for nobody.
    pub(super) fn guarded_look<T>(
        &self,
        look: impl FnOnce(&Snapshot) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        if let Some(loss) = self.past.loss() {
            return Err(LedgerError::Lost(loss));
        }
        // Taken before the snapshot: what is remembered by now was committed before it.
        let memory = self.past.memory();
        let snapshot = self.snapshot()?;
        let numbers = snapshot.numbers()?;
        let checked = self.past.check(|name| numbers.get(name), &memory);
        if let Err(LedgerError::Lost(loss)) = &checked {
            self.past.latch(*loss);
        }
        checked?;
        look(&snapshot)
    }
}

#[async_trait]
impl Lineage for Embedded {
    fn loss(&self) -> Option<Loss> {
        self.past.loss()
    }

    async fn judge(&self, writer: Writer, memory: &Memory) -> Result<Standing, LedgerError> {
        let memory = memory.clone();
        self.step(move |tables| {
            Ok(lineage::judge(
                &[stand(|name| tables.number(name), writer)?],
                &memory,
            ))
        })
        .await
    }

    async fn watch(&self) -> Result<Watched, LedgerError> {
        let past = Arc::clone(&self.past);
        self.step(move |tables| {
            let was_joined = matches!(&**past.memory.load(), Memory::Mark(_));
            Ok(match (past.loss(), past.judge(tables)?) {
                (None, Standing::Whole(epoch)) => {
                    let progress = tables.number(PROGRESS)?.unwrap_or_default();
                    past.seen.fetch_max(progress, Ordering::AcqRel);
                    let progress = vec![progress];
                    Watched::Whole(Mark { epoch, progress })
                }
                (Some(_), Standing::Whole(_)) if !was_joined => Watched::Recovered,
                (_, Standing::Recovered(_)) => {
                    past.latch(past.loss().unwrap_or(Loss::Replaced));
                    Watched::Recovered
                }
                (Some(loss), _) | (None, Standing::Lost(loss)) => {
                    past.found(loss, tables)?;
                    Watched::Lost(loss)
                }
                (None, Standing::New) => {
                    past.latch(Loss::Emptied);
                    Watched::Lost(Loss::Emptied)
                }
            })
        })
        .await
    }

    async fn condemn(&self, loss: Loss) -> Result<(), LedgerError> {
        self.past.latch(loss);
        self.step(|tables| tables.set_number(LOST, 1)).await
    }

    async fn rejoin(&self) -> Result<(), LedgerError> {
        let past = Arc::clone(&self.past);
        self.step(move |tables| {
            let was_joined = matches!(&**past.memory.load(), Memory::Mark(_));
            match past.judge(tables)? {
                Standing::Recovered(_) => past.enter(tables)?,
                Standing::Whole(_) if !was_joined => past.enter(tables)?,
                _ => {}
            }
            past.loss().map_or(Ok(()), |loss| Err(LedgerError::Lost(loss)))
        })
        .await
    }

    async fn adopt(&self, lease: &Lease) -> Result<bool, LedgerError> {
        let lease = lease.clone();
        self.step(move |tables| {
            let since = rules::effort(&lease.state).map(|effort| effort.since);
            let since = since
                .ok_or_else(|| LedgerError::Corrupt("only a lease that has to end is adopted".to_owned()))?;
            if tables.lease(lease.id)?.is_some() {
                return Ok(false);
            }
            tables.insert_lease_due(&lease, Some(since))?;
            Ok(true)
        })
        .await
    }

    async fn end_tasks(&self, now: Timestamp) -> Result<usize, LedgerError> {
        let (mut ended, mut after) = (0, Some([0; 16]));
        while let Some(from) = after {
            let (count, next) = self
                .step(move |tables| {
                    let (open, next) = tables.unfinished_tasks(from, TASKS_AT_ONCE)?;
                    for id in &open {
                        steps::advance(tables, *id, TaskChange::End(Outcome::Revoked), now)?;
                    }
                    Ok((open.len(), next))
                })
                .await?;
            ended += count;
            after = next;
        }
        Ok(ended)
    }

    async fn begin_epoch(&self, epoch: Epoch, writers: &BTreeSet<Writer>) -> Result<(), LedgerError> {
        let writers = writers.clone();
        self.step(move |tables| {
            tables.forget_lineage()?;
            tables.set_number(EPOCH, epoch.0)?;
            for writer in &writers {
                tables.set_number(&entered(*writer), 1)?;
            }
            Ok(())
        })
        .await
    }
}
