//! The bytes of a snapshot's parts, little endian.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use levee_api::prefix::Prefix;
use levee_api::role::Role;
use levee_api::time::Timestamp;

use super::{TargetRecord, ZoneRecord};
use crate::detect::growth::{Drift, WEEK_DAYS};
use crate::detect::habits::Habits;
use crate::detect::histogram::Histogram;
use crate::detect::hours::{HOURS, Hours};
use crate::detect::threshold::{Baseline, Levels};
use crate::detect::witness::Usual;
use crate::packet::Lanes;
use crate::sample::{SAMPLE_PAYLOAD, Sample};
use crate::target::counters::COUNTED_ROLES;

/// Writes.
#[derive(Default)]
pub(super) struct Encoder(pub(super) Vec<u8>);

impl Encoder {
    pub(super) fn written(&mut self, since_1970: Duration, weight: f32) {
        self.u64(u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX));
        self.f32(weight);
    }

    pub(super) fn zone<'a>(
        &mut self,
        name: &str,
        observed: Duration,
        habits: &Habits,
        services: &[(u16, [f32; 2])],
        largest: impl Iterator<Item = f32>,
        reservoirs: impl Iterator<Item = &'a [Sample]>,
    ) {
        self.count(name.len());
        self.bytes(name.as_bytes());
        self.u64(u64::try_from(observed.as_millis()).unwrap_or(u64::MAX));
        habits.sums().into_iter().for_each(|sum| self.f32(sum));
        self.count(services.len());
        for (port, [answers, continued]) in services {
            self.u16(*port);
            self.f32(*answers);
            self.f32(*continued);
        }
        largest.for_each(|rate| self.f32(rate));
        for samples in reservoirs {
            self.count(samples.len());
            samples.iter().for_each(|sample| self.sample(sample));
        }
    }

    pub(super) fn target<'a>(
        &mut self,
        zone: u32,
        prefix: &Prefix,
        usual: &Usual,
        baselines: impl Iterator<Item = (Role, &'a Baseline)>,
    ) {
        self.u32(zone);
        self.prefix(prefix);
        self.f32(usual.half_open);
        self.f32(usual.unanswered);
        self.f32(usual.heaviest);
        let baselines: Vec<_> = baselines.collect();
        self.count(baselines.len());
        for (role, baseline) in baselines {
            self.bytes(&[role as u8]);
            self.baseline(baseline);
        }
    }

    fn baseline(&mut self, baseline: &Baseline) {
        let Baseline { largest, rates, levels, drift, hours, is_seasonal, factor, .. } = baseline;
        self.f32(*largest);
        let (silence, first, weights) = rates.parts();
        self.f32(silence);
        self.count(first);
        self.count(weights.len());
        weights.iter().for_each(|weight| self.f32(*weight));
        self.bytes(&[u8::from(levels.is_some())]);
        if let Some(Levels { q999, q9999 }) = levels {
            self.f32(*q999);
            self.f32(*q9999);
        }
        let Drift { seconds, days, weeks, sum } = drift;
        self.f32(*seconds);
        self.bytes(&[*days]);
        weeks.iter().chain([sum]).for_each(|value| self.f32(*value));
        self.bytes(&[u8::from(*is_seasonal)]);
        self.f32(*factor);
        self.bytes(&[u8::from(hours.is_some())]);
        hours.iter().for_each(|hours| self.bytes(&hours.0));
    }

    fn sample(&mut self, sample: &Sample) {
        sample.lanes.0.iter().for_each(|lane| self.u16(*lane));
        self.bytes(&sample.payload);
        self.bytes(&[sample.present]);
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }
    pub(super) fn u16(&mut self, value: u16) {
        self.bytes(&value.to_le_bytes());
    }
    pub(super) fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }
    pub(super) fn u64(&mut self, value: u64) {
        self.bytes(&value.to_le_bytes());
    }
    pub(super) fn f32(&mut self, value: f32) {
        self.bytes(&value.to_le_bytes());
    }
    pub(super) fn count(&mut self, count: usize) {
        self.u32(u32::try_from(count).unwrap_or(u32::MAX));
    }
    pub(super) fn prefix(&mut self, prefix: &Prefix) {
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

/// Reads; none: there is not enough, or it is impossible.
pub(super) struct Decoder<'a>(pub(super) &'a [u8]);

impl<'a> Decoder<'a> {
    pub(super) fn zone(&mut self) -> Option<ZoneRecord> {
        let length = self.length()?;
        let name = String::from_utf8(self.take(length)?.to_vec()).ok()?;
        let observed = Duration::from_millis(self.u64()?);
        let mut zone = ZoneRecord { name, observed, ..ZoneRecord::default() };
        let mut sums = zone.habits.sums();
        for sum in &mut sums {
            *sum = self.f32()?;
        }
        zone.habits = Habits::from_sums(sums);
        for _ in 0..self.u32()? {
            zone.services.push((self.u16()?, [self.f32()?, self.f32()?]));
        }
        for rate in &mut zone.largest {
            *rate = self.f32()?;
        }
        for role in Role::ALL.into_iter().take(COUNTED_ROLES) {
            let mut samples = Vec::new();
            for _ in 0..self.u32()? {
                samples.push(self.sample(role)?);
            }
            zone.reservoirs.push(samples);
        }
        Some(zone)
    }

    pub(super) fn target(&mut self) -> Option<TargetRecord> {
        let (zone, prefix) = (self.u32()?, self.prefix()?);
        let (half_open, unanswered, heaviest) = (self.f32()?, self.f32()?, self.f32()?);
        let mut baselines = Vec::new();
        for _ in 0..self.u32()? {
            let role = *Role::ALL.get(usize::from(self.u8()?))?;
            baselines.push((role, self.baseline()?));
        }
        Some(TargetRecord { zone, prefix, half_open, unanswered, heaviest, baselines })
    }

    fn baseline(&mut self) -> Option<Baseline> {
        let (largest, silence, first) = (self.f32()?, self.f32()?, self.length()?);
        let mut weights = Vec::new();
        for _ in 0..self.u32()? {
            weights.push(self.f32()?);
        }
        let mut baseline =
            Baseline { largest, rates: Histogram::from_parts(silence, first, weights)?, ..Baseline::default() };
        if self.flag()? {
            baseline.levels = Some(Levels { q999: self.f32()?, q9999: self.f32()? });
        }
        let (seconds, days) = (self.f32()?, self.u8().filter(|days| *days < WEEK_DAYS)?);
        baseline.drift = Drift { seconds, days, ..Drift::default() };
        for level in &mut baseline.drift.weeks {
            *level = self.f32()?;
        }
        baseline.drift.sum = self.f32()?;
        baseline.is_seasonal = self.flag()?;
        baseline.factor = self.f32().filter(|factor| *factor > 0.0)?;
        if self.flag()? {
            baseline.hours = Some(Box::new(Hours(self.array::<HOURS>()?)));
        }
        Some(baseline)
    }

    fn flag(&mut self) -> Option<bool> {
        match self.u8()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        let [byte] = self.array()?;
        Some(byte)
    }

    pub(super) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }
    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }
    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }
    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }
    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
    pub(super) fn length(&mut self) -> Option<usize> {
        usize::try_from(self.u32()?).ok()
    }
    /// Rates and weights are finite and not negative.
    pub(super) fn f32(&mut self) -> Option<f32> {
        self.array().map(f32::from_le_bytes).filter(|value| value.is_finite() && *value >= 0.0)
    }
    pub(super) fn prefix(&mut self) -> Option<Prefix> {
        let [version] = self.array()?;
        let address = match version {
            4 => IpAddr::V4(Ipv4Addr::from(self.array::<4>()?)),
            6 => IpAddr::V6(Ipv6Addr::from(self.array::<16>()?)),
            _ => return None,
        };
        let [length] = self.array()?;
        Some(Prefix::containing(address, length))
    }
    pub(super) fn sample(&mut self, role: Role) -> Option<Sample> {
        let mut lanes = Lanes::default();
        for lane in &mut lanes.0 {
            *lane = self.u16()?;
        }
        let payload: [u8; SAMPLE_PAYLOAD] = self.array()?;
        let [present] = self.array()?;
        Some(Sample { lanes, payload, at: Timestamp::ZERO, conversation: 0, slot: 0, role, passed: true, present })
    }
}
