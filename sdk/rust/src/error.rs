//! What can go wrong. The names are the same in every SDK of Dayfly.

use std::fmt;
use std::time::Duration;

use serde_json::Value;

use crate::access::InvalidAccess;
use crate::task::Ended;

/// Why something was not done. No variant ever holds evidence or a credential.
///
/// Every variant but [`Tool`](Self::Tool) says what happened as a [`Problem`], which
/// [`problem`](Self::problem) gives for all of them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Policy or the task's scope does not permit it (`denied`). [`Problem::decision`] is the record of it.
    #[error("{0}")]
    Denied(Box<Problem>),
    /// Policy would permit it once somebody in the role [`Problem::approval`] has approved (`approval-required`).
    #[error("{0}")]
    ApprovalPending(Box<Problem>),
    /// The workload is proven, and is no agent or one that gets nothing for now (`not-admitted`).
    #[error("{0}")]
    NotAdmitted(Box<Problem>),
    /// The evidence proves nothing (`unidentified`), or there is none to be had.
    #[error("{0}")]
    AttestationFailed(Box<Problem>),
    /// The task is over.
    #[error("{problem}")]
    TaskEnded {
        /// How it ended, as far as that is known.
        ended: Ended,
        /// What the broker said.
        problem: Box<Problem>,
    },
    /// The task is suspended, or one above it is: resume it.
    #[error("{0}")]
    TaskSuspended(Box<Problem>),
    /// A kill order is in force (`revoked`).
    #[error("{0}")]
    Revoked(Box<Problem>),
    /// There is no such thing, or none that this agent may see (`not-found`).
    #[error("{0}")]
    NotFound(Box<Problem>),
    /// The request is wrong; [`Problem::pointer`] says which field.
    #[error("{0}")]
    InvalidRequest(Box<Problem>),
    /// As many credentials are live, or tasks open, as there may be (`budget`): [`Problem::budget`] says whose, and
    /// [`Problem::retry_after`] when to come again.
    #[error("{0}")]
    Budget(Box<Problem>),
    /// The tool's provider refuses (`provider-refused`).
    #[error("{0}")]
    ProviderFailed(Box<Problem>),
    /// The broker cannot be reached, or cannot work now, and that did not change while it was tried again.
    #[error("{0}")]
    BrokerUnavailable(Box<Problem>),
    /// A credential would have gone to an origin that is not the tool's.
    #[error("{problem}")]
    OriginRefused {
        /// The origin, such as `https://example.org`.
        origin: String,
        /// What to do about it.
        problem: Box<Problem>,
    },
    /// An access is outside of the scope of the task. Nothing was asked of the broker.
    #[error("{0}")]
    ScopeWidening(Box<Problem>),
    /// The broker refused for a reason without a name of its own here: see [`Problem::slug`].
    #[error("{0}")]
    Refused(Box<Problem>),
    /// The tool itself could not be reached, or its answer not be read.
    #[error("the tool cannot be reached: {0}")]
    Tool(#[from] reqwest::Error),
}

/// What went wrong, as the broker told it (RFC 9457), or in the same words where the client found it out.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Problem {
    /// The status of the answer; `None` when there was none.
    pub status: Option<u16>,
    /// The kind, stable: `denied`, `budget`, … Those of the broker are in its API reference.
    pub slug: String,
    /// What the kind means.
    pub title: String,
    /// What happened this time, and what to do next.
    pub detail: String,
    /// Names the request in the broker's logs, traces and records.
    pub request_id: Option<String>,
    /// The record of the denial.
    pub decision: Option<String>,
    /// Who would have to approve: a role.
    pub approval: Option<String>,
    /// The field that is wrong, as a JSON pointer (RFC 6901) into the body.
    pub pointer: Option<String>,
    /// Which budget is used up.
    pub budget: Option<String>,
    /// After how long it may work.
    pub retry_after: Option<Duration>,
    /// The whole body; null when there was none.
    pub body: Value,
}

impl Problem {
    /// A problem that was found on this side.
    pub(crate) fn here(slug: &str, title: impl Into<String>, detail: impl Into<String>) -> Box<Self> {
        Box::new(Self {
            slug: slug.to_owned(),
            title: title.into(),
            detail: detail.into(),
            ..Self::default()
        })
    }

    /// The problem that an answer tells, as `application/problem+json` or as an OAuth error (RFC 6749 §5.2).
    pub(crate) fn told(status: u16, retry_after: Option<Duration>, body: Value) -> Box<Self> {
        let text = |names: &[&str]| {
            let found = names.iter().find_map(|name| body.get(name)?.as_str());
            found.map(str::to_owned)
        };
        let kind = text(&["type", "error_uri"]).unwrap_or_default();
        let seconds = body.get("retry_after").and_then(Value::as_u64);
        Box::new(Self {
            status: Some(status),
            slug: kind.rsplit('/').next().unwrap_or_default().to_owned(),
            title: text(&["title", "error"]).unwrap_or_else(|| "the broker refused".to_owned()),
            detail: text(&["detail", "error_description"]).unwrap_or_default(),
            request_id: text(&["request_id"]),
            decision: text(&["decision"]),
            approval: text(&["approval"]),
            pointer: text(&["pointer"]),
            budget: text(&["budget"]),
            retry_after: seconds.map(Duration::from_secs).or(retry_after),
            body,
        })
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.title)?;
        if let Some(status) = self.status {
            write!(f, " ({status})")?;
        }
        if !self.detail.is_empty() {
            write!(f, ": {}", self.detail)?;
        }
        for (name, value) in [
            ("field", &self.pointer),
            ("decision", &self.decision),
            ("request", &self.request_id),
        ] {
            if let Some(value) = value {
                write!(f, "; {name} {value}")?;
            }
        }
        Ok(())
    }
}

impl Error {
    /// The error for what an answer tells.
    pub(crate) fn told(problem: Box<Problem>) -> Self {
        match (problem.slug.as_str(), problem.status.unwrap_or_default()) {
            ("denied", _) => Self::Denied(problem),
            ("approval-required", _) => Self::ApprovalPending(problem),
            ("not-admitted", _) => Self::NotAdmitted(problem),
            ("unidentified", _) | (_, 401) => Self::AttestationFailed(problem),
            ("revoked", _) => Self::Revoked(problem),
            ("budget", _) => Self::Budget(problem),
            ("provider-refused", _) => Self::ProviderFailed(problem),
            (_, 404) => Self::NotFound(problem),
            (_, 502..=504) => Self::BrokerUnavailable(problem),
            (_, 400 | 405 | 413 | 415 | 422) => Self::InvalidRequest(problem),
            _ => Self::Refused(problem),
        }
    }

    /// A request that is wrong, as was found on this side.
    pub(crate) fn invalid(detail: impl Into<String>) -> Self {
        Self::InvalidRequest(Problem::here(
            "invalid-request",
            "this cannot be asked for",
            detail,
        ))
    }

    /// No evidence is to be had.
    pub(crate) fn no_evidence(title: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::AttestationFailed(Problem::here("no-evidence", title, detail))
    }

    /// What happened; `None` for [`Tool`](Self::Tool).
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Denied(problem)
            | Self::ApprovalPending(problem)
            | Self::NotAdmitted(problem)
            | Self::AttestationFailed(problem)
            | Self::TaskEnded { problem, .. }
            | Self::TaskSuspended(problem)
            | Self::Revoked(problem)
            | Self::NotFound(problem)
            | Self::InvalidRequest(problem)
            | Self::Budget(problem)
            | Self::ProviderFailed(problem)
            | Self::BrokerUnavailable(problem)
            | Self::OriginRefused { problem, .. }
            | Self::ScopeWidening(problem)
            | Self::Refused(problem) => Some(problem),
            Self::Tool(_) => None,
        }
    }

    /// The status of the broker's answer, where there was one.
    pub fn status(&self) -> Option<u16> {
        self.problem()?.status
    }

    /// The kind of problem, stable; `tool` when the tool could not be reached.
    pub fn slug(&self) -> &str {
        self.problem().map_or("tool", |problem| &problem.slug)
    }

    /// What happened this time, and what to do next.
    pub fn detail(&self) -> &str {
        self.problem().map_or("", |problem| &problem.detail)
    }

    /// Names the request in the broker's logs, traces and records.
    pub fn request_id(&self) -> Option<&str> {
        self.problem()?.request_id.as_deref()
    }

    /// Whether the same request may work a little later. Those of the SDK have been tried again before.
    pub fn retryable(&self) -> bool {
        let Some(problem) = self.problem() else {
            return matches!(self, Self::Tool(error) if error.is_connect() || error.is_timeout());
        };
        match problem.status {
            Some(429 | 502 | 503 | 504) => true,
            Some(409) => problem.slug == "conflict",
            Some(_) => false,
            None => matches!(self, Self::BrokerUnavailable(_)),
        }
    }
}

impl From<InvalidAccess> for Error {
    fn from(error: InvalidAccess) -> Self {
        Self::invalid(error.to_string())
    }
}

/// An access that is one already is never invalid.
impl From<std::convert::Infallible> for Error {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(status: u16, slug: &str) -> Error {
        let kind = format!("https://dayfly.dev/problems/{slug}");
        Error::told(Problem::told(
            status,
            None,
            json!({"type": kind, "title": "T", "detail": "d"}),
        ))
    }

    #[test]
    fn each_kind_of_problem_is_the_error_of_its_name() {
        assert!(matches!(told(403, "denied"), Error::Denied(_)));
        assert!(matches!(
            told(403, "approval-required"),
            Error::ApprovalPending(_)
        ));
        assert!(matches!(told(403, "not-admitted"), Error::NotAdmitted(_)));
        assert!(matches!(told(403, "revoked"), Error::Revoked(_)));
        assert!(matches!(told(401, "unidentified"), Error::AttestationFailed(_)));
        assert!(matches!(told(404, "not-found"), Error::NotFound(_)));
        assert!(matches!(told(422, "invalid-field"), Error::InvalidRequest(_)));
        assert!(matches!(told(429, "budget"), Error::Budget(_)));
        assert!(matches!(told(502, "provider-refused"), Error::ProviderFailed(_)));
        for unavailable in ["unavailable", "quarantine", "busy"] {
            assert!(matches!(told(503, unavailable), Error::BrokerUnavailable(_)));
        }
        assert!(matches!(told(500, "internal"), Error::Refused(_)));
    }

    #[test]
    fn what_may_work_later_can_be_tried_again() {
        for (status, slug, retryable) in [
            (429, "budget", true),
            (502, "provider-refused", true),
            (503, "busy", true),
            (504, "timed-out", true),
            (409, "conflict", true),
            (409, "task-not-open", false),
            (403, "denied", false),
            (500, "internal", false),
        ] {
            assert_eq!(told(status, slug).retryable(), retryable, "{slug}");
        }
        assert!(Error::BrokerUnavailable(Problem::here("unreachable", "", "")).retryable());
        assert!(!Error::no_evidence("none", "").retryable());
    }

    #[test]
    fn says_what_happened_and_where_to_look() {
        let body = json!({
            "type": "https://dayfly.dev/problems/denied", "title": "Policy does not permit this",
            "detail": "no policy permits this", "decision": "dec_1", "request_id": "req_2", "retry_after": 3,
        });
        let problem = Problem::told(403, None, body);
        assert_eq!(
            problem.to_string(),
            "Policy does not permit this (403): no policy permits this; decision dec_1; request req_2"
        );
        assert_eq!(problem.retry_after, Some(Duration::from_secs(3)));
        let oauth = json!({
            "error": "access_denied", "error_uri": "https://dayfly.dev/problems/denied",
            "error_description": "not yours",
        });
        let problem = Problem::told(403, Some(Duration::from_secs(1)), oauth);
        assert_eq!(
            (problem.slug.as_str(), problem.detail.as_str()),
            ("denied", "not yours")
        );
        assert_eq!(problem.to_string(), "access_denied (403): not yours");
        assert_eq!(
            Problem::told(500, None, Value::Null).to_string(),
            "the broker refused (500)"
        );
    }
}
