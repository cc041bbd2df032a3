//! How the broker's process starts and stops beside others: it finishes what is under way, and never
//! shares what is for one.

use std::net::TcpListener;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::process::{Installation, Site, dayfly, until};

/// Reads until this text has come.
async fn read_up_to(stream: &mut TcpStream, end: &str) -> String {
    let mut answer = Vec::new();
    while !String::from_utf8_lossy(&answer).contains(end) {
        let mut some = [0; 4096];
        let count = stream.read(&mut some).await.unwrap();
        assert!(count > 0, "{}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&some[..count]);
    }
    String::from_utf8(answer).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_of_the_start_goes_on_when_all_is_there() {
    let files = Installation::new();
    let site = files.broker();
    let process = site.launch();
    let mut early = until("it listens", async || TcpStream::connect(site.address).await.ok()).await;
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
    early
        .write_all(get("/.well-known/jwks.json").as_bytes())
        .await
        .unwrap();
    read_up_to(&mut early, "\"keys\"").await;
    // Answered only when all is there; by then the other connection has been idle for a while.
    let agent = files.api("support-bot", &site).await;
    assert_eq!(agent.get("/healthz").await.unwrap().0, 200);
    early.write_all(get("/healthz").as_bytes()).await.unwrap();
    read_up_to(&mut early, "200 OK").await;
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_under_way_is_finished_before_it_stops() {
    let files = Installation::new();
    let site = files.broker();
    let mut broker = site.start().await;
    let agent = files.api("support-bot", &site).await;
    let reading = json!({"tool": "crm", "actions": ["read"]});
    let body = json!({"purpose": "answer ticket 4711", "scope": [reading]});
    let (status, task) = agent.post("/v1/tasks", &body).await.unwrap();
    assert_eq!(status, 201, "{task}");

    // A request that the broker has begun to read, and whose end it does not have yet.
    let body = reading.to_string();
    let head = format!(
        "POST /v1/tasks/{}/credentials HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\nexpect: 100-continue\r\n\r\n",
        task["id"].as_str().unwrap(),
        files.evidence("support-bot").await,
        body.len()
    );
    let mut slow = TcpStream::connect(site.address).await.unwrap();
    slow.write_all(head.as_bytes()).await.unwrap();
    read_up_to(&mut slow, "100 Continue").await;
    // And somebody who waits for news that do not come.
    let tool = files.api("crm-server", &site).await;
    let (_, feed) = tool.get("/v1/revocations").await.unwrap();
    let path = format!(
        "/v1/revocations?wait=30s&cursor={}",
        feed["cursor"].as_str().unwrap()
    );
    let waiting = tool.get(&path);

    let stop = async {
        broker.terminate();
        until("nobody new is let in", async || {
            TcpStream::connect(site.address).await.is_err().then_some(())
        })
        .await;
        slow.write_all(body.as_bytes()).await.unwrap();
        let answer = read_up_to(&mut slow, "\"decision\"").await;
        assert!(answer.contains("201 Created"), "{answer}");
        Instant::now()
    };
    let (waited, answered) = tokio::join!(waiting, stop);
    // Whether it was let in before the stop is up to chance; it is not kept waiting either way.
    if let Ok((status, feed)) = waited {
        assert_eq!((status, &feed["cutoffs"]), (200, &json!([])), "{feed}");
    }
    let status = broker.ended().await;
    assert!(status.success(), "{status}: {}", broker.log());
    assert!(answered.elapsed().as_secs() < 10, "{:?}", answered.elapsed());

    // Everything is signed, the last word too.
    let verified = verified(&site);
    assert_eq!(verified["signed"], verified["records"], "{verified}");
    let last = site.records().pop().unwrap();
    assert_eq!(
        (&last["verb"], &last["reason"]),
        (&json!("serve"), &json!("stopped"))
    );
}

/// Told again, it waits no longer: not for load balancers to notice, and not for what is under way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_stops_it_again_does_not_want_to_wait() {
    let files = Installation::new();
    files.change("dayfly.toml", |text| {
        text.replace(
            "[server]",
            "[server]\nstop_delay = \"5m\"\ndrain_timeout = \"5m\"",
        )
    });
    let site = files.broker();
    let mut broker = site.start().await;
    let head = format!(
        "POST /v1/tasks HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\ncontent-length: 100\r\nexpect: 100-continue\r\n\r\n",
        files.evidence("support-bot").await,
    );
    let mut slow = TcpStream::connect(site.address).await.unwrap();
    slow.write_all(head.as_bytes()).await.unwrap();
    read_up_to(&mut slow, "100 Continue").await;

    broker.terminate();
    until("it is about to stop", async || {
        broker.log().contains("stopping").then_some(())
    })
    .await;
    assert!(
        TcpStream::connect(site.address).await.is_ok(),
        "it goes on for a while"
    );
    broker.terminate();
    until("nobody new is let in", async || {
        TcpStream::connect(site.address).await.is_err().then_some(())
    })
    .await;
    assert!(!broker.has_ended(), "it waits for the request");
    broker.terminate();
    let status = broker.ended().await;
    assert!(status.success(), "{status}: {}", broker.log());
    let verified = verified(&site);
    assert_eq!(verified["signed"], verified["records"], "{verified}");
    assert_eq!(site.records().pop().unwrap()["reason"], "stopped");
}

fn verified(site: &Site) -> Value {
    let key = site.journal.join("vkey");
    let arguments = ["--json", "journal", "verify", "--key"].map(std::ffi::OsStr::new);
    let arguments = [&arguments[..], &[key.as_os_str(), site.journal.as_os_str()]].concat();
    let output = dayfly(&arguments);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_can_be_stopped_while_it_starts() {
    // A Redis that takes connections and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    silent.set_nonblocking(true).unwrap();
    let files = Installation::new();
    let url = format!("redis://{}", silent.local_addr().unwrap());
    files.change("dayfly.toml", |text| {
        text.replace("kind = \"embedded\"", "kind = \"redis\"")
            + &format!("\n[ledger.redis]\nurls = [\"{url}\"]\n")
    });
    let mut broker = files.broker().launch();
    let _held = until("it connects", async || silent.accept().ok()).await;
    broker.terminate();
    let status = broker.ended().await;
    assert!(status.success(), "{status}: {}", broker.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_on_the_same_files_is_refused_and_told_what_to_do() {
    let files = Installation::new();
    let (site, same_ledger) = (files.broker(), files.replica());
    let broker = site.start().await;
    let agent = files.api("support-bot", &site).await;

    let mut second = same_ledger.launch();
    let status = second.ended().await;
    let log = second.log();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(
        log.contains("ledger.redb") && log.contains("another process"),
        "{log}"
    );

    files.change("replica.toml", |text| {
        text.replace("data/ledger.redb", "data/another.redb")
            .replace("data/journal-of-the-replica", "data/journal")
    });
    let mut second = same_ledger.launch();
    let status = second.ended().await;
    let log = second.log();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("give each broker a directory of its own"), "{log}");

    assert_eq!(
        agent.get("/readyz").await.unwrap().0,
        200,
        "the first one goes on"
    );
    broker.stop().await;
    site.verify_journal();
}
