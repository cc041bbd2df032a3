//! Typed, printable, time-ordered ids: `tsk_…`, `lse_…`, `dec_…`.
//!
//! An id is a UUIDv7 (RFC 9562 §5.7) printed as a prefix and 26 characters of lower-case Crockford
//! base 32. The 12 bits of `rand_a` hold the **slot** of a task, and each of its leases repeats it:
//! from any printed id the ledger knows in which shard to look, without a lookup and without a
//! directory. Ids are names, not secrets.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use uuid::Uuid;

use super::name::InvalidName;
use super::parsed::parsed;
use super::time::Timestamp;

/// Random bytes that an id takes. Ten, so that the caller draws them in one go.
pub type Randomness = [u8; 10];

/// Which of 4096 slots a task falls into; a ledger with N shards keeps it in shard `slot mod N`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Slot(u16);

impl Slot {
    /// The number of slots: the most shards that a ledger can have.
    pub const COUNT: u16 = 4096;

    /// Folds any number into a slot.
    pub const fn new(number: u16) -> Self {
        Self(number % Self::COUNT)
    }

    /// The shard of this slot in a ledger of `shards` shards.
    pub fn shard(self, shards: std::num::NonZeroU16) -> u16 {
        self.0 % shards
    }
}

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const PREFIX: usize = "tsk_".len();
const DIGITS: usize = 26;

fn build(at: Timestamp, slot: Slot, random: Randomness) -> Uuid {
    let [_, _, b8, b9, b10, b11, b12, b13, b14, b15] = random;
    let [_, _, m0, m1, m2, m3, m4, m5] = at.as_millis().to_be_bytes();
    let [s0, s1] = slot.0.to_be_bytes();
    Uuid::from_bytes([
        m0,
        m1,
        m2,
        m3,
        m4,
        m5,
        0x70 | (s0 & 0x0f),
        s1,
        0x80 | (b8 & 0x3f),
        b9,
        b10,
        b11,
        b12,
        b13,
        b14,
        b15,
    ])
}

/// In one piece: an issue prints a dozen ids, JSON looks at each piece for what to escape, and a text that has to
/// grow for the next piece is copied.
fn print(prefix: &str, id: Uuid, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut rest = id.as_u128();
    let mut text = [0; PREFIX + DIGITS];
    let (start, digits) = text.split_at_mut(PREFIX);
    start.copy_from_slice(prefix.as_bytes());
    for digit in digits.iter_mut().rev() {
        let five = usize::from(rest.to_le_bytes()[0] & 31);
        *digit = ALPHABET.get(five).copied().unwrap_or(b'0');
        rest >>= 5;
    }
    f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
}

fn read(digits: &str) -> Option<Uuid> {
    if digits.len() != DIGITS {
        return None;
    }
    let mut number: u128 = 0;
    for (place, byte) in digits.bytes().enumerate() {
        let five = ALPHABET.iter().position(|&letter| letter == byte)?;
        if place == 0 && five > 7 {
            return None; // 26 digits hold 130 bits; the first two must be zero
        }
        number = (number << 5) | u128::try_from(five).ok()?;
    }
    let id = Uuid::from_u128(number);
    (id.get_version_num() == 7 && id.get_variant() == uuid::Variant::RFC4122).then_some(id)
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// What every printed id of this kind starts with.
            pub const PREFIX: &'static str = $prefix;

            /// The 16 bytes of the UUID.
            pub const fn to_bytes(self) -> [u8; 16] {
                self.0.into_bytes()
            }

            /// From the 16 bytes of an id that was printed before; `None` when they are no UUIDv7.
            pub fn from_bytes(bytes: [u8; 16]) -> Option<Self> {
                let id = Uuid::from_bytes(bytes);
                (id.get_version_num() == 7).then_some(Self(id))
            }

            /// When the id was made, to the millisecond, by the clock of the broker that made it.
            pub fn made_at(self) -> Timestamp {
                let [m0, m1, m2, m3, m4, m5, ..] = self.to_bytes();
                Timestamp::from_millis(u64::from_be_bytes([0, 0, m0, m1, m2, m3, m4, m5]))
            }

            /// The slot that the id carries.
            pub fn slot(self) -> Slot {
                let [_, _, _, _, _, _, s0, s1, ..] = self.to_bytes();
                Slot(u16::from_be_bytes([s0 & 0x0f, s1]))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                print(Self::PREFIX, self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.strip_prefix(Self::PREFIX).and_then(read).map(Self).ok_or_else(|| {
                    InvalidName::new($kind, text, concat!("it is `", $prefix, "` and 26 characters, as Dayfly printed it"))
                })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    self.to_bytes().serialize(serializer)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    parsed(deserializer)
                } else {
                    let bytes = <[u8; 16]>::deserialize(deserializer)?;
                    Self::from_bytes(bytes).ok_or_else(|| de::Error::custom(concat!("not a ", $kind)))
                }
            }
        }
    };
}

id!(
    /// Names a task.
    TaskId, "tsk_", "task id"
);
id!(
    /// Names a lease. It carries the slot of its task.
    LeaseId, "lse_", "lease id"
);
id!(
    /// Names one decision of policy, permit or denial.
    DecisionId, "dec_", "decision id"
);
id!(
    /// Names one request to the API, from its answer to its records and traces.
    RequestId, "req_", "request id"
);

impl TaskId {
    /// A new task id in a slot of its own choosing.
    pub fn new(at: Timestamp, random: Randomness) -> Self {
        let [r0, r1, ..] = random;
        Self::in_slot(at, Slot::new(u16::from_be_bytes([r0, r1])), random)
    }

    /// A new task id in a given slot, so that a repeated request finds its first answer in one shard.
    pub fn in_slot(at: Timestamp, slot: Slot, random: Randomness) -> Self {
        Self(build(at, slot, random))
    }
}

impl LeaseId {
    /// A new lease id in the slot of its task.
    pub fn new(task: TaskId, at: Timestamp, random: Randomness) -> Self {
        Self(build(at, task.slot(), random))
    }
}

impl DecisionId {
    /// A new decision id.
    pub fn new(at: Timestamp, random: Randomness) -> Self {
        let [r0, r1, ..] = random;
        Self(build(at, Slot::new(u16::from_be_bytes([r0, r1])), random))
    }
}

impl RequestId {
    /// A new request id.
    pub fn new(at: Timestamp, random: Randomness) -> Self {
        let [r0, r1, ..] = random;
        Self(build(at, Slot::new(u16::from_be_bytes([r0, r1])), random))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Timestamp = Timestamp::from_millis(1_795_329_000_250);

    #[test]
    fn prints_reads_and_carries_time_and_slot() {
        let task = TaskId::new(AT, [0xab, 0xcd, 1, 2, 3, 4, 5, 6, 7, 8]);
        let printed = task.to_string();
        assert_eq!(printed.len(), 30);
        assert_eq!(printed.parse(), Ok(task));
        assert_eq!(task.made_at(), AT);
        assert_eq!(task.slot(), Slot::new(0xabcd));

        let lease = LeaseId::new(task, AT, [0xff; 10]);
        assert_eq!(lease.slot(), task.slot());
        assert_eq!(LeaseId::from_bytes(lease.to_bytes()), Some(lease));
    }

    #[test]
    fn sorts_by_time_of_making() {
        let earlier = TaskId::new(AT, [0xff; 10]).to_string();
        let later = TaskId::new(Timestamp::from_millis(AT.as_millis() + 1), [0; 10]).to_string();
        assert!(earlier < later);
    }

    #[test]
    fn refuses_what_was_not_printed_here() {
        let good = TaskId::new(AT, [7; 10]).to_string();
        let digits = good.strip_prefix("tsk_").unwrap();
        let bad = [
            String::new(),
            "tsk_".into(),
            digits.to_owned(),
            format!("lse_{digits}"),
            format!("{good}0"),
            good.to_uppercase(),
            good.replace(char::is_numeric, "l"),
            format!("tsk_z{}", &digits[1..]),
            format!("tsk_{}", "0".repeat(26)),
        ];
        for text in bad {
            assert!(text.parse::<TaskId>().is_err(), "{text}");
        }
    }
}
