//! Behind the look-up of zone and host: which filter each packet meets, and what becomes of it.
//!
//! Both stages are passes over the packets that a step concerns, as bits of a word: each pass asks for what the next one reads,
//! and no pass branches on what it finds, where that is anybody's guess.

use std::hint::select_unpredictable;

use levee_api::filter::Action;
use levee_api::lane::Bits;
use levee_api::role::Role;
use levee_api::time::Timestamp;
use levee_api::zone::{Challenge, Mode};

use super::limits::Limit;
use super::{BURST, Scratch, Stages, set_bits};
use crate::detect::track::relies_on_memory;
use crate::filter::Limiters;
use crate::filter::kernel::{Block, compare_burst};
use crate::filter::list::Compiled;
use crate::isa::prefetch;
use crate::packet::{Kind, Layers, Packet, Parsed};
use crate::tables::{OnFailure, Tables};
use crate::target::plan::Place;
use crate::verdict::{Reason, Verdict};

/// Frames that are not IP, per wire and direction from outside, and ICMP errors and neighbour discovery per host: well
/// above what a network needs.
const NON_IP_PPS: u32 = 10_000;
const CONTROL_PPS: u32 = 2_000;
/// Limiters of each kind of control message, which hosts share by their slots: the limit is generous enough for that.
const CONTROL_LIMITERS: u32 = 1 << 12;
/// Limiters of frames that are not IP, which wires would share beyond so many.
pub(super) const NON_IP_LIMITERS: usize = 1 << 6;

/// Which filters a burst meets.
pub(super) struct Met<'t> {
    /// The filter that applies to each packet.
    pub(super) filters: [Option<&'t Compiled>; BURST],
    /// A bit for each packet that one applies to.
    any: u64,
    /// A bit for each of them that it limits.
    limited: u64,
    /// A bit for each of them that it challenges.
    challenged: u64,
    /// A bit for each of them that it may block the source of.
    blocking: u64,
}

impl Met<'_> {
    const NONE: Self = Self { filters: [None; BURST], any: 0, limited: 0, challenged: 0, blocking: 0 };
}

impl Stages {
    /// The filter that applies to each packet: from its destination to a list, from the list to the boxes that contain the
    /// packet, from those to the first that applies. `members`: a bit for each packet whose source is in an address set.
    #[inline(never)]
    pub(super) fn compare<'t>(
        &mut self,
        tables: &'t Tables,
        members: u64,
        packets: &[Packet<'_>],
        now: Timestamp,
    ) -> Met<'t> {
        let mut met = Met::NONE;
        let filters = &tables.filters;
        if filters.is_empty() {
            return met;
        }
        self.list_hashed(filters);
        let Self { isa, link, limits, scratch, .. } = self;
        let Scratch { parsed, places, judged, classes, lists, hits, limit_keys, challenge_keys, .. } = &mut **scratch;
        let lanes = &parsed.lanes;
        let (mut listed, mut long, mut blocks) = (0, 0, [&Block::EMPTY; BURST]);
        let destinations = places.iter().zip(&mut *lists).zip(packets);
        for (at, ((place, list), _)) in destinations.enumerate() {
            let Some(place) = place else { continue };
            *list = filters.locate(*place, *list);
            listed |= u64::from(list.is_list()) << at;
            long |= u64::from(list.has_more_blocks()) << at;
        }
        for at in set_bits(listed) {
            let (Some(list), Some(block)) = (lists.get(at), blocks.get_mut(at)) else { continue };
            *block = filters.first_block(*list);
            block.prefetch();
        }
        listed &= !passing(tables, members, places, classes);
        let matched = compare_burst(*isa, listed, &blocks, lanes, classes, hits, |at, hits| {
            let (Some(list), Some(found)) = (lists.get(at), met.filters.get_mut(at)) else { return };
            let first = filters.first_entry(*list, hits);
            prefetch(select_unpredictable(hits.any(), first, &Compiled::NONE));
            *found = select_unpredictable(hits.any(), Some(first), None);
        });
        let counters = link.counters.view();
        for at in set_bits(matched | listed & long) {
            let (Some(place), Some(judged), Some(found)) = (places.get(at), judged.get(at), met.filters.get_mut(at))
            else {
                continue;
            };
            let (Some(list), Some(hits)) = (lists.get(at), hits.get(at)) else { continue };
            if !found.is_some_and(|first| first.applies_at_once(hits, judged.role, now)) {
                let (Some(lanes), Some(packet)) = (lanes.get(at), packets.get(at)) else { continue };
                let class = classes.get(at).copied().unwrap_or(0);
                let payload = parsed.layers(at).payload(packet.head);
                *found = filters.list(*list).choose(*isa, *hits, lanes, class, judged.role, payload, now);
            }
            let (Some(found), Some(place)) = (found, place) else { continue };
            met.any |= 1 << at;
            met.limited |= u64::from(matches!(found.action, Action::Limit { .. })) << at;
            met.challenged |= u64::from(matches!(found.action, Action::Challenge { .. })) << at;
            met.blocking |= u64::from(matches!(found.action, Action::BlockSource { .. })) << at;
            link.hits.prefetch(found.counter);
            counters.prefetch_fates(place.slot);
        }
        for at in set_bits(met.limited) {
            let (Some(Some(found)), Some(lanes)) = (met.filters.get(at), lanes.get(at)) else { continue };
            if let (Some(limit), Some(key)) = (limit(found), limit_keys.get_mut(at)) {
                *key = limits.key(limit, lanes);
            }
        }
        for at in set_bits(met.challenged) {
            if let (Some(lanes), Some(keys)) = (lanes.get(at), challenge_keys.get_mut(at)) {
                *keys = limits.challenge_keys(lanes);
            }
        }
        met
    }

    /// What becomes of each packet. Those that only filters and address sets concern, `members`, are taken together; the others,
    /// `special`, one by one.
    #[inline(never)]
    #[expect(clippy::too_many_arguments, reason = "all that a verdict depends on")]
    pub(super) fn judge(
        &mut self,
        tables: &Tables,
        special: u64,
        members: u64,
        met: &Met<'_>,
        wire: usize,
        packets: &[Packet<'_>],
        now: Timestamp,
        verdicts: &mut [Verdict],
    ) {
        self.scratch.reasons.fill(None);
        let by_set = self.dropped_by_set(tables, members);
        for at in set_bits(special) {
            self.judge_special(tables, at, by_set, met, wire, packets, now, verdicts);
        }
        let by_set = by_set & !special;
        let Self { link, scratch, .. } = self;
        let Scratch { blocked, .. } = &**scratch;
        let mut blocked = blocked & !special & !by_set;
        let special = special | by_set | blocked;
        let (mut dropped, mut over) = (0, 0);
        for at in set_bits(met.any & !special) {
            let (Some(Some(found)), Some(packet)) = (met.filters.get(at), packets.get(at)) else { continue };
            link.hits.hit(found.counter, packet.wire_len, now);
            dropped |= u64::from(found.action == Action::Drop) << at;
        }
        dropped &= !self.spared(tables, dropped, met, now);
        let Self { limits, scratch, .. } = self;
        let Scratch { parsed: Parsed { lanes, .. }, limit_keys, judged, .. } = &**scratch;
        for at in set_bits(met.blocking & !special) {
            let (Some(Some(found)), Some(lanes)) = (met.filters.get(at), lanes.get(at)) else { continue };
            let Action::BlockSource { after } = found.action else { continue };
            let uses = judged.get(at).is_some_and(|judged| uses(found, judged.role));
            blocked |= u64::from(limits.block(found.counter, after, uses, lanes, now)) << at;
        }
        for at in set_bits(met.limited & !special) {
            let (Some(Some(found)), Some(lanes), Some(key)) = (met.filters.get(at), lanes.get(at), limit_keys.get(at))
            else {
                continue;
            };
            let Some(limit) = limit(found) else { continue };
            let is_over = !limits.allow(limit, *key, lanes, now);
            over |= u64::from(is_over) << at;
            if is_over && limit.must_yield {
                limits.has_to_yield(limit, lanes, now);
            }
        }
        self.challenge(tables, met.challenged & !special, met, packets, now, verdicts);
        for at in set_bits(by_set | blocked | dropped | over) {
            let reason = match at {
                at if by_set >> at & 1 != 0 => Reason::SourceSet,
                at if blocked >> at & 1 != 0 => Reason::SourceBlocked,
                at if over >> at & 1 != 0 => Reason::Limit,
                _ => Reason::Filter,
            };
            self.condemn(tables, at, reason, now, verdicts);
        }
        for at in set_bits(self.scratch.waiting) {
            self.condemn(tables, at, Reason::Challenge, now, verdicts);
        }
        for at in set_bits(self.scratch.answers) {
            if let Some(verdict) = verdicts.get_mut(at) {
                *verdict = Verdict::Reply;
            }
        }
    }

    /// Of segments that are to be dropped for being of no connection, where clients are challenged: those whose source is verified. They
    /// may be of a connection that was forgotten, and are few.
    #[inline]
    fn spared(&mut self, tables: &Tables, dropped: u64, met: &Met<'_>, now: Timestamp) -> u64 {
        let Self { limits, scratch, .. } = self;
        let Scratch { parsed, places, strangers, .. } = &**scratch;
        let mut spared = 0;
        for at in set_bits(dropped & strangers) {
            let (Some(Some(found)), Some(Some(place)), Some(lanes)) =
                (met.filters.get(at), places.get(at), parsed.lanes.get(at))
            else {
                continue;
            };
            let is_spared = found.roles == Role::OutOfState.set()
                && tables.plan.challenge(place.zone) != Challenge::Off
                && limits.spares(lanes, now);
            spared |= u64::from(is_spared) << at;
        }
        spared
    }

    /// Counts what comes from address sets; a bit for each packet that its zone drops for that.
    fn dropped_by_set(&self, tables: &Tables, members: u64) -> u64 {
        let Scratch { places, classes, .. } = &*self.scratch;
        let mut dropped = 0;
        for at in set_bits(members) {
            let (Some(Some(place)), Some(class)) = (places.get(at), classes.get(at)) else { continue };
            self.link.source_hits.hit(*class);
            dropped |= u64::from(tables.sources.used_by(place.zone).drops(*class)) << at;
        }
        dropped
    }

    /// Cheapest first: sanity, address sets, what follows a dropped first fragment, own limits of control messages, filters.
    #[expect(clippy::too_many_arguments, reason = "all that a verdict depends on")]
    fn judge_special(
        &mut self,
        tables: &Tables,
        at: usize,
        by_set: u64,
        met: &Met<'_>,
        wire: usize,
        packets: &[Packet<'_>],
        now: Timestamp,
        verdicts: &mut [Verdict],
    ) {
        let Self { link, limits, control, non_ip, conversations, scratch, .. } = self;
        let Scratch { parsed, places, judged, limit_keys, blocked, .. } = &**scratch;
        let (Some(lanes), Some(place)) = (parsed.lanes.get(at), places.get(at)) else { return };
        let layers = parsed.layers(at);
        let (Some(judged), Some(packet)) = (judged.get(at), packets.get(at)) else { return };
        let Some(place) = place else {
            if let Some(verdict) = verdicts.get_mut(at) {
                *verdict = unprotected(wire, &layers, tables, non_ip, now);
            }
            return;
        };
        let reason = match layers.kind {
            Kind::Malformed { reason, .. } => Some(reason),
            _ if by_set >> at & 1 != 0 => Some(Reason::SourceSet),
            _ if *blocked >> at & 1 != 0 => Some(Reason::SourceBlocked),
            Kind::LaterFragment if conversations.follows_dropped(judged) => Some(Reason::Filter),
            Kind::IcmpError => {
                over(control, Limited::Error(place.slot), CONTROL_PPS, now).then_some(Reason::IcmpErrorLimit)
            }
            Kind::Discovery => {
                over(control, Limited::Discovery(place.slot), CONTROL_PPS, now).then_some(Reason::DiscoveryLimit)
            }
            _ => met.filters.get(at).copied().flatten().and_then(|found| {
                link.hits.hit(found.counter, packet.wire_len, now);
                let key = limit_keys.get(at).copied().unwrap_or(0);
                match limit(found) {
                    Some(limit) => (!limits.allow(limit, key, lanes, now)).then_some(Reason::Limit),
                    None => match found.action {
                        Action::Drop => Some(Reason::Filter),
                        // What is not whole cannot be answered.
                        Action::Challenge { .. } => Some(Reason::Challenge),
                        Action::BlockSource { after } => {
                            let uses = uses(found, judged.role);
                            limits.block(found.counter, after, uses, lanes, now).then_some(Reason::SourceBlocked)
                        }
                        Action::Pass | Action::Limit { .. } => None,
                    },
                }
            }),
        };
        if let Some(reason) = reason {
            self.condemn(tables, at, reason, now, verdicts);
        }
    }

    /// A packet to somebody who is protected is dropped, or would be if its zone were enforced, unless it may be for lack of
    /// memory only that there is a reason.
    #[inline(always)]
    pub(super) fn condemn(
        &mut self,
        tables: &Tables,
        at: usize,
        reason: Reason,
        now: Timestamp,
        verdicts: &mut [Verdict],
    ) {
        let Self { link, conversations, scratch, .. } = self;
        let Scratch { parsed, keys, places, judged, reasons, .. } = &mut **scratch;
        let (Some(lanes), Some(key)) = (parsed.lanes.get(at), keys.get(at)) else { return };
        let (Some(Some(place)), Some(judged), Some(why)) = (places.get(at), judged.get(at), reasons.get_mut(at)) else {
            return;
        };
        let mut reason = reason;
        if matches!(reason, Reason::Filter | Reason::Limit)
            && relies_on_memory(judged.role)
            && parsed.layers(at).kind != Kind::LaterFragment
            && conversations.is_incomplete(*key, now)
        {
            if tables.evicted == OnFailure::Pass {
                return;
            }
            reason = Reason::StateEvicted;
        }
        *why = Some(reason);
        let is_decided = matches!(
            reason,
            Reason::Filter | Reason::Limit | Reason::StateEvicted | Reason::SourceSet | Reason::SourceBlocked
        );
        if is_decided {
            link.counters.view().dropped(place.slot, judged.role);
        }
        if (is_decided || reason == Reason::Challenge) && lanes.bits().contains(Bits::FIRST_FRAGMENT) {
            conversations.first_fragment_dropped(at);
        }
        if tables.plan.enforces(place.zone)
            && let Some(verdict) = verdicts.get_mut(at)
        {
            *verdict = Verdict::Drop(reason);
        }
    }
}

/// The limit of a filter that limits.
#[inline(always)]
fn limit(filter: &Compiled) -> Option<Limit> {
    match filter.action {
        Action::Limit { pps, per } => {
            let limit = Limit::new(filter.counter, pps, per);
            Some(if filter.roles == Role::Established.set() { limit.patient() } else { limit })
        }
        Action::Pass | Action::Drop | Action::Challenge { .. } | Action::BlockSource { .. } => None,
    }
}

/// True for the request of a connection, where a filter counts connections that are not used.
fn uses(filter: &Compiled, role: Role) -> bool {
    role == Role::Request && filter.roles.contains(Role::Syn)
}

/// Of the members of address sets those that meet no filter in their zone.
fn passing(tables: &Tables, members: u64, places: &[Option<Place>; BURST], classes: &[u16; BURST]) -> u64 {
    let passes = |at: &usize| {
        let place = places.get(*at).copied().flatten();
        let class = classes.get(*at).copied().unwrap_or(0);
        place.is_some_and(|place| tables.sources.used_by(place.zone).passes(class))
    };
    set_bits(members).filter(passes).fold(0, |bits, at| bits | 1 << at)
}

/// What becomes of packets to nobody that is protected: they pass as on a wire.
fn unprotected(wire: usize, layers: &Layers, tables: &Tables, non_ip: &mut Limiters, now: Timestamp) -> Verdict {
    let enforce = tables.ceiling == Mode::Enforce;
    let index = u32::try_from(wire % NON_IP_LIMITERS).unwrap_or(0);
    match layers.kind {
        Kind::Other if !non_ip.allow(index, NON_IP_PPS, NON_IP_PPS, now) && enforce => {
            Verdict::Drop(Reason::NonIpLimit)
        }
        Kind::TooDeep if enforce && tables.too_deep == OnFailure::Drop => Verdict::Drop(Reason::EncapsulationTooDeep),
        // Nobody can be the destination of a packet whose destination cannot be read.
        Kind::Malformed { reason, addressed: false } if enforce => Verdict::Drop(reason),
        _ => Verdict::Forward,
    }
}

/// What has a limit of its own besides filters. Kinds share no limiter, or a flood of one would stop another.
pub(super) enum Limited {
    Error(u32),
    Discovery(u32),
}

impl Limited {
    pub(super) const COUNT: usize = 2 * CONTROL_LIMITERS as usize;

    fn index(self) -> u32 {
        match self {
            Self::Error(slot) => slot % CONTROL_LIMITERS,
            Self::Discovery(slot) => CONTROL_LIMITERS + slot % CONTROL_LIMITERS,
        }
    }
}

/// True when a control message is above its own limit.
fn over(control: &mut Limiters, what: Limited, pps: u32, now: Timestamp) -> bool {
    !control.allow(what.index(), pps, pps, now)
}
