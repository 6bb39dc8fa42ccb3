//! Hosts without a computed slot: IPv6, and IPv4 prefixes wider than the direct slots.
//!
//! A fixed-size hash of eight ways with a secret per boot. Each worker has its own; a new tenant of a slot is announced to
//! the detector. The victim is a host that was idle longest, hosts that have sent outbound last (CLOCK with two chances):
//! random destinations in a prefix cannot push out the hosts that live there.

use crate::isa::prefetch_at;
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

    /// The slot of the host with this key; it gets one if it has none. `outbound`: the packet came from the host.
    #[inline]
    pub fn lodge(&mut self, key: u64, outbound: bool) -> Option<Lodging> {
        let (at, name, first) = (self.at(key), name(key), self.first);
        let Bucket(tenants) = self.buckets.get_mut(at)?;
        let slot = |way: usize| u32::try_from(at * WAYS + way).ok()?.checked_add(first);
        let chances = if outbound { 3 } else { 1 };
        if let Some(way) = tenants.iter().position(|tenant| tenant & !CHANCES == name) {
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
        usize::try_from(key >> CHANCES.count_ones()).unwrap_or(0) & (self.buckets.len() - 1)
    }
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
        let first = hosts.lodge(hosts.key(1), false).unwrap();
        assert!(first.new && first.slot >= 1000);
        assert_eq!(hosts.lodge(hosts.key(1), false), Some(Lodging { slot: first.slot, new: false }));
    }

    #[test]
    fn random_destinations_do_not_push_out_living_hosts() {
        let mut hosts = Hosts::new(1024, 0, Keyed::new((3, 4)));
        for host in 0..100 {
            hosts.lodge(hosts.key(host), true);
        }
        let mut moved = 0;
        for round in 0..1000_u128 {
            for stranger in 0..20 {
                hosts.lodge(hosts.key(1 << 64 | round << 8 | stranger), false);
            }
            for host in 0..100 {
                moved += usize::from(hosts.lodge(hosts.key(host), true).unwrap().new);
            }
        }
        assert!(moved < 50, "{moved} times a living host lost its slot");
    }
}
