//! The writer thread, which commits steps in groups, and the file that it writes to.
//!
//! A fault in one step (a record that cannot be read) undoes the group, answers that step, and runs
//! the others again. A fault of the disk answers the whole group and opens the file anew: redb
//! accepts nothing more after one, and the reason (a full disk, say) may have passed by then.

use std::fmt;
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use redb::backends::{FileBackend, InMemoryBackend};
use redb::{
    Builder, Database, DatabaseError, ReadTransaction, ReadableDatabase as _, ReadableTable as _,
    WriteTransaction,
};
use tokio::sync::{mpsc, oneshot, watch};

use super::tables::{EPOCH, FORMAT, META, PUBLISHED, Tables};
use crate::entropy::{OsEntropy, draw};
use crate::ledger::LedgerError;

/// The layout of the tables that is written and read.
const LAYOUT: u64 = 1;
/// The most steps in one commit.
const MOST_STEPS: usize = 512;
/// The most steps that wait; whoever comes then waits to get in.
const QUEUE: usize = 1024;

macro_rules! faults {
    ($($error:ty),+) => {$(
        impl From<$error> for LedgerError {
            fn from(error: $error) -> Self {
                match redb::Error::from(error) {
                    error @ (redb::Error::Corrupted(_)
                    | redb::Error::UpgradeRequired(_)
                    | redb::Error::TableTypeMismatch { .. }
                    | redb::Error::TypeDefinitionChanged { .. }) => Self::Corrupt(error.to_string()),
                    error => Self::Unavailable(error.to_string()),
                }
            }
        }
    )+};
}

faults!(
    redb::StorageError,
    redb::TableError,
    redb::TransactionError,
    redb::CommitError,
    DatabaseError
);

/// The ledger was closed, or its writer came to grief.
pub(super) fn stopped() -> LedgerError {
    LedgerError::Unavailable("its writer has stopped".to_owned())
}

type Open = dyn Fn() -> Result<Database, LedgerError> + Send + Sync;

/// The database, which can be opened anew.
pub(super) struct Store {
    database: RwLock<Option<Database>>,
    open: Box<Open>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

impl Store {
    pub(super) fn file(path: &Path, cache: usize) -> Result<Self, LedgerError> {
        let path = path.to_owned();
        Self::new(Box::new(move || open_file(&path, cache)))
    }

    pub(super) fn memory(cache: usize) -> Result<Self, LedgerError> {
        let database = Builder::new()
            .set_cache_size(cache)
            .create_with_backend(InMemoryBackend::new())?;
        Ok(Self {
            database: RwLock::new(Some(database)),
            open: Box::new(|| {
                Err(LedgerError::Unavailable(
                    "it was in memory and is gone".to_owned(),
                ))
            }),
        })
    }

    pub(super) fn new(open: Box<Open>) -> Result<Self, LedgerError> {
        Ok(Self {
            database: RwLock::new(Some(open()?)),
            open,
        })
    }

    pub(super) fn read(&self) -> Result<ReadTransaction, LedgerError> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let database = database.as_ref().ok_or_else(closed)?;
        Ok(database.begin_read()?)
    }

    pub(super) fn write(&self) -> Result<WriteTransaction, LedgerError> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let database = database.as_ref().ok_or_else(closed)?;
        let mut transaction = database.begin_write()?;
        // After a crash the file is used as it is, instead of being read from end to end first.
        transaction.set_quick_repair(true);
        Ok(transaction)
    }

    fn reopen(&self) {
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        drop(database.take()); // its lock on the file goes with it
        match (self.open)() {
            Ok(opened) => *database = Some(opened),
            Err(error) => tracing::warn!(%error, "the ledger cannot be opened again yet"),
        }
    }
}

fn closed() -> LedgerError {
    LedgerError::Unavailable("its file could not be opened again after a fault".to_owned())
}

fn open_file(path: &Path, cache: usize) -> Result<Database, LedgerError> {
    let failed = |error: std::io::Error| LedgerError::Unavailable(format!("{}: {error}", path.display()));
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(path).map_err(failed)?;
    let backend = FileBackend::new(file)
        .map_err(|error| LedgerError::Unavailable(format!("{}: {error}", path.display())))?;
    let database = Builder::new()
        .set_cache_size(cache)
        .create_with_backend(backend)?;
    #[cfg(unix)]
    sync_folder(path).map_err(failed)?;
    Ok(database)
}

/// Makes the entry of a new file in its directory durable too.
#[cfg(unix)]
fn sync_folder(path: &Path) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or_else(|| Path::new(".")))?.sync_all()
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
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Makes the tables where there are none, and starts the thread.
    pub(super) fn start(store: Arc<Store>, retention: Duration) -> Result<Self, LedgerError> {
        let transaction = store.write()?;
        mark(&transaction)?;
        let latest = Tables::of(&transaction, retention)?
            .number(PUBLISHED)?
            .unwrap_or_default();
        transaction.commit()?;

        let (steps, waiting) = mpsc::channel(QUEUE);
        let (publisher, published) = watch::channel(latest);
        let committer = Committer {
            store,
            retention,
            publisher,
        };
        let thread = std::thread::Builder::new()
            .name("ledger-writer".to_owned())
            .spawn(move || committer.run(waiting))
            .map_err(|error| LedgerError::Unavailable(format!("no thread for its writer: {error}")))?;
        Ok(Self {
            steps: Some(steps),
            published,
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
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.steps = None; // the thread ends after the steps that were handed in
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Marks a new ledger, or checks that this version can read an old one.
fn mark(transaction: &WriteTransaction) -> Result<(), LedgerError> {
    let mut meta = transaction.open_table(META)?;
    let layout = meta.get(FORMAT)?.map(|layout| layout.value());
    match layout {
        Some(LAYOUT) => Ok(()),
        Some(other) => Err(LedgerError::Corrupt(format!(
            "its layout is {other}, and this version of Dayfly reads layout {LAYOUT}"
        ))),
        None => {
            let epoch =
                draw(&OsEntropy::new()).map_err(|error| LedgerError::Unavailable(error.to_string()))?;
            meta.insert(FORMAT, LAYOUT)?;
            meta.insert(EPOCH, u64::from_be_bytes(epoch))?;
            Ok(())
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

/// What runs on the writer thread.
struct Committer {
    store: Arc<Store>,
    retention: Duration,
    publisher: watch::Sender<u64>,
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
                    self.publisher
                        .send_if_modified(|known| std::mem::replace(known, latest) != latest);
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
    fn commit(&self, group: &mut [Box<dyn Job>]) -> Result<u64, Broken> {
        let transaction = self.store.write()?;
        let mut tables = Tables::of(&transaction, self.retention)?;
        for (place, job) in group.iter_mut().enumerate() {
            match job.run(&mut tables) {
                Ok(()) => {}
                Err(fault @ Fault::Corrupt(_)) => return Err(Broken::Step(place, fault)),
                Err(fault @ Fault::Unavailable(_)) => return Err(Broken::Store(fault)),
            }
        }
        let latest = tables.number(PUBLISHED)?.unwrap_or_default();
        let dirty = tables.dirty;
        drop(tables);
        if dirty {
            transaction.commit()?;
        } else {
            transaction.abort()?;
        }
        Ok(latest)
    }
}
