//! The journal in memory: for tests and simulations. Nothing is durable, everything else holds.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::checkpoint::Checkpoint;
use super::merkle::{Frontier, Hash};
use super::note::{NoteSigner, NoteVerifier};
use super::record::Record;
use super::{Journal, JournalError};

/// Keeps its lines, and can be told to fail.
#[derive(Debug)]
pub struct MemoryJournal {
    signer: NoteSigner,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<String>,
    tree: Frontier,
    fails: bool,
}

impl MemoryJournal {
    /// An empty journal that signs with this key.
    pub fn new(signer: NoteSigner) -> Self {
        Self {
            signer,
            state: Mutex::default(),
        }
    }

    /// From now on every call fails as unavailable, or works again.
    pub fn fail(&self, fails: bool) {
        self.lock().fails = fails;
    }

    /// Every line so far, whether the journal fails or not.
    pub fn lines(&self) -> Vec<String> {
        self.lock().lines.clone()
    }

    /// Every record so far, whether the journal fails or not.
    pub fn records(&self) -> Result<Vec<Record>, JournalError> {
        self.lock()
            .lines
            .iter()
            .map(|line| Record::from_line(line))
            .collect()
    }

    /// What checks its checkpoints.
    pub fn verifier(&self) -> NoteVerifier {
        self.signer.verifier()
    }

    /// A panic elsewhere cannot leave a line without its leaf: both are added last, one after the other.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn working(&self) -> Result<MutexGuard<'_, State>, JournalError> {
        let state = self.lock();
        if state.fails {
            return Err(JournalError::Unavailable("it was told to fail".to_owned()));
        }
        Ok(state)
    }
}

#[async_trait]
impl Journal for MemoryJournal {
    async fn append(&self, record: Arc<Record>) -> Result<u64, JournalError> {
        let line = record.to_line()?;
        let leaf = Hash::leaf(line.as_bytes());
        let mut state = self.working()?;
        let index = state.tree.size();
        state.lines.push(line);
        state.tree.push(leaf);
        Ok(index)
    }

    async fn read(&self, from: u64, limit: usize) -> Result<Vec<String>, JournalError> {
        let from = usize::try_from(from).unwrap_or(usize::MAX);
        let state = self.working()?;
        Ok(state.lines.iter().skip(from).take(limit).cloned().collect())
    }

    async fn checkpoint(&self) -> Result<String, JournalError> {
        let (size, root) = {
            let state = self.working()?;
            (state.tree.size(), state.tree.root())
        };
        Checkpoint::sign(size, root, &self.signer)
            .map_err(|error| JournalError::Unavailable(error.to_string()))
    }
}
