//! The ledger on Redis or Valkey: one node, Sentinel or Cluster.
//!
//! Each step is one Lua call (`redis/*.lua`) in one slot: every key of a shard carries the hash tag
//! `{prefix:shard}`, and a task with all that belongs to it lives in the shard of its slot. Time comes
//! from the caller; nothing has a time to live, and nothing depends on keyspace notifications.
//!
//! ```text
//! {dayfly:7}:tasks    hash    task id → head and record          (packed.rs)
//! {dayfly:7}:leases   hash    lease id → head and record
//! {dayfly:7}:above    hash    sub-task that has not ended → the ids of the tasks above it, nearest first
//! {dayfly:7}:below    zset    a task and a sub-task below it that has not ended, as one member
//! {dayfly:7}:due      zset    t‹task› and l‹lease› by the instant they fall due; a claim moves it on
//! {dayfly:7}:pending  zset    leases that are reserved, revoking or stuck, by state and id
//! {dayfly:7}:forget   zset    what has ended, by when, and keys, by age
//! {dayfly:7}:t:‹task› zset    leases by task; the same by agent (a:), tool (c:) and user (u:). Those of a sub-task
//!                             are in the indexes of each task and agent above, too
//! {dayfly:7}:counts   hash    live leases of each task, agent and tool, and open tasks of each agent, for budgets
//! {dayfly:7}:tools    hash    leases of each tool, which names the c: indexes
//! {dayfly:7}:cutoffs  hash    selector → cutoff; `#` is the version of the facts to decide by
//! {dayfly:7}:feed     stream  cutoffs published here; :seq is the number of the last
//! {dayfly:7}:k:‹key›  string  what an idempotency key stands for
//! {dayfly:7}:hours    hash    hour → how many places on its status lists were given out
//! {dayfly:7}:places   hash    hour and page → which places on status lists are taken, and which struck
//! {dayfly:7}:lineage  hash    the epoch, and the count of each writer; `lost` once somebody found it so
//! {dayfly:0}:facts    hash    subject and name → what was stated last          (context.rs)
//! {dayfly:0}:told     zset    subject and name by the version of the statement
//! {dayfly:0}:lapses   zset    subject and name by when the fact expires or is forgotten
//! {dayfly:0}:rechecks hash    whom and what for → the order; :queue has them in the order of their turn; behind a
//!                             `+` what is due once that is done
//! {dayfly:0}:marks    hash    name → what all replicas agree on
//! {dayfly:0}:context  hash    the version of the facts, and other numbers; :subjects counts facts by subject
//! {dayfly:meta}       hash    the number of shards and the layout, fixed at the first start; the epoch
//! ```
//!
//! Ids are their 16 raw bytes. An index is scored by a class (live or ended; or the state) and the
//! instant in the id, so that a class is a range and lists in order of ids.
//!
//! Run Redis with `appendonly yes` and `maxmemory-policy noeviction`. A lease takes about 580 bytes, all
//! indexes included, and 670 at 1,000,000 leases in 64 shards (`benches/scale.rs`): the indexes of
//! busy tools are then longer than Redis stores compactly. More shards keep them short, and
//! `zset-max-listpack-entries 2048` lets them be longer: 570 bytes.

mod context;
mod due;
mod feed;
mod find;
mod keys;
mod leases;
mod lineage;
mod link;
mod packed;
mod past;
mod places;
mod script;
mod shares;
pub mod survey;
mod tasks;

use std::num::{NonZeroU16, NonZeroUsize};
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use async_trait::async_trait;
use redis::RedisError;
use tokio::sync::Semaphore;

use self::context::Versions;
use self::feed::Heads;
use self::keys::Shards;
use self::link::Link;
use self::past::Past;
use super::lineage::{Memory, Writer};
use super::{
    Budgets, Changes, Claim, Cursor, Filter, IdempotencyKey, LeaseClaim, Ledger, LedgerError, Opened, Page,
    Renewal, Settlement,
};
use crate::model::cutoff::Cutoff;
use crate::model::fact::FactsVersion;
use crate::model::ids::{LeaseId, Slot, TaskId};
use crate::model::lease::{Cause, Handle, Lease, ReceiptSignature};
use crate::model::secret::Secret;
use crate::model::status_list::Place;
use crate::model::task::{Task, TaskChange};
use crate::model::time::Timestamp;

/// The layout of the keys. Another one is another ledger.
const LAYOUT: &str = "2";
/// How many steps that hardly anybody waits for are under way at a time, for every two processors: as much as an issue
/// may have to wait for. Each keeps its place for a round trip, so with Redis far away ends take longer.
const REAPING: usize = 4;
/// How many at most, however many processors there are.
const MOST_REAPING: usize = 16;
/// How many leases one script turns, claims or settles at most: it keeps the server for less than a millisecond.
const AT_ONCE: usize = 16;

/// Where Redis is. URLs are `redis://` or `rediss://` (TLS), with user and password where needed:
/// `rediss://user:password@host:6379/0`.
#[derive(Clone, Debug)]
pub enum Mode {
    /// One node, or whatever stands in front of it.
    Single {
        /// Its URL.
        url: Secret,
    },
    /// The primary that Sentinel names.
    Sentinel {
        /// The Sentinels. User and password of the first are used for all.
        urls: Vec<Secret>,
        /// What the Sentinels call the primary.
        master: String,
        /// TLS, user, password and database of the Redis nodes, as a URL of any host.
        nodes: Option<Secret>,
    },
    /// A cluster.
    Cluster {
        /// Some of its nodes; the others are found through them.
        urls: Vec<Secret>,
    },
}

/// How to reach Redis, and what to keep there.
#[derive(Clone, Debug)]
pub struct RedisConfig {
    /// Where it is.
    pub mode: Mode,
    /// What every key starts with, so that ledgers can share a Redis.
    pub prefix: String,
    /// How many shards, at most [`Slot::COUNT`]. Fixed at the first start.
    pub shards: NonZeroU16,
    /// How long ended tasks and leases, the feed and idempotency keys are kept.
    pub retention: Duration,
    /// How long Redis may take to answer.
    pub response_timeout: Duration,
    /// How long a connection may take to come about.
    pub connect_timeout: Duration,
    /// The certificate authorities of a `rediss://` server as PEM, instead of the system's.
    pub root_certificates: Option<Vec<u8>>,
    /// Who writes here. Replicas that share a name find losses later, and raise no false alarm.
    pub writer: Writer,
    /// What is remembered of this ledger.
    pub memory: Memory,
}

impl RedisConfig {
    /// With the defaults: prefix `dayfly`, 64 shards, retention of a day, time-outs of two seconds.
    pub fn new(mode: Mode) -> Self {
        Self {
            mode,
            prefix: "dayfly".to_owned(),
            shards: NonZeroU16::MIN.saturating_add(63),
            retention: Duration::from_secs(24 * 3600),
            response_timeout: Duration::from_secs(2),
            connect_timeout: Duration::from_secs(2),
            root_certificates: None,
            writer: Writer::default(),
            memory: Memory::Nothing,
        }
    }
}

/// Why the ledger could not be taken into use.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The configuration makes no sense.
    #[error("{0}")]
    Config(String),
    /// Redis cannot be reached, or does not let us in.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The ledger was started with another number of shards.
    #[error(
        "the ledger `{prefix}` was started with {stored} shards and the configuration says {configured}: \
         set shards to {stored}, or choose another prefix for a new ledger"
    )]
    Shards {
        /// Which ledger.
        prefix: String,
        /// How many it has.
        stored: String,
        /// How many were asked for.
        configured: NonZeroU16,
    },
    /// The ledger was written by another version.
    #[error("the ledger `{prefix}` has layout {stored} and this version of Dayfly reads layout {LAYOUT}")]
    Layout {
        /// Which ledger.
        prefix: String,
        /// Its layout.
        stored: String,
    },
    /// Redis would throw leases away to save memory.
    #[error("Redis runs with `maxmemory-policy {0}` and would drop leases: set it to `noeviction`")]
    Evicts(String),
}

impl From<RedisError> for ConnectError {
    fn from(error: RedisError) -> Self {
        match error.kind() {
            redis::ErrorKind::InvalidClientConfig => {
                Self::Config(format!("the Redis URL is not usable: {error}"))
            }
            _ => Self::Ledger(link::fault(&error)),
        }
    }
}

/// Live state in Redis. Calls on the way of a request and calls of the reaper have a connection each,
/// so that ending much never holds up issuing.
pub struct RedisLedger {
    shards: Shards,
    retention: Duration,
    requests: Link,
    reaping: Link,
    /// Where the next sweep starts.
    turn: AtomicUsize,
    heads: Heads,
    versions: Versions,
    turns: shares::Turns,
    /// The name of the hash of the ledger as a whole.
    meta: String,
    past: Past,
}

impl std::fmt::Debug for RedisLedger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisLedger")
            .field("shards", &self.shards.count())
            .field("retention", &self.retention)
            .finish_non_exhaustive()
    }
}

impl RedisLedger {
    /// Connects, and makes sure that this is the ledger that the configuration describes. The first
    /// start fixes the number of shards. A ledger that was lost is connected to all the same, for what
    /// ends: see [`Lineage::loss`](super::lineage::Lineage::loss).
    pub async fn connect(config: &RedisConfig) -> Result<Self, ConnectError> {
        if config.prefix.is_empty() || config.prefix.contains(['{', '}']) {
            return Err(ConnectError::Config(format!(
                "the prefix `{}` is not usable: it is not empty and has no braces",
                config.prefix
            )));
        }
        if config.shards.get() > Slot::COUNT {
            return Err(ConnectError::Config(format!(
                "{} shards are too many: use at most {}",
                config.shards,
                Slot::COUNT
            )));
        }
        let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let reaping = (processors / 2 * REAPING).clamp(REAPING, MOST_REAPING);
        let (requests, reaping) = futures_util::try_join!(
            Link::connect(config, Semaphore::MAX_PERMITS),
            Link::connect(config, reaping)
        )?;
        let ledger = Self {
            shards: Shards::new(&config.prefix, config.shards),
            retention: config.retention,
            requests,
            reaping,
            turn: AtomicUsize::new(0),
            heads: Heads::default(),
            versions: Versions::default(),
            turns: shares::Turns::default(),
            meta: format!("{{{}:meta}}", config.prefix),
            past: Past::new(config),
        };
        ledger.claim_layout(config).await?;
        ledger.refuse_eviction().await?;
        ledger.find_place().await?;
        Ok(ledger)
    }

    async fn claim_layout(&self, config: &RedisConfig) -> Result<(), ConnectError> {
        for (field, value) in [
            ("layout", LAYOUT.to_owned()),
            ("shards", config.shards.to_string()),
        ] {
            let set = redis::cmd("HSETNX")
                .arg(&self.meta)
                .arg(field)
                .arg(value)
                .to_owned();
            self.requests.query::<()>(&set).await?;
        }
        let get = redis::cmd("HMGET")
            .arg(&self.meta)
            .arg("layout")
            .arg("shards")
            .to_owned();
        let (layout, shards): (String, String) = self.requests.query(&get).await?;
        let prefix = config.prefix.clone();
        if layout != LAYOUT {
            return Err(ConnectError::Layout {
                prefix,
                stored: layout,
            });
        }
        if shards != config.shards.to_string() {
            let configured = config.shards;
            return Err(ConnectError::Shards {
                prefix,
                stored: shards,
                configured,
            });
        }
        Ok(())
    }

    /// Only where one node answers for all. Nothing here has a time to live, so `volatile-*` is harmless.
    async fn refuse_eviction(&self) -> Result<(), ConnectError> {
        if !self.requests.is_one_node() {
            return Ok(());
        }
        let info: String = self.requests.query(redis::cmd("INFO").arg("memory")).await?;
        let field = |name: &str| {
            info.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .unwrap_or_default()
                .trim()
        };
        let policy = field("maxmemory_policy");
        if field("maxmemory") != "0" && policy.starts_with("allkeys") {
            return Err(ConnectError::Evicts(policy.to_owned()));
        }
        Ok(())
    }
}

#[async_trait]
impl Ledger for RedisLedger {
    async fn open(
        &self,
        task: &Task,
        most: Option<u32>,
        key: Option<&IdempotencyKey>,
    ) -> Result<Opened, LedgerError> {
        self.open_task(task, most, key).await
    }

    async fn task(&self, id: TaskId) -> Result<Option<Task>, LedgerError> {
        self.read_task(id).await
    }

    async fn below(&self, id: TaskId) -> Result<Vec<Task>, LedgerError> {
        self.read_below(id).await
    }

    async fn advance(&self, id: TaskId, change: TaskChange, now: Timestamp) -> Result<Task, LedgerError> {
        self.advance_task(id, change, now).await
    }

    async fn reserve(
        &self,
        lease: &Lease,
        budgets: &Budgets,
        key: Option<&IdempotencyKey>,
        facts: FactsVersion,
    ) -> Result<Option<Place>, LedgerError> {
        self.reserve_lease(lease, budgets, key, facts).await
    }

    async fn name(&self, id: LeaseId, handle: &Handle) -> Result<(), LedgerError> {
        self.name_lease(id, handle).await
    }

    async fn activate(&self, id: LeaseId, handle: &Handle, expires_at: Timestamp) -> Result<(), LedgerError> {
        self.activate_lease(id, handle, expires_at).await
    }

    async fn renew(&self, id: LeaseId, terms: Renewal, now: Timestamp) -> Result<Lease, LedgerError> {
        self.renew_lease(id, terms, now).await
    }

    async fn lease(&self, id: LeaseId) -> Result<Option<Lease>, LedgerError> {
        self.read_lease(id).await
    }

    async fn live(&self, id: LeaseId, now: Timestamp) -> Result<Lease, LedgerError> {
        self.live_lease(id, now).await
    }

    async fn revoke(&self, id: LeaseId, cause: Cause, now: Timestamp) -> Result<Lease, LedgerError> {
        self.revoke_lease(id, cause, now).await
    }

    async fn revoke_all(&self, ids: &[LeaseId], cause: Cause, now: Timestamp) -> Result<usize, LedgerError> {
        self.revoke_leases(ids, cause, now).await
    }

    async fn claim_due(
        &self,
        now: Timestamp,
        hold: Duration,
        limit: NonZeroUsize,
    ) -> Result<Vec<Claim>, LedgerError> {
        self.sweep(now, hold, limit).await
    }

    async fn due_since(&self, now: Timestamp) -> Result<Option<Timestamp>, LedgerError> {
        self.first_due(now).await
    }

    async fn settle(
        &self,
        claim: &LeaseClaim,
        settlement: Settlement,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        self.settle_claim(claim, settlement, now).await
    }

    async fn settle_all(
        &self,
        settled: &[(LeaseClaim, Settlement)],
        now: Timestamp,
    ) -> Vec<Result<(), LedgerError>> {
        self.settle_claims(settled, now).await
    }

    async fn retry(&self, id: LeaseId, now: Timestamp) -> Result<Lease, LedgerError> {
        self.retry_lease(id, now).await
    }

    async fn abandon(
        &self,
        lease: &Lease,
        signature: &ReceiptSignature,
        now: Timestamp,
    ) -> Result<Lease, LedgerError> {
        self.abandon_lease(lease, signature, now).await
    }

    async fn cut(&self, cutoff: &Cutoff) -> Result<(), LedgerError> {
        self.record_cutoff(cutoff).await
    }

    async fn cutoffs(&self) -> Result<Vec<Cutoff>, LedgerError> {
        self.standing_cutoffs().await
    }

    async fn find(&self, filter: &Filter, page: &Page) -> Result<Vec<Lease>, LedgerError> {
        self.find_leases(filter, page).await
    }

    async fn changes(&self, since: &Cursor, wait: Duration) -> Result<Changes, LedgerError> {
        self.read_feed(since, wait).await
    }

    async fn ping(&self) -> Result<(), LedgerError> {
        // On one node, what holds for one shard holds for all.
        let shards = if self.requests.is_one_node() {
            1
        } else {
            self.shards.len()
        };
        let writes = self.shards.all().take(shards).map(|shard| async move {
            let set = redis::cmd("SET").arg(shard.ping()).arg(1).to_owned();
            self.requests.query::<()>(&set).await
        });
        futures_util::future::try_join_all(writes).await.map(drop)
    }
}

/// A number in an argument.
fn number(value: u64) -> Vec<u8> {
    value.to_string().into_bytes()
}

/// An instant in an argument.
fn instant(at: Timestamp) -> Vec<u8> {
    number(at.as_millis())
}
