//! Connections that are opened in the place of their server, without I/O: what a client and a server see of each other.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test")]

#[cfg(test)]
#[expect(dead_code, reason = "shared with tests of the engine, which use more of it")]
mod traffic;

use std::time::Duration;

use etherparse::{NetHeaders, PacketBuilder, PacketHeaders, TcpHeader, TcpOptionElement, TransportHeader};
use levee_api::filter::{Action, Filter, HeaderBox, Origin, Rule, Target};
use levee_api::role::Role;
use levee_api::zone::{Challenge, Visibility, Zone};
use levee_engine::challenge::cookie;
use levee_engine::challenge::translation::GROWTH;
use levee_engine::packet::Direction;
use levee_engine::packet::Direction::{Inbound, Outbound};
use levee_engine::time::Timestamp;
use levee_engine::verdict::{Reason, Verdict};
use proptest::prelude::*;

use traffic::{SERVER, Site, V6_SERVER, zone};

/// What somebody sends; the checksums are right.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Segment {
    flags: &'static str,
    seq: u32,
    ack: u32,
    window: u16,
    options: Vec<TcpOptionElement>,
    data: Vec<u8>,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fate {
    Passed(Segment),
    Answered(Segment),
    Dropped(Reason),
}

/// A client and a server with the dataplane between them, over IPv4 or IPv6.
struct Path {
    site: Site,
    is_v4: bool,
    port: u16,
}

const STAMPS: fn(u32, u32) -> TcpOptionElement = TcpOptionElement::Timestamp;

/// What Linux offers.
fn offer(value: u32, echo: u32) -> Vec<TcpOptionElement> {
    let sack = TcpOptionElement::SelectiveAcknowledgementPermitted;
    let mss = TcpOptionElement::MaximumSegmentSize(1460);
    vec![mss, sack, STAMPS(value, echo), TcpOptionElement::Noop, TcpOptionElement::WindowScale(7)]
}

impl Path {
    /// A zone whose clients are all challenged.
    fn challenged(how: Zone, is_v4: bool) -> Self {
        let mut site = Site::new(&[how], 1);
        let filter = Filter {
            id: 1,
            target: Target { zone: "web".to_owned(), prefix: None },
            roles: Role::Syn.set(),
            rule: Rule::of(HeaderBox::any()),
            action: Action::Challenge { above_pps: 0 },
            deadline: Timestamp(site.now.0 + 40_000_000_000_000),
            origin: Origin::ControlPlane { owner: "test".to_owned() },
            witness: String::new(),
        };
        site.engine.detector.measures.install_external(filter).unwrap();
        site.tick();
        Self { site, is_v4, port: 40_000 }
    }

    /// Where connections are opened, and what the server offers is known.
    fn new(is_v4: bool) -> Self {
        let mut path = Self::challenged(proxy(), is_v4);
        path.port = 1_024;
        path.server_sends(&Segment { flags: "SA", seq: 1, ack: 2, window: 9, options: offer(5, 5), data: vec![] });
        path.port = 40_000;
        path
    }

    fn client_sends(&mut self, segment: &Segment) -> Fate {
        self.send(Inbound, segment)
    }

    fn server_sends(&mut self, segment: &Segment) -> Fate {
        self.send(Outbound, segment)
    }

    fn send(&mut self, direction: Direction, segment: &Segment) -> Fate {
        let frame = self.frame(direction, segment);
        match self.site.send(direction, &frame) {
            Verdict::Forward => Fate::Passed(segment.clone()),
            Verdict::Translate => Fate::Passed(read(&self.translated(&frame))),
            Verdict::Reply => {
                let mut answer = frame.clone();
                let length = self.site.paths[0].reply(0, &mut answer).unwrap();
                Fate::Answered(read(&answer[..length]))
            }
            Verdict::Drop(reason) => Fate::Dropped(reason),
        }
    }

    fn translated(&self, frame: &[u8]) -> Vec<u8> {
        let mut room = frame.to_vec();
        room.resize(frame.len() + GROWTH, 0);
        let length = self.site.paths[0].translate(0, &mut room, frame.len()).unwrap();
        room.truncate(length);
        room
    }

    fn frame(&self, direction: Direction, segment: &Segment) -> Vec<u8> {
        let client = 0x2001_0db8_00ff_u128 << 80 | 1;
        let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let builder = match (direction, self.is_v4) {
            (Inbound, true) => builder.ipv4([198, 51, 100, 7], SERVER, 57),
            (Outbound, true) => builder.ipv4(SERVER, [198, 51, 100, 7], 64),
            (Inbound, false) => builder.ipv6(client.to_be_bytes(), V6_SERVER.to_be_bytes(), 57),
            (Outbound, false) => builder.ipv6(V6_SERVER.to_be_bytes(), client.to_be_bytes(), 64),
        };
        let ports = if direction == Inbound { (self.port, 443) } else { (443, self.port) };
        let mut header = TcpHeader::new(ports.0, ports.1, segment.seq, segment.window);
        header.acknowledgment_number = segment.ack;
        let has = |flag| segment.flags.contains(flag);
        (header.syn, header.ack, header.rst, header.fin) = (has('S'), has('A'), has('R'), has('F'));
        header.set_options(&segment.options).unwrap();
        let mut frame = Vec::new();
        builder.tcp_header(header).write(&mut frame, &segment.data).unwrap();
        frame
    }

    /// The handshake of a client that offers everything: what the client acknowledges, how far the server's numbers are ahead, and how
    /// far its timestamps are.
    fn open(&mut self, isn: u32, server_isn: u32) -> Open {
        let Fate::Answered(asked) = self.client_sends(&syn(isn)) else { panic!("not asked") };
        assert_eq!((asked.flags, asked.ack, asked.window), ("SA", isn.wrapping_add(1), 0));
        let told = stamps(&asked).unwrap();
        assert_eq!(told.1, 100, "the client's timestamp comes back");
        let cookie = asked.seq;
        let acknowledges = Segment {
            flags: "A",
            seq: isn.wrapping_add(1),
            ack: cookie.wrapping_add(1),
            window: 502,
            options: vec![STAMPS(101, told.0)],
            data: vec![],
        };
        let Fate::Passed(again) = self.client_sends(&acknowledges) else { panic!("not opened") };
        let expected =
            Segment { flags: "S", seq: isn, ack: 0, window: 64_256, options: again.options.clone(), data: vec![] };
        assert_eq!(again, expected);
        assert_eq!(words(&again.options), words(&offer(101, 0)), "what the client has offered");
        let answer = Segment {
            flags: "SA",
            seq: server_isn,
            ack: isn.wrapping_add(1),
            window: 65_160,
            options: offer(7_000_000, 101),
            data: vec![],
        };
        let Fate::Passed(probe) = self.server_sends(&answer) else { panic!("no probe") };
        assert_eq!((probe.flags, probe.seq, probe.ack), ("A", cookie, isn.wrapping_add(1)));
        assert_eq!((probe.window, probe.data.len()), (65_160 >> 7, 1));
        assert_eq!(stamps(&probe), Some((told.0, 101)));
        Open { cookie, isn, offset: server_isn.wrapping_sub(cookie), told: told.0, answer, acknowledges }
    }
}

struct Open {
    cookie: u32,
    isn: u32,
    offset: u32,
    told: u32,
    answer: Segment,
    acknowledges: Segment,
}

fn proxy() -> Zone {
    Zone { challenge: Challenge::Proxy, visibility: Visibility::Both, ..zone() }
}

fn syn(isn: u32) -> Segment {
    Segment { flags: "S", seq: isn, ack: 0, window: 64_240, options: offer(100, 0), data: vec![] }
}

fn stamps(segment: &Segment) -> Option<(u32, u32)> {
    segment.options.iter().find_map(|option| match option {
        TcpOptionElement::Timestamp(value, echo) => Some((*value, *echo)),
        _ => None,
    })
}

/// Options without what only fills up.
fn words(options: &[TcpOptionElement]) -> Vec<TcpOptionElement> {
    options.iter().filter(|option| **option != TcpOptionElement::Noop).cloned().collect()
}

/// A segment whose checksums are right.
fn read(frame: &[u8]) -> Segment {
    let read = PacketHeaders::from_ethernet_slice(frame).unwrap();
    let Some(TransportHeader::Tcp(tcp)) = read.transport else { panic!("no TCP") };
    let data = read.payload.slice();
    let check = match read.net.unwrap() {
        NetHeaders::Ipv4(ip, _) => {
            assert_eq!(ip.header_checksum, ip.calc_header_checksum());
            tcp.calc_checksum_ipv4(&ip, data).unwrap()
        }
        NetHeaders::Ipv6(ip, _) => tcp.calc_checksum_ipv6(&ip, data).unwrap(),
        NetHeaders::Arp(_) => panic!("no IP"),
    };
    assert_eq!(tcp.checksum, check);
    let flags = match (tcp.syn, tcp.ack, tcp.rst, tcp.fin) {
        (true, true, false, false) => "SA",
        (true, false, false, false) => "S",
        (false, true, false, false) => "A",
        (false, true, false, true) => "FA",
        (false, false, true, false) => "R",
        (false, true, true, false) => "RA",
        other => panic!("{other:?}"),
    };
    Segment {
        flags,
        seq: tcp.sequence_number,
        ack: tcp.acknowledgment_number,
        window: tcp.window_size,
        options: tcp.options_iterator().map(Result::unwrap).collect(),
        data: data.to_vec(),
    }
}

proptest! {
    #[test]
    fn both_sides_talk_to_each_other_in_their_own_numbers(is_v4: bool, isn: u32, server_isn: u32) {
        let mut path = Path::new(is_v4);
        let Open { cookie, offset, told, .. } = path.open(isn, server_isn);
        let (mut sent, mut received) = (isn.wrapping_add(1), cookie.wrapping_add(1));
        for round in 0..20_u32 {
            // The server's clock runs on, and the client gives it back.
            let request = Segment {
                flags: "A", seq: sent, ack: received, window: 500,
                options: vec![STAMPS(200 + round, told.wrapping_add(round))],
                data: b"GET / HTTP/1.1".to_vec(),
            };
            let expected = Segment {
                ack: received.wrapping_add(offset), options: vec![STAMPS(200 + round, 7_000_000 + round)], ..request.clone()
            };
            let Fate::Passed(passed) = path.client_sends(&request) else { panic!("round {round}") };
            prop_assert_eq!(words(&passed.options), words(&expected.options));
            prop_assert_eq!((passed.seq, passed.ack, passed.window, passed.data), (sent, expected.ack, 500, expected.data));
            sent = sent.wrapping_add(14);
            // Large enough steps to wrap in some of the cases.
            let response = Segment {
                flags: "A", seq: received.wrapping_add(offset), ack: sent, window: 600,
                options: vec![STAMPS(7_000_001 + round, 200 + round)], data: vec![0xcd; 1_000],
            };
            let Fate::Passed(passed) = path.server_sends(&response) else { panic!("round {round}") };
            prop_assert_eq!((passed.seq, passed.ack, passed.window), (received, sent, 600));
            prop_assert_eq!(stamps(&passed), Some((told.wrapping_add(1 + round), 200 + round)));
            received = received.wrapping_add(1_000);
        }
    }
}

#[test]
fn selective_acknowledgements_are_translated() {
    let mut path = Path::new(true);
    let Open { cookie, isn, offset, told, .. } = path.open(5, 0xffff_fff0);
    let edges = (cookie.wrapping_add(2_000), cookie.wrapping_add(3_000));
    let sack = TcpOptionElement::SelectiveAcknowledgement(edges, [None; 3]);
    let options = vec![STAMPS(110, told), TcpOptionElement::Noop, TcpOptionElement::Noop, sack];
    let lost = Segment { flags: "A", seq: isn + 1, ack: cookie.wrapping_add(1), window: 500, options, data: vec![] };
    let Fate::Passed(passed) = path.client_sends(&lost) else { panic!() };
    let expected = (edges.0.wrapping_add(offset), edges.1.wrapping_add(offset));
    assert!(passed.options.contains(&TcpOptionElement::SelectiveAcknowledgement(expected, [None; 3])));
}

#[test]
fn a_client_without_options_is_served_without() {
    let mut path = Path::new(true);
    let Fate::Answered(asked) = path.client_sends(&Segment { options: vec![], ..syn(7) }) else { panic!() };
    assert!(asked.options.is_empty());
    let ack = Segment { flags: "A", seq: 8, ack: asked.seq.wrapping_add(1), window: 64_000, ..Segment::default() };
    let Fate::Passed(again) = path.client_sends(&ack) else { panic!() };
    assert_eq!((again.flags, again.window), ("S", 64_000));
    assert_eq!(again.options, [TcpOptionElement::MaximumSegmentSize(536)]);
}

#[test]
fn what_a_server_is_not_known_to_offer_is_not_offered() {
    let mut path = Path::challenged(proxy(), true);
    let Fate::Answered(asked) = path.client_sends(&syn(7)) else { panic!() };
    assert_eq!(asked.options, [TcpOptionElement::MaximumSegmentSize(1360)]);
    // Nor is a connection opened with a server whose answers may go another way.
    let mut path = Path::challenged(Zone { visibility: Visibility::Auto, ..proxy() }, true);
    let Fate::Answered(asked) = path.client_sends(&syn(7)) else { panic!() };
    assert_eq!((asked.window, asked.options.len()), (u16::MAX, 0));
    let ack = Segment { flags: "A", seq: 8, ack: asked.seq.wrapping_add(1), window: 500, ..Segment::default() };
    let Fate::Answered(reset) = path.client_sends(&ack) else { panic!() };
    assert_eq!(reset.flags, "R");
}

#[test]
fn windows_are_in_the_units_that_each_side_knows() {
    let scaled = |scale: Option<u8>| {
        let mut path = Path::new(true);
        let Fate::Answered(asked) = path.client_sends(&syn(7)) else { panic!() };
        let ack = Segment { flags: "A", seq: 8, ack: asked.seq.wrapping_add(1), window: 500, ..Segment::default() };
        let Fate::Passed(_) = path.client_sends(&ack) else { panic!() };
        let options = scale.map(TcpOptionElement::WindowScale).into_iter().collect();
        let answer = Segment { flags: "SA", seq: 1_000, ack: 8, window: 60_000, options, data: vec![] };
        let Fate::Passed(probe) = path.server_sends(&answer) else { panic!() };
        let from_server = Segment { flags: "A", seq: 1_001, ack: 8, window: 1_000, ..Segment::default() };
        let Fate::Passed(to_client) = path.server_sends(&from_server) else { panic!() };
        let Fate::Passed(to_server) = path.client_sends(&ack) else { panic!() };
        let Fate::Passed(probe_again) = path.server_sends(&answer) else { panic!() };
        assert_eq!(probe, probe_again, "a SYN-ACK that is sent again is the same");
        (probe.window, to_client.window, to_server.window)
    };
    assert_eq!(scaled(Some(7)), (60_000 >> 7, 1_000, 500), "as the client was told");
    assert_eq!(scaled(Some(9)), (60_000 >> 7, 4_000, 500));
    assert_eq!(scaled(Some(5)), (60_000 >> 7, 250, 500));
    assert_eq!(scaled(None), (60_000 >> 7, 1_000 >> 7, 64_000), "a server that does not scale");
}

#[test]
fn what_comes_before_the_server_has_answered_waits_and_asks_again() {
    let mut path = Path::new(true);
    let Fate::Answered(asked) = path.client_sends(&syn(7)) else { panic!() };
    let ack = Segment { flags: "A", seq: 8, ack: asked.seq.wrapping_add(1), window: 500, ..Segment::default() };
    let data = Segment { data: b"GET /".to_vec(), ..ack.clone() };
    // As Linux probes a closed window.
    let probe = Segment { seq: 7, ..ack.clone() };
    let Fate::Passed(first) = path.client_sends(&ack) else { panic!() };
    for held in [&ack, &data, &probe] {
        assert_eq!(path.client_sends(held), Fate::Dropped(Reason::Challenge));
    }
    for again in [&ack, &data, &probe] {
        path.site.now = path.site.now + Duration::from_millis(2_500);
        assert_eq!(path.client_sends(again), Fate::Passed(first.clone()), "the same SYN again");
    }
    let answer = Segment { flags: "SA", seq: 50, ack: 8, window: 60_000, options: offer(1, 1), data: vec![] };
    assert!(matches!(path.server_sends(&answer), Fate::Passed(probe) if probe.data.len() == 1));
    let Fate::Passed(passed) = path.client_sends(&data) else { panic!() };
    assert_eq!((passed.ack, passed.data), (51, b"GET /".to_vec()));
}

#[test]
fn a_closed_port_says_so() {
    let mut path = Path::new(true);
    let Fate::Answered(asked) = path.client_sends(&syn(7)) else { panic!() };
    let ack = Segment { flags: "A", seq: 8, ack: asked.seq.wrapping_add(1), window: 500, ..Segment::default() };
    path.client_sends(&ack);
    let refusal = Segment { flags: "RA", seq: 0, ack: 8, ..Segment::default() };
    let expected = Segment { seq: asked.seq.wrapping_add(1), ..refusal.clone() };
    assert_eq!(path.server_sends(&refusal), Fate::Passed(expected));
}

#[test]
fn an_older_connection_of_the_server_is_ended_as_its_client_would() {
    let mut path = Path::new(true);
    let Fate::Answered(asked) = path.client_sends(&syn(7)) else { panic!() };
    let ack = Segment { flags: "A", seq: 8, ack: asked.seq.wrapping_add(1), window: 500, ..Segment::default() };
    path.client_sends(&ack);
    let old = Segment { flags: "A", seq: 900, ack: 12_345, window: 7, ..Segment::default() };
    let Fate::Answered(reset) = path.server_sends(&old) else { panic!() };
    assert_eq!((reset.flags, reset.seq), ("R", 12_345));
}

#[test]
fn another_connection_between_the_same_ports_is_another_one() {
    let mut path = Path::new(true);
    let open = path.open(7, 1_000);
    // The source is verified by now, and its SYN passes.
    assert_eq!(path.client_sends(&syn(90_000)), Fate::Passed(syn(90_000)));
    let answer = Segment { seq: 77_777, ack: 90_001, ..open.answer };
    assert_eq!(path.server_sends(&answer), Fate::Passed(answer.clone()));
    let ack = Segment { flags: "A", seq: 90_001, ack: 77_778, window: 500, ..Segment::default() };
    assert_eq!(path.client_sends(&ack), Fate::Passed(ack.clone()));
}

#[test]
fn a_connection_is_translated_until_both_sides_have_closed_and_a_while_longer() {
    let mut path = Path::new(true);
    let Open { cookie, isn, offset, .. } = path.open(7, 1_000);
    let data = Segment { flags: "A", seq: isn + 1, ack: cookie.wrapping_add(1), window: 500, ..Segment::default() };
    let translates = |path: &mut Path| {
        path.client_sends(&data) == Fate::Passed(Segment { ack: data.ack.wrapping_add(offset), ..data.clone() })
    };
    path.site.now = path.site.now + Duration::from_secs(7_000);
    assert!(translates(&mut path), "idle for two hours");
    path.client_sends(&Segment { flags: "FA", ..data.clone() });
    path.site.now = path.site.now + Duration::from_secs(3_000);
    assert!(translates(&mut path), "half-closed: the server may go on");
    path.server_sends(&Segment { flags: "FA", seq: 1_001, ack: isn + 2, ..Segment::default() });
    path.site.now = path.site.now + Duration::from_secs(30);
    assert!(translates(&mut path), "late segments");
    path.site.now = path.site.now + Duration::from_secs(70);
    assert!(!translates(&mut path), "over");
}

#[test]
fn a_reset_reaches_the_other_side_in_its_numbers() {
    let mut path = Path::new(true);
    let Open { cookie, offset, isn, .. } = path.open(7, 1_000);
    let server = Segment { flags: "R", seq: 1_001, ..Segment::default() };
    assert_eq!(path.server_sends(&server), Fate::Passed(Segment { seq: cookie.wrapping_add(1), ..server.clone() }));
    let client = Segment { flags: "RA", seq: isn + 1, ack: cookie.wrapping_add(1), ..Segment::default() };
    let expected = Segment { ack: client.ack.wrapping_add(offset), ..client.clone() };
    assert_eq!(path.client_sends(&client), Fate::Passed(expected));
}

#[test]
fn an_error_of_the_path_quotes_what_the_server_has_sent() {
    for is_v4 in [true, false] {
        let mut path = Path::new(is_v4);
        let Open { cookie, offset, isn, .. } = path.open(7, 0xffff_ff00);
        let quoted = path.frame(
            Outbound,
            &Segment {
                flags: "A",
                seq: cookie.wrapping_add(1),
                ack: isn + 1,
                data: vec![0; 100],
                ..Segment::default()
            },
        );
        let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let mut frame = Vec::new();
        let router = 0x2001_0db8_00ee_u128 << 80 | 1;
        if is_v4 {
            let builder = builder.ipv4([198, 51, 100, 1], SERVER, 57).icmpv4_raw(3, 4, [0, 0, 5, 0]);
            builder.write(&mut frame, &quoted[14..]).unwrap();
        } else {
            let builder =
                builder.ipv6(router.to_be_bytes(), V6_SERVER.to_be_bytes(), 57).icmpv6_raw(2, 0, [0, 0, 5, 0]);
            builder.write(&mut frame, &quoted[14..]).unwrap();
        }
        assert_eq!(path.site.send(Inbound, &frame), Verdict::Translate);
        let passed = path.translated(&frame);
        let at = if is_v4 { 14 + 20 + 8 + 20 + 4 } else { 14 + 40 + 8 + 40 + 4 };
        assert_eq!(passed[at..at + 4], cookie.wrapping_add(1).wrapping_add(offset).to_be_bytes());
    }
}

#[test]
fn the_policy_may_change_while_connections_last() {
    let mut path = Path::new(true);
    let open = path.open(7, 1_000);
    let Fate::Answered(asked) = ({
        path.port += 1;
        path.site.now = path.site.now + Duration::from_secs(700);
        path.client_sends(&syn(9))
    }) else {
        panic!()
    };
    let other = Zone { challenge: Challenge::Reset, ..proxy() };
    path.site.engine.replace_zones(&[other], &[], path.site.now).unwrap();
    path.site.tick();
    let ack = Segment { flags: "A", seq: 10, ack: asked.seq.wrapping_add(1), window: 500, ..Segment::default() };
    let Fate::Passed(again) = path.client_sends(&ack) else { panic!("what was asked before is heard") };
    assert_eq!(again.flags, "S");
    path.port -= 1;
    let Fate::Passed(passed) = path.client_sends(&open.acknowledges) else { panic!() };
    assert_eq!(passed.ack, 1_001);
}

#[test]
fn numbers_that_were_not_given_open_nothing() {
    let mut path = Path::new(true);
    let Fate::Answered(asked) = path.client_sends(&syn(7)) else { panic!() };
    let right = Segment { flags: "A", seq: 8, ack: asked.seq.wrapping_add(1), window: 500, ..Segment::default() };
    let opens = |path: &mut Path, segment: &Segment| matches!(path.client_sends(segment), Fate::Passed(now) if now.flags == "S");
    for bit in 0..32 {
        assert!(!opens(&mut path, &Segment { ack: right.ack ^ 1 << bit, ..right.clone() }));
    }
    assert!(!opens(&mut path, &Segment { seq: 9, ..right.clone() }));
    for n in 0..100_000_u32 {
        let guess = Segment { ack: n.wrapping_mul(0x9e37_79b9), ..right.clone() };
        assert!(guess.ack == right.ack || !opens(&mut path, &guess));
    }
    assert!(opens(&mut path, &right));
    let mut path = Path::new(true);
    let Fate::Answered(asked) = path.client_sends(&syn(7)) else { panic!() };
    path.site.now = path.site.now + cookie::LIFETIME;
    assert!(!opens(&mut path, &Segment { ack: asked.seq.wrapping_add(1), ..right }), "too late");
}

#[test]
fn who_has_shown_itself_talks_to_the_server_directly() {
    let mut path = Path::new(true);
    path.open(7, 1_000);
    for port in 40_001..40_100 {
        path.port = port;
        assert_eq!(path.client_sends(&syn(9)), Fate::Passed(syn(9)));
    }
}

#[test]
fn clients_behind_one_address_are_opened_above_the_limit_of_what_passes() {
    let mut path = Path::new(true);
    path.open(7, 1_000);
    let mut opened = 0;
    for port in 41_000..41_180 {
        path.port = port;
        let Fate::Answered(asked) = path.client_sends(&syn(9)) else { continue };
        let ack = Segment { flags: "A", seq: 10, ack: asked.seq.wrapping_add(1), window: 500, ..Segment::default() };
        opened += u32::from(matches!(path.client_sends(&ack), Fate::Passed(now) if now.flags == "S"));
    }
    assert_eq!(opened, 80, "the first hundred passed as they were");
}

#[test]
fn both_sides_may_begin_at_once() {
    let mut path = Path::new(true);
    let inside = Segment { flags: "S", seq: 70, window: 500, ..Segment::default() };
    assert_eq!(path.server_sends(&inside), Fate::Passed(inside.clone()));
    assert_eq!(path.client_sends(&syn(7)), Fate::Passed(syn(7)), "inside has asked for it");
}

#[test]
fn data_with_the_syn_or_with_the_acknowledgement_comes_again() {
    let mut path = Path::new(true);
    let Fate::Answered(asked) = path.client_sends(&Segment { data: b"fast open".to_vec(), ..syn(7) }) else { panic!() };
    assert_eq!((asked.ack, asked.data.len()), (8, 0));
    let data = b"GET / HTTP/1.1\r\n".to_vec();
    let ack = Segment { flags: "A", seq: 8, ack: asked.seq.wrapping_add(1), window: 500, data, ..Segment::default() };
    let Fate::Passed(again) = path.client_sends(&ack) else { panic!() };
    assert_eq!((again.flags, again.seq, again.data.len()), ("S", 7, 0));
}

#[test]
fn the_client_of_an_open_connection_is_no_stranger() {
    let mut path = Path::new(true);
    let Open { acknowledges, .. } = path.open(7, 1_000);
    for n in 0..1_000 {
        let data = Segment { seq: acknowledges.seq + n, data: vec![1], ..acknowledges.clone() };
        assert!(matches!(path.client_sends(&data), Fate::Passed(_)), "{n}");
    }
}
