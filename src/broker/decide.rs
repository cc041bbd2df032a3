//! `decide`: what would be permitted, for a whole scope, with reasons and without effect.

use crate::journal::record::{Record, Result as Outcome, Verb};
use crate::model::access::{Access, Scope};
use crate::model::ids::{DecisionId, RequestId, TaskId};
use crate::model::name::{Purpose, Role, UserId};
use crate::model::task::Charter;
use crate::model::ttl::{Bounded, Ttl};
use crate::registry::Caller;

use super::error::BrokerError;
use super::records::{Fill, of_caller};
use super::{Broker, measure};

/// What an agent would like to know before it begins.
#[derive(Clone, Debug)]
pub struct DecideOrder {
    /// Why it would ask.
    pub purpose: Purpose,
    /// What it would ask for.
    pub scope: Scope,
    /// On whose behalf.
    pub on_behalf_of: Option<UserId>,
    /// For how long each; the tool's default when absent.
    pub ttl: Option<Ttl>,
}

/// What policy would say to one access.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The access.
    pub access: Access,
    /// The record to look for.
    pub decision: DecisionId,
    /// The life that would be granted, or why nothing would be.
    pub outcome: Result<Bounded, Refused>,
}

/// Why nothing would be issued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// In words for the agent.
    pub reason: String,
    /// It would be permitted once somebody in this role approved.
    pub approval: Option<Role>,
}

impl Broker {
    /// Decides each access of a scope as an issue would be decided now, and records the answers.
    pub async fn decide(
        &self,
        caller: &Caller,
        order: DecideOrder,
        request: RequestId,
    ) -> Result<Vec<Verdict>, BrokerError> {
        let now = self.now();
        let agent = caller.agent();
        let attestation = caller.workload().attestation();
        let charter = Charter {
            id: TaskId::new(now, self.draw()?),
            agent: agent.name.clone(),
            environment: agent.environment.clone(),
            trust_domain: attestation.trust_domain.clone(),
            subject: attestation.subject.to_string(),
            delegators: Vec::new(),
            purpose: order.purpose,
            scope: order.scope,
            on_behalf_of: order.on_behalf_of,
            opened_at: now,
            deadline: now.plus(self.parts.settings.longest_task_life.as_duration()),
            heartbeat: None,
        };
        let mut verdicts = Vec::with_capacity(charter.scope.accesses().len());
        let mut records = Vec::with_capacity(charter.scope.accesses().len());
        for access in charter.scope.accesses() {
            let decision = self.decision_id(now)?;
            let record = Record {
                decision: Some(decision),
                requested: order.ttl,
                ..of_caller(Verb::Decide, Outcome::Permitted, now, caller, request)
                    .task(&charter)
                    .access(access)
            };
            // No task was opened, so no task is named.
            let record = Record { task: None, ..record };
            let outcome = match self.permit(caller, &charter, &[], access, order.ttl, now) {
                Err(denial) => Err(denial),
                Ok(permit) => {
                    let tool = &permit.request().tool;
                    let promise = self.parts.providers.get(&tool.binding.provider)?.promise(tool);
                    self.bound(&permit, &charter, order.ttl, promise, now)
                        .map(|bounded| (bounded, permit))
                }
            };
            let (record, outcome) = match outcome {
                Ok((bounded, permit)) => {
                    let record = record.grounds(permit.grounds());
                    (
                        Record {
                            granted: Some(bounded.ttl),
                            bounded_by: Some(bounded.by),
                            ..record
                        },
                        Ok(bounded),
                    )
                }
                Err(denial) => {
                    let record = record.grounds(&denial.grounds).reason(&denial.reason);
                    let refused = Refused {
                        reason: denial.reason,
                        approval: denial.approval,
                    };
                    (
                        Record {
                            result: Outcome::Denied,
                            ..record
                        },
                        Err(refused),
                    )
                }
            };
            measure::decided(Verb::Decide, record.result);
            records.push(record);
            verdicts.push(Verdict {
                access: access.clone(),
                decision,
                outcome,
            });
        }
        // Side by side, so that one write to disk takes them all.
        futures_util::future::try_join_all(records.into_iter().map(|record| self.record(record))).await?;
        Ok(verdicts)
    }
}
