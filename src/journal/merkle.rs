//! The Merkle tree of RFC 6962 §2.1: leaf and node hashes, and the root of a growing log.
//!
//! A growing tree is kept as its **frontier**: the roots of its complete subtrees, one for each bit
//! that is set in its size, so that appending a leaf and asking for the root take O(log n).
//! Proofs are in [`super::proof`].

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{Context, SHA256, digest};

/// A SHA-256 hash: of a leaf, of a node, or of a whole tree. Printed in base 64, as checkpoints do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash(pub [u8; Hash::BYTES]);

impl Hash {
    /// The size of a hash.
    pub const BYTES: usize = 32;

    /// The hash of a leaf, `SHA-256(0x00 || entry)`.
    pub fn leaf(entry: &[u8]) -> Self {
        Self::of([&[0x00], entry])
    }

    /// The hash of an inner node, `SHA-256(0x01 || left || right)`.
    pub fn node(left: Self, right: Self) -> Self {
        Self::of([&[0x01], &left.0, &right.0])
    }

    /// The root of the tree without leaves, `SHA-256()`.
    pub fn empty() -> Self {
        Self::of([])
    }

    fn of<const N: usize>(parts: [&[u8]; N]) -> Self {
        let mut context = Context::new(&SHA256);
        for part in parts {
            context.update(part);
        }
        Self::from_slice(context.finish().as_ref())
    }

    fn from_slice(bytes: &[u8]) -> Self {
        let mut hash = [0; Self::BYTES];
        for (to, from) in hash.iter_mut().zip(bytes) {
            *to = *from;
        }
        Self(hash)
    }

    /// The hashes that lie end to end in `bytes`; what is left over at the end is ignored.
    pub fn many(bytes: &[u8]) -> Vec<Self> {
        bytes.as_chunks().0.iter().copied().map(Self).collect()
    }
}

/// SHA-256 without the tree's prefixes, for names of keys.
pub(super) fn sha256(bytes: &[u8]) -> Hash {
    Hash::from_slice(digest(&SHA256, bytes).as_ref())
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A growing tree, without its leaves.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Frontier {
    size: u64,
    peaks: Vec<Hash>,
}

impl Frontier {
    /// The tree without leaves.
    pub fn new() -> Self {
        Self::default()
    }

    /// The tree of `size` leaves with these peaks, largest subtree first. `None` when their number is
    /// not that of the bits set in `size`.
    pub fn from_peaks(size: u64, peaks: Vec<Hash>) -> Option<Self> {
        (peaks.len() == Self::peaks_at(size)).then_some(Self { size, peaks })
    }

    /// How many peaks a tree of `size` leaves has.
    pub fn peaks_at(size: u64) -> usize {
        usize::try_from(size.count_ones()).unwrap_or(usize::MAX)
    }

    /// How many leaves the tree has.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The roots of the complete subtrees, largest first.
    pub fn peaks(&self) -> &[Hash] {
        &self.peaks
    }

    /// Adds a leaf by its hash.
    pub fn push(&mut self, leaf: Hash) {
        let mut hash = leaf;
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.peaks.pop() {
                hash = Hash::node(left, hash);
            }
        }
        self.peaks.push(hash);
        self.size += 1;
    }

    /// The root of the tree as it is.
    pub fn root(&self) -> Hash {
        let mut peaks = self.peaks.iter().rev().copied();
        let Some(smallest) = peaks.next() else {
            return Hash::empty();
        };
        peaks.fold(smallest, |right, left| Hash::node(left, right))
    }
}

impl Extend<Hash> for Frontier {
    fn extend<I: IntoIterator<Item = Hash>>(&mut self, leaves: I) {
        leaves.into_iter().for_each(|leaf| self.push(leaf));
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The entries that Certificate Transparency's reference implementations test with.
    pub(crate) const ENTRIES: [&[u8]; 8] = [
        b"",
        b"\x00",
        b"\x10",
        b"\x20\x21",
        b"\x30\x31",
        b"\x40\x41\x42\x43",
        b"\x50\x51\x52\x53\x54\x55\x56\x57",
        b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
    ];

    fn hex(hash: Hash) -> String {
        hash.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn has_the_roots_of_certificate_transparency() {
        let roots = [
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        let mut tree = Frontier::new();
        assert_eq!(hex(tree.root()), roots[0]);
        for (entry, root) in ENTRIES.iter().zip(&roots[1..]) {
            tree.push(Hash::leaf(entry));
            assert_eq!(hex(tree.root()), *root);
        }
    }

    #[test]
    fn goes_on_from_its_peaks() {
        let mut tree = Frontier::new();
        tree.extend(ENTRIES[..5].iter().map(|entry| Hash::leaf(entry)));
        let mut again = Frontier::from_peaks(5, tree.peaks().to_vec()).unwrap();
        for entry in &ENTRIES[5..] {
            tree.push(Hash::leaf(entry));
            again.push(Hash::leaf(entry));
        }
        assert_eq!(again, tree);
        assert_eq!(Frontier::from_peaks(4, again.peaks().repeat(2)), None);
    }
}
