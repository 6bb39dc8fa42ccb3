//! TCP (RFC 9293): ports, flags, and the layout of the options.

use levee_api::lane::{Bits, Lane, TcpFlags};

use super::frame::{Frame, offset, saturated};
use super::hash::Hash;
use super::{Datagram, Kind, Lanes, Layers};
use crate::verdict::Reason;

/// Protocol number.
pub(crate) const PROTOCOL: u8 = 6;
/// Length of the header without options.
pub(super) const HEADER: usize = 20;

pub(super) fn parse(
    frame: &Frame<'_>,
    datagram: &Datagram,
    lanes: &mut Lanes,
    layers: &mut Layers,
) -> Result<Kind, Reason> {
    let missing = datagram.missing(Reason::TcpHeader);
    let header = frame.header::<HEADER>(datagram.at, datagram.end, missing)?;
    #[rustfmt::skip] // rows as in RFC 9293's picture
    let [
        s0,     s1,    d0,      d1,
        _,      _,     seq2,    seq3,
        ack0,   ack1,  ack2,    ack3,
        length, flags, window0, window1,
        _,      _,     urgent0, urgent1,
    ] = *header;
    lanes.set_ports(u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1]));
    let flags = u16::from_be_bytes([length & 1, flags]);
    lanes.set(Lane::TcpFlags, flags);
    lanes.set(Lane::TcpWindow, u16::from_be_bytes([window0, window1]));
    let mut bits = Bits::empty();
    bits.set(Bits::ACK_ZERO, [ack0, ack1, ack2, ack3] == [0; 4]);
    bits.set(Bits::SEQ_LOW_ZERO, [seq2, seq3] == [0; 2]);
    bits.set(Bits::URGENT, [urgent0, urgent1] != [0; 2]);
    lanes.add(bits);

    let options = datagram.at + HEADER;
    let after = datagram.at + usize::from(length >> 4) * 4;
    if after < options {
        return Err(Reason::TcpHeader);
    }
    let options = frame.range(options, after, datagram.end, missing)?;
    layers.payload = offset(after);
    lanes.set(Lane::PayloadLength, saturated(datagram.end - after));
    if !options.is_empty() {
        set_options(options, lanes);
    }
    if is_legal(TcpFlags::from_bits_truncate(flags)) { Ok(Kind::Tcp) } else { Err(Reason::TcpFlags) }
}

/// Fills the lanes of the options, of which there are some.
pub(super) fn set_options(options: &[u8], lanes: &mut Lanes) {
    let Options { layout, mss } = Options::read(options);
    lanes.set(Lane::Digest, layout);
    lanes.set(Lane::TcpMss, mss);
}

/// Whether a stack may send this combination of flags. ECE, CWR and NS go with anything (RFC 3168, RFC 9768).
///
/// | illegal | why |
/// |---|---|
/// | SYN and FIN | opens and closes: RFC 9293 section 3.10 has no such segment; T/TCP, which had, is historic (RFC 6247) |
/// | SYN and RST | opens and aborts |
/// | none of SYN, RST and ACK (null, PSH, URG) | every segment but the first and a reset carries ACK; receivers drop it (section 3.10.7.4) |
/// | FIN without ACK, also with RST (FIN, FIN+PSH+URG) | the same |
///
/// Everything else is legal, because some stack or middlebox does send it: RST with or without ACK, with data, PSH or (when a
/// load balancer closes in a hurry) FIN+ACK; SYN with data and PSH (RFC 7413); URG with SYN, RST or ACK.
pub(super) fn is_legal(flags: TcpFlags) -> bool {
    let opens = flags.contains(TcpFlags::SYN);
    let aborts = flags.contains(TcpFlags::RST);
    let closes = flags.contains(TcpFlags::FIN);
    let acknowledges = flags.contains(TcpFlags::ACK);
    !(opens && (closes || aborts)) && (acknowledges || ((opens || aborts) && !closes))
}

const END_OF_OPTIONS: u8 = 0;
const NO_OPERATION: u8 = 1;
const MAXIMUM_SEGMENT_SIZE: u8 = 2;

/// What is kept of the options.
struct Options {
    /// Hash of kinds and lengths in order.
    layout: u16,
    /// Zero when absent.
    mss: u16,
}

impl Options {
    /// Reads options up to their end, or up to a length that cannot be: hosts ignore those too.
    fn read(mut options: &[u8]) -> Self {
        let mut hash = Hash::new();
        let mut mss = 0;
        while let [kind, rest @ ..] = options {
            hash.add(*kind);
            options = match (*kind, rest) {
                (END_OF_OPTIONS, _) => break,
                (NO_OPERATION, _) => rest,
                (kind, [length, value @ ..]) => {
                    hash.add(*length);
                    if let (MAXIMUM_SEGMENT_SIZE, 4, [m0, m1, ..]) = (kind, *length, value) {
                        mss = u16::from_be_bytes([*m0, *m1]);
                    }
                    match usize::from(*length).checked_sub(2).and_then(|skip| value.get(skip..)) {
                        Some(next) => next,
                        None => break,
                    }
                }
                _ => break,
            };
        }
        Self { layout: hash.finish(), mss }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Read, ipv4, ipv6, read, read_snapped, tcp};
    use super::*;

    /// Options of a Linux SYN: MSS 1460, SACK permitted, timestamps, no operation, window scale.
    const LINUX: [u8; 20] = [2, 4, 0x05, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7];

    fn with_options(options: &[u8]) -> Read {
        read(&ipv4(PROTOCOL, &tcp(0x02, options, &[])))
    }

    #[test]
    fn a_segment_fills_the_lanes() {
        for frame in [ipv4(PROTOCOL, &tcp(0x18, &[1; 12], b"GET /")), ipv6(PROTOCOL, &tcp(0x18, &[1; 12], b"GET /"))] {
            let read = read(&frame);
            assert_eq!(read.layers.kind, Kind::Tcp);
            assert_eq!((read.lane(Lane::SrcPort), read.lane(Lane::DstPort)), (40_000, 443));
            assert_eq!(read.lane(Lane::TcpFlags), (TcpFlags::PSH | TcpFlags::ACK).bits());
            assert_eq!((read.lane(Lane::TcpWindow), read.lane(Lane::PayloadLength)), (0xfaf0, 5));
            assert_eq!(read.payload(), b"GET /");
            assert_eq!((read.lane(Lane::Payload0), read.lane(Lane::Payload2)), (0x4745, 0x5420));
            assert!(!read.lanes.bits().intersects(Bits::ACK_ZERO | Bits::SEQ_LOW_ZERO | Bits::URGENT));
        }
    }

    #[test]
    fn numbers_that_tools_leave_zero_are_noted() {
        let mut segment = tcp(0x02, &[], &[]);
        segment[6..12].fill(0);
        segment[19] = 1;
        let read = read(&ipv4(PROTOCOL, &segment));
        assert!(read.lanes.bits().contains(Bits::ACK_ZERO | Bits::SEQ_LOW_ZERO | Bits::URGENT));
    }

    #[test]
    fn the_nonce_bit_is_a_flag() {
        let mut segment = tcp(0xc2, &[], &[]);
        segment[12] |= 0x01;
        let read = read(&ipv4(PROTOCOL, &segment));
        assert_eq!(read.layers.kind, Kind::Tcp);
        assert_eq!(read.lane(Lane::TcpFlags), 0x1c2);
    }

    #[test]
    fn a_data_offset_that_cannot_be_is_malformed() {
        for length in [0x00, 0x40, 0x60, 0xf0] {
            let mut segment = tcp(0x10, &[], b"ab");
            segment[12] = length;
            let read = read(&ipv4(PROTOCOL, &segment));
            assert_eq!(read.reason(), Some(Reason::TcpHeader), "{length:#x}");
            assert_eq!(read.lane(Lane::DstPort), 443);
        }
    }

    #[test]
    fn a_packet_shorter_than_the_header_is_malformed_and_a_cut_capture_is_truncated() {
        let segment = tcp(0x10, &LINUX, b"data");
        for length in 0..40 {
            assert_eq!(read(&ipv4(PROTOCOL, &segment[..length])).reason(), Some(Reason::TcpHeader));
            assert_eq!(read_snapped(&ipv4(PROTOCOL, &segment), 34 + length).reason(), Some(Reason::Truncated));
        }
        let cut = read_snapped(&ipv4(PROTOCOL, &segment), 74 + 2);
        assert_eq!((cut.layers.kind, cut.lane(Lane::PayloadLength)), (Kind::Tcp, 4));
        assert_eq!(cut.payload(), b"da");
        assert_eq!((cut.lane(Lane::Payload0), cut.lane(Lane::Payload2)), (0x6461, 0));
    }

    #[test]
    fn only_combinations_that_some_stack_sends_are_legal() {
        let (fin, syn, rst, psh, ack, urg) = (1_u8, 2, 4, 8, 16, 32);
        let legal = [
            syn,
            syn | psh,
            syn | ack,
            syn | ack | psh,
            ack,
            ack | psh,
            ack | urg,
            ack | psh | urg,
            fin | ack,
            fin | psh | ack,
            fin | psh | ack | urg,
            rst,
            rst | ack,
            rst | psh,
            rst | psh | ack,
            rst | fin | ack,
        ];
        let illegal = [
            0,
            fin,
            psh,
            urg,
            psh | urg,
            fin | psh | urg,
            fin | psh,
            fin | rst,
            syn | fin,
            syn | rst,
            syn | fin | ack,
            syn | rst | ack,
            fin | syn | rst | psh | ack | urg,
        ];
        for ecn in [0, 64, 128, 192] {
            for flags in legal {
                let read = read(&ipv4(PROTOCOL, &tcp(flags | ecn, &[], &[])));
                assert_eq!(read.layers.kind, Kind::Tcp, "{flags:#x}");
            }
            for flags in illegal {
                let read = read(&ipv4(PROTOCOL, &tcp(flags | ecn, &[], &[])));
                assert_eq!(read.reason(), Some(Reason::TcpFlags), "{flags:#x}");
                assert_eq!(read.lane(Lane::TcpFlags), u16::from(flags | ecn));
            }
        }
    }

    #[test]
    fn a_syn_may_carry_data() {
        let read = read(&ipv4(PROTOCOL, &tcp(0x02, &LINUX, b"hello")));
        assert_eq!((read.layers.kind, read.payload()), (Kind::Tcp, &b"hello"[..]));
    }

    #[test]
    fn the_option_hash_is_of_kinds_and_lengths_and_not_of_values() {
        let linux = with_options(&LINUX);
        let mut later = LINUX;
        later[8..12].fill(0xaa);
        assert_eq!(linux.lane(Lane::Digest), with_options(&later).lane(Lane::Digest));
        // The same options in another order.
        let other = [4, 2, 2, 4, 0x05, 0xb4, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7];
        assert_ne!(linux.lane(Lane::Digest), with_options(&other).lane(Lane::Digest));
        assert_ne!(linux.lane(Lane::Digest), 0);
        assert_eq!(with_options(&[]).lane(Lane::Digest), 0);
        assert_eq!((linux.lane(Lane::TcpMss), with_options(&other).lane(Lane::TcpMss)), (1460, 1460));
    }

    #[test]
    fn options_with_lengths_that_cannot_be_are_read_as_far_as_they_go() {
        for options in [[2, 4, 0x05, 0xb4, 8, 0, 0, 0], [2, 4, 0x05, 0xb4, 8, 10, 0, 0], [2, 4, 0x05, 0xb4, 1, 1, 1, 8]]
        {
            let read = with_options(&options);
            assert_eq!((read.layers.kind, read.lane(Lane::TcpMss)), (Kind::Tcp, 1460));
            assert_ne!(read.lane(Lane::Digest), 0);
        }
        // What follows the end of the options is not read.
        assert_eq!(with_options(&[0, 2, 4, 0x05, 0xb4, 0, 0, 0]).lane(Lane::TcpMss), 0);
    }
}
