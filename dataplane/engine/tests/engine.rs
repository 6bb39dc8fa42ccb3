//! The whole engine without I/O: packets made here, through the data path, with ticks by a virtual clock.

#[cfg(test)]
mod traffic;

use std::net::IpAddr;
use std::time::Duration;

use levee_api::filter::{Action, Filter, HeaderBox, Origin, Rule, Target};
use levee_api::lane::Lane;
use levee_api::role::{Role, RoleSet};
use levee_api::vector::Vector;
use levee_api::zone::{Mode, Visibility, Zone};
use levee_engine::detect::event::{Phase, What};
use levee_engine::detect::snapshot::{self, Learned};
use levee_engine::packet::Direction::{Inbound, Outbound};
use levee_engine::sample::Sample;
use levee_engine::time::Timestamp;
use levee_engine::verdict::{Reason, Verdict};

use traffic::{
    Client, MORE, SERVER, Site, V6_SERVER, ack, arp, fragment, fragments, icmp, icmp_error, syn, udp, udp6, zone,
};

const SECOND: u64 = 100;

/// Attack packets of a tick, and how many of them were dropped, over some ticks of peace with a flood in it.
fn flood(site: &mut Site, ticks: u64, mut packets: impl FnMut(u64) -> Vec<Vec<u8>>) -> (usize, usize) {
    let (mut sent, mut dropped) = (0, 0);
    for tick in 0..ticks {
        site.peace();
        let frames = packets(tick);
        sent += frames.len();
        dropped += frames.iter().filter(|frame| matches!(site.send(Inbound, frame), Verdict::Drop(_))).count();
        site.tick();
    }
    (sent, dropped)
}

/// After a quarter of a second nearly everything of a flood is dropped, and nothing of the clients at any time.
fn is_scrubbed(mut packets: impl FnMut(u64) -> Vec<Vec<u8>>) {
    let mut site = Site::learned(&[zone()]);
    flood(&mut site, 25, &mut packets);
    let (sent, dropped) = flood(&mut site, 100, |tick| packets(25 + tick));
    assert!(dropped * 100 >= sent * 97, "{dropped} of {sent} dropped; {:#?}", site.told());
    assert_eq!(site.lost_of_clients, 0);
}

#[test]
fn peace_is_untouched() {
    let site = Site::learned(&[zone()]);
    assert_eq!(site.lost_of_clients, 0);
    assert_eq!(site.engine.detector.filters().count(), 0);
    assert!(site.engine.detector.zones().all(|(_, state)| state.sees_inside));
}

#[test]
fn a_syn_flood_with_a_fixed_window_is_scrubbed() {
    is_scrubbed(|tick| (0..40).map(|n| syn(SERVER, tick * 40 + n, 512)).collect());
}

#[test]
fn nobody_is_challenged_any_more_once_a_signature_stops_the_flood() {
    let mut site = Site::learned(&[zone()]);
    let burst = |tick: u64| (0..40).map(|n| syn(SERVER, tick * 40 + n, 512)).collect::<Vec<_>>();
    flood(&mut site, 600, burst);
    let asked = site.asked_of_clients;
    let (sent, dropped) = flood(&mut site, 200, |tick| burst(600 + tick));
    assert_eq!(site.asked_of_clients, asked);
    assert!(dropped * 100 >= sent * 99, "{dropped} of {sent} dropped");
}

#[test]
fn datagrams_to_a_port_that_is_not_served_are_scrubbed() {
    is_scrubbed(|tick| (0..40).map(|n| udp(SERVER, tick * 40 + n, 9_999, 300)).collect());
}

#[test]
fn acknowledgements_of_nothing_are_scrubbed() {
    is_scrubbed(|tick| (0..40).map(|n| ack(SERVER, tick * 40 + n)).collect());
}

#[test]
fn acknowledgements_of_nothing_new_inside_connections_are_scrubbed() {
    let mut site = Site::learned(&[zone()]);
    let connect = |n| {
        site.again(1);
        site.connect(n)
    };
    let clients: Vec<_> = (0..40).map(connect).collect();
    let mut all = |ticks| flood(&mut site, ticks, |_| clients.iter().map(|client| client.bare_ack()).collect());
    all(25);
    let (sent, dropped) = all(100);
    assert_eq!(dropped, sent);
    assert_eq!(site.lost_of_clients, 0);
    let told = site.told();
    let roles: Vec<Role> =
        told.iter().filter_map(|what| if let What::Phase { role, .. } = what { Some(*role) } else { None }).collect();
    assert!(roles.iter().all(|role| *role == Role::OutOfState), "{roles:?}");
}

#[test]
fn acknowledgements_of_what_inside_sends_are_no_flood() {
    let mut site = Site::learned(&[zone()]);
    let client = site.connect(1);
    site.send(Inbound, &client.data(b"GET /film HTTP/1.1\r\n\r\n"));
    for _ in 0..1_000 {
        // 100 Mbit/s, each segment acknowledged by itself.
        for _ in 0..80 {
            site.send(Outbound, &client.reply(1_460));
            assert_eq!(site.send(Inbound, &client.bare_ack()), Verdict::Forward);
        }
        site.tick();
    }
    let is_attack = |what: &What| matches!(what, What::Phase { to: Phase::Attack, .. });
    let of_others = |what: &What| matches!(what, What::Phase { role, .. } if *role != Role::Established);
    assert!(!site.told().iter().any(|what| is_attack(what) || of_others(what)), "{:#?}", site.told());
}

/// Lets clients send data, `each` packets in each tick, for some ticks; the server acknowledges all of it. How much of it was
/// dropped.
fn uploads(site: &mut Site, clients: &[Client], each: usize, ticks: u64) -> (usize, usize) {
    let (mut sent, mut dropped) = (0, 0);
    for _ in 0..ticks {
        site.peace();
        for client in clients.iter().flat_map(|client| std::iter::repeat_n(client, each)) {
            sent += 1;
            dropped += usize::from(site.send(Inbound, &client.data(&[0x5a; 1_000])) != Verdict::Forward);
            site.send(Outbound, &client.reply(0));
        }
        site.tick();
    }
    (sent, dropped)
}

fn connected(site: &mut Site, clients: u64) -> Vec<Client> {
    let connect = |n| {
        site.again(1);
        site.connect(n)
    };
    (0..clients).map(connect).collect()
}

#[test]
fn data_inside_connections_is_limited_per_source_and_who_does_not_yield_is_blocked() {
    let mut site = Site::learned(&[zone()]);
    let clients = connected(&mut site, 40);
    uploads(&mut site, &clients, 10, SECOND);
    let (sent, dropped) = uploads(&mut site, &clients, 10, SECOND);
    assert!(dropped * 100 >= sent * 85, "{dropped} of {sent} dropped; {:#?}", site.told());
    uploads(&mut site, &clients, 10, 2 * SECOND);
    let (sent, dropped) = uploads(&mut site, &clients, 10, SECOND);
    assert_eq!(dropped, sent);
    assert_eq!(site.lost_of_clients, 0);
    let told = site.told();
    let is_named = |what: &What| matches!(what, What::Classified { role: Role::Established, vectors, .. } if vectors[0].vector == Vector::EstablishedFlood);
    assert!(told.iter().any(is_named), "{told:#?}");
}

#[test]
fn who_sends_less_when_it_loses_is_served() {
    let mut site = Site::learned(&[zone()]);
    let clients = connected(&mut site, 40);
    let (sent, dropped) = uploads(&mut site, &clients, 10, SECOND);
    assert!(dropped * 2 > sent, "{dropped} of {sent} dropped");
    uploads(&mut site, &clients, 0, SECOND);
    let (sent, dropped) = uploads(&mut site, &clients, 1, 5 * SECOND);
    assert_eq!((sent, dropped), (20_000, 0));
}

#[test]
fn a_few_that_send_as_much_as_a_link_takes_are_no_flood() {
    let mut site = Site::learned(&[zone()]);
    let clients = connected(&mut site, 3);
    let (sent, dropped) = uploads(&mut site, &clients, 100, 2 * SECOND);
    assert_eq!(dropped, 0, "of {sent}; {:#?}", site.told());
}

#[test]
fn bots_that_open_connections_and_do_not_use_them_are_blocked_and_nobody_else() {
    let mut site = Site::learned(&[zone()]);
    let mut opened = 0_u16;
    let mut strike = |site: &mut Site, ticks| {
        let (mut sent, mut passed) = (0, 0);
        for _ in 0..ticks {
            site.peace();
            for _ in 0..20 {
                opened += 1;
                let source = [198, 18, 1, u8::try_from(opened % 100).unwrap()];
                sent += 1;
                let client = site.connect_from(source, 1_024 + opened);
                passed += usize::from(site.send(Inbound, &client.bare_ack()) == Verdict::Forward);
            }
            site.tick();
        }
        (sent, passed)
    };
    strike(&mut site, SECOND);
    let (sent, passed) = strike(&mut site, SECOND);
    assert!(passed * 100 <= sent * 5, "{passed} of {sent} passed; {:#?}", site.told());
    assert_eq!((site.lost_of_clients, site.asked_of_clients), (0, 0));
    let told = site.told();
    let is_named = |what: &What| matches!(what, What::Classified { vectors, .. } if vectors[0].vector == Vector::TcpConnectionFlood);
    assert!(told.iter().any(is_named), "{told:#?}");
}

#[test]
fn bots_that_flood_with_requests_are_blocked_and_nobody_else() {
    let mut site = Site::learned(&[zone()]);
    let (mut sent, mut passed) = (0, 0);
    for tick in 0..600_u16 {
        site.peace();
        for bot in 0..8 {
            let source = [198, 18, octet(u64::from(tick % 5)), bot];
            let client = site.connect_from(source, 1_024 + tick * 8 + u16::from(bot));
            let request = [b"GET /search?q=".as_slice(), &tick.to_be_bytes()].concat();
            let verdict = site.send(Inbound, &client.data(&request));
            if tick >= 400 {
                (sent, passed) = (sent + 1, passed + usize::from(verdict == Verdict::Forward));
            }
        }
        site.tick();
    }
    assert!(passed * 100 <= sent, "{passed} of {sent} passed; {:#?}", site.told());
    assert_eq!(site.lost_of_clients, 0);
}

#[test]
fn an_icmp_flood_is_scrubbed() {
    is_scrubbed(|tick| (0..40).map(|n| icmp(SERVER, tick * 40 + n)).collect());
}

#[test]
fn a_carpet_over_a_24_is_scrubbed() {
    // 20 packets per second and host: far below the threshold of any host.
    let all =
        |tick: u64| (0..51).map(move |n| udp([203, 0, 113, octet((tick * 51 + n) % 256)], tick * 51 + n, 9_999, 300));
    let mut site = Site::learned(&[zone()]);
    flood(&mut site, 25, |tick| all(tick).collect());
    let (sent, dropped) = flood(&mut site, 100, |tick| all(25 + tick).collect());
    assert!(dropped * 100 >= sent * 97, "{dropped} of {sent} dropped; {:#?}", site.told());
    assert_eq!(site.lost_of_clients, 0);
}

#[test]
fn an_ipv6_host_is_protected_also_after_long_silence() {
    let mut site = Site::learned(&[zone()]);
    let calm = site.now;
    site.send(Inbound, &udp6(V6_SERVER, 1, 9_999));
    // An hour in ticks of a second: the host is forgotten meanwhile, and another has its place in the tree.
    for _ in 0..3_600 {
        site.now = site.now + Duration::from_secs(1);
        site.engine.tick(site.now);
    }
    for other in 0..50 {
        site.send(Inbound, &udp6(0x1000 + other, 2, 9_999));
    }
    assert!(site.now > calm);
    site.again(10 * SECOND);
    let burst = |tick: u64| (0..40).map(|n| udp6(V6_SERVER, tick * 40 + n, 9_999)).collect::<Vec<_>>();
    flood(&mut site, 25, burst);
    let (sent, dropped) = flood(&mut site, 50, |tick| burst(25 + tick));
    assert!(dropped * 100 >= sent * 97, "{dropped} of {sent} dropped; {:#?}", site.told());
    let host = IpAddr::V6(V6_SERVER.into());
    assert!(site.told().iter().any(|what| matches!(what, What::Phase { target, to: Phase::Attack, .. }
        if target.prefix.is_some_and(|on| on.is_host() && on.contains(host)))));
}

#[test]
fn a_pulse_that_comes_back_on_another_host_is_dropped_at_once() {
    let mut site = Site::learned(&[zone()]);
    flood(&mut site, 100, |tick| (0..40).map(|n| syn(SERVER, tick * 40 + n, 512)).collect());
    flood(&mut site, 5 * SECOND, |_| Vec::new());
    let other = [203, 0, 113, 77];
    let (sent, dropped) = flood(&mut site, 10, |tick| (0..200).map(|n| syn(other, tick * 200 + n, 512)).collect());
    assert!(dropped * 10 >= sent * 9, "{dropped} of {sent} dropped within 100 ms");
    assert_eq!(site.lost_of_clients, 0);
}

#[test]
fn what_nobody_asked_for_is_dropped_at_the_next_host_before_that_is_alarmed() {
    let mut site = Site::learned(&[zone()]);
    flood(&mut site, 10, |tick| (0..20).map(|n| ack(SERVER, tick * 20 + n)).collect());
    for host in 20..60 {
        let to = [203, 0, 113, host];
        let (sent, dropped) = flood(&mut site, 10, |tick| (0..20).map(|n| ack(to, tick * 20 + n)).collect());
        assert!(dropped * 10 >= sent * 9, "{dropped} of {sent} to {host}; {:#?}", site.told());
    }
    assert_eq!(site.lost_of_clients, 0);
}

#[test]
fn only_the_alarmed_target_is_sampled_in_full() {
    let mut site = Site::learned(&[zone()]);
    flood(&mut site, 25, |tick| (0..40).map(|n| syn(SERVER, tick * 40 + n, 512)).collect());
    for n in 0..600 {
        site.send(Inbound, &syn([203, 0, 113, octet(100 + n % 100)], n, 512));
    }
    for n in 0..300 {
        site.send(Inbound, &syn(SERVER, 10_000 + n, 512));
    }
    let sent_at = site.now;
    site.tick();
    let (_, state) = site.engine.detector.zones().next().unwrap();
    let samples = state.recent[Role::Syn.index()].iter().filter(|sample| sample.at == sent_at);
    let is_target = |sample: &&Sample| sample.lanes.destination()[7] == u16::from_be_bytes([SERVER[2], SERVER[3]]);
    let (all, target) = (samples.clone().count(), samples.filter(is_target).count());
    assert_eq!(target, 300);
    assert!((1..=256).contains(&(all - target)), "{} samples of hosts that nobody attacks", all - target);
}

#[test]
fn thousands_of_attacked_hosts_do_not_hide_another() {
    let prefixes = vec!["198.18.0.0/19".parse().unwrap()];
    let wide = Zone { name: "wide".to_owned(), prefixes, visibility: Visibility::Both, ..zone() };
    let mut site = Site::learned(&[zone(), wide]);
    let carpet = |tick: u64| {
        let hosts = (0..3_000).map(|host| [198, 18, octet(host / 256), octet(host % 256)]);
        hosts.flat_map(move |host| (0..8).map(move |n| udp(host, tick * 8 + n, 9_999, 300))).collect::<Vec<_>>()
    };
    let one = |tick: u64| (0..40).map(move |n| syn(SERVER, tick * 40 + n, 512));
    flood(&mut site, 10, carpet);
    flood(&mut site, 25, |tick| carpet(10 + tick).into_iter().chain(one(tick)).collect());
    let is_attacked = |on: &str| {
        let on = on.parse().unwrap();
        let attack =
            |what: &What| matches!(what, What::Phase { target, to: Phase::Attack, .. } if target.prefix == Some(on));
        site.told().iter().any(attack)
    };
    assert!(is_attacked("203.0.113.10/32"), "{:#?}", site.told());
    assert!(is_attacked("198.18.0.0/22"), "thousands of hosts are one target");
    assert_eq!(site.lost_of_clients, 0);
}

#[test]
fn a_host_below_a_prefix_in_hold_is_still_defended() {
    let mut site = Site::learned(&[zone()]);
    let carpet = |tick: u64| (0..51).map(|n| ack([203, 0, 113, octet((tick * 51 + n) % 256)], tick * 51 + n)).collect();
    flood(&mut site, 100, carpet);
    flood(&mut site, 3 * SECOND, |_| Vec::new());
    let prefix = "203.0.113.0/24".parse().unwrap();
    let node = site.engine.detector.nodes().find(&prefix).unwrap();
    assert_eq!(site.engine.detector.nodes().get(node).unwrap().phase(Role::OutOfState), Phase::Hold);
    // Above the threshold of the host, below that of the prefix.
    let at_one = |tick: u64| (0..2).map(|n| ack(SERVER, 10_000 + tick * 2 + n)).collect();
    flood(&mut site, 50, at_one);
    let host = IpAddr::from(SERVER);
    let defended = site.told().into_iter().any(|what| {
        matches!(what, What::Phase { target, role: Role::OutOfState, to: Phase::Attack, .. }
            if target.prefix.is_some_and(|on| on.is_host() && on.contains(host)))
    });
    assert!(defended, "{:#?}", site.told());
}

#[test]
fn what_arrives_at_hosts_during_a_carpet_is_not_learned() {
    let mut site = Site::learned(&[zone()]);
    let largest = |site: &Site| {
        let id = site.engine.detector.nodes().find(&"203.0.113.77/32".parse().unwrap());
        id.and_then(|id| site.engine.detector.nodes().get(id)?.track(Role::OutOfState))
            .map_or(0.0, |t| t.baseline.largest)
    };
    let carpet = |tick: u64| (0..256).map(|n| ack([203, 0, 113, octet(n)], tick * 256 + n)).collect();
    flood(&mut site, 200, carpet);
    assert!(largest(&site) < 50.0, "{} packets per second taken for peace", largest(&site));
}

#[test]
fn monitor_drops_nothing_and_tells_what_it_would_have_done() {
    let mut watched = zone();
    watched.mode = Mode::Monitor;
    let mut site = Site::learned(&[watched]);
    let (_, dropped) = flood(&mut site, 50, |tick| (0..40).map(|n| ack(SERVER, tick * 40 + n)).collect());
    assert_eq!(dropped, 0);
    let mut land = syn(SERVER, 1, 512);
    let (source, destination) = land.split_at_mut(30);
    source[26..30].copy_from_slice(&destination[..4]);
    assert_eq!(site.send(Inbound, &land), Verdict::Forward, "malformed too");
    assert!(site.told().iter().any(|what| matches!(what, What::FilterInstalled { simulated: true, .. })));
    assert!(!site.told().iter().any(|what| matches!(what, What::FilterInstalled { simulated: false, .. })));
}

#[test]
fn where_the_return_direction_is_not_seen_nothing_that_relies_on_memory_drops() {
    let mut site = Site::new(&[zone()], 1);
    for tick in 0..3 * SECOND {
        for n in 0..40 {
            assert_eq!(site.send(Inbound, &ack(SERVER, tick % 50 * 40 + n)), Verdict::Forward);
            assert_eq!(site.send(Inbound, &udp(SERVER, n, 9_999, 100)), Verdict::Forward);
        }
        site.tick();
    }
}

#[test]
fn a_start_in_the_middle_of_a_syn_flood_ends_in_defence() {
    let mut site = Site::new(&[zone()], 1);
    let burst = |tick: u64| (0..40).map(|n| syn(SERVER, tick * 40 + n, 512)).collect::<Vec<_>>();
    flood(&mut site, 20 * SECOND, burst);
    let (sent, dropped) = flood(&mut site, 50, |tick| burst(2_000 + tick));
    assert!(dropped * 10 >= sent * 9, "{dropped} of {sent} dropped; {:#?}", site.told());
    assert_eq!(site.lost_of_clients, 0);
}

#[test]
fn new_zones_in_mid_attack_do_not_end_the_defence() {
    let mut site = Site::learned(&[zone()]);
    let burst = |tick: u64| (0..40).map(|n| ack(SERVER, tick * 40 + n)).collect::<Vec<_>>();
    flood(&mut site, 50, burst);
    let mut other = zone();
    other.name = "mail".to_owned();
    other.prefixes = vec!["198.51.100.0/24".parse().unwrap()];
    site.engine.replace_zones(&[other, zone()], &[], site.now).unwrap();
    // Longer than a filter lives without evidence.
    let (sent, dropped) = flood(&mut site, 70 * SECOND, burst);
    assert!(dropped * 100 >= sent * 99, "{dropped} of {sent} dropped; {:#?}", site.told());
    assert_eq!(site.lost_of_clients, 0);
}

#[test]
fn a_protected_host_loses_nothing_to_any_filter() {
    let mut site = Site::with(&[zone()], &["203.0.113.10/32".parse().unwrap()], 1);
    site.again(25 * SECOND);
    let (_, dropped) = flood(&mut site, 100, |tick| (0..40).map(|n| ack(SERVER, tick * 40 + n)).collect());
    assert_eq!(dropped, 0);
}

#[test]
fn a_filter_of_the_control_plane_ends_at_its_deadline_although_nobody_ticks() {
    let mut site = Site::new(&[zone()], 1);
    let deadline = site.now + Duration::from_secs(5);
    let filter = Filter {
        id: 0,
        target: Target { zone: "web".to_owned(), prefix: None },
        roles: RoleSet::FILTERABLE,
        rule: Rule::of(HeaderBox::any().exact(Lane::DstPort, 9_999)),
        action: Action::Drop,
        deadline,
        origin: Origin::ControlPlane { owner: "incident-7".to_owned() },
        witness: String::new(),
    };
    site.engine.detector.measures.install_external(filter).unwrap();
    site.engine.settle(site.now);
    let packet = udp(SERVER, 1, 9_999, 100);
    assert_eq!(site.send(Inbound, &packet), Verdict::Drop(Reason::Filter));
    site.now = deadline.before(Duration::from_nanos(1));
    assert_eq!(site.send(Inbound, &packet), Verdict::Drop(Reason::Filter));
    site.now = deadline;
    assert_eq!(site.send(Inbound, &packet), Verdict::Forward);
}

#[test]
fn a_filter_that_no_list_has_room_for_is_told_once() {
    let mut site = Site::new(&[zone()], 1);
    for port in 0..65 {
        let filter = Filter {
            id: 0,
            target: Target { zone: "web".to_owned(), prefix: None },
            roles: RoleSet::FILTERABLE,
            rule: Rule::of(HeaderBox::any().exact(Lane::DstPort, port)),
            action: Action::Drop,
            deadline: Timestamp::NEVER,
            origin: Origin::ControlPlane { owner: "incident-7".to_owned() },
            witness: String::new(),
        };
        site.engine.detector.measures.install_external(filter).unwrap();
    }
    let told = |site: &mut Site| {
        site.engine.catch_up(site.now);
        site.engine.catch_up(site.now);
        let events = site.engine.detector.take_events().into_iter();
        events.filter(|event| matches!(event.what, What::FilterLeftOut(_))).count()
    };
    assert_eq!((told(&mut site), told(&mut site)), (1, 0));
    assert_eq!(site.engine.detector.measures.table.left_out_count(), 1);
}

#[test]
fn fragments_follow_their_first_in_one_burst_and_in_many() {
    for burst in [1, 64] {
        let mut site = Site::learned(&[zone()]);
        flood(&mut site, 50, |tick| (0..40).map(|n| udp(SERVER, tick * 40 + n, 9_999, 300)).collect());
        let frames: Vec<_> = (0..20).flat_map(|n| fragments(SERVER, 50_000 + n, 9_999)).collect();
        let verdicts = site.send_all(Inbound, &frames, burst);
        let pairs = verdicts.chunks(2).all(|pair| pair[0] == pair[1]);
        assert!(pairs && verdicts.contains(&Verdict::Drop(Reason::Filter)), "in bursts of {burst}: {verdicts:?}");
    }
}

#[test]
fn a_fragment_that_overlaps_another_is_malformed_and_so_is_the_rest_of_its_datagram() {
    let overlap = Verdict::Drop(Reason::FragmentOverlap);
    let part = |n, control| fragment(SERVER, n, 443, control);
    for burst in [1, 64] {
        let mut site = Site::learned(&[zone()]);
        let frames = [part(1, MORE), part(1, MORE | 2), part(1, 3), part(2, MORE), part(2, MORE | 3), part(2, 6)];
        let verdicts = site.send_all(Inbound, &frames, burst);
        assert_eq!(verdicts[1..3], [overlap; 2], "in bursts of {burst}");
        assert!([0, 3, 4, 5].iter().all(|at| verdicts[*at] == Verdict::Forward), "in bursts of {burst}: {verdicts:?}");
    }
    let mut watched = zone();
    watched.mode = Mode::Monitor;
    let mut site = Site::learned(&[watched]);
    let verdicts = site.send_all(Inbound, &[part(1, MORE), part(1, MORE | 2)], 64);
    assert_eq!(verdicts, [Verdict::Forward; 2], "monitor drops nothing");
}

#[test]
fn verdicts_do_not_depend_on_burst_boundaries() {
    let run = |burst| {
        let mut site = Site::learned(&[zone()]);
        let mut verdicts = Vec::new();
        for tick in 0..60_u64 {
            let mut frames = Vec::new();
            for n in tick * 10..tick * 10 + 10 {
                frames.extend([ack(SERVER, n), syn(SERVER, n, 512), udp(SERVER, n, 9_999, 100), icmp(SERVER, n)]);
                frames.extend(fragments([203, 0, 113, 20], n, 9_998));
                // Again, and again with another border.
                frames.extend(fragments([203, 0, 113, 20], n / 2, 9_998));
                frames.push(fragment([203, 0, 113, 20], n / 3, 9_998, 1 + MORE));
                frames.extend([udp6(V6_SERVER, n, 9_999), arp()]);
            }
            verdicts.extend(site.send_all(Inbound, &frames, burst));
            site.tick();
        }
        verdicts
    };
    let single = run(1);
    assert!(single.iter().any(|verdict| *verdict != Verdict::Forward));
    assert_eq!(run(64), single);
    assert_eq!(run(7), single);
}

#[test]
fn two_workers_detect_like_one() {
    let run = |workers| {
        let mut site = Site::new(&[zone()], workers);
        site.again(25 * SECOND);
        let (sent, dropped) = flood(&mut site, 100, |tick| (0..40).map(|n| ack(SERVER, tick * 40 + n)).collect());
        let begun = site.events.iter().find_map(|event| match &event.what {
            What::Phase { role: Role::OutOfState, to: Phase::Attack, .. } => Some(event.at),
            _ => None,
        });
        (sent, dropped, begun, site.lost_of_clients)
    };
    assert_eq!(run(2), run(1));
}

#[test]
fn an_icmp_error_flood_to_one_host_stops_no_arp_and_no_other_host() {
    let mut site = Site::new(&[zone()], 1);
    let first = [203, 0, 113, 0];
    let flooded = (0..5_000).map(|n| site.send(Inbound, &icmp_error(first, n))).filter(|v| *v != Verdict::Forward);
    assert!(flooded.count() > 2_000);
    assert_eq!(site.send(Inbound, &arp()), Verdict::Forward);
    assert_eq!(site.send(Inbound, &icmp_error([203, 0, 113, 1], 1)), Verdict::Forward);
}

#[test]
fn the_limit_of_what_is_not_ip_is_the_same_with_any_number_of_workers() {
    // All of it meets the first worker.
    let passed = |workers| {
        let mut site = Site::new(&[zone()], workers);
        (0..12_000).filter(|_| site.send(Inbound, &arp()) == Verdict::Forward).count()
    };
    assert_eq!(passed(16), 10_000);
    assert_eq!(passed(1), 10_000);
}

#[test]
fn what_was_learned_survives_a_restart_and_damage_changes_nothing() {
    let mut old = Site::learned(&[zone()]);
    old.tick();
    let bytes = snapshot::write(&old.engine.detector);
    for at in 0..bytes.len() {
        // Every byte of what leads and ends the file, and some between: a checksum covers them alike.
        if at > 64 && at + 64 < bytes.len() && at % 997 != 0 {
            continue;
        }
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        assert!(Learned::open(&damaged).is_err(), "changed at {at}");
        assert!(Learned::open(&bytes[..at]).is_err(), "cut at {at}");
    }
    let mut new = Site::new(&[zone()], 1);
    Learned::open(&bytes).unwrap().give(&mut new.engine.detector, new.now);
    let (before, after) = (Learned::open(&bytes).unwrap(), snapshot::write(&new.engine.detector));
    let after = Learned::open(&after).unwrap();
    assert_eq!(after.targets, before.targets);
    assert_eq!(format!("{:?}", after.zones), format!("{:?}", before.zones));
    assert_eq!(Learned::open(&before.to_bytes()).unwrap().targets, before.targets);
}

#[test]
fn rates_and_thresholds_in_events_are_finite_whatever_the_ticks() {
    let mut site = Site::learned(&[zone()]);
    for (round, gap) in
        [0_u64, 1, 10_000_000, 3_600_000_000_000, 0, 500_000_000].into_iter().cycle().take(300).enumerate()
    {
        site.now = Timestamp(site.now.0 + gap);
        for n in 0..200 {
            site.send(Inbound, &ack(SERVER, u64::try_from(round).unwrap() * 200 + n));
        }
        site.engine.tick(site.now);
        site.events.extend(site.engine.detector.take_events());
    }
    for what in site.told() {
        match what {
            What::Phase { rate_pps, threshold_pps, .. } => assert!(rate_pps.is_finite() && threshold_pps.is_finite()),
            What::Rates { pps, bps, dropped_pps, .. } => {
                assert!(pps.is_finite() && bps.is_finite() && dropped_pps.is_finite())
            }
            _ => {}
        }
    }
}

#[test]
fn inbound_only_zones_are_told_so() {
    let mut one_way = zone();
    one_way.visibility = Visibility::Inbound;
    let site = Site::learned(&[one_way]);
    assert!(site.engine.detector.zones().all(|(_, state)| !state.sees_inside));
}

#[test]
fn outbound_is_never_dropped() {
    let mut site = Site::learned(&[zone()]);
    flood(&mut site, 50, |tick| (0..40).map(|n| ack(SERVER, tick * 40 + n)).collect());
    assert!((0..500).all(|n| site.send(Outbound, &traffic::answer(SERVER, n)) == Verdict::Forward));
}

fn octet(n: u64) -> u8 {
    n.to_le_bytes()[0]
}
