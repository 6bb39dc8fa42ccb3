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
    /// When `newer` began; none: with the next look.
    since: Option<Timestamp>,
}

impl<T: Copy + Default> Late<T> {
    /// What is seen now; it waits from now on.
    pub fn newest(&mut self) -> &mut T {
        &mut self.newer
    }

    /// What has waited long enough, and for how long it was seen: the rest of a longer time nobody watched.
    pub fn take(&mut self, now: Timestamp) -> Option<(T, Duration)> {
        let elapsed = now.since(*self.since.get_or_insert(now));
        if elapsed < WAIT {
            return None;
        }
        let ready = std::mem::replace(&mut self.older, std::mem::take(&mut self.newer));
        self.since = Some(now);
        Some((ready, elapsed.min(2 * WAIT)))
    }

    /// Forgets all that waits.
    pub fn forget(&mut self) {
        *self = Self::default();
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
        let mut late = Late::<u32>::default();
        let began = 1_700_000_000;
        *late.newest() = 7;
        assert_eq!(late.take(seconds(began)), None, "whatever the origin of time is");
        assert_eq!(late.take(seconds(began + 29)), None);
        assert_eq!(late.take(seconds(began + 30)), Some((0, WAIT)));
        assert_eq!(late.take(seconds(began + 60)), Some((7, WAIT)));
        assert_eq!(late.take(seconds(2 * began)), Some((0, 2 * WAIT)));
    }

    #[test]
    fn what_an_alarm_follows_is_forgotten() {
        let mut late = Late::<u32>::default();
        late.take(seconds(0));
        *late.newest() = 7;
        late.take(seconds(30));
        late.forget();
        assert_eq!(late.take(seconds(40)), None);
        assert_eq!(late.take(seconds(70)), Some((0, WAIT)));
        assert_eq!(late.take(seconds(100)), Some((0, WAIT)));
    }
}
