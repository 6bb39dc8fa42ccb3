//! Arrays that generations share: pages of items, copied when they change while somebody reads them.
//!
//! A clone copies the directory of pages, one reference each; a change copies one page, once per generation. Pages are
//! aligned to cache lines, and their reference counts are on a line of their own: publishing writes to no line that a
//! worker reads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// An array of pages of `N` items each; what was never written is the default.
#[derive(Clone, Debug)]
pub(super) struct Paged<T, const N: usize> {
    pages: Vec<Arc<Page<T, N>>>,
    blank: Arc<Page<T, N>>,
}

#[derive(Clone, Debug)]
#[repr(align(64))]
struct Page<T, const N: usize>([T; N]);

impl<T: Default, const N: usize> Default for Paged<T, N> {
    fn default() -> Self {
        Self { pages: Vec::new(), blank: Arc::new(Page(std::array::from_fn(|_| T::default()))) }
    }
}

impl<T: Clone, const N: usize> Paged<T, N> {
    /// True when nothing was ever written.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// An item; none past the last page.
    #[inline]
    pub(super) fn get(&self, at: u32) -> Option<&T> {
        let at = usize::try_from(at).ok()?;
        self.pages.get(at / N)?.0.get(at % N)
    }

    /// Up to `count` items from `at` on; none of them are past its page.
    #[inline]
    pub(super) fn run(&self, at: u32, count: usize) -> &[T] {
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        let from = self.pages.get(at / N).and_then(|page| page.0.get(at % N..)).unwrap_or_default();
        from.get(..count).unwrap_or(from)
    }

    /// An item, to be changed.
    pub(super) fn get_mut(&mut self, at: u32) -> Option<&mut T> {
        self.run_mut(at, 1).first_mut()
    }

    /// Up to `count` items from `at` on, to be changed; none of them are past its page.
    pub(super) fn run_mut(&mut self, at: u32, count: usize) -> &mut [T] {
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        if self.pages.len() <= at / N {
            self.pages.resize(at / N + 1, Arc::clone(&self.blank));
        }
        let page = self.pages.get_mut(at / N).map(|page| &mut Arc::make_mut(page).0);
        let from = page.and_then(|page| page.get_mut(at % N..)).unwrap_or_default();
        let count = count.min(from.len());
        from.get_mut(..count).unwrap_or_default()
    }
}

/// Units of a page that [`Runs`] hands out.
const UNITS: u32 = 64;

/// Which runs of a paged array are taken, in units of which a page has 64. A page holds runs of one length; one without
/// runs takes any length.
#[derive(Debug, Default)]
pub(super) struct Runs {
    pages: Vec<Carved>,
    /// Pages with room, by the length of their runs.
    open: BTreeMap<u32, BTreeSet<usize>>,
    empty: BTreeSet<usize>,
}

#[derive(Clone, Copy, Debug)]
struct Carved {
    length: u32,
    /// A bit for each run that is free.
    free: u64,
}

impl Carved {
    fn all_free(length: u32) -> u64 {
        u64::MAX >> (UNITS - UNITS / length)
    }
}

impl Runs {
    /// Takes a run of 1 to 64 units; its first.
    pub(super) fn take(&mut self, units: u32) -> u32 {
        let length = units.clamp(1, UNITS);
        let open = self.open.get(&length).and_then(BTreeSet::first).copied();
        let page = open.unwrap_or_else(|| {
            let carved = Carved { length, free: Carved::all_free(length) };
            let page = match self.empty.pop_first() {
                Some(page) => page,
                None => {
                    self.pages.push(carved);
                    self.pages.len() - 1
                }
            };
            if let Some(known) = self.pages.get_mut(page) {
                *known = carved;
            }
            self.open.entry(length).or_default().insert(page);
            page
        });
        let Some(carved) = self.pages.get_mut(page) else { return 0 };
        let run = carved.free.trailing_zeros();
        carved.free &= carved.free.wrapping_sub(1);
        if carved.free == 0
            && let Some(open) = self.open.get_mut(&length)
        {
            open.remove(&page);
        }
        u32::try_from(page).unwrap_or(0) * UNITS + run * length
    }

    /// Gives a run back.
    pub(super) fn give(&mut self, first: u32) {
        let page = usize::try_from(first / UNITS).unwrap_or(usize::MAX);
        let Some(carved) = self.pages.get_mut(page) else { return };
        carved.free |= 1 << (first % UNITS / carved.length);
        let Carved { length, free } = *carved;
        let open = self.open.entry(length).or_default();
        if free == Carved::all_free(length) {
            open.remove(&page);
            self.empty.insert(page);
        } else {
            open.insert(page);
        }
    }

    /// How many runs are taken.
    #[cfg(test)]
    pub(super) fn taken(&self) -> u32 {
        let taken = |page: &Carved| (Carved::all_free(page.length) & !page.free).count_ones();
        self.pages.iter().map(taken).sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_clone_keeps_what_it_saw() {
        let mut array = Paged::<u32, 4>::default();
        array.run_mut(8, 2).copy_from_slice(&[1, 2]);
        let before = array.clone();
        array.get_mut(9).map(|at| *at = 3).unwrap();
        assert_eq!((before.run(8, 2), array.run(8, 2)), (&[1, 2][..], &[1, 3][..]));
        assert_eq!((before.get(0), before.get(12)), (Some(&0), None));
        assert_eq!(before.run(10, 9), [0, 0], "not past the page");
    }

    proptest! {
        #[test]
        fn runs_do_not_overlap_and_room_comes_back(steps in vec((1..=64_u32, any::<prop::sample::Index>(), 0..3_u8), 0..400)) {
            let (mut runs, mut taken) = (Runs::default(), Vec::<(u32, u32)>::new());
            for (units, which, give) in steps {
                if give == 0 && !taken.is_empty() {
                    runs.give(taken.swap_remove(which.index(taken.len())).0);
                } else {
                    let first = runs.take(units);
                    prop_assert_eq!(first / UNITS, (first + units - 1) / UNITS, "within a page");
                    prop_assert!(taken.iter().all(|(at, length)| first + units <= *at || at + length <= first));
                    taken.push((first, units));
                }
            }
            let pages = runs.pages.len();
            taken.drain(..).for_each(|(first, _)| runs.give(first));
            (0..pages).for_each(|_| { runs.take(64); });
            prop_assert_eq!(runs.pages.len(), pages, "empty pages are used again");
        }
    }
}
