//! The witness that a lease was written down before anything exists outside. Fields and constructor
//! are private to this file: no provider can be asked to mint without one.

use super::{Budgets, IdempotencyKey, Ledger, LedgerError};
use crate::model::lease::Lease;
use crate::policy::permit::Permit;

/// A lease that is written down, with the permit that it used up.
#[derive(Debug)]
#[must_use = "a reservation that is dropped leaves its lease to the reaper"]
pub struct Reservation {
    lease: Lease,
    permit: Permit,
}

impl Reservation {
    /// Writes the lease down. The permit is used up, whatever happens.
    pub async fn make(
        ledger: &dyn Ledger,
        permit: Permit,
        lease: Lease,
        budgets: &Budgets,
        key: Option<&IdempotencyKey>,
    ) -> Result<Self, LedgerError> {
        ledger.reserve(&lease, budgets, key).await?;
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
