//! The capture's clock: ticks between packets, and tasks that take effect after the time they are budgeted to take.

use std::time::Duration;

use levee_engine::detect::detector::{Outcome, TICK};
use levee_engine::engine::Engine;
use levee_engine::time::Timestamp;

use super::incidents::Incidents;

/// What an extraction may take live, so that replay does not flatter us.
const EXTRACTION_BUDGET: Duration = Duration::from_millis(10);
/// A gap in the capture is ticked through for this long; then ticks are spread over the rest of it.
const GAP: Duration = Duration::from_secs(20);
/// Ticks for the rest of a gap, however long.
const GAP_TICKS: u32 = 1_000;

/// A packet that is late by more than this says that the capture's clock was put back (or that captures were joined); by
/// less, that packets of several queues were written out of order.
const PUT_BACK: Duration = Duration::from_secs(1);

/// The engine, and how far it has been driven.
pub(super) struct Clock {
    engine: Engine,
    incidents: Incidents,
    now: Timestamp,
    /// By how much our clock is ahead of the capture's, which was put back.
    ahead: Duration,
    next_tick: Option<Timestamp>,
    running: Option<(Timestamp, Outcome)>,
}

impl Clock {
    pub(super) fn new(engine: Engine, incidents: Incidents) -> Self {
        Self { engine, incidents, now: Timestamp::ZERO, ahead: Duration::ZERO, next_tick: None, running: None }
    }

    /// Runs the ticks up to a packet's time and returns the time to judge it at: captures' clocks do jump back, ours does
    /// not, and goes on from where it is: detection must not stand still until the capture has caught up.
    pub(super) fn advance(&mut self, at: Timestamp) -> Timestamp {
        let mut at = at + self.ahead;
        let late = self.now.since(at);
        if late > PUT_BACK {
            self.ahead = self.ahead.saturating_add(late);
            at = self.now;
        }
        self.now = self.now.max(at);
        let mut next = self.next_tick.unwrap_or(at + TICK);
        if self.now.since(next) > GAP {
            next = self.tick_through(next, next + GAP / 2, TICK);
            next = self.tick_through(next, self.now, self.now.since(next) / GAP_TICKS).min(self.now);
        }
        self.next_tick = Some(self.tick_through(next, self.now, TICK));
        self.now
    }

    /// Ticks from `next` until a time, and returns when the next one is due.
    fn tick_through(&mut self, mut next: Timestamp, until: Timestamp, step: Duration) -> Timestamp {
        // A capture may claim any time, also the last one that there is.
        while next <= until && next < Timestamp::NEVER {
            self.tick(next);
            next = next + step.max(TICK);
        }
        next
    }

    fn tick(&mut self, now: Timestamp) {
        self.engine.tick(now);
        if self.running.as_ref().is_some_and(|(due, _)| *due <= now)
            && let Some((_, outcome)) = self.running.take()
        {
            self.engine.complete(outcome, now);
        }
        if self.running.is_none() {
            self.running = self.engine.next_task(now).map(|task| (now + EXTRACTION_BUDGET, task.run()));
        }
        self.incidents.take(self.engine.detector.take_events());
    }

    /// The last tick.
    pub(super) fn finish(mut self) -> (Engine, Incidents) {
        if let Some(next) = self.next_tick {
            self.tick(next);
        }
        (self.engine, self.incidents)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use levee_api::zone::Mode;
    use levee_engine::engine::Settings;
    use levee_engine::isa::Isa;
    use levee_engine::tables::OnFailure;

    use super::*;

    fn clock() -> Clock {
        let settings = Settings {
            workers: NonZeroU32::MIN,
            conversations: 1 << 8,
            hosts: 1 << 8,
            filters: 1 << 8,
            secret: (1, 2),
            ceiling: Mode::Enforce,
            evicted: OnFailure::Pass,
            too_deep: OnFailure::Pass,
            spare_slots: 0,
            learn_only: false,
            isa: Isa::detect(),
        };
        let (engine, _) = Engine::build(&[], &[], settings, Timestamp::ZERO).unwrap();
        Clock::new(engine, Incidents::default())
    }

    fn seconds(seconds: u64) -> Timestamp {
        Timestamp::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn time_goes_on_from_where_it_is_when_the_clock_of_a_capture_is_put_back() {
        let mut clock = clock();
        assert_eq!(clock.advance(seconds(1_000)), seconds(1_000));
        assert_eq!(clock.advance(seconds(10)), seconds(1_000));
        assert_eq!(clock.advance(seconds(15)), seconds(1_005));
        assert_eq!(clock.advance(seconds(3)), seconds(1_005), "a second time");
        assert_eq!(clock.advance(seconds(4)), seconds(1_006));
    }

    #[test]
    fn a_packet_that_is_a_little_late_moves_nothing() {
        let mut clock = clock();
        clock.advance(seconds(10));
        assert_eq!(clock.advance(seconds(10).before(Duration::from_millis(900))), seconds(10));
        assert_eq!(clock.advance(seconds(11)), seconds(11));
    }

    #[test]
    fn after_a_gap_of_hours_the_next_tick_is_not_far() {
        let mut clock = clock();
        clock.advance(seconds(1));
        let now = clock.advance(seconds(20_000));
        let next = clock.next_tick.unwrap();
        assert!(next > now && next.since(now) <= TICK, "{next}");
    }

    #[test]
    fn the_last_time_that_there_is_does_not_take_for_ever() {
        let mut clock = clock();
        clock.advance(seconds(1));
        assert_eq!(clock.advance(Timestamp::NEVER), Timestamp::NEVER);
        assert_eq!(clock.advance(seconds(2)), Timestamp::NEVER);
        clock.finish();
    }
}
