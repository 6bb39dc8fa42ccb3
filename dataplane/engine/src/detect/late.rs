//! What is learned late: what an alarm follows within a minute may have been its beginning, and is forgotten.

use std::time::Duration;

use levee_api::time::Timestamp;

/// What was seen waits for at least this long, and for at most twice as long.
pub const WAIT: Duration = Duration::from_secs(30);

/// What waits to be learned.
#[derive(Clone, Copy, Debug, Default)]
pub struct Late<T> {
    older: T,
    newer: T,
    /// None: nobody has looked yet.
    since: Option<Timestamp>,
}

impl<T: Copy + Default> Late<T> {
    /// Nothing waits.
    pub fn begin(now: Timestamp) -> Self {
        Self { since: Some(now), ..Self::default() }
    }

    /// What is seen now; it waits from now on.
    pub fn newest(&mut self) -> &mut T {
        &mut self.newer
    }

    /// What has waited long enough, and how long it took to be seen.
    pub fn take(&mut self, now: Timestamp) -> Option<(T, Duration)> {
        let elapsed = now.since(*self.since.get_or_insert(now));
        if elapsed < WAIT {
            return None;
        }
        let ready = std::mem::replace(&mut self.older, std::mem::take(&mut self.newer));
        self.since = Some(now);
        Some((ready, elapsed))
    }

    /// Forgets all that waits.
    pub fn forget(&mut self, now: Timestamp) {
        *self = Self::begin(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Timestamp {
        Timestamp(seconds * 1_000_000_000)
    }

    #[test]
    fn what_was_seen_counts_after_half_a_minute_to_a_minute() {
        let mut late = Late::<u32>::begin(seconds(0));
        *late.newest() = 7;
        assert_eq!(late.take(seconds(29)), None);
        assert_eq!(late.take(seconds(30)), Some((0, WAIT)));
        assert_eq!(late.take(seconds(60)), Some((7, WAIT)));
    }

    #[test]
    fn time_counts_from_the_first_look() {
        let mut late = Late::<u32>::default();
        *late.newest() = 7;
        assert_eq!(late.take(seconds(1_750_000_000)), None);
    }

    #[test]
    fn what_an_alarm_follows_is_forgotten() {
        let mut late = Late::<u32>::begin(seconds(0));
        *late.newest() = 7;
        late.take(seconds(30));
        late.forget(seconds(40));
        assert_eq!(late.take(seconds(70)), Some((0, WAIT)));
        assert_eq!(late.take(seconds(100)), Some((0, WAIT)));
    }
}
