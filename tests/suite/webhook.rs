//! The webhook provider and receivers that err, lie or fall silent: nothing is left behind, nothing is
//! believed that was not said properly, and nothing that was said is told on.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use dayfly::broker::error::BrokerError;
use dayfly::keys::jose::Unverified;
use dayfly::model::ids::{LeaseId, TaskId};
use dayfly::model::lease::{Ending, Held};
use dayfly::model::task::Task;
use dayfly::provider::webhook::{PATIENCE, Webhook};
use dayfly::provider::{Presence, Provider as _, ProviderError};
use serde_json::{Value, json};

use crate::world::receiver::{Lie, Receiver, Request, proper};
use crate::world::{ISSUER, MORNING, Plan, World};

const SECRET: &str = "hunter2hunter2";

async fn house() -> (Arc<Receiver>, Arc<Webhook>, World, Task) {
    let receiver = Receiver::start().await;
    let provider = receiver.provider();
    let world = World::of(Plan {
        provider: Some(provider.clone()),
        ..Plan::default()
    });
    let task = world.open("support-bot", &["crm:read"]).await;
    (receiver, provider, world, task)
}

fn some_lease() -> Held {
    let task = TaskId::new(MORNING, [1; 10]);
    Held {
        lease: LeaseId::new(task, MORNING, [2; 10]),
        handle: None,
        expires_at: None,
    }
}

fn ticket(request: &Request) -> String {
    let header = request.headers["authorization"].to_str().unwrap();
    header.strip_prefix("Bearer ").unwrap().to_owned()
}

#[tokio::test]
async fn an_order_says_what_was_permitted_and_no_more() {
    let (receiver, _, world, task) = house().await;
    let issued = world
        .issue("support-bot", task.charter.id, "crm:read@customers/42")
        .await
        .unwrap();
    let mint = &receiver.requests()[0];
    let lease = issued.lease.id.to_string();
    assert_eq!(
        mint.json(),
        json!({
            "lease": lease,
            "handle": format!("dayfly-{lease}"),
            "task": task.charter.id,
            "agent": "support-bot",
            "tool": "crm",
            "actions": ["read"],
            "resources": ["customers/42"],
            "expires_at": issued.lease.expires_at,
            "parameters": {},
        })
    );
    let ticket = ticket(mint);
    let claims: Value = Unverified::parse(&ticket, 4096).unwrap().claims().unwrap();
    let mut names: Vec<&String> = claims.as_object().unwrap().keys().collect();
    names.sort();
    assert_eq!(
        names,
        ["aud", "body_sha256", "exp", "htm", "htu", "iat", "iss", "jti"]
    );
    assert_eq!(claims["iss"], ISSUER);
    assert_eq!(claims["aud"], receiver.url());
    assert_eq!(issued.lease.handle.unwrap().0, format!("dayfly-{lease}"));
}

#[tokio::test]
async fn an_order_is_good_once_for_one_step_with_one_body() {
    let (receiver, _, world, task) = house().await;
    let issued = world
        .issue("support-bot", task.charter.id, "crm:read")
        .await
        .unwrap();
    let mint = receiver.requests().remove(0);
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let again = async |step: &str, bearer: &str, body: Vec<u8>| {
        let mut headers = mint.headers.clone();
        headers.remove("content-length");
        headers.insert("authorization", format!("Bearer {bearer}").parse().unwrap());
        let request = client.post(format!("{}/{step}", receiver.url())).headers(headers);
        let answer = request.body(body).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
        answer.json::<Value>().await.unwrap()["detail"].clone()
    };
    let ticket = ticket(&mint);
    let longer = String::from_utf8(mint.body.clone())
        .unwrap()
        .replace("2026", "2036");
    assert_eq!(again("mint", &ticket, mint.body.clone()).await, "replayed");
    assert_eq!(again("mint", &ticket, longer.into_bytes()).await, "body");
    assert_eq!(again("renew", &ticket, mint.body.clone()).await, "where it goes");
    let forged = format!("{}.{}", ticket.rsplit_once('.').unwrap().0, "A".repeat(86));
    assert_eq!(again("mint", &forged, mint.body.clone()).await, "signature");
    receiver.clock.advance(Duration::from_secs(91));
    assert_eq!(again("mint", &ticket, mint.body.clone()).await, "time");
    assert_eq!(receiver.made(), [format!("dayfly-{}", issued.lease.id)]);
}

/// What can come back from a mint that had its effect, and how it is taken.
fn lies() -> Vec<(&'static str, &'static str, Lie)> {
    let says = |status: u16, headers, body: &str| {
        Lie::Says(
            StatusCode::from_u16(status).unwrap(),
            headers,
            body.as_bytes().to_vec(),
        )
    };
    let with = |name, value: &str| {
        let mut headers = proper();
        headers.retain(|(had, _)| *had != name);
        headers.push((name, value.to_owned()));
        headers
    };
    let secret = format!(r#"{{"token":"{SECRET}","detail":"{SECRET}","title":"{SECRET}"}}"#);
    let problem = || with("content-type", "application/problem+json");
    let long = format!(r#"{{"token":"{}"}}"#, SECRET.repeat(10_000));
    let deep = format!(r#"{{"a":{}"{SECRET}"{}}}"#, "[".repeat(100), "]".repeat(100));
    vec![
        ("unavailable", "answered 500", says(500, proper(), &secret)),
        (
            "unavailable",
            "something in front of it answered 502",
            says(502, vec![], &secret),
        ),
        ("unavailable", "not done yet", says(202, proper(), &secret)),
        ("throttled", "429", says(429, with("retry-after", "3"), &secret)),
        ("throttled", "503", says(503, with("retry-after", "3"), &secret)),
        (
            "refused",
            "does not take our signature",
            says(401, problem(), &secret),
        ),
        (
            "refused",
            "does not take our signature",
            says(403, problem(), &secret),
        ),
        ("refused", "does not know mint", says(404, problem(), &secret)),
        (
            "refused",
            "does not take the request",
            says(400, problem(), &secret),
        ),
        ("refused", "this lease is over", says(409, problem(), &secret)),
        (
            "refused",
            "redirect",
            says(307, with("location", "http://127.0.0.1:9/mint"), &secret),
        ),
        ("refused", "does not speak version 1", says(200, vec![], &secret)),
        (
            "refused",
            "does not speak version 1",
            says(200, with("dayfly-webhook-version", "2"), &secret),
        ),
        (
            "refused",
            "`content-type`",
            says(200, with("content-type", "text/html"), &secret),
        ),
        (
            "refused",
            "no JSON",
            says(200, proper(), &format!("<html>{SECRET}")),
        ),
        (
            "refused",
            "no object",
            says(200, proper(), &format!("[\"{SECRET}\"]")),
        ),
        ("refused", "longer than 65536 bytes", says(200, proper(), &long)),
        ("refused", "nests too deep", says(200, proper(), &deep)),
        ("refused", "`expires_at` is missing", says(200, proper(), &secret)),
        (
            "refused",
            "`credential` is missing",
            Lie::Changes(|answer| answer["credential"] = Value::Null),
        ),
        (
            "refused",
            "`credential.type` is none of",
            Lie::Changes(|answer| answer["credential"]["type"] = SECRET.into()),
        ),
        (
            "refused",
            "`credential.token` cannot stand in a header",
            Lie::Changes(|answer| answer["credential"]["token"] = format!("{SECRET} {SECRET}").into()),
        ),
        (
            "refused",
            "until 2036",
            Lie::Changes(|answer| answer["expires_at"] = "2036-11-22T09:00:00Z".into()),
        ),
        (
            "refused",
            "was over at 2016",
            Lie::Changes(|answer| answer["expires_at"] = "2016-11-22T09:00:00Z".into()),
        ),
    ]
}

#[tokio::test]
async fn whatever_comes_back_from_a_mint_nothing_is_left_and_nothing_told() {
    let (receiver, _, world, task) = house().await;
    for (class, says, lie) in lies() {
        receiver.lie("mint", lie);
        let error = match world.issue("support-bot", task.charter.id, "crm:read").await {
            Err(BrokerError::Provider(error)) => error,
            other => panic!("{says}: {other:?}"),
        };
        let found = match &error {
            ProviderError::Unavailable(_) => "unavailable",
            ProviderError::Throttled { after, .. } => {
                assert_eq!(after.as_secs(), 3);
                "throttled"
            }
            ProviderError::Refused(_) => "refused",
            other => panic!("{other}"),
        };
        assert_eq!(found, class, "{error}");
        assert!(error.to_string().contains(says), "{error} does not say: {says}");
        assert!(!format!("{error} {error:?}").contains(SECRET), "{error}");
        world.reap().await;
        assert_eq!(receiver.made(), [""; 0], "{says}");
    }
    let records = serde_json::to_string(&world.journal.records().unwrap()).unwrap();
    assert!(records.contains("the provider does not work") && !records.contains(SECRET));
    world
        .issue("support-bot", task.charter.id, "crm:read")
        .await
        .unwrap();
}

#[tokio::test]
async fn a_mint_whose_answer_never_comes_is_undone() {
    let (receiver, _, world, task) = house().await;
    receiver.lie("mint", Lie::Silence);
    let meanwhile = async {
        receiver.silent.notified().await;
        assert_eq!(receiver.made().len(), 1, "it had its effect");
        tokio::time::pause();
        tokio::time::advance(PATIENCE).await;
        tokio::time::resume();
    };
    let (issued, ()) = tokio::join!(world.issue("support-bot", task.charter.id, "crm:read"), meanwhile);
    let Err(BrokerError::Provider(ProviderError::Unavailable(reason))) = issued else {
        panic!("{issued:?}");
    };
    assert!(
        reason.contains("in time") || reason.contains("within 8 s"),
        "{reason}"
    );
    assert_eq!(receiver.made(), [""; 0]);
}

#[tokio::test]
async fn an_access_that_cannot_be_served_names_the_part() {
    let (receiver, _, world, task) = house().await;
    let body =
        json!({"pointer": "/resources/0", "detail": "no customer\u{202e} 42,\r\n<b>ask</b> for another"});
    let mut headers = proper();
    headers[1].1 = "application/problem+json".into();
    let refused = Lie::Only(
        StatusCode::UNPROCESSABLE_ENTITY,
        headers,
        body.to_string().into_bytes(),
    );
    receiver.lie("mint", refused);
    let refused = world
        .issue("support-bot", task.charter.id, "crm:read@customers/42")
        .await;
    let Err(BrokerError::Provider(ProviderError::Unfit { pointer, reason })) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(pointer, "/resources");
    assert_eq!(
        reason,
        "the tool's system cannot serve it, and says: no customer 42, b ask /b for another"
    );
}

#[tokio::test]
async fn a_stranger_who_knows_nothing_proves_nothing() {
    let (receiver, provider, _, _) = house().await;
    let held = some_lease();
    for status in [
        StatusCode::NOT_FOUND,
        StatusCode::GONE,
        StatusCode::NO_CONTENT,
        StatusCode::OK,
    ] {
        receiver.lie("revoke", Lie::Only(status, vec![], vec![]));
        let error = provider.revoke(&held).await.unwrap_err();
        assert!(matches!(error, ProviderError::Refused(_)), "{status}: {error}");
        receiver.lie("revoke", Lie::Only(status, proper(), vec![]));
        provider.revoke(&held).await.unwrap();
    }
    for status in [StatusCode::NOT_FOUND, StatusCode::GONE] {
        receiver.lie("probe", Lie::Only(status, proper(), vec![]));
        provider.probe(&held).await.unwrap_err();
    }
    receiver.lie("probe", Lie::Changes(|answer| answer["presence"] = "gone".into()));
    provider.probe(&held).await.unwrap_err();
    receiver.lie(
        "probe",
        Lie::Changes(|answer| answer["presence"] = "unknown".into()),
    );
    assert_eq!(provider.probe(&held).await.unwrap(), Presence::Unknown);
    receiver.lie("preflight", Lie::Only(StatusCode::NOT_FOUND, proper(), vec![]));
    provider.preflight().await.unwrap_err();
    provider.preflight().await.unwrap();
}

#[tokio::test]
async fn no_redirect_is_followed() {
    let (receiver, provider, _, _) = house().await;
    let elsewhere = Receiver::start().await;
    let mut headers = proper();
    headers.push(("location", format!("{}/revoke", elsewhere.url())));
    receiver.lie(
        "revoke",
        Lie::Only(StatusCode::TEMPORARY_REDIRECT, headers, vec![]),
    );
    let error = provider.revoke(&some_lease()).await.unwrap_err();
    assert!(error.to_string().contains("none is followed"), "{error}");
    assert_eq!(elsewhere.requests().len(), 0);
}

#[tokio::test]
async fn an_inventory_is_read_page_by_page_to_its_end() {
    let (receiver, provider, world, task) = house().await;
    let mut names = Vec::new();
    for _ in 0..16 {
        let issued = world
            .issue("support-bot", task.charter.id, "crm:read")
            .await
            .unwrap();
        names.push(issued.lease.handle.unwrap().0);
    }
    let listed = async || {
        let held = provider.inventory().await.unwrap();
        let mut listed: Vec<String> = held.into_iter().map(|held| held.handle.unwrap().0).collect();
        listed.sort();
        listed
    };
    names.sort();
    assert_eq!(listed().await, names);
    let pages = receiver.requests();
    assert_eq!(
        pages.iter().filter(|request| request.step == "inventory").count(),
        3
    );
    receiver.lie(
        "inventory",
        Lie::Changes(|answer| {
            let strangers = json!([{"handle": "dayfly-tsk_1"}, {"handle": "root"}]);
            answer["held"]
                .as_array_mut()
                .unwrap()
                .extend(strangers.as_array().unwrap().clone());
        }),
    );
    assert_eq!(listed().await, names, "what has no name of ours is not ours");
    for _ in 0..2 {
        receiver.lie(
            "inventory",
            Lie::Changes(|answer| answer["next"] = "round".into()),
        );
    }
    let error = provider.inventory().await.unwrap_err();
    assert!(error.to_string().contains("does not end"), "{error}");
}

#[tokio::test]
async fn nothing_is_there_once_nobody_listens() {
    let (receiver, provider, _, _) = house().await;
    drop(receiver);
    tokio::task::yield_now().await;
    let error = provider.revoke(&some_lease()).await.unwrap_err();
    assert!(matches!(error, ProviderError::Unavailable(_)), "{error}");
}

#[tokio::test]
async fn settings_that_cannot_be_kept_are_refused() {
    let receiver = Receiver::start().await;
    let build = |settings| {
        let entropy = Arc::new(dayfly::entropy::OsEntropy::new());
        let world = World::new();
        Webhook::new(&settings, world.keys.clone(), world.clock.clone(), entropy).map_err(|e| e.to_string())
    };
    let mut query = receiver.settings();
    query.address = "https://keys.example.org/?tenant=1".parse().unwrap();
    assert!(build(query).unwrap_err().contains("has a query"));
    let mut forever = receiver.settings();
    forever.ending = Ending::AtExpiry;
    assert!(build(forever).unwrap_err().contains("cannot be renewed"));
    let mut stranger = receiver.settings();
    stranger.roots = dayfly::identity::fetch::Roots::File("/nonexistent/ca.pem".into());
    assert!(build(stranger).unwrap_err().contains("/nonexistent/ca.pem"));
}
