//! What a ledger is kept in while processes come and go.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use dayfly::ledger::Ledger;
use dayfly::ledger::embedded::{self, Embedded};
use dayfly::ledger::redis::{Mode, RedisConfig, RedisLedger};
use tempfile::TempDir;

use crate::ground::{Ground, Process, folder};
use crate::redis_servers;

/// What a ledger is kept in.
pub(crate) enum Store {
    File(TempDir),
    Redis { mode: Mode, prefix: String },
}

impl Store {
    pub(crate) fn embedded() -> Self {
        Self::File(folder())
    }

    /// `None` where there is no server to talk to.
    pub(crate) fn redis() -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let mode = redis_servers::single()?;
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("deaths-{}-{next}", std::process::id());
        Some(Self::Redis { mode, prefix })
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::File(_) => "the embedded ledger",
            Self::Redis { .. } => "Redis",
        }
    }

    /// A process on this ledger.
    pub(crate) async fn start<'g>(&self, ground: &'g Ground) -> Process<'g> {
        let ledger: Arc<dyn Ledger> = match self {
            Self::File(folder) => {
                let path: PathBuf = folder.path().join("ledger.redb");
                Arc::new(Embedded::open(&path, embedded::Config::default()).unwrap())
            }
            Self::Redis { mode, prefix } => {
                let mut config = RedisConfig::new(mode.clone());
                config.prefix = prefix.clone();
                Arc::new(RedisLedger::connect(&config).await.unwrap())
            }
        };
        ground.process(ledger, None)
    }
}
