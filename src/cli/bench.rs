//! `dayfly bench`: a load on a running broker, and how long it let its callers wait.
//!
//! What is asked is due at instants that are fixed beforehand, and how long an answer took counts from there: a
//! broker that stops for a while is not asked the less for it, and what waited in front of it has waited
//! (no "coordinated omission"). Only `--rate max` waits for answers, to see how much a broker carries. Everything is
//! real: tasks, credentials, records. What it opened, it completes.

mod cutoff;
pub mod floor;
mod load;
mod progress;
mod report;
mod tally;
mod wire;
mod work;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};

use super::exit::Exit;
use super::task::access;
use super::terminal::Terminal;
use super::{Remote, client};
use crate::model::access::Access;
use crate::model::ttl::Ttl;
use cutoff::Cutoffs;
use floor::Twin;
use load::{Load, Rate, Side};
use report::Came;
use wire::Wire;
use work::Work;

/// `dayfly bench`
#[derive(Args, Debug)]
pub struct Bench {
    /// What is done again and again.
    #[arg(long, value_enum, default_value = "task")]
    mix: Mix,
    /// What credentials are for: `tool:action[,action…][@resource[,resource…]]`. Given several times, they take turns.
    #[arg(long = "access", required = true, value_parser = access)]
    accesses: Vec<Access>,
    /// How often a second, however long the answers take; or `max`: each connection asks as soon as it was answered.
    #[arg(long, default_value = "100")]
    rate: Rate,
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
    #[arg(long, value_name = "FILE", required_if_eq_any([("mix", "introspect"), ("mix", "cutoff")]))]
    tool_evidence: Option<PathBuf>,
    /// How often something is ended, for `--mix cutoff`.
    #[arg(long, default_value = "1s")]
    every: Ttl,
    /// For `--mix cutoff`: end by kill orders for ALL that this agent holds, and not by completing tasks.
    #[arg(long, requires = "operator_evidence")]
    kill_orders: bool,
    /// The evidence of an operator, who may place kill orders.
    #[arg(long, value_name = "FILE", requires = "kill_orders")]
    operator_evidence: Option<PathBuf>,
    /// The broker's process, if it is on this machine: what a request costs it is told.
    #[arg(long, value_name = "PID")]
    server_pid: Option<u32>,
    /// Ask in turns a server on this machine that answers as long and does nothing, and tell ratios.
    #[arg(long, conflicts_with = "beside")]
    floor: bool,
    /// Ask in turns another server at this address that speaks this API, and tell ratios.
    #[arg(long, value_name = "URL")]
    beside: Option<String>,
    /// The evidence for the other server; the same when absent.
    #[arg(long, value_name = "FILE", requires = "beside")]
    beside_evidence: Option<PathBuf>,
    /// The process of the other server.
    #[arg(long, value_name = "PID", requires = "beside")]
    beside_pid: Option<u32>,
    /// How long one is asked before it is the other's turn. Each is asked for as long as the load lasts.
    #[arg(long, default_value = "2s")]
    slice: Ttl,
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
    /// Get credentials; beside it end some, and see how soon they are denied.
    Cutoff,
    /// Get credentials, reported by tool.
    Providers,
}

impl Mix {
    const fn name(self) -> &'static str {
        match self {
            Self::Task => "task",
            Self::Issue => "issue",
            Self::Renew => "renew",
            Self::Introspect => "introspect",
            Self::Cutoff => "cutoff",
            Self::Providers => "providers",
        }
    }
}

impl Bench {
    /// Runs it. Fails when anything that counts did.
    pub async fn run(self, terminal: &Terminal) -> anyhow::Result<Exit> {
        if self.mix == Mix::Cutoff && (self.floor || self.beside.is_some()) {
            bail!("what takes no cutoff cannot be compared with: leave out --floor and --beside");
        }
        let load = Load {
            rate: self.rate,
            connections: self.connections,
            warm_up: self.warm_up.as_duration(),
            duration: self.duration.as_duration(),
            slice: self.slice.as_duration(),
        };
        let leases = self.leases.as_deref().map(work::Leases::create).transpose()?;
        let work = self.work(self.remote.clone(), leases)?;
        let mut sides = vec![Side {
            name: "broker",
            work: Arc::new(work.prepare(self.tasks, self.connections).await?),
            server: self.server_pid,
        }];
        let came = self.ask(&load, &mut sides, terminal).await;
        let mut left = 0;
        for side in &sides {
            left += side.work.clean_up().await;
        }
        let came = came?;
        report::print(terminal, self.mix, &load, &came)?;
        if left > 0 {
            terminal.note(format!(
                "{left} tasks could not be completed: they end at their deadline"
            ))?;
        }
        Ok(match came.iter().map(Came::failed).sum() {
            0_u64 => Exit::Done,
            _ => Exit::Failed,
        })
    }

    /// Finds the other side, where there is one, and asks.
    async fn ask(
        &self,
        load: &Load,
        sides: &mut Vec<Side>,
        terminal: &Terminal,
    ) -> anyhow::Result<Vec<Came>> {
        let mut twin = None;
        let other = match (&self.beside, sides.first()) {
            (Some(address), _) => Some(("beside", address.clone(), self.beside_pid)),
            (None, Some(broker)) if self.floor => {
                let samples = broker.work.samples().await;
                let samples = samples.context("the broker gave no answers for the floor to repeat")?;
                let floor = tokio::task::spawn_blocking(move || Twin::start(&samples)).await??;
                let floor = twin.insert(floor);
                Some(("floor", floor.address().to_owned(), Some(floor.id())))
            }
            (None, _) => None,
        };
        if let Some((name, address, server)) = other {
            let remote = self.remote.elsewhere(address, self.beside_evidence.clone());
            let work = self.work(remote, None)?;
            sides.push(Side {
                name,
                work: Arc::new(work.prepare(self.tasks, self.connections).await?),
                server,
            });
        }
        let came = load.run(sides, terminal).await;
        let named = sides.iter().zip(came);
        let came = named.map(|(side, slices)| Came::new(side.name, slices)).collect();
        // What is prepared there goes with it.
        if twin.is_some() {
            sides.truncate(1);
        }
        Ok(came)
    }

    /// What is to be done there.
    fn work(&self, remote: Remote, leases: Option<work::Leases>) -> anyhow::Result<Work> {
        let whom = |file: &Option<PathBuf>| match file {
            Some(file) => {
                let client = remote.client_as(client::Evidence::file(file));
                client.map(|client| Some(client.api()))
            }
            None => Ok(None),
        };
        // What tries again does so as the SDKs do.
        let wire = |evidence: &Option<PathBuf>| match self.retry {
            true => None,
            false => Wire::new(&remote.broker, evidence.clone(), self.connections.get()),
        };
        Ok(Work {
            mix: self.mix,
            wire: wire(&remote.evidence),
            tool_wire: wire(&self.tool_evidence),
            api: remote.client()?.api(),
            tool: whom(&self.tool_evidence)?,
            operator: whom(&self.operator_evidence)?,
            cutoffs: Cutoffs {
                every: self.every.as_duration(),
                kill_orders: self.kill_orders,
            },
            accesses: self.accesses.clone(),
            ttl: self.ttl,
            retry: self.retry,
            leases,
        })
    }
}
