//! What holds for every kind, and what tells some of them.

use std::net::IpAddr;

use etherparse::{SlicedPacket, TransportSlice};

use super::*;
use crate::frame::{flags, protocol};

const TARGETS: [&str; 2] = ["203.0.113.0/28", "2001:db8:a::/124"];

fn aim(kind: Kind, target: &str, seed: u64) -> Aim {
    Aim { kind, target: target.parse().unwrap(), port: None, sources: None, seed, link: Link::default() }
}

fn frames(kind: Kind, target: &str, seed: u64, count: usize) -> Vec<Vec<u8>> {
    let mut attack = Attack::new(aim(kind, target, seed));
    (0..count)
        .map(|_| {
            let mut frame = Vec::new();
            attack.next_frame(&mut frame);
            frame
        })
        .collect()
}

/// Every kind towards both versions of IP.
fn each(mut check: impl FnMut(Kind, &str)) {
    for kind in Kind::all() {
        for target in TARGETS {
            if kind.suits(Family::of(target.parse::<IpNet>().unwrap().addr())) {
                check(kind, target);
            }
        }
    }
}

/// Source, destination and time to live.
fn ends(frame: &[u8]) -> (IpAddr, IpAddr, u8) {
    let four = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&frame[at..at + 4]).unwrap());
    let sixteen = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&frame[at..at + 16]).unwrap());
    if frame[12..14] == [8, 0] { (four(26), four(30), frame[22]) } else { (sixteen(22), sixteen(38), frame[21]) }
}

#[test]
fn every_vector_has_a_kind_that_is_known_by_its_name() {
    for kind in Kind::all() {
        assert_eq!(kind.name().parse::<Kind>().unwrap(), kind);
    }
    assert!("pulse-wave".parse::<Kind>().is_err());
    assert_eq!(Kind::all().count(), Vector::ALL.len() + 2);
}

#[test]
fn the_same_seed_gives_the_same_frames_and_another_seed_others() {
    each(|kind, target| {
        assert_eq!(frames(kind, target, 7, 100), frames(kind, target, 7, 100), "{kind}");
        assert_ne!(frames(kind, target, 7, 100), frames(kind, target, 8, 100), "{kind}");
    });
}

#[test]
fn every_frame_of_every_kind_fits_the_wire_comes_from_the_attack_set_and_hits_the_target() {
    each(|kind, target| {
        for frame in frames(kind, target, 3, 200) {
            assert!(frame.len() <= MTU + 14, "{kind}: {} bytes", frame.len());
            let (source, destination, ttl) = ends(&frame);
            assert!(address::is_attacker(source), "{kind}");
            assert!(target.parse::<IpNet>().unwrap().contains(&destination), "{kind}");
            assert!((30..=250).contains(&ttl), "{kind}: TTL {ttl}");
            let read = SlicedPacket::from_ethernet(&frame);
            assert!(read.is_ok() || kind == Kind::Vector(Vector::MalformedFlood), "{kind}: {read:?}");
        }
    });
}

#[test]
fn a_syn_flood_has_the_constants_of_one_tool_and_a_mimic_has_not() {
    let windows = |kind| {
        frames(kind, TARGETS[0], 4, 200)
            .iter()
            .map(|frame| {
                let packet = SlicedPacket::from_ethernet(frame).unwrap();
                let Some(TransportSlice::Tcp(tcp)) = packet.transport else { panic!("no TCP") };
                assert!(tcp.syn() && !tcp.ack());
                (tcp.window_size(), tcp.options().len())
            })
            .collect::<std::collections::HashSet<_>>()
            .len()
    };
    assert_eq!(windows(Kind::Vector(Vector::SynFlood)), 1);
    assert!(windows(Kind::SynMimic) > 2);
}

#[test]
fn dns_responses_come_whole_and_in_fragments() {
    let later = frames(Kind::Vector(Vector::DnsAmplification), TARGETS[0], 5, 500)
        .iter()
        .filter(|frame| u16::from_be_bytes([frame[20], frame[21]]) & 0x1fff != 0)
        .count();
    assert!((100..400).contains(&later), "{later} of 500 are later fragments");
}

#[test]
fn a_botnet_of_some_size_has_that_many_addresses() {
    let mut attack = Attack::new(Aim { sources: Some(20), ..aim(Kind::Vector(Vector::UdpRandom), TARGETS[0], 6) });
    let mut frame = Vec::new();
    let sources: std::collections::HashSet<_> = (0..2_000)
        .map(|_| {
            attack.next_frame(&mut frame);
            ends(&frame).0
        })
        .collect();
    assert_eq!(sources.len(), 20);
}

#[test]
fn servers_answer_in_their_way() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut answered = |vector, target| {
        let kind = Kind::Vector(vector);
        let inbound = frames(kind, target, 1, 1).remove(0);
        let frame = answer(kind, &inbound, Link::default(), &mut rng)?;
        let (to, from) = (ends(&inbound), ends(&frame));
        assert_eq!((to.0, to.1), (from.1, from.0), "{vector}");
        SlicedPacket::from_ethernet(&frame).unwrap();
        Some((frame[frame::transport(&frame)..].to_vec(), inbound[frame::transport(&inbound)..].to_vec()))
    };
    for target in TARGETS {
        let (syn_ack, syn) = answered(Vector::SynFlood, target).unwrap();
        assert_eq!(syn_ack[13], flags::SYN | flags::ACK);
        let number = |segment: &[u8], at: usize| u32::from_be_bytes(segment[at..at + 4].try_into().unwrap());
        assert_eq!(number(&syn_ack, 8), number(&syn, 4).wrapping_add(1));
        for vector in [Vector::AckFlood, Vector::SynAckReflection] {
            let (reset, stray) = answered(vector, target).unwrap();
            assert_eq!((reset[13], number(&reset, 4)), (flags::RST, number(&stray, 8)));
        }
        assert!(answered(Vector::RstFlood, target).is_none());
        assert!(answered(Vector::UdpFragment, target).is_none() || target.contains(':'));
        let (name_error, query) = answered(Vector::DnsWaterTorture, target).unwrap();
        assert_eq!((name_error[8..10].to_vec(), name_error[11] & 15), (query[8..10].to_vec(), 3));
        let (initial, asked) = answered(Vector::QuicInitialFlood, target).unwrap();
        assert_eq!(initial[14..22], asked[23..31]);
        let (error, _) = answered(Vector::UdpRandom, target).unwrap();
        assert_eq!(error[..2], if target.contains(':') { [1, 4] } else { [3, 3] });
    }
    assert_eq!(answered(Vector::IcmpFlood, TARGETS[0]).unwrap().0[0], 0);
    assert_eq!(answered(Vector::Icmpv6Flood, TARGETS[1]).unwrap().0[0], 129);
}

#[test]
fn bots_complete_their_handshakes_and_a_flood_inside_connections_goes_on_with_their_numbers() {
    let of = |vector| Bots::new(aim(Kind::Vector(vector), TARGETS[0], 9));
    let flags_of = |events: &[crate::conversation::Event]| -> Vec<(bool, u8)> {
        events.iter().map(|event| (event.inbound, event.frame[frame::transport(&event.frame) + 13])).collect()
    };
    let opened = [(true, flags::SYN), (false, flags::SYN | flags::ACK), (true, flags::ACK)];
    assert_eq!(flags_of(&of(Vector::TcpConnectionFlood).strike(5)), opened);
    for vector in [Vector::HttpRequestFlood, Vector::TlsHandshakeFlood] {
        let events = of(vector).strike(5);
        assert_eq!(flags_of(&events)[..3], opened);
        assert_eq!(flags_of(&events)[3], (true, flags::PSH | flags::ACK));
    }
    let mut inside = of(Vector::EstablishedFlood);
    let numbers: Vec<(Vec<u8>, Vec<u8>)> = inside
        .prelude(1_000_000_000)
        .iter()
        .filter(|event| !event.inbound)
        .map(|event| (event.frame[34..36].to_vec(), event.frame[42..46].to_vec()))
        .collect();
    let mut sending = Bots::new(aim(Kind::EstablishedData, TARGETS[0], 9));
    sending.prelude(1_000_000_000);
    for _ in 0..1_000 {
        let [data, answer] = &sending.strike(2_000_000_000)[..] else { panic!("data and its acknowledgement") };
        let number = |frame: &[u8], at: usize| u32::from_be_bytes(frame[at..at + 4].try_into().unwrap());
        let length = u32::try_from(data.frame.len() - 54).unwrap();
        assert_eq!(number(&answer.frame, 42), number(&data.frame, 38).wrapping_add(length));
    }
    let [packet] = &inside.strike(2_000_000_000)[..] else { panic!("one packet") };
    assert_eq!(packet.frame[23], protocol::TCP);
    assert!(numbers.contains(&(packet.frame[36..38].to_vec(), packet.frame[38..42].to_vec())));
}
