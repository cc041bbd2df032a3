//! Traces: what a collector gets of a request, whose trace it is part of, and that nobody ever waits for it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Request, StatusCode};
use axum::routing::post;
use dayfly::clock::SystemClock;
use dayfly::entropy::OsEntropy;
use dayfly::telemetry::otlp::{Collector, Exporter};
use dayfly::telemetry::traces::{Finished, Traces, Value};
use dayfly::telemetry::{self, LogFormat};
use metrics_exporter_prometheus::PrometheusBuilder;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::subscriber::DefaultGuard;

use crate::http::{Api, read};
use crate::world::receiver::Receiver;
use crate::world::{Plan, World};

const PURPOSE: &str = "answer ticket 4711 of anna@example.org";
const CALLER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const TRACE: u128 = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c;

/// From now on spans of this thread come out there, and log lines go to the file.
struct Heard {
    finished: mpsc::Receiver<Finished>,
    file: tempfile::NamedTempFile,
    _listening: DefaultGuard,
}

fn listen(part: f64) -> Heard {
    let (traces, finished) = Traces::new(part, Arc::new(SystemClock::new()), Arc::new(OsEntropy::new()));
    let file = tempfile::NamedTempFile::new().unwrap();
    let writer = file.reopen().unwrap();
    let subscriber = telemetry::subscriber(LogFormat::Json, "trace", writer, false, Some(traces)).unwrap();
    Heard {
        finished,
        file,
        _listening: tracing::subscriber::set_default(subscriber),
    }
}

impl Heard {
    fn spans(&mut self) -> Vec<Finished> {
        std::iter::from_fn(|| self.finished.try_recv().ok()).collect()
    }

    fn logs(&self) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(self.file.path()).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

fn text<'s>(span: &'s Finished, name: &str) -> Option<&'s str> {
    let (_, value) = span.attributes.iter().find(|(known, _)| *known == name)?;
    match value {
        Value::Text(text) => Some(text),
        Value::Number(_) => None,
    }
}

/// A task and a credential of a receiver, asked for with these headers. The answer to the second.
async fn issue(api: &Api, headers: &[(&str, &str)]) -> serde_json::Value {
    let evidence = api.world.evidence("support-bot").await.expose().to_owned();
    let order = |path: &str, body: serde_json::Value| {
        let mut request = Request::post(path)
            .header("authorization", format!("Bearer {evidence}"))
            .header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(Body::from(body.to_string())).unwrap()
    };
    let scope = json!([{"tool": "crm", "actions": ["read"], "resources": ["customers/42"]}]);
    let opening = order("/v1/tasks", json!({"purpose": PURPOSE, "scope": scope}));
    let (status, task) = read(api.send(opening).await).await;
    assert_eq!(status, 201, "{task}");
    let path = format!("/v1/tasks/{}/credentials", task["id"].as_str().unwrap());
    let asking = order(
        &path,
        json!({"tool": "crm", "actions": ["read"], "resources": ["customers/42"]}),
    );
    let (status, issued) = read(api.send(asking).await).await;
    assert_eq!(status, 201, "{issued}");
    issued
}

async fn api_with_receiver() -> (Api, Arc<Receiver>) {
    let receiver = Receiver::start().await;
    let world = World::of(Plan {
        provider: Some(receiver.provider()),
        ..Plan::default()
    });
    (Api::of(world), receiver)
}

#[tokio::test]
async fn a_request_is_a_span_of_its_callers_trace_and_its_parts_are_below_it() {
    let (api, receiver) = api_with_receiver().await;
    let mut heard = listen(1.0);
    let issued = issue(&api, &[("traceparent", CALLER), ("tracestate", "vendor=7")]).await;
    let spans = heard.spans();
    let request = spans
        .iter()
        .find(|span| span.name == "POST /v1/tasks/{id}/credentials")
        .unwrap();
    assert!(request.of_request);
    assert_eq!((request.trace, request.parent), (TRACE, 0xb7ad_6b71_6920_3331));
    assert_eq!(request.state.as_deref(), Some("vendor=7"));
    let lease = issued["lease"]["id"].as_str().unwrap();
    for (name, value) in [
        ("http.route", "/v1/tasks/{id}/credentials"),
        ("http.request.method", "POST"),
        ("gen_ai.agent.id", "support-bot"),
        ("gen_ai.agent.name", "support-bot"),
        ("gen_ai.tool.name", "crm"),
        ("gen_ai.operation.name", "issue"),
        ("dayfly.lease.id", lease),
        ("dayfly.result", "permitted"),
    ] {
        assert_eq!(text(request, name), Some(value), "{name}");
    }
    assert!(text(request, "dayfly.decision.id").is_some());
    assert!(
        request
            .attributes
            .contains(&("http.response.status_code", Value::Number(201)))
    );
    let decide = spans.iter().find(|span| span.name == "decide").unwrap();
    assert_eq!((decide.trace, decide.parent), (TRACE, request.span));
    assert!(request.from <= decide.from && decide.from <= decide.until && decide.until <= request.until);

    let carried = &receiver.requests()[0].headers;
    let carried = (
        carried["traceparent"].to_str().unwrap(),
        carried["tracestate"].to_str().unwrap(),
    );
    assert!(
        carried.0.starts_with("00-0af7651916cd43dd8448eb211c80319c-"),
        "{carried:?}"
    );
    assert!(
        carried.0.ends_with("-01") && !carried.0.contains("b7ad6b7169203331"),
        "{carried:?}"
    );
    assert_eq!(carried.1, "vendor=7");

    let recorded: Vec<serde_json::Value> = heard.logs();
    let mut recorded = recorded.iter().filter(|line| line["message"] == "recorded");
    let line = recorded.rfind(|line| line["lease"] == lease).unwrap();
    assert_eq!(line["span"]["trace_id"], "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(
        (&line["agent"], &line["verb"]),
        (&json!("support-bot"), &json!("issue"))
    );
    assert!(line["span"]["id"].is_string() && line["task"].is_string() && line["decision"].is_string());
}

#[tokio::test]
async fn a_caller_that_does_not_trace_is_not_traced_and_one_that_does_is_no_more_than_its_part() {
    let api = Api::new();
    let mut heard = listen(0.1);
    let ask = async |headers: &[(&str, &str)]| {
        let mut request = Request::get("/healthz");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        api.send(request.body(Body::empty()).unwrap()).await
    };
    let silent = CALLER.replace("-01", "-00");
    for _ in 0..100 {
        ask(&[("traceparent", &silent)]).await;
    }
    assert_eq!(heard.spans(), []);
    for _ in 0..1000 {
        ask(&[("traceparent", CALLER)]).await;
    }
    let forced = heard.spans().len();
    assert!((100..=121).contains(&forced), "{forced} of 1000");
    // What is no place in a trace begins one of its own, if at all.
    for _ in 0..1000 {
        ask(&[("traceparent", "00-0-0-01")]).await;
        ask(&[("traceparent", CALLER), ("traceparent", CALLER)]).await;
    }
    let own = heard.spans();
    assert!(own.iter().all(|span| span.trace != TRACE && span.parent == 0));
    assert!((50..=260).contains(&own.len()), "{} of 2000", own.len());
}

type Posts = Arc<Mutex<Vec<(HeaderMap, Bytes)>>>;

async fn collector(status: StatusCode) -> (Collector, Posts) {
    let posts = Posts::default();
    let take = move |State(posts): State<Posts>, headers: HeaderMap, body: Bytes| async move {
        posts.lock().unwrap().push((headers, body));
        status
    };
    let router = Router::new()
        .route("/otel/v1/traces", post(take))
        .with_state(Arc::clone(&posts));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}/otel/", listener.local_addr().unwrap())
        .parse()
        .unwrap();
    TaskTracker::new().spawn(async move { axum::serve(listener, router).await });
    let headers = vec![("x-key".parse().unwrap(), "collector-key".parse().unwrap())];
    (Collector { endpoint, headers }, posts)
}

/// Finished spans, as many as wanted, in a queue.
fn finished(spans: usize) -> mpsc::Receiver<Finished> {
    let (queue, finished) = mpsc::channel(spans);
    for span in 1..=spans {
        let span = Finished {
            trace: TRACE,
            span: span.try_into().unwrap(),
            parent: 0,
            state: None,
            name: "GET /healthz".into(),
            of_request: true,
            from: 1,
            until: 2,
            attributes: Vec::new(),
        };
        queue.try_send(span).unwrap();
    }
    finished
}

/// A collector that answers like that.
async fn collector_that<F>(answer: impl FnOnce() -> F + Clone + Send + Sync + 'static) -> Collector
where
    F: Future<Output = Vec<u8>> + Send + 'static,
{
    let _ = rustls::crypto::ring::default_provider().install_default();
    let router = Router::new().route("/v1/traces", post(answer));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    TaskTracker::new().spawn(async move { axum::serve(listener, router).await });
    Collector {
        endpoint: endpoint.parse().unwrap(),
        headers: Vec::new(),
    }
}

#[tokio::test]
async fn what_a_collector_refuses_of_a_batch_is_counted() {
    // `partial_success` (1) with a message (2) and 3 as `rejected_spans` (1), behind a field that nobody knows.
    let partial = b"\x4a\x01x\x0a\x0a\x12\x06no way\x08\x03";
    for (answer, expected) in [
        (&b""[..], "0"),
        (b"\x0a\x00", "0"),
        (&partial[..], "3"),
        (b"\x0a\x02\x08\x7f", "5"), // more than there were
        (b"\x0a\x7f\x08", "0"),
        (b"<html>", "0"),
    ] {
        let recorder = PrometheusBuilder::new().build_recorder();
        let page = recorder.handle();
        let _counting = metrics::set_default_local_recorder(&recorder);
        let collector = collector_that(move || async move { answer.to_vec() }).await;
        let exporter = Exporter::new(collector, finished(5)).unwrap();
        exporter.run(CancellationToken::new()).await;
        let line = format!("dayfly_trace_spans_dropped_total{{reason=\"not_taken\"}} {expected}\n");
        assert!(page.render().contains(&line), "{answer:?}: {}", page.render());
    }
}

#[tokio::test]
async fn what_is_on_its_way_when_it_stops_is_sent_once() {
    let (posts, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let (counted, held) = (Arc::clone(&posts), Arc::clone(&go));
    let collector = collector_that(move || async move {
        counted.fetch_add(1, Ordering::Relaxed);
        held.acquire().await.unwrap().forget();
        Vec::new()
    })
    .await;
    let stop = CancellationToken::new();
    let exporter = Exporter::new(collector, finished(5)).unwrap();
    let exporting = TaskTracker::new().spawn(exporter.run(stop.clone()));
    while posts.load(Ordering::Relaxed) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.cancel();
    tokio::task::yield_now().await;
    go.add_permits(10);
    exporting.await.unwrap();
    assert_eq!(posts.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn nothing_is_said_to_be_recorded_that_is_not() {
    let api = Api::new();
    let heard = listen(1.0);
    let said = || {
        let logs = heard.logs();
        logs.iter().filter(|line| line["message"] == "recorded").count()
    };
    api.world.journal.fail(true);
    let body = json!({"purpose": PURPOSE, "scope": [{"tool": "crm", "actions": ["read"]}]});
    let (status, _) = api.post("support-bot", "/v1/tasks", body.clone()).await;
    assert_eq!((status.as_u16(), said()), (503, 0));
    api.world.journal.fail(false);
    let (status, _) = api.post("support-bot", "/v1/tasks", body).await;
    assert_eq!(status, 201);
    assert!(said() > 0);
}

/// The fields of a message: number, and what it holds where that has a length.
fn fields(mut message: &[u8]) -> Vec<(u64, Vec<u8>)> {
    fn varint(message: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let (first, rest) = message.split_first().unwrap();
            *message = rest;
            value |= u64::from(first & 0x7f) << shift;
            if first & 0x80 == 0 {
                break;
            }
        }
        value
    }
    let mut found = Vec::new();
    while !message.is_empty() {
        let tag = varint(&mut message);
        let length = match tag & 7 {
            0 => {
                found.push((tag >> 3, varint(&mut message).to_be_bytes().to_vec()));
                continue;
            }
            1 => 8,
            2 => usize::try_from(varint(&mut message)).unwrap(),
            5 => 4,
            other => panic!("no such kind: {other}"),
        };
        let (held, rest) = message.split_at(length);
        found.push((tag >> 3, held.to_vec()));
        message = rest;
    }
    found
}

fn below(message: &[u8], field: u64) -> Vec<Vec<u8>> {
    let found = fields(message).into_iter().filter(|(number, _)| *number == field);
    found.map(|(_, held)| held).collect()
}

#[tokio::test]
async fn a_collector_gets_whole_spans_and_neither_it_nor_the_log_gets_a_secret() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (api, _receiver) = api_with_receiver().await;
    let Heard {
        finished,
        file,
        _listening,
    } = listen(1.0);
    let (collector, posts) = collector(StatusCode::OK).await;
    let stop = CancellationToken::new();
    let exporting = TaskTracker::new().spawn(Exporter::new(collector, finished).unwrap().run(stop.clone()));
    let issued = issue(&api, &[("traceparent", CALLER)]).await;
    let evidence = api.world.evidence("support-bot").await.expose().to_owned();
    let refused = Request::get("/v1/leases").header("authorization", "Bearer stolen-evidence-text");
    assert_eq!(api.send(refused.body(Body::empty()).unwrap()).await.status(), 401);
    stop.cancel();
    exporting.await.unwrap();

    let posts = std::mem::take(&mut *posts.lock().unwrap());
    assert!(!posts.is_empty());
    let mut names = BTreeMap::new();
    for (headers, body) in &posts {
        assert_eq!(headers["content-type"], "application/x-protobuf");
        assert_eq!(headers["x-key"], "collector-key");
        for of_resource in below(body, 1) {
            for scoped in below(&of_resource, 2) {
                for span in below(&scoped, 2) {
                    let name = String::from_utf8(below(&span, 5).remove(0)).unwrap();
                    assert_eq!(below(&span, 1)[0].len(), 16);
                    assert_eq!(below(&span, 2)[0].len(), 8);
                    names.insert(name, span);
                }
            }
        }
    }
    let request = &names["POST /v1/tasks/{id}/credentials"];
    assert_eq!(below(request, 1)[0], TRACE.to_be_bytes());
    assert_eq!(below(request, 4)[0], 0xb7ad_6b71_6920_3331_u64.to_be_bytes());
    let attributes: BTreeMap<String, Vec<u8>> = below(request, 9)
        .iter()
        .map(|pair| {
            let name = String::from_utf8(below(pair, 1).remove(0)).unwrap();
            (name, below(pair, 2).remove(0))
        })
        .collect();
    assert_eq!(below(&attributes["gen_ai.tool.name"], 1), [b"crm".to_vec()]);
    assert_eq!(
        below(&attributes["http.response.status_code"], 3),
        [201_u64.to_be_bytes().to_vec()]
    );

    let token = issued["credential"]["token"].as_str().unwrap();
    let hidden = [
        evidence.rsplit('.').next().unwrap(),
        "stolen-evidence-text",
        "collector-key",
        token,
    ];
    let logs = std::fs::read_to_string(file.path()).unwrap();
    let sent: Vec<u8> = posts.iter().flat_map(|(_, body)| body.to_vec()).collect();
    let sent = String::from_utf8_lossy(&sent);
    for secret in hidden {
        assert!(!sent.contains(secret), "{secret} was sent to the collector");
        assert!(!logs.contains(secret), "{secret} was logged");
    }
    // Nor what somebody said, nor what it was about.
    for word in [PURPOSE, "4711", "anna", "customers"] {
        assert!(!sent.contains(word), "{word}");
    }
}

#[tokio::test]
async fn nobody_waits_for_a_collector_that_is_down_or_refuses() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let page = telemetry::init_metrics().unwrap();
    let dropped = |reason: &str| {
        let start = format!("dayfly_trace_spans_dropped_total{{reason=\"{reason}\"}} ");
        let page = page.render();
        let line = page
            .lines()
            .find_map(|line| line.strip_prefix(&start))
            .unwrap_or("0");
        line.parse::<u64>().unwrap()
    };
    let (before, full) = (dropped("not_taken"), dropped("queue_full"));
    let (collector, posts) = collector(StatusCode::SERVICE_UNAVAILABLE).await;
    let api = Api::new();
    let heard = listen(1.0);
    let stop = CancellationToken::new();
    let exporter = Exporter::new(collector, heard.finished).unwrap();
    let ask = async || {
        let request = Request::get("/healthz").body(Body::empty()).unwrap();
        assert_eq!(api.send(request).await.status(), 200);
    };
    // Nobody takes them out.
    for _ in 0..5000 {
        ask().await;
    }
    assert!(dropped("queue_full") - full >= 5000 - 4096);
    stop.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(20), exporter.run(stop)).await;
    ended.expect("the end is bounded");
    assert!(!posts.lock().unwrap().is_empty());
    assert!(dropped("not_taken") - before >= 4096);
    // Afterwards there is nobody at all.
    ask().await;
}
