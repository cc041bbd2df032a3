//! What the outcome of a policy can depend on, told from its text.
//!
//! A policy that looks at nothing but the agent, the tool and the action (or at what follows from these) says the same to each request of this
//! agent for this action, so it is asked once and its answer is kept with the slice. What is not understood
//! here counts as a look at everything: asking too often is never wrong.

use cedar_policy::Policy;
use serde_json::Value;

/// What a policy looks at, beyond the agent, the tool and the action.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Reads {
    /// The circumstances or the resource itself: the answer can differ from one request to the next.
    pub(super) request: bool,
    /// The instant, which is dear to hand to Cedar: it takes a text and parses it.
    pub(super) time: bool,
}

impl Reads {
    const EVERYTHING: Self = Self {
        request: true,
        time: true,
    };
    const NOTHING: Self = Self {
        request: false,
        time: false,
    };

    /// What this policy looks at.
    pub(super) fn of(policy: &Policy) -> Self {
        let Ok(json) = policy.to_json() else {
            return Self::EVERYTHING;
        };
        let head = match json.pointer("/resource/op").and_then(Value::as_str) {
            // `in` holds for everything in the slice, and so does `is`: there is but one type of resource.
            Some("All" | "in" | "is") => Self::NOTHING,
            _ => Self::EVERYTHING.without_time(),
        };
        json.get("conditions").map_or(Self::EVERYTHING, reads).and(head)
    }

    fn and(self, other: Self) -> Self {
        Self {
            request: self.request || other.request,
            time: self.time || other.time,
        }
    }

    const fn without_time(self) -> Self {
        Self { time: false, ..self }
    }
}

/// What an expression in Cedar's JSON form looks at.
fn reads(expression: &Value) -> Reads {
    if let Some(known) = attribute(expression).or_else(|| in_tool(expression)) {
        return known;
    }
    match expression {
        Value::Object(members) => members.iter().fold(Reads::NOTHING, |found, (key, value)| {
            found.and(match (key.as_str(), value.as_str()) {
                ("Var", Some("principal" | "action")) => Reads::NOTHING,
                ("Var", Some("resource")) => Reads::EVERYTHING.without_time(),
                ("Var", _) => Reads::EVERYTHING,
                // Whether a resource that is named in the text is at hand depends on what is asked for.
                ("__entity", _) if !names(value, &["Agent", "Role", "Tool", "Action"]) => {
                    Reads::EVERYTHING.without_time()
                }
                _ => reads(value),
            })
        }),
        Value::Array(items) => items.iter().map(reads).fold(Reads::NOTHING, Reads::and),
        _ => Reads::NOTHING,
    }
}

/// `context.x`, `context has x`, `resource.tool` and `resource has tool`.
fn attribute(expression: &Value) -> Option<Reads> {
    let look = expression.get(".").or_else(|| expression.get("has"))?;
    let attribute = look.get("attr")?.as_str()?;
    match (look.pointer("/left/Var")?.as_str()?, attribute) {
        ("context", "time") => Some(Reads::EVERYTHING),
        // Two facts of the registry, compared.
        ("context", "crosses_zone") => Some(Reads::NOTHING),
        ("context", _) => Some(Reads::EVERYTHING.without_time()),
        ("resource", "tool") => Some(Reads::NOTHING),
        _ => None,
    }
}

/// `resource in Tool::"crm"`.
fn in_tool(expression: &Value) -> Option<Reads> {
    let test = expression.get("in")?;
    let of_resource = test.pointer("/left/Var")?.as_str()? == "resource";
    let tool = names(test.pointer("/right/Value/__entity")?, &["Tool"]);
    (of_resource && tool).then_some(Reads::NOTHING)
}

fn names(entity: &Value, types: &[&str]) -> bool {
    entity
        .get("type")
        .and_then(Value::as_str)
        .is_some_and(|name| types.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> (bool, bool) {
        let reads = Reads::of(&Policy::parse(None, text).unwrap());
        (reads.request, reads.time)
    }

    #[test]
    fn a_policy_about_agent_tool_and_action_does_not_look_at_the_request() {
        for text in [
            "permit(principal, action, resource);",
            r#"permit(principal in Role::"a", action in [Action::"t:x"], resource in Tool::"t");"#,
            r#"forbid(principal, action, resource is Resource in Resource::"t/a") unless { principal.autonomy > 2 };"#,
            r#"forbid(principal, action, resource)
               unless { principal.environment == resource.tool.environment || resource in Tool::"t" };"#,
            r#"forbid(principal, action == Action::"t:x", resource)
               when { context.crosses_zone && resource has tool && resource.tool.hasTag("a") && Tool::"u".risk == "low" };"#,
        ] {
            assert_eq!(of(text), (false, false), "{text}");
        }
    }

    #[test]
    fn what_looks_at_the_request_is_found_wherever_it_looks() {
        let conditions = [
            r#"resource.path == "a""#,
            r#"resource == Resource::"t/a""#,
            r#"resource in Resource::"t/a""#,
            r#"resource in [Tool::"t", Resource::"t/a"]"#,
            r#"Resource::"t/a".tool == Tool::"t""#,
            r#"[resource].contains(principal)"#,
            r#"{a: resource}.a.tool.risk == "low""#,
            r#"(if true then resource else resource).tool.risk == "low""#,
            "context.has_task",
            "context has purpose",
            r#"principal.autonomy > 1 || context.purpose like "a*""#,
        ];
        for condition in conditions {
            let text = format!("permit(principal, action, resource) when {{ {condition} }};");
            assert_eq!(of(&text), (true, false), "{text}");
        }
        let own = r#"permit(principal, action, resource == Resource::"t/a");"#;
        assert_eq!(of(own), (true, false));
    }

    #[test]
    fn the_instant_is_found_by_name_and_where_the_whole_context_is_used() {
        for condition in [
            "context.time.toTime() > duration(\"1h\")",
            "context has time",
            "context == {time: 1}",
            "{a: context}.a.crosses_zone",
            "(if true then context else context).crosses_zone",
        ] {
            let text = format!("permit(principal, action, resource) when {{ {condition} }};");
            assert_eq!(of(&text), (true, true), "{text}");
        }
    }
}
