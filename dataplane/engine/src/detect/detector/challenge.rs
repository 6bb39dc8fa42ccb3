//! Challenges rest where signatures do without them, and begin again where these do not suffice: a crowd beside an attack is not
//! asked for longer than it takes to tell it apart. One that rests asks what is above the usual, in the worker, so that an attack that
//! changes its shape does not get through until that has been noticed.

use std::time::Duration;

use levee_api::role::Role;
use levee_api::time::Timestamp;

use crate::detect::detector::Detector;
use crate::detect::detector::answer::whole_pps;
use crate::detect::event::Phase;
use crate::detect::witness::Witness;

/// A challenge lasts at least this long: so long signatures have to prove themselves before they are relied on. Each time that it proves to have
/// ended too early it lasts twice as long.
const LEAST: Duration = Duration::from_millis(700);
const MOST_DOUBLED: u32 = 6;
/// What signatures let pass is clean for at least this long before.
const CLEAN: Duration = Duration::from_millis(300);
/// So few half-open connections say nothing, and so many for each that was completed: their handshakes are under way.
const HARMLESS: f32 = 5.0;
const UNDER_WAY: f32 = 0.25;
/// A challenge that rests lets so many times the rate pass that signatures let pass.
const ROOM: f32 = 2.0;
/// Handshakes are those of about this time.
const WINDOW_S: f32 = 0.5;

impl Detector {
    /// Looks at what signatures let pass, challenged or not: a challenge rests when no more of it stays half open than in peace, and
    /// begins when so much does that it is an attack.
    pub(super) fn settle_challenges(&mut self, now: Timestamp) {
        let role = Role::Syn;
        for id in self.hot.clone() {
            let Some(node) = self.nodes.get(id) else { continue };
            let Some(track) = node.track(role).filter(|track| track.phase == Phase::Attack) else { continue };
            let passed = node.window.passed();
            let left = self.witness(node, role, true, now);
            // At the rate at which SYNs pass now: what passed before there was a signature says nothing about it.
            let passing = (WINDOW_S * track.residual_smooth).min(passed.syns);
            let harmless = (node.usual.half_open / 2.0).max(HARMLESS).max(UNDER_WAY * passed.handshakes);
            let is_clean = passing - passed.handshakes <= harmless;
            let (zone, prefix) = (node.zone, node.prefix);
            let threshold = self.threshold_of(node, role);
            let (residual, least) = (track.residual_smooth, LEAST * (1 << track.challenged_again.min(MOST_DOUBLED)));
            let begun = track.since;
            let room = whole_pps((ROOM * residual).max(threshold));
            // What has stopped says nothing about signatures: what becomes of the challenge then is for HOLD.
            let goes_on = track.rate_smooth > threshold;
            let Some(track) = self.nodes.get_mut(id).and_then(|node| node.track_mut(role)) else { continue };
            let clean_since = *track.clean_since.get_or_insert(now);
            if !is_clean {
                track.clean_since = None;
            }
            match (self.measures.challenged_since(zone, role, &prefix), left) {
                (_, Some(witness @ Witness::Idle(_))) if residual > threshold => {
                    track.is_idle_flood = true;
                    self.answer_coarsely(id, role, threshold, Some(witness), now);
                }
                (Some(since), _)
                    if goes_on
                        && is_clean
                        && now.since(clean_since) >= CLEAN
                        && now.since(since.max(begun)) >= least =>
                {
                    self.measures.rest_challenge(zone, role, prefix, room);
                }
                (None, Some(witness)) if residual > threshold && !is_clean => {
                    track.challenged_again += 1;
                    if !self.measures.resume_challenge(zone, role, prefix, now) {
                        self.answer_coarsely(id, role, threshold, Some(witness), now);
                    }
                }
                // A crowd that grows is not asked for growing.
                (None, _)
                    if is_clean && self.measures.challenge_waits(zone, role, &prefix).is_some_and(|pps| pps < room) =>
                {
                    self.measures.rest_challenge(zone, role, prefix, room);
                }
                _ => {}
            }
        }
    }
}
