//! Ethernet frames with IPv4 or IPv6, TCP, UDP, ICMP and anything else: lengths and checksums are always right.
//!
//! A frame is built in place in a buffer that the caller reuses. Payloads are at most [`MAX_PAYLOAD`] bytes; longer
//! ones are cut.

use std::{
    hash::{Hash, Hasher},
    net::{IpAddr, Ipv6Addr},
};

/// What fits a datagram with the longest headers that are built here (40 + 60 bytes).
pub const MAX_PAYLOAD: usize = 65_535 - 100;

const ETHERNET: usize = 14;
const IPV4: usize = 20;
const IPV6: usize = 40;
const MORE_FRAGMENTS: u16 = 0x2000;
const DONT_FRAGMENT: u16 = 0x4000;

/// Protocol numbers (IANA).
pub mod protocol {
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// Fragment header of IPv6.
    pub const FRAGMENT: u8 = 44;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
}

/// A hardware address.
pub type Mac = [u8; 6];

/// Who sends to whom on the link.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// Sender.
    pub source: Mac,
    /// Receiver.
    pub destination: Mac,
}

impl Default for Link {
    /// Two locally administered addresses, for captures.
    fn default() -> Self {
        Self { source: [2, 0, 0, 0, 0, 1], destination: [2, 0, 0, 0, 0, 2] }
    }
}

impl Link {
    /// The way back.
    pub fn reversed(self) -> Self {
        Self { source: self.destination, destination: self.source }
    }
}

/// The fields of an IPv4 (RFC 791) or IPv6 header (RFC 8200) that a sender chooses.
#[derive(Clone, Copy, Debug)]
pub struct Ip {
    /// Source address.
    pub source: IpAddr,
    /// Destination address. If the two are of different families, the packet is IPv6 and the other address a mapped one.
    pub destination: IpAddr,
    /// Time to live, or hop limit, as it arrives.
    pub ttl: u8,
    /// Identification; IPv6 has it in fragments only.
    pub identification: u16,
    /// The DF bit of IPv4.
    pub dont_fragment: bool,
}

/// The fields of a TCP header (RFC 9293) that a sender chooses.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tcp<'a> {
    /// Source port.
    pub source: u16,
    /// Destination port.
    pub destination: u16,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledgement: u32,
    /// The eight flag bits.
    pub flags: u8,
    /// Window as on the wire.
    pub window: u16,
    /// Options, a multiple of four bytes, at most 40.
    pub options: &'a [u8],
}

/// TCP flags (RFC 9293 section 3.1).
pub mod flags {
    /// No more data from the sender.
    pub const FIN: u8 = 1;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 2;
    /// Reset the connection.
    pub const RST: u8 = 4;
    /// Push.
    pub const PSH: u8 = 8;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 16;
    /// Urgent.
    pub const URG: u8 = 32;
}

/// A UDP datagram (RFC 768) in one packet, however long.
pub fn udp(frame: &mut Vec<u8>, link: Link, ip: Ip, ports: (u16, u16), payload: &[u8]) {
    let payload = cut(payload);
    let start = begin(frame, link, ip, protocol::UDP, 8 + payload.len());
    frame.extend(ports.0.to_be_bytes());
    frame.extend(ports.1.to_be_bytes());
    frame.extend(low16(8 + payload.len()).to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(payload);
    let sum = transport_checksum(frame, start, ip, protocol::UDP);
    // RFC 768: a computed zero is sent as all ones, zero means "not computed".
    put(frame, start + 6, if sum == 0 { 0xffff } else { sum });
}

/// A TCP segment.
pub fn tcp(frame: &mut Vec<u8>, link: Link, ip: Ip, tcp: Tcp<'_>, payload: &[u8]) {
    let payload = cut(payload);
    let options = tcp.options.get(..tcp.options.len().min(40) / 4 * 4).unwrap_or_default();
    let words = 5 + low16(options.len()) / 4;
    let start = begin(frame, link, ip, protocol::TCP, usize::from(words) * 4 + payload.len());
    frame.extend(tcp.source.to_be_bytes());
    frame.extend(tcp.destination.to_be_bytes());
    frame.extend(tcp.sequence.to_be_bytes());
    frame.extend(tcp.acknowledgement.to_be_bytes());
    frame.extend((words << 12 | u16::from(tcp.flags)).to_be_bytes());
    frame.extend(tcp.window.to_be_bytes());
    frame.extend([0; 4]);
    frame.extend(options);
    frame.extend(payload);
    let sum = transport_checksum(frame, start, ip, protocol::TCP);
    put(frame, start + 16, sum);
}

/// An ICMP message (RFC 792), or an ICMPv6 message (RFC 4443) between IPv6 addresses. `rest`: the four bytes behind the
/// checksum, such as identifier and sequence number of an echo.
pub fn icmp(frame: &mut Vec<u8>, link: Link, ip: Ip, kind: u8, code: u8, rest: [u8; 4], payload: &[u8]) {
    let payload = cut(payload);
    let number = if is_ipv4(ip) { protocol::ICMP } else { protocol::ICMPV6 };
    let start = begin(frame, link, ip, number, 8 + payload.len());
    frame.extend([kind, code, 0, 0]);
    frame.extend(rest);
    frame.extend(payload);
    let sum = match number {
        // ICMP has no pseudo-header, ICMPv6 has one (RFC 4443 section 2.3).
        protocol::ICMP => !fold(sum(frame.get(start..).unwrap_or_default())),
        _ => transport_checksum(frame, start, ip, number),
    };
    put(frame, start + 2, sum);
}

/// A packet of any other protocol.
pub fn other(frame: &mut Vec<u8>, link: Link, ip: Ip, number: u8, payload: &[u8]) {
    let payload = cut(payload);
    begin(frame, link, ip, number, payload.len());
    frame.extend(payload);
}

/// Cuts a frame into fragments of at most `mtu` bytes each: IPv4 as a router would (RFC 791 section 3.2), IPv6 as the sender
/// (RFC 8200 section 4.5), with four bytes of the transport header as its identification. A packet that fits stays as it is.
pub fn fragments(frame: &[u8], mtu: usize) -> Vec<Vec<u8>> {
    let start = transport(frame);
    let extra = if start == ETHERNET + IPV6 { 8 } else { 0 };
    let header = frame.get(..start).unwrap_or_default();
    let body = frame.get(start..).unwrap_or_default();
    let step = (mtu + ETHERNET).saturating_sub(start + extra) / 8 * 8;
    if header.is_empty() || step == 0 || frame.len() <= mtu + ETHERNET {
        return vec![frame.to_vec()];
    }
    let last = (body.len() - 1) / step;
    let identification = body.first_chunk::<8>().map_or([0; 4], |[.., a, b, c, d]| [*a, *b, *c, *d]);
    body.chunks(step)
        .enumerate()
        .map(|(i, piece)| {
            let more = i < last;
            let offset = low16(i * step);
            if extra == 0 {
                let mut fragment = [header, piece].concat();
                put(&mut fragment, ETHERNET + 2, low16(IPV4 + piece.len()));
                put(&mut fragment, ETHERNET + 6, if more { MORE_FRAGMENTS } else { 0 } | (offset / 8));
                seal(&mut fragment);
                return fragment;
            }
            let next = header.get(ETHERNET + 6).copied().unwrap_or(0);
            let [high, low] = (offset | u16::from(more)).to_be_bytes();
            let mut fragment = [header, &[next, 0, high, low], &identification, piece].concat();
            put(&mut fragment, ETHERNET + 4, low16(extra + piece.len()));
            if let Some(next) = fragment.get_mut(ETHERNET + 6) {
                *next = protocol::FRAGMENT;
            }
            fragment
        })
        .collect()
}

/// Where the transport header of a frame built here begins; behind the end of what is none.
pub(crate) fn transport(frame: &[u8]) -> usize {
    match frame.get(12..14) {
        Some([0x08, 0x00]) => ETHERNET + IPV4,
        Some([0x86, 0xdd]) => ETHERNET + IPV6,
        _ => frame.len(),
    }
}

/// A number for addresses, ports and protocol of an inbound frame built here.
pub(crate) fn flow(frame: &[u8]) -> u64 {
    let start = transport(frame);
    let (protocol, addresses) = if start == ETHERNET + IPV4 { (ETHERNET + 9, 8) } else { (ETHERNET + 6, 32) };
    let mut hasher = std::hash::DefaultHasher::new();
    (frame.get(protocol), frame.get(start.saturating_sub(addresses)..start + 4)).hash(&mut hasher);
    hasher.finish()
}

fn is_ipv4(ip: Ip) -> bool {
    ip.source.is_ipv4() && ip.destination.is_ipv4()
}

fn ipv6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

/// Writes the headers up to the transport's and returns where that begins.
fn begin(frame: &mut Vec<u8>, link: Link, ip: Ip, protocol: u8, body: usize) -> usize {
    frame.clear();
    frame.extend(link.destination);
    frame.extend(link.source);
    if let (IpAddr::V4(source), IpAddr::V4(destination)) = (ip.source, ip.destination) {
        frame.extend([0x08, 0x00, 0x45, 0x00]);
        frame.extend(low16(IPV4 + body).to_be_bytes());
        frame.extend(ip.identification.to_be_bytes());
        frame.extend(if ip.dont_fragment { DONT_FRAGMENT } else { 0 }.to_be_bytes());
        frame.extend([ip.ttl, protocol, 0, 0]);
        frame.extend(source.octets());
        frame.extend(destination.octets());
        seal(frame);
    } else {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend(low16(body).to_be_bytes());
        frame.extend([protocol, ip.ttl]);
        frame.extend(ipv6(ip.source).octets());
        frame.extend(ipv6(ip.destination).octets());
    }
    frame.len()
}

/// Computes the checksum of the IPv4 header.
fn seal(frame: &mut [u8]) {
    put(frame, ETHERNET + 10, 0);
    let sum = fold(sum(frame.get(ETHERNET..ETHERNET + IPV4).unwrap_or_default()));
    put(frame, ETHERNET + 10, !sum);
}

fn transport_checksum(frame: &[u8], start: usize, ip: Ip, protocol: u8) -> u16 {
    let segment = frame.get(start..).unwrap_or_default();
    let addresses = match (ip.source, ip.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => sum(&source.octets()) + sum(&destination.octets()),
        (source, destination) => sum(&ipv6(source).octets()) + sum(&ipv6(destination).octets()),
    };
    !fold(addresses + u64::from(protocol) + u64::from(low16(segment.len())) + sum(segment))
}

/// The Internet checksum's sum (RFC 1071) of big-endian 16-bit words, not yet folded.
fn sum(bytes: &[u8]) -> u64 {
    // Four bytes at a time: the end-around carry makes a sum of 32-bit words fold to the same 16 bits.
    let (words, rest) = bytes.as_chunks::<4>();
    let tail = match *rest {
        [a] => u32::from_be_bytes([a, 0, 0, 0]),
        [a, b] => u32::from_be_bytes([a, b, 0, 0]),
        [a, b, c] => u32::from_be_bytes([a, b, c, 0]),
        _ => 0,
    };
    words.iter().map(|word| u64::from(u32::from_be_bytes(*word))).sum::<u64>() + u64::from(tail)
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (sum & 0xffff) as u16
}

fn put(frame: &mut [u8], at: usize, value: u16) {
    if let Some(field) = frame.get_mut(at..at + 2) {
        field.copy_from_slice(&value.to_be_bytes());
    }
}

fn cut(payload: &[u8]) -> &[u8] {
    payload.get(..payload.len().min(MAX_PAYLOAD)).unwrap_or_default()
}

/// Lengths and fragment offsets always fit because payloads are cut to [`MAX_PAYLOAD`].
pub(crate) fn low16(value: usize) -> u16 {
    u16::try_from(value).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};
    use proptest::prelude::*;

    use super::*;

    fn ip(version: u8) -> Ip {
        let [source, destination] = match version {
            4 => ["192.0.2.1", "203.0.113.9"],
            _ => ["2001:db8:1::1", "2001:db8:2::9"],
        };
        let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
        Ip { source, destination, ttl: 57, identification: 0xbeef, dont_fragment: true }
    }

    /// What etherparse reads, with the IPv4 header checksum verified.
    fn read(frame: &[u8]) -> SlicedPacket<'_> {
        let packet = SlicedPacket::from_ethernet(frame).unwrap();
        match &packet.net {
            Some(NetSlice::Ipv4(net)) => {
                let header = net.header().to_header();
                assert_eq!(header.header_checksum, header.calc_header_checksum());
                assert_eq!(usize::from(header.total_len), frame.len() - ETHERNET);
            }
            Some(NetSlice::Ipv6(net)) => {
                assert_eq!(usize::from(net.header().payload_length()), frame.len() - ETHERNET - IPV6);
            }
            _ => panic!("no IP in {packet:?}"),
        }
        packet
    }

    /// What a correct checksum makes of the transport's sum.
    fn checks(frame: &[u8], version: u8, number: u8) -> bool {
        transport_checksum(frame, transport(frame), ip(version), number) == 0
    }

    fn version() -> impl Strategy<Value = u8> {
        prop_oneof![Just(4), Just(6)]
    }

    proptest! {
        #[test]
        fn udp_is_what_etherparse_expects(payload in proptest::collection::vec(any::<u8>(), 0..2000), version in version()) {
            let mut frame = Vec::new();
            udp(&mut frame, Link::default(), ip(version), (1234, 53), &payload);
            let packet = read(&frame);
            let Some(TransportSlice::Udp(slice)) = packet.transport else { panic!("no UDP") };
            prop_assert_eq!(slice.payload(), &payload[..]);
            let header = slice.to_header();
            let expected = match (ip(version).source, ip(version).destination) {
                (IpAddr::V4(a), IpAddr::V4(b)) => header.calc_checksum_ipv4_raw(a.octets(), b.octets(), &payload),
                (a, b) => header.calc_checksum_ipv6_raw(ipv6(a).octets(), ipv6(b).octets(), &payload),
            };
            prop_assert_eq!(slice.checksum(), expected.unwrap());
            prop_assert!(checks(&frame, version, protocol::UDP));
        }

        #[test]
        fn tcp_is_what_etherparse_expects(
            payload in proptest::collection::vec(any::<u8>(), 0..1500), words in 0usize..10, version in version()
        ) {
            let options = vec![1u8; words * 4];
            let header = Tcp { source: 4000, destination: 80, sequence: 7, flags: flags::SYN, window: 512, options: &options, ..Tcp::default() };
            let mut frame = Vec::new();
            tcp(&mut frame, Link::default(), ip(version), header, &payload);
            let packet = read(&frame);
            let Some(TransportSlice::Tcp(slice)) = packet.transport else { panic!("no TCP") };
            prop_assert_eq!(slice.payload(), &payload[..]);
            prop_assert_eq!(slice.options().len(), words * 4);
            prop_assert!(checks(&frame, version, protocol::TCP));
        }

        #[test]
        fn fragments_put_together_are_the_packet(length in 0usize..6000, mtu in 96usize..1600, version in version()) {
            let payload: Vec<u8> = (0..=250).cycle().take(length).collect();
            let mut frame = Vec::new();
            udp(&mut frame, Link::default(), Ip { dont_fragment: false, ..ip(version) }, (1, 2), &payload);
            let pieces = fragments(&frame, mtu);
            let mut body: Vec<u8> = Vec::new();
            for fragment in &pieces {
                prop_assert!(fragment.len() <= mtu + ETHERNET);
                let packet = read(fragment);
                let (offset, more, piece) = match packet.net {
                    Some(NetSlice::Ipv4(net)) => {
                        let header = net.header().to_header();
                        (header.fragment_offset.value(), header.more_fragments, &fragment[ETHERNET + IPV4..])
                    }
                    _ if pieces.len() == 1 => (0, false, &fragment[ETHERNET + IPV6..]),
                    _ => {
                        let word = u16::from_be_bytes([fragment[ETHERNET + IPV6 + 2], fragment[ETHERNET + IPV6 + 3]]);
                        (word / 8, word & 1 == 1, &fragment[ETHERNET + IPV6 + 8..])
                    }
                };
                prop_assert_eq!(usize::from(offset) * 8, body.len());
                body.extend(piece);
                prop_assert_eq!(more, body.len() < frame.len() - transport(&frame));
            }
            prop_assert_eq!(&body[..], &frame[transport(&frame)..]);
        }
    }

    #[test]
    fn echo_requests_have_right_checksums() {
        let mut frame = Vec::new();
        icmp(&mut frame, Link::default(), ip(4), 8, 0, [0, 7, 0, 9], b"abc");
        read(&frame);
        assert_eq!(fold(sum(&frame[ETHERNET + IPV4..])), 0xffff);
        icmp(&mut frame, Link::default(), ip(6), 128, 0, [0, 7, 0, 9], b"abc");
        read(&frame);
        assert!(checks(&frame, 6, protocol::ICMPV6));
    }

    #[test]
    fn a_packet_of_another_protocol_is_what_it_was_given() {
        let mut frame = Vec::new();
        for version in [4, 6] {
            other(&mut frame, Link::default(), ip(version), 47, &[1, 2, 3]);
            read(&frame);
            assert!(frame.ends_with(&[1, 2, 3]));
        }
    }
}
