//! Subject identifiers (RFC 9493), and the complex subjects of SSF 1.0 §3.2: whom a token is about, in the
//! words of its transmitter.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::SignalError;

/// The longest text of an identifier, in bytes: as long as a SPIFFE ID may be.
const LONGEST: usize = 2048;
/// The most names that one subject may have.
const MOST_ALIASES: usize = 8;

/// The members of a complex subject that mean something (SSF 1.0 §3.2, and `workload`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Role {
    /// Somebody.
    User,
    /// A device.
    Device,
    /// A session, or a token.
    Session,
    /// An application: an agent.
    Application,
    /// A running process: an agent.
    Workload,
    /// Who the rest belongs to.
    Tenant,
    /// A unit of an organisation.
    OrgUnit,
    /// A group of users.
    Group,
}

impl Role {
    const ALL: [(&'static str, Self); 8] = [
        ("user", Self::User),
        ("device", Self::Device),
        ("session", Self::Session),
        ("application", Self::Application),
        ("workload", Self::Workload),
        ("tenant", Self::Tenant),
        ("org_unit", Self::OrgUnit),
        ("group", Self::Group),
    ];

    /// The role of this name, in whatever case: CAEP writes `principal` in capitals.
    pub fn of(name: &str) -> Option<Self> {
        let known = Self::ALL
            .iter()
            .find(|(known, _)| name.eq_ignore_ascii_case(known));
        known.map(|(_, role)| *role)
    }
}

/// A format of identifiers that users can be named by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Format {
    /// RFC 9493 §3.2.1, an `acct:` URI.
    Account,
    /// §3.2.2
    Email,
    /// §3.2.3
    IssSub,
    /// §3.2.4
    Opaque,
    /// §3.2.7
    Uri,
}

impl Format {
    /// Every one.
    pub const ALL: [Self; 5] = [Self::Account, Self::Email, Self::IssSub, Self::Opaque, Self::Uri];

    /// The registered name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Account => "account",
            Self::Email => "email",
            Self::IssSub => "iss_sub",
            Self::Opaque => "opaque",
            Self::Uri => "uri",
        }
    }

    /// The member that says who, of those that the format has.
    pub const fn member(self) -> &'static str {
        match self {
            Self::Account | Self::Uri => "uri",
            Self::Email => "email",
            Self::IssSub => "sub",
            Self::Opaque => "id",
        }
    }
}

/// One identifier.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Identifier {
    /// Names somebody or something by one text.
    Simple {
        /// In which format.
        format: Format,
        /// Who names it so; `iss_sub` only.
        issuer: Option<String>,
        /// The text.
        text: String,
    },
    /// Names a token (RFC 9493 §3.2.6).
    JwtId {
        /// Who issued the token.
        issuer: String,
        /// Its `jti`.
        jti: String,
    },
    /// Several names of one subject (RFC 9493 §3.2.8).
    Aliases(Vec<Identifier>),
    /// Several things that the subject consists of.
    Complex(BTreeMap<Role, Identifier>),
    /// Of a format that means nothing here.
    Other,
}

impl Identifier {
    /// What the value says. `early` takes what drafts had when the subject still stood in the event: a
    /// `subject_type` in place of the `format`, and complex subjects with neither.
    pub fn read(value: Option<&Value>, early: bool) -> Result<Self, SignalError> {
        match value {
            Some(Value::Object(members)) => subject(members, early),
            Some(_) => Err(malformed("its subject is no object")),
            None => Err(malformed("it names no subject: there is no `sub_id`")),
        }
    }
}

fn malformed(reason: &str) -> SignalError {
    SignalError::Malformed(reason.to_owned())
}

fn subject(members: &Map<String, Value>, early: bool) -> Result<Identifier, SignalError> {
    match format(members, early)?.as_deref() {
        Some("complex") => complex(members, early),
        None if early => complex(members, early),
        None => Err(malformed("its subject has no `format`")),
        Some("aliases") => aliases(members, early),
        Some(format) => simple(format, members),
    }
}

fn format(members: &Map<String, Value>, early: bool) -> Result<Option<String>, SignalError> {
    let named = match members.get("format") {
        None if early => members.get("subject_type"),
        named => named,
    };
    match named {
        None => Ok(None),
        Some(Value::String(format)) if early => Ok(Some(format.replace('-', "_"))),
        Some(Value::String(format)) => Ok(Some(format.clone())),
        Some(_) => Err(malformed("the `format` of its subject is no text")),
    }
}

fn complex(members: &Map<String, Value>, early: bool) -> Result<Identifier, SignalError> {
    let mut parts = BTreeMap::new();
    for (name, value) in members {
        // Exactly as it is written: what is in other case is another member.
        let known = Role::ALL.iter().find(|(known, _)| known == name);
        let Some((_, role)) = known else { continue };
        let Value::Object(part) = value else {
            return Err(SignalError::Malformed(format!(
                "the `{name}` of its subject is no object"
            )));
        };
        let part = match format(part, early)?.as_deref() {
            Some("aliases") => aliases(part, early)?,
            Some("complex") | None => {
                return Err(SignalError::Malformed(format!(
                    "the `{name}` of its subject has no simple `format`"
                )));
            }
            Some(format) => simple(format, part)?,
        };
        parts.insert(*role, part);
    }
    if parts.is_empty() {
        return Err(malformed(
            "its subject has no `format`, and no member that is known",
        ));
    }
    Ok(Identifier::Complex(parts))
}

fn aliases(members: &Map<String, Value>, early: bool) -> Result<Identifier, SignalError> {
    let Some(Value::Array(identifiers)) = members.get("identifiers") else {
        return Err(malformed("its subject is `aliases` without `identifiers`"));
    };
    if identifiers.is_empty() || identifiers.len() > MOST_ALIASES {
        return Err(malformed("its subject has no alias, or more than 8"));
    }
    let each = identifiers.iter().map(|identifier| {
        let Value::Object(members) = identifier else {
            return Err(malformed("an alias of its subject is no object"));
        };
        match format(members, early)?.as_deref() {
            // RFC 9493 §3.2.8: aliases have no aliases.
            Some("aliases" | "complex") | None => {
                Err(malformed("an alias of its subject has no simple `format`"))
            }
            Some(format) => simple(format, members),
        }
    });
    each.collect::<Result<_, _>>().map(Identifier::Aliases)
}

fn simple(format: &str, members: &Map<String, Value>) -> Result<Identifier, SignalError> {
    let text = |name: &str| match members.get(name) {
        Some(Value::String(text)) if !text.is_empty() && text.len() <= LONGEST => Ok(text.clone()),
        _ => Err(SignalError::Malformed(format!(
            "its subject has no `{name}` of 1 to {LONGEST} bytes"
        ))),
    };
    if format == "jwt_id" {
        return Ok(Identifier::JwtId {
            issuer: text("iss")?,
            jti: text("jti")?,
        });
    }
    let Some(format) = Format::ALL.into_iter().find(|known| known.as_str() == format) else {
        return Ok(Identifier::Other);
    };
    Ok(Identifier::Simple {
        format,
        issuer: match format {
            Format::IssSub => Some(text("iss")?),
            _ => None,
        },
        text: text(format.member())?,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: Value) -> Result<Identifier, SignalError> {
        Identifier::read(Some(&value), false)
    }

    fn simple(format: Format, text: &str) -> Identifier {
        Identifier::Simple {
            format,
            issuer: None,
            text: text.into(),
        }
    }

    #[test]
    fn reads_each_format_of_rfc_9493() {
        for (value, meant) in [
            (
                json!({"format": "email", "email": "ann@example.org"}),
                simple(Format::Email, "ann@example.org"),
            ),
            (
                json!({"format": "account", "uri": "acct:ann@example.org"}),
                simple(Format::Account, "acct:ann@example.org"),
            ),
            (
                json!({"format": "opaque", "id": "11112222"}),
                simple(Format::Opaque, "11112222"),
            ),
            (
                json!({"format": "uri", "uri": "spiffe://example.org/a"}),
                simple(Format::Uri, "spiffe://example.org/a"),
            ),
            (
                json!({"format": "iss_sub", "iss": "https://a.example", "sub": "1"}),
                Identifier::Simple {
                    format: Format::IssSub,
                    issuer: Some("https://a.example".into()),
                    text: "1".into(),
                },
            ),
            (
                json!({"format": "jwt_id", "iss": "https://a.example", "jti": "1"}),
                Identifier::JwtId {
                    issuer: "https://a.example".into(),
                    jti: "1".into(),
                },
            ),
            (
                json!({"format": "phone_number", "phone_number": "+12065550100"}),
                Identifier::Other,
            ),
            (
                json!({"format": "did", "url": "did:example:1"}),
                Identifier::Other,
            ),
            (
                json!({"format": "aliases", "identifiers": [{"format": "email", "email": "a@b.c"}, {"format": "opaque", "id": "1"}]}),
                Identifier::Aliases(vec![simple(Format::Email, "a@b.c"), simple(Format::Opaque, "1")]),
            ),
            (
                json!({"format": "complex", "user": {"format": "opaque", "id": "1"}, "colour": 7}),
                Identifier::Complex([(Role::User, simple(Format::Opaque, "1"))].into()),
            ),
        ] {
            assert_eq!(read(value.clone()).unwrap(), meant, "{value}");
        }
    }

    #[test]
    fn refuses_what_names_nobody_or_anybody() {
        let many = vec![json!({"format": "opaque", "id": "1"}); 9];
        for value in [
            json!("ann"),
            json!({}),
            json!({"email": "ann@example.org"}),
            json!({"format": 7}),
            json!({"format": "email"}),
            json!({"format": "email", "email": ""}),
            json!({"format": "email", "email": "a".repeat(2049)}),
            json!({"format": "iss_sub", "sub": "1"}),
            json!({"format": "aliases"}),
            json!({"format": "aliases", "identifiers": []}),
            json!({"format": "aliases", "identifiers": many}),
            json!({"format": "aliases", "identifiers": [{"format": "aliases", "identifiers": []}]}),
            json!({"format": "complex"}),
            json!({"format": "complex", "USER": {"format": "opaque", "id": "1"}}),
            json!({"format": "complex", "user": "ann"}),
            json!({"format": "complex", "user": {"format": "complex", "user": {}}}),
            // Only drafts had these, inside of the event.
            json!({"subject_type": "email", "email": "ann@example.org"}),
            json!({"user": {"format": "opaque", "id": "1"}}),
        ] {
            let error = read(value.clone()).unwrap_err();
            assert_eq!(error.code(), Some("invalid_request"), "{value}");
        }
        assert!(Identifier::read(None, false).is_err());
    }

    #[test]
    fn takes_what_drafts_had_where_they_had_it() {
        for value in [
            json!({"subject_type": "iss-sub", "iss": "https://a.example", "sub": "1"}),
            json!({"user": {"format": "iss_sub", "iss": "https://a.example", "sub": "1"}}),
        ] {
            assert!(Identifier::read(Some(&value), true).is_ok(), "{value}");
        }
    }
}
