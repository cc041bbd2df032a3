//! `dayfly lease`: look at leases, renew and revoke them, and look after those that cannot be ended.

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
    /// Show a lease, with the proof of its end and the signed receipt of that.
    Show(Show),
    /// Get a credential with a later expiry for the same lease.
    Renew(Renew),
    /// End a lease, one's own or, by permit, another's.
    Revoke(Revoke),
    /// Try to end a lease again now, after a failure. By permit.
    Retry(One),
    /// Give up ending a stuck lease: nobody says that its credential is gone. By permit.
    Abandon(Abandon),
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

/// Which lease, and what of it.
#[derive(Args, Debug)]
pub struct Show {
    /// The lease.
    lease: LeaseId,
    /// Print the signed receipt of its end alone, for a pipe.
    #[arg(long)]
    receipt: bool,
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

/// Why nobody goes on ending a lease.
#[derive(Args, Debug)]
pub struct Abandon {
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
            Self::Show(show) => show.run(terminal).await,
            Self::Renew(renew) => {
                let body = without_nulls(json!({ "ttl": renew.ttl }));
                let path = format!("/v1/leases/{}/renew", renew.lease);
                let issued = renew.remote.client()?.post(&path, body).await?;
                credential::print(terminal, &issued, renew.token_only)
            }
            Self::Retry(one) => {
                let path = format!("/v1/leases/{}/retry", one.lease);
                let lease = one.remote.client()?.post(&path, json!({})).await?;
                if !terminal.is_json() {
                    terminal.note("it is being tried: look at it again in a moment")?;
                }
                print_lease(terminal, lease)
            }
            Self::Abandon(abandon) => {
                let path = format!("/v1/leases/{}/abandon", abandon.lease);
                let body = json!({ "reason": abandon.reason });
                let lease = abandon.remote.client()?.post(&path, body).await?;
                if !terminal.is_json() {
                    terminal.note("nobody says that its credential is gone: see to it at the provider")?;
                }
                print_lease(terminal, lease)
            }
            Self::Revoke(revoke) => {
                let path = format!("/v1/leases/{}/revoke", revoke.lease);
                let lease = revoke
                    .remote
                    .client()?
                    .post(&path, json!({ "reason": revoke.reason }))
                    .await?;
                print_lease(terminal, lease)
            }
        }
    }
}

impl Show {
    async fn run(self, terminal: &Terminal) -> anyhow::Result<Exit> {
        let path = format!("/v1/leases/{}", self.lease);
        let lease = self.remote.client()?.get(&path).await?;
        if self.receipt {
            print_receipt(terminal, &lease)
        } else {
            print_lease(terminal, lease)
        }
    }
}

fn print_lease(terminal: &Terminal, mut lease: Value) -> anyhow::Result<Exit> {
    // One long word. People are told that it is there.
    if let Some(receipt) = lease.get_mut("receipt").filter(|_| !terminal.is_json()) {
        *receipt = json!("signed; `dayfly lease show --receipt` prints it");
    }
    answer::print(terminal, &lease)
}

fn print_receipt(terminal: &Terminal, lease: &Value) -> anyhow::Result<Exit> {
    match lease.get("receipt").and_then(Value::as_str) {
        Some(receipt) if terminal.is_json() => terminal.value(&json!({ "receipt": receipt }))?,
        Some(receipt) => terminal.line(receipt)?,
        None => {
            let why = match field(lease, "state").as_str() {
                "ended" => "its end is from before receipts were signed".to_owned(),
                state => format!("it has not ended, it is {state}"),
            };
            terminal.note(format!("there is no receipt of this lease: {why}"))?;
            return Ok(Exit::NotFound);
        }
    }
    Ok(Exit::Done)
}

impl List {
    async fn run(self, terminal: &Terminal) -> anyhow::Result<Exit> {
        let ending = matches!(self.state.as_deref(), Some("revoking" | "stuck"));
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
        let leases = answer::list(&page, "leases");
        match ending {
            true => print_columns(terminal, leases, &ENDING)?,
            false => print_columns(terminal, leases, &LEASE)?,
        };
        if let Some(next) = page.get("next").and_then(Value::as_str) {
            terminal.note(format!("there is more: add --after {next}"))?;
        }
        Ok(Exit::Done)
    }
}

/// A column: its heading, and the member that it shows.
type Column = (&'static str, &'static str);

/// What is said of any lease.
const LEASE: [Column; 8] = [
    ("LEASE", "id"),
    ("STATE", "state"),
    ("AGENT", "agent"),
    ("TOOL", "tool"),
    ("ACTIONS", "actions"),
    ("EXPIRES", "expires_at"),
    ("CAUSE", "cause"),
    ("PROOF", "proof"),
];

/// What is said of leases that have to end.
const ENDING: [Column; 8] = [
    ("LEASE", "id"),
    ("PROVIDER", "provider"),
    ("TOOL", "tool"),
    ("CAUSE", "cause"),
    ("SINCE", "since"),
    ("ATTEMPTS", "attempts"),
    ("NEXT", "next_attempt_at"),
    ("LAST ERROR", "last_error"),
];

pub(super) fn print_leases(terminal: &Terminal, leases: &[Value]) -> anyhow::Result<Exit> {
    print_columns(terminal, leases, &LEASE)
}

fn print_columns(terminal: &Terminal, leases: &[Value], columns: &[Column]) -> anyhow::Result<Exit> {
    let headings: Vec<&str> = columns.iter().map(|(heading, _)| *heading).collect();
    let rows: Vec<Vec<String>> = leases
        .iter()
        .map(|lease| columns.iter().map(|(_, name)| field(lease, name)).collect())
        .collect();
    terminal.table(&headings, &rows)?;
    Ok(Exit::Done)
}
