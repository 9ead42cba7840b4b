//! Times in lines, always UTC. Never reads a clock.

use jiff::tz::TimeZone;
use prost_types::Timestamp;

/// The names that `--time-format` takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum TimeFormat {
    /// `Jan  2 15:04:05.000`
    #[default]
    #[value(name = "StampMilli")]
    StampMilli,
    /// `2006-01-02`
    #[value(name = "YearMonthDay")]
    YearMonthDay,
    /// `2006-01-02T15Z`
    #[value(name = "YearMonthDayHour")]
    YearMonthDayHour,
    /// `2006-01-02T15:04Z`
    #[value(name = "YearMonthDayHourMinute")]
    YearMonthDayHourMinute,
    /// `2006-01-02T15:04:05Z`
    #[value(name = "RFC3339")]
    Rfc3339,
    /// With milliseconds.
    #[value(name = "RFC3339Milli")]
    Rfc3339Milli,
    /// With microseconds.
    #[value(name = "RFC3339Micro")]
    Rfc3339Micro,
    /// With nanoseconds, as far as they are not zero.
    #[value(name = "RFC3339Nano")]
    Rfc3339Nano,
    /// `Mon, 02 Jan 2006 15:04:05 +0000`
    #[value(name = "RFC1123Z")]
    Rfc1123Z,
}

impl TimeFormat {
    /// `N/A` where there is no time, or none that a calendar has.
    pub fn format(self, time: Option<Timestamp>) -> String {
        let time = time.and_then(|time| jiff::Timestamp::new(time.seconds, time.nanos).ok());
        let Some(time) = time else { return "N/A".into() };
        let nanos = time.subsec_nanosecond();
        let zoned = time.to_zoned(TimeZone::UTC);
        let date = |format: &str| zoned.strftime(format).to_string();
        match self {
            Self::StampMilli => format!("{}.{:03}", date("%b %e %H:%M:%S"), nanos / 1_000_000),
            Self::YearMonthDay => date("%Y-%m-%d"),
            Self::YearMonthDayHour => date("%Y-%m-%dT%HZ"),
            Self::YearMonthDayHourMinute => date("%Y-%m-%dT%H:%MZ"),
            Self::Rfc3339 => date("%Y-%m-%dT%H:%M:%SZ"),
            Self::Rfc3339Milli => format!("{}.{:03}Z", date("%Y-%m-%dT%H:%M:%S"), nanos / 1_000_000),
            Self::Rfc3339Micro => format!("{}.{:06}Z", date("%Y-%m-%dT%H:%M:%S"), nanos / 1000),
            Self::Rfc3339Nano if nanos == 0 => date("%Y-%m-%dT%H:%M:%SZ"),
            Self::Rfc3339Nano => {
                let fraction = format!("{nanos:09}");
                format!("{}.{}Z", date("%Y-%m-%dT%H:%M:%S"), fraction.trim_end_matches('0'))
            }
            Self::Rfc1123Z => date("%a, %d %b %Y %H:%M:%S +0000"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats() {
        let time = Some(Timestamp { seconds: 1_762_059_783, nanos: 60_500_000 });
        for (format, text) in [
            (TimeFormat::StampMilli, "Nov  2 05:03:03.060"),
            (TimeFormat::YearMonthDay, "2025-11-02"),
            (TimeFormat::YearMonthDayHour, "2025-11-02T05Z"),
            (TimeFormat::YearMonthDayHourMinute, "2025-11-02T05:03Z"),
            (TimeFormat::Rfc3339, "2025-11-02T05:03:03Z"),
            (TimeFormat::Rfc3339Milli, "2025-11-02T05:03:03.060Z"),
            (TimeFormat::Rfc3339Micro, "2025-11-02T05:03:03.060500Z"),
            (TimeFormat::Rfc3339Nano, "2025-11-02T05:03:03.0605Z"),
            (TimeFormat::Rfc1123Z, "Sun, 02 Nov 2025 05:03:03 +0000"),
        ] {
            assert_eq!(format.format(time), text);
        }
        assert_eq!(TimeFormat::StampMilli.format(None), "N/A");
        assert_eq!(TimeFormat::StampMilli.format(Some(Timestamp { seconds: i64::MAX, nanos: 0 })), "N/A");
    }
}
