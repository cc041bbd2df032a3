//! Telling kinds of tampering apart: the hashes that were signed against the hashes of the lines.

use std::collections::HashMap;

use super::fault::{Fault, Place};
use super::merkle::Hash;
use super::segment::Segment;

/// Names the first difference between the hashes that were signed and the lines that are there; `None`
/// when the lines begin with what was signed.
pub(super) fn compare(segment: Segment, signed: &[Hash], lines: &[Hash]) -> Option<Fault> {
    let common = signed.iter().zip(lines).take_while(|(a, b)| a == b).count();
    let belongs = signed.get(common..).unwrap_or_default();
    let stands = lines.get(common..).unwrap_or_default();
    let belonging = belongs.first()?;
    let index = |offset: usize| segment.first + long(common + offset);
    let place = Place::of(segment, index(0));
    let Some(standing) = stands.first() else {
        let signed = segment.first + long(signed.len());
        return Some(Fault::Truncated { place, signed });
    };
    let find = |hash, among: &[Hash]| among.iter().position(|other| other == hash);
    Some(match find(standing, belongs) {
        Some(at) if same(belongs, stands.get(..belongs.len()).unwrap_or_default()) => Fault::Reordered {
            place,
            found: index(at),
        },
        Some(at) => Fault::Dropped {
            place,
            count: long(at),
        },
        None => match find(belonging, stands) {
            Some(at) => Fault::Inserted {
                place,
                count: long(at),
            },
            None => Fault::Changed(place),
        },
    })
}

/// Whether both hold the same hashes, in whatever order.
fn same(left: &[Hash], right: &[Hash]) -> bool {
    let mut counts: HashMap<Hash, i64> = HashMap::new();
    for hash in left {
        *counts.entry(*hash).or_default() += 1;
    }
    for hash in right {
        *counts.entry(*hash).or_default() -= 1;
    }
    counts.values().all(|count| *count == 0)
}

pub(super) fn long(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}
