//! JWT-SVIDs, by the SPIFFE JWT-SVID standard and nothing wider.
//!
//! The trust domain of `sub` chooses the bundle; a key of another domain's bundle proves nothing. A
//! workload may present the same SVID many times, because SPIFFE agents hand out cached ones: `jti` is
//! not looked at, and a short life is what bounds the theft of one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::claims::{Claims, Terms, check_header, parse, refused};
use super::key_source::KeySource;
pub use super::key_source::Trusted;
use super::{Claimed, Evidence, IdentityError, SetupError, Verifier, Workload};
use crate::keys::Algorithm;
use crate::keys::jwk::KeyUse;
use crate::model::attestation::{Attestation, EvidenceKind};
use crate::model::spiffe::{SpiffeId, TrustDomain};
use crate::model::time::Timestamp;

/// JWT-SVID §2.1: no EdDSA, no keyed hash, no `none`.
const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::Rs256,
    Algorithm::Rs384,
    Algorithm::Rs512,
    Algorithm::Es256,
    Algorithm::Es384,
    Algorithm::Es512,
    Algorithm::Ps256,
    Algorithm::Ps384,
    Algorithm::Ps512,
];

/// Appraises JWT-SVIDs of the configured trust domains.
#[derive(Debug)]
pub struct JwtSvid {
    /// Sorted by trust domain, in step with `sources`.
    domains: BTreeMap<TrustDomain, usize>,
    sources: Vec<Arc<KeySource>>,
    terms: Terms,
}

impl JwtSvid {
    /// The longest life of an SVID that is accepted when nothing else is configured.
    pub const LONGEST_LIFE: Duration = Duration::from_secs(60 * 60);

    /// A verifier for these trust domains.
    pub fn new(trusted: impl IntoIterator<Item = Trusted>, terms: Terms) -> Result<Self, SetupError> {
        let mut domains = BTreeMap::new();
        let mut sources = Vec::new();
        for Trusted {
            trust_domain,
            bundle,
            freshness,
        } in trusted
        {
            let source = KeySource::new(trust_domain.as_str(), KeyUse::JwtSvid, bundle, freshness)?;
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
            terms,
        })
    }

    fn bundle_of(&self, domain: &TrustDomain) -> Result<&KeySource, IdentityError> {
        self.domains
            .get(domain)
            .and_then(|place| self.sources.get(*place))
            .map(Arc::as_ref)
            .ok_or_else(|| refused(format!("the trust domain `{domain}` is not configured here")))
    }
}

#[async_trait]
impl Verifier for JwtSvid {
    fn accepts(&self) -> EvidenceKind {
        EvidenceKind::JwtSvid
    }

    fn recognises(&self, claimed: &Claimed<'_>) -> bool {
        claimed.names_spiffe_id()
    }

    fn key_sources(&self) -> &[Arc<KeySource>] {
        &self.sources
    }

    async fn verify(&self, evidence: &Evidence, now: Timestamp) -> Result<Workload, IdentityError> {
        let token = parse(evidence)?;
        check_header(&token, &["alg", "kid", "typ"], &ALGORITHMS)?;
        if !matches!(token.header().typ.as_deref(), None | Some("JWT" | "JOSE")) {
            return Err(refused("its `typ` is neither JWT nor JOSE"));
        }
        let claims = Claims::of(&token)?;
        let id: SpiffeId = claims
            .text("sub")?
            .parse()
            .map_err(|_| refused("its `sub` is not a SPIFFE ID"))?;
        let key = self.bundle_of(id.trust_domain())?.check(&token).await?;
        let expires_at = self.terms.check(&claims, now)?;
        Ok(Workload::proven(Attestation {
            kind: EvidenceKind::JwtSvid,
            authority: id.trust_domain().as_str().into(),
            subject: id.as_str().into(),
            trust_domain: Some(id.trust_domain().clone()),
            claims: claims.flatten()?,
            verified_at: now,
            expires_at,
            key,
            digest: evidence.digest().into(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
    use ring::hmac;
    use serde_json::{Value, json};

    use super::*;
    use crate::identity::key_source::Origin;
    use crate::identity::testing::{
        Authority, NOW, Server, US, at, keep_fresh, pass, refuses, slow, terms, with,
    };

    const ID: &str = "spiffe://example.org/agents/support-bot";

    fn verifier(bundles: &[(&str, String)]) -> JwtSvid {
        let trusted = bundles.iter().map(|(domain, bundle)| Trusted {
            trust_domain: domain.parse().unwrap(),
            bundle: Origin::Inline(bundle.clone()),
            freshness: slow(),
        });
        JwtSvid::new(trusted, terms()).unwrap()
    }

    fn claims() -> Value {
        json!({"sub": ID, "aud": US, "exp": at(300), "iat": at(0)})
    }

    #[tokio::test]
    async fn an_svid_of_a_configured_domain_proves_the_workload() {
        let domain = Authority::new();
        let verifier = verifier(&[("example.org", domain.bundle())]);
        let evidence = domain.sign(&with(&claims(), json!({"team": "support"}))).await;
        let workload = verifier.verify(&evidence, NOW).await.unwrap();
        let attestation = workload.attestation();
        assert_eq!(attestation.kind, EvidenceKind::JwtSvid);
        assert_eq!(*attestation.authority, *"example.org");
        assert_eq!(*attestation.subject, *ID);
        assert_eq!(attestation.claims["team"], "support");
        assert_eq!(attestation.expires_at, NOW.plus(Duration::from_secs(300)));
        let source = verifier.key_sources().first().unwrap();
        assert_eq!(attestation.key, source.trusted().unwrap().pop_first());
        assert_eq!(attestation.digest.len(), 64);
    }

    #[tokio::test]
    async fn accepts_the_same_svid_again_and_each_allowed_form() {
        let domain = Authority::with(Algorithm::Es384);
        let verifier = verifier(&[("example.org", domain.bundle())]);
        let several = with(
            &claims(),
            json!({"aud": ["https://other.example.org", US], "jti": "1"}),
        );
        let fraction = with(&claims(), json!({"exp": at(300) as f64 + 0.5, "iat": null}));
        let skewed = with(&claims(), json!({"iat": at(30), "nbf": at(30)}));
        for claims in [&several, &several, &fraction, &skewed] {
            let evidence = domain.sign(claims).await;
            assert!(verifier.verify(&evidence, NOW).await.is_ok(), "{claims}");
        }
        for typ in [json!("JOSE"), Value::Null] {
            let header = with(&domain.header(), json!({ "typ": typ }));
            let evidence = domain.sign_with(&header, &claims()).await;
            assert!(verifier.verify(&evidence, NOW).await.is_ok(), "{header}");
        }
    }

    #[tokio::test]
    async fn refuses_claims_that_are_wrong_missing_or_untimely() {
        let domain = Authority::new();
        let verifier = verifier(&[("example.org", domain.bundle())]);
        for (changes, says) in [
            (json!({"exp": at(0)}), "expired"),
            (json!({"exp": at(-20), "iat": at(-300)}), "expired"),
            (json!({"exp": null}), "no `exp`"),
            (json!({"exp": "tomorrow"}), "`exp` is not a time"),
            (json!({"exp": -5}), "`exp` is not a time"),
            (json!({"nbf": at(31)}), "`nbf` is in the future"),
            (json!({"iat": at(31)}), "`iat` is in the future"),
            (json!({"iat": at(-3400)}), "lives longer"),
            (json!({"exp": at(3601), "iat": null}), "lives longer"),
            (
                json!({"aud": "https://other.example.org"}),
                "`aud` is not this broker",
            ),
            (json!({"aud": format!("{US}/")}), "`aud` is not this broker"),
            (json!({"aud": []}), "`aud` is not this broker"),
            (json!({"aud": [US, 1]}), "not a text"),
            (json!({"aud": {"a": US}}), "not a text"),
            (json!({"aud": null}), "no `aud`"),
            (json!({"sub": null}), "no `sub`"),
            (json!({"sub": "support-bot"}), "not a SPIFFE ID"),
            (json!({"sub": "spiffe://example.org"}), "not a SPIFFE ID"),
            (json!({"sub": "spiffe://example.org/a/../b"}), "not a SPIFFE ID"),
            (
                json!({"sub": "spiffe://other.example/agents/support-bot"}),
                "`other.example` is not configured",
            ),
            (json!({"a.b": "1", "a": {"b": "2"}}), "same name"),
        ] {
            let evidence = domain.sign(&with(&claims(), changes)).await;
            refuses(&verifier, &evidence, says).await;
        }
    }

    #[tokio::test]
    async fn refuses_headers_that_bring_keys_or_demands_or_name_none() {
        let domain = Authority::new();
        let verifier = verifier(&[("example.org", domain.bundle())]);
        for (changes, says) in [
            (json!({"jku": "https://evil.example/keys"}), "`jku`"),
            (json!({"x5u": "https://evil.example/chain"}), "`x5u`"),
            (json!({"x5c": ["MIIB"]}), "`x5c`"),
            (json!({"jwk": domain.jwk("jwt-svid")}), "`jwk`"),
            (json!({"crit": ["exp"]}), "crit"),
            (json!({"b64": false}), "`b64`"),
            (json!({"kid": null}), "does not name its key"),
            (json!({"kid": ""}), "does not name its key"),
            (json!({"kid": "other"}), "no key with this `kid`"),
            (json!({"typ": "at+jwt"}), "`typ`"),
            (json!({"typ": "wit+jwt"}), "`typ`"),
            (json!({"alg": "ES384"}), "no key with this `kid` and `alg`"),
            (json!({"alg": "EdDSA"}), "EdDSA is not accepted"),
            (json!({"alg": "none"}), "algorithm"),
            (json!({"alg": "HS256"}), "algorithm"),
        ] {
            let evidence = domain
                .sign_with(&with(&domain.header(), changes), &claims())
                .await;
            refuses(&verifier, &evidence, says).await;
        }
    }

    #[tokio::test]
    async fn refuses_what_is_unsigned_or_signed_with_a_public_key_as_a_secret() {
        let domain = Authority::new();
        let verifier = verifier(&[("example.org", domain.bundle())]);
        let part = |value: &Value| BASE64URL.encode(value.to_string());
        let good = domain.sign(&claims()).await;
        let (signed, _) = good.expose().rsplit_once('.').unwrap();
        let none = format!("{}.{}.", part(&json!({"alg": "none"})), part(&claims()));
        let header = with(&domain.header(), json!({"alg": "HS256"}));
        let hs256 = format!("{}.{}", part(&header), part(&claims()));
        for secret in [domain.bundle(), domain.jwk("jwt-svid").to_string()] {
            let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
            let tag = BASE64URL.encode(hmac::sign(&key, hs256.as_bytes()));
            let evidence = Evidence::bearer(&format!("{hs256}.{tag}")).unwrap();
            refuses(&verifier, &evidence, "algorithm").await;
        }
        for (text, says) in [
            (format!("{signed}."), "signature"),
            (none, "algorithm"),
            (signed.to_owned(), "malformed"),
            (good.expose().replace('.', "-"), "malformed"),
            (format!("{}.", good.expose()), "malformed"),
            ("a.b.c".to_owned(), "malformed"),
        ] {
            refuses(&verifier, &Evidence::bearer(&text).unwrap(), says).await;
        }
        let oversized = "a".repeat(Evidence::LONGEST + 1);
        assert!(matches!(
            Evidence::bearer(&oversized),
            Err(IdentityError::Malformed(_))
        ));
    }

    #[tokio::test]
    async fn refuses_a_payload_that_was_changed_after_signing() {
        let domain = Authority::new();
        let verifier = verifier(&[("example.org", domain.bundle())]);
        let evidence = domain.sign(&claims()).await;
        let parts: Vec<_> = evidence.expose().split('.').collect();
        let other = with(&claims(), json!({"sub": "spiffe://example.org/agents/admin"}));
        let payload = BASE64URL.encode(other.to_string());
        let forged = format!("{}.{payload}.{}", parts[0], parts[2]);
        refuses(&verifier, &Evidence::bearer(&forged).unwrap(), "signature").await;
    }

    #[tokio::test]
    async fn a_domain_cannot_vouch_for_another_one() {
        let (ours, theirs) = (Authority::new(), Authority::new());
        let verifier = verifier(&[
            ("example.org", ours.bundle()),
            ("partner.example", theirs.bundle()),
        ]);
        refuses(
            &verifier,
            &theirs.sign(&claims()).await,
            "`example.org` has no key",
        )
        .await;
        let header = with(&theirs.header(), json!({"kid": ours.kid()}));
        refuses(
            &verifier,
            &theirs.sign_with(&header, &claims()).await,
            "signature",
        )
        .await;
        let other = with(&claims(), json!({"sub": "spiffe://partner.example/bot"}));
        assert!(verifier.verify(&theirs.sign(&other).await, NOW).await.is_ok());
    }

    #[tokio::test]
    async fn a_key_for_another_use_or_of_eddsa_proves_nothing() {
        let domain = Authority::new();
        let x509 = json!({"keys": [domain.jwk("x509-svid")]}).to_string();
        let verifier_of = |bundle: String| verifier(&[("example.org", bundle)]);
        refuses(&verifier_of(x509), &domain.sign(&claims()).await, "no key").await;
        let edwards = Authority::with(Algorithm::EdDsa);
        let evidence = edwards.sign(&claims()).await;
        refuses(&verifier_of(edwards.bundle()), &evidence, "EdDSA is not accepted").await;
    }

    #[test]
    fn a_trust_domain_has_one_bundle() {
        let trusted = || Trusted {
            trust_domain: "example.org".parse().unwrap(),
            bundle: Origin::Inline(r#"{"keys":[]}"#.into()),
            freshness: slow(),
        };
        assert!(JwtSvid::new([trusted()], terms()).is_ok());
        assert!(JwtSvid::new([trusted(), trusted()], terms()).is_err());
    }

    #[tokio::test]
    async fn a_withdrawn_bundle_withdraws_trust() {
        let server = Server::start().await;
        let domain = Authority::new();
        server.answer("/bundle", &domain.bundle());
        let trusted = Trusted {
            trust_domain: "example.org".parse().unwrap(),
            bundle: Origin::Endpoint(super::super::fetch::Endpoint::open(server.address("/bundle"))),
            freshness: slow(),
        };
        let verifier = JwtSvid::new([trusted], terms()).unwrap();
        let _running = keep_fresh(verifier.key_sources());
        let evidence = domain.sign(&claims()).await;
        assert!(verifier.verify(&evidence, NOW).await.is_ok());
        server.answer("/bundle", r#"{"keys":[],"spiffe_sequence":2}"#);
        pass(Duration::from_secs(31)).await;
        // Evidence with an unknown key is what makes the source look again.
        let unknown = Authority::new().sign(&claims()).await;
        refuses(&verifier, &unknown, "no key").await;
        refuses(&verifier, &evidence, "no key").await;
        assert_eq!(verifier.key_sources()[0].withdrawals(), 1);
    }
}
