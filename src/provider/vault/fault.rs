//! What goes wrong between us and the server, told without quoting it.
//!
//! The texts of a server can hold what was sent to it, and of a plugin anything at all. So nothing of an
//! answer is passed on: the phrases that say what to do are known, looked for, and said in our words.

use std::time::Duration;

use serde::Deserialize;

use crate::provider::ProviderError;

/// When to come again after a refusal for too much, if the server does not say.
const AGAIN: Duration = Duration::from_secs(1);
/// The longest pause that a server can ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// Why there is no answer to go on with.
#[derive(Debug)]
pub(super) enum Fault {
    /// No turn came: too much is under way.
    Busy,
    /// The request cannot be put into HTTP. Nothing was sent.
    Unsendable,
    /// No whole answer came. Whether it had an effect is unknown.
    Lost(String),
    /// The server said no.
    Said {
        /// The HTTP status.
        status: u16,
        /// What it said, if that is known.
        phrase: Option<Phrase>,
        /// When to come again, if it says so.
        after: Option<Duration>,
    },
}

/// What a server is known to say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phrase {
    /// The token may not, or is none.
    Denied,
    /// There is no token of that accessor.
    NoAccessor,
    /// There is no such lease.
    NoLease,
    /// Another reason, in our words.
    Other(&'static str),
}

/// What to look for in lower case, and what it means. The first that fits counts.
const PHRASES: [(&str, Phrase); 19] = [
    ("invalid accessor", Phrase::NoAccessor),
    ("no token found with this accessor", Phrase::NoAccessor),
    ("invalid lease", Phrase::NoLease),
    ("lease not found", Phrase::NoLease),
    ("permission denied", Phrase::Denied),
    ("bad token", Phrase::Denied),
    ("invalid token", Phrase::Denied),
    (
        "no handler for route",
        Phrase::Other("nothing is mounted at that path"),
    ),
    ("unsupported path", Phrase::Other("the engine has no such path")),
    (
        "unsupported operation",
        Phrase::Other("that path is not used with this method"),
    ),
    ("unknown role", Phrase::Other("there is no such role")),
    (
        "must be subset of",
        Phrase::Other("the token role does not allow these policies"),
    ),
    (
        "disallowed by this role",
        Phrase::Other("the token role does not allow these policies"),
    ),
    ("lease is not renewable", Phrase::Other("it cannot be renewed")),
    ("past the max ttl", Phrase::Other("its longest life is over")),
    ("sealed", Phrase::Other("it is sealed")),
    ("standby", Phrase::Other("it is a standby")),
    ("quota exceeded", Phrase::Other("a quota is used up")),
    ("namespace", Phrase::Other("the namespace is not right")),
];

impl Phrase {
    /// What an answer says in its `errors`, if we know it.
    pub(super) fn find(body: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Errors {
            errors: Vec<String>,
        }
        let said: Errors = serde_json::from_slice(body).ok()?;
        said.errors.iter().take(8).find_map(|text| {
            let text: String = text.chars().take(1024).collect();
            let text = text.to_lowercase();
            PHRASES
                .iter()
                .find_map(|(known, phrase)| text.contains(known).then_some(*phrase))
        })
    }
}

impl Fault {
    /// Whether the server says that the token of the request may not do this, or is none any more.
    pub(super) fn is_denial(&self) -> bool {
        matches!(self, Self::Said { status: 403, phrase, .. } if *phrase != Some(Phrase::NoAccessor))
    }

    /// Whether the server says that there is no such token or lease.
    pub(super) fn is_absence(&self) -> bool {
        matches!(
            self,
            Self::Said {
                status: 400 | 403 | 404,
                phrase: Some(Phrase::NoAccessor | Phrase::NoLease),
                ..
            }
        )
    }

    /// What it means for who wanted `step`, and what to do about it: `remedy` where somebody has to
    /// change something.
    pub(super) fn into_error(self, step: &str, remedy: &str) -> ProviderError {
        match self {
            Self::Busy => ProviderError::Throttled {
                after: AGAIN,
                reason: format!("{step}: too many requests to Vault are under way"),
            },
            Self::Unsendable => {
                ProviderError::Refused(format!("{step}: the request cannot be written as HTTP: {remedy}"))
            }
            Self::Lost(reason) => ProviderError::Unavailable(format!("{step}: {reason}")),
            Self::Said {
                status,
                phrase,
                after,
            } => {
                let said = match phrase {
                    None => String::new(),
                    Some(Phrase::Denied) => ", permission denied".into(),
                    Some(Phrase::NoAccessor) => ", there is no such token".into(),
                    Some(Phrase::NoLease) => ", there is no such lease".into(),
                    Some(Phrase::Other(words)) => format!(", {words}"),
                };
                let reason = format!("{step}: Vault answered {status}{said}");
                match status {
                    429 => ProviderError::Throttled {
                        after: after.unwrap_or(AGAIN).min(LONGEST_PAUSE),
                        reason,
                    },
                    // A standby that does not forward; 412 a standby that has not caught up yet.
                    300..=399 | 408 | 412 | 472 | 473 | 500..=599 => ProviderError::Unavailable(reason),
                    _ => ProviderError::Refused(format!("{reason}: {remedy}")),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(status: u16, body: &str) -> Fault {
        Fault::Said {
            status,
            phrase: Phrase::find(body.as_bytes()),
            after: None,
        }
    }

    #[test]
    fn a_status_says_whether_to_come_again() {
        let class = |status| said(status, "{}").into_error("a step", "change it");
        assert!(matches!(
            class(429),
            ProviderError::Throttled { after: AGAIN, .. }
        ));
        for status in [307, 412, 472, 473, 500, 502, 503] {
            assert!(matches!(class(status), ProviderError::Unavailable(_)), "{status}");
        }
        for status in [400, 403, 404, 405] {
            let error = class(status);
            assert!(matches!(error, ProviderError::Refused(_)), "{status}");
            assert!(error.to_string().ends_with(": change it"), "{error}");
        }
    }

    #[test]
    fn what_a_server_says_is_known_or_not_told() {
        let body = r#"{"errors":["1 error occurred:\n\t* permission denied for hunter2\n\n"]}"#;
        let fault = said(403, body);
        assert!(fault.is_denial() && !fault.is_absence());
        let told = fault.into_error("reading it", "allow it").to_string();
        assert_eq!(
            told,
            "the provider refuses: reading it: Vault answered 403, permission denied: allow it"
        );
        let body = r#"{"errors":["password hunter2 is wrong"],"data":{"password":"hunter2"}}"#;
        let fault = said(400, body);
        assert!(!format!("{fault:?}").contains("hunter2"));
        assert!(
            !fault
                .into_error("a step", "a remedy")
                .to_string()
                .contains("hunter2")
        );
    }

    #[test]
    fn absence_is_only_what_the_server_says_is_absent() {
        assert!(said(400, r#"{"errors":["invalid accessor"]}"#).is_absence());
        assert!(
            said(
                403,
                r#"{"errors":["1 error occurred:\n\t* invalid accessor\n\n"]}"#
            )
            .is_absence()
        );
        assert!(said(400, r#"{"errors":["invalid lease"]}"#).is_absence());
        assert!(!said(403, r#"{"errors":["permission denied"]}"#).is_absence());
        assert!(!said(404, r#"{"errors":[]}"#).is_absence());
        assert!(!said(500, r#"{"errors":["invalid lease"]}"#).is_absence());
        assert!(!said(403, r#"{"errors":["invalid accessor"]}"#).is_denial());
    }
}
