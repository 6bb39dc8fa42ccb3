//! Witnesses: evidence beyond rates and shapes that traffic is an attack.
//!
//! For some roles the role itself is the witness: a packet that no conversation explains. The roles that a crowd of
//! legitimate newcomers is made of need one of the others. New sources never count: every crowd is made of them.

use std::fmt;

use levee_api::role::Role;

use crate::detect::followed;
use crate::detect::habits::{HABIT, Habits};
use crate::detect::services;
use crate::detect::sources::Overrun;
use crate::detect::window::Window;

/// What proves an attack.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Witness {
    /// The role: no conversation explains these packets.
    Role(Role),
    /// SYNs that are not followed by a handshake.
    HalfOpen {
        /// SYNs without a handshake over the last half second.
        pending: f32,
        /// Share of SYNs that were completed.
        completed: f32,
    },
    /// Connections that are opened and not used, where they usually are.
    Idle(Missing),
    /// Datagrams to a served port that are not answered, although the target answers others.
    Unanswered {
        /// Datagrams without an answer over the last half second.
        pending: f32,
        /// Answers per datagram.
        ratio: f32,
        /// What is usual.
        usual: f32,
    },
    /// Datagrams that are answered, by clients that then send nothing more: the answers went to somebody else.
    NotContinued(Missing),
    /// QUIC Initials that nobody can open.
    Forged(Forged),
    /// Datagrams from addresses that no network routes: of sources that are drawn at random one in eight.
    Unroutable(Forged),
    /// Requests that are replied to, by clients that then send nothing more.
    OneShot(Missing),
    /// Requests of sources that had sent others just before, which clients do not.
    Repeating {
        /// Requests over the last half second.
        requests: f32,
        /// Share of such sources' requests.
        share: f32,
        /// What is usual.
        usual: f32,
    },
    /// Sources that send more inside their conversations than any does in peace, and together most of it.
    Overrun(Overrun),
    /// None is needed: no service is behind the role, and the signature decides.
    NoService(Role),
}

/// What began, and how much of it went on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Missing {
    /// What began 0.4 to 0.7 seconds ago.
    pub began: f32,
    /// Share that went on.
    pub share: f32,
    /// What is usual.
    pub usual: f32,
}

/// Datagrams among the newest samples, and how many of them no client can have sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forged {
    /// So many are QUIC Initials that nobody can open.
    pub count: u32,
    /// So many come from addresses that are nobody's.
    pub unroutable: u32,
    /// Of so many.
    pub of: u32,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |share: f32| share * 100.0;
        write!(f, "{:.0} % of {:.0} went on where {:.0} % do", percent(self.share), self.began, percent(self.usual))
    }
}

impl fmt::Display for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Role(role) => write!(f, "role: {}", role.description()),
            Self::HalfOpen { pending, completed } => {
                write!(f, "half-open: {pending:.0} SYNs without handshake, {:.0} % completed", completed * 100.0)
            }
            Self::Unanswered { pending, ratio, usual } => {
                write!(
                    f,
                    "unanswered: {pending:.0} datagrams without answer, {ratio:.2} answers each where {usual:.2} are usual"
                )
            }
            Self::NotContinued(missing) => write!(f, "not continued: of answered clients {missing}"),
            Self::Forged(Forged { count, of, .. }) => {
                write!(f, "forged: {count} of {of} datagrams are QUIC Initials that nobody can open")
            }
            Self::Unroutable(Forged { unroutable, of, .. }) => {
                write!(f, "unroutable: {unroutable} of {of} datagrams come from addresses that are nobody's")
            }
            Self::Idle(missing) => write!(f, "idle: of connections that were opened {missing}"),
            Self::OneShot(missing) => write!(f, "one-shot: of clients that got their reply {missing}"),
            Self::Repeating { requests, share, usual } => write!(
                f,
                "repeating: {:.0} % of {requests:.0} requests are of sources that had sent others where {:.0} % are",
                share * 100.0,
                usual * 100.0
            ),
            Self::Overrun(Overrun { sources, share, above_pps }) => write!(
                f,
                "overrun: {sources} sources send {:.0} % of what is inside conversations, each more than {above_pps:.0} packets a second",
                share * 100.0
            ),
            Self::NoService(role) => write!(f, "{role}: no service behind it"),
        }
    }
}

/// What a target's witnesses are compared with.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usual {
    /// Most SYNs without a handshake in peace.
    pub half_open: f32,
    /// Most datagrams without an answer in peace.
    pub unanswered: f32,
    /// The most that one source has sent inside conversations in peace, packets per second.
    pub heaviest: f32,
}

/// What witnesses look at.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Sums over half a second.
    pub window: &'a Window,
    /// What went on of what began.
    pub followed: followed::Counts,
    /// The same of answered clients, by service.
    pub services: &'a [services::Counts],
    /// Of the newest datagrams to served ports, where there is an alarm.
    pub forged: Forged,
    /// Sources that send more than usual inside conversations, where there is an alarm.
    pub overrun: Overrun,
    /// What is usual at the target.
    pub usual: &'a Usual,
    /// What is usual in its zone.
    pub habits: &'a Habits,
    /// The return direction passes here.
    pub sees_inside: bool,
}

/// Fewer pending than this are never a witness: a handful of slow clients.
pub const PENDING_FLOOR: f32 = 60.0;
/// A crowd that rises fourfold is still a crowd.
const PENDING_FACTOR: f32 = 4.0;
/// Fewer forged samples than this may be damaged ones.
const FORGED: u32 = 60;
/// Fewer from addresses that are nobody's, or less than one in so many, may be a client with a broken network.
const UNROUTABLE: u32 = 16;
const UNROUTABLE_PART: u32 = 20;
/// Below this share of the usual, answers are missing.
const MISSING: f32 = 0.5;

/// Below this share of the usual, clients are missing: datagrams, whose clients may not be real, and requests.
const NOT_CONTINUED: f32 = 0.3;
const ONE_SHOT: f32 = 0.4;
/// The same of connections on which data is sent.
const IDLE: f32 = 0.4;
/// From this share on, and so many times the usual one, sources repeat themselves: where clients come in large numbers from one
/// address, or through a proxy, they seem to always.
const REPEATED: f32 = 0.6;
const REPEATED_FACTOR: f32 = 1.5;

/// Looks for a witness of a role at a target.
pub fn look(role: Role, seen: &Seen<'_>) -> Option<Witness> {
    match role {
        Role::OtherProtocol | Role::Malformed => Some(Witness::Role(role)),
        Role::OutOfState | Role::UnsolicitedSynAck | Role::UnsolicitedResponse | Role::UdpUnserved => {
            seen.sees_inside.then_some(Witness::Role(role))
        }
        Role::IcmpOther | Role::LaterFragment => Some(Witness::NoService(role)),
        // No client sends what its server cannot open, whichever way the answers go.
        Role::UdpOpen if seen.forged.count >= FORGED && 2 * seen.forged.count >= seen.forged.of => {
            Some(Witness::Forged(seen.forged))
        }
        Role::UdpOpen
            if seen.forged.unroutable >= UNROUTABLE && UNROUTABLE_PART * seen.forged.unroutable >= seen.forged.of =>
        {
            Some(Witness::Unroutable(seen.forged))
        }
        Role::Syn | Role::UdpOpen | Role::Request if !seen.sees_inside => None,
        Role::Syn => half_open(seen.window, seen.usual).or_else(|| {
            let followed::Counts { handshakes, used, .. } = seen.followed;
            missing(handshakes, used, seen.habits.used_share(), IDLE).map(Witness::Idle)
        }),
        Role::UdpOpen => unanswered(seen).or_else(|| not_continued(seen)),
        Role::Request => {
            let followed::Counts { requests, seconds, .. } = seen.followed;
            let one_shot = missing(requests, seconds, seen.habits.second_share(), ONE_SHOT).map(Witness::OneShot);
            one_shot.or_else(|| repeating(seen))
        }
        Role::Established => (seen.sees_inside && seen.overrun.is_evidence()).then_some(Witness::Overrun(seen.overrun)),
    }
}

/// Of a service whose habits are known those count; the others are taken together.
fn not_continued(&Seen { services, followed, habits, .. }: &Seen<'_>) -> Option<Witness> {
    let of_service = |counts: &services::Counts| missing(counts.answers, counts.continued, counts.usual, NOT_CONTINUED);
    let zone = || {
        let is_known = services.iter().any(|counts| counts.usual.is_some() && counts.answers > PENDING_FLOOR);
        let usual = habits.continued_share().filter(|_| !is_known);
        missing(followed.answers, followed.continued, usual, NOT_CONTINUED)
    };
    services.iter().find_map(of_service).or_else(zone).map(Witness::NotContinued)
}

fn repeating(&Seen { window, habits, .. }: &Seen<'_>) -> Option<Witness> {
    let usual = habits.repeat_share()?;
    let requests = window.requests;
    let share = window.repeats / requests.max(1.0);
    (requests > PENDING_FLOOR && share >= REPEATED.max(REPEATED_FACTOR * usual)).then_some(Witness::Repeating {
        requests,
        share,
        usual,
    })
}

fn missing(began: f32, went_on: f32, usual: Option<f32>, least: f32) -> Option<Missing> {
    let usual = usual.filter(|usual| *usual > HABIT)?;
    let share = went_on / began.max(1.0);
    (began > PENDING_FLOOR && share < least * usual).then_some(Missing { began, share, usual })
}

fn half_open(window: &Window, usual: &Usual) -> Option<Witness> {
    let pending = window.half_open();
    let completed = window.handshakes / window.syns.max(1.0);
    (pending > PENDING_FLOOR.max(PENDING_FACTOR * usual.half_open) && completed < MISSING)
        .then_some(Witness::HalfOpen { pending, completed })
}

fn unanswered(&Seen { window, usual, habits, .. }: &Seen<'_>) -> Option<Witness> {
    let ratio_usual = habits.answer_ratio().unwrap_or(MISSING);
    let pending = window.unanswered(ratio_usual);
    let ratio = window.answers / window.datagrams.max(1.0);
    // A server that has stopped answering everybody is dying, not attacked: no reason to drop its clients.
    let alive = window.outbound >= 1.0;
    (alive && pending > PENDING_FLOOR.max(PENDING_FACTOR * usual.unanswered) && ratio < MISSING * ratio_usual)
        .then_some(Witness::Unanswered { pending, ratio, usual: ratio_usual })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HABITS: Habits = Habits {
        datagrams: 1e3,
        answers: 900.0,
        continued: 720.0,
        requests: 1e3,
        seconds: 600.0,
        repeats: 100.0,
        handshakes: 1_050.0,
    };

    fn look_at(role: Role, window: &Window, followed: followed::Counts, usual: &Usual) -> Option<Witness> {
        look(role, &Seen { window, followed, usual, ..nothing() })
    }

    fn nothing() -> Seen<'static> {
        const WINDOW: Window = Window {
            syns: 0.0,
            handshakes: 0.0,
            datagrams: 0.0,
            answers: 0.0,
            outbound: 0.0,
            requests: 0.0,
            repeats: 0.0,
            syns_dropped: 0.0,
            datagrams_dropped: 0.0,
            updated: levee_api::time::Timestamp::ZERO,
        };
        const USUAL: Usual = Usual { half_open: 0.0, unanswered: 0.0, heaviest: 0.0 };
        Seen {
            window: &WINDOW,
            followed: followed::Counts::default(),
            services: &[],
            forged: Forged::default(),
            overrun: Overrun::default(),
            usual: &USUAL,
            habits: &HABITS,
            sees_inside: true,
        }
    }

    fn syn(window: &Window, usual: &Usual) -> Option<Witness> {
        look_at(Role::Syn, window, followed::Counts::default(), usual)
    }

    #[test]
    fn a_flood_of_syns_is_half_open_and_a_crowd_is_not() {
        let flood = Window { syns: 300.0, handshakes: 5.0, ..Window::default() };
        assert!(matches!(syn(&flood, &Usual::default()), Some(Witness::HalfOpen { .. })));
        let crowd = Window { syns: 300.0, handshakes: 200.0, ..Window::default() };
        assert_eq!(syn(&crowd, &Usual::default()), None);
        let busy = Usual { half_open: 100.0, ..Usual::default() };
        assert_eq!(syn(&flood, &busy), None, "below four times what is usual");
        let filtered = Window { syns_dropped: 290.0, ..flood };
        assert_eq!(syn(&filtered.passed(), &Usual::default()), None, "what is left is no flood");
    }

    #[test]
    fn a_dying_server_is_not_an_attack() {
        let datagrams = |window| look_at(Role::UdpOpen, &window, followed::Counts::default(), &Usual::default());
        let dead = Window { datagrams: 500.0, ..Window::default() };
        assert_eq!(datagrams(dead), None);
        let flooded = Window { outbound: 40.0, answers: 20.0, ..dead };
        assert!(matches!(datagrams(flooded), Some(Witness::Unanswered { .. })));
    }

    #[test]
    fn answered_clients_that_never_go_on_are_a_witness_where_they_usually_do() {
        let window = Window { datagrams: 500.0, answers: 500.0, outbound: 500.0, ..Window::default() };
        let of = |answers, continued| {
            look_at(
                Role::UdpOpen,
                &window,
                followed::Counts { answers, continued, ..Default::default() },
                &Usual::default(),
            )
        };
        assert!(matches!(of(300.0, 20.0), Some(Witness::NotContinued(_))));
        assert_eq!(of(300.0, 150.0), None, "a crowd");
        assert_eq!(of(30.0, 0.0), None, "a handful");
        let names = Habits { continued: 10.0, ..HABITS };
        let counts = followed::Counts { answers: 300.0, ..Default::default() };
        let seen = Seen { window: &window, followed: counts, habits: &names, ..nothing() };
        assert_eq!(look(Role::UdpOpen, &seen), None, "nobody goes on after the answer to a query");
    }

    #[test]
    fn a_service_whose_clients_go_on_has_its_witness_beside_one_whose_clients_do_not() {
        let window = Window { datagrams: 500.0, answers: 500.0, outbound: 500.0, ..Window::default() };
        let names = Habits { continued: 10.0, ..HABITS };
        let of = |services: &[services::Counts]| {
            look(Role::UdpOpen, &Seen { window: &window, habits: &names, services, ..nothing() })
        };
        let dns = services::Counts { port: 53, answers: 400.0, continued: 0.0, usual: Some(0.01) };
        let quic = |continued| services::Counts { port: 443, answers: 100.0, continued, usual: Some(0.9) };
        assert!(matches!(of(&[dns, quic(5.0)]), Some(Witness::NotContinued(_))));
        assert_eq!(of(&[dns, quic(80.0)]), None);
    }

    #[test]
    fn initials_that_nobody_can_open_are_a_witness_if_they_are_most() {
        let of = |count, of| look(Role::UdpOpen, &Seen { forged: Forged { count, of, unroutable: 0 }, ..nothing() });
        assert!(matches!(of(80, 150), Some(Witness::Forged(_))));
        assert_eq!(of(80, 170), None);
        assert_eq!(of(20, 20), None);
    }

    #[test]
    fn sources_that_are_nobodys_are_a_witness_whoever_answers_them() {
        let of = |unroutable, of| {
            let forged = Forged { count: 0, unroutable, of };
            look(Role::UdpOpen, &Seen { forged, sees_inside: false, ..nothing() })
        };
        assert!(matches!(of(18, 150), Some(Witness::Unroutable(_))));
        assert_eq!(of(18, 1_000), None);
        assert_eq!(of(5, 40), None);
    }

    #[test]
    fn requests_without_a_second_are_one_shots() {
        let of = |requests, seconds| {
            let counts = followed::Counts { requests, seconds, ..Default::default() };
            look_at(Role::Request, &Window::default(), counts, &Usual::default())
        };
        assert!(matches!(of(300.0, 30.0), Some(Witness::OneShot(_))));
        assert_eq!(of(300.0, 150.0), None);
    }

    #[test]
    fn connections_that_nobody_uses_are_a_witness_where_they_are_used() {
        let window = Window { syns: 500.0, handshakes: 480.0, ..Window::default() };
        let of = |handshakes, used| {
            let counts = followed::Counts { handshakes, used, ..Default::default() };
            look_at(Role::Syn, &window, counts, &Usual::default())
        };
        assert!(matches!(of(300.0, 30.0), Some(Witness::Idle(_))));
        assert_eq!(of(300.0, 200.0), None, "a crowd");
        assert_eq!(of(40.0, 0.0), None, "a handful");
        let habits = Habits { requests: 100.0, ..HABITS };
        let counts = followed::Counts { handshakes: 300.0, ..Default::default() };
        let seen = Seen { window: &window, followed: counts, habits: &habits, ..nothing() };
        assert_eq!(look(Role::Syn, &seen), None, "connections are opened in advance here");
    }

    #[test]
    fn sources_that_repeat_themselves_are_a_witness_where_clients_do_not() {
        let window = Window { requests: 300.0, repeats: 240.0, ..Window::default() };
        let of = |repeats| {
            let habits = Habits { repeats, ..HABITS };
            look(Role::Request, &Seen { window: &window, habits: &habits, ..nothing() })
        };
        assert!(matches!(of(100.0), Some(Witness::Repeating { .. })));
        assert_eq!(of(900.0), None, "a proxy in front of everybody");
    }

    #[test]
    fn what_needs_the_return_direction_is_no_witness_without_it() {
        for role in [
            Role::OutOfState,
            Role::UnsolicitedSynAck,
            Role::UnsolicitedResponse,
            Role::UdpUnserved,
            Role::Syn,
            Role::UdpOpen,
            Role::Request,
        ] {
            let window = Window { syns: 1e6, datagrams: 1e6, outbound: 9.0, ..Window::default() };
            let followed = followed::Counts { answers: 1e6, requests: 1e6, ..Default::default() };
            let seen = Seen { window: &window, followed, sees_inside: false, ..nothing() };
            assert_eq!(look(role, &seen), None, "{role}");
        }
    }
}
