//! `dayfly agent` and `dayfly tool`: look at what is registered, and end all that is out for it.

use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Remote;
use super::answer;
use super::exit::Exit;
use super::revoke;
use super::task::access;
use super::terminal::Terminal;
use crate::app::providers::build_offline;
use crate::config;
use crate::entropy::OsEntropy;
use crate::model::access::Access;
use crate::model::name::{AgentName, ToolName};
use crate::registry::files;

/// `dayfly agent …`
#[derive(Subcommand, Debug)]
pub enum AgentCommand {
    /// List agents.
    List(All),
    /// Show an agent.
    Show {
        /// Its name.
        agent: AgentName,
        /// How to reach the broker.
        #[command(flatten)]
        remote: Remote,
    },
    /// End every credential that an agent holds now.
    Revoke {
        /// Its name.
        agent: AgentName,
        /// Why, for the record.
        #[arg(long)]
        reason: String,
        /// How to reach the broker.
        #[command(flatten)]
        remote: Remote,
    },
}

/// `dayfly tool …`
#[derive(Subcommand, Debug)]
pub enum ToolCommand {
    /// List tools.
    List(All),
    /// Show a tool.
    Show {
        /// Its name.
        tool: ToolName,
        /// How to reach the broker.
        #[command(flatten)]
        remote: Remote,
    },
    /// Say what a credential would be allowed in its provider's own words, without a broker.
    Explain(Explain),
    /// End every credential that is out for a tool now.
    Revoke {
        /// Its name.
        tool: ToolName,
        /// Why, for the record.
        #[arg(long)]
        reason: String,
        /// How to reach the broker.
        #[command(flatten)]
        remote: Remote,
    },
}

/// An access to look at.
#[derive(Args, Debug)]
pub struct Explain {
    /// The tool's name.
    tool: ToolName,
    /// What would be permitted: `tool:action[,action…][@resource[,resource…]]`.
    #[arg(long, value_parser = access)]
    access: Access,
    /// The configuration file that names tools and providers.
    #[arg(long, default_value = "dayfly.toml", value_name = "FILE")]
    config: PathBuf,
}

impl Explain {
    fn run(self, terminal: &Terminal) -> anyhow::Result<Exit> {
        let name = self.access.tool();
        ensure!(
            *name == self.tool,
            "the access is for `{name}`, not for `{}`",
            self.tool
        );
        let config = config::load(&self.config)?;
        let loaded = files::load(&config.registry.agents, &config.registry.tools)?;
        let tool = loaded.registry.tool(name).context("no such tool is catalogued")?;
        for action in self.access.actions() {
            let known = tool.actions.contains_key(action);
            ensure!(known, "the tool `{name}` has no action `{action}`");
        }
        let provider = build_offline(&config, &tool.binding.provider, &OsEntropy::new())?;
        provider.accepts(tool)?;
        match provider.explain(tool, &self.access)? {
            Some(words) if terminal.is_json() => terminal.value(&words)?,
            Some(words) => terminal.line(serde_json::to_string_pretty(&words)?)?,
            None if terminal.is_json() => terminal.value(&Value::Null)?,
            None => terminal.line("the credential says the access itself, and its provider adds nothing")?,
        }
        Ok(Exit::Done)
    }
}

/// All of a kind.
#[derive(Args, Debug)]
pub struct All {
    #[command(flatten)]
    remote: Remote,
}

impl AgentCommand {
    /// Runs it.
    pub async fn run(self, terminal: &Terminal) -> anyhow::Result<Exit> {
        match self {
            Self::List(All { remote }) => {
                let columns = [
                    "name",
                    "status",
                    "owner",
                    "environment",
                    "zone",
                    "autonomy",
                    "review_by",
                ];
                answer::table(
                    terminal,
                    &remote.client()?.get("/v1/agents").await?,
                    "agents",
                    &columns,
                )
            }
            Self::Show { agent, remote } => answer::print(
                terminal,
                &remote.client()?.get(&format!("/v1/agents/{agent}")).await?,
            ),
            Self::Revoke {
                agent,
                reason,
                remote,
            } => {
                let body = json!({ "agent": agent, "reason": reason });
                revoke::revoked(terminal, &remote.client()?.post("/v1/revocations", body).await?)
            }
        }
    }
}

impl ToolCommand {
    /// Runs it.
    pub async fn run(self, terminal: &Terminal) -> anyhow::Result<Exit> {
        match self {
            Self::List(All { remote }) => {
                let columns = [
                    "name",
                    "risk",
                    "sensitivity",
                    "environment",
                    "zone",
                    "provider",
                    "max_ttl",
                    "owner",
                ];
                answer::table(
                    terminal,
                    &remote.client()?.get("/v1/tools").await?,
                    "tools",
                    &columns,
                )
            }
            Self::Show { tool, remote } => answer::print(
                terminal,
                &remote.client()?.get(&format!("/v1/tools/{tool}")).await?,
            ),
            Self::Explain(explain) => explain.run(terminal),
            Self::Revoke { tool, reason, remote } => {
                let body = json!({ "tool": tool, "reason": reason });
                revoke::revoked(terminal, &remote.client()?.post("/v1/revocations", body).await?)
            }
        }
    }
}
