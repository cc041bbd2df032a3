//! A ledger that was lost: what it refuses, what it still does, and how it comes back.

use std::sync::Arc;
use std::time::Duration;

use dayfly::ledger::lineage::{Epoch, Loss, Standing, Watched, Writer};
use dayfly::ledger::{Ledger, LedgerError};
use dayfly::model::cutoff::Selector;
use dayfly::model::ids::Slot;
use dayfly::model::lease::{Cause, Handle, Lease, LeaseState};
use dayfly::model::task::{Outcome, TaskChange, TaskState};

use super::{
    Shorthand as _, active_at, at, cause_of, cutoff, ended, lease_at, secs, task_at, task_in, until,
};

type Subject = Arc<dyn Ledger>;

/// The writer of the ledgers under test.
pub(super) const WRITER: Writer = Writer(0);

/// Of a recovery: later than that of a new ledger.
pub(super) const fn epoch(number: u64) -> Epoch {
    Epoch((1 << 60) + number)
}

#[track_caller]
pub(super) fn lost<T: std::fmt::Debug>(result: Result<T, LedgerError>) -> Loss {
    match result {
        Err(LedgerError::Lost(loss)) => loss,
        other => panic!("not lost: {other:?}"),
    }
}

pub(super) async fn a_condemned_ledger_ends_and_gives_nothing_out(ledger: Subject) {
    let task = ledger.open_task().await;
    let active = ledger.hold(active_at(&task, at(1))).await;
    let reserved = ledger.hold(lease_at(&task, at(1))).await;
    ledger.condemn(Loss::Behind).await.unwrap();
    assert_eq!(ledger.loss(), Some(Loss::Behind));
    let handle = Handle("h".to_owned());
    for refused in [
        ledger.open(&task_at(at(2)), None, None).await.map(drop),
        ledger.try_hold(&active_at(&task, at(2))).await,
        ledger.name(reserved.id, &handle).await,
        ledger.activate(reserved.id, &handle, at(9)).await,
        ledger.renew(active.id, until(900), at(2)).await.map(drop),
        ledger.live(active.id, at(2)).await.map(drop),
    ] {
        assert_eq!(lost(refused), Loss::Behind);
    }
    assert_eq!(ledger.watch().await.unwrap(), Watched::Lost(Loss::Behind));

    ledger
        .cut(&cutoff(Selector::Agent(active.agent.clone()), at(2), at(2)))
        .await
        .unwrap();
    ledger.revoke(active.id, Cause::Revoked, at(2)).await.unwrap();
    ledger
        .advance(task.charter.id, TaskChange::End(Outcome::Completed), at(3))
        .await
        .unwrap();
    let due = ledger.due_leases(at(3)).await;
    assert_eq!(due.len(), 2);
    for claim in due {
        ledger.settle(&claim, ended(at(3)), at(3)).await.unwrap();
    }
    assert_eq!(ledger.told().await.len(), 3);
}

pub(super) async fn a_recovery_brings_back_those_whom_it_entered(ledger: Subject) {
    let Watched::Whole(before) = ledger.watch().await.unwrap() else {
        panic!("a new ledger is whole");
    };
    ledger.condemn(Loss::RolledBack).await.unwrap();
    ledger.begin_epoch(epoch(1), &[Writer(5)].into()).await.unwrap();
    assert_eq!(ledger.watch().await.unwrap(), Watched::Lost(Loss::RolledBack));
    lost(ledger.rejoin().await);
    lost(ledger.open(&task_at(at(0)), None, None).await);

    ledger
        .begin_epoch(epoch(2), &[Writer(5), WRITER].into())
        .await
        .unwrap();
    assert_eq!(ledger.watch().await.unwrap(), Watched::Recovered);
    lost(ledger.open(&task_at(at(0)), None, None).await); // until it is taken into use
    ledger.rejoin().await.unwrap();
    let task = ledger.open_task().await;
    ledger.hold(active_at(&task, at(1))).await;
    let Watched::Whole(after) = ledger.watch().await.unwrap() else {
        panic!("a recovered ledger is whole");
    };
    assert_eq!(after.epoch, epoch(2));
    let remembered = dayfly::ledger::lineage::Memory::Mark(before);
    let standing = ledger.judge(WRITER, &remembered).await.unwrap();
    assert_eq!(standing, Standing::Recovered(epoch(2)));
    let standing = ledger.judge(Writer(6), &remembered).await.unwrap();
    assert_eq!(
        standing,
        Standing::Lost(Loss::Replaced),
        "its journal was not read"
    );

    // A recovery that nobody here knew to be needed is not passed over.
    ledger.begin_epoch(epoch(3), &[WRITER].into()).await.unwrap();
    assert_eq!(ledger.watch().await.unwrap(), Watched::Recovered);
    assert!(ledger.loss().is_some());
    ledger.rejoin().await.unwrap();
    ledger.hold(active_at(&task, at(1))).await;

    // What it was in an epoch of before is no recovery, whoever is entered there.
    ledger.begin_epoch(epoch(1), &[WRITER].into()).await.unwrap();
    assert_eq!(
        lost(ledger.try_hold(&active_at(&task, at(1))).await),
        Loss::RolledBack
    );
    assert_eq!(ledger.watch().await.unwrap(), Watched::Lost(Loss::RolledBack));
    lost(ledger.rejoin().await);
}

pub(super) async fn an_adopted_lease_is_due_at_once(ledger: Subject) {
    let task = task_at(at(0)); // which the ledger does not know
    let state = dayfly::ledger::rules::revoking(Cause::Recovered, at(5));
    let lease = Lease {
        state,
        ..lease_at(&task, at(1))
    };
    assert!(ledger.adopt(&lease).await.unwrap());
    assert!(!ledger.adopt(&lease).await.unwrap(), "it is there");
    assert_eq!(ledger.stored(lease.id).await, lease);
    let found = dayfly::ledger::Filter {
        agent: Some(lease.agent.clone()),
        ..Default::default()
    };
    let page = dayfly::ledger::Page {
        after: None,
        limit: super::most(),
    };
    assert_eq!(
        ledger.find(&found, &page).await.unwrap(),
        std::slice::from_ref(&lease)
    );
    let due = ledger.due_leases(at(5)).await;
    assert_eq!(due.len(), 1);
    assert_eq!(cause_of(&due[0].lease), Some(Cause::Recovered));
    ledger.settle(&due[0], ended(at(6)), at(6)).await.unwrap();
    assert!(!ledger.adopt(&lease).await.unwrap(), "what ended stays ended");
    assert_eq!(ledger.stored(lease.id).await.state.as_str(), "ended");
    assert!(
        ledger
            .due(at(6).plus(super::RETENTION + secs(1)))
            .await
            .is_empty()
    );

    let active = active_at(&task, at(1));
    assert!(ledger.adopt(&active).await.is_err(), "it does not have to end");
}

pub(super) async fn every_task_ends_with_a_recovery(ledger: Subject) {
    let mut tasks = Vec::new();
    for slot in 0..40 {
        tasks.push(ledger.opened(task_in(Slot::new(slot), at(0))).await);
    }
    let lease = ledger.hold(active_at(&tasks[3], at(1))).await;
    ledger
        .advanced(&tasks[7], TaskChange::End(Outcome::Completed), at(1))
        .await;
    assert_eq!(ledger.end_tasks(at(2)).await.unwrap(), 39);
    assert_eq!(ledger.end_tasks(at(2)).await.unwrap(), 0);
    for task in &tasks {
        let task = ledger.task(task.charter.id).await.unwrap().unwrap();
        assert!(matches!(task.state, TaskState::Ended { .. }), "{task:?}");
    }
    assert!(matches!(
        ledger.stored(lease.id).await.state,
        LeaseState::Revoking(_)
    ));
}

pub(super) async fn what_is_answered_is_remembered(ledger: Subject) {
    let mark = async || match ledger.watch().await.unwrap() {
        Watched::Whole(mark) => mark,
        other => panic!("{other:?}"),
    };
    let before = mark().await;
    let task = ledger.open_task().await;
    let opened = mark().await;
    ledger.hold(active_at(&task, at(1))).await;
    let held = mark().await;
    ledger.cut(&cutoff(Selector::All, at(1), at(1))).await.unwrap();
    let cut = mark().await;
    let sum = |mark: &dayfly::ledger::lineage::Mark| mark.progress.iter().sum::<u64>();
    for (earlier, later) in [(&before, &opened), (&opened, &held), (&held, &cut)] {
        assert_eq!(earlier.epoch, later.epoch);
        assert!(sum(earlier) < sum(later), "{earlier:?} {later:?}");
    }
    assert!(ledger.changes(&Default::default(), Duration::ZERO).await.is_ok());
}
