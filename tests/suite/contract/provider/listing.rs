//! Promises about saying what is there.

use dayfly::provider::Presence;

use super::{LIFE, Lab};

pub(super) async fn the_provider_can_do_what_it_must(lab: Lab) {
    lab.provider.preflight().await.unwrap();
    assert!(!lab.provider.kind().is_empty());
    let promise = lab.promise();
    assert!(promise.least <= promise.most);
}

pub(super) async fn what_is_out_is_listed_until_it_ends(lab: Lab) {
    let (stays, goes) = (lab.mint().await, lab.mint().await);
    let listed = lab.listed(goes.lease.id).await;
    if lab.promise().self_contained || !lab.subject.lists() {
        assert_eq!(listed, [], "nothing is kept of what carries itself");
        return;
    }
    let [held] = &listed[..] else {
        panic!("listed as {listed:?}");
    };
    let name = held.handle.as_ref().unwrap();
    assert!(goes.minted.handle.0.starts_with(&name.0), "listed as {name}");
    if let Some(until) = held.expires_at {
        let margin = std::time::Duration::from_secs(60);
        assert!(until <= goes.lease.expires_at.plus(margin));
    }
    // What is listed is all that is needed to end it.
    lab.provider.revoke(held).await.unwrap();
    assert_eq!(lab.listed(goes.lease.id).await, []);
    assert_eq!(lab.listed(stays.lease.id).await.len(), 1);
}

pub(super) async fn looking_finds_what_is_there(lab: Lab) {
    let reservation = lab.named(lab.subject.access(), LIFE).await;
    lab.provider.mint(&reservation).await.unwrap();
    let held = reservation.lease().held();
    let before = lab.probe(&held).await;
    assert_ne!(before, Presence::Absent);
    lab.provider.revoke(&held).await.unwrap();
    let after = lab.probe(&held).await;
    assert_ne!(after, Presence::Present);
    assert!(
        lab.provider.probe(&held).await.unwrap() == after,
        "looking changes nothing"
    );
}
