//! Signing keys over ring: ES256 (the default), ES384, EdDSA, and RSA keys that somebody else made,
//! for ring makes none.

use std::fmt;

use async_trait::async_trait;
use ring::rsa;
use ring::signature::{
    self, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256,
};
use zeroize::Zeroizing;

use super::jwk::{Material, VerifyingKey};
use super::{Algorithm, KeyError, KeyId, Signer};
use crate::entropy::OsEntropy;

/// A private key in the memory of this process.
pub struct RingSigner {
    id: KeyId,
    algorithm: Algorithm,
    public: VerifyingKey,
    pair: Pair,
    entropy: OsEntropy,
}

enum Pair {
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Rsa(Box<rsa::KeyPair>),
}

impl RingSigner {
    /// Reads a private key in PKCS#8 DER (RFC 5958, not encrypted). The kind of the key decides the
    /// algorithm: P-256 is ES256, P-384 is ES384, Ed25519 is EdDSA, RSA (2048 to 4096 bits) is RS256.
    pub fn from_pkcs8(der: &[u8], entropy: &OsEntropy) -> Result<Self, KeyError> {
        let rng = entropy.ring();
        let ecdsa = |how: &'static EcdsaSigningAlgorithm| EcdsaKeyPair::from_pkcs8(how, der, rng);
        // The document names its algorithm, so at most one of these can take it.
        let read = ecdsa(&ECDSA_P256_SHA256_FIXED_SIGNING)
            .map(|pair| (Pair::Ecdsa(pair), Algorithm::Es256))
            .or_else(|first| {
                ecdsa(&ECDSA_P384_SHA384_FIXED_SIGNING)
                    .map(|pair| (Pair::Ecdsa(pair), Algorithm::Es384))
                    .or_else(|e| telling(first, e))
            })
            .or_else(|first| {
                Ed25519KeyPair::from_pkcs8_maybe_unchecked(der)
                    .map(|pair| (Pair::Ed25519(pair), Algorithm::EdDsa))
                    .or_else(|e| telling(first, e))
            })
            .or_else(|first| {
                rsa::KeyPair::from_pkcs8(der)
                    .map(|pair| (Pair::Rsa(pair.into()), Algorithm::Rs256))
                    .or_else(|e| telling(first, e))
            });
        let (pair, algorithm) = read.map_err(|why| KeyError::Unusable {
            key: "PKCS#8 key".into(),
            reason: format!("it is no sound key of P-256, P-384, Ed25519 or RSA from 2048 bits ({why})"),
        })?;
        let (id, public) = VerifyingKey::own(pair.public(), algorithm);
        Ok(Self {
            id,
            algorithm,
            public,
            pair,
            entropy: entropy.clone(),
        })
    }

    /// Makes a new key that lives in memory only.
    pub fn generate(algorithm: Algorithm, entropy: &OsEntropy) -> Result<Self, KeyError> {
        Self::from_pkcs8(&generate_pkcs8(algorithm, entropy)?, entropy)
    }

    fn sign_now(&self, message: &[u8]) -> Result<Vec<u8>, ring::error::Unspecified> {
        match &self.pair {
            Pair::Ecdsa(pair) => Ok(pair.sign(self.entropy.ring(), message)?.as_ref().to_vec()),
            Pair::Ed25519(pair) => Ok(pair.sign(message).as_ref().to_vec()),
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, self.entropy.ring(), message, &mut signature)?;
                Ok(signature)
            }
        }
    }
}

/// Of two refusals the one that is not about being of another kind says more.
fn telling<T>(
    one: ring::error::KeyRejected,
    other: ring::error::KeyRejected,
) -> Result<T, ring::error::KeyRejected> {
    Err(if one.to_string() == "WrongAlgorithm" {
        other
    } else {
        one
    })
}

impl Pair {
    fn public(&self) -> Material {
        match self {
            Self::Ecdsa(pair) => {
                let point = pair.public_key().as_ref();
                match point.len() {
                    65 => Material::P256(point.into()),
                    _ => Material::P384(point.into()),
                }
            }
            Self::Ed25519(pair) => Material::Ed25519(pair.public_key().as_ref().into()),
            Self::Rsa(pair) => {
                let parts: signature::RsaPublicKeyComponents<Vec<u8>> = pair.public().into();
                Material::Rsa(parts.into())
            }
        }
    }
}

/// A new private key in PKCS#8 DER, for ES256, ES384 or EdDSA.
pub(super) fn generate_pkcs8(
    algorithm: Algorithm,
    entropy: &OsEntropy,
) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let rng = entropy.ring();
    let document = match algorithm {
        Algorithm::Es256 => EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, rng),
        Algorithm::Es384 => EcdsaKeyPair::generate_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, rng),
        Algorithm::EdDsa => Ed25519KeyPair::generate_pkcs8(rng),
        other => {
            return Err(KeyError::Unusable {
                key: other.as_str().into(),
                reason: "Dayfly makes keys for ES256, ES384 and EdDSA; make this one elsewhere and load it"
                    .into(),
            });
        }
    };
    document
        .map(|document| Zeroizing::new(document.as_ref().to_vec()))
        .map_err(|_| KeyError::Unavailable("no key could be made: no random bytes".into()))
}

#[async_trait]
impl Signer for RingSigner {
    fn key_id(&self) -> &KeyId {
        &self.id
    }

    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    fn public_key(&self) -> &VerifyingKey {
        &self.public
    }

    async fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        self.sign_now(message)
            .map_err(|_| KeyError::Unavailable("ring could not sign".into()))
    }
}

impl fmt::Debug for RingSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RingSigner")
            .field("id", &self.id)
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}
