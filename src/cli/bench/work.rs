//! What is done again and again.

use std::fs::File;
use std::io::Write as _;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::Context as _;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Mix;
use super::cutoff::Cutoffs;
use super::floor::Samples;
use super::tally::Tally;
use super::wire::{FORM, JSON, Wire};
use crate::cli::answer::{field, text, without_nulls};
use crate::cli::client::{Api, Call, CallError, segment};
use crate::entropy::{OsEntropy, draw};
use crate::model::access::Access;
use crate::model::ttl::Ttl;

/// The reason that the broker's records give.
const PURPOSE: &str = "a load by dayfly bench";

/// A file with the leases that were answered.
#[derive(Debug)]
pub(super) struct Leases(Mutex<File>);

impl Leases {
    pub(super) fn create(path: &Path) -> anyhow::Result<Self> {
        let file = File::create(path);
        let file = file.with_context(|| format!("cannot write to {}", path.display()))?;
        Ok(Self(Mutex::new(file)))
    }

    fn write(&self, answer: &Value) {
        let (lease, until) = (answer.pointer("/lease/id"), answer.pointer("/lease/expires_at"));
        let line = format!("{}\n", json!({"lease": lease, "expires_at": until}));
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = file.write_all(line.as_bytes()) {
            tracing::warn!(%error, "a lease could not be written down");
        }
    }
}

/// What to do, before anything of it was.
pub(super) struct Work {
    pub(super) mix: Mix,
    /// How the load itself is sent, where that is spoken.
    pub(super) wire: Option<Wire>,
    /// The same, by who introspects.
    pub(super) tool_wire: Option<Wire>,
    pub(super) api: Api,
    /// Who introspects.
    pub(super) tool: Option<Api>,
    /// Who places kill orders.
    pub(super) operator: Option<Api>,
    pub(super) cutoffs: Cutoffs,
    pub(super) accesses: Vec<Access>,
    pub(super) ttl: Option<Ttl>,
    pub(super) retry: bool,
    pub(super) leases: Option<Leases>,
}

/// What to do, with all that it takes.
pub(super) struct Ready {
    work: Work,
    entropy: OsEntropy,
    /// What issuing is called, by access.
    names: Vec<String>,
    /// Open tasks.
    tasks: Vec<String>,
    /// One live credential for each connection: the lease and, for who introspects, the token.
    held: Vec<(String, String)>,
}

impl Work {
    /// Opens what has to be there beforehand.
    pub(super) async fn prepare(
        self,
        tasks: NonZeroUsize,
        connections: NonZeroUsize,
    ) -> anyhow::Result<Ready> {
        let by_tool = self.mix == Mix::Providers;
        let named = |access: &Access| match by_tool {
            true => format!("issue {}", access.tool()),
            false => "issue".to_owned(),
        };
        let mut ready = Ready {
            names: self.accesses.iter().map(named).collect(),
            work: self,
            entropy: OsEntropy::new(),
            tasks: Vec::new(),
            held: Vec::new(),
        };
        let prepared = ready.fill(tasks.get(), connections.get()).await;
        if prepared.is_err() {
            ready.clean_up().await;
        }
        prepared.context("what the load starts from could not be prepared")?;
        Ok(ready)
    }
}

impl Ready {
    async fn fill(&mut self, tasks: usize, connections: usize) -> Result<(), CallError> {
        if self.work.mix == Mix::Task {
            return Ok(());
        }
        for _ in 0..tasks {
            let task = self.open(None).await?;
            self.tasks.push(task);
        }
        if matches!(self.work.mix, Mix::Issue | Mix::Providers | Mix::Cutoff) {
            return Ok(());
        }
        for (number, task) in (0..connections).zip(self.tasks.iter().cycle()) {
            let answer = self.issue(None, number, task).await?;
            let text = |pointer| answer.pointer(pointer).map(text).unwrap_or_default();
            self.held.push((text("/lease/id"), text("/credential/token")));
        }
        Ok(())
    }

    /// What a broker answers to each of what this does.
    pub(super) async fn samples(&self) -> Result<Samples, CallError> {
        let open = self.open_task::<Value>(None).await?;
        let task = field(&open, "id");
        let issue = self.issue(None, 0, &task).await?;
        let text = |pointer| issue.pointer(pointer).map(text).unwrap_or_default();
        let (lease, token) = (text("/lease/id"), text("/credential/token"));
        let mut samples = Samples::from([("open", open)]);
        if self.work.mix == Mix::Renew {
            samples.insert("renew", self.renew(None, &lease).await?);
        }
        if self.work.mix == Mix::Introspect {
            samples.insert("introspect", self.introspect(None, &token).await?);
        }
        samples.insert("issue", issue);
        samples.insert("complete", self.complete(None, &task).await?);
        Ok(samples)
    }

    /// Completes what was opened. How much could not be.
    pub(super) async fn clean_up(&self) -> usize {
        let mut left = 0;
        for task in &self.tasks {
            left += usize::from(self.complete::<IgnoredAny>(None, task).await.is_err());
        }
        left
    }

    /// How credentials are ended beside the load, where that is what it is about.
    pub(super) fn cutoffs(&self) -> Option<Cutoffs> {
        (self.work.mix == Mix::Cutoff).then_some(self.work.cutoffs)
    }

    /// Does it once, what was due at an instant. Whether it went well.
    pub(super) async fn once(&self, turn: u64, connection: usize, due: Instant, tally: &mut Tally) -> bool {
        let turn = usize::try_from(turn).unwrap_or_default();
        let on = Some(connection);
        match self.work.mix {
            Mix::Task => {
                let Some(task) = told(tally, "open", due, self.open(on).await) else {
                    return false;
                };
                let began = Instant::now();
                let issued = told(tally, "issue", began, self.issued(on, turn, &task).await);
                let began = Instant::now();
                let completed = told(
                    tally,
                    "complete",
                    began,
                    self.complete::<IgnoredAny>(on, &task).await,
                );
                let well = issued.and(completed).is_some();
                if well {
                    tally.sum_up("all three", due.elapsed(), None);
                }
                well
            }
            Mix::Issue | Mix::Providers | Mix::Cutoff => {
                let task = self.tasks.get(turn % self.tasks.len().max(1));
                let name = self.names.get(turn % self.names.len().max(1));
                let (Some(task), Some(name)) = (task, name) else {
                    return false;
                };
                told(tally, name, due, self.issued(on, turn, task).await).is_some()
            }
            Mix::Renew => match self.held.get(connection) {
                Some((lease, _)) => {
                    told(tally, "renew", due, self.renew::<IgnoredAny>(on, lease).await).is_some()
                }
                None => false,
            },
            Mix::Introspect => match self.held.get(connection) {
                Some((_, token)) => told(
                    tally,
                    "introspect",
                    due,
                    self.introspect::<IgnoredAny>(on, token).await,
                )
                .is_some(),
                None => false,
            },
        }
    }

    fn call(&self, path: &str, body: &Value) -> Call {
        let call = self.work.api.posting(path).json(body);
        if !self.work.retry {
            return call.once();
        }
        // As the SDKs do: what was answered into nowhere is answered again, and not done again.
        match draw::<16>(&self.entropy) {
            Ok(key) => call.key(&format!("{:032x}", u128::from_be_bytes(key))),
            Err(_) => call,
        }
    }

    /// Sends a body, on one of the connections that the load has or beside it.
    async fn ask<T: DeserializeOwned>(
        &self,
        on: Option<usize>,
        path: &str,
        body: &Value,
    ) -> Result<T, CallError> {
        match (on, &self.work.wire) {
            (Some(connection), Some(wire)) => wire.post(connection, path, JSON, body.to_string()).await,
            _ => self.call(path, body).send().await,
        }
    }

    pub(super) async fn open(&self, on: Option<usize>) -> Result<String, CallError> {
        let opened: Opened = self.open_task(on).await?;
        Ok(opened.id)
    }

    async fn open_task<T: DeserializeOwned>(&self, on: Option<usize>) -> Result<T, CallError> {
        let scope: Vec<Value> = self.work.accesses.iter().map(|access| json!(access)).collect();
        let body = json!({"purpose": PURPOSE, "scope": scope});
        self.ask(on, "/v1/tasks", &body).await
    }

    /// Issues, and looks at the answer only where it is to be written down.
    async fn issued(&self, on: Option<usize>, turn: usize, task: &str) -> Result<(), CallError> {
        if self.work.leases.is_some() {
            self.issue(on, turn, task).await.map(drop)
        } else {
            let IgnoredAny = self.issue_for(on, turn, task).await?;
            Ok(())
        }
    }

    pub(super) async fn issue(&self, on: Option<usize>, turn: usize, task: &str) -> Result<Value, CallError> {
        let answer = self.issue_for(on, turn, task).await?;
        if let Some(leases) = &self.work.leases {
            leases.write(&answer);
        }
        Ok(answer)
    }

    async fn issue_for<T: DeserializeOwned>(
        &self,
        on: Option<usize>,
        turn: usize,
        task: &str,
    ) -> Result<T, CallError> {
        let accesses = &self.work.accesses;
        let mut body = json!(accesses.get(turn % accesses.len().max(1)));
        if let (Value::Object(members), Some(ttl)) = (&mut body, self.work.ttl) {
            members.insert("ttl".to_owned(), json!(ttl));
        }
        let path = format!("/v1/tasks/{}/credentials", segment(task));
        self.ask(on, &path, &body).await
    }

    pub(super) async fn complete<T: DeserializeOwned>(
        &self,
        on: Option<usize>,
        task: &str,
    ) -> Result<T, CallError> {
        let path = format!("/v1/tasks/{}/complete", segment(task));
        self.ask(on, &path, &json!({"outcome": "completed"})).await
    }

    /// Ends all that an agent holds.
    pub(super) async fn kill(&self, agent: &str) -> Result<Value, CallError> {
        let Some(operator) = &self.work.operator else {
            return Ok(Value::Null);
        };
        let order = json!({"agent": agent, "reason": PURPOSE});
        operator
            .posting("/v1/revocations")
            .json(&order)
            .once()
            .send()
            .await
    }

    async fn renew<T: DeserializeOwned>(&self, on: Option<usize>, lease: &str) -> Result<T, CallError> {
        let path = format!("/v1/leases/{}/renew", segment(lease));
        self.ask(on, &path, &without_nulls(json!({"ttl": self.work.ttl})))
            .await
    }

    /// Asks as a tool about a token, which needs no escaping in a form: it is base64url and dots.
    pub(super) async fn introspect<T: DeserializeOwned>(
        &self,
        on: Option<usize>,
        token: &str,
    ) -> Result<T, CallError> {
        const PATH: &str = "/oauth2/introspect";
        if let (Some(connection), Some(wire)) = (on, &self.work.tool_wire) {
            return wire.post(connection, PATH, FORM, format!("token={token}")).await;
        }
        // Without evidence of a tool, as the agent: the command line asks for it where it is needed.
        let tool = self.work.tool.as_ref().unwrap_or(&self.work.api);
        let call = tool.posting(PATH).form(&[("token", token)]);
        if self.work.retry { call } else { call.once() }.send().await
    }
}

/// What is looked at of a task.
#[derive(Deserialize)]
struct Opened {
    id: String,
}

/// Notes how one request went, and gives what it answered.
fn told<T>(tally: &mut Tally, what: &str, since: Instant, answer: Result<T, CallError>) -> Option<T> {
    let took = since.elapsed();
    match answer {
        Ok(value) => {
            tally.note(what, took, None);
            Some(value)
        }
        Err(error) => {
            tally.note(what, took, Some(reason(&error)));
            None
        }
    }
}

/// Of few kinds, however many fail: no ids.
pub(super) fn reason(error: &CallError) -> String {
    let Some(problem) = error.problem() else {
        return "no answer".to_owned();
    };
    match problem.status {
        Some(status) => format!("{status} {}", problem.slug),
        None => format!("{}: {}", problem.title, problem.detail),
    }
}
