//! From a question to what Cedar evaluates: entities, actions, resources and context.
//!
//! What does not change while an engine lives is built once: tools, actions, whole tools as resources, and
//! agents for each way in which they were attested. Only what the request names enters its entities.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, LazyLock};

use cedar_policy::{Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, RestrictedExpression};

use crate::model::access::ResourcePath;
use crate::model::agent::Agent;
use crate::model::fact::Subject;
use crate::model::name::{FactName, FactValue, Operation, Owner, ToolName};
use crate::model::task::Delegator;
use crate::model::tool::{Effect, Tool};
use crate::registry::Registry;

use super::live::About;
use super::reads::View;
use super::schema::action_name;
use super::{Attested, Question};

/// Why a question could not be put to Cedar. It is a denial like any other fault.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Unfit(pub String);

fn unfit(error: impl std::fmt::Display) -> Unfit {
    Unfit(error.to_string())
}

struct Types {
    agent: EntityTypeName,
    role: EntityTypeName,
    tool: EntityTypeName,
    resource: EntityTypeName,
    action: EntityTypeName,
    user: EntityTypeName,
    task: EntityTypeName,
    environment: EntityTypeName,
}

#[expect(
    clippy::expect_used,
    reason = "the type names are literals here, and every test uses them"
)]
static TYPES: LazyLock<Types> = LazyLock::new(|| {
    let name = |text: &str| text.parse().expect("a type name of the schema");
    Types {
        agent: name("Agent"),
        role: name("Role"),
        tool: name("Tool"),
        resource: name("Resource"),
        action: name("Action"),
        user: name("User"),
        task: name("Task"),
        environment: name("Environment"),
    }
});

fn uid(kind: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id))
}

pub(super) fn agent_uid(name: &str) -> EntityUid {
    uid(&TYPES.agent, name)
}

/// One action as Cedar knows it.
#[derive(Clone, Debug)]
pub(super) struct ActionEntity {
    pub(super) name: Arc<str>,
    pub(super) effect: Effect,
    pub(super) uid: EntityUid,
    entity: Entity,
}

/// One resource as Cedar knows it.
#[derive(Clone, Debug)]
pub(super) struct ResourceEntity {
    /// `crm` or `crm/customers/42`.
    pub(super) name: Arc<str>,
    pub(super) uid: EntityUid,
    path: Option<ResourcePath>,
}

/// A tool as Cedar knows it.
#[derive(Clone, Debug)]
pub(super) struct ToolEntity {
    source: Arc<Tool>,
    entity: Entity,
    actions: BTreeMap<Operation, ActionEntity>,
    root: ResourceEntity,
    root_entity: Entity,
}

impl ToolEntity {
    fn new(source: Arc<Tool>) -> Result<Self, Unfit> {
        let tool = &*source;
        let entity = tool_entity(tool, &[])?;
        let actions = tool.actions.iter().map(|(operation, effect)| {
            let name = action_name(&tool.name, operation);
            let uid = uid(&TYPES.action, &name);
            let group = self::uid(&TYPES.action, effect.as_str());
            let entity = Entity::new_no_attrs(uid.clone(), HashSet::from([group]));
            (
                operation.clone(),
                ActionEntity {
                    name: name.into(),
                    effect: *effect,
                    uid,
                    entity,
                },
            )
        });
        Ok(Self {
            actions: actions.collect(),
            root: named(&tool.name, None),
            root_entity: resource(&tool.name, None)?,
            entity,
            source,
        })
    }

    /// The tool with facts that are in force, over those of its entry.
    pub(super) fn told(&self, facts: &[Said<'_>]) -> Result<Entity, Unfit> {
        tool_entity(&self.source, facts)
    }

    pub(super) fn action(&self, operation: &Operation) -> Option<&ActionEntity> {
        self.actions.get(operation)
    }

    /// The resources of an access: the whole tool when it names none.
    pub(super) fn resources<'a>(
        &self,
        paths: impl ExactSizeIterator<Item = &'a ResourcePath>,
    ) -> Vec<ResourceEntity> {
        if paths.len() == 0 {
            return vec![self.root.clone()];
        }
        paths.map(|path| named(&self.source.name, Some(path))).collect()
    }

    pub(super) fn source(&self) -> &Tool {
        &self.source
    }

    fn is(&self, tool: &Tool) -> bool {
        std::ptr::eq(&raw const *self.source, tool)
    }
}

fn tool_entity(tool: &Tool, facts: &[Said<'_>]) -> Result<Entity, Unfit> {
    let text = |value: &str| RestrictedExpression::new_string(value.to_owned());
    let rank = RestrictedExpression::new_long;
    Entity::new_with_tags(
        uid(&TYPES.tool, tool.name.as_str()),
        [
            ("owner".to_owned(), text(tool.owner.as_str())),
            ("environment".to_owned(), text(tool.environment.as_str())),
            ("zone".to_owned(), text(tool.zone.as_str())),
            ("risk".to_owned(), text(tool.risk.as_str())),
            ("risk_rank".to_owned(), rank(tool.risk as i64)),
            ("sensitivity".to_owned(), text(tool.sensitivity.as_str())),
            ("sensitivity_rank".to_owned(), rank(tool.sensitivity as i64)),
        ],
        [],
        tags(&tool.facts, facts),
    )
    .map_err(unfit)
}

fn named(tool: &ToolName, path: Option<&ResourcePath>) -> ResourceEntity {
    let name = path.map_or_else(
        || tool.as_str().to_owned(),
        |path| [tool.as_str(), "/", path.as_str()].concat(),
    );
    ResourceEntity {
        uid: uid(&TYPES.resource, &name),
        name: name.into(),
        path: path.cloned(),
    }
}

/// A resource has every path above it, its whole tool and its tool as direct parents: nothing in between
/// has to be at hand.
fn resource(tool: &ToolName, path: Option<&ResourcePath>) -> Result<Entity, Unfit> {
    let tool_uid = uid(&TYPES.tool, tool.as_str());
    let mut parents = HashSet::from([tool_uid.clone()]);
    if let Some(path) = path {
        parents.insert(uid(&TYPES.resource, tool.as_str()));
        for above in path.ancestry().skip(1) {
            parents.insert(uid(&TYPES.resource, &format!("{tool}/{above}")));
        }
    }
    let attributes = [
        ("tool".to_owned(), RestrictedExpression::new_entity_uid(tool_uid)),
        (
            "path".to_owned(),
            RestrictedExpression::new_string(path.map(ToString::to_string).unwrap_or_default()),
        ),
    ];
    Entity::new_with_tags(named(tool, path).uid, attributes, parents, []).map_err(unfit)
}

/// An agent, attested in one way, as Cedar knows it: with facts that are in force, over those of its entry.
pub(super) fn agent(agent: &Agent, attested: Attested<'_>, facts: &[Said<'_>]) -> Result<Entity, Unfit> {
    let text = |value: &str| RestrictedExpression::new_string(value.to_owned());
    let mut attributes = vec![
        (
            "owner".to_owned(),
            text(agent.owner.as_ref().map_or("", Owner::as_str)),
        ),
        ("environment".to_owned(), text(agent.environment.as_str())),
        (
            "autonomy".to_owned(),
            RestrictedExpression::new_long(agent.autonomy.level().into()),
        ),
        ("zone".to_owned(), text(agent.zone.as_str())),
        ("attestation".to_owned(), text(attested.kind.as_str())),
    ];
    if let Some(domain) = attested.trust_domain {
        attributes.push(("trust_domain".to_owned(), text(domain.as_str())));
    }
    let roles = agent.roles.iter().map(|role| uid(&TYPES.role, role.as_str()));
    Entity::new_with_tags(
        agent_uid(agent.name.as_str()),
        attributes,
        roles,
        tags(&agent.facts, facts),
    )
    .map_err(unfit)
}

/// What Cedar calls a subject of facts.
pub(super) fn uid_of(subject: &Subject) -> EntityUid {
    match subject {
        Subject::Agent(name) => agent_uid(name.as_str()),
        Subject::Tool(name) => uid(&TYPES.tool, name.as_str()),
        Subject::User(id) => uid(&TYPES.user, id.as_str()),
        Subject::Task(id) => uid(&TYPES.task, &id.to_string()),
        Subject::Environment(name) => uid(&TYPES.environment, name.as_str()),
    }
}

/// A user, a task or an environment as Cedar knows it: nothing but its facts.
pub(super) fn party(about: &About<'_>) -> Result<Entity, Unfit> {
    let uid = uid_of(&about.subject);
    Entity::new_with_tags(uid, [], [], tags(&BTreeMap::new(), &about.facts)).map_err(unfit)
}

/// One fact that is in force.
pub(super) type Said<'a> = (&'a FactName, &'a FactValue);

/// Of two of one name the one that is in force, not the one of the entry.
fn tags(entry: &BTreeMap<String, String>, facts: &[Said<'_>]) -> Vec<(String, RestrictedExpression)> {
    let entry = entry.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let facts = facts.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let merged: BTreeMap<&str, &str> = entry.chain(facts).collect();
    let tag = |(name, value): (&str, &str)| {
        (
            name.to_owned(),
            RestrictedExpression::new_string(value.to_owned()),
        )
    };
    merged.into_iter().map(tag).collect()
}

/// The context of a question: the `Circumstances` of the schema. Without the instant it costs a third, and
/// serves the policies that do not look at it; nor do most look at the parties.
pub(super) fn context(question: &Question<'_>, view: View) -> Result<Context, Unfit> {
    let task = question.task;
    let age = task
        .map(|task| question.at.since(task.opened_at).as_secs())
        .unwrap_or_default();
    let ttl = question.ttl.unwrap_or(question.tool.default_ttl);
    let purpose = task.map(|task| task.purpose.to_string()).unwrap_or_default();
    let mut pairs = vec![
        (
            "has_task".to_owned(),
            RestrictedExpression::new_bool(task.is_some()),
        ),
        ("purpose".to_owned(), RestrictedExpression::new_string(purpose)),
        (
            "task_age".to_owned(),
            RestrictedExpression::new_long(i64::try_from(age).unwrap_or(i64::MAX)),
        ),
        (
            "requested_ttl".to_owned(),
            RestrictedExpression::new_long(ttl.as_secs().into()),
        ),
        (
            "crosses_zone".to_owned(),
            RestrictedExpression::new_bool(question.agent.zone != question.tool.zone),
        ),
    ];
    if view.time {
        let now = RestrictedExpression::new_datetime(question.at.to_string());
        pairs.push(("time".to_owned(), now));
    }
    if let Some(user) = task.and_then(|task| task.on_behalf_of.as_ref()) {
        pairs.push((
            "on_behalf_of".to_owned(),
            RestrictedExpression::new_string(user.to_string()),
        ));
    }
    if view.parties {
        let chain = task.map_or(&[][..], |task| &task.delegators);
        let depth = i64::try_from(chain.len()).unwrap_or(i64::MAX);
        let agent = |above: &Delegator| RestrictedExpression::new_entity_uid(agent_uid(above.agent.as_str()));
        let agents = RestrictedExpression::new_set(chain.iter().map(agent));
        pairs.push(("task_depth".to_owned(), RestrictedExpression::new_long(depth)));
        pairs.push(("delegated_by".to_owned(), agents));
        let mut party = |name: &str, kind: &EntityTypeName, id: &str| {
            let uid = RestrictedExpression::new_entity_uid(uid(kind, id));
            pairs.push((name.to_owned(), uid));
        };
        if let Some(task) = task {
            party("task", &TYPES.task, &task.id.to_string());
        }
        if let Some(user) = task.and_then(|task| task.on_behalf_of.as_ref()) {
            party("user", &TYPES.user, user.as_str());
        }
        party(
            "environment",
            &TYPES.environment,
            question.agent.environment.as_str(),
        );
    }
    Context::from_pairs(pairs).map_err(unfit)
}

/// Everything of a registry that does not depend on the request.
#[derive(Debug)]
pub(super) struct Catalogue {
    agents: HashMap<Arc<str>, Arc<Agent>>,
    tools: HashMap<ToolName, Arc<ToolEntity>>,
}

impl Catalogue {
    pub(super) fn of(registry: &Registry) -> Result<Self, Unfit> {
        let tool = |tool: &Arc<Tool>| Ok((tool.name.clone(), Arc::new(ToolEntity::new(tool.clone())?)));
        Ok(Self {
            agents: registry
                .agents()
                .map(|agent| (agent.name.as_str().into(), agent.clone()))
                .collect(),
            tools: registry.tools().map(tool).collect::<Result<_, Unfit>>()?,
        })
    }

    /// The name of this agent, to keep without a copy, if this very one is in the registry of this revision
    /// and not just one of its name. The registry's own is kept alive here, so its address says so.
    pub(super) fn registered(&self, agent: &Agent) -> Option<&Arc<str>> {
        let (name, known) = self.agents.get_key_value(agent.name.as_str())?;
        std::ptr::eq(&raw const **known, agent).then_some(name)
    }

    /// The agent of that name.
    pub(super) fn agent(&self, name: &str) -> Option<&Arc<Agent>> {
        self.agents.get(name)
    }

    /// The tool of that name.
    pub(super) fn tool(&self, name: &ToolName) -> Option<&Arc<ToolEntity>> {
        self.tools.get(name)
    }

    /// This tool as Cedar knows it: the prepared one, or built now when the question brings another.
    pub(super) fn tool_entity(&self, tool: &Tool) -> Result<Arc<ToolEntity>, Unfit> {
        match self.tools.get(&tool.name) {
            Some(known) if known.is(tool) => Ok(known.clone()),
            _ => ToolEntity::new(Arc::new(tool.clone())).map(Arc::new),
        }
    }
}

/// The entities of every question of one agent about one action; the whole tool is among them. `told`: the tool
/// with its facts, where there are any.
pub(super) fn standing(
    agent: Option<Entity>,
    tool: &ToolEntity,
    told: Option<Entity>,
    action: &ActionEntity,
) -> Result<Entities, Unfit> {
    let tool_entity = told.unwrap_or_else(|| tool.entity.clone());
    let entities = [action.entity.clone(), tool_entity, tool.root_entity.clone()];
    Entities::from_entities(entities.into_iter().chain(agent), None).map_err(unfit)
}

/// The same with the resource that is asked about, and with whomever else there are facts about. Cheaper than to
/// start from nothing, because Cedar closes the hierarchy anew only around what is added.
pub(super) fn joined(
    standing: Entities,
    tool: &ToolEntity,
    asked: &ResourceEntity,
    mut more: Vec<Entity>,
) -> Result<Entities, Unfit> {
    if let Some(path) = &asked.path {
        more.push(resource(&tool.source.name, Some(path))?);
    }
    if more.is_empty() {
        return Ok(standing);
    }
    standing.add_entities(more, None).map_err(unfit)
}
