//! Budgets of agents and tools, which many shards use together while a step sees one of them.
//!
//! A shard gives out a small part by itself, in the step. Past that, and for budgets too small to have
//! parts, somebody looks at all shards once, and the step runs again with what they leave.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use futures_util::future::try_join_all;
use tokio::sync::{Mutex, MutexGuard};

use super::keys::Shard;
use super::{RedisLedger, script};
use crate::ledger::{LedgerError, rules};
use crate::model::name::{AgentName, ToolName};

/// What is counted in each shard, as scripts call it.
pub(super) enum Counted<'a> {
    LeasesOfAgent(&'a AgentName),
    LeasesOfTool(&'a ToolName),
    OpenTasksOfAgent(&'a AgentName),
}

impl Counted<'_> {
    fn field(&self) -> Vec<u8> {
        let (kind, name) = match self {
            Self::LeasesOfAgent(name) => ("a", name.as_str()),
            Self::LeasesOfTool(name) => ("c", name.as_str()),
            Self::OpenTasksOfAgent(name) => ("o", name.as_str()),
        };
        [kind, name].concat().into()
    }
}

/// Who looks at all shards. One at a time for each name, until its step is made: what one takes, the next
/// sees. Names that fall together wait for each other; brokers do not.
#[derive(Default)]
pub(super) struct Turns([Mutex<()>; 32]);

impl Turns {
    pub(super) async fn wait(&self, counted: &Counted<'_>) -> Option<MutexGuard<'_, ()>> {
        let mut hasher = DefaultHasher::new();
        counted.field().hash(&mut hasher);
        let place = usize::try_from(hasher.finish() % 32).unwrap_or_default();
        Some(self.0.get(place)?.lock().await)
    }
}

impl RedisLedger {
    /// How much of a budget a shard gives out by itself.
    pub(super) fn unasked(&self, limit: Option<u32>) -> Option<u32> {
        limit.map(|limit| rules::unasked(limit, self.shards.count()))
    }

    /// How much of a budget this shard may use as things stand; `None` when it uses that already.
    pub(super) async fn room(
        &self,
        counted: &Counted<'_>,
        limit: u32,
        shard: Shard<'_>,
    ) -> Result<Option<u32>, LedgerError> {
        let mut used = self.used(&counted.field()).await?;
        let own = used.remove(shard.number);
        let room = rules::room(limit, self.shards.count(), used);
        Ok((own < room).then_some(room))
    }

    /// How much each shard uses.
    async fn used(&self, field: &[u8]) -> Result<Vec<u32>, LedgerError> {
        let keys: Vec<Vec<u8>> = self.shards.all().map(Shard::counts).collect();
        let reach = if self.requests.is_one_node() {
            keys.len()
        } else {
            1
        };
        let looks = keys.chunks(reach).map(|keys| async move {
            let mut reply = self
                .requests
                .run(&script::USED, &[keys], &[&[field.to_vec()]])
                .await?;
            let numbers = keys.iter().map(|_| reply.number());
            numbers
                .map(|number| Ok(u32::try_from(number?).unwrap_or(u32::MAX)))
                .collect::<Result<Vec<u32>, LedgerError>>()
        });
        Ok(try_join_all(looks).await?.concat())
    }
}
