//! Which filter a hit counter belonged to at a time: counters are used again when their filter has ended.

use std::collections::HashMap;

use levee_engine::time::Timestamp;

/// Filters in a row on one counter that are remembered: many more than come and go while a ring is overwritten.
const REMEMBERED: usize = 8;

/// What is known of counters.
#[derive(Debug, Default)]
pub(super) struct FilterIds(HashMap<u32, Vec<(Timestamp, u64)>>);

impl FilterIds {
    /// From `at` on, a counter is that of a filter.
    pub(super) fn learn(&mut self, counter: u32, filter: u64, at: Timestamp) {
        let known = self.0.entry(counter).or_default();
        if known.len() == REMEMBERED {
            known.remove(0);
        }
        known.push((at, filter));
    }

    /// The filter that had a counter at a time; none if that was not told.
    pub(super) fn at(&self, counter: u32, at: Timestamp) -> Option<u64> {
        let known = self.0.get(&counter)?;
        known.iter().rev().find(|(since, _)| *since <= at).map(|(_, filter)| *filter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_that_of_the_filter_which_had_it_then() {
        let mut ids = FilterIds::default();
        for number in 0..20 {
            ids.learn(3, 100 + number, Timestamp(10 * number));
        }
        assert_eq!(ids.at(3, Timestamp(195)), Some(119));
        assert_eq!(ids.at(3, Timestamp(189)), Some(118));
        assert_eq!(ids.at(3, Timestamp(50)), None, "forgotten");
        assert_eq!(ids.at(4, Timestamp(195)), None);
    }
}
