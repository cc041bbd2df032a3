//! `dayfly policy`: check, test and explain policies, without a broker.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use clap::{Args, Subcommand};
use serde_json::json;

use super::exit::Exit;
use super::simulate::{Decided, Simulate};
use super::task::access;
use super::terminal::{Terminal, Tone};
use super::{Remote, reload};
use crate::app::rules::{self, Checked};
use crate::clock::{Clock, SystemClock};
use crate::config;
use crate::model::access::Access;
use crate::model::attestation::EvidenceKind;
use crate::model::decision::Decision;
use crate::model::document::problem::Problems;
use crate::model::fact::{Fact, Facts, FactsVersion, Subject};
use crate::model::ids::TaskId;
use crate::model::name::{AgentName, FactName, FactValue, InvalidName, Purpose, UserId};
use crate::model::ttl::Ttl;
use crate::policy::{Attested, Question, TaskContext, cases};
use crate::registry::files::{files_in, read_text};

/// The largest file of cases, in bytes.
const LARGEST_CASES: u64 = 4 * 1024 * 1024;

/// `dayfly policy …`
#[derive(Subcommand, Debug)]
pub enum Policy {
    /// Check policies against the schema that agents and tools make.
    Check(Which),
    /// Run the cases beside the policies (Cedar's run-tests format).
    Test(Test),
    /// Say what would be decided, and why.
    Explain(Box<Explain>),
    /// Say what these rules would do to what is out at a broker.
    Diff(Diff),
    /// Put what was decided to these rules, and say what would be decided otherwise.
    Simulate(Replay),
    /// Report what policies in the shadow (`policy.shadow_dirs`) would have decided otherwise.
    Shadow(Decided),
}

/// Which configuration.
#[derive(Args, Debug)]
pub struct Which {
    /// The configuration file that names policies, agents and tools.
    #[arg(long, default_value = "dayfly.toml", value_name = "FILE")]
    config: PathBuf,
}

/// Which cases.
#[derive(Args, Debug)]
pub struct Test {
    #[command(flatten)]
    which: Which,
    /// Files of cases; without any, `tests/*.json` in each policy directory.
    cases: Vec<PathBuf>,
}

/// A question to policy.
#[derive(Args, Debug)]
pub struct Explain {
    #[command(flatten)]
    which: Which,
    /// Who would ask.
    #[arg(long)]
    agent: AgentName,
    /// What would be asked for: `tool:action[,action…][@resource[,resource…]]`.
    #[arg(long, value_parser = access)]
    access: Access,
    /// The purpose of the task that it would be for; without one, there is no task.
    #[arg(long)]
    purpose: Option<Purpose>,
    /// On whose behalf.
    #[arg(long)]
    on_behalf_of: Option<UserId>,
    /// For how long.
    #[arg(long)]
    ttl: Option<Ttl>,
    /// A fact that would be in force, as `agent/support-bot:risk=high`; about a `tool/…`, a `user/…`, an
    /// `environment/…`, or the `task`. As often as there are facts.
    #[arg(long = "fact", value_name = "WHOM:NAME=VALUE", value_parser = stated)]
    facts: Vec<Stated>,
    /// The trust domain that would vouch for the workload.
    #[arg(long)]
    trust_domain: Option<crate::model::spiffe::TrustDomain>,
}

/// A fact, as the command line says it.
#[derive(Clone, Debug)]
struct Stated {
    /// None: the task that the question is about, which has no name yet.
    about: Option<Subject>,
    name: FactName,
    value: FactValue,
}

/// Reads `agent/support-bot:risk=high`. Ids of users may hold anything, names of facts neither `:` nor `=`.
fn stated(text: &str) -> Result<Stated, String> {
    let shape = || format!("`{text}` is no fact: write it as `agent/support-bot:risk=high`");
    let (about, value) = text.split_once('=').ok_or_else(shape)?;
    let (about, name) = about.rsplit_once(':').ok_or_else(shape)?;
    let about = match about {
        "task" => Ok(None),
        about => about.parse().map(Some),
    };
    let wrong = |error: InvalidName| error.to_string();
    Ok(Stated {
        about: about.map_err(wrong)?,
        name: name.parse().map_err(wrong)?,
        value: value.parse().map_err(wrong)?,
    })
}

/// Rules that are not in force yet.
#[derive(Args, Debug)]
pub struct Diff {
    #[command(flatten)]
    which: Which,
    /// Against the live leases of a running broker.
    #[arg(long, required = true)]
    live: bool,
    #[command(flatten)]
    remote: Remote,
}

/// Decisions that were made.
#[derive(Args, Debug)]
pub struct Replay {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    simulate: Simulate,
}

impl Which {
    fn load(&self) -> anyhow::Result<(config::Config, Checked)> {
        let config = config::load(&self.config)?;
        let checked = rules::check(&config)?;
        Ok((config, checked))
    }

    fn check(&self, terminal: &Terminal) -> anyhow::Result<Exit> {
        let checked = match self.load() {
            Ok((_, checked)) => checked,
            Err(problems) if terminal.is_json() => {
                let lines: Vec<String> = problems.to_string().lines().map(str::to_owned).collect();
                terminal.value(&json!({ "valid": false, "problems": lines }))?;
                return Ok(Exit::Unverified);
            }
            Err(problems) => {
                terminal.line(format!("{problems:#}"))?;
                return Ok(Exit::Unverified);
            }
        };
        let count = checked.engine.policy_count();
        if terminal.is_json() {
            terminal.value(&json!({ "valid": true, "policies": count, "warnings": checked.warnings }))?;
            return Ok(Exit::Done);
        }
        for warning in &checked.warnings {
            terminal.line(format!("{} {warning}", terminal.paint(Tone::Warn, "warning:")))?;
        }
        terminal.line(format!(
            "{} {count} policies",
            terminal.paint(Tone::Good, "valid:")
        ))?;
        Ok(Exit::Done)
    }
}

impl Policy {
    /// Runs it.
    pub async fn run(self, terminal: &Terminal) -> anyhow::Result<Exit> {
        match self {
            Self::Check(which) => which.check(terminal),
            Self::Test(test) => test.run(terminal),
            Self::Explain(explain) => explain.run(terminal),
            Self::Simulate(replay) => {
                let (_, checked) = replay.which.load()?;
                replay.simulate.run(&checked, terminal)
            }
            Self::Shadow(decided) => decided.shadow(terminal),
            Self::Diff(diff) => reload::diff(terminal, &diff.remote, &diff.which.config).await,
        }
    }
}

impl Test {
    fn run(self, terminal: &Terminal) -> anyhow::Result<Exit> {
        let (config, checked) = self.which.load()?;
        let mut files = self.cases;
        if files.is_empty() {
            for directory in config
                .policy
                .dirs
                .iter()
                .map(|dir| dir.join("tests"))
                .filter(|dir| dir.is_dir())
            {
                files.extend(files_in(&directory, "json").map_err(Problems::from)?);
            }
        }
        // Nothing to run is no success: somebody would take it for one.
        ensure!(
            !files.is_empty(),
            "there are no cases: write them into `tests/*.json` beside the policies, or name files"
        );
        let (mut passed, mut failures) = (0_usize, Vec::new());
        for file in &files {
            for result in run_file(&checked, file)? {
                if result.passed() {
                    passed += 1;
                } else {
                    failures.push((file.display().to_string(), result.to_string()));
                }
            }
        }
        if terminal.is_json() {
            let told: Vec<_> = failures
                .iter()
                .map(|(file, why)| json!({ "file": file, "why": why }))
                .collect();
            terminal.value(&json!({ "passed": passed, "failed": failures.len(), "failures": told }))?;
        } else {
            for (file, why) in &failures {
                terminal.line(format!("{} {file}: {why}", terminal.paint(Tone::Bad, "failed:")))?;
            }
            terminal.line(format!("{passed} passed, {} failed", failures.len()))?;
        }
        Ok(if failures.is_empty() {
            Exit::Done
        } else {
            Exit::Unverified
        })
    }
}

fn run_file(checked: &Checked, file: &Path) -> anyhow::Result<Vec<cases::CaseResult>> {
    let text = read_text(file, LARGEST_CASES).map_err(Problems::from)?;
    cases::run(&checked.engine, &text).with_context(|| file.display().to_string())
}

impl Explain {
    fn run(self, terminal: &Terminal) -> anyhow::Result<Exit> {
        let (_, checked) = self.which.load()?;
        let agent = checked
            .registry
            .agent(&self.agent)
            .context("no such agent is registered")?;
        let tool = checked
            .registry
            .tool(self.access.tool())
            .context("no such tool is catalogued")?;
        let now = SystemClock::new().now();
        let task = self.purpose.map(|purpose| TaskContext {
            id: TaskId::new(now, [0; 10]),
            purpose,
            on_behalf_of: self.on_behalf_of,
            delegators: Vec::new(),
            opened_at: now,
        });
        let facts = self.facts.into_iter().map(|Stated { about, name, value }| {
            let about = match (about, &task) {
                (Some(about), _) => about,
                (None, Some(task)) => Subject::Task(task.id),
                (None, None) => bail!("there is no task to state a fact about: say `--purpose`"),
            };
            Ok(Fact {
                about,
                name,
                value: Some(value),
                source: "policy explain".parse()?,
                at: now,
                expires_at: None,
            })
        });
        let facts: Vec<Fact> = facts.collect::<anyhow::Result<_>>()?;
        let facts = Facts::default().with(facts, FactsVersion::default());
        let question = Question {
            agent,
            attested: Attested {
                kind: EvidenceKind::JwtSvid,
                trust_domain: self.trust_domain.as_ref(),
            },
            tool,
            access: &self.access,
            task: task.as_ref(),
            ttl: self.ttl,
            facts: &facts,
            at: now,
        };
        let told = checked.engine.explain(&question);
        let exit = match &told.decision {
            Decision::Permit { obligations, .. } if obligations.approval.is_some() => Exit::Pending,
            Decision::Permit { .. } => Exit::Done,
            Decision::Deny { .. } => Exit::Denied,
        };
        if terminal.is_json() {
            terminal.value(&told.parts)?;
            return Ok(exit);
        }
        let (tone, headline) = match &told.decision {
            Decision::Permit { obligations, .. } => {
                let bound = obligations
                    .max_ttl
                    .map(|ttl| format!(", for {ttl} at most"))
                    .unwrap_or_default();
                match &obligations.approval {
                    None => (Tone::Good, format!("permitted{bound}")),
                    Some(role) => (Tone::Warn, format!("permitted once `{role}` approved{bound}")),
                }
            }
            Decision::Deny { reason, .. } => (Tone::Bad, format!("denied: {reason}")),
        };
        terminal.line(terminal.paint(tone, &headline))?;
        for part in &told.parts {
            let word = if part.permitted { "permitted" } else { "denied" };
            terminal.line(format!("  {} on {}: {word}", part.action, part.resource))?;
            for finding in &part.findings {
                let line = format!("    {finding}");
                terminal.line(terminal.paint(Tone::Faint, &line))?;
            }
        }
        Ok(exit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fact_is_read_whatever_the_id_of_a_user_holds() {
        for (text, about) in [
            ("agent/support-bot:risk=high", Some("agent/support-bot")),
            ("user/user:17:risk=high", Some("user/user:17")),
            ("task:risk=high", None),
        ] {
            let fact = stated(text).unwrap();
            let whom = fact.about.map(|about| about.to_string());
            assert_eq!(whom.as_deref(), about, "{text}");
            assert_eq!((fact.name.as_str(), fact.value.as_str()), ("risk", "high"));
        }
        assert_eq!(stated("tool/crm:note=a:b=c").unwrap().value.as_str(), "a:b=c");
        for bad in [
            "",
            "risk=high",
            "agent/support-bot:risk",
            "agent/support-bot:risk=",
            "team/x:risk=high",
            "agent/support-bot:Risk=high",
        ] {
            assert!(stated(bad).is_err(), "{bad}");
        }
    }
}
