//! What the workers left since the last tick: notices, dirty slots, samples.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use levee_api::lane::{Lane, TcpFlags};
use levee_api::role::Role;
use levee_api::time::Timestamp;

use crate::detect::detector::{Detector, Tenant};
use crate::detect::event::Phase;
use crate::detect::node::{Node, NodeId};
use crate::detect::reservoir::Admission;
use crate::detect::services::Service;
use crate::detect::slots::Pass;
use crate::link::Notice;
use crate::sample::Sample;
use crate::target::conversation::{stranger_tcp, stranger_udp};
use crate::target::counters::{COUNTED_ROLES, Counts, Reading, Totals};
use crate::target::plan::destination_address;

/// How many slots ahead of its turn the next step of fetching one from memory is.
const AHEAD: usize = 6;

impl Detector {
    /// Reads what the workers left: notices, dirty slots, samples.
    pub(super) fn collect(&mut self, now: Timestamp) {
        self.end_waits(now);
        for worker in 0..self.feeds.len() {
            // Before notices: what begins is known when its answer is told.
            while let Some(sample) = self.feeds.get_mut(worker).and_then(|feed| feed.end.samples.pop().ok()) {
                self.take_sample(sample);
            }
            while let Some(notice) = self.feeds.get_mut(worker).and_then(|feed| feed.end.notices.pop().ok()) {
                match notice {
                    Notice::Lodged { slot, address, ipv6, totals } => {
                        self.lodge(worker, slot, address, ipv6, totals, now)
                    }
                    proof => {
                        self.proofs.note(proof);
                        match proof {
                            Notice::Proven(conversation) => self.services.answered(conversation, now),
                            Notice::Continued(conversation) => self.services.continued(conversation, now),
                            Notice::Lodged { .. } => {}
                        }
                    }
                }
            }
            let mut dirty = std::mem::take(&mut self.dirty);
            if let Some(feed) = self.feeds.get_mut(worker) {
                dirty.extend(std::iter::from_fn(|| feed.end.dirty.pop().ok()));
            }
            if self.feeds.get(worker).is_some_and(|feed| feed.end.take_overflow()) {
                let direct = u32::try_from(self.plan.slots()).unwrap_or(u32::MAX);
                dirty.clear();
                dirty.extend(0..direct);
                dirty.extend(self.feeds.get(worker).into_iter().flat_map(|feed| feed.tenants.keys()));
            }
            self.look_over(worker, &dirty, now);
            dirty.clear();
            self.dirty = dirty;
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
        self.proofs.forget(now);
        let zones = &self.zones;
        let in_peace = |zone: u16| zones.get(usize::from(zone)).is_some_and(|zone| !zone.is_busy(Role::UdpOpen));
        self.services.forget(in_peace, now);
    }

    fn take_sample(&mut self, sample: Sample) {
        let Some(place) = self.plan.destination(&sample.lanes) else { return };
        let Some(zone) = self.zones.get_mut(usize::from(place.zone)) else { return };
        if sample.role == Role::UdpOpen {
            let (target, port) = (destination_address(&sample.lanes), sample.lanes.get(Lane::DstPort));
            self.services.begin(sample.conversation, Service { zone: place.zone, target, port });
        }
        if !sample.is_example() {
            zone.sample(sample);
        }
        if sample.role != Role::Established || !sample.passed {
            return;
        }
        let lanes = &sample.lanes;
        let stranger = match lanes.get(Lane::Protocol) {
            6 => Some(stranger_tcp(TcpFlags::from_bits_truncate(lanes.get(Lane::TcpFlags)))),
            17 => Some(stranger_udp(lanes, self.plan.serves_udp(place.zone, lanes.get(Lane::DstPort)))),
            _ => None,
        };
        zone.count_explained(stranger);
        // To a served port the newcomers are those that a memory would not know.
        if let Some(role) = stranger.filter(|role| *role != Role::UdpOpen) {
            zone.explain(Sample { role, ..sample });
        }
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

    /// Reads the counters of slots with traffic.
    fn look_over(&mut self, worker: usize, dirty: &[u32], now: Timestamp) {
        let Some(feed) = self.feeds.get(worker) else { return };
        let (counters, limits) = (feed.end.counters.view(), &self.limits);
        let all_wait = self.looks_left == 0;
        let pass = Pass { worker, counters, dirty, limits, with_fates: self.prefix_hot, all_wait };
        let mut left = std::mem::take(&mut self.left);
        self.slots.pass(self.isa, pass, &mut left);
        let wait = left.over.len().saturating_sub(self.looks_left);
        if wait > 0 {
            // Those with the least excess.
            let (waiting, _, _) = left.over.select_nth_unstable(wait);
            let dirty: Vec<u32> = waiting.iter().map(|(_, slot)| *slot).collect();
            self.slots.pass(self.isa, Pass { dirty: &dirty, all_wait: true, ..pass }, &mut left);
        }
        let over = left.over.drain(..).skip(wait);
        self.looks_left -= over.len();
        left.special.extend(over.map(|(_, slot)| slot));
        for (index, slot) in left.special.iter().enumerate() {
            self.prefetch(&left.special, index);
            self.read(worker, *slot, now);
        }
        left.special.clear();
        self.left = left;
    }

    /// Reads the counters of a slot and adds what is new to its node, or lets it wait while its host is quiet.
    fn read(&mut self, worker: usize, slot: u32, now: Timestamp) {
        let Some(feed) = self.feeds.get(worker) else { return };
        if !self.slots.contains(slot) {
            let totals = feed.end.counters.read(slot);
            return self.read_tenant(worker, slot, &totals, now);
        }
        if self.slots.is_hot(slot) || (self.slots.sum_of(slot).is_none() && !self.meet(slot, now)) {
            // The slot of no host is always looked at.
            return self.read_whole(worker, slot, now);
        }
        let Some(feed) = self.feeds.get(worker) else { return };
        let arrivals = feed.end.counters.view().arrivals(slot);
        if !self.slots.take_exactly(worker, slot, &arrivals, &self.limits) {
            return self.end_quiet(worker, slot, &arrivals, now);
        }
        if self.prefix_hot {
            let fates = self.take_fates(worker, slot);
            self.sum_fates(slot, fates);
        }
    }

    /// What has become of a slot's packets since a worker's counters of that were last read, and what was sent.
    fn take_fates(&mut self, worker: usize, slot: u32) -> Counts {
        let Some(feed) = self.feeds.get(worker) else { return Counts::default() };
        self.slots.take_fates(worker, slot, &feed.end.counters.view().fates(slot))
    }

    /// The same, of all workers.
    fn take_all_fates(&mut self, slot: u32) -> Counts {
        (0..self.feeds.len()).fold(Counts::default(), |mut all, worker| {
            all.add(&self.take_fates(worker, slot));
            all
        })
    }

    fn sum_fates(&mut self, slot: u32, fates: Counts) {
        if let Some(sum) = self.slots.sum_of(slot) {
            self.slots.sum(sum, &Reading { fates, ..Reading::default() });
        }
    }

    /// A host has received more than a quiet one does: what waited, and what has come now, is its target's.
    fn end_quiet(&mut self, worker: usize, slot: u32, arrivals: &Counts, now: Timestamp) {
        let fates = self.take_all_fates(slot);
        let mut earlier = self.slots.end_wait(slot);
        let arrivals = self.slots.take_arrivals(worker, slot, arrivals);
        self.slots.end_wait(slot);
        let new = Reading { arrivals, fates: fates.of_arrivals(&arrivals) };
        earlier.counts.fates = earlier.counts.fates.since(&new.fates);
        self.sum_fates(slot, fates.since(&new.fates));
        match self.host_of(slot, now) {
            Some(host) => {
                self.absorb(host, &earlier, now);
                self.add(host, &new.totals(), now);
            }
            // There was no room for the host: its prefix stands for it, and for others.
            None => self.slots.sum_of(slot).into_iter().for_each(|sum| self.slots.sum(sum, &new)),
        }
    }

    fn read_whole(&mut self, worker: usize, slot: u32, now: Timestamp) {
        let Some(reading) = self.feeds.get(worker).map(|feed| feed.end.counters.reading(slot)) else { return };
        if let Some(new) = self.slots.take_all(worker, slot, &reading) {
            self.account(slot, &new, now);
        }
    }

    /// Asks for what is read of slots that follow the one at an index, step by step.
    fn prefetch(&self, slots: &[u32], index: usize) {
        let ahead = |steps: usize| slots.get(index + steps * AHEAD).copied();
        ahead(3).into_iter().for_each(|slot| self.slots.prefetch_node(slot));
        if let Some(slot) = ahead(2) {
            self.slots.prefetch_wait(slot);
            self.feeds.iter().for_each(|feed| feed.end.counters.view().prefetch_fates_to_read(slot));
            self.slots.node(slot).into_iter().for_each(|node| self.nodes.prefetch(node));
        }
        let node = ahead(1).and_then(|slot| self.slots.node(slot));
        node.into_iter().for_each(|node| self.nodes.prefetch_tracks(node));
    }

    /// Looks at quiet hosts whose packets have waited long enough.
    fn end_waits(&mut self, now: Timestamp) {
        self.slots.begin(self.tick, self.last_tick);
        let due = self.slots.take_due();
        for (index, slot) in due.iter().enumerate() {
            self.prefetch(&due, index);
            let fates = self.take_all_fates(*slot);
            self.sum_fates(*slot, fates);
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

    /// Finds the sum that the packets of a host belong to; false: the slot is no host's.
    fn meet(&mut self, slot: u32, now: Timestamp) -> bool {
        let Some(address) = self.plan.address(slot) else { return false };
        let Some(place) = self.plan.locate(address) else { return false };
        let Some(prefix) = self.plan.zone_prefix(place.zone, address) else { return false };
        let around = self.nodes.prefixes(address, place.zone, prefix, now);
        // The slots of a /24 are neighbours, so that its hosts are met together.
        let together = if prefix.length() <= 24 { slot & !0xff..(slot | 0xff) + 1 } else { slot..slot + 1 };
        self.slots.set_sum(together, place.zone, around);
        true
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
            if node.phase(Role::OutOfState) != Phase::Normal {
                zone.apart.add(delta);
            }
        }
    }

    /// The node of a prefix whose hosts are hashed: it has the counts of those that found no place there.
    fn aggregate_of(&mut self, slot: u32, now: Timestamp) -> Option<NodeId> {
        let (prefix, zone) = self.plan.aggregate(slot)?;
        self.nodes.aggregate(prefix, zone, now)
    }

    pub(super) fn admit_samples(&mut self, now: Timestamp) {
        let (proofs, services) = (&self.proofs, &self.services);
        for (index, zone) in (0..).zip(&mut self.zones) {
            for role in Role::ALL.into_iter().take(COUNTED_ROLES) {
                let admission = if self.calendar.is_training || zone.is_peaceful(role) {
                    Admission::All
                } else {
                    Admission::Proven
                };
                let usually = zone.habits.do_go_on();
                let returns = zone.returns.get(role.index()).and_then(Option::as_deref);
                let returns = returns.filter(|_| role == Role::IcmpOther || !zone.sees_inside);
                if let Some(explained) = zone.explained.get_mut(role.index()) {
                    explained.admit(Admission::All, |_| true, now);
                }
                if let Some(reservoir) = zone.reservoirs.get_mut(role.index()) {
                    let holds = |sample: &Sample| {
                        let of_service = services.do_go_on(index, sample.lanes.get(Lane::DstPort));
                        proofs.holds(role, of_service.unwrap_or(usually), sample.conversation)
                            || returns.is_some_and(|returns| returns.proves(sample.conversation))
                    };
                    reservoir.admit(admission, holds, now);
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
