//! Metrics: the table in the code, the reference, and what is really exported say the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use axum::body::{Body, to_bytes};
use axum::http::{Request, header};
use dayfly::broker::facts::FactOrder;
use dayfly::telemetry;
use dayfly::telemetry::catalogue::{Kind, METRICS, Metric, Values};
use metrics_exporter_prometheus::PrometheusBuilder;
use serde_json::json;

use crate::http::Api;
use crate::world::gated::{Gate, Gated};
use crate::world::{Plan, World};

const HOUR: Duration = Duration::from_secs(3600);

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn known(name: &str) -> Option<&'static Metric> {
    METRICS.iter().find(|metric| metric.name == name)
}

/// What is between backticks.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

#[test]
fn the_reference_has_a_row_for_every_metric_with_its_kind_and_labels() {
    let page = fs::read_to_string(root().join("docs/reference/metrics.md")).unwrap();
    let mut rows = BTreeMap::new();
    for line in page
        .lines()
        .filter(|line| line.starts_with("| `dayfly_") || line.starts_with("| `process_"))
    {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, name, kind, labels, _, _] = cells.as_slice() else {
            panic!("five lines and a break: {line}")
        };
        let before = rows.insert(quoted(name)[0], (*kind, quoted(labels)));
        assert!(before.is_none(), "{line}");
    }
    for metric in METRICS {
        let row = rows.remove(metric.name);
        let labels: Vec<&str> = metric.labels.iter().map(|(label, _)| *label).collect();
        assert_eq!(row, Some((metric.kind.as_str(), labels)), "{}", metric.name);
        for (label, values) in metric.labels {
            let Values::One(values) = values else { continue };
            for value in *values {
                let told = page.contains(&format!("`{value}`")) || *label == "verb" || *label == "method";
                assert!(told, "{}: `{label}` may be `{value}`", metric.name);
            }
        }
    }
    assert!(rows.is_empty(), "nobody counts these: {rows:?}");
}

#[test]
fn names_are_the_fields_own() {
    let mut names = BTreeSet::new();
    for metric in METRICS {
        let name = metric.name;
        assert!(names.insert(name), "{name} twice");
        assert!(
            name.starts_with("dayfly_") || name.starts_with("process_"),
            "{name}"
        );
        assert_eq!(name.ends_with("_total"), metric.kind == Kind::Counter, "{name}");
        if metric.kind == Kind::Histogram {
            assert!(name.ends_with("_seconds"), "{name}");
        }
        for (label, _) in metric.labels {
            assert!(
                !["id", "agent", "task", "lease", "user"].contains(label),
                "{name}"
            );
        }
    }
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        match entry.path() {
            path if path.is_dir() => sources(&path, found),
            path if path.extension().is_some_and(|end| end == "rs") => found.push(path),
            _ => {}
        }
    }
}

/// Whatever is counted anywhere has a constant for its name, and every such constant is in the table.
#[test]
fn nothing_is_counted_that_is_not_in_the_table() {
    let mut files = Vec::new();
    sources(&root().join("src"), &mut files);
    let (mut constants, mut counted) = (BTreeSet::new(), 0);
    for file in files.into_iter().filter(|file| !file.ends_with("tests.rs")) {
        let text = fs::read_to_string(&file).unwrap();
        let text = text.split("#[cfg(test)]").next().unwrap();
        for line in text
            .lines()
            .filter(|line| line.contains("const ") && !line.contains("TARGET"))
        {
            let name = line
                .split_once(": &str = \"")
                .and_then(|(_, rest)| rest.split('"').next());
            constants.extend(
                name.filter(|name| {
                    ["dayfly_", "process_"]
                        .iter()
                        .any(|start| name.starts_with(start))
                })
                .map(str::to_owned),
            );
        }
        for kind in ["counter!(", "gauge!(", "histogram!("] {
            for (at, _) in text.match_indices(kind) {
                let first = text[at + kind.len()..].trim_start();
                let path = text[..at]
                    .rsplit(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'))
                    .next();
                if path.is_some_and(|path| path.ends_with("describe_")) {
                    continue;
                }
                counted += 1;
                let named = first.split([',', ')']).next().unwrap().trim();
                assert!(
                    named.chars().all(|c| c.is_ascii_uppercase() || c == '_'),
                    "{}: `{named}` is no constant",
                    file.display()
                );
            }
        }
    }
    assert!(counted > 30, "{counted}");
    let table: BTreeSet<String> = METRICS.iter().map(|metric| metric.name.to_owned()).collect();
    assert_eq!(constants, table);
}

/// The labels of a line of the exposition.
fn labels(line: &str) -> Vec<(&str, &str)> {
    let Some((_, rest)) = line.split_once('{') else {
        return Vec::new();
    };
    let (inside, _) = rest.rsplit_once('}').unwrap();
    inside
        .split("\",")
        .map(|pair| pair.trim_end_matches('"').split_once("=\"").unwrap())
        .collect()
}

/// What `/metrics` says once a task has been opened, was given a credential, and was ended.
async fn page_of_a_life() -> String {
    telemetry::init_metrics().unwrap();
    let api = Api::new();
    let task = api.open().await;
    let path = format!("/v1/tasks/{task}/credentials");
    let (status, lease) = api
        .post("support-bot", &path, json!({"tool": "crm", "actions": ["read"]}))
        .await;
    assert_eq!(status, 201, "{lease}");
    let (status, _) = api
        .post(
            "support-bot",
            &path,
            json!({"tool": "crm", "actions": ["delete"]}),
        )
        .await;
    assert_eq!(status, 403);
    let path = format!("/v1/tasks/{task}/complete");
    let (status, _) = api
        .post("support-bot", &path, json!({"outcome": "completed"}))
        .await;
    assert_eq!(status, 200);
    api.world.broker.sweep().await.unwrap();
    api.world.broker.compare().await;
    api.world.broker.sample().await.unwrap();
    for listener in ["server", "tools", "operators"] {
        telemetry::certificate_expires(listener, api.world.now());
    }
    for authorization in [None, Some("Basic bm9ib2R5Og==")] {
        let mut request = Request::get("/v1/facts").body(Body::empty()).unwrap();
        if let Some(authorization) = authorization {
            let value = authorization.parse().unwrap();
            request.headers_mut().insert(header::AUTHORIZATION, value);
        }
        assert_eq!(api.send(request).await.status(), 401);
    }
    let request = Request::get("/metrics").body(Body::empty()).unwrap();
    let answer = to_bytes(api.send(request).await.into_body(), usize::MAX)
        .await
        .unwrap();
    String::from_utf8(answer.to_vec()).unwrap()
}

/// Cannot say what waits while it is down.
#[derive(Default)]
struct Quiet(AtomicBool);

#[async_trait]
impl Gate for Quiet {
    async fn before(&self, _: &'static str) {}
    fn is_down(&self, call: &'static str) -> bool {
        self.0.load(Ordering::Relaxed) && ["due_since", "rechecks"].contains(&call)
    }
    async fn after(&self, _: &'static str) {}
}

#[tokio::test]
async fn what_cannot_be_told_is_no_number() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let page = recorder.handle();
    let _counting = metrics::set_default_local_recorder(&recorder);
    let gate = Arc::new(Quiet::default());
    let quiet = Arc::clone(&gate);
    let world = World::of(Plan {
        ledger: Box::new(move |ledger| Arc::new(Gated { ledger, gate })),
        ..Plan::default()
    });
    for (down, shown) in [(false, "0"), (true, "NaN"), (false, "0")] {
        quiet.0.store(down, Ordering::Relaxed);
        assert_eq!(world.broker.sample().await.is_err(), down);
        for gauge in ["dayfly_due_oldest_seconds", "dayfly_rechecks_waiting"] {
            let line = format!("{gauge} {shown}\n");
            assert!(page.render().contains(&line), "{line}: {}", page.render());
        }
    }
}

#[tokio::test]
async fn what_changes_nothing_denies_nothing() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let page = recorder.handle();
    let _counting = metrics::set_default_local_recorder(&recorder);
    let world = World::new();
    let operator = world.caller("ops-console").await;
    for (at, denied) in [(None, 1), (None, 1), (Some(world.now().minus(HOUR)), 1)] {
        let order = FactOrder {
            about: "agent/support-bot".parse().unwrap(),
            name: "risk".parse().unwrap(),
            value: Some("high".parse().unwrap()),
            at,
            expires_at: None,
            reason: None,
        };
        let stated = world.broker.state_fact(&operator, order, world.request());
        let (_, stated) = stated.await.unwrap();
        let line = format!("dayfly_time_to_deny_seconds_count{{because=\"fact\"}} {denied}\n");
        let page = page.render();
        assert!(page.contains(&line), "{stated:?}: {page}");
    }
}

#[tokio::test]
async fn what_is_exported_is_in_the_table_with_its_kind_and_labels() {
    let page = page_of_a_life().await;
    let mut shown = BTreeSet::new();
    for line in page.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        let metric = known(name).unwrap_or_else(|| panic!("{name} is not in the table"));
        assert_eq!(kind, metric.kind.as_str(), "{name}");
        assert!(page.contains(&format!("# HELP {name} ")), "{name}");
        shown.insert(name);
    }
    for name in [
        "dayfly_build_info",
        "dayfly_decisions_total",
        "dayfly_issue_duration_seconds",
        "dayfly_time_to_deny_seconds",
        "dayfly_http_requests_total",
        "dayfly_due_oldest_seconds",
        "dayfly_orphans",
    ] {
        assert!(shown.contains(name), "{name}: {shown:?}");
    }
    for counted in [
        "dayfly_evidence_refused_total{reason=\"missing\"} ",
        "dayfly_evidence_refused_total{reason=\"malformed\"} ",
        "dayfly_certificate_expiry_timestamp_seconds{use=\"operators\"} ",
    ] {
        assert!(page.contains(counted), "{counted}: {page}");
    }
    for line in page
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let name = line.split(['{', ' ']).next().unwrap();
        let metric = ["", "_bucket", "_sum", "_count"]
            .iter()
            .find_map(|end| known(name.strip_suffix(end)?))
            .unwrap_or_else(|| panic!("{line}"));
        for (label, value) in labels(line).into_iter().filter(|(label, _)| *label != "le") {
            let (_, values) = metric
                .labels
                .iter()
                .find(|(known, _)| *known == label)
                .unwrap_or_else(|| panic!("{line}"));
            if let Values::One(values) = values {
                assert!(values.contains(&value), "{line}");
            }
        }
    }
}
