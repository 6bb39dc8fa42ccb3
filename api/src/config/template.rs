//! `template`: floors that suit what a zone offers. A floor is the rate of a role below which there is no alarm at a host.

use super::zone::Floors;
use crate::role::Role;

/// The templates by name: what differs from the floors of a server, in packets per second towards one host.
pub(super) const TEMPLATES: &[(&str, Floors)] = &[
    ("server", &[]),
    // Many short connections, and what is left of them after their end.
    ("web", &[(Role::Syn, 1_000), (Role::OutOfState, 1_000)]),
    // Each query is a datagram that nobody has answered yet.
    ("dns", &[(Role::Syn, 200), (Role::Request, 200), (Role::UdpOpen, 5_000)]),
    // Players come one by one and stay.
    ("game", &[(Role::Syn, 200), (Role::Request, 200), (Role::UdpOpen, 500), (Role::UdpUnserved, 200)]),
    // Media go to ports that calls agree on.
    ("voip", &[(Role::Syn, 200), (Role::Request, 200), (Role::UdpOpen, 500), (Role::UdpUnserved, 1_000)]),
    ("mail", &[(Role::Syn, 200), (Role::Request, 200), (Role::UdpOpen, 100), (Role::UdpUnserved, 200)]),
    // Networks of customers, or hosts behind which there are many: four times the floors of a server.
    (
        "any",
        &[
            (Role::Syn, 2_000),
            (Role::OutOfState, 2_000),
            (Role::UnsolicitedSynAck, 800),
            (Role::Request, 8_000),
            (Role::UdpOpen, 4_000),
            (Role::UdpUnserved, 2_000),
            (Role::UnsolicitedResponse, 800),
            (Role::IcmpOther, 2_000),
            (Role::LaterFragment, 2_000),
            (Role::OtherProtocol, 2_000),
        ],
    ),
];
