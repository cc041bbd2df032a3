//! The mirrors of a lease's state: how far its end is, how it ended, and the signature on that.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::model::lease::{Cause, Curtailed, Effort, LeaseState, Receipt, ReceiptSignature};
use crate::model::task::Outcome;
use crate::model::time::Timestamp;

#[derive(Serialize, Deserialize)]
pub(super) enum StoredLeaseState<'a> {
    Reserved,
    Active,
    Revoking(StoredEffort),
    Stuck(StoredEffort),
    Ended {
        #[serde(with = "StoredCause")]
        cause: Cause,
        at: Timestamp,
        receipt: StoredReceipt,
    },
    EndedSigned {
        #[serde(with = "StoredCause")]
        cause: Cause,
        at: Timestamp,
        receipt: StoredReceipt,
        signature: StoredSignature<'a>,
    },
    ReservedCurtailed(StoredCurtailed),
    ActiveCurtailed(StoredCurtailed),
}

#[derive(Serialize, Deserialize)]
pub(super) struct StoredCurtailed {
    at: Timestamp,
    #[serde(with = "StoredCause")]
    cause: Cause,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Cause")]
pub(super) enum StoredCause {
    Expired,
    TaskEnded(Outcome),
    TaskSuspended,
    Revoked,
    Cutoff,
    Superseded,
    Compensated,
    Recovered,
    Vanished,
    NotPermitted,
    Shortened,
    Signal,
    AgentUnregistered,
    AgentUnowned,
    AgentSuspended,
    AgentRetired,
    ReviewOverdue,
    ToolRemoved,
    AttestationExpired,
    AttestationRevoked,
}

#[derive(Serialize, Deserialize)]
pub(super) struct StoredEffort {
    #[serde(with = "StoredCause")]
    cause: Cause,
    since: Timestamp,
    attempts: u32,
    last_error: Option<String>,
}

#[derive(Serialize, Deserialize)]
pub(super) enum StoredReceipt {
    VerifiedAbsent(Timestamp),
    DeniedAt(Timestamp),
    ExpiresAt(Timestamp),
    Outlived(Timestamp),
    Abandoned(Timestamp),
}

impl<'a> StoredLeaseState<'a> {
    pub(super) fn of(state: &'a LeaseState, curtailed: Option<Curtailed>) -> Self {
        let curtailed = curtailed.map(|Curtailed { at, cause }| StoredCurtailed { at, cause });
        let effort = |effort: &Effort| StoredEffort {
            cause: effort.cause,
            since: effort.since,
            attempts: effort.attempts,
            last_error: effort.last_error.clone(),
        };
        match state {
            LeaseState::Reserved => curtailed.map_or(Self::Reserved, Self::ReservedCurtailed),
            LeaseState::Active => curtailed.map_or(Self::Active, Self::ActiveCurtailed),
            LeaseState::Revoking(made) => Self::Revoking(effort(made)),
            LeaseState::Stuck(made) => Self::Stuck(effort(made)),
            LeaseState::Ended {
                cause,
                at,
                receipt,
                signed,
            } => {
                let (cause, at, receipt) = (*cause, *at, StoredReceipt::of(*receipt));
                match signed {
                    None => Self::Ended { cause, at, receipt },
                    Some(signature) => Self::EndedSigned {
                        cause,
                        at,
                        receipt,
                        signature: StoredSignature::of(signature),
                    },
                }
            }
        }
    }

    pub(super) fn into_state(self) -> (LeaseState, Option<Curtailed>) {
        let curtailed = match &self {
            Self::ReservedCurtailed(curtailed) | Self::ActiveCurtailed(curtailed) => Some(Curtailed {
                at: curtailed.at,
                cause: curtailed.cause,
            }),
            _ => None,
        };
        let effort = |effort: StoredEffort| Effort {
            cause: effort.cause,
            since: effort.since,
            attempts: effort.attempts,
            last_error: effort.last_error,
            next_at: effort.since,
        };
        let state = match self {
            Self::Reserved | Self::ReservedCurtailed(_) => LeaseState::Reserved,
            Self::Active | Self::ActiveCurtailed(_) => LeaseState::Active,
            Self::Revoking(made) => LeaseState::Revoking(effort(made)),
            Self::Stuck(made) => LeaseState::Stuck(effort(made)),
            Self::Ended { cause, at, receipt } => LeaseState::Ended {
                cause,
                at,
                receipt: receipt.into_receipt(),
                signed: None,
            },
            Self::EndedSigned {
                cause,
                at,
                receipt,
                signature,
            } => LeaseState::Ended {
                cause,
                at,
                receipt: receipt.into_receipt(),
                signed: Some(signature.into_signature()),
            },
        };
        (state, curtailed)
    }
}

impl StoredReceipt {
    pub(super) fn of(receipt: Receipt) -> Self {
        match receipt {
            Receipt::VerifiedAbsent { at } => Self::VerifiedAbsent(at),
            Receipt::DeniedAt { at } => Self::DeniedAt(at),
            Receipt::ExpiresAt { at } => Self::ExpiresAt(at),
            Receipt::Outlived { at } => Self::Outlived(at),
            Receipt::Abandoned { at } => Self::Abandoned(at),
        }
    }

    pub(super) fn into_receipt(self) -> Receipt {
        match self {
            Self::VerifiedAbsent(at) => Receipt::VerifiedAbsent { at },
            Self::DeniedAt(at) => Receipt::DeniedAt { at },
            Self::ExpiresAt(at) => Receipt::ExpiresAt { at },
            Self::Outlived(at) => Receipt::Outlived { at },
            Self::Abandoned(at) => Receipt::Abandoned { at },
        }
    }
}

/// An Ed25519 signature is two values of 32 bytes, R and S.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredSignature<'a> {
    issuer: Cow<'a, str>,
    key: [u8; 4],
    r: [u8; 32],
    s: [u8; 32],
}

impl<'a> StoredSignature<'a> {
    pub(super) fn of(signature: &'a ReceiptSignature) -> Self {
        let mut halves = ([0; 32], [0; 32]);
        let (r, s) = signature.bytes.split_at(32);
        halves.0.copy_from_slice(r);
        halves.1.copy_from_slice(s);
        Self {
            issuer: Cow::Borrowed(&signature.issuer),
            key: signature.key,
            r: halves.0,
            s: halves.1,
        }
    }

    pub(super) fn into_signature(self) -> ReceiptSignature {
        let mut bytes = [0; 64];
        let (r, s) = bytes.split_at_mut(32);
        r.copy_from_slice(&self.r);
        s.copy_from_slice(&self.s);
        ReceiptSignature {
            issuer: self.issuer.into_owned(),
            key: self.key,
            bytes: Box::new(bytes),
        }
    }
}
