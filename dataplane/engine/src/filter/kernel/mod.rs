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

use std::fmt;

use levee_api::filter::{Constraint, HeaderBox};
use levee_api::lane::Lane;
use levee_api::role::Role;
use levee_api::time::Timestamp;

use super::list::{Entry, List};
use crate::packet::Lanes;

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
pub(super) struct Block {
    tags: [u8; SLOTS],
    lo: [u16; SLOTS],
    hi: [u16; SLOTS],
    /// Of slot `2 * i`: bits of the lane that do not count.
    ignore: [u16; SLOTS / 2],
}

impl Block {
    /// A block without boxes.
    pub(super) const EMPTY: Self = Self { tags: [0; SLOTS], lo: [0; SLOTS], hi: [0; SLOTS], ignore: [0; SLOTS / 2] };

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
pub(super) struct Hits {
    /// The last slots of the boxes that contain the packet.
    pub(super) boxes: u64,
    /// The last slots of all boxes that are a rule's own.
    pub(super) own: u64,
}

impl Hits {
    /// No boxes at all.
    const NONE: Self = Self { boxes: 0, own: 0 };

    /// From the slots that hold, those that end a run, and those of rules' own boxes.
    #[inline]
    const fn of(hold: u64, last: u64, own: u64) -> Self {
        // Adding one at the start of a run carries into its last slot when all slots before that hold; there it stops,
        // because the last slots are taken out of the sum.
        let starts = last << 1 | 1;
        let carried = (hold & !last).wrapping_add(starts);
        Self { boxes: carried & hold & last, own: own & last }
    }
}

/// How blocks are compared: chosen once, when the process starts. That a value exists shows that this CPU can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel(Isa);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Isa {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Detected),
    #[cfg(target_arch = "x86_64")]
    Avx512(avx512::Detected),
}

impl Kernel {
    /// Works on any CPU.
    pub const SCALAR: Self = Self(Isa::Scalar);

    /// The fastest that this CPU can.
    pub fn detect() -> Self {
        Self::available().last().unwrap_or(Self::SCALAR)
    }

    /// All that this CPU can, the slowest first.
    pub fn available() -> impl Iterator<Item = Self> {
        let kernels = [
            Some(Isa::Scalar),
            #[cfg(target_arch = "x86_64")]
            avx2::Detected::detect().map(Isa::Avx2),
            #[cfg(target_arch = "x86_64")]
            avx512::Detected::detect().map(Isa::Avx512),
        ];
        kernels.into_iter().flatten().map(Self)
    }

    /// The name in logs and benchmarks.
    pub const fn name(self) -> &'static str {
        match self.0 {
            Isa::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(_) => "avx512",
        }
    }

    /// See [`List::find`].
    #[inline]
    pub(super) fn find<'a>(
        self,
        list: &'a List,
        lanes: &Lanes,
        class: u16,
        role: Role,
        payload: &[u8],
        now: Timestamp,
    ) -> Option<&'a Entry> {
        match self.0 {
            Isa::Scalar => scalar(list, lanes, class, role, payload, now),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(cpu) => avx2::find(cpu, list, lanes, class, role, payload, now),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(cpu) => avx512::find(cpu, list, lanes, class, role, payload, now),
        }
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A packet's lanes with the source class in its place.
pub(super) fn classed(lanes: &Lanes, class: u16) -> Lanes {
    let mut lanes = *lanes;
    if let Some(lane) = lanes.0.get_mut(Lane::SourceClass.index()) {
        *lane = class;
    }
    lanes
}

fn scalar<'a>(
    list: &'a List,
    lanes: &Lanes,
    class: u16,
    role: Role,
    payload: &[u8],
    now: Timestamp,
) -> Option<&'a Entry> {
    let lanes = classed(lanes, class);
    list.first_applying(|block| scalar_hits(block, &lanes), &lanes, class, role, payload, now)
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
    hits
}
