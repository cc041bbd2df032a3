//! Values in Redis: a head of fixed fields, which the scripts read and write, and behind it the record
//! ([`crate::ledger::record`]), which they do not look into. Where the two differ, the head counts:
//! a script changes the head alone.
//!
//! The layouts are those of `prelude.lua`. Numbers are big-endian, instants are milliseconds in six bytes.

use crate::ledger::{LedgerError, record, rules, status_lists};
use crate::model::cutoff::{Cutoff, Selector};
use crate::model::ids::{LeaseId, TaskId};
use crate::model::lease::{Cause, Curtailed, Effort, Handle, Lease, LeaseState, Receipt, ReceiptSignature};
use crate::model::status_list::{Hour, Listing, Place};
use crate::model::task::{Outcome, Task, TaskState};
use crate::model::time::Timestamp;
use crate::model::ttl::Bound;

/// The bytes of a lease's head, but for an error.
const HEAD: usize = 50;

/// A task as it is stored.
pub(super) fn pack_task(task: &Task) -> Result<Vec<u8>, LedgerError> {
    let depth = u8::try_from(task.charter.depth()).map_err(|_| unreadable("the chain of a task"))?;
    let (state, outcome, ended_at) = match task.state {
        TaskState::Open => (b'o', depth, Timestamp::EPOCH),
        TaskState::Suspended => (b's', depth, Timestamp::EPOCH),
        TaskState::Ended { outcome, at } => (b'e', outcome_code(outcome), at),
    };
    let heartbeat = task
        .charter
        .heartbeat
        .map_or(0, |every| u64::from(every.as_secs()) * 1000);
    let mut out = vec![state, outcome];
    put_at(&mut out, ended_at);
    put_at(&mut out, task.charter.deadline);
    put_at(&mut out, Timestamp::from_millis(heartbeat));
    put_at(&mut out, task.beat_at);
    let agent = task.charter.agent.as_str();
    out.push(u8::try_from(agent.len()).map_err(|_| unreadable("the name of an agent"))?);
    out.extend(agent.as_bytes());
    out.extend(record::encode_task(task)?);
    Ok(out)
}

/// The task that was stored.
pub(super) fn unpack_task(bytes: &[u8]) -> Result<Task, LedgerError> {
    let mut head = Head(bytes);
    let [state, outcome] = head.take()?;
    let ended_at = head.at()?;
    let (_deadline, _heartbeat) = (head.at()?, head.at()?); // never change: the record has them
    let beat_at = head.at()?;
    let [agent] = head.take()?;
    let (_agent, record) = head.0.split_at_checked(agent.into()).ok_or_else(too_short)?;
    let task = record::decode_task(record)?;
    let state = match state {
        b'o' => TaskState::Open,
        b's' => TaskState::Suspended,
        b'e' => TaskState::Ended {
            outcome: outcome_of(outcome)?,
            at: ended_at,
        },
        _ => return Err(unreadable("the state of a task")),
    };
    Ok(Task {
        state,
        beat_at,
        ..task
    })
}

/// The letter of a lease's state.
pub(super) fn state_letter(state: &LeaseState) -> u8 {
    match state {
        LeaseState::Reserved => b'r',
        LeaseState::Active => b'a',
        LeaseState::Revoking(_) => b'v',
        LeaseState::Stuck(_) => b's',
        LeaseState::Ended { .. } => b'e',
    }
}

/// A lease as it is stored.
pub(super) fn pack_lease(lease: &Lease) -> Result<Vec<u8>, LedgerError> {
    let (cause, since, attempts, error) = match &lease.state {
        LeaseState::Reserved | LeaseState::Active => match lease.curtailed {
            Some(Curtailed { at, cause }) => (cause_code(cause), at, 0, None),
            None => (0, Timestamp::EPOCH, 0, None),
        },
        LeaseState::Revoking(effort) | LeaseState::Stuck(effort) => (
            cause_code(effort.cause),
            effort.since,
            effort.attempts,
            effort.last_error.as_deref(),
        ),
        LeaseState::Ended { cause, at, .. } => (cause_code(*cause), *at, 0, None),
    };
    let (proof, at) = match &lease.state {
        LeaseState::Reserved | LeaseState::Active => {
            (expiry_code(lease.bounded_by), place_number(lease.listing))
        }
        LeaseState::Revoking(effort) | LeaseState::Stuck(effort) => (0, effort.next_at),
        LeaseState::Ended { receipt, .. } => (proof_code(*receipt), receipt.at()),
    };
    let said = match &lease.state {
        LeaseState::Ended {
            signed: Some(signature),
            ..
        } => record::encode_signature(signature)?,
        _ => optional(error),
    };
    let record = record::encode_lease(lease)?;
    let mut out = Vec::with_capacity(HEAD + said.len() + record.len());
    out.extend(lease.task.to_bytes());
    out.extend([state_letter(&lease.state), cause]);
    put_at(&mut out, lease.expires_at);
    put_at(&mut out, since);
    out.extend(attempts.to_be_bytes());
    out.extend(0_u32.to_be_bytes()); // no hold yet
    out.push(proof);
    put_at(&mut out, at);
    out.extend(0_u16.to_be_bytes()); // the record has the handle until another one comes
    let length = u16::try_from(said.len()).map_err(|_| unreadable("what is said of a lease"))?;
    out.extend(length.to_be_bytes());
    out.extend(said);
    out.push(0); // not renewed yet
    out.extend(record);
    Ok(out)
}

/// The lease that was stored, and the number of its hold.
pub(super) fn unpack_lease(bytes: &[u8]) -> Result<(Lease, u64), LedgerError> {
    let mut head = Head(bytes);
    let _task: [u8; 16] = head.take()?;
    let [state, cause] = head.take()?;
    let expires_at = head.at()?;
    let since = head.at()?;
    let attempts = u32::from_be_bytes(head.take()?);
    let hold = u32::from_be_bytes(head.take()?);
    let [proof] = head.take()?;
    let proof_or_next = head.at()?;
    let handle = text(head.bytes()?)?;
    let said = head.bytes()?;
    let [length] = head.take()?;
    let (renewal, stored) = head.0.split_at_checked(length.into()).ok_or_else(too_short)?;
    let mut lease = record::decode_lease(stored)?;
    if !renewal.is_empty() {
        lease = record::decode_renewal(renewal, lease)?;
    }
    let listing = match state {
        b'r' | b'a' => place_of(proof_or_next.as_millis()).map_or(Listing::Unlisted, Listing::At),
        _ => Listing::Unlisted,
    };
    let curtailed = match state {
        b'r' | b'a' if cause != 0 => Some(Curtailed {
            at: since,
            cause: cause_of(cause)?,
        }),
        _ => None,
    };
    let effort = || -> Result<Effort, LedgerError> {
        Ok(Effort {
            cause: cause_of(cause)?,
            since,
            attempts,
            last_error: text(said)?,
            next_at: proof_or_next.max(since),
        })
    };
    let state = match state {
        b'r' => LeaseState::Reserved,
        b'a' => LeaseState::Active,
        b'v' => LeaseState::Revoking(effort()?),
        b's' => LeaseState::Stuck(effort()?),
        b'e' => LeaseState::Ended {
            cause: cause_of(cause)?,
            at: since,
            receipt: receipt_of(proof, proof_or_next)?,
            signed: signature(said)?,
        },
        _ => return Err(unreadable("the state of a lease")),
    };
    let lease = Lease {
        handle: handle.map(Handle).or(lease.handle),
        expires_at,
        curtailed,
        listing,
        state,
        ..lease
    };
    Ok((lease, u64::from(hold)))
}

/// The place in this number, which stands in the head of a live lease where others have an instant.
pub(super) fn place_of(number: u64) -> Option<Place> {
    let numbers = u64::from(status_lists::NUMBERS);
    let place = Place {
        hour: Hour(u32::try_from(number / numbers).ok()?),
        number: u32::try_from(number % numbers).ok()?,
    };
    (number != 0).then_some(place)
}

fn place_number(listing: Listing) -> Timestamp {
    Timestamp::from_millis(match listing {
        Listing::At(Place { hour, number }) => {
            u64::from(hour.0) * u64::from(status_lists::NUMBERS) + u64::from(number)
        }
        Listing::Unlisted | Listing::Wanted => 0,
    })
}

/// What stands before a text that may be absent. No format of a record has this number.
const MARK: u8 = b'=';

/// A text that may be absent: nothing, or a mark and the text.
pub(super) fn optional(text: Option<&str>) -> Vec<u8> {
    text.map(|text| [&[MARK], text.as_bytes()].concat())
        .unwrap_or_default()
}

/// The ends of tasks have the numbers from here to 63.
const OUTCOMES: u8 = 16;

/// The number of a cause in heads and arguments. Numbers are never given twice.
pub(super) fn cause_code(cause: Cause) -> u8 {
    match cause {
        Cause::Expired => 1,
        Cause::TaskSuspended => 2,
        Cause::Revoked => 3,
        Cause::Cutoff => 4,
        Cause::Superseded => 5,
        Cause::Compensated => 6,
        Cause::Recovered => 7,
        Cause::Vanished => 8,
        Cause::TaskEnded(outcome) => OUTCOMES + outcome_code(outcome),
        Cause::NotPermitted => 64,
        Cause::Shortened => 65,
        Cause::Signal => 66,
        Cause::AgentUnregistered => 67,
        Cause::AgentUnowned => 68,
        Cause::AgentSuspended => 69,
        Cause::AgentRetired => 70,
        Cause::ReviewOverdue => 71,
        Cause::ToolRemoved => 72,
        Cause::AttestationExpired => 73,
        Cause::AttestationRevoked => 74,
    }
}

/// Why a lease ends whose own time is up, in its head while it lives.
pub(super) fn expiry_code(bounded_by: Bound) -> u8 {
    cause_code(rules::expiry(bounded_by))
}

fn cause_of(code: u8) -> Result<Cause, LedgerError> {
    Ok(match code {
        1 => Cause::Expired,
        2 => Cause::TaskSuspended,
        3 => Cause::Revoked,
        4 => Cause::Cutoff,
        5 => Cause::Superseded,
        6 => Cause::Compensated,
        7 => Cause::Recovered,
        8 => Cause::Vanished,
        OUTCOMES..64 => Cause::TaskEnded(outcome_of(code - OUTCOMES)?),
        64 => Cause::NotPermitted,
        65 => Cause::Shortened,
        66 => Cause::Signal,
        67 => Cause::AgentUnregistered,
        68 => Cause::AgentUnowned,
        69 => Cause::AgentSuspended,
        70 => Cause::AgentRetired,
        71 => Cause::ReviewOverdue,
        72 => Cause::ToolRemoved,
        73 => Cause::AttestationExpired,
        74 => Cause::AttestationRevoked,
        _ => return Err(unreadable("the cause of an end")),
    })
}

/// The number of an outcome in heads and arguments.
pub(super) fn outcome_code(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Completed => 1,
        Outcome::Failed => 2,
        Outcome::Cancelled => 3,
        Outcome::Expired => 4,
        Outcome::Lost => 5,
        Outcome::Revoked => 6,
        Outcome::ParentEnded => 7,
    }
}

fn outcome_of(code: u8) -> Result<Outcome, LedgerError> {
    Ok(match code {
        1 => Outcome::Completed,
        2 => Outcome::Failed,
        3 => Outcome::Cancelled,
        4 => Outcome::Expired,
        5 => Outcome::Lost,
        6 => Outcome::Revoked,
        7 => Outcome::ParentEnded,
        _ => return Err(unreadable("the outcome of a task")),
    })
}

/// The number of a kind of proof.
pub(super) fn proof_code(receipt: Receipt) -> u8 {
    match receipt {
        Receipt::VerifiedAbsent { .. } => 1,
        Receipt::DeniedAt { .. } => 2,
        Receipt::ExpiresAt { .. } => 3,
        Receipt::Outlived { .. } => 4,
        Receipt::Abandoned { .. } => 5,
    }
}

fn receipt_of(code: u8, at: Timestamp) -> Result<Receipt, LedgerError> {
    Ok(match code {
        1 => Receipt::VerifiedAbsent { at },
        2 => Receipt::DeniedAt { at },
        3 => Receipt::ExpiresAt { at },
        4 => Receipt::Outlived { at },
        5 => Receipt::Abandoned { at },
        _ => return Err(unreadable("the receipt of a lease")),
    })
}

/// A lease id in an answer.
pub(super) fn lease_id(bytes: &[u8]) -> Result<LeaseId, LedgerError> {
    let id = bytes.try_into().ok().and_then(LeaseId::from_bytes);
    id.ok_or_else(|| unreadable("a lease id"))
}

fn task_id(bytes: &[u8]) -> Result<TaskId, LedgerError> {
    let id = bytes.try_into().ok().and_then(TaskId::from_bytes);
    id.ok_or_else(|| unreadable("a task id"))
}

/// What a task is called in arguments.
pub(super) fn task_bytes(id: TaskId) -> Vec<u8> {
    id.to_bytes().to_vec()
}

fn put_at(out: &mut Vec<u8>, at: Timestamp) {
    let [_, _, rest @ ..] = at.as_millis().to_be_bytes();
    out.extend(rest);
}

pub(super) struct Head<'a>(pub(super) &'a [u8]);

impl<'a> Head<'a> {
    pub(super) fn take<const N: usize>(&mut self) -> Result<[u8; N], LedgerError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or_else(too_short)?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(super) fn at(&mut self) -> Result<Timestamp, LedgerError> {
        let [b0, b1, b2, b3, b4, b5] = self.take()?;
        Ok(Timestamp::from_millis(u64::from_be_bytes([
            0, 0, b0, b1, b2, b3, b4, b5,
        ])))
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], LedgerError> {
        let length = u16::from_be_bytes(self.take()?);
        self.next(length.into())
    }

    /// A text of at most 255 bytes.
    pub(super) fn short_text(&mut self) -> Result<&'a str, LedgerError> {
        let [length] = self.take()?;
        let bytes = self.next(length.into())?;
        std::str::from_utf8(bytes).map_err(|_| unreadable("a text"))
    }

    fn next(&mut self, length: usize) -> Result<&'a [u8], LedgerError> {
        let (bytes, rest) = self.0.split_at_checked(length).ok_or_else(too_short)?;
        self.0 = rest;
        Ok(bytes)
    }
}

/// A text that may be absent.
fn text(bytes: &[u8]) -> Result<Option<String>, LedgerError> {
    match bytes.split_first() {
        None => Ok(None),
        Some((_mark, text)) => match std::str::from_utf8(text) {
            Ok(text) => Ok(Some(text.to_owned())),
            Err(_) => Err(unreadable("a text")),
        },
    }
}

/// The signature on a receipt. Ends that were settled before receipts were signed have the last error
/// in its place, or nothing.
fn signature(said: &[u8]) -> Result<Option<ReceiptSignature>, LedgerError> {
    match said.first() {
        None | Some(&MARK) => Ok(None),
        Some(_) => record::decode_signature(said).map(Some),
    }
}

fn too_short() -> LedgerError {
    unreadable("a value that breaks off")
}

fn unreadable(what: &str) -> LedgerError {
    LedgerError::Corrupt(format!("{what} in Redis"))
}

/// A cutoff that stands. `None` for the entries beside them that say how far they reach, and as of which
/// version the facts have to be known.
pub(super) fn unpack_cutoff(bytes: &[u8]) -> Result<Option<Cutoff>, LedgerError> {
    let mut head = Head(bytes);
    let _up_to = head.at()?;
    if matches!(head.0.len(), 0 | 6) {
        return Ok(None);
    }
    let _stands = head.at()?;
    record::decode_cutoff(head.0).map(Some)
}

/// An entry of the feed: what kind it is, when it was written, and the record of a cutoff, or the cause
/// and the id where a lease ends.
pub(super) fn unpack_entry(kind: &[u8], bytes: &[u8]) -> Result<Cutoff, LedgerError> {
    let mut head = Head(bytes);
    let at = head.at()?;
    match kind {
        b"c" => record::decode_cutoff(head.0),
        b"l" => {
            let [cause] = head.take()?;
            Ok(Cutoff {
                selector: Selector::Lease(lease_id(head.0)?),
                up_to: Timestamp::MAX,
                at,
                cause: cause_of(cause)?,
            })
        }
        b"t" => {
            let [cause] = head.take()?;
            Ok(Cutoff {
                selector: Selector::Task(task_id(head.0)?),
                up_to: Timestamp::MAX,
                at,
                cause: cause_of(cause)?,
            })
        }
        _ => Err(unreadable("an entry of the feed")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::{DecisionId, LeaseId, TaskId};
    use crate::model::lease::Ending;

    const AT: Timestamp = Timestamp::from_millis(1_795_329_000_250);

    fn lease(state: LeaseState) -> Lease {
        let task = TaskId::new(AT, [7; 10]);
        Lease {
            id: LeaseId::new(task, AT, [8; 10]),
            task,
            agent: "support-bot".parse().unwrap(),
            environment: "production".parse().unwrap(),
            trust_domain: None,
            on_behalf_of: None,
            delegators: Vec::new(),
            tool: "crm".parse().unwrap(),
            actions: ["read".parse().unwrap()].into(),
            resources: [].into(),
            provider: "jwt".parse().unwrap(),
            handle: Some(Handle("from-the-record".to_owned())),
            ending: Ending::DenyListed,
            decision: DecisionId::new(AT, [9; 10]),
            issued_at: AT,
            expires_at: AT,
            bounded_by: Bound::Policy,
            requested: None,
            vouched: None,
            curtailed: None,
            listing: Default::default(),
            state,
        }
    }

    fn a_signature() -> ReceiptSignature {
        ReceiptSignature {
            issuer: "https://dayfly.example.org".to_owned(),
            key: [1, 2, 3, 4],
            bytes: Box::new([b'='; 64]),
        }
    }

    #[test]
    fn every_state_comes_back_as_it_went() {
        let mut states = vec![LeaseState::Reserved, LeaseState::Active];
        for cause in Cause::ALL {
            let effort = |last_error: Option<&str>| Effort {
                cause,
                since: AT,
                attempts: 3,
                last_error: last_error.map(str::to_owned),
                next_at: AT.plus(std::time::Duration::from_secs(300)),
            };
            states.push(LeaseState::Revoking(effort(None)));
            states.push(LeaseState::Stuck(effort(Some("access denied"))));
            for receipt in [
                Receipt::VerifiedAbsent { at: AT },
                Receipt::DeniedAt { at: Timestamp::EPOCH },
                Receipt::ExpiresAt { at: Timestamp::MAX },
                Receipt::Outlived { at: Timestamp::MAX },
                Receipt::Abandoned { at: AT },
            ] {
                for signed in [None, Some(a_signature())] {
                    states.push(LeaseState::Ended {
                        cause,
                        at: AT,
                        receipt,
                        signed,
                    });
                }
            }
        }
        for state in states {
            let lease = lease(state);
            assert_eq!(unpack_lease(&pack_lease(&lease).unwrap()).unwrap(), (lease, 0));
        }
    }

    /// Once the head of a live lease said nothing of how it would end.
    #[test]
    fn a_live_lease_of_before_it_could_end_early_still_reads() {
        let active = lease(LeaseState::Active);
        let mut bytes = pack_lease(&active).unwrap();
        assert_eq!((bytes[17], bytes[38]), (0, cause_code(Cause::Expired)));
        bytes[38] = 0;
        assert_eq!(unpack_lease(&bytes).unwrap().0, active);
    }

    #[test]
    fn an_earlier_end_comes_back_as_it_went() {
        for cause in Cause::ALL {
            for state in [LeaseState::Reserved, LeaseState::Active] {
                let lease = Lease {
                    curtailed: Some(Curtailed { at: AT, cause }),
                    ..lease(state)
                };
                assert_eq!(unpack_lease(&pack_lease(&lease).unwrap()).unwrap(), (lease, 0));
            }
        }
    }

    /// Once the last error stayed where the signature is now.
    #[test]
    fn an_end_of_before_receipts_were_signed_still_reads() {
        let failed = |last_error: Option<&str>| Effort {
            cause: Cause::Revoked,
            since: AT,
            attempts: 1,
            last_error: last_error.map(str::to_owned),
            next_at: AT,
        };
        for last_error in [None, Some("access denied")] {
            let mut bytes = pack_lease(&lease(LeaseState::Revoking(failed(last_error)))).unwrap();
            bytes[16] = b'e';
            bytes[38] = proof_code(Receipt::DeniedAt { at: AT });
            let state = LeaseState::Ended {
                cause: Cause::Revoked,
                at: AT,
                receipt: Receipt::DeniedAt { at: AT },
                signed: None,
            };
            assert_eq!(unpack_lease(&bytes).unwrap().0.state, state);
        }
    }

    #[test]
    fn the_head_counts_where_the_record_says_otherwise() {
        let mut bytes = pack_lease(&lease(LeaseState::Active)).unwrap();
        let state = 16; // behind the task's id
        assert_eq!(bytes[state], b'a');
        bytes[state] = b'v';
        bytes[state + 1] = cause_code(Cause::Cutoff);
        let (changed, _) = unpack_lease(&bytes).unwrap();
        assert!(matches!(changed.state, LeaseState::Revoking(effort) if effort.cause == Cause::Cutoff));
    }

    #[test]
    fn what_is_damaged_is_refused_and_never_guessed() {
        let good = pack_lease(&lease(LeaseState::Active)).unwrap();
        for length in 0..good.len() {
            assert!(unpack_lease(&good[..length]).is_err(), "{length}");
        }
        let mut strange = good;
        strange[16] = b'?';
        assert!(unpack_lease(&strange).is_err());
        assert!(unpack_entry(b"x", &[0; 40]).is_err());
    }
}
