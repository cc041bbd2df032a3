//! Redis comes back empty, or as it was before: each adapter that was answered finds it, and tells the
//! others.

use std::num::NonZeroUsize;
use std::time::Duration;

use dayfly::ledger::lineage::{Lineage as _, Loss, Mark, Memory, Watched, Writer};
use dayfly::ledger::redis::{Mode, RedisConfig, RedisLedger};
use dayfly::ledger::{Ledger, LedgerError, Page};
use dayfly::model::cutoff::Selector;
use dayfly::model::ids::Slot;
use dayfly::model::lease::{Cause, LeaseState};
use tokio::time::Instant;

use super::super::losses::{epoch, lost};
use super::super::{NO_FACTS, UNLIMITED, active_at, at, cutoff, lease_at, task_at, task_in};
use super::config;
use crate::redis_servers::{Server, cluster, single};

async fn connect(config: &RedisConfig, writer: u64, memory: Memory) -> RedisLedger {
    let config = RedisConfig {
        writer: Writer(writer),
        memory,
        ..config.clone()
    };
    RedisLedger::connect(&config).await.unwrap()
}

async fn mark(ledger: &RedisLedger) -> Mark {
    match ledger.watch().await.unwrap() {
        Watched::Whole(mark) => mark,
        other => panic!("{other:?}"),
    }
}

/// A server that keeps what it is told to save, and nothing else.
async fn forgetful() -> Option<(Server, RedisConfig)> {
    let server = Server::start_with("save \"\"\nappendonly no\n", &[]).await?;
    let config = RedisConfig {
        response_timeout: Duration::from_millis(500),
        connect_timeout: Duration::from_millis(500),
        ..config(Mode::Single { url: server.url() }, 8)
    };
    Some((server, config))
}

async fn answers(ledger: &RedisLedger) {
    let deadline = Instant::now() + Duration::from_secs(10);
    let page = Page {
        after: None,
        limit: NonZeroUsize::MIN,
    };
    // Over both of its connections.
    while ledger.ping().await.is_err() || ledger.find(&Default::default(), &page).await.is_err() {
        assert!(Instant::now() < deadline, "the ledger does not come back");
    }
}

#[tokio::test]
async fn an_emptied_server_gives_nothing_out_and_nobody_makes_it_anew() {
    let Some((server, config)) = forgetful().await else {
        return;
    };
    let here = connect(&config, 1, Memory::Nothing).await;
    let there = connect(&config, 2, Memory::Nothing).await;
    let task = task_at(at(0));
    here.open(&task, None, None).await.unwrap();
    let remembered = Memory::Mark(mark(&there).await);
    server.say::<()>(&["FLUSHALL"]).unwrap();
    assert_eq!(lost(here.open(&task, None, None).await), Loss::Emptied);
    assert_eq!(
        lost(
            there
                .reserve(&active_at(&task, at(1)), &UNLIMITED, None, NO_FACTS)
                .await
        ),
        Loss::Emptied
    );
    assert_eq!(here.loss(), Some(Loss::Emptied));

    // Who remembers something, or has issued something, does not make a ledger of an empty server.
    for memory in [remembered.clone(), Memory::Journal] {
        let again = connect(&config, 2, memory).await;
        assert_eq!(again.loss(), Some(Loss::Emptied));
        lost(again.open(&task, None, None).await);
    }
    // Who starts for the first time does; and that is another ledger to those who remember.
    let new = connect(&config, 3, Memory::Nothing).await;
    new.open(&task, None, None).await.unwrap();
    assert_eq!(connect(&config, 2, remembered).await.loss(), Some(Loss::Replaced));
    assert_eq!(
        connect(&config, 2, Memory::Journal).await.loss(),
        Some(Loss::Replaced)
    );
    assert_eq!(here.watch().await.unwrap(), Watched::Lost(Loss::Emptied));
    assert_eq!(new.loss(), None, "another ledger is not theirs to condemn");
    new.reserve(&active_at(&task, at(1)), &UNLIMITED, None, NO_FACTS)
        .await
        .unwrap();

    new.begin_epoch(epoch(9), &[Writer(1), Writer(2)].into())
        .await
        .unwrap();
    assert_eq!(here.watch().await.unwrap(), Watched::Recovered);
    here.rejoin().await.unwrap();
    here.open(&task_at(at(0)), None, None).await.unwrap();
    assert_eq!(
        lost(new.open(&task_at(at(0)), None, None).await),
        Loss::Replaced,
        "its journal was not read"
    );
}

#[tokio::test]
async fn the_shortest_roll_back_is_found_however_much_others_wrote_meanwhile() {
    let Some((mut server, config)) = forgetful().await else {
        return;
    };
    let here = connect(&config, 1, Memory::Nothing).await;
    let there = connect(&config, 2, Memory::Nothing).await;
    let task = task_at(at(0));
    here.open(&task, None, None).await.unwrap();
    server.say::<()>(&["SAVE"]).unwrap();
    let gone = active_at(&task, at(1));
    here.reserve(&gone, &UNLIMITED, None, NO_FACTS).await.unwrap();
    let remembered = mark(&here).await;
    server.stop();
    server.restart().await;
    answers(&there).await;
    answers(&here).await;
    assert_eq!(here.lease(gone.id).await.unwrap(), None);

    // The other one was never told of what is gone, and goes on.
    for _ in 0..5 {
        there
            .reserve(&active_at(&task, at(2)), &UNLIMITED, None, NO_FACTS)
            .await
            .unwrap();
    }
    assert_eq!(
        connect(&config, 1, Memory::Mark(remembered)).await.loss(),
        Some(Loss::RolledBack),
        "after a restart too"
    );
    assert_eq!(
        lost(there.open(&task_at(at(0)), None, None).await),
        Loss::Told,
        "who finds it tells the others"
    );
    let told = here
        .reserve(&active_at(&task, at(3)), &UNLIMITED, None, NO_FACTS)
        .await;
    assert_eq!(lost(told), Loss::Told);
}

#[tokio::test]
async fn a_lost_end_is_found_as_a_lost_credential_is() {
    let Some((mut server, config)) = forgetful().await else {
        return;
    };
    let ledger = connect(&config, 1, Memory::Nothing).await;
    let task = task_at(at(0));
    ledger.open(&task, None, None).await.unwrap();
    let lease = lease_at(&task, at(1));
    ledger.reserve(&lease, &UNLIMITED, None, NO_FACTS).await.unwrap();
    server.say::<()>(&["SAVE"]).unwrap();
    let agent = Selector::Agent(lease.agent.clone());
    ledger.cut(&cutoff(agent, at(2), at(2))).await.unwrap();
    server.stop();
    server.restart().await;
    answers(&ledger).await;
    let found = lost(
        ledger
            .reserve(&active_at(&task, at(2)), &UNLIMITED, None, NO_FACTS)
            .await,
    );
    assert_eq!(found, Loss::RolledBack);
    // And while nobody asks for anything, a look finds it.
    ledger.begin_epoch(epoch(4), &[Writer(1)].into()).await.unwrap();
    ledger.rejoin().await.unwrap();
    server.say::<()>(&["SAVE"]).unwrap();
    ledger.cut(&cutoff(Selector::All, at(3), at(3))).await.unwrap();
    server.stop();
    server.restart().await;
    answers(&ledger).await;
    assert_eq!(ledger.watch().await.unwrap(), Watched::Lost(Loss::RolledBack));
}

#[tokio::test]
async fn whoever_relies_on_a_lease_finds_that_its_end_was_lost() {
    let Some((mut server, config)) = forgetful().await else {
        return;
    };
    let ledger = connect(&config, 1, Memory::Nothing).await;
    let task = task_at(at(0));
    ledger.open(&task, None, None).await.unwrap();
    let lease = active_at(&task, at(1));
    ledger.reserve(&lease, &UNLIMITED, None, NO_FACTS).await.unwrap();
    server.say::<()>(&["SAVE"]).unwrap();
    ledger.live(lease.id, at(2)).await.unwrap();
    ledger.revoke(lease.id, Cause::Revoked, at(2)).await.unwrap();
    server.stop();
    server.restart().await;
    answers(&ledger).await;
    let stored = ledger.lease(lease.id).await.unwrap().unwrap();
    assert_eq!(stored.state, LeaseState::Active, "as it was saved");
    assert_eq!(lost(ledger.live(lease.id, at(2)).await), Loss::RolledBack);
    assert_eq!(ledger.loss(), Some(Loss::RolledBack));
}

#[tokio::test]
async fn a_server_that_kept_everything_is_no_loss() {
    let Some(mut server) = Server::start().await else {
        return;
    };
    let config = config(Mode::Single { url: server.url() }, 8);
    let ledger = connect(&config, 1, Memory::Nothing).await;
    let task = task_at(at(0));
    ledger.open(&task, None, None).await.unwrap();
    for second in 1..20 {
        ledger
            .reserve(&active_at(&task, at(second)), &UNLIMITED, None, NO_FACTS)
            .await
            .unwrap();
    }
    let remembered = mark(&ledger).await;
    server.stop();
    server.restart().await;
    answers(&ledger).await;
    ledger.watch().await.unwrap();
    ledger
        .reserve(&active_at(&task, at(30)), &UNLIMITED, None, NO_FACTS)
        .await
        .unwrap();
    let again = connect(&config, 1, Memory::Mark(remembered)).await;
    assert_eq!(again.loss(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_raise_no_false_alarm() {
    let Some(mode) = single() else { return };
    let config = config(mode, 4);
    // Two processes that share a name, which copies of a folder do.
    let ledgers = [
        connect(&config, 1, Memory::Nothing).await,
        connect(&config, 1, Memory::Nothing).await,
    ];
    let task = task_at(at(0));
    ledgers[0].open(&task, None, None).await.unwrap();
    let calls = (0..400).map(|number| {
        let (ledger, lease) = (&ledgers[number % 2], active_at(&task, at(1)));
        async move {
            ledger.reserve(&lease, &UNLIMITED, None, NO_FACTS).await.unwrap();
            if number % 50 == 0 {
                assert!(matches!(ledger.watch().await.unwrap(), Watched::Whole(_)));
            }
        }
    });
    futures_util::future::join_all(calls).await;
    assert_eq!(ledgers[0].loss().or(ledgers[1].loss()), None);
}

/// One node of the cluster comes back empty: as far as this ledger can see, since others share it.
#[tokio::test]
async fn a_cluster_that_lost_one_node_gives_nothing_out_anywhere() {
    let Some(mode) = cluster() else { return };
    let Mode::Cluster { urls } = &mode else { return };
    let config = config(mode.clone(), 16);
    let here = connect(&config, 1, Memory::Nothing).await;
    let there = connect(&config, 2, Memory::Nothing).await;
    let remembered = mark(&here).await;
    let node = redis::Client::open(urls[0].expose()).unwrap();
    let mut node = node.get_connection().unwrap();
    let keys: Vec<Vec<u8>> = redis::cmd("KEYS")
        .arg(format!("{{{}:*", config.prefix))
        .query(&mut node)
        .unwrap();
    assert!(!keys.is_empty());
    for key in keys {
        redis::cmd("DEL").arg(key).query::<()>(&mut node).unwrap();
    }
    // Whichever shard meets it first, all are closed.
    let mut refused = 0;
    for slot in 0..Slot::COUNT {
        match here.open(&task_in(Slot::new(slot), at(0)), None, None).await {
            Err(LedgerError::Lost(_)) => refused += 1,
            Ok(_) if refused == 0 => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(refused > 0);
    assert_eq!(here.loss(), Some(Loss::Emptied));
    for slot in 0..Slot::COUNT {
        lost(there.open(&task_in(Slot::new(slot), at(0)), None, None).await);
    }
    for memory in [Memory::Mark(remembered.clone()), Memory::Nothing] {
        let again = connect(&config, 1, memory).await;
        lost(again.open(&task_at(at(0)), None, None).await);
    }
    there.begin_epoch(epoch(3), &[Writer(1)].into()).await.unwrap();
    let again = connect(&config, 1, Memory::Mark(remembered)).await;
    again.open(&task_at(at(0)), None, None).await.unwrap();
}
