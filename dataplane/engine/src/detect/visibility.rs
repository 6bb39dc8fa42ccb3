//! Whether the return direction of a zone passes here.
//!
//! Three things tell it, in this order: the share of TCP that it explains, at hosts where segments out of state are in peace;
//! where there is none of that (a start in the middle of a flood at the only server), or memory is younger than what it should
//! explain, whether handshakes are completed; where there is next to no TCP, whether datagrams are answered. All of it is seen since the start: what a snapshot says is of another time.
//!
//! It stops being seen from one moment to the next, and then what memory does not explain is no evidence any more. So silence counts
//! at once: for as long as nothing came from inside, although much usually does, no witness that compares both directions is heard,
//! and after a second in which inside should have said something the direction is lost.

use std::time::Duration;

use levee_api::role::{Role, RoleSet};
use levee_api::time::Timestamp;
use levee_api::zone::Visibility;

use crate::detect::node::Peace;
use crate::detect::window::as_f32;
use crate::target::counters::Totals;

/// Fewer packets than this say nothing about visibility.
const ENOUGH_CONVERSATIONS: f32 = 200.0;
/// The return direction passes here when this share of TCP is explained by it.
const SEES_INSIDE: f32 = 0.9;
/// It does where this share of SYNs leads to a handshake: scans do not, and are many where there is little else.
const HANDSHAKES_SEEN: f32 = 0.5;
/// Fewer SYNs than this say nothing about that.
const ENOUGH_SYNS: f32 = 50.0;
/// So many do if nearly all lead to one, which only packets from inside can.
const FEW_SYNS: f32 = 20.0;
/// For so long after the start much of what inside has a part in has not been explained by it yet.
const YOUNG: Duration = Duration::from_secs(10);
/// It does where this share of datagrams is answered: a service may leave many unanswered, or refuse them, but one whose answers
/// go another way is never seen to answer.
const ANSWERS_SEEN: f32 = 0.1;
/// Openings and what is usual are forgotten over about this time.
const MEMORY_S: f32 = 60.0;
/// A zone that sends less than this, packets per second, may be silent at any time.
const TALKS: f32 = 20.0;
/// Silence is told from a pause by the packets that are missing, and by this time at least: counts of quiet hosts are read late.
const MISSING: f32 = 20.0;
const PAUSE: Duration = Duration::from_millis(300);
/// After so long, and so many packets that are no attack and that inside does not answer, the direction is lost.
const LOST_AFTER: Duration = Duration::from_secs(1);
const LOST_PACKETS: f32 = 20.0;
/// After so long and so many of any kind it is, too.
const GONE_AFTER: Duration = Duration::from_secs(5);
const GONE_PACKETS: f32 = 50.0;

/// What is known about it.
#[derive(Debug, Default)]
pub struct Sight {
    /// What passed at hosts where out-of-state packets were in peace, whatever else was under attack: so it is also learned when
    /// we start in the middle of an attack.
    conversations: Peace,
    syns: f32,
    handshakes: f32,
    datagrams: f32,
    answers: f32,
    age: Duration,
    /// Packets per second from inside while there were any.
    usual: f32,
    silent_for: Duration,
    /// What passed since the last packet from inside: of all roles, and of those that are not under attack.
    unheard: f32,
    unheard_calm: f32,
}

/// A tick of a zone.
#[derive(Clone, Copy, Debug)]
pub struct Tick<'a> {
    /// All that was counted.
    pub all: &'a Totals,
    /// What was counted at hosts where out-of-state packets are no peace; none: at all of them.
    pub apart: Option<&'a Totals>,
    /// Roles that are under attack, or may be.
    pub busy: RoleSet,
    /// Those that are.
    pub attacked: RoleSet,
    /// More hosts are out of their peace than before: what was counted a moment ago was none either.
    pub disturbed: bool,
}

impl Sight {
    /// Takes in a tick.
    pub fn account(&mut self, tick: &Tick<'_>, elapsed: Duration, now: Timestamp) {
        let Tick { all, apart, busy, attacked, disturbed } = *tick;
        self.age += elapsed;
        let calm = apart.map(|apart| all.since(apart)).unwrap_or_default();
        self.conversations.add(&calm, apart.is_some() && !disturbed, now);
        self.open(all, busy, elapsed);
        self.listen(all, attacked, elapsed);
    }

    fn open(&mut self, all: &Totals, busy: RoleSet, elapsed: Duration) {
        let keep = (-elapsed.as_secs_f32() / MEMORY_S).exp();
        if !busy.contains(Role::Syn) {
            self.syns = self.syns * keep + role(all, Role::Syn);
            self.handshakes = self.handshakes * keep + as_f32(all.handshakes);
        }
        if !busy.contains(Role::UdpOpen) {
            self.datagrams = self.datagrams * keep + role(all, Role::UdpOpen);
            self.answers = self.answers * keep + as_f32(all.answers);
        }
    }

    fn listen(&mut self, all: &Totals, attacked: RoleSet, elapsed: Duration) {
        if all.outbound > 0 {
            (self.silent_for, self.unheard, self.unheard_calm) = (Duration::ZERO, 0.0, 0.0);
        } else {
            self.silent_for += elapsed;
            let passed = |of: Role| {
                let dropped = all.dropped.get(of.index()).copied().unwrap_or(0);
                (role(all, of) - as_f32(dropped)).max(0.0)
            };
            let counted = all.roles.iter().fold(0_u32, |sum, packets| sum.wrapping_add(*packets));
            let explained = as_f32(all.packets.wrapping_sub(counted));
            self.unheard += explained + Role::ALL.into_iter().map(passed).sum::<f32>();
            let calm = Role::ALL.into_iter().filter(|role| !attacked.contains(*role));
            self.unheard_calm += explained + calm.map(passed).sum::<f32>();
        }
        // What is usual is not forgotten in silence.
        if self.silent_for < LOST_AFTER {
            let keep = (-elapsed.as_secs_f32() / MEMORY_S).exp();
            self.usual = self.usual * keep + as_f32(all.outbound) / MEMORY_S;
        }
    }

    /// Whether the return direction passes here: told by the operator, or learned. `before`: what was last said, which stays
    /// for as long as nothing speaks against it.
    pub fn judge(&mut self, told: Visibility, before: bool) -> bool {
        match told {
            Visibility::Both => true,
            Visibility::Inbound => false,
            Visibility::Auto if self.is_lost() => {
                // What was seen before says nothing about when it comes back.
                let Self { usual, silent_for, unheard, unheard_calm, .. } = *self;
                *self = Self { usual, silent_for, unheard, unheard_calm, ..Self::default() };
                false
            }
            Visibility::Auto => self.learned().unwrap_or(before),
        }
    }

    fn learned(&self) -> Option<bool> {
        let explained = self.conversations.packets - self.conversations.roles.iter().sum::<f32>();
        let total = explained + self.conversations.role(Role::OutOfState);
        let opens = self.syns >= FEW_SYNS && self.handshakes >= SEES_INSIDE * self.syns;
        if opens && (total < ENOUGH_CONVERSATIONS || self.age < YOUNG) {
            Some(true)
        } else if total >= ENOUGH_CONVERSATIONS {
            Some(explained >= SEES_INSIDE * total)
        } else if self.syns >= ENOUGH_SYNS {
            Some(self.handshakes >= HANDSHAKES_SEEN * self.syns)
        } else {
            (self.datagrams >= ENOUGH_CONVERSATIONS).then_some(self.answers >= ANSWERS_SEEN * self.datagrams)
        }
    }

    /// True while the return direction is known not to pass here.
    pub fn is_known_one_way(&self, told: Visibility) -> bool {
        match told {
            Visibility::Both => false,
            Visibility::Inbound => true,
            Visibility::Auto => self.is_lost() || self.learned() == Some(false),
        }
    }

    /// False while nothing comes from inside, although it should have by now.
    pub fn is_heard(&self) -> bool {
        self.usual < TALKS || self.silent_for <= Duration::from_secs_f32(MISSING / self.usual).max(PAUSE)
    }

    fn is_lost(&self) -> bool {
        let lost = |after, packets: f32, least| self.silent_for >= after && packets >= least;
        self.usual >= TALKS
            && (lost(LOST_AFTER, self.unheard_calm, LOST_PACKETS) || lost(GONE_AFTER, self.unheard, GONE_PACKETS))
    }
}

fn role(of: &Totals, role: Role) -> f32 {
    as_f32(of.roles.get(role.index()).copied().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(10);

    /// A zone in which ticks pass.
    struct Passing {
        sight: Sight,
        now: Timestamp,
    }

    fn passing() -> Passing {
        Passing { sight: Sight::default(), now: Timestamp::ZERO }
    }

    impl Passing {
        fn ticks(&mut self, count: u32, all: &Totals, apart: Option<&Totals>, busy: RoleSet) {
            for _ in 0..count {
                self.now = self.now + TICK;
                self.sight.account(&Tick { all, apart, busy, attacked: busy, disturbed: false }, TICK, self.now);
            }
        }

        /// In peace.
        fn peace(&mut self, count: u32, all: &Totals) {
            self.ticks(count, all, Some(&Totals::default()), RoleSet::NONE);
        }

        fn judge(&mut self, before: bool) -> bool {
            self.sight.judge(Visibility::Auto, before)
        }
    }

    fn packets(packets: u32, roles: &[(Role, u32)]) -> Totals {
        let mut totals = Totals { packets, ..Totals::default() };
        roles.iter().for_each(|(role, count)| totals.roles[role.index()] = *count);
        totals
    }

    /// Ten packets, all explained, and as many back.
    fn talk() -> Totals {
        Totals { outbound: 10, ..packets(10, &[]) }
    }

    #[test]
    fn it_is_learned_from_what_the_return_direction_explains() {
        let after = |all: &Totals| {
            let mut zone = passing();
            zone.peace(1_000, all);
            zone
        };
        assert!(after(&packets(10, &[])).judge(false));
        assert!(!after(&packets(10, &[(Role::OutOfState, 9)])).judge(true));
        assert!(!passing().judge(false), "unknown is no");
        let mut told = passing();
        assert!(told.sight.judge(Visibility::Both, false) && !told.sight.judge(Visibility::Inbound, true));
    }

    #[test]
    fn it_is_learned_during_a_flood_that_does_not_speak_against_it() {
        let mut zone = passing();
        zone.ticks(1_000, &packets(110, &[(Role::Syn, 100)]), Some(&Totals::default()), Role::Syn.set());
        assert!(zone.judge(false));
    }

    #[test]
    fn it_is_learned_beside_the_target_of_a_flood_that_nothing_explains() {
        let mut zone = passing();
        let flood = packets(100, &[(Role::OutOfState, 100)]);
        let all = packets(110, &[(Role::OutOfState, 100)]);
        zone.ticks(1_000, &all, Some(&flood), Role::OutOfState.set());
        assert!(zone.judge(false));
    }

    #[test]
    fn handshakes_tell_it_at_the_only_server() {
        let zone = |handshakes| {
            let all = Totals { handshakes, ..packets(101, &[(Role::OutOfState, 100), (Role::Syn, 1)]) };
            let mut zone = passing();
            zone.ticks(100, &all, None, Role::OutOfState.set());
            zone.judge(false)
        };
        assert!(zone(1));
        assert!(!zone(0));
    }

    #[test]
    fn few_handshakes_tell_it_at_once_also_where_memory_is_too_young_to_explain_much() {
        let all = Totals { handshakes: 1, ..packets(101, &[(Role::OutOfState, 80), (Role::Syn, 1)]) };
        let mut zone = passing();
        zone.peace(15, &all);
        assert!(!zone.judge(false));
        zone.peace(10, &all);
        assert!(zone.judge(false));
        zone.peace(400, &all);
        assert!(zone.judge(false), "a few seconds after a start hardly anything is explained");
        zone.peace(800, &all);
        assert!(!zone.judge(true), "later it should be");
    }

    #[test]
    fn where_there_is_no_tcp_answers_to_datagrams_tell_it() {
        let zone = |answers| {
            let mut zone = passing();
            zone.peace(500, &Totals { answers, ..packets(5, &[(Role::UdpOpen, 5)]) });
            zone.judge(false)
        };
        assert!(zone(1), "a name server refuses much of what it is asked");
        assert!(!zone(0));
    }

    #[test]
    fn it_is_lost_a_second_after_inside_has_fallen_silent() {
        let mut zone = passing();
        zone.peace(1_000, &talk());
        assert!(zone.judge(false) && zone.sight.is_heard());
        let strangers = packets(10, &[(Role::OutOfState, 8), (Role::Syn, 2)]);
        zone.ticks(40, &strangers, Some(&strangers), Role::OutOfState.set());
        assert!(zone.judge(true) && !zone.sight.is_heard(), "no witness against those that nobody remembers");
        zone.ticks(61, &strangers, Some(&strangers), Role::OutOfState.set());
        assert!(!zone.judge(true));
        zone.peace(20, &talk());
        assert!(!zone.judge(false), "what was seen before it was lost does not count");
        zone.peace(1_000, &talk());
        assert!(zone.judge(false));
    }

    #[test]
    fn a_flood_at_servers_that_nobody_else_talks_to_does_not_end_it() {
        let mut zone = passing();
        zone.peace(1_000, &talk());
        let flood = packets(100, &[(Role::OutOfState, 100)]);
        zone.ticks(400, &flood, Some(&flood), Role::OutOfState.set());
        assert!(zone.judge(true));
    }
}
