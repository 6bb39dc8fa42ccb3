//! How the rate of a limit is shared out among workers: in proportion to what each has to do, looked at every tick.
//!
//! Workers share no word that they write, so each keeps to a part of the rate. Parts follow the packets that recently met the
//! filter in each worker: one that meets all of them gets nearly the whole rate. The parts add up to no more than the
//! whole at any time, and what a worker has saved up for a burst does not grow when its part does, so that all workers
//! together never allow more than one limiter would, but for a packet each.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::FilterCounters;
use crate::isa::prefetch;

/// The whole of a rate.
pub const WHOLE: u32 = 1 << 16;
/// A share takes the low bits of a word, the number of times that it has changed the others.
const SHARE_BITS: u32 = 17;
/// What is shared out equally however little a worker has to do: it must be able to let something pass until the next tick.
const EQUAL_PART: u32 = WHOLE / 16;
/// Fewer packets than these say nothing about who has most of them.
const EVIDENCE: u64 = 16;
/// Limits looked at in one tick, so that it keeps its time; of more, each has its turn.
const LOOKED_AT: usize = 2048;

/// The shares of one worker, written by the tick, read by the worker.
#[derive(Debug)]
pub struct Shares(Box<[AtomicU32]>);

/// A share of one limit, and how often it has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share(u32);

impl Share {
    /// The unchanging share of one among `workers` that are equal.
    pub fn equal(workers: NonZeroU32) -> Self {
        Self((WHOLE / workers).max(1))
    }

    /// In parts of [`WHOLE`], at least one.
    #[inline(always)]
    pub const fn part(self) -> u32 {
        self.0 & ((1 << SHARE_BITS) - 1)
    }

    /// True when this is what `earlier` changed into, and nothing was between them.
    #[inline(always)]
    pub const fn follows(self, earlier: Self) -> bool {
        (self.0 >> SHARE_BITS) == ((earlier.0 >> SHARE_BITS) + 1) & (u32::MAX >> SHARE_BITS)
    }

    /// Another part, changed once more.
    const fn changed_to(self, part: u32) -> Self {
        Self(((self.0 >> SHARE_BITS) + 1) << SHARE_BITS | part)
    }
}

impl Shares {
    /// `count` equal shares.
    pub fn new(count: usize, workers: NonZeroU32) -> Self {
        Self((0..count).map(|_| AtomicU32::new(Share::equal(workers).0)).collect())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The share of a limit; the smallest past the end.
    #[inline(always)]
    pub fn get(&self, index: u32) -> Share {
        Share(self.at(index).map_or(1, |share| share.load(Ordering::Relaxed)))
    }

    /// Asks for the share of a limit.
    #[inline(always)]
    pub fn prefetch(&self, index: u32) {
        if let Some(share) = self.at(index) {
            prefetch(share);
        }
    }

    fn change(&self, index: u32, part: u32) {
        if let Some(share) = self.at(index) {
            // Ordered, for a share that grows is stored after those that shrink.
            share.store(self.get(index).changed_to(part).0, Ordering::Release);
        }
    }

    #[inline(always)]
    fn at(&self, index: u32) -> Option<&AtomicU32> {
        self.0.get(usize::try_from(index).ok()?)
    }
}

/// The tick's side: all workers' shares, and what they follow.
#[derive(Debug, Default)]
pub struct Rebalance {
    workers: Vec<(Arc<FilterCounters>, Arc<Shares>)>,
    /// Limits in force.
    limits: Vec<u32>,
    recent: HashMap<u32, Recent>,
    next: usize,
    /// Limits in force may be others than those.
    changed: bool,
    /// Ticks since they were read.
    since_read: u32,
}

/// Ticks between two looks at which limits are in force: with 100 000 filters one takes a large part of a tick.
const READ_EVERY: u32 = 4;

/// What has recently met a filter, in each worker.
#[derive(Clone, Debug)]
struct Recent {
    counted: Vec<u64>,
    /// New packets, and half of what there was at the change before, and so on.
    packets: Vec<u64>,
    new: u64,
}

impl Rebalance {
    /// For these workers: the hits of each, and its shares.
    pub fn of(workers: Vec<(Arc<FilterCounters>, Arc<Shares>)>) -> Self {
        Self { workers, ..Self::default() }
    }

    /// Says that other limits may be in force.
    pub fn filters_changed(&mut self) {
        self.changed = true;
    }

    /// Looks at what workers have met since the last time. `limits` are those in force, read only when it is time to.
    pub fn tick(&mut self, limits: impl Iterator<Item = u32>) {
        if self.workers.len() < 2 {
            return;
        }
        self.since_read += 1;
        if self.changed && self.since_read >= READ_EVERY {
            (self.changed, self.since_read) = (false, 0);
            self.limits = limits.collect();
            self.limits.sort_unstable();
            self.recent.retain(|index, _| self.limits.binary_search(index).is_ok());
        }
        for _ in 0..self.limits.len().min(LOOKED_AT) {
            self.next = if self.next + 1 < self.limits.len() { self.next + 1 } else { 0 };
            let Some(&index) = self.limits.get(self.next) else { return };
            self.look_at(index);
        }
    }

    fn look_at(&mut self, index: u32) {
        let Self { workers, recent, .. } = self;
        let hits = || workers.iter().map(|(hits, _)| hits.hits(index));
        let recent = recent.entry(index).or_insert_with(|| Recent {
            counted: hits().collect(),
            packets: vec![0; workers.len()],
            new: 0,
        });
        for ((counted, packets), hits) in recent.counted.iter_mut().zip(&mut recent.packets).zip(hits()) {
            let new = hits.wrapping_sub(*counted);
            *packets = packets.saturating_add(new);
            recent.new = recent.new.saturating_add(new);
            *counted = hits;
        }
        if recent.new < EVIDENCE {
            return;
        }
        let parts = parts(&recent.packets);
        let differ = |(_, shares): &(_, Arc<Shares>), part: u32| {
            let current = shares.get(index).part();
            current.abs_diff(part) > current / 8
        };
        if workers.iter().zip(&parts).any(|(worker, &part)| differ(worker, part)) {
            // First what shrinks, so that the sum never exceeds the whole.
            for grows in [false, true] {
                for ((_, shares), &part) in workers.iter().zip(&parts) {
                    let current = shares.get(index).part();
                    if current != part && (part > current) == grows {
                        shares.change(index, part);
                    }
                }
            }
        }
        for packets in &mut recent.packets {
            *packets /= 2;
        }
        recent.new = 0;
    }
}

/// Parts in proportion to these packets, each at least its equal part of a sixteenth; together no more than the whole.
fn parts(packets: &[u64]) -> Vec<u32> {
    let count = u64::try_from(packets.len()).unwrap_or(1).max(1);
    let least = (u64::from(EQUAL_PART) / count).max(1);
    let rest = u64::from(WHOLE) - least * count;
    let all = packets.iter().sum::<u64>().max(1);
    let part =
        |&packets: &u64| least + u64::try_from(u128::from(rest) * u128::from(packets) / u128::from(all)).unwrap_or(0);
    packets.iter().map(part).map(|part| u32::try_from(part).unwrap_or(1)).collect()
}

#[cfg(test)]
mod tests {
    use levee_api::time::Timestamp;
    use proptest::prelude::*;

    use super::super::Limiters;
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const TICK: u64 = 10_000_000;

    /// Workers with limiters, and what shares them out.
    struct Appliance {
        limiters: Vec<Limiters>,
        hits: Vec<Arc<FilterCounters>>,
        rebalance: Rebalance,
        ticked: u64,
    }

    impl Appliance {
        fn new(workers: u32) -> Self {
            let count = NonZeroU32::new(workers).unwrap();
            let ends: Vec<_> =
                (0..workers).map(|_| (Arc::new(FilterCounters::new(2)), Arc::new(Shares::new(2, count)))).collect();
            let limiters = ends.iter().map(|(_, shares)| Limiters::shared(Arc::clone(shares))).collect();
            let hits = ends.iter().map(|(hits, _)| Arc::clone(hits)).collect();
            let mut rebalance = Rebalance::of(ends);
            rebalance.filters_changed();
            Self { limiters, hits, rebalance, ticked: 0 }
        }

        /// A packet at one worker; ticks that are due come first.
        fn offer(&mut self, worker: usize, pps: u32, burst: u32, now: u64) -> bool {
            while self.ticked + TICK <= now {
                self.ticked += TICK;
                self.rebalance.tick([1].into_iter());
                let sum: u32 = self.rebalance.workers.iter().map(|(_, shares)| shares.get(1).part()).sum();
                assert!(sum <= WHOLE, "{sum}");
            }
            self.hits[worker].hit(1, 60, Timestamp(now));
            self.limiters[worker].allow(1, pps, burst, Timestamp(now))
        }
    }

    /// The textbook's token bucket, for all workers together.
    struct Bucket {
        tokens: f64,
        at: u64,
    }

    impl Bucket {
        fn take(&mut self, pps: f64, most: f64, now: u64) -> bool {
            self.tokens = ((now - self.at) as f64 * pps / SECOND as f64 + self.tokens).min(most);
            self.at = now;
            self.tokens -= 1.0;
            self.tokens >= 0.0
        }
    }

    proptest! {
        #[test]
        fn over_any_time_all_workers_together_keep_the_rate(
            workers in 1_u32..=16,
            pps in prop::sample::select(vec![50_u32, 1_000, 20_000, 300_000]),
            burst in 8_u32..200,
            // Times of traffic at some workers: which ones, how long in intervals of the rate, how many times the rate.
            phases in prop::collection::vec((any::<u16>(), 1_u64..400, 1_u64..12), 1..24),
        ) {
            let mut appliance = Appliance::new(workers);
            let interval = SECOND / u64::from(pps);
            let mut now = SECOND;
            let mut one = Bucket { tokens: f64::from(burst + workers), at: now };
            let mut number = 0_usize;
            for (busy, length, load) in phases {
                let busy: Vec<usize> = (0..usize::try_from(workers).unwrap()).filter(|worker| busy >> worker & 1 == 1).collect();
                for _ in 0..length * load {
                    now += interval / load;
                    number = number.wrapping_mul(31).wrapping_add(7);
                    if !busy.is_empty() && appliance.offer(busy[number % busy.len()], pps, burst, now) {
                        prop_assert!(one.take(f64::from(pps) * 1.002, f64::from(burst + workers), now), "at {now}");
                    }
                }
            }
        }
    }

    /// Packets allowed in a second of twice the rate, after half a second of it, by the workers in turn.
    fn allowed(appliance: &mut Appliance, workers: &[usize], pps: u32) -> u32 {
        let offered = |number: u32| {
            let now = SECOND + u64::from(number) * SECOND / u64::from(pps) / 2;
            let passed = appliance.offer(workers[number as usize % workers.len()], pps, pps / 10, now);
            u32::from(passed && number >= pps)
        };
        (0..3 * pps).map(offered).sum()
    }

    #[test]
    fn a_single_busy_worker_gets_nearly_the_whole_rate() {
        for count in [2, 16] {
            let passed = allowed(&mut Appliance::new(count), &[1], 10_000);
            assert!((9_300..=10_010).contains(&passed), "{passed} of 10 000 with {count} workers");
        }
    }

    #[test]
    fn workers_that_are_equally_busy_have_equal_shares() {
        let mut appliance = Appliance::new(4);
        let passed = allowed(&mut appliance, &[0, 1, 2, 3], 10_000);
        assert!((9_800..=10_010).contains(&passed), "{passed}");
        let shares: Vec<u32> = appliance.rebalance.workers.iter().map(|(_, shares)| shares.get(1).part()).collect();
        assert!(shares.iter().all(|share| share.abs_diff(WHOLE / 4) <= WHOLE / 32), "{shares:?}");
    }

    #[test]
    fn the_share_moves_to_another_worker_within_a_few_ticks() {
        let mut appliance = Appliance::new(2);
        let mut now = SECOND;
        let mut busy = |worker: usize, packets: u32| {
            for _ in 0..packets {
                now += SECOND / 100_000;
                appliance.offer(worker, 10_000, 1_000, now);
            }
            appliance.rebalance.workers[worker].1.get(1).part()
        };
        assert!(busy(0, 5_000) > WHOLE * 9 / 10);
        // Five ticks.
        assert!(busy(1, 5_000) > WHOLE * 9 / 10);
    }
}
