//! How long bursts take: a histogram of each worker, written by it alone and read by anybody.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Parts of each power of two: a value is told to a quarter of itself.
const PARTS: u64 = 4;
/// The parts of 63 powers of two: the lowest two share theirs.
const BUCKETS: usize = 252;

/// Times of one worker.
#[derive(Debug, Default)]
pub struct WorkerTimes {
    /// What judging a burst and sending it took.
    pub burst: Histogram,
    /// What packets waited from when they were received until the other port had them.
    pub transit: Histogram,
    busy_ns: AtomicU64,
}

/// What a burst costs before its first packet, in packets: the reason why polling is busy long before it is full.
const FIXED_COST: u64 = 8;

impl WorkerTimes {
    /// Counts time at work on a burst of `packets`, of which there is room for `room`. A worker that finds few packets at each
    /// poll is at work nearly all the time and could do far more: it would find more at each poll, at hardly more cost. So a burst
    /// counts by what its packets would cost in a full one. One thread writes.
    #[inline]
    pub fn at_work(&self, nanos: u64, packets: u64, room: u64) {
        let share = |of: u64| of.saturating_mul(packets) / (packets + FIXED_COST).max(1);
        let full = share(nanos).saturating_mul(room + FIXED_COST) / room.max(1);
        let busy = self.busy_ns.load(Ordering::Relaxed) + full.min(nanos);
        self.busy_ns.store(busy, Ordering::Relaxed);
    }

    /// Time at work since the start, nanoseconds.
    pub fn busy_ns(&self) -> u64 {
        self.busy_ns.load(Ordering::Relaxed)
    }
}

/// Counts of values in nanoseconds.
#[derive(Debug)]
pub struct Histogram([AtomicU64; BUCKETS]);

/// What is asked of a histogram: a value that so many of the values are at most, a quarter more than exact at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantiles {
    /// Half of them.
    pub p50: Duration,
    /// 99 %.
    pub p99: Duration,
    /// 99.9 %.
    pub p999: Duration,
    /// All.
    pub max: Duration,
}

impl fmt::Display for Quantiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { p50, p99, p999, max } = self;
        write!(f, "{p50:?} (p50), {p99:?} (p99), {p999:?} (p99.9), at most {max:?}")
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; BUCKETS])
    }
}

impl Histogram {
    /// Counts `packets` values of `nanos`. One thread writes: no locked instruction is needed.
    #[inline]
    pub fn count(&self, nanos: u64, packets: usize) {
        if let Some(bucket) = self.0.get(bucket(nanos)) {
            bucket.store(bucket.load(Ordering::Relaxed) + packets as u64, Ordering::Relaxed);
        }
    }

    /// Quantiles of all values so far; `None` when there is none.
    pub fn quantiles(&self) -> Option<Quantiles> {
        let counts: Vec<u64> = self.0.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect();
        let all: u64 = counts.iter().sum();
        if all == 0 {
            return None;
        }
        let at_most = |per_mille: u64| {
            let wanted = u64::try_from((u128::from(all) * u128::from(per_mille)).div_ceil(1000)).unwrap_or(all);
            let mut seen = 0;
            let found = counts.iter().position(|count| {
                seen += count;
                seen >= wanted
            });
            Duration::from_nanos(largest(found.unwrap_or(BUCKETS)))
        };
        Some(Quantiles { p50: at_most(500), p99: at_most(990), p999: at_most(999), max: at_most(1000) })
    }
}

/// Where a value is counted: by its power of two and the two bits below.
#[inline]
fn bucket(nanos: u64) -> usize {
    let power = u64::from((nanos | PARTS).ilog2());
    let part = (nanos >> (power - 2)) & (PARTS - 1);
    let bucket = if nanos < PARTS { nanos } else { (power - 1) * PARTS + part };
    usize::try_from(bucket).unwrap_or(BUCKETS - 1)
}

/// The largest value that is counted there.
fn largest(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < PARTS {
        return bucket;
    }
    let (power, part) = (bucket / PARTS + 1, bucket % PARTS);
    let next = u128::from(PARTS + part + 1) << (power - 2);
    u64::try_from(next - 1).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_worker_is_as_busy_as_its_bursts_are_full() {
        let busy = |packets: u64| {
            let times = WorkerTimes::default();
            (0..1_000).for_each(|_| times.at_work(1_000, packets, 64));
            times.busy_ns()
        };
        assert!((990_000..=1_000_000).contains(&busy(64)), "it can take no more: {}", busy(64));
        assert!((700_000..800_000).contains(&busy(16)), "{}", busy(16));
        assert!((100_000..150_000).contains(&busy(1)), "{}", busy(1));
    }

    proptest! {
        #[test]
        fn a_value_is_told_to_a_quarter(nanos: u64) {
            let told = largest(bucket(nanos));
            prop_assert!(told >= nanos && told - nanos <= nanos / 4, "{nanos} as {told}");
        }
    }

    #[test]
    fn quantiles_are_of_packets() {
        let histogram = Histogram::default();
        assert_eq!(histogram.quantiles(), None);
        histogram.count(3, 985);
        histogram.count(1_000, 13);
        histogram.count(1_000_000, 2);
        let quantiles = histogram.quantiles().unwrap();
        assert_eq!(quantiles.p50, Duration::from_nanos(3));
        assert_eq!(quantiles.p99, Duration::from_nanos(1_023));
        assert_eq!(quantiles.p999, quantiles.max);
        assert!(quantiles.max >= Duration::from_millis(1));
    }
}
