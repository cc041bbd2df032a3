//! How Dayfly itself gets into an account: with the environment, the profile or the role that the SDK
//! finds, or with a token of its own. The real binary, because what the SDK finds is a process's own.

use std::fs;
use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use dayfly::clock::{Clock as _, ManualClock, SystemClock};
use dayfly::entropy::OsEntropy;
use dayfly::keys::key_ring::KeyRing;
use dayfly::model::time::Timestamp;
use dayfly::provider::aws_sts::{AwsSts, Settings, WayIn};
use dayfly::provider::{Provider as _, ProviderError};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::account::{Account, CONTAINER_TOKEN, EXTERNAL_ID, OWN_KEY, OWN_SECRET, ROLE};
use super::moto;
use super::oidc::{OWN_ROLE, Trust};
use crate::process::{Installation, Process, Site};
use crate::world::MORNING;

/// What an installation has of an account.
pub(crate) struct Way<'a> {
    pub(crate) endpoint: &'a str,
    pub(crate) role: &'a str,
    pub(crate) external_id: &'a str,
    pub(crate) deny_slot: bool,
    /// What `read` of `crm` may get.
    pub(crate) resource: &'a str,
    /// The settings of the way in.
    pub(crate) credentials: &'a str,
}

/// Files in which `crm` is something in AWS.
pub(crate) fn installation(way: &Way<'_>) -> Installation {
    let files = Installation::new();
    files.change("dayfly.toml", |text| {
        format!(
            "{text}\n[[provider]]\nname = \"aws\"\nkind = \"aws_sts\"\n\n[provider.aws_sts]\n\
             region = \"eu-central-1\"\nendpoint_url = \"{}\"\nroles = [\"{}\"]\ndeny_slot = {}\n{}\n",
            way.endpoint, way.role, way.deny_slot, way.credentials
        )
    });
    files.change("tools/crm.toml", |text| {
        let statement = |action: &str, calls: &str| {
            let resource = way.resource;
            format!("[parameters.statements.{action}]\nactions = [{calls}]\nresources = [\"{resource}\"]\n")
        };
        let parameters = format!(
            "\n[parameters]\nrole_arn = \"{}\"\nexternal_id = \"{}\"\n",
            way.role, way.external_id
        );
        [
            text.replace("provider = \"jwt\"", "provider = \"aws\""),
            parameters,
            statement("read", "\"s3:GetObject\""),
            statement("comment", "\"s3:PutObjectTagging\""),
            statement("export", "\"s3:GetObjectVersion\""),
            statement("delete", "\"s3:DeleteObject\""),
        ]
        .concat()
    });
    files
}

/// An installation beside an account in this process.
fn beside(account: &Account, credentials: &str) -> Installation {
    installation(&Way {
        endpoint: account.url(),
        role: ROLE,
        external_id: EXTERNAL_ID,
        deny_slot: true,
        resource: "arn:aws:s3:::acme/{resource}",
        credentials,
    })
}

async fn account() -> Arc<Account> {
    Account::at(SystemClock::new().now()).await
}

/// What an agent is answered that asks for a credential.
async fn ask(files: &Installation, site: &Site) -> (u16, Value) {
    let agent = files.api("support-bot", site).await;
    let access = json!({"tool": "crm", "actions": ["read"], "resources": ["customers/42"]});
    let body = json!({"purpose": "answer ticket 4711", "scope": [access]});
    let (status, task) = agent.post("/v1/tasks", &body).await.unwrap();
    assert_eq!(status, 201, "{task}");
    let path = format!("/v1/tasks/{}/credentials", task["id"].as_str().unwrap());
    agent.post(&path, &access).await.unwrap()
}

/// Starts, and gets a session of the account.
async fn gets_in(account: &Account, files: &Installation, site: &Site) -> Process {
    let broker = site.start().await;
    assert_eq!(account.calls("GetCallerIdentity"), 1, "{}", broker.log());
    assert_eq!(account.calls("PutRolePolicy"), 1, "the slot is proven at start");
    let (status, issued) = ask(files, site).await;
    assert_eq!(status, 201, "{issued} {}", broker.log());
    let lease = issued["lease"]["id"].as_str().unwrap();
    account.latest(|session| assert_eq!(session.name, lease));
    broker
}

fn environment(variables: &[(&str, &str)]) -> Option<Vec<(String, String)>> {
    // No machine that tests run on is asked whether it has a role.
    let quiet = [("AWS_EC2_METADATA_DISABLED", "true")];
    let all = variables.iter().chain(&quiet);
    Some(
        all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_chain_finds_a_key_in_the_environment() {
    let account = account().await;
    let files = beside(&account, "credentials = \"default\"");
    let mut site = files.broker();
    site.environment = environment(&[
        ("AWS_ACCESS_KEY_ID", OWN_KEY),
        ("AWS_SECRET_ACCESS_KEY", OWN_SECRET),
    ]);
    gets_in(&account, &files, &site).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_chain_finds_a_profile() {
    let account = account().await;
    // Without the setting: the chain is what there is by default.
    let files = beside(&account, "");
    let profiles = files.path("profiles");
    let text = format!("[dayfly]\naws_access_key_id = {OWN_KEY}\naws_secret_access_key = {OWN_SECRET}\n");
    fs::write(&profiles, text).unwrap();
    let mut site = files.broker();
    site.environment = environment(&[
        ("AWS_PROFILE", "dayfly"),
        ("AWS_SHARED_CREDENTIALS_FILE", profiles.to_str().unwrap()),
        ("AWS_CONFIG_FILE", "/nonexistent/config"),
    ]);
    gets_in(&account, &files, &site).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_chain_finds_the_role_of_a_container() {
    let account = account().await;
    let files = beside(&account, "credentials = \"default\"");
    let token = files.path("container-token");
    fs::write(&token, CONTAINER_TOKEN).unwrap();
    let agent = format!("{}/container", account.url());
    let mut site = files.broker();
    site.environment = environment(&[
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &agent),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token.to_str().unwrap()),
    ]);
    gets_in(&account, &files, &site).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_any_way_in_it_does_not_start_and_says_so() {
    let account = account().await;
    let files = beside(&account, "credentials = \"default\"");
    let mut site = files.broker();
    site.environment = environment(&[]);
    let mut broker = site.launch();
    assert!(!broker.ended().await.success());
    let log = broker.log();
    assert!(
        log.contains("the SDK's chain has no AWS credentials for Dayfly: give its pod or machine a role"),
        "{log}"
    );
}

/// A whole installation: the account fetches metadata and keys from where Dayfly listens, while it starts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_that_trusts_dayflys_tokens_fetches_its_keys_and_lets_it_in() {
    let account = account().await;
    let way = format!("credentials = \"web_identity\"\nweb_identity_role = \"{OWN_ROLE}\"");
    let files = beside(&account, &way);
    account.trust(Trust::of_the_guide(&files.issuer()));
    let mut site = files.broker();
    site.environment = environment(&[]);
    let broker = gets_in(&account, &files, &site).await;
    assert!(!broker.log().contains("cannot be reached"), "{}", broker.log());
    assert_eq!(
        account.calls("AssumeRoleWithWebIdentity"),
        1,
        "a session of Dayfly's own serves for many"
    );
}

/// As behind a load balancer that sends nobody to what is not ready yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_that_cannot_fetch_the_keys_yet_does_not_stop_the_start() {
    let account = account().await;
    let way = format!("credentials = \"web_identity\"\nweb_identity_role = \"{OWN_ROLE}\"");
    let files = beside(&account, &way);
    let balancer = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let issuer = format!("http://{}", balancer.local_addr().unwrap());
    files.change("dayfly.toml", |text| {
        let public_url = |issuer: &str| format!("public_url = \"{issuer}\"");
        // Agents go on to name where it listens.
        let audiences = format!("[identity]\naudiences = [\"{}\"]\n\n[[identity.", files.issuer());
        text.replace(&public_url(&files.issuer()), &public_url(&issuer))
            .replacen("[[identity.", &audiences, 1)
    });
    account.trust(Trust::of_the_guide(&issuer));
    let mut site = files.broker();
    site.environment = environment(&[]);
    let broker = site.start().await;
    assert_eq!(account.calls("GetCallerIdentity"), 0);
    let log = broker.log();
    assert!(
        log.contains("AWS cannot fetch our keys from `public_url`"),
        "{log}"
    );

    // Now it is ready, and is sent whoever comes.
    let address = site.address;
    let forward = Router::new().fallback(async move |uri: axum::http::Uri| {
        let client = reqwest::ClientBuilder::new().no_proxy().build().unwrap();
        let answer = client.get(format!("http://{address}{uri}")).send().await.unwrap();
        answer.bytes().await.unwrap()
    });
    #[expect(clippy::disallowed_methods, reason = "it ends with the runtime of the test")]
    tokio::spawn(async move { axum::serve(balancer, forward).await });
    let (status, issued) = ask(&files, &site).await;
    assert_eq!(status, 201, "{issued} {}", broker.log());
}

/// Keys, and the address where AWS finds them.
async fn publish() -> (String, Arc<KeyRing>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let issuer = format!("http://{}", listener.local_addr().unwrap());
    let keys = moto::keys();
    let metadata = json!({
        "issuer": issuer, "jwks_uri": format!("{issuer}/keys"), "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": ["ES256"],
    });
    let set = keys.jwks().to_string();
    let router = Router::new()
        .route(
            "/.well-known/openid-configuration",
            get(async move || axum::Json(metadata)),
        )
        .route("/keys", get(async move || set));
    #[expect(clippy::disallowed_methods, reason = "it ends with the runtime of the test")]
    tokio::spawn(async move { axum::serve(listener, router).await });
    (issuer, keys)
}

/// A provider that comes in with a token of this issuer.
fn visitor(settings: Settings, issuer: &str, subject: &str, keys: &Arc<KeyRing>, now: Timestamp) -> AwsSts {
    let settings = Settings {
        way_in: WayIn::WebIdentity {
            role: OWN_ROLE.parse().unwrap(),
            issuer: issuer.into(),
            subject: subject.into(),
        },
        ..settings
    };
    let clock = Arc::new(ManualClock::at(now));
    AwsSts::new(settings, clock, Arc::new(OsEntropy::new()), Arc::clone(keys))
}

#[tokio::test]
async fn a_token_is_looked_at_and_what_is_wrong_with_it_is_said() {
    let account = Account::open().await;
    let (issuer, keys) = publish().await;
    let trust = Trust::of_the_guide(&issuer);
    let another = Trust {
        audience: "another".into(),
        ..trust.clone()
    };
    let comes = async |trust: &Trust, subject: &str, keys: &Arc<KeyRing>, now: Timestamp| {
        account.trust(trust.clone());
        let visitor = visitor(account.settings(None), &issuer, subject, keys, now);
        visitor.preflight().await
    };
    comes(&trust, "dayfly", &keys, MORNING).await.unwrap();
    let before = Timestamp::from_secs(MORNING.as_secs() - 301);
    let no_provider = "make `public_url` an identity provider of the account";
    for (told, is_for_good, expected) in [
        (
            comes(&trust, "another", &keys, MORNING).await,
            true,
            "with this `aud` and `sub`",
        ),
        (comes(&another, "dayfly", &keys, MORNING).await, true, no_provider),
        (
            comes(&Trust::of_the_guide("http://other"), "dayfly", &keys, MORNING).await,
            true,
            no_provider,
        ),
        (
            comes(&trust, "dayfly", &moto::keys(), MORNING).await,
            false,
            "AWS cannot fetch our keys",
        ),
        (
            comes(&trust, "dayfly", &keys, before).await,
            false,
            "check the clock of this machine",
        ),
    ] {
        let told = told.unwrap_err();
        assert_eq!(matches!(told, ProviderError::Refused(_)), is_for_good, "{told:?}");
        assert!(
            told.to_string().contains(expected),
            "{expected}\nis not in\n{told}"
        );
    }
}

/// It does not look at the token, but at the call.
#[tokio::test]
async fn moto_gives_a_session_for_a_token() {
    let Some(url) = moto::server("DAYFLY_TEST_AWS_OPEN") else {
        return;
    };
    let account = Account::open().await;
    let (issuer, keys) = publish().await;
    let settings = Settings {
        endpoint_url: Some(url),
        ..account.settings(None)
    };
    let visitor = visitor(settings, &issuer, "dayfly", &keys, MORNING);
    visitor.preflight().await.unwrap();
}
