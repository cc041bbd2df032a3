//! The Cedar schema, generated from the registry, so that a typo in an action, a tool, a role or an
//! attribute is an error at load and not a policy that never applies.
//!
//! ```text
//! Agent in [Role]               who asks; facts are its tags
//! Action "<tool>:<operation>"   in the action of its effect: read, write, delete, infrastructure, …
//! Resource in [Resource, Tool]  "crm" is the whole tool, "crm/customers/42" a path in it
//! Tool                          read as `resource.tool`; facts are its tags
//! User, Task, Environment       read as `context.user`, …; they are nothing but their facts
//! ```
//!
//! Cedar checks the names of types and attributes; the names of agents, roles, tools and actions are checked
//! by `Names`, which knows what was probably meant.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use cedar_policy::{ActionConstraint, EntityUid, Schema};

use crate::model::name::{Operation, Role, ToolName};
use crate::model::tool::Effect;
use crate::registry::Registry;

use super::problem::closest;

/// Roles that policies may name although no agent holds them yet: they are about Dayfly itself.
pub const BUILT_IN_ROLES: [&str; 4] = ["operator", "auditor", "resource-server", "delegator"];

/// How deep policies may look from the request: `resource.tool.risk` is two steps. What lies deeper, or
/// behind a name written into a policy, is not at hand when a request is decided.
pub(super) const DEREFERENCES: u32 = 2;

const TYPES: &str = r#"
entity Role;

entity Agent in [Role] = {
  owner: String,
  environment: String,
  autonomy: Long,         // 0 (a person confirms each step) to 5 (alone)
  zone: String,
  attestation: String,    // jwt_svid, x509_svid, kubernetes, oidc
  trust_domain?: String,
} tags String;

entity Tool = {
  owner: String,
  environment: String,
  zone: String,
  risk: String,           // low, medium, high, critical
  risk_rank: Long,        // 0 to 3
  sensitivity: String,    // public, internal, confidential, restricted
  sensitivity_rank: Long, // 0 to 3
} tags String;

entity Resource in [Resource, Tool] = {
  tool: Tool,
  path: String,           // without the tool; empty for the tool as a whole
};

entity User tags String;

entity Task tags String;

entity Environment tags String;

type Circumstances = {
  has_task: Bool,         // false for what callers do on Dayfly itself
  purpose: String,        // empty without a task
  on_behalf_of?: String,
  user?: User,            // the same as an entity
  task?: Task,
  environment: Environment, // that of the agent
  task_age: Long,         // seconds since the task was opened; 0 without a task
  task_depth: Long,       // how many tasks are above it; 0 without a task
  delegated_by: Set<Agent>, // who handed it on: the agents of the tasks above
  requested_ttl: Long,    // seconds; the default of the tool when none was asked for
  time: datetime,
  crosses_zone: Bool,     // agent and tool are in different zones
};
"#;

/// The schema as Cedar text, for people, editors and [`schema`].
pub fn schema_text(registry: &Registry) -> String {
    let mut text = String::from("// Generated from the registry: do not edit.\n");
    text.push_str(TYPES);
    let effects: Vec<String> = Effect::ALL
        .iter()
        .map(|effect| format!("{:?}", effect.as_str()))
        .collect();
    let _ = writeln!(text, "\naction {};\n", effects.join(", "));
    for tool in registry.tools() {
        for (operation, effect) in &tool.actions {
            let _ = writeln!(
                text,
                "action {:?} in [{:?}] appliesTo {{ principal: [Agent], resource: [Resource], context: Circumstances }};",
                action_name(&tool.name, operation),
                effect.as_str(),
            );
        }
    }
    text
}

/// The schema for Cedar.
#[expect(
    clippy::expect_used,
    reason = "the text is made here from names that need no escapes; a test builds it from a full registry"
)]
pub fn schema(registry: &Registry) -> Schema {
    let (schema, _warnings) =
        Schema::from_cedarschema_str(&schema_text(registry)).expect("the generated schema is valid");
    schema
}

/// The Cedar name of an action: `crm:read`.
pub fn action_name(tool: &ToolName, operation: &Operation) -> String {
    format!("{tool}:{operation}")
}

/// The names that policies may write down.
#[derive(Debug)]
pub(super) struct Names {
    agents: BTreeSet<String>,
    roles: BTreeSet<String>,
    tools: BTreeSet<String>,
    actions: BTreeSet<String>,
    environments: BTreeSet<String>,
    /// Effects that no action of any tool has.
    unused: BTreeSet<&'static str>,
}

impl Names {
    pub(super) fn of(registry: &Registry) -> Self {
        let held = registry
            .agents()
            .flat_map(|agent| agent.roles.iter().map(Role::to_string));
        let actions = registry.tools().flat_map(|tool| {
            let names = tool.actions.keys();
            names.map(|operation| action_name(&tool.name, operation))
        });
        let effects = Effect::ALL.map(|effect| effect.as_str().to_owned());
        let used = |effect: &Effect| {
            registry
                .tools()
                .any(|tool| tool.actions.values().any(|has| has == effect))
        };
        Self {
            unused: Effect::ALL
                .iter()
                .filter(|effect| !used(effect))
                .map(|effect| effect.as_str())
                .collect(),
            actions: actions.chain(effects).collect(),
            agents: registry.agents().map(|agent| agent.name.to_string()).collect(),
            environments: registry
                .agents()
                .map(|agent| agent.environment.to_string())
                .collect(),
            roles: held.chain(BUILT_IN_ROLES.map(str::to_owned)).collect(),
            tools: registry.tools().map(|tool| tool.name.to_string()).collect(),
        }
    }

    /// Whether a policy is about effects that no tool has yet.
    pub(super) fn waits_for_a_tool(&self, constraint: &ActionConstraint) -> bool {
        let ActionConstraint::In(groups) = constraint else {
            return false;
        };
        let unused = |group: &EntityUid| self.unused.contains::<str>(group.id().as_ref());
        !groups.is_empty() && groups.iter().all(unused)
    }

    /// What is wrong with a name in a policy: the message and a suggestion.
    pub(super) fn check(&self, uid: &EntityUid) -> Result<(), (String, Option<String>)> {
        let name: &str = uid.id().as_ref();
        let (what, name, known) = match uid.type_name().basename() {
            "Agent" => ("agent", name, &self.agents),
            "Role" => ("role", name, &self.roles),
            "Tool" => ("tool", name, &self.tools),
            "Action" => ("action", name, &self.actions),
            "Environment" => ("environment of an agent", name, &self.environments),
            "Resource" => (
                "tool",
                name.split_once('/').map_or(name, |(tool, _)| tool),
                &self.tools,
            ),
            _ => return Ok(()),
        };
        if known.contains(name) {
            return Ok(());
        }
        let help =
            closest(name, known.iter().map(String::as_str)).map(|close| format!("did you mean `{close}`?"));
        Err((format!("no {what} is named `{name}` in the registry"), help))
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    #[test]
    fn an_empty_registry_has_a_valid_schema() {
        schema(&Registry::default());
    }

    #[test]
    fn actions_are_named_by_tool_and_grouped_by_effect() {
        let schema = schema(&samples::registry());
        let read: EntityUid = r#"Action::"crm:export""#.parse().unwrap();
        let actions = schema.action_entities().unwrap();
        let ancestors: Vec<_> = actions
            .ancestors(&read)
            .unwrap()
            .map(ToString::to_string)
            .collect();
        assert_eq!(ancestors, [r#"Action::"data_movement""#]);
    }

    #[test]
    fn names_are_checked_with_a_suggestion() {
        let names = Names::of(&samples::registry());
        for good in [
            r#"Agent::"support-bot""#,
            r#"Role::"auditor""#,
            r#"Tool::"crm""#,
            r#"Resource::"crm/a""#,
            r#"Environment::"production""#,
            r#"User::"anybody""#,
        ] {
            assert_eq!(names.check(&good.parse().unwrap()), Ok(()), "{good}");
        }
        for (bad, close) in [
            (r#"Agent::"support-bott""#, Some("support-bot")),
            (r#"Role::"suport""#, Some("support")),
            (r#"Resource::"crn/customers""#, Some("crm")),
            (r#"Action::"crm:raed""#, Some("crm:read")),
            (r#"Tool::"warehouse""#, None),
            (r#"Environment::"prodution""#, Some("production")),
        ] {
            let (_, help) = names.check(&bad.parse().unwrap()).unwrap_err();
            assert_eq!(
                help,
                close.map(|close| format!("did you mean `{close}`?")),
                "{bad}"
            );
        }
    }
}
