//! When things begin: at random, at a rate that may change over time.

use std::time::Duration;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;

use crate::time_bins::ns;

/// A pulse wave.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pulse {
    /// Length of a pulse.
    pub on_s: f64,
    /// Length of the gap behind it.
    pub off_s: f64,
}

/// A rate that grows until it is the full one.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ramp {
    /// At the beginning.
    pub from_per_s: f64,
    /// It grows by this factor ...
    pub factor: f64,
    /// ... in this time.
    pub every_s: f64,
}

/// Points in time.
#[derive(Debug)]
pub(super) struct Schedule {
    /// The next one, nanoseconds from the start of the scenario.
    pub(super) next_ns: u64,
    onset_ns: u64,
    end_ns: u64,
    per_s: f64,
    growth: Growth,
    pulse: Option<Pulse>,
}

/// How the full rate is reached.
#[derive(Clone, Copy, Debug)]
pub(super) enum Growth {
    None,
    Rise(f64),
    Ramp(Ramp),
}

impl Schedule {
    pub(super) fn new(
        onset_s: f64,
        duration_s: f64,
        per_s: f64,
        growth: Growth,
        pulse: Option<Pulse>,
        rng: &mut ChaCha8Rng,
    ) -> Self {
        let onset_ns = nanoseconds(onset_s);
        let end_ns = onset_ns.saturating_add(nanoseconds(duration_s));
        let mut schedule = Self { next_ns: onset_ns, onset_ns, end_ns, per_s, growth, pulse };
        schedule.advance(rng);
        schedule
    }

    pub(super) fn is_over(&self) -> bool {
        self.next_ns >= self.end_ns
    }

    /// On to the next. A rate below the full one leaves out some of those that this would have.
    pub(super) fn advance(&mut self, rng: &mut ChaCha8Rng) {
        loop {
            let gap_s = -(1.0 - rng.random::<f64>()).ln() / self.per_s;
            self.next_ns = self.next_ns.saturating_add(nanoseconds(gap_s).max(1));
            if let Some(pulse) = self.pulse {
                let (on, off) = (nanoseconds(pulse.on_s), nanoseconds(pulse.off_s));
                let phase = (self.next_ns - self.onset_ns) % (on + off).max(1);
                if phase >= on {
                    self.next_ns += on + off - phase;
                }
            }
            let is_kept = match self.share() {
                share if share >= 1.0 => true,
                share => rng.random::<f64>() < share,
            };
            if is_kept || self.is_over() {
                return;
            }
        }
    }

    /// Of the full rate, now.
    fn share(&self) -> f64 {
        let since_s = Duration::from_nanos(self.next_ns - self.onset_ns).as_secs_f64();
        match self.growth {
            Growth::None => 1.0,
            Growth::Rise(rise_s) => since_s / rise_s.max(f64::MIN_POSITIVE),
            Growth::Ramp(Ramp { from_per_s, factor, every_s }) => {
                from_per_s / self.per_s * factor.powf(since_s / every_s.max(f64::MIN_POSITIVE))
            }
        }
    }
}

/// Seconds to nanoseconds; negative and absurd values become the nearest possible.
pub(super) fn nanoseconds(seconds: f64) -> u64 {
    ns(Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or_default())
}
