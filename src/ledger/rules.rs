//! The rules of the ledger that need no store: plain functions that every adapter decides by.

use std::num::NonZeroU16;
use std::time::Duration;

use super::Refusal;
use crate::model::cutoff::{Cutoff, Selector};
use crate::model::lease::{Cause, Effort, Lease, LeaseState};
use crate::model::task::{Outcome, Task, TaskChange, TaskState};
use crate::model::time::Timestamp;
use crate::model::ttl::Ttl;

/// How long a reservation may stay without being activated.
pub const MINT_TIME: Duration = Duration::from_secs(60);

/// The most entries of the feed in one answer.
pub const MOST_CHANGES: usize = 1000;

/// The longest `last_error` that is kept, in bytes.
const LONGEST_ERROR: usize = 256;

/// How many open tasks of an agent one of so many shards may hold, when there may be `limit` in all.
///
/// Tasks fall into shards by chance, so each takes its equal share, rounded up, and room for twice the
/// standard deviation: an agent is seldom refused before it has nearly `limit`, and always soon after.
/// One shard alone is exact.
pub fn task_share(limit: u32, shards: NonZeroU16) -> u32 {
    let shards = u32::from(shards.get());
    let chance = match shards {
        1 => 0,
        shards => (limit.saturating_mul(4) / shards).isqrt(),
    };
    limit.div_ceil(shards).saturating_add(chance)
}

/// When a lease falls due by itself: a reservation after [`MINT_TIME`], an active lease at its expiry.
/// `None` for a lease that already has to end, whose next attempt is somebody's decision.
pub fn due_at(lease: &Lease) -> Option<Timestamp> {
    match lease.state {
        LeaseState::Reserved => Some(lease.issued_at.plus(MINT_TIME).min(lease.expires_at)),
        LeaseState::Active => Some(lease.expires_at),
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
    })
}

/// Why a lease that fell due has to end, and since when. An active lease ended at its expiry,
/// however late the reaper comes.
pub fn fallen_due(lease: &Lease, now: Timestamp) -> (Cause, Timestamp) {
    match lease.state {
        LeaseState::Active => (Cause::Expired, lease.expires_at),
        _ => (Cause::Compensated, now),
    }
}

/// Whether somebody ordered this end. It goes before what ends by itself.
pub fn is_ordered(cause: Cause) -> bool {
    match cause {
        Cause::Revoked | Cause::Cutoff | Cause::TaskEnded(Outcome::Revoked) => true,
        Cause::Expired
        | Cause::TaskEnded(_)
        | Cause::TaskSuspended
        | Cause::Superseded
        | Cause::Compensated
        | Cause::Recovered
        | Cause::Vanished => false,
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

/// The effort of a lease that has to end.
pub fn effort(state: &LeaseState) -> Option<&Effort> {
    match state {
        LeaseState::Revoking(effort) | LeaseState::Stuck(effort) => Some(effort),
        LeaseState::Reserved | LeaseState::Active | LeaseState::Ended { .. } => None,
    }
}

/// The effort after one more failure. What went wrong is cut to 256 bytes.
pub fn failed_again(effort: &Effort, error: &str) -> Effort {
    let mut end = error.len().min(LONGEST_ERROR);
    while !error.is_char_boundary(end) {
        end -= 1;
    }
    Effort {
        cause: effort.cause,
        since: effort.since,
        attempts: effort.attempts.saturating_add(1),
        last_error: error.get(..end).map(str::to_owned),
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
        Some(Selector::Agent(lease.agent.clone())),
        Some(Selector::Tool(lease.tool.clone())),
        lease.on_behalf_of.clone().map(Selector::User),
        Some(Selector::Environment(lease.environment.clone())),
        lease.trust_domain.clone().map(Selector::TrustDomain),
        Some(Selector::Task(lease.task)),
        Some(Selector::Lease(lease.id)),
    ]
    .into_iter()
    .flatten()
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

/// Until when a cutoff can still match something that lives: no lease outlives its task, and no task
/// lives longer than the longest [`Ttl`].
pub fn in_force_until(cutoff: &Cutoff) -> Timestamp {
    cutoff.up_to.plus(Ttl::MAX.as_duration())
}

/// Whether `cutoff` ends nothing that `standing`, on the same selector, does not end already.
pub fn adds_nothing(cutoff: &Cutoff, standing: &Cutoff) -> bool {
    cutoff.up_to <= standing.up_to
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shard_takes_its_share_of_the_open_tasks_and_room_for_chance() {
        let share = |limit, shards| task_share(limit, NonZeroU16::new(shards).unwrap());
        assert_eq!([share(0, 64), share(1, 64), share(1, 8)], [0, 1, 1]);
        assert_eq!(
            [share(1, 1), share(100, 1), share(u32::MAX, 1)],
            [1, 100, u32::MAX]
        );
        assert_eq!([share(100, 64), share(100, 8), share(6400, 64)], [4, 20, 120]);
        assert!(share(u32::MAX, 4096) >= u32::MAX / 4096);
    }
}
