//! The core's records as clients see them.

use levee_api::grpc::v1;
use levee_api::prefix::Prefix;

use super::link::{Knowledge, StageView};
use crate::clock::{Now, nanoseconds};
use crate::incident::{Incident, Phase, Severity, TimelineEntry};
use crate::ledger::{Evidence, Kind, Mitigation, Spec, State};

/// An incident and where its runbook stands.
pub(super) fn incident(knowledge: &dyn Knowledge, incident: &Incident) -> v1::Incident {
    let (calm, closed) = match &incident.phase {
        Phase::Attack => (None, None),
        Phase::Calm(calm) => (Some(calm.since.wall.0), None),
        Phase::Closed { at } => (None, Some(at.wall.0)),
    };
    let stages = || knowledge.stages(incident.id).into_iter().map(stage).collect();
    v1::Incident {
        id: incident.id.to_string(),
        target: Some((&incident.target).into()),
        state: phase(&incident.phase).into(),
        severity: severity(incident.severity).into(),
        vectors: vectors(incident),
        current: incident.is_open().then_some(v1::Rates {
            pps: incident.rates.pps,
            bps: incident.rates.bps,
            dropped_pps: Some(incident.rates.dropped_pps),
            goodput_ratio: incident.rates.goodput_ratio,
            sources: incident.rates.sources,
        }),
        peak: Some(v1::Rates { pps: incident.peak.pps, bps: incident.peak.bps, ..Default::default() }),
        opened_unix_ns: incident.opened.wall.0,
        calm_unix_ns: calm,
        closed_unix_ns: closed,
        merged_into: incident.merged_into.map(|id| id.to_string()).unwrap_or_default(),
        runbook: incident.runbook.as_ref().map(|name| v1::RunbookProgress { runbook: name.clone(), stages: stages() }),
        mitigations: knowledge.measures(incident.id).filter(|one| !one.has_ended()).count() as u64,
        needs_decision: knowledge.waits(incident.id),
        hosts: incident.host_count,
    }
}

/// The kinds of attack, the most confident first.
fn vectors(incident: &Incident) -> Vec<v1::IncidentVector> {
    let mut vectors: Vec<_> = incident.vectors.iter().collect();
    vectors.sort_by(|a, b| b.confidence.total_cmp(&a.confidence));
    let told = vectors.into_iter().map(|vector| v1::IncidentVector {
        vector: vector.vector.clone(),
        confidence: vector.confidence,
        evidence: vector.evidence.clone(),
        first_seen_unix_ns: vector.first_seen.wall.0,
    });
    told.collect()
}

fn stage(stage: StageView) -> v1::StageProgress {
    let StageView { name, state, since, reason } = stage;
    v1::StageProgress { stage: name, state, since_unix_ns: since.map(|at| at.wall.0), reason }
}

/// One thing that happened.
pub(super) fn entry(entry: &TimelineEntry) -> v1::TimelineEntry {
    v1::TimelineEntry {
        time_unix_ns: entry.at.wall.0,
        kind: entry.kind.name().to_owned(),
        text: entry.text.clone(),
        actor: entry.actor.as_ref().map(ToString::to_string).unwrap_or_default(),
        number: entry.number,
        stage: entry.stage.clone().unwrap_or_default(),
        mitigation: entry.mitigation.map(|id| id.to_string()).unwrap_or_default(),
    }
}

/// A measure, with the time that remains to it.
pub(super) fn mitigation(now: &Now, one: &Mitigation) -> v1::Mitigation {
    let has_ended = one.has_ended();
    v1::Mitigation {
        // The ledger counts from 1: a measure that was only validated has none.
        id: if one.id.0 == 0 { String::new() } else { one.id.to_string() },
        kind: kind(one.spec.kind()).into(),
        state: state(one.state).into(),
        evidence: one.evidence.map_or(v1::Evidence::Unspecified, evidence).into(),
        spec: one.spec.to_string(),
        target: target(one),
        driver: one.driver.to_string(),
        incident: one.incident.map(|id| id.to_string()).unwrap_or_default(),
        stage: one.stage.clone().unwrap_or_default(),
        requested_by: one.asked_by.to_string(),
        reason: one.reason.clone(),
        created_unix_ns: one.created.wall.0,
        deadline_unix_ns: one.deadline.wall.0,
        remaining_ns: if has_ended { 0 } else { nanoseconds(one.remaining(now)) },
        ended_unix_ns: has_ended.then_some(one.since.wall.0),
        error: one.error.clone().unwrap_or_default(),
        renewals: one.renewals,
        outcome: one.outcome.map(|outcome| outcome.name().to_owned()).unwrap_or_default(),
        effect: one.effect.filter(|effect| effect.told.is_some()).map(|effect| v1::Effect {
            before_bps: effect.before_bps,
            effective: effect.verdict.map(|verdict| verdict.effective),
            after_bps: effect.verdict.map_or(0.0, |verdict| verdict.after_bps),
        }),
    }
}

fn target(one: &Mitigation) -> Option<v1::Target> {
    match &one.spec {
        Spec::Filter(filter) => Some((&filter.target).into()),
        other => Some(v1::Target { zone: one.zone.clone(), prefix: Some(other.prefix()?.into()) }),
    }
}

/// True when something on `on` has to do with `wanted`: it covers it, or is inside it.
pub(super) fn concerns(wanted: Option<Prefix>, on: Option<Prefix>) -> bool {
    match (wanted, on) {
        (None, _) => true,
        (Some(wanted), Some(on)) => on.overlaps(&wanted),
        (Some(_), None) => false,
    }
}

pub(super) fn phase(phase: &Phase) -> v1::IncidentState {
    match phase {
        Phase::Attack => v1::IncidentState::Attack,
        Phase::Calm(_) => v1::IncidentState::Calm,
        Phase::Closed { .. } => v1::IncidentState::Closed,
    }
}

fn severity(severity: Severity) -> v1::Severity {
    match severity {
        Severity::Low => v1::Severity::Low,
        Severity::Medium => v1::Severity::Medium,
        Severity::High => v1::Severity::High,
        Severity::Critical => v1::Severity::Critical,
    }
}

fn kind(kind: Kind) -> v1::MitigationKind {
    match kind {
        Kind::Filter => v1::MitigationKind::Filter,
        Kind::FlowSpec => v1::MitigationKind::Flowspec,
        Kind::Divert => v1::MitigationKind::Divert,
        Kind::Blackhole => v1::MitigationKind::Blackhole,
    }
}

pub(super) fn state(state: State) -> v1::MitigationState {
    match state {
        State::Planned => v1::MitigationState::Planned,
        State::Applying => v1::MitigationState::Applying,
        State::Active => v1::MitigationState::Active,
        State::Withdrawing => v1::MitigationState::Withdrawing,
        State::Ended => v1::MitigationState::Ended,
        State::Failed => v1::MitigationState::Failed,
    }
}

pub(super) fn evidence(evidence: Evidence) -> v1::Evidence {
    match evidence {
        Evidence::Accepted => v1::Evidence::Accepted,
        Evidence::Advertised => v1::Evidence::Advertised,
        Evidence::Seen => v1::Evidence::Seen,
        Evidence::Effective => v1::Evidence::Effective,
    }
}
