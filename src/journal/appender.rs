//! Appending to the segments, signing and rolling over: the part that has to happen in order, without
//! threads or waiting. [`super::writer`] drives it, [`super::recovery`] makes it.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::checkpoint::Checkpoint;
use super::merkle::{Frontier, Hash};
use super::note::NoteSigner;
use super::segment::{self, CHECKPOINT, Segment};
use super::storage::{AppendFile, Storage};

/// The open end of a journal.
pub(super) struct Appender {
    pub(super) dir: PathBuf,
    pub(super) storage: Arc<dyn Storage>,
    pub(super) signer: NoteSigner,
    /// When a segment has more bytes than this, the next one is begun.
    pub(super) segment_bytes: u64,
    /// Over everything that is durable.
    pub(super) tree: Frontier,
    pub(super) files: Files,
    /// Leaf hashes that are not beside the segment yet. As many as are not signed.
    pub(super) pending: Vec<Hash>,
    /// The newest checkpoint, and how many records it covers.
    pub(super) signed: (u64, String),
    /// Held as long as this process writes.
    pub(super) _lock: File,
}

/// The files of the newest segment.
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
            lines: open(segment.lines(dir), b"")?,
        })
    }
}

impl Appender {
    /// How many records are durable.
    pub(super) fn size(&self) -> u64 {
        self.tree.size()
    }

    /// How many of them no checkpoint covers yet.
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
        self.files.lines.append(lines)?;
        self.tree.extend(leaves.iter().copied());
        self.pending.extend_from_slice(leaves);
        Ok(first)
    }

    /// Signs a checkpoint of all records, unless the newest one covers them.
    pub(super) fn sign(&mut self) -> io::Result<()> {
        if self.unsigned() == 0 {
            return Ok(());
        }
        self.files.hashes.append(&segment::concat(&self.pending))?;
        self.pending.clear();
        let size = self.size();
        let note = Checkpoint::sign(size, self.tree.root(), &self.signer).map_err(io::Error::other)?;
        self.files.notes.append(note.as_bytes())?;
        self.storage
            .replace(&self.dir.join(CHECKPOINT), note.as_bytes())?;
        self.signed = (size, note);
        Ok(())
    }

    /// Writes the newest checkpoint once more: shows whether anything can be written.
    pub(super) fn republish(&self) -> io::Result<()> {
        self.storage
            .replace(&self.dir.join(CHECKPOINT), self.signed.1.as_bytes())
    }

    /// Begins the next segment when this one is full. Until that has worked nothing may be appended,
    /// because the next segment may be there already.
    pub(super) fn roll(&mut self) -> io::Result<()> {
        if !self.is_full() {
            return Ok(());
        }
        self.sign()?;
        self.files = Files::begin(&*self.storage, &self.dir, &self.tree, &self.signed.1)?;
        Ok(())
    }

    /// Whether the next record belongs into the next segment.
    pub(super) fn is_full(&self) -> bool {
        self.files.lines.len() >= self.segment_bytes
    }
}
