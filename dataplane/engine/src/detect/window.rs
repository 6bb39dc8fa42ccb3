//! Sums over about the last half second, for witnesses: exponentially forgetting, so a target needs five numbers
//! instead of fifty ticks of history.

use std::time::Duration;

use levee_api::time::Timestamp;

use crate::target::counters::Totals;
use levee_api::role::Role;

/// Time constant: half a second of traffic weighs as much as a full window of that length.
const TIME_CONSTANT_S: f32 = 0.5;

/// Forgetting sums of what witnesses compare.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Window {
    /// SYNs.
    pub syns: f32,
    /// Completed handshakes.
    pub handshakes: f32,
    /// Datagrams to served ports that nobody inside had answered.
    pub datagrams: f32,
    /// First answers to such datagrams.
    pub answers: f32,
    /// Packets from inside.
    pub outbound: f32,
    /// First data on proven connections.
    pub requests: f32,
    /// Those of sources that had sent others just before.
    pub repeats: f32,
    /// Of the SYNs those that filters dropped.
    pub syns_dropped: f32,
    /// The same of the datagrams.
    pub datagrams_dropped: f32,
    /// When they were last brought up to date.
    pub updated: Timestamp,
}

impl Window {
    /// Adds what was counted until `now`.
    pub fn add(&mut self, delta: &Totals, now: Timestamp) {
        self.forget(now);
        let role = |role: Role| delta.roles.get(role.index()).copied().unwrap_or(0);
        self.syns += as_f32(role(Role::Syn));
        self.handshakes += as_f32(delta.handshakes);
        self.datagrams += as_f32(role(Role::UdpOpen));
        self.answers += as_f32(delta.answers);
        self.outbound += as_f32(delta.outbound);
        self.requests += as_f32(role(Role::Request));
        self.repeats += as_f32(delta.repeats);
        let dropped = |role: Role| delta.dropped.get(role.index()).copied().unwrap_or(0);
        self.syns_dropped += as_f32(dropped(Role::Syn));
        self.datagrams_dropped += as_f32(dropped(Role::UdpOpen));
    }

    /// Adds what was counted evenly during the `span` before `until`.
    pub fn absorb(&mut self, delta: &Totals, span: Duration, until: Timestamp) {
        self.forget(until.before(span));
        // What came first is forgotten most: the same as adding at the middle, nearly.
        let mut spread = Self { updated: self.updated, ..Self::default() };
        spread.add(delta, self.updated + span / 2);
        spread.forget(until);
        self.forget(until);
        self.sums().into_iter().zip(spread.sums()).for_each(|(sum, more)| *sum += *more);
    }

    /// Forgets as time passes.
    pub fn forget(&mut self, now: Timestamp) {
        let elapsed: Duration = now.since(self.updated);
        self.updated = now;
        if elapsed.is_zero() {
            return;
        }
        let keep = (-elapsed.as_secs_f32() / TIME_CONSTANT_S).exp();
        self.sums().into_iter().for_each(|sum| *sum *= keep);
    }

    fn sums(&mut self) -> [&mut f32; 9] {
        [
            &mut self.syns,
            &mut self.handshakes,
            &mut self.datagrams,
            &mut self.answers,
            &mut self.outbound,
            &mut self.requests,
            &mut self.repeats,
            &mut self.syns_dropped,
            &mut self.datagrams_dropped,
        ]
    }

    /// The same of what filters let pass.
    #[must_use]
    pub fn passed(&self) -> Self {
        Self {
            syns: (self.syns - self.syns_dropped).max(0.0),
            datagrams: (self.datagrams - self.datagrams_dropped).max(0.0),
            ..*self
        }
    }

    /// SYNs without a handshake.
    pub fn half_open(&self) -> f32 {
        (self.syns - self.handshakes).max(0.0)
    }

    /// Datagrams without an answer, where `ratio` answers per datagram are usual.
    pub fn unanswered(&self, ratio: f32) -> f32 {
        (self.datagrams - self.answers / ratio.max(0.05)).max(0.0)
    }
}

/// Counts of a tick are far below 2^24, where an f32 is exact; larger ones only round.
#[expect(clippy::cast_precision_loss, reason = "rounding of huge counts does not change a decision")]
pub fn as_f32(count: u32) -> f32 {
    count as f32
}
