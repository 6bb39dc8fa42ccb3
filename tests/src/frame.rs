//! Ethernet frames with IPv4, TCP, UDP and ICMP: lengths and checksums are always right.
//!
//! A frame is built in place in a buffer that the caller reuses. Payloads are at most [`MAX_PAYLOAD`] bytes; longer
//! ones are cut.

use std::net::Ipv4Addr;

/// What fits an IPv4 datagram with the longest headers that are built here (20 + 60 bytes).
pub const MAX_PAYLOAD: usize = 65_535 - 80;

const ETHERNET: usize = 14;
const IPV4: usize = 20;
const MORE_FRAGMENTS: u16 = 0x2000;
const DONT_FRAGMENT: u16 = 0x4000;

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

/// The fields of an IPv4 header (RFC 791) that a sender chooses.
#[derive(Clone, Copy, Debug)]
pub struct Ipv4 {
    /// Source address.
    pub source: Ipv4Addr,
    /// Destination address.
    pub destination: Ipv4Addr,
    /// Time to live as it arrives.
    pub ttl: u8,
    /// Identification.
    pub identification: u16,
    /// The DF bit.
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
    /// Push.
    pub const PSH: u8 = 8;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 16;
}

/// A UDP datagram (RFC 768) in one packet, however long.
pub fn udp(frame: &mut Vec<u8>, link: Link, ip: Ipv4, ports: (u16, u16), payload: &[u8]) {
    let payload = cut(payload);
    begin(frame, link, ip, 17, 8 + payload.len());
    frame.extend(ports.0.to_be_bytes());
    frame.extend(ports.1.to_be_bytes());
    frame.extend(low16(8 + payload.len()).to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(payload);
    let sum = transport_checksum(frame, ip, 17);
    // RFC 768: a computed zero is sent as all ones, zero means "not computed".
    put(frame, ETHERNET + IPV4 + 6, if sum == 0 { 0xffff } else { sum });
}

/// A TCP segment.
pub fn tcp(frame: &mut Vec<u8>, link: Link, ip: Ipv4, tcp: Tcp<'_>, payload: &[u8]) {
    let payload = cut(payload);
    let options = tcp.options.get(..tcp.options.len().min(40) / 4 * 4).unwrap_or_default();
    let words = 5 + low16(options.len()) / 4;
    begin(frame, link, ip, 6, usize::from(words) * 4 + payload.len());
    frame.extend(tcp.source.to_be_bytes());
    frame.extend(tcp.destination.to_be_bytes());
    frame.extend(tcp.sequence.to_be_bytes());
    frame.extend(tcp.acknowledgement.to_be_bytes());
    frame.extend((words << 12 | u16::from(tcp.flags)).to_be_bytes());
    frame.extend(tcp.window.to_be_bytes());
    frame.extend([0; 4]);
    frame.extend(options);
    frame.extend(payload);
    let sum = transport_checksum(frame, ip, 6);
    put(frame, ETHERNET + IPV4 + 16, sum);
}

/// An ICMP echo request (RFC 792).
pub fn icmp_echo(frame: &mut Vec<u8>, link: Link, ip: Ipv4, identifier: u16, sequence: u16, payload: &[u8]) {
    let payload = cut(payload);
    begin(frame, link, ip, 1, 8 + payload.len());
    frame.extend([8, 0, 0, 0]);
    frame.extend(identifier.to_be_bytes());
    frame.extend(sequence.to_be_bytes());
    frame.extend(payload);
    let sum = fold(sum(frame.get(ETHERNET + IPV4..).unwrap_or_default()));
    put(frame, ETHERNET + IPV4 + 2, !sum);
}

/// Cuts a frame with an IPv4 packet into fragments of at most `mtu` bytes each, as a router would (RFC 791 section
/// 3.2). A packet that fits stays as it is.
pub fn fragments(frame: &[u8], mtu: usize) -> Vec<Vec<u8>> {
    let header = frame.get(..ETHERNET + IPV4).unwrap_or_default();
    let body = frame.get(ETHERNET + IPV4..).unwrap_or_default();
    let step = mtu.saturating_sub(IPV4) / 8 * 8;
    if header.is_empty() || step == 0 || IPV4 + body.len() <= mtu {
        return vec![frame.to_vec()];
    }
    let last = (body.len() - 1) / step;
    body.chunks(step)
        .enumerate()
        .map(|(i, piece)| {
            let mut fragment = [header, piece].concat();
            let more = if i < last { MORE_FRAGMENTS } else { 0 };
            put(&mut fragment, ETHERNET + 2, low16(IPV4 + piece.len()));
            put(&mut fragment, ETHERNET + 6, low16(i * step / 8) | more);
            seal(&mut fragment);
            fragment
        })
        .collect()
}

fn begin(frame: &mut Vec<u8>, link: Link, ip: Ipv4, protocol: u8, body: usize) {
    frame.clear();
    frame.extend(link.destination);
    frame.extend(link.source);
    frame.extend([0x08, 0x00, 0x45, 0x00]);
    frame.extend(low16(IPV4 + body).to_be_bytes());
    frame.extend(ip.identification.to_be_bytes());
    frame.extend(if ip.dont_fragment { DONT_FRAGMENT } else { 0 }.to_be_bytes());
    frame.extend([ip.ttl, protocol, 0, 0]);
    frame.extend(ip.source.octets());
    frame.extend(ip.destination.octets());
    seal(frame);
}

/// Computes the checksum of the IPv4 header.
fn seal(frame: &mut [u8]) {
    put(frame, ETHERNET + 10, 0);
    let sum = fold(sum(frame.get(ETHERNET..ETHERNET + IPV4).unwrap_or_default()));
    put(frame, ETHERNET + 10, !sum);
}

fn transport_checksum(frame: &[u8], ip: Ipv4, protocol: u8) -> u16 {
    let segment = frame.get(ETHERNET + IPV4..).unwrap_or_default();
    let pseudo = sum(&ip.source.octets())
        + sum(&ip.destination.octets())
        + u64::from(protocol)
        + u64::from(low16(segment.len()));
    !fold(pseudo + sum(segment))
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

    fn ip() -> Ipv4 {
        Ipv4 {
            source: Ipv4Addr::new(192, 0, 2, 1),
            destination: Ipv4Addr::new(203, 0, 113, 9),
            ttl: 57,
            identification: 0xbeef,
            dont_fragment: true,
        }
    }

    /// What etherparse reads, with the IPv4 header checksum verified.
    fn read(frame: &[u8]) -> SlicedPacket<'_> {
        let packet = SlicedPacket::from_ethernet(frame).unwrap();
        let Some(NetSlice::Ipv4(net)) = &packet.net else { panic!("no IPv4 in {packet:?}") };
        let header = net.header().to_header();
        assert_eq!(header.header_checksum, header.calc_header_checksum());
        assert_eq!(usize::from(header.total_len), frame.len() - ETHERNET);
        packet
    }

    proptest! {
        #[test]
        fn udp_is_what_etherparse_expects(payload in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let mut frame = Vec::new();
            udp(&mut frame, Link::default(), ip(), (1234, 53), &payload);
            let packet = read(&frame);
            let Some(TransportSlice::Udp(slice)) = packet.transport else { panic!("no UDP") };
            prop_assert_eq!(slice.payload(), &payload[..]);
            let expected = slice
                .to_header()
                .calc_checksum_ipv4_raw(ip().source.octets(), ip().destination.octets(), &payload)
                .unwrap();
            prop_assert_eq!(slice.checksum(), expected);
        }

        #[test]
        fn tcp_is_what_etherparse_expects(payload in proptest::collection::vec(any::<u8>(), 0..1500), words in 0usize..10) {
            let options = vec![1u8; words * 4];
            let header = Tcp { source: 4000, destination: 80, sequence: 7, flags: flags::SYN, window: 512, options: &options, ..Tcp::default() };
            let mut frame = Vec::new();
            tcp(&mut frame, Link::default(), ip(), header, &payload);
            let packet = read(&frame);
            let Some(TransportSlice::Tcp(slice)) = packet.transport else { panic!("no TCP") };
            prop_assert_eq!(slice.payload(), &payload[..]);
            prop_assert_eq!(slice.options().len(), words * 4);
            let expected = slice
                .to_header()
                .calc_checksum_ipv4_raw(ip().source.octets(), ip().destination.octets(), &payload)
                .unwrap();
            prop_assert_eq!(slice.checksum(), expected);
        }

        #[test]
        fn fragments_put_together_are_the_packet(length in 0usize..6000, mtu in 68usize..1600) {
            let payload: Vec<u8> = (0..=250).cycle().take(length).collect();
            let mut frame = Vec::new();
            udp(&mut frame, Link::default(), Ipv4 { dont_fragment: false, ..ip() }, (1, 2), &payload);
            let mut body: Vec<u8> = Vec::new();
            for fragment in fragments(&frame, mtu) {
                prop_assert!(fragment.len() <= mtu + ETHERNET);
                let packet = SlicedPacket::from_ethernet(&fragment).unwrap();
                let Some(NetSlice::Ipv4(net)) = packet.net else { panic!("no IPv4") };
                let header = net.header().to_header();
                prop_assert_eq!(header.header_checksum, header.calc_header_checksum());
                prop_assert_eq!(usize::from(header.fragment_offset.value()) * 8, body.len());
                body.extend(&fragment[ETHERNET + IPV4..]);
                let complete = body.len() == frame.len() - ETHERNET - IPV4;
                prop_assert_eq!(header.more_fragments, !complete);
            }
            prop_assert_eq!(&body[..], &frame[ETHERNET + IPV4..]);
        }
    }

    #[test]
    fn an_echo_request_sums_to_zero() {
        let mut frame = Vec::new();
        icmp_echo(&mut frame, Link::default(), ip(), 7, 9, b"abc");
        read(&frame);
        assert_eq!(fold(sum(&frame[ETHERNET + IPV4..])), 0xffff);
    }
}
