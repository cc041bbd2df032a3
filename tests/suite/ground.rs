//! What outlives a process: time, keys, the world outside, and what left the house. What the ledger and the
//! journal are kept in is a matter of the tests that begin here: `deaths.rs` and `losses.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dayfly::broker::Broker;
use dayfly::broker::error::BrokerError;
use dayfly::broker::issue::{IssueOrder, Issued};
use dayfly::broker::open::OpenOrder;
use dayfly::broker::rules::Rules;
use dayfly::journal::Journal;
use dayfly::journal::receipt::ReceiptSigner;
use dayfly::journal::record::{Record, Result as Outcome, Verb};
use dayfly::ledger::{Cursor, Filter, Ledger, Page};
use dayfly::model::access::Scope;
use dayfly::model::credential::Credential;
use dayfly::model::ids::{LeaseId, TaskId};
use dayfly::model::lease::{Lease, LeaseState};
use dayfly::model::task;
use dayfly::model::time::Timestamp;
use dayfly::model::tool::Tool;
use dayfly::provider::{Promise, Provider, Providers};
use tempfile::TempDir;
use tokio::runtime::Handle;

use crate::contract::provider::{Permissive, Subject};
use crate::world::mortal::{process, waiting};
use crate::world::tripwire::{Providing, Tripwire};
use crate::world::{Plan, World, order};

/// The agent at work.
const AGENT: &str = "support-bot";
/// Longer than anything of these tests lives.
const LONG: Duration = Duration::from_secs(3700);
/// Longer than a reservation or a claim waits.
pub(crate) const A_WHILE: Duration = Duration::from_secs(61);

/// A folder. A process that dies takes nothing with it that the system has; only a power cut does. So where
/// there is a disk in memory, nothing waits for a real one.
pub(crate) fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    let folder = memory.is_dir().then(|| TempDir::new_in(memory));
    folder.unwrap_or_else(TempDir::new).unwrap()
}

pub(crate) struct Ground {
    world: World,
    rules: Arc<Rules>,
    subject: Arc<dyn Subject>,
    /// Where the outside lives on.
    outside: Handle,
    tool: Tool,
    promise: Promise,
    /// What left the house.
    told: Mutex<BTreeMap<LeaseId, (Lease, Credential)>>,
    /// The leases of all that left it since somebody asked.
    left: Mutex<BTreeSet<LeaseId>>,
}

/// A process on this ground.
pub(crate) struct Process<'g> {
    ground: &'g Ground,
    pub(crate) ledger: Arc<dyn Ledger>,
    journal: Arc<dyn Journal>,
    provider: Arc<dyn Provider>,
    pub(crate) broker: Arc<Broker>,
}

impl Ground {
    pub(crate) fn new(subject: Arc<dyn Subject>, outside: Handle) -> Self {
        let begins_at = subject.begins_at();
        Self::at(begins_at, subject, outside)
    }

    /// One that begins later, with the same outside.
    pub(crate) fn at(begins_at: Timestamp, subject: Arc<dyn Subject>, outside: Handle) -> Self {
        let world = World::of(Plan {
            begins_at,
            ..Plan::default()
        });
        let tool = subject.tool();
        Self {
            promise: process(async || subject.reborn().promise(&tool)),
            rules: World::rules([tool.clone()], Permissive),
            world,
            subject,
            outside,
            tool,
            told: Mutex::default(),
            left: Mutex::default(),
        }
    }

    /// What the provider promises.
    pub(crate) fn promise(&self) -> Promise {
        self.promise
    }

    pub(crate) fn world(&self) -> &World {
        &self.world
    }

    /// The leases of what left the house since the last time.
    pub(crate) fn take_left(&self) -> BTreeSet<LeaseId> {
        std::mem::take(&mut self.left.lock().unwrap())
    }

    /// A process with this ledger, and the journal of the world or another one.
    pub(crate) fn process(
        &self,
        ledger: Arc<dyn Ledger>,
        kept: Option<(Arc<dyn Journal>, ReceiptSigner)>,
    ) -> Process<'_> {
        let journal: Arc<dyn Journal> = match &kept {
            Some((journal, _)) => journal.clone(),
            None => self.world.journal.clone(),
        };
        let provider = self.subject.reborn();
        let points = Arc::new(Tripwire::yielding());
        let around: Arc<dyn Provider> = Arc::new(Providing(provider.clone(), points));
        let providers = Providers::new([(self.tool.binding.provider.clone(), around)]);
        let broker = self
            .world
            .process(waiting(ledger.clone()), &self.rules, providers, kept);
        Process {
            ground: self,
            ledger,
            journal,
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
    pub(crate) async fn pass(&self, by: Duration) {
        self.world.clock.advance(by);
        if self.subject.is_timed() {
            let subject = self.subject.clone();
            let passing = self.outside.spawn(async move { subject.pass(by).await });
            passing.await.unwrap();
        }
    }
}

impl Process<'_> {
    fn world(&self) -> &World {
        &self.ground.world
    }

    /// What is found after something went wrong, and what is left when the work of a process is done.
    pub(crate) async fn aftermath(&self, at: &str) {
        self.nothing_lives_unknown(at).await;
        self.all_that_left_is_on_record(at).await;
        self.sweep().await;
        self.nothing_lives_unknown(at).await;
        for pause in [A_WHILE, LONG] {
            self.ground.pass(pause).await;
            self.sweep().await;
        }
        self.compares(at).await;
        let living = self.living().await;
        assert!(living.is_empty(), "{at}: still alive: {living:?}");
        for lease in self.leases().await {
            let ended = matches!(lease.state, LeaseState::Ended { .. });
            assert!(ended, "{at}: not ended: {lease:?}");
        }
    }

    /// A pass of the reconciler.
    pub(crate) async fn compares(&self, at: &str) {
        let found = Box::pin(self.broker.compare()).await;
        let faults: Vec<_> = found
            .iter()
            .filter_map(|compared| compared.error.as_ref())
            .collect();
        assert!(faults.is_empty(), "{at}: {faults:?}");
    }

    pub(crate) async fn open(&self) -> TaskId {
        self.try_open().await.unwrap()
    }

    pub(crate) async fn try_open(&self) -> Result<TaskId, BrokerError> {
        let caller = self.world().caller(AGENT).await;
        let request = self.world().request();
        let task = self.broker.open(&caller, self.order(), request).await?;
        Ok(task.charter.id)
    }

    pub(crate) async fn issue(&self, task: TaskId) -> Lease {
        self.try_issue(task).await.unwrap()
    }

    pub(crate) async fn try_issue(&self, task: TaskId) -> Result<Lease, BrokerError> {
        let caller = self.world().caller(AGENT).await;
        let order = IssueOrder {
            task,
            access: self.ground.subject.access(),
            ttl: None,
            key: None,
        };
        let issued = self.broker.issue(caller, order, self.world().request()).await;
        Ok(self.told(issued?))
    }

    pub(crate) async fn renew(&self, lease: LeaseId) {
        self.try_renew(lease).await.unwrap();
    }

    pub(crate) async fn try_renew(&self, lease: LeaseId) -> Result<Lease, BrokerError> {
        let caller = self.world().caller(AGENT).await;
        let request = self.world().request();
        let renewed = self.broker.renew(caller, lease, None, request).await;
        Ok(self.told(renewed?))
    }

    pub(crate) async fn revoke(&self, lease: LeaseId) {
        self.try_revoke(lease).await.unwrap();
    }

    pub(crate) async fn try_revoke(&self, lease: LeaseId) -> Result<Lease, BrokerError> {
        let caller = self.world().caller(AGENT).await;
        let request = self.world().request();
        self.broker.revoke(&caller, lease, "tried", request).await
    }

    pub(crate) async fn complete(&self, task: TaskId, outcome: task::Outcome) {
        self.try_complete(task, outcome).await.unwrap();
    }

    pub(crate) async fn try_complete(&self, task: TaskId, outcome: task::Outcome) -> Result<(), BrokerError> {
        let caller = self.world().caller(AGENT).await;
        let request = self.world().request();
        let completed = self
            .broker
            .complete(&caller, task, outcome, Duration::ZERO, request)
            .await;
        completed.map(drop)
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
        self.ground.left.lock().unwrap().insert(issued.lease.id);
        let mut told = self.ground.told.lock().unwrap();
        if let Some(credential) = issued.credential {
            told.insert(issued.lease.id, (issued.lease.clone(), credential));
        }
        issued.lease
    }

    /// The leases whose credentials would be taken outside now: what the provider finds there, and what
    /// left the house and still opens the door.
    pub(crate) async fn living(&self) -> BTreeSet<LeaseId> {
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
        self.knows(&self.living().await, at).await;
    }

    /// These have a lease here, and it is not over.
    async fn knows(&self, living: &BTreeSet<LeaseId>, at: &str) {
        for id in living {
            let lease = self.ledger.lease(*id).await.unwrap();
            let state = lease.map(|lease| lease.state);
            assert!(
                !matches!(state, None | Some(LeaseState::Ended { .. })),
                "{at}: {id} is alive outside, and here it is {state:?}"
            );
        }
    }

    /// Nothing is alive that the ledger does not know; nor anything, here or outside, whose end is on record or
    /// was ordered so.
    pub(crate) async fn nothing_lives_that_should_not(&self, at: &str) {
        let living = self.living().await;
        self.knows(&living, at).await;
        for record in self.permitted(&[Verb::End, Verb::Revoke]).await {
            let Some(id) = record.lease else { continue };
            let state = self.ledger.lease(id).await.unwrap().map(|lease| lease.state);
            let live = matches!(state, Some(LeaseState::Reserved | LeaseState::Active));
            assert!(!live, "{at}: {id} ended, and here it is {state:?}");
            let over = record.verb == Verb::End;
            assert!(
                !over || !living.contains(&id),
                "{at}: {id} ended, and is alive outside"
            );
        }
    }

    /// These ended, and a receipt says so.
    pub(crate) async fn have_receipts(&self, leases: &BTreeSet<LeaseId>, at: &str) {
        let ends = self.permitted(&[Verb::End]).await;
        let ends = ends.iter().filter(|record| record.receipt.is_some());
        let ended: BTreeSet<_> = ends.filter_map(|record| record.lease).collect();
        let without: Vec<_> = leases.difference(&ended).collect();
        assert!(without.is_empty(), "{at}: no receipt for {without:?}");
    }

    async fn permitted(&self, verbs: &[Verb]) -> Vec<Record> {
        let (mut records, mut from) = (Vec::new(), 0);
        loop {
            let page = self.journal.read(from, 1000).await.unwrap();
            if page.is_empty() {
                break;
            }
            from += u64::try_from(page.len()).unwrap();
            records.extend(page.iter().map(|line| Record::from_line(line).unwrap()));
        }
        records.retain(|record| verbs.contains(&record.verb) && record.result == Outcome::Permitted);
        records
    }

    /// Nothing exists outside that no record explains.
    pub(crate) async fn all_that_left_is_on_record(&self, at: &str) {
        let issued = self.permitted(&[Verb::Issue]).await;
        let explained: BTreeSet<_> = issued.iter().filter_map(|record| record.lease).collect();
        for id in self.living().await {
            assert!(explained.contains(&id), "{at}: no record says why {id} exists");
        }
    }
}
