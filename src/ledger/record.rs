//! How tasks, leases, cutoffs, facts and rechecks are stored, the same in every adapter: one byte that names the
//! format, then postcard of a mirror of the model.
//!
//! The mirrors are spelled out here so that a change to the model does not change what is on disk
//! behind its back. Postcard numbers the variants of an enum: in a mirror, and in `Ending`, `Bound`,
//! `EvidenceKind` and `Outcome`, variants are added at the end and never moved. A change to a mirror is a
//! new format, and the old one stays readable.
//!
//! Format 2 of a lease, and of what a renewal says, is format 1 with `StoredGrounds` behind it. A sub-task and
//! its leases have their chain behind all that: format 3 of a task, format 5 of a lease, which has its place on a status
//! list last, if any. A lease of no sub-task that has such a place is written in format 4: with an empty chain, and
//! the place behind it. Nothing else is written in these formats. Format 2 of a task, and formats 3 and 4 of a lease,
//! have the chain of before it said what it rests on.

mod chain;
mod context;
mod cutoff;
mod state;

use std::borrow::Cow;
use std::collections::BTreeSet;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use self::chain::{StoredDelegator, StoredLink};
pub use self::context::{decode_fact, decode_recheck, encode_fact, encode_recheck, fact_key, recheck_key};
use self::cutoff::{StoredCutoff, StoredSelector};
use self::state::{StoredLeaseState, StoredSignature};
use super::{LedgerError, Renewal};
use crate::model::access::{Access, ResourcePath, Scope};
use crate::model::attestation::EvidenceKind;
use crate::model::cutoff::{Cutoff, Selector};
use crate::model::ids::{DecisionId, LeaseId, TaskId};
use crate::model::lease::{Ending, Handle, Lease, ReceiptSignature, Vouched, VouchingKey};
use crate::model::name::{AgentName, Environment, Operation, ProviderName, Purpose, ToolName, UserId};
use crate::model::spiffe::TrustDomain;
use crate::model::status_list::{Hour, Listing, Place};
use crate::model::task::{Charter, Outcome, Task, TaskState};
use crate::model::time::Timestamp;
use crate::model::ttl::{Bound, Ttl};

/// The format that is written, of all but leases and sub-tasks.
const FORMAT: u8 = 1;
/// The format of sub-tasks of before their chain said what it rests on.
const OLD_SUB_TASK_FORMAT: u8 = 2;
/// The format of sub-tasks that is written.
const SUB_TASK_FORMAT: u8 = 3;
/// The format of leases that is written, of all but those of sub-tasks.
const LEASE_FORMAT: u8 = 2;
/// The format of the leases of sub-tasks of before their chain said what it rests on.
const OLD_SUB_TASK_LEASE_FORMAT: u8 = 3;
/// The format that is written of leases which have a place on a status list, of all but those of sub-tasks.
const LISTED_FORMAT: u8 = 4;
/// The format of the leases of sub-tasks that is written.
const SUB_TASK_LEASE_FORMAT: u8 = 5;

/// Room that most records fit into, in bytes; they are seldom kept for longer than it takes to send them.
const ROOM: usize = 512;

/// The bytes of a task.
pub fn encode_task(task: &Task) -> Result<Vec<u8>, LedgerError> {
    let stored = StoredTask::of(task);
    match StoredLink::all(&task.charter.delegators) {
        chain if chain.is_empty() => encode("task", &stored),
        chain => encode_as(SUB_TASK_FORMAT, "task", &(stored, chain)),
    }
}

/// The task of these bytes.
pub fn decode_task(bytes: &[u8]) -> Result<Task, LedgerError> {
    let (stored, delegators): (StoredTask<'_>, _) = match bytes.split_first() {
        Some((&FORMAT, body)) => (read("task", body)?, Vec::new()),
        Some((&OLD_SUB_TASK_FORMAT, body)) => {
            let (stored, chain) = read("task", body)?;
            (stored, StoredDelegator::into_all(chain))
        }
        Some((&SUB_TASK_FORMAT, body)) => {
            let (stored, chain) = read("task", body)?;
            (stored, StoredLink::into_all(chain))
        }
        Some((&other, _)) => return Err(unknown("task", other, "formats 1 to 3")),
        None => return Err(corrupt("task", format_args!("no bytes"))),
    };
    let mut task = stored.into_task()?;
    task.charter.delegators = delegators;
    Ok(task)
}

/// The bytes of a lease.
pub fn encode_lease(lease: &Lease) -> Result<Vec<u8>, LedgerError> {
    let grounds = StoredGrounds::of(lease.vouched, lease.requested);
    let stored = StoredLease::of(lease);
    let place = match lease.listing {
        Listing::At(Place { hour, number }) => Some((hour.0, number)),
        Listing::Unlisted | Listing::Wanted => None,
    };
    match (StoredLink::all(&lease.delegators), place) {
        (chain, place) if !chain.is_empty() => {
            encode_as(SUB_TASK_LEASE_FORMAT, "lease", &(stored, grounds, chain, place))
        }
        (no_chain, Some((hour, number))) => {
            let listed = (stored, grounds, no_chain, hour, number);
            encode_as(LISTED_FORMAT, "lease", &listed)
        }
        (_, None) => encode_as(LEASE_FORMAT, "lease", &(stored, grounds)),
    }
}

/// The lease of these bytes. When its next attempt is, adapters keep beside it ([`super::rules::next_due`]):
/// it changes with each claim.
pub fn decode_lease(bytes: &[u8]) -> Result<Lease, LedgerError> {
    let mut delegators = Vec::new();
    let mut place = None;
    let (lease, grounds): (StoredLease<'_>, StoredGrounds) = match bytes.split_first() {
        Some((&FORMAT, body)) => (read("lease", body)?, StoredGrounds::default()),
        Some((&LEASE_FORMAT, body)) => read("lease", body)?,
        Some((&OLD_SUB_TASK_LEASE_FORMAT, body)) => {
            let (lease, grounds, chain) = read("lease", body)?;
            delegators = StoredDelegator::into_all(chain);
            (lease, grounds)
        }
        Some((&LISTED_FORMAT, body)) => {
            let (lease, grounds, chain, hour, number) = read("lease", body)?;
            delegators = StoredDelegator::into_all(chain);
            place = Some((hour, number));
            (lease, grounds)
        }
        Some((&SUB_TASK_LEASE_FORMAT, body)) => {
            let (lease, grounds, chain, listed) = read("lease", body)?;
            delegators = StoredLink::into_all(chain);
            place = listed;
            (lease, grounds)
        }
        Some((&other, _)) => return Err(unknown("lease", other, "formats 1 to 5")),
        None => return Err(corrupt("lease", format_args!("no bytes"))),
    };
    let at = |(hour, number)| {
        let hour = Hour(hour);
        Listing::At(Place { hour, number })
    };
    Ok(Lease {
        delegators,
        vouched: grounds.vouched(),
        requested: grounds.requested,
        listing: place.map_or(Listing::Unlisted, at),
        ..lease.into_lease()
    })
}

/// The bytes of what a renewal says about a lease beside its expiry.
pub fn encode_renewal(terms: &Renewal) -> Result<Vec<u8>, LedgerError> {
    let grounds = StoredGrounds::of(terms.vouched, terms.requested);
    encode_as(
        LEASE_FORMAT,
        "renewal",
        &(terms.decision, terms.bounded_by, grounds),
    )
}

/// The lease as the renewal of these bytes left it, but for its expiry.
pub fn decode_renewal(bytes: &[u8], lease: Lease) -> Result<Lease, LedgerError> {
    let ((decision, bounded_by), grounds) = match bytes.split_first() {
        Some((&FORMAT, body)) => (read("renewal", body)?, StoredGrounds::default()),
        Some((&LEASE_FORMAT, body)) => read("renewal", body)?,
        Some((&other, _)) => return Err(unknown("renewal", other, "formats 1 and 2")),
        None => return Err(corrupt("renewal", format_args!("no bytes"))),
    };
    Ok(Lease {
        decision,
        bounded_by,
        vouched: grounds.vouched(),
        requested: grounds.requested,
        ..lease
    })
}

/// The bytes of the signature on a receipt.
pub fn encode_signature(signature: &ReceiptSignature) -> Result<Vec<u8>, LedgerError> {
    encode("signature", &StoredSignature::of(signature))
}

/// The signature of these bytes.
pub fn decode_signature(bytes: &[u8]) -> Result<ReceiptSignature, LedgerError> {
    decode::<StoredSignature<'_>>("signature", bytes).map(StoredSignature::into_signature)
}

/// The bytes of a cutoff.
pub fn encode_cutoff(cutoff: &Cutoff) -> Result<Vec<u8>, LedgerError> {
    encode("cutoff", &StoredCutoff::of(cutoff))
}

/// The cutoff of these bytes.
pub fn decode_cutoff(bytes: &[u8]) -> Result<Cutoff, LedgerError> {
    decode::<StoredCutoff<'_>>("cutoff", bytes).map(StoredCutoff::into_cutoff)
}

/// The bytes of a selector, equal exactly when the selectors are: a key to find its cutoff by.
pub fn encode_selector(selector: &Selector) -> Result<Vec<u8>, LedgerError> {
    encode("selector", &StoredSelector::of(selector))
}

fn encode<T: Serialize>(what: &str, value: &T) -> Result<Vec<u8>, LedgerError> {
    encode_as(FORMAT, what, value)
}

fn encode_as<T: Serialize>(format: u8, what: &str, value: &T) -> Result<Vec<u8>, LedgerError> {
    let mut bytes = Vec::with_capacity(ROOM);
    bytes.push(format);
    postcard::to_extend(value, bytes)
        .map_err(|error| LedgerError::Corrupt(format!("a {what} that cannot be written: {error}")))
}

fn decode<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, LedgerError> {
    match bytes.split_first() {
        Some((&FORMAT, body)) => read(what, body),
        Some((&other, _)) => Err(unknown(what, other, "format 1")),
        None => Err(corrupt(what, format_args!("no bytes"))),
    }
}

fn read<T: DeserializeOwned>(what: &str, body: &[u8]) -> Result<T, LedgerError> {
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(corrupt(what, format_args!("{} bytes too long", rest.len()))),
        Err(error) => Err(corrupt(what, format_args!("{error}"))),
    }
}

fn unknown(what: &str, format: u8, known: &str) -> LedgerError {
    corrupt(
        what,
        format_args!("format {format}, and this version of Dayfly reads {known}"),
    )
}

fn corrupt(what: &str, why: std::fmt::Arguments<'_>) -> LedgerError {
    LedgerError::Corrupt(format!("a {what}: {why}"))
}

#[derive(Serialize, Deserialize)]
struct StoredTask<'a> {
    id: TaskId,
    agent: Cow<'a, AgentName>,
    environment: Cow<'a, Environment>,
    trust_domain: Cow<'a, Option<TrustDomain>>,
    subject: Cow<'a, str>,
    purpose: Cow<'a, Purpose>,
    scope: Vec<StoredAccess<'a>>,
    on_behalf_of: Cow<'a, Option<UserId>>,
    opened_at: Timestamp,
    deadline: Timestamp,
    heartbeat: Option<Ttl>,
    state: StoredTaskState,
    beat_at: Timestamp,
}

/// `Access` leaves out what is empty, which only a self-describing format can read back.
#[derive(Serialize, Deserialize)]
struct StoredAccess<'a> {
    tool: Cow<'a, ToolName>,
    actions: Cow<'a, BTreeSet<Operation>>,
    resources: Cow<'a, BTreeSet<ResourcePath>>,
}

#[derive(Serialize, Deserialize)]
enum StoredTaskState {
    Open,
    Suspended,
    Ended { outcome: Outcome, at: Timestamp },
}

impl<'a> StoredTask<'a> {
    fn of(task: &'a Task) -> Self {
        let charter = &task.charter;
        let access = |access: &'a Access| StoredAccess {
            tool: Cow::Borrowed(access.tool()),
            actions: Cow::Borrowed(access.actions()),
            resources: Cow::Borrowed(access.resources()),
        };
        Self {
            id: charter.id,
            agent: Cow::Borrowed(&charter.agent),
            environment: Cow::Borrowed(&charter.environment),
            trust_domain: Cow::Borrowed(&charter.trust_domain),
            subject: Cow::Borrowed(&charter.subject),
            purpose: Cow::Borrowed(&charter.purpose),
            scope: charter.scope.accesses().iter().map(access).collect(),
            on_behalf_of: Cow::Borrowed(&charter.on_behalf_of),
            opened_at: charter.opened_at,
            deadline: charter.deadline,
            heartbeat: charter.heartbeat,
            state: match task.state {
                TaskState::Open => StoredTaskState::Open,
                TaskState::Suspended => StoredTaskState::Suspended,
                TaskState::Ended { outcome, at } => StoredTaskState::Ended { outcome, at },
            },
            beat_at: task.beat_at,
        }
    }

    fn into_task(self) -> Result<Task, LedgerError> {
        let accesses = self.scope.into_iter().map(|access| {
            Access::new(
                access.tool.into_owned(),
                access.actions.into_owned(),
                access.resources.into_owned(),
            )
        });
        let accesses = accesses
            .collect::<Result<_, _>>()
            .map_err(|error| corrupt("task", format_args!("{error}")))?;
        let scope = Scope::new(accesses).map_err(|error| corrupt("task", format_args!("{error}")))?;
        Ok(Task {
            charter: Charter {
                id: self.id,
                agent: self.agent.into_owned(),
                environment: self.environment.into_owned(),
                trust_domain: self.trust_domain.into_owned(),
                subject: self.subject.into_owned(),
                delegators: Vec::new(),
                purpose: self.purpose.into_owned(),
                scope,
                on_behalf_of: self.on_behalf_of.into_owned(),
                opened_at: self.opened_at,
                deadline: self.deadline,
                heartbeat: self.heartbeat,
            },
            state: match self.state {
                StoredTaskState::Open => TaskState::Open,
                StoredTaskState::Suspended => TaskState::Suspended,
                StoredTaskState::Ended { outcome, at } => TaskState::Ended { outcome, at },
            },
            beat_at: self.beat_at,
        })
    }
}

#[derive(Serialize, Deserialize)]
struct StoredLease<'a> {
    id: LeaseId,
    task: TaskId,
    agent: Cow<'a, AgentName>,
    environment: Cow<'a, Environment>,
    trust_domain: Cow<'a, Option<TrustDomain>>,
    on_behalf_of: Cow<'a, Option<UserId>>,
    tool: Cow<'a, ToolName>,
    actions: Cow<'a, BTreeSet<Operation>>,
    resources: Cow<'a, BTreeSet<ResourcePath>>,
    provider: Cow<'a, ProviderName>,
    handle: StoredHandle<'a>,
    ending: Ending,
    decision: DecisionId,
    issued_at: Timestamp,
    expires_at: Timestamp,
    bounded_by: Bound,
    state: StoredLeaseState<'a>,
}

/// What a decision anew needs beside the lease itself.
#[derive(Serialize, Deserialize, Default)]
struct StoredGrounds {
    vouched: Option<(EvidenceKind, Option<VouchingKey>, Timestamp)>,
    requested: Option<Ttl>,
}

impl StoredGrounds {
    fn of(vouched: Option<Vouched>, requested: Option<Ttl>) -> Self {
        Self {
            vouched: vouched.map(|vouched| (vouched.kind, vouched.key, vouched.until)),
            requested,
        }
    }

    fn vouched(&self) -> Option<Vouched> {
        self.vouched
            .map(|(kind, key, until)| Vouched { kind, key, until })
    }
}

/// The handle of a token is its lease id, which need not be stored twice.
#[derive(Serialize, Deserialize)]
enum StoredHandle<'a> {
    None,
    LeaseId,
    Text(Cow<'a, str>),
}

impl<'a> StoredLease<'a> {
    fn of(lease: &'a Lease) -> Self {
        Self {
            id: lease.id,
            task: lease.task,
            agent: Cow::Borrowed(&lease.agent),
            environment: Cow::Borrowed(&lease.environment),
            trust_domain: Cow::Borrowed(&lease.trust_domain),
            on_behalf_of: Cow::Borrowed(&lease.on_behalf_of),
            tool: Cow::Borrowed(&lease.tool),
            actions: Cow::Borrowed(&lease.actions),
            resources: Cow::Borrowed(&lease.resources),
            provider: Cow::Borrowed(&lease.provider),
            handle: match &lease.handle {
                None => StoredHandle::None,
                Some(Handle(text)) if text.parse() == Ok(lease.id) => StoredHandle::LeaseId,
                Some(Handle(text)) => StoredHandle::Text(Cow::Borrowed(text)),
            },
            ending: lease.ending,
            decision: lease.decision,
            issued_at: lease.issued_at,
            expires_at: lease.expires_at,
            bounded_by: lease.bounded_by,
            state: StoredLeaseState::of(&lease.state, lease.curtailed),
        }
    }

    fn into_lease(self) -> Lease {
        let (state, curtailed) = self.state.into_state();
        Lease {
            id: self.id,
            task: self.task,
            agent: self.agent.into_owned(),
            environment: self.environment.into_owned(),
            trust_domain: self.trust_domain.into_owned(),
            on_behalf_of: self.on_behalf_of.into_owned(),
            delegators: Vec::new(),
            tool: self.tool.into_owned(),
            actions: self.actions.into_owned(),
            resources: self.resources.into_owned(),
            provider: self.provider.into_owned(),
            handle: match self.handle {
                StoredHandle::None => None,
                StoredHandle::LeaseId => Some(Handle(self.id.to_string())),
                StoredHandle::Text(text) => Some(Handle(text.into_owned())),
            },
            ending: self.ending,
            decision: self.decision,
            issued_at: self.issued_at,
            expires_at: self.expires_at,
            bounded_by: self.bounded_by,
            requested: None,
            vouched: None,
            curtailed,
            listing: Listing::Unlisted,
            state,
        }
    }
}

#[cfg(test)]
mod tests;
