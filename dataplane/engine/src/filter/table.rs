//! From a packet's destination to the list that judges it.
//!
//! A filter on a prefix or a zone reaches every host in it, so the lists are merged when the table is built: a host's
//! own filters decide first, then those of the prefixes that cover it, the longest first, then the zone's. A packet
//! meets one list, whatever was installed how. One to a host without mitigation costs two loads and touches no list.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use levee_api::filter::{Filter, Target};
use levee_api::prefix::Prefix;

use super::list::{Entry, List, MAX_EXCEPTIONS, MAX_RULES};
use crate::packet::Lanes;
use crate::target::plan::{Place, Plan, destination_address};

/// Slots of a chunk.
const CHUNK: usize = 256;

/// All filters in force, by destination. Immutable; part of a table generation.
#[derive(Debug, Default)]
pub struct FilterTable {
    /// The list of each host slot; no chunk: all like their zone.
    chunks: Vec<Option<Box<[ListId; CHUNK]>>>,
    /// Lists of hosts and prefixes without slots. The hasher's key is random.
    by_prefix: HashMap<Prefix, ListId>,
    /// Lengths of the prefixes in there, the longest first: IPv4, IPv6.
    lengths: (Vec<u8>, Vec<u8>),
    /// The list of each zone, for hosts that no filter of a host or prefix reaches.
    zones: Vec<ListId>,
    lists: Vec<List>,
    left_out: Vec<LeftOut>,
}

/// Which list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ListId {
    /// The zone's, if it has one.
    #[default]
    Zone,
    /// None at all: the address is protected from filters.
    Protected,
    /// One of the table's.
    At(u32),
}

/// A filter that is not in force everywhere that its target says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("filter {filter} is not in force on {first}{}: {why}", more(*.targets))]
pub struct LeftOut {
    /// Id of the filter.
    pub filter: u64,
    /// The first target on which it is missing.
    pub first: Target,
    /// On how many targets it is missing.
    pub targets: usize,
    /// What stood in the way.
    pub why: Obstacle,
}

/// Why a filter is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Obstacle {
    /// No such zone.
    #[error("there is no such zone (any more)")]
    NoZone,
    /// A list is full.
    #[error("{MAX_RULES} rules of more specific filters come before it, and no list holds more: remove some of them")]
    Full,
    /// Too many exceptions.
    #[error("its rule has {0} exceptions, and a rule may have at most {MAX_EXCEPTIONS}: split it")]
    Exceptions(usize),
}

impl FilterTable {
    /// Builds the table of some filters, each with the index of its counters and its limiter. Filters of the same target
    /// decide in the order given.
    ///
    /// Protected addresses meet no filter at all. What cannot be put into force is told by [`Self::left_out`].
    pub fn build<'a>(filters: impl IntoIterator<Item = (&'a Filter, u32)>, plan: &Plan) -> Self {
        let mut builder = Builder::new(plan);
        for (filter, index) in filters {
            builder.group(filter, index);
        }
        builder.merge();
        builder.protect();
        let mut table = builder.table;
        table.left_out = builder.left_out.into_values().collect();
        let lengths = |ipv4| {
            let prefixes = table.by_prefix.keys().filter(|prefix| prefix.is_ipv4() == ipv4);
            prefixes.map(Prefix::length).collect::<BTreeSet<_>>().into_iter().rev().collect()
        };
        table.lengths = (lengths(true), lengths(false));
        table
    }

    /// The list that judges packets to a place of the same plan that the table was built for; the address is only read
    /// from `lanes` for hosts without a slot.
    #[inline]
    pub fn list_for(&self, place: Place, lanes: &Lanes) -> Option<&List> {
        let own = if place.hashed { self.of_address(lanes) } else { self.of_slot(place.slot) };
        let id = if own == ListId::Zone { *self.zones.get(usize::from(place.zone))? } else { own };
        let ListId::At(index) = id else { return None };
        self.lists.get(usize::try_from(index).ok()?)
    }

    /// Filters that are not in force everywhere that their targets say.
    pub fn left_out(&self) -> &[LeftOut] {
        &self.left_out
    }

    #[inline]
    fn of_slot(&self, slot: u32) -> ListId {
        let Ok(slot) = usize::try_from(slot) else { return ListId::Zone };
        let chunk = self.chunks.get(slot / CHUNK).and_then(Option::as_deref);
        chunk.and_then(|chunk| chunk.get(slot % CHUNK)).copied().unwrap_or_default()
    }

    fn of_address(&self, lanes: &Lanes) -> ListId {
        if self.by_prefix.is_empty() {
            return ListId::Zone;
        }
        let address = destination_address(lanes);
        let lengths = if address.is_ipv4() { &self.lengths.0 } else { &self.lengths.1 };
        let mut prefixes = lengths.iter().map(|length| Prefix::containing(address, *length));
        prefixes.find_map(|prefix| self.by_prefix.get(&prefix)).copied().unwrap_or_default()
    }

    fn set_slot(&mut self, slot: u32, id: ListId) {
        let Ok(slot) = usize::try_from(slot) else { return };
        if self.chunks.len() <= slot / CHUNK {
            self.chunks.resize_with(slot / CHUNK + 1, || None);
        }
        let chunk =
            self.chunks.get_mut(slot / CHUNK).map(|chunk| chunk.get_or_insert_with(|| Box::new([ListId::Zone; CHUNK])));
        if let Some(at) = chunk.and_then(|chunk| chunk.get_mut(slot % CHUNK)) {
            *at = id;
        }
    }
}

fn more(targets: usize) -> String {
    if targets > 1 { format!(" and {} more", targets - 1) } else { String::new() }
}

/// What filters are grouped by. In order, so that whatever covers a target comes before it: the zone, then its prefixes
/// from the widest to the hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Reach {
    zone: u16,
    /// Length of the prefix, if there is one.
    length: Option<u8>,
    prefix: Option<Prefix>,
}

impl Reach {
    fn of(zone: u16, prefix: Option<Prefix>) -> Self {
        Self { zone, length: prefix.map(|prefix| prefix.length()), prefix }
    }

    /// What covers it and has one of these lengths, the narrowest first; the zone last.
    fn covering(self, lengths: &BTreeSet<u8>) -> impl Iterator<Item = Self> {
        let wider = self.prefix.into_iter().flat_map(move |prefix| {
            let lengths = lengths.range(..prefix.length()).rev();
            lengths.map(move |length| Self::of(self.zone, Some(Prefix::containing(prefix.address(), *length))))
        });
        wider.chain(self.prefix.map(|_| Self::of(self.zone, None)))
    }
}

/// The filters that decide about a target, each with its id.
type Merged = Vec<(u64, Entry)>;

struct Builder<'a> {
    plan: &'a Plan,
    zones: HashMap<&'a str, u16>,
    groups: BTreeMap<Reach, Merged>,
    left_out: BTreeMap<u64, LeftOut>,
    table: FilterTable,
}

impl<'a> Builder<'a> {
    fn new(plan: &'a Plan) -> Self {
        let zones = plan.zones().iter().map(|zone| &*zone.name).zip(0..).collect();
        let table = FilterTable::default();
        Self { plan, zones, groups: BTreeMap::new(), left_out: BTreeMap::new(), table }
    }

    fn group(&mut self, filter: &Filter, index: u32) {
        let Some(zone) = self.zones.get(&*filter.target.zone).copied() else {
            return self.leave_out(filter.id, &filter.target, Obstacle::NoZone);
        };
        let exceptions = filter.rule.except.len();
        if exceptions > MAX_EXCEPTIONS {
            return self.leave_out(filter.id, &filter.target, Obstacle::Exceptions(exceptions));
        }
        let entry = Entry {
            deadline: filter.deadline,
            action: filter.action,
            counter: index,
            limiter: index,
            roles: filter.roles,
            rule: Arc::new(filter.rule.clone()),
        };
        self.groups.entry(Reach::of(zone, filter.target.prefix)).or_default().push((filter.id, entry));
    }

    /// Gives each target the filters of what covers it, and its list to the hosts in it. More specific targets come
    /// later and take their hosts over.
    fn merge(&mut self) {
        let mut merged: BTreeMap<Reach, Merged> = BTreeMap::new();
        let mut lengths = BTreeSet::new();
        for (reach, mut entries) in std::mem::take(&mut self.groups) {
            entries
                .extend(reach.covering(&lengths).find_map(|wider| merged.get(&wider)).into_iter().flatten().cloned());
            lengths.extend(reach.length);
            let target = Target { zone: self.zone_name(reach.zone), prefix: reach.prefix };
            for (filter, _) in entries.drain(entries.len().min(MAX_RULES)..) {
                self.leave_out(filter, &target, Obstacle::Full);
            }
            // Both limits of a list have been kept above.
            let Ok(list) = List::compile(entries.iter().map(|(_, entry)| entry.clone()).collect()) else { continue };
            let id = u32::try_from(self.table.lists.len()).map_or(ListId::Protected, ListId::At);
            self.table.lists.push(list);
            self.place(reach, id);
            merged.insert(reach, entries);
        }
    }

    fn place(&mut self, reach: Reach, id: ListId) {
        let Some(prefix) = reach.prefix else {
            let zone = usize::from(reach.zone);
            if self.table.zones.len() <= zone {
                self.table.zones.resize(zone + 1, ListId::Zone);
            }
            if let Some(at) = self.table.zones.get_mut(zone) {
                *at = id;
            }
            return;
        };
        if self.plan.protected().iter().any(|protected| protected.covers(&prefix)) {
            return;
        }
        for part in self.parts(reach.zone, &prefix) {
            match self.plan.locate(part.address()) {
                Some(Place { hashed: true, .. }) => {
                    self.table.by_prefix.insert(part, id);
                }
                Some(Place { slot, .. }) if part.is_host() => self.table.set_slot(slot, id),
                _ => self.plan.direct_slots(&part).into_iter().flatten().for_each(|slot| self.table.set_slot(slot, id)),
            }
        }
    }

    /// Protected addresses get no list, not even their zone's.
    fn protect(&mut self) {
        for zone in 0..u16::try_from(self.plan.zones().len()).unwrap_or(u16::MAX) {
            let has_list = self.table.zones.get(usize::from(zone)).is_some_and(|id| *id != ListId::Zone);
            for part in
                self.plan.protected().iter().flat_map(|protected| self.parts(zone, protected)).collect::<Vec<_>>()
            {
                match (self.plan.locate(part.address()), part.address()) {
                    (Some(Place { hashed: true, .. }), _) => {
                        self.table.by_prefix.insert(part, ListId::Protected);
                    }
                    // Slots that a prefix filter reaches are without protected ones as it is.
                    (Some(_), IpAddr::V4(first)) if has_list => {
                        let last = u32::from(first) | u32::MAX.checked_shr(u32::from(part.length())).unwrap_or(0);
                        for place in (first..=last.into()).filter_map(|address| self.plan.locate(address.into())) {
                            self.table.set_slot(place.slot, ListId::Protected);
                        }
                    }
                    _ => {}
                }
            }
        }
    }

    /// What a prefix and a zone have in common.
    fn parts(&self, zone: u16, prefix: &Prefix) -> Vec<Prefix> {
        let own = self.plan.zone(zone).map_or(&[][..], |zone| &zone.prefixes);
        own.iter()
            .filter(|own| own.overlaps(prefix))
            .map(|own| if own.covers(prefix) { *prefix } else { *own })
            .collect()
    }

    fn leave_out(&mut self, filter: u64, target: &Target, why: Obstacle) {
        let first = || LeftOut { filter, first: target.clone(), targets: 0, why };
        self.left_out.entry(filter).or_insert_with(first).targets += 1;
    }

    fn zone_name(&self, zone: u16) -> String {
        self.plan.zone(zone).map(|zone| zone.name.clone()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use levee_api::filter::{Action, HeaderBox, Origin, Rule};
    use levee_api::lane::{Bits, Lane};
    use levee_api::role::{Role, RoleSet};
    use levee_api::time::Timestamp;
    use levee_api::zone::{Mode, Visibility, Zone};
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::super::Kernel;
    use super::*;

    fn zone(name: &str, prefixes: &[&str]) -> Zone {
        Zone {
            name: name.to_owned(),
            prefixes: prefixes.iter().map(|text| text.parse().unwrap()).collect(),
            mode: Mode::Enforce,
            services: Vec::new(),
            services_complete: false,
            visibility: Visibility::Auto,
            link_capacity_bps: None,
            floors: Vec::new(),
            runbook: None,
        }
    }

    /// Hosts with and without slots, a /24 that two zones share, and protected addresses among all of them.
    static PLAN: LazyLock<Plan> = LazyLock::new(|| {
        let zones = [
            zone("web", &["203.0.113.0/24", "192.0.2.0/25", "2001:db8::/48"]),
            zone("mail", &["192.0.2.128/25", "10.0.0.0/8", "2001:db8:1::/48"]),
        ];
        let protected = ["203.0.113.1", "10.1.2.0/30", "2001:db8::1", "2001:db8:1:1::/64"];
        Plan::new(&zones, &protected.map(|text| text.parse().unwrap())).unwrap()
    });

    /// A filter that drops packets with this TTL.
    fn filter(id: u64, zone: &str, prefix: &str, ttl: u16) -> Filter {
        Filter {
            id,
            target: Target { zone: zone.to_owned(), prefix: (!prefix.is_empty()).then(|| prefix.parse().unwrap()) },
            roles: RoleSet::ALL,
            rule: Rule::of(HeaderBox::any().exact(Lane::Ttl, ttl)),
            action: Action::Drop,
            deadline: Timestamp::NEVER,
            origin: Origin::Reflex,
            witness: String::new(),
        }
    }

    fn build(filters: &[Filter]) -> FilterTable {
        FilterTable::build(filters.iter().zip(0..), &PLAN)
    }

    fn packet(to: &str, ttl: u16) -> Lanes {
        let mut lanes = Lanes::default();
        let (address, bits) = match to.parse().unwrap() {
            IpAddr::V4(v4) => (u128::from(u32::from(v4)), Bits::empty()),
            IpAddr::V6(v6) => (u128::from(v6), Bits::IPV6),
        };
        for (lane, shift) in lanes.0[Lane::Dst0.index()..].iter_mut().zip((0..8).rev()) {
            *lane = u16::try_from(address >> (16 * shift) & 0xffff).unwrap();
        }
        lanes.0[Lane::Bits.index()] = bits.bits();
        lanes.0[Lane::Ttl.index()] = ttl;
        lanes
    }

    /// Index of the filter that applies.
    fn found(table: &FilterTable, to: &str, ttl: u16) -> Option<u32> {
        let lanes = packet(to, ttl);
        let list = table.list_for(PLAN.destination(&lanes)?, &lanes)?;
        list.find(Kernel::detect(), &lanes, 0, Role::Syn, &[], Timestamp::ZERO).map(|entry| entry.counter)
    }

    #[test]
    fn the_most_specific_filter_decides_first() {
        let filters = [
            filter(1, "web", "", 64),
            filter(2, "web", "203.0.113.0/24", 64),
            filter(3, "web", "203.0.113.9", 64),
            filter(4, "web", "203.0.113.9", 64),
            filter(5, "web", "", 63),
        ];
        let table = build(&filters);
        assert_eq!(found(&table, "203.0.113.9", 64), Some(2));
        assert_eq!(found(&table, "203.0.113.8", 64), Some(1));
        assert_eq!(found(&table, "192.0.2.1", 64), Some(0));
        assert_eq!(found(&table, "203.0.113.9", 63), Some(4), "the zone's filters reach a host with its own");
        assert_eq!(found(&table, "192.0.2.129", 64), None, "another zone");
        assert_eq!(found(&table, "198.51.100.1", 64), None, "no zone");
        assert_eq!(table.left_out(), []);
    }

    #[test]
    fn hosts_without_slots_meet_the_longest_prefix_that_covers_them() {
        let filters = [
            filter(1, "web", "2001:db8::/56", 64),
            filter(2, "web", "2001:db8::2", 64),
            filter(3, "mail", "10.128.0.0/9", 64),
            filter(4, "mail", "", 64),
        ];
        let table = build(&filters);
        assert_eq!(found(&table, "2001:db8::2", 64), Some(1));
        assert_eq!(found(&table, "2001:db8::3", 64), Some(0));
        assert_eq!(found(&table, "2001:db8:0:100::3", 64), None);
        assert_eq!(found(&table, "10.200.0.1", 64), Some(2));
        assert_eq!(found(&table, "10.2.0.1", 64), Some(3));
    }

    #[test]
    fn a_protected_address_meets_no_filter() {
        let table = build(&[
            filter(1, "web", "", 64),
            filter(2, "web", "203.0.113.0/24", 64),
            filter(3, "web", "203.0.113.1", 64),
            filter(4, "mail", "", 64),
            filter(5, "mail", "2001:db8:1:1::5", 64),
        ]);
        for protected in ["203.0.113.1", "10.1.2.3", "2001:db8::1", "2001:db8:1:1::5", "2001:db8:1:1::6"] {
            assert_eq!(found(&table, protected, 64), None, "{protected}");
        }
        assert_eq!(found(&table, "10.1.2.4", 64), Some(3));
        assert_eq!(found(&table, "2001:db8::2", 64), Some(0));
    }

    #[test]
    fn a_full_list_keeps_the_most_specific_and_says_what_is_missing() {
        let mut filters: Vec<_> = (0..60).map(|n| filter(n.into(), "web", "", n)).collect();
        filters.extend((60..70).map(|n| filter(n.into(), "web", "203.0.113.9", n)));
        filters.extend((70..80).map(|n| filter(n.into(), "web", "203.0.113.8", n)));
        let table = build(&filters);
        assert_eq!(found(&table, "203.0.113.9", 69), Some(69));
        assert_eq!(found(&table, "203.0.113.9", 53), Some(53));
        assert_eq!(found(&table, "203.0.113.9", 54), None);
        assert_eq!(found(&table, "203.0.113.10", 54), Some(54));
        let missing: Vec<_> = table.left_out().iter().map(|left| (left.filter, left.targets)).collect();
        assert_eq!(missing, (54..60).map(|id| (id, 2)).collect::<Vec<_>>());
        assert_eq!(
            table.left_out()[0].to_string(),
            "filter 54 is not in force on 203.0.113.8 and 1 more: 64 rules of more specific filters come before \
             it, and no list holds more: remove some of them"
        );
    }

    #[test]
    fn what_no_list_can_hold_is_told() {
        let mut holed = filter(1, "web", "", 64);
        holed.rule.except = vec![HeaderBox::any().exact(Lane::Dscp, 1); 17];
        let table = build(&[holed, filter(2, "gone", "", 64), filter(3, "web", "", 64)]);
        let why: Vec<_> = table.left_out().iter().map(|left| (left.filter, left.why)).collect();
        assert_eq!(why, [(1, Obstacle::Exceptions(17)), (2, Obstacle::NoZone)]);
        assert_eq!(found(&table, "203.0.113.9", 64), Some(2), "the others are in force");
    }

    proptest! {
        #[test]
        fn every_host_meets_the_filters_that_reach_it(
            chosen in vec((select(vec!["web", "mail"]), prefix(), 60..64_u16), 0..40),
            to in vec((prefix(), 60..64_u16), 40),
        ) {
            let filters: Vec<_> = (0..).zip(&chosen).map(|(id, (zone, on, ttl))| filter(id, zone, on, *ttl)).collect();
            let table = build(&filters);
            for (on, ttl) in to {
                let to = if on.is_empty() { "203.0.113.9".to_owned() } else { on.split('/').next().unwrap().to_owned() };
                let address: IpAddr = to.parse().unwrap();
                let free = !PLAN.protected().iter().any(|protected| protected.contains(address));
                let zone = PLAN.locate(address).and_then(|place| PLAN.zone(place.zone));
                let mut reaching: Vec<_> = filters
                    .iter()
                    .filter(|f| free && zone.is_some_and(|zone| zone.name == f.target.zone))
                    .filter(|f| f.target.prefix.is_none_or(|prefix| prefix.contains(address)))
                    .collect();
                reaching.sort_by_key(|f| std::cmp::Reverse(f.target.prefix.map(|prefix| prefix.length())));
                let expected = reaching.iter().find(|f| f.rule.contains(&packet(&to, ttl).0, &[]));
                prop_assert_eq!(found(&table, &to, ttl).map(u64::from), expected.map(|f| f.id), "to {}", to);
            }
        }
    }

    /// Prefixes around the plan's zones and protected addresses, by their first address; none: the zone.
    fn prefix() -> impl Strategy<Value = String> {
        let v4 = (select(vec!["203.0.113.0", "192.0.2.0", "192.0.2.128", "10.1.2.0"]), 0..6_u32, 6..=32_u8);
        let v4 = v4.prop_map(|(base, host, length)| {
            let base: std::net::Ipv4Addr = base.parse().unwrap();
            Prefix::containing(IpAddr::V4((u32::from(base) + host).into()), length).to_string()
        });
        let v6 = (select(vec!["2001:db8::", "2001:db8:1::", "2001:db8:1:1::"]), 0..4_u128, 30..=128_u8);
        let v6 = v6.prop_map(|(base, host, length)| {
            let base: std::net::Ipv6Addr = base.parse().unwrap();
            Prefix::containing(IpAddr::V6((u128::from(base) + host).into()), length).to_string()
        });
        prop_oneof![3 => v4, 3 => v6, 1 => Just(String::new())]
    }
}
