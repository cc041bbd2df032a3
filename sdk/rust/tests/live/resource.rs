//! A tool that verifies tokens of the real broker, behind the layer of tower.

use std::time::Duration;

use axum::Router;
use axum::extract::Extension;
use axum::routing::get;
use dayfly_client::Evidence;
use dayfly_client::resource::{Claims, Demand, Layer, Refusal, Settings, Verifier};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::way::{self, Fate, Way};
use crate::world::{PATIENCE, READ, World, until};

const AUDIENCE: &str = "https://crm.example.org";

/// What follows this broker by that way.
async fn follow(world: &World, way: &Way) -> Verifier {
    let settings = Settings {
        feed: format!("{}/v1/revocations", way.address),
        jwks: format!("{}/.well-known/jwks.json", way.address),
        evidence: Some(Evidence::file(world.evidence_file("crm-server"))),
        max_staleness: Duration::from_secs(10),
        ..Settings::new(&world.broker, AUDIENCE)
    };
    let verifier = Verifier::follow(settings).unwrap();
    tokio::time::timeout(PATIENCE, verifier.ready()).await.unwrap();
    verifier
}

#[tokio::test]
async fn a_token_is_good_until_whatever_it_hangs_on_has_ended() {
    let world = World::start().await;
    let way = Way::to(&world.broker).await;
    let verifier = follow(&world, &way).await;
    let broker = world.agent("support-bot");
    let ops = world.agent("ops-console");
    let orders = [
        None,
        Some(json!({"agent": "support-bot", "reason": "r"})),
        Some(json!({"tool": "crm", "reason": "r"})),
        Some(json!({"user": "customer-service", "reason": "r"})),
        Some(json!({"trust_domain": "example.org", "reason": "r"})),
        Some(json!({"all": true, "reason": "r"})),
    ];
    for order in orders {
        let task = broker.task("p", [READ]).on_behalf_of("customer-service");
        let task = task.heartbeat(None).open().await.unwrap();
        let credential = task.credential(READ).await.unwrap();
        let token = credential.token().unwrap().reveal();
        let claims = verifier.verify(token).await.unwrap();
        assert_eq!(claims.jti.as_str(), credential.lease_id());
        assert_eq!(
            (claims.client_id.as_str(), claims.txn.as_str()),
            ("support-bot", task.id())
        );
        assert_eq!(claims.user(), Some("customer-service"));
        assert_eq!(claims.demand("read", Some("customers/42/notes")), Ok(()));
        assert!(claims.demand("read", Some("customers/43")).is_err());
        assert!(claims.demand("comment", Some("customers/42")).is_err());
        match &order {
            None => drop(task.complete().await.unwrap()),
            Some(order) => drop(ops.api().post("/v1/revocations", order).await.unwrap()),
        }
        until("the token is refused", async || {
            matches!(verifier.check(token), Err(Refusal::Revoked(_))).then_some(())
        })
        .await;
        if order.is_some() {
            // What is opened in the same millisecond as the order would be ended by it too.
            until("there is more to get", async || {
                let task = broker.task("p", [READ]).heartbeat(None).open().await.unwrap();
                let credential = task.credential(READ).await;
                task.cancel().await.unwrap();
                credential.is_ok().then_some(())
            })
            .await;
        }
    }
}

#[tokio::test]
async fn a_tool_that_hears_nothing_refuses_everything() {
    let world = World::start().await;
    let way = Way::to(&world.broker).await;
    let verifier = follow(&world, &way).await;
    let task = world.agent("support-bot").task("p", [READ]).open().await.unwrap();
    let token = task.credential(READ).await.unwrap().token().unwrap().clone();
    assert!(verifier.check(token.reveal()).is_ok());
    way.rule(Fate::Lost);
    until("it is stale", async || {
        (verifier.check(token.reveal()) == Err(Refusal::Stale)).then_some(())
    })
    .await;
    way.rule(Fate::Passed);
    until("it is fresh again", async || verifier.check(token.reveal()).ok()).await;
    // An answer that it cannot read in full counts as none: it could have ended the token.
    let odd = json!({"cutoffs": [{"selector": {"kind": "planet", "id": "earth"}, "up_to": "2026-11-22T06:30:00.000Z",
        "at": "2026-11-22T06:30:00.000Z", "cause": "revoked"}], "cursor": "1", "more": false});
    way.rule(Fate::Answered(200, "", odd.to_string()));
    until("it is stale", async || {
        (verifier.check(token.reveal()) == Err(Refusal::Stale)).then_some(())
    })
    .await;
    task.complete().await.unwrap();
}

#[tokio::test]
async fn the_layer_answers_for_the_service() {
    let world = World::start().await;
    let way = Way::to(&world.broker).await;
    let verifier = follow(&world, &way).await;
    let whole = Layer::new(verifier.clone());
    let each = Layer::demanding(verifier, |request| {
        Demand::new("read").on(request.uri.path().trim_start_matches('/'))
    });
    let show = async |Extension(claims): Extension<Claims>| claims.client_id;
    let router = Router::new()
        .route("/customers/{id}", get(show).layer(each))
        .route("/whoami", get(show).layer(whole));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = format!("http://{}", listener.local_addr().unwrap());
    let mut serving = JoinSet::new();
    serving.spawn(async { axum::serve(listener, router).await.unwrap() });

    let task = world.agent("support-bot").task("p", [READ]).open().await.unwrap();
    let token = task.credential(READ).await.unwrap().token().unwrap().clone();
    let ask = async |path: &str, token| way::get(&format!("{at}/{path}"), token).await;
    assert_eq!(
        ask("whoami", Some(token.reveal())).await,
        (200, "support-bot".to_owned())
    );
    assert_eq!(ask("customers/42", Some(token.reveal())).await.0, 200);
    assert_eq!(
        ask("customers/43", Some(token.reveal())).await,
        (403, String::new())
    );
    assert_eq!(ask("whoami", None).await.0, 401);
    assert_eq!(ask("whoami", Some("eyJ")).await.0, 401);
    task.complete().await.unwrap();
    until("the service refuses it", async || {
        (ask("whoami", Some(token.reveal())).await.0 == 401).then_some(())
    })
    .await;
}
