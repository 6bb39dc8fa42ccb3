//! Signature extraction, which takes longer than a tick may: which target is next, and what becomes of the result.

use std::time::Duration;

use levee_api::filter::{Action, Per};
use levee_api::prefix::Prefix;
use levee_api::role::Role;
use levee_api::time::Timestamp;

use crate::detect::detector::Detector;
use crate::detect::detector::answer::{least_pps, whole_pps};
use crate::detect::detector::evidence::{glance, is_rare};
use crate::detect::event::Phase;
use crate::detect::extract::{self, Extraction, Tier};
use crate::detect::followed;
use crate::detect::measures::Measure;
use crate::detect::node::{Node, NodeId};
use crate::detect::services;
use crate::detect::track::Track;
use crate::detect::window::as_f32;
use crate::detect::witness::{Forged, Glance, Witness};
use crate::sample::Sample;
use crate::target::counters::COUNTED_ROLES;
use crate::target::plan::destination_address;

/// Samples of the attack that an extraction looks at: the newest, at most this old.
pub(super) const SAMPLE_WINDOW: Duration = Duration::from_millis(300);
/// Fewer samples than this are no basis for a signature.
const ENOUGH_SAMPLES: usize = 150;
/// More are not looked at.
pub(super) const MOST_SAMPLES: usize = 2048;
/// An extraction is repeated after this time, while the attack gets through.
const REPEAT: Duration = Duration::from_millis(50);
/// And of SYNs that are challenged.
const REPEAT_CHALLENGED: Duration = Duration::from_millis(500);
/// What is challenged behind a signature is looked at again if it is more than this part of all: less does no harm while it is asked, and may
/// be a crowd that has begun since, whose clients cannot have shown themselves.
const WORTH_A_SIGNATURE: f32 = 0.125;
/// Of what newcomers may have sent, a rule that selects less than this part of what the best one does waits for the next pass: if it
/// is the crowd beside the attack, that has proved itself by then.
const MINOR: f64 = 0.25;
/// And where it is challenged meanwhile, so that waiting lets nothing through.
const MINOR_CHALLENGED: f64 = 0.5;
/// A limit is considered when no rule that drops was found for this long.
pub(super) const LIMIT_AFTER: Duration = Duration::from_millis(250);

/// Matches within ten seconds that block a source.
const BLOCK_AFTER: u8 = 3;

/// Targets whose samples are looked through for one task.
const MOST_CANDIDATES: usize = 32;

/// Work that takes longer than a tick may: [`Task::run`] it anywhere.
pub struct Task {
    key: TaskKey,
    job: extract::Job,
}

/// What came of a task.
pub struct Outcome {
    key: TaskKey,
    job: extract::Job,
    extraction: Extraction,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TaskKey {
    node: NodeId,
    prefix: Prefix,
    zone: u16,
    role: Role,
}

impl Task {
    /// Does the work.
    pub fn run(self) -> Outcome {
        let extraction = extract::extract(&self.job);
        Outcome { key: self.key, job: self.job, extraction }
    }
}

impl Detector {
    /// The most urgent task, if there is one and none is under way.
    pub fn next_task(&mut self, now: Timestamp) -> Option<Task> {
        if self.task.is_some() {
            return None;
        }
        let mut due: Vec<(f32, NodeId, Role)> = Vec::new();
        for id in &self.hot {
            let Some(node) = self.nodes.get(*id) else { continue };
            for role in Role::ALL.into_iter().take(COUNTED_ROLES) {
                let Some(track) = node.track(role) else { continue };
                if self.is_due(node, role, track, now) {
                    due.push((track.residual, *id, role));
                }
            }
        }
        // Those with the largest excess have the most samples: if they have too few, so has everybody.
        if due.len() > MOST_CANDIDATES {
            due.select_nth_unstable_by(MOST_CANDIDATES, most_urgent);
            due.truncate(MOST_CANDIDATES);
        }
        due.sort_unstable_by(most_urgent);
        due.into_iter().find_map(|(_, id, role)| self.task_for(id, role, now))
    }

    fn is_due(&self, node: &Node, role: Role, track: &Track, now: Timestamp) -> bool {
        let is_sought = match (track.phase, role) {
            (Phase::Attack, _) => true,
            // What only counts who matches it may be looked for before there is a witness.
            (Phase::Watch, Role::Request) => true,
            (Phase::Watch, _) => self.may_be_unnatural(node, role, track, now),
            _ => false,
        };
        is_sought
            && role != Role::Malformed
            && now.since(track.last_extraction) >= self.repeat_after(node, role)
            && (track.mitigated_at.is_none() && track.is_new(role) || self.gets_through(node, role, track, now))
            && !self.measures.drops_all_on(node.zone, role, &node.prefix)
    }

    /// When an extraction is repeated. Where SYNs are challenged nothing is urgent, and it takes a while until the handshakes of the
    /// crowd beside the attack tell it apart.
    fn repeat_after(&self, node: &Node, role: Role) -> Duration {
        if self.is_asked_behind_signature(node, role) { REPEAT_CHALLENGED } else { REPEAT }
    }

    /// True for SYNs that are challenged if no signature drops them.
    fn is_asked_behind_signature(&self, node: &Node, role: Role) -> bool {
        let is_asked = || self.measures.challenged_since(node.zone, role, &node.prefix).is_some();
        let is_found = || self.measures.signatures(node.zone, role, node.prefix).next().is_some();
        role == Role::Syn && is_asked() && is_found()
    }

    /// Without a witness a signature may be one, if it holds only what nobody's programs send: of echo requests, and of SYNs where
    /// nobody can know whether they are answered and clients have had time to show themselves.
    fn may_be_unnatural(&self, node: &Node, role: Role, track: &Track, now: Timestamp) -> bool {
        let sees_inside = self.zones.get(usize::from(node.zone)).is_some_and(|zone| zone.sees_inside);
        role == Role::IcmpOther || role == Role::Syn && !sees_inside && now.since(track.since) >= LIMIT_AFTER
    }

    /// What is left of an attack behind its filters is still one: of the roles of newcomers it may be the crowd beside it.
    fn gets_through(&self, node: &Node, role: Role, track: &Track, now: Timestamp) -> bool {
        let few = if self.is_asked_behind_signature(node, role) { WORTH_A_SIGNATURE * track.rate_smooth } else { 0.0 };
        track.residual_smooth > few.max(self.threshold_of(node, role) / 2.0)
            && !self.is_stale(node, role, now)
            && (role == Role::IcmpOther || self.witness(node, role, true, now).is_some())
    }

    /// Where one direction is seen, who began a moment ago is the evidence: as long as that was before the newest signature it says
    /// nothing about what passes behind it.
    fn is_stale(&self, node: &Node, role: Role, now: Timestamp) -> bool {
        let sees_inside = self.zones.get(usize::from(node.zone)).is_some_and(|zone| zone.sees_inside);
        let newest = || self.measures.signatures(node.zone, role, node.prefix).map(|measure| measure.since).max();
        !sees_inside && newest().is_some_and(|since| now.since(since) < followed::MEMORY)
    }

    /// What clients of the services of a target did lately.
    pub(super) fn services_at(&self, node: &Node, now: Timestamp) -> Vec<services::Counts> {
        self.services.lately(node.zone, |target| node.prefix.contains(target), now)
    }

    /// What clients of the services of a target did lately, where that may be a witness.
    pub(super) fn services_of(&mut self, id: NodeId, now: Timestamp) -> Vec<services::Counts> {
        let watched = self.nodes.get(id).filter(|node| node.phase(Role::UdpOpen) == Phase::Watch);
        let found = watched.filter(|_| self.scans_left > 0).map(|node| self.services_at(node, now));
        self.scans_left -= usize::from(found.is_some());
        found.unwrap_or_default()
    }

    /// Part of the answered clients that went on, by what is usual at each service; none: nobody knows.
    fn went_on_at(&self, node: &Node, now: Timestamp) -> Option<f32> {
        let habits = self.zones.get(usize::from(node.zone))?.habits;
        let (mut all, mut went_on) = (0.0, 0.0);
        for services::Counts { answers, continued, usual, .. } in self.services_at(node, now) {
            all += answers;
            let of_all = |usual: f32| continued / usual.max(0.05);
            went_on += usual.or(habits.continued_share()).map_or(answers, |usual| of_all(usual).min(answers));
        }
        (all > 0.0).then(|| went_on / all)
    }

    fn task_for(&mut self, id: NodeId, role: Role, now: Timestamp) -> Option<Task> {
        let mut attack = self.attack_samples(id, role, now, true);
        let node = self.nodes.get(id)?;
        // While everybody is challenged there is time, and of what came before much may be a crowd whose handshakes are under way.
        if let Some(since) = self.measures.challenged_since(node.zone, role, &node.prefix) {
            attack.retain(|sample| sample.at >= since);
        }
        if attack.len() < ENOUGH_SAMPLES {
            return None;
        }
        let state = self.zones.get(usize::from(node.zone))?;
        let track = node.track(role)?;
        let threshold = self.threshold_of(node, role);
        let rate = track.residual_smooth.max(track.residual).max(1.0);
        let usual = track.baseline.rates.quantile(0.5) / rate;
        let witness = self.witness(node, role, true, now);
        // Where senders that never come again are the flood, who has come again is none of it.
        if let (Some(Witness::Alone(_)), Some(Some(returns))) = (witness, state.returns.get(role.index())) {
            attack.retain(|sample| !returns.proves(sample.conversation));
            if attack.len() < ENOUGH_SAMPLES {
                return None;
            }
        }
        let rho = match role {
            // Where one direction is seen, who goes on is no part of the attack.
            _ if !state.sees_inside => match witness {
                Some(Witness::Alone(missing)) => missing.share / missing.usual.max(0.05),
                Some(Witness::Unfollowed { began, segments }) => segments / began.max(1.0),
                _ => 0.0,
            },
            Role::Syn => {
                let passed = node.window.passed();
                passed.handshakes / passed.syns.max(1.0)
            }
            Role::UdpOpen => {
                let ratio = state.habits.answer_ratio().unwrap_or(1.0).max(0.05);
                let answered = node.window.answers / ratio / node.window.datagrams.max(1.0);
                // Of what servers answer whoever asks, those who go on tell.
                let proven = self.went_on_at(node, now).map_or(answered, |went_on| answered.min(went_on));
                let Glance { forged, .. } = glance(state, role, &node.prefix, true, now);
                match forged {
                    Forged { of: 0, .. } => proven,
                    Forged { count, of, .. } => proven.min(as_f32(of - count) / as_f32(of)),
                }
            }
            _ => usual,
        };
        let key = TaskKey { node: id, prefix: node.prefix, zone: node.zone, role };
        let job = extract::Job {
            role,
            attack,
            legitimate: state.legitimate(role).copied().collect(),
            only_unnatural: witness.is_none() && matches!(role, Role::IcmpOther | Role::Syn),
            rho: f64::from(rho).clamp(0.0, 1.0),
            excess: f64::from((rate - threshold) / rate).clamp(0.0, 1.0),
            installed: self
                .measures
                .signatures(node.zone, role, node.prefix)
                .map(|measure| measure.rule.clone())
                .collect(),
            first_pass: track.mitigated_at.is_none(),
            allow_limit: track.mitigated_at.is_none() && now.since(track.since) >= LIMIT_AFTER,
            is_common: role == Role::OutOfState && !is_rare(state, &node.peace, Some(track), role),
            served: self.plan.zone(node.zone)?.services.clone(),
        };
        self.task = Some(key);
        self.nodes.get_mut(id)?.track_mut(role)?.last_extraction = now;
        Some(Task { key, job })
    }

    /// Takes back a task that was run: its signatures are installed if the attack still lasts.
    pub fn complete(&mut self, outcome: Outcome, now: Timestamp) {
        let Outcome { key, job, extraction } = outcome;
        self.task = None;
        let Some(node) = self.nodes.get(key.node).filter(|node| node.prefix == key.prefix) else { return };
        let Some(zone_name) = self.plan.zone(key.zone).map(|zone| zone.name.clone()) else { return };
        let mut phase = node.phase(key.role);
        if node.zone != key.zone {
            return;
        }
        match (phase, key.role) {
            (Phase::Attack, _) | (Phase::Watch, Role::Request) => {}
            (Phase::Watch, _) if job.only_unnatural && extraction.found.iter().any(|rule| rule.tier == Tier::Drop) => {
                self.convict(key.node, key.role, now);
                phase = Phase::Attack;
            }
            _ => return,
        }
        let Some(node) = self.nodes.get(key.node) else { return };
        let witness = self.witness(node, key.role, false, now);
        let drop = match (key.role, &witness) {
            // What a client asks for is no reason to drop it: who asks for nothing else is blocked.
            (Role::Request, Some(Witness::OneShot(_))) => Action::BlockSource { after: 1 },
            (Role::Request, _) => Action::BlockSource { after: BLOCK_AFTER },
            _ => Action::Drop,
        };
        let may_drop = self.zones.get(usize::from(key.zone)).is_some_and(|zone| zone.may_drop(key.role, now));
        let evidence = witness.map_or_else(|| "seen at the onset".to_owned(), |witness| witness.to_string());
        let usual_pps = node.track(key.role).map_or(0.0, |track| track.baseline.largest);
        let largest = extraction.found.iter().map(|found| found.attack_share).fold(0.0, f64::max);
        let is_asked = self.measures.challenged_since(key.zone, key.role, &key.prefix).is_some();
        let minor = if is_asked { MINOR_CHALLENGED } else { MINOR };
        let may_wait = job.installed.is_empty() && matches!(key.role, Role::Syn | Role::UdpOpen);
        for found in extraction.found {
            if may_wait && found.attack_share < minor * largest {
                continue;
            }
            let action = match found.tier {
                Tier::Drop if drop == Action::Drop && !may_drop => {
                    // To what clients usually send that match.
                    let matching = usual_pps * as_part(found.risk);
                    Action::Limit { pps: least_pps(matching), per: Per::Target }
                }
                Tier::Drop => drop,
                Tier::Limit => Action::Limit { pps: whole_pps(usual_pps.max(10.0)), per: Per::Target },
            };
            let witness = format!(
                "{evidence}; matches {:.1} % of {} attack samples, at most {:.2} % of {} legitimate ones",
                found.attack_share * 100.0,
                job.attack.len(),
                found.collateral * 100.0,
                job.legitimate.len()
            );
            let measure = Measure::new(key.zone, key.role, found.rule, action, witness, now);
            if phase == Phase::Watch {
                if found.tier == Tier::Drop {
                    self.measures.observe(measure, &zone_name, key.prefix, now);
                }
                continue;
            }
            let enforced = self.measures.install(measure, &zone_name, key.prefix, now);
            if enforced && let Some(track) = self.nodes.get_mut(key.node).and_then(|node| node.track_mut(key.role)) {
                track.mitigated_at.get_or_insert(now);
            }
        }
        self.tell_changes(now);
    }

    /// What a signature was found for without a witness is an attack.
    fn convict(&mut self, id: NodeId, role: Role, now: Timestamp) {
        let Some(node) = self.nodes.get(id) else { return };
        let threshold = self.threshold_of(node, role);
        let Some(track) = self.nodes.get_mut(id).and_then(|node| node.track_mut(role)) else { return };
        let rate = track.rate_smooth.max(track.rate);
        if let Some(change) = track.convict(now) {
            self.on_change(id, role, change, rate, threshold, Some(Witness::Unnatural), now);
            self.mark(id);
        }
    }

    /// The newest samples of a role at a target. `passed`: only what filters let through.
    pub(super) fn attack_samples(&self, id: NodeId, role: Role, now: Timestamp, passed: bool) -> Vec<Sample> {
        let Some(node) = self.nodes.get(id) else { return Vec::new() };
        let recent = self.zones.get(usize::from(node.zone)).and_then(|zone| zone.recent.get(role.index()));
        let mut samples: Vec<Sample> = recent
            .into_iter()
            .flat_map(|recent| recent.iter().rev())
            .take_while(|sample| now.since(sample.at) <= SAMPLE_WINDOW)
            .filter(|sample| (sample.passed || !passed) && node.prefix.contains(destination_address(&sample.lanes)))
            .take(MOST_SAMPLES)
            .copied()
            .collect();
        samples.reverse();
        samples
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a share")]
const fn as_part(share: f64) -> f32 {
    share.clamp(0.0, 1.0) as f32
}

/// The largest excess first; targets and roles in order among equals.
fn most_urgent(a: &(f32, NodeId, Role), b: &(f32, NodeId, Role)) -> std::cmp::Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)).then(a.2.cmp(&b.2))
}
