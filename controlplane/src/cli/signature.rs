//! What a filter matches, as operators write it: the words that Levee itself uses when it shows filters.

use levee_api::config::nearest;
use levee_api::filter::{Constraint, HeaderBox, Pattern, Rule, Side};
use levee_api::lane::{Bits, Lane, TcpFlags};

use super::prefix_argument::prefix;

/// Reads words such as `protocol=udp src_port=53 ip_length=1000-1500 +syn -ack src=198.51.100.0/24 payload[0]=0102`;
/// `any` is everything.
///
/// # Errors
/// Which word is wrong, and what to write.
pub(super) fn signature(text: &str) -> Result<Rule, String> {
    let mut rule = Rule::of(HeaderBox::any());
    let words: Vec<&str> = text.split_whitespace().collect();
    if words.is_empty() {
        return Err("say what it matches; `any` is everything".to_owned());
    }
    // Whether they are ports or type and code of ICMP depends on the protocol.
    let is_port = |word: &&str| word.starts_with("src_port=") || word.starts_with("dst_port=");
    let (ports, others): (Vec<&str>, Vec<&str>) = words.into_iter().filter(|word| *word != "any").partition(is_port);
    for word in others.into_iter().chain(ports) {
        rule = with(rule, word)?;
    }
    if rule.matches.is_empty() {
        return Err("no packet can match all of it".to_owned());
    }
    Ok(rule)
}

fn with(mut rule: Rule, word: &str) -> Result<Rule, String> {
    if let Some(name) = word.strip_prefix('+') {
        rule.matches = flag(rule.matches, name, true)?;
    } else if let Some(name) = word.strip_prefix('-') {
        rule.matches = flag(rule.matches, name, false)?;
    } else {
        let wrong = || format!("{word:?}: write LANE=VALUE, LANE=FROM-TO, +FLAG, -FLAG, src=PREFIX or dst=PREFIX");
        let (name, value) = word.split_once('=').ok_or_else(wrong)?;
        match name {
            "src" => rule.matches = rule.matches.prefix(Side::Source, prefix(value)?),
            "dst" => rule.matches = rule.matches.prefix(Side::Destination, prefix(value)?),
            _ if name.starts_with("payload[") && rule.pattern.is_some() => {
                return Err(format!("{word:?}: a signature has one piece of payload"));
            }
            _ if name.starts_with("payload[") => rule.pattern = Some(pattern(name, value, word)?),
            _ => rule.matches = lane(rule.matches, name, value, word)?,
        }
    }
    Ok(rule)
}

fn lane(matches: HeaderBox, name: &str, value: &str, word: &str) -> Result<HeaderBox, String> {
    let lane = Lane::named(name).filter(|lane| !lane.is_bits());
    let lane = lane.ok_or_else(|| {
        let names: Vec<&str> = Lane::ALL.iter().filter(|lane| !lane.is_bits()).map(|lane| lane.name()).collect();
        let near = nearest(name, &names).map(|near| format!("did you mean {near}? "));
        format!("{name:?} is no lane: {}docs/reference/lanes.md lists them", near.unwrap_or_default())
    })?;
    let (lo, hi) = value.split_once('-').unwrap_or((value, value));
    let (lo, hi) = (number(lane, lo, word)?, number(lane, hi, word)?);
    if lo > hi {
        return Err(format!("{word:?}: {lo} is more than {hi}"));
    }
    Ok(match lane {
        Lane::SrcPort | Lane::DstPort if is_icmp(&matches) => matches.range(lane, lo, hi),
        Lane::SrcPort => matches.port(Side::Source, lo, hi),
        Lane::DstPort => matches.port(Side::Destination, lo, hi),
        lane => matches.range(lane, lo, hi),
    })
}

/// True when nothing but ICMP or ICMPv6 matches.
fn is_icmp(matches: &HeaderBox) -> bool {
    let is_one = |constraint| {
        matches!(
            constraint,
            Constraint::Range { lane: Lane::Protocol, lo: 1, hi: 1 }
                | Constraint::Range { lane: Lane::Protocol, lo: 58, hi: 58 }
        )
    };
    matches.constraints().into_iter().any(is_one)
}

fn number(lane: Lane, text: &str, word: &str) -> Result<u16, String> {
    let named = match (lane, text) {
        (Lane::Protocol, "icmp") => Some(1),
        (Lane::Protocol, "tcp") => Some(6),
        (Lane::Protocol, "udp") => Some(17),
        (Lane::Protocol, "icmpv6") => Some(58),
        _ => None,
    };
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u16::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    };
    let names = if lane == Lane::Protocol { ", and none of icmp, tcp, udp, icmpv6" } else { "" };
    named.or(parsed).ok_or_else(|| format!("{word:?}: {text:?} is no number from 0 to 65535{names}"))
}

fn flag(matches: HeaderBox, name: &str, set: bool) -> Result<HeaderBox, String> {
    let upper = name.to_ascii_uppercase();
    if let Some(flag) = TcpFlags::from_name(&upper) {
        return Ok(matches.flags(flag, if set { flag } else { TcpFlags::empty() }));
    }
    if let Some(bit) = Bits::from_name(&upper) {
        return Ok(matches.bits(bit, if set { bit } else { Bits::empty() }));
    }
    let known =
        TcpFlags::all().iter_names().map(|(name, _)| name).chain(Bits::all().iter_names().map(|(name, _)| name));
    let known: Vec<String> = known.map(str::to_ascii_lowercase).collect();
    Err(format!("{name:?} is no flag: one of {}", known.join(", ")))
}

fn pattern(name: &str, value: &str, word: &str) -> Result<Pattern, String> {
    let wrong = || format!("{word:?}: write payload[OFFSET]=HEX with 1 to 16 bytes");
    let offset = name.trim_start_matches("payload[").strip_suffix(']').and_then(|offset| offset.parse().ok());
    let is_hex = value.bytes().all(|digit| digit.is_ascii_hexdigit())
        && value.len().is_multiple_of(2)
        && (2..=32).contains(&value.len());
    if !is_hex {
        return Err(wrong());
    }
    let mut bytes = [0; 16];
    for (byte, digits) in bytes.iter_mut().zip(value.as_bytes().chunks_exact(2)) {
        let digits = std::str::from_utf8(digits).map_err(|_| wrong())?;
        *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
    }
    let length = u8::try_from(value.len() / 2).map_err(|_| wrong())?;
    let mut mask = [0; 16];
    mask.iter_mut().take(usize::from(length)).for_each(|byte| *byte = 0xff);
    Ok(Pattern { offset: offset.ok_or_else(wrong)?, length, bytes, mask })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_levee_shows_can_be_typed() {
        for text in [
            "protocol=17 ip_length=1400-1500 payload[2]=0102ff",
            "src_port=53 +ports",
            "protocol=6 +syn -ack",
            "ttl=64 -ipv6",
        ] {
            let rule = signature(text).unwrap();
            assert_eq!(signature(&rule.to_string()).unwrap(), rule, "{text}");
        }
    }

    #[test]
    fn names_and_prefixes_are_understood() {
        let rule = signature("protocol=udp src=198.51.100.0/24").unwrap();
        let box_ = HeaderBox::any().exact(Lane::Protocol, 17);
        assert_eq!(rule.matches, box_.prefix(Side::Source, "198.51.100.0/24".parse().unwrap()));
        assert!(signature("any").unwrap().matches.is_any());
    }

    #[test]
    fn of_icmp_they_are_type_and_code_in_any_order() {
        let echo = HeaderBox::any().exact(Lane::Protocol, 1).exact(Lane::SrcPort, 8).exact(Lane::DstPort, 0);
        for text in ["protocol=icmp src_port=8 dst_port=0", "src_port=8 dst_port=0 protocol=1"] {
            assert_eq!(signature(text).unwrap().matches, echo, "{text}");
        }
    }

    #[test]
    fn a_wrong_word_is_told_with_what_to_write() {
        for (text, told) in [
            ("", "any"),
            ("sport=53", "is no lane"),
            ("src_port=99999", "from 0 to 65535"),
            ("src_port=9-1", "more than"),
            ("+sin", "one of"),
            ("src=1.2.3", "prefix"),
            ("payload[0]=abc", "HEX"),
            ("payload[0]=+1", "HEX"),
            ("payload[0]=01 payload[4]=02", "one piece"),
            ("ttl=1 ttl=2", "no packet"),
            ("syn", "LANE=VALUE"),
        ] {
            let error = signature(text).unwrap_err();
            assert!(error.contains(told), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_signature_or_an_error(text in "\\PC{0,60}") {
            let _ = signature(&text);
        }
    }
}
