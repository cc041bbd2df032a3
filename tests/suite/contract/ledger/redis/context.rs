//! Facts between replicas on Redis: what one states holds for all, also when it dies before it has told
//! every shard.

use std::sync::Arc;
use std::time::Duration;

use dayfly::ledger::context::Stated;
use dayfly::ledger::redis::{Mode, RedisConfig, RedisLedger};
use dayfly::ledger::{Ledger, Refusal};
use dayfly::model::cutoff::Selector;
use dayfly::model::ids::Slot;
use dayfly::model::time::Timestamp;
use tokio::time::Instant;

use super::super::context::{claim, new, risk};
use super::super::{
    Fixture as _, NO_FACTS, START, Shorthand as _, UNLIMITED, active_at, at, cutoff, refusal, secs, task_in,
};
use super::{config, on};
use crate::redis_servers::{Server, single};

const SHARDS: u16 = 8;

async fn replica(config: &RedisConfig) -> Arc<dyn Ledger> {
    Arc::new(RedisLedger::connect(config).await.unwrap())
}

#[tokio::test]
async fn a_flood_of_decisions_becomes_one_about_everything() {
    if let Some(servers) = on(single(), 1) {
        let ledger = servers.ledger().await;
        super::super::context::a_flood_of_decisions_becomes_one_about_everything(ledger).await;
    }
}

#[tokio::test]
async fn what_one_replica_states_every_replica_hears_of() {
    let Some(mode) = single() else { return };
    let config = config(mode, SHARDS);
    let (here, there) = (replica(&config).await, replica(&config).await);
    let stating = async {
        tokio::time::sleep(Duration::from_millis(300)).await; // until it looks as rarely as it ever does
        let version = new(&here, &risk("high", 1), at(1)).await;
        (version, Instant::now())
    };
    let hearing = async { (there.facts(NO_FACTS, secs(60)).await.unwrap(), Instant::now()) };
    let ((version, stated), (told, heard)) = tokio::join!(stating, hearing);
    assert!(heard.duration_since(stated) < secs(1), "{:?}", heard - stated);
    assert_eq!((told.stated, told.version), (vec![risk("high", 1)], version));
    let task = there.opened(task_in(Slot::new(5), START)).await;
    let stale = there
        .reserve(&active_at(&task, at(2)), &UNLIMITED, None, NO_FACTS)
        .await;
    assert_eq!(refusal(stale), Refusal::StaleFacts);
}

#[tokio::test]
async fn a_version_that_was_not_carried_into_every_shard_is_carried_by_whoever_comes() {
    let Some(server) = Server::start().await else {
        return;
    };
    let config = config(Mode::Single { url: server.url() }, SHARDS);
    let ledger = replica(&config).await;
    let mut tasks = Vec::new();
    for slot in 0..SHARDS {
        tasks.push(ledger.opened(task_in(Slot::new(slot), START)).await);
    }
    new(&ledger, &risk("high", 1), at(1)).await;
    // As when it had died on the way.
    let forget = || {
        for shard in 1..SHARDS {
            let cutoffs = format!("{{{}:{shard}}}:cutoffs", config.prefix);
            server.say::<()>(&["HDEL", &cutoffs, "#"]).unwrap();
        }
    };
    let stale = async |ledger: &Arc<dyn Ledger>| {
        let mut stale = 0;
        for task in &tasks {
            match ledger
                .reserve(&active_at(task, at(2)), &UNLIMITED, None, NO_FACTS)
                .await
            {
                Ok(_) => {}
                refused => {
                    assert_eq!(refusal(refused), Refusal::StaleFacts);
                    stale += 1;
                }
            }
        }
        stale
    };
    forget();
    assert_eq!(stale(&ledger).await, 1, "the shard that has the facts");
    let repeats = replica(&config).await;
    let again = repeats.state(&risk("high", 1), "because", at(3)).await.unwrap();
    assert_eq!(again, Stated::Unchanged);
    assert_eq!(stale(&ledger).await, tasks.len());

    forget();
    let rechecks = replica(&config).await;
    assert!(claim(&rechecks, at(4)).await.is_some());
    assert_eq!(stale(&ledger).await, tasks.len());

    // It stands beside the cutoffs, and is none.
    assert_eq!(ledger.cutoffs().await.unwrap(), []);
    let all = cutoff(Selector::All, at(0), at(5));
    ledger.cut(&all).await.unwrap();
    assert_eq!(ledger.cutoffs().await.unwrap(), [all]);
    let late = Timestamp::from_millis(at(5).as_millis() + 366 * 24 * 3_600_000);
    ledger.due(late).await;
    assert_eq!(ledger.cutoffs().await.unwrap(), []);
    assert_eq!(stale(&ledger).await, tasks.len());
}
