//! Times of the world as text: for people, and as the beginning of a file's name.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const SECONDS_PER_DAY: u64 = 86_400;

/// A time as RFC 3339 has it, in nanoseconds.
pub(super) fn rfc3339(time: SystemTime) -> String {
    let Parts { year, month, day, hour, minute, second, nanos } = Parts::of(time);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
}

/// A time as a file's name has it, in milliseconds: names sort as times do.
pub(super) fn stamp(time: SystemTime) -> String {
    let Parts { year, month, day, hour, minute, second, nanos } = Parts::of(time);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}.{:03}Z", nanos / 1_000_000)
}

/// The time at the beginning of a name that begins with [`stamp`].
pub(super) fn parse_stamp(name: &str) -> Option<SystemTime> {
    let digits = |from: usize, to: usize| {
        let text = name.get(from..to)?;
        text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u64>().ok())?
    };
    if name.get(8..9)? != "T" || name.get(15..16)? != "." || name.get(19..20)? != "Z" {
        return None;
    }
    let (month, day) = (digits(4, 6)?, digits(6, 8)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let seconds = days(digits(0, 4)?, month, day)? * SECONDS_PER_DAY
        + digits(9, 11)? * 3_600
        + digits(11, 13)? * 60
        + digits(13, 15)?;
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds) + Duration::from_millis(digits(16, 19)?))
}

struct Parts {
    year: u64,
    month: u64,
    day: u64,
    hour: u64,
    minute: u64,
    second: u64,
    nanos: u32,
}

impl Parts {
    /// Times before 1970 are 1970.
    fn of(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (days, second) = (since.as_secs() / SECONDS_PER_DAY, since.as_secs() % SECONDS_PER_DAY);
        // Years that begin in March have their odd day at the end; 719 468 days lie between March of year 0 and 1970.
        let from_march = days + 719_468;
        let (era, of_era) = (from_march / 146_097, from_march % 146_097);
        let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * of_year + 2) / 153;
        let day = of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        Self {
            year: era * 400 + year_of_era + u64::from(month <= 2),
            month,
            day,
            hour: second / 3_600,
            minute: second / 60 % 60,
            second: second % 60,
            nanos: since.subsec_nanos(),
        }
    }
}

/// Days from 1970 to a date.
fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    let year = year.checked_sub(u64::from(month <= 2))?;
    let (era, year_of_era) = (year / 400, year % 400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    (era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year).checked_sub(719_468)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64, nanos: u32) -> SystemTime {
        UNIX_EPOCH + Duration::new(seconds, nanos)
    }

    #[test]
    fn known_times_are_written_as_everybody_writes_them() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000000007Z"),
            (951_782_400, "2000-02-29T00:00:00.000000007Z"),
            (1_709_251_199, "2024-02-29T23:59:59.000000007Z"),
            (1_735_689_599, "2024-12-31T23:59:59.000000007Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000007Z"),
        ] {
            assert_eq!(rfc3339(at(seconds, 7)), text);
        }
        assert_eq!(stamp(at(1_709_251_199, 987_654_321)), "20240229T235959.987Z");
    }

    #[test]
    fn other_names_have_no_time() {
        for name in
            ["", "notes.txt", "20240229", "20241329T235959.987Z", "2024022xT235959.987Z", "20240229-235959.987Z"]
        {
            assert_eq!(parse_stamp(name), None, "{name}");
        }
        assert_eq!(parse_stamp("20240229T235959.987Z-203.0.113.10"), Some(at(1_709_251_199, 987_000_000)));
    }

    proptest! {
        #[test]
        fn a_stamp_is_the_time_to_a_millisecond(seconds in 0_u64..250_000_000_000, millis in 0_u32..1_000) {
            let time = at(seconds, millis * 1_000_000);
            prop_assert_eq!(parse_stamp(&stamp(time)), Some(time));
        }
    }
}
