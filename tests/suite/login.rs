//! A login for a real database, as an agent has it from a real broker: from the request to the session
//! that is cut, and nothing of it in the logs at their most talkative.

use std::fs;
use std::time::Duration;

use dayfly::model::credential::Credential;
use dayfly::model::secret::Secret;
use serde_json::json;
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;

use crate::postgres_server::{Estate, log_in};
use crate::process::Installation;

/// The longest that a session may go on after its task.
const CUT_WITHIN: Duration = Duration::from_secs(2);

/// Lets `support-bot` read and write what this estate has.
pub(crate) fn add_database(files: &Installation, estate: &Estate) {
    let port = estate.settings().port;
    let ours = format!("dayfly_{}", estate.mark);
    files.change("dayfly.toml", |text| {
        text.replace("level = \"dayfly=info\"", "level = \"trace\"")
            + &format!(
                "\n[[provider]]\nname = \"orders-db\"\nkind = \"postgres\"\n\n[provider.postgres]\nhost = \"127.0.0.1\"\nport = {}\n\
                 database = {:?}\nusername = {:?}\npassword_file = {:?}\nrole_prefix = {:?}\n",
                port,
                estate.database(),
                ours,
                estate.password_file(),
                ours,
            )
    });
    let parameters = toml::to_string(&estate.parameters()).unwrap();
    let tool = format!(
        "name = \"orders\"\ndescription = \"Orders\"\nowner = \"Sales\"\nrisk = \"low\"\nsensitivity = \"internal\"\nzone = \"eu\"\n\
         environment = \"production\"\naudience = \"postgres://orders\"\nprovider = \"orders-db\"\nmax_ttl = \"15m\"\n\n\
         [actions]\nread = \"read\"\nwrite = \"write\"\n\n[parameters]\n{}",
        parameters.replace("[roles]", "[parameters.roles]")
    );
    fs::write(files.path("tools/orders.toml"), tool).unwrap();
    let grant = "permit(principal == Agent::\"support-bot\", action in [Action::\"orders:read\", Action::\"orders:write\"], resource in Tool::\"orders\");\n";
    fs::write(files.path("policies/30-orders.cedar"), grant).unwrap();
}

#[tokio::test]
async fn a_session_is_cut_when_its_task_completes_and_logs_hold_no_secret() {
    let Some(estate) = Estate::new() else { return };
    let estate = estate.await;
    let admin = "what-dayfly-itself-logs-in-with";
    estate
        .run(&format!("ALTER ROLE dayfly_{{}} PASSWORD '{admin}'"))
        .await;
    estate.keep_password(admin);
    let files = Installation::new();
    add_database(&files, &estate);
    let site = files.broker();
    let process = site.start().await;
    let agent = files.api("support-bot", &site).await;

    let scope =
        json!({"purpose": "close the month", "scope": [{"tool": "orders", "actions": ["read", "write"]}]});
    let (status, task) = agent.post("/v1/tasks", &scope).await.unwrap();
    assert_eq!(status, 201, "{task}");
    let task = task["id"].as_str().unwrap();
    let wanted = json!({"tool": "orders", "actions": ["read"]});
    let (status, issued) = agent
        .post(&format!("/v1/tasks/{task}/credentials"), &wanted)
        .await
        .unwrap();
    assert_eq!(status, 201, "{issued}");
    let told = &issued["credential"];
    let text = |field: &str| told[field].as_str().unwrap().to_owned();
    let password = text("password");
    let login = Credential::DatabaseLogin {
        host: text("host"),
        port: estate.settings().port,
        database: text("database"),
        username: text("username"),
        password: Secret::new(password.clone()),
    };
    let session = log_in(&login).await.unwrap();
    session.batch_execute("SELECT * FROM customers").await.unwrap();
    let asked = "SELECT rolpassword FROM pg_authid WHERE rolname = ";
    let verifier = estate.ask(&format!("{asked}'{}'", text("username"))).await;
    assert!(verifier.starts_with("SCRAM-SHA-256$"), "{verifier}");

    let began = Instant::now();
    let cut = TaskTracker::new().spawn(async move { session.batch_execute("SELECT pg_sleep(60)").await });
    let (status, ended) = agent
        .post(
            &format!("/v1/tasks/{task}/complete"),
            &json!({"outcome": "completed"}),
        )
        .await
        .unwrap();
    assert_eq!(status, 200, "{ended}");
    timeout(CUT_WITHIN, cut).await.unwrap().unwrap().unwrap_err();
    println!("cut {:?} after `complete` was sent", began.elapsed());
    log_in(&login).await.unwrap_err();

    let log = process.log();
    assert!(
        log.contains("DEBUG"),
        "nothing was said at its most talkative: {log}"
    );
    // What a server keeps is good for nothing else but guessing, and still nobody's business.
    let keys = verifier.rsplit('$').next().unwrap();
    for secret in [&password, &verifier, keys, admin] {
        assert!(!log.contains(secret), "{log}");
    }
    process.stop().await;
}
