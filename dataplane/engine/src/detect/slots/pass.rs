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
    let Slots { brief, arrivals: seen, sums, summed, since, waiting, tick, .. } = slots;
    let Pass { worker, counters, dirty, limits, with_fates, all_wait } = pass;
    let Some(seen) = seen.get_mut(worker) else { return };
    for (index, slot) in dirty.iter().enumerate() {
        if let Some(ahead) = dirty.get(index + AHEAD) {
            counters.prefetch_to_read(*ahead);
            if let (Some(seen), Some(brief)) = (seen.get(at(*ahead)), brief.get(at(*ahead))) {
                prefetch(seen);
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
        let new = arrivals.since(seen);
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
        *seen = arrivals;
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

#[cfg(test)]
mod tests {
    use levee_api::role::Role;
    use proptest::prelude::*;

    use super::*;
    use crate::target::counters::Counters;

    const SLOTS: u32 = 64;

    /// Packets to slots: which, of which role, how many, and whether they are dropped.
    fn packets() -> impl Strategy<Value = Vec<(u32, usize, u32, bool)>> {
        proptest::collection::vec((0..SLOTS, 0..Role::COUNT, 1_u32..30, any::<bool>()), 0..60)
    }

    /// A limit for each role but those without one, all different.
    fn limits_from(least: u32) -> [Option<u32>; Role::COUNT] {
        let mut limits = least..;
        Role::ALL.map(|role| limits.next().filter(|_| role != Role::Established))
    }

    proptest! {
        /// With every instruction set the same slots are left and the same counts waited for and summed up.
        #[test]
        fn every_instruction_set_sees_the_same(
            ticks in proptest::collection::vec((packets(), any::<bool>(), any::<bool>()), 1..6),
        ) {
            let limits = [Limits::new(limits_from(0))];
            let run = |isa: Isa| {
                let counters = Counters::new(SLOTS as usize);
                let mut slots = Slots::new(SLOTS as usize, 1, |_, _| Default::default());
                slots.set_sum(0..SLOTS / 2, 0, None);
                slots.set_sum(SLOTS / 2..SLOTS - 4, 0, Some(7));
                let mut told = Vec::new();
                for (tick, (packets, with_fates, all_wait)) in (1_u32..).zip(&ticks) {
                    slots.begin(tick.into(), Default::default());
                    let mut dirty = Vec::new();
                    for (slot, role, count, dropped) in packets {
                        for _ in 0..*count {
                            let first = counters.view().arrival(*slot, Role::ALL[*role], 60, tick);
                            dirty.extend(first.then_some(*slot));
                        }
                        if *dropped {
                            counters.view().dropped(*slot, Role::ALL[*role]);
                        }
                    }
                    let (counters, with_fates, all_wait) = (counters.view(), *with_fates, *all_wait);
                    let pass = Pass { worker: 0, counters, dirty: &dirty, limits: &limits, with_fates, all_wait };
                    let mut left = Left::default();
                    slots.pass(isa, pass, &mut left);
                    let sums: Vec<_> = slots.take_sums().map(|sum| (sum.prefix, sum.counts)).collect();
                    told.push(format!("{left:?} {sums:?}"));
                }
                let waited: Vec<_> = (0..SLOTS).map(|slot| slots.end_wait(slot)).collect();
                (told, waited)
            };
            let expected = run(Isa::SCALAR);
            for isa in Isa::available() {
                prop_assert_eq!(&run(isa), &expected, "{}", isa);
            }
        }

        /// What waits is never more than the limits say, and nothing is lost: all arrivals are summed up, wait, or are left.
        #[test]
        fn what_waits_is_no_alarm_and_nothing_is_lost(ticks in proptest::collection::vec(packets(), 1..20)) {
            let most = limits_from(20);
            let limits = [Limits::new(most)];
            let counters = Counters::new(SLOTS as usize);
            let mut slots = Slots::new(SLOTS as usize, 1, |_, _| Default::default());
            slots.set_sum(0..SLOTS, 0, None);
            let (mut sent, mut summed) = (0, 0);
            for (tick, packets) in (1_u32..).zip(&ticks) {
                slots.begin(tick.into(), Default::default());
                let mut dirty = Vec::new();
                for (slot, role, count, _) in packets {
                    sent += *count;
                    for _ in 0..*count {
                        let first = counters.view().arrival(*slot, Role::ALL[*role], 60, tick);
                        dirty.extend(first.then_some(*slot));
                    }
                }
                let (counters, mut left) = (counters.view(), Left::default());
                let pass =
                    Pass { worker: 0, counters, dirty: &dirty, limits: &limits, with_fates: false, all_wait: false };
                slots.pass(Isa::detect(), pass, &mut left);
                prop_assert!(left.special.is_empty());
                for (_, slot) in left.over {
                    let arrivals = counters.arrivals(slot);
                    if !slots.take_exactly(0, slot, &arrivals, &limits) {
                        let earlier = slots.end_wait(slot).counts;
                        prop_assert!(earlier.arrivals.is_within(&most.map(|most| most.unwrap_or(u32::MAX))));
                        let now = slots.take_arrivals(0, slot, &arrivals);
                        let mut all = earlier.arrivals;
                        all.add(&now);
                        prop_assert!(!all.is_within(&most.map(|most| most.unwrap_or(u32::MAX))), "it could have waited");
                        slots.end_wait(slot);
                        let now = crate::target::counters::Reading { arrivals: now, ..Default::default() };
                        summed += now.totals().packets;
                    }
                }
                summed += slots.take_sums().map(|sum| sum.counts.totals().packets).sum::<u32>();
            }
            prop_assert_eq!(summed, sent);
        }
    }
}
