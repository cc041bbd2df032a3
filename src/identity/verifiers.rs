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
use super::vouching::Trust;
use super::{Evidence, IdentityError, Verifier, Workload};
use crate::model::attestation::EvidenceKind;
use crate::model::lease::VouchingKey;
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

    /// The same, each with the kind of evidence that its keys sign.
    pub fn sources_by_kind(&self) -> impl Iterator<Item = (EvidenceKind, &Arc<KeySource>)> {
        self.verifiers.iter().flat_map(|verifier| {
            let kind = verifier.accepts();
            verifier.key_sources().iter().map(move |source| (kind, source))
        })
    }

    /// What is known here of a key that signed evidence of this kind. Where nobody has keys of that kind, nobody
    /// takes them back.
    pub fn trust(&self, kind: EvidenceKind, key: VouchingKey) -> Trust {
        let sources = self.sources_by_kind().filter(|(of, _)| *of == kind);
        sources
            .map(|(_, source)| source.trust(key))
            .min_by_key(|trust| match trust {
                Trust::Held => 0,
                Trust::Unknown => 1,
                Trust::Gone => 2,
            })
            .unwrap_or(Trust::Held)
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
        if evidence.certificates().is_some() {
            let mut verifiers = self.verifiers.iter();
            let found = verifiers.find(|verifier| verifier.accepts() == EvidenceKind::X509Svid);
            return found.ok_or(IdentityError::Unrecognised);
        }
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;
    use serde_json::{Value, json};

    use super::*;
    use crate::identity::Claimed;
    use crate::identity::fetch::Endpoint;
    use crate::identity::jwt_svid::{JwtSvid, Trusted};
    use crate::identity::key_source::Origin;
    use crate::identity::kubernetes::{Cluster, Kubernetes};
    use crate::identity::oidc::{Issuer, Oidc};
    use crate::identity::testing::{Authority, NOW, Server, US, at, keep_fresh, pass, slow, terms, with};

    const ISSUER: &str = "https://shared.example.org";

    fn svid() -> Value {
        json!({"sub": "spiffe://example.org/bot", "aud": US, "exp": at(600), "iat": at(0)})
    }

    fn spiffe(bundle: Origin) -> Arc<dyn Verifier> {
        let trusted = Trusted {
            trust_domain: "example.org".parse().unwrap(),
            bundle,
            freshness: slow(),
        };
        Arc::new(JwtSvid::new([trusted], terms()).unwrap())
    }

    fn oidc(authority: &Authority) -> Arc<dyn Verifier> {
        let keys = Origin::Inline(authority.jwks());
        Arc::new(Oidc::new(Issuer::new(ISSUER, keys, terms())).unwrap())
    }

    fn kubernetes(authority: &Authority) -> Arc<dyn Verifier> {
        let cluster = Cluster {
            name: "prod".into(),
            issuer: ISSUER.into(),
            keys: Origin::Inline(authority.jwks()),
            freshness: slow(),
            review: None,
        };
        Arc::new(Kubernetes::new([cluster], terms()).unwrap())
    }

    /// Counts how often the wrapped verifier is asked.
    struct Counted(Arc<dyn Verifier>, AtomicUsize);

    #[async_trait]
    impl Verifier for Counted {
        fn accepts(&self) -> EvidenceKind {
            self.0.accepts()
        }
        fn recognises(&self, claimed: &Claimed<'_>) -> bool {
            self.0.recognises(claimed)
        }
        fn key_sources(&self) -> &[Arc<KeySource>] {
            self.0.key_sources()
        }
        async fn verify(&self, evidence: &Evidence, now: Timestamp) -> Result<Workload, IdentityError> {
            self.1.fetch_add(1, Ordering::Relaxed);
            self.0.verify(evidence, now).await
        }
    }

    fn counted(inner: Arc<dyn Verifier>) -> (Arc<Counted>, Verifiers) {
        let counted = Arc::new(Counted(inner, AtomicUsize::new(0)));
        let verifiers = Verifiers::new(vec![counted.clone()], CacheConfig::default());
        (counted, verifiers)
    }

    fn later(secs: u64) -> Timestamp {
        NOW.plus(Duration::from_secs(secs))
    }

    #[tokio::test]
    async fn no_openid_issuer_speaks_for_a_trust_domain() {
        let (domain, issuer) = (Authority::new(), Authority::new());
        let verifiers = Verifiers::new(
            vec![oidc(&issuer), spiffe(Origin::Inline(domain.bundle()))],
            CacheConfig::default(),
        );
        let claims = with(&svid(), json!({"iss": ISSUER}));
        let forged = verifiers.appraise(&issuer.sign(&claims).await, NOW).await;
        assert!(matches!(forged, Err(IdentityError::Refused(_))), "{forged:?}");
        let real = verifiers
            .appraise(&domain.sign(&claims).await, NOW)
            .await
            .unwrap();
        assert_eq!(real.attestation().kind, EvidenceKind::JwtSvid);
    }

    #[tokio::test]
    async fn the_word_of_the_picked_verifier_is_final() {
        let (cluster, issuer) = (Authority::new(), Authority::new());
        let claims = json!({"iss": ISSUER, "sub": "bot", "aud": US, "exp": at(60)});
        let evidence = issuer.sign(&claims).await;
        let alone = Verifiers::new(vec![oidc(&issuer)], CacheConfig::default());
        assert!(alone.appraise(&evidence, NOW).await.is_ok());
        let both = Verifiers::new(vec![oidc(&issuer), kubernetes(&cluster)], CacheConfig::default());
        assert!(matches!(
            both.appraise(&evidence, NOW).await,
            Err(IdentityError::Refused(_))
        ));
    }

    #[tokio::test]
    async fn evidence_that_is_for_nobody_is_unrecognised() {
        let issuer = Authority::new();
        let verifiers = Verifiers::new(vec![oidc(&issuer)], CacheConfig::default());
        for claims in [
            json!({}),
            json!({"iss": "https://other.example.org", "sub": "bot"}),
            json!({"iss": 1}),
            svid(),
        ] {
            let outcome = verifiers.appraise(&issuer.sign(&claims).await, NOW).await;
            assert_eq!(outcome.unwrap_err(), IdentityError::Unrecognised, "{claims}");
        }
        let garbage = Evidence::bearer("not a token").unwrap();
        let outcome = verifiers.appraise(&garbage, NOW).await;
        assert!(matches!(outcome, Err(IdentityError::Malformed(_))));
    }

    #[tokio::test]
    async fn what_was_proven_is_remembered_for_a_while() {
        let domain = Authority::new();
        let (asked, verifiers) = counted(spiffe(Origin::Inline(domain.bundle())));
        let evidence = domain.sign(&svid()).await;
        let first = verifiers.appraise(&evidence, NOW).await.unwrap();
        let again = verifiers.appraise(&evidence, later(299)).await.unwrap();
        assert!(Arc::ptr_eq(&first, &again));
        assert_eq!(asked.1.load(Ordering::Relaxed), 1);
        verifiers.appraise(&evidence, later(300)).await.unwrap();
        assert_eq!(asked.1.load(Ordering::Relaxed), 2, "the proof was too old");
    }

    #[tokio::test]
    async fn a_cache_without_room_remembers_nothing() {
        let domain = Authority::new();
        let asked = Arc::new(Counted(
            spiffe(Origin::Inline(domain.bundle())),
            AtomicUsize::new(0),
        ));
        let cache = CacheConfig {
            capacity: 0,
            ..CacheConfig::default()
        };
        let verifiers = Verifiers::new(vec![asked.clone()], cache);
        let evidence = domain.sign(&svid()).await;
        for times in [1, 2] {
            verifiers.appraise(&evidence, NOW).await.unwrap();
            assert_eq!(asked.1.load(Ordering::Relaxed), times);
        }
    }

    #[tokio::test]
    async fn remembered_evidence_ends_when_it_says_so() {
        let domain = Authority::new();
        let (_, verifiers) = counted(spiffe(Origin::Inline(domain.bundle())));
        let evidence = domain.sign(&with(&svid(), json!({"exp": at(60)}))).await;
        assert!(verifiers.appraise(&evidence, later(59)).await.is_ok());
        let outcome = verifiers.appraise(&evidence, later(60)).await;
        assert!(matches!(outcome, Err(IdentityError::Untimely(_))), "{outcome:?}");
    }

    #[tokio::test]
    async fn refusals_are_not_remembered() {
        let domain = Authority::new();
        let (_, verifiers) = counted(spiffe(Origin::Inline(domain.bundle())));
        let evidence = domain.sign(&with(&svid(), json!({"nbf": at(60)}))).await;
        assert!(verifiers.appraise(&evidence, NOW).await.is_err());
        assert!(verifiers.appraise(&evidence, later(60)).await.is_ok());
    }

    #[tokio::test]
    async fn a_withdrawn_key_ends_what_was_remembered() {
        let (server, domain, other) = (Server::start().await, Authority::new(), Authority::new());
        let keys = |keys: &[Value]| json!({ "keys": keys }).to_string();
        server.answer("/bundle", &keys(&[domain.jwk("jwt-svid")]));
        let origin = Origin::Endpoint(Endpoint::open(server.address("/bundle")));
        let (asked, verifiers) = counted(spiffe(origin));
        let _running = keep_fresh(verifiers.key_sources());
        let evidence = domain.sign(&svid()).await;
        verifiers.appraise(&evidence, NOW).await.unwrap();
        let refetch = async || {
            pass(Duration::from_secs(31)).await;
            let stranger = Authority::new().sign(&svid()).await;
            assert!(verifiers.appraise(&stranger, NOW).await.is_err());
        };
        server.answer("/bundle", &keys(&[domain.jwk("jwt-svid"), other.jwk("jwt-svid")]));
        refetch().await;
        let before = asked.1.load(Ordering::Relaxed);
        verifiers.appraise(&evidence, NOW).await.unwrap();
        assert_eq!(
            asked.1.load(Ordering::Relaxed),
            before,
            "a key more withdraws nothing"
        );
        server.answer("/bundle", &keys(&[other.jwk("jwt-svid")]));
        refetch().await;
        assert!(verifiers.appraise(&evidence, NOW).await.is_err());
    }

    #[tokio::test]
    async fn a_shorter_memory_that_the_verifier_asks_for_holds() {
        struct Brief(Arc<dyn Verifier>);
        #[async_trait]
        impl Verifier for Brief {
            fn accepts(&self) -> EvidenceKind {
                self.0.accepts()
            }
            fn recognises(&self, claimed: &Claimed<'_>) -> bool {
                self.0.recognises(claimed)
            }
            async fn verify(&self, evidence: &Evidence, now: Timestamp) -> Result<Workload, IdentityError> {
                let until = now.plus(Duration::from_secs(20));
                Ok(self.0.verify(evidence, now).await?.remembered_until(until))
            }
        }
        let domain = Authority::new();
        let brief = Brief(spiffe(Origin::Inline(domain.bundle())));
        let (asked, verifiers) = counted(Arc::new(brief));
        let evidence = domain.sign(&svid()).await;
        for (at, times) in [(0, 1), (19, 1), (20, 2)] {
            verifiers.appraise(&evidence, later(at)).await.unwrap();
            assert_eq!(asked.1.load(Ordering::Relaxed), times);
        }
    }
}
