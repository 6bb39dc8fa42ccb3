//! IPv4 (RFC 791), its options and fragments.

use levee_api::lane::{Bits, Lane};

use super::fragment::Fragment;
use super::frame::Frame;
use super::{Datagram, Lanes};
use crate::verdict::Reason;

/// Length of the header without options.
pub(super) const HEADER: usize = 20;
pub(super) const DONT_FRAGMENT: u16 = 0x4000;
pub(super) const MORE_FRAGMENTS: u16 = 0x2000;
pub(super) const OFFSET: u16 = 0x1fff;

/// Reads the header at `at`. Its version is known to be 4.
///
/// A wrong checksum is noted, not judged: routers drop such packets, captures of a sending host are full of them.
pub(super) fn parse(
    frame: &Frame<'_>,
    at: usize,
    header: &[u8; HEADER],
    lanes: &mut Lanes,
) -> Result<Datagram, Reason> {
    #[rustfmt::skip] // rows as in RFC 791's picture
    let [
        ihl,  tos,      len0,  len1,
        id0,  id1,      frag0, frag1,
        ttl,  protocol, _,     _,
        s0,   s1,       s2,    s3,
        d0,   d1,       d2,    d3,
    ] = *header;
    let total = u16::from_be_bytes([len0, len1]);
    let control = u16::from_be_bytes([frag0, frag1]);
    lanes.fill(Lane::Src6, &[s0, s1, s2, s3]);
    lanes.fill(Lane::Dst6, &[d0, d1, d2, d3]);
    lanes.set(Lane::Protocol, protocol.into());
    lanes.set(Lane::IpLength, total);
    lanes.set(Lane::Ttl, ttl.into());
    lanes.set(Lane::Dscp, tos.into());
    lanes.set(Lane::Ident, u16::from_be_bytes([id0, id1]));

    let end = at + usize::from(total);
    if usize::from(total) < HEADER || end > frame.wire_end {
        return Err(Reason::Ipv4Length);
    }
    let after = at + usize::from(ihl & 0x0f) * 4;
    if after < at + HEADER {
        return Err(Reason::Ipv4HeaderLength);
    }
    let mut bits = Bits::empty();
    bits.set(Bits::DONT_FRAGMENT, control & DONT_FRAGMENT != 0);
    let is_right = if after == at + HEADER {
        is_checksum_right(header)
    } else {
        let options = frame.range(at + HEADER, after, end, Reason::Ipv4HeaderLength)?;
        walk(options)?;
        bits.insert(Bits::OPTIONS);
        is_checksum_right(frame.present(at, after))
    };
    bits.set(Bits::CHECKSUM_BAD, !is_right);

    let (units, more, data) = (control & OFFSET, control & MORE_FRAGMENTS != 0, end - after);
    let fragment = Fragment::judge(units, more, after - at, data, protocol)?;
    lanes.set(Lane::Bits, (bits | fragment.bits()).bits());
    let identification = u16::from_be_bytes([id0, id1]).into();
    let is_land = [s0, s1, s2, s3] == [d0, d1, d2, d3];
    let piece = fragment.piece(units, more, data);
    Ok(Datagram { protocol, at: after, end, fragment, identification, piece, is_land })
}

/// Where the transport header is after a header at `at` that need not be a valid one; `None` in later fragments.
pub(super) fn transport_of(at: usize, header: &[u8; HEADER]) -> Option<usize> {
    let [ihl, _, _, _, _, _, frag0, frag1, ..] = *header;
    let is_later = u16::from_be_bytes([frag0, frag1]) & OFFSET != 0;
    (!is_later).then(|| at + usize::from(ihl & 0x0f) * 4)
}

/// Whether the ones' complement sum of a header with its checksum is all ones. The order of bytes does not matter for that, nor
/// how many of them are added at once (RFC 1071 section 2).
#[inline(always)]
pub(super) fn is_checksum_right(header: &[u8]) -> bool {
    let (words, _) = header.as_chunks::<4>();
    let sum: u64 = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
    // 15 words at most have a sum of 36 bits; folded it has 18, then 17, then 16.
    let folded = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
    let folded = (folded & 0xffff) + (folded >> 16);
    (folded & 0xffff) + (folded >> 16) == 0xffff
}

const END_OF_OPTIONS: u8 = 0;
const NO_OPERATION: u8 = 1;
const LOOSE_SOURCE_ROUTE: u8 = 131;
const STRICT_SOURCE_ROUTE: u8 = 137;

/// Walks the options: source routes are refused (RFC 7126), and so are lengths that do not add up.
fn walk(mut options: &[u8]) -> Result<(), Reason> {
    loop {
        options = match options {
            [] | [END_OF_OPTIONS, ..] => return Ok(()),
            [NO_OPERATION, rest @ ..] => rest,
            [LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE, ..] => return Err(Reason::Ipv4SourceRoute),
            [_, length, ..] if *length >= 2 => options.get(usize::from(*length)..).ok_or(Reason::Ipv4Options)?,
            _ => return Err(Reason::Ipv4Options),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::super::Kind;
    use super::super::fixture::{
        DESTINATION, SOURCE, ethernet, ipv4, ipv4_fragment, ipv4_packet, read, read_snapped, tcp, udp,
    };
    use super::*;

    const MORE: u16 = MORE_FRAGMENTS;

    fn with_options(options: &[u8]) -> Vec<u8> {
        ethernet(0x0800, &ipv4_packet(17, 0, options, &udp(7, 9, b"data")))
    }

    /// A byte of the IP header changed.
    fn changed(mut frame: Vec<u8>, at: usize, value: u8) -> Vec<u8> {
        frame[14 + at] = value;
        frame
    }

    #[test]
    fn a_hand_written_packet_fills_the_lanes() {
        #[rustfmt::skip]
        let frame = [
            0x02, 0, 0, 0, 0, 2, 0x02, 0, 0, 0, 0, 1, 0x08, 0x00,
            0x45, 0xb8, 0x00, 0x20,
            0x23, 0x45, 0x40, 0x00,
            0x40, 0x11, 0x2a, 0x94,
            192, 0, 2, 1,
            198, 51, 100, 7,
            0x00, 0x35, 0xd4, 0x31,
            0x00, 0x0c, 0x00, 0x00,
            0xca, 0xfe, 0xba, 0xbe,
        ];
        let read = read(&frame);
        assert_eq!(read.layers.kind, Kind::Udp);
        assert_eq!((read.layers.l3, read.layers.l4, read.layers.payload, read.layers.end), (14, 34, 42, 46));
        let mut expected = Lanes::default();
        expected.0[6..8].copy_from_slice(&[0xc000, 0x0201]);
        expected.0[14..16].copy_from_slice(&[0xc633, 0x6407]);
        for (lane, value) in [
            (Lane::SrcPort, 53),
            (Lane::DstPort, 54321),
            (Lane::Protocol, 17),
            (Lane::IpLength, 32),
            (Lane::PayloadLength, 4),
            (Lane::Ttl, 64),
            (Lane::Dscp, 0xb8),
            (Lane::Ident, 0x2345),
            (Lane::Payload0, 0xcafe),
            (Lane::Payload2, 0xbabe),
            (Lane::Bits, (Bits::DONT_FRAGMENT | Bits::PORTS).bits()),
        ] {
            expected.set(lane, value);
        }
        assert_eq!(read.lanes, expected);
        assert_eq!(read.lanes.source(), [0, 0, 0, 0, 0, 0, 0xc000, 0x0201]);
        assert_eq!(read.lanes.destination(), [0, 0, 0, 0, 0, 0, 0xc633, 0x6407]);
    }

    #[test]
    fn padding_of_the_frame_is_outside_the_packet() {
        let mut frame = ipv4(17, &udp(7, 9, b"ab"));
        let plain = read(&frame);
        frame.resize(60, 0xee);
        let padded = read(&frame);
        assert_eq!((padded.layers, padded.lanes), (plain.layers, plain.lanes));
        assert_eq!(padded.payload(), b"ab");
    }

    #[test]
    fn a_header_that_is_cut_is_truncated() {
        let frame = ipv4(17, &udp(7, 9, b"ab"));
        for snap in 14..34 {
            let kind = Kind::Malformed { reason: Reason::Truncated, addressed: false };
            assert_eq!(read_snapped(&frame, snap).layers.kind, kind);
            assert_eq!(read(&frame[..snap]).layers.kind, kind);
        }
    }

    #[test]
    fn a_total_length_that_cannot_be_is_malformed_but_addressed() {
        let frame = ipv4(17, &udp(7, 9, b"ab"));
        for length in [0, 19, 31, 255] {
            let read = read(&changed(frame.clone(), 3, length));
            assert_eq!(read.reason(), Some(Reason::Ipv4Length), "{length}");
            assert_eq!(read.lane(Lane::Src7), 0x0201);
            assert_eq!(read.lane(Lane::Dst7), 0x6407);
            assert_eq!(read.lane(Lane::Protocol), 17);
        }
    }

    #[test]
    fn a_header_length_that_cannot_be_is_malformed() {
        let frame = ipv4(17, &udp(7, 9, b"ab"));
        for ihl in [0x40, 0x44, 0x48, 0x4f] {
            assert_eq!(read(&changed(frame.clone(), 0, ihl)).reason(), Some(Reason::Ipv4HeaderLength));
        }
    }

    #[test]
    fn a_wrong_checksum_is_noted_and_not_judged() {
        let good = ipv4(17, &udp(7, 9, b"ab"));
        let bad = read(&changed(good.clone(), 10, 0));
        assert_eq!(bad.layers.kind, Kind::Udp);
        assert!(bad.lanes.bits().contains(Bits::CHECKSUM_BAD));
        assert!(!read(&good).lanes.bits().contains(Bits::CHECKSUM_BAD));
        assert!(!read(&with_options(&[7, 7, 4, 1, 1, 1, 1, 0])).lanes.bits().contains(Bits::CHECKSUM_BAD));
    }

    #[test]
    fn options_are_walked_to_the_transport_header() {
        // Router alert; no operation and end of options; record route.
        for options in [&[0x94, 0x04, 0, 0][..], &[1, 1, 0, 0xff], &[7, 7, 4, 1, 1, 1, 1, 0]] {
            let read = read(&with_options(options));
            assert_eq!(read.layers.kind, Kind::Udp);
            assert!(read.lanes.bits().contains(Bits::OPTIONS));
            assert_eq!(read.lane(Lane::DstPort), 9);
            assert_eq!(read.payload(), b"data");
        }
    }

    #[test]
    fn options_whose_lengths_do_not_add_up_are_malformed() {
        for options in [&[0x94, 0, 0, 0][..], &[0x94, 1, 0, 0], &[0x94, 5, 0, 0], &[1, 1, 1, 0x94]] {
            assert_eq!(read(&with_options(options)).reason(), Some(Reason::Ipv4Options), "{options:?}");
        }
    }

    #[test]
    fn source_routes_are_malformed() {
        for kind in [131, 137] {
            let read = read(&with_options(&[1, kind, 7, 4, 192, 0, 2, 9]));
            assert_eq!(read.reason(), Some(Reason::Ipv4SourceRoute));
        }
    }

    #[test]
    fn options_that_a_capture_cut_are_truncated_and_addressed() {
        let frame = with_options(&[1; 8]);
        assert_eq!(read_snapped(&frame, 38).reason(), Some(Reason::Truncated));
    }

    #[test]
    fn the_first_fragment_has_a_transport_header_and_later_ones_have_none() {
        // The UDP length is that of the whole datagram: 8 + 2000.
        let first = [&[0x00, 0x35, 0x10, 0x00, 0x07, 0xd8, 0, 0][..], &[0x61; 16]].concat();
        let first = read(&ipv4_fragment(17, MORE, &first));
        assert_eq!(first.layers.kind, Kind::Udp);
        assert!(first.lanes.bits().contains(Bits::FIRST_FRAGMENT | Bits::PORTS));
        assert_eq!((first.lane(Lane::SrcPort), first.lane(Lane::PayloadLength)), (53, 2000));
        assert_eq!(first.payload(), [0x61; 16]);
        assert_eq!(first.layers.fragment, 0x2345);

        let later = read(&ipv4_fragment(17, MORE | 3, &[0x62; 16]));
        assert_eq!(later.layers.kind, Kind::LaterFragment);
        assert!(later.lanes.bits().contains(Bits::LATER_FRAGMENT));
        assert!(!later.lanes.bits().intersects(Bits::PORTS | Bits::FIRST_FRAGMENT));
        assert_eq!((later.lane(Lane::SrcPort), later.lane(Lane::PayloadLength)), (0, 16));
        assert_eq!(later.lane(Lane::Payload0), 0x6262);
        assert_eq!((later.layers.l4, later.layers.payload, later.layers.fragment), (34, 34, 0x2345));
        assert_eq!(read(&ipv4(17, &udp(53, 9, &[]))).layers.fragment, 0);
    }

    #[test]
    fn a_first_fragment_without_the_transport_header_is_malformed() {
        let segment = tcp(0x10, &[1; 8], b"12345678");
        for length in [8, 16, 24] {
            let read = read(&ipv4_fragment(6, MORE, &segment[..length]));
            assert_eq!(read.reason(), Some(Reason::FragmentTiny), "{length}");
        }
        assert_eq!(read(&ipv4_fragment(6, MORE, &segment[..32])).layers.kind, Kind::Tcp);
        // SCTP, DCCP.
        for protocol in [132, 33] {
            assert_eq!(read(&ipv4_fragment(protocol, MORE, &[0; 8])).reason(), Some(Reason::FragmentTiny));
            assert_eq!(read(&ipv4_fragment(protocol, MORE, &[0; 16])).layers.kind, Kind::OtherProtocol);
        }
    }

    #[test]
    fn impossible_fragments_are_malformed() {
        assert_eq!(read(&ipv4_fragment(6, 1, &[0; 16])).reason(), Some(Reason::FragmentOffsetOne));
        assert_eq!(read(&ipv4_fragment(17, MORE, &[0; 15])).reason(), Some(Reason::FragmentLength));
        assert_eq!(read(&ipv4_fragment(17, 2, &[])).reason(), Some(Reason::FragmentLength));
        assert_eq!(read(&ipv4_fragment(1, 0x1fff, &[0; 16])).reason(), Some(Reason::FragmentLength));
    }

    #[test]
    fn land_is_malformed() {
        let mut frame = ipv4(17, &udp(7, 7, b"ab"));
        frame[30..34].copy_from_slice(&SOURCE);
        let read = read(&frame);
        assert_eq!(read.reason(), Some(Reason::Land));
        assert_eq!(read.lane(Lane::DstPort), 7);
        assert_ne!(SOURCE, DESTINATION);
    }
}
