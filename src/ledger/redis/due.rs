//! What falls due: claiming it, settling it, and forgetting what ended long ago.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;

use super::keys::Shard;
use super::leases::refused;
use super::link::Reply;
use super::packed::{cause_code, optional, proof_code, task_bytes, unpack_lease, unpack_task};
use super::{AT_ONCE, RedisLedger, instant, number, script};
use crate::ledger::{Claim, LeaseClaim, LedgerError, Refusal, Settlement, record, rules, status_lists};
use crate::model::lease::{Cause, Lease, Receipt, ReceiptSignature};
use crate::model::task::Task;
use crate::model::time::Timestamp;

/// How much one sweep forgets in each shard.
const FORGOTTEN_AT_ONCE: u64 = 100;

/// What an answer tells of.
enum Kept {
    Key([u8; 32]),
    Task(Task),
    Lease(LeaseClaim),
}

impl RedisLedger {
    /// Asks all shards what is due, then takes a fair part from those that have something. Each sweep
    /// begins at another shard, so that no shard waits behind the limit for ever.
    pub(super) async fn sweep(
        &self,
        now: Timestamp,
        hold: Duration,
        limit: NonZeroUsize,
    ) -> Result<Vec<Claim>, LedgerError> {
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        let shards: Vec<Shard<'_>> = (0..self.shards.len())
            .map(|n| self.shards.nth(first + n))
            .collect();
        let until = now.minus(self.retention);
        let looks = shards.iter().map(|shard| self.look_at(*shard, now, until));
        let mut failure = None;
        let mut or_note = |error| failure = Some(error);
        // A shard that cannot be reached does not keep the others from being swept.
        let looks = join_all(looks).await.into_iter();
        let looks: Vec<(usize, usize)> = looks
            .map(|look| {
                look.unwrap_or_else(|error| {
                    or_note(error);
                    (0, 0)
                })
            })
            .collect();
        let due: Vec<usize> = looks.iter().map(|(due, _)| *due).collect();
        let parts = parts(&due, limit.get());
        let claims = shards.iter().zip(&parts).filter(|(_, part)| **part > 0);
        let claims = claims.map(|(shard, part)| self.claim_in(*shard, now, hold, *part));
        let mut taken = Vec::new();
        for answer in join_all(claims).await.into_iter().flatten() {
            match answer {
                Ok(claims) => taken.extend(claims),
                Err(error) => or_note(error),
            }
        }
        if let Some(error) = failure {
            // What was claimed is held by us: losing it over another shard's fault would cost a hold.
            if taken.is_empty() {
                return Err(error);
            }
            tracing::warn!(%error, "a shard of the ledger could not be swept");
        }
        let old = shards.iter().zip(&looks).filter(|(_, (_, old))| *old > 0);
        let forgetting = old.map(|(shard, _)| self.forget_in(*shard, until, now));
        let forgotten: Result<Vec<()>, _> = join_all(forgetting).await.into_iter().collect();
        if let Err(error) = forgotten {
            tracing::warn!(%error, "the ledger could not forget what ended");
        }
        Ok(taken)
    }

    /// Since when the longest due has waited.
    pub(super) async fn first_due(&self, now: Timestamp) -> Result<Option<Timestamp>, LedgerError> {
        let from = rules::between(now).as_millis();
        let firsts = self.shards.all().map(|shard| async move {
            let first = async |least: &str| {
                let mut range = redis::cmd("ZRANGEBYSCORE");
                let bounds = range.arg(shard.due()).arg(least).arg("+inf");
                let one = bounds.arg("WITHSCORES").arg("LIMIT").arg(0).arg(1);
                let found: Vec<(Vec<u8>, u64)> = self.reaping.query(one).await?;
                Ok::<_, LedgerError>(found.first().map(|(_, due)| Timestamp::from_millis(*due)))
            };
            let (ordered, by_itself) = (first("-inf").await?, first(&from.to_string()).await?);
            Ok::<_, LedgerError>(rules::waits_since(ordered, by_itself, now))
        });
        let firsts = futures_util::future::try_join_all(firsts).await?;
        Ok(firsts.into_iter().flatten().min())
    }

    /// How much is due in a shard, and how much there is to forget.
    async fn look_at(
        &self,
        shard: Shard<'_>,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<(usize, usize), LedgerError> {
        let keys = [
            shard.due(),
            shard.forget(),
            shard.feed(),
            shard.cutoffs(),
            shard.hours(),
            shard.places(),
        ];
        let args = [
            instant(now),
            instant(until),
            number(status_lists::earliest(now).0.into()),
            number(status_lists::capacity(self.shards.count()).into()),
        ];
        let mut reply = self.reaping.run(&script::LOOK, &[&keys], &[&args]).await?;
        let mut count = || {
            reply
                .number()
                .map(|count| usize::try_from(count).unwrap_or(usize::MAX))
        };
        Ok((count()?, count()?))
    }

    /// Claims so many of a shard, a bounded number at a time: each step takes those that are due longest by then.
    async fn claim_in(
        &self,
        shard: Shard<'_>,
        now: Timestamp,
        hold: Duration,
        part: usize,
    ) -> Vec<Result<Vec<Claim>, LedgerError>> {
        let steps = (0..part).step_by(AT_ONCE).map(|taken| {
            let some = AT_ONCE.min(part - taken);
            self.claim_some(shard, now, hold, some)
        });
        join_all(steps).await
    }

    async fn claim_some(
        &self,
        shard: Shard<'_>,
        now: Timestamp,
        hold: Duration,
        limit: usize,
    ) -> Result<Vec<Claim>, LedgerError> {
        let keys = [
            shard.tasks(),
            shard.leases(),
            shard.due(),
            shard.pending(),
            shard.feed(),
            shard.seq(),
            shard.places(),
        ];
        let args = [
            instant(now),
            instant(now.plus(hold)),
            limit.to_string().into_bytes(),
            number(cause_code(Cause::Expired).into()),
            number(cause_code(Cause::Compensated).into()),
        ];
        let mut reply = self
            .reaping
            .run_for(limit, &script::CLAIM, &[&keys], &[&args])
            .await?;
        let mut claims = Vec::new();
        while let Some(mut part) = reply.part()? {
            claims.push(match read_kind(&mut part)? {
                Kept::Lease(claim) => Claim::Lease(Box::new(claim)),
                Kept::Task(task) => match task.due() {
                    Some((_, outcome)) => Claim::Task(Box::new(task), outcome),
                    None => continue,
                },
                Kept::Key(_) => return Err(reply.unexpected()),
            });
        }
        Ok(claims)
    }

    pub(super) async fn settle_claim(
        &self,
        claim: &LeaseClaim,
        settlement: Settlement,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        let word = Word::of(claim, &settlement)?;
        let shard = self.shards.of_lease(claim.lease.id);
        let mut reply = self.settling(shard, &[&word], now).await?;
        settled(&mut reply)
    }

    /// Shard by shard, a bounded number of leases at a time.
    pub(super) async fn settle_claims(
        &self,
        claims: &[(LeaseClaim, Settlement)],
        now: Timestamp,
    ) -> Vec<Result<(), LedgerError>> {
        let mut shelves = BTreeMap::<usize, Vec<(usize, Word<'_>)>>::new();
        let mut answers = Vec::with_capacity(claims.len());
        for (place, (claim, settlement)) in claims.iter().enumerate() {
            answers.push(match Word::of(claim, settlement) {
                Ok(word) => {
                    let shard = self.shards.of_lease(claim.lease.id).number;
                    shelves.entry(shard).or_default().push((place, word));
                    Ok(())
                }
                Err(error) => Err(error),
            });
        }
        let steps = shelves.iter().flat_map(|(number, words)| {
            let shard = self.shards.nth(*number);
            words.chunks(AT_ONCE).map(move |some| async move {
                let words: Vec<&Word<'_>> = some.iter().map(|(_, word)| word).collect();
                (some, self.settling(shard, &words, now).await)
            })
        });
        for (some, reply) in join_all(steps).await {
            let mut reply = reply;
            for (place, _) in some {
                let answer = match &mut reply {
                    Ok(reply) => settled(reply),
                    Err(error) => Err(error.clone()),
                };
                if let Some(waiting) = answers.get_mut(*place) {
                    *waiting = answer;
                }
            }
        }
        answers
    }

    pub(super) async fn abandon_lease(
        &self,
        lease: &Lease,
        signature: &ReceiptSignature,
        now: Timestamp,
    ) -> Result<Lease, LedgerError> {
        let word = Word::over("abandoned", lease, 0, Receipt::Abandoned { at: now }, signature)?;
        let shard = self.shards.of_lease(lease.id);
        let mut reply = self.settling(shard, &[&word], now).await?;
        reply.next_word()?;
        match reply.word.as_str() {
            "ok" => Ok(unpack_lease(&reply.bytes()?)?.0),
            _ => Err(refused(&mut reply, &[], now)),
        }
    }

    /// Runs the script that ends leases of a shard or puts them off.
    async fn settling(
        &self,
        shard: Shard<'_>,
        words: &[&Word<'_>],
        now: Timestamp,
    ) -> Result<Reply, LedgerError> {
        let mut keys = vec![
            shard.leases(),
            shard.due(),
            shard.pending(),
            shard.forget(),
            shard.counts(),
        ];
        let mut numbers = HashMap::<Vec<u8>, u16>::new();
        let mut args = vec![instant(now)];
        for word in words {
            let lease = word.lease;
            let mut left = Vec::new();
            for index in shard.indexes(lease).filter(|_| word.is_over()) {
                let number = match numbers.get(&index) {
                    Some(number) => *number,
                    None => {
                        keys.push(index.clone());
                        let number = u16::try_from(keys.len())
                            .map_err(|_| LedgerError::Corrupt("a chain without an end".to_owned()))?;
                        numbers.insert(index, number);
                        number
                    }
                };
                left.extend(number.to_be_bytes());
            }
            args.extend([
                lease.id.to_bytes().to_vec(),
                number(word.hold),
                word.how.into(),
                lease.agent.as_str().into(),
                lease.tool.as_str().into(),
                task_bytes(lease.task),
                instant(word.at),
                word.said.clone(),
                number(word.proof.into()),
                left,
            ]);
        }
        let reply = self
            .reaping
            .run_for(words.len(), &script::SETTLE, &[&keys], &[&args])
            .await?;
        match reply.word.as_str() {
            "ok" => Ok(reply),
            _ => Err(reply.unexpected()),
        }
    }

    /// Forgets leases first: a task stays while it has any.
    async fn forget_in(&self, shard: Shard<'_>, until: Timestamp, now: Timestamp) -> Result<(), LedgerError> {
        let keys = [shard.tasks(), shard.leases(), shard.forget()];
        let args = [instant(until), number(FORGOTTEN_AT_ONCE)];
        let mut reply = self.reaping.run(&script::OLD, &[&keys], &[&args]).await?;
        let (mut keys, mut tasks, mut leases) = (Vec::new(), Vec::new(), Vec::new());
        while let Some(mut part) = reply.part()? {
            match read_kind(&mut part)? {
                Kept::Key(key) => keys.push(key),
                Kept::Task(task) => tasks.push(task.charter.id),
                Kept::Lease(claim) => leases.push(claim.lease),
            }
        }
        let keys = keys.iter().map(|key| async move {
            let keys = [shard.idempotency(key), shard.forget()];
            let args = [b"k".to_vec(), key.to_vec()];
            self.reaping.run(&script::FORGET, &[&keys], &[&args]).await
        });
        join_all(keys)
            .await
            .into_iter()
            .collect::<Result<Vec<Reply>, _>>()?;
        let leases = leases.iter().map(|lease| async move {
            let mut keys = vec![shard.leases(), shard.forget(), shard.tools()];
            keys.extend(shard.indexes(lease));
            let id = lease.id.to_bytes().to_vec();
            let args = [b"l".to_vec(), id, instant(now), lease.tool.as_str().into()];
            self.reaping.run(&script::FORGET, &[&keys], &[&args]).await
        });
        join_all(leases)
            .await
            .into_iter()
            .collect::<Result<Vec<Reply>, _>>()?;
        let tasks = tasks.iter().map(|id| async move {
            let keys = [shard.tasks(), shard.forget(), shard.by_task(*id)];
            let args = [b"t".to_vec(), task_bytes(*id), instant(now)];
            self.reaping.run(&script::FORGET, &[&keys], &[&args]).await
        });
        join_all(tasks)
            .await
            .into_iter()
            .collect::<Result<Vec<Reply>, _>>()?;
        Ok(())
    }
}

/// What the script is told of one lease.
struct Word<'a> {
    lease: &'a Lease,
    hold: u64,
    how: &'static str,
    /// The proof's instant, or that of the next attempt.
    at: Timestamp,
    /// The signature on the receipt, or what went wrong.
    said: Vec<u8>,
    proof: u8,
}

impl<'a> Word<'a> {
    fn of(claim: &'a LeaseClaim, settlement: &Settlement) -> Result<Self, LedgerError> {
        let LeaseClaim { lease, hold } = claim;
        let again = |how, at: Timestamp, error: Option<&str>| {
            let effort = error
                .zip(rules::effort(&lease.state))
                .map(|(error, effort)| rules::failed_again(effort, error, at));
            let error = effort.and_then(|effort| effort.last_error);
            Self {
                lease,
                hold: *hold,
                how,
                at,
                said: optional(error.as_deref()),
                proof: 0,
            }
        };
        Ok(match settlement {
            Settlement::Ended(receipt, signature) => Self::over("ended", lease, *hold, *receipt, signature)?,
            Settlement::RetryAt(at, error) => again("retry", *at, Some(error)),
            Settlement::Stuck(at, error) => again("stuck", *at, Some(error)),
            Settlement::PutOff(at) => again("later", *at, None),
        })
    }

    fn over(
        how: &'static str,
        lease: &'a Lease,
        hold: u64,
        receipt: Receipt,
        signature: &ReceiptSignature,
    ) -> Result<Self, LedgerError> {
        Ok(Self {
            lease,
            hold,
            how,
            at: receipt.at(),
            said: record::encode_signature(signature)?,
            proof: proof_code(receipt),
        })
    }

    /// Whether it leaves the indexes of what lives.
    fn is_over(&self) -> bool {
        self.proof != 0
    }
}

/// What the script says about the next lease.
fn settled(reply: &mut Reply) -> Result<(), LedgerError> {
    reply.next_word()?;
    match reply.word.as_str() {
        "ok" => Ok(()),
        "no_lease" => Err(Refusal::NoLease.into()),
        "claim_lost" => Err(Refusal::ClaimLost.into()),
        _ => Err(reply.unexpected()),
    }
}

/// What an element of an answer tells of: its kind, its id, its value.
fn read_kind(part: &mut Reply) -> Result<Kept, LedgerError> {
    let (kind, id, value) = (part.bytes()?, part.bytes()?, part.bytes()?);
    match kind.as_slice() {
        b"k" => id.try_into().map(Kept::Key).map_err(|_| part.unexpected()),
        b"t" => unpack_task(&value).map(Kept::Task),
        b"l" => unpack_lease(&value).map(|(lease, hold)| Kept::Lease(LeaseClaim { lease, hold })),
        _ => Err(part.unexpected()),
    }
}

/// How many each shard gives, so that all together give no more than the limit and the many due in one
/// shard do not keep the few of another waiting.
fn parts(due: &[usize], limit: usize) -> Vec<usize> {
    let mut parts = vec![0; due.len()];
    let mut left = limit;
    loop {
        let open = due.iter().zip(&parts).filter(|(due, part)| part < due).count();
        if open == 0 || left == 0 {
            return parts;
        }
        let share = (left / open).max(1);
        for (due, part) in due.iter().zip(&mut parts) {
            let more = share.min(due - *part).min(left);
            *part += more;
            left -= more;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::parts;

    #[test]
    fn a_shard_with_much_leaves_room_for_one_with_little() {
        assert_eq!(parts(&[1000, 0, 3, 1], 10), [6, 0, 3, 1]);
        assert_eq!(parts(&[5, 5, 5], 2), [1, 1, 0]);
        assert_eq!(parts(&[1, 2], 10), [1, 2]);
        assert!(parts(&[], 10).is_empty());
    }
}
