//! What is known of an incident: this is what is stored and shown.

use std::fmt;

use levee_api::filter::Target;
use levee_api::prefix::Prefix;
use serde::{Deserialize, Serialize};

use crate::clock::Now;
use crate::ledger::IncidentId;

/// One attack on one target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Incident {
    /// Unique for ever.
    pub id: IncidentId,
    /// Zone, and host or prefix inside it.
    pub target: Target,
    /// When we learned of it.
    pub opened: Now,
    /// Where it stands.
    pub phase: Phase,
    /// How bad it was at worst.
    pub severity: Severity,
    /// Kinds of attack over time, in order of their first appearance.
    pub vectors: Vec<VectorRecord>,
    /// The roles that were above their thresholds, as they are now.
    pub roles: Vec<RoleRecord>,
    /// The findings of the dataplane that belong to it and have not ended.
    pub anomalies: Vec<AnomalyRef>,
    /// As last measured.
    pub rates: Rates,
    /// The highest so far.
    pub peak: Peak,
    /// Hosts that turned out to be part of this attack on a prefix, as many as are kept.
    pub hosts: Vec<Prefix>,
    /// How many hosts there were.
    pub host_count: u64,
    /// The incident of the prefix that took this one in.
    pub merged_into: Option<IncidentId>,
    /// The runbook that is followed; none: the zone has none.
    pub runbook: Option<String>,
    /// Number of the next entry of its timeline.
    pub next_entry: u32,
    /// Entries that its timeline had no room for.
    pub entries_left_out: u64,
}

/// Where an incident stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The target is under attack.
    Attack,
    /// The attack has ended; mitigations may be in force.
    Calm(Calm),
    /// Everything has ended and that was verified.
    Closed {
        /// When.
        at: Now,
    },
}

/// Since when it has been calm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Calm {
    /// The last anomaly ended.
    pub since: Now,
}

/// How bad it is, from effect and rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Above thresholds, without evidence of an attack.
    #[default]
    Low,
    /// An attack that the box handles.
    Medium,
    /// Clean traffic suffers, or the uplink fills.
    High,
    /// The uplink is full.
    Critical,
}

/// One kind of attack within an incident.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VectorRecord {
    /// Its name.
    pub vector: String,
    /// From 0 to 1, the highest so far.
    pub confidence: f64,
    /// What led to it, in words.
    pub evidence: Vec<String>,
    /// When it appeared.
    pub first_seen: Now,
    /// When it was last reported.
    pub last_seen: Now,
}

/// One role of the target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoleRecord {
    /// Name of the role.
    pub role: String,
    /// Name of its state: watch, attack, hold.
    pub state: String,
    /// Packets per second at the last change.
    pub rate_pps: f64,
    /// Its threshold at the last change.
    pub threshold_pps: f64,
    /// The evidence that it is an attack; empty while there is none.
    pub witness: String,
}

/// A finding of the dataplane: its id means something within one run only.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AnomalyRef {
    /// The run of the dataplane.
    pub boot_id: String,
    /// The id within it.
    pub id: u64,
}

/// Traffic of the target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// Packets per second towards it.
    pub pps: f64,
    /// Bits per second towards it.
    pub bps: f64,
    /// Packets per second that filters drop.
    pub dropped_pps: f64,
    /// What it sends, by what it sent in peace; none: not known.
    #[serde(default)]
    pub goodput_ratio: Option<f64>,
    /// Different sources that were sampled; none: not counted.
    #[serde(default)]
    pub sources: Option<u64>,
}

/// The most of everything so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Peak {
    /// Packets per second.
    pub pps: f64,
    /// Bits per second.
    pub bps: f64,
}

impl Incident {
    /// True until everything has ended.
    pub const fn is_open(&self) -> bool {
        !matches!(self.phase, Phase::Closed { .. })
    }
}

impl Phase {
    /// As it is shown.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Attack => "attack",
            Self::Calm(_) => "calm",
            Self::Closed { .. } => "closed",
        }
    }
}

impl Severity {
    /// As it is stored and shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
