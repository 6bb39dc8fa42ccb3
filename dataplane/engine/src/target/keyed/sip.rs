//! SipHash-1-3 of a few words for many packets side by side, one per 64-bit lane of a vector.
//!
//! The words come column by column, as the vectors want them. The result is that of the `siphasher` crate over the same words.
#![expect(unsafe_code, reason = "vector loads and stores, and calls that need a CPU feature")]

use std::array;

use crate::isa::{Isa, Level};
use crate::pipeline::BURST;

/// A number for each packet of a burst.
pub(super) type Column = [u64; BURST];

/// Hashes the first `count` packets; what is behind them in `hashes` may change too.
pub(super) fn hash<const WORDS: usize>(
    isa: Isa,
    secret: (u64, u64),
    words: &[&Column; WORDS],
    count: usize,
    hashes: &mut Column,
) {
    match isa.level() {
        Level::Scalar => scalar(secret, words, count, hashes),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the token is only made after the CPU said that it has these features.
        Level::Avx2(_) => unsafe { avx2::hash(secret, words, count, hashes) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Level::Avx512(_) => unsafe { avx512::hash(secret, words, count, hashes) },
    }
}

/// The state before the first word.
const fn initial((k0, k1): (u64, u64)) -> [u64; 4] {
    [k0 ^ 0x736f_6d65_7073_6575, k1 ^ 0x646f_7261_6e64_6f6d, k0 ^ 0x6c79_6765_6e65_7261, k1 ^ 0x7465_6462_7974_6573]
}

/// The word after the last one: the length in bytes.
const fn closing(words: usize) -> u64 {
    (words as u64 * 8) << 56
}

/// The algorithm, for a number or a vector of them. `$rol` is called with a literal number of bits.
macro_rules! sip13 {
    ($state:expr, $words:expr, $finish:expr, $add:expr, $xor:expr, $rol:ident) => {{
        let [mut v0, mut v1, mut v2, mut v3] = $state;
        macro_rules! round {
            () => {
                v0 = $add(v0, v1);
                v2 = $add(v2, v3);
                v1 = $xor($rol!(v1, 13), v0);
                v3 = $xor($rol!(v3, 16), v2);
                v0 = $add($rol!(v0, 32), v3);
                v2 = $add(v2, v1);
                v1 = $xor($rol!(v1, 17), v2);
                v3 = $xor($rol!(v3, 21), v0);
                v2 = $rol!(v2, 32);
            };
        }
        for word in $words {
            v3 = $xor(v3, word);
            round!();
            v0 = $xor(v0, word);
        }
        v2 = $xor(v2, $finish);
        round!();
        round!();
        round!();
        $xor($xor(v0, v1), $xor(v2, v3))
    }};
}

fn scalar<const WORDS: usize>(secret: (u64, u64), words: &[&Column; WORDS], count: usize, hashes: &mut Column) {
    macro_rules! rol {
        ($value:expr, $bits:literal) => {
            $value.rotate_left($bits)
        };
    }
    for (at, hash) in hashes.iter_mut().enumerate().take(count) {
        let words = words.iter().map(|column| column.get(at).copied().unwrap_or(0)).chain([closing(WORDS)]);
        *hash = sip13!(initial(secret), words, 0xff, u64::wrapping_add, |a: u64, b: u64| a ^ b, rol);
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    use super::{Column, array, closing, initial};

    #[target_feature(enable = "avx512f")]
    pub(super) fn hash<const WORDS: usize>(
        secret: (u64, u64),
        words: &[&Column; WORDS],
        count: usize,
        hashes: &mut Column,
    ) {
        macro_rules! rol {
            ($value:expr, $bits:literal) => {
                _mm512_rol_epi64::<$bits>($value)
            };
        }
        let set = |value: u64| _mm512_set1_epi64(value.cast_signed());
        let state = initial(secret).map(set);
        for (eight, hashes) in hashes.as_chunks_mut::<8>().0.iter_mut().enumerate().take(count.div_ceil(8)) {
            let words: [__m512i; WORDS] = array::from_fn(|word| {
                let column = words.get(word).and_then(|column| column.as_chunks::<8>().0.get(eight));
                // SAFETY: reads the 64 bytes of an array of 8 numbers.
                column.map_or(set(0), |column| unsafe { _mm512_loadu_si512(column.as_ptr().cast()) })
            });
            let words = words.into_iter().chain([set(closing(WORDS))]);
            let add = |a, b| _mm512_add_epi64(a, b);
            let xor = |a, b| _mm512_xor_si512(a, b);
            let hash = sip13!(state, words, set(0xff), add, xor, rol);
            // SAFETY: writes the 64 bytes of an array of 8 numbers.
            unsafe { _mm512_storeu_si512(hashes.as_mut_ptr().cast(), hash) };
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    use super::{Column, array, closing, initial};

    #[target_feature(enable = "avx2")]
    pub(super) fn hash<const WORDS: usize>(
        secret: (u64, u64),
        words: &[&Column; WORDS],
        count: usize,
        hashes: &mut Column,
    ) {
        macro_rules! rol {
            ($value:expr, 32) => {
                _mm256_shuffle_epi32::<0b10_11_00_01>($value)
            };
            ($value:expr, $bits:literal) => {
                _mm256_or_si256(_mm256_slli_epi64::<$bits>($value), _mm256_srli_epi64::<{ 64 - $bits }>($value))
            };
        }
        let set = |value: u64| _mm256_set1_epi64x(value.cast_signed());
        let state = initial(secret).map(set);
        for (four, hashes) in hashes.as_chunks_mut::<4>().0.iter_mut().enumerate().take(count.div_ceil(4)) {
            let words: [__m256i; WORDS] = array::from_fn(|word| {
                let column = words.get(word).and_then(|column| column.as_chunks::<4>().0.get(four));
                // SAFETY: reads the 32 bytes of an array of 4 numbers.
                column.map_or(set(0), |column| unsafe { _mm256_loadu_si256(column.as_ptr().cast()) })
            });
            let words = words.into_iter().chain([set(closing(WORDS))]);
            let add = |a, b| _mm256_add_epi64(a, b);
            let xor = |a, b| _mm256_xor_si256(a, b);
            let hash = sip13!(state, words, set(0xff), add, xor, rol);
            // SAFETY: writes the 32 bytes of an array of 4 numbers.
            unsafe { _mm256_storeu_si256(hashes.as_mut_ptr().cast(), hash) };
        }
    }
}
