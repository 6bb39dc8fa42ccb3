//! What a change of state leads to: measures put in force, made to wait, and ended.

use levee_api::filter::{Action, HeaderBox, Per, Rule};
use levee_api::role::Role;
use levee_api::time::Timestamp;

use crate::detect::detector::Detector;
use crate::detect::detector::task::LIMIT_AFTER;
use crate::detect::event::{Phase, What};
use crate::detect::measures::Measure;
use crate::detect::node::NodeId;
use crate::detect::sources;
use crate::detect::track::Change;
use crate::detect::witness::Witness;
use crate::reflex::{self, Answer};

impl Detector {
    #[expect(clippy::too_many_arguments, reason = "what there is to tell about a change of state")]
    pub(super) fn on_change(
        &mut self,
        id: NodeId,
        role: Role,
        change: Change,
        rate_pps: f32,
        threshold_pps: f32,
        witness: Option<Witness>,
        now: Timestamp,
    ) {
        let (Some(target), Some(node)) = (self.target(id), self.nodes.get(id)) else { return };
        let (zone, prefix) = (node.zone, node.prefix);
        let zone_name = target.zone.clone();
        let Change { from, to } = change;
        let evidence = witness.map(|witness| witness.to_string());
        self.tell(What::Phase { target, role, from, to, rate_pps, threshold_pps, witness: evidence }, now);
        match to {
            Phase::Attack => {
                if matches!(witness, Some(Witness::OneShot(_))) {
                    self.measures.block_at_once(zone, role, prefix);
                }
                let mut answered = self.measures.enforce_remembered(zone, role, &zone_name, prefix, now);
                answered |= self.answer_coarsely(id, role, threshold_pps, witness, now);
                if let Some(track) = self.nodes.get_mut(id).and_then(|node| node.track_mut(role)) {
                    track.mitigated_at = answered.then_some(now);
                    track.last_extraction = Timestamp::ZERO;
                    track.is_idle_flood = matches!(witness, Some(Witness::Idle(_)));
                }
                self.classify(id, role, now);
            }
            Phase::Hold => self.measures.hold(zone, role, prefix),
            Phase::Normal if from == Phase::Hold => {
                let last = !self.hot.iter().filter_map(|hot| self.nodes.get(*hot)).any(|node| {
                    node.zone == zone
                        && node.prefix != prefix
                        && matches!(node.phase(role), Phase::Attack | Phase::Hold)
                });
                self.measures.retire(zone, role, prefix, last);
            }
            // Nothing was enforced, but perhaps counted.
            Phase::Normal => self.measures.replace(zone, role, prefix),
            Phase::Watch => {}
        }
    }

    /// Answers everything of a role at a target, if policy allows that; true when it does.
    pub(super) fn answer_coarsely(
        &mut self,
        id: NodeId,
        role: Role,
        threshold_pps: f32,
        witness: Option<Witness>,
        now: Timestamp,
    ) -> bool {
        let Some(node) = self.nodes.get(id) else { return false };
        let (Some(zone), Some(state)) = (self.plan.zone(node.zone), self.zones.get(usize::from(node.zone))) else {
            return false;
        };
        let answer = match witness {
            // Who completes handshakes has an answer to every challenge.
            Some(Witness::Idle(_)) => Answer::BlockIdle,
            _ => reflex::answer(role, zone, &node.peace, &state.peace),
        };
        let (action, rule) = match answer {
            Answer::BlockIdle => (Action::BlockSource { after: reflex::IDLE_CONNECTIONS }, Rule::of(HeaderBox::any())),
            Answer::DropRole => (Action::Drop, Rule::of(HeaderBox::any())),
            Answer::Challenge(what) => (Action::Challenge { above_pps: 0 }, Rule::of(what)),
            Answer::LimitSources(but) => {
                let pps = whole_pps(sources::limit_pps(node.usual.heaviest));
                let rule = Rule { except: vec![but], ..Rule::of(HeaderBox::any()) };
                (Action::Limit { pps, per: Per::Source }, rule)
            }
            Answer::Signature | Answer::None => return false,
        };
        if self.measures.does_to_all_on(action, node.zone, role, &node.prefix) {
            return true;
        }
        if answer == Answer::BlockIdle {
            // Challenges would decide first, and change nothing.
            self.measures.replace_coarse(node.zone, role, node.prefix);
        }
        let evidence = witness.map(|witness| witness.to_string()).unwrap_or_default();
        let measure = Measure::new(node.zone, role, rule, action, evidence, now);
        let measure = if answer == Answer::BlockIdle { measure.with(Role::Request) } else { measure };
        let most = whole_pps(threshold_pps);
        let measure = match reflex::zone_limit(role, action, &state.peace, state.largest(role)).map(whole_pps) {
            Some(pps) => measure.coarse(pps.min(most)).remembered(),
            None => measure.coarse(most),
        };
        self.measures.install(measure, &zone.name, node.prefix, now)
    }

    /// Limits to its threshold what has no service behind it and has found no signature in time, or is more than that still
    /// behind its signatures.
    pub(super) fn limit_the_rest(&mut self, now: Timestamp) {
        for id in self.hot.clone() {
            for role in [Role::IcmpOther, Role::LaterFragment] {
                let Some(node) = self.nodes.get(id) else { continue };
                let Some(track) = node.track(role) else { continue };
                let threshold = self.threshold_of(node, role);
                let gets_through = track.residual > threshold && track.residual_smooth > threshold;
                let (zone, prefix) = (node.zone, node.prefix);
                if track.phase != Phase::Attack
                    || now.since(track.since) < LIMIT_AFTER
                    || !gets_through
                    || self.measures.limits_all_on(zone, role, &prefix)
                {
                    continue;
                }
                let Some(zone_name) = self.plan.zone(zone).map(|zone| zone.name.clone()) else { continue };
                let pps = whole_pps(threshold);
                let witness =
                    format!("{role}: no service behind it, and no signature stops {:.0}/s", track.residual_smooth);
                let all = Rule::of(HeaderBox::any());
                let measure =
                    Measure::new(zone, role, all, Action::Limit { pps, per: Per::Target }, witness, now).coarse(pps);
                if self.measures.install(measure, &zone_name, prefix, now)
                    && let Some(track) = self.nodes.get_mut(id).and_then(|node| node.track_mut(role))
                {
                    track.mitigated_at.get_or_insert(now);
                }
            }
        }
    }

    pub(super) fn merge(&mut self, host: NodeId, role: Role, now: Timestamp) {
        let mut above = self.nodes.get(host).and_then(|node| node.parent);
        while let Some(id) = above {
            let Some(node) = self.nodes.get(id) else { return };
            if node.phase(role) == Phase::Attack {
                break;
            }
            above = node.parent;
        }
        let (Some(node), Some(id)) = (self.nodes.get(host), above) else { return };
        self.measures.replace(node.zone, role, node.prefix);
        if let (Some(host), Some(into)) = (self.target(host), self.target(id)) {
            self.tell(What::Merged { host, into, role }, now);
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the cast saturates; rates are not negative"
)]
pub(super) fn whole_pps(rate: f32) -> u32 {
    rate.ceil() as u32
}
