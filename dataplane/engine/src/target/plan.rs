//! The address plan: from a destination address to its zone and counter slot.
//!
//! IPv4 prefixes up to a /12 in all get a slot per address, computed and never searched: a two-level table, 16 bits and
//! 8 bits, names for each /24 its zone and first slot (about 0.6 ns, 256 KiB plus 2 KiB per touched /16). IPv6 and wider
//! IPv4 prefixes have a slot per prefix here; their hosts live in [`super::hosts`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use levee_api::lane::{Bits, Lane};
use levee_api::prefix::Prefix;
use levee_api::zone::{Challenge, Mode, Zone};

use crate::packet::Lanes;

/// Most IPv4 addresses with a slot of their own: a /12.
pub const DIRECT_SLOTS: usize = 1 << 20;
/// Most zones.
pub const MAX_ZONES: usize = 4096;

const NO_ZONE: u16 = u16::MAX;
/// Marks a /24 of which only a part is protected, or several zones own parts: the zone is looked up per address.
const MIXED: u16 = u16::MAX - 1;

/// Where a protected address lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Index of the zone.
    pub zone: u16,
    /// Its counter slot: the host's, or the prefix's when `hashed`.
    pub slot: u32,
    /// True when the host has no slot here but in the hashed hosts.
    pub hashed: bool,
}

/// Why zones cannot be laid out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Too many zones.
    #[error("{given} zones, at most {MAX_ZONES} are possible")]
    TooManyZones {
        /// How many were given.
        given: usize,
    },
    /// Two zones claim an address.
    #[error("zone {first:?} and zone {second:?} both protect addresses of {prefix}")]
    Overlap {
        /// One zone.
        first: String,
        /// The other.
        second: String,
        /// The smaller of the overlapping prefixes.
        prefix: Prefix,
    },
    /// More slots than the counters were built for.
    #[error("the zones need {needed} counter slots, {available} were reserved at start: restart to use them")]
    TooManySlots {
        /// How many the zones need.
        needed: usize,
        /// How many there are.
        available: usize,
    },
}

#[derive(Clone, Copy)]
struct Block {
    zone: u16,
    first: u32,
}

/// A prefix whose hosts are hashed.
#[derive(Clone, Debug)]
struct Hashed {
    first: u128,
    last: u128,
    zone: u16,
    slot: u32,
    prefix: Prefix,
}

/// The compiled zones. Immutable; part of a table generation.
pub struct Plan {
    zones: Vec<Zone>,
    protected: Vec<Prefix>,
    /// Per /16: index into `blocks` of its 256 /24s plus one; zero: nothing protected.
    tops: Box<[u32; 1 << 16]>,
    blocks: Vec<[Block; 256]>,
    /// Per slot of a mixed /24: its zone. Indexed by slot; empty when no /24 is mixed.
    mixed: Vec<u16>,
    /// First address of each run of 256 slots.
    bases: Vec<u32>,
    /// Sorted by first address, not overlapping.
    hashed4: Vec<Hashed>,
    hashed6: Vec<Hashed>,
    slots: usize,
    served: Vec<Served>,
    enforced: Vec<bool>,
    /// Some zone's clients are challenged by opening their connections.
    opens_connections: bool,
}

/// Served ports of a zone as bitmaps: a lookup per packet.
struct Served {
    udp: Box<[u64; 1024]>,
    udp_any: bool,
}

impl Plan {
    /// Lays out zones. `protected` are the prefixes that no filter may touch.
    ///
    /// # Errors
    /// When zones overlap or there are too many of them.
    pub fn new(zones: &[Zone], protected: &[Prefix]) -> Result<Self, PlanError> {
        if zones.len() > MAX_ZONES {
            return Err(PlanError::TooManyZones { given: zones.len() });
        }
        let mut owned: Vec<(Prefix, u16)> = Vec::new();
        for (index, zone) in zones.iter().enumerate() {
            let index = u16::try_from(index).unwrap_or(NO_ZONE);
            for prefix in &zone.prefixes {
                owned.push((*prefix, index));
            }
        }
        refuse_overlaps(zones, &owned)?;
        let mut plan = Self {
            zones: zones.to_vec(),
            protected: protected.to_vec(),
            tops: Box::new([0; 1 << 16]),
            blocks: Vec::new(),
            mixed: Vec::new(),
            bases: Vec::new(),
            hashed4: Vec::new(),
            hashed6: Vec::new(),
            slots: 0,
            served: zones.iter().map(Served::of).collect(),
            enforced: zones.iter().map(|zone| zone.mode == Mode::Enforce).collect(),
            opens_connections: zones.iter().any(|zone| zone.challenge == Challenge::Proxy),
        };
        let mut wide = Vec::new();
        for (prefix, zone) in &owned {
            match prefix.address() {
                IpAddr::V4(address) if plan.slots + addresses(prefix) <= DIRECT_SLOTS => {
                    plan.add_direct(u32::from(address), prefix.length(), *zone);
                }
                _ => wide.push((*prefix, *zone)),
            }
        }
        for (prefix, zone) in wide {
            let (first, last) = span(&prefix);
            let slot = u32::try_from(plan.slots).unwrap_or(u32::MAX);
            plan.slots += 1;
            let entry = Hashed { first, last, zone, slot, prefix };
            if prefix.is_ipv4() { plan.hashed4.push(entry) } else { plan.hashed6.push(entry) }
        }
        plan.hashed4.sort_by_key(|hashed| hashed.first);
        plan.hashed6.sort_by_key(|hashed| hashed.first);
        Ok(plan)
    }

    /// Gives every address of an IPv4 prefix a slot; a /24 at a time, so that a host's slot is its /24's plus its last octet.
    fn add_direct(&mut self, address: u32, length: u8, zone: u16) {
        let first24 = address >> 8;
        let last24 = (address | u32::MAX.checked_shr(u32::from(length)).unwrap_or(0)) >> 8;
        for net in first24..=last24 {
            let top = usize::try_from(net >> 8).unwrap_or(0);
            let known = self.tops.get(top).copied().unwrap_or(0);
            let block = if known == 0 {
                self.blocks.push([Block { zone: NO_ZONE, first: 0 }; 256]);
                let index = u32::try_from(self.blocks.len()).unwrap_or(0);
                if let Some(entry) = self.tops.get_mut(top) {
                    *entry = index;
                }
                index
            } else {
                known
            };
            let Some(entry) = usize::try_from(block)
                .ok()
                .and_then(|block| self.blocks.get_mut(block - 1))
                .and_then(|block| block.get_mut(usize::try_from(net & 0xff).unwrap_or(0)))
            else {
                continue;
            };
            if entry.zone == NO_ZONE {
                entry.first = u32::try_from(self.slots).unwrap_or(u32::MAX);
                entry.zone = if length > 24 { MIXED } else { zone };
                self.slots += 256;
                self.bases.push(net << 8);
            }
            if length > 24 {
                entry.zone = MIXED;
                let base = usize::try_from(entry.first).unwrap_or(0);
                if self.mixed.len() < base + 256 {
                    self.mixed.resize(base + 256, NO_ZONE);
                }
                let from = base + usize::try_from(address & 0xff).unwrap_or(0);
                let count = usize::try_from(u32::MAX.checked_shr(u32::from(length)).unwrap_or(0)).unwrap_or(0) + 1;
                if let Some(part) = self.mixed.get_mut(from..from + count) {
                    part.fill(zone);
                }
            }
        }
    }

    /// Zone and slot of the destination of a packet; none: not protected.
    #[inline]
    pub fn destination(&self, lanes: &Lanes) -> Option<Place> {
        self.place(lanes, Lane::Dst0)
    }

    /// Zone and slot of an address of a packet that begins at a lane.
    #[inline]
    pub fn place(&self, lanes: &Lanes, from: Lane) -> Option<Place> {
        let first = from.index();
        if lane(lanes, Lane::Bits.index()) & Bits::IPV6.bits() == 0 {
            let address = u32::from(lane(lanes, first + 6)) << 16 | u32::from(lane(lanes, first + 7));
            self.place4(address)
        } else {
            find(&self.hashed6, address6(lanes, first))
        }
    }

    /// True when there are IPv4 hosts without a slot of their own.
    #[inline]
    pub fn hashes_ipv4(&self) -> bool {
        !self.hashed4.is_empty()
    }

    /// Zone and slot of an IPv4 address.
    #[inline]
    pub fn place4(&self, address: u32) -> Option<Place> {
        let [high, low] = [address >> 16, address & 0xffff].map(|half| half as usize);
        let block = *self.tops.get(high)?;
        if block != 0 {
            let entry = self.blocks.get(block as usize - 1)?.get(low >> 8)?;
            let slot = entry.first + (address & 0xff);
            match entry.zone {
                NO_ZONE => {}
                MIXED => match self.mixed.get(slot as usize).copied() {
                    None | Some(NO_ZONE) => {}
                    Some(zone) => return Some(Place { zone, slot, hashed: false }),
                },
                zone => return Some(Place { zone, slot, hashed: false }),
            }
        }
        if self.hashed4.is_empty() { None } else { find(&self.hashed4, u128::from(address)) }
    }

    /// Zone and slot of an IPv6 address.
    #[inline]
    pub fn place6(&self, address: u128) -> Option<Place> {
        find(&self.hashed6, address)
    }

    /// Zone and slot of an address.
    pub fn locate(&self, address: IpAddr) -> Option<Place> {
        match address {
            IpAddr::V4(v4) => self.place4(u32::from(v4)),
            IpAddr::V6(v6) => find(&self.hashed6, u128::from(v6)),
        }
    }

    /// The address of a direct slot; none for slots of prefixes and of hashed hosts.
    pub fn address(&self, slot: u32) -> Option<IpAddr> {
        let base = self.bases.get(usize::try_from(slot >> 8).ok()?)?;
        Some(IpAddr::V4(Ipv4Addr::from(base + (slot & 0xff))))
    }

    /// The prefix that a slot after the direct ones stands for.
    pub fn aggregate(&self, slot: u32) -> Option<(Prefix, u16)> {
        self.hashed4.iter().chain(&self.hashed6).find(|h| h.slot == slot).map(|h| (h.prefix, h.zone))
    }

    /// The zone prefix that contains an address; the longest there is.
    pub fn zone_prefix(&self, zone: u16, address: IpAddr) -> Option<Prefix> {
        self.zone(zone)?.prefixes.iter().filter(|p| p.contains(address)).max_by_key(|p| p.length()).copied()
    }

    /// Number of slots: those of addresses first, then one per hashed prefix.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// The zones in order of their index.
    pub fn zones(&self) -> &[Zone] {
        &self.zones
    }

    /// A zone.
    pub fn zone(&self, index: u16) -> Option<&Zone> {
        self.zones.get(usize::from(index))
    }

    /// Index of the zone of a name.
    pub fn zone_named(&self, name: &str) -> Option<u16> {
        self.zones.iter().position(|zone| zone.name == name).and_then(|index| u16::try_from(index).ok())
    }

    /// Prefixes that no filter may touch.
    pub fn protected(&self) -> &[Prefix] {
        &self.protected
    }

    /// True when filters of a zone take effect.
    #[inline]
    pub fn enforces(&self, zone: u16) -> bool {
        self.enforced.get(usize::from(zone)).copied().unwrap_or(false)
    }

    /// How clients of a zone are challenged.
    #[inline]
    pub fn challenge(&self, zone: u16) -> Challenge {
        self.zone(zone).map_or(Challenge::Off, |zone| zone.challenge)
    }

    /// True when connections are opened in the place of servers in any zone.
    #[inline]
    pub fn opens_connections(&self) -> bool {
        self.opens_connections
    }

    /// True when DNS queries to a zone may be challenged.
    #[inline]
    pub fn challenges_dns(&self, zone: u16) -> bool {
        self.zone(zone).is_some_and(|zone| zone.challenge_dns)
    }

    /// True when a zone serves a UDP port.
    pub fn serves_udp(&self, zone: u16, port: u16) -> bool {
        self.served.get(usize::from(zone)).is_some_and(|served| {
            served.udp_any || served.udp.get(usize::from(port >> 6)).is_some_and(|word| word >> (port & 63) & 1 == 1)
        })
    }

    /// Ranges of direct slots that the addresses of `prefix` have, protected ones and those of no zone included.
    pub fn slots_within(&self, prefix: &Prefix) -> Vec<Range<u32>> {
        let IpAddr::V4(address) = prefix.address() else { return Vec::new() };
        let first = u32::from(address);
        let last = first | u32::MAX.checked_shr(u32::from(prefix.length())).unwrap_or(0);
        let within = |(run, base): (usize, &u32)| {
            let (from, to) = (first.max(*base), last.min(base | 0xff));
            let run = u32::try_from(run).unwrap_or(u32::MAX) << 8;
            (from <= to).then(|| run + (from & 0xff)..run + (to & 0xff) + 1)
        };
        if prefix.is_host() {
            // The common case, without a search.
            let own = self.place4(first).filter(|place| !place.hashed);
            return own.map(|place| place.slot..place.slot + 1).into_iter().collect();
        }
        self.bases.iter().enumerate().filter_map(within).collect()
    }

    /// Ranges of direct slots whose addresses lie in `prefix` and in no protected prefix.
    pub fn direct_slots(&self, prefix: &Prefix) -> Vec<Range<u32>> {
        let IpAddr::V4(address) = prefix.address() else { return Vec::new() };
        let first = u32::from(address);
        let last = first | u32::MAX.checked_shr(u32::from(prefix.length())).unwrap_or(0);
        let mut ranges: Vec<Range<u32>> = Vec::new();
        for (run, base) in self.bases.iter().enumerate() {
            let (from, to) = (first.max(*base), last.min(base | 0xff));
            if from > to {
                continue;
            }
            let run = u32::try_from(run).unwrap_or(u32::MAX) << 8;
            for address in from..=to {
                let ip = IpAddr::V4(Ipv4Addr::from(address));
                if self.place4(address).is_none() || self.protected.iter().any(|p| p.contains(ip)) {
                    continue;
                }
                let slot = run + (address & 0xff);
                match ranges.last_mut() {
                    Some(range) if range.end == slot => range.end = slot + 1,
                    _ => ranges.push(slot..slot + 1),
                }
            }
        }
        ranges
    }
}

impl Served {
    fn of(zone: &Zone) -> Self {
        let mut udp = Box::new([0_u64; 1024]);
        let mut udp_any = false;
        for service in zone.services.iter().filter(|service| service.protocol == 17) {
            udp_any |= service.ports.is_empty();
            for port in service.ports.iter().flat_map(|(first, last)| *first..=*last) {
                if let Some(word) = udp.get_mut(usize::from(port >> 6)) {
                    *word |= 1 << (port & 63);
                }
            }
        }
        Self { udp, udp_any }
    }
}

fn lane(lanes: &Lanes, index: usize) -> u16 {
    lanes.0.get(index).copied().unwrap_or(0)
}

fn address6(lanes: &Lanes, first: usize) -> u128 {
    (first..first + 8).fold(0, |address, index| address << 16 | u128::from(lane(lanes, index)))
}

/// The destination address of a packet.
pub fn destination_address(lanes: &Lanes) -> IpAddr {
    address_at(lanes, Lane::Dst0)
}

/// The source of a packet.
pub fn source_address(lanes: &Lanes) -> IpAddr {
    address_at(lanes, Lane::Src0)
}

fn address_at(lanes: &Lanes, from: Lane) -> IpAddr {
    let first = from.index();
    if lane(lanes, Lane::Bits.index()) & Bits::IPV6.bits() == 0 {
        let address = u32::from(lane(lanes, first + 6)) << 16 | u32::from(lane(lanes, first + 7));
        IpAddr::V4(Ipv4Addr::from(address))
    } else {
        IpAddr::V6(Ipv6Addr::from(address6(lanes, first)))
    }
}

/// An address as a number: IPv4 in the low 32 bits.
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

fn span(prefix: &Prefix) -> (u128, u128) {
    let first = number(prefix.address());
    let host_bits = if prefix.is_ipv4() { 32 } else { 128 } - u32::from(prefix.length());
    let rest = if host_bits == 0 { 0 } else { u128::MAX >> (128 - host_bits) };
    (first, first | rest)
}

/// Slots that an IPv4 prefix takes: whole /24s.
fn addresses(prefix: &Prefix) -> usize {
    1_usize << (32 - u32::from(prefix.length().min(24)))
}

fn find(sorted: &[Hashed], address: u128) -> Option<Place> {
    let after = sorted.partition_point(|hashed| hashed.first <= address);
    let hashed = sorted.get(after.checked_sub(1)?)?;
    (address <= hashed.last).then_some(Place { zone: hashed.zone, slot: hashed.slot, hashed: true })
}

fn refuse_overlaps(zones: &[Zone], owned: &[(Prefix, u16)]) -> Result<(), PlanError> {
    let mut sorted: Vec<_> =
        owned.iter().map(|(prefix, zone)| (prefix.is_ipv4(), span(prefix), *prefix, *zone)).collect();
    sorted.sort();
    for pair in sorted.windows(2) {
        if let [(v4a, (_, last), _, zone_a), (v4b, (first, _), prefix, zone_b)] = pair
            && v4a == v4b
            && first <= last
        {
            let name = |zone: u16| zones.get(usize::from(zone)).map(|zone| zone.name.clone()).unwrap_or_default();
            return Err(PlanError::Overlap { first: name(*zone_a), second: name(*zone_b), prefix: *prefix });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use levee_api::zone::{Service, Visibility};

    fn zone(name: &str, prefixes: &[&str]) -> Zone {
        Zone {
            name: name.to_owned(),
            prefixes: prefixes.iter().map(|text| text.parse().unwrap()).collect(),
            mode: Mode::Enforce,
            services: vec![Service { protocol: 17, ports: vec![(443, 443), (27_000, 27_100)] }],
            services_complete: false,
            visibility: Visibility::Auto,
            challenge: Challenge::default(),
            challenge_dns: false,
            link_capacity_bps: None,
            floors: Vec::new(),
            runbook: None,
        }
    }

    fn at(plan: &Plan, address: &str) -> Option<(u16, u32, bool)> {
        plan.locate(address.parse().unwrap()).map(|place| (place.zone, place.slot, place.hashed))
    }

    #[test]
    fn every_address_of_a_zone_has_its_own_slot_and_its_neighbours_have_none() {
        let plan = Plan::new(&[zone("a", &["203.0.113.0/24"]), zone("b", &["198.51.100.64/26"])], &[]).unwrap();
        assert_eq!(at(&plan, "203.0.113.0"), Some((0, 0, false)));
        assert_eq!(at(&plan, "203.0.113.255"), Some((0, 255, false)));
        assert_eq!(at(&plan, "203.0.114.0"), None);
        assert_eq!(at(&plan, "198.51.100.64"), Some((1, 256 + 64, false)));
        assert_eq!(at(&plan, "198.51.100.127"), Some((1, 256 + 127, false)));
        assert_eq!(at(&plan, "198.51.100.128"), None);
        assert_eq!(plan.address(256 + 64), Some("198.51.100.64".parse().unwrap()));
    }

    #[test]
    fn two_zones_may_share_a_24() {
        let plan = Plan::new(&[zone("a", &["192.0.2.0/25"]), zone("b", &["192.0.2.128/25"])], &[]).unwrap();
        assert_eq!(at(&plan, "192.0.2.1").map(|p| p.0), Some(0));
        assert_eq!(at(&plan, "192.0.2.200").map(|p| p.0), Some(1));
    }

    #[test]
    fn ipv6_and_prefixes_wider_than_the_slots_are_hashed() {
        let plan = Plan::new(&[zone("a", &["2001:db8::/48", "10.0.0.0/8"])], &[]).unwrap();
        assert_eq!(at(&plan, "2001:db8::1"), Some((0, 0, true)));
        assert_eq!(at(&plan, "2001:db8:1::1"), None);
        assert_eq!(at(&plan, "10.255.255.255"), Some((0, 1, true)));
        assert_eq!(at(&plan, "11.0.0.0"), None);
    }

    #[test]
    fn overlapping_zones_are_refused() {
        let error = Plan::new(&[zone("a", &["192.0.2.0/24"]), zone("b", &["192.0.2.128/25"])], &[]).err().unwrap();
        assert_eq!(error.to_string(), "zone \"a\" and zone \"b\" both protect addresses of 192.0.2.128/25");
    }

    #[test]
    fn a_protected_host_is_in_no_target() {
        let plan = Plan::new(&[zone("a", &["203.0.113.0/24"])], &["203.0.113.1/32".parse().unwrap()]).unwrap();
        assert_eq!(plan.direct_slots(&"203.0.113.0/24".parse().unwrap()), vec![0..1, 2..256]);
    }

    #[test]
    fn a_prefix_has_the_slots_of_its_addresses() {
        let plan =
            Plan::new(&[zone("a", &["203.0.113.0/24", "10.0.0.0/8"]), zone("b", &["198.51.100.64/26"])], &[]).unwrap();
        let within = |prefix: &str| plan.slots_within(&prefix.parse().unwrap());
        assert_eq!(within("203.0.113.7/32"), vec![7..8]);
        assert_eq!(within("203.0.113.128/25"), vec![128..256]);
        assert_eq!(within("198.51.100.0/22"), vec![256..512]);
        assert_eq!(within("192.0.2.0/24"), []);
        assert_eq!(within("10.1.2.3/32"), [], "hashed");
    }

    #[test]
    fn served_ports_are_known() {
        let plan = Plan::new(&[zone("a", &["203.0.113.0/24"])], &[]).unwrap();
        assert!(plan.serves_udp(0, 443) && plan.serves_udp(0, 27_050) && !plan.serves_udp(0, 53));
    }
}
