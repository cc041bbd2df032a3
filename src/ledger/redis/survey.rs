//! What a Redis says of itself, before anybody relies on it.

use std::collections::HashMap;

use redis::{Cmd, Value, cmd};

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
    /// Whether the user `default` may do everything, if it were let in.
    pub default_may_all: Option<bool>,
    /// Its time, in milliseconds since 1970.
    pub time: Option<u64>,
}

impl Survey {
    /// Connects and asks. Of a cluster only what each node answers alike.
    pub async fn of(config: &RedisConfig) -> Result<Self, ConnectError> {
        let link = Link::connect(config, 1).await?;
        // Whoever is let in may say this; everything else a user may be kept from.
        link.query::<String>(&cmd("PING")).await?;
        let time: Option<(u64, u64)> = link.query(&cmd("TIME")).await.ok();
        let whoami = cmd("ACL").arg("WHOAMI").to_owned();
        let mut survey = Self {
            time: time.map(|(seconds, micros)| seconds * 1000 + micros / 1000),
            user: link.query(&whoami).await.ok(),
            ..Self::default()
        };
        survey.default_may_all = default_may_all(&link).await;
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
        survey.least_replicas = match least.and_then(|count| count.parse().ok()) {
            // Who may not read the setting sees whether it is set: only then there is such a line.
            None if survey.appends.is_some() => Some(info("min_slaves_good_slaves").is_some().into()),
            least => least,
        };
        Ok(survey)
    }
}

async fn default_may_all(link: &Link) -> Option<bool> {
    let ask = cmd("ACL").arg("GETUSER").arg("default").to_owned();
    let user: HashMap<String, Value> = link.query(&ask).await.ok()?;
    let is = |member: &str, all: &str| match user.get(member) {
        Some(Value::BulkString(text)) => Some(text == all.as_bytes()),
        Some(Value::SimpleString(text)) => Some(text == all),
        _ => None,
    };
    Some(is("commands", "+@all")? && is("keys", "~*")? && is("channels", "&*")?)
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
