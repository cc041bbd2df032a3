//! `open`: a task begins.

use crate::journal::record::{Record, Result as Outcome, Verb};
use crate::ledger::{IdempotencyKey, LedgerError, Opened, Refusal};
use crate::model::access::Scope;
use crate::model::agent::Agent;
use crate::model::ids::{RequestId, Slot, TaskId};
use crate::model::name::{Purpose, UserId};
use crate::model::task::{Charter, Task, TaskState};
use crate::model::ttl::Ttl;
use crate::registry::Caller;

use super::error::BrokerError;
use super::records::{Fill, of_caller};
use super::{Broker, measure};

/// What an agent says about the work that it is about to do.
#[derive(Clone, Debug)]
pub struct OpenOrder {
    /// Why.
    pub purpose: Purpose,
    /// What it may ask for at most.
    pub scope: Scope,
    /// On whose behalf.
    pub on_behalf_of: Option<UserId>,
    /// How long it takes at most.
    pub ttl: Option<Ttl>,
    /// The task ends when no heartbeat comes for this long.
    pub heartbeat: Option<Ttl>,
    /// Repeating the order with this key answers the same task.
    pub key: Option<IdempotencyKey>,
}

impl Broker {
    /// Opens a task. Its scope gives nothing by itself: each credential is decided when it is asked for.
    pub async fn open(
        &self,
        caller: &Caller,
        order: OpenOrder,
        request: RequestId,
    ) -> Result<Task, BrokerError> {
        self.outside_quarantine()?;
        let now = self.now();
        let (life, heartbeat) = self.task_life(order.ttl, order.heartbeat)?;
        let random = self.draw()?;
        let id = match &order.key {
            // A repeated order has to fall into the shard that knows its key.
            Some(IdempotencyKey { key: [a, b, ..], .. }) => {
                TaskId::in_slot(now, Slot::new(u16::from_be_bytes([*a, *b])), random)
            }
            None => TaskId::new(now, random),
        };
        let agent = caller.agent();
        let attestation = caller.workload().attestation();
        let mut task = Task {
            charter: Charter {
                id,
                agent: agent.name.clone(),
                environment: agent.environment.clone(),
                trust_domain: attestation.trust_domain.clone(),
                subject: attestation.subject.to_string(),
                delegators: Vec::new(),
                purpose: order.purpose,
                scope: order.scope,
                on_behalf_of: order.on_behalf_of,
                opened_at: now,
                deadline: now.plus(life.as_duration()),
                heartbeat,
            },
            state: TaskState::Open,
            beat_at: now,
        };
        let charter = &task.charter;
        if let Some(user) = &charter.on_behalf_of
            && let Err(denial) = self.may_act_for(caller, user, now)
        {
            let decision = self.decision_id(now)?;
            let record = Record {
                decision: Some(decision),
                task: None, // there is none
                ..of_caller(Verb::Open, Outcome::Denied, now, caller, request).task(charter)
            };
            return Err(self.deny(record, decision, denial).await?);
        }
        let most = self.most_open_tasks(agent);
        let opened = self.parts.ledger.open(&task, most, order.key.as_ref()).await;
        let record = of_caller(Verb::Open, Outcome::Permitted, now, caller, request);
        match opened {
            Ok(Opened::New) => {}
            Ok(Opened::Repeated(first)) => task = *first,
            Err(LedgerError::Refused(refusal @ Refusal::Budget { .. })) => {
                let error = BrokerError::Refused(refusal);
                let record = Record {
                    task: None, // there is none
                    ..record.task(&task.charter)
                };
                self.record_full(record, &error).await;
                return Err(error);
            }
            Err(error) => return Err(error.into()),
        }
        self.record(record.task(&task.charter)).await?;
        measure::decided(Verb::Open, Outcome::Permitted);
        self.remember(task.clone());
        Ok(task)
    }

    /// How long a task lives at most, and how often it has to give a sign of life.
    pub(super) fn task_life(
        &self,
        ttl: Option<Ttl>,
        heartbeat: Option<Ttl>,
    ) -> Result<(Ttl, Option<Ttl>), BrokerError> {
        let settings = &self.parts.settings;
        let longest = settings.longest_task_life;
        let life = ttl.unwrap_or(settings.default_task_life.min(longest));
        if life > longest {
            return Err(BrokerError::OutOfBounds {
                pointer: "/ttl".into(),
                reason: format!("a task lives at most {longest}: ask for less, and open another task later"),
            });
        }
        let heartbeat = heartbeat.or(settings.default_heartbeat);
        if heartbeat.is_some_and(|every| every > settings.longest_heartbeat) {
            return Err(BrokerError::OutOfBounds {
                pointer: "/heartbeat".into(),
                reason: format!(
                    "heartbeats are at most {} apart: ask for less",
                    settings.longest_heartbeat
                ),
            });
        }
        Ok((life, heartbeat))
    }

    /// How many tasks of an agent may be open, or suspended.
    pub(super) fn most_open_tasks(&self, agent: &Agent) -> Option<u32> {
        let ceiling = agent.ceilings.open_tasks;
        ceiling.or(self.parts.settings.open_tasks_per_agent)
    }

    /// Records that an agent has as many tasks as it may: once in five minutes, because what opens tasks
    /// in a loop would otherwise write the journal in their stead.
    pub(super) async fn record_full(&self, record: Record, error: &BrokerError) {
        let seen = record.agent.as_ref();
        let seen = seen.map(|agent| format!("{agent} {} open_tasks", record.verb.as_str()));
        let seen = seen.unwrap_or_default();
        if self.looks.contains_key(&seen) {
            measure::decided(record.verb, Outcome::Failed);
        } else {
            self.looks.insert(seen, ());
            self.record_failure(&record, error).await;
        }
    }
}
