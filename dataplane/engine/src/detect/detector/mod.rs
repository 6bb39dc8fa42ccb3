//! The detector: a tick every 10 ms, from counters to anomalies to measures.
//!
//! It runs on one thread, apart from the workers. A tick goes through these files in order: `collect` reads what the
//! workers left, `judge` moves the state of every role at every target concerned, `answer` puts measures in force and
//! ends them, `report` tells it all. What takes long (signature extraction) is handed out as a [`Task`] and comes back
//! through [`Detector::complete`]: on the analysis thread live, after its budgeted time in replay. `memory` carries what
//! was learned over restarts and changes of policy.

mod answer;
mod challenge;
mod collect;
mod established;
mod evidence;
mod judge;
mod legitimate;
mod memory;
mod report;
mod sight;
mod task;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use levee_api::filter::Target;
use levee_api::time::Timestamp;
use levee_api::zone::Zone;

use crate::detect::event::{Event, Phase, What};
use crate::detect::growth;
use crate::detect::hours::hour_of_week;
use crate::detect::measures::Measures;
use crate::detect::node::{NodeId, Nodes};
use crate::detect::proofs::Proofs;
use crate::detect::services::Services;
use crate::detect::slots::{Left, Limits, Slots};
use crate::detect::threshold::Calendar;
use crate::detect::zone::ZoneState;
use crate::isa::Isa;
use crate::link::{DetectorEnd, Watch};
use crate::target::counters::{Reading, Totals};
use crate::target::keyed::Keyed;
use crate::target::plan::Plan;

pub use legitimate::LegitimateShare;
use task::TaskKey;
pub use task::{Outcome, Task};

/// The length of a tick.
pub const TICK: Duration = Duration::from_millis(10);

/// Ticks from one look to the next at what follows from counts of some time: what is seen of inside, and what an attack has become.
const EVERY: u64 = 10;

/// Idle hosts are looked for in this many parts, one a second: a full round takes about a minute.
const FORGET_ROUNDS: u8 = 64;

/// Changes of state per tick among hosts, and among prefixes of each depth: a change costs a look at all measures of its
/// role. The others wait for the next tick, by which time their prefix may be the target.
const MOST_CHANGES: usize = 256;

/// Hosts that are accounted in each tick, at about half a microsecond each. Others that receive more than a quiet host does
/// wait like those, the largest excess not so long, and count for their prefix, which is the target then.
const MOST_HOT: usize = 2048;

/// Targets per tick whose newest samples are looked through, at about ten microseconds each.
const MOST_SCANS: usize = 32;

/// Quiet hosts that a tick may meet for the first time; the others are met later, and learned from then on.
const MOST_MEETINGS: usize = 512;

/// Between ticks this far apart nobody watched: no silence is learned from it.
const UNSEEN: Duration = Duration::from_secs(10);

/// The weight of what is learned grows for this long after the start; later nothing is forgotten any more.
const MOST_GROWTH: Duration = Duration::from_secs(700 * 24 * 3600);

/// Detection for all zones.
pub struct Detector {
    plan: Arc<Plan>,
    feeds: Vec<Feed>,
    watch: Arc<Watch>,
    nodes: Nodes,
    /// Hosts with computed slots.
    slots: Slots,
    /// Per zone: packets that are no alarm at any host.
    limits: Vec<Limits>,
    /// Slots with traffic, as they are read, and those that the pass over them left.
    dirty: Vec<u32>,
    left: Left,
    isa: Isa,
    /// Hosts that this tick may still find to be not quiet any more.
    looks_left: usize,
    /// Hosts that this tick may still meet for the first time.
    meetings_left: usize,
    zones: Vec<ZoneState>,
    /// The filters in force.
    pub measures: Measures,
    /// Nodes that need a look although they have no traffic.
    hot: Vec<NodeId>,
    /// Nodes with traffic in this tick, by depth.
    touched: Vec<Vec<NodeId>>,
    proofs: Proofs,
    /// What clients of each service usually do next.
    services: Services,
    last_tick: Timestamp,
    last_second: Timestamp,
    tick: u64,
    /// A prefix is hot.
    prefix_hot: bool,
    /// How many hosts are.
    hot_hosts: usize,
    /// Changes of state that this tick still allows.
    changes_left: usize,
    /// Looks through the newest samples that it still allows.
    scans_left: usize,
    /// The part of the idle hosts that was looked at last.
    round: NodeId,
    task: Option<TaskKey>,
    calendar: Calendar,
    /// For how long somebody has watched since the start: what is learned is forgotten by that.
    watched: Duration,
    /// Time since 1970 at the origin of timestamps.
    origin: Duration,
    events: Vec<Event>,
    /// What the counters of filters stood at when these were installed.
    hits_before: HashMap<u64, u64>,
    /// Hashes what an attacker may choose.
    keyed: Keyed,
}

/// One worker, as the detector sees it.
struct Feed {
    end: DetectorEnd,
    /// Who has a hashed slot, and slots that no host has.
    tenants: HashMap<u32, Tenant>,
}

/// Who a slot of a worker's counters belongs to.
struct Tenant {
    node: NodeId,
    /// None: nobody's own, counted for a prefix.
    address: Option<IpAddr>,
    /// What its counters stood at when they were last read.
    seen: Totals,
}

impl Detector {
    /// A detector for a plan. `learn_only`: nothing is ever an attack. `most_filters`: how many filter counters exist. `isa`:
    /// which instructions it may use.
    pub fn new(
        plan: Arc<Plan>,
        ends: Vec<DetectorEnd>,
        watch: Arc<Watch>,
        most_filters: u32,
        learn_only: bool,
        isa: Isa,
        now: Timestamp,
    ) -> Self {
        let workers = ends.len();
        Self {
            slots: Slots::new(plan.slots(), workers, |_, _| Reading::default()),
            limits: Vec::new(),
            dirty: Vec::new(),
            left: Left::default(),
            isa,
            looks_left: 0,
            meetings_left: 0,
            zones: plan.zones().iter().map(|_| ZoneState::default()).collect(),
            plan,
            feeds: ends.into_iter().map(|end| Feed { end, tenants: Default::default() }).collect(),
            watch,
            nodes: Nodes::default(),
            measures: Measures::new(most_filters),
            hot: Vec::new(),
            touched: vec![Vec::new(); 6],
            proofs: Proofs::new(now),
            services: Services::default(),
            last_tick: now,
            last_second: now,
            tick: 0,
            prefix_hot: false,
            hot_hosts: 0,
            changes_left: 0,
            scans_left: 0,
            round: 0,
            task: None,
            calendar: Calendar { hour: 0, weight: 1.0, seen_since: now, is_training: learn_only },
            watched: Duration::ZERO,
            origin: Duration::ZERO,
            events: Vec::new(),
            hits_before: HashMap::new(),
            keyed: Keyed::new((0, 0)),
        }
    }

    /// Looks at everything that happened since the last tick.
    pub fn tick(&mut self, now: Timestamp) {
        let elapsed = self.turn_calendar(now);
        self.tick += 1;
        self.limits = self.zones().map(|(zone, state)| judge::limits(zone, state.observed)).collect();
        self.looks_left = MOST_HOT.saturating_sub(self.hot_hosts);
        self.meetings_left = MOST_MEETINGS;
        self.scans_left = MOST_SCANS;
        self.collect(now);
        for id in &self.hot {
            let due = self.nodes.get(*id).and_then(|node| self.touched.get_mut(usize::from(node.depth)));
            due.into_iter().for_each(|due| due.push(*id));
        }
        for depth in 0..self.touched.len() {
            self.changes_left = MOST_CHANGES;
            let mut due = self.touched.get_mut(depth).map(std::mem::take).unwrap_or_default();
            due.sort_unstable();
            due.dedup();
            for id in due {
                self.look_at(id, now);
                self.hand_up(id, now);
            }
        }
        for zone in &mut self.zones {
            zone.account(elapsed, &self.calendar, now);
        }
        self.settle_states();
        self.limit_the_rest(now);
        if self.tick.is_multiple_of(EVERY) {
            self.judge_visibility(now);
            self.settle_challenges(now);
        }
        self.admit_samples(now);
        if now.since(self.last_second) >= Duration::from_secs(1) {
            self.each_second(now);
            self.last_second = now;
        }
        self.last_tick = now;
        self.tell_changes(now);
    }

    /// Sets the secret of this boot, by which sources are counted.
    pub fn set_keyed(&mut self, keyed: Keyed) {
        self.keyed = keyed;
    }

    /// Says what the time is: `since_1970` at `now`. Without it, timestamps are times since 1970.
    pub fn set_wall_clock(&mut self, since_1970: Duration, now: Timestamp) {
        self.origin = since_1970.saturating_sub(now.since(Timestamp::ZERO));
    }

    /// Brings the calendar up to date and returns for how long somebody has watched since the last tick.
    fn turn_calendar(&mut self, now: Timestamp) -> Duration {
        self.calendar.hour = hour_of_week(self.origin + now.since(Timestamp::ZERO));
        let elapsed = now.since(self.last_tick);
        if elapsed > UNSEEN {
            self.calendar.seen_since = now;
            return Duration::ZERO;
        }
        self.watched += elapsed;
        self.calendar.weight = 1.0 / growth::decay(self.watched.min(MOST_GROWTH));
        elapsed
    }

    /// What happened since the last call.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// The compiled zones.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// Zones with what is known of them.
    pub fn zones(&self) -> impl Iterator<Item = (&Zone, &ZoneState)> {
        self.plan.zones().iter().zip(&self.zones)
    }

    /// What clients of each service usually do next.
    pub fn services(&self) -> &Services {
        &self.services
    }

    /// All targets.
    pub fn nodes(&self) -> &Nodes {
        &self.nodes
    }

    fn target(&self, id: NodeId) -> Option<Target> {
        let node = self.nodes.get(id)?;
        Some(Target { zone: self.plan.zone(node.zone)?.name.clone(), prefix: Some(node.prefix) })
    }

    fn tell(&mut self, what: What, now: Timestamp) {
        self.events.push(Event { at: now, what });
    }

    fn each_second(&mut self, now: Timestamp) {
        self.learn_heaviest(now);
        let (zones, nodes) = (&self.zones, &self.nodes);
        self.measures.renew_and_expire(
            |zone, role, on| match on.map(|prefix| nodes.find(prefix).and_then(|id| nodes.get(id))) {
                Some(target) => target.is_some_and(|node| matches!(node.phase(role), Phase::Attack | Phase::Hold)),
                None => zones.get(usize::from(zone)).is_some_and(|state| state.answered.contains(role)),
            },
            now,
        );
        let feeds = &self.feeds;
        let hits = |counter| feeds.iter().map(|feed| feed.end.hits.hits(counter)).sum();
        self.measures.retire_unused(hits, now);
        for id in self.hot.clone() {
            self.report_rates(id, now);
        }
        self.round = (self.round + 1) % NodeId::from(FORGET_ROUNDS);
        for id in (self.round..self.nodes.end()).step_by(usize::from(FORGET_ROUNDS)) {
            self.nodes.forget_if_idle(id, now);
        }
    }
}
