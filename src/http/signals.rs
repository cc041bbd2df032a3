//! Security event tokens that transmitters push (RFC 8935). What is answered here is what that standard
//! says, and no problem, wherever it says something.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{FromRequest as _, Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tokio::sync::Semaphore;
use utoipa::ToSchema;

use crate::broker::error::BrokerError;
use crate::identity::IdentityError;
use crate::model::ids::RequestId;
use crate::model::name::StreamName;
use crate::model::secret::Secret;
use crate::signal::set::MEDIA_TYPE;
use crate::signal::{SignalError, Stream, Streams, Told};

use super::Shared;
use super::answer::Answer;
use super::extract::evidence;
use super::finish::Finishing;
use super::gate::Place;
use super::problem::{Kind, Problem};

/// Tokens of one stream that are worked on at a time.
const PLACES: usize = 16;

/// What each stream can have worked on at a time, so that no flood of one keeps the others waiting.
pub(super) struct StreamPlaces(BTreeMap<StreamName, Arc<Semaphore>>);

impl StreamPlaces {
    pub(super) fn new(streams: &Streams) -> Self {
        let each = |stream: &Arc<Stream>| (stream.name().clone(), Arc::new(Semaphore::new(PLACES)));
        Self(streams.iter().map(each).collect())
    }

    fn take(&self, stream: &Stream) -> Result<Place, Problem> {
        let places = self.0.get(stream.name()).cloned();
        let permit = places.and_then(|places| places.try_acquire_owned().ok());
        permit.map(Place::of).ok_or_else(|| {
            let detail = "as many tokens of this stream are worked on as there may be: send it again";
            Problem::new(Kind::BUSY, detail).after(1)
        })
    }
}

/// Why a token is not taken (RFC 8935 §2.3).
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SetError {
    /// `invalid_request`, `invalid_key`, `invalid_issuer`, `invalid_audience` or `access_denied`.
    err: &'static str,
    /// Why, for a person.
    description: String,
}

/// What is not taken.
pub(super) enum Refusal {
    /// As RFC 8935 says it.
    Set(Told),
    /// Everything else.
    Problem(Problem),
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl From<BrokerError> for Refusal {
    fn from(error: BrokerError) -> Self {
        let told = match &error {
            BrokerError::Signal(error) => Told::of(error),
            _ => None,
        };
        told.map_or_else(|| Self::Problem(error.into()), Self::Set)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::Set(Told { err, description }) => {
                let body = Answer(SetError { err, description });
                let language = [(header::CONTENT_LANGUAGE, "en")];
                (StatusCode::BAD_REQUEST, language, body).into_response()
            }
            Self::Problem(problem) => problem.into_response(),
        }
    }
}

/// Push a security event token
///
/// RFC 8935. The answer is 202 once all that follows is written down. A token that comes again changes
/// nothing. The bearer token is the one that the stream is configured with.
#[utoipa::path(post, path = "/v1/signals/{stream}", tag = "signals", security(("transmitter" = [])),
    params(("stream" = String, Path, description = "The name of the stream.")),
    request_body(content = String, content_type = "application/secevent+jwt"),
    responses((status = 202), (status = 400, description = "The token is not taken.", body = SetError)))]
pub(super) async fn push(
    State(shared): State<Arc<Shared>>,
    stream: Result<Path<String>, axum::extract::rejection::PathRejection>,
    request: Request,
) -> Result<StatusCode, Refusal> {
    let name = stream.ok().map(|Path(name)| name);
    let stream = admitted(&shared, name.as_deref(), request.headers())?;
    let place = shared.streams.take(&stream)?;
    let id = request.extensions().get::<RequestId>().copied();
    let compact = read(request).await?;
    let broker = Arc::clone(&shared.state.broker);
    let work = async move { broker.signal(&stream, &compact, None, id).await };
    Finishing::new(work, Some(place), &shared.state.tracker).await?;
    Ok(StatusCode::ACCEPTED)
}

/// The stream whose transmitter this is. Whether there is a stream of that name is nobody else's business.
fn admitted(shared: &Shared, name: Option<&str>, headers: &HeaderMap) -> Result<Arc<Stream>, Problem> {
    let presented = evidence(headers).map_err(BrokerError::from)?;
    let presented = Secret::new(presented.expose());
    let name = name.and_then(|name| name.parse::<StreamName>().ok());
    let stream = name.and_then(|name| shared.state.streams.get(&name));
    let stream = stream.filter(|stream| stream.admits(&presented)).cloned();
    stream.ok_or_else(|| {
        let why = "it is not the bearer token of a stream that is pushed to this address";
        BrokerError::from(IdentityError::Refused(why.into())).into()
    })
}

async fn read(request: Request) -> Result<String, Refusal> {
    let malformed = |why: &str| Refusal::from(BrokerError::from(SignalError::Malformed(why.into())));
    let media_type = request.headers().get(header::CONTENT_TYPE);
    let media_type = media_type
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let essence = media_type.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case(MEDIA_TYPE) {
        return Err(malformed(
            "the body is no `application/secevent+jwt`: say so in `Content-Type`",
        ));
    }
    let body = Bytes::from_request(request, &()).await;
    let body = body.map_err(|_| malformed("the body is too long, or broke off"))?;
    let text = String::from_utf8(body.into()).map_err(|_| malformed("the body is no text"))?;
    Ok(text.trim_ascii().to_owned())
}
