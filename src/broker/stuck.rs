//! What a person does about a lease that cannot be ended: `retry` it now, or `abandon` it. And how many
//! there are.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::journal::record::{Record, Result as Outcome, Verb};
use crate::ledger::{Filter, LedgerError, Page, Refusal, StateName, rules};
use crate::model::ids::{LeaseId, RequestId};
use crate::model::lease::{Lease, LeaseState, Receipt};
use crate::model::name::ProviderName;
use crate::registry::Caller;

use super::error::{BrokerError, chain};
use super::records::{Fill, of_caller, proof_of};
use super::{Broker, measure};

/// How often the stuck leases are counted.
const COUNTED_EVERY: Duration = Duration::from_secs(30);
/// How many pages of them are counted. An alert does not need to know more.
const MOST_PAGES: usize = 20;

impl Broker {
    /// Makes a lease that has to end due at once, where it was to wait after a failure. Takes a permit for
    /// `dayfly:retry`, also for one's own: what is there has its pauses for a reason.
    pub async fn retry(
        &self,
        caller: &Caller,
        id: LeaseId,
        request: RequestId,
    ) -> Result<Lease, BrokerError> {
        let lease = self.parts.ledger.lease(id).await?.ok_or(BrokerError::NoLease)?;
        let record = self
            .may_tend(caller, Verb::Retry, "retry", &lease, request)
            .await?;
        match self.parts.ledger.retry(id, self.now()).await {
            Ok(lease) => {
                self.due.notify_one();
                self.record(record).await?;
                measure::decided(Verb::Retry, Outcome::Permitted);
                Ok(lease)
            }
            Err(error) => {
                let error = error.into();
                self.record_failure(&record, &error).await;
                Err(error)
            }
        }
    }

    /// Gives up ending a stuck lease: it is over, and nobody says that its credential is gone. Takes a permit
    /// for `dayfly:abandon`. Who and why is on record before it holds.
    pub async fn abandon(
        &self,
        caller: &Caller,
        id: LeaseId,
        reason: &str,
        request: RequestId,
    ) -> Result<Lease, BrokerError> {
        let lease = self.parts.ledger.lease(id).await?.ok_or(BrokerError::NoLease)?;
        let record = self
            .may_tend(caller, Verb::Abandon, "abandon", &lease, request)
            .await?;
        let now = self.now();
        let abandoned = async {
            let LeaseState::Stuck(effort) = &lease.state else {
                return Err(LedgerError::Refused(Refusal::LeaseNotStuck(lease.state.as_str())).into());
            };
            let receipt = Receipt::Abandoned { at: now };
            let signed = self.parts.receipts.sign(&lease, effort.cause, receipt, now)?;
            let permitted = Record {
                proof: Some(proof_of(receipt)),
                receipt: Some(signed.text),
                ..record.clone().reason(reason)
            };
            self.record(permitted).await?;
            let abandoning = self.parts.ledger.abandon(&lease, &signed.signature, now);
            Ok::<_, BrokerError>(abandoning.await?)
        };
        match abandoned.await {
            Ok(lease) => {
                tracing::warn!(lease = %id, provider = %lease.provider, by = %caller.agent().name, "a lease was abandoned");
                self.settled.notify_waiters();
                measure::decided(Verb::Abandon, Outcome::Permitted);
                if let LeaseState::Ended { cause, receipt, .. } = lease.state {
                    measure::given_up(cause, receipt);
                }
                Ok(lease)
            }
            Err(error) => {
                self.record_failure(&record, &error).await;
                Err(error)
            }
        }
    }

    /// Counts the stuck leases of each provider now and then, until told to stop. Every replica counts all.
    pub async fn count_stuck_regularly(self: Arc<Self>, stop: CancellationToken) {
        let mut shown = BTreeMap::new();
        loop {
            match self.count_stuck().await {
                Ok(counted) => {
                    // One that is no longer configured had some, and has none now.
                    for provider in shown.keys().filter(|name| !counted.contains_key(*name)) {
                        measure::stuck(provider, 0);
                    }
                    for (provider, leases) in &counted {
                        measure::stuck(provider, *leases);
                    }
                    shown = counted;
                }
                Err(error) => tracing::warn!(error = %chain(&error), "could not count what is stuck"),
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(COUNTED_EVERY) => {}
            }
        }
    }

    /// How many leases are stuck at each provider, also at those without any.
    pub async fn count_stuck(&self) -> Result<BTreeMap<ProviderName, u32>, LedgerError> {
        let names = self.parts.providers.iter().map(|(name, _)| (name.clone(), 0));
        let mut counted: BTreeMap<ProviderName, u32> = names.collect();
        let filter = Filter {
            state: Some(StateName::Stuck),
            ..Filter::default()
        };
        let limit = NonZeroUsize::new(Page::MOST).unwrap_or(NonZeroUsize::MIN);
        let mut page = Page { after: None, limit };
        for _ in 0..MOST_PAGES {
            let leases = self.parts.ledger.find(&filter, &page).await?;
            page.after = leases.last().map(|last| last.id);
            let more = leases.len() == limit.get();
            for lease in leases {
                *counted.entry(lease.provider).or_default() += 1;
            }
            if !more {
                break;
            }
        }
        Ok(counted)
    }

    /// The record of what the caller may do about a lease, by policy. Without a permit, what belongs to
    /// another does not exist, and the record of the denial names it.
    async fn may_tend(
        &self,
        caller: &Caller,
        verb: Verb,
        operation: &'static str,
        lease: &Lease,
        request: RequestId,
    ) -> Result<Record, BrokerError> {
        let record = Record {
            lease: Some(lease.id),
            task: Some(lease.task),
            ..of_caller(verb, Outcome::Permitted, self.now(), caller, request)
        };
        let permitted = self
            .may_about(caller, record, operation, Some(&lease.agent))
            .await;
        let record = match permitted {
            Err(BrokerError::Denied { .. }) if lease.agent != caller.agent().name => {
                return Err(BrokerError::NoLease);
            }
            answer => answer?,
        };
        Ok(Record {
            cause: rules::effort(&lease.state).map(|effort| effort.cause.as_str().to_owned()),
            on_behalf_of: lease.on_behalf_of.clone(),
            tool: Some(lease.tool.clone()),
            ..record
        })
    }
}
