//! What must hold however steps interleave.

use std::collections::HashSet;
use std::sync::Arc;

use dayfly::ledger::{Budget, Budgets, Claim, Ledger, LedgerError, Refusal};
use dayfly::model::ids::Slot;
use dayfly::model::lease::{Cause, Handle};
use dayfly::model::task::{Outcome, Task, TaskChange};
use tokio::task::JoinSet;

use super::{
    HOLD, NO_FACTS, START, Shorthand as _, UNLIMITED, active_at, at, key, lease_at, most, refusal, task_in,
};

type Subject = Arc<dyn Ledger>;

/// Issuing races ending, in 64 tasks at once. Whatever got in, nothing is active after the end.
pub(super) async fn no_lease_is_active_after_the_end(ledger: Subject) {
    let mut runs = JoinSet::new();
    for number in 0..64 {
        let ledger = Arc::clone(&ledger);
        runs.spawn(async move {
            let task = ledger.opened(task_in(Slot::new(number * 61), START)).await;
            let mut issuing = JoinSet::new();
            for turn in 0..4 {
                let (ledger, lease) = (Arc::clone(&ledger), lease_at(&task, at(1)));
                let token = active_at(&task, at(1));
                issuing.spawn(async move {
                    if turn % 2 == 0 {
                        let issued = ledger.try_hold(&token).await;
                        return (token.id, issued.is_ok(), issued.is_ok());
                    }
                    let reserved = ledger.try_hold(&lease).await.is_ok();
                    let handle = Handle("h".to_owned());
                    let active = reserved && ledger.activate(lease.id, &handle, at(100)).await.is_ok();
                    (lease.id, reserved, active)
                });
            }
            tokio::task::yield_now().await;
            ledger
                .advanced(&task, TaskChange::End(Outcome::Completed), at(2))
                .await;
            // From here on the task has ended, and the issuers may still be running.
            let issued = issuing.join_all().await;
            for (id, reserved, active) in issued {
                assert!(reserved || !active);
                let lease = ledger.lease(id).await.unwrap();
                assert_eq!(
                    lease.is_some(),
                    reserved,
                    "written down exactly when it was answered"
                );
                if let Some(lease) = lease {
                    assert_eq!(lease.state.as_str(), "revoking", "{lease:?}");
                }
            }
        });
    }
    runs.join_all().await;
}

/// Many tasks are opened at once where there is room for one.
pub(super) async fn one_of_many_openings_gets_the_last_place(ledger: Subject) {
    let mut opening = JoinSet::new();
    for _ in 0..32 {
        let (ledger, task) = (Arc::clone(&ledger), task_in(Slot::new(5), START));
        opening.spawn(async move { ledger.open(&task, Some(1), None).await });
    }
    let opened = opening.join_all().await;
    assert_eq!(opened.iter().filter(|opened| opened.is_ok()).count(), 1);
    for refused in opened.into_iter().filter(Result::is_err) {
        let full = Refusal::Budget {
            budget: Budget::OpenTasks,
            limit: 1,
        };
        assert_eq!(refusal(refused), full);
    }
}

/// Reserves one lease for each of the tasks, all at once: how many were made.
async fn reserved_at_once(ledger: &Subject, tasks: &[Task], budgets: Budgets) -> usize {
    let mut runs = JoinSet::new();
    for task in tasks {
        let (ledger, lease) = (Arc::clone(ledger), active_at(task, at(1)));
        runs.spawn(async move {
            let reserved = ledger.reserve(&lease, &budgets, None, NO_FACTS).await;
            match reserved {
                Ok(_) => true,
                Err(LedgerError::Refused(Refusal::Budget { .. })) => false,
                Err(error) => panic!("{error}"),
            }
        });
    }
    runs.join_all().await.into_iter().filter(|made| *made).count()
}

pub(super) async fn the_task_budget_holds_in_a_race(ledger: Subject) {
    let task = ledger.open_task().await;
    let budgets = Budgets {
        task: Some(5),
        ..UNLIMITED
    };
    let tasks = vec![task; 40];
    assert_eq!(reserved_at_once(&ledger, &tasks, budgets).await, 5);
}

pub(super) async fn the_agent_budget_holds_in_a_race_of_its_tasks(ledger: Subject) {
    let mut tasks = Vec::new();
    for slot in 0..40 {
        tasks.push(ledger.opened(task_in(Slot::new(slot), START)).await);
    }
    let budgets = Budgets {
        agent: Some(5),
        ..UNLIMITED
    };
    assert_eq!(reserved_at_once(&ledger, &tasks, budgets).await, 5);
}

pub(super) async fn a_lease_is_claimed_by_one(ledger: Subject) {
    let task = ledger.open_task().await;
    for _ in 0..40 {
        let lease = ledger.hold(active_at(&task, at(1))).await;
        ledger.revoke(lease.id, Cause::Revoked, at(2)).await.unwrap();
    }
    let mut reapers = JoinSet::new();
    for _ in 0..8 {
        let ledger = Arc::clone(&ledger);
        reapers.spawn(async move { ledger.claim_due(at(2), HOLD, most()).await.unwrap() });
    }
    let claims: Vec<_> = reapers.join_all().await.into_iter().flatten().collect();
    let ids: HashSet<_> = claims
        .iter()
        .map(|claim| match claim {
            Claim::Lease(claim) => claim.lease.id,
            Claim::Task(..) => panic!("no task is due"),
        })
        .collect();
    assert_eq!((claims.len(), ids.len()), (40, 40));
}

pub(super) async fn a_key_makes_one_lease(ledger: Subject) {
    let task = ledger.open_task().await;
    let mut runs = JoinSet::new();
    for _ in 0..16 {
        let (ledger, lease) = (Arc::clone(&ledger), active_at(&task, at(1)));
        runs.spawn(async move {
            let reserved = ledger
                .reserve(&lease, &UNLIMITED, Some(&key(1, 1)), NO_FACTS)
                .await;
            if reserved.is_ok() {
                return (Some(lease.id), lease.id);
            }
            match refusal(reserved) {
                Refusal::Repeated(first) => (None, first),
                other => panic!("{other}"),
            }
        });
    }
    let answers = runs.join_all().await;
    let made: Vec<_> = answers.iter().filter_map(|(made, _)| *made).collect();
    assert_eq!(made.len(), 1);
    assert!(answers.iter().all(|(_, first)| *first == made[0]));
}

pub(super) async fn the_ledger_answers_a_ping(ledger: Subject) {
    ledger.ping().await.unwrap();
    ledger.ping().await.unwrap();
}
