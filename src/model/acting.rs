//! For whom an agent may act: patterns of user ids, as its registry entry lists them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

use super::name::{InvalidName, UserId};
use super::parsed::parsed;

/// A user id as a whole, or with one `*` in place of what differs.
///
/// The `*` stands behind a boundary: at the beginning or after `:`, `/` or `|`. What follows it is nothing, or
/// `@` and the rest: `user:*`, `*@example.org`, `user:*@example.org`. It stands for at least one
/// character, and before an `@` for none that is one. Text is compared exactly, case and all.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UserPattern(String);

const RULE: &str =
    "write a whole user id, or one `*` behind `:`, `/` or `|`, or before `@`: `user:*`, `*@example.org`";

impl UserPattern {
    /// Whether the user fits.
    pub fn matches(&self, user: &UserId) -> bool {
        let user = user.as_str();
        let Some((before, behind)) = self.0.split_once('*') else {
            return user == self.0;
        };
        user.strip_prefix(before)
            .and_then(|rest| rest.strip_suffix(behind))
            .is_some_and(|any| !any.is_empty() && (behind.is_empty() || !any.contains('@')))
    }
}

impl FromStr for UserPattern {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_user = text.parse::<UserId>().is_ok();
        let sound = match text.split_once('*') {
            None => true,
            Some(("", "")) => false, // everybody
            Some((before, behind)) => {
                (before.is_empty() || before.ends_with([':', '/', '|']))
                    && (behind.is_empty() || behind.len() > 1 && behind.starts_with('@'))
                    && !behind.contains('*')
            }
        };
        if is_user && sound {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidName::new("pattern of user ids", text, RULE))
        }
    }
}

impl<'de> Deserialize<'de> for UserPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parsed(deserializer)
    }
}

impl fmt::Display for UserPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(pattern: &str, user: &str) -> bool {
        let pattern: UserPattern = pattern.parse().unwrap();
        pattern.matches(&user.parse().unwrap())
    }

    #[test]
    fn fits_whom_it_names_and_nobody_else() {
        for (pattern, user) in [
            ("user-17", "user-17"),
            ("user:*", "user:17"),
            ("user:*", "user:eu:17"),
            ("*@example.org", "ann@example.org"),
            ("user:*@example.org", "user:ann@example.org"),
            ("staff/*", "staff/ann"),
            ("idp|*", "idp|ann"),
        ] {
            assert!(fits(pattern, user), "{pattern} {user}");
        }
        for (pattern, user) in [
            ("user-17", "user-170"),
            ("user-17", "User-17"),
            ("user:*", "user:"),
            ("user:*", "users:17"),
            ("user:*", "a user:17"),
            ("*@example.org", "@example.org"),
            ("*@example.org", "ann@example.org.example.net"),
            ("*@example.org", "ann@example.net@example.org"),
            ("*@example.org", "ann@sub.example.org"),
            ("user:*@example.org", "ann@example.org"),
            ("user:*@example.org", "user:@example.org"),
        ] {
            assert!(!fits(pattern, user), "{pattern} {user}");
        }
    }

    #[test]
    fn refuses_what_a_reviewer_could_misread() {
        for text in [
            "",
            "*",
            "user*",
            "user-*",
            "*example.org",
            "*@",
            "user:*:admin",
            "*:admin",
            "user:**",
            "*:*",
            "a\nb",
        ] {
            assert!(text.parse::<UserPattern>().is_err(), "{text:?}");
        }
    }
}
