//! `[dataplane.capture]`: what is kept of the packets around an attack.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::problem::Fault;
use super::quantity;
use super::section::{Located, Section};

/// What is captured, and how much of it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capture {
    /// Whether workers copy packets at all.
    pub enabled: bool,
    /// Memory of each worker's ring in bytes: how far back a capture reaches.
    pub ring_bytes: u64,
    /// Bytes of its ring that a worker fills per second at most; the ring holds at least a second of that.
    pub bytes_per_second: u64,
    /// One in so many packets is copied while their target is at peace.
    pub peace_one_in: u32,
    /// What one incident may take on disk, in bytes.
    pub incident_bytes: u64,
    /// Packets of one incident at most.
    pub incident_packets: u64,
    /// Time from the anomaly to the end of its capture at most.
    pub incident_duration: Duration,
    /// What all captures together may take on disk, in bytes; room for at least one incident.
    pub quota_bytes: u64,
    /// Captures are deleted after so many days; 0: none is written.
    pub retention_days: u16,
    /// Outside addresses are cut to their /24 or /48.
    pub truncate_addresses: bool,
}

impl Default for Capture {
    fn default() -> Self {
        Self {
            enabled: true,
            ring_bytes: 16 << 20,
            bytes_per_second: 8 << 20,
            peace_one_in: 16,
            incident_bytes: 32 << 20,
            incident_packets: 100_000,
            incident_duration: Duration::from_secs(60),
            quota_bytes: 1 << 30,
            retention_days: 30,
            truncate_addresses: false,
        }
    }
}

impl Capture {
    /// True when there is anything to do: captures are wanted and may be kept.
    pub const fn is_on(&self) -> bool {
        self.enabled && self.retention_days > 0
    }
}

const RING: RangeInclusive<u64> = 1 << 20..=16 << 30;
const RATE: RangeInclusive<u64> = 64 << 10..=4 << 30;
/// A few hundred packets at least, or the description of a capture is longer than the capture.
const INCIDENT: RangeInclusive<u64> = 64 << 10..=1 << 40;
const QUOTA: RangeInclusive<u64> = 64 << 10..=1 << 50;
const DURATION: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 60 * 60);
/// What data protection officers ask for is days or weeks; nobody defends a longer time than a year.
const RETENTION_DAYS: RangeInclusive<u64> = 0..=365;

pub(super) fn read(dataplane: &Section<'_>) -> Capture {
    let default = Capture::default();
    let Some(section) = dataplane.table("capture", "[dataplane.capture]".to_owned()) else { return default };
    let size = |key, allowed: RangeInclusive<u64>, otherwise: u64, usual: &str| {
        let given = section.parsed(key, |text| size(text, &allowed, usual));
        given.unwrap_or_else(|| Located { value: otherwise, span: section.place(key) })
    };
    let number = |key, allowed: RangeInclusive<u64>| section.integer(key, allowed);
    let ring = size("ring", RING, default.ring_bytes, "16MiB");
    let rate = size("rate", RATE, default.bytes_per_second, "8MiB");
    let incident = size("incident_bytes", INCIDENT, default.incident_bytes, "32MiB");
    let quota = size("quota", QUOTA, default.quota_bytes, "1GiB");
    if ring.value < rate.value {
        let fault = Fault::new(
            format!("a ring of {} bytes is overwritten within a second at {} bytes a second", ring.value, rate.value),
            "let `ring` be at least as large as `rate`: what came before an attack was noticed would be gone",
        );
        section.problems().conflict(ring.span, fault, rate.span, "the rate");
    }
    if quota.value < incident.value {
        let fault = Fault::new(
            format!("a quota of {} bytes has no room for one incident of {} bytes", quota.value, incident.value),
            "raise `quota` or lower `incident_bytes`",
        );
        section.problems().conflict(quota.span, fault, incident.span, "what an incident may take");
    }
    let capture = Capture {
        enabled: section.boolean("enabled").unwrap_or(default.enabled),
        ring_bytes: ring.value,
        bytes_per_second: rate.value,
        peace_one_in: number("peace_one_in", 1..=1_000_000)
            .and_then(|n| u32::try_from(n).ok())
            .unwrap_or(default.peace_one_in),
        incident_bytes: incident.value,
        incident_packets: number("incident_packets", 1..=1_000_000_000).unwrap_or(default.incident_packets),
        incident_duration: section
            .parsed("incident_duration", duration)
            .map_or(default.incident_duration, |duration| duration.value),
        quota_bytes: quota.value,
        retention_days: number("retention_days", RETENTION_DAYS)
            .and_then(|days| u16::try_from(days).ok())
            .unwrap_or(default.retention_days),
        truncate_addresses: section.boolean("truncate_addresses").unwrap_or(default.truncate_addresses),
    };
    section.refuse_unknown();
    capture
}

fn size(text: &str, allowed: &RangeInclusive<u64>, usual: &str) -> Result<u64, Fault> {
    let bytes = quantity::size(text)?;
    if allowed.contains(&bytes) {
        return Ok(bytes);
    }
    let (least, most) = (allowed.start() >> 10, allowed.end() >> 30);
    Err(Fault::new(
        format!("{text} is out of range"),
        format!("give a size from \"{least}KiB\" to \"{most}GiB\"; usual is {usual:?}"),
    ))
}

fn duration(text: &str) -> Result<Duration, Fault> {
    let duration = quantity::duration(text)?;
    if DURATION.contains(&duration) {
        return Ok(duration);
    }
    Err(Fault::new(
        format!("a capture cannot last for {text}"),
        "give a duration from \"1s\" to \"24h\"; usual is \"60s\"",
    ))
}
