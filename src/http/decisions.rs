//! Decisions without effect.

use super::answer::Answer;
use super::extract::{Authenticated, Json};
use super::problem::Problem;
use super::wire::access::{AskDecisions, Verdicts};

/// Ask what would be permitted
///
/// Each access of the scope is decided as an issue would be decided now, and the answers are
/// recorded. Nothing is issued.
#[utoipa::path(post, path = "/v1/decisions", tag = "decisions", request_body = AskDecisions,
    responses((status = 200, body = Verdicts)))]
pub(super) async fn decide(
    call: Authenticated,
    Json(body): Json<AskDecisions>,
) -> Result<Answer<Verdicts>, Problem> {
    let verdicts = call
        .run(|broker, caller, request| async move { broker.decide(&caller, body.into(), request).await })
        .await?;
    Ok(Answer(verdicts.into()))
}
