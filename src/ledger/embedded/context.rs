//! Facts, rechecks and marks. Their tables are opened by the few steps that need them, so that all others
//! do not pay for them.

mod facts;
mod rechecks;

use std::time::Duration;

use async_trait::async_trait;
use redb::{ReadableTable as _, Table};

use super::layout::{AGAIN, FACTS, LAPSES, MARKS, QUEUE, RECHECKS, TOLD};
use super::tables::Tables;
use super::{Embedded, LONGEST_WAIT, steps, writer};
use crate::ledger::LedgerError;
use crate::ledger::context::{self, Context, RecheckClaim, Stated, Statements};
use crate::model::decision::Revision;
use crate::model::fact::{Fact, FactsVersion};
use crate::model::ids::LeaseId;
use crate::model::lease::{Curtailed, Lease};
use crate::model::recheck::{Progress, Recheck};
use crate::model::time::Timestamp;

/// The tables of facts and rechecks, open for one step.
pub(super) struct Circumstances<'a, 't> {
    tables: &'a mut Tables<'t>,
    facts: Table<'t, &'static [u8], FactRow>,
    told: Table<'t, u64, &'static [u8]>,
    lapses: Table<'t, &'static [u8], ()>,
    rechecks: Table<'t, &'static [u8], RecheckRow>,
    again: Table<'t, &'static [u8], &'static [u8]>,
    queue: Table<'t, u64, &'static [u8]>,
}

/// The number of the statement, whether it is in force, when that or its record goes, and the record.
pub(super) type FactRow = (u64, bool, u64, &'static [u8]);
/// The place in the queue, who holds it (0: nobody), until when (0: nobody began yet), and the record.
pub(super) type RecheckRow = (u64, u64, u64, &'static [u8]);

impl<'a, 't> Circumstances<'a, 't> {
    pub(super) fn of(tables: &'a mut Tables<'t>) -> Result<Self, LedgerError> {
        let transaction = tables.transaction;
        Ok(Self {
            facts: transaction.open_table(FACTS)?,
            told: transaction.open_table(TOLD)?,
            lapses: transaction.open_table(LAPSES)?,
            rechecks: transaction.open_table(RECHECKS)?,
            again: transaction.open_table(AGAIN)?,
            queue: transaction.open_table(QUEUE)?,
            tables,
        })
    }
}

/// Opens the tables, which makes them where there are none yet.
pub(super) fn make(tables: &mut Tables<'_>) -> Result<(), LedgerError> {
    tables.transaction.open_table(MARKS)?;
    Circumstances::of(tables).map(drop)
}

#[async_trait]
impl Context for Embedded {
    async fn state(&self, fact: &Fact, why: &str, now: Timestamp) -> Result<Stated, LedgerError> {
        let (fact, why) = (fact.clone(), why.to_owned());
        self.step(move |tables| Circumstances::of(tables)?.state(&fact, &why, now))
            .await
    }

    async fn facts(&self, since: FactsVersion, wait: Duration) -> Result<Statements, LedgerError> {
        let deadline = tokio::time::Instant::now() + wait.min(LONGEST_WAIT);
        let mut stated = self.writer.stated();
        loop {
            stated.borrow_and_update(); // before looking, so that nothing slips in between
            let statements = self.snapshot()?.statements(since)?;
            if statements.version != since {
                return Ok(statements);
            }
            match tokio::time::timeout_at(deadline, stated.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(writer::stopped()),
                Err(_) => return Ok(statements),
            }
        }
    }

    async fn order_recheck(&self, recheck: &Recheck) -> Result<(), LedgerError> {
        let recheck = recheck.clone();
        self.step(move |tables| Circumstances::of(tables)?.order(&recheck))
            .await
    }

    async fn claim_recheck(
        &self,
        now: Timestamp,
        hold: Duration,
        revision: &Revision,
    ) -> Result<Option<RecheckClaim>, LedgerError> {
        // Replicas ask often and mostly in vain, and a question need not cost a flush.
        let snapshot = self.snapshot()?;
        if !snapshot.anything_waits()? && !snapshot.anything_lapses(now)? {
            return Ok(None);
        }
        let (until, revision) = (now.plus(hold), revision.clone());
        self.step(move |tables| Circumstances::of(tables)?.claim(now, until, &revision))
            .await
    }

    async fn settle_recheck(
        &self,
        claim: &RecheckClaim,
        progress: Progress,
        done: bool,
    ) -> Result<(), LedgerError> {
        let claim = claim.clone();
        self.step(move |tables| Circumstances::of(tables)?.settle(&claim, progress, done))
            .await
    }

    async fn rechecks(&self) -> Result<Vec<Recheck>, LedgerError> {
        self.snapshot()?.rechecks()
    }

    async fn curtail(&self, id: LeaseId, curtailed: Curtailed, now: Timestamp) -> Result<Lease, LedgerError> {
        self.step(move |tables| steps::curtail(tables, id, curtailed, now))
            .await
    }

    async fn mark(&self, name: &str) -> Result<Option<Vec<u8>>, LedgerError> {
        let marks = self.snapshot()?.0.open_table(MARKS)?;
        Ok(marks.get(name)?.map(|value| value.value().to_vec()))
    }

    async fn set_mark(&self, name: &str, value: &[u8], expected: Option<&[u8]>) -> Result<bool, LedgerError> {
        context::fits(value)?;
        let (name, value, expected) = (name.to_owned(), value.to_vec(), expected.map(<[u8]>::to_vec));
        self.step(move |tables| {
            let mut marks = tables.transaction.open_table(MARKS)?;
            let as_expected = match (marks.get(name.as_str())?, &expected) {
                (Some(standing), Some(expected)) => standing.value() == expected.as_slice(),
                (standing, expected) => standing.is_none() && expected.is_none(),
            };
            if as_expected {
                tables.dirty = true;
                marks.insert(name.as_str(), value.as_slice())?;
            }
            Ok(as_expected)
        })
        .await
    }
}
