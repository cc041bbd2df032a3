//! Work that is handed on: it only narrows, it is decided for everybody in the chain, and it ends with the task
//! that it is part of.

use std::time::Duration;

use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use dayfly::broker::Settings;
use dayfly::broker::facts::FactOrder;
use dayfly::journal::record::{Result as Outcome, Verb};
use dayfly::ledger::Cursor;
use dayfly::model::cutoff::{Cutoff, Selector};
use dayfly::model::ids::LeaseId;
use dayfly::model::lease::{Cause, LeaseState};
use dayfly::model::token::AccessToken;
use dayfly_client::resource::Claims;
use dayfly_client::resource::deny_list::DenyList;
use dayfly_client::resource::status_list::TokenStatus;
use serde_json::{Value, json};

use crate::http::Api;
use crate::reach::introspect;
use crate::status_lists::{instant, status as status_of};
use crate::world::{Plan, World};

/// An API whose support-bot may hand work on.
fn api() -> Api {
    let api = Api::new();
    api.world.rewrite("support-bot", delegator);
    api
}

fn delegator(text: String) -> String {
    text.replace("roles = [\"support\"]", "roles = [\"support\", \"delegator\"]")
}

fn reports(actions: &[&str]) -> Value {
    json!([{"tool": "reports", "actions": actions}])
}

fn id(task: &Value) -> &str {
    task["id"].as_str().unwrap()
}

fn slug(problem: &Value) -> &str {
    problem["type"].as_str().unwrap().rsplit('/').next().unwrap()
}

impl Api {
    async fn root(&self, body: Value) -> Value {
        let mut task = json!({"purpose": "answer ticket 4711", "scope": reports(&["read", "publish"])});
        for (name, value) in body.as_object().unwrap() {
            task[name] = value.clone();
        }
        let (status, task) = self.post("support-bot", "/v1/tasks", task).await;
        assert_eq!(status, 201, "{task}");
        task
    }

    async fn try_hand_on(&self, from: &str, parent: &Value, body: Value) -> (StatusCode, Value) {
        let mut order = json!({"purpose": "look up the figures", "scope": reports(&["read"])});
        for (name, value) in body.as_object().unwrap() {
            order[name] = value.clone();
        }
        let path = format!("/v1/tasks/{}/tasks", id(parent));
        self.post(from, &path, order).await
    }

    async fn hand_on(&self, from: &str, parent: &Value, to: &str) -> Value {
        let (status, task) = self.try_hand_on(from, parent, json!({ "agent": to })).await;
        assert_eq!(status, 201, "{task}");
        task
    }

    async fn ask(&self, agent: &str, task: &Value, action: &str) -> (StatusCode, Value) {
        let path = format!("/v1/tasks/{}/credentials", id(task));
        self.post(agent, &path, json!({"tool": "reports", "actions": [action]}))
            .await
    }

    /// A credential of report-bot in a task that support-bot handed on: the two tasks, and the credential.
    async fn handed_on(&self) -> (Value, Value, Value) {
        let root = self.root(json!({})).await;
        let child = self.hand_on("support-bot", &root, "report-bot").await;
        let (status, issued) = self.ask("report-bot", &child, "read").await;
        assert_eq!(status, 201, "{issued}");
        (root, child, issued)
    }

    async fn cause(&self, issued: &Value) -> Option<Cause> {
        let lease: LeaseId = issued["lease"]["id"].as_str().unwrap().parse().unwrap();
        match self.world.ledger.lease(lease).await.unwrap().unwrap().state {
            LeaseState::Revoking(effort) => Some(effort.cause),
            LeaseState::Ended { cause, .. } => Some(cause),
            _ => None,
        }
    }

    async fn fact(&self, about: &str, value: &str) {
        let order = FactOrder {
            about: about.parse().unwrap(),
            name: "incident".parse().unwrap(),
            value: Some(value.parse().unwrap()),
            at: None,
            expires_at: None,
            reason: None,
        };
        let operator = self.world.caller("ops-console").await;
        let stated = self
            .world
            .broker
            .state_fact(&operator, order, self.world.request());
        stated.await.unwrap();
    }

    /// Works off every recheck.
    async fn recheck(&self) {
        while self.world.broker.recheck().await.unwrap() {}
    }
}

fn claims(issued: &Value) -> Value {
    let token = issued["credential"]["token"].as_str().unwrap();
    let body = BASE64URL.decode(token.split('.').nth(1).unwrap()).unwrap();
    serde_json::from_slice(&body).unwrap()
}

#[tokio::test]
async fn work_is_handed_on_and_everybody_can_see_from_whom() {
    let api = api();
    let (root, child, issued) = api.handed_on().await;
    assert_eq!(
        (
            &child["agent"],
            &child["parent"],
            &child["depth"],
            &child["delegated_by"]
        ),
        (
            &json!("report-bot"),
            &root["id"],
            &json!(1),
            &json!(["support-bot"])
        )
    );
    assert_eq!((&root["depth"], root.get("parent")), (&json!(0), None));

    let claims = claims(&issued);
    let act = &claims["act"];
    assert_eq!(
        (
            &claims["sub"],
            &act["sub"],
            &act["act"]["sub"],
            act["act"].get("act")
        ),
        (
            &json!("report-bot"),
            &json!("report-bot"),
            &json!("support-bot"),
            None
        )
    );
    assert_eq!(
        claims["https://dayfly.dev/claims"]["parents"],
        json!([root["id"]])
    );
    let text = claims.to_string();
    assert!(!text.contains("figures") && !text.contains("4711"), "{text}");

    let records = api.world.records(Verb::Delegate);
    let [record] = records.as_slice() else {
        panic!("{records:?}")
    };
    let said = serde_json::to_value(record).unwrap();
    assert_eq!(
        (&said["agent"], &said["task"], &said["delegation"]),
        (
            &json!("support-bot"),
            &child["id"],
            &json!({"by": ["support-bot"], "parent": root["id"], "to": "report-bot",
                "scope": [{"actions": ["read"], "tool": "reports"}]})
        )
    );
    assert_eq!(said["policies"], json!(["dayfly-delegator"]));
    assert_eq!(said["resources"], json!(["agents/report-bot"]));
    let issue = serde_json::to_value(&api.world.records(Verb::Issue)[0]).unwrap();
    assert_eq!(
        issue["delegation"],
        json!({"by": ["support-bot"], "parent": root["id"]})
    );

    let path = format!("/v1/tasks/{}", id(&child));
    let (mine, below) = (path.clone(), format!("/v1/tasks/{}/tasks", id(&root)));
    let lease = format!("/v1/leases/{}", issued["lease"]["id"].as_str().unwrap());
    for path in [&mine, &below, &lease] {
        let (status, answer) = api.get("support-bot", path).await;
        assert_eq!(status, 200, "{answer}");
    }
    assert_eq!(
        api.get("support-bot", &below).await.1["tasks"][0]["id"],
        child["id"]
    );
    assert_eq!(api.get("report-bot", &mine).await.0, 200);
    let above = format!("/v1/tasks/{}", id(&root));
    for path in [&above, &below] {
        assert_eq!(api.get("report-bot", path).await.0, 404, "it is another agent's");
    }
    assert_eq!(api.get("crm-server", &mine).await.0, 404);
}

#[tokio::test]
async fn a_sub_task_can_only_narrow() {
    let api = api();
    let root = api
        .root(json!({"ttl": "10m", "on_behalf_of": "user:17", "scope": [
            {"tool": "reports", "actions": ["read"], "resources": ["2026"]}, {"tool": "crm", "actions": ["read"]}]}))
        .await;
    for (scope, pointer) in [
        (
            json!([{"tool": "crm", "actions": ["read"]}, {"tool": "reports", "actions": ["read"]}]),
            "/scope/1",
        ),
        (
            json!([{"tool": "reports", "actions": ["publish"], "resources": ["2026"]}]),
            "/scope/0",
        ),
        (json!([{"tool": "payments", "actions": ["read"]}]), "/scope/0"),
    ] {
        let (status, problem) = api
            .try_hand_on("support-bot", &root, json!({ "scope": scope }))
            .await;
        assert_eq!(
            (status.as_u16(), &problem["pointer"]),
            (422, &json!(pointer)),
            "{problem}"
        );
    }
    let widened = json!({"scope": [{"tool": "crm", "actions": ["read"]}], "on_behalf_of": "user:18"});
    assert_eq!(api.try_hand_on("support-bot", &root, widened).await.0, 422);

    let narrower =
        json!({"ttl": "1h", "scope": [{"tool": "reports", "actions": ["read"], "resources": ["2026/q3"]}]});
    let (status, child) = api.try_hand_on("support-bot", &root, narrower).await;
    assert_eq!(status, 201, "{child}");
    assert_eq!(child["deadline"], root["deadline"], "it asked for longer");
    assert_eq!(child["on_behalf_of"], "user:17");
    let (status, problem) = api
        .try_hand_on(
            "support-bot",
            &root,
            json!({"scope": child["scope"], "ttl": "2d"}),
        )
        .await;
    assert_eq!((status.as_u16(), &problem["pointer"]), (422, &json!("/ttl")));
    let (status, denied) = api.ask("support-bot", &child, "read").await;
    assert_eq!(
        status, 403,
        "outside its scope, though within that of its parent: {denied}"
    );
}

#[tokio::test]
async fn a_task_of_somebody_else_looks_like_none() {
    let api = api();
    let root = api.root(json!({})).await;
    let child = api.hand_on("support-bot", &root, "report-bot").await;
    let unknown = json!({"id": id(&root).replace(&id(&root)[26..], "0000")});
    let mut problems = Vec::new();
    for (agent, parent) in [
        ("report-bot", &root),
        ("report-bot", &unknown),
        ("support-bot", &child),
    ] {
        let (status, mut problem) = api.try_hand_on(agent, parent, json!({})).await;
        problem["request_id"] = Value::Null;
        assert_eq!(status, 404, "{problem}");
        problems.push(problem);
    }
    assert!(
        problems.iter().all(|problem| *problem == problems[0]),
        "{problems:?}"
    );
}

#[tokio::test]
async fn handing_work_to_another_takes_a_permit_and_to_oneself_takes_none() {
    let api = Api::new();
    let root = api.root(json!({})).await;
    let (status, problem) = api
        .try_hand_on("support-bot", &root, json!({"agent": "report-bot"}))
        .await;
    assert_eq!((status.as_u16(), slug(&problem)), (403, "denied"), "{problem}");
    // Who may hand nothing on learns nothing about others.
    let (_, nobody) = api
        .try_hand_on("support-bot", &root, json!({"agent": "nobody"}))
        .await;
    assert_eq!(nobody["detail"], problem["detail"]);
    let denied = &api.world.records(Verb::Delegate)[0];
    assert_eq!((denied.result, denied.task), (Outcome::Denied, None));
    assert_eq!(
        denied.delegation.as_ref().unwrap().to.as_ref().unwrap().as_str(),
        "report-bot"
    );

    let (status, child) = api.try_hand_on("support-bot", &root, json!({})).await;
    assert_eq!((status.as_u16(), &child["agent"]), (201, &json!("support-bot")));
    assert_eq!(api.ask("support-bot", &child, "read").await.0, 201);
}

#[tokio::test]
async fn work_is_handed_only_to_who_could_do_it() {
    let api = api();
    let root = api.root(json!({})).await;
    let for_a_user = api.root(json!({"on_behalf_of": "user:17"})).await;
    let refused = async |parent: &Value, to: &str, why: &str| {
        let (status, problem) = api
            .try_hand_on("support-bot", parent, json!({ "agent": to }))
            .await;
        assert_eq!((status.as_u16(), slug(&problem)), (403, "denied"), "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains(why), "{problem}");
        let records = api.world.records(Verb::Delegate);
        assert_eq!(records.last().unwrap().result, Outcome::Denied);
    };
    refused(&root, "nobody", "no agent is registered as `nobody`").await;
    refused(&for_a_user, "report-bot", "may not act on behalf of this user").await;
    let with = |change: fn(String) -> String| {
        api.world.reload_agents(move |agent, text| match agent {
            "support-bot" => delegator(text),
            "report-bot" => change(text),
            _ => text,
        });
    };
    with(|text| format!("status = \"suspended\"\n{text}"));
    refused(&root, "report-bot", "is suspended").await;
    with(|text| text.replace("owner = \"Analytics\"\n", ""));
    refused(&root, "report-bot", "has no owner").await;
    with(|text| text.replace("environment = \"production\"", "environment = \"staging\""));
    refused(&root, "report-bot", "another environment").await;
    with(|text| text);
    api.hand_on("support-bot", &root, "report-bot").await;
}

#[tokio::test]
async fn work_is_handed_on_so_often_and_no_more() {
    let api = api();
    let mut task = api.root(json!({})).await;
    for depth in 1..=3 {
        let (status, child) = api.try_hand_on("support-bot", &task, json!({})).await;
        assert_eq!(
            (status.as_u16(), &child["depth"]),
            (201, &json!(depth)),
            "{child}"
        );
        task = child;
    }
    let (status, problem) = api.try_hand_on("support-bot", &task, json!({})).await;
    assert_eq!((status.as_u16(), slug(&problem)), (403, "denied"), "{problem}");
    assert_eq!(api.ask("support-bot", &task, "read").await.0, 201);

    let settings = Settings {
        deepest_task: 0,
        ..Settings::default()
    };
    let none = Api::of(World::of(Plan {
        settings,
        ..Plan::default()
    }));
    let root = none.root(json!({})).await;
    assert_eq!(none.try_hand_on("support-bot", &root, json!({})).await.0, 403);
}

#[tokio::test]
async fn nobody_gets_by_way_of_another_what_it_could_not_have() {
    let api = api();
    let root = api.root(json!({})).await;
    let order = json!({"agent": "report-bot", "scope": reports(&["read", "publish"])});
    let (_, child) = api.try_hand_on("support-bot", &root, order).await;
    assert_eq!(api.ask("support-bot", &root, "publish").await.0, 403);
    let (status, denied) = api.ask("report-bot", &child, "publish").await;
    assert_eq!((status.as_u16(), slug(&denied)), (403, "denied"), "{denied}");
    assert!(
        denied["detail"]
            .as_str()
            .unwrap()
            .starts_with("`support-bot`, which handed this on, is not permitted it"),
        "{denied}"
    );
    let body = json!({"purpose": "publish", "scope": reports(&["publish"])});
    let (_, own) = api.post("report-bot", "/v1/tasks", body).await;
    assert_eq!(
        api.ask("report-bot", &own, "publish").await.0,
        201,
        "by itself it may"
    );

    api.world.rewrite("support-bot", |text| {
        delegator(text).replace("ttl = \"15m\"", "ttl = \"2m\"")
    });
    let (status, issued) = api.ask("report-bot", &child, "read").await;
    assert_eq!(status, 201, "{issued}");
    assert_eq!(
        (&issued["lease"]["bounded_by"], &issued["granted"]),
        (&json!("agent"), &json!(120)),
        "the ceiling of who handed it on: {issued}"
    );
}

#[tokio::test]
async fn what_is_handed_on_stands_and_falls_with_who_handed_it_on() {
    let api = api();
    let (_, child, issued) = api.handed_on().await;
    let body = json!({"purpose": "publish", "scope": reports(&["read"])});
    let (_, own) = api.post("report-bot", "/v1/tasks", body).await;
    let (_, mine) = api.ask("report-bot", &own, "read").await;
    api.fact("agent/support-bot", "open").await;
    assert_eq!(api.ask("report-bot", &child, "read").await.0, 403, "at once");
    api.recheck().await;
    assert_eq!(api.cause(&issued).await, Some(Cause::NotPermitted));
    assert_eq!(api.cause(&mine).await, None, "it is its own");
    let rechecks = api.world.records(Verb::Recheck);
    let reason = rechecks[0].reason.as_ref().unwrap();
    assert!(reason.contains("`support-bot`, which handed this on"), "{reason}");
}

#[tokio::test]
async fn a_change_of_the_registry_reaches_what_was_handed_on() {
    for (change, cause) in [
        ("status = \"suspended\"\n", Cause::AgentSuspended),
        ("status = \"retired\"\n", Cause::AgentRetired),
    ] {
        let api = api();
        let (_, child, issued) = api.handed_on().await;
        api.world
            .rewrite("support-bot", |text| format!("{change}{}", delegator(text)));
        let (status, denied) = api.ask("report-bot", &child, "read").await;
        assert_eq!(status, 403, "{denied}");
        api.world.broker.settle_rules().await.unwrap();
        api.recheck().await;
        assert_eq!(api.cause(&issued).await, Some(cause));
    }
}

#[tokio::test]
async fn a_kill_order_reaches_what_was_handed_on() {
    let api = api();
    let (_, _, issued) = api.handed_on().await;
    let order = json!({"agent": "support-bot", "reason": "incident 12"});
    let (status, done) = api.post("ops-console", "/v1/revocations", order).await;
    assert_eq!((status.as_u16(), &done["leases"]), (200, &json!(1)), "{done}");
    assert_eq!(api.cause(&issued).await, Some(Cause::Cutoff));

    api.world.clock.advance(Duration::from_secs(1));
    let (root, child, issued) = api.handed_on().await;
    let revoke = format!("/v1/tasks/{}/revoke", id(&root));
    let order = json!({"reason": "incident 12"});
    assert_eq!(api.post("ops-console", &revoke, order).await.0, 200);
    let over = Cause::TaskEnded(dayfly::model::task::Outcome::ParentEnded);
    assert_eq!(api.cause(&issued).await, Some(over));
    assert_eq!(api.ask("report-bot", &child, "read").await.0, 409);
}

/// The evidence of who handed the work on came from one trust domain, that of who got it from another.
#[tokio::test]
async fn a_kill_order_about_a_trust_domain_reaches_what_was_handed_on_from_it() {
    let api = Api::of(World::of(Plan {
        partner: true,
        ..Plan::default()
    }));
    api.world.hand_on_across();
    let (_, child, issued) = api.handed_on().await;
    let body = json!({"purpose": "publish", "scope": reports(&["read"])});
    let (_, own) = api.post("report-bot", "/v1/tasks", body).await;
    let (_, own) = api.ask("report-bot", &own, "read").await;
    let token_of = |issued: &Value| issued["credential"]["token"].as_str().unwrap().to_owned();
    let marks = &claims(&issued)["https://dayfly.dev/claims"];
    assert_eq!(
        (&marks["trust_domain"], &marks["parent_trust_domains"]),
        (&json!("partner.example"), &json!(["example.org"]))
    );
    assert_eq!(
        claims(&own)["https://dayfly.dev/claims"].get("parent_trust_domains"),
        None
    );
    let [handed_on, alone] =
        [&issued, &own].map(|issued| -> AccessToken { serde_json::from_value(claims(issued)).unwrap() });
    for issued in [&issued, &own] {
        assert_eq!(introspect(&api, &token_of(issued)).await["active"], true);
    }

    let order = json!({"trust_domain": "example.org", "reason": "incident 12"});
    let preview = json!({"trust_domain": "example.org", "reason": "incident 12", "preview": true});
    let (_, before) = api.post("ops-console", "/v1/revocations", preview).await;
    assert_eq!(before["leases"], json!(1), "{before}");
    // Before anybody came to the lease: what the ledger says, and what resource servers learn from the feed.
    let cutoff = Cutoff {
        selector: Selector::TrustDomain("example.org".parse().unwrap()),
        up_to: api.world.now(),
        at: api.world.now(),
        cause: Cause::Cutoff,
    };
    api.world.ledger.cut(&cutoff).await.unwrap();
    assert_eq!(api.cause(&issued).await, None);
    assert_eq!(
        introspect(&api, &token_of(&issued)).await,
        json!({"active": false})
    );
    assert_eq!(introspect(&api, &token_of(&own)).await["active"], true);
    let mut denied = DenyList::new(Duration::from_secs(3600), 10);
    let feed = api
        .world
        .ledger
        .changes(&Cursor::default(), Duration::ZERO)
        .await
        .unwrap();
    assert_eq!(feed.cutoffs, [cutoff]);
    for cutoff in &feed.cutoffs {
        let told = serde_json::from_value(serde_json::to_value(cutoff).unwrap()).unwrap();
        denied.apply(&told, instant(api.world.now())).unwrap();
    }
    assert_eq!(
        [&issued, &own]
            .map(|issued| denied.denies(&serde_json::from_value::<Claims>(claims(issued)).unwrap())),
        [Some(Cause::Cutoff.as_str().into()), None]
    );

    let (status, done) = api.post("ops-console", "/v1/revocations", order).await;
    assert_eq!((status.as_u16(), &done["leases"]), (200, &json!(1)), "{done}");
    assert_eq!(api.cause(&issued).await, Some(Cause::Cutoff));
    assert_eq!(api.cause(&own).await, None);
    api.world.clock.advance(Duration::from_secs(1));
    let list = |token: &AccessToken| token.status.clone().unwrap().status_list;
    assert_eq!(status_of(&api, &list(&handed_on)).await, TokenStatus::Invalid);
    assert_eq!(status_of(&api, &list(&alone)).await, TokenStatus::Valid);
    assert_eq!(
        api.ask("report-bot", &child, "read").await.0,
        201,
        "as after every kill order"
    );
}

#[tokio::test]
async fn a_sub_task_ends_with_its_parent_at_that_instant() {
    let api = api();
    let (root, child, issued) = api.handed_on().await;
    let grandchild = api.try_hand_on("report-bot", &child, json!({})).await.1;
    assert_eq!(grandchild["delegated_by"], json!(["report-bot", "support-bot"]));
    let path = format!("/v1/tasks/{}/complete", id(&root));
    let (status, ended) = api
        .post("support-bot", &path, json!({"outcome": "completed"}))
        .await;
    assert_eq!(status, 200, "{ended}");
    assert_eq!(ended["leases"][0]["id"], issued["lease"]["id"], "{ended}");
    let over = Some(Cause::TaskEnded(dayfly::model::task::Outcome::ParentEnded));
    assert_eq!(api.cause(&issued).await, over);
    for task in [&child, &grandchild] {
        let (_, task) = api.get("ops-console", &format!("/v1/tasks/{}", id(task))).await;
        assert_eq!(
            (&task["state"], &task["outcome"]),
            (&json!("ended"), &json!("parent_ended"))
        );
        let (status, problem) = api.ask("report-bot", &task, "read").await;
        assert_eq!(status, 409, "{problem}");
    }
    let feed = api.get("crm-server", "/v1/revocations").await.1;
    let told: Vec<&Value> = feed["cutoffs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|cutoff| &cutoff["selector"])
        .collect();
    for task in [&root, &child, &grandchild] {
        let selector = json!({"kind": "task", "id": task["id"]});
        assert!(told.contains(&&selector), "{feed}");
    }
    let orphan = api.try_hand_on("report-bot", &child, json!({})).await;
    assert_eq!(orphan.0, 409, "{}", orphan.1);
    api.world.reap().await;
    let lease: LeaseId = issued["lease"]["id"].as_str().unwrap().parse().unwrap();
    let lease = api.world.ledger.lease(lease).await.unwrap().unwrap();
    assert_eq!(Some(api.world.receipt(&lease).cause), over);
}

#[tokio::test]
async fn who_handed_work_on_can_call_it_off_and_say_nothing_else() {
    let api = api();
    let (root, child, issued) = api.handed_on().await;
    let end = |task: &Value| format!("/v1/tasks/{}/complete", id(task));
    let (status, problem) = api
        .post("support-bot", &end(&child), json!({"outcome": "completed"}))
        .await;
    assert_eq!(
        (status.as_u16(), &problem["pointer"]),
        (422, &json!("/outcome")),
        "{problem}"
    );
    let cancelled = json!({"outcome": "cancelled"});
    assert_eq!(
        api.post("report-bot", &end(&root), cancelled.clone()).await.0,
        404
    );
    assert_eq!(
        api.post("crm-server", &end(&child), cancelled.clone()).await.0,
        404
    );
    let (status, ended) = api.post("support-bot", &end(&child), cancelled).await;
    assert_eq!(
        (status.as_u16(), &ended["task"]["outcome"]),
        (200, &json!("cancelled")),
        "{ended}"
    );
    assert!(api.cause(&issued).await.is_some());
    assert_eq!(
        api.ask("support-bot", &root, "read").await.0,
        201,
        "the rest goes on"
    );

    let (_, child, issued) = api.handed_on().await;
    let revoke = format!("/v1/leases/{}/revoke", issued["lease"]["id"].as_str().unwrap());
    assert_eq!(api.post("support-bot", &revoke, json!({})).await.0, 200);
    assert_eq!(api.cause(&issued).await, Some(Cause::Revoked));
    let revoke = format!("/v1/tasks/{}/revoke", id(&child));
    assert_eq!(
        api.post("support-bot", &revoke, json!({"reason": "enough"}))
            .await
            .0,
        200
    );
    assert_eq!(
        api.post("crm-server", &revoke, json!({"reason": "enough"}))
            .await
            .0,
        404
    );
}

#[tokio::test]
async fn a_suspended_or_lost_task_holds_up_what_was_handed_on() {
    let api = api();
    let root = api.root(json!({"heartbeat": "1m"})).await;
    let child = api.hand_on("support-bot", &root, "report-bot").await;
    let (_, issued) = api.ask("report-bot", &child, "read").await;
    let deed = |deed: &str| format!("/v1/tasks/{}/{deed}", id(&root));
    assert_eq!(api.post("support-bot", &deed("suspend"), json!({})).await.0, 200);
    assert_eq!(api.cause(&issued).await, Some(Cause::TaskSuspended));
    let (status, problem) = api.ask("report-bot", &child, "read").await;
    assert_eq!(
        (status.as_u16(), slug(&problem)),
        (409, "task-not-open"),
        "{problem}"
    );
    assert_eq!(api.post("support-bot", &deed("resume"), json!({})).await.0, 200);
    assert_eq!(api.ask("report-bot", &child, "read").await.0, 201);

    api.world.clock.advance(Duration::from_secs(60));
    let (status, problem) = api.ask("report-bot", &child, "read").await;
    assert_eq!(
        status, 409,
        "no sign of life from above, and no reaper came yet: {problem}"
    );
    api.world.reap().await;
    let (_, child) = api.get("report-bot", &format!("/v1/tasks/{}", id(&child))).await;
    assert_eq!(child["outcome"], "parent_ended");
}

#[tokio::test]
async fn a_repeated_order_answers_the_same_sub_task() {
    use axum::http::header;

    let api = api();
    let root = api.root(json!({})).await;
    let other = api.root(json!({})).await;
    let hand_on = async |parent: &Value| {
        let evidence = api.world.evidence("support-bot").await;
        let request = axum::http::Request::post(format!("/v1/tasks/{}/tasks", id(parent)))
            .header(header::AUTHORIZATION, format!("Bearer {}", evidence.expose()))
            .header(header::CONTENT_TYPE, "application/json")
            .header(dayfly::http::IDEMPOTENCY_KEY, "once")
            .body(
                json!({"purpose": "p", "scope": reports(&["read"]), "agent": "report-bot"})
                    .to_string()
                    .into(),
            );
        crate::http::read(api.send(request.unwrap()).await).await
    };
    let (first, again) = (hand_on(&root).await, hand_on(&root).await);
    assert_eq!((first.0.as_u16(), &first.1["id"]), (201, &again.1["id"]));
    let elsewhere = hand_on(&other).await;
    assert_ne!(
        elsewhere.1["id"], first.1["id"],
        "another parent is another order"
    );
}

#[tokio::test]
async fn policies_bound_how_deep_something_is_handed_on() {
    let api = api();
    let (_, child, _) = api.handed_on().await;
    api.world.rewrite_policies(|text| {
        format!(
            "{text}\n@id(\"shallow-{}\") @reason(\"figures are not handed on\")\
             forbid (principal, action == Action::\"reports:read\", resource) when {{ context.task_depth > 0 }};",
            text.len()
        )
    });
    let (status, denied) = api.ask("report-bot", &child, "read").await;
    assert_eq!(
        (status.as_u16(), &denied["detail"]),
        (403, &json!("figures are not handed on"))
    );
}
