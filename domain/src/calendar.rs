//! Periods of whole months in a time zone: each boundary is counted from the anchor, never from the one before.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Datelike, MappedLocalTime, Months, NaiveDateTime, Offset, TimeDelta, TimeZone as _, Utc};
use chrono_tz::{GapInfo, Tz};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A time zone of the IANA database by its name, such as `Europe/Berlin`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TimeZone(Tz);

/// Why a text is no time zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be the name of a time zone in the IANA database, such as Europe/Berlin")]
pub struct UnknownTimeZone;

impl TimeZone {
    /// The name as the IANA database spells it.
    pub fn as_str(&self) -> &'static str {
        self.0.name()
    }
}

impl Default for TimeZone {
    fn default() -> Self {
        Self(Tz::UTC)
    }
}

impl FromStr for TimeZone {
    type Err = UnknownTimeZone;

    fn from_str(text: &str) -> Result<Self, UnknownTimeZone> {
        text.parse().map(Self).map_err(|_| UnknownTimeZone)
    }
}

impl fmt::Display for TimeZone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for TimeZone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for TimeZone {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for TimeZone {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <Cow<'de, str>>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for TimeZone {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "TimeZone".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "minLength": 1, "maxLength": 64, "examples": ["Europe/Berlin"] })
    }
}

/// A span of time that holds its start and not its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Period {
    /// Its first moment.
    pub start: DateTime<Utc>,
    /// The moment that it ends at, which is the next one's first.
    pub end: DateTime<Utc>,
}

/// The last second of the year 9999, since 1970: the last year that RFC 3339 can write. No period goes on after it.
const LAST_SECOND: i64 = 253_402_300_799;
/// The first second of the year 1.
const FIRST_SECOND: i64 = -62_135_596_800;

/// No boundary is later.
pub(crate) fn last_boundary() -> DateTime<Utc> {
    DateTime::from_timestamp(LAST_SECOND, 999_999_000).unwrap_or(DateTime::<Utc>::MAX_UTC)
}

/// The moment, held between the years 1 and 9999 so that every boundary after it can be written. The last microsecond
/// is left to be the end of a period.
fn bounded(at: DateTime<Utc>) -> DateTime<Utc> {
    let first = DateTime::from_timestamp(FIRST_SECOND, 0).unwrap_or(DateTime::<Utc>::MIN_UTC);
    at.max(first).min(last_boundary() - TimeDelta::microseconds(1))
}

/// The anchor's date and time of day in the zone, `months` later; on the last day of a month that is too short (31
/// January, 28 or 29 February, 31 March). A time of day that the clocks skip is read as if they had not been moved, and
/// so comes later; one that they show twice is the first of the two (RFC 5545, and Temporal's "compatible"). Nothing is
/// later than the year 9999, and from 2100 on a zone keeps its standard time, for the zone data ends there.
pub fn boundary(anchor: DateTime<Utc>, months: u32, zone: &TimeZone) -> DateTime<Utc> {
    let anchor = bounded(anchor);
    if months == 0 {
        return anchor;
    }
    let local = anchor.with_timezone(&zone.0).naive_local();
    local
        .checked_add_months(Months::new(months))
        .map_or_else(last_boundary, |local| instant(local, zone.0))
        .min(last_boundary())
}

/// The moment at which clocks in the zone show that time.
fn instant(local: NaiveDateTime, zone: Tz) -> DateTime<Utc> {
    match zone.from_local_datetime(&local) {
        MappedLocalTime::Single(at) | MappedLocalTime::Ambiguous(at, _) => at.to_utc(),
        MappedLocalTime::None => {
            let before = GapInfo::new(&local, &zone).and_then(|gap| gap.begin).map(|(_, offset)| offset.fix());
            let offset = before.unwrap_or_else(|| zone.offset_from_utc_datetime(&local).fix());
            local.checked_sub_offset(offset).unwrap_or(local).and_utc()
        }
    }
}

/// The period that holds `at` (`start <= at < end`): its number from 0, its start and its end. What is before the
/// anchor is counted to the first period, and what is after the year 9999 to the last one.
pub fn period_at(
    anchor: DateTime<Utc>,
    months_per_period: u32,
    zone: &TimeZone,
    at: DateTime<Utc>,
) -> (u32, DateTime<Utc>, DateTime<Utc>) {
    let (anchor, at, length) = (bounded(anchor), bounded(at), months_per_period.max(1));
    let month = |at: DateTime<Utc>| {
        let local = at.with_timezone(&zone.0).naive_local();
        i64::from(local.year()) * 12 + i64::from(local.month0())
    };
    // What began two months before `at` or earlier is never too late a guess: a boundary is at most one month and a
    // skipped day away from its place in the calendar. A few steps lead from there.
    let passed = u32::try_from(month(at) - month(anchor) - 2).unwrap_or(0);
    let mut cycle = passed / length;
    let mut start = boundary(anchor, cycle.saturating_mul(length), zone);
    loop {
        let end = boundary(anchor, cycle.saturating_add(1).saturating_mul(length), zone);
        // The second half ends the search where ends are all the same: after the year 9999.
        if at < end || end <= start {
            return (cycle, start, end);
        }
        (cycle, start) = (cycle.saturating_add(1), end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn zone(name: &str) -> TimeZone {
        name.parse().unwrap()
    }

    fn boundaries(anchor: &str, months: u32, name: &str, count: u32) -> Vec<String> {
        let written = |at: DateTime<Utc>| at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
        (0..count).map(|n| written(boundary(at(anchor), n * months, &zone(name)))).collect()
    }

    #[test]
    fn a_zone_is_its_name() {
        let json = |zone: &TimeZone| serde_json::to_string(zone).unwrap();
        assert_eq!(json(&TimeZone::default()), r#""UTC""#);
        for name in ["Europe/Berlin", "Asia/Calcutta", "America/Argentina/ComodRivadavia", "Etc/GMT+5"] {
            assert_eq!(json(&zone(name)), format!("{name:?}"));
            assert_eq!(serde_json::from_str::<TimeZone>(&format!("{name:?}")).unwrap(), zone(name));
            assert!(name.len() <= 64);
        }
        for bad in ["", "europe/berlin", "Mars/Olympus", "+02:00", " UTC"] {
            assert_eq!(bad.parse::<TimeZone>(), Err(UnknownTimeZone), "{bad}");
        }
        let error = serde_json::from_str::<TimeZone>(r#""Mars/Olympus""#).unwrap_err().to_string();
        assert!(error.starts_with("must be the name of a time zone"), "{error}");
    }

    #[test]
    fn the_31st_is_the_last_day_of_shorter_months_and_comes_back() {
        let days = |anchor| boundaries(anchor, 1, "UTC", 5).iter().map(|day| day[5..10].to_owned()).collect::<Vec<_>>();
        assert_eq!(days("2024-01-31T10:00:00Z"), ["01-31", "02-29", "03-31", "04-30", "05-31"]);
        assert_eq!(days("2026-01-31T10:00:00Z"), ["01-31", "02-28", "03-31", "04-30", "05-31"]);
    }

    #[test]
    fn the_29th_of_february_comes_back_in_leap_years() {
        let days: Vec<_> =
            boundaries("2024-02-29T10:00:00Z", 12, "UTC", 5).iter().map(|day| day[..10].to_owned()).collect();
        assert_eq!(days, ["2024-02-29", "2025-02-28", "2026-02-28", "2027-02-28", "2028-02-29"]);
    }

    #[test]
    fn the_day_is_that_of_the_zone() {
        // 1 February in Kolkata is still 31 January in UTC.
        let expected = ["2026-01-31T18:30:00Z", "2026-02-28T18:30:00Z", "2026-03-31T18:30:00Z"];
        assert_eq!(boundaries("2026-01-31T18:30:00Z", 1, "Asia/Kolkata", 3), expected);
        // Noon in Berlin, winter and summer.
        let expected = ["2026-03-01T11:00:00Z", "2026-04-01T10:00:00Z"];
        assert_eq!(boundaries("2026-03-01T11:00:00Z", 1, "Europe/Berlin", 2), expected);
    }

    #[test]
    fn a_time_that_the_clocks_skip_comes_later_by_what_they_skip() {
        for (name, anchor, months, expected) in [
            ("Europe/Berlin", "2026-01-29T01:30:00Z", 2, "2026-03-29T01:30:00Z"), // 02:30, shown as 03:30.
            ("America/New_York", "2026-02-08T07:30:00Z", 1, "2026-03-08T07:30:00Z"), // 02:30, shown as 03:30.
            ("Australia/Lord_Howe", "2026-09-03T15:45:00Z", 1, "2026-10-03T15:45:00Z"), // 02:15, shown as 02:45.
            ("Africa/Casablanca", "2026-01-22T01:30:00Z", 2, "2026-03-22T02:30:00Z"), // 02:30, shown as 03:30.
            ("Pacific/Apia", "2011-11-30T20:00:00Z", 1, "2011-12-30T20:00:00Z"),  // 30 December, which Samoa skipped.
        ] {
            assert_eq!(boundary(at(anchor), months, &zone(name)), at(expected), "{name}");
        }
        // The next one is back at the anchor's time of day.
        assert_eq!(boundary(at("2026-01-29T01:30:00Z"), 3, &zone("Europe/Berlin")), at("2026-04-29T00:30:00Z"));
    }

    #[test]
    fn of_a_time_that_the_clocks_show_twice_the_first_counts() {
        for (name, anchor, months, expected) in [
            ("Europe/Berlin", "2026-09-25T00:30:00Z", 1, "2026-10-25T00:30:00Z"),
            ("America/New_York", "2026-10-01T05:30:00Z", 1, "2026-11-01T05:30:00Z"),
            ("Australia/Lord_Howe", "2026-03-04T14:45:00Z", 1, "2026-04-04T14:45:00Z"),
            ("Africa/Casablanca", "2026-01-15T01:30:00Z", 1, "2026-02-15T01:30:00Z"),
        ] {
            assert_eq!(boundary(at(anchor), months, &zone(name)), at(expected), "{name}");
        }
        // An anchor in the second of the two stays where it is.
        assert_eq!(boundary(at("2026-10-25T01:30:00Z"), 0, &zone("Europe/Berlin")), at("2026-10-25T01:30:00Z"));
    }

    #[test]
    fn a_period_holds_its_start_and_not_its_end() {
        let period = |moment| period_at(at("2026-01-31T10:00:00Z"), 1, &TimeZone::default(), at(moment));
        let first = (0, at("2026-01-31T10:00:00Z"), at("2026-02-28T10:00:00Z"));
        assert_eq!(period("2026-01-31T10:00:00Z"), first);
        assert_eq!(period("2026-02-28T09:59:59.999999Z"), first);
        assert_eq!(period("2025-01-01T00:00:00Z"), first, "before the anchor");
        assert_eq!(period("2026-02-28T10:00:00Z"), (1, at("2026-02-28T10:00:00Z"), at("2026-03-31T10:00:00Z")));
        assert_eq!(period("2066-02-01T00:00:00Z"), (480, at("2066-01-31T10:00:00Z"), at("2066-02-28T10:00:00Z")));
    }

    #[test]
    fn far_moments_are_held_at_the_last_that_can_be_written() {
        let utc = TimeZone::default();
        assert_eq!(boundary(at("2026-01-31T10:00:00Z"), u32::MAX, &utc), at("9999-12-31T23:59:59.999999Z"));
        assert_eq!(boundary(DateTime::<Utc>::MAX_UTC, 1, &zone("Pacific/Apia")), at("9999-12-31T23:59:59.999999Z"));
        assert_eq!(boundary(DateTime::<Utc>::MIN_UTC, 0, &utc), at("0001-01-01T00:00:00Z"));
        for (anchor, moment, months) in [
            (DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC, 1),
            (DateTime::<Utc>::MAX_UTC, DateTime::<Utc>::MIN_UTC, 12),
            (DateTime::<Utc>::MAX_UTC, DateTime::<Utc>::MAX_UTC, 1),
            (DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC, u32::MAX),
            (DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC, 0),
        ] {
            let (_, start, end) = period_at(anchor, months, &utc, moment);
            assert!(start < end && end <= at("9999-12-31T23:59:59.999999Z"));
        }
    }

    #[test]
    fn periods_tile_time() {
        let zones =
            ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Casablanca", "Pacific/Apia"];
        let anchors =
            ["1999-12-31T23:59:59.999999Z", "2000-02-29T00:30:00Z", "2010-10-31T01:00:00Z", "2011-12-30T20:00:00Z"];
        let tick = TimeDelta::microseconds(1);
        for (zone, anchor, months) in zones
            .iter()
            .flat_map(|name| anchors.iter().map(move |anchor| (zone(name), at(anchor))))
            .flat_map(|(zone, anchor)| [1, 3, 12].map(|months| (zone, anchor, months)))
        {
            let mut expected = anchor;
            for cycle in 0..400 {
                let (n, start, end) = period_at(anchor, months, &zone, expected);
                assert_eq!((n, start), (cycle, expected), "{zone} {anchor} {months}");
                assert!((28..=367).contains(&(end - start + TimeDelta::hours(25)).num_days()), "{zone} {start} {end}");
                assert_eq!(period_at(anchor, months, &zone, end - tick), (n, start, end));
                assert_eq!(period_at(anchor, months, &zone, start + (end - start) / 2), (n, start, end));
                assert_eq!(end, boundary(anchor, (cycle + 1) * months, &zone));
                expected = end;
            }
        }
    }
}
