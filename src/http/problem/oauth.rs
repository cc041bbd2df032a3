//! Problems as OAuth words them (RFC 6749 §5.2): at its endpoints clients know these and no others.
//!
//! What a program needs of the problem is still there: its type is the `error_uri`.

use axum::http::{StatusCode, header};
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use super::Problem;
use crate::model::ids::{DecisionId, RequestId};

/// Where the paths of OAuth begin.
pub(in crate::http) const PATHS: &str = "/oauth2/";

/// Why an OAuth endpoint did not do what was asked (RFC 6749 §5.2).
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct OAuthError {
    /// `invalid_request`, `invalid_client`, `access_denied`, `temporarily_unavailable` or `server_error`.
    error: &'static str,
    /// What happened this time, and what to do next.
    error_description: String,
    /// A stable URI that names the kind of problem, as elsewhere in this API.
    #[schema(example = "https://dayfly.dev/problems/denied")]
    error_uri: String,
    /// Names the request in logs, traces and records.
    #[schema(value_type = Option<String>)]
    request_id: Option<RequestId>,
    /// The record of the denial.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    decision: Option<DecisionId>,
}

impl Problem {
    /// The same as an OAuth error. Whatever is wrong with the request is status 400 there.
    pub(in crate::http) fn render_for_oauth(self, request: Option<RequestId>) -> Response {
        let status = self.status();
        let (error, status) = match status.as_u16() {
            401 => ("invalid_client", status),
            403 => ("access_denied", status),
            405 => ("invalid_request", status),
            400..=499 => ("invalid_request", StatusCode::BAD_REQUEST),
            503 | 504 => ("temporarily_unavailable", status),
            _ => ("server_error", status),
        };
        let answer = OAuthError {
            error,
            error_description: description(&self.details.detail),
            error_uri: self.details.kind.clone(),
            request_id: request,
            decision: self.details.decision,
        };
        // Headers as of any problem; only the body is another.
        let mut response = self.render(request);
        *response.status_mut() = status;
        let json = axum::http::HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        *response.body_mut() = serde_json::to_vec(&answer).unwrap_or_default().into();
        response
    }
}

/// The characters that a description may have: ASCII without `"` and `\`.
fn description(text: &str) -> String {
    let mut description = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '"' => description.push('\''),
            '\\' => description.push('/'),
            '…' => description.push_str("..."),
            ' '..='~' => description.push(character),
            _ => description.push('?'),
        }
    }
    description
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;

    use super::super::Kind;
    use super::*;
    use crate::broker::error::BrokerError;
    use crate::identity::IdentityError;
    use crate::ledger::LedgerError;
    use crate::model::time::Timestamp;

    async fn sent(problem: Problem) -> (Response, serde_json::Value) {
        let request = RequestId::new(Timestamp::from_secs(1_795_329_000), [7; 10]);
        let (parts, body) = problem.render_for_oauth(Some(request)).into_parts();
        let bytes = to_bytes(body, usize::MAX).await.unwrap();
        let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(json["request_id"], request.to_string());
        assert_eq!(parts.headers[header::CONTENT_TYPE], "application/json");
        (Response::from_parts(parts, axum::body::Body::empty()), json)
    }

    #[tokio::test]
    async fn every_kind_is_one_of_five_errors() {
        for kind in Kind::ALL {
            let (response, json) = sent(Problem::new(*kind, "why")).await;
            let error = json["error"].as_str().unwrap();
            let expected: &[u16] = match error {
                "invalid_request" => &[400, 405],
                "invalid_client" => &[401],
                "access_denied" => &[403],
                "temporarily_unavailable" => &[503, 504],
                "server_error" => &[500, 501, 502],
                _ => &[],
            };
            assert!(expected.contains(&response.status().as_u16()), "{kind:?}: {json}");
            assert!(json["error_uri"].as_str().unwrap().ends_with(kind.slug));
        }
    }

    #[tokio::test]
    async fn the_challenge_and_the_time_to_come_again_stay() {
        let (response, json) = sent(BrokerError::from(IdentityError::Missing).into()).await;
        assert_eq!(response.headers()[header::WWW_AUTHENTICATE], "Bearer");
        assert_eq!(
            (response.status().as_u16(), &json["error"]),
            (401, &"invalid_client".into())
        );
        let down = BrokerError::Ledger(LedgerError::Unavailable("10.0.0.7 is away".into()));
        let (response, json) = sent(down.into()).await;
        assert_eq!(response.headers()[header::RETRY_AFTER], "1");
        assert!(!json.to_string().contains("10.0.0.7"), "{json}");
    }

    #[test]
    fn a_description_has_no_character_that_it_may_not_have() {
        let text = description("send `Bearer …`: \"a\\b\"\n\u{e9}\u{7f}");
        assert_eq!(text, "send `Bearer ...`: 'a/b'???");
    }
}
