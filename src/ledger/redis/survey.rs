//! What a Redis says of itself, before anybody relies on it.

use redis::{Cmd, cmd};

use super::link::Link;
use super::{ConnectError, RedisConfig};

/// What was found out. What the user may not ask is `None`.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// `maxmemory-policy`.
    pub eviction: Option<String>,
    /// Whether every write goes to the append-only file.
    pub appends: Option<bool>,
    /// How often that file is synced: `always`, `everysec` or `no`.
    pub syncs: Option<String>,
    /// `min-replicas-to-write`.
    pub least_replicas: Option<u32>,
    /// How many replicas follow now.
    pub replicas: Option<u32>,
    /// As whom one speaks to it.
    pub user: Option<String>,
    /// Its time, in milliseconds since 1970.
    pub time: Option<u64>,
}

impl Survey {
    /// Connects and asks. Of a cluster only what each node answers alike.
    pub async fn of(config: &RedisConfig) -> Result<Self, ConnectError> {
        let link = Link::connect(config, 1).await?;
        let (seconds, micros): (u64, u64) = link.query(&cmd("TIME")).await?;
        let mut survey = Self {
            time: Some(seconds * 1000 + micros / 1000),
            ..Self::default()
        };
        let whoami = cmd("ACL").arg("WHOAMI").to_owned();
        survey.user = link.query(&whoami).await.ok();
        if !link.is_one_node() {
            return Ok(survey);
        }
        let info = text(&link, &cmd("INFO")).await;
        let info = |name: &str| {
            let line = info
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.map(|value| value.trim().to_owned())
        };
        survey.eviction = info("maxmemory_policy");
        survey.appends = info("aof_enabled").map(|enabled| enabled == "1");
        survey.replicas = info("connected_slaves").and_then(|count| count.parse().ok());
        survey.syncs = setting(&link, "appendfsync").await;
        let least = setting(&link, "min-replicas-to-write").await;
        survey.least_replicas = least.and_then(|count| count.parse().ok());
        Ok(survey)
    }
}

async fn text(link: &Link, command: &Cmd) -> String {
    link.query(command).await.unwrap_or_default()
}

/// A setting, where the user may read them.
async fn setting(link: &Link, name: &str) -> Option<String> {
    let get = cmd("CONFIG").arg("GET").arg(name).to_owned();
    let answer: Vec<String> = link.query(&get).await.ok()?;
    answer.into_iter().nth(1)
}
