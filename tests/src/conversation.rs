//! What clients and servers say to each other in peace, seen from the middle.
//!
//! The protected servers are near (a fraction of a millisecond), the others 10 to 120 ms away.

use std::net::Ipv4Addr;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use crate::{
    address, amplification,
    frame::{self, Ipv4, Link, Tcp, flags},
    system::System,
};

const MILLISECOND: u64 = 1_000_000;
const MSS: usize = 1_448;

/// A frame of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When it passes, nanoseconds on the scenario's clock.
    pub at_ns: u64,
    /// Whether it comes from outside.
    pub inbound: bool,
    /// The frame.
    pub frame: Vec<u8>,
}

/// A TCP connection with one to three requests and their responses, closed by the client.
pub fn web(at_ns: u64, server: Ipv4Addr, port: u16, link: Link, rng: &mut ChaCha8Rng) -> Vec<Event> {
    let mut talk = Talk::new(at_ns, server, port, link, rng);
    let options = talk.system.options(talk.rng);
    talk.tcp(true, flags::SYN, &options, 0);
    talk.tcp(false, flags::SYN | flags::ACK, &[2, 4, 5, 0xb4, 1, 1, 4, 2, 1, 3, 3, 7], 0);
    talk.travel();
    talk.tcp(true, flags::ACK, &[], 0);
    for request in 0..talk.rng.random_range(1..=3) {
        if request > 0 {
            talk.pause(200, 1_500);
        }
        let length = talk.rng.random_range(180..=900);
        talk.tcp(true, flags::PSH | flags::ACK, &[], length);
        talk.pause(1, 20);
        let mut rest = talk.rng.random_range(400..=40_000);
        while rest > 0 {
            let length = MSS.min(rest);
            rest -= length;
            talk.tcp(false, if rest == 0 { flags::PSH } else { 0 } | flags::ACK, &[], length);
        }
        talk.travel();
        talk.tcp(true, flags::ACK, &[], 0);
    }
    talk.tcp(true, flags::FIN | flags::ACK, &[], 0);
    talk.tcp(false, flags::FIN | flags::ACK, &[], 0);
    talk.travel();
    talk.tcp(true, flags::ACK, &[], 0);
    talk.events
}

/// A player of a game: 30 datagrams a second for two to six seconds, each answered.
pub fn game(at_ns: u64, server: Ipv4Addr, port: u16, link: Link, rng: &mut ChaCha8Rng) -> Vec<Event> {
    let mut talk = Talk::new(at_ns, server, port, link, rng);
    for _ in 0..talk.rng.random_range(60..=180) {
        let (question, answer) = (talk.rng.random_range(30..=120), talk.rng.random_range(60..=400));
        talk.udp(true, question);
        talk.udp(false, answer);
        talk.pause(28, 38);
    }
    talk.events
}

/// A protected host asks a resolver outside and is answered.
pub fn dns(at_ns: u64, host: Ipv4Addr, link: Link, rng: &mut ChaCha8Rng) -> Vec<Event> {
    let mut talk = Talk::new(at_ns, host, 0, link, rng);
    talk.server_port = address::ephemeral_port(talk.rng);
    talk.client_port = 53;
    let id: [u8; 2] = talk.rng.random();
    let question = b"\x03www\x07example\x03com\x00\x00\x01\x00\x01";
    let query = [&id[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0], question].concat();
    let record = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4];
    let host: [u8; 4] = talk.rng.random();
    let response = [&id[..], &[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0], question, &record, &host].concat();
    talk.datagram(false, &query);
    talk.travel();
    talk.datagram(true, &response);
    talk.events
}

/// Both ends of a conversation and its clock.
struct Talk<'a> {
    now_ns: u64,
    link: Link,
    server: Ipv4Addr,
    server_port: u16,
    client: Ipv4Addr,
    client_port: u16,
    system: System,
    round_trip_ns: u64,
    sequence: [u32; 2],
    identification: [u16; 2],
    rng: &'a mut ChaCha8Rng,
    events: Vec<Event>,
}

impl<'a> Talk<'a> {
    fn new(at_ns: u64, server: Ipv4Addr, port: u16, link: Link, rng: &'a mut ChaCha8Rng) -> Self {
        let client = address::client(rng);
        Self {
            now_ns: at_ns,
            link,
            server,
            server_port: port,
            client,
            client_port: address::ephemeral_port(rng),
            system: System::any(rng),
            round_trip_ns: rng.random_range(10 * MILLISECOND..120 * MILLISECOND),
            sequence: rng.random(),
            identification: rng.random(),
            rng,
            events: Vec::new(),
        }
    }

    /// Time passes until the far end has read what was sent and its reaction has arrived.
    fn travel(&mut self) {
        self.now_ns += self.round_trip_ns;
    }

    fn pause(&mut self, least_ms: u64, most_ms: u64) {
        self.now_ns += self.rng.random_range(least_ms * MILLISECOND..=most_ms * MILLISECOND);
    }

    fn tcp(&mut self, inbound: bool, flag: u8, options: &[u8], payload: usize) {
        let (own, other) = if inbound { (0, 1) } else { (1, 0) };
        let data = self.payload(payload);
        let (source, destination) = self.ports(inbound);
        let header = Tcp {
            source,
            destination,
            sequence: self.sequence[own],
            acknowledgement: if flag & flags::ACK == 0 { 0 } else { self.sequence[other] },
            flags: flag,
            window: if flag & flags::SYN == 0 { 2_058 } else { self.system.window },
            options,
        };
        let mut frame = Vec::new();
        frame::tcp(&mut frame, self.toward(inbound), self.ip(inbound), header, &data);
        let consumed = u32::from(frame::low16(payload)) + u32::from(flag & (flags::SYN | flags::FIN) != 0);
        self.sequence[own] = self.sequence[own].wrapping_add(consumed);
        self.push(inbound, frame);
    }

    fn udp(&mut self, inbound: bool, payload: usize) {
        let data = self.payload(payload);
        self.datagram(inbound, &data);
    }

    fn datagram(&mut self, inbound: bool, data: &[u8]) {
        let mut frame = Vec::new();
        frame::udp(&mut frame, self.toward(inbound), self.ip(inbound), self.ports(inbound), data);
        self.push(inbound, frame);
    }

    fn push(&mut self, inbound: bool, frame: Vec<u8>) {
        self.events.push(Event { at_ns: self.now_ns, inbound, frame });
        // The next packet is sent right behind this one, or answered by a server that is near.
        self.now_ns += self.rng.random_range(20_000..400_000);
    }

    fn payload(&mut self, length: usize) -> Vec<u8> {
        let mut data = Vec::new();
        amplification::random(&mut data, length, self.rng);
        data
    }

    fn ports(&self, inbound: bool) -> (u16, u16) {
        if inbound { (self.client_port, self.server_port) } else { (self.server_port, self.client_port) }
    }

    fn toward(&self, inbound: bool) -> Link {
        if inbound { self.link } else { self.link.reversed() }
    }

    fn ip(&mut self, inbound: bool) -> Ipv4 {
        let own = usize::from(!inbound);
        self.identification[own] = self.identification[own].wrapping_add(1);
        let (source, destination) = if inbound { (self.client, self.server) } else { (self.server, self.client) };
        Ipv4 {
            source,
            destination,
            ttl: if inbound { self.system.ttl - address::hops(self.client) } else { 63 },
            identification: self.identification[own],
            dont_fragment: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    const SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);

    #[test]
    fn a_web_conversation_opens_transfers_and_closes_with_sequence_numbers_that_fit() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let events = web(5, SERVER, 443, Link::default(), &mut rng);
        let mut expected = [None::<u32>; 2];
        for event in &events {
            let packet = etherparse::SlicedPacket::from_ethernet(&event.frame).unwrap();
            let Some(etherparse::TransportSlice::Tcp(tcp)) = packet.transport else { panic!("no TCP") };
            let own = usize::from(!event.inbound);
            assert!(expected[own].is_none_or(|sequence| sequence == tcp.sequence_number()));
            if tcp.ack() {
                assert_eq!(Some(tcp.acknowledgment_number()), expected[1 - own]);
            }
            let consumed = u32::from(frame::low16(tcp.payload().len())) + u32::from(tcp.syn()) + u32::from(tcp.fin());
            expected[own] = Some(tcp.sequence_number().wrapping_add(consumed));
        }
        assert!(events.len() > 9);
        assert!(events.is_sorted_by_key(|event| event.at_ns));
    }

    #[test]
    fn players_are_answered_and_questions_come_from_inside() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let played = game(0, SERVER, 27_015, Link::default(), &mut rng);
        assert_eq!(played.iter().filter(|e| e.inbound).count() * 2, played.len());
        let asked = dns(0, SERVER, Link::default(), &mut rng);
        assert_eq!(asked.iter().map(|e| e.inbound).collect::<Vec<_>>(), [false, true]);
    }
}
