//! Identity: evidence is appraised into a **workload** (RFC 9334: evidence, verifier, appraisal).
//!
//! Only a verifier can make a [`Workload`]: its fields are private to this module and its children.
//! What follows, from the registry to the provider, consumes what that proof made possible.
//!
//! The core helpers: [`verifiers`] picks a verifier and remembers what it proved, [`key_source`] holds
//! the keys of an authority, [`bundles`] reads the documents they come in, [`fetch`] fetches them, [`workload_api`] listens to the agent of SPIFFE,
//! [`claims`] has the rules that every token keeps to, `certificates` those for certificates, `vouching` what a lease keeps of an attestation.

pub mod bundles;
mod certificates;
pub mod claims;
pub mod discovery;
pub mod fetch;
pub mod jwt_svid;
pub mod key_source;
pub mod kubernetes;
pub mod oidc;
#[cfg(test)]
mod testing;
pub mod verifiers;
pub(crate) mod vouching;
pub mod workload_api;
pub mod x509_svid;

use std::sync::Arc;

use async_trait::async_trait;
use ring::digest::{Context, SHA256, digest};
use rustls::pki_types::CertificateDer;

use self::key_source::KeySource;
use crate::model::attestation::{Attestation, EvidenceKind};
use crate::model::secret::Secret;
use crate::model::time::Timestamp;

/// What the caller presents.
#[derive(Clone, Debug)]
pub struct Evidence(Presented);

#[derive(Clone, Debug)]
enum Presented {
    /// A token. Its text is a secret: whoever has it is the workload until it expires.
    Bearer(Secret),
    /// The certificates of a connection, whose peer has the key of the first.
    Chain(Arc<Chain>),
}

#[derive(Debug)]
struct Chain {
    certificates: Vec<CertificateDer<'static>>,
    /// Of all of them. They are looked at with each request.
    sha256: [u8; 32],
}

impl Evidence {
    /// The longest evidence that is looked at, in bytes.
    pub const LONGEST: usize = 16 * 1024;
    /// The longest chain that is looked at, in bytes.
    pub const LONGEST_CHAIN: usize = 32 * 1024;
    /// The most certificates in it.
    pub const MOST_CERTIFICATES: usize = 8;

    /// Takes the text of an `Authorization: Bearer` header.
    pub fn bearer(token: &str) -> Result<Self, IdentityError> {
        match token.len() {
            0 => Err(IdentityError::Missing),
            1..=Self::LONGEST => Ok(Self(Presented::Bearer(Secret::new(token)))),
            _ => Err(IdentityError::Malformed("it is longer than 16 KiB".into())),
        }
    }

    /// Takes the certificates of a connection, the peer's own first, whose key it has proven to have.
    pub fn chain(certificates: Vec<CertificateDer<'static>>) -> Result<Self, IdentityError> {
        Self::fits(&certificates)?;
        let mut digest = Context::new(&SHA256);
        digest.update(b"\0chain"); // no token begins so
        for certificate in &certificates {
            digest.update(&certificate.len().to_be_bytes());
            digest.update(certificate);
        }
        let sha256 = bytes(digest.finish());
        Ok(Self(Presented::Chain(Arc::new(Chain { certificates, sha256 }))))
    }

    /// Whether a chain is short and small enough to be looked at.
    pub fn fits(certificates: &[CertificateDer<'_>]) -> Result<(), IdentityError> {
        let bytes: usize = certificates.iter().map(|each| each.len()).sum();
        match certificates.len() {
            0 => Err(IdentityError::Missing),
            1..=Self::MOST_CERTIFICATES if bytes <= Self::LONGEST_CHAIN => Ok(()),
            _ => Err(IdentityError::Malformed(format!(
                "its chain has more than {} certificates, or {} bytes",
                Self::MOST_CERTIFICATES,
                Self::LONGEST_CHAIN
            ))),
        }
    }

    /// SHA-256 of the text, or of the workload's own certificate, in hex: enough to find it again, useless to present.
    pub fn digest(&self) -> String {
        let nibble = |n: u8| char::from_digit(n.into(), 16).unwrap_or_default();
        let hex = |byte: u8| [nibble(byte >> 4), nibble(byte & 15)];
        let content = match &self.0 {
            Presented::Bearer(token) => token.expose().as_bytes(),
            Presented::Chain(chain) => chain.certificates.first().map(AsRef::as_ref).unwrap_or_default(),
        };
        bytes(digest(&SHA256, content))
            .into_iter()
            .flat_map(hex)
            .collect()
    }

    /// The text of a token, for verifiers; certificates have none.
    pub fn expose(&self) -> &str {
        match &self.0 {
            Presented::Bearer(token) => token.expose(),
            Presented::Chain(_) => "",
        }
    }

    /// The certificates of a connection, for verifiers.
    pub fn certificates(&self) -> Option<&[CertificateDer<'static>]> {
        match &self.0 {
            Presented::Bearer(_) => None,
            Presented::Chain(chain) => Some(&chain.certificates),
        }
    }

    /// When the first of its certificates runs out, of those that are good still: a chain may bring some along that
    /// nobody needs. Tokens have none.
    pub fn first_end(&self, now: Timestamp) -> Option<Timestamp> {
        let ends = self
            .certificates()?
            .iter()
            .filter_map(|each| certificates::end(each));
        ends.filter(|end| *end > now).min()
    }

    /// Of all that was presented.
    fn sha256(&self) -> [u8; 32] {
        match &self.0 {
            Presented::Bearer(token) => bytes(digest(&SHA256, token.expose().as_bytes())),
            Presented::Chain(chain) => chain.sha256,
        }
    }
}

fn bytes(digest: ring::digest::Digest) -> [u8; 32] {
    digest.as_ref().first_chunk().copied().unwrap_or_default()
}

/// A running process whose identity has been proven. Only a verifier can make one.
#[derive(Clone, Debug)]
pub struct Workload {
    attestation: Attestation,
    /// Until when the proof may be remembered, where that is earlier than its end.
    remember_until: Timestamp,
}

impl Workload {
    fn proven(attestation: Attestation) -> Self {
        Self {
            remember_until: attestation.expires_at,
            attestation,
        }
    }

    /// For proof that an authority may take back before the evidence ends.
    fn remembered_until(mut self, until: Timestamp) -> Self {
        self.remember_until = self.remember_until.min(until);
        self
    }

    /// What was proven.
    pub fn attestation(&self) -> &Attestation {
        &self.attestation
    }
}

/// Appraises one kind of evidence.
#[async_trait]
pub trait Verifier: Send + Sync + 'static {
    /// The kind that it appraises.
    fn accepts(&self) -> EvidenceKind;
    /// Whether this evidence is for this verifier, judged by its unverified claims and by nothing else. No I/O.
    fn recognises(&self, claimed: &Claimed<'_>) -> bool;
    /// Whose keys it relies on. When one of them is withdrawn, what it proved before is proven again.
    fn key_sources(&self) -> &[Arc<KeySource>] {
        &[]
    }
    /// Checks everything, from the signature to the audience.
    async fn verify(&self, evidence: &Evidence, now: Timestamp) -> Result<Workload, IdentityError>;
}

/// What unverified evidence says about itself: enough to choose a verifier, trusted for nothing else.
#[derive(Debug, Clone, Copy)]
pub struct Claimed<'a> {
    /// The `kid` header.
    pub key_id: Option<&'a str>,
    /// The `iss` claim.
    pub issuer: Option<&'a str>,
    /// The `sub` claim.
    pub subject: Option<&'a str>,
}

impl Claimed<'_> {
    /// Whether the subject has the form of a SPIFFE ID.
    pub fn names_spiffe_id(&self) -> bool {
        self.subject
            .is_some_and(|subject| subject.starts_with("spiffe://"))
    }
}

/// Why evidence proves nothing. The texts help the caller and never quote the evidence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// No evidence came.
    #[error("no evidence: send the workload's token as `Authorization: Bearer …`")]
    Missing,
    /// It cannot be read.
    #[error("the evidence is malformed: {0}")]
    Malformed(String),
    /// No configured verifier is for it.
    #[error("no configured trust domain, cluster or issuer vouches for this evidence")]
    Unrecognised,
    /// It was read and refused.
    #[error("the evidence was refused: {0}")]
    Refused(String),
    /// It has expired or is not yet valid.
    #[error("the evidence is not valid at this time: {0}")]
    Untimely(String),
    /// The keys to check it cannot be had now.
    #[error("the keys to check this evidence cannot be had now: {0}")]
    Unavailable(String),
}

/// Why the identity part of a configuration cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SetupError(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evidence_is_bounded_and_names_itself_by_its_digest() {
        assert_eq!(Evidence::bearer("").unwrap_err(), IdentityError::Missing);
        assert!(Evidence::bearer(&"a".repeat(Evidence::LONGEST)).is_ok());
        assert!(Evidence::bearer(&"a".repeat(Evidence::LONGEST + 1)).is_err());
        // FIPS 180-2, appendix B.1.
        let abc = Evidence::bearer("abc").unwrap();
        assert_eq!(
            abc.digest(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert!(!format!("{abc:?}").contains("abc"));
    }
}
