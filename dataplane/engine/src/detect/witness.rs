//! Witnesses: evidence beyond rates and shapes that traffic is an attack.
//!
//! For some roles the role itself is the witness: a packet that no conversation explains. The roles that a crowd of
//! legitimate newcomers is made of need one of the others. New sources never count: every crowd is made of them.

use std::fmt;

use levee_api::role::Role;

use crate::detect::followed;
use crate::detect::habits::{HABIT, Habits};
use crate::detect::returns;
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
    /// SYNs, or SYN-ACKs, that next to no other segments follow: whoever opens a connection goes on.
    Unfollowed {
        /// What began 0.4 to 0.7 seconds ago.
        began: f32,
        /// Segments since, beyond what is usual without it.
        segments: f32,
    },
    /// Packets of senders that are never heard of again.
    Alone(Missing),
    /// Echo requests of sources that send more of them than people do.
    Insistent {
        /// Their packets.
        packets: f32,
        /// Of so many.
        of: f32,
    },
    /// Echo replies that nobody inside has asked for.
    Unasked(Forged),
    /// Answers that nobody is known to have asked for, and that are far larger than others.
    Amplified(Sizes),
    /// None is needed: no service is behind the role, and the signature decides.
    NoService(Role),
    /// A signature holds only what nobody's programs send.
    Unnatural,
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

/// Mean lengths of packets, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sizes {
    /// Of the newest.
    pub now: f32,
    /// How many those are.
    pub of: u32,
    /// Of legitimate ones; none: not known.
    pub usual: Option<f32>,
}

/// What the newest samples of a role at a target say.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Glance {
    /// Initials that nobody can open, among datagrams to served ports.
    pub forged: Forged,
    /// Echo replies that nobody asked for, among other ICMP.
    pub unasked: Forged,
    /// Lengths of unsolicited responses.
    pub sizes: Sizes,
    /// Who comes again.
    pub returns: returns::Counts,
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
            Self::Unfollowed { began, segments } => {
                write!(f, "unfollowed: {began:.0} openings, and {segments:.0} other segments since")
            }
            Self::Alone(missing) => write!(f, "alone: of senders {missing}"),
            Self::Insistent { packets, of } => {
                write!(
                    f,
                    "insistent: {packets:.0} of {of:.0} echo requests are of sources that send more than people do"
                )
            }
            Self::Unasked(Forged { count, of, .. }) => {
                write!(f, "unasked: {count} of {of} packets are echo replies that nobody asked for")
            }
            Self::Amplified(Sizes { now, of, usual }) => {
                let usual = usual.unwrap_or(SMALL_ANSWER);
                write!(f, "amplified: {of} answers have {now:.0} bytes on average where {usual:.0} are usual")
            }
            Self::NoService(role) => write!(f, "{role}: no service behind it"),
            Self::Unnatural => write!(f, "unnatural: a signature holds only what nobody's programs send"),
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
    /// Sources that send more than usual inside conversations, where there is an alarm.
    pub overrun: Overrun,
    /// What the newest samples say, where there is an alarm.
    pub glance: Glance,
    /// Only what filters let pass is looked at.
    pub passed: bool,
    /// Segments that are usual in [`followed::SPAN`], at least.
    pub usual_segments: f32,
    /// The target had next to nothing of the role in peace.
    pub is_rare: bool,
    /// Its rate, in thresholds or floors, whichever is higher.
    pub excess: f32,
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

/// So many thresholds of ICMP are an attack without further evidence.
const FAR_TOO_MANY: f32 = 10.0;
/// Bytes of an answer that is no amplification: about what the question took.
const SMALL_ANSWER: f32 = 100.0;
/// So many times as large as usual is amplified.
const AMPLIFIED: f32 = 4.0;
/// Share of senders that come again where nothing was seen of them in peace.
const PRESUMED: f32 = 0.5;

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
        Role::LaterFragment => Some(Witness::NoService(role)),
        Role::IcmpOther => icmp(seen),
        // No client sends what its server cannot open, whichever way the answers go.
        Role::UdpOpen if is_most(seen.glance.forged) => Some(Witness::Forged(seen.glance.forged)),
        Role::UdpOpen
            if seen.glance.forged.unroutable >= UNROUTABLE
                && UNROUTABLE_PART * seen.glance.forged.unroutable >= seen.glance.forged.of =>
        {
            Some(Witness::Unroutable(seen.glance.forged))
        }
        _ if !seen.sees_inside => one_way(role, seen),
        Role::OutOfState | Role::UnsolicitedSynAck | Role::UnsolicitedResponse | Role::UdpUnserved => {
            Some(Witness::Role(role))
        }
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

/// Half, and more than may be damaged.
const fn is_most(Forged { count, of, .. }: Forged) -> bool {
    count >= FORGED && 2 * count >= of
}

/// What clients do tells, where nobody knows what inside says to it.
fn one_way(role: Role, seen: &Seen<'_>) -> Option<Witness> {
    let Glance { returns, sizes, .. } = seen.glance;
    match role {
        Role::Syn => unfollowed(seen.followed.syns, seen),
        Role::UnsolicitedSynAck => unfollowed(seen.followed.syn_acks, seen),
        Role::OutOfState | Role::UdpOpen => alone(&returns, returns.usual),
        // Where hardly anybody has ever sent there, who does is taken for one of the peers that inside asked for something, and they
        // go on more often than not.
        Role::UdpUnserved => alone(&returns, returns.usual.or(seen.is_rare.then_some(PRESUMED))),
        Role::UnsolicitedResponse => {
            let usual = sizes.usual.or(seen.is_rare.then_some(SMALL_ANSWER))?;
            (sizes.of >= FORGED && sizes.now >= AMPLIFIED * usual).then_some(Witness::Amplified(sizes))
        }
        _ => None,
    }
}

/// Nobody pings a host once. A flood of echo requests is from sources that are not there, or from few that send many. Where pings are
/// such that nobody can tell, many times what was ever seen is too many: no service is behind them.
fn icmp(seen: &Seen<'_>) -> Option<Witness> {
    let Glance { unasked, returns, .. } = seen.glance;
    if seen.sees_inside && is_most(unasked) {
        return Some(Witness::Unasked(unasked));
    }
    let returns::Counts { packets, insistent, usual, .. } = returns;
    if packets > PENDING_FLOOR && 2.0 * insistent >= packets {
        return Some(Witness::Insistent { packets: insistent, of: packets });
    }
    alone(&returns, usual.or(Some(PRESUMED)))
        .or_else(|| (seen.excess >= FAR_TOO_MANY).then_some(Witness::NoService(Role::IcmpOther)))
}

fn unfollowed((began, passed): (f32, f32), seen: &Seen<'_>) -> Option<Witness> {
    let began = if seen.passed { passed } else { began };
    let segments = (seen.followed.segments - seen.usual_segments).max(0.0);
    (began > PENDING_FLOOR && segments < NOT_CONTINUED * began).then_some(Witness::Unfollowed { began, segments })
}

/// Senders that never come again where next to nobody sends in peace.
pub fn presumably_alone(returns: &returns::Counts) -> Option<Witness> {
    alone(returns, Some(PRESUMED))
}

fn alone(returns: &returns::Counts, usual: Option<f32>) -> Option<Witness> {
    missing(returns.began, returns.again, usual, NOT_CONTINUED).map(Witness::Alone)
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
            overrun: Overrun::default(),
            glance: Glance::default(),
            passed: false,
            usual_segments: 0.0,
            is_rare: false,
            excess: 2.0,
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
        let of = |count, of| {
            let glance = Glance { forged: Forged { count, of, unroutable: 0 }, ..Glance::default() };
            look(Role::UdpOpen, &Seen { glance, ..nothing() })
        };
        assert!(matches!(of(80, 150), Some(Witness::Forged(_))));
        assert_eq!(of(80, 170), None);
        assert_eq!(of(20, 20), None);
    }

    #[test]
    fn sources_that_are_nobodys_are_a_witness_whoever_answers_them() {
        let of = |unroutable, of| {
            let forged = Forged { count: 0, unroutable, of };
            look(
                Role::UdpOpen,
                &Seen { glance: Glance { forged, ..Glance::default() }, sees_inside: false, ..nothing() },
            )
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

    fn blind(followed: followed::Counts, glance: Glance) -> Seen<'static> {
        Seen { followed, glance, sees_inside: false, ..nothing() }
    }

    #[test]
    fn where_one_direction_is_seen_openings_that_nothing_follows_are_a_witness() {
        let of = |segments, usual_segments| {
            let followed = followed::Counts { syns: (300.0, 300.0), segments, ..Default::default() };
            look(Role::Syn, &Seen { usual_segments, ..blind(followed, Glance::default()) })
        };
        assert!(matches!(of(20.0, 0.0), Some(Witness::Unfollowed { .. })));
        assert!(matches!(of(520.0, 500.0), Some(Witness::Unfollowed { .. })), "others were there before");
        assert_eq!(of(600.0, 0.0), None, "a crowd");
        let dropped = followed::Counts { syns: (300.0, 10.0), ..Default::default() };
        assert_eq!(look(Role::Syn, &Seen { passed: true, ..blind(dropped, Glance::default()) }), None);
    }

    #[test]
    fn where_one_direction_is_seen_senders_that_never_come_again_are_a_witness() {
        let of = |role, again, usual, is_rare| {
            let returns = returns::Counts { began: 300.0, again, usual, ..Default::default() };
            look(role, &Seen { is_rare, ..blind(Default::default(), Glance { returns, ..Glance::default() }) })
        };
        assert!(matches!(of(Role::OutOfState, 3.0, Some(0.8), false), Some(Witness::Alone(_))));
        assert_eq!(of(Role::OutOfState, 200.0, Some(0.8), false), None, "clients");
        assert_eq!(of(Role::OutOfState, 3.0, None, true), None, "nobody knows what clients do");
        assert_eq!(of(Role::UdpOpen, 3.0, Some(0.1), false), None, "nobody asks a name server twice");
        assert!(matches!(of(Role::UdpUnserved, 3.0, None, true), Some(Witness::Alone(_))));
    }

    #[test]
    fn where_one_direction_is_seen_answers_are_amplified_if_they_are_larger_than_any() {
        let of = |now, usual, is_rare| {
            let glance = Glance { sizes: Sizes { now, of: 100, usual }, ..Glance::default() };
            look(Role::UnsolicitedResponse, &Seen { is_rare, ..blind(Default::default(), glance) })
        };
        assert!(matches!(of(1_400.0, Some(150.0), false), Some(Witness::Amplified(_))));
        assert_eq!(of(200.0, Some(150.0), false), None, "a resolver has much to ask");
        assert!(matches!(of(480.0, None, true), Some(Witness::Amplified(_))));
        assert_eq!(of(1_400.0, None, false), None);
    }

    #[test]
    fn who_pings_comes_again_and_no_more_than_once_a_second() {
        let of = |again, insistent| {
            let returns = returns::Counts { began: 300.0, again, packets: 900.0, insistent, usual: None };
            look(Role::IcmpOther, &Seen { glance: Glance { returns, ..Glance::default() }, ..nothing() })
        };
        assert_eq!(of(250.0, 10.0), None, "a crowd");
        assert!(matches!(of(3.0, 0.0), Some(Witness::Alone(_))));
        assert!(matches!(of(300.0, 800.0), Some(Witness::Insistent { .. })));
        let many = look(Role::IcmpOther, &Seen { excess: 20.0, ..nothing() });
        assert_eq!(many, Some(Witness::NoService(Role::IcmpOther)));
        let glance = Glance { unasked: Forged { count: 90, of: 100, unroutable: 0 }, ..Glance::default() };
        assert!(matches!(look(Role::IcmpOther, &Seen { glance, ..nothing() }), Some(Witness::Unasked(_))));
        assert_eq!(look(Role::IcmpOther, &blind(Default::default(), glance)), None, "who may know who asked");
    }
}
