//! Times of the world as text: for people, and as the beginning of a file's name.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use jiff::fmt::strtime;
use jiff::tz::TimeZone;

/// Bytes of a [`stamp`].
const STAMP: usize = 20;

/// A time as RFC 3339 has it, in nanoseconds.
pub(super) fn rfc3339(time: SystemTime) -> String {
    format!("{:.9}", timestamp(time))
}

/// A time as a file's name has it, in milliseconds: names sort as times do.
pub(super) fn stamp(time: SystemTime) -> String {
    timestamp(time).strftime("%Y%m%dT%H%M%S%.3fZ").to_string()
}

/// The time at the beginning of a name that begins with [`stamp`].
pub(super) fn parse_stamp(name: &str) -> Option<SystemTime> {
    let broken_down = strtime::parse("%Y%m%dT%H%M%S%.fZ", name.get(..STAMP)?).ok()?;
    let zoned = broken_down.to_datetime().ok()?.to_zoned(TimeZone::UTC).ok()?;
    // Those before 1970 are not ours.
    Some(SystemTime::from(zoned.timestamp())).filter(|time| *time >= UNIX_EPOCH)
}

/// Times before 1970 are 1970.
fn timestamp(time: SystemTime) -> Timestamp {
    Timestamp::try_from(time.max(UNIX_EPOCH)).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
