//! The data path: what happens to a burst of packets, on one page.
//!
//! `parse -> locate -> account -> classify -> compare -> judge -> sample -> capture`, each one function over the whole burst,
//! between the driver's receive and transmit. A stage asks for the cache lines that the next one reads, for all packets of the burst at once:
//! so a full table costs little more than an empty one. Nothing here allocates, locks, makes a system call or waits; all
//! scratch space is made once.

use std::num::NonZeroU32;
use std::sync::Arc;

use levee_api::filter::{Action, Per};
use levee_api::lane::{Bits, Lane};
use levee_api::role::Role;
use levee_api::time::Timestamp;
use levee_api::zone::Mode;

use crate::capture::{Offer, Tap};
use crate::detect::track::relies_on_memory;
use crate::filter::limiter::Rate;
use crate::filter::list::{Compiled, Hits};
use crate::filter::table::ListId;
use crate::filter::{Limiters, SourceLimiters};
use crate::generation::Reader;
use crate::isa::Isa;
use crate::link::{Notice, WorkerEnd};
use crate::packet::{Direction, Kind, Lanes, Layers, Packet, address, dns, parse_burst};
use crate::sample::{SAMPLE_PAYLOAD, Sample};
use crate::tables::{OnFailure, Tables};
use crate::target::conversation::{Conversations, Judged};
use crate::target::hosts::Hosts;
use crate::target::keyed::{Keyed, Tuples};
use crate::target::plan::Place;
use crate::target::verified::VerifiedSources;
use crate::verdict::{Reason, Verdict};

/// Most packets of one burst.
pub const BURST: usize = 64;
/// Length of a tick: the unit of epochs.
const TICK_NS: u64 = 10_000_000;
/// Samples a worker takes per tick in peace; of watched roles it takes [`WATCHED_SAMPLES`].
const PEACE_SAMPLES: u32 = 256;
/// 2 048 per 100 ms for each of several targets, and enough for a first extraction in the first tick.
const WATCHED_SAMPLES: u32 = 1024;
/// Frames that are not IP, per wire and direction from outside, and ICMP errors and neighbour discovery per host: well
/// above what a network needs.
const NON_IP_PPS: u32 = 10_000;
const CONTROL_PPS: u32 = 2_000;
/// Limiters of each kind of control message, which hosts share by their slots: the limit is generous enough for that.
const CONTROL_LIMITERS: u32 = 1 << 12;
/// Limiters of frames that are not IP, which wires would share beyond so many.
const NON_IP_LIMITERS: usize = 1 << 6;

/// Sources that a worker can limit, and verified sources that it remembers: 8 MiB each.
const SOURCES: usize = 1 << 20;
/// A verified source is exempt from a shared limit up to this part of it, and at least [`OWN_PPS`].
const OWN_PART: u32 = 16;
const OWN_PPS: u32 = 10;

/// One worker's data path.
pub struct Pipeline {
    tables: Reader<Tables>,
    stages: Stages,
}

/// Everything the worker owns; the tables are lent to it for one burst, so that a burst sees one generation.
struct Stages {
    isa: Isa,
    keyed: Keyed,
    link: WorkerEnd,
    tap: Tap,
    limits: Limits,
    control: Limiters,
    /// Of each wire. Not shared among workers: the first one sees all that is not IP.
    non_ip: Limiters,
    conversations: Conversations,
    hosts: Hosts,
    scratch: Box<Scratch>,
    epoch: u32,
    peace_left: u32,
    watched_left: u32,
}

/// What is known of the packets of a burst, side by side.
struct Scratch {
    lanes: [Lanes; BURST],
    layers: [Layers; BURST],
    tuples: Tuples,
    keys: [u64; BURST],
    places: [Option<Place>; BURST],
    judged: [Judged; BURST],
    classes: [u16; BURST],
    lists: [ListId; BURST],
    hits: [Hits; BURST],
    /// Why each is dropped, or would be if its zone were enforced.
    reasons: [Option<Reason>; BURST],
}

/// What the action limit needs.
struct Limits {
    keyed: Keyed,
    workers: NonZeroU32,
    shared: Limiters,
    sources: SourceLimiters,
    verified: VerifiedSources,
}

/// What a worker's data path is made of.
pub struct Parts {
    /// The current tables.
    pub tables: Reader<Tables>,
    /// Which instructions it may use.
    pub isa: Isa,
    /// Keys of its tables.
    pub keyed: Keyed,
    /// The way to the detector.
    pub link: WorkerEnd,
    /// Number of workers, for shared limits.
    pub workers: NonZeroU32,
    /// Memory of conversations.
    pub conversations: Conversations,
    /// Hosts without a computed slot.
    pub hosts: Hosts,
}

impl Pipeline {
    /// A data path; allocates everything it will ever need.
    pub fn new(parts: Parts) -> Self {
        let Parts { tables, isa, keyed, link, workers, conversations, hosts } = parts;
        let unknown = Judged::of(Role::Established);
        let stages = Stages {
            limits: Limits {
                keyed,
                workers,
                shared: Limiters::shared(Arc::clone(&link.shares)),
                sources: SourceLimiters::new(SOURCES),
                verified: VerifiedSources::new(SOURCES),
            },
            control: Limiters::new(Limited::COUNT, workers),
            non_ip: Limiters::new(NON_IP_LIMITERS, NonZeroU32::MIN),
            scratch: Box::new(Scratch {
                lanes: [Lanes::default(); BURST],
                layers: [Layers::NONE; BURST],
                tuples: Tuples::default(),
                keys: [0; BURST],
                places: [None; BURST],
                judged: [unknown; BURST],
                classes: [0; BURST],
                lists: [ListId::default(); BURST],
                hits: [Hits::NONE; BURST],
                reasons: [None; BURST],
            }),
            isa,
            keyed,
            link,
            tap: Tap::default(),
            conversations,
            hosts,
            epoch: 0,
            peace_left: PEACE_SAMPLES,
            watched_left: WATCHED_SAMPLES,
        };
        Self { tables, stages }
    }

    /// Decides about up to [`BURST`] packets that arrived on one side of a wire; `verdicts` has one place for each.
    /// Packets beyond the burst or without a place are not looked at.
    pub fn burst(
        &mut self,
        wire: usize,
        direction: Direction,
        packets: &[Packet<'_>],
        now: Timestamp,
        verdicts: &mut [Verdict],
    ) {
        let packets = packets.get(..BURST).unwrap_or(packets);
        let Self { tables, stages } = self;
        let tables = tables.current();
        stages.begin(now);
        stages.parse(packets);
        match direction {
            Direction::Inbound => {
                let mut found = [None; BURST];
                let special = stages.locate(tables, direction, packets.len());
                stages.account(tables, packets, now);
                let members = stages.classify(tables, packets.len());
                let filtered = stages.compare(tables, members, packets, now, &mut found);
                verdicts.fill(Verdict::Forward);
                stages.judge(tables, special | members | filtered, &found, wire, packets, now, verdicts);
                stages.sample(packets, now);
                stages.capture(&found, wire, direction, packets, now, verdicts);
            }
            Direction::Outbound => {
                stages.locate(tables, direction, packets.len());
                stages.learn(tables, packets, now);
                verdicts.fill(Verdict::Forward);
                stages.capture(&[], wire, direction, packets, now, verdicts);
            }
        }
    }

    /// Lets copies of packets go into a capture ring from now on.
    pub fn attach(&mut self, tap: Tap) {
        self.stages.tap = tap;
    }

    /// Says that nothing of the current tables is in use: to be called before the worker sleeps, and when it has
    /// nothing to do.
    pub fn offline(&mut self) {
        self.tables.offline();
    }
}

impl Stages {
    /// A new tick has a new epoch and new budgets.
    fn begin(&mut self, now: Timestamp) {
        let epoch = u32::try_from((now.0 / TICK_NS + 1) & 0xffff_ffff).unwrap_or(u32::MAX);
        if epoch != self.epoch {
            self.epoch = epoch;
            self.peace_left = PEACE_SAMPLES;
            self.watched_left = WATCHED_SAMPLES;
        }
    }

    #[inline(never)]
    fn parse(&mut self, packets: &[Packet<'_>]) {
        let Scratch { lanes, layers, .. } = &mut *self.scratch;
        parse_burst(self.isa, packets, lanes, layers);
    }

    /// Zone and host on the inside, and the key of the conversation. A bit for each packet that is judged by more than filters.
    #[inline(never)]
    fn locate(&mut self, tables: &Tables, direction: Direction, count: usize) -> u64 {
        match direction {
            Direction::Inbound => self.locate_in(tables, Direction::Inbound, count),
            Direction::Outbound => self.locate_in(tables, Direction::Outbound, count),
        }
    }

    #[inline(always)]
    fn locate_in(&mut self, tables: &Tables, direction: Direction, count: usize) -> u64 {
        let Self { isa, keyed, link, conversations, hosts, scratch, .. } = self;
        let Scratch { lanes, layers, tuples, keys, places, .. } = &mut **scratch;
        let Some(lanes) = lanes.get(..count) else { return 0 };
        let own = if direction == Direction::Inbound { Lane::Dst0 } else { Lane::Src0 };
        let counters = link.counters.view();
        let (mut special, mut hashed, mut fragments) = (0, 0, 0);
        tuples.read(direction, lanes);
        let parsed = lanes.iter().zip(&*layers).zip(tuples.inside()).zip(&mut *places);
        for (at, (((lanes, layers), ipv4), at_place)) in parsed.enumerate() {
            special |= u64::from(is_special(layers)) << at;
            fragments |= u64::from(layers.piece.end > 0) << at;
            *at_place = match has_addresses(layers) {
                false => None,
                true if lanes.bits().contains(Bits::IPV6) => tables.plan.place(lanes, own),
                true => tables.plan.place4(ipv4),
            };
            let Some(place) = at_place else { continue };
            hashed |= u64::from(place.hashed) << at;
            match direction {
                Direction::Inbound => {
                    counters.prefetch(place.slot);
                    tables.filters.prefetch(*place);
                }
                Direction::Outbound => counters.prefetch_fates(place.slot),
            }
        }
        for at in set_bits(hashed) {
            let (Some(lanes), Some(key)) = (lanes.get(at), keys.get_mut(at)) else { continue };
            *key = hosts.key(address_of(lanes, own));
            hosts.prefetch(*key);
            tables.filters.prefetch_address(lanes);
        }
        for at in set_bits(hashed) {
            let (Some(Some(place)), Some(lanes), Some(key)) = (places.get_mut(at), lanes.get(at), keys.get(at)) else {
                continue;
            };
            lodge(place, *key, lanes, own, hosts, link);
            match direction {
                Direction::Inbound => link.counters.view().prefetch(place.slot),
                Direction::Outbound => link.counters.view().prefetch_fates(place.slot),
            }
        }
        keyed.conversations(*isa, direction, tuples, lanes, keys);
        for key in keys.iter().take(count) {
            conversations.prefetch(*key);
        }
        if direction == Direction::Inbound {
            conversations.locate_fragments(*isa, fragments, lanes, layers);
        }
        special | fragments
    }

    /// Role and counters of inbound packets.
    #[inline(never)]
    fn account(&mut self, tables: &Tables, packets: &[Packet<'_>], now: Timestamp) {
        let Self { link, limits, conversations, scratch, epoch, .. } = self;
        let plan = &tables.plan;
        let Scratch { lanes, layers, keys, places, judged, .. } = &mut **scratch;
        let parsed = lanes.iter().zip(layers).zip(&*keys).zip(&*places).zip(judged);
        for (at, (packet, ((((lanes, layers), key), place), judged))) in packets.iter().zip(parsed).enumerate() {
            let Some(place) = place else { continue };
            let served = layers.kind == Kind::Udp && plan.serves_udp(place.zone, lanes.get(Lane::DstPort));
            *judged = conversations.inbound(at, packet, lanes, layers, *key, served, now);
            if link.counters.view().arrival(place.slot, judged.role, packet.wire_len, *epoch) {
                link.dirty(place.slot);
            }
            if judged.handshake {
                link.counters.handshake(place.slot, *epoch);
                limits.verified.insert(limits.keyed.pair(lanes), now);
                link.notice(Notice::Proven(*key));
            }
        }
    }

    /// Which address sets each source is in. A bit for each that is in one.
    #[inline(never)]
    fn classify(&mut self, tables: &Tables, count: usize) -> u64 {
        let Scratch { lanes, classes, .. } = &mut *self.scratch;
        let (Some(lanes), Some(of_burst)) = (lanes.get(..count), classes.get_mut(..count)) else { return 0 };
        let sets = tables.sources.sets();
        sets.classify(lanes, of_burst);
        if sets.is_empty() {
            return 0;
        }
        of_burst.iter().enumerate().fold(0, |members, (at, class)| members | u64::from(*class != 0) << at)
    }

    /// The filter that applies to each packet: from its destination to a list, from the list to the boxes that contain the
    /// packet, from those to the first that applies. A bit for each packet that one applies to.
    #[inline(never)]
    fn compare<'t>(
        &mut self,
        tables: &'t Tables,
        members: u64,
        packets: &[Packet<'_>],
        now: Timestamp,
        found: &mut [Option<&'t Compiled>; BURST],
    ) -> u64 {
        if tables.filters.is_empty() {
            return 0;
        }
        let Self { isa, link, limits, scratch, .. } = self;
        let Scratch { lanes, layers, places, judged, classes, lists, hits, .. } = &mut **scratch;
        let counters = link.counters.view();
        let mut listed = 0;
        for (at, (((lanes, place), list), _)) in lanes.iter().zip(&*places).zip(&mut *lists).zip(packets).enumerate() {
            let Some(place) = place else { continue };
            let Some(id) = tables.filters.locate(*place, lanes) else { continue };
            *list = id;
            listed |= 1 << at;
            tables.filters.prefetch_list(id);
            counters.prefetch_fates(place.slot);
        }
        listed &= !passing(tables, members, places, classes);
        let some = tables.filters.compare(*isa, listed, lists, lanes, classes, hits);
        let mut filtered = 0;
        for at in set_bits(some) {
            let (Some(id), Some(hits), Some(lanes)) = (lists.get(at), hits.get(at), lanes.get(at)) else { continue };
            let (Some(layers), Some(judged), Some(packet)) = (layers.get(at), judged.get(at), packets.get(at)) else {
                continue;
            };
            let class = classes.get(at).copied().unwrap_or(0);
            let payload = layers.payload(packet.head);
            let entry = tables.filters.choose(*isa, *id, hits, lanes, class, judged.role, payload, now);
            let (Some(entry), Some(found)) = (entry, found.get_mut(at)) else { continue };
            *found = Some(entry);
            filtered |= 1 << at;
            link.hits.prefetch(entry.counter);
            limits.prefetch(entry, lanes);
        }
        filtered
    }

    /// Cheapest first: sanity, address sets, what follows a dropped first fragment, own limits of control messages, filters.
    /// `which`: a bit for each packet that anything of this can apply to; the others pass.
    #[inline(never)]
    #[expect(clippy::too_many_arguments, reason = "all that a verdict depends on")]
    fn judge(
        &mut self,
        tables: &Tables,
        which: u64,
        found: &[Option<&Compiled>; BURST],
        wire: usize,
        packets: &[Packet<'_>],
        now: Timestamp,
        verdicts: &mut [Verdict],
    ) {
        let Self { link, limits, control, non_ip, conversations, scratch, .. } = self;
        let Scratch { lanes, layers, keys, places, judged, classes, reasons, .. } = &mut **scratch;
        reasons.fill(None);
        for at in set_bits(which) {
            let (Some(lanes), Some(layers), Some(key)) = (lanes.get(at), layers.get(at), keys.get(at)) else {
                continue;
            };
            let (Some(place), Some(judged)) = (places.get(at), judged.get(at)) else { continue };
            let (Some(packet), Some(verdict)) = (packets.get(at), verdicts.get_mut(at)) else { continue };
            let Some(place) = place else {
                *verdict = unprotected(wire, layers, tables, non_ip, now);
                continue;
            };
            let class = classes.get(at).copied().unwrap_or(0);
            if class != 0 {
                link.source_hits.hit(class);
            }
            let dropped = match layers.kind {
                Kind::Malformed { reason, .. } => Some(reason),
                _ if class != 0 && tables.sources.used_by(place.zone).drops(class) => Some(Reason::SourceSet),
                Kind::LaterFragment if conversations.follows_dropped(judged) => Some(Reason::Filter),
                Kind::IcmpError => {
                    over(control, Limited::Error(place.slot), CONTROL_PPS, now).then_some(Reason::IcmpErrorLimit)
                }
                Kind::Discovery => {
                    over(control, Limited::Discovery(place.slot), CONTROL_PPS, now).then_some(Reason::DiscoveryLimit)
                }
                _ => found.get(at).copied().flatten().and_then(|entry| {
                    link.hits.hit(entry.counter, packet.wire_len, now);
                    match entry.action {
                        Action::Pass => None,
                        Action::Drop => Some(Reason::Filter),
                        Action::Limit { pps, per } => {
                            (!limits.allow(entry.counter, pps, per, lanes, now)).then_some(Reason::Limit)
                        }
                    }
                }),
            };
            let Some(mut reason) = dropped else { continue };
            if matches!(reason, Reason::Filter | Reason::Limit)
                && relies_on_memory(judged.role)
                && layers.kind != Kind::LaterFragment
                && conversations.is_incomplete(*key, now)
            {
                if tables.evicted == OnFailure::Pass {
                    continue;
                }
                reason = Reason::StateEvicted;
            }
            if let Some(why) = reasons.get_mut(at) {
                *why = Some(reason);
            }
            if matches!(reason, Reason::Filter | Reason::Limit | Reason::StateEvicted | Reason::SourceSet) {
                link.counters.view().dropped(place.slot, judged.role);
                if lanes.bits().contains(Bits::FIRST_FRAGMENT) {
                    conversations.first_fragment_dropped(at);
                }
            }
            if tables.plan.enforces(place.zone) {
                *verdict = Verdict::Drop(reason);
            }
        }
    }

    /// Copies of headers for the detector: in peace as many as the budget allows of what conversations do not explain,
    /// of watched roles (nearly) all.
    #[inline(never)]
    fn sample(&mut self, packets: &[Packet<'_>], now: Timestamp) {
        let Self { link, scratch, peace_left, watched_left, .. } = self;
        if *peace_left == 0 && (*watched_left == 0 || !link.watch.is_any_watched()) {
            return;
        }
        let Scratch { lanes, layers, keys, places, judged, reasons, .. } = &**scratch;
        let parsed = lanes.iter().zip(layers).zip(keys).zip(places).zip(judged).zip(reasons);
        for (packet, (((((lanes, layers), key), place), judged), reason)) in packets.iter().zip(parsed) {
            let Some(place) = *place else { continue };
            let role = judged.role;
            if matches!(role, Role::Established | Role::Malformed) {
                continue;
            }
            let watched = link.watch.roles(place.zone).contains(role);
            let budget = if watched { &mut *watched_left } else { &mut *peace_left };
            let Some(left) = budget.checked_sub(1) else { continue };
            *budget = left;
            let sample = sample_of(packet, lanes, layers, now);
            link.sample(Sample { conversation: *key, slot: place.slot, role, passed: reason.is_none(), ..sample });
        }
    }

    /// Copies of packets for captures, with what became of them.
    #[inline(never)]
    fn capture(
        &mut self,
        found: &[Option<&Compiled>],
        wire: usize,
        direction: Direction,
        packets: &[Packet<'_>],
        now: Timestamp,
        verdicts: &[Verdict],
    ) {
        let Self { link, scratch, tap, .. } = self;
        let Scratch { layers, places, judged, reasons, .. } = &**scratch;
        let inbound = direction == Direction::Inbound;
        let alarmed = |at: usize| places.get(at).copied().flatten().is_some_and(|place| link.watch.is_alarmed(place));
        tap.burst(packets.len(), now, link.watch.is_any_alarmed().then_some(alarmed), |at| {
            let is_judged = inbound && places.get(at).is_some_and(Option::is_some);
            let exempt =
                |layers: &Layers| matches!(layers.kind, Kind::Malformed { .. } | Kind::IcmpError | Kind::Discovery);
            let meets_filters = !layers.get(at).is_some_and(exempt);
            Some(Offer {
                packet: *packets.get(at)?,
                at: now,
                wire: u16::try_from(wire).unwrap_or(u16::MAX),
                direction,
                verdict: *verdicts.get(at)?,
                reason: reasons.get(at).copied().flatten().filter(|_| is_judged),
                filter: found.get(at).copied().flatten().filter(|_| meets_filters).map(|entry| entry.counter),
                role: judged.get(at).filter(|_| is_judged).map(|judged| judged.role),
            })
        });
    }

    /// Outbound packets create the memory that roles need.
    #[inline(never)]
    fn learn(&mut self, tables: &Tables, packets: &[Packet<'_>], now: Timestamp) {
        let Self { link, conversations, scratch, epoch, .. } = self;
        let plan = &tables.plan;
        let Scratch { lanes, layers, keys, places, .. } = &**scratch;
        let parsed = lanes.iter().zip(layers).zip(keys).zip(places);
        for (packet, (((lanes, layers), key), place)) in packets.iter().zip(parsed) {
            if matches!(layers.kind, Kind::Malformed { .. }) {
                continue;
            }
            let Some(place) = place else { continue };
            let served = layers.kind == Kind::Udp && plan.serves_udp(place.zone, lanes.get(Lane::SrcPort));
            let learned = conversations.outbound(packet, lanes, layers, *key, served, now);
            link.counters.outbound(place.slot);
            if learned.answer {
                if link.counters.answer(place.slot, *epoch) {
                    link.dirty(place.slot);
                }
                link.notice(Notice::Proven(learned.conversation));
            }
        }
    }
}

impl Limits {
    /// Asks for what [`Self::allow`] reads.
    #[inline]
    fn prefetch(&self, entry: &Compiled, lanes: &Lanes) {
        if let Action::Limit { per, .. } = entry.action {
            self.shared.prefetch(entry.counter);
            match per {
                Per::Target => {}
                Per::Source | Per::SourcePrefix => self.sources.prefetch(self.keyed.source(entry.counter, per, lanes)),
            }
        }
    }

    /// True when a packet is within its limit. A verified source that others have left nothing of a shared limit has a
    /// rate of its own, so that a flood of forged sources does not stop it, and it cannot be the flood.
    #[inline]
    fn allow(&mut self, limiter: u32, pps: u32, per: Per, lanes: &Lanes, now: Timestamp) -> bool {
        let within = match per {
            Per::Target => self.shared.allow(limiter, pps, burst_of(pps), now),
            Per::Source => {
                let rate = Rate::of(pps, burst_of(pps));
                return self.sources.allow(self.keyed.source(limiter, per, lanes), rate, now);
            }
            Per::SourcePrefix => {
                let rate = Rate::of(pps, burst_of(pps)).shared_by(self.workers);
                self.sources.allow(self.keyed.source(limiter, per, lanes), rate, now)
            }
        };
        within || self.verified.contains(self.keyed.pair(lanes), now) && self.allow_own(limiter, pps, lanes, now)
    }

    fn allow_own(&mut self, limiter: u32, pps: u32, lanes: &Lanes, now: Timestamp) -> bool {
        let own = (pps / OWN_PART).max(OWN_PPS).min(pps);
        self.sources.allow(self.keyed.source(limiter, Per::Source, lanes), Rate::of(own, burst_of(own)), now)
    }
}

/// Positions of the bits that are set, the lowest first.
#[inline(always)]
pub(crate) fn set_bits(mut bits: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let at = (bits != 0).then_some(bits.trailing_zeros() as usize % BURST);
        bits &= bits.wrapping_sub(1);
        at
    })
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

/// Whether more than filters and address sets decide about a packet.
#[inline(always)]
fn is_special(layers: &Layers) -> bool {
    !matches!(layers.kind, Kind::Tcp | Kind::Udp | Kind::IcmpOther | Kind::OtherProtocol)
}

#[inline(always)]
fn has_addresses(layers: &Layers) -> bool {
    match layers.kind {
        Kind::Other | Kind::Heartbeat | Kind::TooDeep => false,
        Kind::Malformed { addressed, .. } => addressed,
        _ => true,
    }
}

/// The address inside, as a number.
#[inline(always)]
fn address_of(lanes: &Lanes, from: Lane) -> u128 {
    address(if from == Lane::Src0 { lanes.source() } else { lanes.destination() })
}

/// Gives a host without a computed slot one of the hashed slots.
fn lodge(place: &mut Place, key: u64, lanes: &Lanes, from: Lane, hosts: &mut Hosts, link: &mut WorkerEnd) {
    let Some(lodging) = hosts.lodge(key, from == Lane::Src0) else { return };
    if lodging.new {
        let (address, ipv6) = (address_of(lanes, from), lanes.bits().contains(Bits::IPV6));
        let totals = link.counters.read(lodging.slot);
        if !link.notice(Notice::Lodged { slot: lodging.slot, address, ipv6, totals }) {
            // Untold, its packets would count for the tenant before. They count for the prefix, until it can be told.
            hosts.leave(key);
            return;
        }
    }
    place.slot = lodging.slot;
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
enum Limited {
    Error(u32),
    Discovery(u32),
}

impl Limited {
    const COUNT: usize = 2 * CONTROL_LIMITERS as usize;

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

/// A tenth of a second at the rate, at least eight packets.
fn burst_of(pps: u32) -> u32 {
    (pps / 10).max(8)
}

/// What a packet looks like; what became of it is for the caller to say.
fn sample_of(packet: &Packet<'_>, lanes: &Lanes, layers: &Layers, now: Timestamp) -> Sample {
    let bytes = layers.payload(packet.head);
    let mut payload = [0; SAMPLE_PAYLOAD];
    for (to, from) in payload.iter_mut().zip(bytes) {
        *to = *from;
    }
    let dns = layers.kind == Kind::Udp && lanes.get(Lane::DstPort) == 53;
    Sample {
        lanes: *lanes,
        payload,
        at: now,
        conversation: 0,
        slot: 0,
        role: Role::Established,
        passed: true,
        present: u8::try_from(bytes.len().min(SAMPLE_PAYLOAD)).unwrap_or(0),
        dns_suffix: if dns { dns::query_suffix(bytes) } else { 0 },
    }
}
