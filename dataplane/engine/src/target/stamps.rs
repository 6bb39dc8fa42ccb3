//! A fixed table from keys to points in time: what limiters per source and the memory of verified sources are made of.
//!
//! A line is one cache line of eight entries, each 24 bits of the key and 40 bits of time. A time that has passed says
//! nothing, so an entry needs no ageing: an expired one is free to take. In a full line the entry that is closest to its
//! time is taken. Keys come from a hash with a secret, so nobody outside can fill a line of his choice. Of two keys in
//! one line, one pair in 2^24 cannot be told apart and shares an entry.

#![cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "a call that needs a CPU feature"))]

use crate::isa::prefetch_at;
use crate::pipeline::set_bits;

const WAYS: usize = 8;
/// Bits of an entry that hold the time.
const TIME: u32 = 40;
const TIME_MASK: u64 = (1 << TIME) - 1;

/// The table. Times are in a unit of the owner's choice and wrap after 2^40 of it: so much later an entry that nobody has
/// touched looks as it did.
#[derive(Debug)]
pub(crate) struct Stamps {
    lines: Box<[Line]>,
    /// No time is further ahead than this: what looks further ahead has passed.
    horizon: u64,
}

#[derive(Clone, Copy, Debug, Default)]
#[repr(align(64))]
struct Line([u64; WAYS]);

/// An entry of the table.
pub(crate) struct Stamp<'a> {
    entry: &'a mut u64,
    ahead: u64,
}

impl Stamps {
    /// A table for `entries` keys (rounded up to a power of two), 8 bytes each, whose times are at most `horizon` ahead.
    pub(crate) fn new(entries: usize, horizon: u64) -> Self {
        let lines = vec![Line::default(); (entries / WAYS).max(1).next_power_of_two()].into_boxed_slice();
        Self { lines, horizon }
    }

    /// Asks for the cache line of a key.
    #[inline]
    pub(crate) fn prefetch(&self, key: u64) {
        prefetch_at(&self.lines, self.at(key));
    }

    /// How far ahead of `now` the time of a key is; zero when it is unknown or has passed.
    #[inline]
    pub(crate) fn ahead(&self, key: u64, now: u64) -> u64 {
        let Some(line) = self.lines.get(self.at(key)) else { return 0 };
        // Nearly always there is none.
        let entries = set_bits(line.of(key).into()).filter_map(|at| line.0.get(at));
        entries.map(|entry| ahead(*entry, now, self.horizon)).max().unwrap_or(0)
    }

    /// The entry of a key; where there is none, one that becomes it when its time is set.
    #[inline]
    pub(crate) fn entry(&mut self, key: u64, now: u64) -> Option<Stamp<'_>> {
        let (at, horizon) = (self.at(key), self.horizon);
        let line = self.lines.get_mut(at)?;
        let own = line.of(key);
        if own != 0 {
            let entry = line.0.get_mut(own.trailing_zeros() as usize)?;
            let ahead = ahead(*entry, now, horizon);
            return Some(Stamp { entry, ahead });
        }
        let entry = line.0.iter_mut().min_by_key(|entry| ahead(**entry, now, horizon))?;
        Some(Stamp { entry, ahead: 0 })
    }

    #[inline(always)]
    fn at(&self, key: u64) -> usize {
        usize::try_from(key & TIME_MASK).unwrap_or(0) & (self.lines.len() - 1)
    }
}

impl Line {
    /// A bit for each entry of a key.
    #[inline(always)]
    fn of(&self, key: u64) -> u32 {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: every x86-64 CPU has SSE2.
        return unsafe { equal(&self.0, key) };
        #[cfg(not(target_arch = "x86_64"))]
        self.0.iter().enumerate().fold(0, |bits, (at, entry)| bits | u32::from((entry ^ key) >> TIME == 0) << at)
    }
}

/// A bit for each entry of a key: of four entries at a time the upper halves, whose upper 24 bits are of the key.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse2")]
#[inline]
fn equal(entries: &[u64; WAYS], key: u64) -> u32 {
    use std::arch::x86_64::*;
    const UPPER_HALVES: i32 = 0b11_01_11_01;
    let [a, b, c, d, e, f, g, h] = entries.map(u64::cast_signed);
    let keys = |[a, b, c, d]: [i64; 4]| {
        let pairs = [_mm_set_epi64x(b, a), _mm_set_epi64x(d, c)];
        let [low, high] = pairs.map(|pair| _mm_castsi128_ps(pair));
        _mm_srli_epi32::<8>(_mm_castps_si128(_mm_shuffle_ps::<UPPER_HALVES>(low, high)))
    };
    let wanted = _mm_set1_epi32(i32::try_from(key >> TIME).unwrap_or(0));
    let low = _mm_cmpeq_epi32(keys([a, b, c, d]), wanted);
    let high = _mm_cmpeq_epi32(keys([e, f, g, h]), wanted);
    _mm_movemask_epi8(_mm_packs_epi16(_mm_packs_epi32(low, high), _mm_setzero_si128())).cast_unsigned()
}

impl Stamp<'_> {
    /// How far ahead its time is; zero when it is new or has passed.
    #[inline(always)]
    pub(crate) fn ahead(&self) -> u64 {
        self.ahead
    }

    /// Makes it the entry of `key`, with this time.
    #[inline(always)]
    pub(crate) fn set(self, key: u64, time: u64) {
        *self.entry = key & !TIME_MASK | time & TIME_MASK;
    }
}

#[inline(always)]
fn ahead(entry: u64, now: u64, horizon: u64) -> u64 {
    let ahead = entry.wrapping_sub(now) & TIME_MASK;
    if ahead <= horizon { ahead } else { 0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_entry_is_of_a_key_if_its_upper_bits_are(
            key: u64,
            entries in prop::array::uniform8((any::<u64>(), prop::option::of(0..24_u32))),
        ) {
            // Those of the key, with one bit changed or without.
            let near = |(time, flipped): (u64, Option<u32>)| {
                (key ^ flipped.map_or(0, |bit| 1 << (TIME + bit))) & !TIME_MASK | time & TIME_MASK
            };
            let expected = (0..).zip(&entries).map(|(at, (_, flipped))| u32::from(flipped.is_none()) << at).sum::<u32>();
            prop_assert_eq!(Line(entries.map(near)).of(key), expected);
        }
    }
}
