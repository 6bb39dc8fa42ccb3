//! IPv6 (RFC 8200) and its extension headers.

use levee_api::lane::{Bits, Lane};

use super::fragment::{Fragment, Piece};
use super::frame::{Frame, saturated};
use super::{Datagram, Lanes};
use crate::verdict::Reason;

/// Length of the fixed header.
pub(super) const HEADER: usize = 40;
/// Chains beyond these are not followed: RFC 8504 section 5.3 allows hosts such limits, and no legitimate chain is near them.
const MAX_EXTENSIONS: usize = 8;
const MAX_EXTENSION_BYTES: usize = 256;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;
const MOBILITY: u8 = 135;
const HIP: u8 = 139;
const SHIM6: u8 = 140;

/// Reads the header at `at` and the extension headers after it. Its version is known to be 6.
///
/// The protocol is what follows the last extension header. ESP and no next header (59) end the chain as protocols of their own.
/// Jumbograms (payload length 0 and a hop-by-hop header, RFC 2675) are refused as a wrong length: no Ethernet frame holds one.
pub(super) fn parse(
    frame: &Frame<'_>,
    at: usize,
    header: &[u8; HEADER],
    lanes: &mut Lanes,
) -> Result<Datagram, Reason> {
    #[rustfmt::skip] // rows as in RFC 8200's picture
    let [
        class0, class1, _,    _,
        len0,   len1,   next, hop_limit,
        addresses @ ..
    ] = header;
    let payload = usize::from(u16::from_be_bytes([*len0, *len1]));
    lanes.fill(Lane::Src0, addresses);
    lanes.set(Lane::Protocol, (*next).into());
    lanes.set(Lane::IpLength, saturated(HEADER + payload));
    lanes.set(Lane::Ttl, (*hop_limit).into());
    lanes.set(Lane::Dscp, (u16::from(*class0) << 4 | u16::from(*class1) >> 4) & 0xff);
    lanes.set(Lane::Bits, Bits::IPV6.bits());

    let end = at + HEADER + payload;
    if end > frame.wire_end || (payload == 0 && *next == HOP_BY_HOP) {
        return Err(Reason::Ipv6Length);
    }
    let datagram = follow(frame, at + HEADER, end, *next)?;
    lanes.set(Lane::Protocol, datagram.protocol.into());
    let mut bits = Bits::IPV6 | datagram.fragment.bits();
    bits.set(Bits::OPTIONS, datagram.at > at + HEADER);
    lanes.set(Lane::Bits, bits.bits());
    let (source, destination) = addresses.split_at(16);
    Ok(Datagram { is_land: source == destination, ..datagram })
}

/// Follows a chain of extension headers from `start` to the first header that is none, or to the end of what a later fragment
/// knows.
pub(super) fn follow(frame: &Frame<'_>, start: usize, end: usize, first: u8) -> Result<Datagram, Reason> {
    let mut datagram = Datagram {
        protocol: first,
        at: start,
        end,
        fragment: Fragment::Whole,
        identification: 0,
        piece: Piece::default(),
        is_land: false,
    };
    let mut fragmented = false;
    for _ in 0..=MAX_EXTENSIONS {
        let Datagram { protocol, at, .. } = datagram;
        if !is_extension(protocol) {
            return Ok(datagram);
        }
        let missing = datagram.missing(Reason::Ipv6Extensions);
        let [next, length, b2, b3] = *frame.header::<4>(at, end, missing)?;
        let bytes = match protocol {
            FRAGMENT => 8,
            // RFC 4302: in words of 4 bytes, minus 2; all others: in words of 8 bytes, minus 1.
            AUTHENTICATION => (usize::from(length) + 2) * 4,
            _ => (usize::from(length) + 1) * 8,
        };
        let after = at + bytes;
        if after > end {
            return Err(missing);
        }
        if after - start > MAX_EXTENSION_BYTES {
            return Err(Reason::Ipv6Extensions);
        }
        if protocol == ROUTING && b2 == 0 {
            return Err(Reason::Ipv6RoutingHeader);
        }
        datagram = Datagram { protocol: next, at: after, ..datagram };
        if protocol == FRAGMENT {
            if fragmented {
                return Err(Reason::Ipv6Extensions);
            }
            fragmented = true;
            let [.., id0, id1, id2, id3] = *frame.header::<8>(at, end, missing)?;
            datagram.identification = u32::from_be_bytes([id0, id1, id2, id3]);
            let control = u16::from_be_bytes([b2, b3]);
            let (units, more, data) = (control >> 3, control & 1 != 0, end - after);
            let judged = Fragment::judge(units, more, at - start, data, next)?;
            datagram.fragment = judged;
            datagram.piece = judged.piece(units, more, data);
            if judged == Fragment::Later {
                return Ok(datagram);
            }
        }
    }
    Err(Reason::Ipv6Extensions)
}

fn is_extension(protocol: u8) -> bool {
    matches!(protocol, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS | MOBILITY | HIP | SHIM6)
}

#[cfg(test)]
mod tests {
    use super::super::Kind;
    use super::super::fixture::{Read, ipv6, join, read, read_snapped, tcp, udp};
    use super::*;

    /// An extension header of 8 bytes.
    fn extension(next: u8) -> [u8; 8] {
        [next, 0, 0x01, 0x04, 0, 0, 0, 0]
    }

    fn fragment(next: u8, control: u16) -> [u8; 8] {
        let [c0, c1] = control.to_be_bytes();
        [next, 0, c0, c1, 0xde, 0xad, 0xbe, 0xef]
    }

    fn chain(first: u8, parts: &[&[u8]]) -> Read {
        read(&ipv6(first, &join(parts)))
    }

    #[test]
    fn a_hand_written_packet_fills_the_lanes() {
        #[rustfmt::skip]
        let frame = [
            0x02, 0, 0, 0, 0, 2, 0x02, 0, 0, 0, 0, 1, 0x86, 0xdd,
            0x6b, 0x81, 0x23, 0x45,
            0x00, 0x0a, 0x11, 0x39,
            0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
            0x20, 0x01, 0x0d, 0xb8, 0, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7,
            0x00, 0x35, 0x00, 0x35,
            0x00, 0x0a, 0x00, 0x00,
            0xca, 0xfe,
        ];
        let read = read(&frame);
        assert_eq!(read.layers.kind, Kind::Udp);
        assert_eq!((read.layers.l3, read.layers.l4, read.layers.payload, read.layers.end), (14, 54, 62, 64));
        let mut expected = Lanes::default();
        expected.0[..8].copy_from_slice(&[0x2001, 0x0db8, 0, 0, 0, 0, 0, 1]);
        expected.0[8..16].copy_from_slice(&[0x2001, 0x0db8, 0x000a, 0, 0, 0, 0, 7]);
        for (lane, value) in [
            (Lane::SrcPort, 53),
            (Lane::DstPort, 53),
            (Lane::Protocol, 17),
            (Lane::IpLength, 50),
            (Lane::PayloadLength, 2),
            (Lane::Ttl, 57),
            (Lane::Dscp, 0xb8),
            (Lane::Payload0, 0xcafe),
            (Lane::Bits, (Bits::IPV6 | Bits::PORTS | Bits::EQUAL_PORTS).bits()),
        ] {
            expected.set(lane, value);
        }
        assert_eq!(read.lanes, expected);
    }

    #[test]
    fn a_header_that_is_cut_is_truncated() {
        let frame = ipv6(17, &udp(7, 9, b"ab"));
        for snap in 14..54 {
            let kind = Kind::Malformed { reason: Reason::Truncated, addressed: false };
            assert_eq!(read_snapped(&frame, snap).layers.kind, kind);
        }
    }

    #[test]
    fn a_payload_length_past_the_frame_is_malformed() {
        let mut frame = ipv6(17, &udp(7, 9, b"ab"));
        frame[19] += 1;
        let read = read(&frame);
        assert_eq!(read.reason(), Some(Reason::Ipv6Length));
        assert_eq!((read.lane(Lane::Src7), read.lane(Lane::Dst7)), (1, 7));
    }

    #[test]
    fn a_jumbogram_is_malformed_and_an_empty_packet_is_not() {
        // Hop-by-hop options with a jumbo payload option; the length says 0.
        let mut frame = ipv6(HOP_BY_HOP, &[17, 0, 0xc2, 0x04, 0, 1, 0, 0]);
        frame[18..20].copy_from_slice(&[0, 0]);
        assert_eq!(read(&frame).reason(), Some(Reason::Ipv6Length));
        assert_eq!(read(&ipv6(59, &[])).layers.kind, Kind::OtherProtocol);
    }

    #[test]
    fn all_extension_headers_are_followed() {
        let authentication = [17, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1];
        let datagram = udp(7, 9, b"data");
        for kind in [HOP_BY_HOP, ROUTING, DESTINATION_OPTIONS, MOBILITY, HIP, SHIM6] {
            let read = chain(kind, &[&extension(AUTHENTICATION), &authentication, &datagram]);
            assert_eq!(read.layers.kind, Kind::Udp, "{kind}");
            assert_eq!(read.lane(Lane::Protocol), 17);
            assert!(read.lanes.bits().contains(Bits::OPTIONS | Bits::PORTS));
            assert_eq!(read.payload(), b"data");
        }
    }

    #[test]
    fn esp_and_no_next_header_end_the_chain() {
        for (protocol, content) in [(50, [0xab; 16]), (59, [0; 16])] {
            let read = chain(DESTINATION_OPTIONS, &[&extension(protocol), &content]);
            assert_eq!(read.layers.kind, Kind::OtherProtocol);
            assert_eq!(read.lane(Lane::Protocol), u16::from(protocol));
            assert_eq!(read.lane(Lane::PayloadLength), 16);
        }
    }

    #[test]
    fn eight_extension_headers_are_followed_and_nine_are_not() {
        let datagram = udp(7, 9, &[]);
        let repeated = |n: usize| join(&[&extension(DESTINATION_OPTIONS).repeat(n - 1), &extension(17), &datagram]);
        assert_eq!(chain(DESTINATION_OPTIONS, &[&repeated(8)]).layers.kind, Kind::Udp);
        assert_eq!(chain(DESTINATION_OPTIONS, &[&repeated(9)]).reason(), Some(Reason::Ipv6Extensions));
    }

    #[test]
    fn extension_headers_up_to_256_bytes_are_followed() {
        let datagram = udp(7, 9, b"data");
        let long = |units: u8| join(&[&[17, units - 1], &vec![0; usize::from(units) * 8 - 2], &datagram]);
        let read = chain(DESTINATION_OPTIONS, &[&long(32)]);
        assert_eq!(read.layers.kind, Kind::Udp);
        assert_eq!(read.payload(), b"data");
        assert_eq!(chain(DESTINATION_OPTIONS, &[&long(33)]).reason(), Some(Reason::Ipv6Extensions));
    }

    #[test]
    fn an_extension_header_past_the_packet_is_malformed() {
        assert_eq!(chain(ROUTING, &[&[17, 9, 2, 0, 0, 0, 0, 0]]).reason(), Some(Reason::Ipv6Extensions));
        assert_eq!(chain(ROUTING, &[&[17, 0, 2]]).reason(), Some(Reason::Ipv6Extensions));
        let frame = ipv6(ROUTING, &join(&[&extension(17), &udp(7, 9, b"ab")]));
        assert_eq!(read_snapped(&frame, 56).reason(), Some(Reason::Truncated));
    }

    #[test]
    fn routing_header_type_zero_is_malformed_and_segment_routing_is_not() {
        let routing = |kind| [17, 0, kind, 0, 0, 0, 0, 0];
        let datagram = udp(7, 9, b"ab");
        assert_eq!(chain(ROUTING, &[&routing(0), &datagram]).reason(), Some(Reason::Ipv6RoutingHeader));
        assert_eq!(chain(ROUTING, &[&routing(4), &datagram]).layers.kind, Kind::Udp);
    }

    #[test]
    fn an_atomic_fragment_is_no_fragment() {
        let read = chain(FRAGMENT, &[&fragment(17, 0), &udp(7, 9, b"abc")]);
        assert_eq!(read.layers.kind, Kind::Udp);
        assert!(!read.lanes.bits().intersects(Bits::FIRST_FRAGMENT | Bits::LATER_FRAGMENT));
        assert_eq!(read.layers.fragment, 0);
        assert!(read.lanes.bits().contains(Bits::OPTIONS));
    }

    #[test]
    fn fragments_are_told_apart() {
        let first = chain(FRAGMENT, &[&fragment(6, 1), &tcp(0x10, &[], b"1234")]);
        assert_eq!(first.layers.kind, Kind::Tcp);
        assert!(first.lanes.bits().contains(Bits::FIRST_FRAGMENT | Bits::PORTS));

        let later = chain(FRAGMENT, &[&fragment(6, 3 << 3), b"abc"]);
        assert_eq!(later.layers.kind, Kind::LaterFragment);
        assert_eq!((later.lane(Lane::Protocol), later.lane(Lane::Payload0)), (6, 0x6162));
        assert_eq!(later.payload(), b"abc");
        assert_eq!((first.layers.fragment, later.layers.fragment), (0xdead_beef, 0xdead_beef));
    }

    #[test]
    fn impossible_fragments_are_malformed() {
        for (control, next, data, reason) in [
            (1, 17, 12, Reason::FragmentLength),
            (5 << 3, 17, 0, Reason::FragmentLength),
            (8191 << 3, 17, 8, Reason::FragmentLength),
            (1 << 3, 6, 8, Reason::FragmentOffsetOne),
        ] {
            assert_eq!(chain(FRAGMENT, &[&fragment(next, control), &vec![0; data]]).reason(), Some(reason));
        }
        // Headers before the fragment header count towards the length of the datagram.
        let last = fragment(17, 8190 << 3);
        assert_eq!(chain(FRAGMENT, &[&last, &[0; 15]]).layers.kind, Kind::LaterFragment);
        let read = chain(HOP_BY_HOP, &[&extension(FRAGMENT), &last, &[0; 15]]);
        assert_eq!(read.reason(), Some(Reason::FragmentLength));
    }

    #[test]
    fn a_first_fragment_holds_the_whole_chain_and_the_transport_header() {
        let segment = tcp(0x10, &[1; 4], &[]);
        assert_eq!(chain(FRAGMENT, &[&fragment(6, 1), &segment[..16]]).reason(), Some(Reason::FragmentTiny));
        // An extension header that goes on in the next fragment.
        let cut = [6, 2, 0, 0, 0, 0, 0, 0];
        let read = chain(FRAGMENT, &[&fragment(DESTINATION_OPTIONS, 1), &cut]);
        assert_eq!(read.reason(), Some(Reason::FragmentTiny));
    }

    #[test]
    fn a_second_fragment_header_is_malformed() {
        let read = chain(FRAGMENT, &[&fragment(FRAGMENT, 0), &fragment(17, 0), &udp(7, 9, &[])]);
        assert_eq!(read.reason(), Some(Reason::Ipv6Extensions));
    }

    #[test]
    fn land_is_malformed() {
        let mut frame = ipv6(17, &udp(7, 9, b"ab"));
        frame.copy_within(22..38, 38);
        assert_eq!(read(&frame).reason(), Some(Reason::Land));
    }
}
