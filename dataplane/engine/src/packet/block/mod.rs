//! Sixteen packets at a time: TCP and UDP over IPv4 without options or over IPv6 without extension headers, under up to two
//! VLAN tags, and fragments of IPv4. That is nearly everything, also in floods.
//!
//! The headers are taken apart into words, the words of sixteen packets are turned into columns, and everything is checked and
//! computed column by column in one loop without a branch ([`judge`]), which compilers turn into vector instructions; the columns
//! of lanes that come out are turned back into rows. Whatever is not plain, or not as it should be, is left to what reads
//! packets one by one and knows what to call it.
#![expect(clippy::indexing_slicing, reason = "arrays of sixteen, and numbers below that")]

#[cfg(target_arch = "x86_64")]
mod avx512;
mod judge;

use levee_api::lane::{LANES, Lane};

use self::judge::{judge, judge_v6};
use super::columns::Parsed;
use super::{Kind, Lanes, Layers, Packet, Piece, ethernet, ipv4, ipv6, tcp, udp};
use crate::isa::{Isa, Level};
use crate::pipeline::{BURST, set_bits};

/// Packets that are read together.
const BLOCK: usize = 16;

/// A number for each packet of a block.
type Column = [u32; BLOCK];

/// Words of a header from the IP header on: up to ten of that, then six of the transport header and behind it.
const WORDS: usize = 16;
/// Of IPv4 fewer are read, and the last word holds the type of the frame.
const WORDS_V4: usize = 11;
const TYPE: usize = WORDS - 1;

/// The headers of a block.
#[repr(C, align(64))]
struct Headers {
    words: [Column; WORDS],
    /// Bytes of the frame that are present, and on the wire.
    present: Column,
    wire: Column,
    /// Bytes of tags before the type.
    tags: Column,
    /// Not zero where the type is that of IPv6.
    v6: Column,
}

/// What they say.
#[repr(C, align(64))]
struct Read {
    lanes: [Column; LANES / 2],
    /// Offset of the IP header; of what follows the transport header, with that of its end in the upper half.
    l3: Column,
    ends: Column,
    /// Of fragments: the first of the units of eight bytes that it holds, and one past the last in the upper half.
    pieces: Column,
    /// See [`kind`]; zero: not plain.
    kind: Column,
}

/// Bits of what a packet is.
mod kind {
    pub(super) const TCP: u32 = 1;
    pub(super) const UDP: u32 = 2;
    pub(super) const IPV6: u32 = 4;
    /// What the lanes hold of it takes more than its headers.
    pub(super) const DIGEST: u32 = 8;
    pub(super) const FRAGMENT: u32 = 16;
    /// The last of its datagram.
    pub(super) const LAST: u32 = 32;
}

/// Reads what is plain of a burst; a bit for each packet that is not, of which nothing is known yet. Of every sixteen packets `seen`
/// is told the sources, as the last pair of their lanes.
pub(super) fn parse(isa: Isa, packets: &[Packet<'_>], parsed: &mut Parsed, seen: impl Fn(&[u32])) -> u64 {
    match isa.level() {
        Level::Scalar => each(packets, parsed, seen, take_apart, take_apart_v6, put_together, bits),
        #[cfg(target_arch = "x86_64")]
        Level::Avx2(cpu) => avx2::parse(cpu, packets, parsed, seen),
        #[cfg(target_arch = "x86_64")]
        Level::Avx512(cpu) => avx512::parse(cpu, packets, parsed, seen),
    }
}

/// Inlined into each of the above, to be compiled for its CPU.
#[inline(always)]
fn each(
    packets: &[Packet<'_>],
    parsed: &mut Parsed,
    seen: impl Fn(&[u32]),
    take_apart: impl Fn(&[Packet<'_>], &mut Headers),
    take_apart_v6: impl Fn(&[Packet<'_>], &mut Headers),
    put_together: impl Fn(&[Column; LANES / 2], &mut [Lanes; BLOCK]),
    bits: impl Fn(&Column, u32) -> u64,
) -> u64 {
    let mut headers =
        Headers { words: [[0; BLOCK]; WORDS], present: [0; BLOCK], wire: [0; BLOCK], tags: [0; BLOCK], v6: [0; BLOCK] };
    let mut read =
        Read { lanes: [[0; BLOCK]; LANES / 2], l3: [0; BLOCK], ends: [0; BLOCK], pieces: [0; BLOCK], kind: [0; BLOCK] };
    let (mut tcp, mut udp, mut v6, mut fragments, mut with_digest) = (0, 0, 0, 0, 0);
    for (block, packets) in packets.chunks(BLOCK).enumerate().take(BURST / BLOCK) {
        let first = block * BLOCK;
        take_apart(packets, &mut headers);
        judge(&headers, &mut read);
        let mut any_v6 = 0;
        for (v6, kind) in headers.v6.iter_mut().zip(&headers.words[TYPE]) {
            *v6 = u32::from(*kind == u32::from(ethernet::IPV6));
            any_v6 |= *v6;
        }
        if any_v6 != 0 {
            take_apart_v6(packets, &mut headers);
            judge_v6(&headers, &mut read);
        }
        seen(&read.lanes[Lane::Src6.index() / 2]);
        if let Some(rows) = parsed.lanes.as_chunks_mut().0.get_mut(block) {
            put_together(&read.lanes, rows);
        }
        parsed.columns.put(block, &read.lanes);
        parsed.offsets.put(block, &read.l3, &read.ends);
        tcp |= bits(&read.kind, kind::TCP) << first;
        udp |= bits(&read.kind, kind::UDP) << first;
        v6 |= bits(&read.kind, kind::IPV6) << first;
        with_digest |= bits(&read.kind, kind::DIGEST) << first;
        let pieces = bits(&read.kind, kind::FRAGMENT);
        fragments |= pieces << first;
        for at in set_bits(pieces) {
            parsed.set_row(first + at, layers_of(&read, at));
        }
    }
    parsed.mark(tcp, udp, v6, fragments);
    for at in set_bits(with_digest) {
        let layers = parsed.layers(at);
        if let (Some(packet), Some(lanes)) = (packets.get(at), parsed.lanes.get_mut(at)) {
            digest(packet, layers, lanes);
            parsed.columns.turn(at, lanes);
        }
    }
    let there = u64::MAX.checked_shr(64 - low32(packets.len())).unwrap_or(0);
    there & !(tcp | udp | fragments)
}

/// A bit for each packet whose number has one of the bits of `which`.
#[inline(always)]
fn bits(column: &Column, which: u32) -> u64 {
    let mut bits = 0;
    for (at, value) in column.iter().enumerate() {
        bits |= u32::from(value & which != 0) << at;
    }
    u64::from(bits)
}

/// What is known of a fragment of IPv4.
fn layers_of(read: &Read, at: usize) -> Layers {
    let (l3, ends, pieces, kind) = (low16(read.l3[at]), read.ends[at], read.pieces[at], read.kind[at]);
    Layers {
        kind: match kind & (kind::TCP | kind::UDP) {
            kind::TCP => Kind::Tcp,
            kind::UDP => Kind::Udp,
            _ => Kind::LaterFragment,
        },
        l3,
        l4: l3 + low16(low32(ipv4::HEADER)),
        payload: low16(ends),
        end: low16(ends >> 16),
        fragment: read.lanes[Lane::Ident.index() / 2][at] >> 16,
        piece: Piece { start: low16(pieces), end: low16(pieces >> 16), last: kind & kind::LAST != 0 },
    }
}

/// The lanes of TCP options and of the payload behind them, or of the name in a DNS query.
fn digest(packet: &Packet<'_>, layers: Layers, lanes: &mut Lanes) {
    let payload = layers.payload(packet.head);
    if layers.kind == Kind::Udp {
        return udp::set_digest(payload, lanes);
    }
    let from = usize::from(layers.l4) + tcp::HEADER;
    let options = packet.head.get(from..usize::from(layers.payload)).unwrap_or_default();
    tcp::set_options(options, lanes);
    let mut first = [0; 4];
    for (to, from) in first.iter_mut().zip(payload) {
        *to = *from;
    }
    lanes.fill(Lane::Payload0, &first);
}

/// How many bytes of tags come before the type.
#[inline(always)]
fn tags_of(head: &[u8]) -> usize {
    let is_tag = |at: usize| {
        head.get(at..)
            .and_then(|rest| rest.first_chunk())
            .is_some_and(|kind| ethernet::is_tag(u16::from_be_bytes(*kind)))
    };
    match is_tag(12) {
        false => 0,
        true if is_tag(12 + ethernet::TAG) => 2 * ethernet::TAG,
        true => ethernet::TAG,
    }
}

impl Headers {
    /// Notes how long a frame is.
    #[inline(always)]
    fn measure(&mut self, at: usize, packet: &Packet<'_>, tags: usize) {
        // More than any packet says that it has is as good as what it has.
        self.present[at] = low32(packet.head.len().min(1 << 20));
        self.wire[at] = packet.wire_len.min(1 << 20);
        self.tags[at] = low32(tags);
    }
}

/// Packet by packet.
#[inline(always)]
fn take_apart(packets: &[Packet<'_>], headers: &mut Headers) {
    for at in 0..BLOCK {
        let packet = packets.get(at).copied().unwrap_or(Packet { head: &[], wire_len: 0 });
        let tags = tags_of(packet.head);
        headers.measure(at, &packet, tags);
        let kind = packet.head.get(tags + 12..).and_then(|rest| rest.first_chunk());
        headers.words[TYPE][at] = kind.map_or(0, |kind| u16::from_be_bytes(*kind).into());
        put_words::<{ 4 * WORDS_V4 }>(&packet, headers, at);
    }
}

/// The same for the words of IPv6.
#[inline(always)]
fn take_apart_v6(packets: &[Packet<'_>], headers: &mut Headers) {
    for (at, packet) in packets.iter().enumerate() {
        put_words::<{ 4 * WORDS }>(packet, headers, at);
    }
}

/// The first words of what is behind the type; what is absent is zero.
#[inline(always)]
fn put_words<const BYTES: usize>(packet: &Packet<'_>, headers: &mut Headers, at: usize) {
    let from = ethernet::HEADER + headers.tags[at] as usize;
    let bytes = packet.head.get(from..).unwrap_or_default();
    let mut padded = [0; BYTES];
    let bytes: &[u8; BYTES] = bytes.first_chunk().unwrap_or_else(|| {
        for (to, from) in padded.iter_mut().zip(bytes) {
            *to = *from;
        }
        &padded
    });
    for (column, word) in headers.words.iter_mut().zip(bytes.as_chunks().0) {
        column[at] = u32::from_be_bytes(*word);
    }
}

/// Row by row.
#[inline(always)]
fn put_together(columns: &[Column; LANES / 2], rows: &mut [Lanes; BLOCK]) {
    for (at, row) in rows.iter_mut().enumerate() {
        for (pair, column) in row.0.as_chunks_mut().0.iter_mut().zip(columns) {
            *pair = [low16(column[at] & 0xffff), low16(column[at] >> 16)];
        }
    }
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "offsets in a head, and halves of words")]
const fn low16(number: u32) -> u16 {
    number as u16
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "lengths of frames")]
const fn low32(number: usize) -> u32 {
    number as u32
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    #![expect(unsafe_code, reason = "calls that need a CPU feature")]

    use super::{Packet, Parsed, bits, each, put_together, take_apart, take_apart_v6};
    use crate::isa::Avx2;

    pub(super) fn parse(_: Avx2, packets: &[Packet<'_>], parsed: &mut Parsed, seen: impl Fn(&[u32])) -> u64 {
        // SAFETY: the token is only made after the CPU said that it has these features.
        unsafe { burst(packets, parsed, seen) }
    }

    #[target_feature(enable = "avx2,popcnt,bmi1,bmi2,lzcnt")]
    fn burst(packets: &[Packet<'_>], parsed: &mut Parsed, seen: impl Fn(&[u32])) -> u64 {
        each(packets, parsed, seen, take_apart, take_apart_v6, put_together, bits)
    }
}
