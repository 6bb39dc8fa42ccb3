//! What is inside conversations: how much of it one source sends in peace, and whether few send most of it when there is an alarm.

use std::time::Duration;

use levee_api::prefix::Prefix;
use levee_api::role::Role;
use levee_api::time::Timestamp;

use crate::detect::detector::Detector;
use crate::detect::event::Phase;
use crate::detect::growth;
use crate::detect::node::NodeId;
use crate::detect::sources::{self, Heaviest, Overrun};
use crate::target::plan::destination_address;

/// Rates of sources are told from the newest samples of at least so much time, and at most.
const LEAST: Duration = Duration::from_millis(100);
const MOST: Duration = Duration::from_millis(300);

impl Detector {
    /// Sources that send more than usual to a target whose traffic inside conversations is an alarm; none as long as too little
    /// was seen of it.
    pub(super) fn overrun_of_watched(&mut self, id: NodeId, now: Timestamp) -> Overrun {
        let role = Role::Established;
        let found = self.nodes.get(id).and_then(|node| {
            let track = node.track(role).filter(|track| track.phase == Phase::Watch)?;
            // Before that only a part was sampled.
            let span = now.since(track.since).min(MOST);
            if span < LEAST || self.scans_left == 0 {
                return None;
            }
            let recent = self.zones.get(usize::from(node.zone))?.recent.get(role.index())?;
            let newest = recent.iter().rev().take_while(|sample| now.since(sample.at) <= span);
            let theirs = newest.filter(|sample| node.prefix.contains(destination_address(&sample.lanes)));
            Some(sources::overrun(theirs, track.residual_smooth, sources::limit_pps(node.usual.heaviest)))
        });
        self.scans_left -= usize::from(found.is_some());
        found.unwrap_or_default()
    }

    /// Learns from the samples of the last second what one source sends at most, of targets in peace.
    pub(super) fn learn_heaviest(&mut self, now: Timestamp) {
        for zone in 0..self.zones.len() {
            let Some(state) = self.zones.get_mut(zone) else { continue };
            let (observed, late) = (state.observed, self.calendar.is_late(state.observed));
            for Heaviest { target, share } in state.sources.take() {
                let Some(id) = self.nodes.find(&Prefix::host(target)) else { continue };
                let Some(host) = self.nodes.get_mut(id) else { continue };
                let (packets, since) = std::mem::replace(&mut host.established, (0.0, now));
                let rate = share * packets / now.since(since).as_secs_f32().max(1.0);
                let mut next = Some(id);
                while let Some(node) = next.and_then(|id| self.nodes.get_mut(id)) {
                    next = node.parent;
                    if node.phase(Role::Established) != Phase::Normal {
                        node.late_heaviest.forget();
                        continue;
                    }
                    if !late {
                        node.usual.heaviest = node.usual.heaviest.max(rate);
                        continue;
                    }
                    let newest = node.late_heaviest.newest();
                    *newest = newest.max(rate);
                    if let Some((seen, elapsed)) = node.late_heaviest.take(now) {
                        let usual = &mut node.usual.heaviest;
                        *usual = growth::most(*usual, seen, sources::LEAST_PPS, observed, elapsed);
                    }
                }
            }
        }
    }
}
