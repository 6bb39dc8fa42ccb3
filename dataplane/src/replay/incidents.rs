//! From the detector's events to the incidents of a report.

use levee_api::filter::{Filter, Target};
use levee_api::role::RoleSet;
use levee_engine::detect::detector::Detector;
use levee_engine::detect::event::{Event, Finding, Phase, What};
use levee_engine::time::Timestamp;
use serde_json::{Value, json};

/// One attack on one target.
#[derive(Debug)]
pub(super) struct Incident {
    target: Target,
    vectors: Vec<Finding>,
    detected_at: Timestamp,
    mitigated_at: Option<Timestamp>,
    ended_at: Option<Timestamp>,
    /// Roles that are in ATTACK.
    active: RoleSet,
    /// Roles that are in ATTACK or HOLD: as long as there is one, a new pulse belongs to this incident.
    open: RoleSet,
    peak_pps: f64,
    peak_bps: f64,
    simulated: bool,
    filters: Vec<Record>,
}

/// One filter of an incident.
#[derive(Debug)]
struct Record {
    filter: Filter,
    installed_at: Timestamp,
    removed_at: Option<Timestamp>,
    packets: u64,
}

/// All incidents so far, in order of detection.
#[derive(Debug, Default)]
pub(super) struct Incidents {
    all: Vec<Incident>,
}

impl Incidents {
    /// Takes in what happened.
    pub(super) fn take(&mut self, events: Vec<Event>) {
        for Event { at, what } in events {
            match what {
                What::Phase { target, role, from, to, rate_pps, .. } => {
                    if to == Phase::Attack && self.open(&target).is_none() {
                        self.all.push(Incident::new(target.clone(), role.set(), at));
                    }
                    let Some(incident) = self.open(&target) else { continue };
                    match to {
                        Phase::Attack => {
                            incident.active = incident.active.union(role.set());
                            incident.open = incident.open.union(role.set());
                            incident.ended_at = None;
                            incident.peak_pps = incident.peak_pps.max(f64::from(rate_pps));
                        }
                        Phase::Hold | Phase::Normal if from == Phase::Attack || from == Phase::Hold => {
                            incident.active = incident.active.without(role);
                            if to == Phase::Normal {
                                incident.open = incident.open.without(role);
                            }
                            if incident.active.is_empty() && incident.ended_at.is_none() {
                                incident.ended_at = Some(at);
                            }
                        }
                        _ => {}
                    }
                }
                What::Merged { host, role, .. } => {
                    if let Some(incident) = self.open(&host) {
                        incident.active = incident.active.without(role);
                        incident.open = incident.open.without(role);
                        if incident.active.is_empty() && incident.ended_at.is_none() {
                            incident.ended_at = Some(at);
                        }
                    }
                }
                What::Classified { target, vectors, .. } => {
                    if let Some(incident) = self.open(&target) {
                        for found in vectors {
                            incident.add(found);
                        }
                    }
                }
                What::Rates { target, pps, bps, .. } => {
                    // What comes while the attack pauses is no part of it.
                    if let Some(incident) = self.open(&target).filter(|incident| !incident.active.is_empty()) {
                        incident.peak_pps = incident.peak_pps.max(pps);
                        incident.peak_bps = incident.peak_bps.max(bps);
                    }
                }
                What::FilterInstalled { filter, simulated, .. } => self.installed(filter, simulated, at),
                What::FilterRemoved { filter, packets, .. } => {
                    let records = self.all.iter_mut().flat_map(|incident| &mut incident.filters);
                    for record in records.filter(|record| record.filter.id == filter.id) {
                        record.removed_at = Some(at);
                        record.packets = packets;
                    }
                }
                What::Visibility { .. } | What::FilterLeftOut(_) | What::Learned { .. } => {}
            }
        }
    }

    fn open(&mut self, target: &Target) -> Option<&mut Incident> {
        self.all.iter_mut().rev().find(|incident| incident.target == *target && !incident.open.is_empty())
    }

    /// A filter belongs to the incident of its target; one that the zone remembers to the newest it can answer.
    fn installed(&mut self, filter: Filter, simulated: bool, at: Timestamp) {
        let owner = self.all.iter_mut().rev().find(|incident| {
            incident.target.zone == filter.target.zone
                && (filter.target.prefix.is_none() || incident.target == filter.target)
                && (incident.open.0 & filter.roles.0 != 0)
        });
        let Some(incident) = owner else { return };
        if filter.target.prefix.is_some() {
            incident.mitigated_at.get_or_insert(at);
        }
        incident.simulated |= simulated;
        incident.filters.push(Record { filter, installed_at: at, removed_at: None, packets: 0 });
    }

    /// The finished list, with the counts of filters that are still in force.
    pub(super) fn conclude(mut self, detector: &Detector) -> Vec<Incident> {
        for (filter, packets) in detector.filters() {
            let records = self.all.iter_mut().flat_map(|incident| &mut incident.filters);
            for record in records.filter(|record| record.filter.id == filter.id && record.removed_at.is_none()) {
                record.packets = packets;
            }
        }
        self.all
    }
}

impl Incident {
    fn new(target: Target, roles: RoleSet, at: Timestamp) -> Self {
        Self {
            target,
            vectors: Vec::new(),
            detected_at: at,
            mitigated_at: None,
            ended_at: None,
            active: roles,
            open: roles,
            peak_pps: 0.0,
            peak_bps: 0.0,
            simulated: false,
            filters: Vec::new(),
        }
    }

    /// Keeps the strongest evidence per vector.
    fn add(&mut self, found: Finding) {
        match self.vectors.iter_mut().find(|known| known.vector == found.vector) {
            Some(known) if known.confidence >= found.confidence => {}
            Some(known) => *known = found,
            None => self.vectors.push(found),
        }
    }

    /// As the report shows it; what did not happen (yet) is null.
    pub(super) fn to_json(&self) -> Value {
        let nanoseconds = |at: Option<Timestamp>| at.map(|at| at.0);
        let vectors: Vec<Value> = self
            .vectors
            .iter()
            .map(|found| {
                json!({
                    "name": found.vector.name(),
                    "confidence": rounded(found.confidence, 1_000.0),
                    "evidence": found.evidence,
                })
            })
            .collect();
        let filters: Vec<Value> = self
            .filters
            .iter()
            .map(|record| {
                json!({
                    "target": record.filter.target.to_string(),
                    "roles": record.filter.roles.to_string(),
                    "match": record.filter.rule.to_string(),
                    "action": record.filter.action.to_string(),
                    "installed_at_ns": record.installed_at.0,
                    "removed_at_ns": nanoseconds(record.removed_at),
                    "packets": record.packets,
                    "witness": record.filter.witness,
                    "simulated": self.simulated,
                })
            })
            .collect();
        json!({
            "target": self.target.to_string(),
            "zone": self.target.zone,
            "vectors": vectors,
            "detected_at_ns": self.detected_at.0,
            "mitigated_at_ns": nanoseconds(self.mitigated_at),
            "ended_at_ns": nanoseconds(self.ended_at),
            "peak_pps": rounded(self.peak_pps, 1.0),
            "peak_bps": rounded(self.peak_bps, 1.0),
            "filters": filters,
        })
    }
}

fn rounded(value: f64, parts: f64) -> f64 {
    (value * parts).round() / parts
}
