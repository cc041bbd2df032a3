//! What the outcome of a policy can depend on, told from its text.
//!
//! A policy that looks at nothing but the agent, the tool and the action (or at what follows from these, or
//! at whether there is a task and somebody on whose behalf it runs) says the same to each such request of
//! this agent for this action, so it is asked once and its answer is kept with the slice. If it looks at tags
//! too, that answer holds for as long as no fact is in force that it mentions. What is not understood here
//! counts as a look at everything: asking too often is never wrong.

use std::collections::BTreeMap;
use std::sync::Arc;

use cedar_policy::Policy;
use serde_json::Value;

use crate::model::fact::Subject;

/// What a policy looks at, beyond the agent, the tool and the action.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Reads {
    /// The circumstances or the resource itself: the answer can differ from one request to the next.
    pub(super) request: bool,
    /// What of the context is dear to make.
    pub(super) view: View,
    /// The facts.
    pub(super) facts: Mentions,
}

/// The parts of the context that are made only for those who look at them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct View {
    /// The instant: it takes a text and parses it.
    pub(super) time: bool,
    /// The user, the task with its chain, and the environment.
    pub(super) parties: bool,
}

impl View {
    /// All of it.
    pub(super) const WHOLE: Self = Self {
        time: true,
        parties: true,
    };

    pub(super) const fn and(self, other: Self) -> Self {
        Self {
            time: self.time || other.time,
            parties: self.parties || other.parties,
        }
    }
}

/// Facts, by name and by the kind of whom they are about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Mentions {
    /// These.
    Only(BTreeMap<Arc<str>, Kinds>),
    /// Any: a name that is not written down but made.
    Any,
}

/// Kinds of subjects, a bit each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Kinds(u8);

impl Kinds {
    pub(super) const AGENT: Self = Self(1);
    pub(super) const TOOL: Self = Self(2);
    pub(super) const USER: Self = Self(4);
    pub(super) const TASK: Self = Self(8);
    pub(super) const ENVIRONMENT: Self = Self(16);
    const ANY: Self = Self(31);

    const fn of(subject: &Subject) -> Self {
        match subject {
            Subject::Agent(_) => Self::AGENT,
            Subject::Tool(_) => Self::TOOL,
            Subject::User(_) => Self::USER,
            Subject::Task(_) => Self::TASK,
            Subject::Environment(_) => Self::ENVIRONMENT,
        }
    }
}

impl Default for Mentions {
    fn default() -> Self {
        Self::Only(BTreeMap::new())
    }
}

impl Mentions {
    /// Whether a fact of this name about this subject is among them.
    pub(super) fn has(&self, subject: &Subject, name: &str) -> bool {
        match self {
            Self::Only(names) => names
                .get(name)
                .is_some_and(|kinds| kinds.0 & Kinds::of(subject).0 != 0),
            Self::Any => true,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::Only(names) if names.is_empty())
    }

    /// What any of them mentions.
    pub(super) fn of<'a>(all: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut names: BTreeMap<Arc<str>, Kinds> = BTreeMap::new();
        for mentions in all {
            let Self::Only(more) = mentions else {
                return Self::Any;
            };
            for (name, kinds) in more {
                let known = names.entry(name.clone()).or_insert(*kinds);
                known.0 |= kinds.0;
            }
        }
        Self::Only(names)
    }
}

impl Reads {
    fn everything() -> Self {
        Self {
            view: View::WHOLE,
            facts: Mentions::Any,
            ..Self::request()
        }
    }

    fn request() -> Self {
        Self {
            request: true,
            ..Self::default()
        }
    }

    fn parties() -> Self {
        let view = View {
            time: false,
            parties: true,
        };
        Self {
            view,
            ..Self::default()
        }
    }

    /// What this policy looks at.
    pub(super) fn of(policy: &Policy) -> Self {
        let Ok(json) = policy.to_json() else {
            return Self::everything();
        };
        let head = match json.pointer("/resource/op").and_then(Value::as_str) {
            // `in` holds for everything in the slice, and so does `is`: there is but one type of resource.
            Some("All" | "in" | "is") => Self::default(),
            _ => Self::request(),
        };
        json.get("conditions")
            .map_or_else(Self::everything, reads)
            .and(head)
    }

    fn and(self, other: Self) -> Self {
        let facts = if other.facts.is_empty() {
            self.facts
        } else {
            Mentions::of([&self.facts, &other.facts])
        };
        Self {
            request: self.request || other.request,
            view: self.view.and(other.view),
            facts,
        }
    }
}

/// The types of which one that is named in the text is the same to every request of a slice: at hand or not,
/// or, of the last three, without any members.
const FOREKNOWN: [&str; 7] = ["Agent", "Role", "Tool", "Action", "User", "Task", "Environment"];

/// What an expression in Cedar's JSON form looks at.
fn reads(expression: &Value) -> Reads {
    let known = tag(expression)
        .or_else(|| attribute(expression))
        .or_else(|| in_tool(expression));
    if let Some(known) = known {
        return known;
    }
    match expression {
        Value::Object(members) => members.iter().fold(Reads::default(), |found, (key, value)| {
            found.and(match (key.as_str(), value.as_str()) {
                ("Var", Some("principal" | "action")) => Reads::default(),
                ("Var", Some("resource")) => Reads::request(),
                ("Var", _) => Reads {
                    view: View::WHOLE,
                    ..Reads::request()
                },
                // Whether a resource that is named in the text is at hand depends on what is asked for.
                ("__entity", _) if !names(value, &FOREKNOWN) => Reads::request(),
                _ => reads(value),
            })
        }),
        Value::Array(items) => items.iter().map(reads).fold(Reads::default(), Reads::and),
        _ => Reads::default(),
    }
}

/// `x.hasTag("risk")` and `x.getTag("risk")`. Whose tags they are does not matter while there are none.
fn tag(expression: &Value) -> Option<Reads> {
    let look = expression.get("hasTag").or_else(|| expression.get("getTag"))?;
    let (whose, name) = (look.get("left")?, look.get("right")?);
    let (kinds, whose) = match (variable(whose), member(whose)) {
        (Some("principal"), _) => (Kinds::AGENT, Reads::default()),
        (_, Some(("resource", "tool"))) => (Kinds::TOOL, Reads::default()),
        (_, Some(("context", "user"))) => (Kinds::USER, Reads::parties()),
        (_, Some(("context", "task"))) => (Kinds::TASK, Reads::parties()),
        (_, Some(("context", "environment"))) => (Kinds::ENVIRONMENT, Reads::parties()),
        _ => (Kinds::ANY, reads(whose)),
    };
    let facts = match name.get("Value").and_then(Value::as_str) {
        Some(name) => Mentions::Only(BTreeMap::from([(name.into(), kinds)])),
        None => Mentions::Any,
    };
    let named = Reads {
        facts,
        ..Reads::default()
    };
    Some(whose.and(reads(name)).and(named))
}

fn variable(expression: &Value) -> Option<&str> {
    expression.get("Var")?.as_str()
}

/// The `x` and the `y` of `x.y`.
fn member(expression: &Value) -> Option<(&str, &str)> {
    let look = expression.get(".")?;
    Some((variable(look.get("left")?)?, look.get("attr")?.as_str()?))
}

/// `context.x`, `context has x`, `resource.tool` and `resource has tool`.
fn attribute(expression: &Value) -> Option<Reads> {
    let (get, has) = (expression.get("."), expression.get("has"));
    let look = get.or(has)?;
    let attribute = look.get("attr")?.as_str()?;
    let view = View {
        time: true,
        parties: false,
    };
    match (look.pointer("/left/Var")?.as_str()?, attribute) {
        ("context", "time") => Some(Reads {
            view,
            ..Reads::request()
        }),
        // What the registry says of both, compared. And whether there is a task, which slices are told apart by.
        ("context", "crosses_zone" | "has_task") => Some(Reads::default()),
        // So are they by whether it runs on somebody's behalf.
        ("context", "user" | "task") if has.is_some() => Some(Reads::parties()),
        ("context", "on_behalf_of") if has.is_some() => Some(Reads::default()),
        // That of the agent.
        ("context", "environment") => Some(Reads::parties()),
        ("context", "user" | "task" | "task_depth" | "delegated_by") => {
            Some(Reads::request().and(Reads::parties()))
        }
        ("context", _) => Some(Reads::request()),
        ("resource", "tool") => Some(Reads::default()),
        _ => None,
    }
}

/// `resource in Tool::"crm"`.
fn in_tool(expression: &Value) -> Option<Reads> {
    let test = expression.get("in")?;
    let of_resource = test.pointer("/left/Var")?.as_str()? == "resource";
    let tool = names(test.pointer("/right/Value/__entity")?, &["Tool"]);
    (of_resource && tool).then(Reads::default)
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
        (reads.request, reads.view.time)
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
            "context has purpose",
            "context.task_age < 60",
            "context.task_depth < 2",
            r#"context.delegated_by.contains(Agent::"a")"#,
            r#"context has user && context.user == User::"u""#,
            r#"context has task && [context.task].contains(Task::"t")"#,
            r#"resource == Resource::"t/a" && principal.hasTag("risk")"#,
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
            r#"{a: context}.a.user.hasTag("risk")"#,
            "(if true then context else context).crosses_zone",
        ] {
            let text = format!("permit(principal, action, resource) when {{ {condition} }};");
            assert_eq!(of(&text), (true, true), "{text}");
        }
    }

    #[test]
    fn the_names_of_facts_are_found_and_their_subjects_are_no_look_at_the_request() {
        let only = |names: &[(&str, Kinds)]| {
            Mentions::Only(
                names
                    .iter()
                    .map(|(name, kinds)| ((*name).into(), *kinds))
                    .collect(),
            )
        };
        for (condition, facts, parties) in [
            (
                r#"principal.hasTag("a") && resource.tool.getTag("b") == "x""#,
                only(&[("a", Kinds::AGENT), ("b", Kinds::TOOL)]),
                false,
            ),
            (
                r#"context has user && context.user.hasTag("a")"#,
                only(&[("a", Kinds::USER)]),
                true,
            ),
            (
                r#"context has task && context.task.getTag("a") == "x""#,
                only(&[("a", Kinds::TASK)]),
                true,
            ),
            (
                r#"context.environment.hasTag("a")"#,
                only(&[("a", Kinds::ENVIRONMENT)]),
                true,
            ),
            (
                r#"(if context.has_task then principal else Agent::"b").hasTag("a") || principal.hasTag("a")"#,
                only(&[("a", Kinds::ANY)]),
                false,
            ),
            (
                r#"principal.hasTag("a") && context.environment.hasTag("a")"#,
                only(&[("a", Kinds(17))]),
                true,
            ),
            (
                r#"context.environment == Environment::"staging""#,
                only(&[]),
                true,
            ),
            (
                r#"context.has_task && !(context has on_behalf_of)"#,
                only(&[]),
                false,
            ),
            (r#"principal.hasTag(principal.owner)"#, Mentions::Any, false),
        ] {
            let text = format!("permit(principal, action, resource) when {{ {condition} }};");
            let reads = Reads::of(&Policy::parse(None, &text).unwrap());
            let view = View { time: false, parties };
            assert_eq!(
                reads,
                Reads {
                    request: false,
                    view,
                    facts
                },
                "{text}"
            );
        }
        let made = r#"permit(principal, action, resource) when { principal.hasTag(context.purpose) };"#;
        let reads = Reads::of(&Policy::parse(None, made).unwrap());
        assert_eq!((reads.request, reads.facts), (true, Mentions::Any));
    }
}
