//! From a finding to a measure: what policy allows the dataplane to do by itself, at once.

use levee_api::filter::{Action, HeaderBox, Side};
use levee_api::lane::Lane;
use levee_api::role::Role;
use levee_api::zone::{Challenge, Zone};

use crate::detect::node::Peace;
use crate::detect::track::{is_own_witness, relies_on_memory};
use crate::detect::witness::Witness;
use crate::packet::dns;
use crate::packet::icmp::{ECHO_REPLY, ECHO_REPLY_V6};

/// A coarse measure may have hit at most this share of a target's packets in peace.
const HARMLESS_SHARE: f32 = 0.001;
/// Fewer packets than this say nothing about a share that small.
const ENOUGH_PACKETS: f32 = 1_000.0;

/// A zone may receive so many times what it has had of a role at most, and at least so many packets per second.
const ZONE_FACTOR: f32 = 2.0;
const ZONE_LEAST_PPS: f32 = 20.0;

/// So many connections of a source within ten seconds that it has not used are one too many: browsers open some in advance.
pub const IDLE_CONNECTIONS: u8 = 6;

/// What answers an attack first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Everything of the role is dropped, in the tick of the alarm.
    DropRole,
    /// Everything of the role that this contains is dropped, in the tick of the alarm.
    DropOnly(HeaderBox),
    /// Everything of the role is limited to what it was in peace.
    LimitRole,
    /// Everything of the role is limited to so many packets per second from one source.
    LimitPings(u32),
    /// Everything of the role that this contains has to show that somebody is behind its source, from the tick of the alarm on.
    Challenge(HeaderBox),
    /// Each source may send so much of the role and no more: what of it is not contained in the second box.
    LimitSources(HeaderBox),
    /// Sources that open connections and do not use them are blocked.
    BlockIdle,
    /// A signature has to be found first.
    Signature,
    /// Parsing drops it already.
    None,
}

/// Packets per second that nobody's ping exceeds: without being an administrator five are possible.
pub const PINGS: u32 = 5;

/// True when a target had next to nothing of a role in peace: its own history counts if it is long enough, else the zone's.
pub fn is_rare(role: Role, target: &Peace, zone: &Peace) -> bool {
    if target.packets >= ENOUGH_PACKETS {
        target.role(role) <= HARMLESS_SHARE * target.packets
    } else {
        zone.packets >= ENOUGH_PACKETS && zone.role(role) <= HARMLESS_SHARE * zone.packets && target.role(role) < 1.0
    }
}

/// What is known of a target under attack.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Its zone.
    pub zone: &'a Zone,
    /// What its traffic was in peace.
    pub peace: &'a Peace,
    /// The same of its zone.
    pub zone_peace: &'a Peace,
    /// It had next to nothing of the role in peace.
    pub is_rare: bool,
    /// The return direction passes here.
    pub sees_inside: bool,
    /// It is an IPv6 address or prefix.
    pub is_ipv6: bool,
}

/// Chooses the answer to an attack in `role`, for what it was taken for one.
pub fn answer(role: Role, target: &Target<'_>, witness: Option<&Witness>) -> Answer {
    let Target { zone, peace, zone_peace, is_rare: rare, sees_inside, is_ipv6 } = *target;
    match witness {
        Some(Witness::Unasked(_)) => {
            let (protocol, kind) = if is_ipv6 { ECHO_REPLY_V6 } else { ECHO_REPLY };
            let replies = HeaderBox::any().exact(Lane::Protocol, protocol).exact(Lane::SrcPort, kind);
            return Answer::DropOnly(replies);
        }
        Some(Witness::Insistent { .. }) => return Answer::LimitPings(PINGS),
        // The signature is all there is.
        Some(Witness::Unnatural) => return Answer::Signature,
        _ => {}
    }
    match role {
        Role::Malformed => return Answer::None,
        // Who acknowledges only what inside has sent does what inside makes it do.
        Role::Established => {
            let without_data = HeaderBox::any().exact(Lane::Protocol, 6).exact(Lane::PayloadLength, 0);
            return Answer::LimitSources(without_data);
        }
        Role::Syn if zone.challenge != Challenge::Off => return Answer::Challenge(HeaderBox::any()),
        // Over TCP it must find somebody.
        Role::UdpOpen if zone.challenge_dns && [6, 17].iter().all(|protocol| zone.serves(*protocol, dns::PORT)) => {
            return Answer::Challenge(HeaderBox::any().exact(Lane::Protocol, 17).port(
                Side::Destination,
                dns::PORT,
                dns::PORT,
            ));
        }
        _ => {}
    }
    // Nobody can put a datagram together whose first fragment never came.
    if !is_own_witness(role) && role != Role::LaterFragment {
        return Answer::Signature;
    }
    // Other protocols that inside offers are a service, and not to be dropped whole.
    if role == Role::OtherProtocol && zone.services.iter().any(|service| !matches!(service.protocol, 1 | 6 | 17 | 58)) {
        return Answer::Signature;
    }
    match relies_on_memory(role) {
        // Memory that explains nothing, or is young, may not drop.
        true if rare && !sees_inside => Answer::LimitRole,
        true if rare => Answer::DropRole,
        true => Answer::Signature,
        // Nothing was seen in peace (a start in mid-attack): what needs no memory may be dropped.
        false if rare || (peace.packets < ENOUGH_PACKETS && zone_peace.packets < ENOUGH_PACKETS) => Answer::DropRole,
        false => Answer::Signature,
    }
}

/// What a whole zone may receive per second of a role that is dropped at one of its targets, so that what moves on to another
/// target, or comes back, is dropped before that is alarmed; none: the zone has too much of the role in peace. `largest`: the
/// most of it that the zone has had in peace, packets per second.
pub fn zone_limit(role: Role, action: Action, zone_peace: &Peace, largest: f32) -> Option<f32> {
    let is_rare = zone_peace.packets >= ENOUGH_PACKETS && zone_peace.role(role) <= HARMLESS_SHARE * zone_peace.packets;
    (action == Action::Drop && is_rare).then_some((ZONE_FACTOR * largest).max(ZONE_LEAST_PPS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::witness::Forged;
    use levee_api::zone::{Mode, Service, Visibility};

    /// Where the return direction passes.
    fn answer(role: Role, zone: &Zone, peace: &Peace, zone_peace: &Peace) -> Answer {
        let is_rare = is_rare(role, peace, zone_peace);
        super::answer(role, &Target { zone, peace, zone_peace, is_rare, sees_inside: true, is_ipv6: false }, None)
    }

    fn zone(protocols: &[u8]) -> Zone {
        Zone {
            name: "web".to_owned(),
            prefixes: vec!["203.0.113.0/24".parse().unwrap()],
            mode: Mode::Enforce,
            services: protocols.iter().map(|protocol| Service { protocol: *protocol, ports: Vec::new() }).collect(),
            services_complete: false,
            visibility: Visibility::Auto,
            challenge: Challenge::default(),
            challenge_dns: false,
            link_capacity_bps: None,
            floors: Vec::new(),
            runbook: None,
        }
    }

    fn peace(packets: f32, role: Role, hits: f32) -> Peace {
        let mut peace = Peace::default();
        peace.packets = packets;
        peace.roles[role.index()] = hits;
        peace
    }

    #[test]
    fn what_no_conversation_explains_is_dropped_if_it_was_rare_in_peace() {
        let role = Role::OutOfState;
        let (quiet, none) = (peace(5_000.0, role, 2.0), Peace::default());
        assert_eq!(answer(role, &zone(&[6]), &quiet, &none), Answer::DropRole);
        assert_eq!(answer(role, &zone(&[6]), &peace(5_000.0, role, 50.0), &none), Answer::Signature);
        assert_eq!(answer(role, &zone(&[6]), &none, &quiet), Answer::DropRole, "the zone speaks for a quiet host");
    }

    #[test]
    fn fragments_without_their_first_are_dropped_unless_peace_had_many() {
        let role = Role::LaterFragment;
        let none = Peace::default();
        assert_eq!(answer(role, &zone(&[6]), &peace(5_000.0, role, 0.0), &none), Answer::DropRole);
        assert_eq!(answer(role, &zone(&[6]), &peace(5_000.0, role, 50.0), &none), Answer::Signature);
    }

    #[test]
    fn a_zone_remembers_only_what_it_has_next_to_nothing_of() {
        let (rare, common) = (peace(5_000.0, Role::OutOfState, 2.0), peace(5_000.0, Role::OutOfState, 50.0));
        let of = |action, peace: &Peace, largest| zone_limit(Role::OutOfState, action, peace, largest);
        assert_eq!(of(Action::Drop, &rare, 3.0), Some(ZONE_LEAST_PPS));
        assert_eq!(of(Action::Drop, &rare, 300.0), Some(600.0));
        assert_eq!(of(Action::Drop, &common, 3.0), None);
        assert_eq!(of(Action::Challenge { above_pps: 0 }, &rare, 3.0), None, "others have it, too");
        assert_eq!(of(Action::Drop, &Peace::default(), 0.0), None, "nothing was seen in peace");
    }

    #[test]
    fn young_memory_drops_nothing() {
        let none = Peace::default();
        assert_eq!(answer(Role::OutOfState, &zone(&[6]), &none, &none), Answer::Signature);
        assert_eq!(answer(Role::OtherProtocol, &zone(&[6]), &none, &none), Answer::DropRole);
    }

    #[test]
    fn a_tunnel_that_inside_offers_is_not_dropped_whole() {
        let quiet = peace(5_000.0, Role::OtherProtocol, 0.0);
        assert_eq!(answer(Role::OtherProtocol, &zone(&[6, 47]), &quiet, &quiet), Answer::Signature);
    }

    #[test]
    fn roles_of_newcomers_are_asked_or_need_a_signature() {
        let quiet = peace(5_000.0, Role::Syn, 0.0);
        let unasked = Zone { challenge: Challenge::Off, ..zone(&[6]) };
        for role in [Role::Syn, Role::UdpOpen, Role::Request, Role::IcmpOther] {
            assert_eq!(answer(role, &unasked, &quiet, &quiet), Answer::Signature, "{role}");
        }
        assert_eq!(answer(Role::Syn, &zone(&[6]), &quiet, &quiet), Answer::Challenge(HeaderBox::any()));
        for (asks, protocols) in [(false, &[6, 17][..]), (true, &[17])] {
            let zone = Zone { challenge_dns: asks, ..zone(protocols) };
            assert_eq!(answer(Role::UdpOpen, &zone, &quiet, &quiet), Answer::Signature, "not over TCP");
        }
        let dns = Zone { challenge_dns: true, ..zone(&[6, 17]) };
        assert!(matches!(answer(Role::UdpOpen, &dns, &quiet, &quiet), Answer::Challenge(on) if !on.is_any()));
    }

    #[test]
    fn where_the_return_direction_is_not_seen_what_was_rare_is_limited() {
        let (zone, quiet) = (zone(&[6]), peace(5_000.0, Role::UdpUnserved, 0.0));
        let (peace, zone_peace) = (&quiet, &quiet);
        let target = Target { zone: &zone, peace, zone_peace, is_rare: true, sees_inside: false, is_ipv6: false };
        assert_eq!(super::answer(Role::UdpUnserved, &target, None), Answer::LimitRole);
        assert_eq!(super::answer(Role::OutOfState, &Target { is_rare: false, ..target }, None), Answer::Signature);
    }

    #[test]
    fn replies_that_nobody_asked_for_are_dropped_and_requests_beside_them_are_not() {
        let (zone, quiet) = (zone(&[6]), Peace::default());
        let (peace, zone_peace) = (&quiet, &quiet);
        let target = Target { zone: &zone, peace, zone_peace, is_rare: false, sees_inside: true, is_ipv6: true };
        let witness = Witness::Unasked(Forged { count: 90, of: 100, unroutable: 0 });
        let Answer::DropOnly(replies) = super::answer(Role::IcmpOther, &target, Some(&witness)) else { panic!() };
        assert_eq!(replies, HeaderBox::any().exact(Lane::Protocol, 58).exact(Lane::SrcPort, 129));
        let witness = Witness::Insistent { packets: 90.0, of: 100.0 };
        assert_eq!(super::answer(Role::IcmpOther, &target, Some(&witness)), Answer::LimitPings(PINGS));
    }
}
