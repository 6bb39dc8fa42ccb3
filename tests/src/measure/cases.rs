//! What is measured: the scenarios of each table.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use levee_api::vector::Vector;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{
    Figures, MeasureError, Replay, Site, prefix_threshold_pps,
    table::{Case, measure},
    threshold_pps,
};
use crate::{
    attack::Kind,
    conversation,
    scenario::{Component, Crowd, Pulse, Scenario},
};

/// How much is measured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Kinds of attack.
    pub kinds: Vec<Kind>,
    /// Rates, in thresholds.
    pub factors: Vec<f64>,
    /// Replays for each kind and rate, or for each crowd and condition.
    pub times: u64,
    /// Servers answer what reaches them.
    pub answered: bool,
    /// Replays at once.
    pub jobs: usize,
    /// Everything random follows from it.
    pub seed: u64,
    /// Where captures, reports and fates of replays are kept; none: nowhere.
    pub keep: Option<PathBuf>,
}

/// How long attacks last: over connections they take longer to be recognised.
const ATTACK_S: f64 = 1.5;
const CONNECTIONS_S: f64 = 4.0;
/// Peace before anything begins, in which it turns out that the return direction is visible, and how much later it begins at
/// most.
const BEFORE_S: f64 = 4.0;
const LATER_S: f64 = 1.0;
/// How long a crowd is watched, and how fast it rises.
const CROWD_S: f64 = 3.0;
const RISE_S: f64 = 0.3;
/// How long what a start is in the middle of goes on.
const RESTART_S: f64 = 10.0;

/// Every kind of attack at every rate, with onsets at random.
///
/// # Errors
/// When the program cannot be run.
pub fn floods(program: &Path, plan: &Plan) -> Result<Vec<Figures>, MeasureError> {
    let site = Site::learned(program, plan.seed, true)?;
    let cells = plan.kinds.iter().flat_map(|kind| plan.factors.iter().map(move |factor| (*kind, *factor)));
    measure(plan, cells.collect(), |(kind, factor), seed| {
        let scenario = with_flood(site.peace(seed, 0.0), *kind, factor * threshold_pps(*kind), plan.answered, seed);
        Case { name: format!("{kind} x {factor}"), replay: site.replay(), scenario, known_onsets: 0 }
    })
}

/// Attacks that move and come back, at twice and five times the threshold.
///
/// # Errors
/// When the program cannot be run.
pub fn shapes(program: &Path, plan: &Plan) -> Result<Vec<Figures>, MeasureError> {
    let site = Site::learned(program, plan.seed, true)?;
    let shapes = [Shape::HostAfterHost, Shape::Pulse, Shape::PulseElsewhere];
    let vectors =
        [Vector::SynFlood, Vector::AckFlood, Vector::UdpRandom, Vector::UdpConstant, Vector::DnsAmplification];
    let cells = shapes.into_iter().flat_map(|shape| vectors.map(|vector| (shape, Kind::Vector(vector))));
    let cells = cells.flat_map(|(shape, kind)| [2.0, 5.0].map(|factor| (shape, kind, factor)));
    measure(plan, cells.collect(), |(shape, kind, factor), seed| {
        let rate_per_s = match shape {
            Shape::HostAfterHost => factor * prefix_threshold_pps(*kind),
            Shape::Pulse | Shape::PulseElsewhere => factor * threshold_pps(*kind),
        };
        let mut scenario = with_flood(site.peace(seed, 0.0), *kind, rate_per_s, plan.answered, seed);
        let returns = Pulse { on_s: PULSE_S, off_s: PAUSE_S };
        for attack in &mut scenario.attacks {
            (attack.pulse, attack.dwell_s) = match shape {
                Shape::HostAfterHost => (None, Some(DWELL_S)),
                Shape::Pulse => (Some(returns), None),
                Shape::PulseElsewhere => (Some(returns), Some(PULSE_S + PAUSE_S)),
            };
            if attack.dwell_s.is_some() {
                attack.target = Site::network().unwrap_or(attack.target);
            }
            if attack.pulse.is_some() {
                attack.duration_s = 2.0 * PULSE_S + PAUSE_S;
                scenario.duration_s = attack.onset_s + attack.duration_s;
            }
        }
        let known_onsets = usize::from(*shape != Shape::HostAfterHost);
        Case { name: format!("{kind} x {factor}, {shape}"), replay: site.replay(), scenario, known_onsets }
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    HostAfterHost,
    Pulse,
    PulseElsewhere,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HostAfterHost => "host after host",
            Self::Pulse => "second pulse",
            Self::PulseElsewhere => "second pulse, on another host",
        })
    }
}

/// How long a host is attacked before it is the next one's turn.
const DWELL_S: f64 = 0.1;
/// A pulse, and the pause behind it, in which the first one is over for the detector.
const PULSE_S: f64 = 1.0;
const PAUSE_S: f64 = 2.0;

/// A crowd for each kind of conversation that can have one, alone and beside a SYN flood or a flood of datagrams.
///
/// # Errors
/// When the program cannot be run.
pub fn crowds(program: &Path, plan: &Plan) -> Result<Vec<Figures>, MeasureError> {
    let site = Site::learned(program, plan.seed, true)?;
    let beside = [None, Some(Vector::SynFlood), Some(Vector::UdpRandom), Some(Vector::DnsWaterTorture)];
    let cells = CROWDS.iter().flat_map(|crowd| beside.iter().map(move |beside| (*crowd, *beside)));
    measure(plan, cells.collect(), |((crowd, per_s), beside), seed| {
        let mut scenario = site.peace(seed, 0.0);
        add_crowd(&mut scenario, *crowd, *per_s, seed);
        let mut name = format!("crowd of {crowd:?}").to_lowercase();
        if let Some(kind) = beside.map(Kind::Vector) {
            scenario = with_flood(scenario, kind, 20.0 * threshold_pps(kind), plan.answered, seed);
            name += &format!(" beside {kind}");
        }
        Case { name, replay: site.replay(), scenario, known_onsets: 0 }
    })
}

/// Kinds of conversation that a crowd wants, and how many begin each second then.
const CROWDS: [(conversation::Kind, f64); 8] = [
    (conversation::Kind::Web, 800.0),
    (conversation::Kind::Query, 3_000.0),
    (conversation::Kind::Quic, 400.0),
    (conversation::Kind::Game, 100.0),
    (conversation::Kind::Voip, 60.0),
    (conversation::Kind::Ssh, 600.0),
    (conversation::Kind::Ping, 800.0),
    (conversation::Kind::Upload, 20.0),
];

/// What a mitigation may not rely on: the return direction that is not there, and a memory that is younger than the attack.
///
/// # Errors
/// When the program cannot be run.
pub fn conditions(program: &Path, plan: &Plan) -> Result<Vec<Figures>, MeasureError> {
    let site = Site::learned(program, plan.seed, true)?;
    let one_way = Site::learned(program, plan.seed, false)?;
    let floods = [Vector::SynFlood, Vector::AckFlood, Vector::DnsAmplification, Vector::UdpConstant];
    let what = [What::Peace, What::Crowd].into_iter().chain(floods.map(|vector| What::Flood(Kind::Vector(vector))));
    let conditions = [Condition::OneWay, Condition::InsideLost, Condition::Restart];
    let cells = conditions.into_iter().flat_map(|condition| what.clone().map(move |what| (condition, what)));
    measure(plan, cells.collect(), |(condition, what), seed| {
        let mut scenario = site.peace(seed, CROWD_S);
        match what {
            What::Peace => {}
            What::Crowd => add_crowd(&mut scenario, conversation::Kind::Web, 800.0, seed),
            What::Flood(kind) => {
                scenario = with_flood(scenario, *kind, 20.0 * threshold_pps(*kind), plan.answered, seed);
            }
        }
        let replay = match condition {
            Condition::OneWay => one_way.replay(),
            Condition::InsideLost => Replay { sees_inside: false, ..site.replay() },
            Condition::Restart => {
                begin_at_once(&mut scenario);
                Replay { state: None, ..site.replay() }
            }
        };
        Case { name: format!("{condition} {what}"), replay, scenario, known_onsets: 0 }
    })
}

#[derive(Clone, Copy)]
enum Condition {
    /// The return direction never passed.
    OneWay,
    /// It does not pass any more.
    InsideLost,
    /// Nothing was learned, and everything goes on already.
    Restart,
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OneWay => "one way:",
            Self::InsideLost => "inside lost:",
            Self::Restart => "restart in",
        })
    }
}

#[derive(Clone, Copy)]
enum What {
    Peace,
    Crowd,
    Flood(Kind),
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Peace => f.write_str("peace"),
            Self::Crowd => f.write_str("crowd"),
            Self::Flood(kind) => kind.fmt(f),
        }
    }
}

/// What is to come has begun before the program has.
fn begin_at_once(scenario: &mut Scenario) {
    scenario.duration_s = RESTART_S;
    for attack in &mut scenario.attacks {
        (attack.onset_s, attack.duration_s) = (0.0, RESTART_S);
    }
    for crowd in &mut scenario.crowds {
        (crowd.onset_s, crowd.duration_s, crowd.rise_s) = (0.0, RESTART_S, 0.0);
    }
}

/// Adds an attack that begins at any instant, and makes the scenario long enough for it.
fn with_flood(mut scenario: Scenario, kind: Kind, rate_per_s: f64, answered: bool, seed: u64) -> Scenario {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let onset_s = BEFORE_S + rng.random_range(0.0..LATER_S);
    let duration_s = if kind.needs_connections() { CONNECTIONS_S } else { ATTACK_S };
    scenario.duration_s = scenario.duration_s.max(onset_s + duration_s);
    scenario.attacks.extend(Site::target(kind).map(|target| Component {
        kind,
        target,
        port: None,
        sources: None,
        rate_per_s,
        onset_s,
        duration_s,
        answered,
        pulse: None,
        ramp: None,
        dwell_s: None,
    }));
    scenario
}

fn add_crowd(scenario: &mut Scenario, kind: conversation::Kind, per_s: f64, seed: u64) {
    let Some(server) = scenario.benign.servers.get(1).copied() else { return };
    let onset_s = BEFORE_S + ChaCha8Rng::seed_from_u64(!seed).random_range(0.0..LATER_S / 2.0);
    scenario.duration_s = scenario.duration_s.max(onset_s + CROWD_S);
    scenario.crowds.push(Crowd { kind, server, per_s, onset_s, duration_s: CROWD_S, rise_s: RISE_S });
}
