//! From a signal to the credential that ends, and to those that are given out again or not.

use std::time::Duration;

use dayfly::app;
use dayfly::cli::client::{Client, Evidence};
use dayfly::clock::{Clock as _, SystemClock};
use dayfly::dev::estate::Estate;
use dayfly::entropy::OsEntropy;
use dayfly::model::lease::{Cause, Lease};
use reqwest::header::CONTENT_TYPE;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{House, SET, ann, high};
use crate::world::transmitter::{BEARER, IDP, Transmitter, caep, claims};
use crate::world::{ISSUER, order};

impl House {
    /// A lease that support-bot holds for ann.
    async fn lease_for_ann(&self) -> Lease {
        let bot = self.world.caller("support-bot").await;
        let mut order = order(&["crm:read"]);
        order.on_behalf_of = Some("user:ann".parse().unwrap());
        let task = self
            .world
            .broker
            .open(&bot, order, self.world.request())
            .await
            .unwrap();
        let issued = self.world.issue("support-bot", task.charter.id, "crm:read").await;
        issued.unwrap().lease
    }
}

#[tokio::test]
async fn what_is_told_ends_what_is_out_for_whom_it_is_about_and_for_nobody_else() {
    let risc = |name: &str| format!("https://schemas.openid.net/secevent/risc/event-type/{name}");
    let changed = |how: &str| json!({"credential_type": "password", "change_type": how});
    for (event, body, cause, again) in [
        (caep("session-revoked"), json!({}), Some(Cause::Signal), false),
        // Who changed a password goes on with the new one.
        (
            caep("credential-change"),
            changed("update"),
            Some(Cause::Signal),
            true,
        ),
        (caep("credential-change"), changed("create"), None, true),
        (
            caep("token-claims-change"),
            json!({"claims": {"dept": "sales"}}),
            None,
            true,
        ),
        (
            caep("assurance-level-change"),
            json!({"current_level": "nist-aal1"}),
            None,
            true,
        ),
        (
            caep("device-compliance-change"),
            json!({"current_status": "not-compliant"}),
            Some(Cause::NotPermitted),
            false,
        ),
        (
            caep("risk-level-change"),
            high(),
            Some(Cause::NotPermitted),
            false,
        ),
        (caep("session-established"), json!({}), None, true),
        (caep("session-presented"), json!({}), None, true),
        (risc("account-disabled"), json!({}), Some(Cause::Signal), false),
        (risc("account-purged"), json!({}), Some(Cause::Signal), false),
        (risc("account-enabled"), json!({}), None, true),
        (
            risc("credential-compromise"),
            json!({}),
            Some(Cause::Signal),
            false,
        ),
        (risc("sessions-revoked"), json!({}), Some(Cause::Signal), false),
    ] {
        let house = House::new().await;
        let lease = house.lease_for_ann().await;
        let own = house.world.open("support-bot", &["crm:read"]).await.charter.id;
        let own = house
            .world
            .issue("support-bot", own, "crm:read")
            .await
            .unwrap()
            .lease;
        house.world.clock.advance(Duration::from_secs(10));
        house.tell("set-1", &ann(), &event, body, house.ago(5)).await;
        house.settle().await;
        assert_eq!(house.cause(&lease).await, cause, "{event}");
        assert_eq!(house.cause(&own).await, None, "{event}");
        house.world.clock.advance(Duration::from_secs(60));
        let issued = house.world.issue("support-bot", lease.task, "crm:read").await;
        assert_eq!(issued.is_ok(), again, "{event}: {issued:?}");
    }
}

#[tokio::test]
async fn what_is_given_back_is_given_out_again() {
    let house = House::new().await;
    let lease = house.lease_for_ann().await;
    house
        .tell("set-1", &ann(), &caep("session-revoked"), json!({}), house.ago(5))
        .await;
    house.settle().await;
    assert_eq!(house.cause(&lease).await, Some(Cause::Signal));
    house.world.clock.advance(Duration::from_secs(60));
    assert!(
        house
            .world
            .issue("support-bot", lease.task, "crm:read")
            .await
            .is_err()
    );
    house
        .tell(
            "set-2",
            &ann(),
            &caep("session-established"),
            json!({}),
            house.ago(5),
        )
        .await;
    assert!(
        house
            .world
            .issue("support-bot", lease.task, "crm:read")
            .await
            .is_ok()
    );
    // And should nobody say so, when no task of before can live any more.
    house
        .tell("set-3", &ann(), &caep("session-revoked"), json!({}), house.ago(1))
        .await;
    assert_eq!(house.facts().await.len(), 1);
    house.world.clock.advance(Duration::from_secs(24 * 3600));
    assert!(house.facts().await.is_empty());
}

#[tokio::test]
async fn a_signal_about_one_token_ends_that_one() {
    let house = House::new().await;
    let (one, other) = (house.lease_for_ann().await, house.lease_for_ann().await);
    house.world.clock.advance(Duration::from_secs(10));
    let token = json!({"format": "jwt_id", "iss": ISSUER, "jti": one.id.to_string()});
    let update = json!({"credential_type": "x509", "change_type": "revoke"});
    house
        .tell("set-1", &token, &caep("credential-change"), update, house.ago(5))
        .await;
    house.settle().await;
    assert_eq!(house.cause(&one).await, Some(Cause::Signal));
    assert_eq!(house.cause(&other).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_started_dayfly_listens_and_ends_what_it_gave_out() {
    let idp = Transmitter::start().await;
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let estate = Estate::lay_out(folder.path(), address, &OsEntropy::new()).unwrap();
    let clock = SystemClock::new();
    estate.write_evidence(clock.now()).await.unwrap();
    std::fs::write(folder.path().join("token"), BEARER).unwrap();
    let mut configuration = std::fs::read_to_string(estate.configuration()).unwrap();
    for (name, delivery) in [
        ("pushed", "'push'".to_owned()),
        ("polled", format!("'poll'\npoll.url = '{}'", idp.url("/poll"))),
    ] {
        configuration += &format!(
            "\n[[signals.streams]]\nname = '{name}'\nissuer = '{IDP}'\naudiences = ['{ISSUER}']\njwks_url = '{}'\n\
             token_file = '{}'\nuser_ids.iss_sub = 'user:{{sub}}'\nabout.users = ['user:*']\ndelivery = {delivery}\n",
            idp.url("/jwks.json"),
            folder.path().join("token").display(),
        );
    }
    std::fs::write(estate.configuration(), configuration).unwrap();
    let running = app::start_on(listener, &estate.configuration()).await.unwrap();
    let evidence = Evidence::file(estate.evidence_file("support-bot"));
    let client = Client::new(&format!("http://{address}"), Some(evidence)).unwrap();
    let credential = async |user: &str| {
        let order = json!({
            "purpose": "p", "on_behalf_of": user, "scope": [{"tool": "crm", "actions": ["read"]}],
        });
        let task = client.post("/v1/tasks", order).await.unwrap();
        let ask = json!({"tool": "crm", "actions": ["read"]});
        let path = format!("/v1/tasks/{}/credentials", task["id"].as_str().unwrap());
        client.post(&path, ask).await.unwrap()["lease"]["id"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let (ann, bob) = (credential("user:ann").await, credential("user:bob").await);
    let revoked = async |jti: &str, sub: &str| {
        let subject = json!({"format": "iss_sub", "iss": IDP, "sub": sub});
        idp.sign(&claims(
            jti,
            &subject,
            &caep("session-revoked"),
            json!({}),
            clock.now(),
        ))
        .await
    };
    idp.keep("set-1", revoked("set-1", "ann").await);
    let http = reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([])
        .build()
        .unwrap();
    let push = http
        .post(format!("http://{address}/v1/signals/pushed"))
        .header(CONTENT_TYPE, SET)
        .bearer_auth(BEARER)
        .body(revoked("set-2", "bob").await);
    assert_eq!(push.send().await.unwrap().status(), 202);
    idp.until("it is fetched", |idp| idp.kept().is_empty()).await;
    for lease in [ann, bob] {
        let mut state = Value::Null;
        for _ in 0..200 {
            state = client.get(&format!("/v1/leases/{lease}")).await.unwrap();
            if state["state"] == "ended" {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(
            (&state["state"], &state["cause"]),
            (&json!("ended"), &json!("signal")),
            "{state}"
        );
    }
    running.stop(&tokio::sync::Notify::new()).await.unwrap();
}
