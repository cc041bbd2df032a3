//! An installation whose store can be lost: emptied, or put back to what it was before.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dayfly::app;
use dayfly::app::mark::MarkFile;
use dayfly::app::recover::Outcome;
use dayfly::config::Config;
use dayfly::entropy::OsEntropy;
use dayfly::journal::Journal as _;
use dayfly::ledger::lineage::{Memory, Writer};
use tempfile::TempDir;

use crate::ground::{Ground, Process, folder};
use crate::redis_servers::Server;
use crate::world::{ISSUER, configuration_with};

/// What becomes of the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Loss {
    /// Nothing is left.
    Emptied,
    /// It is what it was when the last copy was made.
    PutBack,
    /// It is what it was before it was last recovered.
    PutFarBack,
}

/// Copies all keys of one database of Redis to another one, in place of what is there.
const COPY: &str = "redis.call('SELECT', ARGV[2]) redis.call('FLUSHDB') redis.call('SELECT', ARGV[1]) \
    for _, key in ipairs(redis.call('KEYS', '*')) do redis.call('COPY', key, key, 'DB', ARGV[2]) end";

pub(crate) struct House<'s> {
    pub(crate) ground: Ground,
    folder: TempDir,
    config: Config,
    server: Option<&'s Server>,
    copies: AtomicUsize,
}

impl<'s> House<'s> {
    /// With its ledger in this Redis, or in a file.
    pub(crate) fn new(ground: Ground, server: Option<&'s Server>) -> Self {
        let folder = folder();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let ledger = match server {
            None => format!(
                "kind = \"embedded\"\n[ledger.embedded]\npath = \"{}\"\n",
                path("ledger.redb")
            ),
            Some(server) => {
                server.say::<()>(&["FLUSHALL"]).unwrap();
                let url = format!("redis://127.0.0.1:{}", server.port());
                // Few shards are enough to lose some of what is in one and none of what is in another.
                format!("kind = \"redis\"\n[ledger.redis]\nurls = [\"{url}\"]\nshards = 4\n")
            }
        };
        let journal = path("journal");
        let config = configuration_with(&format!("[ledger]\n{ledger}[journal]\ndir = \"{journal}\"\n"));
        Self {
            ground,
            folder,
            config,
            server,
            copies: AtomicUsize::new(0),
        }
    }

    /// Whether processes live on when their store is lost. A file is held by the one that opened it.
    pub(crate) fn is_shared(&self) -> bool {
        self.server.is_some()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn marks(&self) -> MarkFile {
        MarkFile::beside(&self.config.journal.dir)
    }

    /// A process as `dayfly serve` starts it: it holds what it remembers against what is there.
    pub(crate) async fn start(&self) -> Process<'_> {
        let opened = app::journal::open(&self.config.journal, ISSUER, &OsEntropy::new());
        let (journal, receipts) = opened.unwrap();
        let mut newest = Vec::new();
        loop {
            let read = u64::try_from(newest.len()).unwrap();
            match journal.read(read, 1000).await.unwrap() {
                page if page.is_empty() => break,
                page => newest.extend(page),
            }
        }
        let memory = self.marks().memory(&newest).unwrap();
        let known = memory != Memory::Nothing;
        let writer = Writer::of_journal(&journal.verifier().to_string());
        let ledger = app::ledger::open(&self.config.ledger, writer, memory)
            .await
            .unwrap();
        let process = self.ground.process(ledger, Some((Arc::new(journal), receipts)));
        if known && process.broker.quarantine().is_none() {
            let retention = self.config.ledger.retention;
            let compared = process.broker.compare_with_journal(&newest, retention).await;
            compared.unwrap();
        }
        self.look(&process).await;
        if process.broker.quarantine().is_none() {
            process.compares("at the start").await;
        }
        process
    }

    /// Looks at the ledger as every broker does every few seconds, and keeps what to remember of it. Whether
    /// all is there.
    pub(crate) async fn look(&self, process: &Process<'_>) -> bool {
        match process.broker.look_at_ledger().await {
            Ok(Some(mark)) => {
                self.marks().write(&mark).unwrap();
                true
            }
            Ok(None) => false,
            Err(error) => panic!("{error:?}"),
        }
    }

    /// `dayfly recover`, with the one journal that there is.
    pub(crate) async fn recover(&self) -> anyhow::Result<Outcome> {
        let journals = std::slice::from_ref(&self.config.journal.dir);
        let clock = &*self.ground.world().clock;
        let entropy = OsEntropy::new();
        app::recover::run(&self.config, journals, false, clock, &entropy).await
    }

    /// Keeps what the store has now, and what was kept before.
    pub(crate) fn keep_copy(&self) {
        self.copies.fetch_add(1, Ordering::Relaxed);
        match self.server {
            Some(server) => {
                server.say::<()>(&["SWAPDB", "1", "2"]).unwrap();
                copy(server, "0", "1");
            }
            None => {
                let (copy, before) = (self.path("copy"), self.path("copy before"));
                if copy.exists() {
                    std::fs::rename(&copy, before).unwrap();
                }
                std::fs::copy(self.path("ledger.redb"), copy).unwrap();
            }
        }
    }

    /// Whether it can be lost so.
    pub(crate) fn can(&self, loss: Loss) -> bool {
        loss != Loss::PutFarBack || self.copies.load(Ordering::Relaxed) > 1
    }

    /// The store is lost. A process that has the file open goes on with one that nobody else will see.
    pub(crate) fn lose(&self, loss: Loss) {
        match (self.server, loss) {
            (Some(server), Loss::Emptied) => server.say::<()>(&["FLUSHDB"]).unwrap(),
            (Some(server), Loss::PutBack) => copy(server, "1", "0"),
            (Some(server), Loss::PutFarBack) => copy(server, "2", "0"),
            (None, Loss::Emptied) => std::fs::remove_file(self.path("ledger.redb")).unwrap(),
            (None, Loss::PutBack) => self.put_back("copy"),
            (None, Loss::PutFarBack) => self.put_back("copy before"),
        }
    }

    fn put_back(&self, copy: &str) {
        let new = self.path("put back");
        std::fs::copy(self.path(copy), &new).unwrap();
        std::fs::rename(new, self.path("ledger.redb")).unwrap();
    }
}

fn copy(server: &Server, from: &str, to: &str) {
    server.say::<()>(&["EVAL", COPY, "0", from, to]).unwrap();
}
