//! What resource servers and token holders reach by OAuth: introspection says what holds at this very
//! instant, and revocation ends it.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{Request, header};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use dayfly::entropy::OsEntropy;
use dayfly::journal::record::{Result as Outcome, Verb};
use dayfly::keys::Algorithm;
use dayfly::keys::jose::{Unverified, sign};
use dayfly::keys::ring_keys::RingSigner;
use dayfly::ledger::lineage::Loss;
use dayfly::ledger::redis::Mode;
use dayfly::ledger::{Budgets, Ledger};
use dayfly::model::cutoff::{Cutoff, Selector};
use dayfly::model::ids::{LeaseId, TaskId};
use dayfly::model::lease::{Cause, Curtailed, Lease, LeaseState};
use dayfly::model::task::{Outcome as TaskOutcome, TaskChange};
use dayfly::model::time::Timestamp;
use dayfly::model::token::{AccessToken, TYP};
use dayfly::model::ttl::Ttl;
use serde_json::{Value, json};

use crate::http::{Api, read};
use crate::process::{Installation, until};
use crate::redis_servers::Server;
use crate::world::gated::{Counter, Gated};
use crate::world::{ISSUER, Plan, World, order, token};

const FORM: &str = "application/x-www-form-urlencoded";

/// A live token for the CRM, and what it hangs on.
struct Issued {
    token: String,
    task: TaskId,
    lease: LeaseId,
}

async fn issued(world: &World) -> Issued {
    issued_by(world, None).await
}

async fn issued_by(world: &World, heartbeat: Option<Ttl>) -> Issued {
    let mut order = order(&["crm:read"]);
    order.on_behalf_of = Some("user:17".parse().unwrap());
    order.heartbeat = heartbeat;
    let caller = world.caller("support-bot").await;
    let task = world.broker.open(&caller, order, world.request()).await.unwrap();
    let issued = world
        .issue("support-bot", task.charter.id, "crm:read@customers/42")
        .await
        .unwrap();
    Issued {
        token: token(&issued).to_owned(),
        task: task.charter.id,
        lease: issued.lease.id,
    }
}

/// A request of this agent with this form.
async fn form(api: &Api, agent: &str, path: &str, body: String) -> Request<Body> {
    let evidence = api.world.evidence(agent).await;
    Request::post(path)
        .header(header::AUTHORIZATION, format!("Bearer {}", evidence.expose()))
        .header(header::CONTENT_TYPE, FORM)
        .body(body.into())
        .unwrap()
}

async fn send(api: &Api, agent: &str, path: &str, token: &str) -> Response {
    let body = format!("token={token}&token_type_hint=access_token");
    api.send(form(api, agent, path, body).await).await
}

pub(crate) async fn introspect(api: &Api, token: &str) -> Value {
    let response = send(api, "crm-server", "/oauth2/introspect", token).await;
    assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json");
    let (status, answer) = read(response).await;
    assert_eq!(status, 200, "{answer}");
    answer
}

fn inactive() -> Value {
    json!({"active": false})
}

#[tokio::test]
async fn an_active_token_is_told_as_it_stands() {
    let api = Api::new();
    let issued = issued(&api.world).await;
    let claims: Value = Unverified::parse(&issued.token, 8192).unwrap().claims().unwrap();
    let mut expected = claims.clone();
    expected["active"] = json!(true);
    expected["token_type"] = json!("Bearer");
    let answer = introspect(&api, &issued.token).await;
    assert_eq!(answer, expected);
    assert_eq!(answer["act"]["sub"], "support-bot");
    assert_eq!(
        answer["authorization_details"][0]["resources"],
        json!(["customers/42"])
    );
}

#[tokio::test]
async fn whatever_ends_a_token_ends_it_at_that_instant() {
    for end in [
        "complete",
        "suspend",
        "revoke",
        "kill",
        "silence",
        "expiry",
        "supersession",
    ] {
        let api = Api::new();
        let world = &api.world;
        let issued = issued_by(world, Ttl::from_secs(120)).await;
        let (agent, operator) = (
            world.caller("support-bot").await,
            world.caller("ops-console").await,
        );
        assert_eq!(introspect(&api, &issued.token).await["active"], true, "{end}");
        match end {
            "complete" => {
                let (completed, request) = (TaskOutcome::Completed, world.request());
                let done = world
                    .broker
                    .complete(&agent, issued.task, completed, Duration::ZERO, request);
                done.await.map(drop).unwrap();
            }
            "suspend" => {
                let suspended = world.broker.suspend(&agent, issued.task, world.request());
                suspended.await.map(drop).unwrap();
            }
            "revoke" => {
                let revoked = world
                    .broker
                    .revoke(&operator, issued.lease, "leaked", world.request());
                revoked.await.map(drop).unwrap();
            }
            "kill" => {
                let agent = "support-bot".parse().unwrap();
                let killed = world.broker.revoke_all(
                    &operator,
                    Selector::Agent(agent),
                    "incident 12",
                    world.request(),
                );
                killed.await.map(drop).unwrap();
            }
            // Nobody comes to say that it is lost.
            "silence" => world.clock.advance(Duration::from_secs(120)),
            "expiry" => {
                for _ in 0..5 {
                    world.clock.advance(Duration::from_secs(60));
                    let beat = world.ledger.advance(issued.task, TaskChange::Beat, world.now());
                    beat.await.unwrap();
                }
            }
            _ => {
                let superseded = world.ledger.revoke(issued.lease, Cause::Superseded, world.now());
                superseded.await.map(drop).unwrap();
            }
        }
        assert_eq!(introspect(&api, &issued.token).await, inactive(), "{end}");
    }
}

#[tokio::test]
async fn a_standing_cutoff_ends_it_before_its_drain_has_come_to_the_lease() {
    for selector in [
        Selector::Agent("support-bot".parse().unwrap()),
        Selector::Tool("crm".parse().unwrap()),
        Selector::User("user:17".parse().unwrap()),
        Selector::Environment("production".parse().unwrap()),
        Selector::TrustDomain("example.org".parse().unwrap()),
        Selector::All,
    ] {
        let api = Api::new();
        let issued = issued(&api.world).await;
        let cut = |up_to: Timestamp| Cutoff {
            selector: selector.clone(),
            up_to,
            at: api.world.now(),
            cause: Cause::Cutoff,
        };
        let before = api.world.now().minus(Duration::from_millis(1));
        api.world.ledger.cut(&cut(before)).await.unwrap();
        assert_eq!(introspect(&api, &issued.token).await["active"], true);
        api.world.ledger.cut(&cut(api.world.now())).await.unwrap();
        assert_eq!(introspect(&api, &issued.token).await, inactive(), "{selector:?}");
        let lease = api.world.ledger.lease(issued.lease).await.unwrap().unwrap();
        assert_eq!(lease.state, LeaseState::Active, "nobody has come to it yet");
    }
}

#[tokio::test]
async fn what_is_no_live_token_of_ours_is_inactive_and_nobody_is_told_why() {
    let api = Api::new();
    let world = &api.world;
    let issued = issued(world).await;
    let claims: AccessToken = Unverified::parse(&issued.token, 8192).unwrap().claims().unwrap();
    let ours = &*world.keys.current();
    let stranger = RingSigner::generate(Algorithm::Es256, &OsEntropy::new()).unwrap();
    let elsewhere = AccessToken {
        iss: "https://other.example.org".into(),
        ..claims.clone()
    };
    let unborn = AccessToken {
        nbf: claims.nbf + 61,
        ..claims.clone()
    };
    let mut unknown = claims.clone();
    unknown.marks.lease = LeaseId::new(issued.task, world.now(), [9; 10]);
    let (head, rest) = issued.token.split_once('.').unwrap();
    let (payload, signature) = rest.split_once('.').unwrap();
    let none = BASE64URL.encode(json!({"alg": "none", "typ": TYP}).to_string());
    for (name, token) in [
        ("another key", sign(&stranger, TYP, &claims).await.unwrap()),
        ("another issuer", sign(ours, TYP, &elsewhere).await.unwrap()),
        ("another kind", sign(ours, "JWT", &claims).await.unwrap()),
        ("not valid yet", sign(ours, TYP, &unborn).await.unwrap()),
        ("an unknown lease", sign(ours, TYP, &unknown).await.unwrap()),
        ("no algorithm", format!("{none}.{payload}.")),
        ("a changed payload", format!("{head}.{payload}A.{signature}")),
        ("no token", "5f4dcc3b5aa765d61d8327deb882cf99".to_owned()),
        (
            "its own evidence",
            world.evidence("crm-server").await.expose().to_owned(),
        ),
    ] {
        assert_eq!(introspect(&api, &token).await, inactive(), "{name}");
    }
    assert_eq!(introspect(&api, &issued.token).await["active"], true);
}

#[tokio::test]
async fn a_renewed_token_and_the_one_before_it_each_end_in_their_own_time() {
    let api = Api::new();
    let world = &api.world;
    let issued = issued(world).await;
    let first: AccessToken = Unverified::parse(&issued.token, 8192).unwrap().claims().unwrap();
    world.clock.advance(Duration::from_secs(100));
    let caller = world.caller("support-bot").await;
    let renewed = world.broker.renew(caller, issued.lease, None, world.request());
    let renewed = renewed.await.unwrap();
    let later = introspect(&api, token(&renewed)).await["exp"].as_u64().unwrap();
    assert!(later > first.exp);
    assert_eq!(introspect(&api, &issued.token).await["exp"], first.exp);
    world.clock.set(Timestamp::from_secs(first.exp));
    assert_eq!(introspect(&api, &issued.token).await, inactive());
    assert_eq!(introspect(&api, token(&renewed)).await["active"], true);
}

#[tokio::test]
async fn an_expiry_that_a_token_says_is_never_past_its_leases() {
    let api = Api::new();
    let issued = issued(&api.world).await;
    let mut claims: AccessToken = Unverified::parse(&issued.token, 8192).unwrap().claims().unwrap();
    let lease = api.world.ledger.lease(issued.lease).await.unwrap().unwrap();
    claims.exp += 600;
    let token = sign(&*api.world.keys.current(), TYP, &claims).await.unwrap();
    assert_eq!(introspect(&api, &token).await["exp"], lease.expires_at.as_secs());

    // A lease can have to end before its credential does.
    let at = api.world.now().plus(Duration::from_secs(10));
    let cause = Cause::Shortened;
    let curtailed = Lease {
        id: LeaseId::new(issued.task, api.world.now(), [9; 10]),
        curtailed: Some(Curtailed { at, cause }),
        ..lease
    };
    let unlimited = Budgets::default();
    let written = api.world.ledger.reserve(
        &curtailed,
        &unlimited,
        None,
        dayfly::model::fact::FactsVersion::default(),
    );
    written.await.unwrap();
    claims.marks.lease = curtailed.id;
    let token = sign(&*api.world.keys.current(), TYP, &claims).await.unwrap();
    assert_eq!(introspect(&api, &token).await["exp"], at.as_secs());
    api.world.clock.set(at);
    assert_eq!(introspect(&api, &token).await, inactive());
}

#[tokio::test]
async fn only_who_may_is_told_and_only_of_the_tools_that_it_serves() {
    let api = Api::new();
    let issued = issued(&api.world).await;
    for agent in ["support-bot", "report-bot", "ops-console"] {
        for token in [issued.token.as_str(), "x"] {
            let response = send(&api, agent, "/oauth2/introspect", token).await;
            assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
            let (status, error) = read(response).await;
            assert_eq!(
                (status.as_u16(), &error["error"]),
                (403, &json!("access_denied")),
                "{agent}"
            );
            let denials = api.world.records(Verb::Inspect);
            let denial = denials.last().unwrap();
            assert_eq!(
                json!(denial.decision),
                error["decision"],
                "each denial is on record"
            );
            assert_eq!(denial.result, Outcome::Denied);
        }
    }
    assert_eq!(introspect(&api, &issued.token).await["active"], true);
    let recorded = api.world.records(Verb::Inspect).len();
    for _ in 0..10 {
        introspect(&api, &issued.token).await;
        introspect(&api, "x").await;
    }
    assert_eq!(
        api.world.records(Verb::Inspect).len(),
        recorded,
        "a look is recorded once in a while"
    );

    api.world.rewrite("crm-server", |text| {
        text.replace("serves = [\"crm\"]", "serves = [\"payments\"]")
    });
    for _ in 0..3 {
        assert_eq!(introspect(&api, &issued.token).await, inactive());
    }
    let records = api.world.records(Verb::Inspect);
    assert_eq!(
        records.len(),
        recorded + 1,
        "what was shown at the wrong place is told once"
    );
    let shown = records.last().unwrap();
    assert_eq!((shown.result, shown.lease), (Outcome::Denied, Some(issued.lease)));
}

#[tokio::test]
async fn a_question_costs_the_ledger_one_look_and_none_for_what_is_not_ours() {
    let counter = Arc::new(Counter::default());
    let gate = counter.clone();
    let world = World::of(Plan {
        ledger: Box::new(|ledger| Arc::new(Gated { ledger, gate }) as Arc<dyn Ledger>),
        ..Plan::default()
    });
    let api = Api::of(world);
    let issued = issued(&api.world).await;
    counter.take();
    assert_eq!(introspect(&api, &issued.token).await["active"], true);
    assert_eq!(counter.take(), ["live"]);
    introspect(&api, "x").await;
    assert!(counter.take().is_empty());
}

#[tokio::test]
async fn a_signed_answer_says_who_asked_and_is_no_access_token() {
    let api = Api::new();
    let issued = issued(&api.world).await;
    for (token, active) in [(issued.token.as_str(), true), ("x", false)] {
        let mut request = form(&api, "crm-server", "/oauth2/introspect", format!("token={token}")).await;
        let signed = "application/token-introspection+jwt";
        request
            .headers_mut()
            .insert(header::ACCEPT, signed.parse().unwrap());
        let response = api.send(request).await;
        assert_eq!(response.headers()[header::CONTENT_TYPE], signed);
        assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
        let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        let text = std::str::from_utf8(&body).unwrap();
        let answer = Unverified::parse(text, 8192).unwrap();
        answer.verify_with(&api.world.keys.key_set()).unwrap();
        assert_eq!(answer.header().typ.as_deref(), Some("token-introspection+jwt"));
        let claims: Value = answer.claims().unwrap();
        assert_eq!(
            (&claims["iss"], &claims["aud"]),
            (&json!(ISSUER), &json!("crm-server"))
        );
        assert_eq!(claims["iat"], api.world.now().as_secs());
        assert_eq!(claims.as_object().unwrap().len(), 4, "neither `sub` nor `exp`");
        assert_eq!(claims["token_introspection"], introspect(&api, token).await);
        assert_eq!(claims["token_introspection"]["active"], active);
        assert_eq!(introspect(&api, text).await, inactive(), "the answer is no token");
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_said_as_oauth_says_it() {
    let api = Api::new();
    for path in ["/oauth2/introspect", "/oauth2/revoke"] {
        for body in [
            String::new(),
            "token=a&token=b".to_owned(),
            "token=%".to_owned(),
            format!("token={}", "a".repeat(5000)),
        ] {
            let response = api.send(form(&api, "crm-server", path, body).await).await;
            assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json");
            assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
            let (status, error) = read(response).await;
            assert_eq!(
                (status.as_u16(), &error["error"]),
                (400, &json!("invalid_request")),
                "{error}"
            );
            assert!(error["error_description"].is_string() && error["type"].is_null());
        }
        let mut json = form(&api, "crm-server", path, "{}".to_owned()).await;
        json.headers_mut()
            .insert(header::CONTENT_TYPE, "application/json".parse().unwrap());
        let (status, error) = read(api.send(json).await).await;
        assert_eq!(
            (status.as_u16(), &error["error"]),
            (400, &json!("invalid_request"))
        );
        let get = Request::get(path).body(Body::empty()).unwrap();
        let response = api.send(get).await;
        assert_eq!(response.headers()[header::ALLOW], "POST");
        let (status, error) = read(response).await;
        assert_eq!(
            (status.as_u16(), &error["error"]),
            (405, &json!("invalid_request"))
        );
        let forged = Request::post(path)
            .header(header::AUTHORIZATION, "Basic Y3JtOmNybQ==")
            .body(Body::empty())
            .unwrap();
        let response = api.send(forged).await;
        let challenge = response.headers()[header::WWW_AUTHENTICATE].clone();
        assert_eq!(challenge, r#"Bearer error="invalid_token""#);
        let (status, error) = read(response).await;
        assert_eq!(
            (status.as_u16(), &error["error"]),
            (401, &json!("invalid_client"))
        );
    }
}

#[tokio::test]
async fn in_quarantine_nothing_is_active_and_nothing_is_said_not_to_be() {
    let api = Api::new();
    let issued = issued(&api.world).await;
    introspect(&api, &issued.token).await;
    api.world.ledger.condemn(Loss::Behind).await.unwrap();
    for token in [issued.token.as_str(), "x"] {
        let response = send(&api, "crm-server", "/oauth2/introspect", token).await;
        assert!(response.headers().contains_key(header::RETRY_AFTER));
        let (status, error) = read(response).await;
        assert_eq!(
            (status.as_u16(), &error["error"]),
            (503, &json!("temporarily_unavailable"))
        );
    }
    // Ending goes on. What the ledger has forgotten may live all the same, so that is not called done.
    let mut lost: AccessToken = Unverified::parse(&issued.token, 8192).unwrap().claims().unwrap();
    lost.marks.lease = LeaseId::new(issued.task, api.world.now(), [9; 10]);
    let lost = sign(&*api.world.keys.current(), TYP, &lost).await.unwrap();
    for (token, expected) in [(issued.token.as_str(), 200), (lost.as_str(), 503)] {
        let response = send(&api, "support-bot", "/oauth2/revoke", token).await;
        assert_eq!(response.status(), expected);
    }
    let lease = api.world.ledger.lease(issued.lease).await.unwrap().unwrap();
    assert!(matches!(lease.state, LeaseState::Revoking(_)), "{lease:?}");
}

#[tokio::test]
async fn a_token_is_ended_by_whoever_has_it_from_us_or_may_revoke() {
    for agent in ["support-bot", "ops-console"] {
        let api = Api::new();
        let issued = issued(&api.world).await;
        for _ in 0..2 {
            let response = send(&api, agent, "/oauth2/revoke", &issued.token).await;
            assert_eq!(response.status(), 200);
            let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
            assert!(body.is_empty());
        }
        assert_eq!(introspect(&api, &issued.token).await, inactive());
        api.world.reap().await;
        let lease = api.world.ledger.lease(issued.lease).await.unwrap().unwrap();
        let LeaseState::Ended { cause, .. } = lease.state else {
            panic!("{lease:?}");
        };
        assert_eq!(cause, Cause::Revoked);
        let records = api.world.records(Verb::Revoke);
        let record = records.first().unwrap();
        assert_eq!(
            (record.result, record.lease),
            (Outcome::Permitted, Some(issued.lease))
        );
        assert_eq!(record.agent, Some(agent.parse().unwrap()));
    }
}

#[tokio::test]
async fn another_agents_token_is_not_ended_and_whoever_tried_is_on_record() {
    let api = Api::new();
    let issued = issued(&api.world).await;
    for agent in ["report-bot", "crm-server"] {
        let (status, error) = read(send(&api, agent, "/oauth2/revoke", &issued.token).await).await;
        assert_eq!(
            (status.as_u16(), &error["error"]),
            (403, &json!("access_denied")),
            "{agent}"
        );
        let records = api.world.records(Verb::Revoke);
        let record = records.last().unwrap();
        assert_eq!(
            (record.result, record.lease),
            (Outcome::Denied, Some(issued.lease))
        );
        assert_eq!(json!(record.decision), error["decision"]);
    }
    assert_eq!(introspect(&api, &issued.token).await["active"], true);
}

#[tokio::test]
async fn what_needs_no_end_is_not_an_error() {
    let api = Api::new();
    let issued = issued(&api.world).await;
    let (head, _) = issued.token.rsplit_once('.').unwrap();
    let forged = format!("{head}.{}", "A".repeat(86));
    for token in ["x", forged.as_str()] {
        let response = send(&api, "support-bot", "/oauth2/revoke", token).await;
        assert_eq!(response.status(), 200, "{token}");
    }
    assert_eq!(introspect(&api, &issued.token).await["active"], true);
    api.world.clock.advance(Duration::from_secs(3600));
    let response = send(&api, "support-bot", "/oauth2/revoke", &issued.token).await;
    assert_eq!(response.status(), 200);
    assert!(api.world.records(Verb::Revoke).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_the_network_a_tool_is_told_at_once_and_nothing_is_active_without_redis() {
    let Some(mut redis) = Server::start().await else {
        return;
    };
    let files = Installation::on(Mode::Single { url: redis.url() });
    let site = files.broker();
    let broker = site.start().await;
    let agent = files.api("support-bot", &site).await;
    let tool = files.api("crm-server", &site).await;
    let reading = json!({"tool": "crm", "actions": ["read"]});
    let body = json!({"purpose": "answer ticket 4711", "scope": [reading]});
    let (_, task) = agent.post("/v1/tasks", &body).await.unwrap();
    let path = format!("/v1/tasks/{}", task["id"].as_str().unwrap());
    let issue = async || {
        let (status, issued) = agent
            .post(&format!("{path}/credentials"), &reading)
            .await
            .unwrap();
        assert_eq!(status, 201, "{issued}");
        issued["credential"]["token"].as_str().unwrap().to_owned()
    };
    let ask = async |token: &str| tool.token("/oauth2/introspect", token).await.unwrap();
    let (first, second) = (issue().await, issue().await);
    assert_eq!(ask(&first).await.1["active"], true);
    assert_eq!(agent.token("/oauth2/revoke", &first).await.unwrap().0, 200);
    assert_eq!(ask(&first).await, (200, inactive()));

    // A primary that was made a replica says no, as one that is gone does.
    redis.say::<()>(&["REPLICAOF", "127.0.0.1", "1"]).unwrap();
    assert_eq!(ask(&second).await.0, 503);
    redis.say::<()>(&["REPLICAOF", "NO", "ONE"]).unwrap();
    until("it is told again", async || {
        (ask(&second).await.0 == 200).then_some(())
    })
    .await;
    redis.stop();
    let (status, error) = ask(&second).await;
    assert_eq!(
        (status, &error["error"]),
        (503, &json!("temporarily_unavailable"))
    );
    assert_eq!(
        agent.token("/oauth2/revoke", &second).await.unwrap().0,
        503,
        "it is not ended"
    );
    redis.restart().await;
    until("it is told again", async || {
        (ask(&second).await.1["active"] == json!(true)).then_some(())
    })
    .await;
    let complete = format!("{path}/complete");
    agent
        .post(&complete, &json!({"outcome": "completed"}))
        .await
        .unwrap();
    assert_eq!(ask(&second).await, (200, inactive()));
    broker.stop().await;
}
