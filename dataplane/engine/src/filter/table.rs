//! From a packet's destination to the list that judges it.
//!
//! A filter on a prefix or a zone reaches every host in it, so the lists are merged when the table is built
//! ([`super::builder`]): a host's own filters decide first, then those of the prefixes that cover it, the longest first,
//! then the zone's. A packet meets one list, whatever was installed how.
//!
//! The lookup has two steps, so that memory is fetched ahead of need: [`FilterTable::locate`] reads a word that says
//! where the list is; only the compare itself touches the list. A host without mitigation costs that word and no list. The word
//! is not asked for: the look-ups of a burst are so short that they overlap, and asking was measured to cost more.
//!
//! Memory: 8 bytes per host slot of a /22 that any filter of a host or prefix reaches, 384 bytes per 64 constraints,
//! once for all lists of the same rules, and 32 bytes per rule of a list. 100 000 filters on 10 000 hosts take 5 to 10
//! MB. A filter on a zone is in the list of each host that has filters of its own: 64 rules on 100 000 such hosts take
//! 205 MB.

use std::hint::select_unpredictable;
use std::sync::Arc;

use levee_api::filter::Target;

use super::kernel::{Block, Hits};
use super::list::{Compiled, ListRef, MAX_EXCEPTIONS, MAX_RULES, Rests};
use super::paged::Paged;
use super::prefixes::Prefixes;
use crate::target::plan::Place;

/// Entries are stored in steps of this many: two cache lines.
pub(super) const ENTRY_STEP: usize = 4;

/// All filters in force, by destination. Immutable; part of a table generation, and most of it shared with the one before.
#[derive(Clone, Debug, Default)]
pub struct FilterTable {
    /// The list of each host slot.
    pub(super) slots: Paged<ListId, 1024>,
    /// Lists of hosts and prefixes without slots.
    pub(super) by_prefix: Arc<Prefixes>,
    /// The list of each zone, for hosts that no filter of a host or prefix reaches.
    pub(super) zones: Vec<ListId>,
    pub(super) blocks: Paged<Block, 64>,
    pub(super) entries: Paged<Compiled, 256>,
    pub(super) rests: Rests,
}

/// Which list of a table: where its blocks and its entries are, as one word.
///
/// In the lower half the first block, and in its upper six bits how many follow it; no list begins at block zero. In the upper
/// half the first entry in steps of four, and in its lower seven bits how many there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListId(u64);

/// The list of a prefix, and how long the prefix of the filters is that it came from, plus one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reached {
    pub(super) list: ListId,
    pub(super) by: u8,
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
    /// True when no packet meets any filter.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Asks for what [`Self::of_address`] reads, and says where that is.
    #[inline]
    pub fn prefetch_address(&self, address: u128, is_v4: bool) -> usize {
        self.by_prefix.prefetch(address, is_v4)
    }

    /// The list of a host without a slot. `home` is what [`Self::prefetch_address`] said of it.
    #[inline]
    pub fn of_address(&self, address: u128, is_v4: bool, home: usize) -> ListId {
        self.by_prefix.longest(address, is_v4, home).list
    }

    /// Which list judges packets to a place of the same plan that the table was built for, if one does; for hosts without a slot
    /// `of_address` is theirs.
    #[inline]
    pub fn locate(&self, place: Place, of_address: ListId) -> ListId {
        let own = if place.hashed { of_address } else { self.slots.get(place.slot).copied().unwrap_or_default() };
        let of_zone = self.zones.get(usize::from(place.zone)).copied().unwrap_or_default();
        // Whether a host has filters of its own, nobody can guess.
        select_unpredictable(own == ListId::ZONE, of_zone, own)
    }

    /// A list of this table.
    #[inline]
    pub fn list(&self, id: ListId) -> ListRef<'_> {
        let (first, blocks) = id.blocks();
        let (entry, entries) = id.entries();
        ListRef {
            blocks: self.blocks.run(first, blocks),
            entries: self.entries.run(entry, entries),
            rests: &self.rests,
            first,
        }
    }

    /// What a compare with a list begins with; a block without boxes if it is none.
    #[inline]
    pub(crate) fn first_block(&self, id: ListId) -> &Block {
        self.blocks.get(id.blocks().0).unwrap_or(&Block::EMPTY)
    }

    /// The entry of the first rule of a list that matches, `hits` the boxes of its first block: the one that applies, most
    /// often. Another, if none matches.
    #[inline]
    pub(crate) fn first_entry(&self, id: ListId, hits: &Hits) -> &Compiled {
        self.entries.get(id.entries().0 + hits.first).unwrap_or(&Compiled::NONE)
    }
}

impl ListId {
    /// The zone's, if it has one.
    pub(super) const ZONE: Self = Self(0);
    /// None at all: the address is protected from filters.
    pub(super) const NONE: Self = Self(1 << 32);

    pub(super) fn new(first_block: u32, blocks: usize, first_entry: u32, entries: usize) -> Self {
        let small = |count: usize| u32::try_from(count).unwrap_or(0);
        let blocks = (small(blocks.saturating_sub(1)) << 26) | first_block;
        let entries = ((first_entry / small(ENTRY_STEP)) << 7) | small(entries);
        Self(u64::from(entries) << 32 | u64::from(blocks))
    }

    /// False when it stands for no list at all.
    #[inline]
    pub fn is_list(self) -> bool {
        self.0 & 0xffff_ffff != 0
    }

    /// True when the first block is not all of it.
    #[inline]
    pub(crate) fn has_more_blocks(self) -> bool {
        self.0 >> 26 & 0x3f != 0
    }

    /// The first block, and how many there are.
    #[inline]
    pub(super) fn blocks(self) -> (u32, usize) {
        ((self.0 & 0x3ff_ffff) as u32, (self.0 >> 26 & 0x3f) as usize + 1)
    }

    /// The first entry, and how many there are.
    #[inline]
    pub(super) fn entries(self) -> (u32, usize) {
        ((self.0 >> 39) as u32 * 4, (self.0 >> 32 & 0x7f) as usize)
    }
}

fn more(targets: usize) -> String {
    if targets > 1 { format!(" and {} more", targets - 1) } else { String::new() }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::LazyLock;

    use levee_api::filter::{Action, Filter, HeaderBox, Origin, Rule};
    use levee_api::lane::{Bits, Lane};
    use levee_api::prefix::Prefix;
    use levee_api::role::{Role, RoleSet};
    use levee_api::time::Timestamp;
    use levee_api::zone::{Challenge, Mode, Visibility, Zone};
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::super::{Rank, TableBuilder};
    use super::*;
    use crate::isa::Isa;
    use crate::packet::{Lanes, address};
    use crate::target::plan::Plan;

    fn zone(name: &str, prefixes: &[&str]) -> Zone {
        Zone {
            name: name.to_owned(),
            prefixes: prefixes.iter().map(|text| text.parse().unwrap()).collect(),
            mode: Mode::Enforce,
            services: Vec::new(),
            services_complete: false,
            visibility: Visibility::Auto,
            challenge: Challenge::default(),
            challenge_dns: false,
            link_capacity_bps: None,
            floors: Vec::new(),
            runbook: None,
        }
    }

    /// Hosts with and without slots, a /24 that two zones share, and protected addresses among all of them.
    static PLAN: LazyLock<Arc<Plan>> = LazyLock::new(|| {
        let zones = [
            zone("web", &["203.0.113.0/24", "192.0.2.0/25", "2001:db8::/48"]),
            zone("mail", &["192.0.2.128/25", "10.0.0.0/8", "2001:db8:1::/48"]),
        ];
        let protected = ["203.0.113.1", "10.1.2.0/30", "2001:db8::1", "2001:db8:1:1::/64"];
        Arc::new(Plan::new(&zones, &protected.map(|text| text.parse().unwrap())).unwrap())
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

    /// A builder that has these filters, and the table that it made of them.
    fn build(filters: &[Filter]) -> (TableBuilder, FilterTable) {
        let mut builder = TableBuilder::default();
        for (filter, counter) in filters.iter().zip(0..) {
            builder.put(filter, counter, rank(filter));
        }
        let table = builder.advance(&PLAN, usize::MAX).unwrap();
        (builder, table)
    }

    impl FilterTable {
        /// The list that judges packets to a place: both steps in one.
        pub fn list_for(&self, place: Place, lanes: &Lanes) -> Option<ListRef<'_>> {
            let (address, is_v4) = (address(lanes.destination()), !lanes.bits().contains(Bits::IPV6));
            let of_address = self.of_address(address, is_v4, self.prefetch_address(address, is_v4));
            Some(self.locate(place, of_address)).filter(|id| id.is_list()).map(|id| self.list(id))
        }
    }

    fn rank(filter: &Filter) -> Rank {
        Rank { class: 0, number: filter.id }
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
        list.find(Isa::detect(), &lanes, 0, Role::Syn, &[], Timestamp::ZERO).map(|entry| entry.counter)
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
        let (builder, table) = build(&filters);
        assert_eq!(found(&table, "203.0.113.9", 64), Some(2));
        assert_eq!(found(&table, "203.0.113.8", 64), Some(1));
        assert_eq!(found(&table, "192.0.2.1", 64), Some(0));
        assert_eq!(found(&table, "203.0.113.9", 63), Some(4), "the zone's filters reach a host with its own");
        assert_eq!(found(&table, "192.0.2.129", 64), None, "another zone");
        assert_eq!(found(&table, "198.51.100.1", 64), None, "no zone");
        assert_eq!(builder.left_out().next(), None);
    }

    #[test]
    fn hosts_without_slots_meet_the_longest_prefix_that_covers_them() {
        let filters = [
            filter(1, "web", "2001:db8::/56", 64),
            filter(2, "web", "2001:db8::2", 64),
            filter(3, "mail", "10.128.0.0/9", 64),
            filter(4, "mail", "", 64),
        ];
        let (_, table) = build(&filters);
        assert_eq!(found(&table, "2001:db8::2", 64), Some(1));
        assert_eq!(found(&table, "2001:db8::3", 64), Some(0));
        assert_eq!(found(&table, "2001:db8:0:100::3", 64), None);
        assert_eq!(found(&table, "10.200.0.1", 64), Some(2));
        assert_eq!(found(&table, "10.2.0.1", 64), Some(3));
    }

    #[test]
    fn a_protected_address_meets_no_filter() {
        let (_, table) = build(&[
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
        let (builder, table) = build(&filters);
        assert_eq!(found(&table, "203.0.113.9", 69), Some(69));
        assert_eq!(found(&table, "203.0.113.9", 53), Some(53));
        assert_eq!(found(&table, "203.0.113.9", 54), None);
        assert_eq!(found(&table, "203.0.113.10", 54), Some(54));
        let missing: Vec<_> = builder.left_out().map(|left| (left.filter, left.targets)).collect();
        assert_eq!(missing, (54..60).map(|id| (id, 2)).collect::<Vec<_>>());
        assert_eq!(
            builder.left_out().next().unwrap().to_string(),
            "filter 54 is not in force on 203.0.113.8 and 1 more: 64 rules of more specific filters come before \
             it, and no list holds more: remove some of them"
        );
    }

    #[test]
    fn what_no_list_can_hold_is_told() {
        let mut holed = filter(1, "web", "", 64);
        holed.rule.except = vec![HeaderBox::any().exact(Lane::Dscp, 1); 17];
        let (builder, table) = build(&[holed, filter(2, "gone", "", 64), filter(3, "web", "", 64)]);
        let why: Vec<_> = builder.left_out().map(|left| (left.filter, left.why)).collect();
        assert_eq!(why, [(1, Obstacle::Exceptions(17)), (2, Obstacle::NoZone)]);
        assert_eq!(found(&table, "203.0.113.9", 64), Some(2), "the others are in force");
    }

    #[test]
    fn hosts_without_slots_go_back_to_the_wider_filter_as_it_is_then() {
        let narrow = filter(1, "web", "2001:db8::/49", 60);
        let wide = filter(2, "web", "2001:db8::/32", 61);
        let (mut builder, _) = build(&[narrow.clone(), wide]);
        builder.remove(&narrow.target, rank(&narrow));
        builder.advance(&PLAN, usize::MAX);
        builder.put(&filter(3, "web", "", 62), 2, rank(&filter(3, "web", "", 62)));
        let table = builder.advance(&PLAN, usize::MAX).unwrap();
        assert_eq!([60, 61, 62].map(|ttl| found(&table, "2001:db8::2", ttl)), [None, Some(1), Some(2)]);
    }

    proptest! {
        #[test]
        fn every_host_meets_the_filters_that_reach_it(
            chosen in vec((select(vec!["web", "mail"]), prefix(), 60..64_u16), 0..40),
            to in vec((prefix(), 60..64_u16), 40),
        ) {
            let filters: Vec<_> = (0..).zip(&chosen).map(|(id, (zone, on, ttl))| filter(id, zone, on, *ttl)).collect();
            let (_, table) = build(&filters);
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

    /// The zones the other way round, one of them without one of its prefixes.
    static OTHER_PLAN: LazyLock<Arc<Plan>> = LazyLock::new(|| {
        let zones = [
            zone("mail", &["192.0.2.128/25", "2001:db8:1::/48"]),
            zone("web", &["203.0.113.0/24", "192.0.2.0/25", "2001:db8::/48"]),
        ];
        Arc::new(Plan::new(&zones, &["203.0.113.3".parse().unwrap()]).unwrap())
    });

    #[derive(Clone, Debug)]
    enum Step {
        Put { id: u64, to: usize, ttl: u16 },
        Remove { id: u64 },
        Advance { lists: usize },
        Replan,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        vec(
            prop_oneof![
                6 => (0..90_u64, 0..12_usize, 60..64_u16).prop_map(|(id, to, ttl)| Step::Put { id, to, ttl }),
                3 => (0..90_u64).prop_map(|id| Step::Remove { id }),
                3 => (0..4_usize).prop_map(|lists| Step::Advance { lists }),
                1 => Just(Step::Replan),
            ],
            0..300,
        )
    }

    proptest! {
        /// However the filters in force came to be: in the end the table is as if it had been built of them at once, a
        /// generation stays as it was published, and nothing is left of what is gone.
        #[test]
        fn changes_lead_to_the_same_table_as_building_anew(
            targets in vec((select(vec!["web", "mail", "gone"]), prefix()), 12),
            steps in steps(),
            to in vec((prefix(), 60..64_u16), 20),
        ) {
            let answers = |table: &FilterTable, plan: &Plan| -> Vec<Option<u32>> {
                to.iter().map(|(on, ttl)| {
                    let to = if on.is_empty() { "203.0.113.9" } else { on.split('/').next().unwrap() };
                    let lanes = packet(to, *ttl);
                    let list = table.list_for(plan.destination(&lanes)?, &lanes)?;
                    let found = list.find(Isa::detect(), &lanes, 0, Role::Syn, &[], Timestamp::ZERO);
                    found.map(|entry| entry.counter)
                }).collect()
            };
            let (mut builder, mut in_force) = (TableBuilder::default(), std::collections::BTreeMap::new());
            let (mut plan, mut before) = (Arc::clone(&PLAN), None);
            for step in steps {
                match step {
                    Step::Put { id, to, ttl } => {
                        // A filter keeps its target for as long as it is in force.
                        let (zone, on) = &targets[(to + usize::try_from(id).unwrap()) % targets.len()];
                        let new = filter(id, zone, on, ttl);
                        if in_force.get(&id).is_none_or(|known: &Filter| known.target == new.target) {
                            builder.put(&new, u32::try_from(id).unwrap(), rank(&new));
                            in_force.insert(id, new);
                        }
                    }
                    Step::Remove { id } => {
                        if let Some(known) = in_force.remove(&id) {
                            builder.remove(&known.target, rank(&known));
                        }
                    }
                    Step::Advance { lists } => {
                        if let Some(table) = builder.advance(&plan, lists) {
                            let now = answers(&table, &plan);
                            before = Some((table, Arc::clone(&plan), now));
                        }
                    }
                    Step::Replan => plan = Arc::clone(if Arc::ptr_eq(&plan, &PLAN) { &OTHER_PLAN } else { &PLAN }),
                }
            }
            builder.advance(&plan, usize::MAX);
            prop_assert!(!builder.is_behind());
            let table = builder.current();
            let mut anew = TableBuilder::default();
            for (id, filter) in &in_force {
                anew.put(filter, u32::try_from(*id).unwrap(), rank(filter));
            }
            anew.advance(&plan, usize::MAX);
            prop_assert_eq!(answers(table, &plan), answers(anew.current(), &plan));
            prop_assert!(builder.left_out().eq(anew.left_out()));
            if let Some((table, plan, then)) = before {
                prop_assert_eq!(answers(&table, &plan), then, "a generation does not change");
            }
            for filter in in_force.values() {
                builder.remove(&filter.target, rank(filter));
            }
            builder.advance(&plan, usize::MAX);
            prop_assert!(builder.is_empty());
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
