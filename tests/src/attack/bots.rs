//! Floods over real connections: sources that complete the handshake with a server that answers them.

use std::net::IpAddr;

use levee_api::vector::Vector;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Aim, Attack, Kind};
use crate::{
    address::{self, Family},
    conversation::{Event, Talk, client_hello},
    frame::{self, Ip, Tcp, flags},
};

/// Bots of a botnet that opens connections, and connections that a flood inside connections has.
const USUAL_BOTS: u32 = 300;
const USUAL_CONNECTIONS: u32 = 40;
/// And one that sends data inside them.
const USUAL_SENDERS: u32 = 10;
/// Connections for a flood inside them are opened in the time before it begins.
const PRELUDE_NS: u64 = 500_000_000;

/// A botnet at work.
#[derive(Debug)]
pub struct Bots {
    /// Where to, and who picks the address.
    attack: Attack,
    bots: Vec<IpAddr>,
    /// Of a flood inside connections: these.
    open: Vec<Connection>,
    request: Vec<u8>,
    rng: ChaCha8Rng,
}

#[derive(Clone, Copy, Debug)]
struct Connection {
    ip: Ip,
    ports: (u16, u16),
    sequence: u32,
    acknowledgement: u32,
}

impl Bots {
    /// A botnet for a kind that [needs connections](super::Kind::needs_connections).
    pub fn new(aim: Aim) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(aim.seed);
        let inside = aim.kind.vector() == Vector::EstablishedFlood;
        let usual = match aim.kind {
            Kind::EstablishedData => USUAL_SENDERS,
            _ if inside => USUAL_CONNECTIONS,
            _ => USUAL_BOTS,
        };
        let count = aim.sources.unwrap_or(usual).max(1);
        let bots = (0..count).map(|_| address::attacker(Family::of(aim.target.addr()), &mut rng)).collect();
        let page: u32 = rng.random();
        let request = format!("GET /?{page:x} HTTP/1.1\r\nHost: www.example.com\r\nUser-Agent: Mozilla/5.0\r\n\r\n");
        Self { attack: Attack::new(aim), bots, open: Vec::new(), request: request.into(), rng }
    }

    /// From now on another target.
    pub fn turn_to(&mut self, target: ipnet::IpNet) {
        self.attack.turn_to(target);
    }

    /// The connections of a flood inside connections, each opened in the time up to `onset_ns` with a request like anyone's.
    pub fn prelude(&mut self, onset_ns: u64) -> Vec<Event> {
        if self.attack.aim.kind.vector() != Vector::EstablishedFlood {
            return Vec::new();
        }
        let mut events = Vec::new();
        for bot in self.bots.clone() {
            // The handshake takes up to 120 ms.
            let at = onset_ns.saturating_sub(self.rng.random_range(PRELUDE_NS * 2 / 5..PRELUDE_NS));
            let mut talk = self.connect(at, bot);
            talk.handshake();
            let hello = client_hello(talk.rng);
            talk.bulk(true, &hello);
            let answer = talk.noise(300);
            talk.bulk(false, &answer);
            let connection = Connection {
                ip: talk.ip(true),
                ports: (talk.client_port, talk.server_port),
                sequence: talk.sequence[0],
                acknowledgement: talk.sequence[1],
            };
            events.append(&mut talk.events);
            self.open.push(connection);
        }
        events.sort_by_key(|event| event.at_ns);
        events
    }

    /// What begins at a moment: a connection with what the kind does on it, or a packet inside an open one.
    pub fn strike(&mut self, at_ns: u64) -> Vec<Event> {
        let vector = self.attack.aim.kind.vector();
        let picked = self.rng.random_range(0..self.open.len().max(1));
        if let Some(connection) = self.open.get_mut(picked) {
            if self.attack.aim.kind == Kind::EstablishedData {
                return connection.send(at_ns, &self.attack, &mut self.rng);
            }
            return vec![Event { at_ns, inbound: true, frame: connection.repeat(&self.attack, &mut self.rng) }];
        }
        let bot = self.bots[self.rng.random_range(0..self.bots.len())];
        let request = self.request.clone();
        let mut talk = self.connect(at_ns, bot);
        talk.handshake();
        match vector {
            Vector::HttpRequestFlood => {
                talk.tcp(true, flags::PSH | flags::ACK, &request);
                let page = talk.noise(2_000);
                talk.bulk(false, &page);
                talk.travel();
                talk.close();
            }
            Vector::TlsHandshakeFlood => {
                let hello = client_hello(talk.rng);
                talk.bulk(true, &hello);
                let answer = talk.noise(3_000);
                talk.bulk(false, &answer);
                talk.travel();
                talk.tcp(true, flags::RST, &[]);
            }
            // The connection stays open and idle.
            _ => {}
        }
        talk.events
    }

    fn connect(&mut self, at_ns: u64, bot: IpAddr) -> Talk<'_> {
        let (_, port) = self.attack.random_ports();
        let server = self.attack.destination();
        Talk::with(bot, at_ns, server, port, self.attack.aim.link, &mut self.rng)
    }
}

impl Connection {
    /// Acknowledges once more what was acknowledged.
    fn repeat(&self, attack: &Attack, rng: &mut ChaCha8Rng) -> Vec<u8> {
        let mut frame = Vec::new();
        let segment = Tcp {
            source: self.ports.0,
            destination: self.ports.1,
            sequence: self.sequence,
            acknowledgement: self.acknowledgement,
            flags: flags::ACK,
            window: 502,
            options: &[],
        };
        frame::tcp(&mut frame, attack.aim.link, Ip { identification: rng.random(), ..self.ip }, segment, &[]);
        frame
    }

    /// Sends some more data, and the server acknowledges it.
    fn send(&mut self, at_ns: u64, attack: &Attack, rng: &mut ChaCha8Rng) -> Vec<Event> {
        let mut data = Vec::new();
        crate::amplification::random(&mut data, rng.random_range(200..=1_400), rng);
        let (mut sent, mut acknowledged) = (Vec::new(), Vec::new());
        let segment = Tcp {
            source: self.ports.0,
            destination: self.ports.1,
            sequence: self.sequence,
            acknowledgement: self.acknowledgement,
            flags: flags::PSH | flags::ACK,
            window: 502,
            options: &[],
        };
        frame::tcp(&mut sent, attack.aim.link, Ip { identification: rng.random(), ..self.ip }, segment, &data);
        self.sequence = self.sequence.wrapping_add(data.len().try_into().unwrap_or(0));
        let (source, destination) = (self.ip.destination, self.ip.source);
        let back = Ip { source, destination, ttl: 63, identification: rng.random(), dont_fragment: true };
        let answer = Tcp {
            source: self.ports.1,
            destination: self.ports.0,
            sequence: self.acknowledgement,
            acknowledgement: self.sequence,
            flags: flags::ACK,
            ..segment
        };
        frame::tcp(&mut acknowledged, attack.aim.link.reversed(), back, answer, &[]);
        let later = at_ns + rng.random_range(100_000..400_000);
        vec![Event { at_ns, inbound: true, frame: sent }, Event { at_ns: later, inbound: false, frame: acknowledged }]
    }
}
