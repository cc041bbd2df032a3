//! What went wrong at the server, in the words of the provider seam. A message of the server is
//! repeated only where it can hold nothing but names: statements, passwords and verifiers never are.

use std::error::Error as _;
use std::time::Duration;

use deadpool_postgres::PoolError;
use tokio_postgres::error::SqlState;

use crate::provider::ProviderError;

/// What the statement that guards against lateness says.
pub(super) const LATE: &str = "DF001";

/// How long a server that has too much to do is left alone.
const PAUSE: Duration = Duration::from_secs(1);

/// What went wrong.
#[derive(Debug)]
pub(super) enum Fault {
    /// The server refused a statement, or to let us in.
    Said { code: SqlState, message: Option<String> },
    /// Nothing was heard from it.
    Unreachable(String),
    /// All connections are at work.
    Busy,
    /// Somebody has to change the configuration.
    Misconfigured(String),
}

impl Fault {
    /// Whether the server said this.
    pub(super) fn is(&self, state: &SqlState) -> bool {
        matches!(self, Self::Said { code, .. } if code == state)
    }
}

/// Whether a message with this code holds only names of roles, databases and objects.
fn only_names(code: &SqlState) -> bool {
    [
        SqlState::UNDEFINED_OBJECT,
        SqlState::INSUFFICIENT_PRIVILEGE,
        SqlState::DEPENDENT_OBJECTS_STILL_EXIST,
        SqlState::INVALID_CATALOG_NAME,
        SqlState::INVALID_PASSWORD,
        SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
    ]
    .contains(code)
}

impl From<tokio_postgres::Error> for Fault {
    fn from(error: tokio_postgres::Error) -> Self {
        if let Some(said) = error.as_db_error() {
            let code = said.code().clone();
            let message = only_names(&code).then(|| {
                let line = said.message().lines().next().unwrap_or_default();
                line.chars().take(200).collect()
            });
            return Self::Said { code, message };
        }
        let mut text = error.to_string();
        if let Some(cause) = error.source().map(ToString::to_string)
            && !text.contains(&cause)
        {
            text = format!("{text}: {cause}");
        }
        if text.contains("password missing") {
            return Self::Misconfigured("there is no password to be read in `password_file`".into());
        }
        Self::Unreachable(text.chars().take(200).collect())
    }
}

impl From<PoolError> for Fault {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Backend(error) => error.into(),
            PoolError::Timeout(deadpool_postgres::TimeoutType::Wait) => Self::Busy,
            PoolError::Timeout(_) => Self::Unreachable("it did not answer in time".into()),
            other => Self::Unreachable(other.to_string()),
        }
    }
}

impl From<Fault> for ProviderError {
    fn from(fault: Fault) -> Self {
        let (code, message) = match fault {
            Fault::Unreachable(text) => return Self::Unavailable(text),
            Fault::Misconfigured(text) => return Self::Refused(text),
            Fault::Busy => return throttled("all connections of this pool are at work"),
            Fault::Said { code, message } => (code, message),
        };
        let said = message.as_deref().unwrap_or("no further words");
        let class = code.code().get(..2).unwrap_or_default();
        match class {
            "53" => throttled(&format!("SQLSTATE {}", code.code())),
            // Shut down, cancelled, locked, in conflict, a standby, out of order: all of it may pass.
            "57" | "55" | "40" | "08" | "58" | "XX" => {
                Self::Unavailable(format!("the server is not able to now (SQLSTATE {})", code.code()))
            }
            "25" => Self::Unavailable("the server is read-only: is it a standby?".into()),
            "28" => Self::Refused(format!(
                "the server does not let us in, {said}: look at `username`, `password_file` and its pg_hba.conf"
            )),
            "3D" => Self::Refused(format!("{said}: create it, or correct its name")),
            "42" if code == SqlState::INSUFFICIENT_PRIVILEGE => Self::Refused(format!(
                "{said}: the role of `username` needs CREATEROLE, and ADMIN OPTION on each group role"
            )),
            "42" if code == SqlState::UNDEFINED_OBJECT => {
                Self::Refused(format!("{said}: create it, or correct the parameters of the tool"))
            }
            "2B" => Self::Refused(format!(
                "{said}: others built on what the login made, or granted something to it by name; undo that by hand, \
                 or set `reassign_to`"
            )),
            "DF" if code.code() == LATE => Self::Unavailable(
                "it came too late to be sure of its end: compare the clocks of this machine and of the server".into(),
            ),
            _ => Self::Refused(format!("SQLSTATE {}", code.code())),
        }
    }
}

fn throttled(reason: &str) -> ProviderError {
    ProviderError::Throttled {
        after: PAUSE,
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(code: &str, message: Option<&str>) -> ProviderError {
        let message = message.map(str::to_owned);
        let code = SqlState::from_code(code);
        Fault::Said { code, message }.into()
    }

    #[test]
    fn what_may_pass_is_tried_again_and_the_rest_says_what_to_change() {
        for code in [
            "57P03", "57014", "55P03", "40P01", "25006", "08006", "XX000", LATE,
        ] {
            assert!(
                matches!(says(code, None), ProviderError::Unavailable(_)),
                "{code}"
            );
        }
        for code in ["53300", "53200"] {
            assert!(
                matches!(says(code, None), ProviderError::Throttled { .. }),
                "{code}"
            );
        }
        for (code, remedy) in [
            ("28P01", "`password_file`"),
            ("42501", "CREATEROLE"),
            ("42704", "create it"),
            ("3D000", "create it"),
            ("2BP01", "`reassign_to`"),
            ("42601", "42601"),
        ] {
            let ProviderError::Refused(text) = says(code, Some("role \"x\" is what it is")) else {
                panic!("{code}");
            };
            assert!(text.contains(remedy), "{text}");
        }
    }
}
