//! The witness that a lease was written down before anything exists outside. Fields and constructor
//! are private to this file: no provider can be asked to mint without one.

use super::{Budgets, IdempotencyKey, Ledger, LedgerError};
use crate::model::ids::LeaseId;
use crate::model::lease::Lease;
use crate::model::time::Timestamp;
use crate::policy::permit::Permit;

/// A lease that is written down, with the permit that it used up.
#[derive(Debug)]
#[must_use = "a reservation that is dropped leaves its lease to the reaper"]
pub struct Reservation {
    lease: Lease,
    permit: Permit,
}

/// The lease was not written down. The permit was not used and comes back.
#[derive(Debug)]
pub struct NotReserved {
    /// Why not.
    pub error: LedgerError,
    /// The permit, unspent.
    pub permit: Box<Permit>,
}

impl Reservation {
    /// Writes the lease down, and uses the permit up.
    pub async fn make(
        ledger: &dyn Ledger,
        permit: Permit,
        lease: Lease,
        budgets: &Budgets,
        key: Option<&IdempotencyKey>,
    ) -> Result<Self, NotReserved> {
        match ledger.reserve(&lease, budgets, key).await {
            Ok(()) => Ok(Self { lease, permit }),
            Err(error) => Err(NotReserved {
                error,
                permit: Box::new(permit),
            }),
        }
    }

    /// Writes down that an active lease lives on, and uses the permit up. The lease in here ends when
    /// the next credential does; the one in the ledger may end later, with a credential of before.
    pub async fn renew(
        ledger: &dyn Ledger,
        permit: Permit,
        id: LeaseId,
        expires_at: Timestamp,
        now: Timestamp,
    ) -> Result<Self, LedgerError> {
        let lease = Lease {
            expires_at,
            ..ledger.renew(id, expires_at, now).await?
        };
        Ok(Self { lease, permit })
    }

    /// The lease as it was written down.
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// The permit that it rests on.
    pub fn permit(&self) -> &Permit {
        &self.permit
    }
}
