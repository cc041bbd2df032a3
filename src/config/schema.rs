//! The JSON Schema of `dayfly.toml`, for editors and for whoever generates configurations.
//!
//! It is made from the shipped file with every option: its keys, its comments, its defaults. That file is what
//! people read and what tests hold to the code, so there is nothing else to be kept true.

use serde_json::{Map, Value, json};
use toml::{Table, Value as Toml};

/// The file with every option, its default and what it means.
pub const FULL: &str = include_str!("../../config/dayfly.full.toml");

/// A length of time as it is written: with units, or in seconds.
const LENGTH: &str = "^([0-9]+|(?=[0-9])([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?)$";

/// A name on the way to a section, and whether the section can stand there several times.
type Step = (String, bool);

/// The schema (JSON Schema 2020-12).
pub fn schema() -> Value {
    let mut root = object("What Dayfly is told. Unknown keys are errors.");
    let (mut place, mut comment): (Vec<Step>, Vec<&str>) = Default::default();
    for line in FULL.lines() {
        if let Some(text) = line.strip_prefix("# ") {
            comment.push(text);
            continue;
        }
        let about = std::mem::take(&mut comment).join(" ");
        // An option without a default, or a section that need not be there, stands behind a `#` with no space.
        let given = !line.starts_with('#');
        let line = line.trim_start_matches('#');
        if line.starts_with('[') {
            place = steps(line, &place);
            if let Some(section) = enter(&mut root, &place) {
                section.insert("description".to_owned(), json!(about));
            }
        } else if let Some((key, value)) = toml::from_str::<Table>(line).ok().and_then(only) {
            // What stands in one of several sections is an example of such a section.
            let default = given && !place.iter().any(|(_, several)| *several);
            let property = property(&value, &about, default);
            let section = enter(&mut root, &place).and_then(|section| section.get_mut("properties"));
            if let Some(Value::Object(properties)) = section {
                properties.insert(key, property);
            }
        }
    }
    let draft = "https://json-schema.org/draft/2020-12/schema";
    root.insert("$schema".to_owned(), json!(draft));
    root.insert("title".to_owned(), json!("dayfly.toml"));
    Value::Object(root)
}

fn only(table: Table) -> Option<(String, Toml)> {
    table.into_iter().next()
}

fn object(about: &str) -> Map<String, Value> {
    let members = [
        ("description", json!(about)),
        ("type", json!("object")),
        ("properties", json!({})),
        ("additionalProperties", json!(false)),
    ];
    members
        .map(|(name, value)| (name.to_owned(), value))
        .into_iter()
        .collect()
}

/// The way to a section from its header. Sections above it that can stand there several times are known from
/// the header before.
fn steps(header: &str, before: &[Step]) -> Vec<Step> {
    let several = header.starts_with("[[");
    let names: Vec<&str> = header.trim_matches(['[', ']']).split('.').collect();
    let last = names.len().saturating_sub(1);
    let step = |(place, name): (usize, &&str)| {
        let known = before.get(place).filter(|(known, _)| known == name);
        let repeated = if place == last {
            several
        } else {
            known.is_some_and(|(_, several)| *several)
        };
        ((*name).to_owned(), repeated)
    };
    names.iter().enumerate().map(step).collect()
}

/// The section at the end of a way, made where there is none yet. There always is one: they are all made here.
fn enter<'r>(section: &'r mut Map<String, Value>, place: &[Step]) -> Option<&'r mut Map<String, Value>> {
    let Some(((name, several), rest)) = place.split_first() else {
        return Some(section);
    };
    let made = if *several {
        json!({ "type": "array", "items": object("") })
    } else {
        Value::Object(object(""))
    };
    let properties = section.get_mut("properties")?.as_object_mut()?;
    let mut next = properties.entry(name.clone()).or_insert(made);
    if *several {
        next = next.get_mut("items")?;
    }
    enter(next.as_object_mut()?, rest)
}

fn property(value: &Toml, about: &str, default: bool) -> Value {
    let Value::Object(mut property) = kind(value, about) else {
        return json!({});
    };
    property.insert("description".to_owned(), json!(about));
    if let Ok(value) = serde_json::to_value(value) {
        match default {
            true => property.insert("default".to_owned(), value),
            false => property.insert("examples".to_owned(), json!([value])),
        };
    }
    Value::Object(property)
}

/// What values are like this one.
fn kind(value: &Toml, about: &str) -> Value {
    match value {
        Toml::Boolean(_) => json!({ "type": "boolean" }),
        Toml::Integer(_) => json!({ "type": "integer", "minimum": 0 }),
        Toml::Float(_) => json!({ "type": "number", "minimum": 0 }),
        Toml::Array(items) => {
            let item = items.first().map_or(json!({}), |item| kind(item, ""));
            json!({ "type": "array", "items": item })
        }
        Toml::Table(members) => {
            let member = members
                .values()
                .next()
                .map_or(json!({}), |member| kind(member, ""));
            json!({ "type": "object", "additionalProperties": member })
        }
        Toml::String(text) if is_length(text) => {
            json!({ "anyOf": [{ "type": "string", "pattern": LENGTH }, { "type": "integer", "minimum": 1 }] })
        }
        Toml::String(text) => match choices(text, about) {
            Some(choices) => json!({ "enum": choices }),
            None => json!({ "type": "string" }),
        },
        Toml::Datetime(_) => json!({}),
    }
}

fn is_length(text: &str) -> bool {
    text.parse::<crate::model::ttl::Ttl>().is_ok()
}

/// What a comment lets one choose from: two or more words in quotation marks, of which this value is one, and
/// nothing else in quotation marks.
fn choices<'t>(value: &str, about: &'t str) -> Option<Vec<&'t str>> {
    let mut choices: Vec<&str> = Vec::new();
    for quoted in about.split('"').skip(1).step_by(2) {
        if !choices.contains(&quoted) {
            choices.push(quoted);
        }
    }
    let word = |text: &str| text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    let choice = choices.len() > 1 && choices.contains(&value) && choices.iter().all(|text| word(text));
    choice.then_some(choices)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn paths(schema: &Value, above: &str, found: &mut BTreeSet<String>) {
        let Some(properties) = schema["properties"].as_object() else {
            return;
        };
        for (name, property) in properties {
            let path = format!("{above}{name}");
            let below = if property["type"] == "array" {
                &property["items"]
            } else {
                property
            };
            paths(below, &format!("{path}."), found);
            found.insert(path);
        }
    }

    #[test]
    fn has_every_key_that_is_read_and_no_other() {
        let document = crate::model::document::Document::new("dayfly.toml", "");
        let base = std::path::Path::new("");
        let _ = document
            .root()
            .and_then(|root| super::super::config(root, super::super::Base(base)));
        let mut known = document.keys();
        let mut told = BTreeSet::new();
        paths(&schema(), "", &mut told);
        // What stands in sections that are not in the document was not asked for; it is in the file that is
        // read whole by another test.
        known.retain(|key| !told.contains(key));
        assert_eq!(known, BTreeSet::new());
    }

    #[test]
    fn says_what_one_may_choose_from() {
        let schema = schema();
        for (pointer, choices) in [
            ("/properties/ledger/properties/kind", json!(["embedded", "redis"])),
            (
                "/properties/ledger/properties/redis/properties/mode",
                json!(["single", "sentinel", "cluster"]),
            ),
            ("/properties/telemetry/properties/format", json!(["text", "json"])),
            (
                "/properties/provider/items/properties/kind",
                json!(["jwt", "aws_sts", "postgres", "vault", "webhook"]),
            ),
            (
                "/properties/signals/properties/streams/items/properties/delivery",
                json!(["push", "poll"]),
            ),
        ] {
            assert_eq!(schema.pointer(pointer).unwrap()["enum"], choices, "{pointer}");
        }
        let level = &schema["properties"]["telemetry"]["properties"]["level"];
        assert_eq!(level["type"], "string", "a filter is no choice");
    }

    #[test]
    fn tells_defaults_from_examples_and_every_option_what_it_means() {
        let schema = schema();
        let server = &schema["properties"]["server"]["properties"];
        assert_eq!(server["request_timeout"]["default"], "10s");
        assert_eq!(server["stop_delay"]["examples"], json!(["5s"]));
        assert_eq!(server["stop_delay"].get("default"), None);
        let trust = &schema["properties"]["identity"]["properties"]["trust_domain"];
        assert_eq!(
            trust["items"]["properties"]["name"]["examples"],
            json!(["example.org"])
        );
        assert_eq!(schema["additionalProperties"], false);
    }
}
