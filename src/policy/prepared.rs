//! A question made ready for Cedar: the entities that it needs, and the contexts that its policies look at.

use std::cell::OnceCell;
use std::sync::Arc;

use cedar_policy::{Context, Entities, EntityUid, Request};

use crate::model::fact::Subject;

use super::Question;
use super::cedar::{CedarEngine, NO_PERMIT};
use super::entities::{self, ActionEntity, ResourceEntity, ToolEntity, Unfit};
use super::index::AgentKey;
use super::live::{Live, Parties};
use super::reads::View;

/// A question as Cedar sees it.
pub(super) struct Prepared<'q> {
    pub(super) question: Question<'q>,
    /// Of the registry's own agent about the registry's own tool: what is made for them may be kept.
    pub(super) key: Option<AgentKey>,
    pub(super) tool: Arc<ToolEntity>,
    /// The facts in force about those whom it concerns.
    pub(super) live: Live<'q>,
    resources: Vec<ResourceEntity>,
    principal: EntityUid,
    /// Made when a policy looks at it: without the instant and the parties, and with each of them.
    contexts: [OnceCell<Context>; 4],
}

impl CedarEngine {
    pub(super) fn prepare<'q>(&self, question: &Question<'q>) -> Result<Prepared<'q>, Unfit> {
        let (access, tool) = (question.access, question.tool);
        if access.tool() != &tool.name {
            return Err(Unfit(format!(
                "the access is about `{}` and not about `{}`",
                access.tool(),
                tool.name
            )));
        }
        let tool = self.catalogue.tool_entity(tool)?;
        if !access.actions().iter().all(|name| tool.action(name).is_some()) {
            // To the caller an action that does not exist looks like one that nobody permits.
            return Err(Unfit(NO_PERMIT.to_owned()));
        }
        let live = if self.mentions.is_empty() {
            Live::default() // nobody could see them
        } else {
            Live::of(question.facts, &Parties::of(question), question.at)
        };
        Ok(Prepared {
            question: *question,
            key: self.key(question, &tool),
            live,
            resources: tool.resources(access.resources().iter()),
            tool,
            principal: entities::agent_uid(question.agent.name.as_str()),
            contexts: Default::default(),
        })
    }

    fn key(&self, question: &Question<'_>, tool: &ToolEntity) -> Option<AgentKey> {
        let (agent, attested) = (question.agent, question.attested);
        let name = self.catalogue.registered(agent)?;
        self.catalogue
            .tool(&question.tool.name)
            .filter(|known| std::ptr::eq(&raw const ***known, tool))?;
        Some((name.clone(), attested.kind, attested.trust_domain.cloned()))
    }

    /// The entities of one action on one resource, without the facts of the question or with them.
    pub(super) fn entities(
        &self,
        prepared: &Prepared<'_>,
        action: &ActionEntity,
        resource: &ResourceEntity,
        with_facts: bool,
    ) -> Result<Entities, Unfit> {
        let Prepared { question, tool, .. } = prepared;
        let (mut agent, mut told_tool, mut parties) = (None, None, Vec::new());
        for about in prepared.live.about().filter(|_| with_facts) {
            match &about.subject {
                Subject::Agent(_) => {
                    agent = Some(entities::agent(question.agent, question.attested, &about.facts)?);
                }
                Subject::Tool(_) => told_tool = Some(tool.told(&about.facts)?),
                Subject::User(_) | Subject::Task(_) | Subject::Environment(_) => {
                    parties.push(entities::party(about)?);
                }
            }
        }
        let standing = if agent.is_none() && told_tool.is_none() {
            self.standing(prepared, action)?
        } else {
            let agent = match agent {
                Some(agent) => agent,
                None => entities::agent(question.agent, question.attested, &[])?,
            };
            entities::standing(Some(agent), tool, told_tool, action)?
        };
        entities::joined(standing, tool, resource, parties)
    }

    /// What all questions of an agent about an action have in common.
    fn standing(&self, prepared: &Prepared<'_>, action: &ActionEntity) -> Result<Entities, Unfit> {
        let Prepared { question, tool, .. } = prepared;
        let make = || {
            let agent = entities::agent(question.agent, question.attested, &[])?;
            entities::standing(Some(agent), tool, None, action).map(Arc::new)
        };
        let standing = match &prepared.key {
            Some(agent) => self
                .standings
                .get((agent.clone(), action.name.clone()), |_| 1, make)?,
            None => make()?,
        };
        Ok(Arc::unwrap_or_clone(standing))
    }
}

impl Prepared<'_> {
    /// Each action with each resource.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (&ActionEntity, &ResourceEntity)> {
        let actions = self
            .question
            .access
            .actions()
            .iter()
            .filter_map(|name| self.tool.action(name));
        actions.flat_map(|action| self.resources.iter().map(move |resource| (action, resource)))
    }

    /// What Cedar is asked about one action on one resource.
    pub(super) fn request(
        &self,
        action: &ActionEntity,
        resource: &ResourceEntity,
        view: View,
    ) -> Result<Request, Unfit> {
        let context = self.context(view)?.clone();
        let uids = (self.principal.clone(), action.uid.clone(), resource.uid.clone());
        // Everything here was made from the registry by the same rules as the schema: nothing is left to check.
        Request::new(uids.0, uids.1, uids.2, context, None).map_err(|error| Unfit(error.to_string()))
    }

    pub(super) fn context(&self, view: View) -> Result<&Context, Unfit> {
        let [without, time, parties, whole] = &self.contexts;
        let context = match (view.time, view.parties) {
            (false, false) => without,
            (true, false) => time,
            (false, true) => parties,
            (true, true) => whole,
        };
        match context.get() {
            Some(made) => Ok(made),
            None => {
                let made = entities::context(&self.question, view)?;
                Ok(context.get_or_init(|| made))
            }
        }
    }
}
