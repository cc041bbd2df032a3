//! The words on the wire: bodies and queries that come in, bodies that go out.
//!
//! What comes in refuses unknown fields and is made of model types, so that a body that was read is
//! valid. What goes out is written here and nowhere else: the model can change without the API.

pub mod access;
pub mod credentials;
pub mod facts;
pub mod leases;
pub mod reconciliations;
pub mod registry;
pub mod rules;
pub mod tasks;

use std::fmt::Display;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::openapi::schema::{Object, ObjectBuilder, Type};

use crate::model::lease::Ending;
use crate::model::name::InvalidName;
use crate::model::ttl::{Bound, Ttl};

/// Why somebody ended something, in words: 1 to 512 characters without control characters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Reason(String);

impl Reason {
    /// The words.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Reason {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let fits =
            !text.trim().is_empty() && text.chars().count() <= 512 && !text.chars().any(char::is_control);
        if fits {
            Ok(Self(text))
        } else {
            Err("a reason has 1 to 512 characters, without control characters")
        }
    }
}

/// How long to wait: like a [`Ttl`], and `0` is not at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Wait(Option<Ttl>);

impl Wait {
    /// As a duration.
    pub fn duration(self) -> Duration {
        self.0.map_or(Duration::ZERO, Ttl::as_duration)
    }
}

impl TryFrom<String> for Wait {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        match text.as_str() {
            "0" | "0s" => Ok(Self(None)),
            text => text.parse().map(|ttl| Self(Some(ttl))),
        }
    }
}

/// A schema of one of a few words.
fn one_of(words: impl IntoIterator<Item = impl Display>) -> Object {
    let words = words.into_iter().map(|word| word.to_string());
    ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some(words))
        .build()
}

/// The schema of a length of time that comes in.
pub(super) fn length() -> Object {
    ObjectBuilder::new()
        .schema_type(utoipa::openapi::schema::SchemaType::from_iter([
            Type::Integer,
            Type::String,
        ]))
        .description(Some(
            "Seconds, or a text with units such as `90s`, `5m` or `1h30m`.",
        ))
        .examples([serde_json::json!("5m"), serde_json::json!(300)])
        .build()
}

/// The schema of an [`Ending`].
fn ending() -> Object {
    one_of(
        [
            Ending::Immediate,
            Ending::DenyListed,
            Ending::AtExpiry,
            Ending::Never,
        ]
        .map(Ending::as_str),
    )
}

/// The schema of a [`Bound`].
fn bound() -> Object {
    one_of(Bound::ALL.map(Bound::as_str))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_a_line_of_text() {
        let read = |text: &str| serde_json::from_value::<Reason>(text.into());
        assert_eq!(read("left the company").unwrap().as_str(), "left the company");
        for bad in ["", " ", "a\nb", &"a".repeat(513)] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_wait_may_be_nothing() {
        let read = |text: &str| Wait::try_from(text.to_owned()).map(Wait::duration);
        assert_eq!(read("0"), Ok(Duration::ZERO));
        assert_eq!(read("20"), Ok(Duration::from_secs(20)));
        assert_eq!(read("5s"), Ok(Duration::from_secs(5)));
        assert!(read("").is_err() && read("-1").is_err() && read("soon").is_err());
    }

    #[test]
    fn schemas_list_the_words_that_are_sent() {
        let schema = serde_json::to_value(bound()).unwrap();
        assert_eq!(schema["enum"].as_array().unwrap().len(), 8);
        assert_eq!(schema["enum"][7], "attestation");
    }
}
