//! A fixed table from keys to points in time: what limiters per source and the memory of verified sources are made of.
//!
//! A line is one cache line of eight entries, each 24 bits of the key and 40 bits of time. A time that has passed says
//! nothing, so an entry needs no ageing: an expired one is free to take. In a full line the entry that is closest to its
//! time is taken. Keys come from a hash with a secret, so nobody outside can fill a line of his choice. Of two keys in
//! one line, one pair in 2^24 cannot be told apart and shares an entry.

use crate::isa::prefetch_at;

const WAYS: usize = 8;
/// Bits of an entry that hold the time.
const TIME: u32 = 40;
const TIME_MASK: u64 = (1 << TIME) - 1;

/// The table. Times are in a unit of the owner's choice and wrap after 2^40 of it: so much later an entry that nobody has
/// touched looks as it did.
#[derive(Debug)]
pub(crate) struct Stamps {
    lines: Box<[Line]>,
    /// No time is further ahead than this: what looks further ahead has passed.
    horizon: u64,
}

#[derive(Clone, Copy, Debug, Default)]
#[repr(align(64))]
struct Line([u64; WAYS]);

/// An entry of the table.
pub(crate) struct Stamp<'a> {
    entry: &'a mut u64,
    ahead: u64,
}

impl Stamps {
    /// A table for `entries` keys (rounded up to a power of two), 8 bytes each, whose times are at most `horizon` ahead.
    pub(crate) fn new(entries: usize, horizon: u64) -> Self {
        let lines = vec![Line::default(); (entries / WAYS).max(1).next_power_of_two()].into_boxed_slice();
        Self { lines, horizon }
    }

    /// Asks for the cache line of a key.
    #[inline]
    pub(crate) fn prefetch(&self, key: u64) {
        prefetch_at(&self.lines, self.at(key));
    }

    /// How far ahead of `now` the time of a key is; zero when it is unknown or has passed.
    #[inline]
    pub(crate) fn ahead(&self, key: u64, now: u64) -> u64 {
        let Some(line) = self.lines.get(self.at(key)) else { return 0 };
        // Nearly always there is none.
        if line.of(key) == 0 {
            return 0;
        }
        let own = |sum, entry: &u64| if same(*entry, key) { ahead(*entry, now, self.horizon).max(sum) } else { sum };
        line.0.iter().fold(0, own)
    }

    /// The entry of a key; where there is none, one that becomes it when its time is set.
    #[inline]
    pub(crate) fn entry(&mut self, key: u64, now: u64) -> Option<Stamp<'_>> {
        let (at, horizon) = (self.at(key), self.horizon);
        let line = self.lines.get_mut(at)?;
        let own = line.of(key);
        if own != 0 {
            let entry = line.0.get_mut(own.trailing_zeros() as usize)?;
            let ahead = ahead(*entry, now, horizon);
            return Some(Stamp { entry, ahead });
        }
        let entry = line.0.iter_mut().min_by_key(|entry| ahead(**entry, now, horizon))?;
        Some(Stamp { entry, ahead: 0 })
    }

    #[inline(always)]
    fn at(&self, key: u64) -> usize {
        usize::try_from(key & TIME_MASK).unwrap_or(0) & (self.lines.len() - 1)
    }
}

impl Line {
    /// A bit for each entry of a key.
    #[inline(always)]
    fn of(&self, key: u64) -> u32 {
        self.0.iter().enumerate().fold(0, |bits, (at, entry)| bits | u32::from(same(*entry, key)) << at)
    }
}

impl Stamp<'_> {
    /// How far ahead its time is; zero when it is new or has passed.
    #[inline(always)]
    pub(crate) fn ahead(&self) -> u64 {
        self.ahead
    }

    /// Makes it the entry of `key`, with this time.
    #[inline(always)]
    pub(crate) fn set(self, key: u64, time: u64) {
        *self.entry = key & !TIME_MASK | time & TIME_MASK;
    }
}

#[inline(always)]
fn same(entry: u64, key: u64) -> bool {
    (entry ^ key) >> TIME == 0
}

#[inline(always)]
fn ahead(entry: u64, now: u64, horizon: u64) -> u64 {
    let ahead = entry.wrapping_sub(now) & TIME_MASK;
    if ahead <= horizon { ahead } else { 0 }
}
