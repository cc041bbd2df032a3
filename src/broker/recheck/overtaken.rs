//! What is overtaken: a credential that is being given out, by other rules or by its key being taken back; and the
//! rechecks of a revision that nobody has in force any more.
//!
//! A recheck under new rules finds what is written down when it comes by. What was decided by the rules of before,
//! and is written down behind its back, orders a recheck of its own before anybody is answered.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::model::cutoff::Selector;
use crate::model::decision::Revision;
use crate::model::ids::{DecisionId, LeaseId};
use crate::model::recheck::{Recheck, Work};
use crate::model::task::Charter;
use crate::registry::Caller;

use super::super::Broker;
use super::super::error::BrokerError;
use super::super::rules::Ruleset;

/// How long rechecks of another revision may stand still. Whoever has it comes sooner: a claim returns after
/// [`super::HOLD`], and the queue is fair.
const STANDSTILL: Duration = Duration::from_secs(120);

/// The rechecks of each other revision as they stood when they last changed, and when that was found.
#[derive(Debug, Default)]
pub(in super::super) struct Others(HashMap<Revision, (Vec<Recheck>, Instant)>);

impl Broker {
    /// Where other rules came in force since a request began, orders that its lease is decided anew; refuses where a
    /// key behind it was taken back. Costs a look in memory where nothing happened. After an error the lease must
    /// not live.
    pub(in super::super) async fn keep_up(
        &self,
        (lease, decision): (LeaseId, DecisionId),
        caller: &Caller,
        charter: &Charter,
        began: &Arc<Ruleset>,
    ) -> Result<(), BrokerError> {
        self.still_vouched(began, caller, charter)
            .map_err(|denial| BrokerError::Denied {
                decision,
                reason: denial.reason,
                approval: None,
            })?;
        let mut by = Arc::clone(began);
        // A revision that is overtaken while it is being ordered may be nobody's by then.
        while !self.parts.rules.is_in_force(&by) {
            by = self.parts.rules.current();
            let why = "other rules came in force while it was given out";
            self.order_recheck(Selector::Lease(lease), by_revision(&by.revision), why)
                .await?;
        }
        Ok(())
    }

    /// Orders under a revision what waits for others. They are no longer in force where this is called, and
    /// whoever has one of them still, or again, begins with everything or comes here too.
    pub(in super::super) async fn overtake(&self, revision: &Revision) -> Result<(), BrokerError> {
        let rechecks = self.parts.ledger.rechecks().await?;
        self.take_over(
            rechecks
                .into_iter()
                .filter(|recheck| waits_for_another(recheck, revision)),
            revision,
        )
        .await
    }

    /// Takes over the rechecks of other revisions that have stood still for long: nobody has those in force.
    pub(super) async fn look_at_others(&self) -> Result<(), BrokerError> {
        let mut others = self.others.lock().await;
        let rules = self.parts.rules.current();
        let mut found: HashMap<Revision, Vec<Recheck>> = HashMap::new();
        for recheck in self.parts.ledger.rechecks().await? {
            if let Some(revision) = recheck.work.revision()
                && *revision != rules.revision
            {
                found.entry(revision.clone()).or_default().push(recheck);
            }
        }
        others.0.retain(|revision, _| found.contains_key(revision));
        for (revision, rechecks) in found {
            let (before, since) = others
                .0
                .entry(revision.clone())
                .or_insert_with(|| (Vec::new(), Instant::now()));
            if *before != rechecks {
                (*before, *since) = (rechecks, Instant::now());
            } else if since.elapsed() >= STANDSTILL {
                tracing::warn!(%revision, "nobody works at what waits for these rules: it is decided by those in force");
                // Whoever starts with them after all begins with everything.
                self.remember_rules(&rules.revision).await?;
                self.take_over(rechecks, &rules.revision).await?;
                others.0.remove(&revision);
            }
        }
        Ok(())
    }

    async fn take_over(
        &self,
        rechecks: impl IntoIterator<Item = Recheck>,
        revision: &Revision,
    ) -> Result<(), BrokerError> {
        for recheck in rechecks {
            self.order_recheck(recheck.whom, by_revision(revision), recheck.why)
                .await?;
        }
        Ok(())
    }
}

fn by_revision(revision: &Revision) -> Work {
    Work::Decide {
        revision: Some(revision.clone()),
    }
}

fn waits_for_another(recheck: &Recheck, revision: &Revision) -> bool {
    recheck.work.revision().is_some_and(|waits| waits != revision)
}
