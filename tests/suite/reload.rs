//! Policies, agents and tools are replaced whole, or not at all.

use std::fs;

use dayfly::app;
use dayfly::cli::client::{CallError, Client, Evidence};
use dayfly::clock::{Clock, SystemClock};
use dayfly::dev::estate::Estate;
use dayfly::entropy::OsEntropy;
use serde_json::{Value, json};
use tokio::net::TcpListener;

const STOP: &str = r#"@id("stop") @reason("not today") forbid (principal, action, resource);"#;

async fn issue(client: &Client, task: &str) -> Result<Value, CallError> {
    let body = json!({"tool": "crm", "actions": ["read"]});
    client.post(&format!("/v1/tasks/{task}/credentials"), body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_revision_decides_and_a_broken_one_changes_nothing() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let estate = Estate::lay_out(folder.path(), address, &OsEntropy::new()).unwrap();
    estate.write_evidence(SystemClock::new().now()).await.unwrap();
    let running = app::start_on(listener, &estate.configuration()).await.unwrap();
    let evidence = Evidence::file(estate.evidence_file("support-bot"));
    let client = Client::new(&format!("http://{address}"), Some(evidence)).unwrap();
    let order = json!({"purpose": "p", "scope": [{"tool": "crm", "actions": ["read"]}]});
    let task = client.post("/v1/tasks", order).await.unwrap();
    let task = task["id"].as_str().unwrap();
    issue(&client, task).await.unwrap();

    let file = folder.path().join("policies/99-stop.cedar");
    fs::write(&file, STOP.replace("principal, action", "principal, acton")).unwrap();
    let problems = running.reload().await.unwrap_err().to_string();
    assert!(problems.contains("99-stop.cedar:1:"), "{problems}");
    issue(&client, task).await.unwrap();

    fs::write(&file, STOP).unwrap();
    running.reload().await.unwrap();
    let denied = issue(&client, task).await.unwrap_err();
    assert!(denied.to_string().contains("not today"), "{denied}");

    running.stop(&tokio::sync::Notify::new()).await.unwrap();
    let journal = fs::read_to_string(folder.path().join("data/journal/00000000000000000000.jsonl")).unwrap();
    let loads: Vec<&str> = journal
        .lines()
        .filter(|line| line.contains(r#""verb":"load""#))
        .collect();
    assert_eq!(loads.len(), 2, "{loads:#?}");
    assert!(loads[0].contains(r#""result":"failed""#) && loads[1].contains(r#""revision":"#));
}
