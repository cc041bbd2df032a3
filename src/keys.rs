//! Keys: what signs our tokens, and what checks the signatures of others.
//!
//! One algorithm per key, fixed when the key is parsed: a token's header may only agree with it.
//! Keys are parsed once; nothing on the request path reads a file or an encoding.

pub mod file;
pub mod issuer;
pub mod jose;
#[cfg(feature = "josekit")]
pub mod josekit;
pub mod jwk;
pub mod key_ring;
pub mod ring_keys;

use std::fmt;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use self::jwk::VerifyingKey;
use crate::model::name::InvalidName;

/// The name of a key: the RFC 7638 thumbprint of its public part, for keys of our own.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyId(pub std::sync::Arc<str>);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The signature algorithms that Dayfly knows (RFC 7518 §3.1, RFC 8037, RFC 9864). Never `none`, never HMAC.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Algorithm {
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// ECDSA on P-521 with SHA-512 (feature `josekit`).
    Es512,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    Rs384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    Rs512,
    /// RSASSA-PSS with SHA-256.
    Ps256,
    /// RSASSA-PSS with SHA-384.
    Ps384,
    /// RSASSA-PSS with SHA-512.
    Ps512,
    /// Ed25519, read as `EdDSA` or `Ed25519`, written as `EdDSA`.
    EdDsa,
}

impl Algorithm {
    /// The `alg` value that we write.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Es512 => "ES512",
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
            Self::EdDsa => "EdDSA",
        }
    }
}

impl std::str::FromStr for Algorithm {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "ES256" => Self::Es256,
            "ES384" => Self::Es384,
            "ES512" => Self::Es512,
            "RS256" => Self::Rs256,
            "RS384" => Self::Rs384,
            "RS512" => Self::Rs512,
            "PS256" => Self::Ps256,
            "PS384" => Self::Ps384,
            "PS512" => Self::Ps512,
            "EdDSA" | "Ed25519" => Self::EdDsa,
            _ => {
                return Err(InvalidName::new(
                    "signature algorithm",
                    text,
                    "Dayfly knows ES*, RS*, PS* and EdDSA",
                ));
            }
        })
    }
}

/// Signs with one key.
#[async_trait]
pub trait Signer: Send + Sync + 'static {
    /// The key's name, for the `kid` header.
    fn key_id(&self) -> &KeyId;
    /// The one algorithm of the key.
    fn algorithm(&self) -> Algorithm;
    /// The public part, named like the key.
    fn public_key(&self) -> &VerifyingKey;
    /// Signs the bytes. The signature has the form that RFC 7518 §3 gives it.
    async fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError>;
}

/// What can go wrong with keys.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The key cannot be used; the text says why and never contains the key.
    #[error("the key `{key}` cannot be used: {reason}")]
    Unusable {
        /// Its name or file.
        key: String,
        /// Why.
        reason: String,
    },
    /// The signer did not answer or refused.
    #[error("the signer is unavailable: {0}")]
    Unavailable(String),
}
