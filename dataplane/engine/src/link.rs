//! What a worker and the detector share: counters, single-producer rings, and which roles and targets to look at closely.
//!
//! The worker never waits: what does not fit into a ring is lost, and for the list of dirty slots that loss is told, so
//! that the reader looks at all of them.

use std::num::NonZeroU32;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, Ordering};

use levee_api::role::RoleSet;
use rtrb::{Consumer, Producer, RingBuffer};

use crate::filter::FilterCounters;
use crate::filter::shares::Shares;
use crate::filter::sources::MAX_SETS;
use crate::sample::Sample;
use crate::target::counters::{Counters, Totals};
use crate::target::plan::{MAX_ZONES, Place};

/// What a worker tells besides counts.
#[derive(Clone, Copy, Debug)]
pub enum Notice {
    /// A hashed slot has a new tenant; its counters stood at `totals`.
    Lodged {
        /// The slot.
        slot: u32,
        /// The address; IPv4 in the low 32 bits.
        address: u128,
        /// True for IPv6.
        ipv6: bool,
        /// Counters at that moment.
        totals: Totals,
    },
    /// A conversation proved itself: the handshake was completed, or inside answered.
    Proven(u64),
    /// The client has promptly gone on after the answer.
    Continued(u64),
}

/// What is sampled and captured in full: written by the detector, read by every worker.
pub struct Watch {
    zones: Vec<ZoneWatch>,
    /// A bit for each computed slot whose target is alarmed.
    slots: Vec<AtomicU64>,
    /// How many targets are alarmed.
    targets: AtomicU32,
    /// How many zones have roles that are sampled in full.
    watched: AtomicU32,
}

#[derive(Default)]
struct ZoneWatch {
    roles: AtomicU16,
    /// Alarmed targets whose hosts have no computed slot. Their slots differ from worker to worker, so one such target stands
    /// for all of its zone.
    hashed: AtomicU32,
}

impl Watch {
    /// Nothing is watched.
    fn new(slots: usize) -> Self {
        Self {
            zones: (0..MAX_ZONES).map(|_| ZoneWatch::default()).collect(),
            slots: (0..slots.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
            targets: AtomicU32::new(0),
            watched: AtomicU32::new(0),
        }
    }

    /// True when any role of any zone is sampled in full.
    #[inline]
    pub fn is_any_watched(&self) -> bool {
        self.watched.load(Ordering::Relaxed) > 0
    }

    /// True when any target is alarmed.
    #[inline]
    pub fn is_any_alarmed(&self) -> bool {
        self.targets.load(Ordering::Relaxed) > 0
    }

    /// True when what is at this place belongs to an alarmed target.
    #[inline]
    pub fn is_alarmed(&self, place: Place) -> bool {
        if place.hashed {
            return self.zones.get(usize::from(place.zone)).is_some_and(|zone| zone.hashed.load(Ordering::Relaxed) > 0);
        }
        let (word, bit) = slot_bit(place.slot);
        self.slots.get(word).is_some_and(|word| word.load(Ordering::Relaxed) & bit != 0)
    }

    /// Counts an alarmed target in, or out again. `hashed`: its hosts have no computed slots.
    pub(crate) fn count_target(&self, zone: u16, hashed: bool, alarmed: bool) {
        step(&self.targets, alarmed);
        if let Some(zone) = self.zones.get(usize::from(zone)).filter(|_| hashed) {
            step(&zone.hashed, alarmed);
        }
    }

    /// Sets whether computed slots belong to an alarmed target.
    pub(crate) fn mark_slots(&self, slots: Range<u32>, alarmed: bool) {
        for slot in slots {
            let (word, bit) = slot_bit(slot);
            let Some(word) = self.slots.get(word) else { return };
            let bits = word.load(Ordering::Relaxed);
            word.store(if alarmed { bits | bit } else { bits & !bit }, Ordering::Relaxed);
        }
    }

    /// Nothing is alarmed any more.
    pub(crate) fn clear_targets(&self) {
        self.slots.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        self.zones.iter().for_each(|zone| zone.hashed.store(0, Ordering::Relaxed));
        self.targets.store(0, Ordering::Relaxed);
    }

    /// Sets the roles of a zone.
    pub fn set(&self, zone: u16, roles: RoleSet) {
        let Some(mask) = self.zones.get(usize::from(zone)) else { return };
        let before = mask.roles.load(Ordering::Relaxed);
        mask.roles.store(roles.0, Ordering::Relaxed);
        if (before == 0) != (roles.0 == 0) {
            step(&self.watched, roles.0 != 0);
        }
    }

    /// The roles of a zone.
    pub fn roles(&self, zone: u16) -> RoleSet {
        RoleSet(self.zones.get(usize::from(zone)).map_or(0, |mask| mask.roles.load(Ordering::Relaxed)))
    }
}

/// Packets from members of each address set, by one worker.
#[derive(Debug, Default)]
pub struct SourceHits([AtomicU64; MAX_SETS]);

impl SourceHits {
    /// Counts a packet of a class: one writer.
    #[inline]
    pub fn hit(&self, class: u16) {
        let mut left = class;
        while left != 0 {
            if let Some(counter) = usize::try_from(left.trailing_zeros()).ok().and_then(|bit| self.0.get(bit)) {
                count(counter);
            }
            left &= left - 1;
        }
    }

    /// Packets by set so far.
    pub fn read(&self) -> [u64; MAX_SETS] {
        self.0.each_ref().map(|counter| counter.load(Ordering::Relaxed))
    }
}

/// The worker's end.
pub struct WorkerEnd {
    /// Its counters.
    pub counters: Arc<Counters>,
    /// Which roles to sample in full.
    pub watch: Arc<Watch>,
    /// Hits of filters.
    pub hits: Arc<FilterCounters>,
    /// Its shares of limits.
    pub shares: Arc<Shares>,
    /// Hits of address sets.
    pub source_hits: Arc<SourceHits>,
    dirty: Producer<u32>,
    overflow: Arc<AtomicBool>,
    notices: Producer<Notice>,
    samples: Producer<Sample>,
    lost: Arc<Lost>,
}

/// The detector's end.
pub struct DetectorEnd {
    /// The worker's counters.
    pub counters: Arc<Counters>,
    /// Hits of filters.
    pub hits: Arc<FilterCounters>,
    /// Hits of address sets.
    pub source_hits: Arc<SourceHits>,
    /// Slots with traffic, each once per tick.
    pub dirty: Consumer<u32>,
    /// What the worker told.
    pub notices: Consumer<Notice>,
    /// Copies of headers.
    pub samples: Consumer<Sample>,
    overflow: Arc<AtomicBool>,
    lost: Arc<Lost>,
}

/// What did not fit into the rings.
#[derive(Debug, Default)]
pub struct Lost {
    /// Notices.
    pub notices: AtomicU64,
    /// Samples.
    pub samples: AtomicU64,
}

/// Sizes of the rings: a tick's worth at line rate, within reason.
const NOTICES: usize = 1 << 14;
const SAMPLES: usize = 1 << 13;

/// Connects workers to a detector. `slots`: host slots of each worker's counters; `filters`: how many filters are counted.
pub fn connect(workers: usize, slots: usize, filters: usize) -> (Vec<WorkerEnd>, Vec<DetectorEnd>, Arc<Watch>) {
    let watch = Arc::new(Watch::new(slots));
    let equal = u32::try_from(workers).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MIN);
    let pairs = (0..workers).map(|_| {
        let counters = Arc::new(Counters::new(slots));
        let hits = Arc::new(FilterCounters::new(filters));
        let shares = Arc::new(Shares::new(filters, equal));
        let source_hits = Arc::new(SourceHits::default());
        let overflow = Arc::new(AtomicBool::new(false));
        let lost = Arc::new(Lost::default());
        let (dirty_in, dirty_out) = RingBuffer::new(slots.clamp(1 << 10, 1 << 18));
        let (notices_in, notices_out) = RingBuffer::new(NOTICES);
        let (samples_in, samples_out) = RingBuffer::new(SAMPLES);
        let worker = WorkerEnd {
            counters: Arc::clone(&counters),
            watch: Arc::clone(&watch),
            hits: Arc::clone(&hits),
            shares,
            source_hits: Arc::clone(&source_hits),
            dirty: dirty_in,
            overflow: Arc::clone(&overflow),
            notices: notices_in,
            samples: samples_in,
            lost: Arc::clone(&lost),
        };
        (
            worker,
            DetectorEnd {
                counters,
                hits,
                source_hits,
                dirty: dirty_out,
                notices: notices_out,
                samples: samples_out,
                overflow,
                lost,
            },
        )
    });
    let (workers, detectors) = pairs.unzip();
    (workers, detectors, watch)
}

impl WorkerEnd {
    /// Tells that slots have traffic.
    pub fn dirty(&mut self, slots: &[u32]) {
        let room = self.dirty.slots().min(slots.len());
        if room < slots.len() {
            self.overflow.store(true, Ordering::Release);
        }
        if let Ok(places) = self.dirty.write_chunk_uninit(room) {
            places.fill_from_iter(slots.iter().copied());
        }
    }

    /// Tells something; false when there was no room for it.
    pub fn notice(&mut self, notice: Notice) -> bool {
        let told = self.notices.push(notice).is_ok();
        if !told {
            count(&self.lost.notices);
        }
        told
    }

    /// Hands over a sample.
    pub fn sample(&mut self, sample: Sample) {
        if self.samples.push(sample).is_err() {
            count(&self.lost.samples);
        }
    }
}

impl DetectorEnd {
    /// Takes the fact that dirty slots were lost: all have to be looked at.
    pub fn take_overflow(&self) -> bool {
        self.overflow.swap(false, Ordering::Acquire)
    }

    /// What did not fit so far.
    pub fn lost(&self) -> &Lost {
        &self.lost
    }
}

/// Counts up or down; there is one writer.
fn step(counter: &AtomicU32, up: bool) {
    let count = counter.load(Ordering::Relaxed);
    counter.store(if up { count.saturating_add(1) } else { count.saturating_sub(1) }, Ordering::Relaxed);
}

/// The word and the bit of a slot.
fn slot_bit(slot: u32) -> (usize, u64) {
    (usize::try_from(slot >> 6).unwrap_or(usize::MAX), 1 << (slot & 63))
}

/// One writer: a load and a store.
fn count(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}
