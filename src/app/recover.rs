//! Recovery of a lost ledger, beside brokers that run or while they do not.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::ledger;
use super::mark::MarkFile;
use crate::broker::recover::{Recovered, recover};
use crate::clock::Clock;
use crate::config::Config;
use crate::entropy::{Entropy, draw};
use crate::journal::note::NoteVerifier;
use crate::journal::reader::Reader;
use crate::journal::record::Record;
use crate::journal::unfinished::Unfinished;
use crate::journal::verify::{Expected, Fault, verify};
use crate::ledger::lineage::{Epoch, Loss, Memory, Standing, Writer};

/// How many records are read at a time.
const PAGE: usize = 1000;

/// What came of it.
#[derive(Debug)]
pub enum Outcome {
    /// The ledger is what all journals remember: there is nothing to recover.
    Whole,
    /// A journal is not as it was signed, and nothing was done.
    Damaged(PathBuf, Fault),
    /// It is recovered.
    Recovered(Report),
}

/// What a recovery found and did.
#[derive(Debug)]
pub struct Report {
    /// How the ledger was lost, for the first journal that says so.
    pub loss: Option<Loss>,
    /// The epoch that begins.
    pub epoch: Epoch,
    /// How many journals were read.
    pub journals: usize,
    /// How many records they have.
    pub records: u64,
    /// Leases without an end whose records do not say enough to end them.
    pub unclear: usize,
    /// What was done.
    pub done: Recovered,
}

/// A journal, and whose it is.
struct Source<'a> {
    dir: &'a Path,
    key: NoteVerifier,
    writer: Writer,
    memory: Memory,
}

impl<'a> Source<'a> {
    fn of(dir: &'a Path) -> anyhow::Result<Self> {
        let path = dir.join("vkey");
        let vkey = std::fs::read_to_string(&path).with_context(|| {
            format!(
                "cannot read {}: is this the directory of a journal?",
                path.display()
            )
        })?;
        let key = vkey.trim().parse().with_context(|| path.display().to_string())?;
        let mark = MarkFile::beside(dir).read()?;
        Ok(Self {
            dir,
            key,
            writer: Writer::of_journal(&vkey),
            memory: mark.map_or(Memory::Journal, Memory::Mark),
        })
    }

    /// Takes all records; how many there are.
    fn read(&self, unfinished: &mut Unfinished) -> anyhow::Result<u64> {
        let reader = Reader::new(self.dir);
        let mut from = 0;
        loop {
            let page = reader.read(from, u64::MAX, PAGE)?;
            if page.is_empty() {
                return Ok(from);
            }
            for line in &page {
                unfinished.take(&Record::from_line(line)?);
                from += 1;
            }
        }
    }
}

/// Recovers the ledger of this configuration from the journals in these directories, which have to be
/// those of all its brokers. A ledger that is whole is left alone unless `anyway` says otherwise.
pub async fn run(
    config: &Config,
    journals: &[PathBuf],
    anyway: bool,
    clock: &dyn Clock,
    entropy: &dyn Entropy,
) -> anyhow::Result<Outcome> {
    let sources: Vec<Source<'_>> = journals
        .iter()
        .map(|dir| Source::of(dir))
        .collect::<anyhow::Result<_>>()?;
    let ledger = ledger::open(&config.ledger, Writer::default(), Memory::Observer).await?;
    let mut loss = None;
    for source in &sources {
        match ledger.judge(source.writer, &source.memory).await? {
            Standing::Lost(found) => loss = loss.or(Some(found)),
            Standing::New => loss = loss.or(Some(Loss::Emptied)),
            Standing::Whole(_) | Standing::Recovered(_) => {}
        }
    }
    if loss.is_none() && !anyway {
        return Ok(Outcome::Whole);
    }
    for source in &sources {
        let expected = Expected {
            key: Some(source.key.clone()),
            ..Expected::default()
        };
        if let Err(fault) = verify(source.dir, &expected) {
            return Ok(Outcome::Damaged(source.dir.to_owned(), fault));
        }
    }
    // Before the journals are read, so that they grow by nothing that this would not see.
    ledger.condemn(Loss::Told).await?;
    let (mut unfinished, mut records) = (Unfinished::default(), 0);
    for source in &sources {
        records += source
            .read(&mut unfinished)
            .with_context(|| source.dir.display().to_string())?;
    }
    let unclear = unfinished.unclear();
    let known = sources.iter().filter_map(|source| match &source.memory {
        Memory::Mark(mark) => Some(mark.epoch),
        _ => None,
    });
    let now = clock.now();
    let epoch = Epoch::after(known, now, draw(entropy)?);
    let writers: BTreeSet<Writer> = sources.iter().map(|source| source.writer).collect();
    let done = recover(&*ledger, unfinished, epoch, &writers, now).await;
    let done = done.context("the recovery was not finished: run it again")?;
    Ok(Outcome::Recovered(Report {
        loss,
        epoch,
        journals: sources.len(),
        records,
        unclear,
        done,
    }))
}
