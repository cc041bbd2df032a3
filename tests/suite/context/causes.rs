//! Every cause by which a change of context ends a credential, and every event of CAEP: told at one of two
//! brokers on one Redis, ended at the other, refused by the tool. The latencies are printed, not judged.

use std::io::Write as _;
use std::time::Duration;

use dayfly::clock::{Clock as _, SystemClock};
use dayfly::dev::trust_domain::DevTrustDomain;
use dayfly::entropy::OsEntropy;
use dayfly::model::ttl::Ttl;
use serde_json::{Value, json};

use super::replicas::{Pair, reading};
use crate::process::Installation;
use crate::world::ISSUER;
use crate::world::transmitter::{BEARER, IDP, Transmitter, caep, claims};

/// How often one event is told to see how the latencies spread.
const TIMES: usize = 20;

/// A stream from this transmitter, about users, and policies for what it tells that the pack leaves open.
fn listening_to(files: &Installation, idp: &Transmitter) {
    std::fs::write(files.path("idp-token"), format!("{BEARER}\n")).unwrap();
    let stream = format!(
        "\n[[signals.streams]]\nname = 'idp'\nissuer = '{IDP}'\naudiences = ['{ISSUER}']\njwks_url = '{}'\n\
         token_file = 'idp-token'\nuser_ids.iss_sub = 'user:{{sub}}'\nclaims = {{ department = 'dept' }}\n\
         about = {{ users = ['user:*'] }}\ndelivery = 'push'\n",
        idp.url("/jwks.json")
    );
    files.change("dayfly.toml", |text| text + &stream);
    let policies = "
        @id(\"a-tool-of-support\") @reason(\"this is for support\")
        forbid (principal, action, resource in Tool::\"crm\") when {
            context has user && context.user.hasTag(\"department\") && context.user.getTag(\"department\") == \"sales\"
        };
        @id(\"more-than-a-password\") @reason(\"a password is too little\")
        forbid (principal, action, resource in Tool::\"crm\") when {
            context has user && context.user.hasTag(\"assurance\") && context.user.getTag(\"assurance\") == \"nist-aal1\"
        };";
    std::fs::write(files.path("policies/90-users.cedar"), policies).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_event_of_caep_that_takes_something_away_ends_it_at_the_other_broker() {
    let idp = Transmitter::start().await;
    let Some(pair) = Pair::with(|files| listening_to(files, &idp)).await else {
        return;
    };
    let ear = Installation::api_with(BEARER.to_owned(), &pair.sites[0]);
    let told = async |name: &str, event: &str, body: Value| {
        let user = format!("user:{name}");
        let out = pair.issue_to(&pair.agents[1], &reading(&user)).await;
        let subject = json!({"format": "iss_sub", "iss": IDP, "sub": name});
        let claims = claims(name, &subject, &caep(event), body, SystemClock::new().now());
        let set = idp.sign(&claims).await;
        let push = async || {
            let (status, answer) = ear.push("/v1/signals/idp", set).await.unwrap();
            assert_eq!(status, 202, "{answer}");
        };
        pair.timed(&format!("the signal {event}"), &out, push).await
    };
    for (event, body, cause) in [
        ("session-revoked", json!({}), "signal"),
        (
            "credential-change",
            json!({"credential_type": "password", "change_type": "update"}),
            "signal",
        ),
        (
            "token-claims-change",
            json!({"claims": {"dept": "sales"}}),
            "not_permitted",
        ),
        (
            "assurance-level-change",
            json!({"namespace": "NIST-AAL", "current_level": "nist-aal1"}),
            "not_permitted",
        ),
        (
            "device-compliance-change",
            json!({"previous_status": "compliant", "current_status": "not-compliant"}),
            "not_permitted",
        ),
        (
            "risk-level-change",
            json!({"principal": "USER", "current_level": "HIGH"}),
            "not_permitted",
        ),
    ] {
        assert_eq!(told(event, event, body).await.0, cause, "{event}");
    }

    let mut refused = Vec::new();
    for number in 0..TIMES {
        let high = json!({"principal": "USER", "current_level": "HIGH"});
        let (cause, took) = told(&format!("ann-{number}"), "risk-level-change", high).await;
        assert_eq!(cause, "not_permitted");
        refused.push(took);
    }
    refused.sort();
    let line = format!(
        "from a signal to the refusal at the tool, {TIMES} times: p50 {:.1?}, longest {:.1?}\n",
        refused[TIMES / 2],
        refused[TIMES - 1]
    );
    std::io::stderr().write_all(line.as_bytes()).unwrap();
    pair.stop().await;
}

/// A second key of the trust domain, which vouches for one agent and goes.
struct SecondKey {
    domain: DevTrustDomain,
    key: Value,
}

impl SecondKey {
    fn new() -> Self {
        let domain = DevTrustDomain::generate("example.org".parse().unwrap(), &OsEntropy::new()).unwrap();
        let bundle: Value = serde_json::from_str(&domain.bundle()).unwrap();
        let key = bundle["keys"][0].clone();
        Self { domain, key }
    }

    /// Writes the bundle with this key or without it. It is read again every ten seconds.
    fn publish(&self, files: &Installation, sequence: u64, trusted: bool) {
        files.change("bundle.json", |text| {
            let mut bundle: Value = serde_json::from_str(&text).unwrap();
            let keys = bundle["keys"].as_array_mut().unwrap();
            keys.retain(|key| *key != self.key);
            if trusted {
                keys.push(self.key.clone());
            }
            bundle["spiffe_sequence"] = sequence.into();
            bundle["spiffe_refresh_hint"] = 10.into();
            bundle.to_string()
        });
    }

    async fn evidence(&self, files: &Installation, path: &str) -> String {
        let life = Ttl::from_secs(300).unwrap();
        let now = SystemClock::new().now();
        self.domain.svid(path, &files.issuer(), now, life).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lapses_ends_at_the_other_broker() {
    let second = SecondKey::new();
    let Some(pair) = Pair::with(|files| {
        second.publish(files, 2, true);
        files.change("dayfly.toml", |text| {
            text + "\n[tasks]\nbind_to_attestation = true\n"
        });
    })
    .await
    else {
        return;
    };
    let evidence = second.evidence(&pair.files, "agents/support-bot").await;
    let agent = Installation::api_with(evidence, &pair.sites[1]);
    let out = pair.issue_to(&agent, &reading("user:7")).await;
    let own = pair.issue(1).await;
    let withdraw = async || second.publish(&pair.files, 3, false);
    let what = "the key behind the evidence leaves the bundle, which is read every 10 s";
    assert_eq!(pair.ends(what, &out, withdraw).await, "attestation_revoked");
    let (status, _) = pair.operators[0]
        .get(&format!("/v1/tasks/{}", own.task))
        .await
        .unwrap();
    assert_eq!(status, 200, "what another key vouched for stands");

    let then = SystemClock::new().now().minus(Duration::from_secs(297));
    let evidence = pair.files.evidence_of("support-bot", then).await;
    let agent = Installation::api_with(evidence, &pair.sites[1]);
    let out = pair.issue_to(&agent, &reading("user:7")).await;
    let what = "the evidence expires in up to 3 s";
    assert_eq!(pair.ends(what, &out, async || {}).await, "attestation_expired");
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_leaves_the_registry_ends_at_the_other_broker() {
    let Some(pair) = Pair::start().await else { return };
    let reload = async |broker: usize| {
        let path = "/v1/rules/reload";
        let (status, answer) = pair.operators[broker].post(path, &json!({})).await.unwrap();
        assert_eq!(status, 200, "{answer}");
    };
    let agent = "agents/support-bot.toml";
    let without = |what: &'static str| {
        move |text: String| {
            let kept = text.lines().filter(|line| !line.starts_with(what));
            kept.map(|line| format!("{line}\n")).collect::<String>()
        }
    };
    let whole = std::fs::read_to_string(pair.files.path(agent)).unwrap();
    for (what, text, cause) in [
        (
            "its owner leaves the registry",
            without("owner")(whole.clone()),
            "agent_unowned",
        ),
        (
            "its review is overdue",
            whole.replace("review_by = 2027-12-31", "review_by = 2026-01-31"),
            "review_overdue",
        ),
    ] {
        let out = pair.issue(1).await;
        pair.files.change(agent, |_| text);
        assert_eq!(pair.ends(what, &out, async || reload(0).await).await, cause);
        pair.files.change(agent, |_| whole.clone());
        reload(0).await;
        reload(1).await;
    }

    let crm = "tools/crm.toml";
    let out = pair.issue(1).await;
    let change = async || {
        // Policies name the actions of a tool, so they go first.
        pair.files.change("policies/20-grants.cedar", |text| {
            text.replace("crm:read", "crm:delete")
        });
        pair.files.change(crm, without("read = "));
        reload(0).await;
    };
    assert_eq!(
        pair.ends("the tool has the action no more", &out, change).await,
        "tool_removed"
    );
    pair.stop().await;
}
