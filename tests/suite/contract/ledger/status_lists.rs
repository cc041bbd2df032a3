//! Status lists: who has which place, what is struck, and how long lists stay.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use dayfly::ledger::lineage::Loss;
use dayfly::ledger::status_lists::{Entry, capacity};
use dayfly::ledger::{Claim, Ledger};
use dayfly::model::ids::Slot;
use dayfly::model::lease::{Cause, Curtailed, Handle, Lease};
use dayfly::model::status_list::{Hour, Listing, Place, StatusList, TokenStatus};
use dayfly::model::task::{Outcome, Task, TaskChange};
use dayfly::model::time::Timestamp;
use futures_util::future::join_all;

use super::losses::{epoch, lost};
use super::sub_tasks::below;
use super::{
    NO_FACTS, Shorthand as _, UNLIMITED, active_at, at, key, lease_at, refusal, secs, task_at, task_in, until,
};

type Subject = Arc<dyn Ledger>;

/// Longer than any list of the tests stays.
const A_DAY: Duration = Duration::from_secs(24 * 3600);

fn listed(lease: Lease) -> Lease {
    Lease {
        listing: Listing::Wanted,
        ..lease
    }
}

/// Writes a lease down, and answers its entry.
async fn place(ledger: &Subject, lease: &Lease) -> Entry {
    let place = ledger.reserve(lease, &UNLIMITED, None, NO_FACTS).await.unwrap();
    let place = place.expect("a place");
    assert_eq!(ledger.stored(lease.id).await.listing, Listing::At(place));
    ledger.naming().unwrap().entry(lease.id.slot(), place)
}

async fn read(ledger: &Subject, hour: Hour, part: u32) -> StatusList {
    let struck = ledger.struck(hour, part).await.unwrap();
    let entries = ledger.naming().unwrap().entries();
    assert_eq!(u32::try_from(struck.len()).unwrap() * 8, entries);
    StatusList::of_bits(struck)
}

/// What the list says of an entry.
async fn status(ledger: &Subject, entry: Entry) -> TokenStatus {
    let list = read(ledger, entry.list.hour, entry.list.part).await;
    list.get(entry.index).expect("an entry")
}

/// The entries that are struck on all lists of the hour of this task.
async fn struck(ledger: &Subject, task: &Task) -> usize {
    let hour = Hour::of(task.charter.deadline);
    let parts = ledger.parts().await.unwrap().get(&hour).copied().unwrap_or(1);
    let mut count = 0;
    for part in 0..parts {
        let list = read(ledger, hour, part).await;
        count += (0..list.len())
            .filter(|index| list.get(*index) != Some(TokenStatus::Valid))
            .count();
    }
    count
}

/// A renewal does not take, and neither does a refusal.
pub(super) async fn only_who_wants_a_place_gets_one(ledger: Subject) {
    let task = ledger.open_task().await;
    assert_eq!(ledger.parts().await.unwrap(), [].into());
    let unlisted = active_at(&task, at(1));
    let answer = ledger.reserve(&unlisted, &UNLIMITED, None, NO_FACTS).await;
    assert_eq!(answer.unwrap(), None);
    ledger.revoke(unlisted.id, Cause::Revoked, at(2)).await.unwrap();
    let unknown = listed(active_at(&task_at(at(0)), at(1)));
    refusal(ledger.try_hold(&unknown).await);
    assert_eq!(ledger.parts().await.unwrap(), [].into());
    assert_eq!(struck(&ledger, &task).await, 0);

    let lease = listed(active_at(&task, at(1)));
    let first = place(&ledger, &lease).await;
    refusal(ledger.try_hold(&lease).await);
    let renewed = ledger.renew(lease.id, until(400), at(2)).await.unwrap();
    let Listing::At(kept) = renewed.listing else {
        panic!("it has its place: {:?}", renewed.listing);
    };
    assert_eq!(ledger.naming().unwrap().entry(lease.id.slot(), kept), first);
    let hour = Hour::of(task.charter.deadline);
    assert_eq!(ledger.parts().await.unwrap(), [(hour, 1)].into());
    assert_eq!(first.list.hour, hour);
    assert!(first.index < ledger.naming().unwrap().entries().into());
}

/// More than fit on one part, where there are many shards, and at the same time.
pub(super) async fn no_two_leases_have_one_place(ledger: Subject) {
    let task = ledger.open_task().await;
    let other = ledger.opened(task_in(Slot::new(8), at(0))).await;
    let naming = ledger.naming().unwrap();
    let capacity = capacity(naming.shards);
    let count = (capacity / 2 + 50).min(1100);
    let (mut entries, mut in_order) = (HashSet::new(), 0);
    let mut last = 0;
    for _ in 0..count / 50 {
        let leases: Vec<Lease> = (0..50).map(|_| listed(active_at(&task, at(1)))).collect();
        let places = join_all(leases.iter().map(|lease| place(&ledger, lease))).await;
        for entry in places {
            assert!(entries.insert(entry), "{entry:?} was given out before");
            in_order += usize::from(entry.index == last + 1);
            last = entry.index;
        }
    }
    let full = u32::try_from(entries.len()).unwrap();
    assert!(entries.insert(place(&ledger, &listed(active_at(&other, at(1)))).await));
    let parts = full.div_ceil(capacity / 2);
    let hour = Hour::of(task.charter.deadline);
    assert_eq!(ledger.parts().await.unwrap(), [(hour, parts)].into());
    for part in 0..parts {
        let of_part = entries.iter().filter(|entry| entry.list.part == part).count();
        assert!(of_part > 0, "a part that has begun has somebody in it");
    }
    assert!(in_order < entries.len() / 4, "neighbours are strangers");
    assert_eq!(struck(&ledger, &task).await, 0);
}

pub(super) async fn many_are_struck_at_once(ledger: Subject) {
    let task = ledger.open_task().await;
    let mut ids = Vec::new();
    for number in 0..40 {
        let lease = active_at(&task, at(1));
        // Some have none.
        let lease = if number % 4 == 0 { lease } else { listed(lease) };
        ids.push(ledger.hold(lease).await.id);
    }
    let spared = listed(active_at(&task, at(1)));
    let of_spared = place(&ledger, &spared).await;
    ledger.revoke_all(&ids, Cause::Revoked, at(5)).await.unwrap();
    assert_eq!(struck(&ledger, &task).await, 30);
    assert_eq!(status(&ledger, of_spared).await, TokenStatus::Valid);
}

pub(super) async fn whoever_is_told_of_in_the_feed_is_struck_in_the_same_step(ledger: Subject) {
    // One at a time, so that each step is seen to strike its own.
    let task = ledger.open_task().await;
    let [revoked, curtailed, spared] = [1, 2, 3].map(|second| listed(active_at(&task, at(second))));
    let unsure = listed(lease_at(&task, at(4)));
    let mut entries = Vec::new();
    for lease in [&revoked, &curtailed, &spared, &unsure] {
        entries.push(place(&ledger, lease).await);
    }
    let [of_revoked, of_curtailed, of_spared, of_unsure] = entries[..] else {
        panic!("four");
    };
    let told = |count: usize| {
        let ledger = &ledger;
        let task = &task;
        async move {
            assert_eq!(ledger.told().await.len(), count);
            assert_eq!(struck(ledger, task).await, count);
        }
    };
    told(0).await;
    ledger.revoke(revoked.id, Cause::Revoked, at(5)).await.unwrap();
    assert_eq!(ledger.stored(revoked.id).await.listing, Listing::Unlisted);
    assert_eq!(status(&ledger, of_revoked).await, TokenStatus::Invalid);
    told(1).await;
    ledger.revoke(revoked.id, Cause::Revoked, at(5)).await.unwrap();
    told(1).await;

    let earlier = Curtailed {
        at: at(10),
        cause: Cause::Shortened,
    };
    ledger.curtail(curtailed.id, earlier, at(6)).await.unwrap();
    ledger.due(at(9)).await;
    assert_eq!(status(&ledger, of_curtailed).await, TokenStatus::Valid);
    ledger.due(at(10)).await;
    assert_eq!(status(&ledger, of_curtailed).await, TokenStatus::Invalid);
    told(2).await;

    // A reservation that was never activated: its credential may be out.
    assert_eq!(status(&ledger, of_unsure).await, TokenStatus::Valid);
    ledger.due(at(70)).await;
    assert_eq!(status(&ledger, of_unsure).await, TokenStatus::Invalid);
    told(3).await;

    // What expires says so itself.
    ledger.due(at(400)).await;
    assert_eq!(ledger.stored(spared.id).await.state.as_str(), "revoking");
    assert_eq!(status(&ledger, of_spared).await, TokenStatus::Valid);
    told(3).await;
}

pub(super) async fn the_end_of_a_task_strikes_all_that_it_has(ledger: Subject) {
    for change in [
        TaskChange::Suspend,
        TaskChange::End(Outcome::Completed),
        TaskChange::End(Outcome::Revoked),
    ] {
        let task = ledger.open_task().await;
        let other = ledger.open_task().await;
        let spared = place(&ledger, &listed(active_at(&other, at(1)))).await;
        let reserved = listed(lease_at(&task, at(1)));
        let mut entries = vec![place(&ledger, &reserved).await];
        let handle = Handle("h".to_owned());
        ledger.activate(reserved.id, &handle, at(300)).await.unwrap();
        for _ in 0..5 {
            entries.push(place(&ledger, &listed(active_at(&task, at(1)))).await);
        }
        let below = ledger.opened(below(&task, "report-bot", at(1))).await;
        entries.push(place(&ledger, &listed(active_at(&below, at(1)))).await);
        ledger.advanced(&task, change, at(2)).await;
        for entry in &entries {
            // For good: a task that is resumed gets new credentials, and these stay ended.
            assert_eq!(status(&ledger, *entry).await, TokenStatus::Invalid, "{change:?}");
        }
        assert_eq!(status(&ledger, spared).await, TokenStatus::Valid);
        if change == TaskChange::Suspend {
            ledger.advanced(&task, TaskChange::Resume, at(3)).await;
            let next = place(&ledger, &listed(active_at(&task, at(4)))).await;
            assert!(!entries.contains(&next));
            assert_eq!(status(&ledger, next).await, TokenStatus::Valid);
            assert_eq!(status(&ledger, entries[0]).await, TokenStatus::Invalid);
        }
    }
}

pub(super) async fn a_list_stays_until_its_last_token_is_over(ledger: Subject) {
    let short = ledger.open_task().await;
    let mut long = task_at(at(0));
    long.charter.deadline = at(0).plus(A_DAY);
    let long = ledger.opened(long).await;
    let of_short = place(&ledger, &listed(active_at(&short, at(1)))).await;
    let lease = listed(active_at(&long, at(1)));
    let of_long = place(&ledger, &lease).await;
    assert_eq!(of_long.list.hour, Hour::of(at(0).plus(A_DAY)));
    ledger.revoke(lease.id, Cause::Revoked, at(2)).await.unwrap();
    ledger
        .advanced(&short, TaskChange::End(Outcome::Completed), at(2))
        .await;

    let end = of_short.list.hour.end();
    swept(&ledger, end.plus(secs(299))).await;
    assert_eq!(ledger.parts().await.unwrap().len(), 2, "clocks differ a little");
    assert_eq!(status(&ledger, of_short).await, TokenStatus::Invalid);
    swept(&ledger, end.plus(secs(300))).await;
    let left: Vec<Hour> = ledger.parts().await.unwrap().into_keys().collect();
    assert_eq!(left, [of_long.list.hour]);
    assert_eq!(status(&ledger, of_long).await, TokenStatus::Invalid);
    assert_eq!(struck(&ledger, &short).await, 0, "nothing is kept of it");
    swept(&ledger, of_long.list.hour.end().plus(secs(300))).await;
    assert_eq!(ledger.parts().await.unwrap(), [].into());
}

/// Claims and settles whatever is due, and forgets what is old.
async fn swept(ledger: &Subject, now: Timestamp) {
    for claim in ledger.due(now).await {
        match claim {
            Claim::Lease(claim) => ledger.settle(&claim, super::ended(now), now).await.unwrap(),
            Claim::Task(task, outcome) => {
                let end = TaskChange::End(outcome);
                ledger.advance(task.charter.id, end, now).await.map(drop).unwrap();
            }
        }
    }
    ledger.due(now).await;
}

pub(super) async fn nobody_is_told_of_the_lists_of_a_lost_ledger(ledger: Subject) {
    let task = ledger.open_task().await;
    let before = place(&ledger, &listed(active_at(&task, at(1)))).await;
    ledger.condemn(Loss::RolledBack).await.unwrap();
    lost(ledger.parts().await);
    lost(ledger.struck(before.list.hour, before.list.part).await);
    ledger
        .begin_epoch(epoch(2), &[super::losses::WRITER].into())
        .await
        .unwrap();
    ledger.watch().await.unwrap();
    ledger.rejoin().await.unwrap();
    let after = place(&ledger, &listed(active_at(&task, at(1)))).await;
    assert_eq!(after.list.epoch, epoch(2));
    assert_ne!(after.list, before.list, "what was given out before is on no list");
}

pub(super) async fn a_repeated_reservation_takes_one_place(ledger: Subject) {
    let task = ledger.open_task().await;
    let hour = Hour::of(task.charter.deadline);
    let first = listed(active_at(&task, at(1)));
    let made = ledger
        .reserve(&first, &UNLIMITED, Some(&key(1, 1)), NO_FACTS)
        .await;
    let made: Place = made.unwrap().unwrap();
    assert_eq!(made.hour, hour);
    let again = listed(active_at(&task, at(1)));
    refusal(
        ledger
            .reserve(&again, &UNLIMITED, Some(&key(1, 1)), NO_FACTS)
            .await,
    );
    refusal(
        ledger
            .reserve(&again, &UNLIMITED, Some(&key(1, 2)), NO_FACTS)
            .await,
    );
    assert_eq!(ledger.parts().await.unwrap(), [(hour, 1)].into());
}
