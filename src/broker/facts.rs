//! Facts: what is known besides who asks for what. Every decision looks at the same snapshot of them from
//! its beginning to its end, and none that did not see a statement is used after it was answered: the
//! ledger refuses ([`Refusal::StaleFacts`](crate::ledger::Refusal::StaleFacts)), the broker catches up and
//! decides again.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::journal::record::{Result as Outcome, Verb};
use crate::ledger::context::Stated;
use crate::model::fact::{Fact, Facts, Subject};
use crate::model::ids::RequestId;
use crate::model::name::{FactName, FactValue};
use crate::model::time::Timestamp;
use crate::registry::Caller;

use super::error::{BrokerError, chain};
use super::measure::Because;
use super::permission::unusable;
use super::records::Fill;
use super::{Broker, measure};

/// How long one look for new statements waits.
const WAIT: Duration = Duration::from_secs(20);
/// How long a broker rests after it could not look.
const REST: Duration = Duration::from_millis(500);
/// How far ahead of our clock the instant of a statement may be.
const AHEAD: Duration = Duration::from_secs(60);

/// The facts as this broker knows them, read without a lock, replaced whole.
#[derive(Debug, Default)]
pub(super) struct Known {
    facts: ArcSwap<Facts>,
    /// Held by whoever catches up: the others wait for the same answer.
    catching_up: Mutex<()>,
}

/// What somebody states.
#[derive(Clone, Debug)]
pub struct FactOrder {
    /// Whom it is about.
    pub about: Subject,
    /// What.
    pub name: FactName,
    /// What is so; none takes back what was stated.
    pub value: Option<FactValue>,
    /// Since when; since now when absent.
    pub at: Option<Timestamp>,
    /// Until when at most.
    pub expires_at: Option<Timestamp>,
    /// Why, in words.
    pub reason: Option<String>,
}

impl Broker {
    /// The facts that a decision looks at now.
    pub(super) fn facts(&self) -> Facts {
        Facts::clone(&self.known.facts.load())
    }

    /// Follows what is stated, until told to stop.
    pub async fn follow_facts(self: Arc<Self>, stop: CancellationToken) {
        loop {
            let looked = tokio::select! {
                () = stop.cancelled() => return,
                looked = self.look_for_facts(WAIT) => looked,
            };
            if let Err(error) = looked {
                tracing::warn!(error = %chain(&error), "could not look for new facts");
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(REST) => {}
                }
            }
        }
    }

    /// Knows everything from here on that was stated before.
    pub async fn catch_up(&self) -> Result<(), BrokerError> {
        self.look_for_facts(Duration::ZERO).await
    }

    async fn look_for_facts(&self, wait: Duration) -> Result<(), BrokerError> {
        let since = self.known.facts.load().version();
        let changes = self.parts.ledger.facts(since, wait).await?;
        let _one_at_a_time = self.known.catching_up.lock().await;
        let known = self.known.facts.load();
        let base = match changes.afresh {
            true => Facts::default(),
            false if known.version() >= changes.version => return Ok(()),
            false => Facts::clone(&known),
        };
        if changes.afresh || changes.version != known.version() {
            let facts = base.with(changes.stated, changes.version).still_so(self.now());
            self.known.facts.store(Arc::new(facts));
        }
        Ok(())
    }

    /// States a fact, or takes one back. Takes a permit for `dayfly:fact` about its subject. From the answer
    /// on nothing is given out on what was known before, and what is out is decided anew.
    pub async fn state_fact(
        &self,
        caller: &Caller,
        order: FactOrder,
        request: RequestId,
    ) -> Result<(Fact, Stated), BrokerError> {
        let now = self.now();
        let record = self
            .may_on(caller, Verb::Fact, "fact", Some(&order.about), request)
            .await?;
        let at = order.at.unwrap_or(now);
        if at > now.plus(AHEAD) {
            return Err(BrokerError::OutOfBounds {
                pointer: "/at".into(),
                reason: "this is in the future: state what is so now, or say since when it is".into(),
            });
        }
        if order.expires_at.is_some_and(|until| until <= now) {
            return Err(BrokerError::OutOfBounds {
                pointer: "/expires_at".into(),
                reason: "this instant has passed: take the fact back instead".into(),
            });
        }
        let fact = Fact {
            about: order.about,
            name: order.name,
            value: order.value,
            source: caller.agent().name.as_str().parse().map_err(unusable)?,
            at,
            expires_at: order.expires_at,
        };
        let said = said(&fact);
        let reason = order.reason.map_or(said.clone(), |why| format!("{said}: {why}"));
        // On record before anything is decided by it.
        let record = record.reason(reason);
        self.record(record.clone()).await?;
        match self.state(&fact).await {
            Ok(stated) => {
                // What was so already, or is no longer, has nothing decided anew.
                if matches!(stated, Stated::New(_)) {
                    measure::denies(Because::Fact, self.now().since(request.made_at()));
                }
                measure::decided(Verb::Fact, Outcome::Permitted);
                Ok((fact, stated))
            }
            Err(error) => {
                self.record_failure(&record, &error).await;
                Err(error)
            }
        }
    }

    /// States a fact that is on record already.
    pub(super) async fn state(&self, fact: &Fact) -> Result<Stated, BrokerError> {
        let stated = self.parts.ledger.state(fact, &said(fact), self.now()).await?;
        self.catch_up().await?;
        self.ordered.notify_one();
        Ok(stated)
    }

    /// What is so: about one subject, or about all of them. Takes a permit for `dayfly:inspect`.
    pub async fn inspect_facts(
        &self,
        caller: &Caller,
        about: Option<&Subject>,
        request: RequestId,
    ) -> Result<Vec<Fact>, BrokerError> {
        self.look(caller, "inspect", None, request).await?;
        self.catch_up().await?;
        let (facts, now) = (self.facts(), self.now());
        let mut stated: Vec<Fact> = facts
            .in_force(now)
            .filter(|fact| about.is_none_or(|about| fact.about == *about))
            .cloned()
            .collect();
        stated.sort_by(|a, b| (&a.about, &a.name).cmp(&(&b.about, &b.name)));
        Ok(stated)
    }
}

/// `agent/support-bot risk=high`, or `agent/support-bot risk taken back`.
pub(super) fn said(fact: &Fact) -> String {
    match &fact.value {
        Some(value) => format!("{} {}={value}", fact.about, fact.name),
        None => format!("{} {} taken back", fact.about, fact.name),
    }
}
