//! What was learned, as bytes that survive a restart: baselines, what is usual for witnesses, reservoirs.
//!
//! Layout, little endian, sealed as in [`crate::sealed`]: when it was written, what an observation weighed then; number of
//! zones; per zone its name, seconds observed, habits, habits of services, largest rates, reservoirs; then the number of targets; per
//! target its zone's number, prefix, usual values and baselines.

mod format;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use levee_api::prefix::Prefix;
use levee_api::role::Role;
use levee_api::time::Timestamp;

use crate::detect::detector::Detector;
use crate::detect::habits::Habits;
use crate::detect::node::{Node, NodeId};
use crate::detect::threshold::Baseline;
use crate::detect::witness::Usual;
use crate::sample::Sample;
use crate::sealed::{self, Kind, SealError};
use crate::target::counters::COUNTED_ROLES;
use crate::target::plan::Plan;

use format::{Decoder, Encoder};

/// Targets written down at once.
const TARGETS_AT_ONCE: NodeId = 1024;
/// Samples written down at once: as many as fit a zone may be more.
const SAMPLES_AT_ONCE: usize = 4096;

/// What leads the file.
const KIND: Kind = Kind { magic: *b"LVBL", version: 3 };

/// All that was learned.
#[derive(Clone, Debug, Default)]
pub struct Learned {
    /// When it was written, since 1970.
    pub written: Duration,
    /// By zone.
    pub zones: Vec<ZoneRecord>,
    /// By target: hosts first, since they bring their prefixes with them.
    pub targets: Vec<TargetRecord>,
}

/// What a zone had learned.
#[derive(Clone, Debug, Default)]
pub struct ZoneRecord {
    /// Name of the zone.
    pub name: String,
    /// How long it was watched.
    pub observed: Duration,
    /// What its clients and servers do next.
    pub habits: Habits,
    /// By port of its UDP services: clients that were answered, and those that went on.
    pub services: Vec<(u16, [f32; 2])>,
    /// Largest rates of the zone in peace.
    pub largest: [f32; COUNTED_ROLES],
    /// Legitimate samples per role.
    pub reservoirs: Vec<Vec<Sample>>,
}

/// What a target had learned.
#[derive(Clone, Debug, PartialEq)]
pub struct TargetRecord {
    /// Position of its zone in the snapshot.
    pub zone: u32,
    /// The host or prefix.
    pub prefix: Prefix,
    /// Most SYNs without a handshake in peace.
    pub half_open: f32,
    /// Most datagrams without an answer in peace.
    pub unanswered: f32,
    /// The most that one source has sent inside conversations in peace, packets per second.
    pub heaviest: f32,
    /// Baselines of the roles that were seen.
    pub baselines: Vec<(Role, Baseline)>,
}

/// Everything the detector has learned.
pub fn write(detector: &Detector) -> Vec<u8> {
    let mut draft = Draft::begin(detector);
    while !draft.go_on(detector) {}
    draft.finish()
}

/// What was learned, written down a part at a time: of many targets it is more than a tick has time for.
pub struct Draft {
    plan: Arc<Plan>,
    head: Encoder,
    zones: Encoder,
    zones_done: usize,
    /// Hosts first: they bring their prefixes with them when they are restored.
    hosts: Encoder,
    prefixes: BTreeMap<(u16, Prefix), Encoder>,
    targets: usize,
    next: NodeId,
}

impl Draft {
    /// Nothing is written down yet.
    pub fn begin(detector: &Detector) -> Self {
        let mut head = Encoder::default();
        let (written, weight) = detector.learning_time();
        head.written(written, weight);
        Self {
            plan: Arc::clone(detector.plan()),
            head,
            zones: Encoder::default(),
            zones_done: 0,
            hosts: Encoder::default(),
            prefixes: BTreeMap::new(),
            targets: 0,
            next: 0,
        }
    }

    /// Writes a part down, in at most about a millisecond; true when that was the last. Begins anew when the zones have
    /// changed meanwhile.
    pub fn go_on(&mut self, detector: &Detector) -> bool {
        if !Arc::ptr_eq(&self.plan, detector.plan()) {
            *self = Self::begin(detector);
        }
        let mut samples = 0;
        for (index, (zone, state)) in (0..).zip(detector.zones()).skip(self.zones_done) {
            if samples >= SAMPLES_AT_ONCE {
                return false;
            }
            let reservoirs = || state.reservoirs.iter().map(|reservoir| reservoir.samples());
            let largest = state.rates.iter().map(|rate| rate.largest);
            let services = detector.services().habits(index);
            self.zones.zone(&zone.name, state.observed, &state.habits, &services, largest, reservoirs());
            samples += reservoirs().map(<[Sample]>::len).sum::<usize>();
            self.zones_done += 1;
        }
        let end = detector.nodes().end().min(self.next.saturating_add(TARGETS_AT_ONCE));
        for node in (self.next..end).filter_map(|id| detector.nodes().get(id)) {
            let part = if node.prefix.is_host() {
                &mut self.hosts
            } else {
                self.prefixes.entry((node.zone, node.prefix)).or_default()
            };
            part.target(node.zone.into(), &node.prefix, &node.usual, baselines(node));
            self.targets += 1;
        }
        self.next = end;
        end == detector.nodes().end()
    }

    /// The bytes: takes as long as a checksum over all of them.
    pub fn finish(self) -> Vec<u8> {
        let mut payload = self.head;
        payload.count(self.zones_done);
        payload.bytes(&self.zones.0);
        payload.count(self.targets);
        payload.bytes(&self.hosts.0);
        self.prefixes.values().for_each(|prefix| payload.bytes(&prefix.0));
        sealed::seal(KIND, &payload.0)
    }
}

fn baselines(node: &Node) -> impl Iterator<Item = (Role, &Baseline)> {
    Role::ALL.into_iter().filter_map(|role| Some((role, &node.track(role)?.baseline)))
}

impl Learned {
    /// From the bytes of a snapshot. Observations weigh one as of when it was written.
    ///
    /// # Errors
    /// When they are no whole snapshot of this version.
    pub fn open(bytes: &[u8]) -> Result<Self, SealError> {
        Self::decode(sealed::open(KIND, bytes)?).ok_or(SealError::Damaged)
    }

    /// Gives it to a detector. Zones are known by name; what belongs to none is left out.
    pub fn give(self, detector: &mut Detector, now: Timestamp) {
        detector.restore(self, now);
    }

    fn decode(payload: &[u8]) -> Option<Self> {
        let mut from = Decoder(payload);
        let (written, weight) = (Duration::from_millis(from.u64()?), from.f32().filter(|weight| *weight > 0.0)?);
        let mut learned = Self { written, ..Self::default() };
        for _ in 0..from.u32()? {
            learned.zones.push(from.zone()?);
        }
        for _ in 0..from.u32()? {
            let mut target = from.target()?;
            target.baselines.iter_mut().for_each(|(_, baseline)| baseline.age(Duration::ZERO, weight));
            learned.targets.push(target);
        }
        Some(learned)
    }

    /// The bytes of a snapshot.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut payload = Encoder::default();
        payload.written(self.written, 1.0);
        payload.count(self.zones.len());
        for ZoneRecord { name, observed, habits, services, largest, reservoirs } in &self.zones {
            let samples = (0..COUNTED_ROLES).map(|role| reservoirs.get(role).map_or(&[][..], Vec::as_slice));
            payload.zone(name, *observed, habits, services, largest.iter().copied(), samples);
        }
        payload.count(self.targets.len());
        for TargetRecord { zone, prefix, half_open, unanswered, heaviest, baselines } in &self.targets {
            let baselines = baselines.iter().map(|(role, baseline)| (*role, baseline));
            let usual = Usual { half_open: *half_open, unanswered: *unanswered, heaviest: *heaviest };
            payload.target(*zone, prefix, &usual, baselines);
        }
        sealed::seal(KIND, &payload.0)
    }
}
