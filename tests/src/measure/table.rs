//! Many replays beside each other, and what they come to.

use std::{
    fmt,
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{MeasureError, Replay, Score, Site, threshold_pps};
use crate::{
    attack::Kind,
    conversation,
    scenario::{Component, Crowd, Scenario},
    timeline::Share,
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
}

/// Figures of some replays of one kind.
#[derive(Clone, Debug)]
pub struct Figures {
    /// What was replayed.
    pub name: String,
    /// How long attacks were until they were dropped, in order; those that never were come last.
    pub dropped_after: Vec<Option<Duration>>,
    /// Attack packets that passed.
    pub leaked: Share,
    /// Legitimate packets that were lost.
    pub lost: Share,
    /// Packets of crowds that were lost.
    pub crowd_lost: Share,
    /// Conversations of clients that were challenged.
    pub challenged: Share,
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

/// Every kind of attack at every rate, with onsets at random.
///
/// # Errors
/// When the program cannot be run.
pub fn floods(program: &Path, plan: &Plan) -> Result<Vec<Figures>, MeasureError> {
    let site = Site::learned(program, plan.seed)?;
    let cells = plan.kinds.iter().flat_map(|kind| plan.factors.iter().map(move |factor| (*kind, *factor)));
    measure(plan, cells.collect(), |(kind, factor), seed| {
        let scenario = with_flood(site.peace(seed, 0.0), *kind, factor * threshold_pps(*kind), plan.answered, seed);
        (format!("{kind} x {factor}"), site.replay(), scenario)
    })
}

/// A crowd for each kind of conversation that can have one, alone and beside a SYN flood or a flood of datagrams.
///
/// # Errors
/// When the program cannot be run.
pub fn crowds(program: &Path, plan: &Plan) -> Result<Vec<Figures>, MeasureError> {
    let site = Site::learned(program, plan.seed)?;
    let beside = [None, Some("syn-flood"), Some("udp-random"), Some("dns-water-torture")];
    let cells = CROWDS.iter().flat_map(|crowd| beside.iter().map(move |beside| (*crowd, *beside)));
    measure(plan, cells.collect(), |((crowd, per_s), beside), seed| {
        let mut scenario = site.peace(seed, 0.0);
        add_crowd(&mut scenario, *crowd, *per_s, seed);
        let mut name = format!("crowd of {crowd:?}").to_lowercase();
        if let Some(kind) = beside.and_then(|kind| kind.parse::<Kind>().ok()) {
            scenario = with_flood(scenario, kind, 20.0 * threshold_pps(kind), plan.answered, seed);
            name += &format!(" beside {kind}");
        }
        (name, site.replay(), scenario)
    })
}

/// Kinds of conversation that a crowd wants, and how many begin each second then.
const CROWDS: [(conversation::Kind, f64); 7] = [
    (conversation::Kind::Web, 800.0),
    (conversation::Kind::Query, 3_000.0),
    (conversation::Kind::Quic, 400.0),
    (conversation::Kind::Game, 100.0),
    (conversation::Kind::Voip, 60.0),
    (conversation::Kind::Ssh, 600.0),
    (conversation::Kind::Ping, 800.0),
];

/// What a mitigation may not rely on: the return direction that is not there, and a memory that is younger than the attack.
///
/// # Errors
/// When the program cannot be run.
pub fn conditions(program: &Path, plan: &Plan) -> Result<Vec<Figures>, MeasureError> {
    let site = Site::learned(program, plan.seed)?;
    let what =
        [None, Some("crowd"), Some("syn-flood"), Some("ack-flood"), Some("dns-amplification"), Some("udp-constant")];
    let cells = [false, true].into_iter().flat_map(|restart| what.into_iter().map(move |what| (restart, what)));
    measure(plan, cells.collect(), |(restart, what), seed| {
        let mut scenario = site.peace(seed, CROWD_S);
        let mut replay = site.replay();
        let condition = if *restart {
            replay.state = None;
            "restart in"
        } else {
            replay.sees_inside = false;
            "no inside:"
        };
        match what.map(str::parse::<Kind>) {
            Some(Ok(kind)) => scenario = with_flood(scenario, kind, 20.0 * threshold_pps(kind), true, seed),
            Some(Err(_)) => add_crowd(&mut scenario, conversation::Kind::Web, 800.0, seed),
            None => {}
        }
        if *restart {
            begin_at_once(&mut scenario);
        }
        (format!("{condition} {}", what.unwrap_or("peace")), replay, scenario)
    })
}

/// What is to come has begun before the program has.
fn begin_at_once(scenario: &mut Scenario) {
    scenario.attacks.iter_mut().for_each(|attack| attack.onset_s = 0.0);
    for crowd in &mut scenario.crowds {
        (crowd.onset_s, crowd.rise_s) = (0.0, 0.0);
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

/// Replays each cell so many times, all with seeds of their own, and puts together what belongs to one.
fn measure<'a, T: Sync>(
    plan: &Plan,
    cells: Vec<T>,
    make: impl Fn(&T, u64) -> (String, Replay<'a>, Scenario) + Sync,
) -> Result<Vec<Figures>, MeasureError> {
    let times = usize::try_from(plan.times).unwrap_or(usize::MAX).max(1);
    let next = AtomicUsize::new(0);
    let scores = Mutex::new(Vec::new());
    let work = || -> Result<(), MeasureError> {
        loop {
            let job = next.fetch_add(1, Ordering::Relaxed);
            let Some(cell) = cells.get(job / times) else { return Ok(()) };
            let seed = plan.seed.wrapping_mul(1 << 32).wrapping_add(job as u64);
            let (name, replay, scenario) = make(cell, seed);
            let score = Score::of(&scenario, &replay.run(&scenario)?);
            scores.lock().unwrap_or_else(PoisonError::into_inner).push((job, name, score));
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..plan.jobs.max(1)).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or(Ok(())))
    })?;
    let mut scores = scores.into_inner().unwrap_or_else(PoisonError::into_inner);
    scores.sort_by_key(|(job, ..)| *job);
    Ok(scores.chunk_by(|one, other| one.0 / times == other.0 / times).filter_map(Figures::of).collect())
}

impl Figures {
    fn of(scores: &[(usize, String, Score)]) -> Option<Self> {
        let sum = |share: fn(&Score) -> Share| {
            let add = |a: Share, b: Share| Share { part: a.part + b.part, whole: a.whole + b.whole };
            scores.iter().map(|(.., score)| share(score)).fold(Share { part: 0, whole: 0 }, add)
        };
        let mut dropped_after: Vec<_> = scores.iter().flat_map(|(.., score)| score.dropped_after.clone()).collect();
        dropped_after.sort_by_key(|after| after.unwrap_or(Duration::MAX));
        Some(Self {
            name: scores.first()?.1.clone(),
            dropped_after,
            leaked: sum(|score| score.leaked),
            lost: sum(|score| score.lost),
            crowd_lost: sum(|score| score.crowd_lost),
            challenged: sum(|score| score.challenged),
        })
    }

    /// Of the times until an attack was dropped the one that so many percent do not exceed; `None` if some of these never
    /// were, or there was no attack.
    pub fn quantile(&self, percent: usize) -> Option<Duration> {
        let last = self.dropped_after.len().checked_sub(1)?;
        self.dropped_after.get((last * percent).div_ceil(100)).copied().flatten()
    }

    /// The head of the table that [`Self`] is a row of.
    pub const HEAD: &str = "| | onsets | p50 ms | p99 ms | never | attack leaked % | legitimate lost % | crowd lost % | clients challenged % |\n\
        |---|---|---|---|---|---|---|---|---|";
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |percent| match (self.dropped_after.is_empty(), self.quantile(percent)) {
            (true, _) => "-".to_owned(),
            (_, None) => "never".to_owned(),
            (_, Some(after)) => after.as_millis().to_string(),
        };
        let percent = |share: Share| share.percent().map_or("-".to_owned(), |percent| format!("{percent:.3}"));
        let never = self.dropped_after.iter().filter(|after| after.is_none()).count();
        let Self { name, leaked, lost, crowd_lost, challenged, dropped_after } = self;
        let (p50, p99, onsets) = (ms(50), ms(99), dropped_after.len());
        let [leaked, lost, crowd, challenged] = [*leaked, *lost, *crowd_lost, *challenged].map(percent);
        write!(f, "| {name} | {onsets} | {p50} | {p99} | {never} | {leaked} | {lost} | {crowd} | {challenged} |")
    }
}
