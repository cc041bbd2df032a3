//! Tasks: opened, kept alive, suspended, resumed, ended.

use axum::http::StatusCode;
use axum::response::IntoResponse;

use crate::model::ids::TaskId;

use super::answer::Answer;
use super::extract::{Authenticated, ChosenKey, Id, Json, Query};
use super::problem::Problem;
use super::wire::tasks::{
    CompleteTask, CompletedAnswer, DelegateTask, OpenTask, RevokeTask, SubTasks, TaskAnswer, Waiting,
};

/// Open a task
///
/// Its scope gives nothing by itself: each credential is decided when it is asked for. Repeating the
/// request with the same `Idempotency-Key` answers the same task.
#[utoipa::path(post, path = "/v1/tasks", tag = "tasks", operation_id = "open_task", request_body = OpenTask,
    params(("idempotency-key" = Option<String>, Header, description = "1 to 128 printable ASCII characters")),
    responses((status = 201, body = TaskAnswer)))]
pub(super) async fn open(
    call: Authenticated,
    key: ChosenKey,
    Json(body): Json<OpenTask>,
) -> Result<impl IntoResponse, Problem> {
    let key = key.bind(&call.caller, &body)?;
    let order = body.order(key);
    let task = call
        .run(|broker, caller, request| async move { broker.open(&caller, order, request).await })
        .await?;
    Ok((StatusCode::CREATED, Answer(TaskAnswer::from(task))))
}

/// Look at a task
#[utoipa::path(get, path = "/v1/tasks/{id}", tag = "tasks", operation_id = "inspect_task", params(("id" = String, Path)),
    responses((status = 200, body = TaskAnswer)))]
pub(super) async fn inspect(call: Authenticated, Id(id): Id<TaskId>) -> Result<Answer<TaskAnswer>, Problem> {
    let task = call.broker().inspect_task(&call.caller, id, call.request).await?;
    Ok(Answer(task.into()))
}

/// Hand work on
///
/// Opens a sub-task, which can only narrow: its scope is within that of the task, it ends with it at the latest, and
/// on whose behalf it runs does not change. Handing it to another agent takes a permit for `dayfly:delegate`. Each
/// credential of it is decided for its agent and for everybody above. Repeating the request with the same
/// `Idempotency-Key` answers the same sub-task.
#[utoipa::path(post, path = "/v1/tasks/{id}/tasks", tag = "tasks", operation_id = "delegate_task", request_body = DelegateTask,
    params(("id" = String, Path),
        ("idempotency-key" = Option<String>, Header, description = "1 to 128 printable ASCII characters")),
    responses((status = 201, body = TaskAnswer)))]
pub(super) async fn delegate(
    call: Authenticated,
    Id(parent): Id<TaskId>,
    key: ChosenKey,
    Json(body): Json<DelegateTask>,
) -> Result<impl IntoResponse, Problem> {
    let key = key.bind(&call.caller, &body)?;
    let order = body.order(parent, key);
    let task = call
        .run(|broker, caller, request| async move { broker.delegate(&caller, order, request).await })
        .await?;
    Ok((StatusCode::CREATED, Answer(TaskAnswer::from(task))))
}

/// Look at what was handed on
///
/// The sub-tasks below a task, at every depth, that have not ended.
#[utoipa::path(get, path = "/v1/tasks/{id}/tasks", tag = "tasks", operation_id = "inspect_sub_tasks", params(("id" = String, Path)),
    responses((status = 200, body = SubTasks)))]
pub(super) async fn below(call: Authenticated, Id(id): Id<TaskId>) -> Result<Answer<SubTasks>, Problem> {
    let tasks = call
        .broker()
        .inspect_sub_tasks(&call.caller, id, call.request)
        .await?;
    Ok(Answer(tasks.into()))
}

/// Say that the work goes on
#[utoipa::path(post, path = "/v1/tasks/{id}/heartbeat", tag = "tasks", operation_id = "beat", params(("id" = String, Path)),
    responses((status = 200, body = TaskAnswer)))]
pub(super) async fn heartbeat(
    call: Authenticated,
    Id(id): Id<TaskId>,
) -> Result<Answer<TaskAnswer>, Problem> {
    let task = call
        .run(move |broker, caller, _| async move { broker.beat(&caller, id).await })
        .await?;
    Ok(Answer(task.into()))
}

/// Suspend a task
///
/// Ends what is live, and nothing is issued until the task resumes. What is below it is held up with it.
#[utoipa::path(post, path = "/v1/tasks/{id}/suspend", tag = "tasks", operation_id = "suspend_task", params(("id" = String, Path)),
    responses((status = 200, body = TaskAnswer)))]
pub(super) async fn suspend(call: Authenticated, Id(id): Id<TaskId>) -> Result<Answer<TaskAnswer>, Problem> {
    let task = call
        .run(move |broker, caller, request| async move { broker.suspend(&caller, id, request).await })
        .await?;
    Ok(Answer(task.into()))
}

/// Resume a task
#[utoipa::path(post, path = "/v1/tasks/{id}/resume", tag = "tasks", operation_id = "resume_task", params(("id" = String, Path)),
    responses((status = 200, body = TaskAnswer)))]
pub(super) async fn resume(call: Authenticated, Id(id): Id<TaskId>) -> Result<Answer<TaskAnswer>, Problem> {
    let task = call
        .run(move |broker, caller, request| async move { broker.resume(&caller, id, request).await })
        .await?;
    Ok(Answer(task.into()))
}

/// End a task
///
/// From the answer on nothing is issued or renewed for it, nor for anything below it, which ends with it. Work that
/// was handed on can be `cancelled` by whoever did. With `wait` the answer comes when every
/// lease has its receipt, or when the time is up. Ending it again in the same way is no error.
#[utoipa::path(post, path = "/v1/tasks/{id}/complete", tag = "tasks", operation_id = "complete_task", request_body = CompleteTask,
    params(("id" = String, Path), Waiting), responses((status = 200, body = CompletedAnswer)))]
pub(super) async fn complete(
    call: Authenticated,
    Id(id): Id<TaskId>,
    Query(waiting): Query<Waiting>,
    Json(body): Json<CompleteTask>,
) -> Result<Answer<CompletedAnswer>, Problem> {
    let (outcome, wait) = (body.outcome.into(), waiting.wait.duration());
    let completed = call
        .run(move |broker, caller, request| async move {
            broker.complete(&caller, id, outcome, wait, request).await
        })
        .await?;
    Ok(Answer(completed.into()))
}

/// End a task that may be another agent's
///
/// One's own and what one handed on always; another's takes a permit for `dayfly:revoke`.
#[utoipa::path(post, path = "/v1/tasks/{id}/revoke", tag = "tasks", operation_id = "revoke_task", request_body = RevokeTask,
    params(("id" = String, Path), Waiting), responses((status = 200, body = CompletedAnswer)))]
pub(super) async fn revoke(
    call: Authenticated,
    Id(id): Id<TaskId>,
    Query(waiting): Query<Waiting>,
    Json(body): Json<RevokeTask>,
) -> Result<Answer<CompletedAnswer>, Problem> {
    let wait = waiting.wait.duration();
    let completed = call
        .run(move |broker, caller, request| async move {
            broker
                .revoke_task(&caller, id, body.reason.as_str(), wait, request)
                .await
        })
        .await?;
    Ok(Answer(completed.into()))
}
