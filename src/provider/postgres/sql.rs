//! Text that becomes part of a statement. What a statement makes cannot be sent beside it as a
//! parameter, so names and values go into its text, and only through the two types of this file.

use std::fmt;
use std::str::FromStr;

use crate::model::ids::LeaseId;
use crate::model::name::InvalidName;
use crate::model::time::Timestamp;

const IDENT: &str = "use 1 to 63 letters, digits, `_` or `-` of ASCII, starting with a letter or `_`";
const PREFIX: &str = "use 1 to 30 lower-case letters, digits or `_`, starting with a letter";

/// The name of a role or a database. It prints quoted.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Ident(String);

impl Ident {
    /// The name itself, unquoted, for people and for comparisons.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as a text value of a statement.
    pub(super) fn as_literal(&self) -> Literal {
        Literal(self.0.clone())
    }
}

impl FromStr for Ident {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let letter = |b: u8| b.is_ascii_alphanumeric() || b"_-".contains(&b);
        let first = |b: u8| b.is_ascii_alphabetic() || b == b'_';
        if text.len() <= 63 && text.bytes().next().is_some_and(first) && text.bytes().all(letter) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidName::new("name in a database", text, IDENT))
        }
    }
}

impl fmt::Display for Ident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0)
    }
}

/// A text value. It prints quoted, and the letters that it can be made of need no escape, however
/// the server reads backslashes.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Literal(String);

impl Literal {
    pub(super) fn of_instant(at: Timestamp) -> Self {
        Self(at.to_string())
    }

    pub(super) fn of_lease(lease: LeaseId) -> Self {
        Self(lease.to_string())
    }

    /// What a password is checked against: base 64 and the marks between its parts.
    pub(super) fn of_verifier(verifier: &super::scram::Verifier) -> Self {
        Self(verifier.as_str().to_owned())
    }
}

impl fmt::Display for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}'", self.0)
    }
}

/// What the names of all logins of one installation begin with, so that several can share a server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Prefix(String);

impl FromStr for Prefix {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        let begins = text.starts_with(|c: char| c.is_ascii_lowercase()) && !text.starts_with("pg_");
        if begins && text.len() <= 30 && text.bytes().all(letter) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidName::new("role prefix", text, PREFIX))
        }
    }
}

impl Prefix {
    /// The name of the login of a lease: `dayfly_01kb…`, at most 57 bytes.
    pub(super) fn login(&self, lease: LeaseId) -> Ident {
        let id = lease.to_string();
        let digits = id.strip_prefix(LeaseId::PREFIX).unwrap_or(&id);
        Ident(format!("{}_{digits}", self.0))
    }

    /// The lease that a login is for, if its name is one that [`Prefix::login`] makes.
    pub(super) fn lease(&self, login: &str) -> Option<LeaseId> {
        let digits = login.strip_prefix(&self.0)?.strip_prefix('_')?;
        format!("{}{digits}", LeaseId::PREFIX).parse().ok()
    }

    /// What all names begin with, as a text value of a statement.
    pub(super) fn as_literal(&self) -> Literal {
        Literal(format!("{}_", self.0))
    }

    /// A name for what is made and taken back to see whether that works.
    pub(super) fn trial(&self, random: u64) -> Ident {
        Ident(format!("{}_preflight_{random:016x}", self.0))
    }
}

/// Whether a login bears the mark of a lease, under whichever prefix it was made.
pub(super) fn bears_mark(login: &str, lease: LeaseId) -> bool {
    let id = lease.to_string();
    let digits = id.strip_prefix(LeaseId::PREFIX).unwrap_or(&id);
    login
        .strip_suffix(digits)
        .is_some_and(|prefix| prefix.len() > 1 && prefix.ends_with('_'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::TaskId;

    #[test]
    fn a_login_has_the_name_of_its_lease_and_gives_it_back() {
        let at = Timestamp::from_millis(1_795_329_000_250);
        let lease = LeaseId::new(TaskId::new(at, [1; 10]), at, [2; 10]);
        let longest = "a".repeat(30);
        for prefix in ["dayfly", "dayfly_b", &longest] {
            let prefix: Prefix = prefix.parse().unwrap();
            let login = prefix.login(lease);
            assert!(login.as_str().len() <= 63 && login.as_str().parse::<Ident>().is_ok());
            assert_eq!(prefix.lease(login.as_str()), Some(lease));
            assert!(bears_mark(login.as_str(), lease));
        }
        let (one, other): (Prefix, Prefix) = ("dayfly".parse().unwrap(), "dayfly_b".parse().unwrap());
        assert_eq!(
            one.lease(other.login(lease).as_str()),
            None,
            "another installation"
        );
        assert_eq!(other.lease(one.login(lease).as_str()), None);
        assert_eq!(one.lease(one.trial(7).as_str()), None);
        let strange = LeaseId::new(TaskId::new(at, [1; 10]), at, [3; 10]);
        assert!(!bears_mark(one.login(strange).as_str(), lease));
        assert!(!bears_mark("postgres", lease));
    }

    #[test]
    fn a_name_cannot_leave_its_quotes() {
        assert_eq!(
            "Orders-reader".parse::<Ident>().unwrap().to_string(),
            "\"Orders-reader\""
        );
        for bad in [
            "",
            "1a",
            "-a",
            "a b",
            "a\"b",
            "a'b",
            "a;b",
            "a\nb",
            "a\0b",
            "*",
            "ä",
            "a$b",
            "{role}",
            "a\\b",
            "a.b",
            &"a".repeat(64),
        ] {
            assert!(bad.parse::<Ident>().is_err(), "{bad:?}");
        }
        for bad in ["", "Dayfly", "1a", "_a", "pg_a", "a-b", "a'", &"a".repeat(31)] {
            assert!(bad.parse::<Prefix>().is_err(), "{bad:?}");
        }
    }
}
