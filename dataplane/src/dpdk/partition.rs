//! Takes a burst apart by a bit for each packet, without a branch that depends on what is in it.

use dpdk_sys::rte_mbuf;

use super::mbuf::BURST;

/// The mbufs of a burst.
pub(super) type Mbufs = [*mut rte_mbuf; BURST];

/// Keeps those of the first `len` mbufs whose bit in `kept` is set at the front of `mbufs`, and puts the others to the front
/// of `rest`, both in order; returns how many are kept.
#[inline]
pub(super) fn partition(mbufs: &mut Mbufs, len: usize, kept: u64, rest: &mut Mbufs) -> usize {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the CPU has the instructions.
        return unsafe { by_compression(mbufs, len, kept, rest) };
    }
    one_by_one(mbufs, len, kept, rest)
}

fn one_by_one(mbufs: &mut Mbufs, len: usize, kept: u64, rest: &mut Mbufs) -> usize {
    let (mut keeping, mut resting) = (0, 0);
    for position in 0..len.min(BURST) {
        let keep = usize::from(kept >> position & 1 == 1);
        let Some(&mbuf) = mbufs.get(position) else { break };
        // Both are written and one counts: what is in between is overwritten or past the end.
        if let (Some(kept), Some(rested)) = (mbufs.get_mut(keeping), rest.get_mut(resting)) {
            (*kept, *rested) = (mbuf, mbuf);
        }
        keeping += keep;
        resting += 1 - keep;
    }
    keeping
}

/// # Safety
/// The CPU has AVX-512F.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn by_compression(mbufs: &mut Mbufs, len: usize, kept: u64, rest: &mut Mbufs) -> usize {
    use std::arch::x86_64::{_mm512_loadu_si512, _mm512_maskz_compress_epi64, _mm512_storeu_si512};

    const AT_ONCE: usize = 8;
    let (mut keeping, mut resting) = (0, 0);
    for first in (0..len.min(BURST)).step_by(AT_ONCE) {
        let present = u8::MAX >> AT_ONCE.saturating_sub(len - first);
        let [keep, ..] = (kept >> first).to_le_bytes();
        // SAFETY: first is a multiple of eight below BURST, which is one too, so eight pointers are there.
        let pointers = unsafe { _mm512_loadu_si512(mbufs.as_ptr().add(first).cast()) };
        // SAFETY: at most `first` pointers have been written to either, so there is room for eight more. Compressed in a
        // register, because compressing to memory is many times slower on AMD; what was before `first` has been read.
        unsafe {
            let kept = _mm512_maskz_compress_epi64(keep & present, pointers);
            _mm512_storeu_si512(mbufs.as_mut_ptr().add(keeping).cast(), kept);
            let rested = _mm512_maskz_compress_epi64(!keep & present, pointers);
            _mm512_storeu_si512(rest.as_mut_ptr().add(resting).cast(), rested);
        }
        let count = (keep & present).count_ones() as usize;
        keeping += count;
        resting += present.count_ones() as usize - count;
    }
    keeping
}

#[cfg(test)]
mod tests {
    use std::ptr::null_mut;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_way_keeps_what_is_asked_for_in_order(len in 0_usize..=BURST, kept: u64) {
            let mbuf = |position: usize| null_mut::<rte_mbuf>().wrapping_byte_add(64 * (position + 1));
            let expected: [Vec<_>; 2] =
                [1, 0].map(|bit| (0..len).filter(|position| kept >> position & 1 == bit).map(mbuf).collect());
            for way in [one_by_one, partition] {
                let mut mbufs: Mbufs = std::array::from_fn(mbuf);
                let mut rest = [null_mut(); BURST];
                let count = way(&mut mbufs, len, kept, &mut rest);
                prop_assert_eq!(&mbufs[..count], &expected[0]);
                prop_assert_eq!(&rest[..len - count], &expected[1]);
            }
        }
    }
}
