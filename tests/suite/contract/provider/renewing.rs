//! Promises about credentials that live on. Nothing here concerns those that promise no renewal.

use std::time::Duration;

use dayfly::ledger::Renewal;
use dayfly::ledger::reservation::Reservation;
use dayfly::model::fact::FactsVersion;
use dayfly::model::time::Timestamp;
use dayfly::provider::{ProviderError, Renewed};

use super::{LIFE, Lab, Out};

impl Lab {
    async fn renew(&self, out: &Out, until: Timestamp) -> Result<Renewed, ProviderError> {
        let permit = self.permit(self.subject.access()).await;
        let ledger = &*self.world.ledger;
        let terms = Renewal {
            expires_at: until,
            decision: out.lease.decision,
            bounded_by: out.lease.bounded_by,
            facts: FactsVersion::default(),
            requested: out.lease.requested,
            vouched: out.lease.vouched,
        };
        let reservation = Reservation::renew(ledger, permit, out.lease.id, terms, self.world.now())
            .await
            .unwrap();
        self.provider.renew(&reservation).await
    }

    /// Whether what was handed out at first, or in its place, works.
    async fn works_still(&self, out: &Out, renewed: &Renewed) -> bool {
        let credential = renewed.credential.as_ref();
        self.subject
            .works(credential.unwrap_or(&out.minted.credential))
            .await
    }
}

pub(super) async fn a_renewed_credential_lives_longer(lab: Lab) {
    if !lab.promise().renewable {
        return;
    }
    let life = lab.promise().least.as_duration().max(Duration::from_secs(2));
    let out = lab.mint_for(life).await;
    let renewed = lab.renew(&out, out.lease.expires_at.plus(LIFE)).await.unwrap();
    assert!(renewed.expires_at > out.minted.expires_at);
    assert!(renewed.expires_at <= out.lease.expires_at.plus(LIFE));
    lab.subject.pass(life + Duration::from_secs(1)).await;
    assert!(lab.works_still(&out, &renewed).await);
    lab.provider.revoke(&out.held()).await.unwrap();
    lab.is_gone(&out.held()).await;
}

pub(super) async fn renewing_never_shortens(lab: Lab) {
    if !lab.promise().renewable || lab.promise().self_contained {
        return;
    }
    let out = lab.mint().await;
    let sooner = lab.world.now().plus(Duration::from_secs(2));
    let renewed = lab.renew(&out, sooner).await.unwrap();
    assert!(renewed.expires_at >= out.minted.expires_at, "it says so");
    lab.subject.pass(Duration::from_secs(3)).await;
    assert!(lab.works_still(&out, &renewed).await, "and it is so");
}

pub(super) async fn what_ended_is_not_renewed(lab: Lab) {
    if !lab.promise().renewable || lab.promise().self_contained {
        return;
    }
    let out = lab.mint().await;
    lab.provider.revoke(&out.held()).await.unwrap();
    lab.renew(&out, out.lease.expires_at.plus(LIFE))
        .await
        .unwrap_err();
    lab.is_gone(&out.held()).await;
    assert!(!lab.works(&out).await);
}
