//! Hosts with a computed slot, as the tick sees most of them: quiet.
//!
//! What a quiet host receives is summed in a record of its own and in that of the prefix around it, and compared with
//! what can be no alarm; that is all, in most ticks, and it reads no more than these records. Its target is looked at when
//! the sum passes that limit, and otherwise ten ticks after its first packet, which is the window that baselines learn
//! in anyway. A host that is hot (a role out of its normal state, or a bucket not empty) is accounted in each tick.
//!
//! Memory: 136 bytes per slot and 128 per slot and worker; the system gives them for slots that ever had a packet.

use std::collections::HashMap;
use std::mem;

use levee_api::role::Role;
use levee_api::time::Timestamp;

use crate::detect::node::NodeId;
use crate::isa::prefetch;
use crate::target::counters::Reading;

/// Ticks that a quiet host's packets wait at most.
const WAIT: usize = 10;
/// Ticks whose times are remembered: more than packets wait.
const TIMES: usize = 16;
/// In the word of a slot: its host is accounted in each tick.
const HOT: NodeId = 1 << 31;

/// Packets per role that are no alarm, whenever they came.
pub(super) type Limits = [u32; Role::COUNT];

/// The slots of a plan.
#[derive(Debug, Default)]
pub(super) struct Slots {
    /// Node of a slot plus one, and whether that is hot; zero: none yet.
    nodes: Vec<NodeId>,
    /// What each worker's counters stood at when they were last read.
    seen: Vec<Vec<Reading>>,
    /// What quiet hosts have received since they were last looked at, stamped with the tick in which the first of it came;
    /// zero: there is nothing.
    waiting: Vec<Reading>,
    /// Which of `sums` a slot belongs to, plus one; zero: not looked up yet.
    sum_of: Vec<u32>,
    sums: Vec<Sum>,
    sum_at: HashMap<(u16, Option<NodeId>), u32>,
    /// Those of `sums` that have counts of this tick.
    summed: Vec<u32>,
    /// Slots whose packets have waited long enough, by tick.
    wheel: [Vec<u32>; WAIT],
    times: [Timestamp; TIMES],
    tick: u32,
}

/// What the quiet hosts of a prefix, or of a zone where they have none around them, have received in this tick.
#[derive(Clone, Debug)]
pub(super) struct Sum {
    pub(super) zone: u16,
    pub(super) prefix: Option<NodeId>,
    pub(super) counts: Reading,
}

/// What waited, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Earlier {
    pub(super) counts: Reading,
    pub(super) from: Timestamp,
}

impl Slots {
    /// Slots whose counters stand at what `reading` says, per worker and slot.
    pub(super) fn new(slots: usize, workers: usize, reading: impl Fn(usize, u32) -> Reading) -> Self {
        let seen = |worker| (0..).take(slots).map(|slot| reading(worker, slot)).collect();
        Self {
            nodes: vec![0; slots],
            seen: (0..workers).map(seen).collect(),
            waiting: vec![Reading::default(); slots],
            sum_of: vec![0; slots],
            ..Self::default()
        }
    }

    /// Begins a tick, and returns the slots whose packets have waited long enough. `last`: when the last one was.
    pub(super) fn begin(&mut self, tick: u64, last: Timestamp) -> Vec<u32> {
        self.tick = u32::try_from(tick & 0xffff_ffff).unwrap_or(0);
        if let Some(time) = self.times.get_mut(slot_of(self.tick.wrapping_sub(1), TIMES)) {
            *time = last;
        }
        self.wheel.get_mut(slot_of(self.tick, WAIT)).map(mem::take).unwrap_or_default()
    }

    /// True for the slots that are kept here.
    pub(super) fn contains(&self, slot: u32) -> bool {
        at(slot) < self.nodes.len()
    }

    /// Asks for what a slot's counts are added to.
    pub(super) fn prefetch(&self, worker: usize, slot: u32) {
        let seen = self.seen.get(worker).and_then(|seen| seen.get(at(slot)));
        for record in seen.into_iter().chain(self.waiting.get(at(slot))) {
            record.lines().into_iter().for_each(prefetch);
        }
    }

    /// What a worker has counted in a slot since it was last read; none: nothing.
    pub(super) fn take(&mut self, worker: usize, slot: u32, reading: &Reading) -> Option<Reading> {
        let seen = self.seen.get_mut(worker)?.get_mut(at(slot))?;
        let new = reading.since(seen);
        *seen = *reading;
        (!new.is_zero()).then_some(new)
    }

    /// The node of a slot.
    pub(super) fn node(&self, slot: u32) -> Option<NodeId> {
        self.nodes.get(at(slot)).and_then(|node| (node & !HOT).checked_sub(1))
    }

    /// Gives a slot its node.
    pub(super) fn set_node(&mut self, slot: u32, node: NodeId) {
        if let Some(known) = self.nodes.get_mut(at(slot)) {
            *known = *known & HOT | (node + 1);
        }
    }

    /// True when a slot is accounted in each tick.
    pub(super) fn is_hot(&self, slot: u32) -> bool {
        self.nodes.get(at(slot)).is_some_and(|node| node & HOT != 0)
    }

    /// From now on a slot is accounted in each tick, or not.
    pub(super) fn set_hot(&mut self, slot: u32, hot: bool) {
        if let Some(node) = self.nodes.get_mut(at(slot)) {
            *node = if hot { *node | HOT } else { *node & !HOT };
        }
    }

    /// Which sum a slot belongs to, if that is known.
    pub(super) fn sum_of(&self, slot: u32) -> Option<u32> {
        self.sum_of.get(at(slot))?.checked_sub(1)
    }

    /// Gives a slot the sum of a prefix, or of a zone.
    pub(super) fn set_sum(&mut self, slot: u32, zone: u16, prefix: Option<NodeId>) -> u32 {
        let next = u32::try_from(self.sums.len()).unwrap_or(u32::MAX);
        let sum = *self.sum_at.entry((zone, prefix)).or_insert(next);
        if sum == next {
            self.sums.push(Sum { zone, prefix, counts: Reading::default() });
        }
        if let Some(known) = self.sum_of.get_mut(at(slot)) {
            *known = sum + 1;
        }
        sum
    }

    /// The zone of a sum.
    pub(super) fn zone(&self, sum: u32) -> usize {
        self.sums.get(at(sum)).map_or(usize::MAX, |sum| sum.zone.into())
    }

    /// Lets what has come to a quiet slot wait, and adds it to its sum. When more waits than `limits` say, nothing is
    /// added, and what had waited before is returned.
    pub(super) fn wait(&mut self, slot: u32, sum: u32, new: &Reading, limits: &Limits) -> Option<Earlier> {
        let waiting = self.waiting.get_mut(at(slot))?;
        let mut all = *waiting;
        all.add(new);
        if !all.is_within(limits) {
            return Some(self.end_wait(slot));
        }
        if all.stamp() == 0 {
            all = all.stamped(self.tick.max(1));
            if let Some(due) = self.wheel.get_mut(slot_of(self.tick, WAIT)) {
                due.push(slot);
            }
        }
        *waiting = all;
        self.sum(sum, new);
        None
    }

    /// Adds to a sum only.
    pub(super) fn sum(&mut self, index: u32, new: &Reading) {
        let Some(sum) = self.sums.get_mut(at(index)) else { return };
        if sum.counts.stamp() == 0 {
            sum.counts = sum.counts.stamped(1);
            self.summed.push(index);
        }
        sum.counts.add(new);
    }

    /// Ends the wait of a slot.
    pub(super) fn end_wait(&mut self, slot: u32) -> Earlier {
        let counts = self.waiting.get_mut(at(slot)).map(mem::take).unwrap_or_default();
        let before = counts.stamp().wrapping_sub(1);
        let from = self.times.get(slot_of(before, TIMES)).copied().unwrap_or_default();
        Earlier { counts: counts.stamped(0), from }
    }

    /// True when the packets of a slot have waited long enough: those that it had when it came to the wheel may have been
    /// looked at before, and others wait now.
    pub(super) fn is_due(&self, slot: u32) -> bool {
        let since = self.waiting.get(at(slot)).map_or(0, Reading::stamp);
        since != 0 && self.tick.wrapping_sub(since) >= u32::try_from(WAIT).unwrap_or(u32::MAX)
    }

    /// Takes the sums of this tick.
    pub(super) fn take_sums(&mut self) -> impl Iterator<Item = Sum> {
        let Self { summed, sums, .. } = self;
        summed.drain(..).filter_map(|index| {
            let sum = sums.get_mut(at(index))?;
            let counts = mem::take(&mut sum.counts).stamped(0);
            Some(Sum { counts, ..*sum })
        })
    }
}

fn at(index: u32) -> usize {
    usize::try_from(index).unwrap_or(usize::MAX)
}

fn slot_of(tick: u32, of: usize) -> usize {
    at(tick) % of
}
