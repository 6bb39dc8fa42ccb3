//! What the clients and servers of a zone usually do next, learned in peace: the measure for witnesses that miss it.

use std::time::Duration;

use levee_api::role::{Role, RoleSet};

use crate::detect::window::as_f32;
use crate::target::counters::Totals;

/// Habits are learned over about this time.
const MEMORY_S: f32 = 600.0;
/// Where less than this goes on usually, that it does not says nothing.
pub const HABIT: f32 = 0.3;
/// Fewer observations than this say nothing about a share.
const ENOUGH: f32 = 20.0;

/// Forgetting sums of what began in peace, and of what followed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Habits {
    /// Datagrams to served ports that nobody inside had answered.
    pub datagrams: f32,
    /// First answers to such datagrams.
    pub answers: f32,
    /// Clients that promptly sent another datagram after the answer.
    pub continued: f32,
    /// First data on proven connections.
    pub requests: f32,
    /// Clients that promptly sent more after the reply.
    pub seconds: f32,
    /// Requests of sources that had sent others just before.
    pub repeats: f32,
    /// Completed handshakes.
    pub handshakes: f32,
}

impl Habits {
    /// Roles whose attacks are no habit.
    pub const ROLES: [Role; 3] = [Role::UdpOpen, Role::Request, Role::Syn];

    /// Learns from a tick of a zone. `busy`: roles that are under attack, or may be.
    pub fn learn(&mut self, delta: &Totals, busy: RoleSet, elapsed: Duration) {
        let keep = (-elapsed.as_secs_f32() / MEMORY_S).exp();
        let of = |role: Role| as_f32(delta.roles.get(role.index()).copied().unwrap_or(0));
        if !busy.contains(Role::UdpOpen) {
            let sums = [&mut self.datagrams, &mut self.answers, &mut self.continued];
            let new = [of(Role::UdpOpen), as_f32(delta.answers), as_f32(delta.continued)];
            sums.into_iter().zip(new).for_each(|(sum, new)| *sum = *sum * keep + new);
        }
        if !busy.contains(Role::Request) && !busy.contains(Role::Syn) {
            let sums = [&mut self.requests, &mut self.seconds, &mut self.repeats, &mut self.handshakes];
            let new = [of(Role::Request), as_f32(delta.seconds), as_f32(delta.repeats), as_f32(delta.handshakes)];
            sums.into_iter().zip(new).for_each(|(sum, new)| *sum = *sum * keep + new);
        }
    }

    /// Takes in what others learned in a time.
    pub fn add(&mut self, others: &Self, elapsed: Duration) {
        let keep = (-elapsed.as_secs_f32() / MEMORY_S).exp();
        let mut sums = self.sums();
        sums.iter_mut().zip(others.sums()).for_each(|(sum, more)| *sum = *sum * keep + more);
        *self = Self::from_sums(sums);
    }

    /// True when an answered client that does not go on is unusual.
    pub fn do_go_on(&self) -> bool {
        self.continued_share().is_some_and(|share| share > HABIT)
    }

    /// Answers per datagram; none when too few were seen.
    pub fn answer_ratio(&self) -> Option<f32> {
        share(self.answers, self.datagrams)
    }

    /// Share of answered clients that promptly went on.
    pub fn continued_share(&self) -> Option<f32> {
        share(self.continued, self.answers)
    }

    /// Share of requests that more data followed promptly after the reply.
    pub fn second_share(&self) -> Option<f32> {
        share(self.seconds, self.requests)
    }

    /// Share of requests whose source had sent others just before.
    pub fn repeat_share(&self) -> Option<f32> {
        share(self.repeats, self.requests)
    }

    /// Requests per handshake: how many connections are used at all.
    pub fn used_share(&self) -> Option<f32> {
        share(self.requests, self.handshakes)
    }

    /// All sums, for a snapshot.
    pub fn sums(&self) -> [f32; 7] {
        let Self { datagrams, answers, continued, requests, seconds, repeats, handshakes } = *self;
        [datagrams, answers, continued, requests, seconds, repeats, handshakes]
    }

    /// From the sums of a snapshot.
    pub fn from_sums(sums: [f32; 7]) -> Self {
        let [datagrams, answers, continued, requests, seconds, repeats, handshakes] = sums;
        Self { datagrams, answers, continued, requests, seconds, repeats, handshakes }
    }
}

fn share(part: f32, of: f32) -> Option<f32> {
    (of >= ENOUGH).then(|| (part / of).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(10);

    fn tick(datagrams: u32, answers: u32, continued: u32) -> Totals {
        let mut delta = Totals { answers, continued, ..Totals::default() };
        delta.roles[Role::UdpOpen.index()] = datagrams;
        delta
    }

    #[test]
    fn shares_are_known_when_enough_was_seen() {
        let mut habits = Habits::default();
        habits.learn(&tick(10, 5, 1), RoleSet::NONE, TICK);
        assert_eq!(habits.answer_ratio(), None);
        (0..100).for_each(|_| habits.learn(&tick(10, 5, 1), RoleSet::NONE, TICK));
        assert!((habits.answer_ratio().unwrap() - 0.5).abs() < 1e-3);
        assert!((habits.continued_share().unwrap() - 0.2).abs() < 1e-3);
        assert_eq!(habits.second_share(), None);
    }

    #[test]
    fn what_happens_under_attack_is_no_habit() {
        let mut habits = Habits::default();
        (0..100).for_each(|_| habits.learn(&tick(10, 5, 1), RoleSet::NONE, TICK));
        let before = habits;
        (0..100).for_each(|_| habits.learn(&tick(1_000, 0, 0), Role::UdpOpen.set(), TICK));
        assert_eq!(habits, before);
        assert_eq!(Habits::from_sums(habits.sums()), habits);
    }
}
