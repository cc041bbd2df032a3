//! The contract of [`dayfly::journal::Journal`]: one test for each promise, run against every adapter.

use std::any::Any;
use std::sync::Arc;

use dayfly::journal::checkpoint::Checkpoint;
use dayfly::journal::file::{FileJournal, Options};
use dayfly::journal::memory::MemoryJournal;
use dayfly::journal::merkle::Hash;
use dayfly::journal::note::{NoteSigner, NoteVerifier};
use dayfly::journal::proof::{
    prove_consistency, prove_inclusion, root, verify_consistency, verify_inclusion,
};
use dayfly::journal::record::{Record, Result as Outcome, Verb};
use dayfly::journal::{Journal, JournalError};
use dayfly::model::time::Timestamp;
use futures_util::future::join_all;

/// An empty journal, and what checks it.
struct Fixture {
    journal: Arc<dyn Journal>,
    verifier: NoteVerifier,
    /// What has to live as long as the journal.
    _keep: Box<dyn Any>,
}

impl Fixture {
    fn memory() -> Self {
        let journal = MemoryJournal::new(signer());
        Self {
            verifier: journal.verifier(),
            journal: Arc::new(journal),
            _keep: Box::new(()),
        }
    }

    /// With segments so small that every test crosses some.
    fn file() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            segment_bytes: 1000,
            sign_records: 7,
            ..Options::default()
        };
        let journal = FileJournal::open(dir.path(), options, signer()).unwrap();
        Self {
            verifier: journal.verifier().clone(),
            journal: Arc::new(journal),
            _keep: Box::new(dir),
        }
    }

    async fn append(&self, n: u64) -> u64 {
        self.journal.append(record(n).into()).await.unwrap()
    }

    async fn leaves(&self) -> Vec<Hash> {
        let (mut leaves, mut from) = (Vec::new(), 0);
        loop {
            let page = self.journal.read(from, 10).await.unwrap();
            if page.is_empty() {
                return leaves;
            }
            from += u64::try_from(page.len()).unwrap();
            leaves.extend(page.iter().map(|line| Hash::leaf(line.as_bytes())));
        }
    }

    async fn checkpoint(&self) -> Checkpoint {
        let note = self.journal.checkpoint().await.unwrap();
        Checkpoint::open(&note, Some(&self.verifier)).unwrap()
    }
}

fn signer() -> NoteSigner {
    NoteSigner::from_seed("dayfly.test/journal", &[7; 32]).unwrap()
}

fn record(n: u64) -> Record {
    let mut record = Record::new(Verb::Issue, Outcome::Permitted, Timestamp::from_secs(n));
    record.reason = Some(format!("line one\nline two \u{2028} \"{n}\""));
    record
}

async fn gives_each_record_its_place(at: Fixture) {
    for n in 0..40 {
        assert_eq!(at.append(n).await, n);
    }
    let lines = at.journal.read(0, 100).await.unwrap();
    let expected: Vec<_> = (0..40).map(|n| record(n).to_line().unwrap()).collect();
    assert_eq!(lines, expected);
}

async fn gives_concurrent_records_a_place_each(at: Fixture) {
    let mut places = join_all((0..64).map(|n| at.append(n))).await;
    let lines = at.journal.read(0, 100).await.unwrap();
    for (n, &place) in (0..).zip(&places) {
        assert_eq!(
            lines[usize::try_from(place).unwrap()],
            record(n).to_line().unwrap()
        );
    }
    places.sort_unstable();
    assert_eq!(places, Vec::from_iter(0..64));
}

async fn reads_from_anywhere_and_no_more_than_asked_for(at: Fixture) {
    assert!(at.journal.read(0, 10).await.unwrap().is_empty());
    for n in 0..30 {
        at.append(n).await;
    }
    for from in 0..30 {
        let lines = at.journal.read(from, 2).await.unwrap();
        assert!((1..=2).contains(&lines.len()));
        assert_eq!(Record::from_line(&lines[0]).unwrap(), record(from));
    }
    assert!(at.journal.read(5, 0).await.unwrap().is_empty());
    for beyond in [30, 31, u64::MAX] {
        assert!(at.journal.read(beyond, 10).await.unwrap().is_empty());
    }
}

async fn signs_the_root_over_every_record_before(at: Fixture) {
    let empty = at.checkpoint().await;
    assert_eq!((empty.size, empty.root), (0, Hash::empty()));
    for n in 0..20 {
        at.append(n).await;
        let checkpoint = at.checkpoint().await;
        assert_eq!(
            (checkpoint.size, checkpoint.root),
            (n + 1, root(&at.leaves().await))
        );
    }
}

async fn proves_records_and_its_own_growth(at: Fixture) {
    let mut earlier = Vec::new();
    for n in 0..20 {
        at.append(n).await;
        earlier.push(at.checkpoint().await);
    }
    let (leaves, newest) = (at.leaves().await, at.checkpoint().await);
    for (index, checkpoint) in earlier.iter().enumerate() {
        let proof = prove_inclusion(&leaves, index).unwrap();
        let place = u64::try_from(index).unwrap();
        assert!(verify_inclusion(
            leaves[index],
            place,
            newest.size,
            newest.root,
            &proof
        ));
        let proof = prove_consistency(&leaves, index + 1).unwrap();
        let (old, new) = ((checkpoint.size, checkpoint.root), (newest.size, newest.root));
        assert!(verify_consistency(old, new, &proof));
    }
}

async fn a_record_that_is_too_large_takes_no_place(at: Fixture) {
    let mut large = record(0);
    large.reason = Some("a".repeat(Record::MOST_BYTES));
    let refused = at.journal.append(large.into()).await;
    assert!(matches!(refused, Err(JournalError::TooLarge)));
    assert_eq!(at.append(0).await, 0);

    let room = Record::MOST_BYTES - record(0).to_line().unwrap().len();
    let mut largest = record(0);
    largest.reason = Some(largest.reason.unwrap() + &"a".repeat(room));
    assert_eq!(at.journal.append(largest.into()).await.unwrap(), 1);
    assert_eq!(at.journal.read(1, 1).await.unwrap()[0].len(), Record::MOST_BYTES);
}

macro_rules! journal_contract {
    ($($promise:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test]
            async fn $promise() {
                super::$promise(super::Fixture::memory()).await;
            })*
        }
        mod file {
            $(#[tokio::test]
            async fn $promise() {
                super::$promise(super::Fixture::file()).await;
            })*
        }
    };
}

journal_contract!(
    gives_each_record_its_place,
    gives_concurrent_records_a_place_each,
    reads_from_anywhere_and_no_more_than_asked_for,
    signs_the_root_over_every_record_before,
    proves_records_and_its_own_growth,
    a_record_that_is_too_large_takes_no_place,
);
