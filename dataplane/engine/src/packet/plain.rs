//! Plain packets in one permutation, for AVX-512: TCP and UDP over IPv4 without options or over IPv6 without extension
//! headers, under up to two VLAN tags, whole or fragmented. That is nearly everything, also in floods.
//!
//! The lanes are the bytes of the frame in another order, so one load, one byte permutation and one store fill most of them;
//! what has to be computed is, without a branch on what an attacker can mix at will (TCP or UDP, ports, flags). Whatever is
//! not plain, or not as it should be, is left to [`super::parse`], which knows what to call it.
//!
//! The load begins at the frame's start (or behind its tags), not at the IP header, so that it stays within a cache line.
#![expect(unsafe_code, reason = "vector loads and stores, and calls that need a CPU feature")]

use std::arch::x86_64::*;

use levee_api::lane::{Bits, Lane, TcpFlags};

use super::columns::Parsed;
use super::fragment::{Fragment, Piece};
use super::{HEAD_BYTES, Kind, Lanes, Layers, Packet, ethernet, ipv4, tcp, udp};
use crate::isa::Avx512;
use crate::pipeline::set_bits;

/// Offsets behind the tags: IP header, and what follows it.
const L3: usize = ethernet::HEADER;
const L4_V4: usize = L3 + ipv4::HEADER;
const L4_V6: usize = L3 + super::ipv6::HEADER;
/// What is looked at of every frame: up to the end of a TCP header over IPv4.
const LOOK: usize = L4_V4 + tcp::HEADER;

/// Reads those packets of a burst whose bit is set in `which`, as [`super::parse`] does for one packet.
pub(super) fn parse(_: Avx512, packets: &[Packet<'_>], which: u64, parsed: &mut Parsed) {
    // SAFETY: the token is only made after the CPU said that it has these features.
    unsafe { burst(packets, which, parsed) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt,bmi1,bmi2,lzcnt")]
fn burst(packets: &[Packet<'_>], which: u64, parsed: &mut Parsed) {
    for at in set_bits(which) {
        let (Some(packet), Some(lanes)) = (packets.get(at), parsed.lanes.get_mut(at)) else { continue };
        let mut layers = Layers::NONE;
        if one(packet, lanes, &mut layers).is_none() {
            layers = super::parse(packet, lanes);
        }
        parsed.put(at, layers);
    }
}

/// Where the bytes of each lane come from, the low one first, and which of them come from anywhere.
struct Shape {
    from: [u8; 64],
    mask: u64,
}

/// In the order of the table: a later fragment, UDP, TCP.
const SHAPES: [Shape; 3] = [
    Shape::ipv4(&[(Lane::Payload0, L4_V4), (Lane::Payload2, L4_V4 + 2)]),
    Shape::ipv4(&[
        (Lane::SrcPort, L4_V4),
        (Lane::DstPort, L4_V4 + 2),
        (Lane::Payload0, L4_V4 + 8),
        (Lane::Payload2, L4_V4 + 10),
    ]),
    Shape::ipv4(&[
        (Lane::SrcPort, L4_V4),
        (Lane::DstPort, L4_V4 + 2),
        (Lane::TcpWindow, L4_V4 + 14),
        (Lane::Payload0, LOOK),
        (Lane::Payload2, LOOK + 2),
    ]),
];

const IPV6: Shape = {
    let mut shape = Shape { from: [0; 64], mask: 0 };
    let mut piece = 0;
    while piece < 16 {
        shape = shape.word(piece, L3 + 8 + 2 * piece);
        piece += 1;
    }
    shape
        .word(Lane::SrcPort.index(), L4_V6)
        .word(Lane::DstPort.index(), L4_V6 + 2)
        .octet(Lane::Protocol.index(), L3 + 6)
        .octet(Lane::Ttl.index(), L3 + 7)
};

impl Shape {
    const fn ipv4(transport: &[(Lane, usize)]) -> Self {
        let mut shape = Self { from: [0; 64], mask: 0 }
            .octet(Lane::Dscp.index(), L3 + 1)
            .word(Lane::IpLength.index(), L3 + 2)
            .word(Lane::Ident.index(), L3 + 4)
            .octet(Lane::Ttl.index(), L3 + 8)
            .octet(Lane::Protocol.index(), L3 + 9)
            .word(Lane::Src6.index(), L3 + 12)
            .word(Lane::Src7.index(), L3 + 14)
            .word(Lane::Dst6.index(), L3 + 16)
            .word(Lane::Dst7.index(), L3 + 18);
        let mut rest = transport;
        while let [(lane, at), more @ ..] = rest {
            shape = shape.word(lane.index(), *at);
            rest = more;
        }
        shape
    }

    /// A lane of two bytes in network order.
    const fn word(self, lane: usize, at: usize) -> Self {
        self.byte(2 * lane, at + 1).byte(2 * lane + 1, at)
    }

    /// A lane of one byte.
    const fn octet(self, lane: usize, at: usize) -> Self {
        self.byte(2 * lane, at)
    }

    #[expect(clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "evaluated at build time")]
    const fn byte(mut self, to: usize, from: usize) -> Self {
        assert!(from < 64);
        self.from[to] = from as u8;
        self.mask |= 1 << to;
        self
    }
}

/// A packet, if it is plain. Fields of `layers` are written one by one where they stay: to copy what was just written would wait
/// for the writes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt,bmi1,bmi2,lzcnt")]
fn one(packet: &Packet<'_>, lanes: &mut Lanes, layers: &mut Layers) -> Option<()> {
    let head = packet.head.get(..HEAD_BYTES).unwrap_or(packet.head);
    let start: &[u8; LOOK] = head.first_chunk()?;
    let wire_end = usize::try_from(packet.wire_len).unwrap_or(usize::MAX).max(packet.head.len());
    match word(start, 12) {
        ethernet::IPV4 => ipv4(head, start, 0, wire_end, lanes, layers),
        ethernet::IPV6 => ipv6(head, start, 0, wire_end, lanes, layers),
        kind if ethernet::is_tag(kind) => tagged(head, wire_end, lanes, layers),
        _ => None,
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt,bmi1,bmi2,lzcnt")]
fn tagged(head: &[u8], wire_end: usize, lanes: &mut Lanes, layers: &mut Layers) -> Option<()> {
    let one_tag = head.get(ethernet::TAG..)?.first_chunk::<LOOK>()?;
    let shift = if ethernet::is_tag(word(one_tag, 12)) { 2 * ethernet::TAG } else { ethernet::TAG };
    let behind = head.get(shift..)?;
    let start: &[u8; LOOK] = behind.first_chunk()?;
    match word(start, 12) {
        ethernet::IPV4 => ipv4(behind, start, shift, wire_end - shift, lanes, layers),
        ethernet::IPV6 => ipv6(behind, start, shift, wire_end - shift, lanes, layers),
        _ => None,
    }
}

/// `frame` begins `shift` bytes into the frame, so that the IP header is where it is without tags; `wire_end` counts from there.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt,bmi1,bmi2,lzcnt")]
fn ipv4(
    frame: &[u8],
    start: &[u8; LOOK],
    shift: usize,
    wire_end: usize,
    lanes: &mut Lanes,
    layers: &mut Layers,
) -> Option<()> {
    let total = usize::from(word(start, L3 + 2));
    let end = L3 + total;
    let is_land = quad(start, L3 + 12) == quad(start, L3 + 16);
    if octet(start, L3) != 0x45 || total < ipv4::HEADER || end > wire_end || is_land {
        return None;
    }
    let protocol = octet(start, L3 + 9);
    let control = word(start, L3 + 6);
    let held = total - ipv4::HEADER;
    let (fragment, piece) = if control & (ipv4::MORE_FRAGMENTS | ipv4::OFFSET) == 0 {
        (Fragment::Whole, Piece::default())
    } else {
        let (units, more) = (control & ipv4::OFFSET, control & ipv4::MORE_FRAGMENTS != 0);
        let fragment = Fragment::judge(units, more, ipv4::HEADER, held, protocol).ok()?;
        (fragment, fragment.piece(units, more, held))
    };
    let has_transport = fragment != Fragment::Later;
    let is_tcp = protocol == tcp::PROTOCOL && has_transport;
    if !is_tcp && protocol != udp::PROTOCOL && has_transport {
        return None;
    }
    let present = end.min(frame.len());
    let flags = if is_tcp { word(start, L4_V4 + 12) & 0x01ff } else { 0 };
    let said = usize::from(word(start, L4_V4 + 4));
    let header = match (is_tcp, has_transport) {
        (true, _) => usize::from(octet(start, L4_V4 + 12) >> 4) * 4,
        (false, true) => usize::from(udp::HEADER),
        _ => 0,
    };
    let is_udp = has_transport & !is_tcp;
    let is_possible = !is_tcp | (header >= tcp::HEADER && tcp::is_legal(TcpFlags::from_bits_truncate(flags)))
        && !is_udp | (said >= usize::from(udp::HEADER));
    let payload = L4_V4 + header;
    if !is_possible || header > held || payload > present {
        return None;
    }
    let (length, behind) = if is_udp {
        let most = if fragment == Fragment::First { usize::MAX } else { held };
        (said.min(most) - header, present.min(L4_V4 + said))
    } else {
        (held - header, present)
    };

    let shape = SHAPES.get(usize::from(has_transport) + usize::from(is_tcp))?;
    fill(frame, behind, shape, lanes);

    let tcp_bits = when(Bits::ACK_ZERO, quad(start, L4_V4 + 8) == 0)
        | when(Bits::SEQ_LOW_ZERO, word(start, L4_V4 + 6) == 0)
        | when(Bits::URGENT, word(start, L4_V4 + 18) != 0);
    let port_bits = Bits::PORTS
        | when(Bits::EQUAL_PORTS, word(start, L4_V4) == word(start, L4_V4 + 2))
        | if is_tcp { tcp_bits } else { Bits::empty() };
    let header_bytes: &[u8; ipv4::HEADER] = start.get(L3..)?.first_chunk()?;
    let bits = when(Bits::DONT_FRAGMENT, control & ipv4::DONT_FRAGMENT != 0)
        | when(Bits::CHECKSUM_BAD, !ipv4::is_checksum_right(header_bytes))
        | fragment.bits()
        | if has_transport { port_bits } else { Bits::empty() };
    lanes.set(Lane::TcpFlags, flags);
    lanes.set(Lane::PayloadLength, low16(length));
    lanes.set(Lane::Bits, bits.bits());
    if header > tcp::HEADER {
        options(frame, LOOK, payload, behind, lanes)?;
    }
    layers.kind = match (is_tcp, has_transport) {
        (true, _) => Kind::Tcp,
        (false, true) => Kind::Udp,
        _ => Kind::LaterFragment,
    };
    layers.fragment = if fragment == Fragment::Whole { 0 } else { u32::from(word(start, L3 + 4)) };
    layers.piece = piece;
    layers.l3 = low16(L3 + shift);
    layers.l4 = low16(L4_V4 + shift);
    layers.payload = low16(payload + shift);
    layers.end = low16(behind + shift);
    Some(())
}

/// As for IPv4. Later fragments have an extension header, so there are none here.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt,bmi1,bmi2,lzcnt")]
fn ipv6(
    frame: &[u8],
    start: &[u8; LOOK],
    shift: usize,
    wire_end: usize,
    lanes: &mut Lanes,
    layers: &mut Layers,
) -> Option<()> {
    let held = usize::from(word(start, L3 + 4));
    let end = L4_V6 + held;
    let [source, destination] =
        [L3 + 8, L3 + 24].map(|at| start.get(at..).and_then(|rest| rest.first_chunk::<16>()).copied());
    if octet(start, L3) >> 4 != 6 || end > wire_end || source == destination {
        return None;
    }
    let present = end.min(frame.len());
    let transport = frame.get(L4_V6..present)?;
    let (kind, header, length, behind, flags, window, bits) = match octet(start, L3 + 6) {
        udp::PROTOCOL => {
            let said = usize::from(word(transport.first_chunk::<8>()?, 4));
            let length = said.min(held).checked_sub(usize::from(udp::HEADER))?;
            (Kind::Udp, usize::from(udp::HEADER), length, present.min(L4_V6 + said), 0, 0, Bits::empty())
        }
        tcp::PROTOCOL => {
            let segment: &[u8; tcp::HEADER] = transport.first_chunk()?;
            let header = usize::from(octet(segment, 12) >> 4) * 4;
            let flags = word(segment, 12) & 0x01ff;
            if header < tcp::HEADER
                || header > held
                || L4_V6 + header > present
                || !tcp::is_legal(TcpFlags::from_bits_truncate(flags))
            {
                return None;
            }
            let bits = when(Bits::ACK_ZERO, quad(segment, 8) == 0)
                | when(Bits::SEQ_LOW_ZERO, word(segment, 6) == 0)
                | when(Bits::URGENT, word(segment, 18) != 0);
            (Kind::Tcp, header, held - header, present, flags, word(segment, 14), bits)
        }
        _ => return None,
    };
    fill(frame, behind, &IPV6, lanes);
    let payload = L4_V6 + header;
    lanes.set(Lane::IpLength, low16((super::ipv6::HEADER + held).min(usize::from(u16::MAX))));
    lanes.set(Lane::Dscp, (word(start, L3) >> 4) & 0xff);
    lanes.set(Lane::TcpFlags, flags);
    lanes.set(Lane::TcpWindow, window);
    lanes.set(Lane::PayloadLength, low16(length));
    let equal = when(Bits::EQUAL_PORTS, lanes.get(Lane::SrcPort) == lanes.get(Lane::DstPort));
    lanes.set(Lane::Bits, (Bits::IPV6 | Bits::PORTS | equal | bits).bits());
    options(frame, L4_V6 + tcp::HEADER, payload, behind, lanes)?;
    layers.kind = kind;
    layers.fragment = 0;
    layers.piece = Piece::default();
    layers.l3 = low16(L3 + shift);
    layers.l4 = low16(L4_V6 + shift);
    layers.payload = low16(payload + shift);
    layers.end = low16(behind + shift);
    Some(())
}

/// Fills the lanes of a shape from the first `end` bytes of a frame; what is behind them is zero, and so are other lanes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt,bmi1,bmi2,lzcnt")]
fn fill(frame: &[u8], end: usize, shape: &Shape, lanes: &mut Lanes) {
    let bytes = end.min(frame.len()).min(64);
    let mask = _bzhi_u64(u64::MAX, u32::from(low16(bytes)));
    // SAFETY: reads only the first `bytes` bytes of the frame, which are there; masked bytes are neither read nor do they fault.
    let frame = unsafe { _mm512_maskz_loadu_epi8(mask, frame.as_ptr().cast()) };
    // SAFETY: reads the 64 bytes of an array of 64 bytes.
    let from = unsafe { _mm512_loadu_si512(shape.from.as_ptr().cast()) };
    let filled = _mm512_maskz_permutexvar_epi8(shape.mask, from, frame);
    // SAFETY: writes the 64 bytes of the lanes, which are aligned to 64.
    unsafe { _mm512_store_si512(lanes.0.as_mut_ptr().cast(), filled) };
}

/// Lanes that are further behind than a shape reaches: TCP options, if there are any, and the payload's first bytes.
#[inline]
fn options(frame: &[u8], at: usize, payload: usize, end: usize, lanes: &mut Lanes) -> Option<()> {
    if payload > at {
        tcp::set_options(frame.get(at..payload)?, lanes);
    }
    let mut first = [0; 4];
    for (to, from) in first.iter_mut().zip(frame.get(payload..end)?) {
        *to = *from;
    }
    lanes.fill(Lane::Payload0, &first);
    Some(())
}

/// Properties, if they are there: without a branch.
#[inline(always)]
fn when(bits: Bits, there: bool) -> Bits {
    Bits::from_bits_retain(bits.bits() * u16::from(there))
}

#[inline(always)]
fn octet<const N: usize>(bytes: &[u8; N], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or(0)
}

#[inline(always)]
fn word<const N: usize>(bytes: &[u8; N], at: usize) -> u16 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u16::from_be_bytes(*word))
}

#[inline(always)]
fn quad<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |quad| u32::from_be_bytes(*quad))
}

/// A number that is known to be below 65 536.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "offsets in a head and lengths of a packet")]
const fn low16(number: usize) -> u16 {
    number as u16
}
