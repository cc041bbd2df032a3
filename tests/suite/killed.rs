//! The broker's process is killed in the middle of its work, again and again. Whatever a client was
//! told still holds afterwards: what it received is tracked and on record, what it ended is over.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use dayfly_client::Evidence;
use dayfly_client::resource::{Refusal, Settings, Verifier};
use futures_util::StreamExt as _;
use futures_util::stream;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::process::{Answer, Api, Installation, Process, Site, until};
use crate::redis_servers;

/// Clients at work at the same time.
const CLIENTS: usize = 12;
/// How many credentials come between two kills.
const BETWEEN_KILLS: usize = 40;
/// The audience of the tool in the examples.
const AUDIENCE: &str = "https://crm.example.org";

/// A credential that a client received.
#[derive(Clone)]
struct Received {
    task: String,
    lease: String,
    token: String,
}

/// What clients were told.
#[derive(Default)]
struct Told {
    opened: BTreeSet<String>,
    received: Vec<Received>,
    /// Tasks whose end was acknowledged.
    completed: BTreeSet<String>,
    /// Leases whose end was acknowledged.
    revoked: BTreeSet<String>,
    /// Tasks and leases whose end was asked for without an answer.
    unsure: BTreeSet<String>,
    /// Answers that no client should get, whatever is killed.
    wrong: Vec<(u16, Value)>,
}

#[derive(Default)]
struct Shared {
    told: Mutex<Told>,
    received: AtomicUsize,
    stop: CancellationToken,
}

impl Shared {
    fn tell(&self, change: impl FnOnce(&mut Told)) {
        change(&mut self.told.lock().unwrap());
    }

    /// The body of a success. No answer is nothing, and any other answer is wrong.
    fn success(&self, wanted: u16, answer: Answer) -> Option<Value> {
        match answer {
            Ok((status, body)) if status == wanted => Some(body),
            Ok(wrong) => {
                self.tell(|told| told.wrong.push(wrong));
                None
            }
            Err(_) => None,
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// One client: opens a task, takes credentials, gives some back, ends most of its tasks; and again.
async fn client(number: usize, brokers: Vec<Api>, shared: Arc<Shared>) {
    let mut round = number;
    while !shared.stop.is_cancelled() {
        round += 1;
        // The broker of the last round may be dead.
        let broker = &brokers[round % brokers.len()];
        let body = json!({"purpose": "answer ticket 4711", "scope": [{"tool": "crm", "actions": ["read"]}]});
        let Some(task) = shared.success(201, broker.post("/v1/tasks", &body).await) else {
            tokio::task::yield_now().await;
            continue;
        };
        let task = text(&task["id"]);
        shared.tell(|told| _ = told.opened.insert(task.clone()));
        for count in 0..=round % 3 {
            let body = json!({"tool": "crm", "actions": ["read"], "ttl": "5m"});
            let path = format!("/v1/tasks/{task}/credentials");
            let Some(issued) = shared.success(201, broker.post(&path, &body).await) else {
                continue;
            };
            let lease = text(&issued["lease"]["id"]);
            let received = Received {
                task: task.clone(),
                lease: lease.clone(),
                token: text(&issued["credential"]["token"]),
            };
            shared.tell(|told| told.received.push(received));
            shared.received.fetch_add(1, Ordering::Relaxed);
            if count == 1 {
                let path = format!("/v1/leases/{lease}/revoke");
                let answer = broker.post(&path, &json!({})).await;
                let acknowledged = shared.success(200, answer).is_some();
                shared.tell(|told| {
                    let known = if acknowledged {
                        &mut told.revoked
                    } else {
                        &mut told.unsure
                    };
                    known.insert(lease);
                });
            }
        }
        if !round.is_multiple_of(4) {
            let path = format!("/v1/tasks/{task}/complete");
            let answer = broker.post(&path, &json!({"outcome": "completed"})).await;
            let acknowledged = shared.success(200, answer).is_some();
            shared.tell(|told| {
                let known = if acknowledged {
                    &mut told.completed
                } else {
                    &mut told.unsure
                };
                known.insert(task);
            });
        }
    }
}

/// Clients that go on whatever happens to the brokers.
struct Load {
    shared: Arc<Shared>,
    clients: JoinSet<()>,
}

impl Load {
    fn begin(brokers: &[Api]) -> Self {
        let shared = Arc::new(Shared::default());
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            clients.spawn(client(number, brokers.to_vec(), shared.clone()));
        }
        Self { shared, clients }
    }

    /// Returns when so many more credentials were received.
    async fn receive(&self, more: usize) {
        let enough = self.shared.received.load(Ordering::Relaxed) + more;
        until("clients receive credentials", async || {
            (self.shared.received.load(Ordering::Relaxed) >= enough).then_some(())
        })
        .await;
    }

    async fn end(self) -> Told {
        self.shared.stop.cancel();
        self.clients.join_all().await;
        std::mem::take(&mut self.shared.told.lock().unwrap())
    }
}

/// Whether a lease has its proof.
fn settled(lease: &Value) -> bool {
    lease["state"] == "ended" && lease["proof"].is_string()
}

/// Waits until each of these tasks is over and each of its leases has its proof.
async fn over(agent: &Api, tasks: impl IntoIterator<Item = &String>) {
    let looked = stream::iter(tasks).for_each_concurrent(8, async |task| {
        let (status, body) = agent.get(&format!("/v1/tasks/{task}")).await.unwrap();
        assert_eq!((status, &body["state"]), (200, &json!("ended")), "{body}");
        until("the leases of a task that ended have their proofs", async || {
            let (status, body) = agent.get(&format!("/v1/leases?task={task}")).await.unwrap();
            assert_eq!(status, 200, "{body}");
            body["leases"]
                .as_array()
                .unwrap()
                .iter()
                .all(settled)
                .then_some(())
        })
        .await;
    });
    looked.await;
}

/// What has to hold when brokers run again.
async fn holds(files: &Installation, told: &Told, site: &Site) {
    assert!(told.wrong.is_empty(), "{:?}", told.wrong);
    let agent = files.api("support-bot", site).await;

    // Whoever received a credential can look at its lease.
    stream::iter(&told.received)
        .for_each_concurrent(8, async |received| {
            let (status, lease) = agent
                .get(&format!("/v1/leases/{}", received.lease))
                .await
                .unwrap();
            assert_eq!((status, &lease["task"]), (200, &json!(received.task)), "{lease}");
        })
        .await;
    // What was acknowledged as ended is over, and soon proven so.
    over(&agent, &told.completed).await;
    denied(files, told, site).await;

    // Everything can be brought to its end: nothing is stuck and nothing was left behind.
    stream::iter(&told.opened)
        .for_each_concurrent(8, async |task| {
            let path = format!("/v1/tasks/{task}/complete?wait=20s");
            let (status, body) = agent.post(&path, &json!({"outcome": "completed"})).await.unwrap();
            assert_eq!(status, 200, "{body}");
            let leases = body["leases"].as_array().unwrap();
            assert!(leases.iter().all(settled), "{body}");
        })
        .await;
    for state in ["reserved", "active", "revoking", "stuck"] {
        let path = format!("/v1/leases?state={state}");
        let (status, body) = agent.get(&path).await.unwrap();
        assert_eq!((status, &body["leases"]), (200, &json!([])), "{body}");
    }
}

/// A tool refuses what was ended, and accepts what was not.
async fn denied(files: &Installation, told: &Told, site: &Site) {
    let settings = Settings {
        evidence: Some(Evidence::file(files.evidence_file("crm-server").await)),
        feed: format!("http://{}/v1/revocations", site.address),
        jwks: format!("http://{}/.well-known/jwks.json", site.address),
        ..Settings::new(files.issuer(), AUDIENCE)
    };
    let tool = Verifier::follow(settings).unwrap();
    tokio::time::timeout(crate::process::PATIENCE, tool.ready())
        .await
        .expect("the feed can be read");
    let (mut refused, mut accepted) = (0, 0);
    for received in &told.received {
        let answer = tool.check(&received.token);
        if told.completed.contains(&received.task) || told.revoked.contains(&received.lease) {
            assert!(matches!(answer, Err(Refusal::Revoked(_))), "{answer:?}");
            refused += 1;
        } else if !told.unsure.contains(&received.task) && !told.unsure.contains(&received.lease) {
            assert!(answer.is_ok(), "{answer:?}");
            accepted += 1;
        }
    }
    assert!(
        refused > 0 && accepted > 0,
        "{refused} refused, {accepted} accepted"
    );
}

/// What has to stand in the journals when all brokers stopped.
fn recorded(told: &Told, sites: &[Site]) {
    let mut records = Vec::new();
    for site in sites {
        site.verify_journal();
        records.extend(site.records());
    }
    let about = |verb: &str, what: &str| -> BTreeSet<&str> {
        let records = records
            .iter()
            .filter(|record| record["verb"] == verb && record["result"] == "permitted");
        records.filter_map(|record| record[what].as_str()).collect()
    };
    let (issued, ended) = (about("issue", "lease"), about("end", "lease"));
    let completed = about("complete", "task");
    for received in &told.received {
        let lease = received.lease.as_str();
        assert!(issued.contains(lease), "there is no record of why {lease} exists");
        assert!(ended.contains(lease), "there is no record of how {lease} ended");
    }
    for task in &told.completed {
        assert!(
            completed.contains(task.as_str()),
            "there is no record of the end of {task}"
        );
    }
}

/// One broker, killed several times.
async fn one_is_killed(files: Installation) {
    let site = files.broker();
    let mut broker = site.start().await;
    let load = Load::begin(&[files.api("support-bot", &site).await]);
    for _ in 0..5 {
        load.receive(BETWEEN_KILLS).await;
        broker.kill();
        site.verify_journal();
        broker = site.start().await;
    }
    load.receive(1).await;
    broker.kill();
    let told = load.end().await;
    let broker = site.start().await;
    holds(&files, &told, &site).await;
    broker.stop().await;
    recorded(&told, &[site]);
}

/// Two brokers with one ledger, killed in turn: the other one takes over what was claimed.
async fn one_of_two_is_killed(files: Installation) {
    let sites = [files.broker(), files.replica()];
    let mut brokers: [Option<Process>; 2] = [Some(sites[0].start().await), Some(sites[1].start().await)];
    let apis = [
        files.api("support-bot", &sites[0]).await,
        files.api("support-bot", &sites[1]).await,
    ];
    let load = Load::begin(&apis);
    for turn in 0..4 {
        let (one, other) = (turn % 2, (turn + 1) % 2);
        load.receive(BETWEEN_KILLS).await;
        brokers[one].take().unwrap().kill();
        // The other one goes on, with what the dead one left too.
        let ended = load.shared.told.lock().unwrap().completed.clone();
        load.receive(BETWEEN_KILLS / 2).await;
        over(&apis[other], &ended).await;
        brokers[one] = Some(sites[one].start().await);
    }
    let told = load.end().await;
    holds(&files, &told, &sites[1]).await;
    for broker in brokers {
        broker.unwrap().stop().await;
    }
    recorded(&told, &sites);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_embedded_ledger_answered_survives_the_death_of_its_process() {
    one_is_killed(Installation::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_brokers_on_one_redis_take_over_from_each_other() {
    let Some(mode) = redis_servers::single() else {
        return;
    };
    one_of_two_is_killed(Installation::on(mode)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_brokers_on_one_cluster_take_over_from_each_other() {
    let Some(mode) = redis_servers::cluster() else {
        return;
    };
    one_of_two_is_killed(Installation::on(mode)).await;
}
