//! What the provider says and does when something is not as it should be.

use std::sync::Arc;
use std::time::Duration;

use dayfly::provider::postgres::Security;
use dayfly::provider::{Presence, Provider, ProviderError};
use futures_util::future::join_all;
use tokio::time::Instant;

use super::super::{LIFE, Lab, a_tool};
use super::Served;
use crate::postgres_server::{Estate, log_in, now, provider, variable};
use crate::world::access;

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, ProviderError>) -> String {
    match result {
        Err(ProviderError::Refused(text)) => text,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn the_preflight_says_what_to_grant() {
    let Some(estate) = Estate::new() else { return };
    let estate = estate.await;
    let mark = &estate.mark;
    let provider = estate.provider();
    let mut parameters = estate.parameters();
    provider
        .accepts(&a_tool("orders-db", parameters.clone()))
        .unwrap();
    provider.preflight().await.unwrap();

    parameters["roles"]["write"] = serde_json::json!([format!("auditor_{mark}")]);
    provider.accepts(&a_tool("orders-db", parameters)).unwrap();
    let error = refused(provider.preflight().await);
    assert!(
        error.contains(&format!("CREATE ROLE \"auditor_{mark}\" NOLOGIN;")),
        "{error}"
    );

    estate.run("CREATE ROLE auditor_{} SUPERUSER").await;
    let error = refused(provider.preflight().await);
    assert!(error.contains("reaches past the database"), "{error}");

    estate
        .run("ALTER ROLE auditor_{} NOSUPERUSER; GRANT pg_write_server_files TO auditor_{}")
        .await;
    let error = refused(provider.preflight().await);
    assert!(
        error.contains("pg_write_server_files"),
        "however far it is: {error}"
    );

    estate
        .run("REVOKE pg_write_server_files FROM auditor_{}; ALTER ROLE dayfly_{} NOCREATEROLE")
        .await;
    let error = refused(provider.preflight().await);
    assert!(
        error.contains(&format!("run: ALTER ROLE \"dayfly_{mark}\" CREATEROLE;")),
        "{error}"
    );

    estate.run("ALTER ROLE dayfly_{} CREATEROLE NOINHERIT").await;
    let error = refused(provider.preflight().await);
    assert!(error.contains("INHERIT;"), "{error}");

    estate
        .run("ALTER ROLE dayfly_{} INHERIT; GRANT auditor_{} TO dayfly_{} WITH ADMIN OPTION")
        .await;
    provider.preflight().await.unwrap();
    assert_eq!(
        estate
            .ask("SELECT count(*) FROM pg_roles WHERE rolname LIKE 'dayfly_{}_%'")
            .await,
        "0",
        "nothing that was tried is left"
    );
}

#[tokio::test]
async fn a_password_can_be_changed_under_a_running_provider() {
    let Some(served) = Served::new() else { return };
    let served = served.await;
    let estate = served.estate.clone();
    let lab = Lab::new(served).await;
    let out = lab.mint().await;
    estate.run("ALTER ROLE dayfly_{} PASSWORD 'second'").await;
    estate
        .run("SELECT pg_terminate_backend(pid, 2000) FROM pg_stat_activity WHERE usename = 'dayfly_{}'")
        .await;
    let error = refused(lab.provider.preflight().await);
    assert!(
        error.contains("`password_file`") && !error.contains("first"),
        "{error}"
    );
    std::fs::remove_file(estate.password_file()).unwrap();
    let error = refused(lab.provider.preflight().await);
    assert!(error.contains("`password_file`"), "{error}");
    estate.keep_password("second");
    lab.provider.preflight().await.unwrap();
    // A connection that was cut may be found out only by using it; the reaper tries again as well.
    let _found_out = lab.provider.probe(&out.held()).await;
    lab.provider.revoke(&out.held()).await.unwrap();
    lab.is_gone(&out.held()).await;
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unavailable() {
    let Some(estate) = Estate::new() else { return };
    let estate = estate.await;
    let mut settings = estate.settings();
    settings.port = 1;
    let provider = provider(settings);
    let begun = Instant::now();
    let error = provider.preflight().await.unwrap_err();
    assert!(matches!(error, ProviderError::Unavailable(_)), "{error:?}");
    let error = provider.inventory().await.unwrap_err();
    assert!(matches!(error, ProviderError::Unavailable(_)), "{error:?}");
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn only_the_configured_authority_vouches_for_a_server() {
    let (Some(estate), Some(authorities)) = (Estate::new(), variable("DAYFLY_TEST_POSTGRES_CA")) else {
        return;
    };
    let estate = estate.await;
    let mut settings = estate.settings();
    settings.security = Security::Tls {
        authorities: authorities.into(),
    };
    provider(settings.clone()).preflight().await.unwrap();
    let encrypted =
        "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = 'dayfly_{}'";
    let open = provider(settings.clone());
    open.inventory().await.unwrap();
    assert_eq!(estate.ask(encrypted).await, "t");

    settings.host = "localhost".into();
    provider(settings.clone()).preflight().await.unwrap();

    let stranger = estate.password_file().with_file_name("stranger.pem");
    let made = std::process::Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
        ])
        .args([
            "-days",
            "30",
            "-subj",
            "/CN=localhost",
            "-keyout",
            "/dev/null",
            "-out",
        ])
        .arg(&stranger)
        .output()
        .unwrap();
    assert!(made.status.success());
    settings.security = Security::Tls {
        authorities: stranger,
    };
    let error = provider(settings).preflight().await.unwrap_err();
    assert!(
        matches!(&error, ProviderError::Unavailable(text) if text.contains("certificate")),
        "{error:?}"
    );
}

/// The statements were on their way for too long: the reaper may have been there already.
#[tokio::test]
async fn a_mint_that_comes_late_makes_nothing() {
    let Some(served) = Served::new() else { return };
    let served = Served {
        begins_at: now().minus(Duration::from_secs(53)),
        ..served.await
    };
    let lab = Lab::new(served).await;
    let reservation = lab.named(lab.subject.access(), LIFE).await;
    let late = lab.provider.mint(&reservation).await;
    assert!(
        matches!(&late, Err(ProviderError::Unavailable(text)) if text.contains("clocks")),
        "{late:?}"
    );
    assert_eq!(lab.probe(&reservation.lease().held()).await, Presence::Absent);
}

#[tokio::test]
async fn a_clock_that_is_far_off_is_found_at_the_start() {
    let Some(estate) = Estate::new() else { return };
    let estate = estate.await;
    let settings = estate.settings();
    let clock = dayfly::clock::ManualClock::at(now().plus(Duration::from_secs(30)));
    let entropy = Arc::new(dayfly::entropy::OsEntropy::new());
    let provider = dayfly::provider::postgres::Postgres::new(settings, Arc::new(clock), entropy).unwrap();
    let error = refused(provider.preflight().await);
    assert!(error.contains("clocks"), "{error}");
}

/// Revocations wait for a lock and take all connections that end logins; making them goes on.
#[tokio::test]
async fn ends_that_hang_do_not_keep_logins_from_being_made() {
    let Some(served) = Served::new() else { return };
    let served = served.await;
    let estate = served.estate.clone();
    let lab = Lab::new(served).await;
    let all = join_all((0..8).map(|_| lab.mint())).await;
    estate.run("BEGIN").await;
    for out in &all {
        let login = &out.minted.handle;
        estate
            .run(&format!(
                "SELECT pg_advisory_xact_lock(hashtextextended('{login}', 0))"
            ))
            .await;
    }
    let held: Vec<_> = all.iter().map(super::super::Out::held).collect();
    let ends = join_all(held.iter().map(|held| lab.provider.revoke(held)));
    let making = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let begun = Instant::now();
        let out = lab.mint().await;
        (out, begun.elapsed())
    };
    let (ends, (out, took)) = tokio::join!(ends, making);
    // The ends give up after three seconds; making did not wait for that.
    assert!(took < Duration::from_millis(2500), "{took:?}");
    assert!(lab.works(&out).await);
    for end in ends {
        let end = end.unwrap_err();
        assert!(
            matches!(
                end,
                ProviderError::Unavailable(_) | ProviderError::Throttled { .. }
            ),
            "{end:?}"
        );
    }
    estate.run("ROLLBACK").await;
    for held in &held {
        lab.provider.revoke(held).await.unwrap();
    }
}

#[tokio::test]
async fn a_resource_that_has_no_group_role_is_the_callers_mistake() {
    let Some(served) = Served::new() else { return };
    let mut served = served.await;
    let mark = served.estate.mark.clone();
    let mut parameters = served.estate.parameters();
    parameters["roles"]["read"] = serde_json::json!([format!("{{resource}}_reader")]);
    assert!(
        served
            .estate
            .provider()
            .accepts(&a_tool("orders-db", parameters.clone()))
            .is_err()
    );
    parameters["roles"]["read"] =
        serde_json::json!([format!("reader_{mark}"), format!("sales_{{resource}}_reader")]);
    served.tool = a_tool("orders-db", parameters);
    served.access = access(&format!("orders:read@{mark}"));
    let lab = Lab::new(served).await;
    lab.provider.preflight().await.unwrap();
    let out = lab.mint().await;
    let session = log_in(&out.minted.credential).await.unwrap();
    session
        .simple_query("SELECT * FROM invoices, customers")
        .await
        .unwrap();
    for (resource, is_a_name) in [
        ("unknown", true),
        ("a/b", false),
        ("Sales", false),
        ("a-b", false),
    ] {
        let reservation = lab
            .reserve(access(&format!("orders:read@{resource}")), LIFE)
            .await;
        let error = lab.provider.mint(&reservation).await.unwrap_err();
        let ProviderError::Unfit { pointer, reason } = error else {
            panic!("{resource}: {error:?}");
        };
        assert_eq!(pointer, "/resources");
        assert_eq!(reason.contains("no such resource"), is_a_name, "{reason}");
        assert_eq!(lab.probe(&reservation.lease().held()).await, Presence::Absent);
    }
}

#[tokio::test]
async fn only_what_bears_the_mark_of_its_lease_is_ended() {
    let Some(served) = Served::new() else { return };
    let served = served.await;
    let estate = served.estate.clone();
    let lab = Lab::new(served).await;
    let (one, other) = (lab.mint().await, lab.mint().await);
    let admin = format!("dayfly_{}", estate.mark);
    for name in [
        other.minted.handle.0.as_str(),
        "postgres",
        &admin,
        "x\"; DROP ROLE postgres; --",
    ] {
        let held = dayfly::model::lease::Held {
            handle: Some(dayfly::model::lease::Handle(name.to_owned())),
            ..one.held()
        };
        refused(lab.provider.revoke(&held).await);
        refused(lab.provider.probe(&held).await);
    }
    assert!(lab.works(&one).await && lab.works(&other).await);
}
