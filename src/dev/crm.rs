//! A tool that trusts Dayfly's tokens: a CRM with a few customers. It verifies each token offline and
//! follows the feed of cutoffs, with the same library that any tool written in Rust can use.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use dayfly_client::Evidence;
use dayfly_client::resource::{Refusal, Settings, Verifier};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The `aud` of its tokens, as the catalogue says.
pub const AUDIENCE: &str = "https://crm.example.org";

/// The customers, by number.
const CUSTOMERS: [(&str, &str); 2] = [("42", "Harbour Books"), ("43", "Mill Street Bakery")];

/// A CRM that serves.
pub struct Crm {
    stop: CancellationToken,
    tracker: TaskTracker,
}

impl Crm {
    /// Serves on this socket, for tokens of the broker at `broker`. `evidence` is the file with the
    /// evidence of this workload, which the feed takes.
    pub async fn start(listener: TcpListener, broker: SocketAddr, evidence: PathBuf) -> anyhow::Result<Self> {
        let (stop, tracker) = (CancellationToken::new(), TaskTracker::new());
        let settings = Settings {
            evidence: Some(Evidence::file(evidence)),
            max_staleness: Duration::from_secs(30),
            ..Settings::new(format!("http://{broker}"), AUDIENCE)
        };
        let verifier = Verifier::follow(settings)?;
        tokio::time::timeout(Duration::from_secs(10), verifier.ready()).await?;
        let router = Router::new()
            .route("/customers/{id}", get(show))
            .route("/customers/{id}/comments", post(comment))
            .with_state(verifier);
        let serving = axum::serve(listener, router).with_graceful_shutdown(stop.clone().cancelled_owned());
        tracker.spawn(async move {
            if let Err(error) = serving.await {
                tracing::error!(%error, "the CRM stopped");
            }
        });
        Ok(Self { stop, tracker })
    }

    /// Comes to rest.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tracker.close();
        // A client that keeps its connection open does not keep the CRM.
        let _ = tokio::time::timeout(Duration::from_secs(2), self.tracker.wait()).await;
    }
}

async fn show(State(verifier): State<Verifier>, Path(id): Path<String>, headers: HeaderMap) -> Response {
    if let Err(refusal) = authorise(&verifier, &headers, "read", &id).await {
        return refusal;
    }
    match CUSTOMERS.iter().find(|(number, _)| *number == id) {
        Some((number, name)) => Json(json!({ "customer": number, "name": name })).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn comment(State(verifier): State<Verifier>, Path(id): Path<String>, headers: HeaderMap) -> Response {
    match authorise(&verifier, &headers, "comment", &id).await {
        Ok(()) => (
            StatusCode::CREATED,
            Json(json!({ "customer": id, "comment": "noted" })),
        )
            .into_response(),
        Err(refusal) => refusal,
    }
}

/// Whether the token permits this action on this customer.
async fn authorise(verifier: &Verifier, headers: &HeaderMap, action: &str, id: &str) -> Result<(), Response> {
    let token = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "))
        .ok_or(Refusal::NoToken);
    let resource = format!("customers/{id}");
    let judged = async { verifier.verify(token?).await?.demand(action, Some(&resource)) };
    judged.await.map_err(|refusal| {
        let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::UNAUTHORIZED);
        challenge(status, refusal.error(), &refusal.to_string())
    })
}

/// The answer of RFC 6750 §3.
fn challenge(status: StatusCode, error: Option<&str>, detail: &str) -> Response {
    let challenge = error.map_or_else(
        || "Bearer".to_owned(),
        |error| format!("Bearer error=\"{error}\""),
    );
    (
        status,
        [(header::WWW_AUTHENTICATE, challenge)],
        Json(json!({ "detail": detail })),
    )
        .into_response()
}
