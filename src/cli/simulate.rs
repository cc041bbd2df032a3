//! `dayfly policy simulate` and `dayfly policy shadow`: what was decided, beside what other rules say.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;
use clap::Args;
use serde_json::json;

use super::exit::Exit;
use super::terminal::{Terminal, Tone};
use crate::app::rules::Checked;
use crate::clock::{Clock as _, SystemClock};
use crate::journal::reader::Reader;
use crate::journal::record::{Record, Result as Outcome, Verb};
use crate::journal::replay::{Replayed, replay};
use crate::model::ttl::Ttl;

/// How many records are read at a time.
const PAGE: usize = 1000;

/// Which decisions.
#[derive(Args, Debug)]
pub struct Decided {
    /// A journal's directory. May be given several times, for several brokers.
    #[arg(long = "journal", required = true, value_name = "DIRECTORY")]
    journals: Vec<PathBuf>,
    /// Only what was decided this long ago at most: `7d`, `12h`.
    #[arg(long, default_value = "7d", value_parser = period)]
    since: Duration,
}

/// Which decisions, and whether more may be given out.
#[derive(Args, Debug)]
pub struct Simulate {
    #[command(flatten)]
    decided: Decided,
    /// Fail when anything would be permitted that was not, or for longer.
    #[arg(long)]
    fail_on_widening: bool,
}

/// What differs, and how often.
#[derive(Default)]
struct Tally {
    decisions: u64,
    /// By what changed, agent, tool and reason: few, where decisions are many.
    changes: BTreeMap<(&'static str, String, String, String), u64>,
    wider: u64,
}

impl Decided {
    fn each(&self, mut look: impl FnMut(&Record)) -> anyhow::Result<()> {
        let since = SystemClock::new().now().minus(self.since);
        for journal in &self.journals {
            ensure!(
                journal.is_dir(),
                "{}: there is no such directory",
                journal.display()
            );
            let reader = Reader::new(journal);
            let mut next = 0;
            loop {
                let page = reader.read(next, u64::MAX, PAGE)?;
                if page.is_empty() {
                    break;
                }
                next += u64::try_from(page.len())?;
                for line in &page {
                    let record = Record::from_line(line)?;
                    if record.at >= since {
                        look(&record);
                    }
                }
            }
        }
        Ok(())
    }
}

impl Simulate {
    /// Runs it with these rules.
    pub(super) fn run(self, checked: &Checked, terminal: &Terminal) -> anyhow::Result<Exit> {
        let mut tally = Tally::default();
        self.decided.each(|record| {
            if let Some(replayed) = replay(record, &checked.registry, &checked.engine) {
                tally.add(record, replayed);
            }
        })?;
        tally.print(terminal)?;
        Ok(match self.fail_on_widening && tally.wider > 0 {
            true => Exit::Unverified,
            false => Exit::Done,
        })
    }
}

impl Decided {
    /// Reports what policies in the shadow would have said otherwise.
    pub(super) fn shadow(&self, terminal: &Terminal) -> anyhow::Result<Exit> {
        let mut tally = Tally::default();
        self.each(|record| {
            let asked = matches!(record.verb, Verb::Issue | Verb::Renew | Verb::Decide);
            if !asked || record.result == Outcome::Failed {
                return;
            }
            tally.decisions += 1;
            if let Some(said) = &record.shadow {
                let what = match (record.result, said.starts_with("denied")) {
                    (_, true) => "denied there",
                    (Outcome::Denied, false) => "permitted there",
                    (_, false) => "other terms there",
                };
                tally.note(record, what, said.to_string());
            }
        })?;
        tally.print(terminal)?;
        Ok(Exit::Done)
    }
}

/// A length of time in days, or one like every other.
fn period(text: &str) -> Result<Duration, String> {
    let days = text.strip_suffix('d').and_then(|days| days.parse::<u32>().ok());
    match days {
        Some(days) => Ok(Duration::from_secs(u64::from(days) * 86_400)),
        None => text
            .parse::<Ttl>()
            .map(Ttl::as_duration)
            .map_err(|invalid| invalid.to_string()),
    }
}

impl Tally {
    fn add(&mut self, record: &Record, replayed: Replayed) {
        self.decisions += 1;
        self.wider += u64::from(replayed.is_wider());
        let (what, why) = match replayed {
            Replayed::Same => return,
            Replayed::Widened => ("permitted now", record.reason.clone().unwrap_or_default()),
            Replayed::Narrowed { reason } => ("denied now", reason),
            Replayed::Longer { was, now } => ("longer now", format!("{was} → {now}")),
            Replayed::Shorter { was, now } => ("shorter now", format!("{was} → {now}")),
        };
        self.note(record, what, why);
    }

    fn note(&mut self, record: &Record, what: &'static str, why: String) {
        let name = |name: Option<String>| name.unwrap_or_default();
        let agent = name(record.agent.as_ref().map(ToString::to_string));
        let tool = name(record.tool.as_ref().map(ToString::to_string));
        *self.changes.entry((what, agent, tool, why)).or_default() += 1;
    }

    fn print(&self, terminal: &Terminal) -> anyhow::Result<()> {
        if terminal.is_json() {
            let changes: Vec<_> = self
                .changes
                .iter()
                .map(|((what, agent, tool, why), count)| {
                    json!({ "change": what, "agent": agent, "tool": tool, "why": why, "decisions": count })
                })
                .collect();
            return Ok(terminal.value(&json!({ "decisions": self.decisions, "changes": changes }))?);
        }
        let changed: u64 = self.changes.values().sum();
        terminal.line(format!(
            "{changed} of {} decisions would be others",
            self.decisions
        ))?;
        let rows: Vec<Vec<String>> = self
            .changes
            .iter()
            .map(|((what, agent, tool, why), count)| {
                let tone = match *what {
                    "permitted now" | "longer now" | "permitted there" => Tone::Bad,
                    _ => Tone::Plain,
                };
                vec![
                    count.to_string(),
                    terminal.paint(tone, what),
                    agent.clone(),
                    tool.clone(),
                    why.clone(),
                ]
            })
            .collect();
        match rows.is_empty() {
            true => Ok(()),
            false => Ok(terminal.table(&["COUNT", "CHANGE", "AGENT", "TOOL", "WHY"], &rows)?),
        }
    }
}
