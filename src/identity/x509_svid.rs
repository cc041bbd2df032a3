//! X.509-SVIDs, by the SPIFFE X509-SVID standard and nothing wider.
//!
//! That the workload holds the key was proven by the handshake of its connection. Whether the certificate is worth
//! anything is judged here: in the handshake, and again with each request, because connections outlive certificates
//! and authorities.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use rustls::pki_types::CertificateDer;

use super::certificates::{Leaf, Unbelieved, nobody};
use super::claims::{Skew, refused};
use super::key_source::{KeySource, Trusted};
use super::{Claimed, Evidence, IdentityError, SetupError, Verifier, Workload};
use crate::keys::jwk::KeyUse;
use crate::model::attestation::{Attestation, EvidenceKind};
use crate::model::lease::VouchingKey;
use crate::model::spiffe::TrustDomain;
use crate::model::time::Timestamp;

/// Appraises X.509-SVIDs of the configured trust domains.
#[derive(Debug)]
pub struct X509Svid {
    /// Sorted by trust domain, in step with `sources`.
    domains: BTreeMap<TrustDomain, usize>,
    sources: Vec<Arc<KeySource>>,
    skew: Skew,
}

impl X509Svid {
    /// A verifier for these trust domains. The skew excuses certificates that are not good yet.
    pub fn new(trusted: impl IntoIterator<Item = Trusted>, skew: Skew) -> Result<Self, SetupError> {
        let (mut domains, mut sources) = (BTreeMap::new(), Vec::new());
        for Trusted {
            trust_domain,
            bundle,
            freshness,
        } in trusted
        {
            let source = KeySource::new(trust_domain.as_str(), KeyUse::X509Svid, bundle, freshness)?;
            if domains.insert(trust_domain.clone(), sources.len()).is_some() {
                return Err(SetupError(format!(
                    "the trust domain `{trust_domain}` has two bundles; it can have one"
                )));
            }
            sources.push(Arc::new(source));
        }
        Ok(Self {
            domains,
            sources,
            skew,
        })
    }

    /// Judges a chain, the workload's own certificate first, by the authorities that are held: for handshakes, which
    /// cannot wait. Where none are held the answer is [`IdentityError::Unavailable`]. Where none of them vouches for
    /// it, newer ones are asked for.
    pub fn judge(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> Result<(), IdentityError> {
        let (leaf, source) = self.read(chain, now)?;
        match source.vouched_held(&leaf, chain, now) {
            Some(Ok(_)) => Ok(()),
            Some(Err(Unbelieved::For(error))) => Err(error),
            Some(Err(Unbelieved::Unvouched)) => {
                source.want();
                Err(nobody(leaf.id.trust_domain()))
            }
            None => Err(source.no_key()),
        }
    }

    fn read(
        &self,
        chain: &[CertificateDer<'_>],
        now: Timestamp,
    ) -> Result<(Leaf, &KeySource), IdentityError> {
        // Before anything is looked at in it.
        Evidence::fits(chain)?;
        let leaf = Leaf::read(chain.first().ok_or(IdentityError::Missing)?, self.skew)?;
        let domain = leaf.id.trust_domain();
        let source = self
            .domains
            .get(domain)
            .and_then(|place| self.sources.get(*place));
        let source =
            source.ok_or_else(|| refused(format!("the trust domain `{domain}` is not configured here")))?;
        leaf.check_time(now)?;
        Ok((leaf, source))
    }

    async fn vouched(
        &self,
        chain: &[CertificateDer<'_>],
        leaf: &Leaf,
        source: &KeySource,
        now: Timestamp,
    ) -> Result<(VouchingKey, Timestamp), IdentityError> {
        match source.vouched_held(leaf, chain, now) {
            Some(Ok(vouched)) => return Ok(vouched),
            Some(Err(Unbelieved::For(error))) => return Err(error),
            Some(Err(Unbelieved::Unvouched)) | None => source.refetch().await,
        }
        match source.vouched_held(leaf, chain, now) {
            Some(Ok(vouched)) => Ok(vouched),
            Some(Err(Unbelieved::For(error))) => Err(error),
            Some(Err(Unbelieved::Unvouched)) => Err(nobody(leaf.id.trust_domain())),
            None => Err(source.no_key()),
        }
    }
}

#[async_trait]
impl Verifier for X509Svid {
    fn accepts(&self) -> EvidenceKind {
        EvidenceKind::X509Svid
    }

    fn recognises(&self, _: &Claimed<'_>) -> bool {
        false // no token is for it
    }

    fn key_sources(&self) -> &[Arc<KeySource>] {
        &self.sources
    }

    async fn verify(&self, evidence: &Evidence, now: Timestamp) -> Result<Workload, IdentityError> {
        let chain = evidence.certificates().ok_or(IdentityError::Missing)?;
        let (leaf, source) = self.read(chain, now)?;
        let (key, expires_at) = self.vouched(chain, &leaf, source, now).await?;
        Ok(Workload::proven(Attestation {
            kind: EvidenceKind::X509Svid,
            authority: leaf.id.trust_domain().as_str().into(),
            subject: leaf.id.as_str().into(),
            trust_domain: Some(leaf.id.trust_domain().clone()),
            claims: BTreeMap::new(),
            verified_at: now,
            expires_at,
            key: Some(key),
            digest: evidence.digest().into(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD as BASE64;
    use rcgen::{
        BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose as Eku, IsCa, Issuer,
        KeyPair, KeyUsagePurpose as Usage, SanType,
    };
    use serde_json::{Value, json};

    use super::*;
    use crate::identity::certificates::Authority as Found;
    use crate::identity::fetch::Endpoint;
    use crate::identity::key_source::Origin;
    use crate::identity::testing::{NOW, Server, keep_fresh, pass, slow};
    use crate::identity::verifiers::{CacheConfig, Verifiers};
    use crate::identity::vouching::Trust;

    const ID: &str = "spiffe://example.org/agents/support-bot";

    struct Authority {
        issuer: Issuer<'static, KeyPair>,
        der: CertificateDer<'static>,
    }

    /// Good from so many seconds from now until so many.
    fn good(params: &mut CertificateParams, from: i64, until: i64) {
        let at = |offset| {
            let since = NOW.as_secs().checked_add_signed(offset).unwrap();
            rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(since)
        };
        (params.not_before, params.not_after) = (at(from), at(until));
    }

    fn uri(text: &str) -> SanType {
        SanType::URI(text.try_into().unwrap())
    }

    fn authority_params(domain: &str, name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![Usage::KeyCertSign, Usage::CrlSign];
        params.subject_alt_names = vec![uri(&format!("spiffe://{domain}"))];
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        good(&mut params, -86_400, 86_400 * 30);
        params
    }

    impl Authority {
        fn new(domain: &str) -> Self {
            Self::with(authority_params(domain, "root"))
        }

        fn with(params: CertificateParams) -> Self {
            let key = KeyPair::generate().unwrap();
            let der = params.self_signed(&key).unwrap().der().clone();
            Self {
                issuer: Issuer::new(params, key),
                der,
            }
        }

        fn below(&self, params: CertificateParams) -> Self {
            let key = KeyPair::generate().unwrap();
            let der = params.signed_by(&key, &self.issuer).unwrap().der().clone();
            Self {
                issuer: Issuer::new(params, key),
                der,
            }
        }

        fn sign(&self, change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
            let mut params = leaf();
            change(&mut params);
            let key = KeyPair::generate().unwrap();
            params.signed_by(&key, &self.issuer).unwrap().der().clone()
        }
    }

    fn leaf() -> CertificateParams {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![uri(ID)];
        params.key_usages = vec![Usage::DigitalSignature];
        params.extended_key_usages = vec![Eku::ServerAuth, Eku::ClientAuth];
        good(&mut params, -60, 3600);
        params
    }

    fn entry(authority: &Authority) -> Value {
        json!({"use": "x509-svid", "kty": "EC", "x5c": [BASE64.encode(&authority.der)]})
    }

    fn bundle(authorities: &[&Authority]) -> String {
        let keys: Vec<Value> = authorities.iter().map(|each| entry(each)).collect();
        json!({"keys": keys, "spiffe_sequence": 1}).to_string()
    }

    fn trusted(domain: &str, bundle: Origin) -> Trusted {
        Trusted {
            trust_domain: domain.parse().unwrap(),
            bundle,
            freshness: slow(),
        }
    }

    fn verifier(bundles: &[(&str, String)]) -> X509Svid {
        let all = bundles.iter();
        let trusted = all.map(|(domain, bundle)| trusted(domain, Origin::Inline(bundle.clone())));
        X509Svid::new(trusted, Skew::default()).unwrap()
    }

    fn evidence(chain: &[&CertificateDer<'static>]) -> Evidence {
        Evidence::chain(chain.iter().map(|each| (*each).clone()).collect()).unwrap()
    }

    /// Judged alike in the handshake and with a request.
    async fn verdict(
        verifier: &X509Svid,
        chain: &[&CertificateDer<'static>],
        now: Timestamp,
    ) -> Result<Workload, IdentityError> {
        let owned: Vec<_> = chain.iter().map(|each| (*each).clone()).collect();
        let in_handshake = verifier.judge(&owned, now);
        let with_request = verifier.verify(&evidence(chain), now).await;
        assert_eq!(in_handshake.err(), with_request.as_ref().err().cloned());
        with_request
    }

    async fn refusal(verifier: &X509Svid, chain: &[&CertificateDer<'static>]) -> String {
        verdict(verifier, chain, NOW).await.unwrap_err().to_string()
    }

    #[tokio::test]
    async fn an_svid_of_a_configured_domain_proves_the_workload() {
        let root = Authority::new("example.org");
        let verifier = verifier(&[("example.org", bundle(&[&root]))]);
        let svid = root.sign(|params| {
            params
                .subject_alt_names
                .push(SanType::DnsName("a.b".try_into().unwrap()))
        });
        let workload = verdict(&verifier, &[&svid], NOW).await.unwrap();
        let attestation = workload.attestation();
        assert_eq!(attestation.kind, EvidenceKind::X509Svid);
        assert_eq!(*attestation.authority, *"example.org");
        assert_eq!(*attestation.subject, *ID);
        assert_eq!(attestation.expires_at, NOW.plus(Duration::from_secs(3600)));
        let source = verifier.key_sources().first().unwrap();
        assert_eq!(attestation.key, source.trusted().unwrap().pop_first());
        let thumbprint: String = ring::digest::digest(&ring::digest::SHA256, &svid)
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(
            *attestation.digest, *thumbprint,
            "as `openssl x509 -fingerprint` has it"
        );
        let without_eku = root.sign(|params| params.extended_key_usages.clear());
        assert!(verdict(&verifier, &[&without_eku], NOW).await.is_ok());
    }

    #[tokio::test]
    async fn refuses_what_is_no_x509_svid() {
        let root = Authority::new("example.org");
        let verifier = verifier(&[("example.org", bundle(&[&root]))]);
        type Change = fn(&mut CertificateParams);
        let cases: [(Change, &str); 15] = [
            (
                |p| p.subject_alt_names.push(uri("spiffe://example.org/b")),
                "2 URI SANs",
            ),
            (
                |p| p.subject_alt_names.push(uri("https://example.org/b")),
                "2 URI SANs",
            ),
            (|p| p.subject_alt_names.clear(), "0 URI SANs"),
            (
                |p| p.subject_alt_names = vec![SanType::DnsName("example.org".try_into().unwrap())],
                "0 URI SANs",
            ),
            (
                |p| p.subject_alt_names = vec![uri("https://example.org/a")],
                "not the SPIFFE ID",
            ),
            (
                |p| p.subject_alt_names = vec![uri("spiffe://example.org")],
                "not the SPIFFE ID",
            ),
            (
                |p| p.subject_alt_names = vec![uri("spiffe://example.org/a/../b")],
                "not the SPIFFE ID",
            ),
            (
                |p| p.subject_alt_names = vec![uri("spiffe://other.org/a")],
                "`other.org` is not configured",
            ),
            (
                |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
                "that of an authority",
            ),
            (|p| p.key_usages.push(Usage::KeyCertSign), "may sign certificates"),
            (|p| p.key_usages.push(Usage::CrlSign), "may sign certificates"),
            (|p| p.key_usages.clear(), "no critical key usage"),
            (
                |p| p.key_usages = vec![Usage::KeyEncipherment],
                "no critical key usage",
            ),
            (
                |p| p.extended_key_usages = vec![Eku::ServerAuth],
                "extended key usage",
            ),
            (
                |p| p.extended_key_usages = vec![Eku::ClientAuth],
                "extended key usage",
            ),
        ];
        for (change, says) in cases {
            let refused = refusal(&verifier, &[&root.sign(change)]).await;
            assert!(refused.contains(says), "{says}: {refused}");
        }
        let strange = root.sign(|params| {
            let mut extension = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
            extension.set_criticality(true);
            params.custom_extensions.push(extension);
        });
        assert!(refusal(&verifier, &[&strange]).await.contains("does not hold"));
        let nonsense = CertificateDer::from(vec![0x30, 0x00]);
        assert!(refusal(&verifier, &[&nonsense]).await.contains("cannot be read"));
    }

    #[tokio::test]
    async fn nobody_but_an_authority_of_its_own_trust_domain_vouches_for_it() {
        let (root, other) = (Authority::new("example.org"), Authority::new("other.org"));
        let verifier = verifier(&[
            ("example.org", bundle(&[&root])),
            ("other.org", bundle(&[&other])),
        ]);
        let forged = other.sign(|_| {});
        let refused = refusal(&verifier, &[&forged]).await;
        assert!(refused.contains("no authority of `example.org`"), "{refused}");
        // Not even where it brings the other's authority, or one of its own, along.
        assert!(
            refusal(&verifier, &[&forged, &other.der])
                .await
                .contains("no authority")
        );
        let own = Authority::new("example.org");
        assert!(
            refusal(&verifier, &[&own.sign(|_| {}), &own.der])
                .await
                .contains("no authority")
        );
        let key = KeyPair::generate().unwrap();
        let alone = leaf().self_signed(&key).unwrap().der().clone();
        assert!(refusal(&verifier, &[&alone]).await.contains("no authority"));
        // An authority of one domain that says that it is one of another's.
        let posing = self::verifier(&[("example.org", bundle(&[&other]))]);
        assert!(refusal(&posing, &[&forged]).await.contains("no authority"));
    }

    #[tokio::test]
    async fn counts_only_while_all_of_its_chain_is_good() {
        let root = Authority::new("example.org");
        let mut params = authority_params("example.org", "between");
        good(&mut params, -86_400, 600);
        let between = root.below(params);
        let verifier = verifier(&[("example.org", bundle(&[&root]))]);
        let svid = between.sign(|_| {});
        let workload = verdict(&verifier, &[&svid, &between.der], NOW).await.unwrap();
        assert_eq!(
            workload.attestation().expires_at,
            NOW.plus(Duration::from_secs(600))
        );
        let late = verdict(
            &verifier,
            &[&svid, &between.der],
            NOW.plus(Duration::from_secs(601)),
        )
        .await;
        assert!(matches!(late, Err(IdentityError::Untimely(_))), "{late:?}");
        assert!(
            refusal(&verifier, &[&svid]).await.contains("no authority"),
            "without what is between"
        );
        let direct = root.sign(|_| {});
        for (offset, good) in [
            (-91, false),
            (-90, true), // by the clock of the authority
            (0, true),
            (3599, true),
            (3600, false), // whatever clocks say
        ] {
            let then = Timestamp::from_secs(NOW.as_secs().checked_add_signed(offset).unwrap());
            let verdict = verdict(&verifier, &[&direct], then).await;
            assert_eq!(verdict.is_ok(), good, "{offset}");
        }
        let mut past = authority_params("example.org", "root");
        good(&mut past, -86_400, -1);
        let past = Authority::with(past);
        let expired = self::verifier(&[("example.org", bundle(&[&past]))]);
        assert!(
            refusal(&expired, &[&past.sign(|_| {})])
                .await
                .contains("no authority")
        );
    }

    #[tokio::test]
    async fn an_authority_whose_clock_is_ahead_is_believed_within_the_skew() {
        for (ahead, believed) in [(30, true), (31, false)] {
            let mut params = authority_params("example.org", "root");
            good(&mut params, ahead, 86_400);
            let root = Authority::with(params);
            let mut params = authority_params("example.org", "between");
            good(&mut params, ahead, 7200);
            let between = root.below(params);
            let svid = between.sign(|params| good(params, ahead, 3600));
            let verifier = verifier(&[("example.org", bundle(&[&root]))]);
            let verdict = verdict(&verifier, &[&svid, &between.der], NOW).await;
            assert_eq!(verdict.is_ok(), believed, "{ahead}: {verdict:?}");
        }
        // That one is not good yet does not excuse that another has expired.
        let root = Authority::new("example.org");
        let mut params = authority_params("example.org", "between");
        good(&mut params, -86_400, 10);
        let between = root.below(params);
        let svid = between.sign(|params| good(params, 20, 3600));
        let verifier = verifier(&[("example.org", bundle(&[&root]))]);
        assert!(verdict(&verifier, &[&svid, &between.der], NOW).await.is_err());
    }

    #[tokio::test]
    async fn what_is_odd_about_one_entry_says_nothing_about_the_others() {
        let root = Authority::new("example.org");
        let odd = [
            json!({"use": "x509-svid", "x5c": null}),
            json!({"use": "x509-svid", "x5c": "text"}),
            json!({"use": "x509-svid", "x5c": [5]}),
            json!({"use": "x509-svid", "x5c": ["%"]}),
            json!({"use": 5, "x5c": {}}),
            json!({"use": "jwt-svid", "x5c": 7, "kty": []}),
            json!("no entry"),
            json!(null),
        ];
        for each in &odd {
            let keys = json!({"keys": [each, entry(&root)]}).to_string();
            let (authorities, _) = Found::all(keys.as_bytes(), "example.org").unwrap();
            assert_eq!(authorities.len(), 1, "{each}");
            let verifier = verifier(&[("example.org", keys)]);
            assert!(
                verdict(&verifier, &[&root.sign(|_| {})], NOW).await.is_ok(),
                "{each}"
            );
        }
        let all = json!({"keys": odd}).to_string();
        let (authorities, passed_over) = Found::all(all.as_bytes(), "example.org").unwrap();
        assert_eq!(
            (authorities.len(), passed_over),
            (0, 4),
            "those for X.509-SVIDs are told"
        );
    }

    #[tokio::test]
    async fn what_is_between_has_to_be_an_authority_within_its_bounds() {
        let root = Authority::new("example.org");
        let verifier = verifier(&[("example.org", bundle(&[&root]))]);
        type Change = fn(&mut CertificateParams);
        let cases: [(Change, bool); 6] = [
            (|_| {}, true),
            (|p| p.subject_alt_names.clear(), true),
            (|p| p.key_usages = vec![Usage::DigitalSignature], false),
            (|p| p.key_usages.clear(), false),
            (|p| p.subject_alt_names = vec![uri("spiffe://other.org")], false),
            (
                |p| p.subject_alt_names = vec![uri("spiffe://example.org/agents/support-bot")],
                false,
            ),
        ];
        for (number, (change, good)) in cases.into_iter().enumerate() {
            let mut params = authority_params("example.org", "between");
            change(&mut params);
            let between = root.below(params);
            let verdict = verdict(&verifier, &[&between.sign(|_| {}), &between.der], NOW).await;
            assert_eq!(verdict.is_ok(), good, "{number}: {verdict:?}");
        }
        // A workload signs nothing, whatever it holds.
        let mut params = leaf();
        params.key_usages = vec![Usage::DigitalSignature, Usage::KeyCertSign];
        let workload = root.below(params);
        assert!(
            verdict(&verifier, &[&workload.sign(|_| {}), &workload.der], NOW)
                .await
                .is_err()
        );
        // No further than the path may be long.
        let mut last = authority_params("example.org", "last");
        last.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let last = root.below(last);
        let beyond = last.below(authority_params("example.org", "beyond"));
        let chain = [&beyond.sign(|_| {}), &beyond.der, &last.der];
        assert!(verdict(&verifier, &chain, NOW).await.is_err());
    }

    #[test]
    fn a_chain_is_short_and_small() {
        let root = Authority::new("example.org");
        let svid = root.sign(|_| {});
        let long = vec![svid.clone(); Evidence::MOST_CERTIFICATES + 1];
        assert!(Evidence::chain(long.clone()).is_err());
        let big = CertificateDer::from(vec![0; Evidence::LONGEST_CHAIN + 1]);
        assert!(Evidence::chain(vec![big]).is_err());
        let verifier = verifier(&[("example.org", bundle(&[&root]))]);
        assert!(matches!(
            verifier.judge(&long, NOW),
            Err(IdentityError::Malformed(_))
        ));
        assert!(verifier.judge(&[], NOW).is_err());
    }

    #[tokio::test]
    async fn an_authority_that_leaves_the_bundle_vouches_for_nothing_any_more() {
        let (old, new, server) = (
            Authority::new("example.org"),
            Authority::new("example.org"),
            Server::start().await,
        );
        server.answer("/bundle", &bundle(&[&old]));
        let origin = Origin::Endpoint(Endpoint::open(server.address("/bundle")));
        let verifier = Arc::new(X509Svid::new([trusted("example.org", origin)], Skew::default()).unwrap());
        let (first, second) = (old.sign(|_| {}), new.sign(|_| {}));
        let unknown = verifier.judge(std::slice::from_ref(&first), NOW);
        assert!(
            matches!(unknown, Err(IdentityError::Unavailable(_))),
            "{unknown:?}"
        );
        let all = Verifiers::new(vec![Arc::clone(&verifier) as _], CacheConfig::default());
        let _running = keep_fresh(all.key_sources());
        let workload = all.appraise(&evidence(&[&first]), NOW).await.unwrap();
        let key = workload.attestation().key.unwrap();
        assert_eq!(all.trust(EvidenceKind::X509Svid, key), Trust::Held);
        assert!(all.appraise(&evidence(&[&second]), NOW).await.is_err());
        // A handshake of the new one's has the bundle fetched.
        server.answer("/bundle", &bundle(&[&new]));
        pass(Duration::from_secs(31)).await;
        assert!(all.appraise(&evidence(&[&second]), NOW).await.is_ok());
        assert_eq!(all.trust(EvidenceKind::X509Svid, key), Trust::Gone);
        let refused = all.appraise(&evidence(&[&first]), NOW).await;
        assert!(refused.is_err(), "though it was proven before");
    }

    #[tokio::test]
    async fn a_certificate_of_an_authority_that_was_only_renewed_is_the_same() {
        let (params, key) = (
            authority_params("example.org", "root"),
            KeyPair::generate().unwrap(),
        );
        let der = |until: i64| {
            let mut params = params.clone();
            good(&mut params, -86_400, until);
            params.self_signed(&key).unwrap().der().clone()
        };
        let keys = [der(1000), der(2000)].map(|der| {
            let bundle = json!({"keys": [{"use": "x509-svid", "x5c": [BASE64.encode(&der)]}]});
            let verifier = verifier(&[("example.org", bundle.to_string())]);
            verifier.key_sources()[0].trusted().unwrap()
        });
        assert_eq!(keys[0].len(), 1);
        assert_eq!(keys[0], keys[1]);
    }
}
