//! `dayfly exec`: runs a program for the length of one task, with credentials that are always fresh and end with
//! it. The program need not know of Dayfly: it is served in the ways that its libraries ask already.

pub(super) mod aws;
mod bearer;
mod environment;
mod folder;
pub mod launch;
mod libpq;
mod program;
mod scrub;
pub(super) mod socket;
pub(super) mod task;
pub(super) mod wallet;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use futures_util::future::join_all;
use tokio::net::UnixListener;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::environment::Environment;
use self::folder::Folder;
use self::program::{End, Program, Signals};
use self::task::{Order, Sign, Task};
use self::wallet::Wallet;
use super::Remote;
use super::exit::Exit;
use super::memory::keep_to_oneself;
use super::terminal::Terminal;
use crate::clock::SystemClock;
use crate::entropy::OsEntropy;
use crate::model::access::{Access, Scope};
use crate::model::name::{Purpose, UserId};
use crate::model::ttl::Ttl;

/// The variable that tells the helpers where to ask.
pub(super) const SOCKET: &str = "DAYFLY_EXEC_SOCKET";
/// A sign of life is given up after this long at the latest, and sent again.
const LONGEST_BEAT: Duration = Duration::from_secs(10);
/// It is looked whether the credentials are still good with every third sign of life.
const BEATS_A_LOOK: u64 = 3;
/// How often the end of the task is told to a broker that does not answer.
const TRIES_TO_COMPLETE: u32 = 3;
/// How long what still serves may take to stop.
const TO_STOP: Duration = Duration::from_secs(1);

/// `dayfly exec`
#[derive(Args, Debug)]
pub struct Exec {
    /// Why the program runs.
    #[arg(long)]
    purpose: Purpose,
    /// What it may do: `tool:action[,action…][@resource[,resource…]]`. A credential for each; may be given several
    /// times.
    #[arg(long = "access", required = true, value_parser = super::task::access)]
    scope: Vec<Access>,
    /// On whose behalf: a stable user id.
    #[arg(long)]
    on_behalf_of: Option<UserId>,
    /// How long it may take at most, such as `1h`.
    #[arg(long)]
    ttl: Option<Ttl>,
    /// How long this may be silent, as when it was killed, before the task ends.
    #[arg(long, default_value = "10s")]
    heartbeat: Ttl,
    /// Sets a variable to the token of a tool, or to another part of its credential: a copy, which is not renewed.
    #[arg(long = "env", value_name = "VAR=TOOL[.PART]", value_parser = copy)]
    copies: Vec<Setting>,
    /// A kubeconfig without users, whose contexts name a tool as their `user`.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Passes on a variable that looks like a credential. May be given several times.
    #[arg(long, value_name = "VAR", value_delimiter = ',')]
    keep_env: Vec<String>,
    /// How long what has to end may take before it is killed.
    #[arg(long, default_value = "10s")]
    grace: Ttl,
    /// Lets what the program started and left behind run on, without credentials.
    #[arg(long)]
    leave_children: bool,
    #[command(flatten)]
    remote: Remote,
    /// The program and its arguments.
    #[arg(last = true, required = true, num_args = 1.., value_name = "CMD")]
    command: Vec<OsString>,
}

/// A variable that gets a part of a credential.
#[derive(Clone, Debug)]
struct Setting {
    variable: String,
    source: String,
}

fn copy(given: &str) -> Result<Setting, String> {
    let (variable, source) = given.split_once('=').unwrap_or_default();
    let named = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    if variable.is_empty() || !variable.bytes().all(named) || source.is_empty() {
        return Err("write `VAR=tool`, or `VAR=tool.part` such as `KEY=mailer.api_key`".to_owned());
    }
    Ok(Setting {
        variable: variable.to_owned(),
        source: source.to_owned(),
    })
}

/// What serves the program beside it.
struct Serving {
    folder: Arc<Folder>,
    environment: Environment,
    stop: CancellationToken,
    tracker: TaskTracker,
}

impl Exec {
    /// Runs it. Must be polled on the thread that the process began with: the program is told when that one ends.
    pub async fn run(self, terminal: &Terminal) -> anyhow::Result<Exit> {
        let tell = teller(*terminal);
        let Some((name, _)) = self.command.split_first() else {
            return Ok(Exit::Usage);
        };
        let search = std::env::var_os("PATH");
        let program = match launch::look_up(name, search.as_deref()) {
            Ok(program) => program,
            Err(error) => {
                tell(error.to_string());
                return Ok(Exit::Program(error.code()));
            }
        };
        keep_to_oneself();
        let tracker = TaskTracker::new();
        let mut signals = Signals::listen()?;
        let order = Order {
            purpose: self.purpose.clone(),
            scope: Scope::new(self.scope.clone())?,
            on_behalf_of: self.on_behalf_of.clone(),
            ttl: self.ttl,
            heartbeat: Some(self.heartbeat),
        };
        let client = self.remote.client()?;
        let task = tokio::select! {
            task = Task::open(client, &order) => task?,
            signal = signals.next_to_end() => return Ok(interrupted(signal)),
        };
        let filling = Wallet::fill(task.clone(), &self.scope, Arc::new(SystemClock::new()));
        let wallet = tokio::select! {
            wallet = filling => wallet.map(Arc::new),
            signal = signals.next_to_end() => {
                self.complete(&task, "cancelled", &tell).await;
                return Ok(interrupted(signal));
            }
        };
        let serving = match wallet {
            Ok(wallet) => self
                .serve(&wallet, tracker, tell)
                .await
                .map(|serving| (wallet, serving)),
            Err(error) => Err(error),
        };
        let (wallet, serving) = match serving {
            Ok(ready) => ready,
            Err(error) => {
                self.complete(&task, "cancelled", &tell).await;
                return Err(error.context("the program was not started"));
            }
        };
        self.announce(&task, &wallet, &serving, &tell);
        let mut command = launch::command(std::process::id(), &program, &self.command);
        command.env_clear().envs(serving.environment.variables());
        let exit = match Program::start(command) {
            Ok(program) => self.accompany(program, &task, &wallet, &mut signals, &tell).await,
            Err(error) => {
                self.complete(&task, "cancelled", &tell).await;
                tell(format!("{}: {error}", name.to_string_lossy()));
                Exit::Program(launch::NOT_EXECUTABLE)
            }
        };
        serving.stop.cancel();
        serving.tracker.close();
        // What nobody reads any more is not waited for.
        let _ = tokio::time::timeout(TO_STOP, serving.tracker.wait()).await;
        Ok(exit)
    }

    /// Sets up everything that the program is served by.
    async fn serve(
        &self,
        wallet: &Arc<Wallet>,
        tracker: TaskTracker,
        tell: impl Fn(String) + Copy + Send + Sync + 'static,
    ) -> anyhow::Result<Serving> {
        let entropy = OsEntropy::new();
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let folder = Arc::new(Folder::make(runtime, &entropy)?);
        let itself = std::env::current_exe().context("this program cannot be found by its helpers")?;
        let mut environment = Environment::scrubbed(std::env::vars_os(), &self.keep_env);
        let stop = CancellationToken::new();

        let socket = folder.path("socket");
        let listener = UnixListener::bind(&socket).context("no socket can be made")?;
        environment.set(SOCKET, socket);
        let owner = rustix::process::geteuid().as_raw();
        let asked = socket::serve(listener, wallet.clone(), owner, tracker.clone());
        tracker.spawn(until(stop.clone(), asked));

        let endpoint = aws::serve(wallet, &folder, &mut environment, &itself, &entropy, stop.clone());
        if let Some(endpoint) = endpoint.await? {
            tracker.spawn(endpoint);
        }
        if libpq::give(wallet, &folder, &mut environment)? {
            let following = libpq::follow(wallet.clone(), folder.clone(), tell);
            tracker.spawn(until(stop.clone(), following));
        }
        bearer::give(wallet, &folder, &mut environment, &itself)?;
        if let Some(given) = &self.kubeconfig {
            bearer::kubectl(given, wallet, &folder, &mut environment, &itself)?;
        }
        for copy in &self.copies {
            environment.set(&copy.variable, part(wallet, &copy.source)?);
        }
        let wallet = wallet.clone();
        let keeping = async move {
            join_all(wallet.entries().iter().map(|entry| wallet.keep(entry, &tell))).await;
        };
        tracker.spawn(until(stop.clone(), keeping));
        Ok(Serving {
            folder,
            environment,
            stop,
            tracker,
        })
    }

    fn announce(&self, task: &Task, wallet: &Wallet, serving: &Serving, tell: &impl Fn(String)) {
        let held = wallet.entries().iter().map(|entry| {
            let kind = entry.issued().credential.kind().replace('_', " ");
            format!("{} ({kind})", entry.name())
        });
        let held: Vec<String> = held.collect();
        tell(format!(
            "task {} until {}: {}",
            task.id(),
            task.deadline(),
            held.join(", ")
        ));
        let withheld = serving.environment.withheld();
        if !withheld.is_empty() {
            tell(format!("withheld from the program: {}", withheld.join(", ")));
        }
        tracing::debug!(folder = %serving.folder.path("").display(), "serving");
    }

    /// Runs beside the program until it and all that it started have ended, and then ends the task.
    async fn accompany(
        &self,
        mut program: Program,
        task: &Task,
        wallet: &Wallet,
        signals: &mut Signals,
        tell: &impl Fn(String),
    ) -> Exit {
        let mut beating = std::pin::pin!(self.beat(task, wallet, tell));
        let mut ended_elsewhere = false;
        let mut kill_at: Option<Instant> = None;
        let end = loop {
            let killing = async {
                match kill_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                end = program.ended() => break end,
                signal = signals.next() => program.forward(signal),
                why = &mut beating, if !ended_elsewhere => {
                    tell(format!("task {} has ended, and the program with it: {why}", task.id()));
                    ended_elsewhere = true;
                    kill_at = Some(Instant::now() + self.grace.as_duration());
                    program.terminate();
                }
                () = killing => {
                    tell(format!("the program is killed: it goes on {}s after it was asked to end", self.grace.as_secs()));
                    kill_at = None;
                    program.kill();
                }
            }
        };
        if !self.leave_children {
            let grace = match (ended_elsewhere, kill_at) {
                (true, Some(at)) => at.saturating_duration_since(Instant::now()),
                (true, None) => Duration::ZERO,
                (false, _) => self.grace.as_duration(),
            };
            let hurry = CancellationToken::new();
            let mut clearing = std::pin::pin!(program.clear(grace, &hurry));
            // The task goes on meanwhile: so does what that still has to do.
            let (asked, left) = loop {
                tokio::select! {
                    cleared = &mut clearing => break cleared,
                    why = &mut beating, if !ended_elsewhere => {
                        tell(format!("task {} has ended: {why}", task.id()));
                        ended_elsewhere = true;
                    }
                    // Whoever asks has a patience of his own, and the end of the task has to come before that.
                    _ = signals.next_to_end() => hurry.cancel(),
                }
            };
            if asked > 0 {
                tell(format!("ended what the program left running: {asked}"));
            }
            if left > 0 {
                tell(format!(
                    "some of that could not be ended, and runs on without credentials: {left}"
                ));
            }
        }
        if ended_elsewhere {
            return Exit::Ended;
        }
        self.complete(task, end.outcome(), tell).await;
        exit_of(end)
    }

    /// Sends signs of life until the task has ended, and says why it did. Without a broker it goes on trying.
    async fn beat(&self, task: &Task, wallet: &Wallet, tell: &impl Fn(String)) -> String {
        let every = self.heartbeat.as_duration() / 3;
        let mut ticks = tokio::time::interval_at(Instant::now() + every, every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let patience = every.min(LONGEST_BEAT);
        let (mut unheard, mut suspended) = (false, false);
        let mut beats = 0_u64;
        loop {
            ticks.tick().await;
            beats += 1;
            let heard = tokio::time::timeout(patience, task.beat()).await;
            let trouble = match heard {
                Ok(Ok(Sign::Ended(why))) => return why,
                Ok(Ok(sign)) => {
                    if unheard {
                        tell("the broker answers again".to_owned());
                    }
                    if sign == Sign::Open && beats.is_multiple_of(BEATS_A_LOOK) {
                        // What cannot be looked at now is looked at the next time.
                        let _ = tokio::time::timeout(patience, look(task, wallet, tell)).await;
                    }
                    if sign == Sign::Suspended && !suspended {
                        wallet.forget(&wallet.leases());
                        tell(format!(
                            "task {} is suspended: no credentials until it resumes",
                            task.id()
                        ));
                    }
                    (unheard, suspended) = (false, sign == Sign::Suspended);
                    continue;
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => "it does not answer in time".to_owned(),
            };
            if !unheard {
                tell(format!(
                    "no sign of life gets through, and the program goes on: {trouble}"
                ));
            }
            unheard = true;
        }
    }

    /// Ends the task and says with what proofs.
    async fn complete(&self, task: &Task, outcome: &str, tell: &impl Fn(String)) {
        let mut tries = 0;
        let ended = loop {
            tries += 1;
            match task.complete(outcome).await {
                Err(error)
                    if super::client::exit(&error) == Exit::Unreachable && tries < TRIES_TO_COMPLETE =>
                {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                answer => break answer,
            }
        };
        match ended {
            Ok(ended) => {
                let proofs: Vec<String> = ended
                    .proofs
                    .iter()
                    .map(|(proof, n)| format!("{n} {proof}"))
                    .collect();
                let proofs = if proofs.is_empty() {
                    "none".to_owned()
                } else {
                    proofs.join(", ")
                };
                let pending = match ended.pending {
                    0 => String::new(),
                    pending => format!("; {pending} not ended yet"),
                };
                tell(format!(
                    "task {} {outcome}; leases: {}; proofs: {proofs}{pending}",
                    task.id(),
                    ended.leases
                ));
            }
            Err(error) => tell(format!(
                "task {} could not be ended, and ends within {}s without signs of life: {error}",
                task.id(),
                self.heartbeat.as_secs()
            )),
        }
    }
}

/// Lets go of credentials that somebody ended before their time.
async fn look(task: &Task, wallet: &Wallet, tell: &impl Fn(String)) {
    let mut held = wallet.leases();
    if let Ok(Some(live)) = task.live().await {
        held.retain(|lease| !live.contains(lease));
        if wallet.forget(&held) {
            tell("a credential was ended elsewhere, and another one is asked for".to_owned());
        }
    }
}

/// Says something beside what the program says.
fn teller(terminal: Terminal) -> impl Fn(String) + Copy + Send + Sync + 'static {
    move |text| {
        // With standard error gone there is nobody left to tell.
        let _ = terminal.note(format!("dayfly: {text}"));
    }
}

async fn until(stop: CancellationToken, running: impl Future<Output = ()>) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = running => {}
    }
}

fn interrupted(signal: rustix::process::Signal) -> Exit {
    Exit::Program(End::Signal(signal.as_raw()).code())
}

fn exit_of(end: End) -> Exit {
    match end {
        End::Code(0) => Exit::Done,
        end => Exit::Program(end.code()),
    }
}

/// `tool` or `tool.part` of a credential. Names of tools may have dots.
fn part(wallet: &Wallet, source: &str) -> anyhow::Result<String> {
    let named = wallet.entries().iter().filter_map(|entry| {
        let rest = source.strip_prefix(entry.name())?;
        let part = match rest {
            "" => None,
            rest => Some(rest.strip_prefix('.')?),
        };
        Some((entry, part))
    });
    let Some((entry, part)) = named.max_by_key(|(entry, _)| entry.name().len()) else {
        bail!("`--env` names `{source}`, which is no tool of `--access`");
    };
    let issued = entry.issued();
    issued.part(part).with_context(|| {
        format!(
            "`--env` names `{source}`, and the {} for `{}` has no such part",
            issued.credential.kind().replace('_', " "),
            entry.name()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_names_a_variable_and_where_it_comes_from() {
        let read = copy("API_KEY=mailer.api_key").unwrap();
        assert_eq!(
            (read.variable.as_str(), read.source.as_str()),
            ("API_KEY", "mailer.api_key")
        );
        for bad in ["API_KEY", "=mailer", "API_KEY=", "A-B=mailer", ""] {
            assert!(copy(bad).is_err(), "{bad}");
        }
    }
}
