//! Numbers with a unit: rates (`10Gbps`), sizes (`2GiB`) and durations (`5m`).
//!
//! Decimal fractions are exact: `1.5Mbps` is 1 500 000 bit/s, and a value that is no whole number of the base unit is
//! refused instead of being rounded.

use std::time::Duration;

use super::problem::Fault;
use super::section::nearest;

/// Bits per second. Units: bps, kbps, Mbps, Gbps, Tbps, powers of ten.
pub(super) fn bit_rate(text: &str) -> Result<u64, Fault> {
    const UNITS: &[(&str, u64)] = &[
        ("bps", 1),
        ("kbps", 1_000),
        ("Kbps", 1_000),
        ("Mbps", 1_000_000),
        ("Gbps", 1_000_000_000),
        ("Tbps", 1_000_000_000_000),
    ];
    match single(text, UNITS, "rate", "10Gbps")? {
        0 => Err(Fault::new("a rate of zero lets nothing pass", "give the capacity of the link, such as \"1Gbps\"")),
        rate => Ok(rate),
    }
}

/// Bytes. Units: B, KiB, MiB, GiB, TiB, powers of 1024.
pub(super) fn size(text: &str) -> Result<u64, Fault> {
    const UNITS: &[(&str, u64)] = &[("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];
    single(text, UNITS, "size", "2GiB")
}

/// A duration, of one or several parts: `5m`, `1h30m`, `250ms`.
pub(super) fn duration(text: &str) -> Result<Duration, Fault> {
    const UNITS: &[(&str, u64)] = &[
        ("ns", 1),
        ("us", 1_000),
        ("ms", 1_000_000),
        ("s", 1_000_000_000),
        ("m", 60_000_000_000),
        ("h", 3_600_000_000_000),
        ("d", 86_400_000_000_000),
    ];
    let mut rest = text.trim();
    let mut total = 0_u64;
    loop {
        let (part, after) = part(rest, UNITS, "duration", "5m")?;
        total = total.checked_add(part).ok_or_else(|| too_large(text, "duration"))?;
        if after.is_empty() {
            return Ok(Duration::from_nanos(total));
        }
        rest = after;
    }
}

fn single(text: &str, units: &[(&str, u64)], what: &str, example: &str) -> Result<u64, Fault> {
    let (value, rest) = part(text.trim(), units, what, example)?;
    if rest.is_empty() {
        Ok(value)
    } else {
        Err(Fault::new(format!("{text:?} is not one {what}"), format!("write a number and a unit: {example:?}")))
    }
}

/// Reads one number and its unit from the front of the text.
fn part<'a>(text: &'a str, units: &[(&str, u64)], what: &str, example: &str) -> Result<(u64, &'a str), Fault> {
    if text.starts_with('-') {
        return Err(Fault::new(format!("a {what} cannot be negative"), format!("write one such as {example:?}")));
    }
    let number_end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, rest) = text.split_at(number_end);
    let rest = rest.trim_start();
    let unit_end = rest.find(|c: char| !c.is_alphabetic()).unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(unit_end);

    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.contains('.') {
        return Err(Fault::new(format!("{text:?} is no {what}"), format!("write a number and a unit: {example:?}")));
    }
    let known: Vec<&str> = units.iter().map(|&(name, _)| name).collect();
    let Some(&(_, factor)) = units.iter().find(|&&(name, _)| name == unit) else {
        let message =
            if unit.is_empty() { format!("{text:?} has no unit") } else { format!("{unit:?} is no unit of a {what}") };
        // Of a single letter every other one is near, and of none at all any.
        let case = known.iter().copied().find(|known| known.eq_ignore_ascii_case(unit));
        let near = if unit.len() < 2 { case } else { nearest(unit, &known) };
        let help = match near {
            Some(near) => format!("did you mean \"{number}{near}\"? Units: {}", known.join(", ")),
            None => format!("units: {}; for example {example:?}", known.join(", ")),
        };
        return Err(Fault::new(message, help));
    };
    let value = scaled(whole, fraction, factor).ok_or_else(|| too_large(text, what))?;
    value.map(|value| (value, rest)).ok_or_else(|| {
        let base = known.first().copied().unwrap_or_default();
        Fault::new(format!("{text:?} is no whole number of {base}"), "use a smaller unit or fewer decimals")
    })
}

/// `whole.fraction * factor`: `None` when it does not fit, `Some(None)` when it is no whole number.
fn scaled(whole: &str, fraction: &str, factor: u64) -> Option<Option<u64>> {
    let fraction = fraction.trim_end_matches('0');
    let divisor = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let product = digits.checked_mul(u128::from(factor))?;
    if product % divisor != 0 {
        return Some(None);
    }
    u64::try_from(product / divisor).ok().map(Some)
}

fn too_large(text: &str, what: &str) -> Fault {
    Fault::new(format!("{text:?} is too large for a {what}"), "check the unit")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rates_are_exact_powers_of_ten() {
        assert_eq!(bit_rate("10Gbps"), Ok(10_000_000_000));
        assert_eq!(bit_rate("1.5Mbps"), Ok(1_500_000));
        assert_eq!(bit_rate("1.50 Mbps"), Ok(1_500_000));
        assert_eq!(bit_rate("9600bps"), Ok(9_600));
    }

    #[test]
    fn sizes_are_powers_of_two_and_say_so() {
        assert_eq!(size("2GiB"), Ok(2 << 30));
        assert_eq!(size("0.5KiB"), Ok(512));
        assert!(size("2GB").unwrap_err().help.contains("2GiB"));
    }

    #[test]
    fn durations_add_their_parts() {
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5_400)));
        assert_eq!(duration("0.25s"), Ok(Duration::from_millis(250)));
    }

    #[test]
    fn what_is_no_quantity_is_told_what_to_write() {
        for text in
            ["", "Gbps", "10", "10 Gb", "1.5bps", "1..5Mbps", ".5Mbps", "-1Gbps", "10Gbps5", "0Gbps", "99999999Tbps"]
        {
            let fault = bit_rate(text).unwrap_err();
            assert!(!fault.message.is_empty() && !fault.help.is_empty(), "{text}");
        }
        assert!(bit_rate("10Gb").unwrap_err().help.contains("10Gbps"));
        for text in ["", "5", "m", "5 minutes", "5m-", "999999999d"] {
            duration(text).unwrap_err();
        }
        assert_eq!(duration("-5m").unwrap_err().message, "a duration cannot be negative");
        assert_eq!(bit_rate("-1Gbps").unwrap_err().message, "a rate cannot be negative");
    }

    proptest! {
        #[test]
        fn any_text_is_a_quantity_or_a_fault(text in ".{0,40}") {
            let _ = (bit_rate(&text), size(&text), duration(&text));
        }

        #[test]
        fn whole_numbers_come_back(value in 1_u64..1_000_000) {
            prop_assert_eq!(bit_rate(&format!("{value}Mbps")), Ok(value * 1_000_000));
            prop_assert_eq!(duration(&format!("{value}ms")), Ok(Duration::from_millis(value)));
        }
    }
}
