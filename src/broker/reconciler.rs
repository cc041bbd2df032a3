//! The reconciler compares what providers hold with what the ledger says, both ways.
//!
//! | Found | Means | Done |
//! |---|---|---|
//! | **orphan** | it is there, and no lease in the ledger is its own | ended |
//! | **undead** | it is there, and its lease was settled as over, or abandoned | ended again |
//! | **ghost** | its lease is active, and it is not there | the lease is turned to its end |
//!
//! A lease is in the ledger before anything is outside, so whatever a list names that the ledger does
//! not know afterwards was lost or forgotten by the ledger: nobody is making it now. What ended
//! between the two looks is told from the undead by asking for it alone, and so is what began between
//! them from a ghost. A pass is idempotent, so replicas need not take turns.

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio_util::sync::CancellationToken;

use crate::journal::record::{Record, Result as Outcome, Verb};
use crate::ledger::{Filter, Page, StateName};
use crate::model::ids::{LeaseId, RequestId};
use crate::model::lease::{Cause, Ending, Held, Lease, LeaseState, Receipt};
use crate::model::name::ProviderName;
use crate::model::time::Timestamp;
use crate::provider::{Presence, Provider, ProviderError};
use crate::registry::Caller;

use super::error::{BrokerError, chain};
use super::records::{Fill, proof_of};
use super::{Broker, measure};

/// How the reconciler works.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long from one pass to the next, give or take a tenth.
    pub interval: Duration,
    /// How many are looked at side by side.
    pub concurrency: NonZeroUsize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(600),
            concurrency: NonZeroUsize::MIN.saturating_add(7),
        }
    }
}

/// How old a lease is before anybody misses what it stands for: some providers take a while to show
/// what they made.
const SETTLED: Duration = Duration::from_secs(60);

/// What is wrong with something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mismatch {
    /// It is there, and the ledger does not know it.
    Orphan,
    /// It is there, and its lease is over.
    Undead,
    /// It is not there, and its lease is active.
    Ghost,
}

impl Mismatch {
    /// The word that records and metrics use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Orphan => "orphan",
            Self::Undead => "undead",
            Self::Ghost => "ghost",
        }
    }
}

/// What one pass found at one provider.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Compared {
    /// The provider.
    pub provider: ProviderName,
    /// How much it holds that bears our mark.
    pub listed: usize,
    /// What the ledger does not know.
    pub orphans: usize,
    /// What the ledger says is gone.
    pub undead: usize,
    /// Active leases of what is gone.
    pub ghosts: usize,
    /// How many orphans and undead are proven to be gone now.
    pub ended: usize,
    /// How many of either are still there, or could not be looked at. The next pass finds them again.
    pub failed: usize,
    /// Why the pass did not come to its end.
    pub error: Option<String>,
}

enum Looked {
    AsItShould,
    Ended(Mismatch),
    Failed(Option<Mismatch>),
}

impl Broker {
    /// Compares at start and then at every interval, until told to stop.
    pub async fn reconcile_regularly(self: Arc<Self>, stop: CancellationToken) {
        let interval = self.parts.settings.reconciler.interval;
        loop {
            // What a lost ledger does not know is not for that reason an orphan: a person looks first.
            if self.quarantine().is_none() {
                tokio::select! {
                    () = stop.cancelled() => return,
                    _ = self.compare() => {}
                }
            }
            let pause = interval.mul_f64(0.9) + self.jitter(interval / 5);
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Compares now. Takes a permit for `dayfly:reconcile`.
    pub async fn reconcile(&self, caller: &Caller, request: RequestId) -> Result<Vec<Compared>, BrokerError> {
        let record = self
            .may(caller, Verb::Reconcile, "reconcile", None, request)
            .await?;
        self.record(record).await?;
        measure::decided(Verb::Reconcile, Outcome::Permitted);
        Ok(self.compare().await)
    }

    /// One pass over every provider, side by side. In one process, one pass at a time.
    pub async fn compare(&self) -> Vec<Compared> {
        let _turn = self.comparing.lock().await;
        let passes = self.parts.providers.iter().map(|(name, provider)| async move {
            let mut compared = Compared {
                provider: name.clone(),
                listed: 0,
                orphans: 0,
                undead: 0,
                ghosts: 0,
                ended: 0,
                failed: 0,
                error: None,
            };
            if let Err(error) = self.compare_one(name, &**provider, &mut compared).await {
                let error = chain(&error);
                tracing::warn!(provider = %name, %error, "a provider could not be compared with the ledger");
                measure::not_reconciled(name);
                compared.error = Some(error);
            } else {
                measure::orphans(name, compared.failed);
            }
            compared
        });
        futures_util::future::join_all(passes).await
    }

    async fn compare_one(
        &self,
        name: &ProviderName,
        provider: &dyn Provider,
        compared: &mut Compared,
    ) -> Result<(), BrokerError> {
        let begun = self.now();
        let listed = provider.inventory().await?;
        compared.listed = listed.len();
        let there: HashSet<LeaseId> = listed.iter().map(|held| held.lease).collect();
        let mut looks = stream::iter(listed)
            .map(|held| self.look_at(name, provider, held))
            .buffer_unordered(self.parts.settings.reconciler.concurrency.get());
        while let Some(looked) = looks.next().await {
            let (found, ended) = match looked {
                Looked::AsItShould => continue,
                Looked::Ended(found) => (Some(found), true),
                Looked::Failed(found) => (found, false),
            };
            match found {
                Some(Mismatch::Orphan) => compared.orphans += 1,
                Some(Mismatch::Undead) => compared.undead += 1,
                Some(Mismatch::Ghost) | None => {}
            }
            *(if ended {
                &mut compared.ended
            } else {
                &mut compared.failed
            }) += 1;
        }
        compared.ghosts = self.lay_ghosts(name, provider, &there, begun).await?;
        Ok(())
    }

    /// Looks up in the ledger what a provider holds, and ends what should not be there.
    async fn look_at(&self, name: &ProviderName, provider: &dyn Provider, held: Held) -> Looked {
        let lease = match self.parts.ledger.lease(held.lease).await {
            Ok(lease) => lease,
            Err(error) => {
                tracing::warn!(provider = %name, lease = %held.lease, %error, "could not look up what is there");
                return Looked::Failed(None);
            }
        };
        let found = match &lease {
            None => Mismatch::Orphan,
            Some(Lease {
                state: LeaseState::Ended { receipt, .. },
                ..
            }) => {
                // Nobody said that it is gone, and nothing can end it. What was abandoned can still be ended.
                if matches!(receipt, Receipt::Outlived { .. }) {
                    return Looked::AsItShould;
                }
                match provider.probe(&held).await {
                    Ok(Presence::Present) => Mismatch::Undead,
                    Ok(Presence::Absent) => return Looked::AsItShould,
                    Ok(Presence::Unknown) | Err(_) => return Looked::Failed(None),
                }
            }
            Some(_) => return Looked::AsItShould,
        };
        let ended = end(provider, &held).await;
        measure::reconciled(name, found, ended.is_ok());
        self.tell_mismatch(
            name,
            found,
            &held,
            lease.as_ref(),
            ended.as_ref().map(|()| self.now()),
        )
        .await;
        match ended {
            Ok(()) => Looked::Ended(found),
            Err(_) => Looked::Failed(Some(found)),
        }
    }

    /// Turns to their end the active leases whose credential is not there. The list is older than the
    /// leases that are read here, so each that it lacks is asked for by itself.
    async fn lay_ghosts(
        &self,
        name: &ProviderName,
        provider: &dyn Provider,
        there: &HashSet<LeaseId>,
        begun: Timestamp,
    ) -> Result<usize, BrokerError> {
        let rules = self.parts.rules.current();
        let tools = rules.registry.tools().filter(|tool| {
            tool.binding.provider == *name && provider.promise(tool).ending == Ending::Immediate
        });
        let mut ghosts = 0;
        for tool in tools {
            let filter = Filter {
                tool: Some(tool.name.clone()),
                state: Some(StateName::Active),
                ..Filter::default()
            };
            let limit = NonZeroUsize::new(Page::MOST).unwrap_or(NonZeroUsize::MIN);
            let mut page = Page { after: None, limit };
            loop {
                let leases = self.parts.ledger.find(&filter, &page).await?;
                let next = leases.last().map(|last| last.id);
                let more = leases.len() == limit.get();
                let missing = leases.into_iter().filter(|lease| {
                    lease.provider == *name
                        && lease.ending == Ending::Immediate
                        && lease.issued_at.plus(SETTLED) <= begun
                        && lease.is_live(begun)
                        && !there.contains(&lease.id)
                });
                let mut looks = stream::iter(missing)
                    .map(|lease| self.lay_ghost(name, provider, lease))
                    .buffer_unordered(self.parts.settings.reconciler.concurrency.get());
                while let Some(was_ghost) = looks.next().await {
                    ghosts += usize::from(was_ghost?);
                }
                match next {
                    Some(last) if more => page.after = Some(last),
                    _ => break,
                }
            }
        }
        Ok(ghosts)
    }

    /// Nothing but a plain no makes a ghost: what cannot be asked for stays active.
    async fn lay_ghost(
        &self,
        name: &ProviderName,
        provider: &dyn Provider,
        lease: Lease,
    ) -> Result<bool, BrokerError> {
        let held = lease.held();
        let Ok(Presence::Absent) = provider.probe(&held).await else {
            return Ok(false);
        };
        let now = self.now();
        let turned = self.parts.ledger.revoke(lease.id, Cause::Vanished, now).await?;
        let ours = matches!(&turned.state, LeaseState::Revoking(effort) if effort.cause == Cause::Vanished);
        if ours {
            self.due.notify_one();
            measure::reconciled(name, Mismatch::Ghost, true);
            self.tell_mismatch(name, Mismatch::Ghost, &held, Some(&turned), Ok(now))
                .await;
        }
        Ok(ours)
    }

    /// Puts a mismatch on record and into the log. One that cannot be ended comes again at every pass,
    /// and is told once a day.
    async fn tell_mismatch(
        &self,
        name: &ProviderName,
        found: Mismatch,
        held: &Held,
        lease: Option<&Lease>,
        ended: Result<Timestamp, &ProviderError>,
    ) {
        let now = self.now();
        let handle = held.handle.as_ref().map_or("", |handle| handle.0.as_str());
        let (word, lease_id) = (found.as_str(), held.lease);
        let (result, proof, reason) = match &ended {
            Ok(at) => {
                let proof = match found {
                    Mismatch::Orphan | Mismatch::Undead => {
                        Some(proof_of(Receipt::VerifiedAbsent { at: *at }))
                    }
                    Mismatch::Ghost => None, // the end of its lease brings one
                };
                (Outcome::Permitted, proof, String::new())
            }
            Err(error) => {
                if self.mismatches.contains_key(&lease_id) {
                    return;
                }
                self.mismatches.insert(lease_id, ());
                (Outcome::Failed, None, format!(": {error}"))
            }
        };
        tracing::error!(provider = %name, lease = %lease_id, handle, found = word, "a provider and the ledger disagree{reason}");
        let reason: String = format!("{handle} at provider {name}{reason}")
            .chars()
            .take(512)
            .collect();
        let record = Record {
            agent: lease.map(|lease| lease.agent.clone()),
            cause: Some(word.to_owned()),
            lease: Some(lease_id),
            proof,
            task: lease.map(|lease| lease.task),
            tool: lease.map(|lease| lease.tool.clone()),
            ..Record::new(Verb::Reconcile, result, now).reason(reason)
        };
        if let Err(error) = self.record(record).await {
            tracing::error!(error = %chain(&error), lease = %lease_id, "could not record what the reconciler did");
        }
    }
}

/// Ends it and looks whether it is gone.
async fn end(provider: &dyn Provider, held: &Held) -> Result<(), ProviderError> {
    provider.revoke(held).await?;
    match provider.probe(held).await? {
        Presence::Absent => Ok(()),
        Presence::Present | Presence::Unknown => Err(ProviderError::Unavailable(
            "nobody can say that it is gone after it was revoked".into(),
        )),
    }
}
