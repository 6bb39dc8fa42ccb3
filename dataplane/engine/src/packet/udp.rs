//! UDP (RFC 768), and which answers over it say no.

use levee_api::lane::Lane;

use super::fragment::Fragment;
use super::frame::{self, Frame, offset};
use super::{Datagram, Kind, Lanes, Layers, dns, quic};
use crate::verdict::Reason;

/// Protocol number.
pub const PROTOCOL: u8 = 17;
/// Length of the header.
pub(super) const HEADER: u16 = 8;

/// Reads the header. The length may be below what the IP packet holds (RFC 9868 uses that). In a first fragment it is the
/// length of the whole datagram. Anywhere else one above what the packet holds harms nobody, the receiver discards it by
/// itself, and applications are seen to send some: it passes, and counts with what is there.
pub(super) fn parse(
    frame: &Frame<'_>,
    datagram: &Datagram,
    lanes: &mut Lanes,
    layers: &mut Layers,
) -> Result<Kind, Reason> {
    let header = frame.header::<8>(datagram.at, datagram.end, datagram.missing(Reason::UdpLength))?;
    #[rustfmt::skip] // rows as in RFC 768's picture
    let [
        s0,   s1,   d0, d1,
        len0, len1, _,  _,
    ] = *header;
    lanes.set_ports(u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1]));
    let length = u16::from_be_bytes([len0, len1]);
    let end = datagram.at + usize::from(length);
    if length < HEADER {
        return Err(Reason::UdpLength);
    }
    let held = datagram.length();
    let length = if datagram.fragment == Fragment::First { length } else { length.min(frame::saturated(held)) };
    layers.payload = offset(datagram.at + usize::from(HEADER));
    layers.end = layers.end.min(offset(end));
    lanes.set(Lane::PayloadLength, length - HEADER);
    set_digest(frame.present(usize::from(layers.payload), usize::from(layers.end)), lanes);
    Ok(Kind::Udp)
}

/// Fills the lane that tells queries for names of one domain, whose ports are in the lanes already.
pub(super) fn set_digest(payload: &[u8], lanes: &mut Lanes) {
    if lanes.get(Lane::DstPort) == dns::PORT {
        lanes.set(Lane::Digest, dns::query_suffix(payload));
    }
}

/// Whether a packet that inside sent refuses rather than answers: a DNS response with an error, or a QUIC Version Negotiation
/// or Retry. Floods provoke these, so that they must not count as answers.
///
/// `layers` and `lanes` are what [`super::parse`] made of `head`.
pub fn is_error_answer(layers: &Layers, head: &[u8], lanes: &Lanes) -> bool {
    if layers.kind != Kind::Udp {
        return false;
    }
    let payload = layers.payload(head);
    match lanes.get(Lane::SrcPort) {
        dns::PORT => dns::is_error(payload),
        _ => quic::is_refusal(payload, lanes.get(Lane::PayloadLength)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Read, ipv4, ipv4_fragment, ipv6, join, read, read_snapped, udp};
    use super::*;

    fn is_error(read: &Read) -> bool {
        is_error_answer(&read.layers, &read.frame, &read.lanes)
    }

    /// The same datagram with another length field.
    fn with_length(payload: &[u8], length: u16) -> Vec<u8> {
        let mut datagram = udp(7, 9, payload);
        datagram[4..6].copy_from_slice(&length.to_be_bytes());
        datagram
    }

    #[test]
    fn queries_for_names_of_one_domain_have_one_digest() {
        let query = |name: &[u8]| [&[0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], name, &[0, 1, 0, 1]].concat();
        let digest = |port, payload: &[u8]| read(&ipv4(17, &udp(9_999, port, payload))).lanes.get(Lane::Digest);
        let (one, other) = (query(b"\x03abc\x07example\x03net\0"), query(b"\x01z\x07EXAMPLE\x03net\0"));
        assert_ne!(digest(dns::PORT, &one), 0);
        assert_eq!(digest(dns::PORT, &one), digest(dns::PORT, &other));
        assert_eq!(digest(5_353, &one), 0, "only of what is sent to the port of queries");
    }

    #[test]
    fn a_length_that_cannot_be_is_malformed() {
        for length in [0, 7] {
            for frame in [ipv4(17, &with_length(b"data", length)), ipv6(17, &with_length(b"data", length))] {
                let read = read(&frame);
                assert_eq!(read.reason(), Some(Reason::UdpLength), "{length}");
                assert_eq!(read.lane(Lane::DstPort), 9);
            }
        }
        for length in 0..8 {
            assert_eq!(read(&ipv4(17, &[0; 7][..length.min(7)])).reason(), Some(Reason::UdpLength));
        }
    }

    #[test]
    fn a_length_past_the_end_counts_what_is_there() {
        for length in [13, 0xffff] {
            let read = read(&ipv4(17, &with_length(b"data", length)));
            assert_eq!((read.layers.kind, read.payload()), (Kind::Udp, &b"data"[..]));
            assert_eq!(read.lane(Lane::PayloadLength), 4);
        }
    }

    #[test]
    fn bytes_after_the_length_are_not_payload() {
        let read = read(&ipv4(17, &with_length(b"data and options", 12)));
        assert_eq!((read.layers.kind, read.payload()), (Kind::Udp, &b"data"[..]));
        assert_eq!(read.lane(Lane::PayloadLength), 4);
    }

    #[test]
    fn a_first_fragment_has_the_length_of_the_datagram() {
        let read = read(&ipv4_fragment(17, 0x2000, &with_length(b"12345678", 4008)));
        assert_eq!((read.layers.kind, read.lane(Lane::PayloadLength)), (Kind::Udp, 4000));
        assert_eq!(read.payload(), b"12345678");
    }

    #[test]
    fn a_capture_cut_inside_the_header_is_truncated_and_one_cut_after_it_is_not() {
        let frame = ipv4(17, &udp(53, 9, b"data"));
        assert_eq!(read_snapped(&frame, 41).reason(), Some(Reason::Truncated));
        let cut = read_snapped(&frame, 42);
        assert_eq!((cut.layers.kind, cut.lane(Lane::PayloadLength), cut.lane(Lane::Payload0)), (Kind::Udp, 4, 0));
    }

    #[test]
    fn a_dns_error_is_no_answer() {
        let response =
            |flags: u8, code: u8| join(&[&[0x12, 0x34, flags, code, 0, 1, 0, 0, 0, 0, 0, 0], b"\x01a\0\0\x01\0\x01"]);
        let from = |port, payload: &[u8]| read(&ipv4(17, &udp(port, 4000, payload)));
        for (flags, code, error) in [(0x81, 0x80, false), (0x81, 0x82, true), (0x81, 0x83, true), (0x01, 0x03, false)] {
            assert_eq!(is_error(&from(53, &response(flags, code))), error, "{flags:#x} {code:#x}");
        }
        assert!(!is_error(&from(5300, &response(0x81, 0x82))));
        assert!(!is_error(&from(53, &[0x12, 0x34, 0x81, 0x82])));
    }

    #[test]
    fn a_quic_refusal_is_no_answer() {
        let negotiation = [0xca, 0, 0, 0, 0, 2, 0xaa, 0xbb, 1, 0xcc, 0, 0, 0, 1];
        assert!(is_error(&read(&ipv4(17, &udp(443, 4000, &negotiation)))));
        assert!(is_error(&read(&ipv6(17, &udp(8443, 4000, &negotiation)))));
        // The same bytes in a fragment of something else are not one.
        assert!(!is_error(&read(&ipv4_fragment(17, 0x0008, &udp(443, 4000, &negotiation)))));
    }
}
