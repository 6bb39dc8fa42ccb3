//! What the detector tells: filters as they come and go, what an attack is, and its rates.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use levee_api::filter::Filter;
use levee_api::role::Role;
use levee_api::time::Timestamp;
use levee_api::vector::Vector;
use levee_api::zone::Mode;

use crate::detect::classify;
use crate::detect::detector::Detector;
use crate::detect::event::{Phase, What};
use crate::detect::measures::Placed;
use crate::detect::node::NodeId;
use crate::link::Lost;
use crate::target::plan::source_address;

/// What a target sends is smoothed over about so many seconds: of few packets a second of it is chance.
const SENDING_OVER_S: f64 = 5.0;
/// Filters told at once that are not in force everywhere.
const MOST_LEFT_OUT: usize = 64;

impl Detector {
    /// Makes events of what was installed and removed.
    pub fn tell_changes(&mut self, now: Timestamp) {
        for placed in self.measures.take_changes() {
            self.tell_placed(placed, now);
        }
        if self.measures.held {
            return;
        }
        for left_out in self.measures.table.take_left_out(MOST_LEFT_OUT) {
            self.tell(What::FilterLeftOut(left_out), now);
        }
    }

    /// What did not fit into the rings of all workers so far: samples, notices.
    pub fn lost(&self) -> (u64, u64) {
        let of = |count: fn(&Lost) -> &AtomicU64| {
            self.feeds.iter().map(|feed| count(feed.end.lost()).load(Ordering::Relaxed)).sum()
        };
        (of(|lost| &lost.samples), of(|lost| &lost.notices))
    }

    fn tell_placed(&mut self, placed: Placed, now: Timestamp) {
        match placed {
            Placed::Installed(filter, counter) => {
                self.hits_before.insert(filter.id, self.hits(counter));
                let zone = self.plan.zone_named(&filter.target.zone).and_then(|zone| self.plan.zone(zone));
                let simulated = zone.is_some_and(|zone| zone.mode == Mode::Monitor);
                self.tell(What::FilterInstalled { filter, counter, simulated }, now);
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

    /// Says what an attack is, from the newest samples, if that is not what was said last.
    pub(super) fn classify(&mut self, id: NodeId, role: Role, now: Timestamp) {
        let samples = self.attack_samples(id, role, now, false);
        let is_idle = self.nodes.get(id).and_then(|node| node.track(role)).is_some_and(|track| track.is_idle_flood);
        let mut vectors = if is_idle { classify::classify_idle(&samples) } else { classify::classify(role, &samples) };
        let Some(node) = self.nodes.get_mut(id) else { return };
        let prefix = node.prefix;
        let Some(track) = node.track_mut(role).filter(|_| !vectors.is_empty()) else { return };
        vectors.extend(classify::properties(&prefix, track.longest_gap()));
        let names: Vec<Vector> = vectors.iter().map(|found| found.vector).collect();
        if track.told == names {
            return;
        }
        track.told = names;
        if let Some(target) = self.target(id) {
            self.tell(What::Classified { target, role, vectors }, now);
        }
    }

    /// Tells the rates of a target under attack, also between its pulses, and what the attack is now.
    pub(super) fn report_rates(&mut self, id: NodeId, now: Timestamp) {
        let seconds = now.since(self.last_second).as_secs_f64().max(0.01);
        let Some(node) = self.nodes.get_mut(id) else { return };
        let load = std::mem::take(&mut node.since_report);
        let attacked: Vec<Role> = Role::ALL.into_iter().filter(|role| node.phase(*role) == Phase::Attack).collect();
        // Between two pulses it is still the same attack, and what arrives meanwhile says that it has stopped.
        if attacked.is_empty() && Role::ALL.into_iter().all(|role| node.phase(role) != Phase::Hold) {
            (node.sources, node.sending) = (None, None);
            return;
        }
        let per_second = |count: u64| as_f64(count) / seconds;
        let usual = node.peace.outbound_pps().map(f64::from);
        let sending = node.sending.map(f64::from).or(usual).map(|before| {
            let weight = 1.0 - (-seconds / SENDING_OVER_S).exp();
            before + (per_second(load.outbound) - before) * weight
        });
        node.sending = sending.map(as_f32);
        let sees_inside = self.zones.get(usize::from(node.zone)).is_some_and(|zone| zone.sees_inside);
        let goodput_ratio = usual.zip(sending).filter(|_| sees_inside).map(|(usual, sending)| sending / usual);
        self.count_sources(id, &attacked, now);
        let sources = self.nodes.get(id).and_then(|node| node.sources.as_ref()).map(|sources| sources.count());
        if let Some(target) = self.target(id) {
            let (pps, bps) = (per_second(load.packets), per_second(load.bytes) * 8.0);
            let dropped_pps = per_second(load.dropped);
            self.tell(What::Rates { target, pps, bps, dropped_pps, goodput_ratio, sources }, now);
        }
        for role in attacked {
            self.classify(id, role, now);
        }
    }

    /// Counts who was sampled of an attack since the last time.
    fn count_sources(&mut self, id: NodeId, attacked: &[Role], now: Timestamp) {
        let keyed = self.keyed;
        let samples = attacked.iter().flat_map(|role| self.attack_samples(id, *role, now, false));
        let keys: Vec<u64> = samples.map(|sample| keyed.number(number(source_address(&sample.lanes)))).collect();
        let Some(node) = self.nodes.get_mut(id).filter(|_| !keys.is_empty()) else { return };
        let sources = node.sources.get_or_insert_default();
        keys.into_iter().for_each(|key| sources.note(key));
    }
}

/// An address as a number; those of IPv4 are among those of IPv6 that are mapped (RFC 4291, section 2.5.5.2).
const fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a rate")]
const fn as_f32(rate: f64) -> f32 {
    rate as f32
}

#[expect(clippy::cast_precision_loss, reason = "rates for people")]
fn as_f64(count: u64) -> f64 {
    count as f64
}
