//! Bytes to lanes: what a packet is, before anybody decides about it. One file per protocol; no unsafe, never panics.
//!
//! [`parse`] follows the headers once, from the outside in: [`ethernet`] and [`mpls`] find the IP header, [`ipv4`] and
//! [`ipv6`] find the transport header, [`tcp`], [`udp`] and [`icmp`] find the payload. Each stage fills the lanes it knows and
//! leaves with a [`Reason`] when the packet is impossible. No length is trusted before it was compared with the bytes on
//! the wire. Nothing is reassembled, and tunnels are not entered: they count on their outer header.
//!
//! The result is a function of the first [`HEAD_BYTES`] bytes and of the length on the wire, so that it does not depend on how
//! a frame is split over a driver's segments.

mod block;
pub mod columns;
pub mod dns;
mod ethernet;
mod fragment;
mod frame;
mod hash;
pub mod icmp;
mod ipv4;
mod ipv6;
mod mpls;
pub mod quic;
pub mod steer;
pub(crate) mod tcp;
pub mod udp;

#[cfg(test)]
mod fixture;

use levee_api::lane::{Bits, LANES, Lane};

pub use self::columns::{Columns, Marks, Parsed};
use self::ethernet::Content;
use self::fragment::Fragment;
pub use self::fragment::Piece;
use self::frame::Frame;
use crate::isa::Isa;
use crate::pipeline::{BURST, set_bits};
use crate::verdict::Reason;

/// The contiguous bytes that a driver must hand over of a longer frame: room for the deepest headers that parsing
/// follows (Ethernet, two VLAN tags, four MPLS labels, IPv6 with 256 bytes of extension headers, TCP with options)
/// and the first payload bytes.
pub const HEAD_BYTES: usize = 512;

/// A received frame.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// Contiguous bytes from the Ethernet header on: the whole frame, or at least its first [`HEAD_BYTES`].
    pub head: &'a [u8],
    /// Length of the frame on the wire in bytes (without FCS); larger than `head` for long frames and snapped captures.
    pub wire_len: u32,
}

/// Which way a packet crosses the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From outside to inside: this is what gets filtered.
    Inbound,
    /// From inside to outside: this is what creates memory.
    Outbound,
}

/// A packet as a point: see [`levee_api::lane::Lane`]. One cache line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Lanes(pub [u16; LANES]);

impl Default for Lanes {
    fn default() -> Self {
        Self([0; LANES])
    }
}

impl Lanes {
    /// The value of one lane.
    #[inline(always)]
    pub fn get(&self, lane: Lane) -> u16 {
        self.0.get(lane.index()).copied().unwrap_or_default()
    }

    /// Changes the value of one lane.
    #[inline(always)]
    pub fn set(&mut self, lane: Lane, value: u16) {
        if let Some(slot) = self.0.get_mut(lane.index()) {
            *slot = value;
        }
    }

    /// Source address, in host order; an IPv4 address is in the last two.
    #[inline(always)]
    pub fn source(&self) -> [u16; 8] {
        self.0.first_chunk().copied().unwrap_or_default()
    }

    /// Destination address, as above.
    #[inline(always)]
    pub fn destination(&self) -> [u16; 8] {
        self.0.as_chunks().0.get(1).copied().unwrap_or_default()
    }

    /// The properties of the packet.
    #[inline(always)]
    pub fn bits(&self) -> Bits {
        Bits::from_bits_retain(self.get(Lane::Bits))
    }

    /// Adds properties.
    #[inline(always)]
    fn add(&mut self, bits: Bits) {
        self.set(Lane::Bits, self.get(Lane::Bits) | bits.bits());
    }

    /// Fills consecutive lanes, `first` the first of them, from big-endian bytes.
    #[inline(always)]
    fn fill(&mut self, first: Lane, bytes: &[u8]) {
        let (pairs, _) = bytes.as_chunks::<2>();
        for (slot, pair) in self.0.iter_mut().skip(first.index()).zip(pairs) {
            *slot = u16::from_be_bytes(*pair);
        }
    }

    /// Fills the port lanes and the properties that say so.
    #[inline(always)]
    fn set_ports(&mut self, source: u16, destination: u16) {
        self.set(Lane::SrcPort, source);
        self.set(Lane::DstPort, destination);
        self.add(if source == destination { Bits::PORTS | Bits::EQUAL_PORTS } else { Bits::PORTS });
    }
}

/// An address as a number: IPv4 in the low 32 bits.
#[inline(always)]
pub fn address(pieces: [u16; 8]) -> u128 {
    pieces.into_iter().fold(0, |sum, piece| sum << 16 | u128::from(piece))
}

/// What parsing found besides the lanes. Offsets are in bytes from the start of the head, within its first
/// [`HEAD_BYTES`], and never decrease from `l3` to `end`. Where parsing stopped early (not IP, malformed), those that it did
/// not reach are equal to the last one it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layers {
    /// What kind of packet it is.
    pub kind: Kind,
    /// Offset of the IP header; of what follows the last tag or label when there is none.
    pub l3: u16,
    /// Offset of the transport header; equal to `payload` when there is none (later fragments, other protocols).
    pub l4: u16,
    /// Offset of the first byte after the transport header; in ICMP of the first byte after the eight that all messages have.
    pub payload: u16,
    /// Offset one past the last byte of the payload that is present in the head: padding of the frame and bytes past the
    /// UDP length are outside.
    pub end: u16,
    /// Identification of the datagram that it is a fragment of; zero when it is none.
    pub fragment: u32,
    /// What it holds of that datagram.
    pub piece: Piece,
}

impl Layers {
    /// Of a packet that has not been parsed.
    pub const NONE: Self = Self {
        kind: Kind::Other,
        l3: 0,
        l4: 0,
        payload: 0,
        end: 0,
        fragment: 0,
        piece: Piece { start: 0, end: 0, last: false },
    };

    /// Everything at one offset: nothing was found after it.
    fn at(kind: Kind, offset: usize) -> Self {
        let offset = frame::offset(offset);
        Self { kind, l3: offset, l4: offset, payload: offset, end: offset, ..Self::NONE }
    }

    /// The bytes after the transport header that are present in `head`, which is the head that was parsed.
    pub fn payload<'a>(&self, head: &'a [u8]) -> &'a [u8] {
        head.get(usize::from(self.payload)..usize::from(self.end)).unwrap_or_default()
    }
}

/// Kinds of packets, as far as the pipeline treats them differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Not IP (ARP, LLDP, LACP, BPDU, ...): passes as on a wire.
    Other,
    /// Not IP, and a heartbeat of a bypass switch: passes before any limit.
    Heartbeat,
    /// IP inside more VLAN tags, MPLS labels or tunnels than parsing follows.
    TooDeep,
    /// TCP with its header.
    Tcp,
    /// UDP with its header.
    Udp,
    /// ICMP or ICMPv6 error message of the path (unreachable, too big, time exceeded, parameter problem), quoting a packet
    /// of the destination.
    IcmpError,
    /// IPv6 neighbour discovery with hop limit 255.
    Discovery,
    /// Any other ICMP or ICMPv6.
    IcmpOther,
    /// A fragment with an offset.
    LaterFragment,
    /// Any other protocol.
    OtherProtocol,
    /// Impossible: the addresses in the lanes are valid when `addressed` is true.
    Malformed {
        /// What is wrong.
        reason: Reason,
        /// The lanes hold source, destination and version.
        addressed: bool,
    },
}

/// What an IP header and its extensions say about the rest of the packet.
#[derive(Clone, Copy, Debug)]
struct Datagram {
    /// Protocol of what follows.
    protocol: u8,
    /// Offset of what follows the IP headers.
    at: usize,
    /// Offset of the end of the packet on the wire; the head may hold less.
    end: usize,
    /// Which part of a datagram this is.
    fragment: Fragment,
    /// Which datagram that is; meaningless for a whole one.
    identification: u32,
    /// What of it this is; nothing for a whole one.
    piece: Piece,
    /// Source and destination address are equal.
    is_land: bool,
}

impl Datagram {
    /// Bytes after the IP headers, on the wire.
    fn length(&self) -> usize {
        self.end.saturating_sub(self.at)
    }

    /// Where its transport header is; later fragments have none.
    fn transport(&self) -> Option<usize> {
        (self.fragment != Fragment::Later).then_some(self.at)
    }

    /// Why a header that does not fit the packet is wrong: first fragments have a reason of their own.
    fn missing(&self, otherwise: Reason) -> Reason {
        if self.fragment == Fragment::First { Reason::FragmentTiny } else { otherwise }
    }
}

/// Protocol numbers (IANA) of what has ports but no file of its own; the others are in their protocol's file.
const DCCP: u8 = 33;
const SCTP: u8 = 132;
const UDP_LITE: u8 = 136;

/// Whether the first four bytes after the IP headers are ports.
fn has_ports(protocol: u8) -> bool {
    matches!(protocol, tcp::PROTOCOL | udp::PROTOCOL | DCCP | SCTP | UDP_LITE)
}

/// Reads the headers of a burst: [`parse`] for each packet, in the fastest way that the CPU can. Of some packets at a time `seen` is told
/// the sources as soon as they are known, as the last pair of lanes (of those that are none, anything), so that what is
/// remembered of them can be asked for while the others are read.
pub fn parse_burst(isa: Isa, packets: &[Packet<'_>], parsed: &mut Parsed, seen: impl Fn(&[u32])) {
    let packets = packets.get(..BURST).unwrap_or(packets);
    let odd = block::parse(isa, packets, parsed, &seen);
    for at in set_bits(odd) {
        if let (Some(packet), Some(lanes)) = (packets.get(at), parsed.lanes.get_mut(at)) {
            let layers = parse(packet, lanes);
            parsed.put(at, layers);
            seen(parsed.columns.of(Lane::Src6).get(at..=at).unwrap_or_default());
        }
    }
}

/// Reads the headers of a frame into `lanes`, which are overwritten completely, and says what it is.
///
/// What the lanes cannot hold is zero: everything when the packet is not IP, and of a malformed packet what was not reached.
#[inline(never)]
pub fn parse(packet: &Packet<'_>, lanes: &mut Lanes) -> Layers {
    *lanes = Lanes::default();
    let frame = Frame::new(packet);
    let link = match ethernet::parse(&frame) {
        Ok(link) => link,
        Err(reason) => return Layers::at(Kind::Malformed { reason, addressed: false }, 0),
    };
    let at = link.l3;
    let unaddressed = |reason| Layers::at(Kind::Malformed { reason, addressed: false }, at);

    match link.content {
        Content::Heartbeat => return Layers::at(Kind::Heartbeat, at),
        Content::Other => return Layers::at(Kind::Other, at),
        Content::TooDeep => return Layers::at(Kind::TooDeep, at),
        Content::Ipv4 | Content::Ipv6 | Content::Labelled => {}
    }
    let Some(version) = frame.version(at) else {
        return unaddressed(Reason::Truncated);
    };
    let datagram = match (version, link.content) {
        (4, Content::Ipv4 | Content::Labelled) => match frame.array(at) {
            Some(header) => ipv4::parse(&frame, at, header, lanes),
            None => return unaddressed(Reason::Truncated),
        },
        (6, Content::Ipv6 | Content::Labelled) => match frame.array(at) {
            Some(header) => ipv6::parse(&frame, at, header, lanes),
            None => return unaddressed(Reason::Truncated),
        },
        (_, Content::Labelled) => return Layers::at(Kind::Other, at),
        _ => return unaddressed(Reason::IpVersion),
    };

    let mut layers = Layers::at(Kind::OtherProtocol, at);
    let kind = datagram.and_then(|datagram| {
        let kind = transport(&frame, &datagram, lanes, &mut layers)?;
        if datagram.is_land { Err(Reason::Land) } else { Ok(kind) }
    });
    match kind {
        // A label does not say what is below it: the first byte of a pseudowire's Ethernet address can look like a version.
        // What then has no possible length is not IP, rather than malformed.
        Err(Reason::Ipv4HeaderLength | Reason::Ipv4Length | Reason::Ipv6Length)
            if link.content == Content::Labelled =>
        {
            *lanes = Lanes::default();
            Layers::at(Kind::Other, at)
        }
        Err(reason) => Layers { kind: Kind::Malformed { reason, addressed: true }, ..layers },
        Ok(kind) => Layers { kind, ..layers },
    }
}

/// Reads what follows the IP headers: the transport lanes, the offsets, the kind.
fn transport(frame: &Frame<'_>, datagram: &Datagram, lanes: &mut Lanes, layers: &mut Layers) -> Result<Kind, Reason> {
    let (at, end) = (datagram.at, frame.clip(datagram.end));
    layers.l4 = frame::offset(at.min(end));
    layers.payload = layers.l4;
    layers.end = frame::offset(end);
    if datagram.fragment != Fragment::Whole {
        layers.fragment = datagram.identification;
        layers.piece = datagram.piece;
    }
    lanes.set(Lane::PayloadLength, frame::saturated(datagram.length()));

    let kind = match (datagram.fragment, datagram.protocol) {
        (Fragment::Later, _) => Kind::LaterFragment,
        (_, tcp::PROTOCOL) => tcp::parse(frame, datagram, lanes, layers)?,
        (_, udp::PROTOCOL) => udp::parse(frame, datagram, lanes, layers)?,
        (_, icmp::V4) if !lanes.bits().contains(Bits::IPV6) => icmp::parse_v4(frame, datagram, lanes, layers)?,
        (_, icmp::V6) if lanes.bits().contains(Bits::IPV6) => icmp::parse_v6(frame, datagram, lanes, layers)?,
        (_, SCTP | DCCP) => ports::<12>(frame, datagram, lanes)?,
        (_, UDP_LITE) => ports::<8>(frame, datagram, lanes)?,
        _ => Kind::OtherProtocol,
    };

    let bytes = match frame.present(usize::from(layers.payload), usize::from(layers.end)) {
        [b0, b1, b2, b3, ..] => [*b0, *b1, *b2, *b3],
        [b0, b1, b2] => [*b0, *b1, *b2, 0],
        [b0, b1] => [*b0, *b1, 0, 0],
        [b0] => [*b0, 0, 0, 0],
        [] => [0; 4],
    };
    lanes.fill(Lane::Payload0, &bytes);
    Ok(kind)
}

/// Reads the ports of a protocol that is counted as any other, if its header of `N` bytes is there.
fn ports<const N: usize>(frame: &Frame<'_>, datagram: &Datagram, lanes: &mut Lanes) -> Result<Kind, Reason> {
    if datagram.length() >= N {
        if let Some([s0, s1, d0, d1]) = frame.array(datagram.at) {
            lanes.set_ports(u16::from_be_bytes([*s0, *s1]), u16::from_be_bytes([*d0, *d1]));
        }
    } else if datagram.fragment == Fragment::First {
        return Err(Reason::FragmentTiny);
    }
    Ok(Kind::OtherProtocol)
}
