//! Facts: pieces of context about an agent, a tool, a user, a task or an environment, such as
//! `risk = high`. Policies see them as tags; a change of them is a reason to decide anew.
//!
//! Two statements about the same name of the same subject do not meet: the later of them holds, by the
//! instants at which they were true and not by those at which they arrived.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::cutoff::Selector;
use super::ids::TaskId;
use super::name::{AgentName, Environment, FactName, FactSource, FactValue, InvalidName, ToolName, UserId};
use super::time::Timestamp;

/// The most facts that may be in force about one subject.
pub const MOST_OF_ONE: usize = 64;

/// Whom or what a fact is about.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", content = "id")]
pub enum Subject {
    /// A registered agent. Over what its registry entry says.
    Agent(AgentName),
    /// A catalogued tool. Over what its catalogue entry says.
    Tool(ToolName),
    /// Somebody on whose behalf tasks run.
    User(UserId),
    /// One task.
    Task(TaskId),
    /// Where agents and tools run.
    Environment(Environment),
}

impl Subject {
    /// The word for the kind, and the id: `agent`, `support-bot`.
    pub fn parts(&self) -> (&'static str, String) {
        match self {
            Self::Agent(name) => ("agent", name.to_string()),
            Self::Tool(name) => ("tool", name.to_string()),
            Self::User(id) => ("user", id.to_string()),
            Self::Task(id) => ("task", id.to_string()),
            Self::Environment(name) => ("environment", name.to_string()),
        }
    }

    /// The subject of a kind and an id.
    pub fn of(kind: &str, id: &str) -> Result<Self, InvalidName> {
        match kind {
            "agent" => id.parse().map(Self::Agent),
            "tool" => id.parse().map(Self::Tool),
            "user" => id.parse().map(Self::User),
            "task" => id.parse().map(Self::Task).map_err(|_| {
                InvalidName::new("task id", id, "it is what opening the task answered: `tsk_…`")
            }),
            "environment" => id.parse().map(Self::Environment),
            _ => Err(InvalidName::new(
                "kind of subject",
                kind,
                "facts are about an `agent`, a `tool`, a `user`, a `task` or an `environment`",
            )),
        }
    }

    /// The leases that a decision about this subject may concern.
    pub fn selector(&self) -> Selector {
        match self {
            Self::Agent(name) => Selector::Agent(name.clone()),
            Self::Tool(name) => Selector::Tool(name.clone()),
            Self::User(id) => Selector::User(id.clone()),
            Self::Task(id) => Selector::Task(*id),
            Self::Environment(name) => Selector::Environment(name.clone()),
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, id) = self.parts();
        write!(f, "{kind}/{id}")
    }
}

impl FromStr for Subject {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (kind, id) = text.split_once('/').unwrap_or((text, ""));
        Self::of(kind, id)
    }
}

/// One statement: that something is so, or, without a value, that it is not any more.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Fact {
    /// Whom it is about.
    pub about: Subject,
    /// What it is about.
    pub name: FactName,
    /// What is so. None takes back what was stated before.
    pub value: Option<FactValue>,
    /// Who says so: an agent of the registry, or a stream of signals.
    pub source: FactSource,
    /// Since when it is so. Whatever was so before does not hold against it.
    pub at: Timestamp,
    /// Until when it is so at most.
    pub expires_at: Option<Timestamp>,
}

impl Fact {
    /// What is so at this instant.
    pub fn value_at(&self, now: Timestamp) -> Option<&FactValue> {
        self.value
            .as_ref()
            .filter(|_| self.expires_at.is_none_or(|until| now < until))
    }

    /// Whether this statement holds against one that stands.
    pub fn replaces(&self, standing: &Self) -> bool {
        self.at >= standing.at
    }
}

/// How many statements a ledger had taken: later ones have higher numbers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FactsVersion(pub u64);

/// What is known of one subject.
type Known = Arc<BTreeMap<FactName, Fact>>;

/// All facts, as of one version. Cheap to clone; a change makes new ones.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    version: FactsVersion,
    known: Arc<HashMap<Subject, Known>>,
}

impl Facts {
    /// As of when.
    pub fn version(&self) -> FactsVersion {
        self.version
    }

    /// Whether nothing was stated about this subject.
    pub fn is_silent_about(&self, subject: &Subject) -> bool {
        !self.known.contains_key(subject)
    }

    /// What is so about a subject at this instant, by name.
    pub fn about(&self, subject: &Subject, now: Timestamp) -> impl Iterator<Item = (&FactName, &FactValue)> {
        let known = self.known.get(subject).into_iter().flat_map(|known| known.iter());
        known.filter_map(move |(name, fact)| Some((name, fact.value_at(now)?)))
    }

    /// All statements that are in force at this instant.
    pub fn in_force(&self, now: Timestamp) -> impl Iterator<Item = &Fact> {
        let known = self.known.values().flat_map(|known| known.values());
        known.filter(move |fact| fact.value_at(now).is_some())
    }

    /// These facts and what a ledger tells since, which has decided already what holds against what.
    #[must_use]
    pub fn with(&self, told: impl IntoIterator<Item = Fact>, version: FactsVersion) -> Self {
        let mut known = HashMap::clone(&self.known);
        for fact in told {
            let of = known.entry(fact.about.clone()).or_default();
            Arc::make_mut(of).insert(fact.name.clone(), fact);
        }
        Self {
            version,
            known: Arc::new(known),
        }
    }

    /// The same without what was taken back or has expired by now: it says nothing any more.
    #[must_use]
    pub fn still_so(self, now: Timestamp) -> Self {
        let is_so = |fact: &Fact| fact.value_at(now).is_some();
        let mut known = Arc::unwrap_or_clone(self.known);
        known.retain(|_, of| {
            if !of.values().all(is_so) {
                Arc::make_mut(of).retain(|_, fact| is_so(fact));
            }
            !of.is_empty()
        });
        Self {
            version: self.version,
            known: Arc::new(known),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(value: &str, at: u64) -> Fact {
        Fact {
            about: "agent/support-bot".parse().unwrap(),
            name: "risk".parse().unwrap(),
            value: (!value.is_empty()).then(|| value.parse().unwrap()),
            source: "idp".parse().unwrap(),
            at: Timestamp::from_secs(at),
            expires_at: None,
        }
    }

    fn risk(facts: &Facts, now: u64) -> Option<String> {
        let about = "agent/support-bot".parse().unwrap();
        let mut said = facts.about(&about, Timestamp::from_secs(now));
        said.next().map(|(_, value)| value.to_string())
    }

    #[test]
    fn what_the_ledger_tells_last_is_so() {
        let facts = Facts::default().with([fact("high", 20)], FactsVersion(2));
        assert_eq!(risk(&facts, 30).as_deref(), Some("high"));
        let facts = facts.with([fact("", 25)], FactsVersion(4));
        assert_eq!((risk(&facts, 30), facts.version()), (None, FactsVersion(4)));
        // It had forgotten that the later one was ever stated.
        let facts = facts.with([fact("low", 10)], FactsVersion(5));
        assert_eq!(risk(&facts, 30).as_deref(), Some("low"));
    }

    #[test]
    fn what_is_over_takes_no_room() {
        let about = "agent/support-bot".parse().unwrap();
        let for_now = Fact {
            name: "incident".parse().unwrap(),
            expires_at: Some(Timestamp::from_secs(30)),
            ..fact("open", 20)
        };
        let facts = Facts::default().with([fact("high", 20), for_now], FactsVersion(2));
        let now = Timestamp::from_secs(30);
        let facts = facts.still_so(now);
        assert_eq!(facts.in_force(now).count(), 1);
        assert_eq!(facts.known[&about].len(), 1);
        let facts = facts.with([fact("", 31)], FactsVersion(3)).still_so(now);
        assert!(facts.is_silent_about(&about));
        assert_eq!(facts.version(), FactsVersion(3));
    }

    #[test]
    fn a_fact_is_so_until_it_expires() {
        let until = Fact {
            expires_at: Some(Timestamp::from_secs(30)),
            ..fact("high", 20)
        };
        let facts = Facts::default().with([until], FactsVersion(1));
        assert_eq!(risk(&facts, 29).as_deref(), Some("high"));
        assert_eq!(risk(&facts, 30), None);
        assert_eq!(facts.in_force(Timestamp::from_secs(30)).count(), 0);
    }

    #[test]
    fn a_subject_is_one_text_both_ways() {
        for text in [
            "agent/support-bot",
            "tool/crm",
            "user/idp|4711/x",
            "environment/production",
        ] {
            assert_eq!(text.parse::<Subject>().unwrap().to_string(), text);
        }
        for bad in ["", "agent", "agent/", "agent/A", "task/1", "role/x"] {
            assert!(bad.parse::<Subject>().is_err(), "{bad}");
        }
    }
}
