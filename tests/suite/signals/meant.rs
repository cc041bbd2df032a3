//! What each event does, and to whom.

use dayfly::journal::record::{Result as Outcome, Verb};
use dayfly::model::cutoff::Selector;
use dayfly::model::lease::Cause;
use serde_json::json;

use super::{House, ann, high};
use crate::world::ISSUER;
use crate::world::transmitter::{IDP, caep, claims};

#[tokio::test]
async fn each_event_has_its_effects() {
    const RISC: &str = "https://schemas.openid.net/secevent/risc/event-type/";
    let risc = |name: &str| format!("{RISC}{name}");
    for (event, body, facts, cut) in [
        (caep("session-revoked"), json!({}), &["session=revoked"][..], true),
        (
            caep("credential-change"),
            json!({"credential_type": "password", "change_type": "update"}),
            &[],
            true,
        ),
        (
            caep("credential-change"),
            json!({"credential_type": "pin", "change_type": "create"}),
            &[],
            false,
        ),
        (
            caep("token-claims-change"),
            json!({"claims": {"dept": "Sales", "x": 1}}),
            &["department=sales"],
            false,
        ),
        (
            caep("assurance-level-change"),
            json!({"namespace": "NIST-AAL", "current_level": "nist-aal1", "change_direction": "decrease"}),
            &["assurance=nist-aal1"],
            false,
        ),
        (
            caep("device-compliance-change"),
            json!({"previous_status": "compliant", "current_status": "not-compliant"}),
            &["device=not-compliant"],
            false,
        ),
        (caep("risk-level-change"), high(), &["risk=high"], false),
        (caep("session-established"), json!({}), &[], false),
        (caep("session-presented"), json!({}), &[], false),
        (
            risc("account-disabled"),
            json!({"reason": "hijacking"}),
            &["account=disabled"],
            true,
        ),
        (risc("account-purged"), json!({}), &["account=disabled"], true),
        (
            risc("credential-compromise"),
            json!({"credential_type": "password"}),
            &["credential=compromised"],
            true,
        ),
        (risc("sessions-revoked"), json!({}), &["session=revoked"], true),
    ] {
        let house = House::new().await;
        house.tell("set-1", &ann(), &event, body, house.ago(60)).await;
        let facts: Vec<_> = facts.iter().map(|fact| format!("user/user:ann {fact}")).collect();
        assert_eq!(house.facts().await, facts, "{event}");
        let cutoffs: Vec<_> = house
            .cutoffs()
            .await
            .into_iter()
            .map(|cutoff| (cutoff.selector, cutoff.up_to))
            .collect();
        let user = Selector::User("user:ann".parse().unwrap());
        // As far as clocks may differ.
        let meant = cut.then(|| (user, house.ago(30)));
        assert_eq!(cutoffs, Vec::from_iter(meant), "{event}");
        assert_eq!(house.told().0, Outcome::Permitted);
    }
}

#[tokio::test]
async fn what_happened_later_holds_in_whatever_order_it_is_told() {
    let house = House::new().await;
    let risk = caep("risk-level-change");
    let level = |level: &str| json!({"principal": "USER", "current_level": level});
    house.tell("b", &ann(), &risk, level("LOW"), house.ago(10)).await;
    house.tell("a", &ann(), &risk, level("HIGH"), house.ago(20)).await;
    assert_eq!(house.facts().await, ["user/user:ann risk=low"]);
    let risc = |name: &str| format!("https://schemas.openid.net/secevent/risc/event-type/{name}");
    house
        .tell("d", &ann(), &risc("account-enabled"), json!({}), house.ago(10))
        .await;
    house
        .tell("c", &ann(), &risc("account-disabled"), json!({}), house.ago(20))
        .await;
    house
        .tell(
            "f",
            &ann(),
            &caep("session-established"),
            json!({}),
            house.ago(10),
        )
        .await;
    house
        .tell("e", &ann(), &caep("session-revoked"), json!({}), house.ago(20))
        .await;
    assert_eq!(house.facts().await, ["user/user:ann risk=low"]);
}

#[tokio::test]
async fn a_subject_can_be_a_user_an_agent_or_one_token() {
    let house = House::new().await;
    let task = house.world.open("support-bot", &["crm:read"]).await.charter.id;
    let lease = house
        .world
        .issue("support-bot", task, "crm:read")
        .await
        .unwrap()
        .lease
        .id;
    let email = json!({"format": "email", "email": "ann@example.org"});
    let spiffe = json!({"format": "uri", "uri": "spiffe://example.org/agents/support-bot"});
    let token = json!({"format": "jwt_id", "iss": ISSUER, "jti": lease.to_string()});
    let complex = json!({"format": "complex", "user": ann(), "session": {"format": "opaque", "id": "7"}});
    let aliases = json!({"format": "aliases", "identifiers": [email, ann()]});
    for (n, (subject, meant)) in [
        (email.clone(), vec!["user/ann@example.org".to_owned()]),
        (spiffe.clone(), vec!["agent/support-bot".into()]),
        (
            json!({"format": "complex", "workload": spiffe}),
            vec!["agent/support-bot".into()],
        ),
        (token, vec![format!("task/{task}")]),
        (complex, vec!["user/user:ann".into()]),
        (
            aliases,
            vec!["user/ann@example.org".into(), "user/user:ann".into()],
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let event = caep("session-revoked");
        house
            .tell(&format!("set-{n}"), &subject, &event, json!({}), house.ago(5))
            .await;
        let effects = house.told().1.effects;
        let facts: Vec<_> = meant.iter().map(|one| format!("{one} session=revoked")).collect();
        let cuts = meant.iter().map(|one| format!("{one} cutoff"));
        assert_eq!(
            effects,
            facts.into_iter().chain(cuts).collect::<Vec<_>>(),
            "{subject}"
        );
    }
    let record = house.world.records(Verb::Signal).into_iter().nth(3).unwrap();
    assert_eq!((record.lease, record.task), (Some(lease), Some(task)));
    house.settle().await;
    let ended = house.world.ledger.lease(lease).await.unwrap().unwrap();
    assert_eq!(house.cause(&ended).await, Some(Cause::Signal));
}

#[tokio::test]
async fn a_stream_speaks_only_about_its_own() {
    let house = House::new().await;
    let task = house.world.open("report-bot", &["reports:read"]).await.charter.id;
    let lease = house
        .world
        .issue("report-bot", task, "reports:read")
        .await
        .unwrap()
        .lease
        .id;
    let foreign = |kind: &str, id: &str, value: &str| json!({"format": kind, id: value});
    for (n, subject) in [
        foreign("email", "email", "ann@other.example"),
        foreign("opaque", "id", "root"),
        foreign("uri", "uri", "spiffe://example.org/agents/report-bot"),
        json!({"format": "iss_sub", "iss": "https://other.example", "sub": "ann"}),
        json!({"format": "jwt_id", "iss": ISSUER, "jti": lease.to_string()}),
        json!({"format": "aliases", "identifiers": [ann(), {"format": "opaque", "id": "root"}]}),
        // Whether there is one of that name is not for it to know.
        json!({"format": "complex", "application": {"format": "opaque", "id": "nobody-bot"}}),
    ]
    .into_iter()
    .enumerate()
    {
        let jti = format!("set-{n}");
        let set = claims(&jti, &subject, &caep("session-revoked"), json!({}), house.ago(5));
        assert_eq!(house.refused(&set).await.0, "access_denied", "{subject}");
        let (result, told, reason) = house.told();
        assert_eq!(
            (result, told.jti, told.effects),
            (Outcome::Denied, Some(jti), Vec::new())
        );
        assert!(reason.unwrap().contains("may not speak"), "{subject}");
    }
    assert!(house.facts().await.is_empty() && house.cutoffs().await.is_empty());
}

#[tokio::test]
async fn what_is_about_nobody_here_is_taken_and_changes_nothing() {
    let house = House::new().await;
    for (n, (subject, event)) in [
        (
            json!({"format": "phone_number", "phone_number": "+12065550100"}),
            caep("session-revoked"),
        ),
        (
            json!({"format": "uri", "uri": "spiffe://example.org/agents/unknown"}),
            caep("session-revoked"),
        ),
        (
            json!({"format": "jwt_id", "iss": IDP, "jti": "x"}),
            caep("session-revoked"),
        ),
        (
            ann(),
            "https://schemas.openid.net/secevent/ssf/event-type/verification".into(),
        ),
        (
            ann(),
            "https://schemas.openid.net/secevent/ssf/event-type/stream-updated".into(),
        ),
        (ann(), "urn:example:something".into()),
    ]
    .into_iter()
    .enumerate()
    {
        house
            .tell(
                &format!("set-{n}"),
                &subject,
                &event,
                json!({"state": "abc"}),
                house.ago(5),
            )
            .await;
        let (result, told, reason) = house.told();
        assert_eq!((result, told.effects.len()), (Outcome::Permitted, 0));
        assert!(reason.is_some(), "{event}");
    }
    assert_eq!(house.world.records(Verb::Signal).len(), 6);
    assert!(house.facts().await.is_empty() && house.cutoffs().await.is_empty());
}
