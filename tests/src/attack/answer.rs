//! What a server says to a packet of an attack that reaches it.

use levee_api::vector::Vector;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::Kind;
use crate::{
    frame::{self, Ip, Link, Tcp, flags, protocol},
    quic,
};

/// The answer to a frame that [`super::Attack`] made, if it gets one: SYN-ACK and RST, NXDOMAIN, an Initial of the server, an
/// echo, "port unreachable"; fragments, other protocols and what is malformed get none.
pub fn answer(kind: Kind, inbound: &[u8], link: Link, rng: &mut ChaCha8Rng) -> Option<Vec<u8>> {
    let packet = Packet::read(inbound)?;
    let back = packet.back(rng);
    let mut frame = Vec::new();
    match packet.protocol {
        protocol::TCP => tcp(&mut frame, link, back, &packet, rng)?,
        protocol::UDP => {
            let ports = (packet.half(2)?, packet.half(0)?);
            let payload = packet.body.get(8..)?;
            match kind.vector() {
                Vector::DnsQueryFlood | Vector::DnsWaterTorture => {
                    frame::udp(&mut frame, link, back, ports, &name_error(payload)?);
                }
                Vector::QuicInitialFlood => {
                    let mut initial = quic::noise(rng);
                    // The server's packets are for the id that the client chose (RFC 9000 section 7.2).
                    initial.get_mut(6..14)?.copy_from_slice(payload.get(15..23)?);
                    frame::udp(&mut frame, link, back, ports, &initial);
                }
                _ => unreachable(&mut frame, link, back, inbound),
            }
        }
        protocol::ICMP | protocol::ICMPV6 if matches!(packet.body, [8 | 128, ..]) => {
            let kind = if packet.protocol == protocol::ICMP { 0 } else { 129 };
            let rest = *packet.body.get(4..)?.first_chunk::<4>()?;
            frame::icmp(&mut frame, link, back, kind, 0, rest, packet.body.get(8..)?);
        }
        _ => return None,
    }
    Some(frame)
}

/// The parts of a frame of ours that an answer needs.
struct Packet<'a> {
    ip: Ip,
    protocol: u8,
    /// From the transport header on.
    body: &'a [u8],
}

impl<'a> Packet<'a> {
    /// None for fragments.
    fn read(frame: &'a [u8]) -> Option<Self> {
        let start = frame::transport(frame);
        let body = frame.get(start..)?;
        let header = frame.get(14..start)?;
        let (protocol, source, destination) = match header.len() {
            20 if header.get(6..8)? != [0, 0] && header.get(6..8)? != [0x40, 0] => return None,
            20 => (
                *header.get(9)?,
                std::net::IpAddr::from(*header.get(12..)?.first_chunk::<4>()?),
                std::net::IpAddr::from(*header.get(16..)?.first_chunk::<4>()?),
            ),
            40 => (
                *header.get(6)?,
                std::net::IpAddr::from(*header.get(8..)?.first_chunk::<16>()?),
                std::net::IpAddr::from(*header.get(24..)?.first_chunk::<16>()?),
            ),
            _ => return None,
        };
        let ip = Ip { source, destination, ttl: 0, identification: 0, dont_fragment: true };
        Some(Self { ip, protocol, body })
    }

    fn back(&self, rng: &mut ChaCha8Rng) -> Ip {
        let (source, destination) = (self.ip.destination, self.ip.source);
        Ip { source, destination, ttl: 63, identification: rng.random(), dont_fragment: true }
    }

    fn half(&self, at: usize) -> Option<u16> {
        Some(u16::from_be_bytes(*self.body.get(at..)?.first_chunk()?))
    }

    fn word(&self, at: usize) -> Option<u32> {
        Some(u32::from_be_bytes(*self.body.get(at..)?.first_chunk()?))
    }
}

/// As a listening socket does (RFC 9293 section 3.10.7): SYN-ACK to a SYN, nothing to a reset, a reset to all else.
fn tcp(frame: &mut Vec<u8>, link: Link, back: Ip, packet: &Packet<'_>, rng: &mut ChaCha8Rng) -> Option<()> {
    let flag = *packet.body.get(13)?;
    if flag & flags::RST != 0 || *packet.body.get(12)? == 0xf0 {
        return None;
    }
    let is_opening = flag & (flags::SYN | flags::ACK | flags::FIN) == flags::SYN;
    let segment = Tcp {
        source: packet.half(2)?,
        destination: packet.half(0)?,
        sequence: if is_opening { rng.random() } else { packet.word(8)? },
        acknowledgement: if is_opening { packet.word(4)?.wrapping_add(1) } else { 0 },
        flags: if is_opening { flags::SYN | flags::ACK } else { flags::RST },
        window: if is_opening { 64_240 } else { 0 },
        options: if is_opening { &[2, 4, 5, 0xb4] } else { &[] },
    };
    frame::tcp(frame, link, back, segment, &[]);
    Some(())
}

/// The question again, with "no such name" (RFC 1035 section 4.1.1).
fn name_error(query: &[u8]) -> Option<Vec<u8>> {
    let mut answer = query.to_vec();
    answer.get_mut(2..4)?.copy_from_slice(&[0x85, 0x03]);
    Some(answer)
}

/// "Port unreachable" with the beginning of the packet (RFC 1812 section 4.3.2.3, RFC 4443 section 3.1).
fn unreachable(frame: &mut Vec<u8>, link: Link, back: Ip, inbound: &[u8]) {
    let (kind, code) = if back.source.is_ipv4() { (3, 3) } else { (1, 4) };
    let quoted = inbound.get(14..inbound.len().min(14 + 528)).unwrap_or_default();
    frame::icmp(frame, link, back, kind, code, [0; 4], quoted);
}
