//! A protected site for tests: an engine with its data paths, clients that talk to it, and packets made by hand.

use std::num::NonZeroU32;

use etherparse::PacketBuilder;
use levee_api::prefix::Prefix;
use levee_api::zone::{Challenge, Mode, Service, Visibility, Zone};
use levee_engine::detect::detector::{Outcome, TICK};
use levee_engine::detect::event::{Event, What};
use levee_engine::engine::{Engine, Settings};
use levee_engine::isa::Isa;
use levee_engine::packet::Direction::{Inbound, Outbound};
use levee_engine::packet::{Direction, Packet};
use levee_engine::pipeline::{BURST, Pipeline};
use levee_engine::tables::OnFailure;
use levee_engine::time::Timestamp;
use levee_engine::verdict::Verdict;

/// The server that everything is about.
pub(crate) const SERVER: [u8; 4] = [203, 0, 113, 10];
/// Its IPv6 address, 2001:db8:a::10.
pub(crate) const V6_SERVER: u128 = 0x2001_0db8_000a_0000_0000_0000_0000_0010;

/// A site with its engine; time moves when it is told to.
pub(crate) struct Site {
    pub(crate) engine: Engine,
    pub(crate) paths: Vec<Pipeline>,
    pub(crate) now: Timestamp,
    pub(crate) events: Vec<Event>,
    /// Packets of clients that were dropped.
    pub(crate) lost_of_clients: usize,
    /// SYNs of clients that were challenged; these clients do not answer.
    pub(crate) asked_of_clients: usize,
    /// What inside says passes here.
    pub(crate) hears_inside: bool,
    running: Option<Outcome>,
    ticks: u64,
}

impl Site {
    pub(crate) fn new(zones: &[Zone], workers: u32) -> Self {
        Self::with(zones, &[], workers)
    }

    pub(crate) fn with(zones: &[Zone], protected: &[Prefix], workers: u32) -> Self {
        let now = Timestamp(1_000_000_000_000);
        let settings = Settings {
            workers: NonZeroU32::new(workers).unwrap(),
            conversations: 1 << 14,
            hosts: 1 << 10,
            filters: 1 << 12,
            secret: (0x6c65_7665_655f_7465, 0x7374_735f_6b65_7973),
            ceiling: Mode::Enforce,
            too_deep: OnFailure::Pass,
            evicted: OnFailure::Pass,
            spare_slots: 1 << 10,
            learn_only: false,
            isa: Isa::detect(),
        };
        let (engine, paths) = Engine::build(zones, protected, settings, now).unwrap();
        Self {
            engine,
            paths,
            now,
            events: Vec::new(),
            lost_of_clients: 0,
            asked_of_clients: 0,
            hears_inside: true,
            running: None,
            ticks: 0,
        }
    }

    /// A site that has seen 25 seconds of peace.
    pub(crate) fn learned(zones: &[Zone]) -> Self {
        let mut site = Self::new(zones, 1);
        site.again(2_500);
        site
    }

    /// So many ticks of peace.
    pub(crate) fn again(&mut self, ticks: u64) {
        for _ in 0..ticks {
            self.peace();
            self.tick();
        }
    }

    /// Ends a tick. Extractions take one.
    pub(crate) fn tick(&mut self) {
        self.ticks += 1;
        self.now = self.now + TICK;
        self.engine.tick(self.now);
        if let Some(outcome) = self.running.take() {
            self.engine.complete(outcome, self.now);
        }
        self.running = self.engine.next_task(self.now).map(|task| task.run());
        self.events.extend(self.engine.detector.take_events());
    }

    /// What has happened, without when.
    pub(crate) fn told(&self) -> Vec<What> {
        self.events.iter().map(|event| event.what.clone()).collect()
    }

    /// What clients and the server say to each other in a tick: 20 connections and as many datagrams a second.
    pub(crate) fn peace(&mut self) {
        if self.ticks.is_multiple_of(5) {
            self.converse(self.ticks / 5);
        }
    }

    /// All that the `n`th client has to say.
    pub(crate) fn converse(&mut self, n: u64) {
        let port = 20_000 + u16::try_from(n % 20_000).unwrap();
        let client = [192, 0, 2, u8::try_from(n % 200).unwrap() + 1];
        let (to, from) = (Tcp { source: client, port, ..TO_SERVER }, Tcp { source: SERVER, port: 443, ..TO_SERVER });
        let back = |step: Tcp| Tcp { destination: client, to_port: port, ..step };
        self.client(Inbound, &to.frame(b""));
        self.client(Outbound, &back(Tcp { flags: "SA", seq: 9_000, ack: 101, ..from }).frame(b""));
        self.client(Inbound, &Tcp { flags: "A", seq: 101, ack: 9_001, ..to }.frame(b""));
        self.client(Inbound, &Tcp { flags: "A", seq: 101, ack: 9_001, ..to }.frame(b"GET / HTTP/1.1\r\n\r\n"));
        for part in 0..10_u32 {
            self.client(Outbound, &back(Tcp { flags: "A", seq: 9_001 + part, ack: 119, ..from }).frame(b"hello"));
            self.client(Inbound, &Tcp { flags: "A", seq: 119, ack: 9_002 + part, ..to }.frame(b""));
        }
        self.client(Inbound, &datagram(client, port, SERVER, 443, 40));
        self.client(Outbound, &datagram(SERVER, 443, client, port, 80));
    }

    fn client(&mut self, direction: Direction, frame: &[u8]) {
        if direction == Outbound && !self.hears_inside {
            return;
        }
        match self.send(direction, frame) {
            Verdict::Forward | Verdict::Translate => {}
            Verdict::Reply => self.asked_of_clients += 1,
            Verdict::Drop(_) => self.lost_of_clients += 1,
        }
    }

    pub(crate) fn send(&mut self, direction: Direction, frame: &[u8]) -> Verdict {
        let worker = self.worker_of(frame);
        let mut verdicts = [Verdict::Forward];
        self.paths[worker].burst(0, direction, &[packet(frame)], self.now, &mut verdicts);
        verdicts[0]
    }

    /// The `n`th connection of an attacker to the server.
    pub(crate) fn connect(&mut self, n: u64) -> Client {
        let (source, port) = attacker(n);
        self.connect_from(source, port)
    }

    /// A connection of a bot to the server, as far as it gets.
    pub(crate) fn connect_from(&mut self, source: [u8; 4], port: u16) -> Client {
        let client = Client(Tcp { source, port, ..TO_SERVER });
        self.send(Inbound, &client.0.frame(b""));
        self.send(Outbound, &Tcp { flags: "SA", seq: 9_000, ack: 101, ..client.back() }.frame(b""));
        self.send(Inbound, &client.bare_ack());
        client
    }

    /// The verdicts about packets that arrive at once, in bursts of this size.
    pub(crate) fn send_all(&mut self, direction: Direction, frames: &[Vec<u8>], burst: usize) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        for frames in frames.chunks(burst) {
            let packets: Vec<_> = frames.iter().map(|frame| packet(frame)).collect();
            let mut some = [Verdict::Forward; BURST];
            self.paths[0].burst(0, direction, &packets, self.now, &mut some);
            verdicts.extend_from_slice(&some[..packets.len()]);
        }
        verdicts
    }

    /// Both directions between two addresses go to the same worker.
    fn worker_of(&self, frame: &[u8]) -> usize {
        let addresses = frame.get(26..34).unwrap_or_default();
        addresses.iter().map(|octet| usize::from(*octet)).sum::<usize>() % self.paths.len()
    }
}

pub(crate) fn packet(frame: &[u8]) -> Packet<'_> {
    Packet { head: frame, wire_len: u32::try_from(frame.len()).unwrap() }
}

/// A web server with QUIC, over IPv4 and IPv6.
pub(crate) fn zone() -> Zone {
    Zone {
        name: "web".to_owned(),
        prefixes: vec!["203.0.113.0/24".parse().unwrap(), "2001:db8:a::/48".parse().unwrap()],
        mode: Mode::Enforce,
        services: [6, 17].map(|protocol| Service { protocol, ports: vec![(443, 443)] }).to_vec(),
        services_complete: false,
        visibility: Visibility::Auto,
        challenge: Challenge::default(),
        challenge_dns: false,
        link_capacity_bps: None,
        floors: Vec::new(),
        runbook: None,
    }
}

/// A segment. Of the flags only SYN, ACK and RST are told apart.
#[derive(Clone, Copy)]
pub(crate) struct Tcp {
    pub(crate) source: [u8; 4],
    pub(crate) port: u16,
    pub(crate) destination: [u8; 4],
    pub(crate) to_port: u16,
    pub(crate) flags: &'static str,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) window: u16,
    pub(crate) ttl: u8,
}

/// The SYN of a client whose address and port are still to be filled in.
pub(crate) const TO_SERVER: Tcp = Tcp {
    source: [0; 4],
    port: 0,
    destination: SERVER,
    to_port: 443,
    flags: "S",
    seq: 100,
    ack: 0,
    window: 64_240,
    ttl: 57,
};

impl Tcp {
    pub(crate) fn frame(self, payload: &[u8]) -> Vec<u8> {
        let segment = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
            .ipv4(self.source, self.destination, self.ttl)
            .tcp(self.port, self.to_port, self.seq, self.window);
        let segment = if self.flags.contains('S') { segment.syn() } else { segment };
        let segment = if self.flags.contains('A') { segment.ack(self.ack) } else { segment };
        let segment = if self.flags.contains('R') { segment.rst() } else { segment };
        let mut frame = Vec::new();
        segment.write(&mut frame, payload).unwrap();
        frame
    }
}

/// A client that has completed a handshake.
pub(crate) struct Client(Tcp);

impl Client {
    /// The same acknowledgement again.
    pub(crate) fn bare_ack(&self) -> Vec<u8> {
        self.data(b"")
    }

    pub(crate) fn data(&self, payload: &[u8]) -> Vec<u8> {
        Tcp { flags: "A", seq: 101, ack: 9_001, ..self.0 }.frame(payload)
    }

    /// Data from the server.
    pub(crate) fn reply(&self, bytes: usize) -> Vec<u8> {
        Tcp { flags: "A", seq: 9_001, ack: 101, ..self.back() }.frame(&vec![0xcd; bytes])
    }

    fn back(&self) -> Tcp {
        let Tcp { source, port, destination, to_port, .. } = self.0;
        Tcp { source: destination, port: to_port, destination: source, to_port: port, ..TO_SERVER }
    }
}

/// The `n`th spoofed source (RFC 2544) and its port.
pub(crate) fn attacker(n: u64) -> ([u8; 4], u16) {
    let mixed = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
    let [a, b, c, d, ..] = mixed.to_le_bytes();
    ([198, 18 | (a & 1), b, c], 1_024 + u16::from(d) * 200)
}

/// A SYN without options, as tools send them.
pub(crate) fn syn(to: [u8; 4], n: u64, window: u16) -> Vec<u8> {
    let (source, port) = attacker(n);
    let seq = u32::try_from(n * 7_919 % 0xffff_ffff).unwrap();
    Tcp { source, port, destination: to, seq, window, ttl: 120, ..TO_SERVER }.frame(b"")
}

/// An acknowledgement on no connection.
pub(crate) fn ack(to: [u8; 4], n: u64) -> Vec<u8> {
    let (source, port) = attacker(n);
    Tcp { source, port, destination: to, flags: "A", seq: 1, ack: 77, ..TO_SERVER }.frame(b"")
}

/// Data from the server on a connection of its own.
pub(crate) fn answer(from: [u8; 4], n: u64) -> Vec<u8> {
    let (destination, to_port) = attacker(n);
    Tcp { source: from, port: 443, destination, to_port, flags: "A", seq: 1, ack: 1, ..TO_SERVER }.frame(b"hello")
}

pub(crate) fn datagram(source: [u8; 4], port: u16, destination: [u8; 4], to_port: u16, bytes: usize) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]).ipv4(source, destination, 57);
    builder.udp(port, to_port).write(&mut frame, &vec![0xab; bytes]).unwrap();
    frame
}

pub(crate) fn udp(to: [u8; 4], n: u64, port: u16, bytes: usize) -> Vec<u8> {
    let (source, from_port) = attacker(n);
    datagram(source, from_port | 0x8000, to, port, bytes)
}

pub(crate) fn udp6(to: u128, n: u64, port: u16) -> Vec<u8> {
    let source = 0x2001_0db8_000f_u128 << 80 | u128::from(n);
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let builder = builder.ipv6(source.to_be_bytes(), to.to_be_bytes(), 57).udp(40_000, port);
    builder.write(&mut frame, &[0xab; 100]).unwrap();
    frame
}

pub(crate) fn icmp(to: [u8; 4], n: u64) -> Vec<u8> {
    echo(attacker(n).0, to, 8, &[0x55; 900])
}

/// An echo request (8), or the reply to one (0).
pub(crate) fn echo(from: [u8; 4], to: [u8; 4], kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]).ipv4(from, to, 57);
    builder.icmpv4_raw(kind, 0, [0, 1, 0, 1]).write(&mut frame, payload).unwrap();
    frame
}

/// "Host unreachable", quoting a datagram of the target.
pub(crate) fn icmp_error(to: [u8; 4], n: u64) -> Vec<u8> {
    let quoted = datagram(to, 443, [192, 0, 2, 1], 40_000, 10);
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]).ipv4(attacker(n).0, to, 57);
    builder.icmpv4_raw(3, 1, [0; 4]).write(&mut frame, &quoted[14..42]).unwrap();
    frame
}

/// A datagram in two fragments.
pub(crate) fn fragments(to: [u8; 4], n: u64, port: u16) -> [Vec<u8>; 2] {
    [fragment(to, n, port, MORE), fragment(to, n, port, 3)]
}

/// More fragments follow, beside an offset in units of 8 bytes.
pub(crate) const MORE: u16 = 0x2000;

/// Three units of the datagram.
pub(crate) fn fragment(to: [u8; 4], n: u64, port: u16, control: u16) -> Vec<u8> {
    let mut frame = udp(to, n, port, 16);
    let identification = u16::try_from(n & 0xffff).unwrap().to_be_bytes();
    frame[18..20].copy_from_slice(&identification);
    frame[20..22].copy_from_slice(&control.to_be_bytes());
    frame
}

pub(crate) fn arp() -> Vec<u8> {
    let mut frame = vec![0xff; 12];
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.resize(60, 0);
    frame
}
