//! Hosts with a computed slot, as the tick sees most of them: quiet.
//!
//! What a quiet host receives is summed in a record of the prefix around it, and a bound on what it may have received since
//! it was last looked at is compared with what can be no alarm. That is all, in most ticks: of the worker's counters it
//! reads one line, and of its own it reads and writes one line and eight bytes. The exact count is made when the bound
//! passes the limit, and the host's target is looked at when the count does; otherwise ten ticks after its first packet,
//! which is the window that baselines learn in anyway, or as soon after that as a tick has time for it. What filters did to
//! a quiet host and what it sent are read only then, or while a prefix is out of its normal state. A host that is hot (a
//! role out of its normal state, or a bucket not empty) is accounted in each tick. The pass over many slots is in [`pass`].
//!
//! Memory: 144 bytes per slot and 128 per slot and worker.

use std::collections::{HashMap, VecDeque};
use std::mem;
use std::ops::Range;

use levee_api::role::Role;
use levee_api::time::Timestamp;

use crate::detect::node::NodeId;
use crate::isa::{prefetch, prefetch_at};
use crate::target::counters::{Counts, Reading};

mod pass;

pub(super) use pass::{Left, Pass};

/// Ticks that a quiet host's packets wait, unless more hosts are due than a tick has time for.
const WAIT: u32 = 10;
/// Hosts whose wait one tick may end, at about 150 ns each: of more than ten times as many that are active the others wait
/// longer, those of a whole /12 for 2.6 s.
const MOST_ENDED: usize = 4096;
/// Ticks whose times are remembered: more than packets wait.
const TIMES: usize = 512;
/// In the word that says which sum a slot belongs to: its host is accounted in each tick.
const HOT: u32 = 1 << 31;
/// All of what is no alarm. Parts are rounded up, so that their sum is never less than they are.
const WHOLE: u32 = 1 << 24;

/// Packets per role that are no alarm, whenever they came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    most: [u32; Role::COUNT],
    /// Packets in a tick that tell too much from not too much, and which part of [`WHOLE`] each of them is.
    enough: [u32; Role::COUNT],
    parts: [u32; Role::COUNT],
}

impl Limits {
    /// Limits per role; none: it has none.
    pub(super) fn new(most: [Option<u32>; Role::COUNT]) -> Self {
        let (enough, parts) = (most.map(|most| most.map_or(0, |most| most.min(WHOLE) + 1)), most.map(part_of));
        Self { most: most.map(|most| most.unwrap_or(u32::MAX)), enough, parts }
    }

    fn part(&self, arrivals: &Counts) -> u32 {
        arrivals.largest_part(&self.enough, &self.parts)
    }
}

fn part_of(most: Option<u32>) -> u32 {
    match most {
        None => 0,
        Some(0) => WHOLE + 1,
        Some(most) => WHOLE.div_ceil(most),
    }
}

/// The slots of a plan.
#[derive(Debug, Default)]
pub(super) struct Slots {
    /// What is read of each quiet slot in each tick.
    brief: Vec<Brief>,
    /// What each worker's counters of arrivals stood at when they were last read.
    arrivals: Vec<Vec<Counts>>,
    /// The same of fates, which of quiet hosts are read less often.
    fates: Vec<Vec<Counts>>,
    /// What all workers' counters stood at together when the host was last looked at.
    looked: Vec<Reading>,
    /// Node of a slot plus one; zero: none yet.
    nodes: Vec<NodeId>,
    /// The tick in which the first of the packets that wait came; zero: none waits.
    since: Vec<u32>,
    sums: Vec<Sum>,
    sum_at: HashMap<(u16, Option<NodeId>), u32>,
    /// Those of `sums` that have counts of this tick.
    summed: Vec<u32>,
    /// Slots whose packets wait, and since which tick, the longest first.
    waiting: VecDeque<(u32, u32)>,
    times: Times,
    tick: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Brief {
    /// Which of the sums it belongs to, plus one, and whether its host is hot; zero: not looked up yet.
    sum: u32,
    /// At most this part of what is no alarm has been received since the host was last looked at; zero: nothing waits.
    part: u32,
}

/// When the last ticks were.
#[derive(Debug)]
struct Times([Timestamp; TIMES]);

impl Default for Times {
    fn default() -> Self {
        Self([Timestamp::ZERO; TIMES])
    }
}

/// What the quiet hosts of a prefix, or of a zone where they have none around them, have received in this tick.
#[derive(Clone, Debug)]
pub(super) struct Sum {
    pub(super) zone: u16,
    pub(super) prefix: Option<NodeId>,
    pub(super) counts: Reading,
    is_new: bool,
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
        let of =
            |worker, line: fn(Reading) -> Counts| (0..).take(slots).map(|slot| line(reading(worker, slot))).collect();
        let mut new = Self {
            brief: vec![Brief::default(); slots],
            arrivals: (0..workers).map(|worker| of(worker, |reading| reading.arrivals)).collect(),
            fates: (0..workers).map(|worker| of(worker, |reading| reading.fates)).collect(),
            nodes: vec![0; slots],
            since: vec![0; slots],
            ..Self::default()
        };
        new.looked = (0..).take(slots).map(|slot| new.seen(slot)).collect();
        new
    }

    /// Begins a tick. `last`: when the last one was.
    pub(super) fn begin(&mut self, tick: u64, last: Timestamp) {
        self.tick = u32::try_from(tick & 0xffff_ffff).unwrap_or(0).max(1);
        let Times(times) = &mut self.times;
        if let Some(time) = times.get_mut(at(self.tick.wrapping_sub(1)) % TIMES) {
            *time = last;
        }
    }

    /// Takes the slots whose packets have waited long enough, as many as a tick has time for.
    pub(super) fn take_due(&mut self) -> Vec<u32> {
        let mut due = Vec::new();
        while let Some((slot, since)) = self.waiting.front().copied()
            && self.tick.wrapping_sub(since) >= WAIT
            && due.len() < MOST_ENDED
        {
            self.waiting.pop_front();
            // Otherwise they were looked at before, and others may wait now.
            if self.since.get(at(slot)) == Some(&since) && !self.is_hot(slot) {
                due.push(slot);
            }
        }
        due
    }

    /// True for the slots that are kept here.
    pub(super) fn contains(&self, slot: u32) -> bool {
        at(slot) < self.brief.len()
    }

    /// Asks for what [`Self::node`] reads.
    pub(super) fn prefetch_node(&self, slot: u32) {
        prefetch_at(&self.nodes, at(slot));
        prefetch_at(&self.since, at(slot));
    }

    /// Asks for what [`Self::end_wait`] reads.
    pub(super) fn prefetch_wait(&self, slot: u32) {
        let seen = self.arrivals.iter().chain(&self.fates);
        seen.for_each(|seen| prefetch_at(seen, at(slot)));
        if let Some(Reading { arrivals, fates }) = self.looked.get(at(slot)) {
            prefetch(arrivals);
            prefetch(fates);
        }
    }

    /// Takes what a worker's counters of arrivals say of a quiet host and adds what is new to its sum, by the exact counts;
    /// false: it is too much to wait, and has not been taken. `limits`: of each zone.
    pub(super) fn take_exactly(&mut self, worker: usize, slot: u32, arrivals: &Counts, limits: &[Limits]) -> bool {
        let before = self.seen(slot).arrivals;
        let (Some(looked), Some(new), Some(sum)) =
            (self.looked.get(at(slot)), self.arrived(worker, slot, arrivals), self.sum_of(slot))
        else {
            return true;
        };
        let Some(limits) = self.sums.get(at(sum)).and_then(|sum| limits.get(usize::from(sum.zone))) else {
            return true;
        };
        let mut all = before.since(&looked.arrivals);
        all.add(&new);
        if !all.is_within(&limits.most) {
            return false;
        }
        self.take_arrivals(worker, slot, arrivals);
        self.sum(sum, &Reading { arrivals: new, ..Reading::default() });
        if let Some(brief) = self.brief.get_mut(at(slot)).filter(|_| new.any_arrived()) {
            let begins = brief.part == 0;
            brief.part = limits.part(&all).max(1);
            if begins {
                self.begin_wait(slot);
            }
        }
        true
    }

    fn arrived(&self, worker: usize, slot: u32, arrivals: &Counts) -> Option<Counts> {
        Some(arrivals.since(self.arrivals.get(worker)?.get(at(slot))?))
    }

    /// Takes what a worker's counters of arrivals say of a slot, of which nothing waits then.
    pub(super) fn take_arrivals(&mut self, worker: usize, slot: u32, arrivals: &Counts) -> Counts {
        let new = self.arrived(worker, slot, arrivals).unwrap_or_default();
        if let Some(seen) = self.arrivals.get_mut(worker).and_then(|seen| seen.get_mut(at(slot))) {
            *seen = *arrivals;
        }
        new
    }

    /// Takes what a worker has counted of the fates of a slot's packets.
    pub(super) fn take_fates(&mut self, worker: usize, slot: u32, fates: &Counts) -> Counts {
        let seen = self.fates.get_mut(worker).and_then(|seen| seen.get_mut(at(slot)));
        seen.map(|seen| fates.since(&mem::replace(seen, *fates))).unwrap_or_default()
    }

    /// Takes all that a worker has counted in a slot of which nothing waits; none: nothing.
    pub(super) fn take_all(&mut self, worker: usize, slot: u32, reading: &Reading) -> Option<Reading> {
        let arrivals = self.take_arrivals(worker, slot, &reading.arrivals);
        let new = Reading { arrivals, fates: self.take_fates(worker, slot, &reading.fates) };
        (!new.is_zero()).then_some(new)
    }

    /// Ends the wait of a slot: all that was read of it has been looked at. Returns what waited.
    pub(super) fn end_wait(&mut self, slot: u32) -> Earlier {
        let (seen, from) = (self.seen(slot), self.from(slot));
        let mut counts = Reading::default();
        if let (Some(looked), Some(brief), Some(since)) =
            (self.looked.get_mut(at(slot)), self.brief.get_mut(at(slot)), self.since.get_mut(at(slot)))
        {
            counts = seen.since(&mem::replace(looked, seen));
            (brief.part, *since) = (0, 0);
        }
        Earlier { counts, from }
    }

    fn begin_wait(&mut self, slot: u32) {
        if let Some(since) = self.since.get_mut(at(slot)) {
            *since = self.tick;
            self.waiting.push_back((slot, self.tick));
        }
    }

    /// When the packets of a slot began to wait.
    fn from(&self, slot: u32) -> Timestamp {
        let since = self.since.get(at(slot)).copied().filter(|since| *since != 0).unwrap_or(self.tick);
        let Times(times) = &self.times;
        times.get(at(since.wrapping_sub(1)) % TIMES).copied().unwrap_or_default()
    }

    /// What the counters of all workers stood at together when they were last read.
    fn seen(&self, slot: u32) -> Reading {
        let sum = |seen: &[Vec<Counts>]| {
            seen.iter().filter_map(|seen| seen.get(at(slot))).fold(Counts::default(), |mut sum, seen| {
                sum.add(seen);
                sum
            })
        };
        Reading { arrivals: sum(&self.arrivals), fates: sum(&self.fates) }
    }

    /// The node of a slot.
    pub(super) fn node(&self, slot: u32) -> Option<NodeId> {
        self.nodes.get(at(slot)).and_then(|node| node.checked_sub(1))
    }

    /// Gives a slot its node.
    pub(super) fn set_node(&mut self, slot: u32, node: NodeId) {
        if let Some(known) = self.nodes.get_mut(at(slot)) {
            *known = node + 1;
        }
    }

    /// True when a slot is accounted in each tick.
    pub(super) fn is_hot(&self, slot: u32) -> bool {
        self.brief.get(at(slot)).is_some_and(|brief| brief.sum & HOT != 0)
    }

    /// From now on a slot is accounted in each tick, or not.
    pub(super) fn set_hot(&mut self, slot: u32, hot: bool) {
        if let Some(brief) = self.brief.get_mut(at(slot)) {
            brief.sum = if hot { brief.sum | HOT } else { brief.sum & !HOT };
        }
        self.end_wait(slot);
    }

    /// Which sum a slot belongs to, if that is known.
    pub(super) fn sum_of(&self, slot: u32) -> Option<u32> {
        (self.brief.get(at(slot))?.sum & !HOT).checked_sub(1)
    }

    /// Gives slots the sum of a prefix, or of a zone.
    pub(super) fn set_sum(&mut self, slots: Range<u32>, zone: u16, prefix: Option<NodeId>) {
        let next = u32::try_from(self.sums.len()).unwrap_or(u32::MAX);
        let sum = *self.sum_at.entry((zone, prefix)).or_insert(next);
        if sum == next {
            self.sums.push(Sum { zone, prefix, counts: Reading::default(), is_new: false });
        }
        for brief in self.brief.get_mut(at(slots.start)..at(slots.end)).into_iter().flatten() {
            brief.sum = brief.sum & HOT | (sum + 1);
        }
    }

    /// Adds to a sum only.
    pub(super) fn sum(&mut self, index: u32, new: &Reading) {
        let Some(sum) = self.sums.get_mut(at(index)) else { return };
        if !mem::replace(&mut sum.is_new, true) {
            self.summed.push(index);
        }
        sum.counts.add(new);
    }

    /// Takes the sums of this tick.
    pub(super) fn take_sums(&mut self) -> impl Iterator<Item = Sum> {
        let Self { summed, sums, .. } = self;
        summed.drain(..).filter_map(|index| {
            let sum = sums.get_mut(at(index))?;
            Some(mem::replace(sum, Sum { counts: Reading::default(), is_new: false, ..*sum }))
        })
    }
}

fn at(index: u32) -> usize {
    usize::try_from(index).unwrap_or(usize::MAX)
}
