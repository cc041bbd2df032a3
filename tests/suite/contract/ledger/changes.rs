//! The feed of cutoffs.

use std::sync::Arc;
use std::time::Duration;

use dayfly::ledger::rules::MOST_CHANGES;
use dayfly::ledger::{Cursor, Ledger};
use dayfly::model::cutoff::{Cutoff, Selector};
use dayfly::model::lease::Cause;
use dayfly::model::task::{Outcome, TaskChange};
use tokio::task::JoinSet;

use super::{RETENTION, START, Shorthand as _, active_at, at, cutoff};

type Subject = Arc<dyn Ledger>;

fn on_agent(number: usize) -> Cutoff {
    cutoff(
        Selector::Agent(format!("agent-{number}").parse().unwrap()),
        at(1),
        at(1),
    )
}

pub(super) async fn the_feed_tells_every_cutoff(ledger: Subject) {
    assert_eq!(ledger.told().await, []);
    let task = ledger.open_task().await;
    let lease = ledger.hold(active_at(&task, at(1))).await;
    ledger.cut(&on_agent(1)).await.unwrap();
    ledger.revoke(lease.id, Cause::Revoked, at(2)).await.unwrap();
    ledger
        .advanced(&task, TaskChange::End(Outcome::Completed), at(3))
        .await;

    let (feed, _) = ledger.feed().await;
    assert!(feed.contains(&on_agent(1)));
    let own: Vec<_> = feed
        .iter()
        .map(|cutoff| &cutoff.selector)
        .filter(|s| **s != on_agent(1).selector)
        .collect();
    assert_eq!(
        own,
        [&Selector::Lease(lease.id), &Selector::Task(task.charter.id)],
        "oldest first in a shard"
    );
}

pub(super) async fn the_feed_goes_on_from_a_cursor(ledger: Subject) {
    ledger.cut(&on_agent(1)).await.unwrap();
    let (_, cursor) = ledger.feed().await;
    let changes = ledger.changes(&cursor, Duration::ZERO).await.unwrap();
    assert_eq!((changes.cutoffs.len(), changes.more), (0, false));

    let task = ledger.open_task().await;
    ledger
        .advanced(&task, TaskChange::End(Outcome::Failed), at(2))
        .await;
    let changes = ledger.changes(&changes.next, Duration::ZERO).await.unwrap();
    assert_eq!(changes.cutoffs.len(), 1);
    assert_eq!(changes.cutoffs[0].selector, Selector::Task(task.charter.id));
    let changes = ledger.changes(&cursor, Duration::ZERO).await.unwrap();
    assert_eq!(changes.cutoffs.len(), 1, "a cursor can be used again");
}

pub(super) async fn a_cursor_survives_its_text(ledger: Subject) {
    ledger.cut(&on_agent(1)).await.unwrap();
    let (_, cursor) = ledger.feed().await;
    let text = cursor.to_string();
    assert_eq!(text.parse(), Ok(cursor));
}

pub(super) async fn an_unplaced_cursor_starts_over(ledger: Subject) {
    ledger.cut(&on_agent(1)).await.unwrap();
    let (all, cursor) = ledger.feed().await;
    let beyond = Cursor(
        cursor
            .0
            .iter()
            .map(|number| number.saturating_add(1000))
            .collect(),
    );
    for strange in [beyond, Cursor(vec![1]), Cursor(vec![u64::MAX; 70])] {
        let changes = ledger.changes(&strange, Duration::ZERO).await.unwrap();
        for cutoff in &all {
            assert!(changes.cutoffs.contains(cutoff), "{strange:?}");
        }
    }
}

pub(super) async fn the_feed_comes_in_parts(ledger: Subject) {
    let task = ledger.open_task().await;
    let count = MOST_CHANGES + 7;
    let mut leases = JoinSet::new();
    for _ in 0..count {
        let (ledger, lease) = (Arc::clone(&ledger), active_at(&task, at(1)));
        leases.spawn(async move {
            ledger.hold(lease).await;
        });
    }
    leases.join_all().await;
    ledger.advanced(&task, TaskChange::Suspend, at(2)).await;

    let first = ledger.changes(&Cursor::default(), Duration::ZERO).await.unwrap();
    assert!(first.more);
    assert!(first.cutoffs.len() <= MOST_CHANGES);
    let (all, _) = ledger.feed().await;
    let told: std::collections::HashSet<_> = all.into_iter().map(|cutoff| cutoff.selector).collect();
    assert_eq!(told.len(), count);
}

pub(super) async fn waiting_ends_when_something_comes(ledger: Subject) {
    let (_, cursor) = ledger.feed().await;
    let waiter = {
        let ledger = Arc::clone(&ledger);
        async move { ledger.changes(&cursor, Duration::from_secs(120)).await.unwrap() }
    };
    let mut waiting = JoinSet::new();
    waiting.spawn(waiter);
    tokio::task::yield_now().await;
    ledger.cut(&on_agent(1)).await.unwrap();
    let changes = tokio::time::timeout(Duration::from_secs(20), waiting.join_next()).await;
    let changes = changes.expect("it was told").unwrap().unwrap();
    assert!(changes.cutoffs.contains(&on_agent(1)));
}

pub(super) async fn waiting_ends_by_itself(ledger: Subject) {
    let (_, cursor) = ledger.feed().await;
    let changes = ledger.changes(&cursor, Duration::from_millis(20)).await.unwrap();
    assert_eq!((changes.cutoffs.len(), changes.more), (0, false));
}

pub(super) async fn the_feed_forgets_after_the_retention(ledger: Subject) {
    ledger.cut(&on_agent(1)).await.unwrap();
    let (_, cursor) = ledger.feed().await;
    ledger.due(START.plus(RETENTION)).await;
    assert!(!ledger.told().await.is_empty(), "a second too early");
    ledger.due(at(2).plus(RETENTION)).await;
    assert_eq!(ledger.told().await, []);

    let later = cutoff(Selector::All, at(3), at(3).plus(RETENTION));
    ledger.cut(&later).await.unwrap();
    let changes = ledger.changes(&cursor, Duration::ZERO).await.unwrap();
    assert!(changes.cutoffs.contains(&later), "an old cursor goes on");
}

pub(super) async fn nothing_is_missed_under_many_writers(ledger: Subject) {
    const WRITERS: usize = 8;
    const EACH: usize = 25;
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let ledger = Arc::clone(&ledger);
        writers.spawn(async move {
            for number in 0..EACH {
                ledger.cut(&on_agent(writer * EACH + number)).await.unwrap();
            }
        });
    }
    let mut missing: std::collections::HashSet<_> = (0..WRITERS * EACH)
        .map(|number| on_agent(number).selector)
        .collect();
    let mut cursor = Cursor::default();
    while !missing.is_empty() {
        let changes = ledger.changes(&cursor, Duration::from_secs(20)).await.unwrap();
        assert!(!changes.cutoffs.is_empty(), "{} are missing", missing.len());
        for cutoff in changes.cutoffs {
            missing.remove(&cutoff.selector);
        }
        cursor = changes.next;
    }
    writers.join_all().await;
}
