//! The mirrors of facts and rechecks, and the keys by which they are found.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::{StoredCutoff, StoredSelector, corrupt, decode, encode, encode_selector};
use crate::ledger::LedgerError;
use crate::ledger::context::DECIDES;
use crate::model::decision::Revision;
use crate::model::fact::{Fact, Subject};
use crate::model::ids::LeaseId;
use crate::model::lease::VouchingKey;
use crate::model::name::{FactName, FactSource, FactValue};
use crate::model::recheck::{Progress, Recheck, Work};
use crate::model::time::Timestamp;

/// The bytes of a fact.
pub fn encode_fact(fact: &Fact) -> Result<Vec<u8>, LedgerError> {
    let (kind, id) = fact.about.parts();
    let stored = StoredFact {
        kind: Cow::Borrowed(kind),
        id: Cow::Owned(id),
        name: Cow::Borrowed(&fact.name),
        value: Cow::Borrowed(&fact.value),
        source: Cow::Borrowed(&fact.source),
        at: fact.at,
        expires_at: fact.expires_at,
    };
    encode("fact", &stored)
}

/// The fact of these bytes.
pub fn decode_fact(bytes: &[u8]) -> Result<Fact, LedgerError> {
    let stored: StoredFact<'_> = decode("fact", bytes)?;
    let about = Subject::of(&stored.kind, &stored.id);
    Ok(Fact {
        about: about.map_err(|error| corrupt("fact", format_args!("{error}")))?,
        name: stored.name.into_owned(),
        value: stored.value.into_owned(),
        source: stored.source.into_owned(),
        at: stored.at,
        expires_at: stored.expires_at,
    })
}

/// The key of what is said about one name of one subject: the subject, a zero byte and the name.
pub fn fact_key(fact: &Fact) -> Vec<u8> {
    format!("{}\0{}", fact.about, fact.name).into_bytes()
}

/// The bytes of a recheck.
pub fn encode_recheck(recheck: &Recheck) -> Result<Vec<u8>, LedgerError> {
    let Progress {
        after,
        looked_at,
        ended,
        shortened,
        suspended,
    } = recheck.progress;
    let stored = StoredRecheck {
        whom: StoredSelector::of(&recheck.whom),
        work: match &recheck.work {
            Work::Cut { cutoff } => StoredWork::Cut(StoredCutoff::of(cutoff)),
            Work::Distrust { key } => StoredWork::Distrust(*key),
            Work::Decide { revision } => StoredWork::Decide(Cow::Borrowed(revision)),
        },
        why: Cow::Borrowed(&recheck.why),
        ordered_at: recheck.ordered_at,
        after,
        counts: [looked_at, ended, shortened, suspended],
    };
    encode("recheck", &stored)
}

/// The recheck of these bytes.
pub fn decode_recheck(bytes: &[u8]) -> Result<Recheck, LedgerError> {
    let stored: StoredRecheck<'_> = decode("recheck", bytes)?;
    let [looked_at, ended, shortened, suspended] = stored.counts;
    Ok(Recheck {
        whom: stored.whom.into_selector(),
        work: match stored.work {
            StoredWork::Cut(cutoff) => Work::Cut {
                cutoff: cutoff.into_cutoff(),
            },
            StoredWork::Distrust(key) => Work::Distrust { key },
            StoredWork::Decide(revision) => Work::Decide {
                revision: revision.into_owned(),
            },
        },
        why: stored.why.into_owned(),
        ordered_at: stored.ordered_at,
        progress: Progress {
            after: stored.after,
            looked_at,
            ended,
            shortened,
            suspended,
        },
    })
}

/// The key of a recheck, equal where one replaces the other: the kind of work, the key that is distrusted,
/// and the selector. What waits for a revision is of another kind than what anybody may work at.
pub fn recheck_key(recheck: &Recheck) -> Result<Vec<u8>, LedgerError> {
    let selector = encode_selector(&recheck.whom)?;
    Ok(match &recheck.work {
        Work::Cut { .. } => [b"c".as_slice(), &selector].concat(),
        Work::Distrust { key } => [b"x".as_slice(), &key.0, &selector].concat(),
        Work::Decide { revision } => {
            let [by_any, by_one] = DECIDES;
            let kind = if revision.is_none() { by_any } else { by_one };
            [[kind].as_slice(), &selector].concat()
        }
    })
}

#[derive(Serialize, Deserialize)]
struct StoredFact<'a> {
    kind: Cow<'a, str>,
    id: Cow<'a, str>,
    name: Cow<'a, FactName>,
    value: Cow<'a, Option<FactValue>>,
    source: Cow<'a, FactSource>,
    at: Timestamp,
    expires_at: Option<Timestamp>,
}

#[derive(Serialize, Deserialize)]
struct StoredRecheck<'a> {
    whom: StoredSelector<'a>,
    work: StoredWork<'a>,
    why: Cow<'a, str>,
    ordered_at: Timestamp,
    after: Option<LeaseId>,
    /// Looked at, ended, shortened, suspended.
    counts: [u64; 4],
}

#[derive(Serialize, Deserialize)]
enum StoredWork<'a> {
    Cut(StoredCutoff<'a>),
    Distrust(VouchingKey),
    Decide(Cow<'a, Option<Revision>>),
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::tests::{AT, cutoff, hex, lease};
    use super::*;
    use crate::model::cutoff::{Cutoff, Selector};

    fn fact(value: Option<&str>) -> Fact {
        Fact {
            about: "agent/support-bot".parse().unwrap(),
            name: "risk".parse().unwrap(),
            value: value.map(|value| value.parse().unwrap()),
            source: "idp".parse().unwrap(),
            at: AT,
            expires_at: value.map(|_| AT),
        }
    }

    fn recheck(whom: Selector, work: Work) -> Recheck {
        Recheck {
            whom,
            work,
            why: "risk=high".to_owned(),
            ordered_at: AT,
            progress: Progress {
                after: Some(lease().id),
                looked_at: 300,
                ended: 2,
                shortened: 1,
                suspended: 0,
            },
        }
    }

    const FACT_1: &str = "01056167656e740b737570706f72742d626f74047269736b0104686967680369647
    0ba86ca8fa03401ba86ca8fa034";

    #[test]
    fn facts_are_written_like_this() {
        let written: String = FACT_1.split_whitespace().collect();
        assert_eq!(hex(&encode_fact(&fact(Some("high"))).unwrap()), written);
        for fact in [fact(Some("high")), fact(None)] {
            assert_eq!(decode_fact(&encode_fact(&fact).unwrap()).unwrap(), fact);
        }
        assert_eq!(fact_key(&fact(None)), b"agent/support-bot\0risk");
    }

    #[test]
    fn rechecks_read_back_and_are_kept_apart_by_whom_and_what_for() {
        let cut = |up_to| Work::Cut {
            cutoff: Cutoff { up_to, ..cutoff() },
        };
        let decide = |revision: Option<&str>| Work::Decide {
            revision: revision.map(|revision| Revision(revision.into())),
        };
        let distrust = |key| Work::Distrust {
            key: VouchingKey([key; 8]),
        };
        let agent = || Selector::Agent("crm".parse().unwrap());
        let tool = || Selector::Tool("crm".parse().unwrap());
        let mut keys = BTreeSet::new();
        for work in [
            cut(AT),
            distrust(1),
            distrust(2),
            decide(None),
            decide(Some("r1")),
        ] {
            for whom in [agent(), tool(), Selector::All] {
                let recheck = recheck(whom, work.clone());
                assert_eq!(
                    decode_recheck(&encode_recheck(&recheck).unwrap()).unwrap(),
                    recheck
                );
                assert!(keys.insert(recheck_key(&recheck).unwrap()), "{recheck:?}");
            }
        }
        for work in [cut(Timestamp::MAX), decide(Some("r2"))] {
            let recheck = recheck(agent(), work);
            assert_eq!(
                decode_recheck(&encode_recheck(&recheck).unwrap()).unwrap(),
                recheck
            );
            assert!(!keys.insert(recheck_key(&recheck).unwrap()), "{recheck:?}");
        }
    }
}
