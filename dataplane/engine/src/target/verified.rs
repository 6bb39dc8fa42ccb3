//! Memory of verified sources: which source has shown to which target that its address is its own.
//!
//! Completing a handshake shows it, as will answering a challenge. A verified source is exempt from limits that sources
//! share, for as long as it keeps to a rate of its own. One that is forgotten because the table is full is
//! treated like any other, and shows itself again. One in two million that are not verified is taken for one.

use std::time::Duration;

use levee_api::time::Timestamp;

use super::stamps::Stamps;

/// How long a source stays verified: what a connection that is idle is remembered for, and a while.
pub const LIFETIME: Duration = Duration::from_secs(600);
/// Time unit: 2^27 ns, about 134 ms; 40 bits of them last 4 000 years.
const UNIT_SHIFT: u32 = 27;
/// The lifetime in units, rounded up.
const LIFETIME_UNITS: u64 = ((LIFETIME.as_secs() * 1_000_000_000) >> UNIT_SHIFT) + 1;

/// Verified sources of one worker. Keys are of target and source together.
#[derive(Debug)]
pub struct VerifiedSources {
    until: Stamps,
}

impl VerifiedSources {
    /// A memory for about `entries` pairs (rounded up to a power of two), 8 bytes each.
    pub fn new(entries: usize) -> Self {
        Self { until: Stamps::new(entries, LIFETIME_UNITS) }
    }

    /// Asks for what [`Self::contains`] reads.
    #[inline]
    pub fn prefetch(&self, key: u64) {
        self.until.prefetch(key);
    }

    /// The source has shown itself now. Where there is no room the one that would be forgotten first is forgotten.
    pub fn insert(&mut self, key: u64, now: Timestamp) {
        let now = now.0 >> UNIT_SHIFT;
        if let Some(entry) = self.until.entry(key, now) {
            entry.set(key, now + LIFETIME_UNITS);
        }
    }

    /// True when the source has shown itself within [`LIFETIME`] (up to a unit longer).
    #[inline]
    pub fn contains(&self, key: u64, now: Timestamp) -> bool {
        self.until.ahead(key, now.0 >> UNIT_SHIFT) > 0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

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
            let mut verified = VerifiedSources::new(1 << 12);
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
            let mut verified = VerifiedSources::new(64);
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
