//! TokenReview (`authentication.k8s.io/v1`): asking a cluster about a token that was found good offline.
//!
//! Only the cluster knows that the pod was deleted. The answer has to name the same service account,
//! to us; `authenticated` alone would let any token of the cluster pass.

use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use crate::identity::claims::{Audiences, refused};
use crate::identity::fetch::{Address, Endpoint, FetchError, Fetcher};
use crate::identity::{Evidence, IdentityError};

pub(super) const REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

/// How to ask a cluster about a token (`authentication.k8s.io/v1`, needs `system:auth-delegator`).
#[derive(Clone, Debug)]
pub struct TokenReview {
    /// Its API server, without a path, and the file with our own token for it.
    pub api_server: Endpoint,
    /// How long the answer is relied on. A pod that is deleted is found out after this time at the latest.
    pub remember: Duration,
}

#[derive(Debug)]
pub(super) struct Reviewer {
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
    pub(super) fn new(review: TokenReview) -> Result<Self, FetchError> {
        Ok(Self {
            reviews: review.api_server.address.below(REVIEWS),
            fetcher: Fetcher::new(&review.api_server)?,
            remember: review.remember,
        })
    }

    /// How long an answer is relied on.
    pub(super) fn remember(&self) -> Duration {
        self.remember
    }

    /// Asks the cluster whether the token still stands for this service account, to us.
    pub(super) async fn ask(
        &self,
        evidence: &Evidence,
        subject: &str,
        uid: Option<&str>,
        audiences: &Audiences,
    ) -> Result<(), IdentityError> {
        let question = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": evidence.expose(), "audiences": audiences.names()},
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
        let same_uid = match (uid, status.user.uid.as_deref()) {
            (Some(claimed), Some(reviewed)) => claimed == reviewed,
            _ => true,
        };
        if !status.authenticated {
            return Err(refused("its cluster does not vouch for it any more"));
        }
        if !audiences.meet(status.audiences.iter().map(String::as_str)) {
            return Err(refused("its cluster does not vouch for it to this broker"));
        }
        if status.user.username != subject || !same_uid {
            return Err(refused("its cluster says that it is another service account"));
        }
        Ok(())
    }
}
