//! What a server enforces that is not of this project: that calls are signed, that Dayfly gets by with
//! the grants of the guide, that policies mean to others what they mean to us, and that what is written
//! into a slot stands there.

use std::slice;
use std::time::Duration;

use dayfly::broker::error::{BrokerError, chain};
use dayfly::clock::Clock as _;
use dayfly::model::credential::Credential;
use dayfly::model::ids::{LeaseId, TaskId};
use dayfly::model::lease::{Held, LeaseState};
use dayfly::model::task::Outcome;
use dayfly::provider::{Presence, Provider as _, ProviderError};
use serde_json::{Value, json};

use super::account::EXTERNAL_ID;
use super::moto::{ACCOUNT, Estate, policies_of_the_guide, reason, tampered};
use crate::world::{Plan, World, access};

/// A broker before an estate.
fn house(estate: &Estate, external_id: &str) -> World {
    World::of(Plan {
        begins_at: estate.clock.now(),
        crm: Some((estate.provider(), estate.crm(external_id))),
        ..Plan::default()
    })
}

async fn session(world: &World, estate: &Estate) -> (TaskId, LeaseId, Credential) {
    let task = world.open("support-bot", &["crm:read"]).await.charter.id;
    let wanted = format!("crm:read@{}", estate.role);
    let issued = world.issue("support-bot", task, &wanted).await.unwrap();
    (task, issued.lease.id, issued.credential.unwrap())
}

fn held(estate: &Estate, n: u8, life: u64) -> Held {
    let now = estate.clock.now();
    Held {
        lease: LeaseId::new(TaskId::new(now, [1; 10]), now, [n; 10]),
        handle: None,
        expires_at: Some(now.plus(Duration::from_secs(life))),
    }
}

#[tokio::test]
async fn the_grants_of_the_guide_are_enough_and_each_of_them_is_missed() {
    let Some(estate) = Estate::new() else { return };
    let estate = estate.await;
    estate.provider().preflight().await.unwrap();
    let own = policies_of_the_guide().remove(0);
    let mut less = own.clone();
    less["Statement"].as_array_mut().unwrap().pop();
    estate.grant(&less).await;
    let refused = estate.provider().preflight().await.unwrap_err();
    assert!(
        matches!(&refused, ProviderError::Refused(reason)
            if reason.contains("grant Dayfly `iam:GetRolePolicy` and `iam:PutRolePolicy` on it")),
        "{refused}"
    );
    let without_slot = estate.settings(None);
    estate.with(without_slot).preflight().await.unwrap();
    for missing in ["iam:GetRolePolicy", "iam:PutRolePolicy"] {
        let mut less = own.clone();
        less["Statement"][1]["Action"]
            .as_array_mut()
            .unwrap()
            .retain(|action| action != missing);
        estate.grant(&less).await;
        let refused = estate.provider().preflight().await.unwrap_err().to_string();
        assert!(refused.contains(&format!("{missing} on")), "{refused}");
    }
    let mut less = own;
    less["Statement"].as_array_mut().unwrap().remove(0);
    estate.grant(&less).await;
    let world = house(&estate, EXTERNAL_ID);
    let told = why_not(&world, &estate).await;
    assert!(told.contains("grant Dayfly `sts:AssumeRole`"), "{told}");
}

/// Why a credential is not issued.
async fn why_not(world: &World, estate: &Estate) -> String {
    let task = world.open("support-bot", &["crm:read"]).await.charter.id;
    let wanted = format!("crm:read@{}", estate.role);
    let error = world.issue("support-bot", task, &wanted).await.unwrap_err();
    assert!(
        matches!(&error, BrokerError::Provider(ProviderError::Refused(_))),
        "{error:?}"
    );
    chain(&error)
}

#[tokio::test]
async fn what_the_trust_policy_asks_for_is_looked_at() {
    let Some(estate) = Estate::new() else { return };
    let estate = estate.await;
    let told = why_not(&house(&estate, "another"), &estate).await;
    assert!(told.contains("let its trust policy allow the same"), "{told}");
    session(&house(&estate, EXTERNAL_ID), &estate).await;
}

#[tokio::test]
async fn dayflys_own_calls_are_signed() {
    let Some(estate) = Estate::new() else { return };
    let estate = estate.await;
    let [id, _] = estate
        .key_files()
        .map(|path| std::fs::read_to_string(path).unwrap());
    estate.provider().preflight().await.unwrap();
    estate.keep_key(&id, &"x".repeat(40));
    let refused = estate.provider().preflight().await.unwrap_err();
    assert!(
        matches!(&refused, ProviderError::Refused(reason) if reason.contains("check Dayfly's own credentials")),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_session_is_called_like_its_lease_and_each_part_of_it_is_needed() {
    let Some(estate) = Estate::new() else { return };
    let estate = estate.await;
    let world = house(&estate, EXTERNAL_ID);
    let (_, lease, credential) = session(&world, &estate).await;
    assert_eq!(
        estate.who(&credential).await,
        format!("arn:aws:sts::{ACCOUNT}:assumed-role/{}/{lease}", estate.role)
    );
    estate.lets(&credential).await.unwrap();
    for (in_token, expected) in [(false, "SignatureDoesNotMatch"), (true, "InvalidClientTokenId")] {
        let refused = estate.lets(&tampered(&credential, in_token)).await.unwrap_err();
        assert_eq!(refused, expected);
    }
    let outside = estate.session(&credential).list_users().send().await;
    assert_eq!(reason(&outside.unwrap_err()), "AccessDenied");
}

#[tokio::test]
async fn a_task_that_is_complete_has_its_lease_in_the_slot() {
    let Some(estate) = Estate::new() else { return };
    let estate = estate.await;
    let world = house(&estate, EXTERNAL_ID);
    let (task, lease, credential) = session(&world, &estate).await;
    let (caller, request) = (world.caller("support-bot").await, world.request());
    let done = world
        .broker
        .complete(&caller, task, Outcome::Completed, Duration::ZERO, request);
    done.await.unwrap();
    world.reap().await;
    let ended = world.ledger.lease(lease).await.unwrap().unwrap();
    assert!(
        matches!(ended.state, LeaseState::Ended { receipt, .. } if receipt.as_str() == "verified_absent"),
        "{ended:?}"
    );
    assert!(estate.slot().await.contains(&lease.to_string()));
    assert_eq!(estate.lets(&credential).await.unwrap_err(), "AccessDenied");
}

#[tokio::test]
async fn the_slot_stands_in_iam_as_it_was_written() {
    let Some(estate) = Estate::new() else { return };
    let estate = estate.await;
    let (one, other) = (estate.provider(), estate.provider());
    one.preflight().await.unwrap();
    let idle = json!({"Sid": "DayflyDenySlot", "Effect": "Deny", "Action": "sts:GetFederationToken", "Resource": "*"});
    let document =
        |statements: &[Value]| json!({"Version": "2012-10-17", "Statement": statements}).to_string();
    assert_eq!(estate.slot().await, document(slice::from_ref(&idle)));

    let first = held(&estate, 1, 60);
    one.revoke(&first).await.unwrap();
    let listed = |held: &Held| {
        let until = held.expires_at.unwrap().plus(Duration::from_millis(60_999));
        let until = until.as_secs().div_ceil(120) * 120;
        json!({"Sid": format!("DayflyUntil{until}"), "Effect": "Deny", "Action": "*", "Resource": "*",
            "Condition": {"StringEquals": {"aws:PrincipalTag/dayfly:lease": [held.lease]}}})
    };
    let written = estate.slot().await;
    assert_eq!(written, document(&[idle.clone(), listed(&first)]));

    // Whoever reads it finds the lease, and writing it back changes no byte.
    assert_eq!(other.probe(&first).await.unwrap(), Presence::Absent);
    assert_eq!(
        other.probe(&held(&estate, 2, 60)).await.unwrap(),
        Presence::Unknown
    );
    other.preflight().await.unwrap();
    assert_eq!(estate.slot().await, written);

    // What is over is left out of the next write.
    estate.clock.advance(Duration::from_secs(400));
    let second = held(&estate, 2, 900);
    one.revoke(&second).await.unwrap();
    assert_eq!(estate.slot().await, document(&[idle, listed(&second)]));
}

#[tokio::test]
async fn a_session_policy_is_read_by_others_as_it_was_meant() {
    let Some(estate) = Estate::new() else { return };
    let estate = estate.await;
    let world = house(&estate, EXTERNAL_ID);
    let (_, _, credential) = session(&world, &estate).await;
    let neighbour = format!("{}-neighbour", estate.role);
    let role = estate.iam.create_role().role_name(&neighbour).path("/agents/");
    let trust = policies_of_the_guide().remove(1);
    let role = role.assume_role_policy_document(trust.to_string());
    role.send().await.unwrap();
    let look = async |name: &str| {
        let answer = estate
            .session(&credential)
            .get_role()
            .role_name(name)
            .send()
            .await;
        answer.map(drop).map_err(|error| reason(&error))
    };
    look(&neighbour).await.unwrap();

    // The policy of the session in place of the role's own. The pin is a condition, so it stays out.
    let wanted = access(&format!("orders:read@{}", estate.role));
    let mut policy = estate
        .provider()
        .explain(&estate.tool(), &wanted)
        .unwrap()
        .unwrap();
    estate.set_policy("whole", &policy).await;
    let delete = estate.iam.delete_role_policy().role_name(&estate.role);
    delete.policy_name("whole").send().await.unwrap();
    let pin = policy["Statement"].as_array_mut().unwrap().pop().unwrap();
    assert_eq!(pin["Effect"], "Deny");
    estate.set_policy("what-the-role-may", &policy).await;
    look(&estate.role).await.unwrap();
    assert_eq!(look(&neighbour).await.unwrap_err(), "AccessDenied");

    // Being taken means something: what is malformed is not.
    policy["Statement"][0]["Effect"] = "Perhaps".into();
    let put = estate.iam.put_role_policy().role_name(&estate.role);
    let put = put.policy_name("bad").policy_document(policy.to_string());
    assert_eq!(reason(&put.send().await.unwrap_err()), "MalformedPolicyDocument");
}
