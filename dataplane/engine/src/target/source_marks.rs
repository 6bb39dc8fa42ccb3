//! Marks on sources: what a source has shown to a target, for as long as it lasts.
//!
//! *Verified*: its address is its own, by a completed handshake or the answer to a challenge. It is exempt from limits that sources
//! share, for as long as it keeps to a rate of its own. *Blocked*: it is part of an attack. One that is forgotten because the
//! table is full is treated like any other, and shows itself again. One in two million that are not marked is taken for one.

use std::time::Duration;

use levee_api::time::Timestamp;

use super::stamps::Stamps;

/// Time unit: 2^27 ns, about 134 ms; 40 bits of them last 4 000 years.
const UNIT_SHIFT: u32 = 27;

/// Marked sources of one worker. Keys are of target and source together.
#[derive(Debug)]
pub struct SourceMarks {
    until: Stamps,
    lifetime: u64,
    /// No mark lasts longer.
    last: u64,
}

impl SourceMarks {
    /// A memory for about `entries` pairs (rounded up to a power of two), 8 bytes each, that are marked for `lifetime`.
    pub fn new(entries: usize, lifetime: Duration) -> Self {
        // Rounded up.
        let lifetime = ((Timestamp::ZERO + lifetime).0 >> UNIT_SHIFT) + 1;
        Self { until: Stamps::new(entries, lifetime), lifetime, last: 0 }
    }

    /// Asks for what [`Self::contains`] reads.
    #[inline]
    pub fn prefetch(&self, key: u64) {
        self.until.prefetch(key);
    }

    /// Marks a source from now on. Where there is no room the one that would be forgotten first is forgotten.
    pub fn insert(&mut self, key: u64, now: Timestamp) {
        let now = now.0 >> UNIT_SHIFT;
        if let Some(entry) = self.until.entry(key, now) {
            self.last = now + self.lifetime;
            entry.set(key, self.last);
        }
    }

    /// True when the source is marked (up to a unit longer than the lifetime).
    #[inline]
    pub fn contains(&self, key: u64, now: Timestamp) -> bool {
        self.until.ahead(key, now.0 >> UNIT_SHIFT) > 0
    }

    /// False when no source is marked.
    #[inline]
    pub fn may_contain_any(&self, now: Timestamp) -> bool {
        self.last > now.0 >> UNIT_SHIFT
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const LIFETIME: Duration = Duration::from_secs(600);

    /// Keys that differ in what tells entries apart.
    fn key(number: u64) -> u64 {
        number << 40 | number.wrapping_mul(0x9e37_79b9) & 0xffff_ffff
    }

    proptest! {
        #[test]
        fn agrees_with_a_map_of_deadlines(
            start in 0..u64::MAX / 4,
            steps in vec((0..40_u64, 0..300_000_u64, any::<bool>()), 1..300),
        ) {
            // Room for all: nothing is forgotten before its time.
            let mut verified = SourceMarks::new(1 << 12, LIFETIME);
            let mut oracle: HashMap<u64, u64> = HashMap::new();
            let mut now = start;
            for (number, milliseconds, shows_itself) in steps {
                now += milliseconds * 1_000_000;
                if shows_itself {
                    verified.insert(key(number), Timestamp(now));
                    oracle.insert(number, now);
                }
                let since = oracle.get(&number).map(|shown| Duration::from_nanos(now - shown));
                let unit = Duration::from_nanos(2 << UNIT_SHIFT);
                let known = verified.contains(key(number), Timestamp(now));
                match since {
                    Some(since) if since < LIFETIME => prop_assert!(known, "forgotten after {:?}", since),
                    Some(since) if since <= LIFETIME + unit => {}
                    _ => prop_assert!(!known, "{:?}", since),
                }
            }
        }

        #[test]
        fn a_full_table_forgets_but_never_invents(numbers in vec(0..1_000_u64, 1..2_000)) {
            let mut verified = SourceMarks::new(64, LIFETIME);
            for (at, number) in (0..).zip(&numbers) {
                verified.insert(key(*number), Timestamp(at));
                prop_assert!(verified.contains(key(*number), Timestamp(at)), "the newest is there");
            }
            let now = Timestamp(numbers.len() as u64);
            for number in (0..1_000).filter(|number| !numbers.contains(number)) {
                prop_assert!(!verified.contains(key(number), now));
            }
        }
    }
}
