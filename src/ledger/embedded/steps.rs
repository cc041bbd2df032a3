//! The steps, each on the tables of one transaction: it looks first and writes then, so that a
//! refusal has changed nothing.

use std::num::NonZeroUsize;
use std::time::Duration;

use super::layout::{Id, Kind, Use, damaged};
use super::tables::{Row, Tables};
use crate::ledger::{
    Budget, Budgets, Claim, IdempotencyKey, LeaseClaim, LedgerError, Opened, Refusal, Renewal, Settlement,
    rules,
};
use crate::model::cutoff::Cutoff;
use crate::model::fact::FactsVersion;
use crate::model::ids::{LeaseId, TaskId};
use crate::model::lease::{Cause, Curtailed, Handle, Lease, LeaseState, ReceiptSignature};
use crate::model::status_list::{Listing, Place};
use crate::model::task::{Task, TaskChange, TaskState};
use crate::model::time::Timestamp;

/// The most that one claim hands out.
const MOST_CLAIMED: usize = rules::MANY_DUE;
/// The most that one claim forgets on the way.
const MOST_FORGOTTEN: usize = 512;

pub(super) fn open(
    tables: &mut Tables<'_>,
    task: &Task,
    most: Option<u32>,
    key: Option<&IdempotencyKey>,
) -> Result<Opened, LedgerError> {
    if let Some(key) = key
        && let Some((content, first)) = tables.key(Use::Opening, &key.key)?
    {
        if content != key.content {
            return Err(Refusal::KeyReused.into());
        }
        let first = TaskId::from_bytes(first)
            .map(|first| tables.task(first))
            .transpose()?
            .flatten();
        return first
            .map(|first| Opened::Repeated(Box::new(first)))
            .ok_or_else(|| damaged("an idempotency key"));
    }
    if tables.task(task.charter.id)?.is_some() {
        return Err(Refusal::Exists.into());
    }
    for above in &task.charter.delegators {
        let above = tables.task(above.task)?.ok_or(Refusal::NoTask)?;
        rules::open_at(&above, task.charter.opened_at)?;
    }
    if task.charter.parent().is_some() {
        let (budget, limit) = (Budget::SubTasks, rules::MOST_SUB_TASKS);
        if tables.below(task.charter.root())?.len() >= limit as usize {
            return Err(Refusal::Budget { budget, limit }.into());
        }
    }
    if let Some(limit) = most
        && tables.open_tasks(&task.charter.agent)? >= limit
    {
        let budget = Budget::OpenTasks;
        return Err(Refusal::Budget { budget, limit }.into());
    }
    tables.put_task(task, task.due().map(|(due, _)| due))?;
    if let Some(key) = key {
        tables.insert_key(
            Use::Opening,
            key,
            task.charter.id.to_bytes(),
            task.charter.opened_at,
        )?;
    }
    Ok(Opened::New)
}

pub(super) fn advance(
    tables: &mut Tables<'_>,
    id: TaskId,
    change: TaskChange,
    now: Timestamp,
) -> Result<Task, LedgerError> {
    let task = tables.task(id)?.ok_or(Refusal::NoTask)?;
    let Some((moved, cause)) = rules::advanced(&task, change, now)? else {
        return Ok(task);
    };
    let live = match cause {
        Some(_) => tables.live(id)?,
        None => Vec::new(),
    };
    tables.put_task(&moved, moved.due().map(|(due, _)| due))?;
    if let TaskState::Ended { at, .. } = moved.state {
        tables.forget_task_at(id, at.plus(tables.retention))?;
    }
    let Some(cause) = cause else { return Ok(moved) };
    let ended = matches!(moved.state, TaskState::Ended { .. });
    let below = rules::cause_below(cause);
    if ended {
        tables.publish(&rules::task_cutoff(&moved, cause, now))?;
        for task in tables.below(id)? {
            let over = rules::ended_with_parent(&task, now);
            tables.put_task(&over, None)?;
            tables.forget_task_at(over.charter.id, now.plus(tables.retention))?;
            tables.publish(&rules::task_cutoff(&over, below, now))?;
        }
    }
    for row in live {
        if !matches!(row.lease.state, LeaseState::Reserved | LeaseState::Active) {
            continue;
        }
        let why = if row.lease.task == id { cause } else { below };
        let lease = turned(&row, why, now);
        tables.strike(&row.lease)?;
        tables.update_lease(&row, &lease, Some(rules::due_from(cause, now)), row.hold)?;
        if !ended {
            tables.publish(&rules::lease_cutoff(&lease, why, now))?;
        }
    }
    Ok(moved)
}

/// The lease, as one that has to end.
fn turned(row: &Row, cause: Cause, since: Timestamp) -> Lease {
    Lease {
        state: rules::revoking(cause, since),
        curtailed: None,
        listing: Listing::Unlisted,
        ..row.lease.clone()
    }
}

pub(super) fn reserve(
    tables: &mut Tables<'_>,
    lease: &Lease,
    budgets: &Budgets,
    key: Option<&IdempotencyKey>,
    facts: FactsVersion,
) -> Result<Option<Place>, LedgerError> {
    if let Some(key) = key
        && let Some((content, first)) = tables.key(Use::Reserving, &key.key)?
    {
        if content != key.content {
            return Err(Refusal::KeyReused.into());
        }
        let first = LeaseId::from_bytes(first).ok_or_else(|| damaged("an idempotency key"))?;
        return Err(Refusal::Repeated(first).into());
    }
    if !matches!(lease.state, LeaseState::Reserved | LeaseState::Active) {
        return Err(Refusal::LeaseNotOpen(lease.state.as_str()).into());
    }
    let task = tables.task(lease.task)?.ok_or(Refusal::NoTask)?;
    if tables.lease(lease.id)?.is_some() {
        return Err(Refusal::Exists.into());
    }
    open_with_all_above(tables, &task, lease.issued_at)?;
    tables.check_facts(facts)?;
    if let Some(selector) = tables.cut_by(lease)? {
        return Err(Refusal::Cut(selector).into());
    }
    let limits = [
        (Budget::Task, budgets.task),
        (Budget::Agent, budgets.agent),
        (Budget::Tool, budgets.tool),
    ];
    for ((budget, limit), count) in limits.into_iter().zip(tables.counts(lease)?) {
        if let Some(limit) = limit
            && count >= limit
        {
            return Err(Refusal::Budget { budget, limit }.into());
        }
    }
    let place = tables.place(lease, &task)?;
    // A place is this lease's own: one that it brings is somebody else's.
    let listing = place.map_or(Listing::Unlisted, Listing::At);
    if lease.listing == listing {
        tables.insert_lease(lease)?;
    } else {
        let lease = lease.clone();
        tables.insert_lease(&Lease { listing, ..lease })?;
    }
    if let Some(key) = key {
        tables.insert_key(Use::Reserving, key, lease.id.to_bytes(), lease.issued_at)?;
    }
    Ok(place)
}

/// Refuses unless the task and each above is open.
fn open_with_all_above(tables: &Tables<'_>, task: &Task, now: Timestamp) -> Result<(), LedgerError> {
    rules::open_at(task, now)?;
    for above in &task.charter.delegators {
        let above = tables.task(above.task)?.ok_or(Refusal::NoTask)?;
        rules::open_above(&above, now)?;
    }
    Ok(())
}

pub(super) fn name(tables: &mut Tables<'_>, id: LeaseId, handle: &Handle) -> Result<(), LedgerError> {
    let row = tables.lease(id)?.ok_or(Refusal::NoLease)?;
    if row.lease.state != LeaseState::Reserved {
        return Err(Refusal::LeaseNotOpen(row.lease.state.as_str()).into());
    }
    let lease = Lease {
        handle: Some(handle.clone()),
        ..row.lease.clone()
    };
    tables.update_lease(&row, &lease, rules::due_at(&lease), row.hold)
}

pub(super) fn activate(
    tables: &mut Tables<'_>,
    id: LeaseId,
    handle: &Handle,
    expires_at: Timestamp,
) -> Result<(), LedgerError> {
    let row = tables.lease(id)?.ok_or(Refusal::NoLease)?;
    if row.lease.state != LeaseState::Reserved {
        return Err(Refusal::LeaseNotOpen(row.lease.state.as_str()).into());
    }
    if let Some(selector) = tables.cut_by(&row.lease)? {
        return Err(Refusal::Cut(selector).into());
    }
    let lease = Lease {
        handle: Some(handle.clone()),
        expires_at,
        state: LeaseState::Active,
        ..row.lease.clone()
    };
    tables.update_lease(&row, &lease, rules::due_at(&lease), row.hold)
}

pub(super) fn renew(
    tables: &mut Tables<'_>,
    id: LeaseId,
    terms: Renewal,
    now: Timestamp,
) -> Result<Lease, LedgerError> {
    let row = tables.lease(id)?.ok_or(Refusal::NoLease)?;
    rules::live_at(&row.lease, now)?;
    let task = tables.task(row.lease.task)?.ok_or(Refusal::NoTask)?;
    open_with_all_above(tables, &task, now)?;
    tables.check_facts(terms.facts)?;
    if let Some(selector) = tables.cut_by(&row.lease)? {
        return Err(Refusal::Cut(selector).into());
    }
    let Some(lease) = rules::renewed(&row.lease, &terms) else {
        return Ok(row.lease);
    };
    tables.update_lease(&row, &lease, rules::due_at(&lease), row.hold)?;
    Ok(lease)
}

pub(super) fn revoke(
    tables: &mut Tables<'_>,
    id: LeaseId,
    cause: Cause,
    now: Timestamp,
) -> Result<Lease, LedgerError> {
    let row = tables.lease(id)?.ok_or(Refusal::NoLease)?;
    match is_live(&row.lease) {
        true => turn(tables, &row, cause, now),
        false => Ok(row.lease),
    }
}

/// How many of these leases were live, and are turned now.
pub(super) fn revoke_all(
    tables: &mut Tables<'_>,
    ids: &[LeaseId],
    cause: Cause,
    now: Timestamp,
) -> Result<usize, LedgerError> {
    let mut turned = 0;
    for id in ids {
        if let Some(row) = tables.lease(*id)?.filter(|row| is_live(&row.lease)) {
            turn(tables, &row, cause, now)?;
            turned += 1;
        }
    }
    Ok(turned)
}

fn is_live(lease: &Lease) -> bool {
    matches!(lease.state, LeaseState::Reserved | LeaseState::Active)
}

fn turn(tables: &mut Tables<'_>, row: &Row, cause: Cause, now: Timestamp) -> Result<Lease, LedgerError> {
    let lease = turned(row, cause, now);
    tables.strike(&row.lease)?;
    tables.update_lease(row, &lease, Some(rules::due_from(cause, now)), row.hold)?;
    tables.publish(&rules::lease_cutoff(&lease, cause, now))?;
    Ok(lease)
}

pub(super) fn curtail(
    tables: &mut Tables<'_>,
    id: LeaseId,
    curtailed: Curtailed,
    now: Timestamp,
) -> Result<Lease, LedgerError> {
    let row = tables.lease(id)?.ok_or(Refusal::NoLease)?;
    let Some(lease) = rules::curtailed_to(&row.lease, curtailed, now) else {
        return Ok(row.lease);
    };
    tables.update_lease(&row, &lease, rules::due_at(&lease), row.hold)?;
    Ok(lease)
}

pub(super) fn claim_due(
    tables: &mut Tables<'_>,
    now: Timestamp,
    hold: Duration,
    limit: NonZeroUsize,
) -> Result<Vec<Claim>, LedgerError> {
    let until = now.plus(hold);
    let mut claims = Vec::new();
    for entry in tables.fallen_due(now, limit.get().min(MOST_CLAIMED))? {
        let id = entry.id()?;
        claims.push(match entry.kind {
            Kind::Lease => claim_lease(tables, &id, now, until)?,
            Kind::Task => claim_task(tables, id, until)?,
            Kind::Key | Kind::Cutoff | Kind::Entry => return Err(damaged("the schedule")),
        });
    }
    tables.forget(now, MOST_FORGOTTEN)?;
    Ok(claims)
}

fn claim_lease(
    tables: &mut Tables<'_>,
    id: &Id,
    now: Timestamp,
    until: Timestamp,
) -> Result<Claim, LedgerError> {
    let row = tables.row(id)?.ok_or_else(|| damaged("the schedule"))?;
    let mut lease = row.lease.clone();
    if matches!(lease.state, LeaseState::Reserved | LeaseState::Active) {
        let (cause, since) = rules::fallen_due(&lease, now);
        // A credential may be out that nobody told us of, or that looks as if it were good for longer.
        let early = lease.state == LeaseState::Reserved || rules::curtailed(&lease).is_some();
        if early && now < lease.expires_at {
            tables.publish(&rules::lease_cutoff(&lease, cause, now))?;
            tables.strike(&lease)?;
        }
        lease.state = rules::revoking(cause, since);
        lease.curtailed = None;
        lease.listing = Listing::Unlisted;
    }
    // Odd numbers are holds; a hold that ran out is followed by the next odd one.
    let hold = (row.hold + 1) | 1;
    tables.update_lease(&row, &lease, Some(until), hold)?;
    let lease = rules::next_due(lease, until);
    Ok(Claim::Lease(Box::new(LeaseClaim { lease, hold })))
}

fn claim_task(tables: &mut Tables<'_>, id: Id, until: Timestamp) -> Result<Claim, LedgerError> {
    let task = TaskId::from_bytes(id)
        .map(|id| tables.task(id))
        .transpose()?
        .flatten();
    let task = task.ok_or_else(|| damaged("the schedule"))?;
    let (_, outcome) = task.due().ok_or_else(|| damaged("the schedule"))?;
    tables.put_task(&task, Some(until))?;
    Ok(Claim::Task(Box::new(task), outcome))
}

pub(super) fn settle(
    tables: &mut Tables<'_>,
    id: LeaseId,
    hold: u64,
    settlement: &Settlement,
    now: Timestamp,
) -> Result<(), LedgerError> {
    let row = tables.lease(id)?.ok_or(Refusal::NoLease)?;
    let effort = match rules::effort(&row.lease.state) {
        Some(effort) if row.hold == hold && hold % 2 == 1 => effort,
        _ => return Err(Refusal::ClaimLost.into()),
    };
    let (state, due) = match settlement {
        Settlement::Ended(receipt, signature) => {
            let ended = LeaseState::Ended {
                cause: effort.cause,
                at: now,
                receipt: *receipt,
                signed: Some(signature.clone()),
            };
            (ended, None)
        }
        Settlement::RetryAt(next, error) => (
            LeaseState::Revoking(rules::failed_again(effort, error, *next)),
            Some(*next),
        ),
        Settlement::Stuck(next, error) => (
            LeaseState::Stuck(rules::failed_again(effort, error, *next)),
            Some(*next),
        ),
        Settlement::PutOff(next) => (row.lease.state.clone(), Some(*next)),
    };
    let lease = Lease {
        state,
        ..row.lease.clone()
    };
    tables.update_lease(&row, &lease, due, hold + 1)
}

/// What becomes of each, in their order. Only a fault is an error here.
pub(super) fn settle_all(
    tables: &mut Tables<'_>,
    words: &[(LeaseId, u64, Settlement)],
    now: Timestamp,
) -> Result<Vec<Result<(), Refusal>>, LedgerError> {
    let each = words.iter().map(
        |(id, hold, settlement)| match settle(tables, *id, *hold, settlement, now) {
            Ok(()) => Ok(Ok(())),
            Err(LedgerError::Refused(refusal)) => Ok(Err(refusal)),
            Err(fault) => Err(fault),
        },
    );
    each.collect()
}

pub(super) fn retry(tables: &mut Tables<'_>, id: LeaseId, now: Timestamp) -> Result<Lease, LedgerError> {
    let row = tables.lease(id)?.ok_or(Refusal::NoLease)?;
    let effort = rules::effort(&row.lease.state).ok_or(Refusal::LeaseNotEnding(row.lease.state.as_str()))?;
    // Whoever is at it is not disturbed, and what is due already keeps its place.
    if row.hold % 2 == 1 || effort.next_at <= now {
        return Ok(row.lease);
    }
    tables.update_lease(&row, &row.lease, Some(now), row.hold)?;
    Ok(rules::next_due(row.lease, now))
}

pub(super) fn abandon(
    tables: &mut Tables<'_>,
    id: LeaseId,
    signature: &ReceiptSignature,
    now: Timestamp,
) -> Result<Lease, LedgerError> {
    let row = tables.lease(id)?.ok_or(Refusal::NoLease)?;
    let lease = Lease {
        state: rules::abandoned(&row.lease.state, signature, now)?,
        ..row.lease.clone()
    };
    tables.update_lease(&row, &lease, None, row.hold)?;
    Ok(lease)
}

pub(super) fn cut(tables: &mut Tables<'_>, cutoff: &Cutoff) -> Result<(), LedgerError> {
    match tables.cutoff(&cutoff.selector)? {
        Some(standing) if standing == *cutoff => return Ok(()),
        Some(standing) if rules::adds_nothing(cutoff, &standing) => {}
        _ => tables.put_cutoff(cutoff)?,
    }
    tables.publish(cutoff)
}
