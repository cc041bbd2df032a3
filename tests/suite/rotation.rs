//! Signing keys turn while two brokers give out tokens and a resource server checks each: none is refused.

use std::collections::BTreeSet;
use std::time::Duration;

use dayfly_client::Evidence;
use dayfly_client::resource::{Settings, Verifier};
use serde_json::json;

use crate::process::{Installation, PATIENCE};
use crate::redis_servers;

/// How many keys sign before it is enough.
const KEYS: usize = 4;

fn kid(token: &str) -> String {
    dayfly::keys::jose::Unverified::parse(token, 4096)
        .unwrap()
        .header()
        .kid
        .clone()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_turn_under_load_without_a_refused_token() {
    let Some(mode) = redis_servers::single() else {
        return;
    };
    let files = Installation::on(mode);
    files.change("dayfly.toml", |text| {
        let keys = "keys = \"data/keys\"\n";
        assert!(text.contains(keys), "{text}");
        text.replace(keys, &format!("{keys}max_ttl = \"2s\"\nrotate_every = \"2s\"\n"))
            + "\n[tasks]\nlive_credentials = 1000000\n"
    });
    let sites = [files.broker(), files.replica()];
    let (one, other) = (sites[0].start().await, sites[1].start().await);
    // The keys come from the broker that did not sign every other token.
    let settings = Settings {
        evidence: Some(Evidence::file(files.evidence_file("crm-server").await)),
        feed: format!("http://{}/v1/revocations", sites[1].address),
        jwks: format!("http://{}/.well-known/jwks.json", sites[1].address),
        between_key_fetches: Duration::ZERO,
        ..Settings::new(files.issuer(), "https://crm.example.org")
    };
    let tool = Verifier::follow(settings).unwrap();
    tokio::time::timeout(PATIENCE, tool.ready()).await.unwrap();
    let agents = [
        files.api("support-bot", &sites[0]).await,
        files.api("support-bot", &sites[1]).await,
    ];
    let body = json!({"purpose": "answer ticket 4711", "scope": [{"tool": "crm", "actions": ["read"]}]});
    let (status, task) = agents[0].post("/v1/tasks", &body).await.unwrap();
    assert_eq!(status, 201, "{task}");
    let path = format!("/v1/tasks/{}/credentials", task["id"].as_str().unwrap());

    let mut signed = BTreeSet::new();
    let turning = async {
        while signed.len() < KEYS {
            for agent in &agents {
                let (status, issued) = agent
                    .post(&path, &json!({"tool": "crm", "actions": ["read"]}))
                    .await
                    .unwrap();
                assert_eq!(status, 201, "{issued}");
                let token = issued["credential"]["token"].as_str().unwrap();
                let verified = tool.verify(token).await;
                assert!(verified.is_ok(), "after {signed:?}: {verified:?}");
                signed.insert(kid(token));
            }
        }
    };
    tokio::time::timeout(PATIENCE, turning)
        .await
        .expect("the keys turn every two seconds");
    one.stop().await;
    other.stop().await;
}
