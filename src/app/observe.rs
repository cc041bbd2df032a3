//! What is measured about the whole of it, from time to time: the process, the journal, the keys that evidence is
//! checked with.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use rustix::fs::statvfs;
use tokio_util::sync::CancellationToken;

use crate::identity::verifiers::Verifiers;
use crate::journal::file::FileJournal;
use crate::telemetry;

/// How often.
const EVERY: Duration = Duration::from_secs(5);

/// Where it is measured.
pub(super) struct Observed {
    pub(super) metrics: PrometheusHandle,
    pub(super) journal: Arc<FileJournal>,
    /// Where the journal lies.
    pub(super) dir: PathBuf,
    pub(super) verifiers: Arc<Verifiers>,
}

impl Observed {
    /// Measures at once and then regularly, until told to stop. Histograms are condensed too, so that they do not
    /// grow when nobody scrapes.
    pub(super) async fn run(self, stop: CancellationToken) {
        let observed = Arc::new(self);
        loop {
            observed.measure();
            let here = Arc::clone(&observed);
            // A file system that hangs holds up nobody else.
            let looking = tokio::task::spawn_blocking(move || here.look());
            tokio::select! {
                () = stop.cancelled() => return,
                looked = looking => if let Err(error) = looked {
                    tracing::error!(%error, "the process could not be measured");
                },
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(EVERY) => {}
            }
        }
    }

    /// What is in memory.
    fn measure(&self) {
        self.metrics.run_upkeep();
        telemetry::checkpoint_age(self.journal.checkpoint_age());
        // A trust domain has a source for each kind of SVID: the older one counts.
        let mut ages = BTreeMap::new();
        for source in self.verifiers.key_sources() {
            if let Some(age) = source.age() {
                let oldest = ages.entry(source.authority()).or_insert(age);
                *oldest = age.max(*oldest);
            }
        }
        for (authority, age) in ages {
            telemetry::keys_age(authority, age);
        }
    }

    /// What the system has to be asked for.
    fn look(&self) {
        telemetry::process::sample();
        match free(&self.dir) {
            Ok(ratio) => telemetry::disk_free(ratio),
            Err(error) => tracing::warn!(%error, "the file system of the journal could not be measured"),
        }
    }
}

/// The part of a file system that is free for us, between 0 and 1.
pub(super) fn free(dir: &Path) -> std::io::Result<f64> {
    let all = statvfs(dir)?;
    // What is kept for the system is not there for us, as `df` counts.
    let used = all.f_blocks.saturating_sub(all.f_bfree);
    let whole = used + all.f_bavail;
    Ok(match whole {
        0 => 0.0,
        whole => all.f_bavail as f64 / whole as f64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_free_and_what_is_not_there_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let part = free(dir.path()).unwrap();
        assert!((0.0..=1.0).contains(&part), "{part}");
        assert!(free(&dir.path().join("none")).is_err());
    }
}
