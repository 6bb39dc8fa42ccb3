//! The data path: what happens to a burst of packets, on one page.
//!
//! `parse -> locate -> account -> classify -> compare -> judge -> sample -> capture`, each one function over the whole burst,
//! between the driver's receive and transmit. A stage asks for the cache lines that the next one reads, for all packets of the burst at once:
//! so a full table costs little more than an empty one. Nothing here allocates, locks, makes a system call or waits; all
//! scratch space is made once.
//!
//! * [`hashed`]: locating hosts without a computed slot. * [`account`]: roles and counters, with [`initials`]. * [`judge`]: filters and verdicts, with [`limits`].
//! * [`challenge`]: SYNs that are answered, and answers to that, with [`proxy`]: connections that are opened in the place of a server. * [`copies`]: samples and captures.

mod account;
mod challenge;
mod copies;
mod hashed;
mod initials;
mod judge;
mod limits;
mod proxy;

use std::num::NonZeroU32;
use std::sync::Arc;

use levee_api::lane::Lane;
use levee_api::role::Role;
use levee_api::time::Timestamp;

use self::hashed::Hashed;
use self::judge::{Limited, NON_IP_LIMITERS};
use self::limits::Limits;
use crate::capture::Tap;
use crate::challenge::Challenges;
use crate::challenge::proxy::Proxy;
use crate::challenge::reply::Reply;
use crate::challenge::translation::Edit;
use crate::filter::Limiters;
use crate::filter::list::Hits;
use crate::filter::table::ListId;
use crate::generation::Reader;
use crate::isa::Isa;
use crate::link::WorkerEnd;
use crate::packet::{Direction, Packet, Parsed, columns, parse_burst};
use crate::tables::Tables;
use crate::target::conversation::{Conversations, Judged};
use crate::target::hosts::Hosts;
use crate::target::keyed::Keyed;
use crate::target::plan::Place;
use crate::verdict::{Reason, Verdict};

/// Most packets of one burst.
pub const BURST: usize = 64;
/// Length of a tick: the unit of epochs.
const TICK_NS: u64 = 10_000_000;
/// Samples a worker takes per tick in peace; of watched roles it takes [`WATCHED_SAMPLES`].
const PEACE_SAMPLES: u32 = 256;
/// Samples of what conversations explain that a worker takes per tick: enough for a reservoir within a second.
const EXPLAINED_SAMPLES: u32 = 8;
/// 2 048 per 100 ms for each of several targets, and enough for a first extraction in the first tick.
const WATCHED_SAMPLES: u32 = 1024;
/// And of what is inside conversations: of one burst in [`EVERY`] in peace.
const ESTABLISHED_SAMPLES: u32 = 256;
/// A power of two.
const EVERY: u32 = 16;

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
    challenges: Challenges,
    proxy: Proxy,
    control: Limiters,
    /// Of each wire. Not shared among workers: the first one sees all that is not IP.
    non_ip: Limiters,
    conversations: Conversations,
    hosts: Hosts,
    scratch: Box<Scratch>,
    epoch: u32,
    peace_left: u32,
    watched_left: u32,
    established_left: u32,
    explained_left: u32,
    initials_left: u32,
    /// Which bursts are looked into: numbers that nobody outside can foresee.
    lot: u32,
}

/// What is known of the packets of a burst, side by side.
struct Scratch {
    parsed: Parsed,
    keys: [u64; BURST],
    /// A bit for each packet whose conversation may be remembered.
    maybe_known: u64,
    places: [Option<Place>; BURST],
    hashed: Hashed,
    judged: [Judged; BURST],
    /// A bit for each packet whose source is blocked.
    blocked: u64,
    classes: [u16; BURST],
    lists: [ListId; BURST],
    hits: [Hits; BURST],
    /// A bit for each TCP segment that begins no connection and is of none that is known.
    strangers: u64,
    /// What limits know each packet by.
    limit_keys: [u64; BURST],
    /// What challenges know each packet by.
    challenge_keys: [[u64; 2]; BURST],
    /// A bit for each packet that answers a challenge and is answered itself.
    answers: u64,
    /// How each is answered that is.
    replies: [Reply; BURST],
    /// A bit for each packet of a connection that may have been opened in the place of its server.
    proxied: u64,
    /// A bit for each that has to wait for its server, and is held back.
    waiting: u64,
    /// A bit for each that goes on rewritten, if it does.
    edited: u64,
    /// Into what.
    edits: [Edit; BURST],
    /// Why each is dropped, or would be if its zone were enforced.
    reasons: [Option<Reason>; BURST],
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
            limits: Limits::new(keyed, workers, Arc::clone(&link.shares)),
            challenges: Challenges::new(&keyed),
            proxy: Proxy::new(&keyed),
            control: Limiters::new(Limited::COUNT, workers),
            non_ip: Limiters::new(NON_IP_LIMITERS, NonZeroU32::MIN),
            scratch: Box::new(Scratch {
                parsed: Parsed::default(),
                keys: [0; BURST],
                maybe_known: 0,
                places: [None; BURST],
                hashed: Hashed::NONE,
                judged: [unknown; BURST],
                blocked: 0,
                classes: [0; BURST],
                lists: [ListId::default(); BURST],
                hits: [Hits::NONE; BURST],
                strangers: 0,
                limit_keys: [0; BURST],
                challenge_keys: [[0; 2]; BURST],
                answers: 0,
                replies: [Reply::Truncated; BURST],
                proxied: 0,
                waiting: 0,
                edited: 0,
                edits: [Edit::None; BURST],
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
            established_left: ESTABLISHED_SAMPLES,
            explained_left: EXPLAINED_SAMPLES,
            initials_left: initials::PER_TICK,
            lot: 1,
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
        match direction {
            Direction::Inbound => {
                let sources = tables.sources.sets();
                stages.parse(packets, |addresses| sources.prefetch(addresses));
                let special = stages.locate(tables, direction, packets.len(), now);
                stages.account(tables, packets, now);
                let Scratch { parsed, classes, .. } = &mut *stages.scratch;
                let members = sources.classify(stages.isa, parsed, packets.len(), classes);
                stages.expect_drops(members);
                let met = stages.compare(tables, members, packets, now);
                verdicts.fill(Verdict::Forward);
                stages.judge(tables, special, members, &met, wire, packets, now, verdicts);
                stages.translate_inbound(special, packets, now, verdicts);
                stages.sample(packets, now);
                stages.capture(&met.filters, wire, direction, packets, now, verdicts);
            }
            Direction::Outbound => {
                stages.parse(packets, |_| {});
                stages.locate(tables, direction, packets.len(), now);
                stages.learn(tables, packets, now);
                verdicts.fill(Verdict::Forward);
                stages.translate_outbound(tables, packets, now, verdicts);
                stages.capture(&[], wire, direction, packets, now, verdicts);
            }
        }
    }

    /// Rewrites the packet that was at a position of the last burst, and had the verdict [`Verdict::Reply`], into the answer to it;
    /// returns how long that is, at most as long as `frame`. None when it cannot be: then the packet is to be dropped.
    pub fn reply(&self, at: usize, frame: &mut [u8]) -> Option<usize> {
        let Scratch { parsed, replies, .. } = &*self.stages.scratch;
        replies.get(at)?.write(frame, &parsed.layers(at))
    }

    /// Rewrites the packet that was at a position of the last burst, and had the verdict [`Verdict::Translate`]: `length` bytes of `frame`,
    /// behind which are [`translation::GROWTH`](crate::challenge::translation::GROWTH) more. Returns how long it is then. None when
    /// it cannot be: then the packet is to be dropped.
    pub fn translate(&self, at: usize, frame: &mut [u8], length: usize) -> Option<usize> {
        let Scratch { parsed, edits, .. } = &*self.stages.scratch;
        edits.get(at)?.write(frame, length, &parsed.layers(at))
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
            self.established_left = ESTABLISHED_SAMPLES;
            self.explained_left = EXPLAINED_SAMPLES;
            self.initials_left = initials::PER_TICK;
        }
    }

    #[inline(never)]
    fn parse(&mut self, packets: &[Packet<'_>], seen: impl Fn(&[u32])) {
        parse_burst(self.isa, packets, &mut self.scratch.parsed, seen);
    }

    /// Zone and host on the inside, and the key of the conversation. A bit for each packet that is judged by more than filters.
    #[inline(never)]
    fn locate(&mut self, tables: &Tables, direction: Direction, count: usize, now: Timestamp) -> u64 {
        match direction {
            Direction::Inbound => self.locate_in(tables, Direction::Inbound, count, now),
            Direction::Outbound => self.locate_in(tables, Direction::Outbound, count, now),
        }
    }

    #[inline(always)]
    fn locate_in(&mut self, tables: &Tables, direction: Direction, count: usize, now: Timestamp) -> u64 {
        let Self { isa, keyed, link, scratch, .. } = self;
        let Scratch { parsed, keys, places, hashed, .. } = &mut **scratch;
        let Parsed { columns, marks, .. } = &*parsed;
        let last = match direction {
            Direction::Inbound => Lane::Dst6,
            Direction::Outbound => Lane::Src6,
        };
        let counters = link.counters.view();
        let prefetch = |place: Place| match direction {
            Direction::Inbound => counters.prefetch(place.slot),
            Direction::Outbound => counters.prefetch_fates(place.slot),
        };
        keyed.conversations(*isa, direction, parsed, count, keys);
        for (pair, at_place) in columns.of(last).iter().zip(&mut *places).take(count) {
            *at_place = tables.plan.place4(columns::address_of(*pair));
            if let Some(place) = *at_place {
                prefetch(place);
            }
        }
        for at in set_bits(!marks.addressed) {
            if let Some(at_place) = places.get_mut(at) {
                *at_place = None;
            }
        }
        hashed.which = 0;
        if marks.ipv6 != 0 || tables.plan.hashes_ipv4() {
            self.locate_hashed(tables, direction, count);
        }
        let Self { isa, conversations, proxy, scratch, .. } = self;
        let Scratch { parsed, keys, maybe_known, proxied, waiting, edited, .. } = &mut **scratch;
        let Parsed { lanes, marks, .. } = &*parsed;
        *maybe_known = conversations.prefetch(direction, keys.get(..count).unwrap_or_default());
        (*proxied, *waiting, *edited) = (0, 0, 0);
        if proxy.connections.are_any(now) {
            *proxied = set_bits(marks.tcp)
                .filter(|at| keys.get(*at).is_some_and(|key| proxy.connections.may_know(*key)))
                .inspect(|at| keys.get(*at).into_iter().for_each(|key| proxy.connections.prefetch(*key)))
                .fold(0, |bits, at| bits | 1 << at);
        }
        if direction == Direction::Inbound {
            conversations.locate_fragments(*isa, marks.fragments, lanes, parsed.rows());
        }
        marks.special
    }

    /// Asks for where the fates of packets are counted that their sources may decide.
    fn expect_drops(&self, members: u64) {
        let counters = self.link.counters.view();
        for place in set_bits(members).filter_map(|at| *self.scratch.places.get(at)?) {
            counters.prefetch_fates(place.slot);
        }
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
