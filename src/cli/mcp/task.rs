//! The one task of a bridge, and the tool that its tokens are for. Opening it, keeping it alive and having a good
//! token at each request is the client crate's business.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use dayfly_client::{Access, Broker, Credential, Error, OpenTask, Outcome, Secret, Task, ToolClient};
use futures_util::FutureExt as _;
use reqwest::{Request, Response};
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::fault::{Fault, Kind};

/// How long the end of the task may take to be told: nobody waits for proofs. What does not get there in time is told once more while the
/// process ends, and otherwise the missing heartbeats say it.
const FAREWELL: Duration = Duration::from_secs(2);
/// How many tokens are known again in what the server sends.
const REMEMBERED: usize = 4;

/// The task as it is held now.
struct Held {
    task: Task,
    /// Ends it; taken when it does.
    owner: Option<OpenTask>,
}

impl Held {
    fn new(owner: OpenTask) -> Self {
        Self {
            task: Task::clone(&owner),
            owner: Some(owner),
        }
    }
}

/// An open task and its tool, until it ends.
pub(super) struct Tool {
    broker: Broker,
    /// With this access alone.
    access: Access,
    /// Where the server is.
    origin: String,
    http: reqwest::Client,
    held: Mutex<Held>,
    /// Held by whoever looks whether it was resumed: one looks for all.
    taking_up: tokio::sync::Mutex<()>,
    /// Somebody resumed it elsewhere, and it was taken up again.
    resumed: Notify,
    seen: Mutex<VecDeque<Secret>>,
    ended: CancellationToken,
    outcome: OnceLock<Option<Outcome>>,
}

impl Tool {
    /// For requests to this origin, which go out by this client.
    pub(super) fn new(
        broker: Broker,
        task: OpenTask,
        access: Access,
        origin: String,
        http: reqwest::Client,
    ) -> Self {
        Self {
            broker,
            access,
            origin,
            http,
            held: Mutex::new(Held::new(task)),
            taking_up: tokio::sync::Mutex::default(),
            resumed: Notify::new(),
            seen: Mutex::default(),
            ended: CancellationToken::new(),
            outcome: OnceLock::new(),
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn task(&self) -> Task {
        self.held().task.clone()
    }

    /// Waits for the end of the task, whoever ends it, and makes it known.
    pub(super) async fn watch(&self) {
        loop {
            let task = self.task();
            tokio::select! {
                ended = task.ended() => {
                    let _ = self.outcome.set(ended.outcome);
                    return self.ended.cancel();
                }
                () = self.resumed.notified() => {}
            }
        }
    }

    /// Ready once the task is known to be over.
    pub(super) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// What there is to say of its end, if it is over.
    pub(super) fn over(&self) -> Option<Fault> {
        let outcome = self.outcome.get().copied().flatten();
        self.ended.is_cancelled().then(|| Fault::task_ended(outcome))
    }

    /// A token that is good now, and may be sent to the server.
    pub(super) async fn credential(&self) -> Result<Credential, Fault> {
        let credential = match self.task().credential(&self.access).await {
            Err(Error::TaskSuspended(_)) => self.take_up().await?.credential(&self.access).await,
            asked => asked,
        };
        let credential = credential.map_err(|error| Fault::of(&error))?;
        self.allows(&credential)?;
        self.remember(&credential)?;
        Ok(credential)
    }

    /// Sends a request with a token of now, and once more with another where the server refuses that.
    pub(super) async fn execute(&self, request: Request) -> Result<Response, Fault> {
        // The reason why there is none is told better here.
        self.credential().await?;
        let task = self.task();
        let tool: ToolClient = task.http(&self.access).map_err(|error| Fault::of(&error))?;
        let response = tool.client(self.http.clone()).execute(request).await;
        // The one of now may be another by now. It is at hand, or else it did not go out.
        if let Some(Ok(credential)) = task.credential(&self.access).into_future().now_or_never() {
            self.remember(&credential)?;
        }
        response.map_err(|error| Fault::of(&error))
    }

    /// Ends it, as completed or as failed, suspended or not. What is live ends with it.
    pub(super) async fn end(&self, completed: bool) -> Result<(), Fault> {
        let owner = self.held().owner.take();
        let over = |task: &OpenTask| matches!(task.ensure_open(), Err(Error::TaskEnded { .. }));
        let Some(owner) = owner.filter(|task| !over(task)) else {
            return Ok(());
        };
        let owner = owner.wait_for_proofs(Duration::ZERO);
        let ending = async {
            match completed {
                true => owner.complete().await,
                false => owner.fail().await,
            }
        };
        match timeout(FAREWELL, ending).await {
            Ok(ended) => ended.map(drop).map_err(|error| Fault::of(&error)),
            Err(_) => Err(Fault::new(Kind::Unavailable, "the broker takes too long")),
        }
    }

    /// The text without the tokens of this bridge: a server that sends back what it got does not show them to
    /// the client, whose model might read it.
    pub(super) fn blot(&self, mut text: String) -> String {
        for secret in self.seen.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            if text.contains(secret.reveal()) {
                text = text.replace(secret.reveal(), "[redacted]");
            }
        }
        text
    }

    /// The task again, if somebody resumed it since it was suspended.
    async fn take_up(&self) -> Result<Task, Fault> {
        let _turn = self.taking_up.lock().await;
        let known = self.task();
        // Whoever looked before us has it. To put another in its place would end it.
        if known.ensure_open().is_ok() {
            return Ok(known);
        }
        let joined = self.broker.join(known.id()).await;
        let joined = Held::new(joined.map_err(|error| Fault::of(&error))?);
        let task = joined.task.clone();
        *self.held() = joined;
        self.resumed.notify_one();
        Ok(task)
    }

    fn remember(&self, credential: &Credential) -> Result<(), Fault> {
        let token = credential.token().map_err(|error| {
            let reason = format!("an MCP server takes a token: {}", error.detail());
            Fault::new(Kind::OriginRefused, reason)
        })?;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.front() != Some(token) {
            seen.push_front(token.clone());
            seen.truncate(REMEMBERED);
        }
        Ok(())
    }

    /// Whether the catalogue lets tokens of the tool be sent to the server.
    fn allows(&self, credential: &Credential) -> Result<(), Fault> {
        let origins = credential.origins();
        if origins.contains(&self.origin) {
            return Ok(());
        }
        let has = match origins {
            [] => "it has none".to_owned(),
            origins => format!("it has {}", origins.join(", ")),
        };
        let wanted: Vec<&String> = origins.iter().chain([&self.origin]).collect();
        let reason = format!(
            "{origin} is no origin of the tool `{tool}` ({has}), so its tokens are not sent there; if they should be, \
             write `origins = {wanted:?}` into the file of `{tool}` in the catalogue",
            origin = self.origin,
            tool = self.access.tool(),
        );
        Err(Fault::new(Kind::OriginRefused, reason))
    }
}
