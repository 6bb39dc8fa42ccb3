//! Counts over time, as reports carry them.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

const MILLISECOND: u64 = 1_000_000;

/// Counts per interval of the wall clock. Empty intervals take no room.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeBins {
    width_ms: u64,
    /// Start of the interval in milliseconds since the epoch -> count.
    counts: BTreeMap<u64, u64>,
}

impl TimeBins {
    /// Intervals of `width_ms` milliseconds, at least one.
    pub fn new(width_ms: u64) -> Self {
        Self { width_ms: width_ms.max(1), counts: BTreeMap::new() }
    }

    /// Counts `count` at a time in nanoseconds since the epoch.
    pub fn add(&mut self, unix_ns: u64, count: u64) {
        let start = unix_ns / MILLISECOND / self.width_ms * self.width_ms;
        *self.counts.entry(start).or_default() += count;
    }

    /// The sum of the intervals that begin within `[from_ns, to_ns)`.
    pub fn between(&self, from_ns: u64, to_ns: u64) -> u64 {
        let (from, to) = (from_ns.div_ceil(MILLISECOND), to_ns.div_ceil(MILLISECOND));
        if from >= to { 0 } else { self.counts.range(from..to).map(|(_, count)| count).sum() }
    }

    /// The sum of all.
    pub fn total(&self) -> u64 {
        self.counts.values().sum()
    }
}

/// Nanoseconds since the epoch by the wall clock (CLOCK_REALTIME).
pub fn unix_ns() -> u64 {
    ns(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// A duration in nanoseconds; 584 years at most.
pub fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_holds_the_intervals_that_begin_in_it() {
        let mut bins = TimeBins::new(10);
        for ms in [0, 5, 10, 19, 20, 35] {
            bins.add(ms * MILLISECOND, 1);
        }
        assert_eq!(bins.between(0, 10 * MILLISECOND), 2);
        assert_eq!(bins.between(5 * MILLISECOND, 30 * MILLISECOND), 3);
        assert_eq!(bins.between(30 * MILLISECOND, 20 * MILLISECOND), 0);
        assert_eq!(bins.total(), 6);
    }
}
