//! Credentials: kept, shared, renewed, refused.

use std::time::Duration;

use dayfly_client::{Access, Broker, Error, Evidence, Kind};

use crate::way::{Fate, Way};
use crate::world::{READ, World, error, until};

#[tokio::test]
async fn fifty_who_ask_at_once_are_one_request() {
    let world = World::start().await;
    let way = Way::to(&world.broker).await;
    let broker = world.builder("support-bot", &way.address).build().unwrap();
    let task = broker.task("p", ["crm:read@customers"]).open().await.unwrap();
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let task = (*task).clone();
        asking.spawn(async move { task.credential(READ).await });
    }
    let given: Vec<_> = asking.join_all().await.into_iter().map(Result::unwrap).collect();
    assert!(given.iter().all(|one| one.lease_id() == given[0].lease_id()));
    let issues = || {
        way.seen(&format!("POST /v1/tasks/{}/credentials", task.id()))
            .len()
    };
    assert_eq!(issues(), 1);

    // The order of names does not matter, the names do.
    task.credential(Access::new("crm", ["read"], ["customers/42"]))
        .await
        .unwrap();
    assert_eq!(issues(), 1);
    task.credential("crm:read@customers/43").await.unwrap();
    assert_eq!(issues(), 2);
    let own = task.credential(READ).uncached().await.unwrap();
    assert_eq!(issues(), 3);
    let kept = task.credential(READ).await.unwrap();
    assert_eq!(
        kept.lease_id(),
        given[0].lease_id(),
        "what was not kept displaced nothing"
    );
    assert_ne!(own.lease_id(), kept.lease_id());
    task.complete().await.unwrap();
}

#[tokio::test]
async fn says_everything_about_itself_but_the_secret() {
    let world = World::start().await;
    let broker = world.agent("support-bot");
    let task = broker
        .task("p", ["crm:read,comment@customers/42"])
        .open()
        .await
        .unwrap();
    let credential = task.credential(READ).ttl(Duration::from_secs(60)).await.unwrap();
    assert_eq!(credential.tool(), "crm");
    assert_eq!(credential.actions().collect::<Vec<_>>(), ["read"]);
    assert_eq!(credential.resources().collect::<Vec<_>>(), ["customers/42"]);
    assert_eq!(credential.kind(), Kind::BearerToken);
    assert_eq!(credential.granted(), Duration::from_secs(60));
    assert_eq!(credential.bounded_by(), "requested");
    assert_eq!(credential.revocation(), "deny_listed");
    assert!(credential.lease_id().starts_with("lse_") && credential.decision().starts_with("dec_"));
    let token = credential.token().unwrap();
    let shown = format!("{credential:?} {credential:#?} {token} {token:?} {task:?} {broker:?}");
    assert!(shown.contains("redacted") && !shown.contains("eyJ"), "{shown}");
    assert!(matches!(credential.aws_session(), Err(Error::InvalidRequest(_))));
    task.complete().await.unwrap();
}

#[tokio::test]
async fn the_next_one_comes_before_the_last_is_over() {
    let world = World::start().await;
    let way = Way::to(&world.broker).await;
    let broker = world.builder("support-bot", &way.address).build().unwrap();
    let task = broker.task("p", [READ]).open().await.unwrap();
    let first = task.credential(READ).ttl(Duration::from_secs(12)).await.unwrap();
    let next = until("another token", async || {
        let credential = task.credential(READ).await.unwrap();
        assert_eq!(world.asked_with(credential.token().unwrap().reveal()).await, 200);
        (credential.token().unwrap() != first.token().unwrap()).then_some(credential)
    })
    .await;
    assert_eq!(next.lease_id(), first.lease_id(), "it was renewed");
    assert_eq!(way.seen("POST /v1/leases/").len(), 1);
    assert_eq!(
        way.seen(&format!("POST /v1/tasks/{}/credentials", task.id()))
            .len(),
        1
    );
    task.complete().await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_renewed_is_issued_anew() {
    let world = World::start().await;
    let way = Way::to(&world.broker).await;
    let broker = world.builder("support-bot", &way.address).build().unwrap();
    let problem =
        r#"{"type":"https://dayfly.dev/problems/not-renewable","title":"t","status":422,"detail":"d"}"#;
    way.next("POST /v1/leases/", Fate::Answered(422, "", problem.to_owned()));
    let task = broker.task("p", [READ]).open().await.unwrap();
    let first = task.credential(READ).ttl(Duration::from_secs(9)).await.unwrap();
    let next = until("another lease", async || {
        let credential = task.credential(READ).await.unwrap();
        (credential.lease_id() != first.lease_id()).then_some(credential)
    })
    .await;
    assert_eq!(world.asked_with(next.token().unwrap().reveal()).await, 200);
    task.complete().await.unwrap();
}

#[tokio::test]
async fn each_refusal_has_its_name_and_its_record() {
    let world = World::start().await;
    let broker = world.agent("support-bot");
    let scope = [READ, "crm:delete@customers/42", "crm:export@customers"];
    let task = broker.task("p", scope).open().await.unwrap();

    let denied = error(task.credential("crm:delete@customers/42").await);
    assert!(matches!(denied, Error::Denied(_)), "{denied:?}");
    assert_eq!(
        (denied.status(), denied.slug(), denied.retryable()),
        (Some(403), "denied", false)
    );
    assert!(
        denied
            .problem()
            .unwrap()
            .decision
            .as_deref()
            .unwrap()
            .starts_with("dec_")
    );
    assert!(denied.request_id().unwrap().starts_with("req_"));

    let pending = error(task.credential("crm:export@customers").await);
    let Error::ApprovalPending(problem) = &pending else {
        panic!("{pending:?}");
    };
    assert_eq!(problem.approval.as_deref(), Some("data-steward"));

    let invalid = error(broker.task("", [READ]).open().await);
    let Error::InvalidRequest(problem) = &invalid else {
        panic!("{invalid:?}");
    };
    assert_eq!(problem.pointer.as_deref(), Some("/purpose"));
    assert!(matches!(
        error(broker.task("p", ["crm"]).open().await),
        Error::InvalidRequest(_)
    ));
    assert!(matches!(
        error(broker.join("tsk_01m813trgcez4t9pnawdtz6gfw").await),
        Error::NotFound(_)
    ));
    task.complete().await.unwrap();

    let nobody = Broker::builder()
        .address(&world.broker)
        .evidence(Evidence::text("eyJhbGciOiJub25lIn0.e30."));
    let unidentified = error(nobody.build().unwrap().task("p", [READ]).open().await);
    assert!(
        matches!(unidentified, Error::AttestationFailed(_)),
        "{unidentified:?}"
    );
    assert!(!format!("{unidentified:?} {unidentified}").contains("eyJ"));
}

#[tokio::test]
async fn what_is_outside_the_scope_is_not_even_asked_for() {
    let world = World::start().await;
    let way = Way::to(&world.broker).await;
    let broker = world.builder("support-bot", &way.address).build().unwrap();
    let task = broker.task("p", [READ]).open().await.unwrap();
    let before = way.seen("").len();
    for wider in [
        "crm:read",
        "crm:read@customers/43",
        "crm:comment@customers/42",
        "payments:read",
    ] {
        assert!(
            matches!(error(task.credential(wider).await), Error::ScopeWidening(_)),
            "{wider}"
        );
        assert!(
            matches!(error(task.http(wider)), Error::ScopeWidening(_)),
            "{wider}"
        );
        assert!(matches!(
            error(task.delegate("q", [wider]).open().await),
            Error::ScopeWidening(_)
        ));
    }
    assert_eq!(way.seen("").len(), before);
    task.complete().await.unwrap();
}

#[tokio::test]
async fn a_token_can_be_handed_in() {
    let world = World::start().await;
    let broker = world.agent("support-bot");
    let task = broker.task("p", [READ]).open().await.unwrap();
    let credential = task.credential(READ).await.unwrap();
    let token = credential.token().unwrap();
    assert_eq!(world.asked_with(token.reveal()).await, 200);
    broker.revoke_token(token).await.unwrap();
    world.until_dead(token.reveal()).await;
    broker.revoke_token(token).await.unwrap();
    let foreign = error(world.agent("report-bot").revoke_token(token).await);
    assert_eq!(foreign.status(), Some(403), "{foreign:?}");
    task.complete().await.unwrap();
}
