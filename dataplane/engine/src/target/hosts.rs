//! Hosts without a computed slot: IPv6, and IPv4 prefixes wider than the direct slots.
//!
//! A fixed-size hash of eight ways with a secret per boot. Each worker has its own; a new tenant of a slot is announced to
//! the detector. The victim is a host that was idle longest, hosts that have sent outbound last (CLOCK with two chances):
//! random destinations in a prefix cannot push out the hosts that live there.

mod find;

use crate::isa::{Isa, prefetch_at};
use crate::pipeline::BURST;
use crate::target::keyed::Keyed;

const WAYS: usize = 8;
/// Bits of a tenant that are CLOCK: chances left before eviction.
const CHANCES: u64 = 3;

/// Tenants of a cache line of slots: what tells a host from others, 62 bits of its key; zero: nobody.
#[derive(Clone, Copy, Debug, Default)]
#[repr(align(64))]
struct Bucket([u64; WAYS]);

/// A fixed-size table from addresses to slots.
pub struct Hosts {
    buckets: Box<[Bucket]>,
    keyed: Keyed,
    first: u32,
}

/// A slot, and whether its tenant is new there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lodging {
    /// Counter slot.
    pub slot: u32,
    /// True when the slot belonged to another host, or nobody, until now.
    pub new: bool,
}

impl Hosts {
    /// A table of about `capacity` hosts whose slots begin at `first`.
    pub fn new(capacity: usize, first: u32, keyed: Keyed) -> Self {
        let buckets = (capacity / WAYS).max(1).next_power_of_two();
        Self { buckets: vec![Bucket::default(); buckets].into_boxed_slice(), keyed, first }
    }

    /// The key of a host. One pair of hosts in 2^62 has the same, and shares a slot.
    #[inline]
    pub fn key(&self, address: u128) -> u64 {
        self.keyed.host(address)
    }

    /// Asks for what [`Self::lodge`] reads.
    #[inline]
    pub fn prefetch(&self, key: u64) {
        prefetch_at(&self.buckets, self.at(key));
    }

    /// Number of slots of a table of this capacity.
    pub fn slots(capacity: usize) -> usize {
        (capacity / WAYS).max(1).next_power_of_two() * WAYS
    }

    /// Where in their buckets hosts of a burst live that do; of others that means nothing. `which`: a bit for each.
    #[inline]
    pub fn find(&self, isa: Isa, which: u64, keys: &[u64; BURST], ways: &mut [u8; BURST]) {
        find::find(isa, &self.buckets, which, keys, ways);
    }

    /// The slot of the host with this key; it gets one if it has none. `way`: where [`Self::find`] saw it, a while ago.
    /// `outbound`: the packet came from the host.
    #[inline]
    pub fn lodge(&mut self, key: u64, way: u8, outbound: bool) -> Option<Lodging> {
        let (at, name, first) = (self.at(key), name(key), self.first);
        let Bucket(tenants) = self.buckets.get_mut(at)?;
        let slot = |way: usize| u32::try_from(at * WAYS + way).ok()?.checked_add(first);
        let chances = if outbound { 3 } else { 1 };
        let lives = |tenant: &u64| tenant & !CHANCES == name;
        let way = Some(usize::from(way)).filter(|way| tenants.get(*way).is_some_and(lives));
        if let Some(way) = way.or_else(|| tenants.iter().position(lives)) {
            let tenant = tenants.get_mut(way)?;
            *tenant = name | (*tenant & CHANCES).max(chances);
            return Some(Lodging { slot: slot(way)?, new: false });
        }
        let way = match tenants.iter().position(|tenant| *tenant == 0) {
            Some(free) => free,
            None => loop {
                // Everybody loses a chance; at most four rounds.
                if let Some(victim) = tenants.iter().position(|tenant| tenant & CHANCES == 0) {
                    break victim;
                }
                tenants.iter_mut().for_each(|tenant| *tenant -= 1);
            },
        };
        *tenants.get_mut(way)? = name | chances;
        Some(Lodging { slot: slot(way)?, new: true })
    }

    /// Gives the slot of a host back; its next packet lodges it anew.
    pub fn leave(&mut self, key: u64) {
        let at = self.at(key);
        let tenants = self.buckets.get_mut(at).into_iter().flat_map(|Bucket(tenants)| tenants);
        for tenant in tenants.filter(|tenant| **tenant & !CHANCES == name(key)) {
            *tenant = 0;
        }
    }

    #[inline]
    fn at(&self, key: u64) -> usize {
        home(key, &self.buckets)
    }
}

/// Where the bucket of a host is.
#[inline]
fn home(key: u64, buckets: &[Bucket]) -> usize {
    usize::try_from(key >> CHANCES.count_ones()).unwrap_or(0) & buckets.len().wrapping_sub(1)
}

/// Never that of nobody.
#[inline]
fn name(key: u64) -> u64 {
    (key & !CHANCES).max(CHANCES + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_keeps_its_slot() {
        let mut hosts = Hosts::new(64, 1000, Keyed::new((3, 4)));
        let first = hosts.lodge(hosts.key(1), 0, false).unwrap();
        assert!(first.new && first.slot >= 1000);
        for way in 0..=8 {
            assert_eq!(hosts.lodge(hosts.key(1), way, false), Some(Lodging { slot: first.slot, new: false }));
        }
    }

    #[test]
    fn a_burst_finds_hosts_where_they_live() {
        let mut hosts = Hosts::new(128, 0, Keyed::new((3, 4)));
        let keys = std::array::from_fn(|host| hosts.key(host as u128));
        let which = 0x0123_4567_89ab_cdef;
        let slots: Vec<_> = keys.iter().map(|key| hosts.lodge(*key, 8, key % 2 == 0).unwrap().slot).collect();
        for isa in Isa::available() {
            let mut ways = [9; BURST];
            hosts.find(isa, which, &keys, &mut ways);
            for (at, way) in ways.into_iter().enumerate() {
                let lives =
                    hosts.buckets[hosts.at(keys[at])].0.iter().any(|tenant| tenant & !CHANCES == name(keys[at]));
                match which >> at & 1 {
                    0 => assert_eq!(way, 9, "{isa} {at}"),
                    _ if lives => assert_eq!(u32::from(way), slots[at] % 8, "{isa} {at}"),
                    _ => assert_eq!(way, 8, "{isa} {at}"),
                }
            }
        }
    }

    #[test]
    fn random_destinations_do_not_push_out_living_hosts() {
        let mut hosts = Hosts::new(1024, 0, Keyed::new((3, 4)));
        for host in 0..100 {
            hosts.lodge(hosts.key(host), 0, true);
        }
        let mut moved = 0;
        for round in 0..1000_u128 {
            for stranger in 0..20 {
                hosts.lodge(hosts.key(1 << 64 | round << 8 | stranger), 0, false);
            }
            for host in 0..100 {
                moved += usize::from(hosts.lodge(hosts.key(host), 0, true).unwrap().new);
            }
        }
        assert!(moved < 50, "{moved} times a living host lost its slot");
    }
}
