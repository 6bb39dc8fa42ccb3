//! How much a FlowSpec rule covers, however its ranges are cut: many narrow ones together may be everything.

use crate::ledger::{FlowAction, FlowRule, PortRange};

const TCP: u8 = 6;
const UDP: u8 = 17;
/// So many values in all are still a few.
const FEW: u32 = 16;
/// A rule that spares no more than this part of all ports spares nothing.
const SPARED: u32 = 65_536 / 64;
/// Lengths of nearly all packets: from a bare TCP header to a full frame of Ethernet.
const USUAL_LENGTHS: PortRange = PortRange { first: 40, last: 1_500 };
/// The code point of nearly all packets: best effort.
const USUAL_DSCP: PortRange = PortRange { first: 0, last: 0 };
/// Shorter prefixes of sources are large parts of the internet.
const SHORTEST_SOURCE: (u8, u8) = (8, 16);
/// A limit below one of these lets so little pass that it drops.
pub(super) const LEAST_BPS: u64 = 100_000;
pub(super) const LEAST_PPS: u64 = 100;

/// True when enough passes for what is legitimate to get through.
pub(super) const fn limits(action: &FlowAction) -> bool {
    matches!(action, FlowAction::RateLimit { bps: LEAST_BPS.. } | FlowAction::RateLimitPackets { pps: LEAST_PPS.. })
}

/// The same values in as few ranges as possible, sorted. Ranges that end before they begin have none.
pub(super) fn merged(ranges: &[PortRange]) -> Vec<PortRange> {
    let mut sorted: Vec<PortRange> = ranges.iter().copied().filter(|range| range.first <= range.last).collect();
    sorted.sort_unstable();
    let mut merged: Vec<PortRange> = Vec::with_capacity(sorted.len());
    for range in sorted {
        match merged.last_mut() {
            Some(last) if u32::from(range.first) <= u32::from(last.last) + 1 => last.last = last.last.max(range.last),
            _ => merged.push(range),
        }
    }
    merged
}

fn count(ranges: &[PortRange]) -> u32 {
    merged(ranges).iter().map(|range| u32::from(range.last) - u32::from(range.first) + 1).sum()
}

fn covers(ranges: &[PortRange], wanted: PortRange) -> bool {
    ranges.is_empty() || merged(ranges).iter().any(|range| range.first <= wanted.first && range.last >= wanted.last)
}

/// True when it names ports, and not many.
pub(super) fn are_few(ports: &[PortRange]) -> bool {
    (1..=FEW).contains(&count(ports))
}

/// No condition, or one that is none.
fn are_all_ports(ports: &[PortRange]) -> bool {
    ports.is_empty() || count(ports) >= 65_536 - SPARED
}

/// No condition, or one that nearly everything fulfils: what is neither TCP nor UDP is little.
fn are_all_protocols(protocols: &[u8]) -> bool {
    protocols.is_empty() || protocols.contains(&TCP) && protocols.contains(&UDP)
}

impl FlowRule {
    /// True when it matches nearly all packets to its destination.
    pub(super) fn is_bare(&self) -> bool {
        let Self {
            destination: _,
            source,
            protocols,
            source_ports,
            destination_ports,
            icmp_types,
            icmp_codes,
            lengths,
            dscps,
            tcp_flags,
            later_fragment,
        } = self;
        let everywhere = source.is_none_or(|source| {
            source.length() < if source.is_ipv4() { SHORTEST_SOURCE.0 } else { SHORTEST_SOURCE.1 }
        });
        everywhere
            && are_all_protocols(protocols)
            && are_all_ports(source_ports)
            && are_all_ports(destination_ports)
            // Whatever they say, they are of ICMP alone.
            && icmp_types.is_empty()
            && icmp_codes.is_empty()
            && covers(lengths, USUAL_LENGTHS)
            && covers(dscps, USUAL_DSCP)
            && tcp_flags.is_none_or(|(mask, _)| mask == 0)
            // Nearly no packet is one.
            && *later_fragment != Some(true)
    }

    /// True when it is about a protocol or two and a few source ports, as what reflectors send is.
    pub(super) fn is_narrow(&self) -> bool {
        !are_all_protocols(&self.protocols) && self.protocols.len() <= 2 && are_few(&self.source_ports)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(ranges: &[(u16, u16)]) -> Vec<PortRange> {
        ranges.iter().map(|(first, last)| PortRange { first: *first, last: *last }).collect()
    }

    fn rule(change: impl FnOnce(&mut FlowRule)) -> FlowRule {
        let mut rule = FlowRule::to("203.0.113.7/32".parse().unwrap());
        change(&mut rule);
        rule
    }

    #[test]
    fn ranges_that_touch_or_overlap_are_one() {
        assert_eq!(merged(&ranges(&[(5, 9), (0, 4), (20, 30), (25, 26), (7, 3)])), ranges(&[(0, 9), (20, 30)]));
        assert_eq!(merged(&ranges(&[(0, 65_535), (65_535, 65_535)])), ranges(&[(0, 65_535)]));
    }

    #[test]
    fn what_together_is_everything_is_no_condition() {
        for bare in [
            rule(|_| ()),
            rule(|rule| rule.source_ports = ranges(&[(0, 30_000), (30_001, 65_535)])),
            rule(|rule| rule.destination_ports = ranges(&[(1, 65_535)])),
            rule(|rule| rule.source_ports = ranges(&[(1_024, 65_535)])),
            rule(|rule| rule.lengths = ranges(&[(0, 99), (90, 800), (801, 1_500)])),
            rule(|rule| rule.dscps = ranges(&[(0, 0), (46, 46)])),
            rule(|rule| rule.protocols = (0..=255).collect()),
            rule(|rule| rule.protocols = vec![1, 6, 17]),
            rule(|rule| rule.source = Some("128.0.0.0/1".parse().unwrap())),
            rule(|rule| rule.later_fragment = Some(false)),
            rule(|rule| rule.tcp_flags = Some((0, 0))),
        ] {
            assert!(bare.is_bare(), "{bare}");
        }
        for narrow in [
            rule(|rule| rule.protocols = vec![17]),
            rule(|rule| rule.protocols = vec![1, 17]),
            rule(|rule| rule.source_ports = ranges(&[(53, 53)])),
            rule(|rule| rule.destination_ports = ranges(&[(0, 442), (444, 60_000)])),
            rule(|rule| rule.lengths = ranges(&[(0, 99), (101, 1_500)])),
            rule(|rule| rule.dscps = ranges(&[(1, 63)])),
            rule(|rule| rule.icmp_types = ranges(&[(0, 255)])),
            rule(|rule| rule.source = Some("198.51.100.0/24".parse().unwrap())),
            rule(|rule| rule.later_fragment = Some(true)),
            rule(|rule| rule.tcp_flags = Some((2, 2))),
        ] {
            assert!(!narrow.is_bare(), "{narrow}");
        }
    }

    #[test]
    fn a_few_ports_of_a_protocol_are_narrow() {
        let of = |protocols: &[u8], ports: &[(u16, u16)]| {
            rule(|rule| (rule.protocols, rule.source_ports) = (protocols.to_vec(), ranges(ports)))
        };
        assert!(of(&[17], &[(53, 53), (123, 123)]).is_narrow());
        for (protocols, ports) in [
            (&[17][..], &[][..]),
            (&[], &[(53, 53)]),
            (&[6, 17], &[(53, 53)]),
            (&[17], &[(0, 30_000), (30_001, 65_535)]),
            (&[17], &[(1, 65_535)]),
            (&[17], &[(1_000, 1_100)]),
            (&[1, 17, 47], &[(53, 53)]),
        ] {
            let rule = of(protocols, ports);
            assert!(!rule.is_narrow(), "{rule}");
        }
    }
}
