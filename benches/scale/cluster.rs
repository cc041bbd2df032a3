//! A cluster of three nodes and two brokers: how evenly it is filled, and how fast, beside one node.

use std::sync::Arc;

use dayfly::clock::{Clock as _, SystemClock};
use dayfly::ledger::Ledger;
use dayfly::ledger::redis::{Mode, RedisConfig, RedisLedger};
use dayfly::model::secret::Secret;
use redis::Connection;

use crate::table::{rate, rates, row, spread};
use crate::{issuing, leases, memory, server};

/// What a node said of itself.
struct Node {
    url: String,
    keys: usize,
    bytes: usize,
}

impl Node {
    fn now(url: &str) -> Self {
        let keys = redis::cmd("DBSIZE").query(&mut connection(url)).unwrap();
        Self {
            url: url.to_owned(),
            keys,
            bytes: memory::used_memory(url),
        }
    }

    /// The leases of each shard that is here.
    fn shards(&self, config: &RedisConfig) -> Vec<usize> {
        let mut here = connection(&self.url);
        let count = |shard| {
            let key = format!("{{{}:{shard}}}:leases", config.prefix);
            // A shard of another node is said to be there.
            redis::cmd("HLEN").arg(key).query(&mut here).ok()
        };
        (0..config.shards.get()).filter_map(count).collect()
    }
}

fn connection(url: &str) -> Connection {
    redis::Client::open(url).unwrap().get_connection().unwrap()
}

/// Fills it by two brokers, half each.
async fn fill(brokers: &[Arc<dyn Ledger>; 2], count: usize, agents: usize) {
    let start = SystemClock::new().now();
    let halves = brokers.each_ref().map(|ledger| async move {
        let tasks = leases::open_tasks(&**ledger, start, count / 2, agents).await;
        leases::reserve(ledger, tasks, count / 2).await;
    });
    futures_util::future::join_all(halves).await;
}

/// Both brokers issue at the same time, together as many as that.
async fn issue(brokers: &[Arc<dyn Ledger>; 2], count: usize, agents: usize) -> f64 {
    let rounds = brokers
        .each_ref()
        .map(|ledger| issuing::round(ledger, count / 2, agents));
    futures_util::future::join_all(rounds).await.iter().sum()
}

async fn brokers(config: &RedisConfig) -> [Arc<dyn Ledger>; 2] {
    let one = RedisLedger::connect(config).await.unwrap();
    let other = RedisLedger::connect(config).await.unwrap();
    [Arc::new(one), Arc::new(other)]
}

pub(crate) async fn measure(urls: &str, single: &str, count: usize, agents: usize) {
    let urls: Vec<&str> = urls.split(',').collect();
    let config = server::fresh(Mode::Cluster {
        urls: urls.iter().map(|url| Secret::new((*url).to_owned())).collect(),
    });
    let on_cluster = brokers(&config).await;
    let before: Vec<Node> = urls.iter().map(|url| Node::now(url)).collect();
    let began = std::time::Instant::now();
    fill(&on_cluster, count, agents).await;
    row(
        "filled",
        format!("{:.0} a second", rate(count, began.elapsed())),
        &format!("{count} leases and their tasks, by two brokers"),
    );

    let (mut all, mut bytes) = (Vec::new(), 0);
    for (number, before) in before.iter().enumerate() {
        let after = Node::now(&before.url);
        let shards = after.shards(&config);
        let leases: usize = shards.iter().sum();
        bytes += after.bytes - before.bytes;
        row(
            &format!("node {}", number + 1),
            format!("{:.0} % of the leases", 100.0 * part(leases, count)),
            &format!(
                "{} shards, {} keys, {} MiB more",
                shards.len(),
                after.keys - before.keys,
                (after.bytes - before.bytes) >> 20
            ),
        );
        all.extend(shards);
    }
    row("bytes a lease", bytes / count, "with their tasks, on all nodes");
    let (most, least) = (all.iter().max().unwrap(), all.iter().min().unwrap());
    row(
        "leases of the busiest shard to those of the least busy",
        format!("{:.2}", part(*most, *least)),
        &format!("{most} to {least}, of {} shards", all.len()),
    );

    let node = server::fresh(Mode::Single {
        url: Secret::new(single.to_owned()),
    });
    let on_node = brokers(&node).await;
    fill(&on_node, count, agents).await;
    let round = (count / 20).max(1000);
    let (mut of_node, mut of_cluster, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..5 {
        let (one, three) = (
            issue(&on_node, round, agents).await,
            issue(&on_cluster, round, agents).await,
        );
        of_node.push(one);
        of_cluster.push(three);
        ratios.push(three / one);
    }
    let how = format!("by two brokers together, with as many there, 5 rounds of {round} in turns");
    row("issued, one node", rates(spread(of_node)), &how);
    row("issued, the cluster", rates(spread(of_cluster)), &how);
    let [least, middle, most] = spread(ratios);
    row(
        "issued, the cluster to one node",
        format!("{middle:.2} ({least:.2} to {most:.2})"),
        "of neighbouring rounds; all nodes and who asks share this machine",
    );
}

#[expect(clippy::cast_precision_loss, reason = "counts of leases are far below that")]
fn part(of: usize, whole: usize) -> f64 {
    of as f64 / whole as f64
}
