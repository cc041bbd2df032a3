//! `dayfly serve` and `dayfly dev`: run a broker until told to stop.

use std::fs::{self, File, TryLockError};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;

use super::exit::Exit;
use super::terminal::{Terminal, Tone};
use crate::app::traces::Logging;
use crate::app::{self, Running};
use crate::broker::load::Loaded;
use crate::clock::{Clock, SystemClock};
use crate::config;
use crate::dev::crm::Crm;
use crate::dev::estate::{EVIDENCE_LIFE, Estate, WORKLOADS};
use crate::entropy::OsEntropy;

/// Which configuration.
#[derive(Args, Debug)]
pub struct Serve {
    /// The configuration file.
    #[arg(long, default_value = "dayfly.toml", value_name = "FILE")]
    config: PathBuf,
}

/// Where to keep what is tried out.
#[derive(Args, Debug)]
pub struct Dev {
    /// The folder for configuration, evidence and data.
    #[arg(long, default_value = ".dayfly", value_name = "FOLDER")]
    folder: PathBuf,
    /// Where the broker listens.
    #[arg(long, default_value = "127.0.0.1:8440")]
    listen: SocketAddr,
    /// Where the tool listens.
    #[arg(long, default_value = "127.0.0.1:8441")]
    tool: SocketAddr,
}

impl Serve {
    /// Serves until SIGINT or SIGTERM; SIGHUP puts policies, agents and tools in force anew, and takes
    /// new certificates into use.
    pub async fn run(self) -> anyhow::Result<Exit> {
        let config = config::load(&self.config)?;
        let logging = Logging::begin(&config.telemetry)?;
        let ended = self.serve().await;
        logging.end().await;
        ended
    }

    async fn serve(&self) -> anyhow::Result<Exit> {
        let mut hangup = signal(SignalKind::hangup())?;
        // From here on, so that it can be stopped while it starts, as the first process of a container too.
        let mut stops = Stops::listen()?;
        let running = tokio::select! {
            started = app::start(&self.config) => started?,
            () = stops.next() => {
                tracing::info!("stopped before it was ready");
                return Ok(Exit::Done);
            }
        };
        tracing::info!(address = %running.address(), "ready");
        for (whom, address) in [
            ("tools", running.tools_address()),
            ("operators", running.operators_address()),
        ] {
            if let Some(address) = address {
                tracing::info!(%address, "{whom} have a listener of their own");
            }
        }
        loop {
            tokio::select! {
                () = stops.next() => break,
                _ = hangup.recv() => {
                    running.look_at_certificates();
                    match running.reload().await {
                        Ok(Loaded::Unchanged(_)) => tracing::info!("policies, agents and tools are as they were"),
                        Ok(Loaded::InForce(_)) => tracing::info!("policies, agents and tools were loaded anew"),
                        Err(problems) => tracing::error!("nothing was changed: {problems:#}"),
                    }
                }
            }
        }
        tracing::info!("stopping");
        stops.stop(running).await?;
        Ok(Exit::Done)
    }
}

impl Dev {
    /// Runs a broker, a trust domain and a tool, and prints lines to paste.
    pub async fn run(self, terminal: &Terminal) -> anyhow::Result<Exit> {
        // Before anything is written anew that another one is using.
        let _alone = self.alone()?;
        let bind = async |address, flag| {
            let bound = TcpListener::bind(address).await;
            bound.with_context(|| format!("cannot listen on {address}: name another address with {flag}"))
        };
        let listener = bind(self.listen, "--listen").await?;
        let tool = bind(self.tool, "--tool").await?;
        let (broker_at, tool_at) = (listener.local_addr()?, tool.local_addr()?);
        let clock = SystemClock::new();
        let estate = Estate::lay_out(&self.folder, broker_at, &OsEntropy::new())?;
        estate.place_crm(tool_at)?;
        estate.write_evidence(clock.now()).await?;
        let running = app::start_on(listener, &estate.configuration()).await?;
        let crm = Crm::start(tool, broker_at, estate.evidence_file("crm-server")).await?;
        self.explain(terminal, &estate, broker_at, tool_at)?;
        let mut refresh = tokio::time::interval(EVIDENCE_LIFE.as_duration() / 3);
        let refreshing = async {
            loop {
                refresh.tick().await;
                estate.write_evidence(clock.now()).await?;
            }
        };
        let mut stops = Stops::listen()?;
        let ended: anyhow::Result<()> = tokio::select! {
            ended = refreshing => ended,
            () = stops.next() => Ok(()),
        };
        crm.stop().await;
        stops.stop(running).await?;
        ended.map(|()| Exit::Done)
    }

    /// The folder, for this process alone.
    fn alone(&self) -> anyhow::Result<File> {
        let place = || format!("{} cannot be used", self.folder.display());
        fs::create_dir_all(&self.folder).with_context(place)?;
        let lock = File::create(self.folder.join("lock")).with_context(place)?;
        match lock.try_lock() {
            Ok(()) => Ok(lock),
            Err(TryLockError::WouldBlock) => {
                bail!(
                    "another `dayfly dev` runs in {}: name another folder with --folder",
                    self.folder.display()
                )
            }
            Err(TryLockError::Error(error)) => Err(error).with_context(place),
        }
    }

    fn explain(
        &self,
        terminal: &Terminal,
        estate: &Estate,
        broker: SocketAddr,
        tool: SocketAddr,
    ) -> anyhow::Result<()> {
        if terminal.is_json() {
            let agents = WORKLOADS.iter().map(|(agent, _)| {
                let file = estate.evidence_file(agent).display().to_string();
                ((*agent).to_owned(), file.into())
            });
            return Ok(terminal.value(&json!({
                "broker": format!("http://{broker}"),
                "tool": format!("http://{tool}"),
                "configuration": estate.configuration().display().to_string(),
                "evidence": Value::Object(agents.collect()),
            }))?);
        }
        let bold = |text: &str| terminal.paint(Tone::Strong, text);
        let faint = |text: &str| terminal.paint(Tone::Faint, text);
        let program = std::env::args_os().next().unwrap_or_else(|| "dayfly".into());
        let dayfly = PathBuf::from(program).display().to_string();
        let evidence = estate.evidence_file("support-bot").display().to_string();
        let agents: Vec<&str> = WORKLOADS.iter().map(|(agent, _)| *agent).collect();
        for line in [
            bold(&format!(
                "a broker on http://{broker} and a CRM on http://{tool}, for trying things out"
            )),
            faint(&format!(
                "evidence of {} is kept fresh in {}; not for production",
                agents.join(", "),
                self.folder.join("evidence").display()
            )),
            String::new(),
            "paste, in another terminal:".to_owned(),
            String::new(),
            format!("export DAYFLY_BROKER=http://{broker} DAYFLY_EVIDENCE_FILE={evidence}"),
            format!(
                "task=$({dayfly} task open --purpose 'answer ticket 4711' --access crm:read,comment@customers/42 --id-only)"
            ),
            format!(
                "token=$({dayfly} task issue $task --tool crm --action read --resource customers/42 --token-only)"
            ),
            format!(
                "curl -i -H \"Authorization: Bearer $token\" http://{tool}/customers/42   {}",
                faint("# 200")
            ),
            format!("{dayfly} task complete $task"),
            format!(
                "curl -i -H \"Authorization: Bearer $token\" http://{tool}/customers/42   {}",
                faint("# 401")
            ),
            format!(
                "{dayfly} journal tail --evidence {}",
                estate.evidence_file("ops-console").display()
            ),
            String::new(),
            faint("stop with Ctrl-C"),
        ] {
            terminal.line(line)?;
        }
        Ok(())
    }
}

/// The signals that ask the process to stop.
struct Stops {
    terminate: Signal,
    interrupt: Signal,
}

impl Stops {
    /// Listens from now on, not only when it is waited for.
    fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next one.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// Stops a broker, and has it hurry for each signal that comes meanwhile.
    async fn stop(&mut self, running: Running) -> anyhow::Result<()> {
        let hurry = Notify::new();
        let mut stopping = pin!(running.stop(&hurry));
        loop {
            tokio::select! {
                stopped = &mut stopping => return stopped,
                () = self.next() => hurry.notify_one(),
            }
        }
    }
}
