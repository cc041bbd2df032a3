//! What a tool says about itself: `[parameters]` of a tool that AWS sessions are minted for.
//!
//! ```toml
//! [parameters]
//! role_arn = "arn:aws:iam::123456789012:role/agents/data-reader"
//! region = "eu-central-1"
//!
//! [parameters.statements.read]
//! actions = ["s3:GetObject"]
//! resources = ["arn:aws:s3:::acme-data/{resource}", "arn:aws:s3:::acme-data/{resource}/*"]
//! resources_all = ["arn:aws:s3:::acme-data/*"]
//!
//! [parameters.statements.list]
//! actions = ["s3:ListBucket"]
//! resources = ["arn:aws:s3:::acme-data"]
//! conditions = { StringLike = { "s3:prefix" = ["{resource}/*"] } }
//! ```

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::super::ProviderError;
use super::template::Template;
use crate::model::aws::{AwsRegion, RoleArn};
use crate::model::name::Operation;
use crate::model::tool::Tool;

/// The operators that a condition may use. None that is true where its key is missing, and none that
/// denies what it lists: a list that grows with the resources of an access could then allow more.
const OPERATORS: [&str; 10] = [
    "ArnEquals",
    "ArnLike",
    "Bool",
    "ForAnyValue:StringEquals",
    "ForAnyValue:StringLike",
    "IpAddress",
    "NumericEquals",
    "NumericLessThanEquals",
    "StringEquals",
    "StringLike",
];

/// The most statements, actions, templates or values that one list may hold.
const MOST: usize = 32;

/// Operator, key, values.
pub(super) type Conditions = BTreeMap<String, BTreeMap<String, BTreeSet<Template>>>;

/// The parsed parameters of a tool.
#[derive(Debug)]
pub(super) struct Parameters {
    /// The role whose sessions are minted.
    pub(super) role: RoleArn,
    /// Where the credential is to be used; the provider's region when absent.
    pub(super) region: Option<AwsRegion>,
    /// What the role's trust policy asks for.
    pub(super) external_id: Option<String>,
    /// What each action of the tool is in AWS.
    pub(super) grants: BTreeMap<Operation, Vec<Grant>>,
}

/// One statement of one action.
#[derive(Debug)]
pub(super) struct Grant {
    /// Actions of AWS, such as `s3:GetObject`.
    pub(super) actions: BTreeSet<String>,
    /// On what, when the access names resources.
    pub(super) resources: BTreeSet<Template>,
    /// Under which conditions, then.
    pub(super) conditions: Conditions,
    /// The same for an access to the tool as a whole.
    pub(super) whole: Option<Whole>,
}

/// What a statement says when the access names no resources.
#[derive(Debug)]
pub(super) struct Whole {
    /// On what.
    pub(super) resources: BTreeSet<Template>,
    /// Under which conditions.
    pub(super) conditions: Conditions,
}

impl Grant {
    /// Whether it says anything about the resource.
    pub(super) fn is_open(&self) -> bool {
        self.resources.iter().any(Template::is_open) || values(&self.conditions).any(Template::is_open)
    }
}

pub(super) fn values(conditions: &Conditions) -> impl Iterator<Item = &Template> {
    conditions.values().flat_map(BTreeMap::values).flatten()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawParameters {
    role_arn: String,
    region: Option<String>,
    external_id: Option<String>,
    statements: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawGrant {
    actions: Vec<String>,
    resources: Vec<String>,
    #[serde(default)]
    conditions: RawConditions,
    resources_all: Option<Vec<String>>,
    conditions_all: Option<RawConditions>,
}

type RawConditions = BTreeMap<String, BTreeMap<String, Vec<String>>>;

/// Where in the parameters, and what is wrong there.
struct Wrong(String, String);

impl Parameters {
    /// Parses what the catalogue says about a tool, and checks that each of its actions is there.
    pub(super) fn of(tool: &Tool) -> Result<Self, ProviderError> {
        let values = tool.binding.parameters.clone().into_iter().collect();
        Self::parse(tool, Value::Object(values)).map_err(|Wrong(place, reason)| {
            let place = if place.is_empty() {
                place
            } else {
                format!(".{place}")
            };
            ProviderError::Refused(format!(
                "`parameters{place}` of the tool `{}`: {reason}",
                tool.name
            ))
        })
    }

    fn parse(tool: &Tool, value: Value) -> Result<Self, Wrong> {
        let raw: RawParameters = read("", value)?;
        let role = raw.role_arn.parse().map_err(|e| wrong("role_arn", e))?;
        let region = raw.region.map(|region| region.parse()).transpose();
        let external_id = match raw.external_id {
            Some(id) if !is_external_id(&id) => {
                let rule = "use 2 to 1224 letters, digits and `_+=,.@:/-`";
                return Err(wrong("external_id", rule));
            }
            id => id,
        };
        let mut grants = BTreeMap::new();
        for (name, value) in raw.statements {
            let place = format!("statements.{name}");
            let action = tool.actions.keys().find(|action| action.as_str() == name);
            let action = action.ok_or_else(|| wrong(&place, "the tool has no such action"))?;
            grants.insert(action.clone(), statements(&place, value)?);
        }
        if let Some(missing) = tool.actions.keys().find(|action| !grants.contains_key(*action)) {
            let help = format!("say what `{missing}` is in AWS: `[parameters.statements.{missing}]`");
            return Err(wrong("statements", help));
        }
        Ok(Self {
            role,
            region: region.map_err(|e| wrong("region", e))?,
            external_id,
            grants,
        })
    }
}

/// One statement or several.
fn statements(place: &str, value: Value) -> Result<Vec<Grant>, Wrong> {
    let values = match value {
        Value::Array(values) => values,
        one => vec![one],
    };
    if values.is_empty() || values.len() > MOST {
        return Err(wrong(place, format!("write 1 to {MOST} statements")));
    }
    let grants = values.into_iter().map(|value| grant(place, value));
    let grants = grants.collect::<Result<Vec<_>, _>>()?;
    if grants.iter().any(|grant| grant.whole.is_some()) && grants.iter().any(|grant| grant.whole.is_none()) {
        let help = "give every statement of an action `resources_all`, or none";
        return Err(wrong(place, help));
    }
    Ok(grants)
}

fn grant(place: &str, value: Value) -> Result<Grant, Wrong> {
    let raw: RawGrant = read(place, value)?;
    let at = |key: &str| format!("{place}.{key}");
    let actions = bounded(&at("actions"), &raw.actions, |action| {
        if action.starts_with("sts:") {
            return Err(format!(
                "`{action}` could open another session, which would outlive the lease"
            ));
        }
        if is_action(action) {
            return Ok(action.to_owned());
        }
        Err(format!(
            "`{}` is no action of AWS: write `service:Action`",
            action.escape_default()
        ))
    })?;
    let resources = bounded(&at("resources"), &raw.resources, Template::resource)?;
    let conditions = conditions(&at("conditions"), raw.conditions)?;
    let whole = match raw.resources_all {
        None if raw.conditions_all.is_some() => {
            return Err(wrong(
                &at("conditions_all"),
                "it goes with `resources_all`, which is missing",
            ));
        }
        None => None,
        Some(all) => {
            let resources = bounded(&at("resources_all"), &all, Template::resource)?;
            let conditions = match raw.conditions_all {
                Some(all) => self::conditions(&at("conditions_all"), all)?,
                None => conditions.clone(),
            };
            if resources.iter().chain(values(&conditions)).any(Template::is_open) {
                let help = "an access to the whole tool has no `{resource}`: write `resources_all`, and \
                            `conditions_all` where `conditions` names one, without it";
                return Err(wrong(&at("resources_all"), help));
            }
            Some(Whole {
                resources,
                conditions,
            })
        }
    };
    Ok(Grant {
        actions,
        resources,
        conditions,
        whole,
    })
}

fn conditions(place: &str, raw: RawConditions) -> Result<Conditions, Wrong> {
    let operators = raw.into_iter().map(|(operator, keys)| {
        if !OPERATORS.contains(&operator.as_str()) {
            let known = OPERATORS.join("`, `");
            return Err(wrong(
                place,
                format!(
                    "`{}` is not taken: use one of `{known}`",
                    operator.escape_default()
                ),
            ));
        }
        let keys = keys.into_iter().map(|(key, texts)| {
            let at = format!("{place}.{operator}");
            if !is_condition_key(&key) {
                return Err(wrong(
                    &at,
                    format!("`{}` is no condition key", key.escape_default()),
                ));
            }
            let values = bounded(&format!("{at}.{key}"), &texts, Template::value)?;
            Ok((key, values))
        });
        let keys = keys.collect::<Result<_, Wrong>>()?;
        Ok((operator, keys))
    });
    operators.collect()
}

fn bounded<T: Ord>(
    place: &str,
    texts: &[String],
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<BTreeSet<T>, Wrong> {
    if texts.is_empty() || texts.len() > MOST {
        return Err(wrong(place, format!("write 1 to {MOST} of them")));
    }
    let parsed = texts.iter().map(|text| parse(text).map_err(|e| wrong(place, e)));
    parsed.collect()
}

/// `service:Action`, where the name may have wildcards but is never one alone.
fn is_action(text: &str) -> bool {
    text.len() <= 128
        && text.split_once(':').is_some_and(|(service, name)| {
            !service.is_empty()
                && service
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                && name.starts_with(|c: char| c.is_ascii_alphabetic())
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'*')
        })
}

fn is_condition_key(text: &str) -> bool {
    text.len() <= 128
        && text.contains(':')
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b":/._-=@+".contains(&b))
}

fn is_external_id(text: &str) -> bool {
    (2..=1224).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_+=,.@:/-".contains(&b))
}

fn read<T: DeserializeOwned>(place: &str, value: Value) -> Result<T, Wrong> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let inside = error.path().to_string();
        let place = match (place, inside.as_str()) {
            (place, ".") => place.to_owned(),
            ("", inside) => inside.to_owned(),
            (place, inside) => format!("{place}.{inside}"),
        };
        wrong(&place, error.into_inner())
    })
}

fn wrong(place: &str, reason: impl ToString) -> Wrong {
    Wrong(place.to_owned(), reason.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::samples::{parameters, tool};
    use super::*;

    fn refusal(pointer: &str, value: Value) -> String {
        let mut all = parameters();
        match all.pointer_mut(pointer) {
            Some(place) => *place = value,
            None => {
                let (above, key) = pointer.rsplit_once('/').unwrap();
                all.pointer_mut(above).unwrap()[key] = value;
            }
        }
        Parameters::of(&tool(all)).unwrap_err().to_string()
    }

    #[test]
    fn reads_what_a_tool_says() {
        let read = Parameters::of(&tool(parameters())).unwrap();
        assert_eq!(read.role.name(), "data-reader");
        assert_eq!(read.grants.len(), 4);
        let list = &read.grants[&"list".parse().unwrap()];
        assert!(list[0].is_open() && list[0].whole.is_none());
    }

    #[test]
    fn says_where_what_is_wrong() {
        for (pointer, value, expected) in [
            (
                "/role_arn",
                json!("reader"),
                "`parameters.role_arn` of the tool `data`: `reader` is not a valid role ARN",
            ),
            (
                "/region",
                json!("Frankfurt"),
                "`parameters.region` of the tool `data`: `Frankfurt` is not",
            ),
            ("/external_id", json!("a b"), "`parameters.external_id`"),
            (
                "/ttl",
                json!(3),
                "`parameters.ttl` of the tool `data`: unknown field `ttl`",
            ),
            (
                "/statements/read/actions",
                json!("s3:GetObject"),
                "`parameters.statements.read.actions` of",
            ),
            ("/statements/read/actions", json!([]), "write 1 to 32 of them"),
            (
                "/statements/read/actions",
                json!(["*"]),
                "`*` is no action of AWS",
            ),
            (
                "/statements/read/actions",
                json!(["s3:*"]),
                "`s3:*` is no action of AWS",
            ),
            (
                "/statements/read/actions",
                json!(["sts:AssumeRole"]),
                "would outlive the lease",
            ),
            (
                "/statements/read/actions",
                json!(["s3:Get\"Object"]),
                "is no action of AWS",
            ),
            ("/statements/read/resources", json!(["acme"]), "`acme` is no ARN"),
            (
                "/statements/read/resources",
                json!(["arn:aws:s3:::${aws:username}"]),
                "`$` cannot stand there",
            ),
            (
                "/statements/read/resources_all",
                json!(["arn:aws:s3:::a/{resource}"]),
                "has no `{resource}`",
            ),
            (
                "/statements/read/resource",
                json!(["a"]),
                "unknown field `resource`",
            ),
            (
                "/statements/list/conditions_all",
                json!({}),
                "it goes with `resources_all`",
            ),
            (
                "/statements/list/resources_all",
                json!(["arn:aws:s3:::a"]),
                "has no `{resource}`",
            ),
            (
                "/statements/list/conditions",
                json!({"StringNotLike": {"s3:prefix": ["a"]}}),
                "`StringNotLike` is not taken",
            ),
            (
                "/statements/list/conditions",
                json!({"StringLikeIfExists": {"s3:prefix": ["a"]}}),
                "is not taken",
            ),
            (
                "/statements/list/conditions",
                json!({"ForAllValues:StringLike": {"s3:prefix": ["a"]}}),
                "is not taken",
            ),
            (
                "/statements/list/conditions",
                json!({"StringLike": {"pre fix": ["a"]}}),
                "is no condition key",
            ),
            (
                "/statements/list/conditions",
                json!({"StringLike": {"s3:prefix": ["{user}"]}}),
                "`{` cannot stand there",
            ),
            (
                "/statements/erase",
                json!({}),
                "`parameters.statements.erase` of the tool `data`: the tool has no such action",
            ),
            ("/statements", json!({}), "say what `describe` is in AWS"),
            ("/statements/read", json!([]), "write 1 to 32 statements"),
        ] {
            let refusal = refusal(pointer, value);
            assert!(refusal.contains(expected), "{expected}\nis not in\n{refusal}");
        }
    }

    #[test]
    fn every_statement_of_an_action_knows_the_whole_tool_or_none() {
        let mut all = parameters();
        let read = all["statements"]["read"].clone();
        let mut without = read.clone();
        without.as_object_mut().unwrap().remove("resources_all");
        all["statements"]["read"] = json!([read, without]);
        let refusal = Parameters::of(&tool(all)).unwrap_err().to_string();
        assert!(refusal.contains("or none"), "{refusal}");
    }
}
