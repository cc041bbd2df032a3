//! What a lease keeps of the evidence behind it: by which it is found when its key is not trusted any more,
//! and decided anew.

use ring::digest;

use crate::model::attestation::Attestation;
use crate::model::lease::{Vouched, VouchingKey};

impl VouchingKey {
    /// The key of an authority: the first 8 bytes of the SHA-256 of the authority, the key id and the RFC 7638
    /// thumbprint, each closed by a zero byte. Other material under an old key id is another key.
    pub fn of(authority: &str, key_id: &str, thumbprint: &str) -> Self {
        let mut digest = digest::Context::new(&digest::SHA256);
        for part in [authority, key_id, thumbprint] {
            digest.update(part.as_bytes());
            digest.update(&[0]);
        }
        let digest = digest.finish();
        Self(digest.as_ref().first_chunk().copied().unwrap_or_default())
    }
}

/// Whether evidence that a key signed is worth anything now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trust {
    /// The key is among those of an authority.
    Held,
    /// It is among nobody's.
    Gone,
    /// Nobody can say: keys that it may be among are not held at present.
    Unknown,
}

impl Vouched {
    /// What is kept of an attestation.
    pub fn by(attestation: &Attestation) -> Self {
        Self {
            kind: attestation.kind,
            key: attestation.key,
            until: attestation.expires_at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_another_one_by_each_of_its_parts() {
        let key = VouchingKey::of;
        // printf 'example.org\0k1\0t1\0' | sha256sum
        let known = key("example.org", "k1", "t1");
        assert_eq!(
            known,
            VouchingKey([0x66, 0x84, 0x7b, 0xaa, 0xbb, 0xef, 0xf7, 0xd5])
        );
        for other in [
            key("example.com", "k1", "t1"),
            key("example.org", "k2", "t1"),
            key("example.org", "k1", "t2"),
            key("example.or", "gk1", "t1"),
        ] {
            assert_ne!(known, other);
        }
    }
}
