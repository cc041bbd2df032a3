//! `dayfly serve` beside the ledger: when it is ready, and what it takes.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use dayfly::dev::estate::Estate;
use dayfly::entropy::OsEntropy;
use dayfly::ledger::Ledger;
use tempfile::TempDir;

use crate::child::{self, Started};
use crate::estate::furnish;
use crate::place::Place;
use crate::table::row;

const STARTS: usize = 7;
const REST: Duration = Duration::from_secs(2);
/// Where the ledger keeps by which rules everything was decided, and since when.
const MARK: &str = "revision";

/// A broker that can be started.
pub(crate) struct Broker {
    configuration: PathBuf,
    address: SocketAddr,
    _files: TempDir,
}

impl Broker {
    /// With the registry of a small installation, and so many agents more.
    pub(crate) fn new(place: &Place, agents: usize) -> Self {
        let files = TempDir::new().unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let estate = Estate::lay_out(files.path(), address, &OsEntropy::new()).unwrap();
        furnish(files.path(), agents);
        place.tell(&estate.configuration());
        Self {
            configuration: estate.configuration(),
            address,
            _files: files,
        }
    }

    /// Starts it several times. The ledger must not be open elsewhere, where it is for one process.
    pub(crate) async fn measure(&self, what: &str) {
        let binary = env!("CARGO_BIN_EXE_dayfly");
        let started = child::measure(binary, &self.configuration, self.address, STARTS, REST);
        let Started { ready, resident, own } = started.await;
        row(
            &format!("broker, {what}: ready"),
            format!("{ready:.0?}"),
            &format!("`dayfly serve`, until `/readyz` says so, median of {STARTS}"),
        );
        row(
            &format!("broker, {what}: memory"),
            format!("{} MiB resident", resident >> 10),
            &format!("after {REST:.0?}; {} MiB of them its own", own >> 10),
        );
    }
}

/// Has the rules be in force for so long that a start trusts them, instead of deciding everything anew.
pub(crate) async fn age_rules(ledger: &dyn Ledger) {
    let mark = ledger.mark(MARK).await.unwrap().unwrap();
    let text = String::from_utf8(mark.clone()).unwrap();
    let (revision, _) = text.rsplit_once(' ').unwrap();
    let aged = format!("{revision} 0");
    assert!(ledger.set_mark(MARK, aged.as_bytes(), Some(&mark)).await.unwrap());
}
