//! A text that is shown to nobody by accident.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer};
use subtle::ConstantTimeEq;

/// What is shown in place of a secret.
const REDACTED: &str = "<redacted>";

/// A secret text. It prints as `<redacted>`, cannot be serialised, compares in constant time, and is wiped
/// from memory when its last owner lets go of it. [`reveal`](Self::reveal) is the one way to its value.
///
/// ```
/// let token = dayfly_client::Secret::from("eyJ…");
/// assert_eq!(format!("{token} {token:?}"), "<redacted> <redacted>");
/// assert_eq!(token.reveal(), "eyJ…");
/// ```
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// The value. Say it as late as can be, to whom it is for, and keep no copy.
    pub fn reveal(&self) -> &str {
        self.0.expose_secret()
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl ExposeSecret<str> for Secret {
    fn expose_secret(&self) -> &str {
        self.reveal()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

/// In constant time for texts of one length.
impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.reveal().as_bytes().ct_eq(other.reveal().as_bytes()).into()
    }
}

impl Eq for Secret {}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_nothing_however_it_is_printed() {
        let secret = Secret::from("hunter2");
        let nested = format!("{secret} {secret:?} {secret:#?} {:?}", Some(&secret));
        assert!(!nested.contains("hunter2"), "{nested}");
        assert_eq!(secret, Secret::from("hunter2".to_owned()));
        assert_ne!(secret, Secret::from("hunter3"));
        assert_ne!(secret, Secret::from("hunter"));
    }
}
