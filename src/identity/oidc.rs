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
        let key = keys.check(&token).await?;
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
            authority: self.issuer.as_str().into(),
            subject: subject.into(),
            trust_domain: None,
            claims,
            verified_at: now,
            expires_at,
            key,
            digest: evidence.digest().into(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::identity::fetch::Endpoint;
    use crate::identity::testing::{Authority, NOW, Server, US, at, keep_fresh, refuses, slow, terms, with};

    const ISSUER: &str = "https://ci.example.org";
    const METADATA: &str = "/.well-known/openid-configuration";

    fn pinned(authority: &Authority) -> Issuer {
        Issuer::new(ISSUER, Origin::Inline(authority.jwks()), terms())
    }

    fn claims() -> Value {
        json!({
            "iss": ISSUER, "sub": "repo:example/bot:ref:main", "aud": US, "exp": at(300), "iat": at(0),
            "repository": "example/bot",
        })
    }

    #[tokio::test]
    async fn a_token_of_the_issuer_proves_its_subject() {
        for algorithm in [Algorithm::Es256, Algorithm::EdDsa] {
            let ci = Authority::with(algorithm);
            let verifier = Oidc::new(pinned(&ci)).unwrap();
            let header = with(&ci.header(), json!({"x5t": "abc", "typ": "jwt"}));
            for evidence in [ci.sign(&claims()).await, ci.sign_with(&header, &claims()).await] {
                let workload = verifier.verify(&evidence, NOW).await.unwrap();
                assert_eq!(*workload.attestation().authority, *ISSUER);
                assert_eq!(*workload.attestation().subject, *"repo:example/bot:ref:main");
                assert_eq!(workload.attestation().claims["repository"], "example/bot");
                assert_eq!(workload.attestation().trust_domain, None);
            }
        }
    }

    #[tokio::test]
    async fn refuses_what_the_issuer_did_not_say_to_us_now() {
        let ci = Authority::new();
        let verifier = Oidc::new(pinned(&ci)).unwrap();
        for (changes, says) in [
            (json!({"iss": format!("{ISSUER}/")}), "another issuer"),
            (json!({"iss": "https://CI.example.org"}), "another issuer"),
            (json!({"iss": null}), "no `iss`"),
            (json!({"sub": null}), "no `sub`"),
            (json!({"sub": ""}), "no `sub`"),
            (json!({"sub": "a".repeat(2049)}), "longer than 2048"),
            (json!({"aud": ["https://other.example.org"]}), "`aud`"),
            (json!({"exp": at(-1)}), "expired"),
            (json!({"exp": null}), "no `exp`"),
            (json!({"nbf": at(45)}), "`nbf`"),
            (json!({"iat": at(45)}), "`iat`"),
            (json!({"exp": at(7200)}), "lives longer"),
        ] {
            let evidence = ci.sign(&with(&claims(), changes)).await;
            refuses(&verifier, &evidence, says).await;
        }
        refuses(&verifier, &Authority::new().sign(&claims()).await, "no key").await;
    }

    #[tokio::test]
    async fn what_a_token_may_be_is_configured_and_not_said_by_the_token() {
        let ci = Authority::new();
        let verifier = Oidc::new(pinned(&ci)).unwrap();
        for (changes, says) in [
            (json!({"typ": "at+jwt"}), "`typ`"),
            (json!({"jku": "https://evil.example/keys"}), "`jku`"),
            (json!({"jwk": ci.jwk("sig")}), "`jwk`"),
            (json!({"kid": null}), "does not name its key"),
            (json!({"alg": "none"}), "algorithm"),
        ] {
            let evidence = ci.sign_with(&with(&ci.header(), changes), &claims()).await;
            refuses(&verifier, &evidence, says).await;
        }
        let narrow = Issuer {
            algorithms: vec![Algorithm::Rs256],
            ..pinned(&ci)
        };
        let narrow = Oidc::new(narrow).unwrap();
        refuses(&narrow, &ci.sign(&claims()).await, "ES256 is not accepted").await;
        let access_tokens = Issuer {
            types: vec!["at+jwt".into()],
            ..pinned(&ci)
        };
        let access_tokens = Oidc::new(access_tokens).unwrap();
        let header = with(&ci.header(), json!({"typ": "at+jwt"}));
        let evidence = ci.sign_with(&header, &claims()).await;
        assert!(access_tokens.verify(&evidence, NOW).await.is_ok());
        refuses(&access_tokens, &ci.sign(&claims()).await, "`typ`").await;
    }

    #[tokio::test]
    async fn required_claims_have_exactly_their_values() {
        let ci = Authority::new();
        let required = BTreeMap::from([("repository".to_owned(), "example/bot".to_owned())]);
        let issuer = Issuer {
            required,
            ..pinned(&ci)
        };
        let verifier = Oidc::new(issuer).unwrap();
        assert!(verifier.verify(&ci.sign(&claims()).await, NOW).await.is_ok());
        for other in [json!("example/bot2"), json!(["example/bot", "x"]), Value::Null] {
            let evidence = ci.sign(&with(&claims(), json!({"repository": other}))).await;
            refuses(&verifier, &evidence, "`repository`").await;
        }
    }

    #[tokio::test]
    async fn keys_are_discovered_from_the_issuers_own_document_and_host() {
        let (server, ci) = (Server::start().await, Authority::new());
        server.answer("/keys", &ci.jwks());
        let issuer = server.url("");
        let says = |issuer: &str, keys: &str| {
            server.answer(METADATA, &json!({"issuer": issuer, "jwks_uri": keys}).to_string());
        };
        let outcome = async || {
            let mut configured = Issuer::new(&issuer, Origin::discovered(&issuer).unwrap(), terms());
            configured.freshness = slow();
            let verifier = Oidc::new(configured).unwrap();
            let _running = keep_fresh(verifier.key_sources());
            let evidence = ci.sign(&with(&claims(), json!({"iss": issuer}))).await;
            verifier.verify(&evidence, NOW).await
        };
        says(&issuer, &server.url("/keys"));
        assert_eq!(*outcome().await.unwrap().attestation().authority, *issuer);
        assert_eq!(server.hits("/keys"), 1);
        let elsewhere = Server::start().await;
        elsewhere.answer("/keys", &ci.jwks());
        for (named, keys) in [
            ("https://ci.example.org", server.url("/keys")),
            (&format!("{issuer}/"), server.url("/keys")),
            (&issuer, elsewhere.url("/keys")),
            (&issuer, "file:///keys".to_owned()),
        ] {
            says(named, &keys);
            assert!(
                matches!(outcome().await, Err(IdentityError::Unavailable(_))),
                "{named} {keys}"
            );
        }
        assert_eq!(server.hits("/keys"), 1);
        assert_eq!(elsewhere.hits("/keys"), 0);
    }

    #[tokio::test]
    async fn keys_at_a_configured_address_need_no_discovery() {
        let (server, ci) = (Server::start().await, Authority::new());
        server.answer("/keys", &ci.jwks());
        let origin = Origin::Endpoint(Endpoint::open(server.address("/keys")));
        let verifier = Oidc::new(Issuer::new(ISSUER, origin, terms())).unwrap();
        let _running = keep_fresh(verifier.key_sources());
        assert!(verifier.verify(&ci.sign(&claims()).await, NOW).await.is_ok());
        assert_eq!(server.hits(METADATA), 0);
    }
}
