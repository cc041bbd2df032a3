//! `renew`: a credential lives on, if policy still says so.

use crate::journal::record::{Record, Result as Outcome, Verb};
use crate::ledger::reservation::Reservation;
use crate::model::access::Access;
use crate::model::ids::{LeaseId, RequestId};
use crate::model::lease::Lease;
use crate::model::ttl::Ttl;
use crate::registry::Caller;

use super::error::BrokerError;
use super::issue::Issued;
use super::records::{Fill, of_caller};
use super::{Broker, measure};

impl Broker {
    /// Decides anew, with today's policies, and gives a credential with the same lease and a later expiry.
    pub async fn renew(
        &self,
        caller: Caller,
        id: LeaseId,
        ttl: Option<Ttl>,
        request: RequestId,
    ) -> Result<Issued, BrokerError> {
        let now = self.now();
        let lease = self
            .parts
            .ledger
            .lease(id)
            .await?
            .filter(|lease| lease.agent == caller.agent().name);
        let lease = lease.ok_or(BrokerError::NoLease)?;
        let charter = self.own_charter(&caller, lease.task).await?;
        let access = Access::new(lease.tool.clone(), lease.actions.clone(), lease.resources.clone())
            .map_err(|error| BrokerError::Unsupported(error.to_string()))?;
        let provider = self.parts.providers.get(&lease.provider)?;
        let promise = provider.promise();
        if !promise.self_contained {
            return Err(BrokerError::Unsupported(
                "this credential cannot be renewed: ask for a new one".into(),
            ));
        }
        let decision = self.decision_id(now)?;
        let record = Record {
            decision: Some(decision),
            lease: Some(id),
            requested: ttl,
            ..of_caller(Verb::Renew, Outcome::Permitted, now, &caller, request)
                .task(&charter)
                .access(&access)
        };
        let decided = self
            .permit(&caller, &charter, &access, ttl, now)
            .and_then(|permit| Ok((self.bound(&permit, &charter, ttl, promise, now)?, permit)));
        let (granted, permit) = match decided {
            Ok(decided) => decided,
            Err(denial) => return Err(self.deny(record, decision, denial).await?),
        };
        let requested = ttl.unwrap_or(permit.request().tool.default_ttl);
        let record = Record {
            granted: Some(granted.ttl),
            bounded_by: Some(granted.by),
            ..record.grounds(permit.grounds())
        };
        // Recorded first: a life that is longer than any record says must not exist.
        self.record(record.clone()).await?;
        let until = now.plus(granted.ttl.as_duration());
        let renewed = async {
            let reservation = Reservation::renew(&*self.parts.ledger, permit, id, until, now).await?;
            let minted = provider.mint(&reservation).await?;
            Ok::<_, BrokerError>((reservation, minted))
        };
        let (reservation, minted) = match renewed.await {
            Ok(renewed) => renewed,
            Err(error) => {
                self.record_failure(record, &error).await;
                return Err(error);
            }
        };
        measure::decided(Verb::Renew, Outcome::Permitted);
        let lease = Lease {
            handle: Some(minted.handle),
            ..reservation.lease().clone()
        };
        Ok(Issued {
            credential: minted.credential,
            lease,
            requested,
            granted,
        })
    }
}
