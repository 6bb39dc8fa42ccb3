//! Quantities as people read them.

use std::time::Duration;

/// Packets per second.
pub fn pps(rate: f64) -> String {
    scaled(rate, "pps")
}

/// Bits per second.
pub fn bps(rate: f64) -> String {
    scaled(rate, "bps")
}

fn scaled(value: f64, unit: &str) -> String {
    for (factor, prefix) in [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")] {
        if value >= factor {
            let scaled = value / factor;
            return format!("{scaled:.*} {prefix}{unit}", digits(scaled));
        }
    }
    format!("{value:.0} {unit}")
}

/// Three significant digits.
const fn digits(value: f64) -> usize {
    if value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    }
}

/// A length of time: its two largest units.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) if seconds < 10 => format!("{:.1} s", time.as_secs_f64()),
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min {} s", seconds % 60),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_have_three_digits_and_a_unit() {
        assert_eq!(pps(0.0), "0 pps");
        assert_eq!(pps(999.0), "999 pps");
        assert_eq!(pps(1_234_000.0), "1.23 Mpps");
        assert_eq!(bps(12_340_000_000.0), "12.3 Gbps");
        assert_eq!(bps(123_400.0), "123 kbps");
    }

    #[test]
    fn a_time_has_its_two_largest_units() {
        assert_eq!(duration(Duration::from_millis(1_500)), "1.5 s");
        assert_eq!(duration(Duration::from_secs(59)), "59 s");
        assert_eq!(duration(Duration::from_secs(61)), "1 min 1 s");
        assert_eq!(duration(Duration::from_secs(7_260)), "2 h 1 min");
        assert_eq!(duration(Duration::from_secs(90_000)), "1 d 1 h");
    }
}
