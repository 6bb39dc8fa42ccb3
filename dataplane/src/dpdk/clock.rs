//! Time on the data path: the time-stamp counter, as nanoseconds.

use levee_engine::time::Timestamp;

use super::eal::Eal;

const FRACTION_BITS: u32 = 32;

/// Reads the time-stamp counter of the CPU as nanoseconds since the clock was made. Copies agree with each other.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: u64,
    /// Nanoseconds per tick, as a binary fraction, so that reading the clock multiplies and never divides.
    nanos_per_tick: u64,
}

impl Clock {
    /// Starts a clock at zero. DPDK measured the counter's rate when it was initialised.
    pub fn start(_eal: &Eal) -> Self {
        // SAFETY: returns a number that rte_eal_init set; the caller's Eal shows that it has run.
        let hz = unsafe { dpdk_sys::rte_get_tsc_hz() };
        Self { origin: ticks(), nanos_per_tick: nanos_per_tick(hz) }
    }

    /// Now.
    #[inline]
    pub fn now(&self) -> Timestamp {
        Timestamp(scale(ticks().wrapping_sub(self.origin), self.nanos_per_tick))
    }
}

#[inline]
fn ticks() -> u64 {
    // SAFETY: reads a counter register, no memory.
    unsafe { dpdk_sys::rte_rdtsc() }
}

fn nanos_per_tick(hz: u64) -> u64 {
    (1_000_000_000_u64 << FRACTION_BITS) / hz.max(1)
}

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "nanoseconds fill 64 bits after 584 years")]
fn scale(ticks: u64, nanos_per_tick: u64) -> u64 {
    ((u128::from(ticks) * u128::from(nanos_per_tick)) >> FRACTION_BITS) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_of_ticks_is_a_day_of_nanoseconds_to_a_microsecond_per_second() {
        for hz in [1_000_000_000_u64, 2_599_998_123, 4_700_000_000] {
            let day = scale(86_400 * hz, nanos_per_tick(hz));
            let error = day.abs_diff(86_400 * 1_000_000_000);
            assert!(error < 86_400 * 1_000, "{hz} Hz: a day is {error} ns off");
        }
    }
}
