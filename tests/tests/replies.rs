//! No flood can be made larger by being answered: whatever the generator sends, each answer takes the place of one packet that was held back,
//! and is not longer. Nothing of that allocates: challenging, answering, opening connections, rewriting what goes on in them.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says why and fails")]

use std::num::NonZeroU32;
use std::time::Duration;

use levee_api::filter::{Action, Filter, HeaderBox, Origin, Rule, Target};
use levee_api::role::Role;
use levee_api::time::Timestamp;
use levee_api::zone::{Challenge, Mode, Service, Visibility, Zone};
use levee_engine::challenge::translation::GROWTH;
use levee_engine::engine::{Engine, Settings};
use levee_engine::isa::Isa;
use levee_engine::packet::{Direction, Packet};
use levee_engine::pipeline::Pipeline;
use levee_engine::tables::OnFailure;
use levee_engine::verdict::Verdict;
use levee_tests::allocations::{self, Counting};
use levee_tests::attack::{Aim, Attack, Kind};
use levee_tests::frame::Link;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const START: Timestamp = Timestamp(1_000_000_000_000);
/// Of each kind.
const FRAMES: usize = 500;

/// Where everything that can be challenged is.
fn challenged(how: Challenge) -> (Engine, Pipeline) {
    let zone = Zone {
        name: "site".to_owned(),
        prefixes: vec!["203.0.113.0/24".parse().unwrap(), "2001:db8:a::/48".parse().unwrap()],
        mode: Mode::Enforce,
        services: [6, 17].map(|protocol| Service { protocol, ports: vec![(53, 53), (80, 80), (443, 443)] }).to_vec(),
        services_complete: false,
        visibility: Visibility::Both,
        challenge: how,
        challenge_dns: true,
        link_capacity_bps: None,
        floors: Vec::new(),
        runbook: None,
    };
    let settings = Settings {
        workers: NonZeroU32::MIN,
        conversations: 1 << 14,
        hosts: 1 << 10,
        filters: 1 << 10,
        secret: (1, 2),
        ceiling: Mode::Enforce,
        evicted: OnFailure::Pass,
        too_deep: OnFailure::Pass,
        spare_slots: 0,
        learn_only: false,
        isa: Isa::detect(),
    };
    let (mut engine, mut paths) = Engine::build(&[zone], &[], settings, START).unwrap();
    let filter = Filter {
        id: 1,
        target: Target { zone: "site".to_owned(), prefix: None },
        roles: Role::Syn.set().union(Role::UdpOpen.set()).union(Role::UdpUnserved.set()),
        rule: Rule::of(HeaderBox::any()),
        action: Action::Challenge { above_pps: 0 },
        deadline: Timestamp::NEVER,
        origin: Origin::ControlPlane { owner: "test".to_owned() },
        witness: String::new(),
    };
    engine.detector.measures.install_external(filter).unwrap();
    engine.settle(START);
    (engine, paths.remove(0))
}

/// What a client that has got a SYN-ACK sends, made of it.
fn acknowledgement(answer: &[u8], asked: &[u8]) -> Option<Vec<u8>> {
    let l4 = match asked.get(12..14)? {
        [0x08, 0x00] if asked.get(14)? == &0x45 => 34,
        [0x86, 0xdd] => 54,
        _ => return None,
    };
    let is_syn_ack = answer.get(l4 + 13)? & 0x12 == 0x12;
    let mut frame = asked.get(..l4 + 20)?.to_vec();
    let row = |at: usize| answer.get(at..at + 4).map(|row| u32::from_be_bytes(row.try_into().unwrap()));
    frame.splice(l4 + 4..l4 + 8, row(l4 + 8)?.to_be_bytes());
    frame.splice(l4 + 8..l4 + 12, row(l4 + 4)?.wrapping_add(1).to_be_bytes());
    frame[l4 + 12] = 0x50;
    frame[l4 + 13] = 0x10;
    let length = u16::try_from(frame.len() - 14).unwrap();
    if l4 == 34 {
        frame.splice(16..18, length.to_be_bytes());
    } else {
        frame.splice(18..20, (length - 40).to_be_bytes());
    }
    is_syn_ack.then_some(frame)
}

/// What a server says to a SYN, made of it.
fn acceptance(syn: &[u8]) -> Option<Vec<u8>> {
    let l4 = if syn.get(12..14)? == [0x08, 0x00] { 34 } else { 54 };
    let (mut frame, address) = (syn.get(..l4 + 20)?.to_vec(), if l4 == 34 { 4 } else { 16 });
    frame.get(l4 + 13).filter(|flags| **flags & 0x12 == 2)?;
    // Addresses, then ports, then numbers.
    frame[l4 - 2 * address..l4].rotate_left(address);
    frame[l4..l4 + 4].rotate_left(2);
    let first = u32::from_be_bytes(syn[l4 + 4..l4 + 8].try_into().unwrap());
    frame.splice(l4 + 4..l4 + 8, 1_000_u32.to_be_bytes());
    frame.splice(l4 + 8..l4 + 12, first.wrapping_add(1).to_be_bytes());
    (frame[l4 + 12], frame[l4 + 13]) = (0x50, 0x12);
    let length = u16::try_from(frame.len() - 14).unwrap();
    if l4 == 34 {
        frame.splice(16..18, length.to_be_bytes());
    } else {
        frame.splice(18..20, (length - 40).to_be_bytes());
    }
    Some(frame)
}

#[derive(Default)]
struct Seen {
    held: (usize, usize),
    answered: (usize, usize),
    translated: usize,
}

/// What a packet from one side becomes, if it does not pass as it is.
fn send(path: &mut Pipeline, from: Direction, frame: &[u8], now: Timestamp, seen: &mut Seen) -> Option<Vec<u8>> {
    let packet = Packet { head: frame, wire_len: u32::try_from(frame.len()).unwrap() };
    let (mut verdict, mut room) = ([Verdict::Forward], frame.to_vec());
    room.resize(frame.len() + GROWTH, 0);
    let before = allocations::so_far();
    path.burst(0, from, &[packet], now, &mut verdict);
    let length = match verdict[0] {
        Verdict::Forward | Verdict::Drop(_) => None,
        Verdict::Translate => path.translate(0, &mut room, frame.len()),
        Verdict::Reply => path.reply(0, &mut room[..frame.len()]),
    };
    assert_eq!(allocations::so_far() - before, 0);
    if matches!(verdict[0], Verdict::Drop(_) | Verdict::Reply) {
        seen.held = (seen.held.0 + 1, seen.held.1 + frame.len());
    }
    match verdict[0] {
        Verdict::Forward | Verdict::Drop(_) => return None,
        Verdict::Translate => seen.translated += 1,
        Verdict::Reply => {
            let length = length.unwrap();
            assert!(length <= frame.len(), "{length} bytes for {}", frame.len());
            seen.answered = (seen.answered.0 + 1, seen.answered.1 + length);
        }
    }
    room.truncate(length.unwrap());
    Some(room)
}

#[test]
fn answers_are_never_more_or_longer_than_what_is_held_back() {
    for how in [Challenge::Reset, Challenge::SafeReset, Challenge::Proxy] {
        let (_engine, mut path) = challenged(how);
        let (mut answered, mut translated, mut now) = (0, 0, START);
        for kind in Kind::all() {
            for target in ["203.0.113.10/32", "2001:db8:a::10/128"] {
                let aim = Aim {
                    kind,
                    target: target.parse().unwrap(),
                    port: None,
                    sources: None,
                    seed: 7,
                    link: Link::default(),
                };
                let (mut attack, mut frame, mut seen) = (Attack::new(aim), Vec::new(), Seen::default());
                for _ in 0..FRAMES {
                    now = now + Duration::from_micros(100);
                    attack.next_frame(&mut frame);
                    // As it is on the wire.
                    frame.resize(frame.len().max(60), 0);
                    let answer = send(&mut path, Direction::Inbound, &frame, now, &mut seen);
                    // A client that is there acknowledges what it gets, and so does the server if that is its SYN then.
                    let acknowledged = answer.and_then(|answer| acknowledgement(&answer, &frame));
                    let gone_on = acknowledged.and_then(|it| send(&mut path, Direction::Inbound, &it, now, &mut seen));
                    if let Some(answer) = gone_on.and_then(|syn| acceptance(&syn)) {
                        let told = send(&mut path, Direction::Outbound, &answer, now, &mut seen);
                        assert!(told.is_some(), "the client is told what the server says");
                    }
                }
                assert!(seen.answered.0 <= seen.held.0 && seen.answered.1 <= seen.held.1, "{}", kind.name());
                if kind == Kind::SynMimic {
                    // Who has acknowledged before, as another kind, passes.
                    assert!(seen.answered.0 * 2 >= FRAMES, "{target}: {} answered", seen.answered.0);
                }
                answered += seen.answered.0;
                translated += seen.translated;
            }
        }
        println!("{how:?}: {answered} answers, {translated} packets translated");
        assert_eq!(how == Challenge::Proxy, translated > 0);
    }
}
