//! A packet rewritten into the answer to it: the same frame with everything the other way round, so that it finds its way
//! back through the same tags, and never longer than it was.
//!
//! Nothing of the packet remains besides addresses, ports and tags, and the question of a DNS query.

use levee_api::lane::TcpFlags;

use super::dns;
use super::header::{self, IPV4, IPV6, TCP, TCP_PROTOCOL, UDP, UDP_PROTOCOL};
use super::options::Options;
use crate::packet::Layers;

/// What is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A TCP header without options.
    Segment {
        /// Sequence number.
        sequence: u32,
        /// Acknowledgement number.
        acknowledgement: u32,
        /// Flags.
        flags: TcpFlags,
        /// Window.
        window: u16,
    },
    /// A SYN-ACK that opens a connection for a server that does not know of it yet: the client may not send before that has answered,
    /// so that there is no window.
    Opening {
        /// Sequence number.
        sequence: u32,
        /// Acknowledgement number.
        acknowledgement: u32,
        /// What of the client's options is agreed to.
        options: Options,
    },
    /// To a DNS query: ask again over TCP.
    Truncated,
}

/// Whether a packet can be answered in its own frame.
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
    /// Of a packet with its transport header.
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
/// Shorter frames than this (without FCS) are filled up on their way anyway.
const SHORTEST_FRAME: usize = 60;

impl Reply {
    /// Accepts a connection.
    pub const fn syn_ack(sequence: u32, acknowledgement: u32) -> Self {
        Self::Segment { sequence, acknowledgement, flags: TcpFlags::SYN.union(TcpFlags::ACK), window: u16::MAX }
    }

    /// Ends a connection. `sequence`: what the segment that it answers acknowledges.
    pub const fn reset(sequence: u32) -> Self {
        Self::Segment { sequence, acknowledgement: 0, flags: TcpFlags::RST, window: 0 }
    }

    /// False when there is nothing in a packet that this could answer.
    #[inline]
    pub fn is_possible(&self, head: &[u8], layers: &Layers) -> bool {
        *self != Self::Truncated || dns::length(layers.payload(head)).is_some()
    }

    /// Rewrites the frame of a packet of its protocol, and returns how long the answer is, at most as long as `frame`. None when
    /// there is no [`Way`] back, or no query to answer; then nothing is written.
    #[inline]
    pub fn write(&self, frame: &mut [u8], layers: &Layers) -> Option<usize> {
        if Way::back(frame, layers) != Way::Open {
            return None;
        }
        let (l3, l4) = (usize::from(layers.l3), usize::from(layers.l4));
        let [ports] = header::rows(frame.get(l4..)?);
        let ports = u32::rotate_left(ports, 16);
        let is_v4 = frame.get(l3)? >> 4 == 4;
        let (protocol, content) = match self {
            Self::Segment { .. } => (TCP_PROTOCOL, TCP),
            Self::Opening { options, .. } => (TCP_PROTOCOL, TCP + 4 * options.rows().1),
            Self::Truncated => (UDP_PROTOCOL, UDP + dns::length(layers.payload(frame))?),
        };
        let ip_end = l3 + if is_v4 { IPV4 } else { IPV6 };
        let end = ip_end + content;
        let length = end.max(SHORTEST_FRAME).min(frame.len());
        // A query moves up to where the options of the IP header were.
        if *self == Self::Truncated && end <= length {
            frame.copy_within(l4..l4 + content, ip_end);
        }
        let padding = frame.get_mut(end..length)?;
        padding.fill(0);

        let (destination, rest) = frame.split_first_chunk_mut::<MAC>()?;
        destination.swap_with_slice(rest.get_mut(..MAC)?);
        let (ip, content) = frame.get_mut(l3..end)?.split_at_mut_checked(ip_end - l3)?;
        let addresses = if is_v4 {
            let [.., source, destination] = header::rows::<5>(ip);
            header::put(&header::ipv4(destination, source, protocol, content.len()), ip);
            header::sum(&[source, destination])
        } else {
            let [_, _, s0, s1, s2, s3, d0, d1, d2, d3] = header::rows(ip);
            let [first, second] = header::ipv6(protocol, content.len());
            let turned = [first, second, d0, d1, d2, d3, s0, s1, s2, s3];
            header::put(&turned, ip);
            header::sum(&[s0, s1, s2, s3, d0, d1, d2, d3])
        };
        match *self {
            Self::Segment { sequence, acknowledgement, flags, window } => {
                header::put(&header::tcp(addresses, ports, sequence, acknowledgement, flags, window), content);
            }
            Self::Opening { sequence, acknowledgement, options } => {
                let flags = TcpFlags::SYN.union(TcpFlags::ACK);
                let (rows, used) =
                    header::tcp_with(addresses, ports, sequence, acknowledgement, flags, 0, options.rows(), 0);
                header::put(rows.get(..used)?, content);
            }
            Self::Truncated => {
                let (udp, message) = content.split_at_mut_checked(UDP)?;
                dns::turn(message);
                header::put(&header::udp(addresses, ports, message), udp);
            }
        }
        Some(length)
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{IpHeaders, NetHeaders, PacketBuilder, PacketBuilderStep, PacketHeaders, TransportHeader};
    use proptest::prelude::*;

    use super::super::options::Stamps;
    use super::*;
    use crate::packet::{Kind, Lanes, Packet, parse};

    const CLIENT: [u8; 4] = [192, 0, 2, 1];
    const SERVER: [u8; 4] = [203, 0, 113, 10];

    fn to_server(is_v4: bool) -> PacketBuilderStep<IpHeaders> {
        let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let (v6_client, v6_server) = (0x2001_0db8_u128 << 96 | 1, 0x2001_0db8_000a_u128 << 80 | 7);
        if is_v4 {
            builder.ipv4(CLIENT, SERVER, 57)
        } else {
            builder.ipv6(v6_client.to_be_bytes(), v6_server.to_be_bytes(), 57)
        }
    }

    fn datagram(is_v4: bool, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        to_server(is_v4).udp(40_000, 53).write(&mut frame, payload).unwrap();
        frame
    }

    /// A SYN with data and options of a length.
    fn syn(is_v4: bool, tags: usize, options: usize, payload: usize) -> Vec<u8> {
        let mut frame = Vec::new();
        let builder = to_server(is_v4);
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
        fn a_connection_is_opened_with_what_was_offered_and_no_more_bytes(
            is_v4: bool, tags in 0..=2_usize, mss: bool, scale: bool, sack: bool, stamps: bool, sequence: u32,
        ) {
            let stamps = stamps.then_some(Stamps { value: 7, echo: 9 });
            let (mss, scale) = (mss.then_some(1460), scale.then_some(7));
            let options = Options { mss, scale, sack, stamps };
            // As short as such a SYN can be: options side by side, filled up to a row.
            let used: usize = [(mss.is_some(), 4), (scale.is_some(), 3), (sack, 2), (stamps.is_some(), 10)]
                .into_iter().filter(|(has, _)| *has).map(|(_, bytes)| bytes).sum();
            let mut frame = syn(is_v4, tags, used.div_ceil(4), 0);
            let asked = frame.clone();
            let reply = Reply::Opening { sequence, acknowledgement: 101, options };
            let length = reply.write(&mut frame, &layers_of(&asked)).unwrap();
            prop_assert!(length <= asked.len().max(60));
            let read = PacketHeaders::from_ethernet_slice(&frame[..length]).unwrap();
            let Some(TransportHeader::Tcp(tcp)) = &read.transport else { panic!("no TCP") };
            prop_assert_eq!(Options::read(tcp.options.as_slice()), options);
            prop_assert_eq!((tcp.sequence_number, tcp.acknowledgment_number, tcp.window_size), (sequence, 101, 0));
            prop_assert!(tcp.syn && tcp.ack && !tcp.rst && !tcp.fin && !tcp.psh);
            let check = match read.net.as_ref().unwrap() {
                NetHeaders::Ipv4(ip, _) => tcp.calc_checksum_ipv4(ip, &[]).unwrap(),
                NetHeaders::Ipv6(ip, _) => tcp.calc_checksum_ipv6(ip, &[]).unwrap(),
                NetHeaders::Arp(_) => panic!("no IP"),
            };
            prop_assert_eq!(tcp.checksum, check);
        }

        #[test]
        fn a_query_is_answered_with_its_question(is_v4: bool, options: bool, more in 0..20_usize, label in 1..30_u8) {
            let mut query = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0".to_vec();
            query.push(label);
            query.extend(vec![b'a'; label.into()]);
            query.extend(b"\0\0\x01\0\x01");
            let question = query.len();
            query.extend(vec![0xee; more]);
            let mut frame = datagram(is_v4, &query);
            if is_v4 && options {
                frame.splice(34..34, [1; 4]);
                frame[14] = 0x46;
                frame[17] += 4;
            }
            let asked = frame.clone();
            let length = Reply::Truncated.write(&mut frame, &layers_of(&asked)).unwrap();
            prop_assert!(length <= asked.len());
            let read = PacketHeaders::from_ethernet_slice(&frame[..length]).unwrap();
            let message = read.payload.slice();
            prop_assert_eq!(&message[12..], &query[12..question]);
            prop_assert_eq!(&message[..12], b"\x12\x34\x83\0\0\x01\0\0\0\0\0\0");
            let Some(TransportHeader::Udp(udp)) = &read.transport else { panic!("no UDP") };
            prop_assert_eq!((udp.source_port, udp.destination_port), (53, 40_000));
            match read.net.as_ref().unwrap() {
                NetHeaders::Ipv4(ip, _) => {
                    prop_assert_eq!((ip.source, ip.destination), (SERVER, CLIENT));
                    prop_assert_eq!(ip.header_checksum, ip.calc_header_checksum());
                    prop_assert_eq!(udp.checksum, udp.calc_checksum_ipv4(ip, message).unwrap());
                }
                NetHeaders::Ipv6(ip, _) => {
                    prop_assert_eq!((ip.source[15], ip.destination[15]), (7, 1));
                    prop_assert_eq!(udp.checksum, udp.calc_checksum_ipv6(ip, message).unwrap());
                }
                NetHeaders::Arp(_) => panic!("no IP"),
            }
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
