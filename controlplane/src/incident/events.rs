//! From what the dataplane tells to incidents. Everything here may come twice, late, or not at all.

use std::collections::BTreeSet;

use levee_api::filter::Target;
use levee_api::grpc::dataplane::v1 as contract;
use levee_api::grpc::dataplane::v1::event::What;
use levee_api::grpc::v1;

use super::book::{Incidents, MAX_ANOMALIES, MAX_FILTERS, Note};
use super::record::{AnomalyRef, Calm, Phase, Rates, RoleRecord, Severity, VectorRecord};
use super::suspicion::is_suspicion;
use super::timeline::TimelineKind;
use crate::clock::Now;
use crate::figures;
use crate::ledger::IncidentId;
use crate::store::Write;

/// Most kinds of attack of one incident.
const MAX_VECTORS: usize = 32;
/// Most sentences of evidence for one of them.
const MAX_EVIDENCE: usize = 8;
/// Most characters of a text of the dataplane.
const MAX_TEXT: usize = 300;
/// Most roles: there are twelve.
const MAX_ROLES: usize = 16;
/// Most hosts that are kept by address.
const MAX_HOSTS: usize = 256;

/// States of roles, as records have them.
const ATTACK: &str = "attack";
const HOLD: &str = "hold";

/// What has become of an incident.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Change {
    /// A new one.
    Opened(IncidentId),
    /// More is known, or it has begun again.
    Updated(IncidentId),
    /// Its last finding has ended.
    Calmed(IncidentId),
    /// It is part of another from now on.
    Merged {
        /// The incident of a host.
        host: IncidentId,
        /// That of the prefix.
        into: IncidentId,
    },
}

/// What an event needs besides itself.
pub struct Context<'s> {
    /// When it is taken in.
    pub now: &'s Now,
    /// Gives the next id.
    pub next_id: &'s mut dyn FnMut() -> IncidentId,
    /// The runbook of a zone.
    pub runbook: &'s dyn Fn(&str) -> Option<String>,
    /// What is to be stored.
    pub writes: &'s mut Vec<Write>,
}

impl Incidents {
    /// Takes in one event of the run `boot_id`.
    pub fn take(&mut self, boot_id: &str, what: &What, context: &mut Context<'_>) -> Vec<Change> {
        match what {
            What::AnomalyOpened(anomaly) | What::AnomalyUpdated(anomaly) => self.seen(boot_id, anomaly, context),
            What::AnomalyEnded(anomaly) => {
                let reference = AnomalyRef { boot_id: boot_id.to_owned(), id: anomaly.id };
                self.suspicions.forget(&reference);
                let Some(&id) = self.by_anomaly.get(&reference) else { return Vec::new() };
                self.update(id, anomaly, context);
                self.end(&reference, context).into_iter().collect()
            }
            What::StateChanged(change) => self.role_changed(change, context),
            What::TargetMerged(merge) => self.merged(merge, context),
            What::FilterInstalled(filter) => self.filter_installed(filter, context),
            What::FilterRemoved(removed) => self.filter_removed(removed, context),
            // What these mean is not about one incident.
            What::Gap(_) | What::PolicyCommitted(_) | What::VisibilityChanged(_) | What::BaselineChanged(_) => {
                Vec::new()
            }
            What::FilterLeftOut(left_out) => {
                let target = target(left_out.first.as_ref());
                let Some(id) = target.and_then(|target| self.serving(&target)) else { return Vec::new() };
                let text = format!("a filter has no room on {} targets: {}", left_out.targets, bounded(&left_out.why));
                self.note(id, context.now, Note::new(TimelineKind::Reflex, text), context.writes);
                Vec::new()
            }
        }
    }

    /// The dataplane says that this, and nothing else, is going on.
    pub fn resume(
        &mut self,
        boot_id: &str,
        anomalies: &[contract::Anomaly],
        filters: &[v1::Filter],
        context: &mut Context<'_>,
    ) -> Vec<Change> {
        let mut changes: Vec<Change> =
            anomalies.iter().flat_map(|anomaly| self.seen(boot_id, anomaly, context)).collect();
        let told_ids: BTreeSet<u64> = anomalies.iter().map(|anomaly| anomaly.id).collect();
        self.suspicions.retain(|reference| reference.boot_id == boot_id && told_ids.contains(&reference.id));
        let gone: Vec<AnomalyRef> = self
            .by_anomaly
            .keys()
            .filter(|reference| reference.boot_id != boot_id || !told_ids.contains(&reference.id))
            .cloned()
            .collect();
        for reference in &gone {
            if let Some(&id) = self.by_anomaly.get(reference) {
                let text = "the dataplane no longer reports the attack; what happened meanwhile is not known";
                self.note(id, context.now, Note::new(TimelineKind::Interruption, text), context.writes);
            }
            changes.extend(self.end(reference, context));
        }
        self.filters.clear();
        for filter in filters {
            self.remember_filter(filter);
        }
        changes
    }

    /// The dataplane has started again: its findings are gone with it.
    pub fn restarted(&mut self, boot_id: &str, context: &mut Context<'_>) -> Vec<Change> {
        let gone: Vec<AnomalyRef> =
            self.by_anomaly.keys().filter(|reference| reference.boot_id != boot_id).cloned().collect();
        self.suspicions.retain(|reference| reference.boot_id == boot_id);
        let mut changes = Vec::new();
        for reference in &gone {
            if let Some(&id) = self.by_anomaly.get(reference) {
                let note =
                    Note::new(TimelineKind::Interruption, "the dataplane has restarted; it will tell what goes on");
                self.note(id, context.now, note, context.writes);
            }
            changes.extend(self.end(reference, context));
        }
        if !gone.is_empty() {
            self.filters.clear();
        }
        changes
    }

    fn seen(&mut self, boot_id: &str, anomaly: &contract::Anomaly, context: &mut Context<'_>) -> Vec<Change> {
        let Some(target) = target(anomaly.target.as_ref()) else {
            self.malformed = self.malformed.saturating_add(1);
            return Vec::new();
        };
        let reference = AnomalyRef { boot_id: boot_id.to_owned(), id: anomaly.id };
        let known = self.by_anomaly.get(&reference).copied();
        let joined = known.or_else(|| self.serving(&target));
        // What is only watched joins an attack, and is none by itself.
        let attacked = |id| self.get(id).is_some_and(|incident| matches!(incident.phase, Phase::Attack));
        if is_suspicion(anomaly)
            && !joined.is_some_and(attacked)
            && self.suspicions.keep(&reference, anomaly, context.now)
        {
            return Vec::new();
        }
        self.suspicions.forget(&reference);
        self.join(reference, anomaly, context)
    }

    /// A finding that is an incident, or part of one.
    fn join(&mut self, reference: AnomalyRef, anomaly: &contract::Anomaly, context: &mut Context<'_>) -> Vec<Change> {
        let Some(target) = target(anomaly.target.as_ref()) else { return Vec::new() };
        let known = self.by_anomaly.get(&reference).copied();
        let (id, mut changes) = match known.or_else(|| self.serving(&target)) {
            Some(id) => (id, Vec::new()),
            None => match self.open_on(&target, context) {
                Some(id) => (id, vec![Change::Opened(id)]),
                None => return Vec::new(),
            },
        };
        if is_suspicion(anomaly) && known.is_none() {
            let text = "more than usual for a while, without evidence of an attack";
            self.note(id, context.now, Note::new(TimelineKind::Attack, text), context.writes);
        }
        let begins = known.is_none() && self.begin(id, reference, context);
        let learned = self.update(id, anomaly, context);
        if changes.is_empty() && (begins || learned) {
            changes.push(Change::Updated(id));
        }
        changes
    }

    /// What has been watched for long is an incident also without evidence. To be called as time passes.
    pub fn ripen(&mut self, context: &mut Context<'_>) -> Vec<Change> {
        let ripe = self.suspicions.take_ripe(context.now);
        ripe.into_iter().flat_map(|(reference, anomaly)| self.join(reference, &anomaly, context)).collect()
    }

    fn open_on(&mut self, target: &Target, context: &mut Context<'_>) -> Option<IncidentId> {
        if self.open_count() >= super::book::MAX_OPEN {
            self.left_out = self.left_out.saturating_add(1);
            return None;
        }
        let id = (context.next_id)();
        if !self.start(id, target, (context.runbook)(&target.zone), context.now) {
            return None;
        }
        self.note(id, context.now, Note::new(TimelineKind::Opened, format!("incident on {target}")), context.writes);
        Some(id)
    }

    /// A finding joins an incident. True when the attack begins, or begins again.
    fn begin(&mut self, id: IncidentId, reference: AnomalyRef, context: &mut Context<'_>) -> bool {
        let Some(incident) = self.change(id) else { return false };
        if incident.anomalies.len() >= MAX_ANOMALIES {
            return false;
        }
        incident.anomalies.push(reference.clone());
        let again = incident.next_entry > 1 && matches!(incident.phase, Phase::Calm(_));
        let begins = !matches!(incident.phase, Phase::Attack);
        incident.phase = Phase::Attack;
        self.by_anomaly.insert(reference, id);
        if again {
            self.note(id, context.now, Note::new(TimelineKind::Attack, "the attack has begun again"), context.writes);
        }
        begins
    }

    fn end(&mut self, reference: &AnomalyRef, context: &mut Context<'_>) -> Option<Change> {
        let id = self.by_anomaly.remove(reference)?;
        let incident = self.change(id)?;
        incident.anomalies.retain(|anomaly| anomaly != reference);
        if !incident.anomalies.is_empty() || !matches!(incident.phase, Phase::Attack) {
            return None;
        }
        incident.phase = Phase::Calm(Calm { since: *context.now });
        incident.rates = Rates::default();
        self.note(id, context.now, Note::new(TimelineKind::Calm, "the attack has ended"), context.writes);
        Some(Change::Calmed(id))
    }

    /// What an anomaly says about its incident. True when it is more than rates.
    fn update(&mut self, id: IncidentId, anomaly: &contract::Anomaly, context: &mut Context<'_>) -> bool {
        let now = context.now;
        let Some(incident) = self.measure(id, now) else { return false };
        let before = incident.roles.clone();
        // Rates of one host say nothing about the prefix around it.
        if target(anomaly.target.as_ref()).as_ref() == Some(&incident.target) {
            let positive = |rate: f64, before: f64| if rate.is_finite() && rate >= 0.0 { rate } else { before };
            incident.rates.pps = positive(anomaly.pps, incident.rates.pps);
            incident.rates.bps = positive(anomaly.bps, incident.rates.bps);
            incident.rates.dropped_pps = positive(anomaly.dropped_pps, incident.rates.dropped_pps);
            incident.rates.goodput_ratio = anomaly.goodput_ratio.filter(|ratio| ratio.is_finite() && *ratio >= 0.0);
            incident.rates.sources = anomaly.sources;
            let peak = &mut incident.peak;
            let highest =
                |rates: [f64; 2], before| rates.into_iter().filter(|rate| rate.is_finite()).fold(before, f64::max);
            // What comes while the attack pauses is no part of it.
            let attack = i32::from(contract::TargetState::Attack);
            let counts = anomaly.roles.is_empty() || anomaly.roles.iter().any(|role| role.state == attack);
            let (pps, bps) = if counts { (incident.rates.pps, incident.rates.bps) } else { (0.0, 0.0) };
            peak.pps = highest([pps, anomaly.peak_pps], peak.pps);
            peak.bps = highest([bps, anomaly.peak_bps], peak.bps);
            let roles: Vec<RoleRecord> = anomaly.roles.iter().take(MAX_ROLES).map(role_record).collect();
            if !roles.is_empty() {
                incident.roles = roles;
            }
        }
        let course = course(&before, &incident.roles);
        let has_witness = anomaly.roles.iter().any(|role| !role.witness.is_empty());
        let raised = has_witness && incident.severity < Severity::Medium;
        let mut notes = Vec::new();
        for finding in anomaly.vectors.iter().take(MAX_VECTORS) {
            let known = incident.vectors.iter_mut().find(|record| record.vector == finding.vector);
            let evidence = || finding.evidence.iter().take(MAX_EVIDENCE).map(|text| bounded(text)).collect();
            let confidence = if finding.confidence.is_finite() { finding.confidence.clamp(0.0, 1.0) } else { 0.0 };
            if let Some(record) = known {
                record.last_seen = *now;
                if confidence > record.confidence {
                    record.confidence = confidence;
                    record.evidence = evidence();
                }
            } else if incident.vectors.len() < MAX_VECTORS {
                let vector = bounded(&finding.vector);
                let evidence: Vec<String> = evidence();
                let why = if evidence.is_empty() { String::new() } else { format!(": {}", evidence.join("; ")) };
                let rates = rates(&incident.rates, &incident.roles);
                notes.push(format!("{vector} ({:.0} %){rates}{why}", confidence * 100.0));
                incident.vectors.push(VectorRecord { vector, confidence, evidence, first_seen: *now, last_seen: *now });
            }
        }
        if raised {
            notes.push(format!("this is an attack: {}", witnesses(anomaly)));
            if let Some(incident) = self.change(id) {
                incident.severity = incident.severity.max(Severity::Medium);
            }
        }
        let learned = !notes.is_empty() || course.is_some();
        for text in notes.into_iter().chain(course.map(str::to_owned)) {
            self.note(id, now, Note::new(TimelineKind::Attack, text), context.writes);
        }
        learned
    }

    fn role_changed(&mut self, change: &contract::StateChanged, context: &mut Context<'_>) -> Vec<Change> {
        let id = target(change.target.as_ref()).and_then(|target| self.on(&target));
        let (Some(id), Some(role)) = (id, change.role.as_ref()) else { return Vec::new() };
        let Some(incident) = self.change(id) else { return Vec::new() };
        let record = role_record(role);
        let before = incident.roles.clone();
        incident.roles.retain(|known| known.role != record.role);
        if role.state() != contract::TargetState::Normal && incident.roles.len() < MAX_ROLES {
            incident.roles.push(record);
        }
        let course = course(&before, &incident.roles);
        let raised = !role.witness.is_empty() && incident.severity < Severity::Medium;
        if raised {
            incident.severity = Severity::Medium;
            let text = format!("this is an attack: {}", bounded(&role.witness));
            self.note(id, context.now, Note::new(TimelineKind::Attack, text), context.writes);
        }
        if let Some(text) = course {
            self.note(id, context.now, Note::new(TimelineKind::Attack, text), context.writes);
        }
        vec![Change::Updated(id)]
    }

    fn merged(&mut self, merge: &contract::TargetMerged, context: &mut Context<'_>) -> Vec<Change> {
        let (Some(host), Some(into)) = (target(merge.host.as_ref()), target(merge.into.as_ref())) else {
            self.malformed = self.malformed.saturating_add(1);
            return Vec::new();
        };
        let inside = match (host.prefix, into.prefix) {
            (Some(host), Some(into)) => into.covers(&host),
            (_, None) => true,
            (None, Some(_)) => false,
        };
        if host.zone != into.zone || host == into || !inside {
            self.malformed = self.malformed.saturating_add(1);
            return Vec::new();
        }
        let mut changes = Vec::new();
        let prefix_id = match self.on(&into) {
            Some(id) => id,
            None => match self.open_on(&into, context) {
                Some(id) => {
                    changes.push(Change::Opened(id));
                    id
                }
                None => return Vec::new(),
            },
        };
        if self.by_host.get(&host) == Some(&prefix_id) {
            return changes;
        }
        self.remember_host(host.clone(), prefix_id);
        if let Some(incident) = self.change(prefix_id) {
            incident.host_count = incident.host_count.saturating_add(1);
            if let Some(address) = host.prefix
                && incident.hosts.len() < MAX_HOSTS
            {
                incident.hosts.push(address);
            }
        }
        if let Some(host_id) = self.on(&host) {
            changes.push(self.take_in(host_id, &host, prefix_id, context));
        }
        changes
    }

    /// The findings of a host's incident belong to the prefix from now on.
    fn take_in(&mut self, host_id: IncidentId, host: &Target, into: IncidentId, context: &mut Context<'_>) -> Change {
        let text = format!("part of the attack on the prefix: incident {into} goes on");
        self.note(host_id, context.now, Note::new(TimelineKind::Merged, text), context.writes);
        let note = Note::new(TimelineKind::Merged, format!("takes in {host} (incident {host_id})"));
        self.note(into, context.now, note, context.writes);
        self.stand_down(host);
        let anomalies = self.change(host_id).map(|incident| {
            incident.merged_into = Some(into);
            incident.phase = Phase::Calm(Calm { since: *context.now });
            std::mem::take(&mut incident.anomalies)
        });
        for anomaly in anomalies.unwrap_or_default() {
            self.by_anomaly.remove(&anomaly);
            self.begin(into, anomaly, context);
        }
        let filters = self.filters.remove(&host_id).unwrap_or_default();
        self.filters.entry(into).or_default().extend(filters);
        Change::Merged { host: host_id, into }
    }

    fn filter_installed(&mut self, filter: &v1::Filter, context: &mut Context<'_>) -> Vec<Change> {
        let Some(id) = self.remember_filter(filter) else { return Vec::new() };
        let text = format!("the reflex installs {}", described(filter));
        self.note(id, context.now, Note::new(TimelineKind::Reflex, text), context.writes);
        vec![Change::Updated(id)]
    }

    /// Remembers a filter of the reflex with the incident that it serves.
    fn remember_filter(&mut self, filter: &v1::Filter) -> Option<IncidentId> {
        let request = filter.request.as_ref().filter(|request| request.owner.is_empty())?;
        let id = self.serving(&target(request.target.as_ref())?)?;
        let filters = self.filters.entry(id).or_default();
        if filters.len() >= MAX_FILTERS && !filters.contains_key(&filter.id) {
            return None;
        }
        filters.insert(filter.id, filter.clone()).is_none().then_some(id)
    }

    fn filter_removed(&mut self, removed: &contract::FilterRemoved, context: &mut Context<'_>) -> Vec<Change> {
        let Some(filter) = removed.filter.as_ref() else { return Vec::new() };
        let reflex = filter.request.as_ref().filter(|request| request.owner.is_empty());
        let target = reflex.and_then(|request| target(request.target.as_ref()));
        let Some(id) = target.and_then(|target| self.serving(&target)) else { return Vec::new() };
        let known = self.filters.get_mut(&id).and_then(|filters| filters.remove(&filter.id));
        if known.is_none() {
            return Vec::new();
        }
        let why = match removed.reason() {
            contract::RemovalReason::Expired => "its time was over",
            contract::RemovalReason::Retired => "the attack has ended",
            contract::RemovalReason::Replaced => "another takes its place",
            contract::RemovalReason::Withdrawn => "it was taken away",
            contract::RemovalReason::PolicyChanged => "the policy has changed",
            contract::RemovalReason::Unspecified => "no reason given",
        };
        let text = format!("the reflex ends {} after {} packets: {why}", described(filter), filter.hits);
        self.note(id, context.now, Note::new(TimelineKind::Reflex, text), context.writes);
        vec![Change::Updated(id)]
    }
}

/// True when some role is in a state.
fn any(roles: &[RoleRecord], state: &str) -> bool {
    roles.iter().any(|role| role.state == state)
}

/// What an attack has done, in words, when the roles that were some are others. None: it goes on as before, or it is its
/// beginning or end, which is told elsewhere.
fn course(before: &[RoleRecord], after: &[RoleRecord]) -> Option<&'static str> {
    match (any(before, ATTACK), any(after, ATTACK)) {
        (true, false) if any(after, HOLD) => {
            Some("the attack has stopped; its filters stay for a while in case it comes back")
        }
        (false, true) if any(before, HOLD) => Some("the attack has come back"),
        _ => None,
    }
}

fn target(message: Option<&v1::Target>) -> Option<Target> {
    Target::try_from(message?).ok()
}

/// What is known of them: at the first instant of an attack only what its roles had come to when it was noticed.
fn rates(rates: &Rates, roles: &[RoleRecord]) -> String {
    let noticed: f64 = roles.iter().filter(|role| role.state == ATTACK).map(|role| role.rate_pps).sum();
    let pps = if rates.pps > 0.0 { rates.pps } else { noticed };
    let shown = [(pps, figures::pps(pps)), (rates.bps, figures::bps(rates.bps))];
    shown.into_iter().filter(|(rate, _)| *rate > 0.0).map(|(_, text)| format!(", {text}")).collect()
}

fn role_record(role: &contract::RoleStatus) -> RoleRecord {
    let state = match role.state() {
        contract::TargetState::Normal => "normal",
        contract::TargetState::Watch => "watch",
        contract::TargetState::Attack => ATTACK,
        contract::TargetState::Hold => HOLD,
        contract::TargetState::Unspecified => "unknown",
    };
    let finite = |rate: f64| if rate.is_finite() { rate } else { 0.0 };
    RoleRecord {
        role: bounded(&role.role),
        state: state.to_owned(),
        rate_pps: finite(role.rate_pps),
        threshold_pps: finite(role.threshold_pps),
        witness: bounded(&role.witness),
    }
}

fn witnesses(anomaly: &contract::Anomaly) -> String {
    let witnesses = anomaly.roles.iter().filter(|role| !role.witness.is_empty());
    let witnesses: Vec<String> = witnesses.map(|role| bounded(&role.witness)).collect();
    witnesses.join("; ")
}

fn described(filter: &v1::Filter) -> String {
    let request = filter.request.clone().unwrap_or_default();
    let action = request.action.as_ref().and_then(|action| levee_api::filter::Action::try_from(action).ok());
    let action = action.map_or_else(|| "an unknown action".to_owned(), |action| action.to_string());
    let simulated = if filter.simulated { " (simulated)" } else { "" };
    bounded(&format!("[{}] {}: {action}{simulated}", request.roles.join("+"), filter.r#match))
}

/// Texts of the dataplane are kept to a size that a flood of them cannot make large.
fn bounded(text: &str) -> String {
    match text.char_indices().nth(MAX_TEXT) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}
