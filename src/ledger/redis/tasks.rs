//! Tasks: opening, reading and moving them.

use super::leases::limit;
use super::packed::{cause_code, outcome_code, pack_task, task_bytes, unpack_task};
use super::shares::Counted;
use super::{RedisLedger, instant, number, script};
use crate::ledger::{Budget, IdempotencyKey, LedgerError, Opened, Refusal, record, rules};
use crate::model::cutoff::{Cutoff, Selector};
use crate::model::ids::TaskId;
use crate::model::lease::Cause;
use crate::model::task::{Outcome, Task, TaskChange};
use crate::model::time::Timestamp;

impl RedisLedger {
    pub(super) async fn open_task(
        &self,
        task: &Task,
        most: Option<u32>,
        key: Option<&IdempotencyKey>,
    ) -> Result<Opened, LedgerError> {
        let id = task.charter.id;
        let shard = self.shards.of_task(id);
        let mut keys = vec![
            shard.tasks(),
            shard.due(),
            shard.forget(),
            shard.counts(),
            shard.above(),
            shard.below(),
        ];
        let above = task.charter.delegators.iter();
        let chain: Vec<u8> = above.flat_map(|above| above.task.to_bytes()).collect();
        keys.extend(key.map(|key| shard.idempotency(&key.key)));
        let value = pack_task(task)?;
        let args = |share| {
            [
                task_bytes(id),
                value.clone(),
                task.due().map(|(at, _)| instant(at)).unwrap_or_default(),
                instant(task.charter.opened_at),
                key.map(|key| key.key.to_vec()).unwrap_or_default(),
                key.map(|key| key.content.to_vec()).unwrap_or_default(),
                task.charter.agent.as_str().into(),
                limit(share),
                chain.clone(),
                number(rules::MOST_SUB_TASKS.into()),
            ]
        };
        let share = args(self.unasked(most));
        let mut reply = self.run_guarded(&script::OPEN, shard, &keys, &share).await?;
        if reply.word == "budget"
            && let Some(most) = most
        {
            let counted = Counted::OpenTasksOfAgent(&task.charter.agent);
            let _turn = self.turns.wait(&counted).await;
            if let Some(room) = self.room(&counted, most, shard).await? {
                let share = args(Some(room));
                reply = self.run_guarded(&script::OPEN, shard, &keys, &share).await?;
            }
        }
        match reply.word.as_str() {
            "ok" => Ok(Opened::New),
            "repeated" => Ok(Opened::Repeated(Box::new(unpack_task(&reply.bytes()?)?))),
            "key_reused" => Err(Refusal::KeyReused.into()),
            "exists" => Err(Refusal::Exists.into()),
            "no_task" => Err(Refusal::NoTask.into()),
            "task_not_open" => {
                let above = unpack_task(&reply.bytes()?)?;
                Err(rules::open_at(&above, task.charter.opened_at)
                    .err()
                    .unwrap_or(Refusal::TaskNotOpen(above.state))
                    .into())
            }
            "sub_tasks" => {
                let (budget, limit) = (Budget::SubTasks, rules::MOST_SUB_TASKS);
                Err(Refusal::Budget { budget, limit }.into())
            }
            "budget" => Err(most
                .map(|limit| Refusal::Budget {
                    budget: Budget::OpenTasks,
                    limit,
                })
                .ok_or_else(|| reply.unexpected())?
                .into()),
            _ => Err(reply.unexpected()),
        }
    }

    pub(super) async fn read_task(&self, id: TaskId) -> Result<Option<Task>, LedgerError> {
        let shard = self.shards.of_task(id);
        let get = redis::cmd("HGET")
            .arg(shard.tasks())
            .arg(&id.to_bytes())
            .to_owned();
        let stored: Option<Vec<u8>> = self.requests.query(&get).await?;
        stored.as_deref().map(unpack_task).transpose()
    }

    pub(super) async fn read_below(&self, id: TaskId) -> Result<Vec<Task>, LedgerError> {
        let shard = self.shards.of_task(id);
        let (keys, args) = ([shard.tasks(), shard.below()], [task_bytes(id)]);
        let mut reply = self.requests.run(&script::BELOW, &[&keys], &[&args]).await?;
        let mut tasks = Vec::new();
        while let Some(mut part) = reply.part()? {
            tasks.push(unpack_task(&part.bytes()?)?);
        }
        Ok(tasks)
    }

    pub(super) async fn advance_task(
        &self,
        id: TaskId,
        change: TaskChange,
        now: Timestamp,
    ) -> Result<Task, LedgerError> {
        let (word, cause, outcome) = match change {
            TaskChange::Beat => ("beat", None, 0),
            TaskChange::Resume => ("resume", None, 0),
            TaskChange::Suspend => ("suspend", Some(Cause::TaskSuspended), 0),
            TaskChange::End(outcome) => ("end", Some(Cause::TaskEnded(outcome)), outcome_code(outcome)),
        };
        let shard = self.shards.of_task(id);
        let keys = [
            shard.tasks(),
            shard.due(),
            shard.by_task(id),
            shard.leases(),
            shard.pending(),
            shard.forget(),
            shard.feed(),
            shard.seq(),
            shard.counts(),
            shard.above(),
            shard.below(),
            shard.places(),
        ];
        let cutoff = Cutoff {
            selector: Selector::Task(id),
            up_to: Timestamp::MAX,
            at: now,
            cause: cause.unwrap_or(Cause::TaskSuspended), // looked at where there is a cause
        };
        let args = [
            task_bytes(id),
            word.into(),
            instant(now),
            number(outcome.into()),
            number(cause.map_or(0, cause_code).into()),
            record::encode_cutoff(&cutoff)?,
            instant(cause.map_or(now, |cause| rules::due_from(cause, now))),
            number(outcome_code(Outcome::ParentEnded).into()),
            number(
                cause
                    .map_or(0, |cause| cause_code(rules::cause_below(cause)))
                    .into(),
            ),
        ];
        let run = self.run_counted(&self.requests, &script::ADVANCE, shard, &keys, &args);
        let mut reply = run.await?;
        match reply.word.as_str() {
            "ok" => {
                if cause.is_some() {
                    self.heads.published();
                }
                unpack_task(&reply.bytes()?)
            }
            "no_task" => Err(Refusal::NoTask.into()),
            "task_not_open" => {
                let task = unpack_task(&reply.bytes()?)?;
                Err(rules::advanced(&task, change, now)
                    .err()
                    .unwrap_or(Refusal::TaskNotOpen(task.state))
                    .into())
            }
            _ => Err(reply.unexpected()),
        }
    }
}
