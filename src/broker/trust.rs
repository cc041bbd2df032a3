//! Trust that is taken back: a key leaves the bundle of its authority while evidence that it signed would
//! still hold. What was given out on that evidence ends.
//!
//! Which keys were trusted is remembered in the ledger, so that a key that leaves while no broker runs is
//! noticed at the next start. Each broker compares with what it trusted itself, too: one that learns later
//! than the others gave out on the key for longer than they did. A key that leaves in its turn, after all
//! that it signed has expired, ends nothing.

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

/// The keys of an authority.
type Keys = BTreeSet<VouchingKey>;
/// By kind and name of the authority.
type Trusted = BTreeMap<(EvidenceKind, String), Seen>;

/// What was seen of an authority.
#[derive(Default)]
struct Seen {
    /// Its keys when they were last compared.
    compared: Option<Keys>,
    /// Those that it had since then, for however short: they may have vouched for something.
    passed: Keys,
}

/// How often a mark is compared anew that another broker wrote meanwhile.
const TRIES: usize = 16;

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
            let authority = (kind, source.authority().to_owned());
            let seen = seen.entry(authority.clone()).or_default();
            seen.passed.extend(source.passed());
            // Nothing is held that may be relied on: that says nothing about any key.
            let Some(trusted) = source.trusted() else { continue };
            if seen.compared.as_ref() != Some(&trusted) || !seen.passed.is_subset(&trusted) {
                let before: Keys = seen
                    .compared
                    .iter()
                    .flatten()
                    .chain(&seen.passed)
                    .copied()
                    .collect();
                self.compare_trust(&authority, &before, &trusted).await?;
                *seen = Seen {
                    compared: Some(trusted),
                    passed: Keys::new(),
                };
            }
        }
        Ok(())
    }

    /// Holds the keys of an authority against those that this broker, or the last that looked, trusted
    /// before.
    async fn compare_trust(
        &self,
        authority: &(EvidenceKind, String),
        before: &Keys,
        keys: &Keys,
    ) -> Result<(), BrokerError> {
        let mut gone: Keys = before.difference(keys).copied().collect();
        let name = format!("vouching {} {}", authority.0, authority.1);
        for _ in 0..TRIES {
            let mark = self.parts.ledger.mark(&name).await?;
            gone.extend(read(mark.as_deref()).filter(|key| !keys.contains(key)));
            // Before the mark that forgets them.
            self.distrust(authority, &gone).await?;
            if self
                .parts
                .ledger
                .set_mark(&name, &written(keys), mark.as_deref())
                .await?
            {
                break;
            }
        }
        Ok(())
    }

    async fn distrust(
        &self,
        (kind, authority): &(EvidenceKind, String),
        gone: &Keys,
    ) -> Result<(), BrokerError> {
        for key in gone {
            tracing::warn!(%kind, authority, "a key is not trusted any more: what it vouched for ends");
            let why = format!("a key of {authority} is not trusted any more");
            let whom = match (kind.is_spiffe(), authority.parse()) {
                (true, Ok(domain)) => Selector::TrustDomain(domain),
                _ => Selector::All,
            };
            self.order_recheck(whom, Work::Distrust { key: *key }, why)
                .await?;
        }
        Ok(())
    }
}

fn written(keys: &Keys) -> Vec<u8> {
    keys.iter().flat_map(|key| key.0).collect()
}

fn read(mark: Option<&[u8]>) -> impl Iterator<Item = VouchingKey> + '_ {
    let (keys, _) = mark.unwrap_or_default().as_chunks::<8>();
    keys.iter().copied().map(VouchingKey)
}
