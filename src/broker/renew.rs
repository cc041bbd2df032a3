//! `renew`: a credential lives on, if policy still says so.

use std::sync::Arc;

use crate::journal::record::{Record, Result as Outcome, Verb};
use crate::ledger::reservation::Reservation;
use crate::ledger::{Refusal, Renewal};
use crate::model::access::Access;
use crate::model::ids::{LeaseId, RequestId};
use crate::model::lease::{Lease, Vouched};
use crate::model::ttl::Ttl;
use crate::registry::Caller;

use super::Broker;
use super::error::BrokerError;
use super::issue::{Issued, MOST_CATCH_UPS};
use super::permission::denial;
use super::records::{Fill, of_caller};

/// Why another trust domain's evidence renews nothing.
const OTHER_DOMAIN: &str = "it was issued on evidence of another trust domain: ask for a new credential";

impl Broker {
    /// Decides anew, with today's policies, and gives a credential with the same lease and a later expiry.
    /// A decision that a newer fact came in the way of is made again.
    pub async fn renew(
        &self,
        caller: Caller,
        id: LeaseId,
        ttl: Option<Ttl>,
        request: RequestId,
    ) -> Result<Issued, BrokerError> {
        for _ in 0..MOST_CATCH_UPS {
            match self.try_renew(&caller, id, ttl, request).await {
                Err(BrokerError::Refused(Refusal::StaleFacts)) => self.catch_up().await?,
                answer => return answer,
            }
        }
        self.try_renew(&caller, id, ttl, request).await
    }

    async fn try_renew(
        &self,
        caller: &Caller,
        id: LeaseId,
        ttl: Option<Ttl>,
        request: RequestId,
    ) -> Result<Issued, BrokerError> {
        self.outside_quarantine()?;
        let began = self.parts.rules.current();
        let now = self.now();
        let lease = self
            .parts
            .ledger
            .lease(id)
            .await?
            .filter(|lease| lease.agent == caller.agent().name);
        let lease = lease.ok_or(BrokerError::NoLease)?;
        let charter = self.own_charter(caller, lease.task).await?;
        self.knows_keys(caller, &charter)?;
        let above = self.above(&charter).await?;
        let access = Access::new(lease.tool.clone(), lease.actions.clone(), lease.resources.clone())
            .map_err(|error| BrokerError::BadAccess(error.into()))?;
        let provider = self.parts.providers.get(&lease.provider)?;
        let decision = self.decision_id(now)?;
        let record = Record {
            decision: Some(decision),
            lease: Some(id),
            requested: ttl,
            ..of_caller(Verb::Renew, Outcome::Permitted, now, caller, request)
                .task(&charter)
                .access(&access)
        };
        // Kill orders and withdrawn keys find a lease by the trust domain that it was issued in.
        let same_domain = match caller.workload().attestation().trust_domain == lease.trust_domain {
            true => Ok(()),
            false => Err(denial(&began, OTHER_DOMAIN)),
        };
        let decided = same_domain
            .and_then(|()| self.permit(caller, &charter, &above, &access, ttl, now))
            .and_then(|permit| {
                let promise = provider.promise(&permit.request().tool);
                let granted = self.bound(&permit, &charter, ttl, promise, now)?;
                Ok((granted, promise, permit))
            });
        let (granted, promise, permit) = match decided {
            Ok(decided) => decided,
            Err(denial) => return Err(self.deny(record, decision, denial).await?),
        };
        if !promise.renewable {
            return Err(BrokerError::NotRenewable);
        }
        let requested = ttl.unwrap_or(permit.request().tool.default_ttl);
        let origins = permit.request().tool.origins.clone();
        let record = Arc::new(Record {
            granted: Some(granted.ttl),
            bounded_by: Some(granted.by),
            ..record.grounds(permit.grounds())
        });
        // Recorded first: a life that is longer than any record says must not exist.
        self.record(Arc::clone(&record)).await?;
        let until = now.plus(granted.ttl.as_duration());
        // A token is new, with a life of its own; what lives outside lives on and is never cut short.
        let until = match promise.self_contained {
            true => until,
            // An end that came closer since moves with what is decided now.
            false => until.max(lease.ends_at()),
        };
        let renewed = async {
            let terms = Renewal {
                expires_at: until,
                decision,
                bounded_by: granted.by,
                requested: ttl,
                facts: permit.request().facts.version(),
                vouched: Some(Vouched::by(permit.request().caller.workload().attestation())),
            };
            let reservation = Reservation::renew(&*self.parts.ledger, permit, id, terms, now).await?;
            let renewed = provider.renew(&reservation).await?;
            Ok::<_, BrokerError>((reservation, renewed))
        };
        let (reservation, renewed) = match renewed.await {
            Ok(renewed) => renewed,
            Err(error) => {
                self.record_failure(&record, &error).await;
                return Err(error);
            }
        };
        if let Err(error) = self.keep_up((id, decision), caller, &charter, &began).await {
            self.compensate(&**provider, &reservation.lease().held()).await;
            self.record_failure(&record, &error).await;
            return Err(error);
        }
        self.measures.renewed();
        let lease = Lease {
            expires_at: renewed.expires_at,
            ..reservation.lease().clone()
        };
        Ok(Issued {
            credential: renewed.credential,
            lease,
            requested,
            granted,
            origins,
        })
    }
}
