//! Bytes to lanes: what a packet is, before anybody decides about it. One file per protocol; no unsafe, never panics.

use levee_api::lane::LANES;

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

/// What parsing found besides the lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layers {
    /// What kind of packet it is.
    pub kind: Kind,
    /// Offset of the IP header in the head; meaningless for [`Kind::Other`].
    pub l3: u16,
    /// Offset of the transport header; equal to `payload` when there is none (later fragments, other protocols).
    pub l4: u16,
    /// Offset of the first byte after the transport header.
    pub payload: u16,
    /// Offset one past the last byte of the IP packet that is present in the head (padding is outside).
    pub end: u16,
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
