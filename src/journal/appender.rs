//! Appending to the segments, signing and rolling over: the part that has to happen in order.
//! [`super::writer`] drives it, [`super::recovery`] makes it.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::ThreadId;

use super::merkle::{Frontier, Hash};
use super::notary::{Desk, Signed};
use super::segment::{self, Segment};
use super::storage::{AppendFile, Storage};

/// The open end of a journal.
pub(super) struct Appender {
    pub(super) dir: PathBuf,
    pub(super) storage: Arc<dyn Storage>,
    /// When a segment has more bytes than this, the next one is begun.
    pub(super) segment_bytes: u64,
    /// Over everything that is durable.
    pub(super) tree: Frontier,
    /// The lines of the newest segment.
    pub(super) lines: AppendFile,
    /// Leaf hashes of records that nobody was asked to sign yet.
    pub(super) pending: Vec<Hash>,
    pub(super) desk: Desk,
    /// The newest checkpoint.
    pub(super) signed: Signed,
    /// Held as long as this process writes.
    pub(super) _lock: File,
}

/// The files of a segment that is written.
pub(super) struct Files {
    pub(super) lines: AppendFile,
    pub(super) hashes: AppendFile,
    pub(super) notes: AppendFile,
}

impl Files {
    /// Begins the segment that follows `tree`, which `note` has signed. The lines come last: a segment
    /// is there when they are.
    pub(super) fn begin(storage: &dyn Storage, dir: &Path, tree: &Frontier, note: &str) -> io::Result<Self> {
        let segment = Segment { first: tree.size() };
        let hashes = segment::concat(tree.peaks());
        let open = |path: PathBuf, content: &[u8]| {
            storage.replace(&path, content)?;
            AppendFile::open(storage, &path, u64::try_from(content.len()).unwrap_or(u64::MAX))
        };
        Ok(Self {
            hashes: open(segment.hashes(dir), &hashes)?,
            notes: open(segment.notes(dir), note.as_bytes())?,
            lines: open(segment.lines(dir), b"")?.with_room(),
        })
    }
}

impl Appender {
    /// How many records are durable.
    pub(super) fn size(&self) -> u64 {
        self.tree.size()
    }

    /// How many of them no checkpoint covers yet. One that is being signed covers none.
    pub(super) fn unsigned(&self) -> u64 {
        self.size() - self.signed.0
    }

    /// The newest checkpoint.
    pub(super) fn checkpoint(&self) -> &str {
        &self.signed.1
    }

    /// Returns once the lines, each with its newline, are durable: the index of the first of them. None
    /// of them is there when it fails.
    pub(super) fn append(&mut self, lines: &[u8], leaves: &[Hash]) -> io::Result<u64> {
        let first = self.size();
        self.lines.append(lines)?;
        self.tree.extend(leaves.iter().copied());
        self.pending.extend_from_slice(leaves);
        Ok(first)
    }

    /// Signs a checkpoint of all records, unless the newest one covers them.
    pub(super) fn sign(&mut self) -> io::Result<()> {
        // Whatever became of it: what it left undone is done now.
        if let Some(Ok(signed)) = self.desk.finish(None) {
            self.signed = signed;
        }
        if self.unsigned() > 0 {
            let leaves = std::mem::take(&mut self.pending);
            self.signed = self.desk.sign(leaves, self.size(), self.tree.root())?;
        }
        Ok(())
    }

    /// Has a checkpoint of all records signed, unless the newest one covers them or another is being signed. `done`
    /// is called when [`Self::signed_by`] has something to say.
    pub(super) fn sign_aside(&mut self, done: impl FnOnce(ThreadId) + Send + 'static) -> io::Result<()> {
        if self.unsigned() == 0 || self.is_signing() {
            return Ok(());
        }
        let (leaves, size) = (std::mem::take(&mut self.pending), self.size());
        self.desk.sign_aside(leaves, size, self.tree.root(), done)
    }

    /// Whether a checkpoint is being signed.
    pub(super) fn is_signing(&self) -> bool {
        self.desk.is_busy()
    }

    /// What came of the checkpoint that this thread signed, unless that is known.
    pub(super) fn signed_by(&mut self, thread: ThreadId) -> Option<io::Result<()>> {
        let signed = self.desk.finish(Some(thread))?;
        Some(signed.map(|signed| self.signed = signed))
    }

    /// Writes the newest checkpoint once more: shows whether anything can be written.
    pub(super) fn republish(&self) -> io::Result<()> {
        self.desk.republish(&self.signed.1)
    }

    /// Begins the next segment when this one is full. Until that has worked nothing may be appended,
    /// because the next segment may be there already.
    pub(super) fn roll(&mut self) -> io::Result<()> {
        if !self.is_full() {
            return Ok(());
        }
        self.sign()?;
        let next = Files::begin(&*self.storage, &self.dir, &self.tree, &self.signed.1)?;
        std::mem::replace(&mut self.lines, next.lines).finish();
        self.desk.turn_to(next.hashes, next.notes);
        Ok(())
    }

    /// Nothing more is appended.
    pub(super) fn close(self) {
        self.lines.finish();
    }

    /// Whether the next record belongs into the next segment.
    pub(super) fn is_full(&self) -> bool {
        self.lines.len() >= self.segment_bytes
    }
}
