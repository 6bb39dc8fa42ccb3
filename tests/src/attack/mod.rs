//! Floods, one frame at a time. The same aim and seed give the same frames on every machine.
//!
//! What a tool would keep constant (window, options, lengths, time to live at the sender) is drawn once from the
//! seed; what it would randomise is drawn for every packet. Sources follow [`crate::address`].

mod answer;
mod bots;
mod ip;
mod kind;
mod tcp;
#[cfg(test)]
mod tests;
mod udp;

use std::{collections::VecDeque, net::IpAddr};

use ipnet::IpNet;
use levee_api::vector::Vector;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{
    address::{self, Family},
    amplification::{self, REFLECTORS},
    frame::{self, Ip, Link},
};

pub use answer::answer;
pub use bots::Bots;
pub use kind::{Kind, UnknownKind};

/// What is sent to whom.
#[derive(Clone, Copy, Debug)]
pub struct Aim {
    /// What is sent.
    pub kind: Kind,
    /// Attacked prefix: its first 65 536 addresses at random.
    pub target: IpNet,
    /// Attacked port; none: [`Kind::port`].
    pub port: Option<u16>,
    /// From so many addresses; none: as many as is usual for the kind, which with spoofed ones is a new one for each packet.
    pub sources: Option<u32>,
    /// Everything random follows from it.
    pub seed: u64,
    /// Hardware addresses.
    pub link: Link,
}

/// A running flood of packets that need no connection.
#[derive(Debug)]
pub struct Attack {
    aim: Aim,
    tool: Tool,
    /// Empty: each packet has a source of its own.
    sources: Vec<IpAddr>,
    rng: ChaCha8Rng,
    payload: Vec<u8>,
    /// Frames that belong to one datagram.
    fragments: VecDeque<Vec<u8>>,
}

/// What the attacker's program keeps constant.
#[derive(Debug)]
struct Tool {
    ttl: u8,
    window: u16,
    options: &'static [u8],
    payload: Vec<u8>,
}

/// Largest packet on the wire.
const MTU: usize = 1_500;

impl Attack {
    /// A flood. Kinds that [need connections](Kind::needs_connections) are those of [`Bots`]; as single packets they are data
    /// of no connection.
    pub fn new(aim: Aim) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(aim.seed);
        let mut payload = Vec::new();
        amplification::random(&mut payload, [32, 56, 512, 1_024][rng.random_range(0..4)], &mut rng);
        let tool = Tool {
            ttl: [64, 128, 255][rng.random_range(0..3)],
            window: [512, 1_024, 2_048, 16_384][rng.random_range(0..4)],
            options: [&[][..], &[2, 4, 5, 0xb4]][rng.random_range(0..2)],
            payload,
        };
        let family = Family::of(aim.target.addr());
        let count = aim.sources.unwrap_or(usual_sources(aim.kind.vector()));
        let sources = (0..count).map(|_| address::attacker(family, &mut rng)).collect();
        Self { aim, tool, sources, rng, payload: Vec::new(), fragments: VecDeque::new() }
    }

    /// From now on another target.
    pub fn turn_to(&mut self, target: IpNet) {
        self.aim.target = target;
    }

    /// The next fragment of a datagram whose first was written; none: it is complete.
    pub fn next_fragment(&mut self) -> Option<Vec<u8>> {
        self.fragments.pop_front()
    }

    /// Writes the next frame.
    pub fn next_frame(&mut self, frame: &mut Vec<u8>) {
        if let Some(fragment) = self.next_fragment() {
            *frame = fragment;
            return;
        }
        let vector = self.aim.kind.vector();
        match vector {
            _ if self.aim.kind == Kind::SynMimic => self.system_syn(frame),
            Vector::SynFlood => self.tool_syn(frame),
            Vector::SynAckReflection => self.syn_ack(frame),
            Vector::TcpMiddleboxReflection => self.block_page(frame),
            Vector::AckFlood
            | Vector::PshAckFlood
            | Vector::RstFlood
            | Vector::FinFlood
            | Vector::XmasFlood
            | Vector::NullFlood
            | Vector::TcpConnectionFlood
            | Vector::HttpRequestFlood
            | Vector::TlsHandshakeFlood
            | Vector::EstablishedFlood => self.stray(frame, vector),
            Vector::TcpFragment => self.later_tcp_fragment(frame),
            Vector::UdpRandom | Vector::CarpetBombing | Vector::PulseWave => self.random_datagram(frame),
            Vector::UdpConstant => self.constant_datagram(frame),
            Vector::UdpFragment => self.later_udp_fragment(frame),
            Vector::DnsQueryFlood => self.dns_query(frame),
            Vector::DnsWaterTorture => self.random_name(frame),
            Vector::QuicInitialFlood => self.quic_initial(frame),
            Vector::IcmpFlood | Vector::Icmpv6Flood => self.echo_request(frame),
            Vector::Smurf => self.echo_reply(frame),
            Vector::GreFlood | Vector::EspFlood | Vector::IpipFlood | Vector::IgmpFlood | Vector::RandomProtocol => {
                self.protocol(frame, vector)
            }
            Vector::MalformedFlood => self.malformed(frame),
            Vector::DnsAmplification
            | Vector::NtpAmplification
            | Vector::SsdpAmplification
            | Vector::CldapAmplification
            | Vector::MemcachedAmplification
            | Vector::ChargenAmplification
            | Vector::SnmpAmplification
            | Vector::QotdAmplification
            | Vector::RipAmplification
            | Vector::PortmapAmplification
            | Vector::NetbiosAmplification
            | Vector::MssqlAmplification
            | Vector::MdnsAmplification
            | Vector::WsDiscoveryAmplification
            | Vector::CoapAmplification
            | Vector::ArdAmplification
            | Vector::TftpAmplification
            | Vector::StunAmplification
            | Vector::OpenvpnAmplification
            | Vector::L2tpAmplification
            | Vector::IpmiAmplification
            | Vector::BacnetAmplification
            | Vector::DvrAmplification
            | Vector::UbiquitiAmplification
            | Vector::PlexAmplification
            | Vector::SlpAmplification
            | Vector::SentinelAmplification
            | Vector::IsakmpAmplification
            | Vector::SteamAmplification
            | Vector::QuakeAmplification
            | Vector::JenkinsAmplification
            | Vector::OtherAmplification => self.reflected(frame, vector),
        }
    }

    fn reflected(&mut self, frame: &mut Vec<u8>, vector: Vector) {
        let Some(reflector) = REFLECTORS.iter().find(|reflector| reflector.vector == vector) else { return };
        reflector.response(&mut self.payload, &mut self.rng);
        let ip = self.reflector_ip();
        let port = self.random_ports().1;
        let from = reflector.port(&mut self.rng);
        frame::udp(frame, self.aim.link, ip, (from, port), &self.payload);
        self.fragment(frame);
    }

    /// Keeps what does not fit the wire for the next frames.
    fn fragment(&mut self, frame: &mut Vec<u8>) {
        if frame.len() > MTU + 14 {
            self.fragments.extend(frame::fragments(frame, MTU));
            *frame = self.fragments.pop_front().unwrap_or_default();
        }
    }

    /// From anywhere, with the tool's time to live.
    fn spoofed(&mut self) -> Ip {
        self.spoofed_by(self.tool.ttl)
    }

    fn spoofed_by(&mut self, ttl: u8) -> Ip {
        let source = match self.sources.len() {
            0 => address::attacker(Family::of(self.aim.target.addr()), &mut self.rng),
            count => self.sources[self.rng.random_range(0..count)],
        };
        let destination = self.destination();
        let identification = self.rng.random();
        Ip { source, destination, ttl: ttl - address::hops(source), identification, dont_fragment: false }
    }

    /// From a server that was asked in the target's name.
    fn reflector_ip(&mut self) -> Ip {
        let mut ip = self.spoofed_by(255);
        // Servers start at 64, 128 or 255; one server does so always.
        let start = [64, 64, 128, 255][usize::from(address::hops(ip.source)) % 4];
        ip.ttl = start - address::hops(ip.source);
        ip
    }

    fn destination(&mut self) -> IpAddr {
        host_of(self.aim.target, self.rng.random())
    }

    fn random_ports(&mut self) -> (u16, u16) {
        let source = self.rng.random_range(12_000..=u16::MAX);
        let port = self.aim.port.or(self.aim.kind.port());
        (source, port.unwrap_or_else(|| self.rng.random_range(1_024..=u16::MAX)))
    }
}

/// The address of a prefix with this number; beyond its last it begins anew.
pub(crate) fn host_of(prefix: IpNet, host: u16) -> IpAddr {
    let bits = prefix.max_prefix_len() - prefix.prefix_len();
    let host = host & u16::MAX.checked_shr(16_u32.saturating_sub(bits.into())).unwrap_or(0);
    match prefix {
        IpNet::V4(prefix) => std::net::Ipv4Addr::from_bits(prefix.network().to_bits() | u32::from(host)).into(),
        IpNet::V6(prefix) => std::net::Ipv6Addr::from_bits(prefix.network().to_bits() | u128::from(host)).into(),
    }
}

/// Reflectors are servers that exist, and answer again and again; 0: any address.
fn usual_sources(vector: Vector) -> u32 {
    match vector {
        Vector::SynAckReflection | Vector::TcpMiddleboxReflection | Vector::Smurf | Vector::DnsWaterTorture => 2_000,
        vector if REFLECTORS.iter().any(|reflector| reflector.vector == vector) => 2_000,
        _ => 0,
    }
}
