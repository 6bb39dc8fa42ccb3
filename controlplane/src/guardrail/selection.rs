//! What a rule that drops selects, as filters of the dataplane: those it can hold against samples of legitimate traffic.

use std::time::Duration;

use levee_api::filter::{Action, HeaderBox, Per, Rule, Side, Target};
use levee_api::grpc::FilterRequest;
use levee_api::lane::{Bits, Lane, TcpFlags};
use levee_api::prefix::Prefix;
use levee_api::role::RoleSet;

use super::cover::{LEAST_PPS, limits};
use crate::ledger::{FlowAction, FlowRule, PortRange, Spec};

/// The dataplane looks at no more at once.
const MOST: usize = 16;

/// Filters that select what a measure drops of a target's traffic. None: it drops nothing by a rule, or nothing that the
/// dataplane could be asked about. What takes all of a target away is not judged by this: everybody knows what it costs.
pub fn dropped(spec: &Spec, zone_of: impl Fn(&Prefix) -> Option<String>) -> Option<(Target, Vec<FilterRequest>)> {
    let (target, filters) = match spec {
        Spec::Filter(filter) => {
            let requests = filter.filters.iter().filter_map(|stored| stored.request().ok());
            let drops = |request: &FilterRequest| match request.action {
                Action::Drop | Action::BlockSource { .. } => true,
                // A limit that lets nothing pass drops, as does one that lets nearly nothing pass for all together.
                Action::Limit { pps, per } => pps == 0 || per == Per::Target && u64::from(pps) < LEAST_PPS,
                Action::Pass | Action::Challenge { .. } => false,
            };
            (filter.target.clone(), requests.filter(drops).collect::<Vec<_>>())
        }
        Spec::FlowSpec { rule, action } if drops(action) => {
            let target = Target { zone: zone_of(&rule.destination)?, prefix: Some(rule.destination) };
            let filter = |matches| FilterRequest {
                owner: String::new(),
                target: target.clone(),
                roles: RoleSet::ALL,
                rule: Rule::of(matches),
                action: Action::Drop,
                ttl: Duration::from_secs(1),
                witness: String::new(),
            };
            let filters = boxes(rule).into_iter().map(filter).collect();
            (target, filters)
        }
        Spec::FlowSpec { .. } | Spec::Divert { .. } | Spec::Blackhole { .. } => return None,
    };
    (target.prefix.is_some() && (1..=MOST).contains(&filters.len())).then_some((target, filters))
}

/// A limit that lets nearly nothing pass drops too.
const fn drops(action: &FlowAction) -> bool {
    match action {
        FlowAction::Drop => true,
        FlowAction::RateLimit { .. } | FlowAction::RateLimitPackets { .. } => !limits(action),
        FlowAction::Redirect { .. } | FlowAction::Mark { .. } | FlowAction::Sample => false,
    }
}

/// Whether the dataplane can be asked what a rule would drop of legitimate traffic: not when it has too many choices.
pub fn can_be_judged(rule: &FlowRule) -> bool {
    let FlowRule { source_ports, destination_ports, icmp_types, icmp_codes, lengths, dscps, .. } = rule;
    let choices = [source_ports, destination_ports, icmp_types, icmp_codes, lengths, dscps].map(Vec::len);
    let boxes = choices.into_iter().fold(rule.protocols.len().max(1), |boxes, len| boxes.saturating_mul(len.max(1)));
    boxes <= MOST
}

/// The boxes that together are the rule: one for each choice of its lists.
fn boxes(rule: &FlowRule) -> Vec<HeaderBox> {
    let mut first = HeaderBox::any().prefix(Side::Destination, rule.destination);
    if let Some(source) = rule.source {
        first = first.prefix(Side::Source, source);
    }
    if let Some((mask, value)) = rule.tcp_flags {
        let flags = TcpFlags::from_bits_truncate;
        first = first.exact(Lane::Protocol, 6).flags(flags(mask), flags(value));
    }
    if let Some(later) = rule.later_fragment {
        first = first.bits(Bits::LATER_FRAGMENT, if later { Bits::LATER_FRAGMENT } else { Bits::empty() });
    }
    let each = |boxes: Vec<HeaderBox>, choices: &[PortRange], narrow: fn(HeaderBox, PortRange) -> HeaderBox| {
        if choices.is_empty() {
            return boxes;
        }
        let narrowed = |known: HeaderBox| choices.iter().map(move |choice| narrow(known, *choice));
        boxes.into_iter().flat_map(narrowed).collect()
    };
    let protocols: Vec<PortRange> = rule
        .protocols
        .iter()
        .map(|protocol| PortRange { first: (*protocol).into(), last: (*protocol).into() })
        .collect();
    let boxes = each(vec![first], &protocols, |known, range| known.range(Lane::Protocol, range.first, range.last));
    let boxes = each(boxes, &rule.source_ports, |known, range| known.port(Side::Source, range.first, range.last));
    let boxes =
        each(boxes, &rule.destination_ports, |known, range| known.port(Side::Destination, range.first, range.last));
    let boxes = each(boxes, &rule.lengths, |known, range| known.range(Lane::IpLength, range.first, range.last));
    // Of ICMP the lanes of ports hold type and code.
    let boxes = each(boxes, &rule.icmp_types, |known, range| known.range(Lane::SrcPort, range.first, range.last));
    let boxes = each(boxes, &rule.icmp_codes, |known, range| known.range(Lane::DstPort, range.first, range.last));
    // The lane is the whole octet, with ECN in its lowest two bits (RFC 3168).
    let octet = |dscp: u16| dscp.min(63) << 2;
    let dscps: Vec<PortRange> =
        rule.dscps.iter().map(|range| PortRange { first: octet(range.first), last: octet(range.last) | 3 }).collect();
    each(boxes, &dscps, |known, range| known.range(Lane::Dscp, range.first, range.last))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule() -> FlowRule {
        FlowRule {
            protocols: vec![17],
            source_ports: vec![PortRange { first: 53, last: 53 }, PortRange { first: 123, last: 123 }],
            lengths: vec![PortRange { first: 500, last: 1_500 }],
            ..FlowRule::to("203.0.113.7/32".parse().unwrap())
        }
    }

    fn zone(_: &Prefix) -> Option<String> {
        Some("web".to_owned())
    }

    fn packet(protocol: u16, source_port: u16, length: u16) -> [u16; levee_api::lane::LANES] {
        let mut lanes = [0; levee_api::lane::LANES];
        for (lane, value) in [
            (Lane::Dst6, 0xcb00),
            (Lane::Dst7, 0x7107),
            (Lane::Protocol, protocol),
            (Lane::SrcPort, source_port),
            (Lane::IpLength, length),
            (Lane::Bits, Bits::PORTS.bits()),
        ] {
            lanes[lane.index()] = value;
        }
        lanes
    }

    #[test]
    fn the_filters_select_what_the_rule_does() {
        let (target, filters) = dropped(&Spec::FlowSpec { rule: rule(), action: FlowAction::Drop }, zone).unwrap();
        assert_eq!((target.zone.as_str(), filters.len()), ("web", 2));
        let hit = |protocol, port, length| {
            filters.iter().any(|filter| filter.rule.contains(&packet(protocol, port, length), &[]))
        };
        assert!(hit(17, 53, 900) && hit(17, 123, 500));
        assert!(!hit(6, 53, 900) && !hit(17, 80, 900) && !hit(17, 53, 60));
    }

    #[test]
    fn what_lets_something_pass_or_takes_all_is_not_asked_about() {
        let prefix = rule().destination;
        for spec in [
            Spec::FlowSpec { rule: rule(), action: FlowAction::RateLimit { bps: 1_000_000 } },
            Spec::Divert { prefix },
            Spec::Blackhole { prefix, direction: crate::ledger::Direction::Destination },
        ] {
            assert_eq!(dropped(&spec, zone), None, "{spec}");
        }
        for action in [FlowAction::RateLimit { bps: 1 }, FlowAction::RateLimitPackets { pps: 1 }] {
            assert!(dropped(&Spec::FlowSpec { rule: rule(), action }, zone).is_some(), "a limit in name only");
        }
        let drops = |rule| Spec::FlowSpec { rule, action: FlowAction::Drop };
        assert_eq!(dropped(&drops(rule()), |_| None), None, "of no zone");
        let many = FlowRule { protocols: (0..20).collect(), ..rule() };
        assert!(can_be_judged(&rule()) && !can_be_judged(&many));
        let most = FlowRule { protocols: (0..8).collect(), ..rule() };
        assert!(can_be_judged(&most) && dropped(&drops(most), zone).is_some(), "8 protocols with 2 ports");
        assert_eq!(dropped(&drops(many), zone), None, "more than can be asked at once");
    }
}
