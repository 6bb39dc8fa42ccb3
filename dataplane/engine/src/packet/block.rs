//! Sixteen packets at a time: whole TCP and UDP over IPv4 without IP options, under up to two VLAN tags. That is nearly
//! everything, also in floods.
//!
//! The headers are taken apart into words, the words of sixteen packets are turned into columns, and everything is checked and
//! computed column by column in one loop without a branch, which compilers turn into vector instructions; the columns of lanes
//! that come out are turned back into rows. Whatever is not plain, or not as it should be, is left to what reads packets one
//! by one and knows what to call it.
#![expect(clippy::indexing_slicing, reason = "arrays of sixteen, and numbers below that")]

use levee_api::lane::{Bits, LANES, Lane};

use super::columns::Parsed;
use super::{HEAD_BYTES, Lanes, Layers, Packet, ethernet, ipv4, tcp, udp};
use crate::isa::{Isa, Level};
use crate::pipeline::set_bits;

/// Packets that are read together.
pub(super) const BLOCK: usize = 16;

/// A number for each packet of a block.
type Column = [u32; BLOCK];

/// Words of a header, from the IP header on: five of that, five of the transport header, one behind it; and the type.
const WORDS: usize = 12;
const TYPE: usize = WORDS - 1;
/// A frame has all the words from here on.
const WHOLE: usize = ethernet::HEADER + 4 * TYPE;

/// The headers of a block.
#[repr(C, align(64))]
struct Headers {
    words: [Column; 16],
    /// Bytes of the frame that are present, and on the wire.
    present: Column,
    wire: Column,
    /// Bytes of tags before the type.
    tags: Column,
}

/// What they say.
#[repr(C, align(64))]
struct Read {
    lanes: [Column; LANES / 2],
    /// Offset of the IP header; of what follows the transport header, with that of its end in the upper half.
    l3: Column,
    ends: Column,
    /// [`TCP`], [`UDP`], [`OPTIONS`] beside the former; zero: not plain.
    kind: Column,
}

/// Lengths of headers.
const ETHERNET: u32 = low32(ethernet::HEADER);
const IP: u32 = low32(ipv4::HEADER);
const TCP_HEADER: u32 = low32(tcp::HEADER);
const UDP_HEADER: u32 = udp::HEADER as u32;
/// What is looked at of a frame.
const HEAD: u32 = low32(HEAD_BYTES);

const TCP: u32 = 1;
const UDP: u32 = 2;
const OPTIONS: u32 = 4;

/// Reads what is plain of a burst; a bit for each packet that is not. Its row and what else is known of it is as it was.
pub(super) fn parse(isa: Isa, packets: &[Packet<'_>], parsed: &mut Parsed) -> u64 {
    match isa.level() {
        Level::Scalar => each(packets, parsed, take_apart, put_together),
        #[cfg(target_arch = "x86_64")]
        Level::Avx2(cpu) => avx2::parse(cpu, packets, parsed),
        #[cfg(target_arch = "x86_64")]
        Level::Avx512(cpu) => avx512::parse(cpu, packets, parsed),
    }
}

/// Inlined into each of the above, to be compiled for its CPU.
#[inline(always)]
fn each(
    packets: &[Packet<'_>],
    parsed: &mut Parsed,
    take_apart: impl Fn(&[Packet<'_>], &mut Headers),
    put_together: impl Fn(&[Column; LANES / 2], &mut [Lanes; BLOCK]),
) -> u64 {
    let mut headers = Headers { words: [[0; BLOCK]; 16], present: [0; BLOCK], wire: [0; BLOCK], tags: [0; BLOCK] };
    let mut read = Read { lanes: [[0; BLOCK]; LANES / 2], l3: [0; BLOCK], ends: [0; BLOCK], kind: [0; BLOCK] };
    let (mut tcp, mut udp, mut with_options) = (0, 0, 0);
    let rows = parsed.lanes.as_chunks_mut().0;
    for (block, (packets, rows)) in packets.chunks(BLOCK).zip(rows).enumerate() {
        take_apart(packets, &mut headers);
        judge(&headers, &mut read);
        put_together(&read.lanes, rows);
        parsed.columns.put(block, &read.lanes);
        parsed.offsets.put(block, &read.l3, &read.ends);
        tcp |= bits(&read.kind, TCP) << (block * BLOCK);
        udp |= bits(&read.kind, UDP) << (block * BLOCK);
        with_options |= bits(&read.kind, OPTIONS) << (block * BLOCK);
    }
    parsed.mark_plain(tcp, udp);
    for at in set_bits(with_options) {
        let layers = parsed.layers(at);
        if let (Some(packet), Some(lanes)) = (packets.get(at), parsed.lanes.get_mut(at)) {
            options(packet, layers, lanes);
            parsed.columns.turn(at, lanes);
        }
    }
    let there = u64::MAX.checked_shr(64 - low32(packets.len())).unwrap_or(0);
    there & !(tcp | udp)
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

/// All checks and all lanes, without a branch. What a packet is not has no meaning in the lanes.
#[inline(always)]
fn judge(headers: &Headers, read: &mut Read) {
    for at in 0..BLOCK {
        let word = |number: usize| headers.words[number][at];
        let tags = headers.tags[at];
        let (present, wire) = (headers.present[at], headers.wire[at].max(headers.present[at]));
        // Of long frames only the head is looked at. What counts is what is behind the tags, of which a frame without room has none.
        let (present, wire) = (present.min(HEAD).wrapping_sub(tags), wire.wrapping_sub(tags));
        let (total, control, protocol) = (word(0) & 0xffff, word(1) & 0xffff, word(2) >> 16 & 0xff);
        let (source, destination, ports) = (word(3), word(4), word(5));
        let is_tcp = protocol == u32::from(tcp::PROTOCOL);
        let is_udp = protocol == u32::from(udp::PROTOCOL);
        let held = total.wrapping_sub(IP);
        let here = (total + ETHERNET).min(present);

        let flags = word(8) >> 16 & 0x1ff;
        let [fin, syn, rst, ack] = [0, 1, 2, 4].map(|bit| flags >> bit & 1 != 0);
        // As in `tcp::is_legal`.
        let is_legal = !(syn & (fin | rst)) & (ack | ((syn | rst) & !fin));
        let said = word(6) >> 16;
        let header = if is_tcp { word(8) >> 28 << 2 } else { UDP_HEADER };
        let payload = ETHERNET + IP + header;
        let is_plain = (word(TYPE) == u32::from(ethernet::IPV4))
            & (word(0) >> 24 == 0x45)
            & (total >= IP)
            & (total + ETHERNET <= wire)
            & (source != destination)
            & (control & u32::from(ipv4::MORE_FRAGMENTS | ipv4::OFFSET) == 0)
            & (is_udp & (said >= UDP_HEADER) | is_tcp & is_legal & (header >= TCP_HEADER))
            & (header <= held)
            & (payload <= here);
        let length = if is_tcp { held.wrapping_sub(header) } else { said.min(held).wrapping_sub(header) };
        let end = if is_tcp { here } else { here.min(ETHERNET + IP + said) };
        let shown = end.wrapping_sub(payload);
        // What is behind the end is absent, and reads as zero.
        let visible = if shown < 4 { !(u32::MAX >> (shown << 3)) } else { u32::MAX };
        let body = if is_tcp { word(10) } else { word(7) } & visible;

        let halves = |word: u32| (word >> 16) + (word & 0xffff);
        let sum = halves(word(0)) + halves(word(1)) + halves(word(2)) + halves(source) + halves(destination);
        let sum = halves(halves(sum));
        let when = |bits: Bits, holds: bool| if holds { u32::from(bits.bits()) } else { 0 };
        let properties = when(Bits::DONT_FRAGMENT, control & u32::from(ipv4::DONT_FRAGMENT) != 0)
            | when(Bits::CHECKSUM_BAD, sum != 0xffff)
            | u32::from(Bits::PORTS.bits())
            | when(Bits::EQUAL_PORTS, ports >> 16 == ports & 0xffff)
            | when(Bits::ACK_ZERO, is_tcp & (word(7) == 0))
            | when(Bits::SEQ_LOW_ZERO, is_tcp & (word(6) & 0xffff == 0))
            | when(Bits::URGENT, is_tcp & (word(9) & 0xffff != 0));

        let mut put = |lane: Lane, even: u32, odd: u32| read.lanes[lane.index() / 2][at] = even | odd << 16;
        put(Lane::Src6, source >> 16, source & 0xffff);
        put(Lane::Dst6, destination >> 16, destination & 0xffff);
        put(Lane::SrcPort, ports >> 16, ports & 0xffff);
        put(Lane::Protocol, protocol, if is_tcp { flags } else { 0 });
        put(Lane::IpLength, total, length);
        put(Lane::Ttl, word(2) >> 24, word(0) >> 16 & 0xff);
        put(Lane::TcpWindow, if is_tcp { word(8) & 0xffff } else { 0 }, word(1) >> 16);
        put(Lane::Payload0, body >> 16, body & 0xffff);
        put(Lane::SourceClass, 0, properties);
        read.l3[at] = ETHERNET + tags;
        read.ends[at] = (payload + tags) | (end.wrapping_add(tags)) << 16;
        let has_options = if header > TCP_HEADER { OPTIONS } else { 0 };
        let kind = if is_tcp { TCP | has_options } else { UDP };
        read.kind[at] = if is_plain { kind } else { 0 };
    }
}

/// The lanes of TCP options, and the payload behind them.
fn options(packet: &Packet<'_>, layers: Layers, lanes: &mut Lanes) {
    let from = usize::from(layers.l4) + tcp::HEADER;
    let options = packet.head.get(from..usize::from(layers.payload)).unwrap_or_default();
    tcp::set_options(options, lanes);
    let mut first = [0; 4];
    for (to, from) in first.iter_mut().zip(layers.payload(packet.head)) {
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
        let behind = packet.head.get(tags..).unwrap_or_default();
        let mut padded = [0; WHOLE];
        let frame: &[u8; WHOLE] = behind.first_chunk().unwrap_or_else(|| {
            for (to, from) in padded.iter_mut().zip(behind) {
                *to = *from;
            }
            &padded
        });
        let (_, words) = frame.split_first_chunk::<{ ethernet::HEADER }>().unwrap_or((&[0; _], &[]));
        for (column, word) in headers.words.iter_mut().zip(words.as_chunks().0) {
            column[at] = u32::from_be_bytes(*word);
        }
        headers.words[TYPE][at] = u32::from(u16::from_be_bytes([frame[12], frame[13]]));
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

    use super::{Packet, Parsed, each, put_together, take_apart};
    use crate::isa::Avx2;

    pub(super) fn parse(_: Avx2, packets: &[Packet<'_>], parsed: &mut Parsed) -> u64 {
        // SAFETY: the token is only made after the CPU said that it has these features.
        unsafe { burst(packets, parsed) }
    }

    #[target_feature(enable = "avx2,popcnt,bmi1,bmi2,lzcnt")]
    fn burst(packets: &[Packet<'_>], parsed: &mut Parsed) -> u64 {
        each(packets, parsed, take_apart, put_together)
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    #![expect(unsafe_code, reason = "vector loads and stores, and calls that need a CPU feature")]

    use std::arch::x86_64::*;

    use super::{BLOCK, Column, Headers, LANES, Lanes, Packet, Parsed, TYPE, each, ethernet};
    use crate::isa::Avx512;

    pub(super) fn parse(_: Avx512, packets: &[Packet<'_>], parsed: &mut Parsed) -> u64 {
        // SAFETY: the token is only made after the CPU said that it has these features.
        unsafe { burst(packets, parsed) }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt,bmi1,bmi2,lzcnt")]
    fn burst(packets: &[Packet<'_>], parsed: &mut Parsed) -> u64 {
        each(
            packets,
            parsed,
            |packets, headers| take_apart(packets, headers),
            |columns, rows| {
                put_together(columns, rows);
            },
        )
    }

    /// Where the bytes of each word come from, its low one first; those of the last words from nowhere.
    const ORDER: [u8; 64] = {
        let mut order = [0; 64];
        let mut at = 0;
        while at < 4 * TYPE {
            #[expect(clippy::cast_possible_truncation, reason = "below 64")]
            let from = (ethernet::HEADER + at / 4 * 4 + 3 - at % 4) as u8;
            order[at] = from;
            at += 1;
        }
        order[at] = 13;
        order[at + 1] = 12;
        order
    };
    const KEPT: u64 = (1 << (4 * TYPE + 2)) - 1;

    /// One load and one permutation for each packet, from the start of the frame, so that the load stays within a cache line.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt,bmi1,bmi2,lzcnt")]
    fn take_apart(packets: &[Packet<'_>], headers: &mut Headers) {
        // SAFETY: reads the 64 bytes of an array of 64 bytes.
        let order = unsafe { _mm512_loadu_si512(ORDER.as_ptr().cast()) };
        let mut rows = [_mm512_setzero_si512(); BLOCK];
        for (at, (packet, row)) in packets.iter().zip(&mut rows).enumerate() {
            headers.measure(at, packet, 0);
            *row = words(packet.head, order);
        }
        let mut columns = turned(rows);
        if is_any_tagged(columns[TYPE]) {
            for (at, (packet, row)) in packets.iter().zip(&mut rows).enumerate() {
                let tags = super::tags_of(packet.head);
                headers.measure(at, packet, tags);
                *row = words(packet.head.get(tags..).unwrap_or_default(), order);
            }
            columns = turned(rows);
        }
        for (column, words) in headers.words.iter_mut().zip(columns) {
            // SAFETY: writes the 64 bytes of an array of 16 words.
            unsafe { _mm512_storeu_si512(column.as_mut_ptr().cast(), words) };
        }
    }

    /// The words of one header. What is absent is zero.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt,bmi1,bmi2,lzcnt")]
    fn words(frame: &[u8], order: __m512i) -> __m512i {
        let there = _bzhi_u64(u64::MAX, super::low32(frame.len().min(64)));
        // SAFETY: reads only bytes that are there; masked ones are neither read nor do they fault.
        let frame = unsafe { _mm512_maskz_loadu_epi8(there, frame.as_ptr().cast()) };
        _mm512_maskz_permutexvar_epi8(KEPT, order, frame)
    }

    /// Whether any of these types says that a tag comes first.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt,bmi1,bmi2,lzcnt")]
    fn is_any_tagged(types: __m512i) -> bool {
        let mut tagged = 0;
        for tag in ethernet::TAGS {
            tagged |= _mm512_cmpeq_epi32_mask(types, _mm512_set1_epi32(tag.into()));
        }
        tagged != 0
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt,bmi1,bmi2,lzcnt")]
    fn put_together(columns: &[Column; LANES / 2], rows: &mut [Lanes; BLOCK]) {
        let mut words = [_mm512_setzero_si512(); BLOCK];
        for (words, column) in words.iter_mut().zip(columns) {
            // SAFETY: reads the 64 bytes of an array of 16 words.
            *words = unsafe { _mm512_loadu_si512(column.as_ptr().cast()) };
        }
        for (lanes, row) in rows.iter_mut().zip(turned(words)) {
            // SAFETY: writes the 64 bytes of the lanes, which are aligned to 64.
            unsafe { _mm512_store_si512(lanes.0.as_mut_ptr().cast(), row) };
        }
    }

    /// Sixteen by sixteen words, turned: four rounds, each of which brings what is twice as far apart together.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt,bmi1,bmi2,lzcnt")]
    fn turned(rows: [__m512i; 16]) -> [__m512i; 16] {
        let mut pairs = rows;
        for at in (0..16).step_by(2) {
            pairs[at] = _mm512_unpacklo_epi32(rows[at], rows[at + 1]);
            pairs[at + 1] = _mm512_unpackhi_epi32(rows[at], rows[at + 1]);
        }
        let mut fours = pairs;
        for at in (0..16).step_by(4) {
            fours[at] = _mm512_unpacklo_epi64(pairs[at], pairs[at + 2]);
            fours[at + 1] = _mm512_unpackhi_epi64(pairs[at], pairs[at + 2]);
            fours[at + 2] = _mm512_unpacklo_epi64(pairs[at + 1], pairs[at + 3]);
            fours[at + 3] = _mm512_unpackhi_epi64(pairs[at + 1], pairs[at + 3]);
        }
        // Now `fours[4 * i + j]` holds word `4 * k + j` of rows `4 * i` to `4 * i + 3` in its quarter `k`.
        let mut turned = fours;
        for at in 0..4 {
            let [a, b, c, d] = [fours[at], fours[at + 4], fours[at + 8], fours[at + 12]];
            let low = [_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0x88>(c, d)];
            let high = [_mm512_shuffle_i32x4::<0xdd>(a, b), _mm512_shuffle_i32x4::<0xdd>(c, d)];
            turned[at] = _mm512_shuffle_i32x4::<0x88>(low[0], low[1]);
            turned[at + 4] = _mm512_shuffle_i32x4::<0x88>(high[0], high[1]);
            turned[at + 8] = _mm512_shuffle_i32x4::<0xdd>(low[0], low[1]);
            turned[at + 12] = _mm512_shuffle_i32x4::<0xdd>(high[0], high[1]);
        }
        turned
    }
}
