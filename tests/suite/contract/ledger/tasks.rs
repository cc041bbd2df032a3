//! Opening and advancing tasks.

use std::sync::Arc;

use dayfly::ledger::{Budget, Claim, Ledger, Opened, Refusal};
use dayfly::model::cutoff::Selector;
use dayfly::model::lease::Cause;
use dayfly::model::task::{Outcome, Task, TaskChange, TaskState};
use dayfly::model::time::Timestamp;
use dayfly::model::ttl::Ttl;

use super::{
    RETENTION, START, Shorthand as _, TASK_LIFE, active_at, at, cause_of, key, lease_at, refusal, secs,
    task_at,
};

type Subject = Arc<dyn Ledger>;

pub(super) async fn a_task_is_kept_as_it_was_opened(ledger: Subject) {
    let task = ledger.open_task().await;
    assert_eq!(ledger.task(task.charter.id).await.unwrap(), Some(task));
    let unknown = task_at(START).charter.id;
    assert_eq!(ledger.task(unknown).await.unwrap(), None);
}

pub(super) async fn an_id_is_taken_once(ledger: Subject) {
    let task = ledger.open_task().await;
    assert_eq!(refusal(ledger.open(&task, None, None).await), Refusal::Exists);
}

pub(super) async fn a_repeated_opening_answers_the_first_task(ledger: Subject) {
    let (first, again) = (task_at(START), task_at(at(1)));
    assert_eq!(
        ledger.open(&first, None, Some(&key(1, 1))).await.unwrap(),
        Opened::New
    );
    let suspended = ledger.advanced(&first, TaskChange::Suspend, at(1)).await;

    let answer = ledger.open(&again, None, Some(&key(1, 1))).await.unwrap();
    assert_eq!(
        answer,
        Opened::Repeated(Box::new(suspended)),
        "the first task as it stands"
    );
    assert_eq!(ledger.task(again.charter.id).await.unwrap(), None);
    assert_eq!(
        ledger.open(&again, None, Some(&key(2, 1))).await.unwrap(),
        Opened::New
    );
}

pub(super) async fn a_key_is_not_used_for_two_openings(ledger: Subject) {
    let (first, other) = (task_at(START), task_at(START));
    ledger.open(&first, None, Some(&key(1, 1))).await.unwrap();
    assert_eq!(
        refusal(ledger.open(&other, None, Some(&key(1, 2))).await),
        Refusal::KeyReused
    );
    assert_eq!(ledger.task(other.charter.id).await.unwrap(), None);
}

pub(super) async fn a_key_lives_as_long_as_the_retention(ledger: Subject) {
    let (first, later) = (task_at(START), task_at(START.plus(RETENTION).plus(secs(2))));
    ledger.open(&first, None, Some(&key(1, 1))).await.unwrap();
    ledger.due(START.plus(RETENTION).minus(secs(1))).await;
    assert_eq!(
        refusal(ledger.open(&later, None, Some(&key(1, 2))).await),
        Refusal::KeyReused
    );
    ledger.due(START.plus(RETENTION).plus(secs(1))).await;
    assert_eq!(
        ledger.open(&later, None, Some(&key(1, 2))).await.unwrap(),
        Opened::New
    );
}

/// One here is one less everywhere.
pub(super) async fn an_agent_opens_as_many_tasks_as_it_may(ledger: Subject) {
    let open = async |task: &Task| ledger.open(task, Some(1), None).await;
    let full = Refusal::Budget {
        budget: Budget::OpenTasks,
        limit: 1,
    };
    let first = ledger.opened(task_at(START)).await;
    let next = task_at(at(1));
    assert_eq!(
        refusal(open(&next).await),
        full,
        "what was opened without a limit counts"
    );
    assert_eq!(ledger.task(next.charter.id).await.unwrap(), None);
    ledger.advanced(&first, TaskChange::Suspend, at(1)).await;
    assert_eq!(refusal(open(&next).await), full, "a suspended task has not ended");
    let mut anothers = task_at(at(1));
    anothers.charter.agent = "report-bot".parse().unwrap();
    assert_eq!(open(&anothers).await.unwrap(), Opened::New);

    let over = [
        TaskChange::End(Outcome::Completed),
        TaskChange::End(Outcome::Revoked),
        TaskChange::End(Outcome::Expired),
    ];
    let mut last = first;
    for change in over {
        let ended = ledger.advanced(&last, change, at(2)).await;
        ledger.advanced(&ended, change, at(3)).await; // ending it again frees nothing more
        let next = task_at(at(3));
        assert_eq!(open(&next).await.unwrap(), Opened::New);
        assert_eq!(refusal(open(&task_at(at(4))).await), full);
        last = next;
    }

    // Past its deadline it counts until whoever claims it ends it.
    let late = last.charter.deadline;
    assert_eq!(refusal(open(&task_at(late)).await), full);
    for claim in ledger.due(late).await {
        if let Claim::Task(task, outcome) = claim {
            ledger.advanced(&task, TaskChange::End(outcome), late).await;
        }
    }
    assert_eq!(open(&task_at(late)).await.unwrap(), Opened::New);
}

pub(super) async fn a_repeated_opening_takes_nothing_of_the_budget(ledger: Subject) {
    let first = task_at(START);
    let open = async |task: &Task, n| ledger.open(task, Some(1), Some(&key(n, 1))).await;
    assert_eq!(open(&first, 1).await.unwrap(), Opened::New);
    for _ in 0..3 {
        let again = open(&task_at(at(1)), 1).await.unwrap();
        assert_eq!(
            again,
            Opened::Repeated(Box::new(first.clone())),
            "although there is no room"
        );
    }
    let (refused, next) = (task_at(at(2)), task_at(at(3)));
    assert!(matches!(refusal(open(&refused, 2).await), Refusal::Budget { .. }));
    ledger
        .advanced(&first, TaskChange::End(Outcome::Completed), at(3))
        .await;
    assert_eq!(
        open(&next, 2).await.unwrap(),
        Opened::New,
        "the key of what was refused is still new, and one end made room"
    );
}

pub(super) async fn a_beat_is_a_sign_of_life(ledger: Subject) {
    let mut task = task_at(START);
    task.charter.heartbeat = Ttl::from_secs(60);
    let task = ledger.opened(task).await;

    let alive = ledger.advanced(&task, TaskChange::Beat, at(50)).await;
    assert_eq!(alive.beat_at, at(50));
    assert_eq!(ledger.task(task.charter.id).await.unwrap(), Some(alive.clone()));
    assert!(
        ledger.due(at(109)).await.is_empty(),
        "it would have been lost without the beat"
    );

    let late = ledger.advanced(&task, TaskChange::Beat, at(40)).await;
    assert_eq!(
        late.beat_at,
        at(50),
        "a beat that was overtaken takes nothing back"
    );
}

pub(super) async fn only_an_open_task_beats(ledger: Subject) {
    let task = ledger.open_task().await;
    let beat = async || ledger.advance(task.charter.id, TaskChange::Beat, at(3)).await;
    ledger.advanced(&task, TaskChange::Suspend, at(1)).await;
    assert_eq!(refusal(beat().await), Refusal::TaskNotOpen(TaskState::Suspended));
    let ended = ledger
        .advanced(&task, TaskChange::End(Outcome::Completed), at(2))
        .await;
    assert_eq!(refusal(beat().await), Refusal::TaskNotOpen(ended.state));
}

pub(super) async fn suspending_ends_what_is_live(ledger: Subject) {
    let task = ledger.open_task().await;
    let reserved = ledger.hold(lease_at(&task, at(1))).await;
    let active = ledger.hold(active_at(&task, at(1))).await;
    let gone = ledger.hold(active_at(&task, at(1))).await;
    ledger.end(gone.id, at(2)).await;
    let told = ledger.told().await.len();

    let suspended = ledger.advanced(&task, TaskChange::Suspend, at(3)).await;
    assert_eq!(suspended.state, TaskState::Suspended);
    for lease in [&reserved, &active] {
        assert_eq!(
            cause_of(&ledger.stored(lease.id).await),
            Some(Cause::TaskSuspended)
        );
    }
    assert_eq!(cause_of(&ledger.stored(gone.id).await), Some(Cause::Revoked));
    let news = ledger.told().await.split_off(told);
    assert_eq!(news.len(), 2, "{news:?}");
    for lease in [&reserved, &active] {
        assert!(news.contains(&Selector::Lease(lease.id)), "{news:?}");
    }
    assert_eq!(ledger.due_leases(at(3)).await.len(), 2, "due at once");

    let again = ledger.advanced(&task, TaskChange::Suspend, at(4)).await;
    assert_eq!(again, suspended, "suspending twice is no error");
    let refused = refusal(ledger.try_hold(&lease_at(&task, at(4))).await);
    assert_eq!(refused, Refusal::TaskNotOpen(TaskState::Suspended));
}

pub(super) async fn resuming_opens_again(ledger: Subject) {
    let mut task = task_at(START);
    task.charter.heartbeat = Ttl::from_secs(60);
    let task = ledger.opened(task).await;
    let before = ledger.hold(active_at(&task, at(1))).await;
    ledger.advanced(&task, TaskChange::Suspend, at(2)).await;

    let resumed = ledger.advanced(&task, TaskChange::Resume, at(300)).await;
    assert_eq!((resumed.state, resumed.beat_at), (TaskState::Open, at(300)));
    assert_eq!(
        ledger.stored(before.id).await.state.as_str(),
        "revoking",
        "what ended stays so"
    );
    ledger.hold(active_at(&task, at(301))).await;

    let again = ledger.advanced(&task, TaskChange::Resume, at(310)).await;
    assert_eq!(again, resumed, "resuming an open task changes nothing");
}

pub(super) async fn ending_is_for_good(ledger: Subject) {
    let task = ledger.open_task().await;
    let reserved = ledger.hold(lease_at(&task, at(1))).await;
    let active = ledger.hold(active_at(&task, at(1))).await;

    let done = ledger
        .advanced(&task, TaskChange::End(Outcome::Completed), at(2))
        .await;
    let state = TaskState::Ended {
        outcome: Outcome::Completed,
        at: at(2),
    };
    assert_eq!(done.state, state);
    let cause = Cause::TaskEnded(Outcome::Completed);
    for lease in [&reserved, &active] {
        assert_eq!(cause_of(&ledger.stored(lease.id).await), Some(cause));
    }
    let (feed, _) = ledger.feed().await;
    let [told] = feed.as_slice() else {
        panic!("{feed:?}")
    };
    assert_eq!(
        (&told.selector, told.cause),
        (&Selector::Task(task.charter.id), cause)
    );
    assert_eq!((told.up_to, told.at), (Timestamp::MAX, at(2)));

    let again = ledger
        .advanced(&task, TaskChange::End(Outcome::Failed), at(3))
        .await;
    assert_eq!(again, done, "the first end holds");
    assert_eq!(ledger.told().await.len(), 1, "and is told once");
    for change in [TaskChange::Beat, TaskChange::Suspend, TaskChange::Resume] {
        let refused = refusal(ledger.advance(task.charter.id, change, at(3)).await);
        assert_eq!(refused, Refusal::TaskNotOpen(state), "{change:?}");
    }
    let refused = refusal(ledger.try_hold(&lease_at(&task, at(3))).await);
    assert_eq!(refused, Refusal::TaskNotOpen(state));
    assert_eq!(
        ledger.due_leases(START.plus(TASK_LIFE)).await.len(),
        2,
        "the task is not due any more"
    );
}

pub(super) async fn a_task_past_its_due_instant_can_only_be_ended(ledger: Subject) {
    let mut lost = task_at(START);
    lost.charter.heartbeat = Ttl::from_secs(60);
    let cases: [(Task, Timestamp, Outcome); 2] = [
        (task_at(START), START.plus(TASK_LIFE), Outcome::Expired),
        (lost, at(60), Outcome::Lost),
    ];
    for (task, due, outcome) in cases {
        let task = ledger.opened(task).await;
        for change in [TaskChange::Beat, TaskChange::Suspend, TaskChange::Resume] {
            let refused = refusal(ledger.advance(task.charter.id, change, due).await);
            let counts_as = TaskState::Ended { outcome, at: due };
            assert_eq!(refused, Refusal::TaskNotOpen(counts_as), "{change:?}");
        }
        let ended = ledger
            .advanced(&task, TaskChange::End(outcome), due.plus(secs(5)))
            .await;
        let at = due.plus(secs(5));
        assert_eq!(ended.state, TaskState::Ended { outcome, at });
    }
}

pub(super) async fn an_unknown_task_does_not_move(ledger: Subject) {
    let unknown = task_at(START).charter.id;
    for change in [TaskChange::Beat, TaskChange::End(Outcome::Failed)] {
        assert_eq!(
            refusal(ledger.advance(unknown, change, START).await),
            Refusal::NoTask
        );
    }
}

pub(super) async fn ended_tasks_are_forgotten(ledger: Subject) {
    let task = ledger.open_task().await;
    ledger
        .advanced(&task, TaskChange::End(Outcome::Completed), at(10))
        .await;
    ledger.due(at(9).plus(RETENTION)).await;
    assert!(ledger.task(task.charter.id).await.unwrap().is_some());
    ledger.due(at(11).plus(RETENTION)).await;
    assert_eq!(ledger.task(task.charter.id).await.unwrap(), None);
}
