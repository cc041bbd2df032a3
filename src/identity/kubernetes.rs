//! Projected service-account tokens of registered Kubernetes clusters.
//!
//! Many clusters call themselves `https://kubernetes.default.svc.cluster.local`, so `iss` does not say
//! which cluster it is: the key that verifies does. Tokens are checked offline; a cluster can also be
//! asked (TokenReview), which is the only way to learn that the pod is already gone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use serde::Deserialize;
use serde_json::json;

use super::claims::{Claims, Terms, check_header, parse, refused};
use super::fetch::{Address, Endpoint, FetchError, Fetcher};
use super::key_source::{Freshness, KeySource, Origin};
use super::{Claimed, Evidence, IdentityError, SetupError, Verifier, Workload};
use crate::keys::Algorithm;
use crate::keys::jose::Unverified;
use crate::keys::jwk::KeyUse;
use crate::model::attestation::{Attestation, EvidenceKind};
use crate::model::time::Timestamp;

/// What kube-apiserver signs with: RSA by default, ECDSA by its key or by an external signer.
const ALGORITHMS: [Algorithm; 4] = [
    Algorithm::Rs256,
    Algorithm::Es256,
    Algorithm::Es384,
    Algorithm::Es512,
];
const REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

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

/// How to ask a cluster about a token (`authentication.k8s.io/v1`, needs `system:auth-delegator`).
#[derive(Clone, Debug)]
pub struct TokenReview {
    /// Its API server, without a path, and the file with our own token for it.
    pub api_server: Endpoint,
    /// How long the answer is relied on. A pod that is deleted is found out after this time at the latest.
    pub remember: Duration,
}

/// Appraises the service-account tokens of the registered clusters.
#[derive(Debug)]
pub struct Kubernetes {
    clusters: Vec<Registered>,
    sources: Vec<Arc<KeySource>>,
    terms: Terms,
}

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
    async fn signer_of(&self, issuer: &str, token: &Unverified<'_>) -> Result<&Registered, IdentityError> {
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
    ) -> Option<Result<&'a Registered, IdentityError>> {
        let mut refusal = None;
        let mut signers = Vec::new();
        for candidate in candidates {
            match candidate.keys.check_held(token) {
                Some(Ok(())) => signers.push(*candidate),
                Some(Err(e)) => refusal = Some(Err(e)),
                None => {}
            }
        }
        match signers.as_slice() {
            [] => refusal,
            [signer] => Some(Ok(signer)),
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
        let cluster = self.signer_of(claims.text("iss")?, &token).await?;
        let account = Account::of(&claims)?;
        let expires_at = self.terms.check(&claims, now)?;
        let workload = Workload::proven(Attestation {
            kind: EvidenceKind::Kubernetes,
            authority: cluster.name.clone(),
            subject: account.subject(),
            trust_domain: None,
            claims: account.claims(),
            verified_at: now,
            expires_at,
            key_id: token.header().kid.clone(),
            digest: evidence.digest(),
        });
        match &cluster.reviewer {
            None => Ok(workload),
            Some(reviewer) => {
                reviewer.ask(evidence, &account, &self.terms).await?;
                Ok(workload.remembered_until(now.plus(reviewer.remember)))
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

#[derive(Debug)]
struct Reviewer {
    reviews: Address,
    fetcher: Fetcher,
    remember: Duration,
}

#[derive(Deserialize)]
struct Review {
    status: Status,
}

#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    authenticated: bool,
    #[serde(default)]
    audiences: Vec<String>,
    #[serde(default)]
    user: User,
}

#[derive(Default, Deserialize)]
struct User {
    #[serde(default)]
    username: String,
    uid: Option<String>,
}

impl Reviewer {
    fn new(review: TokenReview) -> Result<Self, FetchError> {
        Ok(Self {
            reviews: review.api_server.address.below(REVIEWS)?,
            fetcher: Fetcher::new(&review.api_server)?,
            remember: review.remember,
        })
    }

    /// Asks the cluster whether the token still stands for this account, to us.
    async fn ask(&self, evidence: &Evidence, account: &Account, terms: &Terms) -> Result<(), IdentityError> {
        let question = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": evidence.expose(), "audiences": terms.audiences.names()},
        });
        let unavailable =
            |reason: String| IdentityError::Unavailable(format!("the cluster's review: {reason}"));
        let answer = self
            .fetcher
            .post(&self.reviews, &question)
            .await
            .map_err(|e| unavailable(e.to_string()))?;
        let Review { status } = serde_json::from_slice(&answer)
            .map_err(|_| unavailable("the answer is not a TokenReview".into()))?;
        let same_uid = match (&account.serviceaccount.uid, &status.user.uid) {
            (Some(claimed), Some(reviewed)) => claimed == reviewed,
            _ => true,
        };
        if !status.authenticated {
            return Err(refused("its cluster does not vouch for it any more"));
        }
        if !terms.audiences.meet(status.audiences.iter().map(String::as_str)) {
            return Err(refused("its cluster does not vouch for it to this broker"));
        }
        if status.user.username != account.subject() || !same_uid {
            return Err(refused("its cluster says that it is another service account"));
        }
        Ok(())
    }
}
