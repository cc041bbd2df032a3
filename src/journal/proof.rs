//! Proofs about the tree: that a record is in it, and that a later tree contains an earlier one.
//!
//! The algorithms of RFC 9162 §2.1.3 and §2.1.4. A proof is a list of hashes, O(log n) of them.

use super::merkle::{Frontier, Hash};

/// The root over these leaf hashes.
pub fn root(leaves: &[Hash]) -> Hash {
    let mut tree = Frontier::new();
    tree.extend(leaves.iter().copied());
    tree.root()
}

/// Splits a tree of at least two leaves where RFC 6962 does: at the largest power of two below its size.
fn split(leaves: &[Hash]) -> Option<(&[Hash], &[Hash])> {
    let largest = leaves.len().checked_sub(1)?.checked_ilog2()?;
    leaves.split_at_checked(1 << largest)
}

/// Proves that the leaf at `index` is in the tree over `leaves`; `None` when there is no such leaf.
pub fn prove_inclusion(leaves: &[Hash], index: usize) -> Option<Vec<Hash>> {
    if index >= leaves.len() {
        return None;
    }
    let (mut leaves, mut index, mut path) = (leaves, index, Vec::new());
    while let Some((left, right)) = split(leaves) {
        if index < left.len() {
            path.push(root(right));
            leaves = left;
        } else {
            path.push(root(left));
            index -= left.len();
            leaves = right;
        }
    }
    path.reverse();
    Some(path)
}

/// Proves that the tree over `leaves` begins with the tree of its first `old` leaves; `None` when it
/// has fewer.
pub fn prove_consistency(leaves: &[Hash], old: usize) -> Option<Vec<Hash>> {
    if old > leaves.len() {
        return None;
    }
    if old == 0 {
        return Some(Vec::new());
    }
    let (mut leaves, mut old, mut known, mut path) = (leaves, old, true, Vec::new());
    while old < leaves.len() {
        let (left, right) = split(leaves)?;
        if old <= left.len() {
            path.push(root(right));
            leaves = left;
        } else {
            path.push(root(left));
            old -= left.len();
            leaves = right;
            known = false; // the old tree's root is no longer the root of what is left
        }
    }
    if !known {
        path.push(root(leaves));
    }
    path.reverse();
    Some(path)
}

/// Where a verification stands: the position of a node and of the last node of its level.
struct Walk {
    node: u64,
    last: u64,
}

impl Walk {
    /// Whether the next hash of the proof lies to the left. The parents of a node without a sibling are skipped.
    fn is_right(&mut self) -> bool {
        let right = self.node & 1 == 1 || self.node == self.last;
        if right {
            while self.node & 1 == 0 && self.node != 0 {
                self.up();
            }
        }
        right
    }

    fn up(&mut self) {
        self.node >>= 1;
        self.last >>= 1;
    }
}

/// Whether `proof` shows that `leaf` is at `index` in the tree of `size` leaves with this `root`
/// (RFC 9162 §2.1.3.2).
pub fn verify_inclusion(leaf: Hash, index: u64, size: u64, root: Hash, proof: &[Hash]) -> bool {
    if index >= size {
        return false;
    }
    let mut walk = Walk {
        node: index,
        last: size - 1,
    };
    let mut hash = leaf;
    for &sibling in proof {
        if walk.last == 0 {
            return false;
        }
        hash = if walk.is_right() {
            Hash::node(sibling, hash)
        } else {
            Hash::node(hash, sibling)
        };
        walk.up();
    }
    walk.last == 0 && hash == root
}

/// Whether `proof` shows that the tree `(new_size, new_root)` begins with `(old_size, old_root)`
/// (RFC 9162 §2.1.4.2). The empty tree is the beginning of every tree.
pub fn verify_consistency(
    (old_size, old_root): (u64, Hash),
    (new_size, new_root): (u64, Hash),
    proof: &[Hash],
) -> bool {
    if old_size > new_size {
        return false;
    }
    if old_size == 0 {
        return proof.is_empty() && old_root == Hash::empty();
    }
    if old_size == new_size {
        return proof.is_empty() && old_root == new_root;
    }
    let mut walk = Walk {
        node: old_size - 1,
        last: new_size - 1,
    };
    while walk.node & 1 == 1 {
        walk.up();
    }
    let mut rest = proof.iter().copied();
    let first = if old_size.is_power_of_two() {
        Some(old_root)
    } else {
        rest.next()
    };
    let Some(mut old) = first else { return false };
    let mut new = old;
    for hash in rest {
        if walk.last == 0 {
            return false;
        }
        if walk.is_right() {
            old = Hash::node(hash, old);
            new = Hash::node(hash, new);
        } else {
            new = Hash::node(new, hash);
        }
        walk.up();
    }
    walk.last == 0 && old == old_root && new == new_root
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::merkle::tests::ENTRIES;
    use super::*;

    fn leaves(count: usize) -> Vec<Hash> {
        (0..count)
            .map(|n| Hash::leaf(&u64::try_from(n).unwrap().to_be_bytes()))
            .collect()
    }

    fn long(n: usize) -> u64 {
        u64::try_from(n).unwrap()
    }

    /// The recursive definition of RFC 6962 §2.1, as a check on the frontier.
    fn definition(leaves: &[Hash]) -> Hash {
        match split(leaves) {
            Some((left, right)) => Hash::node(definition(left), definition(right)),
            None => leaves.first().copied().unwrap_or_else(Hash::empty),
        }
    }

    #[test]
    fn proves_what_rfc_9162_shows_for_seven_leaves() {
        // §2.1.5: the tree of 7 with leaves d0..d6; g..k its inner nodes.
        let d = leaves(7);
        let [g, h, i, j] = [0, 2, 4, 6].map(|n| d.get(n + 1).map_or(d[n], |&right| Hash::node(d[n], right)));
        let (k, l) = (Hash::node(g, h), Hash::node(i, j));
        assert_eq!(prove_inclusion(&d, 0).unwrap(), [d[1], h, l]);
        assert_eq!(prove_inclusion(&d, 3).unwrap(), [d[2], g, l]);
        assert_eq!(prove_inclusion(&d, 4).unwrap(), [d[5], j, k]);
        assert_eq!(prove_inclusion(&d, 6).unwrap(), [i, k]);
        assert_eq!(prove_consistency(&d, 3).unwrap(), [d[2], d[3], g, l]);
        assert_eq!(prove_consistency(&d, 4).unwrap(), [l]);
        assert_eq!(prove_consistency(&d, 6).unwrap(), [i, j, k]);
    }

    #[test]
    fn the_entries_of_certificate_transparency_prove_each_other() {
        let leaves: Vec<Hash> = ENTRIES.iter().map(|entry| Hash::leaf(entry)).collect();
        for new in 0..=leaves.len() {
            let tree = &leaves[..new];
            for old in 0..=new {
                let proof = prove_consistency(tree, old).unwrap();
                let earlier = (long(old), root(&leaves[..old]));
                assert!(verify_consistency(earlier, (long(new), root(tree)), &proof));
            }
            for (index, &leaf) in tree.iter().enumerate() {
                let proof = prove_inclusion(tree, index).unwrap();
                assert!(verify_inclusion(leaf, long(index), long(new), root(tree), &proof));
            }
            assert_eq!(prove_inclusion(tree, new), None);
            assert_eq!(prove_consistency(tree, new + 1), None);
        }
    }

    proptest! {
        #[test]
        fn the_frontier_has_the_root_of_the_definition(count in 0_usize..300) {
            let leaves = leaves(count);
            prop_assert_eq!(root(&leaves), definition(&leaves));
        }

        #[test]
        fn an_inclusion_proof_holds_for_its_leaf_and_place_only(
            count in 1_usize..200, at in any::<prop::sample::Index>(), bit in 0_usize..4096,
        ) {
            let leaves = leaves(count);
            let (index, size, root) = (at.index(count), long(count), root(&leaves));
            let proof = prove_inclusion(&leaves, index).unwrap();
            let holds = |index, size, proof: &[Hash]| verify_inclusion(leaves[at.index(count)], index, size, root, proof);
            prop_assert!(holds(long(index), size, &proof));
            prop_assert!(!holds(size, size, &proof));
            for other in (0..size).filter(|&other| other != long(index)) {
                prop_assert!(!holds(other, size, &proof));
            }
            let longer = [&proof[..], &[root]].concat();
            prop_assert!(!holds(long(index), size, &longer));
            if !proof.is_empty() {
                prop_assert!(!holds(long(index), size, &proof[1..]));
                let mut flipped = proof.clone();
                let hash = &mut flipped[bit / 256 % proof.len()];
                hash.0[bit / 8 % 32] ^= 1 << (bit % 8);
                prop_assert!(!holds(long(index), size, &flipped));
            }
        }

        #[test]
        fn a_consistency_proof_holds_for_its_trees_only(
            new in 2_usize..200, at in any::<prop::sample::Index>(), bit in 0_usize..4096,
        ) {
            let leaves = leaves(new);
            let old = 1 + at.index(new - 1);
            let earlier = (long(old), root(&leaves[..old]));
            let later = (long(new), root(&leaves));
            let proof = prove_consistency(&leaves, old).unwrap();
            prop_assert!(verify_consistency(earlier, later, &proof));
            prop_assert!(!verify_consistency(later, earlier, &proof));
            prop_assert!(!verify_consistency((long(old), later.1), later, &proof));
            prop_assert!(!verify_consistency(earlier, (long(new), earlier.1), &proof));
            prop_assert!(!verify_consistency(earlier, later, &proof[1..]));
            let mut flipped = proof.clone();
            let hash = &mut flipped[bit / 256 % proof.len()];
            hash.0[bit / 8 % 32] ^= 1 << (bit % 8);
            prop_assert!(!verify_consistency(earlier, later, &flipped));
        }
    }
}
