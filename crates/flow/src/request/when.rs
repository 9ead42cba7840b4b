//! Times on a command line. Never reads a clock: durations are taken back from the time that is given.

use jiff::{Timestamp, civil::Date, fmt::rfc2822, tz::TimeZone};

use crate::event::Time;

/// A text that is no time.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is neither a duration (5m, 1h30m) nor a day (2006-01-02) nor a time (RFC 3339, RFC 1123)")]
pub struct InvalidTime(String);

/// A duration before `now`, a day (its first moment, UTC), or a time.
pub(super) fn parse(text: &str, now: Time) -> Result<Time, InvalidTime> {
    if let Some(nanos) = duration(text) {
        return Ok(Time(now.0.saturating_sub(nanos)));
    }
    let day = || text.parse::<Date>().ok()?.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp());
    let written = || rfc2822::parse(text).ok().map(|zoned| zoned.timestamp());
    // A day first: without a time of day it is no timestamp anyway.
    let time = day_only(text).then(day).flatten().or_else(|| text.parse::<Timestamp>().ok()).or_else(written);
    let time = time.ok_or_else(|| InvalidTime(text.to_owned()))?;
    i64::try_from(time.as_nanosecond()).map(Time).map_err(|_| InvalidTime(text.to_owned()))
}

fn day_only(text: &str) -> bool {
    text.len() == "2006-01-02".len()
}

/// Go's durations: numbers with a unit, one after the other; in nanoseconds.
fn duration(text: &str) -> Option<i64> {
    let mut total = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let unit = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit);
        let scale = match unit {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        total += number.parse::<f64>().ok()? * scale;
        rest = tail;
    }
    (!text.is_empty()).then_some(total as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time(1_763_870_400_000_000_000);

    #[test]
    fn durations_are_taken_back() {
        for (text, seconds) in [("0s", 0.0), ("5m", 300.0), ("1h30m", 5400.0), ("1.5s", 1.5), ("250ms", 0.25)]
        {
            assert_eq!(parse(text, NOW), Ok(Time(NOW.0 - (seconds * 1e9) as i64)), "{text}");
        }
    }

    #[test]
    fn days_and_times() {
        for text in [
            "2025-11-23",
            "2025-11-23T00:00:00Z",
            "2025-11-23T01:00:00+01:00",
            "Sun, 23 Nov 2025 00:00:00 +0000",
        ] {
            assert_eq!(parse(text, NOW), Ok(Time(1_763_856_000_000_000_000)), "{text}");
        }
        assert_eq!(parse("2025-11-23T00:00:00.5Z", NOW), Ok(Time(1_763_856_000_500_000_000)));
    }

    #[test]
    fn the_rest_is_refused() {
        for text in ["", "yesterday", "5", "5x", "m", "2025-13-01", "1e9s"] {
            assert_eq!(parse(text, NOW), Err(InvalidTime(text.to_owned())), "{text}");
        }
    }
}
