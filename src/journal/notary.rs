//! Signing: the files that a checkpoint touches, and the key.
//!
//! A checkpoint takes four flushes. Nobody who appends waits for them: they are made in a thread of their own, and
//! the records that come meanwhile are for the next checkpoint.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, ThreadId};

use super::checkpoint::Checkpoint;
use super::merkle::Hash;
use super::note::NoteSigner;
use super::segment::{self, CHECKPOINT};
use super::storage::{AppendFile, Storage};

/// A checkpoint, and how many records it covers.
pub(super) type Signed = (u64, String);

/// Signs the checkpoints of a segment.
pub(super) struct Notary {
    pub(super) dir: PathBuf,
    pub(super) storage: Arc<dyn Storage>,
    pub(super) signer: NoteSigner,
    pub(super) hashes: AppendFile,
    pub(super) notes: AppendFile,
    /// Leaf hashes that are to be signed and are not beside the segment yet.
    pub(super) pending: Vec<Hash>,
}

impl Notary {
    /// Signs that the tree of so many records, all of them durable, has this root. What is left undone when it fails is
    /// done the next time.
    fn sign(&mut self, size: u64, root: Hash) -> io::Result<Signed> {
        self.hashes.append(&segment::concat(&self.pending))?;
        self.pending.clear();
        let note = Checkpoint::sign(size, root, &self.signer).map_err(io::Error::other)?;
        self.notes.append(note.as_bytes())?;
        self.publish(&note)?;
        Ok((size, note))
    }

    fn publish(&self, note: &str) -> io::Result<()> {
        self.storage.replace(&self.dir.join(CHECKPOINT), note.as_bytes())
    }
}

/// Where checkpoints are signed, one at a time.
pub(super) struct Desk {
    /// Nobody waits for it: it is held by the thread, or there is none.
    notary: Arc<Mutex<Notary>>,
    thread: Option<JoinHandle<io::Result<Signed>>>,
}

impl Desk {
    pub(super) fn of(notary: Notary) -> Self {
        Self {
            notary: Arc::new(Mutex::new(notary)),
            thread: None,
        }
    }

    /// Whether something is being signed.
    pub(super) fn is_busy(&self) -> bool {
        self.thread.is_some()
    }

    /// Signs, and returns once it is done. Not while something is being signed.
    pub(super) fn sign(&self, leaves: Vec<Hash>, size: u64, root: Hash) -> io::Result<Signed> {
        with(&self.notary, |notary| {
            notary.pending.extend(leaves);
            notary.sign(size, root)
        })
    }

    /// Has it signed, and `done` called at the end with the name of who did it. Not while something is being signed.
    pub(super) fn sign_aside(
        &mut self,
        leaves: Vec<Hash>,
        size: u64,
        root: Hash,
        done: impl FnOnce(ThreadId) + Send + 'static,
    ) -> io::Result<()> {
        // Where no thread can be had, they are for the next one.
        with(&self.notary, |notary| notary.pending.extend(leaves));
        let notary = Arc::clone(&self.notary);
        let thread = std::thread::Builder::new().name("notary".to_owned());
        self.thread = Some(thread.spawn(move || {
            let _whatever_comes = AtLast(Some(done));
            with(&notary, |notary| notary.sign(size, root))
        })?);
        Ok(())
    }

    /// What is being signed by that thread, or by whichever it is; waits for it.
    pub(super) fn finish(&mut self, by: Option<ThreadId>) -> Option<io::Result<Signed>> {
        let thread = self
            .thread
            .take_if(|thread| by.is_none_or(|by| thread.thread().id() == by))?;
        let panicked = |_| Err(io::Error::other("the thread that signs panicked"));
        Some(thread.join().unwrap_or_else(panicked))
    }

    /// Publishes a checkpoint once more.
    pub(super) fn republish(&self, note: &str) -> io::Result<()> {
        with(&self.notary, |notary| notary.publish(note))
    }

    /// Goes on with the files of the next segment. Not while something is being signed.
    pub(super) fn turn_to(&self, hashes: AppendFile, notes: AppendFile) {
        with(&self.notary, |notary| {
            (notary.hashes, notary.notes) = (hashes, notes)
        });
    }
}

/// Tells of the end of a thread, also of one that panicked: whoever waits for it waits for nothing else.
struct AtLast<F: FnOnce(ThreadId)>(Option<F>);

impl<F: FnOnce(ThreadId)> Drop for AtLast<F> {
    fn drop(&mut self) {
        if let Some(done) = self.0.take() {
            done(std::thread::current().id());
        }
    }
}

fn with<T>(notary: &Mutex<Notary>, work: impl FnOnce(&mut Notary) -> T) -> T {
    work(&mut notary.lock().unwrap_or_else(PoisonError::into_inner))
}
