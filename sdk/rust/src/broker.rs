//! A broker, and whom one is to it.

use std::fmt;
use std::future::IntoFuture;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use reqwest::{Method, Url};
use serde_json::{Value, json};

use crate::access::{self, Access};
use crate::ambient;
use crate::api::Api;
use crate::error::Error;
use crate::evidence::{Evidence, Surroundings, discover};
use crate::opening::NewTask;
use crate::secret::Secret;
use crate::task::{OpenTask, Task, TaskHandle};
use crate::time::seconds;
use crate::transport::{self, Tools};
use crate::wire::{self, Verdict};
use crate::worker::Worker;

/// Where the broker is when nobody says so.
const ADDRESS: &str = "http://127.0.0.1:8440";
/// How long a request may take when nobody says so.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A broker, as this workload. A clone is the same one: make one and keep it.
///
/// ```no_run
/// use dayfly_client::{Broker, Evidence};
///
/// let broker = Broker::from_env()?; // DAYFLY_BROKER, and the evidence that is found
/// let other = Broker::builder()
///     .address("https://dayfly.example.org")
///     .evidence(Evidence::file("/run/evidence.jwt"))
///     .build()?;
/// # Ok::<_, dayfly_client::Error>(())
/// ```
#[derive(Clone)]
pub struct Broker(Arc<Inner>);

/// What all clones of a broker and all of its tasks share.
pub(crate) struct Inner {
    pub(crate) api: Api,
    worker: OnceLock<Worker>,
    /// The clients for tools, made when the first is called.
    tools: OnceLock<Tools>,
}

/// Makes a [`Broker`].
#[derive(Clone, Debug, Default)]
pub struct Builder {
    address: Option<String>,
    evidence: Option<Evidence>,
    timeout: Option<Duration>,
    allow_plain_http: bool,
    no_proxy: bool,
    ca_file: Option<PathBuf>,
}

impl Builder {
    /// The broker's address; otherwise `DAYFLY_BROKER`, otherwise `http://127.0.0.1:8440`.
    #[must_use]
    pub fn address(mut self, address: impl Into<String>) -> Self {
        self.address = Some(address.into());
        self
    }

    /// What proves this workload; otherwise what [is found](Evidence).
    #[must_use]
    pub fn evidence(mut self, evidence: Evidence) -> Self {
        self.evidence = Some(evidence);
        self
    }

    /// How long one request may take; 30 seconds otherwise.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sends evidence over plain HTTP to other machines too: whoever listens on the way can be this workload until
    /// the evidence expires.
    #[must_use]
    pub fn allow_plain_http(mut self) -> Self {
        self.allow_plain_http = true;
        self
    }

    /// Goes to the broker directly, whatever proxy the environment names.
    #[must_use]
    pub fn no_proxy(mut self) -> Self {
        self.no_proxy = true;
        self
    }

    /// The PEM file with the only certificate authorities that may vouch for the broker; otherwise `DAYFLY_CA_FILE`,
    /// otherwise those that the system trusts. For an `https` address.
    #[must_use]
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca_file = Some(path.into());
        self
    }

    /// Makes it. Nothing is sent. Fails with [`Error::InvalidRequest`] for an address that evidence must not be sent
    /// to, and with [`Error::AttestationFailed`] when there is no evidence.
    pub fn build(self) -> Result<Broker, Error> {
        let address = self.address.or_else(|| ambient::variable("DAYFLY_BROKER"));
        let address = address.unwrap_or_else(|| ADDRESS.to_owned());
        let address = address.trim_end_matches('/');
        let wrong = || {
            // Who writes a password there does not want to read it here.
            let shown = address.rsplit('@').next().unwrap_or_default();
            Error::invalid(format!(
                "`{shown}` is no address of a broker: write `https://…`, without a user"
            ))
        };
        let url: Url = address.parse().map_err(|_| wrong())?;
        let bare = url.query().is_none() && url.fragment().is_none();
        let nobody = url.username().is_empty() && url.password().is_none();
        if !["http", "https"].contains(&url.scheme()) || !bare || !nobody {
            return Err(wrong());
        }
        let evidence = match self.evidence {
            Some(evidence) => evidence,
            None => discover(&Surroundings {
                variable: Surroundings::PROCESS,
                address,
                broker: &url,
            })?,
        };
        let plain = url.scheme() == "http" && !transport::is_loopback(&url);
        if plain && !self.allow_plain_http && !evidence.is_none() {
            return Err(Error::invalid(format!(
                "evidence is not sent over plain HTTP: write `https` for {address}, or allow it"
            )));
        }
        let api = Api::new(
            address,
            url,
            evidence,
            self.timeout.unwrap_or(TIMEOUT),
            !self.no_proxy,
            self.ca_file.or_else(transport::ca_file),
        )?;
        Ok(Broker(Arc::new(Inner {
            api,
            worker: OnceLock::new(),
            tools: OnceLock::new(),
        })))
    }
}

impl Broker {
    /// The broker at `DAYFLY_BROKER`, or on this machine, as the workload that the evidence which
    /// [is found](Evidence) proves.
    pub fn from_env() -> Result<Self, Error> {
        Self::builder().build()
    }

    /// For a broker that is elsewhere, or other evidence.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The broker's address as it was given, without a trailing slash.
    pub fn address(&self) -> &str {
        self.0.api.address()
    }

    /// The HTTP API itself, for what has no name of its own here.
    pub fn api(&self) -> &Api {
        &self.0.api
    }

    /// A task to be opened: why, and what it may ask for at most. It gives nothing by itself.
    pub fn task<A>(&self, purpose: impl Into<String>, scope: impl IntoIterator<Item = A>) -> NewTask
    where
        A: TryInto<Access>,
        Error: From<A::Error>,
    {
        NewTask::new(self.0.clone(), purpose.into(), access::scope(scope))
    }

    /// Takes up a task that was suspended, here or in another process of the same agent. [`Error::InvalidRequest`] for
    /// a handle of a broker at another address. Dropped on the way, it leaves the task suspended.
    pub async fn resume(&self, handle: &TaskHandle) -> Result<OpenTask, Error> {
        if handle.broker() != self.address() {
            let (there, here) = (handle.broker(), self.address());
            let detail = format!("the task is at `{there}`, and this broker is `{here}`");
            return Err(Error::invalid(detail));
        }
        let task = self.0.worker().resume(handle.task_id()).await?;
        Ok(OpenTask::new(Task::new(self.0.clone(), task)))
    }

    /// Takes up a task of one's own by its id: one that another agent handed on.
    pub async fn join(&self, task_id: &str) -> Result<OpenTask, Error> {
        let path = wire::path(task_id);
        let task: wire::Task = self.0.api.request(Method::GET, &path).send().await?;
        let task = Task::new(self.0.clone(), task);
        task.ensure_open()?;
        Ok(OpenTask::new(task))
    }

    /// The task that `DAYFLY_TASK` names, as whoever handed it on sets it.
    pub async fn join_from_env(&self) -> Result<OpenTask, Error> {
        match ambient::variable("DAYFLY_TASK") {
            Some(task) => self.join(&task).await,
            None => Err(Error::invalid("DAYFLY_TASK names no task to join")),
        }
    }

    /// Asks what would be permitted, in the order of the accesses. Issues nothing.
    ///
    /// ```no_run
    /// # async fn example(broker: dayfly_client::Broker) -> Result<(), dayfly_client::Error> {
    /// let verdicts = broker.decide("answer ticket 4711", ["crm:read@customers/42"]).await?;
    /// assert!(verdicts.iter().all(|verdict| verdict.permitted));
    /// # Ok(()) }
    /// ```
    pub fn decide<A>(&self, purpose: impl Into<String>, accesses: impl IntoIterator<Item = A>) -> Decide
    where
        A: TryInto<Access>,
        Error: From<A::Error>,
    {
        Decide {
            broker: self.0.clone(),
            purpose: purpose.into(),
            accesses: access::scope(accesses),
            on_behalf_of: None,
            ttl: None,
        }
    }

    /// Ends a token before its expiry, one's own or, by permit, another's (RFC 7009). That it was over already is no
    /// error.
    pub async fn revoke_token(&self, token: &Secret) -> Result<(), Error> {
        self.0
            .api
            .form("/oauth2/revoke", &[("token", token.reveal())])
            .await?;
        Ok(())
    }

    /// Waits until the ends of tasks that were dropped, and of credentials that were refused, have been told to the
    /// broker, or could not be. For the end of
    /// a program; the last clone that goes away waits for a second by itself.
    pub async fn drain(&self) {
        if let Some(worker) = self.0.worker.get() {
            worker.drained().await;
        }
    }
}

impl Inner {
    /// The worker that beats, renews and says farewell for all tasks.
    pub(crate) fn worker(&self) -> &Worker {
        self.worker.get_or_init(|| Worker::start(&self.api))
    }

    /// The clients that tools are called with.
    pub(crate) fn tools(&self) -> Result<Tools, Error> {
        if let Some(clients) = self.tools.get() {
            return Ok(clients.clone());
        }
        let clients = Tools::new()?;
        Ok(self.tools.get_or_init(|| clients).clone())
    }
}

/// A question about what would be permitted: `.await` it.
#[must_use = "nothing is asked before it is awaited"]
pub struct Decide {
    broker: Arc<Inner>,
    purpose: String,
    accesses: Result<Vec<Access>, Error>,
    on_behalf_of: Option<String>,
    ttl: Option<Duration>,
}

impl Decide {
    /// On whose behalf: the stable id of a person or a service.
    pub fn on_behalf_of(mut self, user: impl Into<String>) -> Self {
        self.on_behalf_of = Some(user.into());
        self
    }

    /// For credentials that live for so long; whole seconds.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    async fn ask(self) -> Result<Vec<Verdict>, Error> {
        let mut body = json!({ "purpose": self.purpose, "scope": self.accesses? });
        set(&mut body, "on_behalf_of", self.on_behalf_of);
        set(&mut body, "ttl", self.ttl.map(seconds));
        let call = self.broker.api.request(Method::POST, "/v1/decisions").json(&body);
        Ok(call.send::<wire::Verdicts>().await?.verdicts)
    }
}

impl IntoFuture for Decide {
    type Output = Result<Vec<Verdict>, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.ask())
    }
}

/// Sets a member where there is something to say.
pub(crate) fn set(body: &mut Value, name: &str, value: Option<impl Into<Value>>) {
    if let (Value::Object(members), Some(value)) = (body, value) {
        members.insert(name.to_owned(), value.into());
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Broker").field(&self.0.api).finish()
    }
}

impl fmt::Debug for Decide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decide")
            .field("purpose", &self.purpose)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(address: &str) -> Builder {
        Broker::builder()
            .address(address)
            .evidence(Evidence::text("hunter2"))
    }

    #[test]
    fn evidence_goes_over_plain_http_to_this_machine_only() {
        assert_eq!(
            at("http://127.0.0.1:8440/").build().unwrap().address(),
            "http://127.0.0.1:8440"
        );
        let refused = at("http://dayfly.example.org").build().unwrap_err();
        assert!(matches!(refused, Error::InvalidRequest(_)));
        assert!(at("http://dayfly.example.org").allow_plain_http().build().is_ok());
        assert!(
            at("http://dayfly.example.org")
                .evidence(Evidence::none())
                .build()
                .is_ok()
        );
    }

    #[test]
    fn an_address_is_a_url_of_a_broker() {
        for bad in [
            "",
            "dayfly.example.org",
            "ftp://127.0.0.1",
            "http://127.0.0.1?a=b",
            "http://127.0.0.1#a",
            "http://user:hunter2@127.0.0.1",
            "https://user@dayfly.example.org",
            "https://:hunter2@dayfly.example.org",
        ] {
            let refused = at(bad).build();
            let Err(Error::InvalidRequest(problem)) = refused else {
                panic!("{bad}: {refused:?}");
            };
            assert!(!problem.detail.contains("hunter2"), "{problem:?}");
        }
    }

    #[test]
    fn shows_no_evidence() {
        let shown = format!(
            "{:?} {:?}",
            at("http://127.0.0.1:1").build().unwrap(),
            at("http://127.0.0.1:1")
        );
        assert!(
            !shown.contains("hunter2") && shown.contains("127.0.0.1"),
            "{shown}"
        );
    }
}
