//! The journal, for whoever may read it.

use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;

use super::answer::Answer;
use super::extract::{Authenticated, Query};
use super::problem::Problem;
use super::wire::registry::{MOST_RECORDS, Records, WhichRecords};

/// Read the journal
///
/// Takes a permit for `dayfly:journal`. Reading is itself recorded, once in a while for each reader.
#[utoipa::path(get, path = "/v1/journal", tag = "journal", operation_id = "inspect_journal", params(WhichRecords),
    responses((status = 200, body = Records)))]
pub(super) async fn read(
    call: Authenticated,
    Query(which): Query<WhichRecords>,
) -> Result<Answer<Records>, Problem> {
    let limit = which.limit.clamp(1, MOST_RECORDS);
    let (lines, checkpoint) = call
        .broker()
        .inspect_journal(&call.caller, which.from, limit, call.request)
        .await?;
    let records = Records::new(which.from, lines, checkpoint);
    Ok(Answer(records.map_err(|error| Problem::internal(&error))?))
}

/// Read the newest checkpoint
///
/// A signed C2SP tlog-checkpoint. Takes a permit for `dayfly:journal`.
#[utoipa::path(get, path = "/v1/journal/checkpoint", tag = "journal", operation_id = "inspect_checkpoint",
    responses((status = 200, body = String, content_type = "text/plain")))]
pub(super) async fn checkpoint(call: Authenticated) -> Result<impl IntoResponse, Problem> {
    let checkpoint = call
        .broker()
        .inspect_checkpoint(&call.caller, call.request)
        .await?;
    Ok(([(CONTENT_TYPE, "text/plain; charset=utf-8")], checkpoint))
}
