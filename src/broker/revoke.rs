//! `revoke`: an end is ordered, for one lease or for all that fit.

use std::num::NonZeroUsize;
use std::time::Duration;

use crate::journal::record::{Record, Result as Decided, Verb};
use crate::ledger::{Filter, LedgerError, Page, Refusal};
use crate::model::cutoff::{Cutoff, Selector};
use crate::model::ids::{LeaseId, RequestId, TaskId};
use crate::model::lease::{Cause, Lease};
use crate::model::name::{AgentName, ToolName};
use crate::model::secret::Secret;
use crate::model::task::{Outcome, TaskChange};
use crate::model::time::Timestamp;
use crate::registry::Caller;

use super::complete::Completed;
use super::error::BrokerError;
use super::records::{Fill, of_caller};
use super::{Broker, measure};

/// What a revocation of many did.
#[derive(Debug)]
pub struct Revoked {
    /// The record that denies at once.
    pub cutoff: Cutoff,
    /// How many live leases it found and turned to their end.
    pub leases: usize,
}

impl Broker {
    /// Ends one lease: the caller's own or, if policy permits `dayfly:revoke`, another's. Ending what
    /// has ended is no error.
    pub async fn revoke(
        &self,
        caller: &Caller,
        id: LeaseId,
        reason: &str,
        request: RequestId,
    ) -> Result<Lease, BrokerError> {
        let lease = self.parts.ledger.lease(id).await?.ok_or(BrokerError::NoLease)?;
        let record = Record {
            lease: Some(id),
            task: Some(lease.task),
            ..self.revoking(caller, request)
        };
        let record = self
            .may_end(caller, record, &lease.agent, BrokerError::NoLease)
            .await?;
        self.order_end(id, record.reason(reason)).await
    }

    /// Ends the lease of a token: the caller's own or, if policy permits `dayfly:revoke`, another's, which is
    /// said where it does not: whoever holds the token knows that there is one. What is no token of ours,
    /// has expired, or is not known any more needs no end.
    pub async fn revoke_token(
        &self,
        caller: &Caller,
        token: &Secret,
        request: RequestId,
    ) -> Result<(), BrokerError> {
        let Some(token) = self.parts.issuer.recognise(token.expose()) else {
            return Ok(());
        };
        if Timestamp::from_secs(token.exp) <= self.now() {
            return Ok(());
        }
        let id = token.marks.lease;
        let Some(lease) = self.parts.ledger.lease(id).await? else {
            // A ledger that was lost has forgotten it, and the token may be alive.
            return self.outside_quarantine();
        };
        let record = Record {
            lease: Some(id),
            task: Some(lease.task),
            ..self.revoking(caller, request)
        };
        let record = match lease.agent == caller.agent().name {
            true => record,
            false => {
                self.may_about(caller, record, "revoke", Some(&lease.agent))
                    .await?
            }
        };
        self.order_end(id, record.reason("its token was handed in to be revoked"))
            .await
            .map(drop)
    }

    async fn order_end(&self, id: LeaseId, record: Record) -> Result<Lease, BrokerError> {
        let lease = self.parts.ledger.revoke(id, Cause::Revoked, self.now()).await?;
        self.due.notify_one();
        let record = Record {
            tool: Some(lease.tool.clone()),
            on_behalf_of: lease.on_behalf_of.clone(),
            ..record
        };
        self.record(record).await?;
        measure::decided(Verb::Revoke, Decided::Permitted);
        Ok(lease)
    }

    /// Ends one task and all its leases: the caller's own or, if policy permits, another's.
    pub async fn revoke_task(
        &self,
        caller: &Caller,
        id: TaskId,
        reason: &str,
        wait: Duration,
        request: RequestId,
    ) -> Result<Completed, BrokerError> {
        let task = self.parts.ledger.task(id).await?.ok_or(BrokerError::NoTask)?;
        let record = Record {
            task: Some(id),
            ..self.revoking(caller, request)
        };
        let record = self
            .may_end(caller, record, &task.charter.agent, BrokerError::NoTask)
            .await?;
        let task = self
            .parts
            .ledger
            .advance(id, TaskChange::End(Outcome::Revoked), self.now())
            .await?;
        self.due.notify_one();
        self.record(record.task(&task.charter).reason(reason)).await?;
        measure::decided(Verb::Revoke, Decided::Permitted);
        self.drained(task, wait).await
    }

    /// Ends every lease of an agent that was made up to now.
    pub async fn revoke_agent(
        &self,
        caller: &Caller,
        agent: AgentName,
        reason: &str,
        request: RequestId,
    ) -> Result<Revoked, BrokerError> {
        let record = self
            .may(caller, Verb::Revoke, "revoke", Some(&agent), request)
            .await?;
        self.revoke_all(record.reason(reason), Selector::Agent(agent))
            .await
    }

    /// Ends every lease for a tool that was made up to now.
    pub async fn revoke_tool(
        &self,
        caller: &Caller,
        tool: ToolName,
        reason: &str,
        request: RequestId,
    ) -> Result<Revoked, BrokerError> {
        let record = self.may(caller, Verb::Revoke, "revoke", None, request).await?;
        let record = Record {
            tool: Some(tool.clone()),
            ..record.reason(reason)
        };
        self.revoke_all(record, Selector::Tool(tool)).await
    }

    /// One record denies at once; then each lease that it matches is turned to its end.
    async fn revoke_all(&self, record: Record, selector: Selector) -> Result<Revoked, BrokerError> {
        let now = self.now();
        let cutoff = Cutoff {
            selector,
            up_to: now,
            at: now,
            cause: Cause::Cutoff,
        };
        self.parts.ledger.cut(&cutoff).await?;
        // Ending access is never held back by the journal: what fails here is said when all is ended.
        let drained = self.drain(&cutoff).await;
        self.record(record).await?;
        measure::decided(Verb::Revoke, Decided::Permitted);
        Ok(Revoked {
            cutoff,
            leases: drained?,
        })
    }

    /// Turns every live lease that a cutoff matches to its end, a page at a time.
    pub(super) async fn drain(&self, cutoff: &Cutoff) -> Result<usize, BrokerError> {
        let filter = Filter::of(&cutoff.selector);
        let limit = NonZeroUsize::new(Page::MOST).unwrap_or(NonZeroUsize::MIN);
        let mut page = Page { after: None, limit };
        let mut turned = 0;
        loop {
            let leases = self.parts.ledger.find(&filter, &page).await?;
            for lease in &leases {
                if !lease.is_cut_by(cutoff) {
                    continue;
                }
                match self.parts.ledger.revoke(lease.id, cutoff.cause, self.now()).await {
                    Ok(_) => turned += 1,
                    // Ended and forgotten since it was found: the rest has to end all the same.
                    Err(LedgerError::Refused(Refusal::NoLease)) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            self.due.notify_one();
            match leases.last() {
                Some(last) if leases.len() == limit.get() => page.after = Some(last.id),
                _ => return Ok(turned),
            }
        }
    }

    /// What the record of an order to end something starts from.
    fn revoking(&self, caller: &Caller, request: RequestId) -> Record {
        of_caller(Verb::Revoke, Decided::Permitted, self.now(), caller, request)
    }

    /// The record of an end that the caller may order: of its own, or of another's by policy. Without
    /// a permit, what belongs to another does not exist, and the record of the denial names it.
    async fn may_end(
        &self,
        caller: &Caller,
        record: Record,
        owner: &AgentName,
        unknown: BrokerError,
    ) -> Result<Record, BrokerError> {
        if *owner == caller.agent().name {
            return Ok(record);
        }
        match self.may_about(caller, record, "revoke", Some(owner)).await {
            Err(BrokerError::Denied { .. }) => Err(unknown),
            answer => answer,
        }
    }
}
