//! Times and numbers as people read them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::clock::UnixTime;
use crate::figures;
use crate::utc;

/// Now, nanoseconds since 1970.
pub(super) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// `2026-11-30 22:20:51`.
pub(super) fn moment(unix_ns: u64) -> String {
    let text = utc::rfc3339(UnixTime(unix_ns));
    text.get(..19).unwrap_or(&text).replace('T', " ")
}

/// `22:20:51.125`.
pub(super) fn clock(unix_ns: u64) -> String {
    let text = utc::rfc3339(UnixTime(unix_ns));
    text.get(11..23).unwrap_or(&text).to_owned()
}

/// Time from one moment to another.
pub(super) fn between(from_ns: u64, to_ns: u64) -> String {
    length(to_ns.saturating_sub(from_ns))
}

/// `2 min 13 s`; `41 ms`, because what Levee does by itself it does within a second.
pub(super) fn length(nanoseconds: u64) -> String {
    let time = Duration::from_nanos(nanoseconds);
    if time < Duration::from_secs(1) { format!("{} ms", time.as_millis()) } else { figures::duration(time) }
}

/// `12 345 678`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// `12.3 %` of a whole, or a dash.
#[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
pub(super) fn share(part: u64, whole: u64) -> String {
    if whole == 0 { "-".to_owned() } else { format!("{:.1} %", 100.0 * part as f64 / whole as f64) }
}
