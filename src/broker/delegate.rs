//! `delegate`: work is handed on. A sub-task begins, for another agent or for the same.
//!
//! It can only narrow: its scope, its deadline, on whose behalf it runs. What is issued for it is decided for its
//! agent and for everybody above ([`crate::policy::chain`]), and it ends with the task that it is part of.

use crate::journal::record::{Delegation, Record, Result as Outcome, Scoped, Verb};
use crate::ledger::{IdempotencyKey, LedgerError, Opened, Refusal};
use crate::model::access::{Access, Scope};
use crate::model::agent::Agent;
use crate::model::ids::{RequestId, TaskId};
use crate::model::lease::WITHDRAWAL_REACHES;
use crate::model::name::{AgentName, Purpose};
use crate::model::task::{Charter, Delegator, Task, TaskState};
use crate::model::time::Timestamp;
use crate::model::ttl::Ttl;
use crate::registry::Caller;

use super::error::BrokerError;
use super::permission::{NOT_FOR_THEM, denial};
use super::records::of_caller;
use super::rules::Ruleset;
use super::{Broker, measure};

/// What an agent says about the work that it hands on.
#[derive(Clone, Debug)]
pub struct DelegateOrder {
    /// The task that it is part of.
    pub parent: TaskId,
    /// Who is to do it; the agent itself when absent.
    pub to: Option<AgentName>,
    /// Why.
    pub purpose: Purpose,
    /// What it may ask for at most: within the scope of the parent.
    pub scope: Scope,
    /// How long it takes at most. It never takes longer than the parent.
    pub ttl: Option<Ttl>,
    /// The sub-task ends when no heartbeat comes for this long.
    pub heartbeat: Option<Ttl>,
    /// Repeating the order with this key answers the same sub-task.
    pub key: Option<IdempotencyKey>,
}

impl Broker {
    /// Opens a sub-task of one of the caller's own tasks. Handing it to another agent takes a permit for
    /// `dayfly:delegate`; to itself no more than opening a task does.
    pub async fn delegate(
        &self,
        caller: &Caller,
        order: DelegateOrder,
        request: RequestId,
    ) -> Result<Task, BrokerError> {
        self.outside_quarantine()?;
        let now = self.now();
        let parent = self.own_charter(caller, order.parent).await?;
        if let Some(place) = parent.scope.widened_by(&order.scope) {
            return Err(BrokerError::OutOfBounds {
                pointer: format!("/scope/{place}").into(),
                reason: "no access of the parent task covers this one: a sub-task can only narrow".into(),
            });
        }
        let (life, heartbeat) = self.task_life(order.ttl, order.heartbeat)?;
        let mine = &caller.agent().name;
        let to = order.to.as_ref().unwrap_or(mine);
        let draft = Record {
            delegation: Some(Box::new(handed_on(mine, &parent, to, &order.scope))),
            on_behalf_of: parent.on_behalf_of.clone(),
            purpose: Some(order.purpose.as_str().to_owned()),
            ..of_caller(Verb::Delegate, Outcome::Permitted, now, caller, request)
        };
        let record = match to == mine {
            true => Record {
                decision: Some(self.decision_id(now)?),
                ..draft
            },
            false => self.may_about(caller, draft, "delegate", Some(to)).await?,
        };
        let rules = self.parts.rules.current();
        let receiver = match self.receiver(&rules, &parent, to, now) {
            Ok(receiver) => receiver,
            Err(reason) => {
                let decision = record.decision.map_or_else(|| self.decision_id(now), Ok)?;
                let denial = denial(&rules, &reason);
                return Err(self.deny(record, decision, denial).await?);
            }
        };
        let attestation = caller.workload().attestation();
        let link = Delegator {
            task: parent.id,
            agent: mine.clone(),
            kind: attestation.kind,
            trust_domain: attestation.trust_domain.clone(),
            key: attestation.key,
            until: attestation.expires_at.max(now.plus(WITHDRAWAL_REACHES)),
        };
        let task = Task {
            charter: Charter {
                // The whole tree is in the shard of its root, which knows its keys and ends it in one step.
                id: TaskId::in_slot(now, parent.id.slot(), self.draw()?),
                agent: to.clone(),
                environment: parent.environment.clone(),
                trust_domain: attestation.trust_domain.clone(),
                subject: attestation.subject.to_string(),
                delegators: std::iter::once(link)
                    .chain(parent.delegators.iter().cloned())
                    .collect(),
                purpose: order.purpose,
                scope: order.scope,
                on_behalf_of: parent.on_behalf_of.clone(),
                opened_at: now,
                deadline: now.plus(life.as_duration()).min(parent.deadline),
                heartbeat,
            },
            state: TaskState::Open,
            beat_at: now,
        };
        let most = self.most_open_tasks(&receiver);
        let task = match self.parts.ledger.open(&task, most, order.key.as_ref()).await {
            Ok(Opened::New) => task,
            Ok(Opened::Repeated(first)) => *first,
            Err(LedgerError::Refused(refusal @ Refusal::Budget { .. })) => {
                let error = BrokerError::Refused(refusal);
                self.record_full(record, &error).await;
                return Err(error);
            }
            Err(error) => return Err(error.into()),
        };
        self.record(Record {
            task: Some(task.charter.id),
            ..record
        })
        .await?;
        measure::decided(Verb::Delegate, Outcome::Permitted);
        self.remember(task.clone());
        Ok(task)
    }

    /// The agent that work of a task is handed to, or why it cannot be. Asked after policy: who may not hand
    /// anything on learns nothing about others.
    fn receiver(
        &self,
        rules: &Ruleset,
        parent: &Charter,
        to: &AgentName,
        now: Timestamp,
    ) -> Result<std::sync::Arc<Agent>, String> {
        let deepest = self.parts.settings.deepest_task.min(Charter::DEEPEST);
        if parent.depth() >= deepest {
            return Err(format!(
                "there are {} tasks above this one, as many as there may be above a task: do the work in it",
                parent.depth()
            ));
        }
        let agent = rules.registry.agent(to);
        let agent = agent.ok_or_else(|| format!("no agent is registered as `{to}`"))?;
        agent
            .standing(now)
            .map_err(|standing| format!("`{to}` gets nothing: {standing}"))?;
        if agent.environment != parent.environment {
            return Err(format!("`{to}` is in another environment than the task"));
        }
        match &parent.on_behalf_of {
            Some(user) if !agent.may_act_for(user) => Err(format!("`{to}`: {NOT_FOR_THEM}")),
            _ => Ok(agent.clone()),
        }
    }
}

/// What is handed on, for the record.
fn handed_on(mine: &AgentName, parent: &Charter, to: &AgentName, scope: &Scope) -> Delegation {
    let above = parent.delegators.iter().map(|above| &above.agent);
    let scoped = |access: &Access| Scoped {
        actions: access.actions().clone(),
        resources: access.resources().clone(),
        tool: access.tool().clone(),
    };
    Delegation {
        by: std::iter::once(mine).chain(above).cloned().collect(),
        parent: parent.id,
        scope: scope.accesses().iter().map(scoped).collect(),
        to: Some(to.clone()),
    }
}
