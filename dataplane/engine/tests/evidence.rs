//! What is done without the return direction, after a start in the middle of an attack, and against ICMP: where roles alone prove
//! nothing.

#[cfg(test)]
#[expect(dead_code, reason = "shared with tests of the engine, which use more of it")]
mod traffic;

use levee_engine::detect::event::{Phase, What};
use levee_engine::packet::Direction::{Inbound, Outbound};
use levee_engine::verdict::Verdict;

use traffic::{SERVER, Site, TO_SERVER, Tcp, attacker, echo, syn, udp, zone};

const SECOND: u64 = 100;

/// A site in whose zone only the way in is seen, after 25 seconds of peace.
fn one_way() -> Site {
    let mut site = Site::new(&[zone()], 1);
    site.hears_inside = false;
    site.again(25 * SECOND);
    site
}

/// Packets of a flood over some ticks with peace around it, and how many of them went no further.
fn flood(site: &mut Site, ticks: u64, packets: impl Fn(u64) -> Vec<u8>) -> (usize, usize) {
    let (mut sent, mut stopped) = (0, 0);
    for tick in 0..ticks {
        site.peace();
        for n in 0..50 {
            let verdict = site.send(Inbound, &packets(tick * 50 + n));
            (sent, stopped) = (sent + 1, stopped + usize::from(verdict != Verdict::Forward));
        }
        site.tick();
    }
    (sent, stopped)
}

/// A segment of a tool: from anywhere, on no connection.
fn stray(n: u64) -> Vec<u8> {
    let (source, port) = attacker(n);
    Tcp { source, port, flags: "A", seq: 1, ack: 77, window: 512, ttl: 120, ..TO_SERVER }.frame(b"")
}

/// True when something was taken for an attack.
fn is_attacked(site: &Site) -> bool {
    site.told().iter().any(|what| matches!(what, What::Phase { to: Phase::Attack, .. }))
}

/// After a second nearly all of a flood is stopped, and no client has lost anything.
fn is_limited(mut site: Site, packets: impl Fn(u64) -> Vec<u8>) {
    flood(&mut site, SECOND, &packets);
    let (sent, stopped) = flood(&mut site, SECOND, |n| packets(n + 50 * SECOND));
    assert!(stopped * 100 >= sent * 97, "{stopped} of {sent} stopped; {:#?}", site.told());
    assert_eq!(site.lost_of_clients, 0);
}

#[test]
fn a_crowd_where_only_the_way_in_is_seen_is_no_attack() {
    let mut site = one_way();
    for tick in 0..10 * SECOND {
        (0..10).for_each(|n| site.converse(1_000 + tick * 10 + n));
        site.tick();
    }
    assert!(!is_attacked(&site), "{:#?}", site.told());
    assert_eq!((site.lost_of_clients, site.asked_of_clients), (0, 0));
}

#[test]
fn floods_where_only_the_way_in_is_seen_are_limited() {
    is_limited(one_way(), |n| syn(SERVER, n, 512));
    is_limited(one_way(), stray);
    is_limited(one_way(), |n| udp(SERVER, n, 9_999, 300));
}

#[test]
fn who_comes_again_beside_a_flood_is_no_part_of_it_where_only_the_way_in_is_seen() {
    let mut site = one_way();
    // An upload that nothing seen in peace looks like, and that is most of what a signature lets pass.
    let upload = Tcp { source: [192, 0, 2, 250], port: 49_402, flags: "A", ack: 1, window: 343, ..TO_SERVER };
    let (mut lost, mut stopped) = (0, 0);
    for tick in 0..3 * SECOND {
        site.peace();
        for n in 0..10 {
            let seq = u32::try_from(tick * 10 + n).unwrap() * 1_000;
            let verdict = site.send(Inbound, &Tcp { seq, ..upload }.frame(&[0x5a; 1_000]));
            lost += usize::from(verdict != Verdict::Forward);
        }
        for n in 0..50 {
            stopped += usize::from(site.send(Inbound, &stray(tick * 50 + n)) != Verdict::Forward);
        }
        site.tick();
    }
    assert!(stopped > 100 * 50, "{stopped} stopped; {:#?}", site.told());
    assert_eq!((lost, site.lost_of_clients), (0, 0), "{:#?}", site.told());
}

#[test]
fn a_start_in_the_middle_of_a_flood_ends_in_defence_although_nothing_was_learned() {
    let mut site = Site::new(&[zone()], 1);
    flood(&mut site, 5 * SECOND, stray);
    let (sent, stopped) = flood(&mut site, SECOND, |n| stray(n + 250 * SECOND));
    assert!(stopped * 100 >= sent * 97, "{stopped} of {sent} stopped; {:#?}", site.told());
    assert_eq!(site.lost_of_clients, 0);
}

#[test]
fn a_second_after_inside_has_fallen_silent_clients_lose_nothing_more() {
    let mut site = Site::learned(&[zone()]);
    site.hears_inside = false;
    let crowd = |site: &mut Site, ticks: u64| {
        for tick in 0..ticks {
            (0..10).for_each(|n| site.converse(1_000 + tick * 10 + n));
            site.tick();
        }
    };
    crowd(&mut site, 2 * SECOND);
    let (lost, asked) = (site.lost_of_clients, site.asked_of_clients);
    crowd(&mut site, 5 * SECOND);
    assert_eq!((site.lost_of_clients, site.asked_of_clients), (lost, asked), "{:#?}", site.told());
    assert_eq!(site.engine.detector.filters().count(), 0);
    assert!(site.engine.detector.zones().all(|(_, state)| !state.sees_inside));
}

#[test]
fn people_who_ping_are_no_flood_however_many() {
    let mut site = Site::learned(&[zone()]);
    let mut lost = 0;
    for tick in 0..5 * SECOND {
        site.peace();
        for n in (0..20).map(|n| tick % SECOND * 20 + n) {
            // Each program's own bytes, as many as programs send.
            let payload: Vec<u8> = (0..7).flat_map(|part| (n * 0x9e37_79b9 + part * n * n).to_be_bytes()).collect();
            let verdict = site.send(Inbound, &echo(attacker(n).0, SERVER, 8, &payload));
            lost += usize::from(verdict != Verdict::Forward);
        }
        site.tick();
    }
    assert_eq!((lost, is_attacked(&site)), (0, false), "{:#?}", site.told());
}

#[test]
fn echo_requests_of_sources_that_are_not_there_are_limited_without_a_signature() {
    let mut site = Site::learned(&[zone()]);
    // Like those of a usual program, but for its time: nothing in them repeats.
    let request = |n: u64| {
        let mixed = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let payload: Vec<u8> = (0..7).flat_map(|part| (mixed.rotate_left(part * 9) ^ n << 3).to_be_bytes()).collect();
        echo(attacker(n).0, SERVER, 8, &payload)
    };
    flood(&mut site, 2 * SECOND, request);
    let (sent, stopped) = flood(&mut site, SECOND, |n| request(n + 100 * SECOND));
    assert!(stopped * 100 >= sent * 97, "{stopped} of {sent} stopped; {:#?}", site.told());
}

#[test]
fn replies_that_nobody_asked_for_are_dropped_and_those_to_inside_are_not() {
    let mut site = Site::learned(&[zone()]);
    let asked = |n: u64| attacker(1_000_000 + n % 50).0;
    for round in 0..2 * SECOND {
        site.peace();
        let peer = asked(round);
        site.send(Outbound, &echo(SERVER, peer, 8, &[1; 56]));
        assert_eq!(site.send(Inbound, &echo(peer, SERVER, 0, &[1; 56])), Verdict::Forward);
        let dropped = (0..50)
            .filter(|n| site.send(Inbound, &echo(attacker(round * 50 + n).0, SERVER, 0, &[1; 56])) != Verdict::Forward);
        let dropped = dropped.count();
        assert!(round < 20 || dropped == 50, "{dropped} in tick {round}; {:#?}", site.told());
        site.tick();
    }
    assert_eq!(site.lost_of_clients, 0);
}
