//! Challenges end where signatures do without them, and begin again where these do not suffice: a crowd beside an attack is not
//! asked for longer than it takes to tell it apart.

use std::time::Duration;

use levee_api::role::Role;
use levee_api::time::Timestamp;

use crate::detect::detector::Detector;
use crate::detect::event::Phase;

/// A challenge lasts at least this long: so long signatures have to prove themselves before they are relied on. Each time that it proves to have
/// ended too early it lasts twice as long.
const LEAST: Duration = Duration::from_secs(3);
const MOST_DOUBLED: u32 = 6;

impl Detector {
    /// Of what signatures let pass, challenged or not, is so much half open that it is an attack still?
    pub(super) fn settle_challenges(&mut self, now: Timestamp) {
        let role = Role::Syn;
        for id in self.hot.clone() {
            let Some(node) = self.nodes.get(id) else { continue };
            let Some(track) = node.track(role).filter(|track| track.phase == Phase::Attack) else { continue };
            let left = self.witness(node, role, &node.window.passed(), now);
            let (zone, prefix) = (node.zone, node.prefix);
            let threshold = self.threshold_of(node, role);
            let least = LEAST * (1 << track.challenged_again.min(MOST_DOUBLED));
            match (self.measures.challenged_since(zone, role, &prefix), left) {
                (Some(since), None) if now.since(since.max(track.since)) >= least => {
                    self.measures.replace_coarse(zone, role, prefix);
                }
                (None, Some(witness)) if track.residual_smooth > threshold => {
                    self.answer_coarsely(id, role, threshold, witness.to_string(), now);
                    let track = self.nodes.get_mut(id).and_then(|node| node.track_mut(role));
                    track.into_iter().for_each(|track| track.challenged_again += 1);
                }
                _ => {}
            }
        }
    }
}
