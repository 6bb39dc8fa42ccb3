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

use levee_api::filter::{Constraint, HeaderBox};
use levee_api::lane::Lane;

use crate::isa::{Isa, Level, prefetch};
use crate::packet::Lanes;
use crate::pipeline::{BURST, set_bits};

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
    pub(super) const EMPTY: Self = Self { tags: [0; SLOTS], lo: [0; SLOTS], hi: [0; SLOTS], ignore: [0; SLOTS / 2] };

    /// Asks for its cache lines.
    #[inline]
    pub(super) fn prefetch(&self) {
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
    pub(super) const fn any(&self) -> bool {
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
#[inline]
pub(super) fn hits(isa: Isa, block: &Block, lanes: &Lanes, class: u16) -> Hits {
    match isa.level() {
        Level::Scalar => scalar_hits(block, &classed(lanes, class)),
        #[cfg(target_arch = "x86_64")]
        Level::Avx2(cpu) => avx2::hits(cpu, block, lanes, class),
        #[cfg(target_arch = "x86_64")]
        Level::Avx512(cpu) => avx512::hits(cpu, block, lanes, class),
    }
}

/// What the packets of a burst are compared with: the first block of each one's list.
pub(super) trait Lists {
    /// The first block of the list of the packet at this position; none: it has no list.
    fn first_block(&self, at: usize) -> Option<&Block>;
    /// What its block said: asks for the entry that will probably apply, and says whether one can.
    fn note(&self, at: usize, hits: &Hits) -> bool;
}

/// Compares those packets of a burst whose bit is set in `listed`; a bit for each that something may apply to.
#[inline]
pub(super) fn compare_burst<L: Lists>(
    isa: Isa,
    lists: &L,
    listed: u64,
    lanes: &[Lanes; BURST],
    classes: &[u16; BURST],
    hits: &mut [Hits; BURST],
) -> u64 {
    match isa.level() {
        Level::Scalar => {
            each(lists, listed, lanes, classes, hits, |block, lanes, class| scalar_hits(block, &classed(lanes, class)))
        }
        #[cfg(target_arch = "x86_64")]
        Level::Avx2(cpu) => avx2::compare_burst(cpu, lists, listed, lanes, classes, hits),
        #[cfg(target_arch = "x86_64")]
        Level::Avx512(cpu) => avx512::compare_burst(cpu, lists, listed, lanes, classes, hits),
    }
}

/// Inlined into each of the above, to be compiled for its CPU.
#[inline(always)]
fn each<L: Lists>(
    lists: &L,
    listed: u64,
    lanes: &[Lanes; BURST],
    classes: &[u16; BURST],
    hits: &mut [Hits; BURST],
    compare: impl Fn(&Block, &Lanes, u16) -> Hits,
) -> u64 {
    let mut some = 0;
    for at in set_bits(listed) {
        let (Some(block), Some(lanes), Some(class)) = (lists.first_block(at), lanes.get(at), classes.get(at)) else {
            continue;
        };
        let found = compare(block, lanes, *class);
        some |= u64::from(lists.note(at, &found)) << at;
        if let Some(hits) = hits.get_mut(at) {
            *hits = found;
        }
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

fn scalar_hits(block: &Block, lanes: &Lanes) -> Hits {
    let bounds = block.lo.iter().zip(&block.hi);
    let ignore = block.ignore.iter().flat_map(|even| [*even, 0]);
    let (mut hits, mut inside) = (Hits::NONE, true);
    for (slot, ((tag, (lo, hi)), ignore)) in block.tags.iter().zip(bounds).zip(ignore).enumerate() {
        // Once outside, the rest of the run is only walked over.
        if inside {
            let value = lanes.0.get(usize::from(tag & LANE)).copied().unwrap_or(0) & !ignore;
            inside = (*lo..=*hi).contains(&value);
        }
        if tag & LAST != 0 {
            hits.boxes |= u64::from(inside) << slot;
            hits.own |= u64::from(tag & OWN != 0) << slot;
            inside = true;
        }
    }
    hits.first = before(hits.own, hits.boxes & hits.own);
    hits
}
