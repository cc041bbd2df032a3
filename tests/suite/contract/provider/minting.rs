//! Promises about making credentials.

use std::time::Duration;

use dayfly::model::credential::Credential;
use dayfly::model::secret::Secret;
use dayfly::provider::{Presence, ProviderError};
use futures_util::future::join_all;

use super::{LIFE, Lab};

/// Every secret part of a credential.
fn secrets(credential: &Credential) -> Vec<&Secret> {
    match credential {
        Credential::Bearer(token) => vec![token],
        Credential::AwsSession {
            secret_access_key,
            session_token,
            ..
        } => vec![secret_access_key, session_token],
        Credential::DatabaseLogin { password, .. } => vec![password],
        Credential::Fields(fields) => fields.values().collect(),
    }
}

pub(super) async fn a_credential_opens_the_door(lab: Lab) {
    let out = lab.mint().await;
    assert!(lab.works(&out).await);
}

pub(super) async fn a_name_is_known_before_anything_exists(lab: Lab) {
    let reservation = lab.named(lab.subject.access(), LIFE).await;
    let lease = reservation.lease();
    let name = lease.handle.clone().unwrap();
    if let Some(foretold) = lab.provider.handle(lease.id) {
        assert_eq!(foretold, name);
        assert_ne!(lab.probe(&lease.held()).await, Presence::Present);
    }
    let minted = lab.provider.mint(&reservation).await.unwrap();
    // What comes with the credential can be added to its name.
    assert!(minted.handle.0.starts_with(&name.0), "{}", minted.handle);
    for secret in secrets(&minted.credential) {
        assert!(!name.0.contains(secret.expose()), "the name is a secret");
    }
}

pub(super) async fn a_credential_lives_as_long_as_its_lease_at_most(lab: Lab) {
    let out = lab.mint().await;
    let begun = lab.world.now();
    assert!(out.minted.expires_at <= out.lease.expires_at);
    assert!(out.minted.expires_at > begun);
}

pub(super) async fn no_two_leases_share_a_credential(lab: Lab) {
    let (one, other) = (lab.mint().await, lab.mint().await);
    assert_ne!(one.minted.handle, other.minted.handle);
    for secret in secrets(&one.minted.credential) {
        let others = secrets(&other.minted.credential);
        assert!(!others.contains(&secret) || secret.expose().len() < 8);
    }
    assert!(lab.works(&one).await && lab.works(&other).await);
}

pub(super) async fn what_cannot_be_served_is_refused_before_anything_exists(lab: Lab) {
    let Some(access) = lab.subject.unfit() else {
        return;
    };
    let reservation = lab.reserve(access, LIFE).await;
    let lease = reservation.lease().clone();
    let refused = match lease.handle {
        Some(_) => lab.provider.mint(&reservation).await.map(drop),
        None => lab.provider.prepare(&reservation).await.map(drop),
    };
    let Err(ProviderError::Unfit { pointer, reason }) = refused else {
        panic!("not refused as unfit: {refused:?}");
    };
    assert!(pointer.starts_with('/') && !reason.is_empty());
    assert_eq!(lab.listed(lease.id).await, []);
}

/// An answer can be lost and a request sent twice.
pub(super) async fn minting_again_leaves_one_thing_to_end(lab: Lab) {
    let reservation = lab.named(lab.subject.access(), LIFE).await;
    let first = lab.provider.mint(&reservation).await.unwrap();
    let second = lab.provider.mint(&reservation).await;
    assert!(lab.listed(reservation.lease().id).await.len() <= 1);
    lab.provider.revoke(&reservation.lease().held()).await.unwrap();
    lab.is_gone(&reservation.lease().held()).await;
    assert_eq!(lab.listed(reservation.lease().id).await, []);
    if lab.ends_at_once() {
        assert!(!lab.subject.works(&first.credential).await);
        if let Ok(second) = second {
            assert!(!lab.subject.works(&second.credential).await);
        }
    }
}

pub(super) async fn many_at_a_time_are_each_their_own(lab: Lab) {
    let all = join_all((0..16).map(|_| lab.mint())).await;
    for (out, works) in all
        .iter()
        .zip(join_all(all.iter().map(|out| lab.works(out))).await)
    {
        assert!(works, "{}", out.minted.handle);
    }
}

pub(super) async fn a_credential_does_not_print(lab: Lab) {
    let out = lab.mint().await;
    let printed = format!("{:?} {:#?}", out.minted, lab.listed(out.lease.id).await);
    for secret in secrets(&out.minted.credential) {
        assert!(!printed.contains(secret.expose()) || secret.expose().len() < 8);
    }
}

/// Nobody has to come for a credential whose time is up.
pub(super) async fn a_credential_ends_by_itself(lab: Lab) {
    let life = lab.promise().least.as_duration().max(Duration::from_secs(2));
    let out = lab.mint_for(life).await;
    assert!(lab.works(&out).await);
    if lab.subject.pass(life + Duration::from_secs(1)).await {
        assert!(!lab.works(&out).await);
    }
}
