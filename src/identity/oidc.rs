//! Tokens of configured OpenID Connect issuers: CI systems, clouds, identity providers.
//!
//! The issuer is matched as exact text, its keys come from its own discovery document or from a
//! configured address, and what the token may be signed with is configured here, not said by the token.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::claims::{Claims, Terms, check_header, parse, refused};
use super::key_source::{Freshness, KeySource, Origin};
use super::{Claimed, Evidence, IdentityError, SetupError, Verifier, Workload};
use crate::keys::Algorithm;
use crate::keys::jwk::KeyUse;
use crate::model::attestation::{Attestation, EvidenceKind};
use crate::model::time::Timestamp;

/// `x5t` and `x5t#S256` only name a certificate; some issuers send them beside `kid`.
const HEADER: [&str; 5] = ["alg", "kid", "typ", "x5t", "x5t#S256"];

/// A configured issuer.
#[derive(Clone, Debug)]
pub struct Issuer {
    /// Its `iss`, exactly.
    pub issuer: String,
    /// Its keys: discovered, at a configured address, or pinned.
    pub keys: Origin,
    /// How fresh the keys are kept.
    pub freshness: Freshness,
    /// What its tokens may be signed with.
    pub algorithms: Vec<Algorithm>,
    /// What `typ` may say. A token without `typ` is always accepted: RFC 7519 §5.1 leaves it out freely.
    pub types: Vec<String>,
    /// Claims that have to have exactly this value, by their flattened names.
    pub required: BTreeMap<String, String>,
    /// What its tokens have to keep to.
    pub terms: Terms,
}

impl Issuer {
    /// The algorithms that are accepted when nothing else is configured: what OpenID providers sign
    /// with in practice, and EdDSA.
    pub const ALGORITHMS: [Algorithm; 3] = [Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa];
    /// The longest life of a token that is accepted when nothing else is configured.
    pub const LONGEST_LIFE: Duration = Duration::from_secs(24 * 60 * 60);

    /// An issuer with the defaults: RS256, ES256 or EdDSA, `typ` absent or `JWT`, no further claims required.
    pub fn new(issuer: impl Into<String>, keys: Origin, terms: Terms) -> Self {
        Self {
            issuer: issuer.into(),
            keys,
            freshness: Freshness::default(),
            algorithms: Self::ALGORITHMS.into(),
            types: vec!["JWT".into()],
            required: BTreeMap::new(),
            terms,
        }
    }
}

/// Appraises the tokens of one OpenID Connect issuer.
#[derive(Debug)]
pub struct Oidc {
    issuer: String,
    algorithms: Vec<Algorithm>,
    types: Vec<String>,
    required: BTreeMap<String, String>,
    terms: Terms,
    keys: [Arc<KeySource>; 1],
}

impl Oidc {
    /// A verifier for this issuer.
    pub fn new(issuer: Issuer) -> Result<Self, SetupError> {
        if issuer.issuer.is_empty() || issuer.algorithms.is_empty() {
            return Err(SetupError(
                "an OpenID Connect issuer needs its `iss` and at least one algorithm".into(),
            ));
        }
        let keys = KeySource::new(&issuer.issuer, KeyUse::Signature, issuer.keys, issuer.freshness)?;
        Ok(Self {
            issuer: issuer.issuer,
            algorithms: issuer.algorithms,
            types: issuer.types,
            required: issuer.required,
            terms: issuer.terms,
            keys: [Arc::new(keys)],
        })
    }
}

#[async_trait]
impl Verifier for Oidc {
    fn accepts(&self) -> EvidenceKind {
        EvidenceKind::Oidc
    }

    fn recognises(&self, claimed: &Claimed<'_>) -> bool {
        claimed.issuer == Some(&self.issuer)
    }

    fn key_sources(&self) -> &[Arc<KeySource>] {
        &self.keys
    }

    async fn verify(&self, evidence: &Evidence, now: Timestamp) -> Result<Workload, IdentityError> {
        let token = parse(evidence)?;
        check_header(&token, &HEADER, &self.algorithms)?;
        let header = token.header();
        if header.typ.is_some() && !self.types.iter().any(|typ| header.is_typ(typ)) {
            return Err(refused("its `typ` is not accepted from this issuer"));
        }
        let claims = Claims::of(&token)?;
        if claims.text("iss")? != self.issuer {
            return Err(refused("its `iss` is another issuer"));
        }
        let [keys] = &self.keys;
        keys.check(&token).await?;
        let expires_at = self.terms.check(&claims, now)?;
        let subject = claims.text("sub")?.to_owned();
        if subject.len() > 2048 {
            return Err(refused("its `sub` is longer than 2048 bytes"));
        }
        let claims = claims.flatten()?;
        if let Some((name, _)) = self
            .required
            .iter()
            .find(|(name, value)| claims.get(*name) != Some(value))
        {
            return Err(refused(format!(
                "its claim `{name}` is not what this broker requires"
            )));
        }
        Ok(Workload::proven(Attestation {
            kind: EvidenceKind::Oidc,
            authority: self.issuer.clone(),
            subject,
            trust_domain: None,
            claims,
            verified_at: now,
            expires_at,
            key_id: header.kid.clone(),
            digest: evidence.digest(),
        }))
    }
}
