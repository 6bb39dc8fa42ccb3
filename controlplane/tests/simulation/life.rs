//! One life: a world with a control plane in it, from its first start until everything is over.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use levee_api::config::Config;
use levee_api::filter::Target;
use levee_api::time::Timestamp;
use levee_controlplane::actor::Actor;
use levee_controlplane::clock::{BootId, Now, UnixTime};
use levee_controlplane::core::{Command, Core, Input, Journal, Policy, Step};
use levee_controlplane::driver::DriverName;
use levee_controlplane::guardrail::Guards;
use levee_controlplane::ledger::{Kind, Order};
use levee_controlplane::notify::DeliveryError;
use levee_controlplane::runbook::{Runbooks, StageState};
use levee_controlplane::store::{Contents, Disk, Fault, Store, Twin, Write};

use crate::bug::Bug;
use crate::chance::Chance;
use crate::check::Checker;
use crate::dataplane::Dataplane;
use crate::receiver::Receiver;

const SECOND: u64 = 1_000_000_000;
const CAPACITY_BPS: f64 = 10e9;
/// Faults happen for so long.
const TROUBLE: u64 = 600 * SECOND;
/// After them one attack goes on, and has to have brought the ladder to its top within this.
const CLIMB: u64 = 300 * SECOND;
/// After that nothing is attacked, and everything has to have ended within this.
const CALM: u64 = 1_800 * SECOND;

const LADDER: &str = include_str!("ladder.toml");

/// What a life came to.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) steps: u64,
    pub(crate) orders: u64,
    pub(crate) crashes: u64,
    /// The last attack was answered by the highest stage.
    pub(crate) climbed: bool,
    /// What was done, in order, in a number.
    pub(crate) trace: u64,
}

struct Process {
    core: Core,
    journal: Journal,
    store: Twin,
}

struct World {
    bug: Option<Bug>,
    chance: Chance,
    /// True time: never jumps, survives reboots.
    at: u64,
    boot: u128,
    booted_at: u64,
    wall_offset: u64,
    disk: Disk,
    /// A copy of the disk, as a restart from it finds it.
    copy: Option<Disk>,
    stored: Contents,
    process: Option<Process>,
    starts_at: u64,
    connected: bool,
    dataplane: Dataplane,
    attacks: BTreeMap<Target, (f64, u64)>,
    receivers: Vec<Receiver>,
    checker: Checker,
    policy: Policy,
    /// Answers on their way: when, and what. Forgotten when the process dies.
    answers: Vec<(u64, Input)>,
    troubled: bool,
    life: Life,
}

/// Lives one life; an error is what was broken.
pub(crate) fn live(seed: u64, bug: Option<Bug>) -> Result<Life, String> {
    let mut world = World::new(seed, bug);
    while world.at < TROUBLE {
        world.trouble();
        world.pass()?;
    }
    world.heal();
    // Never part of an attack on a prefix: for those the top of this ladder is refused.
    let target = host(40);
    world.attacks = BTreeMap::from([(target.clone(), (9.5e9, u64::MAX))]);
    let end = world.at + CLIMB;
    while world.at < end {
        world.release();
        world.pass()?;
        world.life.climbed |= world.is_at_the_top(&target);
    }
    if !world.life.climbed {
        return Err(format!("dead end: the attack goes on and the ladder stands at {}", world.stages(&target)));
    }
    world.attacks.clear();
    let end = world.at + CALM;
    while world.at < end && !world.is_over() {
        world.pass()?;
    }
    world.is_over().then_some(()).ok_or_else(|| format!("left behind: {}", world.left()))?;
    Ok(world.life)
}

fn host(last: u8) -> Target {
    Target { zone: "web".to_owned(), prefix: Some(format!("203.0.113.{last}").parse().unwrap()) }
}

impl World {
    fn new(seed: u64, bug: Option<Bug>) -> Self {
        let text =
            if bug == Some(Bug::DeadEnd) { LADDER.replace("stage.scrub.failed || ", "") } else { LADDER.to_owned() };
        // Not through the check of whole files: it refuses ladders that dead-end, and one is planted here.
        let config = Config::parse("levee.toml", &text).unwrap();
        let (runbooks, _) = Runbooks::of(&config);
        let guards = Guards::new(&config, []);
        let mut chance = Chance::new(seed);
        let receivers = vec![
            Receiver::new("core-a", &[Kind::FlowSpec, Kind::Blackhole], false),
            Receiver::new("scrub", &[Kind::Divert], chance.percent(50)),
        ];
        let drivers = receivers.iter().map(|receiver| (receiver.name.clone(), receiver.capabilities.clone())).collect();
        let planned = if bug == Some(Bug::NoGuardrails) {
            let text = text
                .replace("198.51.100.1/32", "192.0.2.1/32")
                .replace("max_flowspec_rules = 6", "max_flowspec_rules = 1000");
            let text = text.replace(
                "\"203.0.113.0/24\", \"198.51.100.0/24\"",
                "\"203.0.113.0/24\", \"198.51.100.0/24\", \"192.0.2.0/24\"",
            );
            Guards::new(&Runbooks::parse("levee.toml", &text).unwrap().0, [])
        } else {
            guards.clone()
        };
        let policy =
            Policy { config: Arc::new(config), runbooks: Arc::new(runbooks), guards: Arc::new(planned), drivers };
        Self {
            bug,
            chance,
            at: 0,
            boot: 1,
            booted_at: 0,
            wall_offset: 1_796_000_000 * SECOND,
            disk: Disk::new(),
            copy: None,
            stored: Contents::default(),
            process: None,
            starts_at: 0,
            connected: false,
            dataplane: Dataplane::new(),
            attacks: BTreeMap::new(),
            receivers,
            checker: Checker { guards, ends: BTreeMap::new(), ended: BTreeSet::new() },
            policy,
            answers: Vec::new(),
            troubled: true,
            life: Life { steps: 0, orders: 0, crashes: 0, climbed: false, trace: 0 },
        }
    }

    fn now(&self) -> Now {
        Now {
            boot: BootId(self.boot),
            monotonic: Timestamp(self.at - self.booted_at + SECOND),
            wall: UnixTime(self.at + self.wall_offset),
        }
    }

    /// Something goes wrong, or an attack begins.
    fn trouble(&mut self) {
        if self.chance.percent(4) {
            let last = u8::try_from(self.chance.between(5, 12)).unwrap();
            let mut target = host(last);
            if self.chance.percent(15) {
                target.prefix = Some("203.0.113.0/24".parse().unwrap());
            } else if self.chance.percent(15) {
                // Protected: nothing may be done upstream.
                target.prefix = Some("198.51.100.1".parse().unwrap());
            }
            let bps = [5e8, 3e9, 8e9, 2e10][usize::try_from(self.chance.between(0, 3)).unwrap()];
            let end = self.at + self.chance.between(5, 200) * SECOND;
            self.attacks.insert(target, (bps, end));
        }
        let failing = self.chance.between(0, 60);
        let commits = self.disk.commits();
        match self.chance.between(0, 199) {
            0 | 1 => self.crash(),
            2 => {
                let fault = if self.chance.percent(50) { Fault::CrashBefore } else { Fault::CrashAfter };
                self.disk.fault_at(commits + self.chance.between(0, 3), fault);
            }
            3 | 4 => {
                let fault = if self.chance.percent(50) { Fault::Full } else { Fault::Fails };
                for later in 0..self.chance.between(1, 8) {
                    self.disk.fault_at(commits + later, fault);
                }
            }
            5 if self.bug == Some(Bug::Unsynced) => {
                for later in 0..3 {
                    self.disk.fault_at(commits + later, Fault::Unsynced);
                }
            }
            6 | 7 => {
                let at = usize::try_from(self.chance.between(0, 1)).unwrap();
                self.receivers[at].failing = failing;
            }
            8 => {
                let broken = self.chance.percent(50);
                self.receivers[1].broken = broken;
            }
            9 => self.wall_offset = self.wall_offset.wrapping_add(self.chance.between(0, 200_000) * SECOND),
            10 => self.wall_offset -= self.chance.between(0, 200_000) * SECOND,
            11 => {
                self.dataplane.restart();
                self.connected = false;
                self.feed(Input::Disconnected);
            }
            12 | 13 => {
                self.connected = false;
                self.feed(Input::Disconnected);
            }
            14 if self.chance.percent(30) => {
                // The machine reboots.
                self.crash();
                (self.boot, self.booted_at) = (self.boot + 1, self.at);
                self.starts_at = self.at + 20 * SECOND;
            }
            15 if self.chance.percent(40) => {
                // The disk is replaced: nothing is left but what is in force outside.
                self.crash();
                (self.disk, self.stored) = (Disk::new(), Contents::default());
            }
            20 => self.copy = Some(self.disk.restored()),
            21 if self.chance.percent(60) => {
                // The store is damaged, and a copy takes its place: what has ended since is in force in it.
                if let Some(copy) = self.copy.take() {
                    self.crash();
                    self.disk = copy;
                }
            }
            16 => {
                let host = host(u8::try_from(self.chance.between(5, 12)).unwrap());
                let prefix = Target { zone: "web".to_owned(), prefix: Some("203.0.113.0/24".parse().unwrap()) };
                self.dataplane.merge(&host, &prefix);
            }
            17 if self.chance.percent(20) => {
                let by = Actor::levee("simulation");
                self.feed(Input::KillSwitch { engage: true, by });
            }
            18 | 19 => self.feed(Input::KillSwitch { engage: false, by: Actor::levee("simulation") }),
            _ => {}
        }
    }

    /// Faults stop.
    fn heal(&mut self) {
        self.troubled = false;
        for receiver in &mut self.receivers {
            receiver.failing = 0;
        }
        // A provider may be gone for good: the ladder has to go around it.
        self.receivers[1].broken = self.bug == Some(Bug::DeadEnd) || self.chance.percent(50);
        if self.bug == Some(Bug::BelievesEnds) {
            self.receivers[0].failing = 60;
        }
        self.release();
    }

    /// An operator turns the kill switch off, and again where a crash has come in between.
    fn release(&mut self) {
        if self.process.as_ref().is_none_or(|process| process.core.kill_switch_is_engaged()) {
            self.feed(Input::KillSwitch { engage: false, by: Actor::levee("simulation") });
        }
    }

    fn crash(&mut self) {
        self.process = None;
        self.disk.crash();
        self.answers.clear();
        self.connected = false;
        self.starts_at = self.at + self.chance.between(0, 30) * SECOND;
        self.life.crashes += 1;
    }

    /// Something for the core, soon.
    fn feed(&mut self, input: Input) {
        self.answers.push((self.at, input));
    }

    /// Time passes, and what is due happens.
    fn pass(&mut self) -> Result<(), String> {
        self.at += if self.troubled { self.chance.between(100, 3_000) * 1_000_000 } else { 2 * SECOND };
        for receiver in &mut self.receivers {
            receiver.pass(self.at);
        }
        let at = self.at;
        self.attacks.retain(|_, (_, end)| *end > at);
        let seen = self.arriving();
        self.dataplane.see(&seen);
        let bps: f64 = seen.values().sum::<f64>().min(CAPACITY_BPS);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a counter of bytes")]
        let bytes = (bps / 8.0 * if self.troubled { 1.5 } else { 2.0 }) as u64;
        self.dataplane.bytes += bytes;
        self.run()?;
        let ledger = self.process.as_ref().map(|process| process.core.ledger());
        self.checker.moment(&self.receivers, ledger, self.at)
    }

    /// What still arrives of the attacks.
    fn arriving(&self) -> BTreeMap<Target, f64> {
        let taken = |target: &Target| {
            let things = self.receivers.iter().flat_map(|receiver| receiver.in_force.values());
            let mut takes = 0.0_f64;
            for thing in things {
                let covers =
                    |prefix: levee_api::prefix::Prefix| target.prefix.is_some_and(|target| prefix.covers(&target));
                let share = match &thing.spec {
                    levee_controlplane::ledger::Spec::Blackhole { prefix, .. } if covers(*prefix) => 1.0,
                    // These help too little in this world: every ladder has to be climbed.
                    levee_controlplane::ledger::Spec::FlowSpec { rule, .. } if covers(rule.destination) => 0.05,
                    levee_controlplane::ledger::Spec::Divert { prefix } if covers(*prefix) => 0.05,
                    _ => 0.0,
                };
                takes = takes.max(share);
            }
            takes
        };
        let all = self.attacks.iter().map(|(target, (bps, _))| (target.clone(), bps * (1.0 - taken(target))));
        all.filter(|(_, bps)| *bps > 1e6).collect()
    }

    fn run(&mut self) -> Result<(), String> {
        if self.disk.has_crashed() && self.process.is_some() {
            self.crash();
        }
        if self.process.is_none() {
            if self.at < self.starts_at {
                return Ok(());
            }
            let mut store = self.disk.open().unwrap();
            self.stored = store.load().unwrap();
            if self.bug == Some(Bug::TrustsBackups) {
                self.stored.restored = false;
            }
            let core = Core::load(self.policy.clone(), self.stored.clone(), &self.now());
            self.process = Some(Process { core, journal: Journal::default(), store });
        }
        if !self.connected && (!self.troubled || self.chance.percent(40)) {
            self.connected = true;
            if let Some(process) = &self.process {
                let position = process.core.position().clone();
                self.dataplane.watch(&position.boot_id, position.sequence);
            }
            let boot_id = self.dataplane.boot_id();
            self.feed(Input::Connected { boot_id });
        }
        if self.connected {
            let repeats = if self.troubled { 10 } else { 0 };
            let events = self.dataplane.deliver(&mut self.chance, repeats);
            if !events.is_empty() {
                self.feed(Input::Events(events));
            }
            let counters = self.dataplane.counters();
            self.feed(Input::Counters(Box::new(counters)));
        }
        self.feed(Input::Tick);
        // In the order in which they come; what they lead to is due at once.
        for _ in 0..200 {
            self.answers.sort_by_key(|(due, _)| *due);
            let due = self.answers.iter().position(|(due, _)| *due <= self.at);
            let Some(due) = due else { break };
            let (_, input) = self.answers.remove(due);
            self.step(input)?;
            if self.process.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn step(&mut self, input: Input) -> Result<(), String> {
        let now = self.now();
        let Some(process) = &mut self.process else { return Ok(()) };
        self.life.steps += 1;
        let mut input = input;
        if self.bug == Some(Bug::NoAdoption)
            && let Input::Observed { result: Ok(list), .. } = &mut input
        {
            list.retain(|observed| process.core.ledger().get(observed.id).is_some_and(|entry| !entry.has_ended()));
        }
        if self.bug == Some(Bug::BelievesEnds)
            && let Input::Observed { result: Ok(list), .. } = &mut input
        {
            list.clear();
        }
        let mut step: Step = process.core.step(&now, input);
        if self.bug == Some(Bug::CommandsFirst) {
            let early: Vec<Command> = std::mem::take(&mut step.commands);
            for command in early {
                self.carry_out(command)?;
            }
        }
        let Some(process) = &mut self.process else { return Ok(()) };
        let durable = process.journal.commit(&mut process.store, step, &now);
        if self.disk.has_crashed() {
            // The process ended within the commit: nobody carries its commands out.
            self.crash();
            return Ok(());
        }
        for write in &durable.stored {
            self.stored.apply(write);
            if let Write::PutMitigation(entry) = write {
                if entry.has_ended() {
                    self.checker.ended.insert(entry.id);
                }
                self.life.trace = self.life.trace.wrapping_mul(31).wrapping_add(entry.id.0).wrapping_add(self.at);
            }
        }
        for input in durable.inputs {
            self.feed(input);
        }
        for command in durable.commands {
            self.carry_out(command)?;
        }
        Ok(())
    }

    fn carry_out(&mut self, command: Command) -> Result<(), String> {
        let delay = |chance: &mut Chance, troubled: bool| if troubled { chance.between(0, 5) * SECOND } else { 0 };
        match command {
            Command::Order(Order::Observe { driver, round }) => {
                let at = self.at;
                let result = self
                    .receivers
                    .iter()
                    .find(|receiver| receiver.name == driver)
                    .and_then(|receiver| receiver.observe(&mut self.chance, at));
                if let Some(result) = result {
                    let due = self.at + delay(&mut self.chance, self.troubled);
                    self.answers.push((due, Input::Observed { driver, round, result }));
                }
            }
            Command::Order(Order::Apply(operation)) => {
                self.life.orders += 1;
                // What the core believes to be stored, and what a power cut would leave.
                let stored = if self.bug == Some(Bug::Unsynced) {
                    self.survives()
                } else {
                    {
                        let entry = self.stored.mitigations.get(&operation.id).cloned();
                        Contents {
                            mitigations: entry.into_iter().map(|entry| (entry.id, entry)).collect(),
                            ..Contents::default()
                        }
                    }
                };
                let is_in_force = self
                    .receiver(&operation.driver)
                    .is_some_and(|(receiver, _)| receiver.in_force.contains_key(&operation.id));
                self.checker.applied(&operation, &stored, is_in_force, self.at)?;
                let at = self.at;
                let receiver = self.receiver(&operation.driver);
                let answer =
                    receiver.map(|(receiver, chance)| receiver.ask(true, &operation, at, chance)).unwrap_or_default();
                if let Some(result) = answer {
                    let due = self.at + delay(&mut self.chance, self.troubled);
                    self.answers.push((due, Input::Applied { id: operation.id, key: operation.key, result }));
                }
            }
            Command::Order(Order::Withdraw(operation)) => {
                self.life.orders += 1;
                if self.bug == Some(Bug::NoWithdrawals) {
                    return Ok(());
                }
                let at = self.at;
                let receiver = self.receiver(&operation.driver);
                let answer =
                    receiver.map(|(receiver, chance)| receiver.ask(false, &operation, at, chance)).unwrap_or_default();
                if let Some(result) = answer {
                    let due = self.at + delay(&mut self.chance, self.troubled);
                    let result = result.map(|_| ());
                    self.answers.push((due, Input::Withdrawn { id: operation.id, key: operation.key, result }));
                }
            }
            Command::Send(message) => {
                if self.bug == Some(Bug::LostMessages) {
                    return Ok(());
                }
                let fails = self.troubled && self.chance.percent(30);
                let reason = || "no route".to_owned();
                let result =
                    if fails { Err(DeliveryError::Retryable { reason: reason(), retry_after: None }) } else { Ok(()) };
                let due = self.at + delay(&mut self.chance, self.troubled);
                self.answers.push((due, Input::Sent { id: message.id, result }));
            }
            Command::Capture { incident, stage, change, target, .. } => {
                let result = if self.connected { Ok(format!("{target}.pcapng")) } else { Err("gone".to_owned()) };
                let due = self.at + delay(&mut self.chance, self.troubled);
                self.answers.push((due, Input::Captured { incident, stage, change, result }));
            }
            Command::TakeSnapshot if self.connected => {
                let snapshot = self.dataplane.snapshot(&self.arriving());
                self.dataplane.outbox.clear();
                self.feed(Input::Snapshot(Box::new(snapshot)));
            }
            Command::TakeSnapshot | Command::Upload | Command::Log(_) => {}
        }
        Ok(())
    }

    /// What a power cut now would leave of the store.
    fn survives(&self) -> Contents {
        let disk = self.disk.clone();
        disk.survives().unwrap()
    }

    fn receiver(&mut self, name: &DriverName) -> Option<(&mut Receiver, &mut Chance)> {
        let receiver = self.receivers.iter_mut().find(|receiver| receiver.name == *name)?;
        Some((receiver, &mut self.chance))
    }

    fn is_at_the_top(&self, target: &Target) -> bool {
        let Some(process) = &self.process else { return false };
        let Some(id) = process.core.incidents().on(target) else { return false };
        let progress = process.core.progress(id);
        progress
            .and_then(|progress| progress.stages.last())
            .is_some_and(|top| matches!(top.state, StageState::Active { .. }))
    }

    fn stages(&self, target: &Target) -> String {
        let Some(process) = &self.process else { return "no process".to_owned() };
        let Some(id) = process.core.incidents().on(target) else { return "no incident".to_owned() };
        format!("{:?}", process.core.stages(id))
    }

    fn is_over(&self) -> bool {
        let Some(process) = &self.process else { return false };
        self.receivers.iter().all(|receiver| receiver.in_force.is_empty() && receiver.late.is_empty())
            && process.core.ledger().live().next().is_none()
            && process.core.incidents().open_count() == 0
            && self.stored.messages.values().all(|message| message.ended.is_some())
            && !process.journal.is_failing()
    }

    fn left(&self) -> String {
        let Some(process) = &self.process else { return "no process".to_owned() };
        let things: Vec<String> = self
            .receivers
            .iter()
            .flat_map(|receiver| {
                receiver.in_force.iter().map(move |(id, thing)| format!("{id} {} at {}", thing.spec, receiver.name))
            })
            .collect();
        let live: Vec<String> = process.core.ledger().live().map(|entry| format!("{entry:?}")).collect();
        let open: Vec<String> = process
            .core
            .incidents()
            .open()
            .map(|id| {
                let incident = process.core.incidents().get(id);
                let view = incident
                    .map(|incident| (incident.phase, &incident.anomalies, incident.merged_into, &incident.target));
                format!(
                    "{id}: {view:?} {:?}",
                    process.core.stages(id).iter().map(|stage| stage.state.clone()).collect::<Vec<_>>()
                )
            })
            .collect();
        let messages = self.stored.messages.values().filter(|message| message.ended.is_none()).count();
        format!("in force {things:?}; live {live:?}; open {open:?}; {messages} messages wait")
    }
}
