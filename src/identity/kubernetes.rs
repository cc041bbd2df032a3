//! Projected service-account tokens of registered Kubernetes clusters.
//!
//! Many clusters call themselves `https://kubernetes.default.svc.cluster.local`, so `iss` does not say
//! which cluster it is: the key that verifies does. Tokens are checked offline; a cluster can also be
//! asked (TokenReview), which is the only way to learn that the pod is already gone.

pub mod review;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use serde::Deserialize;

use self::review::{Reviewer, TokenReview};
use super::claims::{Claims, Terms, check_header, parse, refused};
use super::key_source::{Freshness, KeySource, Origin};
use super::{Claimed, Evidence, IdentityError, SetupError, Verifier, Workload};
use crate::keys::Algorithm;
use crate::keys::jose::Unverified;
use crate::keys::jwk::KeyUse;
use crate::model::attestation::{Attestation, EvidenceKind};
use crate::model::lease::VouchingKey;
use crate::model::time::Timestamp;

/// What kube-apiserver signs with: RSA by default, ECDSA by its key or by an external signer.
const ALGORITHMS: [Algorithm; 4] = [
    Algorithm::Rs256,
    Algorithm::Es256,
    Algorithm::Es384,
    Algorithm::Es512,
];

/// A registered cluster.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// What we call it. Match rules and records use this name, because `iss` may not be its own.
    pub name: String,
    /// Its `iss`, exactly.
    pub issuer: String,
    /// Its signing keys: pinned, or `/openid/v1/jwks` of its API server.
    pub keys: Origin,
    /// How fresh the keys are kept.
    pub freshness: Freshness,
    /// Whether to ask the cluster too.
    pub review: Option<TokenReview>,
}

/// Appraises the service-account tokens of the registered clusters.
#[derive(Debug)]
pub struct Kubernetes {
    clusters: Vec<Registered>,
    sources: Vec<Arc<KeySource>>,
    terms: Terms,
}

/// Who signed a token, and with which key.
type Signer<'a> = (&'a Registered, Option<VouchingKey>);

#[derive(Debug)]
struct Registered {
    name: String,
    issuer: String,
    keys: Arc<KeySource>,
    reviewer: Option<Reviewer>,
}

impl Kubernetes {
    /// The longest life of a token that is accepted when nothing else is configured.
    pub const LONGEST_LIFE: Duration = Duration::from_secs(24 * 60 * 60);

    /// A verifier for these clusters.
    pub fn new(clusters: impl IntoIterator<Item = Cluster>, terms: Terms) -> Result<Self, SetupError> {
        let mut registered: Vec<Registered> = Vec::new();
        for cluster in clusters {
            if registered.iter().any(|other| other.name == cluster.name) {
                return Err(SetupError(format!(
                    "the cluster `{}` is registered twice",
                    cluster.name
                )));
            }
            let reviewer =
                cluster.review.map(Reviewer::new).transpose().map_err(|e| {
                    SetupError(format!("the cluster `{}` cannot be asked: {e}", cluster.name))
                })?;
            let keys = KeySource::new(&cluster.name, KeyUse::Signature, cluster.keys, cluster.freshness)?;
            registered.push(Registered {
                name: cluster.name,
                issuer: cluster.issuer,
                keys: Arc::new(keys),
                reviewer,
            });
        }
        Ok(Self {
            sources: registered.iter().map(|c| Arc::clone(&c.keys)).collect(),
            clusters: registered,
            terms,
        })
    }

    /// The one cluster of this issuer whose key signed the token.
    async fn signer_of(&self, issuer: &str, token: &Unverified<'_>) -> Result<Signer<'_>, IdentityError> {
        let candidates: Vec<_> = self.clusters.iter().filter(|c| c.issuer == issuer).collect();
        if let Some(verdict) = Self::signer_among(&candidates, token) {
            return verdict;
        }
        join_all(candidates.iter().map(|c| c.keys.refetch())).await;
        if let Some(verdict) = Self::signer_among(&candidates, token) {
            return verdict;
        }
        let without = candidates.iter().find(|c| !c.keys.has_keys());
        Err(match without.or(candidates.first()) {
            Some(cluster) => cluster.keys.no_key(),
            None => IdentityError::Unrecognised,
        })
    }

    /// `None` when no candidate holds the key that the token names.
    fn signer_among<'a>(
        candidates: &[&'a Registered],
        token: &Unverified<'_>,
    ) -> Option<Result<Signer<'a>, IdentityError>> {
        let mut refusal = None;
        let mut signers = Vec::new();
        for candidate in candidates {
            match candidate.keys.check_held(token) {
                Some(Ok(key)) => signers.push((*candidate, key)),
                Some(Err(e)) => refusal = Some(Err(e)),
                None => {}
            }
        }
        match signers.as_slice() {
            [] => refusal,
            [signer] => Some(Ok(*signer)),
            _ => Some(Err(refused(
                "more than one registered cluster has its key, so nobody can say which one it is from",
            ))),
        }
    }
}

#[async_trait]
impl Verifier for Kubernetes {
    fn accepts(&self) -> EvidenceKind {
        EvidenceKind::Kubernetes
    }

    fn recognises(&self, claimed: &Claimed<'_>) -> bool {
        claimed
            .issuer
            .is_some_and(|issuer| self.clusters.iter().any(|c| c.issuer == issuer))
    }

    fn key_sources(&self) -> &[Arc<KeySource>] {
        &self.sources
    }

    async fn verify(&self, evidence: &Evidence, now: Timestamp) -> Result<Workload, IdentityError> {
        let token = parse(evidence)?;
        check_header(&token, &["alg", "kid", "typ"], &ALGORITHMS)?;
        if token.header().typ.is_some() && !token.header().is_typ("JWT") {
            return Err(refused("its `typ` is not JWT"));
        }
        let claims = Claims::of(&token)?;
        let (cluster, key) = self.signer_of(claims.text("iss")?, &token).await?;
        let account = Account::of(&claims)?;
        let expires_at = self.terms.check(&claims, now)?;
        let workload = Workload::proven(Attestation {
            kind: EvidenceKind::Kubernetes,
            authority: cluster.name.as_str().into(),
            subject: account.subject().into(),
            trust_domain: None,
            claims: account.claims(),
            verified_at: now,
            expires_at,
            key,
            digest: evidence.digest().into(),
        });
        match &cluster.reviewer {
            None => Ok(workload),
            Some(reviewer) => {
                reviewer
                    .ask(evidence, &account.subject(), account.uid(), &self.terms.audiences)
                    .await?;
                Ok(workload.remembered_until(now.plus(reviewer.remember())))
            }
        }
    }
}

/// The `kubernetes.io` claim.
#[derive(Debug, Deserialize)]
struct Account {
    namespace: String,
    serviceaccount: Object,
    pod: Option<Object>,
    node: Option<Object>,
}

#[derive(Debug, Deserialize)]
struct Object {
    name: String,
    uid: Option<String>,
}

impl Account {
    /// Reads the claim and checks that `sub` says the same.
    fn of(claims: &Claims) -> Result<Self, IdentityError> {
        let claim = claims.get("kubernetes.io").ok_or_else(|| {
            refused("it has no `kubernetes.io` claim; use a projected token, not one from a secret")
        })?;
        let account = Self::deserialize(claim)
            .map_err(|_| refused("its `kubernetes.io` claim does not name a service account"))?;
        let label = |text: &str| !text.is_empty() && !text.contains(':');
        if !label(&account.namespace) || !label(&account.serviceaccount.name) {
            return Err(refused(
                "its `kubernetes.io` claim does not name a service account",
            ));
        }
        if claims.text("sub")? != account.subject() {
            return Err(refused(
                "its `sub` is not the service account of its `kubernetes.io` claim",
            ));
        }
        Ok(account)
    }

    fn subject(&self) -> String {
        format!(
            "system:serviceaccount:{}:{}",
            self.namespace, self.serviceaccount.name
        )
    }

    fn uid(&self) -> Option<&str> {
        self.serviceaccount.uid.as_deref()
    }

    fn claims(&self) -> BTreeMap<String, String> {
        let mut claims = BTreeMap::from([("namespace".to_owned(), self.namespace.clone())]);
        let objects = [
            ("serviceaccount", Some(&self.serviceaccount)),
            ("pod", self.pod.as_ref()),
            ("node", self.node.as_ref()),
        ];
        for (kind, object) in objects {
            let Some(object) = object else { continue };
            claims.insert(format!("{kind}.name"), object.name.clone());
            if let Some(uid) = &object.uid {
                claims.insert(format!("{kind}.uid"), uid.clone());
            }
        }
        // The names of Kubernetes objects have 253 bytes at most; what is longer is not one.
        claims.retain(|_, value| value.len() <= 256);
        claims
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::review::REVIEWS;
    use super::*;
    use crate::identity::fetch::Endpoint;
    use crate::identity::testing::{
        Authority, NOW, Server, US, at, keep_fresh, pass, refuses, slow, terms, with,
    };

    const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
    const SUBJECT: &str = "system:serviceaccount:agents:support-bot";

    fn cluster(name: &str, keys: Origin) -> Cluster {
        Cluster {
            name: name.into(),
            issuer: ISSUER.into(),
            keys,
            freshness: slow(),
            review: None,
        }
    }

    fn pinned(name: &str, authority: &Authority) -> Cluster {
        cluster(name, Origin::Inline(authority.jwks()))
    }

    fn verifier(clusters: impl IntoIterator<Item = Cluster>) -> Kubernetes {
        Kubernetes::new(clusters, terms()).unwrap()
    }

    fn claims() -> Value {
        json!({
            "iss": ISSUER, "sub": SUBJECT, "aud": [US], "exp": at(600), "iat": at(0), "nbf": at(0), "jti": "1",
            "kubernetes.io": {
                "namespace": "agents",
                "serviceaccount": {"name": "support-bot", "uid": "sa-1"},
                "pod": {"name": "support-bot-0", "uid": "pod-1"},
                "node": {"name": "node-a", "uid": "node-1"},
                "warnafter": at(500),
            },
        })
    }

    #[tokio::test]
    async fn a_projected_token_proves_the_service_account_and_the_pod() {
        let prod = Authority::new();
        let evidence = prod.sign(&claims()).await;
        let workload = verifier([pinned("prod", &prod)])
            .verify(&evidence, NOW)
            .await
            .unwrap();
        let attestation = workload.attestation();
        assert_eq!(*attestation.authority, *"prod");
        assert_eq!(*attestation.subject, *SUBJECT);
        let expected = [
            ("namespace", "agents"),
            ("node.name", "node-a"),
            ("node.uid", "node-1"),
            ("pod.name", "support-bot-0"),
            ("pod.uid", "pod-1"),
            ("serviceaccount.name", "support-bot"),
            ("serviceaccount.uid", "sa-1"),
        ];
        assert!(
            attestation
                .claims
                .iter()
                .map(|(n, v)| (n.as_str(), v.as_str()))
                .eq(expected)
        );
    }

    #[tokio::test]
    async fn of_clusters_with_the_same_issuer_the_key_tells_which_one_it_is() {
        let (east, west, stranger) = (Authority::new(), Authority::new(), Authority::new());
        let verifier = verifier([pinned("east", &east), pinned("west", &west)]);
        for (authority, name) in [(&east, "east"), (&west, "west")] {
            let workload = verifier
                .verify(&authority.sign(&claims()).await, NOW)
                .await
                .unwrap();
            assert_eq!(*workload.attestation().authority, *name);
        }
        refuses(&verifier, &stranger.sign(&claims()).await, "no key").await;
        let header = with(&stranger.header(), json!({"kid": east.kid()}));
        refuses(
            &verifier,
            &stranger.sign_with(&header, &claims()).await,
            "signature",
        )
        .await;
    }

    #[tokio::test]
    async fn clusters_that_share_a_key_cannot_be_told_apart() {
        let both = Authority::new();
        let verifier = verifier([pinned("blue", &both), pinned("green", &both)]);
        refuses(&verifier, &both.sign(&claims()).await, "more than one").await;
    }

    #[test]
    fn a_cluster_is_registered_once() {
        let prod = Authority::new();
        assert!(Kubernetes::new([pinned("prod", &prod), pinned("prod", &prod)], terms()).is_err());
    }

    #[tokio::test]
    async fn a_rotated_key_is_found_at_the_cluster_that_has_it() {
        let (server, east, west, new) = (
            Server::start().await,
            Authority::new(),
            Authority::new(),
            Authority::new(),
        );
        server.answer("/east", &east.jwks());
        server.answer("/west", &west.jwks());
        let at_server = |name: &str| {
            let address = server.address(&format!("/{name}"));
            cluster(name, Origin::Endpoint(Endpoint::open(address)))
        };
        let verifier = verifier([at_server("east"), at_server("west")]);
        let _running = keep_fresh(verifier.key_sources());
        assert!(verifier.verify(&west.sign(&claims()).await, NOW).await.is_ok());
        server.answer("/west", &new.jwks());
        pass(Duration::from_secs(31)).await;
        let workload = verifier.verify(&new.sign(&claims()).await, NOW).await.unwrap();
        assert_eq!(*workload.attestation().authority, *"west");
    }

    #[tokio::test]
    async fn refuses_legacy_tokens_and_claims_that_contradict_each_other() {
        let prod = Authority::new();
        let verifier = verifier([pinned("prod", &prod)]);
        let account = |changes: Value| with(&claims()["kubernetes.io"], changes);
        let legacy = json!({
            "iss": ISSUER, "sub": SUBJECT,
            "kubernetes.io/serviceaccount/namespace": "agents",
            "kubernetes.io/serviceaccount/service-account.name": "support-bot",
        });
        refuses(&verifier, &prod.sign(&legacy).await, "not one from a secret").await;
        for (changes, says) in [
            (json!({"exp": null}), "no `exp`"),
            (json!({"exp": at(0)}), "expired"),
            (json!({"nbf": at(60)}), "`nbf`"),
            (json!({"aud": null}), "no `aud`"),
            (json!({"aud": [ISSUER]}), "`aud` is not this broker"),
            (json!({"kubernetes.io": null}), "no `kubernetes.io` claim"),
            (
                json!({"kubernetes.io": "agents"}),
                "does not name a service account",
            ),
            (
                json!({"kubernetes.io": account(json!({"serviceaccount": null}))}),
                "does not name",
            ),
            (
                json!({"kubernetes.io": account(json!({"namespace": ""}))}),
                "does not name",
            ),
            (
                json!({"kubernetes.io": account(json!({"namespace": "kube-system"}))}),
                "`sub` is not",
            ),
            (
                json!({"sub": "system:serviceaccount:agents:admin"}),
                "`sub` is not",
            ),
            (
                json!({"sub": "system:serviceaccount:agents:support-bot:x"}),
                "`sub` is not",
            ),
            (json!({"sub": "system:admin"}), "`sub` is not"),
            (json!({"sub": null}), "no `sub`"),
        ] {
            let evidence = prod.sign(&with(&claims(), changes)).await;
            refuses(&verifier, &evidence, says).await;
        }
        let elsewhere = with(&claims(), json!({"iss": "https://other.example.org"}));
        let error = refuses(&verifier, &prod.sign(&elsewhere).await, "no configured").await;
        assert_eq!(error, IdentityError::Unrecognised);
        let edwards = Authority::with(Algorithm::EdDsa);
        refuses(&verifier, &edwards.sign(&claims()).await, "not accepted").await;
    }

    struct Reviewed {
        server: Server,
        _token: tempfile::NamedTempFile,
        prod: Authority,
        verifier: Kubernetes,
    }

    impl Reviewed {
        async fn start() -> Self {
            let (server, prod) = (Server::start().await, Authority::new());
            let token = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(token.path(), "our-own-token").unwrap();
            let review = TokenReview {
                api_server: Endpoint {
                    token_file: Some(token.path().to_owned()),
                    ..Endpoint::open(server.address(""))
                },
                remember: Duration::from_secs(20),
            };
            let cluster = Cluster {
                review: Some(review),
                ..pinned("prod", &prod)
            };
            Self {
                verifier: verifier([cluster]),
                server,
                _token: token,
                prod,
            }
        }

        fn says(&self, status: Value) {
            self.server.answer(
                REVIEWS,
                &json!({"kind": "TokenReview", "status": status}).to_string(),
            );
        }
    }

    fn good_status() -> Value {
        json!({"authenticated": true, "audiences": [US], "user": {"username": SUBJECT, "uid": "sa-1"}})
    }

    #[tokio::test]
    async fn a_cluster_that_is_asked_has_to_agree() {
        let reviewed = Reviewed::start().await;
        let evidence = reviewed.prod.sign(&claims()).await;
        reviewed.says(good_status());
        let workload = reviewed.verifier.verify(&evidence, NOW).await.unwrap();
        assert_eq!(workload.remember_until, NOW.plus(Duration::from_secs(20)));
        assert_eq!(reviewed.server.last_bearer().as_deref(), Some("our-own-token"));
        let spec = reviewed.server.last_body()["spec"].clone();
        assert_eq!(spec, json!({"token": evidence.expose(), "audiences": [US]}));
        for (changes, says) in [
            (json!({"authenticated": false}), "does not vouch for it any more"),
            (json!({"authenticated": null}), "does not vouch for it any more"),
            (json!({"audiences": null}), "to this broker"),
            (
                json!({"audiences": ["https://other.example.org"]}),
                "to this broker",
            ),
            (
                json!({"user": {"username": "system:admin"}}),
                "another service account",
            ),
            (
                json!({"user": {"username": SUBJECT, "uid": "sa-2"}}),
                "another service account",
            ),
            (json!({"user": null}), "another service account"),
        ] {
            reviewed.says(with(&good_status(), changes));
            refuses(&reviewed.verifier, &evidence, says).await;
        }
        reviewed.server.answer(REVIEWS, "{}");
        refuses(&reviewed.verifier, &evidence, "not a TokenReview").await;
        reviewed.server.forget(REVIEWS);
        let down = refuses(&reviewed.verifier, &evidence, "404").await;
        assert!(matches!(down, IdentityError::Unavailable(_)));
    }

    #[tokio::test]
    async fn a_cluster_is_not_asked_about_what_is_refused_anyway() {
        let reviewed = Reviewed::start().await;
        reviewed.says(good_status());
        let stale = reviewed.prod.sign(&with(&claims(), json!({"exp": at(0)}))).await;
        refuses(&reviewed.verifier, &stale, "expired").await;
        refuses(
            &reviewed.verifier,
            &Authority::new().sign(&claims()).await,
            "no key",
        )
        .await;
        assert_eq!(reviewed.server.hits(REVIEWS), 0);
    }
}
