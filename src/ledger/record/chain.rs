//! The mirror of a sub-task's chain.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::model::attestation::EvidenceKind;
use crate::model::ids::TaskId;
use crate::model::name::AgentName;
use crate::model::spiffe::TrustDomain;
use crate::model::task::Delegator;

#[derive(Serialize, Deserialize)]
pub(super) struct StoredDelegator<'a> {
    task: TaskId,
    agent: Cow<'a, AgentName>,
    kind: EvidenceKind,
    trust_domain: Cow<'a, Option<TrustDomain>>,
}

impl<'a> StoredDelegator<'a> {
    pub(super) fn all(chain: &'a [Delegator]) -> Vec<Self> {
        let stored = chain.iter().map(|above| Self {
            task: above.task,
            agent: Cow::Borrowed(&above.agent),
            kind: above.kind,
            trust_domain: Cow::Borrowed(&above.trust_domain),
        });
        stored.collect()
    }

    pub(super) fn into_all(chain: Vec<Self>) -> Vec<Delegator> {
        let read = chain.into_iter().map(|above| Delegator {
            task: above.task,
            agent: above.agent.into_owned(),
            kind: above.kind,
            trust_domain: above.trust_domain.into_owned(),
        });
        read.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{AT, GROUNDS, LEASE_1, TASK_1, hex, lease, task};
    use super::super::{decode_lease, decode_task, encode_lease, encode_task};
    use super::*;
    use crate::model::lease::Lease;
    use crate::model::status_list::{Hour, Listing, Place};

    fn chain() -> Vec<Delegator> {
        let above = |number, domain: Option<&str>| Delegator {
            task: TaskId::new(AT, [number; 10]),
            agent: "planner".parse().unwrap(),
            kind: EvidenceKind::JwtSvid,
            trust_domain: domain.map(|name| name.parse().unwrap()),
        };
        vec![above(5, Some("example.org")), above(6, None)]
    }

    /// The bytes of [`chain`].
    const CHAIN: &str = "02\
        01a201f2833a75058505050505050505 07706c616e6e6572 00 010b6578616d706c652e6f7267\
        01a201f2833a76068606060606060606 07706c616e6e6572 00 00";

    #[test]
    fn a_sub_task_and_its_leases_have_their_chain_behind_them() {
        let chain_of = |bytes: &[u8], format: &str, before: &str| {
            let written = hex(bytes);
            let rest = written.strip_prefix(&format!("{format}{before}")).unwrap();
            assert_eq!(rest, CHAIN.replace(' ', ""), "{written}");
        };
        let mut sub_task = task();
        sub_task.charter.delegators = chain();
        let bytes = encode_task(&sub_task).unwrap();
        assert_eq!(decode_task(&bytes).unwrap(), sub_task);
        chain_of(&bytes, "02", &TASK_1[2..]);
        let of_it = Lease {
            delegators: chain(),
            ..lease()
        };
        let bytes = encode_lease(&of_it).unwrap();
        assert_eq!(decode_lease(&bytes).unwrap(), of_it);
        chain_of(&bytes, "03", &format!("{}{GROUNDS}", &LEASE_1[2..]));
    }

    #[test]
    fn a_lease_on_a_status_list_has_its_place_behind_everything() {
        let place = Place {
            hour: Hour(498_702),
            number: 300,
        };
        let listed = Lease {
            listing: Listing::At(place),
            ..lease()
        };
        let bytes = encode_lease(&listed).unwrap();
        assert_eq!(decode_lease(&bytes).unwrap(), listed);
        assert_eq!(
            hex(&bytes),
            format!("04{}{GROUNDS}008eb81eac02", &LEASE_1[2..]).replace(' ', "")
        );
        let wanted = Lease {
            listing: Listing::Wanted,
            ..lease()
        };
        assert_eq!(encode_lease(&wanted).unwrap(), encode_lease(&lease()).unwrap());
    }
}
