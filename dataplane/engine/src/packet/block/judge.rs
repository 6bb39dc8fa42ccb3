//! What sixteen headers say, column by column: all checks and all lanes in loops without a branch, which compilers turn into vector
//! instructions. What a packet is not has no meaning in the lanes.

use levee_api::lane::{Bits, Lane};

use super::{BLOCK, Headers, Read, TYPE, ethernet, ipv4, ipv6, kind, low32, tcp};
use crate::packet::{HEAD_BYTES, dns, udp};

/// Lengths of headers.
const ETHERNET: u32 = low32(ethernet::HEADER);
const IPV4: u32 = low32(ipv4::HEADER);
const IPV6: u32 = low32(ipv6::HEADER);
const TCP: u32 = low32(tcp::HEADER);
const UDP: u32 = udp::HEADER as u32;
/// Port of queries.
const DNS: u32 = dns::PORT as u32;
/// What is looked at of a frame.
const HEAD: u32 = low32(HEAD_BYTES);
/// The longest datagram.
const LONGEST: u32 = 65_535;

/// What an IP header says, and the words behind it.
struct Datagram {
    /// Offset of the transport header behind the tags, and of the end.
    l4: u32,
    end: u32,
    /// Bytes behind the IP header.
    held: u32,
    protocol: u32,
    /// A fragment with an offset: no transport header.
    is_later: bool,
    /// The first of several fragments: a length in a transport header is that of the whole datagram.
    is_first: bool,
    transport: [u32; 6],
}

/// What follows it.
struct Transport {
    is_right: bool,
    is_tcp: bool,
    is_udp: bool,
    flags: u32,
    window: u32,
    length: u32,
    body: u32,
    has_digest: bool,
    /// Offsets behind the tags: of the payload, and of its end.
    payload: u32,
    end: u32,
    bits: u32,
}

/// Bytes behind the tags that are present, and on the wire.
#[inline(always)]
fn extent(headers: &Headers, at: usize) -> (u32, u32) {
    let (present, tags) = (headers.present[at], headers.tags[at]);
    (present.min(HEAD).wrapping_sub(tags), headers.wire[at].max(present).wrapping_sub(tags))
}

#[inline(always)]
fn when(bits: Bits, holds: bool) -> u32 {
    if holds { u32::from(bits.bits()) } else { 0 }
}

/// A lane and the one after it.
#[inline(always)]
const fn pair(even: u32, odd: u32) -> u32 {
    even | odd << 16
}

#[inline(always)]
fn transport(datagram: &Datagram, present: u32) -> Transport {
    let &Datagram {
        l4,
        end,
        held,
        protocol,
        is_later,
        is_first,
        transport: [ports, second, third, fourth, fifth, sixth],
    } = datagram;
    let is_tcp = (protocol == u32::from(tcp::PROTOCOL)) & !is_later;
    let is_udp = (protocol == u32::from(udp::PROTOCOL)) & !is_later;
    let here = end.min(present);
    let flags = fourth >> 16 & 0x1ff;
    let (fin, syn, rst, ack) = (flags & 1 != 0, flags >> 1 & 1 != 0, flags >> 2 & 1 != 0, flags >> 4 & 1 != 0);
    // As in `tcp::is_legal`.
    let is_legal = !(syn & (fin | rst)) & (ack | ((syn | rst) & !fin));
    let said = second >> 16;
    let header = if is_tcp {
        fourth >> 28 << 2
    } else if is_udp {
        UDP
    } else {
        0
    };
    let payload = l4 + header;
    let is_right = (is_later | is_udp & (said >= UDP) | is_tcp & is_legal & (header >= TCP))
        & (header <= held)
        & (payload <= here);
    let limited = if is_first { said } else { said.min(held) };
    let length = if is_udp { limited } else { held }.wrapping_sub(header);
    let end = if is_udp { here.min(l4 + said) } else { here };
    let shown = end.wrapping_sub(payload);
    // What is behind the end is absent, and reads as zero.
    let visible = if shown < 4 { !(u32::MAX >> (shown << 3)) } else { u32::MAX };
    let body = if is_tcp {
        sixth
    } else if is_udp {
        third
    } else {
        ports
    } & visible;
    let bits = when(Bits::PORTS, !is_later)
        | when(Bits::EQUAL_PORTS, !is_later & (ports >> 16 == ports & 0xffff))
        | when(Bits::ACK_ZERO, is_tcp & (third == 0))
        | when(Bits::SEQ_LOW_ZERO, is_tcp & (second & 0xffff == 0))
        | when(Bits::URGENT, is_tcp & (fifth & 0xffff != 0));
    Transport {
        is_right,
        is_tcp,
        is_udp,
        flags: if is_tcp { flags } else { 0 },
        window: if is_tcp { fourth & 0xffff } else { 0 },
        length,
        body,
        has_digest: is_tcp & (header > TCP) | is_udp & (ports & 0xffff == DNS),
        payload,
        end,
        bits,
    }
}

impl Transport {
    #[inline(always)]
    fn kind(&self) -> u32 {
        (if self.is_tcp { kind::TCP } else { 0 })
            | (if self.is_udp { kind::UDP } else { 0 })
            | (if self.has_digest { kind::DIGEST } else { 0 })
    }
}

/// IPv4.
#[inline(always)]
pub(super) fn judge(headers: &Headers, read: &mut Read) {
    for at in 0..BLOCK {
        let word = |number: usize| headers.words[number][at];
        let tags = headers.tags[at];
        let (present, wire) = extent(headers, at);
        let (total, control, source, destination) = (word(0) & 0xffff, word(1) & 0xffff, word(3), word(4));
        let held = total.wrapping_sub(IPV4);
        let units = control & u32::from(ipv4::OFFSET);
        let more = control & u32::from(ipv4::MORE_FRAGMENTS) != 0;
        let (is_later, is_fragment) = (units != 0, more | (units != 0));
        let protocol = word(2) >> 16 & 0xff;
        // As in `Fragment::judge`.
        let fits = (held != 0)
            & (!more | (held & 7 == 0))
            & ((units << 3) + total <= LONGEST)
            & !((units == 1) & (protocol == u32::from(tcp::PROTOCOL)));
        let datagram = Datagram {
            l4: ETHERNET + IPV4,
            end: ETHERNET + total,
            held,
            protocol,
            is_later,
            is_first: is_fragment & !is_later,
            transport: [word(5), word(6), word(7), word(8), word(9), word(10)],
        };
        let behind = transport(&datagram, present);
        let is_plain = (word(TYPE) == u32::from(ethernet::IPV4))
            & (word(0) >> 24 == 0x45)
            & (total >= IPV4)
            & (datagram.end <= wire)
            & (source != destination)
            & (!is_fragment | fits)
            & behind.is_right;

        let halves = |word: u32| (word >> 16) + (word & 0xffff);
        let sum = halves(word(0)) + halves(word(1)) + halves(word(2)) + halves(source) + halves(destination);
        let bits = when(Bits::DONT_FRAGMENT, control & u32::from(ipv4::DONT_FRAGMENT) != 0)
            | when(Bits::CHECKSUM_BAD, halves(halves(sum)) != 0xffff)
            | when(Bits::FIRST_FRAGMENT, is_fragment & !is_later)
            | when(Bits::LATER_FRAGMENT, is_later)
            | behind.bits;
        let ports = if is_later { 0 } else { word(5) };

        let mut put = |lane: Lane, value: u32| read.lanes[lane.index() / 2][at] = value;
        put(Lane::Src0, 0);
        put(Lane::Src2, 0);
        put(Lane::Src4, 0);
        put(Lane::Src6, source.rotate_left(16));
        put(Lane::Dst0, 0);
        put(Lane::Dst2, 0);
        put(Lane::Dst4, 0);
        put(Lane::Dst6, destination.rotate_left(16));
        put(Lane::SrcPort, ports.rotate_left(16));
        put(Lane::Protocol, pair(protocol, behind.flags));
        put(Lane::IpLength, pair(total, behind.length));
        put(Lane::Ttl, pair(word(2) >> 24, word(0) >> 16 & 0xff));
        put(Lane::TcpWindow, pair(behind.window, word(1) >> 16));
        put(Lane::Payload0, behind.body.rotate_left(16));
        put(Lane::SourceClass, pair(0, bits));
        read.l3[at] = ETHERNET + tags;
        read.ends[at] = pair(behind.payload + tags, behind.end.wrapping_add(tags));
        read.pieces[at] = pair(units, units + (held.wrapping_add(7) >> 3));
        let fragment = if is_fragment { kind::FRAGMENT } else { 0 } | if more { 0 } else { kind::LAST };
        read.kind[at] = if is_plain { behind.kind() | fragment } else { 0 };
    }
}

/// IPv6: writes only what is.
#[inline(always)]
pub(super) fn judge_v6(headers: &Headers, read: &mut Read) {
    for at in 0..BLOCK {
        let word = |number: usize| headers.words[number][at];
        let tags = headers.tags[at];
        let (present, wire) = extent(headers, at);
        let held = word(1) >> 16;
        let datagram = Datagram {
            l4: ETHERNET + IPV6,
            end: ETHERNET + IPV6 + held,
            held,
            protocol: word(1) >> 8 & 0xff,
            is_later: false,
            is_first: false,
            transport: [word(10), word(11), word(12), word(13), word(14), word(15)],
        };
        let behind = transport(&datagram, present);
        let is_land = (word(2) == word(6)) & (word(3) == word(7)) & (word(4) == word(8)) & (word(5) == word(9));
        let is_plain =
            (headers.v6[at] != 0) & (word(0) >> 28 == 6) & (datagram.end <= wire) & !is_land & behind.is_right;

        let mut put = |lane: Lane, value: u32| {
            let place = &mut read.lanes[lane.index() / 2][at];
            *place = if is_plain { value } else { *place };
        };
        put(Lane::Src0, word(2).rotate_left(16));
        put(Lane::Src2, word(3).rotate_left(16));
        put(Lane::Src4, word(4).rotate_left(16));
        put(Lane::Src6, word(5).rotate_left(16));
        put(Lane::Dst0, word(6).rotate_left(16));
        put(Lane::Dst2, word(7).rotate_left(16));
        put(Lane::Dst4, word(8).rotate_left(16));
        put(Lane::Dst6, word(9).rotate_left(16));
        put(Lane::SrcPort, word(10).rotate_left(16));
        put(Lane::Protocol, pair(datagram.protocol, behind.flags));
        put(Lane::IpLength, pair((IPV6 + held).min(LONGEST), behind.length));
        put(Lane::Ttl, pair(word(1) & 0xff, word(0) >> 20 & 0xff));
        put(Lane::TcpWindow, behind.window);
        put(Lane::Payload0, behind.body.rotate_left(16));
        put(Lane::SourceClass, pair(0, u32::from(Bits::IPV6.bits()) | behind.bits));
        let ends = pair(behind.payload + tags, behind.end.wrapping_add(tags));
        read.ends[at] = if is_plain { ends } else { read.ends[at] };
        read.kind[at] = if is_plain { behind.kind() | kind::IPV6 } else { read.kind[at] };
    }
}
