//! The core on its own: operators, configurations and restarts, with a store that never fails.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use levee_api::filter::{self, HeaderBox, Rule, Side, Target};
use levee_api::grpc::dataplane::v1 as contract;
use levee_api::grpc::dataplane::v1::event::What;
use levee_api::grpc::{FilterRequest, v1};
use levee_api::lane::Lane;
use levee_api::role::{Role, RoleSet};
use levee_api::time::Timestamp;

use super::*;
use crate::actor::Role as Rank;
use crate::clock::{BootId, UnixTime};
use crate::ledger::{
    Direction, FilterSpec, FlowAction, FlowRule, Kind, Mitigation, Outcome as End, Spec, State as LedgerState,
    StoredFilter,
};
use crate::runbook::StageState;

const CONFIG: &str = r#"
schema = 1
[appliance]
name = "edge-1"
mode = "enforce"
[guardrails]
owned_prefixes = ["203.0.113.0/24"]
[[announcer]]
name = "core-a"
kind = "embedded"
capabilities = ["flowspec", "rate-limit", "blackhole"]
[[zone]]
name = "web"
prefixes = ["203.0.113.0/24"]
mode = "enforce"
runbook = "at-once"
[[runbook]]
name = "at-once"
[[runbook.stage]]
name = "edge"
when = "attack.pps > 1000.0"
for = "0s"
action = { blackhole = { announcers = ["core-a"] } }
ttl = "5m"
"#;

fn policy(text: &str) -> Policy {
    let (config, runbooks) = Runbooks::parse("levee.toml", text).unwrap();
    let can = Capabilities {
        kinds: vec![Kind::FlowSpec, Kind::Blackhole, Kind::Divert],
        ipv4: true,
        rate_limit: true,
        observe: true,
        ..Capabilities::default()
    };
    Policy {
        guards: Arc::new(Guards::new(&config, [])),
        config: Arc::new(config),
        runbooks: Arc::new(runbooks),
        drivers: [(DriverName("core-a".to_owned()), can)].into(),
    }
}

fn at(seconds: u64) -> Now {
    let ns = seconds * 1_000_000_000;
    Now { boot: BootId(1), monotonic: Timestamp(ns), wall: UnixTime(1_796_000_000_000_000_000 + ns) }
}

fn opened(sequence: u64, host: u8, pps: f64) -> Input {
    let target = Target { zone: "web".to_owned(), prefix: Some(format!("203.0.113.{host}").parse().unwrap()) };
    let anomaly = contract::Anomaly {
        id: u64::from(host),
        target: Some((&target).into()),
        pps,
        bps: pps * 8_000.0,
        ..Default::default()
    };
    let what = Some(What::AnomalyOpened(anomaly));
    Input::Events(vec![contract::Event { boot_id: "run".to_owned(), sequence, what, ..Default::default() }])
}

fn ended(sequence: u64, host: u8) -> Input {
    let Input::Events(mut events) = opened(sequence, host, 0.0) else { unreachable!() };
    let Some(What::AnomalyOpened(anomaly)) = events[0].what.take() else { unreachable!() };
    events[0].what = Some(What::AnomalyEnded(anomaly));
    Input::Events(events)
}

/// A core, what it has stored, and a driver that does all that it is told.
struct Desk {
    core: Core,
    stored: Contents,
    seconds: u64,
    applied: Vec<MitigationId>,
    uploads: usize,
    log: Vec<String>,
    replies: Vec<Result<Outcome, Refused>>,
}

impl Desk {
    fn new(text: &str) -> Self {
        Self::with(text, Contents::default(), 100)
    }

    fn with(text: &str, stored: Contents, seconds: u64) -> Self {
        let core = Core::load(policy(text), stored.clone(), &at(seconds));
        let mut desk =
            Self { core, stored, seconds, applied: Vec::new(), uploads: 0, log: Vec::new(), replies: Vec::new() };
        desk.give(Input::Connected { boot_id: "run".to_owned() });
        desk
    }

    /// The process is killed, and starts with what is stored.
    fn restart(self, text: &str) -> Self {
        Self::with(text, self.stored, self.seconds + 1)
    }

    fn give(&mut self, input: Input) {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            let step = self.core.step(&at(self.seconds), input);
            step.writes.iter().for_each(|write| self.stored.apply(write));
            self.replies.extend(step.replies.into_iter().map(|reply| reply.result));
            for command in step.commands {
                match command {
                    Command::Order(Order::Apply(operation)) => {
                        // Once more when its end is moved.
                        self.applied.retain(|id| *id != operation.id);
                        self.applied.push(operation.id);
                        let result = Ok(Evidence::Accepted);
                        inputs.push(Input::Applied { id: operation.id, key: operation.key, result });
                    }
                    Command::Order(Order::Withdraw(operation)) => {
                        self.applied.retain(|id| *id != operation.id);
                        inputs.push(Input::Withdrawn { id: operation.id, key: operation.key, result: Ok(()) });
                    }
                    Command::Upload => self.uploads += 1,
                    Command::Log(text) => self.log.push(text),
                    // Observations are given by the tests that are about them.
                    _ => {}
                }
            }
        }
    }

    /// Time passes, a second at a time.
    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.seconds += 1;
            self.give(Input::Tick);
        }
    }

    fn ask_as(&mut self, name: &str, request_id: &str, operation: Operation) -> Result<Outcome, Refused> {
        let actor = Actor::Operator { name: name.to_owned(), role: Rank::Admin };
        let digest = format!("{operation:?}");
        let asked =
            Asked { ticket: 1, actor, request_id: request_id.to_owned(), digest, validate_only: false, operation };
        self.give(Input::Change(Box::new(asked)));
        self.replies.pop().unwrap()
    }

    fn add(&mut self, host: u8) -> MitigationId {
        let spec = blackhole(host);
        let ttl = Duration::from_secs(3_600);
        let add = Operation::Add {
            incident: None,
            zone: Some("web".to_owned()),
            driver: None,
            spec: spec.into(),
            ttl,
            reason: "test".to_owned(),
        };
        match self.ask_as("ann", &format!("add-{host}"), add).unwrap() {
            Outcome::Mitigation { mitigation } => mitigation.id,
            other => panic!("{other:?}"),
        }
    }

    /// A rule on another host for half a day.
    fn add_rule(&mut self) {
        let rule = FlowRule::to("203.0.113.9/32".parse().unwrap());
        let spec = Spec::FlowSpec { rule, action: FlowAction::RateLimit { bps: 1_000_000 } };
        let ttl = Duration::from_secs(12 * 3_600);
        let (zone, reason) = (Some("web".to_owned()), "takes the only place".to_owned());
        let add = Operation::Add { incident: None, zone, driver: None, spec: spec.into(), ttl, reason };
        self.ask_as("ann", "a rule", add).unwrap();
    }

    fn entry(&self, id: MitigationId) -> &Mitigation {
        self.core.ledger().get(id).unwrap()
    }

    /// The measures of stages that shall be in force.
    fn wanted(&self) -> Vec<&Mitigation> {
        self.core.ledger().live().filter(|entry| entry.is_wanted() && entry.stage.is_some()).collect()
    }

    fn configure(&mut self, text: &str) {
        self.give(Input::Configured(Box::new(policy(text))));
    }

    fn timeline(&self) -> String {
        let texts: Vec<&str> = self.stored.timeline.values().map(|entry| entry.text.as_str()).collect();
        texts.join("\n")
    }

    fn stage(&self) -> &crate::runbook::StageProgress {
        let id = self.core.incidents().open().next().unwrap();
        &self.core.progress(id).unwrap().stages[0]
    }
}

fn blackhole(host: u8) -> Spec {
    let prefix = format!("203.0.113.{host}").parse().unwrap();
    Spec::Blackhole { prefix, direction: Direction::Destination }
}

fn kill_switch(on: bool) -> Operation {
    Operation::KillSwitch { on, reason: "customers are cut off".to_owned() }
}

#[test]
fn the_kill_switch_keeps_its_reason_and_said_again_it_is_handed_over_again() {
    let mut desk = Desk::new(CONFIG);
    desk.ask_as("ann", "1", kill_switch(true)).unwrap();
    assert_eq!(desk.uploads, 1);
    let Outcome::KillSwitch { state, .. } = desk.ask_as("bob", "2", kill_switch(true)).unwrap() else { panic!() };
    assert_eq!(desk.uploads, 2, "what may have been lost is sent once more");
    assert!(state.by.to_string().contains("ann") && state.reason == "customers are cut off", "{state:?}");
    let desk = desk.restart(CONFIG);
    assert_eq!(desk.core.kill_switch().unwrap().reason, "customers are cut off");
}

#[test]
fn a_file_that_stops_the_dataplane_ends_what_is_asked_upstream_and_its_going_away_lets_go_of_that() {
    let mut desk = Desk::new(CONFIG);
    let file = || Input::KillSwitchFile(Some("/etc/levee/kill-switch".to_owned()));
    desk.give(opened(1, 7, 5e5));
    desk.pass(2);
    assert_eq!(desk.wanted().len(), 1);
    desk.give(file());
    desk.pass(1);
    assert!(desk.wanted().is_empty() && desk.applied.is_empty() && desk.uploads == 1, "{}", desk.timeline());
    assert!(desk.core.kill_switch().unwrap().reason.contains("/etc/levee/kill-switch"));
    // Worse and worse: nothing is entered.
    desk.give(opened(2, 8, 5e7));
    desk.pass(30);
    assert!(desk.wanted().is_empty(), "{}", desk.timeline());
    let off = desk.ask_as("ann", "1", kill_switch(false));
    assert!(matches!(&off, Err(Refused::Precondition(why)) if why.contains("/etc/levee/kill-switch")), "{off:?}");
    let mut desk = desk.restart(CONFIG);
    desk.give(Input::KillSwitchFile(None));
    desk.pass(2);
    assert!(!desk.core.kill_switch_is_engaged() && !desk.wanted().is_empty(), "{}", desk.timeline());
    // What a person has said beside the file, the file does not take back.
    desk.give(file());
    desk.ask_as("ann", "2", kill_switch(true)).unwrap();
    desk.give(Input::KillSwitchFile(None));
    desk.pass(2);
    assert!(desk.core.kill_switch_is_engaged() && desk.wanted().is_empty());
    let desk = desk.restart(CONFIG);
    assert!(desk.core.kill_switch().unwrap().by.to_string().contains("ann"));
}

#[test]
fn a_policy_that_the_dataplane_refuses_is_a_trouble_until_it_takes_it() {
    let mut desk = Desk::new(CONFIG);
    desk.ask_as("ann", "1", kill_switch(true)).unwrap();
    desk.give(Input::Policy { refused: Some("no room".to_owned()) });
    let trouble = desk.core.troubles().into_iter().find(|trouble| trouble.contains("no room")).unwrap();
    assert!(trouble.contains("THE KILL SWITCH IS ON AND NOT IN FORCE"), "{trouble}");
    desk.give(Input::Policy { refused: None });
    assert!(!desk.core.troubles().iter().any(|trouble| trouble.contains("no room")));
}

#[test]
fn what_a_new_configuration_forbids_ends_and_that_is_told() {
    let tighter = [
        ("mode = \"enforce\"\nrunbook", "mode = \"monitor\"\nrunbook", "only watches now"),
        ("owned_prefixes = [\"203.0.113.0/24\"]", "owned_prefixes = [\"192.0.2.0/24\"]", "owned_prefixes"),
        (
            "owned_prefixes = [\"203.0.113.0/24\"]",
            "owned_prefixes = [\"203.0.113.0/24\"]\nprotected_prefixes = [\"203.0.113.7/32\"]",
            "protected_prefixes",
        ),
    ];
    for (before, after, word) in tighter {
        let mut desk = Desk::new(CONFIG);
        desk.give(opened(1, 7, 5e5));
        desk.pass(2);
        let id = desk.wanted()[0].id;
        desk.configure(&CONFIG.replace(before, after));
        desk.pass(400);
        assert!(desk.wanted().is_empty(), "{after}: {:?}", desk.wanted());
        assert!(!desk.entry(id).is_wanted() && !desk.applied.contains(&id), "{after}");
        assert!(desk.entry(id).deadline.remaining(&at(100)) <= Duration::from_secs(302), "{after}: it was renewed");
        assert!(desk.timeline().contains(word), "{after}: {}", desk.timeline());
    }
}

#[test]
fn what_nobody_can_carry_out_any_more_ends_whoever_asked_for_it() {
    for kinds in [None, Some(vec![Kind::FlowSpec])] {
        let mut desk = Desk::new(CONFIG);
        let id = desk.add(9);
        let mut without = policy(CONFIG);
        let driver = DriverName("core-a".to_owned());
        match kinds {
            Some(kinds) => without.drivers.get_mut(&driver).unwrap().kinds = kinds,
            None => drop(without.drivers.remove(&driver)),
        }
        desk.give(Input::Configured(Box::new(without)));
        desk.pass(2);
        assert!(!desk.entry(id).is_wanted() && desk.applied.is_empty());
        assert_eq!(desk.entry(id).outcome, Some(End::Retired));
        assert!(desk.log.iter().any(|line| line.contains("core-a")), "{:?}", desk.log);
    }
}

#[test]
fn what_is_beyond_a_lower_limit_ends_the_newest_first_and_far_deadlines_come_nearer() {
    let mut desk = Desk::new(CONFIG);
    let ids: Vec<MitigationId> = (1..=4).map(|host| desk.add(host)).collect();
    let tight = "owned_prefixes = [\"203.0.113.0/24\"]\nmax_blackholes = 2\nmax_ttl = \"10m\"";
    desk.configure(&CONFIG.replace("owned_prefixes = [\"203.0.113.0/24\"]", tight));
    desk.pass(1);
    assert_eq!(desk.applied, ids[..2]);
    assert_eq!(desk.entry(ids[3]).outcome, Some(End::Refused));
    assert!(desk.entry(ids[0]).remaining(&at(desk.seconds)) <= Duration::from_secs(600));
    assert!(desk.log.iter().any(|line| line.contains("no more than 2")), "{:?}", desk.log);
    assert!(desk.log.iter().any(|line| line.contains("ends within 10 min")), "{:?}", desk.log);
}

#[test]
fn what_people_asked_for_stays_in_a_zone_that_only_watches() {
    let mut desk = Desk::new(CONFIG);
    let id = desk.add(9);
    desk.configure(&CONFIG.replace("mode = \"enforce\"\nrunbook", "mode = \"monitor\"\nrunbook"));
    desk.pass(5);
    assert!(desk.entry(id).is_wanted());
}

#[test]
fn something_done_outside_is_answered_once_and_asked_again_not_done_again() {
    let mut desk = Desk::new(CONFIG);
    let actor = Actor::Operator { name: "ann".to_owned(), role: Rank::Admin };
    let asked = |digest: &str| Asked {
        ticket: 7,
        actor: actor.clone(),
        request_id: "ConfirmConfig/1".to_owned(),
        digest: digest.to_owned(),
        validate_only: false,
        operation: Operation::Confirm,
    };
    assert_eq!(desk.core.before(&asked("a")), Ok(None));
    let outcome = Outcome::Confirmed { hash: "00".to_owned() };
    desk.give(Input::Done(Box::new(asked("a")), Box::new(outcome.clone())));
    assert_eq!(desk.replies.pop(), Some(Ok(outcome.clone())));
    let mut desk = desk.restart(CONFIG);
    assert_eq!(desk.core.before(&asked("a")), Ok(Some(outcome)));
    assert!(matches!(desk.core.before(&asked("b")), Err(Refused::IdTaken(_))));
    desk.give(Input::Store(Health::Failing("full".to_owned())));
    let other = Asked { request_id: "ConfirmConfig/2".to_owned(), ..asked("a") };
    assert!(matches!(desk.core.before(&other), Err(Refused::Unavailable(_))), "it could not be written down");
}

const TWO_PERSON: &str = r#"action = { divert = { announcers = ["core-a"] } }
approve = { roles = ["operator"], within = "1h", otherwise = "skip" }"#;

fn two_person() -> String {
    CONFIG
        .replace("action = { blackhole = { announcers = [\"core-a\"] } }", TWO_PERSON)
        .replace("\"blackhole\"]", "\"blackhole\", \"divert\"]")
        .replace("[guardrails]", "[guardrails]\ntwo_person = true")
}

fn approve(desk: &mut Desk, name: &str) {
    let incident = desk.core.incidents().open().next().unwrap();
    let decide = Operation::Decide { incident, stage: "edge".to_owned(), approve: true, reason: String::new() };
    desk.ask_as(name, &format!("approve-{name}"), decide).unwrap();
}

#[test]
fn who_has_approved_is_known_after_a_restart() {
    let text = two_person();
    let mut desk = Desk::new(&text);
    desk.give(opened(1, 7, 5e5));
    desk.pass(2);
    assert!(matches!(desk.stage().state, StageState::Waiting { .. }), "{:?}", desk.stage());
    approve(&mut desk, "ann");
    let mut desk = desk.restart(&text);
    approve(&mut desk, "bob");
    assert_eq!(desk.stage().approvers, ["ann", "bob"]);
    assert_eq!(desk.wanted().len(), 1, "{}", desk.timeline());
    assert!(!desk.timeline().contains("two_person"), "{}", desk.timeline());
}

#[test]
fn stores_that_are_lost_or_put_back_never_give_an_id_twice() {
    let mut given = BTreeSet::new();
    for (boot, monotonic) in [(1, 3), (1, 60), (2, 3), (7 << 64, 3)] {
        let now = Now { boot: BootId(boot), monotonic: Timestamp(monotonic * 1_000_000_000), ..at(0) };
        for copy_of in [None, Some(50)] {
            let contents = Contents { next_id: copy_of.map(Id), restored: copy_of.is_some(), ..Contents::default() };
            let mut core = Core::load(policy(CONFIG), contents.clone(), &now);
            let id = core.step(&now, Input::Tick).writes.iter().find_map(next_id).unwrap();
            // A thousand ids each: what a second has use for.
            assert!((0..1_000).all(|later| given.insert(id.0 + later)), "{contents:?} at {now:?}");
            assert!(id.0 > copy_of.unwrap_or(0));
        }
    }
}

fn next_id(write: &Write) -> Option<Id> {
    if let Write::PutNextId(id) = write { Some(*id) } else { None }
}

#[test]
fn measures_that_came_back_from_a_backup_are_looked_for_and_not_brought_into_force_again() {
    let mut desk = Desk::new(CONFIG);
    let (gone, there) = (desk.add(1), desk.add(2));
    desk.stored.restored = true;
    let mut desk = desk.restart(CONFIG);
    desk.pass(3);
    assert_eq!(desk.applied, [], "nothing before the driver was asked");
    assert!(!desk.stored.restored && desk.stored.mitigations[&gone].unproven, "and a crash changes nothing of that");
    let mut desk = desk.restart(CONFIG);
    let spec = blackhole(2);
    let observed = vec![Observed { id: there, spec, evidence: Evidence::Seen, remaining: None, taken_bps: None }];
    let driver = DriverName("core-a".to_owned());
    // The first round of this start.
    desk.give(Input::Observed { driver, round: 1, result: Ok(observed) });
    desk.pass(1);
    assert_eq!(desk.applied, [], "what is there is not brought there");
    assert!(desk.entry(there).state == LedgerState::Active && !desk.entry(there).unproven);
    assert_eq!(desk.entry(gone).outcome, Some(End::Outdated));
}

#[test]
fn what_is_kept_has_a_limit_by_number_the_oldest_goes_first_and_that_is_told() {
    let mut desk = Desk::new(&CONFIG.replace("[guardrails]", "[guardrails]\nmax_blackholes = 100"));
    desk.core.caps = caps::Caps { closed: 3, entries: 1_000, ended: 2, sent: 10, requests: 4 };
    let mut sequence = 0;
    for host in 1..=8 {
        sequence += 1;
        desk.give(opened(sequence, host, 100.0));
        desk.add(host + 100);
    }
    let ids: Vec<IncidentId> = desk.core.incidents().open().collect();
    let now = at(desk.seconds);
    for id in &ids {
        let mut writes = Vec::new();
        desk.core.incidents.close(*id, &now, &mut writes);
        writes.iter().for_each(|write| desk.stored.apply(write));
    }
    let live: Vec<MitigationId> = desk.core.ledger().live().map(|entry| entry.id).collect();
    for id in &live {
        desk.ask_as("ann", &format!("end-{id}"), Operation::Withdraw { id: *id, reason: String::new() }).unwrap();
    }
    // The driver looks, and has none of them any more.
    for round in 1..20 {
        let driver = DriverName("core-a".to_owned());
        desk.give(Input::Observed { driver, round, result: Ok(Vec::new()) });
        desk.pass(31);
    }
    let kept: Vec<IncidentId> = desk.stored.incidents.keys().copied().collect();
    assert_eq!(kept, ids[5..], "the newest stay");
    assert_eq!(desk.stored.mitigations.keys().copied().collect::<Vec<_>>(), live[6..]);
    assert_eq!(desk.stored.requests.len(), 4);
    let troubles = desk.core.troubles().join("\n");
    for words in ["5 were forgotten before their time, of closed incidents", "6 were forgotten", "12 were forgotten"] {
        assert!(troubles.contains(words), "{words}: {troubles}");
    }
    // What is open is never forgotten, however many entries it has.
    sequence += 1;
    desk.give(opened(sequence, 50, 100.0));
    desk.core.caps.entries = 1;
    desk.pass(1);
    assert_eq!(desk.stored.incidents.len(), 1);
}

/// What a stage that would rather drop asks for, with a filter of the reflex on the target if there is one.
fn asked_upstream(
    config: &str,
    target: &str,
    filter: Option<FilterRequest>,
    office: Option<FilterRequest>,
) -> (Vec<FlowAction>, Desk) {
    let drop = "action = { flowspec = { announcers = [\"core-a\"], prefer = \"drop\" } }";
    let text = config
        .replace("action = { blackhole = { announcers = [\"core-a\"] } }", drop)
        .replace("for = \"0s\"", "for = \"1s\"");
    let mut desk = Desk::new(&text);
    let mut with = policy(&text);
    let can = Capabilities { kinds: vec![Kind::Filter], ipv4: true, ..Capabilities::default() };
    with.drivers.insert(DriverName::dataplane(), can);
    desk.give(Input::Configured(Box::new(with)));
    if let Some(request) = office {
        let filters = vec![StoredFilter::of(&request)];
        let spec = Spec::Filter(FilterSpec { target: request.target, filters });
        let ttl = Duration::from_secs(600);
        let add = Operation::Add {
            incident: None,
            zone: Some("web".to_owned()),
            driver: None,
            spec: spec.into(),
            ttl,
            reason: "test".to_owned(),
        };
        desk.ask_as("ann", "office", add).unwrap();
    }
    let target = Target { zone: "web".to_owned(), prefix: Some(target.parse().unwrap()) };
    let anomaly = contract::Anomaly { id: 7, target: Some((&target).into()), pps: 5e5, bps: 4e9, ..Default::default() };
    let event = |sequence, what| contract::Event {
        boot_id: "run".to_owned(),
        sequence,
        what: Some(what),
        ..Default::default()
    };
    let mut events = vec![event(1, What::AnomalyOpened(anomaly))];
    if let Some(filter) = filter {
        let request = FilterRequest { target, ..filter };
        let filter = v1::Filter { id: 3, request: Some((&request).into()), ..Default::default() };
        events.push(event(2, What::FilterInstalled(filter)));
    }
    desk.give(Input::Events(events));
    desk.pass(5);
    let actions = desk.wanted().into_iter().map(|entry| match &entry.spec {
        Spec::FlowSpec { action, .. } => action.clone(),
        other => panic!("{other}"),
    });
    (actions.collect(), desk)
}

fn request(rule: Rule, action: filter::Action) -> FilterRequest {
    FilterRequest {
        owner: String::new(),
        target: Target { zone: "web".to_owned(), prefix: None },
        roles: RoleSet::ALL,
        rule,
        action,
        ttl: Duration::from_secs(600),
        witness: "test".to_owned(),
    }
}

fn drops(matches: HeaderBox) -> FilterRequest {
    request(Rule::of(matches), filter::Action::Drop)
}

fn dns() -> HeaderBox {
    HeaderBox::any().exact(Lane::Protocol, 17).port(Side::Source, 53, 53)
}

#[test]
fn a_rule_upstream_drops_only_what_nothing_here_lets_pass() {
    let set = |more: &str| format!("{CONFIG}[[address_set]]\nname = \"office\"\naction = \"pass\"\n{more}\n");
    let limited = |(actions, desk): (Vec<FlowAction>, Desk)| {
        assert_eq!(actions.len(), 1, "{}", desk.timeline());
        matches!(actions[0], FlowAction::RateLimit { .. })
    };
    assert!(!limited(asked_upstream(CONFIG, "203.0.113.7", Some(drops(dns())), None)));
    for more in ["prefixes = [\"192.0.2.0/24\"]", "files = [\"/etc/levee/office\"]"] {
        assert!(limited(asked_upstream(&set(more), "203.0.113.7", Some(drops(dns())), None)), "{more}");
    }
    let of_others = "prefixes = [\"2001:db8::/32\"]";
    assert!(!limited(asked_upstream(&set(of_others), "203.0.113.7", Some(drops(dns())), None)));
    let elsewhere = dns().prefix(Side::Source, "198.51.100.0/24".parse().unwrap());
    let office = "prefixes = [\"192.0.2.0/24\"]";
    assert!(!limited(asked_upstream(&set(office), "203.0.113.7", Some(drops(elsewhere)), None)), "another source");
    let pass = request(Rule::of(HeaderBox::any().exact(Lane::Protocol, 17)), filter::Action::Pass);
    let pass = FilterRequest { owner: "operator".to_owned(), ..pass };
    assert!(limited(asked_upstream(CONFIG, "203.0.113.7", Some(drops(dns())), Some(pass))));
}

#[test]
fn a_rule_upstream_has_the_protocol_that_the_role_of_a_filter_says() {
    // As the reflex writes it: no protocol, for all packets of the role have one.
    let ports = HeaderBox::any().port(Side::Source, 53, 53);
    let roles = Role::UnsolicitedResponse.set();
    let filter = FilterRequest { roles, ..request(Rule::of(ports), filter::Action::Drop) };
    let (_, desk) = asked_upstream(CONFIG, "203.0.113.7", Some(filter), None);
    let specs: Vec<String> = desk.wanted().iter().map(|entry| entry.spec.to_string()).collect();
    assert_eq!(specs, ["flowspec to 203.0.113.7/32 protocol 17 source port 53: limit 10000000 bps"]);
}

#[test]
fn while_nothing_tells_an_attack_from_the_rest_a_host_is_limited_and_a_network_is_not() {
    let (actions, _) = asked_upstream(CONFIG, "203.0.113.7", None, None);
    assert!(matches!(actions[..], [FlowAction::RateLimit { .. }]), "{actions:?}");
    let (actions, desk) = asked_upstream(CONFIG, "203.0.113.0/24", None, None);
    assert_eq!(actions, []);
    assert!(desk.timeline().contains("nothing tells the attack on 203.0.113.0/24"), "{}", desk.timeline());
    let (actions, _) = asked_upstream(CONFIG, "203.0.113.0/24", Some(drops(dns())), None);
    assert!(matches!(actions[..], [FlowAction::Drop]), "{actions:?}");
}

#[test]
fn what_cannot_be_stepped_down_for_lack_of_room_goes_on_and_is_renewed() {
    let text = CONFIG.replace("[guardrails]", "[guardrails]\nmax_flowspec_rules = 1");
    let mut desk = Desk::new(&text);
    desk.add_rule();
    desk.give(opened(1, 7, 5e5));
    desk.pass(2);
    let blackhole = desk.wanted()[0].id;
    // It hides the attack from here on.
    desk.give(opened(2, 7, 10.0));
    for second in 0..6 * 3_600 {
        desk.pass(1);
        assert!(desk.entry(blackhole).is_wanted(), "after {second} s: {}", desk.timeline());
    }
    assert!(desk.timeline().contains("max_flowspec_rules"), "{}", desk.timeline());
    assert!(desk.timeline().contains("stage edge cannot be stepped down, and stays as it is"), "{}", desk.timeline());
}

#[test]
fn what_a_lower_stage_limits_already_is_limited_by_it_when_a_blackhole_is_stepped_down() {
    // Room for one rule: that of the lower stage.
    let text = CONFIG.replace("[guardrails]", "[guardrails]\nmax_flowspec_rules = 1").replace(
        "[[runbook.stage]]\n",
        "[[runbook.stage]]\nname = \"limit\"\nwhen = \"attack.pps > 1000.0\"\nfor = \"0s\"\n\
         action = { flowspec = { announcers = [\"core-a\"] } }\nttl = \"5m\"\n[[runbook.stage]]\n",
    );
    let mut desk = Desk::new(&text);
    desk.give(opened(1, 7, 5e5));
    desk.pass(2);
    let kinds = |desk: &Desk| desk.wanted().iter().map(|entry| entry.spec.kind()).collect::<Vec<_>>();
    assert_eq!(kinds(&desk), [Kind::FlowSpec, Kind::Blackhole]);
    // It hides the attack from here on.
    desk.give(opened(2, 7, 10.0));
    while kinds(&desk) != [Kind::FlowSpec] {
        desk.pass(1);
        assert!(desk.seconds < 300, "{}", desk.timeline());
    }
    assert!(desk.timeline().contains("stage edge is stepped down"), "{}", desk.timeline());
    let state = |desk: &Desk| desk.core.progress.values().next().unwrap().stages[1].state.name();
    desk.pass(10);
    assert_eq!(state(&desk), "probing", "{}", desk.timeline());
    // It goes on after all.
    desk.give(opened(3, 7, 5e5));
    while kinds(&desk) != [Kind::FlowSpec, Kind::Blackhole] {
        desk.pass(1);
        assert!(desk.seconds < 500, "{}", desk.timeline());
    }
    assert_eq!(state(&desk), "active", "{}", desk.timeline());
}

#[test]
fn stepping_down_needs_no_room_for_what_goes_in_its_place() {
    let text = CONFIG.replace("[guardrails]", "[guardrails]\nmax_flowspec_rules = 1");
    let (actions, mut desk) = asked_upstream(&text, "203.0.113.7", Some(drops(dns())), None);
    assert_eq!(actions, [FlowAction::Drop]);
    let dropped = desk.wanted()[0].id;
    desk.give(opened(3, 7, 10.0));
    desk.pass(600);
    assert!(!desk.entry(dropped).is_wanted(), "{}", desk.timeline());
    assert!(!desk.timeline().contains("max_flowspec_rules"), "{}", desk.timeline());
}

#[test]
fn an_approval_is_for_what_was_asked_and_for_nothing_that_a_reload_puts_in_its_place() {
    let asks = |action: &str| {
        CONFIG.replace(
            "action = { blackhole = { announcers = [\"core-a\"] } }",
            &format!("action = {{ {action} = {{ announcers = [\"core-a\"] }} }}\napprove = {{ roles = [\"operator\"], within = \"1h\", otherwise = \"skip\" }}"),
        )
    };
    // What is in force by the yes ends, and what takes its place waits for another.
    let mut desk = Desk::new(&asks("flowspec"));
    desk.give(opened(1, 7, 5e5));
    desk.pass(2);
    approve(&mut desk, "ann");
    let rule = desk.wanted()[0].id;
    desk.configure(&asks("blackhole"));
    desk.pass(100);
    assert!(!desk.entry(rule).is_wanted() && desk.wanted().is_empty(), "{}", desk.timeline());
    assert!(matches!(desk.stage().state, StageState::Waiting { .. }), "{:?}", desk.stage());
    // So does what a guardrail has refused.
    let text = asks("flowspec").replace("[guardrails]", "[guardrails]\nmax_flowspec_rules = 1");
    let mut desk = Desk::new(&text);
    desk.add_rule();
    desk.give(opened(1, 7, 5e5));
    desk.pass(2);
    approve(&mut desk, "ann");
    assert!(desk.timeline().contains("max_flowspec_rules"), "{}", desk.timeline());
    desk.configure(&asks("blackhole"));
    desk.pass(100);
    assert!(desk.wanted().is_empty(), "{}", desk.timeline());
    assert!(matches!(desk.stage().state, StageState::Waiting { .. }), "{:?}", desk.stage());
    // What says the same in other words is the same.
    desk.configure(&asks("blackhole").replace("within = \"1h\"", "within = \"60m\""));
    assert!(matches!(desk.stage().state, StageState::Waiting { .. }), "{:?}", desk.stage());
}

#[test]
fn a_store_that_knows_of_the_kill_switch_and_not_of_what_it_has_ended_begins_nothing() {
    let mut desk = Desk::new(CONFIG);
    desk.give(opened(1, 7, 5e5));
    desk.pass(2);
    assert_eq!(desk.wanted().len(), 1);
    desk.stored.kill_switch =
        Some(KillSwitch { engaged: true, by: Actor::levee("test"), at: at(100), reason: String::new() });
    let mut desk = desk.restart(CONFIG);
    desk.configure(CONFIG);
    let driver = DriverName("core-a".to_owned());
    desk.give(Input::Observed { driver, round: 1, result: Ok(Vec::new()) });
    desk.pass(10);
    assert_eq!((desk.wanted().len(), desk.applied.len()), (0, 0), "{}", desk.timeline());
}

#[test]
fn with_the_kill_switch_on_incidents_close() {
    let mut desk = Desk::new(CONFIG);
    desk.give(opened(1, 7, 5e5));
    desk.pass(2);
    assert_eq!(desk.wanted().len(), 1);
    desk.ask_as("ann", "1", kill_switch(true)).unwrap();
    desk.give(ended(2, 7));
    desk.pass(10);
    // The driver is asked what is left of it.
    let driver = DriverName("core-a".to_owned());
    for round in 1..100 {
        desk.give(Input::Observed { driver: driver.clone(), round, result: Ok(Vec::new()) });
    }
    desk.pass(100);
    assert_eq!(desk.core.incidents().open_count(), 0, "{}", desk.timeline());
}

#[test]
fn a_lower_rule_that_lets_more_pass_takes_nothing_in_the_place_of_a_blackhole() {
    let text = CONFIG.replace(
        "[[runbook.stage]]\n",
        "[[runbook.stage]]\nname = \"limit\"\nwhen = \"attack.pps > 1000.0\"\nfor = \"0s\"\n\
         action = { flowspec = { announcers = [\"core-a\"], rate = \"1Gbps\" } }\nttl = \"5m\"\n[[runbook.stage]]\n",
    );
    let mut desk = Desk::new(&text);
    desk.give(opened(1, 7, 5e5));
    desk.pass(2);
    desk.give(opened(2, 7, 10.0));
    while !desk.timeline().contains("stage edge is stepped down") {
        desk.pass(1);
        assert!(desk.seconds < 300, "{}", desk.timeline());
    }
    let limits: Vec<&Spec> = desk.wanted().iter().map(|entry| &entry.spec).collect();
    let limits: Vec<String> = limits.into_iter().map(ToString::to_string).collect();
    let of = |rate: u64| format!("flowspec to 203.0.113.7/32: limit {rate} bps");
    assert_eq!(limits, [of(1_000_000_000), of(10_000_000)], "{}", desk.timeline());
}

#[test]
fn what_nobody_can_judge_ends_some_day() {
    let text = CONFIG.replace("[guardrails]", "[guardrails]\nmax_ttl = \"10m\"");
    let mut desk = Desk::new(&text);
    desk.give(opened(1, 7, 5e5));
    desk.pass(2);
    desk.give(Input::Disconnected);
    desk.pass(300);
    assert_eq!(desk.wanted().len(), 1, "it is renewed while it may be needed: {}", desk.timeline());
    desk.pass(700);
    assert!(desk.wanted().is_empty(), "{}", desk.timeline());
}
