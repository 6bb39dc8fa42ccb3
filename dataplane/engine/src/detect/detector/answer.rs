//! What a change of state leads to: measures put in force, made to wait, and ended.

use levee_api::filter::{Action, HeaderBox, Per, Rule};
use levee_api::role::Role;
use levee_api::time::Timestamp;

use crate::detect::detector::Detector;
use crate::detect::detector::evidence::{glance, is_rare};
use crate::detect::detector::task::LIMIT_AFTER;
use crate::detect::event::{Phase, What};
use crate::detect::measures::Measure;
use crate::detect::node::NodeId;
use crate::detect::sources;
use crate::detect::track::Change;
use crate::detect::witness::{Witness, presumably_alone};
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
        let target = reflex::Target {
            zone,
            peace: &node.peace,
            zone_peace: &state.peace,
            is_rare: is_rare(state, &node.peace, node.track(role), role),
            sees_inside: state.sees_inside,
            is_ipv6: !node.prefix.is_ipv4(),
        };
        let usual = node.track(role).map_or(0.0, |track| track.baseline.largest);
        let limit = |pps, per| Action::Limit { pps, per };
        let answer = match witness {
            // Who completes handshakes has an answer to every challenge.
            Some(Witness::Idle(_)) => Answer::BlockIdle,
            _ => reflex::answer(role, &target, witness.as_ref()),
        };
        let (action, rule) = match answer {
            Answer::BlockIdle => (Action::BlockSource { after: reflex::IDLE_CONNECTIONS }, Rule::of(HeaderBox::any())),
            Answer::DropRole => (Action::Drop, Rule::of(HeaderBox::any())),
            Answer::DropOnly(what) => (Action::Drop, Rule::of(what)),
            Answer::LimitRole => (limit(least_pps(usual), Per::Target), Rule::of(HeaderBox::any())),
            Answer::LimitPings(pps) => (limit(pps, Per::Source), Rule::of(HeaderBox::any())),
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
        // A zone keeps in mind what was dropped whole, not a part of a role.
        let zone_limit = (answer == Answer::DropRole)
            .then(|| reflex::zone_limit(role, action, &state.peace, state.largest(role)))
            .flatten()
            .map(whole_pps);
        let most = whole_pps(threshold_pps);
        let measure = match zone_limit {
            Some(pps) => measure.coarse(pps.min(most)).remembered(),
            None => measure.coarse(most),
        };
        self.measures.install(measure, &zone.name, node.prefix, now)
    }

    /// Limits what has no service behind it and has found no signature in time, or is more than that still behind its signatures:
    /// fragments to their threshold; ICMP, if there is a witness against what gets through, to what it was in peace. So are datagrams
    /// to ports that nobody serves, of senders that are not there, as long as memory is too young to drop them for their role.
    pub(super) fn limit_the_rest(&mut self, now: Timestamp) {
        for id in self.hot.clone() {
            for role in [Role::IcmpOther, Role::LaterFragment, Role::UdpUnserved] {
                let Some(node) = self.nodes.get(id) else { continue };
                let Some(track) = node.track(role) else { continue };
                let threshold = self.threshold_of(node, role);
                let gets_through = track.residual > threshold && track.residual_smooth > threshold;
                let (zone, prefix, smooth) = (node.zone, node.prefix, track.residual_smooth);
                if track.phase != Phase::Attack
                    || now.since(track.since) < LIMIT_AFTER
                    || !gets_through
                    || self.measures.limits_all_on(zone, role, &prefix)
                {
                    continue;
                }
                let Some(state) = self.zones.get(usize::from(zone)) else { continue };
                let witness = match role {
                    Role::UdpUnserved if !self.measures.drops_all_on(zone, role, &prefix) => {
                        let returns = glance(state, role, &prefix, true, now).returns;
                        let is_harmless = state.hardly_explains(role) || is_rare(state, &node.peace, Some(track), role);
                        presumably_alone(&returns).filter(|_| is_harmless)
                    }
                    Role::IcmpOther => self.witness(node, role, true, now),
                    _ => None,
                };
                let (pps, per, why) = match (role, witness) {
                    (Role::LaterFragment, _) => (whole_pps(threshold), Per::Target, "no service behind it".to_owned()),
                    (_, Some(witness @ Witness::Alone(_))) => {
                        (least_pps(track.baseline.largest), Per::Target, witness.to_string())
                    }
                    (_, Some(Witness::NoService(_))) => {
                        (whole_pps(threshold), Per::Target, "no service behind it".to_owned())
                    }
                    (_, Some(witness @ Witness::Insistent { .. })) => (reflex::PINGS, Per::Source, witness.to_string()),
                    _ => continue,
                };
                let Some(zone_name) = self.plan.zone(zone).map(|zone| zone.name.clone()) else { continue };
                let witness = format!("{role}: {why}, and no signature stops {smooth:.0}/s");
                let all = Rule::of(HeaderBox::any());
                let measure = Measure::new(zone, role, all, Action::Limit { pps, per }, witness, now);
                if self.measures.install(measure.coarse(whole_pps(threshold)), &zone_name, prefix, now)
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

/// What is limited to what it was in peace may be this much in any case.
pub(super) const LEAST_PPS: f32 = 10.0;

/// A limit for what had this rate in peace.
pub(super) fn least_pps(usual: f32) -> u32 {
    whole_pps(usual.max(LEAST_PPS))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the cast saturates; rates are not negative"
)]
pub(super) fn whole_pps(rate: f32) -> u32 {
    rate.ceil() as u32
}
