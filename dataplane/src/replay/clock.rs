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

/// The engine, and how far it has been driven.
pub(super) struct Clock {
    engine: Engine,
    incidents: Incidents,
    now: Timestamp,
    next_tick: Option<Timestamp>,
    running: Option<(Timestamp, Outcome)>,
}

impl Clock {
    pub(super) fn new(engine: Engine, incidents: Incidents) -> Self {
        Self { engine, incidents, now: Timestamp::ZERO, next_tick: None, running: None }
    }

    /// Runs the ticks up to a packet's time and returns the time to judge it at: captures' clocks do jump back, ours does
    /// not.
    pub(super) fn advance(&mut self, at: Timestamp) -> Timestamp {
        self.now = self.now.max(at);
        let mut next = self.next_tick.unwrap_or(at + TICK);
        if self.now.since(next) > GAP {
            let calm_from = next + GAP / 2;
            while next <= calm_from {
                self.tick(next);
                next = next + TICK;
            }
            let step = self.now.since(next) / GAP_TICKS;
            for _ in 0..GAP_TICKS {
                self.tick(next);
                next = next + step;
            }
        }
        while next <= self.now {
            self.tick(next);
            next = next + TICK;
        }
        self.next_tick = Some(next);
        self.now
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
