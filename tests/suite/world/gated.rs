//! A ledger behind a gate: calls can be counted, or never come back, as when the process dies.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use dayfly::ledger::context::{Context, RecheckClaim, Stated, Statements};
use dayfly::ledger::lineage::{Epoch, Lineage, Loss, Memory, Standing, Watched, Writer};
use dayfly::ledger::status_lists::{Naming, StatusLists};
use dayfly::ledger::{
    Budgets, Changes, Claim, Cursor, Filter, IdempotencyKey, LeaseClaim, Ledger, LedgerError, Opened, Page,
    Renewal, Settlement,
};
use dayfly::model::cutoff::Cutoff;
use dayfly::model::decision::Revision;
use dayfly::model::fact::{Fact, FactsVersion};
use dayfly::model::ids::{LeaseId, TaskId};
use dayfly::model::lease::{Cause, Curtailed, Handle, Lease, ReceiptSignature};
use dayfly::model::recheck::{Progress, Recheck};
use dayfly::model::status_list::{Hour, Place};
use dayfly::model::task::{Task, TaskChange};
use dayfly::model::time::Timestamp;
use tokio::sync::Semaphore;

/// Calls that pass a gate before and after they reach the ledger.
#[async_trait]
pub(crate) trait Gate: Send + Sync + 'static {
    /// Before the ledger is asked.
    async fn before(&self, call: &'static str);
    /// Whether the ledger cannot be reached for this call.
    fn is_down(&self, _: &'static str) -> bool {
        false
    }
    /// After it did what it was asked to, before the answer arrives.
    async fn after(&self, call: &'static str);
}

/// A ledger behind a gate.
pub(crate) struct Gated<G> {
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) gate: Arc<G>,
}

/// Notes each call.
#[derive(Default)]
pub(crate) struct Counter(Mutex<Vec<&'static str>>);

impl Counter {
    /// The calls since the last time, in order.
    pub(crate) fn take(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

#[async_trait]
impl Gate for Counter {
    async fn before(&self, call: &'static str) {
        self.0.lock().unwrap().push(call);
    }

    async fn after(&self, _: &'static str) {}
}

/// Keeps each call of one kind waiting until it is released.
pub(crate) struct Slow {
    call: &'static str,
    /// As many as came so far.
    pub(crate) inside: Semaphore,
    /// As many as may go on.
    pub(crate) released: Semaphore,
}

impl Slow {
    pub(crate) fn at(call: &'static str) -> Arc<Self> {
        Arc::new(Self {
            call,
            inside: Semaphore::new(0),
            released: Semaphore::new(0),
        })
    }
}

#[async_trait]
impl Gate for Slow {
    async fn before(&self, call: &'static str) {
        if call == self.call {
            self.inside.add_permits(1);
            self.released.acquire().await.unwrap().forget();
        }
    }

    async fn after(&self, _: &'static str) {}
}

macro_rules! pass {
    ($self:ident, $name:literal, $call:expr) => {{
        if $self.gate.is_down($name) {
            return Err(LedgerError::Unavailable("out of reach".into()));
        }
        $self.gate.before($name).await;
        let answer = $call.await;
        $self.gate.after($name).await;
        answer
    }};
}

#[async_trait]
impl<G: Gate> Ledger for Gated<G> {
    async fn open(
        &self,
        task: &Task,
        most: Option<u32>,
        key: Option<&IdempotencyKey>,
    ) -> Result<Opened, LedgerError> {
        pass!(self, "open", self.ledger.open(task, most, key))
    }

    async fn task(&self, id: TaskId) -> Result<Option<Task>, LedgerError> {
        pass!(self, "task", self.ledger.task(id))
    }

    async fn advance(&self, id: TaskId, change: TaskChange, now: Timestamp) -> Result<Task, LedgerError> {
        pass!(self, "advance", self.ledger.advance(id, change, now))
    }

    async fn below(&self, id: TaskId) -> Result<Vec<Task>, LedgerError> {
        pass!(self, "below", self.ledger.below(id))
    }

    async fn reserve(
        &self,
        lease: &Lease,
        budgets: &Budgets,
        key: Option<&IdempotencyKey>,
        facts: FactsVersion,
    ) -> Result<Option<Place>, LedgerError> {
        pass!(self, "reserve", self.ledger.reserve(lease, budgets, key, facts))
    }

    async fn name(&self, id: LeaseId, handle: &Handle) -> Result<(), LedgerError> {
        pass!(self, "name", self.ledger.name(id, handle))
    }

    async fn activate(&self, id: LeaseId, handle: &Handle, expires_at: Timestamp) -> Result<(), LedgerError> {
        pass!(self, "activate", self.ledger.activate(id, handle, expires_at))
    }

    async fn renew(&self, id: LeaseId, terms: Renewal, now: Timestamp) -> Result<Lease, LedgerError> {
        pass!(self, "renew", self.ledger.renew(id, terms, now))
    }

    async fn lease(&self, id: LeaseId) -> Result<Option<Lease>, LedgerError> {
        pass!(self, "lease", self.ledger.lease(id))
    }

    async fn live(&self, id: LeaseId, now: Timestamp) -> Result<Lease, LedgerError> {
        pass!(self, "live", self.ledger.live(id, now))
    }

    async fn revoke(&self, id: LeaseId, cause: Cause, now: Timestamp) -> Result<Lease, LedgerError> {
        pass!(self, "revoke", self.ledger.revoke(id, cause, now))
    }

    async fn revoke_all(&self, ids: &[LeaseId], cause: Cause, now: Timestamp) -> Result<usize, LedgerError> {
        pass!(self, "revoke_all", self.ledger.revoke_all(ids, cause, now))
    }

    async fn claim_due(
        &self,
        now: Timestamp,
        hold: Duration,
        limit: NonZeroUsize,
    ) -> Result<Vec<Claim>, LedgerError> {
        pass!(self, "claim_due", self.ledger.claim_due(now, hold, limit))
    }

    async fn due_since(&self, now: Timestamp) -> Result<Option<Timestamp>, LedgerError> {
        pass!(self, "due_since", self.ledger.due_since(now))
    }

    async fn settle(
        &self,
        claim: &LeaseClaim,
        settlement: Settlement,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        pass!(self, "settle", self.ledger.settle(claim, settlement, now))
    }

    async fn settle_all(
        &self,
        settled: &[(LeaseClaim, Settlement)],
        now: Timestamp,
    ) -> Vec<Result<(), LedgerError>> {
        let answers = async {
            pass!(self, "settle_all", async {
                Ok(self.ledger.settle_all(settled, now).await)
            })
        };
        let down = |error: LedgerError| settled.iter().map(|_| Err(error.clone())).collect();
        answers.await.unwrap_or_else(down)
    }

    async fn retry(&self, id: LeaseId, now: Timestamp) -> Result<Lease, LedgerError> {
        pass!(self, "retry", self.ledger.retry(id, now))
    }

    async fn abandon(
        &self,
        lease: &Lease,
        signature: &ReceiptSignature,
        now: Timestamp,
    ) -> Result<Lease, LedgerError> {
        pass!(self, "abandon", self.ledger.abandon(lease, signature, now))
    }

    async fn cut(&self, cutoff: &Cutoff) -> Result<(), LedgerError> {
        pass!(self, "cut", self.ledger.cut(cutoff))
    }

    async fn cutoffs(&self) -> Result<Vec<Cutoff>, LedgerError> {
        pass!(self, "cutoffs", self.ledger.cutoffs())
    }

    async fn find(&self, filter: &Filter, page: &Page) -> Result<Vec<Lease>, LedgerError> {
        pass!(self, "find", self.ledger.find(filter, page))
    }

    async fn changes(&self, since: &Cursor, wait: Duration) -> Result<Changes, LedgerError> {
        pass!(self, "changes", self.ledger.changes(since, wait))
    }

    async fn ping(&self) -> Result<(), LedgerError> {
        pass!(self, "ping", self.ledger.ping())
    }
}

#[async_trait]
impl<G: Gate> Context for Gated<G> {
    async fn state(&self, fact: &Fact, why: &str, now: Timestamp) -> Result<Stated, LedgerError> {
        pass!(self, "state", self.ledger.state(fact, why, now))
    }

    async fn facts(&self, since: FactsVersion, wait: Duration) -> Result<Statements, LedgerError> {
        pass!(self, "facts", self.ledger.facts(since, wait))
    }

    async fn order_recheck(&self, recheck: &Recheck) -> Result<(), LedgerError> {
        pass!(self, "order_recheck", self.ledger.order_recheck(recheck))
    }

    async fn claim_recheck(
        &self,
        now: Timestamp,
        hold: Duration,
        revision: &Revision,
    ) -> Result<Option<RecheckClaim>, LedgerError> {
        pass!(
            self,
            "claim_recheck",
            self.ledger.claim_recheck(now, hold, revision)
        )
    }

    async fn settle_recheck(
        &self,
        claim: &RecheckClaim,
        progress: Progress,
        done: bool,
    ) -> Result<(), LedgerError> {
        pass!(
            self,
            "settle_recheck",
            self.ledger.settle_recheck(claim, progress, done)
        )
    }

    async fn rechecks(&self) -> Result<Vec<Recheck>, LedgerError> {
        pass!(self, "rechecks", self.ledger.rechecks())
    }

    async fn curtail(&self, id: LeaseId, curtailed: Curtailed, now: Timestamp) -> Result<Lease, LedgerError> {
        pass!(self, "curtail", self.ledger.curtail(id, curtailed, now))
    }

    async fn mark(&self, name: &str) -> Result<Option<Vec<u8>>, LedgerError> {
        pass!(self, "mark", self.ledger.mark(name))
    }

    async fn set_mark(&self, name: &str, value: &[u8], expected: Option<&[u8]>) -> Result<bool, LedgerError> {
        pass!(self, "set_mark", self.ledger.set_mark(name, value, expected))
    }
}

/// Not behind the gate: no step of a request.
#[async_trait]
impl<G: Gate> Lineage for Gated<G> {
    fn loss(&self) -> Option<Loss> {
        self.ledger.loss()
    }

    async fn judge(&self, writer: Writer, memory: &Memory) -> Result<Standing, LedgerError> {
        self.ledger.judge(writer, memory).await
    }

    async fn watch(&self) -> Result<Watched, LedgerError> {
        self.ledger.watch().await
    }

    async fn condemn(&self, loss: Loss) -> Result<(), LedgerError> {
        self.ledger.condemn(loss).await
    }

    async fn rejoin(&self) -> Result<(), LedgerError> {
        self.ledger.rejoin().await
    }

    async fn adopt(&self, lease: &Lease) -> Result<bool, LedgerError> {
        self.ledger.adopt(lease).await
    }

    async fn end_tasks(&self, now: Timestamp) -> Result<usize, LedgerError> {
        self.ledger.end_tasks(now).await
    }

    async fn begin_epoch(&self, epoch: Epoch, writers: &BTreeSet<Writer>) -> Result<(), LedgerError> {
        self.ledger.begin_epoch(epoch, writers).await
    }
}

#[async_trait]
impl<G: Gate> StatusLists for Gated<G> {
    fn naming(&self) -> Option<Naming> {
        self.ledger.naming()
    }

    async fn parts(&self) -> Result<BTreeMap<Hour, u32>, LedgerError> {
        pass!(self, "parts", self.ledger.parts())
    }

    async fn struck(&self, hour: Hour, part: u32) -> Result<Vec<u8>, LedgerError> {
        pass!(self, "struck", self.ledger.struck(hour, part))
    }
}
