//! What bounds the work: how many requests at a time, and how long each may take.
//!
//! A request that finds no place is refused at once: whoever waits in a queue here has given up by
//! the time that it is served.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::problem::{Kind, Problem};

/// Bounds one group of routes.
#[derive(Clone, Debug)]
pub(super) struct Gate {
    places: Arc<Semaphore>,
    time: Duration,
}

impl Gate {
    pub(super) fn new(places: Arc<Semaphore>, time: Duration) -> Self {
        Self { places, time }
    }
}

/// The place that a request takes up. Travels with it to whatever it sets going, so that work goes on
/// taking the place up when its client is gone.
#[derive(Clone, Debug)]
pub(super) struct Place {
    _permit: Arc<OwnedSemaphorePermit>,
}

impl Place {
    pub(super) fn of(permit: OwnedSemaphorePermit) -> Self {
        Self {
            _permit: Arc::new(permit),
        }
    }
}

/// Lets a request in if there is a place for it, and answers in time. What the request set going on
/// the tracker goes on, and keeps the place for as long.
pub(super) async fn gate(
    State(gate): State<Gate>,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let Ok(permit) = gate.places.try_acquire_owned() else {
        return Err(Problem::new(
            Kind::BUSY,
            "as many requests are being served as there may be: try again",
        )
        .after(1));
    };
    let place = Place::of(permit);
    request.extensions_mut().insert(place.clone());
    match tokio::time::timeout(gate.time, next.run(request)).await {
        Ok(response) => Ok(response),
        Err(_) => Err(Problem::new(
            Kind::TIMED_OUT,
            "whether it was done is unknown: look, or repeat it with the same idempotency key",
        )),
    }
}

/// The answer to a request whose handler panicked.
pub(super) fn panicked(_: Box<dyn Any + Send + 'static>) -> Response {
    tracing::error!("a handler panicked");
    Problem::new(
        Kind::INTERNAL,
        "this is a fault of Dayfly's: report it with the request id",
    )
    .into_response()
}
