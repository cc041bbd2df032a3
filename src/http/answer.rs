//! What handlers answer: JSON, written in one piece.

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::problem::Problem;

/// Room that most answers fit into, in bytes. A body that has to grow leaves what it held behind in
/// memory, and an issue's answer holds a credential.
const ROOM: usize = 2048;

/// A JSON body.
pub(super) struct Answer<T>(pub(super) T);

impl<T: Serialize> IntoResponse for Answer<T> {
    fn into_response(self) -> Response {
        let mut body = Vec::with_capacity(ROOM);
        match serde_json::to_writer(&mut body, &self.0) {
            Ok(()) => {
                let json = HeaderValue::from_static("application/json");
                ([(header::CONTENT_TYPE, json)], body).into_response()
            }
            Err(error) => Problem::internal(&error).into_response(),
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;

    use super::*;

    #[tokio::test]
    async fn an_answer_is_json_and_says_so() {
        let response = Answer(serde_json::json!({"a": "é"})).into_response();
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json");
        let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        assert_eq!(body, "{\"a\":\"é\"}");
    }

    #[tokio::test]
    async fn what_cannot_be_written_is_a_fault_of_ours() {
        let keys_are_text = std::collections::BTreeMap::from([((), ())]);
        assert_eq!(Answer(keys_are_text).into_response().status(), 500);
    }
}
