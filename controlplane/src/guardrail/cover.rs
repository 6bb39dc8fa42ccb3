//! How much FlowSpec rules cover, however their ranges are cut: many narrow ones together may be everything.

use std::collections::BTreeMap;

use levee_api::prefix::Prefix;

use super::usual::Taken;
use crate::ledger::{FlowAction, FlowRule, PortRange};

const TCP: u8 = 6;
const UDP: u8 = 17;
/// So many ports in all are still a few.
const FEW: u32 = 16;
/// A rule about no more ports than this part of all is about these.
const NAMED: u32 = 65_536 / 64;
/// A limit below one of these lets so little pass that it drops.
pub(super) const LEAST_BPS: u64 = 100_000;
pub(super) const LEAST_PPS: u64 = 100;

/// True when nearly nothing of what matches gets to where it was sent.
pub(super) const fn takes(action: &FlowAction) -> bool {
    !limits(action) && !action.lets_all_pass()
}

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

/// True when it names ports, and not many.
pub(super) fn are_few(ports: &[PortRange]) -> bool {
    (1..=FEW).contains(&count(ports))
}

/// True when it is about these ports, this one among them.
pub(super) fn names(ports: &[PortRange], port: u16) -> bool {
    (1..=NAMED).contains(&count(ports)) && ports.iter().any(|range| (range.first..=range.last).contains(&port))
}

/// No condition, or one that nearly everything fulfils: what is neither TCP nor UDP is little.
fn are_all_protocols(protocols: &[u8]) -> bool {
    protocols.is_empty() || protocols.contains(&TCP) && protocols.contains(&UDP)
}

/// A destination to which a rule takes everything together with others that are in force: its own, or one within it; and to
/// whom there.
pub(super) fn taken_together(rule: &FlowRule, others: &[&FlowRule]) -> Option<(Prefix, &'static str)> {
    let near = others.iter().copied().filter(|other| other.destination.overlaps(&rule.destination));
    let mut by_destination: BTreeMap<Prefix, Taken> = BTreeMap::new();
    for near in near.chain([rule]) {
        let taken = by_destination.entry(near.destination).or_default();
        *taken = taken.and(&Taken::by(near));
    }
    let within = by_destination.keys().filter(|destination| rule.destination.covers(destination));
    within.copied().find_map(|destination| {
        let around = (0..=destination.length()).map(|length| Prefix::containing(destination.address(), length));
        let taken = around.filter_map(|around| by_destination.get(&around));
        let taken = taken.fold(Taken::default(), |all, taken| all.and(taken));
        Some((destination, taken.everything(destination.is_host())?))
    })
}

impl FlowRule {
    /// True when it matches nearly all packets to its destination.
    pub(crate) fn is_bare(&self) -> bool {
        self.everything().is_some()
    }

    /// To whom, if it does.
    pub(super) fn everything(&self) -> Option<&'static str> {
        Taken::by(self).everything(self.destination.is_host())
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
            rule(|rule| rule.lengths = ranges(&[(41, 1_500)])),
            rule(|rule| rule.lengths = ranges(&[(0, 99), (101, 1_500)])),
            rule(|rule| rule.destination_ports = ranges(&[(0, 442), (444, 65_535)])),
            // Each condition spares a little.
            rule(|rule| {
                (rule.dscps, rule.lengths) = (ranges(&[(0, 0)]), ranges(&[(41, 1_500)]));
                (rule.source_ports, rule.later_fragment) = (ranges(&[(1_024, 65_535)]), Some(false));
            }),
            FlowRule { protocols: vec![6, 17, 58], ..FlowRule::to("2001:db8::7/128".parse().unwrap()) },
        ] {
            assert!(bare.is_bare(), "{bare}");
        }
        for narrow in [
            rule(|rule| rule.protocols = vec![17]),
            rule(|rule| rule.protocols = vec![1, 17]),
            rule(|rule| rule.source_ports = ranges(&[(53, 53)])),
            rule(|rule| rule.protocols = vec![6]),
            rule(|rule| rule.destination_ports = ranges(&[(0, 1_023)])),
            rule(|rule| rule.lengths = ranges(&[(100, 1_500)])),
            rule(|rule| rule.lengths = ranges(&[(1_000, 1_500)])),
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

    #[test]
    fn rules_that_together_take_everything_are_found_out() {
        let of = |destination: &str, protocols: &[u8]| FlowRule {
            protocols: protocols.to_vec(),
            ..FlowRule::to(destination.parse().unwrap())
        };
        let (host, net) = ("203.0.113.7/32", "203.0.113.0/24");
        let (udp, tcp) = (of(host, &[17]), of(host, &[6]));
        assert_eq!(taken_together(&tcp, &[&udp]), Some((udp.destination, "a server")));
        assert_eq!(
            taken_together(&of(net, &[17]), &[&tcp]),
            Some((tcp.destination, "a server")),
            "to the host within it"
        );
        assert!(of(net, &[6]).is_bare() && !of(net, &[17]).is_bare(), "of a network less is everything");
        assert_eq!(
            taken_together(&tcp, &[&of(net, &[17])]),
            Some((tcp.destination, "a server")),
            "by what is around it"
        );
        assert_eq!(taken_together(&tcp, &[&of("203.0.113.8/32", &[17])]), None, "to others");
        assert_eq!(taken_together(&udp, &[&udp]), None, "the same twice");
        let syn = rule(|rule| (rule.protocols, rule.tcp_flags) = (vec![6], Some((2, 2))));
        assert_eq!(taken_together(&syn, &[&udp]), Some((udp.destination, "a server")), "no connection begins");
        let small =
            rule(|rule| (rule.protocols, rule.tcp_flags, rule.lengths) = (vec![6], Some((2, 2)), ranges(&[(40, 40)])));
        assert_eq!(taken_together(&small, &[&udp]), None, "a SYN that no system sends");
        for networks in [
            (1..=223).map(|net| format!("{net}.0.0.0/8")).collect::<Vec<_>>(),
            ["2001::/16".to_owned()].into_iter().chain((0x2400..0x2e00).map(|net| format!("{net:x}::/16"))).collect(),
        ] {
            let to = if networks[0].contains(':') { "2001:db8::7/128" } else { host };
            let from =
                |net: &String| FlowRule { source: Some(net.parse().unwrap()), ..FlowRule::to(to.parse().unwrap()) };
            let rules: Vec<FlowRule> = networks.iter().map(from).collect();
            assert!(rules.iter().all(|rule| !rule.is_bare()));
            let (last, others) = rules.split_last().unwrap();
            assert!(taken_together(last, &others.iter().collect::<Vec<_>>()).is_some(), "{to} from everywhere");
            assert_eq!(taken_together(last, &others.iter().take(5).collect::<Vec<_>>()), None, "from a few networks");
        }
        let halves = [(0, 32_767), (32_768, 65_535)].map(|half| rule(|rule| rule.source_ports = ranges(&[half])));
        assert_eq!(taken_together(&halves[0], &[&halves[1]]), Some((udp.destination, "a server")));
    }
}
