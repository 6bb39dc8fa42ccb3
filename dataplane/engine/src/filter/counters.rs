//! What filters have done: counted by the worker that met the packet, read by whoever wants to know.

use std::sync::atomic::{AtomicU64, Ordering};

use levee_api::time::Timestamp;

use crate::isa::prefetch_to_write;

/// Counters of all filters in one worker. The worker is the only writer; they only grow, so a reader subtracts.
#[derive(Debug)]
pub struct FilterCounters(Box<[Counter]>);

/// Half a cache line, and never across two.
#[derive(Debug, Default)]
#[repr(align(32))]
struct Counter {
    hits: AtomicU64,
    bytes: AtomicU64,
    last_hit: AtomicU64,
}

/// What a filter has done in one worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hits {
    /// Packets that it applied to.
    pub packets: u64,
    /// Their bytes on the wire.
    pub bytes: u64,
    /// When the last of them came; the origin when there was none.
    pub last: Timestamp,
}

impl FilterCounters {
    /// Counters of `count` filters, all zero.
    pub fn new(count: usize) -> Self {
        Self((0..count).map(|_| Counter::default()).collect())
    }

    /// How many filters can be counted.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True when none can be counted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Asks for the counter of a filter.
    #[inline]
    pub fn prefetch(&self, index: u32) {
        if let Some(counter) = self.at(index) {
            prefetch_to_write(counter);
        }
    }

    /// Counts a packet of `bytes`; only the worker that owns the counters may. An index past the end counts nothing.
    #[inline]
    pub fn hit(&self, index: u32, bytes: u32, now: Timestamp) {
        let Some(counter) = self.at(index) else { return };
        // One writer: a load and a store instead of a locked addition.
        let add = |to: &AtomicU64, n: u64| to.store(to.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
        add(&counter.hits, 1);
        add(&counter.bytes, u64::from(bytes));
        counter.last_hit.store(now.0, Ordering::Relaxed);
    }

    /// Packets that a filter applied to.
    pub fn hits(&self, index: u32) -> u64 {
        self.read(index).packets
    }

    /// All counts of a filter; they may be a packet apart while the worker counts.
    pub fn read(&self, index: u32) -> Hits {
        self.at(index).map_or_else(Hits::default, |counter| Hits {
            packets: counter.hits.load(Ordering::Relaxed),
            bytes: counter.bytes.load(Ordering::Relaxed),
            last: Timestamp(counter.last_hit.load(Ordering::Relaxed)),
        })
    }

    fn at(&self, index: u32) -> Option<&Counter> {
        self.0.get(usize::try_from(index).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hits_are_counted_by_filter() {
        let counters = FilterCounters::new(2);
        counters.hit(1, 60, Timestamp(5));
        counters.hit(1, 1500, Timestamp(7));
        counters.hit(2, 60, Timestamp(9));
        assert_eq!(counters.read(1), Hits { packets: 2, bytes: 1560, last: Timestamp(7) });
        assert_eq!((counters.read(0), counters.hits(2)), (Hits::default(), 0));
    }
}
