//! Two proofs at once: a token with the request, and the workload of its connection. Both have to be the same.

use std::sync::Arc;

use dayfly::broker::Broker;
use dayfly::broker::error::BrokerError;
use dayfly::identity::claims::{Audiences, Skew, Terms};
use dayfly::identity::jwt_svid::{JwtSvid, Trusted};
use dayfly::identity::key_source::{Freshness, Origin};
use dayfly::identity::oidc::{Issuer, Oidc};
use dayfly::identity::verifiers::{CacheConfig, Verifiers};
use dayfly::identity::{Evidence, IdentityError, Workload};
use dayfly::journal::record::{Result as Outcome, Verb};
use serde_json::json;

use crate::world::{ISSUER, World};

async fn workload(world: &World, broker: &Broker, path: &str) -> Arc<Workload> {
    let evidence = world.evidence_of(path).await;
    broker.appraise(&evidence, world.request()).await.unwrap()
}

#[tokio::test]
async fn a_token_on_the_connection_of_another_workload_is_on_record_with_both() {
    let world = World::new();
    let token = world.evidence("support-bot").await;
    let own = workload(&world, &world.broker, "agents/support-bot").await;
    assert!(
        world
            .broker
            .attest_on(&token, &own, world.request())
            .await
            .is_ok()
    );
    assert!(world.records(Verb::Attest).is_empty());

    // Fresh evidence of both is news no more: somebody who took a token takes the next one too.
    for times in 1..=2 {
        let thief = workload(&world, &world.broker, "agents/report-bot").await;
        let token = world.evidence("support-bot").await;
        let refused = world.broker.attest_on(&token, &thief, world.request()).await;
        let refused = refused.map(drop).unwrap_err();
        let as_expected = matches!(refused, BrokerError::Unidentified(IdentityError::Refused(_)));
        assert!(as_expected, "{refused}");
        let records = world.records(Verb::Attest);
        assert_eq!(records.len(), 1, "after {times}: {records:?}");
        world.clock.advance(std::time::Duration::from_secs(1));
    }
    let record = world.records(Verb::Attest).pop().unwrap();
    assert_eq!(record.result, Outcome::Denied);
    assert_eq!(record.agent.unwrap().as_str(), "support-bot");
    assert_eq!(
        *record.attested.unwrap().subject,
        *"spiffe://example.org/agents/support-bot"
    );
    let reason = record.reason.unwrap();
    assert!(
        reason.contains("`spiffe://example.org/agents/report-bot`"),
        "{reason}"
    );
    assert!(record.revision.is_some());

    let other = workload(&world, &world.broker, "ops/console").await;
    assert!(
        world
            .broker
            .attest_on(&token, &other, world.request())
            .await
            .is_err()
    );
    assert_eq!(world.records(Verb::Attest).len(), 2, "another pair is news");
}

const SIGN_IN: &str = "https://sign-in.example.org";

/// A broker that takes tokens of an OpenID Connect issuer too, and one of them for support-bot.
async fn with_issuer(world: &World) -> (Arc<Broker>, Evidence) {
    let terms = Terms {
        audiences: Audiences::new([ISSUER]).unwrap(),
        skew: Skew::default(),
        longest_life: JwtSvid::LONGEST_LIFE,
    };
    let bundle = world.trust_domain.bundle();
    let keys = Origin::Inline(bundle.replace("jwt-svid", "sig"));
    let trusted = Trusted {
        trust_domain: world.trust_domain.name().clone(),
        bundle: Origin::Inline(bundle),
        freshness: Freshness::default(),
    };
    let verifiers = Verifiers::new(
        vec![
            Arc::new(JwtSvid::new([trusted], terms.clone()).unwrap()),
            Arc::new(Oidc::new(Issuer::new(SIGN_IN, keys, terms)).unwrap()),
        ],
        CacheConfig::default(),
    );
    let broker = world.with_verifiers(verifiers);
    broker
        .rules()
        .replace(world.agents_that_read(|agent, text| match agent {
            "support-bot" => {
                text + &format!("\n[[match]]\nkind = \"oidc\"\nissuer = \"{SIGN_IN}\"\nsubject = \"bot\"\n")
            }
            _ => text,
        }));
    let now = world.now().as_secs();
    let claims = json!({"iss": SIGN_IN, "sub": "bot", "aud": ISSUER, "iat": now, "exp": now + 300});
    let token = world.trust_domain.sign(&claims).await.unwrap();
    (broker, Evidence::bearer(&token).unwrap())
}

#[tokio::test]
async fn a_token_without_a_spiffe_id_goes_with_a_connection_of_its_agent_alone() {
    let world = World::new();
    let (broker, token) = with_issuer(&world).await;
    let caller = broker.attest(&token, world.request()).await.unwrap();
    assert_eq!(caller.agent().name.as_str(), "support-bot");
    for (path, same) in [
        ("agents/support-bot", true),
        ("agents/report-bot", false),
        ("agents/nobody", false),
    ] {
        let connection = workload(&world, &broker, path).await;
        let attested = broker.attest_on(&token, &connection, world.request()).await;
        assert_eq!(attested.is_ok(), same, "{path}");
        if let Ok(caller) = attested {
            assert_eq!(
                *caller.workload().attestation().subject,
                *"bot",
                "who the request says"
            );
        }
    }
    let records = world.records(Verb::Attest);
    let named = records.iter().filter_map(|record| record.agent.as_ref());
    assert!(
        named.clone().count() == 2 && named.into_iter().all(|agent| agent.as_str() == "support-bot"),
        "{records:?}"
    );
}

#[tokio::test]
async fn a_connection_speaks_for_nobody_whose_token_is_refused() {
    let world = World::new();
    let connection = workload(&world, &world.broker, "agents/support-bot").await;
    let token = Evidence::bearer("not a token").unwrap();
    let refused = world.broker.attest_on(&token, &connection, world.request()).await;
    assert!(matches!(
        refused.map(drop),
        Err(BrokerError::Unidentified(IdentityError::Malformed(_)))
    ));
}
