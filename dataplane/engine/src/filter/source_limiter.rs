//! Rates per source and per source prefix: GCRA as in [`limiter`](super::limiter), one entry of 8 bytes for each pair of
//! filter and source.
//!
//! The table has a fixed size. When a line is full, a new source takes the entry of the one that is closest to having
//! earned its rate back; that one begins anew. So a full table lets more pass than the rate, never less: who sends most
//! keeps its entry longest. All packets of one source to one host meet the same worker, and with it the whole rate;
//! sources of one prefix meet different ones, each of which allows its share.

use levee_api::time::Timestamp;

use super::limiter::Rate;
use crate::target::stamps::Stamps;

/// Time unit: 2^5 ns. A rate of a million packets per second is kept within a percent, and times wrap after 9.7 hours:
/// a source that is silent for just that long, up to the burst of its rate, may find its burst used up.
const UNIT_SHIFT: u32 = 5;
/// Longest time that an entry is ahead, in units: a minute.
const HORIZON: u64 = 60_000_000_000 >> UNIT_SHIFT;

/// Limiters of the sources that one worker sees.
#[derive(Debug)]
pub struct SourceLimiters {
    arrivals: Stamps,
}

impl SourceLimiters {
    /// A table for about `entries` sources (rounded up to a power of two), 8 bytes each.
    pub fn new(entries: usize) -> Self {
        Self { arrivals: Stamps::new(entries, HORIZON) }
    }

    /// Asks for what [`Self::allow`] reads.
    #[inline]
    pub fn prefetch(&self, key: u64) {
        self.arrivals.prefetch(key);
    }

    /// True when a packet at `now` is within the rate of its key; then it is counted.
    #[inline]
    pub fn allow(&mut self, key: u64, rate: Rate, now: Timestamp) -> bool {
        let Some((interval, tolerance)) = rate.in_units(UNIT_SHIFT) else { return false };
        let now = now.0 >> UNIT_SHIFT;
        let Some(entry) = self.arrivals.entry(key, now) else { return true };
        let ahead = entry.ahead();
        let conforms = ahead <= tolerance.min(HORIZON).saturating_sub(interval);
        if conforms {
            entry.set(key, now + ahead + interval);
        }
        conforms
    }

    /// Takes one packet of a key back, as if it had not been counted.
    pub fn take_back(&mut self, key: u64, rate: Rate, now: Timestamp) {
        let Some((interval, _)) = rate.in_units(UNIT_SHIFT) else { return };
        let now = now.0 >> UNIT_SHIFT;
        let Some(entry) = self.arrivals.entry(key, now) else { return };
        let ahead = entry.ahead();
        if ahead > 0 {
            entry.set(key, now + ahead.saturating_sub(interval));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    /// Keys that differ in what tells entries apart, and in that from an entry that was never used.
    fn key(number: u64) -> u64 {
        (number + 1) << 40 | number.wrapping_mul(0x9e37_79b9) & 0xffff_ffff
    }

    /// The textbook's token bucket, in units of time.
    struct Bucket {
        credit: u64,
        at: u64,
    }

    impl Bucket {
        fn allow(&mut self, interval: u64, burst: u64, now: u64) -> bool {
            self.credit = (self.credit + (now - self.at)).min(interval * burst);
            self.at = now;
            let enough = self.credit >= interval;
            self.credit -= if enough { interval } else { 0 };
            enough
        }
    }

    /// Runs packets of many sources against a table and against buckets: what each said.
    fn run(entries: usize, pps: u32, burst: u32, start: u64, packets: &[(u64, u64)]) -> Vec<(bool, bool)> {
        let (mut limiters, mut buckets) = (SourceLimiters::new(entries), HashMap::new());
        let rate = Rate::of(pps, burst);
        let (interval, _) = rate.in_units(UNIT_SHIFT).unwrap();
        let mut now = start;
        let mut decide = |&(number, gap): &(u64, u64)| {
            now += interval * gap / 8;
            let full = || Bucket { credit: interval * u64::from(burst), at: now };
            let expected = buckets.entry(number).or_insert_with(full).allow(interval, u64::from(burst), now);
            (limiters.allow(key(number), rate, Timestamp(now << UNIT_SHIFT)), expected)
        };
        packets.iter().map(&mut decide).collect()
    }

    /// Rates whose interval is a whole number of units.
    fn rate() -> impl Strategy<Value = u32> {
        select(vec![1_u32, 5, 50, 1_000, 31_250])
    }

    proptest! {
        #[test]
        fn agrees_with_a_token_bucket_per_source(
            pps in rate(),
            burst in 1_u32..20,
            start in 0..u64::MAX >> 8,
            packets in vec((0..20_u64, 0..10_u64), 1..400),
        ) {
            for (at, (allowed, expected)) in run(1 << 12, pps, burst, start, &packets).into_iter().enumerate() {
                prop_assert_eq!(allowed, expected, "packet {}", at);
            }
        }

        #[test]
        fn a_full_table_never_stops_who_keeps_to_the_rate(
            pps in rate(),
            burst in 1_u32..20,
            start in 0..u64::MAX >> 8,
            packets in vec((0..500_u64, 0..3_u64), 1..2_000),
        ) {
            // A source that the full table forgot begins anew, so that its bucket may be fuller than the oracle's.
            let mut limiters = SourceLimiters::new(64);
            let rate = Rate::of(pps, burst);
            let (interval, _) = rate.in_units(UNIT_SHIFT).unwrap();
            let (mut now, mut last) = (start, HashMap::new());
            for (number, gap) in packets {
                now += interval * gap / 2;
                let keeps = last.get(&number).is_none_or(|last| now - last >= interval);
                let allowed = limiters.allow(key(number), rate, Timestamp(now << UNIT_SHIFT));
                prop_assert!(allowed || !keeps, "source {} keeps to the rate and is stopped", number);
                last.insert(number, now);
            }
        }
    }

    #[test]
    fn who_sends_most_is_forgotten_last() {
        let (mut limiters, rate) = (SourceLimiters::new(8), Rate::of(1_000, 100));
        let (heavy, mut now) = (key(1), Timestamp(1 << 40));
        while limiters.allow(heavy, rate, now) {}
        for number in 2..10_000 {
            // One packet each from many others, faster than entries expire.
            now.0 += 1_000;
            assert!(limiters.allow(key(number), rate, now));
        }
        assert!(!limiters.allow(heavy, Rate::of(1_000, 10), now), "10 000 others have not made it forgotten");
    }

    #[test]
    fn what_is_taken_back_may_be_sent_again() {
        let (mut limiters, rate, now) = (SourceLimiters::new(8), Rate::of(1, 3), Timestamp(1 << 40));
        let mut sent = 0;
        while limiters.allow(key(1), rate, now) {
            sent += 1;
        }
        limiters.take_back(key(1), rate, now);
        limiters.take_back(key(2), rate, now);
        assert_eq!((sent, limiters.allow(key(1), rate, now), limiters.allow(key(1), rate, now)), (3, true, false));
    }

    #[test]
    fn a_rate_of_zero_allows_nothing() {
        assert!(!SourceLimiters::new(8).allow(key(1), Rate::of(0, 8), Timestamp(1 << 40)));
    }
}
