//! Bounded names: of agents, tools, operations, environments, zones, roles and owners.
//!
//! One grammar for each kind of text that ends up in policies, metric labels, upstream names and log
//! fields, so that nobody downstream has to escape or to wonder.

use std::fmt;
use std::str::FromStr;

/// Why a text was refused. The message names the rule and the kind of name, never the whole input.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{shown}` is not a valid {kind}: {rule}")]
pub struct InvalidName {
    kind: &'static str,
    shown: String,
    rule: &'static str,
}

impl InvalidName {
    /// A refusal that quotes at most 64 characters of the input.
    pub fn new(kind: &'static str, text: &str, rule: &'static str) -> Self {
        Self {
            kind,
            shown: text.chars().take(64).flat_map(char::escape_default).collect(),
            rule,
        }
    }
}

const SLUG: &str = "use 1 to 63 lower-case letters, digits, `-`, `_` or `.`, starting with a letter or digit";
const LINE: &str = "use 1 to 256 characters on one line, without control characters";

fn slug(text: &str) -> bool {
    let mut bytes = text.bytes();
    text.len() <= 63
        && bytes
            .next()
            .is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b))
}

fn line(text: &str) -> bool {
    !text.trim().is_empty() && text.len() <= 256 && !text.chars().any(char::is_control)
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $holds:path, $rule:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
        #[serde(transparent)]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                if $holds(text) { Ok(Self(text.into())) } else { Err(InvalidName::new($kind, text, $rule)) }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                crate::model::parsed::parsed(deserializer)
            }
        }
    };
}

name!(
    /// The name of a registered agent, such as `support-bot`.
    AgentName, "agent name", slug, SLUG
);
name!(
    /// The name of a catalogued tool, such as `crm`.
    ToolName, "tool name", slug, SLUG
);
name!(
    /// An operation of a tool, such as `read`; with its tool in front it is a Cedar action: `crm:read`.
    Operation, "operation", slug, SLUG
);
name!(
    /// A role that agents hold and policies name, such as `support`.
    Role, "role", slug, SLUG
);
name!(
    /// Where an agent or a tool runs, such as `production`.
    Environment, "environment", slug, SLUG
);
name!(
    /// A network or data zone, such as `eu`. Policies look at crossings.
    Zone, "zone", slug, SLUG
);
name!(
    /// The configured name of a provider, such as `jwt` or `orders-db`.
    ProviderName, "provider name", slug, SLUG
);
name!(
    /// What a fact is about, such as `risk`.
    FactName, "name of a fact", slug, SLUG
);
name!(
    /// What a fact says, such as `high`.
    FactValue, "value of a fact", line, LINE
);
name!(
    /// Who stated a fact: an agent of the registry, or a stream of signals.
    FactSource, "source of a fact", line, LINE
);
name!(
    /// The configured name of a stream of signals, such as `okta`.
    StreamName, "name of a stream", slug, SLUG
);
name!(
    /// Who answers for an agent or a tool: a team or a mailbox.
    Owner, "owner", line, LINE
);
name!(
    /// On whose behalf a task runs: the stable id of a person or a service, never an e-mail address in a token.
    UserId, "user id", line, LINE
);
name!(
    /// Why a task exists, in the words of the agent. Kept in the journal, never put into a token.
    Purpose, "purpose", purpose, "use 1 to 512 characters, without control characters"
);

fn purpose(text: &str) -> bool {
    !text.trim().is_empty() && text.chars().count() <= 512 && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_slugs_and_nothing_else() {
        for good in ["crm", "support-bot", "a", "3scale", "k8s_prod.eu"] {
            assert_eq!(good.parse::<ToolName>().unwrap().as_str(), good);
        }
        let long = "a".repeat(64);
        for bad in ["", "-a", "CRM", "a b", "a:b", "a/b", "ä", long.as_str(), "a\n"] {
            assert!(bad.parse::<ToolName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn quotes_bad_input_without_control_characters() {
        let error = "a\nb".parse::<AgentName>().unwrap_err().to_string();
        assert!(
            error.starts_with(r"`a\nb` is not a valid agent name: use 1 to 63"),
            "{error}"
        );
    }

    #[test]
    fn reads_from_json_only_what_parses() {
        assert!(serde_json::from_str::<Role>("\"support\"").is_ok());
        assert!(serde_json::from_str::<Role>("\"Support Team\"").is_err());
    }
}
