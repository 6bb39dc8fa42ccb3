//! The world around the engine in a simulation.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::str::FromStr;
use std::time::Duration;

use levee_api::config::{Action, Config, FlowSpecAction};
use levee_api::time::Timestamp;

use super::attack::{Attack, Report};
use super::story::{Line, NotEntered, Story};
use crate::clock::{BootId, Now, UnixTime, nanoseconds};
use crate::runbook::variable::{Type, Value, Values, Variable};
use crate::runbook::{
    Command, Failure, Input, News, Outcome, Progress, Runbook, Runbooks, Sight, StageState, describe,
};

/// What is assumed:
///
/// * from its detection to its end an attack has its peak rate; one whose end is not in the report ends with the capture,
///   at least [`World::LEAST`] after its detection;
/// * the capacity of the uplink is that of all wires together, and nothing but the attacks of the report is on it;
/// * what is in force upstream takes the attack away before the uplink; a rate limit leaves its rate;
/// * drivers carry out what they are told within a second; nobody answers questions; receivers report nothing.
///
/// What is not in a report (load of the box, goodput, sources) is unknown. [`Assumptions`] change all of that.
pub struct World<'a> {
    config: &'a Config,
    runbooks: &'a Runbooks,
    report: &'a Report,
    assumptions: &'a Assumptions,
}

/// What is assumed instead.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Assumptions {
    /// Variables that have this value all the time.
    pub values: Vec<(Variable, Value)>,
    /// Stages that fail, by name.
    pub fails: BTreeMap<String, Failure>,
    /// Questions that are answered, by stage.
    pub answers: BTreeMap<String, bool>,
    /// Stages that take nothing away.
    pub ineffective: BTreeSet<String>,
    /// For how long attacks last whose end is not in the report.
    pub lasts: Option<Duration>,
}

/// An assumption as it is written on the command line: `NAME=VALUE`.
#[derive(Clone, Debug, PartialEq)]
pub struct Assumption(pub Variable, pub Value);

/// Between two evaluations, as live.
const TICK: Duration = Duration::from_secs(1);
/// An utilisation of at least so much for so long is saturation.
const SATURATED: (f64, u32) = (0.95, 3);
/// Longer than any ladder takes to come down, and an end in any case.
const LONGEST: Duration = Duration::from_secs(48 * 60 * 60);

impl<'a> World<'a> {
    /// How long an attack lasts at least whose end is not known: long enough to see a ladder climbed.
    pub const LEAST: Duration = Duration::from_secs(600);

    /// A world with these attacks in it.
    pub const fn new(
        config: &'a Config,
        runbooks: &'a Runbooks,
        report: &'a Report,
        assumptions: &'a Assumptions,
    ) -> Self {
        Self { config, runbooks, report, assumptions }
    }

    /// What would have happened, by attack.
    pub fn stories(&self) -> Vec<Story> {
        self.report.attacks.iter().map(|attack| self.story(attack)).collect()
    }

    /// The runbook that is followed for an attack.
    pub fn runbook_of(&self, attack: &Attack) -> &'a Runbook {
        let zone = self.config.zones.iter().find(|zone| zone.name == attack.zone);
        self.runbooks.of_zone(zone.and_then(|zone| zone.runbook.as_deref()))
    }

    fn story(&self, attack: &Attack) -> Story {
        let runbook = self.runbook_of(attack);
        let mut run = Run {
            world: self,
            attack,
            runbook,
            progress: Progress::new(runbook),
            answers: VecDeque::new(),
            saturated: 0,
            now: now_at(attack.detected_at_ns, Duration::ZERO),
            lines: Vec::new(),
            held: vec![false; runbook.stages.len()],
            unknown: vec![BTreeSet::new(); runbook.stages.len()],
        };
        run.play();
        run.conclude()
    }

    fn end_of(&self, attack: &Attack) -> u64 {
        let least = attack.detected_at_ns.saturating_add(nanoseconds(self.assumptions.lasts.unwrap_or(Self::LEAST)));
        attack.ended_at_ns.unwrap_or(if self.assumptions.lasts.is_some() {
            least
        } else {
            least.max(self.report.ends_at_ns)
        })
    }
}

fn now_at(begin_unix_ns: u64, after: Duration) -> Now {
    Now {
        boot: BootId(0),
        monotonic: Timestamp::ZERO + after,
        wall: UnixTime(begin_unix_ns.saturating_add(nanoseconds(after))),
    }
}

/// What somebody will say.
enum Pending {
    Result { stage: usize, change: u32, outcome: Outcome },
    Answer { stage: usize, person: u8, yes: bool },
}

/// One incident.
struct Run<'w> {
    world: &'w World<'w>,
    attack: &'w Attack,
    runbook: &'w Runbook,
    progress: Progress,
    /// What drivers and people will say a tick later.
    answers: VecDeque<Pending>,
    /// Ticks in a row with a full uplink.
    saturated: u32,
    now: Now,
    lines: Vec<Line>,
    /// By stage: its condition has held once.
    held: Vec<bool>,
    /// By stage: what its condition asked for and did not get.
    unknown: Vec<BTreeSet<Variable>>,
}

impl Run<'_> {
    fn play(&mut self) {
        let ends = self.world.end_of(self.attack);
        let mut over = false;
        let mut after = Duration::ZERO;
        while after < LONGEST {
            self.now = now_at(self.attack.detected_at_ns, after);
            if !over && self.now.wall.0 >= ends {
                over = true;
                self.lines.push(Line::of_attack(after, self.now.wall, "the attack ends"));
            }
            for pending in std::mem::take(&mut self.answers) {
                match pending {
                    Pending::Result { stage, change, outcome } => {
                        self.step(Input::Result { stage, change, outcome });
                    }
                    Pending::Answer { stage, person, yes } => {
                        self.step(Input::Answer { stage, by: &format!("person {person}"), yes });
                    }
                }
            }
            let values = self.values();
            self.note(&values);
            let effective: Vec<Sight> = self
                .runbook
                .stages
                .iter()
                .map(|stage| Sight {
                    effective: Some(!self.world.assumptions.ineffective.contains(&stage.name)),
                    ..Sight::default()
                })
                .collect();
            self.step(Input::Measured { values: &values, sights: &effective });
            if over && self.progress.is_at_rest() {
                return;
            }
            after += TICK;
        }
    }

    fn step(&mut self, input: Input<'_>) {
        let commands = self.runbook.step(&mut self.progress, &self.now, input);
        for command in commands {
            self.carry_out(&command);
        }
    }

    fn carry_out(&mut self, command: &Command) {
        let Some(stage) = self.runbook.stages.get(command.stage()) else { return };
        let after = Duration::from_nanos(self.now.monotonic.0);
        match command {
            Command::Enter { stage: at, change, .. } => {
                let outcome = match self.world.assumptions.fails.get(&stage.name) {
                    Some(failure) => Outcome::Failed(*failure),
                    None => Outcome::InForce,
                };
                self.answers.push_back(Pending::Result { stage: *at, change: *change, outcome });
            }
            Command::StepDown { stage: at, change, .. } | Command::StepUp { stage: at, change, .. } => {
                let outcome = Outcome::InForce;
                self.answers.push_back(Pending::Result { stage: *at, change: *change, outcome });
            }
            Command::Leave { stage: at, change } => {
                let outcome = Outcome::Ended;
                self.answers.push_back(Pending::Result { stage: *at, change: *change, outcome });
            }
            Command::Ask { stage: at, .. } => {
                if let Some(yes) = self.world.assumptions.answers.get(&stage.name) {
                    let people = stage.approve.as_ref().map_or(1, |ask| ask.people);
                    let answers = (0..people).map(|person| Pending::Answer { stage: *at, person, yes: *yes });
                    self.answers.extend(answers);
                }
            }
            Command::Tell { news, .. } => {
                let mut text = news.words().to_owned();
                if matches!(news, News::Entering | News::Asked) {
                    text = format!("{text}: {}", describe(stage));
                }
                self.lines.push(Line::of_stage(after, self.now.wall, &stage.name, *news, text));
            }
            Command::Renew { .. } => {
                if let Some(line) = self.lines.iter_mut().rev().find(|line| line.stage.as_deref() == Some(&stage.name))
                {
                    line.renewals += 1;
                }
            }
            Command::Unask { .. } => {}
        }
    }

    /// Rates as they are seen behind what is in force, packets and bits per second.
    fn seen(&self) -> (f64, f64) {
        if self.now.wall.0 >= self.world.end_of(self.attack) {
            return (0.0, 0.0);
        }
        let bps =
            self.runbook.stages.iter().zip(&self.progress.stages).fold(self.attack.peak_bps, |left, (stage, state)| {
                let takes = !self.world.assumptions.ineffective.contains(&stage.name);
                match (&state.state, takes) {
                    (StageState::Active { .. }, true) => left.min(passes(&stage.action)),
                    (StageState::Probing { .. }, true) => left.min(limit_of(&stage.action)),
                    _ => left,
                }
            });
        let share = if self.attack.peak_bps > 0.0 { bps / self.attack.peak_bps } else { 1.0 };
        (self.attack.peak_pps * share, bps)
    }

    fn values(&mut self) -> Values {
        let (pps, bps) = self.seen();
        let mut values = Values::default();
        values.set(Variable::AttackActive, Value::Bool(pps > 0.0));
        values.number(Variable::AttackPps, Some(pps));
        values.number(Variable::AttackBps, Some(bps));
        values.set(Variable::AttackAge, Value::Duration(Duration::from_nanos(self.now.monotonic.0)));
        let vectors = self.attack.vectors.iter().map(|(name, _)| name.clone()).collect();
        values.set(Variable::AttackVectors, Value::List(vectors));
        let confidence = self.attack.vectors.iter().map(|(_, confidence)| *confidence).fold(0.0, f64::max);
        values.number(Variable::AttackConfidence, Some(confidence));
        self.uplink(&mut values, bps);
        let zone = self.world.config.zones.iter().find(|zone| zone.name == self.attack.zone);
        values.set(Variable::ZoneName, Value::Text(self.attack.zone.clone()));
        if let Some(zone) = zone {
            values.set(Variable::ZoneMode, Value::Text(zone.mode.to_string()));
            values.number(Variable::ZoneLinkCapacity, zone.link_capacity_bps.map(approximately));
        }
        values.set(Variable::TargetPrefix, Value::Text(self.attack.target.to_string()));
        values.number(Variable::TargetLength, Some(f64::from(self.attack.target.length())));
        values.set(Variable::TargetIpv6, Value::Bool(!self.attack.target.is_ipv4()));
        let seconds = self.now.wall.0 / 1_000_000_000;
        values.number(Variable::NowHour, u32::try_from(seconds / 3_600 % 24).ok().map(f64::from));
        // 1970-01-01 was a Thursday.
        values.number(Variable::NowWeekday, u32::try_from((seconds / 86_400 + 3) % 7 + 1).ok().map(f64::from));
        let windows = &self.world.config.maintenance;
        let maintenance = windows.iter().any(|window| window.contains(&self.attack.zone, seconds));
        values.set(Variable::NowMaintenance, Value::Bool(maintenance));
        for (variable, value) in &self.world.assumptions.values {
            values.set(*variable, value.clone());
        }
        values
    }

    fn uplink(&mut self, values: &mut Values, bps: f64) {
        let others = self.world.report.attacks.iter().filter(|other| {
            !std::ptr::eq(*other, self.attack) && other.lasts_at(self.now.wall.0, self.world.report.ends_at_ns)
        });
        let bps = bps + others.map(|other| other.peak_bps).sum::<f64>();
        let given = |variable| {
            self.world.assumptions.values.iter().find(|(known, _)| *known == variable).and_then(
                |(_, value)| match value {
                    Value::Number(number) => Some(*number),
                    _ => None,
                },
            )
        };
        let wires = &self.world.config.dataplane.wires;
        let sum = wires.iter().map(|wire| wire.capacity_bps).sum::<Option<u64>>().filter(|sum| *sum > 0);
        let capacity = given(Variable::UplinkCapacity).or_else(|| sum.map(approximately));
        let bps = given(Variable::UplinkBps).unwrap_or(bps);
        // More than the uplink carries does not come in.
        let bps = capacity.map_or(bps, |capacity| bps.min(capacity));
        let utilisation = given(Variable::UplinkUtilisation).or_else(|| capacity.map(|capacity| bps / capacity));
        self.saturated = match utilisation {
            Some(utilisation) if utilisation >= SATURATED.0 => self.saturated.saturating_add(1),
            _ => 0,
        };
        values.number(Variable::UplinkBps, Some(bps));
        values.number(Variable::UplinkCapacity, capacity);
        values.number(Variable::UplinkUtilisation, utilisation);
        let full = self.saturated >= SATURATED.1;
        if utilisation.is_some() {
            values.set(Variable::UplinkSaturated, Value::Bool(full));
        }
        let severity = match utilisation {
            _ if full => 4.0,
            Some(utilisation) if utilisation > 0.7 => 3.0,
            _ if self.attack.filtered => 2.0,
            _ => 1.0,
        };
        values.number(Variable::AttackSeverity, Some(severity));
    }

    /// What conditions wanted to know, for stages that are never entered.
    fn note(&mut self, values: &Values) {
        let views = self.progress.views(&self.now);
        for (at, stage) in self.runbook.stages.iter().enumerate() {
            let Some(when) = &stage.when else { continue };
            let context = crate::runbook::condition::Context { values, stages: &views };
            if let (crate::runbook::condition::Verdict::Unknown, Some(unknown)) =
                (when.evaluate(&context), self.unknown.get_mut(at))
            {
                unknown.extend(when.variables().into_iter().filter(|variable| values.get(*variable).is_none()));
            }
        }
    }

    fn conclude(mut self) -> Story {
        for line in &self.lines {
            let at = self.runbook.stages.iter().position(|stage| Some(&stage.name) == line.stage.as_ref());
            if let Some(held) = at.and_then(|at| self.held.get_mut(at)) {
                *held = true;
            }
        }
        let not_entered =
            self.runbook.stages.iter().zip(&self.held).zip(&self.unknown).filter(|((_, held), _)| !**held);
        let not_entered = not_entered.map(|((stage, _), unknown)| NotEntered {
            stage: stage.name.clone(),
            when: stage.written.clone(),
            unknown: unknown.iter().map(|variable| variable.name()).collect(),
        });
        Story {
            attack: self.attack.clone(),
            runbook: self.runbook.name.clone(),
            not_entered: not_entered.collect(),
            at_rest: self.progress.is_at_rest(),
            lines: self.lines,
        }
    }
}

/// Bits per second that an action in force lets pass.
fn passes(action: &Action) -> f64 {
    match action {
        Action::FlowSpec(flowspec) => match flowspec.prefer {
            FlowSpecAction::RateLimit => approximately(flowspec.rate_bps),
            FlowSpecAction::Drop | FlowSpecAction::Redirect { .. } => 0.0,
            FlowSpecAction::Mark { .. } | FlowSpecAction::Sample => f64::INFINITY,
        },
        Action::Divert(_) | Action::Blackhole(_) => 0.0,
        _ => f64::INFINITY,
    }
}

/// Bits per second that it lets pass while it is stepped down.
fn limit_of(action: &Action) -> f64 {
    match action {
        Action::FlowSpec(flowspec) => approximately(flowspec.rate_bps),
        Action::Blackhole(blackhole) => approximately(blackhole.rate_bps),
        _ => f64::INFINITY,
    }
}

/// A rate as a double: what is lost beyond 2^53 bits per second does not decide anything.
#[expect(clippy::cast_precision_loss, reason = "rates of links are far below 2^53")]
const fn approximately(rate: u64) -> f64 {
    rate as f64
}

impl FromStr for Assumption {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('=').ok_or("write NAME=VALUE, such as local.cpu=0.9")?;
        let name = name.trim();
        if let Some(field) = name.strip_prefix("stage.") {
            let stage = field.split('.').next().unwrap_or_default();
            return Err(format!(
                "what becomes of a stage is not assumed, it happens: let it fail with --fail {stage}=error, let it help nothing \
                 with --ineffective {stage}, answer it with --answer {stage}=yes"
            ));
        }
        let variable = Variable::ALL.iter().find(|variable| variable.name() == name).ok_or_else(|| {
            let names: Vec<&str> = Variable::ALL.iter().map(|variable| variable.name()).collect();
            match levee_api::config::nearest(name, &names) {
                Some(near) => format!("there is no variable {name}: did you mean {near}?"),
                None => format!("there is no variable {name}: see docs/reference/runbook-variables.md"),
            }
        })?;
        let value = value.trim();
        let parsed = match variable.kind() {
            Type::Number => value.parse::<f64>().ok().filter(|number| number.is_finite()).map(Value::Number),
            Type::Bool => value.parse::<bool>().ok().map(Value::Bool),
            Type::Text => Some(Value::Text(value.to_owned())),
            Type::List => Some(Value::List(value.split(',').map(|part| part.trim().to_owned()).collect())),
            Type::Duration => levee_api::config::duration(value).ok().map(Value::Duration),
        };
        let example = match variable.kind() {
            Type::Number if variable.is_share() => "0.9",
            Type::Number => "2e9",
            Type::Bool => "true",
            Type::Duration => "5m",
            Type::Text | Type::List => "",
        };
        let wrong = || format!("{value:?} is no {}, which {name} is: write {name}={example}", variable.kind());
        let parsed = parsed.ok_or_else(wrong)?;
        match variable.refuses(&parsed) {
            Some(why) => Err(format!("{name} is never {value}: {why}")),
            None => Ok(Self(*variable, parsed)),
        }
    }
}
