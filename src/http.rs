//! Floor 4, the HTTP edge. A handler extracts, calls a use-case and converts; it decides nothing.
//!
//! ```text
//! serve ─ connection limits ─ envelope (id, span, metrics, problems) ─ panic guard ─ gate (places,
//! time) ─ handler: extract (caller, id, body) → broker → wire
//! ```
//!
//! [`problem`] alone turns errors into statuses, [`wire`] alone knows the shapes of bodies, and the
//! OpenAPI description comes from the routes themselves.

mod answer;
mod decisions;
mod early;
mod envelope;
mod extract;
mod facts;
mod finish;
mod form;
mod gate;
mod journal;
mod leases;
mod oauth;
pub mod problem;
mod public;
mod reader;
mod reconciliations;
mod registry;
mod revocations;
mod routes;
mod rules;
mod serve;
mod signals;
mod status_lists;
mod tasks;
pub mod tls;
pub mod wire;

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{ContentBuilder, InfoBuilder, LicenseBuilder, OpenApi, RefOr, ResponseBuilder};

use crate::broker::Broker;
use crate::broker::complete::LONGEST_WAIT;
use crate::signal::Streams;

use envelope::{Envelope, RequestIds, envelope};
use gate::{Gate, gate, panicked};
use problem::{Kind, MEDIA_TYPE, Problem};
use public::Readiness;
use routes::{Bound, Routes, Whom, routes};
use signals::StreamPlaces;
use status_lists::StatusLists;

pub use early::early;
pub use envelope::REQUEST_ID;
pub use extract::IDEMPOTENCY_KEY;
pub use serve::{Farewell, serve};

/// Requests without evidence at a time, of each of the two kinds.
const PUBLIC_PLACES: usize = 64;

/// How many whole sets of rules may be sent at a time.
const RULES_PLACES: usize = 2;

/// The public keys of the token issuer, as a JSON Web Key Set. Called for each request for it.
pub type Jwks = Arc<dyn Fn() -> Arc<str> + Send + Sync>;

/// What the routes need.
#[derive(Clone)]
pub struct HttpState {
    /// The use-cases.
    pub broker: Arc<Broker>,
    /// Whose signals are listened to.
    pub streams: Arc<Streams>,
    /// The public keys of the token issuer.
    pub jwks: Jwks,
    /// The `iss` of tokens: an https URL, under which this server is reached.
    pub issuer: String,
    /// What `/metrics` answers.
    pub metrics: PrometheusHandle,
    /// Where use-cases that change something run to their end.
    pub tracker: TaskTracker,
    /// Ends streams and turns readiness off when Dayfly is about to stop.
    pub stop: CancellationToken,
}

/// Bounds on what callers can make Dayfly hold. Those on connections are in [`serve`].
#[derive(Clone, Debug)]
pub struct Limits {
    /// The largest body, in bytes.
    pub body: usize,
    /// Requests at a time; more are refused with 503. As many again may wait for receipts or news.
    pub concurrency: NonZeroUsize,
    /// How long a request may take, not counting the wait that it asked for.
    pub request: Duration,
    /// How long requests have to finish when Dayfly stops.
    pub drain: Duration,
}

/// What the handlers share.
pub(crate) struct Shared {
    state: HttpState,
    followers: Arc<Semaphore>,
    streams: StreamPlaces,
    readiness: Readiness,
    status_lists: StatusLists,
    /// One copy for all who ask: answers that nobody reads are held once.
    openapi: Bytes,
}

/// The routes of each listener, with their layers.
pub struct Routers {
    /// On `[server] listen`: whatever has no listener of its own.
    pub main: Router,
    /// For resource servers, where they have a listener of their own.
    pub tools: Option<Router>,
    /// For operators, where they have a listener of their own.
    pub operators: Option<Router>,
}

/// Who has a listener of their own.
#[derive(Clone, Copy, Default, Debug)]
pub struct Apart {
    /// Resource servers.
    pub tools: bool,
    /// Operators.
    pub operators: bool,
}

/// All routes with their layers.
pub fn router(state: HttpState, limits: &Limits) -> Router {
    routers(state, limits, Apart::default()).main
}

/// The routes with their layers, those of each listener. Each has places of its own.
pub fn routers(state: HttpState, limits: &Limits, apart: Apart) -> Routers {
    let places = limits.concurrency.get().min(Semaphore::MAX_PERMITS);
    let shared = Arc::new(Shared {
        followers: Arc::new(Semaphore::new(places)),
        streams: StreamPlaces::new(&state.streams),
        readiness: Readiness::default(),
        status_lists: StatusLists::default(),
        openapi: openapi().into(),
        state,
    });
    let mut main = vec![Whom::Agents];
    main.extend((!apart.tools).then_some(Whom::Tools));
    main.extend((!apart.operators).then_some(Whom::Operators));
    let of = |whom: &[Whom]| served(&shared, limits, whom);
    Routers {
        main: of(&main),
        tools: apart.tools.then(|| of(&[Whom::Tools])),
        operators: apart.operators.then(|| of(&[Whom::Operators])),
    }
}

/// The routes for these, with their layers.
fn served(shared: &Arc<Shared>, limits: &Limits, whom: &[Whom]) -> Router {
    let places = limits.concurrency.get().min(Semaphore::MAX_PERMITS);
    // Strangers have places of their own, so that they never take those of callers; so have transmitters,
    // however much they have to tell; and whoever asks
    // whether Dayfly is ready does not take those of whoever asks whether it lives.
    let public = places.min(PUBLIC_PLACES);
    let router = Bound::ALL.into_iter().fold(Routes::new(), |merged, bound| {
        let (places, time) = match bound {
            Bound::Prompt => (places, limits.request),
            Bound::Waiting => (places, limits.request + LONGEST_WAIT),
            Bound::Large => (RULES_PLACES, limits.request + LONGEST_WAIT),
            Bound::Signalling | Bound::Open | Bound::Listing | Bound::Probing => (public, limits.request),
        };
        let gate_of_these = Gate::new(Arc::new(Semaphore::new(places)), time);
        merged.merge(routes(bound, whom).layer(from_fn_with_state(gate_of_these, gate)))
    });
    let (router, _) = router.split_for_parts();
    let broker = Arc::clone(&shared.state.broker);
    let ids: RequestIds = Box::new(move || broker.request_id());
    layered(router.with_state(Arc::clone(shared)), ids, limits.body)
}

/// What surrounds all routes, whatever they are.
fn layered(router: Router, ids: RequestIds, body_bytes: usize) -> Router {
    router
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        // In one step, the outermost first: each step would be copied to the heap for each request.
        .layer((
            from_fn_with_state(Envelope::new(ids), envelope),
            CatchPanicLayer::custom(panicked),
            DefaultBodyLimit::max(body_bytes),
        ))
}

async fn not_found() -> Problem {
    Problem::new(
        Kind::NOT_FOUND,
        "there is nothing at this path: `/openapi.json` describes what there is",
    )
}

async fn method_not_allowed() -> Problem {
    Problem::new(
        Kind::METHOD_NOT_ALLOWED,
        "the `allow` header names the methods that this path takes",
    )
}

/// The description of the API, OpenAPI 3.1, made from the routes.
pub fn openapi() -> String {
    let mut api = routes::all().into_openapi();
    describe(&mut api);
    let mut text = api.to_pretty_json().unwrap_or_default();
    text.push('\n');
    text
}

/// What holds for every route.
fn describe(api: &mut OpenApi) {
    api.info = InfoBuilder::new()
        .title("Dayfly")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "Just-in-time ephemeral credentials for AI agents and other workloads.",
        ))
        .license(Some(
            LicenseBuilder::new()
                .name("Apache-2.0")
                .identifier(Some("Apache-2.0"))
                .build(),
        ))
        .build();
    let components = api.components.get_or_insert_default();
    let evidence = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some(
            "Evidence: a JWT-SVID, a Kubernetes service-account token or an OIDC token.",
        ))
        .build();
    components.add_security_scheme("evidence", SecurityScheme::Http(evidence));
    let transmitter = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some(
            "The bearer token that the stream of signals is configured with.",
        ))
        .build();
    components.add_security_scheme("transmitter", SecurityScheme::Http(transmitter));
    let schema = <problem::Details as utoipa::PartialSchema>::schema();
    components.schemas.insert("Problem".into(), schema);
    let schema = <problem::oauth::OAuthError as utoipa::PartialSchema>::schema();
    components.schemas.insert("OAuthError".into(), schema);
    api.security = Some(vec![utoipa::openapi::security::SecurityRequirement::new::<
        _,
        [&str; 0],
        &str,
    >("evidence", [])]);
    let failure = |schema: &str, media_type: &str, description: &str| {
        let reference = utoipa::openapi::Ref::from_schema_name(schema);
        let content = ContentBuilder::new().schema(Some(reference)).build();
        ResponseBuilder::new()
            .description(description)
            .content(media_type, content)
            .build()
    };
    let problem = failure("Problem", MEDIA_TYPE, "A problem (RFC 9457).");
    let oauth = failure(
        "OAuthError",
        "application/json",
        "An OAuth error (RFC 6749 §5.2).",
    );
    for (path, item) in &mut api.paths.paths {
        let problem = match path.starts_with(problem::oauth::PATHS) {
            true => &oauth,
            false => &problem,
        };
        let operations = [&mut item.get, &mut item.post, &mut item.put, &mut item.delete];
        for operation in operations.into_iter().flatten() {
            let responses = &mut operation.responses.responses;
            for response in responses.values_mut() {
                if let RefOr::T(response) = response
                    && response.description.is_empty()
                {
                    response.description = "Done.".into();
                }
            }
            responses.insert("default".into(), RefOr::T(problem.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::http::{Request, header};
    use axum::response::Response;
    use axum::routing::get;
    use tokio::sync::Notify;
    use tower::ServiceExt;

    use super::*;
    use crate::broker::error::BrokerError;
    use crate::entropy::NoEntropy;
    use crate::model::ids::RequestId;
    use crate::model::time::Timestamp;

    fn ids() -> RequestIds {
        Box::new(|| Ok(RequestId::new(Timestamp::from_secs(1_795_329_000), [7; 10])))
    }

    async fn ask(router: &Router, method: &str, path: &str) -> (Response, serde_json::Value) {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .body(Body::empty())
            .unwrap();
        let (parts, body) = router.clone().oneshot(request).await.unwrap().into_parts();
        let bytes = to_bytes(body, usize::MAX).await.unwrap();
        let json = serde_json::from_slice(&bytes).unwrap_or_default();
        (Response::from_parts(parts, Body::empty()), json)
    }

    #[tokio::test]
    async fn every_failure_is_a_problem_that_names_the_request() {
        async fn broken() {
            panic!("a bug");
        }
        let routes = Router::new()
            .route("/here", get(async || "ok"))
            .route("/broken", get(broken));
        let router = layered(routes, ids(), 100);
        for (method, path, status, slug) in [
            ("GET", "/nowhere", 404, "not-found"),
            ("POST", "/here", 405, "method-not-allowed"),
            ("GET", "/broken", 500, "internal"),
        ] {
            let (response, json) = ask(&router, method, path).await;
            assert_eq!(response.status(), status);
            assert_eq!(json["type"], format!("{}{slug}", problem::TYPES));
            assert_eq!(response.headers()[header::CONTENT_TYPE], MEDIA_TYPE);
            assert_eq!(
                json["request_id"],
                response.headers()[REQUEST_ID].to_str().unwrap()
            );
            assert_eq!(response.headers().get(header::ALLOW).is_some(), status == 405);
            assert!(!json.to_string().contains("a bug"));
        }
    }

    #[tokio::test]
    async fn every_answer_has_an_id_of_ours_and_is_kept_by_nobody() {
        let cached = ([(header::CACHE_CONTROL, "public")], "keys");
        let routes = Router::new()
            .route("/plain", get(async || "ok"))
            .route("/cached", get(move || async move { cached }));
        let router = layered(routes, ids(), 100);
        let request = Request::get("/plain")
            .header(REQUEST_ID, "theirs")
            .body(Body::empty());
        let response = router.clone().oneshot(request.unwrap()).await.unwrap();
        assert!(
            response.headers()[REQUEST_ID]
                .to_str()
                .unwrap()
                .starts_with("req_")
        );
        assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
        assert_eq!(response.headers()[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
        let (response, _) = ask(&router, "GET", "/cached").await;
        assert_eq!(response.headers()[header::CACHE_CONTROL], "public");
    }

    #[tokio::test]
    async fn without_randomness_nothing_is_served() {
        let ids: RequestIds = Box::new(|| Err(BrokerError::Entropy(NoEntropy)));
        let router = layered(Router::new().route("/", get(async || "ok")), ids, 100);
        let (response, json) = ask(&router, "GET", "/").await;
        assert_eq!(
            (response.status().as_u16(), json["status"].as_u64()),
            (503, Some(503))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_finds_a_place_at_once_or_not_at_all_and_ends_in_time() {
        let entered = Arc::new(Notify::new());
        let inside = entered.clone();
        let stuck = get(move || async move {
            inside.notify_one();
            std::future::pending::<()>().await;
        });
        let bounds = Gate::new(Arc::new(Semaphore::new(1)), Duration::from_secs(5));
        let routes = Router::new()
            .route("/", stuck)
            .layer(from_fn_with_state(bounds, gate));
        let router = layered(routes, ids(), 100);
        let first = ask(&router, "GET", "/");
        let second = async {
            entered.notified().await;
            ask(&router, "GET", "/").await
        };
        let ((first, slow), (second, busy)) = tokio::join!(first, second);
        assert_eq!(second.status(), 503);
        assert_eq!(busy["type"], "https://dayfly.dev/problems/busy");
        assert_eq!(second.headers()[header::RETRY_AFTER], "1");
        assert_eq!(first.status(), 504);
        assert_eq!(slow["type"], "https://dayfly.dev/problems/timed-out");
    }

    #[test]
    fn the_description_in_the_documentation_is_the_one_that_is_served() {
        let kept = include_str!("../docs/reference/openapi.json");
        assert!(
            kept == openapi(),
            "the API changed: `cargo run -- openapi > docs/reference/openapi.json`"
        );
    }

    #[test]
    fn the_description_says_who_may_call_and_how_each_call_can_fail() {
        let api: serde_json::Value = serde_json::from_str(&openapi()).unwrap();
        let paths = api["paths"].as_object().unwrap();
        assert_eq!(paths.len(), 41);
        let mut ids = std::collections::BTreeSet::new();
        for (path, item) in paths {
            for (method, operation) in item.as_object().unwrap() {
                assert!(
                    ids.insert(operation["operationId"].as_str().unwrap()),
                    "{method} {path}"
                );
                assert!(operation["summary"].is_string(), "{method} {path}");
                let public = operation["security"] == serde_json::json!([{}]);
                let oauth = path.starts_with(problem::oauth::PATHS);
                let open = path.starts_with("/v1/status-lists") || !(path.starts_with("/v1/") || oauth);
                assert_eq!(public, open, "{method} {path}");
                let media_type = if oauth { "application/json" } else { MEDIA_TYPE };
                let failure = &operation["responses"]["default"]["content"][media_type];
                assert!(failure.is_object(), "{method} {path}");
            }
        }
        assert_eq!(api["security"], serde_json::json!([{"evidence": []}]));
    }
}
