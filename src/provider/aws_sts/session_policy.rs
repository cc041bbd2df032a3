//! From a permitted access to a session policy: the least that the access needs, and nothing after the
//! end of its lease.
//!
//! A session may do what its role *and* its session policy allow, and an explicit Deny wins over
//! everything. STS gives no session for less than 15 minutes; the Deny on `aws:CurrentTime` ends it to
//! the second. The text is the same for the same access, whatever order it was asked in.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, SecondsFormat};
use serde::{Serialize, Serializer};

use super::super::ProviderError;
use super::parameters::{Conditions, Grant, Parameters};
use super::template::{Filling, Template};
use crate::model::access::Access;
use crate::model::time::Timestamp;

/// The most characters that STS takes in a session policy (AssumeRole, `Policy`).
pub(super) const MOST_CHARACTERS: usize = 2048;

/// A policy document of IAM.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Document {
    version: &'static str,
    statement: Vec<Statement>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Statement {
    effect: &'static str,
    action: Several,
    resource: Several,
    #[serde(skip_serializing_if = "Filled::is_empty")]
    condition: Filled,
}

/// One text stands alone, which is shorter.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
struct Several(BTreeSet<String>);

impl Several {
    fn one(text: &str) -> Self {
        Self(BTreeSet::from([text.to_owned()]))
    }
}

impl Serialize for Several {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.first() {
            Some(only) if self.0.len() == 1 => serializer.serialize_str(only),
            _ => self.0.serialize(serializer),
        }
    }
}

/// Operator, key, values: conditions with nothing left to fill in.
type Filled = BTreeMap<String, BTreeMap<String, Several>>;

/// What is said so far: where and under which conditions, and which actions.
type Said = BTreeMap<(Several, Filled), Several>;

/// The session policy for an access that ends then.
pub(super) fn compile(
    parameters: &Parameters,
    access: &Access,
    ends: Timestamp,
) -> Result<Document, ProviderError> {
    let fillings = access.resources().iter().map(Filling::of);
    let fillings = fillings.collect::<Result<Vec<_>, _>>()?;
    let mut said = Said::new();
    for action in access.actions() {
        let grants = parameters
            .grants
            .get(action)
            .ok_or_else(|| ProviderError::Unfit {
                pointer: "/actions",
                reason: format!("`{action}` means nothing in AWS: ask for another action"),
            })?;
        if fillings.is_empty() {
            whole(action.as_str(), grants, &mut said)?;
        } else if grants.iter().any(Grant::is_open) {
            for grant in grants {
                narrow(grant, &fillings, &mut said);
            }
        } else {
            // Fixed statements would give more than the resources that were permitted.
            return Err(unfit(format!(
                "`{action}` cannot be narrowed to resources in AWS: ask for it without any"
            )));
        }
    }
    let mut statement: Vec<Statement> = merged(said)
        .into_iter()
        .map(|(action, resource, condition)| Statement {
            effect: "Allow",
            action,
            resource,
            condition,
        })
        .collect();
    statement.push(pin(ends));
    let document = Document {
        version: "2012-10-17",
        statement,
    };
    document.checked(access)
}

impl Document {
    /// The text that goes to AWS, without a space too many.
    pub(super) fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// For people.
    pub(super) fn value(&self) -> serde_json::Value {
        serde_json::to_value(self).unwrap_or_default()
    }

    fn checked(self, access: &Access) -> Result<Self, ProviderError> {
        let size = self.text().len();
        if (1..=MOST_CHARACTERS).contains(&size) {
            return Ok(self);
        }
        let (pointer, fewer) = match access.resources().len() {
            0 | 1 => ("/actions", "fewer actions"),
            _ => ("/resources", "fewer resources"),
        };
        Err(ProviderError::Unfit {
            pointer,
            reason: format!(
                "this access takes a session policy of {size} characters, and AWS takes {MOST_CHARACTERS}: \
                 ask for {fewer} at a time"
            ),
        })
    }
}

fn whole(action: &str, grants: &[Grant], said: &mut Said) -> Result<(), ProviderError> {
    for grant in grants {
        let Some(whole) = &grant.whole else {
            return Err(unfit(format!(
                "`{action}` is not given on the tool as a whole: name the resources"
            )));
        };
        let fixed = |templates: &BTreeSet<Template>| {
            let texts = templates.iter().filter_map(Template::fixed);
            Several(texts.map(str::to_owned).collect())
        };
        let place = (fixed(&whole.resources), fill(&whole.conditions, fixed));
        said.entry(place)
            .or_default()
            .0
            .extend(grant.actions.iter().cloned());
    }
    Ok(())
}

/// One statement for all resources, unless the resource is named in several places of it: each value of
/// one would go with each of the other, and what nobody permitted would be allowed.
fn narrow(grant: &Grant, fillings: &[Filling<'_>], said: &mut Said) {
    let open = |templates: &BTreeSet<Template>| templates.iter().any(Template::is_open);
    let keys = grant.conditions.values().flat_map(BTreeMap::values);
    let places = usize::from(open(&grant.resources)) + keys.filter(|values| open(values)).count();
    let together = if places > 1 { 1 } else { fillings.len() };
    for fillings in fillings.chunks(together.max(1)) {
        let filled = |templates: &BTreeSet<Template>| {
            let texts = templates
                .iter()
                .flat_map(|template| fillings.iter().map(|filling| template.fill(filling)));
            Several(texts.collect())
        };
        let place = (filled(&grant.resources), fill(&grant.conditions, filled));
        said.entry(place)
            .or_default()
            .0
            .extend(grant.actions.iter().cloned());
    }
}

fn fill(conditions: &Conditions, with: impl Fn(&BTreeSet<Template>) -> Several) -> Filled {
    let operators = conditions.iter().map(|(operator, keys)| {
        let keys = keys.iter().map(|(key, values)| (key.clone(), with(values)));
        (operator.clone(), keys.collect())
    });
    operators.collect()
}

/// Statements with the same actions and conditions become one. The actions of one place are together
/// already.
fn merged(said: Said) -> Vec<(Several, Several, Filled)> {
    let mut merged: BTreeMap<(Several, Filled), Several> = BTreeMap::new();
    for ((resources, conditions), actions) in said {
        merged
            .entry((actions, conditions))
            .or_default()
            .0
            .extend(resources.0);
    }
    let merged = merged.into_iter();
    merged
        .map(|((actions, conditions), resources)| (actions, resources, conditions))
        .collect()
}

/// Denies everything from this instant on, whatever any other policy allows.
fn pin(ends: Timestamp) -> Statement {
    let ends = Several::one(&iso(ends));
    let key = BTreeMap::from([("aws:CurrentTime".to_owned(), ends)]);
    Statement {
        effect: "Deny",
        action: Several::one("*"),
        resource: Several::one("*"),
        condition: Filled::from([("DateGreaterThanEquals".to_owned(), key)]),
    }
}

/// ISO 8601 in UTC with whole seconds, rounded down.
pub(super) fn iso(at: Timestamp) -> String {
    let moment = i64::try_from(at.as_secs())
        .ok()
        .and_then(|secs| DateTime::from_timestamp(secs, 0))
        .unwrap_or_default();
    moment.to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn unfit(reason: String) -> ProviderError {
    ProviderError::Unfit {
        pointer: "/resources",
        reason,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::samples::{access, parameters, tool};
    use super::*;

    const ENDS: Timestamp = Timestamp::from_millis(1_795_329_000_750);

    fn compiled(actions: &[&str], resources: &[&str]) -> Result<Document, ProviderError> {
        let parameters = Parameters::of(&tool(parameters())).unwrap();
        compile(&parameters, &access(actions, resources), ENDS)
    }

    fn pin() -> Value {
        json!({"Effect": "Deny", "Action": "*", "Resource": "*",
            "Condition": {"DateGreaterThanEquals": {"aws:CurrentTime": "2026-11-22T06:30:00Z"}}})
    }

    #[test]
    fn says_exactly_this() {
        let document = compiled(&["read", "list"], &["customers/7", "customers/42"]).unwrap();
        assert_eq!(
            document.value(),
            json!({"Version": "2012-10-17", "Statement": [
                {"Effect": "Allow", "Action": "s3:GetObject", "Resource": [
                    "arn:aws:s3:::acme-data/customers/42", "arn:aws:s3:::acme-data/customers/7"]},
                {"Effect": "Allow", "Action": "s3:ListBucket", "Resource": "arn:aws:s3:::acme-data",
                    "Condition": {"StringLike": {"s3:prefix": ["customers/42/*", "customers/7/*"]}}},
                pin(),
            ]})
        );
        assert!(!document.text().contains(char::is_whitespace));
    }

    #[test]
    fn actions_on_the_same_resources_share_a_statement() {
        let document = compiled(&["write", "read"], &["a"]).unwrap();
        assert_eq!(
            document.value()["Statement"],
            json!([{"Effect": "Allow", "Resource": "arn:aws:s3:::acme-data/a",
                "Action": ["s3:AbortMultipartUpload", "s3:GetObject", "s3:PutObject"]}, pin()])
        );
    }

    #[test]
    fn the_tool_as_a_whole_takes_a_template_that_says_so() {
        let document = compiled(&["read"], &[]).unwrap();
        assert_eq!(
            document.value()["Statement"][0]["Resource"],
            "arn:aws:s3:::acme-data/*"
        );
        let error = compiled(&["read", "write"], &[]).unwrap_err().to_string();
        assert!(
            error.contains("`write` is not given on the tool as a whole"),
            "{error}"
        );
    }

    #[test]
    fn what_cannot_be_narrowed_is_not_given_for_less_than_all() {
        assert!(compiled(&["describe"], &[]).is_ok());
        let error = compiled(&["describe"], &["i-1"]).unwrap_err();
        assert!(
            matches!(
                error,
                ProviderError::Unfit {
                    pointer: "/resources",
                    ..
                }
            ),
            "{error}"
        );
    }

    #[test]
    fn resources_that_are_named_twice_in_a_statement_do_not_mix() {
        let mut all = parameters();
        all["statements"]["list"]["resources"] = json!(["arn:aws:s3:::acme-{resource}"]);
        let parameters = Parameters::of(&tool(all)).unwrap();
        let document = compile(&parameters, &access(&["list"], &["a", "b"]), ENDS).unwrap();
        let statements = document.value()["Statement"].as_array().unwrap().clone();
        assert_eq!(statements.len(), 3);
        for (statement, name) in statements.iter().zip(["a", "b"]) {
            assert_eq!(statement["Resource"], format!("arn:aws:s3:::acme-{name}"));
            assert_eq!(
                statement["Condition"]["StringLike"]["s3:prefix"],
                format!("{name}/*")
            );
        }
    }

    #[test]
    fn what_does_not_fit_says_by_how_much_and_what_to_ask_for() {
        let names: Vec<String> = (0..16).map(|n| format!("{n}{}", "x".repeat(140))).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let ProviderError::Unfit { pointer, reason } = compiled(&["read"], &names).unwrap_err() else {
            panic!("it fits");
        };
        assert_eq!(pointer, "/resources");
        assert!(
            reason.contains("characters, and AWS takes 2048: ask for fewer resources"),
            "{reason}"
        );
        assert!(compiled(&["read"], &names[..8]).is_ok());
    }
}
