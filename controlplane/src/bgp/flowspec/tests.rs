//! Bytes of the RFCs, bytes that real daemons were seen to send, and what must never be sent.

use levee_api::prefix::Prefix;
use proptest::prelude::*;

use super::*;
use crate::ledger::{FlowAction, FlowRule, PortRange};

fn bytes(hex: &str) -> Vec<u8> {
    let digits: String = hex.split_whitespace().collect();
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

fn decoded(version: Version, hex: &str) -> Nlri {
    let bytes = bytes(hex);
    let (rule, taken) = Nlri::decode(version, &bytes).unwrap_or_else(|error| panic!("{hex}: {error}"));
    assert_eq!(taken, bytes.len(), "{hex}");
    rule
}

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn ports(list: &[(u16, u16)]) -> Vec<PortRange> {
    list.iter().map(|(first, last)| PortRange { first: *first, last: *last }).collect()
}

/// RFC 8955, section 4.3, and RFC 8956, section 3.8.
#[test]
fn the_examples_of_the_rfcs_are_read_and_written() {
    for (hex, text) in [
        ("0b 0118c00002 038106 048119", "destination 192.0.2.0/24 protocol =6 port =25"),
        (
            "12 0118c00002 0218cb0071 04 0389 458b 911f90",
            "destination 192.0.2.0/24 source 203.0.113.0/24 port >=137&<=139 =8080",
        ),
        ("09 0120c0000201 0c8005", "destination 192.0.2.1/32 fragment 0x5"),
    ] {
        let rule = decoded(Version::V4, hex);
        assert_eq!(rule.to_string(), text);
        assert_eq!(rule.encode().unwrap(), bytes(hex));
    }
}

#[test]
fn patterns_within_an_ipv6_address_are_read_and_never_sent() {
    for (hex, text) in [
        (
            "12 01200020010db8 026840123456789a 038106",
            "destination 2001:db8::/32 source ::1234:5678:9a00:0/104 from bit 64 protocol =6",
        ),
        ("0f 01200020010db8 0268412468acf134", "destination 2001:db8::/32 source ::1234:5678:9a00:0/104 from bit 65"),
    ] {
        let rule = decoded(Version::V6, hex);
        assert_eq!(rule.to_string(), text);
        assert!(matches!(rule.encode(), Err(Unfit::Offset { offset: 64 | 65, .. })));
    }
}

/// Captured between daemons.
fn captured() -> Vec<(Version, &'static str)> {
    let lines = include_str!("vectors.txt").lines().filter_map(|line| line.split_once(' '));
    lines
        .filter_map(|(version, hex)| match version {
            "v4" => Some((Version::V4, hex)),
            "v6" => Some((Version::V6, hex)),
            _ => None,
        })
        .collect()
}

#[test]
fn what_daemons_sent_is_read_and_written_alike() {
    let captured = captured();
    assert_eq!(captured.len(), 25);
    for (version, hex) in captured {
        let rule = decoded(version, hex);
        assert_eq!(rule.encode().unwrap_or_else(|unfit| panic!("{hex}: {unfit}")), bytes(hex), "{rule}");
    }
    let bird = decoded(Version::V6, "0d0140200000000103813a078180");
    assert!(matches!(bird.encode(), Err(Unfit::Offset { .. })), "BIRD's pattern is read and not sent: {bird}");
}

#[test]
fn our_rule_has_the_bytes_that_gobgp_gave_the_same_rule() {
    let rule = FlowRule {
        source: Some(prefix("198.51.100.0/24")),
        protocols: vec![17],
        source_ports: ports(&[(53, 53), (123, 123)]),
        destination_ports: ports(&[(1024, 65_535)]),
        lengths: ports(&[(200, 1500)]),
        ..FlowRule::to(prefix("203.0.113.30/32"))
    };
    let encoded = Nlri::from(&rule).encode().unwrap();
    assert_eq!(encoded, bytes("200120cb00711e0218c6336403811105130400d5ffff060135817b0a03c8d505dc"));
    let syn = FlowRule {
        protocols: vec![6],
        destination_ports: ports(&[(80, 80), (443, 443)]),
        tcp_flags: Some((0x12, 0x02)),
        ..FlowRule::to(prefix("203.0.113.11/32"))
    };
    assert_eq!(Nlri::from(&syn).encode().unwrap(), bytes("140120cb00710b0381060501509101bb090102c210"));
    let fragments =
        FlowRule { protocols: vec![17], later_fragment: Some(true), ..FlowRule::to(prefix("203.0.113.11/32")) };
    assert_eq!(Nlri::from(&fragments).encode().unwrap(), bytes("0c 0120cb00710b 038111 0c8002"));
    let v6 = FlowRule {
        protocols: vec![17],
        source_ports: ports(&[(11_211, 11_211)]),
        ..FlowRule::to(prefix("2001:db8::30/128"))
    };
    assert_eq!(Nlri::from(&v6).encode().unwrap(), bytes("1a01800020010db800000000000000000000003003811106912bcb"));
}

#[test]
fn what_broke_sessions_is_refused() {
    let with = |components: Vec<Component>| {
        let mut all = vec![Component::Destination(prefix("203.0.113.7/32").into())];
        all.extend(components);
        Nlri { version: Version::V4, components: all }.encode()
    };
    let numbers = |values| Component::Numeric(Numeric::SourcePort, values);
    assert_eq!(Nlri { version: Version::V4, components: vec![] }.encode(), Err(Unfit::Empty));
    let udp = Component::Numeric(Numeric::Protocol, vec![NumericValue::exactly(17)]);
    assert_eq!(Nlri { version: Version::V4, components: vec![udp.clone()] }.encode(), Err(Unfit::NoDestination));
    let seven = numbers((0..7).map(NumericValue::exactly).collect());
    assert!(matches!(with(vec![seven]), Err(Unfit::TooManyValues { values: 7, .. })));
    let other_than = NumericValue { less: true, greater: true, equal: false, ..NumericValue::exactly(53) };
    assert!(matches!(with(vec![numbers(vec![other_than])]), Err(Unfit::Comparison { sign: "!=", .. })));
    assert!(matches!(with(vec![numbers(vec![NumericValue::and_at_most(53)])]), Err(Unfit::LeadingAnd { .. })));
    assert!(matches!(with(vec![numbers(vec![])]), Err(Unfit::NoValues { .. })));
    assert!(matches!(
        with(vec![numbers(vec![NumericValue::exactly(65_536)])]),
        Err(Unfit::Value { value: 65_536, .. })
    ));
    let ports = numbers(vec![NumericValue::exactly(53)]);
    assert!(matches!(with(vec![ports.clone(), udp.clone()]), Err(Unfit::Order { .. })));
    assert!(matches!(with(vec![udp.clone(), udp]), Err(Unfit::Order { .. })));
    assert!(matches!(with(vec![Component::Source(prefix("2001:db8::/48").into())]), Err(Unfit::Mixed { .. })));
    let label = Component::Numeric(Numeric::FlowLabel, vec![NumericValue::exactly(1)]);
    assert!(matches!(with(vec![label]), Err(Unfit::NotInThisVersion { .. })));
    let seventeen_bits = NumericValue::exactly(1 << 40);
    let long = |kind| Component::Numeric(kind, vec![seventeen_bits; 6]);
    assert!(with(vec![long(Numeric::Port)]).is_err());
    let dont_fragment = BitsValue { and: false, not: false, all: true, value: Bitmask::DONT_FRAGMENT };
    let v6 = Nlri {
        version: Version::V6,
        components: vec![
            Component::Destination(prefix("2001:db8::/48").into()),
            Component::Bits(Bitmask::Fragment, vec![dont_fragment]),
        ],
    };
    assert!(matches!(v6.encode(), Err(Unfit::NotInThisVersion { .. })));
}

#[test]
fn broken_bytes_are_told_as_what_they_are() {
    let decode = |version, hex: &str| Nlri::decode(version, &bytes(hex)).map(|(rule, _)| rule);
    assert_eq!(decode(Version::V4, "00"), Err(DecodeError::Empty), "what ExaBGP sends for an empty match");
    assert_eq!(decode(Version::V4, ""), Err(DecodeError::Short("its length")));
    assert_eq!(decode(Version::V4, "0b0118c00002"), Err(DecodeError::Short("its components")));
    assert_eq!(decode(Version::V4, "020e00"), Err(DecodeError::Type(14)));
    assert_eq!(decode(Version::V4, "030d8101"), Err(DecodeError::Type(13)), "there is no flow label in IPv4");
    assert!(matches!(decode(Version::V4, "06 0121cb00714d"), Err(DecodeError::Length { length: 33, .. })));
    assert!(matches!(decode(Version::V6, "03 012021"), Err(DecodeError::Length { offset: 33, .. })));
    assert!(matches!(decode(Version::V4, "06 038106 038106"), Err(DecodeError::Order { .. })));
    assert_eq!(decode(Version::V4, "03 030106"), Err(DecodeError::Short("protocol")), "a list without an end");
    let long = format!("f0f7 0120cb00711e 05 {} 81aa", "01aa".repeat(119));
    let rule = decode(Version::V4, &long).unwrap();
    assert!(matches!(rule.encode(), Err(Unfit::TooManyValues { values: 120, .. })), "read, and not sent");
}

#[test]
fn actions_have_the_bytes_that_routers_know() {
    let to = |destination: &str| FlowRule::to(destination.parse().unwrap());
    let rule = to("203.0.113.7/32");
    let wire = |action: FlowAction| TrafficAction::of(&rule, &action).unwrap().encode().to_vec();
    let redirect = |to: &str| wire(FlowAction::Redirect { to: to.to_owned() });
    for (found, wanted) in [
        (wire(FlowAction::Drop), "8006000000000000"),
        (wire(FlowAction::RateLimit { bps: 1_000_000 }), "8006000047f42400"),
        (wire(FlowAction::RateLimitPackets { pps: 1000 }), "800c0000447a0000"),
        (wire(FlowAction::Mark { dscp: 46 }), "800900000000002e"),
        (wire(FlowAction::Sample), "8007000000000003"),
        (redirect("65002:100"), "8008fdea00000064"),
        (redirect("10.99.0.1:7"), "81080a6300010007"),
        (redirect("4200000000:7"), "8208fa56ea000007"),
        (redirect("10.99.0.1"), "010c0a6300010000"),
    ] {
        assert_eq!(found, bytes(wanted), "{wanted}");
    }
    for bad in [
        "+64496:1",
        "64496:+1",
        "0:0",
        "0.0.0.0",
        "127.0.0.1",
        "203.0.113.7",
        "",
        "65002",
        "65002:",
        ":1",
        "65002:4294967296",
        "4200000000:65536",
        "2001:db8::1",
        "1.2.3:4",
        "-1:2",
    ] {
        assert!(TrafficAction::of(&rule, &FlowAction::Redirect { to: bad.to_owned() }).is_err(), "{bad}");
    }
    let v6 = to("2001:db8::7/128");
    let redirect = |to: &str| TrafficAction::of(&v6, &FlowAction::Redirect { to: to.to_owned() });
    assert!(redirect("64496:1").is_ok() && matches!(redirect("192.0.2.1"), Err(BadRedirect::Version(_))));
}

fn any_ranges(most: u16) -> impl Strategy<Value = Vec<PortRange>> {
    let range = (0..=most, 0..=most).prop_map(|(a, b)| PortRange { first: a.min(b), last: a.max(b) });
    prop::collection::vec(range, 0..=3)
}

pub(super) fn any_rule() -> impl Strategy<Value = FlowRule> {
    let prefixes = prop_oneof![
        (any::<u32>(), 1_u8..=32, any::<u32>(), 0_u8..=32).prop_map(|(a, l, b, m)| {
            let of = |bits: u32, length| Prefix::containing(std::net::Ipv4Addr::from(bits).into(), length);
            (of(a, l), of(b, m))
        }),
        (any::<u128>(), 1_u8..=128, any::<u128>(), 0_u8..=128).prop_map(|(a, l, b, m)| {
            let of = |bits: u128, length| Prefix::containing(std::net::Ipv6Addr::from(bits).into(), length);
            (of(a, l), of(b, m))
        }),
    ];
    let lists = (any_ranges(65_535), any_ranges(65_535), any_ranges(255), any_ranges(65_535), any_ranges(63));
    let flags = prop::option::of((1_u16..256, any::<u16>()).prop_map(|(mask, value)| (mask, value & mask)));
    let rest = (any::<bool>(), prop::collection::vec(any::<u8>(), 0..=6), flags, any::<Option<bool>>());
    (prefixes, lists, rest).prop_map(
        |((destination, source), lists, (sourced, protocols, tcp_flags, later_fragment))| {
            let (source_ports, destination_ports, icmp_types, lengths, dscps) = lists;
            FlowRule {
                source: sourced.then_some(source),
                protocols,
                source_ports,
                destination_ports,
                icmp_types,
                lengths,
                dscps,
                tcp_flags,
                later_fragment,
                ..FlowRule::to(destination)
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn every_rule_within_the_limits_is_sent_and_read_back(rule in any_rule()) {
        let rule = Nlri::from(&rule);
        let bytes = rule.encode().unwrap();
        prop_assert!(bytes.len() <= MAX_BYTES + 1);
        prop_assert_eq!(Nlri::decode(rule.version, &bytes), Ok((rule, bytes.len())));
    }

    #[test]
    fn any_bytes_are_a_rule_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..80), six in any::<bool>()) {
        let version = if six { Version::V6 } else { Version::V4 };
        if let Ok((rule, taken)) = Nlri::decode(version, &bytes) {
            prop_assert!(taken <= bytes.len());
            // What can be sent of it means the same.
            if let Ok(sent) = rule.encode() {
                prop_assert_eq!(Nlri::decode(version, &sent).unwrap().0, rule);
            }
        }
    }

    /// What daemons have sent, damaged: near to what is right is where readers go wrong.
    #[test]
    fn a_rule_that_was_damaged_is_read_or_refused(
        seed in prop::sample::select(captured()),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
        six in any::<bool>(),
    ) {
        let mut bytes = bytes(seed.1);
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(cut.index(bytes.len()) + 1);
        let version = if six { Version::V6 } else { Version::V4 };
        if let Ok((rule, taken)) = Nlri::decode(version, &bytes) {
            prop_assert!(taken <= bytes.len());
            let _ = (rule.to_string(), rule.encode());
        }
    }

    #[test]
    fn any_community_is_kept(bytes in any::<[u8; 8]>()) {
        let action = TrafficAction::decode(bytes);
        if matches!(action, TrafficAction::Other(_)) {
            prop_assert_eq!(action.encode(), bytes);
        }
        let _ = action.to_string();
    }
}
