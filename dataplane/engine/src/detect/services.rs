//! What clients of each service over UDP usually do after the first answer, and what they do now. Clients of some go on, those of
//! others never do: side by side in one zone they would make both look like neither.
//!
//! Workers count per host, not per port. So this follows the conversations that were sampled: as many as it may, and of those
//! that are alarmed nearly all.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use levee_api::time::Timestamp;

use crate::detect::habits::HABIT;

/// Conversations are followed for so long, and for at most twice as long; and what they do waits for as long to be learned, in which
/// an alarm may follow it.
const MEMORY: Duration = Duration::from_secs(1);
/// Conversations followed at once.
const MOST: usize = 1 << 15;
/// Services and ticks that are told apart: more are looked through too often. And how many of a tick are looked at for the same.
const MOST_LATELY: usize = 4096;
const MERGED: usize = 16;
/// Habits are learned over about this many answers of a service.
const LEARNED_OVER: f32 = 2_000.0;
/// Fewer answers than this say nothing about a share.
const ENOUGH: f32 = 20.0;
/// Services whose habits are known; others are taken for what is usual in their zone.
const MOST_SERVICES: usize = 4096;
/// A client that goes on does so within this, or does not; what was answered longer ago than the second is forgotten.
const PATIENCE: Duration = Duration::from_millis(400);
const FOLLOWED: Duration = Duration::from_millis(700);

/// Conversations that have begun, and habits of services.
#[derive(Debug, Default)]
pub struct Services {
    newest: HashMap<u64, Service>,
    older: HashMap<u64, Service>,
    since: Timestamp,
    habits: Habits,
    /// What may become habits: of this second and of the one before.
    fresh: [Habits; 2],
    /// How much was answered and how much went on lately, tick by tick, the newest last.
    lately: VecDeque<(Timestamp, Service, Seen)>,
}

/// By zone and port.
type Habits = HashMap<(u16, u16), Habit>;

/// A port of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    /// Index of the zone.
    pub zone: u16,
    /// The target.
    pub target: IpAddr,
    /// The port.
    pub port: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Answered,
    Continued,
}

/// What happened at a service in a tick.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    answers: u16,
    continued: u16,
}

#[derive(Clone, Copy, Debug, Default)]
struct Habit {
    answers: f32,
    continued: f32,
}

/// Answered clients of one service of a target, and those that went on, in as much time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counts {
    /// The port.
    pub port: u16,
    /// Clients that were answered 0.4 to 0.7 seconds ago.
    pub answers: f32,
    /// Clients that went on in the last 0.3 seconds.
    pub continued: f32,
    /// Share that usually goes on; none: too few were seen.
    pub usual: Option<f32>,
}

impl Services {
    /// A client begins a conversation.
    pub fn begin(&mut self, conversation: u64, service: Service) {
        if self.newest.len() < MOST {
            self.newest.insert(conversation, service);
        }
    }

    /// Inside has answered.
    pub fn answered(&mut self, conversation: u64, now: Timestamp) {
        self.note(conversation, Step::Answered, now);
    }

    /// The client has promptly gone on.
    pub fn continued(&mut self, conversation: u64, now: Timestamp) {
        self.note(conversation, Step::Continued, now);
    }

    fn note(&mut self, conversation: u64, step: Step, now: Timestamp) {
        let Some(service) = self.newest.get(&conversation).or_else(|| self.older.get(&conversation)).copied() else {
            return;
        };
        let is_same =
            |at: &usize| self.lately.get(*at).is_some_and(|(tick, known, _)| *tick == now && *known == service);
        let known = (0..self.lately.len()).rev().take(MERGED).find(is_same);
        let place = known.unwrap_or_else(|| {
            if self.lately.len() >= MOST_LATELY {
                self.lately.pop_front();
            }
            self.lately.push_back((now, service, Seen::default()));
            self.lately.len() - 1
        });
        if let Some((.., Seen { answers, continued })) = self.lately.get_mut(place) {
            let count = if step == Step::Answered { answers } else { continued };
            *count = count.saturating_add(1);
        }
        let [_, newest] = &mut self.fresh;
        let habit = newest.entry((service.zone, service.port)).or_default();
        match step {
            Step::Answered => habit.answers += 1.0,
            Step::Continued => habit.continued += 1.0,
        }
    }

    /// Forgets as time passes, and learns of zones that are in peace.
    pub fn forget(&mut self, in_peace: impl Fn(u16) -> bool, now: Timestamp) {
        if now.since(self.since) >= MEMORY {
            self.older = std::mem::take(&mut self.newest);
            self.since = now;
            let [older, newer] = &mut self.fresh;
            for ((zone, port), seen) in std::mem::replace(older, std::mem::take(newer)) {
                let is_known = self.habits.contains_key(&(zone, port));
                if in_peace(zone) && (is_known || self.habits.len() < MOST_SERVICES) {
                    self.habits.entry((zone, port)).or_default().learn(seen);
                }
            }
        }
        while self.lately.front().is_some_and(|(at, ..)| now.since(*at) > FOLLOWED) {
            self.lately.pop_front();
        }
    }

    /// Share of answered clients of a service that promptly go on; none: too few were seen.
    pub fn continued_share(&self, zone: u16, port: u16) -> Option<f32> {
        let Habit { answers, continued } = self.habits.get(&(zone, port))?;
        (*answers >= ENOUGH).then(|| (continued / answers).min(1.0))
    }

    /// True where an answered client that does not go on is unusual; none: too few were seen.
    pub fn do_go_on(&self, zone: u16, port: u16) -> Option<bool> {
        Some(self.continued_share(zone, port)? > HABIT)
    }

    /// What clients of some of a zone's targets did lately, those with the most answers first.
    pub fn lately(&self, of: u16, is_of: impl Fn(IpAddr) -> bool, now: Timestamp) -> Vec<Counts> {
        let mut all: HashMap<u16, Counts> = HashMap::new();
        for (at, Service { zone, target, port }, seen) in &self.lately {
            let age = now.since(*at);
            let (answered, went_on) = (PATIENCE < age && age <= FOLLOWED, age < FOLLOWED - PATIENCE);
            if !(answered || went_on) || *zone != of || !is_of(*target) {
                continue;
            }
            let usual = self.continued_share(of, *port);
            let counts = all.entry(*port).or_insert(Counts { port: *port, usual, ..Counts::default() });
            counts.answers += if answered { f32::from(seen.answers) } else { 0.0 };
            counts.continued += if went_on { f32::from(seen.continued) } else { 0.0 };
        }
        let mut all: Vec<Counts> = all.into_values().collect();
        all.sort_unstable_by(|one, two| two.answers.total_cmp(&one.answers).then(one.port.cmp(&two.port)));
        all
    }

    /// Habits of a zone by port, for a snapshot: answers, and clients that went on.
    pub fn habits(&self, of: u16) -> Vec<(u16, [f32; 2])> {
        let theirs = self.habits.iter().filter(|((zone, _), _)| *zone == of);
        let mut theirs: Vec<_> =
            theirs.map(|((_, port), Habit { answers, continued })| (*port, [*answers, *continued])).collect();
        theirs.sort_unstable_by_key(|(port, _)| *port);
        theirs
    }

    /// Takes a zone's habits from a snapshot.
    pub fn restore(&mut self, zone: u16, habits: &[(u16, [f32; 2])]) {
        for (port, [answers, continued]) in habits.iter().take(MOST_SERVICES) {
            self.habits.insert((zone, *port), Habit { answers: *answers, continued: *continued });
        }
    }

    /// Gives zones their new indices.
    pub fn rezone(&mut self, moved: &[Option<u16>]) {
        let to = |zone: u16| moved.get(usize::from(zone)).copied().flatten();
        let known = std::mem::take(&mut self.habits).into_iter();
        let habits = known.filter_map(|((zone, port), habit)| Some(((to(zone)?, port), habit))).collect();
        *self = Self { habits, since: self.since, ..Self::default() };
    }
}

impl Habit {
    fn learn(&mut self, seen: Self) {
        self.answers += seen.answers;
        self.continued += seen.continued;
        if self.answers > LEARNED_OVER {
            let keep = LEARNED_OVER / 2.0 / self.answers;
            *self = Self { answers: self.answers * keep, continued: self.continued * keep };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 10));

    /// A second of a service: a hundred clients that are answered, of which one in `nth` goes on after 0.2 seconds.
    fn second(services: &mut Services, port: u16, nth: u64, in_peace: bool, from: Timestamp) -> Timestamp {
        let service = Service { zone: 3, target: TARGET, port };
        let mut now = from;
        for tick in 0..100 {
            now = now + Duration::from_millis(10);
            let begun = from.0 / 1_000_000_000;
            let conversation = |tick: u64| u64::from(port) << 32 | begun << 8 | tick;
            services.begin(conversation(tick), service);
            services.answered(conversation(tick), now);
            if tick >= 20 && tick % nth == 0 {
                services.continued(conversation(tick - 20), now);
            }
            services.forget(|_| in_peace, now);
        }
        now
    }

    #[test]
    fn services_side_by_side_have_habits_of_their_own() {
        let mut services = Services::default();
        let mut now = Timestamp(1_000_000_000);
        for _ in 0..4 {
            now = second(&mut services, 443, 1, true, now);
            now = second(&mut services, 53, 1_000, true, now);
        }
        let of = |port| services.do_go_on(3, port);
        assert_eq!((of(443), of(53), of(5_060), services.do_go_on(0, 443)), (Some(true), Some(false), None, None));
        let mut again = Services::default();
        again.restore(3, &services.habits(3));
        again.rezone(&[None, None, None, Some(1)]);
        assert_eq!(again.continued_share(1, 443), services.continued_share(3, 443));
    }

    #[test]
    fn a_flood_at_one_service_is_seen_beside_the_other() {
        let mut services = Services::default();
        let mut now = Timestamp(1_000_000_000);
        for _ in 0..4 {
            now = second(&mut services, 443, 1, true, now);
        }
        let usual = services.continued_share(3, 443);
        for _ in 0..4 {
            now = second(&mut services, 443, 50, false, now);
        }
        assert_eq!(services.continued_share(3, 443), usual, "what an alarm follows is no habit");
        let [counts] = services.lately(3, |target| target == TARGET, now)[..] else { panic!("one service") };
        assert!(counts.port == 443 && counts.answers > 25.0 && counts.continued < 2.0, "{counts:?}");
        assert!(counts.usual.is_some_and(|usual| usual > 0.7), "{counts:?}");
        assert!(services.lately(3, |_| false, now).is_empty());
    }
}
