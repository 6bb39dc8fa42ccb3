//! What the samples of a vector have in common, in words that an operator can check.

use levee_api::lane::Lane;
use levee_api::vector::Vector;

use super::number;
use crate::sample::Sample;

/// A value is told if at least this share of the samples has it.
const MIN_SHARED: f64 = 0.8;

/// Values that most samples share.
pub(super) fn shared(samples: &[&Sample]) -> Vec<String> {
    const TOLD: [(Lane, &str); 9] = [
        (Lane::SrcPort, "source port or ICMP type"),
        (Lane::DstPort, "destination port or ICMP code"),
        (Lane::IpLength, "IP length"),
        (Lane::Ttl, "TTL"),
        (Lane::TcpWindow, "TCP window"),
        (Lane::Ident, "identification"),
        (Lane::Digest, "TCP option layout"),
        (Lane::Payload0, "first payload bytes"),
        (Lane::Protocol, "protocol"),
    ];
    let mut told: Vec<String> = TOLD
        .iter()
        .filter_map(|(lane, name)| {
            let of = |sample: &Sample| match sample.dns_suffix() {
                Some(_) if *lane == Lane::Digest => 0,
                _ => sample.lanes.get(*lane),
            };
            let (value, share) = most_common(samples, of)?;
            let value = match lane {
                // What packets have that lack the field.
                _ if value == 0 => return None,
                Lane::Payload0 | Lane::Digest => format!("{value:#06x}"),
                _ => value.to_string(),
            };
            (share >= MIN_SHARED).then(|| format!("{name} {value} in {:.0} %", 100.0 * share))
        })
        .collect();
    if let Some((suffix, share)) = most_common(samples, |sample| sample.dns_suffix().unwrap_or(0))
        && share >= MIN_SHARED
        && suffix != 0
    {
        told.push(format!("names under one domain in {:.0} %", 100.0 * share));
    }
    told
}

/// Fingerprints of tools whose source is public; descendants often keep them.
pub(super) fn tools(vector: Vector, samples: &[&Sample]) -> Option<String> {
    let (name, test): (&str, fn(&Sample) -> bool) = match vector {
        // No options and the default window of hping3.
        Vector::SynFlood if most(samples, is_hping) => ("hping3 with default options", is_hping),
        // 20 bytes of options, and a window that is never set.
        Vector::SynFlood if most(samples, is_mirai_syn) => ("the SYN flood of Mirai", is_mirai_syn),
        Vector::AckFlood if most(samples, is_mirai_ack) => ("the ACK flood of Mirai", is_mirai_ack),
        _ => return None,
    };
    let found = samples.iter().filter(|sample| test(sample)).count();
    Some(format!("looks like {name} in {:.0} %", 100.0 * number(found) / number(samples.len())))
}

fn most(samples: &[&Sample], test: fn(&Sample) -> bool) -> bool {
    number(samples.iter().filter(|sample| test(sample)).count()) >= MIN_SHARED * number(samples.len())
}

fn is_hping(sample: &Sample) -> bool {
    sample.lanes.get(Lane::TcpWindow) == 512 && sample.lanes.get(Lane::Digest) == 0
}

fn is_mirai_syn(sample: &Sample) -> bool {
    sample.lanes.get(Lane::TcpWindow) == 0
        && sample.lanes.get(Lane::IpLength) == 60
        && (1400..=1415).contains(&sample.lanes.get(Lane::TcpMss))
}

fn is_mirai_ack(sample: &Sample) -> bool {
    sample.lanes.get(Lane::PayloadLength) == 512 && sample.lanes.get(Lane::Digest) == 0
}

/// The most common value and its share; the smallest of those equally common.
fn most_common(samples: &[&Sample], value: impl Fn(&Sample) -> u16) -> Option<(u16, f64)> {
    let mut values: Vec<u16> = samples.iter().map(|sample| value(sample)).collect();
    values.sort_unstable();
    // `max_by_key` keeps the last of equals.
    let longest = values.chunk_by(|one, two| one == two).rev().max_by_key(|same| same.len())?;
    Some((*longest.first()?, number(longest.len()) / number(values.len())))
}
