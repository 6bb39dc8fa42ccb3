//! Weeks of peace in minutes: what the detector takes for an attack when there is none.
//!
//! Packets of conversations go through the data path and the detector of one worker, in this process and without captures, with
//! a tick every 10 ms of their time. They follow the day and the week, gather in bursts as browsers make them, swell without
//! a cause, come in crowds, and all at once on the hour.

use std::{cmp::Reverse, collections::BinaryHeap, f64::consts::TAU, fmt, net::IpAddr, num::NonZeroU32};

use levee_api::zone::{Challenge, Mode, Service as Served, Visibility, Zone};
use levee_engine::{
    detect::{
        detector::{Outcome, TICK},
        event::{Phase, What},
    },
    engine::{Engine, Settings},
    isa::Isa,
    packet::{Direction, Packet},
    pipeline::Pipeline,
    tables::OnFailure,
    target::plan::PlanError,
    time::Timestamp,
    verdict::Verdict,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{
    conversation::{Event, Kind},
    frame::Link,
    scenario::Queue,
};

const SECOND: u64 = 1_000_000_000;
const HOUR: u64 = 3_600 * SECOND;
const DAY: u64 = 24 * HOUR;

/// Rates are drawn anew at least this often.
const STEP_NS: u64 = 10 * SECOND;
/// Hosts besides the two busy ones, and conversations a second with all of them together at the peak of a day.
const HOSTS: u8 = 198;
const QUIET_PER_S: f64 = 3.0;
/// What the busy ones serve, and how often at the peak.
const BUSY: [(Kind, f64); 2] = [(Kind::Query, 100.0), (Kind::Web, 4.0)];
/// What the others serve: of a hundred conversations so many.
const MIX: [(Kind, u8); 9] = [
    (Kind::Web, 30),
    (Kind::Query, 25),
    (Kind::Lookup, 20),
    (Kind::Quic, 10),
    (Kind::Fetch, 6),
    (Kind::Ping, 4),
    (Kind::Ssh, 2),
    (Kind::Game, 2),
    (Kind::Voip, 1),
];

/// What is done on a schedule.
const JOBS: [Kind; 4] = [Kind::Web, Kind::Query, Kind::Fetch, Kind::Lookup];

/// What happened in peace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peace {
    /// Protected hosts.
    pub destinations: u64,
    /// Length.
    pub days: u64,
    /// Packets from outside.
    pub packets: u64,
    /// Of these, lost.
    pub lost: u64,
    /// Times that a role at a target left its normal state.
    pub watches: u64,
    /// What was taken for an attack: when, where and why.
    pub attacks: Vec<String>,
    /// Filters that were put in force.
    pub filters: u64,
}

impl Peace {
    /// The head of the table that a peace is the row of.
    pub const HEAD: &str = "| days | destinations | packets | lost | watches | attacks | filters | attacks per 1000 destination-days |\n\
        |---|---|---|---|---|---|---|---|";
}

impl fmt::Display for Peace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { destinations, days, packets, lost, watches, attacks, filters } = self;
        let count = attacks.len() as u64;
        let hundredths = 100_000 * count / (destinations * days).max(1);
        let (whole, part) = (hundredths / 100, hundredths % 100);
        write!(
            f,
            "| {days} | {destinations} | {packets} | {lost} | {watches} | {count} | {filters} | {whole}.{part:02} |"
        )?;
        attacks.iter().try_for_each(|attack| write!(f, "\n{attack}"))
    }
}

/// What one host offers.
struct Service {
    host: IpAddr,
    kind: Kind,
    per_s: f64,
    next_ns: u64,
    rng: ChaCha8Rng,
}

/// Lets so many days of peace pass.
///
/// # Errors
/// When the site cannot be laid out.
pub fn weeks(days: u64, seed: u64) -> Result<Peace, PlanError> {
    let mut services = services(seed);
    let mut appliance = Appliance::new()?;
    appliance.peace = Peace { destinations: u64::from(HOSTS) + BUSY.len() as u64, days, ..Peace::default() };
    let mut waiting = Queue::default();
    let mut due: BinaryHeap<_> = (0..).zip(&services).map(|(at, service)| Reverse((service.next_ns, at))).collect();
    while let Some(Reverse((next_ns, at))) = due.pop().filter(|Reverse((next_ns, _))| *next_ns < days * DAY) {
        while waiting.first_ns().is_some_and(|first| first < next_ns) {
            waiting.pop().into_iter().for_each(|(event, ())| appliance.take(&event));
        }
        if let Some(service) = services.get_mut(at) {
            waiting.push(service.begin(), ());
            due.push(Reverse((service.next_ns, at)));
        }
    }
    Ok(appliance.peace)
}

fn services(seed: u64) -> Vec<Service> {
    let host = |last: u8| IpAddr::from([203, 0, 113, last]);
    // As with most sites, a few have most of it.
    let weight = |at: u8| 1.0 / (f64::from(at) + 4.0);
    let sum: f64 = (0..HOSTS).map(weight).sum();
    let quiet = (0..HOSTS).flat_map(|at| {
        let all = QUIET_PER_S * weight(at) / sum;
        MIX.map(|(kind, part)| (host(at + 1), kind, all * f64::from(part) / 100.0))
    });
    let busy = BUSY.into_iter().zip(HOSTS + 1..).map(|((kind, per_s), last)| (host(last), kind, per_s));
    let new = |(number, (host, kind, per_s))| {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(number);
        Service { host, kind, per_s, next_ns: rng.random_range(0..STEP_NS), rng }
    };
    (0u64..).zip(quiet.chain(busy)).map(new).collect()
}

impl Service {
    /// What begins now, and when to ask again.
    fn begin(&mut self) -> Vec<Event> {
        let now_ns = self.next_ns;
        let gap_s = -(1.0 - self.rng.random::<f64>()).ln() / (self.per_s * self.share(now_ns));
        let gap = std::time::Duration::try_from_secs_f64(gap_s).map_or(STEP_NS, crate::time_bins::ns);
        self.next_ns = now_ns + gap.clamp(1, STEP_NS);
        // On the hour, jobs that load something, ask or look up come at once: one service in ten has clients with such jobs.
        let on_the_hour = (now_ns / HOUR != self.next_ns / HOUR).then_some(self.next_ns / HOUR * HOUR);
        let scheduled = match on_the_hour {
            Some(hour_ns) if JOBS.contains(&self.kind) && self.draw(u64::MAX) < 0.1 => Some((hour_ns, 20, 2 * SECOND)),
            _ => None,
        };
        // Browsers open some connections at once.
        let together = if self.kind == Kind::Web { self.rng.random_range(1..=6) } else { 1 };
        let arrived = (gap <= STEP_NS).then_some((self.next_ns, together, 50_000_000));
        let mut events = Vec::new();
        for (from_ns, count, within_ns) in scheduled.into_iter().chain(arrived) {
            for _ in 0..count {
                let at_ns = from_ns + self.rng.random_range(0..within_ns);
                events.extend(self.kind.conversation(at_ns, self.host, Link::default(), &mut self.rng));
            }
        }
        events
    }

    /// Of the rate at the peak of a day.
    fn share(&self, now_ns: u64) -> f64 {
        let hour = f64::from(u32::try_from(now_ns % DAY / SECOND).unwrap_or(0)) / 3_600.0;
        let day = 0.6 - 0.4 * (TAU * (hour - 4.0) / 24.0).cos();
        let week = if now_ns / DAY % 7 < 5 { 1.0 } else { 0.6 };
        // Between two thirds and one and a half times, anew every five minutes.
        let swell = 1.5_f64.powf(2.0 * self.draw(now_ns / (300 * SECOND)) - 1.0);
        // One hour in two hundred brings a crowd: ten times as many for five minutes.
        let minute = now_ns % HOUR / (60 * SECOND);
        let crowd = self.draw(!(now_ns / HOUR)) < 0.005 && (20..25).contains(&minute);
        day * week * swell * if crowd { 10.0 } else { 1.0 }
    }

    /// A number of this service's for a period of time, at least 0 and less than 1.
    fn draw(&self, period: u64) -> f64 {
        let mut rng = ChaCha8Rng::seed_from_u64(period);
        rng.set_stream(self.rng.get_stream());
        rng.random()
    }
}

/// One worker and the engine, by the clock of the packets.
struct Appliance {
    engine: Engine,
    path: Pipeline,
    next_tick: Timestamp,
    running: Option<(Timestamp, Outcome)>,
    peace: Peace,
}

/// What an extraction may take live.
const EXTRACTION_BUDGET: std::time::Duration = std::time::Duration::from_millis(10);
/// The clock of packets begins at 0, which is before every timestamp that counts.
const START: Timestamp = Timestamp(DAY);

impl Appliance {
    fn new() -> Result<Self, PlanError> {
        let zone = Zone {
            name: "site".to_owned(),
            prefixes: "203.0.113.0/24".parse().into_iter().collect(),
            mode: Mode::Enforce,
            services: vec![
                Served { protocol: 6, ports: vec![(22, 22), (80, 80), (443, 443)] },
                Served {
                    protocol: 17,
                    ports: vec![(53, 53), (443, 443), (5_060, 5_060), (16_384, 16_999), (27_015, 27_015)],
                },
            ],
            services_complete: false,
            visibility: Visibility::Auto,
            link_capacity_bps: Some(1_000_000_000),
            floors: Vec::new(),
            challenge: Challenge::default(),
            challenge_dns: false,
            runbook: None,
        };
        let settings = Settings {
            workers: NonZeroU32::MIN,
            conversations: 1 << 18,
            hosts: 1 << 10,
            filters: 1 << 13,
            secret: (1, 2),
            ceiling: Mode::Enforce,
            evicted: OnFailure::Pass,
            too_deep: OnFailure::Pass,
            spare_slots: 0,
            learn_only: false,
            isa: Isa::detect(),
        };
        let (engine, mut paths) = Engine::build(&[zone], &[], settings, START)?;
        let path = paths.remove(0);
        Ok(Self { engine, path, next_tick: START + TICK, running: None, peace: Peace::default() })
    }

    fn take(&mut self, event: &Event) {
        let now = Timestamp(START.0 + event.at_ns);
        while self.next_tick <= now {
            self.tick();
        }
        let direction = if event.inbound { Direction::Inbound } else { Direction::Outbound };
        let packet = Packet { head: &event.frame, wire_len: u32::try_from(event.frame.len()).unwrap_or(u32::MAX) };
        let mut verdict = [Verdict::Forward];
        self.path.burst(0, direction, &[packet], now, &mut verdict);
        if event.inbound {
            self.peace.packets += 1;
            self.peace.lost += u64::from(verdict != [Verdict::Forward]);
        }
    }

    fn tick(&mut self) {
        let now = self.next_tick;
        self.next_tick = now + TICK;
        self.engine.tick(now);
        if let Some((_, outcome)) = self.running.take_if(|(due, _)| *due <= now) {
            self.engine.complete(outcome, now);
        }
        if self.running.is_none() {
            self.running = self.engine.next_task(now).map(|task| (now + EXTRACTION_BUDGET, task.run()));
        }
        for event in self.engine.detector.take_events() {
            let after_s = event.at.since(START).as_secs();
            match event.what {
                What::FilterInstalled { .. } => self.peace.filters += 1,
                What::Phase { target, role, from, to, rate_pps, threshold_pps, witness } => {
                    self.peace.watches += u64::from(from == Phase::Normal);
                    if to == Phase::Attack {
                        let why = witness.unwrap_or_default();
                        self.peace.attacks.push(format!(
                            "* after {after_s} s, {target}, {role}: {rate_pps:.0} pps, threshold {threshold_pps:.0}: {why}"
                        ));
                    }
                }
                _ => {}
            }
        }
    }
}
