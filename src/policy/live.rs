//! The facts of one question: what is in force, at its instant, about whomever it concerns.
//!
//! What an engine keeps from one question to the next is made without them. They go into entities of their
//! own, and only for the policies that mention one of them: nothing that is kept can outlive a change.

use crate::model::decision::FactUsed;
use crate::model::fact::{Facts, Subject};
use crate::model::ids::TaskId;
use crate::model::name::{AgentName, Environment, ToolName, UserId};
use crate::model::time::Timestamp;

use super::Question;
use super::entities::Said;
use super::reads::Mentions;

/// The most facts that grounds name.
const MOST_USED: usize = 16;

/// Whomever a question concerns.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parties<'a> {
    pub(super) agent: &'a AgentName,
    pub(super) tool: &'a ToolName,
    pub(super) user: Option<&'a UserId>,
    pub(super) task: Option<TaskId>,
    pub(super) environment: &'a Environment,
}

impl<'a> Parties<'a> {
    pub(super) fn of(question: &Question<'a>) -> Self {
        Self {
            agent: &question.agent.name,
            tool: &question.tool.name,
            user: question.task.and_then(|task| task.on_behalf_of.as_ref()),
            task: question.task.map(|task| task.id),
            environment: &question.agent.environment,
        }
    }

    /// Each of them, always in the same order.
    pub(super) fn subjects(&self) -> impl Iterator<Item = Subject> {
        let user = self.user.cloned().map(Subject::User);
        let task = self.task.map(Subject::Task);
        [
            Some(Subject::Agent(self.agent.clone())),
            Some(Subject::Tool(self.tool.clone())),
            user,
            task,
            Some(Subject::Environment(self.environment.clone())),
        ]
        .into_iter()
        .flatten()
    }
}

/// The facts in force about one of them; never none.
#[derive(Debug)]
pub(super) struct About<'a> {
    pub(super) subject: Subject,
    pub(super) facts: Vec<Said<'a>>,
}

/// The facts in force about any of them.
#[derive(Debug, Default)]
pub(super) struct Live<'a>(Vec<About<'a>>);

impl<'a> Live<'a> {
    pub(super) fn of(facts: &'a Facts, parties: &Parties<'_>, at: Timestamp) -> Self {
        let about = |subject| {
            let facts: Vec<_> = facts.about(&subject, at).collect();
            (!facts.is_empty()).then_some(About { subject, facts })
        };
        Self(parties.subjects().filter_map(about).collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn about(&self) -> impl Iterator<Item = &About<'a>> {
        self.0.iter()
    }

    /// Whether one of these facts is among those that some policies mention.
    pub(super) fn touches(&self, mentions: &Mentions) -> bool {
        self.0.iter().any(|About { subject, facts }| {
            let mut names = facts.iter().map(|(name, _)| name.as_str());
            names.any(|name| mentions.has(subject, name))
        })
    }

    /// Those that some policies mention, as grounds of a decision.
    pub(super) fn used(&self, mentions: &Mentions) -> Box<[FactUsed]> {
        let facts = self.0.iter().flat_map(|about| {
            let facts = about.facts.iter();
            facts.map(|(name, value)| (&about.subject, *name, *value))
        });
        facts
            .filter(|(subject, name, _)| mentions.has(subject, name.as_str()))
            .take(MOST_USED)
            .map(|(subject, name, value)| FactUsed::new(subject, name, value))
            .collect()
    }
}
