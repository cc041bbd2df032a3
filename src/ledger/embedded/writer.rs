//! The writer thread, which commits steps in groups.
//!
//! A fault in one step (a record that cannot be read) undoes the group, answers that step, and runs
//! the others again. A fault of the disk answers the whole group and opens the file anew: redb
//! accepts nothing more after one, and the reason (a full disk, say) may have passed by then.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use super::context;
use super::layout::{FACTS_VERSION, PROGRESS, PUBLISHED};
use super::store::{Store, mark};
use super::tables::Tables;
use crate::ledger::LedgerError;

/// The most steps in one commit.
const MOST_STEPS: usize = 512;
/// The most steps that wait; whoever comes then waits to get in.
const QUEUE: usize = 1024;

/// The ledger was closed, or its writer came to grief.
pub(super) fn stopped() -> LedgerError {
    LedgerError::Unavailable("its writer has stopped".to_owned())
}

/// A step that waits for its commit.
trait Job: Send {
    /// Runs on the tables; may run again in another transaction. Only a fault is an error here.
    fn run(&mut self, tables: &mut Tables<'_>) -> Result<(), Fault>;
    /// Answers whoever waits: with what came of it, once that is durable, or with the fault.
    fn answer(self: Box<Self>, committed: Result<(), Fault>);
}

/// A [`LedgerError`] that can be told to many.
#[derive(Clone)]
enum Fault {
    Unavailable(String),
    Corrupt(String),
}

impl From<Fault> for LedgerError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Unavailable(why) => Self::Unavailable(why),
            Fault::Corrupt(why) => Self::Corrupt(why),
        }
    }
}

impl From<LedgerError> for Fault {
    fn from(error: LedgerError) -> Self {
        match error {
            LedgerError::Corrupt(why) => Self::Corrupt(why),
            LedgerError::Unavailable(why) => Self::Unavailable(why),
            LedgerError::Refused(refusal) => Self::Corrupt(refusal.to_string()),
            LedgerError::Lost(loss) => Self::Corrupt(loss.to_string()),
        }
    }
}

struct Step<T, F> {
    work: F,
    outcome: Option<Result<T, LedgerError>>,
    waiting: oneshot::Sender<Result<T, LedgerError>>,
}

impl<T, F> Job for Step<T, F>
where
    T: Send,
    F: FnMut(&mut Tables<'_>) -> Result<T, LedgerError> + Send,
{
    fn run(&mut self, tables: &mut Tables<'_>) -> Result<(), Fault> {
        match (self.work)(tables) {
            Err(error @ (LedgerError::Unavailable(_) | LedgerError::Corrupt(_))) => Err(error.into()),
            outcome => {
                self.outcome = Some(outcome);
                Ok(())
            }
        }
    }

    fn answer(self: Box<Self>, committed: Result<(), Fault>) {
        let outcome = match committed {
            Ok(()) => self.outcome.unwrap_or_else(|| Err(stopped())),
            Err(fault) => Err(fault.into()),
        };
        let _ = self.waiting.send(outcome); // nobody may be waiting any more; the step was made all the same
    }
}

/// Where steps are handed in.
#[derive(Debug)]
pub(super) struct Writer {
    steps: Option<mpsc::Sender<Box<dyn Job>>>,
    published: watch::Receiver<u64>,
    stated: watch::Receiver<u64>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Makes the tables where there are none, and starts the thread.
    pub(super) fn start(store: Arc<Store>, retention: Duration) -> Result<Self, LedgerError> {
        let transaction = store.write()?;
        mark(&transaction)?;
        let mut tables = Tables::of(&transaction, retention)?;
        context::make(&mut tables)?;
        let latest = Latest::of(&tables)?;
        drop(tables);
        transaction.commit()?;

        let (steps, waiting) = mpsc::channel(QUEUE);
        let (publisher, published) = watch::channel(latest.published);
        let (stating, stated) = watch::channel(latest.stated);
        let committer = Committer {
            store,
            retention,
            publisher,
            stating,
        };
        let thread = std::thread::Builder::new()
            .name("ledger-writer".to_owned())
            .spawn(move || committer.run(waiting))
            .map_err(|error| LedgerError::Unavailable(format!("no thread for its writer: {error}")))?;
        Ok(Self {
            steps: Some(steps),
            published,
            stated,
            thread: Some(thread),
        })
    }

    /// Hands in a step and waits until it is durable.
    pub(super) async fn step<T: Send + 'static>(
        &self,
        work: impl FnMut(&mut Tables<'_>) -> Result<T, LedgerError> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let (waiting, answer) = oneshot::channel();
        let step = Box::new(Step {
            work,
            outcome: None,
            waiting,
        });
        let steps = self.steps.as_ref().ok_or_else(stopped)?;
        steps.send(step).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    /// The number of the latest entry of the feed, as it grows.
    pub(super) fn published(&self) -> watch::Receiver<u64> {
        self.published.clone()
    }

    /// The number of the latest statement, as it grows.
    pub(super) fn stated(&self) -> watch::Receiver<u64> {
        self.stated.clone()
    }
}

/// How far the ledger has come, for those who wait.
struct Latest {
    published: u64,
    stated: u64,
}

impl Latest {
    fn of(tables: &Tables<'_>) -> Result<Self, LedgerError> {
        Ok(Self {
            published: tables.number(PUBLISHED)?.unwrap_or_default(),
            stated: tables.number(FACTS_VERSION)?.unwrap_or_default(),
        })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.steps = None; // the thread ends after the steps that were handed in
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What a group came to grief over.
enum Broken {
    /// One step, whose place in the group this is.
    Step(usize, Fault),
    /// The store itself.
    Store(Fault),
}

impl<E: Into<LedgerError>> From<E> for Broken {
    fn from(error: E) -> Self {
        Self::Store(error.into().into())
    }
}

/// Wakes whoever waits, if there is anything new.
fn tell(sender: &watch::Sender<u64>, latest: u64) {
    sender.send_if_modified(|known| std::mem::replace(known, latest) != latest);
}

/// What runs on the writer thread.
struct Committer {
    store: Arc<Store>,
    retention: Duration,
    publisher: watch::Sender<u64>,
    stating: watch::Sender<u64>,
}

impl Committer {
    fn run(self, mut waiting: mpsc::Receiver<Box<dyn Job>>) {
        while let Some(first) = waiting.blocking_recv() {
            let mut group = vec![first];
            while group.len() < MOST_STEPS
                && let Ok(next) = waiting.try_recv()
            {
                group.push(next);
            }
            self.settle(group);
        }
    }

    /// Brings every step of a group to its answer.
    fn settle(&self, mut group: Vec<Box<dyn Job>>) {
        while !group.is_empty() {
            let committed = match self.commit(&mut group) {
                Ok(latest) => {
                    tell(&self.publisher, latest.published);
                    tell(&self.stating, latest.stated);
                    Ok(())
                }
                Err(Broken::Step(place, fault)) => {
                    group.remove(place).answer(Err(fault));
                    continue;
                }
                Err(Broken::Store(fault)) => {
                    self.store.reopen();
                    Err(fault)
                }
            };
            for job in group.drain(..) {
                job.answer(committed.clone());
            }
        }
    }

    /// Runs the group in one transaction and makes it durable, if it changed anything.
    fn commit(&self, group: &mut [Box<dyn Job>]) -> Result<Latest, Broken> {
        let transaction = self.store.write()?;
        let mut tables = Tables::of(&transaction, self.retention)?;
        for (place, job) in group.iter_mut().enumerate() {
            match job.run(&mut tables) {
                Ok(()) => {}
                Err(fault @ Fault::Corrupt(_)) => return Err(Broken::Step(place, fault)),
                Err(fault @ Fault::Unavailable(_)) => return Err(Broken::Store(fault)),
            }
        }
        let latest = Latest::of(&tables)?;
        let dirty = tables.dirty;
        if dirty {
            let progress = tables.number(PROGRESS)?.unwrap_or_default();
            tables.set_number(PROGRESS, progress + 1)?;
        }
        tables.finish()?;
        if dirty {
            transaction.commit()?;
        } else {
            transaction.abort()?;
        }
        Ok(latest)
    }
}
