//! What handlers take: a proven caller, a parsed id, a strictly parsed body or query.
//!
//! The caller comes first in every handler, so that nobody learns anything from how a body or an id
//! is refused without having proven who it is.

use std::future::Future;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;

use crate::broker::Broker;
use crate::broker::error::BrokerError;
use crate::identity::{Evidence, IdentityError};
use crate::ledger::IdempotencyKey;
use crate::model::ids::{LeaseId, RequestId, TaskId};
use crate::model::name::{AgentName, ToolName};
use crate::registry::Caller;

use super::Shared;
use super::finish::Finishing;
use super::gate::Place;
use super::problem::{Kind, Problem};
use super::tls::Presented;

/// The header that makes a write repeatable.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// A caller that has proven who it is, with all that its use-case needs.
pub(super) struct Authenticated {
    /// Who calls.
    pub(super) caller: Caller,
    /// Names the request.
    pub(super) request: RequestId,
    /// What the routes share.
    pub(super) shared: Arc<Shared>,
    /// What the request takes up.
    pub(super) place: Option<Place>,
}

impl Authenticated {
    /// The broker.
    pub(super) fn broker(&self) -> &Arc<Broker> {
        &self.shared.state.broker
    }

    /// Runs a use-case that changes something to its end, even if the client goes away meanwhile:
    /// between a step of the ledger and its record nobody may drop it.
    pub(super) async fn run<T, F>(
        self,
        use_case: impl FnOnce(Arc<Broker>, Caller, RequestId) -> F,
    ) -> Result<T, Problem>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, BrokerError>> + Send + 'static,
    {
        let work = use_case(self.broker().clone(), self.caller, self.request);
        Ok(Finishing::new(work, self.place, &self.shared.state.tracker).await?)
    }
}

impl FromRequestParts<Arc<Shared>> for Authenticated {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self, Problem> {
        let request = match parts.extensions.get::<RequestId>() {
            Some(request) => *request,
            None => shared.state.broker.request_id()?,
        };
        let presented = parts.extensions.get::<Presented>();
        let broker = &shared.state.broker;
        let bearer = match evidence(&parts.headers) {
            Err(IdentityError::Missing) if presented.is_some() && !has_evidence(&parts.headers) => None,
            other => Some(other.map_err(|error| broker.turn_away(error))?),
        };
        let connection = match presented {
            Some(presented) => {
                let appraised = broker.appraise(presented.evidence(), request).await;
                Some(presented.judged(appraised)?)
            }
            None => None,
        };
        let caller = match (&bearer, connection) {
            (Some(bearer), Some(connection)) => broker.attest_on(bearer, &connection, request).await?,
            (Some(bearer), None) => broker.attest(bearer, request).await?,
            (None, Some(connection)) => broker.admit(connection, request).await?,
            (None, None) => return Err(broker.turn_away(IdentityError::Missing).into()),
        };
        Ok(Self {
            caller,
            request,
            shared: shared.clone(),
            place: parts.extensions.get().cloned(),
        })
    }
}

/// Whether there is an `Authorization` header, be it empty.
fn has_evidence(headers: &HeaderMap) -> bool {
    headers.contains_key(header::AUTHORIZATION)
}

/// The evidence in the one `Authorization: Bearer` header (RFC 6750 §2.1).
pub(super) fn evidence(headers: &HeaderMap) -> Result<Evidence, IdentityError> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next().ok_or(IdentityError::Missing)?;
    if values.next().is_some() {
        return Err(IdentityError::Malformed(
            "there is more than one `Authorization` header".into(),
        ));
    }
    let unreadable = || IdentityError::Malformed("send it as `Authorization: Bearer …`".into());
    let text = value.to_str().map_err(|_| unreadable())?;
    let (scheme, token) = text.split_once(' ').ok_or_else(unreadable)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(unreadable());
    }
    Evidence::bearer(token.trim())
}

/// A name or an id in a path. One that cannot be parsed is as unknown as one that does not exist.
pub(super) struct Id<T>(pub(super) T);

/// What can stand in a path.
pub(super) trait Named: DeserializeOwned + Send {
    /// The answer when there is none of that name.
    fn unknown() -> Problem;
}

impl Named for TaskId {
    fn unknown() -> Problem {
        BrokerError::NoTask.into()
    }
}

impl Named for LeaseId {
    fn unknown() -> Problem {
        BrokerError::NoLease.into()
    }
}

impl Named for AgentName {
    fn unknown() -> Problem {
        BrokerError::NoAgent.into()
    }
}

impl Named for ToolName {
    fn unknown() -> Problem {
        BrokerError::NoTool.into()
    }
}

impl<T: Named, S: Send + Sync> FromRequestParts<S> for Id<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let id = Path::<T>::from_request_parts(parts, state).await;
        id.map(|Path(id)| Self(id)).map_err(|_| T::unknown())
    }
}

/// The names and ids in a path that has several.
pub(super) struct Segments<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Segments<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::<T>::from_request_parts(parts, state).await;
        // Routing found the segments; what is left to be wrong is their encoding.
        let unreadable = |_| Problem::new(Kind::BAD_PARAMETER, "the path is not UTF-8, percent-encoded");
        path.map(|Path(segments)| Self(segments)).map_err(unreadable)
    }
}

/// A query string. Unknown and repeated names are refused.
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let query = axum::extract::Query::<T>::try_from_uri(&parts.uri);
        query.map(|query| Self(query.0)).map_err(|rejection| {
            let detail = std::error::Error::source(&rejection)
                .map_or_else(|| rejection.body_text(), |e| e.to_string());
            Problem::new(Kind::BAD_PARAMETER, shortened(&detail))
        })
    }
}

/// A JSON body: of the right media type, whole, without unknown fields.
pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        if !is_media_type(request.headers(), "application/json") {
            return Err(Problem::new(
                Kind::MEDIA_TYPE,
                "send JSON and say so: `Content-Type: application/json`",
            ));
        }
        parse(&read(request, state).await?).map(Self)
    }
}

/// A JSON body that may be left out, headers and all.
pub(super) struct OptionalJson<T>(pub(super) T);

impl<T: DeserializeOwned + Default, S: Send + Sync> FromRequest<S> for OptionalJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        if request.headers().contains_key(header::CONTENT_TYPE) {
            let Json(body) = Json::<Option<T>>::from_request(request, state).await?;
            return Ok(Self(body.unwrap_or_default()));
        }
        match read(request, state).await? {
            bytes if bytes.is_empty() => Ok(Self(T::default())),
            _ => Err(Problem::new(
                Kind::MEDIA_TYPE,
                "a body came without a media type: `Content-Type: application/json`",
            )),
        }
    }
}

/// The body as it came.
pub(super) async fn read<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, Problem> {
    Bytes::from_request(request, state)
        .await
        .map_err(|rejection: BytesRejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => Problem::new(Kind::TOO_LARGE, "send less at a time"),
            _ => Problem::new(Kind::MALFORMED, "the body broke off: send it again"),
        })
}

/// Whether the body says that it is of this media type. Its parameters do not count.
pub(super) fn is_media_type(headers: &HeaderMap, wanted: &str) -> bool {
    let value = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    value.is_some_and(|value| {
        let essence = value.split(';').next().unwrap_or_default().trim();
        essence.eq_ignore_ascii_case(wanted)
    })
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    // serde would take an array for an object, its fields in order.
    if bytes.trim_ascii_start().starts_with(b"[") {
        return Err(Problem::field("", "send a JSON object"));
    }
    serde_json::from_slice(bytes).or_else(|_| pointed(bytes))
}

/// The same for what is refused, to say where it is wrong: keeping track of that takes a copy of each member's name.
fn pointed<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let body = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let pointer = pointer(error.path());
        let detail = shortened(&error.inner().to_string());
        if error.inner().is_data() {
            Problem::field(pointer, detail)
        } else {
            Problem::new(Kind::MALFORMED, format!("the body is not JSON: {detail}"))
        }
    })?;
    json.end().map_err(|_| {
        Problem::new(
            Kind::MALFORMED,
            "something follows the JSON value: send one value",
        )
    })?;
    Ok(body)
}

/// The JSON pointer (RFC 6901) of a path.
fn pointer(path: &serde_path_to_error::Path) -> String {
    let mut pointer = String::new();
    for segment in path.iter() {
        let token = match segment {
            Segment::Seq { index } => index.to_string(),
            Segment::Map { key } => key.replace('~', "~0").replace('/', "~1"),
            Segment::Enum { variant } => variant.clone(),
            Segment::Unknown => continue,
        };
        pointer.push('/');
        pointer.push_str(&token);
    }
    shortened(&pointer)
}

/// Without the place in the text, which the pointer says better, and no longer than a message should be.
fn shortened(message: &str) -> String {
    let message = message
        .rsplit_once(" at line ")
        .map_or(message, |(message, _)| message);
    message.chars().take(300).collect()
}

/// The idempotency key that came, if one came, with the path it came to.
pub(super) struct ChosenKey(Option<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for ChosenKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let mut values = parts.headers.get_all(IDEMPOTENCY_KEY).iter();
        let (first, second) = (values.next(), values.next());
        let printable =
            |text: &&str| matches!(text.len(), 1..=128) && text.bytes().all(|b| (0x20..0x7f).contains(&b));
        let key = match (first, second) {
            (None, _) => None,
            (Some(value), None) => Some(value.to_str().ok().filter(printable)),
            (Some(_), Some(_)) => Some(None),
        };
        match key {
            Some(None) => Err(Problem::new(
                Kind::BAD_PARAMETER,
                "an `Idempotency-Key` is one text of 1 to 128 printable ASCII characters",
            )),
            key => {
                let path = parts.uri.path();
                Ok(Self(key.flatten().map(|key| (key.to_owned(), path.to_owned()))))
            }
        }
    }
}

impl ChosenKey {
    /// The key of this caller's write. The content is the path and the body as it was understood, so
    /// that neither the order of fields nor white space makes it another.
    pub(super) fn bind(
        self,
        caller: &Caller,
        body: &impl Serialize,
    ) -> Result<Option<IdempotencyKey>, Problem> {
        let Some((key, path)) = self.0 else {
            return Ok(None);
        };
        let mut content = path.into_bytes();
        content.push(b'\n');
        serde_json::to_writer(&mut content, body).map_err(|error| Problem::internal(&error))?;
        Ok(Some(IdempotencyKey::new(&caller.agent().name, &key, &content)))
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::extract::DefaultBodyLimit;
    use axum::response::IntoResponse;
    use serde::Deserialize;
    use tower::Layer;

    use super::*;
    use crate::model::access::Scope;

    #[derive(Debug, Default, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Order {
        #[serde(default)]
        scope: Option<Scope>,
        #[serde(default)]
        count: u8,
    }

    fn request(media_type: Option<&str>, body: &str) -> Request {
        let mut builder = Request::builder().method("POST").uri("/x");
        if let Some(media_type) = media_type {
            builder = builder.header(header::CONTENT_TYPE, media_type);
        }
        builder.body(Body::from(body.to_owned())).unwrap()
    }

    async fn refusal(request: Request) -> serde_json::Value {
        let problem = Json::<Order>::from_request(request, &()).await.err().unwrap();
        let body = axum::body::to_bytes(problem.render(None).into_body(), usize::MAX).await;
        serde_json::from_slice(&body.unwrap()).unwrap()
    }

    const JSON: Option<&str> = Some("application/json");

    #[tokio::test]
    async fn a_wrong_field_is_pointed_at() {
        for (body, pointer) in [
            (r#"{"count":"x"}"#, "/count"),
            (r#"{"count":256}"#, "/count"),
            (r#"{"colour":1}"#, "/colour"),
            (r#"{"a/b~c":1}"#, "/a~1b~0c"),
            (
                r#"{"scope":[{"tool":"crm","actions":["read"]},{"tool":"CRM","actions":["read"]}]}"#,
                "/scope/1/tool",
            ),
            (
                r#"{"scope":[{"tool":"crm","actions":["read","  "]}]}"#,
                "/scope/0/actions/1",
            ),
            (
                r#"{"scope":[{"tool":"crm","actions":["read"],"acitons":1}]}"#,
                "/scope/0/acitons",
            ),
            (r#"{"scope":[]}"#, "/scope"),
            (r#"{"count":1,"count":2}"#, ""),
            ("[]", ""),
        ] {
            let json = refusal(request(JSON, body)).await;
            assert_eq!(
                (&json["status"], &json["pointer"]),
                (&422.into(), &pointer.into()),
                "{body}: {json}"
            );
            assert!(!json["detail"].as_str().unwrap().contains(" at line "), "{json}");
        }
    }

    #[tokio::test]
    async fn what_is_not_json_is_refused_before_its_fields() {
        for body in [
            "",
            "{",
            r#"{"count":1}x"#,
            r#"{"count":1}{}"#,
            "{'count':1}",
            "\u{feff}{}",
        ] {
            let json = refusal(request(JSON, body)).await;
            assert_eq!(
                json["type"], "https://dayfly.dev/problems/malformed",
                "{body}: {json}"
            );
        }
        for media_type in [
            None,
            Some("text/plain"),
            Some("application/jsonx"),
            Some("application/x-www-form-urlencoded"),
        ] {
            assert_eq!(
                refusal(request(media_type, "{}")).await["status"],
                415,
                "{media_type:?}"
            );
        }
        let good = request(Some("Application/JSON; charset=utf-8"), r#"{"count":3}"#);
        assert_eq!(
            Json::<Order>::from_request(good, &()).await.ok().unwrap().0.count,
            3
        );
    }

    #[tokio::test]
    async fn a_long_message_is_cut() {
        let body = format!(r#"{{"count":"{}"}}"#, "a".repeat(5000));
        let json = refusal(request(JSON, &body)).await;
        assert!(json["detail"].as_str().unwrap().len() <= 300);
    }

    #[tokio::test]
    async fn a_body_may_be_left_out_only_with_its_media_type() {
        let absent = OptionalJson::<Order>::from_request(request(None, ""), &()).await;
        assert!(absent.ok().unwrap().0.scope.is_none());
        let unnamed = OptionalJson::<Order>::from_request(request(None, "{}"), &()).await;
        assert_eq!(unnamed.err().unwrap().status(), 415);
        let empty = OptionalJson::<Order>::from_request(request(JSON, ""), &()).await;
        assert_eq!(empty.err().unwrap().status(), 400);
    }

    #[tokio::test]
    async fn a_body_is_read_no_further_than_its_limit() {
        let handler = axum::handler::HandlerWithoutStateExt::into_service(|order: Json<Order>| async move {
            order.0.count.to_string().into_response()
        });
        let service = DefaultBodyLimit::max(16).layer(handler);
        let answer = |body: &str| tower::ServiceExt::oneshot(service.clone(), request(JSON, body));
        assert_eq!(answer(r#"{"count":1}"#).await.unwrap().status(), 200);
        assert_eq!(
            answer(&format!(r#"{{"count":1}}{}"#, " ".repeat(20)))
                .await
                .unwrap()
                .status(),
            413
        );
    }

    #[test]
    fn evidence_comes_in_one_bearer_header() {
        let read = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, value.parse().unwrap());
            }
            evidence(&headers)
        };
        assert_eq!(read(&["Bearer abc"]).unwrap().expose(), "abc");
        assert_eq!(read(&["bearer abc"]).unwrap().expose(), "abc");
        assert_eq!(read(&[]).unwrap_err(), IdentityError::Missing);
        assert_eq!(read(&["Bearer "]).unwrap_err(), IdentityError::Missing);
        for bad in [
            &["Basic abc"][..],
            &["abc"],
            &["Bearerabc"],
            &["Bearer a", "Bearer b"],
        ] {
            assert!(matches!(read(bad), Err(IdentityError::Malformed(_))), "{bad:?}");
        }
    }

    #[tokio::test]
    async fn a_key_is_short_and_printable() {
        let read = async |keys: &[&[u8]]| {
            let mut request = Request::new(Body::empty());
            for key in keys {
                request
                    .headers_mut()
                    .append(IDEMPOTENCY_KEY, (*key).try_into().unwrap());
            }
            ChosenKey::from_request_parts(&mut request.into_parts().0, &())
                .await
                .map(|key| key.0.map(|(key, _)| key))
        };
        assert_eq!(read(&[]).await.unwrap(), None);
        assert_eq!(read(&[b"order 7"]).await.unwrap().as_deref(), Some("order 7"));
        assert!(read(&[&[b'a'; 128]]).await.is_ok());
        for bad in [
            &[&b""[..]][..],
            &[&[b'a'; 129]],
            &["é".as_bytes()],
            &[b"a\tb"],
            &[b"a", b"a"],
        ] {
            assert_eq!(read(bad).await.err().unwrap().status(), 400, "{bad:?}");
        }
    }

    #[tokio::test]
    async fn an_unreadable_id_is_as_unknown_as_any() {
        let app = axum::Router::<()>::new().route("/{id}", axum::routing::get(|_: Id<TaskId>| async {}));
        let get = |path: &str| Request::get(path).body(Body::empty()).unwrap();
        for path in ["/x", "/%ff", "/tsk_", "/lse_01kb0000000000000000000000"] {
            let answer = tower::ServiceExt::oneshot(app.clone(), get(path)).await.unwrap();
            assert_eq!(answer.status(), 404, "{path}");
        }
    }
}
