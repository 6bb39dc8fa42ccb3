//! Challenges without I/O: what clients, forgers and everybody in between are told while SYNs that look like those of clients
//! arrive in a flood.

#![expect(clippy::unwrap_used, reason = "a test")]

#[cfg(test)]
#[expect(dead_code, reason = "shared with tests of the engine, which use more of it")]
mod traffic;

use std::time::Duration;

use levee_api::filter::{Action, Filter, HeaderBox, Origin, Rule, Target};
use levee_api::role::{Role, RoleSet};
use levee_api::zone::{Challenge, Mode, Zone};
use levee_engine::challenge::cookie;
use levee_engine::packet::Direction::{Inbound, Outbound};
use levee_engine::time::Timestamp;
use levee_engine::verdict::{Reason, Verdict};

use traffic::{MORE, SERVER, Site, TO_SERVER, Tcp, ack, attacker, datagram, syn, zone};

/// A client in a network of its own; the flood has none of its addresses.
const CLIENT: Tcp = Tcp { source: [198, 51, 100, 7], port: 40_000, ..TO_SERVER };

/// A SYN of the flood: like that of a client.
fn mimic(n: u64) -> Vec<u8> {
    let (source, port) = attacker(n);
    Tcp { source, port, ..TO_SERVER }.frame(b"")
}

/// The answer to a packet from outside, if it is answered.
fn answer(site: &mut Site, frame: &[u8]) -> Option<Vec<u8>> {
    let mut answer = frame.to_vec();
    (site.send(Inbound, frame) == Verdict::Reply).then(|| {
        let length = site.paths[0].reply(0, &mut answer).unwrap();
        answer.truncate(length);
        answer
    })
}

/// Some ticks of peace in a flood that no signature tells from clients. Says what became of how much of it.
fn flood(site: &mut Site, ticks: std::ops::Range<u64>) -> (usize, usize, usize) {
    let (mut sent, mut answered, mut passed) = (0, 0, 0);
    for tick in ticks {
        site.peace();
        for n in 0..100 {
            sent += 1;
            match site.send(Inbound, &mimic(tick * 100 + n)) {
                Verdict::Reply => answered += 1,
                Verdict::Forward | Verdict::Translate => passed += 1,
                Verdict::Drop(_) => {}
            }
        }
        site.tick();
    }
    (sent, answered, passed)
}

/// A zone under attack, whose clients are challenged.
fn attacked(how: Challenge) -> Site {
    let mut site = Site::learned(&[Zone { challenge: how, ..zone() }]);
    flood(&mut site, 0..25);
    site
}

/// Sequence and acknowledgement number and flags of an answer, which goes to the client.
fn numbers(answer: &[u8]) -> (u32, u32, u8) {
    assert_eq!((&answer[26..30], &answer[30..34]), (&SERVER[..], &CLIENT.source[..]));
    let word = |at: usize| u32::from_be_bytes(answer[at..at + 4].try_into().unwrap());
    (word(38), word(42), answer[47])
}

const SYN_ACK: u8 = 0x12;
const RST: u8 = 0x04;

/// What a client sends on a SYN-ACK.
fn acknowledges(answer: &[u8]) -> Tcp {
    let (sequence, acknowledgement, flags) = numbers(answer);
    assert_eq!((acknowledgement, flags), (CLIENT.seq + 1, SYN_ACK));
    Tcp { flags: "A", seq: acknowledgement, ack: sequence.wrapping_add(1), ..CLIENT }
}

#[test]
fn a_client_that_answers_passes_and_the_flood_does_not() {
    let mut site = attacked(Challenge::Reset);
    let asked = answer(&mut site, &CLIENT.frame(b"")).unwrap();
    let acknowledged = acknowledges(&asked);
    let reset = answer(&mut site, &acknowledged.frame(b"")).unwrap();
    let (sequence, _, flags) = numbers(&reset);
    assert_eq!((sequence, flags), (acknowledged.ack, RST));
    for port in 40_001..40_010 {
        assert_eq!(site.send(Inbound, &Tcp { port, ..CLIENT }.frame(b"")), Verdict::Forward, "it comes back");
    }
    let (sent, answered, passed) = flood(&mut site, 25..50);
    assert!(answered * 100 >= sent * 99 && passed == 0, "{answered} of {sent} answered, {passed} passed");
}

#[test]
fn the_flood_is_answered_from_the_tick_of_the_alarm_on() {
    let mut site = Site::learned(&[zone()]);
    let (sent, answered, passed) = flood(&mut site, 0..10);
    assert_eq!(sent, answered + passed);
    assert!(passed <= 200, "{passed} of the first {sent} passed: alarmed within two ticks at 20 times the threshold");
    assert_eq!(site.asked_of_clients, 0, "whoever has completed a handshake in peace is known");
}

#[test]
fn a_client_that_resets_what_it_did_not_ask_for_passes() {
    let mut site = attacked(Challenge::SafeReset);
    let asked = answer(&mut site, &CLIENT.frame(b"")).unwrap();
    let (_, cookie, flags) = numbers(&asked);
    assert_eq!(flags, SYN_ACK);
    assert_ne!(cookie, CLIENT.seq + 1, "it must not take the connection for open");
    let reset = Tcp { flags: "R", seq: cookie, ..CLIENT };
    assert_eq!(site.send(Inbound, &reset.frame(b"")), Verdict::Forward, "no answer to a reset");
    assert_eq!(site.send(Inbound, &CLIENT.frame(b"")), Verdict::Forward, "the same SYN again");
}

#[test]
fn numbers_that_were_not_given_verify_nobody() {
    let mut site = attacked(Challenge::Reset);
    let asked = answer(&mut site, &CLIENT.frame(b"")).unwrap();
    let right = acknowledges(&asked);
    let ack = right.ack;
    let wrong = [
        Tcp { ack: ack.wrapping_add(1), ..right },
        Tcp { ack: ack.wrapping_sub(1), ..right },
        Tcp { seq: right.seq + 1, ..right },
        Tcp { port: CLIENT.port + 1, ..right },
        Tcp { source: [198, 51, 100, 8], ..right },
        Tcp { flags: "R", seq: ack.wrapping_sub(1), ..right },
    ];
    for segment in wrong {
        assert_eq!(answer(&mut site, &segment.frame(b"")), None);
    }
    for n in 0..100_000_u32 {
        let guess = Tcp { ack: n.wrapping_mul(0x9e37_79b9), ..right };
        assert!(guess.ack == ack || answer(&mut site, &guess.frame(b"")).is_none());
    }
    assert!(answer(&mut site, &Tcp { port: 41_000, ..CLIENT }.frame(b"")).is_some(), "still asked");
}

#[test]
fn a_cookie_is_good_again_for_its_own_client_only_and_ends() {
    let mut site = attacked(Challenge::Reset);
    let asked = answer(&mut site, &CLIENT.frame(b"")).unwrap();
    let right = acknowledges(&asked).frame(b"");
    for _ in 0..3 {
        assert!(answer(&mut site, &right).is_some(), "a retransmission is answered like the first");
    }
    site.now = site.now + cookie::LIFETIME;
    assert_eq!(answer(&mut site, &right), None);
}

#[test]
fn data_with_the_answer_and_data_with_the_syn_change_nothing() {
    let mut site = attacked(Challenge::Reset);
    let asked = answer(&mut site, &CLIENT.frame(b"TCP fast open")).unwrap();
    assert_eq!(asked.len(), 60, "no longer than a SYN without data");
    assert!(answer(&mut site, &acknowledges(&asked).frame(b"GET / HTTP/1.1")).is_some());
    assert_eq!(site.send(Inbound, &Tcp { port: 40_001, ..CLIENT }.frame(b"TCP fast open")), Verdict::Forward);
}

#[test]
fn a_forged_network_is_not_sent_more_than_its_limit() {
    let mut site = attacked(Challenge::Reset);
    let (mut answered, mut dropped) = (0, 0);
    for n in 0..20_000_u16 {
        let [high, low] = n.to_be_bytes();
        let forged = Tcp { source: [198, 51, 100, low], port: 1_024 + u16::from(high), ..TO_SERVER };
        match site.send(Inbound, &forged.frame(b"")) {
            Verdict::Reply => answered += 1,
            Verdict::Drop(Reason::Challenge) => dropped += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((answered, dropped), (256, 20_000 - 256));
}

#[test]
fn a_verified_source_that_floods_is_asked_again() {
    let mut site = attacked(Challenge::Reset);
    let asked = answer(&mut site, &CLIENT.frame(b"")).unwrap();
    answer(&mut site, &acknowledges(&asked).frame(b"")).unwrap();
    let passes = |site: &mut Site| {
        let from = |port| Tcp { port, ..CLIENT }.frame(b"");
        (1_024..4_024).filter(|port| site.send(Inbound, &from(*port)) == Verdict::Forward).count()
    };
    assert_eq!(passes(&mut site), 100);
    site.now = site.now + Duration::from_millis(500);
    assert_eq!(passes(&mut site), 50);
}

#[test]
fn what_cannot_be_answered_does_not_pass_for_it() {
    let mut site = attacked(Challenge::Reset);
    let mut fragment = CLIENT.frame(&[0; 44]);
    fragment[20..22].copy_from_slice(&MORE.to_be_bytes());
    assert_eq!(site.send(Inbound, &fragment), Verdict::Drop(Reason::Challenge));
    let mut labelled = CLIENT.frame(b"");
    labelled.splice(12..14, [0x88, 0x47, 0, 1, 1, 64]);
    assert_eq!(site.send(Inbound, &labelled), Verdict::Forward, "labels are not the client's");
    let mut tagged = CLIENT.frame(b"");
    tagged.splice(12..12, [0x81, 0, 0, 9]);
    assert_eq!(site.send(Inbound, &tagged), Verdict::Reply);
}

#[test]
fn where_strangers_are_dropped_a_verified_client_goes_on_with_a_connection_that_was_forgotten() {
    for (how, spared) in [(Challenge::Reset, 8), (Challenge::Off, 0)] {
        let mut site = Site::learned(&[Zone { challenge: how, ..zone() }]);
        let client = site.connect_from(CLIENT.source, CLIENT.port);
        // Connections are forgotten after five minutes, verified sources after ten.
        site.now = site.now + Duration::from_secs(310);
        ask(&mut site, Role::OutOfState.set(), Action::Drop);
        assert_eq!(site.send(Inbound, &ack(SERVER, 1)), Verdict::Drop(Reason::Filter));
        let passes = (0..50).filter(|_| site.send(Inbound, &client.data(b"again")) == Verdict::Forward).count();
        assert_eq!(passes, spared, "{how:?}");
        // Once the server has answered it is known again.
        site.send(Outbound, &client.reply(100));
        assert_eq!(site.send(Inbound, &client.data(b"again")), Verdict::Forward);
    }
}

#[test]
fn a_crowd_is_never_asked() {
    let mut site = Site::learned(&[zone()]);
    for tick in 0..300_u64 {
        site.peace();
        for n in 0..30 {
            let n = tick * 30 + n;
            let [a, b, ..] = n.to_le_bytes();
            let client = Tcp { source: [198, 51, b, a], port: 50_000, ..TO_SERVER };
            let back = Tcp { source: SERVER, port: 443, destination: client.source, to_port: 50_000, ..TO_SERVER };
            assert_eq!(site.send(Inbound, &client.frame(b"")), Verdict::Forward);
            site.send(Outbound, &Tcp { flags: "SA", seq: 9_000, ack: 101, ..back }.frame(b""));
            let acknowledged = Tcp { flags: "A", seq: 101, ack: 9_001, ..client };
            assert_eq!(site.send(Inbound, &acknowledged.frame(b"GET /")), Verdict::Forward);
        }
        site.tick();
    }
}

#[test]
fn a_signature_drops_what_it_matches_before_it_is_asked() {
    let mut site = Site::learned(&[zone()]);
    let mut last = (0, 0);
    for tick in 0..100 {
        site.peace();
        last = (0, 0);
        for n in 0..40 {
            match site.send(Inbound, &syn(SERVER, tick * 40 + n, 512)) {
                Verdict::Reply => last.0 += 1,
                Verdict::Drop(Reason::Filter) => last.1 += 1,
                _ => {}
            }
        }
        site.tick();
    }
    assert_eq!(last, (0, 40), "answered, dropped");
}

#[test]
fn in_hold_only_what_is_above_the_threshold_is_asked() {
    let mut site = attacked(Challenge::Reset);
    site.again(300);
    let stranger = |n: u8| Tcp { source: [198, 51, 100, n], ..CLIENT }.frame(b"");
    assert_eq!(site.send(Inbound, &stranger(9)), Verdict::Forward, "nobody is asked in peace");
    let (_, answered, passed) = flood(&mut site, 100..102);
    assert!(answered > passed, "a pulse that returns is asked at once: {answered} answered, {passed} passed");
}

#[test]
fn nobody_is_asked_where_it_is_off_or_only_watched() {
    for zone in [Zone { challenge: Challenge::Off, ..zone() }, Zone { mode: Mode::Monitor, ..zone() }] {
        let mut site = Site::learned(&[zone]);
        let (_, answered, _) = flood(&mut site, 0..50);
        assert_eq!(answered, 0);
    }
}

/// A zone whose control plane asks everybody, for queries too if `dns`.
fn asked_by_the_control_plane(dns: bool) -> Site {
    let mut site = Site::learned(&[Zone { challenge_dns: dns, ..zone() }]);
    let roles = Role::Syn.set().union(Role::UdpOpen.set()).union(Role::UdpUnserved.set());
    ask(&mut site, roles, Action::Challenge { above_pps: 0 });
    site
}

/// What the control plane does to everything of some roles.
fn ask(site: &mut Site, roles: RoleSet, action: Action) {
    let filter = Filter {
        id: 1,
        target: Target { zone: "web".to_owned(), prefix: None },
        roles,
        rule: Rule::of(HeaderBox::any()),
        action,
        deadline: Timestamp(site.now.0 + 1_000_000_000),
        origin: Origin::ControlPlane { owner: "test".to_owned() },
        witness: String::new(),
    };
    site.engine.detector.measures.install_external(filter).unwrap();
    site.tick();
}

#[test]
fn the_control_plane_may_ask() {
    let mut site = asked_by_the_control_plane(false);
    assert!(answer(&mut site, &CLIENT.frame(b"")).is_some());
    assert_eq!(site.send(Inbound, &query(QUERY)), Verdict::Forward, "queries only where the zone says so");
}

const QUERY: &[u8] = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03www\x07example\0\0\x01\0\x01";

fn query(message: &[u8]) -> Vec<u8> {
    let mut frame = datagram(CLIENT.source, 33_333, SERVER, 53, message.len());
    let at = frame.len() - message.len();
    frame[at..].copy_from_slice(message);
    frame
}

#[test]
fn a_resolver_comes_back_over_tcp_and_its_queries_pass_then() {
    let mut site = asked_by_the_control_plane(true);
    let truncated = answer(&mut site, &query(QUERY)).unwrap();
    assert_eq!((truncated[42 + 2], truncated.len()), (0x83, 14 + 28 + QUERY.len()), "a response, truncated");
    let opens = Tcp { to_port: 53, ..CLIENT };
    let asked = answer(&mut site, &opens.frame(b"")).unwrap();
    let acknowledged = Tcp { to_port: 53, ..acknowledges(&asked) };
    assert!(answer(&mut site, &acknowledged.frame(b"")).is_some());
    assert_eq!(site.send(Inbound, &opens.frame(b"")), Verdict::Forward);
    assert_eq!(site.send(Inbound, &query(QUERY)), Verdict::Forward);
}

#[test]
fn datagrams_that_are_no_queries_do_not_pass_for_them() {
    let mut site = asked_by_the_control_plane(true);
    assert_eq!(site.send(Inbound, &query(&[0xab; 40])), Verdict::Drop(Reason::Challenge));
    let other = datagram(CLIENT.source, 33_333, SERVER, 443, 40);
    assert_eq!(site.send(Inbound, &other), Verdict::Forward, "nothing to ask");
}
