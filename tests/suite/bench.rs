//! `dayfly bench` on a broker of its own: what it counts is what was asked, and it leaves nothing open.

use std::process::{Command, Output};

use serde_json::Value;

use crate::process::{Installation, Site};

/// Forty times within a second, whatever is asked.
async fn load(files: &Installation, site: &Site, mix: &str, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dayfly"));
    command
        .args([
            "--json",
            "bench",
            "--mix",
            mix,
            "--rate",
            "40",
            "--duration",
            "1s",
        ])
        .args(["--warm-up", "1s", "--connections", "4", "--tasks", "2"])
        .args(["--broker", &format!("http://{}", site.address)])
        .arg("--evidence")
        .arg(files.evidence_file("support-bot").await)
        .arg("--tool-evidence")
        .arg(files.evidence_file("crm-server").await)
        .args(more);
    let ran = tokio::task::spawn_blocking(move || command.output().unwrap());
    ran.await.unwrap()
}

fn report(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}{errors}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_mix_is_counted_and_nothing_stays_open() {
    let files = Installation::new();
    let site = files.broker();
    let broker = site.start().await;
    let leases = files.path("leases");
    let reading = [
        "--access",
        "crm:read@customers/42",
        "--leases",
        leases.to_str().unwrap(),
    ];
    // Of the warm-up as of the load there is a lease each; the others are those that a mix starts from.
    for (mix, requests, answered) in [
        ("task", vec!["all three", "complete", "issue", "open"], 80),
        ("issue", vec!["issue"], 80),
        ("renew", vec!["renew"], 4),
        ("introspect", vec!["introspect"], 4),
    ] {
        let output = load(&files, &site, mix, &reading).await;
        let report = report(&output);
        assert!(output.status.success(), "{report}");
        let told: Vec<&String> = report["requests"].as_object().unwrap().keys().collect();
        assert_eq!(told, requests, "{report}");
        for asked in report["requests"].as_object().unwrap().values() {
            assert_eq!(asked["answered"], 40, "{report}");
            assert_eq!(asked["failed"], 0, "{report}");
            assert!(
                asked["took"]["p50"].as_f64() <= asked["longest"].as_f64(),
                "{report}"
            );
            assert!(asked["longest"].as_f64() > Some(0.0), "{report}");
        }
        let text = std::fs::read_to_string(&leases).unwrap();
        assert_eq!(text.lines().count(), answered, "{mix}: {text}");
    }
    let operator = files.api("ops-console", &site).await;
    let (_, live) = operator.get("/v1/leases?agent=*&state=active").await.unwrap();
    assert_eq!(live["leases"].as_array().unwrap().len(), 0, "{live}");
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_is_counted_by_its_kind_and_told_by_the_exit_code() {
    let files = Installation::new();
    // Of eighty requests ten get a credential.
    files.change("agents/support-bot.toml", |text| {
        text.replace("live_credentials = 1000000", "live_credentials = 10")
    });
    let site = files.broker();
    let broker = site.start().await;
    let output = load(&files, &site, "issue", &["--access", "crm:read@customers/42"]).await;
    let report = report(&output);
    assert_eq!(output.status.code(), Some(1), "{report}");
    let issue = &report["requests"]["issue"];
    assert_eq!(issue["failures"]["429 budget"], 40, "{report}");
    assert_eq!(issue["answered"], 0, "{report}");

    let output = load(&files, &site, "issue", &["--access", "payments:refund@orders/1"]).await;
    assert!(!output.status.success());
    broker.stop().await;
}
