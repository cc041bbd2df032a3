//! `revoke`: an end is ordered, for one lease or for all that fit.

use std::time::Duration;

use futures_util::future::join;

use crate::journal::record::{Record, Result as Decided, Verb};
use crate::ledger::LedgerError;
use crate::model::cutoff::{Cutoff, Selector};
use crate::model::fact::Subject;
use crate::model::ids::{LeaseId, RequestId, TaskId};
use crate::model::lease::{Cause, Lease};
use crate::model::name::AgentName;
use crate::model::recheck::Work;
use crate::model::secret::Secret;
use crate::model::task::{Outcome, TaskChange};
use crate::model::time::Timestamp;
use crate::registry::Caller;

use super::blast::Blast;
use super::complete::Completed;
use super::error::BrokerError;
use super::measure::Because;
use super::records::{Fill, of_caller};
use super::walk::Walk;
use super::{Broker, measure};

/// What a revocation of many did.
#[derive(Debug)]
pub struct Revoked {
    /// The record that denies at once.
    pub cutoff: Cutoff,
    /// How many live leases it found and turned to their end so far.
    pub leases: usize,
    /// Whether those were all. If not, the rest is on its way: it is denied already.
    pub drained: bool,
}

impl Broker {
    /// Ends one lease: the caller's own, one of what it handed on or, if policy permits `dayfly:revoke`, another's.
    /// Ending what has ended is no error.
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
        let handed_on = lease.agents().any(|agent| *agent == caller.agent().name);
        let record = self
            .may_end(caller, record, &lease.agent, handed_on, BrokerError::NoLease)
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
        let record = match lease.agents().any(|agent| *agent == caller.agent().name) {
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

    /// What this request asked for denies from now on.
    pub(super) fn denies_since(&self, request: Option<RequestId>) {
        if let Some(request) = request {
            measure::denies(Because::Request, self.now().since(request.made_at()));
        }
    }

    async fn order_end(&self, id: LeaseId, record: Record) -> Result<Lease, BrokerError> {
        let lease = self.parts.ledger.revoke(id, Cause::Revoked, self.now()).await?;
        self.denies_since(record.request);
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

    /// Ends one task, with all its leases and everything below it: the caller's own, what it handed on or, if
    /// policy permits, another's.
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
        let handed_on = task.charter.is_delegated_by(&caller.agent().name);
        let record = self
            .may_end(
                caller,
                record,
                &task.charter.agent,
                handed_on,
                BrokerError::NoTask,
            )
            .await?;
        let task = self
            .parts
            .ledger
            .advance(id, TaskChange::End(Outcome::Revoked), self.now())
            .await?;
        self.denies_since(Some(request));
        self.due.notify_one();
        self.record(record.task(&task.charter).reason(reason)).await?;
        measure::decided(Verb::Revoke, Decided::Permitted);
        self.drained(task, wait).await
    }

    /// Ends every lease that a selector fits and that was made up to now: a kill order. The order stands in
    /// the ledger before anything else, so that another broker goes on with it if this one dies. Where the
    /// ledger does not take it, access is denied all the same.
    pub async fn revoke_all(
        &self,
        caller: &Caller,
        selector: Selector,
        reason: &str,
        request: RequestId,
    ) -> Result<Revoked, BrokerError> {
        let record = self.may_end_all(caller, &selector, request).await?;
        let now = self.now();
        let cutoff = Cutoff {
            selector,
            up_to: now,
            at: now,
            cause: Cause::Cutoff,
        };
        let undrained = match self.order_cut(&cutoff, reason).await {
            Ok(()) => None,
            Err(error @ BrokerError::Undrained { .. }) => Some(error),
            Err(error) => return Err(error),
        };
        self.denies_since(Some(request));
        // Ending access is never held back by the journal: what fails here is said when all is ended.
        let drained = self.drain(&cutoff).await;
        self.record(record.reason(reason)).await?;
        measure::decided(Verb::Revoke, Decided::Permitted);
        let (leases, drained) = match (drained, undrained) {
            // Nothing is left that an order would have to end.
            (Ok((leases, true)), _) => (leases, true),
            (_, Some(error)) => return Err(error),
            (drained, None) => drained?,
        };
        Ok(Revoked {
            cutoff,
            leases,
            drained,
        })
    }

    /// Denies at once, and leaves the ends of what is out to the recheck: to this broker alone, and with
    /// [`BrokerError::Undrained`], where that could not be ordered.
    pub(super) async fn order_cut(&self, cutoff: &Cutoff, why: &str) -> Result<(), BrokerError> {
        let work = Work::Cut {
            cutoff: cutoff.clone(),
        };
        let order = self.order_of(cutoff.selector.clone(), work, why);
        // The order is sent first, so that whoever dies here leaves no cutoff behind that nobody drains; its answer
        // is not waited for, so that what denies is not a round trip late. On several connections (a cluster, or a
        // script that has to be sent again) a death between the two may leave the cutoff alone: access is denied, and
        // each lease ends when its time is up.
        let ledger = &self.parts.ledger;
        let (ordered, cut) = join(ledger.order_recheck(&order), ledger.cut(cutoff)).await;
        cut?;
        // The drain is not in the way of what denies.
        self.ordered.notify_one();
        ordered.map_err(|error| BrokerError::Undrained {
            owed: self.owe(order),
            source: Box::new(error.into()),
        })
    }

    /// What a kill order would end now. Takes the same permit.
    pub async fn preview_revocation(
        &self,
        caller: &Caller,
        selector: Selector,
        request: RequestId,
    ) -> Result<Blast, BrokerError> {
        let record = self.may_end_all(caller, &selector, request).await?;
        self.record(Record {
            verb: Verb::Inspect,
            ..record.reason("what a revocation would end")
        })
        .await?;
        let rules = self.parts.rules.current();
        let mut blast = Blast::default();
        let mut walk = Walk::new(&*self.parts.ledger, &selector);
        while let Some(leases) = walk.next().await? {
            leases
                .iter()
                .for_each(|lease| blast.count(&rules.registry, lease));
        }
        Ok(blast)
    }

    /// The record of an order to end all that a selector fits, if the caller may give it.
    async fn may_end_all(
        &self,
        caller: &Caller,
        selector: &Selector,
        request: RequestId,
    ) -> Result<Record, BrokerError> {
        let about = match selector {
            Selector::Agent(name) => Some(Subject::Agent(name.clone())),
            Selector::Tool(name) => Some(Subject::Tool(name.clone())),
            Selector::Environment(name) => Some(Subject::Environment(name.clone())),
            Selector::User(id) => Some(Subject::User(id.clone())),
            Selector::Task(id) => Some(Subject::Task(*id)),
            Selector::Lease(_) | Selector::TrustDomain(_) | Selector::All => None,
        };
        let record = self
            .may_on(caller, Verb::Revoke, "revoke", about.as_ref(), request)
            .await?;
        let tool = match selector {
            Selector::Tool(name) => Some(name.clone()),
            _ => record.tool.clone(),
        };
        Ok(Record { tool, ..record })
    }

    /// Turns the live leases that a cutoff matches to their end, a page of them at most: the recheck does the
    /// rest, and nothing twice but that page. How many, and whether that was all.
    async fn drain(&self, cutoff: &Cutoff) -> Result<(usize, bool), BrokerError> {
        let mut walk = Walk::new(&*self.parts.ledger, &cutoff.selector);
        let leases = walk.next().await?.unwrap_or_default();
        let turned = self.end_cut(cutoff, &leases).await?;
        Ok((turned, walk.is_over()))
    }

    /// Turns those of these leases to their end that a cutoff matches. How many; what ended or was forgotten since it
    /// was found does not count.
    pub(super) async fn end_cut(&self, cutoff: &Cutoff, leases: &[Lease]) -> Result<usize, LedgerError> {
        let cut = leases.iter().filter(|lease| lease.is_cut_by(cutoff));
        let ids: Vec<LeaseId> = cut.map(|lease| lease.id).collect();
        let turned = self.parts.ledger.revoke_all(&ids, cutoff.cause, self.now()).await;
        // What was turned before a fault is due, too.
        self.due.notify_one();
        turned
    }

    /// What the record of an order to end something starts from.
    fn revoking(&self, caller: &Caller, request: RequestId) -> Record {
        of_caller(Verb::Revoke, Decided::Permitted, self.now(), caller, request)
    }

    /// The record of an end that the caller may order: of its own, of what it handed on, or of another's by
    /// policy. Without
    /// a permit, what belongs to another does not exist, and the record of the denial names it.
    async fn may_end(
        &self,
        caller: &Caller,
        record: Record,
        owner: &AgentName,
        handed_on: bool,
        unknown: BrokerError,
    ) -> Result<Record, BrokerError> {
        if handed_on || *owner == caller.agent().name {
            return Ok(record);
        }
        match self.may_about(caller, record, "revoke", Some(owner)).await {
            Err(BrokerError::Denied { .. }) => Err(unknown),
            answer => answer,
        }
    }
}
