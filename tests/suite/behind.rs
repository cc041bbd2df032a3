//! A ledger that does not know what the journal knows: found at the start, however little it is.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use dayfly::ledger::embedded::{self, Embedded};
use dayfly::ledger::lineage::Loss;
use dayfly::ledger::{Cursor, Ledger};
use dayfly::model::cutoff::Selector;
use dayfly::model::ids::{LeaseId, TaskId};
use dayfly::model::lease::LeaseState;
use dayfly::model::task::Outcome;
use dayfly::provider::Providers;
use tempfile::TempDir;

use crate::contract::provider::Permissive;
use crate::world::{Plan, World};

const AGENT: &str = "support-bot";
const RETENTION: Duration = Duration::from_secs(7 * 24 * 3600);

/// A world whose ledger is in a file.
struct Filed {
    world: World,
    folder: TempDir,
    copies: Mutex<u32>,
}

impl Filed {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let ledger = Embedded::open(&path, embedded::Config::default()).unwrap();
        let world = World::of(Plan {
            ledger: Box::new(|_| Arc::new(ledger)),
            ..Plan::default()
        });
        Self {
            world,
            folder,
            copies: Mutex::default(),
        }
    }

    async fn issued(&self) -> (TaskId, LeaseId) {
        let task = self.world.open(AGENT, &["crm:read"]).await.charter.id;
        let lease = self.world.issue(AGENT, task, "crm:read").await.unwrap().lease;
        (task, lease.id)
    }

    /// The ledger as it is now, to be put back later.
    fn copy(&self) -> Arc<dyn Ledger> {
        let mut copies = self.copies.lock().unwrap();
        *copies += 1;
        let copy = self.folder.path().join(format!("copy {copies}"));
        std::fs::copy(self.folder.path().join("ledger"), &copy).unwrap();
        Arc::new(Embedded::open(&copy, embedded::Config::default()).unwrap())
    }

    /// What a start finds with this ledger and the whole journal.
    async fn starts_with(&self, ledger: &Arc<dyn Ledger>) -> Option<Loss> {
        let rules = World::rules([], Permissive);
        let broker = self
            .world
            .process(ledger.clone(), &rules, Providers::new([]), None);
        let lines = self.world.journal.lines();
        broker.compare_with_journal(&lines, RETENTION).await.unwrap();
        broker.quarantine()
    }
}

async fn state(ledger: &Arc<dyn Ledger>, id: LeaseId) -> LeaseState {
    ledger.lease(id).await.unwrap().unwrap().state
}

#[tokio::test]
async fn an_end_that_was_lost_is_a_loss() {
    let filed = Filed::new();
    let (_, lease) = filed.issued().await;
    let caller = filed.world.caller(AGENT).await;
    let active = filed.copy();
    let revoked = filed
        .world
        .broker
        .revoke(&caller, lease, "done", filed.world.request());
    revoked.await.unwrap();
    let revoking = filed.copy();
    filed.world.reap().await;
    assert_eq!(filed.starts_with(&active).await, Some(Loss::Behind));
    assert_eq!(filed.starts_with(&revoking).await, None, "it goes on to its end");
    assert_eq!(filed.starts_with(&filed.copy()).await, None);
}

#[tokio::test]
async fn a_task_whose_end_was_lost_is_a_loss() {
    let filed = Filed::new();
    let (task, _) = filed.issued().await;
    let caller = filed.world.caller(AGENT).await;
    let open = filed.copy();
    let (outcome, request) = (Outcome::Completed, filed.world.request());
    let broker = &filed.world.broker;
    broker
        .complete(&caller, task, outcome, Duration::ZERO, request)
        .await
        .unwrap();
    assert_eq!(filed.starts_with(&open).await, Some(Loss::Behind));
    assert_eq!(filed.starts_with(&filed.copy()).await, None);
}

#[tokio::test]
async fn a_kill_order_that_was_lost_is_a_loss() {
    let filed = Filed::new();
    let operator = filed.world.caller("ops-console").await;
    let (before, again) = (filed.copy(), filed.copy());
    let (agent, request) = (AGENT.parse().unwrap(), filed.world.request());
    let revoked = filed
        .world
        .broker
        .revoke_all(&operator, Selector::Agent(agent), "incident", request);
    revoked.await.unwrap();
    assert_eq!(filed.starts_with(&before).await, Some(Loss::Behind));
    assert_eq!(filed.starts_with(&filed.copy()).await, None);
    // By the clock of another broker it is so old that the ledger forgets it.
    filed.world.clock.advance(RETENTION - Duration::from_secs(60));
    assert_eq!(filed.starts_with(&again).await, None);
}

#[tokio::test]
async fn a_renewal_that_was_lost_is_a_loss_unless_it_was_under_way() {
    let filed = Filed::new();
    let (_, lease) = filed.issued().await;
    let before = [filed.copy(), filed.copy()];
    filed.world.clock.advance(Duration::from_secs(30));
    let renew = async || {
        let caller = filed.world.caller(AGENT).await;
        let renewed = filed
            .world
            .broker
            .renew(caller, lease, None, filed.world.request());
        renewed.await.unwrap();
    };
    renew().await;
    // It may have been handed out, so it ends.
    assert_eq!(filed.starts_with(&before[0]).await, None);
    assert!(matches!(state(&before[0], lease).await, LeaseState::Revoking(_)));
    let changes = before[0]
        .changes(&Cursor::default(), Duration::ZERO)
        .await
        .unwrap();
    assert_eq!(changes.cutoffs[0].selector, Selector::Lease(lease));
    filed.world.clock.advance(Duration::from_secs(61));
    filed.issued().await;
    assert_eq!(filed.starts_with(&before[1]).await, Some(Loss::Behind));
    let whole = filed.copy();
    assert_eq!(filed.starts_with(&whole).await, None);
    assert_eq!(state(&whole, lease).await, LeaseState::Active);
}
