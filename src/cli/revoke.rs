//! `dayfly revoke`: a kill order, with a look at what it would end first.

use std::io::{self, BufRead as _, IsTerminal as _};

use anyhow::bail;
use clap::Args;
use serde_json::{Value, json};

use super::Remote;
use super::answer::{field, without_nulls};
use super::exit::Exit;
use super::terminal::{Terminal, Tone};
use crate::model::name::{AgentName, Environment, ToolName, UserId};
use crate::model::spiffe::TrustDomain;

/// `dayfly revoke`
#[derive(Args, Debug)]
#[group(skip)]
pub struct Revoke {
    #[command(flatten)]
    whom: Whom,
    /// Why, for the record.
    #[arg(long)]
    reason: String,
    /// Show what it would end, and end nothing.
    #[arg(long, conflicts_with = "yes")]
    preview: bool,
    /// Do not ask: end it.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    remote: Remote,
}

/// What ends. One of these.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct Whom {
    /// Everything that an agent holds.
    #[arg(long)]
    agent: Option<AgentName>,
    /// Everything that is out for a tool.
    #[arg(long)]
    tool: Option<ToolName>,
    /// Everything that is held on behalf of a user.
    #[arg(long)]
    user: Option<UserId>,
    /// Everything that agents of an environment hold.
    #[arg(long)]
    environment: Option<Environment>,
    /// Everything of workloads that a trust domain vouched for.
    #[arg(long)]
    trust_domain: Option<TrustDomain>,
    /// Everything.
    #[arg(long)]
    all: bool,
}

impl Revoke {
    /// Runs it.
    pub async fn run(self, terminal: &Terminal) -> anyhow::Result<Exit> {
        let client = self.remote.client()?;
        let whom = &self.whom;
        let order = without_nulls(json!({
            "agent": whom.agent,
            "tool": whom.tool,
            "user": whom.user,
            "environment": whom.environment,
            "trust_domain": whom.trust_domain.as_ref().map(TrustDomain::as_str),
            "all": whom.all.then_some(true),
            "reason": self.reason,
        }));
        if !self.yes {
            let mut ask = order.clone();
            if let Value::Object(members) = &mut ask {
                members.insert("preview".to_owned(), true.into());
            }
            let blast = client.post("/v1/revocations", ask).await?;
            if self.preview {
                print(terminal, &blast)?;
                return Ok(Exit::Done);
            }
            if terminal.is_json() || !io::stdin().is_terminal() {
                bail!(
                    "it would end {} live leases, and nobody is here to be asked: look with `--preview`, or say `--yes`",
                    field(&blast, "leases")
                );
            }
            print(terminal, &blast)?;
            terminal.note("end them? type `yes`:")?;
            let mut said = String::new();
            io::stdin().lock().read_line(&mut said)?;
            if said.trim() != "yes" {
                terminal.note("nothing was ended")?;
                return Ok(Exit::Failed);
            }
        }
        revoked(terminal, &client.post("/v1/revocations", order).await?)
    }
}

/// What was ordered, and what it did.
pub(super) fn revoked(terminal: &Terminal, answer: &Value) -> anyhow::Result<Exit> {
    if terminal.is_json() {
        terminal.value(answer)?;
    } else {
        let count = field(answer, "leases");
        terminal.line(format!(
            "denied from {} on; {count} live leases turned to their end",
            field(answer, "at")
        ))?;
    }
    Ok(Exit::Done)
}

/// How many live leases would end, and whose.
pub(super) fn print(terminal: &Terminal, blast: &Value) -> anyhow::Result<()> {
    if terminal.is_json() {
        return Ok(terminal.value(blast)?);
    }
    let count = terminal.paint(Tone::Bad, &field(blast, "leases"));
    terminal.line(format!("{count} live leases would end"))?;
    for by in ["owners", "agents", "tools"] {
        let Some(Value::Object(counts)) = blast.get(by) else {
            continue;
        };
        for (name, count) in counts {
            terminal.line(format!("  {:<8} {name}: {count}", by.trim_end_matches('s')))?;
        }
    }
    Ok(())
}
