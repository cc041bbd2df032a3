//! `issue`: the life of a credential begins. The steps are those of the table in
//! `docs/concepts/architecture.md`, in that order, and the types allow no other.

use std::sync::Arc;

use tokio::time::Instant;

use crate::journal::record::{Record, Result as Outcome, Verb};
use crate::ledger::reservation::{Draft, Reservation, Terms};
use crate::ledger::{Budgets, IdempotencyKey, LedgerError, Refusal};
use crate::model::access::Access;
use crate::model::credential::Credential;
use crate::model::ids::{LeaseId, RequestId, TaskId};
use crate::model::lease::{Cause, Held, Lease};
use crate::model::origin::Origin;
use crate::model::ttl::{Bounded, Ttl};
use crate::provider::{Minted, Provider};
use crate::registry::Caller;

use super::error::BrokerError;
use super::records::{Fill, of_caller};
use super::{Broker, measure};

/// How often a decision is made again because a fact was stated meanwhile.
pub(super) const MOST_CATCH_UPS: usize = 4;
/// How often one idempotency key may bring a new credential in place of the last.
const MOST_REPEATS: usize = 8;

/// What an agent asks for.
#[derive(Clone, Debug)]
pub struct IssueOrder {
    /// For which task.
    pub task: TaskId,
    /// Which access.
    pub access: Access,
    /// For how long; the tool's default when absent.
    pub ttl: Option<Ttl>,
    /// Repeating the order with this key ends the credential of the first time and gives a new one.
    pub key: Option<IdempotencyKey>,
}

/// A credential and what is to be known about it.
#[derive(Debug)]
pub struct Issued {
    /// The credential, once. A renewal may let the one of before live on instead.
    pub credential: Option<Credential>,
    /// Its lease.
    pub lease: Lease,
    /// The life that was asked for, or the tool's default.
    pub requested: Ttl,
    /// The life that was granted, and what bounded it.
    pub granted: Bounded,
    /// Where it may be sent.
    pub origins: Arc<[Origin]>,
}

impl Broker {
    /// Issues a credential for one access of a task. A decision that a newer fact came in the way of is made
    /// again.
    pub async fn issue(
        &self,
        caller: Caller,
        order: IssueOrder,
        request: RequestId,
    ) -> Result<Issued, BrokerError> {
        for _ in 0..MOST_CATCH_UPS {
            match self.try_issue(&caller, &order, request).await {
                Err(BrokerError::Refused(Refusal::StaleFacts)) => self.catch_up().await?,
                answer => return answer,
            }
        }
        self.try_issue(&caller, &order, request).await
    }

    async fn try_issue(
        &self,
        caller: &Caller,
        order: &IssueOrder,
        request: RequestId,
    ) -> Result<Issued, BrokerError> {
        self.outside_quarantine()?;
        let started = Instant::now();
        let began = self.parts.rules.current();
        let now = self.now();
        let charter = self.own_charter(caller, order.task).await?;
        self.knows_keys(caller, &charter)?;
        let above = self.above(&charter).await?;
        let decision = self.decision_id(now)?;
        let record = Record {
            decision: Some(decision),
            requested: order.ttl,
            ..of_caller(Verb::Issue, Outcome::Permitted, now, caller, request)
                .task(&charter)
                .access(&order.access)
        };
        let permit = match self.permit(caller, &charter, &above, &order.access, order.ttl, now) {
            Ok(permit) => permit,
            Err(denial) => return Err(self.deny(record, decision, denial).await?),
        };
        let tool = permit.request().tool.clone();
        let provider = self.parts.providers.get(&tool.binding.provider)?;
        let promise = provider.promise(&tool);
        let granted = match self.bound(&permit, &charter, order.ttl, promise, now) {
            Ok(granted) => granted,
            Err(denial) => return Err(self.deny(record, decision, denial).await?),
        };
        let record = record.grounds(permit.grounds());
        let budgets = Budgets {
            task: self.parts.settings.live_credentials_per_task,
            agent: permit.request().caller.agent().ceilings.live_credentials,
            tool: tool.live_credentials,
        };
        let id = LeaseId::new(charter.id, now, self.draw()?);
        let terms = Terms {
            id,
            decision,
            handle: provider.handle(id),
            ending: promise.ending,
            self_contained: promise.self_contained,
            listed: provider.lists(),
            issued_at: now,
            expires_at: now.plus(granted.ttl.as_duration()),
            bounded_by: granted.by,
        };
        let draft = Draft::new(permit, terms).ok_or(BrokerError::NoTask)?;
        let lease = draft.lease().clone();
        let record = Arc::new(Record {
            lease: Some(id),
            granted: Some(granted.ttl),
            bounded_by: Some(granted.by),
            // What it takes to end the credential when the ledger is lost.
            environment: Some(lease.environment.clone()),
            provider: Some(lease.provider.clone()),
            handle: lease.handle.clone(),
            ending: Some(lease.ending),
            ..record
        });
        let reserving = self.reserve(draft, &budgets, order.key.clone());
        let minted = if promise.self_contained {
            // Nothing exists outside until we answer, so the reservation is the activation too, and
            // the record is written beside it: one ledger round trip.
            let (reserved, recorded) = tokio::join!(reserving, self.record(Arc::clone(&record)));
            self.finish(&**provider, &lease, reserved, recorded, &record)
                .await?
        } else {
            let reserved = reserving.await;
            let recorded = if reserved.is_ok() {
                self.record(Arc::clone(&record)).await
            } else {
                Ok(())
            };
            let minted = self
                .finish(&**provider, &lease, reserved, recorded, &record)
                .await?;
            self.activate(&**provider, &lease, &minted, &record).await?;
            minted
        };
        if let Err(error) = self.keep_up((id, decision), caller, &charter, &began).await {
            let exists = Held {
                handle: Some(minted.handle),
                ..lease.held()
            };
            self.compensate(&**provider, &exists).await;
            self.record_failure(&record, &error).await;
            return Err(error);
        }
        self.measures.issued(started.elapsed());
        let lease = Lease {
            handle: Some(minted.handle),
            expires_at: minted.expires_at,
            ..lease
        };
        let requested = order.ttl.unwrap_or(tool.default_ttl);
        Ok(Issued {
            credential: Some(minted.credential),
            lease,
            requested,
            granted,
            origins: tool.origins.clone(),
        })
    }

    /// Writes the lease down. A repeated order ends the credential of the time before: it was shown
    /// once and is not kept, so it cannot be shown again.
    async fn reserve(
        &self,
        mut draft: Draft,
        budgets: &Budgets,
        mut key: Option<IdempotencyKey>,
    ) -> Result<Reservation, BrokerError> {
        let ledger = &*self.parts.ledger;
        for _ in 0..MOST_REPEATS {
            let not = match Reservation::make(ledger, draft, budgets, key.as_ref()).await {
                Ok(reservation) => return Ok(reservation),
                Err(not) => not,
            };
            let (LedgerError::Refused(Refusal::Repeated(before)), Some(repeated)) = (&not.error, &key) else {
                return Err(not.error.into());
            };
            ledger
                .revoke(*before, Cause::Superseded, not.draft.lease().issued_at)
                .await?;
            self.due.notify_one();
            key = Some(repeated.after(*before));
            draft = *not.draft;
        }
        Err(BrokerError::KeyExhausted)
    }

    /// Mints once the lease is written down and the permit is on record. Whichever of the two failed,
    /// the other is undone: no record, no credential.
    async fn finish(
        &self,
        provider: &dyn Provider,
        lease: &Lease,
        reserved: Result<Reservation, BrokerError>,
        recorded: Result<(), BrokerError>,
        record: &Record,
    ) -> Result<Minted, BrokerError> {
        let error = match (reserved, recorded) {
            (Ok(reservation), Ok(())) => match self.make(provider, reservation).await {
                Ok(minted) => return Ok(minted),
                Err((error, held)) => {
                    self.compensate(provider, &held).await;
                    error
                }
            },
            (Ok(_), Err(unrecorded)) => {
                self.compensate(provider, &lease.held()).await;
                return Err(unrecorded);
            }
            (Err(error), _) => error,
        };
        self.record_failure(record, &error).await;
        Err(error)
    }

    /// Mints. Where the provider chooses the name, the name is written down before anything secret
    /// exists. On failure, says also what may be out there.
    async fn make(
        &self,
        provider: &dyn Provider,
        reservation: Reservation,
    ) -> Result<Minted, (BrokerError, Held)> {
        let mut held = reservation.lease().held();
        let reservation = match held.handle {
            Some(_) => reservation,
            None => {
                let prepared = provider.prepare(&reservation).await;
                let prepared = prepared.map_err(|error| (error.into(), held.clone()))?;
                held.handle = Some(prepared.handle.clone());
                let named = reservation.name(&*self.parts.ledger, prepared).await;
                named.map_err(|error| (error.into(), held.clone()))?
            }
        };
        let minted = provider.mint(&reservation).await;
        minted.map_err(|error| (error.into(), held))
    }

    /// The credential exists outside; its lease becomes active, unless the task ended meanwhile.
    async fn activate(
        &self,
        provider: &dyn Provider,
        lease: &Lease,
        minted: &Minted,
        record: &Record,
    ) -> Result<(), BrokerError> {
        let Err(error) = self
            .parts
            .ledger
            .activate(lease.id, &minted.handle, minted.expires_at)
            .await
        else {
            return Ok(());
        };
        let exists = Held {
            handle: Some(minted.handle.clone()),
            ..lease.held()
        };
        self.compensate(provider, &exists).await;
        let error = BrokerError::from(error);
        self.record_failure(record, &error).await;
        Err(error)
    }

    /// Ends what was written down and may exist. Whatever fails here is left to the reaper, which
    /// finds the lease due.
    pub(super) async fn compensate(&self, provider: &dyn Provider, held: &Held) {
        if let Err(error) = provider.revoke(held).await {
            tracing::warn!(lease = %held.lease, %error, "could not revoke at once; the reaper will");
        }
        if let Err(error) = self
            .parts
            .ledger
            .revoke(held.lease, Cause::Compensated, self.now())
            .await
        {
            tracing::warn!(lease = %held.lease, %error, "could not mark the lease; it falls due by itself");
        }
        self.due.notify_one();
    }

    /// Adds that a permit had no effect. The permit may stand in the journal already, so a failure to
    /// add this hides nothing.
    pub(super) async fn record_failure(&self, permitted: &Record, error: &BrokerError) {
        measure::decided(permitted.verb, Outcome::Failed);
        let record = Record {
            result: Outcome::Failed,
            at: self.now(),
            ..permitted.clone().reason(error.to_string())
        };
        if let Err(unrecorded) = self.record(record).await {
            tracing::warn!(error = %unrecorded, "could not record that a permit had no effect");
        }
    }
}
