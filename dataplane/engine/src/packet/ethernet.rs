//! Ethernet II (IEEE 802.3), up to two VLAN tags (802.1Q, 802.1ad), and heartbeats of bypass switches.
//!
//! What is not IP is left alone: it passes as on a wire. That includes 802.3 frames with a length instead of a type (LLC,
//! also SNAP: nobody routes IP over it on Ethernet), ARP, and PPPoE sessions.

use super::frame::Frame;
use super::mpls;
use crate::verdict::Reason;

/// Two addresses and a type.
pub(super) const HEADER: usize = 14;
/// Tag control information and the type that follows it.
pub(super) const TAG: usize = 4;
/// More tags than these are not followed.
const MAX_TAGS: usize = 2;

pub(super) const IPV4: u16 = 0x0800;
pub(super) const IPV6: u16 = 0x86dd;
const MPLS: u16 = 0x8847;
/// MPLS with an upstream-assigned label (RFC 5332).
const MPLS_UPSTREAM: u16 = 0x8848;
/// Types of tags: 802.1Q, 802.1ad, and what QinQ used before that and many switches still do.
pub(super) const TAGS: [u16; 3] = [0x8100, 0x88a8, 0x9100];
const IPX: u16 = 0x8137;

/// Heartbeats that bypass switches send through an appliance, unless told otherwise: destination address and type.
///
/// Only frames that nothing else sends are listed, because nothing limits them: Net Optics (later Ixia and Keysight)
/// switches send IPX from 00:50:c2:3c:60:01 to 00:50:c2:3c:60:00, and the reverse in their other direction. Garland and
/// others send ARP requests, which pass as ARP does: under a limit that is far above any heartbeat.
const HEARTBEATS: [([u8; 6], u16); 2] =
    [([0x00, 0x50, 0xc2, 0x3c, 0x60, 0x00], IPX), ([0x00, 0x50, 0xc2, 0x3c, 0x60, 0x01], IPX)];

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Ipv4,
    Ipv6,
    /// Something below MPLS labels: its first four bits tell.
    Labelled,
    Heartbeat,
    Other,
    TooDeep,
}

/// The frame around a packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub(super) content: Content,
    /// Offset of what follows the last tag or label.
    pub(super) l3: usize,
}

/// Whether a type says that a tag comes first.
#[inline(always)]
pub(super) const fn is_tag(kind: u16) -> bool {
    let [vlan, service, old_service] = TAGS;
    kind == vlan || kind == service || kind == old_service
}

pub(super) fn parse(frame: &Frame<'_>) -> Result<Link, Reason> {
    let Some(header) = frame.array::<HEADER>(0) else { return Err(Reason::Truncated) };
    #[rustfmt::skip] // rows as in the standard's picture
    let [
        d0, d1, d2, d3, d4, d5,
        _, _, _, _, _, _,
        t0, t1,
    ] = *header;
    let mut kind = u16::from_be_bytes([t0, t1]);
    let mut l3 = HEADER;

    let mut tags = 0;
    while is_tag(kind) {
        if tags == MAX_TAGS {
            return Ok(Link { content: Content::TooDeep, l3 });
        }
        let Some([_, _, t0, t1]) = frame.array::<TAG>(l3) else { return Err(Reason::Truncated) };
        kind = u16::from_be_bytes([*t0, *t1]);
        l3 += TAG;
        tags += 1;
    }

    let content = match kind {
        IPV4 => Content::Ipv4,
        IPV6 => Content::Ipv6,
        MPLS | MPLS_UPSTREAM => return mpls::parse(frame, l3),
        _ if HEARTBEATS.contains(&([d0, d1, d2, d3, d4, d5], kind)) => Content::Heartbeat,
        _ => Content::Other,
    };
    Ok(Link { content, l3 })
}

#[cfg(test)]
mod tests {
    use super::super::Kind;
    use super::super::fixture::{ethernet, ipv4, join, read, read_snapped, udp};
    use super::*;

    const TRUNCATED: Kind = Kind::Malformed { reason: Reason::Truncated, addressed: false };

    /// A frame with tags between its addresses and its type.
    fn tagged(frame: &[u8], tags: &[[u8; 4]]) -> Vec<u8> {
        join(&[&frame[..12], &tags.concat(), &frame[12..]])
    }

    #[test]
    fn frames_that_are_not_ip_are_left_alone() {
        for (name, kind) in
            [("ARP", 0x0806), ("LLDP", 0x88cc), ("LACP", 0x8809), ("PPPoE session", 0x8864), ("LLC", 0x0026)]
        {
            let read = read(&ethernet(kind, &[0x45; 46]));
            assert_eq!(read.layers, super::super::Layers::at(Kind::Other, 14), "{name}");
            assert_eq!(read.lanes, super::super::Lanes::default(), "{name}");
        }
    }

    #[test]
    fn a_frame_shorter_than_its_header_is_truncated() {
        let frame = ethernet(0x0806, &[]);
        for length in 0..14 {
            assert_eq!(read(&frame[..length]).layers.kind, TRUNCATED);
        }
        assert_eq!(read(&frame).layers.kind, Kind::Other);
    }

    #[test]
    fn up_to_two_tags_of_any_kind_change_nothing_but_offsets() {
        let frame = ipv4(17, &udp(5353, 53, b"data"));
        let plain = read(&frame);
        for outer in [0x81, 0x88, 0x91] {
            let outer = [outer, if outer == 0x88 { 0xa8 } else { 0x00 }, 0x20, 0x64];
            for (shift, tags) in [(4, &[outer][..]), (8, &[outer, [0x81, 0x00, 0x00, 0x0a]])] {
                let tagged = read(&tagged(&frame, tags));
                assert_eq!(tagged.lanes, plain.lanes);
                assert_eq!(tagged.layers.kind, Kind::Udp);
                assert_eq!(tagged.layers.l3, plain.layers.l3 + shift);
                assert_eq!(tagged.layers.end, plain.layers.end + shift);
                assert_eq!(tagged.payload(), b"data");
            }
        }
    }

    #[test]
    fn a_third_tag_is_too_deep() {
        let frame = tagged(&ipv4(17, &udp(1, 2, &[])), &[[0x81, 0, 0, 1]; 3]);
        assert_eq!(read(&frame).layers.kind, Kind::TooDeep);
    }

    #[test]
    fn a_tag_that_is_cut_is_truncated() {
        let frame = tagged(&ipv4(17, &udp(1, 2, &[])), &[[0x81, 0, 0, 1]]);
        assert_eq!(read_snapped(&frame, 17).layers.kind, TRUNCATED);
    }

    #[test]
    fn the_type_must_agree_with_the_version() {
        let mut frame = ipv4(17, &udp(1, 2, &[]));
        frame[14] = 0x65;
        let wrong = Kind::Malformed { reason: Reason::IpVersion, addressed: false };
        assert_eq!(read(&frame).layers.kind, wrong);
        frame[14] = 0x45;
        frame[12..14].copy_from_slice(&0x86dd_u16.to_be_bytes());
        assert_eq!(read(&frame).layers.kind, wrong);
    }

    #[test]
    fn a_net_optics_heartbeat_is_one_and_other_ipx_is_not() {
        #[rustfmt::skip]
        let mut frame = [
            0x00, 0x50, 0xc2, 0x3c, 0x60, 0x00, 0x00, 0x50, 0xc2, 0x3c, 0x60, 0x01, 0x81, 0x37,
            0xff, 0xff, 0x00, 0x30, 0, 0, 0, 0,
        ];
        assert_eq!(read(&frame).layers.kind, Kind::Heartbeat);
        frame[5] = 0x02;
        assert_eq!(read(&frame).layers.kind, Kind::Other);
    }
}
