//! Hosts without a computed slot, those of IPv6 and of wide IPv4 prefixes: which slot counts their packets, and which list
//! judges them.
//!
//! Both are found by a hash of the address, which is put together and hashed once. Each pass over these packets asks for what the
//! next one reads.

use super::{BURST, Scratch, Stages, set_bits};
use crate::filter::table::FilterTable;
use crate::isa::Isa;
use crate::link::{Notice, WorkerEnd};
use crate::packet::Direction;
use crate::tables::Tables;
use crate::target::hosts::Hosts;
use crate::target::plan::Place;

/// What is known of such hosts of a burst, side by side.
pub(super) struct Hashed {
    /// A bit for each packet that concerns one.
    pub(super) which: u64,
    addresses: [u128; BURST],
    /// What [`Hosts`] knows them by.
    keys: [u64; BURST],
    /// Where the search for their lists begins.
    homes: [usize; BURST],
}

impl Hashed {
    pub(super) const NONE: Self = Self { which: 0, addresses: [0; BURST], keys: [0; BURST], homes: [0; BURST] };
}

impl Stages {
    /// Zone and slot of such hosts.
    #[inline(never)]
    pub(super) fn locate_hashed(&mut self, tables: &Tables, direction: Direction, count: usize) {
        let Self { isa, link, hosts, scratch, .. } = self;
        let Scratch { parsed, places, hashed: Hashed { which, addresses, keys, homes }, .. } = &mut **scratch;
        let ipv6 = parsed.marks.ipv6;
        *which = 0;
        if tables.plan.hashes_ipv4() {
            for (at, place) in places.iter().enumerate().take(count) {
                *which |= u64::from(place.is_some_and(|place| place.hashed)) << at;
            }
            *which &= !ipv6;
        }
        for at in set_bits(*which | ipv6) {
            let (Some(place), Some(address)) = (places.get_mut(at), addresses.get_mut(at)) else { continue };
            *address = parsed.columns.inside(direction, at);
            let is_v4 = ipv6 >> at & 1 == 0;
            if !is_v4 {
                *place = tables.plan.place6(*address);
                *which |= u64::from(place.is_some()) << at;
            }
            let (Some(_), Some(key), Some(home)) = (place, keys.get_mut(at), homes.get_mut(at)) else { continue };
            *key = hosts.key(*address);
            hosts.prefetch(*key);
            if direction == Direction::Inbound {
                *home = tables.filters.prefetch_address(*address, is_v4);
            }
        }
        lodge(*isa, direction, *which, ipv6, addresses, keys, places, hosts, link);
    }

    /// The lists of such hosts.
    #[inline(never)]
    pub(super) fn list_hashed(&mut self, filters: &FilterTable) {
        let Scratch { parsed, lists, hashed: Hashed { which, addresses, homes, .. }, .. } = &mut *self.scratch;
        for at in set_bits(*which) {
            let (Some(list), Some(address), Some(home)) = (lists.get_mut(at), addresses.get(at), homes.get(at)) else {
                continue;
            };
            *list = filters.of_address(*address, parsed.marks.ipv6 >> at & 1 == 0, *home);
        }
    }
}

/// Gives each host one of the hashed slots.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "columns of a burst, and what owns slots")]
fn lodge(
    isa: Isa,
    direction: Direction,
    which: u64,
    ipv6: u64,
    addresses: &[u128; BURST],
    keys: &[u64; BURST],
    places: &mut [Option<Place>; BURST],
    hosts: &mut Hosts,
    link: &mut WorkerEnd,
) {
    let mut ways = [0; BURST];
    hosts.find(isa, which, keys, &mut ways);
    for at in set_bits(which) {
        let (Some(Some(place)), Some(key), Some(way)) = (places.get_mut(at), keys.get(at), ways.get(at)) else {
            continue;
        };
        if let Some(lodging) = hosts.lodge(*key, *way, direction == Direction::Outbound) {
            let address = addresses.get(at).copied().unwrap_or(0);
            if !lodging.new || is_told(lodging.slot, address, ipv6 >> at & 1 != 0, link) {
                place.slot = lodging.slot;
            } else {
                hosts.leave(*key);
            }
        }
        let counters = link.counters.view();
        match direction {
            Direction::Inbound => counters.prefetch(place.slot),
            Direction::Outbound => counters.prefetch_fates(place.slot),
        }
    }
}

/// Tells the detector of a new tenant. Untold, its packets would count for the tenant before: they count for the prefix, until it
/// can be told.
#[cold]
fn is_told(slot: u32, address: u128, ipv6: bool, link: &mut WorkerEnd) -> bool {
    let totals = link.counters.read(slot);
    link.notice(Notice::Lodged { slot, address, ipv6, totals })
}
