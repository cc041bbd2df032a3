//! `dayfly task`: open tasks, get credentials for them, and end them.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Remote;
use super::answer::{self, field, text, without_nulls};
use super::credential;
use super::exit::Exit;
use super::lease::print_leases;
use super::terminal::{Terminal, Tone};
use crate::model::access::{Access, Scope};
use crate::model::ids::TaskId;
use crate::model::name::{AgentName, Operation, Purpose, ToolName, UserId};
use crate::model::ttl::Ttl;

/// `dayfly task …`
#[derive(Subcommand, Debug)]
pub enum TaskCommand {
    /// Open a task.
    Open {
        /// What the task is about.
        #[command(flatten)]
        open: Open,
        /// Print the task's id alone, for a variable.
        #[arg(long)]
        id_only: bool,
    },
    /// Hand work of a task on: open a sub-task, for another agent or for oneself.
    Delegate(Delegate),
    /// Say what would be permitted for a scope, without effect.
    Decide(Open),
    /// Get a credential for a task.
    Issue(Issue),
    /// Show a task, and what was handed on of it.
    Show(One),
    /// Send a sign of life.
    Beat(One),
    /// End what is live, and issue nothing until the task resumes.
    Suspend(One),
    /// Go on with a suspended task.
    Resume(One),
    /// End a task of one's own.
    Complete(Complete),
    /// End a task, one's own or, by permit, another's.
    Revoke(Revoke),
}

/// What a task is about.
#[derive(Args, Debug)]
#[group(skip)] // the sub-command `open` has a group of this name already
pub struct Open {
    /// Why the task exists.
    #[arg(long)]
    purpose: Purpose,
    /// What it may ask for: `tool:action[,action…][@resource[,resource…]]`. May be given several times.
    #[arg(long = "access", required = true, value_parser = access)]
    scope: Vec<Access>,
    /// On whose behalf: a stable user id.
    #[arg(long)]
    on_behalf_of: Option<UserId>,
    /// How long, such as `10m`: the task when opening, each credential when deciding.
    #[arg(long)]
    ttl: Option<Ttl>,
    /// The task ends when no heartbeat comes for this long.
    #[arg(long)]
    heartbeat: Option<Ttl>,
    #[command(flatten)]
    remote: Remote,
}

/// What is handed on.
#[derive(Args, Debug)]
pub struct Delegate {
    /// The task that it is part of.
    task: TaskId,
    /// Who is to do it; oneself when absent.
    #[arg(long)]
    agent: Option<AgentName>,
    /// Why.
    #[arg(long)]
    purpose: Purpose,
    /// What it may ask for, within what the task may: `tool:action[,action…][@resource[,resource…]]`. May be given
    /// several times.
    #[arg(long = "access", required = true, value_parser = access)]
    scope: Vec<Access>,
    /// How long, such as `10m`. It ends with the task at the latest.
    #[arg(long)]
    ttl: Option<Ttl>,
    /// The sub-task ends when no heartbeat comes for this long.
    #[arg(long)]
    heartbeat: Option<Ttl>,
    /// Print the sub-task's id alone, for a variable.
    #[arg(long)]
    id_only: bool,
    #[command(flatten)]
    remote: Remote,
}

/// Which credential.
#[derive(Args, Debug)]
pub struct Issue {
    /// The task.
    task: TaskId,
    /// The tool.
    #[arg(long)]
    tool: ToolName,
    /// The action. May be given several times.
    #[arg(long = "action", required = true)]
    actions: Vec<Operation>,
    /// The resource. May be given several times; none means the tool as a whole.
    #[arg(long = "resource")]
    resources: Vec<crate::model::access::ResourcePath>,
    /// How long the credential should live.
    #[arg(long)]
    ttl: Option<Ttl>,
    /// Print the token alone, for a pipe.
    #[arg(long)]
    token_only: bool,
    #[command(flatten)]
    remote: Remote,
}

/// Which task.
#[derive(Args, Debug)]
pub struct One {
    /// The task.
    task: TaskId,
    #[command(flatten)]
    remote: Remote,
}

/// How a task ends.
#[derive(Args, Debug)]
pub struct Complete {
    /// The task.
    task: TaskId,
    /// How it went: `completed`, `failed` or `cancelled`.
    #[arg(long, default_value = "completed", value_parser = ["completed", "failed", "cancelled"])]
    outcome: String,
    /// How long to wait for the receipts.
    #[arg(long, default_value = "5s")]
    wait: Ttl,
    #[command(flatten)]
    remote: Remote,
}

/// Why a task ends.
#[derive(Args, Debug)]
pub struct Revoke {
    /// The task.
    task: TaskId,
    /// Why, for the record.
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    remote: Remote,
}

impl TaskCommand {
    /// Runs it.
    pub async fn run(self, terminal: &Terminal) -> anyhow::Result<Exit> {
        match self {
            Self::Open { open, id_only } => open.open(id_only, terminal).await,
            Self::Delegate(delegate) => delegate.run(terminal).await,
            Self::Decide(open) => open.decide(terminal).await,
            Self::Issue(issue) => issue.run(terminal).await,
            Self::Show(one) => one.show(terminal).await,
            Self::Beat(one) => one.post("heartbeat", terminal).await,
            Self::Suspend(one) => one.post("suspend", terminal).await,
            Self::Resume(one) => one.post("resume", terminal).await,
            Self::Complete(complete) => {
                let path = format!("/v1/tasks/{}/complete?wait={}", complete.task, complete.wait);
                let ended = complete
                    .remote
                    .client()?
                    .post(&path, json!({ "outcome": complete.outcome }))
                    .await?;
                print_ended(terminal, &ended)
            }
            Self::Revoke(revoke) => {
                let path = format!("/v1/tasks/{}/revoke?wait=5s", revoke.task);
                let ended = revoke
                    .remote
                    .client()?
                    .post(&path, json!({ "reason": revoke.reason }))
                    .await?;
                print_ended(terminal, &ended)
            }
        }
    }
}

impl Open {
    fn scope(&self) -> anyhow::Result<Scope> {
        Ok(Scope::new(self.scope.clone())?)
    }

    async fn open(self, id_only: bool, terminal: &Terminal) -> anyhow::Result<Exit> {
        let body = without_nulls(json!({
            "purpose": self.purpose,
            "scope": self.scope()?,
            "on_behalf_of": self.on_behalf_of,
            "ttl": self.ttl,
            "heartbeat": self.heartbeat,
        }));
        let task = self.remote.client()?.post("/v1/tasks", body).await?;
        if id_only {
            terminal.line(field(&task, "id"))?;
            return Ok(Exit::Done);
        }
        print_task(terminal, &task)
    }

    async fn decide(self, terminal: &Terminal) -> anyhow::Result<Exit> {
        let body = without_nulls(json!({
            "purpose": self.purpose,
            "scope": self.scope()?,
            "on_behalf_of": self.on_behalf_of,
            "ttl": self.ttl,
        }));
        let answer = self.remote.client()?.post("/v1/decisions", body).await?;
        let verdicts = answer::list(&answer, "verdicts");
        let permitted = |verdict: &Value| verdict.get("permitted").and_then(Value::as_bool) == Some(true);
        let all = verdicts.iter().all(permitted);
        if terminal.is_json() {
            terminal.value(&answer)?;
        } else {
            for verdict in verdicts {
                let (tone, word) = if permitted(verdict) {
                    (Tone::Good, "permitted")
                } else {
                    (Tone::Bad, "denied")
                };
                let tool = verdict.pointer("/access/tool").map(text).unwrap_or_default();
                let actions = verdict.pointer("/access/actions").map(text).unwrap_or_default();
                let why = match verdict.get("reason").and_then(Value::as_str) {
                    Some(reason) => reason.to_owned(),
                    None => format!(
                        "{}s, bounded by {}",
                        field(verdict, "granted"),
                        field(verdict, "bounded_by")
                    ),
                };
                terminal.line(format!("{} {tool} {actions}: {why}", terminal.paint(tone, word)))?;
            }
        }
        Ok(if all { Exit::Done } else { Exit::Denied })
    }
}

impl Delegate {
    async fn run(self, terminal: &Terminal) -> anyhow::Result<Exit> {
        let body = without_nulls(json!({
            "agent": self.agent,
            "purpose": self.purpose,
            "scope": Scope::new(self.scope)?,
            "ttl": self.ttl,
            "heartbeat": self.heartbeat,
        }));
        let path = format!("/v1/tasks/{}/tasks", self.task);
        let task = self.remote.client()?.post(&path, body).await?;
        if self.id_only {
            terminal.line(field(&task, "id"))?;
            return Ok(Exit::Done);
        }
        print_task(terminal, &task)
    }
}

impl Issue {
    async fn run(self, terminal: &Terminal) -> anyhow::Result<Exit> {
        let body = without_nulls(json!({
            "tool": self.tool,
            "actions": self.actions,
            "resources": self.resources,
            "ttl": self.ttl,
        }));
        let path = format!("/v1/tasks/{}/credentials", self.task);
        let issued = self.remote.client()?.post(&path, body).await?;
        credential::print(terminal, &issued, self.token_only)
    }
}

impl One {
    async fn show(self, terminal: &Terminal) -> anyhow::Result<Exit> {
        let client = self.remote.client()?;
        let path = format!("/v1/tasks/{}", self.task);
        let mut task = client.get(&path).await?;
        let below = client.get(&format!("{path}/tasks")).await?;
        if terminal.is_json() {
            if let Some(task) = task.as_object_mut() {
                task.insert(
                    "sub_tasks".to_owned(),
                    answer::list(&below, "tasks").to_vec().into(),
                );
            }
            return print_task(terminal, &task);
        }
        print_task(terminal, &task)?;
        for sub_task in answer::list(&below, "tasks") {
            let label = terminal.paint(Tone::Faint, &format!("{:<16}", "handed on"));
            let (id, state) = (field(sub_task, "id"), field(sub_task, "state"));
            let (agent, parent) = (field(sub_task, "agent"), field(sub_task, "parent"));
            terminal.line(format!("{label} {id} {state} to {agent}, part of {parent}"))?;
        }
        Ok(Exit::Done)
    }

    async fn post(self, deed: &str, terminal: &Terminal) -> anyhow::Result<Exit> {
        let task = self
            .remote
            .client()?
            .post(&format!("/v1/tasks/{}/{deed}", self.task), json!({}))
            .await?;
        print_task(terminal, &task)
    }
}

fn print_task(terminal: &Terminal, task: &Value) -> anyhow::Result<Exit> {
    if terminal.is_json() {
        terminal.value(task)?;
    } else {
        for name in [
            "id",
            "state",
            "outcome",
            "agent",
            "purpose",
            "on_behalf_of",
            "parent",
            "delegated_by",
            "opened_at",
            "deadline",
        ] {
            if let Some(value) = task.get(name).filter(|value| !value.is_null()) {
                terminal.line(format!(
                    "{} {}",
                    terminal.paint(Tone::Faint, &format!("{name:<16}")),
                    text(value)
                ))?;
            }
        }
    }
    Ok(Exit::Done)
}

fn print_ended(terminal: &Terminal, ended: &Value) -> anyhow::Result<Exit> {
    if terminal.is_json() {
        terminal.value(ended)?;
        return Ok(Exit::Done);
    }
    if let Some(task) = ended.get("task") {
        print_task(terminal, task)?;
    }
    print_leases(terminal, answer::list(ended, "leases"))
}

/// Reads `tool:action[,action…][@resource[,resource…]]`.
pub(super) fn access(given: &str) -> Result<Access, String> {
    let (tool, rest) = given
        .split_once(':')
        .ok_or("write `tool:action`, such as `crm:read@customers/42`")?;
    let (actions, resources) = rest
        .split_once('@')
        .map_or((rest, None), |(actions, rest)| (actions, Some(rest)));
    let tool = tool
        .parse()
        .map_err(|error: crate::model::name::InvalidName| error.to_string())?;
    let actions = actions.split(',').map(str::parse).collect::<Result<_, _>>();
    let resources = resources.map_or(Ok(Default::default()), |list| {
        list.split(',').map(str::parse).collect()
    });
    let actions = actions.map_err(|error: crate::model::name::InvalidName| error.to_string())?;
    let resources = resources.map_err(|error: crate::model::name::InvalidName| error.to_string())?;
    Access::new(tool, actions, resources).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_an_access_from_one_word() {
        let read = access("crm:read,comment@customers/42,orders").unwrap();
        assert_eq!(read.tool().as_str(), "crm");
        assert_eq!(read.actions().len(), 2);
        assert_eq!(read.resources().len(), 2);
        assert!(access("crm:read").unwrap().resources().is_empty());
        for bad in ["crm", "crm:", "crm:read@", "CRM:read", "crm:read@a//b"] {
            assert!(access(bad).is_err(), "{bad}");
        }
    }
}
