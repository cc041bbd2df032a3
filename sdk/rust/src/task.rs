//! A task: the reason for every credential, and their end.

use std::fmt;
use std::ops::Deref;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::watch;

use crate::access::{self, Access};
use crate::api::{Api, segment};
use crate::broker::{Inner, set};
use crate::cache::{Cache, Slot};
use crate::credential::Credential;
use crate::error::{Error, Problem};
use crate::http::ToolClient;
use crate::opening::SubTask;
use crate::time::seconds;
use crate::wire::{self, Conclusion, Outcome};

/// How long the end of a task waits for the proofs that its credentials are dead, when nobody says so.
const WAIT_FOR_PROOFS: Duration = Duration::from_secs(5);

/// A task that was opened. A clone is the same one: hand it to whatever works on it.
///
/// It does not end when it is dropped; [`OpenTask`] does, or [`run`](crate::NewTask::run).
#[derive(Clone)]
pub struct Task(Arc<State>);

/// What all clones of a task share.
pub(crate) struct State {
    broker: Arc<Inner>,
    told: wire::Task,
    phase: watch::Sender<Phase>,
    cache: Cache,
    /// Counts the times that its heartbeats began, so that those of before stop.
    beating: AtomicU64,
}

/// Where the task is, as far as is known here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    Open,
    Suspended,
    Ended(Ended),
}

/// That a task is over, and how.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Ended {
    /// `ended`; `not-found` when the broker does not show the task any more.
    pub state: &'static str,
    /// How; `None` when nobody says.
    pub outcome: Option<Outcome>,
}

/// What it takes to go on with a suspended task, and no secret: who resumes it proves to be the same agent. As a text,
/// and for serde, it is `{"v":1,"broker":"https://…","task":"tsk_…"}`.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskHandle {
    v: Version,
    broker: String,
    task: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
struct Version;

impl From<Version> for u8 {
    fn from(_: Version) -> Self {
        1
    }
}

impl TryFrom<u8> for Version {
    type Error = &'static str;

    fn try_from(version: u8) -> Result<Self, Self::Error> {
        match version {
            1 => Ok(Self),
            _ => Err("the handle is of a newer version"),
        }
    }
}

impl TaskHandle {
    /// The task.
    pub fn task_id(&self) -> &str {
        &self.task
    }

    /// The address of the broker that it was opened at.
    pub fn broker(&self) -> &str {
        &self.broker
    }
}

impl fmt::Display for TaskHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

impl FromStr for TaskHandle {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        serde_json::from_str(text)
            .map_err(|error| Error::invalid(format!("this is no handle of a task: {error}")))
    }
}

impl Task {
    pub(crate) fn new(broker: Arc<Inner>, told: wire::Task) -> Self {
        let phase = phase(&told);
        let task = Self(Arc::new(State {
            broker,
            told,
            phase: watch::Sender::new(phase),
            cache: Cache::default(),
            beating: AtomicU64::new(0),
        }));
        task.0.begin_beating();
        task
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.0.told.id
    }

    /// The agent whose it is.
    pub fn agent(&self) -> &str {
        &self.0.told.agent
    }

    /// Why it exists.
    pub fn purpose(&self) -> &str {
        &self.0.told.purpose
    }

    /// What it may ask for at most.
    pub fn scope(&self) -> &[Access] {
        &self.0.told.scope
    }

    /// On whose behalf.
    pub fn on_behalf_of(&self) -> Option<&str> {
        self.0.told.on_behalf_of.as_deref()
    }

    /// The task that it is part of.
    pub fn parent(&self) -> Option<&str> {
        self.0.told.parent.as_deref()
    }

    /// When it ends at the latest, by the broker's clock.
    pub fn deadline(&self) -> SystemTime {
        self.0.told.deadline
    }

    /// A credential within the scope: the one of before while it is good, otherwise a new one. `.await` it.
    ///
    /// Callers that ask at once share one request. From about two thirds of its life on the next one is fetched beside
    /// the work.
    ///
    /// ```no_run
    /// # async fn example(task: dayfly_client::Task) -> Result<(), dayfly_client::Error> {
    /// let credential = task.credential("crm:read@customers/42").await?;
    /// println!("{credential:?}"); // no secret in it
    /// let token = credential.token()?.reveal();
    /// # let _ = token;
    /// # Ok(()) }
    /// ```
    pub fn credential<A>(&self, access: A) -> CredentialRequest
    where
        A: TryInto<Access>,
        Error: From<A::Error>,
    {
        CredentialRequest {
            task: self.0.clone(),
            access: access.try_into().map_err(Error::from),
            ttl: None,
            cached: true,
        }
    }

    /// A client for a tool that takes bearer tokens: each request gets the token of now, and only for the tool's own
    /// origins. [`Error::ScopeWidening`] when the task may not ask for the access.
    pub fn http<A>(&self, access: A) -> Result<ToolClient, Error>
    where
        A: TryInto<Access>,
        Error: From<A::Error>,
    {
        let access = access.try_into()?;
        access::within(self.scope(), [&access])?;
        ToolClient::new(self.clone(), access, self.0.broker.tools()?)
    }

    /// A part of the work, to be opened for oneself or handed to another agent: why, and what it may ask for at most,
    /// within what this task may.
    pub fn delegate<A>(&self, purpose: impl Into<String>, scope: impl IntoIterator<Item = A>) -> SubTask
    where
        A: TryInto<Access>,
        Error: From<A::Error>,
    {
        SubTask::new(self.0.clone(), purpose.into(), access::scope(scope))
    }

    /// Ends what is live and stops the heartbeats, until somebody [resumes](crate::Broker::resume) it. Whatever opened
    /// it leaves it alone from then on.
    pub async fn suspend(&self) -> Result<TaskHandle, Error> {
        self.0.cache.clear();
        let told: wire::Task = self.0.post("suspend").await?;
        self.0.enter(phase(&told));
        self.ensure_open().err().map_or(Ok(()), |error| match error {
            Error::TaskSuspended(_) => Ok(()),
            error => Err(error),
        })?;
        Ok(TaskHandle {
            v: Version,
            broker: self.0.api().address().to_owned(),
            task: self.id().to_owned(),
        })
    }

    /// Waits until the task is over, whoever ended it: for `select!`, so that work stops then. A missed end is found by
    /// the next heartbeat.
    pub async fn ended(&self) -> Ended {
        let mut phase = self.0.phase.subscribe();
        loop {
            if let Phase::Ended(ended) = &*phase.borrow_and_update() {
                return ended.clone();
            }
            // The sender lives as long as `self`, so waiting cannot fail.
            if phase.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Whether it is open, as far as is known here; otherwise [`Error::TaskEnded`] or [`Error::TaskSuspended`].
    pub fn ensure_open(&self) -> Result<(), Error> {
        self.0.ensure_open()
    }

    /// Ends it, and waits so long for the proofs.
    async fn end(&self, outcome: Outcome, wait: Duration) -> Result<Conclusion, Error> {
        self.0.stop_beating();
        self.0.cache.clear();
        let wait = match wait.is_zero() {
            true => String::new(),
            false => format!("?wait={}s", seconds(wait)),
        };
        let path = format!("{}/complete{wait}", self.0.path());
        let body = json!({ "outcome": outcome.as_str() });
        let ended = self.0.api().request(Method::POST, &path).json(&body).send().await;
        match ended {
            Ok(conclusion) => {
                self.0.enter(Phase::Ended(Ended::told(Some(outcome))));
                Ok(conclusion)
            }
            Err(error) => Err(self.0.judge(self.0.api(), error).await),
        }
    }
}

impl Ended {
    fn told(outcome: Option<Outcome>) -> Self {
        Self {
            state: "ended",
            outcome,
        }
    }
}

fn phase(told: &wire::Task) -> Phase {
    match told.state {
        wire::State::Open => Phase::Open,
        wire::State::Suspended => Phase::Suspended,
        wire::State::Ended => Phase::Ended(Ended::told(told.outcome)),
    }
}

impl State {
    pub(crate) fn api(&self) -> &Api {
        &self.broker.api
    }

    pub(crate) fn broker(&self) -> &Arc<Inner> {
        &self.broker
    }

    pub(crate) fn told(&self) -> &wire::Task {
        &self.told
    }

    /// Its path in the API.
    pub(crate) fn path(&self) -> String {
        wire::path(&self.told.id)
    }

    /// Whether it is open, as far as is known.
    pub(crate) fn ensure_open(&self) -> Result<(), Error> {
        let title = "the task is not open";
        match &*self.phase.borrow() {
            Phase::Open => Ok(()),
            Phase::Suspended => Err(Error::TaskSuspended(Problem::here(
                "task-suspended",
                title,
                "it is suspended: resume it",
            ))),
            Phase::Ended(ended) => {
                let how = ended.outcome.map_or("nobody knows how", Outcome::as_str);
                Err(Error::TaskEnded {
                    ended: ended.clone(),
                    problem: Problem::here(
                        "task-ended",
                        title,
                        format!("it has ended ({how}): open another"),
                    ),
                })
            }
        }
    }

    /// What is known of it changes. Nothing is kept of a task that is not open.
    pub(crate) fn enter(&self, phase: Phase) {
        if phase != Phase::Open {
            self.cache.clear();
        }
        self.phase.send_if_modified(|current| {
            // Never the other way round: the answer to an older question may come after that to a newer one. Who resumes a
            // task gets another value for it.
            let changes = matches!(
                (&*current, &phase),
                (Phase::Open, Phase::Suspended | Phase::Ended(_)) | (Phase::Suspended, Phase::Ended(_))
            );
            if changes {
                *current = phase;
            }
            changes
        });
    }

    /// The broker told how it is.
    pub(crate) fn heard(&self, told: &wire::Task) {
        self.enter(phase(told));
    }

    /// How often it has to show that it lives, if it has to.
    pub(crate) fn heartbeat(&self) -> Option<Duration> {
        self.told.heartbeat.map(Duration::from_secs)
    }

    fn begin_beating(self: &Arc<Self>) {
        let generation = self.beating.fetch_add(1, Ordering::AcqRel) + 1;
        if self.heartbeat().is_some() && self.ensure_open().is_ok() {
            self.broker.worker().beat(self, generation);
        }
    }

    pub(crate) fn stop_beating(&self) {
        self.beating.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether the heartbeats that began then go on.
    pub(crate) fn beats(&self, generation: u64) -> bool {
        self.beating.load(Ordering::Acquire) == generation && self.ensure_open().is_ok()
    }

    pub(crate) fn order_renewal(self: &Arc<Self>, slot: &Arc<Slot>) {
        if slot.may_order_renewal() {
            self.broker.worker().renew(self, slot);
        }
    }

    /// Issues a credential.
    pub(crate) async fn issue(
        &self,
        api: &Api,
        access: &Access,
        ttl: Option<Duration>,
        key: &str,
    ) -> Result<Credential, Error> {
        let body = serde_json::to_value(access);
        let mut body = body.map_err(|error| Error::invalid(error.to_string()))?;
        set(&mut body, "ttl", ttl.map(seconds));
        let path = format!("{}/credentials", self.path());
        let issued = api.request(Method::POST, &path).json(&body).key(key).send().await;
        match issued {
            Ok(issued) => Credential::issued(access, issued, None),
            Err(error) => Err(self.judge(api, error).await),
        }
    }

    /// Ends a credential in the background. It ends with the task in any case.
    pub(crate) fn hand_back(&self, credential: &Credential, reason: &str) {
        self.broker.worker().hand_back(credential.lease_id(), reason);
    }

    /// Lets a credential live on.
    pub(crate) async fn renew(&self, api: &Api, before: &Credential) -> Result<Credential, Error> {
        let path = format!("/v1/leases/{}/renew", segment(before.lease_id()));
        let issued = api.request(Method::POST, &path).json(&json!({})).send().await?;
        Credential::issued(before.access(), issued, Some(before))
    }

    /// A step of its life that says nothing more.
    async fn post(&self, deed: &str) -> Result<wire::Task, Error> {
        let path = format!("{}/{deed}", self.path());
        let answer = self
            .api()
            .request(Method::POST, &path)
            .json(&json!({}))
            .send()
            .await;
        match answer {
            Ok(task) => Ok(task),
            Err(error) => Err(self.judge(self.api(), error).await),
        }
    }

    /// What an error says about the task itself: whether it is over, or suspended.
    pub(crate) async fn judge(&self, api: &Api, error: Error) -> Error {
        if !matches!(error, Error::NotFound(_)) && error.slug() != "task-not-open" {
            return error;
        }
        let told = api.request(Method::GET, &self.path()).send::<wire::Task>().await;
        match told {
            Ok(told) => self.enter(phase(&told)),
            Err(Error::NotFound(_)) => self.enter(Phase::Ended(Ended {
                state: "not-found",
                outcome: None,
            })),
            Err(_) => return error,
        }
        let problem = error.problem().cloned().map(Box::new).unwrap_or_default();
        match &*self.phase.borrow() {
            Phase::Ended(ended) => Error::TaskEnded {
                ended: ended.clone(),
                problem,
            },
            Phase::Suspended => Error::TaskSuspended(problem),
            // It is open and gets nothing: one above it is suspended.
            Phase::Open if error.slug() == "task-not-open" => Error::TaskSuspended(problem),
            Phase::Open => error,
        }
    }
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task")
            .field("id", &self.id())
            .field("agent", &self.agent())
            .field("purpose", &self.purpose())
            .field("phase", &*self.0.phase.borrow())
            .finish_non_exhaustive()
    }
}

/// A question for a credential: `.await` it.
#[must_use = "nothing is asked before it is awaited"]
pub struct CredentialRequest {
    task: Arc<State>,
    access: Result<Access, Error>,
    ttl: Option<Duration>,
    cached: bool,
}

impl CredentialRequest {
    /// How long it should live, whole seconds, when a new one is issued; the tool's default otherwise. The broker may
    /// grant less.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// A new one for this caller alone, which is not kept for the next.
    pub fn uncached(mut self) -> Self {
        self.cached = false;
        self
    }

    async fn get(self) -> Result<Credential, Error> {
        let access = self.access?;
        access::within(&self.task.told.scope, [&access])?;
        self.task.ensure_open()?;
        if self.cached {
            let slot = self.task.cache.slot(&access);
            return slot.get(&self.task, self.ttl).await;
        }
        let key = crate::ambient::idempotency_key()?;
        self.task.issue(self.task.api(), &access, self.ttl, &key).await
    }
}

impl IntoFuture for CredentialRequest {
    type Output = Result<Credential, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.get())
    }
}

impl fmt::Debug for CredentialRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CredentialRequest")
            .field("access", &self.access)
            .finish_non_exhaustive()
    }
}

impl Task {
    /// Another credential than this one, which a tool refused.
    pub(crate) async fn another(&self, refused: &Credential) -> Result<Credential, Error> {
        self.ensure_open()?;
        self.0
            .cache
            .slot(refused.access())
            .another(&self.0, refused)
            .await
    }

    /// Ends a credential that is not to be sent where it was wanted.
    pub(crate) fn discard(&self, credential: &Credential) {
        self.0.cache.slot(credential.access()).forget(credential);
        self.0.hand_back(credential, "its tool is elsewhere now");
    }
}

/// A task that ends with this value. Dropped, it is cancelled in the background (as failed when the thread panics);
/// should that not reach the broker, the missing heartbeats end it.
#[must_use = "dropped, it ends"]
pub struct OpenTask {
    task: Task,
    /// What is said when it is dropped; nothing once that has been said.
    farewell: Option<Outcome>,
    wait_for_proofs: Duration,
}

impl OpenTask {
    pub(crate) fn new(task: Task) -> Self {
        Self {
            task,
            farewell: Some(Outcome::Cancelled),
            wait_for_proofs: WAIT_FOR_PROOFS,
        }
    }

    /// How long its end waits for the proofs that its credentials are dead: whole seconds, at most 30, and five
    /// when nobody says so. With zero the end is told, and what became of the credentials is not waited for.
    pub fn wait_for_proofs(mut self, wait: Duration) -> Self {
        self.wait_for_proofs = wait;
        self
    }

    /// Works on the task and ends it: as completed on `Ok`, as failed on `Err`, as cancelled when the future is
    /// dropped. The end waits for the [proofs](Self::wait_for_proofs). The error of the work is never hidden by one of the
    /// end; work that went well and whose end did not is an error, since its credentials may be live still.
    pub async fn run<T, E, F>(self, work: F) -> Result<T, E>
    where
        F: AsyncFnOnce(Task) -> Result<T, E>,
        E: From<Error>,
    {
        let done = work(self.task.clone()).await;
        if matches!(*self.task.0.phase.borrow(), Phase::Suspended) {
            // Somebody goes on with it later.
            return done;
        }
        match done {
            Ok(value) => {
                self.complete().await?;
                Ok(value)
            }
            Err(error) => {
                // The heartbeats, or the deadline, end what this could not.
                let _ = self.fail().await;
                Err(error)
            }
        }
    }

    /// The work is done. Says what became of the credentials within the [wait](Self::wait_for_proofs).
    pub async fn complete(self) -> Result<Conclusion, Error> {
        self.end(Outcome::Completed).await
    }

    /// The work failed.
    pub async fn fail(self) -> Result<Conclusion, Error> {
        self.end(Outcome::Failed).await
    }

    /// The work is called off.
    pub async fn cancel(self) -> Result<Conclusion, Error> {
        self.end(Outcome::Cancelled).await
    }

    /// Ends what is live, until somebody [resumes](crate::Broker::resume) the task.
    pub async fn suspend(self) -> Result<TaskHandle, Error> {
        self.task.suspend().await
    }

    async fn end(mut self, outcome: Outcome) -> Result<Conclusion, Error> {
        // Dropped on the way, or unheard, it is said once more in the background.
        self.farewell = Some(outcome);
        let ended = self.task.end(outcome, self.wait_for_proofs).await;
        if !ended.as_ref().is_err_and(Error::retryable) {
            self.farewell = None;
        }
        ended
    }
}

impl Deref for OpenTask {
    type Target = Task;

    fn deref(&self) -> &Task {
        &self.task
    }
}

impl Drop for OpenTask {
    fn drop(&mut self) {
        let Some(outcome) = self.farewell.take() else {
            return;
        };
        let state = &self.task.0;
        if !matches!(*state.phase.borrow(), Phase::Open) {
            return;
        }
        let outcome = match (outcome, std::thread::panicking()) {
            (Outcome::Cancelled, true) => Outcome::Failed,
            (outcome, _) => outcome,
        };
        state.stop_beating();
        state.enter(Phase::Ended(Ended::told(Some(outcome))));
        state.broker.worker().farewell(state.path(), outcome);
    }
}

impl fmt::Debug for OpenTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OpenTask").field(&self.task).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_is_a_small_text_without_secrets() {
        let text = r#"{"v":1,"broker":"https://dayfly.example.org","task":"tsk_1"}"#;
        let handle: TaskHandle = text.parse().unwrap();
        assert_eq!(handle.task_id(), "tsk_1");
        assert_eq!(handle.broker(), "https://dayfly.example.org");
        assert_eq!(handle.to_string(), text);
        for bad in [
            "",
            "{}",
            r#"{"v":2,"broker":"b","task":"t"}"#,
            r#"{"v":1,"broker":"b","task":"t","token":"x"}"#,
        ] {
            assert!(bad.parse::<TaskHandle>().is_err(), "{bad}");
        }
    }
}
