//! Instants as the broker writes them: RFC 3339 in UTC.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Deserializer, de};

/// Reads `2026-11-22T07:49:41.253Z`; nothing when it is something else.
pub(crate) fn parse(text: &str) -> Option<SystemTime> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let mut date = date.split('-').map(|part| part.parse::<u64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let mut time = time.split(':').map(|part| part.parse::<u64>().ok());
    let (hour, minute, second) = (time.next()??, time.next()??, time.next()??);
    let whole = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60;
    if !whole || date.next().is_some() || time.next().is_some() || fraction.len() > 9 {
        return None;
    }
    let nanoseconds = format!("{fraction:0<9}").parse().ok()?;
    // Days since 1970, counted in years that begin in March, so that the leap day is the last.
    let (year, month) = if month <= 2 {
        (year - 1, month + 9)
    } else {
        (year, month - 3)
    };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1;
    let days = days.checked_sub(719_468)?;
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds) + Duration::from_nanos(nanoseconds))
}

/// For serde.
pub(crate) fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse(&text).ok_or_else(|| de::Error::custom("an instant is RFC 3339 in UTC"))
}

/// For serde, where it may be absent.
pub(crate) fn read_optional<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<SystemTime>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    let wrong = || de::Error::custom("an instant is RFC 3339 in UTC");
    text.map(|text| parse(&text).ok_or_else(wrong)).transpose()
}

/// The longest length of time that is believed, in seconds: ten years. More than that cannot always be added to an
/// instant, and nobody waits for it.
const LONGEST: u64 = 10 * 366 * 86_400;

/// Seconds, for serde.
pub(crate) fn read_seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    Ok(u64::deserialize(deserializer)?.min(LONGEST))
}

/// Seconds, for serde, where they may be absent.
pub(crate) fn read_optional_seconds<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<u64>, D::Error> {
    let seconds = Option::<u64>::deserialize(deserializer)?;
    Ok(seconds.map(|seconds| seconds.min(LONGEST)))
}

/// A length of time as the broker takes it: whole seconds, at least one.
pub(crate) fn seconds(length: Duration) -> u64 {
    let rounded = length.as_secs() + u64::from(length.subsec_nanos() > 0);
    rounded.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_instants_in_utc_and_nothing_else() {
        let at = |text| parse(text).map(|at| at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis());
        assert_eq!(at("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(at("2026-11-22T07:49:41.253Z"), Some(1_795_333_781_253));
        assert_eq!(at("2024-02-29T23:59:59Z"), Some(1_709_251_199_000));
        assert_eq!(at("2000-03-01T00:00:00.5Z"), Some(951_868_800_500));
        for bad in [
            "",
            "2026-11-22",
            "2026-11-22T07:49:41",
            "2026-11-22T07:49:41+01:00",
            "2026-13-22T07:49:41Z",
            "2026-11-22T24:49:41Z",
            "1969-12-31T23:59:59Z",
            "2026-11-22-1T07:49:41Z",
        ] {
            assert_eq!(at(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_part_of_a_second_is_a_whole_one_for_the_broker() {
        assert_eq!(seconds(Duration::from_millis(1)), 1);
        assert_eq!(seconds(Duration::ZERO), 1);
        assert_eq!(seconds(Duration::from_secs(90)), 90);
        assert_eq!(seconds(Duration::from_millis(1500)), 2);
    }
}
