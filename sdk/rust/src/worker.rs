//! The one worker of a broker: it opens and resumes tasks, beats for all of them, renews their credentials, hands back those that were refused, and
//! says farewell for tasks that were dropped. It has a thread and a runtime of its own, so that none of this waits for the program's work, nor dies with a
//! runtime of the program.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak, mpsc as std_mpsc};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::runtime;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::{self, JoinSet};
use tokio::time::Instant;

use crate::ambient;
use crate::api::{Api, segment};
use crate::cache::Slot;
use crate::error::{Error, Problem};
use crate::task::State;
use crate::wire::{self, Outcome};

/// How many renewals and endings it has under way at most.
const MOST_AT_ONCE: usize = 32;
/// How many heartbeats besides. Nothing that takes longer comes before them: a late one ends a task.
const MOST_BEATS: usize = 32;
/// How long the last owner of a broker waits for what is being ended.
const LAST_WAIT: Duration = Duration::from_secs(1);
/// How often an end is told, each time with the usual retries.
const MOST_TELLINGS: u32 = 3;
/// The pause after a heartbeat that was not answered.
const AFTER_SILENCE: Duration = Duration::from_secs(1);

enum Order {
    Open(Opening),
    Beat(Beat),
    Renew(Weak<State>, Arc<Slot>),
    Tell(String, Value, Pending),
    Drain(oneshot::Sender<()>),
}

/// The heartbeats of a task, from one beginning to their end.
struct Beat {
    task: Weak<State>,
    generation: u64,
    /// A third of what the task may be silent for.
    every: Duration,
}

/// A task to be opened or resumed for somebody who may go away meanwhile.
struct Opening {
    path: String,
    body: Value,
    key: String,
    /// How it is left where nobody takes it.
    unclaimed: Leave,
    answer: oneshot::Sender<Result<Opened, Error>>,
    orders: mpsc::UnboundedSender<Order>,
    pending: Pending,
}

/// What becomes of a task that has no owner.
#[derive(Clone, Copy)]
enum Leave {
    Cancelled,
    Suspended,
}

impl Leave {
    /// Where to say so, and what.
    fn told(self, id: &str) -> (String, Value) {
        let path = wire::path(id);
        match self {
            Self::Cancelled => (ending(&path), end(Outcome::Cancelled)),
            Self::Suspended => (format!("{path}/suspend"), json!({})),
        }
    }
}

/// A task that was opened or resumed. It is left again when nobody claims it.
struct Opened {
    task: wire::Task,
    unclaimed: Unclaimed,
}

struct Unclaimed {
    path: String,
    body: Value,
    orders: mpsc::UnboundedSender<Order>,
    /// None once it is claimed.
    pending: Option<Pending>,
}

impl Opened {
    fn claim(mut self) -> wire::Task {
        self.unclaimed.pending = None;
        self.task
    }
}

impl Drop for Unclaimed {
    fn drop(&mut self) {
        if let Some(pending) = self.pending.take() {
            let (path, body) = (std::mem::take(&mut self.path), self.body.take());
            let _ = self.orders.send(Order::Tell(path, body, pending));
        }
    }
}

/// The owner's side.
pub(crate) struct Worker {
    orders: Option<mpsc::UnboundedSender<Order>>,
    /// How many ends are not told yet.
    pending: Arc<AtomicUsize>,
    thread: Option<ThreadId>,
    /// Hears of the end of the thread, when the other side is gone.
    over: Mutex<std_mpsc::Receiver<()>>,
    /// Why there is none.
    broken: Option<String>,
}

/// An end that is not told yet.
struct Pending(Arc<AtomicUsize>);

impl Pending {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count.clone())
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Worker {
    /// Starts the thread. It ends when its owner does.
    pub(crate) fn start(api: &Api) -> Self {
        let (orders, ordered) = mpsc::unbounded_channel();
        let (ends, over) = std_mpsc::channel::<()>();
        let pending = Arc::new(AtomicUsize::new(0));
        let count = pending.clone();
        let started = api.twin().map_err(|error| io::Error::other(error.to_string()));
        let started = started.and_then(|api| {
            let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
            let work = move || {
                runtime.block_on(serve(api, ordered, &count));
                drop(ends);
            };
            thread::Builder::new()
                .name("dayfly-client".to_owned())
                .spawn(work)
        });
        let (thread, broken) = match started {
            Ok(thread) => (Some(thread.thread().id()), None),
            Err(error) => (None, Some(error.to_string())),
        };
        Self {
            orders: Some(orders),
            pending,
            thread,
            over: Mutex::new(over),
            broken,
        }
    }

    /// Opens a task, the same one however often it takes. Where the caller goes away before it has the answer, the task
    /// is cancelled: it would have no owner.
    pub(crate) async fn open(&self, path: String, body: Value) -> Result<wire::Task, Error> {
        self.enter(path, body, Leave::Cancelled).await
    }

    /// Resumes a task. Where the caller goes away before it has the answer, the task is suspended again.
    pub(crate) async fn resume(&self, task: &str) -> Result<wire::Task, Error> {
        let path = wire::path(task) + "/resume";
        self.enter(path, json!({}), Leave::Suspended).await
    }

    async fn enter(&self, path: String, body: Value, unclaimed: Leave) -> Result<wire::Task, Error> {
        let nobody = |why: &str| {
            let title = "nobody can keep tasks alive on this machine";
            Error::Refused(Problem::here("no-worker", title, why))
        };
        // A task that nobody could keep alive is not opened.
        let orders = match (&self.orders, &self.broken) {
            (Some(orders), None) => orders.clone(),
            (_, why) => return Err(nobody(why.as_deref().unwrap_or_default())),
        };
        let (answer, answered) = oneshot::channel();
        let key = ambient::idempotency_key()?;
        let pending = Pending::new(&self.pending);
        self.order(Order::Open(Opening {
            path,
            body,
            key,
            unclaimed,
            answer,
            orders,
            pending,
        }));
        let opened = answered.await.map_err(|_| nobody("it broke off"))?;
        Ok(opened?.claim())
    }

    fn order(&self, order: Order) {
        if let Some(orders) = &self.orders {
            // Without a worker there are no tasks either.
            let _ = orders.send(order);
        }
    }

    /// Beats for this task from now on.
    pub(crate) fn beat(&self, task: &Arc<State>, generation: u64) {
        let every = task.heartbeat().unwrap_or_default() / 3;
        self.order(Order::Beat(Beat {
            task: Arc::downgrade(task),
            generation,
            every: every.max(Duration::from_millis(100)),
        }));
    }

    /// Gets the next credential for this place.
    pub(crate) fn renew(&self, task: &Arc<State>, slot: &Arc<Slot>) {
        self.order(Order::Renew(Arc::downgrade(task), slot.clone()));
    }

    /// Tells the broker that a task is over.
    pub(crate) fn farewell(&self, path: String, outcome: Outcome) {
        self.tell(ending(&path), end(outcome));
    }

    /// Tells the broker that nobody uses a credential any more.
    pub(crate) fn hand_back(&self, lease: &str, reason: &str) {
        let path = format!("/v1/leases/{}/revoke", segment(lease));
        self.tell(path, json!({ "reason": reason }));
    }

    fn tell(&self, path: String, body: Value) {
        self.order(Order::Tell(path, body, Pending::new(&self.pending)));
    }

    /// Waits until every end that was ordered before is told, or could not be.
    pub(crate) async fn drained(&self) {
        let (done, waiting) = oneshot::channel();
        self.order(Order::Drain(done));
        let _ = waiting.await;
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.orders = None;
        let own = self.thread == Some(thread::current().id());
        if self.pending.load(Ordering::Acquire) > 0 && !own {
            let over = self.over.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = over.recv_timeout(LAST_WAIT);
        }
    }
}

/// What became of a job: when to beat again, where it was a heartbeat.
type Done = Option<Instant>;

async fn serve(api: Api, mut orders: mpsc::UnboundedReceiver<Order>, pending: &AtomicUsize) {
    let places = Arc::new(Semaphore::new(MOST_AT_ONCE));
    let beating = Arc::new(Semaphore::new(MOST_BEATS));
    let mut jobs: JoinSet<Done> = JoinSet::new();
    // By when they are due, and a number, so that two may be due at once.
    let mut beats: BTreeMap<(Instant, u64), Arc<Beat>> = BTreeMap::new();
    // Those under way, by their jobs.
    let mut under_way: HashMap<task::Id, Arc<Beat>> = HashMap::new();
    let mut number = 0;
    let mut drains: Vec<oneshot::Sender<()>> = Vec::new();
    loop {
        if pending.load(Ordering::Acquire) == 0 {
            for drain in drains.drain(..) {
                let _ = drain.send(());
            }
        }
        let due = beats.keys().next().copied();
        tokio::select! {
            order = orders.recv() => match order {
                Some(Order::Open(opening)) => {
                    let api = api.clone();
                    jobs.spawn(async move {
                        open(&api, opening).await;
                        None
                    });
                }
                Some(Order::Beat(beat)) => {
                    number += 1;
                    beats.insert((Instant::now() + beat.every, number), Arc::new(beat));
                }
                Some(Order::Renew(task, slot)) => {
                    let (api, places) = (api.clone(), places.clone());
                    jobs.spawn(async move {
                        let _place = places.acquire().await;
                        if let Some(task) = task.upgrade() {
                            slot.renew(&task, &api).await;
                        }
                        None
                    });
                }
                Some(Order::Tell(path, body, pending)) => {
                    let (api, places) = (api.clone(), places.clone());
                    jobs.spawn(async move {
                        let _place = places.acquire().await;
                        tell(&api, &path, &body).await;
                        drop(pending);
                        None
                    });
                }
                Some(Order::Drain(done)) => drains.push(done),
                None => break,
            },
            Some(done) = jobs.join_next_with_id(), if !jobs.is_empty() => {
                let (id, next) = match done {
                    Ok(done) => done,
                    // What fetches the evidence is the program's, and may panic. The task lives even so.
                    Err(broken) => (broken.id(), Some(Instant::now() + AFTER_SILENCE)),
                };
                if let (Some(beat), Some(at)) = (under_way.remove(&id), next) {
                    number += 1;
                    beats.insert((at, number), beat);
                }
            }
            () = until(due) => {
                if let Some((_, beat)) = beats.pop_first() {
                    let (api, beating, own) = (api.clone(), beating.clone(), beat.clone());
                    let job = jobs.spawn(async move {
                        let _place = beating.acquire().await;
                        once(&api, &own).await
                    });
                    under_way.insert(job.id(), beat);
                }
            }
        }
    }
    // The last owner is gone, and so is every task; what is left to say is said.
    while pending.load(Ordering::Acquire) > 0 && jobs.join_next().await.is_some() {}
}

async fn until(due: Option<(Instant, u64)>) {
    match due {
        Some((at, _)) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// The path by which a task is ended.
fn ending(path: &str) -> String {
    format!("{path}/complete")
}

fn end(outcome: Outcome) -> Value {
    json!({ "outcome": outcome.as_str() })
}

/// Opens a task, or resumes it, if somebody waits for it still.
async fn open(api: &Api, opening: Opening) {
    if opening.answer.is_closed() {
        return;
    }
    let call = api.request(Method::POST, &opening.path).json(&opening.body);
    let told = call.key(&opening.key).send::<wire::Task>().await;
    let opened = told.map(|task| {
        let (path, body) = opening.unclaimed.told(&task.id);
        let unclaimed = Unclaimed {
            path,
            body,
            orders: opening.orders,
            pending: Some(opening.pending),
        };
        Opened { task, unclaimed }
    });
    // What nobody takes any more is dropped, here or on its way.
    let _ = opening.answer.send(opened);
}

/// Beats once, and says when to beat again.
async fn once(api: &Api, beat: &Beat) -> Option<Instant> {
    let task = beat.task.upgrade()?;
    if !task.beats(beat.generation) {
        return None;
    }
    let began = Instant::now();
    let path = format!("{}/heartbeat", task.path());
    let call = api.request(Method::POST, &path).once().send::<wire::Task>();
    // An answer that comes after the next beat is of no use.
    let answer = tokio::time::timeout(beat.every.max(AFTER_SILENCE), call).await;
    match answer {
        Ok(Ok(told)) => task.heard(&told),
        Ok(Err(error)) if !error.retryable() => {
            task.judge(api, error).await;
        }
        Ok(Err(_)) | Err(_) => {
            let pause = AFTER_SILENCE.min(beat.every);
            return task.beats(beat.generation).then(|| Instant::now() + pause);
        }
    }
    // Not all at once, and never later than a third.
    let next = beat.every - ambient::jitter(beat.every / 10);
    task.beats(beat.generation).then_some(began + next)
}

/// Says that something is over, as long as the broker might not have heard it.
async fn tell(api: &Api, path: &str, body: &Value) {
    for round in 1..=MOST_TELLINGS {
        let said = api.request(Method::POST, path).json(body).send::<Value>().await;
        if !said.is_err_and(|error| error.retryable()) || round == MOST_TELLINGS {
            return;
        }
        tokio::time::sleep(AFTER_SILENCE).await;
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::extract::State as Shared;
    use axum::http::Uri;
    use tokio::net::TcpListener;

    use super::*;
    use crate::{Broker, Evidence};

    /// What a broker was asked, and how many tasks it may resume.
    struct House {
        asked: Mutex<Vec<String>>,
        resumes: Semaphore,
    }

    /// A broker that answers everything with the one task.
    async fn broker(evidence: Evidence) -> (Broker, Arc<House>, JoinSet<()>) {
        let house = Arc::new(House {
            asked: Mutex::default(),
            resumes: Semaphore::new(0),
        });
        let answer = async |Shared(house): Shared<Arc<House>>, path: Uri| {
            house.asked.lock().unwrap().push(path.path().to_owned());
            if path.path().ends_with("/resume") {
                house.resumes.acquire().await.unwrap().forget();
            }
            axum::Json(json!({
                "id": "tsk_1", "agent": "support-bot", "purpose": "p", "scope": [], "state": "open",
                "deadline": "2126-11-22T08:49:41.253Z", "heartbeat": 1,
            }))
        };
        let router = Router::new().fallback(answer).with_state(house.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let mut serving = JoinSet::new();
        serving.spawn(async { axum::serve(listener, router).await.unwrap() });
        let broker = Broker::builder().address(address).evidence(evidence);
        (broker.build().unwrap(), house, serving)
    }

    async fn until(house: &House, path: &str, times: usize) {
        let asked = || house.asked.lock().unwrap().clone();
        let found = || asked().iter().filter(|asked| *asked == path).count() >= times;
        let waiting = async {
            while !found() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(60), waiting).await;
        assert!(waited.is_ok(), "{path}: {:?}", asked());
    }

    #[tokio::test]
    async fn a_panic_where_evidence_comes_from_stops_no_heartbeats() {
        let times = Arc::new(AtomicUsize::new(0));
        let evidence = Evidence::from_fn(move || {
            // The first one opens the task.
            let time = times.fetch_add(1, Ordering::Relaxed);
            assert!(
                !(1..3).contains(&time),
                "where the evidence comes from something is broken"
            );
            async { Ok::<_, Error>("eyJ") }
        });
        let (broker, house, _serving) = broker(evidence).await;
        let task = broker.task("p", ["crm:read"]).open().await.unwrap();
        until(&house, "/v1/tasks/tsk_1/heartbeat", 2).await;
        drop(task);
        until(&house, "/v1/tasks/tsk_1/complete", 1).await;
    }

    #[tokio::test]
    async fn who_goes_away_while_it_resumes_leaves_the_task_suspended() {
        let (broker, house, _serving) = broker(Evidence::none()).await;
        let handle = format!(r#"{{"v":1,"broker":"{}","task":"tsk_1"}}"#, broker.address());
        let handle = handle.parse().unwrap();
        tokio::select! {
            resumed = broker.resume(&handle) => panic!("{resumed:?}"),
            () = until(&house, "/v1/tasks/tsk_1/resume", 1) => {}
        }
        // Nobody is there when the answer comes.
        house.resumes.add_permits(2);
        until(&house, "/v1/tasks/tsk_1/suspend", 1).await;
        let kept = broker.resume(&handle).await.unwrap();
        assert!(kept.ensure_open().is_ok());
        broker.drain().await;
        let suspended = |path: &&String| path.ends_with("/suspend");
        assert_eq!(
            house.asked.lock().unwrap().iter().filter(suspended).count(),
            1,
            "it has an owner"
        );
    }
}
