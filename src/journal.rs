//! The journal: the append-only, tamper-evident record of every decision and of what came of it.
//!
//! A record is one line of canonical JSON (RFC 8785) and one leaf of a Merkle tree (RFC 6962 §2.1).
//! The roots are signed as C2SP checkpoints, and so is the receipt of each end, by the same key ([`receipt`]).
//! No record, no credential.

mod align;
mod appender;
pub mod audit_key;
pub mod checkpoint;
mod fault;
pub mod file;
pub mod memory;
pub mod merkle;
mod notary;
pub mod note;
pub mod proof;
pub mod reader;
pub mod receipt;
pub mod record;
mod recovery;
pub mod replay;
mod segment;
mod storage;
pub mod unfinished;
pub mod verify;
mod writer;

use std::sync::Arc;

use async_trait::async_trait;

use record::Record;

/// Seconds from a record to when it was durable.
pub const APPEND_SECONDS: &str = "dayfly_journal_append_duration_seconds";
/// Records that were refused.
pub const FAILURES: &str = "dayfly_journal_failures_total";

/// Takes records.
#[async_trait]
pub trait Journal: Send + Sync + 'static {
    /// Returns once the record is durable; the answer is its place in the log, from 0.
    async fn append(&self, record: Arc<Record>) -> Result<u64, JournalError>;

    /// Records from `from` on, as the canonical lines that were written, at most `limit`. There may be
    /// fewer; only an empty answer means that there are no more.
    async fn read(&self, from: u64, limit: usize) -> Result<Vec<String>, JournalError>;

    /// The newest signed checkpoint (C2SP tlog-checkpoint), as text. Covers every record that was
    /// appended before the call.
    async fn checkpoint(&self) -> Result<String, JournalError>;
}

/// What can go wrong with the journal.
#[derive(Debug, Clone, thiserror::Error)]
pub enum JournalError {
    /// It cannot be written: disk full, gone, or stopped. Nothing is issued until it can.
    #[error("the journal cannot be written: {0}")]
    Unavailable(String),
    /// What is there is not what was written.
    #[error("the journal is damaged: {0}")]
    Damaged(String),
    /// The record is larger than 65,535 bytes, the most that a log entry can hold.
    #[error("the record is too large")]
    TooLarge,
}
