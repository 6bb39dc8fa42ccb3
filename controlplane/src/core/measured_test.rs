//! What the dataplane measures, and what the core makes of it: variables that become known, stages that do harm, captures.

use std::sync::Arc;

use levee_api::filter::Target;
use levee_api::grpc::dataplane::v1 as contract;
use levee_api::grpc::dataplane::v1::event::What;

use super::{Command, Core, Input, Policy, Step};
use crate::clock::{BootId, Now, UnixTime};
use crate::driver::{Capabilities, DriverName};
use crate::guardrail::Guards;
use crate::ledger::{Evidence, IncidentId, Kind, Operation, Order};
use crate::runbook::Runbooks;
use crate::store::Contents;
use levee_api::time::Timestamp;

const CONFIG: &str = r#"
schema = 1
[appliance]
name = "edge-1"
mode = "enforce"
[[dataplane.wire]]
name = "uplink"
outside = "net_null0"
inside = "net_null1"
capacity = "10Gbps"
[guardrails]
owned_prefixes = ["203.0.113.0/24"]
[[announcer]]
name = "core-a"
kind = "embedded"
[[zone]]
name = "web"
prefixes = ["203.0.113.0/24"]
mode = "enforce"
runbook = "own"
[[runbook]]
name = "own"
[[runbook.stage]]
name = "evidence"
action = { capture = { duration = "30s" } }
[[runbook.stage]]
name = "edge"
when = "local.goodput_ratio < 0.9 && local.cpu > 0.5 && attack.sources > 1000"
for = "0s"
action = { flowspec = { announcers = ["core-a"] } }
ttl = "5m"
[[runbook.stage]]
name = "full"
when = "uplink.utilisation > 0.8"
for = "0s"
action = { flowspec = { announcers = ["core-a"] } }
ttl = "5m"
"#;

struct World {
    core: Core,
    sequence: u64,
}

fn at(seconds: u64) -> Now {
    let monotonic = Timestamp(seconds * 1_000_000_000);
    Now { boot: BootId(1), monotonic, wall: UnixTime(1_796_000_000_000_000_000 + monotonic.0) }
}

impl World {
    fn new() -> Self {
        let (config, runbooks) = Runbooks::parse("levee.toml", CONFIG).unwrap();
        let can = Capabilities { kinds: vec![Kind::FlowSpec], ipv4: true, rate_limit: true, ..Capabilities::default() };
        let policy = Policy {
            guards: Arc::new(Guards::new(&config, [])),
            config: Arc::new(config),
            runbooks: Arc::new(runbooks),
            drivers: [(DriverName("core-a".to_owned()), can)].into(),
        };
        let mut core = Core::load(policy, Contents::default(), &at(0));
        core.step(&at(0), Input::Connected { boot_id: "run".to_owned() });
        Self { core, sequence: 0 }
    }

    /// The dataplane tells how the attack does.
    fn told(&mut self, seconds: u64, goodput_ratio: Option<f64>, bps: f64) -> Step {
        self.sequence += 1;
        let target = Target { zone: "web".to_owned(), prefix: Some("203.0.113.7/32".parse().unwrap()) };
        let role = contract::RoleStatus {
            role: "udp_open".to_owned(),
            state: contract::TargetState::Attack.into(),
            witness: "unanswered".to_owned(),
            ..Default::default()
        };
        let anomaly = contract::Anomaly {
            id: 1,
            target: Some((&target).into()),
            roles: vec![role],
            pps: bps / 8_000.0,
            bps,
            goodput_ratio,
            sources: Some(40_000),
            ..Default::default()
        };
        let event = contract::Event {
            boot_id: "run".to_owned(),
            sequence: self.sequence,
            what: Some(What::AnomalyUpdated(anomaly)),
            ..Default::default()
        };
        let mut step = self.core.step(&at(seconds), Input::Events(vec![event]));
        // Rates alone are looked at as time passes.
        step.commands.extend(self.core.step(&at(seconds), Input::Tick).commands);
        step
    }

    /// A worker that was at work for so long.
    fn busy(&mut self, seconds: u64, busy_ns: u64) {
        let worker = contract::WorkerTimes { busy_ns: Some(busy_ns), ..Default::default() };
        let counters = contract::CountersResponse { workers: vec![worker], ..Default::default() };
        self.core.step(&at(seconds), Input::Counters(Box::new(counters)));
    }

    fn id(&self) -> IncidentId {
        self.core.incidents().open().next().unwrap()
    }

    fn story(&self) -> Vec<&str> {
        let timeline = self.core.incidents().timeline(self.id());
        timeline.iter().map(|entry| entry.text.as_str()).collect()
    }

    fn state(&self, stage: &str) -> String {
        let stages = self.core.stages(self.id());
        stages.into_iter().find(|known| known.name == stage).unwrap().state
    }
}

#[test]
fn an_uplink_that_fills_is_answered_within_a_tenth_of_a_second_and_not_for_a_burst() {
    let mut world = World::new();
    world.told(1, None, 1e9);
    let (mut bytes, mut ordered) = (0, Vec::new());
    // Every 25 ms: a second of 1 Gbit/s, a burst of 50 ms at 10 Gbit/s, calm, and then 10 Gbit/s for good.
    for read in 0..100_u64 {
        let fills = (42..44).contains(&read) || read >= 80;
        bytes += if fills { 31_250_000 } else { 3_125_000 };
        let ns = read * 25_000_000;
        let inbound = contract::DirectionCounters { bytes: Some(bytes), ..Default::default() };
        let wire = contract::WireCounters { wire: "uplink".to_owned(), inbound: Some(inbound), outbound: None };
        let at_ns = Some(7_000_000 + ns);
        let counters = contract::CountersResponse { wires: vec![wire], at_ns, ..Default::default() };
        // What is told late was counted when it says.
        let now = Timestamp(1_000_000_000 + ns + read % 3 * 8_000_000);
        let step = world.core.step(&Now { monotonic: now, ..at(0) }, Input::Counters(Box::new(counters)));
        let orders = step.commands.iter().filter(|command| matches!(command, Command::Order(Order::Apply(_))));
        ordered.extend(orders.map(|_| read));
    }
    assert_eq!(ordered, [82], "{:?}", world.story());
    assert_eq!(world.state("full"), "entering");
}

fn applied(step: &Step) -> &Operation {
    let operation = step.commands.iter().find_map(|command| match command {
        Command::Order(Order::Apply(operation)) => Some(operation),
        _ => None,
    });
    operation.unwrap()
}

#[test]
fn a_stage_is_entered_by_goodput_load_and_sources_and_ended_when_it_does_harm() {
    let mut world = World::new();
    world.busy(1, 0);
    world.told(1, Some(0.8), 1e9);
    assert_eq!(world.state("edge"), "idle", "the load is not known");
    world.busy(2, 600_000_000);
    let step = world.told(3, Some(0.8), 1e9);
    let operation = applied(&step);
    let result = Ok(Evidence::Accepted);
    world.core.step(&at(4), Input::Applied { id: operation.id, key: operation.key.clone(), result });
    assert_eq!(world.state("edge"), "active");
    // Clients get fewer answers than before, and the attack arrives as it did.
    world.busy(14, 7_000_000_000);
    let step = world.told(15, Some(0.3), 1e9);
    let withdrawn = step.commands.iter().any(|command| matches!(command, Command::Order(Order::Withdraw(_))));
    assert!(withdrawn, "{:?}", step.commands);
    let story = world.story();
    assert!(story.iter().any(|text| text.contains("harms clean traffic")), "{story:?}");
}

#[test]
fn what_helps_is_kept_and_what_is_not_known_ends_nothing() {
    // The third grows, the last falls when the measure has been in force for long: that is the attack's doing.
    for (goodput, bps, seconds) in
        [(Some(0.3), 1e8, 15), (Some(0.7), 1e9, 15), (Some(0.3), 5e9, 15), (None, 1e9, 15), (Some(0.3), 1e9, 3_000)]
    {
        let mut world = World::new();
        world.busy(1, 0);
        world.busy(2, 600_000_000);
        let step = world.told(3, Some(0.8), 1e9);
        let operation = applied(&step);
        let result = Ok(Evidence::Accepted);
        world.core.step(&at(4), Input::Applied { id: operation.id, key: operation.key.clone(), result });
        world.busy(14, 7_000_000_000);
        let step = world.told(seconds, goodput, bps);
        let orders = step.commands.iter().filter(|command| matches!(command, Command::Order(Order::Withdraw(_))));
        assert!(seconds > 300 || orders.count() == 0, "{goodput:?} {bps} after {seconds} s");
        assert!(!world.story().iter().any(|text| text.contains("harms")), "{goodput:?} {bps} after {seconds} s");
    }
}

#[test]
fn a_capture_is_asked_for_and_its_file_stands_in_the_timeline() {
    for (result, state, says) in [
        (Ok("a.pcapng".to_owned()), "active", "packets are written into the capture a.pcapng"),
        (Err("switched off".to_owned()), "failed", "no capture: switched off"),
    ] {
        let mut world = World::new();
        let step = world.told(1, None, 1e9);
        let asked = step.commands.iter().find_map(|command| match command {
            Command::Capture { incident, stage, change, duration, .. } => Some((*incident, stage, *change, *duration)),
            _ => None,
        });
        let (incident, stage, change, duration) = asked.unwrap();
        assert_eq!((stage.as_str(), duration.as_secs()), ("evidence", 30));
        assert_eq!(world.state("evidence"), "entering");
        // An answer to another question changes nothing.
        let stale = Input::Captured { incident, stage: stage.clone(), change: change + 9, result: result.clone() };
        world.core.step(&at(2), stale);
        assert_eq!(world.state("evidence"), "entering");
        let answer = Input::Captured { incident, stage: stage.clone(), change, result };
        world.core.step(&at(2), answer);
        assert_eq!(world.state("evidence"), state);
        let story = world.story();
        assert!(story.contains(&says), "{story:?}");
    }
}
