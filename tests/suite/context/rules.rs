//! Other rules are looked at before they are put in force: beside what is out, beside what was decided, and in
//! the shadow of those in force.

use std::ffi::OsStr;
use std::fs;
use std::process::Output;

use serde_json::{Value, json};

use crate::process::{Api, Installation, dayfly};

const STOP: &str =
    "@id(\"stop\") @reason(\"not today\") forbid (principal, action == Action::\"crm:read\", resource);";

async fn issue(agent: &Api) -> (u16, Value) {
    let body = json!({"purpose": "answer ticket 4711", "scope": [{"tool": "crm", "actions": ["read"]}]});
    let (_, task) = agent.post("/v1/tasks", &body).await.unwrap();
    let path = format!("/v1/tasks/{}/credentials", task["id"].as_str().unwrap());
    agent
        .post(&path, &json!({"tool": "crm", "actions": ["read"]}))
        .await
        .unwrap()
}

fn run(arguments: &[&str], paths: &[(&str, &OsStr)]) -> (Output, Value) {
    let mut all: Vec<&OsStr> = arguments.iter().map(OsStr::new).collect();
    for (flag, path) in paths {
        all.extend([OsStr::new(*flag), *path]);
    }
    let output = dayfly(&all);
    let told = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output, told)
}

async fn live(agent: &Api) -> u64 {
    let (_, leases) = agent.get("/v1/leases?state=active").await.unwrap();
    u64::try_from(leases["leases"].as_array().unwrap().len()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_end_too_much_changes_nothing_until_somebody_accepts_it() {
    let files = Installation::new();
    files.change("dayfly.toml", |text| {
        text.replace("[policy]\n", "[policy]\nblast_radius = 1\nwatch_files = false\n")
    });
    let site = files.broker();
    let broker = site.start().await;
    let (agent, operator) = (
        files.api("support-bot", &site).await,
        files.api("ops-console", &site).await,
    );
    for _ in 0..3 {
        assert_eq!(issue(&agent).await.0, 201);
    }

    // The rules of somebody's desk, at the broker.
    let stop = files.path("policies/99-stop.cedar");
    // Larger than any other body may be.
    fs::write(&stop, format!("{STOP}\n// {}\n", "-".repeat(100_000))).unwrap();
    let evidence = files.evidence_file("ops-console").await;
    let address = files.issuer();
    let asked = ["--json", "policy", "diff", "--live", "--broker", &address];
    let configuration = files.configuration();
    let paths = [
        ("--config", configuration.as_os_str()),
        ("--evidence", evidence.as_os_str()),
    ];
    let (output, told) = run(&asked, &paths);
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert_eq!(
        (&told["looked_at"], &told["ended"]["leases"]),
        (&json!(3), &json!(3)),
        "{told}"
    );
    assert_eq!(told["ended"]["owners"], json!({"Support Platform": 3}));
    assert_eq!(told["causes"], json!({"not_permitted": 3}));
    assert_eq!(told["examples"][0]["reason"], "not today");
    assert_eq!(live(&agent).await, 3);

    let (status, problem) = operator.post("/v1/rules/reload", &json!({})).await.unwrap();
    assert_eq!(status, 409, "{problem}");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("--accept-blast-radius 3"), "{detail}");
    assert_eq!(issue(&agent).await.0, 201);
    let accepted = json!({"accept_blast_radius": 4});
    let (status, told) = operator.post("/v1/rules/reload", &accepted).await.unwrap();
    assert_eq!(
        (status, &told["effect"]["ended"]["leases"]),
        (200, &json!(4)),
        "{told}"
    );
    assert_eq!(issue(&agent).await.0, 403);
    assert_eq!(agent.post("/v1/rules/reload", &json!({})).await.unwrap().0, 403);
    broker.stop().await;
    site.verify_journal();

    // What was decided, put to rules without that policy: the denial of the last request.
    fs::remove_file(&stop).unwrap();
    let simulated = ["--json", "policy", "simulate", "--fail-on-widening"];
    let paths = [
        ("--config", configuration.as_os_str()),
        ("--journal", site.journal.as_os_str()),
    ];
    let (output, told) = run(&simulated, &paths);
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    let [change] = told["changes"].as_array().unwrap().as_slice() else {
        panic!("{told}")
    };
    assert_eq!(
        (
            &change["change"],
            &change["agent"],
            &change["why"],
            &change["decisions"]
        ),
        (
            &json!("permitted now"),
            &json!("support-bot"),
            &json!("not today"),
            &json!(1)
        )
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_in_the_shadow_are_asked_and_not_obeyed() {
    let files = Installation::new();
    files.change("dayfly.toml", |text| {
        text.replace("[policy]\n", "[policy]\nshadow_dirs = [\"next\"]\n")
    });
    fs::create_dir(files.path("next")).unwrap();
    fs::write(files.path("next/stop.cedar"), STOP).unwrap();
    let site = files.broker();
    let broker = site.start().await;
    let agent = files.api("support-bot", &site).await;
    for _ in 0..2 {
        assert_eq!(issue(&agent).await.0, 201);
    }
    broker.stop().await;
    site.verify_journal();
    let paths = [("--journal", site.journal.as_os_str())];
    let (output, told) = run(&["--json", "policy", "shadow"], &paths);
    assert!(output.status.success(), "{output:?}");
    let [change] = told["changes"].as_array().unwrap().as_slice() else {
        panic!("{told}")
    };
    assert_eq!(
        (&change["change"], &change["why"], &change["decisions"]),
        (&json!("denied there"), &json!("denied: not today"), &json!(2))
    );
}
