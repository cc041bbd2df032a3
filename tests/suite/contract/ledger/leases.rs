//! Reserving, activating, renewing and revoking leases.

use std::sync::Arc;

use dayfly::ledger::{Budget, Budgets, Ledger, Refusal, Renewal, rules};
use dayfly::model::cutoff::Selector;
use dayfly::model::ids::Slot;
use dayfly::model::lease::{Cause, Curtailed, Handle, Lease, LeaseState};
use dayfly::model::task::{Outcome, TaskChange, TaskState};
use dayfly::model::time::Timestamp;
use dayfly::model::ttl::{Bound, Ttl};

use super::{
    HOLD, NO_FACTS, START, Shorthand as _, TASK_LIFE, UNLIMITED, active_at, at, cause_of, key, lease_at,
    refusal, task_at, task_in, until,
};

type Subject = Arc<dyn Ledger>;

pub(super) async fn a_lease_is_kept_as_it_was_reserved(ledger: Subject) {
    let task = ledger.open_task().await;
    for lease in [lease_at(&task, at(1)), active_at(&task, at(1))] {
        ledger.hold(lease.clone()).await;
        assert_eq!(ledger.stored(lease.id).await, lease);
    }
    assert_eq!(ledger.lease(lease_at(&task, at(1)).id).await.unwrap(), None);
    assert_eq!(ledger.told().await, [], "nothing ended");
}

pub(super) async fn nothing_is_reserved_without_an_open_task(ledger: Subject) {
    let unknown = lease_at(&task_at(START), at(1));
    assert_eq!(refusal(ledger.try_hold(&unknown).await), Refusal::NoTask);
    assert_eq!(ledger.lease(unknown.id).await.unwrap(), None);

    let task = ledger.open_task().await;
    ledger.advanced(&task, TaskChange::Suspend, at(1)).await;
    let lease = active_at(&task, at(2));
    let suspended = Refusal::TaskNotOpen(TaskState::Suspended);
    assert_eq!(refusal(ledger.try_hold(&lease).await), suspended);

    let ended = ledger
        .advanced(&task, TaskChange::End(Outcome::Failed), at(3))
        .await;
    assert_eq!(
        refusal(ledger.try_hold(&lease).await),
        Refusal::TaskNotOpen(ended.state)
    );
    assert_eq!(ledger.lease(lease.id).await.unwrap(), None);
}

pub(super) async fn nothing_is_reserved_past_the_due_instant(ledger: Subject) {
    let mut task = task_at(START);
    task.charter.heartbeat = Ttl::from_secs(60);
    let task = ledger.opened(task).await;
    ledger.hold(lease_at(&task, at(59))).await;
    let lost = TaskState::Ended {
        outcome: Outcome::Lost,
        at: at(60),
    };
    assert_eq!(
        refusal(ledger.try_hold(&lease_at(&task, at(60))).await),
        Refusal::TaskNotOpen(lost)
    );

    let task = ledger.open_task().await;
    let deadline = START.plus(TASK_LIFE);
    ledger
        .hold(lease_at(&task, Timestamp::from_millis(deadline.as_millis() - 1)))
        .await;
    let expired = TaskState::Ended {
        outcome: Outcome::Expired,
        at: deadline,
    };
    assert_eq!(
        refusal(ledger.try_hold(&lease_at(&task, deadline)).await),
        Refusal::TaskNotOpen(expired)
    );
}

pub(super) async fn a_lease_id_is_taken_once(ledger: Subject) {
    let task = ledger.open_task().await;
    let lease = ledger.hold(lease_at(&task, at(1))).await;
    assert_eq!(refusal(ledger.try_hold(&lease).await), Refusal::Exists);
}

pub(super) async fn the_task_budget_is_exact(ledger: Subject) {
    let budgets = Budgets {
        task: Some(3),
        ..UNLIMITED
    };
    let (task, other) = (ledger.open_task().await, ledger.open_task().await);
    let reserve = async |lease: Lease| ledger.reserve(&lease, &budgets, None, NO_FACTS).await;
    let first = active_at(&task, at(1));
    reserve(first.clone()).await.unwrap();
    reserve(lease_at(&task, at(1))).await.unwrap();
    reserve(lease_at(&task, at(1))).await.unwrap();

    let full = Refusal::Budget {
        budget: Budget::Task,
        limit: 3,
    };
    assert_eq!(refusal(reserve(lease_at(&task, at(2))).await), full);
    reserve(lease_at(&other, at(2))).await.unwrap();
    ledger.revoke(first.id, Cause::Revoked, at(3)).await.unwrap();
    assert_eq!(
        refusal(reserve(lease_at(&task, at(3))).await),
        full,
        "what is revoking still counts"
    );
    ledger.end(first.id, at(4)).await;
    reserve(lease_at(&task, at(5))).await.unwrap();
    assert_eq!(refusal(reserve(lease_at(&task, at(5))).await), full);
}

/// One here is one less everywhere.
async fn a_budget_of_one(ledger: Subject, budgets: Budgets, budget: Budget, other: impl Fn(&mut Lease)) {
    let slot = Slot::new(11);
    let (here, there) = (task_in(slot, START), task_in(slot, START));
    let (here, there) = (ledger.opened(here).await, ledger.opened(there).await);
    let first = active_at(&here, at(1));
    ledger.reserve(&first, &budgets, None, NO_FACTS).await.unwrap();

    let full = Refusal::Budget { budget, limit: 1 };
    let second = active_at(&there, at(2));
    assert_eq!(
        refusal(ledger.reserve(&second, &budgets, None, NO_FACTS).await),
        full
    );
    let mut unlike = active_at(&there, at(2));
    other(&mut unlike);
    ledger.reserve(&unlike, &budgets, None, NO_FACTS).await.unwrap();
    ledger.end(first.id, at(3)).await;
    ledger.reserve(&second, &budgets, None, NO_FACTS).await.unwrap();
}

pub(super) async fn the_agent_budget_holds(ledger: Subject) {
    let budgets = Budgets {
        agent: Some(1),
        ..UNLIMITED
    };
    let other = |lease: &mut Lease| lease.agent = "billing-bot".parse().unwrap();
    a_budget_of_one(ledger, budgets, Budget::Agent, other).await;
}

pub(super) async fn the_tool_budget_holds(ledger: Subject) {
    let budgets = Budgets {
        tool: Some(1),
        ..UNLIMITED
    };
    let other = |lease: &mut Lease| lease.tool = "mail".parse().unwrap();
    a_budget_of_one(ledger, budgets, Budget::Tool, other).await;
}

pub(super) async fn one_task_may_use_a_small_budget_alone(ledger: Subject) {
    let budgets = Budgets {
        agent: Some(5),
        tool: Some(6),
        ..UNLIMITED
    };
    let task = ledger.open_task().await;
    let reserve = async || {
        ledger
            .reserve(&active_at(&task, at(1)), &budgets, None, NO_FACTS)
            .await
    };
    for _ in 0..5 {
        reserve().await.unwrap();
    }
    let full = |budget, limit| Refusal::Budget { budget, limit };
    assert_eq!(refusal(reserve().await), full(Budget::Agent, 5));
    let mut other = active_at(&task, at(1));
    other.agent = "billing-bot".parse().unwrap();
    ledger.reserve(&other, &budgets, None, NO_FACTS).await.unwrap();
    let mut more = active_at(&task, at(1));
    more.agent = "billing-bot".parse().unwrap();
    assert_eq!(
        refusal(ledger.reserve(&more, &budgets, None, NO_FACTS).await),
        full(Budget::Tool, 6)
    );
}

pub(super) async fn a_budget_holds_however_tasks_are_spread(ledger: Subject) {
    let limit = 40;
    let budgets = Budgets {
        agent: Some(limit),
        ..UNLIMITED
    };
    let mut held = 0;
    for slot in 0..80 {
        let task = task_in(Slot::new(51 * slot), START);
        let task = ledger.opened(task).await;
        match ledger
            .reserve(&active_at(&task, at(1)), &budgets, None, NO_FACTS)
            .await
        {
            Ok(_) => held += 1,
            full => assert_eq!(
                refusal(full),
                Refusal::Budget {
                    budget: Budget::Agent,
                    limit
                }
            ),
        }
    }
    assert_eq!(held, limit);
}

pub(super) async fn a_repeated_reservation_is_known(ledger: Subject) {
    let task = ledger.open_task().await;
    let (first, again) = (active_at(&task, at(1)), active_at(&task, at(2)));
    ledger
        .reserve(&first, &UNLIMITED, Some(&key(1, 1)), NO_FACTS)
        .await
        .unwrap();
    let repeat = async |content| {
        refusal(
            ledger
                .reserve(&again, &UNLIMITED, Some(&key(1, content)), NO_FACTS)
                .await,
        )
    };
    assert_eq!(repeat(1).await, Refusal::Repeated(first.id));
    assert_eq!(repeat(2).await, Refusal::KeyReused);

    ledger
        .advanced(&task, TaskChange::End(Outcome::Completed), at(3))
        .await;
    assert_eq!(
        repeat(1).await,
        Refusal::Repeated(first.id),
        "the key comes first"
    );
    assert_eq!(ledger.lease(again.id).await.unwrap(), None);
}

pub(super) async fn a_refused_reservation_leaves_no_trace(ledger: Subject) {
    let task = ledger.open_task().await;
    ledger.advanced(&task, TaskChange::Suspend, at(1)).await;
    let lease = active_at(&task, at(3));
    let refused = ledger
        .reserve(&lease, &UNLIMITED, Some(&key(1, 1)), NO_FACTS)
        .await;
    assert_eq!(refusal(refused), Refusal::TaskNotOpen(TaskState::Suspended));

    ledger.advanced(&task, TaskChange::Resume, at(2)).await;
    let budgets = Budgets {
        task: Some(1),
        agent: Some(1),
        tool: Some(1),
    };
    ledger
        .reserve(&lease, &budgets, Some(&key(1, 2)), NO_FACTS)
        .await
        .unwrap();
}

pub(super) async fn activating_gives_handle_and_expiry(ledger: Subject) {
    let task = ledger.open_task().await;
    let lease = ledger.hold(lease_at(&task, at(1))).await;
    let handle = Handle("dayfly_orders_42".to_owned());
    ledger.activate(lease.id, &handle, at(200)).await.unwrap();

    let stored = ledger.stored(lease.id).await;
    assert_eq!((stored.handle, stored.expires_at), (Some(handle), at(200)));
    assert_eq!(stored.state, LeaseState::Active);
    assert!(
        ledger.due(at(199)).await.is_empty(),
        "not due as a reservation any more"
    );
    assert_eq!(ledger.due_leases(at(200)).await.len(), 1, "due at the new expiry");
}

pub(super) async fn a_reserved_lease_is_named_once_its_name_is_known(ledger: Subject) {
    let task = ledger.open_task().await;
    let lease = ledger.hold(lease_at(&task, at(1))).await;
    let handle = Handle("accessor-1".to_owned());
    ledger.name(lease.id, &handle).await.unwrap();
    let expected = Lease {
        handle: Some(handle.clone()),
        ..lease.clone()
    };
    assert_eq!(ledger.stored(lease.id).await, expected);
    assert_eq!(ledger.due_leases(at(100)).await.len(), 1, "due as before");

    let refused = ledger.name(lease.id, &handle).await;
    assert_eq!(refusal(refused), Refusal::LeaseNotOpen("revoking"));
    let unknown = lease_at(&task, at(2)).id;
    assert_eq!(refusal(ledger.name(unknown, &handle).await), Refusal::NoLease);
}

pub(super) async fn activating_happens_once(ledger: Subject) {
    let task = ledger.open_task().await;
    let lease = ledger.hold(lease_at(&task, at(1))).await;
    let activate = async || ledger.activate(lease.id, &Handle("h".to_owned()), at(100)).await;
    activate().await.unwrap();
    assert_eq!(refusal(activate().await), Refusal::LeaseNotOpen("active"));
}

pub(super) async fn nothing_is_activated_after_the_task(ledger: Subject) {
    for change in [TaskChange::End(Outcome::Completed), TaskChange::Suspend] {
        let task = ledger.open_task().await;
        let lease = ledger.hold(lease_at(&task, at(1))).await;
        ledger.advanced(&task, change, at(2)).await;
        let refused = ledger.activate(lease.id, &Handle("h".to_owned()), at(100)).await;
        assert_eq!(refusal(refused), Refusal::LeaseNotOpen("revoking"), "{change:?}");
        assert_eq!(ledger.stored(lease.id).await.state.as_str(), "revoking");
    }
}

pub(super) async fn renewing_moves_the_expiry(ledger: Subject) {
    let task = ledger.open_task().await;
    let lease = ledger.hold(active_at(&task, at(1))).await;
    let terms = Renewal {
        bounded_by: Bound::Task,
        ..until(500)
    };
    let renewed = ledger.renew(lease.id, terms, at(300)).await.unwrap();
    let expected = Lease {
        expires_at: at(500),
        decision: terms.decision,
        bounded_by: Bound::Task,
        requested: terms.requested,
        vouched: terms.vouched,
        ..lease
    };
    assert_eq!(renewed, expected);
    assert_eq!(ledger.stored(renewed.id).await, expected);
    let again = ledger.renew(renewed.id, until(400), at(301)).await.unwrap();
    assert_eq!(again, expected, "what bounds it is still the renewal of before");
    assert!(ledger.due(at(499)).await.is_empty());
    let claims = ledger.due_leases(at(500)).await;
    assert_eq!(claims.len(), 1);
    assert_eq!(claims[0].lease.decision, terms.decision, "to its end");
}

/// A renewal is a decision: where an earlier end was decided before, it decides that anew.
pub(super) async fn renewing_moves_an_earlier_end(ledger: Subject) {
    let task = ledger.open_task().await;
    let (at_60, cause) = (at(60), Cause::Shortened);
    let lease = Lease {
        curtailed: Some(Curtailed { at: at_60, cause }),
        ..active_at(&task, at(1))
    };
    let lease = ledger.hold(lease).await;
    assert_eq!(ledger.stored(lease.id).await, lease);
    assert_eq!(
        ledger.renew(lease.id, until(60), at(2)).await.unwrap(),
        lease,
        "no longer than it may live already"
    );

    let terms = until(90);
    let renewed = ledger.renew(lease.id, terms, at(2)).await.unwrap();
    let expected = Lease {
        curtailed: Some(Curtailed { at: at(90), cause }),
        decision: terms.decision,
        bounded_by: terms.bounded_by,
        requested: terms.requested,
        vouched: terms.vouched,
        ..lease.clone()
    };
    assert_eq!(renewed, expected, "the credential of before lasts until 301");
    assert_eq!(ledger.stored(lease.id).await, expected);
    assert!(ledger.due(at(89)).await.is_empty());
    let late = ledger.renew(lease.id, until(200), at(90)).await;
    assert_eq!(refusal(late), Refusal::LeaseNotOpen("expired"));
    assert_eq!(ledger.live(lease.id, at(89)).await.unwrap(), expected);
    let late = ledger.live(lease.id, at(90)).await;
    assert_eq!(refusal(late), Refusal::LeaseNotOpen("expired"));

    let renewed = ledger.renew(lease.id, until(400), at(89)).await.unwrap();
    assert_eq!((renewed.curtailed, renewed.expires_at), (None, at(400)));
    assert!(ledger.due(at(399)).await.is_empty());
    assert_eq!(ledger.due_leases(at(400)).await.len(), 1);
    assert_eq!(
        ledger.told().await,
        [],
        "nothing looks good for longer than it was"
    );
}

/// The credential of before is still out, whatever the next one is given.
pub(super) async fn renewing_never_brings_the_expiry_forward(ledger: Subject) {
    let task = ledger.open_task().await;
    let lease = ledger.hold(active_at(&task, at(1))).await;
    let renewed = ledger.renew(lease.id, until(10), at(5)).await.unwrap();
    assert_eq!(renewed, lease);
    assert_eq!(ledger.stored(lease.id).await, lease);
    assert!(ledger.due(at(10)).await.is_empty());
    ledger.revoke(lease.id, Cause::Revoked, at(11)).await.unwrap();
    assert_eq!(ledger.told().await, [Selector::Lease(lease.id)]);
}

pub(super) async fn only_what_is_active_is_renewed(ledger: Subject) {
    let task = ledger.open_task().await;
    let renew = async |lease: &Lease, now| refusal(ledger.renew(lease.id, until(590), now).await);

    let reserved = ledger.hold(lease_at(&task, at(1))).await;
    assert_eq!(renew(&reserved, at(2)).await, Refusal::LeaseNotOpen("reserved"));
    let active = ledger.hold(active_at(&task, at(1))).await;
    assert_eq!(
        renew(&active, active.expires_at).await,
        Refusal::LeaseNotOpen("expired")
    );
    ledger.revoke(active.id, Cause::Revoked, at(2)).await.unwrap();
    assert_eq!(renew(&active, at(2)).await, Refusal::LeaseNotOpen("revoking"));
    ledger.end(active.id, at(3)).await;
    assert_eq!(renew(&active, at(3)).await, Refusal::LeaseNotOpen("ended"));

    let mut silent = task_at(START);
    silent.charter.heartbeat = Ttl::from_secs(60);
    let silent = ledger.opened(silent).await;
    let lease = ledger.hold(active_at(&silent, at(1))).await;
    let lost = TaskState::Ended {
        outcome: Outcome::Lost,
        at: at(60),
    };
    assert_eq!(renew(&lease, at(60)).await, Refusal::TaskNotOpen(lost));
}

pub(super) async fn only_what_is_active_is_live(ledger: Subject) {
    let task = ledger.open_task().await;
    let live = async |lease: &Lease, now| ledger.live(lease.id, now).await;

    let reserved = ledger.hold(lease_at(&task, at(1))).await;
    assert_eq!(
        refusal(live(&reserved, at(2)).await),
        Refusal::LeaseNotOpen("reserved")
    );
    let active = ledger.hold(active_at(&task, at(1))).await;
    let last = Timestamp::from_millis(active.expires_at.as_millis() - 1);
    assert_eq!(live(&active, last).await.unwrap(), active);
    assert_eq!(
        refusal(live(&active, active.expires_at).await),
        Refusal::LeaseNotOpen("expired")
    );
    let renewed = ledger.renew(active.id, until(400), at(2)).await.unwrap();
    assert_eq!(live(&active, active.expires_at).await.unwrap(), renewed);
    ledger.revoke(active.id, Cause::Revoked, at(2)).await.unwrap();
    assert_eq!(
        refusal(live(&active, at(2)).await),
        Refusal::LeaseNotOpen("revoking")
    );
    ledger.end(active.id, at(3)).await;
    assert_eq!(
        refusal(live(&active, at(3)).await),
        Refusal::LeaseNotOpen("ended")
    );
    let unknown = active_at(&task, at(1));
    assert_eq!(refusal(live(&unknown, at(2)).await), Refusal::NoLease);
}

pub(super) async fn nothing_is_live_without_its_task(ledger: Subject) {
    for change in [TaskChange::Suspend, TaskChange::End(Outcome::Completed)] {
        let task = ledger.open_task().await;
        let lease = ledger.hold(active_at(&task, at(1))).await;
        ledger.advanced(&task, change, at(2)).await;
        assert!(ledger.live(lease.id, at(2)).await.is_err(), "{change:?}");
    }
    // Nobody has come yet to say that the agent is lost.
    let mut silent = task_at(START);
    silent.charter.heartbeat = Ttl::from_secs(60);
    let silent = ledger.opened(silent).await;
    let lease = ledger.hold(active_at(&silent, at(1))).await;
    ledger.live(lease.id, at(59)).await.unwrap();
    let lost = TaskState::Ended {
        outcome: Outcome::Lost,
        at: at(60),
    };
    assert_eq!(
        refusal(ledger.live(lease.id, at(60)).await),
        Refusal::TaskNotOpen(lost)
    );
    ledger.advanced(&silent, TaskChange::Beat, at(59)).await;
    ledger.live(lease.id, at(60)).await.unwrap();
}

pub(super) async fn a_revoked_lease_is_due_at_once(ledger: Subject) {
    let task = ledger.open_task().await;
    for lease in [lease_at(&task, at(1)), active_at(&task, at(1))] {
        let lease = ledger.hold(lease).await;
        let revoked = ledger.revoke(lease.id, Cause::Superseded, at(2)).await.unwrap();
        let LeaseState::Revoking(effort) = &revoked.state else {
            panic!("{revoked:?}")
        };
        assert_eq!(
            (effort.cause, effort.since, effort.attempts),
            (Cause::Superseded, at(2), 0)
        );
        assert_eq!(ledger.stored(lease.id).await, revoked);
        let (feed, _) = ledger.feed().await;
        let told = feed.last().unwrap();
        assert_eq!(
            (&told.selector, told.up_to),
            (&Selector::Lease(lease.id), Timestamp::MAX)
        );
        assert_eq!((told.cause, told.at), (Cause::Superseded, at(2)));
        let due = ledger.due_leases(at(2)).await;
        assert_eq!(
            due.iter().map(|claim| &claim.lease).collect::<Vec<_>>(),
            [&rules::next_due(revoked, at(2).plus(HOLD))]
        );
    }
}

pub(super) async fn revoking_again_changes_nothing(ledger: Subject) {
    let task = ledger.open_task().await;
    let lease = ledger.hold(active_at(&task, at(1))).await;
    let revoked = ledger.revoke(lease.id, Cause::Revoked, at(2)).await.unwrap();
    assert_eq!(
        ledger.revoke(lease.id, Cause::Cutoff, at(3)).await.unwrap(),
        revoked
    );
    assert_eq!(ledger.told().await.len(), 1);
    ledger.end(lease.id, at(4)).await;
    let over = ledger.revoke(lease.id, Cause::Cutoff, at(5)).await.unwrap();
    assert_eq!(
        (over.state.as_str(), cause_of(&over)),
        ("ended", Some(Cause::Revoked))
    );
    assert!(
        ledger
            .due(at(600))
            .await
            .iter()
            .all(|claim| !matches!(claim, dayfly::ledger::Claim::Lease(_)))
    );
}

pub(super) async fn many_are_revoked_at_once(ledger: Subject) {
    let (one, other) = (
        ledger.open_task().await,
        ledger.opened(super::task_in(Slot::new(501), START)).await,
    );
    let mut ids = Vec::new();
    for _ in 0..70 {
        ids.push(ledger.hold(active_at(&one, at(1))).await.id);
    }
    ids.push(ledger.hold(lease_at(&other, at(1))).await.id);
    let revoking = ledger.hold(active_at(&other, at(1))).await.id;
    ledger.revoke(revoking, Cause::Superseded, at(2)).await.unwrap();
    let over = ledger.hold(active_at(&other, at(1))).await.id;
    ledger.end(over, at(2)).await;
    let spared = ledger.hold(active_at(&other, at(1))).await;
    let (before, _) = ledger.feed().await;

    let mut ordered = ids.clone();
    ordered.extend([revoking, over, lease_at(&one, at(1)).id, ids[3], ids[70]]);
    let turned = ledger.revoke_all(&ordered, Cause::Cutoff, at(3)).await.unwrap();
    assert_eq!(turned, 71, "each once, and nothing that was turned before");
    for id in &ids {
        let lease = ledger.stored(*id).await;
        assert_eq!(
            (lease.state.as_str(), cause_of(&lease)),
            ("revoking", Some(Cause::Cutoff))
        );
    }
    assert_eq!(cause_of(&ledger.stored(revoking).await), Some(Cause::Superseded));
    assert_eq!(ledger.stored(over).await.state.as_str(), "ended");
    assert_eq!(ledger.stored(spared.id).await, spared);
    let (told, _) = ledger.feed().await;
    let mut new: Vec<Selector> = told
        .into_iter()
        .filter(|cutoff| !before.contains(cutoff))
        .inspect(|cutoff| assert_eq!((cutoff.cause, cutoff.at), (Cause::Cutoff, at(3))))
        .map(|cutoff| cutoff.selector)
        .collect();
    let mut expected: Vec<Selector> = ids.iter().map(|id| Selector::Lease(*id)).collect();
    new.sort_by_key(|selector| format!("{selector:?}"));
    expected.sort_by_key(|selector| format!("{selector:?}"));
    assert_eq!(new, expected, "the feed tells of each");
    assert_eq!(
        ledger.due_leases(at(3)).await.len(),
        71,
        "the end of the other claimed what was due before"
    );
    assert_eq!(ledger.revoke_all(&ids, Cause::Cutoff, at(4)).await.unwrap(), 0);
    assert_eq!(ledger.revoke_all(&[], Cause::Cutoff, at(4)).await.unwrap(), 0);
}

pub(super) async fn an_unknown_lease_is_refused(ledger: Subject) {
    let task = ledger.open_task().await;
    let unknown = lease_at(&task, at(1)).id;
    let handle = Handle("h".to_owned());
    assert_eq!(
        refusal(ledger.activate(unknown, &handle, at(9)).await),
        Refusal::NoLease
    );
    assert_eq!(
        refusal(ledger.renew(unknown, until(9), at(1)).await),
        Refusal::NoLease
    );
    assert_eq!(
        refusal(ledger.revoke(unknown, Cause::Revoked, at(1)).await),
        Refusal::NoLease
    );
}
