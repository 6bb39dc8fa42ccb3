//! What is sent is what arrives, and what must not arrive is refused with the name of its field.

use std::net::IpAddr;
use std::time::Duration;

use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::filter::{Action, Constraint, HeaderBox, Masked, Pattern, Per, Rule, Target};
use crate::lane::Lane;
use crate::prefix::Prefix;
use crate::role::{Role, RoleSet};
use crate::zone::{Challenge, Mode, Service, Visibility, Zone};

fn name() -> impl Strategy<Value = String> {
    "[a-zé][a-z0-9 ._-]{0,20}[a-z]"
}

fn prefix() -> impl Strategy<Value = Prefix> {
    (any::<IpAddr>(), 0_u8..=128).prop_map(|(address, length)| Prefix::containing(address, length))
}

fn role() -> impl Strategy<Value = Role> {
    prop::sample::select(Role::ALL.to_vec())
}

fn header_box() -> impl Strategy<Value = HeaderBox> {
    prop::collection::vec((prop::sample::select(Lane::ALL.to_vec()), any::<u16>(), any::<u16>()), 0..6).prop_map(
        |constraints| {
            let shape = HeaderBox::of(constraints.into_iter().map(|(lane, a, b)| {
                if lane.is_bits() {
                    Constraint::Mask { lane, masked: Masked { mask: a, value: a & b } }
                } else {
                    Constraint::Range { lane, lo: a.min(b), hi: a.max(b) }
                }
            }));
            if shape.is_empty() { HeaderBox::any() } else { shape }
        },
    )
}

fn pattern() -> impl Strategy<Value = Pattern> {
    (any::<u16>(), 1_u8..=16, any::<[u8; 16]>(), any::<[u8; 16]>()).prop_map(|(offset, length, mut bytes, mut mask)| {
        bytes[usize::from(length)..].fill(0);
        mask[usize::from(length)..].fill(0);
        Pattern { offset, length, bytes, mask }
    })
}

fn filter_request() -> impl Strategy<Value = FilterRequest> {
    let target = (name(), prop::option::of(prefix())).prop_map(|(zone, prefix)| Target { zone, prefix });
    let roles = prop::collection::vec(role(), 1..4)
        .prop_map(|roles| roles.into_iter().fold(RoleSet::NONE, |set, role| set.union(role.set())));
    let rule = (header_box(), prop::option::of(pattern()), prop::collection::vec(header_box(), 0..4))
        .prop_map(|(matches, pattern, except)| Rule { matches, pattern, except });
    let action = prop_oneof![
        Just(Action::Pass),
        Just(Action::Drop),
        (any::<u32>(), prop::sample::select(vec![Per::Target, Per::Source, Per::SourcePrefix]))
            .prop_map(|(pps, per)| Action::Limit { pps, per }),
        any::<u32>().prop_map(|above_pps| Action::Challenge { above_pps }),
        any::<u8>().prop_map(|after| Action::BlockSource { after }),
    ];
    (name(), target, roles, rule, action, 1_u64.., ".{0,50}").prop_map(
        |(owner, target, roles, rule, action, ttl, witness)| FilterRequest {
            owner,
            target,
            roles: if matches!(action, Action::Challenge { .. }) { Role::Syn.set() } else { roles },
            rule,
            action,
            ttl: Duration::from_nanos(ttl),
            witness,
        },
    )
}

fn zone() -> impl Strategy<Value = Zone> {
    let ports = (1_u16.., 1_u16..).prop_map(|(a, b)| (a.min(b), a.max(b)));
    let service =
        (any::<u8>(), prop::collection::vec(ports, 0..3)).prop_map(|(protocol, ports)| Service { protocol, ports });
    let mode = prop::sample::select(vec![Mode::Monitor, Mode::Enforce]);
    let visibility = prop::sample::select(vec![Visibility::Auto, Visibility::Both, Visibility::Inbound]);
    let challenge =
        prop::sample::select(vec![Challenge::Off, Challenge::Reset, Challenge::SafeReset, Challenge::Proxy]);
    (
        (name(), prop::collection::vec(prefix(), 1..4), mode, prop::collection::vec(service, 0..3)),
        (any::<bool>(), visibility, prop::option::of(1_u64..), prop::collection::vec((role(), 1_u32..), 0..3)),
        (prop::option::of(name()), challenge, any::<bool>()),
    )
        .prop_map(
            |(
                (name, prefixes, mode, services),
                (services_complete, visibility, capacity, floors),
                (runbook, challenge, challenge_dns),
            )| Zone {
                name,
                prefixes,
                mode,
                services,
                services_complete,
                visibility,
                challenge: match (challenge, visibility) {
                    (Challenge::Proxy, Visibility::Inbound) => Challenge::Off,
                    _ => challenge,
                },
                challenge_dns,
                link_capacity_bps: capacity,
                floors,
                runbook,
            },
        )
}

proptest! {
    #[test]
    fn a_filter_arrives_as_it_was_sent(request in filter_request()) {
        let bytes = v1::FilterRequest::from(&request).encode_to_vec();
        prop_assert_eq!(FilterRequest::try_from(&v1::FilterRequest::decode(&*bytes).unwrap()), Ok(request));
    }

    #[test]
    fn a_zone_arrives_as_it_was_sent(zone in zone()) {
        let bytes = v1::Zone::from(&zone).encode_to_vec();
        prop_assert_eq!(Zone::try_from(&v1::Zone::decode(&*bytes).unwrap()), Ok(zone));
    }

    #[test]
    fn any_bytes_are_a_filter_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(message) = v1::FilterRequest::decode(&*bytes) {
            let _ = FilterRequest::try_from(&message);
        }
        if let Ok(message) = v1::Zone::decode(&*bytes) {
            let _ = Zone::try_from(&message);
        }
    }

    #[test]
    fn a_filter_with_damaged_bytes_is_another_filter_or_an_error(
        request in filter_request(), at in any::<prop::sample::Index>(), byte in any::<u8>()
    ) {
        let mut bytes = v1::FilterRequest::from(&request).encode_to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(message) = v1::FilterRequest::decode(&*bytes)
            && let Ok(arrived) = FilterRequest::try_from(&message)
        {
            prop_assert!(!arrived.rule.matches.is_empty() && !arrived.roles.is_empty() && !arrived.ttl.is_zero());
        }
    }
}

#[test]
fn a_refusal_names_the_field() {
    let request = || {
        let any = FilterRequest {
            owner: "incident 7".into(),
            target: Target { zone: "web".into(), prefix: Some("203.0.113.9".parse().unwrap()) },
            roles: Role::Syn.set(),
            rule: Rule::of(HeaderBox::any().exact(Lane::Ttl, 64)),
            action: Action::Drop,
            ttl: Duration::from_secs(60),
            witness: String::new(),
        };
        v1::FilterRequest::from(&any)
    };
    type Damage = fn(&mut v1::FilterRequest);
    let cases: [(Damage, &str); 12] = [
        (|r| r.owner.clear(), "owner: \"\" is no name"),
        (|r| r.target = None, "target: it is missing"),
        (|r| r.target.as_mut().unwrap().zone = " ".into(), "target.zone: "),
        (
            |r| r.target.as_mut().unwrap().prefix.as_mut().unwrap().length = 24,
            "target.prefix.address: 203.0.113.9 has bits",
        ),
        (
            |r| r.target.as_mut().unwrap().prefix.as_mut().unwrap().length = 33,
            "target.prefix.length: 33 is more than 32",
        ),
        (|r| r.target.as_mut().unwrap().prefix.as_mut().unwrap().address.push(1), "target.prefix.address: 5 bytes"),
        (|r| r.roles.clear(), "roles: a filter without roles"),
        (|r| r.roles[0] = "sin".into(), "roles[0].role: \"sin\" is not a role"),
        (|r| r.rule.as_mut().unwrap().matches = None, "rule.matches: it is missing"),
        (
            |r| r.rule.as_mut().unwrap().matches.as_mut().unwrap().constraints[0].lane = "tll".into(),
            "rule.matches.constraints[0].lane: \"tll\"",
        ),
        (|r| r.action.as_mut().unwrap().kind = None, "action.kind: there is none"),
        (|r| r.remaining_ns = 0, "remaining_ns: no time remains"),
    ];
    for (damage, expected) in cases {
        let mut message = request();
        damage(&mut message);
        let error = FilterRequest::try_from(&message).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error:?} instead of {expected:?}");
    }
}

#[test]
fn a_box_that_matches_nothing_or_says_a_thing_twice_is_refused() {
    let range = |lane: &str, lo, hi| v1::Constraint {
        lane: lane.into(),
        condition: Some(v1::constraint::Condition::Range(v1::Range { lo, hi })),
    };
    let masked = |lane: &str, mask, value| v1::Constraint {
        lane: lane.into(),
        condition: Some(v1::constraint::Condition::Masked(v1::Masked { mask, value })),
    };
    for constraints in [
        vec![range("ttl", 2, 1)],
        vec![range("ttl", 1, 65_536)],
        vec![range("ttl", 1, 2), range("ttl", 1, 2)],
        vec![masked("ttl", 1, 1)],
        vec![range("bits", 1, 1)],
        vec![masked("bits", 1, 2)],
        vec![v1::Constraint { lane: "ttl".into(), condition: None }],
    ] {
        let shape = v1::HeaderBox { constraints };
        assert!(HeaderBox::try_from(&shape).is_err(), "{shape:?}");
    }
}
