//! All incidents: which is open for a target, which a finding of the dataplane belongs to, what must be stored again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use levee_api::filter::Target;
use levee_api::grpc::v1;

use super::record::{AnomalyRef, Calm, Incident, Peak, Phase, Rates, Severity};
use super::suspicion::Suspicions;
use super::timeline::{TimelineEntry, TimelineKind};
use crate::actor::Actor;
use crate::clock::Now;
use crate::ledger::{IncidentId, MitigationId};
use crate::store::{Contents, Write};

/// Most incidents that are open at once: beyond it a flood of findings is counted, not followed.
pub const MAX_OPEN: usize = 20_000;
/// Most entries of one timeline: an attack that flaps for a week stays readable.
pub const MAX_ENTRIES: u32 = 2_000;
/// Most entries of open incidents that are held in memory; each incident has room for [`ALWAYS`] all the same.
const MAX_HELD: usize = 500_000;
const ALWAYS: u32 = 16;
/// Most hosts that are known to be part of one attack on a prefix, and of all of them. Beyond them every host of the prefix
/// counts as part of it.
const MAX_MERGED: usize = 4_096;
const MAX_MERGED_IN_ALL: usize = 65_536;
/// Most findings that one incident follows.
pub(super) const MAX_ANOMALIES: usize = 64;
/// Most filters of the dataplane that are remembered for one incident.
pub(super) const MAX_FILTERS: usize = 256;
/// Rates alone are stored no more often than this: they are measured again soon.
const RATES_STORED_EVERY: Duration = Duration::from_secs(10);

/// All incidents that are known.
#[derive(Debug, Default)]
pub struct Incidents {
    all: BTreeMap<IncidentId, Incident>,
    open: BTreeSet<IncidentId>,
    by_target: BTreeMap<Target, IncidentId>,
    pub(super) by_anomaly: BTreeMap<AnomalyRef, IncidentId>,
    /// Findings that are no incidents yet. Not stored: the dataplane is asked.
    pub(super) suspicions: Suspicions,
    /// Hosts that are part of an attack on a prefix.
    pub(super) by_host: BTreeMap<Target, IncidentId>,
    /// How many of those each attack on a prefix has.
    merged: BTreeMap<IncidentId, usize>,
    /// Attacks on prefixes with more hosts than are known one by one.
    crowded: BTreeSet<IncidentId>,
    /// Filters of the reflex in force, by the incident that they serve. Not stored: the dataplane is asked.
    pub(super) filters: BTreeMap<IncidentId, BTreeMap<u64, v1::Filter>>,
    timelines: BTreeMap<IncidentId, Vec<TimelineEntry>>,
    /// Entries in `timelines`.
    held: usize,
    /// Entries of all incidents, here and in the store.
    entries: u64,
    changed: BTreeSet<IncidentId>,
    rates_changed: BTreeMap<IncidentId, Now>,
    /// Findings that belong to no incident because too many were open, since the start.
    pub left_out: u64,
    /// Hosts of attacks on prefixes that are not known one by one, since the start.
    pub hosts_left_out: u64,
    /// Entries of timelines that had no room in memory, since the start.
    pub entries_not_held: u64,
    /// Events that could not be understood, since the start.
    pub malformed: u64,
}

/// One thing to add to a timeline.
#[derive(Debug, Clone)]
pub struct Note {
    /// What kind of thing.
    pub kind: TimelineKind,
    /// What, for people.
    pub text: String,
    /// Who did it.
    pub actor: Option<Actor>,
    /// The stage that it is about.
    pub stage: Option<String>,
    /// The mitigation that it is about.
    pub mitigation: Option<MitigationId>,
}

impl Note {
    /// Nothing but what happened.
    pub fn new(kind: TimelineKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into(), actor: None, stage: None, mitigation: None }
    }

    /// About a stage.
    #[must_use]
    pub fn stage(self, stage: impl Into<String>) -> Self {
        Self { stage: Some(stage.into()), ..self }
    }

    /// About a mitigation.
    #[must_use]
    pub fn mitigation(self, id: MitigationId) -> Self {
        Self { mitigation: Some(id), ..self }
    }

    /// Done by somebody.
    #[must_use]
    pub fn by(self, actor: Actor) -> Self {
        Self { actor: Some(actor), ..self }
    }
}

impl Incidents {
    /// What was stored.
    pub fn load(contents: &Contents, now: &Now) -> Self {
        let mut incidents = Self { all: contents.incidents.clone(), ..Self::default() };
        for incident in contents.incidents.values().filter(|incident| incident.is_open()) {
            incidents.open.insert(incident.id);
            if incident.merged_into.is_none() {
                incidents.by_target.insert(incident.target.clone(), incident.id);
                for host in &incident.hosts {
                    let host = Target { zone: incident.target.zone.clone(), prefix: Some(*host) };
                    incidents.remember_host(host, incident.id);
                }
                // Those that were not kept by address are part of it still.
                if incident.host_count > incident.hosts.len() as u64 {
                    incidents.crowded.insert(incident.id);
                }
            }
            for anomaly in &incident.anomalies {
                incidents.by_anomaly.insert(anomaly.clone(), incident.id);
            }
        }
        for incident in incidents.all.values_mut() {
            if let Phase::Calm(calm) = &mut incident.phase {
                calm.since = calm.since.anchored(now);
            }
        }
        for entry in contents.timeline.values().filter(|entry| incidents.open.contains(&entry.incident)) {
            incidents.timelines.entry(entry.incident).or_default().push(entry.clone());
            incidents.held += 1;
        }
        incidents.entries = incidents.all.values().map(|incident| u64::from(incident.next_entry)).sum();
        incidents
    }

    /// One of them.
    pub fn get(&self, id: IncidentId) -> Option<&Incident> {
        self.all.get(&id)
    }

    /// All of them, open and closed, by id.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Incident> {
        self.all.values()
    }

    /// Ids of those that are open.
    pub fn open(&self) -> impl Iterator<Item = IncidentId> + '_ {
        self.open.iter().copied()
    }

    /// The first open one with an id greater than this, for going around all of them a few at a time.
    pub fn open_after(&self, id: IncidentId) -> Option<IncidentId> {
        self.open.range((std::ops::Bound::Excluded(id), std::ops::Bound::Unbounded)).next().copied()
    }

    /// How many are open.
    pub fn open_count(&self) -> usize {
        self.open.len()
    }

    /// How many are closed.
    pub fn closed_count(&self) -> usize {
        self.all.len().saturating_sub(self.open.len())
    }

    /// Entries of all timelines, here and in the store.
    pub const fn entry_count(&self) -> u64 {
        self.entries
    }

    /// The open one on exactly this target.
    pub fn on(&self, target: &Target) -> Option<IncidentId> {
        self.by_target.get(target).copied()
    }

    /// What has happened in an incident that is open; nothing for others, whose timelines are in the store.
    pub fn timeline(&self, id: IncidentId) -> &[TimelineEntry] {
        self.timelines.get(&id).map_or(&[], Vec::as_slice)
    }

    /// Filters of the reflex in force at the target of an incident.
    pub fn reflex_filters(&self, id: IncidentId) -> impl Iterator<Item = &v1::Filter> {
        self.filters.get(&id).into_iter().flat_map(BTreeMap::values)
    }

    /// The incident that a filter on this target serves.
    pub(super) fn serving(&self, target: &Target) -> Option<IncidentId> {
        self.on(target).or_else(|| self.by_host.get(target).copied()).or_else(|| {
            let host = target.prefix?;
            let around = |id: &&IncidentId| {
                self.get(**id).is_some_and(|incident| {
                    let covers = incident.target.prefix.is_none_or(|prefix| prefix.covers(&host));
                    incident.target.zone == target.zone && covers
                })
            };
            self.crowded.iter().find(around).copied()
        })
    }

    /// A host is part of an attack on a prefix; counted where there is no room to know it by its address.
    pub(super) fn remember_host(&mut self, host: Target, prefix: IncidentId) {
        let merged = self.merged.entry(prefix).or_default();
        if *merged >= MAX_MERGED || self.by_host.len() >= MAX_MERGED_IN_ALL {
            self.crowded.insert(prefix);
            self.hosts_left_out = self.hosts_left_out.saturating_add(1);
            return;
        }
        *merged += 1;
        if let Some(before) = self.by_host.insert(host, prefix)
            && let Some(merged) = self.merged.get_mut(&before)
        {
            *merged = merged.saturating_sub(1);
        }
    }

    /// To be changed, and stored again.
    pub(crate) fn change(&mut self, id: IncidentId) -> Option<&mut Incident> {
        let incident = self.all.get_mut(&id)?;
        self.changed.insert(id);
        Some(incident)
    }

    /// To be given new rates, which are stored when they have not been for a while.
    pub(super) fn measure(&mut self, id: IncidentId, now: &Now) -> Option<&mut Incident> {
        let incident = self.all.get_mut(&id)?;
        self.rates_changed.entry(id).or_insert(*now);
        Some(incident)
    }

    /// Opens an incident; none when too many are open.
    pub(super) fn start(&mut self, id: IncidentId, target: &Target, runbook: Option<String>, now: &Now) -> bool {
        if self.open.len() >= MAX_OPEN {
            self.left_out = self.left_out.saturating_add(1);
            return false;
        }
        let incident = Incident {
            id,
            target: target.clone(),
            opened: *now,
            phase: Phase::Calm(Calm { since: *now }),
            severity: Severity::Low,
            vectors: Vec::new(),
            roles: Vec::new(),
            anomalies: Vec::new(),
            rates: Rates::default(),
            peak: Peak::default(),
            hosts: Vec::new(),
            host_count: 0,
            merged_into: None,
            runbook,
            next_entry: 0,
            entries_left_out: 0,
        };
        self.all.insert(id, incident);
        self.open.insert(id);
        self.by_target.insert(target.clone(), id);
        self.changed.insert(id);
        true
    }

    /// An incident that was taken in by another no longer stands for its target.
    pub(super) fn stand_down(&mut self, target: &Target) {
        self.by_target.remove(target);
    }

    /// Closes an incident; nothing when it is closed already.
    pub fn close(&mut self, id: IncidentId, now: &Now, writes: &mut Vec<Write>) {
        if !self.open.contains(&id) {
            return;
        }
        let text = self.get(id).map(|incident| {
            let duration = crate::figures::duration(now.since(&incident.opened));
            let (pps, bps) = (crate::figures::pps(incident.peak.pps), crate::figures::bps(incident.peak.bps));
            format!("closed after {duration}; peak {pps}, {bps}")
        });
        self.note(id, now, Note::new(TimelineKind::Closed, text.unwrap_or_default()), writes);
        let Some(incident) = self.change(id) else { return };
        incident.phase = Phase::Closed { at: *now };
        let target = incident.target.clone();
        let gone = std::mem::take(&mut incident.anomalies);
        self.open.remove(&id);
        if self.by_target.get(&target) == Some(&id) {
            self.by_target.remove(&target);
        }
        for anomaly in gone {
            self.by_anomaly.remove(&anomaly);
        }
        if self.merged.remove(&id).is_some() {
            self.by_host.retain(|_, incident| *incident != id);
        }
        self.crowded.remove(&id);
        self.filters.remove(&id);
    }

    /// Adds to a timeline.
    pub fn note(&mut self, id: IncidentId, now: &Now, note: Note, writes: &mut Vec<Write>) {
        let Some(incident) = self.all.get_mut(&id) else { return };
        // The end is always told.
        let crowded = self.held >= MAX_HELD && incident.next_entry >= ALWAYS;
        if (incident.next_entry >= MAX_ENTRIES || crowded) && note.kind != TimelineKind::Closed {
            self.entries_not_held = self.entries_not_held.saturating_add(u64::from(crowded));
            incident.entries_left_out = incident.entries_left_out.saturating_add(1);
            self.rates_changed.entry(id).or_insert(*now);
            return;
        }
        let Note { kind, text, actor, stage, mitigation } = note;
        let number = incident.next_entry;
        let entry = TimelineEntry { incident: id, number, at: *now, kind, text, actor, stage, mitigation };
        incident.next_entry = number.saturating_add(1);
        self.entries = self.entries.saturating_add(1);
        self.held += 1;
        self.changed.insert(id);
        self.timelines.entry(id).or_default().push(entry.clone());
        writes.push(Write::AppendTimeline(entry));
    }

    /// Writes down what has changed. To be called at the end of every step.
    pub fn write(&mut self, now: &Now, writes: &mut Vec<Write>) {
        let due = self.rates_changed.iter().filter(|(_, since)| now.since(since) >= RATES_STORED_EVERY);
        let due: Vec<IncidentId> = due.map(|(id, _)| *id).collect();
        self.changed.extend(due);
        for id in std::mem::take(&mut self.changed) {
            self.rates_changed.remove(&id);
            writes.extend(self.all.get(&id).cloned().map(Write::PutIncident));
        }
    }

    /// Forgets the timeline of what is closed: the store has it.
    pub fn forget_timeline(&mut self, id: IncidentId) {
        if !self.open.contains(&id) {
            self.drop_timeline(id);
        }
    }

    fn drop_timeline(&mut self, id: IncidentId) {
        let dropped = self.timelines.remove(&id).map_or(0, |entries| entries.len());
        self.held = self.held.saturating_sub(dropped);
    }

    /// Forgets a closed incident, here and in the store.
    pub fn forget(&mut self, id: IncidentId, writes: &mut Vec<Write>) {
        if !self.open.contains(&id)
            && let Some(gone) = self.all.remove(&id)
        {
            self.entries = self.entries.saturating_sub(u64::from(gone.next_entry));
            self.drop_timeline(id);
            self.changed.remove(&id);
            self.rates_changed.remove(&id);
            writes.push(Write::DeleteIncident(id));
        }
    }
}
