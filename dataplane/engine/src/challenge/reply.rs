//! A packet rewritten into the answer to it: the same frame with everything the other way round, so that it finds its way
//! back through the same tags, and never longer than it was.
//!
//! An answer is a TCP header without options. Nothing of the packet remains besides addresses, ports and tags.

use levee_api::lane::TcpFlags;

use crate::packet::Layers;

/// What is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    sequence: u32,
    acknowledgement: u32,
    flags: TcpFlags,
    window: u16,
}

/// Whether a TCP segment can be answered in its own frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It can.
    Open,
    /// It is below labels, and those of the way back are not known.
    BelowLabels,
    /// It is a fragment, or has extension headers.
    None,
}

impl Way {
    /// Of a segment with its header.
    #[inline]
    pub fn back(head: &[u8], layers: &Layers) -> Self {
        let (l3, l4) = (usize::from(layers.l3), usize::from(layers.l4));
        let is_whole = layers.piece.end == 0;
        // The type before an IP header; before one below labels it is the end of a label, whose first byte here is odd.
        match l3.checked_sub(2).and_then(|at| head.get(at..)?.first_chunk()) {
            Some([0x08, 0x00]) if is_whole && l4 >= l3 + IPV4 => Self::Open,
            Some([0x86, 0xdd]) if is_whole && l4 == l3 + IPV6 => Self::Open,
            Some([0x08, 0x00] | [0x86, 0xdd]) | None => Self::None,
            Some(_) => Self::BelowLabels,
        }
    }
}

const MAC: usize = 6;
const IPV4: usize = 20;
const IPV6: usize = 40;
const TCP: usize = 20;
const PROTOCOL: u8 = 6;
/// As hosts send it (RFC 1700's recommendation, and what Linux does).
const TTL: u8 = 64;
/// Shorter frames than this (without FCS) are filled up on their way anyway.
const SHORTEST_FRAME: usize = 60;

impl Reply {
    /// Accepts a connection.
    pub const fn syn_ack(sequence: u32, acknowledgement: u32) -> Self {
        Self { sequence, acknowledgement, flags: TcpFlags::SYN.union(TcpFlags::ACK), window: u16::MAX }
    }

    /// Ends a connection. `sequence`: what the segment that it answers acknowledges.
    pub const fn reset(sequence: u32) -> Self {
        Self { sequence, acknowledgement: 0, flags: TcpFlags::RST, window: 0 }
    }

    /// Rewrites the frame of a TCP segment, and returns how long the answer is, at most as long as `frame`. None when there
    /// is no [`Way`] back; then nothing is written.
    #[inline]
    pub fn write(&self, frame: &mut [u8], layers: &Layers) -> Option<usize> {
        if Way::back(frame, layers) != Way::Open {
            return None;
        }
        let (l3, l4) = (usize::from(layers.l3), usize::from(layers.l4));
        let ports: [u8; 4] = *frame.get(l4..)?.first_chunk()?;
        let is_v4 = frame.get(l3)? >> 4 == 4;
        let end = l3 + TCP + if is_v4 { IPV4 } else { IPV6 };
        let length = end.max(SHORTEST_FRAME).min(frame.len());
        let padding = frame.get_mut(end..length)?;
        padding.fill(0);

        let (destination, rest) = frame.split_first_chunk_mut::<MAC>()?;
        destination.swap_with_slice(rest.get_mut(..MAC)?);
        let packet = frame.get_mut(l3..end)?;
        if is_v4 {
            let (ip, tcp) = packet.split_first_chunk_mut::<IPV4>()?;
            self.segment(&turn_ipv4(ip), ports, tcp.first_chunk_mut()?);
        } else {
            let (ip, tcp) = packet.split_first_chunk_mut::<IPV6>()?;
            self.segment(&turn_ipv6(ip), ports, tcp.first_chunk_mut()?);
        }
        Some(length)
    }

    /// Writes the TCP header. `addresses`: both, as they are on the wire. `ports`: those of the packet.
    #[inline]
    fn segment(&self, addresses: &[u8], ports: [u8; 4], header: &mut [u8; TCP]) {
        const WORDS: u8 = 5;
        let [s0, s1, d0, d1] = ports;
        let [q0, q1, q2, q3] = self.sequence.to_be_bytes();
        let [a0, a1, a2, a3] = self.acknowledgement.to_be_bytes();
        let [_, flags] = self.flags.bits().to_be_bytes();
        let [w0, w1] = self.window.to_be_bytes();
        #[rustfmt::skip] // rows as in RFC 9293's picture
        let segment = |c0, c1| [
            d0,         d1,    s0, s1,
            q0,         q1,    q2, q3,
            a0,         a1,    a2, a3,
            WORDS << 4, flags, w0, w1,
            c0,         c1,    0,  0,
        ];
        // With the pseudo header (RFC 9293 section 3.1): addresses, protocol and length.
        let sum = sum(addresses) + sum(&segment(0, 0)) + u64::from(PROTOCOL) + TCP as u64;
        let [c0, c1] = checksum(sum);
        *header = segment(c0, c1);
    }
}

/// Turns an IPv4 header round; returns the new addresses.
#[inline]
fn turn_ipv4(header: &mut [u8; IPV4]) -> [u8; 8] {
    const LENGTH: u8 = 40;
    const _: () = assert!(LENGTH as usize == IPV4 + TCP);
    let [.., s0, s1, s2, s3, d0, d1, d2, d3] = *header;
    let addresses = [d0, d1, d2, d3, s0, s1, s2, s3];
    #[rustfmt::skip] // rows as in RFC 791's picture, the third without the checksum
    let fixed = [
        0x45, 0,        0, LENGTH,
        0,    0,        0x40 /* do not fragment */, 0,
        TTL,  PROTOCOL,
    ];
    let [c0, c1] = checksum(sum(&fixed) + sum(&addresses));
    let (head, rest) = header.split_at_mut(fixed.len());
    head.copy_from_slice(&fixed);
    let (check, places) = rest.split_at_mut(2);
    check.copy_from_slice(&[c0, c1]);
    places.copy_from_slice(&addresses);
    addresses
}

/// Turns an IPv6 header round; returns the new addresses.
#[inline]
fn turn_ipv6(header: &mut [u8; IPV6]) -> [u8; 32] {
    const LENGTH: u8 = 20;
    const _: () = assert!(LENGTH as usize == TCP);
    let (head, addresses) = header.split_at_mut(8);
    head.copy_from_slice(&[0x60, 0, 0, 0, 0, LENGTH, PROTOCOL, TTL]);
    let (source, destination) = addresses.split_at_mut(16);
    source.swap_with_slice(destination);
    let mut turned = [0; 32];
    turned.copy_from_slice(addresses);
    turned
}

/// The sum of 16-bit words, an even number of bytes.
#[inline]
fn sum(bytes: &[u8]) -> u64 {
    bytes.as_chunks::<2>().0.iter().map(|word| u64::from(u16::from_be_bytes(*word))).sum()
}

/// The checksum of a sum of words (RFC 1071).
#[inline]
fn checksum(sum: u64) -> [u8; 2] {
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    (!u16::try_from(folded).unwrap_or(0)).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use etherparse::{NetHeaders, PacketBuilder, PacketHeaders, TransportHeader};
    use proptest::prelude::*;

    use super::*;
    use crate::packet::{Kind, Lanes, Packet, parse};

    const CLIENT: [u8; 4] = [192, 0, 2, 1];
    const SERVER: [u8; 4] = [203, 0, 113, 10];

    /// A SYN with data and options of a length.
    fn syn(is_v4: bool, tags: usize, options: usize, payload: usize) -> Vec<u8> {
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let (v6_client, v6_server) = (0x2001_0db8_u128 << 96 | 1, 0x2001_0db8_000a_u128 << 80 | 7);
        let builder = if is_v4 {
            builder.ipv4(CLIENT, SERVER, 57)
        } else {
            builder.ipv6(v6_client.to_be_bytes(), v6_server.to_be_bytes(), 57)
        };
        let options = vec![1; options * 4];
        let builder = builder.tcp(40_000, 443, 100, 64_240).syn().options_raw(&options).unwrap();
        builder.write(&mut frame, &vec![0xab; payload]).unwrap();
        for _ in 0..tags {
            frame.splice(12..12, [0x81, 0x00, 0x20, 0x64]);
        }
        frame
    }

    fn layers_of(frame: &[u8]) -> Layers {
        let packet = Packet { head: frame, wire_len: u32::try_from(frame.len()).unwrap() };
        parse(&packet, &mut Lanes::default())
    }

    proptest! {
        #[test]
        fn an_answer_goes_back_the_way_the_packet_came(
            is_v4: bool, tags in 0..=2_usize, options in 0..=10_usize, payload in 0..20_usize, padding in 0..20_usize,
            sequence: u32, acknowledgement: u32,
        ) {
            let mut frame = syn(is_v4, tags, options, payload);
            frame.resize(frame.len() + padding, 0xee);
            let asked = frame.clone();
            let reply = Reply::syn_ack(sequence, acknowledgement);
            let length = reply.write(&mut frame, &layers_of(&asked)).unwrap();
            prop_assert!(length <= asked.len());
            let answer = &frame[..length];
            prop_assert_eq!((&answer[..6], &answer[6..12]), (&asked[6..12], &asked[..6]));
            prop_assert_eq!(&answer[12..12 + 4 * tags + 2], &asked[12..12 + 4 * tags + 2], "the same tags");

            let read = PacketHeaders::from_ethernet_slice(answer).unwrap();
            let Some(TransportHeader::Tcp(tcp)) = &read.transport else { panic!("no TCP") };
            match read.net.as_ref().unwrap() {
                NetHeaders::Ipv4(ip, _) => {
                    prop_assert_eq!((ip.source, ip.destination, ip.time_to_live), (SERVER, CLIENT, 64));
                    prop_assert_eq!(ip.header_checksum, ip.calc_header_checksum());
                    prop_assert_eq!(tcp.checksum, tcp.calc_checksum_ipv4(ip, &[]).unwrap());
                }
                NetHeaders::Ipv6(ip, _) => {
                    prop_assert_eq!((ip.source[15], ip.destination[15], ip.hop_limit), (7, 1, 64));
                    prop_assert_eq!(tcp.checksum, tcp.calc_checksum_ipv6(ip, &[]).unwrap());
                }
                NetHeaders::Arp(_) => panic!("no IP"),
            }
            prop_assert_eq!((tcp.source_port, tcp.destination_port), (443, 40_000));
            prop_assert_eq!((tcp.sequence_number, tcp.acknowledgment_number), (sequence, acknowledgement));
            prop_assert!(tcp.syn && tcp.ack && !tcp.rst && !tcp.fin && !tcp.psh);
            let end = 14 + 4 * tags + if is_v4 { 40 } else { 60 };
            prop_assert!(answer[end..].iter().all(|byte| *byte == 0), "padding says nothing");
        }

        #[test]
        fn a_packet_that_cannot_be_turned_round_stays_as_it_is(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            let mut frame = bytes.clone();
            let layers = layers_of(&frame);
            match Reply::reset(1).write(&mut frame, &layers) {
                Some(length) => prop_assert!(length <= bytes.len() && layers.kind != Kind::Other),
                None => prop_assert_eq!(frame, bytes),
            }
        }
    }

    #[test]
    fn what_is_below_labels_or_behind_extension_headers_is_not_answered() {
        let plain = syn(true, 0, 0, 0);
        let mut labelled = plain.clone();
        labelled.splice(12..14, [0x88, 0x47, 0, 1, 1, 64]);
        assert_eq!(layers_of(&labelled).kind, Kind::Tcp);
        assert_eq!(Way::back(&labelled, &layers_of(&labelled)), Way::BelowLabels);
        let mut extended = syn(false, 0, 0, 0);
        extended.splice(54..54, [6, 0, 1, 4, 0, 0, 0, 0]);
        extended[20] = 0;
        extended[19] += 8;
        assert_eq!(layers_of(&extended).kind, Kind::Tcp);
        assert_eq!(Way::back(&extended, &layers_of(&extended)), Way::None);
        assert_eq!(Way::back(&plain, &layers_of(&plain)), Way::Open);
    }

    #[test]
    fn ip_options_are_left_out() {
        let mut frame = syn(true, 0, 0, 0);
        frame.splice(34..34, [1; 4]);
        frame[14] = 0x46;
        frame[17] += 4;
        let layers = layers_of(&frame);
        assert_eq!(layers.kind, Kind::Tcp);
        let length = Reply::reset(1).write(&mut frame, &layers).unwrap();
        assert_eq!((length, frame[14], frame[47]), (58, 0x45, TcpFlags::RST.bits().to_be_bytes()[1]));
    }
}
