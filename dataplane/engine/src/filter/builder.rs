//! What keeps the filter table: told of each filter that comes, changes or goes, it compiles the lists concerned and no
//! others, and shares the rest of the table with the generations before.
//!
//! Filters are grouped by target. The list of a target has its own filters and those of everything that covers it, so a
//! filter on a prefix or a zone changes the lists of all targets inside too. Work is done in bounded parts: first the
//! targets that were changed themselves, in order, then, in sweeps, those that a change reaches from above. Until a sweep
//! has come by, a target keeps the list it had: a change of a wide filter is in force at once wherever nothing more
//! specific is, and a while later on the rest. Entries carry their deadlines, so that no filter outlives its own.
//!
//! Lists of the same rules share their blocks, whatever is done with a packet that matches and wherever that is counted.
//! Memory beside the table: about 100 bytes per filter, 250 per target, 300 per different rule.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::ops::Bound;
use std::sync::Arc;

use levee_api::filter::{Action, Filter, Rule, Target};
use levee_api::prefix::Prefix;
use levee_api::role::RoleSet;
use levee_api::time::Timestamp;

use super::list::{Layout, MAX_EXCEPTIONS, MAX_RULES};
use super::paged::{Paged, Runs};
use super::table::{ENTRY_STEP, FilterTable, LeftOut, ListId, Obstacle, Reached};
use crate::target::plan::{Place, Plan};

/// Marks the slots of protected addresses: no filter reaches them.
const PROTECTED: u8 = u8::MAX;
/// Targets that a sweep may pass over for the work of compiling one list.
const PASSED_PER_LIST: usize = 64;

/// The place of a filter among those of its target: the smallest decides first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    /// What kind of filter; the smallest first.
    pub class: u8,
    /// Its number among those: the oldest first.
    pub number: u64,
}

/// All filters, and the table that they make.
#[derive(Default)]
pub struct TableBuilder {
    zones: Zones,
    groups: BTreeMap<Reach, Group>,
    /// How many groups there are on prefixes of a zone, a family and a length.
    lengths: BTreeMap<(u16, bool, u8), usize>,
    rules: Rules,
    layouts: HashMap<Arc<[RuleId]>, Shared>,
    block_runs: Runs,
    entry_runs: Runs,
    /// Of each slot: by how long a prefix its list was placed there, plus one.
    owners: Vec<u8>,
    plan: Option<Arc<Plan>>,
    due: VecDeque<Reach>,
    sweeps: VecDeque<Sweep>,
    table: FilterTable,
    changed: bool,
    missing: BTreeMap<u64, Missing>,
    newly_missing: BTreeSet<u64>,
}

/// What filters are grouped by. In order, so that whatever covers a target comes before it: the zone, then its prefixes
/// from the widest to the hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Reach {
    zone: u16,
    /// Length of the prefix plus one; zero: the whole zone.
    length: u8,
    ipv6: bool,
    /// First address; IPv4 in the low 32 bits.
    first: u128,
}

/// The filters of one target, and the list that they and what covers them make.
#[derive(Debug, Default)]
struct Group {
    held: BTreeMap<Rank, Held>,
    list: Option<Installed>,
    /// Filters that the list has no room for.
    missing: Vec<u64>,
    /// It waits to be compiled.
    is_due: bool,
    /// A sweep of what it covers waits to begin.
    is_swept: bool,
}

/// A filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    filter: u64,
    deadline: Timestamp,
    action: Action,
    counter: u32,
    rule: RuleId,
    roles: RoleSet,
}

#[derive(Debug)]
struct Installed {
    rules: Arc<[RuleId]>,
    id: ListId,
}

/// Rules compiled together, and how many lists are made of them.
#[derive(Debug)]
struct Shared {
    layout: Layout,
    first_block: u32,
    users: usize,
}

/// The lists below a target, to be compiled again.
#[derive(Debug)]
struct Sweep {
    of: Reach,
    /// The last that was.
    after: Reach,
}

/// Where a filter is missing.
#[derive(Debug)]
struct Missing {
    why: Obstacle,
    on: BTreeSet<Reach>,
}

impl TableBuilder {
    /// Puts a filter in force, or what has changed of it. `counter`: index of its counters and of its limiter. A filter
    /// keeps its rank and its target for as long as it is in force.
    pub fn put(&mut self, filter: &Filter, counter: u32, rank: Rank) {
        let reach = self.reach(&filter.target);
        let held = Held {
            filter: filter.id,
            deadline: filter.deadline,
            action: filter.action,
            counter,
            rule: self.rules.take(&filter.rule),
            roles: filter.roles,
        };
        let group = match self.groups.entry(reach) {
            std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::btree_map::Entry::Vacant(new) => {
                *self.lengths.entry(reach.family()).or_default() += 1;
                new.insert(Group::default())
            }
        };
        let before = group.held.insert(rank, held);
        if let Some(before) = before {
            self.rules.give(before.rule);
        }
        if before != Some(held) {
            self.mark(reach);
        }
    }

    /// Takes a filter out of force.
    pub fn remove(&mut self, target: &Target, rank: Rank) {
        let reach = self.reach(target);
        let Some(held) = self.groups.get_mut(&reach).and_then(|group| group.held.remove(&rank)) else { return };
        self.rules.give(held.rule);
        self.mark(reach);
    }

    /// True when changes wait to be put into force.
    pub fn is_behind(&self) -> bool {
        !self.due.is_empty() || !self.sweeps.is_empty()
    }

    /// Compiles up to `most` lists (about 2 µs each) that wait for it, and returns a table if it is another than the one
    /// returned last. Under another plan than before, all lists are placed anew, at once.
    pub fn advance(&mut self, plan: &Arc<Plan>, most: usize) -> Option<FilterTable> {
        if !self.plan.as_ref().is_some_and(|known| Arc::ptr_eq(known, plan)) {
            self.replan(plan);
        }
        let mut left = most;
        while left > 0 {
            let Some(reach) = self.due.pop_front().or_else(|| self.sweep()) else { break };
            self.compile(reach);
            left -= 1;
        }
        std::mem::take(&mut self.changed).then(|| self.table.clone())
    }

    /// Filters that are not in force everywhere that their targets say, in order of their ids.
    pub fn left_out(&self) -> impl Iterator<Item = LeftOut> {
        self.missing.keys().filter_map(|filter| self.left_out_of(*filter))
    }

    /// How many those are.
    pub fn left_out_count(&self) -> usize {
        self.missing.len()
    }

    /// Up to `most` of them that have not been returned yet, since they were last in force everywhere.
    pub fn take_left_out(&mut self, most: usize) -> Vec<LeftOut> {
        let newly = std::iter::from_fn(|| self.newly_missing.pop_first()).take(most).collect::<Vec<_>>();
        newly.into_iter().filter_map(|filter| self.left_out_of(filter)).collect()
    }

    /// The table as it is, published or not.
    pub fn current(&self) -> &FilterTable {
        &self.table
    }

    /// True when nothing is kept of any filter.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        let none_kept = self.groups.is_empty() && self.layouts.is_empty() && self.rules.ids.is_empty();
        none_kept
            && self.lengths.is_empty()
            && self.missing.is_empty()
            && self.entry_runs.taken() == 0
            && self.block_runs.taken() <= 1
    }

    fn left_out_of(&self, filter: u64) -> Option<LeftOut> {
        let Missing { why, on } = self.missing.get(&filter)?;
        let first = *on.first()?;
        let target = Target { zone: self.zones.name(first.zone), prefix: first.prefix() };
        Some(LeftOut { filter, first: target, targets: on.len(), why: *why })
    }

    fn reach(&mut self, target: &Target) -> Reach {
        let plan = self.plan.as_deref();
        Reach::of(self.zones.number(&target.zone, plan), target.prefix.as_ref())
    }

    fn mark(&mut self, reach: Reach) {
        let Some(group) = self.groups.get_mut(&reach) else { return };
        if !std::mem::replace(&mut group.is_due, true) {
            self.due.push_back(reach);
        }
        if !reach.is_host() && !std::mem::replace(&mut group.is_swept, true) {
            self.sweeps.push_back(Sweep { of: reach, after: reach });
        }
    }

    /// The next target that a change from above reaches.
    fn sweep(&mut self) -> Option<Reach> {
        while let Some(sweep) = self.sweeps.front_mut() {
            let Sweep { of, after } = *sweep;
            if of == after
                && let Some(group) = self.groups.get_mut(&of)
            {
                group.is_swept = false;
            }
            let zone_ends = Reach { length: u8::MAX, ipv6: true, first: u128::MAX, ..of };
            let mut rest = self.groups.range((Bound::Excluded(after), Bound::Included(zone_ends)));
            match rest.by_ref().take(PASSED_PER_LIST).find(|(reach, _)| of.covers(reach)) {
                Some((reach, _)) => {
                    sweep.after = *reach;
                    return Some(*reach);
                }
                None => match self
                    .groups
                    .range((Bound::Excluded(after), Bound::Included(zone_ends)))
                    .nth(PASSED_PER_LIST - 1)
                {
                    Some((reach, _)) => sweep.after = *reach,
                    None => {
                        self.sweeps.pop_front();
                    }
                },
            }
        }
        None
    }

    /// Makes the list of a target anew.
    fn compile(&mut self, reach: Reach) {
        let Some(group) = self.groups.get_mut(&reach) else { return };
        group.is_due = false;
        let known = self.zones.planned(reach.zone).is_some();
        let mut entries: Vec<Held> = group.held.values().copied().collect();
        let own = entries.len();
        let fits = |held: &&Held| self.rules.exceptions(held.rule) <= MAX_EXCEPTIONS;
        if own > 0 && known {
            let wider = self.covering(reach).flat_map(|wider| wider.held.values());
            entries.extend(wider.filter(fits).take(MAX_RULES));
        }
        let list: Vec<Held> = entries.iter().filter(fits).take(if known { MAX_RULES } else { 0 }).copied().collect();
        let mut missing = Vec::new();
        if list.len() < entries.len() {
            let mut listed = 0;
            for held in &entries {
                let exceptions = self.rules.exceptions(held.rule);
                let why = if !known {
                    Obstacle::NoZone
                } else if exceptions > MAX_EXCEPTIONS {
                    Obstacle::Exceptions(exceptions)
                } else if listed < MAX_RULES {
                    listed += 1;
                    continue;
                } else {
                    Obstacle::Full
                };
                missing.push((held.filter, why));
            }
        }
        self.tell_missing(reach, &missing);
        self.install(reach, &list);
        if own == 0 {
            self.groups.remove(&reach);
            if let Some(count) = self.lengths.get_mut(&reach.family()) {
                *count -= 1;
                if *count == 0 {
                    self.lengths.remove(&reach.family());
                }
            }
        }
    }

    fn tell_missing(&mut self, reach: Reach, missing: &[(u64, Obstacle)]) {
        let Some(group) = self.groups.get_mut(&reach) else { return };
        let before = std::mem::replace(&mut group.missing, missing.iter().map(|(filter, _)| *filter).collect());
        for (filter, why) in missing {
            let known = self.missing.entry(*filter).or_insert_with(|| {
                self.newly_missing.insert(*filter);
                Missing { why: *why, on: BTreeSet::new() }
            });
            known.on.insert(reach);
        }
        let still: BTreeSet<u64> = missing.iter().map(|(filter, _)| *filter).collect();
        for filter in before.into_iter().filter(|filter| !still.contains(filter)) {
            if let Some(known) = self.missing.get_mut(&filter) {
                known.on.remove(&reach);
                if known.on.is_empty() {
                    self.missing.remove(&filter);
                    self.newly_missing.remove(&filter);
                }
            }
        }
    }

    /// The groups that cover a target, the narrowest first, the zone last.
    fn covering(&self, reach: Reach) -> impl Iterator<Item = &Group> {
        self.covering_prefixes(reach)
            .chain((reach.length > 0).then(|| Reach::of(reach.zone, None)))
            .filter_map(|wider| self.groups.get(&wider))
    }

    fn covering_prefixes(&self, reach: Reach) -> impl Iterator<Item = Reach> {
        let lengths = self.lengths.range((reach.zone, reach.ipv6, 1)..(reach.zone, reach.ipv6, reach.length.max(1)));
        lengths.rev().map(move |((.., length), _)| reach.widened(*length))
    }

    /// Writes a target's list, and says where it applies what list.
    fn install(&mut self, reach: Reach, list: &[Held]) {
        let rules: Arc<[RuleId]> = list.iter().map(|held| held.rule).collect();
        let before = self.groups.get_mut(&reach).and_then(|group| group.list.take());
        // Taken before the list before is given back, whose blocks they may be.
        let (blocks, count) = if list.is_empty() { ((0, 0), 0) } else { self.take_blocks(&rules) };
        let steps = |entries: usize| entries.div_ceil(ENTRY_STEP);
        let entry = match &before {
            Some(Installed { id, .. }) if id.is_list() && count > 0 && steps(id.entries().1) == steps(count) => {
                id.entries().0
            }
            _ => {
                if let Some(Installed { id, .. }) = &before
                    && id.is_list()
                {
                    self.entry_runs.give(id.entries().0 / 4);
                }
                if count > 0 { self.entry_runs.take(u32::try_from(steps(count)).unwrap_or(1)) * 4 } else { 0 }
            }
        };
        if let Some(Installed { rules, .. }) = &before {
            self.give_blocks(rules);
        }
        if let Some(Shared { layout, .. }) = self.layouts.get(&rules) {
            let does = list.iter().map(|held| (held.deadline, held.action, held.counter, held.roles));
            for (at, compiled) in self.table.entries.run_mut(entry, count).iter_mut().zip(layout.fill(does)) {
                *at = compiled;
            }
        }
        self.changed = true;
        let id = if count > 0 { ListId::new(blocks.0, blocks.1, entry, count) } else { ListId::NONE };
        let is_gone = list.is_empty();
        if before.as_ref().map(|before| before.id) != (!is_gone).then_some(id) {
            self.place(reach, (!is_gone).then_some(id));
        }
        if let Some(group) = self.groups.get_mut(&reach) {
            group.list = (!is_gone).then_some(Installed { rules, id });
        }
    }

    /// The blocks of some rules, as where they begin and how many there are, and how many entries a list of them has.
    fn take_blocks(&mut self, rules: &Arc<[RuleId]>) -> ((u32, usize), usize) {
        if let Some(shared) = self.layouts.get_mut(rules) {
            shared.users += 1;
            return ((shared.first_block, shared.layout.blocks.len()), shared.layout.entries());
        }
        let compiled: Vec<Arc<Rule>> = rules.iter().filter_map(|rule| self.rules.keep(*rule)).collect();
        let layout = Layout::of(compiled.iter());
        let count = layout.blocks.len();
        let mut first_block = self.block_runs.take(u32::try_from(count).unwrap_or(1));
        if first_block == 0 {
            // It stays taken: no list begins at block zero.
            first_block = self.block_runs.take(u32::try_from(count).unwrap_or(1));
        }
        for (at, block) in self.table.blocks.run_mut(first_block, count).iter_mut().zip(&layout.blocks) {
            *at = *block;
        }
        if layout.rest.is_some()
            && let Some(at) = self.table.rests.get_mut(first_block)
        {
            at.clone_from(&layout.rest);
        }
        let entries = layout.entries();
        self.layouts.insert(Arc::clone(rules), Shared { layout, first_block, users: 1 });
        ((first_block, count), entries)
    }

    fn give_blocks(&mut self, rules: &Arc<[RuleId]>) {
        let Some(shared) = self.layouts.get_mut(rules) else { return };
        shared.users -= 1;
        if shared.users > 0 {
            return;
        }
        if let Some(Shared { layout, first_block, .. }) = self.layouts.remove(rules) {
            self.block_runs.give(first_block);
            if layout.rest.is_some()
                && let Some(at) = self.table.rests.get_mut(first_block)
            {
                *at = None;
            }
        }
        rules.iter().for_each(|rule| self.rules.give(*rule));
    }
}

impl TableBuilder {
    /// Places everything anew.
    fn replan(&mut self, plan: &Arc<Plan>) {
        self.plan = Some(Arc::clone(plan));
        self.changed = true;
        self.zones.replan(plan);
        self.owners = vec![0; plan.slots()];
        self.table.slots = Paged::default();
        self.table.by_prefix = Arc::default();
        self.table.zones = vec![ListId::ZONE; plan.zones().len()];
        self.protect(plan);
        let placed: Vec<(Reach, Option<ListId>)> =
            self.groups.iter().map(|(reach, group)| (*reach, group.list.as_ref().map(|list| list.id))).collect();
        for (reach, id) in placed {
            match (self.zones.planned(reach.zone).is_some(), id) {
                (true, Some(id)) => self.place(reach, Some(id)),
                // It has come, or is gone.
                (true, None) | (false, Some(_)) => self.mark(reach),
                (false, None) => {}
            }
        }
    }

    /// Protected addresses get no list, not even their zone's.
    fn protect(&mut self, plan: &Plan) {
        for zone in 0..u16::try_from(plan.zones().len()).unwrap_or(u16::MAX) {
            for part in plan.protected().iter().flat_map(|protected| parts(plan, zone, protected)) {
                match (plan.locate(part.address()), part.address()) {
                    (Some(Place { hashed: true, .. }), _) => self.set_prefix(part, ListId::NONE, PROTECTED),
                    (Some(_), IpAddr::V4(first)) => {
                        let last = u32::from(first) | u32::MAX.checked_shr(u32::from(part.length())).unwrap_or(0);
                        for place in (first..=last.into()).filter_map(|address| plan.locate(address.into())) {
                            self.set_slot(place.slot, ListId::NONE, PROTECTED);
                        }
                    }
                    _ => {}
                }
            }
        }
    }

    /// Gives the hosts of a target its list; none: that of what covers it.
    fn place(&mut self, reach: Reach, id: Option<ListId>) {
        let Some(plan) = self.plan.clone() else { return };
        let Some(zone) = self.zones.planned(reach.zone) else { return };
        let Some(prefix) = reach.prefix() else {
            if let Some(at) = self.table.zones.get_mut(usize::from(zone)) {
                *at = id.unwrap_or(ListId::ZONE);
            }
            return;
        };
        if plan.protected().iter().any(|protected| protected.covers(&prefix)) {
            return;
        }
        let wider = || {
            let installed = |wider: Reach| Some((self.groups.get(&wider)?.list.as_ref()?.id, wider.length));
            self.covering_prefixes(reach).find_map(installed).unwrap_or((ListId::ZONE, 0))
        };
        let (list, by) = id.map_or_else(wider, |id| (id, reach.length));
        for part in parts(&plan, zone, &prefix) {
            match plan.locate(part.address()) {
                Some(Place { hashed: true, .. }) => {
                    let known = self.table.by_prefix.get(&part).map_or(0, |known| known.by);
                    // The longest prefix is asked first: only what is as long can take the place of one that goes.
                    let is_whole = plan.zone(zone).is_some_and(|zone| zone.prefixes.contains(&part));
                    let (list, by) = if id.is_some() || is_whole { (list, by) } else { (ListId::ZONE, 0) };
                    if known <= reach.length {
                        self.set_prefix(part, list, by);
                    }
                }
                Some(Place { slot, .. }) if part.is_host() => self.give_slot(slot, reach, list, by),
                _ => {
                    for slot in plan.direct_slots(&part).into_iter().flatten() {
                        self.give_slot(slot, reach, list, by);
                    }
                }
            }
        }
    }

    /// Gives a slot a list, unless something more specific has it.
    fn give_slot(&mut self, slot: u32, of: Reach, list: ListId, by: u8) {
        let owner = usize::try_from(slot).ok().and_then(|at| self.owners.get(at)).copied();
        if owner.is_some_and(|owner| owner <= of.length) {
            self.set_slot(slot, list, by);
        }
    }

    fn set_slot(&mut self, slot: u32, list: ListId, by: u8) {
        if let Some(owner) = usize::try_from(slot).ok().and_then(|at| self.owners.get_mut(at)) {
            *owner = by;
        }
        if let Some(at) = self.table.slots.get_mut(slot) {
            *at = list;
        }
    }

    fn set_prefix(&mut self, prefix: Prefix, list: ListId, by: u8) {
        let by_prefix = Arc::make_mut(&mut self.table.by_prefix);
        if by == 0 {
            by_prefix.remove(&prefix);
        } else {
            by_prefix.insert(&prefix, Reached { list, by });
        }
    }
}

/// What a prefix and a zone have in common.
fn parts(plan: &Plan, zone: u16, prefix: &Prefix) -> Vec<Prefix> {
    let own = plan.zone(zone).map_or(&[][..], |zone| &zone.prefixes);
    own.iter().filter(|own| own.overlaps(prefix)).map(|own| if own.covers(prefix) { *prefix } else { *own }).collect()
}

impl Reach {
    fn of(zone: u16, prefix: Option<&Prefix>) -> Self {
        let Some(prefix) = prefix else { return Self { zone, length: 0, ipv6: false, first: 0 } };
        let first = match prefix.address() {
            IpAddr::V4(v4) => u32::from(v4).into(),
            IpAddr::V6(v6) => u128::from(v6),
        };
        Self { zone, length: prefix.length() + 1, ipv6: !prefix.is_ipv4(), first }
    }

    fn prefix(self) -> Option<Prefix> {
        let length = self.length.checked_sub(1)?;
        let address =
            if self.ipv6 { IpAddr::V6(self.first.into()) } else { IpAddr::V4(u32::try_from(self.first).ok()?.into()) };
        Some(Prefix::containing(address, length))
    }

    fn is_host(self) -> bool {
        self.length == if self.ipv6 { 129 } else { 33 }
    }

    fn family(self) -> (u16, bool, u8) {
        (self.zone, self.ipv6, self.length)
    }

    /// The prefix of another length (plus one) around it.
    fn widened(self, length: u8) -> Self {
        let host_bits = if self.ipv6 { 129 } else { 33 } - u32::from(length);
        let hosts = u128::MAX.checked_shr(128 - host_bits).unwrap_or(0);
        Self { length, first: self.first & !hosts, ..self }
    }

    fn covers(self, other: &Self) -> bool {
        self.zone == other.zone
            && self.length < other.length
            && (self.length == 0 || (self.ipv6 == other.ipv6 && other.widened(self.length) == self))
    }
}

/// Zones have numbers of their own here, which outlive plans.
#[derive(Debug, Default)]
struct Zones {
    numbers: HashMap<String, u16>,
    /// Name, and the index in the plan.
    all: Vec<(String, Option<u16>)>,
}

impl Zones {
    /// More names than there are numbers share the last one, and are in no plan: plans have fewer zones.
    fn number(&mut self, name: &str, plan: Option<&Plan>) -> u16 {
        if let Some(known) = self.numbers.get(name) {
            return *known;
        }
        let Some(number) = u16::try_from(self.all.len()).ok().filter(|number| *number < u16::MAX) else {
            return u16::MAX;
        };
        self.numbers.insert(name.to_owned(), number);
        self.all.push((name.to_owned(), plan.and_then(|plan| plan.zone_named(name))));
        number
    }

    fn name(&self, number: u16) -> String {
        self.all.get(usize::from(number)).map(|(name, _)| name.clone()).unwrap_or_default()
    }

    fn planned(&self, number: u16) -> Option<u16> {
        self.all.get(usize::from(number))?.1
    }

    fn replan(&mut self, plan: &Plan) {
        for (name, index) in &mut self.all {
            *index = plan.zone_named(name);
        }
    }
}

/// A rule among all different ones.
type RuleId = u32;

/// Different rules, by number.
#[derive(Debug, Default)]
struct Rules {
    ids: HashMap<Arc<Rule>, RuleId>,
    /// With how many filters and layouts have it.
    all: Vec<Option<(Arc<Rule>, usize)>>,
    free: Vec<RuleId>,
}

impl Rules {
    fn take(&mut self, rule: &Rule) -> RuleId {
        if let Some(id) = self.ids.get(rule).copied() {
            self.keep(id);
            return id;
        }
        let rule = Arc::new(rule.clone());
        let new = Some((Arc::clone(&rule), 1));
        let id = self.free.pop().unwrap_or_else(|| {
            self.all.push(None);
            RuleId::try_from(self.all.len() - 1).unwrap_or(RuleId::MAX)
        });
        if let Some(at) = usize::try_from(id).ok().and_then(|at| self.all.get_mut(at)) {
            *at = new;
        }
        self.ids.insert(rule, id);
        id
    }

    /// One more user.
    fn keep(&mut self, id: RuleId) -> Option<Arc<Rule>> {
        let (rule, users) = self.all.get_mut(usize::try_from(id).ok()?)?.as_mut()?;
        *users += 1;
        Some(Arc::clone(rule))
    }

    /// One user less.
    fn give(&mut self, id: RuleId) {
        let Some(at) = usize::try_from(id).ok().and_then(|at| self.all.get_mut(at)) else { return };
        let Some((_, users)) = at else { return };
        *users -= 1;
        if *users == 0
            && let Some((rule, _)) = at.take()
        {
            self.ids.remove(&rule);
            self.free.push(id);
        }
    }

    fn exceptions(&self, id: RuleId) -> usize {
        let rule = usize::try_from(id).ok().and_then(|at| self.all.get(at)?.as_ref());
        rule.map_or(0, |(rule, _)| rule.except.len())
    }
}
