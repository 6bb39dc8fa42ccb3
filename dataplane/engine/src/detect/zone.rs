//! What is known of a zone as a whole: what peace looks like, what clients do, samples.

use std::collections::VecDeque;
use std::time::Duration;

use levee_api::role::{Role, RoleSet};
use levee_api::time::Timestamp;

use crate::detect::growth;
use crate::detect::habits::Habits;
use crate::detect::late::Late;
use crate::detect::node::{Load, Peace};
use crate::detect::reservoir::Reservoir;
use crate::detect::returns::Returns;
use crate::detect::sources::Sources;
use crate::detect::threshold::{Calendar, floor};
use crate::detect::track::{is_own_witness, relies_on_memory};
use crate::detect::visibility::{Sight, Tick};
use crate::detect::window::as_f32;
use crate::sample::Sample;
use crate::target::counters::{COUNTED_ROLES, Totals};

/// Samples kept per role for the next extraction.
const RECENT: usize = 4096;
/// For so long after the return direction was first seen, memory is too young: most of what is quiet has said something by then.
const YOUNG: Duration = Duration::from_secs(30);
/// One in so many would be hit; fewer say nothing about a share that small, but that it is next to none if none was.
const ENOUGH_EXPLAINED: u32 = 1_000;
const NONE_OF: u32 = 300;
/// Shares are of about so many.
const EXPLAINED_OF: u32 = 1 << 16;
/// How long what is new is learned as it comes.
const ANEW: Duration = Duration::from_secs(60);

/// State of a zone.
#[derive(Debug, Default)]
pub struct ZoneState {
    /// How long it has been watched, over restarts.
    pub observed: Duration,
    /// What passed in peace.
    pub peace: Peace,
    /// What tells whether the return direction passes here.
    pub sight: Sight,
    /// What arrived in the current tick.
    pub delta: Totals,
    /// The part of it that arrived at hosts where out-of-state packets are no peace.
    pub apart: Totals,
    /// How many targets those are, and whether prefixes are among them.
    pub out_of_peace: (u32, bool),
    /// More than before.
    pub is_disturbed: bool,
    /// What legitimate traffic looks like, per role.
    pub reservoirs: [Reservoir; COUNTED_ROLES],
    /// What conversations explain, by the role that it would have if they were forgotten: what a memory that is incomplete, or too
    /// young, takes for an attack.
    pub explained: [Reservoir; COUNTED_ROLES],
    /// How many such samples there were, and of each role.
    explained_counts: (u32, [u32; COUNTED_ROLES]),
    /// Who comes again, of roles of which that tells something.
    pub returns: [Option<Box<Returns>>; COUNTED_ROLES],
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
    /// Until here largest rates of some roles are learned as they come.
    anew_until: Option<Timestamp>,
    /// Those roles.
    anew: RoleSet,
    /// What clients and servers do next.
    pub habits: Habits,
    late_habits: Late<Habits>,
    /// Everything since the start.
    pub total: Load,
    /// Whether the return direction passes here, as last told.
    pub sees_inside: bool,
    /// Since when.
    pub seen_since: Timestamp,
    /// It is known not to.
    pub is_one_way: bool,
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
        let (delta, apart) = (std::mem::take(&mut self.delta), std::mem::take(&mut self.apart));
        self.peace.add(&delta, calm, now);
        let busy = self.alarmed.union(self.answered);
        let (_, everywhere) = self.out_of_peace;
        let disturbed = std::mem::take(&mut self.is_disturbed);
        let attacked = self.answered;
        let tick = Tick { all: &delta, apart: (!everywhere).then_some(&apart), busy, attacked, disturbed };
        self.sight.account(&tick, elapsed, now);
        self.total.add(&delta);
        let weight = 1.0 - (-seconds).exp();
        for (rate, packets) in self.rates.iter_mut().zip(&delta.roles) {
            rate.now += (as_f32(*packets) / seconds - rate.now) * weight;
        }
        self.learn_rates(calm, late, now);
        // What inside does not answer where it cannot be heard is nobody's habit.
        if !self.is_one_way {
            self.learn_habits(&delta, busy, late, elapsed, now);
        }
    }

    /// What was learned of these roles is of another time: for a minute their rates are learned as they come, and what waits to be
    /// a sample of legitimate traffic is one if nothing is alarmed.
    pub fn begin_anew(&mut self, roles: impl Iterator<Item = Role>, now: Timestamp) {
        self.anew = roles.fold(RoleSet::NONE, |roles, role| roles.union(role.set()));
        self.anew_until = Some(now + ANEW);
    }

    fn learn_rates(&mut self, calm: bool, late: bool, now: Timestamp) {
        if self.anew_until.is_some_and(|until| now < until) {
            for (role, rate) in Role::ALL.into_iter().zip(&mut self.rates) {
                if self.anew.contains(role) && !self.alarmed.contains(role) {
                    rate.largest = rate.largest.max(rate.now);
                }
            }
        }
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

    /// Takes in which targets are out of their peace, so that the share of TCP that conversations explain is judged by the others.
    pub fn note_out_of_peace(&mut self, targets: u32, prefixes: bool) {
        self.is_disturbed |= targets > self.out_of_peace.0;
        self.out_of_peace = (targets, prefixes);
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
        if matches!(sample.role, Role::IcmpOther | Role::UdpUnserved) || !self.sees_inside {
            // What is only watched may be peace, and often is where only the way in is seen.
            let is_watched = self.alarmed.contains(sample.role) && !self.is_one_way;
            let peace = !self.answered.contains(sample.role) && !is_watched;
            if let Some(entry) = self.returns.get_mut(at) {
                if entry.is_none() {
                    *entry = Returns::of(sample.role).map(Box::new);
                }
                entry.iter_mut().for_each(|returns| returns.note(&sample, peace));
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

    /// Takes a sample that a conversation explains. Its role is what it would have without.
    pub fn explain(&mut self, sample: Sample) {
        if let Some(explained) = self.explained.get_mut(sample.role.index()) {
            explained.offer(sample);
        }
    }

    /// Counts a packet that a conversation explains, by the role that it would have without, if any.
    pub fn count_explained(&mut self, role: Option<Role>) {
        let (all, roles) = &mut self.explained_counts;
        *all += 1;
        let of = role.and_then(|role| roles.get_mut(role.index()));
        of.into_iter().for_each(|count| *count += 1);
        if *all >= EXPLAINED_OF {
            *all /= 2;
            roles.iter_mut().for_each(|count| *count /= 2);
        }
    }

    /// True when next to nothing of what conversations explain would have this role if they were all forgotten: memory may be young,
    /// or incomplete, and hardly anybody is taken for a stranger.
    pub fn hardly_explains(&self, role: Role) -> bool {
        let (all, roles) = self.explained_counts;
        let of = roles.get(role.index()).copied().unwrap_or(0);
        all >= ENOUGH_EXPLAINED && of <= all / ENOUGH_EXPLAINED || all >= NONE_OF && of == 0
    }

    /// What legitimate packets of a role look like.
    pub fn legitimate(&self, role: Role) -> impl Iterator<Item = &Sample> {
        [&self.reservoirs, &self.explained]
            .into_iter()
            .filter_map(move |of| of.get(role.index()))
            .flat_map(|reservoir| reservoir.samples())
    }

    /// True when a signature of a role may drop what it selects. Where the return direction is not seen, or has not been for long,
    /// nothing that it would have explained is certain.
    pub fn may_drop(&self, role: Role, now: Timestamp) -> bool {
        let from_memory = relies_on_memory(role) && is_own_witness(role);
        match role {
            Role::Syn | Role::UdpOpen | Role::Request => self.sees_inside,
            _ if from_memory => self.sees_inside && now.since(self.seen_since) >= YOUNG,
            _ => true,
        }
    }

    /// True when the role is neither alarmed nor busier than ever in peace: all samples that have waited are legitimate.
    pub fn is_peaceful(&self, role: Role) -> bool {
        let busier = self.rates.get(role.index()).is_some_and(|rate| rate.now > rate.largest);
        !self.alarmed.contains(role) && !self.answered.contains(role) && !busier
    }
}
