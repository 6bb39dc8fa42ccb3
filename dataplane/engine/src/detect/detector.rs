//! The detector: a tick every 10 ms, from counters to anomalies to measures.
//!
//! It runs on one thread, apart from the workers. What takes long (signature extraction) is handed out as a [`Task`] and
//! comes back through [`Detector::complete`]: on the analysis thread live, after its budgeted time in replay.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use levee_api::filter::{Action, Filter, HeaderBox, Rule, Target};
use levee_api::prefix::Prefix;
use levee_api::role::{Role, RoleSet};
use levee_api::time::Timestamp;
use levee_api::zone::{Mode, Zone};

use crate::detect::classify;
use crate::detect::event::{Event, Phase, What};
use crate::detect::extract::{self, Extraction, Tier};
use crate::detect::measures::{Measure, Measures, Placed};
use crate::detect::node::{Node, NodeId, Nodes};
use crate::detect::reservoir::Admission;
use crate::detect::snapshot::{TargetRecord, ZoneRecord};
use crate::detect::threshold;
use crate::detect::track::{Change, Track};
use crate::detect::window::as_f32;
use crate::detect::witness::{self, Usual};
use crate::detect::zone::ZoneState;
use crate::link::{DetectorEnd, Notice, Watch};
use crate::packet::Lanes;
use crate::reflex::{self, Answer};
use crate::sample::Sample;
use crate::target::counters::{COUNTED_ROLES, Totals};
use crate::target::plan::{Plan, destination_address};

/// The length of a tick.
pub const TICK: Duration = Duration::from_millis(10);
/// Samples of the attack that an extraction looks at: the newest, at most this old.
const SAMPLE_WINDOW: Duration = Duration::from_millis(300);
/// Fewer samples than this are no basis for a signature.
const ENOUGH_SAMPLES: usize = 150;
/// More are not looked at.
const MOST_SAMPLES: usize = 2048;
/// An extraction is repeated after this time, while the attack gets through.
const REPEAT: Duration = Duration::from_millis(50);
/// A limit is considered when no rule that drops was found for this long.
const LIMIT_AFTER: Duration = Duration::from_millis(250);
/// Conversations that proved themselves are remembered this long.
const PROOF_MEMORY: Duration = Duration::from_secs(2);
/// Bytes on the wire of the smallest frame, with preamble and gap: what a capacity in bit/s is worth in packets.
const SMALLEST_FRAME_BITS: f32 = 672.0;
/// Part of a link's capacity that may be used.
const USABLE: f32 = 0.8;

/// Detection for all zones.
pub struct Detector {
    plan: Arc<Plan>,
    feeds: Vec<Feed>,
    watch: Arc<Watch>,
    nodes: Nodes,
    /// Node of a direct slot plus one; zero: none yet.
    direct: Vec<NodeId>,
    zones: Vec<ZoneState>,
    /// The filters in force.
    pub measures: Measures,
    /// Nodes that need a look although they have no traffic.
    hot: Vec<NodeId>,
    /// Nodes with traffic in this tick, by depth.
    touched: Vec<Vec<NodeId>>,
    proven: [HashSet<u64>; 2],
    proven_since: Timestamp,
    last_tick: Timestamp,
    last_second: Timestamp,
    tick: u64,
    task: Option<TaskKey>,
    learn_only: bool,
    /// The plan is not the one that it all began with.
    replanned: bool,
    events: Vec<Event>,
    /// What the counters of filters stood at when these were installed.
    hits_before: HashMap<u64, u64>,
}

/// One worker, as the detector sees it.
struct Feed {
    end: DetectorEnd,
    /// Node and address of a hashed slot.
    tenants: HashMap<u32, (NodeId, IpAddr)>,
}

/// Work that takes longer than a tick may: [`Task::run`] it anywhere.
pub struct Task {
    key: TaskKey,
    job: extract::Job,
}

/// What came of a task.
pub struct Outcome {
    key: TaskKey,
    job: extract::Job,
    extraction: Extraction,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TaskKey {
    node: NodeId,
    prefix: Prefix,
    zone: u16,
    role: Role,
}

impl Task {
    /// Does the work.
    pub fn run(self) -> Outcome {
        let extraction = extract::extract(&self.job);
        Outcome { key: self.key, job: self.job, extraction }
    }
}

impl Detector {
    /// A detector for a plan. `learn_only`: nothing is ever an attack. `most_filters`: how many filter counters exist.
    pub fn new(
        plan: Arc<Plan>,
        ends: Vec<DetectorEnd>,
        watch: Arc<Watch>,
        most_filters: u32,
        learn_only: bool,
        now: Timestamp,
    ) -> Self {
        let workers = ends.len();
        Self {
            direct: vec![0; plan.slots()],
            zones: plan.zones().iter().map(|_| ZoneState::default()).collect(),
            plan,
            feeds: ends.into_iter().map(|end| Feed { end, tenants: Default::default() }).collect(),
            watch,
            nodes: Nodes::new(workers),
            measures: Measures::new(most_filters),
            hot: Vec::new(),
            touched: vec![Vec::new(); 6],
            proven: Default::default(),
            proven_since: now,
            last_tick: now,
            last_second: now,
            tick: 0,
            task: None,
            learn_only,
            replanned: false,
            events: Vec::new(),
            hits_before: HashMap::new(),
        }
    }

    /// Makes events of what was installed and removed.
    pub fn tell_changes(&mut self, now: Timestamp) {
        for placed in self.measures.take_changes() {
            self.tell_placed(placed, now);
        }
    }

    fn tell_placed(&mut self, placed: Placed, now: Timestamp) {
        match placed {
            Placed::Installed(filter, counter) => {
                self.hits_before.insert(filter.id, self.hits(counter));
                let zone = self.plan.zone_named(&filter.target.zone).and_then(|zone| self.plan.zone(zone));
                let simulated = zone.is_some_and(|zone| zone.mode == Mode::Monitor);
                self.tell(What::FilterInstalled { filter, simulated }, now);
            }
            Placed::Removed(filter, why, counter) => {
                let packets = self.hits(counter) - self.hits_before.remove(&filter.id).unwrap_or(0);
                self.tell(What::FilterRemoved { filter, why, packets }, now);
            }
        }
    }

    /// Hits of a filter's counter over all workers.
    fn hits(&self, counter: u32) -> u64 {
        self.feeds.iter().map(|feed| feed.end.hits.hits(counter)).sum()
    }

    /// The filters in force, each with the packets it has matched.
    pub fn filters(&self) -> impl Iterator<Item = (&Filter, u64)> {
        self.measures.filters().map(|(filter, counter)| {
            (filter, self.hits(counter) - self.hits_before.get(&filter.id).copied().unwrap_or(0))
        })
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

    /// What was learned, for a snapshot.
    pub(super) fn learned(&self) -> (Vec<ZoneRecord>, Vec<TargetRecord>) {
        let zones = self.zones().map(|(zone, state)| ZoneRecord {
            name: zone.name.clone(),
            observed: state.observed,
            datagrams: state.datagrams,
            answers: state.answers,
            largest: state.rates.map(|rate| rate.largest),
            reservoirs: state.reservoirs.iter().map(|reservoir| reservoir.samples().to_vec()).collect(),
        });
        let targets = self.nodes.iter().map(|(_, node)| TargetRecord {
            zone: u32::from(node.zone),
            prefix: node.prefix,
            half_open: node.usual.half_open,
            unanswered: node.usual.unanswered,
            baselines: Role::ALL
                .into_iter()
                .filter_map(|role| Some((role, node.track(role)?.baseline.clone())))
                .collect(),
        });
        let mut targets: Vec<TargetRecord> = targets.collect();
        // Hosts first: they bring their prefixes with them when they are restored.
        targets.sort_by_key(|target| (target.zone, !target.prefix.is_host(), target.prefix));
        (zones.collect(), targets)
    }

    /// Takes over what was learned before.
    pub(super) fn restore(&mut self, zones: Vec<ZoneRecord>, targets: Vec<TargetRecord>, now: Timestamp) {
        let known: Vec<Option<u16>> = zones.iter().map(|zone| self.plan.zone_named(&zone.name)).collect();
        for (record, zone) in zones.into_iter().zip(&known) {
            let Some(state) = zone.and_then(|zone| self.zones.get_mut(usize::from(zone))) else { continue };
            state.observed = record.observed;
            state.datagrams = record.datagrams;
            state.answers = record.answers;
            for (rate, largest) in state.rates.iter_mut().zip(record.largest) {
                rate.largest = largest;
            }
            for (reservoir, samples) in state.reservoirs.iter_mut().zip(record.reservoirs) {
                reservoir.restore(samples);
            }
        }
        for record in targets {
            let zone = usize::try_from(record.zone).ok().and_then(|at| known.get(at).copied().flatten());
            let address = record.prefix.address();
            // A host brings its prefixes with it, so that these are found afterwards.
            let Some(place) = self.plan.locate(address).filter(|place| Some(place.zone) == zone) else { continue };
            let id = if record.prefix.is_host() { self.node_of(address, now) } else { None };
            let Some(id) = self.nodes.find(&record.prefix).or(id) else { continue };
            let Some(node) = self.nodes.get_mut(id).filter(|node| node.zone == place.zone) else { continue };
            node.usual.half_open = record.half_open;
            node.usual.unanswered = record.unanswered;
            for (role, baseline) in record.baselines {
                if let Some(track) = node.tracks.get_mut(role.index()) {
                    track.get_or_insert_with(|| Box::new(Track::new(now, TICK))).baseline = baseline;
                }
            }
        }
    }

    /// Takes a new plan. What was learned stays with its zone's name and its addresses; attacks under way are detected anew,
    /// and the measures against them stay in force until their deadlines.
    pub fn replan(&mut self, plan: Arc<Plan>, now: Timestamp) {
        let (zones, targets) = self.learned();
        self.plan = plan;
        self.nodes = Nodes::new(self.feeds.len());
        self.direct = vec![0; self.plan.slots()];
        self.zones = self.plan.zones().iter().map(|_| ZoneState::default()).collect();
        self.hot.clear();
        self.touched.iter_mut().for_each(Vec::clear);
        self.task = None;
        self.replanned = true;
        self.restore(zones, targets, now);
        for worker in 0..self.feeds.len() {
            let tenants = self.feeds.get_mut(worker).map(|feed| std::mem::take(&mut feed.tenants)).unwrap_or_default();
            for (slot, (_, address)) in tenants {
                if let (Some(id), Some(feed)) = (self.node_of(address, now), self.feeds.get_mut(worker)) {
                    feed.tenants.insert(slot, (id, address));
                }
            }
        }
        let plan = &self.plan;
        self.measures.rezone(|name| plan.zone_named(name));
    }

    /// All targets.
    pub fn nodes(&self) -> &Nodes {
        &self.nodes
    }

    /// Looks at everything that happened since the last tick.
    pub fn tick(&mut self, now: Timestamp) {
        let elapsed = now.since(self.last_tick);
        self.tick += 1;
        self.collect(now);
        for depth in 0..self.touched.len() {
            let mut due = self.touched.get_mut(depth).map(std::mem::take).unwrap_or_default();
            due.extend(self.hot_at(depth));
            due.sort_unstable();
            due.dedup();
            for id in due {
                self.look_at(id, now);
                self.hand_up(id, now);
            }
        }
        for zone in &mut self.zones {
            zone.account(elapsed, now);
        }
        self.settle_states(now);
        self.admit_samples(now);
        if now.since(self.last_second) >= Duration::from_secs(1) {
            self.each_second(now);
            self.last_second = now;
        }
        self.last_tick = now;
        self.tell_changes(now);
    }

    /// Reads what the workers left: notices, dirty slots, samples.
    fn collect(&mut self, now: Timestamp) {
        for worker in 0..self.feeds.len() {
            while let Some(notice) = self.feeds.get_mut(worker).and_then(|feed| feed.end.notices.pop().ok()) {
                match notice {
                    Notice::Lodged { slot, address, ipv6, totals } => {
                        self.lodge(worker, slot, address, ipv6, totals, now)
                    }
                    Notice::Proven(conversation) => {
                        let [newest, _] = &mut self.proven;
                        newest.insert(conversation);
                    }
                }
            }
            while let Some(slot) = self.feeds.get_mut(worker).and_then(|feed| feed.end.dirty.pop().ok()) {
                self.read(worker, slot, now);
            }
            if self.feeds.get(worker).is_some_and(|feed| feed.end.take_overflow()) {
                let direct = u32::try_from(self.plan.slots()).unwrap_or(u32::MAX);
                let hashed: Vec<u32> =
                    self.feeds.get(worker).map(|feed| feed.tenants.keys().copied().collect()).unwrap_or_default();
                for slot in (0..direct).chain(hashed) {
                    self.read(worker, slot, now);
                }
            }
            while let Some(sample) = self.feeds.get_mut(worker).and_then(|feed| feed.end.samples.pop().ok()) {
                if let Some(zone) = self.zone_of(&sample.lanes) {
                    zone.sample(sample);
                }
            }
        }
        if now.since(self.proven_since) >= PROOF_MEMORY {
            self.proven.swap(0, 1);
            let [newest, _] = &mut self.proven;
            newest.clear();
            self.proven_since = now;
        }
    }

    fn zone_of(&mut self, lanes: &Lanes) -> Option<&mut ZoneState> {
        let place = self.plan.destination(lanes)?;
        self.zones.get_mut(usize::from(place.zone))
    }

    fn lodge(&mut self, worker: usize, slot: u32, address: u128, ipv6: bool, totals: Totals, now: Timestamp) {
        let address = if ipv6 {
            IpAddr::V6(Ipv6Addr::from(address))
        } else {
            IpAddr::V4(Ipv4Addr::from(u32::try_from(address & 0xffff_ffff).unwrap_or(0)))
        };
        let Some(id) = self.node_of(address, now) else { return };
        if let Some(seen) = self.nodes.get_mut(id).and_then(|node| node.seen.get_mut(worker)) {
            *seen = Some(totals);
        }
        if let Some(feed) = self.feeds.get_mut(worker) {
            feed.tenants.insert(slot, (id, address));
        }
    }

    fn node_of(&mut self, address: IpAddr, now: Timestamp) -> Option<NodeId> {
        let place = self.plan.locate(address)?;
        let prefix = self.plan.zone_prefix(place.zone, address)?;
        self.nodes.host(address, place.zone, prefix, now)
    }

    /// Reads the counters of a slot and adds what is new to its node.
    fn read(&mut self, worker: usize, slot: u32, now: Timestamp) {
        let at = usize::try_from(slot).unwrap_or(usize::MAX);
        let known = match self.direct.get(at) {
            Some(0) => {
                let node = self.plan.address(slot).and_then(|address| self.node_of(address, now));
                if let (Some(node), Some(entry)) = (node, self.direct.get_mut(at)) {
                    *entry = node + 1;
                }
                node
            }
            Some(node) => Some(node - 1),
            None => self.feeds.get(worker).and_then(|feed| feed.tenants.get(&slot).map(|(node, _)| *node)),
        };
        let (Some(id), Some(feed)) = (known, self.feeds.get(worker)) else { return };
        let totals = feed.end.counters.read(slot);
        let Some(node) = self.nodes.get_mut(id) else { return };
        let Some(seen) = node.seen.get_mut(worker) else { return };
        // Under the first plan counters began at zero; under a later one what they stand at is where counting begins.
        let before = seen.unwrap_or(if self.replanned { totals } else { Totals::default() });
        *seen = Some(totals);
        let delta = totals.since(&before);
        add_delta(node, id, &delta, self.tick, now, &mut self.touched);
        if let Some(zone) = self.zones.get_mut(usize::from(node.zone)) {
            zone.delta.add(&delta);
        }
    }

    fn hot_at(&self, depth: usize) -> Vec<NodeId> {
        let at_depth = |id: &NodeId| self.nodes.get(*id).is_some_and(|node| usize::from(node.depth) == depth);
        self.hot.iter().copied().filter(at_depth).collect()
    }

    /// Judges every role of one target.
    fn look_at(&mut self, id: NodeId, now: Timestamp) {
        let Some(zone_index) = self.nodes.get(id).map(|node| node.zone) else { return };
        let (Some(zone), Some(state)) = (self.plan.zone(zone_index), self.zones.get(usize::from(zone_index))) else {
            return;
        };
        let (observed, sees_inside, ratio) = (state.observed, state.sees_inside, state.answer_ratio());
        let covered = self.covered_roles(id);
        let cap = zone.link_capacity_bps.map_or(f32::MAX, capacity_pps);
        let floors: [f32; COUNTED_ROLES] = std::array::from_fn(|at| floor_of(zone, Role::ALL.get(at).copied()));
        let learn_only = self.learn_only;
        let Some(node) = self.nodes.get_mut(id) else { return };
        let delta = if node.touched == self.tick { node.delta } else { Totals::default() };
        node.window.add(&delta, now);
        let usual = Usual { answer_ratio: ratio, ..node.usual };
        let (window, scale) = (node.window, node.scale);
        let calm = node.tracks.iter().flatten().all(|track| matches!(track.phase, Phase::Normal | Phase::Hold));
        node.peace.add(&delta, calm, now);
        node.since_report.add(&delta);
        let mut changes: Vec<(Role, Change, f32, f32, Option<String>)> = Vec::new();
        let mut merged = Vec::new();
        for role in Role::ALL.into_iter().take(COUNTED_ROLES) {
            let at = role.index();
            let packets = delta.roles.get(at).copied().unwrap_or(0);
            let dropped = delta.dropped.get(at).copied().unwrap_or(0);
            let Some(entry) = node.tracks.get_mut(at) else { continue };
            if entry.is_none() && packets == 0 {
                continue;
            }
            let track = entry.get_or_insert_with(|| Box::new(Track::new(now, TICK)));
            let floor = floors.get(at).copied().unwrap_or(f32::MAX) * scale;
            let threshold = track.baseline.threshold(role, observed, floor, cap);
            track.account(as_f32(packets), as_f32(dropped), threshold, true, now);
            if learn_only {
                continue;
            }
            if covered.contains(role) {
                if track.phase != Phase::Normal {
                    track.dissolve(now);
                    merged.push(role);
                }
                continue;
            }
            let witness = witness::look(role, &window, &usual, sees_inside);
            if let Some(change) = track.step(threshold, witness.is_some(), now) {
                changes.push((
                    role,
                    change,
                    track.rate_smooth.max(track.rate),
                    threshold,
                    witness.map(|w| w.to_string()),
                ));
            }
        }
        if drained(node, Role::Syn) {
            node.usual.half_open = node.usual.half_open.max(window.half_open());
        }
        if drained(node, Role::UdpOpen)
            && let Some(ratio) = ratio
        {
            node.usual.unanswered = node.usual.unanswered.max(window.unanswered(ratio));
        }
        let idle = node.is_idle();
        if !idle && !self.hot.contains(&id) {
            self.hot.push(id);
        }
        for role in merged {
            self.merge(id, role, now);
        }
        for (role, change, rate, threshold, witness) in changes {
            self.on_change(id, role, change, rate, threshold, witness, now);
        }
    }

    /// Roles for which a covering prefix is the target.
    fn covered_roles(&self, id: NodeId) -> RoleSet {
        let mut roles = RoleSet::NONE;
        let mut above = self.nodes.get(id).and_then(|node| node.parent);
        while let Some(node) = above.and_then(|id| self.nodes.get(id)) {
            for role in Role::ALL.into_iter().take(COUNTED_ROLES) {
                if matches!(node.phase(role), Phase::Attack | Phase::Hold) {
                    roles = roles.union(role.set());
                }
            }
            above = node.parent;
        }
        roles
    }

    /// Adds a target's tick to the prefix above it, without what the target answers for itself.
    fn hand_up(&mut self, id: NodeId, now: Timestamp) {
        let Some(node) = self.nodes.get(id) else { return };
        let Some(parent) = node.parent else { return };
        let fresh = node.touched == self.tick;
        let mut delta = if fresh { node.delta } else { Totals::default() };
        let busy: Vec<Role> = Role::ALL
            .into_iter()
            .take(COUNTED_ROLES)
            .filter(|role| node.track(*role).is_some_and(|track| track.phase != Phase::Normal && track.rate > 0.0))
            .collect();
        let Some(above) = self.nodes.get_mut(parent) else { return };
        for role in busy {
            above.member_alarmed(id, role, now);
            if !above.is_carpet(role) {
                for counts in [&mut delta.roles, &mut delta.dropped] {
                    if let Some(count) = counts.get_mut(role.index()) {
                        *count = 0;
                    }
                }
            }
        }
        if fresh {
            add_delta(above, parent, &delta, self.tick, now, &mut self.touched);
        }
    }

    fn target(&self, id: NodeId) -> Option<Target> {
        let node = self.nodes.get(id)?;
        Some(Target { zone: self.plan.zone(node.zone)?.name.clone(), prefix: Some(node.prefix) })
    }

    fn tell(&mut self, what: What, now: Timestamp) {
        self.events.push(Event { at: now, what });
    }

    fn merge(&mut self, host: NodeId, role: Role, now: Timestamp) {
        let mut above = self.nodes.get(host).and_then(|node| node.parent);
        while let Some(id) = above {
            let Some(node) = self.nodes.get(id) else { return };
            if matches!(node.phase(role), Phase::Attack | Phase::Hold) {
                break;
            }
            above = node.parent;
        }
        let (Some(node), Some(id)) = (self.nodes.get(host), above) else { return };
        self.measures.replace(node.zone, role, node.prefix);
        if let (Some(host), Some(into)) = (self.target(host), self.target(id)) {
            self.tell(What::Merged { host, into, role }, now);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "what there is to tell about a change of state")]
    fn on_change(
        &mut self,
        id: NodeId,
        role: Role,
        change: Change,
        rate_pps: f32,
        threshold_pps: f32,
        witness: Option<String>,
        now: Timestamp,
    ) {
        let (Some(target), Some(node)) = (self.target(id), self.nodes.get(id)) else { return };
        let (zone, prefix, target_peace) = (node.zone, node.prefix, node.peace);
        let zone_name = target.zone.clone();
        let Change { from, to } = change;
        self.tell(What::Phase { target, role, from, to, rate_pps, threshold_pps, witness: witness.clone() }, now);
        match to {
            Phase::Attack => {
                let mut answered = self.measures.enforce_remembered(zone, role, &zone_name, prefix, now);
                let zone_peace = self.zones.get(usize::from(zone)).map(|state| state.peace).unwrap_or_default();
                let answer = self.plan.zone(zone).map(|zone| reflex::answer(role, zone, &target_peace, &zone_peace));
                if answer == Some(Answer::DropRole) && !self.measures.coarse_on(zone, role, &prefix) {
                    let rule = Rule::of(HeaderBox::any());
                    let measure = Measure::new(zone, role, rule, Action::Drop, witness.unwrap_or_default(), now)
                        .coarse(whole_pps(threshold_pps));
                    self.measures.install(measure, &zone_name, prefix, now);
                    answered = true;
                }
                if let Some(track) = self.nodes.get_mut(id).and_then(|node| node.track_mut(role)) {
                    track.mitigated_at = answered.then_some(now);
                    track.last_extraction = Timestamp::ZERO;
                }
                self.classify(id, role, now);
            }
            Phase::Hold => self.measures.hold(zone, role, prefix),
            Phase::Normal if from == Phase::Hold => {
                let last = !self.hot.iter().filter_map(|hot| self.nodes.get(*hot)).any(|node| {
                    node.zone == zone
                        && node.prefix != prefix
                        && matches!(node.phase(role), Phase::Attack | Phase::Hold)
                });
                self.measures.retire(zone, role, prefix, last);
            }
            Phase::Normal | Phase::Watch => {}
        }
    }

    /// Says what an attack is, from the newest samples.
    fn classify(&mut self, id: NodeId, role: Role, now: Timestamp) {
        let samples = self.attack_samples(id, role, now, false);
        let vectors = classify::classify(role, &samples);
        if vectors.is_empty() {
            return;
        }
        if let Some(target) = self.target(id) {
            self.tell(What::Classified { target, role, vectors }, now);
        }
    }

    /// The newest samples of a role at a target. `passed`: only what filters let through.
    fn attack_samples(&self, id: NodeId, role: Role, now: Timestamp, passed: bool) -> Vec<Sample> {
        let Some(node) = self.nodes.get(id) else { return Vec::new() };
        let recent = self.zones.get(usize::from(node.zone)).and_then(|zone| zone.recent.get(role.index()));
        let mut samples: Vec<Sample> = recent
            .into_iter()
            .flat_map(|recent| recent.iter().rev())
            .take_while(|sample| now.since(sample.at) <= SAMPLE_WINDOW)
            .filter(|sample| (sample.passed || !passed) && node.prefix.contains(destination_address(&sample.lanes)))
            .take(MOST_SAMPLES)
            .copied()
            .collect();
        samples.reverse();
        samples
    }

    /// Recomputes what is watched and what is hot.
    fn settle_states(&mut self, _now: Timestamp) {
        for zone in &mut self.zones {
            zone.alarmed = RoleSet::NONE;
            zone.answered = RoleSet::NONE;
        }
        let nodes = &self.nodes;
        self.hot.retain(|id| nodes.get(*id).is_some_and(|node| !node.is_idle()));
        for id in &self.hot {
            let Some(node) = nodes.get(*id) else { continue };
            let Some(zone) = self.zones.get_mut(usize::from(node.zone)) else { continue };
            for role in Role::ALL.into_iter().take(COUNTED_ROLES) {
                match node.phase(role) {
                    Phase::Normal => {}
                    Phase::Watch => zone.alarmed = zone.alarmed.union(role.set()),
                    Phase::Attack => {
                        zone.alarmed = zone.alarmed.union(role.set());
                        zone.answered = zone.answered.union(role.set());
                    }
                    Phase::Hold => zone.answered = zone.answered.union(role.set()),
                }
            }
        }
        for (index, zone) in self.zones.iter().enumerate() {
            self.watch.set(u16::try_from(index).unwrap_or(u16::MAX), zone.alarmed);
        }
    }

    fn admit_samples(&mut self, now: Timestamp) {
        let [newest, older] = &self.proven;
        for zone in &mut self.zones {
            for role in Role::ALL.into_iter().take(COUNTED_ROLES) {
                let admission =
                    if self.learn_only || zone.is_peaceful(role) { Admission::All } else { Admission::Proven };
                if let Some(reservoir) = zone.reservoirs.get_mut(role.index()) {
                    reservoir.admit(
                        admission,
                        |conversation| newest.contains(&conversation) || older.contains(&conversation),
                        now,
                    );
                }
            }
        }
    }

    fn each_second(&mut self, now: Timestamp) {
        let plan = Arc::clone(&self.plan);
        for (zone, state) in plan.zones().iter().zip(&mut self.zones) {
            let sees_inside = state.judge_visibility(zone);
            if sees_inside != state.sees_inside {
                state.sees_inside = sees_inside;
                self.events.push(Event { at: now, what: What::Visibility { zone: zone.name.clone(), sees_inside } });
            }
        }
        let zones = &self.zones;
        self.measures.renew_and_expire(
            |zone, role| zones.get(usize::from(zone)).is_some_and(|state| state.answered.contains(role)),
            now,
        );
        for id in self.hot.clone() {
            self.report_rates(id, now);
        }
        // A part of the idle hosts a second: a full round takes about a minute.
        let end = self.nodes.end();
        let round = NodeId::try_from(self.tick / 100 % 64).unwrap_or(0);
        for id in (0..end).filter(|id| id % 64 == round) {
            self.nodes.forget_if_idle(id, now);
        }
    }

    /// Tells the rates of a target under attack, and what the attack is now.
    fn report_rates(&mut self, id: NodeId, now: Timestamp) {
        let seconds = now.since(self.last_second).as_secs_f64().max(0.01);
        let Some(node) = self.nodes.get_mut(id) else { return };
        let load = std::mem::take(&mut node.since_report);
        let attacked: Vec<Role> =
            Role::ALL.into_iter().take(COUNTED_ROLES).filter(|role| node.phase(*role) == Phase::Attack).collect();
        if attacked.is_empty() {
            return;
        }
        if let Some(target) = self.target(id) {
            let per_second = |count: u64| as_f64(count) / seconds;
            let (pps, bps) = (per_second(load.packets), per_second(load.bytes) * 8.0);
            self.tell(What::Rates { target, pps, bps, dropped_pps: per_second(load.dropped) }, now);
        }
        for role in attacked {
            self.classify(id, role, now);
        }
    }

    /// The most urgent task, if there is one and none is under way.
    pub fn next_task(&mut self, now: Timestamp) -> Option<Task> {
        if self.task.is_some() {
            return None;
        }
        let mut due: Vec<(f32, NodeId, Role)> = Vec::new();
        for id in &self.hot {
            let Some(node) = self.nodes.get(*id) else { continue };
            for role in Role::ALL.into_iter().take(COUNTED_ROLES) {
                let Some(track) = node.track(role) else { continue };
                if self.is_due(node, role, track, now) {
                    due.push((track.residual, *id, role));
                }
            }
        }
        due.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)).then(a.2.cmp(&b.2)));
        due.into_iter().find_map(|(_, id, role)| self.task_for(id, role, now))
    }

    fn is_due(&self, node: &Node, role: Role, track: &Track, now: Timestamp) -> bool {
        track.phase == Phase::Attack
            && role != Role::Malformed
            && now.since(track.last_extraction) >= REPEAT
            && !self.measures.coarse_on(node.zone, role, &node.prefix)
            && (track.mitigated_at.is_none() || track.residual_smooth > self.threshold_of(node, role) / 2.0)
    }

    fn threshold_of(&self, node: &Node, role: Role) -> f32 {
        let (Some(zone), Some(state), Some(track)) =
            (self.plan.zone(node.zone), self.zones.get(usize::from(node.zone)), node.track(role))
        else {
            return f32::MAX;
        };
        let cap = zone.link_capacity_bps.map_or(f32::MAX, capacity_pps);
        track.baseline.threshold(role, state.observed, floor_of(zone, Some(role)) * node.scale, cap)
    }

    fn task_for(&mut self, id: NodeId, role: Role, now: Timestamp) -> Option<Task> {
        let attack = self.attack_samples(id, role, now, true);
        if attack.len() < ENOUGH_SAMPLES {
            return None;
        }
        let node = self.nodes.get(id)?;
        let state = self.zones.get(usize::from(node.zone))?;
        let track = node.track(role)?;
        let threshold = self.threshold_of(node, role);
        let rate = track.residual_smooth.max(track.residual).max(1.0);
        let usual = track.baseline.rates.quantile(0.5) / rate;
        let rho = match role {
            Role::Syn => node.window.handshakes / node.window.syns.max(1.0),
            Role::UdpOpen => {
                let ratio = state.answer_ratio().unwrap_or(1.0).max(0.05);
                node.window.answers / ratio / node.window.datagrams.max(1.0)
            }
            _ => usual,
        };
        let key = TaskKey { node: id, prefix: node.prefix, zone: node.zone, role };
        let job = extract::Job {
            role,
            attack,
            legitimate: state.reservoirs.get(role.index()).map(|r| r.samples().to_vec()).unwrap_or_default(),
            rho: f64::from(rho).clamp(0.0, 1.0),
            excess: f64::from((rate - threshold) / rate).clamp(0.0, 1.0),
            installed: self.measures.signatures(node.zone, role).map(|measure| measure.rule.clone()).collect(),
            first_pass: track.mitigated_at.is_none(),
            allow_limit: track.mitigated_at.is_none() && now.since(track.since) >= LIMIT_AFTER,
            served: self.plan.zone(node.zone)?.services.clone(),
        };
        self.task = Some(key);
        self.nodes.get_mut(id)?.track_mut(role)?.last_extraction = now;
        Some(Task { key, job })
    }

    /// Takes back a task that was run: its signatures are installed if the attack still lasts.
    pub fn complete(&mut self, outcome: Outcome, now: Timestamp) {
        let Outcome { key, job, extraction } = outcome;
        self.task = None;
        let Some(node) = self.nodes.get(key.node).filter(|node| node.prefix == key.prefix) else { return };
        let Some(zone_name) = self.plan.zone(key.zone).map(|zone| zone.name.clone()) else { return };
        if node.phase(key.role) != Phase::Attack || node.zone != key.zone {
            return;
        }
        let ratio = self.zones.get(usize::from(key.zone)).and_then(ZoneState::answer_ratio);
        let usual = Usual { answer_ratio: ratio, ..node.usual };
        let sees_inside = self.zones.get(usize::from(key.zone)).is_some_and(|state| state.sees_inside);
        let evidence = witness::look(key.role, &node.window, &usual, sees_inside)
            .map_or_else(|| "seen at the onset".to_owned(), |witness| witness.to_string());
        let usual_pps = node.track(key.role).map_or(0.0, |track| track.baseline.largest);
        for found in extraction.found {
            let action = match found.tier {
                Tier::Drop => Action::Drop,
                Tier::Limit => Action::Limit { pps: whole_pps(usual_pps.max(10.0)) },
            };
            let witness = format!(
                "{evidence}; matches {:.1} % of {} attack samples, at most {:.2} % of {} legitimate ones",
                found.attack_share * 100.0,
                job.attack.len(),
                found.collateral * 100.0,
                job.legitimate.len()
            );
            let measure = Measure::new(key.zone, key.role, found.rule, action, witness, now);
            self.measures.install(measure, &zone_name, key.prefix, now);
            if let Some(track) = self.nodes.get_mut(key.node).and_then(|node| node.track_mut(key.role)) {
                track.mitigated_at.get_or_insert(now);
            }
        }
        self.tell_changes(now);
    }
}

/// Adds counts to a node, and notes that it has to be looked at in this tick.
fn add_delta(node: &mut Node, id: NodeId, delta: &Totals, tick: u64, now: Timestamp, touched: &mut [Vec<NodeId>]) {
    if node.touched != tick {
        node.touched = tick;
        node.delta = Totals::default();
        node.last_traffic = now;
        if let Some(due) = touched.get_mut(usize::from(node.depth)) {
            due.push(id);
        }
    }
    node.delta.add(delta);
}

/// True when the role is in peace and below its threshold.
fn drained(node: &Node, role: Role) -> bool {
    node.track(role).is_none_or(Track::is_idle)
}

fn floor_of(zone: &Zone, role: Option<Role>) -> f32 {
    let Some(role) = role else { return f32::MAX };
    let own = zone.floors.iter().find(|(known, _)| *known == role).map(|(_, floor)| *floor);
    as_f32(own.unwrap_or_else(|| threshold::floor(role)))
}

/// Packets per second that a link can carry at most, of which a part is usable.
#[expect(clippy::cast_precision_loss, reason = "a capacity is an estimate")]
fn capacity_pps(bps: u64) -> f32 {
    USABLE * bps as f32 / SMALLEST_FRAME_BITS
}

#[expect(clippy::cast_precision_loss, reason = "rates for people")]
fn as_f64(count: u64) -> f64 {
    count as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the cast saturates; rates are not negative"
)]
fn whole_pps(rate: f32) -> u32 {
    rate.ceil() as u32
}
