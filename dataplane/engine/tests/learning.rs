//! What the engine learns over minutes and days of virtual time, and what it does not.

#![expect(clippy::unwrap_used, reason = "a test")]

#[cfg(test)]
#[expect(dead_code, reason = "shared with tests of the engine, which use more of it")]
mod traffic;

use std::time::Duration;

use levee_api::role::Role;
use levee_engine::detect::event::What;
use levee_engine::detect::snapshot::{self, Learned};
use levee_engine::detect::track::Lesson;
use levee_engine::packet::Direction::Inbound;
use levee_engine::time::Timestamp;

use traffic::{SERVER, Site, udp, zone};

const MINUTE: u64 = 6_000;

fn filters(site: &Site) -> usize {
    site.told().iter().filter(|what| matches!(what, What::FilterInstalled { .. })).count()
}

/// Threshold of a role at the server.
fn threshold(site: &Site, role: Role) -> f32 {
    let detector = &site.engine.detector;
    let id = detector.nodes().find(&std::net::IpAddr::from(SERVER).into()).unwrap();
    detector.threshold_of(detector.nodes().get(id).unwrap(), role)
}

#[test]
fn a_host_at_ten_times_every_floor_from_its_first_minute_is_learned_without_a_mitigation() {
    let mut busy = zone();
    // Clients come twenty times a second.
    busy.floors = [Role::Syn, Role::Request, Role::UdpOpen].map(|role| (role, 2)).to_vec();
    let mut site = Site::new(&[busy], 1);
    site.again(20 * MINUTE);
    let merged = |what: &What| matches!(what, What::Learned { lesson: Lesson::Merged, .. });
    assert!(site.told().iter().any(merged), "{:#?}", site.told());
    assert!(site.engine.detector.nodes().iter().all(|(_, node)| node.is_calm()), "{:#?}", site.told());
    assert_eq!((filters(&site), site.lost_of_clients), (0, 0));
    assert!(threshold(&site, Role::UdpOpen) > 40.0);
}

#[test]
fn a_clock_that_jumps_by_days_teaches_nothing_wrong() {
    let mut site = Site::new(&[zone()], 1);
    site.again(11 * MINUTE);
    let before = [Role::Syn, Role::UdpOpen].map(|role| threshold(&site, role));
    for days in [30, 1, 365] {
        site.now = site.now + Duration::from_secs(days * 24 * 3_600);
        site.again(50);
    }
    // Back: what is earlier than the last tick is no time at all.
    let latest = site.now;
    site.now = latest.before(Duration::from_secs(5 * 24 * 3_600));
    site.again(50);
    site.now = latest;
    site.again(MINUTE / 2);
    assert_eq!([Role::Syn, Role::UdpOpen].map(|role| threshold(&site, role)), before);
    assert_eq!((filters(&site), site.lost_of_clients), (0, 0));
}

#[test]
fn hours_without_a_packet_and_one_packet_after_them_are_no_attack() {
    let mut site = Site::new(&[zone()], 1);
    for _ in 0..3_600 {
        site.now = site.now + Duration::from_secs(1);
        site.engine.tick(site.now);
    }
    site.send(Inbound, &udp(SERVER, 1, 9_999, 40));
    for _ in 0..10 {
        site.tick();
    }
    assert!(site.told().is_empty(), "{:#?}", site.told());
}

#[test]
fn a_slow_ramp_does_not_teach_what_witnesses_and_signatures_are_checked_against() {
    let mut site = Site::learned(&[zone()]);
    let learned = |site: &Site| {
        let (_, state) = site.engine.detector.zones().next().unwrap();
        (state.habits.answer_ratio().unwrap(), state.reservoirs[Role::UdpOpen.index()].samples().len())
    };
    let (ratio, samples) = learned(&site);
    // Nobody answers; the rate grows by 2.7 in ten seconds up to that of an alarm.
    let (mut sent, mut due) = (0, 0.0);
    for tick in 0..1_500 {
        site.peace();
        due += 2.0 * 2.7_f32.powf(tick as f32 / 1_000.0);
        while due >= 1.0 {
            site.send(Inbound, &udp(SERVER, sent, 443, 300));
            (sent, due) = (sent + 1, due - 1.0);
        }
        site.tick();
    }
    let (ratio_after, samples_after) = learned(&site);
    assert!(ratio_after > 0.9 * ratio, "{ratio} answers for a datagram became {ratio_after}");
    // Clients send twenty datagrams a second.
    assert!(samples_after - samples <= 400, "{} samples of {sent} attack packets", samples_after - samples);
}

#[test]
fn what_was_restored_is_still_known_after_minutes_whatever_the_origin_of_time_is() {
    let old = Site::learned(&[zone()]);
    let bytes = snapshot::write(&old.engine.detector);
    let known = |site: &Site| {
        let (_, state) = site.engine.detector.zones().next().unwrap();
        (state.habits.answer_ratio(), state.rates[Role::Syn.index()].largest)
    };
    let (ratio, largest) = known(&old);
    let mut new = Site::new(&[zone()], 1);
    new.engine.detector.set_wall_clock(Duration::from_secs(1_800_000_000), new.now);
    for start in [new.now, Timestamp(1_800_000_000_000_000_000)] {
        new.now = start;
        Learned::open(&bytes).unwrap().give(&mut new.engine.detector, new.now);
        new.again(MINUTE);
        let (ratio_after, largest_after) = known(&new);
        assert!((ratio_after.unwrap() / ratio.unwrap() - 1.0).abs() < 0.05, "{ratio_after:?}");
        assert!((largest_after / largest - 1.0).abs() < 0.2, "{largest} became {largest_after}");
    }
}
