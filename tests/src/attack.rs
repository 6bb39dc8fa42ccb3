//! Floods, one frame at a time. The same kind, target and seed give the same frames on every machine.
//!
//! What a tool would keep constant (window, options, lengths, time to live at the sender) is drawn once from the
//! seed; what it would randomise is drawn for every packet. Sources follow [`crate::address`].

use std::{collections::VecDeque, net::Ipv4Addr};

use clap::ValueEnum;
use ipnet::Ipv4Net;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::{
    address,
    amplification::{self, Reflector},
    frame::{self, Ipv4, Link, Tcp, flags},
    system::System,
};

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// SYNs of one tool from spoofed sources: one window, one option layout, one initial TTL.
    SynFlood,
    /// SYNs from spoofed sources that look like those of real systems.
    SynMimic,
    /// ACKs on connections that do not exist.
    AckFlood,
    /// Datagrams of random length and content to one port, or to random ports when none is given.
    UdpFlood,
    /// Datagrams of constant content.
    UdpConstant,
    /// Echo requests.
    IcmpFlood,
    /// UDP floods that hit every address of the target prefix alike.
    Carpet,
    /// Later fragments whose first never comes.
    FragmentFlood,
    /// DNS responses nobody asked for, longer ones in fragments.
    DnsAmplification,
    /// NTP `monlist` responses.
    NtpAmplification,
    /// LDAP search results over UDP, in fragments.
    CldapAmplification,
    /// UPnP announcements.
    SsdpAmplification,
    /// Values out of open caches.
    MemcachedAmplification,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.to_possible_value().as_ref().map_or("", |value| value.get_name()))
    }
}

/// A running flood.
#[derive(Debug)]
pub struct Attack {
    kind: Kind,
    link: Link,
    target: Ipv4Net,
    port: Option<u16>,
    tool: Tool,
    reflectors: Vec<Ipv4Addr>,
    rng: ChaCha8Rng,
    payload: Vec<u8>,
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

/// Largest IPv4 packet on the wire.
const MTU: usize = 1_500;

impl Attack {
    /// A flood on one address or a prefix.
    ///
    /// `port` is the attacked port. Without one, TCP floods take 80 and the others random ports.
    pub fn new(kind: Kind, target: Ipv4Net, port: Option<u16>, seed: u64, link: Link) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut payload = Vec::new();
        amplification::random(&mut payload, [32, 56, 512, 1_024][rng.random_range(0..4)], &mut rng);
        let tool = Tool {
            ttl: [64, 128, 255][rng.random_range(0..3)],
            window: [512, 1_024, 2_048, 16_384][rng.random_range(0..4)],
            options: [&[][..], &[2, 4, 5, 0xb4]][rng.random_range(0..2)],
            payload,
        };
        let reflectors = (0..2_000).map(|_| address::attacker(&mut rng)).collect();
        Self { kind, link, target, port, tool, reflectors, rng, payload: Vec::new(), fragments: VecDeque::new() }
    }

    /// Writes the next frame.
    pub fn next_frame(&mut self, frame: &mut Vec<u8>) {
        if let Some(fragment) = self.fragments.pop_front() {
            *frame = fragment;
            return;
        }
        match self.kind {
            Kind::SynFlood => self.tool_syn(frame),
            Kind::SynMimic => self.system_syn(frame),
            Kind::AckFlood => self.ack(frame),
            Kind::UdpFlood | Kind::Carpet => self.random_datagram(frame),
            Kind::UdpConstant => self.constant_datagram(frame),
            Kind::IcmpFlood => self.echo(frame),
            Kind::FragmentFlood => self.later_fragment(frame),
            Kind::DnsAmplification => self.reflected(frame, Reflector::Dns),
            Kind::NtpAmplification => self.reflected(frame, Reflector::Ntp),
            Kind::CldapAmplification => self.reflected(frame, Reflector::Cldap),
            Kind::SsdpAmplification => self.reflected(frame, Reflector::Ssdp),
            Kind::MemcachedAmplification => self.reflected(frame, Reflector::Memcached),
        }
    }

    fn tool_syn(&mut self, frame: &mut Vec<u8>) {
        let ip = self.spoofed(self.tool.ttl);
        let syn = Tcp { window: self.tool.window, options: self.tool.options, ..self.syn() };
        frame::tcp(frame, self.link, ip, syn, &[]);
    }

    fn system_syn(&mut self, frame: &mut Vec<u8>) {
        let system = System::any(&mut self.rng);
        let mut ip = self.spoofed(system.ttl);
        ip.dont_fragment = true;
        let options = system.options(&mut self.rng);
        let source = address::ephemeral_port(&mut self.rng);
        let syn = Tcp { window: system.window, options: &options, source, ..self.syn() };
        frame::tcp(frame, self.link, ip, syn, &[]);
    }

    fn ack(&mut self, frame: &mut Vec<u8>) {
        let ip = self.spoofed(self.tool.ttl);
        let ack = Tcp {
            flags: flags::ACK,
            acknowledgement: self.rng.random(),
            window: self.rng.random_range(1..=u16::MAX),
            ..self.syn()
        };
        frame::tcp(frame, self.link, ip, ack, &[]);
    }

    fn syn(&mut self) -> Tcp<'static> {
        Tcp {
            source: self.rng.random_range(1_024..=u16::MAX),
            destination: self.port.unwrap_or(80),
            sequence: self.rng.random(),
            flags: flags::SYN,
            ..Tcp::default()
        }
    }

    fn random_datagram(&mut self, frame: &mut Vec<u8>) {
        let ip = self.spoofed(self.tool.ttl);
        let length = self.rng.random_range(16..=600);
        self.payload.clear();
        amplification::random(&mut self.payload, length, &mut self.rng);
        let ports = self.random_ports();
        frame::udp(frame, self.link, ip, ports, &self.payload);
    }

    fn constant_datagram(&mut self, frame: &mut Vec<u8>) {
        let ip = self.spoofed(self.tool.ttl);
        let ports = self.random_ports();
        frame::udp(frame, self.link, ip, ports, &self.tool.payload);
    }

    fn random_ports(&mut self) -> (u16, u16) {
        let source = self.rng.random_range(12_000..=u16::MAX);
        (source, self.port.unwrap_or_else(|| self.rng.random_range(1..=u16::MAX)))
    }

    fn echo(&mut self, frame: &mut Vec<u8>) {
        let ip = self.spoofed(self.tool.ttl);
        let (identifier, sequence) = (self.rng.random(), self.rng.random_range(0..64));
        frame::icmp_echo(frame, self.link, ip, identifier, sequence, &self.tool.payload);
    }

    fn later_fragment(&mut self, frame: &mut Vec<u8>) {
        let ip = self.spoofed(self.tool.ttl);
        self.payload.clear();
        amplification::random(&mut self.payload, 2_000, &mut self.rng);
        let ports = self.random_ports();
        frame::udp(frame, self.link, ip, ports, &self.payload);
        *frame = frame::fragments(frame, MTU).pop().unwrap_or_default();
    }

    fn reflected(&mut self, frame: &mut Vec<u8>, reflector: Reflector) {
        let source = self.reflectors[self.rng.random_range(0..self.reflectors.len())];
        reflector.response(&mut self.payload, &mut self.rng);
        // Servers start at 64, 128 or 255; one server does so always.
        let start = [64u8, 64, 128, 255][usize::from(source.octets()[1]) % 4];
        let ip = self.from(source, start);
        let port = self.port.unwrap_or_else(|| self.rng.random_range(1_024..=u16::MAX));
        frame::udp(frame, self.link, ip, (reflector.port(), port), &self.payload);
        if frame.len() > MTU + 14 {
            self.fragments.extend(frame::fragments(frame, MTU));
            *frame = self.fragments.pop_front().unwrap_or_default();
        }
    }

    fn spoofed(&mut self, ttl: u8) -> Ipv4 {
        let source = address::attacker(&mut self.rng);
        self.from(source, ttl)
    }

    fn from(&mut self, source: Ipv4Addr, ttl: u8) -> Ipv4 {
        let host = self.rng.next_u32() & self.target.hostmask().to_bits();
        Ipv4 {
            source,
            destination: Ipv4Addr::from_bits(self.target.network().to_bits() | host),
            ttl: ttl - address::hops(source),
            identification: self.rng.random(),
            dont_fragment: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use etherparse::SlicedPacket;

    use super::*;

    fn target() -> Ipv4Net {
        "203.0.113.0/28".parse().unwrap()
    }

    fn frames(kind: Kind, seed: u64, count: usize) -> Vec<Vec<u8>> {
        let mut attack = Attack::new(kind, target(), None, seed, Link::default());
        (0..count)
            .map(|_| {
                let mut frame = Vec::new();
                attack.next_frame(&mut frame);
                frame
            })
            .collect()
    }

    #[test]
    fn the_same_seed_gives_the_same_frames_and_another_seed_others() {
        for kind in Kind::value_variants() {
            assert_eq!(frames(*kind, 7, 300), frames(*kind, 7, 300), "{kind}");
            assert_ne!(frames(*kind, 7, 300), frames(*kind, 8, 300), "{kind}");
        }
    }

    #[test]
    fn every_frame_of_every_kind_fits_the_wire_comes_from_the_attack_set_and_hits_the_target() {
        for kind in Kind::value_variants() {
            for frame in frames(*kind, 3, 500) {
                assert!(frame.len() <= MTU + 14, "{kind}: {} bytes", frame.len());
                let packet = SlicedPacket::from_ethernet(&frame).unwrap_or_else(|e| panic!("{kind}: {e}"));
                let Some(etherparse::NetSlice::Ipv4(net)) = packet.net else { panic!("{kind}: no IPv4") };
                let header = net.header().to_header();
                assert_eq!(header.header_checksum, header.calc_header_checksum(), "{kind}");
                assert!(address::is_attacker(header.source.into()), "{kind}");
                assert!(target().contains(&Ipv4Addr::from(header.destination)), "{kind}");
                assert!((30..=250).contains(&header.time_to_live), "{kind}: TTL {}", header.time_to_live);
            }
        }
    }

    #[test]
    fn a_syn_flood_has_the_constants_of_one_tool_and_a_mimic_has_not() {
        let windows = |kind| {
            frames(kind, 4, 200)
                .iter()
                .map(|frame| {
                    let packet = SlicedPacket::from_ethernet(frame).unwrap();
                    let Some(etherparse::TransportSlice::Tcp(tcp)) = packet.transport else { panic!("no TCP") };
                    assert!(tcp.syn() && !tcp.ack());
                    (tcp.window_size(), tcp.options().len())
                })
                .collect::<std::collections::HashSet<_>>()
                .len()
        };
        assert_eq!(windows(Kind::SynFlood), 1);
        assert!(windows(Kind::SynMimic) > 2);
    }

    #[test]
    fn dns_responses_come_whole_and_in_fragments() {
        let later = frames(Kind::DnsAmplification, 5, 500)
            .iter()
            .filter(|frame| u16::from_be_bytes([frame[20], frame[21]]) & 0x1fff != 0)
            .count();
        assert!((100..400).contains(&later), "{later} of 500 are later fragments");
    }
}
