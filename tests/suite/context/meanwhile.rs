//! What goes on beside a recheck: issues and renewals under way, more rules, orders that cannot be written down.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;

use dayfly::broker::error::BrokerError;
use dayfly::broker::load::{Fingerprint, Given, Loaded, Source, Unloadable};
use dayfly::broker::rules::{Rules, Ruleset};
use dayfly::ledger::{Filter, Page};
use dayfly::model::cutoff::Selector;
use dayfly::model::decision::Revision;
use dayfly::model::ids::{LeaseId, TaskId};
use dayfly::model::lease::Cause;
use dayfly::model::recheck::{Progress, Work};
use dayfly::provider::Provider;

use super::{cause, issued, now, order, settle};
use crate::world::gated::{Gate, Gated};
use crate::world::vending::Vending;
use crate::world::{Plan, World};

/// Holds one call back until it is told to go on, and keeps others from the ledger.
#[derive(Default)]
struct Beside {
    stops: Mutex<&'static str>,
    reached: Notify,
    go_on: Notify,
    down: Mutex<&'static [&'static str]>,
}

impl Beside {
    fn world(provider: Option<Arc<dyn Provider>>) -> (Arc<Self>, World) {
        let gate = Arc::new(Self::default());
        let around = gate.clone();
        let world = World::of(Plan {
            ledger: Box::new(|ledger| Arc::new(Gated { ledger, gate: around })),
            provider,
            ..Plan::default()
        });
        (gate, world)
    }

    fn stop_at(&self, call: &'static str) {
        *self.stops.lock().unwrap() = call;
    }

    fn cannot(&self, calls: &'static [&'static str]) {
        *self.down.lock().unwrap() = calls;
    }

    /// Does something while that call is held back.
    async fn meanwhile<T>(
        &self,
        call: &'static str,
        held: impl Future<Output = T>,
        beside: impl Future<Output = ()>,
    ) -> T {
        self.stop_at(call);
        let beside = async {
            self.reached.notified().await;
            beside.await;
            self.go_on.notify_one();
        };
        tokio::join!(held, beside).0
    }
}

#[async_trait]
impl Gate for Beside {
    async fn before(&self, call: &'static str) {
        let stops = {
            let mut stops = self.stops.lock().unwrap();
            let here = *stops == call;
            if here {
                *stops = "";
            }
            here
        };
        if stops {
            self.reached.notify_one();
            self.go_on.notified().await;
        }
    }

    fn is_down(&self, call: &'static str) -> bool {
        self.down.lock().unwrap().contains(&call)
    }

    async fn after(&self, _: &'static str) {}
}

/// Rules that somebody else puts there.
struct Desk(Mutex<Option<Ruleset>>);

impl Desk {
    /// The world has rules that are read again, by a broker on a ledger behind the gate.
    fn of(world: &mut World) -> Arc<Self> {
        let desk = Arc::new(Self(Mutex::new(None)));
        let first = world.agents_that_read(|_, text| text);
        let rules = Arc::new(Rules::from_source(first, desk.clone()));
        world.broker = world.process(world.ledger.clone(), &rules, world.providers(), None);
        desk
    }

    fn put(&self, next: Ruleset) {
        *self.0.lock().unwrap() = Some(next);
    }
}

#[async_trait]
impl Source for Desk {
    async fn load(&self, _: Option<Vec<Given>>) -> Result<Ruleset, Unloadable> {
        Ok(self.0.lock().unwrap().take().unwrap())
    }

    async fn fingerprint(&self) -> Option<Fingerprint> {
        None
    }
}

fn suspended(world: &World, agents: &'static [&'static str]) -> Ruleset {
    world.agents_that_read(move |name, text| match agents.contains(&name) {
        true => format!("status = \"suspended\"\n{text}"),
        false => text,
    })
}

async fn task(world: &World) -> TaskId {
    world.open("support-bot", &["crm:read"]).await.charter.id
}

fn page() -> Page {
    Page {
        after: None,
        limit: NonZeroUsize::new(Page::MOST).unwrap(),
    }
}

/// The recheck of other rules is over before what was decided by those of before is written down.
#[tokio::test(start_paused = true)]
async fn what_is_written_down_after_the_recheck_of_other_rules_is_decided_anew() {
    let machine: Arc<dyn Provider> = Arc::new(Vending::default());
    for (provider, call) in [
        (None, "reserve"),
        (Some(machine.clone()), "reserve"),
        (Some(machine), "activate"),
    ] {
        let (gate, world) = Beside::world(provider);
        let task = task(&world).await;
        let loading = async {
            world.suspend(&["support-bot"]);
            world.broker.settle_rules().await.unwrap();
            if call == "reserve" {
                settle(&world).await;
            }
            assert_eq!(
                world.ledger.rechecks().await.unwrap().is_empty(),
                call == "reserve"
            );
        };
        let issuing = world.issue("support-bot", task, "crm:read");
        let lease = gate.meanwhile(call, issuing, loading).await.unwrap().lease;
        settle(&world).await;
        let ended = cause(&now(&world, &lease).await);
        assert_eq!(ended, Some(Cause::AgentSuspended), "{call}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_renewed_after_the_recheck_of_other_rules_is_decided_anew() {
    let (gate, world) = Beside::world(None);
    let lease = issued(&world).await;
    let loading = async {
        world.rewrite("support-bot", |text| {
            text.replace("ttl = \"15m\"", "ttl = \"2m\"")
        });
        world.broker.settle_rules().await.unwrap();
        settle(&world).await;
    };
    let caller = world.caller("support-bot").await;
    let renewing = world.broker.renew(caller, lease.id, None, world.request());
    gate.meanwhile("renew", renewing, loading).await.unwrap();
    settle(&world).await;
    let short = lease.issued_at.plus(Duration::from_secs(120));
    assert_eq!(now(&world, &lease).await.ends_at(), short);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_decided_anew_is_not_given_out() {
    for renewal in [false, true] {
        let (gate, world) = Beside::world(None);
        let lease = issued(&world).await;
        let loading = async {
            world.rewrite("support-bot", |text| {
                text.replace("ttl = \"15m\"", "ttl = \"2m\"")
            });
            world.broker.settle_rules().await.unwrap();
            settle(&world).await;
            gate.cannot(&["order_recheck"]);
        };
        let id = match renewal {
            true => {
                let caller = world.caller("support-bot").await;
                let renewing = world.broker.renew(caller, lease.id, None, world.request());
                let refused = gate.meanwhile("renew", renewing, loading).await;
                assert!(matches!(refused, Err(BrokerError::Ledger(_))), "{refused:?}");
                lease.id
            }
            false => {
                let issuing = world.issue("support-bot", lease.task, "crm:read");
                let refused = gate.meanwhile("reserve", issuing, loading).await;
                assert!(matches!(refused, Err(BrokerError::Ledger(_))), "{refused:?}");
                let leases = world.ledger.find(&Filter::default(), &page()).await.unwrap();
                let ids = leases.iter().map(|lease| lease.id);
                ids.filter(|id| *id != lease.id).collect::<Vec<LeaseId>>()[0]
            }
        };
        world.reap().await;
        let left = world.ledger.lease(id).await.unwrap().unwrap();
        assert_eq!(cause(&left), Some(Cause::Compensated), "renewal: {renewal}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_issue_keeps_up_with_rules_that_come_while_it_keeps_up() {
    let (gate, world) = Beside::world(None);
    let task = task(&world).await;
    let load = async |change: &[&str]| {
        world.suspend(change);
        world.broker.settle_rules().await.unwrap();
        settle(&world).await;
    };
    let issuing = world.issue("support-bot", task, "crm:read");
    let loading = async {
        load(&["report-bot"]).await;
        gate.stop_at("order_recheck");
        gate.go_on.notify_one();
        gate.reached.notified().await;
        load(&["support-bot"]).await;
    };
    let lease = gate.meanwhile("reserve", issuing, loading).await.unwrap().lease;
    settle(&world).await;
    assert_eq!(cause(&now(&world, &lease).await), Some(Cause::AgentSuspended));
    assert_eq!(world.ledger.rechecks().await.unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_ordered_when_rules_were_loaded_is_owed() {
    for loaded_again in [true, false] {
        let (gate, mut world) = Beside::world(None);
        let desk = Desk::of(&mut world);
        let lease = issued(&world).await;
        desk.put(suspended(&world, &["support-bot"]));
        gate.cannot(&["order_recheck"]);
        world.broker.reload_by_itself().await.unwrap_err();
        gate.cannot(&[]);
        if loaded_again {
            desk.put(suspended(&world, &["support-bot"]));
            let again = world.broker.reload_by_itself().await.unwrap();
            assert!(matches!(again, Loaded::Unchanged(_)), "{again:?}");
            settle(&world).await;
        } else {
            world.broker.look_after_rules().await.unwrap();
            settle(&world).await;
        }
        assert_eq!(cause(&now(&world, &lease).await), Some(Cause::AgentSuspended));
    }
}

/// The next start decides everything anew, whichever rules it has.
#[tokio::test(start_paused = true)]
async fn who_dies_between_other_rules_and_their_recheck_leaves_a_mark() {
    let (gate, mut world) = Beside::world(None);
    world.broker.settle_rules().await.unwrap();
    settle(&world).await;
    let desk = Desk::of(&mut world);
    desk.put(suspended(&world, &["support-bot"]));
    gate.cannot(&["order_recheck"]);
    world.broker.reload_by_itself().await.unwrap_err();
    gate.cannot(&[]);
    let before = world.restarted(world.jwt());
    before.settle_rules().await.unwrap();
    let [all] = &*world.ledger.rechecks().await.unwrap() else {
        panic!("one about everything")
    };
    assert_eq!(all.whom, Selector::All);
}

/// The first has a revision that nobody has any more by the time that its recheck would have begun.
#[tokio::test(start_paused = true)]
async fn what_the_rules_before_the_last_concern_is_decided_by_the_last() {
    for restarted in [false, true] {
        let (_, mut world) = Beside::world(None);
        let desk = Desk::of(&mut world);
        world.broker.settle_rules().await.unwrap();
        settle(&world).await;
        let lease = issued(&world).await;
        desk.put(suspended(&world, &["support-bot"]));
        world.broker.reload_by_itself().await.unwrap();
        let [waits] = &*world.ledger.rechecks().await.unwrap() else {
            panic!("one about the agent")
        };
        assert_eq!(waits.whom, Selector::Agent("support-bot".parse().unwrap()));
        desk.put(suspended(&world, &["support-bot", "report-bot"]));
        world.broker.reload_by_itself().await.unwrap();
        if restarted {
            // As when it came after that.
            order(&world, waits.whom.clone(), waits.work.clone()).await;
            world.broker.settle_rules().await.unwrap();
        }
        settle(&world).await;
        assert_eq!(cause(&now(&world, &lease).await), Some(Cause::AgentSuspended));
        assert_eq!(world.ledger.rechecks().await.unwrap(), []);
    }
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_a_revision_that_nobody_has_is_taken_over() {
    let (_, world) = Beside::world(None);
    world.broker.settle_rules().await.unwrap();
    settle(&world).await;
    let by = |name: &str| Work::Decide {
        revision: Some(Revision(name.into())),
    };
    let agent = |name: &str| Selector::Agent(name.parse().unwrap());
    order(&world, agent("support-bot"), by("gone")).await;
    order(&world, agent("report-bot"), by("another")).await;
    let look = async |seconds| {
        tokio::time::advance(Duration::from_secs(seconds)).await;
        world.broker.look_after_rules().await.unwrap();
        let left = world.ledger.rechecks().await.unwrap();
        left.into_iter().map(|recheck| recheck.work).collect::<Vec<_>>()
    };
    look(0).await;
    let mine = by(&world.broker.rules().current().revision.0);
    assert_eq!(
        look(119).await,
        [by("gone"), by("another")],
        "a replica may have them"
    );
    // One that has it goes on, so that it is left to it.
    let another = Revision("another".into());
    let hold = Duration::from_secs(30);
    let claim = world
        .ledger
        .claim_recheck(world.now(), hold, &another)
        .await
        .unwrap();
    let page = Progress {
        looked_at: 200,
        ..Progress::default()
    };
    world
        .ledger
        .settle_recheck(&claim.unwrap(), page, false)
        .await
        .unwrap();
    let before = world.ledger.mark("revision").await.unwrap();
    let marked = world.ledger.set_mark("revision", b"gone", before.as_deref());
    assert!(marked.await.unwrap());
    assert_eq!(look(1).await, [mine.clone(), by("another")]);
    // Should it start again, it begins with everything.
    assert_eq!(mark(&world).await, *world.broker.rules().current().revision.0);
    assert_eq!(look(119).await, [mine.clone(), by("another")]);
    assert_eq!(look(1).await, [mine.clone(), mine]);
    settle(&world).await;
    assert_eq!(world.ledger.rechecks().await.unwrap(), []);
}

/// By which rules all is decided.
async fn mark(world: &World) -> String {
    let mark = world.ledger.mark("revision").await.unwrap();
    let mark = String::from_utf8(mark.unwrap()).unwrap();
    mark.split(' ').next().unwrap().to_owned()
}

async fn kill(world: &World, agent: &str) -> Result<dayfly::broker::revoke::Revoked, BrokerError> {
    let operator = world.caller("ops-console").await;
    let whom = Selector::Agent(agent.parse().unwrap());
    world
        .broker
        .revoke_all(&operator, whom, "incident 12", world.request())
        .await
}

#[tokio::test(start_paused = true)]
async fn a_kill_order_that_cannot_be_written_down_cuts_and_ends_all_the_same() {
    let (gate, world) = Beside::world(None);
    let mut leases = Vec::new();
    for _ in 0..3 {
        leases.push(issued(&world).await);
    }
    gate.cannot(&["order_recheck"]);
    let done = kill(&world, "support-bot").await.unwrap();
    assert_eq!((done.leases, done.drained), (3, true), "there was time for all");
    for lease in &leases {
        assert!(!now(&world, lease).await.is_live(world.now()));
    }

    for written_down_later in [false, true] {
        world.clock.advance(Duration::from_secs(1));
        let mut leases = Vec::new();
        for _ in 0..8 {
            leases.push(issued(&world).await);
        }
        gate.cannot(&["order_recheck", "revoke_all"]);
        let error = kill(&world, "support-bot").await.unwrap_err();
        let said = error.to_string();
        assert!(said.contains("access is denied from now on"), "{said}");
        for lease in &leases {
            let live = world.ledger.live(lease.id, world.now()).await;
            assert!(live.is_err(), "it is cut");
        }
        match written_down_later {
            true => gate.cannot(&[]),
            false => gate.cannot(&["order_recheck"]),
        }
        settle(&world).await;
        for lease in &leases {
            assert_eq!(cause(&now(&world, lease).await), Some(Cause::Cutoff));
        }
        assert_eq!(world.ledger.rechecks().await.unwrap(), []);
    }
    gate.cannot(&["cut"]);
    let error = kill(&world, "support-bot").await.unwrap_err();
    assert!(matches!(error, BrokerError::Ledger(_)), "{error}: it is not cut");
}
