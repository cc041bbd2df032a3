//! `dayfly reload` and `dayfly policy diff --live`: other rules, and what they do to what is out.

use std::path::Path;

use anyhow::Context as _;
use clap::Args;
use serde_json::{Value, json};

use super::Remote;
use super::answer::{field, list, without_nulls};
use super::exit::Exit;
use super::revoke;
use super::terminal::{Terminal, Tone};
use crate::config;
use crate::model::document::problem::Problems;
use crate::registry::files::{files_in, read_text};

/// The largest file that is sent, in bytes.
const LARGEST_FILE: u64 = 4 * 1024 * 1024;

/// `dayfly reload`
#[derive(Args, Debug)]
pub struct Reload {
    /// How many live leases may end or wait because of it; what the broker's configuration says when absent.
    #[arg(long, value_name = "LEASES")]
    accept_blast_radius: Option<u64>,
    #[command(flatten)]
    remote: Remote,
}

impl Reload {
    /// Runs it.
    pub async fn run(self, terminal: &Terminal) -> anyhow::Result<Exit> {
        let body = without_nulls(json!({ "accept_blast_radius": self.accept_blast_radius }));
        let answer = self.remote.client()?.post("/v1/rules/reload", body).await?;
        if terminal.is_json() {
            terminal.value(&answer)?;
            return Ok(Exit::Done);
        }
        let revision = field(&answer, "revision");
        match answer.get("effect") {
            None => terminal.line(format!("nothing changed: {revision} is in force"))?,
            Some(effect) => {
                terminal.line(format!("{revision} is in force"))?;
                print(terminal, effect)?;
            }
        }
        Ok(Exit::Done)
    }
}

/// What local rules would do at a broker.
pub(super) async fn diff(terminal: &Terminal, remote: &Remote, path: &Path) -> anyhow::Result<Exit> {
    let files = gather(path)?;
    let answer = remote
        .client()?
        .post("/v1/rules/preview", json!({ "files": files }))
        .await?;
    if terminal.is_json() {
        terminal.value(&answer)?;
    } else {
        terminal.line(format!("revision {}", field(&answer, "revision")))?;
        print(terminal, &answer)?;
    }
    let ends = answer.pointer("/ended/leases").and_then(Value::as_u64) != Some(0);
    let waits = answer.get("suspended").and_then(Value::as_u64) != Some(0);
    Ok(if ends || waits {
        Exit::Unverified
    } else {
        Exit::Done
    })
}

/// Every file of the rules that a configuration names.
fn gather(path: &Path) -> anyhow::Result<Vec<Value>> {
    let config = config::load(path)?;
    let registry = [
        ("agents", &config.registry.agents),
        ("tools", &config.registry.tools),
    ];
    let registry = registry
        .into_iter()
        .map(|(role, directory)| (role, directory, "toml"));
    let policies = config
        .policy
        .dirs
        .iter()
        .map(|directory| ("policies", directory, "cedar"));
    let mut files = Vec::new();
    for (role, directory, extension) in registry.chain(policies) {
        for path in files_in(directory, extension).map_err(Problems::from)? {
            let name = path.file_name().context("a file has a name")?.to_string_lossy();
            let text = read_text(&path, LARGEST_FILE).map_err(Problems::from)?;
            files.push(json!({ "path": format!("{role}/{name}"), "text": text }));
        }
    }
    Ok(files)
}

fn print(terminal: &Terminal, effect: &Value) -> anyhow::Result<()> {
    terminal.line(format!(
        "{} live leases were looked at",
        field(effect, "looked_at")
    ))?;
    if let Some(ended) = effect.get("ended") {
        revoke::print(terminal, ended)?;
    }
    if let Some(Value::Object(causes)) = effect.get("causes") {
        for (cause, count) in causes {
            terminal.line(format!("  cause    {cause}: {count}"))?;
        }
    }
    terminal.line(format!("{} would be given less time", field(effect, "shortened")))?;
    terminal.line(format!(
        "{} would wait for an approval",
        field(effect, "suspended")
    ))?;
    for example in list(effect, "examples") {
        let lease = terminal.paint(Tone::Faint, &field(example, "lease"));
        terminal.line(format!("  {lease} {}", field(example, "reason")))?;
    }
    Ok(())
}
