//! The API as its callers see it: who gets in, what they get, and the shape of every refusal.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode, header};
use axum::response::Response;
use dayfly::http::{self, HttpState, IDEMPOTENCY_KEY, Limits, REQUEST_ID};
use dayfly::journal::record::{Result as Outcome, Verb};
use dayfly::model::fact::MOST_OF_ONE;
use dayfly::telemetry;
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::world::gated::{Gated, Slow};
use crate::world::vending::Vending;
use crate::world::{ISSUER, Plan, World};

pub(crate) struct Api {
    pub(crate) world: World,
    pub(crate) router: Router,
    stop: CancellationToken,
}

impl Api {
    pub(crate) fn new() -> Self {
        Self::of(World::new())
    }

    pub(crate) fn of(world: World) -> Self {
        let (keys, stop) = (Arc::clone(&world.keys), CancellationToken::new());
        let state = HttpState {
            broker: Arc::clone(&world.broker),
            streams: Arc::default(),
            jwks: Arc::new(move || keys.jwks()),
            issuer: ISSUER.into(),
            metrics: telemetry::init_metrics().unwrap(),
            tracker: TaskTracker::new(),
            stop: stop.clone(),
        };
        let limits = Limits {
            body: 4096,
            concurrency: NonZeroUsize::new(8).unwrap(),
            request: Duration::from_secs(10),
            drain: Duration::from_secs(1),
        };
        let router = http::router(state, &limits);
        Self { world, router, stop }
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Response {
        self.router.clone().oneshot(request).await.unwrap()
    }

    async fn request(&self, agent: &str, method: &str, path: &str, body: Option<Value>) -> Request<Body> {
        let evidence = format!("Bearer {}", self.world.evidence(agent).await.expose());
        let builder = Request::builder()
            .method(method)
            .uri(path)
            .header(header::AUTHORIZATION, evidence);
        match body {
            Some(body) => builder
                .header(header::CONTENT_TYPE, "application/json")
                .body(body.to_string().into()),
            None => builder.body(Body::empty()),
        }
        .unwrap()
    }

    pub(crate) async fn get(&self, agent: &str, path: &str) -> (StatusCode, Value) {
        read(self.send(self.request(agent, "GET", path, None).await).await).await
    }

    pub(crate) async fn post(&self, agent: &str, path: &str, body: Value) -> (StatusCode, Value) {
        read(
            self.send(self.request(agent, "POST", path, Some(body)).await)
                .await,
        )
        .await
    }

    /// A task of support-bot that may read the CRM.
    pub(crate) async fn open(&self) -> String {
        let body = json!({"purpose": "answer ticket 4711", "scope": [{"tool": "crm", "actions": ["read"]}]});
        let (status, task) = self.post("support-bot", "/v1/tasks", body).await;
        assert_eq!(status, 201, "{task}");
        task["id"].as_str().unwrap().to_owned()
    }
}

pub(crate) async fn read(response: Response) -> (StatusCode, Value) {
    let status = response.status();
    let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
}

fn slug(problem: &Value) -> &str {
    problem["type"].as_str().unwrap().rsplit('/').next().unwrap()
}

#[tokio::test]
async fn every_route_that_is_not_public_asks_for_evidence_before_anything_else() {
    let api = Api::new();
    let described: Value = serde_json::from_str(&http::openapi()).unwrap();
    let stranger = format!("Bearer {}", api.world.evidence_of("nobody").await.expose());
    let mut asked = 0;
    for (path, item) in described["paths"]
        .as_object()
        .unwrap()
        .iter()
        .filter(|(path, _)| path.starts_with("/v1/") || path.starts_with("/oauth2/"))
        // Transmitters prove themselves by other means, and status lists are for everybody.
        .filter(|(path, _)| !path.starts_with("/v1/signals/") && !path.starts_with("/v1/status-lists"))
    {
        // At its endpoints OAuth has words of its own, and beside them the kind of the problem.
        let refusal = |problem: &Value| match path.starts_with("/oauth2/") {
            true => {
                let uri = problem["error_uri"].as_str().unwrap();
                let slug = uri.rsplit('/').next().unwrap().to_owned();
                (slug, problem["error"].as_str().map(str::to_owned))
            }
            false => (slug(problem).to_owned(), None),
        };
        let worded = |slug: &str, error: &str| {
            let oauth = path.starts_with("/oauth2/");
            (slug.to_owned(), oauth.then(|| error.to_owned()))
        };
        for method in item.as_object().unwrap().keys() {
            let path = path.replace("{id}", "x").replace("{name}", "x");
            let request = || {
                Request::builder()
                    .method(method.to_uppercase().as_str())
                    .uri(&path)
            };
            let response = api.send(request().body(Body::empty()).unwrap()).await;
            assert_eq!(
                response.headers()[header::WWW_AUTHENTICATE],
                "Bearer",
                "{method} {path}"
            );
            let (status, problem) = read(response).await;
            assert_eq!(
                (status.as_u16(), refusal(&problem)),
                (401, worded("unidentified", "invalid_client")),
                "{method} {path}"
            );
            let known = request()
                .header(header::AUTHORIZATION, &stranger)
                .body(Body::empty())
                .unwrap();
            let (status, problem) = read(api.send(known).await).await;
            assert_eq!(
                (status.as_u16(), refusal(&problem)),
                (403, worded("not-admitted", "access_denied")),
                "{method} {path}"
            );
            asked += 1;
        }
    }
    assert_eq!(asked, 34);
    assert_eq!(
        api.world.records(Verb::Attest).len(),
        1,
        "one stranger is one sighting"
    );
}

#[tokio::test]
async fn a_credential_lives_and_ends_over_http() {
    let api = Api::new();
    let task = api.open().await;
    let path = format!("/v1/tasks/{task}/credentials");
    let ask = json!({"tool": "crm", "actions": ["read"], "resources": ["customers/42"], "ttl": "1h"});
    let response = api
        .send(api.request("support-bot", "POST", &path, Some(ask)).await)
        .await;
    assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
    assert!(
        response.headers()[REQUEST_ID]
            .to_str()
            .unwrap()
            .starts_with("req_")
    );
    let (status, issued) = read(response).await;
    assert_eq!(status, 201, "{issued}");
    assert_eq!(issued["credential"]["type"], "bearer_token");
    assert_eq!(
        (&issued["requested"], &issued["bounded_by"]),
        (&json!(3600), &json!("policy"))
    );
    assert_eq!(issued["origins"], json!(["https://crm.example.org"]));
    let lease = format!("/v1/leases/{}", issued["lease"]["id"].as_str().unwrap());
    let (_, renewed) = api
        .post("support-bot", &format!("{lease}/renew"), json!({}))
        .await;
    assert_eq!(renewed["origins"], issued["origins"], "{renewed}");
    let (_, shown) = api.get("support-bot", &lease).await;
    assert_eq!(shown["state"], "active");
    assert!(
        !shown
            .to_string()
            .contains(issued["credential"]["token"].as_str().unwrap())
    );

    let (status, ended) = api
        .post(
            "support-bot",
            &format!("/v1/tasks/{task}/complete"),
            json!({"outcome": "completed"}),
        )
        .await;
    assert_eq!(
        (status.as_u16(), &ended["task"]["outcome"]),
        (200, &json!("completed")),
        "{ended}"
    );
    assert_eq!(
        (&ended["settled"], &ended["leases"][0]["cause"]),
        (&json!(false), &json!("task_completed"))
    );
    api.world.reap().await;
    let (_, shown) = api.get("support-bot", &lease).await;
    assert_eq!(
        (&shown["state"], &shown["proof"]),
        (&json!("ended"), &json!("denied_at"))
    );
    let (status, problem) = api
        .post("support-bot", &path, json!({"tool": "crm", "actions": ["read"]}))
        .await;
    assert_eq!((status.as_u16(), slug(&problem)), (409, "task-not-open"));
}

/// An API on a ledger that lets one kind of call wait until it is released.
fn slow_at(call: &'static str) -> (Api, Arc<Slow>) {
    let slow = Slow::at(call);
    let gate = slow.clone();
    let api = Api::of(World::of(Plan {
        ledger: Box::new(|ledger| Arc::new(Gated { ledger, gate })),
        ..Plan::default()
    }));
    (api, slow)
}

#[tokio::test]
async fn strangers_have_places_of_their_own() {
    let (api, _slow) = slow_at("ping");
    let ask = |path: &str| api.send(Request::get(path).body(Body::empty()).unwrap());
    let mut asking: Vec<_> = (0..8).map(|_| Box::pin(ask("/readyz"))).collect();
    for asked in &mut asking {
        assert!(futures_util::poll!(asked.as_mut()).is_pending());
    }
    let (status, problem) = read(ask("/readyz").await).await;
    assert_eq!((status.as_u16(), slug(&problem)), (503, "busy"));
    assert_eq!(ask("/healthz").await.status(), 200);
    api.open().await;
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_no_room_for_more_until_its_work_is_done() {
    let (api, slow) = slow_at("open");
    let body = json!({"purpose": "answer ticket 4711", "scope": [{"tool": "crm", "actions": ["read"]}]});
    for _ in 0..8 {
        let request = api
            .request("support-bot", "POST", "/v1/tasks", Some(body.clone()))
            .await;
        let mut asking = Box::pin(api.send(request));
        tokio::select! {
            response = &mut asking => panic!("{}", response.status()),
            inside = slow.inside.acquire() => inside.unwrap().forget(),
        }
    }
    let (status, problem) = api.post("support-bot", "/v1/tasks", body.clone()).await;
    assert_eq!((status.as_u16(), slug(&problem)), (503, "busy"));
    slow.released.add_permits(100);
    loop {
        let (status, _) = api.post("support-bot", "/v1/tasks", body.clone()).await;
        if status == 201 {
            break;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_stuck_lease_is_listed_retried_and_abandoned_over_http() {
    let machine = Arc::new(Vending::default());
    let api = Api::of(World::of(Plan {
        provider: Some(machine.clone()),
        ..Plan::default()
    }));
    let task = api.open().await;
    let ask = json!({"tool": "crm", "actions": ["read"]});
    let (_, issued) = api
        .post("support-bot", &format!("/v1/tasks/{task}/credentials"), ask)
        .await;
    let lease = format!("/v1/leases/{}", issued["lease"]["id"].as_str().unwrap());
    let (retry, abandon) = (format!("{lease}/retry"), format!("{lease}/abandon"));
    let reason = json!({"reason": "the machine was scrapped"});
    for path in [&retry, &abandon] {
        let (status, problem) = api.post("ops-console", path, reason.clone()).await;
        assert_eq!(
            (status.as_u16(), slug(&problem)),
            (409, "lease-not-stuck"),
            "{path}"
        );
    }
    machine.refuse(true);
    api.post("support-bot", &format!("{lease}/revoke"), json!({}))
        .await;
    api.world.reap().await;

    let (_, page) = api.get("ops-console", "/v1/leases?agent=*&state=stuck").await;
    let stuck = &page["leases"][0];
    assert_eq!(
        (&stuck["attempts"], &stuck["cause"]),
        (&json!(1), &json!("revoked"))
    );
    assert!(stuck["last_error"].as_str().unwrap().contains("takes no orders"));
    let next = api.world.now().plus(Duration::from_secs(300)).to_string();
    assert_eq!(stuck["next_attempt_at"], next);
    let (status, retried) = api.post("ops-console", &retry, json!({})).await;
    assert_eq!(status, 200, "{retried}");
    assert_eq!(retried["next_attempt_at"], api.world.now().to_string());

    for path in [&retry, &abandon] {
        let (status, problem) = api.post("support-bot", path, reason.clone()).await;
        assert_eq!((status.as_u16(), slug(&problem)), (403, "denied"), "{path}");
        let (status, problem) = api.post("report-bot", path, reason.clone()).await;
        assert_eq!((status.as_u16(), slug(&problem)), (404, "not-found"), "{path}");
    }
    for bad in [
        json!({}),
        json!({"reason": " "}),
        json!({"reason": "x".repeat(513)}),
    ] {
        let (status, problem) = api.post("ops-console", &abandon, bad).await;
        assert_eq!((status.as_u16(), slug(&problem)), (422, "invalid-field"));
    }
    let (status, abandoned) = api.post("ops-console", &abandon, reason).await;
    assert_eq!(status, 200, "{abandoned}");
    assert_eq!(
        (&abandoned["state"], &abandoned["proof"]),
        (&json!("ended"), &json!("abandoned"))
    );
    assert!(abandoned.get("next_attempt_at").is_none());
}

#[tokio::test]
async fn what_is_anothers_looks_like_what_is_not_there() {
    let api = Api::new();
    let task = api.open().await;
    let unknown = "tsk_".to_owned() + &"0".repeat(26);
    let mut answers = Vec::new();
    for id in [task.as_str(), unknown.as_str(), "nonsense"] {
        let (status, mut problem) = api.get("report-bot", &format!("/v1/tasks/{id}")).await;
        assert!(problem["request_id"].take().is_string());
        answers.push((status, problem));
    }
    assert_eq!(answers[0].0, 404);
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
}

#[tokio::test]
async fn the_registry_is_for_those_who_may_and_ones_own_entry_for_everybody() {
    let api = Api::new();
    let (status, own) = api.get("support-bot", "/v1/agents/support-bot").await;
    assert_eq!(status, 200);
    assert_eq!(own["review_by"], "2027-12-31", "the day that its file says");
    assert_eq!(
        own["may_act_for"],
        serde_json::json!(["customer-service", "user:*"])
    );
    assert_eq!(api.get("support-bot", "/v1/agents/report-bot").await.0, 404);
    assert_eq!(api.get("support-bot", "/v1/tools/crm").await.0, 404);
    let asked: Vec<_> = api.world.records(Verb::Inspect);
    let about = asked.iter().flat_map(|record| &record.resources);
    assert_eq!(
        about.map(ToString::to_string).collect::<Vec<_>>(),
        ["agents/report-bot"],
        "policy is asked about the agent, so that it can permit one of them"
    );
    let (status, problem) = api.get("support-bot", "/v1/leases?agent=*").await;
    assert_eq!((status.as_u16(), slug(&problem)), (403, "denied"));
    let records = api.world.records(Verb::Inspect);
    let record = records
        .iter()
        .find(|record| problem["decision"] == json!(record.decision))
        .unwrap();
    assert_eq!(record.result, Outcome::Denied);

    let (status, tools) = api.get("ops-console", "/v1/tools").await;
    assert_eq!(status, 200);
    assert!(
        tools["tools"]
            .as_array()
            .unwrap()
            .iter()
            .any(|tool| tool["name"] == "crm"),
        "{tools}"
    );
}

#[tokio::test]
async fn a_repeated_order_opens_one_task_and_a_changed_one_is_refused() {
    let api = Api::new();
    let send = async |body: Value| {
        let mut request = api.request("support-bot", "POST", "/v1/tasks", Some(body)).await;
        request
            .headers_mut()
            .insert(IDEMPOTENCY_KEY, "ticket-4711".parse().unwrap());
        read(api.send(request).await).await
    };
    let order = json!({"purpose": "a", "scope": [{"tool": "crm", "actions": ["read"]}], "ttl": "5m"});
    let same =
        json!({"ttl": 300, "scope": [{"actions": ["read"], "resources": [], "tool": "crm"}], "purpose": "a"});
    let first = send(order.clone()).await.1["id"].take();
    assert!(first.is_string());
    assert_eq!(send(same).await.1["id"], first);
    let (status, problem) = send(json!({"purpose": "b", "scope": order["scope"]})).await;
    assert_eq!((status.as_u16(), slug(&problem)), (422, "key-reused"));
}

#[tokio::test]
async fn a_statement_too_many_is_a_budget_and_leaves_a_record() {
    let api = Api::new();
    let state = async |name: &str| {
        let path = format!("/v1/facts/agent/support-bot/{name}");
        let body = json!({"value": "so"});
        let request = api.request("ops-console", "PUT", &path, Some(body)).await;
        read(api.send(request).await).await
    };
    for number in 0..MOST_OF_ONE {
        assert_eq!(state(&format!("fact-{number}")).await.0, 200);
    }
    let (status, problem) = state("one-more").await;
    assert_eq!((status.as_u16(), slug(&problem)), (429, "budget"), "{problem}");
    assert!(
        problem["detail"].as_str().unwrap().contains("take back"),
        "{problem}"
    );
    let told = api.world.records(Verb::Fact);
    assert_eq!(told.last().unwrap().result, Outcome::Failed);

    let (status, problem) = state("%ff").await;
    assert_eq!(
        (status.as_u16(), slug(&problem)),
        (400, "bad-parameter"),
        "{problem}"
    );
}

#[tokio::test]
async fn followers_learn_of_a_kill_order_by_poll_and_by_stream() {
    let api = Api::new();
    let task = api.open().await;
    let ask = json!({"tool": "crm", "actions": ["read"]});
    assert_eq!(
        api.post("support-bot", &format!("/v1/tasks/{task}/credentials"), ask)
            .await
            .0,
        201
    );
    let order = json!({"agent": "support-bot", "reason": "its key leaked"});
    assert_eq!(
        api.post("support-bot", "/v1/revocations", order.clone()).await.0,
        403
    );
    let (status, revoked) = api.post("ops-console", "/v1/revocations", order).await;
    assert_eq!(
        (status.as_u16(), &revoked["leases"]),
        (200, &json!(1)),
        "{revoked}"
    );

    assert_eq!(api.get("support-bot", "/v1/revocations").await.0, 403);
    let (_, feed) = api.get("crm-server", "/v1/revocations?wait=0").await;
    assert_eq!(
        feed["cutoffs"][0]["selector"],
        json!({"kind": "agent", "id": "support-bot"}),
        "{feed}"
    );
    let cursor = feed["cursor"].as_str().unwrap();
    let (_, rest) = api
        .get("crm-server", &format!("/v1/revocations?cursor={cursor}"))
        .await;
    assert_eq!(rest["cutoffs"], json!([]));
    assert_eq!(api.get("crm-server", "/v1/revocations?cursor=%21").await.0, 400);

    let mut request = api.request("crm-server", "GET", "/v1/revocations", None).await;
    request
        .headers_mut()
        .insert(header::ACCEPT, "text/event-stream".parse().unwrap());
    let mut stream = api.send(request).await.into_body().into_data_stream();
    let event = String::from_utf8(stream.next().await.unwrap().unwrap().to_vec()).unwrap();
    assert!(
        event.contains("event: cutoffs") && event.contains("support-bot"),
        "{event}"
    );
    assert!(event.contains(&format!("id: {cursor}")), "{event}");
    api.world.clock.advance(Duration::from_secs(301));
    assert!(stream.next().await.is_none(), "the evidence has expired");
}

#[tokio::test]
async fn nobody_follows_in_a_tight_loop_while_it_is_about_to_stop() {
    let api = Api::new();
    let (_, feed) = api.get("crm-server", "/v1/revocations").await;
    api.stop.cancel();
    let path = format!(
        "/v1/revocations?wait=30s&cursor={}",
        feed["cursor"].as_str().unwrap()
    );
    for _ in 0..2 {
        let asked = Instant::now();
        let (status, feed) = api.get("crm-server", &path).await;
        assert_eq!((status.as_u16(), &feed["cutoffs"]), (200, &json!([])));
        assert!(
            (1..5).contains(&asked.elapsed().as_secs()),
            "{:?}",
            asked.elapsed()
        );
    }
}

#[tokio::test]
async fn readiness_follows_the_journal_and_the_shutdown() {
    let api = Api::new();
    let ready = async || {
        api.send(Request::get("/readyz").body(Body::empty()).unwrap())
            .await
            .status()
    };
    // The ledger and the journal have threads of their own, so time stands still only to be moved.
    let later = async || {
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(2)).await;
        tokio::time::resume();
    };
    assert_eq!(ready().await, 200);
    api.world.journal.fail(true);
    assert_eq!(ready().await, 200, "an answer holds for a second");
    later().await;
    assert_eq!(ready().await, 503);
    api.world.journal.fail(false);
    later().await;
    assert_eq!(ready().await, 200);
    api.stop.cancel();
    assert_eq!(ready().await, 503);
}
