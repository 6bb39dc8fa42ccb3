//! What a runbook has to do with: the attacks of a replay's report (docs/reference/replay-report.md), or one that was recorded
//! live, as `leveectl incidents show ID -o json` tells it.

use std::path::{Path, PathBuf};

use levee_api::prefix::Prefix;
use levee_api::regular_file;
use serde::Deserialize;

/// One attack on one target.
#[derive(Clone, Debug, PartialEq)]
pub struct Attack {
    /// What was attacked.
    pub target: Prefix,
    /// Its zone.
    pub zone: String,
    /// Names of what it was, and how certain that is.
    pub vectors: Vec<(String, f64)>,
    /// When it was certain, nanoseconds since 1970.
    pub detected_at_ns: u64,
    /// When it was over; none: it went on when the capture ended.
    pub ended_at_ns: Option<u64>,
    /// Highest rate of everything that was sent to the target.
    pub peak_pps: f64,
    /// The same in bits per second.
    pub peak_bps: f64,
    /// The dataplane had a filter for it.
    pub filtered: bool,
}

/// A report: of what is in it, what a runbook can use.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// In order of detection.
    pub attacks: Vec<Attack>,
    /// The end of the last attack whose end is known, or else of the last detection: the capture went on at least so long.
    pub ends_at_ns: u64,
}

/// Why a file is not a report.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// It cannot be read at all.
    #[error("cannot read the report {}: {reason}", path.display())]
    Read {
        /// As given.
        path: PathBuf,
        /// What the system said.
        reason: std::io::Error,
    },
    /// It is no report.
    #[error(
        "{} is not the report of a replay, and no incident: {reason}; `levee-dataplane replay --report FILE` writes the one, \
         `leveectl incidents show ID -o json` the other",
        path.display()
    )]
    Format {
        /// As given.
        path: PathBuf,
        /// What is wrong, with line and column where there are any.
        reason: String,
    },
}

/// A report of an hour has some kilobytes per incident.
const MAX_BYTES: u64 = 256 << 20;

#[derive(Deserialize)]
struct Written {
    incidents: Vec<WrittenIncident>,
}

/// A `levee.v1.IncidentStory`, of which this is needed.
#[derive(Deserialize)]
struct Story {
    incident: Recorded,
    timeline: Vec<Entry>,
}

#[derive(Deserialize)]
struct Recorded {
    id: String,
    target: RecordedTarget,
    vectors: Vec<RecordedVector>,
    opened_unix_ns: u64,
    calm_unix_ns: Option<u64>,
    closed_unix_ns: Option<u64>,
    peak: Option<RecordedRates>,
}

#[derive(Deserialize)]
struct RecordedTarget {
    zone: String,
    prefix: Option<String>,
}

#[derive(Deserialize)]
struct RecordedVector {
    vector: String,
    confidence: f64,
}

#[derive(Deserialize)]
struct RecordedRates {
    pps: f64,
    bps: f64,
}

#[derive(Deserialize)]
struct Entry {
    time_unix_ns: u64,
    kind: String,
}

#[derive(Deserialize)]
struct WrittenIncident {
    target: String,
    zone: String,
    vectors: Vec<WrittenVector>,
    detected_at_ns: u64,
    ended_at_ns: Option<u64>,
    peak_pps: f64,
    peak_bps: f64,
    filters: Vec<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct WrittenVector {
    name: String,
    confidence: f64,
}

impl Report {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read, is larger than 256 MiB, or is no report.
    pub fn load(path: &Path) -> Result<Self, ReportError> {
        let failed = |reason| ReportError::Read { path: path.to_owned(), reason };
        let text = regular_file::read(path, MAX_BYTES).map_err(failed)?;
        Self::parse(&text).map_err(|reason| ReportError::Format { path: path.to_owned(), reason })
    }

    /// Reads a text.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let value: serde_json::Value = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        if value.get("incident").is_some() {
            let story: Story = serde_json::from_value(value).map_err(|error| error.to_string())?;
            return Self::of(vec![recorded(story)?]);
        }
        // Read from the text, so that a mistake has a place.
        drop(value);
        let written: Written = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        let mut attacks = Vec::with_capacity(written.incidents.len());
        for (index, incident) in written.incidents.into_iter().enumerate() {
            let number = index + 1;
            let target = incident.target.parse().map_err(|error| format!("incident {number}: {error}"))?;
            attacks.push(Attack {
                target,
                zone: incident.zone,
                vectors: incident.vectors.into_iter().map(|vector| (vector.name, vector.confidence)).collect(),
                detected_at_ns: incident.detected_at_ns,
                ended_at_ns: incident.ended_at_ns,
                peak_pps: incident.peak_pps,
                peak_bps: incident.peak_bps,
                filtered: !incident.filters.is_empty(),
            });
        }
        Self::of(attacks)
    }

    /// A report of these attacks.
    fn of(attacks: Vec<Attack>) -> Result<Self, String> {
        for (number, attack) in (1..).zip(&attacks) {
            let rates = [attack.peak_pps, attack.peak_bps];
            if rates.iter().any(|rate| !rate.is_finite() || *rate < 0.0) {
                return Err(format!("incident {number}: a rate cannot be {rates:?}"));
            }
            if attack.ended_at_ns.is_some_and(|end| end < attack.detected_at_ns) {
                return Err(format!("incident {number} ends before it begins"));
            }
        }
        let ends = attacks.iter().map(|attack| attack.ended_at_ns.unwrap_or(attack.detected_at_ns));
        let ends_at_ns = ends.max().unwrap_or(0);
        Ok(Self { attacks, ends_at_ns })
    }
}

/// The attack of an incident that was recorded.
fn recorded(story: Story) -> Result<Attack, String> {
    let Story { incident, timeline } = story;
    let id = &incident.id;
    let prefix = incident.target.prefix.as_deref();
    let prefix = prefix.ok_or_else(|| format!("incident {id} is on a whole zone, and runbooks need a prefix"))?;
    let target = prefix.parse().map_err(|error| format!("incident {id}: {error}"))?;
    let peak = incident.peak.ok_or_else(|| format!("incident {id} has no peak: its rates were never measured"))?;
    // The state says only of what is not closed since when it is calm.
    let calm = timeline.iter().rev().find(|entry| entry.kind == "calm").map(|entry| entry.time_unix_ns);
    let over = incident.calm_unix_ns.is_some() || incident.closed_unix_ns.is_some();
    let ended_at_ns = if over { incident.calm_unix_ns.or(calm).or(incident.closed_unix_ns) } else { None };
    Ok(Attack {
        target,
        zone: incident.target.zone,
        vectors: incident.vectors.into_iter().map(|found| (found.vector, found.confidence)).collect(),
        detected_at_ns: incident.opened_unix_ns,
        ended_at_ns,
        peak_pps: peak.pps,
        peak_bps: peak.bps,
        filtered: timeline.iter().any(|entry| entry.kind == "reflex"),
    })
}

impl Attack {
    /// True at this time, if it ends when the capture does at the latest.
    pub(super) fn lasts_at(&self, unix_ns: u64, capture_ends_ns: u64) -> bool {
        (self.detected_at_ns..self.ended_at_ns.unwrap_or(capture_ends_ns)).contains(&unix_ns)
    }
}
