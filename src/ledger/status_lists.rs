//! Which credential has which place on the status lists, and which places were struck.
//!
//! A place is taken in the step that writes the lease down, and struck in the step that turns the lease to its end
//! and tells the feed of it; the list says what the feed says, and at the same instant. Nothing is struck when a
//! lease expires: its token says so itself.
//!
//! A list is of one **hour**, that by the end of which the tasks of its tokens are over, so it retires whole. Each
//! shard has a run of [`capacity`] entries in it. Where a place lies in the run is drawn from the random part of the
//! lease id, and the next free one is taken: neighbours on a list have nothing to do with each other. A **part** of
//! an hour is full once half of its places are taken, and the next list begins.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;
use std::time::Duration;

use async_trait::async_trait;

use super::LedgerError;
use super::lineage::Epoch;
use crate::model::ids::{LeaseId, Slot};
use crate::model::name::InvalidName;
use crate::model::status_list::{Hour, Place};
use crate::model::time::Timestamp;

/// How many entries a list has at least, whatever the number of shards.
const LEAST_ENTRIES: u32 = 1 << 17;

/// How many places are kept together: half of the bytes of a page say which are taken, half which are struck.
pub const PAGE: u32 = 256;

/// Numbers of places in one hour and shard are below this.
pub const NUMBERS: u32 = 1 << 28;

/// How far clocks may be apart: a list stays for so long after its hour.
const LEEWAY: Duration = Duration::from_secs(300);

/// What a ledger knows of status lists.
#[async_trait]
pub trait StatusLists: Send + Sync + 'static {
    /// What lists are called as of now; none where the ledger was not joined. Whoever takes it before a step
    /// names with it what the step answers: of a ledger that was lost meanwhile the list is gone.
    fn naming(&self) -> Option<Naming>;

    /// How many parts there are of each hour that has any.
    async fn parts(&self) -> Result<BTreeMap<Hour, u32>, LedgerError>;

    /// The entries of a list, one bit each, set where it was struck: [`Naming::entries`] of them, none set in a
    /// part that has not begun. Refuses with [`LedgerError::Lost`] as [`live`](super::Ledger::live) does.
    async fn struck(&self, hour: Hour, part: u32) -> Result<Vec<u8>, LedgerError>;
}

/// How many entries of a list each shard has: whole pages, and as many as it takes for a long list.
pub fn capacity(shards: NonZeroU16) -> u32 {
    let equal = LEAST_ENTRIES / u32::from(shards.get());
    (equal / PAGE).max(1) * PAGE
}

/// Where the search for a free place begins, below `capacity`.
pub fn draw(lease: LeaseId, capacity: u32) -> u32 {
    let [.., a, b, c, d] = lease.to_bytes();
    u32::from_be_bytes([a, b, c, d]) % capacity.max(1)
}

/// The first hour whose lists are not over for everybody.
pub fn earliest(now: Timestamp) -> Hour {
    Hour::of(now.minus(LEEWAY))
}

/// What makes a place into an entry: the epoch, so that a number that was given out and lost is never given again on
/// the same list, and the shards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Naming {
    /// The epoch of the ledger.
    pub epoch: Epoch,
    /// How many shards it has.
    pub shards: NonZeroU16,
}

impl Naming {
    /// How many entries each of its lists has.
    pub fn entries(self) -> u32 {
        capacity(self.shards) * u32::from(self.shards.get())
    }

    /// The entry of a lease in this slot.
    pub fn entry(self, slot: Slot, place: Place) -> Entry {
        let capacity = capacity(self.shards);
        let run = u64::from(slot.shard(self.shards)) * u64::from(capacity);
        Entry {
            list: ListName {
                epoch: self.epoch,
                hour: place.hour,
                part: place.number / capacity,
            },
            index: run + u64::from(place.number % capacity),
        }
    }
}

/// One entry of one list.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Entry {
    /// The list.
    pub list: ListName,
    /// Which entry of it, from 0 on.
    pub index: u64,
}

/// The path of all lists, below the URL of the issuer.
pub const PATH: &str = "/v1/status-lists";

/// Names a list: `‹epoch›-‹hour›-‹part›`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ListName {
    /// The epoch of the ledger in which its places were given out.
    pub epoch: Epoch,
    /// The hour by the end of which all its tokens are over.
    pub hour: Hour,
    /// Which list of that hour, from 0 on.
    pub part: u32,
}

impl ListName {
    /// Where it is, and its `sub`.
    pub fn uri(self, issuer: &str) -> String {
        format!("{}{PATH}/{self}", issuer.trim_end_matches('/'))
    }
}

impl fmt::Display for ListName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.epoch, self.hour.0, self.part)
    }
}

impl FromStr for ListName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let read = || {
            let mut parts = text.split('-');
            let (epoch, hour, part) = (parts.next()?, parts.next()?, parts.next()?);
            Some(Self {
                epoch: epoch.parse().ok()?,
                hour: Hour(hour.parse().ok()?),
                part: part.parse().ok()?,
            })
        };
        read()
            .filter(|name| name.to_string() == text) // one name for one list
            .ok_or_else(|| InvalidName::new("status list", text, "it is what a token says in `status`"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn naming(shards: u16) -> Naming {
        Naming {
            epoch: Epoch(0xab),
            shards: NonZeroU16::new(shards).unwrap(),
        }
    }

    #[test]
    fn a_list_is_long_whatever_the_number_of_shards() {
        for shards in [1, 3, 8, 64, 512, 1000, 4096] {
            let naming = naming(shards);
            let capacity = capacity(naming.shards);
            assert_eq!(capacity % PAGE, 0);
            assert!(naming.entries() + u32::from(shards) * PAGE > LEAST_ENTRIES);
            assert!(naming.entries() <= 1 << 20, "{shards}");
        }
        assert_eq!(naming(64).entries(), 131_072);
    }

    #[test]
    fn a_list_has_one_name() {
        let name = ListName {
            epoch: Epoch(0xab),
            hour: Hour(498_702),
            part: 3,
        };
        let text = "00000000000000ab-498702-3";
        assert_eq!(name.to_string(), text);
        assert_eq!(text.parse(), Ok(name));
        let uri = "https://dayfly.example.org/v1/status-lists/00000000000000ab-498702-3";
        assert_eq!(name.uri("https://dayfly.example.org"), uri);
        assert_eq!(name.uri("https://dayfly.example.org/"), uri);
        for other in [
            "",
            "ab-498702-3",
            "00000000000000AB-498702-3",
            "00000000000000ab-498702",
            "00000000000000ab-498702-03",
            "00000000000000ab-+498702-3",
            "00000000000000ab-498702-3-1",
            "00000000000000ab-498702-4294967296",
        ] {
            assert!(other.parse::<ListName>().is_err(), "{other}");
        }
    }

    proptest! {
        /// However leases are spread over slots and hours: another place, or another shard, is another entry.
        #[test]
        fn two_places_never_share_an_entry(
            shards in 1_u16..=4096,
            places in prop::collection::hash_set((0_u16..4096, 0_u32..3, 0_u32..600_000), 2..50),
        ) {
            let naming = naming(shards);
            let mut entries = std::collections::HashSet::new();
            let mut seen = std::collections::HashSet::new();
            for (slot, hour, number) in places {
                let slot = Slot::new(slot);
                let place = Place { hour: Hour(498_702 + hour), number };
                if !seen.insert((slot.shard(naming.shards), place)) {
                    continue; // the same place, in the same shard
                }
                let entry = naming.entry(slot, place);
                prop_assert!(entry.index < u64::from(naming.entries()));
                prop_assert_eq!(entry.list.hour, place.hour);
                prop_assert!(entries.insert(entry));
            }
        }
    }
}
