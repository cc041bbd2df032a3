//! `attest`: evidence becomes a caller, or a recorded refusal.

use std::sync::Arc;

use crate::identity::{Evidence, IdentityError, Workload};
use crate::journal::record::{Record, Result as Outcome, Verb};
use crate::model::ids::RequestId;
use crate::registry::{Caller, NotAdmitted};

use super::error::BrokerError;
use super::records::{Fill, attested, of_caller};
use super::{Broker, measure};

impl Broker {
    /// Proves who calls and finds its agent. A refusal is recorded, each kind of it once in a while.
    pub async fn attest(&self, evidence: &Evidence, request: RequestId) -> Result<Caller, BrokerError> {
        let workload = self.appraise(evidence, request).await?;
        self.admit(workload, request).await
    }

    /// The same where the connection of the request has proven a workload too. The caller is who the request says, and
    /// the connection has to say the same: by the SPIFFE ID, or, where the evidence of the request has none, by the
    /// agent.
    pub async fn attest_on(
        &self,
        evidence: &Evidence,
        connection: &Arc<Workload>,
        request: RequestId,
    ) -> Result<Caller, BrokerError> {
        let caller = self.attest(evidence, request).await?;
        let (mine, theirs) = (caller.workload().attestation(), connection.attestation());
        let (now, rules) = (self.now(), self.parts.rules.current());
        let same = match mine.kind.is_spiffe() {
            true => mine.subject == theirs.subject,
            false => {
                let other = rules.registry.admit(Arc::clone(connection), now);
                other.is_ok_and(|other| other.agent().name == caller.agent().name)
            }
        };
        if same {
            return Ok(caller);
        }
        let error = IdentityError::Refused(format!(
            "the certificate of the connection names `{}`, another workload than the token of the request",
            theirs.subject
        ));
        measure::refused_evidence(&error);
        // Both are proven: no flood of forgeries hides that somebody uses another's token.
        let pair = (&mine.authority, &mine.subject, &theirs.authority, &theirs.subject);
        if self.strangers.is_news(&format!("{pair:?}"), now) {
            let record = Record {
                revision: Some(rules.revision.clone()),
                ..of_caller(Verb::Attest, Outcome::Denied, now, &caller, request)
            };
            self.record(record.reason(error.to_string())).await?;
        }
        Err(error.into())
    }

    /// Proves which workload this is. A refusal is recorded, each piece of evidence once in a while.
    pub async fn appraise(
        &self,
        evidence: &Evidence,
        request: RequestId,
    ) -> Result<Arc<Workload>, BrokerError> {
        let now = self.now();
        let error = match self.parts.verifiers.appraise(evidence, now).await {
            Ok(workload) => return Ok(workload),
            Err(error) => error,
        };
        measure::refused_evidence(&error);
        if self.forgeries.is_news(&evidence.digest(), now) {
            let record = Record {
                request: Some(request),
                ..Record::new(Verb::Attest, Outcome::Denied, now)
            };
            self.record(record.reason(error.to_string())).await?;
        }
        Err(error.into())
    }

    /// Finds the agent of a workload. A refusal is recorded, each workload once in a while.
    pub async fn admit(&self, workload: Arc<Workload>, request: RequestId) -> Result<Caller, BrokerError> {
        let (now, rules) = (self.now(), self.parts.rules.current());
        let refusal = match rules.registry.admit(Arc::clone(&workload), now) {
            Ok(caller) => return Ok(caller),
            Err(refusal) => refusal,
        };
        measure::not_admitted();
        let attestation = workload.attestation();
        let who = format!("{} {}", attestation.authority, attestation.subject);
        if self.strangers.is_news(&who, now) {
            let agent = match &refusal {
                NotAdmitted::Standing { agent, .. } => Some(agent.clone()),
                NotAdmitted::Unregistered | NotAdmitted::Ambiguous(..) => None,
            };
            let record = Record {
                agent,
                attested: Some(attested(attestation)),
                request: Some(request),
                revision: Some(rules.revision.clone()),
                ..Record::new(Verb::Attest, Outcome::Denied, now)
            };
            self.record(record.reason(refusal.to_string())).await?;
        }
        Err(refusal.into())
    }

    /// Counts what came in the place of evidence and is none. There is nothing in it to record.
    pub fn turn_away(&self, error: IdentityError) -> BrokerError {
        measure::refused_evidence(&error);
        error.into()
    }
}
