//! `dayfly lease`: look at leases, renew and revoke them.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Remote;
use super::exit::Exit;
use super::task::{field, without_nulls};
use super::terminal::{Terminal, Tone};
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
                print_lease(terminal, &lease)
            }
            Self::Renew(renew) => {
                let body = without_nulls(json!({ "ttl": renew.ttl }));
                let path = format!("/v1/leases/{}/renew", renew.lease);
                let issued = renew.remote.client()?.post(&path, body).await?;
                print_credential(terminal, &issued, renew.token_only)
            }
            Self::Revoke(revoke) => {
                let path = format!("/v1/leases/{}/revoke", revoke.lease);
                let lease = revoke
                    .remote
                    .client()?
                    .post(&path, json!({ "reason": revoke.reason }))
                    .await?;
                print_lease(terminal, &lease)
            }
        }
    }
}

impl List {
    async fn run(self, terminal: &Terminal) -> anyhow::Result<Exit> {
        let mut query = vec![format!("limit={}", self.limit)];
        let task = self.task.map(|id| id.to_string());
        let after = self.after.map(|id| id.to_string());
        for (name, value) in [
            ("agent", &self.agent),
            ("task", &task),
            ("tool", &self.tool),
            ("user", &self.user),
            ("state", &self.state),
            ("after", &after),
        ] {
            if let Some(value) = value {
                query.push(format!("{name}={}", escape(value)));
            }
        }
        let page = self
            .remote
            .client()?
            .get(&format!("/v1/leases?{}", query.join("&")))
            .await?;
        if terminal.is_json() {
            terminal.value(&page)?;
            return Ok(Exit::Done);
        }
        print_leases(
            terminal,
            page.get("leases")
                .and_then(Value::as_array)
                .map_or(&[], Vec::as_slice),
        )?;
        if let Some(next) = page.get("next").and_then(Value::as_str) {
            terminal.note(format!("there is more: add --after {next}"))?;
        }
        Ok(Exit::Done)
    }
}

/// Percent-encodes what is not unreserved (RFC 3986 §2.3).
pub(super) fn escape(text: &str) -> String {
    let keep = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes()
        .map(|b| {
            if keep(b) {
                char::from(b).to_string()
            } else {
                format!("%{b:02X}")
            }
        })
        .collect()
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

fn print_lease(terminal: &Terminal, lease: &Value) -> anyhow::Result<Exit> {
    if terminal.is_json() {
        terminal.value(lease)?;
        return Ok(Exit::Done);
    }
    for (name, value) in lease
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(_, value)| !value.is_null())
    {
        let label = terminal.paint(Tone::Faint, &format!("{name:<12}"));
        terminal.line(format!("{label} {}", super::task::text(value)))?;
    }
    Ok(Exit::Done)
}

pub(super) fn print_credential(
    terminal: &Terminal,
    issued: &Value,
    token_only: bool,
) -> anyhow::Result<Exit> {
    let token = issued
        .pointer("/credential/token")
        .map(super::task::text)
        .unwrap_or_default();
    if token_only {
        terminal.line(token)?;
    } else if terminal.is_json() {
        terminal.value(issued)?;
    } else {
        terminal.line(&token)?;
        let lease = issued
            .pointer("/lease/id")
            .map(super::task::text)
            .unwrap_or_default();
        terminal.note(format!(
            "{} until {}, granted {}s of {}s, bounded by {}, ends {}",
            terminal.paint(Tone::Strong, &lease),
            field(issued, "expires_at"),
            field(issued, "granted"),
            field(issued, "requested"),
            field(issued, "bounded_by"),
            field(issued, "revocation"),
        ))?;
    }
    Ok(Exit::Done)
}
