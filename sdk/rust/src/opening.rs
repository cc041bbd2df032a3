//! Tasks and parts of tasks before they are opened.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use serde_json::json;

use crate::access::{self, Access};
use crate::broker::{Inner, set};
use crate::error::Error;
use crate::task::{OpenTask, State, Task};
use crate::time::seconds;
use crate::wire;

/// A task ends when no sign of life comes for so long. One comes each third of it, by itself.
const HEARTBEAT: Duration = Duration::from_secs(30);

/// A task to be opened: [`run`](Self::run) it, or [`open`](Self::open) it.
#[must_use = "nothing is opened before `run` or `open`"]
pub struct NewTask {
    broker: Arc<Inner>,
    purpose: String,
    scope: Result<Vec<Access>, Error>,
    on_behalf_of: Option<String>,
    ttl: Option<Duration>,
    heartbeat: Option<Duration>,
}

impl NewTask {
    pub(crate) fn new(broker: Arc<Inner>, purpose: String, scope: Result<Vec<Access>, Error>) -> Self {
        Self {
            broker,
            purpose,
            scope,
            on_behalf_of: None,
            ttl: None,
            heartbeat: Some(HEARTBEAT),
        }
    }

    /// On whose behalf: the stable id of a person or a service. The agent has to be allowed to act for them.
    pub fn on_behalf_of(mut self, user: impl Into<String>) -> Self {
        self.on_behalf_of = Some(user.into());
        self
    }

    /// How long it may take at most, whole seconds; the broker's default otherwise.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// It ends when no sign of life comes for so long, whole seconds; 30 seconds otherwise. With `None` the broker's
    /// default holds, which may be that none is expected.
    pub fn heartbeat(mut self, heartbeat: impl Into<Option<Duration>>) -> Self {
        self.heartbeat = heartbeat.into();
        self
    }

    /// Opens it, to be ended by the value that is given back. What is opened for a future that was dropped meanwhile is
    /// cancelled in the background.
    pub async fn open(self) -> Result<OpenTask, Error> {
        let mut body = json!({ "purpose": self.purpose, "scope": self.scope? });
        set(&mut body, "on_behalf_of", self.on_behalf_of);
        set(&mut body, "ttl", self.ttl.map(seconds));
        set(&mut body, "heartbeat", self.heartbeat.map(seconds));
        let task = self.broker.worker().open("/v1/tasks".to_owned(), body).await?;
        Ok(OpenTask::new(Task::new(self.broker, task)))
    }

    /// Opens it, works on it, and ends it: as completed on `Ok`, as failed on `Err`, as cancelled when the future is
    /// dropped. See [`OpenTask::run`].
    ///
    /// ```no_run
    /// # async fn example(broker: dayfly_client::Broker) -> Result<(), dayfly_client::Error> {
    /// use dayfly_client::Error;
    ///
    /// let task = broker.task("answer ticket 4711", ["crm:read,comment@customers/42"]);
    /// let name = task
    ///     .run(async |task| {
    ///         let crm = task.http("crm:read@customers/42")?;
    ///         let answer = crm.get("https://crm.example.org/customers/42").send().await?;
    ///         Ok::<_, Error>(answer.text().await?)
    ///     })
    ///     .await?;
    /// # let _ = name;
    /// # Ok(()) }
    /// ```
    pub async fn run<T, E, F>(self, work: F) -> Result<T, E>
    where
        F: AsyncFnOnce(Task) -> Result<T, E>,
        E: From<Error>,
    {
        self.open().await?.run(work).await
    }
}

/// A part of a task, to be opened for oneself, or [handed to](Self::hand_to) another agent. It ends with the task at the
/// latest.
#[must_use = "nothing is handed on before `run`, `open` or `hand_to`"]
pub struct SubTask {
    parent: Arc<State>,
    purpose: String,
    scope: Result<Vec<Access>, Error>,
    ttl: Option<Duration>,
    heartbeat: Option<Duration>,
}

impl SubTask {
    pub(crate) fn new(parent: Arc<State>, purpose: String, scope: Result<Vec<Access>, Error>) -> Self {
        Self {
            parent,
            purpose,
            scope,
            ttl: None,
            heartbeat: None,
        }
    }

    /// How long it may take at most, whole seconds.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// It ends when no sign of life comes for so long, whole seconds. For oneself 30 seconds otherwise; for another
    /// agent the broker's default, since that one begins when it does.
    pub fn heartbeat(mut self, heartbeat: Duration) -> Self {
        self.heartbeat = Some(heartbeat);
        self
    }

    async fn ask(self, agent: Option<String>) -> Result<(Arc<State>, wire::Task), Error> {
        let scope = self.scope?;
        access::within(&self.parent.told().scope, &scope)?;
        self.parent.ensure_open()?;
        let mut body = json!({ "purpose": self.purpose, "scope": scope });
        set(&mut body, "agent", agent);
        set(&mut body, "ttl", self.ttl.map(seconds));
        set(&mut body, "heartbeat", self.heartbeat.map(seconds));
        let path = format!("{}/tasks", self.parent.path());
        match self.parent.broker().worker().open(path, body).await {
            Ok(task) => Ok((self.parent, task)),
            Err(error) => Err(self.parent.judge(self.parent.api(), error).await),
        }
    }

    /// Opens it for oneself, to be ended by the value that is given back.
    pub async fn open(mut self) -> Result<OpenTask, Error> {
        self.heartbeat = self.heartbeat.or(Some(HEARTBEAT));
        let (parent, task) = self.ask(None).await?;
        Ok(OpenTask::new(Task::new(parent.broker().clone(), task)))
    }

    /// Opens it for oneself, works on it, and ends it. See [`OpenTask::run`].
    pub async fn run<T, E, F>(self, work: F) -> Result<T, E>
    where
        F: AsyncFnOnce(Task) -> Result<T, E>,
        E: From<Error>,
    {
        self.open().await?.run(work).await
    }

    /// Hands it to another agent, which takes it up by [`Broker::join`](crate::Broker::join).
    pub async fn hand_to(self, agent: impl Into<String>) -> Result<Handover, Error> {
        let (parent, task) = self.ask(Some(agent.into())).await?;
        Ok(Handover { parent, task })
    }
}

/// Work that was handed to another agent. It goes on when this value is dropped, and ends with the task above at the
/// latest.
pub struct Handover {
    parent: Arc<State>,
    task: wire::Task,
}

impl Handover {
    /// The sub-task, for the other agent to join. It is no secret: only that agent's evidence makes it work.
    pub fn task_id(&self) -> &str {
        &self.task.id
    }

    /// The agent that has it now.
    pub fn agent(&self) -> &str {
        &self.task.agent
    }

    /// The environment that tells a process which task to join: `DAYFLY_TASK` and `DAYFLY_BROKER`.
    pub fn env(&self) -> [(&'static str, String); 2] {
        [
            ("DAYFLY_TASK", self.task.id.clone()),
            ("DAYFLY_BROKER", self.parent.api().address().to_owned()),
        ]
    }

    /// Calls it off.
    pub async fn cancel(self) -> Result<wire::Conclusion, Error> {
        let path = wire::path(&self.task.id) + "/complete?wait=5s";
        let body = json!({ "outcome": "cancelled" });
        self.parent
            .api()
            .request(Method::POST, &path)
            .json(&body)
            .send()
            .await
    }
}

impl fmt::Debug for NewTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewTask")
            .field("purpose", &self.purpose)
            .field("scope", &self.scope)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for SubTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubTask")
            .field("parent", &self.parent.told().id)
            .field("purpose", &self.purpose)
            .field("scope", &self.scope)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Handover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handover")
            .field("task_id", &self.task.id)
            .field("agent", &self.task.agent)
            .finish_non_exhaustive()
    }
}
