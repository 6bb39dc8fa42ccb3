//! From overlapping ranges of several sets to disjoint ranges, each with the number of its combination of sets.
//!
//! One sweep over the sorted ends of all ranges: between two ends the combination is constant. That makes "longest
//! prefix" and "union of all that cover" the same thing, and subtracts protected addresses on the way.

use std::net::IpAddr;

use levee_api::prefix::Prefix;

use super::{MAX_COMBINATIONS, MAX_RANGES, MAX_SETS};

/// Ranges of addresses, both ends included, in any order; they may overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges {
    ipv4: Vec<(u32, u32)>,
    ipv6: Vec<(u128, u128)>,
}

/// One set.
#[derive(Clone, Debug, Default)]
pub struct Set {
    /// What is in it.
    pub ranges: Ranges,
    /// Protected addresses stay in it: a set whose members pass does no harm to them.
    pub keeps_protected: bool,
}

/// Why sets cannot be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// More sets than bits.
    #[error(
        "{0} address sets, and there can be at most {MAX_SETS}: a set may have several files, so put some together"
    )]
    Sets(usize),
    /// More ranges than there is memory for.
    #[error("{0} prefixes in all address sets together, and there can be at most {MAX_RANGES}: use shorter lists")]
    Ranges(usize),
    /// More combinations than have a number.
    #[error(
        "the address sets overlap in more than {MAX_COMBINATIONS} different combinations: use fewer sets, or lists that \
         have less in common"
    )]
    Combinations,
}

impl Ranges {
    /// Adds a prefix.
    pub fn add(&mut self, prefix: Prefix) {
        let length = prefix.length();
        match prefix.address() {
            IpAddr::V4(first) => {
                let first = u32::from(first);
                self.ipv4.push((first, first | u32::MAX.checked_shr(u32::from(length)).unwrap_or(0)));
            }
            IpAddr::V6(first) => {
                let first = u128::from(first);
                self.ipv6.push((first, first | u128::MAX.checked_shr(u32::from(length)).unwrap_or(0)));
            }
        }
    }

    /// Adds everything from one address to another, both included; false when they are of different versions or the first
    /// is above the last.
    pub fn add_range(&mut self, first: IpAddr, last: IpAddr) -> bool {
        match (first, last) {
            (IpAddr::V4(first), IpAddr::V4(last)) if first <= last => self.ipv4.push((first.into(), last.into())),
            (IpAddr::V6(first), IpAddr::V6(last)) if first <= last => self.ipv6.push((first.into(), last.into())),
            _ => return false,
        }
        true
    }

    /// Adds all of another list.
    pub fn append(&mut self, mut other: Self) {
        self.ipv4.append(&mut other.ipv4);
        self.ipv6.append(&mut other.ipv6);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ipv4.len() + self.ipv6.len()
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl FromIterator<Prefix> for Ranges {
    fn from_iter<I: IntoIterator<Item = Prefix>>(prefixes: I) -> Self {
        let mut ranges = Self::default();
        prefixes.into_iter().for_each(|prefix| ranges.add(prefix));
        ranges
    }
}

/// From here on, addresses have the combination of this number; before the first one, number 0.
pub(super) type Boundary<A> = (A, u8);

/// What the tables are built from.
pub(super) struct Numbered {
    pub(super) ipv4: Vec<Boundary<u32>>,
    pub(super) ipv6: Vec<Boundary<u128>>,
    /// The class of each number; number 0 is "in no set".
    pub(super) classes: Vec<u16>,
    /// The sets from which something was taken out.
    pub(super) protected: u16,
}

impl Numbered {
    pub(super) fn of(sets: &[Set], protected: &Ranges) -> Result<Self, BuildError> {
        if sets.len() > MAX_SETS {
            return Err(BuildError::Sets(sets.len()));
        }
        let total = protected.len() + sets.iter().map(|set| set.ranges.len()).sum::<usize>();
        if total > MAX_RANGES {
            return Err(BuildError::Ranges(total));
        }
        let kept = (0..).zip(sets).filter(|(_, set)| set.keeps_protected).fold(0, |mask, (bit, _)| mask | 1_u16 << bit);
        let mut numbering = Numbering::new(kept);
        let all = || (0..).zip(sets).map(|(index, set)| (index, &set.ranges)).chain([(PROTECTED, protected)]);
        let ipv4 = sweep(all().flat_map(|(set, ranges)| ranges.ipv4.iter().map(move |r| (set, *r))), &mut numbering)?;
        let ipv6 = sweep(all().flat_map(|(set, ranges)| ranges.ipv6.iter().map(move |r| (set, *r))), &mut numbering)?;
        Ok(Self { ipv4, ipv6, classes: numbering.classes, protected: numbering.protected })
    }
}

/// The place of protected addresses behind those of the sets.
const PROTECTED: u8 = 16;

/// Gives combinations their numbers.
struct Numbering {
    numbers: Box<[u8]>,
    classes: Vec<u16>,
    /// Sets that protected addresses stay in.
    kept: u16,
    protected: u16,
}

impl Numbering {
    fn new(kept: u16) -> Self {
        Self { numbers: vec![0; 1 << MAX_SETS].into(), classes: vec![0], kept, protected: 0 }
    }

    fn number(&mut self, mut class: u16, is_protected: bool) -> Result<u8, BuildError> {
        if is_protected {
            self.protected |= class & !self.kept;
            class &= self.kept;
        }
        let Some(number) = self.numbers.get_mut(usize::from(class)) else { return Ok(0) };
        if *number == 0 && class != 0 {
            if self.classes.len() > MAX_COMBINATIONS {
                return Err(BuildError::Combinations);
            }
            *number = u8::try_from(self.classes.len()).map_err(|_| BuildError::Combinations)?;
            self.classes.push(class);
        }
        Ok(*number)
    }
}

/// An address that has a next one, but for the last.
trait Address: Copy + Ord + Default {
    fn next(self) -> Option<Self>;
}

impl Address for u32 {
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

impl Address for u128 {
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

/// Disjoint ranges, neighbours with different numbers.
fn sweep<A: Address>(
    ranges: impl Iterator<Item = (u8, (A, A))>,
    numbering: &mut Numbering,
) -> Result<Vec<Boundary<A>>, BuildError> {
    const END: u8 = 0x80;
    let mut events: Vec<(A, u8)> = Vec::new();
    for (set, (first, last)) in ranges {
        events.push((first, set));
        events.extend(last.next().map(|end| (end, set | END)));
    }
    events.sort_unstable();
    let mut covering = [0_u32; MAX_SETS + 1];
    let (mut class, mut is_protected, mut boundaries) = (0_u16, false, Vec::<Boundary<A>>::new());
    let mut events = events.into_iter().peekable();
    while let Some((at, event)) = events.next() {
        let set = event & !END;
        if let Some(count) = covering.get_mut(usize::from(set)) {
            *count = if event & END == 0 { *count + 1 } else { count.saturating_sub(1) };
            match set {
                PROTECTED => is_protected = *count > 0,
                _ => class = class & !(1 << set) | u16::from(*count > 0) << set,
            }
        }
        if events.peek().is_some_and(|(next, _)| *next == at) {
            continue;
        }
        let number = numbering.number(class, is_protected)?;
        if boundaries.last().map_or(0, |(_, number)| *number) != number {
            boundaries.push((at, number));
        }
    }
    Ok(boundaries)
}
