use levee_api::filter::Target;
use levee_api::grpc::dataplane::v1 as contract;
use levee_api::grpc::dataplane::v1::event::What;
use levee_api::time::Timestamp;

use super::*;
use crate::clock::{BootId, Now, UnixTime};
use crate::ledger::IncidentId;
use crate::store::{Contents, Write};

struct World {
    incidents: Incidents,
    next: u64,
    stored: Contents,
}

impl World {
    fn new() -> Self {
        Self { incidents: Incidents::default(), next: 1, stored: Contents::default() }
    }

    fn with<T>(&mut self, seconds: u64, work: impl FnOnce(&mut Incidents, &mut Context<'_>) -> T) -> T {
        let (now, mut writes, next) = (at(seconds), Vec::new(), &mut self.next);
        let mut next_id = || {
            *next += 1;
            IncidentId(*next - 1)
        };
        let mut context = Context { now: &now, next_id: &mut next_id, runbook: &|_| None, writes: &mut writes };
        let result = work(&mut self.incidents, &mut context);
        self.incidents.write(&now, &mut writes);
        writes.iter().for_each(|write: &Write| self.stored.apply(write));
        result
    }

    fn take(&mut self, seconds: u64, what: What) -> Vec<Change> {
        self.with(seconds, |incidents, context| incidents.take("run-1", &what, context))
    }
}

fn at(seconds: u64) -> Now {
    Now { boot: BootId(1), monotonic: Timestamp(seconds * 1_000_000_000), wall: UnixTime(seconds * 1_000_000_000) }
}

fn target(prefix: &str) -> Target {
    Target { zone: "web".to_owned(), prefix: Some(prefix.parse().unwrap()) }
}

fn anomaly(id: u64, prefix: &str, pps: f64) -> contract::Anomaly {
    contract::Anomaly { id, target: Some((&target(prefix)).into()), pps, bps: pps * 8_000.0, ..Default::default() }
}

/// The same with one role in a state.
fn in_state(id: u64, state: contract::TargetState, witness: &str) -> contract::Anomaly {
    let role = contract::RoleStatus {
        role: "udp_open".to_owned(),
        state: state.into(),
        witness: witness.to_owned(),
        ..Default::default()
    };
    contract::Anomaly { roles: vec![role], ..anomaly(id, "203.0.113.7", 5e5) }
}

fn texts(world: &World, id: u64) -> Vec<&str> {
    world.incidents.timeline(IncidentId(id)).iter().map(|entry| entry.text.as_str()).collect()
}

#[test]
fn the_story_begins_with_the_attack_and_tells_when_it_stops_and_comes_back() {
    use contract::TargetState::{Attack, Hold, Watch};
    let mut world = World::new();
    // A crowd that goes away again is no incident.
    assert_eq!(world.take(1, What::AnomalyOpened(in_state(1, Watch, ""))), []);
    assert_eq!(world.take(9, What::AnomalyEnded(in_state(1, Watch, ""))), []);
    // What is watched is one as soon as there is evidence.
    assert_eq!(world.take(10, What::AnomalyOpened(in_state(2, Watch, ""))), []);
    let opened = world.take(15, What::AnomalyUpdated(in_state(2, Attack, "nobody answers")));
    assert_eq!(opened, [Change::Opened(IncidentId(1))]);
    world.take(20, What::AnomalyUpdated(in_state(2, Hold, "")));
    let incident = world.incidents.get(IncidentId(1)).unwrap();
    assert_eq!((incident.opened, incident.peak.pps), (at(15), 5e5));
    // What comes meanwhile is measured, and no part of the attack.
    world.take(21, What::AnomalyUpdated(contract::Anomaly { pps: 9e9, ..in_state(2, Hold, "") }));
    let incident = world.incidents.get(IncidentId(1)).unwrap();
    assert_eq!((incident.rates.pps, incident.peak.pps), (9e9, 5e5));
    world.take(25, What::AnomalyUpdated(in_state(2, Attack, "")));
    world.take(30, What::AnomalyUpdated(in_state(2, Hold, "")));
    world.take(31, What::AnomalyUpdated(in_state(2, Hold, "")));
    let told = texts(&world, 1).join("\n");
    let expected = [
        "incident on 203.0.113.7",
        "this is an attack: nobody answers",
        "the attack has stopped; its filters stay for a while in case it comes back",
        "the attack has come back",
        "the attack has stopped; its filters stay for a while in case it comes back",
    ];
    assert_eq!(told, expected.join("\n"));
    // What is watched afterwards is not the attack again.
    world.take(90, What::AnomalyEnded(in_state(2, Hold, "")));
    assert_eq!(world.take(91, What::AnomalyOpened(in_state(3, Watch, ""))), []);
    assert!(matches!(world.incidents.get(IncidentId(1)).unwrap().phase, Phase::Calm(_)));
}

#[test]
fn what_is_not_measured_yet_is_not_told_as_nothing() {
    let finding = |pps: f64, vector: &str| {
        let mut anomaly = in_state(1, contract::TargetState::Attack, "nobody answers");
        let rate_pps = if pps > 0.0 { 9e9 } else { 2_400.0 };
        anomaly.roles[0] = contract::RoleStatus { rate_pps, ..anomaly.roles[0].clone() };
        anomaly.vectors =
            vec![contract::VectorFinding { vector: vector.to_owned(), confidence: 0.9, evidence: Vec::new() }];
        contract::Anomaly { pps, bps: pps * 8_000.0, ..anomaly }
    };
    let mut world = World::new();
    world.take(1, What::AnomalyOpened(finding(0.0, "udp-flood")));
    world.take(2, What::AnomalyUpdated(finding(5e5, "dns-flood")));
    assert_eq!(texts(&world, 1)[1], "udp-flood (90 %), 2.40 kpps", "as it was noticed");
    assert!(texts(&world, 1).contains(&"dns-flood (90 %), 500 kpps, 4.00 Gbps"), "{:?}", texts(&world, 1));
}

#[test]
fn what_is_watched_for_long_is_an_incident_also_without_evidence() {
    use contract::TargetState::Watch;
    let mut world = World::new();
    world.take(1, What::AnomalyOpened(in_state(1, Watch, "")));
    assert_eq!(world.with(30, |incidents, context| incidents.ripen(context)), []);
    assert_eq!(world.with(31, |incidents, context| incidents.ripen(context)), [Change::Opened(IncidentId(1))]);
    assert!(texts(&world, 1)[1].contains("without evidence"), "{:?}", texts(&world, 1));
    // Another run of the dataplane does not know of it.
    world.take(40, What::AnomalyOpened(contract::Anomaly { target: None, ..in_state(2, Watch, "") }));
    world.with(41, |incidents, context| incidents.restarted("run-2", context));
    assert_eq!(world.with(99, |incidents, context| incidents.ripen(context)), []);
}

fn merged(host: &str, into: &str) -> What {
    let (host, into) = (Some((&target(host)).into()), Some((&target(into)).into()));
    What::TargetMerged(contract::TargetMerged { host, into, role: "udp_open".to_owned() })
}

#[test]
fn one_incident_for_a_target_however_often_the_same_is_told() {
    let mut world = World::new();
    let first = world.take(1, What::AnomalyOpened(anomaly(1, "203.0.113.7", 5e5)));
    assert_eq!(first, [Change::Opened(IncidentId(1))]);
    for second in 2..100 {
        world.take(second, What::AnomalyOpened(anomaly(1, "203.0.113.7", 1e6)));
        world.take(second, What::AnomalyOpened(anomaly(2, "203.0.113.7", 1e6)));
    }
    assert_eq!(world.incidents.open_count(), 1);
    let incident = world.incidents.get(IncidentId(1)).unwrap();
    assert_eq!((incident.peak.pps, incident.anomalies.len()), (1e6, 2));
}

#[test]
fn it_is_calm_when_the_last_finding_has_ended_and_begins_again_as_the_same() {
    let mut world = World::new();
    world.take(1, What::AnomalyOpened(anomaly(1, "203.0.113.7", 5e5)));
    world.take(2, What::AnomalyOpened(anomaly(2, "203.0.113.7", 5e5)));
    assert_eq!(world.take(3, What::AnomalyEnded(anomaly(1, "203.0.113.7", 0.0))), []);
    let calm = world.take(4, What::AnomalyEnded(anomaly(2, "203.0.113.7", 0.0)));
    assert_eq!(calm, [Change::Calmed(IncidentId(1))]);
    world.take(5, What::AnomalyOpened(anomaly(3, "203.0.113.7", 5e5)));
    assert!(matches!(world.incidents.get(IncidentId(1)).unwrap().phase, Phase::Attack));
}

#[test]
fn hosts_of_a_carpet_become_part_of_the_incident_of_their_prefix() {
    let mut world = World::new();
    world.take(1, What::AnomalyOpened(anomaly(1, "203.0.113.7", 5e5)));
    world.take(2, What::AnomalyOpened(anomaly(2, "203.0.113.0/24", 5e6)));
    let changes = world.take(3, merged("203.0.113.7", "203.0.113.0/24"));
    assert_eq!(changes, [Change::Merged { host: IncidentId(1), into: IncidentId(2) }]);
    // What is told of the host is now told of the prefix, but for its rates.
    world.take(4, What::AnomalyOpened(anomaly(3, "203.0.113.7", 9e9)));
    let prefix = world.incidents.get(IncidentId(2)).unwrap();
    assert_eq!((prefix.host_count, prefix.anomalies.len(), prefix.peak.pps), (1, 3, 5e6));
    assert_eq!(world.take(5, merged("198.51.100.7", "203.0.113.0/24")), [], "not inside");
    assert_eq!(world.incidents.malformed, 1);
}

#[test]
fn a_snapshot_ends_what_it_does_not_contain_and_opens_what_nobody_told() {
    let mut world = World::new();
    world.take(1, What::AnomalyOpened(anomaly(1, "203.0.113.7", 5e5)));
    let changes =
        world.with(2, |incidents, context| incidents.resume("run-2", &[anomaly(1, "203.0.113.8", 5e5)], &[], context));
    assert_eq!(changes, [Change::Opened(IncidentId(2)), Change::Calmed(IncidentId(1))]);
}

#[test]
fn what_is_loaded_is_what_was_written() {
    let mut world = World::new();
    world.take(1, What::AnomalyOpened(anomaly(1, "203.0.113.7", 5e5)));
    world.take(2, merged("203.0.113.7", "203.0.113.0/24"));
    let loaded = Incidents::load(&world.stored, &at(3));
    assert_eq!(loaded.iter().collect::<Vec<_>>(), world.incidents.iter().collect::<Vec<_>>());
    assert_eq!(loaded.on(&target("203.0.113.0/24")), world.incidents.on(&target("203.0.113.0/24")));
    assert_eq!(loaded.on(&target("203.0.113.7")), None);
    assert_eq!(loaded.timeline(IncidentId(1)), world.incidents.timeline(IncidentId(1)));
}

#[test]
fn after_a_reboot_the_time_of_calm_begins_anew_whatever_the_wall_clock_says() {
    let mut world = World::new();
    world.take(100_000, What::AnomalyOpened(anomaly(1, "203.0.113.7", 5e5)));
    world.take(100_001, What::AnomalyEnded(anomaly(1, "203.0.113.7", 0.0)));
    let rebooted = Now { boot: BootId(2), ..at(5) };
    let loaded = Incidents::load(&world.stored, &rebooted);
    assert_eq!(loaded.get(IncidentId(1)).unwrap().phase, Phase::Calm(Calm { since: rebooted }));
}

#[test]
fn a_timeline_ends_somewhere_and_the_end_is_told() {
    let mut world = World::new();
    world.take(1, What::AnomalyOpened(anomaly(1, "203.0.113.7", 5e5)));
    let mut writes = Vec::new();
    for _ in 0..3_000 {
        world.incidents.note(IncidentId(1), &at(2), Note::new(TimelineKind::Note, "again"), &mut writes);
    }
    world.incidents.close(IncidentId(1), &at(3), &mut writes);
    let timeline = world.incidents.timeline(IncidentId(1));
    assert_eq!(timeline.len(), usize::try_from(MAX_ENTRIES).unwrap() + 1);
    assert_eq!(timeline.last().unwrap().kind, TimelineKind::Closed);
    let incident = world.incidents.get(IncidentId(1)).unwrap();
    let report = Report { incident, timeline, mitigations: &[] };
    assert!(report.text(&at(9)).contains("more entries had no room"));
    assert_eq!(report.json(&at(9))["duration_s"], 2.0);
}

#[test]
fn a_flood_of_targets_is_counted_and_not_followed() {
    let mut world = World::new();
    for number in 0..u64::try_from(MAX_OPEN).unwrap() + 10 {
        let address = std::net::Ipv4Addr::from(0x0a00_0000 + u32::try_from(number).unwrap()).to_string();
        let what = What::AnomalyOpened(anomaly(number, &address, 1e3));
        let now = at(1);
        let mut next_id = || IncidentId(number + 1);
        let mut context = Context { now: &now, next_id: &mut next_id, runbook: &|_| None, writes: &mut Vec::new() };
        world.incidents.take("run-1", &what, &mut context);
    }
    assert_eq!((world.incidents.open_count(), world.incidents.left_out), (MAX_OPEN, 10));
}

#[test]
fn hosts_beyond_what_can_be_known_by_address_are_part_of_the_attack_on_their_prefix_all_the_same() {
    let mut world = World::new();
    world.take(1, What::AnomalyOpened(anomaly(1, "203.0.0.0/16", 9e5)));
    for host in 0..5_000_u32 {
        world.take(2, merged(&format!("203.0.{}.{}", host / 256, host % 256), "203.0.0.0/16"));
    }
    assert_eq!((world.incidents.by_host.len(), world.incidents.hosts_left_out), (4_096, 5_000 - 4_096));
    let known = world.take(3, What::AnomalyOpened(anomaly(2, "203.0.0.9", 9e5)));
    let crowd = world.take(3, What::AnomalyOpened(anomaly(3, "203.0.19.100", 9e5)));
    assert!(known.iter().chain(&crowd).all(|change| matches!(change, Change::Updated(_))), "{known:?} {crowd:?}");
    assert_eq!(world.incidents.open_count(), 1);
    // Somewhere else is another attack.
    world.take(3, What::AnomalyOpened(anomaly(4, "203.1.0.9", 9e5)));
    assert_eq!(world.incidents.open_count(), 2);
    let first = world.incidents.open().next().unwrap();
    world.incidents.close(first, &at(100), &mut Vec::new());
    assert!(world.incidents.by_host.is_empty());
}
