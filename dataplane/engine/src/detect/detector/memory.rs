//! What was learned, carried over restarts and changes of policy.

use std::sync::Arc;
use std::time::Duration;

use levee_api::time::Timestamp;

use crate::detect::detector::{Detector, TICK, Tenant};
use crate::detect::growth;
use crate::detect::slots::Slots;
use crate::detect::snapshot::Learned;
use crate::detect::track::Track;
use crate::detect::zone::ZoneState;
use crate::target::plan::{Place, Plan};

/// Observation of this long has half its weight from the last week, so that it is forgotten like what was observed.
const MOST_OBSERVED: Duration = Duration::from_secs(10 * 24 * 3600);

impl Detector {
    /// Takes over what was learned before.
    pub(in crate::detect) fn restore(&mut self, learned: Learned, now: Timestamp) {
        let Learned { written, zones, targets } = learned;
        let away = (self.origin + now.since(Timestamp::ZERO)).saturating_sub(written);
        let known: Vec<Option<u16>> = zones.iter().map(|zone| self.plan.zone_named(&zone.name)).collect();
        for (record, zone) in zones.into_iter().zip(&known) {
            let Some(state) = zone.and_then(|zone| self.zones.get_mut(usize::from(zone))) else { continue };
            state.observed = record.observed.min(MOST_OBSERVED).mul_f32(growth::decay(away));
            state.habits = record.habits;
            zone.iter().for_each(|zone| self.services.restore(*zone, &record.services));
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
            node.usual.heaviest = record.heaviest;
            for (role, mut baseline) in record.baselines {
                baseline.age(away, 1.0 / self.calendar.weight);
                if let Some(track) = node.tracks.get_mut(role.index()) {
                    track.get_or_insert_with(|| Box::new(Track::new(now, TICK))).baseline = baseline;
                }
            }
        }
    }

    /// When it is, since 1970, and what an observation weighs.
    pub(in crate::detect) fn learning_time(&self) -> (Duration, f32) {
        (self.origin + self.last_tick.since(Timestamp::ZERO), self.calendar.weight)
    }

    /// Takes a new plan. What is known of a zone and of its targets stays with the zone's name and their addresses: also
    /// the attacks under way, and the measures against them.
    pub fn replan(&mut self, plan: Arc<Plan>, now: Timestamp) {
        let before = std::mem::replace(&mut self.plan, plan);
        let index_of = |name: &str| self.plan.zone_named(name);
        let moved: Vec<Option<u16>> = before.zones().iter().map(|zone| index_of(&zone.name)).collect();
        self.services.rezone(&moved);
        let states = std::mem::take(&mut self.zones);
        self.zones = self.plan.zones().iter().map(|_| ZoneState::default()).collect();
        for (state, to) in states.into_iter().zip(&moved) {
            if let Some(place) = to.and_then(|to| self.zones.get_mut(usize::from(to))) {
                *place = state;
            }
        }
        let mut known = std::mem::take(&mut self.nodes).into_nodes();
        // Hosts first: they bring their prefixes with them.
        known.sort_by_key(|node| (node.depth, node.zone, node.prefix));
        // Counters stand where they stand: slots may be other hosts' now.
        let feeds = &self.feeds;
        let reading =
            |worker: usize, slot| feeds.get(worker).map(|feed| feed.end.counters.reading(slot)).unwrap_or_default();
        self.slots = Slots::new(self.plan.slots(), feeds.len(), reading);
        self.hot.clear();
        self.touched.iter_mut().for_each(Vec::clear);
        self.task = None;
        for old in known {
            let zone = moved.get(usize::from(old.zone)).copied().flatten();
            let address = old.prefix.address();
            let host = if old.prefix.is_host() { self.node_of(address, now) } else { None };
            let Some(id) = self.nodes.find(&old.prefix).or(host) else { continue };
            let Some(node) = self.nodes.get_mut(id).filter(|node| Some(node.zone) == zone && node.prefix == old.prefix)
            else {
                continue;
            };
            node.take_over(old);
            if !node.is_idle() {
                node.note_phases();
                node.hot = true;
                self.hot.push(id);
                if let Some(Place { slot, hashed: false, .. }) = self.plan.locate(address).filter(|_| node.depth == 0) {
                    node.slot = Some(slot);
                    self.slots.set_node(slot, id);
                    self.slots.set_hot(slot, true);
                }
            }
        }
        for worker in 0..self.feeds.len() {
            let tenants = self.feeds.get_mut(worker).map(|feed| std::mem::take(&mut feed.tenants)).unwrap_or_default();
            for (slot, tenant) in tenants {
                // Slots that no host has are read anew.
                let Some(address) = tenant.address else { continue };
                if let (Some(node), Some(feed)) = (self.node_of(address, now), self.feeds.get_mut(worker)) {
                    feed.tenants.insert(slot, Tenant { node, ..tenant });
                }
            }
        }
        self.watch.clear_targets();
        for id in self.hot.clone() {
            self.mark(id);
        }
        let plan = &self.plan;
        self.measures.rezone(|name| plan.zone_named(name));
    }
}
