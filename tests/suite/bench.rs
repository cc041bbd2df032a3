//! `dayfly bench` on a broker of its own: what it counts is what was asked, and it leaves nothing open.

use std::process::{Command, Output};

use serde_json::Value;

use crate::process::{Installation, Site};

/// Forty times within a second, whatever is asked.
async fn load(files: &Installation, site: &Site, mix: &str, more: &[&str]) -> Output {
    bench(files, site, &[&["--mix", mix, "--rate", "40"], more].concat()).await
}

/// For a second.
async fn bench(files: &Installation, site: &Site, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dayfly"));
    command
        .args(["--json", "bench", "--duration", "1s"])
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
        ("providers", vec!["issue crm"], 80),
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

const READING: [&str; 2] = ["--access", "crm:read@customers/42"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_of_several_tools_are_told_apart() {
    let files = Installation::new();
    files.change("tools/payments.toml", |text| {
        text.replace("live_credentials = 20", "live_credentials = 1000")
    });
    let site = files.broker();
    let broker = site.start().await;
    let more = [&READING[..], &["--access", "payments:read@orders/1"]].concat();
    let report = report(&load(&files, &site, "providers", &more).await);
    for tool in ["issue crm", "issue payments"] {
        assert_eq!(report["requests"][tool]["answered"], 20, "{report}");
    }
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_ended_beside_a_load_is_seen_to_be_denied() {
    let files = Installation::new();
    let site = files.broker();
    let broker = site.start().await;
    let operator = files.evidence_file("ops-console").await;
    let kill = ["--kill-orders", "--operator-evidence", operator.to_str().unwrap()];
    for (how, more) in [("complete", &[][..]), ("kill order", &kill)] {
        let more = [&READING[..], more].concat();
        let output = load(&files, &site, "cutoff", &more).await;
        let report = report(&output);
        let of = |what: &str, member: &str| report["requests"][what][member].as_u64();
        assert_eq!(of("issue", "answered"), Some(40), "{report}");
        assert_eq!(of(how, "answered"), Some(1), "{report}");
        assert_eq!(of("denied", "answered"), Some(1), "{report}");
        assert_eq!(of("denied", "failed"), Some(0), "{report}");
        assert!(output.status.success(), "{report}");
    }
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_closed_loop_each_connection_asks_as_soon_as_it_was_answered() {
    let files = Installation::new();
    // It asks for as many as the broker can give.
    files.change("dayfly.toml", |text| {
        text + "\n[tasks]\nlive_credentials = 1000000\n"
    });
    let site = files.broker();
    let broker = site.start().await;
    let id = broker.id().to_string();
    let more = [
        &READING[..],
        &["--mix", "issue", "--rate", "max", "--server-pid", &id],
    ]
    .concat();
    let output = bench(&files, &site, &more).await;
    let report = report(&output);
    assert!(output.status.success(), "{report}");
    assert_eq!(
        (&report["rate"], &report["closed_loop"]),
        (&"max".into(), &true.into())
    );
    let issue = &report["requests"]["issue"];
    let answered = issue["answered"].as_f64().unwrap();
    assert!(answered > 0.0, "{report}");
    // Four ask: all of them wait all of the time, and no more than that.
    let waited = answered * issue["took"]["p50"].as_f64().unwrap();
    let most = 4.0 * report["seconds"].as_f64().unwrap();
    assert!(waited < 1.5 * most, "{report}");
    assert!(report["cpu"]["harness"].as_f64() > Some(0.0), "{report}");
    assert!(report["cpu"]["server"].as_f64() > Some(0.0), "{report}");
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_floor_is_asked_in_turns_and_ratios_are_told() {
    let files = Installation::new();
    let site = files.broker();
    let broker = site.start().await;
    for mix in ["task", "issue", "renew", "introspect"] {
        let more = [&READING[..], &["--floor"]].concat();
        let output = load(&files, &site, mix, &more).await;
        let report = report(&output);
        assert!(output.status.success(), "{report}");
        assert_eq!(report["beside"]["at"], "floor");
        for (what, asked) in report["requests"].as_object().unwrap() {
            let floor = &report["beside"]["requests"][what];
            assert_eq!(
                (&asked["answered"], &floor["answered"]),
                (&40.into(), &40.into()),
                "{report}"
            );
            let ratio = &report["ratio"]["requests"][what]["p50"];
            assert!(ratio["lowest"].as_f64() <= ratio["median"].as_f64(), "{report}");
            assert!(ratio["median"].as_f64() > Some(0.0), "{report}");
        }
        assert!(report["beside"]["cpu"]["server"].is_number(), "{report}");
    }
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_broker_can_be_asked_in_turns() {
    let (files, others) = (Installation::new(), Installation::new());
    let (site, other) = (files.broker(), others.broker());
    let (broker, beside) = (site.start().await, other.start().await);
    let evidence = others.evidence_file("support-bot").await;
    let address = format!("http://{}", other.address);
    let more = [
        "--beside",
        &address,
        "--beside-evidence",
        evidence.to_str().unwrap(),
    ];
    let report = report(&load(&files, &site, "issue", &[&READING[..], &more].concat()).await);
    for at in [&report, &report["beside"]] {
        assert_eq!(at["requests"]["issue"]["answered"], 40, "{report}");
        assert_eq!(at["requests"]["issue"]["failed"], 0, "{report}");
    }
    assert_eq!(
        other
            .records()
            .iter()
            .filter(|record| record["verb"] == "issue")
            .count(),
        80
    );
    let nonsense = [&READING[..], &["--beside", &address]].concat();
    assert!(!load(&files, &site, "cutoff", &nonsense).await.status.success());
    broker.stop().await;
    beside.stop().await;
}
