//! Times of the world as text: for people, for JSON, and in names of files.

use crate::clock::UnixTime;

/// A moment of the calendar, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Calendar {
    year: u64,
    month: u64,
    day: u64,
    hour: u64,
    minute: u64,
    second: u64,
    millisecond: u64,
}

/// As RFC 3339 has it, to the millisecond: `2026-11-30T22:20:51.125Z`.
pub fn rfc3339(time: UnixTime) -> String {
    let Calendar { year, month, day, hour, minute, second, millisecond } = Calendar::of(time);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millisecond:03}Z")
}

/// As names of files have it, to the second: they sort as the times do.
pub fn stamp(time: UnixTime) -> String {
    let Calendar { year, month, day, hour, minute, second, .. } = Calendar::of(time);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

impl Calendar {
    fn of(UnixTime(nanoseconds): UnixTime) -> Self {
        let seconds = nanoseconds / 1_000_000_000;
        let (days, of_day) = (seconds / 86_400, seconds % 86_400);
        // Years that begin in March have their odd day at the end; 719 468 days lie between March of year 0 and 1970.
        // An era of 400 years has 146 097 days (Howard Hinnant, chrono-compatible low-level date algorithms).
        let (era, of_era) = ((days + 719_468) / 146_097, (days + 719_468) % 146_097);
        let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * of_year + 2) / 153;
        let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
        Self {
            year: era * 400 + year_of_era + u64::from(month <= 2),
            month,
            day: of_year - (153 * from_march + 2) / 5 + 1,
            hour: of_day / 3_600,
            minute: of_day / 60 % 60,
            second: of_day % 60,
            millisecond: nanoseconds / 1_000_000 % 1_000,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_as_date_says() {
        // date -u -d @SECONDS
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399, "2000-02-28T23:59:59.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (951_868_800, "2000-03-01T00:00:00.000Z"),
            (1_700_000_000, "2023-11-14T22:13:20.000Z"),
            (1_767_225_599, "2025-12-31T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(rfc3339(UnixTime(seconds * 1_000_000_000)), text);
        }
        assert_eq!(rfc3339(UnixTime(1_700_000_000_987_654_321)), "2023-11-14T22:13:20.987Z");
        assert_eq!(stamp(UnixTime(1_700_000_000_987_654_321)), "20231114T221320Z");
        assert!(rfc3339(UnixTime(u64::MAX)).starts_with("2554-07-21T"));
    }
}
