//! `inspect`: what there is. One's own is always to be seen; another's by policy, or it does not exist.

use std::sync::Arc;
use std::time::Duration;

use crate::journal::record::Verb;
use crate::ledger::{Changes, Cursor, Filter, Page};
use crate::model::agent::Agent;
use crate::model::ids::{LeaseId, RequestId, TaskId};
use crate::model::lease::Lease;
use crate::model::name::{AgentName, ToolName};
use crate::model::task::Task;
use crate::model::tool::Tool;
use crate::registry::Caller;

use super::Broker;
use super::error::BrokerError;

impl Broker {
    /// One task.
    pub async fn inspect_task(
        &self,
        caller: &Caller,
        id: TaskId,
        request: RequestId,
    ) -> Result<Task, BrokerError> {
        let task = self.parts.ledger.task(id).await?.ok_or(BrokerError::NoTask)?;
        self.may_see_task(caller, &task, request).await?;
        Ok(task)
    }

    /// The sub-tasks below a task that have not ended, oldest first. Who may see the task may see them.
    pub async fn inspect_sub_tasks(
        &self,
        caller: &Caller,
        id: TaskId,
        request: RequestId,
    ) -> Result<Vec<Task>, BrokerError> {
        let task = self.parts.ledger.task(id).await?.ok_or(BrokerError::NoTask)?;
        self.may_see_task(caller, &task, request).await?;
        Ok(self.parts.ledger.below(id).await?)
    }

    /// One's own and what one handed on is always to be seen.
    async fn may_see_task(
        &self,
        caller: &Caller,
        task: &Task,
        request: RequestId,
    ) -> Result<(), BrokerError> {
        let charter = &task.charter;
        if charter.is_delegated_by(&caller.agent().name) {
            return Ok(());
        }
        self.may_see(caller, Some(&charter.agent), request)
            .await
            .map_err(|e| hidden(e, BrokerError::NoTask))
    }

    /// One lease.
    pub async fn inspect_lease(
        &self,
        caller: &Caller,
        id: LeaseId,
        request: RequestId,
    ) -> Result<Lease, BrokerError> {
        let lease = self.parts.ledger.lease(id).await?.ok_or(BrokerError::NoLease)?;
        if lease.agents().any(|agent| *agent == caller.agent().name) {
            return Ok(lease);
        }
        self.may_see(caller, Some(&lease.agent), request)
            .await
            .map_err(|e| hidden(e, BrokerError::NoLease))?;
        Ok(lease)
    }

    /// Leases that fit a filter. Those of other agents, or of all when the filter names no agent,
    /// take a permit.
    pub async fn inspect_leases(
        &self,
        caller: &Caller,
        filter: Filter,
        page: Page,
        request: RequestId,
    ) -> Result<Vec<Lease>, BrokerError> {
        self.may_see(caller, filter.agent.as_ref(), request).await?;
        Ok(self.parts.ledger.find(&filter, &page).await?)
    }

    /// Every agent, by name. Takes a permit.
    pub async fn inspect_agents(
        &self,
        caller: &Caller,
        request: RequestId,
    ) -> Result<Vec<Arc<Agent>>, BrokerError> {
        self.may_see(caller, None, request).await?;
        Ok(self.rules().current().registry.agents().cloned().collect())
    }

    /// One agent's entry.
    pub async fn inspect_agent(
        &self,
        caller: &Caller,
        name: &AgentName,
        request: RequestId,
    ) -> Result<Arc<Agent>, BrokerError> {
        self.may_see(caller, Some(name), request)
            .await
            .map_err(|e| hidden(e, BrokerError::NoAgent))?;
        let rules = self.rules().current();
        rules.registry.agent(name).cloned().ok_or(BrokerError::NoAgent)
    }

    /// Every tool, by name. Takes a permit.
    pub async fn inspect_tools(
        &self,
        caller: &Caller,
        request: RequestId,
    ) -> Result<Vec<Arc<Tool>>, BrokerError> {
        self.may_see(caller, None, request).await?;
        Ok(self.rules().current().registry.tools().cloned().collect())
    }

    /// One tool's entry. Takes the same permit as all of them.
    pub async fn inspect_tool(
        &self,
        caller: &Caller,
        name: &ToolName,
        request: RequestId,
    ) -> Result<Arc<Tool>, BrokerError> {
        self.may_see(caller, None, request)
            .await
            .map_err(|e| hidden(e, BrokerError::NoTool))?;
        let rules = self.rules().current();
        rules.registry.tool(name).cloned().ok_or(BrokerError::NoTool)
    }

    /// Records of the journal from `from` on, as they were written, and a checkpoint that covers them.
    pub async fn inspect_journal(
        &self,
        caller: &Caller,
        from: u64,
        limit: usize,
        request: RequestId,
    ) -> Result<(Vec<String>, String), BrokerError> {
        self.look(caller, "journal", None, request).await?;
        let lines = self.parts.journal.read(from, limit).await?;
        Ok((lines, self.parts.journal.checkpoint().await?))
    }

    /// The newest signed checkpoint of the journal.
    pub async fn inspect_checkpoint(
        &self,
        caller: &Caller,
        request: RequestId,
    ) -> Result<String, BrokerError> {
        self.look(caller, "journal", None, request).await?;
        Ok(self.parts.journal.checkpoint().await?)
    }

    /// The revocation feed. Taking part takes a permit.
    pub async fn follow(
        &self,
        caller: &Caller,
        since: &Cursor,
        wait: Duration,
        request: RequestId,
    ) -> Result<Changes, BrokerError> {
        self.look(caller, "follow", None, request).await?;
        Ok(self.parts.ledger.changes(since, wait).await?)
    }

    /// One's own is always to be seen; an agent's or, without an owner, everybody's takes a permit.
    async fn may_see(
        &self,
        caller: &Caller,
        owner: Option<&AgentName>,
        request: RequestId,
    ) -> Result<(), BrokerError> {
        if owner == Some(&caller.agent().name) {
            return Ok(());
        }
        self.look(caller, "inspect", owner, request).await
    }

    /// A permitted look. It is decided each time and recorded once in five minutes for each caller and
    /// what it looks at: whoever follows the journal would otherwise write it. Denials are recorded always.
    pub(super) async fn look(
        &self,
        caller: &Caller,
        operation: &'static str,
        about: Option<&AgentName>,
        request: RequestId,
    ) -> Result<(), BrokerError> {
        let record = self.may(caller, Verb::Inspect, operation, about, request).await?;
        let about = about.map_or("", AgentName::as_str);
        let look = format!("{} {operation} {about}", caller.agent().name);
        if !self.looks.contains_key(&look) {
            self.record(record).await?;
            self.looks.insert(look, ());
        }
        Ok(())
    }
}

/// What the caller may not see does not exist for it.
fn hidden(error: BrokerError, unknown: BrokerError) -> BrokerError {
    match error {
        BrokerError::Denied { .. } => unknown,
        other => other,
    }
}
