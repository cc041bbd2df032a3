//! How the broker fills in records: the same facts in the same fields for every verb.

use crate::journal::record::{Attested, Delegation, Record, Result, Verb};
use crate::model::access::Access;
use crate::model::attestation::Attestation;
use crate::model::decision::Grounds;
use crate::model::ids::RequestId;
use crate::model::lease::{Cause, Lease, Receipt};
use crate::model::task::{Charter, Delegator};
use crate::model::time::Timestamp;
use crate::registry::Caller;

/// What every record of a caller's deed says.
pub(super) fn of_caller(
    verb: Verb,
    result: Result,
    at: Timestamp,
    caller: &Caller,
    request: RequestId,
) -> Record {
    Record {
        agent: Some(caller.agent().name.clone()),
        attested: Some(attested(caller.workload().attestation())),
        request: Some(request),
        ..Record::new(verb, result, at)
    }
}

/// How a workload was attested, in the words of a record.
pub(super) fn attested(attestation: &Attestation) -> Attested {
    Attested {
        authority: attestation.authority.clone(),
        digest: attestation.digest.clone(),
        kind: attestation.kind.as_str().into(),
        subject: attestation.subject.clone(),
    }
}

/// The record of a lease's end, with its proof and the signed receipt.
pub(super) fn of_end(lease: &Lease, cause: Cause, receipt: Receipt, signed: String, at: Timestamp) -> Record {
    Record {
        agent: Some(lease.agent.clone()),
        cause: Some(cause.as_str().to_owned()),
        decision: Some(lease.decision),
        delegation: delegation(&lease.delegators),
        lease: Some(lease.id),
        on_behalf_of: lease.on_behalf_of.clone(),
        proof: Some(proof_of(receipt)),
        receipt: Some(signed),
        task: Some(lease.task),
        tool: Some(lease.tool.clone()),
        ..Record::new(Verb::End, Result::Permitted, at)
    }
}

/// The record of a lease whose end failed.
pub(super) fn of_failure(lease: &Lease, cause: Cause, reason: String, at: Timestamp) -> Record {
    Record {
        agent: Some(lease.agent.clone()),
        cause: Some(cause.as_str().to_owned()),
        lease: Some(lease.id),
        provider: Some(lease.provider.clone()),
        task: Some(lease.task),
        tool: Some(lease.tool.clone()),
        ..Record::new(Verb::End, Result::Failed, at).reason(reason)
    }
}

/// How records name a proof: its kind and its instant.
pub(super) fn proof_of(receipt: Receipt) -> String {
    format!("{} {}", receipt.as_str(), receipt.at())
}

/// How records name the chain of a sub-task.
pub(super) fn delegation(chain: &[Delegator]) -> Option<Box<Delegation>> {
    let parent = chain.first()?.task;
    Some(Box::new(Delegation {
        by: chain.iter().map(|above| above.agent.clone()).collect(),
        parent,
        scope: Vec::new(),
        to: None,
    }))
}

/// Fills records in, a group of fields at a time.
pub(super) trait Fill: Sized {
    /// The task, its chain, its purpose, and on whose behalf.
    fn task(self, charter: &Charter) -> Self;
    /// The tool, the actions and the resources.
    fn access(self, access: &Access) -> Self;
    /// The policies, the facts that they look at, and the revision.
    fn grounds(self, grounds: &Grounds) -> Self;
    /// Why, in words.
    fn reason(self, reason: impl Into<String>) -> Self;
}

impl Fill for Record {
    fn task(self, charter: &Charter) -> Self {
        Self {
            delegation: delegation(&charter.delegators),
            task: Some(charter.id),
            purpose: Some(charter.purpose.as_str().to_owned()),
            on_behalf_of: charter.on_behalf_of.clone(),
            ..self
        }
    }

    fn access(self, access: &Access) -> Self {
        Self {
            tool: Some(access.tool().clone()),
            actions: access.actions().clone(),
            resources: access.resources().clone(),
            ..self
        }
    }

    fn grounds(self, grounds: &Grounds) -> Self {
        Self {
            policies: grounds.policies.clone(),
            facts: grounds.facts.to_vec(),
            faults: grounds.faults.to_vec(),
            revision: Some(grounds.revision.clone()),
            shadow: grounds.shadow.clone(),
            ..self
        }
    }

    fn reason(self, reason: impl Into<String>) -> Self {
        Self {
            reason: Some(reason.into()),
            ..self
        }
    }
}
