//! One role at one target: its bucket, its baseline and its state. Pure: what happens follows from the counts of a tick,
//! the threshold and the witness that the caller looked up.

use std::time::Duration;

use levee_api::role::Role;
use levee_api::time::Timestamp;
use levee_api::vector::Vector;

use crate::detect::event::Phase;
use crate::detect::threshold::{Baseline, WINDOW};

/// An excess of this much traffic at the threshold overflows the bucket: twice the threshold alarms after this time.
pub const TAU: Duration = Duration::from_millis(50);
/// An attack is over when its role has been below half its threshold for this long.
const QUIET: Duration = Duration::from_secs(1);
/// Shortest time that filters wait for an attack to come back.
const HOLD_LEAST: Duration = Duration::from_secs(60);
/// Longest.
const HOLD_MOST: Duration = Duration::from_secs(15 * 60);

/// State of one role at one target.
#[derive(Clone, Debug, Default)]
pub struct Track {
    /// What was learned.
    pub baseline: Baseline,
    /// The state.
    pub phase: Phase,
    /// When the state began.
    pub since: Timestamp,
    /// Packets above the threshold that have not drained yet.
    bucket: f32,
    /// Rate of the last tick, packets per second.
    pub rate: f32,
    /// Rate of the last tick behind the filters.
    pub residual: f32,
    /// Smoothed rate behind the filters, about the last 100 ms.
    pub residual_smooth: f32,
    /// Smoothed rate, about the last 100 ms.
    pub rate_smooth: f32,
    window_packets: f32,
    window_from: Timestamp,
    last_tick: Timestamp,
    last_busy: Timestamp,
    last_end: Timestamp,
    longest_gap: Duration,
    /// When an extraction was last asked for.
    pub last_extraction: Timestamp,
    /// The vectors that were last told of the current attack.
    pub told: Vec<Vector>,
    /// When the current attack first had a filter that drops; none: not yet.
    pub mitigated_at: Option<Timestamp>,
}

/// What a tick did to the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// From this state.
    pub from: Phase,
    /// To this one.
    pub to: Phase,
}

impl Track {
    /// A track that begins now.
    pub fn new(now: Timestamp, tick: Duration) -> Self {
        Self { window_from: now, last_tick: now.before(tick), since: now, ..Self::default() }
    }

    /// Accounts a tick: `packets` arrived and `dropped` of them were dropped by filters since the last call.
    /// `learn`: the counts are peace. `tick`: how long this tick was; it may come late. Ticks that were left out had no packets.
    pub fn account(&mut self, packets: f32, dropped: f32, threshold: f32, learn: bool, tick: Duration, now: Timestamp) {
        let elapsed = now.since(self.last_tick).as_secs_f32().max(0.001);
        self.last_tick = now;
        // Ticks without packets drained the bucket before this one filled it.
        let tick = tick.as_secs_f32().clamp(0.001, elapsed);
        self.bucket = (self.bucket - threshold * (elapsed - tick)).max(0.0);
        self.rate = packets / tick;
        self.residual = (packets - dropped).max(0.0) / tick;
        let weight = 1.0 - (-elapsed / WINDOW.as_secs_f32()).exp();
        self.rate_smooth += (packets / elapsed - self.rate_smooth) * weight;
        self.residual_smooth += ((packets - dropped).max(0.0) / elapsed - self.residual_smooth) * weight;
        self.bucket =
            (self.bucket + packets - threshold * tick).clamp(0.0, 2.0 * TAU.as_secs_f32() * threshold + packets);
        if self.rate_smooth > threshold / 2.0 {
            self.last_busy = now;
        }
        self.learn(packets, learn, now);
    }

    /// Accounts several ticks of a quiet role at once: `packets` arrived, evenly, during the `span` before `until`, too few
    /// for an alarm.
    pub fn absorb(
        &mut self,
        packets: f32,
        dropped: f32,
        threshold: f32,
        learn: bool,
        span: Duration,
        until: Timestamp,
    ) {
        let from = until.before(span);
        let span_s = span.as_secs_f32().max(0.001);
        let elapsed = until.since(self.last_tick).as_secs_f32().max(span_s);
        self.last_tick = until;
        self.bucket = (self.bucket + packets - threshold * elapsed).max(0.0);
        self.rate = packets / span_s;
        self.residual = (packets - dropped).max(0.0) / span_s;
        let weight = 1.0 - (-elapsed / WINDOW.as_secs_f32()).exp();
        self.rate_smooth += (packets / elapsed - self.rate_smooth) * weight;
        self.residual_smooth += ((packets - dropped).max(0.0) / elapsed - self.residual_smooth) * weight;
        if self.rate_smooth > threshold / 2.0 {
            self.last_busy = until;
        }
        self.learn(0.0, learn, from.max(self.window_from));
        if self.window_packets == 0.0 {
            self.window_from = from;
        }
        self.window_packets += packets;
        let open = until.since(self.window_from);
        if open >= WINDOW {
            if learn && self.phase == Phase::Normal {
                self.baseline.observe(self.window_packets / open.as_secs_f32());
            }
            self.window_from = until;
            self.window_packets = 0.0;
        }
    }

    fn learn(&mut self, packets: f32, learn: bool, now: Timestamp) {
        let length = now.since(self.window_from);
        if length >= WINDOW {
            if learn && self.phase == Phase::Normal {
                let windows = length.as_secs_f32() / WINDOW.as_secs_f32();
                self.baseline.observe(self.window_packets / WINDOW.as_secs_f32());
                self.baseline.observe_silence((windows - 1.0).max(0.0).floor());
            }
            self.window_from = now;
            self.window_packets = 0.0;
        }
        self.window_packets += packets;
    }

    /// True when the excess has overflowed the bucket.
    pub fn alarmed(&self, threshold: f32) -> bool {
        self.bucket > TAU.as_secs_f32() * threshold
    }

    /// Moves the state. `witnessed`: a witness holds now.
    pub fn step(&mut self, threshold: f32, witnessed: bool, now: Timestamp) -> Option<Change> {
        let quiet = now.since(self.last_busy) >= QUIET;
        let to = match self.phase {
            Phase::Normal | Phase::Watch if self.alarmed(threshold) && witnessed => Phase::Attack,
            Phase::Normal if self.alarmed(threshold) => Phase::Watch,
            Phase::Watch if quiet && self.bucket <= 0.0 => Phase::Normal,
            Phase::Attack if quiet => Phase::Hold,
            // What was witnessed once comes back: its own filters answer at once, a new one needs a witness again.
            Phase::Hold if self.alarmed(threshold) => Phase::Attack,
            Phase::Hold if now.since(self.since) >= self.hold_time() => Phase::Normal,
            same => same,
        };
        if to == self.phase {
            return None;
        }
        let change = Change { from: self.phase, to };
        match (change.from, to) {
            (_, Phase::Hold) => self.last_end = self.last_busy,
            (Phase::Hold, Phase::Attack) => self.longest_gap = self.longest_gap.max(now.since(self.last_end)),
            (_, Phase::Normal) => {
                self.longest_gap = Duration::ZERO;
                self.window_from = now;
                self.window_packets = 0.0;
            }
            _ => {}
        }
        if to == Phase::Attack {
            self.mitigated_at = None;
            self.told.clear();
            self.last_busy = now;
        }
        self.phase = to;
        self.since = now;
        Some(change)
    }

    /// Back to normal without an end of its own: a covering prefix took over, or policy changed.
    pub fn dissolve(&mut self, now: Timestamp) {
        let baseline = std::mem::take(&mut self.baseline);
        *self = Self { baseline, window_from: now, last_tick: self.last_tick, since: now, ..Self::default() };
    }

    /// How long filters wait for the attack to come back: three times the longest gap seen between its pulses.
    pub fn hold_time(&self) -> Duration {
        (self.longest_gap * 3).clamp(HOLD_LEAST, HOLD_MOST)
    }

    /// True when nothing is left to watch: the state is normal and the bucket empty.
    pub fn is_idle(&self) -> bool {
        self.phase == Phase::Normal && self.bucket <= 0.0
    }
}

/// True for roles whose packets, as such, are a burden on nobody legitimate once they exceed their threshold: the role is
/// its own witness, so that everything of it may be dropped (if it was rare in peace).
pub const fn is_own_witness(role: Role) -> bool {
    matches!(
        role,
        Role::OutOfState
            | Role::UnsolicitedSynAck
            | Role::UnsolicitedResponse
            | Role::UdpUnserved
            | Role::OtherProtocol
            | Role::Malformed
    )
}

/// True when a verdict on the role relies on memory of what inside sent.
pub const fn relies_on_memory(role: Role) -> bool {
    matches!(
        role,
        Role::OutOfState
            | Role::UnsolicitedSynAck
            | Role::UnsolicitedResponse
            | Role::UdpUnserved
            | Role::UdpOpen
            | Role::Request
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(10);

    /// Feeds a constant rate; returns the ticks until the state is reached.
    fn ticks_until(
        track: &mut Track,
        rate: f32,
        threshold: f32,
        phase: Phase,
        witnessed: bool,
        now: &mut Timestamp,
    ) -> usize {
        for tick in 1..100_000 {
            *now = *now + TICK;
            track.account(rate * 0.01, 0.0, threshold, true, TICK, *now);
            track.step(threshold, witnessed, *now);
            if track.phase == phase {
                return tick;
            }
        }
        panic!("never {phase}");
    }

    #[test]
    fn a_larger_excess_alarms_sooner() {
        let start = Timestamp(1_000_000_000);
        for (times, most) in [(1.5, 11), (2.0, 6), (5.0, 2), (50.0, 1)] {
            let mut now = start;
            let mut track = Track::new(start, TICK);
            let ticks = ticks_until(&mut track, 500.0 * times, 500.0, Phase::Attack, true, &mut now);
            assert!(ticks <= most, "{times} times the threshold took {ticks} ticks");
        }
    }

    #[test]
    fn a_rate_at_the_threshold_never_alarms() {
        let mut now = Timestamp(1_000_000_000);
        let mut track = Track::new(now, TICK);
        for _ in 0..10_000 {
            now = now + TICK;
            track.account(5.0, 0.0, 500.0, true, TICK, now);
            assert_eq!(track.step(500.0, true, now), None);
        }
    }

    #[test]
    fn a_late_tick_is_no_alarm() {
        let mut now = Timestamp(1_000_000_000);
        let mut track = Track::new(now, TICK);
        for late in [10_u16, 100, 2, 500, 10, 1_500].into_iter().cycle().take(600) {
            let tick = Duration::from_millis(late.into());
            now = now + tick;
            track.account(0.45 * f32::from(late), 0.0, 500.0, true, tick, now);
            assert_eq!(track.step(500.0, true, now), None, "after a tick of {late} ms at 450 packets per second");
            assert!(track.rate < 451.0, "{}", track.rate);
        }
    }

    #[test]
    fn without_a_witness_it_is_only_watched() {
        let mut now = Timestamp(1_000_000_000);
        let mut track = Track::new(now, TICK);
        ticks_until(&mut track, 5_000.0, 500.0, Phase::Watch, false, &mut now);
        let learned = track.baseline.largest;
        for _ in 0..200 {
            now = now + TICK;
            track.account(50.0, 0.0, 500.0, true, TICK, now);
            track.step(500.0, false, now);
        }
        assert_eq!(track.phase, Phase::Watch);
        assert_eq!(track.baseline.largest, learned, "nothing is learned outside peace");
        ticks_until(&mut track, 0.0, 500.0, Phase::Normal, false, &mut now);
    }

    #[test]
    fn an_attack_is_held_and_comes_back_without_a_new_witness() {
        let mut now = Timestamp(1_000_000_000);
        let mut track = Track::new(now, TICK);
        ticks_until(&mut track, 5_000.0, 500.0, Phase::Attack, true, &mut now);
        ticks_until(&mut track, 0.0, 500.0, Phase::Hold, true, &mut now);
        ticks_until(&mut track, 5_000.0, 500.0, Phase::Attack, false, &mut now);
        ticks_until(&mut track, 0.0, 500.0, Phase::Hold, false, &mut now);
        let held = ticks_until(&mut track, 0.0, 500.0, Phase::Normal, false, &mut now);
        assert!((5_990..=6_001).contains(&held), "held for {held} ticks of 10 ms");
    }

    #[test]
    fn hold_follows_the_gaps_between_pulses() {
        let mut now = Timestamp(1_000_000_000);
        let mut track = Track::new(now, TICK);
        ticks_until(&mut track, 5_000.0, 500.0, Phase::Attack, true, &mut now);
        ticks_until(&mut track, 0.0, 500.0, Phase::Hold, true, &mut now);
        for _ in 0..4_000 {
            now = now + TICK;
            track.account(0.0, 0.0, 500.0, true, TICK, now);
            track.step(500.0, false, now);
        }
        ticks_until(&mut track, 5_000.0, 500.0, Phase::Attack, false, &mut now);
        assert!(track.hold_time() > Duration::from_secs(120), "{:?}", track.hold_time());
    }
}
