//! One life: a world with a control plane in it, from its first start until everything is over.

use std::collections::BTreeMap;

use levee_api::filter::Target;
use levee_api::prefix::Prefix;
use levee_api::time::Timestamp;
use levee_controlplane::actor::Actor;
use levee_controlplane::clock::{BootId, Now, UnixTime};
use levee_controlplane::core::{Command, Core, Input, Journal, Step};
use levee_controlplane::driver::DriverName;
use levee_controlplane::ledger::{Id, Kind, Spec};
use levee_controlplane::server::link::Operation;
use levee_controlplane::store::{Contents, Disk, Store, Twin, Write};

use crate::bug::{Bug, begins, spoilt};
use crate::chance::Chance;
use crate::check::{Checker, Rules};
use crate::configuration::Variant;
use crate::dataplane::Dataplane;
use crate::operators::Operators;
use crate::receiver::Receiver;

pub(crate) const SECOND: u64 = 1_000_000_000;
const CAPACITY_BPS: f64 = 10e9;
/// Faults happen for so long.
const TROUBLE: u64 = 600 * SECOND;
/// After them one attack goes on, and has to have brought the ladder to its top within this.
const CLIMB: u64 = 300 * SECOND;
/// After that nothing is attacked, and everything has to have ended within this.
const CALM: u64 = 1_800 * SECOND;

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

pub(crate) struct Process {
    pub(crate) core: Core,
    pub(crate) journal: Journal,
    pub(crate) store: Twin,
}

pub(crate) struct World {
    pub(crate) bug: Option<Bug>,
    pub(crate) chance: Chance,
    /// True time: never jumps, survives reboots.
    pub(crate) at: u64,
    pub(crate) boot: u128,
    pub(crate) booted_at: u64,
    pub(crate) wall_offset: u64,
    pub(crate) disk: Disk,
    /// A copy of the disk, as a restart from it finds it.
    pub(crate) copy: Option<Disk>,
    pub(crate) stored: Contents,
    pub(crate) process: Option<Process>,
    pub(crate) starts_at: u64,
    pub(crate) connected: bool,
    pub(crate) dataplane: Dataplane,
    pub(crate) attacks: BTreeMap<Target, (f64, u64)>,
    pub(crate) receivers: Vec<Receiver>,
    pub(crate) checker: Checker,
    /// The file.
    pub(crate) variant: Variant,
    /// It has changed, and is to be read again.
    pub(crate) reload_due: bool,
    pub(crate) operators: Operators,
    /// Share of clean traffic that is answered, where the dataplane knows it.
    pub(crate) goodput: Option<f64>,
    /// Answers on their way: when, and what. Forgotten when the process dies.
    pub(crate) answers: Vec<(u64, Input)>,
    /// Answers that come again. Forgotten, too.
    pub(crate) repeats: Vec<(u64, Input)>,
    pub(crate) troubled: bool,
    pub(crate) life: Life,
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
        world.take_back();
        world.pass()?;
        world.life.climbed |= world.is_at_the_top(&target);
    }
    if !world.life.climbed {
        return Err(format!(
            "dead end: the attack goes on and the ladder stands at {}; {}",
            world.stages(&target),
            world.left()
        ));
    }
    world.attacks.clear();
    let end = world.at + CALM;
    while world.at < end && !world.is_over() {
        world.pass()?;
    }
    world.is_over().then_some(()).ok_or_else(|| format!("left behind: {}", world.left()))?;
    Ok(world.life)
}

pub(crate) fn host(last: u8) -> Target {
    Target { zone: "web".to_owned(), prefix: Some(format!("203.0.113.{last}").parse().unwrap()) }
}

/// What a measure takes of an attack.
pub(crate) fn share(spec: &Spec, target: &Target) -> f64 {
    let covers = |prefix: Prefix| target.prefix.is_some_and(|target| prefix.covers(&target));
    match spec {
        Spec::Blackhole { prefix, .. } if covers(*prefix) => 1.0,
        // These help too little in this world: every ladder has to be climbed.
        Spec::FlowSpec { rule, .. } if covers(rule.destination) => 0.1,
        Spec::Divert { prefix } if covers(*prefix) => 0.1,
        _ => 0.0,
    }
}

impl World {
    fn new(seed: u64, bug: Option<Bug>) -> Self {
        let mut chance = Chance::new(seed);
        let expires = chance.percent(50);
        let receivers = vec![
            // Routers report nothing.
            Receiver::new("core-a", &[Kind::FlowSpec, Kind::Blackhole], false, true, false),
            Receiver::new("scrub", &[Kind::Divert], expires, !expires || chance.percent(50), chance.percent(50)),
        ];
        let rules = Rules::of(&Variant::Whole.config(bug));
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
            checker: Checker::new(rules),
            variant: Variant::Whole,
            reload_due: false,
            operators: Operators::default(),
            goodput: None,
            answers: Vec::new(),
            repeats: Vec::new(),
            troubled: true,
            life: Life { steps: 0, orders: 0, crashes: 0, climbed: false, trace: 0 },
        }
    }

    pub(crate) fn now(&self) -> Now {
        let wall = self.at + self.wall_offset;
        let monotonic = if self.bug == Some(Bug::WallClock) { wall } else { self.at - self.booted_at + SECOND };
        Now { boot: BootId(self.boot), monotonic: Timestamp(monotonic), wall: UnixTime(wall) }
    }

    /// Something for the core, soon.
    pub(crate) fn feed(&mut self, input: Input) {
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
        self.dataplane.see(&seen, self.goodput);
        let bps: f64 = seen.values().sum::<f64>().min(CAPACITY_BPS);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a counter of bytes")]
        let bytes = (bps / 8.0 * if self.troubled { 1.5 } else { 2.0 }) as u64;
        self.dataplane.bytes += bytes;
        self.run()?;
        let ledger = self.process.as_ref().map(|process| process.core.ledger());
        self.checker.moment(&self.receivers, ledger, self.at)
    }

    /// What still arrives of the attacks.
    pub(crate) fn arriving(&self) -> BTreeMap<Target, f64> {
        let taken = |target: &Target| {
            let things = self.receivers.iter().flat_map(|receiver| receiver.in_force.values());
            things.map(|thing| share(&thing.spec, target)).fold(0.0_f64, f64::max)
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
            if self.bug == Some(Bug::TrustsBackups) && std::mem::take(&mut self.stored.restored) {
                // Ids are no part of this bug.
                self.stored.next_id = Some(Id(self.at));
            }
            if self.bug == Some(Bug::ReusedIds) {
                self.stored.next_id.get_or_insert(Id(1));
            }
            self.checker.started(&self.stored, &self.now(), self.at)?;
            let live = self.stored.mitigations.values().filter(|entry| !entry.has_ended());
            let live: Vec<DriverName> = live.map(|entry| entry.driver.clone()).collect();
            let policy = self.policy(live);
            self.take_effect(&policy);
            let core = Core::load(policy, self.stored.clone(), &self.now());
            self.process = Some(Process { core, journal: Journal::default(), store });
            self.reload_due = true;
        }
        if std::mem::take(&mut self.reload_due) {
            self.reload()?;
            if self.process.is_none() {
                return Ok(());
            }
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
        let at = self.at;
        self.answers.extend(self.repeats.extract_if(.., |(due, _)| *due <= at).map(|(_, input)| (at, input)));
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

    pub(crate) fn step(&mut self, input: Input) -> Result<(), String> {
        let now = self.now();
        let Some(process) = &mut self.process else { return Ok(()) };
        self.life.steps += 1;
        let input = spoilt(self.bug, input, &process.core);
        if let Input::Change(asked) = &input
            && let (Operation::Decide { incident, stage, approve: true, .. }, Actor::Operator { name, .. }) =
                (&asked.operation, &asked.actor)
        {
            self.checker.approved(*incident, stage, name);
        }
        let turned = if let Input::KillSwitch { engage, .. } = &input { Some(*engage) } else { None };
        let asked = match &input {
            Input::Change(asked) if matches!(asked.operation, Operation::KillSwitch { .. }) => Some(asked.clone()),
            _ => None,
        };
        let obeyed = !(turned == Some(true) && self.bug == Some(Bug::NoKillSwitch));
        let mut step: Step = if obeyed { process.core.step(&now, input) } else { Step::default() };
        self.checker.decided(&step.writes, &now, self.at);
        if let Some(engage) = turned {
            self.checker.turned(engage);
        }
        // What was answered before, or is refused, turns nothing.
        if let Some(Operation::KillSwitch { on, .. }) = asked.map(|asked| asked.operation)
            && process.core.kill_switch_is_engaged() == on
        {
            self.checker.turned(on);
        }
        if self.bug == Some(Bug::CommandsFirst) {
            let early: Vec<Command> = std::mem::take(&mut step.commands);
            for command in early {
                self.carry_out(command)?;
            }
        }
        let begins = if self.bug == Some(Bug::FullDisk) { begins(&step) } else { Vec::new() };
        let Some(process) = &mut self.process else { return Ok(()) };
        let durable = process.journal.commit(&mut process.store, step, &now);
        if self.disk.has_crashed() {
            // The process ended within the commit: nobody carries its commands out.
            self.crash();
            return Ok(());
        }
        let failing = process.journal.is_failing();
        if failing {
            for command in begins {
                self.carry_out(command)?;
            }
        }
        for write in &durable.stored {
            self.stored.apply(write);
            if let Write::PutMitigation(entry) = write {
                self.life.trace = self.life.trace.wrapping_mul(31).wrapping_add(entry.id.0).wrapping_add(self.at);
            }
        }
        self.checker.stored(&durable.stored, &now, self.at)?;
        for reply in durable.replies {
            self.told(reply, failing)?;
        }
        for input in durable.inputs {
            self.feed(input);
        }
        for command in durable.commands {
            self.carry_out(command)?;
        }
        Ok(())
    }
}
