//! Messages byte for byte, as real daemons took them, and whatever else a peer may send.

use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;

use super::*;
use crate::bgp::flowspec::{Nlri, TrafficAction, Version};
use crate::bgp::route::{Community, Destination, Family, LargeCommunity, Route};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

const US: Announced = Announced { local_as: 65_001, external: true, four_octet: true };

fn route(destination: Destination) -> Route {
    Route {
        destination,
        next_hop: None,
        path_length: 1,
        communities: Vec::new(),
        extended: Vec::new(),
        large: Vec::new(),
    }
}

fn rule(version: Version, encoded: &str) -> Destination {
    let encoded = bytes(encoded);
    Nlri::decode(version, &encoded).unwrap();
    Destination::Rule(version, encoded)
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// What a first speaker sent and GoBGP, BIRD and FRR took.
#[test]
fn announcements_and_withdrawals_are_the_bytes_that_daemons_took() {
    let fs4 = rule(Version::V4, "180120cb00712303811105130400d5ffff060135817b0c8002");
    let actions = [
        TrafficAction::RateBytes { asn: 0, rate: 125_000.0 },
        TrafficAction::Mark { dscp: 46 },
        TrafficAction::TrafficAction { goes_on: true, sample: true },
        TrafficAction::RedirectAs2 { asn: 65_001, number: 100 },
    ];
    let announced = Route { extended: actions.map(TrafficAction::encode).to_vec(), ..route(fs4.clone()) };
    assert_eq!(
        hex(&US.announce(&announced)),
        "ffffffffffffffffffffffffffffffff006802000000514001010040020602010000fde9800e1e0001850000180120cb0071230381110\
         5130400d5ffff060135817b0c8002c010208006000047f42400800900000000002e80070000000000038008fde900000064"
            .replace(' ', "")
    );
    assert_eq!(
        hex(&Announced::withdraw(&fs4)),
        "ffffffffffffffffffffffffffffffff0036020000001f800f1c000185180120cb00712303811105130400d5ffff060135817b0c8002"
    );
    let fs6 = rule(Version::V6, "1a01800020010db800000000000000000000003503811106912bcb");
    let announced = Route { extended: vec![bytes("800cfde9447a0000").try_into().unwrap()], ..route(fs6.clone()) };
    assert_eq!(
        hex(&US.announce(&announced)),
        "ffffffffffffffffffffffffffffffff0052020000003b4001010040020602010000fde9800e2000028500001a01800020010db80000000\
         0000000000000003503811106912bcbc01008800cfde9447a0000"
            .replace(' ', "")
    );
    assert_eq!(
        hex(&Announced::withdraw(&fs6)),
        "ffffffffffffffffffffffffffffffff00380200000021800f1e0002851a01800020010db80000000000000000000000350381110691\
         2bcb"
            .replace(' ', "")
    );
    let rtbh4 = Destination::Prefix("192.0.2.35".parse().unwrap());
    let announced = Route {
        next_hop: Some(address("10.99.0.99")),
        communities: vec![Community::BLACKHOLE, Community::NO_EXPORT],
        large: vec![LargeCommunity([65_001, 666, 0])],
        ..route(rtbh4.clone())
    };
    assert_eq!(
        hex(&US.announce(&announced)),
        "ffffffffffffffffffffffffffffffff004a020000002e4001010040020602010000fde94003040a630063c00808ffff029affffff01c0\
         200c0000fde90000029a0000000020c0000223"
            .replace(' ', "")
    );
    assert_eq!(hex(&Announced::withdraw(&rtbh4)), "ffffffffffffffffffffffffffffffff001c02000520c00002230000");
    // The first speaker had the communities behind the route; they stand in the order of their codes now.
    let rtbh6 = Destination::Prefix("2001:db8::66:35".parse().unwrap());
    let announced =
        Route { next_hop: Some(address("fd99::99")), communities: vec![Community::BLACKHOLE], ..route(rtbh6.clone()) };
    assert_eq!(
        hex(&US.announce(&announced)),
        "ffffffffffffffffffffffffffffffff0054020000003d4001010040020602010000fde9c00804ffff029a800e26000201\
         10fd990000000000000000000000000099008020010db8000000000000000000660035"
            .replace(' ', "")
    );
    assert_eq!(
        hex(&Announced::withdraw(&rtbh6)),
        "ffffffffffffffffffffffffffffffff002e0200000017800f140002018020010db8000000000000000000660035"
    );
    for (family, end) in [
        (Family::Ipv4Unicast, "00170200000000"),
        (Family::Ipv6Unicast, "001d0200000006800f03000201"),
        (Family::Ipv4Flowspec, "001d0200000006800f03000185"),
        (Family::Ipv6Flowspec, "001d0200000006800f03000285"),
    ] {
        assert_eq!(hex(&end_of_rib(family)), "ff".repeat(16) + end);
    }
}

#[test]
fn within_an_as_the_path_is_empty_and_to_old_peers_numbers_have_two_bytes() {
    let one = Route {
        next_hop: Some(address("192.0.2.1")),
        path_length: 2,
        ..route(Destination::Prefix("203.0.113.0/24".parse().unwrap()))
    };
    let internal = Announced { external: false, ..US };
    assert!(hex(&internal.announce(&one)).contains("400200400304c0000201400504 00000064".replace(' ', "").as_str()));
    let old = Announced { local_as: 4_200_000_000, external: true, four_octet: false };
    let sent = hex(&old.announce(&one));
    assert!(sent.contains("40020602025ba05ba0"), "AS_TRANS twice: {sent}");
    assert!(sent.contains("c0110a0202fa56ea00fa56ea00"), "the real numbers: {sent}");
}

fn open() -> Open {
    Open {
        asn: 4_200_000_000,
        hold_time: 90,
        router_id: Ipv4Addr::new(192, 0, 2, 1),
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
        add_path: Vec::new(),
    }
}

fn read(bytes: &[u8]) -> Result<Option<Message>, Notification> {
    let mut framer = Framer::default();
    framer.push(bytes);
    framer.next_message()
}

#[test]
fn an_open_is_read_as_it_was_written() {
    assert_eq!(read(&open().encode()), Ok(Some(Message::Open(open()))));
    let plain = Open { families: vec![(1, 1)], graceful_restart: None, ..open() };
    assert_eq!(read(&plain.encode()), Ok(Some(Message::Open(plain))));
}

#[test]
fn messages_are_found_in_a_stream_however_it_is_cut() {
    let mut stream = open().encode();
    stream.extend(keepalive());
    stream.extend(end_of_rib(Family::Ipv6Flowspec));
    stream.extend(Notification::cease(cease::SHUTDOWN).encode());
    let mut framer = Framer::default();
    let mut found = Vec::new();
    for byte in stream {
        framer.push(&[byte]);
        found.extend(framer.next_message().unwrap());
    }
    assert_eq!(
        found,
        [
            Message::Open(open()),
            Message::Keepalive,
            Message::Update(Update::Ignored),
            Message::Notification(Notification::cease(cease::SHUTDOWN))
        ]
    );
}

#[test]
fn what_is_wrong_is_answered_by_the_book() {
    let with = |at: usize, value: &[u8], mut message: Vec<u8>| {
        message[at..at + value.len()].copy_from_slice(value);
        read(&message)
    };
    for (wrong, code, subcode) in [
        (with(3, &[0], keepalive()), 1, 1),
        (with(16, &[0, 20], keepalive()), 1, 2),
        (with(16, &[0, 18], keepalive()), 1, 2),
        (with(16, &[0xff, 0xff], end_of_rib(Family::Ipv4Unicast)), 1, 2),
        (with(18, &[9], keepalive()), 1, 3),
        (with(19, &[3], open().encode()), 2, 1),
        (with(22, &[0, 2], open().encode()), 2, 6),
        (with(24, &[0; 4], open().encode()), 2, 3),
        (with(28, &[250], open().encode()), 2, 0),
        (with(29, &[1], open().encode()), 2, 4),
        (with(19, &[0, 9], end_of_rib(Family::Ipv4Unicast)), 3, 1),
        (with(21, &[0, 9], end_of_rib(Family::Ipv6Unicast)), 3, 1),
    ] {
        let notification = wrong.unwrap_err();
        assert_eq!((notification.code, notification.subcode), (code, subcode), "{notification}");
    }
    // An attribute that leads beyond the attributes is no reason to end a session that nothing is imported from.
    assert_eq!(with(25, &[99], end_of_rib(Family::Ipv6Unicast)), Ok(Some(Message::Update(Update::Malformed))));
}

#[test]
fn a_shutdown_is_shown_with_its_message() {
    let mut notification = Notification::cease(cease::SHUTDOWN);
    notification.data = b"\x0bmaintenance".to_vec();
    assert_eq!(notification.to_string(), "shut down (6/2): \"maintenance\"");
    notification.data = vec![200, 1, 2];
    assert_eq!(notification.to_string(), "shut down (6/2)");
    let hard = Notification::cease(cease::SHUTDOWN).hard();
    assert_eq!(hex(&hard.encode()), "ff".repeat(16) + "001703" + "06090602");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn any_message_is_read_or_refused(kind in 1_u8..7, body in prop::collection::vec(any::<u8>(), 0..120)) {
        let _ = read(&message(kind, &body));
    }

    #[test]
    fn an_open_that_was_damaged_is_read_or_refused(at in any::<prop::sample::Index>(), value in any::<u8>()) {
        let mut bytes = open().encode();
        let at = at.index(bytes.len());
        bytes[at] = value;
        let _ = read(&bytes);
    }

    #[test]
    fn any_stream_ends_in_messages_or_a_refusal(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..8)) {
        let mut framer = Framer::default();
        for chunk in chunks {
            framer.push(&chunk);
            while let Ok(Some(_)) = framer.next_message() {}
        }
    }
}
