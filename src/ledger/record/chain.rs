//! The mirror of a sub-task's chain.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::model::attestation::EvidenceKind;
use crate::model::ids::TaskId;
use crate::model::lease::VouchingKey;
use crate::model::name::AgentName;
use crate::model::spiffe::TrustDomain;
use crate::model::task::Delegator;
use crate::model::time::Timestamp;

/// A link as it was before it said what evidence it rests on.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredDelegator<'a> {
    task: TaskId,
    agent: Cow<'a, AgentName>,
    kind: EvidenceKind,
    trust_domain: Cow<'a, Option<TrustDomain>>,
}

/// A link, and behind it what evidence it rests on.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredLink<'a> {
    above: StoredDelegator<'a>,
    key: Option<VouchingKey>,
    until: Timestamp,
}

impl<'a> StoredLink<'a> {
    pub(super) fn all(chain: &'a [Delegator]) -> Vec<Self> {
        let stored = chain.iter().map(|above| Self {
            above: StoredDelegator {
                task: above.task,
                agent: Cow::Borrowed(&above.agent),
                kind: above.kind,
                trust_domain: Cow::Borrowed(&above.trust_domain),
            },
            key: above.key,
            until: above.until,
        });
        stored.collect()
    }

    pub(super) fn into_all(chain: Vec<Self>) -> Vec<Delegator> {
        let read = chain.into_iter().map(|link| Delegator {
            key: link.key,
            until: link.until,
            ..link.above.into_delegator()
        });
        read.collect()
    }
}

impl StoredDelegator<'_> {
    pub(super) fn into_all(chain: Vec<Self>) -> Vec<Delegator> {
        chain.into_iter().map(Self::into_delegator).collect()
    }

    /// Nobody knows of what was written like this which key it rests on: it may be any, and at any time.
    fn into_delegator(self) -> Delegator {
        Delegator {
            task: self.task,
            agent: self.agent.into_owned(),
            kind: self.kind,
            trust_domain: self.trust_domain.into_owned(),
            key: None,
            until: Timestamp::MAX,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tests::{AT, GROUNDS, LEASE_1, TASK_1, VOUCHED, hex, lease, task, unhex};
    use super::super::{decode_lease, decode_task, encode_lease, encode_task};
    use super::*;
    use crate::model::cutoff::Selector;
    use crate::model::lease::{Lease, Vouched};
    use crate::model::status_list::{Hour, Listing, Place};
    use crate::model::task::Task;

    fn chain() -> Vec<Delegator> {
        let above = |number, domain: Option<&str>, key: Option<[u8; 8]>| Delegator {
            task: TaskId::new(AT, [number; 10]),
            agent: "planner".parse().unwrap(),
            kind: EvidenceKind::JwtSvid,
            trust_domain: domain.map(|name| name.parse().unwrap()),
            key: key.map(VouchingKey),
            until: AT,
        };
        vec![above(5, Some("example.org"), Some([9; 8])), above(6, None, None)]
    }

    /// The same, as far as it was kept before links said what they rest on.
    fn chain_of_before() -> Vec<Delegator> {
        let of_before = |above| Delegator {
            key: None,
            until: Timestamp::MAX,
            ..above
        };
        chain().into_iter().map(of_before).collect()
    }

    /// The bytes of [`chain`].
    const CHAIN: &str = "02\
        01a201f2833a75058505050505050505 07706c616e6e6572 00 010b6578616d706c652e6f7267 010909090909090909 ba86ca8fa034\
        01a201f2833a76068606060606060606 07706c616e6e6572 00 00 00 ba86ca8fa034";
    /// The bytes of [`chain_of_before`], as they were written then.
    const CHAIN_OF_BEFORE: &str = "02\
        01a201f2833a75058505050505050505 07706c616e6e6572 00 010b6578616d706c652e6f7267\
        01a201f2833a76068606060606060606 07706c616e6e6572 00 00";
    /// The bytes of [`place`].
    const PLACE: &str = "8eb81eac02";

    fn place() -> Place {
        Place {
            hour: Hour(498_702),
            number: 300,
        }
    }

    fn sub_task(delegators: Vec<Delegator>) -> Task {
        let mut task = task();
        task.charter.delegators = delegators;
        task
    }

    #[test]
    fn a_sub_task_and_its_leases_have_their_chain_behind_them() {
        let bytes = encode_task(&sub_task(chain())).unwrap();
        assert_eq!(decode_task(&bytes).unwrap(), sub_task(chain()));
        assert_eq!(hex(&bytes), format!("03{}{CHAIN}", &TASK_1[2..]).replace(' ', ""));
        for (listing, listed) in [
            (Listing::Unlisted, "00".to_owned()),
            (Listing::At(place()), format!("01{PLACE}")),
        ] {
            let of_it = Lease {
                delegators: chain(),
                listing,
                ..lease()
            };
            let bytes = encode_lease(&of_it).unwrap();
            assert_eq!(decode_lease(&bytes).unwrap(), of_it);
            let written = format!("05{}{GROUNDS}{CHAIN}{listed}", &LEASE_1[2..]);
            assert_eq!(hex(&bytes), written.replace(' ', ""));
        }
    }

    #[test]
    fn a_chain_of_before_it_said_what_it_rests_on_stays_readable() {
        let before = unhex(&format!("02{}{CHAIN_OF_BEFORE}", &TASK_1[2..]));
        assert_eq!(decode_task(&before).unwrap(), sub_task(chain_of_before()));
        for (format, listed, listing) in [("03", "", Listing::Unlisted), ("04", PLACE, Listing::At(place()))]
        {
            let before = format!("{format}{}{GROUNDS}{CHAIN_OF_BEFORE}{listed}", &LEASE_1[2..]);
            let read = Lease {
                delegators: chain_of_before(),
                listing,
                ..lease()
            };
            assert_eq!(decode_lease(&unhex(&before)).unwrap(), read);
        }
    }

    #[test]
    fn a_link_rests_on_its_key_for_as_long_as_its_evidence_holds() {
        let domain = |name: &str| Selector::TrustDomain(name.parse().unwrap());
        let (here, elsewhere) = (domain("example.org"), domain("example.com"));
        let (just_before, key) = (AT.minus(Duration::from_millis(1)), VouchingKey([9; 8]));
        let link = &chain()[0];
        assert!(link.rests_on(key, &here, just_before) && !link.rests_on(key, &here, AT));
        assert!(!link.rests_on(VouchingKey([8; 8]), &here, just_before));
        let unknown = &chain_of_before()[0];
        assert!(unknown.rests_on(key, &here, AT));
        assert!(!unknown.rests_on(key, &elsewhere, AT) && !unknown.rests_on(key, &Selector::All, AT));
    }

    #[test]
    fn the_withdrawal_of_a_key_is_about_what_it_vouched_for_lately() {
        let key = VOUCHED.key.unwrap();
        let rests = |lease: &Lease, after: u64| {
            lease.rests_on(key, &Selector::All, AT.plus(Duration::from_secs(after)))
        };
        let vouched = |until: u64| Lease {
            vouched: Some(Vouched {
                until: AT.plus(Duration::from_secs(until)),
                ..VOUCHED
            }),
            ..lease()
        };
        // Evidence that was over at once, and some that holds for long.
        assert!(rests(&vouched(1), 3_599) && !rests(&vouched(1), 3_600));
        assert!(rests(&vouched(7_200), 7_199) && !rests(&vouched(7_200), 7_200));
        let other = VouchingKey([0; 8]);
        assert!(!vouched(7_200).rests_on(other, &Selector::All, AT));
    }

    #[test]
    fn a_lease_on_a_status_list_has_its_place_behind_everything() {
        let listed = Lease {
            listing: Listing::At(place()),
            ..lease()
        };
        let bytes = encode_lease(&listed).unwrap();
        assert_eq!(decode_lease(&bytes).unwrap(), listed);
        assert_eq!(hex(&bytes), format!("04{}{GROUNDS}00{PLACE}", &LEASE_1[2..]));
        let wanted = Lease {
            listing: Listing::Wanted,
            ..lease()
        };
        assert_eq!(encode_lease(&wanted).unwrap(), encode_lease(&lease()).unwrap());
    }
}
