//! What follows from whether the return direction of a zone passes here.

use std::sync::Arc;

use levee_api::role::Role;
use levee_api::time::Timestamp;

use crate::detect::detector::Detector;
use crate::detect::event::{Phase, What};
use crate::detect::node::NodeId;
use crate::detect::track::{compares_directions, is_own_witness};

impl Detector {
    /// Judges all zones. Where the direction was lost, what was concluded from it ends.
    pub(super) fn judge_visibility(&mut self, now: Timestamp) {
        let plan = Arc::clone(&self.plan);
        for (index, zone) in (0_u16..).zip(plan.zones()) {
            let Some(state) = self.zones.get_mut(usize::from(index)) else { continue };
            let sees_inside = state.sight.judge(zone.visibility, state.sees_inside);
            let one_way = state.sight.is_known_one_way(zone.visibility);
            if one_way && !std::mem::replace(&mut state.is_one_way, one_way) {
                state.begin_anew(Role::ALL.into_iter().filter(|role| is_own_witness(*role)), now);
            }
            state.is_one_way = one_way;
            if sees_inside == state.sees_inside {
                continue;
            }
            state.sees_inside = sees_inside;
            state.seen_since = now;
            self.tell(What::Visibility { zone: zone.name.clone(), sees_inside }, now);
            if !sees_inside {
                self.withdraw_conclusions(index, now);
            }
        }
    }

    /// Ends the attacks of a zone that only both directions together told, with their measures: whoever has come since one of
    /// them was lost looked like one.
    fn withdraw_conclusions(&mut self, zone: u16, now: Timestamp) {
        let roles = || Role::ALL.into_iter().filter(|role| compares_directions(*role));
        let theirs = |id: &NodeId| self.nodes.get(*id).is_some_and(|node| node.zone == zone);
        let hot: Vec<NodeId> = self.hot.iter().copied().filter(theirs).collect();
        for role in roles() {
            self.measures.forget(zone, role);
        }
        for id in hot {
            for role in roles() {
                let Some(node) = self.nodes.get_mut(id) else { continue };
                let Some(track) = node.track_mut(role).filter(|t| matches!(t.phase, Phase::Attack | Phase::Hold))
                else {
                    continue;
                };
                let (from, rate_pps) = (track.phase, track.rate_smooth);
                track.dissolve(now);
                let threshold_pps = self.nodes.get(id).map_or(0.0, |node| self.threshold_of(node, role));
                if let Some(target) = self.target(id) {
                    let to = Phase::Normal;
                    self.tell(What::Phase { target, role, from, to, rate_pps, threshold_pps, witness: None }, now);
                }
            }
            self.mark(id);
        }
    }
}
