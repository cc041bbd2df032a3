//! The journal as an auditor meets it: a directory, a verifier key, and a broker that may have died.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use dayfly::entropy::OsEntropy;
use dayfly::journal::checkpoint::Checkpoint;
use dayfly::journal::file::{FileJournal, Options};
use dayfly::journal::record::{Record, Result as Outcome, Verb};
use dayfly::journal::verify::{Expected, Fault, Verified, verify};
use dayfly::journal::{Journal as _, audit_key};
use dayfly::model::time::Timestamp;

const ORIGIN: &str = "dayfly.test/journal";
const DIR: &str = "DAYFLY_TEST_JOURNAL";

fn record(n: u64) -> Record {
    Record::new(Verb::Issue, Outcome::Permitted, Timestamp::from_secs(n))
}

fn open(dir: &Path) -> FileJournal {
    let signer = audit_key::open(&dir.join("audit.key"), ORIGIN, &OsEntropy::new()).unwrap();
    let options = Options {
        segment_bytes: 8192,
        sign_records: 10,
        ..Options::default()
    };
    FileJournal::open(&dir.join("journal"), options, signer).unwrap()
}

fn check(dir: &Path, key: &str) -> Result<Verified, Fault> {
    let expected = Expected {
        key: Some(key.parse().unwrap()),
        kept: Vec::new(),
    };
    verify(&dir.join("journal"), &expected)
}

#[tokio::test]
async fn an_auditor_needs_the_directory_and_the_published_key_only() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    let key = journal.verifier().to_string();
    for n in 0..100 {
        journal.append(record(n).into()).await.unwrap();
        if n % 25 == 0 {
            check(dir.path(), &key).unwrap(); // beside the broker that writes
        }
    }
    journal.close().await.unwrap();
    let verified = check(dir.path(), &key).unwrap();
    assert_eq!((verified.records, verified.newest.size), (100, 100));

    let segment = dir.path().join("journal/00000000000000000000.jsonl");
    let lines = std::fs::read_to_string(&segment).unwrap();
    std::fs::write(&segment, lines.replacen("permitted", "denied", 1)).unwrap();
    assert_eq!(
        check(dir.path(), &key).unwrap_err().to_string(),
        "record 0 (line 1 of 00000000000000000000.jsonl) was changed"
    );
}

#[tokio::test]
async fn a_checkpoint_kept_elsewhere_outlives_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    let key = journal.verifier().clone();
    for n in 0..5 {
        journal.append(record(n).into()).await.unwrap();
    }
    let kept = Checkpoint::open(&journal.checkpoint().await.unwrap(), Some(&key)).unwrap();
    drop(journal);

    // The whole journal is written anew, with the same key and fewer records.
    std::fs::remove_dir_all(dir.path().join("journal")).unwrap();
    let journal = open(dir.path());
    journal.append(record(0).into()).await.unwrap();
    drop(journal);
    let expected = Expected {
        key: Some(key),
        kept: vec![kept],
    };
    let fault = verify(&dir.path().join("journal"), &expected).unwrap_err();
    assert_eq!(fault, Fault::RolledBack { size: 5, records: 1 });
}

#[test]
fn what_was_acknowledged_is_there_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let key = open(dir.path()).verifier().to_string();
    let mut acknowledged = 0;
    for round in 1..=3 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "journal::writes_until_it_is_killed",
                "--ignored",
                "--nocapture",
            ])
            .env(DIR, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut indices = lines.filter_map(|line| line.unwrap().strip_prefix("index ")?.parse::<u64>().ok());
        while acknowledged < round * 150 {
            acknowledged = indices.next().expect("the child writes until it is killed");
        }
        child.kill().unwrap();
        acknowledged = indices.last().unwrap_or(acknowledged);
        child.wait().unwrap();

        let verified = check(dir.path(), &key).unwrap();
        assert!(verified.records > acknowledged);
        let journal = open(dir.path());
        assert!(*journal.size().borrow() > acknowledged);
    }
    let verified = check(dir.path(), &key).unwrap();
    assert_eq!(
        verified.records, verified.newest.size,
        "opening signs what was left"
    );
}

/// The child of the test above.
#[tokio::test]
#[ignore = "runs until it is killed; another test starts it"]
async fn writes_until_it_is_killed() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let journal = open(Path::new(&dir));
    loop {
        let four = [0, 1, 2, 3].map(|n| journal.append(record(n).into()));
        for index in futures_util::future::join_all(four).await {
            println!("index {}", index.unwrap());
        }
    }
}
