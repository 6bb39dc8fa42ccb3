//! The compare for AVX-512: a block in one go.
#![expect(unsafe_code, reason = "vector loads, and calls that need a CPU feature")]

use std::arch::x86_64::*;

use levee_api::lane::Lane;

use super::{Block, Hits, LAST, OWN};
use crate::isa::Avx512;
use crate::packet::Lanes;

/// See [`super::compare_burst`].
#[inline]
pub(super) fn compare_burst<const N: usize>(
    _: Avx512,
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
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,popcnt,bmi1,bmi2,lzcnt")]
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
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,popcnt,bmi1,bmi2,lzcnt")]
fn of_packet<const N: usize>(block: &Block, lanes: &Lanes, class: u16) -> Hits {
    // In the register: storing the class to the lanes just before this load costs 6 ns in store forwarding.
    compare::<N>(block, _mm512_mask_set1_epi16(load(&lanes.0), 1 << Lane::SourceClass.index(), class.cast_signed()))
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,popcnt,bmi1,bmi2,lzcnt")]
fn compare<const N: usize>(block: &Block, lanes: __m512i) -> Hits {
    // SAFETY: reads the 64 bytes of an array of 64 bytes.
    let tags = unsafe { _mm512_loadu_si512(block.tags.as_ptr().cast()) };
    let last = _mm512_test_epi8_mask(tags, _mm512_set1_epi8(LAST.cast_signed()));
    let own = _mm512_test_epi8_mask(tags, _mm512_set1_epi8(OWN.cast_signed()));
    let [tags0, tags1] = [_mm512_castsi512_si256(tags), _mm512_extracti64x4_epi64::<1>(tags)];
    let (([lo0, lo1], _), ([hi0, hi1], _)) = (block.lo.as_chunks(), block.hi.as_chunks()) else {
        return Hits::NONE;
    };
    let ([ignore0, ignore1], _) = block.ignore.as_chunks() else { return Hits::NONE };
    let low = holds(values(tags0, ignore0, lanes), lo0, hi0);
    let high = holds(values(tags1, ignore1, lanes), lo1, hi1);
    Hits::of(u64::from(high) << 32 | u64::from(low), last, own)
}

/// What 32 slots look at.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,popcnt,bmi1,bmi2,lzcnt")]
fn values(tags: __m256i, ignore: &[u16; 16], lanes: __m512i) -> __m512i {
    // SAFETY: reads the 32 bytes of an array of 16 words.
    let ignore = unsafe { _mm256_loadu_si256(ignore.as_ptr().cast()) };
    // The permutation looks at the low five bits of a tag: the lane.
    let values = _mm512_permutexvar_epi16(_mm512_cvtepu8_epi16(tags), lanes);
    _mm512_andnot_si512(_mm512_cvtepu16_epi32(ignore), values)
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,popcnt,bmi1,bmi2,lzcnt")]
fn holds(values: __m512i, lo: &[u16; 32], hi: &[u16; 32]) -> u32 {
    _mm512_mask_cmple_epu16_mask(_mm512_cmple_epu16_mask(load(lo), values), values, load(hi))
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,popcnt,bmi1,bmi2,lzcnt")]
fn load(words: &[u16; 32]) -> __m512i {
    // SAFETY: reads the 64 bytes of an array of 32 words.
    unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
}
