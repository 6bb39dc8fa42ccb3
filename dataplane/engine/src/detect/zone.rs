//! What is known of a zone as a whole: whether the return direction passes here, what peace looks like, samples.

use std::collections::VecDeque;
use std::time::Duration;

use levee_api::role::{Role, RoleSet};
use levee_api::time::Timestamp;
use levee_api::zone::{Visibility, Zone};

use crate::detect::growth;
use crate::detect::habits::Habits;
use crate::detect::late::Late;
use crate::detect::node::{Load, Peace};
use crate::detect::reservoir::Reservoir;
use crate::detect::sources::Sources;
use crate::detect::threshold::{Calendar, floor};
use crate::detect::window::as_f32;
use crate::sample::Sample;
use crate::target::counters::{COUNTED_ROLES, Totals};

/// Samples kept per role for the next extraction.
const RECENT: usize = 4096;
/// Fewer conversations than this say nothing about visibility.
const ENOUGH_CONVERSATIONS: f32 = 200.0;
/// The return direction passes here when this share of TCP is explained by it.
const SEES_INSIDE: f32 = 0.9;
/// It does where this share of datagrams is answered: a service may leave many unanswered, or refuse them, but one whose answers
/// go another way is never seen to answer.
const ANSWERS_SEEN: f32 = 0.1;

/// State of a zone.
#[derive(Debug, Default)]
pub struct ZoneState {
    /// How long it has been watched, over restarts.
    pub observed: Duration,
    /// What passed in peace.
    pub peace: Peace,
    /// What passed while out-of-state packets were in peace, whatever else was under attack: visibility is judged by it, so
    /// that it is also learned when we start in the middle of an attack.
    conversations: Peace,
    /// What arrived in the current tick.
    pub delta: Totals,
    /// What legitimate traffic looks like, per role.
    pub reservoirs: [Reservoir; COUNTED_ROLES],
    /// The newest samples, per role; of what is inside conversations only while that is alarmed.
    pub recent: [VecDeque<Sample>; Role::COUNT],
    /// Who sends how much inside conversations.
    pub sources: Sources,
    /// Roles out of their normal state somewhere in the zone, but for HOLD.
    pub alarmed: RoleSet,
    /// Roles in ATTACK or HOLD somewhere in the zone.
    pub answered: RoleSet,
    /// Rates of the zone over the last second and the largest in peace, per role, packets per second.
    pub rates: [RoleRate; COUNTED_ROLES],
    late_rates: Late<[f32; COUNTED_ROLES]>,
    /// What clients and servers do next.
    pub habits: Habits,
    late_habits: Late<Habits>,
    /// Everything since the start.
    pub total: Load,
    /// Whether the return direction passes here, as last told.
    pub sees_inside: bool,
}

/// Rate of a role in a zone.
#[derive(Clone, Copy, Debug, Default)]
pub struct RoleRate {
    /// Smoothed over about a second.
    pub now: f32,
    /// The largest in peace.
    pub largest: f32,
}

impl ZoneState {
    /// Takes in a tick.
    pub fn account(&mut self, elapsed: Duration, calendar: &Calendar, now: Timestamp) {
        let late = calendar.is_late(self.observed);
        let seconds = elapsed.as_secs_f32().max(0.001);
        self.observed += elapsed;
        let calm = self.alarmed.without(Role::Request).without(Role::Established).is_empty();
        let delta = std::mem::take(&mut self.delta);
        self.peace.add(&delta, calm, now);
        let busy = self.alarmed.union(self.answered);
        self.conversations.add(&delta, !busy.contains(Role::OutOfState), now);
        self.total.add(&delta);
        let weight = 1.0 - (-seconds).exp();
        for (rate, packets) in self.rates.iter_mut().zip(&delta.roles) {
            rate.now += (as_f32(*packets) / seconds - rate.now) * weight;
        }
        self.learn_rates(calm, late, now);
        self.learn_habits(&delta, busy, late, elapsed, now);
    }

    fn learn_rates(&mut self, calm: bool, late: bool, now: Timestamp) {
        if !calm {
            return self.late_rates.forget();
        }
        if !late {
            self.rates.iter_mut().for_each(|rate| rate.largest = rate.largest.max(rate.now));
            return;
        }
        for (most, rate) in self.late_rates.newest().iter_mut().zip(&self.rates) {
            *most = most.max(rate.now);
        }
        let Some((seen, elapsed)) = self.late_rates.take(now) else { return };
        for (role, (rate, seen)) in Role::ALL.into_iter().zip(self.rates.iter_mut().zip(seen)) {
            rate.largest = growth::most(rate.largest, seen, as_f32(floor(role)), self.observed, elapsed);
        }
    }

    fn learn_habits(&mut self, delta: &Totals, busy: RoleSet, late: bool, elapsed: Duration, now: Timestamp) {
        if !late {
            return self.habits.learn(delta, busy, elapsed);
        }
        if Habits::ROLES.into_iter().any(|role| busy.contains(role)) {
            return self.late_habits.forget();
        }
        self.late_habits.newest().learn(delta, busy, Duration::ZERO);
        if let Some((ready, elapsed)) = self.late_habits.take(now) {
            self.habits.add(&ready, elapsed);
        }
    }

    /// Whether the return direction passes here: told by the operator, or by the share of TCP that it explains; where there is
    /// next to no TCP, by whether datagrams are answered at all.
    pub fn judge_visibility(&self, zone: &Zone) -> bool {
        match zone.visibility {
            Visibility::Both => true,
            Visibility::Inbound => false,
            Visibility::Auto => {
                let explained = self.conversations.packets - self.conversations.roles.iter().sum::<f32>();
                let unexplained = self.conversations.role(Role::OutOfState);
                let total = explained + unexplained;
                if total >= ENOUGH_CONVERSATIONS {
                    explained >= SEES_INSIDE * total
                } else if self.habits.datagrams >= ENOUGH_CONVERSATIONS {
                    self.habits.answers >= ANSWERS_SEEN * self.habits.datagrams
                } else {
                    self.sees_inside
                }
            }
        }
    }

    /// The largest rate of a role in peace, packets per second.
    pub fn largest(&self, role: Role) -> f32 {
        self.rates.get(role.index()).map_or(f32::MAX, |rate| rate.largest)
    }

    /// Takes a sample.
    pub fn sample(&mut self, sample: Sample) {
        let at = sample.role.index();
        if sample.role == Role::Established {
            self.sources.note(&sample);
            if !self.alarmed.contains(sample.role) {
                return;
            }
        }
        if let Some(recent) = self.recent.get_mut(at) {
            if recent.len() >= RECENT {
                recent.pop_front();
            }
            recent.push_back(sample);
        }
        if let Some(reservoir) = self.reservoirs.get_mut(at) {
            reservoir.offer(sample);
        }
    }

    /// True when the role is under attack somewhere in the zone, or may be.
    pub fn is_busy(&self, role: Role) -> bool {
        self.alarmed.union(self.answered).contains(role)
    }

    /// True when the role is neither alarmed nor busier than ever in peace: all samples that have waited are legitimate.
    pub fn is_peaceful(&self, role: Role) -> bool {
        let busier = self.rates.get(role.index()).is_some_and(|rate| rate.now > rate.largest);
        !self.alarmed.contains(role) && !self.answered.contains(role) && !busier
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use levee_api::zone::{Challenge, Mode};

    const CALENDAR: Calendar = Calendar { hour: 0, weight: 1.0, seen_since: Timestamp::ZERO, is_training: false };

    fn zone(visibility: Visibility) -> Zone {
        Zone {
            name: "web".to_owned(),
            prefixes: Vec::new(),
            mode: Mode::Enforce,
            services: Vec::new(),
            services_complete: false,
            visibility,
            challenge: Challenge::default(),
            challenge_dns: false,
            link_capacity_bps: None,
            floors: Vec::new(),
            runbook: None,
        }
    }

    #[test]
    fn visibility_is_learned_during_a_flood_that_does_not_speak_against_it() {
        let mut state = ZoneState { alarmed: Role::Syn.set(), ..ZoneState::default() };
        for tick in 1..1_000 {
            state.delta.packets = 110;
            state.delta.roles[Role::Syn.index()] = 100;
            state.account(Duration::from_millis(10), &CALENDAR, Timestamp(tick * 10_000_000));
        }
        assert!(state.judge_visibility(&zone(Visibility::Auto)));
    }

    #[test]
    fn where_there_is_no_tcp_answers_to_datagrams_tell_visibility() {
        let zone = zone(Visibility::Auto);
        let habits = |answers| Habits { datagrams: 300.0, answers, ..Habits::default() };
        let state = |answers| ZoneState { habits: habits(answers), ..ZoneState::default() };
        assert!(state(60.0).judge_visibility(&zone), "a name server refuses much of what it is asked");
        assert!(!state(0.0).judge_visibility(&zone));
        let vanished = ZoneState { sees_inside: true, ..state(3.0) };
        assert!(!vanished.judge_visibility(&zone), "the answers go another way by now");
    }

    fn after(packets: u32, out_of_state: u32) -> ZoneState {
        let mut state = ZoneState::default();
        let mut now = Timestamp::ZERO;
        for _ in 0..1_000 {
            now = now + Duration::from_millis(10);
            state.delta.packets = packets;
            state.delta.roles[Role::OutOfState.index()] = out_of_state;
            state.account(Duration::from_millis(10), &CALENDAR, now);
        }
        state
    }

    #[test]
    fn visibility_is_learned_from_what_the_return_direction_explains() {
        assert!(after(10, 0).judge_visibility(&zone(Visibility::Auto)));
        assert!(!after(10, 9).judge_visibility(&zone(Visibility::Auto)));
        assert!(!ZoneState::default().judge_visibility(&zone(Visibility::Auto)), "unknown is no");
        assert!(!after(10, 0).judge_visibility(&zone(Visibility::Inbound)));
        assert!(after(10, 9).judge_visibility(&zone(Visibility::Both)));
    }
}
