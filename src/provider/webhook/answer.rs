//! What receivers answer, read strictly: what is missing or of another kind is an error that names the
//! member and quotes no value; what is not known is left alone.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::model::credential::Credential;
use crate::model::lease::Handle;
use crate::model::secret::Secret;
use crate::model::strict;
use crate::model::time::Timestamp;
use crate::provider::{Presence, ProviderError};

/// The longest text in a credential, in bytes.
const LONGEST_TEXT: usize = 16 * 1024;
/// The most fields of a credential that is made of fields, and the longest name of one.
const MOST_FIELDS: usize = 64;
const LONGEST_NAME: usize = 128;
/// The most entries on a page of the inventory.
pub(super) const MOST_ON_PAGE: usize = 1000;
/// The longest cursor.
const LONGEST_CURSOR: usize = 512;

/// An object of an answer, and where it stands there.
pub(super) struct Object {
    at: &'static str,
    members: Map<String, Value>,
}

/// A page of the inventory.
pub(super) struct Page {
    /// The names, with the ends that are known.
    pub(super) held: Vec<(Handle, Option<Timestamp>)>,
    /// Where the next page begins.
    pub(super) next: Option<String>,
}

fn refused(problem: impl std::fmt::Display) -> ProviderError {
    ProviderError::Refused(format!("its answer cannot be used: {problem}"))
}

impl Object {
    /// The object that a body holds.
    pub(super) fn read(body: &[u8]) -> Result<Self, ProviderError> {
        match strict::read(body).map_err(refused)? {
            Value::Object(members) => Ok(Self { at: "", members }),
            _ => Err(refused("it is no object")),
        }
    }

    fn wrong(&self, name: &str, problem: &str) -> ProviderError {
        refused(format_args!("`{}{name}` {problem}", self.at))
    }

    fn take(&mut self, name: &str) -> Result<Value, ProviderError> {
        let value = self.members.remove(name).filter(|value| !value.is_null());
        value.ok_or_else(|| self.wrong(name, "is missing"))
    }

    fn optional(&mut self, name: &str) -> Result<Option<String>, ProviderError> {
        match self.members.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => self.plain(name, text).map(Some),
            Some(_) => Err(self.wrong(name, "is no text")),
        }
    }

    fn text(&mut self, name: &str) -> Result<String, ProviderError> {
        let Value::String(text) = self.take(name)? else {
            return Err(self.wrong(name, "is no text"));
        };
        self.plain(name, text)
    }

    /// One line that can stand in a header, a setting or a prompt for a password.
    fn plain(&self, name: &str, text: String) -> Result<String, ProviderError> {
        if text.is_empty() || text.len() > LONGEST_TEXT || text.contains(char::is_control) {
            return Err(self.wrong(name, "is empty, too long, or has control characters"));
        }
        Ok(text)
    }

    fn secret(&mut self, name: &str) -> Result<Secret, ProviderError> {
        self.text(name).map(Secret::new)
    }

    fn object(&mut self, name: &'static str, at: &'static str) -> Result<Self, ProviderError> {
        match self.take(name)? {
            Value::Object(members) => Ok(Self { at, members }),
            _ => Err(self.wrong(name, "is no object")),
        }
    }

    fn time(&self, name: &str, text: &str) -> Result<Timestamp, ProviderError> {
        text.parse()
            .map_err(|_| self.wrong(name, "is no RFC 3339 date and time"))
    }

    /// When what the answer is about ends by itself.
    pub(super) fn expires_at(&mut self) -> Result<Timestamp, ProviderError> {
        let text = self.text("expires_at")?;
        self.time("expires_at", &text)
    }

    /// The new credential.
    pub(super) fn credential(&mut self) -> Result<Credential, ProviderError> {
        let mut inner = self.object("credential", "credential.")?;
        match inner.text("type")?.as_str() {
            "bearer_token" => {
                let token = inner.text("token")?;
                if token.contains(|c: char| !c.is_ascii_graphic()) {
                    return Err(inner.wrong("token", "cannot stand in a header"));
                }
                Ok(Credential::Bearer(Secret::new(token)))
            }
            "aws_session" => Ok(Credential::AwsSession {
                access_key_id: inner.text("access_key_id")?,
                secret_access_key: inner.secret("secret_access_key")?,
                session_token: inner.secret("session_token")?,
                region: inner.optional("region")?,
            }),
            "database_login" => Ok(Credential::DatabaseLogin {
                host: inner.text("host")?,
                port: inner.port()?,
                database: inner.text("database")?,
                username: inner.text("username")?,
                password: inner.secret("password")?,
            }),
            "fields" => inner.fields().map(Credential::Fields),
            _ => Err(inner.wrong(
                "type",
                "is none of `bearer_token`, `aws_session`, `database_login`, `fields`",
            )),
        }
    }

    /// The new credential, where there is one.
    pub(super) fn optional_credential(&mut self) -> Result<Option<Credential>, ProviderError> {
        match self.members.get("credential") {
            None | Some(Value::Null) => Ok(None),
            Some(_) => self.credential().map(Some),
        }
    }

    fn port(&mut self) -> Result<u16, ProviderError> {
        let port = self
            .take("port")?
            .as_u64()
            .and_then(|port| u16::try_from(port).ok());
        port.filter(|port| *port > 0)
            .ok_or_else(|| self.wrong("port", "is no number from 1 to 65535"))
    }

    fn fields(&mut self) -> Result<BTreeMap<String, Secret>, ProviderError> {
        let inner = self.object("fields", "credential.fields.")?;
        if inner.members.is_empty() || inner.members.len() > MOST_FIELDS {
            return Err(self.wrong("fields", "has no field, or more than 64"));
        }
        let mut fields = BTreeMap::new();
        for (name, value) in inner.members {
            // A field may have several lines: a key in PEM, a configuration file.
            let text = match value {
                Value::String(text) => text,
                other => other.to_string(),
            };
            let fits = !name.is_empty() && name.len() <= LONGEST_NAME && text.len() <= LONGEST_TEXT;
            if !fits || name.contains(char::is_control) {
                return Err(self.wrong("fields", "has a name or a value that is too long, or a bad name"));
            }
            fields.insert(name, Secret::new(text));
        }
        Ok(fields)
    }

    /// Whether it is there.
    pub(super) fn presence(&mut self) -> Result<Presence, ProviderError> {
        match self.text("presence")?.as_str() {
            "absent" => Ok(Presence::Absent),
            "present" => Ok(Presence::Present),
            "unknown" => Ok(Presence::Unknown),
            _ => Err(self.wrong("presence", "is none of `absent`, `present`, `unknown`")),
        }
    }

    /// A page of the inventory.
    pub(super) fn page(mut self) -> Result<Page, ProviderError> {
        let Value::Array(items) = self.take("held")? else {
            return Err(self.wrong("held", "is no list"));
        };
        if items.len() > MOST_ON_PAGE {
            return Err(self.wrong("held", "is longer than the page that was asked for"));
        }
        let held = items.into_iter().map(|item| {
            let Value::Object(members) = item else {
                return Err(self.wrong("held", "has an entry that is no object"));
            };
            let mut entry = Self {
                at: "held[].",
                members,
            };
            let until = entry.optional("expires_at")?;
            let until = until.map(|text| entry.time("expires_at", &text)).transpose()?;
            Ok((Handle(entry.text("handle")?), until))
        });
        let held = held.collect::<Result<_, _>>()?;
        let next = self.optional("next")?;
        if next.as_ref().is_some_and(|next| next.len() > LONGEST_CURSOR) {
            return Err(self.wrong("next", "is too long"));
        }
        Ok(Page { held, next })
    }

    /// A member that is only told on, if it is a text.
    pub(super) fn hint(&mut self, name: &str) -> Option<String> {
        match self.members.remove(name) {
            Some(Value::String(text)) => Some(text),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn credential(value: Value) -> Result<Credential, String> {
        let body = json!({"credential": value, "new": {"in": "a later version"}}).to_string();
        let read = Object::read(body.as_bytes()).and_then(|mut object| object.credential());
        read.map_err(|error| error.to_string())
    }

    #[test]
    fn reads_each_shape_of_credential() {
        let shapes = [
            (
                json!({"type": "bearer_token", "token": "t", "more": 1}),
                "bearer_token",
            ),
            (
                json!({"type": "aws_session", "access_key_id": "a", "secret_access_key": "b", "session_token": "c"}),
                "aws_session",
            ),
            (
                json!({"type": "database_login", "host": "h", "port": 5432, "database": "d", "username": "u", "password": "p"}),
                "database_login",
            ),
            (
                json!({"type": "fields", "fields": {"pem": "a\nb", "hosts": ["x", 1]}}),
                "fields",
            ),
        ];
        for (shape, kind) in shapes {
            assert_eq!(credential(shape).unwrap().kind(), kind);
        }
        let Ok(Credential::Fields(fields)) =
            credential(json!({"type": "fields", "fields": {"hosts": ["x", 1]}}))
        else {
            panic!("no fields");
        };
        assert_eq!(fields["hosts"].expose(), r#"["x",1]"#);
    }

    #[test]
    fn names_what_is_missing_or_wrong_and_quotes_nothing() {
        let many: Map<String, Value> = (0..65).map(|n| (n.to_string(), json!("s3cret"))).collect();
        for (shape, says) in [
            (json!("s3cret"), "`credential` is no object"),
            (json!({"token": "s3cret"}), "`credential.type` is missing"),
            (json!({"type": "s3cret"}), "`credential.type` is none of"),
            (json!({"type": "bearer_token"}), "`credential.token` is missing"),
            (
                json!({"type": "bearer_token", "token": null}),
                "`credential.token` is missing",
            ),
            (
                json!({"type": "bearer_token", "token": ["s3cret"]}),
                "`credential.token` is no text",
            ),
            (
                json!({"type": "bearer_token", "token": ""}),
                "`credential.token` is empty",
            ),
            (
                json!({"type": "bearer_token", "token": "s3cret\r\nx: y"}),
                "`credential.token` is empty",
            ),
            (
                json!({"type": "bearer_token", "token": "s3cret and more"}),
                "`credential.token` cannot stand",
            ),
            (
                json!({"type": "database_login", "host": "h", "port": 65_536, "database": "d"}),
                "`credential.port` is no number",
            ),
            (
                json!({"type": "aws_session", "access_key_id": "a", "secret_access_key": "s3cret"}),
                "`credential.session_token` is missing",
            ),
            (
                json!({"type": "fields", "fields": {}}),
                "`credential.fields` has no field",
            ),
            (
                json!({"type": "fields", "fields": many}),
                "`credential.fields` has no field, or more",
            ),
            (
                json!({"type": "fields", "fields": {"s3cret\n": "b"}}),
                "`credential.fields` has a name",
            ),
        ] {
            let error = credential(shape).unwrap_err();
            assert!(error.contains(says), "{error} does not say {says}");
            assert!(!error.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn reads_a_page_whole_or_not_at_all() {
        let page = |body: Value| {
            Object::read(body.to_string().as_bytes())
                .and_then(Object::page)
                .map_err(|error| error.to_string())
        };
        let read =
            page(json!({"held": [{"handle": "a"}, {"handle": "b", "expires_at": "2026-11-22T06:30:00Z"}]}));
        let read = read.unwrap();
        assert_eq!((read.held.len(), read.next), (2, None));
        let long: Vec<Value> = (0..=MOST_ON_PAGE)
            .map(|n| json!({"handle": n.to_string()}))
            .collect();
        for (bad, says) in [
            (json!({}), "`held` is missing"),
            (json!({"held": {}}), "`held` is no list"),
            (json!({"held": ["a"]}), "`held` has an entry"),
            (json!({"held": [{}]}), "`held[].handle` is missing"),
            (
                json!({"held": [{"handle": "a", "expires_at": "soon"}]}),
                "`held[].expires_at` is no RFC",
            ),
            (json!({"held": long}), "`held` is longer"),
            (json!({"held": [], "next": "x".repeat(513)}), "`next` is too long"),
        ] {
            let Err(error) = page(bad) else {
                panic!("it was read: {says}");
            };
            assert!(error.contains(says), "{error}");
        }
    }
}
