//! A node of the search trees, and the way down one for a burst of keys.
//!
//! All keys take a step before any takes the next, so that their loads overlap. A step is one load and one compare with the whole
//! cache line for AVX-512, two of each for AVX2, and three dependent ones without either.
#![cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "vector loads, and calls that need a CPU feature"))]

use crate::isa::{Isa, Level, prefetch_at};

/// Boundaries of a node.
pub(super) const KEYS: usize = 7;
/// Children of a node.
pub(super) const CHILDREN: usize = KEYS + 1;
/// A bit for each boundary of a node, in order; the word is behind them.
#[cfg(target_arch = "x86_64")]
const ALL: u8 = (1 << KEYS) - 1;
/// Added to a key, it makes a signed number with the same order: AVX2 compares no others.
const SIGN: u64 = 1 << 63;

/// A cache line of a tree.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(super) struct Node {
    /// The boundaries in order, as signed numbers.
    keys: [i64; KEYS],
    /// Of an inner node: the index of the first child. Of a leaf: eight numbers, the first in the lowest byte.
    pub(super) word: u64,
}

/// Where a tree begins, and how many steps are between there and the leaves.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Root {
    pub(super) node: u32,
    pub(super) height: u32,
}

impl Node {
    /// A node with these boundaries; behind the last one the rest is `u64::MAX`.
    pub(super) fn new(keys: [u64; KEYS], word: u64) -> Self {
        Self { keys: keys.map(signed), word }
    }
}

/// For each key the leaf that it leads to, and how many of its boundaries are at or below the key.
#[inline(always)]
pub(super) fn descend(isa: Isa, nodes: &[Node], root: Root, keys: &[u64], found: &mut [(u32, u32)]) {
    match isa.level() {
        Level::Scalar => walk(nodes, root, keys, found, below),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the token is only made after the CPU said that it has these features.
        Level::Avx2(_) => unsafe { avx2::descend(nodes, root, keys, found) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Level::Avx512(_) => unsafe { avx512::descend(nodes, root, keys, found) },
    }
}

#[inline(always)]
fn walk(nodes: &[Node], root: Root, keys: &[u64], found: &mut [(u32, u32)], below: impl Fn(&Node, i64) -> u32) {
    let count = keys.len().min(found.len());
    let (Some(keys), Some(found)) = (keys.get(..count), found.get_mut(..count)) else { return };
    found.fill((root.node, 0));
    for _ in 0..root.height {
        for (key, (at, _)) in keys.iter().zip(&mut *found) {
            let Some(node) = nodes.get(index(*at)) else { continue };
            *at = first_child(node) + below(node, signed(*key));
            prefetch_at(nodes, index(*at));
        }
    }
    for (key, (leaf, piece)) in keys.iter().zip(found) {
        let Some(node) = nodes.get(index(*leaf)) else { continue };
        *piece = below(node, signed(*key));
    }
}

/// How many boundaries are at or below a key. They are in order, so three compares find out.
#[inline(always)]
fn below(node: &Node, key: i64) -> u32 {
    let is_below = |at: u32| u32::from(node.keys.get(index(at)).is_some_and(|boundary| *boundary <= key));
    let half = 4 * is_below(3);
    let quarter = half + 2 * is_below(half + 1);
    quarter + is_below(quarter)
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "a tree has less than 2^32 nodes")]
const fn first_child(node: &Node) -> u32 {
    node.word as u32
}

#[inline(always)]
const fn signed(key: u64) -> i64 {
    (key ^ SIGN).cast_signed()
}

#[inline(always)]
pub(super) fn index(value: u32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    use super::{ALL, Node, Root, walk};

    #[target_feature(enable = "avx512f,avx512dq,popcnt,bmi1,bmi2")]
    pub(super) fn descend(nodes: &[Node], root: Root, keys: &[u64], found: &mut [(u32, u32)]) {
        walk(nodes, root, keys, found, |node, key| below(node, key));
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,popcnt,bmi1,bmi2")]
    fn below(node: &Node, key: i64) -> u32 {
        // SAFETY: reads the 64 bytes of a node.
        let boundaries = unsafe { _mm512_load_si512(std::ptr::from_ref(node).cast()) };
        _mm512_mask_cmple_epi64_mask(ALL, boundaries, _mm512_set1_epi64(key)).count_ones()
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    use super::{ALL, Node, Root, walk};

    #[target_feature(enable = "avx2,popcnt,bmi1,bmi2")]
    pub(super) fn descend(nodes: &[Node], root: Root, keys: &[u64], found: &mut [(u32, u32)]) {
        walk(nodes, root, keys, found, |node, key| below(node, key));
    }

    #[inline]
    #[target_feature(enable = "avx2,popcnt,bmi1,bmi2")]
    fn below(node: &Node, key: i64) -> u32 {
        let node: *const __m256i = std::ptr::from_ref(node).cast();
        // SAFETY: both read 32 of the 64 bytes of a node.
        let halves = unsafe { [_mm256_load_si256(node), _mm256_load_si256(node.add(1))] };
        let key = _mm256_set1_epi64x(key);
        let [low, high] =
            halves.map(|half| _mm256_movemask_pd(_mm256_castsi256_pd(_mm256_cmpgt_epi64(half, key))).cast_unsigned());
        ALL.count_ones() - ((low | high << 4) & u32::from(ALL)).count_ones()
    }
}
