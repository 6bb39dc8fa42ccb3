//! Every role of every target concerned, once per tick: accounted, compared with its threshold, and moved from state to
//! state; from the hosts up to the widest prefix.

use std::time::Duration;

use levee_api::prefix::Prefix;
use levee_api::role::{Role, RoleSet};
use levee_api::time::Timestamp;
use levee_api::zone::Zone;

use crate::detect::detector::answer::whole_pps;
use crate::detect::detector::collect::add_delta;
use crate::detect::detector::evidence::{glance, is_rare, is_telling, usual_segments};
use crate::detect::detector::{Detector, TICK};
use crate::detect::event::{Phase, What};
use crate::detect::growth;
use crate::detect::node::{Load, Node, NodeId, Pending, Phases};
use crate::detect::slots::{Earlier, Limits};
use crate::detect::threshold::{Baseline, Bounds};
use crate::detect::track::{Change, Lesson, Look, TAU, Track};
use crate::detect::window::as_f32;
use crate::detect::witness::{self, Glance, Seen, Witness};
use crate::target::counters::Totals;

impl Detector {
    /// Judges every role of one target.
    pub(super) fn look_at(&mut self, id: NodeId, now: Timestamp) {
        let Some(zone_index) = self.nodes.get(id).map(|node| node.zone) else { return };
        let overrun = self.overrun_of_watched(id, now);
        let services = self.services_of(id, now);
        let (Some(zone), Some(state)) = (self.plan.zone(zone_index), self.zones.get(usize::from(zone_index))) else {
            return;
        };
        let (observed, sees_inside, habits) = (state.observed, state.sees_inside, state.habits);
        let is_heard = state.sight.is_heard();
        let Above { covers, frozen } = self.above(id);
        let tick = now.since(self.last_tick);
        let (calendar, late) = (self.calendar, self.calendar.is_late(observed));
        let Some(node) = self.nodes.get_mut(id) else { return };
        let delta = if node.touched == self.tick { node.delta } else { Totals::default() };
        node.window.add(&delta, now);
        let (window, usual, scale, hot) = (node.window, node.usual, node.scale, node.hot);
        let followed = node.followed.as_mut().map(|followed| {
            followed.add(&delta, now);
            followed.counts(now)
        });
        let followed = followed.unwrap_or_default();
        let usual_segments = usual_segments(state, node);
        let seen = Seen {
            window: &window,
            followed,
            services: &services,
            overrun,
            glance: Glance::default(),
            passed: false,
            usual_segments,
            is_rare: false,
            excess: 0.0,
            usual: &usual,
            habits: &habits,
            sees_inside: sees_inside && is_heard,
        };
        node.peace.add(&delta, node.is_peaceful(), now);
        node.established.0 += as_f32(delta.established);
        node.since_report.add(&delta);
        let mut changes: Vec<(Role, Change, f32, f32, Option<Witness>)> = Vec::new();
        let mut merged = Vec::new();
        let mut lessons = Vec::new();
        for role in Role::ALL {
            let (packets, dropped) = (delta.of(role), delta.dropped_of(role));
            let Some(entry) = node.tracks.get_mut(role.index()) else { continue };
            // A track at rest takes in its silence when its next packet comes.
            if packets == 0 && (entry.is_none() || !hot) || entry.is_none() && !is_worth_a_track(role, packets, tick) {
                continue;
            }
            let track = entry.get_or_insert_with(|| Box::new(Track::new(now, tick)));
            let bounds = Bounds::of(zone, role, observed, scale);
            let threshold = track.baseline.threshold(&bounds);
            let look = Look { bounds, threshold, learn: !frozen.contains(role), calendar };
            let blocks = role == Role::Request || track.is_idle_flood;
            if blocks && as_f32(delta.blocked) > threshold / 2.0 * tick.as_secs_f32() {
                track.keep_busy(now);
            }
            let lesson = track.account(as_f32(packets), as_f32(dropped), &look, tick, now);
            lessons.extend(lesson.map(|lesson| (role, lesson, track.baseline.threshold(&bounds))));
            if calendar.is_training {
                continue;
            }
            if covers.contains(role) {
                if track.phase != Phase::Normal {
                    track.dissolve(now);
                    merged.push(role);
                }
                continue;
            }
            if self.changes_left == 0 {
                continue;
            }
            let alarmed = track.alarmed(threshold);
            let phase = track.phase;
            let is_rare = alarmed && is_rare(state, &node.peace, Some(track), role);
            let excess = track.rate_smooth.max(track.rate) / threshold.max(bounds.floor).max(1.0);
            let mut seen = Seen { is_rare, excess, ..seen };
            if alarmed && phase != Phase::Attack && self.scans_left > 0 && is_telling(state, role) {
                self.scans_left -= 1;
                seen.glance = glance(state, role, &node.prefix, false, now);
            }
            let witness = if alarmed { witness::look(role, &seen) } else { None };
            if let Some(change) = track.step(threshold, witness.is_some(), now) {
                self.changes_left -= 1;
                changes.push((role, change, track.rate_smooth.max(track.rate), threshold, witness));
            }
        }
        if sees_inside && is_heard {
            learn_usual(node, habits.answer_ratio(), late, observed, now);
        }
        node.covered = covers;
        if !node.is_quiet() && !std::mem::replace(&mut node.hot, true) {
            node.followed.get_or_insert_default().add(&delta, now);
            self.hot.push(id);
            if let Some(slot) = node.slot {
                self.slots.set_hot(slot, true);
            }
            // Rates are told from here on: what went before belongs to no second of the attack.
            node.since_report = Load::default();
            node.since_report.add(&delta);
            (node.sending, node.sources) = (None, None);
        }
        let changed = !merged.is_empty() || !changes.is_empty();
        for role in merged {
            self.merge(id, role, now);
        }
        for (role, lesson, threshold_pps) in lessons {
            self.on_lesson(id, role, lesson, threshold_pps, now);
        }
        for (role, change, rate, threshold, witness) in changes {
            self.on_change(id, role, change, rate, threshold, witness, now);
        }
        if changed {
            self.mark(id);
        }
    }

    /// Tells the workers whether a target is alarmed: then what is to it is sampled and captured in full.
    pub(super) fn mark(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get_mut(id) else { return };
        let alarmed = node.tracks.iter().flatten().any(|track| track.phase != Phase::Normal);
        if std::mem::replace(&mut node.marked, alarmed) == alarmed {
            return;
        }
        let (prefix, zone, host) = (node.prefix, node.zone, node.depth == 0);
        let slots = self.plan.slots_within(&prefix);
        self.watch.count_target(zone, slots.is_empty(), alarmed);
        let covered = |prefix: &Prefix| {
            let covers = |node: &Node| node.marked && node.prefix.covers(prefix);
            self.hot.iter().any(|hot| *hot != id && self.nodes.get(*hot).is_some_and(covers))
        };
        if !alarmed && covered(&prefix) {
            return;
        }
        slots.into_iter().for_each(|slots| self.watch.mark_slots(slots, alarmed));
        if alarmed || host {
            return;
        }
        // What is alarmed inside a prefix that is not any more.
        for inner in self.hot.iter().filter_map(|hot| self.nodes.get(*hot)) {
            if inner.marked && prefix.covers(&inner.prefix) {
                let slots = self.plan.slots_within(&inner.prefix);
                slots.into_iter().for_each(|slots| self.watch.mark_slots(slots, true));
            }
        }
    }

    /// Accounts what a quiet host has received over some ticks, evenly and too little for an alarm.
    pub(super) fn absorb(&mut self, id: NodeId, earlier: &Earlier, now: Timestamp) {
        if earlier.counts.is_zero() {
            return;
        }
        let Above { frozen, .. } = self.above(id);
        let until = self.last_tick;
        let span = until.since(earlier.from).max(Duration::from_millis(1));
        let Some(node) = self.nodes.get_mut(id) else { return };
        let (Some(zone), Some(state)) = (self.plan.zone(node.zone), self.zones.get(usize::from(node.zone))) else {
            return;
        };
        let (observed, ratio) = (state.observed, state.habits.answer_ratio());
        let is_seen = state.sees_inside && state.sight.is_heard();
        let (calendar, late) = (self.calendar, self.calendar.is_late(observed));
        let mut lessons = Vec::new();
        let delta = earlier.counts.totals();
        node.last_traffic = now;
        node.window.absorb(&delta, span, until);
        node.peace.add(&delta, true, until);
        node.established.0 += as_f32(delta.established);
        for role in Role::ALL {
            let (packets, dropped) = (delta.of(role), delta.dropped_of(role));
            let Some(entry) = node.tracks.get_mut(role.index()).filter(|_| packets > 0) else { continue };
            if entry.is_none() && !is_worth_a_track(role, packets, span) {
                continue;
            }
            let track = entry.get_or_insert_with(|| Box::new(Track::new(until.before(span), TICK)));
            let bounds = Bounds::of(zone, role, observed, node.scale);
            let threshold = track.baseline.threshold(&bounds);
            // More than a quiet host receives is no peace, although it had to wait.
            let learn = !frozen.contains(role) && as_f32(packets) <= TAU.as_secs_f32() * threshold;
            let look = Look { bounds, threshold, learn, calendar };
            let lesson = track.absorb(as_f32(packets), as_f32(dropped), &look, span, until);
            lessons.extend(lesson.map(|lesson| (role, lesson, track.baseline.threshold(&bounds))));
        }
        if is_seen {
            learn_usual(node, ratio, late, observed, until);
        }
        for (role, lesson, threshold_pps) in lessons {
            self.on_lesson(id, role, lesson, threshold_pps, now);
        }
    }

    /// What the prefixes around a target have to say about it.
    fn above(&self, id: NodeId) -> Above {
        let mut found = Above { covers: RoleSet::NONE, frozen: RoleSet::NONE };
        if !self.prefix_hot {
            return found;
        }
        let mut above = self.nodes.get(id).and_then(|node| node.parent);
        while let Some(node) = above.and_then(|id| self.nodes.get(id)) {
            above = node.parent;
            // What is out of its normal state is always hot.
            if !node.hot {
                continue;
            }
            let Phases { watch, attack, hold } = node.phases;
            found.covers = found.covers.union(attack);
            found.frozen = found.frozen.union(watch).union(attack).union(hold);
        }
        found
    }

    /// Adds a target's tick to the prefix above it, without what the target answers for itself.
    pub(super) fn hand_up(&mut self, id: NodeId, now: Timestamp) {
        let Some(node) = self.nodes.get(id) else { return };
        let Some(parent) = node.parent else { return };
        let fresh = node.touched == self.tick;
        let mut delta = if fresh { node.delta } else { Totals::default() };
        let busy: Vec<Role> = Role::ALL
            .into_iter()
            .filter(|role| node.track(*role).is_some_and(|track| track.phase != Phase::Normal && track.rate > 0.0))
            .collect();
        let Some(above) = self.nodes.get_mut(parent) else { return };
        for role in busy {
            above.member_alarmed(id, role, now);
            if !above.is_carpet(role) {
                delta.leave_out(role);
            }
        }
        if fresh {
            add_delta(above, parent, &delta, self.tick, now, &mut self.touched);
        }
    }

    /// Recomputes what is watched and what is hot.
    pub(super) fn settle_states(&mut self) {
        for zone in &mut self.zones {
            zone.alarmed = RoleSet::NONE;
            zone.answered = RoleSet::NONE;
        }
        let (nodes, slots) = (&mut self.nodes, &mut self.slots);
        self.hot.retain(|id| {
            nodes.get_mut(*id).is_some_and(|node| {
                node.note_phases();
                node.hot = !node.is_quiet();
                if !node.hot {
                    node.followed = None;
                    node.slot.into_iter().for_each(|slot| slots.set_hot(slot, false));
                }
                node.hot
            })
        });
        (self.hot_hosts, self.prefix_hot) = (0, false);
        let mut out_of_peace = vec![(0_u32, false); self.zones.len()];
        for id in &self.hot {
            let Some(node) = self.nodes.get(*id) else { continue };
            self.prefix_hot |= node.depth > 0;
            self.hot_hosts += usize::from(node.depth == 0);
            let Some(zone) = self.zones.get_mut(usize::from(node.zone)) else { continue };
            let Phases { watch, attack, hold } = node.phases;
            zone.alarmed = zone.alarmed.union(watch).union(attack);
            zone.answered = zone.answered.union(attack).union(hold);
            if watch.union(attack).union(hold).contains(Role::OutOfState)
                && let Some((targets, prefixes)) = out_of_peace.get_mut(usize::from(node.zone))
            {
                (*targets, *prefixes) = (*targets + 1, *prefixes || node.depth > 0);
            }
        }
        let targets = out_of_peace.into_iter().chain(std::iter::repeat((0, false)));
        for (zone, (targets, prefixes)) in self.zones.iter_mut().zip(targets) {
            zone.note_out_of_peace(targets, prefixes);
        }
        for (index, zone) in self.zones.iter().enumerate() {
            self.watch.set(u16::try_from(index).unwrap_or(u16::MAX), zone.alarmed);
        }
    }

    /// The threshold of a role at a target, packets per second.
    pub fn threshold_of(&self, node: &Node, role: Role) -> f32 {
        let (Some(zone), Some(state), Some(track)) =
            (self.plan.zone(node.zone), self.zones.get(usize::from(node.zone)), node.track(role))
        else {
            return f32::MAX;
        };
        track.baseline.threshold(&Bounds::of(zone, role, state.observed, node.scale))
    }

    /// Tells what was learned. What has become usual at a target comes from now on to the prefixes around it, too, which did
    /// not count it while it was an alarm.
    fn on_lesson(&mut self, id: NodeId, role: Role, lesson: Lesson, threshold_pps: f32, now: Timestamp) {
        let Some(target) = self.target(id) else { return };
        self.tell(What::Learned { target, role, lesson, threshold_pps }, now);
        let member = self.nodes.get(id).and_then(|node| Some((node.parent, node.track(role)?.baseline.clone())));
        let Some((mut above, member)) = member.filter(|_| lesson == Lesson::Merged) else { return };
        while let Some(prefix) = above.and_then(|id| self.nodes.get_mut(id)) {
            above = prefix.parent;
            if let Some(entry) = prefix.tracks.get_mut(role.index()) {
                entry.get_or_insert_with(|| Box::new(Track::new(now, TICK))).baseline.add_member(&member);
            }
        }
    }
}

/// Roles of a target that its covering prefixes decide about.
struct Above {
    /// A prefix is the target. One that waits in HOLD is not: what comes back on one host, below the prefix's threshold,
    /// is that host's attack.
    covers: RoleSet,
    /// A prefix is not in peace, so that what arrives at its hosts is not peace either.
    frozen: RoleSet,
}

/// Every host has packets inside conversations: only so many of them are worth what a track costs.
fn is_worth_a_track(role: Role, packets: u32, span: Duration) -> bool {
    const LEAST_PPS: f32 = 1_000.0;
    role != Role::Established || as_f32(packets) >= LEAST_PPS * span.as_secs_f32()
}

/// Packets per role that cannot be an alarm at a host of a zone, at whatever moments of a few ticks they came.
pub(super) fn limits(zone: &Zone, observed: Duration) -> Limits {
    Limits::new(std::array::from_fn(|at| {
        let role = Role::ALL.get(at).copied()?;
        let least = Baseline::least(&Bounds::of(zone, role, observed, 1.0));
        Some(whole_pps((TAU.as_secs_f32() * least).floor()))
    }))
}

/// Learns what witnesses see in peace. `late`: what is seen now counts only if no alarm follows it.
fn learn_usual(node: &mut Node, answer_ratio: Option<f32>, late: bool, observed: Duration, now: Timestamp) {
    let seen = Pending {
        half_open: if drained(node, Role::Syn) { node.window.half_open() } else { 0.0 },
        unanswered: answer_ratio
            .filter(|_| drained(node, Role::UdpOpen))
            .map_or(0.0, |ratio| node.window.unanswered(ratio)),
    };
    let alarmed = |role| node.phase(role) != Phase::Normal;
    if alarmed(Role::Syn) || alarmed(Role::UdpOpen) {
        return node.late.forget();
    }
    if !late {
        node.usual.half_open = node.usual.half_open.max(seen.half_open);
        node.usual.unanswered = node.usual.unanswered.max(seen.unanswered);
        return;
    }
    node.late.newest().most(&seen);
    if let Some((seen, elapsed)) = node.late.take(now) {
        let learn = |level: f32, seen: f32| growth::most(level, seen, witness::PENDING_FLOOR / 4.0, observed, elapsed);
        node.usual.half_open = learn(node.usual.half_open, seen.half_open);
        node.usual.unanswered = learn(node.usual.unanswered, seen.unanswered);
    }
}

/// True when the role is in peace and below its threshold.
fn drained(node: &Node, role: Role) -> bool {
    node.track(role).is_none_or(Track::is_idle)
}
