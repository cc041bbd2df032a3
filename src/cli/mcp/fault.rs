//! Why a request gets no answer of the server's: what the bridge says in its place, as an error of JSON-RPC 2.0.

use dayfly_client::{Error, Outcome};
use serde_json::{Map, Value, json};

use super::message::Id;

/// What kind of fault it is. Codes of our own are outside of what JSON-RPC and MCP keep for themselves, and begin
/// with the status of HTTP that they are like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// It is no JSON.
    Unreadable,
    /// It is no message of JSON-RPC, or a larger one than may be.
    Invalid,
    /// Policy, the registry or the evidence says no.
    Denied,
    /// Somebody has to approve first.
    ApprovalRequired,
    /// The tokens of the tool may not be sent to this server.
    OriginRefused,
    /// The task is over.
    TaskEnded,
    /// The task is suspended.
    TaskSuspended,
    /// As much is under way as may be.
    Busy,
    /// The server answered, but with nothing that answers.
    Server,
    /// There is no connection, or it broke before the answer came.
    Connection,
    /// The broker cannot be reached or cannot work now.
    Unavailable,
}

impl Kind {
    const fn code(self) -> i64 {
        match self {
            Self::Unreadable => -32700,
            Self::Invalid => -32600,
            Self::Denied => 40301,
            Self::ApprovalRequired => 40302,
            Self::OriginRefused => 40303,
            Self::TaskEnded => 40901,
            Self::TaskSuspended => 40902,
            Self::Busy => 42901,
            Self::Server => 50201,
            Self::Connection => 50202,
            Self::Unavailable => 50301,
        }
    }

    /// The word for it in `data`; those of the broker's problems where there is one.
    const fn word(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::Invalid => "invalid",
            Self::Denied => "denied",
            Self::ApprovalRequired => "approval-required",
            Self::OriginRefused => "origin-refused",
            Self::TaskEnded => "task-ended",
            Self::TaskSuspended => "task-suspended",
            Self::Busy => "busy",
            Self::Server => "server",
            Self::Connection => "connection",
            Self::Unavailable => "unavailable",
        }
    }
}

/// What the client is told. It names no secret.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Fault {
    pub(super) kind: Kind,
    pub(super) reason: String,
    data: Map<String, Value>,
}

impl Fault {
    pub(super) fn new(kind: Kind, reason: impl Into<String>) -> Self {
        let mut fault = Self {
            kind,
            reason: reason.into(),
            data: Map::new(),
        };
        fault.put("type", kind.word().into());
        fault
    }

    /// The same, with this in its `data`.
    #[must_use]
    pub(super) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.put(name, value.into());
        self
    }

    /// Whether it is the server's last word, and to ask again is in vain.
    pub(super) fn is_final(&self) -> bool {
        let status = self.data.get("status").and_then(Value::as_u64);
        match self.kind {
            Kind::Server => !status.is_some_and(|status| matches!(status, 401 | 408 | 429 | 500..)),
            Kind::TaskEnded | Kind::OriginRefused => true,
            _ => false,
        }
    }

    fn put(&mut self, name: &str, value: Value) {
        self.data.insert(name.to_owned(), value);
    }

    /// That the task is over, and how.
    pub(super) fn task_ended(outcome: Option<Outcome>) -> Self {
        let outcome = outcome.map_or("unknown", Outcome::as_str);
        let reason = format!("the task is over ({outcome}): start the bridge anew");
        Self::new(Kind::TaskEnded, reason).with("outcome", outcome)
    }

    /// What a call of the broker, or of the server, came to.
    pub(super) fn of(error: &Error) -> Self {
        if let Error::TaskEnded { ended, .. } = error {
            return Self::task_ended(ended.outcome);
        }
        let kind = match error {
            Error::ApprovalPending(_) => Kind::ApprovalRequired,
            Error::TaskSuspended(_) => Kind::TaskSuspended,
            Error::OriginRefused { .. } => Kind::OriginRefused,
            Error::Budget(_) => Kind::Busy,
            Error::Tool(_) => Kind::Connection,
            Error::BrokerUnavailable(_) | Error::ProviderFailed(_) => Kind::Unavailable,
            error if error.retryable() => Kind::Unavailable,
            _ => Kind::Denied,
        };
        let Some(problem) = error.problem() else {
            return Self::new(kind, cause(error));
        };
        let mut fault = Self::new(kind, error.to_string());
        if matches!(kind, Kind::Denied | Kind::Busy) {
            // Which of the ways to say no.
            fault.put("type", problem.slug.clone().into());
        }
        let texts = [
            ("decision", &problem.decision),
            ("approval", &problem.approval),
            ("budget", &problem.budget),
            ("request_id", &problem.request_id),
        ];
        for (name, text) in texts {
            if let Some(text) = text {
                fault.put(name, text.clone().into());
            }
        }
        if let Some(pause) = problem.retry_after {
            fault.put("retry_after", pause.as_secs().into());
        }
        if !problem.detail.is_empty() {
            fault.put("reason", problem.detail.clone().into());
        }
        fault
    }

    /// The error as a message of JSON-RPC, on one line. Without an id where it could not be read.
    pub(super) fn answer(&self, id: Option<&Id>) -> String {
        let mut data = self.data.clone();
        data.entry("reason").or_insert_with(|| self.reason.clone().into());
        json!({
            "jsonrpc": "2.0",
            "id": id.map(Id::to_value),
            "error": {
                "code": self.kind.code(),
                "message": format!("dayfly: {}", self.reason),
                "data": data,
            },
        })
        .to_string()
    }
}

/// What is at the bottom of an error, without the URL, which may say more than is for everybody.
pub(super) fn cause(error: &dyn std::error::Error) -> String {
    let deepest = std::iter::successors(error.source(), |error| error.source()).last();
    match deepest {
        Some(deepest) => format!("the connection to the server failed: {deepest}"),
        None => "the connection to the server failed".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use dayfly_client::Problem;

    use super::*;

    fn problem(make: impl FnOnce(Box<Problem>) -> Error, slug: &str) -> Error {
        let mut problem = Problem::default();
        problem.status = Some(403);
        problem.slug = slug.to_owned();
        problem.title = "Denied".to_owned();
        problem.detail = "no policy permits it".to_owned();
        problem.decision = Some("dec_1".to_owned());
        problem.approval = Some("data-steward".to_owned()).filter(|_| slug == "approval-required");
        make(Box::new(problem))
    }

    fn told(error: &Error) -> Value {
        serde_json::from_str(&Fault::of(error).answer(Some(&Id::Text("a".to_owned())))).unwrap()
    }

    #[test]
    fn a_denial_names_its_reason_and_its_decision() {
        let told = told(&problem(Error::Denied, "denied"));
        assert_eq!(told["id"], "a");
        assert_eq!(told["error"]["code"], 40301);
        let data = json!({"type": "denied", "reason": "no policy permits it", "decision": "dec_1"});
        assert_eq!(told["error"]["data"], data);
        let message = told["error"]["message"].as_str().unwrap();
        assert!(message.contains("no policy permits it"), "{message}");
    }

    #[test]
    fn what_somebody_has_to_approve_is_told_apart_from_a_denial_and_from_a_fault() {
        let of = |make: fn(Box<Problem>) -> Error, slug: &str| told(&problem(make, slug))["error"].clone();
        let pending = of(Error::ApprovalPending, "approval-required");
        assert_eq!(pending["code"], 40302);
        assert_eq!(pending["data"]["approval"], "data-steward");
        assert_eq!(of(Error::Revoked, "revoked")["code"], 40301);
        assert_eq!(of(Error::Revoked, "revoked")["data"]["type"], "revoked");
        assert_eq!(of(Error::Budget, "budget")["code"], 42901);
        assert_eq!(of(Error::BrokerUnavailable, "quarantine")["code"], 50301);
        assert_eq!(
            of(Error::BrokerUnavailable, "quarantine")["data"]["type"],
            "unavailable"
        );
        assert_eq!(of(Error::TaskSuspended, "task-not-open")["code"], 40902);
    }

    #[test]
    fn without_an_id_the_answer_has_none() {
        let answer = Fault::new(Kind::Unreadable, "no JSON").answer(None);
        let told: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(told["id"], Value::Null);
        assert_eq!(told["error"]["code"], -32700);
    }
}
