//! `attest`: evidence becomes a caller, or a recorded refusal.

use std::sync::Arc;

use crate::identity::{Evidence, IdentityError, Workload};
use crate::journal::record::{Record, Result as Outcome, Verb};
use crate::model::ids::RequestId;
use crate::registry::{Caller, NotAdmitted};

use super::error::BrokerError;
use super::records::{Fill, attested};
use super::{Broker, measure};

impl Broker {
    /// Proves who calls where two pieces of evidence came, with the request and with its connection. The caller is who
    /// the request says, and the connection has to say the same: by the SPIFFE ID, or, where the evidence of the
    /// request has none, by the agent.
    pub async fn attest_both(
        &self,
        evidence: &Evidence,
        connection: &Evidence,
        request: RequestId,
    ) -> Result<Caller, BrokerError> {
        let caller = self.attest(evidence, request).await?;
        let other = self.appraise(connection, request).await?;
        let (mine, theirs) = (caller.workload().attestation(), other.attestation());
        let same = match mine.kind.is_spiffe() {
            true => mine.subject == theirs.subject,
            false => {
                let rules = self.parts.rules.current();
                let other = rules.registry.admit(other, self.now());
                other.is_ok_and(|other| other.agent().name == caller.agent().name)
            }
        };
        if same {
            return Ok(caller);
        }
        let error = IdentityError::Refused(
            "the certificate of the connection names another workload than the token of the request".into(),
        );
        Err(self.turn_away(error, evidence, request).await)
    }

    /// Proves who calls and finds its agent. A refusal is recorded, each kind of it once in a while.
    pub async fn attest(&self, evidence: &Evidence, request: RequestId) -> Result<Caller, BrokerError> {
        let now = self.now();
        let workload = self.appraise(evidence, request).await?;
        let rules = self.parts.rules.current();
        match rules.registry.admit(workload.clone(), now) {
            Ok(caller) => Ok(caller),
            Err(refusal) => {
                measure::refused_evidence("not_admitted");
                let attestation = workload.attestation();
                if self
                    .strangers
                    .is_news(&format!("{} {}", attestation.authority, attestation.subject), now)
                {
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
        }
    }
}

impl Broker {
    /// Proves who calls.
    async fn appraise(&self, evidence: &Evidence, request: RequestId) -> Result<Arc<Workload>, BrokerError> {
        match self.parts.verifiers.appraise(evidence, self.now()).await {
            Ok(workload) => Ok(workload),
            Err(error) => Err(self.turn_away(error, evidence, request).await),
        }
    }

    /// Counts and records that evidence was refused.
    async fn turn_away(&self, error: IdentityError, evidence: &Evidence, request: RequestId) -> BrokerError {
        let now = self.now();
        measure::refused_evidence(reason(&error));
        if self.forgeries.is_news(&evidence.digest(), now) {
            let record = Record {
                request: Some(request),
                ..Record::new(Verb::Attest, Outcome::Denied, now)
            };
            if let Err(unrecorded) = self.record(record.reason(error.to_string())).await {
                return unrecorded;
            }
        }
        error.into()
    }
}

const fn reason(error: &IdentityError) -> &'static str {
    match error {
        IdentityError::Missing => "missing",
        IdentityError::Malformed(_) => "malformed",
        IdentityError::Unrecognised => "unrecognised",
        IdentityError::Refused(_) => "refused",
        IdentityError::Untimely(_) => "untimely",
        IdentityError::Unavailable(_) => "unavailable",
    }
}
