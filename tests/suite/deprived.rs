//! The broker's process while what it needs is taken away: it issues nothing and says so, and goes on
//! by itself when it has it back.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use dayfly::ledger::redis::Mode;
use serde_json::{Value, json};

use crate::process::{Api, Installation, unavailable, until};
use crate::redis_servers::Server;

fn reading() -> Value {
    json!({"tool": "crm", "actions": ["read"]})
}

/// A task of the agent's, and the path at which credentials for it are asked for.
async fn asking(agent: &Api) -> String {
    let body = json!({"purpose": "answer ticket 4711", "scope": [reading()]});
    let (status, task) = agent.post("/v1/tasks", &body).await.unwrap();
    assert_eq!(status, 201, "{task}");
    format!("/v1/tasks/{}/credentials", task["id"].as_str().unwrap())
}

async fn ready(agent: &Api) -> bool {
    agent.get("/readyz").await.unwrap().0 == 200
}

/// Nothing is issued, and the broker does not call itself ready.
async fn unable(agent: &Api, path: &str) {
    until("nothing is issued", async || {
        unavailable(agent, path, &reading()).await.then_some(())
    })
    .await;
    until("it is not ready", async || {
        (agent.get("/readyz").await.unwrap().0 == 503).then_some(())
    })
    .await;
    assert_eq!(agent.get("/healthz").await.unwrap().0, 200, "it lives");
}

/// It is ready again, without having been asked for anything, and issues.
async fn able_again(agent: &Api, path: &str) {
    until("it is ready again", async || ready(agent).await.then_some(())).await;
    until("it issues again", async || {
        (agent.post(path, &reading()).await.unwrap().0 == 201).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_redis_is_away_or_read_only_nothing_is_issued() {
    let Some(mut redis) = Server::start().await else {
        return;
    };
    let files = Installation::on(Mode::Single { url: redis.url() });
    let site = files.broker();
    let broker = site.start().await;
    let agent = files.api("support-bot", &site).await;
    let path = asking(&agent).await;
    able_again(&agent, &path).await;

    redis.stop();
    unable(&agent, &path).await;
    redis.restart().await;
    able_again(&agent, &path).await;

    redis.say::<()>(&["CONFIG", "SET", "maxmemory", "1"]).unwrap();
    unable(&agent, &path).await;
    redis.say::<()>(&["CONFIG", "SET", "maxmemory", "0"]).unwrap();
    able_again(&agent, &path).await;

    redis.say::<()>(&["REPLICAOF", "127.0.0.1", "1"]).unwrap();
    unable(&agent, &path).await;
    redis.say::<()>(&["REPLICAOF", "NO", "ONE"]).unwrap();
    able_again(&agent, &path).await;

    broker.stop().await;
    site.verify_journal();
}

/// A small disk, for as long as this value lives.
struct Disk(PathBuf);

impl Disk {
    /// `None` for those who may not mount one.
    fn mount(at: &Path) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=2m,mode=0700", "dayfly-test"])
            .arg(at)
            .output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self(at.to_owned()));
        }
        let owner = fs::metadata("/proc/self").unwrap().uid();
        println!("no disk can be mounted by user {owner}: a full disk is not tried");
        None
    }

    fn fill(&self) {
        let ballast = fs::write(self.0.join("ballast"), vec![0; 4 << 20]);
        assert!(ballast.is_err(), "the disk is not full");
    }

    fn free(&self) {
        fs::remove_file(self.0.join("ballast")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _busy = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_disk_of_the_journal_is_full_nothing_is_issued() {
    let files = Installation::new();
    let site = files.broker();
    let Some(disk) = Disk::mount(&site.journal) else {
        return;
    };
    let broker = site.start().await;
    let agent = files.api("support-bot", &site).await;
    let path = asking(&agent).await;
    able_again(&agent, &path).await;
    // Everything is signed: what is left for readiness to notice is the next record.
    let checkpoint = || fs::read_to_string(site.journal.join("checkpoint")).unwrap();
    until("every record is signed", async || {
        assert!(ready(&agent).await);
        let size: usize = checkpoint().lines().nth(1).unwrap().parse().unwrap();
        (size == site.records().len()).then_some(())
    })
    .await;

    disk.fill();
    unable(&agent, &path).await;
    disk.free();
    able_again(&agent, &path).await;

    // A start on a full disk takes nothing away either.
    disk.fill();
    broker.kill();
    let key = fs::read(site.journal.join("vkey")).unwrap();
    let mut starting = site.launch();
    until("it starts or gives up", async || {
        (starting.has_ended() || starting.log().contains("ready")).then_some(())
    })
    .await;
    drop(starting);
    assert_eq!(fs::read(site.journal.join("vkey")).unwrap(), key);
    disk.free();
    let broker = site.start().await;
    able_again(&agent, &path).await;
    broker.stop().await;
    site.verify_journal();

    // No lease is live without a record of why.
    let records = site.records();
    let broker = site.start().await;
    let (_, found) = agent.get("/v1/leases?state=active").await.unwrap();
    for lease in found["leases"].as_array().unwrap() {
        let recorded = |record: &Value| record["lease"] == lease["id"] && record["result"] == "permitted";
        assert!(records.iter().any(recorded), "{lease}");
    }
    broker.stop().await;
}
