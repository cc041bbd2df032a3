//! RFC 9457: the only file where an error becomes a status.
//!
//! A problem says what happened and what to do next. What is internal is logged here, with its
//! causes, and never leaves. `super::envelope` adds the request id and writes the body, so that
//! every problem, whoever raised it, has the same shape.

pub(super) mod oauth;

use std::error::Error;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::broker::error::{BrokerError, chain};
use crate::identity::IdentityError;
use crate::journal::JournalError;
use crate::ledger::{LedgerError, Refusal};
use crate::model::ids::{DecisionId, RequestId};
use crate::model::name::Role;
use crate::provider::ProviderError;
use crate::registry::NotAdmitted;
use crate::signal::SignalError;

/// What every problem type starts with.
pub const TYPES: &str = "https://dayfly.dev/problems/";

/// The media type (RFC 9457 §3).
pub const MEDIA_TYPE: &str = "application/problem+json";

/// A kind of problem. Slugs are stable: programs switch on the type.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kind {
    /// The last part of the type.
    pub slug: &'static str,
    /// What it means, the same each time.
    pub title: &'static str,
    /// The status.
    pub status: StatusCode,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $status:ident, $slug:literal, $title:literal;)*) => {
        impl Kind {
            $($(#[$doc])* pub const $name: Self =
                Self { slug: $slug, title: $title, status: StatusCode::$status };)*

            /// Every kind.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];
        }
    };
}

kinds! {
    /// The body is not JSON.
    MALFORMED = BAD_REQUEST, "malformed", "The request cannot be read";
    /// The query or a header is wrong.
    BAD_PARAMETER = BAD_REQUEST, "bad-parameter", "A parameter or a header is wrong";
    /// The evidence proves nothing.
    UNIDENTIFIED = UNAUTHORIZED, "unidentified", "The evidence proves nothing";
    /// The workload is proven and gets nothing.
    NOT_ADMITTED = FORBIDDEN, "not-admitted", "The workload is no agent in good standing";
    /// Policy or the task's scope does not allow it.
    DENIED = FORBIDDEN, "denied", "Policy does not permit this";
    /// Policy asks for an approval first.
    APPROVAL_REQUIRED = FORBIDDEN, "approval-required", "Somebody has to approve this first";
    /// The rules have mistakes.
    UNLOADABLE = UNPROCESSABLE_ENTITY, "unloadable", "The rules cannot be put in force";
    /// The rules would end more than may end unasked.
    BLAST_RADIUS = CONFLICT, "blast-radius", "More would end than may end unasked";
    /// A cutoff is in force.
    REVOKED = FORBIDDEN, "revoked", "A revocation is in force";
    /// There is nothing here, or nothing that the caller may see.
    NOT_FOUND = NOT_FOUND, "not-found", "There is no such thing";
    /// It is over.
    GONE = GONE, "gone", "It is over";
    /// The answer is of another media type than the caller takes.
    NOT_ACCEPTABLE = NOT_ACCEPTABLE, "not-acceptable", "There is no such representation";
    /// It is asked for in a way that nobody answers here.
    NOT_IMPLEMENTED = NOT_IMPLEMENTED, "not-implemented", "This is not done here";
    /// The path knows other methods.
    METHOD_NOT_ALLOWED = METHOD_NOT_ALLOWED, "method-not-allowed", "The path does not take this method";
    /// The task is suspended or over.
    TASK_NOT_OPEN = CONFLICT, "task-not-open", "The task is not open";
    /// The lease is not in the state that the step needs.
    LEASE_NOT_OPEN = CONFLICT, "lease-not-open", "The lease is not active";
    /// Ending the lease does not keep failing.
    LEASE_NOT_STUCK = CONFLICT, "lease-not-stuck", "The lease is not stuck";
    /// Two requests got in each other's way.
    CONFLICT = CONFLICT, "conflict", "Another request came first";
    /// The body is too large.
    TOO_LARGE = PAYLOAD_TOO_LARGE, "too-large", "The request is too large";
    /// The body is of another media type.
    MEDIA_TYPE = UNSUPPORTED_MEDIA_TYPE, "media-type", "The body has to be JSON";
    /// A field is wrong.
    INVALID_FIELD = UNPROCESSABLE_ENTITY, "invalid-field", "A field is wrong";
    /// The key was used for something else.
    KEY_REUSED = UNPROCESSABLE_ENTITY, "key-reused", "The idempotency key was used for something else";
    /// The key was repeated too often.
    KEY_EXHAUSTED = UNPROCESSABLE_ENTITY, "key-exhausted", "The idempotency key was repeated too often";
    /// The credential cannot live on.
    NOT_RENEWABLE = UNPROCESSABLE_ENTITY, "not-renewable", "This credential cannot be renewed";
    /// As many credentials are live, tasks open, or facts stated, as there may be.
    BUDGET = TOO_MANY_REQUESTS, "budget", "As much is live, open or stated as there may be";
    /// A fault of Dayfly's.
    INTERNAL = INTERNAL_SERVER_ERROR, "internal", "Dayfly made a mistake";
    /// The provider refuses.
    PROVIDER_REFUSED = BAD_GATEWAY, "provider-refused", "The provider refuses";
    /// Something that Dayfly needs does not work now.
    UNAVAILABLE = SERVICE_UNAVAILABLE, "unavailable", "Dayfly cannot do this now";
    /// The ledger was lost: what exists can be ended, and nothing new is given out.
    QUARANTINE = SERVICE_UNAVAILABLE, "quarantine", "Dayfly ends and gives nothing out";
    /// More requests than Dayfly takes at a time.
    BUSY = SERVICE_UNAVAILABLE, "busy", "Dayfly is busy";
    /// It took too long.
    TIMED_OUT = GATEWAY_TIMEOUT, "timed-out", "The answer took too long";
}

/// What went wrong, as `application/problem+json`.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct Details {
    /// A stable URI that names the kind of problem.
    #[serde(rename = "type")]
    #[schema(example = "https://dayfly.dev/problems/denied")]
    kind: String,
    /// What the kind means.
    title: &'static str,
    /// The status of the answer.
    status: u16,
    /// What happened this time, and what to do next.
    detail: String,
    /// Names the request in logs, traces and records.
    #[schema(value_type = Option<String>)]
    request_id: Option<RequestId>,
    /// The record of the denial.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    decision: Option<DecisionId>,
    /// Who would have to approve.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    approval: Option<Role>,
    /// Which budget is used up: the live credentials of the `task`, the `agent` or the `tool`, or the
    /// agent's `open_tasks`.
    #[serde(skip_serializing_if = "Option::is_none")]
    budget: Option<&'static str>,
    /// The field that is wrong, as a JSON pointer (RFC 6901) into the body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pointer: Option<String>,
    /// Seconds after which it may work, as in the `Retry-After` header.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u32>,
}

/// A problem on its way to the caller.
#[derive(Clone, Debug)]
pub struct Problem {
    details: Box<Details>,
    challenge: Option<HeaderValue>,
}

impl Problem {
    /// A problem of this kind: what happened, and what to do next.
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        let details = Box::new(Details {
            kind: format!("{TYPES}{}", kind.slug),
            title: kind.title,
            status: kind.status.as_u16(),
            detail: detail.into(),
            request_id: None,
            decision: None,
            approval: None,
            budget: None,
            pointer: None,
            retry_after: None,
        });
        Self {
            details,
            challenge: None,
        }
    }

    /// A field that is wrong; `pointer` is a JSON pointer (RFC 6901), empty for the whole body.
    pub fn field(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        let mut problem = Self::new(Kind::INVALID_FIELD, detail);
        problem.details.pointer = Some(pointer.into());
        problem
    }

    /// A fault of ours. The cause is logged and does not leave.
    pub fn internal(cause: &dyn Error) -> Self {
        tracing::error!(error = %chain(cause), "a request failed");
        Self::new(
            Kind::INTERNAL,
            "this is a fault of Dayfly's: report it with the request id",
        )
    }

    /// Something does not work now. The cause is logged and does not leave.
    pub(super) fn unavailable(cause: &dyn Error, detail: &str, retry_after: u32) -> Self {
        tracing::error!(error = %chain(cause), "a request could not be served");
        Self::new(Kind::UNAVAILABLE, detail).after(retry_after)
    }

    /// After how many seconds it may work.
    #[must_use]
    pub fn after(mut self, seconds: u32) -> Self {
        self.details.retry_after = Some(seconds);
        self
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.details.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The answer, body and all.
    pub fn render(mut self, request: Option<RequestId>) -> Response {
        self.details.request_id = request;
        let body = serde_json::to_vec(&self.details).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        if let Some(seconds) = self.details.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(challenge) = self.challenge {
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

/// Bodiless: the envelope knows the request id and renders it.
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<BrokerError> for Problem {
    fn from(error: BrokerError) -> Self {
        match error {
            BrokerError::Unidentified(error) => unidentified(&error),
            BrokerError::NotAdmitted(refusal) => not_admitted(&refusal),
            BrokerError::Signal(error @ SignalError::Unavailable(_)) => Self::unavailable(
                &error,
                "the keys of this stream cannot be had now: send it again",
                30,
            ),
            BrokerError::Signal(error) => Self::new(Kind::MALFORMED, error.to_string()),
            BrokerError::NoTask
            | BrokerError::NoLease
            | BrokerError::NoAgent
            | BrokerError::NoTool
            | BrokerError::NoStatusList => Self::new(Kind::NOT_FOUND, error.to_string()),
            BrokerError::StatusListOver => Self::new(Kind::GONE, error.to_string()),
            BrokerError::Draining => Self::new(Kind::BUSY, error.to_string()).after(5),
            BrokerError::Denied {
                decision,
                reason,
                approval,
            } => {
                let kind = match approval {
                    Some(_) => Kind::APPROVAL_REQUIRED,
                    None => Kind::DENIED,
                };
                let mut problem = Self::new(kind, reason);
                problem.details.decision = Some(decision);
                problem.details.approval = approval;
                problem
            }
            BrokerError::OutOfBounds { pointer, reason } => Self::field(pointer, reason),
            BrokerError::Refused(refusal) => refused(refusal),
            BrokerError::KeyExhausted => Self::new(Kind::KEY_EXHAUSTED, error.to_string()),
            BrokerError::Unloadable(_) => Self::new(Kind::UNLOADABLE, error.to_string()),
            BrokerError::BlastRadius { .. } => Self::new(Kind::BLAST_RADIUS, error.to_string()),
            BrokerError::Undrained { .. } => Self::unavailable(&error, &error.to_string(), 5),
            BrokerError::NotRenewable => Self::new(Kind::NOT_RENEWABLE, error.to_string()),
            BrokerError::BadAccess(_) => Self::internal(&error),
            BrokerError::Ledger(error) => match error {
                LedgerError::Refused(refusal) => refused(refusal),
                LedgerError::Unavailable(_) => {
                    Self::unavailable(&error, "the ledger cannot be reached: try again", 1)
                }
                // Said in the log when it was found, and not for each request.
                LedgerError::Lost(_) => {
                    let detail = "the ledger was lost or rolled back, and until somebody runs `dayfly recover` \
                                  credentials are ended and none are given out: tell the operators";
                    Self::new(Kind::QUARANTINE, detail).after(30)
                }
                LedgerError::Corrupt(_) => Self::internal(&error),
            },
            BrokerError::Journal(error) => match error {
                JournalError::Unavailable(_) => Self::unavailable(
                    &error,
                    "the journal cannot be written, and nothing is done without a record: try again",
                    5,
                ),
                JournalError::Damaged(_) => Self::internal(&error),
                JournalError::TooLarge => Self::field(
                    "",
                    "the record of this would be too large: ask for less at a time",
                ),
            },
            BrokerError::Provider(error) => match error {
                ProviderError::Unavailable(_) => {
                    Self::unavailable(&error, "the tool's provider cannot be reached: try again", 5)
                }
                ProviderError::Throttled { after, .. } => Self::unavailable(
                    &error,
                    "the tool's provider has too much to do: try again",
                    u32::try_from(after.as_secs()).unwrap_or(u32::MAX).clamp(1, 300),
                ),
                ProviderError::Down { after, .. } => Self::unavailable(
                    &error,
                    "the tool's provider is down: try again later",
                    u32::try_from(after.as_secs()).unwrap_or(u32::MAX).clamp(1, 300),
                ),
                ProviderError::Unfit { pointer, reason } => Self::field(pointer, reason),
                ProviderError::Refused(_) => {
                    tracing::error!(error = %chain(&error), "a provider refuses");
                    Self::new(
                        Kind::PROVIDER_REFUSED,
                        "the tool's provider refuses, and will until somebody changes something there: tell the tool's owner",
                    )
                }
            },
            BrokerError::Entropy(error) => Self::unavailable(&error, "there is no randomness: try again", 1),
        }
    }
}

fn unidentified(error: &IdentityError) -> Problem {
    let challenge = match error {
        IdentityError::Unavailable(_) => {
            return Problem::unavailable(
                error,
                "the keys to check this evidence cannot be had now: try again",
                5,
            );
        }
        // RFC 6750 §3.1: without evidence the challenge names no error.
        IdentityError::Missing => "Bearer",
        IdentityError::Malformed(_)
        | IdentityError::Unrecognised
        | IdentityError::Refused(_)
        | IdentityError::Untimely(_) => r#"Bearer error="invalid_token""#,
    };
    let mut problem = Problem::new(Kind::UNIDENTIFIED, error.to_string());
    problem.challenge = Some(HeaderValue::from_static(challenge));
    problem
}

fn not_admitted(refusal: &NotAdmitted) -> Problem {
    let detail = match refusal {
        NotAdmitted::Unregistered => {
            "this workload is not registered as an agent: add a match rule for it".to_owned()
        }
        // The other agent's name is not for this caller.
        NotAdmitted::Ambiguous(..) => {
            tracing::error!(%refusal, "a workload matches two agents");
            "this workload matches more than one agent: make their match rules disjoint".to_owned()
        }
        NotAdmitted::Standing { standing, .. } => standing.to_string(),
    };
    Problem::new(Kind::NOT_ADMITTED, detail)
}

fn refused(refusal: Refusal) -> Problem {
    match refusal {
        Refusal::NoTask => BrokerError::NoTask.into(),
        Refusal::NoLease => BrokerError::NoLease.into(),
        Refusal::TaskNotOpen(state) => Problem::new(
            Kind::TASK_NOT_OPEN,
            format!(
                "the task is {}: resume it if it is suspended, or open another",
                state.as_str()
            ),
        ),
        Refusal::LeaseNotOpen(state) => Problem::new(
            Kind::LEASE_NOT_OPEN,
            format!("the lease is {state}: ask for a new credential"),
        ),
        Refusal::LeaseNotEnding(_) | Refusal::LeaseNotStuck(_) => {
            Problem::new(Kind::LEASE_NOT_STUCK, refusal.to_string())
        }
        Refusal::Cut(_) => Problem::new(
            Kind::REVOKED,
            "somebody ended everything of this kind: ask the owner of the agent or of the tool",
        ),
        Refusal::Budget { budget, .. } => {
            let mut problem = Problem::new(
                Kind::BUDGET,
                format!("{refusal}: end some, complete tasks that are done, or wait until some expire"),
            )
            .after(5);
            problem.details.budget = Some(budget.as_str());
            problem
        }
        Refusal::KeyReused => Problem::new(
            Kind::KEY_REUSED,
            "the idempotency key was used before with other content: use a new one",
        ),
        Refusal::Repeated(_) => Problem::new(
            Kind::CONFLICT,
            "the same request is being answered elsewhere: try again",
        )
        .after(1),
        Refusal::TooManyFacts => Problem::new(
            Kind::BUDGET,
            format!("{refusal}: take back what no longer matters, or state until when it does"),
        )
        .after(60),
        Refusal::StaleFacts | Refusal::TooManyRechecks => {
            Problem::new(Kind::UNAVAILABLE, refusal.to_string()).after(1)
        }
        Refusal::Exists | Refusal::ClaimLost => Problem::internal(&refusal),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use axum::body::to_bytes;

    use super::*;
    use crate::ledger::Budget;
    use crate::model::time::Timestamp;

    async fn sent(error: impl Into<Problem>) -> (Response, serde_json::Value) {
        let request = RequestId::new(Timestamp::from_secs(1_795_329_000), [7; 10]);
        let (parts, body) = error.into().render(Some(request)).into_parts();
        let bytes = to_bytes(body, usize::MAX).await.unwrap();
        let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(json["status"], parts.status.as_u16());
        assert_eq!(json["request_id"], request.to_string());
        assert_eq!(parts.headers[header::CONTENT_TYPE], MEDIA_TYPE);
        (Response::from_parts(parts, Body::empty()), json)
    }

    #[tokio::test]
    async fn a_denial_names_its_record_and_who_could_approve() {
        let decision = DecisionId::new(Timestamp::from_secs(1_795_329_000), [1; 10]);
        let denied = |approval| BrokerError::Denied {
            decision,
            reason: "not on a Sunday".into(),
            approval,
        };
        let (response, json) = sent(denied(None)).await;
        assert_eq!(response.status(), 403);
        assert_eq!(json["type"], "https://dayfly.dev/problems/denied");
        assert_eq!(json["detail"], "not on a Sunday");
        assert_eq!(json["decision"], decision.to_string());
        assert!(json.get("approval").is_none());
        let (_, json) = sent(denied(Some("payments-oncall".parse().unwrap()))).await;
        assert_eq!(json["type"], "https://dayfly.dev/problems/approval-required");
        assert_eq!(json["approval"], "payments-oncall");
    }

    #[tokio::test]
    async fn only_presented_evidence_is_called_invalid() {
        let (response, _) = sent(BrokerError::from(IdentityError::Missing)).await;
        assert_eq!(response.status(), 401);
        assert_eq!(response.headers()[header::WWW_AUTHENTICATE], "Bearer");
        let (response, _) = sent(BrokerError::from(IdentityError::Unrecognised)).await;
        assert_eq!(
            response.headers()[header::WWW_AUTHENTICATE],
            r#"Bearer error="invalid_token""#
        );
    }

    #[tokio::test]
    async fn a_budget_is_named_and_says_when_to_come_back() {
        let refusal = Refusal::Budget {
            budget: Budget::Agent,
            limit: 3,
        };
        let (response, json) = sent(BrokerError::Refused(refusal)).await;
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()[header::RETRY_AFTER], "5");
        assert_eq!(
            (&json["budget"], &json["retry_after"]),
            (&"agent".into(), &5.into())
        );
        let refusal = Refusal::Budget {
            budget: Budget::OpenTasks,
            limit: 3,
        };
        let (response, json) = sent(BrokerError::Refused(refusal)).await;
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()[header::RETRY_AFTER], "5");
        assert_eq!(json["budget"], "open_tasks");
        let detail = json["detail"].as_str().unwrap();
        assert!(detail.starts_with("the agent has 3 open tasks"), "{detail}");
    }

    #[tokio::test]
    async fn what_is_internal_does_not_leave() {
        let secret = || "10.0.0.7 said: password authentication failed".to_owned();
        let errors: [(BrokerError, u16); 8] = [
            (BrokerError::BadAccess(secret().into()), 500),
            (BrokerError::Ledger(LedgerError::Unavailable(secret())), 503),
            (BrokerError::Ledger(LedgerError::Corrupt(secret())), 500),
            (JournalError::Unavailable(secret()).into(), 503),
            (JournalError::Damaged(secret()).into(), 500),
            (ProviderError::Unavailable(secret()).into(), 503),
            (ProviderError::Refused(secret()).into(), 502),
            (IdentityError::Unavailable(secret()).into(), 503),
        ];
        for (error, status) in errors {
            let (response, json) = sent(error).await;
            assert_eq!(response.status(), status);
            assert!(!json.to_string().contains("10.0.0.7"), "{json}");
            assert_eq!(
                response.headers().contains_key(header::RETRY_AFTER),
                status == 503
            );
        }
        let two = NotAdmitted::Ambiguous("alpha".parse().unwrap(), "beta".parse().unwrap());
        let (_, json) = sent(BrokerError::from(two)).await;
        assert!(!json.to_string().contains("alpha"), "{json}");
    }

    #[tokio::test]
    async fn what_cannot_be_done_says_which_it_is() {
        for (error, slug) in [
            (BrokerError::KeyExhausted, "key-exhausted"),
            (BrokerError::NotRenewable, "not-renewable"),
        ] {
            let (response, json) = sent(error).await;
            assert_eq!(response.status(), 422);
            assert_eq!(json["type"], format!("{TYPES}{slug}"));
        }
    }

    #[tokio::test]
    async fn a_kill_order_that_could_not_be_written_down_says_what_it_did_and_who_goes_on() {
        for (owed, who) in [(true, "this broker ends it while it runs"), (false, "repeat it")] {
            let source = Box::new(BrokerError::Refused(Refusal::TooManyRechecks));
            let (response, json) = sent(BrokerError::Undrained { owed, source }).await;
            assert_eq!(response.status(), 503);
            let detail = json["detail"].as_str().unwrap();
            assert!(detail.starts_with("access is denied from now on"), "{detail}");
            assert!(detail.contains(who) && detail.ends_with("repeat it"), "{detail}");
        }
    }

    #[test]
    fn the_reference_lists_every_kind_with_its_status_and_none_that_is_gone() {
        let page = include_str!("../../docs/reference/api.md");
        let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
        let listed: BTreeSet<(&str, &str)> = rows
            .filter_map(|row| {
                let (slug, rest) = row.split_once("` | ")?;
                Some((slug, rest.get(..3)?))
            })
            .filter(|(_, status)| status.bytes().all(|b| b.is_ascii_digit()))
            .collect();
        let kinds = Kind::ALL.iter().map(|kind| (kind.slug, kind.status.as_str()));
        assert_eq!(listed, kinds.collect());
    }

    #[test]
    fn slugs_are_distinct() {
        let slugs: BTreeSet<&str> = Kind::ALL.iter().map(|kind| kind.slug).collect();
        assert_eq!(slugs.len(), Kind::ALL.len());
    }
}
