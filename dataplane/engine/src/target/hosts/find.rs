//! Where in its bucket a host lives: a compare with all of them at once, since nobody can guess which it is.
#![cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "vector loads, and calls that need a CPU feature"))]

use super::{Bucket, CHANCES, WAYS, home, name};
use crate::isa::{Isa, Level};
use crate::pipeline::{BURST, set_bits};

/// For each host of `which` its place in its bucket, and [`WAYS`] where it has none.
pub(super) fn find(isa: Isa, buckets: &[Bucket], which: u64, keys: &[u64; BURST], ways: &mut [u8; BURST]) {
    match isa.level() {
        Level::Scalar => each(buckets, which, keys, ways, way),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the token is only made after the CPU said that it has these features.
        Level::Avx2(_) => unsafe { avx2::find(buckets, which, keys, ways) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Level::Avx512(_) => unsafe { avx512::find(buckets, which, keys, ways) },
    }
}

#[inline(always)]
fn each(
    buckets: &[Bucket],
    which: u64,
    keys: &[u64; BURST],
    ways: &mut [u8; BURST],
    way: impl Fn(&Bucket, u64) -> u32,
) {
    for at in set_bits(which) {
        let (Some(key), Some(found)) = (keys.get(at), ways.get_mut(at)) else { continue };
        if let Some(bucket) = buckets.get(home(*key, buckets)) {
            *found = u8::try_from(way(bucket, name(*key))).unwrap_or(u8::MAX);
        }
    }
}

fn way(Bucket(tenants): &Bucket, name: u64) -> u32 {
    let way = tenants.iter().position(|tenant| tenant & !CHANCES == name);
    u32::try_from(way.unwrap_or(WAYS)).unwrap_or(0)
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    use super::{BURST, Bucket, CHANCES, each};

    #[target_feature(enable = "avx512f,avx512dq,popcnt,bmi1,bmi2")]
    pub(super) fn find(buckets: &[Bucket], which: u64, keys: &[u64; BURST], ways: &mut [u8; BURST]) {
        each(buckets, which, keys, ways, |bucket, name| way(bucket, name));
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,popcnt,bmi1,bmi2")]
    fn way(bucket: &Bucket, name: u64) -> u32 {
        // SAFETY: reads the 64 bytes of a bucket.
        let tenants = unsafe { _mm512_load_si512(std::ptr::from_ref(bucket).cast()) };
        let names = _mm512_andnot_si512(_mm512_set1_epi64(CHANCES.cast_signed()), tenants);
        _mm512_cmpeq_epi64_mask(names, _mm512_set1_epi64(name.cast_signed())).trailing_zeros()
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    use super::{BURST, Bucket, CHANCES, WAYS, each};

    #[target_feature(enable = "avx2,popcnt,bmi1,bmi2")]
    pub(super) fn find(buckets: &[Bucket], which: u64, keys: &[u64; BURST], ways: &mut [u8; BURST]) {
        each(buckets, which, keys, ways, |bucket, name| way(bucket, name));
    }

    #[inline]
    #[target_feature(enable = "avx2,popcnt,bmi1,bmi2")]
    fn way(bucket: &Bucket, name: u64) -> u32 {
        let bucket: *const __m256i = std::ptr::from_ref(bucket).cast();
        // SAFETY: both read 32 of the 64 bytes of a bucket.
        let halves = unsafe { [_mm256_load_si256(bucket), _mm256_load_si256(bucket.add(1))] };
        let (chances, name) = (_mm256_set1_epi64x(CHANCES.cast_signed()), _mm256_set1_epi64x(name.cast_signed()));
        let [low, high] = halves.map(|half| {
            let same = _mm256_cmpeq_epi64(_mm256_andnot_si256(chances, half), name);
            _mm256_movemask_pd(_mm256_castsi256_pd(same)).cast_unsigned()
        });
        (low | high << 4 | 1 << WAYS).trailing_zeros()
    }
}
