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
use crate::target::counters::{COUNTED_ROLES, Totals};

/// Conversations that proved themselves are remembered this long.
const PROOF_MEMORY: Duration = Duration::from_secs(2);

impl Detector {
    /// Reads what the workers left: notices, dirty slots, samples.
    pub(super) fn collect(&mut self, now: Timestamp) {
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

    /// Reads the counters of a slot and adds what is new to its node.
    fn read(&mut self, worker: usize, slot: u32, now: Timestamp) {
        let Some(totals) = self.feeds.get(worker).map(|feed| feed.end.counters.read(slot)) else { return };
        let at = usize::try_from(slot).unwrap_or(usize::MAX);
        let known = match self.direct.get(at).copied() {
            Some(0) if totals == Totals::default() => return,
            Some(0) => {
                let node = match self.plan.address(slot) {
                    Some(address) => self.node_of(address, now),
                    None => self.aggregate_of(slot, now),
                };
                let Some(node) = node else { return };
                if let Some(entry) = self.direct.get_mut(at) {
                    *entry = node + 1;
                }
                node
            }
            Some(node) => node - 1,
            None => return self.read_tenant(worker, slot, &totals, now),
        };
        // Under the first plan counters began at zero; under a later one what they stand at is where counting begins.
        let start = if self.replanned { totals } else { Totals::default() };
        match self.nodes.get_mut(known).and_then(|node| node.seen.get_mut(worker)) {
            Some(seen) => {
                let before = seen.replace(totals).unwrap_or(start);
                self.add(known, &totals.since(&before), now);
            }
            // There was no room for the host: its prefix stands for it, and for others.
            None => {
                if let Some(feed) = self.feeds.get_mut(worker) {
                    feed.tenants.entry(slot).or_insert(Tenant { node: known, address: None, seen: start });
                }
                self.read_tenant(worker, slot, &totals, now);
            }
        }
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
