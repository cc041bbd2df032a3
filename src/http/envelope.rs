//! What surrounds every request: its id, its span, its metrics, and the form of its problems.
//!
//! No header of a request and no query string is logged: both can hold evidence.

use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::time::Instant;
use tracing::{Instrument, field};

use crate::broker::error::BrokerError;
use crate::model::ids::RequestId;
use crate::telemetry::Answers;
use crate::trace::{self, Here};

use super::problem::{Problem, oauth};

/// The header that names the request in its answer.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Makes request ids.
pub(super) type RequestIds = Box<dyn Fn() -> Result<RequestId, BrokerError> + Send + Sync>;

/// What every request is given, and where its answer is counted.
pub(super) struct Envelope {
    ids: RequestIds,
    answers: Answers,
}

impl Envelope {
    pub(super) fn new(ids: RequestIds) -> Arc<Self> {
        let answers = Answers::default();
        Arc::new(Self { ids, answers })
    }
}

/// The outermost layer. Ids are ours: one that came with the request is not looked at.
pub(super) async fn envelope(
    State(given): State<Arc<Envelope>>,
    mut request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let method = method_label(request.method());
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let route = matched.as_ref().map_or("unmatched", MatchedPath::as_str);
    let id = (given.ids)();
    let known = id.as_ref().ok().map(field::display);
    let came = came(request.headers());
    let span = trace::begin(came.as_ref(), || {
        let (trace_id, status) = (field::Empty, field::Empty);
        tracing::info_span!("request", id = known, method, route, trace_id, status)
    });
    let traced = trace::is_heard().then(|| span.in_scope(trace::here)).flatten();
    if let Some(place) = traced.as_ref().or(came.as_ref()) {
        span.record(
            "trace_id",
            field::display(format_args!("{:032x}", place.parent.trace)),
        );
    }
    let (id, answer) = match id {
        Ok(id) => {
            request.extensions_mut().insert(id);
            (Some(id), next.run(request).instrument(span.clone()).await)
        }
        Err(error) => (None, Problem::from(error).into_response()),
    };
    let mut response = match answer.extensions().get::<Problem>() {
        Some(problem) => render(problem.clone(), route, &answer, id),
        None => answer,
    };
    let status = response.status();
    let headers = response.headers_mut();
    if let Some(value) = id.and_then(|id| HeaderValue::try_from(id.to_string()).ok()) {
        headers.insert(REQUEST_ID, value);
    }
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers
        .entry(CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    if traced.is_some() {
        span.record("status", status.as_u16());
    }
    let took = started.elapsed();
    span.in_scope(|| tracing::debug!(status = status.as_u16(), took_us = took.as_micros(), "answered"));
    given.answers.count(route, method, class(status), took);
    response
}

/// Where the request stands in its caller's trace. Two answers to that are none.
fn came(headers: &HeaderMap) -> Option<Here> {
    let mut parents = headers.get_all(trace::TRACEPARENT).iter();
    let parent = parents.next()?.to_str().ok()?.parse().ok()?;
    if parents.next().is_some() {
        return None;
    }
    let mut states = headers.get_all(trace::TRACESTATE).iter();
    let state = states.next().and_then(|state| state.to_str().ok());
    let state = state.filter(|state| states.next().is_none() && trace::may_carry(state));
    Some(Here {
        parent,
        state: state.map(Into::into),
    })
}

/// The problem with its body, and the headers that layers inside added to it, such as `allow`.
fn render(problem: Problem, route: &str, answer: &Response, id: Option<RequestId>) -> Response {
    let mut rendered = match route.starts_with(oauth::PATHS) {
        true => problem.render_for_oauth(id),
        false => problem.render(id),
    };
    for (name, value) in answer.headers() {
        if name != axum::http::header::CONTENT_LENGTH {
            rendered.headers_mut().entry(name).or_insert(value.clone());
        }
    }
    rendered
}

/// A closed set: nobody outside adds a metric by making a method up.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

fn class(status: StatusCode) -> &'static str {
    match status.as_u16() {
        100..=199 => "1xx",
        200..=299 => "2xx",
        300..=399 => "3xx",
        400..=499 => "4xx",
        _ => "5xx",
    }
}
