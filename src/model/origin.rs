//! Web origins: where a credential may be sent (RFC 6454).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::name::InvalidName;
use super::parsed::parsed;

const LONGEST: usize = 300;
const EXPECTED: &str =
    "write a scheme, a host and no path, such as `https://crm.example.org` or `http://127.0.0.1:8441`";

/// The scheme, host and port of a tool, such as `https://crm.example.org`. In lower case, and without the port
/// that its scheme has anyway, so that two are the same where their texts are.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin(Arc<str>);

impl Origin {
    /// The origin as text, without a slash at its end.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// That of a URI, if it is one of HTTP.
    pub fn of(uri: &str) -> Option<Self> {
        let (scheme, rest) = uri.split_once("://")?;
        let authority = rest.split(['/', '?']).next()?;
        format!("{scheme}://{authority}").parse().ok()
    }

    fn read(text: &str) -> Option<Self> {
        let (scheme, authority) = text.split_once("://")?;
        let scheme = scheme.to_ascii_lowercase();
        let usual = match scheme.as_str() {
            "https" => 443,
            "http" => 80,
            _ => return None,
        };
        let authority = authority.to_ascii_lowercase();
        // What stands in brackets has colons of its own.
        let end = authority.rfind(']').map_or(0, |at| at + 1);
        let (host, port) = match authority.get(end..)?.find(':') {
            Some(at) => {
                let (host, port) = authority.split_at_checked(end + at)?;
                let port = port.strip_prefix(':')?;
                if !port.bytes().all(|b| b.is_ascii_digit()) {
                    return None;
                }
                (host, port.parse::<u16>().ok().filter(|port| *port != 0)?)
            }
            None => (authority.as_str(), usual),
        };
        let named = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
        let numbered = || {
            let inside = host.strip_prefix('[')?.strip_suffix(']')?;
            inside.parse::<std::net::Ipv6Addr>().ok()
        };
        let is_host = !host.is_empty() && host.bytes().all(named);
        let host = match numbered() {
            Some(address) => format!("[{address}]"),
            None if is_host => host.to_owned(),
            None => return None,
        };
        Some(Self(match port == usual {
            true => format!("{scheme}://{host}").into(),
            false => format!("{scheme}://{host}:{port}").into(),
        }))
    }
}

impl FromStr for Origin {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let short = Some(text).filter(|text| text.len() <= LONGEST);
        short
            .and_then(Self::read)
            .ok_or_else(|| InvalidName::new("origin", text, EXPECTED))
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Origin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Origin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parsed(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_one_text_however_it_was_written() {
        for (text, origin) in [
            ("https://crm.example.org", "https://crm.example.org"),
            ("HTTPS://CRM.example.org:443", "https://crm.example.org"),
            ("http://127.0.0.1:8441", "http://127.0.0.1:8441"),
            ("http://127.0.0.1:80", "http://127.0.0.1"),
            ("https://[0:0::1]:8443", "https://[::1]:8443"),
            ("https://[::1]", "https://[::1]"),
        ] {
            assert_eq!(text.parse::<Origin>().unwrap().as_str(), origin, "{text}");
        }
    }

    #[test]
    fn what_is_more_or_less_than_an_origin_is_refused() {
        for text in [
            "",
            "crm.example.org",
            "https://",
            "https://crm.example.org/",
            "https://crm.example.org?a",
            "https://user@crm.example.org",
            "https://crm.example.org:",
            "https://crm.example.org:0",
            "https://crm.example.org:+1",
            "https://crm.example.org:65536",
            "https://[::1",
            "https://[::1]x",
            "https://::1",
            "https://cr m.example.org",
            "ftp://crm.example.org",
            "urn:example:crm",
        ] {
            assert!(text.parse::<Origin>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_uri_of_http_has_one() {
        let of = |uri| Origin::of(uri).map(|origin| origin.to_string());
        assert_eq!(
            of("https://a.example/v1?x=y"),
            Some("https://a.example".to_owned())
        );
        assert_eq!(of("https://a.example"), Some("https://a.example".to_owned()));
        assert_eq!(of("https://a.example?x=y"), Some("https://a.example".to_owned()));
        assert_eq!(of("https://u@a.example/"), None);
        for other in ["urn:example:crm", "spiffe://example.org/crm", "arn:aws:s3:::x"] {
            assert_eq!(of(other), None, "{other}");
        }
    }
}
