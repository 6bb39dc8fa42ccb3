//! What the workers left since the last tick: notices, dirty slots, samples.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use levee_api::role::Role;
use levee_api::time::Timestamp;

use crate::detect::detector::{Detector, Tenant};
use crate::detect::node::{Node, NodeId};
use crate::detect::reservoir::Admission;
use crate::detect::zone::ZoneState;
use crate::link::Notice;
use crate::packet::Lanes;
use crate::target::counters::{COUNTED_ROLES, Reading, Totals};

/// How many slots ahead of its turn one is fetched from memory.
const AHEAD: usize = 12;
/// Conversations that proved themselves are remembered this long.
const PROOF_MEMORY: Duration = Duration::from_secs(2);

impl Detector {
    /// Reads what the workers left: notices, dirty slots, samples.
    pub(super) fn collect(&mut self, now: Timestamp) {
        self.end_waits(now);
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
            let mut dirty = std::mem::take(&mut self.dirty);
            if let Some(feed) = self.feeds.get_mut(worker) {
                dirty.extend(std::iter::from_fn(|| feed.end.dirty.pop().ok()));
            }
            for (index, slot) in dirty.iter().enumerate() {
                if let (Some(feed), Some(ahead)) = (self.feeds.get(worker), dirty.get(index + AHEAD)) {
                    feed.end.counters.view().prefetch_to_read(*ahead);
                    self.slots.prefetch(worker, *ahead);
                }
                self.read(worker, *slot, now);
            }
            dirty.clear();
            self.dirty = dirty;
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
        for sum in self.slots.take_sums() {
            let counts = sum.counts.totals();
            if let Some(zone) = self.zones.get_mut(usize::from(sum.zone)) {
                zone.delta.add(&counts);
            }
            if let Some(id) = sum.prefix
                && let Some(prefix) = self.nodes.get_mut(id)
            {
                add_delta(prefix, id, &counts, self.tick, now, &mut self.touched);
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
        // What was counted for the tenant before is its own, also when it came and went within this tick.
        self.read_tenant(worker, slot, &totals, now);
        let Some(node) = self.node_of(address, now) else { return };
        if let Some(feed) = self.feeds.get_mut(worker) {
            feed.tenants.insert(slot, Tenant { node, address: Some(address), seen: totals });
        }
    }

    pub(super) fn node_of(&mut self, address: IpAddr, now: Timestamp) -> Option<NodeId> {
        let place = self.plan.locate(address)?;
        let prefix = self.plan.zone_prefix(place.zone, address)?;
        self.nodes.host(address, place.zone, prefix, now)
    }

    /// Reads the counters of a slot and adds what is new to its node, or lets it wait while its host is quiet.
    fn read(&mut self, worker: usize, slot: u32, now: Timestamp) {
        let Some(reading) = self.feeds.get(worker).map(|feed| feed.end.counters.reading(slot)) else { return };
        if !self.slots.contains(slot) {
            return self.read_tenant(worker, slot, &reading.totals(), now);
        }
        let Some(new) = self.slots.take(worker, slot, &reading) else { return };
        if self.slots.is_hot(slot) {
            return self.account(slot, &new, now);
        }
        let Some(sum) = self.slots.sum_of(slot).or_else(|| self.meet(slot, now)) else {
            // No host's own: it is always looked at.
            return self.account(slot, &new, now);
        };
        let Some(limits) = self.limits.get(self.slots.zone(sum)) else { return };
        let Some(earlier) = self.slots.wait(slot, sum, &new, limits) else { return };
        match self.host_of(slot, now) {
            Some(host) => {
                self.absorb(host, &earlier, now);
                self.add(host, &new.totals(), now);
            }
            // There was no room for the host: its prefix stands for it, and for others.
            None => self.slots.sum(sum, &new),
        }
    }

    /// Looks at quiet hosts whose packets have waited long enough.
    fn end_waits(&mut self, now: Timestamp) {
        let due = self.slots.begin(self.tick, self.last_tick);
        for (index, slot) in due.iter().enumerate() {
            if let Some(ahead) = due.get(index + AHEAD).and_then(|slot| self.slots.node(*slot)) {
                self.nodes.prefetch(ahead);
            }
            if !self.slots.is_due(*slot) {
                continue;
            }
            let earlier = self.slots.end_wait(*slot);
            let host = match self.slots.node(*slot) {
                Some(known) => Some(known),
                None if self.meetings_left > 0 => {
                    self.meetings_left -= 1;
                    self.host_of(*slot, now)
                }
                None => None,
            };
            if let Some(host) = host {
                self.absorb(host, &earlier, now);
            }
        }
    }

    /// Finds the sum that the packets of a host belong to; none: the slot is no host's.
    fn meet(&mut self, slot: u32, now: Timestamp) -> Option<u32> {
        let address = self.plan.address(slot)?;
        let place = self.plan.locate(address)?;
        let prefix = self.plan.zone_prefix(place.zone, address)?;
        let around = self.nodes.prefixes(address, place.zone, prefix, now);
        Some(self.slots.set_sum(slot, place.zone, around))
    }

    /// The node of the host that has a slot, made if there is room for it.
    fn host_of(&mut self, slot: u32, now: Timestamp) -> Option<NodeId> {
        if let Some(known) = self.slots.node(slot) {
            return Some(known);
        }
        let id = self.node_of(self.plan.address(slot)?, now)?;
        let node = self.nodes.get_mut(id).filter(|node| node.depth == 0)?;
        node.slot = Some(slot);
        self.slots.set_node(slot, id);
        Some(id)
    }

    /// Adds what has come to a slot to its node, in this tick.
    fn account(&mut self, slot: u32, new: &Reading, now: Timestamp) {
        let node = match self.slots.node(slot) {
            Some(known) => Some(known),
            None => self.aggregate_of(slot, now),
        };
        let Some(node) = node else { return };
        self.slots.set_node(slot, node);
        self.add(node, &new.totals(), now);
    }

    /// Adds what a slot has counted since it was last read to the node of whoever has it.
    fn read_tenant(&mut self, worker: usize, slot: u32, totals: &Totals, now: Timestamp) {
        let tenant = self.feeds.get_mut(worker).and_then(|feed| feed.tenants.get_mut(&slot));
        let Some(Tenant { node, address, seen }) = tenant else { return };
        let (delta, address, mut id) = (totals.since(seen), *address, *node);
        *seen = *totals;
        if delta == Totals::default() {
            return;
        }
        // A host that was idle for long has been forgotten, and its node may be another's by now.
        if let Some(address) = address
            && !self.nodes.get(id).is_some_and(|node| node.prefix.contains(address))
        {
            let Some(anew) = self.node_of(address, now) else { return };
            id = anew;
            if let Some(tenant) = self.feeds.get_mut(worker).and_then(|feed| feed.tenants.get_mut(&slot)) {
                tenant.node = anew;
            }
        }
        self.add(id, &delta, now);
    }

    fn add(&mut self, id: NodeId, delta: &Totals, now: Timestamp) {
        let Some(node) = self.nodes.get_mut(id) else { return };
        if *delta == Totals::default() {
            return;
        }
        add_delta(node, id, delta, self.tick, now, &mut self.touched);
        if let Some(zone) = self.zones.get_mut(usize::from(node.zone)) {
            zone.delta.add(delta);
        }
    }

    /// The node of a prefix whose hosts are hashed: it has the counts of those that found no place there.
    fn aggregate_of(&mut self, slot: u32, now: Timestamp) -> Option<NodeId> {
        let (prefix, zone) = self.plan.aggregate(slot)?;
        self.nodes.aggregate(prefix, zone, now)
    }

    pub(super) fn admit_samples(&mut self, now: Timestamp) {
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
}

/// Adds counts to a node, and notes that it has to be looked at in this tick.
pub(super) fn add_delta(
    node: &mut Node,
    id: NodeId,
    delta: &Totals,
    tick: u64,
    now: Timestamp,
    touched: &mut [Vec<NodeId>],
) {
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
