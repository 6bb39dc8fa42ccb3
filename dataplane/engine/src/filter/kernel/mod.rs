//! The compare: one packet against all constraints of a block at once.
//!
//! A block is 64 slots. A slot is a constraint, packed as (lane, lo, hi) and, for every second slot, the bits of the
//! lane to ignore: six cache lines. A box is a run of slots, as many as it has conditions, so that no lane costs
//! anything that nobody asks about; it lies inside when all slots of its run hold. Comparing all slots gives a 64-bit
//! word, and one addition finds the complete runs in it ([`Hits::of`]): the time depends neither on how many boxes
//! there are nor on which of them matches.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

use std::array;

use levee_api::filter::{Constraint, HeaderBox};
use levee_api::lane::Lane;

use crate::isa::{Isa, Level, prefetch};
use crate::packet::Lanes;
use crate::pipeline::set_bits;

/// Slots of a block.
pub(super) const SLOTS: usize = 64;

/// In a slot's tag: the lane that it looks at.
const LANE: u8 = 0x1f;
/// In a slot's tag: the box of this slot is what a rule matches, not what it excepts.
const OWN: u8 = 0x40;
/// In a slot's tag: the run of a box ends here.
const LAST: u8 = 0x80;

/// 64 constraints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Block {
    tags: [u8; SLOTS],
    lo: [u16; SLOTS],
    hi: [u16; SLOTS],
    /// Of slot `2 * i`: bits of the lane that do not count.
    ignore: [u16; SLOTS / 2],
}

impl Default for Block {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl Block {
    /// A block without boxes.
    pub(crate) const EMPTY: Self = Self { tags: [0; SLOTS], lo: [0; SLOTS], hi: [0; SLOTS], ignore: [0; SLOTS / 2] };

    /// Asks for its cache lines.
    #[inline(always)]
    pub(crate) fn prefetch(&self) {
        prefetch(&self.tags);
        let (lo, hi) = (self.lo.as_chunks::<32>().0, self.hi.as_chunks::<32>().0);
        lo.iter().chain(hi).for_each(prefetch);
        prefetch(&self.ignore);
    }

    /// Adds a box from slot `at` on and returns the slot after it; none when there is no room. The box must not be
    /// empty: the kernels do not compare `lo` with `hi`.
    pub(super) fn place(&mut self, at: usize, shape: &HeaderBox, own: bool) -> Option<usize> {
        let (mut masks, mut ranges): (Vec<_>, Vec<_>) =
            shape.constraints().partition(|constraint| matches!(constraint, Constraint::Mask { .. }));
        let mut next = at;
        while next == at || !masks.is_empty() || !ranges.is_empty() {
            // Only even slots can ignore bits.
            let constraint = if next.is_multiple_of(2) { masks.pop().or_else(|| ranges.pop()) } else { ranges.pop() };
            let (lane, lo, hi, ignore) = match constraint {
                Some(Constraint::Range { lane, lo, hi }) => (lane, lo, hi, 0),
                Some(Constraint::Mask { lane, masked }) => (lane, masked.value, masked.value, !masked.mask),
                None => (Lane::Src0, 0, u16::MAX, 0),
            };
            *self.tags.get_mut(next)? = lane as u8 | if own { OWN } else { 0 };
            *self.lo.get_mut(next)? = lo;
            *self.hi.get_mut(next)? = hi;
            if next.is_multiple_of(2) {
                *self.ignore.get_mut(next / 2)? = ignore;
            }
            next += 1;
        }
        *self.tags.get_mut(next - 1)? |= LAST;
        Some(next)
    }
}

/// Which boxes of a block a packet lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hits {
    /// The last slots of the boxes that contain the packet.
    pub(super) boxes: u64,
    /// The last slots of all boxes that are a rule's own.
    pub(super) own: u64,
    /// How many rules end before the first that matches, if one does: counted where that takes one instruction.
    pub(super) first: u32,
}

impl Hits {
    /// No boxes at all.
    pub const NONE: Self = Self { boxes: 0, own: 0, first: 0 };

    /// True when a rule's own box contains the packet.
    #[inline(always)]
    pub(crate) const fn any(&self) -> bool {
        self.boxes & self.own != 0
    }

    /// From the slots that hold, those that end a run, and those of rules' own boxes.
    #[inline(always)]
    const fn of(hold: u64, last: u64, own: u64) -> Self {
        // Adding one at the start of a run carries into its last slot when all slots before that hold; there it stops,
        // because the last slots are taken out of the sum.
        let starts = last << 1 | 1;
        let carried = (hold & !last).wrapping_add(starts);
        let (boxes, own) = (carried & hold & last, own & last);
        Self { boxes, own, first: before(own, boxes & own) }
    }
}

/// Which boxes of a block a packet lies in. `class` takes the place of the lane of the source class.
pub(super) fn hits(isa: Isa, block: &Block, lanes: &Lanes, class: u16) -> Hits {
    let mut hits = [Hits::NONE];
    compare_burst(isa, 1, &[block], array::from_ref(lanes), &[class], &mut hits, |_, _| ());
    let [hits] = hits;
    hits
}

/// Compares those of `N` packets whose bit is set in `listed`, each with its block; a bit for each that a rule's own box
/// contains. `note` is told what each block said, to ask meanwhile for what is read next.
#[inline]
pub(crate) fn compare_burst<const N: usize>(
    isa: Isa,
    listed: u64,
    blocks: &[&Block; N],
    lanes: &[Lanes; N],
    classes: &[u16; N],
    hits: &mut [Hits; N],
    note: impl FnMut(usize, &Hits),
) -> u64 {
    match isa.level() {
        Level::Scalar => {
            let compare = |block: &Block, lanes: &Lanes, class| scalar_hits(block, lanes, class);
            each(listed, blocks, lanes, classes, hits, compare, note)
        }
        #[cfg(target_arch = "x86_64")]
        Level::Avx2(cpu) => avx2::compare_burst(cpu, listed, blocks, lanes, classes, hits, note),
        #[cfg(target_arch = "x86_64")]
        Level::Avx512(cpu) => avx512::compare_burst(cpu, listed, blocks, lanes, classes, hits, note),
    }
}

/// Inlined into each of the above, to be compiled for its CPU.
#[inline(always)]
fn each<const N: usize>(
    listed: u64,
    blocks: &[&Block; N],
    lanes: &[Lanes; N],
    classes: &[u16; N],
    hits: &mut [Hits; N],
    compare: impl Fn(&Block, &Lanes, u16) -> Hits,
    mut note: impl FnMut(usize, &Hits),
) -> u64 {
    let mut some = 0;
    for at in set_bits(listed) {
        let (Some(block), Some(lanes)) = (blocks.get(at), lanes.get(at)) else { continue };
        let (Some(class), Some(hits)) = (classes.get(at), hits.get_mut(at)) else { continue };
        let found = compare(block, lanes, *class);
        some |= u64::from(found.any()) << at;
        note(at, &found);
        *hits = found;
    }
    some
}

/// How many rules end before the first of some slots.
#[inline(always)]
pub(super) const fn before(own: u64, slots: u64) -> u32 {
    (own & (slots & slots.wrapping_neg()).wrapping_sub(1)).count_ones()
}

/// A packet's lanes with the source class in its place.
pub(super) fn classed(lanes: &Lanes, class: u16) -> Lanes {
    let mut lanes = *lanes;
    if let Some(lane) = lanes.0.get_mut(Lane::SourceClass.index()) {
        *lane = class;
    }
    lanes
}

/// A quarter of a block after the other, without a branch on what holds, so that compilers use what vectors there are.
#[inline(always)]
fn scalar_hits(block: &Block, lanes: &Lanes, class: u16) -> Hits {
    const QUARTER: usize = 16;
    let lanes = classed(lanes, class);
    let bounds = block.lo.as_chunks::<QUARTER>().0.iter().zip(block.hi.as_chunks::<QUARTER>().0);
    let ignored = block.ignore.as_chunks::<{ QUARTER / 2 }>().0;
    let (mut hold, mut last, mut own) = (0, 0, 0);
    for (quarter, ((tags, (lo, hi)), ignore)) in
        block.tags.as_chunks::<QUARTER>().0.iter().zip(bounds).zip(ignored).enumerate()
    {
        let [low, high] = tags.as_chunks::<8>().0 else { break };
        let [low, high] = [low, high].map(|tags| u64::from_le_bytes(*tags));
        if low | high == 0 {
            break;
        }
        let mut values = tags.map(|tag| lanes.0.get(usize::from(tag & LANE)).copied().unwrap_or(0));
        for (even, ignore) in values.iter_mut().step_by(2).zip(ignore) {
            *even &= !ignore;
        }
        let mut bits: [u16; QUARTER] = array::from_fn(|slot| 1 << slot);
        for ((bit, value), (lo, hi)) in bits.iter_mut().zip(&values).zip(lo.iter().zip(hi)) {
            let outside = lo.saturating_sub(*value) | value.saturating_sub(*hi);
            *bit = if outside == 0 { *bit } else { 0 };
        }
        let shift = quarter * QUARTER;
        hold |= u64::from(bits.iter().fold(0, |all, bit| all | bit)) << shift;
        last |= (gathered(low, LAST) | gathered(high, LAST) << 8) << shift;
        own |= (gathered(low, OWN) | gathered(high, OWN) << 8) << shift;
    }
    Hits::of(hold, last, own)
}

/// One bit of each of eight bytes, side by side.
#[inline(always)]
const fn gathered(bytes: u64, bit: u8) -> u64 {
    // Byte n is moved to bit 56 + n; what else the product holds there is zero, since no two terms meet.
    ((bytes >> bit.trailing_zeros()) & 0x0101_0101_0101_0101).wrapping_mul(0x0102_0408_1020_4080) >> 56
}
