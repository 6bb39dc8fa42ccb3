//! One role at one target: its bucket, its baseline and its state. Pure: what happens follows from the counts of a tick,
//! the threshold and the witness that the caller looked up.

use std::time::Duration;

use levee_api::role::Role;
use levee_api::time::Timestamp;
use levee_api::vector::Vector;

use crate::detect::event::Phase;
use crate::detect::threshold::{Baseline, Bounds, Calendar, WINDOW};

/// An excess of this much traffic at the threshold overflows the bucket: twice the threshold alarms after this time.
pub const TAU: Duration = Duration::from_millis(50);
/// An attack is over when its role has been below half its threshold for this long.
const QUIET: Duration = Duration::from_secs(1);
/// Shortest time that filters wait for an attack to come back.
const HOLD_LEAST: Duration = Duration::from_secs(60);
/// Longest.
pub const HOLD_MOST: Duration = Duration::from_secs(15 * 60);
/// Means over this long are compared with what is usual: what rises slowly is no alarm of the bucket.
const SLOW_WINDOW: Duration = Duration::from_secs(10);
/// An alarm without a witness ends when nothing was above the threshold for this long.
const CALM: Duration = Duration::from_secs(10);
/// An alarm that has found no witness for this long may be what is usual from now on.
const UNWITNESSED: Duration = Duration::from_secs(60);
/// It is, after having been learned for this long.
const PROVISIONAL: Duration = Duration::from_secs(600);

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
    slow_packets: f32,
    slow_from: Timestamp,
    /// The last slow window was above what is usual.
    is_slow_alarm: bool,
    provisional: Option<Box<Provisional>>,
    last_tick: Timestamp,
    last_busy: Timestamp,
    last_alarm: Timestamp,
    last_end: Timestamp,
    longest_gap: Duration,
    /// How many times the current attack has made a challenge necessary that had ended.
    pub challenged_again: u32,
    /// Since when what signatures let pass looks like peace.
    pub clean_since: Option<Timestamp>,
    /// The current attack began with a witness, and not by its return alone.
    pub is_witnessed: bool,
    /// The current attack opens connections and does not use them.
    pub is_idle_flood: bool,
    /// When an extraction was last asked for.
    pub last_extraction: Timestamp,
    /// The vectors that were last told of the current attack.
    pub told: Vec<Vector>,
    /// When the current attack first had a filter that drops; none: not yet.
    pub mitigated_at: Option<Timestamp>,
}

/// What was learned of an alarm without a witness.
#[derive(Clone, Debug)]
struct Provisional {
    baseline: Baseline,
    since: Timestamp,
    /// It has been taken over once during this alarm.
    is_merged: bool,
}

/// What is known of a target when its role is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// What bounds its threshold.
    pub bounds: Bounds,
    /// Its threshold, packets per second.
    pub threshold: f32,
    /// What is counted is peace, as far as this role at this target is.
    pub learn: bool,
    /// The time.
    pub calendar: Calendar,
}

/// A baseline changed in a way that operators want to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lesson {
    /// An alarm without a witness has become what is usual at a target of which nothing else was known.
    Merged,
    /// What is seen has grown faster than it may, or for weeks: the threshold does not follow until that is accepted.
    Held,
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
        Self { window_from: now, slow_from: now, last_tick: now.before(tick), since: now, ..Self::default() }
    }

    /// Accounts a tick: `packets` arrived and `dropped` of them were dropped by filters since the last call.
    /// `tick`: how long this tick was; it may come late. Ticks that were left out had no packets.
    pub fn account(
        &mut self,
        packets: f32,
        dropped: f32,
        look: &Look,
        tick: Duration,
        now: Timestamp,
    ) -> Option<Lesson> {
        let threshold = look.threshold;
        let elapsed = now.since(self.last_tick).as_secs_f32().max(0.001);
        self.last_tick = now;
        // Ticks without packets drained the bucket before this one filled it.
        let tick = tick.as_secs_f32().clamp(0.001, elapsed);
        self.bucket = (self.bucket - threshold * (elapsed - tick)).max(0.0);
        self.rate = packets / tick;
        let passed = (packets - dropped).max(0.0);
        self.residual = passed / tick;
        let weight = 1.0 - (-elapsed / WINDOW.as_secs_f32()).exp();
        self.rate_smooth += (packets / elapsed - self.rate_smooth) * weight;
        self.residual_smooth += (passed / elapsed - self.residual_smooth) * weight;
        self.bucket =
            (self.bucket + packets - threshold * tick).clamp(0.0, 2.0 * TAU.as_secs_f32() * threshold + packets);
        if self.rate_smooth > threshold / 2.0 {
            self.last_busy = now;
        }
        self.learn(passed, look, now);
        self.slow(packets, look, now)
    }

    /// Accounts several ticks of a quiet role at once: `packets` arrived, evenly, during the `span` before `until`, too few
    /// for an alarm.
    pub fn absorb(
        &mut self,
        packets: f32,
        dropped: f32,
        look: &Look,
        span: Duration,
        until: Timestamp,
    ) -> Option<Lesson> {
        let threshold = look.threshold;
        let from = until.before(span);
        let span_s = span.as_secs_f32().max(0.001);
        let elapsed = until.since(self.last_tick).as_secs_f32().max(span_s);
        self.last_tick = until;
        self.bucket = (self.bucket + packets - threshold * elapsed).max(0.0);
        self.rate = packets / span_s;
        let passed = (packets - dropped).max(0.0);
        self.residual = passed / span_s;
        let weight = 1.0 - (-elapsed / WINDOW.as_secs_f32()).exp();
        self.rate_smooth += (packets / elapsed - self.rate_smooth) * weight;
        self.residual_smooth += (passed / elapsed - self.residual_smooth) * weight;
        if self.rate_smooth > threshold / 2.0 {
            self.last_busy = until;
        }
        self.learn(0.0, look, from.max(self.window_from));
        if self.window_packets == 0.0 {
            self.window_from = from;
        }
        self.window_packets += passed;
        let open = until.since(self.window_from);
        if open >= WINDOW {
            let packets = std::mem::take(&mut self.window_packets);
            self.observe(packets / open.as_secs_f32(), 0.0, look, until);
            self.window_from = until;
        }
        self.slow(packets, look, until)
    }

    fn learn(&mut self, passed: f32, look: &Look, now: Timestamp) {
        if now.since(self.window_from) >= WINDOW {
            let packets = std::mem::take(&mut self.window_packets);
            // What was open when nobody was watching any more says nothing.
            let from = self.window_from.max(look.calendar.seen_since);
            let windows = now.since(from).div_duration_f32(WINDOW).floor();
            if from == self.window_from {
                self.observe(packets / WINDOW.as_secs_f32(), (windows - 1.0).max(0.0), look, now);
            }
            self.window_from = now;
        }
        self.window_packets += passed;
    }

    fn observe(&mut self, rate: f32, silent: f32, look: &Look, now: Timestamp) {
        let baseline = match self.phase {
            // While an excess has not drained it may be the beginning of an attack.
            Phase::Normal if look.learn && self.bucket <= 0.0 => &mut self.baseline,
            Phase::Watch if now.since(self.since) >= UNWITNESSED => {
                let begin = || Box::new(Provisional { baseline: Baseline::default(), since: now, is_merged: false });
                &mut self.provisional.get_or_insert_with(begin).baseline
            }
            _ => return,
        };
        baseline.observe(rate, silent, look.calendar.weight);
    }

    /// Ends a slow window, if it is time.
    fn slow(&mut self, packets: f32, look: &Look, now: Timestamp) -> Option<Lesson> {
        self.slow_packets += packets;
        let from = self.slow_from.max(look.calendar.seen_since);
        let length = now.since(from);
        if length < SLOW_WINDOW {
            return None;
        }
        let mean = self.slow_packets / length.as_secs_f32();
        let is_whole = from == self.slow_from;
        (self.slow_from, self.slow_packets) = (now, 0.0);
        let held = self.baseline.refresh(&look.bounds, &look.calendar, length);
        self.is_slow_alarm = is_whole && self.baseline.slow_threshold(&look.bounds).is_some_and(|most| mean > most);
        let provisional = self.provisional.as_mut().filter(|learned| now.since(learned.since) >= PROVISIONAL);
        let lesson = provisional.and_then(|learned| {
            let is_new = self.baseline.merge(&std::mem::take(&mut learned.baseline));
            learned.since = now;
            let is_told = std::mem::replace(&mut learned.is_merged, true);
            (!is_told).then_some(if is_new { Lesson::Merged } else { Lesson::Held })
        });
        lesson.or_else(|| held.then_some(Lesson::Held))
    }

    /// An attack is still going on, although its packets are not told from others any more.
    pub fn keep_busy(&mut self, now: Timestamp) {
        self.last_busy = now;
    }

    /// A signature may be looked for without a further witness: what comes back while its filters wait may be a crowd.
    pub fn is_new(&self, role: Role) -> bool {
        self.is_witnessed || self.phase == Phase::Watch || !matches!(role, Role::Syn | Role::UdpOpen | Role::Request)
    }

    /// True when the excess has overflowed the bucket.
    pub fn alarmed(&self, threshold: f32) -> bool {
        self.bucket > TAU.as_secs_f32() * threshold
    }

    /// Moves the state. `witnessed`: a witness holds now.
    pub fn step(&mut self, threshold: f32, witnessed: bool, now: Timestamp) -> Option<Change> {
        let quiet = now.since(self.last_busy) >= QUIET;
        let alarmed = self.alarmed(threshold);
        if alarmed {
            self.last_alarm = now;
        }
        let calm = now.since(self.last_alarm) >= CALM;
        let to = match self.phase {
            Phase::Normal | Phase::Watch if alarmed && witnessed => Phase::Attack,
            Phase::Normal if alarmed || self.is_slow_alarm => Phase::Watch,
            Phase::Watch if ((quiet && self.bucket <= 0.0) || calm) && !self.is_slow_alarm => Phase::Normal,
            Phase::Attack if quiet => Phase::Hold,
            // What was witnessed once comes back: its own filters answer at once, a new one needs a witness again.
            Phase::Hold if alarmed => Phase::Attack,
            Phase::Hold if now.since(self.since) >= self.hold_time() => Phase::Normal,
            same => same,
        };
        (to != self.phase).then(|| self.turn(to, witnessed, now))
    }

    /// What was only watched is an attack, by what was found in its samples.
    pub fn convict(&mut self, now: Timestamp) -> Option<Change> {
        (self.phase == Phase::Watch).then(|| self.turn(Phase::Attack, true, now))
    }

    fn turn(&mut self, to: Phase, witnessed: bool, now: Timestamp) -> Change {
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
            self.is_witnessed = witnessed;
            self.is_idle_flood = false;
            self.challenged_again = 0;
            self.told.clear();
            self.last_busy = now;
        }
        self.provisional = None;
        self.phase = to;
        self.since = now;
        change
    }

    /// Back to normal without an end of its own: a covering prefix took over, or policy changed.
    pub fn dissolve(&mut self, now: Timestamp) {
        let baseline = std::mem::take(&mut self.baseline);
        let last_tick = self.last_tick;
        *self = Self { baseline, window_from: now, slow_from: now, last_tick, since: now, ..Self::default() };
    }

    /// The longest time between two pulses of the attack so far; zero: it has not come back yet.
    pub fn longest_gap(&self) -> Duration {
        self.longest_gap
    }

    /// How long filters wait for the attack to come back: three times the longest gap seen between its pulses.
    pub fn hold_time(&self) -> Duration {
        (self.longest_gap * 3).clamp(HOLD_LEAST, HOLD_MOST)
    }

    /// True when nothing is left to watch: the state is normal and the bucket empty.
    pub fn is_idle(&self) -> bool {
        self.phase == Phase::Normal && self.bucket <= 0.0 && !self.is_slow_alarm
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

/// True when the evidence of the role compares both directions.
pub const fn compares_directions(role: Role) -> bool {
    relies_on_memory(role) || matches!(role, Role::Syn)
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

    /// A look at a role that is watched from the origin of time on.
    fn look(threshold: f32, now: Timestamp) -> Look {
        let observed = now.since(Timestamp::ZERO);
        let calendar = Calendar { hour: 0, weight: 1.0, seen_since: Timestamp::ZERO, is_training: false };
        Look { bounds: Bounds { role: Role::Syn, observed, floor: 500.0, cap: 1e6 }, threshold, learn: true, calendar }
    }

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
            track.account(rate * 0.01, 0.0, &look(threshold, *now), TICK, *now);
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
            track.account(5.0, 0.0, &look(500.0, now), TICK, now);
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
            track.account(0.45 * f32::from(late), 0.0, &look(500.0, now), tick, now);
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
            track.account(50.0, 0.0, &look(500.0, now), TICK, now);
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
            track.account(0.0, 0.0, &look(500.0, now), TICK, now);
            track.step(500.0, false, now);
        }
        ticks_until(&mut track, 5_000.0, 500.0, Phase::Attack, false, &mut now);
        assert!(track.hold_time() > Duration::from_secs(120), "{:?}", track.hold_time());
    }

    /// Peace and attacks at one target, with the threshold that follows from what it learns.
    struct Target {
        track: Track,
        now: Timestamp,
        witnessed: bool,
        lessons: Vec<Lesson>,
    }

    impl Target {
        fn new() -> Self {
            let now = Timestamp(1_000_000_000);
            Self { track: Track::new(now, TICK), now, witnessed: false, lessons: Vec::new() }
        }

        fn look(&self) -> Look {
            let look = look(0.0, self.now);
            Look { threshold: self.track.baseline.threshold(&look.bounds), ..look }
        }

        /// A tick with a rate.
        fn tick(&mut self, rate: f32) {
            self.now = self.now + TICK;
            let look = self.look();
            self.lessons.extend(self.track.account(rate * 0.01, 0.0, &look, TICK, self.now));
            self.track.step(look.threshold, self.witnessed, self.now);
        }

        /// So many seconds at a rate; true when it was never anything but normal.
        fn seconds(&mut self, seconds: u32, rate: f32) -> bool {
            (0..seconds * 100).fold(true, |normal, _| {
                self.tick(rate);
                normal & (self.track.phase == Phase::Normal)
            })
        }
    }

    #[test]
    fn an_honest_host_at_ten_times_its_floor_is_learned_within_twenty_minutes() {
        let mut host = Target::new();
        host.seconds(20 * 60, 5_000.0);
        assert_eq!(host.lessons, [Lesson::Merged]);
        assert_eq!(host.track.phase, Phase::Normal);
        assert!((18_000.0..22_000.0).contains(&host.look().threshold), "{}", host.look().threshold);
        assert!(host.seconds(60, 5_000.0));
    }

    #[test]
    fn a_watch_ends_by_itself_when_nothing_is_above_the_threshold_any_more() {
        let mut host = Target::new();
        assert!(host.seconds(30, 100.0));
        host.seconds(30, 5_000.0);
        assert_eq!(host.track.phase, Phase::Watch);
        host.seconds(15, 450.0);
        assert_eq!(host.track.phase, Phase::Normal, "although the rate is above half the threshold");
    }

    /// Raises the rate from that of an hour of peace by a factor in some seconds, again and again, until it is no longer
    /// taken for peace; returns by how much it has grown then.
    fn ramp(factor: f32, seconds: u32, peace: f32) -> f32 {
        let mut host = Target::new();
        assert!(host.seconds(3_600, peace));
        let mut rate = peace;
        while host.seconds(1, rate) {
            rate *= factor.powf((seconds as f32).recip());
            assert!(rate < 100.0 * peace, "not caught at {rate}");
        }
        rate / peace
    }

    #[test]
    fn ramps_are_caught_before_three_times_what_is_usual() {
        for (factor, seconds) in [(2.7, 10), (2.0, 3_600)] {
            let grown = ramp(factor, seconds, 400.0);
            assert!(grown < 3.0, "x {factor} in {seconds} s was caught at {grown} times the peace before");
        }
    }

    #[test]
    fn what_filters_dropped_is_not_learned() {
        let mut track = Track::new(Timestamp::ZERO, TICK);
        let mut now = Timestamp::ZERO;
        for _ in 0..1_000 {
            now = now + TICK;
            track.account(4.0, 3.0, &look(500.0, now), TICK, now);
        }
        assert!((90.0..=110.0).contains(&track.baseline.largest), "{}", track.baseline.largest);
    }

    #[test]
    fn nothing_is_learned_of_time_that_nobody_watched() {
        let mut host = Target::new();
        host.seconds(700, 300.0);
        let before = host.track.baseline.rates.total();
        host.now = host.now + Duration::from_secs(30 * 24 * 3_600);
        let mut look = host.look();
        look.calendar.seen_since = host.now;
        host.track.account(3.0, 0.0, &look, TICK, host.now);
        assert_eq!(host.track.baseline.rates.total(), before);
        assert!(!host.track.is_slow_alarm);
    }

    #[test]
    fn one_packet_and_then_nothing_is_no_alarm() {
        let mut host = Target::new();
        host.tick(100.0);
        assert!(host.seconds(1_000, 0.0));
        assert!(host.look().threshold >= 125.0);
    }
}
