//! What only the Vault provider promises.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dayfly::clock::ManualClock;
use dayfly::model::credential::Credential;
use dayfly::model::lease::Ending;
use dayfly::provider::vault::{Login, VaultProvider};
use dayfly::provider::{Presence, Provider, ProviderError};
use serde_json::{Value, json};

use super::super::{LIFE, Lab};
use super::{Vault, ask, furnish, keys, settings, write};
use crate::world::vault::{ROOT, VaultTwin};
use crate::world::{ISSUER, MORNING};

/// A tool with one way to its secrets, and the twin behind it.
async fn lab(secret: Value, more: Value) -> (Lab, VaultTwin) {
    let mut parameters = json!({
        "policies": ["dayfly-orders"], "secret": { "read": secret, "write": secret },
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        parameters[key] = value.clone();
    }
    let wanted = match parameters.to_string().contains("{resource}") {
        true => "orders:read@eu",
        false => "orders:read",
    };
    let vault = Vault::twin(parameters, wanted).await;
    let twin = vault.twin.clone().unwrap();
    (Lab::new(vault).await, twin)
}

fn database() -> Value {
    json!({ "kind": "leased", "path": "database/creds/orders-{resource}" })
}

fn field(credential: &Credential, name: &str) -> String {
    let Credential::Fields(fields) = credential else {
        panic!("no fields")
    };
    fields[name].expose().to_owned()
}

async fn failure(lab: &Lab) -> ProviderError {
    let reservation = lab.named(lab.subject.access(), LIFE).await;
    let error = lab.provider.mint(&reservation).await.unwrap_err();
    lab.provider.revoke(&reservation.lease().held()).await.unwrap();
    error
}

#[tokio::test]
async fn a_secret_of_an_engine_ends_with_the_token_of_its_lease() {
    let (lab, twin) = lab(database(), Value::Null).await;
    let before = twin.inside().counts();
    let out = lab.mint().await;
    assert_eq!(twin.inside().counts(), (before.0 + 1, before.1 + 1));
    assert!(out.minted.handle.0.contains(" database/creds/orders-eu/"));
    lab.provider.revoke(&out.held()).await.unwrap();
    assert_eq!(twin.inside().counts(), before);
    assert_eq!(lab.probe(&out.held()).await, Presence::Absent);
}

#[tokio::test]
async fn a_lease_that_the_server_still_has_is_not_absent() {
    let (lab, twin) = lab(database(), Value::Null).await;
    let out = lab.mint().await;
    let other = lab.mint().await;
    let accessor = out.minted.handle.0.split(' ').next().unwrap();
    let lease = other.minted.handle.0.split(' ').nth(1).unwrap();
    let mixed = dayfly::model::lease::Handle(format!("{accessor} {lease}"));
    let body = json!({ "accessor": accessor });
    ask(&twin.address, ROOT, "POST", "auth/token/revoke-accessor", body).await;
    let held = dayfly::model::lease::Held {
        handle: Some(mixed),
        ..out.held()
    };
    assert_eq!(lab.probe(&held).await, Presence::Present);
}

#[tokio::test]
async fn a_stored_secret_is_said_to_outlive_its_lease() {
    for (path, select) in [("kv/data/{resource}", Some("/data")), ("kv1/{resource}", None)] {
        let mut secret = json!({ "kind": "stored", "path": path, "fields": ["key"] });
        if let Some(select) = select {
            secret["select"] = select.into();
        }
        let (lab, twin) = lab(secret, Value::Null).await;
        let entry = json!({ "key": "stored-secret", "other": 1 });
        let at = path.replace("{resource}", "eu");
        twin.inside().kv.insert(at, entry.as_object().unwrap().clone());
        assert_eq!(lab.promise().ending, Ending::Never);
        let out = lab.mint().await;
        let Credential::Fields(fields) = &out.minted.credential else {
            panic!("no fields")
        };
        assert_eq!(fields.len(), 1, "the rest is not handed out");
        assert_eq!(field(&out.minted.credential, "key"), "stored-secret");
        lab.provider.revoke(&out.held()).await.unwrap();
        assert_eq!(lab.probe(&out.held()).await, Presence::Unknown);
        assert_eq!(lab.listed(out.lease.id).await, []);
    }
}

#[tokio::test]
async fn what_only_time_ends_says_when_it_ends() {
    let secret = json!({
        "kind": "expiring", "method": "write", "path": "pki/issue/agents", "expires": "expiration",
        "body": { "common_name": "{agent}.example.org", "ttl": "{ttl}" },
    });
    let (lab, _) = lab(secret, Value::Null).await;
    assert_eq!(lab.promise().ending, Ending::AtExpiry);
    let out = lab.mint().await;
    assert_eq!(out.minted.expires_at, out.lease.expires_at);
    assert_eq!(
        field(&out.minted.credential, "common_name"),
        "support-bot.example.org"
    );
    assert_eq!(field(&out.minted.credential, "ca_chain"), r#"["a","b"]"#);
    lab.provider.revoke(&out.held()).await.unwrap();
    assert_eq!(lab.probe(&out.held()).await, Presence::Unknown);
}

#[tokio::test]
async fn what_lives_longer_than_permitted_is_refused() {
    let secret = json!({
        "kind": "expiring", "method": "write", "path": "aws/sts/deploy", "body": { "ttl": "{ttl}" },
    });
    let (lab, _) = lab(secret, Value::Null).await;
    let reservation = lab.named(lab.subject.access(), Duration::from_secs(60)).await;
    let error = lab.provider.mint(&reservation).await.unwrap_err();
    assert!(matches!(error, ProviderError::Refused(_)), "{error}");
    assert!(
        error
            .to_string()
            .contains("would live 900 s where 60 s are permitted"),
        "{error}"
    );
    lab.provider.revoke(&reservation.lease().held()).await.unwrap();
    assert_eq!(lab.listed(reservation.lease().id).await, []);
}

#[tokio::test]
async fn a_lease_that_is_too_long_is_shortened_and_one_that_is_short_is_said_to_be() {
    let (lab, _) = lab(database(), Value::Null).await;
    let out = lab.mint().await;
    assert_eq!(out.minted.expires_at, out.lease.expires_at);
    lab.subject.pass(LIFE).await;
    assert!(!lab.works(&out).await, "the role would have given two hours");
    let (lab, twin) = self::lab(database(), Value::Null).await;
    let short = ("orders-eu".to_owned(), (60, 86_400));
    twin.inside().database_roles.extend([short]);
    let out = lab.mint().await;
    assert!(out.minted.expires_at < out.lease.expires_at);
}

#[tokio::test]
async fn a_secret_without_a_lease_is_not_called_leased() {
    let secret = json!({ "kind": "leased", "path": "kv1/{resource}" });
    let (lab, twin) = lab(secret, Value::Null).await;
    let entry = json!({ "key": "stored-secret" });
    twin.inside()
        .kv
        .insert("kv1/eu".into(), entry.as_object().unwrap().clone());
    let error = failure(&lab).await.to_string();
    assert!(error.contains("keeps no lease"), "{error}");
}

#[tokio::test]
async fn a_wrapped_secret_is_fetched_once() {
    let (lab, twin) = lab(database(), json!({ "wrap_ttl": "60s" })).await;
    let out = lab.mint().await;
    let token = field(&out.minted.credential, "wrapping_token");
    let unwrap = || {
        ask(
            &twin.address,
            "",
            "POST",
            "sys/wrapping/unwrap",
            json!({ "token": token }),
        )
    };
    let (status, answer) = unwrap().await;
    assert_eq!(status, 200);
    let [username, password] = ["username", "password"].map(|name| answer["data"][name].as_str().unwrap());
    assert!(twin.inside().lets_in(username, password));
    assert_eq!(unwrap().await.0, 400);
    lab.provider.revoke(&out.held()).await.unwrap();
    assert!(!twin.inside().lets_in(username, password));
}

#[tokio::test]
async fn an_answer_says_whether_to_come_again() {
    let (lab, twin) = lab(database(), Value::Null).await;
    let out = lab.mint().await;
    for status in [503, 500, 502, 412, 472, 473, 307] {
        twin.inside().down = Some(status);
        let error = lab.provider.revoke(&out.held()).await.unwrap_err();
        assert!(
            matches!(error, ProviderError::Unavailable(_)),
            "{status}: {error}"
        );
    }
    twin.inside().down = Some(429);
    let error = lab.provider.revoke(&out.held()).await.unwrap_err();
    assert!(matches!(error, ProviderError::Throttled { .. }), "{error}");
    twin.inside().down = None;
    lab.provider.revoke(&out.held()).await.unwrap();
}

#[tokio::test]
async fn the_policies_of_the_tool_are_all_that_a_lease_may_do() {
    let secret = json!({ "kind": "leased", "path": "other/creds/{resource}" });
    let (lab, twin) = lab(secret, Value::Null).await;
    let error = failure(&lab).await;
    assert!(matches!(error, ProviderError::Refused(_)), "{error}");
    let said = "asking other/creds/eu for the secret: Vault answered 403, permission denied";
    assert!(error.to_string().contains(said), "{error}");
    let logins = |twin: &VaultTwin| {
        let inside = twin.inside();
        let looks = inside
            .requests
            .iter()
            .filter(|(_, path)| path == "auth/token/lookup-self");
        looks.count()
    };
    assert_eq!(logins(&twin), 1, "a tool's denial is no reason to log in");
}

#[tokio::test]
async fn a_token_of_dayfly_that_is_no_longer_good_is_replaced_once() {
    let clock = Arc::new(ManualClock::at(MORNING));
    let twin = VaultTwin::start(clock.clone(), keys()).await;
    super::install_tls();
    furnish(&twin.address, ROOT).await;
    {
        let mut inside = twin.inside();
        inside.logins.app_role = Some(("r-1".into(), "s-1".into()));
        inside.logins.policies = vec!["dayfly".into()];
    }
    let folder = tempfile::tempdir().unwrap();
    let login = Login::AppRole {
        mount: "approle".into(),
        role_id_file: write(folder.path(), "role", "r-1\n"),
        secret_id_file: write(folder.path(), "secret", "s-1"),
    };
    let provider = VaultProvider::new(settings(&twin.address, login), clock.clone()).unwrap();
    provider.preflight().await.unwrap();
    let logins = || {
        let inside = twin.inside();
        inside
            .requests
            .iter()
            .filter(|(_, path)| path.ends_with("/login"))
            .count()
    };
    assert_eq!(logins(), 1);
    // Past two thirds of its life it is renewed; past its longest life there is another login.
    clock.advance(Duration::from_secs(2500));
    provider.inventory().await.unwrap();
    assert_eq!(logins(), 1);
    clock.advance(Duration::from_secs(8000));
    provider.inventory().await.unwrap();
    assert_eq!(logins(), 2);
    // Somebody ended it.
    clock.advance(Duration::from_secs(60));
    twin.inside().forget_logins();
    provider.inventory().await.unwrap();
    assert_eq!(logins(), 3);
    // It lacks what it needs: one denial so soon after a login is believed.
    twin.inside().policies.remove("dayfly");
    let error = provider.inventory().await.unwrap_err();
    assert!(
        error.to_string().contains("list auth/token/accessors, with sudo"),
        "{error}"
    );
    assert_eq!(logins(), 3);
}

#[tokio::test]
async fn dayfly_logs_in_as_it_is_told_and_in_its_namespace() {
    let clock = Arc::new(ManualClock::at(MORNING));
    let keys = keys();
    let twin = VaultTwin::start(clock.clone(), keys.clone()).await;
    super::install_tls();
    furnish(&twin.address, ROOT).await;
    {
        let mut inside = twin.inside();
        inside.namespace = Some("team-a".into());
        inside.logins.bound = Some((ISSUER.into(), "vault".into()));
        inside.logins.service_accounts.insert("sa-token".into());
        inside.logins.policies = vec!["dayfly".into()];
    }
    let folder = tempfile::tempdir().unwrap();
    let jwt = |audience: &str| Login::Jwt {
        mount: "jwt".into(),
        role: "dayfly".into(),
        audience: audience.into(),
        issuer: ISSUER.into(),
        keys: keys.clone(),
    };
    let kubernetes = |token: &str| Login::Kubernetes {
        mount: "kubernetes".into(),
        role: "dayfly".into(),
        token_file: write(folder.path(), token, token),
    };
    for (login, knows) in [
        (jwt("vault"), true),
        (jwt("https://crm.example.org"), false),
        (kubernetes("sa-token"), true),
        (kubernetes("another"), false),
    ] {
        let kind = format!("{login:?}");
        let mut settings = settings(&twin.address, login);
        settings.reach.namespace = Some("team-a".into());
        let checked = VaultProvider::new(settings, clock.clone())
            .unwrap()
            .preflight()
            .await;
        assert_eq!(checked.is_ok(), knows, "{kind}: {checked:?}");
        if let Err(error) = checked {
            assert!(matches!(error, ProviderError::Refused(_)), "{error}");
        }
    }
    let elsewhere = settings(&twin.address, jwt("vault"));
    let elsewhere = VaultProvider::new(elsewhere, clock).unwrap();
    elsewhere.preflight().await.unwrap_err();
}

#[tokio::test]
async fn the_check_at_start_names_what_is_missing() {
    let (lab, twin) = lab(database(), Value::Null).await;
    lab.provider.preflight().await.unwrap();
    let before = twin.inside().counts();
    let whole = twin.inside().policies["dayfly"].clone();
    for path in [
        "auth/token/revoke-accessor",
        "sys/leases/lookup",
        "auth/token/create/dayfly",
    ] {
        let mut policy = whole.clone();
        policy.remove(path);
        twin.inside().policies.insert("dayfly".into(), policy);
        let error = lab.provider.preflight().await.unwrap_err().to_string();
        assert!(error.contains(&format!("lacks `update` on {path}")), "{error}");
    }
    twin.inside().policies.insert("dayfly".into(), whole);
    for (key, value, said) in [
        ("orphan", json!(false), "orphan = true"),
        ("token_type", json!("batch"), "cannot be revoked"),
    ] {
        let role = twin.inside().token_roles["dayfly"].clone();
        twin.inside().token_roles.get_mut("dayfly").unwrap()[key] = value;
        let error = lab.provider.preflight().await.unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
        twin.inside().token_roles.insert("dayfly".into(), role);
    }
    lab.subject.pass(Duration::from_secs(31)).await;
    assert_eq!(twin.inside().counts(), before, "it leaves nothing behind");
}

#[tokio::test]
async fn a_token_that_is_not_as_asked_for_is_ended_at_once() {
    let (lab, twin) = lab(database(), Value::Null).await;
    let before = twin.inside().counts();
    twin.inside().token_roles.get_mut("dayfly").unwrap()["token_period"] = "24h".into();
    let reservation = lab.reserve(lab.subject.access(), LIFE).await;
    let error = lab.provider.prepare(&reservation).await.unwrap_err();
    assert!(
        error.to_string().contains("must not set `token_period`"),
        "{error}"
    );
    assert_eq!(twin.inside().counts(), before);
}

#[tokio::test]
async fn another_dayfly_at_the_same_server_is_left_alone() {
    let (lab, twin) = lab(database(), Value::Null).await;
    let out = lab.mint().await;
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), "token", ROOT);
    let other = dayfly::provider::vault::Settings {
        issuer: "https://other.example.org".into(),
        ..settings(&twin.address, Login::Token { file })
    };
    let other = VaultProvider::new(other, Arc::new(ManualClock::at(MORNING))).unwrap();
    assert_eq!(other.inventory().await.unwrap(), []);
    other.revoke(&out.nameless()).await.unwrap();
    assert!(lab.works(&out).await);
}

/// Whatever is written to it.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<u8>>>);

impl io::Write for Heard {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn nothing_secret_is_in_an_error_or_a_log() {
    let heard = Heard::default();
    let writer = heard.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    // With one subscriber alone, a place that another thread comes to first is taken to be unheard.
    let second = tracing::Dispatch::new(tracing_subscriber::registry());
    let guard = tracing::subscriber::set_default(subscriber);
    let (lab, twin) = lab(database(), json!({ "renew_for": "12h" })).await;
    let out = lab.mint().await;
    let password = field(&out.minted.credential, "password");
    let mut told = format!("{out:?} {:?}", lab.provider.inventory().await, out = out.minted);
    // The engine breaks, and what it says holds the password.
    twin.inside().jam = true;
    let reservation = lab.named(lab.subject.access(), LIFE).await;
    told.push_str(&format!("{reservation:?}"));
    let token = reservation.prepared().unwrap().secret.clone().unwrap();
    let error = lab.provider.mint(&reservation).await.unwrap_err();
    told.push_str(&format!("{error} {error:?}"));
    twin.inside().down = Some(503);
    let error = lab.provider.revoke(&out.held()).await.unwrap_err();
    told.push_str(&format!("{error} {error:?}"));
    drop((guard, second));
    told.push_str(&String::from_utf8_lossy(&heard.0.lock().unwrap()));
    assert!(told.contains("lookup-self"), "the log was heard");
    assert!(!told.contains(&password));
    assert!(!told.contains(token.expose()));
    assert!(!told.contains("hvs."), "no token of any kind");
    assert!(
        !told.contains("lost the database"),
        "nothing of the server's is quoted"
    );
}
