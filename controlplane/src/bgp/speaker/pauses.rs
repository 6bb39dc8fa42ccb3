//! When a peer is connected to again, and whether a connection of its own is taken: the longer the more often it was in vain
//! (IdleHoldTime and DampPeerOscillations of RFC 4271, section 8.1).

use std::hash::{Hash as _, Hasher as _};
use std::time::Duration;

/// First pause; doubled each time.
const FIRST: Duration = Duration::from_millis(500);
/// Longest pause.
const LONGEST: Duration = Duration::from_secs(60);
/// A session that held so long is none that has ended early.
const STEADY: Duration = Duration::from_secs(60);
/// So many of its connections may end early, one after the other, before the next ones have to wait.
const EARLY_ENDS: u32 = 5;

/// The pauses of one peer.
#[derive(Debug, Default)]
pub(super) struct Pauses {
    failures: u32,
    connect_at: Duration,
    early_ends: u32,
    quiet_until: Duration,
}

impl Pauses {
    /// It is not connected to before this.
    pub(super) const fn connect_at(&self) -> Duration {
        self.connect_at
    }

    /// Connections that it makes are taken.
    pub(super) fn takes(&self, now: Duration) -> bool {
        self.quiet_until <= now
    }

    /// A session has ended that was established for so long, or, with none, a connection of the peer that led to none.
    pub(super) fn ended(&mut self, name: &str, lasted: Option<Duration>, now: Duration) {
        if lasted.is_some_and(|lasted| lasted >= STEADY) {
            (self.failures, self.early_ends) = (0, 0);
            return;
        }
        self.early_ends = self.early_ends.saturating_add(1);
        if let Some(more) = self.early_ends.checked_sub(EARLY_ENDS + 1) {
            self.quiet_until = now + pause(name, more);
        }
    }

    /// There is no session, and no connection that could become one.
    pub(super) fn failed(&mut self, name: &str, now: Duration) {
        self.connect_at = now + pause(name, self.failures);
        self.failures = self.failures.saturating_add(1);
    }
}

/// Doubled each time, and a quarter more or less, so that many peers do not come at once.
fn pause(name: &str, failures: u32) -> Duration {
    let longest = LONGEST.min(FIRST * 2_u32.saturating_pow(failures.min(7)));
    let mut hasher = siphasher::sip::SipHasher13::new();
    (name, failures).hash(&mut hasher);
    let percent = u32::try_from(75 + hasher.finish() % 50).unwrap_or(100);
    longest * percent / 100
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn who_flaps_waits_longer_and_longer_and_who_was_steady_does_not() {
        let mut pauses = Pauses::default();
        let mut now = SECOND * 100;
        for _ in 0..EARLY_ENDS {
            pauses.ended("core", Some(SECOND * 59), now);
            assert!(pauses.takes(now), "this can happen");
        }
        let mut longest = Duration::ZERO;
        for _ in 0..20 {
            pauses.ended("core", None, now);
            assert!(!pauses.takes(now) && pauses.takes(now + LONGEST * 5 / 4));
            longest = longest.max(pauses.quiet_until - now);
            now = pauses.quiet_until;
        }
        assert!(longest > LONGEST / 2, "{longest:?}");
        pauses.ended("core", Some(STEADY), now);
        pauses.ended("core", None, now);
        assert!(pauses.takes(now), "all is forgotten");
    }

    #[test]
    fn attempts_are_further_and_further_apart() {
        let mut pauses = Pauses::default();
        let mut apart = Vec::new();
        for _ in 0..12 {
            pauses.failed("core", SECOND);
            apart.push(pauses.connect_at() - SECOND);
        }
        assert!(apart[0] < SECOND && apart[11] > SECOND * 40, "{apart:?}");
        assert!(pauses.takes(SECOND), "that we do not reach it does not keep it from reaching us");
    }
}
