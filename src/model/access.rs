//! What is asked for: an **access** is one tool with some of its actions on some of its resources;
//! a **scope** is the set of accesses of a task. Scopes only narrow.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, de};

use super::name::{InvalidName, Operation, ToolName};
use super::parsed::parsed;

/// The path of a resource inside its tool, such as `customers/42`. A path covers what lies below it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct ResourcePath(Arc<str>);

const RULE: &str =
    "use 1 to 16 segments of letters, digits and `-._~@:+=,`, joined by `/`, 256 bytes at most";

impl ResourcePath {
    /// The path as text, without a leading slash.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// This path and each path above it, longest first, without the tool itself.
    pub fn ancestry(&self) -> impl Iterator<Item = &str> {
        let mut rest = Some(self.as_str());
        std::iter::from_fn(move || {
            let path = rest?;
            rest = path.rsplit_once('/').map(|(above, _)| above);
            Some(path)
        })
    }

    /// Whether `other` is this path or lies below it; `customers/4` does not cover `customers/42`.
    pub fn covers(&self, other: &Self) -> bool {
        other
            .0
            .strip_prefix(&*self.0)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl FromStr for ResourcePath {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let letter = |b: u8| b.is_ascii_alphanumeric() || b"-._~@:+=,".contains(&b);
        let segment = |s: &str| !matches!(s, "" | "." | "..") && s.bytes().all(letter);
        if text.len() > 256 || text.split('/').count() > 16 || !text.split('/').all(segment) {
            return Err(InvalidName::new("resource path", text, RULE));
        }
        Ok(Self(text.into()))
    }
}

impl<'de> Deserialize<'de> for ResourcePath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parsed(deserializer)
    }
}

impl fmt::Display for ResourcePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ResourcePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// One tool, at least one of its actions, and resources; no resource means the tool as a whole.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize)]
pub struct Access {
    tool: ToolName,
    actions: BTreeSet<Operation>,
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    resources: BTreeSet<ResourcePath>,
}

/// Why a set of actions and resources is no access.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAccess {
    /// No action was named.
    #[error("name at least one action of `{0}`")]
    NoAction(ToolName),
    /// More actions or resources than one access may name.
    #[error("an access names at most {most} {what}; split the rest into further accesses")]
    TooMany {
        /// `actions` or `resources`.
        what: &'static str,
        /// How many are allowed.
        most: usize,
    },
}

impl Access {
    /// The most actions that one access may name.
    pub const MOST_ACTIONS: usize = 16;
    /// The most resources that one access may name.
    pub const MOST_RESOURCES: usize = 16;

    /// An access with at least one action.
    pub fn new(
        tool: ToolName,
        actions: BTreeSet<Operation>,
        resources: BTreeSet<ResourcePath>,
    ) -> Result<Self, InvalidAccess> {
        if actions.is_empty() {
            return Err(InvalidAccess::NoAction(tool));
        }
        for (what, count, most) in [
            ("actions", actions.len(), Self::MOST_ACTIONS),
            ("resources", resources.len(), Self::MOST_RESOURCES),
        ] {
            if count > most {
                return Err(InvalidAccess::TooMany { what, most });
            }
        }
        Ok(Self {
            tool,
            actions,
            resources,
        })
    }

    /// The tool.
    pub fn tool(&self) -> &ToolName {
        &self.tool
    }

    /// The actions, at least one.
    pub fn actions(&self) -> &BTreeSet<Operation> {
        &self.actions
    }

    /// The resources; none means the tool as a whole.
    pub fn resources(&self) -> &BTreeSet<ResourcePath> {
        &self.resources
    }

    /// Whether everything that `other` asks for is within this access.
    pub fn covers(&self, other: &Self) -> bool {
        self.tool == other.tool
            && other.actions.is_subset(&self.actions)
            && (self.resources.is_empty()
                || (!other.resources.is_empty()
                    && other
                        .resources
                        .iter()
                        .all(|r| self.resources.iter().any(|mine| mine.covers(r)))))
    }
}

impl<'de> Deserialize<'de> for Access {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(AccessVisitor)
    }
}

/// Reads members by name alone: serde would take a list for them too, in the order of the fields.
struct AccessVisitor;

impl<'de> de::Visitor<'de> for AccessVisitor {
    type Value = Access;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with `tool` and `actions`")
    }

    fn visit_map<A: de::MapAccess<'de>>(self, members: A) -> Result<Access, A::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Raw {
            tool: ToolName,
            actions: BTreeSet<Operation>,
            #[serde(default)]
            resources: BTreeSet<ResourcePath>,
        }
        let raw = Raw::deserialize(de::value::MapAccessDeserializer::new(members))?;
        Access::new(raw.tool, raw.actions, raw.resources).map_err(de::Error::custom)
    }
}

/// What a task may ask for at most. Between 1 and 32 accesses.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(transparent)]
pub struct Scope(Vec<Access>);

/// A scope has between 1 and 32 accesses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a scope holds between 1 and 32 accesses, not {0}")]
pub struct InvalidScope(usize);

impl Scope {
    /// The most accesses that a scope may hold.
    pub const MOST: usize = 32;

    /// A scope of at least one access.
    pub fn new(accesses: Vec<Access>) -> Result<Self, InvalidScope> {
        if accesses.is_empty() || accesses.len() > Self::MOST {
            return Err(InvalidScope(accesses.len()));
        }
        Ok(Self(accesses))
    }

    /// The accesses, in the order in which they were asked for.
    pub fn accesses(&self) -> &[Access] {
        &self.0
    }

    /// The place of the first access of `other` that no single access here covers; none where `other` only
    /// narrows this scope.
    pub fn widened_by(&self, other: &Self) -> Option<usize> {
        other.0.iter().position(|access| !self.covers(access))
    }

    /// Whether one of the accesses covers the whole of `access`.
    pub fn covers(&self, access: &Access) -> bool {
        self.0.iter().any(|mine| mine.covers(access))
    }
}

impl<'de> Deserialize<'de> for Scope {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(Vec::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(actions: &[&str], resources: &[&str]) -> Access {
        Access::new(
            "crm".parse().unwrap(),
            actions.iter().map(|a| a.parse().unwrap()).collect(),
            resources.iter().map(|r| r.parse().unwrap()).collect(),
        )
        .unwrap()
    }

    #[test]
    fn covers_narrower_accesses_only() {
        let granted = access(&["read", "list"], &["customers", "orders/7"]);
        assert!(granted.covers(&access(&["read"], &["customers/42/notes"])));
        assert!(granted.covers(&granted));
        assert!(
            !granted.covers(&access(&["read"], &["customers-archive"])),
            "a segment is not a prefix of text"
        );
        assert!(!granted.covers(&access(&["read"], &["orders"])), "above");
        assert!(
            !granted.covers(&access(&["write"], &["customers/42"])),
            "another action"
        );
        assert!(!granted.covers(&access(&["read"], &[])), "the whole tool");
        assert!(access(&["read"], &[]).covers(&access(&["read"], &["anything"])));
    }

    #[test]
    fn a_scope_narrows_access_by_access() {
        let scope = |accesses: &[(&[&str], &[&str])]| {
            let accesses = accesses
                .iter()
                .map(|(actions, resources)| access(actions, resources));
            Scope::new(accesses.collect()).unwrap()
        };
        let whole = scope(&[(&["read"], &["customers"]), (&["read", "write"], &["orders"])]);
        let part = scope(&[
            (&["write"], &["orders/7"]),
            (&["read"], &["customers/42", "customers/43"]),
        ]);
        assert_eq!(whole.widened_by(&part), None);
        assert_eq!(whole.widened_by(&whole), None);
        assert_eq!(part.widened_by(&whole), Some(0));
        for (wider, place) in [
            (scope(&[(&["read"], &["orders"]), (&["read"], &[])]), 1),
            (scope(&[(&["write"], &["customers/42"])]), 0),
            // Each is covered by another access, and no access covers both.
            (scope(&[(&["read"], &["customers/42", "orders/7"])]), 0),
        ] {
            assert_eq!(whole.widened_by(&wider), Some(place));
        }
    }

    #[test]
    fn walks_up_a_path() {
        let path: ResourcePath = "a/b/c".parse().unwrap();
        assert_eq!(path.ancestry().collect::<Vec<_>>(), ["a/b/c", "a/b", "a"]);
    }

    #[test]
    fn refuses_paths_that_could_mean_something_else() {
        for text in [
            "",
            "/a",
            "a/",
            "a//b",
            ".",
            "a/..",
            "a b",
            "a%2fb",
            "a\\b",
            "*",
            "ä",
            &"a/".repeat(17),
            &"a".repeat(257),
        ] {
            assert!(text.parse::<ResourcePath>().is_err(), "{text}");
        }
    }

    #[test]
    fn refuses_empty_unknown_and_oversized_accesses() {
        for json in [
            r#"{"tool":"crm","actions":[]}"#,
            r#"{"tool":"crm","actions":["read"],"resource":["a"]}"#,
            r#"{"actions":["read"]}"#,
            r#"["crm",["read"],[]]"#,
            r#"{"tool":"CRM","actions":["read"]}"#,
        ] {
            assert!(serde_json::from_str::<Access>(json).is_err(), "{json}");
        }
        let many: Vec<String> = (0..17).map(|n| format!("\"a{n}\"")).collect();
        assert!(
            serde_json::from_str::<Access>(&format!(r#"{{"tool":"crm","actions":[{}]}}"#, many.join(",")))
                .is_err()
        );
        assert!(serde_json::from_str::<Scope>("[]").is_err());
    }
}
