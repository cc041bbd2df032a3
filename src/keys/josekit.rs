//! What ring lacks, by josekit (OpenSSL): ES512.

use josekit::jwk::Jwk as JosekitJwk;
use josekit::jws::JwsVerifier as _;
use josekit::jws::alg::ecdsa::{EcdsaJwsAlgorithm, EcdsaJwsVerifier};

use super::jwk::Jwk;

/// A public key on P-521, for ES512.
pub struct P521Key {
    verifier: EcdsaJwsVerifier,
    x: String,
    y: String,
}

impl P521Key {
    /// From a JWK; `None` when its point is not on the curve.
    pub fn new(jwk: &Jwk) -> Option<Self> {
        let (x, y) = (jwk.x.clone()?, jwk.y.clone()?);
        let mut theirs = JosekitJwk::new("EC");
        for (name, value) in [("crv", "P-521"), ("x", x.as_str()), ("y", y.as_str())] {
            theirs.set_parameter(name, Some(value.into())).ok()?;
        }
        let verifier = EcdsaJwsAlgorithm::Es512.verifier_from_jwk(&theirs).ok()?;
        Some(Self { verifier, x, y })
    }

    /// Whether this key signed the message.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        self.verifier.verify(message, signature).is_ok()
    }

    /// Both coordinates of its point, as base64url.
    pub fn coordinates(&self) -> (&str, &str) {
        (&self.x, &self.y)
    }
}
