//! Floor 5: the command line.
//!
//! Commands that run or examine a broker read a configuration file; the others call a running broker
//! over HTTP, with evidence, like any workload. Output is for people, or with `--json` for programs.

mod answer;
pub mod bench;
pub mod check;
pub mod client;
pub mod config;
mod credential;
pub mod doctor;
pub mod exec;
pub mod exit;
pub mod fact;
pub mod helper;
pub mod inventory;
pub mod journal;
pub mod lease;
pub mod mcp;
mod memory;
pub mod policy;
pub mod receipt;
pub mod reconcile;
pub mod recover;
pub mod reload;
pub mod revoke;
pub mod serve;
pub mod simulate;
pub mod task;
pub mod terminal;
pub mod token;

use std::future::ready;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use futures_util::future::LocalBoxFuture;

use client::{CallError, Client, Evidence};
use exit::Exit;
use terminal::{Terminal, Tone};

/// Just-in-time ephemeral credentials for AI agents.
#[derive(Parser, Debug)]
#[command(name = "dayfly", version, about, arg_required_else_help = true)]
pub struct Cli {
    /// Print JSON, one value a line, for programs.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run a broker.
    Serve(serve::Serve),
    /// Run a small broker with a trust domain and a tool, for trying things out.
    Dev(serve::Dev),
    /// Watch a broker do its whole job, from attestation to proof of the end.
    Demo,
    /// Check a configuration with everything that it names.
    Check(check::Check),
    /// Look at what a broker would work with: Redis, authorities, providers, clocks. Say what is unsafe.
    Doctor(doctor::Doctor),
    /// Say what can be configured.
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Check, test and explain policies.
    #[command(subcommand)]
    Policy(policy::Policy),
    /// Run a program for the length of a task, with fresh credentials that end with it.
    Exec(Box<exec::Exec>),
    /// Answer programs that ask for credentials by protocols of their own: AWS, git, docker, kubectl.
    #[command(subcommand)]
    Credential(helper::CredentialCommand),
    /// Open tasks, get credentials for them, and end them.
    #[command(subcommand)]
    Task(task::TaskCommand),
    /// Look at leases, renew and end them.
    #[command(subcommand)]
    Lease(lease::LeaseCommand),
    /// Ask about a token, or end it.
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Reach MCP servers over HTTP, with a fresh token at each request.
    #[command(subcommand)]
    Mcp(mcp::McpCommand),
    /// Look at agents, and end all that one holds.
    #[command(subcommand)]
    Agent(inventory::AgentCommand),
    /// Look at tools, and end all that is out for one.
    #[command(subcommand)]
    Tool(inventory::ToolCommand),
    /// Put policies, agents and tools in force anew.
    Reload(reload::Reload),
    /// End everything that an agent, a tool, a user, … has out, after a look at what that is.
    Revoke(revoke::Revoke),
    /// State what is known about agents, tools, users, tasks and environments.
    #[command(subcommand)]
    Fact(fact::FactCommand),
    /// Compare what providers hold with the ledger, now.
    Reconcile(reconcile::Reconcile),
    /// Verify and follow the journal.
    #[command(subcommand)]
    Journal(journal::JournalCommand),
    /// Verify what a broker signed about the end of a lease.
    #[command(subcommand)]
    Receipt(receipt::ReceiptCommand),
    /// Bring back a ledger that was lost or rolled back, from the journals.
    Recover(recover::Recover),
    /// Put a load on a running broker, and see how long it lets its callers wait.
    Bench(Box<bench::Bench>),
    /// Answer like a broker and do nothing: `bench --floor` starts it.
    #[command(hide = true)]
    Floor(bench::floor::Floor),
    /// Print the OpenAPI document of the HTTP API.
    Openapi,
}

/// How to reach a broker, and as whom.
#[derive(Args, Debug, Clone)]
pub struct Remote {
    /// The broker's address.
    #[arg(
        long,
        global = true,
        env = "DAYFLY_BROKER",
        default_value = "http://127.0.0.1:8440"
    )]
    broker: String,
    /// The file with the workload's evidence: a JWT-SVID or another token. Read anew for each request.
    #[arg(long, global = true, env = "DAYFLY_EVIDENCE_FILE", value_name = "FILE")]
    evidence: Option<PathBuf>,
    /// The PEM file with the only certificate authorities that may vouch for the broker; by default the system's.
    #[arg(long, global = true, env = "DAYFLY_CA_FILE", value_name = "FILE")]
    ca_file: Option<PathBuf>,
}

impl Remote {
    fn client(&self) -> Result<Client, CallError> {
        let evidence = self.evidence.clone().map(Evidence::file);
        Client::trusting(&self.broker, evidence, self.ca_file.as_deref())
    }

    /// As somebody else.
    fn client_as(&self, evidence: Evidence) -> Result<Client, CallError> {
        Client::trusting(&self.broker, Some(evidence), self.ca_file.as_deref())
    }

    /// Another broker, by the same evidence unless there is some for it.
    fn elsewhere(&self, broker: String, evidence: Option<PathBuf>) -> Self {
        Self {
            broker,
            evidence: evidence.or_else(|| self.evidence.clone()),
            ca_file: self.ca_file.clone(),
        }
    }
}

fn openapi(terminal: &Terminal) -> anyhow::Result<Exit> {
    terminal.line(crate::http::openapi().trim_end())?;
    Ok(Exit::Done)
}

/// Runs the command and says how it ended. Boxed on this side of the crate: the types of all commands,
/// nested in one another, overflow the compiler's depth limit when the binary is optimised.
pub fn run(cli: Cli) -> LocalBoxFuture<'static, Exit> {
    Box::pin(conclude(cli))
}

async fn conclude(cli: Cli) -> Exit {
    let terminal = Terminal::new(cli.json);
    // Boxed, or the type of this future would hold those of all commands.
    let running: LocalBoxFuture<'_, anyhow::Result<Exit>> = match cli.command {
        Command::Serve(command) => Box::pin(command.run()),
        Command::Dev(command) => Box::pin(command.run(&terminal)),
        Command::Demo => Box::pin(crate::dev::demo::run(&terminal)),
        Command::Check(command) => Box::pin(ready(command.run(&terminal))),
        Command::Doctor(command) => Box::pin(async move { command.run(&terminal).await }),
        Command::Config(command) => Box::pin(ready(command.run(&terminal))),
        Command::Policy(command) => Box::pin(command.run(&terminal)),
        Command::Exec(command) => Box::pin(async move { command.run(&terminal).await }),
        Command::Credential(command) => Box::pin(command.run(&terminal)),
        Command::Task(command) => Box::pin(command.run(&terminal)),
        Command::Lease(command) => Box::pin(command.run(&terminal)),
        Command::Token(command) => Box::pin(command.run(&terminal)),
        Command::Mcp(command) => Box::pin(command.run(&terminal)),
        Command::Agent(command) => Box::pin(command.run(&terminal)),
        Command::Tool(command) => Box::pin(command.run(&terminal)),
        Command::Reload(command) => Box::pin(command.run(&terminal)),
        Command::Revoke(command) => Box::pin(command.run(&terminal)),
        Command::Fact(command) => Box::pin(command.run(&terminal)),
        Command::Reconcile(command) => Box::pin(command.run(&terminal)),
        Command::Journal(command) => Box::pin(command.run(&terminal)),
        Command::Receipt(command) => Box::pin(ready(command.run(&terminal))),
        Command::Recover(command) => Box::pin(async move { command.run(&terminal).await }),
        Command::Bench(command) => Box::pin(async move { command.run(&terminal).await }),
        Command::Floor(command) => Box::pin(command.run(&terminal)),
        Command::Openapi => Box::pin(ready(openapi(&terminal))),
    };
    let ended = running.await;
    ended.unwrap_or_else(|error| {
        let exit = error
            .downcast_ref::<CallError>()
            .map_or(Exit::Failed, client::exit);
        // With standard error gone there is nobody left to tell.
        let _ = terminal.note(format!("{} {error:#}", terminal.paint(Tone::Bad, "error:")));
        exit
    })
}
