//! The journal on disk: group commit, segments, signed checkpoints.
//!
//! One thread writes; whoever appends waits until the one sync that covers its record is over. Records
//! wait in a bounded number of bytes. A failed write leaves nothing behind, and a journal that cannot
//! be written or signed refuses until it can.

use std::path::Path;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use metrics::{Counter, Histogram};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::time::Instant;
use tracing::Instrument as _;

use super::merkle::Hash;
use super::note::{NoteSigner, NoteVerifier};
use super::reader::Reader;
use super::record::Record;
use super::recovery;
use super::storage::{OsStorage, Storage};
use super::writer::{Entry, Message, Writer};
use super::{APPEND_SECONDS, FAILURES, Journal, JournalError};
use crate::trace;

/// How a journal on disk behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// When a segment has at least this many bytes, the next one is begun.
    pub segment_bytes: u64,
    /// A checkpoint is signed when this many records have none,
    pub sign_records: u64,
    /// or when one has been without for this long.
    pub sign_every: Duration,
    /// How many bytes of records may wait for the disk; at least as many as one record may have.
    pub waiting_bytes: u32,
    /// How long a record waits for room among them before it is refused.
    pub patience: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            sign_records: 4096,
            sign_every: Duration::from_secs(1),
            waiting_bytes: 8 << 20,
            patience: Duration::from_secs(2),
        }
    }
}

/// The journal in a directory. One process writes to it at a time.
#[derive(Debug)]
pub struct FileJournal {
    inbox: Sender<Message>,
    /// The bytes that may still wait.
    room: Arc<Semaphore>,
    waiting_bytes: u32,
    patience: Duration,
    size: watch::Receiver<u64>,
    /// Since when there are records without a checkpoint.
    unsigned: watch::Receiver<Option<Instant>>,
    took: Histogram,
    failures: Counter,
    reader: Arc<Reader>,
    verifier: NoteVerifier,
    writer: Mutex<Option<JoinHandle<Result<(), JournalError>>>>,
}

impl FileJournal {
    /// Opens the journal in `dir`, or begins one there; its origin is the name of the signer. Blocks on
    /// the disk: reads the newest segment, and refuses when it is not what was signed.
    pub fn open(dir: &Path, options: Options, signer: NoteSigner) -> Result<Self, JournalError> {
        Self::open_on(Arc::new(OsStorage), dir, options, signer)
    }

    fn open_on(
        storage: Arc<dyn Storage>,
        dir: &Path,
        options: Options,
        signer: NoteSigner,
    ) -> Result<Self, JournalError> {
        let verifier = signer.verifier();
        let appender = recovery::open(dir, options.segment_bytes, signer, storage)?;
        let (grown, size) = watch::channel(appender.size());
        let (lagging, unsigned) = watch::channel(None);
        let (inbox, messages) = mpsc::channel();
        let writer = Writer {
            appender,
            inbox: inbox.clone(),
            size: grown,
            unsigned: lagging,
            sign_records: options.sign_records,
            sign_every: options.sign_every,
            due: None,
            signing_since: None,
            blocked: None,
            refusing: false,
        };
        let writer = std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || writer.run(&messages))
            .map_err(|error| JournalError::Unavailable(format!("its thread cannot be started: {error}")))?;
        let most = u32::try_from(Record::MOST_BYTES + 1).unwrap_or(u32::MAX);
        let waiting_bytes = options.waiting_bytes.max(most);
        Ok(Self {
            inbox,
            room: Arc::new(Semaphore::new(
                usize::try_from(waiting_bytes).unwrap_or(usize::MAX),
            )),
            waiting_bytes,
            patience: options.patience,
            size,
            unsigned,
            took: metrics::histogram!(APPEND_SECONDS),
            failures: metrics::counter!(FAILURES),
            reader: Arc::new(Reader::new(dir)),
            verifier,
            writer: Mutex::new(Some(writer)),
        })
    }

    /// How many records are durable: a channel that wakes whoever follows the journal.
    pub fn size(&self) -> watch::Receiver<u64> {
        self.size.clone()
    }

    /// For how long the oldest record without a signed checkpoint has been without; zero when each has one.
    pub fn checkpoint_age(&self) -> Duration {
        let since = *self.unsigned.borrow();
        since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// What checks the checkpoints.
    pub fn verifier(&self) -> &NoteVerifier {
        &self.verifier
    }

    /// Writes what waits, signs the last checkpoint and stops. Later calls are refused.
    pub async fn close(&self) -> Result<(), JournalError> {
        let Some(writer) = self.stop() else { return Ok(()) };
        tokio::task::spawn_blocking(move || writer.join())
            .await
            .map_err(|_| stopped())?
            .map_err(|_| stopped())?
    }

    async fn write(&self, record: &Record) -> Result<u64, JournalError> {
        let line = record.to_line()?;
        let leaf = Hash::leaf(line.as_bytes());
        let bytes = u32::try_from(line.len()).map_or(self.waiting_bytes, |bytes| bytes + 1);
        let room = Arc::clone(&self.room).acquire_many_owned(bytes);
        let room = tokio::time::timeout(self.patience, room)
            .await
            .map_err(|_| JournalError::Unavailable("too many records wait for the disk".to_owned()))?
            .map_err(|_| stopped())?;
        let (answer, answered) = oneshot::channel();
        let entry = Entry {
            line,
            leaf,
            answer,
            room,
        };
        self.inbox.send(Message::Append(entry)).map_err(|_| stopped())?;
        answered.await.map_err(|_| stopped())?
    }

    fn stop(&self) -> Option<JoinHandle<Result<(), JournalError>>> {
        let _already_stopped = self.inbox.send(Message::Close);
        self.writer.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A journal that was not closed is closed here, and the thread waited for.
impl Drop for FileJournal {
    fn drop(&mut self) {
        if let Some(writer) = self.stop() {
            match writer.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(%error, "the last checkpoint could not be signed"),
                Err(_) => tracing::error!("the journal's thread had panicked"),
            }
        }
    }
}

#[async_trait]
impl Journal for FileJournal {
    async fn append(&self, record: Arc<Record>) -> Result<u64, JournalError> {
        let began = Instant::now();
        let span = tracing::info_span!(target: trace::TARGET, "journal");
        let answer = self.write(&record).instrument(span).await;
        match &answer {
            Ok(_) => self.took.record(began.elapsed().as_secs_f64()),
            Err(_) => self.failures.increment(1),
        }
        answer
    }

    async fn read(&self, from: u64, limit: usize) -> Result<Vec<String>, JournalError> {
        let end = *self.size.borrow();
        let reader = Arc::clone(&self.reader);
        tokio::task::spawn_blocking(move || reader.read(from, end, limit))
            .await
            .map_err(|_| stopped())?
    }

    async fn checkpoint(&self) -> Result<String, JournalError> {
        let (answer, answered) = oneshot::channel();
        self.inbox
            .send(Message::Checkpoint(answer))
            .map_err(|_| stopped())?;
        answered.await.map_err(|_| stopped())?
    }
}

fn stopped() -> JournalError {
    JournalError::Unavailable("it was closed".to_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;

    use futures_util::future::join_all;

    use super::super::checkpoint::Checkpoint;
    use super::super::record::{Result as Outcome, Verb};
    use super::super::storage::tests::{FaultyStorage, set};
    use super::super::verify::{Expected, Fault, Verified, verify};
    use super::*;
    use crate::model::time::Timestamp;

    fn signer() -> NoteSigner {
        NoteSigner::from_seed("dayfly.test/journal", &[7; 32]).unwrap()
    }

    fn record(n: u64) -> Record {
        let mut record = Record::new(Verb::Issue, Outcome::Permitted, Timestamp::EPOCH);
        record.reason = Some(format!("record {n}"));
        record
    }

    fn open(dir: &Path, options: Options) -> FileJournal {
        FileJournal::open(dir, options, signer()).unwrap()
    }

    fn faulty(dir: &Path, options: Options) -> (FileJournal, FaultyStorage) {
        let storage = FaultyStorage::default();
        let journal = FileJournal::open_on(Arc::new(storage.clone()), dir, options, signer()).unwrap();
        (journal, storage)
    }

    fn check(dir: &Path) -> Result<Verified, Fault> {
        let key = Some(signer().verifier());
        verify(
            dir,
            &Expected {
                key,
                kept: Vec::new(),
            },
        )
    }

    /// Signs only when told to.
    fn quiet() -> Options {
        Options {
            sign_every: Duration::MAX / 4,
            ..Options::default()
        }
    }

    async fn append(journal: &FileJournal, n: u64) -> Result<u64, JournalError> {
        journal.append(record(n).into()).await
    }

    fn refused<T: std::fmt::Debug>(answer: Result<T, JournalError>) -> bool {
        matches!(answer, Err(JournalError::Unavailable(_)))
    }

    #[tokio::test]
    async fn concurrent_appends_get_an_index_each_and_all_are_there_after_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            segment_bytes: 4096,
            sign_records: 50,
            ..quiet()
        };
        let journal = open(dir.path(), options.clone());
        let mut indices = BTreeSet::new();
        let mut written = vec![String::new(); 640];
        for round in 0..10 {
            let answers = join_all((0..64).map(|n| append(&journal, round * 64 + n))).await;
            for (n, answer) in (round * 64..).zip(answers) {
                let index = answer.unwrap();
                assert!(indices.insert(index));
                written[usize::try_from(index).unwrap()] = record(n).to_line().unwrap();
            }
        }
        assert_eq!(*journal.size().borrow(), 640);
        assert_eq!(journal.read(0, 1000).await.unwrap(), written);
        drop(journal);

        let verified = check(dir.path()).unwrap();
        assert_eq!((verified.records, verified.newest.size), (640, 640));
        assert!(verified.segments > 5);
        let journal = open(dir.path(), options);
        assert_eq!(journal.read(600, 1000).await.unwrap(), written[600..]);
        assert_eq!(append(&journal, 640).await.unwrap(), 640);
    }

    #[tokio::test]
    async fn a_full_disk_refuses_and_leaves_no_trace() {
        let dir = tempfile::tempdir().unwrap();
        let (journal, disk) = faulty(dir.path(), quiet());
        assert_eq!(append(&journal, 0).await.unwrap(), 0);

        set(&disk.full, true);
        let answers = join_all((0..64).map(|n| append(&journal, n))).await;
        assert!(answers.into_iter().all(refused));
        assert_eq!(journal.read(0, 99).await.unwrap().len(), 1);
        assert!(
            refused(journal.checkpoint().await),
            "its sign would not be written either"
        );

        set(&disk.full, false);
        assert_eq!(append(&journal, 1).await.unwrap(), 1);
        drop(journal);
        assert_eq!(check(dir.path()).unwrap().records, 2);
    }

    #[tokio::test]
    async fn a_full_disk_shows_in_the_checkpoint_too_and_nobody_has_to_append_to_see_it_go() {
        let dir = tempfile::tempdir().unwrap();
        let (journal, disk) = faulty(dir.path(), quiet());
        append(&journal, 0).await.unwrap();
        journal.checkpoint().await.unwrap();

        set(&disk.full, true);
        set(&disk.replace, true);
        assert!(refused(append(&journal, 1).await));
        assert!(refused(journal.checkpoint().await), "though nothing is unsigned");

        set(&disk.full, false);
        set(&disk.replace, false);
        journal.checkpoint().await.unwrap();
        assert_eq!(append(&journal, 1).await.unwrap(), 1);
        drop(journal);
        assert_eq!(check(dir.path()).unwrap().records, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn says_for_how_long_records_have_had_no_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        let (journal, disk) = faulty(dir.path(), quiet());
        assert_eq!(journal.checkpoint_age(), Duration::ZERO);
        append(&journal, 0).await.unwrap();
        set(&disk.replace, true);
        assert!(refused(journal.checkpoint().await));
        tokio::time::advance(Duration::from_secs(30)).await;
        // The thread that writes lives by the real clock, so what this took is missing.
        let age = journal.checkpoint_age();
        assert!(age > Duration::from_secs(20), "{age:?}");
        set(&disk.replace, false);
        journal.checkpoint().await.unwrap();
        assert_eq!(journal.checkpoint_age(), Duration::ZERO);
    }

    #[tokio::test]
    async fn a_failed_sync_refuses_what_it_covered() {
        let dir = tempfile::tempdir().unwrap();
        let (journal, disk) = faulty(dir.path(), quiet());
        set(&disk.sync, true);
        assert!(refused(append(&journal, 0).await));
        set(&disk.sync, false);
        assert_eq!(append(&journal, 1).await.unwrap(), 0);
        assert_eq!(journal.read(0, 9).await.unwrap(), [record(1).to_line().unwrap()]);
    }

    #[tokio::test]
    async fn stays_unavailable_until_a_torn_write_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let (journal, disk) = faulty(dir.path(), quiet());
        set(&disk.full, true);
        set(&disk.truncate, true);
        assert!(refused(append(&journal, 0).await));
        set(&disk.full, false);
        assert!(refused(append(&journal, 1).await));
        set(&disk.truncate, false);
        assert_eq!(append(&journal, 2).await.unwrap(), 0);
        drop(journal);
        assert_eq!(check(dir.path()).unwrap().records, 1);
    }

    #[tokio::test]
    async fn does_not_grow_while_it_cannot_be_signed() {
        let dir = tempfile::tempdir().unwrap();
        let (journal, disk) = faulty(
            dir.path(),
            Options {
                sign_records: 1,
                ..quiet()
            },
        );
        set(&disk.replace, true);
        assert_eq!(
            append(&journal, 0).await.unwrap(),
            0,
            "durable before it is signed"
        );
        assert!(refused(journal.checkpoint().await));
        assert!(refused(append(&journal, 1).await));
        set(&disk.replace, false);
        assert_eq!(append(&journal, 2).await.unwrap(), 1);
        drop(journal);
        assert_eq!(check(dir.path()).unwrap().newest.size, 2);
    }

    #[tokio::test]
    async fn grows_no_further_than_twice_what_is_signed_at_a_time_though_nobody_asks_for_a_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            sign_records: 4,
            ..quiet()
        };
        let (journal, disk) = faulty(dir.path(), options);
        set(&disk.replace, true);
        let mut grown = 0;
        while append(&journal, grown).await.is_ok() {
            grown += 1;
            assert!(grown <= 8, "{grown}");
        }
        assert!(grown >= 4, "{grown}");
        set(&disk.replace, false);
        assert_eq!(append(&journal, grown).await.unwrap(), grown);
        drop(journal);
        assert_eq!(check(dir.path()).unwrap().newest.size, grown + 1);
    }

    #[tokio::test]
    async fn takes_records_while_it_signs() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            sign_records: 4,
            ..quiet()
        };
        let (journal, disk) = faulty(dir.path(), options);
        set(&disk.wait, true);
        for n in 0..7 {
            assert_eq!(
                append(&journal, n).await.unwrap(),
                n,
                "nobody waits for the checkpoint"
            );
        }
        set(&disk.wait, false);
        let note = journal.checkpoint().await.unwrap();
        assert_eq!(Checkpoint::open(&note, Some(journal.verifier())).unwrap().size, 7);
        drop(journal);
        assert_eq!(check(dir.path()).unwrap().checkpoints, 3, "at 0, 4 and 7");
    }

    #[tokio::test]
    async fn what_comes_while_it_signs_is_signed_when_its_own_time_comes() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            sign_records: 4,
            ..quiet()
        };
        let (journal, disk) = faulty(dir.path(), options);
        set(&disk.wait, true);
        for n in 0..5 {
            append(&journal, n).await.unwrap();
        }
        let mut unsigned = journal.unsigned.clone();
        let _before = *unsigned.borrow_and_update();
        let signing = Instant::now();
        set(&disk.wait, false);
        unsigned.changed().await.unwrap();
        let since = unsigned.borrow().expect("one more came");
        assert!(since <= signing, "it came while the checkpoint was signed");
        append(&journal, 5).await.unwrap();
        drop(journal);
        assert_eq!(check(dir.path()).unwrap().checkpoints, 3, "at 0, 4 and 6");
    }

    #[tokio::test]
    async fn does_not_grow_while_it_cannot_roll_over() {
        let dir = tempfile::tempdir().unwrap();
        let (journal, disk) = faulty(
            dir.path(),
            Options {
                segment_bytes: 1,
                ..quiet()
            },
        );
        assert_eq!(append(&journal, 0).await.unwrap(), 0);
        journal.checkpoint().await.unwrap(); // the roll-over has been done
        set(&disk.replace, true);
        assert_eq!(append(&journal, 1).await.unwrap(), 1);
        assert!(refused(append(&journal, 2).await));
        set(&disk.replace, false);
        assert_eq!(append(&journal, 3).await.unwrap(), 2);
        drop(journal);
        let verified = check(dir.path()).unwrap();
        assert_eq!((verified.records, verified.segments), (3, 4));
    }

    #[tokio::test]
    async fn a_checkpoint_covers_everything_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let journal = open(dir.path(), quiet());
        let size = |note: String| Checkpoint::open(&note, Some(journal.verifier())).unwrap().size;
        assert_eq!(size(journal.checkpoint().await.unwrap()), 0);
        for n in 0..3 {
            append(&journal, n).await.unwrap();
            assert_eq!(size(journal.checkpoint().await.unwrap()), n + 1);
        }
    }

    #[tokio::test]
    async fn signs_after_so_many_records() {
        let dir = tempfile::tempdir().unwrap();
        let journal = open(
            dir.path(),
            Options {
                sign_records: 2,
                ..quiet()
            },
        );
        for n in 0..7 {
            append(&journal, n).await.unwrap();
        }
        journal.close().await.unwrap();
        let verified = check(dir.path()).unwrap();
        assert_eq!(verified.newest.size, 7, "closing");
        // At 0, at 7 and, by how soon each was signed, at two or more between.
        assert!(verified.checkpoints >= 4, "{}", verified.checkpoints);
    }

    #[tokio::test]
    async fn signs_after_so_long() {
        let dir = tempfile::tempdir().unwrap();
        let journal = open(
            dir.path(),
            Options {
                sign_every: Duration::from_millis(1),
                ..quiet()
            },
        );
        append(&journal, 0).await.unwrap();
        let signed = async {
            while !fs::read_to_string(dir.path().join("checkpoint"))
                .unwrap()
                .contains("\n1\n")
            {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), signed)
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn closing_signs_and_stops() {
        let dir = tempfile::tempdir().unwrap();
        let journal = open(dir.path(), quiet());
        append(&journal, 0).await.unwrap();
        journal.close().await.unwrap();
        journal.close().await.unwrap();
        assert!(refused(append(&journal, 1).await));
        assert!(refused(journal.checkpoint().await));
        assert_eq!(check(dir.path()).unwrap().newest.size, 1);
        open(dir.path(), quiet());
    }

    #[tokio::test]
    async fn a_second_writer_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let first = open(dir.path(), quiet());
        let second = FileJournal::open(dir.path(), quiet(), signer());
        assert!(second.unwrap_err().to_string().contains("another process"));
        drop(first);
        open(dir.path(), quiet());
    }

    #[tokio::test(start_paused = true)]
    async fn a_record_that_finds_no_room_is_refused_after_a_while() {
        let dir = tempfile::tempdir().unwrap();
        let journal = open(dir.path(), quiet());
        let all = Arc::clone(&journal.room).acquire_many_owned(journal.waiting_bytes);
        let all = all.await.unwrap();
        let before = tokio::time::Instant::now();
        let error = append(&journal, 0).await.unwrap_err().to_string();
        assert!(error.contains("too many records wait"), "{error}");
        assert_eq!(before.elapsed().as_secs(), quiet().patience.as_secs());
        drop(all);
        assert_eq!(append(&journal, 0).await.unwrap(), 0);
        let free = journal.room.available_permits();
        assert_eq!(
            free,
            usize::try_from(journal.waiting_bytes).unwrap(),
            "the room is given back"
        );
    }

    #[tokio::test]
    async fn followers_are_woken() {
        let dir = tempfile::tempdir().unwrap();
        let journal = open(dir.path(), quiet());
        let mut size = journal.size();
        append(&journal, 0).await.unwrap();
        size.changed().await.unwrap();
        assert_eq!(*size.borrow_and_update(), 1);
        assert_eq!(Reader::new(dir.path()).read(0, u64::MAX, 9).unwrap().len(), 1);
    }

    #[tokio::test]
    async fn opening_reads_the_newest_segment_only_and_verifying_reads_all() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            segment_bytes: 1,
            ..quiet()
        };
        let journal = open(dir.path(), options.clone());
        for n in 0..3 {
            append(&journal, n).await.unwrap();
        }
        drop(journal);
        let oldest = dir.path().join("00000000000000000000.jsonl");
        fs::write(&oldest, format!("{}\n", record(9).to_line().unwrap())).unwrap();
        open(dir.path(), options);
        assert!(matches!(check(dir.path()), Err(Fault::Changed(place)) if place.index == 0));
    }
}
