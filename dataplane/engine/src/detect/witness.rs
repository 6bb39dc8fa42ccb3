//! Witnesses: evidence beyond rates and shapes that traffic is an attack.
//!
//! For some roles the role itself is the witness: a packet that no conversation explains. The roles that a crowd of
//! legitimate newcomers is made of need one of the others. New sources never count: every crowd is made of them.

use std::fmt;

use levee_api::role::Role;

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
    /// Datagrams to a served port that are not answered, although the target answers others.
    Unanswered {
        /// Datagrams without an answer over the last half second.
        pending: f32,
        /// Answers per datagram.
        ratio: f32,
        /// What is usual.
        usual: f32,
    },
    /// None is needed: no service is behind the role, and the signature decides.
    NoService(Role),
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
    /// Answers per unanswered datagram in peace; none: not learned.
    pub answer_ratio: Option<f32>,
}

/// Fewer pending than this are never a witness: a handful of slow clients.
const PENDING_FLOOR: f32 = 60.0;
/// A crowd that rises fourfold is still a crowd.
const PENDING_FACTOR: f32 = 4.0;
/// Below this share of the usual, answers are missing.
const MISSING: f32 = 0.5;

/// Looks for a witness of a role at a target. `sees_inside`: the return direction passes here.
pub fn look(role: Role, window: &Window, usual: &Usual, sees_inside: bool) -> Option<Witness> {
    match role {
        Role::OtherProtocol | Role::Malformed => Some(Witness::Role(role)),
        Role::OutOfState | Role::UnsolicitedSynAck | Role::UnsolicitedResponse | Role::UdpUnserved => {
            sees_inside.then_some(Witness::Role(role))
        }
        Role::IcmpOther | Role::LaterFragment => Some(Witness::NoService(role)),
        Role::Syn if sees_inside => half_open(window, usual),
        Role::UdpOpen if sees_inside => unanswered(window, usual),
        Role::Syn | Role::UdpOpen | Role::Request | Role::Established => None,
    }
}

fn half_open(window: &Window, usual: &Usual) -> Option<Witness> {
    let pending = window.half_open();
    let completed = window.handshakes / window.syns.max(1.0);
    (pending > PENDING_FLOOR.max(PENDING_FACTOR * usual.half_open) && completed < MISSING)
        .then_some(Witness::HalfOpen { pending, completed })
}

fn unanswered(window: &Window, usual: &Usual) -> Option<Witness> {
    let ratio_usual = usual.answer_ratio.unwrap_or(MISSING);
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

    #[test]
    fn a_flood_of_syns_is_half_open_and_a_crowd_is_not() {
        let flood = Window { syns: 300.0, handshakes: 5.0, ..Window::default() };
        assert!(matches!(look(Role::Syn, &flood, &Usual::default(), true), Some(Witness::HalfOpen { .. })));
        let crowd = Window { syns: 300.0, handshakes: 200.0, ..Window::default() };
        assert_eq!(look(Role::Syn, &crowd, &Usual::default(), true), None);
        let busy = Usual { half_open: 100.0, ..Usual::default() };
        assert_eq!(look(Role::Syn, &flood, &busy, true), None, "below four times what is usual");
    }

    #[test]
    fn a_dying_server_is_not_an_attack() {
        let usual = Usual { answer_ratio: Some(0.9), ..Usual::default() };
        let dead = Window { datagrams: 500.0, ..Window::default() };
        assert_eq!(look(Role::UdpOpen, &dead, &usual, true), None);
        let flooded = Window { outbound: 40.0, answers: 20.0, ..dead };
        assert!(matches!(look(Role::UdpOpen, &flooded, &usual, true), Some(Witness::Unanswered { .. })));
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
        ] {
            let window = Window { syns: 1e6, datagrams: 1e6, outbound: 9.0, ..Window::default() };
            assert_eq!(look(role, &window, &Usual::default(), false), None, "{role}");
        }
    }
}
