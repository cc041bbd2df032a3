//! What falls due, who works at it, and what becomes of it.

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::sync::Arc;

use dayfly::ledger::rules::{self, MINT_TIME};
use dayfly::ledger::{
    Budgets, Claim, Filter, LeaseClaim, Ledger, Page, Refusal, Renewal, Settlement, StateName,
};
use dayfly::model::cutoff::Selector;
use dayfly::model::ids::Slot;
use dayfly::model::lease::{Cause, Curtailed, Effort, Handle, Lease, LeaseState, Receipt};
use dayfly::model::task::{Outcome, TaskChange};
use dayfly::model::ttl::{Bound, Ttl};

use super::{
    HOLD, NO_FACTS, RETENTION, START, Shorthand as _, TASK_LIFE, active_at, at, cause_of, ended, lease_at,
    refusal, secs, signature, task_at, until,
};

type Subject = Arc<dyn Ledger>;

pub(super) async fn an_expired_lease_is_claimed(ledger: Subject) {
    let task = ledger.open_task().await;
    let lease = ledger.hold(active_at(&task, at(1))).await;
    assert!(ledger.due(at(300)).await.is_empty(), "one second too early");
    let claims = ledger.due_leases(at(310)).await;
    let [claim] = claims.as_slice() else {
        panic!("{claims:?}")
    };
    let LeaseState::Revoking(effort) = &claim.lease.state else {
        panic!("{claim:?}")
    };
    assert_eq!((effort.cause, effort.since), (Cause::Expired, lease.expires_at));
    assert_eq!(
        ledger.stored(lease.id).await,
        claim.lease,
        "and it is written down so"
    );
    assert_eq!(ledger.told().await, [], "its time was up for everybody");
}

pub(super) async fn what_waits_longest_is_known_without_looking_at_the_rest(ledger: Subject) {
    let task = ledger.open_task().await;
    let since = async |now| ledger.due_since(at(now)).await.unwrap();
    assert_eq!(since(1).await, None);
    let lease = ledger.hold(active_at(&task, at(1))).await;
    let due = lease.expires_at;
    assert_eq!(since(300).await, None, "one second too early");
    assert_eq!(ledger.due_since(due.plus(secs(20))).await.unwrap(), Some(due));

    let ordered = ledger.hold(active_at(&task, at(2))).await;
    ledger.revoke(ordered.id, Cause::Revoked, at(290)).await.unwrap();
    assert_eq!(
        since(290).await,
        Some(at(290)),
        "an order goes ahead, and does not wait longer for it"
    );
    assert_eq!(since(299).await, Some(at(290)));
    assert_eq!(ledger.due_since(due.plus(secs(20))).await.unwrap(), Some(at(290)));

    assert_eq!(ledger.due_leases(at(299)).await.len(), 1);
    assert_eq!(since(299).await, None, "somebody is at it");
}

pub(super) async fn a_lease_that_was_bound_to_its_evidence_ends_with_it(ledger: Subject) {
    let task = ledger.open_task().await;
    let bound = Lease {
        bounded_by: Bound::Attestation,
        ..active_at(&task, at(1))
    };
    let bound = ledger.hold(bound).await;
    let renewed = ledger.hold(active_at(&task, at(1))).await;
    let terms = Renewal {
        bounded_by: Bound::Attestation,
        ..until(302)
    };
    ledger.renew(renewed.id, terms, at(2)).await.unwrap();
    for (lease, since) in [(bound, at(301)), (renewed, at(302))] {
        let claim = ledger.due_leases(since).await.pop().unwrap();
        let effort = rules::effort(&claim.lease.state).unwrap();
        assert_eq!(claim.lease.id, lease.id);
        assert_eq!((effort.cause, effort.since), (Cause::AttestationExpired, since));
    }
    assert_eq!(ledger.told().await, [], "their time was up for everybody");
}

/// Its credential looks as if it were good for longer, so everybody is told.
pub(super) async fn a_curtailed_lease_falls_due_before_its_credential_does(ledger: Subject) {
    let task = ledger.open_task().await;
    let cause = Cause::Shortened;
    let curtailed = |at| Some(Curtailed { at, cause });
    let lease = Lease {
        curtailed: curtailed(at(60)),
        ..active_at(&task, at(1))
    };
    let lease = ledger.hold(lease).await;
    assert!(lease.is_live(at(59)) && !lease.is_live(at(60)));
    let reserved = Lease {
        curtailed: curtailed(at(50)),
        ..lease_at(&task, at(1))
    };
    let reserved = ledger.hold(reserved).await;
    let handle = Handle("h".to_owned());
    ledger.activate(reserved.id, &handle, at(300)).await.unwrap();
    assert!(ledger.due(at(49)).await.is_empty());
    for (lease, since) in [(&reserved, at(50)), (&lease, at(60))] {
        let claims = ledger.due_leases(since).await;
        let [claim] = claims.as_slice() else {
            panic!("{claims:?}")
        };
        let effort = rules::effort(&claim.lease.state).unwrap();
        assert_eq!((claim.lease.id, claim.lease.curtailed), (lease.id, None));
        assert_eq!((effort.cause, effort.since), (cause, since));
        assert_eq!(claim.lease, ledger.stored(lease.id).await);
    }
    let ends = [reserved.id, lease.id].map(Selector::Lease);
    assert_eq!(ledger.told().await, ends);

    // The provider gave it less than that.
    let short = Lease {
        curtailed: curtailed(at(120)),
        ..lease_at(&task, at(61))
    };
    let short = ledger.hold(short).await;
    ledger.activate(short.id, &handle, at(110)).await.unwrap();
    let claims = ledger.due(at(119)).await;
    let claim = claims.iter().find_map(|claim| match claim {
        Claim::Lease(claim) if claim.lease.id == short.id => Some(&claim.lease),
        _ => None,
    });
    assert_eq!(cause_of(claim.unwrap()), Some(Cause::Expired));
    assert_eq!(ledger.told().await, ends);
}

pub(super) async fn an_abandoned_reservation_is_claimed(ledger: Subject) {
    let task = ledger.open_task().await;
    let lease = ledger.hold(lease_at(&task, at(1))).await;
    assert!(ledger.due(at(0).plus(MINT_TIME)).await.is_empty());
    let now = at(1).plus(MINT_TIME);
    let claims = ledger.due_leases(now).await;
    assert_eq!(
        claims
            .iter()
            .map(|claim| cause_of(&claim.lease))
            .collect::<Vec<_>>(),
        [Some(Cause::Compensated)]
    );
    assert_eq!(
        ledger.told().await,
        [Selector::Lease(lease.id)],
        "a credential may be out"
    );
}

pub(super) async fn a_short_reservation_is_claimed_at_its_expiry(ledger: Subject) {
    let task = ledger.open_task().await;
    let lease = Lease {
        expires_at: at(11),
        ..lease_at(&task, at(1))
    };
    ledger.hold(lease).await;
    assert!(ledger.due(at(10)).await.is_empty());
    let claims = ledger.due_leases(at(11)).await;
    assert_eq!(
        claims
            .iter()
            .map(|claim| cause_of(&claim.lease))
            .collect::<Vec<_>>(),
        [Some(Cause::Compensated)]
    );
    assert_eq!(ledger.told().await, [], "whatever was minted is over too");
}

pub(super) async fn a_task_past_its_deadline_is_claimed(ledger: Subject) {
    let mut task = task_at(START);
    task.charter.heartbeat = Ttl::from_secs(60);
    let task = ledger.opened(task).await;
    let task = ledger.advanced(&task, TaskChange::Suspend, at(1)).await;
    let deadline = START.plus(TASK_LIFE);
    assert!(
        ledger.due(deadline.minus(secs(1))).await.is_empty(),
        "a suspended task sends no beats"
    );
    let claims = ledger.due(deadline).await;
    assert_eq!(claims, [Claim::Task(Box::new(task), Outcome::Expired)]);
}

pub(super) async fn a_lost_task_is_claimed(ledger: Subject) {
    let mut task = task_at(START);
    task.charter.heartbeat = Ttl::from_secs(60);
    let task = ledger.opened(task).await;
    let task = ledger.advanced(&task, TaskChange::Beat, at(30)).await;
    assert!(ledger.due(at(89)).await.is_empty());
    assert_eq!(
        ledger.due(at(90)).await,
        [Claim::Task(Box::new(task), Outcome::Lost)]
    );
}

pub(super) async fn a_claimed_task_returns_until_it_is_ended(ledger: Subject) {
    let task = ledger.open_task().await;
    let due = START.plus(TASK_LIFE);
    assert_eq!(ledger.due(due).await.len(), 1);
    assert!(
        ledger.due(due.plus(HOLD).minus(secs(1))).await.is_empty(),
        "somebody is at it"
    );
    assert_eq!(ledger.due(due.plus(HOLD)).await.len(), 1, "nobody ended it");
    ledger
        .advanced(&task, TaskChange::End(Outcome::Expired), due.plus(HOLD))
        .await;
    assert!(ledger.due(due.plus(HOLD).plus(HOLD)).await.is_empty());
}

pub(super) async fn a_hold_excludes_others(ledger: Subject) {
    let task = ledger.open_task().await;
    let lease = ledger.hold(active_at(&task, at(1))).await;
    ledger.revoke(lease.id, Cause::Revoked, at(2)).await.unwrap();
    assert_eq!(ledger.due_leases(at(2)).await.len(), 1);
    assert!(ledger.due(at(31)).await.is_empty(), "held until the 32nd second");
    ledger.revoke(lease.id, Cause::Revoked, at(31)).await.unwrap();
    assert!(
        ledger.due(at(31)).await.is_empty(),
        "revoking again does not break the hold"
    );
    assert_eq!(ledger.due_leases(at(32)).await.len(), 1, "the claim returned");
}

pub(super) async fn a_late_settlement_is_refused(ledger: Subject) {
    let task = ledger.open_task().await;
    let lease = ledger.hold(active_at(&task, at(1))).await;
    ledger.revoke(lease.id, Cause::Revoked, at(2)).await.unwrap();
    let late = ledger.due_leases(at(2)).await.pop().unwrap();
    let now = at(2).plus(HOLD);
    let current = ledger.due_leases(now).await.pop().unwrap();
    assert_ne!(late.hold, current.hold);

    for settlement in [ended(now), Settlement::RetryAt(now, "no answer".to_owned())] {
        assert_eq!(
            refusal(ledger.settle(&late, settlement, now).await),
            Refusal::ClaimLost
        );
    }
    assert_eq!(
        ledger.stored(lease.id).await,
        current.lease,
        "a refusal changes nothing"
    );
    ledger.settle(&current, ended(now), now).await.unwrap();
    assert_eq!(
        refusal(ledger.settle(&late, ended(now), now).await),
        Refusal::ClaimLost
    );
}

pub(super) async fn a_hold_that_nobody_took_over_settles(ledger: Subject) {
    let task = ledger.open_task().await;
    let lease = ledger.hold(active_at(&task, at(1))).await;
    ledger.revoke(lease.id, Cause::Revoked, at(2)).await.unwrap();
    let claim = ledger.due_leases(at(2)).await.pop().unwrap();
    let late = at(3).plus(HOLD);
    ledger.settle(&claim, ended(late), late).await.unwrap();
    assert_eq!(ledger.stored(lease.id).await.state.as_str(), "ended");
    assert!(ledger.due(late).await.is_empty());
}

pub(super) async fn an_end_is_settled_once(ledger: Subject) {
    let task = ledger.open_task().await;
    let lease = ledger.hold(active_at(&task, at(1))).await;
    ledger.revoke(lease.id, Cause::Revoked, at(2)).await.unwrap();
    let claim = ledger.due_leases(at(2)).await.pop().unwrap();
    let receipt = Receipt::VerifiedAbsent { at: at(3) };
    ledger
        .settle(&claim, Settlement::Ended(receipt, signature(at(4))), at(4))
        .await
        .unwrap();
    let state = LeaseState::Ended {
        cause: Cause::Revoked,
        at: at(4),
        receipt,
        signed: Some(signature(at(4))),
    };
    assert_eq!(ledger.stored(lease.id).await.state, state);
    assert_eq!(
        refusal(ledger.settle(&claim, ended(at(5)), at(5)).await),
        Refusal::ClaimLost
    );
    assert_eq!(ledger.stored(lease.id).await.state, state);
}

pub(super) async fn a_retry_comes_when_it_was_said(ledger: Subject) {
    let task = ledger.open_task().await;
    let lease = ledger.hold(active_at(&task, at(1))).await;
    ledger.revoke(lease.id, Cause::Revoked, at(2)).await.unwrap();
    let claim = ledger.due_leases(at(2)).await.pop().unwrap();
    for (attempt, (now, next)) in [(at(3), at(10)), (at(11), at(100))].into_iter().enumerate() {
        let claim = if attempt == 0 {
            claim.clone()
        } else {
            ledger.due_leases(now).await.pop().unwrap()
        };
        let retry = Settlement::RetryAt(next, format!("failure {attempt}"));
        ledger.settle(&claim, retry, now).await.unwrap();
        let LeaseState::Revoking(effort) = ledger.stored(lease.id).await.state else {
            panic!("not revoking")
        };
        assert_eq!(usize::try_from(effort.attempts).unwrap(), attempt + 1);
        assert_eq!(effort.last_error, Some(format!("failure {attempt}")));
        assert_eq!((effort.cause, effort.since), (Cause::Revoked, at(2)));
        assert!(ledger.due(next.minus(secs(1))).await.is_empty());
    }
    assert_eq!(ledger.due_leases(at(100)).await.len(), 1);
}

pub(super) async fn a_stuck_lease_comes_back(ledger: Subject) {
    let task = ledger.open_task().await;
    let lease = ledger.hold(active_at(&task, at(1))).await;
    ledger.revoke(lease.id, Cause::Revoked, at(2)).await.unwrap();
    let claim = ledger.due_leases(at(2)).await.pop().unwrap();
    let stuck = Settlement::Stuck(at(200), "access denied".to_owned());
    ledger.settle(&claim, stuck, at(3)).await.unwrap();
    let LeaseState::Stuck(effort) = ledger.stored(lease.id).await.state else {
        panic!("not stuck")
    };
    assert_eq!(
        (effort.attempts, effort.last_error.as_deref()),
        (1, Some("access denied"))
    );
    assert_eq!(effort.next_at, at(200));
    assert!(ledger.due(at(199)).await.is_empty());

    let claim = ledger.due_leases(at(200)).await.pop().unwrap();
    let held = Effort {
        next_at: at(200).plus(HOLD),
        ..effort
    };
    assert_eq!(
        claim.lease.state,
        LeaseState::Stuck(held),
        "a claim leaves it stuck"
    );
    ledger.settle(&claim, ended(at(201)), at(201)).await.unwrap();
    assert_eq!(ledger.stored(lease.id).await.state.as_str(), "ended");
}

pub(super) async fn what_is_put_off_counts_as_no_attempt(ledger: Subject) {
    let task = ledger.open_task().await;
    let lease = ledger.hold(active_at(&task, at(1))).await;
    ledger.revoke(lease.id, Cause::Revoked, at(2)).await.unwrap();
    let first = ledger.due_leases(at(2)).await.pop().unwrap();
    ledger
        .settle(&first, Settlement::PutOff(at(10)), at(3))
        .await
        .unwrap();
    assert_eq!(
        ledger.stored(lease.id).await,
        rules::next_due(first.lease.clone(), at(10)),
        "nothing changes but when"
    );
    assert!(ledger.due(at(9)).await.is_empty());
    let lost = ledger.settle(&first, ended(at(9)), at(9)).await;
    assert_eq!(refusal(lost), Refusal::ClaimLost, "a hold is good for one word");

    let claim = ledger.due_leases(at(10)).await.pop().unwrap();
    let stuck = Settlement::Stuck(at(20), "access denied".to_owned());
    ledger.settle(&claim, stuck, at(11)).await.unwrap();
    let stuck = ledger.stored(lease.id).await;
    let claim = ledger.due_leases(at(20)).await.pop().unwrap();
    ledger
        .settle(&claim, Settlement::PutOff(at(30)), at(21))
        .await
        .unwrap();
    assert_eq!(
        ledger.stored(lease.id).await,
        rules::next_due(stuck, at(30)),
        "what is stuck stays stuck"
    );
    assert_eq!(ledger.due_leases(at(30)).await.len(), 1);
}

pub(super) async fn many_are_settled_at_once_and_each_by_itself(ledger: Subject) {
    let one = Budgets {
        task: Some(25),
        ..Budgets::default()
    };
    let full = ledger.open_task().await;
    let mut tasks = vec![full.clone()];
    for slot in 0..5 {
        tasks.push(ledger.opened(super::task_in(Slot::new(slot * 97), START)).await);
    }
    for task in &tasks {
        for _ in 0..25 {
            let lease = ledger.hold(active_at(task, at(1))).await;
            ledger.revoke(lease.id, Cause::Revoked, at(2)).await.unwrap();
        }
    }
    let claims = ledger.due_leases(at(3)).await;
    assert_eq!(claims.len(), 150);
    let lost = claims[7].clone();
    ledger.settle(&lost, ended(at(4)), at(4)).await.unwrap();
    let other = |place: usize| match place {
        60 => Settlement::RetryAt(at(20), "no answer".to_owned()),
        61 => Settlement::Stuck(at(20), "access denied".to_owned()),
        62 => Settlement::PutOff(at(20)),
        _ => ended(at(5)),
    };
    let mut settled: Vec<(LeaseClaim, Settlement)> = claims
        .iter()
        .enumerate()
        .map(|(place, claim)| (claim.clone(), other(place)))
        .collect();
    // A hold is good for one word, also within one call.
    settled.push((claims[62].clone(), ended(at(5))));
    settled.push((claims[90].clone(), ended(at(5))));
    let answers = ledger.settle_all(&settled, at(5)).await;
    assert_eq!(answers.len(), 152);
    for (place, answer) in answers.into_iter().enumerate() {
        match place {
            7 | 150 | 151 => assert_eq!(refusal(answer), Refusal::ClaimLost, "{place}"),
            _ => answer.unwrap(),
        }
    }
    for (place, claim) in claims.iter().enumerate() {
        let state = ledger.stored(claim.lease.id).await.state;
        let LeaseState::Revoking(before) = &claim.lease.state else {
            panic!("claimed, and not to be ended")
        };
        let effort = |attempts, error: Option<&str>| Effort {
            attempts,
            last_error: error.map(str::to_owned),
            next_at: at(20),
            ..before.clone()
        };
        let over = |at| LeaseState::Ended {
            cause: Cause::Revoked,
            at,
            receipt: Receipt::VerifiedAbsent { at },
            signed: Some(signature(at)),
        };
        let expected = match place {
            7 => over(at(4)),
            60 => LeaseState::Revoking(effort(1, Some("no answer"))),
            61 => LeaseState::Stuck(effort(1, Some("access denied"))),
            62 => LeaseState::Revoking(effort(0, None)),
            _ => over(at(5)),
        };
        assert_eq!(state, expected, "{place}");
    }
    assert!(ledger.due(at(19)).await.is_empty(), "what ended is due no more");
    assert_eq!(ledger.due_leases(at(20)).await.len(), 3);
    let next = active_at(&full, at(6));
    ledger
        .reserve(&next, &one, None, NO_FACTS)
        .await
        .expect("each end frees a place in the budgets");
    let page = Page {
        after: None,
        limit: NonZeroUsize::new(500).unwrap(),
    };
    let ended = Filter {
        state: Some(StateName::Ended),
        agent: Some("support-bot".parse().unwrap()),
        ..Filter::default()
    };
    assert_eq!(ledger.find(&ended, &page).await.unwrap().len(), 147);
    assert!(ledger.settle_all(&[], at(6)).await.is_empty());
}

pub(super) async fn what_is_due_is_claimed_once_however_much_it_is(ledger: Subject) {
    let task = ledger.open_task().await;
    let mut held = HashSet::new();
    for _ in 0..300 {
        held.insert(ledger.hold(active_at(&task, at(1))).await.id);
    }
    assert_eq!(
        ledger
            .revoke_all(&held.iter().copied().collect::<Vec<_>>(), Cause::Revoked, at(2))
            .await
            .unwrap(),
        300
    );
    let most = NonZeroUsize::new(10_000).unwrap();
    let first = ledger.claim_due(at(3), HOLD, most).await.unwrap();
    assert!(first.len() >= rules::MANY_DUE, "{}", first.len());
    let mut claimed = HashSet::new();
    let rest = ledger.due(at(3)).await;
    for claim in first.into_iter().chain(rest) {
        let Claim::Lease(claim) = claim else {
            panic!("no task is due")
        };
        assert!(claimed.insert(claim.lease.id));
    }
    assert_eq!(claimed, held);
}

pub(super) async fn an_order_goes_before_what_fell_due_by_itself(ledger: Subject) {
    let task = ledger.open_task().await;
    let mut old = Vec::new();
    for place in 0..5 {
        old.push(ledger.hold(active_at(&task, at(place))).await.id);
    }
    let ordered = ledger.hold(active_at(&task, at(200))).await.id;
    ledger.revoke(ordered, Cause::Cutoff, at(400)).await.unwrap();
    let other = ledger.open_task().await;
    let whole = ledger.hold(active_at(&other, at(201))).await.id;
    ledger
        .advance(other.charter.id, TaskChange::End(Outcome::Revoked), at(400))
        .await
        .unwrap();
    let two = NonZeroUsize::new(2).unwrap();
    let mut claimed: Vec<_> = ledger
        .claim_due(at(401), HOLD, two)
        .await
        .unwrap()
        .into_iter()
        .map(|claim| match claim {
            Claim::Lease(claim) => claim.lease.id,
            Claim::Task(task, _) => panic!("{task:?}"),
        })
        .collect();
    claimed.sort_unstable();
    assert_eq!(claimed, [ordered, whole]);
}

/// A lease that is stuck since second 3, next due at second 300.
async fn stuck(ledger: &Subject) -> Lease {
    let task = ledger.open_task().await;
    let lease = ledger.hold(active_at(&task, at(1))).await;
    ledger.revoke(lease.id, Cause::Revoked, at(2)).await.unwrap();
    let claim = ledger.due_leases(at(2)).await.pop().unwrap();
    let stuck = Settlement::Stuck(at(300), "access denied".to_owned());
    ledger.settle(&claim, stuck, at(3)).await.unwrap();
    ledger.stored(lease.id).await
}

pub(super) async fn what_waits_is_tried_again_at_once_on_order(ledger: Subject) {
    let lease = stuck(&ledger).await;
    let now = at(50);
    let retried = ledger.retry(lease.id, now).await.unwrap();
    assert_eq!(retried, rules::next_due(lease, now), "nothing changes but when");
    assert_eq!(ledger.stored(retried.id).await, retried);
    assert_eq!(
        ledger.retry(retried.id, at(51)).await.unwrap(),
        retried,
        "it is due"
    );
    let claim = ledger.due_leases(at(52)).await.pop().unwrap();
    assert_eq!(claim.lease.id, retried.id);
    ledger.settle(&claim, ended(at(53)), at(53)).await.unwrap();
    assert_eq!(
        refusal(ledger.retry(retried.id, at(54)).await),
        Refusal::LeaseNotEnding("ended")
    );
}

pub(super) async fn an_order_to_try_again_leaves_a_hold_alone(ledger: Subject) {
    let lease = stuck(&ledger).await;
    // The second hold follows one that ran out.
    ledger.due_leases(at(300)).await;
    let now = at(301).plus(HOLD);
    let claim = ledger.due_leases(now).await.pop().unwrap();
    assert_eq!(ledger.retry(lease.id, now).await.unwrap(), claim.lease);
    assert!(ledger.due(now).await.is_empty(), "somebody is at it");
    let retry = Settlement::RetryAt(now.plus(HOLD), "no answer".to_owned());
    ledger.settle(&claim, retry, now).await.unwrap();
    ledger.retry(lease.id, now).await.unwrap();
    assert_eq!(ledger.due_leases(now).await.len(), 1, "nobody is any more");
}

pub(super) async fn only_what_has_to_end_is_tried_again(ledger: Subject) {
    let task = ledger.open_task().await;
    let reserved = ledger.hold(lease_at(&task, at(1))).await.id;
    let active = ledger.hold(active_at(&task, at(1))).await.id;
    for (id, state) in [(reserved, "reserved"), (active, "active")] {
        assert_eq!(
            refusal(ledger.retry(id, at(2)).await),
            Refusal::LeaseNotEnding(state)
        );
    }
    let unknown = lease_at(&task, at(1)).id;
    assert_eq!(refusal(ledger.retry(unknown, at(2)).await), Refusal::NoLease);
    ledger.revoke(active, Cause::Revoked, at(2)).await.unwrap();
    let revoking = ledger.retry(active, at(9)).await.unwrap();
    assert_eq!(ledger.stored(active).await, revoking);
    assert_eq!(
        ledger.due_leases(at(9)).await.len(),
        1,
        "an order keeps its place among what is due"
    );
}

pub(super) async fn a_stuck_lease_can_be_abandoned(ledger: Subject) {
    let lease = stuck(&ledger).await;
    let one = Budgets {
        task: Some(1),
        agent: Some(1),
        tool: Some(1),
    };
    let task = ledger.task(lease.task).await.unwrap().unwrap();
    let next = active_at(&task, at(4));
    assert!(matches!(
        refusal(ledger.reserve(&next, &one, None, NO_FACTS).await),
        Refusal::Budget { .. }
    ));
    let now = at(50);
    let abandoned = ledger.abandon(&lease, &signature(now), now).await.unwrap();
    let state = LeaseState::Ended {
        cause: Cause::Revoked,
        at: now,
        receipt: Receipt::Abandoned { at: now },
        signed: Some(signature(now)),
    };
    assert_eq!(abandoned, Lease { state, ..lease });
    assert_eq!(ledger.stored(abandoned.id).await, abandoned);
    ledger
        .reserve(&next, &one, None, NO_FACTS)
        .await
        .expect("an end frees the budgets");
    let stuck = Filter {
        state: Some(StateName::Stuck),
        ..Filter::default()
    };
    let page = Page {
        after: None,
        limit: super::most(),
    };
    assert_eq!(ledger.find(&stuck, &page).await.unwrap(), []);
    assert!(ledger.due(at(300)).await.is_empty(), "nobody tries any more");
    assert_eq!(
        refusal(ledger.abandon(&abandoned, &signature(now), at(301)).await),
        Refusal::LeaseNotStuck("ended")
    );
    ledger.due(at(51).plus(RETENTION)).await;
    assert_eq!(
        ledger.lease(abandoned.id).await.unwrap(),
        None,
        "forgotten like any"
    );
}

pub(super) async fn whoever_is_at_an_abandoned_lease_loses_it(ledger: Subject) {
    let lease = stuck(&ledger).await;
    let claim = ledger.due_leases(at(300)).await.pop().unwrap();
    let abandoned = ledger
        .abandon(&lease, &signature(at(301)), at(301))
        .await
        .unwrap();
    for settlement in [
        ended(at(302)),
        Settlement::RetryAt(at(400), "no answer".to_owned()),
        Settlement::PutOff(at(400)),
    ] {
        assert_eq!(
            refusal(ledger.settle(&claim, settlement, at(302)).await),
            Refusal::ClaimLost
        );
    }
    assert_eq!(ledger.stored(lease.id).await, abandoned);
}

pub(super) async fn only_a_stuck_lease_can_be_abandoned(ledger: Subject) {
    let task = ledger.open_task().await;
    let lease = ledger.hold(active_at(&task, at(1))).await;
    assert_eq!(
        refusal(ledger.abandon(&lease, &signature(at(2)), at(2)).await),
        Refusal::LeaseNotStuck("active")
    );
    ledger.revoke(lease.id, Cause::Revoked, at(2)).await.unwrap();
    assert_eq!(
        refusal(ledger.abandon(&lease, &signature(at(2)), at(2)).await),
        Refusal::LeaseNotStuck("revoking")
    );
    let unknown = lease_at(&task, at(1));
    assert_eq!(
        refusal(ledger.abandon(&unknown, &signature(at(2)), at(2)).await),
        Refusal::NoLease
    );
    assert_eq!(
        ledger.due_leases(at(2)).await.len(),
        1,
        "a refusal changes nothing"
    );
}

pub(super) async fn an_error_is_kept_short(ledger: Subject) {
    let task = ledger.open_task().await;
    let lease = ledger.hold(active_at(&task, at(1))).await;
    ledger.revoke(lease.id, Cause::Revoked, at(2)).await.unwrap();
    let claim = ledger.due_leases(at(2)).await.pop().unwrap();
    ledger
        .settle(
            &claim,
            Settlement::RetryAt(at(9), format!("x{}", "ä".repeat(500))),
            at(3),
        )
        .await
        .unwrap();
    let LeaseState::Revoking(effort) = ledger.stored(lease.id).await.state else {
        panic!("not revoking")
    };
    assert_eq!(
        effort.last_error.unwrap().len(),
        255,
        "at most 256 bytes, whole characters"
    );
}

pub(super) async fn the_longest_due_come_first(ledger: Subject) {
    let task = ledger.open_task().await;
    let mut leases = Vec::new();
    for expiry in [50, 20, 40, 10, 30] {
        let lease = Lease {
            expires_at: at(expiry),
            ..active_at(&task, at(1))
        };
        leases.push(ledger.hold(lease).await);
    }
    leases.sort_by_key(|lease| lease.expires_at);
    let two = NonZeroUsize::new(2).unwrap();
    for pair in leases.chunks(2) {
        let claims = ledger.claim_due(at(60), HOLD, two).await.unwrap();
        let ids = claims.iter().map(|claim| match claim {
            Claim::Lease(claim) => claim.lease.id,
            Claim::Task(..) => panic!("no task is due"),
        });
        assert_eq!(
            ids.collect::<Vec<_>>(),
            pair.iter().map(|lease| lease.id).collect::<Vec<_>>()
        );
    }
}

pub(super) async fn the_limit_is_kept(ledger: Subject) {
    for slot in 0..8 {
        let task = ledger
            .opened(super::task_in(dayfly::model::ids::Slot::new(slot), START))
            .await;
        ledger.hold(active_at(&task, at(1))).await;
    }
    let now = START.plus(TASK_LIFE);
    let three = NonZeroUsize::new(3).unwrap();
    let mut total = 0;
    loop {
        let claims = ledger.claim_due(now, HOLD, three).await.unwrap().len();
        assert!(claims <= 3, "{claims}");
        total += claims;
        if claims == 0 {
            break;
        }
    }
    assert_eq!(total, 16, "8 leases and 8 tasks, each once");
}

pub(super) async fn ended_leases_are_forgotten(ledger: Subject) {
    let mut task = task_at(START);
    task.charter.deadline = START.plus(RETENTION).plus(RETENTION);
    let task = ledger.opened(task).await;
    let lease = ledger.hold(active_at(&task, at(1))).await;
    ledger.end(lease.id, at(10)).await;
    ledger.due(at(9).plus(RETENTION)).await;
    assert!(ledger.lease(lease.id).await.unwrap().is_some());
    ledger.due(at(11).plus(RETENTION)).await;
    assert_eq!(ledger.lease(lease.id).await.unwrap(), None);
    assert_eq!(
        refusal(ledger.revoke(lease.id, Cause::Revoked, at(12)).await),
        Refusal::NoLease
    );
    assert!(
        ledger.task(task.charter.id).await.unwrap().is_some(),
        "its task lives on"
    );
}
