use std::time::Duration;

use levee_api::config::Config;
use levee_api::filter::Target;
use proptest::prelude::*;

use super::*;
use crate::ledger::{Direction, FilterSpec, FlowAction, FlowRule, PortRange};

fn guards(more: &str) -> Guards {
    let text = format!(
        "schema = 1\n[guardrails]\nowned_prefixes = [\"203.0.113.0/24\", \"198.51.0.0/16\", \"2001:db8:a::/48\"]\n\
         protected_prefixes = [\"203.0.113.1/32\", \"2001:db8:a::/64\"]\nmax_flowspec_rules = 3\nmax_blackholes = 2\n\
         max_changes_per_minute = 10\nmax_ttl = \"1h\"\n{more}\n[[zone]]\nname = \"z\"\nprefixes = [\"203.0.113.0/24\"]\n\
         [[announcer]]\nname = \"core\"\nkind = \"embedded\"\nneighbors = [\"203.0.113.254\"]\nnext_hops = [\"192.0.2.1\"]\n"
    );
    let config = Config::parse("test.toml", &text).unwrap_or_else(|e| panic!("{e:?}"));
    Guards::new(&config, [("203.0.113.53".parse().unwrap(), "the resolver".to_owned())])
}

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn rule(destination: &str) -> FlowRule {
    FlowRule {
        protocols: vec![17],
        source_ports: vec![PortRange { first: 53, last: 53 }],
        ..FlowRule::to(prefix(destination))
    }
}

fn blackhole(text: &str) -> Spec {
    Spec::Blackhole { prefix: prefix(text), direction: Direction::Destination }
}

fn flowspec(rule: FlowRule, action: FlowAction) -> Spec {
    Spec::FlowSpec { rule, action }
}

fn filter(text: Option<&str>) -> Spec {
    Spec::Filter(FilterSpec { target: Target { zone: "z".to_owned(), prefix: text.map(prefix) }, filters: Vec::new() })
}

const MINUTE: Duration = Duration::from_secs(60);

fn asked() -> Asked<'static> {
    Asked { ttl: MINUTE, ..Asked::default() }
}

fn says_no(guards: &Guards, spec: &Spec, asked: &Asked<'_>, guardrail: &str, value: &str, limit: &str) {
    let refusal = guards.check(spec, asked).expect_err(guardrail);
    assert_eq!(refusal.guardrail, guardrail, "{refusal}");
    assert!(refusal.value.contains(value) && refusal.limit.contains(limit), "{refusal}");
    assert!(!refusal.text.is_empty());
}

#[test]
fn what_is_allowed_is_allowed() {
    let guards = guards("");
    for spec in [
        blackhole("203.0.113.7/32"),
        blackhole("2001:db8:a:1::7/128"),
        Spec::Blackhole { prefix: prefix("192.0.2.9/32"), direction: Direction::Source },
        flowspec(rule("203.0.113.7/32"), FlowAction::Drop),
        flowspec(rule("198.51.0.0/16"), FlowAction::RateLimit { bps: 1_000_000 }),
        Spec::Divert { prefix: prefix("198.51.100.0/24") },
        filter(Some("203.0.113.7/32")),
        filter(Some("203.0.113.0/24")),
        filter(None),
    ] {
        assert_eq!(guards.check(&spec, &asked()), Ok(()), "{spec}");
    }
}

#[test]
fn each_refusal_names_guardrail_value_and_limit() {
    let guards = guards("");
    let no = |spec: &Spec, guardrail: &str, value: &str, limit: &str| {
        says_no(&guards, spec, &asked(), guardrail, value, limit)
    };
    no(&blackhole("192.0.2.7/32"), "owned_prefixes", "192.0.2.7/32", "203.0.113.0/24");
    no(&blackhole("203.0.113.1/32"), "protected_prefixes", "203.0.113.1/32", "203.0.113.1/32");
    no(&blackhole("203.0.113.254/32"), "protected_prefixes", "203.0.113.254/32", "203.0.113.254/32");
    no(&blackhole("203.0.113.53/32"), "protected_prefixes", "203.0.113.53/32", "203.0.113.53/32");
    no(&blackhole("2001:db8:a::7/128"), "protected_prefixes", "2001:db8:a::7/128", "2001:db8:a::/64");
    no(&filter(Some("203.0.113.1/32")), "protected_prefixes", "203.0.113.1/32", "203.0.113.1/32");
    no(&blackhole("198.51.100.0/31"), "blackhole_ipv4_length", "198.51.100.0/31", "/32");
    no(&blackhole("2001:db8:a:1::/64"), "blackhole_ipv6_length", "2001:db8:a:1::/64", "/128");
    no(&Spec::Divert { prefix: prefix("198.51.0.0/16") }, "divert_ipv4_length", "198.51.0.0/16", "/24");
    no(&Spec::Divert { prefix: prefix("203.0.113.0/24") }, "protected_prefixes", "203.0.113.0/24", "203.0.113.1/32");
    no(&flowspec(rule("198.51.0.0/16"), FlowAction::Drop), "flowspec_ipv4_length", "198.51.0.0/16", "/24");
    let from_us = Spec::Blackhole { prefix: prefix("198.51.100.7/32"), direction: Direction::Source };
    no(&from_us, "owned_prefixes", "198.51.100.7/32", "198.51.0.0/16");

    let of = |change: fn(&mut FlowRule)| {
        let mut rule = rule("198.51.100.0/24");
        change(&mut rule);
        flowspec(rule, FlowAction::Drop)
    };
    no(
        &of(|rule| (rule.protocols, rule.source_ports) = (vec![], vec![])),
        "flowspec_shape",
        "to 198.51.100.0/24",
        "a part of",
    );
    no(&of(|rule| rule.source_ports[0].last = 1), "flowspec_shape", "53-1", "0-65535");
    no(&of(|rule| rule.dscps = vec![PortRange { first: 60, last: 64 }]), "flowspec_shape", "60-64", "0-63");
    let halves = || vec![PortRange { first: 0, last: 30_000 }, PortRange { first: 30_001, last: 65_535 }];
    let mut cut = rule("198.51.0.0/16");
    cut.source_ports = halves();
    no(&flowspec(cut, FlowAction::RateLimit { bps: 1_000_000 }), "flowspec_ipv4_length", "198.51.0.0/16", "/24");
    let mut cut = FlowRule::to(prefix("198.51.100.0/24"));
    (cut.source_ports, cut.lengths) = (halves(), halves());
    no(&flowspec(cut.clone(), FlowAction::Drop), "flowspec_shape", "198.51.100.0/24", "a part of");
    no(&flowspec(cut, FlowAction::RateLimit { bps: 1 }), "flowspec_shape", "limit 1 bps", "100000 bps");
    no(&flowspec(rule("198.51.0.0/16"), FlowAction::RateLimitPackets { pps: 1 }), "flowspec_shape", "1 pps", "100 pps");
    no(
        &of(|rule| {
            let ports = [178, 179, 180].map(|port| PortRange { first: port, last: port });
            (rule.protocols, rule.destination_ports) = (vec![6], ports.to_vec());
        }),
        "management_ports",
        "179",
        "179",
    );
    no(
        &of(|rule| {
            let low = PortRange { first: 150, last: 179 };
            (rule.protocols, rule.destination_ports) = (vec![6], vec![low]);
        }),
        "management_ports",
        "150-179",
        "179",
    );
    no(&of(|rule| rule.source = Some(prefix("2001:db8::/32"))), "flowspec_shape", "2001:db8::/32", "one version");
    let bgp = PortRange { first: 179, last: 179 };
    no(
        &of(|rule| (rule.protocols, rule.destination_ports) = (vec![6], vec![PortRange { first: 179, last: 179 }])),
        "management_ports",
        "179",
        "179",
    );
    no(
        &of(|rule| (rule.protocols, rule.source_ports) = (vec![6], vec![PortRange { first: 179, last: 179 }])),
        "management_ports",
        &bgp.to_string(),
        "179",
    );
    no(
        &of(|rule| (rule.protocols, rule.source_ports, rule.source) = (vec![6], vec![], Some(prefix("192.0.2.0/24")))),
        "management_ports",
        "192.0.2.0/24",
        "192.0.2.1/32",
    );
    no(&flowspec(rule("203.0.113.7/32"), FlowAction::Mark { dscp: 64 }), "flowspec_shape", "64", "0 to 63");
}

#[test]
fn counts_rates_times_shares_and_people_are_bounded() {
    let guards = guards("two_person = true\nmax_legitimate_share = 0.01\nblackhole_ipv4_length = 24\n");
    let spec = blackhole("203.0.113.7/32");
    let no = |spec: &Spec, asked: &Asked<'_>, guardrail, value, limit| {
        says_no(&guards, spec, asked, guardrail, value, limit)
    };
    no(&spec, &Asked { ttl: Duration::ZERO, ..asked() }, "max_ttl", "0 s", "3600 s");
    no(&spec, &Asked { ttl: MINUTE * 61, ..asked() }, "max_ttl", "3660 s", "3600 s");
    let in_force = InForce { flowspec_rules: 3, blackholes: 2, diversions: 5 };
    let full = Asked { in_force, ..asked() };
    no(&spec, &full, "max_blackholes", "3", "2");
    no(&flowspec(rule("203.0.113.7/32"), FlowAction::Drop), &full, "max_flowspec_rules", "4", "3");
    no(&Spec::Divert { prefix: prefix("198.51.100.0/24") }, &full, "max_diversions", "6", "5");
    assert_eq!(guards.check(&filter(None), &full), Ok(()), "the dataplane counts for itself");
    no(&spec, &Asked { changes_last_minute: 10, ..asked() }, "max_changes_per_minute", "11", "10");
    no(&spec, &Asked { legitimate_share: Some(0.02), ..asked() }, "max_legitimate_share", "0.02", "0.01");
    no(&spec, &Asked { legitimate_share: Some(f64::NAN), ..asked() }, "max_legitimate_share", "NaN", "0.01");
    let divert = Spec::Divert { prefix: prefix("198.51.100.0/24") };
    no(&divert, &Asked { people: &["alice", "alice"], ..asked() }, "two_person", "1 approved", "2");
    no(&blackhole("198.51.100.0/24"), &asked(), "two_person", "0 approved", "2");
    assert_eq!(guards.check(&divert, &Asked { people: &["alice", "bob"], ..asked() }), Ok(()));
    assert_eq!(guards.check(&spec, &asked()), Ok(()), "a host needs no second person");
}

/// What one rule may not do, several may not do either.
#[test]
fn rules_count_together_with_those_in_force() {
    let guards = guards("");
    let of = |protocol| FlowRule { protocols: vec![protocol], ..FlowRule::to(prefix("198.51.100.7/32")) };
    let (tcp, limit) = (flowspec(of(6), FlowAction::Drop), FlowAction::RateLimit { bps: 1_000_000 });
    let udp = of(17);
    let besides = |rules: &[(&FlowRule, &FlowAction)], spec: &Spec| guards.check(spec, &Asked { rules, ..asked() });
    for takes in [FlowAction::Drop, FlowAction::RateLimit { bps: 1 }, FlowAction::Redirect { to: "64496:1".to_owned() }]
    {
        let refusal = besides(&[(&udp, &takes)], &tcp).expect_err("everything");
        assert_eq!(refusal.guardrail, "flowspec_shape");
        assert!(refusal.text.contains("198.51.100.7/32"), "{refusal}");
    }
    assert_eq!(besides(&[(&udp, &limit)], &tcp), Ok(()), "what is limited gets through");
    assert_eq!(besides(&[(&udp, &FlowAction::Drop)], &flowspec(of(6), limit.clone())), Ok(()));
}

#[test]
fn resolvers_are_found_in_resolv_conf() {
    let found = resolvers(
        "# comment\nnameserver 192.0.2.53\nsearch example.org\nnameserver fe80::1%eth0\nnameserver\nnameserver x\n",
    );
    assert_eq!(found, ["192.0.2.53".parse::<IpAddr>().unwrap(), "fe80::1".parse().unwrap()]);
}

fn any_prefix() -> impl Strategy<Value = Prefix> {
    // Near what is owned and protected, so that both sides of each rule are met.
    let v4 =
        prop_oneof![Just("203.0.113.0"), Just("198.51.0.0"), Just("198.51.100.0"), Just("192.0.2.0"), Just("0.0.0.0")];
    let v4 = (v4, any::<u8>(), 0_u8..=32).prop_map(|(base, low, length)| {
        let address: std::net::Ipv4Addr = base.parse().unwrap();
        Prefix::containing(IpAddr::from((u32::from(address) | u32::from(low)).to_be_bytes()), length)
    });
    let v6 =
        (prop_oneof![Just("2001:db8:a::"), Just("2001:db8:b::"), Just("::")], any::<u16>(), any::<u16>(), 0_u8..=128)
            .prop_map(|(base, middle, low, length)| {
                let address: std::net::Ipv6Addr = base.parse().unwrap();
                let address = u128::from(address) | u128::from(middle) << 64 | u128::from(low);
                Prefix::containing(IpAddr::from(address.to_be_bytes()), length)
            });
    prop_oneof![2 => v4, 1 => v6]
}

fn any_range() -> impl Strategy<Value = Vec<PortRange>> {
    let port = prop_oneof![Just(0_u16), Just(22), Just(53), Just(179), Just(65_535), any::<u16>()];
    prop::collection::vec((port.clone(), port).prop_map(|(first, last)| PortRange { first, last }), 0..3)
}

fn any_spec() -> impl Strategy<Value = Spec> {
    let action = prop_oneof![
        Just(FlowAction::Drop),
        prop_oneof![0_u64..3, 99_999_u64..=100_000].prop_map(|bps| FlowAction::RateLimit { bps }),
        prop_oneof![0_u64..3, 99_u64..=100].prop_map(|pps| FlowAction::RateLimitPackets { pps }),
        Just(FlowAction::Redirect { to: "64496:1".to_owned() }),
        (0_u8..70).prop_map(|dscp| FlowAction::Mark { dscp }),
    ];
    let protocols = prop::collection::vec(prop_oneof![Just(6_u8), Just(17), any::<u8>()], 0..3);
    let flags = prop::option::of(any::<(u16, u16)>());
    let rule = (any_prefix(), prop::option::of(any_prefix()), protocols, any_range(), any_range(), any_range(), flags)
        .prop_map(|(destination, source, protocols, source_ports, destination_ports, lengths, tcp_flags)| FlowRule {
            source,
            protocols,
            source_ports,
            destination_ports,
            lengths,
            tcp_flags,
            ..FlowRule::to(destination)
        });
    let direction = prop_oneof![Just(Direction::Destination), Just(Direction::Source)];
    prop_oneof![
        3 => (rule, action).prop_map(|(rule, action)| Spec::FlowSpec { rule, action }),
        1 => any_prefix().prop_map(|prefix| Spec::Divert { prefix }),
        2 => (any_prefix(), direction).prop_map(|(prefix, direction)| Spec::Blackhole { prefix, direction }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn nothing_that_is_allowed_touches_what_is_protected_or_not_ours(spec in any_spec()) {
        let guards = guards("blackhole_ipv4_length = 28\n");
        match guards.check_spec(&spec) {
            Ok(()) => {
                let prefix = spec.prefix().unwrap();
                prop_assert!(guards.protected().iter().all(|protected| !protected.prefix.overlaps(&prefix)), "{spec}");
                let owned = ["203.0.113.0/24", "198.51.0.0/16", "2001:db8:a::/48"].map(|text| text.parse::<Prefix>().unwrap());
                let ours = owned.iter().any(|owned| owned.covers(&prefix));
                let source = matches!(spec, Spec::Blackhole { direction: Direction::Source, .. });
                prop_assert!(ours != source, "{spec}");
                if let Spec::Blackhole { prefix, .. } = &spec {
                    prop_assert!(prefix.length() >= if prefix.is_ipv4() { 28 } else { 128 }, "{spec}");
                }
                if let Spec::FlowSpec { rule, action } = &spec {
                    let wide = rule.destination.length() < if prefix.is_ipv4() { 24 } else { 48 };
                    let drops = matches!(action, FlowAction::Drop | FlowAction::Redirect { .. } | FlowAction::RateLimit { bps: ..100_000 } | FlowAction::RateLimitPackets { pps: ..100 });
                    prop_assert!(!(wide && drops), "{spec}");
                    prop_assert!(!wide || !rule.protocols.is_empty() && !rule.source_ports.is_empty(), "{spec}");
                }
            }
            Err(refusal) => {
                prop_assert!(!refusal.guardrail.is_empty() && !refusal.value.is_empty());
                prop_assert!(!refusal.limit.is_empty() && !refusal.text.is_empty());
            }
        }
    }

    /// However the same packets are written down, the answer is the same.
    #[test]
    fn cutting_ranges_changes_no_answer(spec in any_spec(), cuts in prop::collection::vec(any::<u16>(), 0..4)) {
        let Spec::FlowSpec { rule, action } = &spec else { return Ok(()) };
        let cut = |ranges: &[PortRange]| {
            cuts.iter().fold(ranges.to_vec(), |ranges, cut| {
                let halves = ranges.into_iter().flat_map(|range| match (range.first..range.last).contains(cut) {
                    true => vec![PortRange { first: cut + 1, ..range }, PortRange { last: *cut, ..range }],
                    false => vec![range],
                });
                halves.collect()
            })
        };
        let other = FlowRule {
            source_ports: cut(&rule.source_ports),
            destination_ports: cut(&rule.destination_ports),
            lengths: cut(&rule.lengths),
            ..rule.clone()
        };
        let guards = guards("");
        let name = |spec: &Spec| guards.check_spec(spec).map_err(|refusal| refusal.guardrail);
        prop_assert_eq!(name(&flowspec(other, action.clone())), name(&spec));
    }

    #[test]
    fn no_deadline_beyond_the_limit_passes(ttl_s in 0_u64..200_000) {
        let ttl = Duration::from_secs(ttl_s);
        prop_assert_eq!(guards("").check_ttl(ttl).is_ok(), (1..=3_600).contains(&ttl_s));
    }
}
