//! All verifiers together: picks the one that evidence is for, and remembers what it proved.
//!
//! The pick looks at unverified claims and decides nothing else; the picked verifier's word is final.
//! What was proven is remembered under the digest of the evidence, never past the end of the evidence,
//! and not once a key of its authority was withdrawn.

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;

use super::claims::{Claims, parse};
use super::key_source::KeySource;
use super::{Evidence, IdentityError, Verifier, Workload};
use crate::model::attestation::EvidenceKind;
use crate::model::time::Timestamp;

/// How much is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheConfig {
    /// The most pieces of evidence. Default 10 000; 0 remembers nothing.
    pub capacity: u64,
    /// How long each, at the longest. Default 5 minutes.
    pub max_age: Duration,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self {
            capacity: 10_000,
            max_age: Duration::from_secs(5 * 60),
        }
    }
}

/// The verifiers of this broker.
pub struct Verifiers {
    verifiers: Vec<Arc<dyn Verifier>>,
    proven: Cache<[u8; 32], Proven>,
    max_age: Duration,
}

#[derive(Clone)]
struct Proven {
    workload: Arc<Workload>,
    by: Arc<dyn Verifier>,
    /// The withdrawals that the verifier knew of before it began.
    withdrawals: u64,
    until: Timestamp,
}

impl Verifiers {
    /// These verifiers, in the order in which they are asked whether evidence is for them.
    pub fn new(verifiers: Vec<Arc<dyn Verifier>>, cache: CacheConfig) -> Self {
        Self {
            verifiers,
            proven: Cache::builder()
                .max_capacity(cache.capacity)
                .time_to_live(cache.max_age)
                .build(),
            max_age: cache.max_age,
        }
    }

    /// The sources of keys that have to be kept fresh: spawn [`KeySource::run`] for each.
    pub fn key_sources(&self) -> impl Iterator<Item = &Arc<KeySource>> {
        self.verifiers.iter().flat_map(|verifier| verifier.key_sources())
    }

    /// Appraises evidence, or remembers having done so.
    pub async fn appraise(
        &self,
        evidence: &Evidence,
        now: Timestamp,
    ) -> Result<Arc<Workload>, IdentityError> {
        let key = evidence.sha256();
        if let Some(proven) = self.proven.get(&key) {
            if now < proven.until && proven.withdrawals == withdrawals(&*proven.by) {
                return Ok(proven.workload);
            }
            self.proven.invalidate(&key);
        }
        let by = Arc::clone(self.pick(evidence)?);
        let withdrawals = withdrawals(&*by);
        let workload = Arc::new(by.verify(evidence, now).await?);
        let proven = Proven {
            workload: Arc::clone(&workload),
            by,
            withdrawals,
            until: workload.remember_until.min(now.plus(self.max_age)),
        };
        self.proven.insert(key, proven);
        Ok(workload)
    }

    /// The one verifier that evidence is for. A subject in SPIFFE's form is for SPIFFE's verifier, whatever
    /// the issuer: no OpenID provider may speak for a trust domain.
    fn pick(&self, evidence: &Evidence) -> Result<&Arc<dyn Verifier>, IdentityError> {
        let token = parse(evidence)?;
        let claims = Claims::of(&token)?;
        let claimed = claims.claimed(&token);
        let kinds: &[EvidenceKind] = if claimed.names_spiffe_id() {
            &[EvidenceKind::JwtSvid]
        } else {
            &[EvidenceKind::Kubernetes, EvidenceKind::Oidc]
        };
        let of_kind = |kind: &EvidenceKind| {
            let kind = *kind;
            self.verifiers
                .iter()
                .find(|verifier| verifier.accepts() == kind && verifier.recognises(&claimed))
        };
        kinds.iter().find_map(of_kind).ok_or(IdentityError::Unrecognised)
    }
}

fn withdrawals(verifier: &dyn Verifier) -> u64 {
    verifier
        .key_sources()
        .iter()
        .map(|source| source.withdrawals())
        .sum()
}
