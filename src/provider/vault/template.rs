//! Texts with places to fill in: `database/creds/orders-{resource}`.
//!
//! What is filled in comes from an agent, so it can only be a name: letters, digits, `.`, `_` and `-`.
//! A resource of several segments fits only where it is the whole end of a path.

use std::fmt;

use crate::model::lease::Lease;
use crate::provider::ProviderError;

const SEGMENT: &str = "resources for this tool are made of letters, digits, `.`, `_` and `-`";

/// A text with places.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Template(Vec<Piece>);

#[derive(Clone, PartialEq, Eq, Debug)]
enum Piece {
    Text(String),
    Place(Place),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Resource,
    Lease,
    Task,
    Agent,
    Ttl,
}

impl Place {
    const ALL: [Self; 5] = [Self::Resource, Self::Lease, Self::Task, Self::Agent, Self::Ttl];

    fn as_str(self) -> &'static str {
        match self {
            Self::Resource => "resource",
            Self::Lease => "lease",
            Self::Task => "task",
            Self::Agent => "agent",
            Self::Ttl => "ttl",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|place| place.as_str() == word)
    }
}

/// What is filled in.
pub(super) struct Filling<'a> {
    pub(super) lease: &'a Lease,
    /// The one resource, checked.
    pub(super) resource: Option<&'a str>,
    /// The life of the credential in seconds.
    pub(super) seconds: u64,
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|piece| match piece {
            Piece::Text(text) => f.write_str(text),
            Piece::Place(place) => write!(f, "{{{}}}", place.as_str()),
        })
    }
}

impl Template {
    /// Reads a text; says what is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (mut pieces, mut rest) = (Vec::new(), text);
        while let Some((before, after)) = rest.split_once('{') {
            let Some((word, after)) = after.split_once('}') else {
                return Err(format!("`{text}` has a `{{` without a `}}`"));
            };
            let place = Place::parse(word).ok_or_else(|| {
                format!(
                    "`{{{word}}}` is unknown: write `{{resource}}`, `{{lease}}`, `{{task}}`, `{{agent}}` or `{{ttl}}`"
                )
            })?;
            pieces.extend([Piece::Text(before.to_owned()), Piece::Place(place)]);
            rest = after;
        }
        pieces.push(Piece::Text(rest.to_owned()));
        pieces.retain(|piece| *piece != Piece::Text(String::new()));
        Ok(Self(pieces))
    }

    /// Reads the path of a secret.
    pub(super) fn parse_path(text: &str) -> Result<Self, String> {
        let letter = |c: char| c.is_ascii_alphanumeric() || "._-/{}".contains(c);
        if text.is_empty() || text.len() > 512 || !text.chars().all(letter) {
            return Err(format!(
                "the path `{text}` has to be made of letters, digits, `.`, `_`, `-`, `/` and places such as `{{resource}}`"
            ));
        }
        if !segments(text) {
            return Err(format!(
                "the path `{text}` has an empty segment, `.` or `..`; write it without `/` at its ends"
            ));
        }
        let first = text.split('/').next().unwrap_or_default();
        if first.contains('{') || ["v1", "sys", "auth", "cubbyhole"].contains(&first) {
            return Err(format!(
                "the path `{text}` has to begin with the mount of a secrets engine, such as `database/creds/orders`"
            ));
        }
        Self::parse(text)
    }

    fn has(&self, place: Place) -> bool {
        self.0.contains(&Piece::Place(place))
    }

    /// Whether it says which resource.
    pub(super) fn names_the_resource(&self) -> bool {
        self.has(Place::Resource)
    }

    /// Whether it says for how long.
    pub(super) fn names_the_life(&self) -> bool {
        self.has(Place::Ttl)
    }

    /// The text with its places filled in.
    pub(super) fn fill(&self, filling: &Filling<'_>) -> Result<String, ProviderError> {
        let mut text = String::new();
        for (at, piece) in self.0.iter().enumerate() {
            let place = match piece {
                Piece::Text(own) => {
                    text.push_str(own);
                    continue;
                }
                Piece::Place(place) => place,
            };
            match place {
                Place::Resource => {
                    let resource = filling.resource.ok_or_else(|| unfit("name one resource"))?;
                    let is_tail = at + 1 == self.0.len() && (text.is_empty() || text.ends_with('/'));
                    if resource.contains('/') && !is_tail {
                        return Err(unfit("the resource has to be one segment, without `/`"));
                    }
                    text.push_str(resource);
                }
                Place::Lease => text.push_str(&filling.lease.id.to_string()),
                Place::Task => text.push_str(&filling.lease.task.to_string()),
                Place::Agent => text.push_str(filling.lease.agent.as_str()),
                Place::Ttl => text.push_str(&format!("{}s", filling.seconds)),
            }
        }
        if text.split('/').any(|segment| segment == "." || segment == "..") {
            return Err(unfit(SEGMENT));
        }
        Ok(text)
    }
}

/// A resource that may be filled in.
pub(super) fn checked(resource: &str) -> Result<&str, ProviderError> {
    let letter = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
    match segments(resource) && resource.chars().all(letter) {
        true => Ok(resource),
        false => Err(unfit(SEGMENT)),
    }
}

/// Whether every segment of a path is one: not empty, not `.`, and nowhere `..`.
fn segments(path: &str) -> bool {
    let good = |segment: &str| !segment.is_empty() && segment != "." && !segment.contains("..");
    path.split('/').all(good)
}

fn unfit(reason: &str) -> ProviderError {
    ProviderError::Unfit {
        pointer: "/resources",
        reason: reason.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::vault::testing::lease;

    fn fill(template: &str, resource: Option<&str>) -> Result<String, String> {
        let lease = lease();
        let filling = Filling {
            lease: &lease,
            resource: resource.map(checked).transpose().map_err(|e| e.to_string())?,
            seconds: 300,
        };
        let template = Template::parse_path(template)?;
        template.fill(&filling).map_err(|error| error.to_string())
    }

    #[test]
    fn fills_in_names_and_nothing_else() {
        assert_eq!(
            fill("database/creds/orders-{resource}", Some("eu-1")).unwrap(),
            "database/creds/orders-eu-1"
        );
        assert_eq!(
            fill("kv/data/{resource}", Some("a/b.c")).unwrap(),
            "kv/data/a/b.c"
        );
        assert_eq!(fill("x/{agent}/{ttl}", None).unwrap(), "x/support-bot/300s");
        for resource in [
            "", "..", "a/../b", "a//b", "/a", "a/", ".", "a b", "a%2fb", "ä", "a?b", "a..b",
        ] {
            assert!(fill("kv/data/{resource}", Some(resource)).is_err(), "{resource}");
        }
        assert!(fill("database/creds/orders-{resource}", Some("a/b")).is_err());
        assert!(fill("database/{resource}/orders", Some("a/b")).is_err());
        assert!(fill("database/creds/{resource}", None).is_err());
        assert!(fill("database/creds/{resource}.", Some(".")).is_err());
    }

    #[test]
    fn a_path_belongs_to_a_secrets_engine() {
        for path in [
            "",
            "/kv/a",
            "kv/a/",
            "kv//a",
            "kv/../sys",
            "sys/policies",
            "auth/token/create",
            "v1/kv/a",
            "cubbyhole/a",
            "{resource}/a",
            "kv/a b",
            "kv/{what}",
            "kv/{resource",
            "kv/a?list=true",
        ] {
            assert!(Template::parse_path(path).is_err(), "{path}");
        }
    }
}
