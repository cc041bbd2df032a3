//! `dayfly recover`: brings back a ledger that was lost or rolled back.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::exit::Exit;
use super::terminal::{Terminal, Tone};
use crate::app::recover::{self, Outcome};
use crate::clock::SystemClock;
use crate::config;
use crate::entropy::OsEntropy;
use crate::ledger::lineage::Loss;

/// Which ledger, and from which journals.
#[derive(Args, Debug)]
pub struct Recover {
    /// The configuration file of one of the brokers: it names the ledger.
    #[arg(long, default_value = "dayfly.toml", value_name = "FILE")]
    config: PathBuf,
    /// The directory of a broker's journal; give those of all brokers. Without any, the one that the
    /// configuration names.
    #[arg(long = "journal", value_name = "DIRECTORY")]
    journals: Vec<PathBuf>,
    /// Recover although the ledger is all that the journals remember: everything that lives ends.
    #[arg(long)]
    anyway: bool,
}

impl Recover {
    /// Runs it.
    pub async fn run(self, terminal: &Terminal) -> anyhow::Result<Exit> {
        let config = config::load(&self.config)?;
        let mut journals = self.journals;
        if journals.is_empty() {
            journals.push(config.journal.dir.clone());
        }
        let (clock, entropy) = (SystemClock::new(), OsEntropy::new());
        let report = match recover::run(&config, &journals, self.anyway, &clock, &entropy).await? {
            Outcome::Recovered(report) => report,
            Outcome::Whole => {
                if terminal.is_json() {
                    terminal.value(&json!({ "recovered": false }))?;
                } else {
                    terminal.line(format!(
                        "{} the ledger is all that the journals remember; nothing was done",
                        terminal.paint(Tone::Good, "whole:")
                    ))?;
                }
                return Ok(Exit::Done);
            }
            Outcome::Damaged(journal, fault) => {
                if terminal.is_json() {
                    let journal = journal.display().to_string();
                    let answer =
                        json!({ "recovered": false, "journal": journal, "fault": fault.to_string() });
                    terminal.value(&answer)?;
                } else {
                    terminal.line(format!(
                        "{} {}: {fault}; nothing was done",
                        terminal.paint(Tone::Bad, "damaged:"),
                        journal.display()
                    ))?;
                }
                return Ok(Exit::Unverified);
            }
        };
        let done = report.done;
        if terminal.is_json() {
            terminal.value(&json!({
                "recovered": true, "loss": report.loss.map(Loss::as_str), "epoch": report.epoch.to_string(),
                "journals": report.journals, "records": report.records, "tasks": done.tasks,
                "turned": done.turned, "adopted": done.adopted, "known": done.known,
                "unclear": report.unclear,
            }))?;
            return Ok(Exit::Done);
        }
        let why = report
            .loss
            .map_or_else(|| "as you said".to_owned(), |loss| loss.to_string());
        terminal.line(format!("{} {why}", terminal.paint(Tone::Strong, "lost:")))?;
        for line in [
            format!(
                "{} records of {} journals were read",
                report.records, report.journals
            ),
            "every token of before is denied from now on".to_owned(),
            format!(
                "{} tasks that the ledger still had end; agents open new ones",
                done.tasks
            ),
            format!(
                "{} leases that only the journals knew end, and {} that the ledger still had",
                done.adopted, done.turned
            ),
        ] {
            terminal.line(format!("  {line}"))?;
        }
        if report.unclear > 0 {
            terminal.line(format!(
                "{} {} leases are on record with too little to end them: look for them at the providers",
                terminal.paint(Tone::Warn, "unclear:"),
                report.unclear
            ))?;
        }
        terminal.line(format!(
            "{} epoch {}; brokers whose journals were read give credentials out again",
            terminal.paint(Tone::Good, "recovered:"),
            report.epoch
        ))?;
        Ok(Exit::Done)
    }
}
