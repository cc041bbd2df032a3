//! Facts as they are stated and listed, and rechecks as they stand.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Reason;
use crate::broker::facts::FactOrder;
use crate::ledger::context::Stated;
use crate::model::cutoff::Selector;
use crate::model::fact::{Fact, Subject};
use crate::model::name::{FactName, FactSource, FactValue, InvalidName};
use crate::model::recheck::{Recheck, Work};
use crate::model::time::Timestamp;

use super::leases::SelectorSchema;

/// What is so.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StateFact {
    /// What is so: 1 to 256 characters on one line. Policies see it as a tag.
    #[schema(value_type = String, example = "high")]
    pub value: FactValue,
    /// Since when it is so; since now when absent. What was stated of a later instant holds against it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub at: Option<Timestamp>,
    /// Until when it is so at most; until it is taken back when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    /// Why, for the journal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub reason: Option<Reason>,
}

/// What is not so any more.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TakeBackFact {
    /// Since when it is not so; since now when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub at: Option<Timestamp>,
    /// Why, for the journal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub reason: Option<Reason>,
}

/// The path of a fact.
#[derive(Clone, Debug, Deserialize)]
pub struct FactPath {
    kind: String,
    id: String,
    name: String,
}

impl FactPath {
    /// The order to state it so.
    pub fn state(self, body: StateFact) -> Result<FactOrder, InvalidName> {
        Ok(FactOrder {
            about: Subject::of(&self.kind, &self.id)?,
            name: self.name.parse()?,
            value: Some(body.value),
            at: body.at,
            expires_at: body.expires_at,
            reason: body.reason.map(|reason| reason.as_str().to_owned()),
        })
    }

    /// The order to take it back.
    pub fn take_back(self, body: TakeBackFact) -> Result<FactOrder, InvalidName> {
        Ok(FactOrder {
            about: Subject::of(&self.kind, &self.id)?,
            name: self.name.parse()?,
            value: None,
            at: body.at,
            expires_at: None,
            reason: body.reason.map(|reason| reason.as_str().to_owned()),
        })
    }
}

/// Which facts.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct WhichFacts {
    /// About this subject alone: its kind and its id, such as `agent/support-bot`.
    #[serde(default)]
    pub about: Option<String>,
}

/// One fact.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Fact)]
pub struct FactAnswer {
    /// Whom it is about: kind and id.
    pub about: String,
    /// What it is about.
    #[schema(value_type = String)]
    pub name: FactName,
    /// What is so; absent once it was taken back.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub value: Option<FactValue>,
    /// Who says so.
    #[schema(value_type = String)]
    pub source: FactSource,
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Until when at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
}

impl From<Fact> for FactAnswer {
    fn from(fact: Fact) -> Self {
        Self {
            about: fact.about.to_string(),
            name: fact.name,
            value: fact.value,
            source: fact.source,
            at: fact.at,
            expires_at: fact.expires_at,
        }
    }
}

/// Facts.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Facts)]
pub struct FactsAnswer {
    /// Those in force, by subject and name.
    pub facts: Vec<FactAnswer>,
}

/// What came of a statement.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Stated)]
pub struct StatedAnswer {
    /// The statement.
    #[serde(flatten)]
    pub fact: FactAnswer,
    /// `new`: it holds, and what is out is decided anew. `unchanged`: it was so already. `superseded`: a
    /// statement of a later instant holds against it.
    pub outcome: &'static str,
}

impl From<(Fact, Stated)> for StatedAnswer {
    fn from((fact, stated): (Fact, Stated)) -> Self {
        Self {
            fact: fact.into(),
            outcome: match stated {
                Stated::New(_) => "new",
                Stated::Unchanged => "unchanged",
                Stated::Superseded => "superseded",
            },
        }
    }
}

/// What is being looked at once more.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Rechecks)]
pub struct RechecksAnswer {
    /// Orders that are not done, the oldest first.
    pub rechecks: Vec<RecheckAnswer>,
}

/// An order to look at every live lease that a selector fits.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Recheck)]
pub struct RecheckAnswer {
    /// Which leases.
    #[schema(value_type = SelectorSchema)]
    pub selector: Selector,
    /// `cut`: they end. `distrust`: those end that a key vouched for. `decide`: they are decided anew.
    pub work: &'static str,
    /// What changed.
    pub why: String,
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    pub ordered_at: Timestamp,
    /// How many live leases were looked at so far.
    pub looked_at: u64,
    /// How many of them were turned to their end.
    pub ended: u64,
    /// How many were given less time.
    pub shortened: u64,
    /// How many tasks were suspended until somebody approves.
    pub suspended: u64,
}

impl From<Vec<Recheck>> for RechecksAnswer {
    fn from(rechecks: Vec<Recheck>) -> Self {
        let rechecks = rechecks.into_iter().map(|recheck| RecheckAnswer {
            selector: recheck.whom,
            work: match recheck.work {
                Work::Cut { .. } => "cut",
                Work::Distrust { .. } => "distrust",
                Work::Decide { .. } => "decide",
            },
            why: recheck.why,
            ordered_at: recheck.ordered_at,
            looked_at: recheck.progress.looked_at,
            ended: recheck.progress.ended,
            shortened: recheck.progress.shortened,
            suspended: recheck.progress.suspended,
        });
        Self {
            rechecks: rechecks.collect(),
        }
    }
}
