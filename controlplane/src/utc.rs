//! Times of the world as text: for people, for JSON, and in names of files.

use jiff::Timestamp;

use crate::clock::UnixTime;

/// As RFC 3339 has it, to the millisecond: `2026-11-30T22:20:51.125Z`.
pub fn rfc3339(time: UnixTime) -> String {
    format!("{:.3}", timestamp(time))
}

/// As names of files have it, to the second: they sort as the times do.
pub fn stamp(time: UnixTime) -> String {
    timestamp(time).strftime("%Y%m%dT%H%M%SZ").to_string()
}

/// 64 bits of nanoseconds end in the year 2554, and the library's calendar in 9999.
fn timestamp(UnixTime(nanoseconds): UnixTime) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(nanoseconds)).unwrap_or(Timestamp::MAX)
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
