//! What needs no evidence: keys, metadata, health, metrics, and the description of the API.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::IntoResponse;
use serde::Serialize;
use tokio::sync::Mutex;
use tokio::time::Instant;
use utoipa::ToSchema;

use crate::broker::Broker;
use crate::broker::error::chain;

use super::Shared;
use super::answer::Answer;
use super::problem::{Kind, Problem};
use super::status_lists::all_of;

/// Keys change rarely, and a retiring one stays long enough for this.
const KEYS_FRESH: &str = "public, max-age=300";
/// How long an answer of readiness holds, and how long one waits for somebody else's look.
const READY_FRESH: Duration = Duration::from_secs(1);
/// How long the ledger and the journal may take to show that they work.
const READY_WITHIN: Duration = Duration::from_secs(2);

/// The keys that tokens are signed with
///
/// A JSON Web Key Set (RFC 7517 §5).
#[utoipa::path(get, path = "/.well-known/jwks.json", tag = "public", security(()),
    responses((status = 200, content_type = "application/json", body = Object)))]
pub(super) async fn jwks(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    keys(&(shared.state.jwks)())
}

pub(super) fn keys(jwks: &str) -> impl IntoResponse + use<> {
    let headers = [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, KEYS_FRESH)];
    (headers, jwks.to_owned())
}

/// What there is to know about the token issuer (RFC 8414 §2). Only what exists is named: credentials are
/// not got by OAuth, so no grant is supported and no token endpoint is given.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Metadata {
    /// The `iss` of tokens.
    issuer: String,
    /// Where the keys are.
    jwks_uri: String,
    /// Required by RFC 8414, and empty.
    response_types_supported: [String; 0],
    /// Empty: without it, two grants would be taken for supported.
    grant_types_supported: [String; 0],
    /// Where resource servers ask whether a token may be relied on (RFC 7662).
    introspection_endpoint: String,
    /// `Bearer`: callers prove themselves by evidence.
    introspection_endpoint_auth_methods_supported: [&'static str; 1],
    /// What signed answers are signed with (RFC 9701 §7).
    introspection_signing_alg_values_supported: BTreeSet<String>,
    /// Where tokens are ended before their expiry (RFC 7009).
    revocation_endpoint: String,
    /// The same. Without it, passwords would be taken for supported.
    revocation_endpoint_auth_methods_supported: [&'static str; 1],
    /// Where the addresses of all status lists are (Token Status List §9.1).
    #[serde(skip_serializing_if = "Option::is_none")]
    status_list_aggregation_endpoint: Option<String>,
}

impl Metadata {
    fn new(issuer: &str, jwks: &str, lists: bool) -> Self {
        let at = |path: &str| format!("{}{path}", issuer.trim_end_matches('/'));
        Self {
            issuer: issuer.to_owned(),
            jwks_uri: at("/.well-known/jwks.json"),
            response_types_supported: [],
            grant_types_supported: [],
            introspection_endpoint: at("/oauth2/introspect"),
            introspection_endpoint_auth_methods_supported: ["Bearer"],
            introspection_signing_alg_values_supported: algorithms(jwks),
            revocation_endpoint: at("/oauth2/revoke"),
            revocation_endpoint_auth_methods_supported: ["Bearer"],
            status_list_aggregation_endpoint: lists.then(|| all_of(issuer)),
        }
    }
}

/// What these keys sign with.
fn algorithms(jwks: &str) -> BTreeSet<String> {
    #[derive(serde::Deserialize)]
    struct Keys {
        keys: Vec<Key>,
    }
    #[derive(serde::Deserialize)]
    struct Key {
        alg: Option<String>,
    }
    let keys = serde_json::from_str(jwks).map_or_else(|_| Vec::new(), |Keys { keys }| keys);
    keys.into_iter().filter_map(|key| key.alg).collect()
}

/// The token issuer's metadata
///
/// Authorization server metadata (RFC 8414).
#[utoipa::path(get, path = "/.well-known/oauth-authorization-server", tag = "public", security(()),
    responses((status = 200, body = Metadata)))]
pub(super) async fn metadata(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    let lists = shared.state.broker.status_list_ttl().is_some();
    let metadata = Metadata::new(&shared.state.issuer, &(shared.state.jwks)(), lists);
    ([(CACHE_CONTROL, KEYS_FRESH)], Answer(metadata))
}

/// What those need to know who trust tokens of Dayfly's own, such as an AWS account (OpenID Connect
/// Discovery §3). Nobody can sign in here, so no endpoint is given.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Discovery {
    /// The `iss` of tokens.
    issuer: String,
    /// Where the keys are.
    jwks_uri: String,
    /// Required.
    response_types_supported: [&'static str; 1],
    /// Required.
    subject_types_supported: [&'static str; 1],
    /// What the keys sign with.
    id_token_signing_alg_values_supported: BTreeSet<String>,
}

impl Discovery {
    fn new(issuer: &str, jwks: &str) -> Self {
        let Metadata { issuer, jwks_uri, .. } = Metadata::new(issuer, jwks, false);
        Self {
            issuer,
            jwks_uri,
            response_types_supported: ["id_token"],
            subject_types_supported: ["public"],
            id_token_signing_alg_values_supported: algorithms(jwks),
        }
    }
}

/// The token issuer's metadata, for OpenID Connect
///
/// Provider metadata (OpenID Connect Discovery 1.0), for those who trust Dayfly's own tokens.
#[utoipa::path(get, path = "/.well-known/openid-configuration", tag = "public", security(()),
    responses((status = 200, body = Discovery)))]
pub(super) async fn discovery(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    discovered(&shared.state.issuer, &(shared.state.jwks)())
}

pub(super) fn discovered(issuer: &str, jwks: &str) -> impl IntoResponse + use<> {
    let discovery = Discovery::new(issuer, jwks);
    ([(CACHE_CONTROL, KEYS_FRESH)], Answer(discovery))
}

/// How Dayfly is.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Health {
    /// `live`, `ready` or `quarantine`.
    status: &'static str,
}

/// Whether the process lives
#[utoipa::path(get, path = "/healthz", tag = "public", security(()), responses((status = 200, body = Health)))]
pub(super) async fn healthz() -> Answer<Health> {
    Answer(Health { status: "live" })
}

/// Whether requests can be served
///
/// The ledger answers and the journal can be written. While Dayfly shuts down it is not ready. In
/// `quarantine` the ledger was lost: credentials are ended and none are given out.
#[utoipa::path(get, path = "/readyz", tag = "public", security(()), responses((status = 200, body = Health)))]
pub(super) async fn readyz(State(shared): State<Arc<Shared>>) -> Result<Answer<Health>, Problem> {
    let stopping = shared.state.stop.is_cancelled();
    if stopping || !shared.readiness.of(probe(&shared.state.broker)).await {
        let detail = "Dayfly cannot issue now: its log says why";
        return Err(Problem::new(Kind::UNAVAILABLE, detail).after(1));
    }
    // Still to be reached: there is much to end, and the feed to be followed.
    let status = match shared.state.broker.quarantine() {
        None => "ready",
        Some(_) => "quarantine",
    };
    Ok(Answer(Health { status }))
}

/// Looks at what issuing needs.
async fn probe(broker: &Broker) -> bool {
    match tokio::time::timeout(READY_WITHIN, broker.ready()).await {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            tracing::warn!(error = %chain(&error), "not ready");
            false
        }
        Err(_) => {
            tracing::warn!("not ready: the ledger or the journal does not answer");
            false
        }
    }
}

/// The last look at what issuing needs. Kept for a moment and taken by one at a time, so that probes
/// cost nothing however many come.
#[derive(Default)]
pub(super) struct Readiness {
    last: std::sync::Mutex<Option<(Instant, bool)>>,
    /// Held by whoever looks.
    looking: Mutex<()>,
}

impl Readiness {
    /// What the last look said, if it still holds, or what this one says. Whoever finds somebody else
    /// looking waits, but not for ever: what does not answer for so long is not ready.
    async fn of(&self, look: impl Future<Output = bool>) -> bool {
        if let Some(ready) = self.fresh() {
            return ready;
        }
        let Ok(_looking) = tokio::time::timeout(READY_FRESH, self.looking.lock()).await else {
            return false;
        };
        if let Some(ready) = self.fresh() {
            return ready;
        }
        let ready = look.await;
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), ready));
        ready
    }

    fn fresh(&self) -> Option<bool> {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.filter(|(at, _)| at.elapsed() < READY_FRESH)
            .map(|(_, ready)| ready)
    }
}

/// Metrics
///
/// In the text format of Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "public", security(()),
    responses((status = 200, body = String, content_type = "text/plain")))]
pub(super) async fn metrics(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    let headers = [(CONTENT_TYPE, "text/plain; version=0.0.4")];
    (headers, shared.state.metrics.render())
}

/// This description
#[utoipa::path(get, path = "/openapi.json", tag = "public", security(()),
    responses((status = 200, body = Object)))]
pub(super) async fn openapi(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], shared.openapi.clone())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;

    use super::*;

    #[test]
    fn discovery_says_what_the_keys_sign_with() {
        let jwks = r#"{"keys": [{"alg": "ES256"}, {"alg": "ES256"}, {"alg": "EdDSA"}]}"#;
        let json = serde_json::to_value(Discovery::new("https://dayfly.example", jwks)).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "issuer": "https://dayfly.example",
                "jwks_uri": "https://dayfly.example/.well-known/jwks.json",
                "response_types_supported": ["id_token"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["ES256", "EdDSA"],
            })
        );
    }

    #[test]
    fn metadata_names_only_what_exists() {
        let jwks = r#"{"keys": [{"alg": "ES256"}]}"#;
        let json = serde_json::to_value(Metadata::new("https://dayfly.example/", jwks, true)).unwrap();
        assert_eq!(json["issuer"], "https://dayfly.example/", "exactly as in tokens");
        assert_eq!(json["jwks_uri"], "https://dayfly.example/.well-known/jwks.json");
        assert_eq!(json["grant_types_supported"], serde_json::json!([]));
        assert!(json.get("token_endpoint").is_none());
        assert_eq!(
            json["introspection_endpoint"],
            "https://dayfly.example/oauth2/introspect"
        );
        assert_eq!(
            json["revocation_endpoint"],
            "https://dayfly.example/oauth2/revoke"
        );
        assert_eq!(
            json["status_list_aggregation_endpoint"],
            "https://dayfly.example/v1/status-lists"
        );
        let without = Metadata::new("https://dayfly.example/", jwks, false);
        assert!(
            serde_json::to_value(without)
                .unwrap()
                .get("status_list_aggregation_endpoint")
                .is_none()
        );
        for who in ["introspection", "revocation"] {
            let methods = &json[format!("{who}_endpoint_auth_methods_supported")];
            assert_eq!(methods, &serde_json::json!(["Bearer"]));
        }
        assert_eq!(
            json["introspection_signing_alg_values_supported"],
            serde_json::json!(["ES256"])
        );
    }

    #[tokio::test(start_paused = true)]
    async fn one_looks_and_the_others_take_its_answer() {
        let (readiness, looks) = (Readiness::default(), AtomicUsize::new(0));
        let look = || async {
            looks.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(READY_FRESH / 2).await;
            true
        };
        let all = join_all((0..50).map(|_| readiness.of(look())));
        assert!(all.await.into_iter().all(|ready| ready));
        assert_eq!(looks.load(Ordering::Relaxed), 1);
        tokio::time::advance(READY_FRESH).await;
        assert!(
            !readiness.of(async { false }).await,
            "an answer does not hold for long"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_long_behind_a_look_that_does_not_end() {
        let readiness = Readiness::default();
        let mut stuck = Box::pin(readiness.of(std::future::pending()));
        assert!(futures_util::poll!(stuck.as_mut()).is_pending());
        let began = Instant::now();
        let others = join_all((0..50).map(|_| readiness.of(async { true })));
        assert!(others.await.into_iter().all(|ready| !ready));
        assert_eq!(began.elapsed(), READY_FRESH);
        drop(stuck);
        assert!(
            readiness.of(async { true }).await,
            "whoever comes next looks anew"
        );
    }
}
