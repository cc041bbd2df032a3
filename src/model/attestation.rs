//! What was proven about a workload: by which verifier, when, until when, with which claims.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::lease::VouchingKey;
use super::spiffe::TrustDomain;
use super::time::Timestamp;

/// The kinds of evidence that Dayfly can appraise.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EvidenceKind {
    /// SPIFFE JWT-SVID.
    JwtSvid,
    /// Kubernetes projected service-account token.
    Kubernetes,
    /// OpenID Connect token of a configured issuer.
    Oidc,
    /// SPIFFE X.509-SVID, by the certificate of a connection.
    X509Svid,
}

impl EvidenceKind {
    /// Whether a trust domain vouches for it.
    pub const fn is_spiffe(self) -> bool {
        matches!(self, Self::JwtSvid | Self::X509Svid)
    }

    /// Every kind.
    pub const ALL: [Self; 4] = [Self::JwtSvid, Self::Kubernetes, Self::Oidc, Self::X509Svid];

    /// The kind of this word.
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }

    /// The word that configuration, policies and records use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::JwtSvid => "jwt_svid",
            Self::Kubernetes => "kubernetes",
            Self::Oidc => "oidc",
            Self::X509Svid => "x509_svid",
        }
    }
}

impl fmt::Display for EvidenceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The record of what was proven.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attestation {
    /// Which kind of evidence it was.
    pub kind: EvidenceKind,
    /// Who vouched: a trust domain, a registered cluster's name, or an OIDC issuer.
    pub authority: Arc<str>,
    /// Who the workload is, in the words of that authority: a SPIFFE ID, `system:serviceaccount:ns:name`, or `sub`.
    pub subject: Arc<str>,
    /// The trust domain, where the evidence has one.
    pub trust_domain: Option<TrustDomain>,
    /// Claims that match rules may look at, as text; nested names joined by `.`. At most 64 of 256 bytes each.
    pub claims: BTreeMap<String, String>,
    /// When the verifier appraised it.
    pub verified_at: Timestamp,
    /// When the evidence ends by itself.
    pub expires_at: Timestamp,
    /// The key that signed it; none where that is not known.
    pub key: Option<VouchingKey>,
    /// SHA-256 of the evidence, in hex: enough to find it again, useless to present.
    pub digest: Arc<str>,
}
