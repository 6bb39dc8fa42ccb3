//! The two ends of a conversation and its clock.
//!
//! The protected end is near (a fraction of a millisecond), the other 10 to 120 ms away.

use std::net::IpAddr;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::Event;
use crate::{
    address::{self, Family},
    amplification::random,
    frame::{self, Ip, Link, Tcp, flags},
    system::System,
};

const MILLISECOND: u64 = 1_000_000;

/// A conversation being written down.
pub(crate) struct Talk<'a> {
    pub(crate) now_ns: u64,
    pub(crate) link: Link,
    pub(crate) server: IpAddr,
    pub(crate) server_port: u16,
    pub(crate) client: IpAddr,
    pub(crate) client_port: u16,
    system: System,
    pub(crate) round_trip_ns: u64,
    /// Next sequence numbers, of the client and of the server.
    pub(crate) sequence: [u32; 2],
    identification: [u16; 2],
    /// Time stamps (RFC 7323) at the start; none: not both ends have them.
    stamps: Option<[u32; 2]>,
    begin_ns: u64,
    pub(crate) rng: &'a mut ChaCha8Rng,
    pub(crate) events: Vec<Event>,
}

impl<'a> Talk<'a> {
    /// Of a client from anywhere.
    pub(crate) fn new(at_ns: u64, server: IpAddr, port: u16, link: Link, rng: &'a mut ChaCha8Rng) -> Self {
        let client = address::client(Family::of(server), rng);
        Self::with(client, at_ns, server, port, link, rng)
    }

    /// Of this client.
    pub(crate) fn with(
        client: IpAddr,
        at_ns: u64,
        server: IpAddr,
        port: u16,
        link: Link,
        rng: &'a mut ChaCha8Rng,
    ) -> Self {
        let system = System::any(rng);
        Self {
            now_ns: at_ns,
            link,
            server,
            server_port: port,
            client,
            client_port: address::ephemeral_port(rng),
            round_trip_ns: rng.random_range(10 * MILLISECOND..120 * MILLISECOND),
            sequence: rng.random(),
            identification: rng.random(),
            stamps: system.has_stamps().then(|| rng.random()),
            system,
            begin_ns: at_ns,
            rng,
            events: Vec::new(),
        }
    }

    /// Time passes until the far end has read what was sent and its reaction has arrived.
    pub(crate) fn travel(&mut self) {
        self.now_ns += self.round_trip_ns;
    }

    pub(crate) fn pause(&mut self, least_ms: u64, most_ms: u64) {
        self.now_ns += self.rng.random_range(least_ms * MILLISECOND..=most_ms * MILLISECOND);
    }

    /// The three packets that open a connection.
    pub(crate) fn handshake(&mut self) {
        let options = self.system.options(self.stamps.map_or(0, |[client, _]| client), self.client.is_ipv6());
        self.segment(true, flags::SYN, &options, &[]);
        let mut answer = vec![2, 4, 5, if self.server.is_ipv6() { 0xa0 } else { 0xb4 }, 4, 2];
        match self.stamps {
            Some(stamps) => {
                answer.extend([8, 10]);
                answer.extend(stamps[1].to_be_bytes());
                answer.extend(stamps[0].to_be_bytes());
                answer.extend([1, 3, 3, 7]);
            }
            None => answer.extend([1, 1, 1, 3, 3, 7]),
        }
        self.segment(false, flags::SYN | flags::ACK, &answer, &[]);
        self.travel();
        self.tcp(true, flags::ACK, &[]);
    }

    /// Both ends close, the client first.
    pub(crate) fn close(&mut self) {
        self.tcp(true, flags::FIN | flags::ACK, &[]);
        self.tcp(false, flags::FIN | flags::ACK, &[]);
        self.travel();
        self.tcp(true, flags::ACK, &[]);
    }

    /// A segment after the handshake's first two.
    pub(crate) fn tcp(&mut self, inbound: bool, flag: u8, data: &[u8]) {
        let mut options = Vec::new();
        if let Some([client, server]) = self.stamps {
            let passed = u32::try_from((self.now_ns - self.begin_ns) / MILLISECOND).unwrap_or(u32::MAX);
            let (own, other) = if inbound { (client, server) } else { (server, client) };
            options.extend([1, 1, 8, 10]);
            options.extend(own.wrapping_add(passed).to_be_bytes());
            options.extend(other.wrapping_add(passed).to_be_bytes());
        }
        self.segment(inbound, flag, &options, data);
    }

    /// Data in segments of the largest size, acknowledged by the other end now and then.
    pub(crate) fn bulk(&mut self, inbound: bool, data: &[u8]) {
        let size = if self.stamps.is_some() { 1_428 } else { 1_440 };
        let last = data.len().saturating_sub(1) / size;
        for (i, piece) in data.chunks(size).enumerate() {
            self.tcp(inbound, flags::ACK | if i == last { flags::PSH } else { 0 }, piece);
            if i % 8 == 7 {
                self.tcp(!inbound, flags::ACK, &[]);
            }
        }
    }

    fn segment(&mut self, inbound: bool, flag: u8, options: &[u8], data: &[u8]) {
        let (own, other) = if inbound { (0, 1) } else { (1, 0) };
        let (source, destination) = self.ports(inbound);
        let header = Tcp {
            source,
            destination,
            sequence: self.sequence[own],
            acknowledgement: if flag & flags::ACK == 0 { 0 } else { self.sequence[other] },
            flags: flag,
            window: if flag & flags::SYN == 0 { self.system.scaled_window } else { self.system.window },
            options,
        };
        let mut frame = Vec::new();
        frame::tcp(&mut frame, self.toward(inbound), self.ip(inbound), header, data);
        let consumed = u32::from(frame::low16(data.len())) + u32::from(flag & (flags::SYN | flags::FIN) != 0);
        self.sequence[own] = self.sequence[own].wrapping_add(consumed);
        self.push(inbound, frame);
    }

    pub(crate) fn udp(&mut self, inbound: bool, data: &[u8]) {
        let mut frame = Vec::new();
        let mut ip = self.ip(inbound);
        ip.dont_fragment = data.len() <= 1_400;
        frame::udp(&mut frame, self.toward(inbound), ip, self.ports(inbound), data);
        for piece in frame::fragments(&frame, 1_500) {
            self.push(inbound, piece);
        }
    }

    pub(crate) fn echo(&mut self, inbound: bool, request: bool, rest: [u8; 4], data: &[u8]) {
        let kind = match (self.server.is_ipv4(), request) {
            (true, true) => 8,
            (true, false) => 0,
            (false, true) => 128,
            (false, false) => 129,
        };
        let mut frame = Vec::new();
        frame::icmp(&mut frame, self.toward(inbound), self.ip(inbound), kind, 0, rest, data);
        self.push(inbound, frame);
    }

    fn push(&mut self, inbound: bool, frame: Vec<u8>) {
        self.events.push(Event { at_ns: self.now_ns, inbound, frame });
        // The next packet is sent right behind this one, or answered by an end that is near.
        self.now_ns += self.rng.random_range(20_000..400_000);
    }

    pub(crate) fn noise(&mut self, length: usize) -> Vec<u8> {
        let mut data = Vec::new();
        random(&mut data, length, self.rng);
        data
    }

    fn ports(&self, inbound: bool) -> (u16, u16) {
        if inbound { (self.client_port, self.server_port) } else { (self.server_port, self.client_port) }
    }

    fn toward(&self, inbound: bool) -> Link {
        if inbound { self.link } else { self.link.reversed() }
    }

    pub(crate) fn ip(&mut self, inbound: bool) -> Ip {
        let own = usize::from(!inbound);
        self.identification[own] = self.identification[own].wrapping_add(1);
        let (source, destination) = if inbound { (self.client, self.server) } else { (self.server, self.client) };
        Ip {
            source,
            destination,
            ttl: if inbound { self.system.ttl - address::hops(self.client) } else { 63 },
            identification: self.identification[own],
            dont_fragment: true,
        }
    }
}
