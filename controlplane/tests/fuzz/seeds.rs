//! What is damaged: the rules that daemons sent each other, and messages of every kind made with them.

use std::net::Ipv4Addr;

use levee_controlplane::bgp::flowspec::Version;
use levee_controlplane::bgp::route::{Community, Destination, Family, LargeCommunity, Route};
use levee_controlplane::bgp::speaker::wire::{
    AddPath, Announced, GracefulRestart, Notification, Open, cease, end_of_rib, keepalive,
};

/// Rules with their lengths; two that are read and never sent among them.
pub(crate) fn rules() -> Vec<(Version, Vec<u8>)> {
    let captured = include_str!("../../src/bgp/flowspec/vectors.txt");
    let not_sent = "v6 1201200020010db8026840123456789a038106\nv6 0d0140200000000103813a078180\n";
    let lines = captured.lines().chain(not_sent.lines()).filter_map(|line| line.split_once(' '));
    lines
        .filter_map(|(version, hex)| match version {
            "v4" => Some((Version::V4, bytes(hex))),
            "v6" => Some((Version::V6, bytes(hex))),
            _ => None,
        })
        .collect()
}

/// UPDATEs, of which some withdraw and some end a table.
pub(crate) fn updates() -> Vec<Vec<u8>> {
    let mut destinations: Vec<Destination> =
        rules().into_iter().map(|(version, rule)| Destination::Rule(version, rule)).collect();
    destinations.extend(
        ["192.0.2.35/32", "203.0.113.0/24", "0.0.0.0/0", "2001:db8::66:35/128", "2001:db8::/32"]
            .map(|prefix| Destination::Prefix(prefix.parse().unwrap())),
    );
    let mut updates: Vec<Vec<u8>> = Family::ALL.map(end_of_rib).to_vec();
    for (number, destination) in destinations.into_iter().enumerate() {
        updates.push(Announced::withdraw(&destination));
        let next_hop = match destination.family() {
            Family::Ipv4Unicast => Some("192.0.2.1".parse().unwrap()),
            Family::Ipv6Unicast => Some("2001:db8::1".parse().unwrap()),
            Family::Ipv4Flowspec | Family::Ipv6Flowspec => None,
        };
        let route = Route {
            destination,
            next_hop,
            path_length: u8::try_from(number % 3).unwrap(),
            communities: vec![Community::BLACKHOLE, Community::NO_EXPORT],
            extended: vec![[0x80, 6, 0, 0, 0x47, 0xf4, 0x24, 0], [0x80, 9, 0, 0, 0, 0, 0, 46]],
            large: vec![LargeCommunity([64_496, 0, 7])],
        };
        let (external, four_octet) = (number % 5 != 0, number % 4 != 0);
        updates.push(Announced { local_as: 4_200_000_000, external, four_octet }.announce(&route));
    }
    updates
}

/// An OPEN with everything that we know.
pub(crate) fn open() -> Open {
    Open {
        asn: 4_200_000_000,
        hold_time: 90,
        router_id: Ipv4Addr::new(192, 0, 2, 2),
        families: Family::ALL.map(|family| (family.afi(), family.safi())).to_vec(),
        four_octet: true,
        route_refresh: true,
        extended_message: true,
        graceful_restart: Some(GracefulRestart {
            restarting: true,
            notification: true,
            time: 120,
            families: vec![(1, 133, true), (1, 1, false)],
        }),
        add_path: vec![AddPath { family: (1, 1), receives: true, sends: true }],
    }
}

/// Messages of every kind.
pub(crate) fn messages() -> Vec<Vec<u8>> {
    let refresh = |subtype| [&[0xff; 16][..], &[0, 23, 5, 0, 1, subtype, 133]].concat();
    let shutdown = Notification { data: b"\x0bmaintenance".to_vec(), ..Notification::cease(cease::SHUTDOWN) };
    let mut messages = updates();
    // As many as there are UPDATEs of one kind, so that they have their turn.
    for _ in 0..8 {
        messages.push(open().encode());
        let plain = Open { asn: 64_497, four_octet: false, graceful_restart: None, ..open() };
        messages.push(plain.encode());
        messages.push(shutdown.encode());
        messages.push(shutdown.clone().hard().encode());
    }
    messages.extend([keepalive(), refresh(0), refresh(1)]);
    messages
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}
