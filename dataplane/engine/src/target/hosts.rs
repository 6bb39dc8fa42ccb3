//! Hosts without a computed slot: IPv6, and IPv4 prefixes wider than the direct slots.
//!
//! A fixed-size hash of eight ways with a secret per boot. Each worker has its own; a new tenant of a slot is announced to
//! the detector. The victim is a host that was idle longest, hosts that have sent outbound last (CLOCK with two chances):
//! random destinations in a prefix cannot push out the hosts that live there.

use crate::target::keyed::Keyed;

const WAYS: usize = 8;

#[derive(Clone, Copy, Default)]
struct Tenant {
    address: u128,
    used: bool,
    /// CLOCK: chances left before eviction.
    chances: u8,
}

/// A fixed-size table from addresses to slots.
pub struct Hosts {
    buckets: Box<[[Tenant; WAYS]]>,
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
        Self { buckets: vec![[Tenant::default(); WAYS]; buckets].into_boxed_slice(), keyed, first }
    }

    /// Number of slots of a table of this capacity.
    pub fn slots(capacity: usize) -> usize {
        (capacity / WAYS).max(1).next_power_of_two() * WAYS
    }

    /// The slot of a host; it gets one if it has none. `outbound`: the packet came from the host.
    pub fn lodge(&mut self, address: u128, outbound: bool) -> Option<Lodging> {
        let at = usize::try_from(self.keyed.address(address)).unwrap_or(0) & (self.buckets.len() - 1);
        let first = self.first;
        let bucket = self.buckets.get_mut(at)?;
        let slot = |way: usize| u32::try_from(at * WAYS + way).ok()?.checked_add(first);
        let chances = if outbound { 3 } else { 1 };
        if let Some(way) = bucket.iter().position(|tenant| tenant.used && tenant.address == address) {
            let tenant = bucket.get_mut(way)?;
            tenant.chances = tenant.chances.max(chances);
            return Some(Lodging { slot: slot(way)?, new: false });
        }
        let way = match bucket.iter().position(|tenant| !tenant.used) {
            Some(free) => free,
            None => loop {
                // Everybody loses a chance; at most four rounds.
                if let Some(victim) = bucket.iter().position(|tenant| tenant.chances == 0) {
                    break victim;
                }
                for tenant in bucket.iter_mut() {
                    tenant.chances = tenant.chances.saturating_sub(1);
                }
            },
        };
        *bucket.get_mut(way)? = Tenant { address, used: true, chances };
        Some(Lodging { slot: slot(way)?, new: true })
    }
}

impl Hosts {
    /// Gives the slot of a host back; its next packet lodges it anew.
    pub fn leave(&mut self, address: u128) {
        let at = usize::try_from(self.keyed.address(address)).unwrap_or(0) & (self.buckets.len() - 1);
        let tenants = self.buckets.get_mut(at).into_iter().flatten();
        for tenant in tenants.filter(|tenant| tenant.used && tenant.address == address) {
            *tenant = Tenant::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_keeps_its_slot() {
        let mut hosts = Hosts::new(64, 1000, Keyed::new((3, 4)));
        let first = hosts.lodge(1, false).unwrap();
        assert!(first.new && first.slot >= 1000);
        assert_eq!(hosts.lodge(1, false), Some(Lodging { slot: first.slot, new: false }));
    }

    #[test]
    fn random_destinations_do_not_push_out_living_hosts() {
        let mut hosts = Hosts::new(1024, 0, Keyed::new((3, 4)));
        for host in 0..100 {
            hosts.lodge(host, true);
        }
        let mut moved = 0;
        for round in 0..1000_u128 {
            for stranger in 0..20 {
                hosts.lodge(1 << 64 | round << 8 | stranger, false);
            }
            for host in 0..100 {
                moved += usize::from(hosts.lodge(host, true).unwrap().new);
            }
        }
        assert!(moved < 50, "{moved} times a living host lost its slot");
    }
}
