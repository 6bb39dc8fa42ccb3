//! What the filters of one target (or one zone, or of everything) compile to.

use std::sync::Arc;

use levee_api::filter::{Action, Rule};
use levee_api::role::{Role, RoleSet};
use levee_api::time::Timestamp;

pub use super::kernel::Hits;
use super::kernel::{self, Block, SLOTS, classed};
use super::paged::Paged;
use crate::isa::Isa;
use crate::packet::Lanes;

/// Rules that a list holds.
pub const MAX_RULES: usize = 64;
/// Exceptions that one rule may have; signature extraction makes at most 8.
pub const MAX_EXCEPTIONS: usize = 16;

/// One rule of a list, and what happens to a packet that it applies to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    /// The entry applies before this, and no longer.
    pub deadline: Timestamp,
    /// What happens.
    pub action: Action,
    /// Index of its counters, and of its limiter if it has one.
    pub counter: u32,
    /// The roles it applies to.
    pub roles: RoleSet,
    /// What matches.
    pub rule: Arc<Rule>,
}

/// Entries in order, compiled: the first that applies decides.
#[derive(Clone, Debug)]
pub struct List {
    blocks: Vec<Block>,
    entries: Vec<Compiled>,
    rests: Rests,
}

/// A list wherever it is kept: the blocks that a packet is compared with, six cache lines each, and behind what matched
/// there an entry, half a line.
#[derive(Clone, Copy, Debug)]
pub struct ListRef<'a> {
    pub(super) blocks: &'a [Block],
    pub(super) entries: &'a [Compiled],
    pub(super) rests: &'a Rests,
    /// The place of the first block, by which the rest is found.
    pub(super) first: u32,
}

/// What a list does with a packet that one of its rules matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(align(32))]
pub struct Compiled {
    /// The entry applies before this, and no longer.
    pub deadline: Timestamp,
    /// Slots in which the exceptions end, in the same block as the rule.
    holes: u64,
    /// What happens.
    pub action: Action,
    /// Index of its counters, and of its limiter if it has one.
    pub counter: u32,
    /// The roles it applies to.
    pub roles: RoleSet,
    /// How many of the rule's exceptions `holes` stands for: a block is 64 constraints, and the rest did not fit.
    packed: u8,
    /// More to look at than the block says: a payload pattern, or exceptions that did not fit.
    has_rest: bool,
}

impl Compiled {
    /// Applies to nothing.
    pub(crate) const NONE: Self = Self {
        deadline: Timestamp::ZERO,
        holes: 0,
        action: Action::Pass,
        counter: 0,
        roles: RoleSet::NONE,
        packed: 0,
        has_rest: false,
    };

    /// True when it certainly applies to a packet that its box contains, `hits` the boxes of its block: the usual case.
    #[inline(always)]
    pub(crate) fn applies_at_once(&self, hits: &Hits, role: Role, now: Timestamp) -> bool {
        (hits.boxes & self.holes == 0) & self.roles.contains(role) & (now < self.deadline) & !self.has_rest
    }
}

impl Default for Compiled {
    fn default() -> Self {
        Self::NONE
    }
}

/// Rules in order, compiled: what lists of the same rules share.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) blocks: Vec<Block>,
    /// Of each rule; none: it matches nothing, and has no box.
    places: Vec<Option<InBlock>>,
    pub(super) rest: Option<Rest>,
}

/// The rules of those entries that have a rest, by the place of the entry.
pub(super) type Rest = Arc<[Option<Arc<Rule>>]>;

/// Rests by the place of the list's first block; apart, because hardly any packet needs one.
pub(super) type Rests = Paged<Option<Rest>, 64>;

/// Where a rule and its exceptions are.
#[derive(Clone, Copy, Debug)]
struct InBlock {
    holes: u64,
    packed: u8,
    has_rest: bool,
}

/// Why entries do not make a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    /// Too many rules.
    #[error("{rules} rules in one list, and a list holds at most {MAX_RULES}: remove or merge filters of this target")]
    Rules {
        /// How many there were.
        rules: usize,
    },
    /// Too many exceptions.
    #[error(
        "rule {rule} of the list has {exceptions} exceptions, and a rule may have at most {MAX_EXCEPTIONS}: split the rule"
    )]
    Exceptions {
        /// Which entry, from 0.
        rule: usize,
        /// How many it had.
        exceptions: usize,
    },
}

impl List {
    /// Compiles at most [`MAX_RULES`] entries; the first that applies to a packet wins.
    pub fn compile(entries: Vec<Entry>) -> Result<Self, ListError> {
        if entries.len() > MAX_RULES {
            return Err(ListError::Rules { rules: entries.len() });
        }
        if let Some((rule, entry)) = entries.iter().enumerate().find(|(_, e)| e.rule.except.len() > MAX_EXCEPTIONS) {
            return Err(ListError::Exceptions { rule, exceptions: entry.rule.except.len() });
        }
        let layout = Layout::of(entries.iter().map(|entry| &entry.rule));
        let entries = layout
            .fill(entries.iter().map(|entry| (entry.deadline, entry.action, entry.counter, entry.roles)))
            .collect();
        let mut rests = Rests::default();
        if let Some(at) = rests.get_mut(0) {
            *at = layout.rest;
        }
        Ok(Self { blocks: layout.blocks, entries, rests })
    }

    /// The list, to be looked at.
    pub fn view(&self) -> ListRef<'_> {
        let Self { blocks, entries, rests } = self;
        ListRef { blocks, entries, rests, first: 0 }
    }

    /// See [`ListRef::find`].
    pub fn find(
        &self,
        isa: Isa,
        lanes: &Lanes,
        class: u16,
        role: Role,
        payload: &[u8],
        now: Timestamp,
    ) -> Option<&Compiled> {
        self.view().find(isa, lanes, class, role, payload, now)
    }
}

impl Layout {
    /// Compiles at most [`MAX_RULES`] rules with at most [`MAX_EXCEPTIONS`] exceptions each.
    pub(super) fn of<'a>(rules: impl ExactSizeIterator<Item = &'a Arc<Rule>>) -> Self {
        let (mut blocks, mut at) = (vec![Block::EMPTY], 0);
        let (mut places, mut rest) = (Vec::with_capacity(rules.len()), Vec::new());
        for rule in rules {
            let block = blocks.last().unwrap_or(&Block::EMPTY);
            let mut placed = if rule.matches.is_empty() { None } else { Placed::behind(block, at, rule) };
            // A rule stays with its exceptions in one block; what does not fit into a whole block stays outside.
            if !rule.matches.is_empty()
                && placed.as_ref().is_none_or(|placed| placed.exceptions < rule.except.len())
                && at > 0
            {
                placed = Placed::behind(&Block::EMPTY, 0, rule);
                blocks.push(Block::EMPTY);
            }
            let Some(placed) = placed else {
                places.push(None);
                continue;
            };
            if let Some(last) = blocks.last_mut() {
                *last = placed.block;
            }
            at = placed.next;
            let has_rest = rule.pattern.is_some() || placed.exceptions < rule.except.len();
            rest.push(has_rest.then(|| Arc::clone(rule)));
            let packed = u8::try_from(placed.exceptions).unwrap_or(u8::MAX);
            places.push(Some(InBlock { holes: placed.holes, packed, has_rest }));
        }
        let rest = rest.iter().any(Option::is_some).then(|| rest.into());
        Self { blocks, places, rest }
    }

    /// The entries of a list of these rules: what each does, in order.
    pub(super) fn fill(
        &self,
        entries: impl Iterator<Item = (Timestamp, Action, u32, RoleSet)>,
    ) -> impl Iterator<Item = Compiled> {
        self.places.iter().zip(entries).filter_map(|(place, (deadline, action, counter, roles))| {
            let InBlock { holes, packed, has_rest } = (*place)?;
            Some(Compiled { deadline, holes, action, counter, roles, packed, has_rest })
        })
    }

    /// How many entries such a list has.
    pub(super) fn entries(&self) -> usize {
        self.places.iter().flatten().count()
    }
}

impl<'a> ListRef<'a> {
    /// The entries, in order.
    #[inline]
    pub fn entries(self) -> &'a [Compiled] {
        self.entries
    }

    /// The first entry that applies: `role` is one of its roles, its deadline is after `now`, and its rule contains the
    /// packet.
    ///
    /// `class` is the packet's source class: it takes the place of the lane, which is not read.
    pub fn find(
        self,
        isa: Isa,
        lanes: &Lanes,
        class: u16,
        role: Role,
        payload: &[u8],
        now: Timestamp,
    ) -> Option<&'a Compiled> {
        let hits = self.blocks.first().map_or(Hits::NONE, |first| kernel::hits(isa, first, lanes, class));
        self.choose(isa, hits, lanes, class, role, payload, now)
    }

    /// Chooses among the boxes that contain a packet, `hits` those of the first block.
    #[inline]
    #[expect(clippy::too_many_arguments, reason = "what is known of a packet, side by side")]
    pub fn choose(
        self,
        isa: Isa,
        hits: Hits,
        lanes: &Lanes,
        class: u16,
        role: Role,
        payload: &[u8],
        now: Timestamp,
    ) -> Option<&'a Compiled> {
        let (mut hits, mut more, mut before) = (hits, self.blocks.iter().skip(1), 0);
        loop {
            let (mut candidates, mut rank) = (hits.boxes & hits.own, hits.first);
            while candidates != 0 {
                let at = before + rank as usize;
                let entry = self.entries.get(at)?;
                if hits.boxes & entry.holes == 0
                    && entry.roles.contains(role)
                    && now < entry.deadline
                    && (!entry.has_rest || self.rest_applies(at, entry.packed, lanes, class, payload))
                {
                    return Some(entry);
                }
                candidates &= candidates - 1;
                rank = kernel::before(hits.own, candidates);
            }
            before += hits.own.count_ones() as usize;
            hits = kernel::hits(isa, more.next()?, lanes, class);
        }
    }

    #[cold]
    fn rest_applies(self, at: usize, packed: u8, lanes: &Lanes, class: u16, payload: &[u8]) -> bool {
        let Some(rule) = self.rests.get(self.first).and_then(|rest| rest.as_ref()?.get(at)?.as_deref()) else {
            return false;
        };
        let lanes = classed(lanes, class);
        rule.pattern.is_none_or(|pattern| pattern.matches(payload))
            && !rule.except.iter().skip(usize::from(packed)).any(|hole| hole.contains(&lanes.0))
    }
}

/// A block with one more rule.
struct Placed {
    block: Block,
    next: usize,
    holes: u64,
    exceptions: usize,
}

impl Placed {
    /// Puts `rule` behind what `block` holds in its first `at` slots, with as many exceptions as there is room for.
    fn behind(block: &Block, at: usize, rule: &Rule) -> Option<Self> {
        let mut placed = Self { block: *block, next: at, holes: 0, exceptions: 0 };
        placed.next = placed.block.place(at, &rule.matches, true)?;
        for hole in &rule.except {
            // An empty hole takes nothing out.
            if !hole.is_empty() {
                let mut block = placed.block;
                let Some(next) = block.place(placed.next, hole, false) else { break };
                placed.holes |= 1 << ((next - 1) % SLOTS);
                (placed.block, placed.next) = (block, next);
            }
            placed.exceptions += 1;
        }
        Some(placed)
    }
}

#[cfg(test)]
mod tests {
    use levee_api::filter::{Constraint, HeaderBox, Masked, Pattern, Side};
    use levee_api::lane::{Bits, LANES, Lane};
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::{Index, select};

    use super::*;

    fn entry(matches: HeaderBox) -> Entry {
        Entry {
            deadline: Timestamp::NEVER,
            action: Action::Drop,
            counter: 0,
            roles: RoleSet::ALL,
            rule: Arc::new(Rule::of(matches)),
        }
    }

    fn ttl(value: u16) -> HeaderBox {
        HeaderBox::any().exact(Lane::Ttl, value)
    }

    /// The answer of every kernel, which must be one.
    fn find<'a>(
        list: &'a List,
        lanes: &Lanes,
        class: u16,
        role: Role,
        payload: &[u8],
        now: u64,
    ) -> Option<&'a Compiled> {
        let mut answers = Isa::available().map(|isa| list.find(isa, lanes, class, role, payload, Timestamp(now)));
        let first = answers.next().unwrap();
        for (answer, isa) in answers.zip(Isa::available().skip(1)) {
            assert_eq!(answer, first, "{isa} against scalar");
        }
        first
    }

    fn found(list: &List, pairs: &[(Lane, u16)]) -> Option<u32> {
        let mut lanes = Lanes::default();
        for (lane, value) in pairs {
            lanes.0[lane.index()] = *value;
        }
        find(list, &lanes, 0, Role::UdpOpen, &[], 0).map(|entry| entry.counter)
    }

    fn numbered(mut entries: Vec<Entry>) -> Vec<Entry> {
        for (counter, entry) in (0..).zip(&mut entries) {
            entry.counter = counter;
        }
        entries
    }

    fn value() -> impl Strategy<Value = u16> {
        prop_oneof![select(vec![0, 1, 2, 0x7fff, 0x8000, u16::MAX - 1, u16::MAX]), any::<u16>()]
    }

    fn constraint() -> impl Strategy<Value = Constraint> {
        let bits = select(vec![Lane::TcpFlags, Lane::Bits]);
        let mask = (bits, any::<u16>(), any::<u16>(), 0..20).prop_map(|(lane, mask, value, odd)| {
            // One in twenty asks for bits outside its mask, which nothing has.
            let value = if odd == 0 { value } else { value & mask };
            Constraint::Mask { lane, masked: Masked { mask, value } }
        });
        let range = (select(Lane::ALL.to_vec()), value(), value(), 0..20).prop_map(|(lane, a, b, odd)| {
            // One in twenty is upside down, which nothing is in.
            let (lo, hi) = if (odd == 0) == (a < b) { (b, a) } else { (a, b) };
            Constraint::Range { lane, lo, hi }
        });
        prop_oneof![1 => mask, 3 => range]
    }

    fn shape(most: usize) -> impl Strategy<Value = HeaderBox> {
        prop_oneof![20 => vec(constraint(), 1..=most), 1 => Just(Vec::new())].prop_map(HeaderBox::of)
    }

    fn entries() -> impl Strategy<Value = Vec<Entry>> {
        let byte = || 0..2_u8;
        let pattern = (0..3_u16, 0..5_u8, byte(), select(vec![0xff, 1, 0]))
            .prop_map(|(offset, length, byte, mask)| Pattern { offset, length, bytes: [byte; 16], mask: [mask; 16] });
        let shapes = prop_oneof![4 => shape(5), 1 => shape(40)];
        let holes = prop_oneof![3 => vec(shape(3), 0..=3), 1 => vec(shape(12), 0..=MAX_EXCEPTIONS)];
        let deadline = prop_oneof![3 => Just(u64::MAX), 1 => 0..4_u64];
        let roles = prop_oneof![3 => Just(RoleSet::ALL), 1 => any::<u16>().prop_map(RoleSet)];
        let drawn = (shapes, prop::option::weighted(0.2, pattern), holes, roles, deadline);
        let drawn = drawn.prop_map(|(matches, pattern, except, roles, deadline)| Entry {
            roles,
            deadline: Timestamp(deadline),
            rule: Arc::new(Rule { matches, pattern, except }),
            ..entry(HeaderBox::any())
        });
        prop_oneof![4 => vec(drawn.clone(), 0..12), 1 => vec(drawn, 0..=MAX_RULES)].prop_map(numbered)
    }

    /// A packet near the edges of some boxes: of the first, all lanes; of the others, what they share with chance.
    fn packet(entries: &[Entry], noise: &[u16; LANES], near: &[Index], steps: &[u8]) -> Lanes {
        let boxes: Vec<_> =
            entries.iter().flat_map(|e| std::iter::once(&e.rule.matches).chain(&e.rule.except)).collect();
        let mut lanes = Lanes(*noise);
        if boxes.is_empty() {
            return lanes;
        }
        let mut steps = steps.iter().cycle();
        for chosen in near.iter().map(|index| index.get(&boxes)) {
            for constraint in chosen.constraints() {
                let (lane, value) = match constraint {
                    Constraint::Range { lane, lo, hi } => (
                        lane,
                        match steps.next().unwrap() {
                            0 => lo.wrapping_sub(1),
                            1 => hi.wrapping_add(1),
                            2 | 3 => hi,
                            _ => lo,
                        },
                    ),
                    Constraint::Mask { lane, masked } => {
                        let wrong = u16::from(*steps.next().unwrap() == 0) << masked.mask.trailing_zeros().min(15);
                        (lane, (noise[lane.index()] & !masked.mask | masked.value) ^ wrong)
                    }
                };
                lanes.0[lane.index()] = value;
            }
        }
        lanes
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn finds_the_first_rule_that_contains_the_packet(
            entries in entries(),
            packets in vec((any::<[u16; LANES]>(), vec(any::<Index>(), 1..3), vec(0..16_u8, 40)), 20),
            payload in vec(0..2_u8, 0..8),
            role in select(Role::ALL.to_vec()),
            now in 0..4_u64,
        ) {
            let list = List::compile(entries.clone()).unwrap();
            for (noise, near, steps) in packets {
                let point = packet(&entries, &noise, &near, &steps);
                let expected = entries.iter().find(|entry| {
                    entry.roles.contains(role) && now < entry.deadline.0 && entry.rule.contains(&point.0, &payload)
                });
                let class = point.0[Lane::SourceClass.index()];
                let mut stale = point;
                stale.0[Lane::SourceClass.index()] ^= noise[0];
                let found = find(&list, &stale, class, role, &payload, now);
                prop_assert_eq!(found.map(|entry| entry.counter), expected.map(|entry| entry.counter));
            }
        }
    }

    #[test]
    fn each_of_64_rules_is_found() {
        let ports = |n| ttl(n).port(Side::Source, n, n).port(Side::Destination, n + 1, n + 1);
        let list = List::compile(numbered((0..64).map(|n| entry(ports(n))).collect())).unwrap();
        for n in 0..64 {
            let pairs = [(Lane::Ttl, n), (Lane::SrcPort, n), (Lane::DstPort, n + 1), (Lane::Bits, Bits::PORTS.bits())];
            assert_eq!(found(&list, &pairs), Some(u32::from(n)));
            assert_eq!(found(&list, &pairs[..3]), None, "without ports");
        }
    }

    #[test]
    fn an_exception_belongs_to_its_own_rule_only() {
        let mut first = entry(HeaderBox::any().exact(Lane::Protocol, 17));
        Arc::make_mut(&mut first.rule).except = vec![ttl(64)];
        let list = List::compile(numbered(vec![first, entry(ttl(64))])).unwrap();
        assert_eq!(found(&list, &[(Lane::Protocol, 17), (Lane::Ttl, 63)]), Some(0));
        assert_eq!(found(&list, &[(Lane::Protocol, 17), (Lane::Ttl, 64)]), Some(1));
    }

    #[test]
    fn exceptions_that_do_not_fit_into_a_block_still_hold() {
        let wide = |n: u16| {
            let lanes = Lane::ALL.into_iter().filter(|lane| *lane != Lane::Ttl);
            ttl(n).and(&HeaderBox::of(lanes.map(|lane| Constraint::Range { lane, lo: 0, hi: 9 })))
        };
        let mut all = entry(HeaderBox::any());
        Arc::make_mut(&mut all.rule).except = (0..16).map(wide).collect();
        let list = List::compile(vec![all]).unwrap();
        for n in 0..16 {
            assert_eq!(found(&list, &[(Lane::Ttl, n)]), None);
            assert_eq!(found(&list, &[(Lane::Ttl, n), (Lane::Dscp, 10)]), Some(0));
        }
        assert_eq!(found(&list, &[(Lane::Ttl, 16)]), Some(0));
    }

    #[test]
    fn limits_are_named() {
        let error = List::compile(vec![entry(ttl(1)); 65]).unwrap_err();
        assert_eq!(error, ListError::Rules { rules: 65 });
        assert!(error.to_string().contains("at most 64"), "{error}");
        let mut holed = entry(ttl(1));
        Arc::make_mut(&mut holed.rule).except = vec![ttl(1); 17];
        let error = List::compile(vec![entry(ttl(1)), holed]).unwrap_err();
        assert_eq!(error, ListError::Exceptions { rule: 1, exceptions: 17 });
    }
}
