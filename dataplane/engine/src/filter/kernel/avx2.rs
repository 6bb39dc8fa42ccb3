//! The compare for AVX2: a block in four quarters of 16 slots.
#![expect(unsafe_code, reason = "vector loads, and calls that need a CPU feature")]

use std::arch::x86_64::*;

use super::{Block, Hits, LANE, Lists};
use crate::isa::Avx2;
use crate::packet::Lanes;
use crate::pipeline::BURST;

/// See [`super::hits`].
#[inline]
pub(super) fn hits(_: Avx2, block: &Block, lanes: &Lanes, class: u16) -> Hits {
    // SAFETY: the token is only made after the CPU said that it has these features.
    unsafe { of_packet(block, lanes, class) }
}

/// See [`super::compare_burst`].
#[inline]
pub(super) fn compare_burst<L: Lists>(
    _: Avx2,
    lists: &L,
    listed: u64,
    lanes: &[Lanes; BURST],
    classes: &[u16; BURST],
    hits: &mut [Hits; BURST],
) -> u64 {
    // SAFETY: the token is only made after the CPU said that it has these features.
    unsafe { of_burst(lists, listed, lanes, classes, hits) }
}

#[target_feature(enable = "avx2,popcnt,bmi1,bmi2,lzcnt")]
fn of_burst<L: Lists>(
    lists: &L,
    listed: u64,
    lanes: &[Lanes; BURST],
    classes: &[u16; BURST],
    hits: &mut [Hits; BURST],
) -> u64 {
    super::each(lists, listed, lanes, classes, hits, |block, lanes, class| of_packet(block, lanes, class))
}

#[inline]
#[target_feature(enable = "avx2,popcnt,bmi1,bmi2,lzcnt")]
fn of_packet(block: &Block, lanes: &Lanes, class: u16) -> Hits {
    let (eights, []) = lanes.0.as_chunks::<8>() else { return Hits::NONE };
    let [a, b, c, d] = eights else { return Hits::NONE };
    // In the register: storing the class to the lanes just before this load would stall on store forwarding.
    let d = _mm_insert_epi16::<6>(load(d), i32::from(class));
    compare(block, &[load(a), load(b), load(c), d].map(|eight| _mm256_broadcastsi128_si256(eight)))
}

/// Eight lanes, in both halves of a register: what a byte shuffle can choose from.
type Eight = __m256i;

#[target_feature(enable = "avx2,popcnt,bmi1,bmi2,lzcnt")]
fn compare(block: &Block, lanes: &[Eight; 4]) -> Hits {
    let bounds = block.lo.as_chunks::<16>().0.iter().zip(block.hi.as_chunks::<16>().0);
    let ignored = block.ignore.as_chunks::<8>().0;
    let (mut hold, mut last, mut own) = (0, 0, 0);
    for (quarter, ((tags, (lo, hi)), ignore)) in
        block.tags.as_chunks::<16>().0.iter().zip(bounds).zip(ignored).enumerate()
    {
        // SAFETY: reads the 16 bytes of an array of 16 bytes.
        let tags = unsafe { _mm_loadu_si128(tags.as_ptr().cast()) };
        let values = _mm256_andnot_si256(_mm256_cvtepu16_epi32(load(ignore)), values(tags, lanes));
        let [lo, hi] = [load16(lo), load16(hi)];
        let above = _mm256_cmpeq_epi16(_mm256_max_epu16(values, lo), values);
        let below = _mm256_cmpeq_epi16(_mm256_min_epu16(values, hi), values);
        let both = _mm256_and_si256(above, below);
        let both = _mm_packs_epi16(_mm256_castsi256_si128(both), _mm256_extracti128_si256::<1>(both));
        let shift = 16 * quarter;
        hold |= top_bits(both) << shift;
        last |= top_bits(tags) << shift;
        // A tag's second bit becomes its top bit.
        own |= top_bits(_mm_slli_epi16::<1>(tags)) << shift;
    }
    Hits::of(hold, last, own)
}

/// What 16 slots look at.
#[target_feature(enable = "avx2,popcnt,bmi1,bmi2,lzcnt")]
fn values(tags: __m128i, lanes: &[Eight; 4]) -> __m256i {
    // Lane n is bytes 2n and 2n + 1.
    let lane = _mm256_and_si256(_mm256_cvtepu8_epi16(tags), _mm256_set1_epi16(i16::from(LANE)));
    let bytes = _mm256_or_si256(_mm256_slli_epi16::<1>(lane), _mm256_slli_epi16::<9>(lane));
    let bytes = _mm256_or_si256(bytes, _mm256_set1_epi16(0x0100));
    let mut values = _mm256_setzero_si256();
    for (eight, from) in lanes.iter().zip([0, 0x10, 0x20, 0x30]) {
        // A shuffle takes zero where the top bit is set: after this, wherever the byte is in another eight.
        let within = _mm256_xor_si256(bytes, _mm256_set1_epi8(from));
        let within = _mm256_adds_epu8(within, _mm256_set1_epi8(0x70));
        values = _mm256_or_si256(values, _mm256_shuffle_epi8(*eight, within));
    }
    values
}

#[target_feature(enable = "avx2,popcnt,bmi1,bmi2,lzcnt")]
fn top_bits(bytes: __m128i) -> u64 {
    u64::from(_mm_movemask_epi8(bytes).cast_unsigned())
}

#[target_feature(enable = "avx2,popcnt,bmi1,bmi2,lzcnt")]
fn load(words: &[u16; 8]) -> __m128i {
    // SAFETY: reads the 16 bytes of an array of 8 words.
    unsafe { _mm_loadu_si128(words.as_ptr().cast()) }
}

#[target_feature(enable = "avx2,popcnt,bmi1,bmi2,lzcnt")]
fn load16(words: &[u16; 16]) -> __m256i {
    // SAFETY: reads the 32 bytes of an array of 16 words.
    unsafe { _mm256_loadu_si256(words.as_ptr().cast()) }
}
