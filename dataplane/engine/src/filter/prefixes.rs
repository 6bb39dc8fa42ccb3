//! The lists of hosts and prefixes that have no slot: those of IPv6, and of wide IPv4 prefixes.
//!
//! An open-addressing table of prefixes, keyed with a secret of its own, at most half full; a destination is asked for with each
//! length that any of them has, the longest first. An entry is half a cache line, and a search begins with both of a line: so a
//! host that has a list of its own costs one line, which [`Prefixes::prefetch`] asks for.

use std::hash::{BuildHasher, RandomState};
use std::hint::select_unpredictable;
use std::net::IpAddr;

use levee_api::prefix::Prefix;

use super::table::{ListId, Reached};
use crate::isa::prefetch_at;
use crate::target::keyed::Keyed;

/// Prefixes and what is known of them.
#[derive(Clone, Debug)]
pub(super) struct Prefixes {
    /// A power of two of them; empty until the first prefix comes.
    slots: Vec<Slot>,
    used: usize,
    keyed: Keyed,
    ipv4: Lengths,
    ipv6: Lengths,
}

/// Which lengths prefixes of a family have.
#[derive(Clone, Debug, Default)]
struct Lengths {
    /// The longest first, and how many prefixes have each.
    counts: Vec<(u8, usize)>,
}

#[derive(Clone, Copy, Debug, Default)]
#[repr(align(32))]
struct Slot {
    address: u128,
    list: ListId,
    length: u8,
    ipv4: bool,
    /// [`Reached::by`]; nothing is here where it is zero.
    by: u8,
}

/// A prefix as a number: an IPv4 address in the low 32 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Key {
    address: u128,
    length: u8,
    ipv4: bool,
}

const FEWEST: usize = 16;

impl Default for Prefixes {
    fn default() -> Self {
        let random = RandomState::new();
        let keyed = Keyed::new((random.hash_one(0), random.hash_one(1)));
        Self { slots: Vec::new(), used: 0, keyed, ipv4: Lengths::default(), ipv6: Lengths::default() }
    }
}

impl Prefixes {
    /// What is known of exactly this prefix.
    pub(super) fn get(&self, prefix: &Prefix) -> Option<Reached> {
        let key = Key::of(prefix);
        Some(self.find(key, self.home(key))).filter(|reached| reached.by != 0)
    }

    /// What is known of the longest prefix that contains an address, which is IPv4 in the low 32 bits; the default where there is
    /// none. `home` is what [`Self::prefetch`] said of it.
    #[inline]
    pub(super) fn longest(&self, address: u128, ipv4: bool, home: usize) -> Reached {
        let mut lengths = self.lengths_of(ipv4).counts.iter().map(|(length, _)| *length);
        let Some(longest) = lengths.next() else { return Reached::default() };
        let reached = self.find(Key::containing(address, longest, ipv4), home);
        if lengths.len() == 0 || reached.by != 0 {
            return reached;
        }
        let mut others = lengths.map(|length| Key::containing(address, length, ipv4));
        others
            .find_map(|key| Some(self.find(key, self.home(key))).filter(|reached| reached.by != 0))
            .unwrap_or_default()
    }

    /// Asks for the cache line in which [`Self::longest`] begins, and says where that is.
    #[inline]
    pub(super) fn prefetch(&self, address: u128, ipv4: bool) -> usize {
        let Some((length, _)) = self.lengths_of(ipv4).counts.first() else { return 0 };
        let home = self.home(Key::containing(address, *length, ipv4));
        prefetch_at(&self.slots, home);
        home
    }

    /// Sets what is known of a prefix.
    pub(super) fn insert(&mut self, prefix: &Prefix, reached: Reached) {
        let key = Key::of(prefix);
        if let Some(slot) = self.position(key).and_then(|at| self.slots.get_mut(at)) {
            *slot = Slot::new(key, reached);
            return;
        }
        if self.slots.len() <= 2 * self.used {
            let larger = vec![Slot::default(); (2 * self.slots.len()).max(FEWEST)];
            let slots = std::mem::replace(&mut self.slots, larger);
            slots.into_iter().filter(|slot| !slot.is_free()).for_each(|slot| self.put(slot));
        }
        self.put(Slot::new(key, reached));
        self.used += 1;
        self.lengths_mut(key.ipv4).add(key.length);
    }

    /// Forgets a prefix.
    pub(super) fn remove(&mut self, prefix: &Prefix) {
        let key = Key::of(prefix);
        let Some(mut hole) = self.position(key) else { return };
        self.used -= 1;
        self.lengths_mut(key.ipv4).take(key.length);
        // What was put behind it because it was in the way moves up.
        let mask = self.slots.len() - 1;
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let Some(slot) = self.slots.get(at).copied().filter(|slot| !slot.is_free()) else { break };
            let from_home = |to: usize| to.wrapping_sub(self.home(slot.key())) & mask;
            if from_home(hole) < from_home(at) {
                self.set(hole, slot);
                hole = at;
            }
        }
        self.set(hole, Slot::default());
    }

    #[inline]
    fn lengths_of(&self, ipv4: bool) -> &Lengths {
        if ipv4 { &self.ipv4 } else { &self.ipv6 }
    }

    fn lengths_mut(&mut self, ipv4: bool) -> &mut Lengths {
        if ipv4 { &mut self.ipv4 } else { &mut self.ipv6 }
    }

    fn set(&mut self, at: usize, slot: Slot) {
        if let Some(place) = self.slots.get_mut(at) {
            *place = slot;
        }
    }

    /// Puts an entry that is not there where there is room: there is.
    fn put(&mut self, slot: Slot) {
        let free = self.walk(slot.key()).find(|at| self.slots.get(*at).is_none_or(Slot::is_free));
        if let Some(at) = free {
            self.set(at, slot);
        }
    }

    /// What is known of exactly this prefix; the default where that is nothing.
    #[inline]
    fn find(&self, key: Key, home: usize) -> Reached {
        let Some([first, second]) = self.slots.as_chunks().0.get(home / 2) else { return Reached::default() };
        // Whether a prefix is there, and which of the two it is, nobody can guess.
        let likely = select_unpredictable(first.holds(key), first, second);
        let is_likely = likely.holds(key);
        if is_likely | first.is_free() | second.is_free() {
            return select_unpredictable(is_likely, likely.reached(), Reached::default());
        }
        self.position(key).and_then(|at| self.slots.get(at)).map_or_else(Reached::default, Slot::reached)
    }

    fn position(&self, key: Key) -> Option<usize> {
        let taken = self.walk(key).take_while(|at| self.slots.get(*at).is_some_and(|slot| !slot.is_free()));
        taken.into_iter().find(|at| self.slots.get(*at).is_some_and(|slot| slot.holds(key)))
    }

    /// Where a prefix can be, in order.
    #[inline]
    fn walk(&self, key: Key) -> impl Iterator<Item = usize> + use<> {
        let (home, mask) = (self.home(key), self.slots.len().saturating_sub(1));
        (0..self.slots.len()).map(move |step| (home + step) & mask)
    }

    #[inline]
    fn home(&self, Key { address, length, ipv4 }: Key) -> usize {
        let hash = self.keyed.prefix(address, u64::from(length) << 1 | u64::from(ipv4));
        // The first of a line.
        usize::try_from(hash).unwrap_or(0) & self.slots.len().saturating_sub(1) & !1
    }
}

impl Lengths {
    fn add(&mut self, length: u8) {
        match self.counts.binary_search_by(|(known, _)| length.cmp(known)) {
            Ok(at) => self.counts.iter_mut().skip(at).take(1).for_each(|(_, count)| *count += 1),
            Err(at) => self.counts.insert(at, (length, 1)),
        }
    }

    fn take(&mut self, length: u8) {
        for (_, count) in self.counts.iter_mut().filter(|(known, _)| *known == length) {
            *count -= 1;
        }
        self.counts.retain(|(_, count)| *count > 0);
    }
}

impl Slot {
    fn new(Key { address, length, ipv4 }: Key, Reached { list, by }: Reached) -> Self {
        Self { address, list, length, ipv4, by }
    }

    fn key(&self) -> Key {
        Key { address: self.address, length: self.length, ipv4: self.ipv4 }
    }

    #[inline(always)]
    fn reached(&self) -> Reached {
        Reached { list: self.list, by: self.by }
    }

    /// True of a free one also for the prefix of all addresses, of which it knows nothing then.
    #[inline(always)]
    fn holds(&self, key: Key) -> bool {
        (self.address == key.address) & (self.length == key.length) & (self.ipv4 == key.ipv4)
    }

    #[inline(always)]
    fn is_free(&self) -> bool {
        self.by == 0
    }
}

impl Key {
    fn of(prefix: &Prefix) -> Self {
        let (address, ipv4) = match prefix.address() {
            IpAddr::V4(address) => (u128::from(u32::from(address)), true),
            IpAddr::V6(address) => (u128::from(address), false),
        };
        Self { address, length: prefix.length(), ipv4 }
    }

    #[inline]
    fn containing(address: u128, length: u8, ipv4: bool) -> Self {
        let host_bits = (if ipv4 { 32_u32 } else { 128 }).saturating_sub(u32::from(length));
        let host = u128::MAX.checked_shl(host_bits).map_or(u128::MAX, |net| !net);
        Self { address: address & !host, length, ipv4 }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn prefix() -> impl Strategy<Value = Prefix> {
        let v4 =
            (0..4_u32, 0..=32_u8).prop_map(|(n, length)| Prefix::containing(IpAddr::V4((n << 7 | n).into()), length));
        let v6 = (0..4_u128, 0..=128_u8)
            .prop_map(|(n, length)| Prefix::containing(IpAddr::V6((n << 90 | n).into()), length));
        prop_oneof![v4, v6]
    }

    proptest! {
        #[test]
        fn agrees_with_a_map_whatever_comes_and_goes(steps in vec((prefix(), 0..3_u8), 0..400), asked in vec(prefix(), 50)) {
            let (mut table, mut map) = (Prefixes::default(), BTreeMap::new());
            for (number, (prefix, by)) in (1..).zip(steps) {
                if by == 0 {
                    table.remove(&prefix);
                    map.remove(&prefix.to_string());
                } else {
                    let reached = Reached { list: ListId::new(number, 1, 0, 1), by };
                    table.insert(&prefix, reached);
                    map.insert(prefix.to_string(), (prefix, reached));
                }
            }
            for (prefix, reached) in map.values() {
                prop_assert_eq!(table.get(prefix), Some(*reached));
            }
            prop_assert_eq!(table.used, map.len());
            prop_assert_eq!(table.slots.iter().filter(|slot| !slot.is_free()).count(), map.len());
            for prefix in asked {
                let Key { address, ipv4, .. } = Key::of(&prefix);
                let containing = map.values().filter(|(known, _)| known.contains(prefix.address()));
                let longest = containing.max_by_key(|(known, _)| known.length()).map(|(_, reached)| *reached);
                let reached = table.longest(address, ipv4, table.prefetch(address, ipv4));
                prop_assert_eq!(reached, longest.unwrap_or_default(), "of {}", prefix.address());
            }
        }
    }
}
