//! Reloading policies, agents and tools, and what that would do to what is out.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::leases::BlastAnswer;
use crate::broker::load::{Given, Loaded, Preview};

/// How much a reload may end.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Reload {
    /// How many live leases may end or wait for an approval because of it; what the configuration says when
    /// absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accept_blast_radius: Option<u64>,
}

/// Rules to look at.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PreviewRules {
    /// All files of the rules; those on the broker's disk when absent.
    #[serde(default)]
    pub files: Option<Vec<RuleFile>>,
}

/// One file of the rules.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RuleFile)]
pub struct RuleFile {
    /// `agents/….toml`, `tools/….toml` or `policies/….cedar`.
    pub path: String,
    /// What it holds.
    pub text: String,
}

impl From<RuleFile> for Given {
    fn from(file: RuleFile) -> Self {
        Self {
            path: file.path,
            text: file.text,
        }
    }
}

/// What came of a reload.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Reloaded)]
pub struct ReloadedAnswer {
    /// The revision that is in force.
    pub revision: String,
    /// What it does to what is out; absent when it was in force already.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effect: Option<PreviewAnswer>,
}

impl From<Loaded> for ReloadedAnswer {
    fn from(loaded: Loaded) -> Self {
        match loaded {
            Loaded::Unchanged(revision) => Self {
                revision: revision.to_string(),
                effect: None,
            },
            Loaded::InForce(preview) => Self {
                revision: preview.revision.to_string(),
                effect: Some(preview.into()),
            },
        }
    }
}

/// What rules would do, or do, to what is out.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RulesPreview)]
pub struct PreviewAnswer {
    /// Their revision.
    pub revision: String,
    /// How many live leases the difference can concern: those were decided anew.
    pub looked_at: u64,
    /// Which of them would end.
    pub ended: BlastAnswer,
    /// Why: how many by each cause.
    pub causes: BTreeMap<&'static str, u64>,
    /// How many would be given less time.
    pub shortened: u64,
    /// How many would end with their task suspended, until somebody approves.
    pub suspended: u64,
    /// Some of those that would change, and why.
    pub examples: Vec<Example>,
}

/// A lease that would change.
#[derive(Debug, Serialize, ToSchema)]
pub struct Example {
    /// The lease.
    pub lease: String,
    /// What the new rules say of it.
    pub reason: String,
}

impl From<Preview> for PreviewAnswer {
    fn from(preview: Preview) -> Self {
        let examples = preview.examples.into_iter().map(|(lease, reason)| Example {
            lease: lease.to_string(),
            reason,
        });
        Self {
            revision: preview.revision.to_string(),
            looked_at: preview.looked_at,
            ended: preview.blast.into(),
            causes: preview.causes,
            shortened: preview.shortened,
            suspended: preview.suspended,
            examples: examples.collect(),
        }
    }
}
