//! The database: a file, or memory, that can be opened anew after a fault.

use std::fmt;
use std::fs::File;
use std::path::Path;
use std::sync::{PoisonError, RwLock};

use redb::backends::{FileBackend, InMemoryBackend};
use redb::{
    Builder, Database, DatabaseError, ReadTransaction, ReadableDatabase as _, ReadableTable as _,
    WriteTransaction,
};

use super::layout::{EPOCH, FORMAT, META};
use crate::entropy::{OsEntropy, draw};
use crate::ledger::LedgerError;
use crate::ledger::lineage::Epoch;

/// The layout of the tables that is written and read.
const LAYOUT: u64 = 1;

macro_rules! faults {
    ($($error:ty),+) => {$(
        impl From<$error> for LedgerError {
            fn from(error: $error) -> Self {
                match redb::Error::from(error) {
                    error @ (redb::Error::Corrupted(_)
                    | redb::Error::UpgradeRequired(_)
                    | redb::Error::TableTypeMismatch { .. }
                    | redb::Error::TypeDefinitionChanged { .. }) => Self::Corrupt(error.to_string()),
                    redb::Error::DatabaseAlreadyOpen => Self::Unavailable(
                        "another process has it open; an embedded ledger is for one broker, Redis for several"
                            .to_owned(),
                    ),
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

    pub(super) fn reopen(&self) {
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
    let backend = FileBackend::new(file)?;
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

/// Marks a new ledger, or checks that this version can read an old one.
pub(super) fn mark(transaction: &WriteTransaction) -> Result<(), LedgerError> {
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
            meta.insert(EPOCH, Epoch::first(epoch).0)?;
            Ok(())
        }
    }
}
