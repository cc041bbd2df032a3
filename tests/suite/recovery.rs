//! The ledger is lost in the middle of the work of real processes: nothing is given out that nobody
//! knows of, and what was given out before is over once it is recovered.

use std::time::Duration;

use dayfly::ledger::redis::Mode;
use dayfly_client::Evidence;
use dayfly_client::resource::{Refusal, Settings, Verifier};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::process::{Api, Installation, PATIENCE, Process, Site, dayfly, until};
use crate::redis_servers::Server;

/// What an agent was given: the lease and the token.
type Given = Vec<(String, String)>;

async fn open(agent: &Api) -> (u16, Value) {
    let body = json!({"purpose": "answer ticket 4711", "scope": [{"tool": "crm", "actions": ["read"]}]});
    agent.post("/v1/tasks", &body).await.unwrap()
}

/// Opens a task and takes credentials for it, until something is refused.
async fn take(agent: &Api, most: usize) -> (Given, Option<(u16, Value)>) {
    let mut given = Given::new();
    let (status, task) = open(agent).await;
    if status != 201 {
        return (given, Some((status, task)));
    }
    let path = format!("/v1/tasks/{}/credentials", task["id"].as_str().unwrap());
    for _ in 0..most {
        let body = json!({"tool": "crm", "actions": ["read"], "ttl": "5m"});
        let (status, issued) = agent.post(&path, &body).await.unwrap();
        if status != 201 {
            return (given, Some((status, issued)));
        }
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        given.push((text(&issued["lease"]["id"]), text(&issued["credential"]["token"])));
    }
    (given, None)
}

fn is_quarantine(problem: &(u16, Value)) -> bool {
    problem.0 == 503 && problem.1["type"] == "https://dayfly.dev/problems/quarantine"
}

fn recover(sites: &[&Site]) -> Value {
    let configuration = sites[0].configuration.as_os_str();
    let mut arguments = vec![
        "--json".as_ref(),
        "recover".as_ref(),
        "--config".as_ref(),
        configuration,
    ];
    for site in sites {
        arguments.extend(["--journal".as_ref(), site.journal.as_os_str()]);
    }
    let done = dayfly(&arguments);
    assert!(done.status.success(), "{done:?}");
    serde_json::from_slice(&done.stdout).unwrap()
}

/// A tool refuses these tokens and accepts those.
async fn tool_says(files: &Installation, site: &Site, refused: &Given, accepted: &Given) {
    let settings = Settings {
        evidence: Some(Evidence::file(files.evidence_file("crm-server").await)),
        feed: format!("http://{}/v1/revocations", site.address),
        jwks: format!("http://{}/.well-known/jwks.json", site.address),
        ..Settings::new(files.issuer(), "https://crm.example.org")
    };
    let tool = Verifier::follow(settings).unwrap();
    tokio::time::timeout(PATIENCE, tool.ready()).await.unwrap();
    for (lease, token) in refused {
        let answer = tool.check(token);
        assert!(matches!(answer, Err(Refusal::Revoked(_))), "{lease}: {answer:?}");
    }
    for (lease, token) in accepted {
        assert!(tool.check(token).is_ok(), "{lease}");
    }
}

/// Every lease that was given out before is known again, and soon has its proof.
async fn all_end(agent: &Api, given: &Given) {
    for (lease, _) in given {
        until("what was given out before ends", async || {
            let (status, lease) = agent.get(&format!("/v1/leases/{lease}")).await.unwrap();
            (status == 200 && lease["state"] == "ended" && lease["proof"].is_string()).then_some(())
        })
        .await;
    }
}

async fn issues_again(agent: &Api) -> Given {
    until("the broker issues again", async || {
        let (given, problem) = take(agent, 3).await;
        problem.is_none().then_some(given)
    })
    .await
}

async fn stays_in_quarantine(agent: &Api) {
    let (_, problem) = take(agent, 1).await;
    assert!(problem.as_ref().is_some_and(is_quarantine), "{problem:?}");
    let (status, health) = agent.get("/readyz").await.unwrap();
    assert_eq!((status, &health["status"]), (200, &json!("quarantine")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_was_emptied_in_mid_load_is_recovered_from_the_journals_of_two_brokers() {
    let Some(server) = Server::start().await else {
        return;
    };
    let files = Installation::on(Mode::Single { url: server.url() });
    let sites = [files.broker(), files.replica()];
    let brokers: [Process; 2] = [sites[0].start().await, sites[1].start().await];
    let agents = [
        files.api("support-bot", &sites[0]).await,
        files.api("support-bot", &sites[1]).await,
    ];
    let mut load = JoinSet::new();
    for number in 0..6 {
        let agent = agents[number % 2].clone();
        load.spawn(async move {
            let mut all = Given::new();
            loop {
                let (given, problem) = take(&agent, 5).await;
                all.extend(given);
                match problem {
                    None => {}
                    // The task was emptied away before anybody found out.
                    Some((404, _)) => {}
                    Some(problem) if is_quarantine(&problem) => return all,
                    Some(problem) => panic!("{problem:?}"),
                }
            }
        });
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    server.say::<()>(&["FLUSHALL"]).unwrap();
    let before: Given = load.join_all().await.into_iter().flatten().collect();
    assert!(before.len() > 10, "{}", before.len());
    for agent in &agents {
        stays_in_quarantine(agent).await;
    }

    // A recovery that did not read the other journal leaves the other broker where it is.
    let report = recover(&[&sites[0]]);
    assert_eq!(report["recovered"], true, "{report}");
    issues_again(&agents[0]).await;
    stays_in_quarantine(&agents[1]).await;
    let report = recover(&[&sites[0], &sites[1]]);
    assert_eq!(report["recovered"], true, "{report}");
    assert_eq!(report["unclear"], 0, "{report}");
    let again = [issues_again(&agents[0]).await, issues_again(&agents[1]).await].concat();
    let report = recover(&[&sites[0], &sites[1]]);
    assert_eq!(report, json!({"recovered": false}), "once is enough");

    all_end(&agents[1], &before).await;
    tool_says(&files, &sites[1], &before, &again).await;
    let (status, body) = agents[0].get("/v1/leases?state=stuck").await.unwrap();
    assert_eq!((status, &body["leases"]), (200, &json!([])));
    for (broker, site) in brokers.into_iter().zip(&sites) {
        broker.stop().await;
        site.verify_journal();
        let told = site.records();
        let told = told.iter().filter(|record| record["verb"] == "recover");
        assert!(told.count() >= 2, "the loss and the recovery are on record");
    }
    drop(server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_embedded_ledger_that_was_deleted_or_put_back_is_found_at_the_start() {
    let files = Installation::new();
    let site = files.broker();
    let broker = site.start().await;
    let agent = files.api("support-bot", &site).await;
    let (first, _) = take(&agent, 3).await;
    broker.stop().await;
    let (ledger, copy) = (files.path("data/ledger.redb"), files.path("copy.redb"));
    std::fs::copy(&ledger, &copy).unwrap();

    let broker = site.start().await;
    let agent = files.api("support-bot", &site).await;
    let (second, _) = take(&agent, 3).await;
    assert_eq!((first.len(), second.len()), (3, 3));
    // At once, before any mark of it was kept, and with the journal alone to tell.
    broker.kill();
    std::fs::copy(&copy, &ledger).unwrap();
    let broker = site.start().await;
    stays_in_quarantine(&agent).await;
    broker.stop().await;
    let report = recover(&[&site]);
    assert_eq!(report["recovered"], true, "{report}");
    assert_eq!(report["adopted"], 3, "{report}");
    let broker = site.start().await;
    let agent = files.api("support-bot", &site).await;
    all_end(&agent, &[first, second].concat()).await;
    let third = issues_again(&agent).await;
    broker.stop().await;

    // The next start is an ordinary one, and a deleted file is not.
    let broker = site.start().await;
    assert!(take(&agent, 1).await.1.is_none());
    broker.kill();
    std::fs::remove_file(&ledger).unwrap();
    let broker = site.start().await;
    stays_in_quarantine(&agent).await;
    broker.stop().await;
    recover(&[&site]);
    let broker = site.start().await;
    all_end(&agent, &third).await;
    let fourth = issues_again(&agent).await;
    tool_says(&files, &site, &third, &fourth).await;
    broker.stop().await;
}
