//! What comes in over a wire: quick to say that it fills, slow to say that it no longer does.

use std::collections::VecDeque;
use std::time::Duration;

use levee_api::time::Timestamp;

/// What has come is a mean of so long.
const MEAN_OF: Duration = Duration::from_secs(1);
/// More than the mean counts when it has not been less for so long: a burst that a queue takes in does not.
const SUSTAINED: Duration = Duration::from_millis(75);
/// What was read sooner after the last says nothing: ports count in batches.
const GRAIN: Duration = Duration::from_millis(20);

/// The counters of a port, as they were in the last second.
#[derive(Debug, Default)]
pub(super) struct Flow {
    /// Oldest first; the first is the newest of those that are as old as the mean is long.
    samples: VecDeque<Sample>,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Timestamp,
    bytes: Option<u64>,
    lost: Option<u64>,
}

impl Sample {
    /// Bytes per second since another sample.
    fn rate_since(&self, earlier: &Self) -> Option<f64> {
        let (bytes, passed) = (self.bytes?.checked_sub(earlier.bytes?)?, self.at.since(earlier.at));
        #[expect(clippy::cast_precision_loss, reason = "a rate of 2^53 bytes per second is beyond any link")]
        (!passed.is_zero()).then(|| bytes as f64 / passed.as_secs_f64())
    }
}

impl Flow {
    /// Takes in what was counted at a time, by whichever clock counts on evenly.
    pub(super) fn take(&mut self, at: Timestamp, bytes: Option<u64>, lost: Option<u64>) {
        let sample = Sample { at, bytes, lost };
        if let Some(last) = self.samples.back() {
            if at < last.at || bytes < last.bytes || lost < last.lost {
                // Another run of the dataplane, or another driver.
                self.samples.clear();
            } else if at.since(last.at) < GRAIN {
                return;
            }
        }
        self.samples.push_back(sample);
        while self.samples.get(1).is_some_and(|second| at.since(second.at) >= MEAN_OF) {
            self.samples.pop_front();
        }
    }

    /// Bits per second: the mean of the last second, or what has come all the time lately if that is more. None before a second
    /// was counted, and from ports that count no bytes.
    pub(super) fn bps(&self) -> Option<f64> {
        let mean = self.mean_bps()?;
        Some(self.sustained().map_or(mean, |least| mean.max(least * 8.0)))
    }

    /// Bits per second, the mean of the last second.
    pub(super) fn mean_bps(&self) -> Option<f64> {
        let (first, last) = self.second()?;
        last.rate_since(first).map(|bytes| bytes * 8.0)
    }

    /// Whether the port has lost packets in the last second; none: it does not count them.
    pub(super) fn is_losing(&self) -> Option<bool> {
        let (first, last) = self.second()?;
        Some(last.lost? > first.lost?)
    }

    fn second(&self) -> Option<(&Sample, &Sample)> {
        let (first, last) = (self.samples.front()?, self.samples.back()?);
        (last.at.since(first.at) >= MEAN_OF).then_some((first, last))
    }

    /// The least bytes per second from one sample to the next, as far back as has to be looked.
    fn sustained(&self) -> Option<f64> {
        let last = self.samples.back()?;
        let mut least: Option<f64> = None;
        for (later, earlier) in self.samples.iter().rev().zip(self.samples.iter().rev().skip(1)) {
            let rate = later.rate_since(earlier)?;
            least = Some(least.map_or(rate, |least| least.min(rate)));
            if last.at.since(earlier.at) >= SUSTAINED {
                return least;
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A flow that is read every 25 ms, of so many megabytes per second in each of these spans of milliseconds.
    fn flow(spans: &[(u64, u64)]) -> Flow {
        let (mut flow, mut at, mut bytes) = (Flow::default(), 0_u64, 0_u64);
        flow.take(Timestamp(0), Some(0), Some(0));
        for (milliseconds, megabytes) in spans {
            for _ in 0..milliseconds / 25 {
                at += 25;
                bytes += megabytes * 25_000;
                flow.take(Timestamp(at * 1_000_000), Some(bytes), Some(0));
            }
        }
        flow
    }

    fn megabytes(flow: &Flow) -> Option<f64> {
        flow.bps().map(|bps| (bps / 8e4).round() / 100.0)
    }

    #[test]
    fn what_begins_is_seen_within_a_tenth_of_a_second_and_what_ends_when_the_mean_says_so() {
        assert_eq!(megabytes(&flow(&[(975, 100)])), None, "less than a second");
        assert_eq!(megabytes(&flow(&[(1_000, 100)])), Some(100.0));
        assert_eq!(megabytes(&flow(&[(2_000, 100), (50, 1_000)])), Some(145.0), "the mean alone");
        assert_eq!(megabytes(&flow(&[(2_000, 100), (75, 1_000)])), Some(1_000.0));
        assert_eq!(megabytes(&flow(&[(2_000, 100), (500, 1_000), (25, 100)])), Some(550.0));
        assert_eq!(megabytes(&flow(&[(2_000, 1_000), (500, 100)])), Some(550.0));
        assert_eq!(megabytes(&flow(&[(2_000, 1_000), (1_000, 0)])), Some(0.0));
    }

    #[test]
    fn bursts_count_as_their_mean_and_so_does_what_is_read_once_a_second() {
        let bursts = [(50, 1_000), (50, 0)].repeat(20);
        assert_eq!(megabytes(&flow(&bursts)), Some(500.0));
        let mut seldom = Flow::default();
        for (second, bytes) in (0..).zip([0, 100_000_000, 1_100_000_000]) {
            seldom.take(Timestamp(second * 1_000_000_000), Some(bytes), Some(bytes / 600_000_000));
        }
        assert_eq!((megabytes(&seldom), seldom.is_losing()), (Some(1_000.0), Some(true)));
    }

    #[test]
    fn counters_that_go_back_are_of_another_run_and_those_that_there_are_not_say_nothing() {
        let mut again = flow(&[(2_000, 100)]);
        again.take(Timestamp(2_100_000_000), Some(7), Some(0));
        assert_eq!((again.bps(), again.is_losing()), (None, None));
        let mut blind = Flow::default();
        for second in 0..3 {
            blind.take(Timestamp(second * 1_000_000_000), None, None);
        }
        assert_eq!((blind.bps(), blind.is_losing()), (None, None));
    }
}
