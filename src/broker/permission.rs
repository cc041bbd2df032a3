//! What the verbs share on the way to a permit: the question to policy, the bounds of a life, and the
//! recorded denial.

use std::future::Future;
use std::sync::Arc;

use crate::identity::IdentityError;
use crate::identity::vouching::Trust;
use crate::journal::record::{Record, Result as Outcome, Verb};
use crate::model::access::Access;
use crate::model::attestation::EvidenceKind;
use crate::model::decision::Grounds;
use crate::model::fact::{Facts, Subject};
use crate::model::ids::{DecisionId, RequestId};
use crate::model::lease::VouchingKey;
use crate::model::name::{AgentName, Operation, UserId};
use crate::model::task::{Charter, Delegator};
use crate::model::time::Timestamp;
use crate::model::ttl::{Bounded, Ttl};
use crate::policy::chain::{self as policy_chain, Link};
use crate::policy::permit::{Denial, Permit};
use crate::policy::{AccessRequest, TaskContext};
use crate::provider::Promise;
use crate::registry::{Caller, DAYFLY};
use crate::trace;

use super::bounds::Bounds;
use super::error::BrokerError;
use super::records::{Fill, of_caller};
use super::rules::Ruleset;
use super::{Broker, chain, measure};

/// What an agent is told when nothing permits: the same words whether the tool is unknown, the action
/// is unknown, or no policy fits.
const NOTHING_PERMITS: &str = "no policy permits this";
/// What an agent is told that names somebody for whom it may not act. Whether there is such a user, nobody
/// here knows.
pub(super) const NOT_FOR_THEM: &str =
    "the agent may not act on behalf of this user: its registry entry names whom it may in `may_act_for`";
/// What an agent is told whose evidence ran out while it sent its request, or while it followed.
const PROOF_IS_OVER: &str = "the evidence has expired: present a new one";
/// What an agent is told whose evidence was signed by a key that was taken back since it was presented.
const KEY_IS_GONE: &str = "the key that signed the evidence is not trusted any more: present a new one";

impl Broker {
    /// Asks policy about one access of a task. What is outside the scope, or names a tool or an action
    /// that the catalogue does not have, never reaches policy, and nobody outside can tell them apart. `above`:
    /// the charters of the chain ([`Broker::above`]).
    pub(super) fn permit(
        &self,
        caller: &Caller,
        charter: &Charter,
        above: &[Arc<Charter>],
        access: &Access,
        ttl: Option<Ttl>,
        at: Timestamp,
    ) -> Result<Permit, Denial> {
        let rules = self.parts.rules.current();
        if !charter.scope.covers(access) {
            return Err(denial(&rules, "this is outside the scope of the task"));
        }
        if access.tool().as_str() == DAYFLY {
            // What callers may do here takes no credential, so there is none to ask for.
            return Err(denial(&rules, NOTHING_PERMITS));
        }
        self.still_vouched(&rules, caller, charter)?;
        let chain = chain::links(&rules.registry, charter, above, at)
            .map_err(|broken| denial(&rules, &broken.to_string()))?;
        let task = Some((TaskContext::of(charter), chain));
        ask(&rules, self.facts(), caller, access, task, ttl, at)
    }

    /// Asks policy whether the caller may do something on Dayfly itself, to what belongs to an agent
    /// or, without one, to everybody's. A denial is recorded here; a permit comes back as the record
    /// that its caller completes.
    pub(super) async fn may(
        &self,
        caller: &Caller,
        verb: Verb,
        operation: &'static str,
        about: Option<&AgentName>,
        request: RequestId,
    ) -> Result<Record, BrokerError> {
        let place = about.map(|name| Subject::Agent(name.clone()));
        self.may_on(caller, verb, operation, place.as_ref(), request)
            .await
    }

    /// The same about any subject.
    pub(super) async fn may_on(
        &self,
        caller: &Caller,
        verb: Verb,
        operation: &'static str,
        about: Option<&Subject>,
        request: RequestId,
    ) -> Result<Record, BrokerError> {
        let record = of_caller(verb, Outcome::Permitted, self.now(), caller, request);
        self.may_with(caller, record, operation, about).await
    }

    /// The same, with a record that names already what it is about.
    pub(super) async fn may_about(
        &self,
        caller: &Caller,
        record: Record,
        operation: &'static str,
        about: Option<&AgentName>,
    ) -> Result<Record, BrokerError> {
        let place = about.map(|name| Subject::Agent(name.clone()));
        self.may_with(caller, record, operation, place.as_ref()).await
    }

    async fn may_with(
        &self,
        caller: &Caller,
        record: Record,
        operation: &'static str,
        about: Option<&Subject>,
    ) -> Result<Record, BrokerError> {
        let now = record.at;
        let decision = self.decision_id(now)?;
        let access = dayfly(operation, about)?;
        let record = Record {
            decision: Some(decision),
            ..record.access(&access)
        };
        // What can open access again, where all else here only ends it, is decided on nothing of before.
        if matches!(record.verb, Verb::Fact | Verb::Load | Verb::Abandon) {
            self.catch_up().await?;
        }
        let (rules, facts) = (self.parts.rules.current(), self.facts());
        let asked = self
            .still_proven(&rules, caller)
            .and_then(|()| ask(&rules, facts, caller, &access, None, None, now));
        match asked {
            Ok(permit) => Ok(record.grounds(permit.grounds())),
            Err(denial) => Err(self.deny(record, decision, denial).await?),
        }
    }

    /// Whether the key behind the caller is still trusted: it may have been taken back since the evidence was
    /// presented, as a body can come late.
    fn still_proven(&self, rules: &Ruleset, caller: &Caller) -> Result<(), Denial> {
        match self.own_trust(caller) {
            Trust::Held => Ok(()),
            Trust::Gone | Trust::Unknown => Err(denial(rules, KEY_IS_GONE)),
        }
    }

    fn own_trust(&self, caller: &Caller) -> Trust {
        let attestation = caller.workload().attestation();
        self.trust(attestation.kind, attestation.key)
    }

    fn trust(&self, kind: EvidenceKind, key: Option<VouchingKey>) -> Trust {
        key.map_or(Trust::Held, |key| self.parts.verifiers.trust(kind, key))
    }

    /// Refuses for now while it is not known whether the keys behind a request are still trusted: that says nothing
    /// about whoever asks.
    pub(super) fn knows_keys(&self, caller: &Caller, charter: &Charter) -> Result<(), BrokerError> {
        let above = charter.delegators.iter();
        let mut above = above.map(|above| self.trust(above.kind, above.key));
        match self.own_trust(caller) == Trust::Unknown || above.any(|trust| trust == Trust::Unknown) {
            false => Ok(()),
            true => Err(IdentityError::Unavailable(
                "those behind this task were not fetched recently enough; try again in 30 s".into(),
            )
            .into()),
        }
    }

    /// Whether the keys behind a request are still trusted: that of the caller's evidence, and those by which the
    /// work was handed on.
    pub(super) fn still_vouched(
        &self,
        rules: &Ruleset,
        caller: &Caller,
        charter: &Charter,
    ) -> Result<(), Denial> {
        self.still_proven(rules, caller)?;
        self.still_handed_on(rules, charter)
    }

    /// Whether the keys by which the work was handed on are still trusted, whether or not what they signed would
    /// still hold: the word of whoever has such a key counts for nothing any more.
    fn still_handed_on(&self, rules: &Ruleset, charter: &Charter) -> Result<(), Denial> {
        let trusted = |above: &&Delegator| self.trust(above.kind, above.key) == Trust::Held;
        match charter.delegators.iter().find(|above| !trusted(above)) {
            None => Ok(()),
            Some(above) => {
                let reason = format!(
                    "the key that vouched for `{}`, which handed this on, is not trusted any more: have it handed on again",
                    above.agent
                );
                Err(denial(rules, &reason))
            }
        }
    }

    /// Asks the registry whether the caller may open a task on behalf of this user. Each credential of the
    /// task asks again.
    pub(super) fn may_act_for(&self, caller: &Caller, user: &UserId, at: Timestamp) -> Result<(), Denial> {
        let rules = self.parts.rules.current();
        match rules.registry.readmit(caller, at) {
            Ok(caller) if caller.agent().may_act_for(user) => Ok(()),
            Ok(_) => Err(denial(&rules, NOT_FOR_THEM)),
            Err(refusal) => Err(denial(&rules, &refusal.to_string())),
        }
    }

    /// The shortest of everything that bounds the life of a credential, and which it was.
    pub(super) fn bound(
        &self,
        permit: &Permit,
        charter: &Charter,
        asked: Option<Ttl>,
        promise: Promise,
        now: Timestamp,
    ) -> Result<Bounded, Denial> {
        let AccessRequest {
            caller, tool, chain, ..
        } = permit.request();
        let denied = |reason: &str| Denial {
            grounds: permit.grounds().clone(),
            reason: reason.to_owned(),
            approval: None,
        };
        let bounds = Bounds {
            agent: caller.agent(),
            above: policy_chain::ceiling(chain),
            tool,
            obligations: permit.obligations(),
            promise,
            asked,
            from: now,
            deadline: charter.deadline,
            evidence: self.evidence_bound(caller.workload().attestation().expires_at),
        };
        let bounded = bounds.shortest().map_err(denied)?;
        if bounded.ttl < promise.least {
            return Err(denied(
                "less life is left than this tool's provider can give at least",
            ));
        }
        Ok(bounded)
    }

    /// When the evidence ends, where credentials are bound to it.
    pub(super) fn evidence_bound(&self, until: Timestamp) -> Option<Timestamp> {
        self.parts.settings.bind_to_attestation.then_some(until)
    }

    /// Records a denial and turns it into the answer. When it cannot be recorded, the answer is that.
    pub(super) fn deny(
        &self,
        record: Record,
        decision: DecisionId,
        denial: Denial,
    ) -> impl Future<Output = Result<BrokerError, BrokerError>> + Send + '_ {
        let verb = record.verb;
        let recorded = self.record(Record {
            result: Outcome::Denied,
            ..record.grounds(&denial.grounds).reason(&denial.reason)
        });
        async move {
            recorded.await?;
            measure::decided(verb, Outcome::Denied);
            Ok(BrokerError::Denied {
                decision,
                reason: denial.reason,
                approval: denial.approval,
            })
        }
    }
}

/// Asks policy. The caller is taken as it stands at this instant and in this revision, not as it stood
/// when the request began: a body can come late, and a feed is followed for long.
fn ask(
    rules: &Ruleset,
    facts: Facts,
    caller: &Caller,
    access: &Access,
    task: Option<(TaskContext, Vec<Link>)>,
    ttl: Option<Ttl>,
    at: Timestamp,
) -> Result<Permit, Denial> {
    let _span = tracing::info_span!(target: trace::TARGET, "decide").entered();
    if caller.workload().attestation().expires_at <= at {
        return Err(denial(rules, PROOF_IS_OVER));
    }
    let caller = rules
        .registry
        .readmit(caller, at)
        .map_err(|refusal| denial(rules, &refusal.to_string()))?;
    let (task, chain) = task.map_or((None, Vec::new()), |(task, chain)| (Some(task), chain));
    if let Some(user) = task.as_ref().and_then(|task| task.on_behalf_of.as_ref())
        && !caller.agent().may_act_for(user)
    {
        return Err(denial(rules, NOT_FOR_THEM));
    }
    let tool = rules
        .registry
        .tool(access.tool())
        .filter(|tool| {
            access
                .actions()
                .iter()
                .all(|action| tool.actions.contains_key(action))
        })
        .ok_or_else(|| denial(rules, NOTHING_PERMITS))?;
    let request = AccessRequest {
        caller,
        tool: tool.clone(),
        access: access.clone(),
        task,
        chain,
        ttl,
        facts,
        at,
    };
    Permit::obtain(&*rules.engine, request)
}

pub(super) fn denial(rules: &Ruleset, reason: &str) -> Denial {
    Denial {
        grounds: Grounds {
            policies: Vec::new(),
            faults: Box::default(),
            facts: Box::default(),
            revision: rules.revision.clone(),
            shadow: None,
        },
        reason: reason.to_owned(),
        approval: None,
    }
}

/// The access that stands for a deed on Dayfly itself: `dayfly:<operation>` on `agents/<name>`, `tools/<name>`
/// or `environments/<name>`. Users and tasks have no names that policies could list.
fn dayfly(operation: &'static str, about: Option<&Subject>) -> Result<Access, BrokerError> {
    let tool = DAYFLY.parse().map_err(unusable)?;
    let operation: Operation = operation.parse().map_err(unusable)?;
    let place = |about: &Subject| match about {
        Subject::Agent(name) => format!("agents/{name}"),
        Subject::Tool(name) => format!("tools/{name}"),
        Subject::Environment(name) => format!("environments/{name}"),
        Subject::User(_) => "users".to_owned(),
        Subject::Task(_) => "tasks".to_owned(),
    };
    let resource = about.map(|about| place(about).parse()).transpose();
    let resources = resource.map_err(unusable)?.into_iter().collect();
    Access::new(tool, [operation].into(), resources).map_err(unusable)
}

pub(super) fn unusable(error: impl std::error::Error + Send + Sync + 'static) -> BrokerError {
    BrokerError::BadAccess(error.into())
}
