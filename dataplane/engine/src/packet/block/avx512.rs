//! A block of packets for AVX-512: a load and a permutation for each header, and words turned in registers.
#![expect(unsafe_code, reason = "vector loads and stores, and calls that need a CPU feature")]

use std::arch::x86_64::*;

use levee_api::lane::LANES;

use super::{BLOCK, Column, Headers, TYPE, WORDS, WORDS_V4, each, ethernet, low32, tags_of};
use crate::isa::Avx512;
use crate::packet::{Lanes, Packet, Parsed};

pub(super) fn parse(_: Avx512, packets: &[Packet<'_>], parsed: &mut Parsed, seen: impl Fn(&[u32])) -> u64 {
    // SAFETY: the token is only made after the CPU said that it has these features.
    unsafe { burst(packets, parsed, seen) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt,bmi1,bmi2,lzcnt")]
fn burst(packets: &[Packet<'_>], parsed: &mut Parsed, seen: impl Fn(&[u32])) -> u64 {
    each(
        packets,
        parsed,
        seen,
        |packets, headers| take_apart(packets, headers),
        |packets, headers| take_apart_v6(packets, headers),
        |columns, rows| put_together(columns, rows),
        |column, which| bits(column, which),
    )
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt,bmi1,bmi2,lzcnt")]
fn bits(column: &Column, which: u32) -> u64 {
    // SAFETY: reads the 64 bytes of an array of 16 words.
    let words = unsafe { _mm512_loadu_si512(column.as_ptr().cast()) };
    _mm512_test_epi32_mask(words, _mm512_set1_epi32(which.cast_signed())).into()
}

/// Where the bytes of each word come from, its low one first, and which of them come from anywhere.
struct Order {
    from: [u8; 64],
    kept: u64,
}

/// From the start of the frame, so that the load stays within a cache line: the words of IPv4, and the type in the last.
const V4: Order = {
    let mut order = Order::words(ethernet::HEADER, WORDS_V4);
    order.from[4 * TYPE] = 13;
    order.from[4 * TYPE + 1] = 12;
    order.kept |= 3 << (4 * TYPE);
    order
};
/// From the IP header on.
const V6: Order = Order::words(0, WORDS);

impl Order {
    const fn words(first: usize, count: usize) -> Self {
        let mut order = Self { from: [0; 64], kept: u64::MAX >> (64 - 4 * count) };
        let mut at = 0;
        while at < 4 * count {
            #[expect(clippy::cast_possible_truncation, reason = "below 64")]
            let from = (first + at / 4 * 4 + 3 - at % 4) as u8;
            order.from[at] = from;
            at += 1;
        }
        order
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt,bmi1,bmi2,lzcnt")]
    fn of(&self, bytes: &[u8]) -> __m512i {
        // SAFETY: reads the 64 bytes of an array of 64 bytes.
        let from = unsafe { _mm512_loadu_si512(self.from.as_ptr().cast()) };
        let there = _bzhi_u64(u64::MAX, low32(bytes.len().min(64)));
        // SAFETY: reads only bytes that are there; masked ones are neither read nor do they fault.
        let bytes = unsafe { _mm512_maskz_loadu_epi8(there, bytes.as_ptr().cast()) };
        _mm512_maskz_permutexvar_epi8(self.kept, from, bytes)
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt,bmi1,bmi2,lzcnt")]
fn take_apart(packets: &[Packet<'_>], headers: &mut Headers) {
    let mut rows = [_mm512_setzero_si512(); BLOCK];
    for (at, (packet, row)) in packets.iter().zip(&mut rows).enumerate() {
        headers.measure(at, packet, 0);
        *row = V4.of(packet.head);
    }
    let mut columns = turned(rows);
    if is_any_tagged(columns[TYPE]) {
        for (at, (packet, row)) in packets.iter().zip(&mut rows).enumerate() {
            let tags = tags_of(packet.head);
            headers.measure(at, packet, tags);
            *row = V4.of(packet.head.get(tags..).unwrap_or_default());
        }
        columns = turned(rows);
    }
    put_words(&columns, headers);
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt,bmi1,bmi2,lzcnt")]
fn take_apart_v6(packets: &[Packet<'_>], headers: &mut Headers) {
    let mut rows = [_mm512_setzero_si512(); BLOCK];
    for (at, (packet, row)) in packets.iter().zip(&mut rows).enumerate() {
        let from = ethernet::HEADER + headers.tags[at] as usize;
        *row = V6.of(packet.head.get(from..).unwrap_or_default());
    }
    put_words(&turned(rows), headers);
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt,bmi1,bmi2,lzcnt")]
fn put_words(columns: &[__m512i; BLOCK], headers: &mut Headers) {
    for (column, words) in headers.words.iter_mut().zip(columns) {
        // SAFETY: writes the 64 bytes of an array of 16 words.
        unsafe { _mm512_storeu_si512(column.as_mut_ptr().cast(), *words) };
    }
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
