//! Rules by chance, the same for the same seed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use levee_api::prefix::Prefix;
use levee_controlplane::ledger::{FlowAction, FlowRule, PortRange};

use super::chance::Chance;

/// So many rules, or as many as `LEVEE_RANDOM_RULES` says, from the seed in `LEVEE_RANDOM_SEED`. Each has a destination of its
/// own, so that none is another route's change.
pub(super) fn rules(usual: u16) -> Vec<(FlowRule, FlowAction)> {
    let number = |name, usual| std::env::var(name).ok().map_or(usual, |text: String| text.parse().unwrap());
    let count: u16 = number("LEVEE_RANDOM_RULES", usual);
    let mut chance = Chance::new(number("LEVEE_RANDOM_SEED", 1).into());
    (0..count).map(|number| rule(number, &mut chance)).collect()
}

fn rule(number: u16, chance: &mut Chance) -> (FlowRule, FlowAction) {
    let [high, low] = number.to_be_bytes();
    let is_v6 = chance.percent(40);
    let (destination, source): (IpAddr, IpAddr) = if is_v6 {
        let net = |first, last| Ipv6Addr::new(0x2001, 0xdb8, first, number, 0, 0, 0, last).into();
        (net(1, 7), net(2, 0))
    } else {
        (Ipv4Addr::new(10, high, low, 7).into(), Ipv4Addr::new(198, 51, low, 0).into())
    };
    let longest = if is_v6 { 128 } else { 32 };
    // Up to the part that is of this rule alone.
    let prefix = |address, shortest, chance: &mut Chance| {
        Prefix::containing(address, u8::try_from(chance.between(shortest, longest)).unwrap())
    };
    let mut rule = FlowRule::to(prefix(destination, longest * 3 / 4, chance));
    rule.source = chance.percent(40).then(|| prefix(source, longest / 4, chance));
    rule.protocols = match chance.between(0, 5) {
        0 => vec![6],
        1 => vec![17],
        2 => vec![if is_v6 { 58 } else { 1 }],
        3 => vec![6, 17],
        4 => vec![17, 47, 50],
        _ => vec![],
    };
    let has_ports = rule.protocols.iter().all(|protocol| matches!(protocol, 6 | 17));
    if has_ports && !rule.protocols.is_empty() {
        rule.source_ports = ranges(65_535, chance);
        rule.destination_ports = ranges(65_535, chance);
    }
    if matches!(rule.protocols[..], [1 | 58]) {
        rule.icmp_types = ranges(255, chance);
        rule.icmp_codes = ranges(15, chance);
    }
    if rule.protocols == [6] && chance.percent(60) {
        // One flag to be set, and others that are not to be: what attacks are made of.
        let set = 1_u16 << chance.between(0, 5);
        let clear = 1_u16 << chance.between(0, 5);
        rule.tcp_flags = Some((set | clear, set));
    }
    if chance.percent(40) {
        rule.lengths = ranges(1_500, chance);
    }
    if chance.percent(30) {
        rule.dscps = ranges(63, chance);
    }
    rule.later_fragment = chance.percent(20).then_some(true);
    let action = match chance.between(0, 2) {
        0 => FlowAction::Drop,
        _ => FlowAction::RateLimit { bps: chance.between(1, 1_000) * 8_000 },
    };
    (rule, action)
}

/// Up to three ranges that neither touch nor overlap.
fn ranges(most: u64, chance: &mut Chance) -> Vec<PortRange> {
    let mut ends: Vec<u64> = (0..2 * chance.between(0, 3)).map(|_| chance.between(0, most)).collect();
    ends.sort_unstable();
    let mut ranges: Vec<PortRange> = Vec::new();
    for pair in ends.chunks_exact(2) {
        let [first, last] =
            [pair[0], if chance.percent(50) { pair[0] } else { pair[1] }].map(|end| u16::try_from(end).unwrap());
        if ranges.last().is_none_or(|before| before.last.saturating_add(1) < first) {
            ranges.push(PortRange { first, last });
        }
    }
    ranges
}
