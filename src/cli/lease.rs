//! `dayfly lease`: look at leases, renew and revoke them.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Remote;
use super::answer::{self, field, without_nulls};
use super::credential;
use super::exit::Exit;
use super::terminal::Terminal;
use crate::model::ids::{LeaseId, TaskId};
use crate::model::ttl::Ttl;

/// `dayfly lease …`
#[derive(Subcommand, Debug)]
pub enum LeaseCommand {
    /// List leases: one's own or, by permit, those of others.
    List(List),
    /// Show a lease.
    Show(One),
    /// Get a credential with a later expiry for the same lease.
    Renew(Renew),
    /// End a lease, one's own or, by permit, another's.
    Revoke(Revoke),
}

/// Which leases.
#[derive(Args, Debug)]
pub struct List {
    /// Of this agent; `*` for all.
    #[arg(long)]
    agent: Option<String>,
    /// Of this task.
    #[arg(long)]
    task: Option<TaskId>,
    /// For this tool.
    #[arg(long)]
    tool: Option<String>,
    /// On behalf of this user.
    #[arg(long)]
    user: Option<String>,
    /// In this state.
    #[arg(long, value_parser = ["reserved", "active", "revoking", "stuck", "ended"])]
    state: Option<String>,
    /// How many at most.
    #[arg(long, default_value_t = 100)]
    limit: u16,
    /// Only what comes after this lease.
    #[arg(long)]
    after: Option<LeaseId>,
    #[command(flatten)]
    remote: Remote,
}

/// Which lease.
#[derive(Args, Debug)]
pub struct One {
    /// The lease.
    lease: LeaseId,
    #[command(flatten)]
    remote: Remote,
}

/// For how long.
#[derive(Args, Debug)]
pub struct Renew {
    /// The lease.
    lease: LeaseId,
    /// How long from now the credential should live.
    #[arg(long)]
    ttl: Option<Ttl>,
    /// Print the token alone, for a pipe.
    #[arg(long)]
    token_only: bool,
    #[command(flatten)]
    remote: Remote,
}

/// Why a lease ends.
#[derive(Args, Debug)]
pub struct Revoke {
    /// The lease.
    lease: LeaseId,
    /// Why, for the record.
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    remote: Remote,
}

impl LeaseCommand {
    /// Runs it.
    pub async fn run(self, terminal: &Terminal) -> anyhow::Result<Exit> {
        match self {
            Self::List(list) => list.run(terminal).await,
            Self::Show(one) => {
                let lease = one
                    .remote
                    .client()?
                    .get(&format!("/v1/leases/{}", one.lease))
                    .await?;
                answer::print(terminal, &lease)
            }
            Self::Renew(renew) => {
                let body = without_nulls(json!({ "ttl": renew.ttl }));
                let path = format!("/v1/leases/{}/renew", renew.lease);
                let issued = renew.remote.client()?.post(&path, body).await?;
                credential::print(terminal, &issued, renew.token_only)
            }
            Self::Revoke(revoke) => {
                let path = format!("/v1/leases/{}/revoke", revoke.lease);
                let lease = revoke
                    .remote
                    .client()?
                    .post(&path, json!({ "reason": revoke.reason }))
                    .await?;
                answer::print(terminal, &lease)
            }
        }
    }
}

impl List {
    async fn run(self, terminal: &Terminal) -> anyhow::Result<Exit> {
        let given = [
            ("limit", Some(self.limit.to_string())),
            ("agent", self.agent),
            ("task", self.task.map(|id| id.to_string())),
            ("tool", self.tool),
            ("user", self.user),
            ("state", self.state),
            ("after", self.after.map(|id| id.to_string())),
        ];
        let query: Vec<(&str, String)> = given
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
            .collect();
        let page = self.remote.client()?.list("/v1/leases", &query).await?;
        if terminal.is_json() {
            terminal.value(&page)?;
            return Ok(Exit::Done);
        }
        print_leases(terminal, answer::list(&page, "leases"))?;
        if let Some(next) = page.get("next").and_then(Value::as_str) {
            terminal.note(format!("there is more: add --after {next}"))?;
        }
        Ok(Exit::Done)
    }
}

pub(super) fn print_leases(terminal: &Terminal, leases: &[Value]) -> anyhow::Result<Exit> {
    let columns = [
        "id",
        "state",
        "agent",
        "tool",
        "actions",
        "expires_at",
        "cause",
        "proof",
    ];
    let rows: Vec<Vec<String>> = leases
        .iter()
        .map(|lease| columns.iter().map(|name| field(lease, name)).collect())
        .collect();
    terminal.table(
        &[
            "LEASE", "STATE", "AGENT", "TOOL", "ACTIONS", "EXPIRES", "CAUSE", "PROOF",
        ],
        &rows,
    )?;
    Ok(Exit::Done)
}
