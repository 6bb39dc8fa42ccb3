//! What was learned, as bytes that survive a restart: baselines, what is usual for witnesses, reservoirs.
//!
//! Layout, little endian, sealed as in [`crate::sealed`]: number of zones; per zone its name, seconds observed, habits,
//! largest rates, reservoirs; then the number of targets; per target its zone's number, prefix, usual values and
//! baselines.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use levee_api::prefix::Prefix;
use levee_api::role::Role;
use levee_api::time::Timestamp;
use levee_api::zone::Zone;

use crate::detect::detector::Detector;
use crate::detect::habits::Habits;
use crate::detect::node::{Node, NodeId};
use crate::detect::threshold::{Baseline, Histogram};
use crate::detect::zone::ZoneState;
use crate::packet::Lanes;
use crate::sample::{SAMPLE_PAYLOAD, Sample};
use crate::sealed::{self, Kind, SealError};
use crate::target::counters::COUNTED_ROLES;
use crate::target::plan::Plan;

/// Targets written down at once.
const TARGETS_AT_ONCE: NodeId = 1024;
/// Samples written down at once: as many as fit a zone may be more.
const SAMPLES_AT_ONCE: usize = 4096;

/// What leads the file.
const KIND: Kind = Kind { magic: *b"LVBL", version: 1 };

/// What a zone had learned.
#[derive(Clone, Debug, Default)]
pub struct ZoneRecord {
    /// Name of the zone.
    pub name: String,
    /// How long it was watched.
    pub observed: Duration,
    /// What its clients and servers do next.
    pub habits: Habits,
    /// Largest rates of the zone in peace.
    pub largest: [f32; COUNTED_ROLES],
    /// Legitimate samples per role.
    pub reservoirs: Vec<Vec<Sample>>,
}

/// What a target had learned.
#[derive(Clone, Debug)]
pub struct TargetRecord {
    /// Position of its zone in the snapshot.
    pub zone: u32,
    /// The host or prefix.
    pub prefix: Prefix,
    /// Most SYNs without a handshake in peace.
    pub half_open: f32,
    /// Most datagrams without an answer in peace.
    pub unanswered: f32,
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
        Self {
            plan: Arc::clone(detector.plan()),
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
        for (zone, state) in detector.zones().skip(self.zones_done) {
            if samples >= SAMPLES_AT_ONCE {
                return false;
            }
            samples += self.zones.zone(zone, state);
            self.zones_done += 1;
        }
        let end = detector.nodes().end().min(self.next.saturating_add(TARGETS_AT_ONCE));
        for node in (self.next..end).filter_map(|id| detector.nodes().get(id)) {
            let part = if node.prefix.is_host() {
                &mut self.hosts
            } else {
                self.prefixes.entry((node.zone, node.prefix)).or_default()
            };
            part.target(node);
            self.targets += 1;
        }
        self.next = end;
        end == detector.nodes().end()
    }

    /// The bytes: takes as long as a checksum over all of them.
    pub fn finish(self) -> Vec<u8> {
        let mut payload = Encoder::default();
        payload.count(self.zones_done);
        payload.bytes(&self.zones.0);
        payload.count(self.targets);
        payload.bytes(&self.hosts.0);
        self.prefixes.values().for_each(|prefix| payload.bytes(&prefix.0));
        sealed::seal(KIND, &payload.0)
    }
}

/// Gives a detector what another had learned. Zones are known by name; what belongs to none is left out.
///
/// # Errors
/// When the bytes are no whole snapshot of this version; the detector is then untouched.
pub fn read(detector: &mut Detector, bytes: &[u8], now: Timestamp) -> Result<(), SealError> {
    let (zones, targets) = decode(sealed::open(KIND, bytes)?).ok_or(SealError::Damaged)?;
    detector.restore(zones, targets, now);
    Ok(())
}

fn decode(payload: &[u8]) -> Option<(Vec<ZoneRecord>, Vec<TargetRecord>)> {
    let mut from = Decoder(payload);
    let mut zones = Vec::new();
    for _ in 0..from.u32()? {
        let length = from.length()?;
        let name = String::from_utf8(from.take(length)?.to_vec()).ok()?;
        let mut zone = ZoneRecord { name, observed: Duration::from_millis(from.u64()?), ..ZoneRecord::default() };
        let mut sums = [0.0; 5];
        for sum in &mut sums {
            *sum = from.f32()?;
        }
        zone.habits = Habits::from_sums(sums);
        for rate in &mut zone.largest {
            *rate = from.f32()?;
        }
        for role in Role::ALL.into_iter().take(COUNTED_ROLES) {
            let mut samples = Vec::new();
            for _ in 0..from.u32()? {
                samples.push(from.sample(role)?);
            }
            zone.reservoirs.push(samples);
        }
        zones.push(zone);
    }
    let mut targets = Vec::new();
    for _ in 0..from.u32()? {
        let (zone, prefix, half_open, unanswered) = (from.u32()?, from.prefix()?, from.f32()?, from.f32()?);
        let mut baselines = Vec::new();
        for _ in 0..from.u32()? {
            let [role] = *from.take(1)? else { return None };
            let role = *Role::ALL.get(usize::from(role))?;
            let largest = from.f32()?;
            let mut weights = Vec::new();
            for _ in 0..from.u32()? {
                weights.push(from.f32()?);
            }
            baselines.push((role, Baseline { largest, rates: Histogram::from_weights(weights) }));
        }
        targets.push(TargetRecord { zone, prefix, half_open, unanswered, baselines });
    }
    Some((zones, targets))
}

#[derive(Default)]
struct Encoder(Vec<u8>);

impl Encoder {
    /// Says how many samples it had.
    fn zone(&mut self, zone: &Zone, state: &ZoneState) -> usize {
        self.count(zone.name.len());
        self.bytes(zone.name.as_bytes());
        self.u64(u64::try_from(state.observed.as_millis()).unwrap_or(u64::MAX));
        state.habits.sums().into_iter().for_each(|sum| self.f32(sum));
        state.rates.iter().for_each(|rate| self.f32(rate.largest));
        for reservoir in &state.reservoirs {
            self.count(reservoir.samples().len());
            for sample in reservoir.samples() {
                sample.lanes.0.iter().for_each(|lane| self.u16(*lane));
                self.bytes(&sample.payload);
                self.bytes(&[sample.present]);
            }
        }
        state.reservoirs.iter().map(|reservoir| reservoir.samples().len()).sum()
    }
    fn target(&mut self, node: &Node) {
        self.u32(u32::from(node.zone));
        self.prefix(&node.prefix);
        self.f32(node.usual.half_open);
        self.f32(node.usual.unanswered);
        self.count(node.tracks.iter().flatten().count());
        for role in Role::ALL {
            let Some(track) = node.track(role) else { continue };
            self.bytes(&[role as u8]);
            self.f32(track.baseline.largest);
            self.count(track.baseline.rates.weights().len());
            track.baseline.rates.weights().iter().for_each(|weight| self.f32(*weight));
        }
    }
    fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }
    fn u16(&mut self, value: u16) {
        self.bytes(&value.to_le_bytes());
    }
    fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }
    fn u64(&mut self, value: u64) {
        self.bytes(&value.to_le_bytes());
    }
    fn f32(&mut self, value: f32) {
        self.bytes(&value.to_le_bytes());
    }
    fn count(&mut self, count: usize) {
        self.u32(u32::try_from(count).unwrap_or(u32::MAX));
    }
    fn prefix(&mut self, prefix: &Prefix) {
        match prefix.address() {
            IpAddr::V4(v4) => {
                self.bytes(&[4]);
                self.bytes(&v4.octets());
            }
            IpAddr::V6(v6) => {
                self.bytes(&[6]);
                self.bytes(&v6.octets());
            }
        }
        self.bytes(&[prefix.length()]);
    }
}

struct Decoder<'a>(&'a [u8]);

impl<'a> Decoder<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }
    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }
    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }
    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
    fn length(&mut self) -> Option<usize> {
        usize::try_from(self.u32()?).ok()
    }
    /// Rates and weights are finite and not negative.
    fn f32(&mut self) -> Option<f32> {
        self.array().map(f32::from_le_bytes).filter(|value| value.is_finite() && *value >= 0.0)
    }
    fn prefix(&mut self) -> Option<Prefix> {
        let [version] = self.array()?;
        let address = match version {
            4 => IpAddr::V4(Ipv4Addr::from(self.array::<4>()?)),
            6 => IpAddr::V6(Ipv6Addr::from(self.array::<16>()?)),
            _ => return None,
        };
        let [length] = self.array()?;
        Some(Prefix::containing(address, length))
    }
    fn sample(&mut self, role: Role) -> Option<Sample> {
        let mut lanes = Lanes::default();
        for lane in &mut lanes.0 {
            *lane = self.u16()?;
        }
        let payload: [u8; SAMPLE_PAYLOAD] = self.array()?;
        let [present] = self.array()?;
        Some(Sample { lanes, payload, at: Timestamp::ZERO, conversation: 0, slot: 0, role, passed: true, present })
    }
}
