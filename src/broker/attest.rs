//! `attest`: evidence becomes a caller, or a recorded refusal.

use crate::identity::{Evidence, IdentityError};
use crate::journal::record::{Record, Result as Outcome, Verb};
use crate::model::ids::RequestId;
use crate::registry::{Caller, NotAdmitted};

use super::error::BrokerError;
use super::records::{Fill, attested};
use super::{Broker, measure};

impl Broker {
    /// Proves who calls and finds its agent. A refusal is recorded, each kind of it once in a while.
    pub async fn attest(&self, evidence: &Evidence, request: RequestId) -> Result<Caller, BrokerError> {
        let now = self.now();
        let workload = match self.parts.verifiers.appraise(evidence, now).await {
            Ok(workload) => workload,
            Err(error) => {
                measure::refused_evidence(reason(&error));
                if self.forgeries.is_news(&evidence.digest(), now) {
                    let record = Record {
                        request: Some(request),
                        ..Record::new(Verb::Attest, Outcome::Denied, now)
                    };
                    self.record(record.reason(error.to_string())).await?;
                }
                return Err(error.into());
            }
        };
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
