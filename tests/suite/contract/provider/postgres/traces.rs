//! What logins leave behind: nothing, however many there were, and no secret anywhere.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use tokio::time::Instant;

use super::super::Lab;
use super::Served;
use crate::postgres_server::{Estate, now, session, variable};

/// How much there is of everything that a login can leave a trace in.
async fn sizes(estate: &Estate) -> Vec<String> {
    let mut sizes = Vec::new();
    for question in [
        "SELECT count(*) FROM pg_roles WHERE starts_with(rolname, 'dayfly_{}_')",
        "SELECT count(*) FROM pg_auth_members JOIN pg_roles g ON g.oid = roleid WHERE strpos(g.rolname, '{}') > 0",
        "SELECT count(*) FROM pg_auth_members WHERE member NOT IN (SELECT oid FROM pg_roles)",
        "SELECT sum(pg_column_size(relacl)) FROM pg_class",
        "SELECT sum(pg_column_size(datacl)) FROM pg_database WHERE datname = current_database()",
        "SELECT count(*) FROM pg_db_role_setting WHERE setrole <> 0 AND setrole NOT IN (SELECT oid FROM pg_roles)",
        "SELECT count(*) FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass \
         AND refobjid NOT IN (SELECT oid FROM pg_roles)",
    ] {
        sizes.push(estate.ask(question).await);
    }
    sizes
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// As many as `DAYFLY_TEST_LEASES` says, or three hundred. With the variable, says how long it took.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_leases_leave_nothing_behind() {
    let Some(served) = Served::new() else { return };
    let mut served = served.await;
    let asked = variable("DAYFLY_TEST_LEASES").map(|count| count.parse::<usize>().unwrap());
    let count = asked.unwrap_or(300);
    let estate = served.estate.clone();
    served.tool.binding.parameters.insert(
        "create".into(),
        serde_json::json!([
            "ALTER ROLE {role} IN DATABASE {database} SET statement_timeout = '30s'",
            "COMMENT ON ROLE {role} IS {lease}",
        ]),
    );
    let lab = Lab::new(served).await;
    let before = sizes(&estate).await;
    let (mut mints, mut minting, mut ending) = (Vec::new(), Duration::ZERO, Duration::ZERO);
    let mut left = count;
    while left > 0 {
        // Fewer than can be late for their own reservations by the world's clock, which stands still.
        let some = left.min(200);
        left -= some;
        lab.world.clock.set(now());
        let begun = Instant::now();
        let out: Vec<_> = stream::iter(0..some)
            .map(|_| async {
                let begun = Instant::now();
                (lab.mint().await, begun.elapsed())
            })
            .buffer_unordered(4)
            .collect()
            .await;
        minting += begun.elapsed();
        let last = out.last().map(|(out, _)| out).unwrap();
        assert!(lab.works(last).await);
        let begun = Instant::now();
        let ends = stream::iter(&out).map(|(out, _)| lab_end(&lab, out));
        ends.buffer_unordered(16).collect::<Vec<_>>().await;
        ending += begun.elapsed();
        mints.extend(out.into_iter().map(|(_, took)| took));
    }
    assert_eq!(sizes(&estate).await, before);
    assert_eq!(before[0], "0");
    if asked.is_some() {
        let rate = |time: Duration| u32::try_from(count).map_or(0.0, f64::from) / time.as_secs_f64();
        println!(
            "{count} leases: mint p50 {:?} by 4, {:.0}/s; ended {:.0}/s by 16",
            median(mints),
            rate(minting),
            rate(ending),
        );
    }
}

async fn lab_end(lab: &Lab, out: &super::super::Out) {
    lab.provider.revoke(&out.held()).await.unwrap();
    lab.is_gone(&out.held()).await;
}

/// One after the other, beside the same statements said directly. Only where figures are asked for.
#[tokio::test]
async fn figures_of_a_mint_beside_its_statement() {
    if variable("DAYFLY_TEST_LEASES").is_none() {
        return;
    }
    let Some(served) = Served::new() else { return };
    let served = served.await;
    let estate = served.estate.clone();
    let lab = Lab::new(served).await;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for number in 0..200 {
        lab.world.clock.set(now());
        let reservation = lab.named(lab.subject.access(), super::super::LIFE).await;
        let begun = Instant::now();
        lab.provider.mint(&reservation).await.unwrap();
        ours.push(begun.elapsed());
        let begun = Instant::now();
        estate
            .run(&format!(
                "CREATE ROLE plain_{{}}_{number} LOGIN CONNECTION LIMIT 5 PASSWORD \
                 'SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:\
                 wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=' VALID UNTIL '2100-01-01' IN ROLE reader_{{}}"
            ))
            .await;
        theirs.push(begun.elapsed());
    }
    let (ours, theirs) = (median(ours), median(theirs));
    println!("mint p50 {ours:?}, the statement alone p50 {theirs:?}");
}

#[tokio::test]
async fn no_password_reaches_the_log_or_the_statistics_of_the_server() {
    let Some(served) = Served::new() else { return };
    let served = served.await;
    let estate = served.estate.clone();
    let lab = Lab::new(served).await;
    let out = lab.mint().await;
    let dayfly::model::credential::Credential::DatabaseLogin {
        password, username, ..
    } = &out.minted.credential
    else {
        panic!("not a login");
    };
    let log = |what: &str| format!("SELECT strpos(pg_read_file('server.log'), '{what}') > 0");
    assert_eq!(
        estate.ask(&log(username)).await,
        "t",
        "the log tells that it was made"
    );
    assert_eq!(estate.ask(&log(password.expose())).await, "f");
    let seen = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND strpos(query, '{}') > 0",
        password.expose()
    );
    assert_eq!(estate.ask(&seen).await, "0");
    let verifier = estate
        .ask(&format!(
            "SELECT rolpassword FROM pg_authid WHERE rolname = '{username}'"
        ))
        .await;
    assert!(verifier.starts_with("SCRAM-SHA-256$4096:"), "{verifier}");

    // Every error of a life, and nothing in it.
    let reservation = lab.named(lab.subject.access(), super::super::LIFE).await;
    lab.provider.mint(&reservation).await.unwrap();
    let twice = lab.provider.mint(&reservation).await.unwrap_err();
    estate.run("ALTER ROLE dayfly_{} NOCREATEROLE").await;
    let forbidden = lab.provider.revoke(&out.held()).await.unwrap_err();
    estate.run("ALTER ROLE dayfly_{} CREATEROLE").await;
    for error in [twice, forbidden] {
        let told = format!("{error} {error:?}");
        for secret in [
            "SCRAM",
            "PASSWORD",
            "CREATE ROLE",
            "ALTER ROLE",
            password.expose(),
        ] {
            assert!(!told.contains(secret), "{told}");
        }
    }
}

/// What the server keeps is what a client of another make can log in with.
#[tokio::test]
async fn the_usual_client_logs_in() {
    let Some(served) = Served::new() else { return };
    let lab = Lab::new(served.await).await;
    let out = lab.mint().await;
    let dayfly::model::credential::Credential::DatabaseLogin {
        host,
        port,
        database,
        username,
        password,
    } = &out.minted.credential
    else {
        panic!("not a login");
    };
    let url = format!(
        "postgres://{username}:{}@{host}:{port}/{database}",
        password.expose()
    );
    let client = session(&url.parse().unwrap()).await.unwrap();
    client
        .simple_query("SELECT count(*) FROM customers")
        .await
        .unwrap();
    client.simple_query("CREATE ROLE more").await.unwrap_err();
    client.simple_query("SELECT * FROM invoices").await.unwrap_err();
    if let Ok(said) = std::process::Command::new("psql")
        .args([
            &url,
            "--tuples-only",
            "--no-align",
            "--command",
            "SELECT current_user",
        ])
        .output()
    {
        assert_eq!(String::from_utf8(said.stdout).unwrap().trim(), username);
    }
}
