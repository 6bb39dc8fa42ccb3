//! The compare for AVX2: a block in two halves of two quarters, 16 slots each.
#![expect(unsafe_code, reason = "vector loads, and calls that need a CPU feature")]

use std::arch::x86_64::*;

use super::{Block, Hits, LANE};
use crate::isa::Avx2;
use crate::packet::Lanes;

/// See [`super::compare_burst`].
#[inline]
pub(super) fn compare_burst<const N: usize>(
    _: Avx2,
    listed: u64,
    blocks: &[&Block; N],
    lanes: &[Lanes; N],
    classes: &[u16; N],
    hits: &mut [Hits; N],
    note: impl FnMut(usize, &Hits),
) -> u64 {
    // SAFETY: the token is only made after the CPU said that it has these features.
    unsafe { of_burst(listed, blocks, lanes, classes, hits, note) }
}

/// For each `N` there is a copy of all of it, which has one caller and so is compiled into one loop.
#[target_feature(enable = "avx2,popcnt,bmi1,bmi2,lzcnt")]
fn of_burst<const N: usize>(
    listed: u64,
    blocks: &[&Block; N],
    lanes: &[Lanes; N],
    classes: &[u16; N],
    hits: &mut [Hits; N],
    note: impl FnMut(usize, &Hits),
) -> u64 {
    super::each(listed, blocks, lanes, classes, hits, |block, lanes, class| of_packet::<N>(block, lanes, class), note)
}

#[inline]
#[target_feature(enable = "avx2,popcnt,bmi1,bmi2,lzcnt")]
fn of_packet<const N: usize>(block: &Block, lanes: &Lanes, class: u16) -> Hits {
    let (eights, []) = lanes.0.as_chunks::<8>() else { return Hits::NONE };
    let [a, b, c, d] = eights else { return Hits::NONE };
    // In the register: storing the class to the lanes just before this load would stall on store forwarding.
    let d = _mm_insert_epi16::<6>(load(d), i32::from(class));
    compare::<N>(block, [load(a), load(b), load(c), d].map(|eight| _mm256_broadcastsi128_si256(eight)))
}

/// Eight lanes, in both halves of a register: what a byte shuffle can choose from.
type Eight = __m256i;

#[target_feature(enable = "avx2,popcnt,bmi1,bmi2,lzcnt")]
fn compare<const N: usize>(block: &Block, lanes: [Eight; 4]) -> Hits {
    let bounds = block.lo.as_chunks::<32>().0.iter().zip(block.hi.as_chunks::<32>().0);
    let ignored = block.ignore.as_chunks::<16>().0;
    let (mut hold, mut last, mut own) = (0, 0, 0);
    for (half, ((tags, (lo, hi)), ignore)) in block.tags.as_chunks::<32>().0.iter().zip(bounds).zip(ignored).enumerate()
    {
        let ([tags0, tags1], _) = tags.as_chunks() else { break };
        let (([lo0, lo1], _), ([hi0, hi1], _)) = (lo.as_chunks(), hi.as_chunks()) else { break };
        let ([ignore0, ignore1], _) = ignore.as_chunks() else { break };
        // SAFETY: reads the 32 bytes of an array of 32 bytes.
        let tags = unsafe { _mm256_loadu_si256(tags.as_ptr().cast()) };
        if _mm256_testz_si256(tags, tags) != 0 {
            break;
        }
        let low = holds(values(tags0, ignore0, &lanes), lo0, hi0);
        let high = holds(values(tags1, ignore1, &lanes), lo1, hi1);
        // Packing takes from both by halves of registers.
        let both = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi16(low, high));
        let shift = 32 * half;
        hold |= top_bits(both) << shift;
        last |= top_bits(tags) << shift;
        // A tag's second bit becomes its top bit.
        own |= top_bits(_mm256_slli_epi16::<1>(tags)) << shift;
    }
    Hits::of(hold, last, own)
}

/// What 16 slots look at.
#[target_feature(enable = "avx2,popcnt,bmi1,bmi2,lzcnt")]
fn values(tags: &[u8; 16], ignore: &[u16; 8], lanes: &[Eight; 4]) -> __m256i {
    // SAFETY: reads the 16 bytes of an array of 16 bytes.
    let tags = _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(tags.as_ptr().cast()) });
    let twice = _mm256_setr_epi8(
        0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13, 14, 14, 15, 15,
    );
    let lane = _mm256_and_si256(_mm256_shuffle_epi8(tags, twice), _mm256_set1_epi8(LANE.cast_signed()));
    // Lane n is bytes 2n and 2n + 1: of its index the low three bits say where it is in an eight, the upper two in which.
    let bytes = _mm256_or_si256(_mm256_add_epi8(lane, lane), _mm256_set1_epi16(0x0100));
    let [odd, upper] = [_mm256_slli_epi16::<4>(lane), _mm256_slli_epi16::<3>(lane)];
    let [a, b, c, d] = lanes.map(|eight| _mm256_shuffle_epi8(eight, bytes));
    let [first, second] = [_mm256_blendv_epi8(a, b, odd), _mm256_blendv_epi8(c, d, odd)];
    let values = _mm256_blendv_epi8(first, second, upper);
    _mm256_andnot_si256(_mm256_cvtepu16_epi32(load(ignore)), values)
}

/// All ones in the slots whose value is within its bounds.
#[target_feature(enable = "avx2,popcnt,bmi1,bmi2,lzcnt")]
fn holds(values: __m256i, lo: &[u16; 16], hi: &[u16; 16]) -> __m256i {
    let above = _mm256_cmpeq_epi16(_mm256_max_epu16(values, load16(lo)), values);
    let below = _mm256_cmpeq_epi16(_mm256_min_epu16(values, load16(hi)), values);
    _mm256_and_si256(above, below)
}

#[target_feature(enable = "avx2,popcnt,bmi1,bmi2,lzcnt")]
fn top_bits(bytes: __m256i) -> u64 {
    u64::from(_mm256_movemask_epi8(bytes).cast_unsigned())
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
