//! What a broker remembers of its ledger: a small file beside its journal, written anew every few
//! seconds while the ledger moves.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::broker::Broker;
use crate::broker::error::chain;
use crate::journal::record::{Record, Verb};
use crate::ledger::lineage::{Mark, Memory};

/// The name of the file in the journal's directory.
const NAME: &str = "ledger-mark";
/// How often the ledger is looked at.
const EVERY: Duration = Duration::from_secs(2);

/// The file.
#[derive(Clone, Debug)]
pub struct MarkFile(PathBuf);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    epoch: String,
    progress: Vec<u64>,
}

impl MarkFile {
    /// The one beside the journal in this directory.
    pub fn beside(journal: &Path) -> Self {
        Self(journal.join(NAME))
    }

    /// The mark, if one was kept.
    pub fn read(&self) -> anyhow::Result<Option<Mark>> {
        let text = match std::fs::read_to_string(&self.0) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", self.0.display())),
        };
        let damaged = || {
            format!(
                "{} is damaged; remove it, and the journal alone tells whether the ledger was lost",
                self.0.display()
            )
        };
        let written: Written = serde_json::from_str(&text).with_context(damaged)?;
        Ok(Some(Mark {
            epoch: written.epoch.parse().with_context(damaged)?,
            progress: written.progress,
        }))
    }

    /// Puts a mark in the place of the last one, whole or not at all.
    pub fn write(&self, mark: &Mark) -> std::io::Result<()> {
        let written = Written {
            epoch: mark.epoch.to_string(),
            progress: mark.progress.clone(),
        };
        let new = self.0.with_extension("new");
        let mut file = File::create(&new)?;
        file.write_all(&serde_json::to_vec(&written)?)?;
        file.sync_all()?;
        std::fs::rename(&new, &self.0)?;
        let folder = self.0.parent().unwrap_or_else(|| Path::new("."));
        File::open(folder)?.sync_all()
    }

    /// What is remembered, with the newest records of the journal.
    pub fn memory(&self, newest: &[String]) -> anyhow::Result<Memory> {
        if let Some(mark) = self.read()? {
            return Ok(Memory::Mark(mark));
        }
        let gave = |record: Record| {
            matches!(
                record.verb,
                Verb::Open | Verb::Delegate | Verb::Issue | Verb::Renew
            )
        };
        let gave = newest.iter().any(|line| Record::from_line(line).is_ok_and(gave));
        Ok(if gave { Memory::Journal } else { Memory::Nothing })
    }
}

/// Looks at the ledger until told to stop, and keeps what to remember of it.
pub async fn keep(broker: Arc<Broker>, file: MarkFile, stop: CancellationToken) {
    let mut kept = None;
    let mut failing = false;
    loop {
        let last = stop.is_cancelled();
        match broker.look_at_ledger().await {
            Ok(Some(mark)) if kept.as_ref() != Some(&mark) => {
                let (file, written) = (file.clone(), mark.clone());
                match tokio::task::spawn_blocking(move || file.write(&written)).await {
                    Ok(Ok(())) => (kept, failing) = (Some(mark), false),
                    Ok(Err(error)) if !std::mem::replace(&mut failing, true) => {
                        tracing::warn!(%error, "the mark of the ledger cannot be written");
                    }
                    _ => {}
                }
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(error = %chain(&error), "the ledger could not be looked at"),
        }
        if last {
            return;
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::lineage::Epoch;

    #[test]
    fn a_mark_is_read_as_it_was_written_and_damage_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let file = MarkFile::beside(folder.path());
        assert_eq!(file.memory(&[]).unwrap(), Memory::Nothing);
        let mark = |number| Mark {
            epoch: Epoch(number),
            progress: vec![1, number, u64::MAX],
        };
        for number in [7, 8] {
            file.write(&mark(number)).unwrap();
            assert_eq!(file.read().unwrap(), Some(mark(number)));
        }
        assert_eq!(file.memory(&[]).unwrap(), Memory::Mark(mark(8)));
        std::fs::write(folder.path().join(NAME), "{\"epoch\":").unwrap();
        assert!(file.read().unwrap_err().to_string().contains("remove it"));
    }

    #[test]
    fn a_journal_that_gave_something_out_is_a_memory() {
        let folder = tempfile::tempdir().unwrap();
        let file = MarkFile::beside(folder.path());
        let line = |verb| {
            let result = crate::journal::record::Result::Permitted;
            let at = crate::model::time::Timestamp::EPOCH;
            Record::new(verb, result, at).to_line().unwrap()
        };
        assert_eq!(file.memory(&[line(Verb::Serve)]).unwrap(), Memory::Nothing);
        assert_eq!(
            file.memory(&[line(Verb::Open), line(Verb::Serve)]).unwrap(),
            Memory::Journal
        );
    }
}
