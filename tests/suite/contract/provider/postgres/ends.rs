//! How logins end: their sessions, what they made, and what others built on it.

use std::sync::Arc;
use std::time::Duration;

use dayfly::model::lease::LeaseState;
use dayfly::model::task::Outcome;
use dayfly::provider::{Presence, Provider, ProviderError};
use futures_util::future::join_all;
use tokio::time::Instant;

use super::{Lab, Served};
use crate::postgres_server::{Estate, log_in, now, provider};
use crate::world::{Plan, World, access};

/// From the order to end a task to the last byte of a session: the whole broker is in between.
#[tokio::test]
async fn an_open_session_is_cut_when_its_task_is_complete() {
    let Some(estate) = Estate::new() else { return };
    let estate = estate.await;
    let mark = &estate.mark;
    let parameters = format!(
        "\n[parameters]\ndatabase = \"orders_{mark}\"\n[parameters.roles]\nread = [\"reader_{mark}\"]\n\
         comment = [\"writer_{mark}\"]\nexport = [\"reader_{mark}\"]\ndelete = [\"writer_{mark}\"]\n"
    );
    let world = World::of(Plan {
        begins_at: now(),
        crm: Some((estate.provider(), parameters)),
        ..Plan::default()
    });
    let task = world.open("support-bot", &["crm:read"]).await.charter.id;
    let issued = world.issue("support-bot", task, "crm:read").await.unwrap();
    let session = log_in(issued.credential.as_ref().unwrap()).await.unwrap();
    session
        .simple_query("SELECT count(*) FROM customers")
        .await
        .unwrap();
    // It is at work, in the middle of a transaction.
    session.batch_execute("BEGIN; SELECT 1").await.unwrap();

    let begun = Instant::now();
    let (caller, request) = (world.caller("support-bot").await, world.request());
    world
        .broker
        .complete(&caller, task, Outcome::Completed, Duration::ZERO, request)
        .await
        .unwrap();
    world.reap().await;
    let took = begun.elapsed();
    assert!(
        session.simple_query("SELECT 1").await.is_err(),
        "it is still there"
    );
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert!(log_in(issued.credential.as_ref().unwrap()).await.is_err());
    let lease = world.ledger.lease(issued.lease.id).await.unwrap().unwrap();
    assert!(
        matches!(lease.state, LeaseState::Ended { receipt, .. } if receipt.as_str() == "verified_absent")
    );
}

#[tokio::test]
async fn every_session_of_a_login_ends_and_no_other() {
    let Some(served) = Served::new() else { return };
    let lab = Lab::new(served.await).await;
    let (goes, stays) = (lab.mint().await, lab.mint().await);
    let sessions = join_all((0..5).map(|_| log_in(&goes.minted.credential))).await;
    let other = log_in(&stays.minted.credential).await.unwrap();
    assert!(
        log_in(&goes.minted.credential).await.is_err(),
        "the limit of sessions"
    );
    assert_eq!(lab.probe(&goes.held()).await, Presence::Present);
    lab.provider.revoke(&goes.held()).await.unwrap();
    for session in sessions {
        assert!(session.unwrap().simple_query("SELECT 1").await.is_err());
    }
    other.simple_query("SELECT 1").await.unwrap();
}

/// What a session of the server does that read its memberships while they changed: it says that it may
/// not, in the middle of an end, and has forgotten about it in the next.
#[tokio::test]
async fn a_session_that_forgot_its_membership_is_passed_by() {
    let Some(served) = Served::new() else { return };
    let served = served.await;
    let estate = served.estate.clone();
    let lab = Lab::new(served).await;
    let out = lab.mint().await;
    // What a sequence counted stays counted when the rest is rolled back.
    estate
        .run(
            "CREATE SEQUENCE times;
             CREATE FUNCTION forget() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
             DECLARE login text;
             BEGIN
                 IF nextval('public.times') > 1 THEN RETURN; END IF;
                 FOR login IN SELECT rolname FROM pg_roles WHERE starts_with(rolname, 'dayfly_{}_') LOOP
                     EXECUTE format('REVOKE %I FROM dayfly_{}', login);
                 END LOOP;
             END $$;
             CREATE EVENT TRIGGER forgetful ON ddl_command_start WHEN TAG IN ('DROP OWNED') EXECUTE FUNCTION forget()",
        )
        .await;
    lab.provider.revoke(&out.held()).await.unwrap();
    lab.is_gone(&out.held()).await;
    assert_eq!(estate.ask("SELECT last_value FROM times").await, "2");
}

/// A login that writes, made a table in two databases, and a session that still uses them.
async fn with_belongings(estate: &Estate, lab: &Lab) -> super::super::Out {
    let elsewhere = format!("archive_{}", estate.mark);
    estate
        .root
        .batch_execute(&format!("CREATE DATABASE {elsewhere}"))
        .await
        .unwrap();
    estate
        .run("GRANT CREATE ON DATABASE archive_{} TO writer_{}, owner_{}")
        .await;
    let out = lab.mint().await;
    let made = log_in(&out.minted.credential).await.unwrap();
    made.batch_execute("CREATE TABLE mine (id int); CREATE VIEW view_of_mine AS SELECT * FROM mine")
        .await
        .unwrap();
    let mut there = out.minted.credential.clone();
    if let dayfly::model::credential::Credential::DatabaseLogin { database, .. } = &mut there {
        *database = elsewhere;
    }
    let other = log_in(&there).await.unwrap();
    other
        .batch_execute("CREATE SCHEMA mine; CREATE TABLE mine.too (id int)")
        .await
        .unwrap();
    out
}

fn writing(estate: Arc<Estate>, provider: Arc<dyn Provider>) -> Served {
    Served {
        access: access("orders:read,write"),
        ..Served::by(estate, provider)
    }
}

#[tokio::test]
async fn what_a_login_made_goes_with_it() {
    let Some(estate) = Estate::new() else { return };
    let estate = Arc::new(estate.await);
    let lab = Lab::new(writing(estate.clone(), estate.provider())).await;
    let out = with_belongings(&estate, &lab).await;
    lab.provider.revoke(&out.held()).await.unwrap();
    lab.is_gone(&out.held()).await;
    assert_eq!(estate.ask("SELECT to_regclass('mine') IS NULL").await, "t");
    assert_eq!(estate.ask("SELECT count(*) FROM customers").await, "0");
}

#[tokio::test]
async fn what_a_login_made_stays_where_somebody_inherits_it() {
    let Some(estate) = Estate::new() else { return };
    let estate = Arc::new(estate.await);
    estate
        .run("GRANT owner_{} TO dayfly_{}; GRANT CREATE ON SCHEMA public TO owner_{}")
        .await;
    let mut settings = estate.settings();
    settings.reassign_to = Some(format!("owner_{}", estate.mark).parse().unwrap());
    let lab = Lab::new(writing(estate.clone(), provider(settings))).await;
    lab.provider.preflight().await.unwrap();
    let out = with_belongings(&estate, &lab).await;
    lab.provider.revoke(&out.held()).await.unwrap();
    lab.is_gone(&out.held()).await;
    let owner = estate
        .ask("SELECT relowner::regrole FROM pg_class WHERE relname = 'mine'")
        .await;
    assert_eq!(owner, format!("owner_{}", estate.mark));
}

#[tokio::test]
async fn what_others_built_on_it_is_left_to_a_person() {
    let Some(estate) = Estate::new() else { return };
    let estate = Arc::new(estate.await);
    let lab = Lab::new(writing(estate.clone(), estate.provider())).await;
    let out = lab.mint().await;
    let session = log_in(&out.minted.credential).await.unwrap();
    session.batch_execute("CREATE TABLE mine (id int)").await.unwrap();
    estate.run("CREATE VIEW theirs AS SELECT * FROM mine").await;
    let Err(ProviderError::Refused(error)) = lab.provider.revoke(&out.held()).await else {
        panic!("it took a view that it did not make");
    };
    assert!(error.contains("`reassign_to`"), "{error}");
    assert!(!lab.works(&out).await, "nobody gets in meanwhile");
    assert!(session.simple_query("SELECT 1").await.is_err());
    estate.run("DROP VIEW theirs").await;
    lab.provider.revoke(&out.held()).await.unwrap();
    lab.is_gone(&out.held()).await;
}

#[tokio::test]
async fn an_end_that_comes_while_a_login_is_made_finds_it() {
    let Some(served) = Served::new() else { return };
    let lab = Lab::new(served.await).await;
    for _ in 0..20 {
        // The server's clock goes on, and a reservation that is too old for it makes no login.
        lab.world.clock.set(now());
        let reservation = lab.named(lab.subject.access(), super::super::LIFE).await;
        let held = reservation.lease().held();
        // Whoever comes first: afterwards the login is there and the mint said so, or it is not.
        let (minted, ended) = tokio::join!(lab.provider.mint(&reservation), lab.provider.revoke(&held));
        ended.unwrap();
        let works = lab.subject.works(&minted.unwrap().credential).await;
        assert_eq!(works, lab.probe(&held).await == Presence::Present);
        lab.provider.revoke(&held).await.unwrap();
        lab.is_gone(&held).await;
    }
}
