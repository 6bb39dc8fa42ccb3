//! What is in the capture ring when targets are attacked: every packet of theirs, with what became of it.

#[cfg(test)]
#[expect(dead_code, reason = "shared with tests of the engine, which use more of it")]
mod traffic;

use std::net::IpAddr;

use levee_api::prefix::Prefix;
use levee_api::role::Role;
use levee_api::zone::{Mode, Zone};
use levee_engine::capture::{Consumer, Fate, RECORD_BYTES, Record, Settings, Tap};
use levee_engine::detect::event::What;
use levee_engine::packet::Direction::{self, Inbound, Outbound};
use levee_engine::verdict::{Reason, Verdict};

use traffic::{SERVER, Site, V6_SERVER, answer, arp, icmp_error, syn, udp, udp6, zone};

const NEIGHBOUR: [u8; 4] = [203, 0, 113, 11];

/// A site that has learned, with a tap that takes nothing in peace.
fn tapped(zones: &[Zone]) -> (Site, Consumer) {
    let mut site = Site::learned(zones);
    let (tap, ring) = Tap::new(&Settings {
        ring_bytes: RECORD_BYTES as u64 * (1 << 16),
        peace_one_in: u32::MAX,
        bytes_per_second: 1 << 30,
    });
    site.paths[0].attach(tap);
    // The first packet of all has its turn.
    site.send(Inbound, &arp());
    (site, ring)
}

/// The records from a number on.
fn records(ring: &Consumer, from: u64) -> Vec<Record> {
    let mut words = [0; _];
    (from..ring.head())
        .filter_map(|number| {
            assert!(ring.read(number, &mut words));
            Record::decode(&words)
        })
        .collect()
}

/// A SYN flood until filters drop it.
fn attack(site: &mut Site, mut packet: impl FnMut(u64) -> Vec<u8>) {
    for tick in 0..60 {
        site.peace();
        for n in 0..40 {
            site.send(Inbound, &packet(tick * 40 + n));
        }
        site.tick();
    }
}

#[test]
fn of_an_attacked_host_every_packet_is_captured_and_of_its_neighbours_none() {
    let (mut site, ring) = tapped(&[zone()]);
    site.again(100);
    assert_eq!(ring.head(), 1, "in peace nothing, but for the first");
    attack(&mut site, |n| syn(SERVER, n, 512));
    let filter = site.told().into_iter().rev().find_map(|what| match what {
        What::FilterInstalled { filter, counter, .. } if filter.roles.contains(Role::Syn) => Some((filter.id, counter)),
        _ => None,
    });
    let before = ring.head();
    let sent: Vec<(Direction, Vec<u8>)> = (0..200)
        .flat_map(|n| {
            [(Inbound, syn(SERVER, 50_000 + n, 512)), (Outbound, answer(SERVER, n)), (Inbound, icmp_error(SERVER, n))]
        })
        .collect();
    let mut verdicts = Vec::new();
    for (n, (direction, frame)) in (0..).zip(&sent) {
        verdicts.push(site.send(*direction, frame));
        site.send(Inbound, &syn(NEIGHBOUR, 90_000 + n, 512));
        site.send(Outbound, &answer(NEIGHBOUR, n));
        site.send(Inbound, &arp());
        // 600 packets at once would be more than the budget of a moment.
        site.now = site.now + std::time::Duration::from_micros(10);
    }
    let records = records(&ring, before);
    assert_eq!(records.len(), sent.len());
    for ((record, (direction, frame)), verdict) in records.iter().zip(&sent).zip(verdicts) {
        assert_eq!((record.bytes(), record.direction), (&frame[..frame.len().min(192)], *direction));
        match (verdict, record.fate) {
            (Verdict::Forward, Fate::Passed) => {}
            (Verdict::Drop(reason), Fate::Dropped(told)) => assert_eq!(reason, told),
            other => panic!("{other:?}"),
        }
        assert_eq!(record.role.is_some(), *direction == Inbound);
    }
    let dropped: Vec<_> = records.iter().filter(|record| record.fate == Fate::Dropped(Reason::Filter)).collect();
    assert!(dropped.len() >= 190, "{}", dropped.len());
    let (_, counter) = filter.expect("a filter");
    assert!(dropped.iter().all(|record| record.role == Some(Role::Syn)));
    assert!(dropped.iter().any(|record| record.filter == Some(counter)), "{counter}: {:?}", dropped[0]);
    // Long after the end it is peace again.
    site.again(12_000);
    let before = ring.head();
    site.send(Inbound, &syn(SERVER, 1, 512));
    assert_eq!(ring.head(), before);
}

#[test]
fn what_would_have_been_dropped_in_a_monitored_zone_says_so() {
    let (mut site, ring) = tapped(&[Zone { mode: Mode::Monitor, ..zone() }]);
    attack(&mut site, |n| syn(SERVER, n, 512));
    let before = ring.head();
    assert_eq!(site.send(Inbound, &syn(SERVER, 70_000, 512)), Verdict::Forward);
    let [record] = &records(&ring, before)[..] else { panic!("one record") };
    assert_eq!(record.fate, Fate::WouldDrop(Reason::Filter));
}

#[test]
fn of_a_carpet_every_host_is_captured_and_of_ipv6_the_zone() {
    let (mut site, ring) = tapped(&[zone()]);
    attack(&mut site, |n| udp([203, 0, 113, u8::try_from(n % 256).unwrap()], n, 9_999, 300));
    let before = ring.head();
    for host in [0, 77, 255] {
        site.send(Outbound, &answer([203, 0, 113, host], 5));
    }
    site.send(Outbound, &answer([198, 51, 100, 7], 5));
    assert_eq!(records(&ring, before).len(), 3);

    let (mut site, ring) = tapped(&[zone()]);
    attack(&mut site, |n| udp6(V6_SERVER, n, 9_999));
    let before = ring.head();
    site.send(Inbound, &udp6(V6_SERVER, 1, 9_999));
    site.send(Inbound, &udp6(V6_SERVER + 1, 1, 9_999));
    site.send(Inbound, &syn(SERVER, 1, 512));
    assert_eq!(records(&ring, before).len(), 2);
}

#[test]
fn targets_stay_alarmed_where_they_are_when_the_zones_change() {
    let (mut site, ring) = tapped(&[zone()]);
    attack(&mut site, |n| syn(SERVER, n, 512));
    // Another zone before it moves all its slots.
    let other = Zone { name: "mail".into(), prefixes: vec![Prefix::host(IpAddr::from([192, 0, 2, 200]))], ..zone() };
    site.engine.replace_zones(&[other, zone()], &[], site.now).unwrap();
    let before = ring.head();
    for n in 0..10 {
        site.send(Inbound, &syn(SERVER, 80_000 + n, 512));
        site.send(Inbound, &syn(NEIGHBOUR, 80_000 + n, 512));
        site.send(Inbound, &syn([192, 0, 2, 200], 80_000 + n, 512));
    }
    assert_eq!(records(&ring, before).len(), 10);
}
