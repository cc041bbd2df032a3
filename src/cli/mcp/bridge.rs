//! The bridge: takes the client's messages to the server, and brings back what it says. Each request is answered
//! exactly once, by the server or by the bridge, until the bridge stops.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::Response;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::events::Events;
use super::fault::{Fault, Kind};
use super::message::{self, Id, LARGEST, Message, Shape, Stated};
use super::stdio::{Line, Notes};
use super::task::Tool;
use super::upstream::{self, Answer, Failed, Upstream};

/// How many requests may be under way.
const UNDER_WAY: usize = 64;
/// How long the server may take to accept what it need not answer.
const ACCEPTANCE: Duration = Duration::from_secs(30);
/// The pause before a stream that broke is resumed, where the server does not say.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest pause between two attempts to listen.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How often a stream that an answer is to come on is resumed in vain.
const ATTEMPTS: u32 = 5;

/// A request that the server has not answered yet.
struct Open {
    /// Called off by the client.
    cancelled: CancellationToken,
    stateless: bool,
}

/// Between one client and one server.
pub(super) struct Bridge {
    tool: Arc<Tool>,
    upstream: Upstream,
    out: mpsc::Sender<String>,
    open: Mutex<HashMap<Id, Open>>,
    /// The server ended the session.
    gone: CancellationToken,
    /// Ends what listens to the session.
    listening: Mutex<CancellationToken>,
    /// The client left, or is to be left.
    stop: CancellationToken,
    requests: TaskTracker,
    listeners: TaskTracker,
    notes: Notes,
}

/// Whether a stream goes on.
enum Heard {
    Answer,
    Else,
}

impl Bridge {
    pub(super) fn new(tool: Arc<Tool>, upstream: Upstream, out: mpsc::Sender<String>, notes: Notes) -> Self {
        Self {
            tool,
            upstream,
            out,
            open: Mutex::default(),
            gone: CancellationToken::new(),
            listening: Mutex::default(),
            stop: CancellationToken::new(),
            requests: TaskTracker::new(),
            listeners: TaskTracker::new(),
            notes,
        }
    }

    /// Ready when the session is over for the server.
    pub(super) async fn gone(&self) {
        self.gone.cancelled().await;
    }

    /// Ready when nobody reads what the bridge says.
    pub(super) async fn unheard(&self) {
        self.out.closed().await;
    }

    /// Ends the session with the server.
    pub(super) async fn leave(&self) {
        if self.gone.is_cancelled() || self.tool.over().is_some() {
            return;
        }
        if let Err(fault) = self.upstream.leave().await {
            self.note(&fault.reason);
        }
    }

    /// Waits so long for answers to what is under way.
    pub(super) async fn settle(&self, grace: Duration) {
        self.requests.close();
        let _ = timeout(grace, self.requests.wait()).await;
    }

    /// Ends everything that is still under way.
    pub(super) async fn stop(&self) {
        self.stop.cancel();
        self.requests.close();
        self.listeners.close();
        self.requests.wait().await;
        self.listeners.wait().await;
    }

    /// Takes what came on one line. Requests go on by themselves; everything else goes in its turn.
    pub(super) async fn take(self: &Arc<Self>, line: Line) {
        let messages = match line {
            Line::Whole(text) => message::read(&text),
            Line::TooLarge(id) => {
                let fault = Fault::new(Kind::Invalid, "a message may have 4 MiB at the most");
                return self.say(fault.answer(id.as_ref())).await;
            }
        };
        match messages {
            Ok(messages) => {
                for message in messages {
                    self.pass(message).await;
                }
            }
            Err(fault) => self.say(fault.answer(None)).await,
        }
    }

    async fn pass(self: &Arc<Self>, message: Message) {
        let Shape::Request { id, .. } = &message.shape else {
            return self.tell(&message).await;
        };
        let id = id.clone();
        let begun = message.stated().and_then(|stated| {
            let cancelled = self.begin(&id, stated.is_some())?;
            Ok((stated, cancelled))
        });
        match begun {
            Ok((stated, cancelled)) => {
                let this = Arc::clone(self);
                self.requests
                    .spawn(async move { this.ask(&id, &message, stated.as_ref(), cancelled).await });
            }
            Err(fault) => self.say(fault.answer(Some(&id))).await,
        }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<Id, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, id: &Id, stateless: bool) -> Result<CancellationToken, Fault> {
        let mut open = self.open();
        if open.len() >= UNDER_WAY {
            let reason = format!("{UNDER_WAY} requests are under way: wait for an answer");
            return Err(Fault::new(Kind::Busy, reason));
        }
        let Entry::Vacant(place) = open.entry(id.clone()) else {
            return Err(Fault::new(Kind::Invalid, "a request with this id is under way"));
        };
        let cancelled = CancellationToken::new();
        place.insert(Open {
            cancelled: cancelled.clone(),
            stateless,
        });
        Ok(cancelled)
    }

    /// Sees one request through.
    async fn ask(&self, id: &Id, message: &Message, stated: Option<&Stated>, cancelled: CancellationToken) {
        let answered = tokio::select! {
            biased;
            // Nobody waits for the answer any more.
            () = cancelled.cancelled() => Ok(()),
            () = self.stop.cancelled() => Ok(()),
            () = self.tool.ended() => Err(self.tool.over().unwrap_or_else(|| Fault::task_ended(None))),
            () = self.gone.cancelled() => Err(session_gone()),
            answered = self.exchange(id, message, stated) => answered,
        };
        if let Err(fault) = answered {
            self.say(fault.answer(Some(id))).await;
        }
        self.open().remove(id);
    }

    /// Sends a request and passes on what comes for it, its answer last.
    async fn exchange(&self, id: &Id, message: &Message, stated: Option<&Stated>) -> Result<(), Fault> {
        match self.upstream.post(message, stated).await {
            Ok(Answer::Json(body)) => match self.hear(&body, Some((id, message))).await? {
                Heard::Answer => Ok(()),
                Heard::Else => Err(unanswered("something else than an answer")),
            },
            Ok(Answer::Stream(response)) => {
                let resumable = stated.is_none();
                self.follow(response, id, message, resumable).await
            }
            Ok(Answer::Accepted) => Err(unanswered("nothing")),
            Err(Failed::SessionGone) => Err(self.session_gone()),
            Err(Failed::Otherwise(fault)) => Err(fault),
            Err(Failed::Told(body, fault)) => {
                let error = message::error_in(&body).ok_or(fault)?;
                self.say(message::answer(id, &error)).await;
                Ok(())
            }
        }
    }

    /// Reads the stream that the answer comes on, over as many connections as it takes.
    async fn follow(
        &self,
        mut response: Response,
        id: &Id,
        message: &Message,
        resumable: bool,
    ) -> Result<(), Fault> {
        let mut events = Events::new(LARGEST);
        let mut attempts = 0;
        loop {
            let broke = loop {
                match response.chunk().await {
                    Ok(Some(bytes)) => {
                        for data in events.feed(&bytes).map_err(|_| too_large())? {
                            attempts = 0;
                            match self.hear(&data, Some((id, message))).await {
                                Ok(Heard::Answer) => return Ok(()),
                                Ok(Heard::Else) => {}
                                Err(fault) => self.note(&fault.reason),
                            }
                        }
                    }
                    Ok(None) => break unanswered("a stream that ended before the answer"),
                    Err(error) => break upstream::broken(&error),
                }
            };
            response = loop {
                let Some(last) = events.last_id().filter(|_| resumable && attempts < ATTEMPTS) else {
                    return Err(broke);
                };
                sleep(events.retry().unwrap_or(PAUSE * attempts.max(1))).await;
                attempts += 1;
                match self.upstream.listen(Some(last)).await {
                    Ok(Some(response)) => break response,
                    Ok(None) => return Err(broke),
                    Err(Failed::SessionGone) => return Err(self.session_gone()),
                    Err(Failed::Told(_, fault) | Failed::Otherwise(fault)) if fault.is_final() => {
                        return Err(fault);
                    }
                    Err(_) => {}
                }
            };
            events.reconnected();
        }
    }

    /// Passes on what the server sent. Answers to anything but the request that it came for are dropped.
    async fn hear(&self, text: &[u8], request: Option<(&Id, &Message)>) -> Result<Heard, Fault> {
        let messages = message::read(text);
        let messages = messages.map_err(|_| unanswered("something that is no message of JSON-RPC"))?;
        let mut heard = Heard::Else;
        for message in messages {
            match (&message.shape, request) {
                (Shape::Response { id: Some(id), .. }, Some((own, asked))) if id == own => {
                    // Known before the client can ask for the next thing.
                    if matches!(&asked.shape, Shape::Request { method, .. } if method == "initialize")
                        && let Some(version) = message.settled_version()
                    {
                        self.upstream.settle_version(&version);
                    }
                    self.say(message.text).await;
                    heard = Heard::Answer;
                }
                // It could not read the id, and yet it is clear what it speaks of.
                (
                    Shape::Response {
                        id: None,
                        failed: true,
                    },
                    Some((own, _)),
                ) => {
                    let error = message::error_in(message.text.as_bytes());
                    let error = error.ok_or_else(|| unanswered("something else than an answer"))?;
                    self.say(message::answer(own, &error)).await;
                    heard = Heard::Answer;
                }
                (Shape::Response { .. }, _) => self.note("the server answered what nobody asked here"),
                _ => self.say(message.text).await,
            }
            if matches!(heard, Heard::Answer) {
                break;
            }
        }
        Ok(heard)
    }

    fn session_gone(&self) -> Fault {
        self.gone.cancel();
        session_gone()
    }

    /// Takes a notification, or an answer of the client's, to the server.
    async fn tell(self: &Arc<Self>, message: &Message) {
        let called_off = message.cancels();
        let open = called_off.and_then(|id| {
            let open = self.open();
            open.get(&id).map(|open| (open.cancelled.clone(), open.stateless))
        });
        // There, to hang up is to call off.
        if let Some((cancelled, true)) = &open {
            return cancelled.cancel();
        }
        let told = tokio::select! {
            biased;
            () = self.tool.ended() => return,
            () = self.gone.cancelled() => return,
            told = timeout(ACCEPTANCE, self.upstream.post(message, None)) => told,
        };
        if let Some((cancelled, false)) = open {
            cancelled.cancel();
        }
        match told {
            Ok(Ok(_)) => {
                if matches!(&message.shape, Shape::Notification { method } if method == "notifications/initialized")
                {
                    self.listen();
                }
            }
            Ok(Err(Failed::SessionGone)) => self.gone.cancel(),
            Ok(Err(Failed::Told(_, fault) | Failed::Otherwise(fault))) => self.note(&fault.reason),
            Err(_) => self.note("the server takes too long to accept a notification"),
        }
    }

    /// Listens to what the server sends by itself, from now on, in place of what listened before.
    fn listen(self: &Arc<Self>) {
        if self.upstream.is_stateless() {
            return;
        }
        let stop = CancellationToken::new();
        let mut listening = self.listening.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *listening, stop.clone()).cancel();
        let this = Arc::clone(self);
        self.listeners.spawn(async move {
            tokio::select! {
                () = this.stop.cancelled() => {}
                () = stop.cancelled() => {}
                () = this.gone.cancelled() => {}
                () = this.tool.ended() => {}
                () = this.keep_listening() => {}
            }
        });
    }

    async fn keep_listening(&self) {
        let mut events = Events::new(LARGEST);
        let mut pause = PAUSE;
        loop {
            let since = Instant::now();
            match self.upstream.listen(events.last_id()).await {
                Ok(Some(response)) => self.listen_to(response, &mut events).await,
                // It says nothing by itself.
                Ok(None) => return,
                Err(Failed::SessionGone) => return self.gone.cancel(),
                Err(Failed::Told(_, fault) | Failed::Otherwise(fault)) => {
                    if fault.is_final() {
                        let reason =
                            format!("what the server sends by itself is not heard: {}", fault.reason);
                        return self.note(&reason);
                    }
                }
            }
            pause = match since.elapsed() > LONGEST_PAUSE {
                true => PAUSE,
                false => (pause * 2).min(LONGEST_PAUSE),
            };
            sleep(events.retry().unwrap_or_default().max(pause / 2)).await;
            events.reconnected();
        }
    }

    async fn listen_to(&self, mut response: Response, events: &mut Events) {
        while let Ok(Some(bytes)) = response.chunk().await {
            let Ok(whole) = events.feed(&bytes) else {
                return self.note(&too_large().reason);
            };
            for data in whole {
                if let Err(fault) = self.hear(&data, None).await {
                    self.note(&fault.reason);
                }
            }
        }
    }

    /// Says a message to the client, as soon as it reads, or until the bridge stops.
    async fn say(&self, text: String) {
        tokio::select! {
            biased;
            // Where nobody reads, the bridge is about to end.
            _ = self.out.send(self.tool.blot(text)) => {}
            () = self.stop.cancelled() => {}
        }
    }

    fn note(&self, text: &str) {
        self.notes.tell(text);
    }
}

fn session_gone() -> Fault {
    let reason = "the server ended the session: start the bridge anew";
    Fault::new(Kind::Server, reason).with("status", 404)
}

fn too_large() -> Fault {
    Fault::new(
        Kind::Server,
        "the server sends an event that is larger than 4 MiB",
    )
}

fn unanswered(with: &str) -> Fault {
    Fault::new(Kind::Server, format!("the server answered with {with}"))
}
