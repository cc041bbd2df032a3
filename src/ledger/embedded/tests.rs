//! What the contract does not ask for: crashes, full disks, damage, and that nothing is left behind.

use std::io;
use std::sync::{Mutex, MutexGuard};

use redb::{ReadableTable as _, ReadableTableMetadata as _, StorageBackend, TableHandle as _};

use super::layout::{FORMAT, LEASES, META};
use super::*;
use crate::ledger::{Refusal, StateName, rules};
use crate::model::access::{Access, Scope};
use crate::model::cutoff::Selector;
use crate::model::fact::FactsVersion;
use crate::model::ids::DecisionId;
use crate::model::lease::{Ending, LeaseState, Receipt, ReceiptSignature};
use crate::model::task::{Charter, Outcome, TaskState};
use crate::model::ttl::Bound;

const START: Timestamp = Timestamp::from_millis(1_795_329_000_250);
const CONFIG: Config = Config {
    retention: Duration::from_secs(3600),
    cache: 4 << 20,
    writer: Author(0),
    memory: Memory::Nothing,
};

fn at(seconds: u64) -> Timestamp {
    START.plus(Duration::from_secs(seconds))
}

fn task(number: u8) -> Task {
    let access = Access::new(
        "crm".parse().unwrap(),
        ["read".parse().unwrap()].into(),
        [].into(),
    )
    .unwrap();
    Task {
        charter: Charter {
            id: TaskId::new(START, [number; 10]),
            agent: "support-bot".parse().unwrap(),
            environment: "production".parse().unwrap(),
            trust_domain: None,
            subject: "support".to_owned(),
            delegators: Vec::new(),
            purpose: "answer a ticket".parse().unwrap(),
            scope: Scope::new(vec![access]).unwrap(),
            on_behalf_of: Some("user-1".parse().unwrap()),
            opened_at: START,
            deadline: at(600),
            heartbeat: None,
        },
        state: TaskState::Open,
        beat_at: START,
    }
}

fn lease(task: &Task, number: u8) -> Lease {
    Lease {
        id: LeaseId::new(task.charter.id, at(1), [number; 10]),
        task: task.charter.id,
        agent: task.charter.agent.clone(),
        environment: task.charter.environment.clone(),
        trust_domain: None,
        on_behalf_of: task.charter.on_behalf_of.clone(),
        delegators: Vec::new(),
        tool: "crm".parse().unwrap(),
        actions: ["read".parse().unwrap()].into(),
        resources: [].into(),
        provider: "jwt".parse().unwrap(),
        handle: None,
        ending: Ending::DenyListed,
        decision: DecisionId::new(START, [number; 10]),
        issued_at: at(1),
        expires_at: at(300),
        bounded_by: Bound::Default,
        requested: None,
        vouched: None,
        curtailed: None,
        listing: Default::default(),
        state: LeaseState::Active,
    }
}

fn key(number: u8) -> IdempotencyKey {
    IdempotencyKey {
        key: [number; 32],
        content: [number; 32],
    }
}

async fn reserve(ledger: &Embedded, lease: &Lease) -> Result<(), LedgerError> {
    ledger
        .reserve(lease, &Budgets::default(), None, FactsVersion::default())
        .await
        .map(drop)
}

/// A disk in memory that forgets what was not flushed when the power goes, and that can be full.
#[derive(Debug, Default, Clone)]
struct Disk(Arc<Mutex<Platters>>);

#[derive(Debug, Default)]
struct Platters {
    written: Vec<u8>,
    flushed: Vec<u8>,
    full: bool,
}

impl Disk {
    fn platters(&self) -> MutexGuard<'_, Platters> {
        self.0.lock().unwrap()
    }

    /// The disk as it is found after the power went at this instant.
    fn after_power_loss(&self) -> Self {
        let flushed = self.platters().flushed.clone();
        Self(Arc::new(Mutex::new(Platters {
            written: flushed.clone(),
            flushed,
            full: false,
        })))
    }

    fn ledger(&self) -> Result<Embedded, LedgerError> {
        let disk = self.clone();
        let open = move || Ok(redb::Builder::new().create_with_backend(disk.clone())?);
        Embedded::on(Store::new(Box::new(open))?, &CONFIG)
    }

    fn fill(&self, full: bool) {
        self.platters().full = full;
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.platters().written.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap();
        out.copy_from_slice(&self.platters().written[start..start + out.len()]);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.platters().written.resize(usize::try_from(len).unwrap(), 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut platters = self.platters();
        platters.flushed = platters.written.clone();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut platters = self.platters();
        if platters.full {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        let start = usize::try_from(offset).unwrap();
        platters.written[start..start + data.len()].copy_from_slice(data);
        Ok(())
    }
}

#[tokio::test]
async fn every_answered_step_survives_a_power_loss() {
    let disk = Disk::default();
    let ledger = disk.ledger().unwrap();
    let task = task(1);
    ledger.open(&task, None, Some(&key(1))).await.unwrap();
    let after = disk.after_power_loss().ledger().unwrap();
    assert_eq!(after.task(task.charter.id).await.unwrap(), Some(task.clone()));
    let repeated = after.open(&task, None, Some(&key(1))).await.unwrap();
    assert_eq!(repeated, Opened::Repeated(Box::new(task.clone())));

    let lease = lease(&task, 1);
    reserve(&ledger, &lease).await.unwrap();
    let after = disk.after_power_loss().ledger().unwrap();
    assert_eq!(after.lease(lease.id).await.unwrap(), Some(lease.clone()));

    let revoked = ledger.revoke(lease.id, Cause::Revoked, at(2)).await.unwrap();
    let after = disk.after_power_loss().ledger().unwrap();
    assert_eq!(after.lease(lease.id).await.unwrap(), Some(revoked.clone()));
    let claims = after
        .claim_due(at(2), Duration::from_secs(9), NonZeroUsize::MIN)
        .await
        .unwrap();
    let (lease, hold) = (rules::next_due(revoked, at(11)), 1);
    assert_eq!(claims, [Claim::Lease(Box::new(LeaseClaim { lease, hold }))]);
    let feed = after.changes(&Cursor::default(), Duration::ZERO).await.unwrap();
    assert_eq!(feed.cutoffs.len(), 1);

    ledger
        .advance(task.charter.id, TaskChange::End(Outcome::Failed), at(3))
        .await
        .unwrap();
    let after = disk.after_power_loss().ledger().unwrap();
    let refused = reserve(&after, &self::lease(&task, 2)).await;
    assert!(
        matches!(refused, Err(LedgerError::Refused(Refusal::TaskNotOpen(_)))),
        "{refused:?}"
    );
    let goes_on = after.changes(&feed.next, Duration::ZERO).await.unwrap();
    assert_eq!(goes_on.cutoffs.len(), 1, "a cursor outlives the process");
}

#[tokio::test]
async fn a_file_left_open_by_a_killed_process_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let (path, left) = (folder.path().join("ledger.redb"), folder.path().join("left.redb"));
    let ledger = Embedded::open(&path, CONFIG).unwrap();
    let task = task(1);
    ledger.open(&task, None, None).await.unwrap();
    for number in 0..20 {
        reserve(&ledger, &lease(&task, number)).await.unwrap();
    }
    std::fs::copy(&path, &left).unwrap(); // what a killed process leaves, without closing anything
    let second = Embedded::open(&path, CONFIG);
    assert!(
        matches!(second, Err(LedgerError::Unavailable(_))),
        "one process at a time"
    );

    let left = Embedded::open(&left, CONFIG).unwrap();
    let page = Page {
        after: None,
        limit: NonZeroUsize::MAX,
    };
    assert_eq!(left.find(&Filter::default(), &page).await.unwrap().len(), 20);
    drop(ledger);
    let again = Embedded::open(&path, CONFIG).unwrap();
    assert_eq!(again.find(&Filter::default(), &page).await.unwrap().len(), 20);
}

#[tokio::test]
async fn a_full_disk_refuses_and_is_tried_again() {
    let disk = Disk::default();
    let ledger = disk.ledger().unwrap();
    let task = task(1);
    ledger.open(&task, None, None).await.unwrap();
    let first = lease(&task, 1);
    reserve(&ledger, &first).await.unwrap();

    disk.fill(true);
    for _ in 0..2 {
        let failed = reserve(&ledger, &lease(&task, 2)).await;
        assert!(matches!(failed, Err(LedgerError::Unavailable(_))), "{failed:?}");
    }
    assert!(ledger.ping().await.is_err(), "and says so");

    disk.fill(false);
    // The first step after it may meet the file still closed; the one after that does not.
    let _ = ledger.ping().await;
    ledger.ping().await.unwrap();
    assert_eq!(ledger.lease(first.id).await.unwrap(), Some(first));
    assert_eq!(
        ledger.lease(lease(&task, 2).id).await.unwrap(),
        None,
        "not half made"
    );
    reserve(&ledger, &lease(&task, 2)).await.unwrap();
}

/// Overwrites the record of a lease behind the ledger's back.
fn damage(ledger: &Embedded, id: LeaseId) {
    let transaction = ledger.store.write().unwrap();
    let mut leases = transaction.open_table(LEASES).unwrap();
    let (due, hold) = {
        let row = leases.get(&id.to_bytes()).unwrap().unwrap();
        (row.value().0, row.value().1)
    };
    leases
        .insert(&id.to_bytes(), (due, hold, [1, 2, 3].as_slice()))
        .unwrap();
    drop(leases);
    transaction.commit().unwrap();
}

#[tokio::test]
async fn a_damaged_record_stops_its_own_step_only() {
    let ledger = Embedded::in_memory(CONFIG).unwrap();
    let (sound, hurt) = (task(1), task(2));
    for task in [&sound, &hurt] {
        ledger.open(task, None, None).await.unwrap();
        for number in 1..=3 {
            reserve(&ledger, &lease(task, number)).await.unwrap();
        }
    }
    damage(&ledger, lease(&hurt, 2).id);
    let read = ledger.lease(lease(&hurt, 2).id).await;
    assert!(matches!(read, Err(LedgerError::Corrupt(_))), "{read:?}");

    // While the writer is kept busy, the others gather to one group.
    let (release, gate) = std::sync::mpsc::channel::<()>();
    let busy = ledger.step(move |_| Ok(gate.recv().is_ok()));
    let end = |task: &Task| ledger.advance(task.charter.id, TaskChange::End(Outcome::Failed), at(2));
    let new = lease(&sound, 9);
    let released = async { drop(release) };
    let (busy, before, failed, after, ()) =
        tokio::join!(busy, reserve(&ledger, &new), end(&hurt), end(&sound), released);
    assert!(!busy.unwrap());
    before.unwrap();
    assert!(matches!(failed, Err(LedgerError::Corrupt(_))), "{failed:?}");
    after.unwrap();

    let stands = ledger.task(hurt.charter.id).await.unwrap().unwrap();
    assert_eq!(stands.state, TaskState::Open, "its own step was not half made");
    let first = ledger.lease(lease(&hurt, 1).id).await.unwrap().unwrap();
    assert_eq!(first.state, LeaseState::Active);
    let revoking = ledger.lease(new.id).await.unwrap().unwrap();
    assert_eq!(revoking.state.as_str(), "revoking");
}

#[tokio::test]
async fn an_unknown_layout_is_not_touched() {
    let disk = Disk::default();
    let ledger = disk.ledger().unwrap();
    let transaction = ledger.store.write().unwrap();
    transaction.open_table(META).unwrap().insert(FORMAT, 7).unwrap();
    transaction.commit().unwrap();
    drop(ledger);
    let error = disk.ledger().unwrap_err().to_string();
    assert!(error.contains("layout is 7"), "{error}");
}

#[tokio::test]
async fn a_cursor_of_another_ledger_starts_over() {
    let (ledger, other) = (
        Embedded::in_memory(CONFIG).unwrap(),
        Embedded::in_memory(CONFIG).unwrap(),
    );
    let all = Cutoff {
        selector: Selector::All,
        up_to: START,
        at: START,
        cause: Cause::Cutoff,
    };
    ledger.cut(&all).await.unwrap();
    other.cut(&all).await.unwrap();
    let theirs = other
        .changes(&Cursor::default(), Duration::ZERO)
        .await
        .unwrap()
        .next;
    let changes = ledger.changes(&theirs, Duration::ZERO).await.unwrap();
    assert_eq!(changes.cutoffs, [all], "the same number, in another ledger");
}

#[tokio::test]
async fn nothing_is_left_of_what_was_forgotten() {
    let ledger = Embedded::in_memory(CONFIG).unwrap();
    let task = task(1);
    ledger.open(&task, None, Some(&key(1))).await.unwrap();
    for number in 1..=4 {
        let lease = lease(&task, number);
        ledger
            .reserve(
                &lease,
                &Budgets::default(),
                Some(&key(number)),
                FactsVersion::default(),
            )
            .await
            .unwrap();
    }
    ledger
        .revoke(lease(&task, 1).id, Cause::Revoked, at(2))
        .await
        .unwrap();
    ledger
        .advance(task.charter.id, TaskChange::Suspend, at(3))
        .await
        .unwrap();
    ledger
        .advance(task.charter.id, TaskChange::End(Outcome::Failed), at(4))
        .await
        .unwrap();
    let most = NonZeroUsize::new(10).unwrap();
    for claim in ledger
        .claim_due(at(5), Duration::from_secs(9), most)
        .await
        .unwrap()
    {
        let Claim::Lease(claim) = claim else {
            panic!("{claim:?}")
        };
        let signature = ReceiptSignature {
            issuer: "https://dayfly.test".to_owned(),
            key: [0; 4],
            bytes: Box::new([0; 64]),
        };
        let ended = Settlement::Ended(Receipt::DeniedAt { at: at(5) }, signature);
        ledger.settle(&claim, ended, at(5)).await.unwrap();
    }
    let ended = Filter {
        state: Some(StateName::Ended),
        ..Filter::default()
    };
    let page = Page {
        after: None,
        limit: most,
    };
    assert_eq!(ledger.find(&ended, &page).await.unwrap().len(), 4);

    let later = at(6).plus(CONFIG.retention);
    assert_eq!(ledger.claim_due(later, Duration::ZERO, most).await.unwrap(), []);
    let database = ledger.store.read().unwrap();
    for table in database.list_tables().unwrap() {
        let rows = database.open_untyped_table(table.clone()).unwrap().len().unwrap();
        assert!(
            rows == 0 || table.name() == META.name(),
            "{rows} rows in {}",
            table.name()
        );
    }
}

#[tokio::test]
async fn a_refused_step_costs_no_flush() {
    let disk = Disk::default();
    let ledger = disk.ledger().unwrap();
    let task = task(1);
    ledger.open(&task, None, None).await.unwrap();
    let flushed = disk.platters().flushed.clone();
    assert!(ledger.open(&task, None, None).await.is_err());
    assert_eq!(
        ledger
            .claim_due(at(1), Duration::ZERO, NonZeroUsize::MIN)
            .await
            .unwrap(),
        []
    );
    assert!(disk.platters().flushed == flushed);
}
