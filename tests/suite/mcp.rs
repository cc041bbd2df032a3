//! `dayfly mcp connect`, a process between a client and a server, with a real broker.

mod client;
mod server;

use std::io::{BufRead as _, Write as _};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::http::Method;
use axum::response::{Html, IntoResponse as _};
use futures_util::StreamExt as _;
use serde_json::{Value, json};

use dayfly::clock::{Clock as _, SystemClock};

use crate::process::until;
use client::{Client, House};
use server::{
    SESSION, Seen, Server, answer_to, as_json, broken_events, events, open_events, result_of, status, stream,
};

fn none() -> Value {
    json!({})
}

/// A message as an event.
fn event(id: &str, message: &Value) -> String {
    format!("id: {id}\ndata: {message}\n\n")
}

fn note(text: &str) -> Value {
    json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": text}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conversation_goes_through_with_a_token_at_each_request_and_ends_everywhere() {
    let server = Server::start(|seen| match (&seen.verb, seen.method()) {
        (&Method::GET, _) => Some(open_events(event("g1", &note("by itself")))),
        (_, "tools/call") => Some(events(format!(
            "{}{}",
            event("1", &note("half done")),
            event("2", &answer_to(seen, &json!({"content": []})))
        ))),
        _ => None,
    })
    .await;
    let house = House::for_server(&server).await;
    // As a client is told to start it.
    let mut config = Command::new(env!("CARGO_BIN_EXE_dayfly"));
    config
        .args(["mcp", "config"])
        .args(house.flags(&server.url(), &[]).await);
    let config = config.output().unwrap();
    let config: Value = serde_json::from_slice(&config.stdout).unwrap();
    let entry = &config["mcpServers"]["crm"];
    let arguments: Vec<String> = serde_json::from_value(entry["args"].clone()).unwrap();
    let mut client = Client::start(entry["command"].as_str().unwrap(), &arguments);

    client.initialize().await;
    assert_eq!(client.hear().await, note("by itself"));
    let call = json!({"name": "look_up", "arguments": {"customer": 42}});
    client.ask(1, "tools/call", &call);
    assert_eq!(client.hear().await, note("half done"));
    assert_eq!(client.hear().await["result"], json!({"content": []}));

    let seen = server.seen();
    let token = seen[0].token();
    assert!(
        seen.iter().all(|seen| seen.token() == token),
        "one token serves while it is good"
    );
    assert!(house.is_active(&token).await);
    let asked = |method: &str| server.asked(method).remove(0);
    assert_eq!(asked("initialize").header("mcp-session-id"), None);
    assert_eq!(asked("initialize").header("mcp-protocol-version"), None);
    let called = asked("tools/call");
    assert_eq!(called.body["params"], call);
    assert_eq!(
        called.header("accept"),
        Some("application/json, text/event-stream")
    );
    assert_eq!(called.header("content-type"), Some("application/json"));
    assert_eq!(called.header("mcp-session-id"), Some(SESSION));
    assert_eq!(called.header("mcp-protocol-version"), Some("2025-11-25"));
    assert_eq!(
        called.header("mcp-method"),
        None,
        "a header that this version does not know"
    );
    let listened = server.with(&Method::GET).remove(0);
    assert_eq!(listened.header("accept"), Some("text/event-stream"));
    assert_eq!(listened.header("mcp-session-id"), Some(SESSION));

    let process = std::fs::read(format!("/proc/{}/cmdline", client.id())).unwrap();
    assert!(!process.is_empty());
    // For nobody but root to be read.
    let environment = std::fs::read(format!("/proc/{}/environ", client.id())).unwrap_or_default();
    let process = [process, environment].concat();
    assert!(!String::from_utf8_lossy(&process).contains("eyJ"));
    let task = house.task().await;
    assert_eq!(house.state_of(&task).await.0, "open");
    // It takes leave for a second, and tells the end for two. A machine that is too busy for that is no defect: where
    // something is missing it is tried again.
    let mut notes = client.leave().await;
    for _ in 0..4 {
        if notes.is_empty() && !server.with(&Method::DELETE).is_empty() {
            break;
        }
        let mut again = house.connect(&server, &[]).await;
        again.initialize().await;
        notes = again.leave().await;
    }
    assert_eq!(notes, "");
    let left = server.with(&Method::DELETE);
    assert_eq!(left[0].header("mcp-session-id"), Some(SESSION));
    house.ends_as(&task, "completed").await;
    assert!(!house.is_active(&token).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_renewed_before_it_expires() {
    let server = Server::start(|_| None).await;
    let origin = server.origin.clone();
    let house = House::with_crm(|text| {
        text.replace(
            "default_ttl = \"5m\"",
            &format!("default_ttl = \"10s\"\norigins = [\"{origin}\"]"),
        )
    })
    .await;
    let mut client = house.connect(&server, &[]).await;
    client.initialize().await;
    let first = server.seen()[0].token();
    let mut id = 0;
    let second = until("another token", async || {
        id += 1;
        client.call(id, "ping", &none()).await;
        let asked = server.asked("ping").pop().unwrap();
        let token = asked.token();
        // Never one that is past its time. What the broker says of it comes later.
        assert!(asked.at < asked.token_expires_at());
        let active = house.is_active(&token).await;
        assert!(active || asked.token_expires_at() <= SystemClock::new().now());
        (token != first).then_some(token)
    })
    .await;
    assert!(!second.is_empty());
    let records = house.site.records();
    assert!(
        records.iter().any(|record| record["verb"] == "renew"),
        "the lease lives on"
    );
    client.leave().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_the_server_refuses_is_replaced_once() {
    let refused = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&refused);
    let server = Server::start(move |seen| match seen.method() {
        "ping" if count.fetch_add(1, Ordering::SeqCst) == 0 => Some(status(401)),
        "never" => {
            let mut refusal = as_json(401, r#"{"error":"invalid_token"}"#);
            let challenge = format!("Bearer error=\"invalid_token\", got=\"{}\"", seen.token());
            refusal
                .headers_mut()
                .insert("www-authenticate", challenge.parse().unwrap());
            Some(refusal)
        }
        _ => None,
    })
    .await;
    let house = House::for_server(&server).await;
    let mut client = house.connect(&server, &[]).await;
    client.initialize().await;
    assert_eq!(client.call(1, "ping", &none()).await["result"], json!({}));
    let tokens: Vec<String> = server.asked("ping").iter().map(Seen::token).collect();
    assert_eq!(tokens.len(), 2);
    assert_ne!(tokens[0], tokens[1]);
    assert!(house.is_active(&tokens[1]).await);

    let answer = client.call(2, "never", &none()).await;
    assert_eq!(server.asked("never").len(), 2, "once more, and no more than that");
    assert_eq!(answer["error"]["code"], 50201);
    assert_eq!(answer["error"]["data"]["status"], 401);
    assert_eq!(
        answer["error"]["data"]["challenge"],
        "Bearer error=\"invalid_token\", got=\"[redacted]\""
    );
    assert_eq!(
        client.call(3, "ping", &none()).await["result"],
        json!({}),
        "the bridge lives"
    );
    client.leave().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redirect_is_not_followed_and_the_token_goes_nowhere_else() {
    let elsewhere = Server::start(|_| None).await;
    let place = elsewhere.url();
    let server = Server::start(move |seen| {
        let mut response = status(if seen.method() == "ping" { 307 } else { 302 });
        response.headers_mut().insert("location", place.parse().unwrap());
        Some(response)
    })
    .await;
    let house = House::for_server(&server).await;
    let mut client = house.connect(&server, &[]).await;
    for (id, method) in [(1, "ping"), (2, "tools/list")] {
        let answer = client.call(id, method, &none()).await;
        assert_eq!(answer["error"]["code"], 50201);
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(message.contains(&elsewhere.origin), "{message}");
    }
    client.leave().await;
    assert_eq!(elsewhere.seen().len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_the_catalogue_does_not_name_gets_no_token() {
    let server = Server::start(|_| None).await;
    let house = House::with_crm(|text| text).await;
    let output = house.refused(&server, &[]).await;
    let notes = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{notes}");
    assert!(output.stdout.is_empty());
    let wanted = format!("origins = [\"https://crm.example.org\", \"{}\"]", server.origin);
    assert!(notes.contains(&wanted), "{notes}");
    assert_eq!(server.seen().len(), 0);
    let task = house.task().await;
    assert_eq!(house.state_of(&task).await.0, "ended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_breaks_is_resumed_where_it_can_be() {
    let server = Server::start(|seen| match (&seen.verb, seen.method()) {
        (&Method::GET, _) => {
            let after = seen.header("last-event-id")?;
            assert_eq!(after, "e1");
            let answer = json!({"jsonrpc": "2.0", "id": 1, "result": {"whole": true}});
            Some(events(format!(
                "{}{}",
                event("e2", &note("second")),
                event("e3", &answer)
            )))
        }
        (_, "resumable") => Some(broken_events(format!(
            "retry: 10\n{}id: e2\ndata: {{",
            event("e1", &note("first"))
        ))),
        (_, "closed") => Some(events(format!("data: {}\n\n", note("only")))),
        (_, "broken") => Some(broken_events("data: {")),
        _ => None,
    })
    .await;
    let house = House::for_server(&server).await;
    let mut client = house.connect(&server, &[]).await;
    client.initialize().await;
    client.ask(1, "resumable", &none());
    assert_eq!(client.hear().await, note("first"));
    assert_eq!(client.hear().await, note("second"));
    assert_eq!(client.hear().await["result"], json!({"whole": true}));
    let resumed = server.with(&Method::GET);
    let resumed = resumed
        .iter()
        .find(|seen| seen.header("last-event-id").is_some())
        .unwrap();
    assert_eq!(resumed.header("mcp-session-id"), Some(SESSION));

    client.ask(2, "closed", &none());
    assert_eq!(client.hear().await, note("only"));
    assert_eq!(client.hear().await["error"]["code"], 50201);
    assert_eq!(client.call(3, "broken", &none()).await["error"]["code"], 50202);
    client.leave().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_of_the_server_becomes_an_answer_and_not_a_dead_bridge() {
    let server = Server::start(|seen| {
        let other = |id: Value| json!({"jsonrpc": "2.0", "id": id, "result": {}}).to_string();
        Some(match seen.method() {
            "no json" => as_json(200, "{\"jsonrpc\":"),
            "html" => Html("<p>hello</p>").into_response(),
            "accepted" => status(202),
            "other id" => as_json(200, &other(json!(77))),
            "null id" => as_json(
                200,
                r#"{"jsonrpc":"2.0","id":null,"error":{"code":-1,"message":"no"}}"#,
            ),
            "too large" => as_json(200, &" ".repeat(4 * 1024 * 1024 + 1)),
            "large event" => events(format!("data: {}\n\n", "x".repeat(4 * 1024 * 1024 + 1))),
            "500" => status(500),
            "told" => as_json(
                400,
                r#"{"jsonrpc":"2.0","error":{"code":-32020,"message":"told","data":[1]}}"#,
            ),
            "bad events" => events(format!(
                "data: nonsense\n\nevent: other\ndata: {{}}\n\ndata: {}\n\ndata: {}\n\n",
                other(json!("not yours")),
                answer_to(seen, &json!({"fine": true}))
            )),
            "many lines" => as_json(
                200,
                &serde_json::to_string_pretty(&answer_to(seen, &json!({"a": "b\nc"}))).unwrap(),
            ),
            "batch" => as_json(
                200,
                &json!([note("with it"), answer_to(seen, &json!({}))]).to_string(),
            ),
            "echo" => result_of(seen, &json!({"got": seen.header("authorization")})),
            _ => return None,
        })
    })
    .await;
    let house = House::for_server(&server).await;
    let mut client = house.connect(&server, &[]).await;
    client.initialize().await;
    for (id, method) in [
        "no json",
        "html",
        "accepted",
        "other id",
        "too large",
        "large event",
        "500",
    ]
    .iter()
    .enumerate()
    {
        let answer = client.call(id as u64, method, &none()).await;
        assert_eq!(answer["error"]["code"], 50201, "{method}: {answer}");
        assert_eq!(answer["error"]["data"]["type"], "server");
    }
    assert_eq!(
        client.call(20, "null id", &none()).await["error"],
        json!({"code": -1, "message": "no"})
    );
    let told = json!({"code": -32020, "message": "told", "data": [1]});
    assert_eq!(
        client.call(21, "told", &none()).await["error"],
        told,
        "in its own words"
    );
    assert_eq!(
        client.call(22, "bad events", &none()).await["result"],
        json!({"fine": true})
    );
    assert_eq!(
        client.call(23, "many lines", &none()).await["result"],
        json!({"a": "b\nc"})
    );
    client.ask(24, "batch", &none());
    assert_eq!(client.hear().await, note("with it"));
    assert_eq!(client.hear().await["id"], 24);
    let echoed = client.call(25, "echo", &none()).await;
    assert_eq!(echoed["result"]["got"], "Bearer [redacted]");
    client.leave().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_of_the_client_is_answered_and_sent_to_nobody() {
    let server = Server::start(|_| None).await;
    let house = House::for_server(&server).await;
    let mut client = house.connect(&server, &[]).await;
    client.write("hello");
    assert_eq!(client.hear().await["error"]["code"], -32700);
    client.write("");
    client.write(r#"{"jsonrpc":"2.0","id":1,"method":"a","method":"b"}"#);
    assert_eq!(client.hear().await["error"]["code"], -32600);
    let large = "x".repeat(4 * 1024 * 1024);
    let answer = client.call(2, "tools/call", &json!({ "a": large })).await;
    assert_eq!(answer["error"]["code"], -32600);
    assert_eq!(server.seen().len(), 0);
    // Large, and not too large.
    let just = "x".repeat(4 * 1024 * 1024 - 1000);
    assert_eq!(
        client.call(3, "tools/call", &json!({ "a": just })).await["result"],
        json!({})
    );
    client.write(r#"[{"jsonrpc":"2.0","id":4,"method":"ping"},{"jsonrpc":"2.0","id":"5","method":"ping"}]"#);
    let mut answered = [
        client.hear().await["id"].to_string(),
        client.hear().await["id"].to_string(),
    ];
    answered.sort();
    assert_eq!(answered, ["\"5\"", "4"]);
    client.leave().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denial_and_a_missing_approval_are_answers() {
    let server = Server::start(|_| None).await;
    let house = House::for_server(&server).await;
    for (access, code, kind) in [
        ("crm:delete@customers/42", 40301, "denied"),
        ("crm:export@customers/42", 40302, "approval-required"),
    ] {
        let mut client = house.connect(&server, &["--access", access]).await;
        for id in 1..3 {
            let error = client.call(id, "tools/list", &none()).await["error"].clone();
            assert_eq!(error["code"], code, "{error}");
            assert_eq!(error["data"]["type"], kind);
            assert!(
                error["data"]["decision"]
                    .as_str()
                    .is_some_and(|decision| !decision.is_empty()),
                "{error}"
            );
            assert!(
                error["data"]["reason"]
                    .as_str()
                    .is_some_and(|reason| !reason.is_empty()),
                "{error}"
            );
        }
        client.leave().await;
    }
    assert_eq!(server.seen().len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_task_is_ended_elsewhere_what_is_under_way_is_answered_at_once() {
    let server = Server::start(|seen| (seen.method() == "slow").then(|| open_events(": wait\n\n"))).await;
    let house = House::for_server(&server).await;
    let mut client = house.connect(&server, &["--heartbeat", "10s"]).await;
    client.initialize().await;
    client.ask(1, "slow", &none());
    until("the request", async || {
        (!server.asked("slow").is_empty()).then_some(())
    })
    .await;
    let task = house.task().await;
    let console = house.api("ops-console").await;
    let order = json!({"reason": "it does what nobody asked for"});
    let (answered, _) = console
        .post(&format!("/v1/tasks/{task}/revoke"), &order)
        .await
        .unwrap();
    assert_eq!(answered, 200);
    let answer = client.hear().await;
    assert_eq!(answer["id"], 1);
    assert_eq!(answer["error"]["code"], 40901);
    assert_eq!(answer["error"]["data"]["type"], "task-ended");
    assert_eq!(answer["error"]["data"]["outcome"], "revoked");
    let before = server.seen().len();
    assert_eq!(client.call(2, "ping", &none()).await["error"]["code"], 40901);
    assert_eq!(server.seen().len(), before, "no request goes out without a task");
    client.leave().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspended_task_gives_no_token_until_it_resumes() {
    let known = Arc::new(Mutex::new(Vec::<String>::new()));
    let seen_before = Arc::clone(&known);
    // As a server does that follows the feed: a token from before is refused.
    let server = Server::start(move |seen| {
        let refused = seen_before.lock().unwrap().contains(&seen.token());
        refused.then(|| status(401))
    })
    .await;
    let house = House::for_server(&server).await;
    let mut client = house.connect(&server, &[]).await;
    client.initialize().await;
    let task = house.task().await;
    house.tell(&task, "suspend").await;
    known.lock().unwrap().push(server.seen()[0].token());
    let error = client.call(1, "ping", &none()).await["error"].clone();
    assert_eq!(error["code"], 40902, "{error}");
    house.tell(&task, "resume").await;
    // All at once: whoever takes it up second does not end what the first one took up.
    for id in 2..10 {
        client.ask(id, "ping", &none());
    }
    for _ in 2..10 {
        assert_eq!(client.hear().await["result"], json!({}));
    }
    assert_eq!(client.call(10, "ping", &none()).await["result"], json!({}));
    client.leave().await;
    house.ends_as(&task, "completed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_completes_a_task_that_is_suspended() {
    // As a server does that follows the feed.
    let server = Server::start(|seen| (seen.method() == "ping").then(|| status(401))).await;
    let house = House::for_server(&server).await;
    let mut client = house.connect(&server, &[]).await;
    client.initialize().await;
    let task = house.task().await;
    house.tell(&task, "suspend").await;
    // From now on the bridge knows it.
    assert_eq!(client.call(1, "ping", &none()).await["error"]["code"], 40902);
    client.leave().await;
    house.ends_as(&task, "completed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_reads_nothing_keeps_no_bridge_from_stopping() {
    let server = Server::start(|seen| (seen.method() == "fails").then(|| status(500))).await;
    let house = House::for_server(&server).await;
    let mut child = Command::new(env!("CARGO_BIN_EXE_dayfly"))
        .args(house.arguments(&server, &[]).await)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let asking = std::thread::Builder::new().spawn(move || {
        for number in 0..4000 {
            let id = format!("{number:02000}");
            let request = json!({"jsonrpc": "2.0", "id": id, "method": "fails"});
            if writeln!(stdin, "{request}").is_err() {
                break;
            }
        }
    });
    // About what a pipe holds of these, so that nothing more can be written.
    let stdout = child.stdout.take().unwrap();
    until("a full pipe", async || {
        (rustix::io::ioctl_fionread(&stdout).unwrap() > 30_000).then_some(())
    })
    .await;
    let task = house.task().await;
    let id = i32::try_from(child.id()).unwrap();
    let id = rustix::process::Pid::from_raw(id).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
    let ended = until("the end of the bridge", async || child.try_wait().unwrap()).await;
    assert!(ended.success(), "{ended}");
    asking.unwrap().join().unwrap();
    house.ends_as(&task, "completed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn notes_that_nobody_reads_hold_nothing_up() {
    let server = Server::start(|seen| {
        (seen.method() == "flood").then(|| {
            // More than a pipe holds, several times over.
            let unasked = json!({"jsonrpc": "2.0", "id": "nobody's", "result": {}});
            let last = format!("data: {}\n\n", answer_to(seen, &json!({"last": true})));
            events(format!("data: {unasked}\n\n").repeat(10_000) + &last)
        })
    })
    .await;
    let house = House::for_server(&server).await;
    let mut client = Client::start_unread(env!("CARGO_BIN_EXE_dayfly"), &house.arguments(&server, &[]).await);
    for id in 1..6 {
        let answer = client.call(id, "flood", &none()).await;
        assert_eq!(answer["result"], json!({"last": true}), "{answer}");
    }
    let task = house.task().await;
    client.terminate();
    assert_eq!(client.ended().await.code, Some(0));
    house.ends_as(&task, "completed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_the_server_ends_ends_the_bridge() {
    let server = Server::start(|seen| match seen.method() {
        "slow" => Some(open_events(": wait\n\n")),
        "gone" => Some(status(404)),
        _ => None,
    })
    .await;
    let house = House::for_server(&server).await;
    let mut client = house.connect(&server, &[]).await;
    client.initialize().await;
    client.ask(1, "slow", &none());
    until("the request", async || {
        (!server.asked("slow").is_empty()).then_some(())
    })
    .await;
    client.ask(2, "gone", &none());
    let answers = [client.hear().await, client.hear().await];
    assert!(
        answers
            .iter()
            .all(|answer| answer["error"]["data"]["status"] == 404),
        "{answers:?}"
    );
    let ended = client.ended().await;
    assert_eq!(ended.code, Some(1), "{}", ended.notes);
    assert_eq!(server.with(&Method::DELETE).len(), 0);
    house.ends_as(&house.task().await, "failed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bridge_that_is_told_to_stop_leaves_the_session_and_completes_the_task() {
    let server = Server::start(|seen| (seen.method() == "slow").then(|| open_events(": wait\n\n"))).await;
    let house = House::for_server(&server).await;
    // It takes leave for a second, for which a machine may be too busy once.
    for attempt in 1..6 {
        let mut client = house.connect(&server, &[]).await;
        client.initialize().await;
        client.ask(1, "slow", &none());
        until("the request", async || {
            (server.asked("slow").len() == attempt).then_some(())
        })
        .await;
        client.terminate();
        let ended = client.ended().await;
        assert_eq!(ended.code, Some(0), "{}", ended.notes);
        house.ends_as(&house.task().await, "completed").await;
        if !server.with(&Method::DELETE).is_empty() {
            return;
        }
    }
    panic!("the session was not left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_many_requests_are_under_way_and_one_that_is_called_off_makes_room() {
    let server = Server::start(|seen| (seen.method() == "slow").then(|| open_events(": wait\n\n"))).await;
    let house = House::for_server(&server).await;
    let mut client = house.connect(&server, &[]).await;
    client.initialize().await;
    for id in 1..=64 {
        client.ask(id, "slow", &none());
    }
    let answer = client.call(65, "slow", &none()).await;
    assert_eq!(answer["error"]["code"], 42901);
    // In this version it is said, since to hang up means nothing.
    client.tell("notifications/cancelled", &json!({"requestId": 7}));
    until("the cancellation", async || {
        (!server.asked("notifications/cancelled").is_empty()).then_some(())
    })
    .await;
    let mut id = 100;
    until("room", async || {
        id += 1;
        let answer = client.call(id, "ping", &none()).await;
        answer.get("result").map(|_| ())
    })
    .await;
    assert_eq!(server.asked("slow").len(), 64);
    client.leave().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_without_sessions_says_what_it_asks_in_headers_and_hangs_up_to_cancel() {
    let hung_up = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&hung_up);
    struct Open(Arc<AtomicUsize>);
    impl Drop for Open {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let server = Server::start(move |seen| match seen.method() {
        "subscriptions/listen" => {
            let open = Open(Arc::clone(&count));
            let parts = tokio_stream::once(": wait\n\n".to_owned()).chain(tokio_stream::pending());
            Some(stream(parts.map(move |part| {
                let _until_it_is_dropped = &open;
                part
            })))
        }
        "tools/call" if seen.header("mcp-name") == Some("broken") => {
            Some(broken_events("id: 1\ndata: {}\n\n"))
        }
        _ => None,
    })
    .await;
    let house = House::for_server(&server).await;
    let mut client = house.connect(&server, &[]).await;
    let meta = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28"});
    assert_eq!(
        client.call(1, "server/discover", &json!({"_meta": meta})).await["result"],
        json!({})
    );
    client
        .call(2, "tools/call", &json!({"name": "größe", "_meta": meta}))
        .await;
    let called = server.asked("tools/call").remove(0);
    assert_eq!(called.header("mcp-protocol-version"), Some("2026-07-28"));
    assert_eq!(called.header("mcp-method"), Some("tools/call"));
    assert_eq!(called.header("mcp-name"), Some("=?base64?Z3LDtsOfZQ==?="));
    assert_eq!(called.header("mcp-session-id"), None);

    client.ask(3, "subscriptions/listen", &json!({"_meta": meta}));
    until("the stream", async || {
        (!server.asked("subscriptions/listen").is_empty()).then_some(())
    })
    .await;
    client.tell("notifications/cancelled", &json!({"requestId": 3}));
    until("the end of the stream", async || {
        (hung_up.load(Ordering::SeqCst) == 1).then_some(())
    })
    .await;
    // What breaks is not resumed, since it cannot be.
    let answer = client
        .call(4, "tools/call", &json!({"name": "broken", "_meta": meta}))
        .await;
    assert_eq!(answer["error"]["code"], 50202);
    client.leave().await;
    assert_eq!(server.asked("notifications/cancelled").len(), 0);
    assert_eq!(
        server.with(&Method::GET).len() + server.with(&Method::DELETE).len(),
        0
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_holds_the_server_up() {
    const EVENTS: usize = 120;
    const SIZE: usize = 512 * 1024;
    let made = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&made);
    let server = Server::start(move |seen| {
        (seen.method() == "flood").then(|| {
            let count = Arc::clone(&count);
            let last = format!("data: {}\n\n", answer_to(seen, &json!({})));
            let padding = "x".repeat(SIZE);
            let parts = (0..EVENTS).map(move |number| {
                count.fetch_add(1, Ordering::SeqCst);
                format!(
                    "data: {}\n\n",
                    json!({"jsonrpc": "2.0", "method": "n", "params": {"n": number, "p": padding}})
                )
            });
            stream(tokio_stream::iter(parts.chain([last])))
        })
    })
    .await;
    let house = House::for_server(&server).await;
    let mut child = Command::new(env!("CARGO_BIN_EXE_dayfly"))
        .args(house.arguments(&server, &[]).await)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    writeln!(stdin, "{}", json!({"jsonrpc": "2.0", "id": 1, "method": "flood"})).unwrap();
    let stdout = child.stdout.take().unwrap();
    let mut before = (0, 0);
    until("a standstill", async || {
        // The pipe is full: it stands still because of who does not read, and not because it has not come so far.
        let full = rustix::io::ioctl_fionread(&stdout).unwrap() > 60_000;
        let now = made.load(Ordering::SeqCst) * usize::from(full);
        before = match before {
            (last, times) if last == now && now > 0 => (now, times + 1),
            _ => (now, 0),
        };
        (before.1 > 100).then_some(())
    })
    .await;
    let standing = made.load(Ordering::SeqCst);
    assert!(
        standing < EVENTS - 20,
        "{standing} of {EVENTS} were taken, and nobody reads"
    );
    let stdout = std::io::BufReader::new(stdout);
    let lines: Vec<usize> = tokio::task::spawn_blocking(move || {
        stdout
            .lines()
            .take(EVENTS + 1)
            .map(|line| line.unwrap().len())
            .collect()
    })
    .await
    .unwrap();
    assert_eq!(lines.len(), EVENTS + 1);
    drop(stdin);
    assert!(child.wait().unwrap().success());
}
