//! What stands around the ledger: how long each call takes and which fail. A refusal is an answer.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use metrics::{Counter, Histogram};
use tokio::time::Instant;
use tracing::Instrument as _;

use super::context::{Context, RecheckClaim, Stated, Statements};
use super::lineage::{Epoch, Lineage, Loss, Memory, Standing, Watched, Writer};
use super::status_lists::{Naming, StatusLists};
use super::{
    Budgets, Changes, Claim, Cursor, Filter, IdempotencyKey, LeaseClaim, Ledger, LedgerError, Opened, Page,
    Renewal, Settlement,
};
use crate::model::cutoff::Cutoff;
use crate::model::decision::Revision;
use crate::model::fact::{Fact, FactsVersion};
use crate::model::ids::{LeaseId, TaskId};
use crate::model::lease::{Cause, Curtailed, Handle, Lease, ReceiptSignature};
use crate::model::recheck::{Progress, Recheck};
use crate::model::status_list::{Hour, Place};
use crate::model::task::{Task, TaskChange};
use crate::model::time::Timestamp;
use crate::trace;

/// Seconds that calls of the ledger took, by call.
pub const SECONDS: &str = "dayfly_ledger_duration_seconds";
/// Calls of the ledger that got no answer, by call.
pub const FAILURES: &str = "dayfly_ledger_failures_total";

/// What one call is counted with, looked up once.
struct Call {
    name: &'static str,
    seconds: Histogram,
    failures: Counter,
}

impl Call {
    fn new(name: &'static str) -> Self {
        Self {
            name,
            seconds: match LONG_POLLS.contains(&name) {
                true => Histogram::noop(),
                false => metrics::histogram!(SECONDS, "call" => name),
            },
            failures: metrics::counter!(FAILURES, "call" => name),
        }
    }

    async fn timed<T>(&self, call: impl Future<Output = Result<T, LedgerError>>) -> Result<T, LedgerError> {
        self.counted(call, is_no_answer).await
    }

    /// A call about many things, each of which has its answer: it failed where one of them has none.
    async fn timed_each<T>(
        &self,
        call: impl Future<Output = Vec<Result<T, LedgerError>>>,
    ) -> Vec<Result<T, LedgerError>> {
        self.counted(call, |each| each.iter().any(is_no_answer)).await
    }

    async fn counted<A>(&self, call: impl Future<Output = A>, failed: impl FnOnce(&A) -> bool) -> A {
        let began = Instant::now();
        let span = tracing::info_span!(target: trace::TARGET, "ledger", call = self.name);
        let answer = call.instrument(span).await;
        self.seconds.record(began.elapsed().as_secs_f64());
        if failed(&answer) {
            self.failures.increment(1);
        }
        answer
    }
}

fn is_no_answer<T>(answer: &Result<T, LedgerError>) -> bool {
    matches!(answer, Err(error) if !matches!(error, LedgerError::Refused(_)))
}

/// They take as long as nothing happens, which says nothing.
const LONG_POLLS: [&str; 2] = ["changes", "facts"];

macro_rules! calls {
    ($($name:ident),* $(,)?) => {
        /// Every call, by the word that metrics use.
        pub const CALLS: &[&str] = &[$(stringify!($name)),*];

        struct Calls {
            $($name: Call),*
        }

        impl Calls {
            fn new() -> Self {
                Self { $($name: Call::new(stringify!($name))),* }
            }
        }
    };
}

calls![
    open,
    task,
    advance,
    below,
    reserve,
    name,
    activate,
    renew,
    lease,
    live,
    revoke,
    revoke_all,
    claim_due,
    due_since,
    settle,
    settle_all,
    retry,
    abandon,
    cut,
    cutoffs,
    find,
    changes,
    ping,
    state,
    facts,
    order_recheck,
    claim_recheck,
    settle_recheck,
    rechecks,
    curtail,
    mark,
    set_mark,
    judge,
    watch,
    condemn,
    rejoin,
    adopt,
    end_tasks,
    begin_epoch,
    parts,
    struck,
];

/// A ledger whose calls are counted.
pub struct Measured {
    inner: Arc<dyn Ledger>,
    calls: Calls,
}

impl Measured {
    /// Stands around this ledger. What it counts with is that of the recorder of now.
    pub fn new(inner: Arc<dyn Ledger>) -> Self {
        let calls = Calls::new();
        Self { inner, calls }
    }
}

#[async_trait]
impl Ledger for Measured {
    async fn open(
        &self,
        task: &Task,
        most: Option<u32>,
        key: Option<&IdempotencyKey>,
    ) -> Result<Opened, LedgerError> {
        self.calls.open.timed(self.inner.open(task, most, key)).await
    }

    async fn task(&self, id: TaskId) -> Result<Option<Task>, LedgerError> {
        self.calls.task.timed(self.inner.task(id)).await
    }

    async fn advance(&self, id: TaskId, change: TaskChange, now: Timestamp) -> Result<Task, LedgerError> {
        self.calls
            .advance
            .timed(self.inner.advance(id, change, now))
            .await
    }

    async fn below(&self, id: TaskId) -> Result<Vec<Task>, LedgerError> {
        self.calls.below.timed(self.inner.below(id)).await
    }

    async fn reserve(
        &self,
        lease: &Lease,
        budgets: &Budgets,
        key: Option<&IdempotencyKey>,
        facts: FactsVersion,
    ) -> Result<Option<Place>, LedgerError> {
        self.calls
            .reserve
            .timed(self.inner.reserve(lease, budgets, key, facts))
            .await
    }

    async fn name(&self, id: LeaseId, handle: &Handle) -> Result<(), LedgerError> {
        self.calls.name.timed(self.inner.name(id, handle)).await
    }

    async fn activate(&self, id: LeaseId, handle: &Handle, expires_at: Timestamp) -> Result<(), LedgerError> {
        self.calls
            .activate
            .timed(self.inner.activate(id, handle, expires_at))
            .await
    }

    async fn renew(&self, id: LeaseId, terms: Renewal, now: Timestamp) -> Result<Lease, LedgerError> {
        self.calls.renew.timed(self.inner.renew(id, terms, now)).await
    }

    async fn lease(&self, id: LeaseId) -> Result<Option<Lease>, LedgerError> {
        self.calls.lease.timed(self.inner.lease(id)).await
    }

    async fn live(&self, id: LeaseId, now: Timestamp) -> Result<Lease, LedgerError> {
        self.calls.live.timed(self.inner.live(id, now)).await
    }

    async fn revoke(&self, id: LeaseId, cause: Cause, now: Timestamp) -> Result<Lease, LedgerError> {
        self.calls.revoke.timed(self.inner.revoke(id, cause, now)).await
    }

    async fn revoke_all(&self, ids: &[LeaseId], cause: Cause, now: Timestamp) -> Result<usize, LedgerError> {
        self.calls
            .revoke_all
            .timed(self.inner.revoke_all(ids, cause, now))
            .await
    }

    async fn claim_due(
        &self,
        now: Timestamp,
        hold: Duration,
        limit: NonZeroUsize,
    ) -> Result<Vec<Claim>, LedgerError> {
        self.calls
            .claim_due
            .timed(self.inner.claim_due(now, hold, limit))
            .await
    }

    async fn due_since(&self, now: Timestamp) -> Result<Option<Timestamp>, LedgerError> {
        self.calls.due_since.timed(self.inner.due_since(now)).await
    }

    async fn settle(
        &self,
        claim: &LeaseClaim,
        settlement: Settlement,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        self.calls
            .settle
            .timed(self.inner.settle(claim, settlement, now))
            .await
    }

    async fn settle_all(
        &self,
        settled: &[(LeaseClaim, Settlement)],
        now: Timestamp,
    ) -> Vec<Result<(), LedgerError>> {
        self.calls
            .settle_all
            .timed_each(self.inner.settle_all(settled, now))
            .await
    }

    async fn retry(&self, id: LeaseId, now: Timestamp) -> Result<Lease, LedgerError> {
        self.calls.retry.timed(self.inner.retry(id, now)).await
    }

    async fn abandon(
        &self,
        lease: &Lease,
        signature: &ReceiptSignature,
        now: Timestamp,
    ) -> Result<Lease, LedgerError> {
        self.calls
            .abandon
            .timed(self.inner.abandon(lease, signature, now))
            .await
    }

    async fn cut(&self, cutoff: &Cutoff) -> Result<(), LedgerError> {
        self.calls.cut.timed(self.inner.cut(cutoff)).await
    }

    async fn cutoffs(&self) -> Result<Vec<Cutoff>, LedgerError> {
        self.calls.cutoffs.timed(self.inner.cutoffs()).await
    }

    async fn find(&self, filter: &Filter, page: &Page) -> Result<Vec<Lease>, LedgerError> {
        self.calls.find.timed(self.inner.find(filter, page)).await
    }

    async fn changes(&self, since: &Cursor, wait: Duration) -> Result<Changes, LedgerError> {
        self.calls.changes.timed(self.inner.changes(since, wait)).await
    }

    async fn ping(&self) -> Result<(), LedgerError> {
        self.calls.ping.timed(self.inner.ping()).await
    }
}

#[async_trait]
impl Context for Measured {
    async fn state(&self, fact: &Fact, why: &str, now: Timestamp) -> Result<Stated, LedgerError> {
        self.calls.state.timed(self.inner.state(fact, why, now)).await
    }

    async fn facts(&self, since: FactsVersion, wait: Duration) -> Result<Statements, LedgerError> {
        self.calls.facts.timed(self.inner.facts(since, wait)).await
    }

    async fn order_recheck(&self, recheck: &Recheck) -> Result<(), LedgerError> {
        self.calls
            .order_recheck
            .timed(self.inner.order_recheck(recheck))
            .await
    }

    async fn claim_recheck(
        &self,
        now: Timestamp,
        hold: Duration,
        revision: &Revision,
    ) -> Result<Option<RecheckClaim>, LedgerError> {
        self.calls
            .claim_recheck
            .timed(self.inner.claim_recheck(now, hold, revision))
            .await
    }

    async fn settle_recheck(
        &self,
        claim: &RecheckClaim,
        progress: Progress,
        done: bool,
    ) -> Result<(), LedgerError> {
        self.calls
            .settle_recheck
            .timed(self.inner.settle_recheck(claim, progress, done))
            .await
    }

    async fn rechecks(&self) -> Result<Vec<Recheck>, LedgerError> {
        self.calls.rechecks.timed(self.inner.rechecks()).await
    }

    async fn curtail(&self, id: LeaseId, curtailed: Curtailed, now: Timestamp) -> Result<Lease, LedgerError> {
        self.calls
            .curtail
            .timed(self.inner.curtail(id, curtailed, now))
            .await
    }

    async fn mark(&self, name: &str) -> Result<Option<Vec<u8>>, LedgerError> {
        self.calls.mark.timed(self.inner.mark(name)).await
    }

    async fn set_mark(&self, name: &str, value: &[u8], expected: Option<&[u8]>) -> Result<bool, LedgerError> {
        self.calls
            .set_mark
            .timed(self.inner.set_mark(name, value, expected))
            .await
    }
}

#[async_trait]
impl Lineage for Measured {
    fn loss(&self) -> Option<Loss> {
        self.inner.loss()
    }

    async fn judge(&self, writer: Writer, memory: &Memory) -> Result<Standing, LedgerError> {
        self.calls.judge.timed(self.inner.judge(writer, memory)).await
    }

    async fn watch(&self) -> Result<Watched, LedgerError> {
        self.calls.watch.timed(self.inner.watch()).await
    }

    async fn condemn(&self, loss: Loss) -> Result<(), LedgerError> {
        self.calls.condemn.timed(self.inner.condemn(loss)).await
    }

    async fn rejoin(&self) -> Result<(), LedgerError> {
        self.calls.rejoin.timed(self.inner.rejoin()).await
    }

    async fn adopt(&self, lease: &Lease) -> Result<bool, LedgerError> {
        self.calls.adopt.timed(self.inner.adopt(lease)).await
    }

    async fn end_tasks(&self, now: Timestamp) -> Result<usize, LedgerError> {
        self.calls.end_tasks.timed(self.inner.end_tasks(now)).await
    }

    async fn begin_epoch(&self, epoch: Epoch, writers: &BTreeSet<Writer>) -> Result<(), LedgerError> {
        self.calls
            .begin_epoch
            .timed(self.inner.begin_epoch(epoch, writers))
            .await
    }
}

#[async_trait]
impl StatusLists for Measured {
    fn naming(&self) -> Option<Naming> {
        self.inner.naming()
    }

    async fn parts(&self) -> Result<BTreeMap<Hour, u32>, LedgerError> {
        self.calls.parts.timed(self.inner.parts()).await
    }

    async fn struck(&self, hour: Hour, part: u32) -> Result<Vec<u8>, LedgerError> {
        self.calls.struck.timed(self.inner.struck(hour, part)).await
    }
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;
    use crate::ledger::embedded::{Config, Embedded};

    #[tokio::test]
    async fn counts_calls_and_failures_but_no_refusals() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let _local = metrics::set_default_local_recorder(&recorder);
        let dir = tempfile::tempdir().unwrap();
        let inner = Embedded::open(&dir.path().join("ledger.redb"), Config::default()).unwrap();
        let ledger = Measured::new(Arc::new(inner));
        ledger.ping().await.unwrap();
        let unknown = LeaseId::new(TaskId::new(Timestamp::EPOCH, [1; 10]), Timestamp::EPOCH, [1; 10]);
        let refused = ledger.revoke(unknown, Cause::Revoked, Timestamp::EPOCH).await;
        assert!(matches!(refused, Err(LedgerError::Refused(_))), "{refused:?}");
        let page = recorder.handle().render();
        for line in [
            "dayfly_ledger_duration_seconds_count{call=\"ping\"} 1",
            "dayfly_ledger_duration_seconds_count{call=\"revoke\"} 1",
            "dayfly_ledger_duration_seconds_count{call=\"settle\"} 0",
            "dayfly_ledger_failures_total{call=\"revoke\"} 0",
        ] {
            assert!(page.contains(line), "{line}: {page}");
        }
        assert!(
            !page.contains("duration_seconds_count{call=\"changes\"}"),
            "{page}"
        );
    }
}
