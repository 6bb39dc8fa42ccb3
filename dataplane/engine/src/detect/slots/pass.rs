//! The pass over the slots with traffic: most of what a tick does when many hosts are active, and nearly all of them quiet.
//!
//! Written once and compiled for each instruction set; only the load of a line of counters differs.
#![expect(unsafe_code, reason = "vector loads of counters, and calls that need a CPU feature")]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m256i, __m512i};

#[cfg(target_arch = "x86_64")]
use crate::isa::{Avx2, Avx512};
use crate::isa::{Isa, Level, prefetch};
use crate::target::counters::{Counts, Line, View};

use super::{Brief, Limits, Slots, at};

/// How many slots ahead of its turn one is fetched from memory.
const AHEAD: usize = 24;

/// The slots of a pass, and what it needs to know of them.
#[derive(Clone, Copy)]
pub(in crate::detect) struct Pass<'a> {
    /// Whose counters they are.
    pub(in crate::detect) worker: usize,
    pub(in crate::detect) counters: View<'a>,
    /// Slots with traffic.
    pub(in crate::detect) dirty: &'a [u32],
    /// Of each zone.
    pub(in crate::detect) limits: &'a [Limits],
    /// Slots whose fates have changed are left, too.
    pub(in crate::detect) with_fates: bool,
    /// What is too much waits, too.
    pub(in crate::detect) all_wait: bool,
}

/// Slots for which the pass is not enough.
#[derive(Debug, Default)]
pub(in crate::detect) struct Left {
    /// Their host is not quiet, or has not been met, or its fates have changed.
    pub(in crate::detect) special: Vec<u32>,
    /// Their host may have received too much to wait: how much, and the slot.
    pub(in crate::detect) over: Vec<(u32, u32)>,
}

impl Slots {
    /// Takes what a worker's counters of arrivals say of quiet hosts and adds what is new to their sums.
    pub(in crate::detect) fn pass(&mut self, isa: Isa, pass: Pass<'_>, left: &mut Left) {
        match isa.level() {
            Level::Scalar => each(self, pass, left, Line::counts),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(token) => avx2(token, self, pass, left),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512(token) => avx512(token, self, pass, left),
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn avx2(_: Avx2, slots: &mut Slots, pass: Pass<'_>, left: &mut Left) {
    #[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
    fn with_features(slots: &mut Slots, pass: Pass<'_>, left: &mut Left) {
        each(slots, pass, left, |line| {
            let (low, high): (__m256i, __m256i);
            // SAFETY: the line is 64 bytes, aligned to 64. Others write it meanwhile, each counter whole, and an aligned
            // vector load reads each counter whole; which of its values is as open as with a relaxed load of each.
            unsafe {
                std::arch::asm!(
                    "vmovdqa {low}, ymmword ptr [{line}]", "vmovdqa {high}, ymmword ptr [{line} + 32]",
                    line = in(reg) line.0.as_ptr(), low = out(ymm_reg) low, high = out(ymm_reg) high,
                    options(nostack, preserves_flags, readonly),
                );
            }
            // SAFETY: both are 64 bytes of which every value is a value.
            Counts(unsafe { std::mem::transmute::<[__m256i; 2], [u32; 16]>([low, high]) })
        });
    }
    // SAFETY: the token is only made after the CPU said that it has these features.
    unsafe { with_features(slots, pass, left) }
}

#[cfg(target_arch = "x86_64")]
fn avx512(_: Avx512, slots: &mut Slots, pass: Pass<'_>, left: &mut Left) {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,popcnt,bmi1,bmi2,lzcnt")]
    fn with_features(slots: &mut Slots, pass: Pass<'_>, left: &mut Left) {
        each(slots, pass, left, |line| {
            let counters: __m512i;
            // SAFETY: the line is 64 bytes, aligned to 64. Others write it meanwhile, each counter whole, and an aligned
            // vector load reads each counter whole; which of its values is as open as with a relaxed load of each.
            unsafe {
                std::arch::asm!(
                    "vmovdqa64 {counters}, zmmword ptr [{line}]",
                    line = in(reg) line.0.as_ptr(), counters = out(zmm_reg) counters,
                    options(nostack, preserves_flags, readonly),
                );
            }
            // SAFETY: both are 64 bytes of which every value is a value.
            Counts(unsafe { std::mem::transmute::<__m512i, [u32; 16]>(counters) })
        });
    }
    // SAFETY: the token is only made after the CPU said that it has these features.
    unsafe { with_features(slots, pass, left) }
}

#[inline(always)]
fn each(slots: &mut Slots, pass: Pass<'_>, left: &mut Left, load: impl Fn(&Line) -> Counts) {
    let Slots { brief, seen, sums, summed, since, waiting, tick, .. } = slots;
    let Pass { worker, counters, dirty, limits, with_fates, all_wait } = pass;
    let Some(seen) = seen.get_mut(worker) else { return };
    for (index, slot) in dirty.iter().enumerate() {
        if let Some(ahead) = dirty.get(index + AHEAD) {
            counters.prefetch_to_read(*ahead);
            if let (Some(seen), Some(brief)) = (seen.get(at(*ahead)), brief.get(at(*ahead))) {
                prefetch(&seen.arrivals);
                prefetch(brief);
            }
        }
        let (Some(Brief { sum: of, part }), Some(seen), Some(line)) =
            (brief.get_mut(at(*slot)), seen.get_mut(at(*slot)), counters.arrivals_line(*slot))
        else {
            left.special.push(*slot);
            continue;
        };
        // No sum has the number of a slot that is hot or has not been met.
        let number = of.wrapping_sub(1);
        let Some((sum, limits)) =
            sums.get_mut(at(number)).and_then(|sum| limits.get(usize::from(sum.zone)).map(|limits| (sum, limits)))
        else {
            left.special.push(*slot);
            continue;
        };
        let mut arrivals = load(line);
        let any_dropped = arrivals.take_any_dropped();
        let new = arrivals.since(&seen.arrivals);
        let all = part.saturating_add(limits.part(&new));
        if all > super::WHOLE && !all_wait {
            left.over.push((all, *slot));
            continue;
        }
        if with_fates && any_dropped && !all_wait {
            left.special.push(*slot);
            continue;
        }
        if !new.any_arrived() {
            continue;
        }
        seen.arrivals = arrivals;
        sum.counts.arrivals.add(&new);
        if !std::mem::replace(&mut sum.is_new, true) {
            summed.push(number);
        }
        if *part == 0 {
            if let Some(since) = since.get_mut(at(*slot)) {
                *since = *tick;
            }
            waiting.push_back((*slot, *tick));
        }
        *part = all.max(1);
    }
}
