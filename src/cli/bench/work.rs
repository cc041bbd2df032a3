//! What is done again and again.

use std::fs::File;
use std::io::Write as _;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Mix;
use super::load::Tally;
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
    pub(super) api: Api,
    pub(super) tool: Option<Api>,
    pub(super) accesses: Vec<Access>,
    pub(super) ttl: Option<Ttl>,
    pub(super) retry: bool,
    pub(super) leases: Option<Leases>,
}

/// What to do, with all that it takes.
pub(super) struct Ready {
    work: Work,
    entropy: OsEntropy,
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
        let mut ready = Ready {
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
            let task = self.open().await?;
            self.tasks.push(task);
        }
        if self.work.mix == Mix::Issue {
            return Ok(());
        }
        for (number, task) in (0..connections).zip(self.tasks.iter().cycle()) {
            let answer = self.issue(number, task).await?;
            let text = |pointer| answer.pointer(pointer).map(text).unwrap_or_default();
            self.held.push((text("/lease/id"), text("/credential/token")));
        }
        Ok(())
    }

    /// Completes what was opened. How much could not be.
    pub(super) async fn clean_up(&self) -> usize {
        let mut left = 0;
        for task in &self.tasks {
            left += usize::from(self.complete(task).await.is_err());
        }
        left
    }

    /// Does it once, what was due at an instant.
    pub(super) async fn once(&self, number: u64, connection: usize, due: Instant, tally: &mut Tally) {
        let turn = usize::try_from(number).unwrap_or_default();
        match self.work.mix {
            Mix::Task => {
                let Some(task) = told(tally, "open", due, self.open().await) else {
                    return;
                };
                let began = Instant::now();
                let issued = told(tally, "issue", began, self.issue(turn, &task).await);
                let began = Instant::now();
                let completed = told(tally, "complete", began, self.complete(&task).await);
                if issued.and(completed).is_some() {
                    tally.note("all three", due.elapsed(), None);
                }
            }
            Mix::Issue => {
                if let Some(task) = self.tasks.get(turn % self.tasks.len().max(1)) {
                    told(tally, "issue", due, self.issue(turn, task).await);
                }
            }
            Mix::Renew => {
                if let Some((lease, _)) = self.held.get(connection) {
                    told(tally, "renew", due, self.renew(lease).await);
                }
            }
            Mix::Introspect => {
                if let Some((_, token)) = self.held.get(connection) {
                    told(tally, "introspect", due, self.introspect(token).await);
                }
            }
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

    async fn open(&self) -> Result<String, CallError> {
        let scope: Vec<Value> = self.work.accesses.iter().map(|access| json!(access)).collect();
        let body = json!({"purpose": PURPOSE, "scope": scope});
        let task: Value = self.call("/v1/tasks", &body).send().await?;
        Ok(field(&task, "id"))
    }

    async fn issue(&self, turn: usize, task: &str) -> Result<Value, CallError> {
        let accesses = &self.work.accesses;
        let mut body = json!(accesses.get(turn % accesses.len().max(1)));
        if let (Value::Object(members), Some(ttl)) = (&mut body, self.work.ttl) {
            members.insert("ttl".to_owned(), json!(ttl));
        }
        let path = format!("/v1/tasks/{}/credentials", segment(task));
        let answer: Value = self.call(&path, &body).send().await?;
        if let Some(leases) = &self.work.leases {
            leases.write(&answer);
        }
        Ok(answer)
    }

    async fn complete(&self, task: &str) -> Result<Value, CallError> {
        let path = format!("/v1/tasks/{}/complete", segment(task));
        self.call(&path, &json!({"outcome": "completed"})).send().await
    }

    async fn renew(&self, lease: &str) -> Result<Value, CallError> {
        let path = format!("/v1/leases/{}/renew", segment(lease));
        self.call(&path, &without_nulls(json!({"ttl": self.work.ttl})))
            .send()
            .await
    }

    async fn introspect(&self, token: &str) -> Result<Value, CallError> {
        let Some(tool) = &self.work.tool else {
            return Ok(Value::Null);
        };
        let call = tool.posting("/oauth2/introspect").form(&[("token", token)]);
        if self.work.retry { call } else { call.once() }.send().await
    }
}

/// Notes how one request went, and gives what it answered.
fn told<T>(tally: &mut Tally, what: &'static str, since: Instant, answer: Result<T, CallError>) -> Option<T> {
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
fn reason(error: &CallError) -> String {
    let Some(problem) = error.problem() else {
        return "no answer".to_owned();
    };
    match problem.status {
        Some(status) => format!("{status} {}", problem.slug),
        None => format!("{}: {}", problem.title, problem.detail),
    }
}
