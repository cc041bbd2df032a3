//! Facts: stated, taken back, listed; and what is decided anew because of them.

use crate::model::fact::Subject;
use crate::model::name::InvalidName;

use super::answer::Answer;
use super::extract::{Authenticated, Json, OptionalJson, Query, Segments};
use super::problem::{Kind, Problem};
use super::wire::facts::{
    FactAnswer, FactPath, FactsAnswer, RechecksAnswer, StateFact, StatedAnswer, TakeBackFact, WhichFacts,
};

/// State a fact
///
/// Takes a permit for `dayfly:fact` about the subject. From the answer on nothing is given out on what was
/// known before; credentials that are out are decided anew, and end where they would not be issued now.
#[utoipa::path(put, path = "/v1/facts/{kind}/{id}/{name}", tag = "facts", operation_id = "state_fact", request_body = StateFact,
    params(("kind" = String, Path, description = "`agent`, `tool`, `user`, `task` or `environment`"),
        ("id" = String, Path), ("name" = String, Path)),
    responses((status = 200, body = StatedAnswer)))]
pub(super) async fn state(
    call: Authenticated,
    Segments(path): Segments<FactPath>,
    Json(body): Json<StateFact>,
) -> Result<Answer<StatedAnswer>, Problem> {
    let order = path.state(body).map_err(|invalid| unknown(&invalid))?;
    let stated = call
        .run(|broker, caller, request| async move { broker.state_fact(&caller, order, request).await })
        .await?;
    Ok(Answer(stated.into()))
}

/// Take a fact back
///
/// Takes a permit for `dayfly:fact` about the subject. Taking back what is not so is no error.
#[utoipa::path(delete, path = "/v1/facts/{kind}/{id}/{name}", tag = "facts", operation_id = "take_back_fact", request_body = Option<TakeBackFact>,
    params(("kind" = String, Path), ("id" = String, Path), ("name" = String, Path)),
    responses((status = 200, body = StatedAnswer)))]
pub(super) async fn take_back(
    call: Authenticated,
    Segments(path): Segments<FactPath>,
    OptionalJson(body): OptionalJson<TakeBackFact>,
) -> Result<Answer<StatedAnswer>, Problem> {
    let order = path.take_back(body).map_err(|invalid| unknown(&invalid))?;
    let stated = call
        .run(|broker, caller, request| async move { broker.state_fact(&caller, order, request).await })
        .await?;
    Ok(Answer(stated.into()))
}

/// List facts
///
/// Those in force now. Takes a permit for `dayfly:inspect`.
#[utoipa::path(get, path = "/v1/facts", tag = "facts", operation_id = "list_facts", params(WhichFacts),
    responses((status = 200, body = FactsAnswer)))]
pub(super) async fn list(
    call: Authenticated,
    Query(which): Query<WhichFacts>,
) -> Result<Answer<FactsAnswer>, Problem> {
    let about: Option<Subject> = match which.about {
        Some(text) => Some(text.parse().map_err(|invalid| unknown(&invalid))?),
        None => None,
    };
    let broker = call.broker();
    let facts = broker
        .inspect_facts(&call.caller, about.as_ref(), call.request)
        .await?;
    let facts = facts.into_iter().map(FactAnswer::from).collect();
    Ok(Answer(FactsAnswer { facts }))
}

/// List rechecks
///
/// What is being decided anew or ended, and how far that has come. Takes a permit for `dayfly:inspect`.
#[utoipa::path(get, path = "/v1/rechecks", tag = "facts", operation_id = "list_rechecks",
    responses((status = 200, body = RechecksAnswer)))]
pub(super) async fn rechecks(call: Authenticated) -> Result<Answer<RechecksAnswer>, Problem> {
    let rechecks = call.broker().inspect_rechecks(&call.caller, call.request).await?;
    Ok(Answer(rechecks.into()))
}

fn unknown(invalid: &InvalidName) -> Problem {
    Problem::new(Kind::BAD_PARAMETER, invalid.to_string())
}
