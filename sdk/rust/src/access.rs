//! What is asked for: one tool, some of its actions, and some of its resources.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Problem};

/// One tool, at least one of its actions, and resources; no resource means the tool as a whole.
///
/// As a text it is `tool:action[,action…][@resource[,resource…]]`, as on the command line:
///
/// ```
/// use dayfly_client::Access;
///
/// let access: Access = "crm:read,comment@customers/42".parse()?;
/// assert_eq!(access.tool(), "crm");
/// assert!(access.covers(&"crm:read@customers/42/notes".parse()?));
/// # Ok::<_, dayfly_client::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Access {
    tool: String,
    actions: BTreeSet<String>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    resources: BTreeSet<String>,
}

/// A text that is no access.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "`{0}` is no access: write `tool:action[,action…][@resource[,resource…]]`, such as `crm:read@customers/42`"
)]
pub struct InvalidAccess(String);

impl Access {
    /// An access of this tool. The broker judges the names.
    pub fn new<A, R>(
        tool: impl Into<String>,
        actions: impl IntoIterator<Item = A>,
        resources: impl IntoIterator<Item = R>,
    ) -> Self
    where
        A: Into<String>,
        R: Into<String>,
    {
        Self {
            tool: tool.into(),
            actions: actions.into_iter().map(Into::into).collect(),
            resources: resources.into_iter().map(Into::into).collect(),
        }
    }

    /// The tool.
    pub fn tool(&self) -> &str {
        &self.tool
    }

    /// The actions, in alphabetical order.
    pub fn actions(&self) -> impl Iterator<Item = &str> {
        self.actions.iter().map(String::as_str)
    }

    /// The resources, in alphabetical order; none means the tool as a whole.
    pub fn resources(&self) -> impl Iterator<Item = &str> {
        self.resources.iter().map(String::as_str)
    }

    /// Whether everything that `other` asks for is within this access. A resource covers what lies below it:
    /// `customers` covers `customers/42`, and not `customers-2`.
    pub fn covers(&self, other: &Self) -> bool {
        let below = |mine: &String, theirs: &String| {
            let rest = theirs.strip_prefix(mine.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let covered = |theirs: &String| self.resources.iter().any(|mine| below(mine, theirs));
        self.tool == other.tool
            && other.actions.is_subset(&self.actions)
            && (self.resources.is_empty()
                || (!other.resources.is_empty() && other.resources.iter().all(covered)))
    }
}

impl FromStr for Access {
    type Err = InvalidAccess;

    fn from_str(text: &str) -> Result<Self, InvalidAccess> {
        let read = || {
            let (tool, rest) = text.split_once(':')?;
            let (actions, resources) = match rest.split_once('@') {
                Some((actions, resources)) => (actions, Some(resources)),
                None => (rest, None),
            };
            let named = |list: &str| !list.split(',').any(|name| name.trim().is_empty());
            let whole = !tool.is_empty() && named(actions) && resources.is_none_or(named);
            let names = |list: &str| list.split(',').map(str::to_owned).collect();
            whole.then(|| Self {
                tool: tool.to_owned(),
                actions: names(actions),
                resources: resources.map(names).unwrap_or_default(),
            })
        };
        read().ok_or_else(|| InvalidAccess(text.chars().take(64).flat_map(char::escape_default).collect()))
    }
}

impl TryFrom<&str> for Access {
    type Error = InvalidAccess;

    fn try_from(text: &str) -> Result<Self, InvalidAccess> {
        text.parse()
    }
}

impl TryFrom<String> for Access {
    type Error = InvalidAccess;

    fn try_from(text: String) -> Result<Self, InvalidAccess> {
        text.parse()
    }
}

impl TryFrom<&String> for Access {
    type Error = InvalidAccess;

    fn try_from(text: &String) -> Result<Self, InvalidAccess> {
        text.parse()
    }
}

impl From<&Self> for Access {
    fn from(access: &Self) -> Self {
        access.clone()
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let joined =
            |names: &BTreeSet<String>| names.iter().map(String::as_str).collect::<Vec<_>>().join(",");
        write!(f, "{}:{}", self.tool, joined(&self.actions))?;
        if !self.resources.is_empty() {
            write!(f, "@{}", joined(&self.resources))?;
        }
        Ok(())
    }
}

/// The accesses of a scope, from whatever they were written as.
pub(crate) fn scope<A>(accesses: impl IntoIterator<Item = A>) -> Result<Vec<Access>, Error>
where
    A: TryInto<Access>,
    Error: From<A::Error>,
{
    let read = accesses.into_iter().map(|access| Ok(access.try_into()?));
    read.collect()
}

/// Refuses an access that no single access of the scope covers.
pub(crate) fn within<'a>(scope: &[Access], asked: impl IntoIterator<Item = &'a Access>) -> Result<(), Error> {
    let mut asked = asked.into_iter();
    match asked.find(|access| !scope.iter().any(|mine| mine.covers(access))) {
        None => Ok(()),
        Some(access) => Err(Error::ScopeWidening(Problem::here(
            "scope-widening",
            "this is outside the scope of the task",
            format!("no access of the task covers `{access}`"),
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(text: &str) -> Access {
        text.parse().unwrap()
    }

    #[test]
    fn is_read_from_one_word_and_written_as_one() {
        let read = access("crm:read,comment@orders,customers/42");
        assert_eq!(
            read,
            Access::new("crm", ["comment", "read"], ["customers/42", "orders"])
        );
        assert_eq!(read.to_string(), "crm:comment,read@customers/42,orders");
        assert_eq!(access("crm:read").resources().count(), 0);
        for bad in [
            "",
            "crm",
            "crm:",
            ":read",
            "crm:read@",
            "crm:read,,write",
            "crm:read@a,",
        ] {
            assert!(bad.parse::<Access>().is_err(), "{bad}");
        }
    }

    #[test]
    fn covers_what_is_narrower_and_nothing_else() {
        let mine = access("crm:read,list@customers,orders/7");
        for (text, covered) in [
            ("crm:read@customers/42/notes", true),
            ("crm:read,list@customers,orders/7", true),
            ("crm:read@customers-archive", false),
            ("crm:read@orders", false),
            ("crm:write@customers", false),
            ("crm:read", false),
            ("erp:read@customers", false),
        ] {
            assert_eq!(mine.covers(&access(text)), covered, "{text}");
        }
        assert!(access("crm:read").covers(&access("crm:read@anything")));
    }

    #[test]
    fn a_scope_covers_access_by_access() {
        let scope = [access("crm:read@customers"), access("crm:read,write@orders")];
        assert!(
            within(
                &scope,
                [&access("crm:write@orders/7"), &access("crm:read@customers/1")]
            )
            .is_ok()
        );
        let both = access("crm:read@customers/42,orders/7");
        assert!(matches!(within(&scope, [&both]), Err(Error::ScopeWidening(_))));
    }

    #[test]
    fn goes_to_the_broker_as_an_object() {
        let sent = serde_json::to_value(access("crm:read")).unwrap();
        assert_eq!(sent, serde_json::json!({"tool": "crm", "actions": ["read"]}));
        let back: Access = serde_json::from_value(sent).unwrap();
        assert_eq!(back, access("crm:read"));
    }
}
