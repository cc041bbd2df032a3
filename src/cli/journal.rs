//! `dayfly journal`: verify a journal offline, and read records from a broker.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Remote;
use super::answer::{self, field};
use super::exit::Exit;
use super::terminal::{Terminal, Tone};
use crate::journal::checkpoint::Checkpoint;
use crate::journal::verify::{Expected, verify};

/// `dayfly journal …`
#[derive(Subcommand, Debug)]
pub enum JournalCommand {
    /// Verify a journal's files: find a changed, dropped, reordered or cut-off record and say where.
    Verify(Verify),
    /// Print records from a broker, and go on with new ones.
    Tail(Tail),
}

/// Which journal.
#[derive(Args, Debug)]
pub struct Verify {
    /// The journal's directory.
    directory: PathBuf,
    /// The file with the audit key (`vkey`), kept where the broker cannot write. Without it the journal is only
    /// checked to agree with itself.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// A checkpoint of this journal that was kept elsewhere. May be given several times.
    #[arg(long = "checkpoint", value_name = "FILE")]
    checkpoints: Vec<PathBuf>,
}

/// From where.
#[derive(Args, Debug)]
pub struct Tail {
    /// The first record.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Go on with new records until stopped.
    #[arg(long, short)]
    follow: bool,
    #[command(flatten)]
    remote: Remote,
}

impl JournalCommand {
    /// Runs it.
    pub async fn run(self, terminal: &Terminal) -> anyhow::Result<Exit> {
        match self {
            Self::Verify(command) => command.run(terminal),
            Self::Tail(command) => command.run(terminal).await,
        }
    }
}

impl Verify {
    fn run(self, terminal: &Terminal) -> anyhow::Result<Exit> {
        let key = self.key.as_ref().map(|path| -> anyhow::Result<_> {
            let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
            text.trim().parse().with_context(|| path.display().to_string())
        });
        let key = key.transpose()?;
        let kept = self.checkpoints.iter().map(|path| -> anyhow::Result<_> {
            let note = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
            Checkpoint::open(&note, key.as_ref()).with_context(|| path.display().to_string())
        });
        let expected = Expected {
            kept: kept.collect::<anyhow::Result<_>>()?,
            key: key.clone(),
        };
        match verify(&self.directory, &expected) {
            Ok(verified) => {
                let unsigned = verified.records - verified.newest.size;
                if terminal.is_json() {
                    let answer = json!({
                        "valid": true, "records": verified.records, "checkpoints": verified.checkpoints,
                        "signed": verified.newest.size, "authenticated": expected.key.is_some(),
                    });
                    terminal.value(&answer)?;
                } else {
                    terminal.line(format!(
                        "{} {} records, {} checkpoints, {unsigned} records not yet signed",
                        terminal.paint(Tone::Good, "whole:"),
                        verified.records,
                        verified.checkpoints
                    ))?;
                    if expected.key.is_none() {
                        terminal.note("without --key this shows only that the journal agrees with itself")?;
                    }
                }
                Ok(Exit::Done)
            }
            Err(fault) => {
                if terminal.is_json() {
                    terminal.value(&json!({ "valid": false, "fault": fault.to_string() }))?;
                } else {
                    terminal.line(format!("{} {fault}", terminal.paint(Tone::Bad, "damaged:")))?;
                }
                Ok(Exit::Unverified)
            }
        }
    }
}

impl Tail {
    async fn run(self, terminal: &Terminal) -> anyhow::Result<Exit> {
        let client = self.remote.client()?;
        let mut from = self.from;
        loop {
            let page = client.get(&format!("/v1/journal?from={from}&limit=200")).await?;
            let records = answer::list(&page, "records");
            for record in records {
                if terminal.is_json() {
                    terminal.value(record)?;
                } else {
                    terminal.line(line(terminal, from, record))?;
                }
                from += 1;
            }
            if records.is_empty() {
                if !self.follow {
                    return Ok(Exit::Done);
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// One record on one line: when, what, what came of it, who, on what, and why.
fn line(terminal: &Terminal, index: u64, record: &Value) -> String {
    let result = field(record, "result");
    let tone = match result.as_str() {
        "permitted" => Tone::Good,
        "denied" => Tone::Bad,
        _ => Tone::Warn,
    };
    let mut text = format!(
        "{} {} {} {}",
        terminal.paint(Tone::Faint, &format!("#{index} {}", field(record, "at"))),
        terminal.paint(Tone::Strong, &field(record, "verb")),
        terminal.paint(tone, &result),
        field(record, "agent")
    );
    for name in [
        "tool",
        "actions",
        "resources",
        "task",
        "lease",
        "cause",
        "proof",
        "policies",
        "reason",
    ] {
        let value = field(record, name);
        if !value.is_empty() {
            text.push_str(&format!(
                " {}{value}",
                terminal.paint(Tone::Faint, &format!("{name}="))
            ));
        }
    }
    text
}
