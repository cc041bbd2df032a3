//! Who goes next: what was claimed waits in a lane of its provider, so that a provider that hangs or
//! has a thousand leases due keeps only its own waiting. In a lane, orders go before routine.

use std::collections::{BTreeMap, VecDeque};

use tokio::time::Instant;

use crate::ledger::{Claim, LeaseClaim, rules};
use crate::model::name::ProviderName;

/// A claim and when it was made.
pub(super) struct Waiting {
    pub(super) claim: Claim,
    pub(super) since: Instant,
}

/// Which lane: of a provider, or that of the tasks, which need the ledger alone.
pub(super) type Whose = Option<ProviderName>;

#[derive(Default)]
struct Lane {
    running: usize,
    ordered: VecDeque<Waiting>,
    routine: VecDeque<Waiting>,
}

impl Lane {
    fn waiting(&self) -> usize {
        self.ordered.len() + self.routine.len()
    }
}

/// The lanes.
pub(super) struct Lanes {
    lanes: BTreeMap<Whose, Lane>,
    /// How many of a lane run side by side.
    width: usize,
    /// How many of a lane may wait.
    depth: usize,
    /// How many may come at a time.
    batch: usize,
}

impl Lanes {
    /// A lane has room for two batches: one is worked on while the next comes.
    pub(super) fn new(width: usize, batch: usize) -> Self {
        Self {
            lanes: BTreeMap::new(),
            width,
            depth: batch.saturating_mul(2),
            batch,
        }
    }

    /// Queues a claim. When its lane is full, gives back the one that has to wait elsewhere: a claim by
    /// routine, if there is any. Tasks are always taken: they hold up nobody.
    pub(super) fn put(&mut self, claim: Claim, since: Instant) -> Result<(), Box<LeaseClaim>> {
        let (whose, ordered) = match &claim {
            Claim::Task(..) => (None, false),
            Claim::Lease(claim) => {
                let effort = rules::effort(&claim.lease.state);
                let ordered = effort.is_some_and(|effort| rules::is_ordered(effort.cause));
                (Some(claim.lease.provider.clone()), ordered)
            }
        };
        let limited = whose.is_some();
        let lane = self.lanes.entry(whose).or_default();
        let full = limited && lane.waiting() >= self.depth;
        let waiting = Waiting { claim, since };
        let over = match (full, ordered) {
            (false, true) => {
                lane.ordered.push_back(waiting);
                None
            }
            (false, false) => {
                lane.routine.push_back(waiting);
                None
            }
            (true, false) => Some(waiting),
            (true, true) => match lane.routine.pop_back() {
                Some(displaced) => {
                    lane.ordered.push_back(waiting);
                    Some(displaced)
                }
                None => Some(waiting),
            },
        };
        match over.map(|over| over.claim) {
            Some(Claim::Lease(claim)) => Err(claim),
            Some(Claim::Task(..)) | None => Ok(()),
        }
    }

    /// The next that may run now. Whoever takes it says [`Lanes::done`] afterwards.
    pub(super) fn take(&mut self) -> Option<(Whose, Waiting)> {
        let width = self.width;
        self.lanes.iter_mut().find_map(|(whose, lane)| {
            if lane.running >= width {
                return None;
            }
            let next = lane.ordered.pop_front().or_else(|| lane.routine.pop_front())?;
            lane.running += 1;
            Some((whose.clone(), next))
        })
    }

    /// One of this lane has ended.
    pub(super) fn done(&mut self, whose: &Whose) {
        if let Some(lane) = self.lanes.get_mut(whose) {
            lane.running = lane.running.saturating_sub(1);
            if lane.running == 0 && lane.waiting() == 0 {
                self.lanes.remove(whose);
            }
        }
    }

    /// Whether some lane could not take the next batch.
    pub(super) fn is_crowded(&self) -> bool {
        self.longest() > self.depth - self.batch
    }

    /// How many wait in the fullest lane.
    pub(super) fn longest(&self) -> usize {
        self.lanes.values().map(Lane::waiting).max().unwrap_or_default()
    }

    /// Takes out all that wait.
    pub(super) fn clear(&mut self) -> Vec<Waiting> {
        let lanes = self.lanes.values_mut();
        lanes
            .flat_map(|lane| lane.ordered.drain(..).chain(lane.routine.drain(..)))
            .collect()
    }
}
