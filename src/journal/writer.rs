//! The thread that writes: takes what is waiting, writes it in one go, syncs once, and answers all.
//!
//! Signing comes after the answers, and beside what is appended meanwhile, up to as much again as is signed at a time:
//! then it is waited for. So is rolling over. When they fail, nothing more is appended until they work: a journal that
//! cannot be signed does not grow.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::thread::ThreadId;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};
use tokio::time::Instant;

use super::JournalError;
use super::appender::Appender;
use super::merkle::Hash;

/// What the thread is asked for.
pub(super) enum Message {
    Append(Entry),
    /// The newest checkpoint, of everything that was asked for before.
    Checkpoint(oneshot::Sender<Result<String, JournalError>>),
    /// A checkpoint was signed aside, or could not be.
    Signed(ThreadId),
    /// Sign and stop.
    Close,
}

/// A record that waits.
pub(super) struct Entry {
    pub(super) line: String,
    pub(super) leaf: Hash,
    pub(super) answer: oneshot::Sender<Result<u64, JournalError>>,
    /// Its share of the bytes that may wait; given back with the answer.
    pub(super) room: OwnedSemaphorePermit,
}

/// The thread's state.
pub(super) struct Writer {
    pub(super) appender: Appender,
    /// Where it is told what was signed aside.
    pub(super) inbox: Sender<Message>,
    /// How many records are durable, for those who follow.
    pub(super) size: watch::Sender<u64>,
    /// Since when there are durable records without a checkpoint.
    pub(super) unsigned: watch::Sender<Option<Instant>>,
    pub(super) sign_records: u64,
    pub(super) sign_every: Duration,
    /// When the oldest record that is to be signed has to be.
    pub(super) due: Option<Instant>,
    /// Since when a checkpoint is being signed: what it does not cover is younger.
    pub(super) signing_since: Option<Instant>,
    /// Why nothing may be appended before signing and rolling over work again.
    pub(super) blocked: Option<String>,
    /// Whether the last batch was refused; said once, not for each.
    pub(super) refusing: bool,
}

#[derive(Default)]
struct Batch {
    entries: Vec<Entry>,
    checkpoints: Vec<oneshot::Sender<Result<String, JournalError>>>,
    signed: Option<ThreadId>,
    closing: bool,
}

impl Batch {
    /// The first message, and all that wait behind it. Their bytes are bounded by the room they hold.
    fn gather(first: Message, inbox: &Receiver<Message>) -> Self {
        let mut batch = Self::default();
        let mut next = Some(first);
        while let Some(message) = next {
            match message {
                Message::Append(entry) => batch.entries.push(entry),
                Message::Checkpoint(answer) => batch.checkpoints.push(answer),
                // Only the last one can be news.
                Message::Signed(by) => batch.signed = Some(by),
                Message::Close => {
                    batch.closing = true;
                    break;
                }
            }
            next = inbox.try_recv().ok();
        }
        batch
    }
}

impl Writer {
    /// Runs until it is told to close. The answer is that of the last checkpoint.
    pub(super) fn run(mut self, inbox: &Receiver<Message>) -> Result<(), JournalError> {
        let mut closing = false;
        while !closing {
            // What comes due while it signs is seen to when that is over.
            let message = match self.due.filter(|_| !self.appender.is_signing()) {
                None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(due) => inbox.recv_timeout(due.saturating_duration_since(Instant::now())),
            };
            match message {
                Ok(first) => {
                    let batch = Batch::gather(first, inbox);
                    closing = batch.closing;
                    if let Some(outcome) = batch.signed.and_then(|by| self.appender.signed_by(by)) {
                        let _blocked = self.settle(outcome); // whoever appends next is told
                    }
                    self.append(batch.entries);
                    for answer in batch.checkpoints {
                        let _gone = answer.send(self.checkpoint());
                    }
                    self.tend();
                }
                Err(RecvTimeoutError::Timeout) => self.tend(),
                Err(RecvTimeoutError::Disconnected) => closing = true,
            }
        }
        let closed = self.checkpoint().map(drop);
        self.appender.close();
        closed
    }

    fn append(&mut self, entries: Vec<Entry>) {
        if entries.is_empty() {
            return;
        }
        match self.write(&entries) {
            Ok(first) => {
                if std::mem::take(&mut self.refusing) {
                    tracing::info!("the journal can be written again");
                }
                self.size.send_replace(self.appender.size());
                if self.unsigned.borrow().is_none() {
                    self.unsigned.send_replace(Some(Instant::now()));
                }
                for (index, entry) in (first..).zip(entries) {
                    entry.answer(Ok(index));
                }
                self.due.get_or_insert_with(|| Instant::now() + self.sign_every);
            }
            Err(error) => {
                if !std::mem::replace(&mut self.refusing, true) {
                    tracing::error!(%error, "records are refused");
                }
                for entry in entries {
                    entry.answer(Err(error.clone()));
                }
            }
        }
    }

    fn write(&mut self, entries: &[Entry]) -> Result<u64, JournalError> {
        if self.blocked.is_some() {
            self.maintain()?;
        }
        let mut lines = Vec::with_capacity(entries.iter().map(|entry| entry.line.len() + 1).sum());
        let mut leaves = Vec::with_capacity(entries.len());
        for entry in entries {
            lines.extend_from_slice(entry.line.as_bytes());
            lines.push(b'\n');
            leaves.push(entry.leaf);
        }
        self.appender
            .append(&lines, &leaves)
            .map_err(|error| unavailable(&error))
    }

    /// Has it signed when enough records or time have gone by, and begins the next segment when this one is full.
    fn tend(&mut self) {
        let due = self.due.is_some_and(|due| due <= Instant::now());
        let unsigned = self.appender.unsigned();
        let behind = unsigned >= self.sign_records.saturating_mul(2);
        // Whoever appends next is told what is blocked.
        let _blocked = if self.blocked.is_some() {
            if due { self.maintain() } else { Ok(()) }
        } else if self.appender.is_full() || behind {
            self.maintain()
        } else if !self.appender.is_signing() && (due || unsigned >= self.sign_records) {
            self.sign_aside()
        } else {
            Ok(())
        };
    }

    fn sign_aside(&mut self) -> Result<(), JournalError> {
        let inbox = self.inbox.clone();
        let done = move |by| drop(inbox.send(Message::Signed(by)));
        match self.appender.sign_aside(done) {
            // What comes from now on is for the next one.
            Ok(()) => {
                self.due = None;
                self.signing_since = Some(Instant::now());
                Ok(())
            }
            Err(error) => self.settle(Err(error)),
        }
    }

    fn maintain(&mut self) -> Result<(), JournalError> {
        let outcome = self.appender.sign().and_then(|()| self.appender.roll());
        self.settle(outcome)
    }

    fn checkpoint(&mut self) -> Result<String, JournalError> {
        // Signing writes nothing when there is nothing new, and would say that all is well.
        let outcome = match self.appender.sign() {
            Ok(()) if self.refusing => self.appender.republish(),
            outcome => outcome,
        };
        if outcome.is_ok() {
            self.unsigned.send_replace(None);
        }
        if outcome.is_ok() && std::mem::take(&mut self.refusing) {
            tracing::info!("the journal can be written again");
        }
        if outcome.is_err() || self.blocked.is_none() {
            self.settle(outcome)?;
        }
        Ok(self.appender.checkpoint().to_owned())
    }

    fn settle(&mut self, outcome: io::Result<()>) -> Result<(), JournalError> {
        match outcome {
            Ok(()) => {
                if self.blocked.take().is_some() {
                    tracing::info!("the journal can be signed again");
                }
                // What came while it was signed has waited for no longer than that, or is due already.
                let more = self.appender.unsigned() > 0;
                let since = self.signing_since.take().unwrap_or_else(Instant::now);
                self.due = more.then(|| self.due.unwrap_or_else(Instant::now));
                self.unsigned.send_replace(more.then_some(since));
                Ok(())
            }
            Err(error) => {
                let error = unavailable(&error);
                if self.blocked.replace(error.to_string()).is_none() {
                    tracing::error!(%error, "the journal cannot be signed; nothing is appended until it can");
                }
                self.due = Some(Instant::now() + self.sign_every);
                Err(error)
            }
        }
    }
}

impl Entry {
    /// Answers, and makes room. Whoever asked may be gone; the record stays.
    fn answer(self, answer: Result<u64, JournalError>) {
        drop(self.room);
        let _gone = self.answer.send(answer);
    }
}

fn unavailable(error: &io::Error) -> JournalError {
    JournalError::Unavailable(error.to_string())
}
