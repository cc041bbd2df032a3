//! From the end of a task to a receipt that an auditor verifies with a key and nothing else.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::process::{Api, Installation, Site, dayfly};
use crate::redis_servers;

/// A lease of a task that this broker has completed, as its agent is shown it.
async fn ended(agent: &Api) -> Value {
    let scope = json!([{"tool": "crm", "actions": ["read"]}]);
    let order = json!({"purpose": "answer ticket 4711", "scope": scope});
    let (status, task) = agent.post("/v1/tasks", &order).await.unwrap();
    assert_eq!(status, 201, "{task}");
    let task = task["id"].as_str().unwrap();
    let order = json!({"tool": "crm", "actions": ["read"]});
    let path = format!("/v1/tasks/{task}/credentials");
    let (status, issued) = agent.post(&path, &order).await.unwrap();
    assert_eq!(status, 201, "{issued}");
    assert_eq!(issued["lease"]["receipt"], Value::Null, "it has not ended");
    let path = format!("/v1/tasks/{task}/complete?wait=10s");
    let (status, ended) = agent.post(&path, &json!({"outcome": "completed"})).await.unwrap();
    assert_eq!(status, 200, "{ended}");
    let id = issued["lease"]["id"].as_str().unwrap();
    let (_, lease) = agent.get(&format!("/v1/leases/{id}")).await.unwrap();
    assert_eq!(ended["leases"], json!([lease]));
    lease
}

fn receipt(lease: &Value) -> &str {
    lease["receipt"].as_str().unwrap()
}

/// `dayfly lease show` of an agent's own lease.
async fn show(files: &Installation, site: &Site, lease: &Value, flags: &[&str]) -> Output {
    let evidence = files.evidence_file("support-bot").await;
    let broker = format!("http://{}", site.address);
    let mut arguments = vec![OsStr::new("lease"), "show".as_ref()];
    arguments.push(lease["id"].as_str().unwrap().as_ref());
    arguments.extend([OsStr::new("--broker"), broker.as_ref()]);
    arguments.extend([OsStr::new("--evidence"), evidence.as_os_str()]);
    arguments.extend(flags.iter().map(OsStr::new));
    dayfly(&arguments)
}

/// `dayfly receipt verify` with these keys. Without an argument, of what comes on standard input.
fn verify(keys: &[&Path], argument: Option<&str>, input: &str) -> (i32, Vec<Value>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dayfly"));
    command.args(["--json", "receipt", "verify"]).args(argument);
    for key in keys {
        command.arg("--key").arg(key);
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), input).unwrap();
    command.stdin(Stdio::from(file.reopen().unwrap()));
    let output = command.output().unwrap();
    let lines = String::from_utf8(output.stdout).unwrap();
    let answers = lines.lines().map(|line| serde_json::from_str(line).unwrap());
    (output.status.code().unwrap(), answers.collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receipt_is_verified_offline_by_whoever_has_the_key() {
    let files = Installation::new();
    let site = files.broker();
    let broker = site.start().await;
    let lease = ended(&files.api("support-bot", &site).await).await;

    let shown = show(&files, &site, &lease, &["--receipt"]).await;
    assert_eq!(
        String::from_utf8(shown.stdout).unwrap().trim_end(),
        receipt(&lease)
    );
    let shown = show(&files, &site, &lease, &[]).await;
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("denied_at") && shown.contains("signed"), "{shown}");
    assert!(!shown.contains(receipt(&lease)), "{shown}");
    broker.stop().await;

    // Nothing but the key is left.
    let records = site.records();
    let end = records.iter().find(|record| record["verb"] == "end").unwrap();
    assert_eq!(end["receipt"], lease["receipt"]);
    site.verify_journal();
    let key = files.path("kept-vkey");
    fs::rename(site.journal.join("vkey"), &key).unwrap();
    fs::remove_dir_all(&site.journal).unwrap();

    let (code, answers) = verify(&[&key], Some(receipt(&lease)), "");
    assert_eq!((code, answers.len()), (0, 1));
    let stated = &answers[0];
    assert_eq!(stated["valid"], true);
    assert_eq!(stated["issuer"], files.issuer());
    for same in ["task", "agent", "tool", "provider", "cause", "proof", "proven_at"] {
        assert_eq!(stated[same], lease[same], "{same}");
    }
    assert_eq!(stated["lease"], lease["id"]);

    let changed = receipt(&lease).replacen("eyJ", "eyK", 1);
    let (code, answers) = verify(&[&key], None, &format!("{changed}\n{}\n", receipt(&lease)));
    assert_eq!(code, 7);
    let valid: Vec<&Value> = answers.iter().map(|answer| &answer["valid"]).collect();
    assert_eq!(valid, [false, true]);
    assert_eq!(verify(&[&key], Some("-"), receipt(&lease)).0, 0);
    assert_eq!(verify(&[&key], None, "").0, 1, "nothing is not good");

    let people = dayfly(
        &[
            "receipt",
            "verify",
            receipt(&lease),
            "--key",
            key.to_str().unwrap(),
        ]
        .map(OsStr::new),
    );
    let said = String::from_utf8(people.stdout).unwrap();
    assert!(
        said.starts_with("genuine: lse_") && said.contains(&files.issuer()),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_lives_has_no_receipt() {
    let files = Installation::new();
    let site = files.broker();
    let _broker = site.start().await;
    let agent = files.api("support-bot", &site).await;
    let order = json!({"purpose": "answer", "scope": [{"tool": "crm", "actions": ["read"]}]});
    let (_, task) = agent.post("/v1/tasks", &order).await.unwrap();
    let path = format!("/v1/tasks/{}/credentials", task["id"].as_str().unwrap());
    let (_, issued) = agent
        .post(&path, &json!({"tool": "crm", "actions": ["read"]}))
        .await
        .unwrap();
    let shown = show(&files, &site, &issued["lease"], &["--receipt"]).await;
    assert_eq!(shown.status.code(), Some(5), "{shown:?}");
    assert!(shown.stdout.is_empty() && !shown.stderr.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_one_redis_each_broker_signs_with_its_own_key_and_shows_what_others_signed() {
    let Some(mode) = redis_servers::single() else {
        return;
    };
    let files = Installation::on(mode);
    let (first, second) = (files.broker(), files.replica());
    let broker = first.start().await;
    let lease = ended(&files.api("support-bot", &first).await).await;
    broker.stop().await;
    let _replica = second.start().await;
    let agent = files.api("support-bot", &second).await;
    let path = format!("/v1/leases/{}", lease["id"].as_str().unwrap());
    assert_eq!(agent.get(&path).await.unwrap(), (200, lease.clone()));
    let other = ended(&agent).await;

    let keys = [&first, &second].map(|site| site.journal.join("vkey"));
    let both = format!("{}\n{}\n", receipt(&lease), receipt(&other));
    assert_eq!(verify(&[&keys[0], &keys[1]], None, &both).0, 0);
    assert_eq!(verify(&[&keys[0]], Some(receipt(&lease)), "").0, 0);
    let (code, answers) = verify(&[&keys[0]], Some(receipt(&other)), "");
    assert_eq!(code, 7);
    assert!(
        answers[0]["fault"].as_str().unwrap().contains("another key"),
        "{answers:?}"
    );
}

/// Another implementation reads the same out of it (RFC 7515, 8037).
#[cfg(feature = "josekit")]
#[tokio::test]
async fn josekit_verifies_what_we_sign() {
    use crate::world::World;
    use dayfly::journal::receipt::{TYP, compact};
    use dayfly::model::task::Outcome;
    use josekit::jwk::Jwk;
    use josekit::jws::EdDSA;

    let world = World::new();
    let task = world.open("support-bot", &["crm:read"]).await.charter.id;
    let lease = world
        .issue("support-bot", task, "crm:read")
        .await
        .unwrap()
        .lease
        .id;
    let caller = world.caller("support-bot").await;
    let completing = world.broker.complete(
        &caller,
        task,
        Outcome::Completed,
        std::time::Duration::ZERO,
        world.request(),
    );
    completing.await.unwrap();
    world.reap().await;
    let lease = world.ledger.lease(lease).await.unwrap().unwrap();
    let text = compact(&lease).unwrap();

    let jwk = serde_json::to_vec(&world.journal.verifier().jwk()).unwrap();
    let verifier = EdDSA.verifier_from_jwk(&Jwk::from_bytes(jwk).unwrap()).unwrap();
    let (payload, header) = josekit::jwt::decode_with_verifier(&text, &verifier).unwrap();
    assert_eq!(header.token_type(), Some(TYP));
    assert_eq!(payload.claim("lease"), Some(&json!(lease.id)));
    assert_eq!(payload.claim("proof"), Some(&json!("denied_at")));
    assert!(josekit::jwt::decode_with_verifier(text.replacen("eyJ", "eyK", 1), &verifier).is_err());
}
