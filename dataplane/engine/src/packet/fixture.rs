//! Packets for the tests of this folder, put together from hand-written headers.

use levee_api::lane::Lane;

use super::{Kind, Lanes, Layers, Packet, parse};
use crate::verdict::Reason;

/// Documentation addresses (RFC 5737): source 192.0.2.1, destination 198.51.100.7.
pub(super) const SOURCE: [u8; 4] = [192, 0, 2, 1];
pub(super) const DESTINATION: [u8; 4] = [198, 51, 100, 7];
/// Documentation addresses (RFC 3849): source 2001:db8::1, destination 2001:db8:a::7.
pub(super) const SOURCE6: [u8; 16] = [0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
pub(super) const DESTINATION6: [u8; 16] = [0x20, 0x01, 0x0d, 0xb8, 0, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];

/// A parsed frame.
#[derive(Clone, Debug)]
pub(super) struct Read {
    pub(super) layers: Layers,
    pub(super) lanes: Lanes,
    pub(super) frame: Vec<u8>,
}

impl Read {
    pub(super) fn lane(&self, lane: Lane) -> u16 {
        self.lanes.get(lane)
    }

    pub(super) fn payload(&self) -> &[u8] {
        self.layers.payload(&self.frame)
    }

    /// The reason of a malformed packet whose addresses are known.
    pub(super) fn reason(&self) -> Option<Reason> {
        match self.layers.kind {
            Kind::Malformed { reason, addressed: true } => Some(reason),
            _ => None,
        }
    }
}

pub(super) fn read(frame: &[u8]) -> Read {
    read_snapped(frame, frame.len())
}

/// The frame as a capture with a snap length holds it.
pub(super) fn read_snapped(frame: &[u8], snap: usize) -> Read {
    // Lanes are overwritten, whatever they held.
    let mut lanes = Lanes([0xdead; 32]);
    let packet = Packet { head: &frame[..snap], wire_len: u32::try_from(frame.len()).unwrap() };
    let layers = parse(&packet, &mut lanes);
    let end = usize::from(layers.end);
    assert!(layers.l3 <= layers.l4 && layers.l4 <= layers.payload && layers.payload <= layers.end && end <= snap);
    Read { layers, lanes, frame: frame.to_vec() }
}

pub(super) fn join(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

pub(super) fn ethernet(kind: u16, content: &[u8]) -> Vec<u8> {
    join(&[&[0x02, 0, 0, 0, 0, 2], &[0x02, 0, 0, 0, 0, 1], &kind.to_be_bytes(), content])
}

/// An IPv4 packet in a frame, with 0x2345 as identification, and 64 as TTL.
pub(super) fn ipv4(protocol: u8, content: &[u8]) -> Vec<u8> {
    ethernet(0x0800, &ipv4_packet(protocol, 0, &[], content))
}

/// The same as a fragment: flags and offset as the header holds them.
pub(super) fn ipv4_fragment(protocol: u8, control: u16, content: &[u8]) -> Vec<u8> {
    ethernet(0x0800, &ipv4_packet(protocol, control, &[], content))
}

/// An IPv4 packet without a frame.
pub(super) fn ipv4_packet(protocol: u8, control: u16, options: &[u8], content: &[u8]) -> Vec<u8> {
    let header_length = 20 + options.len();
    let total = u16::try_from(header_length + content.len()).unwrap().to_be_bytes();
    let control = control.to_be_bytes();
    let ihl = 0x40 | u8::try_from(header_length / 4).unwrap();
    #[rustfmt::skip]
    let fixed = [
        ihl,  0xb8,     total[0],   total[1],
        0x23, 0x45,     control[0], control[1],
        64,   protocol, 0,          0,
    ];
    let mut header = join(&[&fixed, &SOURCE, &DESTINATION, options]);
    let sum: u32 = header.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let check = !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap();
    header[10..12].copy_from_slice(&check.to_be_bytes());
    join(&[&header, content])
}

/// An IPv6 packet in a frame, with hop limit 255.
pub(super) fn ipv6(next: u8, content: &[u8]) -> Vec<u8> {
    ethernet(0x86dd, &ipv6_packet(next, content))
}

/// An IPv6 packet without a frame.
pub(super) fn ipv6_packet(next: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    #[rustfmt::skip]
    let fixed = [
        0x6b,      0x80,      0,    0,
        length[0], length[1], next, 255,
    ];
    join(&[&fixed, &SOURCE6, &DESTINATION6, content])
}

/// A UDP datagram with a right length.
pub(super) fn udp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap();
    join(&[&source.to_be_bytes(), &destination.to_be_bytes(), &length.to_be_bytes(), &[0, 0], payload])
}

/// A TCP segment from port 40 000 to port 443.
pub(super) fn tcp(flags: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from((20 + options.len()) / 4).unwrap() << 4;
    #[rustfmt::skip]
    let fixed = [
        0x9c,   0x40,  0x01, 0xbb,
        0x01,   0x02,  0x03, 0x04,
        0x05,   0x06,  0x07, 0x08,
        length, flags, 0xfa, 0xf0,
        0,      0,     0,    0,
    ];
    join(&[&fixed, options, payload])
}
