//! Trust that is taken back: a key leaves the bundle of its authority while evidence that it signed would
//! still hold. What was given out on that evidence ends.
//!
//! Which keys were trusted is remembered in the ledger, so that a key that leaves while no broker runs is
//! noticed at the next start. A key that leaves in its turn, after all that it signed has expired, ends nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::model::attestation::EvidenceKind;
use crate::model::cutoff::Selector;
use crate::model::lease::VouchingKey;
use crate::model::recheck::Work;

use super::Broker;
use super::error::{BrokerError, chain};

/// How often the bundles are looked at. Whether they changed is a comparison in memory.
const LOOK: Duration = Duration::from_secs(1);

/// The keys of an authority, by which the broker compares.
type Trusted = BTreeMap<(EvidenceKind, String), BTreeSet<VouchingKey>>;

impl Broker {
    /// Looks after bundles until told to stop.
    pub async fn watch_trust(self: Arc<Self>, stop: CancellationToken) {
        let mut seen = Trusted::new();
        loop {
            if let Err(error) = self.look_at_trust(&mut seen).await {
                tracing::warn!(error = %chain(&error), "could not look whether keys are still trusted");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    async fn look_at_trust(&self, seen: &mut Trusted) -> Result<(), BrokerError> {
        for (kind, source) in self.parts.verifiers.sources_by_kind() {
            // Nothing is held that may be relied on: that says nothing about any key.
            let Some(names) = source.trusted() else { continue };
            let of = |name: &String| VouchingKey::of(kind, source.authority(), name);
            let keys: BTreeSet<VouchingKey> = names.iter().map(of).collect();
            let authority = (kind, source.authority().to_owned());
            if seen.get(&authority) != Some(&keys) {
                self.compare_trust(&authority, &keys).await?;
                seen.insert(authority, keys);
            }
        }
        Ok(())
    }

    /// Holds the keys of an authority against those that were trusted before, by whichever broker.
    async fn compare_trust(
        &self,
        (kind, authority): &(EvidenceKind, String),
        keys: &BTreeSet<VouchingKey>,
    ) -> Result<(), BrokerError> {
        let mark = format!("keys {kind} {authority}");
        let before = self.parts.ledger.mark(&mark).await?;
        let (known, _) = before.as_deref().unwrap_or_default().as_chunks::<8>();
        for gone in known.iter().copied().map(VouchingKey) {
            if !keys.contains(&gone) {
                tracing::warn!(%kind, authority, "a key is not trusted any more: what it vouched for ends");
                let why = format!("a key of {authority} is not trusted any more");
                let whom = match (*kind, authority.parse()) {
                    (EvidenceKind::JwtSvid, Ok(domain)) => Selector::TrustDomain(domain),
                    _ => Selector::All,
                };
                self.order_recheck(whom, Work::Distrust { key: gone }, why)
                    .await?;
            }
        }
        let now: Vec<u8> = keys.iter().flat_map(|key| key.0).collect();
        // Whoever comes second has ordered the same.
        self.parts.ledger.set_mark(&mark, &now, before.as_deref()).await?;
        Ok(())
    }
}
