//! The rules of the ledger that need no store: plain functions that every adapter decides by.

use std::num::NonZeroU16;
use std::time::Duration;

use super::{Refusal, Renewal};
use crate::model::cutoff::{Cutoff, Selector};
use crate::model::lease::{Cause, Curtailed, Effort, Lease, LeaseState, Receipt, ReceiptSignature};
use crate::model::task::{Outcome, Task, TaskChange, TaskState};
use crate::model::time::Timestamp;
use crate::model::ttl::Bound;

/// How long a reservation may stay without being activated.
pub const MINT_TIME: Duration = Duration::from_secs(60);

/// How much [`claim_due`](super::Ledger::claim_due) gives at least, up to its limit, where so much is due.
pub const MANY_DUE: usize = 256;

/// The most entries of the feed in one answer.
pub const MOST_CHANGES: usize = 1000;

/// The most sub-tasks below one root that have not ended. They end with it in one step, which is as long as
/// they and their leases are many.
pub const MOST_SUB_TASKS: u32 = 100;

/// The longest `last_error` that is kept, in bytes.
const LONGEST_ERROR: usize = 256;

/// How much of a budget one of so many shards gives out without a look at the others: half of its equal
/// part, so that the other half of the budget is there for whoever needs it, in one shard or in many.
pub fn unasked(limit: u32, shards: NonZeroU16) -> u32 {
    match u32::from(shards.get()) {
        1 => limit,
        shards => limit / (2 * shards),
    }
}

/// How much of a budget one of so many shards may use, given what each of the others uses: what they
/// leave, and they may yet use what nobody asks them about. So all together never have more than `limit`.
pub fn room(limit: u32, shards: NonZeroU16, others: impl IntoIterator<Item = u32>) -> u32 {
    let unasked = unasked(limit, shards);
    let taken = others.into_iter().map(|used| used.max(unasked));
    taken.fold(limit, u32::saturating_sub)
}

/// When a lease falls due by itself: a reservation after [`MINT_TIME`], an active lease at its end.
/// `None` for a lease that already has to end, whose next attempt is somebody's decision.
pub fn due_at(lease: &Lease) -> Option<Timestamp> {
    match lease.state {
        LeaseState::Reserved => Some(lease.issued_at.plus(MINT_TIME).min(lease.expires_at)),
        LeaseState::Active => Some(lease.ends_at()),
        LeaseState::Revoking(_) | LeaseState::Stuck(_) | LeaseState::Ended { .. } => None,
    }
}

/// The state of a lease that has to end from now on.
pub fn revoking(cause: Cause, since: Timestamp) -> LeaseState {
    LeaseState::Revoking(Effort {
        cause,
        since,
        attempts: 0,
        last_error: None,
        next_at: since,
    })
}

/// The lease as it stands when it is next due at `due`. What was ordered stands among what is due as if it
/// had been due before ([`due_from`]), which is nobody's next attempt.
pub fn next_due(mut lease: Lease, due: Timestamp) -> Lease {
    if let LeaseState::Revoking(effort) | LeaseState::Stuck(effort) = &mut lease.state {
        effort.next_at = due.max(effort.since);
    }
    lease
}

/// Why a lease that fell due has to end, and since when. An active lease ended when it had to,
/// however late the reaper comes.
pub fn fallen_due(lease: &Lease, now: Timestamp) -> (Cause, Timestamp) {
    match (&lease.state, curtailed(lease)) {
        (LeaseState::Active, Some(curtailed)) => (curtailed.cause, curtailed.at),
        (LeaseState::Active, None) => (expiry(lease.bounded_by), lease.expires_at),
        _ => (Cause::Compensated, now),
    }
}

/// The end of a lease before that of its credential, if there is one.
pub fn curtailed(lease: &Lease) -> Option<Curtailed> {
    lease
        .curtailed
        .filter(|curtailed| curtailed.at < lease.expires_at)
}

/// Why a lease ends whose own time is up.
pub const fn expiry(bounded_by: Bound) -> Cause {
    match bounded_by {
        Bound::Attestation => Cause::AttestationExpired,
        _ => Cause::Expired,
    }
}

/// The lease with an earlier end; `None` where it ends as early already, or is not live.
pub fn curtailed_to(lease: &Lease, curtailed: Curtailed, now: Timestamp) -> Option<Lease> {
    let at = curtailed.at.max(now);
    let live = matches!(lease.state, LeaseState::Reserved | LeaseState::Active);
    (live && at < lease.ends_at()).then(|| Lease {
        curtailed: Some(Curtailed { at, ..curtailed }),
        ..lease.clone()
    })
}

/// The lease after a renewal; `None` where the credential of before gives it longer, or as long. A renewal
/// is a decision: where it gives less than that credential would last, it moves the earlier end.
pub fn renewed(lease: &Lease, terms: &Renewal) -> Option<Lease> {
    if terms.expires_at <= lease.ends_at() {
        return None;
    }
    let at = terms.expires_at;
    let curtailed = lease.curtailed.filter(|_| at < lease.expires_at);
    Some(Lease {
        expires_at: lease.expires_at.max(at),
        curtailed: curtailed.map(|curtailed| Curtailed { at, ..curtailed }),
        decision: terms.decision,
        bounded_by: terms.bounded_by,
        requested: terms.requested,
        vouched: terms.vouched,
        ..lease.clone()
    })
}

/// Whether somebody ordered this end, or it is as pressing as an order. It goes before what ends by itself.
pub fn is_ordered(cause: Cause) -> bool {
    match cause {
        Cause::Revoked
        | Cause::Cutoff
        | Cause::TaskEnded(Outcome::Revoked)
        | Cause::NotPermitted
        | Cause::Signal
        | Cause::AgentUnregistered
        | Cause::AgentSuspended
        | Cause::AttestationRevoked => true,
        Cause::Expired
        | Cause::TaskEnded(_)
        | Cause::TaskSuspended
        | Cause::Superseded
        | Cause::Compensated
        | Cause::Recovered
        | Cause::Vanished
        | Cause::Shortened
        | Cause::AgentUnowned
        | Cause::AgentRetired
        | Cause::ReviewOverdue
        | Cause::ToolRemoved
        | Cause::AttestationExpired => false,
    }
}

/// How far what was ordered to end goes ahead of what was due before.
const HEAD_START: Duration = Duration::from_secs(7 * 24 * 3600);

/// Where a lease that has to end from `now` on stands among what is due.
pub fn due_from(cause: Cause, now: Timestamp) -> Timestamp {
    if is_ordered(cause) {
        now.minus(HEAD_START)
    } else {
        now
    }
}

/// Before this instant stands in a schedule what was ordered to end lately, and from it on what was due by itself.
pub(super) fn between(now: Timestamp) -> Timestamp {
    now.minus(HEAD_START / 2)
}

/// Since when that has waited which has waited longest, of the first entry of each half of a schedule.
pub(super) fn waits_since(
    ordered: Option<Timestamp>,
    by_itself: Option<Timestamp>,
    now: Timestamp,
) -> Option<Timestamp> {
    let ordered = ordered
        .filter(|first| *first < between(now))
        .map(|first| first.plus(HEAD_START).min(now));
    let by_itself = by_itself.filter(|first| *first <= now);
    ordered.into_iter().chain(by_itself).min()
}

/// The effort of a lease that has to end.
pub fn effort(state: &LeaseState) -> Option<&Effort> {
    match state {
        LeaseState::Revoking(effort) | LeaseState::Stuck(effort) => Some(effort),
        LeaseState::Reserved | LeaseState::Active | LeaseState::Ended { .. } => None,
    }
}

/// The effort after one more failure, tried again at `next`. What went wrong is cut to 256 bytes.
pub fn failed_again(effort: &Effort, error: &str, next: Timestamp) -> Effort {
    let mut end = error.len().min(LONGEST_ERROR);
    while !error.is_char_boundary(end) {
        end -= 1;
    }
    Effort {
        cause: effort.cause,
        since: effort.since,
        attempts: effort.attempts.saturating_add(1),
        last_error: error.get(..end).map(str::to_owned),
        next_at: next.max(effort.since),
    }
}

/// The state of a stuck lease that somebody gives up.
pub fn abandoned(
    state: &LeaseState,
    signature: &ReceiptSignature,
    now: Timestamp,
) -> Result<LeaseState, Refusal> {
    match state {
        LeaseState::Stuck(effort) => Ok(LeaseState::Ended {
            cause: effort.cause,
            at: now,
            receipt: Receipt::Abandoned { at: now },
            signed: Some(signature.clone()),
        }),
        other => Err(Refusal::LeaseNotStuck(other.as_str())),
    }
}

/// Refuses unless the task is open at this instant. A task past its due instant counts as ended since
/// then, whether or not the reaper has come.
pub fn open_at(task: &Task, now: Timestamp) -> Result<(), Refusal> {
    match (task.state, task.due()) {
        (_, Some((at, outcome))) if at <= now => Err(Refusal::TaskNotOpen(TaskState::Ended { outcome, at })),
        (TaskState::Open, _) => Ok(()),
        (state, _) => Err(Refusal::TaskNotOpen(state)),
    }
}

/// Refuses unless a task above is open at this instant. Whoever asks for a sub-task is told how that stands.
pub fn open_above(above: &Task, now: Timestamp) -> Result<(), Refusal> {
    open_at(above, now).map_err(|refusal| match refusal {
        Refusal::TaskNotOpen(TaskState::Ended { at, .. }) => Refusal::TaskNotOpen(TaskState::Ended {
            outcome: Outcome::ParentEnded,
            at,
        }),
        other => other,
    })
}

/// Why the leases of sub-tasks have to end where those of the task above do for this cause.
pub const fn cause_below(cause: Cause) -> Cause {
    match cause {
        Cause::TaskEnded(_) => Cause::TaskEnded(Outcome::ParentEnded),
        other => other,
    }
}

/// A sub-task after the end of a task above.
pub fn ended_with_parent(task: &Task, now: Timestamp) -> Task {
    let outcome = Outcome::ParentEnded;
    Task {
        state: TaskState::Ended { outcome, at: now },
        ..task.clone()
    }
}

/// Refuses unless the lease itself is active at this instant. Its task and the cutoffs have their say too.
pub fn live_at(lease: &Lease, now: Timestamp) -> Result<(), Refusal> {
    match &lease.state {
        LeaseState::Active if lease.is_live(now) => Ok(()),
        LeaseState::Active => Err(Refusal::LeaseNotOpen("expired")),
        other => Err(Refusal::LeaseNotOpen(other.as_str())),
    }
}

/// The task after a change, and why its live leases have to end, if they do.
/// `None` when the change finds everything as it wants it.
///
/// A task past its due instant can be ended and nothing else: the reaper says how it ended.
pub fn advanced(
    task: &Task,
    change: TaskChange,
    now: Timestamp,
) -> Result<Option<(Task, Option<Cause>)>, Refusal> {
    let state = match (task.state, task.due()) {
        (_, Some((at, outcome))) if at <= now => TaskState::Ended { outcome, at },
        (state, _) => state,
    };
    let to = |state, beat_at| Task {
        state,
        beat_at,
        ..task.clone()
    };
    match (change, state) {
        (TaskChange::End(_), _) if matches!(task.state, TaskState::Ended { .. }) => Ok(None),
        (TaskChange::End(outcome), _) => {
            let ended = to(TaskState::Ended { outcome, at: now }, task.beat_at);
            Ok(Some((ended, Some(Cause::TaskEnded(outcome)))))
        }
        (TaskChange::Suspend, TaskState::Suspended) | (TaskChange::Resume, TaskState::Open) => Ok(None),
        (TaskChange::Beat, TaskState::Open) => Ok(Some((to(TaskState::Open, task.beat_at.max(now)), None))),
        (TaskChange::Suspend, TaskState::Open) => {
            let suspended = to(TaskState::Suspended, task.beat_at);
            Ok(Some((suspended, Some(Cause::TaskSuspended))))
        }
        (TaskChange::Resume, TaskState::Suspended) => Ok(Some((to(TaskState::Open, now), None))),
        (TaskChange::Beat | TaskChange::Suspend | TaskChange::Resume, state) => {
            Err(Refusal::TaskNotOpen(state))
        }
    }
}

/// Every selector that fits the lease: the keys under which a cutoff on it can be found.
pub fn selectors(lease: &Lease) -> impl Iterator<Item = Selector> {
    [
        Some(Selector::All),
        Some(Selector::Tool(lease.tool.clone())),
        lease.on_behalf_of.clone().map(Selector::User),
        Some(Selector::Environment(lease.environment.clone())),
        Some(Selector::Lease(lease.id)),
    ]
    .into_iter()
    .flatten()
    .chain(lease.trust_domains().cloned().map(Selector::TrustDomain))
    .chain(lease.agents().cloned().map(Selector::Agent))
    .chain(lease.tasks().map(Selector::Task))
}

/// The cutoff that tells of the end of one lease.
pub fn lease_cutoff(lease: &Lease, cause: Cause, at: Timestamp) -> Cutoff {
    Cutoff {
        selector: Selector::Lease(lease.id),
        up_to: Timestamp::MAX,
        at,
        cause,
    }
}

/// The cutoff that tells of the end of a task.
pub fn task_cutoff(task: &Task, cause: Cause, at: Timestamp) -> Cutoff {
    Cutoff {
        selector: Selector::Task(task.charter.id),
        up_to: Timestamp::MAX,
        at,
        cause,
    }
}

/// Until when a cutoff can still match something that lives: no lease that it matches is renewed, and none
/// lives for longer than the retention without that.
pub fn in_force_until(cutoff: &Cutoff, retention: Duration) -> Timestamp {
    cutoff.up_to.max(cutoff.at).plus(retention)
}

/// Whether `cutoff` ends nothing that `standing`, on the same selector, does not end already.
pub fn adds_nothing(cutoff: &Cutoff, standing: &Cutoff) -> bool {
    cutoff.up_to <= standing.up_to
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_shards_together_never_have_more_than_the_budget() {
        for (limit, shards) in [
            (0, 8),
            (1, 8),
            (15, 8),
            (16, 8),
            (200, 64),
            (6400, 64),
            (u32::MAX, 4096),
        ] {
            let count = NonZeroU16::new(shards).unwrap();
            let mut used = vec![unasked(limit, count); usize::from(shards)];
            for shard in 0..used.len() {
                let others = (0..used.len())
                    .filter(|other| *other != shard)
                    .map(|other| used[other]);
                let room = room(limit, count, others.collect::<Vec<_>>());
                used[shard] = used[shard].max(room);
                assert!(used.iter().map(|used| u64::from(*used)).sum::<u64>() <= u64::from(limit));
            }
            assert_eq!(
                used.iter().map(|used| u64::from(*used)).sum::<u64>(),
                u64::from(limit)
            );
        }
    }

    #[test]
    fn one_task_alone_may_have_half_of_a_budget_and_all_of_a_small_one() {
        let alone = |limit, shards: u16| {
            let idle = vec![0; usize::from(shards) - 1];
            room(limit, NonZeroU16::new(shards).unwrap(), idle)
        };
        assert_eq!(
            [alone(100, 1), alone(100, 64), alone(200, 64), alone(6400, 64)],
            [100, 100, 137, 3250]
        );
    }
}
