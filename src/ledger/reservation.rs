//! The witness that a lease was written down before anything exists outside. Fields and constructor
//! are private to this file: no provider can be asked to mint without one.

use super::status_lists::{Entry, Naming};
use super::{Budgets, IdempotencyKey, Ledger, LedgerError, Renewal};
use crate::model::ids::{DecisionId, LeaseId};
use crate::model::lease::{Ending, Handle, Lease, LeaseState, Vouched};
use crate::model::secret::Secret;
use crate::model::status_list::Listing;
use crate::model::time::Timestamp;
use crate::model::ttl::Bound;
use crate::policy::AccessRequest;
use crate::policy::permit::Permit;

/// A lease that is written down, with the permit that it used up.
#[derive(Debug)]
#[must_use = "a reservation that is dropped leaves its lease to the reaper"]
pub struct Reservation {
    lease: Box<Lease>,
    permit: Permit,
    prepared: Option<Prepared>,
    entry: Option<Entry>,
}

/// What a credential will hang on: made at the provider before the credential, and named by it.
#[derive(Debug)]
pub struct Prepared {
    /// The provider's name for it.
    pub handle: Handle,
    /// What the provider needs to go on. It is in memory only, and is wiped with the reservation.
    pub secret: Option<Secret>,
    /// When it ends by itself, and the credential with it, as far as that is known.
    pub expires_at: Option<Timestamp>,
}

impl From<Handle> for Prepared {
    /// A name, and nothing to keep.
    fn from(handle: Handle) -> Self {
        Self {
            handle,
            secret: None,
            expires_at: None,
        }
    }
}

/// The lease that a permit is about to become. Whose it is and what it is for come from the permit and
/// from nowhere else.
#[derive(Debug)]
pub struct Draft {
    lease: Box<Lease>,
    permit: Permit,
}

/// What a lease is beyond what was permitted.
#[derive(Debug)]
pub struct Terms {
    /// Its id, in the slot of the task.
    pub id: LeaseId,
    /// The decision that permitted it.
    pub decision: DecisionId,
    /// The name that its credential will have at the provider.
    pub handle: Option<Handle>,
    /// How its credential can end.
    pub ending: Ending,
    /// Active at once, where nothing exists outside before the answer.
    pub self_contained: bool,
    /// Its credential names an entry of a status list.
    pub listed: bool,
    /// When it begins.
    pub issued_at: Timestamp,
    /// When it ends by itself.
    pub expires_at: Timestamp,
    /// What bounded its life.
    pub bounded_by: Bound,
}

impl Draft {
    /// Uses the permit up. `None` when it is for no task: what is permitted on Dayfly itself is no lease.
    pub fn new(permit: Permit, terms: Terms) -> Option<Self> {
        let AccessRequest {
            caller,
            tool,
            access,
            task,
            ttl,
            ..
        } = permit.request();
        let task = task.as_ref()?;
        let agent = caller.agent();
        let attestation = caller.workload().attestation();
        let lease = Lease {
            id: terms.id,
            task: task.id,
            agent: agent.name.clone(),
            environment: agent.environment.clone(),
            trust_domain: attestation.trust_domain.clone(),
            on_behalf_of: task.on_behalf_of.clone(),
            delegators: task.delegators.clone(),
            tool: tool.name.clone(),
            actions: access.actions().clone(),
            resources: access.resources().clone(),
            provider: tool.binding.provider.clone(),
            handle: terms.handle,
            ending: terms.ending,
            decision: terms.decision,
            issued_at: terms.issued_at,
            expires_at: terms.expires_at,
            bounded_by: terms.bounded_by,
            requested: *ttl,
            vouched: Some(Vouched::by(attestation)),
            curtailed: None,
            listing: match terms.listed {
                true => Listing::Wanted,
                false => Listing::Unlisted,
            },
            state: if terms.self_contained {
                LeaseState::Active
            } else {
                LeaseState::Reserved
            },
        };
        Some(Self {
            lease: Box::new(lease),
            permit,
        })
    }

    /// The lease as it will be written down.
    pub fn lease(&self) -> &Lease {
        &self.lease
    }
}

/// The lease was not written down, and its draft comes back.
#[derive(Debug)]
pub struct NotReserved {
    /// Why not.
    pub error: LedgerError,
    /// The draft, to try again with.
    pub draft: Box<Draft>,
}

impl Reservation {
    /// Writes the lease down.
    pub async fn make(
        ledger: &dyn Ledger,
        mut draft: Draft,
        budgets: &Budgets,
        key: Option<&IdempotencyKey>,
    ) -> Result<Self, NotReserved> {
        let facts = draft.permit.request().facts.version();
        let naming = ledger.naming();
        match ledger.reserve(&draft.lease, budgets, key, facts).await {
            Ok(place) => {
                draft.lease.listing = place.map_or(Listing::Unlisted, Listing::At);
                Ok(Self {
                    entry: entry(naming, &draft.lease),
                    lease: draft.lease,
                    permit: draft.permit,
                    prepared: None,
                })
            }
            Err(error) => Err(NotReserved {
                error,
                draft: Box::new(draft),
            }),
        }
    }

    /// Writes down that an active lease lives on, and uses the permit up. The lease in here ends when
    /// the next credential does; the one in the ledger may end later, with a credential of before.
    pub async fn renew(
        ledger: &dyn Ledger,
        permit: Permit,
        id: LeaseId,
        terms: Renewal,
        now: Timestamp,
    ) -> Result<Self, LedgerError> {
        let naming = ledger.naming();
        let lease = Lease {
            expires_at: terms.expires_at,
            decision: terms.decision,
            bounded_by: terms.bounded_by,
            requested: terms.requested,
            vouched: terms.vouched,
            curtailed: None,
            ..ledger.renew(id, terms, now).await?
        };
        Ok(Self {
            entry: entry(naming, &lease),
            lease: Box::new(lease),
            permit,
            prepared: None,
        })
    }

    /// Writes down the provider's name for what the lease will hang on, and keeps the rest of it.
    pub async fn name(mut self, ledger: &dyn Ledger, prepared: Prepared) -> Result<Self, LedgerError> {
        ledger.name(self.lease.id, &prepared.handle).await?;
        self.lease.handle = Some(prepared.handle.clone());
        self.prepared = Some(prepared);
        Ok(self)
    }

    /// What the credential hangs on, where the provider made it before.
    pub fn prepared(&self) -> Option<&Prepared> {
        self.prepared.as_ref()
    }

    /// The lease as it was written down.
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// The entry of a status list that its credential names, where it is to.
    pub fn entry(&self) -> Option<Entry> {
        self.entry
    }

    /// The permit that it rests on.
    pub fn permit(&self) -> &Permit {
        &self.permit
    }
}

/// The entry of a lease, as lists were called before its step was made.
fn entry(naming: Option<Naming>, lease: &Lease) -> Option<Entry> {
    match lease.listing {
        Listing::At(place) => naming.map(|naming| naming.entry(lease.id.slot(), place)),
        Listing::Unlisted | Listing::Wanted => None,
    }
}
