//! SPIFFE IDs and trust domains, parsed strictly by the SPIFFE-ID standard §2 or refused.
//!
//! A general URL parser would take ports, percent-encoding, `..` and upper case; each of them has
//! been somebody's bypass. A bad id is never normalised into a good one. The one thing that the
//! standard folds, the case of the scheme and the trust domain, is refused here too: nothing that
//! follows the standard emits it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::name::InvalidName;
use super::parsed::parsed;

const SCHEME: &str = "spiffe://";
const LONGEST_ID: usize = 2048;
const LONGEST_DOMAIN: usize = 255;
const DOMAIN: &str = "use 1 to 255 lower-case letters, digits, `.`, `-` or `_`";
const ID: &str = "it is `spiffe://trust-domain/path` with segments of letters, digits, `.`, `-` or `_`, 2048 bytes at most";

/// The name of a trust domain, such as `example.org`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// The name as text, without a scheme.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TrustDomain {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-_".contains(&b);
        if text.is_empty() || text.len() > LONGEST_DOMAIN || !text.bytes().all(allowed) {
            return Err(InvalidName::new("trust domain", text, DOMAIN));
        }
        Ok(Self(text.into()))
    }
}

/// The identity of a workload: `spiffe://trust-domain/path`, always with a path.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    text: Arc<str>,
    trust_domain: TrustDomain,
}

impl SpiffeId {
    /// The whole id.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The trust domain, which chooses the bundle that must have signed for it.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The path with its leading slash.
    pub fn path(&self) -> &str {
        self.text
            .get(SCHEME.len() + self.trust_domain.as_str().len()..)
            .unwrap_or_default()
    }
}

impl FromStr for SpiffeId {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidName::new("SPIFFE ID", text, ID);
        if text.len() > LONGEST_ID {
            return Err(invalid());
        }
        let rest = text.strip_prefix(SCHEME).ok_or_else(invalid)?;
        let (domain, path) = rest.split_once('/').ok_or_else(invalid)?;
        let trust_domain = domain.parse().map_err(|_| invalid())?;
        let letter = |b: u8| b.is_ascii_alphanumeric() || b".-_".contains(&b);
        let segment = |s: &str| !matches!(s, "" | "." | "..") && s.bytes().all(letter);
        if !path.split('/').all(segment) {
            return Err(invalid());
        }
        Ok(Self {
            text: text.into(),
            trust_domain,
        })
    }
}

macro_rules! text {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                parsed(deserializer)
            }
        }
    };
}

text!(TrustDomain);
text!(SpiffeId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_an_id_into_domain_and_path() {
        let id: SpiffeId = "spiffe://prod.example_1.org/ns/agents/sa/Support-Bot"
            .parse()
            .unwrap();
        assert_eq!(id.trust_domain().as_str(), "prod.example_1.org");
        assert_eq!(id.path(), "/ns/agents/sa/Support-Bot");
    }

    #[test]
    fn refuses_everything_that_the_standard_does_not_allow() {
        let long = format!("spiffe://example.org/{}", "a".repeat(2048));
        let wide = format!("spiffe://{}/a", "a".repeat(256));
        let bad = [
            "",
            "spiffe://",
            "spiffe:///a",
            "spiffe://example.org",
            "spiffe://example.org/",
            "spiffe://example.org/a/",
            "spiffe://example.org//a",
            "spiffe://example.org/.",
            "spiffe://example.org/a/../b",
            "spiffe://example.org/%61",
            "spiffe://example.org:443/a",
            "spiffe://user@example.org/a",
            "spiffe://Example.org/a",
            "SPIFFE://example.org/a",
            "spiffe://example.org/a?b",
            "spiffe://example.org/a#b",
            "spiffe://example.org/ä",
            "spiffe://exämple.org/a",
            "spiffe://example.org/a b",
            " spiffe://example.org/a",
            "https://example.org/a",
            "spiffe:/example.org/a",
            "spiffe://example.org\\a",
            "spiffe://example.org/a\0",
            long.as_str(),
            wide.as_str(),
        ];
        for text in bad {
            assert!(text.parse::<SpiffeId>().is_err(), "{text}");
        }
    }
}
