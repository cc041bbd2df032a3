//! Where the ledger is that is measured: how it is opened, what it takes, and how a broker is told of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dayfly::ledger::Ledger;
use dayfly::ledger::embedded::{self, Embedded};
use dayfly::ledger::redis::{Mode, RedisConfig, RedisLedger};
use dayfly::model::secret::Secret;

use crate::{memory, server};

/// A ledger that is empty at first, and can be opened as often as one likes.
pub(crate) enum Place {
    /// On one node.
    Redis { url: String, config: Box<RedisConfig> },
    /// In this file.
    Embedded(PathBuf),
}

impl Place {
    pub(crate) fn redis(url: &str) -> Self {
        let config = server::fresh(Mode::Single {
            url: Secret::new(url.to_owned()),
        });
        Self::Redis {
            url: url.to_owned(),
            config: Box::new(config),
        }
    }

    /// Another one, with the same technology.
    pub(crate) fn beside(&self) -> Self {
        match self {
            Self::Redis { url, .. } => Self::redis(url),
            Self::Embedded(path) => Self::Embedded(path.with_extension("beside")),
        }
    }

    pub(crate) async fn open(&self) -> Arc<dyn Ledger> {
        match self {
            Self::Redis { config, .. } => Arc::new(RedisLedger::connect(config).await.unwrap()),
            Self::Embedded(path) => Arc::new(Embedded::open(path, embedded::Config::default()).unwrap()),
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Redis { url, .. } => memory::used_memory(url),
            Self::Embedded(path) => usize::try_from(fs::metadata(path).unwrap().len()).unwrap(),
        }
    }

    /// Writes into the configuration of a broker with an embedded ledger that its ledger is this one.
    pub(crate) fn tell(&self, configuration: &Path) {
        let text = fs::read_to_string(configuration).unwrap();
        let text = match self {
            Self::Redis { url, config } => {
                let prefix = &config.prefix;
                let more = format!("\n[ledger.redis]\nurls = [\"{url}\"]\nprefix = \"{prefix}\"\n");
                text.replace("kind = \"embedded\"", "kind = \"redis\"") + &more
            }
            Self::Embedded(path) => text.replace("data/ledger.redb", path.to_str().unwrap()),
        };
        fs::write(configuration, text).unwrap();
    }
}
