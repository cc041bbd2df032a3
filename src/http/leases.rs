//! Credentials and their leases: issued, renewed, listed, ended.

use axum::http::StatusCode;
use axum::response::IntoResponse;

use crate::model::ids::{LeaseId, TaskId};

use super::answer::Answer;
use super::extract::{Authenticated, ChosenKey, Id, Json, OptionalJson, Query};
use super::problem::Problem;
use super::wire::credentials::{AskCredential, IssuedAnswer, RenewLease};
use super::wire::leases::{AbandonLease, LeaseAnswer, Leases, RevokeLease, WhichLeases};

/// Ask for a credential
///
/// Decided by policy at this moment. The credential is shown once and kept nowhere: repeating the
/// request with the same `Idempotency-Key` ends the first one and gives another.
#[utoipa::path(post, path = "/v1/tasks/{id}/credentials", tag = "credentials", operation_id = "issue_credential", request_body = AskCredential,
    params(("id" = String, Path),
        ("idempotency-key" = Option<String>, Header, description = "1 to 128 printable ASCII characters")),
    responses((status = 201, body = IssuedAnswer)))]
pub(super) async fn issue(
    call: Authenticated,
    Id(task): Id<TaskId>,
    key: ChosenKey,
    Json(body): Json<AskCredential>,
) -> Result<impl IntoResponse, Problem> {
    let key = key.bind(&call.caller, &body)?;
    let order = body
        .order(task, key)
        .map_err(|invalid| Problem::field("", invalid.to_string()))?;
    let issued = call
        .run(|broker, caller, request| async move { broker.issue(caller, order, request).await })
        .await?;
    Ok((StatusCode::CREATED, Answer(IssuedAnswer::from(issued))))
}

/// Ask for a longer life
///
/// Decided anew, with today's policies. The answer is a new credential with the same lease; the
/// credential of before runs to its own expiry.
#[utoipa::path(post, path = "/v1/leases/{id}/renew", tag = "credentials", operation_id = "renew_lease", request_body = Option<RenewLease>,
    params(("id" = String, Path)), responses((status = 200, body = IssuedAnswer)))]
pub(super) async fn renew(
    call: Authenticated,
    Id(id): Id<LeaseId>,
    OptionalJson(body): OptionalJson<RenewLease>,
) -> Result<Answer<IssuedAnswer>, Problem> {
    let issued = call
        .run(move |broker, caller, request| async move { broker.renew(caller, id, body.ttl, request).await })
        .await?;
    Ok(Answer(issued.into()))
}

/// End a credential
///
/// One's own and that of what one handed on always; another's takes a permit for `dayfly:revoke`. Ending what has ended is no error.
#[utoipa::path(post, path = "/v1/leases/{id}/revoke", tag = "credentials", operation_id = "revoke_lease", request_body = Option<RevokeLease>,
    params(("id" = String, Path)), responses((status = 200, body = LeaseAnswer)))]
pub(super) async fn revoke(
    call: Authenticated,
    Id(id): Id<LeaseId>,
    OptionalJson(body): OptionalJson<RevokeLease>,
) -> Result<Answer<LeaseAnswer>, Problem> {
    let lease = call
        .run(move |broker, caller, request| async move {
            let reason = body
                .reason
                .as_ref()
                .map_or("no reason was given", |reason| reason.as_str());
            broker.revoke(&caller, id, reason, request).await
        })
        .await?;
    Ok(Answer(lease.into()))
}

/// Try to end a lease again, now
///
/// For one that has to end and waits after a failure. Takes a permit for `dayfly:retry`, also for one's own.
/// One that is being tried is left alone, and one that is due keeps its place. The answer does not wait for
/// the attempt: look at the lease.
#[utoipa::path(post, path = "/v1/leases/{id}/retry", tag = "credentials", operation_id = "retry_lease",
    params(("id" = String, Path)), responses((status = 200, body = LeaseAnswer)))]
pub(super) async fn retry(
    call: Authenticated,
    Id(id): Id<LeaseId>,
) -> Result<axum::Json<LeaseAnswer>, Problem> {
    let lease = call
        .run(move |broker, caller, request| async move { broker.retry(&caller, id, request).await })
        .await?;
    Ok(axum::Json(lease.into()))
}

/// Give up ending a lease
///
/// For a stuck one. Takes a permit for `dayfly:abandon`. The lease is over and frees its budgets; its proof is
/// `abandoned`, which proves nothing: **nobody says that the credential is gone, and it may still work.** Who
/// gave it up, and why, is in the journal. Where a provider still lists it, Dayfly goes on ending it.
#[utoipa::path(post, path = "/v1/leases/{id}/abandon", tag = "credentials", operation_id = "abandon_lease", request_body = AbandonLease,
    params(("id" = String, Path)), responses((status = 200, body = LeaseAnswer)))]
pub(super) async fn abandon(
    call: Authenticated,
    Id(id): Id<LeaseId>,
    Json(body): Json<AbandonLease>,
) -> Result<axum::Json<LeaseAnswer>, Problem> {
    let lease = call
        .run(move |broker, caller, request| async move {
            broker.abandon(&caller, id, body.reason.as_str(), request).await
        })
        .await?;
    Ok(axum::Json(lease.into()))
}

/// Look at a lease
#[utoipa::path(get, path = "/v1/leases/{id}", tag = "credentials", operation_id = "inspect_lease", params(("id" = String, Path)),
    responses((status = 200, body = LeaseAnswer)))]
pub(super) async fn inspect(
    call: Authenticated,
    Id(id): Id<LeaseId>,
) -> Result<Answer<LeaseAnswer>, Problem> {
    let lease = call
        .broker()
        .inspect_lease(&call.caller, id, call.request)
        .await?;
    Ok(Answer(lease.into()))
}

/// List leases
///
/// One's own always; those of others take a permit for `dayfly:inspect`. Oldest first; ended ones too
/// until they are forgotten.
#[utoipa::path(get, path = "/v1/leases", tag = "credentials", operation_id = "inspect_leases", params(WhichLeases),
    responses((status = 200, body = Leases)))]
pub(super) async fn list(
    call: Authenticated,
    Query(which): Query<WhichLeases>,
) -> Result<Answer<Leases>, Problem> {
    let (filter, page) = which.filter(&call.caller.agent().name);
    let leases = call
        .broker()
        .inspect_leases(&call.caller, filter, page, call.request)
        .await?;
    Ok(Answer(Leases::new(leases, page.limit)))
}
