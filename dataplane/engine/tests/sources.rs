//! Address sets, limits per source and verified sources in the data path.
#![expect(clippy::unwrap_used, reason = "a test")]

#[cfg(test)]
#[expect(dead_code, reason = "shared with other tests, which use more of it")]
mod traffic;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use levee_api::address_set::{AddressSet, ListFormat, SetAction};
use levee_api::filter::{Action, Filter, HeaderBox, Origin, Per, Rule, Target};
use levee_api::role::RoleSet;
use levee_api::time::Timestamp;
use levee_api::zone::Mode;
use levee_engine::filter::SourceSets;
use levee_engine::filter::sources::{Ranges, Set};
use levee_engine::packet::Direction::Inbound;
use levee_engine::verdict::{Reason, Verdict};

use traffic::{SERVER, Site, syn, udp, zone};

/// Sets by name, members and action, in force at a site.
fn put(site: &mut Site, sets: &[(&str, &str, SetAction)]) {
    let described = sets.iter().map(|(name, prefix, action)| AddressSet {
        name: (*name).to_owned(),
        files: Vec::new(),
        format: ListFormat::Auto,
        prefixes: vec![prefix.parse().unwrap()],
        action: *action,
        zones: Vec::new(),
    });
    let described: Vec<AddressSet> = described.collect();
    let built = described.iter().map(|set| Set {
        ranges: set.prefixes.iter().copied().collect(),
        keeps_protected: set.action == SetAction::Pass,
    });
    let built = SourceSets::build(&built.collect::<Vec<_>>(), &Ranges::default()).unwrap();
    site.engine.replace_sources(Arc::new(built), described);
}

fn source_of(frame: &[u8]) -> IpAddr {
    IpAddr::from(<[u8; 4]>::try_from(&frame[26..30]).unwrap())
}

fn filter(site: &mut Site, rule: HeaderBox, action: Action) {
    let filter = Filter {
        id: 900,
        target: Target { zone: zone().name, prefix: Some(IpAddr::from(SERVER).into()) },
        roles: RoleSet::ALL,
        rule: Rule::of(rule),
        action,
        deadline: Timestamp::NEVER,
        origin: Origin::ControlPlane { owner: "test".to_owned() },
        witness: String::new(),
    };
    site.engine.detector.measures.install_external(filter).unwrap();
    site.engine.settle(site.now);
}

#[test]
fn a_set_drops_and_another_saves_its_members() {
    let mut site = Site::learned(&[zone()]);
    let frame = udp(SERVER, 1, 9_999, 100);
    let source = source_of(&frame).to_string();
    assert_eq!(site.send(Inbound, &frame), Verdict::Forward);
    put(&mut site, &[("all", "0.0.0.0/1", SetAction::Drop), ("rest", "128.0.0.0/1", SetAction::Drop)]);
    assert_eq!(site.send(Inbound, &frame), Verdict::Drop(Reason::SourceSet));
    put(&mut site, &[("all", "0.0.0.0/1", SetAction::Drop), ("friend", &source, SetAction::Pass)]);
    assert_eq!(site.send(Inbound, &frame), Verdict::Forward);
    put(&mut site, &[("noted", &source, SetAction::None)]);
    assert_eq!(site.send(Inbound, &frame), Verdict::Forward);
    let hits: u64 = site.engine.source_hits().iter().sum();
    assert!(hits >= 3, "every packet from a set counts: {hits}");
}

#[test]
fn a_zone_that_only_watches_drops_nothing_by_set() {
    let watching = levee_api::zone::Zone { mode: Mode::Monitor, ..zone() };
    let mut site = Site::learned(&[watching]);
    put(&mut site, &[("a", "0.0.0.0/1", SetAction::Drop), ("b", "128.0.0.0/1", SetAction::Drop)]);
    assert_eq!(site.send(Inbound, &udp(SERVER, 1, 9_999, 100)), Verdict::Forward);
    assert_eq!(site.engine.source_hits().iter().sum::<u64>(), 1);
}

#[test]
fn a_filter_asks_for_a_set() {
    let mut site = Site::learned(&[zone()]);
    let (inside, outside) = (udp(SERVER, 1, 9_999, 100), udp(SERVER, 70_000, 9_999, 100));
    assert_ne!(source_of(&inside), source_of(&outside));
    filter(&mut site, HeaderBox::any().classes(2, 2), Action::Drop);
    let source = source_of(&inside).to_string();
    put(&mut site, &[("other", "192.0.2.0/24", SetAction::None), ("asked", &source, SetAction::None)]);
    assert_eq!(site.send(Inbound, &inside), Verdict::Drop(Reason::Filter));
    assert_eq!(site.send(Inbound, &outside), Verdict::Forward);
    put(&mut site, &[("other", &source, SetAction::None)]);
    assert_eq!(site.send(Inbound, &inside), Verdict::Forward, "another bit");
}

#[test]
fn a_source_over_its_limit_stops_no_other() {
    let mut site = Site::learned(&[zone()]);
    filter(&mut site, HeaderBox::any(), Action::Limit { pps: 10, per: Per::Source });
    let (heavy, light) = (syn(SERVER, 1, 512), syn(SERVER, 70_000, 512));
    assert_ne!(source_of(&heavy), source_of(&light));
    let mut passed = 0;
    for tick in 0..400 {
        // 1 000 packets per second beside five.
        passed += (0..10).filter(|_| site.send(Inbound, &heavy) == Verdict::Forward).count();
        if tick % 20 == 0 {
            assert_eq!(site.send(Inbound, &light), Verdict::Forward, "tick {tick}");
        }
        site.now = site.now + Duration::from_millis(10);
    }
    // Ten per second for four seconds, and a burst of eight.
    assert!((40..=49).contains(&passed), "{passed}");
}
