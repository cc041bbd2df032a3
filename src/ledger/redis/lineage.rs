//! The lineage of the ledger in Redis: each shard has its own, since a cluster can lose one node.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::{join_all, try_join_all};

use super::keys::Shard;
use super::link::{Link, Reply};
use super::packed::{pack_lease, task_bytes, unpack_task};
use super::past::Known;
use super::script::Step;
use super::{RedisLedger, instant, number, script};
use crate::entropy::{OsEntropy, draw};
use crate::ledger::lineage::{self, Epoch, Lineage, Loss, Mark, Memory, Stand, Standing, Watched, Writer};
use crate::ledger::{LedgerError, rules};
use crate::model::lease::Lease;
use crate::model::task::{Outcome, TaskChange, TaskState};
use crate::model::time::Timestamp;

/// How many tasks are looked at in one round trip.
const TASKS_AT_ONCE: u16 = 500;

/// The name of a writer's count.
fn field(writer: Writer) -> Vec<u8> {
    [b"w".as_slice(), &writer.0.to_be_bytes()].concat()
}

/// A number that a hash holds as text.
fn stored(text: Option<Vec<u8>>) -> Option<u64> {
    std::str::from_utf8(&text?).ok()?.parse().ok()
}

impl RedisLedger {
    /// Runs a step that gives something out, or that somebody relies on.
    pub(super) async fn run_guarded(
        &self,
        step: &Step,
        shard: Shard<'_>,
        keys: &[Vec<u8>],
        args: &[Vec<u8>],
    ) -> Result<Reply, LedgerError> {
        if let Some(loss) = self.past.loss() {
            return Err(LedgerError::Lost(loss));
        }
        // Taken before the step is sent: what was answered by now was done before it.
        let known = self.past.known();
        let lineage = [shard.lineage()];
        let epoch = known.epoch().map(|epoch| epoch.to_string()).unwrap_or_default();
        let past = [
            field(self.past.writer()),
            number(known.seen(shard.number)),
            epoch.into_bytes(),
        ];
        let mut reply = self.requests.run(step, &[keys, &lineage], &[args, &past]).await?;
        if reply.word == "lost" {
            return Err(LedgerError::Lost(self.find_loss(&known).await));
        }
        known.saw(shard.number, reply.number()?);
        Ok(reply)
    }

    /// Runs a step that ends something. It is made whatever became of the ledger.
    pub(super) async fn run_counted(
        &self,
        link: &Link,
        step: &Step,
        shard: Shard<'_>,
        keys: &[Vec<u8>],
        args: &[Vec<u8>],
    ) -> Result<Reply, LedgerError> {
        self.run_counted_for(1, link, step, shard, keys, args).await
    }

    /// The same, for a step about so many things.
    pub(super) async fn run_counted_for(
        &self,
        things: usize,
        link: &Link,
        step: &Step,
        shard: Shard<'_>,
        keys: &[Vec<u8>],
        args: &[Vec<u8>],
    ) -> Result<Reply, LedgerError> {
        let known = self.past.known();
        let seen = known.seen(shard.number);
        let lineage = [shard.lineage()];
        let past = [field(self.past.writer())];
        let mut reply = link
            .run_for(things, step, &[keys, &lineage], &[args, &past])
            .await?;
        let progress = reply.number()?;
        if progress > seen {
            known.saw(shard.number, progress);
        } else if self.past.loss().is_none() {
            self.find_loss(&known).await;
        }
        Ok(reply)
    }

    /// Writes a cutoff into several shards, of which the first tells of it, and counts it in each. It is made whatever
    /// became of the ledger.
    pub(super) async fn cut_in(
        &self,
        shards: &[Shard<'_>],
        mut args: Vec<Vec<u8>>,
        tells: bool,
    ) -> Result<(), LedgerError> {
        let known = self.past.known();
        let seen: Vec<u64> = shards.iter().map(|shard| known.seen(shard.number)).collect();
        let mut keys: Vec<Vec<u8>> = shards
            .iter()
            .flat_map(|shard| [shard.cutoffs(), shard.lineage()])
            .collect();
        if let Some(first) = shards.first().filter(|_| tells) {
            keys.extend([first.feed(), first.seq()]);
        }
        args.extend([field(self.past.writer()), number(tells.into())]);
        let mut reply = self.requests.run(&script::CUT, &[&keys], &[&args]).await?;
        let mut forgotten = false;
        for (shard, seen) in shards.iter().zip(seen) {
            let progress = reply.number()?;
            forgotten |= progress <= seen;
            known.saw(shard.number, progress);
        }
        if forgotten && self.past.loss().is_none() {
            self.find_loss(&known).await;
        }
        Ok(())
    }

    /// A shard does not know what it answered: says why, and makes sure that it is so for everybody.
    async fn find_loss(&self, asked: &Arc<Known>) -> Loss {
        match self.look_back().await {
            Ok(Watched::Lost(loss)) => loss,
            Ok(Watched::Recovered) => Loss::Replaced,
            // It was asked before a recovery, and the ledger was taken into use since.
            _ if !Arc::ptr_eq(asked, &self.past.known()) => Loss::Replaced,
            Ok(Watched::Whole(_)) | Err(_) => {
                let told = self.take_away(Loss::RolledBack).await;
                if let Err(error) = told {
                    tracing::warn!(%error, "could not tell other brokers that the ledger was lost");
                }
                Loss::RolledBack
            }
        }
    }

    /// What each shard says to a writer.
    async fn survey(&self, writer: Writer) -> Result<Vec<Stand>, LedgerError> {
        let reads = self.shards.all().map(|shard| async move {
            let get = redis::cmd("HMGET")
                .arg(shard.lineage())
                .arg("epoch")
                .arg("lost")
                .arg(field(writer))
                .to_owned();
            let (epoch, lost, count): (Option<String>, Option<String>, Option<Vec<u8>>) =
                self.reaping.query(&get).await?;
            let epoch = epoch.map(|epoch| epoch.parse()).transpose();
            Ok(Stand {
                epoch: epoch.map_err(|error| LedgerError::Corrupt(format!("{error}")))?,
                lost: lost.is_some(),
                progress: stored(count),
            })
        });
        try_join_all(reads).await
    }

    /// Makes the ledger, joins it, or finds that it was lost: as the memory of this writer has it.
    pub(super) async fn find_place(&self) -> Result<(), LedgerError> {
        let memory = self.past.known().memory();
        if memory == Memory::Observer {
            self.past.latch(Loss::Told);
            return Ok(());
        }
        let shards = self.survey(self.past.writer()).await?;
        match lineage::judge(&shards, &memory) {
            Standing::Whole(epoch) | Standing::Recovered(epoch) if memory != Memory::Nothing => {
                self.take_up(epoch, &shards);
                Ok(())
            }
            Standing::Whole(epoch) | Standing::Recovered(epoch) => self.enter(epoch).await,
            Standing::New => self.make().await,
            Standing::Lost(loss) => match self.half_made(&shards, &memory).await? {
                true => self.make().await,
                false => self.take_away(loss).await,
            },
        }
    }

    /// Whether another broker is making the ledger, or died while it did.
    async fn half_made(&self, shards: &[Stand], memory: &Memory) -> Result<bool, LedgerError> {
        if *memory != Memory::Nothing || shards.iter().any(|shard| shard.lost) {
            return Ok(false);
        }
        let (begun, made): (Option<String>, Option<String>) = self.made().await?;
        let begun = begun.filter(|begun| made.as_ref() != Some(begun));
        Ok(begun.is_some_and(|begun| {
            let mut epochs = shards.iter().filter_map(|shard| shard.epoch);
            epochs.all(|epoch| epoch.to_string() == begun)
        }))
    }

    async fn made(&self) -> Result<(Option<String>, Option<String>), LedgerError> {
        let get = redis::cmd("HMGET")
            .arg(&self.meta)
            .arg("epoch")
            .arg("made")
            .to_owned();
        self.requests.query(&get).await
    }

    /// The first start. Whoever comes first chooses the epoch.
    async fn make(&self) -> Result<(), LedgerError> {
        let drawn = draw(&OsEntropy::new()).map_err(|error| LedgerError::Unavailable(error.to_string()))?;
        let drawn = Epoch::first(drawn).to_string();
        let set = redis::cmd("HSETNX")
            .arg(&self.meta)
            .arg("epoch")
            .arg(drawn)
            .to_owned();
        self.requests.query::<()>(&set).await?;
        let epoch = self.made().await?.0.and_then(|epoch| epoch.parse().ok());
        let epoch =
            epoch.ok_or_else(|| LedgerError::Corrupt("the epoch of the ledger in Redis".to_owned()))?;
        self.enter(epoch).await?;
        self.all_made(epoch).await
    }

    async fn all_made(&self, epoch: Epoch) -> Result<(), LedgerError> {
        let set = redis::cmd("HSET")
            .arg(&self.meta)
            .arg("made")
            .arg(epoch.to_string())
            .to_owned();
        self.requests.query::<()>(&set).await
    }

    /// Enters this writer in every shard.
    async fn enter(&self, epoch: Epoch) -> Result<(), LedgerError> {
        let args = [epoch.to_string().into_bytes(), field(self.past.writer())];
        let joins = self.shards.all().map(|shard| {
            let (keys, args) = ([shard.lineage()], &args);
            async move { self.requests.run(&script::JOIN, &[&keys], &[args]).await }
        });
        let mut progress = Vec::new();
        for mut reply in try_join_all(joins).await? {
            match reply.word.as_str() {
                "ok" => progress.push(reply.number()?),
                _ => return self.take_away(Loss::Told).await,
            }
        }
        self.past.joined(epoch, progress);
        Ok(())
    }

    /// Takes a ledger into use in which this writer is entered.
    fn take_up(&self, epoch: Epoch, shards: &[Stand]) {
        let progress: Vec<u64> = shards
            .iter()
            .map(|shard| shard.progress.unwrap_or_default())
            .collect();
        self.past.joined(epoch, progress);
    }

    async fn look_back(&self) -> Result<Watched, LedgerError> {
        let known = self.past.known();
        let (memory, latched) = (known.memory(), self.past.loss());
        let shards = self.survey(self.past.writer()).await?;
        let was_joined = matches!(memory, Memory::Mark(_));
        match (latched, lineage::judge(&shards, &memory)) {
            (None, Standing::Whole(epoch)) => {
                let progress: Vec<u64> = shards.iter().filter_map(|shard| shard.progress).collect();
                for (number, progress) in progress.iter().enumerate() {
                    known.saw(number, *progress);
                }
                Ok(Watched::Whole(Mark { epoch, progress }))
            }
            (Some(_), Standing::Whole(_)) if !was_joined => Ok(Watched::Recovered),
            (_, Standing::Recovered(_)) => {
                if latched.is_none() {
                    self.past.latch(Loss::Replaced);
                }
                Ok(Watched::Recovered)
            }
            (latched, found) => {
                let loss = match (latched, found) {
                    (Some(loss), _) | (None, Standing::Lost(loss)) => loss,
                    (None, _) => Loss::Emptied,
                };
                // Told each time: a shard that was out of reach before is told now.
                if let Err(error) = self.take_away(loss).await {
                    tracing::warn!(%error, "could not tell other brokers that the ledger was lost");
                }
                Ok(Watched::Lost(loss))
            }
        }
    }

    /// Gives nothing out from now on, and takes the epoch that was joined from all.
    async fn take_away(&self, loss: Loss) -> Result<(), LedgerError> {
        self.past.latch(loss);
        let Some(epoch) = self.past.known().epoch() else {
            return Ok(());
        };
        self.lose(epoch).await
    }

    /// Takes the ledger for a recovery, and counts its steps: if it is lost once more meanwhile, the next epoch
    /// does not begin.
    async fn take(&self) -> Result<(), LedgerError> {
        let (known, args) = (self.past.known(), [field(self.past.writer())]);
        let takes = self.shards.all().map(|shard| {
            let (keys, known, args) = ([shard.lineage()], &known, &args);
            async move {
                let mut reply = self.reaping.run(&script::TAKE, &[&keys], &[args]).await?;
                known.saw(shard.number, reply.number()?);
                Ok(())
            }
        });
        try_join_all(takes).await.map(drop)
    }

    async fn lose(&self, epoch: Epoch) -> Result<(), LedgerError> {
        let args = [epoch.to_string().into_bytes()];
        let writes = self.shards.all().map(|shard| {
            let (keys, args) = ([shard.lineage()], &args);
            async move { self.reaping.run(&script::LOSE, &[&keys], &[args]).await }
        });
        // All are waited for: who can be told is told, also when one shard is down.
        join_all(writes)
            .await
            .into_iter()
            .collect::<Result<Vec<_>, _>>()
            .map(drop)
    }
}

#[async_trait]
impl Lineage for RedisLedger {
    fn loss(&self) -> Option<Loss> {
        self.past.loss()
    }

    async fn judge(&self, writer: Writer, memory: &Memory) -> Result<Standing, LedgerError> {
        Ok(lineage::judge(&self.survey(writer).await?, memory))
    }

    async fn watch(&self) -> Result<Watched, LedgerError> {
        self.look_back().await
    }

    async fn condemn(&self, loss: Loss) -> Result<(), LedgerError> {
        if self.past.known().memory() == Memory::Observer {
            return self.take().await;
        }
        self.take_away(loss).await
    }

    async fn rejoin(&self) -> Result<(), LedgerError> {
        let memory = self.past.known().memory();
        let shards = self.survey(self.past.writer()).await?;
        match lineage::judge(&shards, &memory) {
            Standing::Recovered(epoch) => self.take_up(epoch, &shards),
            Standing::Whole(epoch) if memory == Memory::Journal => self.take_up(epoch, &shards),
            Standing::Whole(epoch) if memory == Memory::Nothing => self.enter(epoch).await?,
            _ => {}
        }
        match self.past.loss() {
            None => Ok(()),
            Some(loss) => Err(LedgerError::Lost(loss)),
        }
    }

    async fn adopt(&self, lease: &Lease) -> Result<bool, LedgerError> {
        let since = rules::effort(&lease.state).map(|effort| effort.since);
        let since = since
            .ok_or_else(|| LedgerError::Corrupt("only a lease that has to end is adopted".to_owned()))?;
        let shard = self.shards.of_lease(lease.id);
        let mut keys = vec![
            shard.leases(),
            shard.due(),
            shard.pending(),
            shard.counts(),
            shard.tools(),
        ];
        keys.extend(shard.indexes(lease));
        let args = [
            lease.id.to_bytes().to_vec(),
            pack_lease(lease)?,
            instant(since),
            task_bytes(lease.task),
            lease.agent.as_str().into(),
            lease.tool.as_str().into(),
        ];
        let run = self.run_counted(&self.reaping, &script::ADOPT, shard, &keys, &args);
        let reply = run.await?;
        match reply.word.as_str() {
            "ok" => Ok(true),
            "exists" => Ok(false),
            _ => Err(reply.unexpected()),
        }
    }

    async fn end_tasks(&self, now: Timestamp) -> Result<usize, LedgerError> {
        let mut ended = 0;
        for shard in self.shards.all() {
            let mut cursor = 0_u64;
            loop {
                let scan = redis::cmd("HSCAN")
                    .arg(shard.tasks())
                    .arg(cursor)
                    .arg("COUNT")
                    .arg(TASKS_AT_ONCE)
                    .to_owned();
                let (next, found): (u64, Vec<(Vec<u8>, Vec<u8>)>) = self.reaping.query(&scan).await?;
                for (_id, stored) in found {
                    let task = unpack_task(&stored)?;
                    if !matches!(task.state, TaskState::Ended { .. }) {
                        let change = TaskChange::End(Outcome::Revoked);
                        self.advance_task(task.charter.id, change, now).await?;
                        ended += 1;
                    }
                }
                cursor = next;
                if cursor == 0 {
                    break;
                }
            }
        }
        Ok(ended)
    }

    async fn begin_epoch(&self, epoch: Epoch, writers: &BTreeSet<Writer>) -> Result<(), LedgerError> {
        let set = redis::cmd("HSET")
            .arg(&self.meta)
            .arg("epoch")
            .arg(epoch.to_string())
            .to_owned();
        self.requests.query::<()>(&set).await?;
        // Who knew the facts of before begins afresh.
        let context = self.shards.nth(0).context();
        self.requests
            .query::<()>(redis::cmd("HDEL").arg(context).arg("f"))
            .await?;
        let known = self.past.known();
        let recovers = known.memory() == Memory::Observer;
        let entered: Vec<_> = writers.iter().copied().map(field).collect();
        let begins = self.shards.all().map(|shard| {
            let count = if recovers { known.seen(shard.number) } else { 0 };
            let by = [
                epoch.to_string().into_bytes(),
                field(self.past.writer()),
                number(count),
            ];
            let (keys, entered) = ([shard.lineage()], &entered);
            async move {
                self.reaping
                    .run(&script::BEGIN, &[&keys], &[&by[..], entered.as_slice()])
                    .await
            }
        });
        for reply in try_join_all(begins).await? {
            if reply.word == "lost" {
                return Err(LedgerError::Lost(Loss::RolledBack));
            }
        }
        self.all_made(epoch).await
    }
}
