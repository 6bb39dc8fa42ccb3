//! Rates: the generic cell rate algorithm (ITU-T I.371), one word per limiter.
//!
//! A limiter is the *theoretical arrival time* of the next packet: where the sender would be if it kept exactly to the
//! rate. One that lies in the past says nothing, so an unused limiter needs no ageing, and where limiters are keyed an
//! expired one is free to take: see [`source_limiter`](super::source_limiter).

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use levee_api::time::Timestamp;

use super::shares::{Share, Shares, WHOLE};

use crate::isa::prefetch;

/// Quarters of a nanosecond: a rate of 15 million packets per second is kept within a fifth of a percent (the error grows
/// with the rate), and 146 years fit into a word.
const PER_NANOSECOND: u64 = 4;

/// A fixed number of limiters, owned by one worker.
#[derive(Clone, Debug)]
pub struct Limiters {
    limiters: Box<[Limiter]>,
    shared: Option<Arc<Shares>>,
}

/// A limiter, and what it was last used with: to divide for each packet would cost more than all the rest. One cache line.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Limiter {
    arrival: Arrival,
    share: Share,
    pps: u32,
    burst: u32,
    rate: Rate,
}

/// Packets per second and a burst as times, in quarters of a nanosecond. The default allows nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    /// From one packet to the next; zero: there is no next.
    interval: u64,
    /// How far ahead of its rate a sender may be.
    tolerance: u64,
}

impl Rate {
    /// `pps` packets per second in bursts of `burst` packets; a burst is at least one packet.
    pub fn of(pps: u32, burst: u32) -> Self {
        Self::part_of(pps, burst, WHOLE)
    }

    /// So many packets in about `span`, however close together.
    pub fn over(packets: u32, span: Duration) -> Self {
        let tolerance = (Timestamp::ZERO + span).0.saturating_mul(PER_NANOSECOND);
        Self { interval: tolerance.checked_div(packets.into()).unwrap_or(0), tolerance }
    }

    /// The share of one of so many workers; the burst stays whole.
    #[must_use]
    pub fn shared_by(self, workers: NonZeroU32) -> Self {
        Self { interval: self.interval.saturating_mul(u64::from(workers.get())), ..self }
    }

    /// So many parts of [`WHOLE`] of a rate.
    fn part_of(pps: u32, burst: u32, part: u32) -> Self {
        let second = 1_000_000_000 * PER_NANOSECOND;
        let part = u64::from(pps) * u64::from(part);
        let interval = (second * u64::from(WHOLE)).saturating_add(part / 2).checked_div(part);
        let tolerance = (second * u64::from(burst)).checked_div(u64::from(pps));
        match (interval, tolerance) {
            (Some(interval), Some(tolerance)) => Self { interval: interval.max(1), tolerance },
            _ => Self::default(),
        }
    }

    /// Interval and tolerance in units of 2^`shift` ns, the interval rounded and at least one, the tolerance at least one
    /// interval; none when nothing is allowed.
    pub(super) fn in_units(self, shift: u32) -> Option<(u64, u64)> {
        let unit = PER_NANOSECOND << shift;
        let interval = (self.interval.saturating_add(unit / 2) / unit).max(1);
        (self.interval > 0).then_some((interval, (self.tolerance / unit).max(interval)))
    }
}

/// Theoretical arrival time, in quarters of a nanosecond.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Arrival(u64);

impl Limiters {
    /// `count` unused limiters. Each worker has limiters of its own and allows one of `workers` equal shares of a rate,
    /// so that together they keep it without a shared word.
    pub fn new(count: usize, workers: NonZeroU32) -> Self {
        let limiter = Limiter::with(Share::equal(workers));
        Self { limiters: vec![limiter; count].into(), shared: None }
    }

    /// The same with shares that change.
    pub fn shared(shares: Arc<Shares>) -> Self {
        let count = u32::try_from(shares.len()).unwrap_or(u32::MAX);
        let limiters = (0..count).map(|index| Limiter::with(shares.get(index))).collect();
        Self { limiters, shared: Some(shares) }
    }

    /// Asks for a limiter, and for its share.
    #[inline]
    pub fn prefetch(&self, index: u32) {
        if let Some(limiter) = usize::try_from(index).ok().and_then(|index| self.limiters.get(index)) {
            prefetch(limiter);
        }
        if let Some(shares) = &self.shared {
            shares.prefetch(index);
        }
    }

    /// True when a packet at `now` is within `pps` packets per second and bursts of `burst` packets, both over all
    /// workers; then it is counted. A burst is at least one packet per worker; a rate of zero allows nothing. An index
    /// past the end is no limiter and limits nothing.
    pub fn allow(&mut self, index: u32, pps: u32, burst: u32, now: Timestamp) -> bool {
        let Self { limiters, shared } = self;
        let Some(limiter) = usize::try_from(index).ok().and_then(|index| limiters.get_mut(index)) else {
            return true;
        };
        let share = shared.as_ref().map_or(limiter.share, |shares| shares.get(index));
        if (limiter.pps, limiter.burst, limiter.share) != (pps, burst, share) {
            limiter.ask(pps, burst, share, now);
        }
        let Rate { interval, tolerance } = limiter.rate;
        interval > 0 && limiter.arrival.conforms(interval, tolerance, now)
    }
}

impl Limiter {
    fn with(share: Share) -> Self {
        Self { arrival: Arrival::default(), share, pps: 0, burst: 0, rate: Rate::default() }
    }

    /// Goes on with another rate.
    #[cold]
    fn ask(&mut self, pps: u32, burst: u32, share: Share, now: Timestamp) {
        (self.pps, self.burst, self.rate) = (pps, burst, Rate::part_of(pps, burst, share.part()));
        if share != self.share && self.rate.interval > 0 {
            self.adopt(share, self.rate.interval, self.rate.tolerance, now);
        }
    }

    /// Goes on with another share. The packets that were saved up do not become more with a larger share, whose growth
    /// others pay for. After several changes it is not known what the smallest share in between was: nothing is left then.
    #[cold]
    fn adopt(&mut self, share: Share, interval: u64, tolerance: u64, now: Timestamp) {
        let now = now.0.saturating_mul(PER_NANOSECOND);
        let saved = now.saturating_add(tolerance).saturating_sub(self.arrival.0.max(now));
        let (old, new) = (u64::from(self.share.part()), u64::from(share.part()));
        let kept = if !share.follows(self.share) {
            0
        } else if new > old {
            u64::try_from(u128::from(saved) * u128::from(old) / u128::from(new)).unwrap_or(saved)
        } else {
            saved
        };
        self.arrival = Arrival(now.saturating_add(tolerance.max(interval)).saturating_sub(kept));
        self.share = share;
    }
}

impl Arrival {
    /// True when a packet at `now` keeps to one packet every `interval` and is at most `tolerance` ahead of that, both in
    /// quarters of a nanosecond; then it is counted.
    fn conforms(&mut self, interval: u64, tolerance: u64, now: Timestamp) -> bool {
        let now = now.0.saturating_mul(PER_NANOSECOND);
        if self.0 > now.saturating_add(tolerance.saturating_sub(interval)) {
            return false;
        }
        self.0 = self.0.max(now).saturating_add(interval);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn limiters(workers: u32) -> Limiters {
        Limiters::new(2, NonZeroU32::new(workers).unwrap())
    }

    /// The textbook's token bucket; a token is `interval` of credit, and a nanosecond earns one, so that it is exact.
    struct Bucket {
        credit: u64,
        at: u64,
    }

    impl Bucket {
        fn allow(&mut self, interval: u64, burst: u64, now: u64) -> bool {
            self.credit = (self.credit + (now - self.at)).min(interval * burst);
            self.at = now;
            let enough = self.credit >= interval;
            if enough {
                self.credit -= interval;
            }
            enough
        }
    }

    proptest! {
        #[test]
        fn agrees_with_a_token_bucket(
            pps in prop::sample::select(vec![1_u32, 2, 50, 1_000, 1_000_000, 50_000_000]),
            burst in 1_u32..40,
            start in 0..u64::MAX / 8,
            gaps in prop::collection::vec((0_u64..8, 0_u64..400), 1..300),
        ) {
            let interval = SECOND / u64::from(pps);
            let (mut limiters, mut now) = (limiters(1), start + u64::from(burst) * interval);
            let mut bucket = Bucket { credit: u64::from(burst) * interval, at: now };
            for (intervals, percent) in gaps {
                now += interval * intervals / 4 * percent / 100;
                let expected = bucket.allow(interval, u64::from(burst), now);
                prop_assert_eq!(limiters.allow(0, pps, burst, Timestamp(now)), expected);
            }
        }

        #[test]
        fn shares_add_up_to_the_rate(pps in 1_000_u32..50_000_000, workers in 1_u32..17, burst in 2_u32..100) {
            // For as long as each worker's share is 10 000 packets, each is offered twice as many.
            let length = SECOND * 10_000 * u64::from(workers) / u64::from(pps);
            let offered = |_| {
                let mut limiters = limiters(workers);
                let allow = move |sent| limiters.allow(0, pps, burst * workers, Timestamp(length * sent / 20_000));
                (0..20_000).map(allow).map(u32::from).sum::<u32>()
            };
            let allowed = (0..workers).map(offered).sum::<u32>();
            prop_assert!(allowed > workers * 9_900, "{allowed}");
            prop_assert!(allowed < workers * (10_100 + burst), "{allowed}");
        }
    }

    #[test]
    fn a_burst_passes_at_once_and_the_next_packet_does_not() {
        let (mut limiters, now) = (limiters(1), Timestamp(5 * SECOND));
        assert!((0..10).all(|_| limiters.allow(1, 100, 10, now)));
        assert!(!limiters.allow(1, 100, 10, now));
        assert!(limiters.allow(1, 100, 10, now + Duration::from_millis(10)));
        assert!(limiters.allow(0, 100, 10, now), "limiters are independent");
    }

    #[test]
    fn a_rate_of_zero_allows_nothing() {
        assert!(!limiters(1).allow(0, 0, 10, Timestamp(SECOND)));
    }

    #[test]
    fn the_largest_rate_is_still_a_rate() {
        let mut limiters = limiters(1);
        assert!(limiters.allow(0, u32::MAX, 1, Timestamp::ZERO));
        assert!(!limiters.allow(0, u32::MAX, 1, Timestamp::ZERO));
        assert!(limiters.allow(0, u32::MAX, u32::MAX, Timestamp::NEVER));
    }
}
