//! Lengths of life: whole seconds, never zero, and what bounded them.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::name::InvalidName;

/// A length of life in whole seconds, between one second and 365 days.
///
/// Written as a number of seconds (`300`) or with units, largest first (`5m`, `1h30m`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ttl(NonZeroU32);

const LONGEST: u32 = 365 * 24 * 3600;
const RULE: &str = "write seconds or units such as `90`, `90s`, `5m` or `1h30m`, from 1s to 365d";

impl Ttl {
    /// The shortest length: one second.
    pub const MIN: Self = Self(NonZeroU32::MIN);

    /// The longest length that can be asked for: 365 days.
    pub const MAX: Self = Self(match NonZeroU32::new(LONGEST) {
        Some(seconds) => seconds,
        None => NonZeroU32::MIN,
    });

    /// From whole seconds; `None` when zero or more than 365 days.
    pub const fn from_secs(seconds: u32) -> Option<Self> {
        match NonZeroU32::new(seconds) {
            Some(seconds) if seconds.get() <= LONGEST => Some(Self(seconds)),
            _ => None,
        }
    }

    /// The whole seconds of a duration, at most 365 days; `None` when less than a second is left.
    pub fn from_duration(duration: Duration) -> Option<Self> {
        let seconds = u32::try_from(duration.as_secs()).unwrap_or(LONGEST).min(LONGEST);
        Self::from_secs(seconds)
    }

    /// Whole seconds.
    pub const fn as_secs(self) -> u32 {
        self.0.get()
    }

    /// As a duration.
    pub const fn as_duration(self) -> Duration {
        Duration::from_secs(self.0.get() as u64)
    }
}

impl FromStr for Ttl {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        seconds(text)
            .and_then(Self::from_secs)
            .ok_or_else(|| InvalidName::new("length of time", text, RULE))
    }
}

fn seconds(text: &str) -> Option<u32> {
    if text.is_empty() || text.len() > 16 {
        return None;
    }
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse().ok();
    }
    let (mut total, mut number, mut last) = (0_u32, None::<u32>, u32::MAX);
    for letter in text.chars() {
        if let Some(digit) = letter.to_digit(10) {
            let tens = number.unwrap_or_default().checked_mul(10)?;
            number = Some(tens.checked_add(digit)?);
            continue;
        }
        let unit = match letter {
            'd' => 86_400,
            'h' => 3600,
            'm' => 60,
            's' => 1,
            _ => return None,
        };
        if unit >= last {
            return None; // each unit once, largest first
        }
        last = unit;
        total = total.checked_add(number.take()?.checked_mul(unit)?)?;
    }
    number.is_none().then_some(total)
}

impl fmt::Display for Ttl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.as_secs();
        for (unit, letter) in [(86_400, 'd'), (3600, 'h'), (60, 'm'), (1, 's')] {
            if rest >= unit {
                write!(f, "{}{letter}", rest / unit)?;
                rest %= unit;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Ttl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A number of seconds.
impl Serialize for Ttl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(self.as_secs())
    }
}

/// A number of seconds or, where the format is made for people, a text with units.
impl<'de> Deserialize<'de> for Ttl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Ttl;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a length of time: seconds, or a text such as `5m`")
            }

            fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<Ttl, E> {
                u32::try_from(seconds)
                    .ok()
                    .and_then(Ttl::from_secs)
                    .ok_or_else(|| E::custom(InvalidName::new("length of time", &seconds.to_string(), RULE)))
            }

            fn visit_i64<E: de::Error>(self, seconds: i64) -> Result<Ttl, E> {
                let unsigned = u64::try_from(seconds);
                unsigned.map_or_else(
                    |_| {
                        Err(E::custom(InvalidName::new(
                            "length of time",
                            &seconds.to_string(),
                            RULE,
                        )))
                    },
                    |seconds| self.visit_u64(seconds),
                )
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Ttl, E> {
                text.parse().map_err(E::custom)
            }
        }
        if deserializer.is_human_readable() {
            deserializer.deserialize_any(Visitor)
        } else {
            deserializer.deserialize_u32(Visitor)
        }
    }
}

/// What a granted life was bounded by: the shortest of all that apply.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// Nothing was shorter than what the agent asked for.
    Requested,
    /// The agent asked for nothing, and the tool's default applied.
    Default,
    /// `@max_ttl` of a policy that permitted.
    Policy,
    /// The agent's ceiling in the registry.
    Agent,
    /// The tool's ceiling in the catalogue.
    Tool,
    /// What the provider can do.
    Provider,
    /// The deadline of the task.
    Task,
    /// The expiry of the evidence, where the configuration ties credentials to it.
    Attestation,
}

impl Bound {
    /// Every bound.
    pub const ALL: [Self; 8] = [
        Self::Requested,
        Self::Default,
        Self::Policy,
        Self::Agent,
        Self::Tool,
        Self::Provider,
        Self::Task,
        Self::Attestation,
    ];

    /// The word that answers and records use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Default => "default",
            Self::Policy => "policy",
            Self::Agent => "agent",
            Self::Tool => "tool",
            Self::Provider => "provider",
            Self::Task => "task",
            Self::Attestation => "attestation",
        }
    }
}

/// The shortest of several lengths, and which of them it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounded {
    /// The length that holds.
    pub ttl: Ttl,
    /// What made it no longer.
    pub by: Bound,
}

impl Bounded {
    /// Starts with one length.
    pub const fn new(ttl: Ttl, by: Bound) -> Self {
        Self { ttl, by }
    }

    /// Narrows to `ttl` when that is shorter; on a tie the earlier bound keeps the name.
    #[must_use]
    pub fn at_most(self, ttl: Option<Ttl>, by: Bound) -> Self {
        match ttl {
            Some(ttl) if ttl < self.ttl => Self { ttl, by },
            _ => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_seconds_and_units() {
        for (text, seconds) in [
            ("90", 90),
            ("90s", 90),
            ("5m", 300),
            ("1h30m", 5400),
            ("1d", 86_400),
            ("365d", LONGEST),
        ] {
            assert_eq!(text.parse::<Ttl>().unwrap().as_secs(), seconds, "{text}");
        }
        assert_eq!("5400".parse::<Ttl>().unwrap().to_string(), "1h30m");
    }

    #[test]
    fn refuses_absurd_lengths() {
        for text in [
            "",
            "0",
            "0s",
            "-5",
            "5 m",
            "m",
            "5m5m",
            "5s5m",
            "1e3",
            "366d",
            "99999999999",
            "5m3",
            "1w",
            "٣s",
        ] {
            assert!(text.parse::<Ttl>().is_err(), "{text}");
        }
        for json in ["0", "-1", "1.5", "31536001", "true", "\"x\"", "null"] {
            assert!(serde_json::from_str::<Ttl>(json).is_err(), "{json}");
        }
    }

    #[test]
    fn the_shortest_bound_keeps_its_name() {
        let ttl = |s| Ttl::from_secs(s).unwrap();
        let bounded = Bounded::new(ttl(600), Bound::Requested)
            .at_most(Some(ttl(300)), Bound::Policy)
            .at_most(None, Bound::Agent)
            .at_most(Some(ttl(300)), Bound::Tool)
            .at_most(Some(ttl(900)), Bound::Task);
        assert_eq!(bounded, Bounded::new(ttl(300), Bound::Policy));
    }
}
