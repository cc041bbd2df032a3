//! Promises about ending credentials.

use dayfly::model::ids::LeaseId;
use dayfly::model::lease::Held;
use dayfly::provider::Presence;
use futures_util::future::join_all;

use super::{LIFE, Lab, random};

pub(super) async fn a_revoked_credential_opens_nothing(lab: Lab) {
    let out = lab.mint().await;
    assert_ne!(lab.probe(&out.held()).await, Presence::Absent);
    lab.provider.revoke(&out.held()).await.unwrap();
    lab.is_gone(&out.held()).await;
    if lab.ends_at_once() {
        assert!(!lab.works(&out).await);
        assert_eq!(
            lab.probe(&out.held()).await,
            Presence::Absent,
            "there is no other proof"
        );
    }
}

pub(super) async fn revoking_again_changes_nothing(lab: Lab) {
    let out = lab.mint().await;
    for _ in 0..3 {
        lab.provider.revoke(&out.held()).await.unwrap();
        lab.is_gone(&out.held()).await;
    }
}

pub(super) async fn what_never_was_is_ended(lab: Lab) {
    let lease = LeaseId::new(lab.task.charter.id, lab.world.now(), random());
    let held = Held {
        lease,
        handle: lab.provider.handle(lease),
        expires_at: None,
    };
    lab.provider.revoke(&held).await.unwrap();
    lab.is_gone(&held).await;
}

pub(super) async fn one_end_spares_the_others(lab: Lab) {
    let (one, other) = (lab.mint().await, lab.mint().await);
    lab.provider.revoke(&one.held()).await.unwrap();
    if lab.subject.ends_one_by_one() {
        assert!(lab.works(&other).await);
    }
    assert_ne!(lab.probe(&other.held()).await, Presence::Absent);
}

/// The process died before it wrote the name down: the mark is all there is.
pub(super) async fn what_bears_the_mark_is_ended_without_its_name(lab: Lab) {
    let out = lab.mint().await;
    lab.provider.revoke(&out.nameless()).await.unwrap();
    lab.is_gone(&out.held()).await;
    lab.is_gone(&out.nameless()).await;
    assert_eq!(lab.listed(out.lease.id).await, []);
    if lab.ends_at_once() {
        assert!(!lab.works(&out).await);
    }
}

pub(super) async fn what_was_prepared_and_forgotten_is_ended(lab: Lab) {
    let reservation = lab.reserve(lab.subject.access(), LIFE).await;
    let nameless = Held {
        handle: None,
        ..reservation.lease().held()
    };
    if reservation.lease().handle.is_none() {
        lab.provider.prepare(&reservation).await.unwrap();
    }
    lab.provider.revoke(&nameless).await.unwrap();
    lab.is_gone(&nameless).await;
    assert_eq!(lab.listed(reservation.lease().id).await, []);
}

/// The broker ends what a failed mint may have left, by its name.
pub(super) async fn what_was_half_made_is_ended(lab: Lab) {
    let reservation = lab.named(lab.subject.access(), LIFE).await;
    if !lab.subject.fail_half_way().await {
        return;
    }
    lab.provider.mint(&reservation).await.unwrap_err();
    let held = reservation.lease().held();
    lab.provider.revoke(&held).await.unwrap();
    lab.is_gone(&held).await;
    assert_eq!(lab.listed(held.lease).await, []);
    let next = lab.mint().await;
    assert!(lab.works(&next).await, "one failure is no more than one");
}

pub(super) async fn many_ends_at_a_time(lab: Lab) {
    let all = join_all((0..16).map(|_| lab.mint())).await;
    let held: Vec<Held> = all.iter().map(super::Out::held).collect();
    // Each by two, as when a reaper and a compensation meet.
    let ends = held.iter().chain(&held).map(|held| lab.provider.revoke(held));
    for end in join_all(ends).await {
        end.unwrap();
    }
    for held in &held {
        lab.is_gone(held).await;
    }
}
