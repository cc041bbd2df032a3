//! Status lists: what tools that hold a list know of the tokens on it. The third way to learn of an end, beside
//! the feed and introspection.
//!
//! Whatever was ended before an edition was read is struck on its lists. A cutoff is one record, and comes to its
//! leases after it denies them; until then they are looked for each time, so that no list is behind it.

use std::collections::{BTreeMap, BTreeSet};

use crate::ledger::status_lists::{Entry, ListName, Naming, earliest};
use crate::model::cutoff::Cutoff;
use crate::model::recheck::Work;
use crate::model::status_list::{Hour, Listing, StatusList};
use crate::model::time::Timestamp;
use crate::model::ttl::Ttl;

use super::Broker;
use super::error::BrokerError;
use super::walk::Walk;

/// How many live leases are looked at for cutoffs that have not come to them yet. Past that, lists have to wait.
const MOST_WALKED: usize = 50_000;
/// For how many orders.
const MOST_ORDERS: usize = 1_000;

/// The lists as of one instant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Edition {
    naming: Naming,
    parts: BTreeMap<Hour, u32>,
    /// What a cutoff ends that has not come to it yet.
    cut: BTreeSet<(ListName, u64)>,
    /// Everything that was ended before this is on them.
    pub as_of: Timestamp,
}

impl Edition {
    /// Every list that tokens may be on which are not over.
    pub fn names(&self) -> impl Iterator<Item = ListName> {
        let now = earliest(self.as_of);
        let hours = self.parts.iter().filter(move |(hour, _)| **hour >= now);
        hours.flat_map(|(hour, parts)| (0..*parts).map(|part| self.name(*hour, part)))
    }

    fn name(&self, hour: Hour, part: u32) -> ListName {
        ListName {
            epoch: self.naming.epoch,
            hour,
            part,
        }
    }

    /// Refuses unless there is such a list, with what its absence says of the tokens that name it.
    pub fn find(&self, name: ListName) -> Result<(), BrokerError> {
        if name.epoch < self.naming.epoch || name.hour < earliest(self.as_of) {
            return Err(BrokerError::StatusListOver);
        }
        let parts = self.parts.get(&name.hour).copied().unwrap_or_default();
        match name.epoch == self.naming.epoch && name.part < parts {
            true => Ok(()),
            false => Err(BrokerError::NoStatusList),
        }
    }
}

impl Broker {
    /// After how long whoever read a list has to read it anew; none where there are no lists.
    pub fn status_list_ttl(&self) -> Option<Ttl> {
        self.parts.settings.status_list_ttl
    }

    /// Which lists there are now, and what they have to show beyond what the ledger has struck. In quarantine there
    /// are none to rely on: that is an error.
    pub async fn status_lists(&self) -> Result<Edition, BrokerError> {
        self.outside_quarantine()?;
        let ledger = &*self.parts.ledger;
        let naming = ledger.naming().ok_or(BrokerError::NoStatusList)?;
        let as_of = self.now();
        let mut edition = Edition {
            naming,
            parts: ledger.parts().await?,
            cut: BTreeSet::new(),
            as_of,
        };
        // The orders come first, and what was struck is read later: what is drained between the two is on both.
        let mut orders = ledger.rechecks().await?;
        orders.retain(|order| matches!(order.work, Work::Cut { .. }));
        if orders.len() > MOST_ORDERS {
            return Err(BrokerError::Draining);
        }
        // An order that was given again is one order until its first walk is over, and denies further already.
        let cutoffs = match orders.is_empty() {
            true => Vec::new(),
            false => ledger.cutoffs().await?,
        };
        let mut walked = 0;
        for order in orders {
            let Work::Cut { cutoff } = order.work else {
                continue;
            };
            let same = cutoffs.iter().filter(|other| other.selector == cutoff.selector);
            let up_to = same.map(|other| other.up_to).fold(cutoff.up_to, Timestamp::max);
            let cutoff = Cutoff { up_to, ..cutoff };
            let before = walked;
            let mut walk = Walk::new(ledger, &cutoff.selector);
            while let Some(leases) = walk.next().await? {
                walked = before + walk.looked_at;
                if walked > MOST_WALKED {
                    return Err(BrokerError::Draining);
                }
                for lease in leases.iter().filter(|lease| lease.is_cut_by(&cutoff)) {
                    if let Listing::At(place) = lease.listing {
                        let Entry { list, index } = naming.entry(lease.id.slot(), place);
                        edition.cut.insert((list, index));
                    }
                }
            }
        }
        Ok(edition)
    }

    /// One list of an edition. Whatever was ended since the edition was read may be on it too.
    pub async fn status_list(&self, edition: &Edition, name: ListName) -> Result<StatusList, BrokerError> {
        self.outside_quarantine()?;
        edition.find(name)?;
        let mut bytes = self.parts.ledger.struck(name.hour, name.part).await?;
        let cut = edition.cut.range((name, 0)..=(name, u64::MAX));
        for (_, index) in cut {
            let place = usize::try_from(index / 8).unwrap_or(usize::MAX);
            if let Some(byte) = bytes.get_mut(place) {
                *byte |= 1 << (index % 8);
            }
        }
        Ok(StatusList::of_bits(bytes))
    }
}
