//! Whether the ledger is still the one that it was: epochs, what brokers remember, and what a loss is.
//!
//! A ledger has an **epoch**, drawn when it is made. In each shard it counts, for each **writer** (a
//! broker, by its journal), the steps that must not be undone. Whoever was answered knows how far its
//! own count had come, so a count that is missing or lower is a ledger that was emptied, replaced or
//! rolled back, however short the time and however many others wrote in between. Who finds that takes
//! the epoch from the rest of the ledger too, and so tells all others.
//!
//! A lost ledger gives nothing out until `dayfly recover` has begun the next epoch, in which it enters
//! the writers whose journals it has read. A writer that is not entered does not come back.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use async_trait::async_trait;
use ring::digest;

use super::LedgerError;
use crate::model::lease::Lease;
use crate::model::name::InvalidName;
use crate::model::time::Timestamp;

/// What a ledger is beyond its steps.
#[async_trait]
pub trait Lineage: Send + Sync + 'static {
    /// Why nothing is given out from this ledger, if so: `open`, `reserve`, `name`, `activate`, `renew` and
    /// `live` answer [`LedgerError::Lost`]. Everything that ends goes on.
    fn loss(&self) -> Option<Loss>;

    /// How the ledger stands for a writer that remembers so much. Changes nothing.
    async fn judge(&self, writer: Writer, memory: &Memory) -> Result<Standing, LedgerError>;

    /// Looks at every shard: what to remember of the ledger, or that it was lost, which it is from
    /// then on, or that it was recovered.
    async fn watch(&self) -> Result<Watched, LedgerError>;

    /// Nothing is given out from now on, neither here nor by other replicas. In a ledger of another
    /// epoch than the one that was joined, only here.
    async fn condemn(&self, loss: Loss) -> Result<(), LedgerError>;

    /// Takes a recovered ledger into use. Refuses with [`LedgerError::Lost`] when it is not.
    async fn rejoin(&self) -> Result<(), LedgerError>;

    /// Writes down a lease that has to end and that the ledger does not know: due at once, without a
    /// task, without regard to budgets. Whether it was new; one that is there stays as it is.
    async fn adopt(&self, lease: &Lease) -> Result<bool, LedgerError>;

    /// Ends every task that is not over, as revoked. How many there were.
    async fn end_tasks(&self, now: Timestamp) -> Result<usize, LedgerError>;

    /// Begins an epoch, the last step of a recovery: from now on these writers, and new ones, may use
    /// the ledger. Before the answer nobody may. Refuses with [`LedgerError::Lost`] when the ledger was lost
    /// once more since this observer condemned it.
    async fn begin_epoch(&self, epoch: Epoch, writers: &BTreeSet<Writer>) -> Result<(), LedgerError>;
}

/// Names one life of a ledger, from its making to its loss. The later one is the greater one, so that a
/// ledger that was put back to what it was before a recovery is told from one that was recovered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Epoch(pub u64);

impl Epoch {
    /// Of a new ledger: random, and before any that a recovery begins.
    pub fn first(drawn: [u8; 8]) -> Self {
        Self(u64::from_be_bytes(drawn) >> 16)
    }

    /// Of a recovery at this instant: after those that are known, and after others of before by the clock.
    pub fn after(known: impl IntoIterator<Item = Self>, now: Timestamp, drawn: [u8; 2]) -> Self {
        let known = known.into_iter().map(|epoch| epoch.0).max().unwrap_or_default();
        let least = (now.as_millis() << 16).max(known.saturating_add(1));
        Self(least.saturating_add(u64::from(u16::from_be_bytes(drawn))))
    }
}

/// Names a broker to the ledger, the same after every start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Writer(pub u64);

impl Writer {
    /// The broker with the journal of this audit key, as it is published (`vkey`).
    pub fn of_journal(vkey: &str) -> Self {
        let digest = digest::digest(&digest::SHA256, vkey.trim().as_bytes());
        let first = digest.as_ref().first_chunk().copied().unwrap_or_default();
        Self(u64::from_be_bytes(first))
    }
}

/// How far a ledger had come when it was last seen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mark {
    /// Its epoch.
    pub epoch: Epoch,
    /// The count of the writer whose mark it is, shard by shard.
    pub progress: Vec<u64>,
}

/// What a writer remembers of its ledger.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Memory {
    /// Nothing: it may make the ledger, or join one.
    #[default]
    Nothing,
    /// That there was one: its journal has records of what was given out.
    Journal,
    /// How far it had come.
    Mark(Mark),
    /// Nothing, and it does not join: it looks, ends and recovers.
    Observer,
}

/// How a ledger compares with what a writer remembers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// It has no epoch, and none is remembered.
    New,
    /// It is the one that is remembered, with all that was answered.
    Whole(Epoch),
    /// It is not.
    Lost(Loss),
    /// It was, and was recovered with the journal of this writer.
    Recovered(Epoch),
}

/// What a look at the whole ledger found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Watched {
    /// All is there. To be remembered.
    Whole(Mark),
    /// It was lost.
    Lost(Loss),
    /// It was lost, and [`Lineage::rejoin`] would take it into use again.
    Recovered,
}

/// How a ledger was lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Loss {
    /// All of it, or a shard, is empty.
    #[error("it is empty, or a part of it is")]
    Emptied,
    /// It is another one.
    #[error("it is another ledger, which this broker has not joined")]
    Replaced,
    /// It is an older state of itself.
    #[error("it was rolled back: it does not know any more what it answered before")]
    RolledBack,
    /// The journal knows of something that was written down and is not there.
    #[error("it does not know what the journal knows")]
    Behind,
    /// Somebody found it lost.
    #[error("another broker found it lost, or a recovery is under way")]
    Told,
}

impl Loss {
    /// The word that metrics and programs use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Emptied => "emptied",
            Self::Replaced => "replaced",
            Self::RolledBack => "rolled_back",
            Self::Behind => "behind",
            Self::Told => "told",
        }
    }
}

/// What one shard says to a writer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stand {
    pub(super) epoch: Option<Epoch>,
    /// Somebody found the ledger lost.
    pub(super) lost: bool,
    /// The count of the writer; `None` when it is not entered.
    pub(super) progress: Option<u64>,
}

/// How a ledger of these shards stands for a writer that remembers so much.
pub(super) fn judge(shards: &[Stand], memory: &Memory) -> Standing {
    if shards.iter().any(|shard| shard.lost) {
        return Standing::Lost(Loss::Told);
    }
    let epoch = shards.first().and_then(|shard| shard.epoch);
    let none = shards.iter().all(|shard| shard.epoch.is_none());
    if none && matches!(memory, Memory::Nothing | Memory::Observer) {
        return Standing::New;
    }
    if shards.iter().any(|shard| shard.epoch.is_none()) {
        return Standing::Lost(Loss::Emptied);
    }
    let Some(epoch) = epoch.filter(|first| shards.iter().all(|shard| shard.epoch == Some(*first))) else {
        return Standing::Lost(Loss::Replaced);
    };
    let entered = shards.iter().all(|shard| shard.progress.is_some());
    match memory {
        Memory::Nothing | Memory::Observer => Standing::Whole(epoch),
        Memory::Journal if entered => Standing::Whole(epoch),
        Memory::Mark(mark) if mark.epoch == epoch => {
            let mut both = shards.iter().zip(&mark.progress);
            // Counts begin at 1, so that one that is missing is behind whatever is remembered.
            match both.all(|(shard, seen)| shard.progress.is_some_and(|now| now >= *seen)) {
                true => Standing::Whole(epoch),
                false => Standing::Lost(Loss::RolledBack),
            }
        }
        Memory::Mark(mark) if entered && epoch > mark.epoch => Standing::Recovered(epoch),
        Memory::Mark(_) if entered => Standing::Lost(Loss::RolledBack),
        Memory::Journal | Memory::Mark(_) => Standing::Lost(Loss::Replaced),
    }
}

/// Both are 16 hexadecimal digits.
macro_rules! hexadecimal {
    ($($name:ident, $kind:literal;)+) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:016x}", self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let digits = text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
                let number = digits.then(|| u64::from_str_radix(text, 16).ok()).flatten();
                number.map(Self).ok_or_else(|| InvalidName::new($kind, text, "it is 16 hexadecimal digits"))
            }
        }
    )+};
}

hexadecimal! {
    Epoch, "epoch";
    Writer, "writer";
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const E: Epoch = Epoch(7);

    fn stand(epoch: Option<Epoch>, progress: Option<u64>) -> Stand {
        Stand {
            epoch,
            lost: false,
            progress,
        }
    }

    fn mark(epoch: Epoch, progress: &[u64]) -> Memory {
        Memory::Mark(Mark {
            epoch,
            progress: progress.to_vec(),
        })
    }

    #[test]
    fn a_ledger_is_held_against_what_is_remembered_of_it() {
        let empty = [stand(None, None); 2];
        let whole = [stand(Some(E), Some(5)), stand(Some(E), Some(9))];
        let half = [stand(Some(E), Some(5)), stand(None, None)];
        let foreign = [stand(Some(E), None); 2];
        let mixed = [stand(Some(E), Some(1)), stand(Some(Epoch(8)), Some(1))];
        let lost = Standing::Lost;
        for (shards, memory, standing) in [
            (&empty, Memory::Nothing, Standing::New),
            (&empty, Memory::Journal, lost(Loss::Emptied)),
            (&empty, mark(E, &[1, 1]), lost(Loss::Emptied)),
            (&whole, Memory::Nothing, Standing::Whole(E)),
            (&whole, Memory::Journal, Standing::Whole(E)),
            (&whole, mark(E, &[5, 9]), Standing::Whole(E)),
            (&whole, mark(E, &[5, 10]), lost(Loss::RolledBack)),
            (&whole, mark(Epoch(6), &[50, 90]), Standing::Recovered(E)),
            (&whole, mark(Epoch(8), &[1, 1]), lost(Loss::RolledBack)),
            (&foreign, Memory::Nothing, Standing::Whole(E)),
            (&foreign, Memory::Journal, lost(Loss::Replaced)),
            (&foreign, mark(E, &[1, 1]), lost(Loss::RolledBack)),
            (&foreign, mark(Epoch(6), &[1, 1]), lost(Loss::Replaced)),
            (&half, Memory::Nothing, lost(Loss::Emptied)),
            (&half, mark(E, &[1, 1]), lost(Loss::Emptied)),
            (&mixed, Memory::Nothing, lost(Loss::Replaced)),
            (&mixed, mark(Epoch(6), &[1, 1]), lost(Loss::Replaced)),
        ] {
            assert_eq!(judge(shards, &memory), standing, "{shards:?} {memory:?}");
        }
        let told = [
            Stand {
                lost: true,
                ..whole[0]
            },
            whole[1],
        ];
        assert_eq!(judge(&told, &Memory::Nothing), lost(Loss::Told));
        assert_eq!(judge(&told, &mark(Epoch(6), &[1, 1])), lost(Loss::Told));
    }

    #[test]
    fn a_later_epoch_is_greater() {
        let now = Timestamp::from_secs(1_795_329_000);
        let first = Epoch::first([0xff; 8]);
        let next = Epoch::after([first], now, [0xff; 2]);
        assert!(first < Epoch::after([], now, [0; 2]));
        assert!(next < Epoch::after([], now.plus(Duration::from_millis(1)), [0; 2]));
        assert!(
            next < Epoch::after([first, next], now, [0; 2]),
            "at the same instant"
        );
        assert!(Epoch(1 << 62) < Epoch::after([Epoch(1 << 62)], now, [0; 2]));
    }

    #[test]
    fn epochs_and_writers_read_back_what_they_print() {
        for number in [0, 1, u64::MAX, 0x0123_4567_89ab_cdef] {
            assert_eq!(Epoch(number).to_string().parse(), Ok(Epoch(number)));
            assert_eq!(Writer(number).to_string().parse(), Ok(Writer(number)));
        }
        for bad in [
            "",
            "7",
            "00000000000000000",
            "000000000000000G",
            "+000000000000001",
        ] {
            assert!(bad.parse::<Epoch>().is_err(), "{bad}");
        }
        let (one, other) = (Writer::of_journal("a+1+k\n"), Writer::of_journal("b+1+k"));
        assert_eq!(one, Writer::of_journal("a+1+k"), "the file ends with a newline");
        assert_ne!(one, other);
    }
}
