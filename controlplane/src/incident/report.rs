//! The report of an incident: what happened, what was done, what it did. For people as text, for programs as JSON.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::record::{Incident, Phase};
use super::timeline::TimelineEntry;
use crate::clock::Now;
use crate::figures;
use crate::ledger::Mitigation;
use crate::utc::rfc3339;

/// Everything that belongs to one incident.
#[derive(Clone, Copy, Debug)]
pub struct Report<'i> {
    /// The incident.
    pub incident: &'i Incident,
    /// Its timeline, in order.
    pub timeline: &'i [TimelineEntry],
    /// Its mitigations, by id.
    pub mitigations: &'i [&'i Mitigation],
}

impl Report<'_> {
    /// For people. `now` ends the duration of what is still open.
    pub fn text(&self, now: &Now) -> String {
        let incident = self.incident;
        let mut text = format!(
            "Incident {}: {}, {}, severity {}\n",
            incident.id,
            incident.target,
            incident.phase.name(),
            incident.severity
        );
        let end = self.end(now);
        let _ = writeln!(
            text,
            "opened    {} (lasted {})",
            rfc3339(incident.opened.wall),
            figures::duration(end.since(&incident.opened))
        );
        let _ = writeln!(text, "peak      {}, {}", figures::pps(incident.peak.pps), figures::bps(incident.peak.bps));
        if let Some(runbook) = &incident.runbook {
            let _ = writeln!(text, "runbook   {runbook}");
        }
        if let Some(into) = incident.merged_into {
            let _ = writeln!(text, "merged    into incident {into}");
        }
        if incident.host_count > 0 {
            let _ = writeln!(text, "hosts     {} of the prefix were attacked", incident.host_count);
        }
        for vector in &incident.vectors {
            let percent = vector.confidence * 100.0;
            let after = figures::duration(vector.first_seen.since(&incident.opened));
            let _ = writeln!(text, "vector    {} ({percent:.0} %), first seen after {after}", vector.vector);
            for evidence in &vector.evidence {
                let _ = writeln!(text, "          - {evidence}");
            }
        }
        for mitigation in self.mitigations {
            let outcome = mitigation.outcome.map_or_else(String::new, |outcome| format!(" ({outcome})"));
            let evidence = mitigation.evidence.map_or_else(String::new, |evidence| format!(", {evidence}"));
            let verdict = mitigation.effect.and_then(|effect| effect.verdict);
            let in_vain = if verdict.is_some_and(|verdict| !verdict.effective) { ", without effect" } else { "" };
            let stage = mitigation.stage.as_ref().map_or_else(String::new, |stage| format!(" for stage {stage}"));
            let _ = writeln!(
                text,
                "measure   {}: {} by {}{stage}: {}{outcome}{evidence}{in_vain}, after {}",
                mitigation.id,
                mitigation.spec,
                mitigation.driver,
                mitigation.state,
                figures::duration(mitigation.created.since(&incident.opened)),
            );
        }
        text.push_str("timeline\n");
        for entry in self.timeline {
            let after = figures::duration(entry.at.since(&incident.opened));
            let actor = entry.actor.as_ref().map_or_else(String::new, |actor| format!(" [{actor}]"));
            let _ = writeln!(text, "  {} +{after:<10} {}{actor}", rfc3339(entry.at.wall), entry.text);
        }
        if incident.entries_left_out > 0 {
            let _ = writeln!(text, "  {} more entries had no room", incident.entries_left_out);
        }
        text
    }

    /// For programs.
    pub fn json(&self, now: &Now) -> Value {
        let incident = self.incident;
        let end = self.end(now);
        json!({
            "incident": incident.id,
            "zone": incident.target.zone,
            "target": incident.target.prefix,
            "phase": incident.phase.name(),
            "severity": incident.severity,
            "opened": rfc3339(incident.opened.wall),
            "closed": matches!(incident.phase, Phase::Closed { .. }).then(|| rfc3339(end.wall)),
            "duration_s": end.since(&incident.opened).as_secs_f64(),
            "peak_pps": incident.peak.pps,
            "peak_bps": incident.peak.bps,
            "runbook": incident.runbook,
            "merged_into": incident.merged_into,
            "hosts": incident.host_count,
            "vectors": incident.vectors.iter().map(|vector| json!({
                "vector": vector.vector,
                "confidence": vector.confidence,
                "evidence": vector.evidence,
                "first_seen": rfc3339(vector.first_seen.wall),
                "last_seen": rfc3339(vector.last_seen.wall),
            })).collect::<Vec<_>>(),
            "mitigations": self.mitigations.iter().map(|mitigation| json!({
                "mitigation": mitigation.id,
                "driver": mitigation.driver,
                "kind": mitigation.spec.kind(),
                "what": mitigation.spec.to_string(),
                "stage": mitigation.stage,
                "asked_by": mitigation.asked_by.to_string(),
                "reason": mitigation.reason,
                "created": rfc3339(mitigation.created.wall),
                "state": mitigation.state,
                "outcome": mitigation.outcome,
                "evidence": mitigation.evidence,
                "effect": mitigation.effect,
                "renewals": mitigation.renewals,
                "error": mitigation.error,
            })).collect::<Vec<_>>(),
            "timeline": self.timeline.iter().map(|entry| json!({
                "at": rfc3339(entry.at.wall),
                "kind": entry.kind,
                "text": entry.text,
                "actor": entry.actor.as_ref().map(ToString::to_string),
                "stage": entry.stage,
                "mitigation": entry.mitigation,
            })).collect::<Vec<_>>(),
            "entries_left_out": incident.entries_left_out,
        })
    }

    const fn end(&self, now: &Now) -> Now {
        match self.incident.phase {
            Phase::Closed { at } => at,
            Phase::Attack | Phase::Calm(_) => *now,
        }
    }
}
