//! What a lease keeps of the evidence behind it: by which it is found when its key is not trusted any more,
//! and decided anew.

use ring::digest;

use crate::model::attestation::{Attestation, EvidenceKind};
use crate::model::lease::{Vouched, VouchingKey};

/// What a key is made of: the first 8 bytes of the SHA-256 of its RFC 7638 thumbprint as text.
pub(crate) type Material = [u8; 8];

/// What the key with this thumbprint is made of.
pub(crate) fn material(thumbprint: &str) -> Material {
    let digest = digest::digest(&digest::SHA256, thumbprint.as_bytes());
    digest.as_ref().first_chunk().copied().unwrap_or_default()
}

impl VouchingKey {
    /// The key of an authority that signs evidence of a kind: the first 8 bytes of the SHA-256 of the
    /// kind, the authority and the key id, each closed by a zero byte.
    pub fn of(kind: EvidenceKind, authority: &str, key_id: &str) -> Self {
        let mut digest = digest::Context::new(&digest::SHA256);
        for part in [kind.as_str(), authority, key_id] {
            digest.update(part.as_bytes());
            digest.update(&[0]);
        }
        let digest = digest.finish();
        Self(digest.as_ref().first_chunk().copied().unwrap_or_default())
    }
}

impl Vouched {
    /// What is kept of an attestation.
    pub fn by(attestation: &Attestation) -> Self {
        let key_id = attestation.key_id.as_deref();
        Self {
            kind: attestation.kind,
            key: key_id.map(|id| VouchingKey::of(attestation.kind, &attestation.authority, id)),
            until: attestation.expires_at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_another_one_by_each_of_its_parts() {
        let key = |kind, authority, id| VouchingKey::of(kind, authority, id);
        let (svid, oidc) = (EvidenceKind::JwtSvid, EvidenceKind::Oidc);
        // printf 'jwt_svid\0example.org\0k1\0' | sha256sum
        let known = key(svid, "example.org", "k1");
        assert_eq!(
            known,
            VouchingKey([0xe5, 0xfe, 0x50, 0x59, 0xdb, 0x69, 0x7d, 0xf8])
        );
        for other in [
            key(oidc, "example.org", "k1"),
            key(svid, "example.com", "k1"),
            key(svid, "example.org", "k2"),
            key(svid, "example.or", "gk1"),
        ] {
            assert_ne!(known, other);
        }
    }
}
