//! Policies, agents and tools: put in force anew, and looked at before.

use crate::broker::load::Given;

use super::answer::Answer;
use super::extract::{Authenticated, OptionalJson};
use super::problem::Problem;
use super::wire::rules::{PreviewAnswer, PreviewRules, Reload, ReloadedAnswer};

/// Put the rules in force anew
///
/// Reads policies, agents and tools from the broker's files. Takes a permit for `dayfly:reload`. When anything
/// is wrong with them, or more live leases would end than may, nothing changes. Credentials that would not be
/// issued under the new rules end.
#[utoipa::path(post, path = "/v1/rules/reload", tag = "rules", operation_id = "reload_rules", request_body = Option<Reload>,
    responses((status = 200, body = ReloadedAnswer)))]
pub(super) async fn reload(
    call: Authenticated,
    OptionalJson(body): OptionalJson<Reload>,
) -> Result<Answer<ReloadedAnswer>, Problem> {
    let loaded = call
        .run(move |broker, caller, request| async move {
            broker.reload(&caller, body.accept_blast_radius, request).await
        })
        .await?;
    Ok(Answer(loaded.into()))
}

/// Say what rules would do to what is out
///
/// Those in the body or, without any, those on the broker's disk. Nothing changes. Takes a permit for
/// `dayfly:reload`.
#[utoipa::path(post, path = "/v1/rules/preview", tag = "rules", operation_id = "preview_rules", request_body = Option<PreviewRules>,
    responses((status = 200, body = PreviewAnswer)))]
pub(super) async fn preview(
    call: Authenticated,
    OptionalJson(body): OptionalJson<PreviewRules>,
) -> Result<Answer<PreviewAnswer>, Problem> {
    let given = body
        .files
        .map(|files| files.into_iter().map(Given::from).collect());
    let preview = call
        .run(
            move |broker, caller, request| async move { broker.preview_rules(&caller, given, request).await },
        )
        .await?;
    Ok(Answer(preview.into()))
}
