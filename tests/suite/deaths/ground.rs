//! What outlives a process: time, keys, the journal, what the ledger is kept in, and the world outside.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dayfly::broker::Broker;
use dayfly::broker::issue::{IssueOrder, Issued};
use dayfly::broker::open::OpenOrder;
use dayfly::broker::rules::Rules;
use dayfly::journal::record::{Result as Outcome, Verb};
use dayfly::ledger::embedded::{self, Embedded};
use dayfly::ledger::redis::{Mode, RedisConfig, RedisLedger};
use dayfly::ledger::{Cursor, Filter, Ledger, Page};
use dayfly::model::access::Scope;
use dayfly::model::credential::Credential;
use dayfly::model::ids::{LeaseId, TaskId};
use dayfly::model::lease::{Lease, LeaseState};
use dayfly::model::task;
use dayfly::model::tool::Tool;
use dayfly::provider::{Promise, Provider, Providers};
use tempfile::TempDir;
use tokio::runtime::Handle;

use crate::contract::provider::{Permissive, Subject};
use crate::redis_servers;
use crate::world::mortal::{process, waiting};
use crate::world::tripwire::{Providing, Tripwire};
use crate::world::{Plan, World, order};

/// The agent at work.
const AGENT: &str = "support-bot";
/// Longer than anything of these tests lives.
const LONG: Duration = Duration::from_secs(3700);
/// Longer than a reservation or a claim waits.
const A_WHILE: Duration = Duration::from_secs(61);

/// What a ledger is kept in.
pub(crate) enum Store {
    File(TempDir),
    Redis { mode: Mode, prefix: String },
}

impl Store {
    pub(crate) fn embedded() -> Self {
        // A process that dies takes nothing with it that the system has; only a power cut does. So where
        // there is a disk in memory, nothing waits for a real one.
        let memory = std::path::Path::new("/dev/shm");
        let folder = memory.is_dir().then(|| TempDir::new_in(memory));
        Self::File(folder.unwrap_or_else(TempDir::new).unwrap())
    }

    /// `None` where there is no server to talk to.
    pub(crate) fn redis() -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let mode = redis_servers::single()?;
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("deaths-{}-{next}", std::process::id());
        Some(Self::Redis { mode, prefix })
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::File(_) => "the embedded ledger",
            Self::Redis { .. } => "Redis",
        }
    }

    async fn open(&self) -> Arc<dyn Ledger> {
        match self {
            Self::File(folder) => {
                let path: PathBuf = folder.path().join("ledger.redb");
                Arc::new(Embedded::open(&path, embedded::Config::default()).unwrap())
            }
            Self::Redis { mode, prefix } => {
                let mut config = RedisConfig::new(mode.clone());
                config.prefix = prefix.clone();
                Arc::new(RedisLedger::connect(&config).await.unwrap())
            }
        }
    }
}

pub(crate) struct Ground {
    world: World,
    rules: Arc<Rules>,
    store: Store,
    subject: Arc<dyn Subject>,
    /// Where the outside lives on.
    outside: Handle,
    tool: Tool,
    promise: Promise,
    /// What left the house.
    told: Mutex<BTreeMap<LeaseId, (Lease, Credential)>>,
}

/// A process on this ground.
pub(crate) struct Process<'g> {
    ground: &'g Ground,
    ledger: Arc<dyn Ledger>,
    provider: Arc<dyn Provider>,
    broker: Arc<Broker>,
}

impl Ground {
    pub(crate) fn new(store: Store, subject: Arc<dyn Subject>, outside: Handle) -> Self {
        let world = World::of(Plan {
            begins_at: subject.begins_at(),
            ..Plan::default()
        });
        let tool = subject.tool();
        Self {
            promise: process(async || subject.reborn().promise(&tool)),
            rules: World::rules([tool.clone()], Permissive),
            world,
            store,
            subject,
            outside,
            tool,
            told: Mutex::default(),
        }
    }

    /// What the provider promises.
    pub(crate) fn promise(&self) -> Promise {
        self.promise
    }

    pub(crate) async fn start(&self) -> Process<'_> {
        let ledger = self.store.open().await;
        let provider = self.subject.reborn();
        let points = Arc::new(Tripwire::yielding());
        let around: Arc<dyn Provider> = Arc::new(Providing(provider.clone(), points));
        let providers = Providers::new([(self.tool.binding.provider.clone(), around)]);
        let broker = self
            .world
            .process(waiting(ledger.clone()), &self.rules, providers);
        Process {
            ground: self,
            ledger,
            provider,
            broker,
        }
    }

    /// Whether the outside lets this credential in, asked from there.
    async fn works(&self, credential: Credential) -> bool {
        let subject = self.subject.clone();
        let asking = self
            .outside
            .spawn(async move { subject.works(&credential).await });
        asking.await.unwrap()
    }

    /// Time passes, here and outside.
    async fn pass(&self, by: Duration) {
        self.world.clock.advance(by);
        if self.subject.is_timed() {
            let subject = self.subject.clone();
            let passing = self.outside.spawn(async move { subject.pass(by).await });
            passing.await.unwrap();
        }
    }

    /// What another process finds after a death, and what is left when it has done its work.
    pub(crate) async fn aftermath(&self, work: &str, last: usize, survived: bool) {
        let process = self.start().await;
        let at = format!("{work}, died at {last}, survived: {survived}");
        process.nothing_lives_unknown(&at).await;
        process.all_that_left_is_on_record(&at).await;
        process.sweep().await;
        process.nothing_lives_unknown(&at).await;
        for pause in [A_WHILE, LONG] {
            self.pass(pause).await;
            process.sweep().await;
        }
        let found = Box::pin(process.broker.compare()).await;
        let faults: Vec<_> = found
            .iter()
            .filter_map(|compared| compared.error.as_ref())
            .collect();
        assert!(faults.is_empty(), "{at}: {faults:?}");
        let living = process.living().await;
        assert!(living.is_empty(), "{at}: still alive: {living:?}");
        for lease in process.leases().await {
            let ended = matches!(lease.state, LeaseState::Ended { .. });
            assert!(ended, "{at}: not ended: {lease:?}");
        }
    }
}

impl Process<'_> {
    fn world(&self) -> &World {
        &self.ground.world
    }

    pub(crate) async fn open(&self) -> TaskId {
        let caller = self.world().caller(AGENT).await;
        let task = self
            .broker
            .open(&caller, self.order(), self.world().request())
            .await;
        task.unwrap().charter.id
    }

    pub(crate) async fn issue(&self, task: TaskId) -> Lease {
        let caller = self.world().caller(AGENT).await;
        let order = IssueOrder {
            task,
            access: self.ground.subject.access(),
            ttl: None,
            key: None,
        };
        let issued = self.broker.issue(caller, order, self.world().request()).await;
        self.told(issued.unwrap())
    }

    pub(crate) async fn renew(&self, lease: LeaseId) {
        let caller = self.world().caller(AGENT).await;
        let renewed = self
            .broker
            .renew(caller, lease, None, self.world().request())
            .await;
        self.told(renewed.unwrap());
    }

    pub(crate) async fn revoke(&self, lease: LeaseId) {
        let caller = self.world().caller(AGENT).await;
        let request = self.world().request();
        self.broker
            .revoke(&caller, lease, "tried", request)
            .await
            .unwrap();
    }

    pub(crate) async fn complete(&self, task: TaskId, outcome: task::Outcome) {
        let caller = self.world().caller(AGENT).await;
        let request = self.world().request();
        self.broker
            .complete(&caller, task, outcome, Duration::ZERO, request)
            .await
            .unwrap();
    }

    pub(crate) async fn sweep(&self) {
        while Box::pin(self.broker.sweep()).await.unwrap().claimed > 0 {}
    }

    fn order(&self) -> OpenOrder {
        OpenOrder {
            scope: Scope::new(vec![self.ground.subject.access()]).unwrap(),
            ..order(&["crm:read"])
        }
    }

    fn told(&self, issued: Issued) -> Lease {
        let mut told = self.ground.told.lock().unwrap();
        if let Some(credential) = issued.credential {
            told.insert(issued.lease.id, (issued.lease.clone(), credential));
        }
        issued.lease
    }

    /// The leases whose credentials would be taken outside now: what the provider finds there, and what
    /// left the house and still opens the door.
    async fn living(&self) -> BTreeSet<LeaseId> {
        let inventory = self.provider.inventory().await.unwrap();
        let mut living: BTreeSet<_> = inventory.into_iter().map(|held| held.lease).collect();
        let told = self.ground.told.lock().unwrap().clone();
        let denied = self.denied().await;
        for (id, (lease, credential)) in told {
            // What carries itself is taken until it expires, by whoever does not follow the feed.
            let by_itself = self.ground.world.now() < lease.expires_at && !denied(&lease);
            let opens = match self.ground.promise.self_contained {
                true => by_itself,
                false => self.ground.works(credential).await,
            };
            if opens {
                living.insert(id);
            } else {
                self.ground.told.lock().unwrap().remove(&id);
            }
        }
        living
    }

    /// What the feed denies.
    async fn denied(&self) -> impl Fn(&Lease) -> bool {
        let mut cutoffs = Vec::new();
        let mut cursor = Cursor::default();
        loop {
            let changes = self.ledger.changes(&cursor, Duration::ZERO).await.unwrap();
            cutoffs.extend(changes.cutoffs);
            cursor = changes.next;
            if !changes.more {
                return move |lease: &Lease| cutoffs.iter().any(|cutoff| lease.is_cut_by(cutoff));
            }
        }
    }

    /// Every lease that the ledger remembers.
    async fn leases(&self) -> Vec<Lease> {
        let mut leases: Vec<Lease> = Vec::new();
        loop {
            let page = Page {
                after: leases.last().map(|lease| lease.id),
                limit: Page::MOST.try_into().unwrap(),
            };
            let more = self.ledger.find(&Filter::default(), &page).await.unwrap();
            if more.is_empty() {
                return leases;
            }
            leases.extend(more);
        }
    }

    async fn nothing_lives_unknown(&self, at: &str) {
        for id in self.living().await {
            let lease = self.ledger.lease(id).await.unwrap();
            let state = lease.map(|lease| lease.state);
            assert!(
                !matches!(state, None | Some(LeaseState::Ended { .. })),
                "{at}: {id} is alive outside, and here it is {state:?}"
            );
        }
    }

    /// Nothing exists outside that no record explains.
    async fn all_that_left_is_on_record(&self, at: &str) {
        let explained: BTreeSet<_> = self
            .world()
            .records(Verb::Issue)
            .into_iter()
            .filter(|record| record.result == Outcome::Permitted)
            .filter_map(|record| record.lease)
            .collect();
        for id in self.living().await {
            assert!(explained.contains(&id), "{at}: no record says why {id} exists");
        }
    }
}
