//! Status lists: which there are, and what was struck on them. Places are taken and struck by the steps of leases.

use std::collections::BTreeMap;

use async_trait::async_trait;
use futures_util::future::try_join_all;

use super::{RedisLedger, number, script};
use crate::ledger::LedgerError;
use crate::ledger::status_lists::{Naming, PAGE, StatusLists, capacity};
use crate::model::status_list::Hour;

#[async_trait]
impl StatusLists for RedisLedger {
    fn naming(&self) -> Option<Naming> {
        Some(Naming {
            epoch: self.past.known().epoch()?,
            shards: self.shards.count(),
        })
    }

    async fn parts(&self) -> Result<BTreeMap<Hour, u32>, LedgerError> {
        let half = u64::from(capacity(self.shards.count()) / 2).max(1);
        let looks = self.shards.all().map(|shard| async move {
            let mut reply = self
                .run_guarded(&script::HOURS, shard, &[shard.hours()], &[])
                .await?;
            let mut parts = Vec::new();
            while let Some(hour) = reply.more_number()? {
                parts.push((hour, reply.number()?.div_ceil(half)));
            }
            Ok::<_, LedgerError>(parts)
        });
        let mut all = BTreeMap::new();
        for (hour, parts) in try_join_all(looks).await?.concat() {
            let hour = Hour(u32::try_from(hour).unwrap_or(u32::MAX));
            let most: &mut u32 = all.entry(hour).or_default();
            *most = (*most).max(u32::try_from(parts).unwrap_or(u32::MAX));
        }
        Ok(all)
    }

    async fn struck(&self, hour: Hour, part: u32) -> Result<Vec<u8>, LedgerError> {
        let pages = u64::from(capacity(self.shards.count()) / PAGE);
        let first = u64::from(part) * pages;
        let args = [
            number(hour.0.into()),
            number(first),
            number(first + pages.saturating_sub(1)),
        ];
        let looks = self.shards.all().map(|shard| {
            let args = &args;
            async move {
                let keys = [shard.places()];
                self.run_guarded(&script::STRUCK, shard, &keys, args)
                    .await?
                    .bytes()
            }
        });
        Ok(try_join_all(looks).await?.concat())
    }
}
