//! One tool as a file.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, de};

use crate::model::document::Section;
use crate::model::name::{Operation, Purpose, ToolName};
use crate::model::origin::Origin;
use crate::model::tool::{Binding, Effect, Tool};
use crate::model::ttl::Ttl;
use crate::registry::DAYFLY;

use super::{facts, name};

/// The most actions that a tool can have.
const MOST_ACTIONS: usize = 64;
/// The most places that credentials for a tool can be sent to.
const MOST_ORIGINS: usize = 16;

/// Reads a tool from a file called `stem`.
pub(super) fn read(section: &mut Section<'_>, stem: &str) -> Option<Tool> {
    let name: Option<ToolName> = name(section, stem);
    if name.as_ref().is_some_and(|name| name.as_str() == DAYFLY) {
        let help =
            "choose another name: what callers may do to Dayfly is a matter of policies on its actions";
        section.blame("name", "this name stands for Dayfly itself", help);
    }
    let description: Option<Purpose> = section.required("description", "say in a sentence what the tool is");
    let owner = section.required("owner", "write the team that answers for it");
    let risk = section.required(
        "risk",
        "say how much harm it can do: `low`, `medium`, `high` or `critical`",
    );
    let sensitivity = section.required(
        "sensitivity",
        "say how sensitive its data is: `public`, `internal`, `confidential` or `restricted`",
    );
    let zone = section.required("zone", "say in which zone it is: `zone = \"eu\"`");
    let environment = section.required("environment", "say where it runs: `environment = \"production\"`");
    let audience = audience(section);
    let origins = origins(section, audience.as_deref());
    let provider = section.required(
        "provider",
        "write the name of a configured provider: `provider = \"jwt\"`",
    );
    let parameters: BTreeMap<String, Parameter> = section.map("parameters");
    let (max_ttl, default_ttl) = lives(section);
    let actions = actions(section);
    let live_credentials = section.optional("live_credentials");
    let facts = facts(section);
    Some(Tool {
        name: name?,
        description: description?.to_string(),
        owner: owner?,
        actions,
        risk: risk?,
        sensitivity: sensitivity?,
        zone: zone?,
        environment: environment?,
        audience: audience?,
        origins,
        binding: Binding {
            provider: provider?,
            parameters: parameters
                .into_iter()
                .map(|(key, value)| (key, value.0))
                .collect(),
        },
        max_ttl: max_ttl?,
        default_ttl: default_ttl?,
        live_credentials,
        facts,
    })
}

fn actions(section: &mut Section<'_>) -> BTreeMap<Operation, Effect> {
    let actions: BTreeMap<Operation, Effect> = section.map("actions");
    let help = "name each action and what it does to the world, such as `read = \"read\"` below [actions]";
    if actions.is_empty() {
        section.blame("actions", "it names no action", help);
    } else if actions.len() > MOST_ACTIONS {
        section.blame("actions", format!("there are more than {MOST_ACTIONS}"), help);
    }
    actions
}

/// The longest and the usual life. The usual one is five minutes unless it is written or longer than allowed.
fn lives(section: &mut Section<'_>) -> (Option<Ttl>, Option<Ttl>) {
    let longest: Option<Ttl> = section.required(
        "max_ttl",
        "write the longest life of a credential: `max_ttl = \"15m\"`",
    );
    let usual: Option<Ttl> = section.optional("default_ttl");
    if let (Some(longest), Some(usual)) = (longest, usual)
        && usual > longest
    {
        let help = format!("write at most `default_ttl = \"{longest}\"`");
        section.blame(
            "default_ttl",
            format!("{usual} is longer than `max_ttl`, {longest}"),
            &help,
        );
    }
    let five_minutes = Ttl::from_secs(300);
    (longest, usual.or_else(|| longest.min(five_minutes)))
}

fn audience(section: &mut Section<'_>) -> Option<String> {
    let help = "write the URI that the tool expects as `aud`: `audience = \"https://crm.example.org\"`";
    let audience: String = section.required("audience", help)?;
    if !is_absolute_uri(&audience) {
        section.blame("audience", "it is not an absolute URI without a fragment", help);
    }
    Some(audience)
}

/// Unless they are written, that of the audience, which is where many a tool is.
fn origins(section: &mut Section<'_>, audience: Option<&str>) -> Arc<[Origin]> {
    let written: Option<Vec<Origin>> = section.list("origins");
    if written
        .as_ref()
        .is_some_and(|origins| origins.len() > MOST_ORIGINS)
    {
        let help = "name the places that its credentials may be sent to";
        section.blame("origins", format!("there are more than {MOST_ORIGINS}"), help);
    }
    written
        .unwrap_or_else(|| audience.and_then(Origin::of).into_iter().collect())
        .into()
}

/// RFC 3986 §4.3, by its letters: a scheme, then something; no fragment (RFC 8707 §2).
fn is_absolute_uri(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once(':') else {
        return false;
    };
    let letter = |b: u8| b.is_ascii_alphanumeric() || b"-._~:/?[]@!$&'()*+,;=%".contains(&b);
    text.len() <= 512
        && scheme.starts_with(|c: char| c.is_ascii_lowercase())
        && scheme
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b))
        && !rest.is_empty()
        && rest != "//"
        && rest.bytes().all(letter)
}

/// A value of TOML that JSON has too.
struct Parameter(serde_json::Value);

impl<'de> Deserialize<'de> for Parameter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        json(toml::Value::deserialize(deserializer)?)
            .map(Self)
            .ok_or_else(|| de::Error::custom("write dates as text, and numbers that are numbers"))
    }
}

fn json(value: toml::Value) -> Option<serde_json::Value> {
    Some(match value {
        toml::Value::String(text) => text.into(),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) => serde_json::Number::from_f64(number)?.into(),
        toml::Value::Boolean(flag) => flag.into(),
        toml::Value::Datetime(_) => return None,
        toml::Value::Array(items) => items.into_iter().map(json).collect::<Option<Vec<_>>>()?.into(),
        toml::Value::Table(table) => {
            let entries = table.into_iter().map(|(key, value)| Some((key, json(value)?)));
            serde_json::Value::Object(entries.collect::<Option<_>>()?)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_audience_is_an_absolute_uri() {
        for good in [
            "https://crm.example.org",
            "https://a/b?c=d",
            "urn:example:crm",
            "spiffe://example.org/crm",
        ] {
            assert!(is_absolute_uri(good), "{good}");
        }
        for bad in [
            "",
            "crm",
            "crm.example.org",
            "https://",
            "https:",
            "/a",
            "://a",
            "https://a#b",
            "https://a b",
            "1:a",
            "HTTPS://a",
            "https://ä",
        ] {
            assert!(!is_absolute_uri(bad), "{bad}");
        }
    }
}
