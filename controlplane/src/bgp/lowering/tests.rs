//! That no packet escapes, that exact is exact, and that fewer rules do the same.

use levee_api::filter::{HeaderBox, Masked, Pattern, Side};
use levee_api::lane::{Bits, LANES, Lane, TcpFlags};
use proptest::prelude::*;

use super::*;
use crate::bgp::flowspec::model::Packet;
use crate::bgp::flowspec::{Bitmask, MAX_VALUES, Nlri};
use crate::ledger::PortRange;

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn lowered(boxes: &[HeaderBox], destination: &str, most: usize) -> Lowering {
    let rules: Vec<Rule> = boxes.iter().copied().map(Rule::of).collect();
    let wanted: Vec<Wanted<'_>> = rules
        .iter()
        .enumerate()
        .map(|(index, rule)| Wanted { rule, by_role: false, effect: 100 - index as u64 })
        .collect();
    lower(&wanted, prefix(destination), most)
}

fn texts(lowering: &Lowering) -> Vec<String> {
    lowering.rules.iter().map(|lowered| lowered.rule.to_string()).collect()
}

fn udp(port: u16) -> HeaderBox {
    HeaderBox::any().exact(Lane::Protocol, 17).port(Side::Source, port, port)
}

#[test]
fn an_amplification_is_one_exact_rule_however_many_ports_it_comes_from() {
    let lowering = lowered(&[udp(53), udp(123), udp(124), udp(53)], "203.0.113.7", 10);
    assert_eq!(texts(&lowering), ["to 203.0.113.7/32 protocol 17 source port 53,123-124"]);
    assert!(lowering.rules[0].exact && lowering.left_out.is_empty());
    assert_eq!(lowering.rules[0].filters, [0, 1, 2, 3]);
    assert_eq!(lowering.rules[0].effect, 100 + 99 + 98 + 97);
}

#[test]
fn lists_that_are_too_long_for_routers_become_several_rules() {
    let many: Vec<HeaderBox> = (0..20).map(|port| udp(1000 + 10 * port)).collect();
    let lowering = lowered(&many, "203.0.113.7", 10);
    assert_eq!(lowering.rules.len(), 4);
    for rule in &lowering.rules {
        assert!(rule.rule.source_ports.len() <= MAX_VALUES && rule.exact);
        Nlri::from(&rule.rule).encode().unwrap();
    }
}

#[test]
fn a_wide_rule_takes_in_what_it_covers_but_not_what_may_be_dropped_alone() {
    let all_udp = HeaderBox::any().exact(Lane::Protocol, 17);
    assert_eq!(texts(&lowered(&[udp(53), all_udp], "203.0.113.7", 10)), ["to 203.0.113.7/32 protocol 17"]);
    let by_ttl = all_udp.exact(Lane::Ttl, 64);
    let lowering = lowered(&[udp(53), by_ttl], "203.0.113.7", 10);
    assert_eq!(
        texts(&lowering),
        ["to 203.0.113.7/32 protocol 17 source port 53", "to 203.0.113.7/32 protocol 17"],
        "one drops, the other may only limit"
    );
    assert_eq!((lowering.rules[0].exact, lowering.rules[1].exact), (true, false));
    assert_eq!(lowering.rules[1].omitted, ["ttl 64 to 64"]);
    assert!((lowering.rules[1].wider_bits - 8.0).abs() < 1e-9, "one of 256 values");
}

#[test]
fn neighbouring_sources_become_one_prefix() {
    let from = |source: &str| udp(53).prefix(Side::Source, prefix(source));
    let four = ["198.51.100.0/26", "198.51.100.64/26", "198.51.100.192/26", "198.51.100.128/26"];
    let lowering = lowered(&four.map(from), "203.0.113.7", 10);
    assert_eq!(texts(&lowering), ["to 203.0.113.7/32 from 198.51.100.0/24 protocol 17 source port 53"]);
}

#[test]
fn the_most_effective_come_first_and_the_rest_is_told() {
    let rules = [udp(53), HeaderBox::any().exact(Lane::Protocol, 47), HeaderBox::any().exact(Lane::Protocol, 50)];
    let different = [rules[0], rules[1].exact(Lane::IpLength, 40), rules[2]];
    let lowering = lowered(&different, "203.0.113.7", 2);
    assert_eq!(lowering.rules.len(), 2);
    assert_eq!(lowering.rules[0].filters, [0]);
    assert_eq!(lowering.left_out, [(2, LeftOut::Budget(2))]);
}

#[test]
fn what_routers_cannot_look_at_is_left_out_and_told() {
    let any = HeaderBox::any();
    let tunnelled = udp(53).bits(Bits::TUNNELLED, Bits::TUNNELLED);
    let elsewhere = udp(53).prefix(Side::Destination, prefix("192.0.2.0/24"));
    let v6 = udp(53).bits(Bits::IPV6, Bits::IPV6);
    let lowering = lowered(&[any.exact(Lane::Ttl, 1), tunnelled, elsewhere, v6], "203.0.113.7", 10);
    let target = prefix("203.0.113.7");
    assert!(lowering.rules.is_empty());
    assert_eq!(
        lowering.left_out,
        [
            (0, LeftOut::Everything),
            (1, LeftOut::Tunnelled),
            (2, LeftOut::NeverMatches(target)),
            (3, LeftOut::NeverMatches(target))
        ]
    );
    let rule = Rule {
        pattern: Some(Pattern { offset: 0, length: 2, bytes: [1; 16], mask: [0xff; 16] }),
        except: vec![any.exact(Lane::Ttl, 9)],
        ..Rule::of(udp(53))
    };
    let lowering = lower(&[Wanted { rule: &rule, by_role: true, effect: 0 }], target, 1);
    assert_eq!(lowering.rules[0].omitted, ["2 bytes of payload", "1 exceptions", "roles in conversations"]);
    assert!(!lowering.rules[0].exact);
}

#[test]
fn flags_types_and_fragments_keep_their_meaning() {
    let syn = HeaderBox::any().flags(TcpFlags::SYN | TcpFlags::ACK, TcpFlags::SYN);
    assert_eq!(
        texts(&lowered(&[syn], "203.0.113.7", 1)),
        ["to 203.0.113.7/32 protocol 6 tcp flags & 0x12 == 0x2"],
        "only TCP has flags"
    );
    let echo = HeaderBox::any().exact(Lane::Protocol, 1).exact(Lane::SrcPort, 8).exact(Lane::DstPort, 0);
    assert_eq!(texts(&lowered(&[echo], "203.0.113.7", 1)), ["to 203.0.113.7/32 protocol 1 icmp type 8 icmp code 0"]);
    let reply = HeaderBox::any().exact(Lane::Protocol, 1).exact(Lane::SrcPort, 0);
    let lowering = lowered(&[reply], "203.0.113.7", 1);
    assert_eq!(texts(&lowering), ["to 203.0.113.7/32 protocol 1"], "later fragments have a zero there too");
    assert!(!lowering.rules[0].exact);
    let fragments = HeaderBox::any().bits(Bits::LATER_FRAGMENT, Bits::LATER_FRAGMENT).exact(Lane::Protocol, 17);
    assert_eq!(texts(&lowered(&[fragments], "203.0.113.7", 1)), ["to 203.0.113.7/32 protocol 17 later fragments"]);
    // They have no header that could have ports, types or flags.
    let first = fragments.bits(Bits::FIRST_FRAGMENT, Bits::FIRST_FRAGMENT);
    // Nor do echo requests have ports, or protocols beyond TCP its flags.
    let icmp = HeaderBox::any().exact(Lane::Protocol, 1).port(Side::Source, 8, 8);
    let beyond = HeaderBox::any().range(Lane::Protocol, 17, 255).flags(TcpFlags::SYN, TcpFlags::SYN);
    for none in [fragments.bits(Bits::PORTS, Bits::PORTS), fragments.port(Side::Source, 53, 53), first, icmp, beyond] {
        let lowering = lowered(&[none], "203.0.113.7", 1);
        assert_eq!(lowering.left_out, [(0, LeftOut::NeverMatches(prefix("203.0.113.7")))], "{lowering:?}");
    }
}

/// One packet, as the dataplane and as a router see it.
#[derive(Clone, Copy, Debug)]
struct Both {
    lanes: [u16; LANES],
    packet: Packet,
}

fn any_packet() -> impl Strategy<Value = Both> {
    let small = prop_oneof![Just(0_u16), Just(53), Just(80), 0_u16..4, any::<u16>()];
    let numbers = (small.clone(), small, any::<u8>(), any::<u8>(), 0_u16..512, any::<u16>(), any::<u8>(), any::<u16>());
    let protocol = prop_oneof![Just(1_u8), Just(6), Just(17), Just(47), Just(58), Just(132)];
    let addresses = (any::<bool>(), any::<u128>(), any::<u128>());
    let shape = (0_u8..3, prop::bool::weighted(0.1));
    (addresses, protocol, numbers, shape).prop_map(|((is_v6, source, destination), protocol, numbers, shape)| {
        let (source_port, destination_port, kind, code, flags, length, class, other) = numbers;
        let (fragment, truncated) = shape;
        let has_header = fragment != 2 && !truncated;
        let mut lanes = [0_u16; LANES];
        let mut set = |lane: Lane, value: u16| lanes[lane.index()] = value;
        let mut bits = Bits::empty();
        bits.set(Bits::IPV6, is_v6);
        bits.set(Bits::FIRST_FRAGMENT, fragment == 1);
        bits.set(Bits::LATER_FRAGMENT, fragment == 2);
        let (from, to) = if is_v6 { (source, destination) } else { (source >> 96, destination >> 96) };
        for piece in 0..8_usize {
            let of = |value: u128| (value >> (112 - 16 * piece) & 0xffff) as u16;
            set(Lane::ALL[Lane::Src0.index() + piece], of(from));
            set(Lane::ALL[Lane::Dst0.index() + piece], of(to));
        }
        let address = |value: u128| -> std::net::IpAddr {
            if is_v6 {
                std::net::Ipv6Addr::from(value).into()
            } else {
                std::net::Ipv4Addr::from(u32::try_from(value).unwrap()).into()
            }
        };
        let mut packet = Packet {
            source: address(from),
            destination: address(to),
            protocol,
            ports: None,
            icmp: None,
            tcp_flags: None,
            length,
            dscp: class >> 2,
            fragment: [0, Bitmask::FIRST_FRAGMENT, Bitmask::IS_FRAGMENT][usize::from(fragment)],
        };
        set(Lane::Protocol, protocol.into());
        set(Lane::IpLength, length);
        set(Lane::Dscp, class.into());
        set(Lane::Ttl, other & 0xff);
        set(Lane::Ident, other);
        if has_header && matches!(protocol, 6 | 17 | 132) {
            bits |= Bits::PORTS;
            set(Lane::SrcPort, source_port);
            set(Lane::DstPort, destination_port);
            packet.ports = (protocol != 132).then_some((source_port, destination_port));
        }
        if has_header && protocol == 6 {
            set(Lane::TcpFlags, flags);
            packet.tcp_flags = Some(flags);
        }
        if has_header && matches!(protocol, 1 | 58) {
            set(Lane::SrcPort, kind.into());
            set(Lane::DstPort, code.into());
            packet.icmp = (is_v6 == (protocol == 58)).then_some((kind, code));
        }
        set(Lane::Bits, bits.bits());
        Both { lanes, packet }
    })
}

/// How far a range reaches below and above the packet's value, for a few lanes; and which bits are looked at.
type Shape = (Vec<(usize, u16, u16)>, u16, u16);

fn any_shape() -> impl Strategy<Value = Shape> {
    let lanes = [
        Lane::Src6,
        Lane::Src7,
        Lane::Dst0,
        Lane::SrcPort,
        Lane::DstPort,
        Lane::Protocol,
        Lane::IpLength,
        Lane::Dscp,
        Lane::Ttl,
        Lane::Ident,
    ];
    let reach = prop_oneof![3 => Just(0_u16), 1 => 0_u16..8, 1 => any::<u16>()];
    let ranges =
        prop::collection::vec((prop::sample::select(lanes.map(Lane::index).to_vec()), reach.clone(), reach), 0..6);
    let mask = prop_oneof![Just(0_u16), 0_u16..0x200];
    (ranges, mask, prop_oneof![Just(0_u16), 0_u16..0x40])
}

/// A box around a packet.
fn around(lanes: &[u16; LANES], (ranges, flags, bits): &Shape) -> HeaderBox {
    let mut matches = HeaderBox::any();
    for (lane, below, above) in ranges {
        let value = lanes[*lane];
        matches = matches.range(Lane::ALL[*lane], value.saturating_sub(*below), value.saturating_add(*above));
    }
    let flags = TcpFlags::from_bits_truncate(*flags);
    let bits = Bits::from_bits_truncate(*bits);
    let (has_flags, has_bits) = (lanes[Lane::TcpFlags.index()], lanes[Lane::Bits.index()]);
    matches = matches.flags(flags, flags & TcpFlags::from_bits_truncate(has_flags));
    matches.bits(bits, bits & Bits::from_bits_truncate(has_bits))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn every_packet_that_matches_a_filter_matches_its_rule(
        packets in prop::collection::vec(any_packet(), 4),
        shapes in prop::collection::vec(any_shape(), 4),
        length in 0_u8..=32,
    ) {
        let target = Prefix::containing(packets[0].packet.destination, length.max(1));
        let rules: Vec<Rule> =
            packets.iter().zip(&shapes).map(|(packet, shape)| Rule::of(around(&packet.lanes, shape))).collect();
        let wanted: Vec<Wanted<'_>> = rules.iter().map(|rule| Wanted { rule, by_role: false, effect: 1 }).collect();
        let lowering = lower(&wanted, target, 1_000);
        for part in &lowering.rules {
            prop_assert!(target.covers(&part.rule.destination));
            prop_assert!(Nlri::from(&part.rule).encode().is_ok(), "{}", part.rule);
        }
        for both in packets.iter().filter(|both| target.contains(both.packet.destination)) {
            for (index, rule) in rules.iter().enumerate() {
                let left_out = lowering.left_out.iter().find(|(left, _)| *left == index);
                if !rule.contains(&both.lanes, &[]) {
                    continue;
                }
                if let Some((_, why)) = left_out {
                    prop_assert_eq!(why, &LeftOut::Everything);
                    continue;
                }
                let mut parts = lowering.rules.iter().filter(|part| part.filters.contains(&index));
                prop_assert!(
                    parts.any(|part| both.packet.matches(&Nlri::from(&part.rule))),
                    "{:?} escapes {} as {:?}", both, rule, texts(&lowering)
                );
            }
            // What is exact matches nothing that its filters do not.
            for part in lowering.rules.iter().filter(|part| part.exact) {
                if both.packet.matches(&Nlri::from(&part.rule)) {
                    let wanted = part.filters.iter().any(|index| rules[*index].contains(&both.lanes, &[]));
                    prop_assert!(wanted, "{} is not exact for {:?}", part.rule, both);
                }
            }
        }
    }

    #[test]
    fn a_rule_cut_into_pieces_matches_the_same(
        values in prop::collection::vec((any::<u16>(), 0_u16..3), 1..20),
        more in prop::collection::vec(any::<u8>(), 0..9),
        port in any::<u16>(),
        pick in any::<prop::sample::Index>(),
    ) {
        let ranges: Vec<PortRange> =
            values.iter().map(|(first, more)| PortRange { first: *first, last: first.saturating_add(*more) }).collect();
        let rule = FlowRule { source_ports: ranges.clone(), protocols: more, ..FlowRule::to(prefix("203.0.113.7")) };
        let parts = split(&rule);
        for part in &parts {
            prop_assert!(Nlri::from(part).encode().is_ok());
        }
        for port in [port, pick.get(&ranges).first] {
            let hit = |rule: &FlowRule| rule.source_ports.iter().any(|range| (range.first..=range.last).contains(&port));
            prop_assert_eq!(hit(&rule), parts.iter().any(hit));
        }
        let protocols: std::collections::BTreeSet<u8> = parts.iter().flat_map(|part| part.protocols.clone()).collect();
        prop_assert_eq!(protocols, rule.protocols.into_iter().collect());
    }
}

#[test]
fn a_contradiction_is_told() {
    let never = HeaderBox::any().exact(Lane::Protocol, 300);
    assert!(matches!(lowered(&[never], "203.0.113.7", 1).left_out[..], [(0, LeftOut::NeverMatches(_))]));
    assert!(Masked { mask: 0, value: 1 }.is_empty());
}
