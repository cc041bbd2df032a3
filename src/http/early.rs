//! The time in which Dayfly starts. It proves itself to its providers, and some of them have to fetch its
//! keys to believe it: an AWS account that is to let it in, a receiver that is to obey it. So the keys are
//! served before there is a broker. Whoever wants anything else waits for it, for as long as a request may
//! take, as it would in the system's queue.

use std::future::ready;
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use axum::routing::get;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tower::ServiceExt as _;

use super::problem::{Kind, Problem, oauth};
use super::public::{discovered, keys};
use super::{Jwks, Limits};

/// The routes until all of them are there, which comes through the channel.
pub fn early(issuer: String, jwks: Jwks, limits: &Limits, open: watch::Receiver<Option<Router>>) -> Router {
    let set = Arc::clone(&jwks);
    let places = limits.concurrency.get().min(Semaphore::MAX_PERMITS);
    let places = Arc::new(Semaphore::new(places));
    let patience = limits.request;
    let wait = move |request: Request| {
        let (open, places) = (open.clone(), Arc::clone(&places));
        async move {
            let Ok(place) = places.try_acquire() else {
                return not_yet(request.uri().path());
            };
            let path = request.uri().path().to_owned();
            let opened = timeout(patience, opened(open)).await;
            // For those who wait here only: the routes have gates of their own.
            drop(place);
            match opened {
                Ok(Some(router)) => pass(router, request).await,
                _ => not_yet(&path),
            }
        }
    };
    Router::new()
        .route("/.well-known/jwks.json", get(move || ready(keys(&set()))))
        .route(
            "/.well-known/openid-configuration",
            get(move || ready(discovered(&issuer, &jwks()))),
        )
        .fallback(wait)
}

/// `None` when the start failed.
async fn opened(mut open: watch::Receiver<Option<Router>>) -> Option<Router> {
    open.wait_for(Option::is_some).await.ok()?.clone()
}

async fn pass(router: Router, request: Request) -> Response {
    match router.oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

fn not_yet(path: &str) -> Response {
    let problem = Problem::new(Kind::UNAVAILABLE, "Dayfly has not started yet").after(1);
    match path.starts_with(oauth::PATHS) {
        true => problem.render_for_oauth(None),
        false => problem.render(None),
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;
    use std::time::Duration;

    use axum::body::{Body, to_bytes};
    use axum::http::StatusCode;
    use serde_json::Value;

    use super::*;

    fn starting() -> (watch::Sender<Option<Router>>, Router) {
        let limits = Limits {
            body: 100,
            concurrency: NonZeroUsize::MIN,
            request: Duration::from_secs(10),
            drain: Duration::from_secs(1),
        };
        let (open, opened) = watch::channel(None);
        let jwks: Jwks = Arc::new(|| r#"{"keys": [{"alg": "ES256"}]}"#.into());
        let router = early("https://dayfly.example".into(), jwks, &limits, opened);
        (open, router)
    }

    async fn ask(router: &Router, path: &str) -> (StatusCode, Value) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        let text = || Value::String(String::from_utf8_lossy(&body).into_owned());
        (status, serde_json::from_slice(&body).unwrap_or_else(|_| text()))
    }

    #[tokio::test]
    async fn a_request_that_takes_long_keeps_nobody_out_once_all_is_there() {
        let (open, router) = starting();
        let all = Router::new()
            .route("/long", get(std::future::pending::<()>))
            .route("/short", get(|| ready("done")));
        open.send_replace(Some(all));
        let long = ask(&router, "/long");
        let short = ask(&router, "/short");
        tokio::select! {
            biased;
            _ = long => panic!("it never ends"),
            (status, _) = short => assert_eq!(status, StatusCode::OK),
        }
    }

    #[tokio::test]
    async fn keys_and_metadata_are_there_at_once() {
        let (_open, router) = starting();
        let (status, keys) = ask(&router, "/.well-known/jwks.json").await;
        assert_eq!(
            (status, &keys["keys"][0]["alg"]),
            (StatusCode::OK, &"ES256".into())
        );
        let (status, metadata) = ask(&router, "/.well-known/openid-configuration").await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(metadata["issuer"], "https://dayfly.example");
        assert_eq!(
            metadata["jwks_uri"],
            "https://dayfly.example/.well-known/jwks.json"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn who_wants_more_waits_for_it() {
        let (open, router) = starting();
        let routes = Router::new().route("/here", get(async || "there"));
        let opens = async {
            tokio::time::sleep(Duration::from_secs(9)).await;
            open.send_replace(Some(routes));
        };
        let (answer, ()) = tokio::join!(ask(&router, "/here"), opens);
        assert_eq!(answer, (StatusCode::OK, "there".into()));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever_and_not_too_many_do() {
        let (open, router) = starting();
        let (first, second) = tokio::join!(ask(&router, "/healthz"), ask(&router, "/healthz"));
        for (status, problem) in [first, second] {
            assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(problem["retry_after"], 1);
            assert_eq!(problem["detail"], "Dayfly has not started yet");
        }
        drop(open);
        assert_eq!(ask(&router, "/healthz").await.0, StatusCode::SERVICE_UNAVAILABLE);
    }
}
