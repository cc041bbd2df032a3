//! `dayfly fact`: what is known about agents, tools, users, tasks and environments.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Remote;
use super::answer::{self, field, without_nulls};
use super::client::segment;
use super::exit::Exit;
use super::terminal::Terminal;
use crate::model::fact::Subject;
use crate::model::name::{FactName, FactValue};
use crate::model::time::Timestamp;

/// `dayfly fact …`
#[derive(Subcommand, Debug)]
pub enum FactCommand {
    /// State a fact: what is out is decided anew. By permit.
    Set(Set),
    /// List the facts in force. By permit.
    List(List),
    /// Take a fact back. By permit.
    Clear(Clear),
}

/// What is so.
#[derive(Args, Debug)]
pub struct Set {
    /// Whom it is about: `agent/…`, `tool/…`, `user/…`, `task/…` or `environment/…`.
    about: Subject,
    /// What is so: `risk=high`.
    #[arg(value_name = "NAME=VALUE", value_parser = statement)]
    fact: (FactName, FactValue),
    /// Until when at most, such as `2026-12-01T00:00:00Z`; until it is cleared when absent.
    #[arg(long)]
    until: Option<Timestamp>,
    /// Since when; since now when absent.
    #[arg(long)]
    at: Option<Timestamp>,
    /// Why, for the record.
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

/// Which facts.
#[derive(Args, Debug)]
pub struct List {
    /// About this subject alone.
    about: Option<Subject>,
    #[command(flatten)]
    remote: Remote,
}

/// What is not so any more.
#[derive(Args, Debug)]
pub struct Clear {
    /// Whom it is about.
    about: Subject,
    /// Its name.
    name: FactName,
    /// Why, for the record.
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

fn statement(text: &str) -> Result<(FactName, FactValue), String> {
    let (name, value) = text
        .split_once('=')
        .ok_or("write it as `name=value`: `risk=high`")?;
    let name = name.parse().map_err(|invalid| format!("{invalid}"))?;
    let value = value.parse().map_err(|invalid| format!("{invalid}"))?;
    Ok((name, value))
}

fn path(about: &Subject, name: &FactName) -> String {
    let (kind, id) = about.parts();
    format!("/v1/facts/{kind}/{}/{name}", segment(&id))
}

impl FactCommand {
    /// Runs it.
    pub async fn run(self, terminal: &Terminal) -> anyhow::Result<Exit> {
        match self {
            Self::Set(set) => {
                let (name, value) = set.fact;
                let body =
                    json!({ "value": value, "at": set.at, "expires_at": set.until, "reason": set.reason });
                let path = path(&set.about, &name);
                stated(
                    terminal,
                    &set.remote.client()?.put(&path, without_nulls(body)).await?,
                )
            }
            Self::Clear(clear) => {
                let body = without_nulls(json!({ "reason": clear.reason }));
                let path = path(&clear.about, &clear.name);
                stated(terminal, &clear.remote.client()?.delete(&path, body).await?)
            }
            Self::List(list) => {
                let about = list.about.iter().map(|about| ("about", about.to_string()));
                let query: Vec<_> = about.collect();
                let found = list.remote.client()?.list("/v1/facts", &query).await?;
                answer::table(
                    terminal,
                    &found,
                    "facts",
                    &["about", "name", "value", "source", "at", "expires_at"],
                )
            }
        }
    }
}

fn stated(terminal: &Terminal, answer: &Value) -> anyhow::Result<Exit> {
    if terminal.is_json() {
        terminal.value(answer)?;
        return Ok(Exit::Done);
    }
    let said = match field(answer, "outcome").as_str() {
        "unchanged" => "that was so already",
        "superseded" => "a later statement holds against it: nothing changed",
        _ => "it holds from now on; what is out is decided anew",
    };
    terminal.line(said)?;
    Ok(Exit::Done)
}
