//! What OAuth says about tokens: introspection (RFC 7662, signed by RFC 9701) and revocation (RFC 7009).
//!
//! Callers prove themselves by evidence, as everywhere. What fails is worded as OAuth does
//! ([`super::problem::oauth`]).

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::model::name::AgentName;
use crate::model::token::AccessToken;

use super::answer::Answer;
use super::extract::Authenticated;
use super::form::TokenForm;
use super::problem::Problem;

/// The `typ` of a signed answer, and its media type (RFC 9701 §5).
const SIGNED_TYP: &str = "token-introspection+jwt";
const SIGNED: &str = "application/token-introspection+jwt";

/// The form of both requests.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it describes the form; `TokenForm` reads it")]
pub(super) struct TokenRequest {
    /// The token, 8 KiB at most.
    token: String,
    /// Is not needed, and whatever it says is taken.
    token_type_hint: Option<String>,
}

/// What there is to say about a token (RFC 7662 §2.2).
#[derive(Serialize, ToSchema)]
pub(super) struct Introspection {
    /// Whether it may be relied on at this instant. If not, nothing else is said.
    active: bool,
    /// `Bearer`.
    #[serde(skip_serializing_if = "Option::is_none")]
    token_type: Option<&'static str>,
    /// The claims as they stand in the token; `exp` is sooner where the lease ends sooner.
    #[serde(flatten)]
    #[schema(value_type = Object)]
    claims: Option<AccessToken>,
}

impl Introspection {
    fn of(claims: Option<AccessToken>) -> Self {
        // One that is bound to a key takes a proof, which is the tool's to ask for.
        let bearer = claims.as_ref().is_some_and(|claims| claims.cnf.is_none());
        Self {
            active: claims.is_some(),
            token_type: bearer.then_some("Bearer"),
            claims,
        }
    }
}

/// The claims of a signed answer (RFC 9701 §5). No `sub` and no `exp`, so that it is never taken for a token.
#[derive(Serialize)]
struct SignedIntrospection<'a> {
    iss: &'a str,
    /// The resource server that asked, by its name here.
    aud: &'a AgentName,
    iat: u64,
    token_introspection: &'a Introspection,
}

/// Ask whether a token may be relied on now
///
/// Takes a permit for `dayfly:introspect`. Of tokens for tools that the caller's registry entry does not name in
/// `serves`, and of whatever is no live token of this broker, it is said that they are not `active`, and nothing
/// else. With `Accept: application/token-introspection+jwt` the answer is signed.
#[utoipa::path(post, path = "/oauth2/introspect", tag = "oauth",
    request_body(content = TokenRequest, content_type = "application/x-www-form-urlencoded"),
    responses((status = 200, content((Introspection = "application/json"), (String = "application/token-introspection+jwt")))))]
pub(super) async fn introspect(
    call: Authenticated,
    WantsSigned(signed): WantsSigned,
    TokenForm(token): TokenForm,
) -> Result<Response, Problem> {
    let broker = call.broker();
    let answer = Introspection::of(broker.introspect(&call.caller, &token, call.request).await?);
    if !signed {
        return Ok(Answer(answer).into_response());
    }
    let claims = SignedIntrospection {
        iss: broker.issuer().url(),
        aud: &call.caller.agent().name,
        iat: broker.now().as_secs(),
        token_introspection: &answer,
    };
    let signed = broker.issuer().sign(SIGNED_TYP, &claims).await;
    let signed =
        signed.map_err(|error| Problem::unavailable(&error, "the answer cannot be signed: try again", 1))?;
    Ok(([(header::CONTENT_TYPE, SIGNED)], signed).into_response())
}

/// Whether the caller asks for a signed answer.
pub(super) struct WantsSigned(bool);

impl<S: Send + Sync> FromRequestParts<S> for WantsSigned {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self(accepts_signed(&parts.headers)))
    }
}

/// Whether its `Accept` says so.
fn accepts_signed(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter();
    accepted
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|range| {
            let mut parts = range.split(';').map(str::trim);
            let named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(SIGNED));
            // A weight of nothing is a refusal (RFC 9110 §12.4.2).
            named && !parts.any(|part| part.strip_prefix("q=").is_some_and(|q| q.parse() == Ok(0.0)))
        })
}

/// End a token before its expiry
///
/// The caller's own, or another agent's by a permit for `dayfly:revoke`. Its lease ends, and with it every token of
/// the lease. What is no live token of this broker needs no end: the answer is 200 then too.
#[utoipa::path(post, path = "/oauth2/revoke", tag = "oauth", operation_id = "revoke_token",
    request_body(content = TokenRequest, content_type = "application/x-www-form-urlencoded"),
    responses((status = 200)))]
pub(super) async fn revoke(call: Authenticated, TokenForm(token): TokenForm) -> Result<StatusCode, Problem> {
    call.run(|broker, caller, request| async move { broker.revoke_token(&caller, &token, request).await })
        .await?;
    Ok(StatusCode::OK)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_active_says_nothing_else() {
        let answer = serde_json::to_value(Introspection::of(None)).unwrap();
        assert_eq!(answer, json!({"active": false}));
    }

    #[test]
    fn a_signed_answer_is_for_those_who_ask_for_one() {
        let accepts = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, value.parse().unwrap());
            accepts_signed(&headers)
        };
        assert!(accepts("application/token-introspection+jwt"));
        assert!(accepts(
            "application/json;q=0.5, Application/Token-Introspection+JWT; q=0.9"
        ));
        for other in [
            "*/*",
            "application/json",
            "application/token-introspection+jwt;q=0",
            "application/token-introspection+jwt; q=0.0",
            "application/token-introspection+jwtx",
        ] {
            assert!(!accepts(other), "{other}");
        }
        assert!(!accepts_signed(&HeaderMap::new()));
    }
}
