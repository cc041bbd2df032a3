//! What Redis does to us: it goes away, comes back empty or read-only, forgets our scripts, runs full.
//! Each test has a server of its own to mistreat, where `DAYFLY_TEST_REDIS` says that there may be some.

use std::num::NonZeroU16;
use std::time::Duration;

use dayfly::ledger::redis::{ConnectError, Mode, RedisConfig, RedisLedger};
use dayfly::ledger::{Cursor, Ledger, LedgerError};
use dayfly::model::cutoff::Selector;
use dayfly::model::secret::Secret;
use dayfly::model::time::Timestamp;
use tokio::time::Instant;

use super::super::{NO_FACTS, UNLIMITED, active_at, at, cutoff, lease_at, task_at};
use super::config;
use crate::redis_servers::{Server, single};

impl Server {
    fn config(&self) -> RedisConfig {
        RedisConfig {
            response_timeout: Duration::from_millis(500),
            connect_timeout: Duration::from_millis(500),
            ..config(Mode::Single { url: self.url() }, 8)
        }
    }

    async fn ledger(&self) -> RedisLedger {
        RedisLedger::connect(&self.config()).await.unwrap()
    }
}

#[track_caller]
fn unavailable<T: std::fmt::Debug>(result: Result<T, LedgerError>) -> String {
    match result {
        Err(LedgerError::Unavailable(why)) => why,
        other => panic!("not unavailable: {other:?}"),
    }
}

#[tokio::test]
async fn a_server_that_went_away_is_noticed_at_once_and_found_again() {
    let Some(mut server) = Server::start().await else {
        return;
    };
    let ledger = server.ledger().await;
    let task = task_at(at(0));
    ledger.open(&task, None, None).await.unwrap();

    server.stop();
    let stopped = Instant::now();
    unavailable(ledger.ping().await);
    unavailable(
        ledger
            .reserve(&active_at(&task, at(1)), &UNLIMITED, None, NO_FACTS)
            .await,
    );
    unavailable(ledger.find(&Default::default(), &page()).await);
    assert!(
        stopped.elapsed() < Duration::from_secs(4),
        "{:?}",
        stopped.elapsed()
    );

    server.restart().await;
    let deadline = Instant::now() + Duration::from_secs(10);
    while ledger.ping().await.is_err() || ledger.find(&Default::default(), &page()).await.is_err() {
        assert!(Instant::now() < deadline, "the ledger does not come back");
    }
    assert_eq!(ledger.task(task.charter.id).await.unwrap(), Some(task.clone()));
    ledger
        .reserve(&active_at(&task, at(1)), &UNLIMITED, None, NO_FACTS)
        .await
        .unwrap();
}

fn page() -> dayfly::ledger::Page {
    dayfly::ledger::Page {
        after: None,
        limit: std::num::NonZeroUsize::MIN,
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_no_ledger() {
    let Some(mut server) = Server::start().await else {
        return;
    };
    server.stop();
    let refused = RedisLedger::connect(&server.config()).await.unwrap_err();
    assert!(
        matches!(refused, ConnectError::Ledger(LedgerError::Unavailable(_))),
        "{refused:?}"
    );
    server.restart().await;
}

#[tokio::test]
async fn a_read_only_replica_is_unavailable() {
    let Some(server) = Server::start().await else {
        return;
    };
    let ledger = server.ledger().await;
    let task = task_at(at(0));
    ledger.open(&task, None, None).await.unwrap();
    server.say::<()>(&["REPLICAOF", "127.0.0.1", "1"]).unwrap();

    for why in [
        unavailable(ledger.ping().await),
        unavailable(
            ledger
                .reserve(&lease_at(&task, at(1)), &UNLIMITED, None, NO_FACTS)
                .await,
        ),
        unavailable(ledger.cut(&cutoff(Selector::All, at(1), at(1))).await),
    ] {
        assert!(why.contains("read-only replica"), "{why}");
    }
}

#[tokio::test]
async fn a_server_that_is_full_is_unavailable_and_keeps_nothing_half_written() {
    let Some(server) = Server::start().await else {
        return;
    };
    let ledger = server.ledger().await;
    let task = task_at(at(0));
    ledger.open(&task, None, None).await.unwrap();
    let limit = |bytes| server.say::<()>(&["CONFIG", "SET", "maxmemory", bytes]).unwrap();

    limit("1");
    let lease = active_at(&task, at(1));
    let why = unavailable(ledger.reserve(&lease, &UNLIMITED, None, NO_FACTS).await);
    assert!(why.contains("out of memory"), "{why}");
    limit("0");
    assert_eq!(ledger.lease(lease.id).await.unwrap(), None);
    assert_eq!(ledger.find(&Default::default(), &page()).await.unwrap(), []);
    ledger.reserve(&lease, &UNLIMITED, None, NO_FACTS).await.unwrap();
}

#[tokio::test]
async fn scripts_that_the_server_forgot_are_sent_again() {
    let Some(server) = Server::start().await else {
        return;
    };
    let ledger = server.ledger().await;
    let task = task_at(at(0));
    ledger.open(&task, None, None).await.unwrap();
    server.say::<()>(&["SCRIPT", "FLUSH"]).unwrap();
    ledger
        .reserve(&active_at(&task, at(1)), &UNLIMITED, None, NO_FACTS)
        .await
        .unwrap();
    ledger.open(&task_at(at(0)), None, None).await.unwrap();
}

#[tokio::test]
async fn the_number_of_shards_is_fixed_at_the_first_start() {
    let Some(mode) = single() else { return };
    let config = config(mode, 8);
    RedisLedger::connect(&config).await.unwrap();
    RedisLedger::connect(&config).await.unwrap();
    let other = RedisConfig {
        shards: NonZeroU16::new(16).unwrap(),
        ..config
    };
    let refused = RedisLedger::connect(&other).await.unwrap_err();
    assert!(refused.to_string().contains("set shards to 8"), "{refused}");
}

#[tokio::test]
async fn a_server_that_would_drop_leases_is_refused() {
    let Some(server) = Server::start().await else {
        return;
    };
    for (name, value) in [("maxmemory", "100mb"), ("maxmemory-policy", "allkeys-lru")] {
        server.say::<()>(&["CONFIG", "SET", name, value]).unwrap();
    }
    let refused = RedisLedger::connect(&server.config()).await.unwrap_err();
    assert!(matches!(refused, ConnectError::Evicts(_)), "{refused:?}");
}

#[tokio::test]
async fn a_cursor_from_before_a_loss_misses_nothing_after_it() {
    let Some(server) = Server::start().await else {
        return;
    };
    let ledger = server.ledger().await;
    let cut = async |agent: &str, at: Timestamp| {
        let cutoff = cutoff(Selector::Agent(agent.parse().unwrap()), at, at);
        ledger.cut(&cutoff).await.unwrap();
        cutoff
    };
    for number in 0..5 {
        cut(&format!("agent-{number}"), at(1)).await;
    }
    let before = ledger.changes(&Cursor::default(), Duration::ZERO).await.unwrap();
    server.say::<()>(&["FLUSHALL"]).unwrap();
    let after = cut("agent-9", at(2)).await;
    let changes = ledger.changes(&before.next, Duration::ZERO).await.unwrap();
    assert_eq!(changes.cutoffs, [after]);
}

#[tokio::test]
async fn what_another_replica_published_ends_a_wait() {
    let Some(mode) = single() else { return };
    let config = config(mode, 8);
    let (here, there) = (
        RedisLedger::connect(&config).await.unwrap(),
        RedisLedger::connect(&config).await.unwrap(),
    );
    let start = Cursor::default();
    let everything = cutoff(Selector::All, at(1), at(1));
    let (changes, cut) = tokio::join!(
        here.changes(&start, Duration::from_secs(60)),
        there.cut(&everything)
    );
    cut.unwrap();
    assert_eq!(changes.unwrap().cutoffs, [everything]);
}

#[tokio::test]
async fn the_primary_that_sentinel_chose_is_followed() {
    let Some(mut primary) = Server::start().await else {
        return;
    };
    let replica = Server::start().await.unwrap();
    let port = primary.port().to_string();
    replica.say::<()>(&["REPLICAOF", "127.0.0.1", &port]).unwrap();
    let watch = format!(
        "sentinel monitor dayfly 127.0.0.1 {port} 1\n\
         sentinel down-after-milliseconds dayfly 500\n\
         sentinel failover-timeout dayfly 3000\n"
    );
    let sentinel = Server::start_with(&watch, &["--sentinel"]).await.unwrap();
    let url = Secret::new(format!("redis://127.0.0.1:{}", sentinel.port()));
    let mode = Mode::Sentinel {
        urls: vec![url],
        master: "dayfly".to_owned(),
        nodes: None,
    };
    let ledger = RedisLedger::connect(&config(mode, 8)).await.unwrap();
    let task = task_at(at(0));
    ledger.open(&task, None, None).await.unwrap();

    // The replica has the task, and Sentinel knows of the replica.
    until(|| replica.say::<i64>(&["DBSIZE"]).unwrap() > 1).await;
    until(|| {
        let replicas = sentinel.say::<Vec<redis::Value>>(&["SENTINEL", "REPLICAS", "dayfly"]);
        replicas.is_ok_and(|replicas| !replicas.is_empty())
    })
    .await;
    primary.stop();
    let deadline = Instant::now() + Duration::from_secs(30);
    while ledger.ping().await.is_err() {
        assert!(Instant::now() < deadline, "the new primary is not found");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(ledger.task(task.charter.id).await.unwrap(), Some(task.clone()));
    ledger
        .reserve(&active_at(&task, at(1)), &UNLIMITED, None, NO_FACTS)
        .await
        .unwrap();
    primary.restart().await;
}

async fn until(mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "it does not come to hold");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
