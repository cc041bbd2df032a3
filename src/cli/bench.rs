//! `dayfly bench`: a load on a running broker, and how long it let its callers wait.
//!
//! What is asked is due at instants that are fixed beforehand, and how long an answer took counts from there: a
//! broker that stops for a while is not asked the less for it, and what waited in front of it has waited
//! (no "coordinated omission"). Everything is real: tasks, credentials, records. What it opened, it completes.

mod load;
mod report;
mod work;

use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::bail;
use clap::{Args, ValueEnum};

use super::exit::Exit;
use super::task::access;
use super::terminal::Terminal;
use super::{Remote, client};
use crate::model::access::Access;
use crate::model::ttl::Ttl;
use load::Load;
use work::Work;

/// The most requests a second that can be asked for.
const FASTEST: u32 = 1_000_000;

/// `dayfly bench`
#[derive(Args, Debug)]
pub struct Bench {
    /// What is done again and again.
    #[arg(long, value_enum, default_value = "task")]
    mix: Mix,
    /// What credentials are for: `tool:action[,action…][@resource[,resource…]]`. Given several times, they take turns.
    #[arg(long = "access", required = true, value_parser = access)]
    accesses: Vec<Access>,
    /// How often a second, however long the answers take.
    #[arg(long, default_value = "100")]
    rate: NonZeroU32,
    /// For how long.
    #[arg(long, default_value = "10s")]
    duration: Ttl,
    /// For how long before that, which does not count.
    #[arg(long, default_value = "2s")]
    warm_up: Ttl,
    /// How many connections: so much can be under way at a time.
    #[arg(long, default_value = "64")]
    connections: NonZeroUsize,
    /// How many tasks are open at a time, where a task is not what is done.
    #[arg(long, default_value = "16")]
    tasks: NonZeroUsize,
    /// How long each credential should live; the tool's default when absent.
    #[arg(long)]
    ttl: Option<Ttl>,
    /// Try again what fails for want of a broker, as the SDKs do. Without it each failure counts.
    #[arg(long)]
    retry: bool,
    /// The evidence of a tool's server, who introspects.
    #[arg(long, value_name = "FILE", required_if_eq("mix", "introspect"))]
    tool_evidence: Option<PathBuf>,
    /// Write down each lease that was answered, and until when: a JSON object a line.
    #[arg(long, value_name = "FILE")]
    leases: Option<PathBuf>,
    #[command(flatten)]
    remote: Remote,
}

/// What is done again and again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Mix {
    /// Open a task, get a credential, complete the task: what an agent does.
    Task,
    /// Get a credential for a task that is open.
    Issue,
    /// Renew a credential that lives.
    Renew,
    /// Ask, as a tool does, whether a token may be relied on.
    Introspect,
}

impl Mix {
    const fn name(self) -> &'static str {
        match self {
            Self::Task => "task",
            Self::Issue => "issue",
            Self::Renew => "renew",
            Self::Introspect => "introspect",
        }
    }
}

impl Bench {
    /// Runs it. Fails when anything that counts did.
    pub async fn run(self, terminal: &Terminal) -> anyhow::Result<Exit> {
        if self.rate.get() > FASTEST {
            bail!(
                "{} a second are more than can be timed: ask for {FASTEST} at most",
                self.rate
            );
        }
        let load = Load::new(self.rate, self.warm_up, self.duration, self.connections);
        let api = self.remote.client()?.api();
        let tool = match &self.tool_evidence {
            Some(file) => Some(self.remote.client_as(client::Evidence::file(file))?.api()),
            None => None,
        };
        let work = Work {
            mix: self.mix,
            api,
            tool,
            accesses: self.accesses,
            ttl: self.ttl,
            retry: self.retry,
            leases: self.leases.as_deref().map(work::Leases::create).transpose()?,
        };
        let ready = Arc::new(work.prepare(self.tasks, self.connections).await?);
        let done = load.run(&ready, terminal).await;
        let left = ready.clean_up().await;
        report::print(terminal, self.mix, &load, &done)?;
        if left > 0 {
            terminal.note(format!(
                "{left} tasks could not be completed: they end at their deadline"
            ))?;
        }
        Ok(if done.failed() == 0 {
            Exit::Done
        } else {
            Exit::Failed
        })
    }
}
