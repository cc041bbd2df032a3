//! Leases: writing them down, activating, renewing, reading and revoking them.

use std::collections::BTreeMap;

use futures_util::future::join_all;

use super::keys::Shard;
use super::link::Reply;
use super::packed::{
    cause_code, expiry_code, lease_id, optional, pack_lease, place_of, state_letter, task_bytes,
    unpack_lease, unpack_task,
};
use super::script::Step;
use super::shares::Counted;
use super::{AT_ONCE, RedisLedger, instant, script};
use crate::ledger::{
    Budget, Budgets, IdempotencyKey, LedgerError, Refusal, Renewal, record, rules, status_lists,
};
use crate::model::cutoff::Selector;
use crate::model::fact::FactsVersion;
use crate::model::ids::LeaseId;
use crate::model::lease::{Cause, Handle, Lease, LeaseState};
use crate::model::status_list::{Listing, Place};
use crate::model::time::Timestamp;

impl RedisLedger {
    pub(super) async fn reserve_lease(
        &self,
        lease: &Lease,
        budgets: &Budgets,
        key: Option<&IdempotencyKey>,
        facts: FactsVersion,
    ) -> Result<Option<Place>, LedgerError> {
        if matches!(lease.state, LeaseState::Ended { .. }) {
            return Err(LedgerError::Corrupt(
                "a lease that has ended cannot be reserved".to_owned(),
            ));
        }
        let shard = self.shards.of_lease(lease.id);
        let mut keys = vec![
            shard.tasks(),
            shard.leases(),
            shard.due(),
            shard.pending(),
            shard.counts(),
            shard.tools(),
            shard.cutoffs(),
            shard.forget(),
            shard.above(),
            shard.hours(),
            shard.places(),
        ];
        let indexes = shard.indexes(lease).collect::<Vec<_>>();
        let count = super::number(indexes.len().try_into().unwrap_or(u64::MAX));
        keys.extend(indexes);
        keys.extend(key.map(|key| shard.idempotency(&key.key)));
        let selectors: Vec<Selector> = rules::selectors(lease).collect();
        // A place is this lease's own: one that it brings is somebody else's.
        let value = match lease.listing {
            Listing::Unlisted | Listing::Wanted => pack_lease(lease)?,
            Listing::At(_) => pack_lease(&Lease {
                listing: Listing::Unlisted,
                ..lease.clone()
            })?,
        };
        let capacity = status_lists::capacity(self.shards.count());
        let place = match lease.listing {
            Listing::Wanted => [capacity, status_lists::draw(lease.id, capacity)]
                .map(|argument| super::number(argument.into())),
            Listing::Unlisted | Listing::At(_) => Default::default(),
        };
        let mut args = vec![
            lease.id.to_bytes().to_vec(),
            task_bytes(lease.task),
            value,
            instant(lease.issued_at),
            key.map(|key| key.key.to_vec()).unwrap_or_default(),
            vec![state_letter(&lease.state)],
            instant(rules::due_at(lease).unwrap_or(lease.issued_at)),
            lease.agent.as_str().into(),
            lease.tool.as_str().into(),
            limit(budgets.task),
            limit(self.unasked(budgets.agent)),
            limit(self.unasked(budgets.tool)),
            count,
            key.map(|key| key.content.to_vec()).unwrap_or_default(),
            super::number(facts.0),
        ];
        args.extend(place);
        for selector in &selectors {
            args.push(record::encode_selector(selector)?);
        }
        let mut reply = self.run_guarded(&script::RESERVE, shard, &keys, &args).await?;
        let mut looked = Vec::new();
        while reply.word == "budget" {
            let place = reply.number()?;
            let full = used_up(place, budgets).ok_or_else(|| reply.unexpected())?;
            let shared = match place {
                2 => budgets
                    .agent
                    .map(|most| (Counted::LeasesOfAgent(&lease.agent), most)),
                3 => budgets
                    .tool
                    .map(|most| (Counted::LeasesOfTool(&lease.tool), most)),
                _ => None,
            };
            // One look at the others for each, and no second one by anybody before this step is made.
            let Some((counted, most)) = shared.filter(|_| !looked.contains(&place)) else {
                return Err(full.into());
            };
            let _turn = self.turns.wait(&counted).await;
            let room = self.room(&counted, most, shard).await?;
            let argument = usize::try_from(place)
                .ok()
                .and_then(|place| args.get_mut(8 + place));
            let (Some(room), Some(argument)) = (room, argument) else {
                return Err(full.into());
            };
            *argument = limit(Some(room));
            looked.push(place);
            reply = self.run_guarded(&script::RESERVE, shard, &keys, &args).await?;
        }
        match reply.word.as_str() {
            "ok" => Ok(place_of(reply.number()?)),
            "key_reused" => Err(Refusal::KeyReused.into()),
            "repeated" => Err(Refusal::Repeated(lease_id(&reply.bytes()?)?).into()),
            "exists" => Err(Refusal::Exists.into()),
            _ => Err(refused(&mut reply, &selectors, lease.issued_at)),
        }
    }

    pub(super) async fn name_lease(&self, id: LeaseId, handle: &Handle) -> Result<(), LedgerError> {
        let shard = self.shards.of_lease(id);
        let keys = [shard.leases()];
        let args = [id.to_bytes().to_vec(), optional(Some(&handle.0))];
        let mut reply = self.run_guarded(&script::NAME, shard, &keys, &args).await?;
        match reply.word.as_str() {
            "ok" => Ok(()),
            _ => Err(refused(&mut reply, &[], Timestamp::EPOCH)),
        }
    }

    pub(super) async fn activate_lease(
        &self,
        id: LeaseId,
        handle: &Handle,
        expires_at: Timestamp,
    ) -> Result<(), LedgerError> {
        let shard = self.shards.of_lease(id);
        let keys = [shard.leases(), shard.due(), shard.pending(), shard.cutoffs()];
        let args = vec![
            id.to_bytes().to_vec(),
            optional(Some(&handle.0)),
            instant(expires_at),
        ];
        let (mut reply, selectors) = self.run_known(&script::ACTIVATE, shard, &keys, args).await?;
        match reply.word.as_str() {
            "ok" => Ok(()),
            _ => Err(refused(&mut reply, &selectors, Timestamp::EPOCH)),
        }
    }

    pub(super) async fn renew_lease(
        &self,
        id: LeaseId,
        terms: Renewal,
        now: Timestamp,
    ) -> Result<Lease, LedgerError> {
        let shard = self.shards.of_lease(id);
        let keys = [
            shard.leases(),
            shard.due(),
            shard.tasks(),
            shard.above(),
            shard.cutoffs(),
        ];
        let args = vec![
            id.to_bytes().to_vec(),
            instant(terms.expires_at),
            instant(now),
            record::encode_renewal(&terms)?,
            super::number(expiry_code(terms.bounded_by).into()),
            super::number(terms.facts.0),
        ];
        let (mut reply, selectors) = self.run_known(&script::RENEW, shard, &keys, args).await?;
        match reply.word.as_str() {
            "ok" => Ok(unpack_lease(&reply.bytes()?)?.0),
            "expired" => Err(Refusal::LeaseNotOpen("expired").into()),
            _ => Err(refused(&mut reply, &selectors, now)),
        }
    }

    /// Runs a step that cutoffs may stop. Whose the lease is matters only while a cutoff reaches leases
    /// of its age; then the script asks, and runs again with the selectors that fit the lease.
    async fn run_known(
        &self,
        step: &Step,
        shard: Shard<'_>,
        keys: &[Vec<u8>],
        mut args: Vec<Vec<u8>>,
    ) -> Result<(Reply, Vec<Selector>), LedgerError> {
        let mut reply = self.run_guarded(step, shard, keys, &args).await?;
        let mut selectors = Vec::new();
        if reply.word == "who" {
            selectors.extend(rules::selectors(&unpack_lease(&reply.bytes()?)?.0));
            for selector in &selectors {
                args.push(record::encode_selector(selector)?);
            }
            reply = self.run_guarded(step, shard, keys, &args).await?;
        }
        Ok((reply, selectors))
    }

    pub(super) async fn read_lease(&self, id: LeaseId) -> Result<Option<Lease>, LedgerError> {
        let shard = self.shards.of_lease(id);
        let get = redis::cmd("HGET")
            .arg(shard.leases())
            .arg(&id.to_bytes())
            .to_owned();
        let stored: Option<Vec<u8>> = self.requests.query(&get).await?;
        stored
            .map(|bytes| unpack_lease(&bytes).map(|(lease, _)| lease))
            .transpose()
    }

    pub(super) async fn live_lease(&self, id: LeaseId, now: Timestamp) -> Result<Lease, LedgerError> {
        let shard = self.shards.of_lease(id);
        let keys = [shard.leases(), shard.tasks(), shard.above(), shard.cutoffs()];
        let args = vec![id.to_bytes().to_vec(), instant(now)];
        let (mut reply, selectors) = self.run_known(&script::LIVE, shard, &keys, args).await?;
        match reply.word.as_str() {
            "ok" => Ok(unpack_lease(&reply.bytes()?)?.0),
            "expired" => Err(Refusal::LeaseNotOpen("expired").into()),
            _ => Err(refused(&mut reply, &selectors, now)),
        }
    }

    pub(super) async fn retry_lease(&self, id: LeaseId, now: Timestamp) -> Result<Lease, LedgerError> {
        let shard = self.shards.of_lease(id);
        let keys = [shard.leases(), shard.due()];
        let args = [id.to_bytes().to_vec(), instant(now)];
        let mut reply = self.reaping.run(&script::RETRY, &[&keys], &[&args]).await?;
        match reply.word.as_str() {
            "ok" => Ok(unpack_lease(&reply.bytes()?)?.0),
            _ => Err(refused(&mut reply, &[], now)),
        }
    }

    pub(super) async fn revoke_lease(
        &self,
        id: LeaseId,
        cause: Cause,
        now: Timestamp,
    ) -> Result<Lease, LedgerError> {
        let shard = self.shards.of_lease(id);
        let mut reply = self.revoking(shard, &[id], cause, now, b"1").await?;
        let _turned = reply.number()?;
        match reply.bytes()?.as_slice() {
            [] => Err(Refusal::NoLease.into()),
            stored => Ok(unpack_lease(stored)?.0),
        }
    }

    /// Shard by shard, a bounded number of leases at a time. What can be turned is, also when one shard is down.
    pub(super) async fn revoke_leases(
        &self,
        ids: &[LeaseId],
        cause: Cause,
        now: Timestamp,
    ) -> Result<usize, LedgerError> {
        let mut shelves = BTreeMap::<usize, Vec<LeaseId>>::new();
        for id in ids {
            let number = self.shards.of_lease(*id).number;
            shelves.entry(number).or_default().push(*id);
        }
        let steps = shelves.iter().flat_map(|(number, ids)| {
            let shard = self.shards.nth(*number);
            ids.chunks(AT_ONCE).map(move |some| async move {
                let mut reply = self.revoking(shard, some, cause, now, b"").await?;
                reply.number()
            })
        });
        let turned = join_all(steps)
            .await
            .into_iter()
            .collect::<Result<Vec<u64>, _>>()?;
        Ok(usize::try_from(turned.iter().sum::<u64>()).unwrap_or(usize::MAX))
    }

    /// Turns leases of a shard; with anything in `answer`, tells how each then stands.
    async fn revoking(
        &self,
        shard: Shard<'_>,
        ids: &[LeaseId],
        cause: Cause,
        now: Timestamp,
        answer: &[u8],
    ) -> Result<Reply, LedgerError> {
        let keys = [
            shard.leases(),
            shard.due(),
            shard.pending(),
            shard.feed(),
            shard.seq(),
            shard.places(),
        ];
        let mut args = vec![
            super::number(cause_code(cause).into()),
            instant(now),
            instant(rules::due_from(cause, now)),
            answer.to_vec(),
        ];
        args.extend(ids.iter().map(|id| id.to_bytes().to_vec()));
        let run = self.run_counted_for(ids.len(), &self.reaping, &script::REVOKE, shard, &keys, &args);
        let reply = run.await?;
        match reply.word.as_str() {
            "ok" => {
                self.heads.published();
                Ok(reply)
            }
            _ => Err(reply.unexpected()),
        }
    }
}

/// A limit in arguments; empty for none.
pub(super) fn limit(budget: Option<u32>) -> Vec<u8> {
    budget
        .map(|limit| super::number(limit.into()))
        .unwrap_or_default()
}

/// The budget that the script found used up, by its place in the arguments.
fn used_up(place: u64, budgets: &Budgets) -> Option<Refusal> {
    let (budget, limit) = match place {
        1 => (Budget::Task, budgets.task),
        2 => (Budget::Agent, budgets.agent),
        3 => (Budget::Tool, budgets.tool),
        _ => return None,
    };
    limit.map(|limit| Refusal::Budget { budget, limit })
}

/// The refusals that the steps of a lease share. Scripts send the record that made them refuse.
pub(super) fn refused(reply: &mut Reply, selectors: &[Selector], now: Timestamp) -> LedgerError {
    let state = |reply: &mut Reply| -> Result<&'static str, LedgerError> {
        Ok(unpack_lease(&reply.bytes()?)?.0.state.as_str())
    };
    let read = |reply: &mut Reply| -> Result<Refusal, LedgerError> {
        Ok(match reply.word.as_str() {
            "no_task" => Refusal::NoTask,
            "no_lease" => Refusal::NoLease,
            "task_not_open" => {
                let task = unpack_task(&reply.bytes()?)?;
                rules::open_at(&task, now)
                    .err()
                    .unwrap_or(Refusal::TaskNotOpen(task.state))
            }
            "parent_not_open" => {
                let parent = unpack_task(&reply.bytes()?)?;
                rules::open_above(&parent, now)
                    .err()
                    .unwrap_or(Refusal::TaskNotOpen(parent.state))
            }
            "stale_facts" => Refusal::StaleFacts,
            "lease_not_open" => Refusal::LeaseNotOpen(state(reply)?),
            "lease_not_ending" => Refusal::LeaseNotEnding(state(reply)?),
            "lease_not_stuck" => Refusal::LeaseNotStuck(state(reply)?),
            "cut" => {
                let place = usize::try_from(reply.number()?).unwrap_or_default();
                match place.checked_sub(1).and_then(|place| selectors.get(place)) {
                    Some(selector) => Refusal::Cut(selector.clone()),
                    None => return Err(reply.unexpected()),
                }
            }
            _ => return Err(reply.unexpected()),
        })
    };
    read(reply).map_or_else(|error| error, LedgerError::Refused)
}
