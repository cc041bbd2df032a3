//! Facts, rechecks and marks. All of them are in the first shard, so that each step is one script and a
//! loss of them is a loss of that shard. That something was stated is then carried into every shard,
//! where it is looked at beside the cutoffs.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use tokio::sync::{Mutex, Notify};
use tokio::time::Instant;

use super::feed::POLL;
use super::keys::Shard;
use super::leases::refused;
use super::link::Reply;
use super::packed::{Head, cause_code, unpack_lease};
use super::{RedisLedger, instant, number, script};
use crate::ledger::context::{
    self, Context, MOST_ENDS, MOST_FACTS, MOST_RECHECKS, MOST_STATEMENTS, RecheckClaim, Stated, Statements,
};
use crate::ledger::{LedgerError, Refusal, record};
use crate::model::decision::Revision;
use crate::model::fact::{Fact, FactsVersion, MOST_OF_ONE};
use crate::model::ids::LeaseId;
use crate::model::lease::{Curtailed, Lease};
use crate::model::recheck::{Progress, Recheck, Work};
use crate::model::time::Timestamp;

/// How many facts one claim sees off at a time, and how often it does before it hands out.
const LAPSED_AT_ONCE: (u64, usize) = (100, 10);
/// How many statements, or orders, are read in one round trip.
const READ_AT_ONCE: usize = 500;

/// The latest version of the facts, as last seen: however many wait, one looks.
#[derive(Debug, Default)]
pub(super) struct Versions {
    seen: Mutex<Option<(Instant, FactsVersion)>>,
    stated: Notify,
}

/// An order in arguments: its key, its record, and whom the order to decide everything anew is about that may take
/// its place, with the record.
struct Order {
    key: Vec<u8>,
    record: Vec<u8>,
    everything: [Vec<u8>; 2],
}

impl Order {
    fn of(recheck: &Recheck) -> Result<Self, LedgerError> {
        let all = context::decide_everything(recheck);
        Ok(Self {
            key: record::recheck_key(recheck)?,
            record: record::encode_recheck(recheck)?,
            everything: [record::encode_selector(&all.whom)?, record::encode_recheck(&all)?],
        })
    }
}

fn count(most: usize) -> Vec<u8> {
    most.to_string().into_bytes()
}

impl RedisLedger {
    /// The shard in which facts, rechecks and marks are.
    fn home(&self) -> Shard<'_> {
        self.shards.nth(0)
    }

    /// What belongs to facts and to the rechecks that they order.
    fn circumstances(&self) -> [Vec<u8>; 7] {
        let home = self.home();
        [
            home.context(),
            home.facts(),
            home.told(),
            home.lapses(),
            home.subjects(),
            home.rechecks(),
            home.queue(),
        ]
    }

    /// Makes sure that no shard gives out what was decided on facts of before this version.
    async fn carry(&self, version: FactsVersion) -> Result<(), LedgerError> {
        let known = self.past.known();
        if version == FactsVersion::default() || known.carried() >= version {
            return Ok(());
        }
        let writes = self.shards.all().map(|shard| async move {
            let (keys, args) = ([shard.cutoffs()], [number(version.0)]);
            let run = self.run_counted(&self.requests, &script::CARRY, shard, &keys, &args);
            run.await.map(drop)
        });
        // All are waited for: what can be told is told, also when one shard is down.
        let outcome: Result<Vec<()>, LedgerError> = join_all(writes).await.into_iter().collect();
        outcome.map(|_| known.carry(version))
    }

    async fn facts_version(&self, fresh: bool) -> Result<FactsVersion, LedgerError> {
        let asked = Instant::now();
        let mut seen = self.versions.seen.lock().await;
        if let Some((at, version)) = seen.as_ref()
            && (*at >= asked || (!fresh && at.elapsed() < POLL.0 / 2))
        {
            return Ok(*version);
        }
        let at = Instant::now();
        let get = redis::cmd("HGET").arg(self.home().context()).arg("v").to_owned();
        let version: Option<u64> = self.reaping.query(&get).await?;
        let version = FactsVersion(version.unwrap_or_default());
        *seen = Some((at, version));
        Ok(version)
    }

    async fn read_statements(&self, since: FactsVersion) -> Result<Statements, LedgerError> {
        let home = self.home();
        let keys = [home.context(), home.facts(), home.told()];
        let mut statements = Statements::default();
        let mut after = None;
        loop {
            let args = [
                number(since.0),
                after.map(number).unwrap_or_default(),
                count(READ_AT_ONCE),
            ];
            let mut reply = self.reaping.run(&script::TOLD, &[&keys], &[&args]).await?;
            let (version, afresh) = (reply.number()?, reply.number()? == 1);
            if after.is_none() {
                (statements.version, statements.afresh) = (FactsVersion(version), afresh);
            }
            let before = statements.stated.len();
            while let Some(mut part) = reply.part()? {
                after = Some(part.number()?);
                statements.stated.push(unpack_fact(&part.bytes()?)?);
            }
            if statements.stated.len() - before < READ_AT_ONCE {
                return Ok(statements);
            }
        }
    }

    /// Sees off a fact that has expired, or forgets it.
    async fn lapse(&self, fact: &Fact, now: Timestamp) -> Result<(), LedgerError> {
        let order = Order::of(&context::decide_expired(fact))?;
        let [all, all_record] = order.everything;
        let args = [
            record::fact_key(fact),
            fact.about.to_string().into_bytes(),
            instant(now),
            instant(now.plus(self.retention)),
            order.key,
            order.record,
            all,
            all_record,
            count(MOST_RECHECKS),
        ];
        let keys = self.circumstances();
        let run = self.run_counted(&self.reaping, &script::LAPSE, self.home(), &keys, &args);
        run.await.map(drop)
    }
}

#[async_trait]
impl Context for RedisLedger {
    async fn state(&self, fact: &Fact, why: &str, now: Timestamp) -> Result<Stated, LedgerError> {
        let order = Order::of(&context::decide(fact, why, now))?;
        let [all, all_record] = order.everything;
        let value = fact.value.as_ref().map(|value| value.as_str().into());
        let args = [
            record::fact_key(fact),
            fact.about.to_string().into_bytes(),
            instant(fact.at),
            number(fact.expires_at.map_or(0, |at| at.as_millis().max(1))),
            value.unwrap_or_default(),
            record::encode_fact(fact)?,
            instant(now),
            instant(now.plus(self.retention)),
            count(MOST_OF_ONE),
            count(MOST_FACTS),
            count(MOST_STATEMENTS),
            order.key,
            order.record,
            all,
            all_record,
            count(MOST_RECHECKS),
        ];
        let keys = self.circumstances();
        let run = self.run_counted(&self.requests, &script::STATE, self.home(), &keys, &args);
        let mut reply = run.await?;
        let version = FactsVersion(reply.number()?);
        self.versions.stated.notify_waiters();
        // Whoever took what stands may have died before it was carried everywhere.
        self.carry(version).await?;
        match reply.word.as_str() {
            "ok" => Ok(Stated::New(version)),
            "unchanged" => Ok(Stated::Unchanged),
            "superseded" => Ok(Stated::Superseded),
            "too_many" => Err(Refusal::TooManyFacts.into()),
            _ => Err(reply.unexpected()),
        }
    }

    async fn facts(&self, since: FactsVersion, wait: Duration) -> Result<Statements, LedgerError> {
        let deadline = Instant::now() + wait;
        let (mut poll, slowest) = POLL;
        let mut fresh = true;
        loop {
            let stated = self.versions.stated.notified();
            tokio::pin!(stated);
            stated.as_mut().enable();
            let version = self.facts_version(fresh).await?;
            if version != since {
                return self.read_statements(since).await;
            }
            if Instant::now() >= deadline {
                return Ok(Statements {
                    version,
                    ..Statements::default()
                });
            }
            let pause = poll.min(deadline.saturating_duration_since(Instant::now()));
            fresh = tokio::select! {
                () = &mut stated => true,
                () = tokio::time::sleep(pause) => false,
            };
            poll = (poll * 2).min(slowest);
        }
    }

    async fn order_recheck(&self, recheck: &Recheck) -> Result<(), LedgerError> {
        let recheck = context::kept(recheck);
        let order = Order::of(&recheck)?;
        let [all, all_record] = order.everything;
        let home = self.home();
        let keys = [home.context(), home.rechecks(), home.queue()];
        let revision = recheck.work.revision();
        let args = [
            order.key,
            order.record,
            instant(context::reach(&recheck.work)),
            revision
                .map(|revision| revision.0.as_bytes().to_vec())
                .unwrap_or_default(),
            all,
            all_record,
            count(MOST_RECHECKS),
        ];
        let run = self.run_counted(&self.requests, &script::ORDER, home, &keys, &args);
        let reply = run.await?;
        match reply.word.as_str() {
            "ok" => Ok(()),
            "too_many" => Err(Refusal::TooManyRechecks.into()),
            _ => Err(reply.unexpected()),
        }
    }

    async fn claim_recheck(
        &self,
        now: Timestamp,
        hold: Duration,
        revision: &Revision,
    ) -> Result<Option<RecheckClaim>, LedgerError> {
        let home = self.home();
        let keys = [
            home.context(),
            home.facts(),
            home.lapses(),
            home.rechecks(),
            home.queue(),
        ];
        for turn in 0..=LAPSED_AT_ONCE.1 {
            let lapses = if turn < LAPSED_AT_ONCE.1 {
                LAPSED_AT_ONCE.0
            } else {
                0
            };
            let args = [
                instant(now),
                instant(now.plus(hold)),
                revision.0.as_bytes().to_vec(),
                number(lapses),
                number(MOST_ENDS),
            ];
            let mut reply = self.reaping.run(&script::NEXT, &[&keys], &[&args]).await?;
            match reply.word.as_str() {
                "lapses" => {
                    while let Some(mut part) = reply.part()? {
                        self.lapse(&unpack_fact(&part.bytes()?)?, now).await?;
                    }
                }
                "none" => return Ok(None),
                "ok" => {
                    let (version, hold) = (FactsVersion(reply.number()?), reply.number()?);
                    let recheck = unpack_order(&reply.bytes()?)?;
                    // Whoever stated what it is about may have died before it was carried everywhere.
                    self.carry(version).await?;
                    return Ok(Some(RecheckClaim { recheck, hold }));
                }
                _ => return Err(reply.unexpected()),
            }
        }
        Ok(None)
    }

    async fn settle_recheck(
        &self,
        claim: &RecheckClaim,
        progress: Progress,
        done: bool,
    ) -> Result<(), LedgerError> {
        let home = self.home();
        let keys = [home.context(), home.rechecks(), home.queue()];
        let recheck = Recheck {
            progress,
            ..claim.recheck.clone()
        };
        let record = match done {
            true => Vec::new(),
            false => record::encode_recheck(&recheck)?,
        };
        let args = [record::recheck_key(&recheck)?, number(claim.hold), record];
        let reply = self.reaping.run(&script::DONE, &[&keys], &[&args]).await?;
        match reply.word.as_str() {
            "ok" => Ok(()),
            "claim_lost" => Err(Refusal::ClaimLost.into()),
            _ => Err(reply.unexpected()),
        }
    }

    async fn rechecks(&self) -> Result<Vec<Recheck>, LedgerError> {
        let keys = [self.home().rechecks(), self.home().queue()];
        let mut rechecks = Vec::new();
        loop {
            let from = rechecks.len();
            let args = [count(from), count(from + READ_AT_ONCE - 1)];
            let mut reply = self.reaping.run(&script::ORDERS, &[&keys], &[&args]).await?;
            while let Some(order) = reply.more_bytes()? {
                rechecks.push(unpack_order(&order)?);
            }
            if rechecks.len() - from < READ_AT_ONCE {
                return Ok(rechecks);
            }
        }
    }

    async fn curtail(&self, id: LeaseId, curtailed: Curtailed, now: Timestamp) -> Result<Lease, LedgerError> {
        let shard = self.shards.of_lease(id);
        let keys = [shard.leases(), shard.due()];
        let args = [
            id.to_bytes().to_vec(),
            instant(curtailed.at.max(now)),
            number(cause_code(curtailed.cause).into()),
        ];
        let run = self.run_counted(&self.reaping, &script::CURTAIL, shard, &keys, &args);
        let mut reply: Reply = run.await?;
        match reply.word.as_str() {
            "ok" => Ok(unpack_lease(&reply.bytes()?)?.0),
            _ => Err(refused(&mut reply, &[], now)),
        }
    }

    async fn mark(&self, name: &str) -> Result<Option<Vec<u8>>, LedgerError> {
        let get = redis::cmd("HGET").arg(self.home().marks()).arg(name).to_owned();
        self.requests.query(&get).await
    }

    async fn set_mark(&self, name: &str, value: &[u8], expected: Option<&[u8]>) -> Result<bool, LedgerError> {
        context::fits(value)?;
        let keys = [self.home().marks()];
        let mut args = vec![name.into(), value.to_vec()];
        args.extend(expected.map(<[u8]>::to_vec));
        let run = self.run_counted(&self.requests, &script::MARK, self.home(), &keys, &args);
        let reply = run.await?;
        match reply.word.as_str() {
            "ok" => Ok(true),
            "other" => Ok(false),
            _ => Err(reply.unexpected()),
        }
    }
}

/// A statement: the head (`context.lua`) says what scripts need, the record all of it.
fn unpack_fact(bytes: &[u8]) -> Result<Fact, LedgerError> {
    let mut head = Head(bytes);
    let [_state] = head.take()?;
    let _instants = (head.at()?, head.at()?, head.at()?);
    let _value = head.bytes()?;
    record::decode_fact(head.0)
}

/// An order: the head says for which revision it waits.
fn unpack_order(bytes: &[u8]) -> Result<Recheck, LedgerError> {
    let mut head = Head(bytes);
    let _hold_until_reach = (head.at()?, head.at()?, head.at()?);
    let revision = head.short_text()?;
    let mut recheck = record::decode_recheck(head.0)?;
    if let Work::Decide { revision: waits } = &mut recheck.work {
        *waits = (!revision.is_empty()).then(|| Revision(revision.into()));
    }
    Ok(recheck)
}
