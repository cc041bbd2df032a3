//! How IAM decides, as published ("Policy evaluation logic", "IAM JSON policy elements"): as much of it
//! as Dayfly's policies use, and a panic at whatever else stands in one.

use std::collections::BTreeMap;

use dayfly::model::time::Timestamp;
use serde_json::Value;

/// What a session asks AWS for, with what AWS knows about it.
pub(crate) struct Request<'a> {
    pub(crate) action: &'a str,
    pub(crate) resource: &'a str,
    pub(crate) context: BTreeMap<String, String>,
}

impl<'a> Request<'a> {
    pub(crate) fn new(action: &'a str, resource: &'a str, now: Timestamp) -> Self {
        Self {
            action,
            resource,
            context: BTreeMap::new(),
        }
        .with("aws:CurrentTime", &now.to_string())
    }

    pub(crate) fn with(mut self, key: &str, value: &str) -> Self {
        self.context.insert(key.to_lowercase(), value.to_owned());
        self
    }
}

/// A session may do what its role and its session policy allow, unless anything denies it.
pub(crate) fn allows(role: &[Value], session: &Value, request: &Request<'_>) -> bool {
    let all = role.iter().chain([session]);
    let denied = all.clone().any(|policy| says(policy, "Deny", request));
    !denied && role.iter().any(|policy| says(policy, "Allow", request)) && says(session, "Allow", request)
}

/// Whether a policy has a statement of this effect for the request.
pub(crate) fn says(policy: &Value, effect: &str, request: &Request<'_>) -> bool {
    assert_eq!(policy["Version"], "2012-10-17");
    let statements = policy["Statement"].as_array().unwrap();
    assert!(!statements.is_empty(), "a policy without statements is malformed");
    statements.iter().any(|statement| {
        for element in statement.as_object().unwrap().keys() {
            let known = ["Sid", "Effect", "Action", "Resource", "Condition"];
            assert!(known.contains(&element.as_str()), "{element}");
        }
        let sid = statement.get("Sid").map_or("", |sid| sid.as_str().unwrap());
        assert!(sid.bytes().all(|b| b.is_ascii_alphanumeric()), "{sid}");
        assert!(["Allow", "Deny"].contains(&statement["Effect"].as_str().unwrap()));
        let action = request.action.to_lowercase();
        statement["Effect"] == effect
            && several(&statement["Action"])
                .iter()
                .any(|pattern| like(&pattern.to_lowercase(), &action))
            && several(&statement["Resource"])
                .iter()
                .any(|pattern| like(pattern, request.resource))
            && statement
                .get("Condition")
                .is_none_or(|condition| holds(condition, request))
    })
}

/// All operators and all keys have to hold; of the values, one.
fn holds(condition: &Value, request: &Request<'_>) -> bool {
    condition.as_object().unwrap().iter().all(|(operator, keys)| {
        keys.as_object().unwrap().iter().all(|(key, values)| {
            let Some(actual) = request.context.get(&key.to_lowercase()) else {
                return false;
            };
            let instant = |text: &str| text.parse::<Timestamp>().unwrap();
            several(values).iter().any(|value| {
                assert!(!value.contains("${"), "a variable: {value}");
                match operator.trim_start_matches("ForAnyValue:") {
                    "StringEquals" => actual == value,
                    "StringLike" => like(value, actual),
                    "DateGreaterThanEquals" => instant(actual) >= instant(value),
                    "DateLessThan" => instant(actual) < instant(value),
                    other => panic!("an operator that nobody wrote down here: {other}"),
                }
            })
        })
    })
}

fn several(value: &Value) -> Vec<&str> {
    match value {
        Value::Array(values) => values.iter().map(|value| value.as_str().unwrap()).collect(),
        one => vec![one.as_str().unwrap()],
    }
}

/// `*` is any text, `?` one character.
pub(crate) fn like(pattern: &str, text: &str) -> bool {
    match pattern.chars().next() {
        None => text.is_empty(),
        Some('*') => {
            let rest = &pattern[1..];
            (0..=text.len()).any(|at| text.is_char_boundary(at) && like(rest, &text[at..]))
        }
        Some(first) => text.chars().next().is_some_and(|c| {
            (first == '?' || first == c) && like(&pattern[first.len_utf8()..], &text[c.len_utf8()..])
        }),
    }
}

mod tests {
    use std::slice;

    use serde_json::json;

    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_795_329_000);

    fn policy(statements: Value) -> Value {
        json!({"Version": "2012-10-17", "Statement": statements})
    }

    fn get(resource: &str) -> Request<'_> {
        Request::new("s3:GetObject", resource, NOW)
    }

    #[test]
    fn nothing_is_allowed_by_default_and_both_have_to_allow() {
        let all = policy(json!([{"Effect": "Allow", "Action": "*", "Resource": "*"}]));
        let some = policy(json!([{"Effect": "Allow", "Action": "s3:get*", "Resource": "arn:aws:s3:::a/*"}]));
        let none = policy(json!([{"Effect": "Allow", "Action": "ec2:*", "Resource": "*"}]));
        let request = get("arn:aws:s3:::a/b");
        assert!(
            allows(slice::from_ref(&all), &some, &request),
            "action names know no case"
        );
        assert!(!allows(slice::from_ref(&none), &all, &request));
        assert!(!allows(slice::from_ref(&all), &none, &request));
        assert!(!allows(&[], &all, &request));
        assert!(!allows(&[all], &some, &get("arn:aws:s3:::A/b")), "ARNs do");
    }

    #[test]
    fn an_explicit_deny_wins_wherever_it_stands() {
        let all = policy(json!([{"Effect": "Allow", "Action": "*", "Resource": "*"}]));
        let deny = policy(json!([{"Effect": "Deny", "Action": "*", "Resource": "*"}]));
        let both = policy(json!([
            {"Effect": "Allow", "Action": "*", "Resource": "*"}, {"Effect": "Deny", "Action": "s3:*", "Resource": "*"}]));
        let request = get("arn:aws:s3:::a/b");
        assert!(!allows(&[all.clone(), deny], &all, &request));
        assert!(!allows(&[all], &both, &request));
    }

    #[test]
    fn conditions_are_all_of_the_keys_and_any_of_the_values() {
        let with = |condition: Value| {
            policy(json!([{"Effect": "Allow", "Action": "*", "Resource": "*", "Condition": condition}]))
        };
        let request = get("x").with("s3:prefix", "a/b");
        for (condition, expected) in [
            (json!({"StringEquals": {"s3:prefix": ["x", "a/b"]}}), true),
            (json!({"StringEquals": {"S3:Prefix": "a/b"}}), true),
            (json!({"StringEquals": {"s3:prefix": "A/b"}}), false),
            (json!({"StringLike": {"s3:prefix": "a/*"}}), true),
            (
                json!({"StringLike": {"s3:prefix": "a/*"}, "StringEquals": {"s3:prefix": "x"}}),
                false,
            ),
            (json!({"StringEquals": {"s3:other": "a"}}), false),
            (json!({"ForAnyValue:StringLike": {"s3:other": "*"}}), false),
            (
                json!({"DateGreaterThanEquals": {"aws:CurrentTime": "2026-11-22T06:30:00Z"}}),
                true,
            ),
            (
                json!({"DateGreaterThanEquals": {"aws:CurrentTime": "2026-11-22T06:30:01Z"}}),
                false,
            ),
            (
                json!({"DateLessThan": {"aws:CurrentTime": "2026-11-22T06:30:00Z"}}),
                false,
            ),
        ] {
            assert_eq!(
                says(&with(condition.clone()), "Allow", &request),
                expected,
                "{condition}"
            );
        }
    }

    #[test]
    fn wildcards_are_any_text_and_one_character() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("a*c", "abbc", true),
            ("a*c", "abb", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("a/*", "a/b/c", true),
            ("a/*", "a", false),
        ] {
            assert_eq!(like(pattern, text), expected, "{pattern} {text}");
        }
    }
}
