//! No flood can be made larger by being answered: whatever the generator sends, each answer takes the place of one packet that was held back,
//! and is not longer.
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
use levee_tests::attack::{Aim, Attack, Kind};
use levee_tests::frame::Link;

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

#[derive(Default)]
struct Seen {
    held: (usize, usize),
    answered: (usize, usize),
    opened: usize,
}

fn send(path: &mut Pipeline, frame: &[u8], now: Timestamp, seen: &mut Seen) -> Option<Vec<u8>> {
    let packet = Packet { head: frame, wire_len: u32::try_from(frame.len()).unwrap() };
    let mut verdict = [Verdict::Forward];
    path.burst(0, Direction::Inbound, &[packet], now, &mut verdict);
    let held = |seen: &mut Seen| seen.held = (seen.held.0 + 1, seen.held.1 + frame.len());
    match verdict[0] {
        Verdict::Forward => None,
        Verdict::Drop(_) => {
            held(seen);
            None
        }
        Verdict::Translate => {
            let mut room = frame.to_vec();
            room.resize(frame.len() + GROWTH, 0);
            assert!(path.translate(0, &mut room, frame.len()).is_some());
            seen.opened += 1;
            None
        }
        Verdict::Reply => {
            held(seen);
            let mut answer = frame.to_vec();
            let length = path.reply(0, &mut answer).unwrap();
            assert!(length <= frame.len(), "{length} bytes for {}", frame.len());
            answer.truncate(length);
            seen.answered = (seen.answered.0 + 1, seen.answered.1 + length);
            Some(answer)
        }
    }
}

#[test]
fn answers_are_never_more_or_longer_than_what_is_held_back() {
    for how in [Challenge::Reset, Challenge::SafeReset, Challenge::Proxy] {
        let (_engine, mut path) = challenged(how);
        let (mut answered, mut opened, mut now) = (0, 0, START);
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
                    let answer = send(&mut path, &frame, now, &mut seen);
                    // A client that is there acknowledges what it gets.
                    if let Some(acknowledged) = answer.and_then(|answer| acknowledgement(&answer, &frame)) {
                        send(&mut path, &acknowledged, now, &mut seen);
                    }
                }
                assert!(seen.answered.0 <= seen.held.0 && seen.answered.1 <= seen.held.1, "{}", kind.name());
                if kind == Kind::SynMimic {
                    // Who has acknowledged before, as another kind, passes.
                    assert!(seen.answered.0 * 2 >= FRAMES, "{target}: {} answered", seen.answered.0);
                }
                answered += seen.answered.0;
                opened += seen.opened;
            }
        }
        println!("{how:?}: {answered} answers, {opened} connections opened");
        assert_eq!(how == Challenge::Proxy, opened > 0);
    }
}
