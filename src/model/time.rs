//! Instants, in milliseconds since the Unix epoch.
//!
//! People and APIs see RFC 3339 in UTC; records see the number.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Datelike as _, Timelike as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// An instant in milliseconds since the Unix epoch, never before it and never past the year 9999.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(u64);

/// The last millisecond of the year 9999, the last one that RFC 3339 can print.
const LATEST: u64 = 253_402_300_799_999;

impl Timestamp {
    /// The first instant: older than everything that Dayfly records.
    pub const EPOCH: Self = Self(0);
    /// The last instant that can be printed.
    pub const MAX: Self = Self(LATEST);

    /// From milliseconds since the Unix epoch; later than the year 9999 becomes its last millisecond.
    pub const fn from_millis(millis: u64) -> Self {
        Self(if millis > LATEST { LATEST } else { millis })
    }

    /// From whole seconds since the Unix epoch, the `NumericDate` of RFC 7519 §2.
    pub const fn from_secs(secs: u64) -> Self {
        Self::from_millis(secs.saturating_mul(1000))
    }

    /// Milliseconds since the Unix epoch.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// Whole seconds since the Unix epoch, rounded down.
    pub const fn as_secs(self) -> u64 {
        self.0 / 1000
    }

    /// This instant moved later; stops at the end of the year 9999.
    #[must_use]
    pub fn plus(self, by: Duration) -> Self {
        Self::from_millis(self.0.saturating_add(millis(by)))
    }

    /// This instant moved earlier; stops at the epoch.
    #[must_use]
    pub fn minus(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(millis(by)))
    }

    /// How long after `earlier` this is; zero when it is not after it.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let moment = i64::try_from(self.0)
            .ok()
            .and_then(DateTime::from_timestamp_millis)
            .unwrap_or_default();
        // As one number, whose digits then go to their places. `chrono` would print into a text of its own.
        let year = u64::try_from(moment.year()).unwrap_or_default();
        let parts = [
            (100, moment.month()),
            (100, moment.day()),
            (100, moment.hour()),
            (100, moment.minute()),
            (100, moment.second()),
            (1000, moment.timestamp_subsec_millis()),
        ];
        let mut rest = parts
            .into_iter()
            .fold(year, |number, (places, part)| number * places + u64::from(part));
        let mut text = *b"0000-00-00T00:00:00.000Z";
        for digit in text.iter_mut().rev().filter(|byte| **byte == b'0') {
            *digit += u8::try_from(rest % 10).unwrap_or_default();
            rest /= 10;
        }
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not an RFC 3339 date and time between 1970 and 9999.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an RFC 3339 date and time such as 2026-11-22T06:30:00Z")]
pub struct InvalidTimestamp(String);

impl FromStr for Timestamp {
    type Err = InvalidTimestamp;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidTimestamp(text.chars().take(40).collect());
        let moment = DateTime::parse_from_rfc3339(text).map_err(|_| invalid())?;
        u64::try_from(moment.timestamp_millis())
            .map(Self::from_millis)
            .map_err(|_| invalid())
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            serializer.serialize_u64(self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?
                .parse()
                .map_err(de::Error::custom)
        } else {
            u64::deserialize(deserializer).map(Self::from_millis)
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::SecondsFormat;

    use super::*;

    #[test]
    fn prints_and_reads_rfc_3339() {
        let moment = Timestamp::from_millis(1_795_329_000_250);
        assert_eq!(moment.to_string(), "2026-11-22T06:30:00.250Z");
        assert_eq!(moment.to_string().parse(), Ok(moment));
        assert_eq!("2026-11-22T07:30:00.25+01:00".parse(), Ok(moment));
    }

    #[test]
    fn prints_what_chrono_prints() {
        for millis in [0, 1, 951_782_399_999, 951_782_400_000, 1_795_329_000_250, LATEST] {
            let moment = Timestamp::from_millis(millis);
            let theirs = DateTime::from_timestamp_millis(millis.try_into().unwrap()).unwrap();
            assert_eq!(
                moment.to_string(),
                theirs.to_rfc3339_opts(SecondsFormat::Millis, true)
            );
        }
    }

    #[test]
    fn stops_at_both_ends_instead_of_wrapping() {
        assert_eq!(Timestamp::EPOCH.minus(Duration::from_secs(1)), Timestamp::EPOCH);
        assert_eq!(Timestamp::MAX.plus(Duration::MAX), Timestamp::MAX);
        assert_eq!(Timestamp::EPOCH.since(Timestamp::MAX), Duration::ZERO);
        assert_eq!(Timestamp::MAX.to_string(), "9999-12-31T23:59:59.999Z");
    }

    #[test]
    fn refuses_what_is_not_a_date() {
        for text in [
            "",
            "yesterday",
            "1969-12-31T23:59:59Z",
            "2026-11-22",
            "2026-13-01T00:00:00Z",
        ] {
            assert!(text.parse::<Timestamp>().is_err(), "{text}");
        }
    }
}
