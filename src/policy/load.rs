//! From policy files to checked policies: parsed, named, annotated, and validated as one set.
//!
//! A set is taken whole or refused whole, with every problem in it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use cedar_policy::{
    Effect, Policy, PolicySet, Schema, ValidationError, ValidationMode, ValidationWarning, Validator,
};
use miette::Diagnostic;

use crate::model::decision::PolicyId;

use super::annotations::{self, Terms};
use super::problem::{PolicyProblems, Position, Problem};
use super::reads::Reads;
use super::schema::{DEREFERENCES, Names};

/// The most policies that one set may hold.
const MOST_POLICIES: usize = 100_000;
/// The most bytes that one policy file may hold.
const LARGEST_SOURCE: usize = 16 * 1024 * 1024;
/// The most problems that are reported at once.
const MOST_PROBLEMS: usize = 100;

/// One policy file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PolicySource {
    /// The name that positions and default ids carry, such as `support.cedar`.
    pub name: String,
    /// Cedar policies.
    pub text: String,
}

/// A checked policy. Inside Cedar it is called by its place in the set, which is shorter to copy than its id.
#[derive(Clone, Debug)]
pub(super) struct Loaded {
    pub(super) id: PolicyId,
    pub(super) at: Position,
    pub(super) effect: Effect,
    pub(super) terms: Terms,
    pub(super) reads: Reads,
    pub(super) policy: Policy,
}

/// Every policy of the sources, in the order of the text; and what is odd in them but no reason to refuse.
pub(super) fn load(
    sources: &[PolicySource],
    schema: &Schema,
    names: &Names,
) -> Result<(Vec<Loaded>, Vec<Problem>), PolicyProblems> {
    let mut loading = Loading::default();
    for source in sources {
        loading.source(source, names);
    }
    loading.unique_ids();
    loading.validate(schema, names);
    if loading.problems.is_empty() {
        return Ok((loading.policies, loading.warnings));
    }
    let order: HashMap<&str, usize> = sources
        .iter()
        .enumerate()
        .map(|(n, s)| (s.name.as_str(), n))
        .collect();
    let place = |problem: &Problem| (order.get(&*problem.at.source).copied(), problem.at.clone());
    loading.problems.sort_by_key(place);
    loading.problems.dedup();
    loading.problems.truncate(MOST_PROBLEMS);
    Err(PolicyProblems(loading.problems))
}

#[derive(Default)]
struct Loading {
    policies: Vec<Loaded>,
    /// The text of each policy's file, for positions inside the policy.
    texts: Vec<Arc<str>>,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
}

impl Loading {
    fn problem(&mut self, at: Position, message: impl Into<String>, help: Option<String>) {
        self.problems.push(Problem {
            at,
            message: message.into(),
            help,
        });
    }

    fn source(&mut self, source: &PolicySource, names: &Names) {
        let name: Arc<str> = source.name.as_str().into();
        let at = |offset| Position::of(&name, &source.text, offset);
        if source.text.len() > LARGEST_SOURCE {
            let help = Some("split it into several files".to_owned());
            return self.problem(
                at(0),
                format!("a policy file holds at most {LARGEST_SOURCE} bytes"),
                help,
            );
        }
        let set: PolicySet = match source.text.parse() {
            Ok(set) => set,
            Err(errors) => {
                let errors: &cedar_policy::ParseErrors = &errors;
                for error in errors.iter() {
                    self.problem(
                        at(offset(error).unwrap_or_default()),
                        error.to_string(),
                        help(error),
                    );
                }
                return;
            }
        };
        for template in set.templates() {
            // Cedar keeps the position in a type that its documentation hides; there is no other way to it.
            let start = template.as_ref().loc().map(|loc| loc.start()).unwrap_or_default();
            let help = "templates are not supported: write a role instead of `?principal`, a tool or a path instead of `?resource`";
            self.problem(at(start), "this policy has an open slot", Some(help.to_owned()));
        }
        let mut policies: Vec<(usize, &Policy)> = set
            .policies()
            .map(|policy| {
                (
                    policy.as_ref().loc().map(|loc| loc.start()).unwrap_or_default(),
                    policy,
                )
            })
            .collect();
        policies.sort_by_key(|(start, _)| *start);
        if self.policies.len() + policies.len() > MOST_POLICIES {
            return self.problem(
                at(0),
                format!("a set holds at most {MOST_POLICIES} policies"),
                None,
            );
        }
        let text: Arc<str> = source.text.as_str().into();
        let mut lines = Lines::new(&name, &source.text);
        for (start, policy) in policies {
            self.policy(policy, &lines.position(start), names, &text, start);
        }
    }

    fn policy(&mut self, policy: &Policy, at: &Position, names: &Names, text: &Arc<str>, start: usize) {
        let (terms, misused) = annotations::read(policy);
        let wrong = misused
            .into_iter()
            .map(|wrong| (format!("@{}", wrong.name), (wrong.message, None)));
        let literals = policy.entity_literals();
        let unknown = literals
            .iter()
            .filter_map(|literal| Some((literal.to_string(), names.check(literal).err()?)));
        for (needle, (message, help)) in wrong.chain(unknown) {
            // Beyond the most that are reported, looking for places would only take time.
            if self.problems.len() < MOST_PROBLEMS {
                self.problem(find(at, text, start, &needle), message, help);
            }
        }
        let id = terms
            .id
            .clone()
            .unwrap_or_else(|| format!("{}:{}", at.source, at.line));
        self.policies.push(Loaded {
            id: PolicyId(id.into()),
            at: at.clone(),
            effect: policy.effect(),
            terms,
            reads: Reads::of(policy),
            policy: policy.new_id(cedar_policy::PolicyId::new(self.policies.len().to_string())),
        });
        self.texts.push(text.clone());
    }

    fn unique_ids(&mut self) {
        let mut first: HashMap<&PolicyId, &Position> = HashMap::new();
        let mut twice = Vec::new();
        for policy in &self.policies {
            if let Some(other) = first.insert(&policy.id, &policy.at) {
                twice.push(Problem {
                    at: policy.at.clone(),
                    message: format!("the policy id `{}` is taken by the policy at {other}", policy.id),
                    help: Some("give each policy an `@id` of its own".to_owned()),
                });
            }
        }
        self.problems.append(&mut twice);
    }

    fn validate(&mut self, schema: &Schema, names: &Names) {
        let set = match PolicySet::from_policies(self.policies.iter().map(|loaded| loaded.policy.clone())) {
            Ok(set) => set,
            Err(error) => {
                let nowhere = Position::of(&"".into(), "", 0);
                return self.problem(nowhere, error.to_string(), None);
            }
        };
        let result =
            Validator::new(schema.clone()).validate_with_level(&set, ValidationMode::Strict, DEREFERENCES);
        let mut wrong = HashSet::new();
        let mut problems = Vec::new();
        for error in result.validation_errors().take(MOST_PROBLEMS) {
            wrong.insert(error.policy_id());
            // An unknown action was found by its name before, with a better suggestion.
            if !matches!(error, ValidationError::UnrecognizedActionId(_)) {
                problems.push(self.located(error.policy_id(), error));
            }
        }
        for warning in result.validation_warnings().take(MOST_PROBLEMS) {
            let located = self.located(warning.policy_id(), warning);
            if matches!(warning, ValidationWarning::MixedScriptString(_)) {
                self.warnings.push(located); // how people write
            } else if !wrong.insert(warning.policy_id()) {
                // one is enough
            } else if self.waits_for_a_tool(warning.policy_id(), names) {
                self.warnings.push(Problem {
                    message: "no tool has an action of these effects yet: this policy waits for one".into(),
                    help: None,
                    ..located
                });
            } else {
                problems.push(located); // the rest hides what a policy does, or that it does nothing
            }
        }
        self.problems.append(&mut problems);
    }

    /// A pack of policies may speak of more than a small catalogue has.
    fn waits_for_a_tool(&self, id: &cedar_policy::PolicyId, names: &Names) -> bool {
        let policy = index_of(id).and_then(|index| self.policies.get(index));
        policy.is_some_and(|loaded| names.waits_for_a_tool(&loaded.policy.action_constraint()))
    }

    fn located(&self, id: &cedar_policy::PolicyId, diagnostic: &dyn Diagnostic) -> Problem {
        let index = index_of(id);
        let policy = index.and_then(|index| self.policies.get(index));
        let at = match (
            policy,
            index.and_then(|index| self.texts.get(index)),
            offset(diagnostic),
        ) {
            (Some(policy), Some(text), Some(offset)) => Position::of(&policy.at.source, text, offset),
            (Some(policy), ..) => policy.at.clone(),
            (None, ..) => Position::of(&"".into(), "", 0),
        };
        let message = diagnostic.to_string();
        let named = format!("for policy `{id}`, ");
        Problem {
            at,
            message: message
                .strip_prefix(&named)
                .unwrap_or(&message)
                .replace('\n', " "),
            help: help(diagnostic),
        }
    }
}

/// Counts lines once over a whole file, for offsets that only grow.
struct Lines<'a> {
    source: &'a Arc<str>,
    text: &'a str,
    counted: usize,
    line: usize,
}

impl<'a> Lines<'a> {
    fn new(source: &'a Arc<str>, text: &'a str) -> Self {
        Self {
            source,
            text,
            counted: 0,
            line: 1,
        }
    }

    fn position(&mut self, offset: usize) -> Position {
        let since = self.text.get(self.counted..offset).unwrap_or_default();
        self.line += since.bytes().filter(|&byte| byte == b'\n').count();
        self.counted = offset;
        let before = self.text.get(..offset).unwrap_or_default();
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let column = 1 + before.get(start..).unwrap_or_default().chars().count();
        Position {
            source: self.source.clone(),
            line: self.line,
            column,
        }
    }
}

/// Where `needle` stands in the policy that starts at `start`; the policy itself when it is written otherwise.
fn find(policy: &Position, text: &str, start: usize, needle: &str) -> Position {
    let rest = text.get(start..).unwrap_or_default();
    rest.find(needle).map_or_else(
        || policy.clone(),
        |found| Position::of(&policy.source, text, start + found),
    )
}

/// The place in the set of a policy, from what Cedar calls it.
pub(super) fn index_of(id: &cedar_policy::PolicyId) -> Option<usize> {
    let name: &str = id.as_ref();
    name.parse().ok()
}

fn offset(diagnostic: &dyn Diagnostic) -> Option<usize> {
    diagnostic.labels()?.next().map(|label| label.offset())
}

fn help(diagnostic: &dyn Diagnostic) -> Option<String> {
    diagnostic.help().map(|help| help.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::super::schema::schema;
    use super::*;
    use crate::model::tool::{Effect, Risk, Sensitivity};
    use crate::registry::Registry;

    fn check(text: &str) -> Result<(Vec<Loaded>, Vec<Problem>), PolicyProblems> {
        let registry = samples::registry();
        let source = PolicySource {
            name: "a.cedar".into(),
            text: text.into(),
        };
        load(&[source], &schema(&registry), &Names::of(&registry))
    }

    fn refusal(text: &str) -> String {
        check(text).unwrap_err().to_string()
    }

    #[test]
    fn policies_are_named_by_annotation_or_by_their_line() {
        let (policies, _) = check(
            "permit(principal, action, resource);\n\n@id(\"two\")\nforbid(principal, action, resource);",
        )
        .unwrap();
        let ids: Vec<_> = policies.iter().map(|policy| policy.id.to_string()).collect();
        assert_eq!(ids, ["a.cedar:1", "two"]);
        assert_eq!(policies[1].at.to_string(), "a.cedar:3:1");
    }

    #[test]
    fn a_typo_is_refused_with_its_place_and_a_suggestion() {
        for (text, place, words) in [
            (
                "permit(principal, action == Action::\"crm:raed\", resource);",
                "a.cedar:1:29:",
                "crm:read",
            ),
            (
                "permit(principal in Role::\"suport\", action, resource);",
                "a.cedar:1:21:",
                "did you mean `support`?",
            ),
            (
                "permit(principal, action, resource in Tool::\"crn\");",
                "a.cedar:1:39:",
                "did you mean `crm`?",
            ),
            (
                "permit(principal, action,\n resource)\nwhen { principal.autonmy > 2 };",
                "a.cedar:3:8:",
                "autonomy",
            ),
            (
                "permit(principal, action, resource) when { context.ttl > 2 };",
                "a.cedar:1:44:",
                "ttl",
            ),
            (
                "permit(principal is Agnet, action, resource);",
                "a.cedar:1:21:",
                "Agent",
            ),
            (
                "permit(principal, action, resource) when { resource.tool.risk > 2 };",
                "a.cedar:1:44:",
                "Long",
            ),
            (
                "permit(principal, action, resource)",
                "a.cedar:1:36:",
                "unexpected end",
            ),
            (
                "@max_tll(\"5m\") permit(principal, action, resource);",
                "a.cedar:1:1:",
                "max_ttl",
            ),
        ] {
            let refusal = refusal(text);
            assert!(refusal.starts_with(place), "{text}\n{refusal}");
            assert!(refusal.contains(words), "{text}\n{refusal}");
        }
    }

    #[test]
    fn every_problem_is_reported_in_the_order_of_the_text() {
        let refusal = refusal(
            "permit(principal in Role::\"a\", action, resource);\n\
             permit(principal, action == Action::\"b\", resource);\n\
             @id(\"x\") permit(principal, action, resource);\n\
             @id(\"x\") @reason(\"r\") permit(principal, action, resource);",
        );
        let lines: Vec<_> = refusal
            .lines()
            .map(|line| line.split(": ").next().unwrap_or_default())
            .collect();
        assert_eq!(
            lines,
            ["a.cedar:1:21", "a.cedar:2:29", "a.cedar:4:1", "a.cedar:4:10"],
            "{refusal}"
        );
    }

    #[test]
    fn templates_and_policies_that_never_apply_are_refused() {
        assert!(
            refusal("permit(principal == ?principal, action, resource);")
                .contains("templates are not supported")
        );
        assert!(refusal("permit(principal == Tool::\"crm\", action, resource);").contains("a.cedar:1:1"));
        assert!(refusal("permit(principal, action, resource) when { false };").contains("a.cedar:1:1"));
    }

    #[test]
    fn policies_about_effects_that_no_tool_has_wait_for_one() {
        let read = [("read", Effect::Read)];
        let crm = samples::tool("crm", &read, Risk::Low, Sensitivity::Public);
        let small = Registry::new([samples::agent("bot", &[], 3)], [], [crm]).unwrap();
        let check = |text: &str| {
            let source = PolicySource {
                name: "a.cedar".into(),
                text: text.into(),
            };
            load(&[source], &schema(&small), &Names::of(&small))
        };
        let pack = r#"forbid(principal, action in [Action::"delete", Action::"payment"], resource) unless { context.has_task };"#;
        let (policies, warnings) = check(pack).unwrap();
        assert_eq!(policies.len(), 1);
        let told: Vec<_> = warnings.iter().map(ToString::to_string).collect();
        let expected = "a.cedar:1:1: no tool has an action of these effects yet: this policy waits for one";
        assert_eq!(told, [expected]);
        // What can never apply is still a mistake.
        let never = [
            r#"permit(principal, action in [Action::"read", Action::"payment"], resource) when { false };"#,
            r#"permit(principal, action == Action::"payment", resource);"#,
            r#"permit(principal, action in [], resource);"#,
        ];
        for text in never {
            assert!(check(text).is_err(), "{text}");
        }
    }

    #[test]
    fn policies_cannot_look_at_what_a_request_does_not_name() {
        let refusal =
            refusal("permit(principal, action, resource) when { Agent::\"report-bot\".autonomy > 2 };");
        assert!(refusal.starts_with("a.cedar:1:"), "{refusal}");
    }
}
